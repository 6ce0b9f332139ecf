//! What a model cannot take: a knob is dropped and named, or refused by a strict model; a feature passes the target over, and
//! nothing is spent. And the versions of Anthropic's API, which differ in what they take.

use serde_json::json;

use crate::support::{Gateway, Say, Upstream};

const OPENAI: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#;
const CLAUDE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hello"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":3}}"#;

/// A row of the catalogue at this upstream.
fn row(name: &str, row: &str, upstream: &Upstream) -> String {
    format!("[providers.{name}]\nrow = \"{row}\"\nbase_url = \"http://{}/v1\"\nkey = \"file:key\"\n", upstream.addr)
}

async fn gateway(config: &str) -> Gateway {
    Gateway::with(config, &[("key", "sk-upstream")]).await
}

#[tokio::test]
async fn a_knob_is_dropped_and_named_or_refused_by_a_strict_model() {
    let (first, second) = (Upstream::saying(Say::json(OPENAI)).await, Upstream::saying(Say::json(OPENAI)).await);
    let config = format!(
        "{}{}[models.loose]\ntargets = [{{ provider = \"a\", model = \"gpt-5\" }}]\n\
         [models.strict]\nstrict = true\ntargets = [{{ provider = \"a\", model = \"gpt-5\" }}]\n\
         [models.both]\nstrict = true\ntargets = [{{ provider = \"a\", model = \"gpt-5\" }}, {{ provider = \"b\", model = \"gpt-4.1\" }}]\n",
        row("a", "openai", &first),
        row("b", "openai", &second)
    );
    let gateway = gateway(&config).await;
    let body = |model: &str, more: &str| {
        format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]{more}}}"#)
    };
    let knobs = r#","temperature":0.5,"top_p":0.9"#;
    let answer = gateway.chat(&body("loose", knobs)).await;
    assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, Some("temperature,top_p")));
    let sent = first.last().json();
    assert!(sent.get("temperature").is_none() && sent.get("top_p").is_none(), "{sent}");
    let answer = gateway.chat(&body("strict", knobs)).await;
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"], &error["param"]),
        (400, &json!("unsupported_parameter"), &json!("temperature"))
    );
    assert!(error["message"].as_str().unwrap().contains("temperature, top_p"), "{error}");
    assert_eq!(first.heard().len(), 1, "nothing was sent");
    assert_eq!(gateway.chat(&body("strict", "")).await.status, 200, "what it can take, it takes");
    // The same from another format, and with another target that takes them.
    let claude = r#"{"model":"strict","max_tokens":9,"temperature":0.5,"messages":[{"role":"user","content":"hi"}]}"#;
    let answer = gateway.post("/v1/messages", claude).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    let answer = gateway.chat(&body("both", knobs)).await;
    assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("b/gpt-4.1")));
    assert_eq!(second.last().json()["temperature"], json!(0.5));
}

#[tokio::test]
async fn a_field_that_no_format_knows_goes_to_its_own_format_and_is_named_elsewhere() {
    let (chat, claude) = (Upstream::saying(Say::json(OPENAI)).await, Upstream::saying(Say::json(CLAUDE)).await);
    let config = format!(
        "{}{}[models.strict]\nstrict = true\ntargets = [{{ provider = \"c\", model = \"claude-sonnet-4-5\" }}]\n",
        row("a", "openai", &chat),
        row("c", "anthropic", &claude)
    );
    let gateway = gateway(&config).await;
    let body = |model: &str| {
        json!({"model": model, "seed": 7, "future_knob": {"x": 1}, "odd name é,x": true, "unset": null,
            "messages": [{"role": "user", "content": "hi"}]})
        .to_string()
    };
    let answer = gateway.chat(&body("a/gpt-4.1")).await;
    assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, None));
    assert_eq!(chat.last().json()["future_knob"], json!({"x": 1}));
    let answer = gateway.chat(&body("c/claude-sonnet-4-5")).await;
    let named = answer.header("x-portcullis-dropped-params");
    assert_eq!((answer.status, named), (200, Some("seed,future_knob,odd_name___x")));
    let strict = body("strict").replace("\"seed\":7,", "");
    let answer = gateway.chat(&strict).await;
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"], &error["param"]),
        (400, &json!("unsupported_parameter"), &json!("future_knob"))
    );
    assert_eq!(claude.heard().len(), 1, "nothing was sent");
}

