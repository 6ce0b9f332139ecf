use serde_json::json;

use super::*;
use crate::{
    codec::codec,
    model::{Format, Message, Role, ToolChoice},
};

fn lacking() -> Dialect {
    Dialect { native_schema: false, ..Dialect::of("claude-3-5-haiku-20241022") }
}

fn ask() -> Request {
    let schema = json!({"type": "object", "properties": {"a": {"type": "number", "minimum": 1}}, "required": ["a"]});
    Request {
        model: "m".to_owned(),
        messages: vec![Message::new(Role::User, vec![Part::text("go")])],
        output: Some(Output::Schema { name: None, description: None, schema, strict: Some(true) }),
        ..Request::default()
    }
}

#[test]
fn a_tool_stands_in_for_a_schema_that_the_model_cannot_bind() {
    let body = codec(Format::AnthropicMessages).encode_request(&ask(), &lacking()).expect("encoded").body;
    assert_eq!(body["tools"][0]["name"], NAME);
    assert_eq!(body["tools"][0]["input_schema"]["properties"]["a"]["minimum"], 1, "nothing of the schema is lost");
    assert_eq!(body["tool_choice"], json!({"type": "tool", "name": NAME}));
    assert_eq!(body.get("output_config"), None);
    let native = codec(Format::AnthropicMessages).encode_request(&ask(), &Dialect::of("claude")).expect("encoded").body;
    assert_eq!(native.get("tools"), None);
    // What no tool can take is refused, as before.
    let mut list = ask();
    list.output =
        Some(Output::Schema { name: None, description: None, schema: json!({"type": "array"}), strict: None });
    assert!(codec(Format::AnthropicMessages).encode_request(&list, &lacking()).is_err());
}

#[test]
fn its_call_is_the_answers_text_whole_and_streamed() {
    let whole = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
        "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 2},
        "content": [{"type": "tool_use", "id": "toolu_1", "name": NAME, "input": {"a": 1}}],
    });
    let mut response = codec(Format::AnthropicMessages).decode_response(whole.to_string().as_bytes()).expect("decoded");
    restore(&mut response);
    let choice = &response.choices[0];
    assert_eq!(choice.finish.as_ref().map(|f| f.reason), Some(FinishReason::Stop));
    let [Part::Text(text)] = choice.parts.as_slice() else { panic!("{:?}", choice.parts) };
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text.text).expect("JSON"), json!({"a": 1}));
    for (pieces, expected) in [(&["{\"a\"", ": 1}"][..], "{\"a\": 1}"), (&[], "{}")] {
        let mut events = vec![
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "toolu_1", "name": NAME, "input": {}}}),
        ];
        for piece in pieces {
            events.push(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": piece}}));
        }
        events.push(json!({"type": "content_block_stop", "index": 0}));
        events.push(json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 2}}));
        events.push(json!({"type": "message_stop"}));
        let bytes: String =
            events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().expect("a type"))).collect();
        let mut decoder = restored(codec(Format::AnthropicMessages).stream_decoder(&lacking(), 1 << 20));
        let mut out = Vec::new();
        for byte in bytes.as_bytes().chunks(1) {
            decoder.push(byte, &mut out).expect("pushed");
        }
        decoder.finish(&mut out).expect("finished");
        let text: String = out
            .iter()
            .filter_map(|event| match event {
                Event::Delta { delta: Delta::Text(text), .. } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(text, expected);
        assert!(out.iter().all(|event| !matches!(event, Event::PartStart { part: PartStart::ToolCall { .. }, .. })));
        assert!(out.iter().any(|e| matches!(e, Event::Finish { finish, .. } if finish.reason == FinishReason::Stop)));
    }
}

#[test]
fn the_same_through_the_cloud_that_hosts_the_model() {
    let format = Format::BedrockConverse;
    let body = codec(format).encode_request(&ask(), &lacking()).expect("encoded").body;
    assert_eq!(body["toolConfig"]["tools"][0]["toolSpec"]["name"], NAME);
    assert_eq!(body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]["properties"]["a"]["minimum"], 1);
    assert_eq!(body["toolConfig"]["toolChoice"], json!({"tool": {"name": NAME}}));
    assert_eq!(body.get("outputConfig"), None);
    let native = codec(format).encode_request(&ask(), &Dialect::of("claude")).expect("encoded").body;
    assert!(native.contains_key("outputConfig") && !native.contains_key("toolConfig"));

    // Beside free tools: one of them, or the answer. One that the caller forces stays forced.
    let mut beside = ask();
    let function = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]});
    let inbound = crate::codec::Inbound::default();
    let tools =
        codec(Format::OpenaiChat).decode_request(function.to_string().as_bytes(), inbound).expect("decoded").tools;
    beside.tools = tools;
    let choice = |request: &Request| {
        let body = codec(format).encode_request(request, &lacking()).expect("encoded").body;
        assert_eq!(body["toolConfig"]["tools"].as_array().map(Vec::len), Some(2));
        body["toolConfig"]["toolChoice"].clone()
    };
    assert_eq!(choice(&beside), json!({"any": {}}));
    beside.tool_choice = Some(ToolChoice::Tool { name: "f".to_owned(), custom: false });
    assert_eq!(choice(&beside), json!({"tool": {"name": "f"}}));
}
