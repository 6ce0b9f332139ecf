//! A value that a stream cuts, with something else between its pieces, is seen whole wherever a client puts them
//! together: an upstream of Chat's format, a stage with a window, the client's bytes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::{
    auth::Principal,
    codec::{ClientView, Dialect, codec},
    config::StreamMode,
    context::Context,
    model::{Delta, Event, Extra, Format, Operation, PartStart},
    pipeline::{
        Chain, Entry, Hold, Phase, drive,
        phase::Phases,
        stage::{EventVerdict, Outcome, Stage, Visit},
    },
};

/// Writes one text for another.
struct Swap {
    name: Arc<str>,
    texts: Texts,
}

/// From, to.
type Texts = (&'static str, &'static str);

struct Swapping(Texts);

impl Stage for Swap {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn phases(&self) -> Phases {
        Phases::default().with(Phase::Event)
    }

    fn stream(&self) -> Option<StreamMode> {
        Some(StreamMode::Window)
    }

    fn open(&self) -> Box<dyn Visit> {
        Box::new(Swapping(self.texts))
    }
}

impl Visit for Swapping {
    fn event<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        mut event: Event,
        out: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Outcome<EventVerdict>> {
        if let Event::Delta { delta: Delta::Text(text), .. } = &mut event {
            *text = text.replace(self.0.0, self.0.1);
        }
        out.push(event);
        Box::pin(std::future::ready(Ok(EventVerdict::Continue)))
    }
}

/// No value is longer.
const WINDOW: usize = 16;
/// More than a window holds.
const LONG: &str = "much more than any window would hold back. ";
const RESTORE: Texts = ("[EMAIL_1]", "bob@example.com");
const MASK: Texts = ("bob@example.com", "[EMAIL_1]");

/// A stage for each window, the outermost first.
fn chain(texts: Texts, windows: &[usize]) -> Chain {
    let entry = |size: &usize| {
        let stage = Arc::new(Swap { name: "swap".into(), texts });
        Arc::new(Entry { window: Hold::Characters(*size), ..Entry::new(stage) })
    };
    let mut chain = Chain::new(windows.iter().map(entry).collect::<Vec<_>>().into_iter());
    chain.start(1);
    chain
}

fn context(operation: Operation, format: Format) -> Context {
    let until = Instant::now() + Duration::from_secs(60);
    Context::aside(operation, format, Arc::new(Principal::default()), Vec::new(), until)
}

/// What a client of this format has read after each of these deltas, and at the end.
fn read(format: Format, texts: Texts, deltas: &[Value]) -> Vec<String> {
    read_through(&[WINDOW], format, texts, deltas)
}

fn read_through(windows: &[usize], format: Format, texts: Texts, deltas: &[Value]) -> Vec<String> {
    let (mut chain, mut cx) = (chain(texts, windows), context(Operation::Chat, format));
    let mut decoder = codec(Format::OpenaiChat).stream_decoder(&Dialect::of(""), 1 << 20);
    let mut encoder = codec(format).stream_encoder(&ClientView::default());
    let chunk = |delta: &Value, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let chunk = json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    let mut frames: Vec<String> = deltas.iter().map(|delta| chunk(delta, None)).collect();
    frames.push(chunk(&json!({}), Some("stop")) + "data: [DONE]\n\n");
    let (mut bytes, mut so_far) = (Vec::new(), Vec::new());
    for frame in frames {
        let (mut events, mut out) = (Vec::new(), Vec::new());
        decoder.push(frame.as_bytes(), &mut events).unwrap();
        for event in events {
            drive(chain.event(&mut cx, event, &mut out)).unwrap();
        }
        out.iter().filter(|event| **event != Event::End).for_each(|event| encoder.push(event, &mut bytes));
        so_far.push(String::from_utf8(bytes.clone()).unwrap());
    }
    encoder.finish(&mut bytes);
    so_far.push(String::from_utf8(bytes).unwrap());
    so_far
}

