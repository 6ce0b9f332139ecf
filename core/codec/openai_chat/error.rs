//! Errors, both ways: an upstream's refusal to an `Error`, and any `Error` to this family's body. Upstream text is shown,
//! but for HTML and for what was said about the gateway's own key.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    codec::json::as_u64,
    error::{Error, Kind, Result, UpstreamFault},
};

/// An upstream's answer with a status that is not a success.
pub fn decode(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let said = match &parsed {
        Some(value) => said(value),
        None => Said { message: plain_text(body), ..Said::default() },
    };
    let fault = UpstreamFault {
        status,
        kind: said.kind.clone(),
        code: said.code.clone(),
        request_id: header("x-request-id").or_else(|| header("apim-request-id")),
        body: parsed.is_some().then(|| body.clone()),
    };
    let mut error = build(status, said);
    if let Some(wait) = retry_after(header) {
        error = error.retry_after(wait);
    }
    error.from_upstream(fault)
}

/// An error in an answer or stream that began as a success. Its own code may be an HTTP status.
pub fn in_answer(value: &Value) -> Error {
    let error = value.get("error").filter(|e| !e.is_null()).unwrap_or(value);
    let number = |key: &str| error.get(key).and_then(Value::as_number).and_then(as_u64);
    let said = said(value);
    let status = number("status_code").or_else(|| number("code")).or_else(|| number("status"));
    let status = status.and_then(|s| u16::try_from(s).ok()).filter(|s| (400..600).contains(s));
    let status = status.unwrap_or_else(|| status_of(said.kind.as_deref(), said.code.as_deref()));
    let body = json!({ "error": error }).to_string();
    let fault = UpstreamFault {
        status,
        kind: said.kind.clone(),
        code: said.code.clone(),
        request_id: None,
        body: Some(Bytes::from(body)),
    };
    build(status, said).from_upstream(fault)
}

/// OpenRouter's word, where its provider failed in the middle of an answer; usually beside an error object.
pub fn in_finish(word: Option<&str>) -> Result<()> {
    match word {
        Some("error") => Err(in_answer(&json!({ "message": "the upstream failed in the middle of its answer" }))),
        _ => Ok(()),
    }
}

/// What the upstream said, in whichever shape.
#[derive(Default)]
struct Said {
    message: Option<String>,
    kind: Option<String>,
    code: Option<String>,
    param: Option<String>,
}

fn said(value: &Value) -> Said {
    let value = value.as_array().and_then(|a| a.first()).unwrap_or(value);
    let error = value.get("error").filter(|e| !e.is_null()).unwrap_or(value);
    if let Some(text) = error.as_str() {
        return Said { message: clip(text), ..Said::default() };
    }
    let text = |key: &str| match error.get(key) {
        Some(Value::String(s)) if !s.is_empty() => Some(s.clone()),
        Some(Value::Number(n)) => Some(n.to_string()),
        _ => None,
    };
    let detail = value.get("detail").or_else(|| error.get("detail"));
    Said {
        message: text("message").or_else(|| detail.and_then(details)).and_then(|m| clip(&m)),
        kind: text("type").or_else(|| text("status")),
        code: text("code"),
        param: text("param"),
    }
}

/// FastAPI's `detail`: a text, or a list of `{loc, msg}`. The rejected `input` in it is left out.
fn details(value: &Value) -> Option<String> {
    let one = |item: &Value| {
        let message = item.as_str().or_else(|| item.get("msg").or_else(|| item.get("message"))?.as_str())?;
        let place: Vec<String> = item.get("loc").and_then(Value::as_array).map_or(Vec::new(), |loc| {
            loc.iter().map(|l| l.as_str().map_or_else(|| l.to_string(), str::to_owned)).collect()
        });
        Some(if place.is_empty() { message.to_owned() } else { format!("{}: {message}", place.join(".")) })
    };
    match value {
        Value::Array(items) => {
            let all: Vec<String> = items.iter().filter_map(one).collect();
            (!all.is_empty()).then(|| all.join("; "))
        }
        other => one(other),
    }
}

/// A short text that is no page: `model not found`, as small servers answer.
fn plain_text(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    (!text.is_empty() && text.len() <= 1000 && !text.contains('<')).then(|| text.to_owned())
}

fn clip(text: &str) -> Option<String> {
    let text = text.trim();
    let page = text.get(..15).unwrap_or(text).to_ascii_lowercase();
    if text.is_empty() || page.starts_with("<!doctype") || page.starts_with("<html") {
        return None;
    }
    Some(match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    })
}