#[tokio::test]
async fn servers_of_tools_pass_over_targets_of_other_formats_and_are_refused_where_none_has_them() {
    let (chat, claude) = (Upstream::saying(Say::json(OPENAI)).await, Upstream::saying(Say::json(CLAUDE)).await);
    let config = format!(
        "{}{}[models.both]\ntargets = [{{ provider = \"a\", model = \"gpt-4.1\" }}, {{ provider = \"c\", model = \"claude-sonnet-4-5\" }}]\n",
        row("a", "openai", &chat),
        row("c", "anthropic", &claude)
    );
    let gateway = gateway(&config).await;
    let body = |model: &str, servers: serde_json::Value| {
        json!({"model": model, "max_tokens": 9, "mcp_servers": servers, "messages": [{"role": "user", "content": "hi"}]})
            .to_string()
    };
    let servers = json!([{"type": "url", "name": "wiki", "url": "https://mcp.example/mcp"}]);
    let answer = gateway.post("/v1/messages", &body("a/gpt-4.1", servers.clone())).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    assert!(chat.heard().is_empty(), "nothing was sent");
    let answer = gateway.post("/v1/messages", &body("both", servers.clone())).await;
    assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("c/claude-sonnet-4-5")));
    assert_eq!(claude.last().json()["mcp_servers"], servers);
    let answer = gateway.post("/v1/messages", &body("a/gpt-4.1", json!([]))).await;
    assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, None), "{}", answer.text());
}

#[tokio::test]
async fn an_empty_list_of_choices_is_no_answer_in_another_format() {
    let empty = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[]}"#;
    let upstream = Upstream::saying(Say::json(empty)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    for (path, body) in [
        ("/v1/messages", json!({"model": "up/m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]})),
        ("/v1/responses", json!({"model": "up/m", "input": "x", "store": false})),
    ] {
        let answer = gateway.post(path, &body.to_string()).await;
        assert_eq!(answer.status, 502, "{path}: {}", answer.text());
        assert!(answer.text().contains("has no choices"), "{path}: {}", answer.text());
    }
    // For a client of its own format it goes through as it came.
    let answer = gateway.chat(r#"{"model":"up/m","messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, empty));
}

#[tokio::test]
async fn a_seed_reaches_a_provider_that_calls_it_otherwise() {
    let upstream = Upstream::saying(Say::json(OPENAI)).await;
    let gateway = gateway(&row("m", "mistral", &upstream)).await;
    let chat = r#"{"model":"m/mistral-small","seed":7,"messages":[{"role":"user","content":"hi"}]}"#;
    let gemini = r#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}],"generationConfig":{"seed":7}}"#;
    let answers =
        [gateway.chat(chat).await, gateway.post("/v1beta/models/m/mistral-small:generateContent", gemini).await];
    for answer in answers {
        assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, None));
    }
    for heard in upstream.heard() {
        let sent = heard.json();
        assert_eq!((&sent["random_seed"], sent.get("seed")), (&json!(7), None), "{sent}");
    }
    assert_eq!(upstream.heard().len(), 2);
}

#[tokio::test]
async fn a_feature_passes_the_target_over_and_is_refused_where_none_has_it() {
    let (text, images) = (Upstream::saying(Say::json(OPENAI)).await, Upstream::saying(Say::json(OPENAI)).await);
    let config = format!(
        "{}{}[models.eyes]\ntargets = [{{ provider = \"d\", model = \"deepseek-chat\" }}, {{ provider = \"a\", model = \"gpt-4.1\" }}]\n",
        row("d", "deepseek", &text),
        row("a", "openai", &images)
    );
    let gateway = gateway(&config).await;
    let picture = r#"[{"type":"text","text":"what is it?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]"#;
    let body = |model: &str| format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":{picture}}}]}}"#);
    let answer = gateway.chat(&body("eyes")).await;
    assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("a/gpt-4.1")));
    assert_eq!(answer.header("x-portcullis-attempts"), Some("1"), "who cannot is not asked");
    let answer = gateway.chat(&body("d/deepseek-chat")).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (400, &json!("unsupported_feature")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("images"), "{error}");
    assert_eq!(text.heard().len(), 0, "nothing was spent");
}

