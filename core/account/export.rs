//! The ledger from first to last, for exports: lines as they were written, and a line of CSV for each attempt. Read piece by
//! piece, so that years fit through; blocks, so it runs beside the runtime's threads.

use std::{sync::PoisonError, time::SystemTime};

use serde_json::Value;

use super::{archive, hour::Hour, ledger::Ledger, report::table};
use crate::{model::Units, store::Result, telemetry::row::HEAD};

impl Ledger {
    /// Requests that were settled from `from` up to `to`, oldest first, until `f` says `false`.
    pub fn lines(&self, from: SystemTime, to: SystemTime, mut f: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let (first, last) = (Hour::of(from), Hour::of(to));
        let within = |line: &[u8]| settled(line).is_some_and(|at| at >= from && at < to);
        let Some(files) = &self.files else {
            // Nothing is kept: the last ones are in memory.
            let (rows, _) = self.ring.page(None, usize::MAX, |line| within(line).then(|| line.to_vec()));
            rows.iter().rev().all(|(_, line)| f(line.trim_ascii_end()));
            return Ok(());
        };
        for hour in archive::hours(files)?.into_iter().filter(|hour| *hour >= first && *hour <= last) {
            let inner = hour > first && hour < last;
            let lines = {
                let _layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
                archive::Lines::open(files, hour)?
            };
            let mut at = 0;
            while let Some((piece, next)) = lines.after(at)? {
                let wanted = piece.split(|b| *b == b'\n').filter(|line| !line.is_empty() && (inner || within(line)));
                for line in wanted {
                    if !f(line) {
                        return Ok(());
                    }
                }
                at = next;
            }
        }
        Ok(())
    }
}

/// When the request of a line was settled: it stands behind the id.
pub(super) fn settled(line: &[u8]) -> Option<SystemTime> {
    let rest = line.strip_prefix(HEAD)?;
    let rest = &rest[memchr::memmem::find(rest, TIME)? + TIME.len()..];
    let text = std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()?;
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// May somebody who may not see everything see this line?
pub fn is_seen(line: &[u8], sees: impl FnOnce(Option<&str>, Option<&str>) -> bool) -> bool {
    #[derive(serde::Deserialize)]
    struct Whose {
        team: Option<String>,
        key_id: Option<String>,
    }
    let whose = serde_json::from_slice::<Whose>(line);
    whose.is_ok_and(|whose| sees(whose.team.as_deref(), whose.key_id.as_deref()))
}

/// The columns of `attempts`.
pub fn head() -> Vec<u8> {
    table::record(REQUEST.iter().chain(&ATTEMPT).chain(&TOKENS).copied().chain(units()))
}

/// A line of the ledger as lines of CSV: one an attempt, one without figures for a request that had none.
pub fn attempts(line: &[u8]) -> Vec<u8> {
    let Ok(row) = serde_json::from_slice::<Value>(line) else { return Vec::new() };
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => table::text(text),
        Value::Object(tags) => {
            let tags = tags.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or("")));
            table::text(&tags.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    };
    let mut out = Vec::new();
    let mut put = |attempt: &Value| {
        let request = REQUEST.iter().map(|name| cell(&row[*name]));
        let own =
            ATTEMPT.iter().map(|name| cell(if *name == "attempt" { &attempt["number"] } else { &attempt[*name] }));
        let usage = TOKENS.iter().copied().chain(units()).map(|name| cell(&attempt["usage"][name]));
        out.extend(table::record(request.chain(own).chain(usage)));
    };
    match row["ledger"].as_array().map(Vec::as_slice) {
        Some([]) | None => put(&Value::Null),
        Some(attempts) => attempts.iter().for_each(put),
    }
    out
}

/// Names of what is counted besides tokens.
fn units() -> impl Iterator<Item = &'static str> {
    Units::default().named().map(|(name, _)| name).into_iter()
}

const TIME: &[u8] = b"\"time\":\"";
const REQUEST: [&str; 13] = [
    "id",
    "time",
    "organisation",
    "team",
    "user",
    "key_id",
    "model",
    "operation",
    "format",
    "status",
    "error_code",
    "duration_ms",
    "tags",
];
const ATTEMPT: [&str; 7] = ["attempt", "target", "outcome", "cost_usd", "price", "estimated", "took_ms"];
const TOKENS: [&str; 11] = [
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "billed_input_tokens",
    "billed_output_tokens",
    "service_tier",
];
