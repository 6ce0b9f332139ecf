//! What a client was told of each item so far, and how the item reads as a whole.

use serde_json::{Map, Value};

use super::super::{
    wire::{annotation, code_points},
    write::{self, Object, Thought},
};
use crate::{
    codec::written,
    model::{Citation, Extra, Signature, Text, ToolCall},
};

pub struct Item {
    pub id: String,
    pub state: State,
    /// Nothing more joins it: it ends with its last part.
    pub detached: bool,
    pub done: bool,
    /// As it became, in bytes: said when it ends, and once more when all does. Empty: not yet, or it changed since.
    pub written: Vec<u8>,
}

pub enum State {
    Message { says: Vec<Say>, fields: Map<String, Value> },
    Thought(Think),
    Call(Call),
    Whole(Value),
}

impl Item {
    pub fn all_ended(&self) -> bool {
        match &self.state {
            State::Message { says, .. } => says.iter().all(|say| say.ended),
            State::Thought(think) => think.pieces.iter().all(|piece| piece.ended),
            State::Call(call) => call.ended,
            State::Whole(_) => true,
        }
    }

    pub fn is_sealed(&self) -> bool {
        matches!(&self.state, State::Thought(think) if think.sealed.is_some())
    }

    /// As it begins.
    pub fn write_added(&self, out: &mut Vec<u8>) {
        match &self.state {
            State::Message { fields, .. } => write_message(&self.id, "in_progress", &[], fields, out),
            State::Call(Call { call, call_id, .. }) => {
                let mut item = Object::open(out);
                write::call(call, Some(&self.id), call_id, Some("in_progress"), &call.arguments, &mut item);
                item.close();
            }
            _ => self.write(out),
        }
    }

    /// As it is so far, or became.
    pub fn write(&self, out: &mut Vec<u8>) {
        match &self.state {
            State::Message { says, fields } => write_message(&self.id, "completed", says, fields, out),
            State::Thought(think) => written::value(&think.whole().value(Some(&self.id), None), out),
            State::Call(Call { call, call_id, .. }) => {
                let arguments = write::arguments(call.kind, &call.arguments);
                let mut item = Object::open(out);
                write::call(call, Some(&self.id), call_id, Some("completed"), arguments, &mut item);
                item.close();
            }
            State::Whole(value) => written::value(value, out),
        }
    }
}

fn write_message(id: &str, status: &str, says: &[Say], fields: &Map<String, Value>, out: &mut Vec<u8>) {
    let mut item = Object::open(out);
    write::message_head(Some(id), status, &mut item);
    let content = item.key("content");
    content.push(b'[');
    for (n, say) in says.iter().enumerate() {
        if n > 0 {
            content.push(b',');
        }
        say.write(content);
    }
    content.push(b']');
    write::message_tail(Some(fields), &mut item);
    item.close();
}

/// A part of a message.
#[derive(Default)]
pub struct Say {
    pub text: Text,
    pub refusal: bool,
    /// Came whole, and is no text.
    pub whole: Option<Value>,
    pub logprobs: Vec<Value>,
    /// Of its citations, those that are annotations.
    annotations: usize,
    pub ended: bool,
    /// Its end was told.
    pub told: bool,
}

impl Say {
    pub fn text(mut extra: Extra) -> Say {
        if let Some(fields) = extra.any_mut() {
            // The message's own fields stand around it.
            fields.retain(|key, _| !key.starts_with('$'));
        }
        Say { text: Text { extra, ..Text::default() }, ..Say::default() }
    }

    pub fn refusal() -> Say {
        Say { refusal: true, ..Say::default() }
    }

    pub fn whole(value: Value) -> Say {
        Say { whole: Some(value), ..Say::default() }
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        match &self.whole {
            Some(value) => written::value(value, out),
            None if self.refusal => written::value(&write::refusal(&self.text.text), out),
            None => {
                let mut part = Object::open(out);
                write::output_text(&self.text, Some(&self.logprobs), &mut part);
                part.close();
            }
        }
    }

    /// One more citation; where it is an annotation, which one it is and what it says.
    pub fn cite(&mut self, citation: &Citation) -> Option<(usize, Value)> {
        self.text.citations.push(citation.clone());
        // Texts are long, and most citations say where they end.
        let length = if citation.end.is_none() { code_points(&self.text.text) } else { 0 };
        let said = annotation(citation, length)?;
        self.annotations += 1;
        Some((self.annotations - 1, said))
    }
}

/// Reasoning, in the pieces in which it came.
pub struct Think {
    pub pieces: Vec<Thinking>,
    pub sealed: Option<Signature>,
    fields: Map<String, Value>,
}

pub struct Thinking {
    raw: bool,
    /// Its place in its list, once it is announced.
    at: Option<usize>,
    text: String,
    pub ended: bool,
    told: bool,
}

impl Think {
    pub fn new(fields: Map<String, Value>) -> Think {
        Think { pieces: Vec::new(), sealed: None, fields }
    }

    pub fn begin(&mut self, raw: bool) -> usize {
        self.pieces.push(Thinking { raw, at: None, text: String::new(), ended: false, told: false });
        self.pieces.len() - 1
    }

    /// The list and the place of a piece, and whether it is announced with this.
    pub fn open(&mut self, sub: usize) -> (bool, usize, bool) {
        let raw = self.pieces[sub].raw;
        if let Some(at) = self.pieces[sub].at {
            return (raw, at, false);
        }
        let at = self.pieces.iter().filter(|p| p.raw == raw && p.at.is_some()).count();
        self.pieces[sub].at = Some(at);
        (raw, at, true)
    }

    pub fn push(&mut self, sub: usize, text: &str) {
        self.pieces[sub].text.push_str(text);
    }

    /// `None` where there is nothing to tell.
    pub fn end(&mut self, sub: usize) -> Option<(bool, usize, String)> {
        let piece = &mut self.pieces[sub];
        let at = piece.at?;
        (!std::mem::replace(&mut piece.told, true)).then(|| (piece.raw, at, piece.text.clone()))
    }

    /// Signatures come in pieces.
    pub fn sign(&mut self, more: &Signature) {
        match &mut self.sealed {
            Some(mine) if mine.origin == more.origin => mine.data.push_str(&more.data),
            mine => *mine = Some(more.clone()),
        }
    }

    pub fn whole(&self) -> Thought {
        let texts = |raw: bool| {
            let mut list: Vec<_> = self.pieces.iter().filter(|p| p.raw == raw && p.at.is_some()).collect();
            list.sort_by_key(|p| p.at);
            list.into_iter().map(|p| p.text.clone()).collect()
        };
        Thought {
            summary: texts(false),
            content: texts(true),
            sealed: self.sealed.clone(),
            fields: self.fields.clone(),
        }
    }
}

pub struct Call {
    pub call: ToolCall,
    pub call_id: String,
    pub ended: bool,
}
