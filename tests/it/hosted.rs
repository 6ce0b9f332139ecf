//! Tools that a provider runs, asked of another one: a search becomes the target's own and its sources come back; what is only
//! offered is left out and the client is told; what is forced, or asked of a strict model, is refused.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{Anthropic, FAMILIES, Gemini, events},
    support::{Gateway, Say, Upstream},
};

fn asked(model: &str, tools: &Value) -> Value {
    json!({"model": model, "input": "what is new?", "tools": tools})
}

fn function() -> Value {
    json!({"type": "function", "name": "f", "strict": false, "parameters": {"type": "object", "properties": {}}})
}

/// A provider that is known to search.
async fn vendor(upstream: &Upstream, row: &str, key: &str) -> Gateway {
    let version = if row == "gemini" { "v1beta" } else { "v1" };
    let config = format!(
        "[providers.up]\nrow = \"{row}\"\nbase_url = \"http://{}/{version}\"\nkey = \"file:up.key\"\n",
        upstream.addr
    );
    Gateway::with(&config, &[("up.key", key)]).await
}

fn found() -> Value {
    json!([
        {"type": "text", "text": "I look. "},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "news"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result",
            "url": "https://a.example/1", "title": "One", "encrypted_content": "sealed", "page_age": null}]},
        {"type": "text", "text": "Much is new.", "citations": [{"type": "web_search_result_location",
            "url": "https://a.example/1", "title": "One", "encrypted_index": "e", "cited_text": "much"}]},
    ])
}

const USAGE: &str = r#"{"input_tokens": 30, "output_tokens": 12, "server_tool_use": {"web_search_requests": 1}}"#;

fn usage() -> Value {
    serde_json::from_str(USAGE).expect("JSON")
}

fn whole() -> Say {
    Say::json(
        json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": found(),
            "stop_reason": "end_turn", "stop_sequence": null, "usage": usage()})
        .to_string(),
    )
}

fn stream() -> Say {
    let mut frames = Vec::new();
    let mut say =
        |event: Value| frames.push(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type")));
    say(
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 30, "output_tokens": 1}}}),
    );
    for (index, block) in found().as_array().expect("blocks").iter().enumerate() {
        let (start, deltas) = match block["type"].as_str() {
            Some("text") => {
                let mut deltas: Vec<Value> = block["citations"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|c| json!({"type": "citations_delta", "citation": c}))
                    .collect();
                deltas.push(json!({"type": "text_delta", "text": block["text"]}));
                (json!({"type": "text", "text": ""}), deltas)
            }
            Some("server_tool_use") => {
                let mut start = block.clone();
                start["input"] = json!({});
                (start, vec![json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})])
            }
            _ => (block.clone(), Vec::new()),
        };
        say(json!({"type": "content_block_start", "index": index, "content_block": start}));
        for delta in deltas {
            say(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        say(json!({"type": "content_block_stop", "index": index}));
    }
    say(
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": usage()}),
    );
    say(json!({"type": "message_stop"}));
    Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO)
}

