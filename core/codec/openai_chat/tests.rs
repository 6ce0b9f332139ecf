//! The codec alone: each direction, the habits of servers, and the recorded corpus when it is at hand.

mod answers;
mod completions;
mod corpus;
mod requests;
mod streams;

use serde_json::Value;

use crate::{
    codec::{ClientView, Codec, Dialect, Inbound, StreamDecoder, openai_chat::OpenaiChat},
    model::{Event, Request, Response, fold::Fold},
};

pub const CODEC: OpenaiChat = OpenaiChat;

pub fn view() -> ClientView {
    ClientView { model: "alias".into(), request_id: "req1".into(), now: 1_700_000_000, ..ClientView::default() }
}

pub fn provider(name: &str) -> Dialect {
    Dialect { provider: name.to_owned(), ..Dialect::of("m") }
}

pub fn request(body: &Value) -> Request {
    CODEC.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap()
}

pub fn refused(body: &Value) -> crate::error::Error {
    CODEC.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap_err()
}

/// A conversation of these messages, decoded and encoded again.
pub fn resent(messages: Value, dialect: &Dialect) -> (Value, Vec<&'static str>) {
    let request = request(&serde_json::json!({"model": "x", "messages": messages}));
    let encoded = CODEC.encode_request(&request, dialect).unwrap();
    (encoded.body["messages"].clone(), encoded.dropped)
}

pub fn response(body: &Value) -> Response {
    CODEC.decode_response(body.to_string().as_bytes()).unwrap()
}

pub fn written(response: &Response) -> Value {
    serde_json::from_slice(&CODEC.encode_response(response, &view()).unwrap()).unwrap()
}

/// Chunks as an upstream would write them, with the terminal.
pub fn sse(chunks: &[Value]) -> Vec<u8> {
    let mut out = String::new();
    for chunk in chunks {
        out.push_str(&format!("data: {chunk}\n\n"));
    }
    out.push_str("data: [DONE]\n\n");
    out.into_bytes()
}

/// A chunk with one choice.
pub fn chunk(delta: Value) -> Value {
    serde_json::json!({"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

pub fn last(reason: &str) -> Value {
    let mut chunk = chunk(serde_json::json!({}));
    chunk["choices"][0]["finish_reason"] = reason.into();
    chunk
}

pub fn decoder() -> Box<dyn StreamDecoder> {
    CODEC.stream_decoder(&Dialect::of("m"), crate::codec::sse::MAX_EVENT)
}

pub fn events(bytes: &[u8]) -> Vec<Event> {
    let (mut decoder, mut out) = (decoder(), Vec::new());
    decoder.push(bytes, &mut out).unwrap();
    decoder.finish(&mut out).unwrap();
    out
}

pub fn folded(events: Vec<Event>) -> Response {
    let mut fold = Fold::default();
    events.into_iter().for_each(|e| fold.push(e));
    fold.finish()
}

pub fn streamed(events: &[Event], view: &ClientView) -> String {
    let (mut encoder, mut out) = (CODEC.stream_encoder(view), Vec::new());
    events.iter().for_each(|e| encoder.push(e, &mut out));
    encoder.finish(&mut out);
    String::from_utf8(out).unwrap()
}

/// The JSON of each frame but the terminal.
pub fn frames(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|l| l.strip_prefix("data: ")).filter(|d| *d != "[DONE]");
    data.map(|d| serde_json::from_str(d).unwrap()).collect()
}
