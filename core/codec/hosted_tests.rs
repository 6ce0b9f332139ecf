//! Tools that providers run: which become the target's own, which are left out and named, which stay to be refused.

use serde_json::{Value, json};

use super::*;
use crate::codec::{Inbound, document::Document};

fn request(format: Format, body: &Value) -> Request {
    let inbound = Inbound { model: Some("m"), stream: Some(false), ..Inbound::default() };
    codec(format).decode_request(body.to_string().as_bytes(), inbound).expect("a request")
}

fn responses(tools: Value, more: Value) -> Request {
    let mut body = json!({"model": "m", "input": "hi", "tools": tools});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    request(Format::OpenaiResponses, &body)
}

fn searching(kind: &'static str) -> Dialect {
    Dialect { search: Some(kind), ..Dialect::of("m") }
}

/// The target's hosted tools, and what was left out.
fn fitted(request: &Request, to: Format, dialect: &Dialect) -> (Vec<Value>, Vec<&'static str>) {
    let fitted = fit(request, to, dialect).expect("no refusal").expect("something to fit");
    let values =
        fitted.tools.into_iter().filter_map(|t| if let Tool::Hosted { value, .. } = t { Some(value) } else { None });
    (values.collect(), fitted.dropped)
}

const FUNCTION: &str = r#"{"type":"function","name":"f","parameters":{"type":"object","properties":{}}}"#;

fn function() -> Value {
    serde_json::from_str(FUNCTION).expect("JSON")
}

#[test]
fn a_search_becomes_the_targets_own_within_the_callers_bounds() {
    let place = json!({"type": "approximate", "city": "Bonn", "country": "DE"});
    let asked = responses(
        json!([{"type": "web_search", "filters": {"allowed_domains": ["a.org", "b.org"]}, "user_location": place,
            "search_context_size": "low"}, function()]),
        json!({}),
    );
    let (tools, dropped) = fitted(&asked, Format::AnthropicMessages, &searching("web_search_20250305"));
    let wanted = json!({"type": "web_search_20250305", "name": "web_search", "allowed_domains": ["a.org", "b.org"],
        "user_location": place});
    assert_eq!((tools, dropped.len()), (vec![wanted], 0));
    let (tools, _) = fitted(&asked, Format::OpenaiChat, &searching("router:web_search"));
    let asks = json!({"allowed_domains": ["a.org", "b.org"], "user_location": place, "search_context_size": "low"});
    assert_eq!(tools, [json!({"type": "router:web_search", "parameters": asks})]);

    let back = request(
        Format::AnthropicMessages,
        &json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2, "allowed_domains": ["a.org"]}]}),
    );
    let (tools, _) = fitted(&back, Format::OpenaiResponses, &searching("web_search"));
    assert_eq!(tools, [json!({"type": "web_search", "filters": {"allowed_domains": ["a.org"]}})]);
}

#[test]
fn bounds_that_a_target_cannot_keep_leave_its_search_out() {
    let bounded = json!({"type": "web_search", "filters": {"allowed_domains": ["a.org"]}});
    let cached = json!({"type": "web_search", "external_web_access": false});
    for (tool, to, kind) in [
        (&bounded, Format::Gemini, "googleSearch"),
        (&cached, Format::Gemini, "googleSearch"),
        (&cached, Format::AnthropicMessages, "web_search_20250305"),
    ] {
        let (tools, dropped) = fitted(&responses(json!([tool, function()]), json!({})), to, &searching(kind));
        assert_eq!((tools.len(), dropped), (0, vec!["web_search"]), "{tool} {to:?}");
    }
    // A search beside functions, where only one of both can be.
    let gemini = Dialect { search_alone: true, ..searching("googleSearch") };
    let free = json!({"type": "web_search"});
    let (tools, _) = fitted(&responses(json!([free]), json!({})), Format::Gemini, &gemini);
    assert_eq!(tools, [json!({"googleSearch": {}})]);
    let (tools, dropped) = fitted(&responses(json!([free, function()]), json!({})), Format::Gemini, &gemini);
    assert_eq!((tools.len(), dropped), (0, vec!["web_search"]));
}

