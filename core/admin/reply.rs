//! Answers of the control plane: JSON, never cached; errors as `{"error": {"code", "message", "param"?}}`.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::error::Error;

pub(super) type Reply = Response<Full<Bytes>>;

pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    with_type(status, JSON, body.to_string())
}

pub(super) fn ok(body: &Value) -> Reply {
    json(StatusCode::OK, body)
}

/// The Prometheus exposition format.
pub(super) fn metrics(text: String) -> Reply {
    with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

pub(super) fn error(error: &Error) -> Reply {
    let mut body = json!({ "code": error.code(), "message": error.message });
    if let Some(param) = &error.param {
        body["param"] = param.as_str().into();
    }
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, &json!({ "error": body }));
    if status == StatusCode::UNAUTHORIZED {
        reply
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portcullis admin\""));
    }
    reply
}

/// Of any other type.
pub(super) fn bytes(kind: &'static str, body: Vec<u8>) -> Reply {
    with_type(StatusCode::OK, kind, body)
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

const JSON: &str = "application/json";
