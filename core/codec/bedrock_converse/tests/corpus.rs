//! Recorded traffic in its own format, when `$PORTCULLIS_CORPUS` names a file of it: what was decoded and encoded again is
//! what was sent.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use super::*;

#[test]
#[allow(clippy::disallowed_methods, reason = "a test run is told by its environment where recordings lie")]
fn recorded_bodies_come_back_as_they_were() {
    let Some(text) = std::env::var("PORTCULLIS_CORPUS").ok().and_then(|path| std::fs::read_to_string(path).ok()) else {
        return;
    };
    let mut faults = Vec::new();
    for record in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if !matches!(record["endpoint"].as_str(), Some("converse" | "converse-stream")) {
            continue;
        }
        let id = record["id"].as_str().unwrap_or_default();
        let sent = &record["request_body"];
        let model = record["model"].as_str().unwrap_or_default();
        match try_decode(sent) {
            Ok(request) => {
                let (is, dropped) = encode(&request, model);
                let (was, is) = (plain(sent), plain(&is));
                if was != is || !dropped.is_empty() {
                    faults.push(format!("{id} request, dropped {dropped:?}:\n  was {was}\n  is  {is}"));
                }
            }
            Err(e) => faults.push(format!("{id} request: {e}")),
        }
        if record["status"] != 200 {
            continue;
        }
        let body = record["response_body"].as_str().unwrap_or_default();
        if record["response_kind"] == "json" {
            let response = BedrockConverse.decode_response(body.as_bytes()).expect(id);
            let (was, is) = (plain(&serde_json::from_str(body).expect(id)), plain(&written(&response)));
            if was != is {
                faults.push(format!("{id} answer:\n  was {was}\n  is  {is}"));
            }
        } else {
            let bytes = BASE64_STANDARD.decode(body).expect(id);
            let mut response = fold(events(&[&bytes]).expect(id));
            let again = fold(events(&[&rewritten(&bytes)]).expect(id));
            // Blocks without a word are not written.
            response.choices[0].parts.retain(|part| *part != crate::model::Part::text(""));
            if response != again {
                faults.push(format!("{id} stream:\n  was {response:?}\n  is  {again:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}:\n{}", faults.len(), faults.join("\n"));
}

fn rewritten(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = BedrockConverse.stream_encoder(&view());
    let mut out = Vec::new();
    for event in events(&[bytes]).expect("events") {
        encoder.push(&event, &mut out);
    }
    encoder.finish(&mut out);
    out
}

/// Without nulls and empty objects and lists, which say nothing here; blank texts, which the wire refuses; neighbours of one
/// role as one turn.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, v)| match (key.as_str(), v) {
                ("messages", Value::Array(turns)) => (key.clone(), merged(turns)),
                // A schema travels as text: its spacing is free.
                ("schema", Value::String(text)) => {
                    (key.clone(), serde_json::from_str(text).unwrap_or_else(|_| v.clone()))
                }
                ("input" | "auto" | "any", v) => (key.clone(), v.clone()),
                (_, v) => (key.clone(), plain(v)),
            });
            Value::Object(kept.filter(|(key, v)| key == "input" || !says_nothing(key, v)).collect())
        }
        Value::Array(items) => items.iter().map(plain).filter(|item| !blank(item)).collect(),
        other => other.clone(),
    }
}

fn says_nothing(key: &str, v: &Value) -> bool {
    v.is_null() || (*v == json!({}) && !["auto", "any"].contains(&key)) || *v == json!([])
}

fn blank(item: &Value) -> bool {
    item.as_object().is_some_and(|o| o.len() == 1) && item["text"].as_str().is_some_and(|t| t.trim().is_empty())
}

fn merged(turns: &[Value]) -> Value {
    let mut out: Vec<Value> = Vec::new();
    for turn in turns.iter().map(plain) {
        match out.last_mut().filter(|last| last["role"] == turn["role"]) {
            Some(last) => {
                let more = turn["content"].as_array().cloned().unwrap_or_default();
                last["content"].as_array_mut().expect("content").extend(more);
            }
            None => out.push(turn),
        }
    }
    Value::Array(out)
}
