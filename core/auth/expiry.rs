//! Points in time as users write them and as rows keep them: RFC 3339, a plain date, or a distance from now (`30d`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `30d`, `12h`, `2026-12-31T00:00:00Z` or `2026-12-31` (its first moment, UTC). Must lie in the future. The error is a
/// sentence.
pub fn parse(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let text = text.trim();
    let at = match text.as_bytes().last() {
        Some(b'Z' | b'z') | None => rfc3339(text),
        Some(last) if last.is_ascii_digit() => rfc3339(text),
        Some(_) => return now.checked_add(distance(text)?).ok_or_else(|| format!("{text} is too far away")),
    };
    let at = at.ok_or_else(|| malformed(text))?;
    if at <= now {
        return Err(format!("{text} is in the past"));
    }
    Ok(at)
}

/// `1h`, `30d`, …: a whole number and a unit (s, m, h, d, w). Zero is allowed.
pub fn distance(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let split = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(malformed(text)),
    };
    let count: u64 = number.parse().map_err(|_| malformed(text))?;
    let total = count.checked_mul(seconds).filter(|s| *s <= FARTHEST);
    total.map(Duration::from_secs).ok_or_else(|| format!("{text} is too far away"))
}

/// Whole seconds since the epoch, as rows keep time.
pub fn to_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

pub fn from_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// As the API and the lists show it.
pub fn show(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| seconds.to_string(), |t| t.to_string())
}

fn rfc3339(text: &str) -> Option<SystemTime> {
    let stamp = match text.parse::<jiff::Timestamp>() {
        Ok(stamp) => stamp,
        Err(_) => {
            let date: jiff::civil::Date = text.parse().ok()?;
            date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
        }
    };
    u64::try_from(stamp.as_second()).ok().map(from_seconds)
}

fn malformed(text: &str) -> String {
    format!("{text:?} is no point in time: write a distance (30d, 12h) or RFC 3339 (2030-12-31T00:00:00Z)")
}

/// A hundred years: more is a slip of the finger.
const FARTHEST: u64 = 100 * 366 * 86_400;
