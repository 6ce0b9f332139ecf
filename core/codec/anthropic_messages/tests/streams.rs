//! Streams: one open block at a time, one terminal, errors after 200, and events that are not known yet.

use serde_json::{Value, json};

use crate::{
    codec::{ClientView, Codec, Dialect, anthropic_messages::AnthropicMessages},
    error::{Error, Kind},
    model::{
        Delta, Event, Extra, Finish, FinishReason, Format, Part, PartStart, Response, Signature, Start, ToolKind,
        Usage, fold::Fold,
    },
};

fn write(events: &[Event]) -> Vec<u8> {
    let view = ClientView { model: "asked".to_owned(), request_id: "req_1".to_owned(), ..ClientView::default() };
    let mut encoder = AnthropicMessages.stream_encoder(&view);
    let mut out = Vec::new();
    for event in events {
        encoder.push(event, &mut out);
    }
    encoder.finish(&mut out);
    out
}

/// The frames of a stream as (event name, data).
fn frames(bytes: &[u8]) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut decoder = crate::codec::sse::Decoder::default();
    decoder
        .push(bytes, |frame| {
            out.push((frame.event.clone(), serde_json::from_str(&frame.data).expect("is JSON")));
            Ok(())
        })
        .expect("is SSE");
    out
}

fn kinds(bytes: &[u8]) -> Vec<String> {
    frames(bytes).into_iter().map(|(name, _)| name).collect()
}

fn read(stream: &str) -> (Vec<Event>, Option<Error>) {
    let mut decoder = AnthropicMessages.stream_decoder(&Dialect::of("claude"), crate::codec::sse::MAX_EVENT);
    let mut out = Vec::new();
    let error = decoder.push(stream.as_bytes(), &mut out).and_then(|()| decoder.finish(&mut out)).err();
    (out, error)
}

fn fold(events: Vec<Event>) -> Response {
    let mut fold = Fold::default();
    events.into_iter().for_each(|event| fold.push(event));
    fold.finish()
}

fn sse(events: &[Value]) -> String {
    events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap_or_default())).collect()
}

fn start(index: u32, part: PartStart) -> Event {
    Event::PartStart { choice: 0, index, part }
}

fn tool(index: u32, id: &str) -> Event {
    start(
        index,
        PartStart::ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            kind: ToolKind::Function,
            signature: None,
            extra: Extra::default(),
        },
    )
}

fn text(index: u32, text: &str) -> Event {
    Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) }
}

fn end(index: u32) -> Event {
    Event::PartEnd { choice: 0, index }
}

fn finish(reason: FinishReason) -> Event {
    Event::Finish { choice: 0, finish: Finish::new(reason, "stop") }
}

fn began() -> Event {
    Event::Start(Start { id: "chatcmpl-1".to_owned(), model: "gpt".to_owned(), ..Start::default() })
}

#[test]
fn interleaved_calls_are_told_one_after_the_other() {
    let bytes = write(&[
        began(),
        tool(0, "a"),
        tool(1, "b"),
        text(0, "{\"x\""),
        text(1, "{\"y\":2}"),
        text(0, ":1}"),
        end(1),
        end(0),
        finish(FinishReason::ToolCalls),
        Event::End,
    ]);
    let mut open = Vec::new();
    for (_, data) in frames(&bytes) {
        match data["type"].as_str() {
            Some("content_block_start") => {
                assert!(open.is_empty(), "one block at a time");
                open.push(data["index"].clone());
            }
            Some("content_block_delta") => assert_eq!(open.last(), Some(&data["index"])),
            Some("content_block_stop") => assert_eq!(open.pop().as_ref(), Some(&data["index"])),
            _ => {}
        }
    }
    let (events, error) = read(&String::from_utf8_lossy(&bytes));
    assert!(error.is_none());
    let arguments: Vec<String> = fold(events).choices[0]
        .parts
        .iter()
        .filter_map(|p| if let Part::ToolCall(c) = p { Some(c.arguments.clone()) } else { None })
        .collect();
    assert_eq!(arguments, ["{\"x\":1}", "{\"y\":2}"]);
}

