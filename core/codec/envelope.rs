//! One pass over a body for what routing needs: spans of the top-level fields, the last user turn, how much text there
//! is. No tree is built and nothing is copied; strings are skipped quote to quote.
//!
//! The pass checks the JSON grammar (tokens, nesting, commas, numbers) and the depth, but not escapes and control
//! characters inside strings: whoever decodes a field meets those. A test compares it with serde_json.

use std::{ops::Range, sync::OnceLock};

use super::{OutputBound, signature::WRAPPED};
use crate::error::{Error, Kind, Result};

/// Spans of one JSON object's top-level fields, in order of appearance.
#[derive(Debug, Clone, Default)]
pub struct Envelope {
    pub fields: Vec<Entry>,
    /// The last element of `messages` or `contents` whose role is the user's (or absent).
    pub last_user: Option<Range<usize>>,
    /// Its first and its last text, as JSON strings with their quotes.
    pub last_user_texts: Option<(Range<usize>, Range<usize>)>,
    /// All that it says is one string, its `content`.
    pub last_user_plain: bool,
    /// Where the turns stand; the last one, if more than one field could hold them.
    pub turns: &'static str,
    /// What turns say, and whose they are, only a codec tells: more than one field could hold them, a role is missing, written twice or
    /// with escapes or is no string, or a key is written with escapes.
    pub odd: bool,
    /// Bytes inside string values, media left out: the base of every token estimate.
    pub text_bytes: u64,
    /// A key that carries media was seen.
    pub has_media: bool,
    /// A turn of the role `developer`, which not every server knows.
    pub has_developer: bool,
    /// A file is named by an id (`file_id`).
    pub has_files: bool,
    /// Something that this gateway wrote into an earlier answer comes back (tagged signatures, `thinking_blocks`,
    /// signatures in call ids): the turns must be read before they go to any upstream.
    pub carries: bool,
    /// The same, but in fields that other servers of the format write, too (`reasoning_content`): those may want them back.
    pub shares: bool,
    /// What these fields say of the answer's length, once somebody has asked.
    pub bound: OnceLock<OutputBound>,
}

/// Where a top-level field stands: its key with quotes, and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Range<usize>,
    pub value: Range<usize>,
}

impl Envelope {
    /// Scans `body`. Errors (400 with line and column): not JSON, not an object, deeper than `MAX_DEPTH`, a routing
    /// field twice, a top-level key written with escapes.
    pub fn scan(body: &[u8]) -> Result<Envelope> {
        if simdutf8::basic::from_utf8(body).is_err() {
            let at = simdutf8::compat::from_utf8(body).err().map_or(0, |e| e.valid_up_to());
            return Err(fault(body, at, "it is not valid UTF-8"));
        }
        let envelope = Envelope { fields: Vec::with_capacity(48), ..Envelope::default() };
        Scan { body, at: 0, envelope, notes: true }.object()
    }

    /// Scans an answer for its fields: it is whole and its brackets close. Texts are not weighed, turns not looked for.
    pub fn fields(body: &[u8]) -> Result<Envelope> {
        if simdutf8::basic::from_utf8(body).is_err() {
            return Err(fault(body, 0, "it is not valid UTF-8"));
        }
        let envelope = Envelope { fields: Vec::with_capacity(8), ..Envelope::default() };
        Scan { body, at: 0, envelope, notes: false }.object()
    }

    /// The value of a top-level field.
    pub fn value(&self, body: &[u8], name: &str) -> Option<Range<usize>> {
        self.entry(body, name).map(|e| e.value.clone())
    }

    pub fn entry(&self, body: &[u8], name: &str) -> Option<&Entry> {
        self.fields.iter().find(|e| e.name(body) == name.as_bytes())
    }
}

impl Entry {
    /// Its key without the quotes: what is scanned has no escapes there.
    pub fn name<'b>(&self, body: &'b [u8]) -> &'b [u8] {
        &body[self.key.start + 1..self.key.end - 1]
    }
}

struct Scan<'a> {
    body: &'a [u8],
    at: usize,
    envelope: Envelope,
    /// What strings hold matters.
    notes: bool,
}

/// What the walk below the top level looks for.
#[derive(Default)]
struct Watch {
    /// Inside `messages`, `contents` or `input`: elements are turns.
    turns: bool,
    /// Inside `input`: an element without a role is no turn, but an item of another kind.
    items: bool,
    /// Start of the turn that is being read.
    turn: usize,
    /// The turn's role, if it named one, and how often.
    role: Option<Range<usize>>,
    roles: u8,
    /// The turn's first and last text.
    texts: Option<(Range<usize>, Range<usize>)>,
    /// The turn's `content` is a string.
    plain: bool,
    /// The key that the next value belongs to.
    key: Range<usize>,
}

