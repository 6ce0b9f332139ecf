//! Refusals for want of room: what is counted of them and what their callers are told. The wait that they are told is what the
//! queue needs to drain at the pace that was measured.

use std::time::Duration;

use crate::{
    config::Urgency,
    error::{Error, Kind},
    telemetry::metrics,
};

/// Somebody was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Shed {
    pub reason: Reason,
    pub class: Urgency,
    /// `gateway`, or the target's name.
    pub place: std::sync::Arc<str>,
    pub retry_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no room in the queue.
    Full,
    /// It gave way to somebody of a higher class, or to a team that has less in the queue.
    Displaced,
    /// At the queue's pace its turn would come too late.
    TooLong,
    /// Its turn did not come in time.
    Late,
    /// The process holds too much memory.
    Memory,
    /// The process is too slow to notice what happens.
    Lag,
}

impl Reason {
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Full => "queue_full",
            Reason::Displaced => "displaced",
            Reason::TooLong => "too_long",
            Reason::Late => "timeout",
            Reason::Memory => "memory",
            Reason::Lag => "lag",
        }
    }
}

impl Shed {
    /// Counted, and said in the caller's words.
    pub fn told(self) -> Error {
        let Shed { reason, class, place, retry_after } = self;
        let gateway = &*place == GATEWAY;
        metrics().shed(if gateway { GATEWAY } else { "target" }, class.name(), reason.name());
        let wait = whole_seconds(retry_after);
        let who = if gateway { "the gateway" } else { &place };
        let why = match reason {
            Reason::Full => format!("{who} is busy and its queue is full"),
            Reason::Displaced => format!("{who} is busy, and requests of a higher priority or of other teams go first"),
            Reason::TooLong => format!("{who} is busy, and a turn would come too late"),
            Reason::Late => format!("{who} is busy, and no turn came in time"),
            Reason::Memory => format!("{who} is short of memory"),
            Reason::Lag => format!("{who} is overloaded"),
        };
        Error::new(Kind::Overloaded, format!("{why}; try again in {} s", wait.as_secs())).retry_after(wait)
    }
}

/// At least one, because a header has no fractions.
fn whole_seconds(wait: Duration) -> Duration {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Duration::from_secs(seconds.max(1))
}

/// The name of the gateway's own places.
pub const GATEWAY: &str = "gateway";
