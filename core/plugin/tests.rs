//! What crosses between model and guest, without a guest; real ones are in `guests`.

use serde_json::{Value, json};

use super::{
    bind::types::{self, Edit, TextKind},
    from_guest::{self, Wrong},
    grant::{Grants, Import, import},
    texts, to_guest,
};
use crate::{
    codec::{Dialect, Inbound, document::Document},
    model::{Format, Operation, Part, Response, fold::unfold},
};

mod guests;
mod imports;
mod kept;

/// Every place of a chat request where a caller can put a word.
fn everywhere() -> Value {
    json!({
        "model": "mock",
        "user": "SECRET user",
        "metadata": {"note": "SECRET metadata", "SECRET key": "x"},
        "stop": ["SECRET stop"],
        "unheard_of": {"deep": ["SECRET unknown", {"number": 4111111111111111u64}]},
        "tools": [{"type": "function", "function": {
            "name": "find", "description": "SECRET description",
            "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "SECRET schema"}}},
        }}],
        "messages": [
            {"role": "system", "content": "SECRET system"},
            {"role": "user", "name": "SECRETname", "content": [
                {"type": "text", "text": "SECRET text", "oddity": "SECRET part field"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {
                "name": "find", "arguments": "{\"who\": \"SECRET \\u0061rgument\", \"deep\": {\"SECRET name\": [\"SECRET list\"]}}",
            }}]},
            {"role": "tool", "tool_call_id": "c1", "content": "SECRET result"},
        ],
    })
}

fn document(body: &Value) -> Document {
    Document::new(Format::OpenaiChat, body.to_string().into(), Inbound::default()).unwrap()
}

fn patched(doc: &mut Document) -> String {
    let (pieces, _) = doc.patch(&Dialect::of("mock"), false).unwrap();
    String::from_utf8(pieces.concat()).unwrap()
}

fn mask(doc: &mut Document) {
    let (texts, _) = texts::of_request(doc, Operation::Chat).unwrap();
    let secret = |text: &types::Text| text.text.contains("SECRET") || text.kind == TextKind::Number;
    let edits = texts
        .iter()
        .filter(|t| secret(t))
        .map(|t| Edit::Text((t.id, t.text.replace("SECRET", "MASK").replace("4111", "MASK"))));
    from_guest::edit_request(edits.collect(), Operation::Chat, doc, None).unwrap();
}

#[test]
fn every_string_of_a_request_is_seen_and_can_be_rewritten() {
    let mut doc = document(&everywhere());
    let before = everywhere().to_string().matches("SECRET").count();
    let (texts, unread) = texts::of_request(&mut doc, Operation::Chat).unwrap();
    let found = texts.iter().filter(|t| t.text.contains("SECRET")).count();
    assert_eq!(found, before, "{texts:#?}");
    assert_eq!(unread.iter().map(|u| u.kind.as_str()).collect::<Vec<_>>(), ["image"]);
    // Escapes are gone for whoever looks.
    assert!(texts.iter().any(|t| t.text == "SECRET argument" && t.kind == TextKind::Arguments));
    mask(&mut doc);
    let sent = patched(&mut doc);
    assert!(!sent.contains("SECRET") && !sent.contains("4111"), "{sent}");
    assert_eq!(sent.matches("MASK").count(), before + 1);
    // What was not touched is as it was.
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["messages"][1]["content"][1], everywhere()["messages"][1]["content"][1]);
    assert_eq!(sent["messages"][2]["tool_calls"][0]["id"], "c1");
    assert_eq!(sent["tools"][0]["function"]["parameters"]["properties"]["q"]["type"], "string");
}

#[test]
fn nothing_of_a_masked_request_reaches_another_format() {
    for format in Format::ALL {
        let mut body = everywhere();
        body["messages"][1]["content"] = json!("SECRET text");
        let mut doc = document(&body);
        mask(&mut doc);
        let sent = Value::Object(doc.encode(format, &Dialect::of("mock")).unwrap().body).to_string();
        assert!(!sent.contains("SECRET") && !sent.contains("4111"), "{}: {sent}", format.name());
    }
}