#[tokio::test]
async fn a_search_runs_at_another_vendor_and_its_sources_come_back() {
    let upstream = Upstream::saying(whole()).await;
    let gateway = vendor(&upstream, "anthropic", "k").await;
    let tools = json!([{"type": "web_search", "filters": {"allowed_domains": ["a.example"]}}, function()]);
    let mut body = asked("up/claude-sonnet-4-5", &tools);
    let answer = gateway.post("/v1/responses", &body.to_string()).await;
    assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, None), "{}", answer.text());
    let sent = upstream.last().json();
    assert_eq!(
        sent["tools"][0],
        json!({"type": "web_search_20250305", "name": "web_search", "allowed_domains": ["a.example"]})
    );
    let check = |output: &Value| {
        let kinds: Vec<_> =
            output.as_array().expect("items").iter().map(|i| i["type"].as_str().expect("a type")).collect();
        assert_eq!(kinds, ["message", "web_search_call", "message"], "{output}");
        assert_eq!(output[1]["action"]["query"], "news");
        let text = &output[2]["content"][0];
        assert_eq!(
            (&text["text"], &text["annotations"][0]["url"]),
            (&json!("Much is new."), &json!("https://a.example/1"))
        );
    };
    let answer = answer.json();
    check(&answer["output"]);

    // What came back can be sent back, to this vendor and to one that searches otherwise.
    let mut input = vec![json!({"role": "user", "content": "what is new?"})];
    input.extend(answer["output"].as_array().expect("items").iter().cloned());
    input.push(json!({"role": "user", "content": "more"}));
    body["input"] = input.into();
    let again = gateway.post("/v1/responses", &body.to_string()).await;
    assert_eq!(
        (again.status, again.header("x-portcullis-dropped-params")),
        (200, Some("past_searches")),
        "{}",
        again.text()
    );
    assert!(upstream.last().json()["messages"].to_string().contains("Much is new."));

    upstream.always(stream());
    let mut body = asked("up/claude-sonnet-4-5", &tools);
    body["stream"] = true.into();
    let answer = gateway.post("/v1/responses", &body.to_string()).await;
    let events = events(&answer);
    check(&events.last().expect("an end")["response"]["output"]);
    let done: Vec<_> =
        events.iter().filter(|e| e["type"] == "response.output_item.done").map(|e| e["item"].clone()).collect();
    check(&Value::Array(done));
    let record = gateway.record(3).await;
    assert_eq!(record["usage"]["output_tokens"], 12, "{record}");
}

#[tokio::test]
async fn a_chats_search_options_run_at_a_vendor_whose_search_is_a_tool() {
    let upstream = Upstream::saying(Say::json(Gemini.whole("new things"))).await;
    let gateway = vendor(&upstream, "gemini", "k").await;
    let body =
        json!({"model": "up/gemini-2.5-pro", "messages": [{"role": "user", "content": "x"}], "web_search_options": {}});
    let answer = gateway.chat(&body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().json()["tools"], json!([{"googleSearch": {}}]));
    // A server in no row is taken for its format's vendor.
    let other = Upstream::saying(Say::json(Anthropic.whole("x"))).await;
    let plain = Gateway::start(&other.provider("up", "anthropic_messages")).await;
    assert_eq!(plain.chat(&body.to_string().replace("up/gemini-2.5-pro", "up/m")).await.status, 200);
    assert_eq!(other.last().json()["tools"][0]["name"], "web_search");
    // Where nothing searches it is an ability that lacks.
    let (other, plain) = {
        let other = Upstream::saying(Say::json(Anthropic.whole("x"))).await;
        let gateway = Gateway::start(&other.provider("up", "cohere")).await;
        (other, gateway)
    };
    let answer = plain.chat(&body.to_string().replace("up/gemini-2.5-pro", "up/m")).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["param"].as_str()),
        (400, Some("web_search")),
        "{}",
        answer.text()
    );
    assert!(other.heard().is_empty());
}

#[tokio::test]
async fn what_is_only_offered_is_left_out_and_told_unless_the_model_is_strict() {
    let offered =
        json!([{"type": "web_search", "external_web_access": false}, {"type": "image_generation"}, function()]);
    for family in FAMILIES {
        let upstream = Upstream::saying(Say::json(family.whole("done"))).await;
        let config = format!(
            "{}[models.exact]\nstrict = true\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n",
            upstream.provider("up", family.format())
        );
        let gateway = Gateway::start(&config).await;
        let answer = gateway.post("/v1/responses", &asked("up/m", &offered).to_string()).await;
        let told = answer.header("x-portcullis-dropped-params").unwrap_or_default().to_owned();
        assert_eq!(answer.status, 200, "{family:?}: {}", answer.text());
        assert!(told.contains("web_search") && told.contains("image_generation"), "{family:?}: {told}");
        let sent = upstream.last().json().to_string();
        assert!(sent.contains("\"f\"") && !sent.contains("web_search"), "{family:?}: {sent}");

        let answer = gateway.post("/v1/responses", &asked("exact", &offered).to_string()).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (400, Some("unsupported_parameter")),
            "{family:?}"
        );
        let mut forced = asked("up/m", &offered);
        forced["tool_choice"] = json!({"type": "web_search"});
        let answer = gateway.post("/v1/responses", &forced.to_string()).await;
        assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("web_search")), "{family:?}");
        let own = asked("up/m", &json!([{"type": "file_search", "vector_store_ids": ["vs_1"]}, function()]));
        let answer = gateway.post("/v1/responses", &own.to_string()).await;
        assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("file_search")), "{family:?}");
        assert_eq!(upstream.heard().len(), 1, "{family:?}");
    }
}