fn whole(format: Format, texts: Texts, deltas: &[Value]) -> String {
    read(format, texts, deltas).pop().unwrap_or_default()
}

fn frames(told: &str) -> Vec<Value> {
    let lines = told.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|line| *line != "[DONE]");
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a Chat client puts together of this field.
fn joined(told: &str, field: &str) -> String {
    frames(told).iter().filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str()).collect()
}

/// Blocks as an Anthropic client makes them: (type, text). They are numbered, and one ends before the next one begins.
fn blocks(told: &str) -> Vec<(String, String)> {
    let (mut blocks, mut open) = (Vec::new(), false);
    for event in frames(told) {
        let number = event["index"].as_u64();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert!(!open && number == Some(blocks.len() as u64), "{told}");
                blocks.push((event["content_block"]["type"].as_str().unwrap().to_owned(), String::new()));
                open = true;
            }
            "content_block_delta" => {
                assert!(open && number == Some(blocks.len() as u64 - 1), "{told}");
                let text = ["text", "thinking", "partial_json"].iter().find_map(|key| event["delta"][key].as_str());
                if let Some((_, all)) = blocks.last_mut() {
                    all.push_str(text.unwrap_or(""));
                }
            }
            "content_block_stop" => {
                assert!(open && number == Some(blocks.len() as u64 - 1), "{told}");
                open = false;
            }
            _ => assert!(!open || event["type"] == "ping", "{told}"),
        }
    }
    blocks
}

fn of_type(blocks: &[(String, String)], kind: &str) -> String {
    blocks.iter().filter(|(k, _)| k == kind).map(|(_, text)| text.as_str()).collect()
}

fn call(n: usize) -> Value {
    let function = json!({"name": "f", "arguments": "{}"});
    json!({"tool_calls": [{"index": n, "id": format!("t{n}"), "type": "function", "function": function}]})
}

/// Each way to cut this text in three, as the values of a field, with what `between` makes between them.
fn ways(field: &str, text: &str, between: &dyn Fn(usize) -> Value) -> Vec<Vec<Value>> {
    let cuts: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
    let says = |piece: &str| json!({ field: piece });
    let mut ways = Vec::new();
    for (n, one) in cuts.iter().copied().enumerate() {
        for two in cuts[n..].iter().copied() {
            ways.push(vec![says(&text[..one]), between(0), says(&text[one..two]), between(1), says(&text[two..])]);
        }
    }
    ways
}

/// Both ways to use a window: a text with a value, longer than the window, and what is to come of it.
fn cases() -> Vec<(Texts, String, String)> {
    let text = |value: &str| format!("so {value}, ünd more of it!");
    [RESTORE, MASK].map(|texts| (texts, text(texts.0), text(texts.1))).to_vec()
}

