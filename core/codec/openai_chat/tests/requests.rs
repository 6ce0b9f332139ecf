//! Requests of clients, and what upstreams are sent; hand-written cases only.

use serde_json::json;

use super::*;
use crate::{
    codec::{Encoded, Field},
    error::Kind,
    model::{
        CacheHint, Format, Media, MediaKind, MediaSource, Message, Output, Part, Reasoning, ReasoningAsk, Role,
        Sampling, Signature, Text, Tool, ToolCall, ToolChoice, ToolKind, ToolResult,
    },
};

fn encoded(request: &Request, dialect: &Dialect) -> Encoded {
    CODEC.encode_request(request, dialect).unwrap()
}

fn call(id: &str, name: &str, arguments: &str) -> Part {
    Part::ToolCall(ToolCall {
        id: id.into(),
        name: name.into(),
        kind: ToolKind::Function,
        arguments: arguments.into(),
        signature: None,
        cache: None,
        extra: Default::default(),
    })
}

fn result(id: &str, name: Option<&str>, parts: Vec<Part>) -> Part {
    Part::ToolResult(ToolResult {
        call_id: id.into(),
        name: name.map(str::to_owned),
        kind: ToolKind::Function,
        parts,
        object: None,
        is_error: None,
        cache: None,
        extra: Default::default(),
    })
}

fn of(messages: Vec<Message>) -> Request {
    Request { model: "m".into(), messages, ..Request::default() }
}

fn image(data: &str) -> Part {
    Part::Media(Media::new(MediaKind::Image, Some("image/png".into()), MediaSource::Base64(data.into())))
}

#[test]
fn every_known_field_comes_back_and_unknown_ones_too() {
    let body = json!({
        "model": "m",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "ann", "content": [
                {"type": "text", "text": "look", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "quiz", "quiz": {"n": 1}}
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1.50}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "free text"}}
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "one"},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "refusal": "no"},
            {"role": "user", "content": "why?"}
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}},
            {"type": "custom", "custom": {"name": "g", "format": {"type": "grammar"}}}
        ],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}},
        "parallel_tool_calls": false,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {"type": "object"}, "strict": true}},
        "temperature": 0, "top_p": 0.25, "frequency_penalty": -1.5, "presence_penalty": 2, "seed": -7,
        "stop": ["a", "b"], "logit_bias": {"50256": -100}, "max_completion_tokens": 10, "n": 2,
        "logprobs": true, "top_logprobs": 3, "reasoning_effort": "xhigh", "user": "u", "metadata": {"k": "v"},
        "service_tier": "flex", "verbosity": "low", "store": true, "prediction": {"type": "content", "content": "x"},
        "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false}
    });
    let request = request(&body);
    assert_eq!(request.sampling.temperature, Some(0.0), "zero is not absent");
    assert!(request.include_usage && request.stream);
    let again = encoded(&request, &provider("openai"));
    assert_eq!(Value::Object(again.body), body);
    assert!(again.dropped.is_empty(), "{:?}", again.dropped);
}

#[test]
fn legacy_functions_keep_their_spelling_and_their_results_find_their_calls() {
    let body = json!({
        "model": "m",
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "done"}
        ],
        "functions": [{"name": "f", "parameters": {"type": "object"}}],
        "function_call": {"name": "f"}
    });
    let request = request(&body);
    let (Part::ToolCall(call), Part::ToolResult(result)) =
        (&request.messages[1].parts[0], &request.messages[2].parts[0])
    else {
        panic!("a call and its result")
    };
    assert!(!call.id.is_empty());
    assert_eq!(call.id, result.call_id);
    assert_eq!(request.tool_choice, Some(ToolChoice::Tool { name: "f".into(), custom: false }));
    assert_eq!(Value::Object(encoded(&request, &provider("openai")).body), body);
}

