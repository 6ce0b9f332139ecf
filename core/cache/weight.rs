//! How much memory an answer takes, about: what is kept is bounded by it. Pure.

use serde_json::Value;

use crate::model::{
    Choice, Delta, Event, Extra, Media, MediaSource, Part, PartStart, Reasoning, Response, Text, ToolCall,
};

/// Of a whole answer.
pub fn weight(response: &Response) -> usize {
    let Response { id, model, created: _, choices, usage: _, service_tier: _, extra } = response;
    let choices: usize = choices
        .iter()
        .map(|Choice { index: _, parts, finish: _, logprobs, extra }| {
            128 + parts.iter().map(part).sum::<usize>() + logprobs.as_ref().map_or(0, value) + fields(extra)
        })
        .sum();
    512 + id.len() + model.len() + choices + fields(extra)
}

/// Of one that is bytes.
pub fn of_bytes(bytes: &[u8]) -> usize {
    512 + bytes.len()
}

/// Of an event of a stream.
pub fn of_event(event: &Event) -> usize {
    96 + match event {
        Event::Delta { delta: Delta::Text(text), .. } => text.len(),
        Event::Delta { delta: Delta::Signature(s) | Delta::Sealed(s), .. } => s.data.len(),
        Event::Delta { delta: Delta::Citation(c), .. } => {
            let texts = [&c.url, &c.title, &c.cited_text];
            texts.iter().filter_map(|t| t.as_ref()).map(String::len).sum::<usize>()
                + c.native.as_ref().map_or(0, |(_, native)| value(native))
        }
        Event::PartStart { part: start, .. } => match start {
            PartStart::Whole(whole) => part(whole),
            PartStart::Text { extra } | PartStart::Reasoning { extra } => fields(extra),
            PartStart::ToolCall { id, name, kind: _, signature, extra } => {
                id.len() + name.len() + signature.as_ref().map_or(0, |s| s.data.len()) + fields(extra)
            }
            PartStart::Refusal => 0,
        },
        Event::ChoiceExtra { choice: _, logprobs, extra } => logprobs.as_ref().map_or(0, value) + fields(extra),
        Event::Start(start) => start.id.len() + start.model.len() + fields(&start.extra),
        Event::Extra(extra) => fields(extra),
        Event::Finish { .. } | Event::PartEnd { .. } | Event::Usage(_) | Event::Ping | Event::End => 0,
    }
}

fn part(part: &Part) -> usize {
    96 + match part {
        Part::Text(Text { text, citations, cache: _, signature, extra }) => {
            let cited = |c: &crate::model::Citation| {
                let texts = [&c.url, &c.title, &c.cited_text];
                64 + texts.iter().filter_map(|t| t.as_ref()).map(String::len).sum::<usize>()
                    + c.native.as_ref().map_or(0, |(_, native)| value(native))
            };
            text.len()
                + citations.iter().map(cited).sum::<usize>()
                + signature.as_ref().map_or(0, |s| s.data.len())
                + fields(extra)
        }
        Part::Refusal(text) => text.len(),
        Part::Reasoning(Reasoning { text, signature, sealed, extra }) => {
            let sealed = signature.iter().chain(sealed).map(|s| s.data.len()).sum::<usize>();
            text.len() + sealed + fields(extra)
        }
        Part::ToolCall(ToolCall { id, name, kind: _, arguments, signature, cache: _, extra }) => {
            let signed = signature.as_ref().map_or(0, |s| s.data.len());
            id.len() + name.len() + arguments.len() + signed + fields(extra)
        }
        Part::Media(Media { source, extra, .. }) => {
            let source = match source {
                MediaSource::Base64(text) | MediaSource::Url(text) | MediaSource::Text(text) => text.len(),
                MediaSource::File { id, .. } => id.len(),
                MediaSource::Parts(parts) => parts.iter().map(self::part).sum(),
            };
            source + fields(extra)
        }
        Part::ToolResult(result) => result.parts.iter().map(self::part).sum::<usize>() + fields(&result.extra),
        Part::Native { kind, value: native, .. } => kind.len() + value(native),
    }
}

fn fields(extra: &Extra) -> usize {
    extra.any().map_or(0, |(_, fields)| fields.iter().map(|(key, field)| 32 + key.len() + value(field)).sum())
}

fn value(value: &Value) -> usize {
    32 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(self::value).sum(),
        Value::Object(map) => map.iter().map(|(key, field)| 32 + key.len() + self::value(field)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
