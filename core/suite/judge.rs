//! What a case expects against what came: one line for each difference, with the actual value.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::{
    expect::{Expect, is_match},
    fields::nano,
    seen::{self, Seen},
};
use crate::{
    config::{decimal, duration},
    context::{Step, Verdict},
    rehearse::{Outcome, Scene},
};

/// Nothing: the case passes. What else is known stands behind the first difference.
pub fn judge(expect: &Expect, scene: &Scene, outcome: &Outcome) -> Vec<String> {
    let seen = Seen::of(scene, outcome);
    let mut failures = Vec::new();
    for (key, want) in &expect.0 {
        let got = actual(key, want, outcome, &seen);
        if let Err(got) = got {
            let why = if failures.is_empty() { why(outcome, &seen) } else { String::new() };
            failures.push(format!("expected {key} {}, got {}{why}", short(want), short(&got)));
        }
    }
    failures
}

/// What went wrong in a stage, with its place.
pub fn fault(outcome: &Outcome) -> Option<String> {
    outcome.trace.steps.iter().find_map(|step| match step {
        Step::Stage { verdict: Verdict::Failed(why), .. } => Some(why.to_string()),
        _ => None,
    })
}

/// `Err`: what came instead.
fn actual(key: &str, want: &Value, outcome: &Outcome, seen: &Seen) -> Result<(), Value> {
    let text = |got: Option<&str>| same(want, &got.map_or(Value::Null, Value::from));
    let record = &outcome.record;
    match key {
        "target" => {
            let (first, named) = (seen::planned(outcome).first().cloned(), named(outcome).first().cloned());
            match named.as_ref() == want.as_str().map(str::to_owned).as_ref() {
                true if first.is_some() => Ok(()),
                _ => text(first.as_deref()),
            }
        }
        "targets" => {
            let order = seen::planned(outcome);
            if !order.is_empty() && *want == json!(named(outcome)) { Ok(()) } else { same(want, &json!(order)) }
        }
        "model" => text(Some(outcome.asked.as_ref().map_or(&record.model, |asked| &asked.model))),
        "status" => same(want, &Value::from(outcome.status)),
        "verdict" => verdict(want, outcome),
        "reason" => {
            let reasons: Vec<String> = seen::verdicts(outcome).into_iter().filter_map(|(_, why)| why).collect();
            any(want, reasons)
        }
        "message" => text(seen.error.as_ref().map(|error| error.message.as_str())),
        "code" => text(record.error_code.as_deref()),
        "answered" => text(record.target.as_deref().filter(|_| outcome.status < 400)),
        "attempts" => {
            let got = seen::attempts(outcome);
            let by_name = want.as_array().is_some_and(|list| list.iter().all(Value::is_string));
            let names = || got.iter().map(|attempt| attempt["target"].clone()).collect::<Vec<_>>();
            same(want, &Value::Array(if by_name { names() } else { got.clone() }))
        }
        "passed_over" => same(want, &Value::Object(seen::passed_over(outcome))),
        "questions" => {
            let named = |item: &Value| if item.is_string() { json!({ "model": item }) } else { item.clone() };
            let want = want.as_array().into_iter().flatten().map(named).collect();
            same(&Value::Array(want), &Value::Array(seen::questions(outcome)))
        }
        "text" => text(seen.text.as_deref()),
        "reasoning" => text(seen.reasoning.as_deref()),
        "finish" => text(seen.finish),
        "tool_calls" => same(want, &json!(seen.tool_calls)),
        "events" => events(want, seen),
        "request" => match &outcome.asked {
            None => Err("nothing: a stage answered or refused before the request was complete".into()),
            Some(asked) => fields(want, &asked.body, Some(&asked.fields)),
        },
        "sent" => match outcome.heard.last() {
            None => Err("nothing: no upstream was called".into()),
            Some(heard) => fields(want, &heard.body, None),
        },
        "headers" => {
            let asked = outcome.asked.as_ref().map(|asked| &asked.headers);
            let heard = outcome.heard.last().map(|heard| &heard.headers).or(asked);
            headers(want, heard.unwrap_or(&HeaderMap::new()))
        }
        "answer_headers" => headers(want, &outcome.headers),
        "notes" => same(want, &json!(seen::notes(outcome))),
        "tags" => {
            let tags: Map<String, Value> =
                record.tags.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect();
            same(want, &Value::Object(tags))
        }
        "cost" => match record.cost_nano_usd.filter(|_| !record.cost_unknown) {
            None => Err("unknown: a price or a usage is not known".into()),
            Some(got) if nano(want) == Ok(got) => Ok(()),
            Some(got) => Err(decimal(got).into()),
        },
        "usage" => {
            let usage = record.usage.clone().unwrap_or_default();
            let got = json!({
                "input": usage.input_tokens,
                "output": usage.output_tokens,
                "cached": usage.cache_read_tokens,
                "cache_write": usage.cache_write_tokens,
                "reasoning": usage.reasoning_tokens,
            });
            same(want, &got)
        }
        "dropped" => {
            let header = outcome.headers.get("x-portcullis-dropped-params").and_then(|v| v.to_str().ok());
            let got: Vec<&str> = header.into_iter().flat_map(|list| list.split(',')).collect();
            same(want, &json!(got))
        }
        "took" => took(want, outcome.took),
        _ => Ok(()),
    }
}