#[test]
fn mistakes_are_told_with_the_path_of_the_field() {
    let user = json!([{"role": "user", "content": "x"}]);
    let cases = [
        (json!({"messages": user}), "model"),
        (json!({"model": "m"}), "messages"),
        (json!({"model": "m", "messages": []}), "messages"),
        (json!({"model": "m", "messages": "x"}), "messages"),
        (json!({"model": "m", "messages": [{"content": "x"}]}), "messages[0].role"),
        (json!({"model": "m", "messages": [{"role": "robot", "content": "x"}]}), "messages[0].role"),
        (json!({"model": "m", "messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"model": "m", "messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": [{"text": "x"}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].image_url",
        ),
        (json!({"model": "m", "messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
        (json!({"model": "m", "messages": user, "temperature": "hot"}), "temperature"),
        (json!({"model": "m", "messages": user, "max_tokens": -1}), "max_tokens"),
        (json!({"model": "m", "messages": user, "stop": [1]}), "stop[0]"),
        (json!({"model": "m", "messages": user, "tool_choice": "sometimes"}), "tool_choice"),
        (json!({"model": "m", "messages": user, "tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"model": "m", "messages": user, "stream": "yes"}), "stream"),
    ];
    for (body, param) in cases {
        let error = refused(&body);
        assert_eq!(error.kind, Kind::InvalidRequest);
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
    }
    let error = CODEC.decode_request(b"{\"model\": ", Inbound::default()).unwrap_err();
    assert_eq!(error.code(), "invalid_json");
}

#[test]
fn data_urls_become_bytes_and_a_mime_type() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/WEBP;charset=x;base64,UklGRg=="}},
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml,%3Csvg%3E"}}
    ]}]});
    let request = request(&body);
    let media: Vec<_> =
        request.messages[0].parts.iter().map(|p| if let Part::Media(m) = p { m } else { panic!("media") }).collect();
    assert_eq!(media[0].mime.as_deref(), Some("image/webp"));
    assert_eq!(media[0].source, MediaSource::Base64("UklGRg==".into()));
    assert_eq!(media[1].source, MediaSource::Base64("PHN2Zz4=".into()));
}

#[test]
fn tool_results_of_a_user_turn_come_first_as_messages_of_their_own() {
    let user = Message::new(
        Role::User,
        vec![
            Part::text("and now?"),
            result("a", None, vec![Part::text("1")]),
            result("b", None, vec![Part::text("2")]),
        ],
    );
    let calls = Message::new(Role::Assistant, vec![call("a", "f", ""), call("b", "f", "{\"x\":1}")]);
    let body = encoded(&of(vec![calls, user]), &provider("openai")).body;
    let messages = &body["messages"];
    assert_eq!(messages[0]["tool_calls"][0]["function"]["arguments"], "{}", "nothing means an empty object");
    assert_eq!(messages[0]["content"], Value::Null);
    assert_eq!(messages[1], json!({"role": "tool", "tool_call_id": "a", "content": "1"}));
    assert_eq!(messages[2], json!({"role": "tool", "tool_call_id": "b", "content": "2"}));
    assert_eq!(messages[3], json!({"role": "user", "content": "and now?"}));
}

#[test]
fn media_of_a_tool_result_moves_behind_the_run_of_results() {
    let messages = vec![
        Message::new(Role::Assistant, vec![call("a", "shot", "{}"), call("b", "f", "{}")]),
        Message::new(Role::Tool, vec![result("a", Some("shot"), vec![Part::text("seen"), image("AAAA")])]),
        Message::new(Role::Tool, vec![result("b", Some("f"), vec![Part::text("2")])]),
        Message::text(Role::Assistant, "fine"),
    ];
    let body = encoded(&of(messages), &provider("openai")).body;
    let roles: Vec<&str> = body["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["assistant", "tool", "tool", "user", "assistant"]);
    let moved = &body["messages"][3]["content"];
    assert!(moved[0]["text"].as_str().unwrap().contains("tool call a (shot)"));
    assert_eq!(moved[1]["image_url"]["url"], "data:image/png;base64,AAAA");
}

#[test]
fn a_failed_tool_result_is_noted() {
    let mut failed = result("a", None, vec![Part::text("boom")]);
    if let Part::ToolResult(r) = &mut failed {
        r.is_error = Some(true);
    }
    let messages =
        vec![Message::new(Role::Assistant, vec![call("a", "f", "{}")]), Message::new(Role::Tool, vec![failed])];
    let encoded = encoded(&of(messages), &provider("openai"));
    assert_eq!(encoded.body["messages"][1]["content"], "boom");
    assert_eq!(encoded.dropped, ["tool_result.is_error"]);
}

#[test]
fn calls_without_ids_and_their_results_get_the_same_made_id() {
    let turn = || Message::new(Role::Assistant, vec![call("", "f", "{}"), call("", "g", "{}")]);
    let results = || {
        Message::new(
            Role::User,
            vec![result("", Some("g"), vec![Part::text("2")]), result("", Some("f"), vec![Part::text("1")])],
        )
    };
    let body = encoded(&of(vec![turn(), results(), turn()]), &provider("openai")).body;
    let id = |m: usize, c: usize| body["messages"][m]["tool_calls"][c]["id"].as_str().unwrap().to_owned();
    assert_eq!(body["messages"][1]["tool_call_id"], id(0, 1).as_str());
    assert_eq!(body["messages"][2]["tool_call_id"], id(0, 0).as_str());
    assert_ne!(id(0, 0), id(3, 0), "another turn, another id");
    assert_eq!(encoded(&of(vec![turn(), results(), turn()]), &provider("openai")).body, body);
}

#[test]
fn short_ids_are_nine_letters_or_digits_and_match() {
    let dialect = Dialect { short_tool_ids: true, ..provider("mistral") };
    let messages = json!([
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "toolu_01ABC__thought__c2ln", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "toolu_01ABC__thought__c2ln", "content": "x"}
    ]);
    let (again, _) = resent(messages, &dialect);
    let id = again[0]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    assert_eq!(again[1]["tool_call_id"], id);
}

#[test]
fn ids_that_are_too_long_for_openai_are_shortened_in_call_and_result() {
    let long = "x".repeat(60);
    let messages = json!([
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": long, "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": long, "content": "x"}
    ]);
    let (again, _) = resent(messages.clone(), &provider("openai"));
    assert!(again[0]["tool_calls"][0]["id"].as_str().unwrap().len() <= 40);
    assert_eq!(again[0]["tool_calls"][0]["id"], again[1]["tool_call_id"]);
    assert_eq!(resent(messages.clone(), &provider("vllm")).0, messages);
}

#[test]
fn a_templates_switch_says_whether_to_think() {
    let base = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    for (key, value, budget) in [
        ("enable_thinking", json!(false), 0),
        ("enable_thinking", json!(true), -1),
        ("chat_template_kwargs", json!({"thinking": false, "x": 1}), 0),
        ("chat_template_kwargs", json!({"enable_thinking": true}), -1),
    ] {
        let mut body = base.clone();
        body[key] = value;
        let mut asked = request(&body);
        assert_eq!(asked.reasoning.as_ref().and_then(|ask| ask.budget), Some(budget), "{body}");
        assert_eq!(Value::Object(encoded(&asked, &Dialect::of("m")).body), body, "and goes back as it came");
        asked.reasoning = Some(ReasoningAsk { effort: Some("low".to_owned()), ..ReasoningAsk::default() });
        let changed = encoded(&asked, &Dialect::of("m")).body;
        assert_eq!((&changed["reasoning_effort"], changed.get("enable_thinking")), (&json!("low"), None));
    }
}

#[test]
fn a_seed_under_another_name_is_a_seed() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "random_seed": 7});
    let asked = request(&body);
    assert_eq!(asked.sampling.seed, Some(7));
    assert_eq!(Value::Object(encoded(&asked, &Dialect::of("m")).body), body, "and goes back as it came");
}

