//! A body written anew for another format, with long texts straight from the client's bytes: a mark stands in each one's place
//! while the body is read and the codec writes, and then the text goes into the new body as it came, not copied. What is
//! escaped in one JSON text is in another. Knows no format: a mark that ends where codecs do more with a text than pass it on
//! counts as a failure, and then the whole body is read and written.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    super::{
        Dialect, Encoded, codec, custom, foreign,
        pieces::{self, pieces},
        standin,
    },
    Document,
};
use crate::{
    error::Result,
    model::{Format, MediaSource, Operation, Part, Request},
};

/// A body for a target of another format.
#[derive(Debug)]
pub struct Anew {
    /// As it goes on the wire.
    pub body: Vec<Bytes>,
    /// Knobs that the target cannot take.
    pub dropped: Vec<&'static str>,
    /// Fields that no format knows, likewise.
    pub unknown: Vec<String>,
    /// Tools with free text.
    pub customs: Vec<String>,
    /// A tool stands in for the output schema, where the format's models need one.
    pub stands_in: bool,
}

impl Document {
    /// For a target of another format: the whole body anew. `more` is done to its fields before they are written. What was
    /// read of a long body is let go of.
    pub fn anew(&mut self, format: Format, dialect: &Dialect, more: impl Fn(&mut Map<String, Value>)) -> Result<Anew> {
        if let Some(written) = self.short(format, dialect, &more) {
            self.release();
            return Ok(written);
        }
        let asked = self.request()?;
        let (customs, stands_in) = (custom::names(asked), standin::wanted(asked, dialect));
        let unknown = foreign::unread(asked, format);
        let Encoded { mut body, dropped } = self.encode(format, dialect)?;
        // The body as it came and as it goes are there: a third copy of what is long is not kept beside them.
        self.release();
        more(&mut body);
        Ok(Anew { body: pieces(body), dropped, unknown, customs, stands_in })
    }

    /// The same with marks; `None`: there is nothing long, or something is not as it should be.
    fn short(&self, format: Format, dialect: &Dialect, more: impl Fn(&mut Map<String, Value>)) -> Option<Anew> {
        if self.operation != Operation::Chat || !self.can_be_read_again() {
            return None;
        }
        let (body, mut texts) = shortened(&self.bytes)?;
        let mut request = codec(self.format).decode_request(&body, self.inbound()).ok()?;
        place(&mut request, &mut texts)?;
        let (customs, stands_in) = (custom::names(&request), standin::wanted(&request, dialect));
        let unknown = foreign::unread(&request, format);
        let mut marked = Document { decoded: Some(Arc::new(request)), ..self.clone() };
        let Encoded { mut body, dropped } = marked.encode(format, dialect).ok()?;
        more(&mut body);
        Some(Anew { body: pieces::with_lent(body, texts)?, dropped, unknown, customs, stands_in })
    }
}

/// The body with marks, and what they stand for.
fn shortened(body: &Bytes) -> Option<(Vec<u8>, Vec<Option<Bytes>>)> {
    // What looks like a mark already would be taken for one.
    if memchr::memmem::find(body, WRITTEN.as_bytes()).is_some() {
        return None;
    }
    let places = places(body)?;
    let taken: usize = places.iter().map(Range::len).sum();
    if taken < body.len() / 4 {
        return None;
    }
    let mut short = Vec::with_capacity(body.len() - taken + places.len() * 32);
    let (mut from, mut texts) = (0, Vec::with_capacity(places.len()));
    for place in places {
        short.extend_from_slice(&body[from..place.start]);
        short.extend_from_slice(format!("{WRITTEN}{}\\u0000", texts.len()).as_bytes());
        from = place.end;
        texts.push(Some(body.slice(place)));
    }
    short.extend_from_slice(&body[from..]);
    Some((short, texts))
}

/// Where long texts stand that may be lent, without their quotes.
fn places(body: &[u8]) -> Option<Vec<Range<usize>>> {
    let (mut at, mut key, mut found) = (0, 0..0, Vec::new());
    while let Some(offset) = memchr::memchr(b'"', &body[at..]) {
        let start = at + offset + 1;
        let mut end = start;
        loop {
            end += memchr::memchr(b'"', &body[end..])?;
            let slashes = body[start..end].iter().rev().take_while(|b| **b == b'\\').count();
            if slashes.is_multiple_of(2) {
                break;
            }
            end += 1;
        }
        at = end + 1;
        if end - start < MOST_KEY && body[at..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':') {
            key = start..end;
        } else if end - start >= LEAST && KEYS.contains(&&body[key.clone()]) {
            found.extend(lendable(&body[start..end]).map(|from| start + from..end));
        }
    }
    Some(found)
}

