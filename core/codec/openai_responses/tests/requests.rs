//! Requests: what is kept, what is refused by name, what differs from the vendor's other format.

use serde_json::{Value, json};

use crate::{
    codec::{
        Codec, Dialect, Inbound, anthropic_messages::AnthropicMessages, foreign, gemini::Gemini,
        openai_chat::OpenaiChat, openai_responses::OpenaiResponses,
    },
    model::{Format, Message, Part, Reasoning, Request, Role, Signature, Tool, ToolChoice},
};

fn decode(body: Value) -> Request {
    OpenaiResponses.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap()
}

fn encode(request: &Request, provider: &str) -> (Value, Vec<&'static str>) {
    let dialect = Dialect { provider: provider.to_owned(), ..Dialect::of("m") };
    let encoded = OpenaiResponses.encode_request(request, &dialect).unwrap();
    (Value::Object(encoded.body), encoded.dropped)
}

fn error(body: Value) -> String {
    let e = OpenaiResponses.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap_err();
    e.param.clone().unwrap_or_default()
}

#[test]
fn what_others_ask_for_has_its_own_words_here_or_is_named() {
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "draw"}]}], "labels": {"a": "b"},
        "generationConfig": {"responseModalities": ["TEXT", "IMAGE"], "mediaResolution": "MEDIA_RESOLUTION_LOW"}});
    let inbound = Inbound { model: Some("m"), stream: Some(false), ..Inbound::default() };
    let mut request = Gemini.decode_request(body.to_string().as_bytes(), inbound).unwrap();
    let (sent, dropped) = encode(&request, "openai");
    assert_eq!(sent["tools"], json!([{"type": "image_generation"}]));
    assert_eq!(dropped, ["labels", "media_resolution"]);
    let plain = Dialect { hosted: Some(&["web_search"]), ..Dialect::of("m") };
    let refused = OpenaiResponses.encode_request(&request, &plain).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("image_output"));
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt_cache_key": "k",
        "prediction": {"type": "content", "content": "y"}});
    request = OpenaiChat.decode_request(chat.to_string().as_bytes(), Inbound::default()).unwrap();
    let (sent, dropped) = encode(&request, "openai");
    assert_eq!((&sent["prompt_cache_key"], dropped), (&json!("k"), vec!["prediction"]));
    let (sent, dropped) = encode(&request, "xai");
    assert_eq!((sent.get("prompt_cache_key"), dropped), (None, vec!["prediction", "prompt_cache_key"]));
    let both =
        json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "user": "u", "safety_identifier": "s"});
    request = OpenaiChat.decode_request(both.to_string().as_bytes(), Inbound::default()).unwrap();
    let (sent, dropped) = encode(&request, "openai");
    assert_eq!((&sent["user"], &sent["safety_identifier"], dropped.len()), (&json!("u"), &json!("s"), 0));
    assert_eq!(encode(&request, "xai").1, ["safety_identifier"], "named where it has no place");
}

#[test]
fn a_grammar_of_free_text_crosses_between_both_formats_and_is_named_elsewhere() {
    let (grammar, regex) = (json!({"syntax": "lark", "definition": "start: \"a\""}), json!({"pattern": "a+"}));
    let flat = |kind: &str, fields: &Value| {
        let mut out = fields.clone();
        out["type"] = kind.into();
        out
    };
    let responses = |format: Value| {
        decode(json!({"model": "m", "input": "x", "tools": [
            {"type": "custom", "name": "c", "description": "d", "format": format}]}))
    };
    let chat = |format: Value| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "custom", "custom": {"name": "c", "description": "d", "format": format}}]});
        OpenaiChat.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap()
    };
    for (kind, fields) in [("grammar", grammar), ("regex", regex)] {
        let nested = json!({"type": kind, kind: fields});
        let (flatly, deeply) = (responses(flat(kind, &fields)), chat(nested.clone()));
        let to_chat = OpenaiChat.encode_request(&flatly, &Dialect::of("m")).unwrap();
        assert_eq!(
            to_chat.body["tools"],
            json!([{"type": "custom", "custom": {"name": "c", "description": "d", "format": nested}}])
        );
        let (to_responses, dropped) = encode(&deeply, "openai");
        let wanted = json!([{"type": "custom", "name": "c", "description": "d", "format": flat(kind, &fields)}]);
        assert_eq!((&to_responses["tools"], dropped.len(), to_chat.dropped.len()), (&wanted, 0, 0));
        for request in [&flatly, &deeply] {
            for target in Format::ALL {
                let named = foreign::unread(request, target);
                let has_none = !matches!(target, Format::OpenaiChat | Format::OpenaiResponses);
                assert_eq!(named.contains(&"tools.format".to_owned()), has_none, "{target:?}: {named:?}");
            }
        }
    }
    // That it is plain text is what silence says as well.
    let plain = responses(json!({"type": "text"}));
    let sent = OpenaiChat.encode_request(&plain, &Dialect::of("m")).unwrap().body;
    assert_eq!(sent["tools"][0]["custom"], json!({"name": "c", "description": "d"}));
    assert!(foreign::unread(&plain, Format::Gemini).is_empty());
    assert!(encode(&chat(json!({"type": "text"})), "openai").0["tools"][0].get("format").is_none());
}

