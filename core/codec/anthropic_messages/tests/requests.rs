//! Requests: the field at fault on the way in; hoisting, merging, ids, thinking and refusals on the way out.

use serde_json::{Value, json};

use crate::{
    codec::{
        Codec, Dialect, Encoded, Field, Inbound, anthropic_messages::AnthropicMessages,
        bedrock_converse::BedrockConverse, cohere::Cohere,
    },
    error::Kind,
    model::{
        CacheHint, Extra, Format, LogprobsAsk, Media, MediaKind, MediaSource, Message, Output, Part, Reasoning,
        ReasoningAsk, Request, Role, Signature, Text, Tool, ToolCall, ToolChoice, ToolKind, ToolResult, tool::Function,
    },
};

fn decode(body: Value) -> crate::error::Result<Request> {
    AnthropicMessages.decode_request(body.to_string().as_bytes(), Inbound::default())
}

fn encode_for(request: &Request, dialect: &Dialect) -> crate::error::Result<Encoded> {
    AnthropicMessages.encode_request(request, dialect)
}

fn encode(request: &Request) -> Encoded {
    encode_for(request, &Dialect::of("claude")).expect("the request is encodable")
}

fn body(request: &Request) -> Value {
    Value::Object(encode(request).body)
}

fn ask(messages: Vec<Message>) -> Request {
    Request { model: "any".to_owned(), messages, max_tokens: Some(100), ..Request::default() }
}

fn user(text: &str) -> Message {
    Message::text(Role::User, text)
}

fn call(id: &str, name: &str, arguments: &str) -> Part {
    Part::ToolCall(ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        kind: ToolKind::Function,
        arguments: arguments.to_owned(),
        signature: None,
        cache: None,
        extra: Extra::default(),
    })
}

fn result(id: &str, name: Option<&str>, text: &str) -> Part {
    Part::ToolResult(ToolResult {
        call_id: id.to_owned(),
        name: name.map(str::to_owned),
        kind: ToolKind::Function,
        parts: vec![Part::text(text)],
        object: None,
        is_error: None,
        cache: None,
        extra: Extra::default(),
    })
}

fn tool(name: &str, parameters: Value) -> Tool {
    Tool::Function(Function {
        name: name.to_owned(),
        description: None,
        parameters: Some(parameters),
        strict: None,
        custom: false,
        cache: None,
        extra: Extra::default(),
    })
}

fn effort(effort: &str) -> Option<ReasoningAsk> {
    Some(ReasoningAsk { effort: Some(effort.to_owned()), ..ReasoningAsk::default() })
}

#[test]
fn names_the_field_at_fault() {
    let cases = [
        (json!({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}), "model"),
        (json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}), "max_tokens"),
        (json!({"model": "m", "max_tokens": 1}), "messages"),
        (json!({"model": "m", "max_tokens": 1, "messages": []}), "messages"),
        (json!({"model": "m", "max_tokens": "1", "messages": []}), "max_tokens"),
        (json!({"model": "m", "max_tokens": 1, "messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
        (json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": 3}]}), "messages[0].content"),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content[0].text",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"text": "x"}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            "messages[0].content[0].source",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tools": [{}]}),
            "tools[0].name",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "must"}}),
            "tool_choice.type",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "thinking": {"type": "enabled"}}),
            "thinking.budget_tokens",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "output_config": {"format": {"type": "xml"}}}),
            "output_config.format.type",
        ),
    ];
    for (body, param) in cases {
        let error = decode(body).expect_err(param);
        assert_eq!((error.kind, error.param.as_deref()), (Kind::InvalidRequest, Some(param)), "{error}");
    }
}

#[test]
fn a_count_request_needs_no_bound() {
    let inbound = Inbound { counting: true, ..Inbound::default() };
    let body = br#"{"model": "m", "messages": [{"role": "user", "content": "x"}]}"#;
    assert_eq!(AnthropicMessages.decode_request(body, inbound).map(|r| r.max_tokens).ok(), Some(None));
}

