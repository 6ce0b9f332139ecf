//! Whole Gemini answers, both ways.

use serde_json::{Value, json};

use super::*;
use crate::{
    codec::codec,
    error::Kind,
    model::{
        Choice, Citation, Finish, FinishReason, Format, Media, MediaSource, Message, Part, Role, Text, ToolCall,
        ToolKind, Usage,
        fold::{Fold, unfold},
    },
};

fn read(body: &Value) -> Response {
    Gemini.decode_response(body.to_string().as_bytes()).unwrap()
}

fn answer(candidate: Value) -> Value {
    json!({ "candidates": [candidate], "modelVersion": "gemini-3-flash", "responseId": "r1" })
}

#[test]
fn an_id_of_its_own_stays_and_its_signature_comes_back_through_every_client() {
    let body = answer(json!({ "content": { "role": "model", "parts": [
        { "text": "look", "thought": true },
        { "functionCall": { "name": "f", "id": "x1", "args": { "n": 1 } }, "thoughtSignature": "c2ln" },
        { "functionCall": { "name": "g", "id": "x2", "args": {} } },
    ] }, "finishReason": "STOP" }));
    let response = read(&body);
    let view = ClientView { request_id: "req_1".to_owned(), ..ClientView::default() };
    let clients = [
        Format::OpenaiChat,
        Format::OpenaiResponses,
        Format::AnthropicMessages,
        Format::BedrockConverse,
        Format::Cohere,
    ];
    for format in clients {
        let client = codec(format);
        let whole = client.encode_response(&response, &view).expect("told");
        let (mut encoder, mut stream) = (client.stream_encoder(&view), Vec::new());
        for event in unfold(&response) {
            encoder.push(&event, &mut stream);
        }
        encoder.finish(&mut stream);
        let (mut decoder, mut events) = (client.stream_decoder(&Dialect::of("m"), 1 << 20), Vec::new());
        decoder.push(&stream, &mut events).and_then(|()| decoder.finish(&mut events)).expect("a stream");
        let mut streamed = Fold::default();
        events.into_iter().for_each(|event| streamed.push(event));
        for answered in [client.decode_response(&whole).expect("an answer"), streamed.finish()] {
            let parts = answered.choices[0].parts.clone();
            let ids = parts.iter().filter_map(|p| if let Part::ToolCall(c) = p { Some(c.id.as_str()) } else { None });
            assert_eq!(ids.collect::<Vec<_>>(), ["x1", "x2"], "{format:?}");
            let turns = vec![Message::text(Role::User, "go"), Message::new(Role::Assistant, parts)];
            let request = Request { messages: turns, ..Request::default() };
            let sent = Gemini.encode_request(&request, &Dialect::of("gemini-3-pro")).expect("sent").body;
            let sent = Value::Object(sent);
            let calls: Vec<&Value> = sent["contents"][1]["parts"]
                .as_array()
                .expect("parts")
                .iter()
                .filter(|part| part.get("functionCall").is_some())
                .collect();
            assert_eq!(calls[0]["thoughtSignature"], "c2ln", "{format:?} {sent}");
            assert_eq!((&calls[0]["functionCall"]["id"], calls[1].get("thoughtSignature")), (&json!("x1"), None));
        }
    }
}

