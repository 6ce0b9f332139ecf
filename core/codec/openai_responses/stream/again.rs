//! The ends of an item say again what its pieces said. Read without a tree, so that what says nothing new costs little. A frame
//! that is not exactly of the usual shape is none for here, and is read the long way. Knows only frames, not what was told.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::plain::Text;

/// What a frame says again.
pub enum Again<'a> {
    /// A text, at its place in a message.
    Text { at: u64, text: Cow<'a, str> },
    /// A part of a message: its text, and how many citations stand on it.
    Part { at: u64, text: Cow<'a, str>, citations: usize },
    /// A message of so many parts.
    Message { parts: u64 },
    /// A call's arguments, of which there may be more to say.
    Arguments { arguments: Cow<'a, str> },
    /// The same, and that the call has ended.
    Call { arguments: Cow<'a, str> },
}

/// The item's number, and what is said of it.
pub fn again<'a>(name: &str, frame: &'a str) -> Option<(u64, Again<'a>)> {
    match name {
        "response.output_text.done" => {
            let TextDone { kind, output_index, content_index: at, text } = serde_json::from_str(frame).ok()?;
            (kind == name).then_some((output_index, Again::Text { at, text }))
        }
        "response.content_part.done" => {
            let PartDone { kind, output_index, content_index: at, part } = serde_json::from_str(frame).ok()?;
            let Text { kind: part_kind, text, annotations, logprobs } = part;
            let plain = kind == name && part_kind == "output_text" && logprobs.is_empty();
            plain.then_some((output_index, Again::Part { at, text, citations: annotations.len() }))
        }
        "response.function_call_arguments.done" => {
            let ArgumentsDone { kind, output_index, arguments } = serde_json::from_str(frame).ok()?;
            (kind == name).then_some((output_index, Again::Arguments { arguments }))
        }
        "response.output_item.done" => {
            let ItemDone { kind, output_index, item } = serde_json::from_str(frame).ok()?;
            let again = match (&*item.kind, item.content, item.arguments) {
                ("message", Some(content), None) => Again::Message { parts: content.len() as u64 },
                ("function_call", None, Some(arguments)) => Again::Call { arguments },
                _ => return None,
            };
            (kind == name).then_some((output_index, again))
        }
        _ => None,
    }
}

/// Does this frame only say once more that the answer has begun?
pub fn is_running(name: &str, frame: &str) -> bool {
    let kind = frame.strip_prefix("{\"type\":\"").and_then(|rest| rest.strip_prefix(name));
    matches!(name, "response.in_progress" | "response.queued") && kind.is_some_and(|rest| rest.starts_with('"'))
}

#[derive(Deserialize)]
struct TextDone<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    output_index: u64,
    content_index: u64,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ArgumentsDone<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    output_index: u64,
    #[serde(borrow)]
    arguments: Cow<'a, str>,
}

#[derive(Deserialize)]
struct PartDone<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    output_index: u64,
    content_index: u64,
    #[serde(borrow)]
    part: Text<'a>,
}

#[derive(Deserialize)]
struct ItemDone<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    output_index: u64,
    #[serde(borrow)]
    item: Done<'a>,
}

#[derive(Deserialize)]
struct Done<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    arguments: Option<Cow<'a, str>>,
}
