//! Legacy completions at an upstream that has their endpoint: they go there as they came, whole and streamed, under the same
//! stages, limits and records as everything else. Elsewhere a chat answers them (`responses.rs`).

use serde_json::{Value, json};

use crate::{
    family::events,
    support::{Answer, Gateway, Say, Upstream},
};

/// An upstream with the endpoint, and a gateway before it.
async fn pair(say: Say, files: &[(&str, &str)], config: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let provider = format!("{config}{}offers = [\"completions\"]\n", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::with(&provider, files).await;
    (upstream, gateway)
}

/// Written as no encoder of ours would.
const WHOLE: &str = r#"{ "id":"cmpl-7","object":"text_completion","created":1,"model":"davinci-002","choices":[{"text":" upon","index":0,"logprobs":{"tokens":[" upon"],"token_logprobs":[-0.10],"top_logprobs":[{" upon":-0.10}],"text_offset":[4]},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4} }"#;

fn whole() -> Say {
    Say::json(WHOLE)
}

fn frames() -> Vec<String> {
    let chunk = |text: &str, finish: Value| {
        format!(
            "data: {}\n\n",
            json!({"id": "cmpl-7", "object": "text_completion", "created": 1, "model": "davinci-002",
                "choices": [{"text": text, "index": 0, "logprobs": {"tokens": [text]}, "finish_reason": finish}], "usage": null})
        )
    };
    let usage = "data: {\"id\":\"cmpl-7\",\"object\":\"text_completion\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n";
    vec![
        chunk("", Value::Null),
        chunk("on ann", Value::Null),
        chunk("e", json!("stop")),
        usage.to_owned(),
        "data: [DONE]\n\n".to_owned(),
    ]
}

fn everything() -> Value {
    json!({"model": "up/davinci-002", "prompt": ["Once", "Then"], "suffix": "end", "echo": true, "logprobs": 1, "best_of": 2,
        "n": 1, "max_tokens": 16, "min_p": 0.050})
}

async fn post(gateway: &Gateway, body: &Value) -> Answer {
    gateway.post("/v1/completions", &body.to_string()).await
}

#[tokio::test]
async fn requests_and_answers_go_as_they_came_and_are_metered() {
    let (upstream, gateway) = pair(whole(), &[], "").await;
    for prompt in [json!("Once"), json!(["Once", "Then"]), json!([9, 8, 7]), json!([[9, 8], [7]])] {
        let mut asked = everything();
        asked["prompt"] = prompt;
        let answer = post(&gateway, &asked).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, WHOLE));
        let heard = upstream.last();
        assert_eq!(heard.path, "/v1/completions");
        let mut wanted = asked;
        wanted["model"] = "davinci-002".into();
        assert_eq!(heard.json(), wanted);
        assert_eq!(answer.header("x-portcullis-target"), Some("up/davinci-002"));
    }
    let record = gateway.record(4).await;
    assert_eq!(
        (&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]),
        (&json!(3), &json!(1)),
        "{record}"
    );
}

#[tokio::test]
async fn streams_go_as_they_came_but_for_the_usage_that_nobody_asked_for() {
    for (say, asked_usage) in [
        (Say::sse(frames().concat()), false),
        (Say::sse(frames().concat()).bytewise(), false),
        (Say::sse(frames().concat()), true),
    ] {
        let (upstream, gateway) = pair(say, &[], "").await;
        let mut asked = everything();
        asked["stream"] = true.into();
        if asked_usage {
            asked["stream_options"] = json!({"include_usage": true});
        }
        let answer = post(&gateway, &asked).await;
        let mut wanted = frames();
        if !asked_usage {
            wanted.remove(3);
        }
        assert_eq!((answer.status, answer.text()), (200, wanted.concat()));
        assert_eq!(upstream.last().json()["stream_options"], json!({"include_usage": true}));
        let record = gateway.record(1).await;
        assert_eq!(
            (&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]),
            (&json!(3), &json!(2)),
            "{record}"
        );
    }
}

