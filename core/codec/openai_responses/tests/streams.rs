//! Streams, answers and usage: the order of events, and what goes wrong inside them.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    codec::{ClientView, Codec, Dialect, lane::Lane, openai_responses::OpenaiResponses, sse},
    error::{Error, Kind},
    model::{Delta, Event, Extra, Finish, FinishReason, Format, PartStart, Signature, Start, ToolKind, Usage},
};

fn view() -> ClientView {
    ClientView { model: "m".to_owned(), request_id: "req_1".to_owned(), now: 5, ..ClientView::default() }
}

fn frames(bytes: &[u8]) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut decoder = sse::Decoder::new(sse::MAX_EVENT);
    decoder
        .push(bytes, |frame| {
            if frame.data == "[DONE]" {
                return Ok(());
            }
            out.push((frame.event.clone(), serde_json::from_str(&frame.data).unwrap()));
            Ok(())
        })
        .unwrap();
    out
}

fn encoded(events: &[Event]) -> Vec<(String, Value)> {
    let (mut encoder, mut bytes) = (OpenaiResponses.stream_encoder(&view()), Vec::new());
    events.iter().for_each(|event| encoder.push(event, &mut bytes));
    encoder.finish(&mut bytes);
    frames(&bytes)
}

#[test]
fn what_only_this_formats_clients_can_answer_is_no_call_to_others() {
    let finish = |kind: &str| {
        let item = json!({"type": kind, "id": "i", "call_id": "c", "name": "f", "arguments": "{}", "input": "x"});
        let answer = json!({"id": "resp_1", "status": "completed", "output": [item]}).to_string();
        OpenaiResponses.decode_response(answer.as_bytes()).expect("decoded").choices[0]
            .finish
            .as_ref()
            .map(|f| f.reason)
    };
    for kind in ["function_call", "custom_tool_call"] {
        assert_eq!(finish(kind), Some(FinishReason::ToolCalls), "{kind}");
    }
    for kind in ["computer_call", "shell_call", "mcp_approval_request", "web_search_call"] {
        assert_eq!(finish(kind), Some(FinishReason::Stop), "{kind}");
    }
}

fn text(index: u32, text: &str) -> [Event; 3] {
    [
        Event::PartStart { choice: 0, index, part: PartStart::Text { extra: Extra::default() } },
        Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) },
        Event::PartEnd { choice: 0, index },
    ]
}

fn call(index: u32, id: &str) -> Event {
    let part = PartStart::ToolCall {
        id: id.to_owned(),
        name: "f".to_owned(),
        kind: ToolKind::Function,
        signature: None,
        extra: Extra::default(),
    };
    Event::PartStart { choice: 0, index, part }
}

/// Every event has its type and the next number; every item and part begins, says and ends in order.
fn in_order(frames: &[(String, Value)]) {
    let mut open: Vec<String> = Vec::new();
    for (at, (name, event)) in frames.iter().enumerate() {
        assert_eq!(event["type"], name.as_str());
        assert_eq!(event["sequence_number"], at as u64, "{event}");
        let item = event["output_index"].as_u64();
        let part = event.get("content_index").or(event.get("summary_index")).map(Value::to_string);
        let key = format!("{item:?}/{part:?}");
        if name.ends_with("_item.added") || name.ends_with("_part.added") {
            assert!(!open.contains(&key), "{key} begins twice");
            open.push(key);
        } else if name.ends_with("_item.done") || name.ends_with("_part.done") {
            let at = open.iter().position(|k| *k == key).unwrap_or_else(|| panic!("{key} ends without beginning"));
            open.remove(at);
        } else if item.is_some() {
            assert!(open.contains(&key), "{name} outside of {key}");
        }
    }
    assert!(open.is_empty(), "{open:?} did not end");
}