#[test]
fn results_know_the_name_of_their_call_and_stand_in_a_turn_of_their_own() {
    let request = decode(json!({"model": "m", "max_tokens": 1, "messages": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1__thought__c2ln", "name": "look", "input": {"a": 1.0}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1__thought__c2ln", "content": "seen", "is_error": false},
            {"type": "text", "text": "go on"},
        ]},
    ]}))
    .expect("decodes");
    let Part::ToolCall(call) = &request.messages[0].parts[0] else { unreachable!() };
    assert_eq!((call.id.as_str(), call.arguments.as_str()), ("toolu_1", r#"{"a":1.0}"#));
    assert_eq!(call.signature, Some(Signature { origin: Format::Gemini, data: "c2ln".to_owned() }));
    let Part::ToolResult(result) = &request.messages[1].parts[0] else { unreachable!() };
    assert_eq!(
        (request.messages[1].role, result.call_id.as_str(), result.name.as_deref()),
        (Role::Tool, "toolu_1", Some("look"))
    );
    assert_eq!(request.messages[2], user("go on"));
}

#[test]
fn the_leading_system_run_is_hoisted_and_later_ones_stay_in_place() {
    let messages = vec![
        Message::text(Role::System, "one"),
        Message::text(Role::Developer, "two"),
        user("hello"),
        Message::text(Role::Assistant, "hi"),
        Message::text(Role::System, "three"),
        user("bye"),
    ];
    let body = body(&ask(messages.clone()));
    assert_eq!(body["system"], json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]));
    assert_eq!(
        body["messages"][2],
        json!({"role": "user", "content": [
            {"type": "text", "text": "<system>\nthree\n</system>"},
            {"type": "text", "text": "bye"},
        ]})
    );
    let dialect = Dialect { mid_system: true, ..Dialect::of("claude") };
    let native = encode_for(&ask(messages), &dialect).expect("encodes").body;
    assert_eq!(native["messages"][2], json!({"role": "system", "content": "three"}));
}

#[test]
fn results_of_parallel_calls_become_one_user_turn_with_results_first() {
    let messages = vec![
        user("both"),
        Message::new(Role::Assistant, vec![call("call_1", "a", "{}"), call("call_2", "b", "")]),
        Message::new(Role::Tool, vec![result("call_1", None, "one")]),
        user("hurry"),
        Message::new(Role::Tool, vec![result("call_2", None, "two")]),
    ];
    let body = body(&ask(messages));
    assert_eq!(body["messages"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        body["messages"][2]["content"],
        json!([
            {"type": "tool_result", "tool_use_id": "call_1", "content": "one"},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "two"},
            {"type": "text", "text": "hurry"},
        ])
    );
    assert_eq!(body["messages"][1]["content"][1]["input"], json!({}));
}

