//! Long texts that go from the client's bytes into another format's body: for every request and every format the body is the one
//! that is written from the model, and texts are indeed lent.

use portcullis::{
    codec::{Dialect, Inbound, document::Document},
    model::Format,
};
use serde_json::Value;

use super::cases;

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
            let dialect = Dialect::of("golden-model");
            let whole = document.clone().encode(target, &dialect);
            let anew = document.clone().anew(target, &dialect, |_| {});
            let (whole, anew) = match (whole, anew) {
                (Ok(whole), Ok(anew)) => (whole, anew),
                (Err(whole), Err(anew)) if whole.message == anew.message => continue,
                (whole, anew) => {
                    let ends = (whole.map(drop), anew.map(drop));
                    faults.push(format!("{case} \u{2192} {}: {ends:?}", target.name()));
                    continue;
                }
            };
            written += 1;
            let own = document.bytes().as_ptr_range();
            lent += usize::from(anew.body.iter().any(|piece| own.contains(&piece.as_ptr())));
            // Escapes may be others, what they say is not.
            let read: Option<Value> = serde_json::from_slice(&anew.body.concat()).ok();
            if read.as_ref() != Some(&Value::Object(whole.body)) || anew.dropped != whole.dropped {
                faults.push(format!("{case} \u{2192} {}: another body", target.name()));
            }
        }
    }
    cases::report(&faults);
    assert!(written > 300 && lent * 2 > written, "{lent} of {written} bodies had a text that was lent");
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
            text.push_str(if *number % 7 == 0 { " \n" } else { "." });
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
