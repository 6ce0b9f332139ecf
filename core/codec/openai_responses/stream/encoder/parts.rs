//! The kinds of items that a client's stream is made of: messages, thoughts, calls. Each begins, says what it says and
//! ends in the events that clients of this format know; which one is open is the encoder's business.

use serde_json::{Value, json};

use super::{
    super::{
        super::{
            namespace,
            wire::{CONTENT, MORE, call_id, item_fields, marked},
            write,
        },
        told::{Call, Say, State, Think},
    },
    CLOSE, Encoder, Place,
};
use crate::{
    codec::written,
    model::{Extra, ToolCall, ToolKind},
};

impl Encoder {
    /// A part of the message that is open, or of a new one.
    pub(super) fn say(&mut self, part: u32, say: Say, extra: Option<&Extra>, out: &mut Vec<u8>) {
        self.refused |= matches!(say, Say { refusal: true, .. });
        let own = extra.filter(|e| !marked(e, MORE)).and_then(item_fields).cloned();
        self.let_go(own.is_some(), true, out);
        let item = match self.message {
            Some(item) => {
                self.end_says(item, out);
                item
            }
            None => {
                let mut fields = own.unwrap_or_default();
                let id = match fields.shift_remove("id") {
                    Some(Value::String(id)) => id,
                    _ => self.made_id("message"),
                };
                let item = self.add(id, State::Message { says: Vec::new(), fields }, out);
                self.message = Some(item);
                item
            }
        };
        let State::Message { says, .. } = &mut self.items[item].state else { return };
        let sub = says.len();
        says.push(say);
        self.places.push((part, item, sub));
        self.part("response.content_part.added", item, sub, out);
    }

    /// Parts of an open message that have had all.
    pub(super) fn end_says(&mut self, item: usize, out: &mut Vec<u8>) {
        let State::Message { says, .. } = &self.items[item].state else { return };
        let over: Vec<usize> = (0..says.len()).filter(|at| says[*at].ended).collect();
        over.into_iter().for_each(|sub| self.say_done(item, sub, out));
    }

    pub(super) fn say_done(&mut self, item: usize, sub: usize, out: &mut Vec<u8>) {
        let State::Message { says, .. } = &mut self.items[item].state else { return };
        let say = &mut says[sub];
        if std::mem::replace(&mut say.told, true) {
            return;
        }
        let name = match say {
            Say { refusal: true, .. } => Some("response.refusal.done"),
            Say { whole: None, .. } => Some("response.output_text.done"),
            _ => None,
        };
        if let Some(name) = name {
            self.open(name, item, Place::Content(sub), out);
            if let Some(Say { text, logprobs, refusal, .. }) = self.said(item, sub) {
                out.extend_from_slice(if *refusal { b",\"refusal\":" } else { b",\"text\":" });
                written::text(&text.text, out);
                if !refusal {
                    out.extend_from_slice(b",\"logprobs\":");
                    written::list(logprobs, out);
                }
            }
            out.extend_from_slice(CLOSE);
        }
        self.part("response.content_part.done", item, sub, out);
    }

    /// An event that tells a part of a message as it is.
    fn part(&mut self, name: &'static str, item: usize, sub: usize, out: &mut Vec<u8>) {
        self.open(name, item, Place::Content(sub), out);
        if let Some(say) = self.said(item, sub) {
            out.extend_from_slice(b",\"part\":");
            say.write(out);
        }
        out.extend_from_slice(CLOSE);
    }

    fn said(&self, item: usize, sub: usize) -> Option<&Say> {
        let State::Message { says, .. } = &self.items[item].state else { return None };
        says.get(sub)
    }

