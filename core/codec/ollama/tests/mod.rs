//! Tests of the codec: what the goldens, which cross it with every other, do not say.

use serde_json::Map;

use super::*;
use crate::{
    codec::sse::MAX_EVENT,
    error::Kind,
    model::{
        EmbeddingInput, Event, Extra, FinishReason, LogprobsAsk, Media, MediaKind, MediaSource, Message, Output, Part,
        ReasoningAsk, Role, Sampling, Tool, ToolCall, ToolChoice, ToolKind, ToolResult, fold::Fold, tool::Function,
    },
};

fn decode(body: &Value) -> Request {
    Ollama.decode_request(body.to_string().as_bytes(), Inbound::default()).expect("a request")
}

fn encode(request: &Request, model: &str) -> (Value, Vec<&'static str>) {
    let Encoded { body, dropped } = Ollama.encode_request(request, &Dialect::of(model)).expect("a body");
    (Value::Object(body), dropped)
}

fn refused(request: &Request) -> String {
    let error = Ollama.encode_request(request, &Dialect::of("m")).expect_err("refused");
    assert_eq!(error.kind, Kind::Unsupported);
    error.param.clone().unwrap_or_default()
}

fn events(pieces: &[&[u8]]) -> Result<Vec<Event>> {
    let mut out = Vec::new();
    let mut decoder = Ollama.stream_decoder(&Dialect::of("m"), MAX_EVENT);
    for piece in pieces {
        decoder.push(piece, &mut out)?;
    }
    decoder.finish(&mut out)?;
    Ok(out)
}

fn fold(events: Vec<Event>) -> Response {
    let mut fold = Fold::default();
    events.into_iter().for_each(|event| fold.push(event));
    fold.finish()
}

fn asking(parts: Vec<Part>) -> Request {
    Request { messages: vec![Message::new(Role::User, parts)], ..Request::default() }
}

fn call(id: &str, arguments: &str) -> Part {
    Part::ToolCall(ToolCall {
        id: id.to_owned(),
        name: "f".into(),
        kind: ToolKind::Function,
        arguments: arguments.to_owned(),
        signature: None,
        cache: None,
        extra: Extra::default(),
    })
}

fn result(id: &str, parts: Vec<Part>) -> Part {
    Part::ToolResult(ToolResult {
        call_id: id.to_owned(),
        name: Some("f".into()),
        kind: ToolKind::Function,
        parts,
        object: None,
        is_error: None,
        cache: None,
        extra: Extra::default(),
    })
}

#[test]
fn it_streams_only_when_it_is_told_to() {
    let mut request = asking(vec![Part::text("x")]);
    assert_eq!(encode(&request, "m").0["stream"], false, "said always: the server's own default is to stream");
    request.stream = true;
    assert_eq!(encode(&request, "m").0["stream"], true);
}

#[test]
fn knobs_stand_in_options_beside_a_callers_own() {
    let sent = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": false,
        "options": {"num_ctx": 8192, "temperature": 0, "num_predict": -1, "stop": "END"}, "keep_alive": 0});
    let mut request = decode(&sent);
    assert_eq!((request.max_tokens, request.sampling.temperature), (None, Some(0.0)));
    request.max_tokens = Some(9);
    request.sampling = Sampling { top_k: Some(3), seed: Some(-1), logit_bias: Some(Map::new()), ..request.sampling };
    let (body, dropped) = encode(&request, "m");
    let options = json!({"num_ctx": 8192, "temperature": 0, "top_k": 3, "seed": -1, "stop": ["END"], "num_predict": 9});
    assert_eq!((&body["options"], &body["keep_alive"], dropped), (&options, &json!(0), vec!["logit_bias"]));
}

#[test]
fn calls_without_ids_get_the_same_ones_each_time() {
    let line = |calls: &str| {
        format!(
            "{{\"model\":\"m\",\"message\":{{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{calls}]}},\"done\":true}}\n"
        )
    };
    let one = r#"{"function":{"name":"f","arguments":{"a":1}}}"#;
    let ids = |text: &str| -> Vec<String> {
        let response = fold(events(&[text.as_bytes()]).expect("a stream"));
        assert_eq!(response, Ollama.decode_response(text.as_bytes()).expect("an answer"));
        let finish = response.choices[0].finish.as_ref().map(|f| f.reason);
        assert_eq!(finish, Some(FinishReason::ToolCalls), "it says nothing, or stop");
        let calls = response.choices[0].parts.iter();
        calls.filter_map(|p| if let Part::ToolCall(c) = p { Some(c.id.clone()) } else { None }).collect()
    };
    let two = ids(&line(&format!("{one},{one}")));
    assert_eq!(two, ids(&line(&format!("{one},{one}"))));
    assert!(two.len() == 2 && two[0] != two[1] && two[0].starts_with("call_"), "{two:?}");
}