#[test]
fn what_is_forced_or_works_on_the_callers_things_stays_to_be_refused() {
    let none = Dialect::of("m");
    for (tools, more, kind) in [
        (json!([{"type": "web_search"}]), json!({"tool_choice": "required"}), "web_search"),
        (json!([{"type": "web_search"}, function()]), json!({"tool_choice": {"type": "web_search"}}), "web_search"),
        (
            json!([{"type": "image_generation"}]),
            json!({"tool_choice": {"type": "image_generation"}}),
            "image_generation",
        ),
        (json!([{"type": "file_search", "vector_store_ids": ["v"]}, function()]), json!({}), "file_search"),
        (json!([{"type": "mcp", "server_label": "s", "server_url": "https://a.example"}]), json!({}), "mcp"),
        (json!([{"type": "code_interpreter", "container": {"type": "auto"}}]), json!({}), "code_interpreter"),
        (json!([{"type": "local_shell"}]), json!({}), "local_shell"),
    ] {
        for to in
            [Format::AnthropicMessages, Format::OpenaiChat, Format::Gemini, Format::BedrockConverse, Format::Cohere]
        {
            let body = json!({"model": "m", "input": "hi", "tools": tools, "tool_choice": more.get("tool_choice")});
            let mut document =
                Document::new(Format::OpenaiResponses, body.to_string().into(), Inbound::default()).expect("opened");
            let error = document.encode(to, &none).expect_err("refused");
            assert_eq!((error.status(), error.param.as_deref()), (400, Some(kind)), "{to:?}");
            // Turns that were lent came back.
            assert_eq!(document.request().expect("read").messages.len(), 1);
        }
    }
}

#[test]
fn what_is_only_offered_is_left_out_and_named_everywhere() {
    let tools = json!([{"type": "web_search", "external_web_access": false}, {"type": "image_generation"}, function()]);
    let body = json!({"model": "m", "input": "hi", "tools": tools, "tool_choice": "auto", "parallel_tool_calls": true});
    for to in Format::ALL.into_iter().filter(|to| *to != Format::OpenaiResponses) {
        let mut document =
            Document::new(Format::OpenaiResponses, body.to_string().into(), Inbound::default()).expect("opened");
        let encoded = document.encode(to, &Dialect::of("m")).expect("encoded");
        assert!(encoded.dropped.contains(&"web_search") && encoded.dropped.contains(&"image_generation"), "{to:?}");
        let text = Value::Object(encoded.body).to_string();
        assert!(text.contains("\"f\"") && !text.contains("web_search"), "{to:?}: {text}");
    }
    let alone = json!({"model": "m", "input": "hi", "tools": [{"type": "web_search"}], "tool_choice": "auto"});
    for to in Format::ALL.into_iter().filter(|to| *to != Format::OpenaiResponses) {
        let mut document =
            Document::new(Format::OpenaiResponses, alone.to_string().into(), Inbound::default()).expect("opened");
        let text = Value::Object(document.encode(to, &Dialect::of("m")).expect("encoded").body).to_string();
        assert!(!text.contains("tool"), "{to:?}: {text}");
    }
}

#[test]
fn a_forced_search_is_forced_where_the_wire_can() {
    let forced = json!({"tool_choice": {"type": "web_search"}});
    let asked = responses(json!([{"type": "web_search"}, function()]), forced);
    let anthropic = fit(&asked, Format::AnthropicMessages, &searching("web_search_20250305")).unwrap().unwrap();
    assert_eq!(anthropic.choice, Some(ToolChoice::Tool { name: "web_search".to_owned(), custom: false }));
    let gemini = fit(&asked, Format::Gemini, &searching("googleSearch")).unwrap().unwrap();
    assert_eq!((gemini.choice, gemini.dropped), (None, vec!["tool_choice"]));
}

