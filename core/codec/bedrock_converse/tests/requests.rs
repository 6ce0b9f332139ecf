//! Requests for an upstream of this format: what the wire wants, and what it cannot say.

use serde_json::json;

use super::*;
use crate::{
    codec::anthropic_messages::AnthropicMessages,
    error::Kind,
    model::{
        CacheHint, Media, MediaKind, MediaSource, Message, Output, Part, ReasoningAsk, Role, Sampling, Text, Tool,
        ToolCall, ToolChoice, ToolKind, ToolResult, tool::Function,
    },
};

fn asking(parts: Vec<Part>) -> Request {
    Request { messages: vec![Message::new(Role::User, parts)], ..Request::default() }
}

fn tool(name: &str) -> Tool {
    Tool::Function(Function {
        name: name.to_owned(),
        description: None,
        parameters: None,
        strict: None,
        custom: false,
        cache: None,
        extra: Default::default(),
    })
}

fn call(id: &str, name: &str, arguments: &str) -> Part {
    Part::ToolCall(ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        kind: ToolKind::Function,
        arguments: arguments.to_owned(),
        signature: None,
        cache: None,
        extra: Default::default(),
    })
}

fn result(id: &str, text: &str) -> Part {
    Part::ToolResult(ToolResult {
        call_id: id.to_owned(),
        name: None,
        kind: ToolKind::Function,
        parts: if text.is_empty() { Vec::new() } else { vec![Part::text(text)] },
        object: None,
        is_error: None,
        cache: None,
        extra: Default::default(),
    })
}

fn refused(request: &Request) -> String {
    let error = BedrockConverse.encode_request(request, &Dialect::of("m")).expect_err("refused");
    assert_eq!(error.kind, Kind::Unsupported);
    error.param.clone().unwrap_or_default()
}

#[test]
fn neighbours_become_one_turn_with_results_first() {
    let long = format!("call_{}", "x".repeat(80));
    let request = Request {
        messages: vec![
            Message::text(Role::User, "Weather?"),
            Message::new(Role::Assistant, vec![call(&long, "f", "{\"a\":1}"), call("b b", "f", "")]),
            Message::text(Role::User, "and hurry"),
            Message::new(Role::Tool, vec![result(&long, "warm")]),
            Message::new(Role::Tool, vec![result("b b", "")]),
            Message::text(Role::User, " "),
        ],
        ..Request::default()
    };
    let (body, _) = encode(&request, "m");
    let messages = body["messages"].as_array().expect("messages");
    let roles: Vec<&str> = messages.iter().map(|m| m["role"].as_str().expect("a role")).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    let calls: Vec<&str> =
        [0, 1].iter().map(|i| messages[1]["content"][i]["toolUse"]["toolUseId"].as_str().expect("an id")).collect();
    assert!(calls.iter().all(|id| wire::is_legal_id(id)) && calls[0] != calls[1], "{calls:?}");
    let content = messages[2]["content"].as_array().expect("content");
    assert_eq!(content[0]["toolResult"], json!({"toolUseId": calls[0], "content": [{"text": "warm"}]}));
    assert_eq!(content[1]["toolResult"], json!({"toolUseId": calls[1], "content": []}));
    assert_eq!(content[2..], [json!({"text": "and hurry"})], "blank text is refused by the wire");
    assert_eq!(encode(&request, "m").0, body, "the same ids each time");
}

#[test]
fn past_calls_are_declared_when_the_caller_declares_none() {
    let mut request = Request {
        messages: vec![
            Message::text(Role::User, "x"),
            Message::new(Role::Assistant, vec![call("a", "f", "{}")]),
            Message::new(Role::Tool, vec![result("a", "y")]),
        ],
        ..Request::default()
    };
    let declared = |request: &Request| encode(request, "m").0["toolConfig"].clone();
    assert_eq!(declared(&request)["tools"][0]["toolSpec"]["name"], "f");
    request.tools = vec![tool("g")];
    request.tool_choice = Some(ToolChoice::None);
    let (body, dropped) = encode(&request, "m");
    assert_eq!(body["toolConfig"]["tools"][0]["toolSpec"]["name"], "g");
    assert_eq!(dropped, ["tool_choice"], "with past calls the wire has no way to say it");
    request.messages.truncate(1);
    assert_eq!(declared(&request), Value::Null, "without any, no tools is no calls");
}

