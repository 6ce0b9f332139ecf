//! Errors, embeddings, counts and models.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    codec::gemini::request::parts::result_text,
    error::Kind,
    model::{EmbeddingInput, Message, Part, Role},
};

fn error(status: u16, body: &str) -> Error {
    Gemini.decode_error(status, &|_| None, &Bytes::copy_from_slice(body.as_bytes()))
}

fn status(code: u16, status: &str, details: Value) -> String {
    json!({ "error": { "code": code, "message": "said", "status": status, "details": details } }).to_string()
}

#[test]
fn upstream_errors_have_their_kinds() {
    let info = json!([{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID" }]);
    assert_eq!(error(400, &status(400, "INVALID_ARGUMENT", info)).kind, Kind::UpstreamAuth);
    for (code, word, kind) in [
        (400, "INVALID_ARGUMENT", Kind::UpstreamRefused),
        (401, "UNAUTHENTICATED", Kind::UpstreamAuth),
        (403, "PERMISSION_DENIED", Kind::UpstreamAuth),
        (404, "NOT_FOUND", Kind::UpstreamRefused),
        (429, "RESOURCE_EXHAUSTED", Kind::UpstreamRateLimited),
        (500, "INTERNAL", Kind::Upstream),
        (503, "UNAVAILABLE", Kind::UpstreamOverloaded),
        (504, "DEADLINE_EXCEEDED", Kind::UpstreamTimeout),
    ] {
        let one = error(code, &status(code, word, json!([])));
        assert_eq!(one.kind, kind, "{code}");
        assert_eq!(one.upstream.as_ref().unwrap().kind.as_deref(), Some(word));
        assert_eq!(error(code, &format!("[{}]", status(code, word, json!([])))).kind, kind, "in a list");
    }
    assert_eq!(error(404, &status(404, "NOT_FOUND", json!([]))).status(), 404);
    assert!(!error(502, "<html>secret</html>").message.contains("html"));
    assert!(!error(401, &status(401, "UNAUTHENTICATED", json!([]))).message.contains("said"));
}

#[test]
fn the_wait_is_found_in_details_and_in_the_header() {
    let retry = json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s" }]);
    assert_eq!(error(429, &status(429, "RESOURCE_EXHAUSTED", retry)).retry_after, Some(Duration::from_millis(17_500)));
    let header = |name: &str| (name == "retry-after").then(|| "9".to_owned());
    let body = Bytes::from(status(429, "RESOURCE_EXHAUSTED", json!([])));
    assert_eq!(Gemini.decode_error(429, &header, &body).retry_after, Some(Duration::from_secs(9)));
    for broken in ["s", "-1s", "1e999s", "NaNs", "17"] {
        let retry = json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": broken }]);
        assert_eq!(error(429, &status(429, "RESOURCE_EXHAUSTED", retry)).retry_after, None, "{broken}");
    }
}

#[test]
fn our_errors_have_the_familys_shape_and_our_code() {
    let given = Error::new(Kind::RateLimited, "slow down").retry_after(Duration::from_millis(1500)).at("contents");
    let body: Value = serde_json::from_slice(&Gemini.encode_error(&given, "req_1")).unwrap();
    assert_eq!(
        body,
        json!({ "error": { "code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED", "details": [
            { "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "rate_limited", "domain": "portcullis" },
            { "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{ "field": "contents", "description": "slow down" }] },
            { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s" },
            { "@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "req_1" } ] } })
    );
}

#[test]
fn a_refusal_keeps_the_upstreams_details_before_ours() {
    let details = json!([{ "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [] }]);
    let refused = error(400, &status(400, "INVALID_ARGUMENT", details));
    let body: Value = serde_json::from_slice(&Gemini.encode_error(&refused, "")).unwrap();
    assert_eq!(
        (&body["error"]["message"], &body["error"]["details"][0]["@type"]),
        (&json!("said"), &json!("type.googleapis.com/google.rpc.BadRequest"))
    );
    assert_eq!(body["error"]["details"][1]["reason"], "upstream_refused");
}

const INBOUND: Inbound<'_> =
    Inbound { model: Some("gemini-embedding-001"), stream: None, version: None, counting: false, legacy: false };

#[test]
fn one_content_and_a_list_are_told_apart() {
    let one = json!({ "content": { "parts": [{ "text": "a" }] }, "taskType": "RETRIEVAL_QUERY", "title": "T", "outputDimensionality": 8 });
    let decoded = Gemini.decode_embeddings(one.to_string().as_bytes(), INBOUND).unwrap();
    assert!(decoded.single);
    let body = Value::Object(Gemini.encode_embeddings(&decoded, &Dialect::of("gemini-embedding-001")).unwrap().body);
    let mut request = one.clone();
    request["model"] = json!("models/gemini-embedding-001");
    assert_eq!(body, json!({ "requests": [request] }));

    let list = json!({ "requests": [{ "model": "models/x", "content": { "parts": [{ "text": "a" }] } }, { "model": "models/x", "content": { "parts": [{ "text": "b" }] } }] });
    let decoded = Gemini.decode_embeddings(list.to_string().as_bytes(), INBOUND).unwrap();
    assert!(!decoded.single);
    assert_eq!(decoded.inputs, [EmbeddingInput::Text("a".into()), EmbeddingInput::Text("b".into())]);
}

#[test]
fn embedding_requests_that_cannot_be_meant_are_refused() {
    let refused = |body: Value| {
        Gemini.decode_embeddings(body.to_string().as_bytes(), INBOUND).unwrap_err().param.clone().unwrap()
    };
    assert_eq!(refused(json!({})), "content");
    assert_eq!(refused(json!({ "requests": [] })), "requests");
    assert_eq!(refused(json!({ "requests": [{ "content": {} }] })), "requests[0].content.parts");
    let mixed = json!({ "requests": [{ "content": { "parts": [{ "text": "a" }] }, "outputDimensionality": 1 }, { "content": { "parts": [{ "text": "a" }] } }] });
    assert_eq!(refused(mixed), "requests");
    let tokens = EmbeddingRequest { inputs: vec![EmbeddingInput::Tokens(vec![1])], ..EmbeddingRequest::default() };
    assert_eq!(Gemini.encode_embeddings(&tokens, &Dialect::of("m")).unwrap_err().param.as_deref(), Some("token_input"));
}

#[test]
fn vectors_go_both_ways() {
    let list =
        br#"{"embeddings":[{"values":[0.1,-0.039718185]},{"values":[1]}],"usageMetadata":{"promptTokenCount":3}}"#;
    let response = Gemini.decode_embeddings_response(list).unwrap();
    assert_eq!(response.vectors, [vec![0.1, -0.039_718_185], vec![1.0]]);
    assert_eq!(response.usage.as_ref().unwrap().input_tokens, Some(3));
    let written = String::from_utf8(Gemini.encode_embeddings_response(&response, &view()).unwrap()).unwrap();
    assert!(written.contains("[0.1,-0.039718185]"), "{written}");
    let one = EmbeddingResponse { vectors: vec![vec![0.5]], ..EmbeddingResponse::default() };
    let single = ClientView { single: true, ..view() };
    assert_eq!(Gemini.encode_embeddings_response(&one, &single).unwrap(), br#"{"embedding":{"values":[0.5]}}"#);
    assert_eq!(Gemini.decode_embeddings_response(b"{}").unwrap_err().kind, Kind::Upstream);
}

#[test]
fn counts_ask_with_the_whole_request() {
    let inner = json!({ "model": "models/m", "systemInstruction": { "parts": [{ "text": "S" }] }, "contents": [{ "role": "user", "parts": [{ "text": "a" }] }] });
    let inbound = Inbound { model: Some("m"), counting: true, ..Inbound::default() };
    let body = json!({ "generateContentRequest": inner });
    let decoded = Gemini.decode_request(body.to_string().as_bytes(), inbound).unwrap();
    assert_eq!(decoded.messages, [Message::text(Role::System, "S"), Message::new(Role::User, vec![Part::text("a")])]);
    assert_eq!(Value::Object(Gemini.encode_count(&decoded, &Dialect::of("m")).unwrap().unwrap().body), body);
    assert_eq!(Gemini.decode_count(br#"{"totalTokens": 61}"#).unwrap(), 61);
    assert!(Gemini.decode_count(b"{}").is_err());
    assert_eq!(Gemini.encode_count_response(5), br#"{"totalTokens":5}"#);
}

#[test]
fn models_have_the_familys_shape() {
    let card = ModelCard {
        id: "openai/gpt-4o".into(),
        context_window: Some(128_000),
        max_output: Some(16_384),
        ..ModelCard::default()
    };
    let body: Value = serde_json::from_slice(&Gemini.encode_models(&[card])).unwrap();
    assert_eq!(
        body,
        json!({ "models": [{ "name": "models/openai/gpt-4o", "displayName": "openai/gpt-4o", "inputTokenLimit": 128_000, "outputTokenLimit": 16_384,
            "supportedGenerationMethods": ["generateContent", "countTokens"] }] })
    );
}

#[test]
fn model_names_tell_their_generation() {
    for (name, new) in [
        ("gemini-3-pro-preview", true),
        ("models/gemini-3.5-flash", true),
        ("publishers/google/models/gemini-3-flash", true),
        ("gemini-flash-latest", true),
        ("gemini-2.5-pro", false),
        ("gemini-10-pro", true),
        ("gemma-3-27b", false),
    ] {
        assert_eq!(wire::is_gemini_3(name), new, "{name}");
    }
}

#[test]
fn a_result_that_is_nothing_but_an_error_failed_whatever_the_error_is() {
    let failed = |response: Value| result_text(response.as_object().expect("an object")).1;
    assert_eq!(failed(json!({ "error": { "code": 1 } })), Some(true));
    assert_eq!(failed(json!({ "error": "no" })), Some(true));
    assert_eq!(failed(json!({ "error": null })), None);
    assert_eq!(failed(json!({ "error": "late", "found": 1 })), None);
}
