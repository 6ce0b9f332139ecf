//! Frames of a stream that differ in one text: most of an answer is the same frame again and again with another word in it.
//! `Alike` reads such a frame by comparing it with the last one that was read the long way, `Mould` writes one by the last
//! that was written the long way. Both say no to everything else, and then the long way is taken: they change what a frame
//! costs, never what it means. Know no format: their owners say which key the text stands under, and what a frame changes
//! in their own state.

use std::ops::Range;

use super::written;
use crate::model::{Delta, Event};

/// The last frame that told one piece of text and nothing else.
#[derive(Debug, Default)]
pub struct Alike {
    /// What the frame was called.
    name: String,
    /// Its bytes around the holes, one more than there are holes; empty: there is no such frame.
    fixed: Vec<Vec<u8>>,
    holes: Vec<Hole>,
    choice: u32,
    index: u32,
    /// Frames that were kept in vain, one after another.
    vain: u8,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hole {
    Text,
    /// A text or a number that says nothing: padding, a counter.
    Padding,
    Number,
}

impl Alike {
    /// What this frame tells, if it is like the last one.
    pub fn read(&mut self, name: &str, frame: &[u8]) -> Option<(u32, u32, String)> {
        let (first, rest) = self.fixed.split_first()?;
        if name != self.name {
            return None;
        }
        let mut left = frame.strip_prefix(first.as_slice())?;
        let mut text = None;
        for (hole, fixed) in self.holes.iter().zip(rest) {
            let length = match hole {
                Hole::Number => left.iter().take_while(|b| b.is_ascii_digit()).count(),
                Hole::Text | Hole::Padding => closing(left)?,
            };
            if *hole == Hole::Text {
                text = Some(plain(&left[..length])?);
            }
            left = left[length..].strip_prefix(fixed.as_slice())?;
        }
        // An empty piece may be told or not: the long way knows.
        let text = text.filter(|text| left.is_empty() && !text.is_empty())?;
        self.vain = 0;
        Some((self.choice, self.index, text))
    }

    /// Something else happened to the stream.
    pub fn forget(&mut self) {
        self.fixed.clear();
    }

    /// A frame was read the long way and told this. `keys`: what the text may stand under; `padding`: keys whose values say
    /// nothing.
    pub fn learn(&mut self, name: &str, frame: &[u8], keys: &[&str], padding: &[&str], told: &[Event]) {
        self.fixed.clear();
        let [Event::Delta { choice, index, delta: Delta::Text(text) }] = told else { return };
        if self.vain >= MOST_VAIN {
            return;
        }
        self.vain += 1;
        let mut holes: Vec<(Range<usize>, Hole)> = Vec::with_capacity(2);
        for key in keys {
            if let Some((at, Hole::Padding)) = value(frame, key)
                && plain(&frame[at.clone()]).is_some_and(|told| told == *text)
            {
                holes.push((at, Hole::Text));
                break;
            }
        }
        if holes.is_empty() {
            return;
        }
        holes.extend(padding.iter().filter_map(|key| value(frame, key)));
        holes.sort_by_key(|(at, _)| at.start);
        let (mut from, mut fixed) = (0, Vec::with_capacity(holes.len() + 1));
        for (at, _) in &holes {
            // One inside the other: a text that looks like a key.
            if at.start < from {
                return;
            }
            fixed.push(frame[from..at.start].to_vec());
            from = at.end;
        }
        fixed.push(frame[from..].to_vec());
        name.clone_into(&mut self.name);
        self.holes.clear();
        self.holes.extend(holes.into_iter().map(|(_, hole)| hole));
        (self.fixed, self.choice, self.index) = (fixed, *choice, *index);
    }
}

/// Where the value of a key stands, without its quotes, if the key is there once. Inside a text the key's own quotes would be
/// escaped.
fn value(frame: &[u8], key: &str) -> Option<(Range<usize>, Hole)> {
    let quoted = format!("\"{key}\"");
    let mut found = memchr::memmem::find_iter(frame, quoted.as_bytes());
    let (at, None) = (found.next()?, found.next()) else { return None };
    let mut at = at + quoted.len();
    let space = |from: usize| frame[from..].iter().take_while(|b| b.is_ascii_whitespace()).count();
    at += space(at);
    if frame.get(at) != Some(&b':') {
        return None;
    }
    at += 1;
    at += space(at);
    match frame.get(at)? {
        b'"' => {
            let length = closing(&frame[at + 1..])?;
            Some((at + 1..at + 1 + length, Hole::Padding))
        }
        b'0'..=b'9' => {
            let length = frame[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            Some((at..at + length, Hole::Number))
        }
        _ => None,
    }
}

/// The length of a JSON text that begins here, up to its closing quote.
fn closing(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let quote = from + memchr::memchr(b'"', &text[from..])?;
        let slashes = text[..quote].iter().rev().take_while(|b| **b == b'\\').count();
        if slashes.is_multiple_of(2) {
            return Some(quote);
        }
        from = quote + 1;
    }
}

/// The text between its quotes; `None`: it is not valid.
fn plain(raw: &[u8]) -> Option<String> {
    if raw.iter().all(|b| *b >= b' ' && *b != b'\\') {
        return std::str::from_utf8(raw).ok().map(str::to_owned);
    }
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok()
}

/// After so many frames that no other was like, nothing is kept any more.
const MOST_VAIN: u8 = 16;

/// The last frame that was written for a piece of text.
#[derive(Debug, Default)]
pub struct Mould {
    before: Vec<u8>,
    after: Vec<u8>,
    place: Option<(u32, u32)>,
}

impl Mould {
    /// Writes the same frame with another text, if the last one was of this part. Its owner forgets it when anything else
    /// happens to the stream.
    pub fn pour(&self, choice: u32, index: u32, text: &str, out: &mut Vec<u8>) -> bool {
        if self.place != Some((choice, index)) {
            return false;
        }
        out.extend_from_slice(&self.before);
        written::text(text, out);
        out.extend_from_slice(&self.after);
        true
    }

    /// This was written the long way. `key`: what the text stands under.
    pub fn learn(&mut self, choice: u32, index: u32, key: &str, text: &str, frame: &[u8]) {
        self.place = None;
        let mut wanted = format!("\"{key}\":").into_bytes();
        let head = wanted.len();
        written::text(text, &mut wanted);
        let mut found = memchr::memmem::find_iter(frame, &wanted);
        let (Some(at), None) = (found.next(), found.next()) else { return };
        self.before.clear();
        self.before.extend_from_slice(&frame[..at + head]);
        self.after.clear();
        self.after.extend_from_slice(&frame[at + wanted.len()..]);
        self.place = Some((choice, index));
    }

    pub fn forget(&mut self) {
        self.place = None;
    }
}

#[cfg(test)]
#[path = "alike_tests.rs"]
mod tests;