fn build(status: u16, said: Said) -> Error {
    let Said { message, kind, code, param } = said;
    let out_of_money = status == 402 || [&kind, &code].into_iter().flatten().any(|w| w == "insufficient_quota");
    let or = |text: &str| message.clone().unwrap_or_else(|| text.to_owned());
    // A server that fails may speak of what it was called with.
    let failed = |text: &str| message.clone().filter(|m| is_harmless(m)).unwrap_or_else(|| text.to_owned());
    match status {
        401 | 403 | 498 => Error::new(
            Kind::UpstreamAuth,
            format!(
                "the upstream refused the gateway's own credentials ({status}); check the key configured for this provider"
            ),
        ),
        402 | 429 if out_of_money => Error::new(
            Kind::UpstreamRateLimited,
            or("the gateway's account at this provider has no quota left; add credit or choose another model"),
        )
        .with_code("insufficient_quota"),
        429 => Error::new(Kind::UpstreamRateLimited, or("the upstream's rate limit is reached; try again later")),
        408 | 504 => {
            Error::new(Kind::UpstreamTimeout, failed("the upstream took too long; try again or choose another model"))
        }
        503 | 529 => Error::new(Kind::UpstreamOverloaded, failed("the upstream is overloaded; try again later")),
        400..=499 => {
            let text = or(&format!("the upstream refused the request ({status}) without saying why"));
            let mut error = Error::new(Kind::UpstreamRefused, text).with_status(status);
            if let Some(code) = code.filter(|c| c.parse::<u16>().is_err()) {
                error = error.with_code(code);
            }
            match param {
                Some(param) => error.at(param),
                None => error,
            }
        }
        300..=399 => {
            Error::new(Kind::Upstream, format!("the upstream answered with a redirect ({status}); check its base_url"))
        }
        _ => Error::new(
            Kind::Upstream,
            failed(&format!("the upstream failed ({status}); try again or choose another model")),
        ),
    }
}

fn is_harmless(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    !SECRETS.iter().any(|word| message.contains(word))
}

/// For errors without a status.
fn status_of(kind: Option<&str>, code: Option<&str>) -> u16 {
    let says = |words: &[&str]| [kind, code].into_iter().flatten().any(|w| words.iter().any(|x| w.contains(x)));
    if says(&["rate_limit", "insufficient_quota", "too_many_requests"]) {
        429
    } else if says(&["overloaded", "slow_down", "unavailable"]) {
        503
    } else if says(&["timeout"]) {
        504
    } else if says(&["invalid_request", "content_policy", "content_filter", "context_length"]) {
        400
    } else {
        500
    }
}

fn retry_after(header: &dyn Fn(&str) -> Option<String>) -> Option<Duration> {
    let number = |name: &str| header(name)?.trim().parse::<f64>().ok().filter(|s| (0.0..=MAX_WAIT).contains(s));
    let millis = header("retry-after-ms").and_then(|t| t.trim().parse::<f64>().ok()).map(|ms| ms / 1000.0);
    let seconds = millis.filter(|s| (0.0..=MAX_WAIT).contains(s)).or_else(|| number("retry-after"))?;
    Some(Duration::from_secs_f64(seconds))
}

/// The body of an error: all four keys, as the SDKs expect.
pub fn encode(error: &Error) -> Vec<u8> {
    json!({ "error": {
        "message": error.message,
        "type": word(error),
        "param": error.param,
        "code": error.code(),
    }})
    .to_string()
    .into_bytes()
}

fn word(error: &Error) -> &'static str {
    match (error.kind, error.status()) {
        (Kind::BudgetExceeded, _) => "insufficient_quota",
        (_, 429) if error.code() == "insufficient_quota" => "insufficient_quota",
        (_, 429) => "rate_limit_exceeded",
        (_, 403) => "permission_error",
        (_, 408 | 504) => "timeout",
        (_, 413) => "request_too_large",
        (_, 503 | 529) => "overloaded",
        (_, 400..=499) => "invalid_request_error",
        _ => "server_error",
    }
}

/// Words about keys, in small letters.
const SECRETS: [&str; 7] = ["api key", "api-key", "api_key", "sk-", "bearer", "credential", "password"];
/// Characters of an upstream's message that are passed on.
const MAX_MESSAGE: usize = 4000;
/// Seconds: longer waits are taken for nonsense.
const MAX_WAIT: f64 = 7.0 * 86_400.0;