#[test]
fn knobs_that_a_provider_refuses_are_dropped_and_noted() {
    let dialect = Dialect { refuses: &["seed", "logit_bias", "user"], max_tokens_field: "max_tokens", ..provider("x") };
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1, "logit_bias": {"1": 1},
        "user": "u", "max_completion_tokens": 5, "temperature": 1});
    let encoded = encoded(&request(&body), &dialect);
    assert_eq!(encoded.dropped, ["seed", "logit_bias", "user"]);
    assert_eq!(encoded.body["max_tokens"], 5);
    assert!(!encoded.body.contains_key("max_completion_tokens") && !encoded.body.contains_key("seed"));
}

#[test]
fn features_that_a_target_lacks_are_refused_by_name() {
    let base = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let with = |key: &str, value: Value| {
        let mut body = base.clone();
        body[key] = value;
        body
    };
    let part = |part: Value| with("messages", json!([{"role": "user", "content": [part]}]));
    let cases = [
        ("n", with("n", json!(2))),
        ("logprobs", with("logprobs", json!(true))),
        ("tools", with("tools", json!([{"type": "function", "function": {"name": "f"}}]))),
        (
            "json_schema",
            with("response_format", json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}})),
        ),
        ("images", part(json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}))),
        ("documents", part(json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}}))),
        ("audio", part(json!({"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}}))),
    ];
    for (feature, body) in cases {
        let lacks: &'static [&'static str] = vec![feature].leak();
        let request = request(&body);
        let error = CODEC.encode_request(&request, &Dialect { lacks, ..provider("x") }).unwrap_err();
        assert_eq!((error.kind, error.status()), (Kind::Unsupported, 400), "{feature}");
        assert!(CODEC.encode_request(&request, &provider("x")).is_ok(), "{feature}");
    }
}

#[test]
fn what_only_another_format_knows_is_refused_by_name() {
    let hosted = Tool::Hosted { format: Format::Gemini, kind: "googleSearch".into(), value: json!({}) };
    let request = Request { tools: vec![hosted], ..of(vec![Message::text(Role::User, "x")]) };
    let error = CODEC.encode_request(&request, &provider("openai")).unwrap_err();
    assert_eq!((error.kind, error.param.as_deref()), (Kind::Unsupported, Some("googleSearch")));
    let native = Part::Native { format: Format::AnthropicMessages, kind: "container_upload".into(), value: json!({}) };
    let error =
        CODEC.encode_request(&of(vec![Message::new(Role::User, vec![native])]), &provider("openai")).unwrap_err();
    assert_eq!((error.kind, error.param.as_deref()), (Kind::Unsupported, Some("container_upload")));
}

#[test]
fn reasoning_goes_back_where_the_provider_wants_it_and_foreign_proof_never_becomes_text() {
    let signed = |origin| {
        Part::Reasoning(Reasoning {
            text: "secret thought".into(),
            signature: Some(Signature { origin, data: "sig".into() }),
            ..Reasoning::default()
        })
    };
    let own = Part::Reasoning(Reasoning { text: "own thought".into(), ..Reasoning::default() });
    let turn = |part: Part| of(vec![Message::new(Role::Assistant, vec![part, Part::text("answer")])]);
    let deepseek = Dialect { reasoning_field: Some("reasoning_content"), ..provider("deepseek") };
    let told = encoded(&turn(own.clone()), &deepseek);
    assert_eq!(told.body["messages"][0]["reasoning_content"], "own thought");
    assert!(told.dropped.is_empty());
    for (part, dialect) in [
        (own, provider("openai")),
        (signed(Format::AnthropicMessages), deepseek.clone()),
        (signed(Format::Gemini), deepseek),
    ] {
        let told = encoded(&turn(part), &dialect);
        assert_eq!(told.body["messages"][0], json!({"role": "assistant", "content": "answer"}));
        assert_eq!(told.dropped, ["reasoning"]);
    }
    let openrouter = Dialect { reasoning_field: Some("reasoning"), ..provider("openrouter") };
    let told = encoded(&turn(signed(Format::AnthropicMessages)), &openrouter);
    assert_eq!(told.body["messages"][0]["reasoning_details"][0]["signature"], "sig");
    assert!(told.dropped.is_empty());
}

#[test]
fn encrypted_reasoning_goes_back_to_the_provider_that_gave_it_and_to_nobody_else() {
    let detail = json!({"type": "reasoning.encrypted", "data": "ZW5j", "format": "openai-responses-v1", "id": "rs_1"});
    let message = json!({"role": "assistant", "content": "answer", "reasoning_details": [detail]});
    let Part::Reasoning(sealed) =
        request(&json!({"model": "m", "messages": [message]})).messages.remove(0).parts.remove(0)
    else {
        panic!("reasoning")
    };
    // A client of another format has it in that format's own place.
    let turn = of(vec![Message::new(Role::Assistant, vec![Part::Reasoning(sealed), Part::text("answer")])]);
    let openrouter = Dialect { reasoning_field: Some("reasoning"), ..provider("openrouter") };
    let told = encoded(&turn, &openrouter);
    let mut back = detail.clone();
    back["index"] = json!(0);
    assert_eq!(told.body["messages"][0]["reasoning_details"], json!([back]));
    assert!(told.dropped.is_empty());
    let told = encoded(&turn, &Dialect { reasoning_field: Some("reasoning"), ..provider("groq") });
    assert_eq!(told.body["messages"][0], json!({"role": "assistant", "content": "answer"}));
    assert_eq!(told.dropped, ["reasoning"]);
}

#[test]
fn a_signature_of_an_unknown_vendor_goes_back_to_the_provider_that_gave_it() {
    let detail = json!({"type": "reasoning.text", "text": "hm", "format": "other-v1", "id": "t1"});
    let mut signed = detail.clone();
    signed["signature"] = json!("c2ln");
    let message = json!({"role": "assistant", "content": "answer", "reasoning_details": [signed]});
    let reasoning = request(&json!({"model": "m", "messages": [message]})).messages.remove(0).parts.remove(0);
    let Part::Reasoning(Reasoning { text, signature, .. }) = reasoning else { panic!("reasoning") };
    // As a client of another format gives it back.
    let reasoning = Reasoning { text, signature, ..Reasoning::default() };
    let turn = of(vec![Message::new(Role::Assistant, vec![Part::Reasoning(reasoning), Part::text("answer")])]);
    let openrouter = Dialect { reasoning_field: Some("reasoning"), ..provider("openrouter") };
    let mut back = signed.clone();
    back["index"] = json!(0);
    assert_eq!(encoded(&turn, &openrouter).body["messages"][0]["reasoning_details"], json!([back]));
    // It came from a server that is in no row, and goes back there as well.
    let unknown = Dialect { reasoning_field: Some("reasoning_content"), assumed: true, ..provider("house") };
    let told = encoded(&turn, &unknown);
    assert_eq!(told.body["messages"][0]["reasoning_details"], json!([back]));
    assert_eq!(told.body["messages"][0]["reasoning_content"], "hm");
    let elsewhere = encoded(&turn, &Dialect { reasoning_field: Some("reasoning"), ..provider("groq") });
    assert_eq!(elsewhere.body["messages"][0], json!({"role": "assistant", "content": "answer", "reasoning": "hm"}));
}

#[test]
fn a_signature_of_a_text_comes_back_in_a_message_joined_from_deltas() {
    let told = json!({"text_signature": "pc1:gemini:c2ln"});
    let message = json!({"role": "assistant", "content": "answer", "provider_specific_fields": told});
    let request = request(&json!({"model": "m", "messages": [message]}));
    let Part::Text(text) = &request.messages[0].parts[0] else { panic!("a text") };
    assert_eq!(text.signature, Some(Signature { origin: Format::Gemini, data: "c2ln".into() }));
    assert!(request.messages[0].extra.is_empty());
}

#[test]
fn history_that_a_client_sends_back_is_read_in_full() {
    let request = request(&json!({"model": "m", "messages": [{
        "role": "assistant",
        "content": "ab",
        "reasoning_content": "think",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "think", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "pc1:anthropic_messages:c2VhbA=="}
        ],
        "tool_calls": [{"id": "call_1__thought__dGg=", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "provider_specific_fields": {
            "text_blocks": [1, 1],
            "order": ["reasoning", "text", "reasoning", "text", "tool_call", "native"],
            "native": [{"format": "anthropic_messages", "kind": "server_tool_use", "value": {"type": "server_tool_use"}}]
        }
    }]}));
    let parts = &request.messages[0].parts;
    let anthropic = |data: &str| Some(Signature { origin: Format::AnthropicMessages, data: data.into() });
    assert_eq!(
        parts[0],
        Part::Reasoning(Reasoning { text: "think".into(), signature: anthropic("c2ln"), ..Reasoning::default() })
    );
    assert_eq!(parts[1], Part::text("a"));
    assert_eq!(parts[2], Part::Reasoning(Reasoning { sealed: anthropic("c2VhbA=="), ..Reasoning::default() }));
    assert_eq!(parts[3], Part::text("b"));
    let Part::ToolCall(call) = &parts[4] else { panic!("a call") };
    assert_eq!((call.id.as_str(), call.signature.as_ref().unwrap().data.as_str()), ("call_1", "dGg="));
    assert!(
        matches!(&parts[5], Part::Native { format: Format::AnthropicMessages, kind, .. } if kind == "server_tool_use")
    );
    assert!(request.messages[0].extra.is_empty());
}

#[test]
fn cache_hints_are_written_in_the_words_of_the_provider() {
    let hinted =
        Part::Text(Text { text: "long".into(), cache: Some(CacheHint { ttl: Some("1h".into()) }), ..Text::default() });
    let request = of(vec![Message::new(Role::User, vec![hinted])]);
    let part = |name: &str| encoded(&request, &provider(name)).body["messages"][0]["content"].clone();
    assert_eq!(part("openai")[0]["prompt_cache_breakpoint"], json!({"mode": "explicit", "ttl": "12h"}));
    assert_eq!(part("openrouter")[0]["cache_control"], json!({"type": "ephemeral", "ttl": "1h"}));
    assert_eq!(part("groq"), "long");
    assert_eq!(encoded(&request, &provider("groq")).dropped, ["cache_control"]);
    assert!(encoded(&request, &provider("openai")).dropped.is_empty());
    let own =
        json!([{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}]);
    assert_eq!(resent(own.clone(), &provider("groq")), (own, vec![]));
}

#[test]
fn efforts_come_from_budgets_and_an_edit_beats_the_callers_own_words() {
    let ask = |ask: ReasoningAsk| {
        let request = Request { reasoning: Some(ask), ..of(vec![Message::text(Role::User, "x")]) };
        encoded(&request, &provider("openai")).body.get("reasoning_effort").cloned()
    };
    assert_eq!(ask(ReasoningAsk { budget: Some(1024), ..ReasoningAsk::default() }), Some(json!("low")));
    assert_eq!(ask(ReasoningAsk { budget: Some(8000), ..ReasoningAsk::default() }), Some(json!("medium")));
    assert_eq!(ask(ReasoningAsk { budget: Some(32_000), ..ReasoningAsk::default() }), Some(json!("high")));
    let off = ReasoningAsk { budget: Some(0), ..ReasoningAsk::default() };
    assert_eq!(ask(off.clone()), None);
    let request_off = Request { reasoning: Some(off), ..of(vec![Message::text(Role::User, "x")]) };
    let knows = Dialect { model: "gpt-5.4".into(), ..provider("openai") };
    assert_eq!(encoded(&request_off, &knows).body["reasoning_effort"], "none");
    // Such models may not think unless they are told to; what others do by themselves is as it should be.
    let on = ReasoningAsk { budget: Some(-1), ..ReasoningAsk::default() };
    assert_eq!(ask(on.clone()), None);
    let request_on = Request { reasoning: Some(on), ..of(vec![Message::text(Role::User, "x")]) };
    assert_eq!(encoded(&request_on, &knows).body["reasoning_effort"], "medium");
    assert_eq!(ask(ReasoningAsk { effort: Some("none".into()), ..ReasoningAsk::default() }), Some(json!("none")));
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "reasoning": {"effort": "low"}});
    let mut request = request(&body);
    assert_eq!(Value::Object(encoded(&request, &Dialect::of("m")).body), body);
    request.reasoning = Some(ReasoningAsk { effort: Some("high".into()), ..ReasoningAsk::default() });
    let edited = encoded(&request, &Dialect::of("m")).body;
    assert_eq!(edited["reasoning_effort"], "high");
    assert!(!edited.contains_key("reasoning"));
}