/// From where on a text may be lent: prose, or a data URL's bytes. None that may be JSON, or has white space to trim.
fn lendable(raw: &[u8]) -> Option<usize> {
    let text = simdutf8::basic::from_utf8(raw).ok()?;
    if let Some(rest) = text.strip_prefix("data:") {
        let (head, data) = rest.split_once(";base64,")?;
        return (is_binary(head) && !data.contains('\\')).then(|| text.len() - data.len());
    }
    let begins = text.starts_with(|c: char| c.is_alphabetic() || c == '/');
    let (last, before) = raw.split_last()?;
    let escaped = !before.iter().rev().take_while(|b| **b == b'\\').count().is_multiple_of(2);
    let ends = if escaped { b"\"\\/".contains(last) } else { !text.ends_with(char::is_whitespace) };
    // An escaped character may be white space, too.
    let unicode = before.len() >= 5 && &raw[raw.len() - 6..raw.len() - 4] == b"\\u";
    (begins && ends && !unicode && is_sound(raw)).then_some(0)
}

/// No reader of JSON would stumble over it.
fn is_sound(raw: &[u8]) -> bool {
    if raw.iter().any(|b| *b < b' ') {
        return false;
    }
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        rest = match rest.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => &rest[at + 2..],
            Some(b'u') => {
                let unit = |at: usize| {
                    let digits = rest.get(at..at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
                    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
                };
                match unit(at + 2) {
                    // Half of a character: its other half follows.
                    Some(0xd800..0xdc00) => {
                        let other = unit(at + 8).is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
                        if !other || rest.get(at + 6..at + 8) != Some(b"\\u") {
                            return false;
                        }
                        &rest[at + 12..]
                    }
                    None | Some(0xdc00..0xe000) => return false,
                    Some(_) => &rest[at + 6..],
                }
            }
            _ => return false,
        };
    }
    true
}

/// Every mark stands where a codec only passes it on, or is put back: arguments of calls are JSON, which some wires take apart, and
/// words that citations stand on are counted.
fn place(request: &mut Request, texts: &mut [Option<Bytes>]) -> Option<()> {
    let mut seen = vec![false; texts.len()];
    for part in request.messages.iter_mut().flat_map(|message| &mut message.parts) {
        place_part(part, texts, &mut seen)?;
    }
    seen.into_iter().all(|seen| seen).then_some(())
}

fn place_part(part: &mut Part, texts: &mut [Option<Bytes>], seen: &mut [bool]) -> Option<()> {
    let (text, passes) = match part {
        Part::Text(text) => (&mut text.text, text.citations.is_empty()),
        // Some wires write its words elsewhere.
        Part::Reasoning(reasoning) => (&mut reasoning.text, false),
        Part::Media(media) => match &mut media.source {
            MediaSource::Base64(data) => (data, media.mime.as_deref().is_some_and(is_binary)),
            _ => return Some(()),
        },
        Part::ToolResult(result) => {
            return result.parts.iter_mut().try_for_each(|part| place_part(part, texts, seen));
        }
        Part::ToolCall(call) => {
            while let Some(at) = call.arguments.find(WRITTEN) {
                let (number, after) = call.arguments[at + WRITTEN.len()..].split_once("\\u0000")?;
                let (number, end) = (number.parse::<usize>().ok()?, call.arguments.len() - after.len());
                let text = texts.get_mut(number)?.take()?;
                call.arguments.replace_range(at..end, std::str::from_utf8(&text).ok()?);
                seen[number] = true;
            }
            return Some(());
        }
        _ => return Some(()),
    };
    if let Some(number) = pieces::marked(text) {
        *seen.get_mut(number)? = true;
        if !passes {
            let raw = texts[number].take()?;
            *text = serde_json::from_slice(&[b"\"", &raw[..], b"\""].concat()).ok()?;
        }
    }
    Some(())
}

/// Media whose bytes no wire turns into text.
fn is_binary(mime: &str) -> bool {
    mime == "application/pdf" || ["image/", "audio/", "video/"].iter().any(|kind| mime.starts_with(kind))
}

/// Under what the formats write texts and bytes.
const KEYS: [&[u8]; 12] = [
    b"content",
    b"text",
    b"data",
    b"url",
    b"image_url",
    b"file_data",
    b"bytes",
    b"output",
    b"images",
    b"input",
    b"system",
    b"instructions",
];
/// How a mark's beginning stands in a body's JSON.
const WRITTEN: &str = "\\u0000lent ";
/// Shorter ones cost less to copy.
const LEAST: usize = 2 << 10;
const MOST_KEY: usize = 32;