#[tokio::test]
async fn a_vendor_of_the_same_format_is_not_sent_tools_that_it_does_not_run() {
    let answer = json!({"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m",
        "output": [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "done", "annotations": []}]}],
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}});
    let upstream = Upstream::saying(Say::json(answer.to_string())).await;
    let gateway = vendor(&upstream, "groq", "k").await;
    let tools = json!([{"type": "web_search", "external_web_access": false}, {"type": "browser_search"}, function()]);
    let answer = gateway.post("/v1/responses", &asked("up/openai/gpt-oss-120b", &tools).to_string()).await;
    assert_eq!(
        (answer.status, answer.header("x-portcullis-dropped-params")),
        (200, Some("web_search")),
        "{}",
        answer.text()
    );
    let kinds: Vec<_> =
        upstream.last().json()["tools"].as_array().expect("tools").iter().map(|t| t["type"].clone()).collect();
    assert_eq!(kinds, ["browser_search", "function"]);
}

#[tokio::test]
async fn code_runs_in_another_vendors_sandbox_and_comes_back_as_the_clients_own_item() {
    let parts = json!([
        {"executableCode": {"language": "PYTHON", "code": "print(6*7)", "id": "a"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42\n", "id": "a"}},
        {"text": "It is 42."},
    ]);
    let body =
        json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 9, "totalTokenCount": 12}})
        .to_string();
    let upstream = Upstream::saying(Say::json(body.clone())).await;
    let gateway = vendor(&upstream, "gemini", "k").await;
    let tools = json!([{"type": "code_interpreter", "container": {"type": "auto"}}]);
    let mut request = asked("up/gemini-2.5-pro", &tools);
    let answer = gateway.post("/v1/responses", &request.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().json()["tools"], json!([{"codeExecution": {}}]));
    let check = |output: &Value| {
        let kinds: Vec<_> =
            output.as_array().expect("items").iter().map(|i| i["type"].as_str().expect("a type")).collect();
        assert_eq!(kinds, ["code_interpreter_call", "message"], "{output}");
        assert_eq!((&output[0]["code"], &output[0]["outputs"][0]["logs"]), (&json!("print(6*7)"), &json!("42\n")));
    };
    let whole = answer.json();
    check(&whole["output"]);

    // What came back can be sent back: the model reads what was run.
    let mut input = vec![json!({"role": "user", "content": "how much?"})];
    input.extend(whole["output"].as_array().expect("items").iter().cloned());
    input.push(json!({"role": "user", "content": "sure?"}));
    request["input"] = input.into();
    let again = gateway.post("/v1/responses", &request.to_string()).await;
    assert_eq!(again.status, 200, "{}", again.text());
    let sent = upstream.last().json()["contents"].to_string();
    assert!(sent.contains("print(6*7)") && sent.contains("42") && !sent.contains("ci_pc_"), "{sent}");

    upstream.always(Say::sse(format!("data: {body}\n\n")));
    let mut request = asked("up/gemini-2.5-pro", &tools);
    request["stream"] = true.into();
    let answer = gateway.post("/v1/responses", &request.to_string()).await;
    let events = events(&answer);
    check(&events.last().expect("an end")["response"]["output"]);

    // Elsewhere it is refused by name, and nothing is sent.
    let other = Upstream::saying(Say::json(Anthropic.whole("x"))).await;
    let plain = Gateway::start(&other.provider("up", "cohere")).await;
    let answer = plain.post("/v1/responses", &asked("up/m", &tools).to_string()).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["param"].as_str()),
        (400, Some("code_interpreter")),
        "{}",
        answer.text()
    );
    assert!(other.heard().is_empty());
}
