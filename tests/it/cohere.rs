//! Cohere's chat format at the gateway's edge: as client and as upstream, whole and streamed, and its embeddings.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, events},
    support::{Answer, Gateway, Say, Upstream},
};

fn body(stream: bool) -> String {
    json!({"model": "co/m", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}).to_string()
}

fn whole() -> Say {
    let usage = json!({"billed_units": {"input_tokens": 3, "output_tokens": 2}, "tokens": {"input_tokens": 90, "output_tokens": 4}});
    let message = json!({"role": "assistant", "content": [{"type": "text", "text": "hello"}]});
    Say::json(json!({"id": "c-1", "message": message, "finish_reason": "COMPLETE", "usage": usage}).to_string())
}

fn frames() -> Vec<String> {
    let usage = json!({"billed_units": {"input_tokens": 3, "output_tokens": 2}, "tokens": {"input_tokens": 90, "output_tokens": 4}});
    let piece =
        |text: &str| json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}});
    let list = [
        json!({"type": "message-start", "id": "c-1", "delta": {"message": {"role": "assistant"}}}),
        json!({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
        piece("hel"),
        piece("lo"),
        json!({"type": "content-end", "index": 0}),
        json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}}),
    ];
    let frame = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"));
    list.iter().map(frame).chain(["data: [DONE]\n\n".to_owned()]).collect()
}

fn stream() -> Say {
    Say::sse(frames().concat())
}

fn text(answer: &Answer) -> String {
    let pick = |e: &Value| e.pointer("/delta/message/content/text").and_then(Value::as_str).map(str::to_owned);
    events(answer).iter().filter_map(pick).collect()
}

#[tokio::test]
async fn answers_of_the_same_format_pass_as_they_came_and_what_is_billed_is_recorded() {
    for say in [stream(), stream().bytewise()] {
        let upstream = Upstream::saying(say).await;
        let gateway = Gateway::start(&upstream.provider("co", "cohere")).await;
        let answer = gateway.post("/v2/chat", &body(true)).await;
        assert_eq!((answer.status, answer.text()), (200, frames().concat()));
        assert_eq!(upstream.last().path, "/v1/chat");
        let record = gateway.record(1).await;
        assert_eq!(
            (&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]),
            (&json!(90), &json!(4)),
            "{record}"
        );
    }
    let upstream = Upstream::saying(whole()).await;
    let gateway = Gateway::start(&upstream.provider("co", "cohere")).await;
    let answer = gateway.post("/v2/chat", &body(false)).await;
    assert_eq!((answer.status, &answer.body), (200, &whole().chunks[0].1));
    assert_eq!(gateway.record(1).await["usage"]["input_tokens"], 90);
}

#[tokio::test]
async fn clients_of_every_family_read_its_answers() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&upstream.provider("co", "cohere")).await;
    for family in FAMILIES {
        upstream.then(whole()).then(stream()).then(stream().bytewise());
        let answer = family.ask(&gateway, "co/m", false).await;
        assert_eq!((answer.status, family.text(&answer).as_str()), (200, "hello"), "{family:?} {}", answer.text());
        assert_eq!(upstream.last().json()["messages"], json!([{"role": "user", "content": "hello"}]));
        for _ in 0..2 {
            let answer = family.ask(&gateway, "co/m", true).await;
            let told = (answer.status, family.text(&answer), family.terminals(&answer));
            assert_eq!(told, (200, "hello".to_owned(), 1), "{family:?} {}", answer.text());
        }
    }
}

#[tokio::test]
async fn its_clients_read_answers_of_every_family() {
    for family in FAMILIES {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(&upstream.provider("co", family.format())).await;
        upstream.then(Say::json(family.whole("hello")));
        let answer = gateway.post("/v2/chat", &body(false)).await;
        assert_eq!(answer.status, 200, "{family:?} {}", answer.text());
        assert_eq!(answer.json()["message"]["content"], json!([{"type": "text", "text": "hello"}]), "{family:?}");
        assert_eq!(
            answer.json()["usage"]["billed_units"],
            json!({"input_tokens": 3, "output_tokens": 2}),
            "{family:?}"
        );
        upstream.then(Say::sse(family.frames(&["hel", "lo"]).concat()));
        let answer = gateway.post("/v2/chat", &body(true)).await;
        assert_eq!(text(&answer), "hello", "{family:?} {}", answer.text());
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{family:?}");
    }
}

#[tokio::test]
async fn errors_have_its_shape_before_and_inside_a_stream() {
    let upstream = Upstream::saying(Say::error(429, r#"{"id":"e","message":"slow down"}"#)).await;
    let gateway = Gateway::start(&upstream.provider("co", "cohere")).await;
    let answer = gateway.post("/v2/chat", &body(false)).await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (429, Some("slow down")));
    let answer = gateway.post("/v2/chat", "{").await;
    assert!(answer.status == 400 && answer.json()["message"].is_string(), "{}", answer.text());
    let failed = "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",\"error\":\"it broke\"}}\n\n";
    let mut say = Say::sse(frames()[..4].concat());
    say.chunks.push((Duration::from_millis(60), failed.as_bytes().to_vec()));
    upstream.always(say);
    let answer = gateway.post("/v2/chat", &body(true)).await;
    assert!(answer.text().contains("it broke") && !answer.text().contains("[DONE]"), "{}", answer.text());
    for family in FAMILIES {
        let answer = family.ask(&gateway, "co/m", true).await;
        assert_eq!(family.stream_errors(&answer).len(), 1, "{family:?} {}", answer.text());
        assert_eq!(family.terminals(&answer), 0, "{family:?}");
    }
}

#[tokio::test]
async fn embeddings_are_asked_for_with_what_they_are_for() {
    let answer =
        json!({"id": "e", "embeddings": {"float": [[0.5, -1.0]]}, "meta": {"billed_units": {"input_tokens": 4}}});
    let upstream = Upstream::saying(Say::json(answer.to_string())).await;
    let gateway = Gateway::start(&upstream.provider("co", "cohere")).await;
    let ask = json!({"model": "co/embed-v4.0", "input": "hello", "encoding_format": "float"});
    let got = gateway.post("/v1/embeddings", &ask.to_string()).await;
    assert_eq!((got.status, &got.json()["data"][0]["embedding"]), (200, &json!([0.5, -1.0])), "{}", got.text());
    assert_eq!(got.json()["usage"]["prompt_tokens"], 4);
    let heard = upstream.last();
    assert_eq!((heard.path.as_str(), &heard.json()["input_type"]), ("/v1/embed", &json!("search_document")));
    let own = json!({"model": "co/embed-v4.0", "texts": ["hello"], "input_type": "search_query", "embedding_types": ["int8"]});
    let got = gateway.post("/v2/embed", &own.to_string()).await;
    assert_eq!((got.status, got.json()), (200, answer), "as it came");
    assert_eq!(upstream.last().json()["embedding_types"], json!(["int8"]));
}

#[tokio::test]
async fn the_mock_speaks_it() {
    let gateway = Gateway::start("").await;
    let ask = |stream: bool| {
        json!({"model": "mock/m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
    };
    let answer = gateway.post("/v2/chat", &ask(false)).await;
    assert_eq!(answer.json()["message"]["content"][0]["text"], "mock/m heard: hi", "{}", answer.text());
    assert_eq!(text(&gateway.post("/v2/chat", &ask(true)).await), "mock/m heard: hi");
}
