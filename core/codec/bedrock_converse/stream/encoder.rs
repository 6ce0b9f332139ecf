//! Events to this family's stream. Blocks follow one another; usage and the finish are held for the last two events,
//! because other families tell them in any order.

use serde_json::{Map, Value, json};

use super::super::{
    error, response,
    wire::{self, FORMAT},
};
use crate::{
    codec::{
        ClientView, StreamEncoder,
        calls::{CUSTOM_HEAD, CUSTOM_TAIL, escape},
        eventstream::{self, Head, Said},
        serial::Serial,
        signature, written,
    },
    error::Error,
    model::{Delta, Event, Extra, Finish, Part, PartStart, Signature, ToolKind, Usage},
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
        if let Some(apart) = signature::apart(event) {
            return apart.iter().for_each(|event| self.push(event, out));
        }
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
            eventstream::write(Said::Exception, error::stream_word(error), &error::encode(error), out);
        }
    }

    /// The framing has no comments; readers pass over events that they do not know.
    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        if !self.writer.done {
            eventstream::write(Said::Event, "ping", b"{}", out);
        }
    }
}

#[derive(Default)]
struct Writer {
    view: ClientView,
    started: bool,
    done: bool,
    id: String,
    service_tier: Option<String>,
    usage: Option<Usage>,
    finish: Option<Finish>,
    extra: Extra,
    /// Parts that no block can say.
    beside: Vec<Value>,
    /// What the open part is.
    part: Option<PartStart>,
    /// Its block has been begun.
    open: bool,
    /// Of a text: it goes behind.
    signature: Option<Signature>,
    block: u32,
    called: bool,
    refused: bool,
    /// What nearly all frames begin with.
    delta_head: Option<Head>,
}