#[test]
fn events_come_in_the_order_that_clients_know() {
    let mut events = vec![Event::Start(Start { id: "x".to_owned(), model: "up".to_owned(), ..Start::default() })];
    let reasoning = PartStart::Reasoning { extra: Extra::default() };
    events.push(Event::PartStart { choice: 0, index: 0, part: reasoning });
    events.push(Event::Delta { choice: 0, index: 0, delta: Delta::Text("hm".to_owned()) });
    let signature = Signature { origin: Format::AnthropicMessages, data: "sig".to_owned() };
    events.push(Event::Delta { choice: 0, index: 0, delta: Delta::Signature(signature) });
    events.push(Event::PartEnd { choice: 0, index: 0 });
    events.extend(text(1, "one"));
    events.extend(text(2, "two"));
    events.push(call(3, "c"));
    events.push(Event::PartEnd { choice: 0, index: 3 });
    events.push(Event::Finish { choice: 0, finish: Finish::new(FinishReason::ToolCalls, "tool_use") });
    events.push(Event::End);
    let frames = encoded(&events);
    in_order(&frames);
    let names: Vec<&str> = frames.iter().map(|(name, _)| name.trim_start_matches("response.")).collect();
    assert_eq!(
        names,
        [
            "created",
            "in_progress",
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let last = &frames.last().unwrap().1["response"];
    assert_eq!(last["id"], "resp_1");
    assert_eq!(last["output"][0]["encrypted_content"], "pc1:anthropic_messages:sig");
    assert_eq!(last["output"][1]["content"].as_array().unwrap().len(), 2);
    // Nothing means `{}`, and who puts the pieces together must come to the same.
    assert_eq!(last["output"][2]["arguments"], "{}");
    assert_eq!(frames[19].1["delta"], "{}");
}

#[test]
fn calls_whose_arguments_arrive_in_turns_stay_apart() {
    let piece = |index, text: &str| Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) };
    let mut events = vec![call(0, "a"), call(1, "b"), piece(1, "{\"b\""), piece(0, "{\"a\":1}"), piece(1, ":2}")];
    events.extend([Event::PartEnd { choice: 0, index: 0 }, Event::PartEnd { choice: 0, index: 1 }, Event::End]);
    let frames = encoded(&events);
    in_order(&frames);
    let output = &frames.last().unwrap().1["response"]["output"];
    assert_eq!((&output[0]["arguments"], &output[1]["arguments"]), (&json!("{\"a\":1}"), &json!("{\"b\":2}")));
}

#[test]
fn a_stream_that_dies_says_so_and_ends_without_an_answer() {
    let (mut encoder, mut bytes) = (OpenaiResponses.stream_encoder(&view()), Vec::new());
    text(0, "half").iter().for_each(|event| encoder.push(event, &mut bytes));
    encoder.error(&Error::new(Kind::Upstream, "it broke"), "req_1", &mut bytes);
    encoder.finish(&mut bytes);
    encoder.error(&Error::new(Kind::Upstream, "again"), "req_1", &mut bytes);
    let frames = frames(&bytes);
    let (name, last) = frames.last().unwrap();
    assert_eq!((name.as_str(), &last["type"], &last["message"]), ("error", &json!("error"), &json!("it broke")));
    assert_eq!(last["code"], "upstream_failed");
    assert_eq!(last["sequence_number"], frames.len() as u64 - 1);
    assert!(frames.iter().all(|(name, _)| name != "response.completed"));
}

