//! Records and decision traces as JSON, for the admin API, `explain` and the trace header. Called when somebody reads, not
//! when a request runs.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::{
    account::Record,
    context::{Step, Trace, Verdict},
    model::Usage,
};

/// The steps in order: `[{"step": "stage", …}, …]`.
pub fn trace_json(trace: &Trace) -> Value {
    Value::Array(trace.steps.iter().map(step).collect())
}

/// One request's facts; what is unknown is null. `at`: when it was settled.
pub fn record_json(record: &Record, at: SystemTime) -> Value {
    let Record {
        id,
        key_id,
        team,
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
        usage_estimated,
        cost_nano_usd,
        duration,
        first_event,
        upstream_duration,
        tags,
    } = record;
    let tags: Map<String, Value> = tags.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    json!({
        "id": &**id,
        "time": time(at),
        "key_id": (!key_id.is_empty()).then_some(&**key_id),
        "team": team.as_deref(),
        "operation": operation.name(),
        "format": format.name(),
        "model": model,
        "target": target.as_deref(),
        "attempts": attempts,
        "status": status,
        "error_code": error_code,
        "stream": stream,
        "finish_reason": finish_reason,
        "usage": usage.as_ref().map(tokens),
        "usage_estimated": usage_estimated,
        "cost_usd": cost_nano_usd.map(usd),
        "duration_ms": millis(*duration),
        "first_event_ms": first_event.map(millis),
        "upstream_ms": millis(*upstream_duration),
        "tags": tags,
    })
}

fn step(step: &Step) -> Value {
    match step {
        Step::Stage { stage, phase, verdict, took, operations } => {
            let mut row = json!({ "step": "stage", "stage": &**stage, "phase": phase, "took_us": micros(*took) });
            let (word, detail) = verdict_words(verdict);
            row["verdict"] = word.into();
            if let Some((name, value)) = detail {
                row[name] = value;
            }
            if *operations > 0 {
                row["operations"] = (*operations).into();
            }
            row
        }
        Step::Note { stage, text } => json!({ "step": "note", "stage": &**stage, "text": text }),
        Step::Planned { targets } => {
            json!({ "step": "planned", "targets": targets.iter().map(|t| &**t).collect::<Vec<_>>() })
        }
        Step::PassedOver { target, reason } => {
            json!({ "step": "passed_over", "target": &**target, "reason": &**reason })
        }
        Step::Attempt { number, target, outcome, took } => json!({
            "step": "attempt", "number": number, "target": &**target, "outcome": &**outcome, "took_us": micros(*took),
        }),
        Step::Dropped { what } => json!({ "step": "dropped", "what": what }),
    }
}

fn verdict_words(verdict: &Verdict) -> (&'static str, Option<(&'static str, Value)>) {
    let reason = |text: &str| Some(("reason", Value::from(text)));
    match verdict {
        Verdict::Continue => ("continue", None),
        Verdict::Respond => ("respond", None),
        Verdict::Reject(status) => ("reject", Some(("status", (*status).into()))),
        Verdict::Next(why) => ("next", reason(why)),
        Verdict::Skip => ("skip", None),
        Verdict::Stop(why) => ("stop", reason(why)),
        Verdict::Failed(why) => ("failed", reason(why)),
    }
}

fn tokens(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "input_audio_tokens": usage.input_audio_tokens,
        "output_audio_tokens": usage.output_audio_tokens,
    })
}

/// Exact: the digits are written, not a float.
fn usd(nano: i64) -> Value {
    let (sign, size) = (if nano < 0 { "-" } else { "" }, nano.unsigned_abs());
    let text = format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.parse().map_or(Value::Null, Value::Number)
}

fn time(at: SystemTime) -> Value {
    jiff::Timestamp::try_from(at).map_or(Value::Null, |t| format!("{t:.3}").into())
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn millis(d: Duration) -> f64 {
    d.as_micros() as f64 / 1000.0
}
