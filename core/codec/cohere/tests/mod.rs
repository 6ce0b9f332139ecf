//! Tests of the codec: what the goldens, which cross it with every other, do not say.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;
use crate::{
    codec::sse::MAX_EVENT,
    error::Kind,
    model::{
        Billed, Choice, Citation, Delta, EmbeddingInput, Event, Extra, FinishReason, LogprobsAsk, Media, MediaKind,
        MediaSource, Message, Part, PartStart, ReasoningAsk, Role, Signature, Text, Tool, ToolCall, ToolChoice,
        ToolKind, ToolResult,
        fold::{Fold, unfold},
        tool::Function,
    },
};

fn decode(body: &Value) -> Result<Request> {
    Cohere.decode_request(body.to_string().as_bytes(), Inbound::default())
}

fn encode(request: &Request) -> (Value, Vec<&'static str>) {
    let Encoded { body, dropped } = Cohere.encode_request(request, &Dialect::of("command-a")).expect("a body");
    (Value::Object(body), dropped)
}

fn refused(request: &Request) -> String {
    let error = Cohere.encode_request(request, &Dialect::of("m")).expect_err("refused");
    assert_eq!(error.kind, Kind::Unsupported);
    error.param.clone().unwrap_or_default()
}

fn view() -> ClientView {
    ClientView { request_id: "req_1".into(), ..ClientView::default() }
}

fn events(bytes: &[u8]) -> Result<Vec<Event>> {
    let mut out = Vec::new();
    let mut decoder = Cohere.stream_decoder(&Dialect::of("m"), MAX_EVENT);
    decoder.push(bytes, &mut out)?;
    decoder.finish(&mut out)?;
    Ok(out)
}

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
        extra: Extra::default(),
    })
}

#[test]
fn goldens_survive_this_codec() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cohere");
    let mut seen = 0;
    for case in std::fs::read_dir(root).expect("goldens") {
        let case = case.expect("a folder").path();
        let read = |name: &str| std::fs::read(case.join(name)).ok();
        if let Some(body) = read("request.json") {
            let was: Value = serde_json::from_slice(&body).expect("JSON");
            let request = decode(&was).expect("a request");
            let encoded = Cohere.encode_request(&request, &Dialect::of("golden-model")).expect("a body");
            assert!(encoded.dropped.is_empty(), "{case:?} dropped {:?}", encoded.dropped);
            assert_eq!(plain(&Value::Object(encoded.body)), plain(&was), "{case:?}");
        }
        if let Some(body) = read("response.json") {
            let response = Cohere.decode_response(&body).expect("an answer");
            let again: Value =
                serde_json::from_slice(&Cohere.encode_response(&response, &view()).expect("a body")).expect("JSON");
            let was: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(again, was, "{case:?}");
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} cases");
}

/// One text may be written in two ways.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, v)| match (key.as_str(), v) {
                    ("content", Value::String(text)) => (key.clone(), json!([{"type": "text", "text": text}])),
                    _ => (key.clone(), plain(v)),
                })
                .collect(),
        ),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

#[test]
fn a_citation_names_the_words_that_it_stands_on() {
    let cite = |start, end| Citation { url: Some("https://e.org".into()), start, end, ..Citation::default() };
    let text = |said: &str, cited| Part::Text(Text { text: said.into(), citations: vec![cited], ..Text::default() });
    let parts = vec![text("Grüße. ", cite(Some(2), Some(5))), text("Es regnet.", cite(None, None))];
    let response = Response { choices: vec![Choice { parts, ..Choice::default() }], ..Response::default() };
    let bytes = Cohere.encode_response(&response, &view()).expect("written");
    let whole: Value = serde_json::from_slice(&bytes).expect("JSON");
    let (mut stream, mut encoder) = (Vec::new(), Cohere.stream_encoder(&view()));
    unfold(&response).iter().for_each(|event| encoder.push(event, &mut stream));
    let stream = String::from_utf8(stream).expect("text");
    let told = whole["message"]["citations"].as_array().expect("citations");
    for (citation, (start, end, words)) in told.iter().zip([(2, 5, "üße"), (7, 17, "Es regnet.")]) {
        let place = (&citation["start"], &citation["end"], &citation["text"]);
        assert_eq!(place, (&json!(start), &json!(end), &json!(words)));
        assert!(stream.contains(&citation.to_string()), "{stream}");
    }
    assert_eq!(told.len(), 2);
}

