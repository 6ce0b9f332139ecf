//! A record as one line of JSON, written straight into a buffer: this is what the ledger's files hold and what the API
//! shows. No prompt text and no secret ever stands in a record.

mod facts;
mod text;

use std::time::{Duration, SystemTime};

pub(super) use self::text::text;
use crate::{
    account::{Attempt, Record, price::write_usd},
    context::{Step, Trace, Verdict},
    model::Usage,
};

/// When requests were settled, as rows tell it: written once for a batch.
pub struct Stamp(String);

impl Stamp {
    pub fn of(at: SystemTime) -> Stamp {
        Stamp(jiff::Timestamp::try_from(at).map_or_else(|_| "null".to_owned(), |at| format!("\"{at:.3}\"")))
    }
}

/// A comma and a name that is known here, in one piece: a row has fifty of them.
macro_rules! key {
    ($name:literal, $out:expr) => {
        $out.extend_from_slice(concat!(",\"", $name, "\":").as_bytes())
    };
}

/// How a line begins, up to its id.
pub const HEAD: &[u8] = b"{\"id\":\"";

/// One request's facts, what is unknown as null, and its trace. `at`: when it was settled.
pub fn write(record: &Record, trace: Option<&Trace>, at: &Stamp, out: &mut Vec<u8>) {
    let Record {
        id,
        key_id,
        team,
        user,
        organisation,
        operation,
        format,
        model,
        target,
        attempts,
        status,
        error_code,
        stream,
        finish_reason,
        usage,
        cost_nano_usd,
        cost_unknown,
        ledger,
        duration,
        first_event,
        upstream_duration,
        tags,
        cache,
        saved_nano_usd,
        experiment,
        bodies: _,
    } = record;
    // The id stands first: indexes and the ring look for it there.
    out.extend_from_slice(&HEAD[..HEAD.len() - 1]);
    text(id, out);
    key!("time", out);
    out.extend_from_slice(at.0.as_bytes());
    key!("key_id", out);
    maybe((!key_id.is_empty()).then_some(&**key_id), out);
    key!("team", out);
    maybe(team.as_deref(), out);
    // Those stand there where they are known.
    for (key, value) in [("user", user), ("organisation", organisation)] {
        if let Some(value) = value {
            name(key, out);
            text(value, out);
        }
    }
    key!("operation", out);
    text(operation.name(), out);
    key!("format", out);
    text(format.name(), out);
    key!("model", out);
    text(model, out);
    key!("target", out);
    maybe(target.as_deref(), out);
    key!("attempts", out);
    number(u64::from(*attempts), out);
    key!("status", out);
    number(u64::from(*status), out);
    key!("error_code", out);
    maybe(error_code.as_deref(), out);
    key!("stream", out);
    boolean(*stream, out);
    key!("finish_reason", out);
    maybe(*finish_reason, out);
    key!("usage", out);
    tokens(usage.as_ref(), out);
    key!("cost_usd", out);
    usd(*cost_nano_usd, out);
    key!("cost_unknown", out);
    boolean(*cost_unknown, out);
    key!("duration_ms", out);
    millis(*duration, out);
    key!("first_event_ms", out);
    match first_event {
        Some(first) => millis(*first, out),
        None => null(out),
    }
    key!("upstream_ms", out);
    millis(*upstream_duration, out);
    key!("tags", out);
    out.push(b'{');
    for (n, (key, value)) in tags.iter().enumerate() {
        comma(n, out);
        text(key, out);
        out.push(b':');
        text(value, out);
    }
    out.push(b'}');
    // Those stand there where there was a cache in the way.
    if let Some(cache) = cache {
        key!("cache", out);
        text(cache, out);
        if saved_nano_usd.is_some() {
            key!("saved_usd", out);
            usd(*saved_nano_usd, out);
        }
    }
    if let Some(mark) = experiment {
        key!("experiment", out);
        facts::mark(mark, out);
    }
    key!("ledger", out);
    list(ledger, out, attempt);
    if let Some(trace) = trace {
        key!("trace", out);
        list(&trace.steps, out, step);
    }
    out.push(b'}');
}

/// The steps in order: `[{"step": "stage", …}, …]`.
pub fn write_trace(trace: &Trace, out: &mut Vec<u8>) {
    list(&trace.steps, out, step);
}

fn attempt(row: &Attempt, out: &mut Vec<u8>) {
    let Attempt { number: n, target, outcome, usage, cost_nano_usd, price, estimated, took } = row;
    out.extend_from_slice(b"{\"number\":");
    number(u64::from(*n), out);
    key!("target", out);
    text(target, out);
    key!("outcome", out);
    text(outcome, out);
    key!("usage", out);
    tokens(usage.as_ref(), out);
    key!("cost_usd", out);
    usd(*cost_nano_usd, out);
    if let Some(price) = price {
        key!("price", out);
        text(&price.to_string(), out);
    }
    if *estimated {
        key!("estimated", out);
        boolean(true, out);
    }
    key!("took_ms", out);
    millis(*took, out);
    out.push(b'}');
}

