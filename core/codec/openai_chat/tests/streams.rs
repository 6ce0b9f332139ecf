//! Streams read and written: the habits of servers, and what every client of this format expects; hand-written cases only.

use serde_json::json;

use super::*;
use crate::{
    error::{Error, Kind},
    model::{
        Citation, Delta, Finish, FinishReason, Format, Part, PartStart, Reasoning, Signature, Start, Text, ToolCall,
        ToolKind, Usage, fold::unfold,
    },
};

fn parts(chunks: &[Value]) -> Vec<Part> {
    folded(events(&sse(chunks))).choices.remove(0).parts
}

fn calls(parts: &[Part]) -> Vec<(&str, &str, &str)> {
    let mut out = Vec::new();
    for part in parts {
        if let Part::ToolCall(c) = part {
            out.push((c.id.as_str(), c.name.as_str(), c.arguments.as_str()));
        }
    }
    out
}

fn call(index: Value, id: Value, name: Value, arguments: &str) -> Value {
    json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

#[test]
fn two_calls_in_one_chunk_and_their_interleaved_arguments_stay_apart() {
    let parts = parts(&[
        chunk(json!({"role": "assistant", "content": "let me"})),
        chunk(
            json!({"content": " see", "tool_calls": [call(json!(0), json!("a"), json!("f"), ""), call(json!(1), json!("b"), json!("g"), "")]}),
        ),
        chunk(
            json!({"tool_calls": [{"index": 1, "function": {"arguments": "{\"y\":"}}, {"index": 0, "function": {"arguments": "{\"x\":"}}]}),
        ),
        chunk(
            json!({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}, {"index": 1, "function": {"arguments": "2}"}}]}),
        ),
        last("stop"),
    ]);
    assert_eq!(parts[0], Part::text("let me see"));
    assert_eq!(calls(&parts), [("a", "f", "{\"x\":1}"), ("b", "g", "{\"y\":2}")]);
}

#[test]
fn calls_that_all_have_number_zero_or_none_stay_apart() {
    for index in [json!(0), Value::Null] {
        let parts = parts(&[
            chunk(json!({"tool_calls": [call(index.clone(), json!("a"), json!("f"), "{}")]})),
            chunk(json!({"tool_calls": [call(index.clone(), json!("b"), json!("f"), "{\"z\"")]})),
            chunk(json!({"tool_calls": [{"index": index, "function": {"arguments": ":1}"}}]})),
            last("tool_calls"),
        ]);
        assert_eq!(calls(&parts), [("a", "f", "{}"), ("b", "f", "{\"z\":1}")]);
    }
}

#[test]
fn a_repeated_id_and_a_late_name_are_one_call() {
    let parts = parts(&[
        chunk(json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"arguments": ""}}]})),
        chunk(json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}]})),
        chunk(json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "}"}}]})),
        last("tool_calls"),
    ]);
    assert_eq!(calls(&parts), [("a", "f", "{}")]);
}

#[test]
fn a_name_in_pieces_is_whole_before_the_arguments() {
    let name = |piece: &str| json!({"index": 0, "function": {"name": piece, "arguments": ""}});
    let begins = chunk(json!({"tool_calls": [call(json!(0), json!("a"), json!("get_"), "")]}));
    let goes_on = chunk(json!({"tool_calls": [name("weather")]}));
    let arguments = chunk(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}));
    let parts = parts(&[begins, goes_on, arguments, last("tool_calls")]);
    assert_eq!(calls(&parts), [("a", "get_weather", "{}")]);
}

#[test]
fn calls_without_arguments_keep_their_order_and_their_place_before_what_follows() {
    let bare = |index: u64, id: &str, name: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": name}});
    let parts = parts(&[
        chunk(json!({"tool_calls": [bare(0, "a", "f")]})),
        chunk(json!({"tool_calls": [bare(1, "b", "g")]})),
        chunk(json!({"tool_calls": [{"index": 1, "function": {"arguments": "{\"y\":2}"}}]})),
        chunk(json!({"tool_calls": [bare(2, "c", "h")]})),
        chunk(json!({"content": "so"})),
        last("tool_calls"),
    ]);
    assert_eq!(calls(&parts), [("a", "f", ""), ("b", "g", "{\"y\":2}"), ("c", "h", "")]);
    assert_eq!(parts.last(), Some(&Part::text("so")));
}