#[test]
fn what_was_read_is_told_and_what_is_billed_is_kept_beside_it() {
    let native = json!({"billed_units": {"input_tokens": 12, "output_tokens": 10},
        "tokens": {"input_tokens": 614, "output_tokens": 13, "reasoning_tokens": 4}, "cached_tokens": 480});
    let usage = Cohere.read_usage(native.to_string().as_bytes()).expect("usage");
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.reasoning_tokens), (Some(614), Some(13), Some(4)));
    assert_eq!(usage.cache_read_tokens, Some(480));
    assert_eq!(usage.billed, Some(Billed { input_tokens: Some(12), output_tokens: Some(10) }));
    let tokens = json!({"tokens": {"input_tokens": 5, "output_tokens": 2}});
    let usage = Cohere.read_usage(tokens.to_string().as_bytes()).expect("usage");
    assert_eq!((usage.total_tokens(), usage.billed), (Some(7), None), "where nothing else is told");
    let floats = json!({"tokens": {"input_tokens": 5.0, "output_tokens": 2.0}, "cached_tokens": 3.0});
    let usage = Cohere.read_usage(floats.to_string().as_bytes()).expect("usage");
    assert_eq!(
        (usage.total_tokens(), usage.cache_read_tokens),
        (Some(7), Some(3)),
        "its schema says numbers, not integers"
    );
}

#[test]
fn a_certain_tool_is_forced_by_leaving_the_others_out() {
    let mut request = asking(vec![Part::text("x")]);
    request.tools = vec![tool("f"), tool("g"), tool("h")];
    request.tool_choice = Some(ToolChoice::Tool { name: "g".into(), custom: false });
    let (body, _) = encode(&request);
    assert_eq!(body["tools"].as_array().map(Vec::len), Some(1));
    assert_eq!((&body["tools"][0]["function"]["name"], &body["tool_choice"]), (&json!("g"), &json!("REQUIRED")));
    request.tool_choice = Some(ToolChoice::Allowed { names: vec!["f".into(), "h".into()], required: false });
    let (body, _) = encode(&request);
    assert_eq!((body["tools"].as_array().map(Vec::len), body.get("tool_choice")), (Some(2), None));
}

#[test]
fn pictures_of_a_result_go_into_the_turn_that_follows() {
    let image = Media::new(MediaKind::Image, Some("image/png".into()), MediaSource::Base64("iVBOR".into()));
    let call = ToolCall {
        id: String::new(),
        name: "chart".into(),
        kind: ToolKind::Function,
        arguments: String::new(),
        signature: None,
        cache: None,
        extra: Extra::default(),
    };
    let result = ToolResult {
        call_id: String::new(),
        name: Some("chart".into()),
        kind: ToolKind::Function,
        parts: vec![Part::Media(image)],
        object: None,
        is_error: Some(true),
        cache: None,
        extra: Extra::default(),
    };
    let request = Request {
        messages: vec![
            Message::new(Role::Assistant, vec![Part::ToolCall(call)]),
            Message::new(Role::Tool, vec![Part::ToolResult(result)]),
            Message::text(Role::User, "go on"),
        ],
        ..Request::default()
    };
    let (body, dropped) = encode(&request);
    let id = body["messages"][0]["tool_calls"][0]["id"].as_str().expect("an id was made").to_owned();
    assert_eq!(body["messages"][0]["tool_calls"][0]["function"]["arguments"], "{}");
    assert_eq!(body["messages"][1]["tool_call_id"], id.as_str());
    let content = body["messages"][2]["content"].as_array().expect("content");
    assert_eq!(content[1]["image_url"]["url"], "data:image/png;base64,iVBOR");
    assert_eq!((content[2]["text"].as_str(), dropped), (Some("go on"), vec!["tool_result.is_error"]));
}

#[test]
fn documents_of_text_are_read_and_others_refused() {
    let document = |mime: &str, data: &[u8]| {
        let source = MediaSource::Base64(BASE64_STANDARD.encode(data));
        let mut media = Media::new(MediaKind::Document, Some(mime.into()), source);
        media.name = Some("notes".into());
        asking(vec![Part::Media(media)])
    };
    let (body, _) = encode(&document("text/markdown; charset=utf-8", "grüße".as_bytes()));
    assert_eq!(body["messages"][0]["content"], "notes\n\ngrüße");
    assert_eq!(refused(&document("application/pdf", b"%PDF-1.4")), "documents");
    assert_eq!(refused(&document("text/plain", &[0xff, 0xfe])), "documents");
    let sound = Media::new(MediaKind::Audio, None, MediaSource::Base64(String::new()));
    assert_eq!(refused(&asking(vec![Part::Media(sound)])), "audio");
}