#[test]
fn an_error_behind_events_that_went_by_is_numbered_above_them() {
    let event = |name: &str, number: u64, more: &str| {
        format!("event: {name}\ndata: {{\"type\":\"{name}\",{more}\"sequence_number\": {number}}}\n\n")
    };
    let place = r#""item_id":"msg_1","output_index":0,"content_index":0,"#;
    // A schema that the answer repeats, and a text, speak of numbers too.
    let head = r#""response":{"id":"resp_1","output":[],"tools":[{"sequence_number":{}}]},"#;
    let delta = format!(r#"{place}"delta":"\"sequence_number\": 900","#);
    let item = r#""output_index":0,"item":{"id":"msg_1","type":"message","role":"assistant","content":[]},"#;
    for begin in [0, 1, 40] {
        let beginning = [event("response.created", begin, head), event("response.output_item.added", begin + 1, item)];
        let mut stream = beginning.concat();
        (2..9).for_each(|n| stream.push_str(&event("response.output_text.delta", begin + n, &delta)));
        for size in [1, 7, stream.len()] {
            // A last event that lacks its empty line goes by as well, one that is cut off does not.
            for rest in ["", "\n", "\n\ndata: {\"ty"] {
                let bytes = format!("{}{rest}", stream.trim_end());
                let mut lane = Lane::new(Format::OpenaiResponses, &Dialect::of("m"), false, 1 << 20);
                let mut out = Vec::new();
                for piece in bytes.as_bytes().chunks(size) {
                    lane.push(Bytes::copy_from_slice(piece), &mut out).unwrap();
                }
                assert!(lane.finish(&mut out).is_err(), "it broke off");
                let mut told = out.concat();
                let mut encoder = OpenaiResponses.stream_encoder(&view());
                encoder.went_by(lane.next_number());
                encoder.error(&Error::new(Kind::Upstream, "it broke"), "req_1", &mut told);
                let last = frames(&told).pop().unwrap().1;
                assert_eq!(last["type"], "error", "{begin} {size} {rest}");
                assert_eq!(last["sequence_number"], begin + 9, "{begin} {size} {rest}");
            }
        }
    }
}

#[test]
fn failures_inside_a_stream_are_errors_with_their_side() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"output\":[]}}\n\n";
    for (event, status, retry) in [
        (r#"{"type":"error","code":"rate_limit_exceeded","message":"slow"}"#, 429, true),
        (r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#, 400, false),
        (
            r#"{"type":"response.failed","response":{"id":"resp_1","status":"failed","error":{"code":"server_error","message":"no"}}}"#,
            502,
            true,
        ),
        (
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"invalid_prompt","message":"no"}}}"#,
            400,
            false,
        ),
    ] {
        let mut decoder = OpenaiResponses.stream_decoder(&Dialect::of("m"), 1 << 20);
        let mut out = Vec::new();
        let bytes = format!("{created}data: {event}\n\n");
        let error = decoder.push(bytes.as_bytes(), &mut out).unwrap_err();
        assert_eq!((error.status(), error.retryable()), (status, retry), "{event}: {error}");
        assert!(matches!(out.as_slice(), [Event::Start(_)]), "{out:?}");
    }
}

#[test]
fn failed_answers_are_errors() {
    for body in [
        r#"{"id":"resp_1","status":"failed","error":{"code":"server_error","message":"no"},"output":[]}"#,
        r#"{"id":"resp_1","status":"failed","output":[]}"#,
        r#"{"error":{"message":"no"}}"#,
        r#"{"id":"resp_1"}"#,
    ] {
        assert!(OpenaiResponses.decode_response(body.as_bytes()).unwrap_err().retryable(), "{body}");
    }
}