#[test]
fn a_finished_call_ends_where_the_next_begins() {
    let all = events(&sse(&[
        chunk(json!({"tool_calls": [call(json!(0), json!("a"), json!("f"), "{}")]})),
        chunk(json!({"tool_calls": [call(json!(1), json!("b"), json!("g"), "{}")]})),
        last("tool_calls"),
    ]));
    let at = |wanted: &dyn Fn(&Event) -> bool| all.iter().position(wanted).unwrap();
    let end = at(&|e| matches!(e, Event::PartEnd { index: 0, .. }));
    let next = at(&|e| matches!(e, Event::PartStart { index: 1, .. }));
    assert!(end < next);
}

#[test]
fn arguments_may_come_as_an_object_and_legacy_calls_as_fragments() {
    let whole = parts(&[
        chunk(json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1.0}}}]})),
        last("tool_calls"),
    ]);
    assert_eq!(calls(&whole), [("a", "f", "{\"x\":1.0}")]);
    let legacy = parts(&[
        chunk(json!({"function_call": {"name": "f", "arguments": ""}})),
        chunk(json!({"function_call": {"arguments": "{}"}})),
        last("function_call"),
    ]);
    assert_eq!(calls(&legacy), [("", "f", "{}")]);
}

#[test]
fn the_finish_is_told_once_after_all_output_with_calls_in_mind() {
    let all = events(&sse(&[
        chunk(json!({"tool_calls": [call(json!(0), json!("a"), json!("f"), "{}")]})),
        last("stop"),
        last("stop"),
    ]));
    let finishes: Vec<_> =
        all.iter().filter_map(|e| if let Event::Finish { finish, .. } = e { Some(finish) } else { None }).collect();
    assert_eq!(finishes.len(), 1);
    assert_eq!((finishes[0].reason, finishes[0].raw.as_str()), (FinishReason::ToolCalls, "stop"));
    assert_eq!(all.last(), Some(&Event::End));
}

#[test]
fn the_first_reasoning_fragment_is_told_once() {
    let both = chunk(
        json!({"reasoning": "a", "reasoning_content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0}]}),
    );
    let more =
        chunk(json!({"reasoning": "b", "reasoning_details": [{"type": "reasoning.text", "text": "b", "index": 0}]}));
    let signed = chunk(
        json!({"reasoning_details": [{"type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1", "index": 0}]}),
    );
    let folded = folded(events(&sse(&[both, more, signed, chunk(json!({"content": "x"})), last("stop")])));
    let Part::Reasoning(reasoning) = &folded.choices[0].parts[0] else { panic!("reasoning") };
    assert_eq!(reasoning.text, "ab");
    assert_eq!(reasoning.signature.as_ref().unwrap().data, "s");
    let details = &folded.choices[0].extra.of(Format::OpenaiChat).unwrap()["$message.reasoning_details"];
    assert_eq!(
        details,
        &json!([{"type": "reasoning.text", "text": "ab", "index": 0, "signature": "s", "format": "anthropic-claude-v1"}])
    );
}

#[test]
fn thinking_blocks_in_pieces_and_whole_give_the_same_reasoning() {
    let in_pieces = [
        chunk(
            json!({"reasoning_content": "a", "thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": ""}]}),
        ),
        chunk(
            json!({"reasoning_content": "b", "thinking_blocks": [{"type": "thinking", "thinking": "b", "signature": null}]}),
        ),
        chunk(
            json!({"reasoning_content": "", "thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]}),
        ),
        last("stop"),
    ];
    let whole = [
        chunk(json!({"reasoning_content": "a"})),
        chunk(json!({"reasoning_content": "b"})),
        chunk(json!({"thinking_blocks": [{"type": "thinking", "thinking": "ab", "signature": "s"}]})),
        last("stop"),
    ];
    let alone =
        [chunk(json!({"thinking_blocks": [{"type": "thinking", "thinking": "ab", "signature": "s"}]})), last("stop")];
    let want = Part::Reasoning(Reasoning {
        text: "ab".into(),
        signature: Some(Signature { origin: Format::AnthropicMessages, data: "s".into() }),
        ..Reasoning::default()
    });
    for chunks in [&in_pieces[..], &whole[..], &alone[..]] {
        assert_eq!(parts(chunks), std::slice::from_ref(&want));
    }
}

#[test]
fn thinking_ends_where_text_begins() {
    let all = events(&sse(&[
        chunk(json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]})),
        chunk(json!({"content": "hi"})),
        last("stop"),
    ]));
    let kinds: Vec<&str> = all
        .iter()
        .map(|e| match e {
            Event::PartStart { part: PartStart::Reasoning { .. }, .. } => "reasoning",
            Event::PartStart { part: PartStart::Text { .. }, .. } => "text",
            Event::Delta { .. } => "delta",
            Event::PartEnd { .. } => "end",
            Event::Finish { .. } => "finish",
            _ => "",
        })
        .filter(|k| !k.is_empty())
        .collect();
    assert_eq!(kinds, ["reasoning", "delta", "end", "text", "delta", "end", "finish"]);
}