#[test]
fn a_document_that_a_stage_has_changed_is_sent_as_it_is_now() {
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "documents": ["secret one", "two"]});
    let mut request = decode(&body).expect("a request");
    if let Some(Part::Media(media)) = request.messages[0].parts.get_mut(1) {
        media.source = MediaSource::Text("[redacted]".into());
    }
    let (again, _) = encode(&request);
    assert_eq!(again["documents"], json!(["two"]));
    assert!(!again.to_string().contains("secret") && again.to_string().contains("[redacted]"), "{again}");
}

#[test]
fn thinking_is_asked_for_by_a_budget() {
    let mut request = asking(vec![Part::text("x")]);
    for (effort, budget, thinking) in [
        (None, Some(0), json!({"type": "disabled"})),
        (Some("none"), None, json!({"type": "disabled"})),
        (None, Some(-1), json!({"type": "enabled"})),
        (None, Some(300), json!({"type": "enabled", "token_budget": 300})),
        (Some("high"), None, json!({"type": "enabled", "token_budget": 16384})),
    ] {
        request.reasoning = Some(ReasoningAsk { effort: effort.map(str::to_owned), budget, show: None });
        assert_eq!(encode(&request).0["thinking"], thinking);
    }
}

#[test]
fn signatures_of_other_families_come_back_to_them() {
    let signed = |data: &str| Some(Signature { origin: Format::AnthropicMessages, data: data.to_owned() });
    let reasoning = crate::model::Reasoning { text: "why".into(), signature: signed("s"), ..Default::default() };
    let sealed = crate::model::Reasoning { sealed: signed("d"), ..Default::default() };
    let parts = vec![Part::Reasoning(reasoning), Part::Reasoning(sealed), Part::text("so")];
    let response = Response {
        choices: vec![crate::model::Choice { parts: parts.clone(), ..Default::default() }],
        ..Response::default()
    };
    let body: Value =
        serde_json::from_slice(&Cohere.encode_response(&response, &view()).expect("a body")).expect("JSON");
    let mut encoder = Cohere.stream_encoder(&view());
    let mut bytes = Vec::new();
    unfold(&response).iter().for_each(|event| encoder.push(event, &mut bytes));
    encoder.finish(&mut bytes);
    let mut fold = Fold::default();
    events(&bytes).expect("a stream").into_iter().for_each(|event| fold.push(event));
    assert_eq!(fold.finish().choices[0].parts, parts);
    let message = json!({"role": "assistant", "content": body["message"]["content"]});
    let request = decode(&json!({"model": "m", "messages": [message]})).expect("a request");
    assert_eq!(request.messages[0].parts, parts);
    assert_eq!(encode(&request).1, ["reasoning"], "but this family gets none of it");
}

#[test]
fn a_stream_that_ends_with_an_error_is_one() {
    let bytes = b"event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",\"error\":\"it broke\"}}\n\n";
    let error = events(bytes).expect_err("an error");
    assert_eq!((error.kind, error.message.as_str(), error.upstream.is_some()), (Kind::Upstream, "it broke", true));
    let mut encoder = Cohere.stream_encoder(&view());
    let mut told = Vec::new();
    encoder.error(&error, "req_1", &mut told);
    encoder.finish(&mut told);
    assert_eq!(events(&told).expect_err("an error").message, "it broke");
    assert!(!String::from_utf8_lossy(&told).contains("[DONE]"), "no end after an error");
}

#[test]
fn odd_streams_are_an_upstreams_fault_and_do_not_panic() {
    for data in [
        r#"{"type":"content-delta","delta":{"message":{"content":{"text":"x"}}}}"#,
        r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"x"}}}}"#,
        r#"{"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":7}}}}"#,
        r#"{"type":"tool-call-delta","index":0,"delta":{"message":{"tool_calls":{"function":{"arguments":"{}"}}}}}"#,
        r#"{"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":{"id":"x"}}}}"#,
        r#"{"type":"message-end"}"#,
        r#"{"type":"message-start","delta":[]}"#,
        "[1]",
        "{",
    ] {
        let error = events(format!("data: {data}\n\n").as_bytes()).expect_err(data);
        assert_eq!(error.kind, Kind::Upstream, "{data}");
    }
}

