//! Splices and scans against serde_json.

use serde_json::json;

use super::{
    lent::Anew,
    text::{ends, readable},
    *,
};
use crate::{codec::signature, model::Signature};

fn document(body: &str) -> Document {
    Document::new(Format::OpenaiChat, Bytes::copy_from_slice(body.as_bytes()), Inbound::default()).expect("a request")
}

fn joined(parts: Vec<Bytes>) -> Value {
    let all: Vec<u8> = parts.concat();
    serde_json::from_slice(&all).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&all)))
}

#[test]
fn the_same_model_leaves_the_bytes_alone() {
    let body = r#" {"model": "m", "messages": []} "#;
    let parts = document(body).patch(&Dialect::of("m"), false).expect("patched").0;
    assert_eq!(parts.concat(), body.as_bytes());
}

#[test]
fn another_model_is_one_patch() {
    let body = r#"{"messages":[{"role":"user","content":"a\"b"}], "model" : "a/b" , "x":1}"#;
    let parts = document(body).patch(&Dialect::of("b\"c"), true).expect("patched").0;
    let value = joined(parts);
    assert_eq!(value["model"], "b\"c");
    assert_eq!(value["stream_options"]["include_usage"], true);
    assert_eq!(value["x"], 1);
}

#[test]
fn every_set_of_removals_and_additions_stays_json() {
    let body = r#"{ "a":1 , "model":"m","b":[1,{"c":"}"}], "d":null }"#;
    let doc = document(body);
    let keys = ["a", "model", "b", "d", "new"];
    for mask in 0..3u32.pow(keys.len() as u32) {
        let mut want: Map<String, Value> = serde_json::from_str(body).expect("json");
        let mut patches = Vec::new();
        let mut digits = mask;
        for key in keys {
            match digits % 3 {
                1 => {
                    want.shift_remove(key);
                    patches.push((key, None));
                }
                2 => {
                    want.insert(key.to_owned(), Value::from(7));
                    patches.push((key, Some(Bytes::from_static(b"7"))));
                }
                _ => {}
            }
            digits /= 3;
        }
        assert_eq!(joined(doc.splice(&patches)), Value::Object(want), "{patches:?}");
    }
}

#[test]
fn routing_fields_given_twice_are_refused() {
    let body = br#"{"model":"a","messages":[],"model":"b"}"#;
    let error = Document::new(Format::OpenaiChat, Bytes::from_static(body), Inbound::default()).expect_err("refused");
    assert!(error.message.contains("`model` is given twice"), "{error}");
    let escaped = br#"{"model":"a","mod\u0065l":"b"}"#;
    assert!(Document::new(Format::OpenaiChat, Bytes::from_static(escaped), Inbound::default()).is_err());
}

#[test]
fn broken_json_is_refused_with_its_position() {
    for (body, place) in [
        ("", "line 1, column 1"),
        ("[1]", "line 1, column 1"),
        ("{\"a\":1,\n \"b\" 2}", "line 2, column 6"),
        ("{\"a\":[1,2}", "line 1, column 10"),
        ("{\"a\":tru}", "line 1, column 6"),
        ("{\"a\":\"x", "line 1, column 8"),
        ("{\"a\":1}}", "line 1, column 8"),
    ] {
        let error = Envelope::scan(body.as_bytes()).expect_err("refused");
        assert!(error.message.contains(place), "{body}: {error}");
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert!(Envelope::scan(deep.as_bytes()).expect_err("refused").message.contains("too deep"));
    assert!(Envelope::scan(b"{\"a\":\"\xff\"}").expect_err("refused").message.contains("UTF-8"));
}

/// Random edits of a good body: whatever serde_json refuses for its structure, the scan refuses too.
#[test]
fn the_scan_accepts_nothing_that_serde_refuses_for_its_structure() {
    let seed = br#"{"model":"m","n":-1.5e3,"messages":[{"role":"user","content":[{"type":"text","text":"a\\\"b{"}]},[],{}],"t":true,"z":null}"#;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut body = seed.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..body.len());
            match random.u8(0..3) {
                0 => {
                    body.remove(at);
                }
                1 => body.insert(at, b"{}[],:\"\\1tn "[random.usize(0..12)]),
                _ => body[at] = b"{}[],:\"\\1tn "[random.usize(0..12)],
            }
        }
        let serde: Result<Map<String, Value>, _> = serde_json::from_slice(&body);
        let ours = Envelope::scan(&body);
        match (&serde, &ours) {
            (Ok(map), Ok(envelope)) => {
                for entry in &envelope.fields {
                    let key: String = serde_json::from_slice(&body[entry.key.clone()]).expect("a key");
                    let value: Value = serde_json::from_slice(&body[entry.value.clone()]).expect("a value");
                    // A key given twice: serde keeps the last.
                    assert!(map.contains_key(&key) && (map[&key] == value || envelope.fields.len() > map.len()));
                }
            }
            (Ok(_), Err(e)) => assert!(e.message.contains("twice") || e.message.contains("escapes"), "{e}"),
            // The inside of strings is left to whoever reads them.
            (Err(e), Ok(_)) => {
                let e = e.to_string();
                assert!(
                    e.contains("escape") || e.contains("control character"),
                    "{e}: {}",
                    String::from_utf8_lossy(&body)
                );
            }
            (Err(_), Err(_)) => {}
        }
    }
}

