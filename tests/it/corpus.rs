//! Recorded traffic through the running gateway: what a provider answered reaches a client of its own format byte for
//! byte. Walks the file that `$PORTCULLIS_CORPUS` names; a clone without one has the other tests.

use serde_json::Value;

use crate::support::{Gateway, Say, Upstream};

#[tokio::test]
async fn recorded_answers_keep_their_bytes() {
    let Ok(path) = std::env::var("PORTCULLIS_CORPUS") else {
        println!("skipped: no PORTCULLIS_CORPUS");
        return;
    };
    let text = std::fs::read_to_string(path).expect("the corpus");
    let upstream = Upstream::start().await;
    let config: Vec<String> = ["openai_chat", "anthropic_messages", "gemini"].map(|f| upstream.provider(f, f)).into();
    let gateway = Gateway::start(&config.concat()).await;
    let (mut same, mut changed) = (0, Vec::new());
    for record in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some((format, path)) = route(&record) else { continue };
        let body = record["response_body"].as_str().expect("a body");
        let mut request = record["request_body"].clone();
        if format != "gemini" {
            request["model"] = format!("{format}/{}", record["model"].as_str().unwrap_or("m")).into();
        }
        // The chunk that nobody asked for is left out on purpose; another test looks at that.
        if body.contains("\"choices\":[],") && format == "openai_chat" {
            request["stream_options"] = serde_json::json!({"include_usage": true});
        }
        let streamed = record["response_kind"] == "sse";
        upstream.always(if streamed { Say::sse(body) } else { Say::json(body) });
        let answer = gateway.post(&path, &request.to_string()).await;
        if answer.text() == body {
            same += 1;
        } else {
            let (id, got) = (record["id"].as_str().unwrap_or("?"), answer.text());
            changed.push(format!("{id} ({}): {}", answer.status, got.chars().take(300).collect::<String>()));
        }
    }
    println!("{same} recorded answers keep their bytes");
    assert!(same > 20 && changed.is_empty(), "{} changed:\n{}", changed.len(), changed.join("\n"));
}

/// The format and the path of a record that was kept as it came over the wire and succeeded.
fn route(record: &Value) -> Option<(&'static str, String)> {
    let kind = record["response_kind"].as_str()?;
    let plain = record["response_body_encoding"].as_str().is_none_or(|e| e != "base64");
    if record["fidelity"] != "wire" || record["status"] != 200 || !plain || !matches!(kind, "json" | "sse") {
        return None;
    }
    if !record["request_body"].is_object() || record["response_body"].as_str()?.is_empty() {
        return None;
    }
    let model = record["model"].as_str().unwrap_or("m");
    // A question for a stream that was answered whole is turned into a stream: not the same bytes, on purpose.
    let streamed = record["stream"].as_bool()? == (kind == "sse");
    // An unnamed server whose streams lack their terminal: dead by contract.
    if kind == "sse"
        && record["endpoint"] == "chat_completions"
        && !record["response_body"].as_str()?.contains("[DONE]")
    {
        return None;
    }
    // A request that the vendor's own rules refuse never reaches an upstream.
    if record["endpoint"] == "messages" && record["request_body"]["max_tokens"].is_null() {
        return None;
    }
    match record["endpoint"].as_str()? {
        "chat_completions" if streamed => Some(("openai_chat", "/v1/chat/completions".to_owned())),
        "messages" if streamed => Some(("anthropic_messages", "/v1/messages".to_owned())),
        "generateContent" => Some(("gemini", format!("/v1beta/models/gemini/{model}:generateContent"))),
        "streamGenerateContent" if kind == "sse" => {
            Some(("gemini", format!("/v1beta/models/gemini/{model}:streamGenerateContent?alt=sse")))
        }
        _ => None,
    }
}