#[test]
fn reading_alone_changes_nothing() {
    let mut doc = document(&everywhere());
    texts::of_request(&mut doc, Operation::Chat).unwrap();
    assert!(doc.dirty().is_empty());
    assert_eq!(patched(&mut doc), everywhere().to_string());
    from_guest::edit_request(vec![Edit::Text((0, "SECRETname".into()))], Operation::Chat, &mut doc, None).unwrap();
    let first = texts::of_request(&mut doc, Operation::Chat).unwrap().0.swap_remove(0);
    assert_eq!(first.text, "SECRETname");
}

#[test]
fn a_text_that_was_not_given_out_cannot_be_written() {
    let mut doc = document(&everywhere());
    let edits = vec![Edit::Text((9999, "x".into()))];
    let wrong = from_guest::edit_request(edits, Operation::Chat, &mut doc, None).unwrap_err();
    assert!(matches!(wrong, Wrong::Guest(why) if why.contains("text 9999")));
}

#[test]
fn embedded_texts_are_seen_and_tokens_are_told() {
    let body = json!({"model": "e", "input": ["SECRET one", "two"]});
    let open = |body: &Value| {
        let bytes = body.to_string().into();
        Document::open(Format::OpenaiChat, Operation::Embeddings, bytes, Inbound::default()).unwrap()
    };
    let mut doc = open(&body);
    let (texts, unread) = texts::of_request(&mut doc, Operation::Embeddings).unwrap();
    assert_eq!((texts.len(), unread.len()), (2, 0));
    let edits = vec![Edit::Text((texts[0].id, "MASK one".into()))];
    from_guest::edit_request(edits, Operation::Embeddings, &mut doc, None).unwrap();
    assert!(format!("{:?}", doc.embeddings().unwrap().inputs).contains("MASK one"));
    let mut tokens = open(&json!({"model": "e", "input": [[1, 2, 3]]}));
    assert_eq!(texts::of_request(&mut tokens, Operation::Embeddings).unwrap().1[0].kind, "tokens");
}

#[test]
fn kept_turns_and_parts_keep_what_a_guest_cannot_see() {
    let mut doc = document(&everywhere());
    let needs = to_guest::Needs { messages: true, ..Default::default() };
    let cx = crate::script::suite::context(&serde_json::Map::new(), Format::OpenaiChat).unwrap();
    let mut seen = to_guest::request(needs, &cx, &mut doc, None).unwrap();
    assert_eq!(seen.messages.len(), 4);
    seen.messages.remove(0);
    seen.messages[0].parts[0].text = Some("hello".into());
    let new = types::Message { origin: None, role: types::Role::User, name: None, parts: Vec::new() };
    seen.messages.push(new);
    from_guest::edit_request(vec![Edit::Messages(seen.messages)], Operation::Chat, &mut doc, None).unwrap();
    let sent: Value = serde_json::from_str(&patched(&mut doc)).unwrap();
    let turns = sent["messages"].as_array().unwrap();
    assert_eq!(turns[0]["content"][0]["text"], "hello");
    assert_eq!(turns[0]["content"][1]["image_url"]["url"], "data:image/png;base64,AAAA");
    assert_eq!(turns[1], everywhere()["messages"][2]);
    assert_eq!(turns[2]["tool_call_id"], "c1");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let part =
        |kind| types::Part { origin: None, kind, text: None, call_id: None, name: None, arguments: None, mime: None };
    let turns = |part: types::Part, origin| {
        vec![Edit::Messages(vec![types::Message { origin, role: types::Role::User, name: None, parts: vec![part] }])]
    };
    let wrong: Vec<Vec<Edit>> = vec![
        turns(part(types::PartKind::Text), None),
        turns(part(types::PartKind::Image), None),
        turns(part(types::PartKind::ToolCall), None),
        turns(types::Part { origin: Some(99), ..part(types::PartKind::Text) }, None),
        turns(types::Part { origin: Some(0), ..part(types::PartKind::Image) }, None),
        turns(types::Part { text: Some("x".into()), ..part(types::PartKind::Text) }, Some(99)),
        vec![Edit::Model(String::new())],
        vec![Edit::Temperature(Some(f64::NAN))],
        vec![Edit::Header(("x-a".into(), Some("b".into())))],
        vec![Edit::Other("x".into())],
    ];
    for edits in wrong {
        let told = format!("{edits:?}");
        let outcome = from_guest::edit_request(edits, Operation::Chat, &mut document(&everywhere()), None);
        assert!(matches!(outcome, Err(Wrong::Guest(_))), "{told}");
    }
    let mut headers = http::HeaderMap::new();
    for name in ["authorization", "host", "no spaces"] {
        let edits = vec![Edit::Header((name.into(), Some("x".into())))];
        let outcome =
            from_guest::edit_request(edits, Operation::Chat, &mut document(&everywhere()), Some(&mut headers));
        assert!(matches!(outcome, Err(Wrong::Guest(_))), "{name}");
    }
    assert!(from_guest::refusal(types::Refusal { status: 200, message: String::new() }).is_err());
    assert!(from_guest::tags(vec![(String::new(), "x".into())], &mut Vec::new()).is_err());
}