#[test]
fn the_last_user_turn_is_found_in_every_family() {
    for (format, body, want) in [
        (
            Format::OpenaiChat,
            r#"{"model":"m","messages":[{"role":"user","content":"one"},{"role":"assistant","content":"two"}]}"#,
            "one",
        ),
        (
            Format::OpenaiChat,
            r#"{"model":"m","messages":[{"content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":"b\n"}],"role":"user"}]}"#,
            "a\nb\n",
        ),
        (Format::Gemini, r#"{"model":"m","contents":[{"parts":[{"text":"hi"}]}]}"#, "hi"),
    ] {
        let mut doc =
            Document::new(format, Bytes::copy_from_slice(body.as_bytes()), Inbound::default()).expect("a request");
        assert_eq!(doc.last_user_text().expect("text"), want);
    }
}

/// What a guard does not see must not go upstream, however it is written.
#[test]
fn the_last_user_turn_is_found_however_it_is_written() {
    for turn in [
        r#"{"role":"user","content":"forbidden \ud83d"}"#,
        r#"{"role":"user","content":[{"type":"text","text":"forbidden \ud83d"}]}"#,
        r#"{"role":"user","content":[{"type":"text","text":"x","text":"forbidden"}]}"#,
        r#"{"role":"user","content":[{"type":"text","\u0074ext":"forbidden"}]}"#,
        r#"{"role":"user","content":["forbidden"]}"#,
        r#"{"role":"\u0075ser","content":"forbidden"}"#,
        r#"{"role":"assistant","role":"user","content":"forbidden"}"#,
        r#"{"role":"user","content":"x","content":"forbidden"}"#,
        r#"{"role":"user","content":"forbidden"},{"role":"user","content":""}"#,
    ] {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"before"}},{turn}]}}"#);
        for decoded in [false, true] {
            let mut doc = document(&body);
            if decoded && doc.request().is_err() {
                continue;
            }
            match doc.last_user_text() {
                Ok(text) => assert!(text.contains("forbidden"), "{turn}: {text}"),
                Err(error) => assert_eq!(error.status(), 400, "{turn}"),
            }
            if let Ok([head, tail]) = doc.last_user_ends(64) {
                assert!(head.contains("forbidden") || tail.contains("forbidden"), "{turn}: {head} {tail}");
            }
        }
    }
}

