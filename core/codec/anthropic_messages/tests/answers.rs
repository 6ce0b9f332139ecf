//! Whole answers: what answers of other families become here, and what is given back as it was.

use serde_json::{Value, json};

use crate::{
    codec::{ClientView, Codec, anthropic_messages::AnthropicMessages, codec},
    error::Kind,
    model::{
        Choice, Citation, Extra, Finish, FinishReason, Format, Part, Reasoning, Response, Signature, Text, ToolCall,
        ToolKind, Usage,
    },
};

fn written(response: &Response) -> Value {
    let view = ClientView { model: "asked".to_owned(), request_id: "req_1".to_owned(), ..ClientView::default() };
    let bytes = AnthropicMessages.encode_response(response, &view).expect("encodes");
    serde_json::from_slice(&bytes).expect("is JSON")
}

fn answer(parts: Vec<Part>, finish: Option<Finish>) -> Response {
    let choice = Choice { parts, finish, ..Choice::default() };
    Response { id: "chatcmpl-7".to_owned(), model: "gpt".to_owned(), choices: vec![choice], ..Response::default() }
}

#[test]
fn ids_and_models_that_are_missing_are_filled_in() {
    assert_eq!(written(&answer(Vec::new(), None))["id"], json!("msg_chatcmpl-7"));
    let empty = written(&Response::default());
    assert_eq!((&empty["id"], &empty["model"]), (&json!("msg_req_1"), &json!("asked")));
    assert_eq!((&empty["stop_reason"], &empty["content"]), (&Value::Null, &json!([])));
}

#[test]
fn stop_reasons_keep_the_vendors_word_and_never_invent_one() {
    use FinishReason::{ContentFilter, Length, Malformed, Other, Stop, ToolCalls};
    for (reason, raw, expected) in [
        (Stop, "pause_turn", "pause_turn"),
        (Length, "model_context_window_exceeded", "model_context_window_exceeded"),
        (Stop, "stop", "end_turn"),
        (Stop, "STOP", "end_turn"),
        (Length, "MAX_TOKENS", "max_tokens"),
        (ToolCalls, "tool_calls", "tool_use"),
        (ContentFilter, "RECITATION", "refusal"),
        (Malformed, "MALFORMED_FUNCTION_CALL", "end_turn"),
        (Other, "eos", "end_turn"),
        // A stage that changed the reason is heard, whatever the raw word was.
        (ContentFilter, "end_turn", "refusal"),
    ] {
        let body = written(&answer(vec![Part::text("x")], Some(Finish::new(reason, raw))));
        assert_eq!(body["stop_reason"], json!(expected), "{raw}");
    }
    let body = written(&answer(vec![Part::text("x")], Some(Finish::new(ContentFilter, "RECITATION"))));
    assert_eq!(body["stop_details"]["explanation"], json!("RECITATION"));
    let refused = written(&answer(vec![Part::Refusal("No.".to_owned())], Some(Finish::new(Stop, "stop"))));
    assert_eq!((&refused["stop_reason"], &refused["content"][0]["text"]), (&json!("refusal"), &json!("No.")));
}

#[test]
fn usage_of_other_families_leaves_cached_tokens_out_of_the_input() {
    let usage = Usage {
        input_tokens: Some(100),
        output_tokens: Some(50),
        cache_read_tokens: Some(60),
        cache_write_tokens: Some(10),
        reasoning_tokens: Some(40),
        ..Usage::default()
    };
    let response = Response { usage: Some(usage.clone()), ..answer(Vec::new(), None) };
    let body = written(&response);
    assert_eq!(
        body["usage"],
        json!({"input_tokens": 30, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 60, "output_tokens": 50,
            "output_tokens_details": {"thinking_tokens": 40}})
    );
    let again = AnthropicMessages
        .decode_response(body.to_string().as_bytes())
        .expect("decodes")
        .usage
        .map(|u| Usage { native: None, ..u });
    assert_eq!(again, Some(usage));
}