#[test]
fn a_choice_among_tools_leaves_the_others_out() {
    let mut request = asking(vec![Part::text("x")]);
    request.tools = vec![tool("f"), tool("g"), tool("h")];
    request.tool_choice = Some(ToolChoice::Allowed { names: vec!["g".into(), "h".into()], required: true });
    let (body, _) = encode(&request, "m");
    let names: Vec<_> =
        body["toolConfig"]["tools"].as_array().expect("tools").iter().map(|t| &t["toolSpec"]["name"]).collect();
    assert_eq!(names, ["g", "h"]);
    assert_eq!(body["toolConfig"]["toolChoice"], json!({"any": {}}));
    request.tools[0] = tool("has a space");
    request.tool_choice = None;
    assert_eq!(refused(&request), "tools[0].name");
}

#[test]
fn document_names_become_legal_and_stay_apart() {
    let document = |name: Option<&str>, mime: &str| {
        let mut media = Media::new(MediaKind::Document, Some(mime.into()), MediaSource::Base64("JVBERi0x".into()));
        media.name = name.map(str::to_owned);
        Part::Media(media)
    };
    let request = asking(vec![
        document(Some("Q3_report  (final).pdf"), "application/pdf"),
        document(Some("Q3/report (final).pdf"), "application/pdf; charset=x"),
        document(None, "text/x-python"),
        document(Some("ü"), "application/octet-stream"),
    ]);
    let (body, _) = encode(&request, "m");
    let documents = body["messages"][0]["content"].as_array().expect("content");
    let seen: Vec<_> = documents
        .iter()
        .map(|d| (d["document"]["name"].as_str().expect("a name"), d["document"]["format"].as_str().expect("a format")))
        .collect();
    assert_eq!(
        seen,
        [("Q3-report (final)-pdf", "pdf"), ("Q3-report (final)-pdf (2)", "pdf"), ("Document 3", "txt"), ("-", "pdf"),]
    );
}

#[test]
fn media_that_the_wire_cannot_carry_is_refused_by_name() {
    let media =
        |kind, mime: Option<&str>, source| asking(vec![Part::Media(Media::new(kind, mime.map(str::to_owned), source))]);
    let bytes = || MediaSource::Base64("AAAA".into());
    let url = MediaSource::Url("https://e.org/a.png".into());
    assert_eq!(refused(&media(MediaKind::Image, None, url)), "media_urls");
    assert_eq!(refused(&media(MediaKind::Image, Some("image/tiff"), bytes())), "image_type");
    assert_eq!(refused(&media(MediaKind::Document, Some("application/zip"), bytes())), "document_type");
    let file = MediaSource::File { format: Format::Gemini, id: "f".into() };
    assert_eq!(refused(&media(MediaKind::Document, None, file)), "files");
    let (body, _) = encode(&media(MediaKind::Video, None, MediaSource::Url("s3://b/c.mov".into())), "m");
    assert_eq!(
        body["messages"][0]["content"][0]["video"],
        json!({"format": "mov", "source": {"s3Location": {"uri": "s3://b/c.mov"}}})
    );
}

