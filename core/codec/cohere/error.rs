//! Errors in the family's shape, both ways: `{"message", "id"}`, and our own code beside them. What an upstream said is shown only as its own JSON message.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::{Error, Kind, UpstreamFault};

pub fn encode(error: &Error, request_id: &str) -> Vec<u8> {
    json!({"id": request_id, "message": error.message, "code": error.code()}).to_string().into_bytes()
}

/// An upstream's refusal before its stream began.
pub fn decode(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
    let said = serde_json::from_slice::<Value>(body).ok();
    let text = |key: &str| said.as_ref().and_then(|v| v.get(key)).and_then(Value::as_str).map(str::to_owned);
    let fault = UpstreamFault {
        status,
        kind: text("error_type"),
        code: None,
        request_id: text("id").or_else(|| header("x-debug-trace-id")),
        body: said.is_some().then(|| body.clone()),
    };
    let mut error = make(fault, text("message").as_deref());
    let wait = header("retry-after").and_then(|v| v.trim().parse::<f64>().ok());
    error.retry_after = wait.filter(|n| (0.0..1e9).contains(n)).map(Duration::from_secs_f64);
    error
}

/// A stream that ends with an error.
pub fn decode_end(message: Option<&str>) -> Error {
    make(UpstreamFault { status: 500, ..UpstreamFault::default() }, message)
}

fn make(fault: UpstreamFault, message: Option<&str>) -> Error {
    let words = message
        .filter(|text| !text.trim().is_empty() && !text.trim_start().starts_with('<'))
        .map(|text| text.chars().take(MAX_MESSAGE).collect::<String>());
    let told = |or: &str| words.clone().unwrap_or_else(|| or.to_owned());
    let status = fault.status;
    let error = match status {
        // The upstream's own words about our key could hold a piece of it.
        401 | 403 => Error::new(
            Kind::UpstreamAuth,
            "the upstream refused the gateway's own credentials; check this provider's key and its permissions",
        ),
        402 => Error::new(Kind::UpstreamAuth, "the upstream wants its bill paid; check this provider's account"),
        408 | 504 => {
            Error::new(Kind::UpstreamTimeout, told("the upstream was too slow; try again or choose another model"))
        }
        429 => Error::new(Kind::UpstreamRateLimited, told("the upstream's rate limit is reached; wait and try again")),
        503 => {
            Error::new(Kind::UpstreamOverloaded, told("the upstream is overloaded; try again or choose another model"))
        }
        // 498: a token of the text is blocked.
        498 => Error::new(Kind::UpstreamRefused, told("the upstream refused the text")).with_status(400),
        // 499: it thinks that we left.
        499 => Error::new(Kind::Upstream, told("the upstream ended the request; try again")),
        400..=499 => {
            let message = told(&format!("the upstream refused the request with status {status}"));
            Error::new(Kind::UpstreamRefused, message).with_status(status)
        }
        _ => Error::new(Kind::Upstream, told(&format!("the upstream failed with status {status}; try again"))),
    };
    error.from_upstream(fault)
}

/// Characters of an upstream's message that are shown.
const MAX_MESSAGE: usize = 2000;