#[test]
fn citations_of_a_history_reach_an_upstream_as_annotations_or_are_named() {
    let page = json!({"type": "web_search_result_location", "url": "https://a.example/1", "title": "One",
        "encrypted_index": "e", "cited_text": "much"});
    let place = json!({"type": "char_location", "cited_text": "grass", "document_index": 0, "document_title": "T",
        "start_char_index": 0, "end_char_index": 5});
    let asked = |history: Value| {
        let body = json!({"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "x"},
            {"role": "assistant", "content": [history]}, {"role": "user", "content": "more"}]});
        AnthropicMessages.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap()
    };
    let cited = |citation: &Value| asked(json!({"type": "text", "text": "Much.", "citations": [citation]}));
    for (request, annotated) in [(cited(&page), true), (cited(&place), false)] {
        let (sent, dropped) = encode(&request, "openai");
        assert!(!sent.to_string().contains("provider_specific_fields"), "{sent}");
        assert_eq!(dropped, ["citations"]);
        assert_eq!(sent["input"].to_string().contains("https://a.example/1"), annotated, "{sent}");
    }
    assert!(encode(&asked(json!({"type": "text", "text": "Much."})), "openai").1.is_empty());
    // What such an answer told its client comes back and is read, and is no more for an upstream than it was.
    let specific = json!({"signature": "pc1:gemini:abc", "citations": [
        {"cited_text": "grass", "format": "anthropic_messages", "native": place}]});
    let note =
        json!({"type": "url_citation", "start_index": 0, "end_index": 5, "url": "https://b.example", "title": "B"});
    let part =
        json!({"type": "output_text", "text": "Much.", "annotations": [note], "provider_specific_fields": specific});
    let back = decode(json!({"model": "m", "input": [{"type": "message", "role": "assistant", "content": [part]}]}));
    let Part::Text(text) = &back.messages[0].parts[0] else { panic!("a text") };
    assert_eq!((text.citations.len(), text.signature.is_some()), (2, true));
    let (sent, dropped) = encode(&back, "openai");
    assert_eq!(dropped, ["citations"]);
    assert_eq!(sent["input"][0]["content"][0], json!({"type": "output_text", "annotations": [note], "text": "Much."}));
}

#[test]
fn errors_name_the_field_at_fault() {
    for (body, path) in [
        (json!({"model": "m"}), "input"),
        (json!({"model": "m", "input": 3}), "input"),
        (json!({"model": "m", "input": [{"role": "user"}]}), "input[0].content"),
        (json!({"model": "m", "input": [{"role": "robot", "content": "x"}]}), "input[0].role"),
        (json!({"model": "m", "input": [{"type": "function_call_output", "output": "x"}]}), "input[0].call_id"),
        (json!({"model": "m", "input": [{"type": "function_call", "call_id": "c"}]}), "input[0].name"),
        (json!({"model": "m", "input": "x", "tools": [{"type": "function"}]}), "tools[0].name"),
        (json!({"model": "m", "input": "x", "tool_choice": "maybe"}), "tool_choice"),
        (json!({"model": "m", "input": "x", "max_output_tokens": "many"}), "max_output_tokens"),
        (
            json!({"model": "m", "input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}}),
            "text.format.schema",
        ),
    ] {
        assert_eq!(error(body.clone()), path, "{body}");
    }
}

#[test]
fn a_chat_clients_functions_stay_lenient_where_silence_means_strict() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]});
    let request = OpenaiChat.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap();
    assert_eq!(encode(&request, "openai").0["tools"][0]["strict"], false);
    let own =
        decode(json!({"model": "m", "input": "x", "tools": [{"type": "function", "name": "f", "parameters": {}}]}));
    assert_eq!(encode(&own, "openai").0["tools"][0].get("strict"), None);
}

