use serde_json::{Value, json};

use super::*;
use crate::{
    codec::Dialect,
    model::{
        EmbeddingInput, EmbeddingResponse, Encoding, FinishReason, LogprobsAsk, Message, Output, Part, ReasoningAsk,
        Response, Role, Tool, ToolCall, ToolChoice, ToolResult, fold::Fold, tool::Function,
    },
};

fn answer(path: &str, headers: &HeaderMap, body: &Bytes) -> MockAnswer {
    super::answer(&Method::POST, path, headers, body)
}

fn asking(text: &str) -> Request {
    Request {
        model: "mock/any".to_owned(),
        messages: vec![Message::text(Role::User, text)],
        max_tokens: Some(10_000),
        ..Request::default()
    }
}

fn path(format: Format, operation: Operation, stream: bool) -> &'static str {
    match (format, operation, stream) {
        (Format::OpenaiChat, Operation::Chat, _) => "/v1/chat/completions",
        (Format::OpenaiChat, Operation::Embeddings, _) => "/v1/embeddings",
        (Format::OpenaiResponses, Operation::Chat, _) => "/v1/responses",
        (Format::OpenaiResponses, Operation::CountTokens, _) => "/v1/responses/input_tokens",
        (Format::AnthropicMessages, Operation::CountTokens, _) => "/v1/messages/count_tokens",
        (Format::AnthropicMessages, Operation::Chat, _) => "/v1/messages",
        (Format::Gemini, Operation::Chat, true) => "/v1beta/models/mock/any:streamGenerateContent?alt=sse",
        (Format::Gemini, Operation::Chat, false) => "/v1beta/models/mock/any:generateContent",
        (Format::Gemini, Operation::CountTokens, _) => "/v1beta/models/mock/any:countTokens",
        (Format::Cohere, Operation::Chat, _) => "/v2/chat",
        (Format::Cohere, Operation::Embeddings, _) => "/v2/embed",
        (Format::Ollama, Operation::Chat, _) => "/api/chat",
        (Format::Ollama, Operation::Embeddings, _) => "/api/embed",
        (Format::BedrockConverse, Operation::Chat, true) => "/model/mock/any/converse-stream",
        (Format::BedrockConverse, Operation::Chat, false) => "/model/mock/any/converse",
        (Format::Gemini, Operation::Embeddings, _) => "/v1beta/models/mock/any:batchEmbedContents",
        other => panic!("{other:?}"),
    }
}

/// The request as a gateway would send it in this format.
fn exchange(format: Format, request: &Request) -> MockAnswer {
    let body = codec(format).encode_request(request, &Dialect::of("mock/any")).unwrap().body;
    let bytes = Bytes::from(serde_json::to_vec(&body).unwrap());
    answer(path(format, Operation::Chat, request.stream), &HeaderMap::new(), &bytes)
}

fn bytes(answer: &MockAnswer) -> Vec<u8> {
    answer.chunks.iter().flat_map(|c| c.bytes.to_vec()).collect()
}

fn whole(format: Format, request: &Request) -> Response {
    let answer = exchange(format, request);
    assert_eq!(answer.status, 200, "{format:?}: {}", String::from_utf8_lossy(&bytes(&answer)));
    codec(format).decode_response(&bytes(&answer)).unwrap()
}

fn streamed(format: Format, request: &Request) -> Response {
    let request = Request { stream: true, include_usage: true, ..request.clone() };
    let answer = exchange(format, &request);
    assert_eq!(answer.headers[CONTENT_TYPE], Framing::of(format).content_type());
    let mut decoder = codec(format).stream_decoder(&Dialect::of("mock/any"), crate::codec::sse::MAX_EVENT);
    let (mut events, mut fold) = (Vec::new(), Fold::default());
    for chunk in &answer.chunks {
        decoder.push(&chunk.bytes, &mut events).unwrap();
    }
    decoder.finish(&mut events).unwrap();
    events.into_iter().for_each(|e| fold.push(e));
    assert!(fold.ended());
    fold.finish()
}

fn function(name: &str, parameters: Value) -> Tool {
    Tool::Function(Function {
        name: name.to_owned(),
        description: None,
        parameters: Some(parameters),
        strict: None,
        custom: false,
        cache: None,
        extra: Default::default(),
    })
}

