//! A budget's windows of the wall clock, UTC: days, ISO weeks, months, or one for all time. A counter carries its window
//! in its key, so that nothing has to be reset and nothing is lost at midnight. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A day by its number since 1970.
fn civil(days: i64) -> jiff::civil::Date {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.saturating_add(jiff::Span::new().try_days(days).unwrap_or_default())
}

fn day(number: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(number).unwrap_or(0) * DAY)
}

const DAY: u64 = 86_400;