#[test]
fn options_of_a_chat_become_a_search_or_are_refused() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
        "web_search_options": {"search_context_size": "low", "user_location": {"type": "approximate", "approximate": {"city": "Bonn"}}}});
    let asked = request(Format::OpenaiChat, &body);
    let (tools, _) = fitted(&asked, Format::AnthropicMessages, &searching("web_search_20250305"));
    assert_eq!(tools[0]["user_location"], json!({"type": "approximate", "city": "Bonn"}));
    let (tools, _) = fitted(&asked, Format::Gemini, &searching("googleSearch"));
    assert_eq!(tools, [json!({"googleSearch": {}})]);
    for to in [Format::Gemini, Format::Cohere, Format::AnthropicMessages] {
        assert_eq!(
            fit(&asked, to, &Dialect::of("m")).err().and_then(|e| e.param.clone()).as_deref(),
            Some("web_search")
        );
    }
    assert!(fit(&asked, Format::OpenaiChat, &Dialect::of("m")).unwrap().is_none());
}

#[test]
fn a_vendor_of_the_same_format_hears_only_of_tools_that_it_runs() {
    let known = Dialect { hosted: Some(&["web_search", "mcp"]), search: Some("web_search"), ..Dialect::of("m") };
    let tools = json!([{"type": "web_search", "external_web_access": true}, {"type": "mcp", "server_label": "s"},
        {"type": "image_generation"}, {"type": "file_search"}, function()]);
    let (tools, dropped) = fitted(&responses(tools, json!({})), Format::OpenaiResponses, &known);
    assert_eq!(
        tools,
        [json!({"type": "web_search"}), json!({"type": "mcp", "server_label": "s"}), json!({"type": "file_search"})]
    );
    assert_eq!(dropped, ["image_generation"]);
    let kept = responses(json!([{"type": "web_search"}, {"type": "mcp", "server_label": "s"}]), json!({}));
    assert!(fit(&kept, Format::OpenaiResponses, &known).unwrap().is_none());
    assert!(fit(&kept, Format::OpenaiResponses, &Dialect::of("m")).unwrap().is_none());

    let body = r#"{ "model":"x","input":"hi","tools":[{"type":"web_search","external_web_access":false},{"type":"function","name":"f","parameters":{"type":"object","properties":{}},"strict":false}]}"#;
    let mut document = Document::new(Format::OpenaiResponses, body.into(), Inbound::default()).expect("opened");
    let (pieces, dropped) = document.patch(&known, false).expect("patched");
    let sent: Value = serde_json::from_slice(&pieces.concat()).expect("JSON");
    assert_eq!(
        (sent["tools"].as_array().map(Vec::len), &sent["tools"][0]["name"], dropped),
        (Some(1), &json!("f"), vec!["web_search"])
    );
}

#[test]
fn past_searches_are_left_out_and_the_rest_of_the_turns_stays() {
    let input = json!([
        {"role": "user", "content": "what is new?"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "news"}},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Much.", "annotations": []}]},
        {"role": "user", "content": "more"},
    ]);
    let body = json!({"model": "m", "input": input}).to_string();
    for to in Format::ALL.into_iter().filter(|to| *to != Format::OpenaiResponses) {
        let mut document =
            Document::new(Format::OpenaiResponses, body.clone().into(), Inbound::default()).expect("opened");
        let encoded = document.encode(to, &Dialect::of("m")).expect("encoded");
        assert_eq!(encoded.dropped, ["past_searches"], "{to:?}");
        let text = Value::Object(encoded.body).to_string();
        assert!(text.contains("Much.") && text.contains("more") && !text.contains("news"), "{to:?}: {text}");
        // Another target may still be sent them.
        assert!(
            document
                .request()
                .expect("read")
                .messages
                .iter()
                .flat_map(|m| &m.parts)
                .any(|p| matches!(p, Part::Native { .. }))
        );
    }
    let content = json!([
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "news"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"type": "web_search_result", "url": "https://a.example", "title": "A", "encrypted_content": "x"}]},
        {"type": "text", "text": "Much."},
    ]);
    let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"},
        {"role": "assistant", "content": content}, {"role": "user", "content": "more"}]})
    .to_string();
    let mut document = Document::new(Format::AnthropicMessages, body.into(), Inbound::default()).expect("opened");
    let encoded = document.encode(Format::OpenaiChat, &Dialect::of("m")).expect("encoded");
    assert_eq!((encoded.dropped, encoded.body["messages"].as_array().map(Vec::len)), (vec!["past_searches"], Some(3)));
}

