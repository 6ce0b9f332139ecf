//! Recorded traffic, read where `$PORTCULLIS_CORPUS` says; never part of the repository.

use serde_json::{Map, Value, json};

use super::*;
use crate::{
    codec::gemini::wire::{SKIP_SIGNATURE, object},
    model::{Event, fold::Fold},
};

#[test]
#[allow(clippy::disallowed_methods, reason = "a test run is told by its environment where recordings lie")]
fn recorded_traffic_survives_this_codec() {
    let Ok(path) = std::env::var("PORTCULLIS_CORPUS") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let (mut seen, mut faults) = (0, Vec::new());
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let endpoint = record["endpoint"].as_str().unwrap_or_default();
        if !["generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents", "countTokens"]
            .contains(&endpoint)
        {
            continue;
        }
        seen += 1;
        if let Err(fault) = check(&record, endpoint) {
            faults.push(format!("{}: {fault}", record["id"]));
        }
    }
    println!("{seen} records");
    assert!(seen > 0, "the corpus holds no record of this format");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn check(record: &Value, endpoint: &str) -> Result<(), String> {
    let model = record["model"].as_str().unwrap_or_default();
    let body = record["response_body"].as_str().unwrap_or_default().as_bytes();
    let status = record["status"].as_u64().unwrap_or_default() as u16;
    let request = &record["request_body"];
    let bytes = request.to_string();
    let counting = endpoint == "countTokens";
    let inbound = Inbound { model: Some(model), stream: Some(false), version: None, counting, legacy: false };
    let dialect = Dialect::of(model);
    if endpoint.to_lowercase().contains("embed") {
        let decoded = Gemini.decode_embeddings(bytes.as_bytes(), inbound).map_err(|e| e.to_string())?;
        let again = Value::Object(Gemini.encode_embeddings(&decoded, &dialect).map_err(|e| e.to_string())?.body);
        let back = Gemini.decode_embeddings(again.to_string().as_bytes(), inbound).map_err(|e| e.to_string())?;
        if (EmbeddingRequest { single: decoded.single, ..back }) != decoded {
            return Err("the embedding request changed".into());
        }
    } else {
        let decoded = Gemini.decode_request(bytes.as_bytes(), inbound).map_err(|e| e.to_string())?;
        let again = Value::Object(Gemini.encode_request(&decoded, &dialect).map_err(|e| e.to_string())?.body);
        let original = request.get("generateContentRequest").unwrap_or(request);
        same(plain_request(original), plain_request(&again)).map_err(|e| format!("request {e}"))?;
    }
    if status >= 400 {
        let error = Gemini.decode_error(status, &|_| None, &Bytes::copy_from_slice(body));
        return if error.status() >= 400 { Ok(()) } else { Err("an error without a status".into()) };
    }
    if counting {
        return Gemini.decode_count(body).map(|_| ()).map_err(|e| e.to_string());
    }
    if endpoint.to_lowercase().contains("embed") {
        let decoded = Gemini.decode_embeddings_response(body).map_err(|e| e.to_string())?;
        let view = ClientView { single: endpoint == "embedContent", ..view() };
        let again = Gemini.encode_embeddings_response(&decoded, &view).map_err(|e| e.to_string())?;
        return same(serde_json::from_slice(body).unwrap(), serde_json::from_slice(&again).unwrap());
    }
    if record["response_kind"] == "sse" { check_stream(body) } else { check_whole(body) }
}

fn check_whole(body: &[u8]) -> Result<(), String> {
    let decoded = Gemini.decode_response(body).map_err(|e| e.to_string())?;
    let again = Gemini.encode_response(&decoded, &ClientView::default()).map_err(|e| e.to_string())?;
    let original: Value = serde_json::from_slice(body).unwrap();
    same(plain_response(&original), plain_response(&serde_json::from_slice(&again).unwrap()))
        .map_err(|e| format!("response {e}"))?;
    let back = Gemini.decode_response(&again).map_err(|e| e.to_string())?;
    if back == decoded { Ok(()) } else { Err(format!("another answer came back:\n{decoded:?}\n{back:?}")) }
}

fn check_stream(body: &[u8]) -> Result<(), String> {
    let events = events_of(&[body]).map_err(|e| e.to_string())?;
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    if events_of(&bytes).map_err(|e| e.to_string())? != events {
        return Err("byte by byte other events come".into());
    }
    let folded = fold(events.clone());
    for json_array in [false, true] {
        let view = ClientView { json_array, ..view() };
        let mut encoder = Gemini.stream_encoder(&view);
        let mut out = Vec::new();
        events.iter().for_each(|e| encoder.push(e, &mut out));
        encoder.finish(&mut out);
        let back = if json_array {
            Gemini.decode_response(&out).map_err(|e| e.to_string())?
        } else {
            fold(events_of(&[&out]).map_err(|e| e.to_string())?)
        };
        if back != folded {
            return Err(format!("another stream came back:\n{folded:?}\n{back:?}"));
        }
    }
    // One chunk that says everything must mean the same as the stream.
    let whole = Gemini.encode_response(&folded, &view()).map_err(|e| e.to_string())?;
    let back = Gemini.decode_response(&whole).map_err(|e| e.to_string())?;
    if back == folded { Ok(()) } else { Err(format!("the whole answer differs:\n{folded:?}\n{back:?}")) }
}

pub(crate) fn events_of(pieces: &[&[u8]]) -> Result<Vec<Event>> {
    let mut decoder = Gemini.stream_decoder(&Dialect::of("gemini"), crate::codec::sse::MAX_EVENT);
    let mut out = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut out)?;
    }
    decoder.finish(&mut out)?;
    Ok(out)
}

