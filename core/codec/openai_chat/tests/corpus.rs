//! Recorded traffic, read where `$PORTCULLIS_CORPUS` says it is and never copied.

use serde_json::{Map, Value};

use super::*;
use crate::model::{Extra, Format, Part};

struct Record {
    id: String,
    status: u16,
    kind: String,
    request: Value,
    body: String,
}

#[allow(clippy::disallowed_methods, reason = "a test run is told by its environment where recordings lie")]
fn records(endpoint: &str) -> Vec<Record> {
    let Some(path) = std::env::var_os("PORTCULLIS_CORPUS") else { return Vec::new() };
    let text = std::fs::read_to_string(path).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mine = all.filter(|r| r["endpoint"] == endpoint);
    mine.map(|r| Record {
        id: r["id"].as_str().unwrap().to_owned(),
        status: r["status"].as_u64().unwrap() as u16,
        kind: r["response_kind"].as_str().unwrap().to_owned(),
        request: r["request_body"].clone(),
        body: r["response_body"].as_str().unwrap_or_default().to_owned(),
    })
    .collect()
}

/// What says nothing is left out on both sides: nulls, empty texts and lists, objects of such; numbers compare by value.
fn meaning(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(s) => (!s.is_empty()).then(|| value.clone()),
        Value::Number(n) => n.as_f64().map(|f| Value::String(format!("number {f}"))),
        Value::Bool(_) => Some(value.clone()),
        Value::Array(items) => {
            let items: Vec<Value> = items.iter().filter_map(meaning).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(map) => {
            let map: Map<String, Value> = map.iter().filter_map(|(k, v)| Some((k.clone(), meaning(v)?))).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
    }
}

fn differences(path: &str, a: Option<&Value>, b: Option<&Value>, out: &mut Vec<String>) {
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().for_each(|k| differences(&format!("{path}.{k}"), a.get(k), b.get(k), out));
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for i in 0..a.len().max(b.len()) {
                differences(&format!("{path}[{i}]"), a.get(i), b.get(i), out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => {
            let short =
                |v: Option<&Value>| v.map_or("-".into(), |v| v.to_string().chars().take(60).collect::<String>());
            out.push(format!("{path}: {} | {}", short(a), short(b)));
        }
    }
}

/// Differences that are meant: the number of a whole call is its place, other families' words for the finish become one
/// of ours with theirs beside it, and servers that fill in every field they know say nothing with it.
fn meant(line: &str) -> bool {
    let (path, values) = line.split_once(": ").unwrap();
    let none = values.starts_with("- |") || values.starts_with("\"number 0\" |");
    let unified = path.ends_with("finish_reason") && (none || values.starts_with("\"eos\""));
    let place = path.contains(".tool_calls[") && path.ends_with("].index");
    place
        || unified
        || (none && (path.ends_with(".id") || path.ends_with(".created")))
        || path.contains(".message.audio")
}

#[test]
fn whole_answers_come_back_with_the_same_meaning() {
    let mut bad = Vec::new();
    for record in records("chat_completions").iter().filter(|r| r.status == 200 && r.kind == "json") {
        let told: Value = serde_json::from_str(&record.body).unwrap();
        let again = written(&CODEC.decode_response(record.body.as_bytes()).unwrap());
        let mut list = Vec::new();
        differences("", meaning(&told).as_ref(), meaning(&again).as_ref(), &mut list);
        bad.extend(list.into_iter().filter(|l| !meant(l)).map(|l| format!("{}{l}", record.id)));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn requests_come_back_with_the_same_meaning() {
    let mut bad = Vec::new();
    for record in records("chat_completions").iter().filter(|r| r.request.is_object()) {
        let decoded = match CODEC.decode_request(record.request.to_string().as_bytes(), Inbound::default()) {
            Ok(request) => request,
            Err(error) => {
                bad.push(format!("{}: {error}", record.id));
                continue;
            }
        };
        let field = ["max_tokens", "max_completion_tokens"].into_iter().find(|f| !record.request[*f].is_null());
        let dialect = Dialect {
            model: decoded.model.clone(),
            provider: "openrouter".into(),
            max_tokens_field: field.unwrap_or("max_tokens"),
            reasoning_field: Some(if record.request.to_string().contains("\"reasoning\":") {
                "reasoning"
            } else {
                "reasoning_content"
            }),
            ..Dialect::of("")
        };
        let again = Value::Object(CODEC.encode_request(&decoded, &dialect).unwrap().body);
        let mut list = Vec::new();
        differences("", meaning(&record.request).as_ref(), meaning(&again).as_ref(), &mut list);
        list.retain(|l| !rewritten(l));
        bad.extend(list.into_iter().map(|l| format!("{}{l}", record.id)));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The gateway's own wish; defaults; one text as a string; a tool named without its type; reasoning in both fields.
fn rewritten(line: &str) -> bool {
    let (path, values) = line.split_once(": ").unwrap();
    path.contains(".stream_options")
        || (values == "false | -" && (path.ends_with(".stream") || path.ends_with(".logprobs")))
        || (path.ends_with(".content") && values.starts_with("[{") && values.contains(" | \""))
        || path.ends_with(".tool_choice.type")
        || (path.ends_with(".reasoning_content") && values.ends_with("| -"))
}

/// Some recorded servers end without `[DONE]`.
fn pushed(pieces: &[&[u8]]) -> (Vec<Event>, bool) {
    let dialect = Dialect { terminal_optional: true, ..Dialect::of("m") };
    let (mut decoder, mut out) = (CODEC.stream_decoder(&dialect, crate::codec::sse::MAX_EVENT), Vec::new());
    let fine = pieces.iter().all(|p| decoder.push(p, &mut out).is_ok()) && decoder.finish(&mut out).is_ok();
    (out, fine)
}

#[test]
fn streams_give_the_same_events_at_any_split() {
    for record in records("chat_completions").iter().filter(|r| r.status == 200 && r.kind == "sse") {
        let bytes = record.body.as_bytes();
        let whole = pushed(&[bytes]);
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, pushed(&singles), "{} byte by byte", record.id);
        for seed in 0..32usize {
            let at = (seed * 7919 + record.id.len() * 104_729) % bytes.len();
            assert_eq!(whole, pushed(&[&bytes[..at], &bytes[at..]]), "{} at {at}", record.id);
        }
        let error = record.body.contains("\"error\":");
        assert_eq!(whole.1, !error, "{} ends well unless it tells an error", record.id);
    }
}

/// Parts, finish and usage survive being written as a stream and read again.
#[test]
fn streams_come_back_with_the_same_meaning() {
    for record in records("chat_completions").iter().filter(|r| r.status == 200 && r.kind == "sse") {
        let (told, fine) = pushed(&[record.body.as_bytes()]);
        if !fine {
            continue;
        }
        let view = ClientView { include_usage: true, ..view() };
        let mut first = folded(told.clone());
        // Thinking chunks and details alone are written as reasoning text.
        for part in first.choices.iter_mut().flat_map(|c| &mut c.parts) {
            if let Part::Reasoning(r) = part
                && r.extra
                    .of(Format::OpenaiChat)
                    .is_some_and(|m| m.get("$field").is_some_and(|f| f == "chunk" || f == "details"))
            {
                r.extra = Extra::default();
            }
        }
        let again = folded(events(streamed(&told, &view).as_bytes()));
        assert_eq!(first.choices, again.choices, "{}", record.id);
        assert_eq!(first.usage, again.usage, "{}", record.id);
        assert_eq!(first.extra, again.extra, "{}", record.id);
        let whole = folded(events(streamed(&crate::model::fold::unfold(&first), &view).as_bytes()));
        assert_eq!(first.choices, whole.choices, "{} unfolded", record.id);
    }
}

#[test]
fn errors_are_read_and_written() {
    for record in records("chat_completions").iter().filter(|r| r.status >= 400) {
        let error = CODEC.decode_error(record.status, &|_| None, &record.body.clone().into());
        let written: Value = serde_json::from_slice(&CODEC.encode_error(&error, "r")).unwrap();
        let inner = written["error"].as_object().unwrap();
        assert_eq!(inner.len(), 4, "{}", record.id);
        assert!(!error.message.is_empty(), "{}", record.id);
        assert_eq!(error.upstream.as_ref().unwrap().status, record.status, "{}", record.id);
    }
}

#[test]
fn embeddings_are_read_and_written() {
    for record in records("embeddings").iter().filter(|r| r.status == 200 && r.body.contains("\"data\"")) {
        let Ok(answer) = CODEC.decode_embeddings_response(record.body.as_bytes()) else {
            assert!(record.id.contains("perplexity") || record.id.contains("ruby"), "{}", record.id);
            continue;
        };
        for base64 in [false, true] {
            let view = ClientView { base64, ..view() };
            let again = CODEC.encode_embeddings_response(&answer, &view).unwrap();
            assert_eq!(CODEC.decode_embeddings_response(&again).unwrap().vectors, answer.vectors, "{}", record.id);
        }
    }
}
