//! An upstream's stream to events. Each content block becomes one part; texts need not be begun; what the vendor's own
//! tools do is collected and given whole. The figures come behind the finish, in `metadata`, and end the stream.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::super::{
    block::{self, Turn},
    error,
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    codec::{
        StreamDecoder,
        alike::Alike,
        eventstream::{self, Frame, Said},
        figures,
    },
    error::{Error, Kind, Result},
    model::{Delta, Event, Extra, Media, MediaKind, MediaSource, Part, PartStart, Start, ToolKind},
};

pub struct Decoder {
    frames: eventstream::Decoder,
    state: State,
}

impl Decoder {
    /// `limit`: the most bytes of a frame, and of a block that is held until it is whole.
    pub fn new(limit: usize) -> Self {
        Decoder { frames: eventstream::Decoder::new(limit), state: State { limit, ..State::default() } }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let Decoder { frames, state } = self;
        if state.ended {
            return Ok(());
        }
        let result = frames.push(bytes, |frame| state.frame(frame, out));
        // What comes behind the end is nobody's business, in these bytes or in later ones.
        if state.ended { Ok(()) } else { result }
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        if self.state.ended {
            return Ok(());
        }
        self.frames.finish()?;
        if !self.state.stopped {
            return Err(Error::new(Kind::Upstream, "the upstream's stream ended before it was complete"));
        }
        // All was said but the figures.
        out.push(Event::End);
        Ok(())
    }
}

#[derive(Default)]
struct State {
    limit: usize,
    open: Vec<Open>,
    parts: u32,
    called: bool,
    started: bool,
    /// The finish was told.
    stopped: bool,
    ended: bool,
    alike: Alike,
}

struct Open {
    block: u64,
    part: u32,
    body: Body,
}

enum Body {
    Text,
    Reasoning,
    Call {
        said: bool,
    },
    /// A call that the vendor runs itself: its `toolUse`, and its arguments as streamed.
    HostedCall {
        value: Value,
        input: String,
        room: usize,
    },
    /// What such a call gave: a whole block, whose list grows.
    Hosted {
        value: Value,
        room: usize,
    },
    Image {
        format: String,
        bytes: Vec<u8>,
        room: usize,
    },
}

/// A block that is begun by its first piece.
#[derive(Clone, Copy, PartialEq)]
enum Plain {
    Text,
    Reasoning,
}

