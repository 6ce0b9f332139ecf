//! The frames of a client's stream, written as they go out: nearly all of them are pieces of text, which differ from the one before
//! in their number and their text alone.

use serde_json::Value;

use super::Encoder;
use crate::codec::written;

impl Encoder {
    /// One event with its type and number.
    pub(super) fn emit(&mut self, name: &'static str, fields: Value, out: &mut Vec<u8>) {
        self.head(name, out);
        for (key, value) in fields.as_object().into_iter().flatten() {
            out.push(b',');
            written::text(key, out);
            out.push(b':');
            written::value(value, out);
        }
        out.extend_from_slice(CLOSE);
    }

    /// One that carries the answer as it is so far.
    pub(super) fn whole_answer(&mut self, name: &'static str, response: &[u8], out: &mut Vec<u8>) {
        self.head(name, out);
        out.extend_from_slice(b",\"response\":");
        out.extend_from_slice(response);
        out.extend_from_slice(CLOSE);
    }

    /// What every event begins with.
    fn head(&mut self, name: &'static str, out: &mut Vec<u8>) {
        for piece in ["event: ", name, "\ndata: {\"type\":\"", name, "\",\"sequence_number\":"] {
            out.extend_from_slice(piece.as_bytes());
        }
        written::number(self.sequence, out);
        self.sequence += 1;
    }

    /// An event of an item, up to where it belongs: its own fields and `CLOSE` come behind.
    pub(super) fn open(&mut self, name: &'static str, item: usize, place: Place, out: &mut Vec<u8>) {
        self.head(name, out);
        if self.around.of != Some((item, place)) {
            self.around.of = Some((item, place));
            let written = &mut self.around.written;
            written.clear();
            written.extend_from_slice(b",\"item_id\":");
            written::text(&self.items[item].id, written);
            written.extend_from_slice(b",\"output_index\":");
            written::number(item as u64, written);
            let (key, at) = match place {
                Place::Content(at) => (",\"content_index\":", at),
                Place::Summary(at) => (",\"summary_index\":", at),
                Place::Item => ("", 0),
            };
            written.extend_from_slice(key.as_bytes());
            if !key.is_empty() {
                written::number(at as u64, written);
            }
        }
        out.extend_from_slice(&self.around.written);
    }

    /// An item as it begins.
    pub(super) fn item_added(&mut self, at: usize, out: &mut Vec<u8>) {
        self.head("response.output_item.added", out);
        out.extend_from_slice(b",\"output_index\":");
        written::number(at as u64, out);
        out.extend_from_slice(b",\"item\":");
        self.items[at].write_added(out);
        out.extend_from_slice(CLOSE);
    }

    /// A piece of text: what nearly all events are.
    pub(super) fn piece(
        &mut self,
        name: &'static str,
        item: usize,
        place: Place,
        delta: &str,
        logs: Option<&[Value]>,
        out: &mut Vec<u8>,
    ) {
        self.open(name, item, place, out);
        out.extend_from_slice(b",\"delta\":");
        written::text(delta, out);
        if let Some(logs) = logs {
            out.extend_from_slice(b",\"logprobs\":");
            written::list(logs, out);
        }
        out.extend_from_slice(CLOSE);
    }

    /// An item as it became.
    pub(super) fn item_done(&mut self, at: usize, out: &mut Vec<u8>) {
        self.write_item(at);
        self.head("response.output_item.done", out);
        out.extend_from_slice(b",\"output_index\":");
        written::number(at as u64, out);
        out.extend_from_slice(b",\"item\":");
        out.extend_from_slice(&self.items[at].written);
        out.extend_from_slice(CLOSE);
    }

    pub(super) fn write_item(&mut self, at: usize) {
        let item = &mut self.items[at];
        if item.written.is_empty() {
            let mut written = std::mem::take(&mut item.written);
            item.write(&mut written);
            item.written = written;
        }
    }
}

/// The end of every event.
pub const CLOSE: &[u8] = b"}\n\n";

#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    Content(usize),
    Summary(usize),
    /// The item has one text.
    Item,
}

/// The fields of an event that say where it belongs. Nearly every event of a stream has those of the one before.
#[derive(Default)]
pub struct Around {
    of: Option<(usize, Place)>,
    written: Vec<u8>,
}