#[test]
fn usage_that_comes_after_the_finish_still_stands_in_the_message_delta() {
    let usage = Usage { input_tokens: Some(9), output_tokens: Some(4), ..Usage::default() };
    let bytes = write(&[
        began(),
        start(0, PartStart::Text { extra: Extra::default() }),
        text(0, "hi"),
        end(0),
        finish(FinishReason::Stop),
        Event::Usage(usage),
        Event::End,
    ]);
    assert_eq!(
        kinds(&bytes),
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let frames = frames(&bytes);
    assert_eq!(frames[0].1["message"]["usage"], json!({"input_tokens": 0, "output_tokens": 0}));
    assert_eq!(frames[4].1["usage"], json!({"input_tokens": 9, "output_tokens": 4}));
    assert_eq!(frames[4].1["delta"]["stop_reason"], json!("end_turn"));
}

#[test]
fn usage_that_comes_first_stands_in_the_message_start() {
    let usage = Usage { input_tokens: Some(9), ..Usage::default() };
    let bytes =
        write(&[began(), Event::Usage(usage), start(0, PartStart::Refusal), text(0, "no"), finish(FinishReason::Stop)]);
    let frames = frames(&bytes);
    assert_eq!(frames[0].1["message"]["usage"]["input_tokens"], json!(9));
    let delta =
        frames.iter().find(|(name, _)| name == "message_delta").map(|(_, data)| data["delta"]["stop_reason"].clone());
    assert_eq!(delta, Some(json!("refusal")));
}

#[test]
fn an_event_that_is_no_object_is_the_upstreams_fault() {
    for kind in ["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop"] {
        for data in ["\"message\"", "7", "[{}]", "true", "null"] {
            let (events, error) = read(&format!("event: {kind}\ndata: {data}\n\n"));
            let error = error.expect("an error");
            assert!(
                error.kind == Kind::Upstream && error.message.contains("not a JSON object"),
                "{kind} {data}: {error:?}"
            );
            assert_eq!(events, [], "{kind} {data}");
        }
    }
}

#[test]
fn a_block_is_made_only_when_there_is_something_in_it() {
    let bytes =
        write(&[began(), start(0, PartStart::Text { extra: Extra::default() }), end(0), finish(FinishReason::Length)]);
    assert_eq!(kinds(&bytes), ["message_start", "message_delta", "message_stop"]);
}

#[test]
fn sealed_reasoning_becomes_a_block_of_its_own() {
    let sealed = Signature { origin: Format::AnthropicMessages, data: "ZGF0YQ==".to_owned() };
    let signature = Signature { origin: Format::Gemini, data: "c2ln".to_owned() };
    let bytes = write(&[
        began(),
        start(0, PartStart::Reasoning { extra: Extra::default() }),
        text(0, "why"),
        Event::Delta { choice: 0, index: 0, delta: Delta::Signature(signature) },
        Event::Delta { choice: 0, index: 0, delta: Delta::Sealed(sealed) },
        end(0),
        finish(FinishReason::Stop),
    ]);
    let frames = frames(&bytes);
    assert_eq!(frames[3].1["delta"], json!({"type": "signature_delta", "signature": "pc1:gemini:c2ln"}));
    assert_eq!(frames[5].1["content_block"], json!({"type": "redacted_thinking", "data": "ZGF0YQ=="}));
    assert_eq!((&frames[1].1["index"], &frames[5].1["index"]), (&json!(0), &json!(1)));
}

#[test]
fn free_text_input_is_streamed_inside_an_object() {
    let custom = PartStart::ToolCall {
        id: "c".to_owned(),
        name: "shell".to_owned(),
        kind: ToolKind::Custom,
        signature: None,
        extra: Extra::default(),
    };
    let bytes = write(&[
        began(),
        start(0, custom),
        text(0, "echo \"a"),
        text(0, "\"\n"),
        end(0),
        finish(FinishReason::ToolCalls),
    ]);
    let (events, _) = read(&String::from_utf8_lossy(&bytes));
    let Part::ToolCall(call) = &fold(events).choices[0].parts[0] else { unreachable!() };
    assert_eq!(serde_json::from_str::<Value>(&call.arguments).ok(), Some(json!({"input": "echo \"a\"\n"})));
}

#[test]
fn there_is_one_terminal_and_none_after_an_error() {
    let view = ClientView::default();
    let mut encoder = AnthropicMessages.stream_encoder(&view);
    let mut out = Vec::new();
    encoder.push(&began(), &mut out);
    encoder.push(&Event::End, &mut out);
    encoder.finish(&mut out);
    encoder.keep_alive(&mut out);
    assert_eq!(kinds(&out), ["message_start", "message_delta", "message_stop"]);
    let mut encoder = AnthropicMessages.stream_encoder(&view);
    let mut out = Vec::new();
    encoder.push(&began(), &mut out);
    encoder.keep_alive(&mut out);
    encoder.error(&Error::new(Kind::Upstream, "it died"), "req_9", &mut out);
    encoder.finish(&mut out);
    encoder.push(&text(0, "late"), &mut out);
    let frames = frames(&out);
    assert_eq!(kinds(&out), ["message_start", "ping", "error"]);
    assert_eq!(
        frames[2].1,
        json!({"type": "error", "error": {"type": "api_error", "message": "it died", "details": {"error_code": "upstream_failed"}},
            "request_id": "req_9"})
    );
}

#[test]
fn an_error_event_keeps_what_came_before_it() {
    let stream = sse(&[
        json!({"type": "message_start", "message": {"id": "msg_1", "model": "claude", "usage": {"input_tokens": 3, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "so far"}}),
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    ]);
    let (events, error) = read(&stream);
    let error = error.expect("an error");
    assert_eq!((error.kind, error.upstream.as_ref().map(|u| u.status)), (Kind::UpstreamOverloaded, Some(529)));
    assert_eq!(fold(events).text(), "so far");
}

#[test]
fn what_is_unknown_in_a_stream_is_passed_over() {
    let stream = sse(&[
        json!({"type": "message_start", "message": {"id": "msg_1", "model": "claude"}}),
        json!({"type": "later_event", "x": 1}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "compaction", "content": null}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", "content": "all "}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", "content": "of it"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "lost"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "compaction"}, "usage": {"output_tokens": 2}}),
        json!({"type": "message_stop"}),
        json!({"type": "message_start", "message": {"id": "msg_2"}}),
    ]);
    let (events, error) = read(&stream);
    assert!(error.is_none());
    let response = fold(events);
    assert_eq!(response.id, "msg_1");
    let Part::Native { value, .. } = &response.choices[0].parts[0] else { unreachable!() };
    assert_eq!(value, &json!({"type": "compaction", "content": "all of it"}));
    assert_eq!(response.usage.and_then(|u| u.input_tokens), None, "unknown is not zero");
}

