//! Events to this family's stream. The wire has one open block at a time, so parts that interleave wait for their turn;
//! usage and the stop reason are held for `message_delta` at the end, because other families tell usage last.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::super::{
    error, response,
    wire::{self, FORMAT},
};
use crate::{
    codec::{
        ClientView, StreamEncoder,
        calls::{CUSTOM_HEAD, CUSTOM_TAIL, escape},
        signature, sse, written,
    },
    error::Error,
    model::{
        Delta, Event, Extra, Finish, Part, PartStart, Reasoning, Signature, Start, Text, ToolCall, ToolKind, Usage,
    },
};

pub struct Encoder {
    view: ClientView,
    /// Held until something follows it: usage may come right behind and belongs inside.
    start: Start,
    started: bool,
    done: bool,
    usage: Option<Usage>,
    finish: Option<Finish>,
    extra: Extra,
    /// Parts that no block can say.
    beside: Vec<Value>,
    /// The first is the open block; the others wait for it to end.
    queue: VecDeque<Waiting>,
    blocks: u32,
    called: bool,
    refused: bool,
}

struct Waiting {
    part: u32,
    start: PartStart,
    deltas: VecDeque<Delta>,
    ended: bool,
    /// The block's index once it is open.
    block: Option<u32>,
    /// SDKs let one signature replace another: it is written once, at the end.
    signature: Option<Signature>,
}

impl Encoder {
    pub fn new(view: ClientView) -> Self {
        Encoder {
            view,
            start: Start::default(),
            started: false,
            done: false,
            usage: None,
            finish: None,
            extra: Extra::default(),
            beside: Vec::new(),
            queue: VecDeque::new(),
            blocks: 0,
            called: false,
            refused: false,
        }
    }

    fn message_start(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let Start { id, model, created: _, service_tier: _, extra } = &self.start;
        let model = if model.is_empty() { &self.view.model } else { model };
        let mut message = json!({
            "id": wire::message_id(id, &self.view.request_id),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": wire::write_usage(self.usage.as_ref()),
        });
        if let Value::Object(message) = &mut message {
            super::super::block::give_back(message, extra);
        }
        write("message_start", &json!({"type": "message_start", "message": message}), out);
    }

    fn part_start(&mut self, part: u32, start: &PartStart) {
        let mut waiting =
            Waiting { part, start: start.clone(), deltas: VecDeque::new(), ended: false, block: None, signature: None };
        match start {
            PartStart::ToolCall { .. } => self.called = true,
            PartStart::Refusal => self.refused = true,
            PartStart::Whole(whole) => {
                match whole {
                    Part::Native { format: FORMAT, .. } => {}
                    Part::Native { .. } | Part::Media(_) | Part::ToolResult(_) => {
                        self.beside.extend(response::beside_content(whole));
                        return;
                    }
                    _ => {}
                }
                self.called |= matches!(whole, Part::ToolCall(_));
                self.refused |= matches!(whole, Part::Refusal(_));
                if let Some((start, deltas)) = taken_apart(whole) {
                    waiting.start = start;
                    waiting.deltas = deltas;
                }
            }
            PartStart::Text { .. } | PartStart::Reasoning { .. } => {}
        }
        self.queue.push_back(waiting);
    }