#[test]
fn illegal_missing_and_repeated_ids_still_match_their_results() {
    let messages = vec![
        user("go"),
        Message::new(Role::Assistant, vec![call("a.b:1", "x", "{}"), call("", "y", "{}"), call("", "y", "{}")]),
        Message::new(
            Role::Tool,
            vec![result("a.b:1", None, "1"), result("", Some("y"), "2"), result("", Some("y"), "3")],
        ),
        Message::new(Role::Assistant, vec![call("call_0", "x", "{}")]),
        Message::new(Role::Tool, vec![result("call_0", None, "4")]),
        Message::new(Role::Assistant, vec![call("call_0__thought__c2ln", "x", "{}")]),
        Message::new(Role::Tool, vec![result("call_0__thought__c2ln", None, "5")]),
    ];
    let first = body(&ask(messages.clone()));
    let ids = |turn: usize, key: &str| -> Vec<String> {
        let blocks = first["messages"][turn]["content"].as_array().cloned().unwrap_or_default();
        blocks.iter().filter_map(|b| b[key].as_str().map(str::to_owned)).collect()
    };
    let mut all = Vec::new();
    for turn in [1, 3, 5] {
        assert_eq!(ids(turn, "id"), ids(turn + 1, "tool_use_id"));
        all.extend(ids(turn, "id"));
    }
    assert!(all.iter().all(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')), "{all:?}");
    let unique: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(unique.len(), 5, "{all:?}");
    assert_eq!(first, body(&ask(messages)), "the same history makes the same ids");
}

#[test]
fn a_result_of_no_call_is_refused() {
    let error =
        encode_for(&ask(vec![Message::new(Role::Tool, vec![result("", Some("x"), "1")])]), &Dialect::of("claude"));
    assert_eq!(
        error.err().map(|e| (e.kind, e.param.clone())),
        Some((Kind::InvalidRequest, Some("messages[0]".to_owned())))
    );
}

#[test]
fn blank_text_is_left_out_and_a_prefill_loses_its_trailing_space() {
    let messages =
        vec![user("go"), user("  "), Message::new(Role::Assistant, vec![Part::text(""), Part::text("{\"a\": \n")])];
    let body = body(&ask(messages));
    assert_eq!(
        body["messages"],
        json!([{"role": "user", "content": "go"}, {"role": "assistant", "content": "{\"a\":"}])
    );
}

#[test]
fn a_prefill_is_refused_where_the_model_takes_none() {
    let messages = vec![user("go"), Message::new(Role::Assistant, vec![Part::text("{")])];
    let dialect = Dialect { lacks: &["prefill"], ..Dialect::of("claude") };
    let error = encode_for(&ask(messages.clone()), &dialect).expect_err("refused");
    assert_eq!((error.kind, error.param.as_deref()), (Kind::Unsupported, Some("messages")));
    assert!(encode_for(&ask(messages), &Dialect::of("claude")).is_ok());
    assert!(encode_for(&ask(vec![user("go")]), &dialect).is_ok());
}

#[test]
fn only_own_signed_reasoning_goes_back() {
    let reasoning = |origin| {
        Part::Reasoning(Reasoning {
            text: "because".to_owned(),
            signature: Some(Signature { origin, data: "c2ln".to_owned() }),
            ..Reasoning::default()
        })
    };
    let unsigned = Part::Reasoning(Reasoning { text: "because".to_owned(), ..Reasoning::default() });
    let parts = vec![reasoning(Format::AnthropicMessages), reasoning(Format::Gemini), unsigned, Part::text("so")];
    let encoded = encode(&ask(vec![user("why"), Message::new(Role::Assistant, parts), user("and?")]));
    assert_eq!(
        encoded.body["messages"][1]["content"],
        json!([{"type": "thinking", "thinking": "because", "signature": "c2ln"}, {"type": "text", "text": "so"}])
    );
    assert_eq!(encoded.dropped, ["reasoning"]);
}

#[test]
fn what_the_same_models_signed_at_another_host_goes_back_whole_or_not_at_all() {
    let signed = Part::Reasoning(Reasoning {
        text: "because".to_owned(),
        signature: Some(Signature { origin: Format::BedrockConverse, data: "c2ln".to_owned() }),
        ..Reasoning::default()
    });
    let sealed = Part::Reasoning(Reasoning {
        sealed: Some(Signature { origin: Format::BedrockConverse, data: "c2ln".to_owned() }),
        ..Reasoning::default()
    });
    let turns = |parts: Vec<Part>| ask(vec![user("why"), Message::new(Role::Assistant, parts), user("and?")]);
    let so = || Part::text("so");
    for (parts, model, goes) in [
        (vec![signed.clone(), so()], "claude-sonnet-4-5", true),
        (vec![signed.clone(), so()], "deepseek-v4", false),
        (vec![signed.clone(), sealed, so()], "claude-sonnet-4-5", false),
    ] {
        let encoded = encode_for(&turns(parts), &Dialect::of(model)).expect("encodable");
        let content = &encoded.body["messages"][1]["content"];
        let thought = json!({"type": "thinking", "thinking": "because", "signature": "c2ln"});
        assert_eq!(content.as_array().is_some_and(|blocks| blocks[0] == thought), goes, "{model} {content}");
        assert_eq!(encoded.dropped.contains(&"reasoning"), !goes);
    }
}

#[test]
fn a_budget_stays_under_the_callers_bound() {
    let mut request = ask(vec![user("think")]);
    for (effort_is, asked, bound, budget) in [
        ("medium", Some(1025), 1025, 1024),
        ("medium", Some(2048), 2048, 1536),
        ("medium", Some(4096), 4096, 3072),
        ("medium", Some(10_000), 10_000, 4096),
        ("medium", None, 8192, 4096),
        ("high", None, 24_576, 16_384),
    ] {
        (request.max_tokens, request.reasoning) = (asked, effort(effort_is));
        let body = body(&request);
        assert_eq!(body["max_tokens"], json!(bound));
        assert_eq!(body["thinking"], json!({"type": "enabled", "budget_tokens": budget}));
        assert!(body.get("output_config").is_none());
    }
    // No room for the least of them.
    request.max_tokens = Some(100);
    let encoded = encode(&request);
    assert_eq!((&encoded.body["max_tokens"], encoded.body.get("thinking")), (&json!(100), None));
    assert_eq!(encoded.dropped, ["reasoning_effort"]);
}

#[test]
fn effort_is_written_in_the_way_the_model_takes() {
    let adaptive = Dialect { thinking_budget: false, ..Dialect::of("claude") };
    for (given, written) in
        [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("xhigh", "xhigh"), ("max", "max")]
    {
        let mut request = ask(vec![user("think")]);
        request.reasoning = effort(given);
        let body = encode_for(&request, &adaptive).expect("encodes").body;
        assert_eq!(body["thinking"], json!({"type": "adaptive"}));
        assert_eq!(body["output_config"], json!({"effort": written}));
        assert_eq!(body["max_tokens"], json!(100));
    }
    let mut request = ask(vec![user("think")]);
    request.reasoning = effort("none");
    assert_eq!(body(&request)["thinking"], json!({"type": "disabled"}));
    request.reasoning = Some(ReasoningAsk { budget: Some(20_000), ..ReasoningAsk::default() });
    let written = encode_for(&request, &adaptive).expect("encodes").body;
    assert_eq!(
        (&written["thinking"]["type"], &written["output_config"]["effort"]),
        (&json!("adaptive"), &json!("high"))
    );
}

#[test]
fn effort_without_thinking_stays_what_it_is_in_its_own_format() {
    let request = decode(json!({"model": "m", "max_tokens": 9, "output_config": {"effort": "low"},
        "messages": [{"role": "user", "content": "x"}]}))
    .expect("decodes");
    let body = body(&request);
    assert_eq!((body.get("thinking"), &body["output_config"]), (None, &json!({"effort": "low"})));
}

#[test]
fn thinking_gives_way_to_a_forced_tool_and_to_a_history_without_it() {
    let mut request = ask(vec![user("go")]);
    request.tools = vec![tool("x", json!({"type": "object"}))];
    request.tool_choice = Some(ToolChoice::Required);
    request.reasoning = effort("high");
    let encoded = encode(&request);
    assert_eq!((encoded.body.get("thinking"), &encoded.body["tool_choice"]), (None, &json!({"type": "any"})));
    assert_eq!(encoded.dropped, ["reasoning_effort"]);
    request.tool_choice = None;
    request.messages.push(Message::new(Role::Assistant, vec![call("call_1", "x", "{}")]));
    request.messages.push(Message::new(Role::Tool, vec![result("call_1", None, "1")]));
    assert_eq!(encode(&request).dropped, ["reasoning_effort"]);
}

#[test]
fn knobs_that_the_wire_lacks_are_dropped_and_told() {
    let mut request = ask(vec![user("go")]);
    request.sampling.temperature = Some(0.0);
    request.sampling.seed = Some(7);
    request.sampling.frequency_penalty = Some(0.0);
    request.sampling.stop = vec!["\n".to_owned(), "END".to_owned()];
    request.verbosity = Some("low".to_owned());
    request.service_tier = Some("flex".to_owned());
    let encoded = encode(&request);
    assert_eq!(encoded.body["temperature"], json!(0), "zero is not absent");
    assert_eq!(encoded.body["stop_sequences"], json!(["END"]));
    assert_eq!(encoded.dropped, ["frequency_penalty", "seed", "service_tier", "stop", "verbosity"]);
    let strict = Dialect { no_sampling: true, ..Dialect::of("claude") };
    let encoded = encode_for(&request, &strict).expect("encodes");
    assert!(encoded.dropped.contains(&"temperature") && !encoded.body.contains_key("temperature"));
}

#[test]
fn knobs_that_the_provider_refuses_are_dropped_and_told() {
    let mut request = ask(vec![user("go")]);
    request.sampling.top_k = Some(4);
    request.sampling.stop = vec!["x".to_owned()];
    request.user = Some("u".to_owned());
    let dialect = Dialect { refuses: &["top_k", "stop", "user"], ..Dialect::of("claude") };
    let encoded = encode_for(&request, &dialect).expect("encodes");
    assert_eq!(encoded.dropped, ["stop", "top_k", "user"]);
    assert_eq!(encoded.body.keys().map(String::as_str).collect::<Vec<_>>(), ["model", "max_tokens", "messages"]);
}

#[test]
fn features_that_the_wire_lacks_are_refused_by_name() {
    let base = || ask(vec![user("go")]);
    let media = |kind, mime: &str, source| {
        let mime = Some(mime.to_owned());
        let media = Media::new(kind, mime, source);
        ask(vec![Message::new(Role::User, vec![Part::Media(media)])])
    };
    let bytes = || MediaSource::Base64("AAAA".to_owned());
    let hosted = Tool::Hosted { format: Format::Gemini, kind: "googleSearch".to_owned(), value: json!({}) };
    let native = Part::Native { format: Format::Gemini, kind: "executableCode".to_owned(), value: json!({}) };
    let foreign_file = MediaSource::File { format: Format::OpenaiChat, id: "file-1".to_owned() };
    let audio_out = Extra::new(
        Format::OpenaiChat,
        json!({"modalities": ["text", "audio"]}).as_object().cloned().unwrap_or_default(),
    );
    let images = json!({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}});
    let images_out = Extra::new(Format::Gemini, images.as_object().cloned().unwrap_or_default());
    let cases = [
        (Request { extra: images_out, ..base() }, "image_output"),
        (Request { n: Some(2), ..base() }, "n"),
        (Request { logprobs: Some(LogprobsAsk::default()), ..base() }, "logprobs"),
        (media(MediaKind::Audio, "audio/wav", bytes()), "audio"),
        (media(MediaKind::Video, "video/mp4", bytes()), "video"),
        (media(MediaKind::Image, "image/tiff", bytes()), "image_type"),
        (media(MediaKind::Document, "application/msword", bytes()), "document_type"),
        (media(MediaKind::Image, "image/png", foreign_file), "files"),
        (Request { tools: vec![hosted], ..base() }, "googleSearch"),
        (ask(vec![Message::new(Role::Assistant, vec![native])]), "executableCode"),
        (ask(vec![Message::text(Role::System, "alone")]), "messages"),
        (Request { extra: audio_out, ..base() }, "audio"),
        (Request { tools: vec![tool("a.b", json!({}))], ..base() }, "tools[0].name"),
    ];
    for (request, feature) in cases {
        let error = encode_for(&request, &Dialect::of("claude")).expect_err(feature);
        assert_eq!((error.kind, error.param.as_deref()), (Kind::Unsupported, Some(feature)));
    }
    let by_url = media(MediaKind::Image, "image/png", MediaSource::Url("https://example.org/a.png".to_owned()));
    let dialect = Dialect { media_urls: false, ..Dialect::of("claude") };
    assert_eq!(encode_for(&by_url, &dialect).err().and_then(|e| e.param.clone()).as_deref(), Some("media_urls"));
    let mut schema = base();
    schema.output = Some(Output::Schema { name: None, description: None, schema: json!({}), strict: None });
    let dialect = Dialect { native_schema: false, ..Dialect::of("claude") };
    assert_eq!(encode_for(&schema, &dialect).err().and_then(|e| e.param.clone()).as_deref(), Some("json_schema"));
}

#[test]
fn schema_keywords_that_are_refused_move_into_the_description() {
    let mut request = ask(vec![user("go")]);
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "age": {"type": "integer", "description": "In years", "minimum": 0, "maximum": 150},
            "mail": {"type": "string", "format": "email"},
            "minimum": {"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "null"}]},
            "deep": {"$ref": "#/$defs/deep"},
        },
        "required": ["age"],
        "$defs": {"deep": {"type": "object", "properties": {"x": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "string"}}}}},
    });
    request.output =
        Some(Output::Schema { name: Some("person".to_owned()), description: None, schema, strict: Some(true) });
    assert_eq!(
        body(&request)["output_config"]["format"],
        json!({"type": "json_schema", "schema": {
            "type": "object",
            "properties": {
                "age": {"type": "integer", "description": "In years (minimum: 0, maximum: 150)"},
                "mail": {"type": "string", "format": "email"},
                "minimum": {"anyOf": [{"type": "string", "description": "(pattern: \"^a\")"}, {"type": "null"}]},
                "deep": {"$ref": "#/$defs/deep"},
            },
            "required": ["age"],
            "$defs": {"deep": {
                "type": "object",
                "properties": {"x": {"type": "array", "minItems": 1, "items": {"type": "string"}, "description": "(maxItems: 3)"}},
                "additionalProperties": false,
            }},
            "additionalProperties": false,
        }})
    );
}

