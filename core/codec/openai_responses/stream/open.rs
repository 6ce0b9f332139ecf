//! An item of an upstream's stream while it is open: which parts of it have begun, and what of them was told.

use serde_json::{Map, Value, json};

use super::{
    super::{
        content::{self, LOGPROBS},
        item::{call_kind, reasoning_extra, tool_call},
        wire::{F, around, citation, part_extra},
    },
    again::Again,
    decoder::whole,
};
use crate::{
    codec::signature,
    error::Result,
    model::{Delta, Event, Extra, Part, PartStart, ToolCall},
};

/// The numbers of the answer's parts.
#[derive(Default)]
pub struct Slots {
    next: u32,
    /// Bytes of text that open items keep, to compare with what `done` events repeat.
    pub held: usize,
    pub refused: bool,
}

impl Slots {
    pub fn next(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }
}

pub struct Item {
    kind: Kind,
    /// The fields around the item's parts.
    fields: Map<String, Value>,
    /// All of it was told.
    pub done: bool,
}

enum Kind {
    Message(Vec<Piece>),
    /// Summaries, then the readable content.
    Reasoning(Vec<Piece>),
    Call {
        word: String,
        begun: Option<u32>,
        sent: String,
    },
    Whole,
}

/// A text that arrives in pieces: a part of a message, or of reasoning.
struct Piece {
    /// Its place among those of its list; reasoning has two lists.
    place: (bool, u64),
    part: u32,
    sent: String,
    citations: usize,
    /// How many tokens' log probabilities were told.
    logprobs: usize,
    ended: bool,
}

impl Item {
    pub fn open(kind: &str, item: &Value) -> Item {
        let state = match kind {
            "message" => Kind::Message(Vec::new()),
            "reasoning" => Kind::Reasoning(Vec::new()),
            "function_call" | "custom_tool_call" => {
                Kind::Call { word: kind.to_owned(), begun: None, sent: String::new() }
            }
            _ => Kind::Whole,
        };
        let fields = item.as_object().cloned().map(around).unwrap_or_default();
        Item { kind: state, fields, done: false }
    }

    /// For deltas of an item that was never added. Calls need their name: they wait for `done`.
    pub fn guess(name: &str, value: &Value) -> Option<Item> {
        let kind = match name {
            "response.output_text.delta" | "response.refusal.delta" => "message",
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => "reasoning",
            _ => return None,
        };
        let id = value.get("item_id").cloned().unwrap_or_default();
        Some(Item::open(kind, &json!({ "id": id })))
    }

    pub fn added(&mut self, item: Value, slots: &mut Slots, out: &mut Vec<Event>) -> Result<()> {
        if let Kind::Call { .. } = self.kind {
            self.begin_call(&item, slots, out);
        }
        Ok(())
    }

