//! `[rollout]`: the phases that a new version passes.

use std::time::Duration;

use super::{Resolver, path};
use crate::config::{Rollout, Sticky, file};

impl Resolver<'_, '_, '_> {
    pub(super) fn rollout(&mut self, raw: Option<file::Rollout>) -> Option<Rollout> {
        let raw = raw?;
        let at = |key: &str| path(&["rollout", key]);
        let named = |key: &str| self.around.source.has(&at(key));
        if !named("shadow") && !named("canary") {
            let message = "`rollout` needs `shadow = \"10m\"`, `canary = 0.05` or both; without the table a change is live at \
                           once";
            self.fault_at_key(&path(&["rollout"]), message);
        }
        if raw.canary == Some(0.0) {
            self.tell(&at("canary"), "`rollout.canary` must be more than 0: leave it out to go from the shadow to all");
        }
        let revert_on = raw.revert_on.unwrap_or_default();
        Some(Rollout {
            shadow: self.span(&at("shadow"), raw.shadow),
            canary: raw.canary,
            canary_time: self.span(&at("canary_time"), raw.canary_time).unwrap_or(CANARY_TIME),
            min_requests: raw.min_requests.map_or(MIN_REQUESTS, u64::from),
            sticky: match raw.sticky {
                Some(file::Sticky::Key) => Sticky::Key,
                Some(file::Sticky::Session) | None => Sticky::Session,
            },
            error_rate: revert_on.error_rate,
            p99: revert_on.p99_ms.map(Duration::from_millis),
        })
    }
}

const CANARY_TIME: Duration = Duration::from_secs(600);
const MIN_REQUESTS: u64 = 50;
