//! Tests of the codec: each direction by hand-written cases, and recorded traffic when `$PORTCULLIS_CORPUS` names it.

mod corpus;
mod golden;
mod request;
mod response;
mod small;
mod stream;

use serde_json::Value;

use super::*;

pub(crate) fn decode(body: &Value) -> Request {
    try_decode(body).unwrap()
}

pub(crate) fn try_decode(body: &Value) -> Result<Request> {
    let inbound = Inbound { model: Some("gemini-3-flash"), stream: Some(false), ..Inbound::default() };
    Gemini.decode_request(body.to_string().as_bytes(), inbound)
}

pub(crate) fn encode(request: &Request, model: &str) -> (Value, Vec<&'static str>) {
    let Encoded { body, dropped } = Gemini.encode_request(request, &Dialect::of(model)).unwrap();
    (Value::Object(body), dropped)
}

pub(crate) fn view() -> ClientView {
    ClientView { model: "smart".into(), request_id: "req_1".into(), ..ClientView::default() }
}

pub(crate) fn written(response: &Response) -> Value {
    serde_json::from_slice(&Gemini.encode_response(response, &view()).unwrap()).unwrap()
}
