//! Errors, both ways: an upstream's `google.rpc.Status` to our kinds, ours to a body that the family's SDKs understand.
//! An upstream's own words go on only for refusals of the request itself; what it says about our key stays here.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, UpstreamFault};

pub fn decode(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
    let parsed = serde_json::from_slice::<Value>(body).ok();
    // A page is no body for a client that reads JSON.
    let own = parsed.is_some().then(|| body.clone());
    let mut error = match parsed {
        Some(value) if find(&value).is_some() => decode_value(&value, Some(status)),
        _ => build(status, &Map::new()),
    };
    if error.retry_after.is_none()
        && let Some(wait) = header("retry-after").and_then(|h| h.trim().parse::<u64>().ok())
    {
        error.retry_after = Some(Duration::from_secs(wait.min(MAX_WAIT)));
    }
    if let Some(fault) = &mut error.upstream {
        fault.request_id = header("x-goog-request-id").or_else(|| header("x-request-id"));
        fault.body = own;
    }
    error
}

/// From a parsed body or stream chunk; the status is the body's own where the transport told none.
pub fn decode_value(value: &Value, status: Option<u16>) -> Error {
    let inner = find(value).cloned().unwrap_or_default();
    let own = inner
        .get("code")
        .and_then(Value::as_u64)
        .and_then(|c| u16::try_from(c).ok())
        .filter(|c| (400..600).contains(c));
    let status = status.or(own).unwrap_or(502);
    let mut error = build(status, &inner);
    if let Some(fault) = &mut error.upstream {
        fault.body = serde_json::to_vec(value).ok().map(Bytes::from);
    }
    error
}

/// The error object, also out of a list of one.
fn find(value: &Value) -> Option<&Map<String, Value>> {
    let value = match value {
        Value::Array(list) => list.first()?,
        other => other,
    };
    value.get("error")?.as_object()
}

fn build(status: u16, inner: &Map<String, Value>) -> Error {
    let word = |key: &str| inner.get(key).and_then(Value::as_str);
    let details = inner.get("details").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let reason = details.iter().find(|d| is(d, "ErrorInfo")).and_then(|d| d.get("reason")).and_then(Value::as_str);
    let wait = details
        .iter()
        .find(|d| is(d, "RetryInfo"))
        .and_then(|d| d.get("retryDelay"))
        .and_then(Value::as_str)
        .and_then(delay);
    let bad_key = status == 400 && reason == Some("API_KEY_INVALID");
    let kind = match status {
        _ if bad_key => Kind::UpstreamAuth,
        401 | 403 => Kind::UpstreamAuth,
        408 | 504 => Kind::UpstreamTimeout,
        429 => Kind::UpstreamRateLimited,
        503 => Kind::UpstreamOverloaded,
        400..=499 => Kind::UpstreamRefused,
        _ => Kind::Upstream,
    };
    let said = word("message").filter(|m| !m.is_empty());
    let message = match kind {
        Kind::UpstreamAuth => {
            "the upstream refused the gateway's own key: the operator must check this provider's key".to_owned()
        }
        Kind::UpstreamRefused => said.map_or_else(
            || format!("the upstream refused the request with status {status} and no reason"),
            str::to_owned,
        ),
        _ => match (said, word("status")) {
            (Some(said), _) => format!("the upstream failed with status {status}: {said}"),
            (None, Some(name)) => format!("the upstream failed with status {status} ({name})"),
            (None, None) => format!("the upstream failed with status {status}"),
        },
    };
    let mut error = Error::new(kind, message);
    if kind == Kind::UpstreamRefused {
        error = error.with_status(status);
    }
    if let Some(wait) = wait {
        error = error.retry_after(wait);
    }
    error.from_upstream(UpstreamFault {
        status,
        kind: word("status").map(str::to_owned),
        code: reason.map(str::to_owned),
        request_id: None,
        body: None,
    })
}

fn is(detail: &Value, name: &str) -> bool {
    detail.get("@type").and_then(Value::as_str).and_then(|t| t.rsplit('.').next()) == Some(name)
}

/// `17s`, `1.5s`; rounded up to whole seconds where it must be written as such.
fn delay(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(MAX_WAIT as f64)))
}

/// Nobody is told to wait longer than a day.
const MAX_WAIT: u64 = 86_400;

pub fn encode(error: &Error, request_id: &str) -> Vec<u8> {
    serde_json::to_vec(&value(error, request_id)).unwrap_or_default()
}

/// The error object in the family's shape. Details that a Gemini upstream gave with its refusal come first.
pub fn value(error: &Error, request_id: &str) -> Value {
    let status = error.status();
    let mut details = if error.kind == Kind::UpstreamRefused { upstream_details(error) } else { Vec::new() };
    details.push(json!({
        "@type": format!("{TYPES}ErrorInfo"),
        "reason": error.code(),
        "domain": "portcullis",
    }));
    if let Some(param) = &error.param {
        details.push(json!({
            "@type": format!("{TYPES}BadRequest"),
            "fieldViolations": [{ "field": param, "description": error.message }],
        }));
    }
    if let Some(wait) = error.retry_after {
        details.push(
            json!({ "@type": format!("{TYPES}RetryInfo"), "retryDelay": format!("{}s", wait.as_secs_f64().ceil()) }),
        );
    }
    if !request_id.is_empty() {
        details.push(json!({ "@type": format!("{TYPES}RequestInfo"), "requestId": request_id }));
    }
    json!({ "error": { "code": status, "message": error.message, "status": status_word(status), "details": details } })
}

const TYPES: &str = "type.googleapis.com/google.rpc.";

/// Details of this family only: they carry an `@type`.
fn upstream_details(error: &Error) -> Vec<Value> {
    let body = error.upstream.as_ref().and_then(|u| u.body.as_ref());
    let Some(value) = body.and_then(|b| serde_json::from_slice::<Value>(b).ok()) else { return Vec::new() };
    match find(&value).and_then(|e| e.get("details")) {
        Some(Value::Array(list)) => list.iter().filter(|d| d.get("@type").is_some()).cloned().collect(),
        _ => Vec::new(),
    }
}

/// `google.rpc.Code` by HTTP status.
fn status_word(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        402 | 429 => "RESOURCE_EXHAUSTED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        405 | 501 => "UNIMPLEMENTED",
        408 | 504 => "DEADLINE_EXCEEDED",
        409 => "ABORTED",
        499 => "CANCELLED",
        400..=499 => "INVALID_ARGUMENT",
        502 | 503 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}
