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
    /// Vectors are kept too.
    pub embeddings: bool,
    /// What lies behind memory.
    pub persist: Persist,
    /// Bytes of all answers there.
    pub max_size: u64,
    /// The stage stands in the list: there is something to keep.
    pub listed: bool,
}

/// Where answers lie that memory has no room for, or forgot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persist {
    /// Nowhere: they end with the process.
    Memory,
    /// In the data directory, for this gateway.
    Files,
    /// In Redis, for all gateways that share it.
    Redis,
}

impl Persist {
    /// Bytes of all answers there, where nobody says otherwise.
    pub const fn max_size(self) -> u64 {
        match self {
            Persist::Memory | Persist::Files => 1 << 30,
            Persist::Redis => 256 << 20,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            ttl: Duration::from_secs(3600),
            memory: 64 << 20,
            max_answer: 1 << 20,
            sampled: true,
            single_flight: true,
            embeddings: false,
            persist: Persist::Memory,
            max_size: Persist::Memory.max_size(),
            listed: false,
        }
    }
}
