//! A request that takes part in a rollout: its copy for the shadow, and how it ended. It adds nothing to the request but
//! counting; what is decided from the counts is decided elsewhere.

use std::sync::Arc;

use http::HeaderMap;

use super::{Phase, Rollout, judge};
use crate::{account::Record, codec::document::Document, context::Context};

pub struct Trial {
    rollout: Arc<Rollout>,
    /// In the canary: which side serves it.
    served: Option<Side>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

impl Trial {
    pub(super) fn shadow(rollout: Arc<Rollout>) -> Trial {
        Trial { rollout, served: None }
    }

    pub(super) fn canary(rollout: Arc<Rollout>, new: bool) -> Trial {
        Trial { rollout, served: Some(if new { Side::New } else { Side::Old }) }
    }

    /// The request is about to be decided on: a copy goes to the shadow, if there is room.
    pub fn seen(&self, cx: &Context, document: &Document, headers: &HeaderMap) {
        if self.served.is_none() {
            self.rollout.shadow.offer(cx, document, headers);
        }
    }

    /// For the trace: requests of the new version say so.
    pub fn note(&self, cx: &mut Context) {
        if self.served == Some(Side::New) {
            cx.trace.note("rollout", &format!("served by the new version v{}", self.rollout.number));
        }
    }

    /// The request is over, whatever came of it.
    pub fn ended(&self, record: &Record) {
        let Some(side) = self.served else { return };
        // Neither what met no policy (no key, a list of models) nor a client's leaving says anything about a version.
        if record.model.is_empty() || record.status == crate::exchange::CLIENT_GONE {
            return;
        }
        let rollout = &*self.rollout;
        let broke_off = record.status < 400 && record.error_code.is_some();
        let error = record.status >= 500 || broke_off;
        let took = record.first_event.unwrap_or(record.duration);
        let tally = if side == Side::New { &rollout.new } else { &rollout.old };
        tally.add(took, error, rollout.rules.p99);
        if side == Side::New && rollout.phase() == Phase::Canary {
            let found = judge::breach(&rollout.rules, rollout.old.counts(), rollout.new.counts(), "requests");
            if let Some(reason) = found {
                rollout.doom(reason);
            }
        }
    }
}