#[test]
fn what_other_formats_ask_is_kept_by_nobody_and_thoughts_can_be_sent_again() {
    let request = Request {
        model: "m".to_owned(),
        messages: vec![Message::text(Role::User, "x")],
        max_tokens: Some(5),
        ..Request::default()
    };
    let (body, dropped) = encode(&request, "openai");
    assert_eq!(body["store"], false);
    assert_eq!(body["include"], json!(["reasoning.encrypted_content"]));
    // Its least.
    assert_eq!((body["max_output_tokens"].as_u64(), dropped), (Some(16), vec!["max_tokens"]));
    let plain = Dialect { reasons: false, ..Dialect::of("m") };
    assert!(!OpenaiResponses.encode_request(&request, &plain).unwrap().body.contains_key("include"));
}

#[test]
fn thoughts_go_back_only_to_who_made_them() {
    let thought = |signature: Option<Signature>| Request {
        messages: vec![
            Message::text(Role::User, "q"),
            Message::new(
                Role::Assistant,
                vec![
                    Part::Reasoning(Reasoning { text: "hm".to_owned(), signature, ..Reasoning::default() }),
                    Part::text("a"),
                ],
            ),
        ],
        ..Request::default()
    };
    let own = Signature { origin: Format::OpenaiResponses, data: "gAAA".to_owned() };
    let (body, dropped) = encode(&thought(Some(own)), "openai");
    assert_eq!(body["input"][1]["encrypted_content"], "gAAA");
    assert!(dropped.is_empty());
    let other = Signature { origin: Format::AnthropicMessages, data: "Eq".to_owned() };
    for signature in [Some(other), None] {
        let (body, dropped) = encode(&thought(signature), "openai");
        assert_eq!(body["input"].as_array().unwrap().len(), 2, "{body}");
        assert_eq!(dropped, ["reasoning"]);
    }
    // A server that takes its thoughts in the clear gets them.
    let open = Dialect { reasoning_field: Some("reasoning_content"), ..Dialect::of("m") };
    let body = OpenaiResponses.encode_request(&thought(None), &open).unwrap().body;
    assert_eq!(body["input"][1]["content"][0]["text"], "hm");
}

#[test]
fn an_edited_request_keeps_its_items_as_they_were() {
    let body = json!({"model": "m", "instructions": "Be brief.", "store": false, "input": [
        {"role": "user", "content": "q"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}], "encrypted_content": "gA"},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": "commentary", "content": [
            {"type": "output_text", "text": "x", "annotations": []}, {"type": "output_text", "text": "y", "annotations": []}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "namespace": "n", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "t", "mark": 1}]},
        {"type": "item_reference", "id": "msg_0"},
        {"type": "computer_call_output", "call_id": "c2", "output": {"type": "computer_screenshot", "file_id": "f"}},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "gB"},
    ]});
    let (written, dropped) = encode(&decode(body.clone()), "openai");
    assert!(dropped.is_empty(), "{dropped:?}");
    assert_eq!(written["instructions"], "Be brief.");
    let (was, is) = (body["input"].as_array().unwrap(), written["input"].as_array().unwrap());
    assert_eq!(was.len(), is.len(), "{written:#}");
    for (was, is) in was.iter().zip(is) {
        for (key, value) in was.as_object().unwrap() {
            assert_eq!(is.get(key), Some(value), "{key} of {was}");
        }
    }
}