#[test]
fn interleaved_calls_are_told_one_after_the_other() {
    let begin = |index: u32| {
        let (id, name) = (format!("c{index}"), "f".to_owned());
        let part = PartStart::ToolCall { id, name, kind: ToolKind::Function, signature: None, extra: Extra::default() };
        Event::PartStart { choice: 0, index, part }
    };
    let piece = |index, text: &str| Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) };
    let mut encoder = Cohere.stream_encoder(&view());
    let mut bytes = Vec::new();
    for event in [begin(0), begin(1), piece(1, "{\"b\":2}"), piece(0, "{\"a\":1}")] {
        encoder.push(&event, &mut bytes);
    }
    encoder.finish(&mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    let order: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("event: ")).collect();
    assert_eq!(
        order,
        [
            "message-start",
            "tool-call-start",
            "tool-call-delta",
            "tool-call-end",
            "tool-call-start",
            "tool-call-delta",
            "tool-call-end",
            "message-end",
        ]
    );
}

#[test]
fn embeddings_say_what_they_are_for() {
    let request = |task: Option<&str>| EmbeddingRequest {
        inputs: vec![EmbeddingInput::Text("a".into()), EmbeddingInput::Text("b".into())],
        task: task.map(str::to_owned),
        dimensions: Some(256),
        ..EmbeddingRequest::default()
    };
    for (task, word) in [
        (None, "search_document"),
        (Some("RETRIEVAL_QUERY"), "search_query"),
        (Some("CLUSTERING"), "clustering"),
        (Some("image"), "image"),
    ] {
        let encoded = Cohere.encode_embeddings(&request(task), &Dialect::of("embed-v4.0")).expect("a body");
        let body = Value::Object(encoded.body);
        assert_eq!(body["input_type"], word);
        assert_eq!((&body["texts"], &body["output_dimension"]), (&json!(["a", "b"]), &json!(256)));
        let again = Cohere.decode_embeddings(body.to_string().as_bytes(), Inbound::default()).expect("a request");
        assert_eq!((again.inputs.len(), again.task.as_deref()), (2, Some(word)));
    }
    let mut said = request(None);
    said.extra.insert(Format::OpenaiChat, "input_type", "classification".into());
    let encoded = Cohere.encode_embeddings(&said, &Dialect::of("m")).expect("a body");
    assert_eq!(encoded.body["input_type"], "classification", "a caller of another format may say it");
    said.inputs = vec![EmbeddingInput::Tokens(vec![1])];
    assert_eq!(Cohere.encode_embeddings(&said, &Dialect::of("m")).expect_err("no").kind, Kind::Unsupported);
    let answer = json!({"id": "e", "embeddings": {"float": [[0.5, -1], [0, 1e-3]]}, "texts": ["a", "b"],
        "meta": {"billed_units": {"input_tokens": 4}}});
    let response = Cohere.decode_embeddings_response(answer.to_string().as_bytes()).expect("vectors");
    assert_eq!(response.vectors, [[0.5, -1.0], [0.0, 0.001]]);
    assert_eq!(response.usage.and_then(|u| u.input_tokens), Some(4));
    for odd in [json!({}), json!({"embeddings": {"int8": [[1]]}}), json!({"embeddings": [["x"]]})] {
        let error = Cohere.decode_embeddings_response(odd.to_string().as_bytes()).expect_err("odd");
        assert_eq!(error.kind, Kind::Upstream, "{odd}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (body, param) in [
        (json!({}), "model"),
        (json!({"model": "m"}), "messages"),
        (json!({"model": "m", "messages": []}), "messages"),
        (json!({"model": "m", "messages": [{"role": "x", "content": ""}]}), "messages[0].role"),
        (json!({"model": "m", "messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"model": "m", "messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content[0].text",
        ),
        (json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "tool_choice": "auto"}), "tool_choice"),
        (json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "documents": [{}]}), "documents[0]"),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "thinking": {"type": "x"}}),
            "thinking.type",
        ),
    ] {
        let error = decode(&body).expect_err("a mistake");
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(param)), "{body}");
    }
}

