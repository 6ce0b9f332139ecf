//! Errors: an upstream's refusal, read, and told to clients of every family in that family's shape.

use bytes::Bytes;
use portcullis::{
    codec::codec,
    error::{Error, Kind},
    model::Format,
};
use serde_json::Value;

use super::cases;

#[test]
fn refusals_are_told_in_every_family() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for case in cases::all() {
        let Some(error) = case.json("error.json") else { continue };
        seen += 1;
        let status = error["status"].as_u64().unwrap() as u16;
        let body = match error.get("text") {
            Some(text) => text.as_str().unwrap().to_owned(),
            None => error["body"].to_string(),
        };
        let header = |name: &str| error["headers"][name].as_str().map(str::to_owned);
        let decoded = codec(case.format).decode_error(status, &header, &Bytes::from(body));
        if let Some(expected) = error["expect"].as_str().filter(|code| decoded.kind.facts().1 != *code) {
            faults.push(format!("{case}: is {:?}, should be {expected}", decoded.kind));
        }
        for client in Format::ALL {
            faults
                .extend(told(&decoded, status, client).into_iter().map(|f| format!("{case} → {}: {f}", client.name())));
        }
    }
    assert!(seen >= 5, "only {seen} errors");
    cases::report(&faults);
}

/// What is wrong with the error as a client of `client` gets it.
pub fn told(error: &Error, status: u16, client: Format) -> Vec<String> {
    let mut faults = Vec::new();
    let bytes = codec(client).encode_error(error, "req_golden");
    let body: Value = match serde_json::from_slice(&bytes) {
        Ok(body) => body,
        Err(e) => return vec![format!("not JSON: {e}")],
    };
    let shape: &[&str] = match client {
        Format::OpenaiChat | Format::OpenaiResponses => &["/error/message", "/error/type", "/error/code"],
        Format::AnthropicMessages => {
            &["/type", "/error/type", "/error/message", "/error/details/error_code", "/request_id"]
        }
        Format::Gemini => &["/error/code", "/error/message", "/error/status"],
        Format::BedrockConverse | Format::Cohere => &["/message"],
        Format::Ollama => &["/error"],
    };
    faults.extend(
        shape.iter().filter(|at| body.pointer(at).is_none_or(Value::is_null)).map(|at| format!("no {at} in {body}")),
    );
    let text = body.to_string();
    for secret in ["<html", "sk-ant-secret", "sk-secret"] {
        if text.contains(secret) {
            faults.push(format!("shows `{secret}`"));
        }
    }
    let right = match status {
        401..=403 => error.status() == 502,
        // A quota that is used up says 400 in one family.
        400 if error.kind == Kind::UpstreamRateLimited => error.status() == 429,
        400 | 404 | 409 | 413 | 422 => error.status() == status || error.status() == 502,
        429 => error.status() == 429,
        _ => error.status() >= 500,
    };
    if !right {
        faults.push(format!("{status} became {}", error.status()));
    }
    if error.upstream.as_ref().is_none_or(|fault| fault.status != status) {
        faults.push("what the upstream said is lost".to_owned());
    }
    faults
}