#[test]
fn figures_are_read_as_they_are_meant() {
    let usage = |input, output| Usage { input_tokens: input, output_tokens: output, ..Usage::default() };
    for (object, read) in [
        (r#"{"input_tokens":3,"output_tokens":2,"total_tokens":5}"#, usage(Some(3), Some(2))),
        (
            r#"{"input_tokens":30,"input_tokens_details":{"cached_tokens":7,"cache_write_tokens":2},"output_tokens":12,"output_tokens_details":{"reasoning_tokens":10},"total_tokens":42,"cost":0.5}"#,
            Usage {
                cache_read_tokens: Some(7),
                cache_write_tokens: Some(2),
                reasoning_tokens: Some(10),
                ..usage(Some(30), Some(12))
            },
        ),
        // More cached than all: they are left out of it.
        (
            r#"{"input_tokens":3.0,"input_tokens_details":{"cached_tokens":9},"output_tokens":null}"#,
            Usage { cache_read_tokens: Some(9), ..usage(Some(12), None) },
        ),
        (r#"{"input_tokens":"3","output_tokens":[2]}"#, usage(None, None)),
    ] {
        assert_eq!(OpenaiResponses.read_usage(object.as_bytes()), Some(read), "{object}");
    }
}

/// Without its name a frame is read the long way.
#[test]
fn what_is_said_again_is_read_as_if_it_were_read_in_full() {
    let text = |name: &str, text: &str| {
        format!(
            r#"{{"type":"{name}","output_index":0,"content_index":0,"item_id":"m","text":{},"logprobs":[]}}"#,
            json!(text)
        )
    };
    let delta = |text: &str| {
        format!(
            r#"{{"type":"response.output_text.delta","output_index":0,"content_index":0,"item_id":"m","delta":{}}}"#,
            json!(text)
        )
    };
    let part = |part: &str| {
        format!(
            r#"{{"type":"response.content_part.done","output_index":0,"content_index":0,"item_id":"m","part":{part}}}"#
        )
    };
    let item = |content: &str| {
        format!(
            r#"{{"type":"response.output_item.done","output_index":0,"item":{{"id":"m","type":"message","role":"assistant","status":"completed","content":{content}}}}}"#
        )
    };
    let plain = r#"{"type":"output_text","text":"a\"b","annotations":[],"logprobs":[]}"#;
    let cited = r#"{"type":"output_text","text":"a\"b","annotations":[{"type":"url_citation","url":"https://x","title":"t","start_index":0,"end_index":1}],"logprobs":[]}"#;
    let more = r#"{"type":"output_text","text":"a\"b and more","annotations":[]}"#;
    let odd = r#"{"type":"output_text","text":"a\"b","annotations":[],"provider_specific_fields":{"signature":"pc1:gemini:abc"}}"#;
    let probable =
        r#"{"type":"output_text","text":"a\"b","annotations":[],"logprobs":[{"token":"a","logprob":-0.50}]}"#;
    let call = |arguments: &str| {
        format!(
            r#"{{"type":"response.output_item.done","output_index":1,"item":{{"id":"f","type":"function_call","call_id":"c","name":"n","arguments":{}}}}}"#,
            json!(arguments)
        )
    };
    let opened = [
        r#"{"type":"response.created","response":{"id":"resp_1","status":"in_progress","model":"m","output":[]}}"#.to_owned(),
        r#"{"type":"response.in_progress","response":{"id":"resp_1","status":"in_progress","model":"m","output":[]}}"#.to_owned(),
        r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"m","type":"message","role":"assistant","content":[]}}"#.to_owned(),
        delta("a"),
        delta("\"b"),
    ];
    let called = [
        r#"{"type":"response.output_item.added","output_index":1,"item":{"id":"f","type":"function_call","call_id":"c","name":"n","arguments":""}}"#.to_owned(),
        r#"{"type":"response.function_call_arguments.delta","output_index":1,"item_id":"f","delta":"{}"}"#.to_owned(),
    ];
    let whole = |text: &str| {
        format!(
            r#"{{"type":"response.completed","response":{{"id":"resp_1","status":"completed","model":"m","output":[{}]}}}}"#,
            json!({"id": "m", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text, "annotations": []}]})
        )
    };
    let ends: Vec<Vec<String>> = vec![
        vec![text("response.output_text.done", "a\"b"), part(plain), item(&format!("[{plain}]"))],
        vec![text("response.output_text.done", "a\"b and more"), part(more), item(&format!("[{more}]"))],
        vec![text("response.output_text.done", "another"), part(cited), item(&format!("[{cited}]"))],
        vec![part(odd), item(&format!("[{odd}]"))],
        vec![part(probable), delta("late"), item(&format!("[{probable}]"))],
        vec![part(plain), delta("late"), part(plain), item(&format!("[{plain},{plain}]"))],
        vec![item(r#""a\"b""#)],
        vec![item(&format!("[{plain}]")), delta("late")],
        vec![item("[]")],
        vec![],
    ];
    let decoded = |frames: &[String], named: bool| {
        let mut bytes = String::new();
        for frame in frames {
            let kind = serde_json::from_str::<Value>(frame).unwrap()["type"].as_str().unwrap().to_owned();
            bytes += &if named { format!("event: {kind}\ndata: {frame}\n\n") } else { format!("data: {frame}\n\n") };
        }
        let mut decoder = OpenaiResponses.stream_decoder(&crate::codec::Dialect::of("m"), sse::MAX_EVENT);
        let mut out = Vec::new();
        let result = decoder.push(bytes.as_bytes(), &mut out).and_then(|()| decoder.finish(&mut out));
        (out, result.err().map(|e| e.message.clone()))
    };
    for end in &ends {
        for arguments in ["{}", "{\"a\":1}", "", "{} "] {
            for said in ["a\"b", "a\"b and more"] {
                let last = vec![call(arguments), whole(said)];
                let frames: Vec<String> = [opened.to_vec(), end.clone(), called.to_vec(), last].concat();
                assert_eq!(decoded(&frames, true), decoded(&frames, false), "{end:?} {arguments} {said}");
            }
        }
    }
}
