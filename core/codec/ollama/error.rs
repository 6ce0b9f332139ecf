//! Errors in the family's shape, both ways: `{"error": "…"}`. Inside a stream an error is such a line.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::{Error, Kind, UpstreamFault};

pub fn encode(error: &Error) -> Vec<u8> {
    json!({"error": error.message}).to_string().into_bytes()
}

/// An upstream's refusal before its stream began.
pub fn decode(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
    let said = serde_json::from_slice::<Value>(body).ok();
    let fault = UpstreamFault { status, body: said.is_some().then(|| body.clone()), ..UpstreamFault::default() };
    let mut error = make(fault, said.as_ref());
    let wait = header("retry-after").and_then(|v| v.trim().parse::<f64>().ok());
    error.retry_after = wait.filter(|n| (0.0..1e9).contains(n)).map(Duration::from_secs_f64);
    error
}

/// An `error` under a good status: whole, or a line of a stream.
pub fn decode_line(said: &Value) -> Error {
    make(UpstreamFault { status: 500, ..UpstreamFault::default() }, Some(said))
}

fn make(fault: UpstreamFault, said: Option<&Value>) -> Error {
    let words = said
        .and_then(|v| ["/error", "/error/message", "/message"].iter().find_map(|at| v.pointer(at)?.as_str()))
        .filter(|text| !text.trim().is_empty() && !text.trim_start().starts_with('<'))
        .map(|text| text.chars().take(MAX_MESSAGE).collect::<String>());
    let told = |or: &str| words.clone().unwrap_or_else(|| or.to_owned());
    let status = fault.status;
    let error = match status {
        401..=403 => Error::new(
            Kind::UpstreamAuth,
            "the upstream refused the gateway's own credentials; check this provider's key and its permissions",
        ),
        408 | 504 => Error::new(Kind::UpstreamTimeout, told("the upstream was too slow; try again")),
        429 => Error::new(Kind::UpstreamRateLimited, told("the upstream's rate limit is reached; wait and try again")),
        503 => Error::new(Kind::UpstreamOverloaded, told("the upstream is overloaded; try again")),
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
