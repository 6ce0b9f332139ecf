//! Windows of the wall clock in a zone: minutes, hours, days and months, with days of 23 and 25 hours where clocks change.
//! Pure: times and a zone in, minutes out.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, ToSpan, Zoned, civil::Date, tz::TimeZone};

use crate::account::minute::Minute;

/// How long windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    Minute,
    Hour,
    Day,
    Month,
}

/// One window, as far as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Its begin, as people write it.
    pub label: Option<String>,
    pub from: Minute,
    pub to: Minute,
}

impl Bucket {
    pub const NAMES: [&'static str; 4] = ["minute", "hour", "day", "month"];

    pub fn named(name: &str) -> Option<Bucket> {
        [Bucket::Minute, Bucket::Hour, Bucket::Day, Bucket::Month].into_iter().find(|bucket| bucket.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Bucket::Minute => "minute",
            Bucket::Hour => "hour",
            Bucket::Day => "day",
            Bucket::Month => "month",
        }
    }

    /// So long a time when nobody says which.
    pub(super) fn usual(self) -> Duration {
        let hours = match self {
            Bucket::Minute => 1,
            Bucket::Hour => 24,
            Bucket::Day => 30 * 24,
            Bucket::Month => 365 * 24,
        };
        Duration::from_secs(hours * 3600)
    }

    /// The begin of the window that a time lies in.
    fn begin(self, at: &Zoned) -> Option<Zoned> {
        let midnight = |date: Date| date.to_zoned(at.time_zone().clone()).ok();
        match self {
            // Clocks are set by whole quarters of an hour: what was since the last full hour of this offset is arithmetic.
            Bucket::Minute | Bucket::Hour => {
                let span = if self == Bucket::Minute { 60 } else { 3600 };
                let local = at.timestamp().as_second() + i64::from(at.offset().seconds());
                let begin = at.timestamp().as_second() - local.rem_euclid(span);
                Some(Timestamp::from_second(begin).ok()?.to_zoned(at.time_zone().clone()))
            }
            Bucket::Day => midnight(at.date()),
            Bucket::Month => midnight(at.date().first_of_month()),
        }
    }

    fn next(self, begin: &Zoned) -> Option<Zoned> {
        match self {
            Bucket::Minute => begin.checked_add(1.minute()).ok(),
            Bucket::Hour => begin.checked_add(1.hour()).ok(),
            Bucket::Day => begin.date().tomorrow().ok()?.to_zoned(begin.time_zone().clone()).ok(),
            Bucket::Month => {
                let next = begin.date().checked_add(1.month()).ok()?;
                next.first_of_month().to_zoned(begin.time_zone().clone()).ok()
            }
        }
    }

    fn label(self, begin: &Zoned) -> String {
        match self {
            Bucket::Minute | Bucket::Hour if begin.offset().is_zero() => begin.strftime("%Y-%m-%dT%H:%MZ").to_string(),
            // The offset tells the hour that is there twice from itself.
            Bucket::Minute | Bucket::Hour => begin.strftime("%Y-%m-%dT%H:%M%:z").to_string(),
            Bucket::Day => begin.strftime("%Y-%m-%d").to_string(),
            Bucket::Month => begin.strftime("%Y-%m").to_string(),
        }
    }
}

/// All windows that a time touches, at most `most`. `minutes`: the same time as sums are kept.
pub(super) fn all(
    bucket: Bucket,
    zone: &TimeZone,
    (from, to): (SystemTime, SystemTime),
    minutes: (Minute, Minute),
    most: usize,
) -> Vec<Window> {
    let mut windows = Vec::new();
    let first = Timestamp::try_from(from).ok().and_then(|at| bucket.begin(&at.to_zoned(zone.clone())));
    let mut next = first;
    while let Some(begin) = next.take() {
        if SystemTime::from(begin.timestamp()) >= to || windows.len() == most {
            break;
        }
        let Some(end) = bucket.next(&begin) else { break };
        let (start, stop) = (minute(&begin).max(minutes.0), minute(&end).min(minutes.1));
        windows.push(Window { label: Some(bucket.label(&begin)), from: start, to: stop });
        next = Some(end);
    }
    windows
}

fn minute(at: &Zoned) -> Minute {
    Minute::of(at.timestamp().into())
}

/// A zone of the database.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    if name.eq_ignore_ascii_case("utc") || name == "Z" { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() }
}

/// A time, or the begin of a day in that zone.
pub(super) fn time(text: &str, zone: &TimeZone) -> Option<SystemTime> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.into());
    }
    let day = text.parse::<Date>().ok().filter(|_| text.len() == 10)?;
    Some(day.to_zoned(zone.clone()).ok()?.timestamp().into())
}