    pub fn event(&mut self, name: &str, value: Value, slots: &mut Slots, out: &mut Vec<Event>) -> Result<()> {
        if self.done {
            return Ok(());
        }
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (content, summary) = (number("content_index"), number("summary_index"));
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        match name {
            "response.output_text.delta" => {
                if let Some(Value::Array(list)) = value.get("logprobs").filter(|list| *list != &json!([]))
                    && let Some(piece) = self.piece((true, content), false, slots, out)
                {
                    piece.likely(list, out);
                }
                self.more((true, content), false, text("delta"), slots, out);
            }
            "response.refusal.delta" => self.more((true, content), true, text("delta"), slots, out),
            "response.reasoning_summary_text.delta" => self.more((false, summary), false, text("delta"), slots, out),
            "response.reasoning_text.delta" => self.more((true, content), false, text("delta"), slots, out),
            "response.output_text.done" | "response.reasoning_text.done" => {
                self.rest((true, content), false, text("text"), slots, out);
            }
            "response.refusal.done" => self.rest((true, content), true, text("refusal"), slots, out),
            "response.reasoning_summary_text.done" => self.rest((false, summary), false, text("text"), slots, out),
            "response.reasoning_summary_part.added" => drop(self.piece((false, summary), false, slots, out)),
            "response.output_text.annotation.added" => {
                let at = number("annotation_index") as usize;
                if let Some(annotation) = value.get("annotation").filter(|a| a.is_object()).cloned() {
                    let piece = self.piece((true, content), false, slots, out);
                    if let Some(piece) = piece.filter(|p| at >= p.citations) {
                        piece.citations = at + 1;
                        out.push(piece.delta(Delta::Citation(citation(annotation))));
                    }
                }
            }
            "response.content_part.added" => {
                let part = value.get("part").and_then(|p| p.get("type")).and_then(Value::as_str);
                let refusal = part == Some("refusal");
                if matches!(part, Some("output_text" | "text" | "refusal" | "reasoning_text")) {
                    self.piece((true, content), refusal, slots, out);
                }
            }
            "response.content_part.done" => {
                let part = value.get("part").cloned().unwrap_or_default();
                self.part_done(content, part, slots, out)?;
            }
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                self.input(text("delta"), false, slots, out);
            }
            "response.function_call_arguments.done" => self.input(text("arguments"), true, slots, out),
            "response.custom_tool_call_input.done" => self.input(text("input"), true, slots, out),
            _ => {}
        }
        Ok(())
    }

    /// The piece at `place`, begun if it was not.
    fn piece(
        &mut self,
        place: (bool, u64),
        refusal: bool,
        slots: &mut Slots,
        out: &mut Vec<Event>,
    ) -> Option<&mut Piece> {
        let reasoning = matches!(self.kind, Kind::Reasoning(_));
        let (Kind::Message(pieces) | Kind::Reasoning(pieces)) = &mut self.kind else { return None };
        if let Some(at) = pieces.iter().position(|p| p.place == place) {
            return pieces.get_mut(at);
        }
        if pieces.len() >= MAX_PIECES {
            return None;
        }
        let at = pieces.len();
        if reasoning {
            // The last one stays open: what is sealed comes at the item's end and goes with it.
            pieces.iter_mut().for_each(|p| p.end(out));
        }
        let start = if reasoning {
            PartStart::Reasoning { extra: reasoning_extra(&self.fields, at, place.0) }
        } else if refusal {
            slots.refused = true;
            PartStart::Refusal
        } else {
            PartStart::Text { extra: part_extra(self.fields.clone(), at, Map::new()) }
        };
        let part = slots.next();
        out.push(Event::PartStart { choice: 0, index: part, part: start });
        pieces.push(Piece { place, part, sent: String::new(), citations: 0, logprobs: 0, ended: false });
        pieces.last_mut()
    }

    fn more(&mut self, place: (bool, u64), refusal: bool, text: &str, slots: &mut Slots, out: &mut Vec<Event>) {
        slots.held += text.len();
        if text.is_empty() {
            return;
        }
        if let Some(piece) = self.piece(place, refusal, slots, out).filter(|p| !p.ended) {
            piece.sent.push_str(text);
            out.push(piece.delta(Delta::Text(text.to_owned())));
        }
    }

    /// More of the part with this number, if it is one of this item's.
    pub fn grow(&mut self, part: u32, text: &str, slots: &mut Slots) {
        let sent = match &mut self.kind {
            Kind::Message(pieces) | Kind::Reasoning(pieces) => {
                pieces.iter_mut().find(|piece| piece.part == part).map(|piece| &mut piece.sent)
            }
            Kind::Call { begun, sent, .. } => Some(sent).filter(|_| *begun == Some(part)),
            Kind::Whole => None,
        };
        if let Some(sent) = sent {
            slots.held += text.len();
            sent.push_str(text);
        }
    }

    /// What a `done` event has that no delta had.
    fn rest(&mut self, place: (bool, u64), refusal: bool, whole: &str, slots: &mut Slots, out: &mut Vec<Event>) {
        let Some(piece) = self.piece(place, refusal, slots, out).filter(|p| !p.ended) else { return };
        let rest = whole.strip_prefix(piece.sent.as_str()).unwrap_or_default().to_owned();
        self.more(place, refusal, &rest, slots, out);
    }

    /// A part of a message, whole; of reasoning, its text.
    fn part_done(&mut self, at: u64, part: Value, slots: &mut Slots, out: &mut Vec<Event>) -> Result<()> {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let text = |key: &str| part.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let place = (true, at);
        match (kind, &self.kind) {
            ("reasoning_text", Kind::Reasoning(_)) => self.rest(place, false, &text("text"), slots, out),
            ("refusal", Kind::Message(_)) => {
                self.rest(place, true, &text("refusal"), slots, out);
                self.end_piece(place, out);
            }
            ("output_text" | "text", Kind::Message(_)) => {
                self.rest(place, false, &text("text"), slots, out);
                self.text_done(place, part, out)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Citations that no event told, log probabilities, signatures; then the part is over.
    fn text_done(&mut self, place: (bool, u64), part: Value, out: &mut Vec<Event>) -> Result<()> {
        let Kind::Message(pieces) = &mut self.kind else { return Ok(()) };
        let Some(piece) = pieces.iter_mut().find(|p| p.place == place && !p.ended) else { return Ok(()) };
        let Part::Text(text) = content::part(part, "part".to_owned())? else { return Ok(()) };
        for citation in text.citations.into_iter().skip(piece.citations) {
            piece.citations += 1;
            out.push(piece.delta(Delta::Citation(citation)));
        }
        if let Some(signature) = text.signature {
            out.push(piece.delta(Delta::Signature(signature)));
        }
        if let Some(Value::Array(list)) = text.extra.of(F).and_then(|fields| fields.get(LOGPROBS)) {
            piece.likely(list.get(piece.logprobs..).unwrap_or_default(), out);
        }
        piece.end(out);
        Ok(())
    }

    fn end_piece(&mut self, place: (bool, u64), out: &mut Vec<Event>) {
        if let Kind::Message(pieces) | Kind::Reasoning(pieces) = &mut self.kind {
            pieces.iter_mut().filter(|p| p.place == place).for_each(|p| p.end(out));
        }
    }

    fn begin_call(&mut self, item: &Value, slots: &mut Slots, out: &mut Vec<Event>) {
        let Kind::Call { word, begun, .. } = &mut self.kind else { return };
        let text = |key: &str| item.get(key).and_then(Value::as_str);
        let (Some(id), Some(name), None) = (text("call_id"), text("name"), &begun) else { return };
        let (kind, input) = call_kind(word);
        let mut fields = item.as_object().cloned().unwrap_or_default();
        ["call_id", "name", input].iter().for_each(|key| drop(fields.shift_remove(*key)));
        let ToolCall { id, name, kind, signature, extra, .. } =
            tool_call(id, name.to_owned(), kind, String::new(), fields);
        let part = slots.next();
        *begun = Some(part);
        let start = PartStart::ToolCall { id, name, kind, signature, extra };
        out.push(Event::PartStart { choice: 0, index: part, part: start });
    }

    /// `whole`: the text is all of it, not a piece.
    fn input(&mut self, text: &str, whole: bool, slots: &mut Slots, out: &mut Vec<Event>) {
        let Kind::Call { begun: Some(part), sent, .. } = &mut self.kind else { return };
        let text = if whole { text.strip_prefix(sent.as_str()).unwrap_or_default() } else { text };
        if !text.is_empty() {
            slots.held += text.len();
            sent.push_str(text);
            out.push(Event::Delta { choice: 0, index: *part, delta: Delta::Text(text.to_owned()) });
        }
    }

    /// The item as it became.
    pub fn done(&mut self, item: Value, slots: &mut Slots, out: &mut Vec<Event>) -> Result<()> {
        if self.done {
            return Ok(());
        }
        match &self.kind {
            Kind::Message(_) => self.message_done(item, slots, out)?,
            Kind::Reasoning(_) => self.reasoning_done(&item, slots, out),
            Kind::Call { word, .. } => {
                let input = call_kind(word).1;
                let text = match item.get(input) {
                    Some(Value::String(text)) => text.clone(),
                    None | Some(Value::Null) => String::new(),
                    Some(value) => value.to_string(),
                };
                self.begin_call(&item, slots, out);
                self.input(&text, true, slots, out);
            }
            Kind::Whole => {
                for part in whole(item)?.0 {
                    let index = slots.next();
                    out.push(Event::PartStart { choice: 0, index, part: PartStart::Whole(part) });
                    out.push(Event::PartEnd { choice: 0, index });
                }
            }
        }
        self.close(slots, out);
        Ok(())
    }

    /// Did this only say again what was told? Then what it ends has ended, and no more of it need be read.
    pub fn told_again(&mut self, again: &Again<'_>, slots: &mut Slots, out: &mut Vec<Event>) -> bool {
        let said = match (again, &mut self.kind) {
            _ if self.done => return true,
            (Again::Text { at, text }, Kind::Message(pieces)) => {
                return pieces.iter().any(|p| p.place == (true, *at) && (p.ended || p.sent == *text));
            }
            (Again::Part { at, text, citations }, Kind::Message(pieces)) => {
                let Some(piece) = pieces.iter_mut().find(|p| p.place == (true, *at)) else { return false };
                let all = piece.sent == *text && piece.citations == *citations;
                if all {
                    piece.end(out);
                }
                return all || piece.ended;
            }
            (Again::Message { parts }, Kind::Message(pieces)) => {
                pieces.len() as u64 == *parts && pieces.iter().all(|p| p.ended && p.place.0 && p.place.1 < *parts)
            }
            (Again::Call { arguments }, Kind::Call { begun: Some(_), sent, .. }) => sent == arguments,
            (Again::Arguments { arguments }, Kind::Call { begun: Some(_), sent, .. }) => return sent == arguments,
            _ => false,
        };
        if said {
            self.close(slots, out);
        }
        said
    }

    fn message_done(&mut self, mut item: Value, slots: &mut Slots, out: &mut Vec<Event>) -> Result<()> {
        let content = match item.get_mut("content").map(Value::take) {
            Some(Value::Array(parts)) => parts,
            Some(Value::String(text)) => vec![json!({"type": "output_text", "text": text})],
            _ => Vec::new(),
        };
        for (at, part) in content.into_iter().enumerate() {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
            if matches!(kind, "output_text" | "text" | "refusal") {
                self.part_done(at as u64, part, slots, out)?;
                continue;
            }
            // Sound, and parts of later versions, come whole.
            let index = slots.next();
            let mut part = content::part(part, format!("content[{at}]"))?;
            if let Part::Media(media) = &mut part {
                let own = media.extra.of(F).cloned().unwrap_or_default();
                media.extra = part_extra(Map::new(), at, own);
            }
            out.push(Event::PartStart { choice: 0, index, part: PartStart::Whole(part) });
            out.push(Event::PartEnd { choice: 0, index });
        }
        Ok(())
    }

    fn reasoning_done(&mut self, item: &Value, slots: &mut Slots, out: &mut Vec<Event>) {
        for (key, raw) in [("summary", false), ("content", true)] {
            let list = item.get(key).and_then(Value::as_array);
            for (at, entry) in list.into_iter().flatten().enumerate() {
                let text = entry.get("text").and_then(Value::as_str).unwrap_or_default();
                self.rest((raw, at as u64), false, text, slots, out);
            }
        }
        let sealed = item.get("encrypted_content").and_then(Value::as_str).filter(|s| !s.is_empty());
        let sealed = sealed.map(|s| signature::read(s, F));
        let Kind::Reasoning(pieces) = &mut self.kind else { return };
        match pieces.last() {
            Some(last) => out.extend(sealed.map(|s| last.delta(Delta::Signature(s)))),
            None => {
                let index = slots.next();
                let extra = reasoning_extra(&self.fields, 0, false);
                out.push(Event::PartStart { choice: 0, index, part: PartStart::Reasoning { extra } });
                out.extend(sealed.map(|s| Event::Delta { choice: 0, index, delta: Delta::Sealed(s) }));
                out.push(Event::PartEnd { choice: 0, index });
            }
        }
    }

    /// Whatever is open ends.
    pub fn close(&mut self, slots: &mut Slots, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        match &mut self.kind {
            Kind::Message(pieces) | Kind::Reasoning(pieces) => {
                for piece in pieces {
                    piece.end(out);
                    slots.held = slots.held.saturating_sub(piece.sent.len());
                    piece.sent = String::new();
                }
            }
            Kind::Call { begun, sent, .. } => {
                slots.held = slots.held.saturating_sub(sent.len());
                *sent = String::new();
                if let Some(part) = begun {
                    out.push(Event::PartEnd { choice: 0, index: *part });
                }
            }
            Kind::Whole => {}
        }
    }
}

impl Piece {
    fn delta(&self, delta: Delta) -> Event {
        Event::Delta { choice: 0, index: self.part, delta }
    }

    /// Log probabilities of its next tokens.
    fn likely(&mut self, list: &[Value], out: &mut Vec<Event>) {
        if !list.is_empty() {
            self.logprobs += list.len();
            let logprobs = Some(json!({ "content": list }));
            out.push(Event::ChoiceExtra { choice: 0, logprobs, extra: Extra::default() });
        }
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.ended, true) {
            out.push(Event::PartEnd { choice: 0, index: self.part });
        }
    }
}

const MAX_PIECES: usize = 4096;
