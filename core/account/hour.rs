//! An hour of the wall clock, UTC: the window of the ledger's files and sums. Windows carry their time in their names, so
//! nothing is ever reset and a clock that jumps only changes which window is written.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Hours since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hour(pub u32);

impl Hour {
    pub fn of(at: SystemTime) -> Hour {
        let secs = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Hour(u32::try_from(secs / 3600).unwrap_or(u32::MAX))
    }

    /// When a request began: its id starts with the milliseconds.
    pub fn of_id(id: &str) -> Option<Hour> {
        let millis = u64::from_str_radix(id.strip_prefix("req_")?.get(..12)?, 16).ok()?;
        u32::try_from(millis / 3_600_000).ok().map(Hour)
    }

    pub fn start(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::from(self.0) * 3600)
    }

    pub fn minus(self, hours: u32) -> Hour {
        Hour(self.0.saturating_sub(hours))
    }

    pub fn plus(self, hours: u32) -> Hour {
        Hour(self.0.saturating_add(hours))
    }

    /// `2026-11-25T22`
    pub fn parse(text: &str) -> Option<Hour> {
        let at: jiff::Timestamp = format!("{text}:00:00Z").parse().ok()?;
        (text.len() == 13).then(|| u32::try_from(at.as_second() / 3600).ok().map(Hour))?
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(i64::from(self.0) * 3600) {
            Ok(at) => write!(f, "{}", at.strftime("%Y-%m-%dT%H")),
            Err(_) => write!(f, "hour-{}", self.0),
        }
    }
}
