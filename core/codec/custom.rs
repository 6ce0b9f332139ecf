//! Tools with free-text input, at upstreams that know only functions with JSON arguments. There the text travels as
//! `{"input": "…"}`; here it is taken out again, so that the client gets back the kind of call that it declared. Whole
//! answers and streams go through the same reader, whatever the pieces are. What binds the text (a grammar) has two spellings,
//! which are read here as one.

use serde_json::{Map, Value};

use super::StreamDecoder;
use crate::{
    error::Result,
    model::{Delta, Event, Format, Part, PartStart, Request, Response, Tool, ToolKind, tool::Function},
};

/// The names of a request's tools with free-text input.
pub fn names(request: &Request) -> Vec<String> {
    let custom = |tool: &Tool| match tool {
        Tool::Function(function) if function.custom => Some(function.name.clone()),
        _ => None,
    };
    request.tools.iter().filter_map(custom).collect()
}

/// Do requests of this format have tools with free text?
pub fn knows(format: Format) -> bool {
    matches!(format, Format::OpenaiChat | Format::OpenaiResponses)
}

/// What binds the text of this tool's calls, as a format other than `own` says it, flat: `{"type": "grammar", "syntax": …,
/// "definition": …}`. `None`: nothing does.
pub fn bound(function: &Function, own: Format) -> Option<Map<String, Value>> {
    let (_, fields) = function.extra.any().filter(|(format, _)| function.custom && *format != own && knows(*format))?;
    let said = fields.get("format").or_else(|| fields.get("$function.format"))?.as_object()?;
    let kind = said.get("type").and_then(Value::as_str).filter(|kind| *kind != "text")?;
    let mut flat = said.clone();
    if let Some(Value::Object(inner)) = flat.shift_remove(kind) {
        flat.extend(inner);
    }
    Some(flat)
}

/// The same with the kind's fields in an object of its name.
pub fn nested(mut flat: Map<String, Value>) -> Value {
    let Some(Value::String(kind)) = flat.shift_remove("type") else { return Value::Object(flat) };
    let mut out = Map::new();
    out.insert("type".into(), kind.as_str().into());
    out.insert(kind, Value::Object(flat));
    Value::Object(out)
}

/// Calls of these tools get their kind and their text back.
pub fn restore(names: &[String], response: &mut Response) {
    if names.is_empty() {
        return;
    }
    for part in response.choices.iter_mut().flat_map(|choice| &mut choice.parts) {
        if let Part::ToolCall(call) = part
            && call.kind == ToolKind::Function
            && names.contains(&call.name)
        {
            call.kind = ToolKind::Custom;
            let mut text = String::new();
            let mut input = Input::default();
            input.read(&call.arguments, &mut text);
            input.end(&mut text);
            call.arguments = text;
        }
    }
}

/// The same for a stream.
pub fn restored(names: &[String], inner: Box<dyn StreamDecoder>) -> Box<dyn StreamDecoder> {
    if names.is_empty() { inner } else { Box::new(Restored { inner, names: names.to_vec(), open: Vec::new() }) }
}

struct Restored {
    inner: Box<dyn StreamDecoder>,
    names: Vec<String>,
    /// Calls whose input arrives: choice, part, what of it was read.
    open: Vec<(u32, u32, Input)>,
}

impl StreamDecoder for Restored {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let mut events = Vec::new();
        let result = self.inner.push(bytes, &mut events);
        events.into_iter().for_each(|event| self.pass(event, out));
        result
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let mut events = Vec::new();
        let result = self.inner.finish(&mut events);
        events.into_iter().for_each(|event| self.pass(event, out));
        result
    }
}

