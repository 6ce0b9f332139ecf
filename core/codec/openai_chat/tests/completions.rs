//! Legacy completions: what becomes of a prompt, what is refused, how answers read.

use serde_json::{Value, json};

use crate::{
    codec::{ClientView, Codec, Inbound, StreamEncoder, openai_chat::OpenaiChat},
    error::Error,
    model::{Choice, Delta, Event, Extra, Finish, FinishReason, Part, PartStart, Response, Usage},
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
        let error = decode(body).unwrap_err();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(feature)));
    }
    assert_eq!(decode(json!({"model": "m"})).unwrap_err().param.as_deref(), Some("prompt"));
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