#[test]
fn allowed_tools_narrow_the_list_where_the_choice_is_unknown() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [tool("f"), tool("g")],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("g")]}}});
    let encoded = encoded(&request(&body), &provider("groq"));
    assert_eq!(encoded.body["tools"], json!([tool("g")]));
    assert_eq!(encoded.body["tool_choice"], "required");
}

#[test]
fn a_schema_gets_a_legal_name() {
    let output = Output::Schema { name: None, description: None, schema: json!({"type": "object"}), strict: None };
    let request = Request { output: Some(output), ..of(vec![Message::text(Role::User, "x")]) };
    assert_eq!(
        encoded(&request, &Dialect::of("m")).body["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "response", "schema": {"type": "object"}}})
    );
}

#[test]
fn usage_is_always_asked_of_streams_that_can_tell_it() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true});
    let request = request(&body);
    assert!(!request.include_usage);
    assert_eq!(encoded(&request, &Dialect::of("m")).body["stream_options"], json!({"include_usage": true}));
    let without = Dialect { stream_options: false, ..Dialect::of("m") };
    assert!(!encoded(&request, &without).body.contains_key("stream_options"));
}

#[test]
fn sampling_is_left_out_for_models_that_refuse_it() {
    let sampling = Sampling { temperature: Some(0.5), top_k: Some(3), stop: vec!["x".into()], ..Sampling::default() };
    let request = Request { sampling, ..of(vec![Message::text(Role::User, "x")]) };
    let encoded = encoded(&request, &Dialect { no_sampling: true, ..provider("x") });
    assert_eq!(encoded.dropped, ["temperature", "top_k"]);
    assert_eq!(encoded.body["stop"], json!(["x"]));
}

