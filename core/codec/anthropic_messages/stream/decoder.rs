//! An upstream's stream to events. Each content block becomes one part; hosted blocks are collected and given whole.
//! Signatures replace one another, as the vendor's SDKs read them, and are told once at the block's end.

use serde_json::{Map, Value};

use super::super::{
    block, error, json,
    wire::{self, FORMAT},
};
use crate::{
    codec::{StreamDecoder, alike::Alike, figures, is_error_event, sse, surrogate::Half},
    error::{Error, Kind, Result},
    model::{Delta, Event, Extra, Part, PartStart, Signature, Start},
};

pub struct Decoder {
    sse: sse::Decoder,
    state: State,
}

impl Decoder {
    /// `limit`: the most bytes of an event, and of a block that is held until it is whole.
    pub fn new(limit: usize) -> Self {
        Decoder { sse: sse::Decoder::new(limit), state: State { limit, ..State::default() } }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, state } = self;
        sse.push(bytes, |frame| state.frame(frame, out))
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, state } = self;
        let told = sse.finish(|frame| state.frame(frame, out));
        if is_error_event(&told) {
            return told;
        }
        if state.ended {
            return Ok(());
        }
        Err(Error::new(Kind::Upstream, "the upstream's stream ended before it was complete"))
    }
}

#[derive(Default)]
struct State {
    limit: usize,
    open: Vec<Open>,
    parts: u32,
    called: bool,
    /// All that was said about usage so far: later figures replace earlier ones.
    usage: Map<String, Value>,
    ended: bool,
    alike: Alike,
    half: Half,
}

struct Open {
    block: u64,
    part: u32,
    body: Body,
}

enum Body {
    Text {
        signature: String,
    },
    Reasoning {
        signature: String,
    },
    Call {
        said: bool,
    },
    /// A block that only this format knows, as collected so far; `input` is its streamed JSON.
    Native {
        value: Value,
        input: String,
        /// Bytes that it may still grow by.
        room: usize,
    },
}

impl State {
    fn frame(&mut self, frame: &sse::Frame, out: &mut Vec<Event>) -> Result<()> {
        if self.ended || frame.data == "[DONE]" {
            return Ok(());
        }
        if let Some((choice, index, text)) = self.alike.read(&frame.event, frame.data.as_bytes()) {
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
            return Ok(());
        }
        let from = out.len();
        self.long(frame, out)?;
        self.alike.learn(&frame.event, frame.data.as_bytes(), &["text", "thinking", "partial_json"], &[], &out[from..]);
        Ok(())
    }

    fn long(&mut self, frame: &sse::Frame, out: &mut Vec<Event>) -> Result<()> {
        let mut data = json::parse_event(&frame.data, &mut self.half)?;
        if !data.is_object() {
            return Err(Error::new(Kind::Upstream, "the upstream's stream has an event that is not a JSON object"));
        }
        let kind = data.get("type").and_then(Value::as_str).unwrap_or(&frame.event).to_owned();
        match kind.as_str() {
            "message_start" => self.start(data["message"].take(), out),
            "content_block_start" => {
                let index = index(&data)?;
                self.begin(index, data["content_block"].take(), out)
            }
            "content_block_delta" => {
                let index = index(&data)?;
                self.delta(index, data["delta"].take(), out)
            }
            "content_block_stop" => {
                let index = index(&data)?;
                self.close(index, out)
            }
            "message_delta" => self.message_delta(data, out),
            "message_stop" => {
                while let Some(index) = self.open.first().map(|open| open.block) {
                    self.close(index, out)?;
                }
                self.ended = true;
                out.push(Event::End);
                Ok(())
            }
            "ping" => {
                out.push(Event::Ping);
                Ok(())
            }
            "error" => Err(error::decode_event(&data)),
            _ => Ok(()),
        }
    }