fn weather() -> Tool {
    function(
        "get_weather",
        json!({"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}}}),
    )
}

fn calls(response: &Response) -> Vec<ToolCall> {
    let parts = response.choices[0].parts.iter();
    parts.filter_map(|p| if let Part::ToolCall(c) = p { Some(c.clone()) } else { None }).collect()
}

fn reason(response: &Response) -> FinishReason {
    response.choices[0].finish.as_ref().unwrap().reason
}

#[test]
fn says_what_it_heard_in_every_format() {
    for format in Format::ALL {
        let request = asking("hello wörld 漢字");
        let response = whole(format, &request);
        assert_eq!(response.text(), "mock/any heard: hello wörld 漢字", "{format:?}");
        assert_eq!(reason(&response), FinishReason::Stop);
        let usage = response.usage.clone().unwrap();
        assert!(usage.input_tokens.unwrap() >= 1 && usage.output_tokens.unwrap() >= 1);
        let stream = streamed(format, &request);
        assert_eq!((stream.text(), reason(&stream)), (response.text(), FinishReason::Stop), "{format:?}");
        assert_eq!(stream.usage.unwrap().output_tokens, usage.output_tokens, "{format:?}");
        let again = exchange(format, &request);
        assert_eq!(bytes(&again), bytes(&exchange(format, &request)), "the same request, the same bytes");
    }
}

#[test]
fn calls_the_tool_that_is_forced_or_mentioned() {
    for format in Format::ALL {
        let mut request = asking("please get_weather and tell_time now");
        request.tools = vec![weather(), function("tell_time", json!({"type": "object", "properties": {}}))];
        for response in [whole(format, &request), streamed(format, &request)] {
            let calls = calls(&response);
            let names: Vec<_> = calls.iter().map(|c| c.name.as_str()).collect();
            assert_eq!(names, ["get_weather", "tell_time"], "{format:?}");
            let arguments: Value = serde_json::from_str(&calls[0].arguments).unwrap();
            assert_eq!(arguments, json!({"city": "mock", "days": 2}));
            assert_eq!(reason(&response), FinishReason::ToolCalls, "{format:?}");
        }
        request.messages = vec![Message::text(Role::User, "nothing special")];
        assert!(calls(&whole(format, &request)).is_empty());
        // One wire cannot force a call.
        if format != Format::Ollama {
            request.tool_choice = Some(ToolChoice::Tool { name: "tell_time".to_owned(), custom: false });
            assert_eq!(calls(&whole(format, &request))[0].name, "tell_time", "{format:?}");
            request.tool_choice = Some(ToolChoice::Required);
            assert_eq!(calls(&whole(format, &request))[0].name, "get_weather", "{format:?}");
        }
        request.tool_choice = Some(ToolChoice::None);
        request.messages = vec![Message::text(Role::User, "get_weather")];
        assert!(calls(&whole(format, &request)).is_empty(), "{format:?}");
    }
}

#[test]
fn reads_a_tools_answer_instead_of_calling_again() {
    for format in Format::ALL {
        let mut request = asking("get_weather and tell_time");
        request.tools = vec![weather(), function("tell_time", json!({"type": "object", "properties": {}}))];
        let made = calls(&whole(format, &request));
        request.messages.push(Message::new(Role::Assistant, made.iter().cloned().map(Part::ToolCall).collect()));
        for (call, text) in made.iter().zip(["sunny", "noon"]) {
            request.messages.push(Message::new(Role::Tool, vec![Part::ToolResult(answer_to(call, text))]));
        }
        let response = whole(format, &request);
        assert!(calls(&response).is_empty());
        assert!(response.text().ends_with("sunny; noon"), "{format:?}: {}", response.text());
    }
}

fn answer_to(call: &ToolCall, text: &str) -> ToolResult {
    ToolResult {
        call_id: call.id.clone(),
        name: Some(call.name.clone()),
        kind: call.kind,
        parts: vec![Part::text(text)],
        object: None,
        is_error: None,
        cache: None,
        extra: Default::default(),
    }
}

#[test]
fn structured_output_fits_its_schema() {
    let schema = json!({
        "type": "object", "required": ["name", "tags"], "additionalProperties": false,
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    });
    for format in Format::ALL {
        let mut request = asking("a form");
        let output =
            Output::Schema { name: Some("form".to_owned()), description: None, schema: schema.clone(), strict: None };
        request.output = Some(output);
        let value: Value = serde_json::from_str(&whole(format, &request).text()).unwrap();
        assert_eq!(value, json!({"name": "mock", "tags": ["mock"]}), "{format:?}");
    }
}

#[test]
fn instructions_are_followed() {
    for format in Format::ALL {
        let said = |items: &str| whole(format, &asking(&format!("hi [mock: {items}]")));
        assert_eq!(said("text=hello, you").text(), "hello, you", "{format:?}");
        assert_eq!(said("latency=1ms").text(), "mock/any heard: hi", "its own instructions are not echoed");
        let usage = said("usage=10/20").usage.unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(10), Some(20)), "{format:?}");
        assert_eq!(said("tokens=50").text().split(' ').count(), 50);
        assert_eq!(reason(&said("finish=length")), FinishReason::Length);
        assert_eq!(reason(&said("finish=content_filter")), FinishReason::ContentFilter, "{format:?}");
        let thought = said("reasoning").choices[0].parts.iter().any(|p| matches!(p, Part::Reasoning(_)));
        assert!(thought, "{format:?}");
        let mut request = asking("one two three");
        request.max_tokens = Some(2);
        assert_eq!(reason(&whole(format, &request)), FinishReason::Length);
        let error = exchange(format, &asking("[mock: stauts=1]"));
        assert_eq!(error.status, 400);
        assert!(String::from_utf8(bytes(&error)).unwrap().contains("stauts"));
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTROL, HeaderValue::from_static("text=from the header"));
    let body = codec(Format::AnthropicMessages).encode_request(&asking("hi"), &Dialect::of("m")).unwrap().body;
    let answer = answer("/v1/messages", &headers, &serde_json::to_vec(&body).unwrap().into());
    assert!(String::from_utf8(bytes(&answer)).unwrap().contains("from the header"));
}

