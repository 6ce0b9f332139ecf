//! How the process itself fares: memory of bodies, its size, and how late its own timers ring. Looked at beside the requests,
//! several times a second; a request reads one number. The lowest class is refused first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::shed::{GATEWAY, Reason, Shed};
use crate::config::{Overload, Urgency};

/// How many classes are refused, from the lowest, and why.
#[derive(Debug, Default)]
pub struct Pressure(AtomicU8);

impl Pressure {
    /// May a request of this class come in? One load.
    pub fn admits(&self, class: Urgency) -> Result<(), Shed> {
        let told = self.0.load(Ordering::Relaxed);
        if told == 0 {
            return Ok(());
        }
        let from_below = match class {
            Urgency::Low => 1,
            Urgency::Normal => 2,
            Urgency::High => 3,
        };
        if told & LEVELS < from_below {
            return Ok(());
        }
        let reason = if told & LAG == 0 { Reason::Memory } else { Reason::Lag };
        Err(Shed { reason, class, place: GATEWAY.into(), retry_after: REST })
    }

    /// The number of classes that are refused now.
    pub fn level(&self) -> u8 {
        self.0.load(Ordering::Relaxed) & LEVELS
    }

    #[cfg(test)]
    pub(super) fn told(level: u8, reason: Reason) -> Pressure {
        let pressure = Pressure::default();
        pressure.set(level, reason);
        pressure
    }

    fn set(&self, level: u8, reason: Reason) {
        let told = if level > 0 && reason == Reason::Lag { level | LAG } else { level };
        let was = self.0.swap(told, Ordering::Relaxed);
        if told != was {
            tracing::warn!(classes = level, reason = reason.name(), "load is shed from the lowest priority on");
        }
    }

    /// Looks until `stop`. `bodies`: bytes that bodies hold, and may hold; `overload`: the settings now.
    pub async fn watch(
        self: Arc<Self>,
        bodies: impl Fn() -> (u64, u64) + Send,
        overload: impl Fn() -> Overload + Send,
        stop: CancellationToken,
    ) {
        let mut late = Late::default();
        loop {
            let due = Instant::now() + LOOK;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let lag = late.least(due.elapsed());
            let settings = overload();
            let size = settings.memory.and_then(|most| Some((resident()?, most)));
            let (level, reason) = judge(lag, settings.lag, bodies(), size);
            self.set(level, reason);
        }
    }
}

/// The last few delays of a timer: only what lasts is overload.
#[derive(Debug, Default)]
pub struct Late {
    last: [Duration; LASTING],
    at: usize,
}

impl Late {
    pub fn least(&mut self, late: Duration) -> Duration {
        self.last[self.at] = late;
        self.at = (self.at + 1) % LASTING;
        self.last.iter().min().copied().unwrap_or_default()
    }
}

/// How many classes have to stay outside.
pub fn judge(lag: Duration, most: Duration, bodies: (u64, u64), size: Option<(u64, u64)>) -> (u8, Reason) {
    let slow = match lag {
        lag if lag >= most * 4 => 3,
        lag if lag >= most * 2 => 2,
        lag if lag >= most => 1,
        _ => 0,
    };
    let full = fullness(bodies).max(size.map_or(0, fullness));
    if full >= slow { (full, Reason::Memory) } else { (slow, Reason::Lag) }
}

fn fullness((used, most): (u64, u64)) -> u8 {
    match used.saturating_mul(100) / most.max(1) {
        97.. => 3,
        90.. => 2,
        80.. => 1,
        _ => 0,
    }
}

/// Bytes of this process in memory, where the kernel tells.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok()?.checked_mul(PAGE)
}

const LOOK: Duration = Duration::from_millis(100);
/// Half a second.
const LASTING: usize = 5;
const REST: Duration = Duration::from_secs(2);
/// The bits that hold a number of classes.
const LEVELS: u8 = 3;
const LAG: u8 = 4;
const PAGE: u64 = 4096;