#[test]
fn code_and_pages_go_to_the_targets_own_tools_and_are_refused_where_there_are_none() {
    let code = json!({"type": "code_interpreter", "container": {"type": "auto"}});
    let asked = responses(json!([code.clone()]), json!({}));
    let target = |code, fetch| Dialect { code, fetch, ..Dialect::of("m") };
    let anthropic = target(Some("code_execution_20260120"), Some("web_fetch_20250910"));
    let gemini = Dialect { search_alone: true, ..target(Some("codeExecution"), Some("urlContext")) };
    assert_eq!(
        fitted(&asked, Format::AnthropicMessages, &anthropic).0,
        [json!({"type": "code_execution_20260120", "name": "code_execution"})]
    );
    assert_eq!(fitted(&asked, Format::Gemini, &gemini).0, [json!({"codeExecution": {}})]);
    // Beside functions, where a target takes one or the other; with files that lie at their own vendor; unknown targets.
    let both = responses(json!([code, function()]), json!({}));
    let files = responses(
        json!([{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]),
        json!({}),
    );
    for (asked, to, dialect) in [
        (&both, Format::Gemini, &gemini),
        (&files, Format::Gemini, &gemini),
        (&asked, Format::Cohere, &Dialect::of("m")),
        (&asked, Format::Gemini, &Dialect::of("m")),
    ] {
        let (tools, dropped) = fitted(asked, to, dialect);
        assert!(tools.iter().any(|tool| tool["type"] == "code_interpreter") && dropped.is_empty(), "{to:?}: {tools:?}");
    }
    let pages = |tool: Value| {
        request(
            Format::AnthropicMessages,
            &json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "tools": [tool]}),
        )
    };
    let plain = json!({"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": null});
    assert_eq!(fitted(&pages(plain.clone()), Format::Gemini, &gemini).0, [json!({"urlContext": {}})]);
    let mut bound = plain;
    bound["allowed_domains"] = json!(["a.example"]);
    assert_eq!(fitted(&pages(bound.clone()), Format::Gemini, &gemini).0, [bound], "a bound that it cannot keep");
    let context =
        request(Format::Gemini, &json!({"contents": [{"parts": [{"text": "x"}]}], "tools": [{"urlContext": {}}]}));
    assert_eq!(
        fitted(&context, Format::AnthropicMessages, &anthropic).0,
        [json!({"type": "web_fetch_20250910", "name": "web_fetch"})]
    );
    // Tools that only find others: all of those are there.
    let finding = responses(json!([{"type": "tool_search"}, function()]), json!({}));
    let (tools, dropped) = fitted(&finding, Format::AnthropicMessages, &anthropic);
    assert_eq!((tools.len(), dropped), (0, vec!["tool_search"]), "only the function is left");
}

#[test]
fn a_vendor_that_tells_what_code_printed_only_when_asked_is_asked() {
    let tool = json!({"type": "code_execution_20260120", "name": "code_execution"});
    let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "tools": [tool]});
    let mut document =
        Document::new(Format::AnthropicMessages, body.to_string().into(), Inbound::default()).expect("opened");
    let vendor = Dialect { code: Some("code_interpreter"), reasons: false, ..Dialect::of("m") };
    let sent = Value::Object(document.encode(Format::OpenaiResponses, &vendor).expect("encoded").body);
    assert_eq!(sent["tools"], json!([{"type": "code_interpreter", "container": {"type": "auto"}}]));
    assert_eq!(sent["include"], json!(["code_interpreter_call.outputs"]));
}

#[test]
fn code_of_past_turns_is_written_down_for_other_providers() {
    let call = json!({"type": "code_interpreter_call", "id": "ci_1", "status": "completed", "code": "print(6*7)", "container_id": "c",
        "outputs": [{"type": "logs", "logs": "42\n"}]});
    let input = json!([{"role": "user", "content": "how much?"}, call, {"role": "user", "content": "and now?"}]);
    let body = json!({"model": "m", "input": input}).to_string();
    for to in Format::ALL.into_iter().filter(|to| *to != Format::OpenaiResponses) {
        let mut document =
            Document::new(Format::OpenaiResponses, body.clone().into(), Inbound::default()).expect("opened");
        let text = Value::Object(document.encode(to, &Dialect::of("m")).expect("encoded").body).to_string();
        assert!(text.contains("print(6*7)") && text.contains("42") && !text.contains("ci_1"), "{to:?}: {text}");
    }
    // One that this gateway wrote is no item that the vendor knows.
    let ours = body.replace("ci_1", "ci_pc_1");
    let mut document = Document::new(Format::OpenaiResponses, ours.into(), Inbound::default()).expect("opened");
    let text =
        Value::Object(document.encode(Format::OpenaiResponses, &Dialect::of("m")).expect("encoded").body).to_string();
    assert!(text.contains("print(6*7)") && !text.contains("code_interpreter_call"), "{text}");
}

