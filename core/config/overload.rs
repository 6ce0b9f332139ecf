//! When more is asked than can be served, resolved: the bounds of the gateway and of its targets. Plain data.

use std::time::Duration;

/// `[overload]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overload {
    pub max_in_flight: u64,
    /// How many may wait, at the gateway and at each target.
    pub queue: usize,
    /// The longest wait for a turn.
    pub wait: Duration,
    /// Bytes of the process.
    pub memory: Option<u64>,
    /// How late its timers may ring.
    pub lag: Duration,
}

impl Default for Overload {
    fn default() -> Self {
        Overload {
            max_in_flight: 16_384,
            queue: 1_000,
            wait: Duration::from_secs(10),
            memory: None,
            lag: Duration::from_millis(500),
        }
    }
}

/// How many calls a target takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    Fixed(u64),
    /// Learnt from how it answers.
    Adaptive,
}
