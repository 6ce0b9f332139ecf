//! Budgets of which somebody should hear: a soft threshold that was passed, a bound that refused. Told once a window, in a log
//! line and a metric, and handed to whoever sends it on. Waits for nobody.

use std::sync::{Arc, OnceLock, Weak};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{purse::Purse, window::Window};
use crate::{
    config::{Per, Scope},
    telemetry::metrics,
};

/// What happened.
#[derive(Debug, Clone)]
pub struct Alert {
    pub scope: Scope,
    pub name: Arc<str>,
    pub per: Per,
    pub window: Window,
    pub mark: Mark,
    /// Nano-dollars: settled, and the bound with raises.
    pub spent: u64,
    pub bound: u64,
    /// Where it is noted that somebody was told.
    pub(super) purse: Weak<Purse>,
}

/// What somebody was told of a budget in one window, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(u8);

/// Where alerts go.
#[derive(Debug, Default)]
pub struct Alarm(OnceLock<mpsc::Sender<Alert>>);

impl Mark {
    pub const SOFT: Mark = Mark(1);
    pub const EXHAUSTED: Mark = Mark(2);

    pub fn has(self, mark: Mark) -> bool {
        self.0 & mark.0 == mark.0
    }

    pub fn and(self, mark: Mark) -> Mark {
        Mark(self.0 | mark.0)
    }

    pub fn is_none(&self) -> bool {
        self.0 == 0
    }

    pub fn name(self) -> &'static str {
        if self == Mark::SOFT { "soft" } else { "exhausted" }
    }
}

impl Alarm {
    /// From now on they are handed on as well. Once a process.
    pub fn hear(&self) -> Option<mpsc::Receiver<Alert>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.0.set(sender).ok().map(|()| receiver)
    }

    pub fn ring(&self, alert: Alert) {
        let Alert { scope, name, per, window, mark, spent, bound, .. } = &alert;
        let (spent, bound) = (super::usd(*spent), super::usd(*bound));
        let (threshold, per, window) = (mark.name(), per.name(), &window.id);
        tracing::warn!(scope = scope.kind(), %name, per, window, threshold, spent_usd = spent, budget_usd = bound, "a budget runs out");
        metrics().budget_alert(scope.kind(), threshold);
        let unheard = match self.0.get() {
            None => Some(alert),
            Some(sender) => sender.try_send(alert).err().map(|refused| {
                tracing::warn!("too many alerts wait for the webhook: this one was only logged");
                refused.into_inner()
            }),
        };
        if let Some(alert) = unheard {
            alert.noted();
        }
    }
}

impl Alert {
    /// Whoever hears alerts has this one for good: the next start need not tell it again.
    pub fn noted(&self) {
        if let Some(purse) = self.purse.upgrade() {
            purse.noted(self.mark);
        }
    }
}

/// For the webhook.
const WAITING: usize = 1024;
