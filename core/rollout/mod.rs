//! How a version of the policy takes over from the one that runs: at once, or in shadow, then for a share of requests, then
//! for all; and how it goes back. `deploy` is the one who decides and swaps; `judge` weighs two versions' figures, `shadow`
//! compares their decisions, `begin` chooses at the start. A request meets this module once, when it takes its runtime, and
//! not at all while no version is being tried.

mod answers;
mod begin;
mod deploy;
mod judge;
mod observed;
mod progress;
mod shadow;
mod standing;
mod told;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::request::Parts;

pub use begin::{Begun, begin};
pub use deploy::{Deploy, Outcome, known};
pub use observed::Trial;
pub use standing::{Held, Standing};

use self::{
    judge::{Tally, Verdict},
    shadow::Shadow,
};
use crate::{
    auth,
    config::{self, Sticky},
    context::session_of,
    runtime::Runtime,
};

/// Where requests look for a version that is being tried: one relaxed load when there is none.
#[derive(Default)]
pub struct Slot {
    on: AtomicBool,
    now: ArcSwapOption<Rollout>,
}

/// A version that is being tried beside the one that runs.
pub struct Rollout {
    /// The version's number and hash.
    pub number: u64,
    pub hash: String,
    candidate: ArcSwap<Runtime>,
    /// Those of the version that runs.
    rules: config::Rollout,
    phase: AtomicU8,
    /// When each phase began.
    began: Instant,
    canary_began: OnceLock<Instant>,
    shadow: Shadow,
    old: Tally,
    new: Tally,
    /// Set by the first who saw that it has to go.
    doomed: OnceLock<String>,
    alarm: Arc<tokio::sync::Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Shadow = 0,
    Canary = 1,
    /// Nobody is given to it any more.
    Over = 2,
}

impl Slot {
    /// The runtime of one request: it keeps it to its end.
    #[inline]
    pub fn assign(&self, running: Arc<Runtime>, parts: &Parts) -> (Arc<Runtime>, Option<Box<Trial>>) {
        if !self.on.load(Ordering::Relaxed) {
            return (running, None);
        }
        self.tried(running, parts)
    }

    pub fn under_way(&self) -> Option<Arc<Rollout>> {
        self.now.load_full()
    }

    #[cold]
    fn tried(&self, running: Arc<Runtime>, parts: &Parts) -> (Arc<Runtime>, Option<Box<Trial>>) {
        let Some(rollout) = self.now.load_full() else { return (running, None) };
        match rollout.phase() {
            Phase::Over => (running, None),
            Phase::Shadow => (running, Some(Box::new(Trial::shadow(rollout)))),
            Phase::Canary => {
                let new = rollout.takes(parts);
                let runtime = if new { rollout.candidate.load_full() } else { running };
                (runtime, Some(Box::new(Trial::canary(rollout, new))))
            }
        }
    }

    fn set(&self, rollout: Option<Arc<Rollout>>) {
        let on = rollout.is_some();
        self.now.store(rollout);
        self.on.store(on, Ordering::Relaxed);
    }
}

impl Rollout {
    fn new(
        (number, hash): (u64, String),
        candidate: Arc<Runtime>,
        rules: config::Rollout,
        shadow: Shadow,
        alarm: Arc<tokio::sync::Notify>,
    ) -> Rollout {
        let first = if rules.shadow.is_some() { Phase::Shadow } else { Phase::Canary };
        let began = Instant::now();
        let canary_began = OnceLock::new();
        if first == Phase::Canary {
            let _ = canary_began.set(began);
        }
        Rollout {
            number,
            hash,
            candidate: ArcSwap::new(candidate),
            rules,
            phase: AtomicU8::new(first as u8),
            began,
            canary_began,
            shadow,
            old: Tally::default(),
            new: Tally::default(),
            doomed: OnceLock::new(),
            alarm,
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Shadow,
            1 => Phase::Canary,
            _ => Phase::Over,
        }
    }

    /// Does the new version serve this request? A session, or a key, keeps to what it met first.
    fn takes(&self, parts: &Parts) -> bool {
        let share = self.rules.canary.unwrap_or(1.0);
        let draw = match self.sticks_by(parts) {
            Some(hash) => hash as f64 / u64::MAX as f64,
            None => fastrand::f64(),
        };
        draw < share
    }

    /// `None`: nothing says that this request belongs to others.
    fn sticks_by(&self, parts: &Parts) -> Option<u64> {
        let credential = auth::credential(&parts.headers, parts.uri.query());
        let session = match self.rules.sticky {
            Sticky::Key => None,
            Sticky::Session => Some(session_of(&parts.headers)?),
        };
        if session.is_none() && credential.is_none() {
            return None;
        }
        // With the version's hash: not the same callers are the first each time.
        let mut hasher = DefaultHasher::new();
        self.hash.hash(&mut hasher);
        credential.hash(&mut hasher);
        session.map(|value| value.as_bytes()).hash(&mut hasher);
        Some(hasher.finish())
    }

    fn verdict(&self) -> Verdict {
        if let Some(reason) = self.doomed.get() {
            return Verdict::Revert(reason.clone());
        }
        let (stretch, old, new, what) = match self.phase() {
            Phase::Shadow => {
                let time = self.rules.shadow.unwrap_or_default();
                let last = self.rules.canary.is_none();
                let (old, new) = self.shadow.counts();
                (judge::Stretch { time, elapsed: self.began.elapsed(), last }, old, new, "decisions")
            }
            Phase::Canary | Phase::Over => {
                let elapsed = self.canary_began.get().map_or(Duration::ZERO, Instant::elapsed);
                let stretch = judge::Stretch { time: self.rules.canary_time, elapsed, last: true };
                (stretch, self.old.counts(), self.new.counts(), "requests")
            }
        };
        judge::judge(&self.rules, stretch, old, new, what)
    }

    /// From the shadow to a share of requests.
    fn to_canary(&self) {
        let _ = self.canary_began.set(Instant::now());
        self.phase.store(Phase::Canary as u8, Ordering::Relaxed);
    }

    fn over(&self) {
        self.phase.store(Phase::Over as u8, Ordering::Relaxed);
    }

    /// It has to go: from now on nobody is given to it.
    fn doom(&self, reason: String) {
        if self.doomed.set(reason).is_ok() {
            self.over();
            self.alarm.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
