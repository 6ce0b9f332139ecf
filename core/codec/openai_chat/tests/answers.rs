//! Whole answers, errors, embeddings and lists; hand-written cases only.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::{
    codec::ModelCard,
    error::{Error, Kind},
    model::{
        Choice, Citation, EmbeddingResponse, Finish, FinishReason, Format, Media, MediaKind, MediaSource, Part,
        Reasoning, Signature, Text, ToolCall, ToolKind, Usage,
    },
};

fn answer(message: Value, finish: &str) -> Value {
    json!({"id": "c1", "object": "chat.completion", "created": 5, "model": "m", "choices": [
        {"index": 0, "message": message, "logprobs": null, "finish_reason": finish}]})
}

fn of(parts: Vec<Part>) -> Response {
    let finish = Some(Finish::new(FinishReason::Stop, "end_turn"));
    Response { id: "msg_1".into(), choices: vec![Choice { parts, finish, ..Choice::default() }], ..Response::default() }
}

/// Written for a client and read back as the history it sends.
fn echoed(response: &Response) -> Vec<Part> {
    let message = written(response)["choices"][0]["message"].clone();
    request(&json!({"model": "m", "messages": [message]})).messages.remove(0).parts
}

#[test]
fn an_answer_comes_back_as_it_was() {
    let mut body = answer(
        json!({"role": "assistant", "content": "hi", "refusal": null, "reasoning": "hm", "house": {"a": 1},
            "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1", "index": 0}],
            "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 2}}],
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1.0}"}}]}),
        "tool_calls",
    );
    body["choices"][0]["logprobs"] =
        json!({"content": [{"token": "hi", "logprob": -0.5, "bytes": null, "top_logprobs": []}], "refusal": null});
    body["choices"][0]["content_filter_results"] = json!({"hate": {"filtered": false}});
    body["usage"] = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "queue_time": 0.25,
        "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}});
    body["service_tier"] = json!("default");
    body["system_fingerprint"] = json!("fp");
    let response = response(&body);
    assert_eq!(written(&response), body);
    let Part::Reasoning(reasoning) = &response.choices[0].parts[0] else { panic!("reasoning") };
    assert_eq!(reasoning.signature.as_ref().unwrap().origin, Format::AnthropicMessages);
    let usage = response.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.cache_read_tokens, usage.reasoning_tokens), (Some(9), Some(4), Some(2)));
}

#[test]
fn an_answer_without_choices_is_the_upstreams_fault() {
    for body in [json!({}), json!({"id": "c1", "choices": []}), json!({"choices": [], "usage": {"prompt_tokens": 3}})] {
        let error = CODEC.decode_response(body.to_string().as_bytes()).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (Kind::Upstream, "the upstream's answer has no choices"));
    }
}

#[test]
fn the_legacy_call_comes_back_in_its_own_field() {
    let body = answer(
        json!({"role": "assistant", "content": null, "refusal": null, "function_call": {"name": "f", "arguments": "{}"}}),
        "function_call",
    );
    let response = response(&body);
    assert_eq!(response.choices[0].finish.as_ref().unwrap().reason, FinishReason::ToolCalls);
    assert_eq!(written(&response), body);
}

