//! Gemini requests, both ways: what is read, what is written, and what is refused.

use serde_json::{Value, json};

use super::*;
use crate::{
    error::Kind,
    model::{
        CacheHint, Citation, Media, MediaKind, MediaSource, Message, Output, Part, Reasoning, ReasoningAsk, Role,
        Signature, Text, Tool, ToolCall, ToolChoice, ToolKind, ToolResult, tool::Function,
    },
};

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

fn result(id: &str, text: &str) -> ToolResult {
    ToolResult {
        call_id: id.into(),
        name: None,
        kind: ToolKind::Function,
        parts: vec![Part::text(text)],
        object: None,
        is_error: None,
        cache: None,
        extra: Default::default(),
    }
}

fn image(source: MediaSource) -> Part {
    Part::Media(Media::new(MediaKind::Image, Some("image/png".into()), source))
}

fn function(name: &str, parameters: Option<Value>) -> Tool {
    Tool::Function(Function {
        name: name.into(),
        description: None,
        parameters,
        strict: None,
        custom: false,
        cache: None,
        extra: Default::default(),
    })
}

fn chat(messages: Vec<Message>) -> Request {
    Request { messages, ..Request::default() }
}

#[test]
fn system_text_leads_and_later_system_text_stays_in_place() {
    let request = chat(vec![
        Message::text(Role::System, "Be brief."),
        Message::text(Role::Developer, "In French."),
        Message::text(Role::User, "Hi"),
        Message::text(Role::Assistant, "Salut"),
        Message::text(Role::System, "Now in German."),
        Message::text(Role::User, "Again"),
    ]);
    let (body, dropped) = encode(&request, "gemini-2.5-flash");
    assert_eq!(body["systemInstruction"], json!({ "parts": [{ "text": "Be brief." }, { "text": "In French." }] }));
    assert_eq!(
        body["contents"],
        json!([
            { "role": "user", "parts": [{ "text": "Hi" }] },
            { "role": "model", "parts": [{ "text": "Salut" }] },
            { "role": "user", "parts": [{ "text": "<system>\nNow in German.\n</system>" }, { "text": "Again" }] },
        ])
    );
    assert!(dropped.is_empty());
}

