//! What a request is told to have used and done, as the record keeps it.

use crate::support::{Gateway, Say, Upstream};

#[tokio::test]
async fn usage_is_counted_when_whole_answers_go_through_as_they_came() {
    let answers = [
        (
            "openai_chat",
            "/v1/chat/completions",
            r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
        ),
        (
            "anthropic_messages",
            "/v1/messages",
            r#"{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"x"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":2}}"#,
        ),
        (
            "gemini",
            "/v1beta/models/up/m:generateContent",
            r#"{"candidates":[{"content":{"parts":[{"text":"x"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5}}"#,
        ),
    ];
    for (format, path, answer) in answers {
        let upstream = Upstream::saying(Say::json(answer)).await;
        let gateway = Gateway::start(&upstream.provider("up", format)).await;
        let ask = r#"{"model":"up/m","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#;
        let body = if format == "gemini" { r#"{"contents":[{"parts":[{"text":"x"}]}]}"# } else { ask };
        assert_eq!(gateway.post(path, body).await.text(), answer);
        let record = record(&gateway).await;
        assert_eq!(
            (&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]),
            (&3.into(), &2.into()),
            "{format}: {record}"
        );
    }
}

#[tokio::test]
async fn every_default_of_a_team_is_what_its_requests_start_from() {
    let upstream =
        Upstream::saying(Say::json(r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[]}"#))
            .await;
    let config = format!(
        "{}[auth]\nrequired = true\n[teams.t.defaults]\ntemperature = 0.5\ntop_p = 0.25\nfrequency_penalty = 0.75\n\
         presence_penalty = -1.0\nseed = 7\nmax_tokens = 99\nstop = [\"END\"]\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name": "k", "team": "t"}"#).await;
    let body = r#"{"model":"up/m","top_p":0.5,"messages":[{"role":"user","content":"x"}]}"#;
    let answer = gateway.post_with("/v1/chat/completions", &[("authorization", &format!("Bearer {key}"))], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = upstream.last().json();
    for (name, value) in [("temperature", 0.5), ("top_p", 0.5), ("frequency_penalty", 0.75), ("presence_penalty", -1.0)]
    {
        assert_eq!(heard[name].as_f64(), Some(value), "{name}: {heard}");
    }
    assert_eq!(heard["seed"], 7);
    assert!(heard["max_tokens"] == 99 || heard["max_completion_tokens"] == 99, "{heard}");
    assert!(heard["stop"] == serde_json::json!(["END"]) || heard["stop"] == "END", "{heard}");
    upstream.always(Say::json(
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}],"model":"m"}"#,
    ));
    let body = r#"{"model":"up/m","input":"x"}"#;
    let answer = gateway.post_with("/v1/embeddings", &[("authorization", &format!("Bearer {key}"))], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().json(), serde_json::json!({"model": "m", "input": "x"}));
}

/// The newest record, once it is settled.
async fn record(gateway: &Gateway) -> serde_json::Value {
    loop {
        let list = gateway.admin("GET", "/api/v1/requests", "").await.json();
        if let Some(record) = list["data"].get(0) {
            return record.clone();
        }
        tokio::task::yield_now().await;
    }
}
