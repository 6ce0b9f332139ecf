//! Errors before a stream and inside it, both ways.

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::error::{Kind, UpstreamFault};

#[test]
fn an_exception_inside_a_stream_is_the_error_that_it_names() {
    for (name, kind, status) in [
        ("throttlingException", Kind::UpstreamRateLimited, 429),
        ("validationException", Kind::UpstreamRefused, 400),
        ("serviceUnavailableException", Kind::UpstreamOverloaded, 503),
        ("internalServerException", Kind::Upstream, 502),
        ("modelStreamErrorException", Kind::Upstream, 502),
        ("aLaterException", Kind::Upstream, 502),
    ] {
        let bytes = frames(&[
            ("messageStart", json!({"role": "assistant"})),
            ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "so far"}})),
            (&format!("!{name}"), json!({"message": "it said"})),
        ]);
        let mut out = Vec::new();
        let mut decoder = BedrockConverse.stream_decoder(&Dialect::of("m"), MAX_EVENT);
        let error = decoder.push(&bytes, &mut out).expect_err("an error");
        assert_eq!((error.kind, error.status(), error.message.as_str()), (kind, status, "it said"), "{name}");
        assert!(error.upstream.is_some(), "{name}: the upstream said it");
        assert_eq!(fold(out).text(), "so far", "{name}: what came before stands");
    }
}

#[test]
fn an_error_that_the_service_has_no_name_for_is_one_all_the_same() {
    let mut bytes = Vec::new();
    crate::codec::eventstream::write(Said::Error, "InternalError", b"it broke", &mut bytes);
    let error = events(&[&bytes]).expect_err("an error");
    assert_eq!((error.kind, error.message.as_str()), (Kind::Upstream, "it broke"));
}

#[test]
fn clients_are_told_by_the_exceptions_that_their_sdks_know() {
    for (kind, word, in_stream) in [
        (Kind::InvalidRequest, "ValidationException", "validationException"),
        (Kind::Unauthenticated, "AccessDeniedException", "validationException"),
        (Kind::Forbidden, "AccessDeniedException", "validationException"),
        (Kind::ModelNotFound, "ResourceNotFoundException", "validationException"),
        (Kind::RateLimited, "ThrottlingException", "throttlingException"),
        (Kind::BudgetExceeded, "ServiceQuotaExceededException", "throttlingException"),
        (Kind::Upstream, "InternalServerException", "internalServerException"),
        (Kind::UpstreamTimeout, "ModelTimeoutException", "modelStreamErrorException"),
        (Kind::UpstreamOverloaded, "ServiceUnavailableException", "serviceUnavailableException"),
    ] {
        let error = Error::new(kind, "what to do");
        assert_eq!(BedrockConverse.error_header(&error), Some(("x-amzn-errortype", word)), "{kind:?}");
        let body: Value = serde_json::from_slice(&BedrockConverse.encode_error(&error, "req_1")).expect("JSON");
        assert_eq!(body, json!({"message": "what to do", "code": error.code()}));
        let mut encoder = BedrockConverse.stream_encoder(&view());
        let mut bytes = Vec::new();
        encoder.error(&error, "req_1", &mut bytes);
        encoder.finish(&mut bytes);
        encoder.keep_alive(&mut bytes);
        assert_eq!(read(&bytes), [(in_stream.to_owned(), body)], "{kind:?}: one frame and no end");
        let frame = crate::codec::eventstream::read(&bytes).expect("a frame");
        assert_eq!(frame.said, Said::Exception);
    }
}

#[test]
fn a_refusal_in_the_familys_own_words_keeps_them() {
    let header = |name: &str| {
        let typed = "ModelErrorException:http://internal.amazon.com/coral/";
        (name == "x-amzn-errortype").then(|| typed.to_owned())
    };
    let error = BedrockConverse.decode_error(424, &header, &Bytes::from_static(br#"{"message":"no"}"#));
    let fault = error.upstream.as_ref().expect("told");
    assert_eq!((fault.kind.as_deref(), fault.status), (Some("ModelErrorException"), 424));
    let not_ready = UpstreamFault { kind: Some("ModelNotReadyException".into()), ..UpstreamFault::default() };
    let error = Error::new(Kind::UpstreamRefused, "soon").with_status(429).from_upstream(not_ready);
    assert_eq!(BedrockConverse.error_header(&error).map(|h| h.1), Some("ModelNotReadyException"));
    let made_up = UpstreamFault { kind: Some("Odd\r\nHeader".into()), ..UpstreamFault::default() };
    let error = Error::new(Kind::UpstreamRefused, "no").from_upstream(made_up);
    assert_eq!(BedrockConverse.error_header(&error).map(|h| h.1), Some("ValidationException"), "only known words");
}