impl State {
    fn frame(&mut self, frame: Frame, out: &mut Vec<Event>) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        match frame.said {
            Said::Exception => return Err(error::decode_exception(&frame.name, &frame.payload)),
            Said::Error => return Err(error::decode_unnamed(&frame.name, &frame.payload)),
            Said::Event => {}
        }
        if !KNOWN.contains(&frame.name.as_str()) {
            return Ok(());
        }
        if let Some((choice, index, text)) = self.alike.read(&frame.name, &frame.payload) {
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
            return Ok(());
        }
        let from = out.len();
        self.long(&frame, out)?;
        self.alike.learn(&frame.name, &frame.payload, &["text", "input"], &["p"], &out[from..]);
        Ok(())
    }

    fn long(&mut self, frame: &Frame, out: &mut Vec<Event>) -> Result<()> {
        let mut data = Fields::new(json::parse_upstream(&frame.payload)?, "").map_err(wire::upstream_fault)?;
        // Filler of random length.
        data.take("p");
        self.event(&frame.name, data, out).map_err(wire::upstream_fault)
    }

    fn event(&mut self, name: &str, mut data: Fields, out: &mut Vec<Event>) -> Result<()> {
        if !std::mem::replace(&mut self.started, true) {
            out.push(Event::Start(Start::default()));
        }
        match name {
            "contentBlockStart" => {
                let index = index(&mut data)?;
                let start = data.take("start").unwrap_or_default();
                self.begin(index, start, out)
            }
            "contentBlockDelta" => {
                let index = index(&mut data)?;
                let Some(delta) = data.object("delta")? else { return Ok(()) };
                self.delta(index, delta, out)
            }
            "contentBlockStop" => {
                let index = index(&mut data)?;
                self.close(index, out);
                Ok(())
            }
            "messageStop" => {
                self.close_all(out);
                let raw = data.required_string("stopReason")?;
                self.extra(data, out);
                self.stopped = true;
                out.push(Event::Finish { choice: 0, finish: wire::read_finish(&raw, self.called) });
                Ok(())
            }
            "metadata" => {
                if let Some(usage) = data.written("usage")? {
                    out.push(Event::Usage(figures::usage(FORMAT, usage, wire::read_usage)));
                }
                self.extra(data, out);
                // Figures for an answer that has no end are no end.
                if self.stopped {
                    self.ended = true;
                    out.push(Event::End);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn extra(&self, data: Fields, out: &mut Vec<Event>) {
        let extra = data.rest(FORMAT);
        if !extra.is_empty() {
            out.push(Event::Extra(extra));
        }
    }

    fn add(&mut self, block: u64, body: Body) -> u32 {
        let part = self.parts;
        self.parts += 1;
        self.open.push(Open { block, part, body });
        part
    }

    fn begin(&mut self, block: u64, start: Value, out: &mut Vec<Event>) -> Result<()> {
        self.close(block, out);
        let room = self.limit;
        if let Some(image) = start.get("image") {
            let format = image.get("format").and_then(Value::as_str).unwrap_or_default().to_owned();
            self.add(block, Body::Image { format, bytes: Vec::new(), room });
            return Ok(());
        }
        let Value::Object(map) = &start else { return Ok(()) };
        if map.is_empty() || start.get("text").is_some() || start.get("reasoningContent").is_some() {
            return Ok(());
        }
        match block::decode(start, "start", Turn::Model)? {
            Part::ToolCall(call) => {
                let part = self.add(block, Body::Call { said: false });
                self.called = true;
                let start = PartStart::ToolCall {
                    id: call.id,
                    name: call.name,
                    kind: ToolKind::Function,
                    signature: call.signature,
                    extra: call.extra,
                };
                out.push(Event::PartStart { choice: 0, index: part, part: start });
            }
            Part::Native { value, .. } if value.get("toolUse").is_some() => {
                self.add(block, Body::HostedCall { value, input: String::new(), room });
            }
            Part::Native { value, .. } => drop(self.add(block, Body::Hosted { value, room })),
            whole => {
                let index = self.parts;
                self.parts += 1;
                out.push(Event::PartStart { choice: 0, index, part: PartStart::Whole(whole) });
                out.push(Event::PartEnd { choice: 0, index });
            }
        }
        Ok(())
    }

    /// The part of a text or of reasoning, begun if it is not there yet.
    fn plain(&mut self, block: u64, kind: Plain, out: &mut Vec<Event>) -> u32 {
        let open = self.open.iter().find(|open| open.block == block);
        match (open.map(|open| (&open.body, open.part)), kind) {
            (Some((Body::Text, part)), Plain::Text) | (Some((Body::Reasoning, part)), Plain::Reasoning) => return part,
            (Some(_), _) => self.close(block, out),
            (None, _) => {}
        }
        let extra = Extra::default();
        let (body, part) = match kind {
            Plain::Text => (Body::Text, PartStart::Text { extra }),
            Plain::Reasoning => (Body::Reasoning, PartStart::Reasoning { extra }),
        };
        let index = self.add(block, body);
        out.push(Event::PartStart { choice: 0, index, part });
        index
    }

    fn delta(&mut self, block: u64, mut delta: Fields, out: &mut Vec<Event>) -> Result<()> {
        let tell = |index, delta| Event::Delta { choice: 0, index, delta };
        if let Some(text) = delta.string("text")? {
            let part = self.plain(block, Plain::Text, out);
            out.extend((!text.is_empty()).then(|| tell(part, Delta::Text(text))));
        } else if let Some(mut reasoning) = delta.object("reasoningContent")? {
            let part = self.plain(block, Plain::Reasoning, out);
            let text = reasoning.string("text")?.filter(|text| !text.is_empty());
            out.extend(text.map(|text| tell(part, Delta::Text(text))));
            let signature = block::read_signature(reasoning.string("signature")?);
            out.extend(signature.map(|signature| tell(part, Delta::Signature(signature))));
            let sealed = reasoning.string("redactedContent")?;
            out.extend(sealed.map(|data| tell(part, Delta::Sealed(wire::read_sealed(&data)))));
        } else if let Some(citation) = delta.take("citation") {
            let part = self.plain(block, Plain::Text, out);
            out.push(tell(part, Delta::Citation(wire::read_citation(citation))));
        } else {
            self.inner_delta(block, delta, out)?;
        }
        Ok(())
    }

    /// Pieces of blocks that must have been begun.
    fn inner_delta(&mut self, block: u64, mut delta: Fields, out: &mut Vec<Event>) -> Result<()> {
        let open = self.open.iter_mut().find(|open| open.block == block);
        if let Some(mut call) = delta.object("toolUse")? {
            let piece = call.string("input")?.unwrap_or_default();
            match open {
                Some(Open { part, body: Body::Call { said }, .. }) if !piece.is_empty() => {
                    *said = true;
                    out.push(Event::Delta { choice: 0, index: *part, delta: Delta::Text(piece) });
                }
                Some(Open { body: Body::HostedCall { input, room, .. }, .. }) => {
                    grow(room, piece.len())?;
                    input.push_str(&piece);
                }
                Some(_) => {}
                None => {
                    let message = "the upstream sent arguments of a tool call that it never began";
                    return Err(Error::new(Kind::Upstream, message));
                }
            }
        } else if let (Some(pieces), Some(Open { body: Body::Hosted { value, room }, .. })) =
            (delta.array("toolResult")?, open)
        {
            grow(room, pieces.iter().map(|piece| piece.to_string().len()).sum())?;
            if let Some(Value::Object(result)) = value.get_mut("toolResult") {
                let content = result.entry("content").or_insert_with(|| json!([]));
                if let Value::Array(content) = content {
                    content.extend(pieces);
                }
            }
        } else if let Some(mut image) = delta.object("image")?
            && let Some(Open { body: Body::Image { format, bytes, room }, .. }) =
                self.open.iter_mut().find(|open| open.block == block)
        {
            if let Some(told) = image.string("format")? {
                *format = told;
            }
            let data = image.object("source")?.map(|mut source| source.string("bytes")).transpose()?.flatten();
            let more = BASE64_STANDARD
                .decode(data.unwrap_or_default())
                .map_err(|e| Error::new(Kind::Upstream, "the upstream sent an image that is not base64").because(e))?;
            grow(room, more.len())?;
            bytes.extend(more);
        }
        Ok(())
    }

    fn close(&mut self, block: u64, out: &mut Vec<Event>) {
        let Some(at) = self.open.iter().position(|open| open.block == block) else { return };
        let Open { part: index, body, .. } = self.open.remove(at);
        let mut whole = |part| out.push(Event::PartStart { choice: 0, index, part: PartStart::Whole(part) });
        match body {
            Body::Text | Body::Reasoning | Body::Call { said: true } => {}
            // No arguments at all means an empty object: say so, for wires whose clients parse the text.
            Body::Call { said: false } => {
                out.push(Event::Delta { choice: 0, index, delta: Delta::Text("{}".to_owned()) });
            }
            Body::HostedCall { mut value, input, .. } => {
                let kind = value.pointer("/toolUse/type").and_then(Value::as_str).unwrap_or_default().to_owned();
                if let Some(Value::Object(call)) = value.get_mut("toolUse") {
                    let parsed =
                        if input.is_empty() { Ok(Value::Object(Map::new())) } else { serde_json::from_str(&input) };
                    call.insert("input".to_owned(), parsed.unwrap_or(Value::String(input)));
                }
                whole(Part::Native { format: FORMAT, kind, value });
            }
            Body::Hosted { value, .. } => {
                let told = value.pointer("/toolResult/type").and_then(Value::as_str);
                let member = || value.as_object().and_then(|map| map.keys().next().cloned());
                let kind = told.map(str::to_owned).or_else(member).unwrap_or_default();
                whole(Part::Native { format: FORMAT, kind, value });
            }
            Body::Image { format, bytes, .. } => {
                let mime = (!format.is_empty()).then(|| wire::mime_of(MediaKind::Image, &format));
                let source = MediaSource::Base64(BASE64_STANDARD.encode(bytes));
                whole(Part::Media(Media::new(MediaKind::Image, mime, source)));
            }
        }
        out.push(Event::PartEnd { choice: 0, index });
    }

    fn close_all(&mut self, out: &mut Vec<Event>) {
        while let Some(block) = self.open.first().map(|open| open.block) {
            self.close(block, out);
        }
    }
}

fn index(data: &mut Fields) -> Result<u64> {
    data.u64("contentBlockIndex")?
        .ok_or_else(|| Error::new(Kind::Upstream, "the upstream sent a content block event without an index"))
}

/// What is held until it ends is not held without a bound.
fn grow(room: &mut usize, more: usize) -> Result<()> {
    *room = room.checked_sub(more).ok_or_else(|| {
        Error::new(Kind::Upstream, "the upstream sent a content block that is larger than an event may be")
    })?;
    Ok(())
}

/// Other events are keep-alives, or news of a later version.
const KNOWN: [&str; 6] =
    ["messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"];
