//! What requests said: sealed, bound, bounded.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    account::{
        bodies::{MOST_ANSWER, MOST_REQUEST, Recording, Sealer, bytes},
        sheet::Recorded,
    },
    codec::{Inbound, document::Document},
    model::Format,
};

fn recording(text: &str) -> Recording {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": text }] }).to_string();
    let document = Document::new(Format::OpenaiChat, body.into(), Inbound::default()).expect("a request");
    let mut recording = Recording::default();
    recording.asked(&document);
    recording
}

#[test]
fn what_is_sealed_opens_for_its_own_id_and_key_only() {
    let (sealer, other) = (Sealer::new(&[7; 32]).expect("a key"), Sealer::new(&[8; 32]).expect("a key"));
    let (id, mut lines) = ("req_00000000000000000000000000000001", Vec::new());
    let mut kept = recording("the secret of the house");
    kept.begins(Format::AnthropicMessages, true);
    kept.heard(&Bytes::from_static(b"event: x\n"));
    kept.heard(&Bytes::from_static(b"\xff\xfe"));
    let recorded = Recorded { id: id.into(), format: Format::OpenaiChat, bodies: Box::new(kept) };
    sealer.line(&recorded, &mut lines).expect("sealed");
    assert!(lines.is_ascii() && lines.ends_with(b"\n") && lines.starts_with(id.as_bytes()));
    let sealed = &lines[id.len() + 1..lines.len() - 1];
    let opened = sealer.open(id, sealed).expect("opened");
    assert!(opened["request"].as_str().expect("text").contains("the secret of the house"), "{opened}");
    assert_eq!(opened["answer"]["format"], "anthropic_messages");
    assert_eq!(bytes(&opened["answer"]["body"]).as_deref(), Some(&b"event: x\n\xff\xfe"[..]));
    assert!(other.open(id, sealed).is_none());
    assert!(sealer.open("req_00000000000000000000000000000002", sealed).is_none());
    for at in [0, 20, sealed.len() - 1] {
        let mut forged = sealed.to_vec();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert!(sealer.open(id, &forged).is_none(), "{at}");
    }
}

#[test]
fn long_answers_are_cut_and_long_requests_told_by_their_length() {
    let mut kept = recording(&"x".repeat(MOST_REQUEST));
    kept.begins(Format::OpenaiChat, false);
    for _ in 0..3 {
        kept.heard(&Bytes::from(vec![b'y'; MOST_ANSWER / 2 + 1]));
    }
    let plain: Value = serde_json::from_slice(&kept.plain(Format::OpenaiChat)).expect("JSON");
    assert!(plain["request_bytes"].as_u64().expect("a length") > MOST_REQUEST as u64 && plain["request"].is_null());
    assert_eq!(plain["answer"]["body"].as_str().map(str::len), Some(MOST_ANSWER));
    assert_eq!(plain["answer"]["cut"], true);
}

#[test]
fn nothing_of_it_is_ever_formatted() {
    assert_eq!(format!("{:?}", recording("the secret")), "Recording(…)");
}