#[tokio::test]
async fn both_versions_of_anthropics_api_are_spoken() {
    let upstream = Upstream::saying(Say::json(CLAUDE)).await;
    let chat = Upstream::saying(Say::json(OPENAI)).await;
    let config =
        format!("[auth]\nrequired = true\n{}{}", row("anthropic", "anthropic", &upstream), row("o", "openai", &chat));
    let gateway = gateway(&config).await;
    let (_, key) = gateway.key(r#"{"name":"k"}"#).await;
    let bearer = format!("Bearer {key}");
    let body =
        r#"{"model":"claude-sonnet-4-5","max_tokens":9,"temperature":0.5,"messages":[{"role":"user","content":"hi"}]}"#;
    let newer = body.replace("claude-sonnet-4-5", "claude-opus-5-5");
    // (credential, version, body) → the version upstream, and whether sampling goes along.
    for (credential, version, body, sent, sampled) in [
        (("x-api-key", key.as_str()), Some("2023-06-01"), body, "2023-06-01", true),
        (("authorization", bearer.as_str()), Some("2026-10-21"), body, "2026-10-21", false),
        (("authorization", bearer.as_str()), None, body, "2023-06-01", true),
        (("x-api-key", key.as_str()), Some("2023-06-01"), newer.as_str(), "2023-06-01", false),
    ] {
        let mut headers = vec![credential];
        headers.extend(version.map(|version| ("anthropic-version", version)));
        let answer = gateway.post_with("/v1/messages", &headers, body).await;
        assert_eq!(answer.text(), CLAUDE);
        assert_eq!(answer.header("x-portcullis-dropped-params"), (!sampled).then_some("temperature"), "{version:?}");
        let heard = upstream.last();
        assert_eq!(heard.header("anthropic-version"), Some(sent));
        assert_eq!((heard.header("x-api-key"), heard.header("authorization")), (Some("sk-upstream"), None));
        assert_eq!(heard.json().get("temperature").is_some(), sampled, "{version:?}");
    }
    // From another format the row's own version is spoken; towards another one the caller's counts for nothing.
    let openai = r#"{"model":"claude-sonnet-4-5","temperature":0.5,"messages":[{"role":"user","content":"hi"}]}"#;
    gateway.post_with("/v1/chat/completions", &[("authorization", &bearer)], openai).await;
    let heard = upstream.last();
    assert_eq!((heard.header("anthropic-version"), &heard.json()["temperature"]), (Some("2023-06-01"), &json!(0.5)));
    let headers = [("authorization", bearer.as_str()), ("anthropic-version", "2026-10-21")];
    let answer = gateway.post_with("/v1/messages", &headers, &body.replace("claude-sonnet-4-5", "o/gpt-4.1")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(chat.last().json()["temperature"], json!(0.5));
}

#[tokio::test]
async fn an_output_schema_is_bound_natively_by_a_tool_or_as_the_caller_wrote_it() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&row("c", "anthropic", &upstream)).await;
    let schema =
        r#"{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}"#;
    let openai = |model: &str| {
        format!(
            r#"{{"model":"c/{model}","messages":[{{"role":"user","content":"hi"}}],"response_format":{{"type":"json_schema","json_schema":{{"name":"x","strict":true,"schema":{schema}}}}}}}"#
        )
    };
    let answer = |content: &str, stop: &str| {
        Say::json(CLAUDE.replace(r#"{"type":"text","text":"Hello"}"#, content).replace("end_turn", stop))
    };
    // Nobody knows this model: it is taken for capable.
    upstream.then(answer(r#"{"type":"text","text":"{\"a\":1}"}"#, "end_turn"));
    assert_eq!(gateway.chat(&openai("house-model")).await.status, 200);
    assert_eq!(upstream.last().json()["output_config"]["format"]["type"], "json_schema");
    // This one cannot bind its answer: a tool stands in, and its call comes back as the answer.
    let called = r#"{"type":"tool_use","id":"toolu_1","name":"portcullis_answer","input":{"a":1}}"#;
    upstream.then(answer(called, "tool_use"));
    let told = gateway.chat(&openai("claude-3-5-haiku-20241022")).await.json();
    let sent = upstream.last().json();
    assert_eq!(sent["tool_choice"], json!({"type": "tool", "name": "portcullis_answer"}));
    assert_eq!(sent["tools"][0]["input_schema"]["required"], json!(["a"]));
    let choice = &told["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("stop"), &json!("{\"a\":1}")),
        "{told}"
    );
    assert!(choice["message"].get("tool_calls").is_none_or(serde_json::Value::is_null), "{told}");
    // In the upstream's own format nothing is refused for what is only guessed of a model.
    upstream.then(answer(r#"{"type":"text","text":"{\"a\":1}"}"#, "end_turn"));
    let own = format!(
        r#"{{"model":"c/claude-3-5-haiku-20241022","max_tokens":9,"messages":[{{"role":"user","content":"hi"}}],"output_config":{{"format":{{"type":"json_schema","schema":{schema}}}}}}}"#
    );
    assert_eq!(gateway.post("/v1/messages", &own).await.status, 200);
    assert_eq!(upstream.last().json()["output_config"]["format"]["type"], "json_schema");
}

#[tokio::test]
async fn thinking_is_not_asked_of_a_model_that_cannot_and_that_is_named() {
    let upstream = Upstream::saying(Say::json(CLAUDE)).await;
    let config = format!(
        "{}[models.strict]\nstrict = true\ntargets = [{{ provider = \"c\", model = \"claude-3-5-haiku-20241022\" }}]\n",
        row("c", "anthropic", &upstream)
    );
    let gateway = gateway(&config).await;
    let body = |model: &str, effort: &str| {
        json!({"model": model, "reasoning_effort": effort, "messages": [{"role": "user", "content": "hi"}]}).to_string()
    };
    for (model, effort, thinks, dropped) in [
        ("c/claude-3-5-haiku-20241022", "high", false, Some("reasoning_effort")),
        ("c/claude-3-5-haiku-20241022", "none", false, None),
        ("c/claude-sonnet-4-5", "high", true, None),
        ("c/nobody-knows-this-one", "high", true, None),
    ] {
        let answer = gateway.chat(&body(model, effort)).await;
        assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, dropped), "{model} {effort}");
        assert_eq!(upstream.last().json().get("thinking").is_some(), thinks, "{model} {effort}");
    }
    let heard = upstream.heard().len();
    let answer = gateway.chat(&body("strict", "high")).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("unsupported_parameter")));
    assert_eq!(upstream.heard().len(), heard, "nothing was sent");
}

#[tokio::test]
async fn sound_goes_to_a_model_that_hears_whatever_other_media_the_first_one_takes() {
    const HEARD: &str = r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"heard"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":1}}"#;
    let (deaf, ears) = (Upstream::saying(Say::json(OPENAI)).await, Upstream::saying(Say::json(HEARD)).await);
    let config = format!(
        "{}{}[models.ears]\ntargets = [{{ provider = \"d\", model = \"gpt-4.1\" }}, {{ provider = \"e\", model = \"gemini-2.5-flash\" }}]\n",
        row("d", "openai", &deaf),
        row("e", "gemini", &ears)
    );
    let gateway = gateway(&config).await;
    let sound = json!([{"type": "text", "text": "what is said?"}, {"type": "input_audio", "input_audio": {"data": "UklGRgAA", "format": "wav"}}]);
    let body = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": sound}]}).to_string();
    let answer = gateway.chat(&body("ears")).await;
    assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("e/gemini-2.5-flash")));
    let answer = gateway.chat(&body("d/gpt-4.1")).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (400, &json!("unsupported_feature")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("audio"), "{error}");
    assert!(deaf.heard().is_empty(), "nothing was spent");
}

