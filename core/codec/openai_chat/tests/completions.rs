//! Legacy completions: what becomes of a prompt, what is refused, how answers read.

use serde_json::{Value, json};

use crate::{
    codec::{ClientView, Codec, Dialect, Inbound, OutputBound, StreamEncoder, openai_chat::OpenaiChat},
    error::Error,
    model::{Choice, Delta, Event, Extra, Finish, FinishReason, Message, Part, PartStart, Response, Role, Usage},
};

fn decode(body: Value) -> Result<crate::model::Request, Error> {
    let inbound = Inbound { legacy: true, ..Inbound::default() };
    OpenaiChat.decode_request(body.to_string().as_bytes(), inbound)
}

fn view() -> ClientView {
    ClientView { legacy: true, include_usage: true, request_id: "req_1".to_owned(), ..ClientView::default() }
}

#[test]
fn a_prompt_is_one_user_turn_with_the_knobs_beside_it() {
    for prompt in [json!("Say hi"), json!(["Say hi"])] {
        let request = decode(json!({"model": "m", "prompt": prompt, "max_tokens": 7, "temperature": 0, "stop": ["x"], "n": 2, "stream": true})).unwrap();
        assert_eq!(request.messages[0].joined_text(), "Say hi");
        assert_eq!((request.max_tokens, request.n, request.stream), (Some(7), Some(2), true));
        assert_eq!((request.sampling.temperature, request.sampling.stop.len()), (Some(0.0), 1));
    }
}

#[test]
fn what_a_chat_cannot_do_is_refused_by_name() {
    for (field, value, feature) in [
        ("suffix", json!("end"), "suffix"),
        ("echo", json!(true), "echo"),
        ("logprobs", json!(3), "logprobs"),
        ("best_of", json!(2), "best_of"),
        ("prompt", json!([1, 2]), "prompt_tokens"),
        ("prompt", json!([[1, 2]]), "prompt_tokens"),
        ("prompt", json!(["a", "b"]), "prompt_list"),
    ] {
        let mut body = json!({"model": "m", "prompt": "x", "echo": false, "suffix": null, "best_of": 1});
        body[field] = value;
        let error = OpenaiChat.as_chat(&decode(body).unwrap()).unwrap_err();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(feature)));
    }
    let missing = OpenaiChat.as_chat(&decode(json!({"model": "m"})).unwrap()).unwrap_err();
    assert_eq!(missing.param.as_deref(), Some("prompt"));
    for (prompt, param) in [(json!([]), "prompt"), (json!({"a": 1}), "prompt"), (json!(["a", true]), "prompt")] {
        assert_eq!(decode(json!({"model": "m", "prompt": prompt})).unwrap_err().param.as_deref(), Some(param));
    }
}

#[test]
fn a_chat_is_sent_nothing_that_only_completions_know() {
    let body = json!({"model": "m", "prompt": ["x"], "echo": false, "suffix": "", "best_of": 1, "logprobs": null, "min_p": 0.1});
    let chat = OpenaiChat.as_chat(&decode(body).unwrap()).unwrap();
    let sent = OpenaiChat.encode_request(&chat, &Dialect::of("m")).unwrap().body;
    let keys: Vec<&str> = sent.keys().map(String::as_str).collect();
    assert_eq!(keys, ["model", "messages", "min_p"]);
}

#[test]
fn a_prompt_goes_back_into_its_place_as_stages_left_it() {
    let dialect = Dialect::of("up").of_completions();
    for (prompt, back) in [
        (json!("ann"), json!("ANN")),
        (json!(["ann", "bob"]), json!(["ANN", "BOB"])),
        (json!(["ann", [1, 2]]), json!(["ANN", [1, 2]])),
        (json!([1, 2]), json!([1, 2])),
        (json!([[1], [2]]), json!([[1], [2]])),
    ] {
        let body = json!({"model": "m", "prompt": prompt, "suffix": "end", "echo": true, "logprobs": 2, "best_of": 3, "n": 2,
            "max_tokens": 5, "temperature": 0});
        let mut request = decode(body).unwrap();
        for part in request.messages.iter_mut().flat_map(|m| &mut m.parts) {
            if let Part::Text(text) = part {
                text.text = text.text.to_uppercase();
            }
        }
        let sent = Value::Object(OpenaiChat.encode_request(&request, &dialect).unwrap().body);
        let wanted = json!({"model": "up", "prompt": back, "suffix": "END", "echo": true, "logprobs": 2, "best_of": 3, "n": 2,
            "max_tokens": 5, "temperature": 0});
        assert_eq!(sent, wanted);
    }
    let mut request = decode(json!({"model": "m", "prompt": ["a", "b"]})).unwrap();
    request.messages[0].parts.pop();
    assert_eq!(OpenaiChat.encode_request(&request, &dialect).unwrap_err().param.as_deref(), Some("messages"));
    request.messages.insert(0, Message::text(Role::System, "be brief"));
    assert_eq!(OpenaiChat.encode_request(&request, &dialect).unwrap_err().param.as_deref(), Some("messages"));
}