#[test]
fn results_answer_in_the_order_of_their_calls_with_the_names_of_them() {
    let mut failed = result("c2", "no such city");
    failed.is_error = Some(true);
    let request = chat(vec![
        Message::text(Role::User, "Weather?"),
        Message::new(
            Role::Assistant,
            vec![call("c1", "weather", r#"{"city":"Bonn"}"#), call("c2", "weather", ""), call("c3", "time", "{oops")],
        ),
        Message::new(Role::Tool, vec![Part::ToolResult(result("c3", r#"{"hour":7}"#))]),
        Message::new(Role::Tool, vec![Part::ToolResult(failed)]),
        Message::new(Role::Tool, vec![Part::ToolResult(result("c1", "rain"))]),
        Message::text(Role::User, "Well?"),
    ]);
    let (body, _) = encode(&request, "gemini-2.5-flash");
    assert_eq!(
        body["contents"][1]["parts"],
        json!([
            { "functionCall": { "id": "c1", "name": "weather", "args": { "city": "Bonn" } } },
            { "functionCall": { "id": "c2", "name": "weather", "args": {} } },
            { "functionCall": { "id": "c3", "name": "time", "args": { "arguments": "{oops" } } },
        ])
    );
    assert_eq!(
        body["contents"][2],
        json!({ "role": "user", "parts": [
            { "functionResponse": { "id": "c1", "name": "weather", "response": { "result": "rain" } } },
            { "functionResponse": { "id": "c2", "name": "weather", "response": { "error": "no such city" } } },
            { "functionResponse": { "id": "c3", "name": "time", "response": { "hour": 7 } } },
            { "text": "Well?" },
        ] })
    );
}

#[test]
fn a_result_without_a_call_is_refused() {
    let request = chat(vec![Message::new(Role::Tool, vec![Part::ToolResult(result("ghost", "x"))])]);
    let error = Gemini.encode_request(&request, &Dialect::of("gemini-2.5-flash")).unwrap_err();
    assert_eq!((error.kind, error.param.as_deref()), (Kind::InvalidRequest, Some("messages[0]")));
}

#[test]
fn calls_without_ids_are_paired_by_name_and_order_and_lose_the_made_ids_again() {
    let body = json!({ "contents": [
        { "role": "user", "parts": [{ "text": "Two cities" }] },
        { "role": "model", "parts": [
            { "functionCall": { "name": "weather", "args": { "c": 1 } } },
            { "functionCall": { "name": "time", "args": {} } },
            { "functionCall": { "name": "weather", "args": { "c": 2 } } } ] },
        { "role": "user", "parts": [
            { "functionResponse": { "name": "weather", "response": { "t": 1 } } },
            { "functionResponse": { "name": "weather", "response": { "t": 2 } } },
            { "functionResponse": { "name": "time", "response": { "h": 3 } } } ] },
    ] });
    let request = decode(&body);
    let ids: Vec<&str> =
        request.messages[1].parts.iter().map(|p| if let Part::ToolCall(c) = p { c.id.as_str() } else { "" }).collect();
    let answered: Vec<&str> = request.messages[2]
        .parts
        .iter()
        .map(|p| if let Part::ToolResult(r) = p { r.call_id.as_str() } else { "" })
        .collect();
    assert_eq!(answered, [ids[0], ids[2], ids[1]]);
    assert_ne!(ids[0], ids[2]);
    assert_eq!(decode(&body), request, "the same history gives the same ids");
    let (again, _) = encode(&request, "gemini-2.5-flash");
    assert_eq!(again["contents"][1], body["contents"][1]);
    assert_eq!(
        again["contents"][2]["parts"][1],
        json!({ "functionResponse": { "name": "time", "response": { "h": 3 } } })
    );
}

#[test]
fn thought_signatures_go_back_and_foreign_ones_do_not() {
    let mut own = ToolCall { id: "a".into(), ..as_call(call("a", "f", "{}")) };
    own.signature = Some(Signature { origin: Format::Gemini, data: "c2ln".into() });
    let mut foreign = as_call(call("b", "g", "{}"));
    foreign.signature = Some(Signature { origin: Format::AnthropicMessages, data: "zzz".into() });
    let request = chat(vec![
        Message::text(Role::User, "go"),
        Message::new(
            Role::Assistant,
            vec![
                Part::Reasoning(Reasoning {
                    text: "hm".into(),
                    signature: Some(Signature { origin: Format::AnthropicMessages, data: "x".into() }),
                    ..Reasoning::default()
                }),
                Part::ToolCall(own),
                Part::ToolCall(foreign),
            ],
        ),
    ]);
    let (body, dropped) = encode(&request, "gemini-3-flash");
    assert_eq!(
        body["contents"][1]["parts"],
        json!([
            { "functionCall": { "id": "a", "name": "f", "args": {} }, "thoughtSignature": "c2ln" },
            { "functionCall": { "id": "b", "name": "g", "args": {} } },
        ])
    );
    assert_eq!(dropped, ["reasoning"]);
}

fn as_call(part: Part) -> ToolCall {
    match part {
        Part::ToolCall(call) => call,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn unsigned_calls_of_the_current_turn_are_excused_on_gemini_3_alone() {
    let request = chat(vec![
        Message::text(Role::User, "old"),
        Message::new(Role::Assistant, vec![call("a", "f", "{}")]),
        Message::new(Role::Tool, vec![Part::ToolResult(result("a", "1"))]),
        Message::text(Role::User, "new"),
        Message::new(Role::Assistant, vec![call("b", "f", "{}"), call("c", "f", "{}")]),
        Message::new(Role::Tool, vec![Part::ToolResult(result("b", "1")), Part::ToolResult(result("c", "1"))]),
        Message::new(Role::Assistant, vec![call("d", "f", "{}")]),
        Message::new(Role::Tool, vec![Part::ToolResult(result("d", "1"))]),
    ]);
    let signed = |model: &str| -> Vec<String> {
        let (body, _) = encode(&request, model);
        let parts = body["contents"].as_array().unwrap().iter().flat_map(|c| c["parts"].as_array().unwrap().clone());
        parts
            .filter(|p| p["thoughtSignature"] == wire::SKIP_SIGNATURE)
            .map(|p| p["functionCall"]["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(signed("gemini-3-pro-preview"), ["b", "d"]);
    assert_eq!(signed("gemini-2.5-pro"), [""; 0]);
}

#[test]
fn a_signature_smuggled_in_an_id_is_found() {
    let request = chat(vec![
        Message::text(Role::User, "go"),
        Message::new(Role::Assistant, vec![call("a__thought__c2ln", "f", "{}")]),
        Message::new(Role::Tool, vec![Part::ToolResult(result("a__thought__c2ln", "1"))]),
    ]);
    let (body, _) = encode(&request, "gemini-3-pro");
    assert_eq!(
        body["contents"][1]["parts"][0],
        json!({ "functionCall": { "id": "a", "name": "f", "args": {} }, "thoughtSignature": "c2ln" })
    );
    assert_eq!(body["contents"][2]["parts"][0]["functionResponse"]["id"], "a");
}

#[test]
fn foreign_signatures_survive_a_gemini_client() {
    let reasoning = |text: &str, signature: Option<&str>, sealed: Option<&str>| {
        let sign = |data: &str| Signature { origin: Format::AnthropicMessages, data: data.into() };
        Part::Reasoning(Reasoning {
            text: text.into(),
            signature: signature.map(sign),
            sealed: sealed.map(sign),
            extra: Default::default(),
        })
    };
    let parts = vec![
        reasoning("hm", Some("Eq+/=="), None),
        reasoning("", None, Some("redacted")),
        reasoning("", Some("omitted"), None),
        Part::text("Hi"),
    ];
    let response = Response {
        choices: vec![crate::model::Choice { parts: parts.clone(), ..Default::default() }],
        ..Response::default()
    };
    let content = written(&response)["candidates"][0]["content"].clone();
    for part in content["parts"].as_array().unwrap().iter().filter(|p| p.get("thoughtSignature").is_some()) {
        let text = part["thoughtSignature"].as_str().unwrap();
        assert!(
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)),
            "SDKs decode this field as base64"
        );
    }
    // The Python SDK writes bytes in the url-safe alphabet.
    let replayed = content.to_string().replace('+', "-").replace('/', "_");
    let replayed: Value = serde_json::from_str(&replayed).unwrap();
    let back = decode(&json!({ "contents": [{ "role": "user", "parts": [{ "text": "a" }] }, replayed] }));
    assert_eq!(back.messages[1].parts, parts);
}

#[test]
fn thoughts_that_a_client_kept_in_pieces_join_before_their_signature() {
    let body = json!({ "contents": [
        { "role": "user", "parts": [{ "text": "a" }] },
        { "role": "model", "parts": [{ "text": "one ", "thought": true }] },
        { "role": "model", "parts": [{ "text": "two", "thought": true }] },
        { "role": "model", "parts": [{ "text": "", "thought": true, "thoughtSignature": "c2ln" }] },
        { "role": "model", "parts": [{ "text": "Hel" }] },
        { "role": "model", "parts": [{ "text": "lo" }] },
    ] });
    let request = decode(&body);
    assert_eq!(request.messages.len(), 2);
    let [Part::Reasoning(thought), Part::Text(text)] = request.messages[1].parts.as_slice() else {
        unreachable!("{request:?}")
    };
    assert_eq!((thought.text.as_str(), thought.signature.as_ref().map(|s| s.data.as_str())), ("one two", Some("c2ln")));
    assert_eq!(text.text, "Hello");
}

#[test]
fn media_find_their_place() {
    let body = json!({ "contents": [{ "role": "user", "parts": [
        { "inline_data": { "mime_type": "image/png", "data": "_-8" } },
        { "fileData": { "mimeType": "application/pdf", "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc" } },
        { "fileData": { "fileUri": "https://example.com/cat.jpg" } },
        { "inlineData": { "mimeType": "audio/mpeg", "data": "AAAA", "displayName": "s.mp3" }, "videoMetadata": { "fps": 1 } },
    ] }] });
    let request = decode(&body);
    let media: Vec<&Media> = request.messages[0]
        .parts
        .iter()
        .map(|p| if let Part::Media(m) = p { m } else { unreachable!("{p:?}") })
        .collect();
    assert_eq!((media[0].kind, &media[0].source), (MediaKind::Image, &MediaSource::Base64("/+8=".into())));
    assert!(matches!(&media[1].source, MediaSource::File { format: Format::Gemini, .. }));
    assert_eq!(
        (media[2].kind, &media[2].source),
        (MediaKind::Image, &MediaSource::Url("https://example.com/cat.jpg".into()))
    );
    assert_eq!((media[3].kind, media[3].name.as_deref()), (MediaKind::Audio, Some("s.mp3")));
    let (again, _) = encode(&request, "gemini-3-flash");
    assert_eq!(again["contents"][0]["parts"][3], body["contents"][0]["parts"][3]);
}

#[test]
fn a_film_is_named_by_its_page_and_fetched_by_nobody_else() {
    let body =
        json!({ "contents": [{ "role": "user", "parts": [{ "fileData": { "fileUri": "https://youtu.be/abc" } }] }] });
    let request = decode(&body);
    let [Part::Media(film)] = request.messages[0].parts.as_slice() else { unreachable!("{request:?}") };
    assert_eq!(film.kind, MediaKind::Video);
    let dialect = Dialect { media_urls: false, ..Dialect::of("gemini-2.5-flash") };
    let again = Gemini.encode_request(&request, &dialect).unwrap().body;
    assert_eq!(again["contents"], body["contents"]);
}

#[test]
fn unreachable_media_are_refused_by_name() {
    let dialect = Dialect { media_urls: false, ..Dialect::of("gemini-2.5-flash") };
    let request =
        chat(vec![Message::new(Role::User, vec![image(MediaSource::Url("https://example.com/a.png".into()))])]);
    let error = Gemini.encode_request(&request, &dialect).unwrap_err();
    assert_eq!((error.kind, error.param.as_deref()), (Kind::Unsupported, Some("media_url")));
    let (body, _) = encode(&request, "gemini-2.5-flash");
    assert_eq!(
        body["contents"][0]["parts"][0],
        json!({ "fileData": { "mimeType": "image/png", "fileUri": "https://example.com/a.png" } })
    );
    let file = chat(vec![Message::new(
        Role::User,
        vec![image(MediaSource::File { format: Format::OpenaiChat, id: "file-1".into() })],
    )]);
    assert_eq!(Gemini.encode_request(&file, &dialect).unwrap_err().param.as_deref(), Some("file_id"));
    let lacking = Dialect { lacks: &["images"], ..Dialect::of("gemma") };
    let bytes = chat(vec![Message::new(Role::User, vec![image(MediaSource::Base64("AAAA".into()))])]);
    assert_eq!(Gemini.encode_request(&bytes, &lacking).unwrap_err().param.as_deref(), Some("images"));
}

#[test]
fn media_in_results_stand_inside_them_or_beside_them() {
    let mut with_image = result("a", "here");
    with_image.parts.push(image(MediaSource::Base64("AAAA".into())));
    let request = chat(vec![
        Message::new(Role::Assistant, vec![call("a", "shot", "{}")]),
        Message::new(Role::Tool, vec![Part::ToolResult(with_image)]),
    ]);
    let inline = json!({ "inlineData": { "mimeType": "image/png", "data": "AAAA" } });
    let (new, _) = encode(&request, "gemini-3-flash");
    assert_eq!(new["contents"][1]["parts"][0]["functionResponse"]["parts"], json!([inline]));
    let (old, _) = encode(&request, "gemini-2.5-flash");
    assert_eq!(old["contents"][1]["parts"][1], inline);
    assert!(old["contents"][1]["parts"][0]["functionResponse"].get("parts").is_none());
}

#[test]
fn a_changed_result_is_not_answered_with_the_old_object() {
    let body = json!({ "contents": [
        { "role": "model", "parts": [{ "functionCall": { "name": "f", "args": {} } }] },
        { "role": "user", "parts": [{ "functionResponse": { "name": "f", "response": { "mail": "a@b.c" } } }] } ] });
    let mut request = decode(&body);
    let Part::ToolResult(result) = &mut request.messages[1].parts[0] else { unreachable!() };
    result.parts = vec![Part::text(r#"{"mail":"[mail]"}"#)];
    let (again, _) = encode(&request, "gemini-2.5-flash");
    assert_eq!(again["contents"][1]["parts"][0]["functionResponse"]["response"], json!({ "mail": "[mail]" }));
}

#[test]
fn declarations_in_the_own_dialect_widen_and_go_back_unchanged() {
    let own =
        json!({ "type": "OBJECT", "properties": { "c": { "type": "STRING", "nullable": true } }, "required": ["c"] });
    let body = json!({ "contents": [{ "parts": [{ "text": "a" }] }], "tools": [
        { "functionDeclarations": [{ "name": "f", "description": "F", "parameters": own }], "googleSearch": {} },
        { "function_declarations": [{ "name": "g", "parameters_json_schema": { "type": "object" } }] } ] });
    let request = decode(&body);
    let Tool::Function(f) = &request.tools[0] else { unreachable!() };
    assert_eq!(
        f.parameters,
        Some(json!({ "type": "object", "properties": { "c": { "type": ["string", "null"] } }, "required": ["c"] }))
    );
    assert_eq!(
        request.tools[1],
        Tool::Hosted { format: Format::Gemini, kind: "googleSearch".into(), value: json!({ "googleSearch": {} }) }
    );
    let (again, _) = encode(&request, "gemini-2.5-flash");
    assert_eq!(
        again["tools"],
        json!([{ "functionDeclarations": [
            { "name": "f", "description": "F", "parameters": own }, { "name": "g", "parametersJsonSchema": { "type": "object" } } ] }, { "googleSearch": {} }])
    );
}

#[test]
fn schemas_are_lowered_where_the_target_knows_only_its_own() {
    let dialect = Dialect { json_schema: false, ..Dialect::of("gemini-2.0-flash") };
    let request = Request {
        tools: vec![
            function(
                "f",
                Some(
                    json!({ "type": "object", "properties": { "a": { "type": "string" } }, "additionalProperties": false }),
                ),
            ),
            function("none", Some(json!({ "type": "object", "properties": {} }))),
        ],
        output: Some(Output::Schema {
            name: Some("n".into()),
            description: Some("D".into()),
            schema: json!({ "type": "object", "properties": { "x": { "const": 1 } } }),
            strict: Some(true),
        }),
        ..chat(vec![Message::text(Role::User, "a")])
    };
    let body = Value::Object(Gemini.encode_request(&request, &dialect).unwrap().body);
    assert_eq!(
        body["tools"][0]["functionDeclarations"],
        json!([{ "name": "f", "parameters": { "type": "OBJECT", "properties": { "a": { "type": "STRING" } } } }, { "name": "none" }])
    );
    assert_eq!(
        body["generationConfig"],
        json!({ "responseMimeType": "application/json", "responseSchema": {
            "description": "D", "type": "OBJECT", "properties": { "x": { "enum": ["1"], "type": "STRING" } } } })
    );
}

#[test]
fn tool_choices_go_both_ways() {
    let cases = [
        (json!({ "mode": "AUTO" }), ToolChoice::Auto),
        (json!({ "mode": "VALIDATED" }), ToolChoice::Auto),
        (json!({ "mode": "NONE" }), ToolChoice::None),
        (json!({ "mode": "ANY" }), ToolChoice::Required),
        (json!({ "mode": "ANY", "allowedFunctionNames": ["f"] }), ToolChoice::Tool { name: "f".into(), custom: false }),
        (
            json!({ "mode": "ANY", "allowedFunctionNames": ["f", "g"] }),
            ToolChoice::Allowed { names: vec!["f".into(), "g".into()], required: true },
        ),
        (
            json!({ "mode": "VALIDATED", "allowedFunctionNames": ["f"] }),
            ToolChoice::Allowed { names: vec!["f".into()], required: false },
        ),
    ];
    for (calling, choice) in cases {
        let body = json!({ "contents": [{ "parts": [{ "text": "a" }] }], "tools": [{ "functionDeclarations": [{ "name": "f" }] }],
            "toolConfig": { "functionCallingConfig": calling, "retrievalConfig": { "languageCode": "de" } } });
        let request = decode(&body);
        assert_eq!(request.tool_choice, Some(choice));
        assert_eq!(encode(&request, "gemini-2.5-flash").0["toolConfig"], body["toolConfig"]);
    }
}

#[test]
fn generation_config_goes_both_ways() {
    let config = json!({ "temperature": 0, "topP": 0.5, "topK": 40, "candidateCount": 2, "maxOutputTokens": 100, "stopSequences": ["x"], "seed": 7,
        "presencePenalty": 0.25, "frequencyPenalty": -1, "responseLogprobs": true, "logprobs": 3, "responseMimeType": "application/json",
        "responseSchema": { "type": "OBJECT", "properties": { "a": { "type": "INTEGER" } } }, "thinkingConfig": { "includeThoughts": true, "thinkingBudget": 512 },
        "mediaResolution": "MEDIA_RESOLUTION_LOW" });
    let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "a" }] }], "generationConfig": config,
        "safetySettings": [{ "category": "X", "threshold": "Y" }], "labels": { "a": "b" }, "serviceTier": "flex", "cachedContent": "cachedContents/1" });
    let request = decode(&body);
    assert_eq!(request.sampling.temperature, Some(0.0));
    assert_eq!(request.reasoning, Some(ReasoningAsk { effort: None, budget: Some(512), show: Some(true) }));
    let Some(Output::Schema { schema, .. }) = &request.output else { unreachable!() };
    assert_eq!(schema, &json!({ "type": "object", "properties": { "a": { "type": "integer" } } }));
    let (again, dropped) = encode(&request, "gemini-2.5-flash");
    assert_eq!(again, body);
    assert!(dropped.is_empty());
}

#[test]
fn effort_becomes_what_the_model_understands() {
    let ask = |model: &str, effort: &str| {
        let reasoning = Some(ReasoningAsk { effort: Some(effort.into()), ..ReasoningAsk::default() });
        let (body, dropped) = encode(&Request { reasoning, ..chat(vec![Message::text(Role::User, "a")]) }, model);
        (body["generationConfig"]["thinkingConfig"].clone(), dropped)
    };
    assert_eq!(ask("gemini-3-pro-preview", "medium").0, json!({ "thinkingLevel": "medium", "includeThoughts": true }));
    assert_eq!(ask("gemini-3.5-flash", "max").0, json!({ "thinkingLevel": "high", "includeThoughts": true }));
    assert_eq!(ask("gemini-2.5-flash", "low").0, json!({ "thinkingBudget": 1024, "includeThoughts": true }));
    assert_eq!(ask("gemini-2.5-flash", "none").0, json!({ "thinkingBudget": 0 }));
    assert_eq!(ask("gemini-2.0-flash", "low"), (Value::Null, vec!["reasoning_effort"]));
}

#[test]
fn knobs_without_a_home_are_named() {
    let mut request = chat(vec![Message::new(
        Role::User,
        vec![Part::Text(Text { text: "a".into(), cache: Some(CacheHint::default()), ..Text::default() })],
    )]);
    request.user = Some("u".into());
    request.verbosity = Some("low".into());
    request.metadata.insert("k".into(), json!("v"));
    request.sampling.logit_bias = Some(json!({ "1": 2 }).as_object().unwrap().clone());
    request.parallel_tool_calls = Some(false);
    request.tools = vec![function("f", None)];
    let (_, mut dropped) = encode(&request, "gemini-2.5-flash");
    dropped.sort_unstable();
    assert_eq!(dropped, ["cache_control", "logit_bias", "metadata", "parallel_tool_calls", "user", "verbosity"]);
    let refusing = Dialect { refuses: &["seed"], ..Dialect::of("gemini-2.5-flash") };
    request.sampling.seed = Some(1);
    assert!(Gemini.encode_request(&request, &refusing).unwrap().dropped.contains(&"seed"));
}

#[test]
fn foreign_natives_and_hosted_tools_are_refused_by_kind() {
    let native = Part::Native { format: Format::AnthropicMessages, kind: "server_tool_use".into(), value: json!({}) };
    let request = chat(vec![Message::new(Role::Assistant, vec![native])]);
    let error = Gemini.encode_request(&request, &Dialect::of("gemini-3")).unwrap_err();
    assert_eq!((error.kind, error.param.as_deref()), (Kind::Unsupported, Some("server_tool_use")));
    let hosted = Tool::Hosted { format: Format::OpenaiChat, kind: "web_search".into(), value: json!({}) };
    let request = Request { tools: vec![hosted], ..chat(vec![Message::text(Role::User, "a")]) };
    assert_eq!(
        Gemini.encode_request(&request, &Dialect::of("gemini-3")).unwrap_err().param.as_deref(),
        Some("web_search")
    );
}

#[test]
fn a_cached_prompt_is_a_part_that_others_must_refuse() {
    let request = decode(&json!({ "cachedContent": "cachedContents/1", "contents": [{ "parts": [{ "text": "a" }] }] }));
    assert!(matches!(&request.messages[0].parts[0], Part::Native { kind, .. } if kind == "cachedContent"));
}

#[test]
fn bad_requests_name_the_field_at_fault() {
    let cases = [
        (json!({}), "contents"),
        (json!({ "contents": [] }), "contents"),
        (json!({ "contents": 5 }), "contents"),
        (json!({ "contents": [{ "role": "assistant", "parts": [] }] }), "contents[0].role"),
        (json!({ "contents": [{ "parts": [5] }] }), "contents[0].parts[0]"),
        (json!({ "contents": [{ "parts": [{ "text": 5 }] }] }), "contents[0].parts[0].text"),
        (
            json!({ "contents": [{ "parts": [{ "inlineData": { "mimeType": "image/png", "data": "a b!" } }] }] }),
            "contents[0].parts[0].inlineData.data",
        ),
        (
            json!({ "contents": [{ "parts": [{ "inlineData": { "data": "AAAA" } }] }] }),
            "contents[0].parts[0].inlineData.mimeType",
        ),
        (
            json!({ "contents": [{ "parts": [{ "functionCall": { "args": {} } }] }] }),
            "contents[0].parts[0].functionCall.name",
        ),
        (
            json!({ "contents": [{ "parts": [{ "text": "a" }] }], "generationConfig": { "topK": "x" } }),
            "generationConfig.topK",
        ),
        (
            json!({ "contents": [{ "parts": [{ "text": "a" }] }], "toolConfig": { "functionCallingConfig": { "mode": "MAYBE" } } }),
            "toolConfig.functionCallingConfig.mode",
        ),
        (
            json!({ "contents": [{ "parts": [{ "text": "a" }] }], "tools": [{ "functionDeclarations": [{}] }] }),
            "tools[0].functionDeclarations[0].name",
        ),
    ];
    for (body, path) in cases {
        let error = try_decode(&body).unwrap_err();
        assert_eq!((error.kind, error.param.as_deref()), (Kind::InvalidRequest, Some(path)), "{body}");
    }
    let broken =
        Gemini.decode_request(b"{\"contents\": [", Inbound { model: Some("m"), ..Inbound::default() }).unwrap_err();
    assert_eq!(broken.code(), "invalid_json");
}

#[test]
fn numbers_in_arguments_stay_as_written() {
    let body = r#"{"contents":[{"role":"model","parts":[{"functionCall":{"name":"f","args":{"z":1.0,"a":12345678901234567890123,"m":0.10}}}]}]}"#;
    let request = Gemini.decode_request(body.as_bytes(), Inbound { model: Some("m"), ..Inbound::default() }).unwrap();
    let Part::ToolCall(call) = &request.messages[0].parts[0] else { unreachable!() };
    assert_eq!(call.arguments, r#"{"z":1.0,"a":12345678901234567890123,"m":0.10}"#);
    let (again, _) = encode(&request, "gemini-2.5-flash");
    assert!(again.to_string().contains(r#""args":{"z":1.0,"a":12345678901234567890123,"m":0.10}"#));
}

#[test]
fn a_system_prompt_alone_still_makes_a_turn() {
    let (body, _) = encode(&chat(vec![Message::text(Role::System, "Say hi")]), "gemini-2.5-flash");
    assert_eq!(body["systemInstruction"]["parts"][0]["text"], "Say hi");
    assert_eq!(body["contents"].as_array().unwrap().len(), 1);
}

#[test]
fn adaptive_thinking_with_a_word_for_how_much_keeps_the_word() {
    let reasoning = Some(ReasoningAsk { effort: Some("low".into()), budget: Some(-1), show: Some(true) });
    let (body, _) = encode(&Request { reasoning, ..chat(vec![Message::text(Role::User, "a")]) }, "gemini-3-flash");
    assert_eq!(body["generationConfig"]["thinkingConfig"], json!({ "thinkingLevel": "low", "includeThoughts": true }));
}

#[test]
fn what_the_wire_has_no_field_for_is_named_and_a_found_text_keeps_its_title() {
    let cited = Part::Text(Text {
        text: "so".into(),
        citations: vec![Citation { url: Some("https://a".into()), ..Citation::default() }],
        ..Text::default()
    });
    let found = Part::Media(Media {
        name: Some("Tides".into()),
        context: Some("https://a".into()),
        ..Media::new(MediaKind::Document, Some("text/plain".into()), MediaSource::Text("high".into()))
    });
    let request = Request {
        messages: vec![
            Message { name: Some("bob".into()), ..Message::new(Role::User, vec![found]) },
            Message::new(Role::Assistant, vec![cited]),
            Message::text(Role::User, "and?"),
        ],
        ..Request::default()
    };
    let Encoded { body, dropped } = Gemini.encode_request(&request, &Dialect::of("gemini-2.5-flash")).expect("a body");
    assert_eq!(dropped, ["name", "citations"]);
    assert_eq!(body["contents"][0]["parts"][0]["text"], "https://a\nTides");
}
