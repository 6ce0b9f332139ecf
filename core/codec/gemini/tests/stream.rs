//! Gemini streams, both ways, and that they say what whole answers say.

use serde_json::{Value, json};

use super::{
    corpus::{events_of, fold},
    *,
};
use crate::{
    error::{Error, Kind},
    model::{Delta, Event, Finish, FinishReason, Part, PartStart, Start, ToolKind, Usage, fold::unfold},
};

fn sse(chunks: &[Value]) -> Vec<u8> {
    chunks.iter().map(|c| format!("data: {c}\r\n\r\n")).collect::<String>().into_bytes()
}

fn chunk(parts: Value) -> Value {
    json!({ "candidates": [{ "content": { "parts": parts, "role": "model" }, "index": 0 }], "modelVersion": "m", "responseId": "r" })
}

fn last(parts: Value, reason: &str) -> Value {
    let mut chunk = chunk(parts);
    chunk["candidates"][0]["finishReason"] = json!(reason);
    chunk["usageMetadata"] = json!({ "promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7 });
    chunk
}

fn frames(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.split("\n\n")
        .filter(|f| !f.is_empty())
        .map(|f| serde_json::from_str(f.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

#[test]
fn a_stream_means_the_same_as_its_whole_answer_at_every_split() {
    let chunks = [
        chunk(json!([{ "text": "Erst ", "thought": true }])),
        chunk(json!([{ "text": "denken", "thought": true }, { "text": "Grü" }])),
        chunk(
            json!([{ "text": "ße 🦀" }, { "functionCall": { "name": "f", "args": { "a": 1 } }, "thoughtSignature": "AA==" }, { "functionCall": { "name": "f", "args": {} } }]),
        ),
        last(json!([{ "text": "" }]), "STOP"),
    ];
    let bytes = sse(&chunks);
    let events = events_of(&[&bytes]).unwrap();
    for at in 0..bytes.len() {
        assert_eq!(events_of(&[&bytes[..at], &bytes[at..]]).unwrap(), events, "split at {at}");
    }
    let whole = json!({ "candidates": [{ "content": { "parts": [
        { "text": "Erst denken", "thought": true }, { "text": "Grüße 🦀" }, { "functionCall": { "name": "f", "args": { "a": 1 } }, "thoughtSignature": "AA==" },
        { "functionCall": { "name": "f", "args": {} } } ] }, "finishReason": "STOP", "index": 0 }],
        "usageMetadata": { "promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7 }, "modelVersion": "m", "responseId": "r" });
    assert_eq!(fold(events), Gemini.decode_response(whole.to_string().as_bytes()).unwrap());
}

#[test]
fn a_stream_that_ends_early_is_dead() {
    let cut = sse(&[chunk(json!([{ "text": "Hal" }]))]);
    assert_eq!(events_of(&[&cut]).unwrap_err().kind, Kind::Upstream);
    assert_eq!(events_of(&[b"".as_slice()]).unwrap_err().kind, Kind::Upstream);
    let mut two = last(json!([{ "text": "a" }]), "STOP");
    two["candidates"].as_array_mut().unwrap().push(json!({ "content": { "parts": [{ "text": "b" }] }, "index": 1 }));
    assert!(events_of(&[&sse(&[two])]).is_err(), "the second candidate has not finished");
}

#[test]
fn errors_in_a_stream_come_back_as_errors() {
    let error = json!({ "error": { "code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE" } });
    for frame in [error.clone(), json!([error])] {
        let mut decoder = Gemini.stream_decoder(&Dialect::of("m"), crate::codec::sse::MAX_EVENT);
        let mut out = Vec::new();
        let bytes = sse(&[chunk(json!([{ "text": "a" }])), frame]);
        let error = decoder.push(&bytes, &mut out).unwrap_err();
        assert_eq!(error.kind, Kind::UpstreamOverloaded);
        assert!(out.iter().any(|e| matches!(e, Event::Delta { .. })), "what came before is kept");
    }
    assert_eq!(events_of(&[b"data: <html>\n\n".as_slice()]).unwrap_err().kind, Kind::Upstream);
}

#[test]
fn a_blocked_prompt_ends_a_stream() {
    let events = events_of(&[&sse(&[json!({ "promptFeedback": { "blockReason": "SAFETY" } })])]).unwrap();
    assert!(matches!(&events[1], Event::Finish { finish: Finish { reason: FinishReason::ContentFilter, .. }, .. }));
}

#[test]
fn arguments_in_pieces_are_put_together() {
    let piece = |call: Value| chunk(json!([{ "functionCall": call }]));
    let bytes = sse(&[
        piece(json!({ "name": "book", "willContinue": true })),
        piece(json!({ "partialArgs": [{ "jsonPath": "$.city", "stringValue": "New " }], "willContinue": true })),
        piece(
            json!({ "partialArgs": [{ "jsonPath": "$.city", "stringValue": "York" }, { "jsonPath": "$.nights[0].n", "numberValue": 2 }], "willContinue": true }),
        ),
        piece(json!({})),
        last(json!([]), "STOP"),
    ]);
    let response = fold(events_of(&[&bytes]).unwrap());
    let [Part::ToolCall(call)] = response.choices[0].parts.as_slice() else { unreachable!("{response:?}") };
    assert_eq!((call.name.as_str(), call.arguments.as_str()), ("book", r#"{"city":"New York","nights":[{"n":2}]}"#));
    assert_eq!(response.choices[0].finish.as_ref().unwrap().reason, FinishReason::ToolCalls);
}

#[test]
fn usage_is_cumulative() {
    let mut first = chunk(json!([{ "text": "a" }]));
    first["usageMetadata"] = json!({ "promptTokenCount": 3, "thoughtsTokenCount": 9 });
    let usage = fold(events_of(&[&sse(&[first, last(json!([{ "text": "b" }]), "STOP")])]).unwrap()).usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.reasoning_tokens), (Some(3), Some(13), Some(9)));
}

fn foreign() -> Vec<Event> {
    let call = |index, id: &str| Event::PartStart {
        choice: 0,
        index,
        part: PartStart::ToolCall {
            id: id.into(),
            name: "f".into(),
            kind: ToolKind::Function,
            signature: None,
            extra: Default::default(),
        },
    };
    let text = |index, text: &str| Event::Delta { choice: 0, index, delta: Delta::Text(text.into()) };
    vec![
        Event::Start(Start { id: "chatcmpl-1".into(), model: "gpt".into(), ..Start::default() }),
        Event::PartStart { choice: 0, index: 0, part: PartStart::Text { extra: Default::default() } },
        text(0, "Hi"),
        Event::PartEnd { choice: 0, index: 0 },
        call(1, "a"),
        call(2, "b"),
        text(1, "{\"x\""),
        text(2, "{"),
        text(1, ":1}"),
        Event::PartEnd { choice: 0, index: 1 },
        Event::PartEnd { choice: 0, index: 2 },
        Event::Finish { choice: 0, finish: Finish::new(FinishReason::ToolCalls, "tool_calls") },
        Event::Usage(Usage { input_tokens: Some(1), output_tokens: Some(2), ..Usage::default() }),
        Event::End,
    ]
}

#[test]
fn interleaved_calls_are_written_whole_and_usage_comes_with_the_finish() {
    let mut encoder = Gemini.stream_encoder(&view());
    let mut out = Vec::new();
    for event in foreign() {
        encoder.push(&event, &mut out);
    }
    encoder.finish(&mut out);
    let frames = frames(&out);
    let parts: Vec<&Value> = frames.iter().map(|f| &f["candidates"][0]["content"]["parts"][0]).collect();
    assert_eq!(
        parts,
        [
            &json!({ "text": "Hi" }),
            &json!({ "functionCall": { "id": "a", "name": "f", "args": { "x": 1 } } }),
            &json!({ "functionCall": { "id": "b", "name": "f", "args": { "arguments": "{" } } }),
            &json!({ "text": "" }),
        ]
    );
    assert!(
        frames[..3]
            .iter()
            .all(|f| f["candidates"][0].get("finishReason").is_none() && f.get("usageMetadata").is_none())
    );
    assert_eq!(frames[3]["candidates"][0]["finishReason"], "STOP");
    assert_eq!(
        frames[3]["usageMetadata"],
        json!({ "promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3 })
    );
    assert!(frames.iter().all(|f| f["responseId"] == "chatcmpl-1" && f["modelVersion"] == "gpt"));
}

#[test]
fn a_list_stream_is_one_json_document() {
    let mut encoder = Gemini.stream_encoder(&ClientView { json_array: true, ..view() });
    let mut out = Vec::new();
    for event in foreign() {
        encoder.push(&event, &mut out);
        encoder.keep_alive(&mut out);
    }
    encoder.finish(&mut out);
    encoder.finish(&mut out);
    let list: Vec<Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!(list.len(), 4);
}

#[test]
fn after_an_error_nothing_more_is_written() {
    for json_array in [false, true] {
        let mut encoder = Gemini.stream_encoder(&ClientView { json_array, ..view() });
        let mut out = Vec::new();
        foreign().iter().take(3).for_each(|e| encoder.push(e, &mut out));
        encoder.error(&Error::new(Kind::UpstreamTimeout, "too slow"), "req_9", &mut out);
        let length = out.len();
        encoder.finish(&mut out);
        encoder.push(&Event::End, &mut out);
        encoder.keep_alive(&mut out);
        assert_eq!(out.len(), length);
        let list: Vec<Value> = if json_array { serde_json::from_slice(&out).unwrap() } else { frames(&out) };
        assert_eq!(list.last().unwrap()["error"]["status"], "DEADLINE_EXCEEDED");
        assert!(list.iter().all(|c| c["candidates"][0].get("finishReason").is_none()));
    }
}

#[test]
fn keep_alives_are_empty_lines_that_sdks_skip() {
    let mut out = Vec::new();
    Gemini.stream_encoder(&view()).keep_alive(&mut out);
    assert_eq!(out, b"\n");
}

#[test]
fn a_whole_answer_unfolds_into_a_stream_of_the_same_meaning() {
    let body = json!({ "candidates": [
        { "content": { "parts": [{ "text": "t", "thought": true, "thoughtSignature": "AA==" }, { "text": "Größe", "thoughtSignature": "BB==" },
            { "inlineData": { "mimeType": "image/png", "data": "AAAA" } }, { "text": "zwei" }], "role": "model" }, "finishReason": "STOP", "index": 0,
            "groundingMetadata": { "groundingChunks": [{ "web": { "uri": "https://a.example" } }],
                "groundingSupports": [{ "segment": { "endIndex": 4 }, "groundingChunkIndices": [0] }] },
            "logprobsResult": { "chosenCandidates": [{ "token": "t", "logProbability": -1 }] } },
        { "content": { "parts": [{ "functionCall": { "name": "f", "args": {} } }], "role": "model" }, "finishReason": "STOP", "index": 1 }],
        "usageMetadata": { "promptTokenCount": 1 }, "modelVersion": "m", "responseId": "r", "promptFeedback": { "safetyRatings": [] } });
    let response = Gemini.decode_response(body.to_string().as_bytes()).unwrap();
    let mut encoder = Gemini.stream_encoder(&view());
    let mut out = Vec::new();
    unfold(&response).iter().for_each(|e| encoder.push(e, &mut out));
    assert_eq!(fold(events_of(&[&out]).unwrap()), response);
}

#[test]
fn a_count_with_another_prompt_that_adds_up_is_all_there_is() {
    let told = |usage: Value| {
        let mut chunk = chunk(json!([{ "text": "a" }]));
        chunk["usageMetadata"] = usage;
        chunk
    };
    let mut end = last(json!([]), "STOP");
    end["usageMetadata"] = json!({ "promptTokenCount": 87, "thoughtsTokenCount": 78, "totalTokenCount": 165 });
    let earlier = told(json!({ "promptTokenCount": 9, "candidatesTokenCount": 21, "totalTokenCount": 30 }));
    let usage = fold(events_of(&[&sse(&[earlier.clone(), end.clone()])]).unwrap()).usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (Some(87), Some(78)));
    // What does not add up is a piece.
    end["usageMetadata"] = json!({ "thoughtsTokenCount": 4 });
    let usage = fold(events_of(&[&sse(&[earlier, end])]).unwrap()).usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (Some(9), Some(25)));
}

#[test]
fn figures_that_begin_anew_mean_the_same_when_they_are_written_again() {
    let told = |usage: Value| {
        let mut chunk = chunk(json!([{ "text": "a" }]));
        chunk["usageMetadata"] = usage;
        chunk
    };
    let earlier = told(json!({ "promptTokenCount": 9, "candidatesTokenCount": 21, "totalTokenCount": 30 }));
    let mut end = last(json!([]), "STOP");
    end["usageMetadata"] = json!({ "promptTokenCount": 87, "thoughtsTokenCount": 78, "totalTokenCount": 165 });
    let events = events_of(&[&sse(&[earlier, end])]).unwrap();
    let mut encoder = Gemini.stream_encoder(&view());
    let mut out = Vec::new();
    events.iter().for_each(|e| encoder.push(e, &mut out));
    encoder.finish(&mut out);
    let again = fold(events_of(&[&out]).unwrap()).usage.unwrap();
    assert_eq!((again.input_tokens, again.output_tokens), (Some(87), Some(78)));
}