#[test]
fn a_schema_says_null_in_its_own_words_and_what_its_caller_says_of_it() {
    let mut request = ask(vec![user("go")]);
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "nullable": true, "description": "maybe"},
        "b": {"type": "string", "nullable": true, "enum": ["x"]},
        "c": {"type": "integer", "nullable": false},
    }});
    let description = Some("A person".to_owned());
    request.output = Some(Output::Schema { name: None, description, schema, strict: None });
    assert_eq!(
        body(&request)["output_config"]["format"]["schema"],
        json!({"type": "object", "properties": {
            "a": {"type": ["string", "null"], "description": "maybe"},
            "b": {"type": ["string", "null"], "enum": ["x", null]},
            "c": {"type": "integer"},
        }, "description": "A person", "additionalProperties": false})
    );
}

#[test]
fn json_mode_is_asked_for_in_words_and_told() {
    let mut request = ask(vec![Message::text(Role::System, "Be kind."), user("go")]);
    request.output = Some(Output::Json);
    let encoded = encode(&request);
    assert_eq!(encoded.body["system"][0]["text"], json!("Be kind."));
    assert_eq!(encoded.body["system"].as_array().map(Vec::len), Some(2));
    assert_eq!(encoded.dropped, ["response_format"]);
}

#[test]
fn tool_choice_is_never_weakened() {
    let mut request = ask(vec![user("go")]);
    request.tools =
        vec![tool("a", json!({"properties": {"x": {"type": "string"}}})), tool("b", json!({"type": "object"}))];
    let tool_b = ToolChoice::Tool { name: "b".to_owned(), custom: false };
    let allowed = ToolChoice::Allowed { names: vec!["b".to_owned()], required: true };
    for (given, parallel, expected) in [
        (Some(ToolChoice::Auto), None, json!({"type": "auto"})),
        (Some(ToolChoice::Required), Some(false), json!({"type": "any", "disable_parallel_tool_use": true})),
        (Some(tool_b), Some(true), json!({"type": "tool", "name": "b"})),
        (Some(ToolChoice::None), Some(false), json!({"type": "none"})),
        (None, Some(false), json!({"type": "auto", "disable_parallel_tool_use": true})),
        (Some(allowed), None, json!({"type": "any"})),
    ] {
        request.tool_choice = given;
        request.parallel_tool_calls = parallel;
        let body = body(&request);
        assert_eq!(body["tool_choice"], expected);
        let names: Vec<&str> =
            body["tools"].as_array().into_iter().flatten().filter_map(|t| t["name"].as_str()).collect();
        let only_b = matches!(request.tool_choice, Some(ToolChoice::Allowed { .. }));
        assert_eq!(names, if only_b { vec!["b"] } else { vec!["a", "b"] });
    }
    request.tool_choice = None;
    request.parallel_tool_calls = None;
    let body = body(&request);
    assert!(body.get("tool_choice").is_none());
    assert_eq!(body["tools"][0]["input_schema"]["type"], json!("object"), "the root must be an object");
}

