//! Errors in the family's shape, both ways: `{"type": "error", "error": {"type", "message", "details"}, "request_id"}`.
//! What an upstream said is shown only as its own JSON message; HTML and secrets never pass.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, UpstreamFault};

pub fn encode(error: &Error, request_id: &str) -> Vec<u8> {
    body(error, request_id).to_string().into_bytes()
}

pub fn body(error: &Error, request_id: &str) -> Value {
    let mut details = Map::new();
    details.insert("error_code".to_owned(), error.code().into());
    if let Some(param) = &error.param {
        details.insert("param".to_owned(), param.as_str().into());
    }
    json!({
        "type": "error",
        "error": {"type": word(error), "message": error.message, "details": details},
        "request_id": request_id,
    })
}

/// The family's word. A refusal in the family's own words keeps them, but for the one that other families say to all of them.
fn word(error: &Error) -> &str {
    let own = error.upstream.as_ref().and_then(|fault| fault.kind.as_deref());
    if error.kind == Kind::UpstreamRefused
        && let Some(own) = own.filter(|own| WORDS[1..].iter().any(|(_, word)| word == own))
    {
        return own;
    }
    if error.kind == Kind::BudgetExceeded {
        return "billing_error";
    }
    match error.status() {
        408 => "timeout_error",
        500 | 502 => "api_error",
        503 | 529 => "overloaded_error",
        status => WORDS
            .iter()
            .find(|(s, _)| *s == status)
            .map_or(if status < 500 { "invalid_request_error" } else { "api_error" }, |(_, word)| word),
    }
}

/// An upstream's refusal before its stream began.
pub fn decode(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
    let said = serde_json::from_slice::<Value>(body).ok();
    let mut fault = read(status, said.as_ref());
    fault.request_id = fault.request_id.or_else(|| header("request-id")).or_else(|| header("x-request-id"));
    fault.body = said.is_some().then(|| body.clone());
    let mut error = make(fault, said.as_ref());
    error.retry_after = retry_after(header);
    error
}

/// An `error` event inside a stream: its word stands for the status that the head could no longer carry.
pub fn decode_event(data: &Value) -> Error {
    let kind = data.pointer("/error/type").and_then(Value::as_str).unwrap_or_default();
    let status = WORDS.iter().find(|(_, word)| *word == kind).map_or(500, |(status, _)| *status);
    make(read(status, Some(data)), Some(data))
}

fn read(status: u16, said: Option<&Value>) -> UpstreamFault {
    let text = |pointer: &str| said.and_then(|v| v.pointer(pointer)).and_then(Value::as_str).map(str::to_owned);
    UpstreamFault {
        status,
        kind: text("/error/type"),
        code: text("/error/details/error_code").or_else(|| text("/error/code")),
        request_id: text("/request_id"),
        body: None,
    }
}

fn make(fault: UpstreamFault, said: Option<&Value>) -> Error {
    let words = said.and_then(message);
    let status = fault.status;
    let error = match status {
        // The upstream's own words about our key could hold a piece of it.
        401 | 403 => Error::new(
            Kind::UpstreamAuth,
            "the upstream refused the gateway's own credentials; check this provider's key and its permissions",
        ),
        402 => Error::new(Kind::UpstreamAuth, "the upstream wants its bill paid; check this provider's account"),
        408 | 504 => Error::new(
            Kind::UpstreamTimeout,
            words.unwrap_or_else(|| "the upstream was too slow; try again or choose another model".to_owned()),
        ),
        429 => Error::new(
            Kind::UpstreamRateLimited,
            words.unwrap_or_else(|| "the upstream's rate limit is reached; wait and try again".to_owned()),
        ),
        503 | 529 => Error::new(
            Kind::UpstreamOverloaded,
            words.unwrap_or_else(|| "the upstream is overloaded; try again or choose another model".to_owned()),
        ),
        400..=499 => Error::new(
            Kind::UpstreamRefused,
            words.unwrap_or_else(|| format!("the upstream refused the request with status {status}")),
        )
        .with_status(status),
        _ => Error::new(
            Kind::Upstream,
            words.unwrap_or_else(|| format!("the upstream failed with status {status}; try again")),
        ),
    };
    error.from_upstream(fault)
}

/// The message of a JSON error, in this shape or a near one.
fn message(said: &Value) -> Option<String> {
    ["/error/message", "/message", "/error", "/detail"]
        .iter()
        .find_map(|pointer| said.pointer(pointer).and_then(Value::as_str))
        .filter(|text| !text.trim().is_empty() && !text.trim_start().starts_with('<'))
        .map(|text| text.chars().take(MAX_MESSAGE).collect())
}

fn retry_after(header: &dyn Fn(&str) -> Option<String>) -> Option<Duration> {
    let number =
        |name: &str| header(name).and_then(|v| v.trim().parse::<f64>().ok()).filter(|n| (0.0..1e9).contains(n));
    number("retry-after-ms")
        .map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .or_else(|| number("retry-after").map(Duration::from_secs_f64))
}

/// (status, the family's word for it)
const WORDS: [(u16, &str); 11] = [
    (400, "invalid_request_error"),
    (401, "authentication_error"),
    (402, "billing_error"),
    (403, "permission_error"),
    (404, "not_found_error"),
    (409, "conflict_error"),
    (413, "request_too_large"),
    (429, "rate_limit_error"),
    (500, "api_error"),
    (504, "timeout_error"),
    (529, "overloaded_error"),
];

/// Characters of an upstream's message that are shown.
const MAX_MESSAGE: usize = 2000;
