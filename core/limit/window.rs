//! Windows of the wall clock, UTC or a zone's: days, ISO weeks, months, or one for all time; and what was counted in days. A counter
//! carries its window in its key, so that nothing has to be reset and nothing is lost at midnight. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, tz::TimeZone};

use crate::config::Per;

/// One window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window {
    /// `2026-11-25`, `2026-W48`, `2026-11`, `total`: no two windows have the same.
    pub id: String,
    pub start: SystemTime,
    /// `None`: never.
    pub end: Option<SystemTime>,
}

impl Window {
    /// The window that a moment lies in.
    pub fn of(per: Per, at: SystemTime) -> Window {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let days = i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
        match per {
            Per::Total => Window { id: "total".to_owned(), start: UNIX_EPOCH, end: None },
            Per::Day => Window::days(civil(days).to_string(), days, days + 1),
            Per::Week => {
                // The epoch was a Thursday: three days after a Monday.
                let monday = (days + 3) / 7 * 7 - 3;
                let week = civil(days).iso_week_date();
                Window::days(format!("{}-W{:02}", week.year(), week.week()), monday, monday + 7)
            }
            Per::Month => {
                let date = civil(days);
                let first = days - i64::from(date.day()) + 1;
                let id = format!("{}-{:02}", date.year(), date.month());
                Window::days(id, first, first + i64::from(date.days_in_month()))
            }
        }
    }

    /// The same by the calendar of a zone: days of 23 and 25 hours among them.
    pub fn in_zone(per: Per, at: SystemTime, zone: &TimeZone) -> Window {
        let Ok(moment) = Timestamp::try_from(at) else { return Window::of(per, at) };
        // What its clocks show, taken for UTC and back.
        let shown = moment.to_zoned(zone.clone()).datetime();
        let Ok(shown) = shown.to_zoned(TimeZone::UTC) else { return Window::of(per, at) };
        let window = Window::of(per, shown.timestamp().into());
        let begins = |midnight: SystemTime| {
            let day = i64::from(day_of(midnight));
            civil(day).to_zoned(zone.clone()).map_or(midnight, |day| day.timestamp().into())
        };
        Window { id: window.id, start: begins(window.start), end: window.end.map(begins) }
    }

    fn days(id: String, from: i64, to: i64) -> Window {
        Window { id, start: day(from), end: Some(day(to)) }
    }

    pub fn holds(&self, at: SystemTime) -> bool {
        self.start <= at && self.end.is_none_or(|end| at < end)
    }

    /// Until its end.
    pub fn ends_in(&self, now: SystemTime) -> Option<Duration> {
        Some(self.end?.duration_since(now).unwrap_or_default())
    }
}

/// What was taken in a few days: those that a clock may still stand in, and requests be settled in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Days([(u32, u64); KEPT]);

impl Days {
    /// Takes so much in this day; `false`: it does not fit.
    pub fn take(&mut self, day: u32, cost: u64, most: u64) -> bool {
        let fits = self.fits(day, cost, most);
        if fits {
            self.set(day, self.of(day) + cost);
        }
        fits
    }

    pub fn fits(&self, day: u32, cost: u64, most: u64) -> bool {
        self.of(day).saturating_add(cost) <= most
    }

    /// What was taken that day turned out to be another amount.
    pub fn correct(&mut self, day: u32, taken: u64, used: u64) {
        self.set(day, self.of(day).saturating_sub(taken).saturating_add(used));
    }

    /// Day by day what is more than in `other`.
    pub fn without(&self, other: &Days) -> Days {
        Days(self.0.map(|(day, used)| (day, used.saturating_sub(other.of(day)))))
    }

    pub fn of(&self, day: u32) -> u64 {
        self.0.iter().find(|(own, _)| *own == day).map_or(0, |(_, used)| *used)
    }

    /// In the place of the oldest one.
    pub fn set(&mut self, day: u32, used: u64) {
        let known = self.0.iter().position(|(own, _)| *own == day);
        let oldest = || (0..KEPT).min_by_key(|at| self.0[*at].0);
        if let Some(at) = known.or_else(oldest) {
            self.0[at] = (day, used);
        }
    }

    /// Those in which anything was taken.
    pub fn all(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().copied().filter(|(_, used)| *used > 0)
    }
}

/// A moment's day, counted from 1970.
pub fn day_of(at: SystemTime) -> u32 {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    u32::try_from(seconds / DAY).unwrap_or(u32::MAX)
}

/// Until the day ends.
pub fn rest_of_day(at: SystemTime) -> Duration {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Duration::from_secs(DAY - seconds % DAY)
}

/// A day by its number since 1970.
fn civil(days: i64) -> jiff::civil::Date {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.saturating_add(jiff::Span::new().try_days(days).unwrap_or_default())
}

fn day(number: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(number).unwrap_or(0) * DAY)
}

const DAY: u64 = 86_400;
/// Yesterday, today, and the day that a clock went wrong to.
const KEPT: usize = 3;
