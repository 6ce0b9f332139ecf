//! What a person wrote last, and how much text there is, read from the client's own bytes as long as nobody has decoded them.
//! Changes nothing.

use std::{borrow::Cow, ops::Range};

use super::{
    super::{codec, surrogate},
    Document,
};
use crate::{
    error::Result,
    model::{Format, Operation, Request, Role},
};

impl Document {
    /// All of it. A client that cuts texts by 16-bit units leaves half a character, which no parser takes.
    pub(super) fn as_a_whole(&self) -> Result<Request> {
        let read = |bytes: &[u8]| codec(self.format).decode_request(bytes, self.inbound());
        read(&self.bytes).or_else(|error| match surrogate::mended(&self.bytes, None) {
            Cow::Owned(mended) => read(&mended),
            Cow::Borrowed(_) => Err(error),
        })
    }

    /// The text of the last user turn that has one. Reads no more of the body than that turn, unless it is written in a way that only
    /// its codec knows to read: what goes upstream is seen here, or the body is refused.
    pub fn last_user_text(&mut self) -> Result<Cow<'_, str>> {
        if let Some(turn) = self.last_turn() {
            match simple_text(&self.bytes[turn]).map(|text| self.place_of(text)) {
                Some(Ok(at)) => {
                    return Ok(Cow::Borrowed(simdutf8::basic::from_utf8(&self.bytes[at]).unwrap_or_default()));
                }
                Some(Err(text)) => return Ok(Cow::Owned(text)),
                None => {}
            }
        }
        let request = self.request()?;
        let turn = request.messages.iter().rev().find(|m| m.role == Role::User && !m.joined_text().is_empty());
        Ok(Cow::Owned(turn.map(|m| m.joined_text()).unwrap_or_default()))
    }

    /// Where in the client's bytes a text lies that was borrowed from them; one that was not comes back.
    fn place_of(&self, text: Cow<'_, str>) -> std::result::Result<Range<usize>, String> {
        match text {
            Cow::Borrowed(text) => {
                let start = text.as_ptr().addr() - self.bytes.as_ptr().addr();
                Ok(start..start + text.len())
            }
            Cow::Owned(text) => Err(text),
        }
    }

    /// The beginning and the end of the last user turn's text, at most `most` bytes of each; the end is empty where the
    /// beginning is all. Costs the same for a turn of any length.
    pub fn last_user_ends(&mut self, most: usize) -> Result<[Cow<'_, str>; 2]> {
        let texts = self.last_turn().and_then(|_| self.envelope.last_user_texts.clone());
        // Between two that are long enough nothing is looked at, however many there are.
        if let Some((first, last)) = texts.clone()
            && (if first == last { first.len() > 2 * most } else { first.len().min(last.len()) > 2 * most })
        {
            let (first, last) =
                (&self.bytes[first.start + 1..first.end - 1], &self.bytes[last.start + 1..last.end - 1]);
            let head = &first[..first.len().min(most)];
            let tail = &last[last.len().saturating_sub(most)..];
            return Ok([plain(head), plain(tail)]);
        }
        // One string without escapes is its own text; the body is known to be UTF-8.
        let only = texts.filter(|_| self.envelope.last_user_plain);
        let only = only.map(|(only, _)| only.start + 1..only.end - 1).filter(|at| !at.is_empty());
        if let Some(at) = only.filter(|at| memchr::memchr(b'\\', &self.bytes[at.clone()]).is_none()) {
            let text = simdutf8::basic::from_utf8(&self.bytes[at]).unwrap_or_default();
            return Ok(ends(text, most).map(Cow::Borrowed));
        }
        Ok(match self.last_user_text()? {
            Cow::Borrowed(text) => ends(text, most).map(Cow::Borrowed),
            Cow::Owned(text) => ends(&text, most).map(|end| Cow::Owned(end.to_owned())),
        })
    }

    /// The last user turn among the client's bytes, if that needs no codec to tell: nobody has read it, and it stands where turns of
    /// this format do.
    fn last_turn(&self) -> Option<Range<usize>> {
        let chat =
            matches!(self.operation, Operation::Chat | Operation::CountTokens | Operation::Compact) && !self.legacy;
        let own = match self.format {
            Format::Gemini => "contents",
            Format::OpenaiResponses => "input",
            _ => "messages",
        };
        let plain = chat && self.decoded.is_none() && !self.envelope.odd && self.envelope.turns == own;
        self.envelope.last_user.clone().filter(|_| plain)
    }

    /// Bytes of text in the prompt: the estimate's base. Does not decode.
    pub fn text_bytes(&self) -> u64 {
        let numbers = if self.legacy { self.prompt_numbers() } else { 0 };
        self.envelope.text_bytes + numbers * TOKEN_BYTES
    }

    /// Tokens that a legacy prompt is given as.
    fn prompt_numbers(&self) -> u64 {
        let Some(at) = self.envelope.value(&self.bytes, "prompt") else { return 0 };
        let prompt = &self.bytes[at];
        if !prompt.starts_with(b"[") || memchr::memchr(b'"', prompt).is_some() {
            return 0;
        }
        prompt.windows(2).filter(|pair| !pair[0].is_ascii_digit() && pair[1].is_ascii_digit()).count() as u64
    }
}

