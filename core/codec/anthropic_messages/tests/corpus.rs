//! Recorded traffic in its own format, when `$PORTCULLIS_CORPUS` names a file of it: what was decoded and encoded again
//! is what was sent, up to nulls and the two ways to write one text.

use serde_json::{Map, Value, json};

use crate::{
    codec::{ClientView, Codec, Dialect, Inbound, anthropic_messages::AnthropicMessages},
    model::Role,
};

#[test]
#[allow(clippy::disallowed_methods, reason = "a test run is told by its environment where recordings lie")]
fn recorded_bodies_come_back_as_they_were() {
    let Some(text) = std::env::var("PORTCULLIS_CORPUS").ok().and_then(|path| std::fs::read_to_string(path).ok()) else {
        return;
    };
    let (mut faults, mut seen) = (Vec::new(), 0);
    for record in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if record["endpoint"] != "messages" || record["provider"] != "anthropic" {
            continue;
        }
        seen += 1;
        let id = record["id"].as_str().unwrap_or_default();
        faults.extend(request(&record).err().map(|fault| format!("{id} request: {fault}")));
        if record["status"] == 200 && record["response_kind"] == "json" {
            faults.extend(answer(&record).err().map(|fault| format!("{id} answer: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{} of {seen}:\n{}", faults.len(), faults.join("\n"));
}

fn request(record: &Value) -> Result<(), String> {
    let sent = &record["request_body"];
    let request =
        AnthropicMessages.decode_request(sent.to_string().as_bytes(), Inbound::default()).map_err(|e| e.to_string())?;
    if request.messages.windows(2).any(|two| two[0].role == two[1].role && two[0].role != Role::Tool) {
        return Ok(());
    }
    let dialect = Dialect { mid_system: true, ..Dialect::of(&request.model) };
    let encoded = AnthropicMessages.encode_request(&request, &dialect).map_err(|e| e.to_string())?;
    same(sent, &Value::Object(encoded.body))
}

fn answer(record: &Value) -> Result<(), String> {
    let body = record["response_body"].as_str().unwrap_or_default();
    let response = AnthropicMessages.decode_response(body.as_bytes()).map_err(|e| e.to_string())?;
    let again = AnthropicMessages.encode_response(&response, &ClientView::default()).map_err(|e| e.to_string())?;
    same(&serde_json::from_str(body).unwrap_or_default(), &serde_json::from_slice(&again).unwrap_or_default())
}

fn same(was: &Value, is: &Value) -> Result<(), String> {
    let (was, is) = (plain(was), plain(is));
    if was == is { Ok(()) } else { Err(format!("was {was}\n  is {is}")) }
}

/// Without nulls, empty citations and `stream: false`; texts as blocks.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, v)| {
                    let says_nothing = (*key == "citations" && **v == json!([])) || (*key == "stream" && **v == false);
                    !v.is_null() && !says_nothing
                })
                .map(|(key, v)| match (key.as_str(), v) {
                    ("content" | "system", Value::String(text)) => {
                        (key.clone(), json!([{"type": "text", "text": text}]))
                    }
                    _ => (key.clone(), plain(v)),
                })
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}
