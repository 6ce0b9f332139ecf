//! Tests of the codec: each direction by hand-written cases, the goldens, and recorded traffic when `$PORTCULLIS_CORPUS`
//! names it.

mod answers;
mod corpus;
mod embeddings;
mod errors;
mod golden;
mod requests;
mod streams;

use serde_json::Value;

use super::*;
use crate::{
    codec::{eventstream::Said, sse::MAX_EVENT},
    model::{Event, fold::Fold},
};

fn decode(body: &Value) -> Request {
    try_decode(body).expect("a request")
}

fn try_decode(body: &Value) -> Result<Request> {
    let inbound = Inbound { model: Some("m"), stream: Some(false), ..Inbound::default() };
    BedrockConverse.decode_request(body.to_string().as_bytes(), inbound)
}

fn encode(request: &Request, model: &str) -> (Value, Vec<&'static str>) {
    let Encoded { body, dropped } = BedrockConverse.encode_request(request, &Dialect::of(model)).expect("a body");
    (Value::Object(body), dropped)
}

fn view() -> ClientView {
    ClientView { model: "smart".into(), request_id: "req_1".into(), ..ClientView::default() }
}

fn written(response: &Response) -> Value {
    serde_json::from_slice(&BedrockConverse.encode_response(response, &view()).expect("a body")).expect("JSON")
}

fn frames(list: &[(&str, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, payload) in list {
        let (said, name) = match name.strip_prefix('!') {
            Some(name) => (Said::Exception, name),
            None => (Said::Event, *name),
        };
        crate::codec::eventstream::write(said, name, payload.to_string().as_bytes(), &mut out);
    }
    out
}

fn events(pieces: &[&[u8]]) -> Result<Vec<Event>> {
    let mut out = Vec::new();
    let mut decoder = BedrockConverse.stream_decoder(&Dialect::of("m"), MAX_EVENT);
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

/// What a client reads: (name, payload) a frame.
fn streamed(events: &[Event]) -> Vec<(String, Value)> {
    let mut encoder = BedrockConverse.stream_encoder(&view());
    let mut bytes = Vec::new();
    for event in events {
        encoder.push(event, &mut bytes);
    }
    encoder.finish(&mut bytes);
    read(&bytes)
}

fn read(bytes: &[u8]) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut decoder = crate::codec::eventstream::Decoder::new(MAX_EVENT);
    decoder
        .push(bytes, |frame| {
            out.push((frame.name, serde_json::from_slice(&frame.payload).unwrap_or_default()));
            Ok(())
        })
        .expect("frames");
    decoder.finish().expect("whole frames");
    out
}