#[test]
fn a_stream_that_breaks_off_or_is_no_stream_is_the_upstreams_fault() {
    let begun = sse(&[
        json!({"type": "message_start", "message": {}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
    ]);
    for stream in
        [String::new(), begun, "data: <html>\n\n".to_owned(), "data: {\"type\":\"content_block_stop\"}\n\n".to_owned()]
    {
        assert_eq!(read(&stream).1.map(|e| e.kind), Some(Kind::Upstream), "{stream}");
    }
}

#[test]
fn a_turn_that_ends_with_calls_ends_with_calls_whatever_its_word() {
    let said = [
        json!({"type": "message_start", "message": {"id": "m", "model": "c", "content": [], "usage": {"input_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
        json!({"type": "message_stop"}),
    ];
    let bytes: String = said.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap())).collect();
    let mut events = Vec::new();
    AnthropicMessages.stream_decoder(&Dialect::of("c"), 1 << 20).push(bytes.as_bytes(), &mut events).expect("a stream");
    let mut fold = Fold::default();
    events.into_iter().for_each(|event| fold.push(event));
    let whole = json!({"type": "message", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}], "stop_reason": "end_turn"});
    let whole = AnthropicMessages.decode_response(whole.to_string().as_bytes()).expect("an answer");
    for response in [fold.finish(), whole] {
        assert_eq!(response.choices[0].finish.as_ref().expect("a finish").reason, FinishReason::ToolCalls);
    }
}