#[test]
fn azures_first_chunk_and_comments_start_nothing() {
    let mut filter = json!({"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]});
    let mut bytes = b": OPENROUTER PROCESSING\n\n".to_vec();
    bytes.extend(sse(&[
        filter.take(),
        chunk(json!({"role": "assistant", "content": ""})),
        chunk(json!({"content": "hi"})),
        last("stop"),
    ]));
    let all = events(&bytes);
    let Event::Start(Start { id, extra, .. }) = &all[0] else { panic!("a start") };
    assert_eq!(id, "c1");
    assert!(extra.of(Format::OpenaiChat).unwrap().contains_key("prompt_filter_results"));
    assert_eq!(folded(all).text(), "hi");
}

#[test]
fn usage_is_read_wherever_it_stands() {
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    let mut in_last = last("stop");
    in_last["usage"] = usage.clone();
    let mut apart = last("stop");
    apart["choices"] = json!([]);
    apart["usage"] = usage.clone();
    let mut groq = last("stop");
    groq["x_groq"] = json!({ "usage": usage });
    let mut growing = chunk(json!({"content": "a"}));
    growing["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4});
    for chunks in [vec![in_last.clone()], vec![last("stop"), apart], vec![groq], vec![growing, in_last]] {
        let told = folded(events(&sse(&chunks))).usage.unwrap();
        assert_eq!((told.input_tokens, told.output_tokens), (Some(3), Some(2)));
    }
}

#[test]
fn choices_that_interleave_stay_apart() {
    let of = |index: u32, text: &str, finish: Value| json!({"id": "c1", "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]});
    let folded = folded(events(&sse(&[
        of(0, "a", Value::Null),
        of(1, "x", Value::Null),
        of(1, "y", json!("stop")),
        of(0, "b", json!("length")),
    ])));
    assert_eq!((folded.choices[0].text(), folded.choices[1].text()), ("ab".into(), "xy".into()));
    assert_eq!(folded.choices[0].finish.as_ref().unwrap().reason, FinishReason::Length);
}

#[test]
fn an_error_in_the_stream_is_an_error_after_what_came_before() {
    for (event, body, kind) in [
        ("", r#"{"error":{"message":"m","type":"server_error","code":null}}"#, Kind::Upstream),
        (
            "event: error\n",
            r#"{"error":{"message":"m","type":"invalid_request_error","code":"tool_use_failed","status_code":400}}"#,
            Kind::UpstreamRefused,
        ),
        ("", r#"{"id":"x","error":{"message":"m","code":429},"choices":[]}"#, Kind::UpstreamRateLimited),
        ("", r#"{"error":"m","error_type":"overloaded"}"#, Kind::Upstream),
        ("", r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"message":"m"}}]}"#, Kind::Upstream),
        ("", r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#, Kind::Upstream),
    ] {
        let text = format!("data: {}\n\n{event}data: {body}\n\ndata: [DONE]\n\n", chunk(json!({"content": "hi"})));
        let (mut decoder, mut out) = (decoder(), Vec::new());
        let error = decoder.push(text.as_bytes(), &mut out).unwrap_err();
        assert_eq!(error.kind, kind, "{body}");
        assert!(error.upstream.is_some());
        assert!(out.iter().any(|e| matches!(e, Event::Delta { .. })));
        assert!(!out.contains(&Event::End));
    }
}

#[test]
fn a_stream_that_breaks_off_is_dead() {
    let cut = format!("data: {}\n\ndata: {}\n\n", chunk(json!({"content": "hi"})), last("stop"));
    let mut out = Vec::new();
    let mut strict = decoder();
    strict.push(cut.as_bytes(), &mut out).unwrap();
    assert_eq!(strict.finish(&mut out).unwrap_err().kind, Kind::Upstream);
    assert!(!out.iter().any(|e| matches!(e, Event::Finish { .. } | Event::End)));
    let open = Dialect { terminal_optional: true, ..Dialect::of("m") };
    let mut lenient = CODEC.stream_decoder(&open, crate::codec::sse::MAX_EVENT);
    lenient.push(cut.as_bytes(), &mut out).unwrap();
    lenient.finish(&mut out).unwrap();
    assert_eq!(out.last(), Some(&Event::End));
    // Its last chunk, or the terminal, may lack the empty line; half of a chunk is none.
    for (text, whole) in [
        (cut.trim_end().to_owned(), true),
        (format!("{cut}data: [DONE]"), true),
        (cut[..cut.len() - 9].to_owned(), false),
    ] {
        let mut lenient = CODEC.stream_decoder(&open, crate::codec::sse::MAX_EVENT);
        let mut out = Vec::new();
        lenient.push(text.as_bytes(), &mut out).unwrap();
        assert_eq!((lenient.finish(&mut out).is_ok(), out.last() == Some(&Event::End)), (whole, whole), "{text}");
    }
    let mut unfinished = CODEC.stream_decoder(&open, crate::codec::sse::MAX_EVENT);
    unfinished.push(format!("data: {}\n\n", chunk(json!({"content": "hi"}))).as_bytes(), &mut out).unwrap();
    assert!(unfinished.finish(&mut out).is_err());
    assert!(decoder().push(b"data: [DONE]\n\n", &mut out).is_err(), "an empty stream is no answer");
    assert!(decoder().push(b"data: {oops\n\n", &mut out).is_err());
}

/// The events of an answer with everything in it.
fn rich() -> Vec<Event> {
    let signature = |origin, data: &str| Some(Signature { origin, data: data.into() });
    let parts = vec![
        Part::Reasoning(Reasoning { text: "plain".into(), ..Reasoning::default() }),
        Part::Reasoning(Reasoning {
            text: "proven".into(),
            signature: signature(Format::AnthropicMessages, "s"),
            ..Reasoning::default()
        }),
        Part::Reasoning(Reasoning { sealed: signature(Format::AnthropicMessages, "z"), ..Reasoning::default() }),
        Part::text("one"),
        Part::Text(Text {
            text: "two".into(),
            citations: vec![Citation {
                url: Some("https://a".into()),
                title: Some("A".into()),
                native: Some((Format::AnthropicMessages, json!({"type": "w"}))),
                ..Citation::default()
            }],
            signature: signature(Format::Gemini, "t"),
            ..Text::default()
        }),
        Part::Native { format: Format::Gemini, kind: "executableCode".into(), value: json!({"c": 1}) },
        Part::ToolCall(ToolCall {
            id: "a".into(),
            name: "f".into(),
            kind: ToolKind::Function,
            arguments: String::new(),
            signature: signature(Format::Gemini, "g"),
            cache: None,
            extra: Default::default(),
        }),
    ];
    let finish = Some(Finish::new(FinishReason::ToolCalls, "tool_use"));
    unfold(&Response {
        id: "msg_1".into(),
        choices: vec![crate::model::Choice { parts, finish, ..Default::default() }],
        usage: Some(Usage { input_tokens: Some(1), output_tokens: Some(2), ..Usage::default() }),
        ..Response::default()
    })
}

#[test]
fn everything_of_a_foreign_answer_survives_the_stream() {
    let text = streamed(&rich(), &view());
    let again = folded(events(text.as_bytes())).choices.remove(0);
    let mut want = folded(rich()).choices.remove(0);
    for part in &mut want.parts {
        match part {
            // What the wire makes explicit.
            Part::Text(t) => t.citations.iter_mut().for_each(|c| (c.start, c.end) = (Some(3), Some(6))),
            Part::ToolCall(c) => c.arguments = "{}".into(),
            _ => {}
        }
    }
    assert_eq!(again.parts, want.parts);
    assert_eq!(again.finish.unwrap().reason, FinishReason::ToolCalls);
}

#[test]
fn a_stream_is_written_as_openai_writes_it() {
    let text = streamed(&rich(), &ClientView { include_usage: true, ..view() });
    assert!(text.ends_with("data: [DONE]\n\n"));
    let frames = frames(&text);
    assert_eq!(frames[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert!(frames.iter().skip(1).all(|f| f["choices"][0]["delta"].get("role").is_none()));
    let (usage, rest) = frames.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 3);
    assert!(rest.iter().all(|f| f["usage"].is_null() && f.as_object().unwrap().contains_key("usage")));
    assert!(
        frames.iter().all(|f| f["id"] == "msg_1" && f["object"] == "chat.completion.chunk" && f["model"] == "alias")
    );
    let finish = &rest.last().unwrap()["choices"][0];
    assert_eq!(finish["finish_reason"], "tool_calls");
    assert_eq!(finish["native_finish_reason"], "tool_use");
    let calls: Vec<&Value> =
        frames.iter().map(|f| &f["choices"][0]["delta"]["tool_calls"][0]).filter(|c| !c.is_null()).collect();
    assert_eq!(
        calls[0],
        &json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""},
            "extra_content": {"google": {"thought_signature": "g"}}})
    );
    assert_eq!(calls[1], &json!({"index": 0, "function": {"arguments": "{}"}}));
    assert_eq!(calls.len(), 2);
    let hidden = streamed(&rich(), &view());
    assert!(!hidden.contains("\"usage\""));
}

#[test]
fn an_error_ends_the_stream_without_a_terminal() {
    let (mut encoder, mut out) = (CODEC.stream_encoder(&view()), Vec::new());
    rich().iter().take(4).for_each(|e| encoder.push(e, &mut out));
    out.clear();
    encoder.error(&Error::new(Kind::Upstream, "it died"), "r", &mut out);
    encoder.finish(&mut out);
    encoder.error(&Error::new(Kind::Upstream, "again"), "r", &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        frames(&text),
        [json!({"error": {"message": "it died", "type": "server_error", "param": null, "code": "upstream_failed"}})]
    );
    assert!(!text.contains("[DONE]"));
}

#[test]
fn logprobs_and_unknown_fields_ride_on_the_output_they_came_with() {
    let mut with = chunk(json!({"content": "hi", "channel": "final"}));
    with["choices"][0]["logprobs"] = json!({"content": [{"token": "hi"}], "refusal": null});
    with["choices"][0]["seed"] = json!(7);
    with["system_fingerprint"] = json!("fp");
    let all = events(&sse(&[with, last("stop")]));
    let told = frames(&streamed(&all, &view()));
    assert_eq!(told[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(told[1]["choices"][0]["delta"], json!({"content": "hi", "channel": "final"}));
    assert_eq!(told[1]["choices"][0]["logprobs"]["content"][0]["token"], "hi");
    assert_eq!(told[1]["choices"][0]["seed"], 7);
    assert!(told.iter().all(|f| f["system_fingerprint"] == "fp"));
    let folded = folded(all);
    let extra = folded.choices[0].extra.of(Format::OpenaiChat).unwrap();
    assert_eq!(extra["$message.channel"], "final");
}

#[test]
fn calls_without_an_id_get_the_same_one_whole_and_streamed() {
    let call = Part::ToolCall(ToolCall {
        id: String::new(),
        name: "f".into(),
        kind: ToolKind::Function,
        arguments: "{}".into(),
        signature: None,
        cache: None,
        extra: Default::default(),
    });
    let response = Response {
        id: "r1".into(),
        choices: vec![crate::model::Choice { parts: vec![call], ..Default::default() }],
        ..Response::default()
    };
    let whole = written(&response)["choices"][0]["message"]["tool_calls"][0]["id"].clone();
    let frames = frames(&streamed(&unfold(&response), &view()));
    assert_eq!(frames[1]["choices"][0]["delta"]["tool_calls"][0]["id"], whole);
    assert!(whole.as_str().unwrap().starts_with("call_"));
}

#[test]
fn a_late_delta_of_an_unknown_part_is_ignored() {
    let (mut encoder, mut out) = (CODEC.stream_encoder(&view()), Vec::new());
    encoder.push(&Event::Delta { choice: 0, index: 9, delta: Delta::Text("x".into()) }, &mut out);
    assert!(out.is_empty());
}

#[test]
fn an_answer_without_limit_is_stopped() {
    let (mut decoder, mut out) = (decoder(), Vec::new());
    let many: Vec<Value> = (0..200).map(|i| json!({"index": i, "delta": {"content": "x"}})).collect();
    let frame = format!("data: {}\n\n", json!({"id": "c", "choices": many}));
    assert_eq!(decoder.push(frame.as_bytes(), &mut out).unwrap_err().kind, Kind::Upstream);
}

#[test]
fn a_strict_sdk_gets_each_call_whole_and_in_its_own_chunk() {
    let upstream = events(&sse(&[
        chunk(
            json!({"role": "assistant", "tool_calls": [call(json!(0), json!("a"), json!("f"), ""), call(json!(1), json!("b"), json!("g"), "")]}),
        ),
        chunk(
            json!({"tool_calls": [{"index": 1, "function": {"arguments": "{\"y\":"}}, {"index": 0, "function": {"arguments": "{\"x\":1}"}}]}),
        ),
        chunk(json!({"tool_calls": [{"index": 1, "function": {"arguments": "2}"}}]})),
        chunk(json!({"tool_calls": [call(json!(2), json!("c"), json!("h"), "")]})),
        last("tool_calls"),
    ]));
    let strict = ClientView { strict_sdk: true, ..view() };
    let told: Vec<Value> = frames(&streamed(&upstream, &strict))
        .iter()
        .flat_map(|frame| frame["choices"][0]["delta"]["tool_calls"].as_array().cloned().unwrap_or_default())
        .collect();
    let whole = |index: u32, id: &str, name: &str, arguments: &str| {
        let mut value = call(json!(index), json!(id), json!(name), arguments);
        value["index"] = index.into();
        value
    };
    let mut told = told;
    told.sort_by_key(|call| call["index"].as_u64());
    assert_eq!(told, [whole(0, "a", "f", "{\"x\":1}"), whole(1, "b", "g", "{\"y\":2}"), whole(2, "c", "h", "{}")]);
    // Others get the pieces, and no name twice.
    let pieces = streamed(&upstream, &view());
    assert_eq!((pieces.matches("\"name\":\"g\"").count(), pieces.contains("{\\\"y\\\":2}")), (1, false), "{pieces}");
    for (agent, strict) in [
        ("speakeasy-sdk/python 3.7.0 2.935.1 1.0.0 mistralai", true),
        ("mistral-client-python/1.9.1", true),
        ("OpenAI/Python 3.54.0", false),
    ] {
        assert_eq!(CODEC.is_strict(agent.as_bytes()), strict, "{agent}");
    }
}