/// The beginning and the end of a text, on character borders.
pub(super) fn ends(text: &str, most: usize) -> [&str; 2] {
    if text.len() <= 2 * most {
        return [text, ""];
    }
    [&text[..text.floor_char_boundary(most)], &text[text.ceil_char_boundary(text.len() - most)..]]
}

/// A piece cut out of a JSON string, for searching words in it: escapes become spaces, a character cut in two a mark.
fn plain(piece: &[u8]) -> Cow<'_, str> {
    let text = readable(piece);
    if !text.contains('\\') {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        // `\u00e9` is a letter: it stays one to whoever looks for the borders of words.
        match rest.next() {
            Some('u') => out.push(decode_unicode(&mut rest)),
            Some(_) | None => out.push(' '),
        }
    }
    Cow::Owned(out)
}

/// A piece of a text is one too, but for a character that was cut at either end: a mark stands for it. Looking for what is no text
/// byte by byte, as the standard library does, takes longer than all searches in it.
pub(super) fn readable(piece: &[u8]) -> Cow<'_, str> {
    let (front, back) = cut_ends(piece);
    let whole = &piece[front..piece.len() - back];
    match simdutf8::basic::from_utf8(whole) {
        Ok(text) if front + back == 0 => Cow::Borrowed(text),
        Ok(text) => {
            let mark = |cut| if cut > 0 { "\u{fffd}" } else { "" };
            Cow::Owned([mark(front), text, mark(back)].concat())
        }
        Err(_) => String::from_utf8_lossy(piece),
    }
}

/// Bytes at the beginning and at the end that belong to characters which are not there whole.
fn cut_ends(piece: &[u8]) -> (usize, usize) {
    let goes_on = |byte: &&u8| **byte & 0xc0 == 0x80;
    let front = piece.iter().take(3).take_while(goes_on).count();
    let tail = piece[front..].iter().rev().take(3).take_while(goes_on).count();
    let first = piece[front..].iter().rev().nth(tail);
    // The first byte of a character says how many there are.
    let back = first.filter(|first| first.leading_ones() as usize > tail + 1).map_or(0, |_| tail + 1);
    (front, back)
}

fn decode_unicode(rest: &mut std::str::Chars<'_>) -> char {
    let digits: String = rest.by_ref().take(4).collect();
    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or(' ')
}

/// A turn in any of the families: `content` (text or parts) or `parts`.
#[derive(serde::Deserialize)]
struct Turn<'a> {
    #[serde(borrow, default)]
    content: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    parts: Option<&'a serde_json::value::RawValue>,
}

#[derive(serde::Deserialize)]
struct TextPart<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

/// The text of a turn, or of a prompt that is one string. `None`: it has none, or is not written as turns usually are.
fn simple_text(turn: &[u8]) -> Option<Cow<'_, str>> {
    if turn.starts_with(b"\"") {
        return borrowed_text(std::str::from_utf8(turn).ok()?);
    }
    let turn: Turn<'_> = serde_json::from_slice(turn).ok()?;
    let raw = turn.content.xor(turn.parts)?.get();
    if raw.starts_with('"') {
        return borrowed_text(raw);
    }
    let parts: Vec<TextPart<'_>> = serde_json::from_str(raw).ok()?;
    let mut texts = parts.into_iter().filter_map(|p| p.text);
    let first = texts.next()?;
    let all = texts.fold(first, |mut all, text| {
        all.to_mut().push('\n');
        all.to_mut().push_str(&text);
        all
    });
    (!all.is_empty()).then_some(all)
}

/// A JSON string as text, borrowed when it has no escapes (serde's plain `Cow` never borrows). `None`: it is empty, or no text.
fn borrowed_text(raw: &str) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Borrowed<'_>>(raw).ok().map(|b| b.0).filter(|text| !text.is_empty())
}

/// What a token is counted as in bytes of text, where only tokens are given.
const TOKEN_BYTES: u64 = 4;