#[test]
fn a_chat_client_never_reads_a_value_that_something_else_cut() {
    type Between = (&'static str, fn(usize) -> Value);
    let calls: Between = ("tool_calls", call);
    let thoughts: Between = ("reasoning_content", |_| json!({"reasoning_content": "hm. "}));
    let answer: Between = ("content", |_| json!({"content": LONG}));
    let refusal: Between = ("refusal", |_| json!({"refusal": "no. "}));
    for (field, between) in [
        ("content", calls),
        ("content", thoughts),
        ("content", refusal),
        ("reasoning_content", answer),
        ("reasoning_content", calls),
        ("refusal", answer),
    ] {
        for (texts, text, wanted) in cases() {
            for deltas in ways(field, &text, &between.1) {
                let told = whole(Format::OpenaiChat, texts, &deltas);
                assert_eq!(joined(&told, field), wanted, "{deltas:?}");
                // What stood between is all there, too.
                match between.0 {
                    "tool_calls" => assert_eq!(told.matches("\"name\":\"f\"").count(), 2, "{told}"),
                    other => {
                        let said = between.1(0)[other].as_str().unwrap().repeat(2);
                        assert_eq!(joined(&told, other), said, "{deltas:?}");
                    }
                }
                assert_eq!(told.matches("[DONE]").count(), 1);
            }
        }
    }
}

#[test]
fn a_client_with_one_block_at_a_time_reads_the_value_and_its_blocks_in_turn() {
    const CLIENT: Format = Format::AnthropicMessages;
    for (texts, text, wanted) in cases() {
        for deltas in ways("content", &text, &call) {
            let blocks = blocks(&whole(CLIENT, texts, &deltas));
            assert_eq!(of_type(&blocks, "text"), wanted, "{deltas:?}");
            assert_eq!(of_type(&blocks, "tool_use"), "{}{}", "{deltas:?}");
        }
        for deltas in ways("content", &text, &|_| json!({"reasoning_content": LONG})) {
            let blocks = blocks(&whole(CLIENT, texts, &deltas));
            assert_eq!(of_type(&blocks, "text"), wanted, "{deltas:?}");
            assert_eq!(of_type(&blocks, "thinking"), LONG.repeat(2), "{deltas:?}");
        }
        // Thoughts wait for more of them as long as the answer is held back itself.
        for deltas in ways("reasoning_content", &text, &|_| json!({"content": "hm. "})) {
            let blocks = blocks(&whole(CLIENT, texts, &deltas));
            assert_eq!(of_type(&blocks, "thinking"), wanted, "{deltas:?}");
            assert_eq!(of_type(&blocks, "text"), "hm. hm. ", "{deltas:?}");
        }
    }
}

#[test]
fn thoughts_that_a_long_answer_cut_are_still_looked_at_together() {
    for (texts, value) in [(RESTORE, "bob@example.com"), (MASK, "[EMAIL_1]")] {
        let text = format!("so {}!", texts.0);
        for deltas in ways("reasoning_content", &text, &|_| json!({"content": LONG})) {
            let blocks = blocks(&whole(Format::AnthropicMessages, texts, &deltas));
            let thoughts = of_type(&blocks, "thinking");
            // What had gone out already stays: the rest is said as the stage has it.
            assert!(thoughts.contains(value) && !thoughts.contains(texts.0), "{thoughts} {deltas:?}");
            assert!(thoughts.starts_with("so ") && thoughts.ends_with('!'), "{thoughts} {deltas:?}");
            assert_eq!(of_type(&blocks, "text"), LONG.repeat(2));
        }
    }
}

#[test]
fn blocks_in_which_nothing_is_found_stay_as_they_were() {
    let deltas = [
        json!({"reasoning_content": "Let me think about it for a while."}),
        json!({"content": "I look it up."}),
        call(0),
        json!({"content": "And once more, with feeling."}),
        call(1),
    ];
    let blocks = blocks(&whole(Format::AnthropicMessages, MASK, &deltas));
    let told: Vec<(&str, &str)> = blocks.iter().map(|(kind, text)| (kind.as_str(), text.as_str())).collect();
    assert_eq!(
        told,
        [
            ("thinking", "Let me think about it for a while."),
            ("text", "I look it up."),
            ("tool_use", "{}"),
            ("text", "And once more, with feeling."),
            ("tool_use", "{}"),
        ]
    );
}

#[test]
fn an_answer_streams_on_behind_thoughts_that_could_go_on() {
    let deltas = [json!({"reasoning_content": "hm"}), json!({"content": LONG}), json!({"content": LONG})];
    let told = read(Format::AnthropicMessages, RESTORE, &deltas);
    assert!(!told[0].contains("thinking_delta"), "{}", told[0]);
    let free = &LONG[..LONG.len() - WINDOW];
    // Still without an end: the last block is open, so only its beginning is looked at.
    assert!(told[1].contains("\"thinking\":\"hm\"") && told[1].contains(free), "{}", told[1]);
    let told = read(Format::OpenaiChat, RESTORE, &deltas);
    assert_eq!((joined(&told[1], "content").as_str(), joined(&told[1], "reasoning_content").as_str()), (free, ""));
    let end = told.last().unwrap();
    assert_eq!((joined(end, "content"), joined(end, "reasoning_content")), (LONG.repeat(2), "hm".to_owned()));
}

#[test]
fn a_call_goes_out_at_once_where_parts_may_interleave() {
    let deltas = [json!({"content": "so [EMA"}), call(0), json!({"content": "IL_1]"})];
    let told = read(Format::OpenaiChat, RESTORE, &deltas);
    assert_eq!(joined(&told[1], "content"), "");
    assert_eq!(told[1].matches("\"name\":\"f\"").count(), 1, "{}", told[1]);
    assert_eq!(joined(told.last().unwrap(), "content"), "so bob@example.com");
}

#[test]
fn other_choices_and_sessions_keep_their_texts_apart() {
    let start = |choice, index| Event::PartStart { choice, index, part: PartStart::Text { extra: Extra::default() } };
    let text = |choice, index, text: &str| Event::Delta { choice, index, delta: Delta::Text(text.to_owned()) };
    let end = |choice, index| Event::PartEnd { choice, index };
    let play = |operation, events: &[Event]| {
        let (mut chain, mut cx, mut out) =
            (chain(RESTORE, &[WINDOW]), context(operation, Format::OpenaiChat), Vec::new());
        for event in events {
            drive(chain.event(&mut cx, event.clone(), &mut out)).unwrap();
        }
        out
    };
    // In a session a text is whole when it ends.
    let one = [start(0, 0), text(0, 0, "so [EMA"), end(0, 0)];
    assert_eq!(play(Operation::Realtime, &one), one);
    assert_eq!(play(Operation::Chat, &one), one[..1]);
    let events = [&one[..], &[start(1, 0), text(1, 0, "IL_1]!"), end(1, 0), Event::End]].concat();
    let wanted =
        [start(0, 0), start(1, 0), text(0, 0, "so [EMA"), end(0, 0), text(1, 0, "IL_1]!"), end(1, 0), Event::End];
    assert_eq!(play(Operation::Chat, &events), wanted);
    // Of one choice they are one text, and what came of it stands in the part that ended it.
    let events = [&one[..], &[start(0, 1), text(0, 1, "IL_1]!"), end(0, 1), Event::End]].concat();
    let wanted =
        [start(0, 0), text(0, 0, "so "), end(0, 0), start(0, 1), text(0, 1, "bob@example.com!"), end(0, 1), Event::End];
    assert_eq!(play(Operation::Chat, &events), wanted);
}

/// What one stage lets go on late is no more out of order for the next one.
#[test]
fn stages_one_behind_the_other_keep_a_text_in_order() {
    let call = json!({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let texts = ["Hello ", "a long piece of text here. ", "bob@exam", "ple.com", "x", " and so on, to the end"];
    let said = texts.concat().replace(MASK.0, MASK.1);
    for windows in [[9, 5], [5, 9], [16, 16], [3, 40], [40, 3]] {
        for between in [
            call.clone(),
            json!({"reasoning_content": "hm, let me think about that"}),
            json!({"reasoning_content": "hm"}),
        ] {
            let deltas: Vec<Value> =
                texts.iter().flat_map(|text| [json!({"content": text}), between.clone()]).collect();
            let told = read_through(&windows, Format::OpenaiChat, MASK, &deltas).pop().unwrap();
            let content = joined(&told, "content");
            // Small windows may miss the address; no letter of it moves.
            let wide = windows.iter().any(|size| *size >= WINDOW);
            let fine = |text: &str| text == said || !wide && text == texts.concat();
            assert!(fine(&content), "{windows:?}, {between}: {content}");
            let told = read_through(&windows, Format::AnthropicMessages, MASK, &deltas).pop().unwrap();
            let text: String =
                blocks(&told).into_iter().filter(|(kind, _)| kind == "text").map(|(_, text)| text).collect();
            assert!(fine(&text), "{windows:?}, {between}: {text}");
        }
    }
}
