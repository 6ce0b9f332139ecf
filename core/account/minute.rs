//! A minute of the wall clock, UTC: the finest window that sums are kept by. Coarser ones are named by the minute in which
//! they begin.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::hour::Hour;

/// Minutes since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Minute(pub u32);

impl Minute {
    pub const MAX: Minute = Minute(u32::MAX);

    /// That a moment lies in.
    pub fn of(at: SystemTime) -> Minute {
        Minute::from_millis(at.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0)))
    }

    /// The first that does not begin before a moment.
    pub fn not_before(at: SystemTime) -> Minute {
        let minute = Minute::of(at);
        if minute.start() < at { minute.plus(1) } else { minute }
    }

    /// When a request began: its id starts with the milliseconds.
    pub fn of_id(id: &str) -> Option<Minute> {
        let millis = u64::from_str_radix(id.strip_prefix("req_")?.get(..12)?, 16).ok()?;
        Some(Minute::from_millis(millis))
    }

    fn from_millis(millis: u64) -> Minute {
        Minute(u32::try_from(millis / 60_000).unwrap_or(u32::MAX))
    }

    pub fn start(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::from(self.0) * 60)
    }

    pub fn minus(self, minutes: u32) -> Minute {
        Minute(self.0.saturating_sub(minutes))
    }

    pub fn plus(self, minutes: u32) -> Minute {
        Minute(self.0.saturating_add(minutes))
    }

    /// The beginning of the window of so many minutes that it lies in.
    pub fn within(self, span: u32) -> Minute {
        Minute(self.0 - self.0 % span)
    }

    pub fn hour(self) -> Hour {
        Hour(self.0 / 60)
    }
}

impl From<Hour> for Minute {
    fn from(hour: Hour) -> Minute {
        Minute(hour.0.saturating_mul(60))
    }
}
