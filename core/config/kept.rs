//! What the gateway keeps of requests and for how long.

use std::time::Duration;

/// `[records]`: how long lines of the ledger are kept, and sums of usage by more than the team.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Records {
    pub keep: Duration,
    pub usage: Duration,
    /// What requests and answers said is kept, sealed.
    pub bodies: bool,
}

impl Default for Records {
    fn default() -> Self {
        Records { keep: Duration::from_secs(30 * 86_400), usage: Duration::from_secs(366 * 86_400), bodies: false }
    }
}

/// `[responses]`: answers that callers want kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Responses {
    pub keep: Duration,
    /// Bytes on the disk, of all tenants.
    pub max_size: u64,
    /// Bytes of the newest ones in memory.
    pub memory: u64,
    /// They outlive the process.
    pub persist: bool,
}

impl Default for Responses {
    fn default() -> Self {
        Responses { keep: Duration::from_secs(30 * 86_400), max_size: 1 << 30, memory: 64 << 20, persist: true }
    }
}