#[test]
fn thinks_when_asked_to() {
    let mut request = asking("hi");
    request.reasoning = Some(ReasoningAsk { budget: Some(2000), ..ReasoningAsk::default() });
    let response = whole(Format::AnthropicMessages, &request);
    let Part::Reasoning(thought) = &response.choices[0].parts[0] else { panic!("{response:?}") };
    assert!(thought.signature.is_some() && !thought.text.is_empty());
    assert!(response.choices[0].parts.len() == 2);
}

#[test]
fn refusals_have_the_formats_own_shape() {
    for format in Format::ALL {
        for (status, kind) in [
            (400, Kind::UpstreamRefused),
            (401, Kind::UpstreamAuth),
            (429, Kind::UpstreamRateLimited),
            (503, Kind::UpstreamOverloaded),
            (504, Kind::UpstreamTimeout),
        ] {
            let answer = exchange(format, &asking(&format!("[mock: status={status}, retry_after=7]")));
            assert_eq!(answer.status, status);
            let header = |name: &str| answer.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
            let error = codec(format).decode_error(status, &header, &bytes(&answer).into());
            assert_eq!(error.kind, kind, "{format:?} {status}");
            if status == 429 {
                assert_eq!(error.retry_after, Some(Duration::from_secs(7)), "{format:?}");
            }
        }
        let garbage = answer(path(format, Operation::Chat, false), &HeaderMap::new(), &Bytes::from_static(b"{"));
        assert_eq!(garbage.status, 400, "{format:?}");
    }
    assert_eq!(answer("/v1/nothing", &HeaderMap::new(), &Bytes::new()).status, 404);
}