#[test]
fn free_text_and_malformed_arguments_are_kept_inside_an_object() {
    let mut custom = call("call_1", "shell", "ls -l\n");
    if let Part::ToolCall(call) = &mut custom {
        call.kind = ToolKind::Custom;
    }
    let parts = vec![custom, call("call_2", "x", "{\"a\":"), call("call_3", "x", "[1]")];
    let body = body(&ask(vec![user("go"), Message::new(Role::Assistant, parts)]));
    let inputs: Vec<&Value> =
        body["messages"][1]["content"].as_array().into_iter().flatten().map(|b| &b["input"]).collect();
    assert_eq!(inputs, [&json!({"input": "ls -l\n"}), &json!({"arguments": "{\"a\":"}), &json!({"arguments": "[1]"})]);
}

#[test]
fn text_documents_are_sent_as_text_and_pdfs_as_pdfs() {
    let document = |mime: Option<&str>, data: &str| {
        Part::Media(Media {
            kind: MediaKind::Document,
            mime: mime.map(str::to_owned),
            source: MediaSource::Base64(data.to_owned()),
            name: Some("a".to_owned()),
            detail: None,
            context: None,
            cite: None,
            cache: None,
            signature: None,
            extra: Extra::default(),
        })
    };
    let parts = vec![document(Some("text/markdown; charset=utf-8"), "IyBIaQ=="), document(None, "JVBERi0xLjQ=")];
    let body = body(&ask(vec![Message::new(Role::User, parts)]));
    let source = |i: usize| &body["messages"][0]["content"][i]["source"];
    assert_eq!(source(0), &json!({"type": "text", "media_type": "text/plain", "data": "# Hi"}));
    assert_eq!(source(1)["media_type"], json!("application/pdf"));
}