    pub(super) fn think(&mut self, part: u32, extra: &Extra, out: &mut Vec<u8>) {
        let own = item_fields(extra).filter(|_| !marked(extra, MORE)).cloned();
        let sealed = self.thought.is_some_and(|at| self.items[at].is_sealed());
        self.let_go(true, own.is_some() || sealed, out);
        let item = match self.thought {
            Some(item) => item,
            None => {
                let mut fields = own.unwrap_or_default();
                let id = match fields.shift_remove("id") {
                    Some(Value::String(id)) => id,
                    _ => self.made_id("reasoning"),
                };
                let item = self.add(id, State::Thought(Think::new(fields)), out);
                self.thought = Some(item);
                item
            }
        };
        let State::Thought(think) = &mut self.items[item].state else { return };
        let sub = think.begin(marked(extra, CONTENT));
        self.places.push((part, item, sub));
    }

    /// The place of a thought's piece in its list, announced if it was not.
    pub(super) fn think_place(&mut self, item: usize, sub: usize, out: &mut Vec<u8>) -> Option<(bool, usize)> {
        let State::Thought(think) = &mut self.items[item].state else { return None };
        let (raw, at, new) = think.open(sub);
        if new {
            let id = self.items[item].id.clone();
            if raw {
                let part = json!({"type": "reasoning_text", "text": ""});
                let event = json!({"item_id": id, "output_index": item, "content_index": at, "part": part});
                self.emit("response.content_part.added", event, out);
            } else {
                let part = json!({"type": "summary_text", "text": ""});
                let event = json!({"item_id": id, "output_index": item, "summary_index": at, "part": part});
                self.emit("response.reasoning_summary_part.added", event, out);
            }
        }
        Some((raw, at))
    }

    pub(super) fn think_done(&mut self, item: usize, sub: usize, out: &mut Vec<u8>) {
        let State::Thought(think) = &mut self.items[item].state else { return };
        let Some((raw, at, text)) = think.end(sub) else { return };
        let id = self.items[item].id.clone();
        let (index, names, kind) = if raw {
            ("content_index", ["response.reasoning_text.done", "response.content_part.done"], "reasoning_text")
        } else {
            let names = ["response.reasoning_summary_text.done", "response.reasoning_summary_part.done"];
            ("summary_index", names, "summary_text")
        };
        let mut event = json!({"item_id": id, "output_index": item});
        event[index] = at.into();
        let mut first = event.clone();
        first["text"] = text.as_str().into();
        self.emit(names[0], first, out);
        event["part"] = json!({"type": kind, "text": text});
        self.emit(names[1], event, out);
    }

    pub(super) fn call(&mut self, part: u32, mut call: ToolCall, out: &mut Vec<u8>) {
        self.let_go(true, true, out);
        namespace::tell(&call.name, &mut call.extra, self.view.echo.as_deref());
        let kind = if call.kind == ToolKind::Custom { "custom_tool_call" } else { "function_call" };
        let id = write::own_id(&call.extra, None).map_or_else(|| self.made_id(kind), str::to_owned);
        let call_id = call_id(&call.id, call.signature.as_ref(), &self.id, self.items.len(), &call.name);
        let item = self.add(id, State::Call(Call { call, call_id, ended: false }), out);
        self.places.push((part, item, 0));
    }

    pub(super) fn call_done(&mut self, item: usize, out: &mut Vec<u8>) {
        let State::Call(Call { call, .. }) = &mut self.items[item].state else { return };
        let kind = call.kind;
        if call.arguments != write::arguments(kind, &call.arguments) {
            call.arguments = write::arguments(kind, &call.arguments).to_owned();
            let text = call.arguments.clone();
            self.piece("response.function_call_arguments.delta", item, Place::Item, &text, None, out);
        }
        let (name, key) = match kind {
            ToolKind::Function => ("response.function_call_arguments.done", ",\"arguments\":"),
            ToolKind::Custom => ("response.custom_tool_call_input.done", ",\"input\":"),
        };
        self.open(name, item, Place::Item, out);
        if let State::Call(Call { call, .. }) = &self.items[item].state {
            out.extend_from_slice(key.as_bytes());
            written::text(&call.arguments, out);
        }
        out.extend_from_slice(CLOSE);
    }
}