impl Writer {
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start(start) => {
                self.id.clone_from(&start.id);
                self.service_tier.clone_from(&start.service_tier);
                self.add_extra(&start.extra);
            }
            Event::PartStart { index, part, .. } => {
                self.message_start(out);
                self.part_start(*index, part, out);
            }
            Event::Delta { delta: Delta::Text(text), .. } if self.said(text, out) => {}
            Event::Delta { delta, .. } => self.delta(delta, out),
            Event::PartEnd { .. } => self.part_end(out),
            Event::Finish { choice: 0, finish } => {
                self.message_start(out);
                self.finish = Some(finish.clone());
            }
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, FORMAT),
            Event::Extra(extra) => self.add_extra(extra),
            // Nobody needs to hear of those.
            Event::Ping | Event::End | Event::Finish { .. } | Event::ChoiceExtra { .. } => {}
        }
    }

    fn add_extra(&mut self, extra: &Extra) {
        for (key, value) in extra.of(FORMAT).into_iter().flatten() {
            self.extra.insert(FORMAT, key, value.clone());
        }
    }

    fn message_start(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.started, true) {
            eventstream::write(Said::Event, "messageStart", br#"{"role":"assistant"}"#, out);
        }
    }

    fn part_start(&mut self, index: u32, part: &PartStart, out: &mut Vec<u8>) {
        self.part = Some(part.clone());
        match part {
            // Texts and reasoning are begun by their first piece: what stays empty makes no block.
            PartStart::Text { .. } | PartStart::Reasoning { .. } => {}
            PartStart::Refusal => self.refused = true,
            PartStart::ToolCall { id, name, kind, signature, extra } => {
                self.called = true;
                let seed = response::call_seed(&self.id, &self.view, index as usize);
                let mut call = Map::new();
                call.insert("toolUseId".to_owned(), response::call_id(id, &seed, signature.as_ref()).into());
                call.insert("name".to_owned(), name.as_str().into());
                super::super::block::give_back(&mut call, extra);
                self.begin(json!({"toolUse": call}), out);
                if *kind == ToolKind::Custom {
                    self.piece(json!({"toolUse": {"input": CUSTOM_HEAD}}), out);
                }
            }
            PartStart::Whole(whole) => self.whole(whole, out),
        }
    }

    /// Only parts that are not made of pieces come here.
    fn whole(&mut self, part: &Part, out: &mut Vec<u8>) {
        match part {
            Part::Native { format: FORMAT, kind: _, value } => {
                let mut start = value.clone();
                let delta = if let Some(Value::Object(call)) = start.get_mut("toolUse") {
                    let input = call.shift_remove("input").unwrap_or_else(|| json!({}));
                    Some(json!({"toolUse": {"input": input.to_string()}}))
                } else if let Some(Value::Object(result)) = start.get_mut("toolResult") {
                    result.shift_remove("content").map(|content| json!({"toolResult": content}))
                } else {
                    None
                };
                self.begin(start, out);
                if let Some(delta) = delta {
                    self.piece(delta, out);
                }
            }
            Part::Media(media) if response::image(media).is_some() => {
                let Some((format, data)) = response::image(media) else { return };
                self.begin(json!({"image": {"format": format}}), out);
                self.piece(json!({"image": {"source": {"bytes": data}}}), out);
            }
            other => self.beside.extend(response::beside_content(other)),
        }
    }

    /// A piece of text, as most are, without a tree. `false`: it is of another kind.
    fn said(&mut self, text: &str, out: &mut Vec<u8>) -> bool {
        let (before, after) = match &self.part {
            Some(PartStart::Text { .. } | PartStart::Refusal) => ("{\"text\":", "}"),
            Some(PartStart::Reasoning { .. }) => ("{\"reasoningContent\":{\"text\":", "}}"),
            Some(PartStart::ToolCall { kind: ToolKind::Function, .. }) => ("{\"toolUse\":{\"input\":", "}}"),
            _ => return false,
        };
        self.open = true;
        let head = self.delta_head.get_or_insert_with(|| Head::event("contentBlockDelta"));
        head.write(out, |payload| {
            payload.extend_from_slice(b"{\"contentBlockIndex\":");
            written::number(self.block.into(), payload);
            payload.extend_from_slice(b",\"delta\":");
            payload.extend_from_slice(before.as_bytes());
            written::text(text, payload);
            payload.extend_from_slice(after.as_bytes());
            payload.push(b'}');
        });
        true
    }

    fn delta(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        let Some(part) = &self.part else { return };
        let value = match (part, delta) {
            (PartStart::Text { .. } | PartStart::Refusal, Delta::Text(text)) => json!({"text": text}),
            (PartStart::Text { .. }, Delta::Citation(citation)) => {
                json!({"citation": wire::write_citation(citation)})
            }
            (PartStart::Text { .. }, Delta::Signature(signature)) => {
                self.signature = Some(signature.clone());
                return;
            }
            (PartStart::Reasoning { .. }, Delta::Text(text)) => json!({"reasoningContent": {"text": text}}),
            (PartStart::Reasoning { .. }, Delta::Signature(signature)) => {
                json!({"reasoningContent": {"signature": signature::write(signature, FORMAT)}})
            }
            (PartStart::Reasoning { .. }, Delta::Sealed(sealed)) => {
                let data = wire::write_sealed(sealed);
                // What is readable stands in a block of its own.
                self.stop(out);
                json!({"reasoningContent": {"redactedContent": data}})
            }
            (PartStart::ToolCall { kind, .. }, Delta::Text(text)) => {
                let escaped = (*kind == ToolKind::Custom).then(|| escape(text));
                json!({"toolUse": {"input": escaped.as_deref().unwrap_or(text)}})
            }
            _ => return,
        };
        self.piece(value, out);
    }

    fn part_end(&mut self, out: &mut Vec<u8>) {
        if let Some(PartStart::ToolCall { kind: ToolKind::Custom, .. }) = self.part {
            self.piece(json!({"toolUse": {"input": CUSTOM_TAIL}}), out);
        }
        self.stop(out);
        if let Some(signature) = self.signature.take() {
            let signature = signature::write(&signature, FORMAT);
            self.piece(json!({"reasoningContent": {"signature": signature}}), out);
            self.stop(out);
        }
        self.part = None;
    }

    fn begin(&mut self, start: Value, out: &mut Vec<u8>) {
        self.open = true;
        write("contentBlockStart", &json!({"contentBlockIndex": self.block, "start": start}), out);
    }

    fn piece(&mut self, delta: Value, out: &mut Vec<u8>) {
        self.open = true;
        write("contentBlockDelta", &json!({"contentBlockIndex": self.block, "delta": delta}), out);
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.open) {
            write("contentBlockStop", &json!({"contentBlockIndex": self.block}), out);
            self.block += 1;
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.done = true;
        self.message_start(out);
        let word = wire::stop_reason(self.finish.as_ref(), self.called, self.refused);
        let mut late = self.extra.of(FORMAT).cloned().unwrap_or_default();
        let mut stop = Map::new();
        stop.insert("stopReason".to_owned(), word.into());
        if let Some(fields) = late.shift_remove(response::FIELDS) {
            stop.insert(response::FIELDS.to_owned(), fields);
        }
        response::add_beside(&mut stop, std::mem::take(&mut self.beside));
        write("messageStop", &Value::Object(stop), out);
        let mut metadata = Map::new();
        metadata.insert("usage".to_owned(), Value::Object(wire::write_usage(self.usage.as_ref())));
        // Clients require it; a codec has no clock.
        metadata.insert("metrics".to_owned(), json!({"latencyMs": 0}));
        metadata.extend(late);
        response::put_tier(&mut metadata, self.service_tier.as_deref());
        write("metadata", &Value::Object(metadata), out);
    }
}

fn write(name: &str, payload: &Value, out: &mut Vec<u8>) {
    let mut json = Vec::with_capacity(ROOM);
    written::value(payload, &mut json);
    eventstream::write(Said::Event, name, &json, out);
}

/// What stands around a piece of text.
const ROOM: usize = 128;