#[test]
fn text_documents_are_sent_as_text_and_system_words_follow_the_dialect() {
    let mut document = Media::new(MediaKind::Document, Some("text/plain".into()), MediaSource::Base64("aGk=".into()));
    document.name = Some("a.txt".into());
    let messages = vec![Message::text(Role::Developer, "d"), Message::new(Role::User, vec![Part::Media(document)])];
    let dialect = Dialect { developer_role: false, lacks: &["documents"], ..provider("x") };
    let body = encoded(&of(messages), &dialect).body;
    assert_eq!(
        body["messages"],
        json!([{"role": "system", "content": "d"}, {"role": "user", "content": "a.txt\n\nhi"}])
    );
}

#[test]
fn every_field_names_its_wire_keys() {
    for field in Field::ALL {
        assert!(!CODEC.wire_fields(field).is_empty());
    }
}

#[test]
fn embedding_inputs_come_in_four_shapes() {
    for (input, single) in
        [(json!("a"), true), (json!(["a", "b"]), false), (json!([1, 2]), true), (json!([[1], [2]]), false)]
    {
        let body =
            json!({"model": "m", "input": input, "dimensions": 3, "encoding_format": "base64", "user": "u", "x": 1});
        let request = CODEC.decode_embeddings(body.to_string().as_bytes(), Inbound::default()).unwrap();
        assert_eq!(request.single, single);
        assert_eq!(Value::Object(CODEC.encode_embeddings(&request, &Dialect::of("m")).unwrap().body), body);
    }
    // What only some servers know goes back to them as it came.
    let body = json!({"model": "m", "input": "a", "encoding_format": "base64_int8"});
    let request = CODEC.decode_embeddings(body.to_string().as_bytes(), Inbound::default()).unwrap();
    assert_eq!(Value::Object(CODEC.encode_embeddings(&request, &Dialect::of("m")).unwrap().body), body);
    for input in [json!([]), json!({}), json!([1, "a"]), json!(["a", 1])] {
        let body = json!({"model": "m", "input": input}).to_string();
        let error = CODEC.decode_embeddings(body.as_bytes(), Inbound::default()).unwrap_err();
        assert!(error.param.as_deref().unwrap_or_default().starts_with("input"), "{body}");
    }
}

