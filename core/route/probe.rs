//! What active health checks found, by provider and by target. A check that fails counts as a failed call, and two failures in a row
//! open a breaker. One of a provider that passes proves only that somebody answers: it closes nothing, the next request does, or a
//! check of the target itself, which is a call like others. Sends nothing; `gateway/checks.rs` does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::breaker::Terms;

/// `State`: the last check of each provider and target (`provider/model`) that is checked.
#[derive(Debug, Default)]
pub struct Checks(Mutex<BTreeMap<Arc<str>, Checked>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub at: Instant,
    /// The code of its error; `None`: it was well.
    pub failed: Option<String>,
}

impl Checks {
    /// Gives what was known before.
    pub fn note(&self, name: &Arc<str>, checked: Checked) -> Option<Checked> {
        self.lock().insert(name.clone(), checked)
    }

    /// In a sentence, for traces and status pages; `None`: it is not checked.
    pub fn told(&self, name: &str, now: Instant) -> Option<String> {
        let checked = self.lock().get(name).cloned()?;
        let ago = now.saturating_duration_since(checked.at).as_secs();
        Some(match checked.failed {
            None => format!("the check {ago} s ago passed"),
            Some(code) => format!("the check {ago} s ago failed: {code}"),
        })
    }

    /// Only those that are still checked.
    pub fn keep(&self, checks: impl Fn(&str) -> bool) {
        self.lock().retain(|name, _| checks(name));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Checked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a breaker that a check failed on.
pub const TERMS: Terms = Terms {
    in_a_row: 2,
    enough: 20,
    lasting: Duration::ZERO,
    first_rest: Duration::from_secs(10),
    longest_rest: Duration::from_secs(300),
};