#[test]
fn models_of_each_maker_are_told_to_think_in_their_own_words() {
    let mut request = asking(vec![Part::text("x")]);
    request.max_tokens = Some(2000);
    request.sampling = Sampling { temperature: Some(0.0), top_k: Some(5), ..Sampling::default() };
    request.reasoning = Some(ReasoningAsk { effort: Some("high".into()), ..ReasoningAsk::default() });
    let (body, dropped) = encode(&request, "us.anthropic.claude-sonnet-4-5-20250929-v1:0");
    assert_eq!(body["additionalModelRequestFields"], json!({"thinking": {"type": "enabled", "budget_tokens": 1500}}));
    assert_eq!(body["inferenceConfig"], json!({"maxTokens": 2000}), "room for both; no sampling beside thinking");
    assert_eq!(dropped, ["temperature", "top_k"]);
    let (body, dropped) = encode(&request, "us.amazon.nova-2-lite-v1:0");
    let config =
        json!({"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}, "inferenceConfig": {"topK": 5}});
    assert_eq!((&body["additionalModelRequestFields"], dropped.len()), (&config, 0));
    assert_eq!(body["inferenceConfig"], json!({"maxTokens": 2000, "temperature": 0}));
    let (body, dropped) = encode(&request, "openai.gpt-oss-120b-1:0");
    assert_eq!(body["additionalModelRequestFields"], json!({"reasoning_effort": "high"}));
    assert_eq!(dropped, ["top_k"]);
    let (body, dropped) = encode(&request, "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x");
    assert_eq!((&body["additionalModelRequestFields"], dropped), (&Value::Null, vec!["top_k"]));
    assert_eq!(body["outputConfig"], json!({"effort": "high"}), "whose it is is not known: the field that all have");
    let (body, dropped) = encode(&request, "meta.llama3-1-8b-instruct-v1:0");
    assert_eq!((&body["outputConfig"], dropped), (&Value::Null, vec!["reasoning_effort", "top_k"]));
}

#[test]
fn a_callers_own_spelling_stays_as_long_as_it_means_the_same() {
    let fields =
        json!({"reasoning_config": {"type": "enabled", "budget_tokens": 2000}, "top_k": 3, "anthropic_beta": ["x"]});
    let sent =
        json!({"messages": [{"role": "user", "content": [{"text": "x"}]}], "additionalModelRequestFields": fields});
    let mut request = decode(&sent);
    assert_eq!(request.reasoning.as_ref().and_then(|r| r.budget), Some(2000));
    assert_eq!(request.sampling.top_k, Some(3));
    assert_eq!(encode(&request, "anything").0["additionalModelRequestFields"], fields);
    request.reasoning = None;
    request.sampling.top_k = Some(4);
    let (body, _) = encode(&request, "anthropic.claude-3-7-sonnet");
    assert_eq!(body["additionalModelRequestFields"], json!({"anthropic_beta": ["x"], "top_k": 4}));
}

#[test]
fn cache_points_are_for_models_that_cache() {
    let mut request =
        asking(vec![Part::Text(Text { text: "x".into(), cache: Some(CacheHint::default()), ..Text::default() })]);
    let Tool::Function(function) = tool("f") else { panic!("a function") };
    let ttl = Some("12h".to_owned());
    request.tools = vec![Tool::Function(Function { cache: Some(CacheHint { ttl }), ..function })];
    let (body, dropped) = encode(&request, "eu.anthropic.claude-opus-4-6-v1");
    assert_eq!(body["messages"][0]["content"][1], json!({"cachePoint": {"type": "default"}}));
    assert_eq!(body["toolConfig"]["tools"][1], json!({"cachePoint": {"type": "default", "ttl": "1h"}}));
    assert!(dropped.is_empty());
    let (body, dropped) = encode(&request, "meta.llama3-3-70b-instruct-v1:0");
    assert_eq!((body["messages"][0]["content"].as_array().map(Vec::len), dropped), (Some(1), vec!["cache_control"]));
    let (body, _) = encode(&request, "amazon.nova-pro-v1:0");
    assert_eq!(body["toolConfig"]["tools"].as_array().map(Vec::len), Some(1), "in the conversation only");
}

#[test]
fn knobs_without_a_home_are_named() {
    let mut request = asking(vec![Part::text("x")]);
    request.sampling = Sampling {
        seed: Some(1),
        frequency_penalty: Some(0.1),
        presence_penalty: Some(0.1),
        logit_bias: Some(serde_json::Map::new()),
        ..Sampling::default()
    };
    request.user = Some("u".into());
    request.verbosity = Some("low".into());
    request.parallel_tool_calls = Some(false);
    request.service_tier = Some("scale".into());
    request.metadata = [("a".to_owned(), json!("b")), ("n".to_owned(), json!(1))].into_iter().collect();
    request.output = Some(Output::Json);
    let (body, dropped) = encode(&request, "m");
    assert_eq!(
        dropped,
        [
            "frequency_penalty",
            "logit_bias",
            "metadata",
            "parallel_tool_calls",
            "presence_penalty",
            "response_format",
            "seed",
            "service_tier",
            "user",
            "verbosity",
        ]
    );
    assert_eq!(body["requestMetadata"], json!({"a": "b"}));
    assert!(body["system"][0]["text"].as_str().is_some_and(|t| t.contains("JSON")));
    request.n = Some(2);
    assert_eq!(refused(&request), "n");
}

#[test]
fn a_system_turn_in_between_stays_in_its_place() {
    let request = Request {
        messages: vec![
            Message::text(Role::Developer, "first"),
            Message::text(Role::User, "hi"),
            Message::text(Role::System, "now in French"),
            Message::text(Role::Assistant, "Oui \n"),
        ],
        ..Request::default()
    };
    let (body, _) = encode(&request, "m");
    assert_eq!(body["system"], json!([{"text": "first"}]));
    assert_eq!(body["messages"][0]["content"][1]["text"], "<system>\nnow in French\n</system>");
    assert_eq!(body["messages"][1]["content"][0]["text"], "Oui", "a prefill ends without white space");
    let only = Request { messages: vec![Message::text(Role::System, "x")], ..Request::default() };
    assert_eq!(refused(&only), "messages");
}

#[test]
fn mistakes_are_told_with_their_place() {
    let turn = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (body, param) in [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "system", "content": []}]}), "messages[0].role"),
        (turn(json!("text")), "messages[0].content"),
        (turn(json!([{"text": "a", "image": {}}])), "messages[0].content[0]"),
        (turn(json!([{}])), "messages[0].content[0]"),
        (turn(json!([{"text": 1}])), "messages[0].content[0].text"),
        (turn(json!([{"image": {"format": "png"}}])), "messages[0].content[0].image.source"),
        (turn(json!([{"image": {"format": "png", "source": {}}}])), "messages[0].content[0].image.source"),
        (turn(json!([{"toolResult": {"content": []}}])), "messages[0].content[0].toolResult.toolUseId"),
        (
            json!({"messages": [{"role": "user", "content": []}], "toolConfig": {"toolChoice": {}}}),
            "toolConfig.toolChoice",
        ),
        (
            json!({"messages": [{"role": "user", "content": []}], "toolConfig": {"tools": [{}]}}),
            "toolConfig.tools[0].toolSpec",
        ),
        (
            json!({"messages": [{"role": "user", "content": []}], "inferenceConfig": {"stopSequences": [1]}}),
            "inferenceConfig.stopSequences[0]",
        ),
    ] {
        let error = try_decode(&body).expect_err("a mistake");
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(param)), "{body}");
    }
    let schema = json!({"textFormat": {"structure": {"jsonSchema": {"schema": "{"}}}});
    let error = try_decode(&json!({"messages": [{"role": "user", "content": []}], "outputConfig": schema}))
        .expect_err("a mistake");
    assert_eq!(error.param.as_deref(), Some("outputConfig.textFormat.structure.jsonSchema.schema"));
}

