//! Errors in the family's shape, both ways: `{"message"}`, with the exception's name in the header `x-amzn-ErrorType`, or in
//! the frame where a stream has begun; our own code stands beside the message. What an upstream said is shown only as its own JSON message.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::{Error, Kind, UpstreamFault};

pub fn encode(error: &Error) -> Vec<u8> {
    json!({"message": error.message, "code": error.code()}).to_string().into_bytes()
}

/// The exception that the vendor's SDKs raise for it. A refusal in the family's own words keeps them.
pub fn word(error: &Error) -> &'static str {
    let own = error.upstream.as_ref().and_then(|fault| fault.kind.as_deref());
    if error.kind == Kind::UpstreamRefused
        && let Some((word, _)) = WORDS.iter().find(|(word, _)| own == Some(*word))
    {
        return word;
    }
    match error.status() {
        401..=403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        408 | 504 => "ModelTimeoutException",
        424 => "ModelErrorException",
        429 if error.kind == Kind::BudgetExceeded => "ServiceQuotaExceededException",
        429 => "ThrottlingException",
        503 | 529 => "ServiceUnavailableException",
        status if status < 500 => "ValidationException",
        _ => "InternalServerException",
    }
}

/// Inside a stream there are five, written with a small letter.
pub fn stream_word(error: &Error) -> &'static str {
    match word(error) {
        "ThrottlingException" | "ServiceQuotaExceededException" | "ModelNotReadyException" => "throttlingException",
        "ServiceUnavailableException" => "serviceUnavailableException",
        "ModelTimeoutException" | "ModelErrorException" | "ModelStreamErrorException" => "modelStreamErrorException",
        "InternalServerException" => "internalServerException",
        _ => "validationException",
    }
}

/// An upstream's refusal before its stream began.
pub fn decode(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
    let said = serde_json::from_slice::<Value>(body).ok();
    let text = |key: &str| said.as_ref().and_then(|v| v.get(key)).and_then(Value::as_str).map(str::to_owned);
    // `ThrottlingException:http://internal.amazon.com/…`; in bodies `com.amazon.coral.service#ThrottlingException`.
    let named = header("x-amzn-errortype").or_else(|| text("__type")).or_else(|| text("code"));
    let named = named.map(|name| bare(&name).to_owned());
    let mut fault = UpstreamFault { status, kind: named, ..UpstreamFault::default() };
    fault.request_id = header("x-amzn-requestid").or_else(|| header("x-request-id"));
    fault.body = said.is_some().then(|| body.clone());
    let mut error = make(fault, said.as_ref());
    error.retry_after = retry_after(header);
    error
}

/// An exception inside a stream: its name stands for the status that the head could no longer carry.
pub fn decode_exception(name: &str, payload: &[u8]) -> Error {
    let said = serde_json::from_slice::<Value>(payload).ok();
    let mut word = bare(name).to_owned();
    if let Some(first) = word.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let told = said.as_ref().and_then(|v| v.get("originalStatusCode")).and_then(Value::as_u64);
    let status = match (WORDS.iter().find(|(known, _)| *known == word), told) {
        (Some(("ModelStreamErrorException", _)), Some(told @ 400..=599)) => told as u16,
        (Some((_, status)), _) => *status,
        (None, _) => 500,
    };
    make(UpstreamFault { status, kind: Some(word), ..UpstreamFault::default() }, said.as_ref())
}

/// An error that the service itself has no name for; `message` is the frame's own.
pub fn decode_unnamed(code: &str, message: &[u8]) -> Error {
    let said = json!({"message": String::from_utf8_lossy(message)});
    make(UpstreamFault { status: 500, code: Some(code.to_owned()), ..UpstreamFault::default() }, Some(&said))
}

fn bare(name: &str) -> &str {
    let name = name.split(':').next().unwrap_or(name);
    name.rsplit('#').next().unwrap_or(name)
}

fn make(fault: UpstreamFault, said: Option<&Value>) -> Error {
    let words = said.and_then(message);
    let status = fault.status;
    let quota = fault.kind.as_deref() == Some("ServiceQuotaExceededException");
    let error = match status {
        // The upstream's own words about our key could hold a piece of it.
        401..=403 => Error::new(
            Kind::UpstreamAuth,
            "the upstream refused the gateway's own credentials; check this provider's key and its permissions",
        ),
        408 | 504 => Error::new(
            Kind::UpstreamTimeout,
            words.unwrap_or_else(|| "the upstream was too slow; try again or choose another model".to_owned()),
        ),
        429 => limited(words),
        // A quota says 400, and is one all the same.
        400 if quota => limited(words),
        503 => Error::new(
            Kind::UpstreamOverloaded,
            words.unwrap_or_else(|| "the upstream is overloaded; try again or choose another model".to_owned()),
        ),
        // The model failed at it, not the caller.
        424 => Error::new(
            Kind::Upstream,
            words.unwrap_or_else(|| "the upstream's model failed at this request; try again".to_owned()),
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

fn limited(words: Option<String>) -> Error {
    let message = words.unwrap_or_else(|| "the upstream's rate limit is reached; wait and try again".to_owned());
    Error::new(Kind::UpstreamRateLimited, message)
}

fn message(said: &Value) -> Option<String> {
    ["message", "Message", "originalMessage"]
        .iter()
        .find_map(|key| said.get(key).and_then(Value::as_str))
        .filter(|text| !text.trim().is_empty() && !text.trim_start().starts_with('<'))
        .map(|text| text.chars().take(MAX_MESSAGE).collect())
}

fn retry_after(header: &dyn Fn(&str) -> Option<String>) -> Option<Duration> {
    let seconds = header("retry-after").and_then(|v| v.trim().parse::<f64>().ok());
    seconds.filter(|n| (0.0..1e9).contains(n)).map(Duration::from_secs_f64)
}

/// (the exception's name, its status)
const WORDS: [(&str, u16); 11] = [
    ("ValidationException", 400),
    ("ServiceQuotaExceededException", 400),
    ("AccessDeniedException", 403),
    ("ResourceNotFoundException", 404),
    ("ModelTimeoutException", 408),
    ("ModelErrorException", 424),
    ("ModelStreamErrorException", 424),
    ("ThrottlingException", 429),
    ("ModelNotReadyException", 429),
    ("InternalServerException", 500),
    ("ServiceUnavailableException", 503),
];

/// Characters of an upstream's message that are shown.
const MAX_MESSAGE: usize = 2000;