#[test]
fn the_answers_that_a_completion_makes_are_all_counted() {
    for (body, choices) in [
        (json!({"prompt": "a"}), 1),
        (json!({"prompt": [1, 2, 3], "n": 2}), 2),
        (json!({"prompt": ["a", "b", "c"], "n": 2}), 6),
        (json!({"prompt": [[1], [2]], "best_of": 5, "n": 2}), 10),
    ] {
        let bound = OpenaiChat.output_bound(&|name| body.get(name).cloned());
        assert_eq!(bound, OutputBound { tokens: None, choices }, "{body}");
    }
}

#[test]
fn an_upstreams_completion_keeps_its_logprobs_and_unknown_fields() {
    let logprobs = json!({"tokens": ["h", "i"], "token_logprobs": [-0.5, -1], "top_logprobs": [{"h": -0.5}, null], "text_offset": [0, 1]});
    let choice = json!({"text": "hi", "index": 1, "logprobs": logprobs, "finish_reason": "stop", "stop_reason": 7});
    let body = json!({"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m", "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}});
    let answer = OpenaiChat.decode_response(body.to_string().as_bytes()).unwrap();
    assert_eq!(answer.choices[0].text(), "hi");
    let back: Value = serde_json::from_slice(&OpenaiChat.encode_response(&answer, &view()).unwrap()).unwrap();
    assert_eq!(back["choices"], body["choices"]);
    assert_eq!((&back["id"], &back["usage"]["total_tokens"]), (&body["id"], &json!(5)));

    let piece = |text: &str, tokens: Value, finish: Value| {
        json!({"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m",
            "choices": [{"text": text, "index": 0, "logprobs": tokens, "finish_reason": finish}]})
    };
    let first = json!({"tokens": ["h"], "token_logprobs": [-0.5], "text_offset": [0]});
    let second = json!({"tokens": ["i"], "token_logprobs": [-1], "text_offset": [1]});
    let chunks = [piece("h", first, Value::Null), piece("i", second, json!("length"))];
    let wire: String = chunks.iter().map(|c| format!("data: {c}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect();
    let mut decoder = OpenaiChat.stream_decoder(&Dialect::of("m"), 1 << 20);
    let mut events = Vec::new();
    decoder.push(wire.as_bytes(), &mut events).unwrap();
    decoder.finish(&mut events).unwrap();
    let mut encoder = OpenaiChat.stream_encoder(&view());
    let mut bytes = Vec::new();
    events.iter().for_each(|event| encoder.push(event, &mut bytes));
    encoder.finish(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let told: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l.strip_prefix("data: ")?).ok()).collect();
    assert_eq!(
        (&told[0]["choices"][0]["text"], &told[0]["choices"][0]["logprobs"]["tokens"]),
        (&json!("h"), &json!(["h"]))
    );
    assert_eq!(
        (&told[1]["choices"][0]["text"], &told[1]["choices"][0]["logprobs"]["tokens"]),
        (&json!("i"), &json!(["i"]))
    );
    assert_eq!(told[2]["choices"][0]["finish_reason"], "length");
}

#[test]
fn answers_read_as_completions_whole_and_streamed() {
    let usage = Usage { input_tokens: Some(3), output_tokens: Some(2), ..Usage::default() };
    let finish = Finish::new(FinishReason::Length, "max_tokens");
    let choice = Choice { parts: vec![Part::text("hi")], finish: Some(finish.clone()), ..Choice::default() };
    let answer = Response { choices: vec![choice], usage: Some(usage.clone()), ..Response::default() };
    let whole: Value = serde_json::from_slice(&OpenaiChat.encode_response(&answer, &view()).unwrap()).unwrap();
    assert_eq!((&whole["object"], &whole["choices"][0]["text"]), (&json!("text_completion"), &json!("hi")));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 2);

    let mut encoder: Box<dyn StreamEncoder> = OpenaiChat.stream_encoder(&view());
    let mut bytes = Vec::new();
    for event in [
        Event::PartStart { choice: 0, index: 0, part: PartStart::Text { extra: Extra::default() } },
        Event::Delta { choice: 0, index: 0, delta: Delta::Text("hi".to_owned()) },
        Event::PartEnd { choice: 0, index: 0 },
        Event::Finish { choice: 0, finish },
        Event::Usage(usage),
        Event::End,
    ] {
        encoder.push(&event, &mut bytes);
    }
    encoder.finish(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    let chunks: Vec<Value> = text
        .lines()
        .filter_map(|l| l.strip_prefix("data: "))
        .filter(|l| *l != "[DONE]")
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(chunks.len(), 3);
    assert_eq!((&chunks[0]["choices"][0]["text"], &chunks[0]["usage"]), (&json!("hi"), &Value::Null));
    assert_eq!(chunks[1]["choices"][0]["finish_reason"], "length");
    assert_eq!((chunks[2]["choices"].as_array().unwrap().len(), &chunks[2]["usage"]["prompt_tokens"]), (0, &json!(3)));
}