#[tokio::test]
async fn what_an_imported_catalogue_says_of_a_model_holds_where_nothing_else_is_known() {
    let upstream = Upstream::saying(Say::json(OPENAI)).await;
    let config = format!("{}[catalogue]\nfile = \"catalogue.toml\"\n", row("a", "openai", &upstream));
    let catalogue = "[[price]]\nprovider = \"openai\"\nmodels = [\"zeta-1\", \"gpt-4.1\"]\ninput = \"1\"\noutput = \"2\"\n\
        features = [\"images\"]\nlacks = [\"tools\", \"sampling\"]\n";
    let gateway = Gateway::with(&config, &[("key", "sk-upstream"), ("catalogue.toml", catalogue)]).await;
    let tools =
        r#","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}]"#;
    let body = |model: &str, more: &str| {
        format!(r#"{{"model":"a/{model}","messages":[{{"role":"user","content":"hi"}}],"temperature":0.5{more}}}"#)
    };
    let answer = gateway.chat(&body("zeta-1", "")).await;
    assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, Some("temperature")));
    assert_eq!(upstream.last().json().get("temperature"), None);
    let answer = gateway.chat(&body("zeta-1", tools)).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("unsupported_feature")));
    // The program's own table knows this one better.
    let answer = gateway.chat(&body("gpt-4.1", tools)).await;
    assert_eq!((answer.status, answer.header("x-portcullis-dropped-params")), (200, None), "{}", answer.text());
    assert_eq!(upstream.last().json()["temperature"], json!(0.5));
}
