//! Events to this family's stream. Parts follow one another; usage and the finish are held for the last event, because other
//! families tell them in any order.

use serde_json::{Map, Value, json};

use super::super::{
    logprobs, response,
    wire::{self, FORMAT},
};
use crate::{
    codec::{
        ClientView, StreamEncoder,
        alike::Mould,
        calls::{CUSTOM_HEAD, CUSTOM_TAIL, escape},
        serial::Serial,
        signature, sse, written,
    },
    error::Error,
    model::{Citation, Delta, Event, Extra, Finish, Part, PartStart, ToolKind, Usage},
};

pub struct Encoder {
    serial: Serial,
    writer: Writer,
}

impl Encoder {
    pub fn new(view: ClientView) -> Self {
        Encoder { serial: Serial::default(), writer: Writer { view, ..Writer::default() } }
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>) {
        let Encoder { serial, writer } = self;
        if !writer.done {
            serial.push(event, &mut |event| writer.event(event, out));
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let Encoder { serial, writer } = self;
        if !writer.done {
            serial.finish(&mut |event| writer.event(event, out));
            writer.end(out);
        }
    }

    fn error(&mut self, error: &Error, _request_id: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.writer.done, true) {
            let delta = json!({"finish_reason": "ERROR", "error": error.message});
            write("message-end", None, delta, out);
        }
    }
}

#[derive(Default)]
struct Writer {
    view: ClientView,
    started: bool,
    done: bool,
    id: String,
    usage: Option<Usage>,
    finish: Option<Finish>,
    extra: Extra,
    beside: Vec<Value>,
    part: Option<PartStart>,
    is_plan: bool,
    content: u64,
    calls: u64,
    citations: u64,
    /// Citations of the open text, the text, and what the texts before it count: where they stand is known when it is over.
    held: Vec<Citation>,
    said: String,
    before: u64,
    refused: bool,
    /// Of the text that follows.
    logprobs: Option<Value>,
    mould: Mould,
}

