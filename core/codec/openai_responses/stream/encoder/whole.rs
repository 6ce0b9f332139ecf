//! Parts that come whole: media, the vendor's own items, and what a stage put together. What has no place in the output is
//! told beside the answer.

use serde_json::Value;

use super::{
    super::{
        super::{
            response::{placed, stray},
            search,
            wire::{F, item_fields},
            write,
        },
        told::{Say, State},
    },
    Encoder,
};
use crate::{
    codec::codec,
    model::{Delta, Media, MediaKind, MediaSource, Part, PartStart, Reasoning, Text, ToolCall},
};

impl Encoder {
    pub(super) fn whole(&mut self, part: u32, whole: &Part, out: &mut Vec<u8>) {
        match whole {
            Part::Media(media) if media.kind == MediaKind::Audio && placed(media) => {
                if let MediaSource::Base64(data) = &media.source {
                    self.say(part, Say::whole(write::output_audio(media, data)), None, out);
                }
            }
            Part::Media(media) if placed(media) => self.image(media, out),
            Part::Native { format: F, kind: _, value } => self.finished(value.clone(), out),
            Part::Native { format, kind, value } => {
                self.beside.extend(stray(whole));
                if let Some(query) = codec(*format).searched(kind, value) {
                    let item = search::item(query, &self.id, self.items.len());
                    self.finished(item, out);
                }
            }
            Part::Media(_) => self.beside.extend(stray(whole)),
            Part::ToolResult(_) => {}
            _ => {
                // A part that a stage made whole, as its start and deltas.
                if let Some((start, deltas)) = taken_apart(whole) {
                    self.part_start(part, &start, out);
                    deltas.into_iter().for_each(|delta| self.delta(part, &delta, out));
                }
            }
        }
    }

    pub(super) fn image(&mut self, media: &Media, out: &mut Vec<u8>) {
        let made = self.made_id("image_generation_call");
        let id = write::own_id(&media.extra, item_fields(&media.extra)).unwrap_or(&made);
        if let Some(item) = write::image(media, id) {
            self.finished(item, out);
        }
    }

    /// An item that came whole.
    pub(super) fn finished(&mut self, value: Value, out: &mut Vec<u8>) {
        self.let_go(true, true, out);
        let id = value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let item = self.add(id, State::Whole(value), out);
        self.close(item, out);
    }
}

fn taken_apart(part: &Part) -> Option<(PartStart, Vec<Delta>)> {
    let text = |text: &String| (!text.is_empty()).then(|| Delta::Text(text.clone()));
    Some(match part {
        Part::Text(Text { text: t, citations, signature, extra, cache: _ }) => {
            let mut deltas: Vec<Delta> = text(t).into_iter().collect();
            deltas.extend(citations.iter().cloned().map(Delta::Citation));
            deltas.extend(signature.clone().map(Delta::Signature));
            (PartStart::Text { extra: extra.clone() }, deltas)
        }
        Part::Refusal(t) => (PartStart::Refusal, text(t).into_iter().collect()),
        Part::Reasoning(Reasoning { text: t, signature, sealed, extra }) => {
            let mut deltas: Vec<Delta> = text(t).into_iter().collect();
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