/// The names that stand for it: what a script chose, else what was asked for.
fn named(outcome: &Outcome) -> Vec<String> {
    match seen::chosen(outcome) {
        Some(names) => names,
        None => vec![outcome.asked.as_ref().map_or_else(|| outcome.record.model.clone(), |asked| asked.model.clone())],
    }
}

/// `continue`: every verdict. Else one is enough.
fn verdict(want: &Value, outcome: &Outcome) -> Result<(), Value> {
    let verdicts = seen::verdicts(outcome);
    let other = verdicts.iter().find(|(word, _)| *word != "continue");
    let fits = match want.as_str() {
        Some("continue") => other.is_none(),
        Some(word) => verdicts.iter().any(|(given, _)| *given == word),
        None => false,
    };
    match (fits, other) {
        (true, _) => Ok(()),
        (false, Some((word, Some(why)))) => Err(json!(format!("{word} ({why})"))),
        (false, Some((word, None))) => Err(json!(word)),
        (false, None) => Err("continue".into()),
    }
}

fn any(want: &Value, got: Vec<String>) -> Result<(), Value> {
    if got.iter().any(|got| same(want, &Value::from(got.as_str())).is_ok()) {
        return Ok(());
    }
    Err(got.into_iter().next().map_or(Value::Null, Value::from))
}

/// Kinds of events that nobody asks for are left out: an expectation of texts need not tell the end.
fn events(want: &Value, seen: &Seen) -> Result<(), Value> {
    let wanted = want.as_array().map(Vec::as_slice).unwrap_or_default();
    let asks = |key: &str| wanted.iter().any(|item| item.get(key).is_some());
    let shown = |event: &&Value| match event.as_object().and_then(|map| map.keys().next()).map(String::as_str) {
        Some("finish") => asks("finish"),
        Some("tool" | "arguments") => asks("tool") || asks("arguments"),
        Some("reasoning") => asks("reasoning"),
        _ => true,
    };
    let got: Vec<Value> = seen.events.iter().filter(shown).cloned().collect();
    let plain: Vec<Value> =
        wanted.iter().map(|item| if item.is_string() { json!({ "text": item }) } else { item.clone() }).collect();
    same(&Value::Array(plain), &Value::Array(got))
}

