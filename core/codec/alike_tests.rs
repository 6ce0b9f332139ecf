//! What is read and written the short way is what the long way says, and nothing else takes it.

use serde_json::{Value, json};

use super::*;
use crate::{
    codec::{ClientView, Dialect, codec},
    model::{Event, Extra, Format, PartStart, Start},
};

fn told(text: &str) -> Vec<Event> {
    vec![Event::Delta { choice: 0, index: 2, delta: Delta::Text(text.to_owned()) }]
}

const FRAME: &str = r#"{"id":"a","n":17,"delta":{"text": "one"},"pad":"xyz"}"#;

fn learnt() -> Alike {
    let mut alike = Alike::default();
    alike.learn("e", FRAME.as_bytes(), &["text"], &["n", "pad", "none"], &told("one"));
    alike
}

#[test]
fn a_frame_with_another_text_and_other_padding_is_alike() {
    for (text, written) in [("two", "two"), ("\"q\" \n ü", "\\\"q\\\" \\n \\u00fc"), ("\\", "\\\\"), ("ä😀", "ä😀")]
    {
        let frame = FRAME.replace("one", written).replace("17", "18446744073709551616").replace("xyz", "\\\"");
        assert_eq!(learnt().read("e", frame.as_bytes()), Some((0, 2, text.to_owned())), "{frame}");
    }
}

#[test]
fn everything_else_takes_the_long_way() {
    for (from, to) in [
        ("\"a\"", "\"b\""),
        ("\"one\"", "\"\""),
        ("\"one\"", "1"),
        ("\"one\"", "\"a\u{1}\""),
        ("\"one\"", "\"\\ud800\""),
        ("\"one\"", "\"\\x\""),
        ("\"one\"", "\"one\",\"more\":1"),
        ("17", "\"17\""),
        ("xyz\"}", "xyz\"} "),
        ("xyz\"}", "xyz"),
    ] {
        let frame = FRAME.replace(from, to);
        assert_eq!(learnt().read("e", frame.as_bytes()), None, "{frame}");
    }
    assert_eq!(learnt().read("other", FRAME.as_bytes()), None);
    let mut twice = learnt();
    let other = [told("one"), told("two")].concat();
    twice.learn("e", FRAME.as_bytes(), &["text"], &[], &other);
    assert_eq!(twice.read("e", FRAME.as_bytes()), None, "it told two things");
    for frame in [r#"{"text":"one","b":{"text":"one"}}"#, r#"{"text":null}"#, r#"{"other":"one"}"#, r#"{"text":"x"}"#] {
        let mut alike = learnt();
        alike.learn("e", frame.as_bytes(), &["text"], &[], &told("one"));
        assert_eq!(alike.read("e", frame.as_bytes()), None, "{frame}");
    }
}

#[test]
fn a_stream_whose_frames_are_never_alike_is_left_alone() {
    let mut alike = Alike::default();
    let frame = |n: usize| format!(r#"{{"n{n}":1,"text":"one"}}"#);
    for n in 0..40 {
        assert_eq!(alike.read("", frame(n).as_bytes()), None);
        alike.learn("", frame(n).as_bytes(), &["text"], &[], &told("one"));
    }
    assert_eq!(alike.read("", frame(39).as_bytes()), None);
}

/// Texts that are hard to carry.
const PIECES: [&str; 9] = ["one ", "t\"wo\" ", "", "thr\\ee\n", "ü😀 ", "\u{7f}", "five", " ", "\"content\":\"six\""];

/// Two parts, the second begun while the first one is not the last; words that look like frames.
fn events() -> Vec<Event> {
    let text = || PartStart::Text { extra: Extra::default() };
    let mut events = vec![Event::Start(Start { id: "a1".into(), model: "m".into(), ..Start::default() })];
    for index in 0..2 {
        events.push(Event::PartStart { choice: 0, index, part: text() });
        for piece in PIECES {
            events.push(Event::Delta { choice: 0, index, delta: Delta::Text(format!("{piece}{index}")) });
        }
        events.push(Event::PartEnd { choice: 0, index });
    }
    let finish = crate::model::Finish::new(crate::model::FinishReason::Stop, "stop");
    events.push(Event::Finish { choice: 0, finish });
    events
}

fn text_of(events: &[Event]) -> String {
    let text = |event: &Event| match event {
        Event::Delta { delta: Delta::Text(text), .. } => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

#[test]
fn every_format_tells_the_same_however_its_bytes_are_cut() {
    let wanted = text_of(&events());
    let view = ClientView { model: "m".into(), request_id: "r".into(), ..ClientView::default() };
    for format in Format::ALL {
        let mut encoder = codec(format).stream_encoder(&view);
        let mut bytes = Vec::new();
        events().iter().for_each(|event| encoder.push(event, &mut bytes));
        encoder.finish(&mut bytes);
        for size in [1, 7, 1400, bytes.len()] {
            let mut decoder = codec(format).stream_decoder(&Dialect::of("m"), 1 << 20);
            let mut out = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece, &mut out).expect("events");
            }
            decoder.finish(&mut out).expect("an end");
            assert_eq!(text_of(&out), wanted, "{format:?}");
        }
    }
}

#[test]
fn what_comes_between_is_not_passed_over() {
    // The same chunk again, with a second choice, a finish and an error between.
    let chunk = |choice: u64, text: &str, finish: Value| {
        let choice = json!({"index": choice, "delta": {"content": text}, "finish_reason": finish});
        format!(
            "data: {}\n\n",
            json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})
        )
    };
    let wire = [
        chunk(0, "a", Value::Null),
        chunk(0, "b", Value::Null),
        chunk(1, "x", Value::Null),
        chunk(0, "c", Value::Null),
        chunk(1, "y", Value::Null),
        chunk(1, "z", Value::Null),
        chunk(0, "", json!("stop")),
        chunk(1, "", json!("length")),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let mut decoder = codec(Format::OpenaiChat).stream_decoder(&Dialect::of("m"), 1 << 20);
    let mut out = Vec::new();
    decoder.push(wire.as_bytes(), &mut out).expect("events");
    decoder.finish(&mut out).expect("an end");
    let mut fold = crate::model::fold::Fold::default();
    out.into_iter().for_each(|event| fold.push(event));
    let answer = fold.finish();
    let texts: Vec<_> = answer.choices.iter().map(|c| (c.text(), c.finish.as_ref().map(|f| f.raw.clone()))).collect();
    assert_eq!(texts, [("abc".to_owned(), Some("stop".to_owned())), ("xyz".to_owned(), Some("length".to_owned()))]);
}