#[test]
fn a_search_that_gemini_tells_of_as_a_call_is_the_record_of_a_search() {
    let part = |member: &str, kind: &str| json!({ member: {"id": "1", "toolType": kind} });
    let asked = |kind: &str| {
        request(
            Format::Gemini,
            &json!({"contents": [
                {"role": "user", "parts": [{"text": "x"}]},
                {"role": "model", "parts": [part("toolCall", kind), part("toolResponse", kind), {"text": "found"}]},
                {"role": "user", "parts": [{"text": "y"}]},
            ]}),
        )
    };
    let fitted = fit(&asked("GOOGLE_SEARCH_WEB"), Format::AnthropicMessages, &Dialect::of("m")).expect("no refusal");
    assert_eq!(fitted.expect("something to fit").dropped, ["past_searches"]);
    let files = fit(&asked("FILE_SEARCH"), Format::AnthropicMessages, &Dialect::of("m")).expect("no refusal");
    assert!(files.expect("something to fit").dropped.is_empty(), "what was found there is told");
}

#[test]
fn what_another_provider_called_by_itself_is_written_down() {
    let anthropic = json!({"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [
            {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "ask", "server_name": "s", "input": {"q": "why"}},
            {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": [{"type": "text", "text": "because"}]},
            {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1",
            "content": [{"type": "tool_reference", "tool_name": "because_of"}]}]},
    ]});
    let responses = json!({"model": "m", "input": [
        {"role": "user", "content": "go"},
        {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
        {"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "ask", "arguments": "{\"q\":\"why\"}",
            "output": "because"},
        {"role": "user", "content": "and?"},
    ]});
    let gemini = json!({"contents": [
        {"role": "user", "parts": [{"text": "go"}]},
        {"role": "model", "parts": [
            {"toolCall": {"id": "1", "toolType": "ASK", "args": {"q": "why"}}},
            {"toolResponse": {"id": "1", "toolType": "ASK", "response": {"result": "because"}}},
        ]},
        {"role": "user", "parts": [{"text": "and?"}]},
    ]});
    for (from, body) in
        [(Format::AnthropicMessages, anthropic), (Format::OpenaiResponses, responses), (Format::Gemini, gemini)]
    {
        for to in Format::ALL.into_iter().filter(|to| *to != from) {
            let inbound = Inbound { model: Some("m"), stream: Some(false), ..Inbound::default() };
            let mut document = Document::new(from, body.to_string().into(), inbound).expect("opened");
            let sent = document.encode(to, &Dialect::of("m")).unwrap_or_else(|e| panic!("{from:?} {to:?}: {e}"));
            let text = Value::Object(sent.body).to_string();
            assert!(text.contains("```call ask") && text.contains("why") && text.contains("because"), "{to:?}: {text}");
            assert!(!text.contains("mcp_1") && !text.contains("mcptoolu_1"), "{to:?}: {text}");
        }
    }
}

#[test]
fn a_server_of_which_nothing_is_known_is_asked_only_for_what_the_request_needs() {
    let assumed = |search| Dialect { assumed: true, code: Some("codeExecution"), ..searching(search) };
    let asked = responses(
        json!([{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]),
        json!({}),
    );
    let (tools, dropped) = fitted(&asked, Format::Gemini, &assumed("googleSearch"));
    assert_eq!((tools, dropped), (vec![json!({"codeExecution": {}})], vec!["web_search"]));
    let forced = responses(json!([{"type": "web_search"}, function()]), json!({"tool_choice": {"type": "web_search"}}));
    let (tools, _) = fitted(&forced, Format::AnthropicMessages, &assumed("web_search_20250305"));
    assert_eq!(tools[0]["name"], "web_search");
}