#[test]
fn log_probabilities_are_of_pieces_and_name_no_others() {
    let mut asked = asking(vec![Part::text("hi")]);
    asked.logprobs = Some(LogprobsAsk { top: Some(2) });
    let (body, dropped) = encode(&asked);
    assert_eq!((&body["logprobs"], dropped), (&json!(true), vec!["top_logprobs"]));
    assert_eq!(decode(&body).unwrap().logprobs, Some(LogprobsAsk::default()));

    let piece = |text: &str, ids: Value, likely: Value| json!({"text": text, "token_ids": ids, "logprobs": likely});
    let (yo, dear) = (piece("yo", json!([5]), json!([-0.5])), piece(" dear", json!([6, 7]), json!([-0.25, -0.5])));
    let mut whole = json!({"id": "c", "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "yo dear"}]}});
    whole["logprobs"] = json!([yo, dear]);
    let response = Cohere.decode_response(whole.to_string().as_bytes()).unwrap();
    let logprobs = response.choices[0].logprobs.clone().unwrap();
    let told: Vec<_> =
        logprobs["content"].as_array().unwrap().iter().map(|e| (e["token"].clone(), e["logprob"].clone())).collect();
    assert_eq!(told, [(json!("yo"), json!(-0.5)), (json!(" dear"), json!(-0.75))]);
    let written: Value = serde_json::from_slice(&Cohere.encode_response(&response, &view()).unwrap()).unwrap();
    assert_eq!(written["logprobs"], json!([yo, dear]));

    let event = |value: Value| format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap());
    let content = |text: &str| json!({"message": {"content": {"type": "text", "text": text}}});
    let stream = [
        json!({"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant"}}}),
        json!({"type": "content-start", "index": 0, "delta": content("")}),
        json!({"type": "content-delta", "index": 0, "delta": content("yo"), "logprobs": yo}),
        json!({"type": "content-delta", "index": 0, "delta": content(" dear"), "logprobs": dear}),
        json!({"type": "content-end", "index": 0}),
        json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}),
    ];
    let events = events(stream.map(event).concat().as_bytes()).unwrap();
    let mut encoder = Cohere.stream_encoder(&view());
    let mut bytes = Vec::new();
    events.iter().for_each(|event| encoder.push(event, &mut bytes));
    encoder.finish(&mut bytes);
    let mut fold = Fold::default();
    super::tests::events(&bytes).unwrap().into_iter().for_each(|event| fold.push(event));
    assert_eq!(fold.finish().choices[0].logprobs.as_ref(), Some(&logprobs));
}

#[test]
fn documents_that_answer_calls_are_texts_elsewhere_and_documents_here() {
    let body = json!({"model": "m", "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "document", "document": {"id": "1", "data": "{\"t\": 1}"}}]},
    ]});
    let mut request = decode(&body).unwrap();
    assert_eq!(encode(&request).0["messages"], body["messages"]);
    let Part::ToolResult(result) = &mut request.messages[2].parts[0] else { panic!("a result") };
    let Part::Text(text) = &mut result.parts[0] else { panic!("a text") };
    assert_eq!(text.text, "{\"t\": 1}");
    text.text = "changed".into();
    assert_eq!(encode(&request).0["messages"][2]["content"], "changed");
}

#[test]
fn an_answer_that_is_complete_and_calls_ends_with_its_calls() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let whole = json!({"id": "1", "finish_reason": "COMPLETE", "message": {"role": "assistant", "tool_calls": [call]}});
    let response = Cohere.decode_response(whole.to_string().as_bytes()).unwrap();
    assert_eq!(response.choices[0].finish.as_ref().unwrap().reason, FinishReason::ToolCalls);
}

#[test]
fn sources_without_an_address_keep_their_names_in_every_format() {
    let citation = json!({"start": 0, "end": 2, "text": "hi", "sources": [{"type": "document", "id": "doc:0",
        "document": {"id": "doc:0", "title": "T"}}], "type": "TEXT_CONTENT"});
    let whole = json!({"id": "1", "finish_reason": "COMPLETE", "message": {"role": "assistant",
        "content": [{"type": "text", "text": "hi"}], "citations": [citation]}});
    let response = Cohere.decode_response(whole.to_string().as_bytes()).unwrap();
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Ollama) {
        let told = crate::codec::codec(format).encode_response(&response, &view()).unwrap();
        let told = String::from_utf8(told).unwrap();
        assert!(told.contains("doc:0") && told.contains("\"T\""), "{format:?}: {told}");
    }
}