#[test]
fn results_find_their_call_by_id_by_name_or_in_order() {
    let ask = |results: Value| {
        let calls = json!([{"function": {"name": "f", "arguments": {}}}, {"id": "k", "function": {"name": "g", "arguments": {}}}]);
        let mut messages = vec![json!({"role": "assistant", "content": "", "tool_calls": calls})];
        messages.extend(results.as_array().expect("results").clone());
        let request = decode(&json!({"model": "m", "messages": messages}));
        let found = |m: &Message| match &m.parts[..] {
            [Part::ToolResult(r)] => r.name.clone().unwrap_or_default(),
            _ => String::new(),
        };
        request.messages[1..].iter().map(found).collect::<Vec<_>>()
    };
    let plain = |more: Value| {
        let mut message = json!({"role": "tool", "content": "x"});
        message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        message
    };
    assert_eq!(ask(json!([plain(json!({})), plain(json!({}))])), ["f", "g"]);
    assert_eq!(ask(json!([plain(json!({"tool_name": "g"})), plain(json!({}))])), ["g", "f"]);
    assert_eq!(ask(json!([plain(json!({"tool_call_id": "k"})), plain(json!({"tool_name": "f"}))])), ["g", "f"]);
}

#[test]
fn arguments_are_objects_whatever_they_were() {
    let request = Request {
        messages: vec![
            Message::new(
                Role::Assistant,
                vec![call("a", "{\"n\":1.50}"), call("b", ""), call("c", "[1"), call("", "{}")],
            ),
            Message::new(Role::Tool, vec![result("b", vec![Part::text("x"), Part::text("y")])]),
        ],
        ..Request::default()
    };
    let (body, _) = encode(&request, "m");
    let arguments: Vec<String> =
        (0..4).map(|i| body["messages"][0]["tool_calls"][i]["function"]["arguments"].to_string()).collect();
    assert_eq!(arguments, ["{\"n\":1.50}", "{}", "{\"arguments\":\"[1\"}", "{}"]);
    assert!(body["messages"][0]["tool_calls"][3]["id"].as_str().is_some_and(|id| id.starts_with("call_")));
    assert_eq!(
        body["messages"][1],
        json!({"role": "tool", "content": "x\n\ny", "tool_call_id": "b", "tool_name": "f"})
    );
}

#[test]
fn pictures_are_bytes_and_of_results_stand_in_the_turn_that_follows() {
    let image = || Part::Media(Media::new(MediaKind::Image, None, MediaSource::Base64("iVBORw0KGgo=".into())));
    let request = Request {
        messages: vec![
            Message::new(Role::User, vec![Part::text("look"), image()]),
            Message::new(Role::Assistant, vec![call("a", "{}")]),
            Message::new(Role::Tool, vec![result("a", vec![image()])]),
        ],
        ..Request::default()
    };
    let (body, _) = encode(&request, "m");
    assert_eq!(body["messages"][0], json!({"role": "user", "content": "look", "images": ["iVBORw0KGgo="]}));
    assert_eq!(body["messages"][3]["images"], json!(["iVBORw0KGgo="]));
    let media = |kind, source| asking(vec![Part::Media(Media::new(kind, None, source))]);
    assert_eq!(refused(&media(MediaKind::Image, MediaSource::Url("https://e.org/a".into()))), "media_urls");
    assert_eq!(refused(&media(MediaKind::Document, MediaSource::Base64("JVBERi0".into()))), "documents");
    assert_eq!(refused(&media(MediaKind::Video, MediaSource::Base64(String::new()))), "video");
}