    /// Writes all that may be written: the first part as far as it goes, then the next one if that ended.
    fn advance(&mut self, out: &mut Vec<u8>) {
        while let Some(front) = self.queue.front_mut() {
            if front.opens_at_once() {
                let seed =
                    response::call_seed(&wire::message_id(&self.start.id, &self.view.request_id), front.part as usize);
                front.open(&mut self.blocks, &seed, out);
            }
            while let Some(delta) = front.deltas.pop_front() {
                front.delta(delta, &mut self.blocks, out);
            }
            if !front.ended {
                return;
            }
            front.close(&mut self.blocks, out);
            self.queue.pop_front();
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.message_start(out);
        for waiting in &mut self.queue {
            waiting.ended = true;
        }
        self.advance(out);
        let word = self.finish.as_ref().map(|finish| wire::stop_reason(finish, self.called, self.refused));
        let mut delta = Map::new();
        delta.insert("stop_reason".to_owned(), word.map_or(Value::Null, Value::from));
        let sequence = self.finish.as_ref().and_then(|f| f.stop_sequence.clone());
        delta.insert("stop_sequence".to_owned(), sequence.map_or(Value::Null, Value::from));
        if let (Some(finish), Some(word)) = (&self.finish, word) {
            let details = wire::stop_details(finish, word);
            if !details.is_null() {
                delta.insert("stop_details".to_owned(), details);
            }
        }
        let mut event = Map::new();
        event.insert("type".to_owned(), "message_delta".into());
        let late = self.extra.of(FORMAT).cloned().unwrap_or_default();
        for (key, value) in late {
            // Only the container stands inside the delta.
            let place = if key == "container" { &mut delta } else { &mut event };
            place.insert(key, value);
        }
        event.insert("delta".to_owned(), Value::Object(delta));
        event.insert("usage".to_owned(), Value::Object(wire::write_usage(self.usage.as_ref())));
        if !self.beside.is_empty() {
            event.insert(response::BESIDE.to_owned(), Value::Array(std::mem::take(&mut self.beside)));
        }
        write("message_delta", &Value::Object(event), out);
        sse::write(Some("message_stop"), br#"{"type":"message_stop"}"#, out);
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.done {
            return;
        }
        if let Some(apart) = signature::apart(event) {
            return apart.iter().for_each(|event| self.push(event, out));
        }
        match event {
            Event::Start(start) => self.start = start.clone(),
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, FORMAT),
            // One answer is all this wire has.
            Event::PartStart { choice: 0, index, part } => {
                self.message_start(out);
                self.part_start(*index, part);
                self.advance(out);
            }
            Event::Delta { choice: 0, index, delta } => {
                self.message_start(out);
                if let Some(waiting) = self.queue.iter_mut().find(|w| w.part == *index && !w.ended) {
                    waiting.deltas.push_back(delta.clone());
                    self.advance(out);
                }
            }
            Event::PartEnd { choice: 0, index } => {
                if let Some(waiting) = self.queue.iter_mut().find(|w| w.part == *index && !w.ended) {
                    waiting.ended = true;
                    self.advance(out);
                }
            }
            Event::Finish { choice: 0, finish } => {
                self.message_start(out);
                self.finish = Some(finish.clone());
            }
            Event::Extra(extra) => {
                for (key, value) in extra.of(FORMAT).into_iter().flatten() {
                    self.extra.insert(FORMAT, key, value.clone());
                }
            }
            Event::Ping => self.keep_alive(out),
            Event::End => self.end(out),
            Event::PartStart { .. }
            | Event::Delta { .. }
            | Event::PartEnd { .. }
            | Event::Finish { .. }
            | Event::ChoiceExtra { .. } => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.end(out);
    }

    fn error(&mut self, error: &Error, request_id: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.done, true) {
            write("error", &error::body(error, request_id), out);
        }
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        if !self.done {
            self.message_start(out);
            sse::write(Some("ping"), br#"{"type":"ping"}"#, out);
        }
    }
}

impl Waiting {
    /// Text and reasoning wait for their first delta: empty parts make no block, and only then is it known whether
    /// reasoning is sealed.
    fn opens_at_once(&self) -> bool {
        self.block.is_none()
            && !matches!(self.start, PartStart::Text { .. } | PartStart::Reasoning { .. } | PartStart::Refusal)
    }

    fn open(&mut self, blocks: &mut u32, seed: &str, out: &mut Vec<u8>) {
        let mut input = None;
        let (mut block, extra) = match &self.start {
            PartStart::Text { extra } => (json!({"type": "text", "text": ""}), Some(extra)),
            PartStart::Refusal => (json!({"type": "text", "text": ""}), None),
            PartStart::Reasoning { extra } => {
                (json!({"type": "thinking", "thinking": "", "signature": ""}), Some(extra))
            }
            PartStart::ToolCall { id, name, kind, signature, extra } => {
                if *kind == ToolKind::Custom {
                    input = Some(CUSTOM_HEAD.to_owned());
                }
                let id = response::call_id(id, seed, signature.as_ref());
                (json!({"type": "tool_use", "id": id, "name": name, "input": {}}), Some(extra))
            }
            PartStart::Whole(Part::Native { value, .. }) => {
                let mut value = value.clone();
                // As the vendor streams it: an empty input first, its text behind.
                if let Some(Value::Object(map)) = value.get_mut("input").filter(|_| value_is_call(&self.start)) {
                    input = Some(Value::Object(std::mem::take(map)).to_string());
                }
                (value, None)
            }
            PartStart::Whole(_) => return,
        };
        if let (Value::Object(block), Some(extra)) = (&mut block, extra) {
            super::super::block::give_back(block, extra);
        }
        self.start_block(&block, blocks, out);
        if let Some(input) = input {
            self.write_delta(Body::InputJson { partial_json: &input }, out);
        }
    }

    fn start_block(&mut self, block: &Value, blocks: &mut u32, out: &mut Vec<u8>) {
        let index = *blocks;
        *blocks += 1;
        self.block = Some(index);
        let event = json!({"type": "content_block_start", "index": index, "content_block": block});
        write("content_block_start", &event, out);
    }

    fn delta(&mut self, delta: Delta, blocks: &mut u32, out: &mut Vec<u8>) {
        match (&self.start, delta) {
            (_, Delta::Signature(s)) => match &mut self.signature {
                Some(mine) if mine.origin == s.origin => mine.data.push_str(&s.data),
                mine => *mine = Some(s),
            },
            (PartStart::Reasoning { .. }, Delta::Sealed(sealed)) => {
                // A block of its own type: what is readable ends here.
                if self.block.is_some() || self.signature.is_some() {
                    self.close(blocks, out);
                }
                let data = signature::write(&sealed, FORMAT);
                self.start_block(&json!({"type": "redacted_thinking", "data": data}), blocks, out);
                self.stop_block(out);
            }
            (PartStart::ToolCall { kind, .. }, Delta::Text(text)) => {
                let escaped = (*kind == ToolKind::Custom).then(|| escape(&text));
                self.write_delta(Body::InputJson { partial_json: escaped.as_deref().unwrap_or(&text) }, out);
            }
            (PartStart::Reasoning { .. }, Delta::Text(text)) => {
                self.ensure_open(blocks, out);
                self.write_delta(Body::Thinking { thinking: &text }, out);
            }
            (PartStart::Text { .. } | PartStart::Refusal, Delta::Text(text)) => {
                self.ensure_open(blocks, out);
                self.write_delta(Body::Text { text: &text }, out);
            }
            (PartStart::Text { .. }, Delta::Citation(citation)) => {
                self.ensure_open(blocks, out);
                self.write_delta(Body::Citations { citation: wire::write_citation(&citation) }, out);
            }
            _ => {}
        }
    }

    fn ensure_open(&mut self, blocks: &mut u32, out: &mut Vec<u8>) {
        if self.block.is_none() {
            self.open(blocks, "", out);
        }
    }

    fn close(&mut self, blocks: &mut u32, out: &mut Vec<u8>) {
        if let Some(signature) = self.signature.take() {
            self.ensure_open(blocks, out);
            let signature = signature::write(&signature, FORMAT);
            if !matches!(self.start, PartStart::ToolCall { .. }) {
                self.write_delta(Body::Signature { signature: &signature }, out);
            }
        }
        if let PartStart::ToolCall { kind: ToolKind::Custom, .. } = self.start {
            self.write_delta(Body::InputJson { partial_json: CUSTOM_TAIL }, out);
        }
        self.stop_block(out);
    }

    fn stop_block(&mut self, out: &mut Vec<u8>) {
        if let Some(index) = self.block.take() {
            write("content_block_stop", &json!({"type": "content_block_stop", "index": index}), out);
        }
    }

    fn write_delta(&self, delta: Body<'_>, out: &mut Vec<u8>) {
        let Some(index) = self.block else { return };
        out.extend_from_slice(b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":");
        written::number(index.into(), out);
        let (head, text) = match delta {
            Body::Text { text } => ("{\"type\":\"text_delta\",\"text\":", text),
            Body::Thinking { thinking } => ("{\"type\":\"thinking_delta\",\"thinking\":", thinking),
            Body::Signature { signature } => ("{\"type\":\"signature_delta\",\"signature\":", signature),
            Body::InputJson { partial_json } => ("{\"type\":\"input_json_delta\",\"partial_json\":", partial_json),
            Body::Citations { citation } => {
                out.extend_from_slice(b",\"delta\":{\"type\":\"citations_delta\",\"citation\":");
                written::value(&citation, out);
                return out.extend_from_slice(b"}}\n\n");
            }
        };
        out.extend_from_slice(b",\"delta\":");
        out.extend_from_slice(head.as_bytes());
        written::text(text, out);
        out.extend_from_slice(b"}}\n\n");
    }
}

enum Body<'a> {
    Text { text: &'a str },
    Thinking { thinking: &'a str },
    Signature { signature: &'a str },
    InputJson { partial_json: &'a str },
    Citations { citation: Value },
}

/// A part that a stage made whole, as its start and deltas; `None` for parts that have none.
fn taken_apart(part: &Part) -> Option<(PartStart, VecDeque<Delta>)> {
    let text = |text: &String| (!text.is_empty()).then(|| Delta::Text(text.clone()));
    Some(match part {
        Part::Text(Text { text: t, citations, signature, extra, cache: _ }) => {
            let mut deltas: VecDeque<Delta> = text(t).into_iter().collect();
            deltas.extend(citations.iter().cloned().map(Delta::Citation));
            deltas.extend(signature.clone().map(Delta::Signature));
            (PartStart::Text { extra: extra.clone() }, deltas)
        }
        Part::Refusal(t) => (PartStart::Refusal, text(t).into_iter().collect()),
        Part::Reasoning(Reasoning { text: t, signature, sealed, extra }) => {
            let mut deltas: VecDeque<Delta> = text(t).into_iter().collect();
            deltas.extend(signature.clone().map(Delta::Signature));
            deltas.extend(sealed.clone().map(Delta::Sealed));
            (PartStart::Reasoning { extra: extra.clone() }, deltas)
        }
        Part::ToolCall(ToolCall { id, name, kind, arguments, signature, extra, cache: _ }) => {
            let start = PartStart::ToolCall {
                id: id.clone(),
                name: name.clone(),
                kind: *kind,
                signature: signature.clone(),
                extra: extra.clone(),
            };
            (start, text(arguments).into_iter().collect())
        }
        Part::Media(_) | Part::ToolResult(_) | Part::Native { .. } => return None,
    })
}

/// Hosted calls stream their input; hosted results have none.
fn value_is_call(start: &PartStart) -> bool {
    matches!(start, PartStart::Whole(Part::Native { kind, .. }) if kind.ends_with("tool_use"))
}

fn write(name: &'static str, event: &Value, out: &mut Vec<u8>) {
    let mut json = Vec::with_capacity(ROOM);
    written::value(event, &mut json);
    sse::write(Some(name), &json, out);
}

/// Of an event that is no piece of text.
const ROOM: usize = 256;