#[test]
fn empty_texts_of_an_assistant_stay_empty_texts() {
    let call = json!([{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let turn = |said: Value, thought: Value| {
        let mut body = json!({"model": "m", "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": said, "tool_calls": call},
            {"role": "tool", "tool_call_id": "c1", "content": "x"},
        ]});
        if thought.is_string() {
            body["messages"][1]["reasoning_content"] = thought;
        }
        let thinks = Dialect { reasoning_field: Some("reasoning_content"), ..provider("deepseek") };
        encoded(&request(&body), &thinks).body["messages"][1].clone()
    };
    // Models that think refuse a turn with calls whose thought is missing, be it empty.
    let sent = turn(json!(""), json!(""));
    assert_eq!((&sent["content"], &sent["reasoning_content"]), (&json!(""), &json!("")));
    let sent = turn(Value::Null, Value::Null);
    assert_eq!((&sent["content"], sent.get("reasoning_content")), (&Value::Null, None));
}

#[test]
fn a_server_is_sent_documents_in_its_own_word_whatever_else_it_lacks() {
    let part = json!({"type": "file_url", "file_url": {"url": "UEsDBA=="}});
    let asked = request(&json!({"model": "m", "messages": [{"role": "user", "content": [part]}]}));
    let lacks = Dialect { lacks: &["documents"], ..provider("perplexity") };
    assert_eq!(encoded(&asked, &lacks).body["messages"][0]["content"], json!([part]));
    let other = request(&json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}}]}]}));
    assert!(CODEC.encode_request(&other, &lacks).is_err());
}