#[test]
fn a_stop_with_calls_is_told_as_tool_calls_with_the_origins_word_beside_it() {
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}});
    let response = response(&answer(json!({"content": "", "tool_calls": [call]}), "stop"));
    let told = written(&response);
    assert_eq!(told["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(told["choices"][0]["native_finish_reason"], "stop");
    assert_eq!(told["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{}");
    assert_eq!(told["choices"][0]["message"]["content"], Value::Null);
}

#[test]
fn signed_and_sealed_reasoning_survives_the_client() {
    let signature = |origin, data: &str| Some(Signature { origin, data: data.into() });
    let parts = vec![
        Part::Reasoning(Reasoning {
            text: "first".into(),
            signature: signature(Format::AnthropicMessages, "c2lnMQ=="),
            ..Reasoning::default()
        }),
        Part::Reasoning(Reasoning { sealed: signature(Format::AnthropicMessages, "c2VhbA=="), ..Reasoning::default() }),
        Part::text("one"),
        Part::Reasoning(Reasoning { text: "second".into(), ..Reasoning::default() }),
        Part::text("two\u{1F600}"),
        Part::Text(Text { signature: signature(Format::Gemini, "dGV4dA=="), ..Text::default() }),
        Part::Native { format: Format::AnthropicMessages, kind: "server_tool_use".into(), value: json!({"id": "x"}) },
        Part::ToolCall(ToolCall {
            id: "toolu_1".into(),
            name: "f".into(),
            kind: ToolKind::Function,
            arguments: "{\"a\":1}".into(),
            signature: signature(Format::Gemini, "dGg="),
            cache: None,
            extra: Default::default(),
        }),
    ];
    let response = of(parts.clone());
    let told = written(&response);
    let message = &told["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "firstsecond");
    assert_eq!(message["content"], "onetwo\u{1F600}");
    assert_eq!(message["thinking_blocks"][0]["signature"], "c2lnMQ==");
    assert_eq!(message["tool_calls"][0]["id"], "toolu_1");
    assert_eq!(message["tool_calls"][0]["extra_content"], json!({"google": {"thought_signature": "dGg="}}));
    assert_eq!(told["choices"][0]["native_finish_reason"], "end_turn");
    assert_eq!(echoed(&response), parts);
}

#[test]
fn a_picture_comes_back_with_its_signature() {
    let mut media = Media::new(MediaKind::Image, Some("image/png".into()), MediaSource::Base64("iVBORw0KGgo=".into()));
    media.signature = Some(Signature { origin: Format::Gemini, data: "c2ln".into() });
    let response = of(vec![Part::Media(media)]);
    let image = &written(&response)["choices"][0]["message"]["images"][0];
    assert_eq!(image["extra_content"], json!({"google": {"thought_signature": "c2ln"}}));
    assert_eq!(echoed(&response), response.choices[0].parts);
}

#[test]
fn citations_become_annotations_over_the_text_they_stand_at() {
    let cited = |native: Value, url: Option<&str>| Citation {
        url: url.map(str::to_owned),
        cited_text: Some("passage".into()),
        native: Some((Format::AnthropicMessages, native)),
        ..Citation::default()
    };
    let web = json!({"type": "web_search_result_location", "url": "https://a"});
    let page = json!({"type": "page_location", "start_page_number": 1});
    let parts = vec![
        Part::text("Hé "),
        Part::Text(Text {
            text: "there".into(),
            citations: vec![cited(web.clone(), Some("https://a")), cited(page.clone(), None)],
            ..Text::default()
        }),
    ];
    let response = of(parts);
    let annotation = &written(&response)["choices"][0]["message"]["annotations"];
    assert_eq!(annotation.as_array().unwrap().len(), 1);
    assert_eq!(annotation[0]["url_citation"]["start_index"], 3);
    assert_eq!(annotation[0]["url_citation"]["end_index"], 8);
    let back = echoed(&response);
    let Part::Text(text) = &back[1] else { panic!("text") };
    let natives: Vec<_> = text.citations.iter().map(|c| c.native.clone().unwrap()).collect();
    assert_eq!(natives, [(Format::AnthropicMessages, web), (Format::AnthropicMessages, page)]);
    assert_eq!(text.citations[0].url.as_deref(), Some("https://a"));
}

#[test]
fn source_lists_beside_the_choices_become_citations_and_are_not_told_twice() {
    let mut body = answer(json!({"role": "assistant", "content": "x", "refusal": null}), "stop");
    body["citations"] = json!(["https://a", "https://b"]);
    body["search_results"] = json!([{"url": "https://b", "title": "B"}]);
    let response = response(&body);
    let Part::Text(text) = &response.choices[0].parts[0] else { panic!("text") };
    assert_eq!(text.citations[1].title.as_deref(), Some("B"));
    assert_eq!(written(&response), body);

    // The list of URLs is the older one of the two.
    body.as_object_mut().unwrap().remove("citations");
    let response = self::response(&body);
    let Part::Text(text) = &response.choices[0].parts[0] else { panic!("text") };
    let cited: Vec<_> = text.citations.iter().map(|c| (c.url.as_deref(), c.title.as_deref())).collect();
    assert_eq!(cited, [(Some("https://b"), Some("B"))]);
    assert_eq!(written(&response), body);
}

#[test]
fn images_and_audio_have_fields_of_their_own() {
    let media = |kind, mime: &str, data: &str| Media {
        mime: Some(mime.into()),
        ..Media::new(kind, None, MediaSource::Base64(data.into()))
    };
    let parts = vec![
        Part::Media(media(MediaKind::Image, "image/png", "iVBORw0K")),
        Part::Media(media(MediaKind::Audio, "audio/wav", "UklGRg")),
        Part::Media(media(MediaKind::Video, "video/mp4", "AAAA")),
    ];
    let response = of(parts.clone());
    let message = written(&response)["choices"][0]["message"].clone();
    assert_eq!(message["images"][0]["image_url"]["url"], "data:image/png;base64,iVBORw0K");
    assert_eq!(message["audio"]["data"], "UklGRg");
    let back = echoed(&response);
    let sources = |parts: &[Part]| -> Vec<_> {
        parts
            .iter()
            .map(|p| if let Part::Media(m) = p { (m.kind, m.mime.clone(), m.source.clone()) } else { panic!() })
            .collect()
    };
    assert_eq!(sources(&back), sources(&parts));
}

#[test]
fn usage_of_another_format_is_built_and_unknown_figures_stay_away() {
    let usage = Usage {
        input_tokens: Some(10),
        output_tokens: Some(4),
        cache_read_tokens: Some(6),
        reasoning_tokens: Some(3),
        ..Usage::default()
    };
    let response = Response { usage: Some(usage), ..of(vec![Part::text("x")]) };
    assert_eq!(
        written(&response)["usage"],
        json!({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 3}})
    );
    assert!(written(&of(vec![])).get("usage").is_none());
    // A prompt that was refused was read: the SDKs' types want the other figures too.
    let refused = Usage { input_tokens: Some(10), ..Usage::default() };
    let told = written(&Response { usage: Some(refused), ..of(vec![]) });
    assert_eq!(told["usage"], json!({"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}));
}

#[test]
fn the_usual_tier_has_this_formats_word() {
    let told =
        |tier: &str| written(&Response { service_tier: Some(tier.to_owned()), ..of(vec![]) })["service_tier"].take();
    assert_eq!([told("standard"), told("priority")], ["default", "priority"]);
}

#[test]
fn hidden_reasoning_counts_as_output_where_the_total_shows_it() {
    let figures = |usage: Value| {
        let mut body = answer(json!({"content": "x"}), "stop");
        body["usage"] = usage;
        let usage = response(&body).usage.unwrap();
        (usage.input_tokens, usage.output_tokens)
    };
    let hidden = json!({"prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100});
    assert_eq!(figures(hidden), (Some(66), Some(34)));
    let told = json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 17, "completion_tokens_details": {"reasoning_tokens": 10}});
    assert_eq!(figures(told), (Some(5), Some(12)));
    let within = json!({"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17, "completion_tokens_details": {"reasoning_tokens": 10}});
    assert_eq!(figures(within), (Some(5), Some(12)));
    let beside = json!({"prompt_tokens": 293, "completion_tokens": 58, "total_tokens": 351, "prompt_tokens_details": {"cached_tokens": 387}});
    assert_eq!(figures(beside), (Some(680), Some(58)));
}

#[test]
fn thinking_chunks_in_content_are_reasoning() {
    let content =
        json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "hi"}]);
    let told = written(&response(&answer(json!({"content": content}), "stop")));
    assert_eq!(told["choices"][0]["message"]["reasoning_content"], "hm");
    assert_eq!(told["choices"][0]["message"]["content"], "hi");
}

#[test]
fn what_is_no_answer_is_the_upstreams_fault() {
    for body in ["", "<html>", "[]", "{}", "{\"choices\": 5}", "{\"choices\": [{\"message\": 5}]}"] {
        let error = CODEC.decode_response(body.as_bytes()).unwrap_err();
        assert_eq!(error.kind, Kind::Upstream, "{body}");
        assert!(!error.message.contains('<'));
    }
    let error = CODEC.decode_response(br#"{"error": {"message": "slow down", "code": 429}}"#).unwrap_err();
    assert_eq!(error.kind, Kind::UpstreamRateLimited);
}

fn upstream_error(status: u16, body: &str) -> Error {
    CODEC.decode_error(status, &|_| None, &Bytes::from(body.to_owned()))
}

#[test]
fn refusals_are_read_in_every_shape() {
    let openai = r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
    let error = upstream_error(400, openai);
    assert_eq!((error.kind, error.status(), error.code()), (Kind::UpstreamRefused, 400, "context_length_exceeded"));
    assert_eq!((error.message.as_str(), error.param.as_deref()), ("too long", Some("messages")));
    assert_eq!(error.upstream.as_ref().unwrap().body.as_deref(), Some(openai.as_bytes()));
    for (body, message) in [
        (r#"{"detail": "bad model"}"#, "bad model"),
        (r#"{"detail": [{"loc": ["body", "n"], "msg": "not an int", "input": "secret"}]}"#, "body.n: not an int"),
        (r#"{"error": "no such model"}"#, "no such model"),
        (r#"{"message": "wrong"}"#, "wrong"),
        (r#"[{"error": {"message": "listed", "code": 400}}]"#, "listed"),
        ("model is loading", "model is loading"),
    ] {
        let error = upstream_error(422, body);
        assert_eq!((error.message.as_str(), error.status()), (message, 422), "{body}");
        assert!(!error.message.contains("secret"));
    }
    for body in ["", "<html><body>oops</body></html>", r#"{"error": "<!DOCTYPE html><html>"}"#] {
        let error = upstream_error(404, body);
        assert_eq!((error.kind, error.status()), (Kind::UpstreamRefused, 404));
        assert!(!error.message.contains('<'), "{}", error.message);
    }
}

#[test]
fn statuses_become_kinds() {
    for (status, kind, told) in [
        (401, Kind::UpstreamAuth, 502),
        (403, Kind::UpstreamAuth, 502),
        (404, Kind::UpstreamRefused, 404),
        (409, Kind::UpstreamRefused, 409),
        (413, Kind::UpstreamRefused, 413),
        (429, Kind::UpstreamRateLimited, 429),
        (408, Kind::UpstreamTimeout, 504),
        (504, Kind::UpstreamTimeout, 504),
        (503, Kind::UpstreamOverloaded, 503),
        (529, Kind::UpstreamOverloaded, 503),
        (500, Kind::Upstream, 502),
        (302, Kind::Upstream, 502),
    ] {
        let error = upstream_error(status, r#"{"error":{"message":"Incorrect API key provided: sk-abc","code":"x"}}"#);
        assert_eq!((error.kind, error.status()), (kind, told), "{status}");
        if told == 502 {
            assert!(!error.message.contains("sk-abc"));
        }
    }
    for status in [500, 503, 504] {
        let error = upstream_error(status, r#"{"error":{"message":"the engine is loading"}}"#);
        assert_eq!(error.message, "the engine is loading", "{status}");
        assert!(!upstream_error(status, "<html>nginx</html>").message.contains("nginx"));
    }
    let quota = upstream_error(429, r#"{"error":{"message":"no money","code":"insufficient_quota"}}"#);
    assert_eq!((quota.kind, quota.code()), (Kind::UpstreamRateLimited, "insufficient_quota"));
}

#[test]
fn waits_are_read_from_both_headers() {
    let wait = |name: &'static str, value: &'static str| {
        let header = move |asked: &str| (asked == name).then(|| value.to_owned());
        CODEC.decode_error(429, &header, &Bytes::new()).retry_after
    };
    assert_eq!(wait("retry-after", "3"), Some(Duration::from_secs(3)));
    assert_eq!(wait("retry-after-ms", "250"), Some(Duration::from_millis(250)));
    assert_eq!(wait("retry-after", "-5"), None);
    assert_eq!(wait("retry-after", "1e300"), None);
    assert_eq!(wait("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), None);
}

#[test]
fn errors_have_all_four_keys_and_the_familys_words() {
    let told = |error: Error| -> Value { serde_json::from_slice(&CODEC.encode_error(&error, "r")).unwrap() };
    let error = told(Error::invalid("messages[0]", "wrong"));
    assert_eq!(
        error,
        json!({"error": {"message": "wrong", "type": "invalid_request_error", "param": "messages[0]", "code": "invalid_request"}})
    );
    for (kind, word, code) in [
        (Kind::Unauthenticated, "invalid_request_error", "invalid_api_key"),
        (Kind::Forbidden, "permission_error", "forbidden"),
        (Kind::ModelNotFound, "invalid_request_error", "model_not_found"),
        (Kind::RateLimited, "rate_limit_exceeded", "rate_limited"),
        (Kind::BudgetExceeded, "insufficient_quota", "budget_exceeded"),
        (Kind::UpstreamTimeout, "timeout", "upstream_timeout"),
        (Kind::UpstreamAuth, "server_error", "upstream_auth_error"),
        (Kind::UpstreamOverloaded, "overloaded", "upstream_overloaded"),
        (Kind::TooLarge, "request_too_large", "request_too_large"),
    ] {
        let error = told(Error::new(kind, "x"));
        assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!(word), &json!(code)), "{kind:?}");
        assert!(error["error"].as_object().unwrap().contains_key("param"));
    }
}

#[test]
fn vectors_are_written_as_numbers_and_as_base64() {
    let vectors = vec![vec![0.1f32, -2.5], vec![1.0, 0.0]];
    let usage = Some(Usage { input_tokens: Some(4), ..Usage::default() });
    let answer =
        EmbeddingResponse { model: "e".into(), vectors: vectors.clone(), usage, ..EmbeddingResponse::default() };
    for base64 in [false, true] {
        let view = ClientView { base64, ..view() };
        let body = CODEC.encode_embeddings_response(&answer, &view).unwrap();
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["data"][1]["index"], 1);
        assert_eq!(value["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
        if base64 {
            assert_eq!(value["data"][0]["embedding"], "zczMPQAAIMA=");
        } else {
            assert_eq!(value["data"][0]["embedding"].to_string(), "[0.1,-2.5]");
        }
        assert_eq!(CODEC.decode_embeddings_response(&body).unwrap().vectors, vectors);
    }
    let shuffled = br#"{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}]}"#;
    assert_eq!(CODEC.decode_embeddings_response(shuffled).unwrap().vectors, [[1.0], [2.0]]);
    for bad in [
        r#"{"data":[{"embedding":"AAA="}]}"#,
        r#"{"data":[{"embedding":[null]}]}"#,
        r#"{"data":[{"embedding":"1/8A807U"}]}"#,
        "{}",
    ] {
        assert_eq!(CODEC.decode_embeddings_response(bad.as_bytes()).unwrap_err().kind, Kind::Upstream, "{bad}");
    }
}

#[test]
fn models_are_listed_in_the_familys_shape() {
    let card = ModelCard {
        id: "openai/gpt".into(),
        owner: "openai".into(),
        created: 7,
        context_window: Some(9),
        max_output: None,
    };
    let list: Value = serde_json::from_slice(&CODEC.encode_models(std::slice::from_ref(&card))).unwrap();
    let one: Value = serde_json::from_slice(&CODEC.encode_model(&card)).unwrap();
    assert_eq!(
        one,
        json!({"id": "openai/gpt", "object": "model", "created": 7, "owned_by": "openai", "context_window": 9})
    );
    assert_eq!(list, json!({"object": "list", "data": [one]}));
}
