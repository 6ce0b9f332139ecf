//! `[cache]`, resolved. Plain values.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// From then on an answer is too old: 1 h.
    pub ttl: Duration,
    /// Bytes of all answers in memory: 64 MiB.
    pub memory: u64,
    /// Bytes of one answer: 1 MiB.
    pub max_answer: usize,
    /// Answers that were drawn by lot are kept too.
    pub sampled: bool,
    /// Equal requests fly once.
    pub single_flight: bool,
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            ttl: Duration::from_secs(3600),
            memory: 64 << 20,
            max_answer: 1 << 20,
            sampled: true,
            single_flight: true,
        }
    }
}