#[test]
fn an_answer_is_rewritten_wherever_its_text_stands() {
    let part = |text: &str| Part::text(text);
    let mut response = Response::default();
    response.choices.push(crate::model::Choice { parts: vec![part("SECRET one"), part("two")], ..Default::default() });
    let edits = |response: &Response| -> Vec<types::AnswerEdit> {
        let texts = texts::of_response(response).0;
        texts.into_iter().map(|t| types::AnswerEdit::Text((t.id, t.text.replace("SECRET", "MASK")))).collect()
    };
    let new = edits(&response);
    from_guest::edit_response(new, &mut response).unwrap();
    assert!(!format!("{:?}", unfold(&response)).contains("SECRET"));
    let beyond = vec![types::AnswerEdit::Parts((3, Vec::new()))];
    assert!(from_guest::edit_response(beyond, &mut response).is_err());
}

#[test]
fn imports_are_granted_by_name() {
    let kv = ["portcullis:plugin/kv@1.0.0", "portcullis:plugin/context@1.0.0", "wasi:cli/environment@0.2.0"];
    let none = Grants::default();
    let refusal = none.refusal("plugins/a.wasm", kv).unwrap();
    assert!(refusal.contains("uses kv") && refusal.contains("grant = [\"kv\"]"), "{refusal}");
    assert_eq!(Grants::new(&["kv".into()]).refusal("plugins/a.wasm", kv), None);
    assert_eq!(import("portcullis:plugin/http@1.0.0"), Import::Offered(Some("http")));
    for unknown in ["portcullis:plugin/kv@2.0.0", "portcullis:plugin/kv@1.1.0", "portcullis:plugin/files@1.0.0"] {
        assert_eq!(import(unknown), Import::Unknown, "{unknown}");
        assert!(none.refusal("x", [unknown]).unwrap().contains("does not offer"));
    }
}

#[test]
fn calls_go_to_granted_hosts_only() {
    let grants = Grants::new(&["http:api.example.com".into(), "http:127.0.0.1:9000".into()]);
    assert!(grants.has("http") && !grants.has("kv"));
    assert!(grants.host("api.example.com", Some(443)) && grants.host("API.example.com", Some(80)));
    assert!(grants.host("127.0.0.1", Some(9000)));
    for (host, port) in [("api.example.com", 8443), ("127.0.0.1", 80), ("evil.example.com", 443), ("example.com", 443)]
    {
        assert!(!grants.host(host, Some(port)), "{host}:{port}");
    }
}