#[test]
fn cache_hints_of_other_families_get_the_nearest_ttl() {
    let text = |ttl: Option<&str>| {
        let cache = Some(CacheHint { ttl: ttl.map(str::to_owned) });
        Part::Text(Text { text: "x".to_owned(), cache, ..Text::default() })
    };
    let body = body(&ask(vec![Message::new(Role::User, vec![text(None), text(Some("5m")), text(Some("12h"))])]));
    let ttl = |i: usize| body["messages"][0]["content"][i]["cache_control"]["ttl"].as_str();
    assert_eq!((ttl(0), ttl(1), ttl(2)), (None, Some("5m"), Some("1h")));
}

#[test]
fn unknown_fields_return_to_this_format_and_to_no_other() {
    let mut request = decode(json!({
        "model": "m", "max_tokens": 9, "container": "c_1", "mcp_servers": [{"type": "url", "url": "https://e.org"}],
        "thinking": {"type": "between_tools"}, "metadata": {"user_id": "u", "team": "t"},
        "output_config": {"effort": "low", "later": true}, "cache_control": {"type": "ephemeral"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "later": 1}]}],
    }))
    .expect("decodes");
    let body = body(&request);
    assert_eq!(body["container"], json!("c_1"));
    assert_eq!(body["thinking"], json!({"type": "between_tools"}));
    assert_eq!(body["metadata"], json!({"team": "t", "user_id": "u"}));
    assert_eq!(body["output_config"], json!({"later": true, "effort": "low"}));
    assert_eq!(body["cache_control"], json!({"type": "ephemeral"}));
    assert_eq!(body["messages"][0]["content"][0]["later"], json!(1));
    request.extra = Extra::new(Format::Gemini, json!({"unheardOf": 1}).as_object().cloned().unwrap_or_default());
    assert!(!encode(&request).body.contains_key("unheardOf"));
}

