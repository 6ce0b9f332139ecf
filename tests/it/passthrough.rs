//! The fast lane: the same format on both sides, nobody changes anything.

use std::time::Duration;

use crate::support::{End, Gateway, Say, Upstream};

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"up-1","choices":[{"index":0,"message":{"role":"assistant","content":"hi \u00e9","x_unknown":1.50},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

const FRAMES: [&str; 4] = [
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hé\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

#[tokio::test]
async fn bytes_go_through_as_they_came() {
    let upstream = Upstream::saying(Say::json(ANSWER)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let body = r#"{ "messages":[{"role":"user","content":"h\u00e9"}] , "model":"up/gpt-x", "unknown": 1.0e2 }"#;
    let answer = gateway.chat(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), ANSWER);
    assert_eq!(answer.header("x-portcullis-target"), Some("up/gpt-x"));
    assert_eq!(answer.header("x-portcullis-model"), Some("up/gpt-x"));
    assert_eq!(answer.header("x-portcullis-attempts"), Some("1"));
    let heard = upstream.last();
    assert_eq!(heard.path, "/v1/chat/completions");
    assert_eq!(String::from_utf8_lossy(&heard.body), body.replace("\"up/gpt-x\"", "\"gpt-x\""));
}

#[tokio::test]
async fn streams_go_through_as_they_came() {
    let upstream = Upstream::saying(Say::frames(&FRAMES, Duration::from_millis(5))).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(answer.text(), FRAMES.concat());
    assert!(answer.complete);
    assert_eq!(upstream.last().json()["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn the_usage_chunk_nobody_asked_for_is_left_out() {
    let usage = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n";
    let frames = [FRAMES[0], FRAMES[1], FRAMES[2], usage, FRAMES[3]];
    let upstream = Upstream::saying(Say::frames(&frames, Duration::ZERO)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let quiet = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(quiet.text(), FRAMES.concat());
    let asked = r#"{"model":"up/m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}"#;
    assert_eq!(gateway.chat(asked).await.text(), frames.concat());
}

#[tokio::test]
async fn a_stream_that_dies_is_an_error_never_a_clean_end() {
    let upstream = Upstream::saying(Say::frames(&FRAMES[..2], Duration::ZERO).end(End::Cut)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert!(answer.text().contains("hé") && answer.text().contains("\"error\""), "{}", answer.text());
    assert!(!answer.text().contains("[DONE]"));
}

#[tokio::test]
async fn a_stream_that_dies_before_its_first_event_is_a_real_5xx() {
    let upstream = Upstream::saying(Say::frames(&FRAMES[..1], Duration::ZERO).end(End::Cut)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "upstream_disconnected");
}
