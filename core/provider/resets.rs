//! When a provider takes requests again, out of a refusal: what each family says of it in headers and bodies. Pure; what it says
//! is believed or not by `quota`.
//!
//! | where | what | who says so |
//! |---|---|---|
//! | body | `resets_at`, `resets_in_seconds`, `reset_at`, `retry_after…` beside the error | subscriptions, resellers |
//! | body | a violated quota whose id says `PerDay`: midnight in California | Gemini |
//! | body | `retryDelay` of a `RetryInfo` | Gemini, also by its OpenAI-compatible interface |
//! | body | `usage limit reached…\|1796083200`, `regain access on 2026-12-01 at 00:00 UTC`, `until 2026-12-01T00:00:00Z` | spend and usage limits |
//! | header | `retry-after-ms`, `retry-after` in seconds or as a date | all |
//! | header | `…ratelimit…reset…` whose `…remaining…` is 0, as a duration, seconds, a moment or milliseconds | OpenAI, Azure, Anthropic, Groq and others |
//! | body | `try again in 6m0s` | OpenAI |
//! | header | `x-ratelimit-reset`, `ratelimit-reset` without a `remaining` | others |
//! | header | `ratelimit: "default";r=0;t=30` | who follows the IETF's later drafts |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::Value;

/// How long to wait, as the refusal says it; `None`: it says nothing. Moments that have passed say nothing either.
pub fn of(headers: &HeaderMap, body: &[u8], now: SystemTime) -> Option<Duration> {
    let body = &body[..body.len().min(MOST_BODY)];
    let tree = serde_json::from_slice::<Value>(body).ok();
    let text = String::from_utf8_lossy(body);
    let stated = tree.as_ref().and_then(|tree| stated(tree, now, DEPTH));
    stated
        .or_else(|| tree.as_ref().and_then(|tree| daily(tree, now)))
        .or_else(|| written(&text, now))
        .or_else(|| tree.as_ref().and_then(delayed))
        .or_else(|| retry_after(headers, now))
        .or_else(|| families(headers, now, true))
        .or_else(|| listed(headers))
        .or_else(|| again_in(&text))
        .or_else(|| families(headers, now, false))
}

/// Of a refusal that is no 429, and means that what was granted is used up all the same.
pub fn is_usage_limit(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&body[..body.len().min(MOST_BODY)]).to_ascii_lowercase();
    ["usage limit", "usage_limit", "regain access"].iter().any(|words| text.contains(words))
}

/// Fields beside the error's message.
fn stated(tree: &Value, now: SystemTime, depth: u8) -> Option<Duration> {
    let fields = match tree {
        Value::Object(fields) => fields,
        Value::Array(items) if depth > 0 => {
            return items.iter().take(MOST_ITEMS).find_map(|item| stated(item, now, depth - 1));
        }
        _ => return None,
    };
    let own = fields.iter().take(MOST_ITEMS).find_map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let number = || match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse::<f64>().ok(),
            _ => None,
        };
        match name.as_str() {
            "resets_at" | "reset_at" | "resetsat" | "x-ratelimit-reset" => match value {
                Value::String(text) => number().and_then(|n| moment(n, now)).or_else(|| dated(text, now)),
                _ => number().and_then(|n| moment(n, now)),
            },
            "resets_in_seconds" | "reset_in_seconds" | "resets_in" | "retry_after" | "retry_after_seconds" => {
                number().and_then(seconds)
            }
            "retry_after_ms" => number().and_then(|ms| seconds(ms / 1000.0)),
            _ => None,
        }
    });
    own.or_else(|| {
        let inside = fields.iter().take(MOST_ITEMS).filter(|(_, value)| value.is_object() || value.is_array());
        inside.filter(|_| depth > 0).find_map(|(_, value)| stated(value, now, depth - 1))
    })
}

