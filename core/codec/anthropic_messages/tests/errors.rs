//! Errors, both ways: statuses, words, and what must never be shown.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    codec::{Codec, anthropic_messages::AnthropicMessages},
    error::{Error, Kind},
};

fn decode(status: u16, body: &str) -> Error {
    let header = |name: &str| (name == "retry-after").then(|| "17".to_owned());
    AnthropicMessages.decode_error(status, &header, &Bytes::from(body.to_owned()))
}

fn encode(error: &Error) -> Value {
    serde_json::from_slice(&AnthropicMessages.encode_error(error, "req_1")).expect("is JSON")
}

#[test]
fn each_status_is_read_as_what_it_means() {
    use Kind::{Upstream, UpstreamAuth, UpstreamOverloaded, UpstreamRateLimited, UpstreamRefused, UpstreamTimeout};
    for (status, kind, told) in [
        (400, UpstreamRefused, 400),
        (401, UpstreamAuth, 502),
        (402, UpstreamAuth, 502),
        (403, UpstreamAuth, 502),
        (404, UpstreamRefused, 404),
        (408, UpstreamTimeout, 504),
        (409, UpstreamRefused, 409),
        (413, UpstreamRefused, 413),
        (422, UpstreamRefused, 422),
        (429, UpstreamRateLimited, 429),
        (500, Upstream, 502),
        (503, UpstreamOverloaded, 503),
        (504, UpstreamTimeout, 504),
        (529, UpstreamOverloaded, 503),
        (302, Upstream, 502),
    ] {
        let error =
            decode(status, r#"{"type":"error","error":{"type":"some_error","message":"why"},"request_id":"req_up"}"#);
        assert_eq!((error.kind, error.status()), (kind, told), "{status}");
        let fault = error.upstream.as_ref().expect("what the upstream said");
        assert_eq!((fault.status, fault.request_id.as_deref()), (status, Some("req_up")));
        assert_eq!(error.retry_after, Some(Duration::from_secs(17)));
        assert_eq!(error.message == "why", !matches!(kind, UpstreamAuth), "{status}");
    }
}

#[test]
fn html_and_words_about_our_key_are_never_shown() {
    let page = decode(502, "<html><h1>Bad Gateway</h1></html>");
    assert!(!page.message.contains('<') && page.upstream.as_ref().is_some_and(|fault| fault.body.is_none()));
    assert!(!decode(400, r#"{"error":"<b>no</b>"}"#).message.contains('<'));
    assert!(!encode(&decode(401, r#"{"error":{"message":"bad key sk-ant-1"}}"#)).to_string().contains("sk-ant"));
}

#[test]
fn our_errors_speak_the_familys_words() {
    for (kind, word) in [
        (Kind::InvalidRequest, "invalid_request_error"),
        (Kind::Unauthenticated, "authentication_error"),
        (Kind::Forbidden, "permission_error"),
        (Kind::ModelNotFound, "not_found_error"),
        (Kind::MethodNotAllowed, "invalid_request_error"),
        (Kind::TooLarge, "request_too_large"),
        (Kind::RateLimited, "rate_limit_error"),
        (Kind::BudgetExceeded, "billing_error"),
        (Kind::UpstreamAuth, "api_error"),
        (Kind::Overloaded, "overloaded_error"),
        (Kind::UpstreamTimeout, "timeout_error"),
        (Kind::Internal, "api_error"),
    ] {
        let error = Error::new(kind, "do this next");
        assert_eq!(
            encode(&error),
            json!({"type": "error", "error": {"type": word, "message": "do this next", "details": {"error_code": error.code()}},
                "request_id": "req_1"})
        );
    }
}

#[test]
fn a_refusal_keeps_the_upstreams_word_and_names_our_field() {
    let refused = decode(400, r#"{"type":"error","error":{"type":"conflict_error","message":"why"}}"#);
    assert_eq!(encode(&refused)["error"]["type"], json!("conflict_error"));
    let ours = Error::invalid("messages[2].content", "`messages[2].content` is required and missing");
    assert_eq!(encode(&ours)["error"]["details"]["param"], json!("messages[2].content"));
}