#[tokio::test]
async fn stages_see_the_prompt_and_change_prompt_and_answer() {
    let script = "const STREAM = \"whole\";\nfn request(request, context) { context.note(request.last_user_text); }\n\
                  fn response(response, context) { response.text = response.text.to_upper(); }\n";
    let (upstream, gateway) = pair(whole(), &[("scripts/a.rhai", script)], "").await;
    let answer = post(&gateway, &everything()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let choice = &answer.json()["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["logprobs"]["tokens"]),
        (&json!(" UPON"), &json!([" upon"])),
        "{}",
        answer.text()
    );
    assert_eq!(upstream.last().json()["suffix"], "end");
    let record = gateway.record(1).await;
    assert!(record.to_string().contains("Once\\nThen\\nend"), "{record}");

    upstream.always(Say::sse(frames().concat()));
    let mut asked = everything();
    asked["stream"] = true.into();
    let answer = post(&gateway, &asked).await;
    let text: String =
        events(&answer).iter().filter_map(|e| e["choices"][0]["text"].as_str().map(str::to_owned)).collect();
    assert_eq!(text, "ON ANNE", "{}", answer.text());
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_redaction_reaches_prompts_and_suffix_and_is_undone_in_the_answer() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("plugins")).expect("a folder");
    let component = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/redact/redact.wasm");
    std::fs::copy(component, dir.path().join("plugins/redact.wasm")).expect("the component");
    let config = format!(
        "[[stages]]\nuse = \"plugins/redact.wasm\"\nlimits = {{ cpu = \"2s\" }}\n{}offers = [\"completions\"]\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::in_dir(dir, &config).await;
    upstream.then(Say::json(WHOLE.replace("\"text\":\" upon\"", "\"text\":\"to [EMAIL_1]\"")));
    let asked = json!({"model": "up/m", "prompt": ["I am ann@example.org", "no"], "suffix": "by bob@example.org", "echo": true});
    let answer = post(&gateway, &asked).await;
    assert_eq!(answer.json()["choices"][0]["text"], "to ann@example.org", "{}", answer.text());
    let wanted = json!({"model": "m", "prompt": ["I am [EMAIL_1]", "no"], "suffix": "by [EMAIL_2]", "echo": true});
    assert_eq!(upstream.last().json(), wanted);
}

#[tokio::test]
async fn a_dead_stream_and_a_refusal_keep_their_shape() {
    let (upstream, gateway) = pair(Say::sse(frames()[..2].concat()), &[], "").await;
    let mut asked = everything();
    asked["stream"] = true.into();
    let answer = post(&gateway, &asked).await;
    assert!(answer.text().contains("\"error\"") && !answer.text().contains("[DONE]"), "{}", answer.text());
    let refusal =
        r#"{"error":{"message":"This is a chat model","type":"invalid_request_error","param":"model","code":null}}"#;
    upstream.always(Say::error(404, refusal));
    let answer = post(&gateway, &asked).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["message"].as_str().map(|m| m.contains("chat model"))),
        (404, Some(true))
    );
}

#[tokio::test]
async fn all_answers_of_a_completion_are_reserved_before_any_is_made() {
    // 2 prompts, the best of 3 each, 1000 tokens an answer: 6000 tokens of output at a dollar a million.
    let limits = "[auth]\nrequired = true\n[teams.t]\nbudget = { usd = 0.005, per = \"month\" }\n[[pricing]]\nmodel = \"up/m\"\ninput = 0\noutput = 1\n";
    let (upstream, gateway) = pair(whole(), &[], limits).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"t"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = |best_of: u64| {
        json!({"model": "up/m", "prompt": ["a", "b"], "best_of": best_of, "max_tokens": 1000}).to_string()
    };
    let answer = gateway.post_with("/v1/completions", &headers, &body(3)).await;
    assert_eq!((answer.status, upstream.heard().len()), (429, 0), "{}", answer.text());
    let answer = gateway.post_with("/v1/completions", &headers, &body(2)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_prompt_of_tokens_counts_as_tokens() {
    let limits = "[auth]\nrequired = true\n[teams.t]\nlimits = { tokens_per_minute = 1000 }\n";
    let (upstream, gateway) = pair(whole(), &[], limits).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"t"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = |tokens: usize| json!({"model": "up/m", "prompt": vec![12345; tokens], "max_tokens": 1}).to_string();
    let answer = gateway.post_with("/v1/completions", &headers, &body(5000)).await;
    assert_ne!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.heard().len(), 0);
    assert_eq!(gateway.post_with("/v1/completions", &headers, &body(50)).await.status, 200);
}

#[tokio::test]
async fn a_target_without_the_endpoint_is_passed_over_for_one_that_has_it() {
    let (upstream, gateway) = {
        let upstream = Upstream::saying(whole()).await;
        let config = format!(
            "{}offers = [\"completions\"]\n[models.any]\ntargets = [{{ provider = \"mock\", model = \"mock\" }}, {{ provider = \"up\", model = \"m\" }}]\n",
            upstream.provider("up", "openai_chat")
        );
        (upstream, Gateway::start(&config).await)
    };
    let mut asked = everything();
    asked["model"] = "any".into();
    assert_eq!(post(&gateway, &asked).await.text(), WHOLE);
    assert_eq!(upstream.heard().len(), 1);
    // What a chat can do as well, it does.
    let answer = post(&gateway, &json!({"model": "any", "prompt": "hello"})).await;
    assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("mock/mock")));
}
