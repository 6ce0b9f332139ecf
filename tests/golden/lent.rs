//! Long texts that go from the client's bytes into another format's body: for every request and every format the body is the one
//! that is written from the model, and texts are indeed lent.

use portcullis::{
    codec::{Dialect, Inbound, document::Document},
    model::Format,
};
use serde_json::Value;

use super::cases::{self, Case};

#[test]
fn long_texts_of_every_request_are_the_same_lent_and_copied() {
    let (mut faults, mut written, mut lent) = (Vec::new(), 0, 0);
    for case in cases::all() {
        let Some(body) = case.bytes("request.json") else { continue };
        let Ok(mut body) = serde_json::from_slice::<Value>(&body) else { continue };
        let texts = count(&body);
        if texts == 0 {
            continue;
        }
        lengthen(&mut body, "", LEAST + WHOLE / texts, &mut 0);
        let (model, stream) = case.path_facts();
        let inbound = Inbound { model: model.as_deref(), stream, ..Inbound::default() };
        let Ok(document) = Document::new(case.format, body.to_string().into(), inbound) else { continue };
        for target in Format::ALL.into_iter().filter(|target| *target != case.format) {
            match compare(&document, target) {
                Ok(None) => {}
                Ok(Some(lends)) => (written, lent) = (written + 1, lent + usize::from(lends)),
                Err(fault) => faults.push(format!("{case} \u{2192} {}: {fault}", target.name())),
            }
        }
    }
    cases::report(&faults);
    assert!(written > 300 && lent * 2 > written, "{lent} of {written} bodies had a text that was lent");
}

/// Damage in long texts, or around them, is the same damage to whoever lends them.
#[test]
fn damaged_requests_are_refused_or_read_alike() {
    let mut random = fastrand::Rng::with_seed(20);
    let (mut faults, mut whole, mut refused) = (Vec::new(), 0, 0);
    let all: Vec<(Case, Value)> = cases::all()
        .into_iter()
        .filter_map(|case| Some((serde_json::from_slice::<Value>(&case.bytes("request.json")?).ok()?, case)))
        .filter(|(body, _)| count(body) > 0)
        .map(|(body, case)| (case, body))
        .collect();
    for _ in 0..rounds() {
        let (case, body) = &all[random.usize(0..all.len())];
        let mut body = body.clone();
        let by = LEAST + WHOLE / count(&body);
        lengthen(&mut body, "", by, &mut random.usize(0..7));
        let mut bytes = body.to_string().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..bytes.len());
            let piece: &[u8] =
                [&b"\\"[..], b"\"", b"\\u0000lent 0\\u0000", b"\\ud83d", b"\\x", b"\n", b"}", b",", b"\xff", b"\\u00"]
                    [random.usize(0..10)];
            let until = (at + random.usize(0..piece.len() + 1)).min(bytes.len());
            bytes.splice(at..until, piece.iter().copied());
        }
        let (model, stream) = case.path_facts();
        let inbound = Inbound { model: model.as_deref(), stream, ..Inbound::default() };
        let Ok(document) = Document::new(case.format, bytes.into(), inbound) else { continue };
        let target = Format::ALL[random.usize(0..Format::ALL.len())];
        match compare(&document, target) {
            _ if target == case.format => {}
            Ok(None) => refused += 1,
            Ok(Some(_)) => whole += 1,
            Err(fault) => faults.push(format!("{case} \u{2192} {}: {fault}", target.name())),
        }
    }
    cases::report(&faults);
    assert!(whole > 10 && refused > 10, "{whole} were written, {refused} refused");
}

#[allow(clippy::disallowed_methods, reason = "a test run is told by its environment how long it may take")]
fn rounds() -> usize {
    if std::env::var("PORTCULLIS_LONG").is_ok() { 5000 } else { 250 }
}

/// Is a text lent? `None`: both ways refuse the request, alike.
fn compare(document: &Document, target: Format) -> Result<Option<bool>, String> {
    let dialect = Dialect::of("golden-model");
    let (whole, anew) = (document.clone().encode(target, &dialect), document.clone().anew(target, &dialect, |_| {}));
    let (whole, anew) = match (whole, anew) {
        (Ok(whole), Ok(anew)) => (whole, anew),
        (Err(whole), Err(anew)) if whole.message == anew.message => return Ok(None),
        (whole, anew) => return Err(format!("{:?}", (whole.map(drop), anew.map(drop)))),
    };
    // Escapes may be others, what they say is not.
    let read: Option<Value> = serde_json::from_slice(&anew.body.concat()).ok();
    if read.as_ref() != Some(&Value::Object(whole.body)) || anew.dropped != whole.dropped {
        return Err("another body".to_owned());
    }
    let own = document.bytes().as_ptr_range();
    Ok(Some(anew.body.iter().any(|piece| own.contains(&piece.as_ptr()))))
}

/// Texts that prompts are made of.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| usize::from(is_text(key, value)) + count(value)).sum(),
        _ => 0,
    }
}

/// Makes them long, each in its own way: plain, with escapes, and some that end with white space.
fn lengthen(value: &mut Value, under: &str, by: usize, number: &mut usize) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| lengthen(value, "", by, number)),
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| lengthen(value, key, by, number)),
        Value::String(text) if is_text(under, &Value::String(text.clone())) => {
            *number += 1;
            let line =
                [" and so on, as texts do", " with a \"word\"\n and an \u{fc}", "\t\\ and \u{1f600}"][*number % 3];
            text.push_str(&line.repeat(by / line.len() + 1));
            text.push_str(if number.is_multiple_of(7) { " \n" } else { "." });
        }
        _ => {}
    }
}

fn is_text(key: &str, value: &Value) -> bool {
    let keys = ["content", "text", "output", "input", "instructions", "system"];
    keys.contains(&key) && value.as_str().is_some_and(|text| text.starts_with(char::is_alphabetic))
}

/// Of one text, and of all of a body together.
const LEAST: usize = 3 << 10;
const WHOLE: usize = 70 << 10;