pub(crate) fn fold(events: Vec<Event>) -> Response {
    let mut fold = Fold::default();
    events.into_iter().for_each(|e| fold.push(e));
    fold.finish()
}

fn same(a: Value, b: Value) -> Result<(), String> {
    differ("", &a, &b)
}

fn differ(path: &str, a: &Value, b: &Value) -> Result<(), String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys()) {
                match (x.get(key), y.get(key)) {
                    (Some(p), Some(q)) => differ(&format!("{path}.{key}"), p, q)?,
                    (p, q) => return Err(format!("{path}.{key}: {p:?} became {q:?}")),
                }
            }
            Ok(())
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().try_for_each(|(i, (p, q))| differ(&format!("{path}[{i}]"), p, q))
        }
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64().unwrap_or(f64::NAN), y.as_f64().unwrap_or(f64::NAN));
            if (x - y).abs() <= 1e-6 * x.abs() { Ok(()) } else { Err(format!("{path}: {x} became {y}")) }
        }
        (a, b) if a == b => Ok(()),
        (a, b) => Err(format!("{path}: {a} became {b}")),
    }
}

/// A request without the freedoms of its wire: spellings, empty things, borders between equal roles.
fn plain_request(request: &Value) -> Value {
    let mut out = object(camel(request));
    out.shift_remove("model");
    let mut contents: Vec<Value> = Vec::new();
    for content in listed(out.shift_remove("contents")) {
        let role = content.get("role").and_then(Value::as_str).unwrap_or("user").to_owned();
        let mut parts: Vec<Value> = listed(content.get("parts").cloned()).into_iter().filter_map(plain_part).collect();
        if role == "user" {
            parts.sort_by_key(|p| p.get("functionResponse").is_none());
        }
        match contents.last_mut() {
            Some(last) if last["role"] == role.as_str() => last["parts"].as_array_mut().unwrap().extend(parts),
            _ => contents.push(json!({ "role": role, "parts": parts })),
        }
    }
    for content in &mut contents {
        if content["role"] == "model" {
            join_texts(content["parts"].as_array_mut().unwrap());
        }
    }
    out.insert("contents".into(), Value::Array(contents));
    let (mut functions, mut tools) = (Vec::new(), Vec::new());
    for tool in listed(out.shift_remove("tools")) {
        let mut tool = object(tool);
        functions.extend(listed(tool.shift_remove("functionDeclarations")));
        tools.extend(tool.into_iter().map(|(k, v)| json!({ k: v })));
    }
    out.insert("tools".into(), json!([functions, tools]));
    if let Some(Value::Object(config)) = out.get_mut("generationConfig")
        && let Some(Value::Object(thinking)) = config.get_mut("thinkingConfig")
    {
        thinking.retain(|k, v| k != "includeThoughts" || *v != Value::Bool(false));
    }
    out.retain(|_, v| !matches!(v, Value::Object(m) if m.is_empty()));
    Value::Object(out)
}

fn plain_part(part: Value) -> Option<Value> {
    let mut part = object(part);
    part.retain(|_, v| *v != SKIP_SIGNATURE);
    if let Some(Value::String(data)) = part.get_mut("inlineData").and_then(|d| d.get_mut("data")) {
        *data = data.replace('-', "+").replace('_', "/").trim_end_matches('=').to_owned();
    }
    let empty = part.len() == 1 && part.get("text").is_some_and(|t| t == "");
    (!empty).then_some(Value::Object(part))
}

fn join_texts(parts: &mut Vec<Value>) {
    let mut out: Vec<Value> = Vec::new();
    for part in parts.drain(..) {
        let text = part.get("text").and_then(Value::as_str).map(str::to_owned);
        match (text, out.last_mut()) {
            (Some(text), Some(last))
                if last.as_object().unwrap().len() == 1
                    && last.get("text").is_some()
                    && part.get("thought").is_none() =>
            {
                last["text"] = json!(format!("{}{text}", last["text"].as_str().unwrap()));
                if let Some(signature) = part.get("thoughtSignature") {
                    last["thoughtSignature"] = signature.clone();
                }
            }
            _ => out.push(part),
        }
    }
    *parts = out;
}

fn plain_response(response: &Value) -> Value {
    let mut out = response.clone();
    for (i, candidate) in out["candidates"].as_array_mut().into_iter().flatten().enumerate() {
        let mut parts: Vec<Value> =
            listed(candidate["content"].get("parts").cloned()).into_iter().filter_map(plain_part).collect();
        join_texts(&mut parts);
        candidate["content"] = Value::Array(parts);
        if candidate.get("index").is_none() {
            candidate["index"] = json!(i);
        }
    }
    out
}

fn listed(value: Option<Value>) -> Vec<Value> {
    match value {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    }
}

/// Structural keys of the wire in one spelling; what lies inside arguments, results and hosted tools stays as it is.
fn camel(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, inner) in map {
                let name = match key.as_str() {
                    "inline_data" => "inlineData",
                    "file_data" => "fileData",
                    "mime_type" => "mimeType",
                    "file_uri" => "fileUri",
                    "function_declarations" => "functionDeclarations",
                    "parameters_json_schema" => "parametersJsonSchema",
                    "thinking_budget" => "thinkingBudget",
                    "thinking_config" => "thinkingConfig",
                    other => other,
                };
                let opaque = ["args", "response", "toolResponse", "toolCall", "properties"].contains(&name);
                out.insert(name.to_owned(), if opaque { inner.clone() } else { camel(inner) });
            }
            Value::Object(out)
        }
        Value::Array(list) => Value::Array(list.iter().map(camel).collect()),
        other => other.clone(),
    }
}