#[test]
fn a_forced_call_binds_the_answer_and_none_is_no_tools() {
    let function = |name: &str| {
        Tool::Function(Function {
            name: name.into(),
            description: None,
            parameters: None,
            strict: None,
            custom: false,
            cache: None,
            extra: Extra::default(),
        })
    };
    let mut request = asking(vec![Part::text("x")]);
    request.tools = vec![function("f"), function("g")];
    request.tool_choice = Some(ToolChoice::Required);
    let (body, _) = encode(&request, "m");
    let names: Vec<_> =
        body["format"]["anyOf"].as_array().expect("several").iter().map(|one| &one["properties"]).collect();
    assert_eq!(names.iter().map(|n| &n["portcullis_tool"]["enum"][0]).collect::<Vec<_>>(), ["f", "g"]);
    assert_eq!(body["tools"].as_array().map(Vec::len), Some(2));
    request.tool_choice = Some(ToolChoice::Tool { name: "g".into(), custom: false });
    let (body, _) = encode(&request, "m");
    assert_eq!(
        (&body["format"]["properties"]["portcullis_tool"]["enum"], body["tools"].as_array().map(Vec::len)),
        (&json!(["g"]), Some(2))
    );
    assert_eq!(decode(&body).tool_choice, request.tool_choice);
    request.tool_choice = Some(ToolChoice::Required);
    let back = decode(&encode(&request, "m").0);
    assert_eq!((back.tool_choice, back.output), (Some(ToolChoice::Required), None));
    request.tool_choice = Some(ToolChoice::Tool { name: "g".into(), custom: false });
    // The call comes first: the answer's own shape is for the turn after it.
    request.output = Some(Output::Json);
    assert_eq!(encode(&request, "m").0["format"]["type"], "object");
    request.tool_choice = Some(ToolChoice::Tool { name: "none".into(), custom: false });
    assert_eq!(refused(&request), "tool_choice");
    request.output = None;
    request.tool_choice = Some(ToolChoice::None);
    assert_eq!(encode(&request, "m").0.get("tools"), None);
    request.tool_choice = Some(ToolChoice::Allowed { names: vec!["g".into()], required: false });
    assert_eq!(encode(&request, "m").0["tools"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_model_that_is_only_loaded_or_let_go_of_has_ended_well() {
    for word in ["load", "unload"] {
        let whole =
            json!({"model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": word});
        let answer = Ollama.decode_response(whole.to_string().as_bytes()).expect("decoded");
        let finish = answer.choices[0].finish.as_ref().expect("a finish");
        assert_eq!((finish.reason, finish.raw.as_str()), (FinishReason::Stop, word));
    }
}

#[test]
fn what_comes_back_in_the_shape_of_a_forced_call_is_one() {
    let text = r#"{ "portcullis_tool": "f",
        "arguments": {"a": 1.50} }"#;
    let whole =
        json!({"model": "m", "message": {"role": "assistant", "content": text}, "done": true, "done_reason": "stop"});
    let answer = Ollama.decode_response(whole.to_string().as_bytes()).expect("decoded");
    let line = |content: &str| {
        format!("{}\n", json!({"model": "m", "message": {"role": "assistant", "content": content}, "done": false}))
    };
    let last = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\"}\n";
    let stream = |text: &str| {
        let pieces: Vec<char> = text.chars().collect();
        let lines: String = pieces.chunks(3).map(|piece| line(&piece.iter().collect::<String>())).collect();
        fold(events(&[(lines + last).as_bytes()]).expect("events"))
    };
    for answer in [answer, stream(text)] {
        let [Part::ToolCall(call)] = answer.choices[0].parts.as_slice() else { panic!("{:?}", answer.choices) };
        assert_eq!((call.name.as_str(), call.arguments.as_str()), ("f", r#"{"a":1.50}"#));
        assert_eq!(answer.choices[0].finish.as_ref().map(|f| f.reason), Some(FinishReason::ToolCalls));
    }
    // Other texts are texts, whatever they begin with, and so is a call that was cut.
    for text in [r#"{"portcullis": 1}"#, "  {\"a\": [1]}", " ", "{", "hello", r#"{"portcullis_tool": "f", "argu"#] {
        assert_eq!(stream(text).text(), text);
    }
}

#[test]
fn thinking_is_on_or_off_and_has_levels_where_the_model_has() {
    let mut request = asking(vec![Part::text("x")]);
    for (effort, budget, model, think) in [
        (Some("none"), None, "qwen3", json!(false)),
        (None, Some(0), "qwen3", json!(false)),
        (None, Some(500), "qwen3", json!(true)),
        (Some("xhigh"), None, "deepseek-r1", json!(true)),
        (Some("xhigh"), None, "gpt-oss:20b", json!("high")),
        (Some("minimal"), None, "gpt-oss:20b", json!("low")),
    ] {
        request.reasoning = Some(ReasoningAsk { effort: effort.map(str::to_owned), budget, show: None });
        assert_eq!(encode(&request, model).0["think"], think, "{effort:?} {budget:?} {model}");
    }
}

#[test]
fn an_error_inside_a_stream_is_one() {
    let bytes = b"{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"so\"},\"done\":false}\n{\"error\":\"llama runner died\"}\n";
    let mut out = Vec::new();
    let mut decoder = Ollama.stream_decoder(&Dialect::of("m"), MAX_EVENT);
    let error = decoder.push(bytes, &mut out).expect_err("an error");
    assert_eq!((error.kind, error.message.as_str()), (Kind::Upstream, "llama runner died"));
    assert_eq!(fold(out).text(), "so");
    let whole = Ollama.decode_response(br#"{"error":"no"}"#).expect_err("an error");
    assert!(whole.upstream.is_some());
}

#[test]
fn a_stream_without_its_last_line_is_cut_and_one_without_its_last_break_is_not() {
    let text = "{\"model\":\"m\",\"message\":{\"content\":\"a\"},\"done\":false}\n{\"model\":\"m\",\"message\":{\"content\":\"b\"},\"done\":true,\"eval_count\":2}";
    let response = fold(events(&[text.as_bytes()]).expect("whole"));
    assert_eq!((response.text().as_str(), response.usage.and_then(|u| u.output_tokens)), ("ab", Some(2)));
    for at in 0..text.len() {
        assert_eq!(events(&[&text.as_bytes()[..at]]).expect_err("cut").kind, Kind::Upstream, "cut at {at}");
    }
}

#[test]
fn odd_lines_are_an_upstreams_fault_and_do_not_panic() {
    for line in ["[]", "{", "null", "7", r#"{"message":[]}"#, r#"{"message":{"content":7}}"#, r#"{"done":"yes"}"#] {
        assert_eq!(events(&[line.as_bytes(), b"\n"]).expect_err(line).kind, Kind::Upstream, "{line}");
        assert_eq!(Ollama.decode_response(line.as_bytes()).expect_err(line).kind, Kind::Upstream, "{line}");
    }
}

#[test]
fn embeddings_go_there_and_back() {
    let request = EmbeddingRequest {
        inputs: vec![EmbeddingInput::Text("a".into())],
        task: Some("query".into()),
        dimensions: Some(64),
        ..EmbeddingRequest::default()
    };
    let encoded = Ollama.encode_embeddings(&request, &Dialect::of("nomic")).expect("a body");
    let body = Value::Object(encoded.body);
    assert_eq!((body, encoded.dropped), (json!({"model": "nomic", "input": ["a"], "dimensions": 64}), vec!["task"]));
    let answer = br#"{"model":"nomic","embeddings":[[0.25,-1]],"total_duration":5,"prompt_eval_count":3}"#;
    let response = Ollama.decode_embeddings_response(answer).expect("vectors");
    assert_eq!(response.vectors, [[0.25, -1.0]]);
    assert_eq!(response.usage.and_then(|u| u.input_tokens), Some(3));
    assert_eq!(Ollama.decode_embeddings_response(b"{}").expect_err("none").kind, Kind::Upstream);
}

#[test]
fn log_probabilities_are_asked_for_and_come_back_whole_and_in_lines() {
    let asked = Request { logprobs: Some(LogprobsAsk { top: Some(2) }), ..asking(vec![Part::text("hi")]) };
    let (body, dropped) = encode(&asked, "m");
    assert_eq!((&body["logprobs"], &body["top_logprobs"]), (&json!(true), &json!(2)));
    assert!(dropped.is_empty());
    assert_eq!(decode(&body).logprobs, asked.logprobs);

    let told = json!([{"token": "yo", "logprob": -0.5, "top_logprobs": [{"token": "hi", "logprob": -2.0}]}]);
    let line = |done: bool| {
        let mut line = json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": done,
            "message": {"role": "assistant", "content": if done { "" } else { "yo" }}});
        if !done {
            line["logprobs"] = told.clone();
        }
        format!("{line}\n")
    };
    let mut whole: Value = serde_json::from_str(&line(false)).unwrap();
    whole["done"] = true.into();
    let whole = Ollama.decode_response(whole.to_string().as_bytes()).unwrap();
    let streamed = fold(events(&[line(false).as_bytes(), line(true).as_bytes()]).unwrap());
    let wanted = json!({"content": [{"token": "yo", "logprob": -0.5, "bytes": [121, 111],
        "top_logprobs": [{"token": "hi", "logprob": -2.0, "bytes": [104, 105]}]}]});
    assert_eq!(whole.choices[0].logprobs.as_ref(), Some(&wanted));
    assert_eq!(streamed.choices[0].logprobs.as_ref(), Some(&wanted));
    let written = Ollama.encode_response(&whole, &ClientView::default()).unwrap();
    let back = Ollama.decode_response(&written).unwrap();
    assert_eq!(back.choices[0].logprobs.as_ref(), Some(&wanted));
}