#[test]
fn parts_are_told_apart_and_plain_text_joins() {
    let body = answer(json!({ "content": { "role": "model", "parts": [
        { "text": "first ", "thought": true }, { "text": "then", "thought": true, "thoughtSignature": "AA==" },
        { "text": "Hel" }, { "text": "lo" }, { "text": "", "thoughtSignature": "BB==" },
        { "inlineData": { "mimeType": "image/png", "data": "AAAA" } },
        { "executableCode": { "language": "PYTHON", "code": "1" }, "thoughtSignature": "CC==" },
        { "functionCall": { "name": "f", "args": { "n": 1.5 } }, "thoughtSignature": "DD==" },
        { "functionCall": { "name": "f", "id": "x1" } },
    ] }, "finishReason": "STOP", "finishMessage": "Model generated function call(s)." }));
    let response = read(&body);
    let choice = &response.choices[0];
    let [
        Part::Reasoning(thought),
        Part::Text(text),
        Part::Media(Media { source: MediaSource::Base64(_), .. }),
        Part::Native { kind, .. },
        Part::ToolCall(one),
        Part::ToolCall(two),
    ] = choice.parts.as_slice()
    else {
        unreachable!("{choice:?}")
    };
    assert_eq!((thought.text.as_str(), text.text.as_str(), kind.as_str()), ("first then", "Hello", "executableCode"));
    assert_eq!(text.signature.as_ref().map(|s| s.data.as_str()), Some("BB=="));
    assert!(one.id.starts_with(wire::MADE_ID) && one.arguments == r#"{"n":1.5}"#);
    assert_eq!((two.id.as_str(), two.arguments.as_str()), ("x1", "{}"));
    let finish = choice.finish.as_ref().unwrap();
    assert_eq!((finish.reason, finish.raw.as_str()), (FinishReason::ToolCalls, "STOP"));

    let back = written(&response);
    let candidate = &back["candidates"][0];
    assert_eq!(
        (&candidate["finishReason"], &candidate["finishMessage"]),
        (&json!("STOP"), &json!("Model generated function call(s)."))
    );
    assert_eq!(
        candidate["content"]["parts"][3],
        json!({ "executableCode": { "language": "PYTHON", "code": "1" }, "thoughtSignature": "CC==" })
    );
    assert_eq!(
        candidate["content"]["parts"][4],
        json!({ "functionCall": { "name": "f", "args": { "n": 1.5 } }, "thoughtSignature": "DD==" })
    );
    assert_eq!(read(&back), response);
}

#[test]
fn finish_words_keep_their_meaning_and_their_raw_form() {
    let cases = [
        ("STOP", FinishReason::Stop),
        ("MAX_TOKENS", FinishReason::Length),
        ("CONTINUATION", FinishReason::Length),
        ("SAFETY", FinishReason::ContentFilter),
        ("RECITATION", FinishReason::ContentFilter),
        ("IMAGE_SAFETY", FinishReason::ContentFilter),
        ("MALFORMED_FUNCTION_CALL", FinishReason::Malformed),
        ("MISSING_THOUGHT_SIGNATURE", FinishReason::Malformed),
        ("OTHER", FinishReason::Other),
        ("BRAND_NEW", FinishReason::Other),
    ];
    for (word, reason) in cases {
        let response = read(&answer(json!({ "content": {}, "finishReason": word })));
        assert_eq!(response.choices[0].finish.as_ref().map(|f| f.reason), Some(reason), "{word}");
        assert_eq!(written(&response)["candidates"][0]["finishReason"], word);
    }
    for (reason, raw, word) in [
        (FinishReason::Stop, "end_turn", "STOP"),
        (FinishReason::ToolCalls, "tool_calls", "STOP"),
        (FinishReason::Length, "length", "MAX_TOKENS"),
        (FinishReason::ContentFilter, "refusal", "SAFETY"),
        (FinishReason::ContentFilter, "STOP", "SAFETY"),
    ] {
        assert_eq!(wire::finish_word(reason, raw), word);
    }
}

#[test]
fn a_blocked_prompt_is_a_filtered_answer_and_goes_back_as_it_was() {
    let body = json!({ "promptFeedback": { "blockReason": "PROHIBITED_CONTENT" }, "usageMetadata": { "promptTokenCount": 7, "totalTokenCount": 7 },
        "modelVersion": "m", "responseId": "r" });
    let response = read(&body);
    let finish = response.choices[0].finish.as_ref().unwrap();
    assert_eq!((finish.reason, finish.raw.as_str()), (FinishReason::ContentFilter, "PROHIBITED_CONTENT"));
    assert_eq!(response.usage.as_ref().unwrap().output_tokens, None, "unknown is not zero");
    assert_eq!(written(&response), body);
}

#[test]
fn usage_counts_thoughts_and_tools_once() {
    let body = json!({ "candidates": [{ "content": { "parts": [{ "text": "a" }] }, "finishReason": "STOP" }], "usageMetadata": {
        "promptTokenCount": 100, "cachedContentTokenCount": 60, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 10, "thoughtsTokenCount": 20,
        "totalTokenCount": 135, "promptTokensDetails": [{ "modality": "AUDIO", "tokenCount": 3 }] } });
    let usage = read(&body).usage.unwrap();
    assert_eq!(
        (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.reasoning_tokens,
            usage.input_audio_tokens
        ),
        (Some(105), Some(30), Some(60), Some(20), Some(3))
    );
    let foreign = Usage { native: None, ..usage };
    let response = Response { usage: Some(foreign), choices: vec![Choice::default()], ..Response::default() };
    assert_eq!(
        written(&response)["usageMetadata"],
        json!({ "promptTokenCount": 105, "cachedContentTokenCount": 60, "candidatesTokenCount": 10, "thoughtsTokenCount": 20, "totalTokenCount": 135,
            "promptTokensDetails": [{ "modality": "AUDIO", "tokenCount": 3 }] })
    );
}

#[test]
fn sources_count_characters_here_and_bytes_there() {
    let text = "Größe zählt. Ja.";
    let end = "Größe zählt.".len();
    let body = answer(
        json!({ "content": { "parts": [{ "text": text }] }, "finishReason": "STOP", "groundingMetadata": {
        "groundingChunks": [{ "web": { "uri": "https://a.example", "title": "A" } }, { "web": { "uri": "https://b.example" } }],
        "groundingSupports": [{ "segment": { "endIndex": end, "text": "Größe zählt." }, "groundingChunkIndices": [0, 9] }] } }),
    );
    let response = read(&body);
    let Part::Text(t) = &response.choices[0].parts[0] else { unreachable!() };
    assert_eq!(
        t.citations,
        [
            Citation {
                url: Some("https://a.example".into()),
                title: Some("A".into()),
                start: Some(0),
                end: Some(12),
                ..Citation::default()
            },
            Citation { url: Some("https://b.example".into()), ..Citation::default() },
        ]
    );
    assert_eq!(written(&response)["candidates"][0]["groundingMetadata"], body["candidates"][0]["groundingMetadata"]);

    let foreign = Response {
        choices: vec![Choice { parts: response.choices[0].parts.clone(), ..Choice::default() }],
        ..Response::default()
    };
    assert_eq!(
        written(&foreign)["candidates"][0]["groundingMetadata"]["groundingSupports"],
        json!([
            { "segment": { "endIndex": end, "text": "Größe zählt." }, "groundingChunkIndices": [0] },
            { "segment": { "endIndex": text.len(), "text": text }, "groundingChunkIndices": [1] },
        ])
    );
}

#[test]
fn log_probabilities_go_both_ways() {
    let result = json!({ "topCandidates": [{ "candidates": [{ "token": "ä", "logProbability": -0.1 }, { "token": "b", "logProbability": -2 }] }],
        "chosenCandidates": [{ "token": "ä", "logProbability": -0.1 }] });
    let response = read(&answer(
        json!({ "content": { "parts": [{ "text": "ä" }] }, "finishReason": "STOP", "avgLogprobs": -0.1, "logprobsResult": result }),
    ));
    let entry = &response.choices[0].logprobs.as_ref().unwrap()["content"][0];
    assert_eq!(
        (&entry["token"], &entry["bytes"], &entry["top_logprobs"][1]["logprob"]),
        (&json!("ä"), &json!([195, 164]), &json!(-2))
    );
    let back = written(&response);
    assert_eq!(
        (&back["candidates"][0]["logprobsResult"], &back["candidates"][0]["avgLogprobs"]),
        (&result, &json!(-0.1))
    );
}

#[test]
fn foreign_answers_reach_a_gemini_client() {
    let parts = vec![
        Part::Refusal("No.".into()),
        Part::Native { format: Format::AnthropicMessages, kind: "server_tool_use".into(), value: json!({ "id": 1 }) },
        Part::ToolCall(ToolCall {
            id: "toolu_1".into(),
            name: "f".into(),
            kind: ToolKind::Function,
            arguments: String::new(),
            signature: None,
            cache: None,
            extra: Default::default(),
        }),
        Part::Text(Text::default()),
    ];
    let choice = Choice { parts, finish: Some(Finish::new(FinishReason::ToolCalls, "tool_use")), ..Choice::default() };
    let body = written(&Response { created: Some(0), choices: vec![choice], ..Response::default() });
    assert_eq!(
        body,
        json!({ "candidates": [{ "content": { "parts": [{ "text": "No." }, { "functionCall": { "id": "toolu_1", "name": "f", "args": {} } }], "role": "model" },
            "finishReason": "STOP", "index": 0,
            "portcullisNative": [{ "format": "anthropic_messages", "kind": "server_tool_use", "value": { "id": 1 } }] }],
            "modelVersion": "smart", "createTime": "1970-01-01T00:00:00Z", "responseId": "req_1" })
    );
}

#[test]
fn answers_that_are_none_are_the_upstreams_fault() {
    for body in ["", "<html>", "[]", "5", "{}", r#"{"candidates":[]}"#, r#"{"candidates":5}"#] {
        assert_eq!(Gemini.decode_response(body.as_bytes()).unwrap_err().kind, Kind::Upstream, "{body}");
    }
    let error = Gemini
        .decode_response(br#"[{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED"}}]"#)
        .unwrap_err();
    assert_eq!(error.kind, Kind::UpstreamRateLimited);
}

#[test]
fn parts_of_unknown_kinds_and_broken_parts_are_kept() {
    let parts = json!([{ "hologram": { "x": 1 } }, { "functionCall": { "args": {} } }, 5]);
    let response = read(&answer(json!({ "content": { "parts": parts }, "finishReason": "STOP" })));
    assert_eq!(response.choices[0].parts.len(), 3);
    assert_eq!(written(&response)["candidates"][0]["content"]["parts"], parts);
}