    fn start(&mut self, message: Value, out: &mut Vec<Event>) -> Result<()> {
        let mut f = json::Fields::new(message, "message").map_err(wire::upstream_fault)?;
        for known in ["type", "role", "content", "stop_reason", "stop_sequence", "stop_details"] {
            f.take(known);
        }
        let usage = f.map("usage").map_err(wire::upstream_fault)?;
        let tier = usage.as_ref().and_then(|usage| usage.get("service_tier")?.as_str());
        let service_tier = tier.map(str::to_owned);
        let usage = usage.map(|usage| self.merge_usage(usage));
        out.push(Event::Start(Start {
            id: f.string("id").map_err(wire::upstream_fault)?.unwrap_or_default(),
            model: f.string("model").map_err(wire::upstream_fault)?.unwrap_or_default(),
            created: None,
            service_tier,
            extra: f.rest(FORMAT),
        }));
        out.extend(usage.map(Event::Usage));
        Ok(())
    }

    fn merge_usage(&mut self, usage: Map<String, Value>) -> crate::model::Usage {
        for (key, value) in usage {
            if !value.is_null() || !self.usage.contains_key(&key) {
                self.usage.insert(key, value);
            }
        }
        figures::usage_of(FORMAT, &self.usage, wire::read_usage)
    }

    fn begin(&mut self, index: u64, value: Value, out: &mut Vec<Event>) -> Result<()> {
        if self.open.iter().any(|open| open.block == index) {
            self.close(index, out)?;
        }
        let part = self.parts;
        self.parts += 1;
        let start = block::decode(value, "content_block").map_err(wire::upstream_fault)?;
        let event = |part_start| Event::PartStart { choice: 0, index: part, part: part_start };
        let delta = |delta| Event::Delta { choice: 0, index: part, delta };
        let body = match start {
            Part::Text(text) => {
                out.push(event(PartStart::Text { extra: text.extra }));
                out.extend((!text.text.is_empty()).then(|| delta(Delta::Text(text.text))));
                out.extend(text.citations.into_iter().map(|c| delta(Delta::Citation(c))));
                Body::Text { signature: plain(text.signature) }
            }
            Part::Reasoning(reasoning) => {
                out.push(event(PartStart::Reasoning { extra: reasoning.extra }));
                out.extend((!reasoning.text.is_empty()).then(|| delta(Delta::Text(reasoning.text))));
                out.extend(reasoning.sealed.map(|sealed| delta(Delta::Sealed(sealed))));
                Body::Reasoning { signature: plain(reasoning.signature) }
            }
            Part::ToolCall(call) => {
                let (id, name, kind) = (call.id, call.name, call.kind);
                out.push(event(PartStart::ToolCall { id, name, kind, signature: call.signature, extra: call.extra }));
                // `input: {}` only opens the block; arguments that stand here already are told once.
                let said = !matches!(call.arguments.as_str(), "" | "{}" | "\"\"");
                out.extend(said.then(|| delta(Delta::Text(call.arguments))));
                self.called = true;
                Body::Call { said }
            }
            Part::Native { value, .. } => Body::Native { value, input: String::new(), room: self.limit },
            whole @ (Part::Media(_) | Part::ToolResult(_) | Part::Refusal(_)) => {
                out.push(event(PartStart::Whole(whole)));
                out.push(Event::PartEnd { choice: 0, index: part });
                return Ok(());
            }
        };
        self.open.push(Open { block: index, part, body });
        Ok(())
    }