impl<'a> Scan<'a> {
    fn object(mut self) -> Result<Envelope> {
        self.space();
        if self.peek() != Some(b'{') {
            return Err(self.fault(match self.peek() {
                None => "it is empty",
                Some(_) => "it must be an object",
            }));
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.field()?;
                self.space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.fault("expected `,` or `}`")),
                }
                self.space();
            }
        }
        self.space();
        if self.at < self.body.len() {
            return Err(self.fault("there is text after its end"));
        }
        Ok(self.envelope)
    }

    fn field(&mut self) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("expected a key in quotes"));
        }
        let key = self.string()?;
        let name = &self.body[key.start + 1..key.end - 1];
        if name.contains(&b'\\') {
            return Err(self.fault_at(key.start, "a top-level key is written with escapes; write it plainly"));
        }
        if self.notes && is_alike(name) {
            let text = "a top-level key is written like another one of this format; write it in small letters";
            return Err(self.fault_at(key.start, text));
        }
        if ROUTING.contains(&name) && self.envelope.entry(self.body, std::str::from_utf8(name).unwrap_or("")).is_some()
        {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(self
                .fault_at(key.start, &format!("`{name}` is given twice"))
                .at(name)
                .with_code("duplicate_field"));
        }
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.fault("expected `:`"));
        }
        self.at += 1;
        self.space();
        let start = self.at;
        let items = name == b"input";
        let holds = TURNS.iter().find(|known| known.as_bytes() == name);
        let turns = holds.is_some();
        if let Some(holds) = holds {
            self.envelope.odd |= !self.envelope.turns.is_empty();
            self.envelope.turns = holds;
        }
        if items && self.notes && self.peek() == Some(b'"') {
            // A prompt that is one string.
            let text = self.string()?;
            self.envelope.text_bytes += (text.end - text.start - 2) as u64;
            self.envelope.last_user = Some(text.clone());
            self.envelope.last_user_texts = Some((text.clone(), text));
            self.envelope.last_user_plain = true;
        } else if !self.notes && matches!(self.peek(), Some(b'{' | b'[')) {
            self.skip()?;
        } else {
            self.value(Watch { turns, items, key: key.clone(), ..Watch::default() })?;
        }
        if self.envelope.fields.len() >= MAX_FIELDS {
            return Err(self.fault("it has too many top-level fields"));
        }
        self.envelope.fields.push(Entry { key, value: start..self.at });
        Ok(())
    }

    /// One value, with all below it. A bit of `open` says for each level whether it is an object.
    fn value(&mut self, mut watch: Watch) -> Result<()> {
        let mut open: u128 = 0;
        let mut depth = 0usize;
        loop {
            // A value starts here.
            self.space();
            if depth == 0 && watch.turns {
                self.envelope.odd |= self.peek() != Some(b'[');
            }
            if depth == 1 && watch.turns && open & 1 == 0 {
                self.envelope.odd |= self.peek() != Some(b'{');
                watch.turn = self.at;
                watch.role = None;
                watch.roles = 0;
                watch.texts = None;
                watch.plain = false;
            }
            match self.peek() {
                Some(b'"') => {
                    let text = self.string()?;
                    if self.notes {
                        self.note_string(&mut watch, depth, text);
                    }
                }
                Some(bracket @ (b'{' | b'[')) => {
                    if depth == MAX_DEPTH {
                        return Err(self.fault("it is nested too deep (over 126 levels)").with_code("json_too_deep"));
                    }
                    open = open << 1 | u128::from(bracket == b'{');
                    depth += 1;
                    self.at += 1;
                    self.space();
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    if self.peek() != Some(close) {
                        if bracket == b'{' {
                            self.key(&mut watch, depth)?;
                        }
                        continue;
                    }
                    self.at += 1;
                    open >>= 1;
                    depth -= 1;
                    self.end_turn(&watch, depth, open);
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                None => return Err(self.fault("it ends too early")),
                Some(_) => return Err(self.fault("expected a value")),
            }
            // A value ended here: close what closes, until the next value.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                self.space();
                let object = open & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if object {
                            self.space();
                            self.key(&mut watch, depth)?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    None => return Err(self.fault("it ends too early")),
                    Some(_) => {
                        return Err(self.fault(if object { "expected `,` or `}`" } else { "expected `,` or `]`" }));
                    }
                }
                self.at += 1;
                open >>= 1;
                depth -= 1;
                self.end_turn(&watch, depth, open);
            }
        }
    }

    /// Over a list or an object, by its brackets: whoever reads it checks its grammar.
    fn skip(&mut self) -> Result<()> {
        let mut depth = 0usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
                None => return Err(self.fault("it ends too early")),
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn key(&mut self, watch: &mut Watch, depth: usize) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("expected a key in quotes"));
        }
        watch.key = self.string()?;
        if watch.turns {
            let key = &&self.body[watch.key.start + 1..watch.key.end - 1];
            self.envelope.carries |= CARRIED.contains(key);
            self.envelope.shares |= SHARED.contains(key);
            self.envelope.odd |= key.contains(&b'\\');
            if matches!(depth, 2 | 4) && SAID.iter().any(|said| key.eq_ignore_ascii_case(said) && key != said) {
                let text = "a key of a turn is written like another one; write it in small letters";
                return Err(self.fault_at(watch.key.start, text));
            }
            watch.roles = watch.roles.saturating_add(u8::from(depth == 2 && **key == *b"role"));
        }
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.fault("expected `:`"));
        }
        self.at += 1;
        Ok(())
    }

    fn note_string(&mut self, watch: &mut Watch, depth: usize, text: Range<usize>) {
        let key = &self.body[watch.key.clone()];
        match key {
            br#""data""# | br#""file_data""# | br#""url""# | br#""image_url""# | br#""bytes""# | br#""uri""# => {
                self.envelope.has_media = true;
                self.envelope.carries |= self.body[text.start + 1..].starts_with(b"pc1:");
            }
            br#""role""# if watch.turns && depth == 2 => {
                let role = &self.body[text.clone()];
                self.envelope.has_developer |= role == br#""developer""#;
                self.envelope.odd |= role.contains(&b'\\');
                watch.role = Some(text);
            }
            br#""signature""# | br#""encrypted_content""# => {
                self.envelope.carries |= self.body[text.start + 1..].starts_with(b"pc1:");
            }
            // Where the wire has bytes the tag is base64 as well.
            br#""redactedContent""# | br#""thoughtSignature""# | br#""thought_signature""# => {
                let data = &self.body[text.start + 1..];
                self.envelope.carries |= data.starts_with(WRAPPED.as_bytes()) || data.starts_with(b"pc1:");
            }
            br#""id""# | br#""tool_call_id""# | br#""tool_use_id""# | br#""toolUseId""# | br#""call_id""# => {
                let id = &self.body[text];
                self.envelope.carries |= memchr::memmem::find(id, b"__thought__").is_some();
                // An item's id of our making stands for nothing at an upstream.
                self.envelope.carries |= OUR_IDS.iter().any(|ours| id.starts_with(ours));
            }
            br#""file_id""# => {
                self.envelope.has_files = true;
                self.envelope.text_bytes += (text.end - text.start - 2) as u64;
            }
            br#""content""# | br#""text""# if watch.turns => {
                self.envelope.text_bytes += (text.end - text.start - 2) as u64;
                watch.plain = depth == 2 && key == br#""content""# && watch.texts.is_none();
                watch.texts = Some((watch.texts.take().map_or(text.clone(), |(first, _)| first), text));
            }
            _ => self.envelope.text_bytes += (text.end - text.start - 2) as u64,
        }
    }

    /// After a bracket closed: was it a turn?
    fn end_turn(&mut self, watch: &Watch, depth: usize, open: u128) {
        if watch.turns && depth == 1 && open & 1 == 0 {
            // Whose turn it is without a role is clear for items of other kinds, and where only two speak.
            let roleless = watch.roles == 0 && self.envelope.turns != "messages";
            self.envelope.odd |= !(roleless || watch.roles == 1 && watch.role.is_some());
            let user = watch.role.as_ref().map_or(!watch.items, |r| &self.body[r.clone()] == br#""user""#);
            if user {
                self.envelope.last_user = Some(watch.turn..self.at);
                self.envelope.last_user_texts = watch.texts.clone();
                self.envelope.last_user_plain = watch.plain;
            }
        }
    }

    /// At a quote; leaves the position after the closing one. The span has both quotes.
    fn string(&mut self) -> Result<Range<usize>> {
        let start = self.at;
        let mut from = start + 1;
        loop {
            match quote(&self.body[from..]) {
                None => {
                    self.at = self.body.len();
                    return Err(self.fault("a string does not end"));
                }
                Some(offset) => {
                    let quote = from + offset;
                    from = quote + 1;
                    if self.body[quote - 1] != b'\\' || !escaped(&self.body[start + 1..quote]) {
                        self.at = from;
                        return Ok(start..from);
                    }
                }
            }
        }
    }

    fn number(&mut self) -> Result<()> {
        match past_number(self.body, self.at) {
            Ok(end) => {
                self.at = end;
                Ok(())
            }
            Err(at) => {
                self.at = at;
                Err(self.fault("expected a digit"))
            }
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<()> {
        if !self.body[self.at..].starts_with(word) {
            return Err(self.fault("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    #[inline(always)]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn fault(&self, what: &str) -> Error {
        fault(self.body, self.at, what)
    }

    fn fault_at(&self, at: usize, what: &str) -> Error {
        fault(self.body, at, what)
    }
}

/// Is it one of the fields that requests go by to servers which read keys in any case (Go's do), and to them alone?
fn is_alike(name: &[u8]) -> bool {
    if name.iter().all(|b| b.is_ascii_lowercase() || !b.is_ascii_alphabetic() && b.is_ascii()) {
        return false;
    }
    // The long s and the Kelvin sign are an s and a k to them.
    let plain = String::from_utf8_lossy(name).replace('\u{17f}', "s").replace('\u{212a}', "k");
    !ROUTING.contains(&name) && ROUTING.iter().any(|known| known.eq_ignore_ascii_case(plain.as_bytes()))
}

/// The next quote. Keys and most values are short: eight bytes at a time find it before a search is set up.
#[inline]
fn quote(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    for chunk in bytes.chunks_exact(8).take(SHORT / 8) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        let other = u64::from_le_bytes(word) ^ (ONES * b'"' as u64);
        let zero = other.wrapping_sub(ONES) & !other & (ONES << 7);
        if zero != 0 {
            return Some(at + zero.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr::memchr(b'"', &bytes[at..]).map(|more| at + more)
}

/// Where the JSON number that begins at `from` ends; `Err`: where a digit is missing.
pub(super) fn past_number(body: &[u8], from: usize) -> Result<usize, usize> {
    let byte = |at: usize| body.get(at).copied();
    let digits = |from: usize| {
        let most = body[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if most == 0 { Err(from) } else { Ok(from + most) }
    };
    let mut at = from + usize::from(byte(from) == Some(b'-'));
    at = if byte(at) == Some(b'0') { at + 1 } else { digits(at)? };
    if byte(at) == Some(b'.') {
        at = digits(at + 1)?;
    }
    if matches!(byte(at), Some(b'e' | b'E')) {
        at = digits(at + 1 + usize::from(matches!(byte(at + 1), Some(b'+' | b'-'))))?;
    }
    Ok(at)
}

/// Does this end with an odd number of backslashes?
fn escaped(text: &[u8]) -> bool {
    text.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

fn fault(body: &[u8], at: usize, what: &str) -> Error {
    let before = &body[..at.min(body.len())];
    let line = 1 + memchr::memchr_iter(b'\n', before).count();
    let column = 1 + before.len() - memchr::memrchr(b'\n', before).map_or(0, |n| n + 1);
    Error::new(Kind::InvalidRequest, format!("the body is not valid JSON: {what} (line {line}, column {column})"))
        .with_code("invalid_json")
}

/// Keys of a turn and of its parts that say whose it is and what it says: some servers read them in capitals, too.
const SAID: [&[u8]; 4] = [b"role", b"content", b"parts", b"text"];
/// Fields that hold turns, in one format or another.
const TURNS: [&str; 3] = ["messages", "contents", "input"];
/// Fields that decide where a request goes or what it may cost: given twice, readers would disagree.
const ROUTING: [&[u8]; 27] = [
    b"input",
    b"prompt",
    b"suffix",
    b"best_of",
    b"instructions",
    b"max_output_tokens",
    b"previous_response_id",
    b"store",
    b"background",
    b"model",
    b"stream",
    b"messages",
    b"contents",
    b"requests",
    b"generateContentRequest",
    b"generate_content_request",
    b"system",
    b"systemInstruction",
    b"max_tokens",
    b"max_completion_tokens",
    b"n",
    b"tools",
    b"stream_options",
    b"generationConfig",
    b"inferenceConfig",
    b"toolConfig",
    b"additionalModelRequestFields",
];

/// How ids begin that `openai_responses` makes for items without one.
const OUR_IDS: [&[u8]; 7] =
    [b"\"ws_pc_", b"\"ci_pc_", b"\"rs_pc_", b"\"msg_pc_", b"\"fc_pc_", b"\"ctc_pc_", b"\"ig_pc_"];

/// Message fields by which signatures and native parts travel through the OpenAI format.
const CARRIED: [&[u8]; 2] = [b"thinking_blocks", b"provider_specific_fields"];
const SHARED: [&[u8]; 2] = [b"extra_content", b"reasoning_content"];

/// serde_json stops at 128; the top level and this one stay under it.
const MAX_DEPTH: usize = 126;
const MAX_FIELDS: usize = 512;
/// Bytes of a string that are looked at without a search.
const SHORT: usize = 32;
