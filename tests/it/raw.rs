//! The raw passthrough: a provider's own paths, as far as its row lists them, under the same pipeline as everything else.

use crate::support::{Gateway, Say, Upstream, request};

const ANSWER: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn listed(upstream: &Upstream, paths: &str) -> String {
    format!("{}passthrough = [{paths}]\n", upstream.provider("up", "openai_chat"))
}

#[tokio::test]
async fn a_listed_path_goes_through_with_its_query_and_without_the_callers_key() {
    let upstream = Upstream::saying(Say::json(ANSWER)).await;
    let config = format!("[auth]\nrequired = true\n{}", listed(&upstream, "\"/chat/completions\", \"/models/*\""));
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name":"k"}"#).await;
    let body = r#"{"model":"m", "messages":[{"role":"user","content":"x"}],"own":1.0}"#;
    let path = format!("/providers/up/chat/completions?a=1&key={key}&b=%20");
    let answer = gateway.post_with(&path, &[("content-type", "application/json"), ("cookie", "c=1")], body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER));
    let heard = upstream.last();
    assert_eq!((heard.path.as_str(), heard.body.as_slice()), ("/v1/chat/completions?a=1&b=%20", body.as_bytes()));
    assert!(!heard.headers.iter().any(|(n, v)| n == "cookie" || v.contains(&key)), "{:?}", heard.headers);
    let record = gateway.record(1).await;
    assert_eq!(
        (record["operation"].as_str(), record["target"].as_str()),
        (Some("passthrough"), Some("up/m")),
        "{record}"
    );
    assert_eq!(
        record["attempts"][0]["usage"]["output_tokens"].as_u64().or(record["usage"]["output_tokens"].as_u64()),
        Some(2),
        "{record}"
    );
    let bearer = format!("Bearer {key}");
    let got = request(gateway.addr, "GET", "/providers/up/models/a%2Db", &[("authorization", &bearer)], b"").await;
    assert_eq!((got.status, upstream.last().method.as_str()), (200, "GET"));
    assert_eq!(upstream.last().path, "/v1/models/a-b");
}

#[tokio::test]
async fn what_is_not_listed_or_not_plain_reaches_nobody() {
    let upstream = Upstream::saying(Say::json("{}")).await;
    let gateway = Gateway::start(&listed(&upstream, "\"/models/*\"")).await;
    for (method, path, status) in [
        ("GET", "/providers/up/files", 404),
        ("DELETE", "/providers/up/models/x", 404),
        ("GET", "/providers/up/models/../files", 400),
        ("GET", "/providers/up/models/%2e%2e/files", 400),
        ("GET", "/providers/up/models/%252e", 400),
        ("GET", "/providers/up//models/x", 400),
        ("GET", "/providers/up/models/a%5c..%5cb", 400),
        ("GET", "/providers/none/models/x", 404),
        ("GET", "/providers/up", 404),
        ("GET", "/providers/%75p%2f..%2fx/models/x", 404),
    ] {
        let answer = request(gateway.addr, method, path, &[], b"").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    assert!(upstream.heard().is_empty());
}

#[tokio::test]
async fn a_key_bound_to_models_needs_one_that_can_be_read() {
    let upstream = Upstream::saying(Say::json(ANSWER)).await;
    let config = format!("[auth]\nrequired = true\n{}", listed(&upstream, "\"/*\""));
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name":"k","models":["up/mine"]}"#).await;
    let bearer = format!("Bearer {key}");
    let json = ("content-type", "application/json");
    for (path, headers, body, status) in [
        ("/chat/completions", vec![json], r#"{"model":"mine"}"#, 200),
        ("/chat/completions", vec![json], r#"{"model":"other"}"#, 403),
        ("/chat/completions", vec![json], "{}", 403),
        ("/chat/completions", vec![json], r#"{"model":"mine","model":"other"}"#, 400),
        ("/chat/completions", vec![], r#"{"model":"mine"}"#, 403),
        ("/models/mine:do", vec![], "x", 200),
        ("/models/other:do", vec![], "x", 403),
    ] {
        let headers = [vec![("authorization", bearer.as_str())], headers].concat();
        let answer = gateway.post_with(&format!("/providers/up{path}"), &headers, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
    }
}

#[tokio::test]
async fn streams_and_refusals_are_the_providers_own() {
    let frames = [
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":6}}\n\n",
        "data: [DONE]\n\n",
    ];
    let upstream = Upstream::saying(Say::frames(&frames, std::time::Duration::from_millis(2))).await;
    let gateway = Gateway::start(&listed(&upstream, "\"/chat/completions\"")).await;
    let answer = gateway.post("/providers/up/chat/completions", r#"{"model":"m","stream":true,"messages":[]}"#).await;
    assert_eq!((answer.text(), answer.header("content-type")), (frames.concat(), Some("text/event-stream")));
    let record = gateway.record(1).await;
    assert_eq!(
        record["attempts"][0]["usage"]["output_tokens"].as_u64().or(record["usage"]["output_tokens"].as_u64()),
        Some(6),
        "{record}"
    );
    upstream.always(Say::error(422, r#"{"error":{"message":"no","type":"t","param":null,"code":"c"}}"#));
    let answer = gateway.post("/providers/up/chat/completions", r#"{"model":"m","messages":[]}"#).await;
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (422, Some("no")));
}