#[test]
fn a_choice_of_the_vendors_tool_stays_as_it_was_said() {
    let body =
        json!({"model": "m", "input": "x", "tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}});
    let request = decode(body.clone());
    assert_eq!(request.tool_choice, Some(ToolChoice::Required));
    assert!(matches!(&request.tools[0], Tool::Hosted { kind, .. } if kind == "web_search"));
    assert_eq!(encode(&request, "openai").0["tool_choice"], body["tool_choice"]);
    let refused = OpenaiChat.encode_request(&request, &Dialect::of("m")).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("web_search"));
}

#[test]
fn prompt_templates_are_refused_for_others_and_kept_here() {
    let request = decode(json!({"model": "m", "prompt": {"id": "pmpt_1"}, "input": "x"}));
    assert_eq!(encode(&request, "openai").0["prompt"]["id"], "pmpt_1");
    let refused = OpenaiChat.encode_request(&request, &Dialect::of("m")).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("prompt"));
}

#[test]
fn counts_take_only_what_weighs() {
    let request = decode(json!({"model": "m", "input": "x", "max_output_tokens": 99, "temperature": 1, "store": true,
        "instructions": "Be brief.", "tools": [{"type": "function", "name": "f", "parameters": {}}]}));
    let body = OpenaiResponses.encode_count(&request, &Dialect::of("m")).unwrap().unwrap().body;
    let keys: Vec<&str> = body.keys().map(String::as_str).collect();
    assert_eq!(keys, ["model", "instructions", "input", "tools"]);
    assert_eq!(OpenaiResponses.decode_count(br#"{"object":"response.input_tokens","input_tokens":11}"#).unwrap(), 11);
    assert!(OpenaiResponses.decode_count(b"{}").is_err());
}

#[test]
fn names_are_told_as_dropped_and_openais_own_cache_marks_go_to_servers_that_no_row_names() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "name": "bob", "content": [
        {"type": "text", "text": "long", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}},
        {"type": "text", "text": "q"}]}]});
    let asked = OpenaiChat.decode_request(chat.to_string().as_bytes(), Inbound::default()).unwrap();
    let unknown = Dialect { assumed: true, ..Dialect::of("m") };
    let encoded = OpenaiResponses.encode_request(&asked, &unknown).unwrap();
    let mark = json!({"mode": "explicit", "ttl": "30m"});
    assert_eq!(encoded.body["input"][0]["content"][0]["prompt_cache_breakpoint"], mark);
    assert_eq!(encoded.dropped, ["name"]);
    assert_eq!(encode(&asked, "xai").1, ["name", "cache_control"]);
    // Another family's mark is no word of theirs.
    let other = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]}]});
    let asked = OpenaiChat.decode_request(other.to_string().as_bytes(), Inbound::default()).unwrap();
    assert_eq!(OpenaiResponses.encode_request(&asked, &unknown).unwrap().dropped, ["cache_control"]);
}

#[test]
fn sound_keeps_the_word_that_the_other_vendor_has_for_it() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}}]}]});
    let asked = OpenaiChat.decode_request(chat.to_string().as_bytes(), Inbound::default()).unwrap();
    let there = Gemini.encode_request(&asked, &Dialect::of("gemini-2.5-flash")).unwrap();
    assert_eq!(there.body["contents"][0]["parts"][0]["inlineData"]["mimeType"], "audio/mp3");
    let back = OpenaiChat.encode_request(&asked, &Dialect::of("m")).unwrap();
    assert_eq!(back.body["messages"][0]["content"][0]["input_audio"]["format"], "mp3");
}

#[test]
fn thinking_as_the_model_likes_is_said_where_its_default_is_not_known() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "q"}], "reasoning": {"enabled": true}});
    let asked = OpenaiChat.decode_request(chat.to_string().as_bytes(), Inbound::default()).unwrap();
    for (model, assumed, effort) in
        [("glm-5", true, Some("medium")), ("gpt-5.2", false, Some("medium")), ("o3", false, None)]
    {
        let dialect = Dialect { assumed, ..Dialect::of(model) };
        let encoded = OpenaiResponses.encode_request(&asked, &dialect).unwrap();
        let told = encoded.body.get("reasoning").and_then(|reasoning| reasoning.get("effort")?.as_str());
        assert_eq!(told, effort, "{model}");
    }
}