#[test]
fn a_count_asks_for_nothing_but_the_prompt() {
    let mut request = ask(vec![user("go")]);
    request.sampling.temperature = Some(0.5);
    request.stream = true;
    let body = AnthropicMessages.encode_count(&request, &Dialect::of("claude")).and_then(Result::ok).map(|e| e.body);
    assert_eq!(
        body.map(Value::Object),
        Some(json!({"model": "claude", "messages": [{"role": "user", "content": "go"}]}))
    );
}

#[test]
fn every_field_that_is_written_has_a_home_for_patches() {
    let known: Vec<&str> = Field::ALL.iter().flat_map(|f| AnthropicMessages.wire_fields(*f)).copied().collect();
    let mut request = ask(vec![Message::text(Role::System, "s"), user("go")]);
    request.stream = true;
    request.user = Some("u".to_owned());
    request.service_tier = Some("auto".to_owned());
    request.sampling.temperature = Some(0.5);
    request.sampling.stop = vec!["x".to_owned()];
    request.tools = vec![tool("a", json!({"type": "object"}))];
    request.tool_choice = Some(ToolChoice::Auto);
    request.reasoning = effort("none");
    for key in encode(&request).body.keys().filter(|key| *key != "model") {
        assert!(known.contains(&key.as_str()), "{key}");
    }
}