fn step(step: &Step, out: &mut Vec<u8>) {
    let kind = |word: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(b"{\"step\":");
        text(word, out);
    };
    match step {
        Step::Stage { stage, phase, verdict, took, operations, memory, calls, line, slow } => {
            kind("stage", out);
            key!("stage", out);
            text(stage, out);
            key!("phase", out);
            text(phase, out);
            key!("took_us", out);
            number(micros(*took), out);
            key!("verdict", out);
            text(verdict_word(verdict), out);
            match verdict {
                Verdict::Reject(status) => {
                    key!("status", out);
                    number(u64::from(*status), out);
                }
                Verdict::Next(why) | Verdict::Stop(why) | Verdict::Failed(why) => {
                    key!("reason", out);
                    text(why, out);
                }
                Verdict::Continue | Verdict::Respond | Verdict::Skip => {}
            }
            known("operations", *operations, out);
            known("memory_bytes", *memory, out);
            known("line", u64::from(*line), out);
            if *calls > 1 {
                known("calls", u64::from(*calls), out);
            }
            if *slow {
                key!("slow", out);
                boolean(true, out);
            }
        }
        Step::Parked { stage, wait } => {
            kind("parked", out);
            key!("stage", out);
            text(stage, out);
            key!("retry_in_ms", out);
            millis(*wait, out);
        }
        Step::Note { stage, line, text: note } => {
            kind("note", out);
            key!("stage", out);
            text(stage, out);
            known("line", u64::from(*line), out);
            key!("text", out);
            text(note, out);
        }
        Step::Planned { targets } => {
            kind("planned", out);
            key!("targets", out);
            list(targets, out, |target, out| text(target, out));
        }
        Step::PassedOver { target, code, reason } => {
            kind("passed_over", out);
            key!("target", out);
            text(target, out);
            if !code.is_empty() {
                key!("code", out);
                text(code, out);
            }
            key!("reason", out);
            text(reason, out);
        }
        Step::Attempt { number: n, target, outcome, took } => {
            kind("attempt", out);
            key!("number", out);
            number(u64::from(*n), out);
            key!("target", out);
            text(target, out);
            key!("outcome", out);
            text(outcome, out);
            key!("took_us", out);
            number(micros(*took), out);
        }
        Step::Dropped { what } => {
            kind("dropped", out);
            key!("what", out);
            text(what, out);
        }
        Step::Chosen { names } => {
            kind("chosen", out);
            key!("names", out);
            list(names, out, |target, out| text(target, out));
        }
        Step::Limits(all) => {
            kind("limits", out);
            key!("limits", out);
            list(all, out, facts::allowance);
        }
        Step::Budget(funds) => {
            kind("budget", out);
            facts::funds(funds, out);
        }
        Step::Ranked(all) => {
            kind("ranked", out);
            key!("targets", out);
            list(all, out, facts::rank);
        }
        Step::Weighed(weighed) => {
            kind("weighed", out);
            facts::weighed(weighed, out);
        }
        Step::Reserve(reserve) => {
            kind("reserve", out);
            facts::reserve(reserve, out);
        }
    }
    out.push(b'}');
}

/// A number that says something only when it is not 0.
fn known(key: &str, value: u64, out: &mut Vec<u8>) {
    if value > 0 {
        name(key, out);
        number(value, out);
    }
}

fn verdict_word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Continue => "continue",
        Verdict::Respond => "respond",
        Verdict::Reject(_) => "reject",
        Verdict::Next(_) => "next",
        Verdict::Skip => "skip",
        Verdict::Stop(_) => "stop",
        Verdict::Failed(_) => "failed",
    }
}

fn tokens(usage: Option<&Usage>, out: &mut Vec<u8>) {
    let Some(usage) = usage else { return null(out) };
    out.extend_from_slice(b"{\"input_tokens\":");
    counted(usage.input_tokens, out);
    key!("output_tokens", out);
    counted(usage.output_tokens, out);
    key!("cache_read_tokens", out);
    counted(usage.cache_read_tokens, out);
    key!("cache_write_tokens", out);
    counted(usage.cache_write_tokens, out);
    key!("cache_write_1h_tokens", out);
    counted(usage.cache_write_1h_tokens, out);
    key!("reasoning_tokens", out);
    counted(usage.reasoning_tokens, out);
    key!("input_audio_tokens", out);
    counted(usage.input_audio_tokens, out);
    key!("output_audio_tokens", out);
    counted(usage.output_audio_tokens, out);
    // Rare: they stand there only where they are known.
    for (key, count) in usage.units.iter().flat_map(|units| units.named()).filter(|(_, count)| count.is_some()) {
        name(key, out);
        counted(count, out);
    }
    if let Some(billed) = usage.billed {
        key!("billed_input_tokens", out);
        counted(billed.input_tokens, out);
        key!("billed_output_tokens", out);
        counted(billed.output_tokens, out);
    }
    if let Some(tier) = usage.service_tier {
        key!("service_tier", out);
        text(tier.name(), out);
    }
    out.push(b'}');
}

fn counted(count: Option<u64>, out: &mut Vec<u8>) {
    match count {
        Some(count) => number(count, out),
        None => null(out),
    }
}

/// All its digits: never through a float.
fn usd(nano: Option<i64>, out: &mut Vec<u8>) {
    match nano {
        Some(nano) => write_usd(nano, out),
        None => null(out),
    }
}

/// Milliseconds with three digits after the point, without those that say nothing.
pub(super) fn millis(span: Duration, out: &mut Vec<u8>) {
    let micros = micros(span);
    number(micros / 1000, out);
    out.push(b'.');
    let part = micros % 1000;
    let digits = [part / 100, part / 10 % 10, part % 10].map(|d| b'0' + d as u8);
    let end = digits.iter().rposition(|d| *d != b'0').map_or(1, |last| last + 1);
    out.extend_from_slice(&digits[..end]);
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (n, item) in items.iter().enumerate() {
        comma(n, out);
        write(item, out);
    }
    out.push(b']');
}

fn comma(n: usize, out: &mut Vec<u8>) {
    if n > 0 {
        out.push(b',');
    }
}

fn name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn maybe(value: Option<&str>, out: &mut Vec<u8>) {
    match value {
        Some(value) => text(value, out),
        None => null(out),
    }
}

pub(super) fn boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

pub(super) fn number(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