/// Every field that an upstream of the format, or one of another format that it is written anew for, takes a prompt from.
#[test]
fn no_other_field_stands_in_the_way_of_what_goes_upstream() {
    use Format::{AnthropicMessages, BedrockConverse, Cohere, Gemini, OpenaiChat, OpenaiResponses};
    let (long, mut read) = ("a ".repeat(1100), 0);
    let parts = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"{long}"}},{{"type":"text","t\u0065xt":"secret"}}]}}]}}"#
    );
    for (format, body) in [
        (
            OpenaiChat,
            r#"{"messages":[{"role":"user","content":"secret"}],"contents":[{"role":"user","parts":[{"text":"no"}]}]}"#,
        ),
        (OpenaiChat, r#"{"messages":[{"role":"user","content":"secret"}],"input":"no"}"#),
        (Cohere, r#"{"messages":[{"role":"user","content":"secret"}],"input":"no"}"#),
        (BedrockConverse, r#"{"input":"no","messages":[{"role":"user","content":[{"text":"secret"}]}]}"#),
        (AnthropicMessages, r#"{"max_tokens":5,"messages":[{"role":"user","content":"secret"}],"input":"no"}"#),
        (OpenaiResponses, r#"{"input":"secret","messages":[{"role":"user","content":"no"}]}"#),
        (OpenaiResponses, r#"{"input":[{"r\u006fle":"user","content":"secret"}]}"#),
        (OpenaiChat, r#"{"messages":[{"role":"user","content":"secret"},{"r\u006fle":"assistant","content":"ok"}]}"#),
        (
            OpenaiChat,
            r#"{"messages":[{"role":"user","content":"no"},{"role":"assistant","r\u006fle":"user","content":"secret"}]}"#,
        ),
        (
            OpenaiChat,
            r#"{"messages":[{"role":"user","content":"no"},{"role":["user"],"role":"user","content":"secret"}]}"#,
        ),
        (OpenaiChat, r#"{"messages":[{"role":"user","content":"no","c\u006fntent":"secret"}]}"#),
        (OpenaiChat, r#"{"messages":[{"role":"user","content":"no","Content":"secret"}]}"#),
        (
            OpenaiChat,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"secret"},{"type":"text","text":"b"}]}]}"#,
        ),
        (OpenaiChat, parts.as_str()),
        (Gemini, r#"{"contents":[{"role":"user","content":"no","parts":[{"text":"secret"}]}]}"#),
        (Gemini, r#"{"contents":{"role":"user","parts":[{"text":"secret"}]}}"#),
        (Gemini, r#"{"contents":["secret"]}"#),
    ] {
        let body = body.replacen('{', r#"{"model":"m","#, 1);
        let Ok(mut doc) = Document::new(format, Bytes::from(body.clone()), Inbound::default()) else { continue };
        let Ok(text) = doc.last_user_text().map(Cow::into_owned) else { continue };
        assert!(text.contains("secret"), "{format:?} {body:.200}: {text:.200}");
        let mut doc = Document::new(format, Bytes::from(body.clone()), Inbound::default()).expect("a request");
        let [head, tail] = doc.last_user_ends(1024).expect("ends");
        assert!(head.contains("secret") || tail.contains("secret"), "{format:?} {body:.200}");
        read += 1;
    }
    assert!(read > 10, "{read}: the others are refused");
    let body = r#"{"model":"m","input":["secret","x"]}"#;
    let mut doc =
        Document::open(OpenaiChat, Operation::Embeddings, body.into(), Inbound::default()).expect("a request");
    assert!(doc.last_user_text().expect("text").contains("secret"));
}

#[test]
fn the_ends_of_a_long_turn_are_found_without_reading_it() {
    let long = format!("first \\u00e9t\\u00e9\\n{}\\\"last\\\" word", "x".repeat(50_000));
    for body in [
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{long}"}}]}}"#),
        format!(
            r#"{{"model":"m","messages":[{{"content":[{{"type":"text","text":"{long}"}}],"role":"user"}},{{"role":"assistant","content":"no"}}]}}"#
        ),
    ] {
        let mut doc = document(&body);
        let [head, tail] = doc.last_user_ends(64).expect("ends");
        assert!(head.starts_with("first été xxx"), "{head}");
        assert!(tail.ends_with("xx last  word"), "{tail}");
    }
    let mut short = document(r#"{"model":"m","messages":[{"role":"user","content":"a\nb"}]}"#);
    assert_eq!(short.last_user_ends(64).expect("ends"), ["a\nb", ""]);
}

#[test]
fn the_ends_of_a_short_turn_are_its_text() {
    for (turn, text) in [
        (r#"{"role":"user","content":"write été"}"#, "write été"),
        (r#"{"content":"write","role":"user"}"#, "write"),
        (r#"{"role":"user","content":[{"type":"text","text":"one"}]}"#, "one"),
        // A turn that says nothing is not the last word.
        (r#"{"role":"user","content":""}"#, "before"),
        (r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}"#, "before"),
    ] {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"before"}},{turn}]}}"#);
        let whole = document(&body).last_user_text().expect("text").into_owned();
        let mut doc = document(&body);
        let [head, _] = doc.last_user_ends(64).expect("ends");
        assert_eq!([head.as_ref(), whole.as_str()], [text, text], "{turn}");
    }
}

#[test]
fn long_texts_are_looked_at_from_both_ends_without_cutting_characters() {
    let text = "é".repeat(10_000);
    let [head, tail] = ends(&text, 4095);
    assert!(text.starts_with(head) && text.ends_with(tail));
    // The border fell into a character: the piece is shorter by what would have been half of it.
    assert_eq!([head.len(), tail.len()], [4094, 4094]);
    assert_eq!(ends("short", 4095), ["short", ""]);
}

#[test]
fn a_piece_of_a_text_has_a_mark_where_a_character_was_cut() {
    let text = "aé水🦀b🦀";
    for start in 0..text.len() {
        for end in start..=text.len() {
            let piece = &text.as_bytes()[start..end];
            let (mine, known) = (readable(piece), String::from_utf8_lossy(piece));
            let cut = ['\u{fffd}'];
            assert_eq!(mine.trim_matches(cut), known.trim_matches(cut), "{piece:?}");
            assert_eq!(
                (mine.starts_with(cut), mine.ends_with(cut)),
                (known.starts_with(cut), known.ends_with(cut)),
                "{piece:?}"
            );
        }
    }
}

#[test]
fn developer_turns_are_rewritten_only_where_the_target_does_not_know_them() {
    let body = r#"{"model":"m","messages":[{"role":"developer","content":"be brief"},{"role":"user","content":"\"developer\""}]}"#;
    let knows = Dialect::of("m");
    assert_eq!(document(body).patch(&knows, false).expect("patched").0.concat(), body.as_bytes());
    let lacks = Dialect { developer_role: false, ..Dialect::of("m") };
    assert_eq!(joined(document(body).patch(&lacks, false).expect("patched").0)["messages"][0]["role"], "system");
    let plain = r#"{"model":"m","messages":[{"role":"user","content":"developer"}]}"#;
    assert_eq!(document(plain).patch(&lacks, false).expect("patched").0.concat(), plain.as_bytes());
}

#[test]
fn a_server_of_which_nothing_is_known_gets_its_format_as_its_client_wrote_it() {
    let body = r#"{"model":"m","max_completion_tokens":9,"messages":[{"role":"developer","content":"x"},{"role":"assistant","content":"","reasoning_content":"hm","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"c2ln"}}}]}]}"#;
    let quirks = Dialect { max_tokens_field: "max_tokens", developer_role: false, ..Dialect::of("m") };
    let known = joined(document(body).patch(&quirks, false).expect("patched").0);
    assert_eq!((&known["max_tokens"], &known["messages"][0]["role"]), (&json!(9), &json!("system")));
    assert_eq!(known["messages"][1].get("reasoning_content"), None);
    assert_eq!(known["messages"][1]["tool_calls"][0].get("extra_content"), None);
    let unknown = Dialect { assumed: true, ..quirks };
    assert_eq!(document(body).patch(&unknown, false).expect("patched").0.concat(), body.as_bytes());
    // The same when a stage has changed the turns.
    let edited = body.replace(r#""reasoning_content":"hm""#, r#""reasoning":"hm""#);
    let mut doc = document(&edited);
    doc.edit(Field::Messages).expect("edited").messages.push(Message::text(Role::User, "more"));
    let named = Dialect { reasoning_field: Some("reasoning_content"), ..unknown.clone() };
    let sent = joined(doc.patch(&named, false).expect("patched").0);
    assert_eq!((&sent["messages"][0]["role"], &sent["messages"][1]["reasoning"]), (&json!("developer"), &json!("hm")));
    assert_eq!((sent["messages"][1].get("reasoning_content"), &sent["messages"][2]["content"]), (None, &json!("more")));
    // What this gateway alone writes is no server's.
    let carried = body.replace(r#""reasoning_content":"hm""#, r#""thinking_blocks":[]"#);
    let sent = joined(document(&carried).patch(&unknown, false).expect("patched").0);
    assert_eq!(sent["messages"][1].get("thinking_blocks"), None);
}

#[test]
fn knobs_that_a_target_refuses_leave_the_bytes_and_are_named() {
    let claude = |version: Option<&'static str>, body: &str| {
        let inbound = Inbound { version, ..Inbound::default() };
        Document::new(Format::AnthropicMessages, Bytes::copy_from_slice(body.as_bytes()), inbound).expect("a request")
    };
    let body = r#"{"model":"m","max_tokens":9,"temperature":0.5,"top_p":1,"top_k":3,"stop_sequences":["x"],"messages":[{"role":"user","content":"hi"}]}"#;
    let plain = Dialect { version: Some("2023-06-01"), ..Dialect::of("m") };
    for (version, dialect, gone) in [
        (Some("2023-06-01"), plain.clone(), &[][..]),
        (None, plain.clone(), &[]),
        (Some("2026-10-21"), plain.clone(), &["temperature", "top_p", "top_k"]),
        // Where the body says the version itself, the caller's does not travel.
        (Some("2026-10-21"), Dialect { version: None, ..plain.clone() }, &[]),
        (Some("2023-06-01"), Dialect { no_sampling: true, ..plain.clone() }, &["temperature", "top_p", "top_k"]),
        (None, Dialect { refuses: &["stop", "top_k"], ..plain.clone() }, &["stop", "top_k"]),
    ] {
        let mut doc = claude(version, body);
        let (parts, dropped) = doc.patch(&dialect, false).expect("patched");
        let sent = joined(parts);
        assert_eq!(dropped, gone, "{version:?}");
        for (knob, key) in
            [("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k"), ("stop", "stop_sequences")]
        {
            assert_eq!(sent.get(key).is_some(), !gone.contains(&knob), "{version:?} {key}");
        }
        assert_eq!(sent["messages"][0]["content"], "hi");
    }
    // What asks for nothing stays as it came.
    let nothing = body.replace("0.5", "null");
    let dialect = Dialect { refuses: &["temperature"], ..plain.clone() };
    let (parts, dropped) = claude(None, &nothing).patch(&dialect, false).expect("patched");
    assert_eq!((parts.concat(), dropped.is_empty()), (nothing.into_bytes(), true));
    // What a team's default set is dropped like what the caller wrote.
    let mut doc =
        claude(Some("2026-10-21"), r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#);
    doc.edit(Field::Sampling).expect("decoded").sampling.temperature = Some(0.2);
    let (parts, _) = doc.patch(&plain, false).expect("patched");
    assert_eq!(joined(parts).get("temperature"), None);
}

#[test]
fn a_platforms_own_fields_are_spliced_into_the_callers_bytes() {
    let body = r#"{"model":"a/b","stream":true,"messages":[{"role":"user","content":"hi"}],"n":1.0}"#;
    let overrides: [(&'static str, Option<Bytes>); 3] =
        [("model", None), ("stream", None), ("anthropic_version", Some(Bytes::from_static(b"\"v\"")))];
    let parts = document(body).patch_with(&Dialect::of("b"), false, &overrides).expect("patched").0;
    assert_eq!(parts.concat(), br#"{"messages":[{"role":"user","content":"hi"}],"n":1.0,"anthropic_version":"v"}"#);
}

#[test]
fn gemini_models_without_sampling_get_none() {
    let inbound = Inbound { model: Some("g"), stream: Some(false), ..Inbound::default() };
    let body = br#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}],"generationConfig":{"temperature":0.5,"topK":3,"maxOutputTokens":7,"x":1}}"#;
    let mut doc = Document::new(Format::Gemini, Bytes::from_static(body), inbound).expect("a request");
    let dialect = Dialect { no_sampling: true, ..Dialect::of("g") };
    let (parts, dropped) = doc.patch(&dialect, false).expect("patched");
    let sent = joined(parts);
    assert_eq!(dropped, ["temperature", "top_k"]);
    assert_eq!(sent["generationConfig"], serde_json::json!({"maxOutputTokens": 7, "x": 1}));
}

#[test]
fn signatures_of_another_family_do_not_reach_the_vendor_of_the_clients_format() {
    let foreign = Signature { origin: Format::AnthropicMessages, data: "RXJx".into() };
    for (key, data, goes_on) in [
        ("thoughtSignature", signature::wrap(&foreign, ""), false),
        ("thought_signature", signature::wrap(&foreign, ""), false),
        ("thoughtSignature", "RXJx".to_owned(), true),
    ] {
        let body = serde_json::json!({"contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"text": "hm", "thought": true, key: data}, {"text": "yo"}]},
            {"role": "user", "parts": [{"text": "and?"}]},
        ]});
        let inbound = Inbound { model: Some("g"), stream: Some(false), ..Inbound::default() };
        let mut doc = Document::new(Format::Gemini, body.to_string().into(), inbound).expect("a request");
        let sent = joined(doc.patch(&Dialect::of("g"), false).expect("patched").0);
        assert_eq!(sent == body, goes_on, "{sent}");
        assert_eq!(sent.to_string().contains("RXJx"), goes_on, "{sent}");
        assert!(sent.to_string().contains("yo"));
    }
}

#[test]
fn a_body_is_not_read_for_what_it_cannot_hold() {
    let lacks = &["embeddings", "audio", "n", "logprobs", "json_schema", "prefill", "count_tokens"];
    let dialect = Dialect { lacks, ..Dialect::of("m") };
    let mut plain = document(r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0}"#);
    plain.refuse_lacking(&dialect).expect("nothing is lacking");
    assert!(!plain.is_decoded());
    for more in [
        r#""n":2"#,
        r#""logprobs":true"#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object"}}}"#,
    ] {
        let mut asks = document(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],{more}}}"#));
        assert_eq!(asks.refuse_lacking(&dialect).expect_err("refused").kind, crate::error::Kind::Unsupported, "{more}");
    }
}

#[test]
fn half_a_character_is_the_sign_for_none_to_other_formats_and_stays_in_its_own() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"cut \ud83d and \ud83d\ude00"}]}"#;
    let mut asked = document(body);
    let sent = asked.anew(Format::AnthropicMessages, &Dialect::of("m"), |_| {}).expect("written").body;
    assert_eq!(joined(sent)["messages"][0]["content"], "cut \u{fffd} and \u{1f600}");
    assert_eq!(document(body).patch(&Dialect::of("m"), false).expect("patched").0.concat(), body.as_bytes());
    let broken = r#"{"model":"m","messages":[{"role":"user","content":"cut \ud83d"}],}"#;
    assert!(
        Document::new(Format::OpenaiChat, Bytes::from_static(broken.as_bytes()), Inbound::default())
            .and_then(|mut asked| asked.anew(Format::Cohere, &Dialect::of("m"), |_| {}))
            .is_err()
    );
}

#[test]
fn a_body_with_lent_texts_is_the_body_without() {
    let line = "a line with a \"word\" in quotes, a tab\t and an ü\n";
    let long = |n: usize| format!("{n}: {}end", line.repeat(100 + n));
    let prose = |n: usize| format!("so {}end", line.repeat(100 + n));
    let picture = format!("data:image/png;base64,iVBORw0K{}", "A".repeat(80_000));
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": json!({"a": prose(9)}).to_string()}});
    let body = json!({"model": "m", "messages": [
        {"role": "system", "content": prose(1)},
        {"role": "user", "content": [{"type": "text", "text": prose(2)}, {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": prose(2)}, {"type": "text", "text": long(3)}, {"type": "text", "text": format!(" {} ", prose(4))}]},
        {"role": "assistant", "content": prose(5), "tool_calls": [call("call_abc123XYZ"), call("call_abc123XYa")]},
        {"role": "tool", "tool_call_id": "call_abc123XYZ", "content": prose(6)},
        {"role": "tool", "tool_call_id": "call_abc123XYa", "content": json!({"b": prose(7)}).to_string()},
        {"role": "user", "content": prose(8)},
        {"role": "system", "content": prose(8)},
        {"role": "user", "content": "and then?"}],
        "tools": [{"type": "function", "function": {"name": "f", "description": prose(1), "parameters": {"type": "object", "properties": {}}}}]})
    .to_string();
    let more = |body: &mut Map<String, Value>| drop(body.insert("more".to_owned(), json!(1.5)));
    for format in Format::ALL.into_iter().filter(|format| *format != Format::OpenaiChat) {
        let dialect = Dialect::of("m");
        let mut plain = document(&body).encode(format, &dialect).expect("encoded");
        more(&mut plain.body);
        let whole = Value::Object(plain.body).to_string();
        let (lent, kept) = (&mut document(&body), &mut document(&body));
        let Anew { body: pieces, dropped, .. } = lent.anew(format, &dialect, more).expect("written");
        assert!(pieces.concat() == whole.as_bytes() && dropped == plain.dropped, "{}", format.name());
        let own = lent.bytes().as_ptr_range();
        assert!(pieces.iter().any(|piece| own.contains(&piece.as_ptr())), "{}: nothing is lent", format.name());
        assert!(!lent.is_decoded());
        // Where it was read before, and where somebody else reads the same.
        kept.request().expect("read");
        let (own, before) = (&mut kept.clone(), kept.request().expect("read").clone());
        assert_eq!(own.anew(format, &dialect, more).expect("written").body.concat(), whole.as_bytes());
        assert!(kept.request().expect("read") == &before && !own.is_decoded());
        // Without its escapes for what is not ASCII: the same text.
        let ascii: String = body.chars().map(|c| if c == 'ü' { "\\u00fc".to_owned() } else { c.to_string() }).collect();
        let said = joined(document(&ascii).anew(format, &dialect, more).expect("written").body);
        assert!(said == joined(vec![whole.into()]), "{}", format.name());
        // What a stage changed is written from the model, and kept.
        kept.edit(Field::User).expect("read").user = Some("u".to_owned());
        assert!(!kept.anew(format, &dialect, more).expect("written").body.is_empty() && kept.is_decoded());
    }
}

#[test]
fn what_cannot_be_lent_is_read_and_written_in_full() {
    let long = "x".repeat(70_000);
    for (text, good) in [
        // What looks like a mark, white space to trim, JSON, a broken escape, half a character, a control character. A half alone
        // is the sign for none.
        (format!("so \\u0000lent 0\\u0000 and \\u0000lent 1\\u0000 {long}end"), true),
        (format!("so {long} \\n"), true),
        (format!("so {long}\\u0020"), true),
        (format!("so {long}\\\\n"), true),
        (format!("{{\\\"a\\\": \\\"{long}\\\"}}"), true),
        (format!("so \\x {long}"), false),
        (format!("so \\ud83d {long}"), true),
        (format!("so \\ud83d\\ud83d {long}"), true),
        (format!("so \\ude00 {long}"), true),
        (format!("so \\u12 {long}"), false),
        (format!("so \t {long}"), false),
        (format!("so \\ud83d\\ude00 {long}end"), true),
    ] {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}},{{"role":"assistant","content":"yes"}},{{"role":"user","content":"{text}"}}]}}"#
        );
        for format in [Format::AnthropicMessages, Format::Gemini, Format::Cohere, Format::OpenaiResponses] {
            let dialect = Dialect::of("m");
            let plain = document(&body).encode(format, &dialect).map(|encoded| Value::Object(encoded.body));
            let written = document(&body).anew(format, &dialect, |_| {}).map(|anew| joined(anew.body));
            assert_eq!((plain.is_ok(), written.is_ok()), (good, good), "{}", &text[..20]);
            match (plain, written) {
                (Ok(plain), Ok(written)) => assert!(plain == written, "{}: {}", format.name(), &text[..20]),
                (plain, written) => {
                    assert_eq!(plain.err().map(|e| e.message.clone()), written.err().map(|e| e.message.clone()));
                }
            }
        }
    }
}

#[test]
fn long_arguments_of_a_call_are_put_back_before_they_are_taken_apart() {
    let long = format!("fn main() {{ println!(\"{}\"); }} // end", "x".repeat(70_000));
    let body = json!({"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": "write it"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "write", "input": {"content": long, "path": "a"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": long}]}]});
    let open = || {
        let bytes = Bytes::from(body.to_string());
        Document::new(Format::AnthropicMessages, bytes, Inbound::default()).expect("a request")
    };
    for format in Format::ALL.into_iter().filter(|format| *format != Format::AnthropicMessages) {
        let plain = Value::Object(open().encode(format, &Dialect::of("m")).expect("encoded").body);
        let written = open().anew(format, &Dialect::of("m"), |_| {}).expect("written").body;
        assert!(joined(written) == plain, "{}", format.name());
    }
}