impl Writer {
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if !matches!(event, Event::Delta { delta: Delta::Text(_), .. }) {
            self.mould.forget();
        }
        match event {
            Event::Start(start) => {
                self.id.clone_from(&start.id);
                self.add_extra(&start.extra);
            }
            Event::PartStart { index, part, .. } => {
                self.start(out);
                self.part_start(*index, part, out);
            }
            Event::Delta { choice, index, delta: Delta::Text(text) } => {
                if matches!(self.part, Some(PartStart::Text { .. })) {
                    self.said.push_str(text);
                }
                if self.mould.pour(*choice, *index, text, out) {
                    return;
                }
                let from = out.len();
                self.delta(&Delta::Text(text.clone()), out);
                let key = match &self.part {
                    Some(PartStart::Text { .. }) if self.is_plan => "tool_plan",
                    Some(PartStart::Text { .. } | PartStart::Refusal) => "text",
                    Some(PartStart::Reasoning { .. }) => "thinking",
                    Some(PartStart::ToolCall { kind: ToolKind::Function, .. }) => "arguments",
                    _ => return,
                };
                self.mould.learn(*choice, *index, key, text, &out[from..]);
            }
            Event::Delta { delta, .. } => self.delta(delta, out),
            Event::PartEnd { .. } => self.part_end(out),
            Event::Finish { choice: 0, finish } => self.finish = Some(finish.clone()),
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, FORMAT),
            Event::Extra(extra) => self.add_extra(extra),
            Event::ChoiceExtra { choice: 0, logprobs, .. } => {
                self.logprobs = logprobs.as_ref().and_then(logprobs::joined)
            }
            Event::Ping | Event::End | Event::Finish { .. } | Event::ChoiceExtra { .. } => {}
        }
    }

    fn add_extra(&mut self, extra: &Extra) {
        for (key, value) in extra.of(FORMAT).into_iter().flatten() {
            self.extra.insert(FORMAT, key, value.clone());
        }
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let message = json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
        let id = response::answer_id(&self.id, &self.view);
        let event = json!({"id": id, "type": "message-start", "delta": {"message": message}});
        sse::write(Some("message-start"), event.to_string().as_bytes(), out);
    }

    fn part_start(&mut self, index: u32, part: &PartStart, out: &mut Vec<u8>) {
        self.part = Some(part.clone());
        self.is_plan = false;
        match part {
            PartStart::Text { extra } if wire::is_plan(extra) && self.content == 0 => self.is_plan = true,
            PartStart::Text { extra } => self.begin_content(json!({"type": "text", "text": ""}), extra, out),
            PartStart::Refusal => {
                self.refused = true;
                self.begin_content(json!({"type": "text", "text": ""}), &Extra::default(), out);
            }
            PartStart::Reasoning { extra } => {
                self.begin_content(json!({"type": "thinking", "thinking": ""}), extra, out);
            }
            PartStart::ToolCall { id, name, kind, signature, extra } => {
                let seed = response::call_seed(&response::answer_id(&self.id, &self.view), index as usize);
                let beside = signature::beside_call(id, signature.as_ref());
                let id = response::call_id(id, &seed, signature.as_ref());
                let mut call = wire::write_call(&id, name, "", beside, extra);
                let head = if *kind == ToolKind::Custom { CUSTOM_HEAD } else { "" };
                call["function"]["arguments"] = head.into();
                let message = json!({"message": {"tool_calls": call}});
                write("tool-call-start", Some(self.calls), message, out);
            }
            PartStart::Whole(Part::Native { format: FORMAT, kind: _, value }) => {
                self.begin_content(value.clone(), &Extra::default(), out);
            }
            PartStart::Whole(other) => {
                self.beside.extend(response::beside_content(other));
                self.part = None;
            }
        }
    }

    fn begin_content(&mut self, mut item: Value, extra: &Extra, out: &mut Vec<u8>) {
        if let Value::Object(item) = &mut item {
            wire::give_back(item, extra);
        }
        write("content-start", Some(self.content), json!({"message": {"content": item}}), out);
    }

    fn delta(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        let Some(part) = &self.part else { return };
        let content = |item: Value| json!({"message": {"content": item}});
        match (part, delta) {
            (PartStart::Text { .. }, Delta::Text(text)) if self.is_plan => {
                write("tool-plan-delta", None, json!({"message": {"tool_plan": text}}), out);
            }
            (PartStart::Text { .. }, Delta::Citation(citation)) => self.held.push(citation.clone()),
            (PartStart::Text { .. } | PartStart::Refusal, Delta::Text(text)) => {
                let delta = content(json!({"text": text}));
                match self.logprobs.take() {
                    None => write("content-delta", Some(self.content), delta, out),
                    Some(piece) => {
                        let told =
                            json!({"type": "content-delta", "index": self.content, "delta": delta, "logprobs": piece});
                        sse::write(Some("content-delta"), told.to_string().as_bytes(), out);
                    }
                }
            }
            (PartStart::Reasoning { .. }, Delta::Text(text)) => {
                write("content-delta", Some(self.content), content(json!({"thinking": text})), out);
            }
            (PartStart::Text { .. } | PartStart::Reasoning { .. }, Delta::Signature(signed)) if !self.is_plan => {
                let item = json!({"signature": signature::write(signed, FORMAT)});
                write("content-delta", Some(self.content), content(item), out);
            }
            (PartStart::Reasoning { .. }, Delta::Sealed(sealed)) => {
                let item = json!({"data": signature::write(sealed, FORMAT)});
                write("content-delta", Some(self.content), content(item), out);
            }
            (PartStart::ToolCall { kind, .. }, Delta::Text(text)) => {
                let escaped = (*kind == ToolKind::Custom).then(|| escape(text));
                self.arguments(escaped.as_deref().unwrap_or(text), out);
            }
            _ => {}
        }
    }

    fn arguments(&self, text: &str, out: &mut Vec<u8>) {
        let call = json!({"function": {"arguments": text}});
        write("tool-call-delta", Some(self.calls), json!({"message": {"tool_calls": call}}), out);
    }

    /// What was said of sources while the text was open.
    fn cite(&mut self, out: &mut Vec<u8>) {
        for citation in std::mem::take(&mut self.held) {
            let value = wire::write_citation(&citation, self.content as usize, self.before, &self.said);
            write("citation-start", Some(self.citations), json!({"message": {"citations": value}}), out);
            write("citation-end", Some(self.citations), Value::Null, out);
            self.citations += 1;
        }
        if !self.is_plan {
            self.before += self.said.chars().count() as u64;
        }
        self.said.clear();
    }

    fn part_end(&mut self, out: &mut Vec<u8>) {
        self.cite(out);
        match self.part.take() {
            None => {}
            Some(PartStart::Text { .. }) if self.is_plan => {}
            Some(PartStart::ToolCall { kind, .. }) => {
                if kind == ToolKind::Custom {
                    self.arguments(CUSTOM_TAIL, out);
                }
                write("tool-call-end", Some(self.calls), Value::Null, out);
                self.calls += 1;
            }
            Some(_) => {
                write("content-end", Some(self.content), Value::Null, out);
                self.content += 1;
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.done = true;
        self.start(out);
        let mut delta = Map::new();
        let word = wire::finish_reason(self.finish.as_ref(), self.calls > 0, self.refused);
        delta.insert("finish_reason".to_owned(), word.into());
        if let Some(usage) = &self.usage {
            delta.insert("usage".to_owned(), Value::Object(wire::write_usage(usage)));
        }
        if !self.beside.is_empty() {
            delta.insert(response::BESIDE.to_owned(), Value::Array(std::mem::take(&mut self.beside)));
        }
        delta.extend(response::own(&self.extra));
        write("message-end", None, Value::Object(delta), out);
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

fn write(kind: &str, index: Option<u64>, delta: Value, out: &mut Vec<u8>) {
    let mut event = Map::new();
    event.insert("type".to_owned(), kind.into());
    if let Some(index) = index {
        event.insert("index".to_owned(), index.into());
    }
    if !delta.is_null() {
        event.insert("delta".to_owned(), delta);
    }
    sse::write(Some(kind), &written::object(&event), out);
}