#[tokio::test]
async fn faults_happen_where_they_were_asked_for() {
    for format in Format::ALL {
        let mut request = asking("x [mock: cut=3, latency=200ms, pace=20ms, tokens=30]");
        request.stream = true;
        let plan = exchange(format, &request);
        assert_eq!((plan.status.as_u16(), plan.latency, plan.end), (200, Duration::from_millis(200), End::Cut));
        let delays: Vec<_> = plan.chunks.iter().map(|c| c.delay.as_millis()).collect();
        assert_eq!(delays, [20, 20, 20], "{format:?}");
        let mut body = MockBody { chunks: plan.chunks.into(), end: plan.end, wait: None };
        for _ in 0..3 {
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(body.frame().await.unwrap().unwrap_err().kind, Kind::Upstream);
        assert!(body.frame().await.is_none());
    }
    let whole = exchange(Format::AnthropicMessages, &asking("x [mock: cut=1]"));
    assert_eq!(whole.end, End::Cut);
    assert!(codec(Format::AnthropicMessages).decode_response(&bytes(&whole)).is_err());
}

#[tokio::test]
async fn a_stall_is_silence_and_the_wait_survives_a_dropped_call() {
    let mut request = asking("x [mock: stall=2, pace=5ms]");
    request.stream = true;
    let body = codec(Format::AnthropicMessages).encode_request(&request, &Dialect::of("m")).unwrap().body;
    let (_, _, mut answer) =
        run(&Method::POST, "/v1/messages", &HeaderMap::new(), serde_json::to_vec(&body).unwrap().into()).await;
    assert!(futures_util::poll!(std::pin::pin!(answer.frame())).is_pending(), "its pace comes first");
    assert!(answer.frame().await.is_some() && answer.frame().await.is_some());
    for _ in 0..3 {
        assert!(futures_util::poll!(std::pin::pin!(answer.frame())).is_pending());
    }
}

/// What was said, without ids that are made from the request's bytes.
fn told(response: &Response) -> (Vec<String>, FinishReason) {
    let text = |part: &Part| match part {
        Part::Text(text) => text.text.clone(),
        Part::Reasoning(thought) => format!("{} {:?}", thought.text, thought.signature),
        other => format!("{other:?}"),
    };
    (response.choices[0].parts.iter().map(text).collect(), reason(response))
}

#[test]
fn pieces_of_any_size_make_the_same_answer() {
    for format in Format::ALL {
        let plain = streamed(format, &asking("häppy [mock: reasoning, tokens=20]"));
        for size in [1, 2, 3, 7, 64] {
            let cut = streamed(format, &asking(&format!("häppy [mock: reasoning, tokens=20, chunk={size}]")));
            assert_eq!(told(&cut), told(&plain), "{format:?} in pieces of {size}");
        }
    }
}

#[test]
fn embeddings_are_the_same_unit_vectors_each_time() {
    let request = EmbeddingRequest {
        model: "mock/any".to_owned(),
        inputs: vec![EmbeddingInput::Text("one".to_owned()), EmbeddingInput::Text("two".to_owned())],
        ..EmbeddingRequest::default()
    };
    let ask = |format, request: &EmbeddingRequest| {
        let body = codec(format).encode_embeddings(request, &Dialect::of("mock/any")).unwrap().body;
        let answer = answer(
            path(format, Operation::Embeddings, false),
            &HeaderMap::new(),
            &serde_json::to_vec(&body).unwrap().into(),
        );
        let ok = answer.status == 200;
        (
            ok,
            if ok {
                codec(format).decode_embeddings_response(&bytes(&answer)).unwrap()
            } else {
                EmbeddingResponse::default()
            },
        )
    };
    for format in [Format::OpenaiChat, Format::Gemini] {
        let (ok, first) = ask(format, &request);
        assert!(ok && first.vectors.len() == 2 && first.vectors[0].len() == 256, "{format:?}");
        assert_ne!(first.vectors[0], first.vectors[1]);
        assert_eq!(first.vectors, ask(format, &request).1.vectors);
        let length: f32 = first.vectors[0].iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-3);
        let small = EmbeddingRequest { dimensions: Some(3), ..request.clone() };
        assert_eq!(ask(format, &small).1.vectors[0].len(), 3);
        let huge = EmbeddingRequest { dimensions: Some(1 << 40), ..request.clone() };
        assert!(!ask(format, &huge).0);
    }
    let packed = EmbeddingRequest { encoding: Encoding::Base64, ..request.clone() };
    assert_eq!(ask(Format::OpenaiChat, &packed).1.vectors, ask(Format::OpenaiChat, &request).1.vectors);
}

#[test]
fn counts_tokens_and_lists_models() {
    for format in [Format::AnthropicMessages, Format::Gemini] {
        let codec = codec(format);
        let body = codec.encode_count(&asking("four words are here"), &Dialect::of("mock/any")).unwrap().unwrap().body;
        let answer = answer(
            path(format, Operation::CountTokens, false),
            &HeaderMap::new(),
            &serde_json::to_vec(&body).unwrap().into(),
        );
        assert_eq!(codec.decode_count(&bytes(&answer)).unwrap(), 5, "{format:?}");
    }
    let mut headers = HeaderMap::new();
    let list = |headers: &HeaderMap, path| String::from_utf8(bytes(&answer(path, headers, &Bytes::new()))).unwrap();
    assert!(list(&headers, "/v1/models").contains("\"object\""));
    assert!(list(&headers, "/v1beta/models").contains("models/mock"));
    assert!(list(&headers, "/v1/models/any").contains("\"any\""));
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    assert!(list(&headers, "/v1/models").contains("has_more"));
}