/// A quota of a day that Gemini's API names: its days begin at midnight in California, whatever its `RetryInfo` says.
fn daily(tree: &Value, now: SystemTime) -> Option<Duration> {
    let error = tree.get(0).unwrap_or(tree).get("error")?;
    let violations = error.get("details")?.as_array()?.iter().take(MOST_ITEMS);
    let mut violated = violations.filter_map(|detail| detail.get("violations")?.as_array()).flatten();
    let by_day = |v: &Value| v.get("quotaId").and_then(Value::as_str).is_some_and(|id| id.contains("PerDay"));
    if !violated.any(by_day) {
        return None;
    }
    let here = Timestamp::try_from(now).ok()?.to_zoned(TimeZone::get("America/Los_Angeles").ok()?);
    let midnight = here.checked_add(1.day()).ok()?.start_of_day().ok()?;
    ahead(midnight.timestamp().into(), now)
}

/// A `google.rpc.RetryInfo` among the details of an error, or of a list of one, as Gemini's OpenAI-compatible interface has it.
fn delayed(tree: &Value) -> Option<Duration> {
    let details = tree.get(0).unwrap_or(tree).get("error")?.get("details")?.as_array()?;
    let mut delays = details.iter().take(MOST_ITEMS).filter_map(|detail| detail.get("retryDelay")?.as_str());
    delays.find_map(span)
}

/// Sentences.
fn written(text: &str, now: SystemTime) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = lower.find("limit reached|") {
        let digits: String = lower[at + 14..].chars().take_while(char::is_ascii_digit).collect();
        if let Some(wait) = digits.parse::<f64>().ok().and_then(|number| moment(number, now)) {
            return Some(wait);
        }
    }
    let after = |words: &str| lower.find(words).map(|at| &lower[at + words.len()..]);
    ["regain access on ", " until ", "resets at ", "reset at ", "try again at "]
        .into_iter()
        .find_map(|words| dated(after(words)?, now))
}

/// `6m0s`, or a number with its unit behind it.
fn again_in(text: &str) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    let after = |words: &str| lower.find(words).map(|at| &lower[at + words.len()..]);
    let rest = ["try again in ", "retry in ", "retry after ", "try again after "].into_iter().find_map(after)?;
    let mut words = rest.split([' ', '"', ',', ';']);
    let (first, unit) = (words.next()?.trim_end_matches('.'), words.next().unwrap_or_default());
    let scale = match unit.trim_end_matches(|c: char| !c.is_ascii_alphabetic()) {
        "second" | "seconds" => 1.0,
        "minute" | "minutes" => 60.0,
        "hour" | "hours" => 3600.0,
        _ => return span(first),
    };
    first.parse::<f64>().map_or_else(|_| span(first), |number| seconds(number * scale))
}

fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let millis = text("retry-after-ms").and_then(|t| t.parse::<f64>().ok()).and_then(|ms| seconds(ms / 1000.0));
    millis.or_else(|| {
        let text = text("retry-after")?;
        match text.parse::<f64>() {
            Ok(number) => seconds(number),
            Err(_) => ahead(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().into(), now),
        }
    })
}

/// `exhausted`: those whose `remaining` is 0; else those that have none. The longest: all of them bind.
fn families(headers: &HeaderMap, now: SystemTime, exhausted: bool) -> Option<Duration> {
    let own = |name: &str| {
        (name.contains("ratelimit") || name.contains("rate-limit")) && name.split('-').any(|word| word == "reset")
    };
    let waits = headers.iter().filter(|(name, _)| own(name.as_str())).filter_map(|(name, value)| {
        let partner = name.as_str().replace("reset", "remaining");
        let left = headers.get(partner.as_str()).map(|left| {
            // Some say -1 for what they do not know.
            left.to_str().ok().and_then(|left| left.trim().parse::<f64>().ok()).is_some_and(|left| left == 0.0)
        });
        if left.unwrap_or(!exhausted) && left.is_some() == exhausted {
            when(value.to_str().ok()?.trim(), now)
        } else {
            None
        }
    });
    waits.max()
}