    fn delta(&mut self, index: u64, mut delta: Value, out: &mut Vec<Event>) -> Result<()> {
        let Some(open) = self.open.iter_mut().find(|open| open.block == index) else { return Ok(()) };
        let part = open.part;
        let mut tell = |delta| out.push(Event::Delta { choice: 0, index: part, delta });
        let kind = delta.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match (&mut open.body, kind.as_str()) {
            (Body::Text { .. }, "text_delta") => tell(Delta::Text(text(&mut delta, "text"))),
            (Body::Text { .. }, "citations_delta") => {
                tell(Delta::Citation(wire::read_citation(delta["citation"].take())));
            }
            (Body::Reasoning { .. }, "thinking_delta") => tell(Delta::Text(text(&mut delta, "thinking"))),
            (Body::Text { signature } | Body::Reasoning { signature }, "signature_delta") => {
                *signature = text(&mut delta, "signature");
            }
            (Body::Call { said }, "input_json_delta") => {
                let piece = text(&mut delta, "partial_json");
                if !piece.is_empty() {
                    *said = true;
                    tell(Delta::Text(piece));
                }
            }
            (Body::Native { input, room, .. }, "input_json_delta") => {
                let piece = text(&mut delta, "partial_json");
                grow(room, piece.len())?;
                input.push_str(&piece);
            }
            (Body::Native { value, room, .. }, _) => merge_native(value, delta, room)?,
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, index: u64, out: &mut Vec<Event>) -> Result<()> {
        let Some(at) = self.open.iter().position(|open| open.block == index) else { return Ok(()) };
        let Open { part, body, .. } = self.open.remove(at);
        let delta = |delta| Event::Delta { choice: 0, index: part, delta };
        match body {
            Body::Text { signature } | Body::Reasoning { signature } => {
                out.extend(wire::read_signature(Some(signature)).map(|s| delta(Delta::Signature(s))));
            }
            // No arguments at all means an empty object: say so, for wires whose clients parse the text.
            Body::Call { said } => out.extend((!said).then(|| delta(Delta::Text("{}".to_owned())))),
            Body::Native { mut value, input, .. } => {
                if !input.is_empty() {
                    value["input"] = serde_json::from_str(&input).unwrap_or(Value::String(input));
                }
                let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
                let whole = PartStart::Whole(Part::Native { format: FORMAT, kind, value });
                out.push(Event::PartStart { choice: 0, index: part, part: whole });
            }
        }
        out.push(Event::PartEnd { choice: 0, index: part });
        Ok(())
    }

    fn message_delta(&mut self, data: Value, out: &mut Vec<Event>) -> Result<()> {
        let mut f = json::Fields::new(data, "").map_err(wire::upstream_fault)?;
        f.take("type");
        if let Some(usage) = f.map("usage").map_err(wire::upstream_fault)? {
            out.push(Event::Usage(self.merge_usage(usage)));
        }
        let delta = f.object("delta").map_err(wire::upstream_fault)?;
        let mut extra = f.rest_map();
        if let Some(mut delta) = delta {
            let raw = delta.string("stop_reason").map_err(wire::upstream_fault)?;
            let sequence = delta.string("stop_sequence").map_err(wire::upstream_fault)?;
            let details = delta.take("stop_details");
            extra.extend(delta.rest_map());
            if let Some(raw) = raw {
                let blocks: Vec<u64> = self.open.iter().map(|open| open.block).collect();
                for index in blocks {
                    self.close(index, out)?;
                }
                out.push(Event::Finish { choice: 0, finish: wire::read_finish(&raw, self.called, sequence, details) });
            }
        }
        if !extra.is_empty() {
            out.push(Event::Extra(Extra::new(FORMAT, extra)));
        }
        Ok(())
    }
}

fn index(data: &Value) -> Result<u64> {
    data.get("index")
        .and_then(Value::as_u64)
        .ok_or_else(|| Error::new(Kind::Upstream, "the upstream sent a content block event without an index"))
}

fn text(delta: &mut Value, key: &str) -> String {
    match delta.get_mut(key).map(Value::take) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn plain(signature: Option<Signature>) -> String {
    signature.map(|s| crate::codec::signature::write(&s, FORMAT)).unwrap_or_default()
}

/// Deltas of blocks that have no name here: strings grow, everything else replaces.
fn merge_native(value: &mut Value, delta: Value, room: &mut usize) -> Result<()> {
    let (Value::Object(mine), Value::Object(delta)) = (value, delta) else { return Ok(()) };
    for (key, piece) in delta.into_iter().filter(|(key, _)| key != "type") {
        match (mine.get_mut(&key), piece) {
            (Some(Value::String(text)), Value::String(piece)) => {
                grow(room, piece.len())?;
                text.push_str(&piece);
            }
            (_, piece) => {
                mine.insert(key, piece);
            }
        }
    }
    Ok(())
}

/// A hosted block is held until it ends: not without a bound.
fn grow(room: &mut usize, more: usize) -> Result<()> {
    *room = room.checked_sub(more).ok_or_else(|| {
        Error::new(Kind::Upstream, "the upstream sent a content block that is larger than an event may be")
    })?;
    Ok(())
}