#[test]
fn logprobs_come_word_by_word_when_they_are_asked_for() {
    let plain = asking("how sure are you");
    assert_eq!(whole(Format::OpenaiChat, &plain).choices[0].logprobs, None);
    let sure = Request { logprobs: Some(LogprobsAsk { top: Some(2) }), ..plain };
    let choice = whole(Format::OpenaiChat, &sure).choices.remove(0);
    let told = choice.logprobs.clone().unwrap();
    let words: String = told["content"].as_array().unwrap().iter().map(|t| t["token"].as_str().unwrap()).collect();
    assert_eq!(choice.parts, [Part::text(words)]);
    assert_eq!(told["content"][0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(streamed(Format::OpenaiChat, &sure).choices[0].logprobs, Some(told));
}

#[test]
fn remembers_what_an_earlier_turn_said() {
    for format in Format::ALL {
        let mut request = asking("My name is Ada. Remember it.");
        assert_eq!(whole(format, &request).text(), "mock/any heard: My name is Ada. Remember it.");
        request.messages.push(Message::text(Role::Assistant, "I will."));
        request.messages.push(Message::text(Role::User, "What is my name? One word."));
        assert_eq!(whole(format, &request).text(), "mock/any remembers: Ada", "{format:?}");
    }
    assert_eq!(whole(Format::Gemini, &asking("What is my name?")).text(), "mock/any heard: What is my name?");
}

#[test]
fn half_a_character_is_read_as_the_sign_for_none() {
    let body = r#"{"model":"mock/any","messages":[{"role":"user","content":"hi \ud83d"}]}"#;
    assert_eq!(answer("/v1/chat/completions", &HeaderMap::new(), &body.into()).status, StatusCode::OK);
}

#[test]
fn a_bound_on_tokens_bounds_thinking_too() {
    let bound = Request { max_tokens: Some(4), ..asking("one two three four five [mock: reasoning]") };
    for format in Format::ALL {
        let usage = whole(format, &bound).usage.unwrap();
        assert!(usage.output_tokens.unwrap() <= 4, "{format:?} {usage:?}");
    }
}

#[test]
fn values_fit_their_schemas() {
    for (schema, value) in [
        (json!({"type": "string"}), json!("mock")),
        (json!({"type": ["null", "integer"]}), json!(1)),
        (json!({"enum": ["b", "a"]}), json!("b")),
        (json!({"const": 5}), json!(5)),
        (json!({"type": "integer", "minimum": 7}), json!(7)),
        (json!({"type": "integer", "exclusiveMinimum": 7}), json!(8)),
        (json!({"type": "integer", "maximum": -3}), json!(-3)),
        (json!({"type": "integer", "multipleOf": 5}), json!(5)),
        (json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2}), json!([true, true])),
        (json!({"type": "array", "maxItems": 0}), json!([])),
        (json!({"type": "string", "format": "date"}), json!("2026-01-01")),
        (json!({"type": "string", "minLength": 6}), json!("mock..")),
        (json!({"type": "string", "maxLength": 2}), json!("mo")),
        (json!({"anyOf": [{"type": "null"}, {"type": "boolean"}]}), json!(true)),
        (json!({"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}), Value::Null),
        (
            json!({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}),
            json!({"a": 1, "b": 2}),
        ),
        (json!({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}), json!({"a": "mock"})),
        (json!(true), json!("mock")),
    ] {
        assert_eq!(shape::fill(&schema, "mock"), value, "{schema}");
    }
}

#[test]
fn recursive_and_huge_schemas_end() {
    let tree = json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "required": ["n"], "properties": {
        "n": {"$ref": "#/$defs/n"}, "l": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 16}}}}});
    assert!(shape::fill(&tree, "mock").to_string().len() < 1 << 20);
    let circle = json!({"$ref": "#"});
    assert_eq!(shape::fill(&circle, "mock"), Value::Null);
    let wide = json!({"type": "array", "minItems": 1e18, "items": {"type": "string", "minLength": 1e18}});
    assert!(shape::fill(&wide, "mock").to_string().len() < 1 << 20);
}