/// Names of fields, dotted paths, and whole pieces of a body.
fn fields(want: &Value, body: &Value, canonical: Option<&Map<String, Value>>) -> Result<(), Value> {
    let mut missed = Map::new();
    for (key, want) in want.as_object().into_iter().flatten() {
        let named = canonical.and_then(|fields| fields.get(key));
        let found = at(body, key);
        let fits = |got: Option<&Value>| got.is_some_and(|got| same(want, got).is_ok());
        // A field by its canonical name, or as it stands in the body; either is a good expectation.
        if fits(named) || fits(found) || (want.is_null() && named.or(found).is_none_or(Value::is_null)) {
            continue;
        }
        let got = found.or(named).cloned().unwrap_or_default();
        missed.insert(key.clone(), same(want, &got).err().unwrap_or(got));
    }
    if missed.is_empty() { Ok(()) } else { Err(Value::Object(missed)) }
}

/// `messages.0.content`; a key that has dots itself is found first. A negative place counts from the end.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    path.split('.').try_fold(value, |value, step| match value {
        Value::Array(list) => match step.strip_prefix('-') {
            Some(back) => list.len().checked_sub(back.parse().ok()?).and_then(|at| list.get(at)),
            None => list.get(step.parse::<usize>().ok()?),
        },
        value => value.get(step),
    })
}

fn headers(want: &Value, got: &HeaderMap) -> Result<(), Value> {
    let mut missed = Map::new();
    for (name, want) in want.as_object().into_iter().flatten() {
        let value = got.get(name.as_str()).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let value = value.map_or(Value::Null, Value::from);
        if let Err(got) =
            same(want, &value).or_else(|got| if *want == json!("") && got.is_null() { Ok(()) } else { Err(got) })
        {
            missed.insert(name.clone(), got);
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(Value::Object(missed)) }
}

fn took(want: &Value, got: Duration) -> Result<(), Value> {
    let time = |value: Option<&Value>| value.and_then(Value::as_str).and_then(|text| duration(text).ok());
    let fits = match want {
        Value::Object(map) => {
            let least = time(map.get("at_least")).is_none_or(|least| got >= least);
            least && time(map.get("at_most")).is_none_or(|most| got <= most)
        }
        want => time(Some(want)).is_some_and(|want| want.as_millis() == got.as_millis()),
    };
    if fits { Ok(()) } else { Err(format!("{} ms", got.as_millis()).into()) }
}

/// Tables need only the keys that are expected, arrays all their places; numbers count, not how they are written; a table of
/// `contains` and its like matches a text. `Err`: what came instead.
fn same(want: &Value, got: &Value) -> Result<(), Value> {
    let fits = match (want, got) {
        (want, Value::String(got)) if is_match(want) => want
            .as_object()
            .into_iter()
            .flatten()
            .all(|(how, what)| matched(how, what.as_str().unwrap_or_default(), got)),
        (Value::Object(want), Value::Object(got)) => want.iter().all(|(key, want)| match got.get(key) {
            None => want.is_null(),
            Some(got) => same(want, got).is_ok(),
        }),
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len() && want.iter().zip(got).all(|(want, got)| same(want, got).is_ok())
        }
        (Value::Number(_), Value::Number(_)) => want.as_f64() == got.as_f64(),
        _ => want == got,
    };
    if fits { Ok(()) } else { Err(got.clone()) }
}

fn matched(how: &str, what: &str, got: &str) -> bool {
    match how {
        "contains" => got.contains(what),
        "not_contains" => !got.contains(what),
        "starts_with" => got.starts_with(what),
        "ends_with" => got.ends_with(what),
        _ => regex::Regex::new(what).is_ok_and(|pattern| pattern.is_match(got)),
    }
}

/// What else is known of a case that came out otherwise.
fn why(outcome: &Outcome, seen: &Seen) -> String {
    match (fault(outcome), &seen.error) {
        (Some(fault), _) => format!(" ({fault})"),
        (None, Some(error)) => format!(" ({}: {})", outcome.status, error.message),
        (None, None) => String::new(),
    }
}

/// A value as a line of a report.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MOST_SHOWN) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text,
    }
}

const MOST_SHOWN: usize = 600;