/// Policies in a list, each with what remains (`r`) and the seconds until it is whole again (`t`): the longest of those that are used up.
fn listed(headers: &HeaderMap) -> Option<Duration> {
    let lists = headers.get_all("ratelimit").iter().filter_map(|value| value.to_str().ok());
    let spent = lists.flat_map(|list| list.split(',').take(MOST_ITEMS)).filter_map(|policy| {
        let number = |name: &str| {
            let mut fields = policy.split(';').filter_map(|field| field.trim().split_once('='));
            fields.find(|(own, _)| *own == name)?.1.trim().parse::<f64>().ok()
        };
        (number("r")? == 0.0).then(|| number("t")).flatten().and_then(seconds)
    });
    spent.max()
}

/// A duration, seconds, or a moment in any of the usual writings.
fn when(text: &str, now: SystemTime) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(number) => moment(number, now),
        Err(_) => span(text).or_else(|| dated(text, now)),
    }
}

/// Seconds from now, or since 1970, or milliseconds since then.
fn moment(number: f64, now: SystemTime) -> Option<Duration> {
    match number {
        n if !n.is_finite() || n < 0.0 => None,
        n if n < A_MOMENT => seconds(n),
        n if n < A_MOMENT * 1000.0 => ahead(UNIX_EPOCH + Duration::from_secs_f64(n), now),
        n if n < A_MOMENT * 1e6 => ahead(UNIX_EPOCH + Duration::from_secs_f64(n / 1000.0), now),
        _ => None,
    }
}

fn seconds(number: f64) -> Option<Duration> {
    (number.is_finite() && (0.0..1e15).contains(&number)).then(|| Duration::from_secs_f64(number))
}

/// `6m0s`, `17ms`, `7.66s`, `1d2h`.
fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..];
        let (scale, length) = match unit {
            u if u.starts_with("ms") => (0.001, 2),
            u if u.starts_with("us") => (1e-6, 2),
            u if u.starts_with('s') => (1.0, 1),
            u if u.starts_with('m') => (60.0, 1),
            u if u.starts_with('h') => (3600.0, 1),
            u if u.starts_with('d') => (86_400.0, 1),
            _ => return None,
        };
        total += number * scale;
        rest = &unit[length..];
    }
    seconds(total)
}

/// A moment at the beginning of a text: RFC 3339, or a date and a time of day in UTC.
fn dated(text: &str, now: SystemTime) -> Option<Duration> {
    let head: String = text.chars().take(40).collect();
    let upper = head.to_ascii_uppercase();
    let first = upper.split(['"', ',', ';', ')']).next()?.trim();
    let mut words = first.split_whitespace();
    let date = words.next()?.trim_end_matches('.');
    if let Ok(moment) = date.parse::<Timestamp>() {
        return ahead(moment.into(), now);
    }
    let date = date.parse::<jiff::civil::Date>().ok()?;
    let time = words.find(|word| *word != "AT").unwrap_or("00:00");
    let time = time.trim_end_matches(['Z', '.']);
    let time = if time.matches(':').count() == 1 { format!("{time}:00") } else { time.to_owned() };
    let time = time.parse::<jiff::civil::Time>().ok()?;
    let moment = date.to_datetime(time).to_zoned(TimeZone::UTC).ok()?;
    ahead(moment.timestamp().into(), now)
}

fn ahead(at: SystemTime, now: SystemTime) -> Option<Duration> {
    at.duration_since(now).ok().filter(|wait| !wait.is_zero())
}

/// Of a body.
const MOST_BODY: usize = 64 << 10;
const MOST_ITEMS: usize = 64;
const DEPTH: u8 = 4;
/// Seconds from now end here, and moments begin.
const A_MOMENT: f64 = 1e9;

#[cfg(test)]
#[path = "resets_tests.rs"]
mod tests;