#[test]
fn reasoning_of_others_keeps_its_proof_under_a_tag() {
    let gemini = |data: &str| Some(Signature { origin: Format::Gemini, data: data.to_owned() });
    let parts = vec![
        Part::Reasoning(Reasoning { text: "a".to_owned(), signature: gemini("c2ln"), ..Reasoning::default() }),
        Part::Reasoning(Reasoning { text: "b".to_owned(), ..Reasoning::default() }),
        Part::ToolCall(ToolCall {
            id: String::new(),
            name: "x".to_owned(),
            kind: ToolKind::Function,
            arguments: String::new(),
            signature: gemini("Y2FsbA=="),
            cache: None,
            extra: Extra::default(),
        }),
        Part::Text(Text { text: "done".to_owned(), signature: gemini("dGV4dA=="), ..Text::default() }),
    ];
    let body = written(&answer(parts.clone(), None));
    assert_eq!(body["content"][0]["signature"], json!("pc1:gemini:c2ln"));
    assert_eq!(body["content"][1], json!({"type": "thinking", "thinking": "b", "signature": ""}));
    assert!(
        body["content"][2]["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("toolu_") && id.ends_with("__thought__Y2FsbA=="))
    );
    let again = AnthropicMessages.decode_response(body.to_string().as_bytes()).expect("decodes");
    let again = &again.choices[0].parts;
    assert_eq!((&again[0], &again[1], &again[3]), (&parts[0], &parts[1], &parts[3]));
    assert!(matches!(&again[2], Part::ToolCall(call) if call.signature == gemini("Y2FsbA==")));
}

#[test]
fn url_citations_of_others_become_citations_that_come_back_as_theirs() {
    let citation = Citation {
        url: Some("https://e.org".to_owned()),
        title: Some("E".to_owned()),
        start: Some(0),
        end: Some(4),
        native: Some((Format::OpenaiChat, json!({"type": "url_citation"}))),
        ..Citation::default()
    };
    let text = Text { text: "Said".to_owned(), citations: vec![citation.clone()], ..Text::default() };
    let body = written(&answer(vec![Part::Text(text)], None));
    assert_eq!(body["content"][0]["citations"][0]["type"], json!("web_search_result_location"));
    let again = AnthropicMessages.decode_response(body.to_string().as_bytes()).expect("decodes");
    let Part::Text(text) = &again.choices[0].parts[0] else { unreachable!() };
    assert_eq!(text.citations, [Citation { native: None, ..citation }]);
}

#[test]
fn a_place_in_a_document_has_the_same_words_at_bedrock() {
    for (here, there) in [
        (
            json!({"type": "page_location", "cited_text": "green", "document_index": 1, "document_title": "D",
                "start_page_number": 2, "end_page_number": 3}),
            json!({"documentPage": {"documentIndex": 1, "start": 2, "end": 3}}),
        ),
        (
            json!({"type": "char_location", "cited_text": "green", "document_index": 0, "document_title": "D",
                "start_char_index": 4, "end_char_index": 9}),
            json!({"documentChar": {"documentIndex": 0, "start": 4, "end": 9}}),
        ),
    ] {
        let content = json!([{"type": "text", "text": "it is", "citations": [here]}]);
        let body = json!({"id": "m", "type": "message", "role": "assistant", "model": "c", "content": content,
            "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}});
        let told = AnthropicMessages.decode_response(body.to_string().as_bytes()).expect("decodes");
        let bedrock = codec(Format::BedrockConverse);
        let bytes = bedrock.encode_response(&told, &ClientView::default()).expect("written");
        let value: Value = serde_json::from_slice(&bytes).expect("JSON");
        let cited = &value["output"]["message"]["content"][0]["citationsContent"]["citations"][0];
        assert_eq!(cited, &json!({"title": "D", "sourceContent": [{"text": "green"}], "location": there}));
        let back = written(&bedrock.decode_response(&bytes).expect("decodes"));
        let mut same = here.clone();
        same["file_id"] = Value::Null;
        same["encrypted_index"] = json!("");
        assert_eq!(back["content"][0]["citations"][0], same);
    }
}

#[test]
fn foreign_pieces_stand_beside_the_content() {
    let native =
        Part::Native { format: Format::Gemini, kind: "executableCode".to_owned(), value: json!({"code": "1"}) };
    let body = written(&answer(vec![native, Part::text("x")], None));
    assert_eq!(body["content"], json!([{"type": "text", "text": "x"}]));
    assert_eq!(
        body["portcullis_native"],
        json!([{"format": "gemini", "type": "executableCode", "value": {"code": "1"}}])
    );
}

#[test]
fn an_answer_of_its_own_comes_back_field_by_field() {
    let body = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
        "content": [
            {"type": "thinking", "thinking": "t", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ=="},
            {"type": "text", "text": "a", "citations": [{"type": "page_location", "cited_text": "c", "document_index": 0, "start_page_number": 1, "end_page_number": 2}]},
            {"type": "tool_use", "id": "toolu_1", "name": "x", "input": {"n": 1.50, "a": []}, "caller": {"type": "direct"}},
            {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "y", "server_name": "s", "input": {}},
            {"type": "unheard_of", "later": [1]},
        ],
        "stop_reason": "refusal", "stop_sequence": null,
        "stop_details": {"type": "refusal", "category": "cyber", "explanation": null},
        "container": {"id": "c"},
        "usage": {"input_tokens": 1, "output_tokens": 2, "server_tool_use": null, "speed": "fast"},
    });
    let response = AnthropicMessages.decode_response(body.to_string().as_bytes()).expect("decodes");
    assert_eq!(written(&response), body);
}

#[test]
fn what_is_no_answer_is_the_upstreams_fault() {
    for body in ["", "<html>no</html>", "[]", "{}", r#"{"type":"message","content":[{"type":"text"}]}"#] {
        let error = AnthropicMessages.decode_response(body.as_bytes()).expect_err(body);
        assert_eq!(error.kind, Kind::Upstream, "{body}");
        assert!(!error.message.contains("html"));
    }
    let late =
        AnthropicMessages.decode_response(br#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#);
    assert_eq!(late.err().map(|e| e.kind), Some(Kind::UpstreamOverloaded));
}
