//! Answers of other families for a client of this one, and the figures of its own.

use serde_json::json;

use super::*;
use crate::model::{
    Choice, Citation, Finish, FinishReason, Media, MediaKind, MediaSource, Part, Reasoning, Signature, Text, ToolCall,
    ToolKind,
};

fn answer(parts: Vec<Part>, reason: FinishReason) -> Response {
    let finish = Some(Finish::new(reason, "as another family says it"));
    Response { choices: vec![Choice { parts, finish, ..Choice::default() }], ..Response::default() }
}

fn signed(origin: Format, data: &str) -> Option<Signature> {
    Some(Signature { origin, data: data.to_owned() })
}

#[test]
fn what_other_families_say_reaches_a_client_in_blocks_of_one_member() {
    let cited = Text {
        text: "It rose.".to_owned(),
        citations: vec![Citation { url: Some("https://e.org".into()), title: Some("E".into()), ..Citation::default() }],
        ..Text::default()
    };
    let thought =
        Reasoning { text: "why".into(), signature: signed(Format::AnthropicMessages, "sig"), ..Reasoning::default() };
    let sealed = Reasoning { sealed: signed(Format::AnthropicMessages, "abc"), ..Reasoning::default() };
    let signed_text = Text { text: "so".into(), signature: signed(Format::Gemini, "g"), ..Text::default() };
    let call = ToolCall {
        id: String::new(),
        name: "f".into(),
        kind: ToolKind::Custom,
        arguments: "free \"text\"".into(),
        signature: None,
        cache: None,
        extra: Default::default(),
    };
    let sound = Media::new(MediaKind::Audio, Some("audio/wav".into()), MediaSource::Base64("UklG".into()));
    let parts = vec![
        Part::Reasoning(thought),
        Part::Reasoning(sealed),
        Part::Text(cited),
        Part::Text(signed_text),
        Part::ToolCall(call),
        Part::Media(sound),
    ];
    let body = written(&answer(parts, FinishReason::Stop));
    let content = body["output"]["message"]["content"].as_array().expect("content").clone();
    assert!(content.iter().all(|block| block.as_object().is_some_and(|o| o.len() == 1)), "{body}");
    assert_eq!(content[0]["reasoningContent"]["reasoningText"]["signature"], "pc1:anthropic_messages:sig");
    // A blob: clients decode it from base64.
    assert_eq!(content[1]["reasoningContent"]["redactedContent"], "cGMxOmFudGhyb3BpY19tZXNzYWdlczphYmM=");
    assert_eq!(content[2]["citationsContent"]["citations"][0]["location"]["web"]["url"], "https://e.org");
    assert_eq!(content[4]["reasoningContent"]["reasoningText"]["signature"], "pc1:gemini:g");
    assert_eq!(content[5]["toolUse"]["input"], json!({"input": "free \"text\""}));
    assert_eq!(body["additionalModelResponseFields"]["portcullis_native"][0]["type"], "audio");
    assert_eq!(body["stopReason"], "tool_use", "calls were made, whatever the other family says");
    let again = BedrockConverse.decode_response(body.to_string().as_bytes()).expect("an answer");
    let Part::Reasoning(sealed) = &again.choices[0].parts[1] else { panic!("sealed") };
    assert_eq!(sealed.sealed, signed(Format::AnthropicMessages, "abc"), "it comes back to its maker");
}

#[test]
fn finishes_keep_their_meaning() {
    for (reason, word) in [
        (FinishReason::Stop, "end_turn"),
        (FinishReason::Length, "max_tokens"),
        (FinishReason::ToolCalls, "tool_use"),
        (FinishReason::ContentFilter, "content_filtered"),
        (FinishReason::Malformed, "malformed_model_output"),
        (FinishReason::Other, "end_turn"),
    ] {
        assert_eq!(written(&answer(vec![Part::text("x")], reason))["stopReason"], word);
    }
    assert_eq!(
        written(&answer(vec![Part::Refusal("no".into())], FinishReason::Stop))["stopReason"],
        "content_filtered"
    );
}

#[test]
fn cached_tokens_stand_beside_the_others_here_and_among_them_in_the_model() {
    let native = json!({"inputTokens": 3, "outputTokens": 227, "totalTokens": 1942, "cacheReadInputTokens": 10,
        "cacheWriteInputTokens": 1702, "cacheDetails": [{"ttl": "5m", "inputTokens": 702}, {"ttl": "1h", "inputTokens": 1000}]});
    let usage = BedrockConverse.read_usage(native.to_string().as_bytes()).expect("usage");
    assert_eq!((usage.input_tokens, usage.output_tokens), (Some(1715), Some(227)));
    assert_eq!((usage.cache_read_tokens, usage.cache_write_tokens), (Some(10), Some(1702)));
    assert_eq!(usage.cache_write_1h_tokens, Some(1000));
    assert_eq!(usage.total_tokens(), Some(1942), "as the vendor sums it");
    let foreign = Usage { native: None, reasoning_tokens: Some(7), ..usage };
    let body = written(&Response { usage: Some(foreign.clone()), ..Response::default() });
    assert_eq!(body["usage"]["inputTokens"], 3);
    assert_eq!(body["usage"]["totalTokens"], 1942);
    let mut again = BedrockConverse.read_usage(body["usage"].to_string().as_bytes()).expect("usage");
    again.native = None;
    assert_eq!(again, foreign);
}

#[test]
fn what_is_no_answer_is_an_upstreams_fault() {
    for body in
        ["{}", "[]", "null", r#"{"output":{}}"#, r#"{"output":{"message":{}}}"#, r#"{"message":"no"}"#, "<html>"]
    {
        let error = BedrockConverse.decode_response(body.as_bytes()).expect_err(body);
        assert_eq!(error.kind, crate::error::Kind::Upstream, "{body}");
    }
}
