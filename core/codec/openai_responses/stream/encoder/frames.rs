//! The frames of a client's stream, written as they go out: nearly all of them are pieces of text, which differ from the one before
//! in their number and their text alone.

use serde_json::{Map, Value};

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
        out.extend_from_slice(b"}\n\n");
    }

    /// One that carries the answer as it is so far.
    pub(super) fn whole_answer(&mut self, name: &'static str, response: &[u8], out: &mut Vec<u8>) {
        self.head(name, out);
        out.extend_from_slice(b",\"response\":");
        out.extend_from_slice(response);
        out.extend_from_slice(b"}\n\n");
    }

    /// What every event begins with.
    fn head(&mut self, name: &'static str, out: &mut Vec<u8>) {
        for piece in ["event: ", name, "\ndata: {\"type\":\"", name, "\",\"sequence_number\":"] {
            out.extend_from_slice(piece.as_bytes());
        }
        written::number(self.sequence, out);
        self.sequence += 1;
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
        self.head(name, out);
        if self.around.of != Some((item, place)) {
            self.around.of = Some((item, place));
            self.around.written.clear();
            let mut fields = Map::new();
            fields.insert("item_id".to_owned(), self.items[item].id.as_str().into());
            fields.insert("output_index".to_owned(), item.into());
            match place {
                Place::Content(at) => drop(fields.insert("content_index".to_owned(), at.into())),
                Place::Summary(at) => drop(fields.insert("summary_index".to_owned(), at.into())),
                Place::Item => {}
            }
            let fields = written::object(&fields);
            // Without its brackets.
            self.around.written.extend_from_slice(&fields[1..fields.len() - 1]);
        }
        out.push(b',');
        out.extend_from_slice(&self.around.written);
        out.extend_from_slice(b",\"delta\":");
        written::text(delta, out);
        if let Some(logs) = logs {
            out.extend_from_slice(b",\"logprobs\":[");
            for (n, log) in logs.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                written::value(log, out);
            }
            out.push(b']');
        }
        out.extend_from_slice(b"}\n\n");
    }

    /// An item as it became.
    pub(super) fn item_done(&mut self, at: usize, out: &mut Vec<u8>) {
        self.write_item(at);
        self.head("response.output_item.done", out);
        out.extend_from_slice(b",\"output_index\":");
        written::number(at as u64, out);
        out.extend_from_slice(b",\"item\":");
        out.extend_from_slice(&self.items[at].written);
        out.extend_from_slice(b"}\n\n");
    }

    pub(super) fn write_item(&mut self, at: usize) {
        let item = &mut self.items[at];
        if item.written.is_empty() {
            written::value(&item.value(), &mut item.written);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    Content(usize),
    Summary(usize),
    /// The item has one text.
    Item,
}

/// The fields of a piece of text that say where it belongs. Nearly every event of a stream has those of the one before.
#[derive(Default)]
pub struct Around {
    of: Option<(usize, Place)>,
    written: Vec<u8>,
}