#[test]
fn search_results_come_back_as_they_were_and_are_documents_elsewhere() {
    let found = json!({"type": "search_result", "source": "https://a", "title": "A",
        "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "citations": {"enabled": true},
        "cache_control": {"type": "ephemeral"}});
    let asked = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [found]}]});
    let mut request = decode(asked).expect("a request");
    assert_eq!(body(&request)["messages"][0]["content"][0], found);
    let Part::Media(media) = &mut request.messages[0].parts[0] else { panic!("a document") };
    assert_eq!((media.name.as_deref(), media.context.as_deref()), (Some("A"), Some("https://a")));
    assert_eq!(media.source, MediaSource::Text("one\ntwo".into()));
    media.source = MediaSource::Text("three".into());
    // Where the models are the same the blocks are.
    let other = decode(json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [found]}]}));
    let aws = |model: &str| {
        let encoded = BedrockConverse.encode_request(other.as_ref().expect("a request"), &Dialect::of(model));
        encoded.expect("encodable").body["messages"][0]["content"][0].clone()
    };
    let searched = json!({"searchResult": {"source": "https://a", "title": "A", "citations": {"enabled": true},
        "content": [{"text": "one"}, {"text": "two"}]}});
    assert_eq!(aws("anthropic.claude-sonnet-4-5"), searched);
    assert_eq!(aws("amazon.nova-pro")["document"]["name"], "A");
    let changed = &body(&request)["messages"][0]["content"][0];
    assert_eq!((&changed["content"], &changed["title"]), (&json!([{"type": "text", "text": "three"}]), &json!("A")));
}

#[test]
fn the_cache_mark_of_a_text_that_is_left_out_stands_on_what_is_before_it() {
    let blank = Part::Text(Text { text: "\n".into(), cache: Some(CacheHint { ttl: None }), ..Text::default() });
    let request = ask(vec![Message::new(Role::User, vec![Part::text("long"), blank, Part::text("q")])]);
    assert_eq!(
        body(&request)["messages"][0]["content"],
        json!([{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "q"}])
    );
}

#[test]
fn figures_beyond_a_wires_bounds_are_its_outermost_ones_and_named() {
    let mut request = ask(vec![user("go")]);
    (request.sampling.temperature, request.sampling.presence_penalty) = (Some(1.7), Some(-2.0));
    let sent = |codec: &dyn Codec, model: &str| {
        let Encoded { body, mut dropped } = codec.encode_request(&request, &Dialect::of(model)).expect("encodable");
        dropped.sort_unstable();
        (Value::Object(body), dropped)
    };
    let (there, dropped) = sent(&AnthropicMessages, "claude-sonnet-4-5");
    assert_eq!((&there["temperature"], &dropped[..]), (&json!(1), &["presence_penalty", "temperature"][..]));
    let (there, dropped) = sent(&BedrockConverse, "anthropic.claude-sonnet-4-5");
    let told = &there["inferenceConfig"]["temperature"];
    assert_eq!((told, &dropped[..]), (&json!(1), &["presence_penalty", "temperature"][..]));
    let (there, dropped) = sent(&Cohere, "command-a");
    assert_eq!((&there["temperature"], &there["presence_penalty"]), (&json!(1.7), &json!(0)));
    assert_eq!(dropped, ["presence_penalty"]);
}

/// Its client lost the result, or the user spoke instead: this wire and Converse refuse a call without one.
#[test]
fn a_call_that_nobody_answered_has_a_result_that_says_so() {
    let body = json!({"model": "m", "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "call_2", "content": "two"},
        {"role": "user", "content": "never mind"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_3", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]},
    ]});
    let request = crate::codec::codec(Format::OpenaiChat)
        .decode_request(body.to_string().as_bytes(), Inbound::default())
        .expect("a request");
    let sent = self::body(&request);
    let answer = sent["messages"][2]["content"].as_array().expect("blocks");
    let ids: Vec<_> = answer.iter().filter_map(|block| block["tool_use_id"].as_str()).collect();
    assert_eq!((ids, &answer[2]["text"]), (vec!["call_2", "call_1"], &json!("never mind")), "{sent}");
    assert_eq!((&answer[0]["is_error"], &answer[1]["is_error"]), (&Value::Null, &json!(true)));
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(4), "the last call waits for its result: {sent}");
    let sent = Value::Object(BedrockConverse.encode_request(&request, &Dialect::of("claude")).expect("encoded").body);
    let answer = sent["messages"][2]["content"].as_array().expect("blocks");
    let ids: Vec<_> = answer.iter().filter_map(|block| block["toolResult"]["toolUseId"].as_str()).collect();
    assert_eq!((ids, &answer[2]["text"]), (vec!["call_2", "call_1"], &json!("never mind")), "{sent}");
}