#[test]
fn what_was_found_and_what_claude_signed_go_over_to_its_vendor_and_come_from_there() {
    let found = json!({"source": "https://a", "title": "A", "content": [{"text": "one"}, {"text": "two"}],
        "citations": {"enabled": true}});
    let request = decode(&json!({"messages": [
        {"role": "user", "content": [{"text": "q"}]},
        {"role": "assistant", "content": [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "RXFRQg=="}}},
            {"toolUse": {"toolUseId": "t1", "name": "look", "input": {}}},
        ]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"searchResult": found}]}}]},
    ]}));
    let (own, _) = encode(&request, "anthropic.claude-sonnet-4-5");
    assert_eq!(own["messages"][2]["content"][0]["toolResult"]["content"], json!([{"searchResult": found}]));
    let there = AnthropicMessages.encode_request(&request, &Dialect::of("claude-sonnet-4-5")).expect("encodable").body;
    let turns = &there["messages"];
    assert_eq!(turns[1]["content"][0], json!({"type": "thinking", "thinking": "hm", "signature": "RXFRQg=="}));
    assert_eq!(
        turns[2]["content"][0]["content"],
        json!([{"type": "search_result", "source": "https://a", "title": "A", "citations": {"enabled": true},
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}])
    );
    let back = AnthropicMessages.decode_request(Value::Object(there).to_string().as_bytes(), Inbound::default());
    let back = back.expect("a request");
    let (again, dropped) = encode(&back, "us.anthropic.claude-sonnet-4-5");
    assert_eq!((&again["messages"][1], &again["messages"][2]), (&own["messages"][1], &own["messages"][2]));
    assert!(dropped.is_empty(), "{dropped:?}");
    let (other, dropped) = encode(&back, "amazon.nova-pro-v1:0");
    assert_eq!((other["messages"][1]["content"].as_array().map(Vec::len), &dropped[..]), (Some(1), &["reasoning"][..]));
}

#[test]
fn a_cache_mark_inside_a_result_stands_behind_it() {
    let mut marked = result("t1", "");
    if let Part::ToolResult(result) = &mut marked {
        let cache = Some(CacheHint { ttl: None });
        result.parts = vec![Part::Text(Text { text: "long".into(), cache, ..Text::default() })];
    }
    let request = Request {
        messages: vec![
            Message::text(Role::User, "q"),
            Message::new(Role::Assistant, vec![call("t1", "look", "null")]),
            Message::new(Role::Tool, vec![marked]),
        ],
        ..Request::default()
    };
    let (body, _) = encode(&request, "anthropic.claude-sonnet-4-5");
    assert_eq!(body["messages"][2]["content"][1], json!({"cachePoint": {"type": "default"}}));
    assert_eq!(body["messages"][1]["content"][0]["toolUse"]["input"], json!({}), "`null` is nothing");
}