impl Restored {
    fn pass(&mut self, mut event: Event, out: &mut Vec<Event>) {
        match &mut event {
            Event::PartStart { choice, index, part: PartStart::ToolCall { name, kind, .. } }
                if *kind == ToolKind::Function && self.names.contains(name) =>
            {
                *kind = ToolKind::Custom;
                self.open.push((*choice, *index, Input::default()));
            }
            Event::Delta { choice, index, delta: Delta::Text(text) } => {
                if let Some((.., input)) = self.open.iter_mut().find(|(c, i, _)| (c, i) == (choice, index)) {
                    let mut read = String::new();
                    input.read(text, &mut read);
                    if read.is_empty() {
                        return;
                    }
                    *text = read;
                }
            }
            Event::PartEnd { choice, index } => {
                let (choice, index) = (*choice, *index);
                if let Some(at) = self.open.iter().position(|(c, i, _)| (*c, *i) == (choice, index)) {
                    let mut rest = String::new();
                    self.open.swap_remove(at).2.end(&mut rest);
                    if !rest.is_empty() {
                        out.push(Event::Delta { choice, index, delta: Delta::Text(rest) });
                    }
                }
            }
            _ => {}
        }
        out.push(event);
    }
}

/// Reads `{"input": "…"}` piece by piece. Anything else goes on as it is: better raw than lost.
#[derive(Default)]
struct Input {
    state: State,
    /// Read, but not yet understood.
    pending: String,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Head,
    Text,
    /// After the text's end nothing matters.
    Over,
    Raw,
}

impl Input {
    fn read(&mut self, piece: &str, out: &mut String) {
        self.pending.push_str(piece);
        if self.state == State::Head {
            self.head();
        }
        match self.state {
            State::Head => {}
            State::Text => self.text(out),
            State::Over => self.pending.clear(),
            State::Raw => out.push_str(&std::mem::take(&mut self.pending)),
        }
    }

    /// No more comes.
    fn end(mut self, out: &mut String) {
        // `{}` and nothing at all are calls without input.
        let bare: String = self.pending.split_whitespace().collect();
        if self.state == State::Head && !matches!(bare.as_str(), "" | "{}") {
            out.push_str(&std::mem::take(&mut self.pending));
        }
    }

    fn head(&mut self) {
        let mut rest = self.pending.as_str();
        for token in ["{", "\"input\"", ":", "\""] {
            rest = rest.trim_start();
            match rest.strip_prefix(token) {
                Some(after) => rest = after,
                None if token.starts_with(rest) || rest == "}" => return,
                None => return self.state = State::Raw,
            }
        }
        let read = self.pending.len() - rest.len();
        self.pending.drain(..read);
        self.state = State::Text;
    }

    fn text(&mut self, out: &mut String) {
        let mut at = 0;
        while let Some(next) = self.pending[at..].find(['\\', '"']).map(|n| at + n) {
            out.push_str(&self.pending[at..next]);
            at = next;
            if self.pending[at..].starts_with('"') {
                self.state = State::Over;
                break;
            }
            let Some(length) = escape(&self.pending[at..]) else {
                self.pending.drain(..at);
                return;
            };
            let quoted = format!("\"{}\"", &self.pending[at..at + length]);
            out.push_str(
                &serde_json::from_str::<String>(&quoted).unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.into()),
            );
            at += length;
        }
        if self.state == State::Text {
            out.push_str(&self.pending[at..]);
        }
        self.pending.clear();
    }
}

/// Bytes of the escape at the beginning; `None`: more is needed to know.
fn escape(text: &str) -> Option<usize> {
    let whole = |mut length: usize| {
        while length < text.len() && !text.is_char_boundary(length) {
            length += 1;
        }
        (text.len() >= length).then_some(length)
    };
    if text.as_bytes().get(1)? != &b'u' {
        return whole(2);
    }
    let first = whole(6)?;
    // The first half of a pair: its other half follows, as an escape too.
    let high = text.get(2..6).and_then(|hex| u16::from_str_radix(hex, 16).ok()).is_some_and(|n| n & 0xfc00 == 0xd800);
    match text.as_bytes().get(6) {
        Some(b'\\') if high => match text.as_bytes().get(7)? {
            b'u' => whole(12),
            _ => Some(first),
        },
        None if high => None,
        _ => Some(first),
    }
}

#[cfg(test)]
mod tests;
