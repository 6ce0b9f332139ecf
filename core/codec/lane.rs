//! The fast lane of streams: an upstream's bytes go to a client of the same format as they came, while a scan picks out
//! what the gateway must know: the commit, usage, the finish, an error, the terminal.
//!
//! Frames are forwarded whole. Until the first model output every frame goes through the format's own decoder; after it
//! only frames that can matter do.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::{
    Dialect, StreamDecoder, codec,
    eventstream::{self, Said},
    framing::Framing,
    plain::Plain,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Event, FinishReason, Format, Usage},
};

/// In this order in memory: what each frame looks at first.
#[repr(C)]
pub struct Lane {
    /// A chunk of text as this stream writes them.
    plain: Plain,
    held: BytesMut,
    limit: usize,
    frames: u64,
    /// Bytes of output, as counted from the lengths of frames; what stands around it in a frame.
    output: u64,
    wrapping: u64,
    /// So much of it had gone by when the upstream last counted, and with the frame of `last_usage`.
    counted: u64,
    usage_at: u64,
    format: Format,
    framing: Framing,
    committed: bool,
    ended: bool,
    /// Leave out the usage chunk that the client did not ask for.
    hide_usage: bool,
    /// Searches of the web have a price: frames that tell of them matter.
    searches: bool,
    finish: Option<FinishReason>,
    /// Gemini repeats usage on each frame: only the last one is read.
    last_usage: Option<Bytes>,
    decoder: Box<dyn StreamDecoder>,
    events: Vec<Event>,
    usage: Option<Usage>,
    service_tier: Option<String>,
    /// The frame in which the upstream said that it failed.
    failed: Option<Bytes>,
    /// How much the numbers that a format gives its events are ahead of their count.
    ahead: u64,
}

impl Lane {
    /// `limit`: the most bytes of one frame.
    pub fn new(format: Format, dialect: &Dialect, hide_usage: bool, limit: usize) -> Self {
        Lane {
            format,
            framing: Framing::of(format),
            decoder: codec(format).stream_decoder(dialect, limit),
            hide_usage: hide_usage && format == Format::OpenaiChat,
            searches: false,
            held: BytesMut::new(),
            limit,
            committed: false,
            ended: false,
            events: Vec::new(),
            usage: None,
            service_tier: None,
            finish: None,
            plain: Plain::default(),
            failed: None,
            ahead: 0,
            last_usage: None,
            frames: 0,
            output: 0,
            wrapping: 0,
            counted: 0,
            usage_at: 0,
        }
    }

    /// Searches that stand in no usage are looked for.
    pub fn counting_searches(self, searches: bool) -> Self {
        Lane { searches, ..self }
    }

    /// Takes bytes, gives those that may go on. `Err` is the upstream's error event: what stood before it is in `out`.
    pub fn push(&mut self, bytes: Bytes, out: &mut Vec<Bytes>) -> Result<()> {
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            // What was held has no whole end in it: a large event is not read anew with each piece.
            let known = self.held.len();
            self.held.extend_from_slice(&bytes);
            if self.framing.end(&self.held, known, self.limit)?.is_none() {
                return self.bounded(self.held.len());
            }
            std::mem::take(&mut self.held).freeze()
        };
        // One run of frames goes on as one piece; `from` is where it starts.
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() {
            let end = match self.framing.end(&bytes[at..], 0, self.limit) {
                Ok(Some(end)) => end,
                Ok(None) => break,
                Err(error) => {
                    forward(&bytes, from, at, out);
                    return Err(error);
                }
            };
            let frame = at..at + end;
            match self.frame(&bytes, frame.clone()) {
                Ok(true) => {}
                Ok(false) => {
                    forward(&bytes, from, frame.start, out);
                    from = frame.end;
                }
                Err(error) => {
                    forward(&bytes, from, frame.start, out);
                    if error.upstream.is_some() {
                        // Some servers end their stream as usual behind it.
                        let ends = bytes[frame.end..].trim_ascii() == DONE.trim_ascii();
                        let end = if ends { bytes.len() } else { frame.end };
                        self.failed = Some(bytes.slice(frame.start..end));
                    }
                    return Err(error);
                }
            }
            at = frame.end;
        }
        forward(&bytes, from, at, out);
        if at < bytes.len() {
            self.bounded(bytes.len() - at)?;
            self.held = BytesMut::from(&bytes[at..]);
        }
        Ok(())
    }

    fn bounded(&self, held: usize) -> Result<()> {
        if held <= self.limit {
            return Ok(());
        }
        Err(Error::new(Kind::Upstream, format!("the upstream sent a stream event over {} bytes", self.limit)))
    }

    /// The upstream closed: what was held goes on if it is a frame that lacks only its empty line, and the terminal where the
    /// upstream may leave it out. `Err` if it was not seen and may not lack.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) -> Result<()> {
        let unended = !self.held.is_empty() && self.framing != Framing::EventStream;
        if !self.held.is_empty() {
            let rest = std::mem::take(&mut self.held).freeze();
            let read = self.decode(&rest).and_then(|()| self.decode(self.framing.closing()));
            if let Err(error) = read {
                if unended && error.upstream.is_some() {
                    // Behind CR an empty line was whole, for all that could be known of it.
                    let whole = rest.ends_with(b"\r\r");
                    let closing = if whole { &b""[..] } else { self.framing.closing() };
                    self.failed = Some([&rest[..], closing].concat().into());
                }
                return Err(error);
            }
            // Half of an event-stream frame is nothing that a client could read.
            if unended {
                self.frames += 1;
                out.push(rest);
            }
        }
        self.count_up();
        let before = self.ended;
        let result = self.decoder.finish(&mut self.events);
        self.note();
        // An error event follows it, or the terminal that this upstream leaves out: a client need not know whose streams do.
        let terminal = result.is_ok() && self.ended && !before && self.format == Format::OpenaiChat;
        if unended && (result.is_err() || terminal) {
            out.push(Bytes::from_static(self.framing.closing()));
        }
        if terminal {
            out.push(Bytes::from_static(DONE));
        }
        result
    }

    /// The upstream's error event as it came. What is said of the gateway's own key is not for its clients.
    pub fn last_words(&mut self, error: &Error) -> Option<Bytes> {
        self.failed.take().filter(|_| error.kind != Kind::UpstreamAuth)
    }

    /// Has model output gone by?
    pub fn committed(&self) -> bool {
        self.committed
    }

    /// Was the format's terminal seen?
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// As the stream's beginning names it.
    pub fn service_tier(&self) -> Option<&str> {
        self.service_tier.as_deref()
    }

    /// What is known of usage so far.
    pub fn usage(&mut self) -> Option<&Usage> {
        self.count_up();
        self.usage.as_ref()
    }

    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Bytes of model output that went by, as far as they can be told without reading them all: what frames have beyond the
    /// wrapping of the first one with output.
    pub fn text_bytes(&self) -> u64 {
        self.output
    }

    /// Of them those that had gone by when the upstream last counted; `usage` was asked for before.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// How many frames went by.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Above the number of each event that went by, where a format gives them numbers: counted, because hardly an event is read.
    pub fn next_number(&self) -> u64 {
        self.frames.saturating_add(self.ahead)
    }

    /// Should this frame go on?
    fn frame(&mut self, bytes: &Bytes, at: std::ops::Range<usize>) -> Result<bool> {
        let frame = &bytes[at.clone()];
        self.frames += 1;
        if self.committed {
            let weight = (frame.len() as u64).saturating_sub(self.wrapping);
            self.output += weight;
            match self.format {
                // What it searched for may stand in any frame.
                Format::Gemini
                    if !(WORDS.finish_of_gemini.is_in(frame)
                        || WORDS.error.is_in(frame)
                        || self.searches && WORDS.searches_of_gemini.is_in(frame)) =>
                {
                    if WORDS.usage_of_gemini.is_in(frame) {
                        self.last_usage = Some(bytes.slice(at));
                        self.usage_at = self.output;
                    }
                    return Ok(true);
                }
                Format::BedrockConverse => {
                    // Its checksums are looked at, whatever it is.
                    let read = eventstream::read(frame)?;
                    if read.said == Said::Event && read.name.starts_with("contentBlock") {
                        return Ok(true);
                    }
                }
                Format::AnthropicMessages if frame.starts_with(b"event: content_block_") => return Ok(true),
                Format::OpenaiResponses if passes(frame) => return Ok(true),
                Format::OpenaiChat if self.plain.is_like(frame) => return Ok(true),
                Format::OpenaiChat if !matters(frame) => {
                    self.plain.learn(frame);
                    return Ok(true);
                }
                _ => {}
            }
            // It is read: only its text counts.
            self.output -= weight;
        }
        if self.format == Format::OpenaiResponses {
            self.note_number(frame);
        }
        // What an earlier frame told comes before what this one tells: the last word holds.
        self.count_up();
        let hidden = self.hide_usage && WORDS.choices.is_in(frame) && usage_only(frame);
        let begun = self.committed;
        let before = self.output;
        let result = self.decode(frame);
        if !begun && self.committed {
            self.wrapping = (frame.len() as u64).saturating_sub(self.output - before);
            // From here on hardly a frame is read.
            self.events = Vec::new();
        }
        result.map(|()| !hidden)
    }

    /// What was told in a frame that passed.
    fn count_up(&mut self) {
        if let Some(frame) = self.last_usage.take() {
            // Its text was weighed. One that cannot be read tells nothing; the stream went on as it was.
            let (output, counted) = (self.output, std::mem::replace(&mut self.counted, u64::MAX));
            let _ = self.decode(&frame);
            self.counted = if self.counted == u64::MAX { counted } else { self.usage_at };
            self.output = output;
        }
    }

    /// Numbers begin at 0 and leave none out, as a rule. Of the frames that are read anyway they are looked at.
    fn note_number(&mut self, frame: &[u8]) {
        let word = &WORDS.number.0;
        let told = word.find_iter(frame).filter_map(|at| whole(&frame[at + word.needle().len()..])).max();
        let next = told.map_or(0, |number| number.saturating_add(1));
        self.ahead = self.ahead.max(next.saturating_sub(self.frames));
    }

    fn decode(&mut self, frame: &[u8]) -> Result<()> {
        let result = self.decoder.push(frame, &mut self.events);
        self.note();
        result
    }

    fn note(&mut self) {
        let mut counts = false;
        for event in self.events.drain(..) {
            self.committed |= event.commits();
            self.ended |= event == Event::End;
            match event {
                Event::Start(start) => self.service_tier = start.service_tier,
                Event::Usage(usage) => {
                    // The same number again counts nothing that came since.
                    let before = self.usage.as_ref().and_then(|mine| mine.output_tokens);
                    counts |= usage.output_tokens > before;
                    match &mut self.usage {
                        Some(mine) => mine.merge(&usage),
                        none => *none = Some(usage),
                    }
                }
                Event::Delta { delta, .. } => self.output += delta.text_bytes(),
                Event::Finish { finish, .. } => self.finish = Some(finish.reason),
                _ => {}
            }
        }
        if counts {
            self.counted = self.output;
        }
    }
}

/// The terminal of Chat Completions.
const DONE: &[u8] = b"data: [DONE]\n\n";

fn forward(bytes: &Bytes, from: usize, to: usize, out: &mut Vec<Bytes>) {
    if to > from {
        out.push(bytes.slice(from..to));
    }
}

/// What frames are searched for: made once, because making a searcher costs more than a search.
struct Words {
    done: Word,
    error: Word,
    usage: Word,
    finish: Word,
    choices: Word,
    number: Word,
    finish_of_gemini: Word,
    usage_of_gemini: Word,
    searches_of_gemini: Word,
}

struct Word(Finder<'static>);

static WORDS: LazyLock<Words> = LazyLock::new(|| Words {
    done: Word(Finder::new("[DONE]")),
    error: Word(Finder::new("\"error\"")),
    usage: Word(Finder::new("\"usage\"")),
    finish: Word(Finder::new("\"finish_reason\"")),
    choices: Word(Finder::new("\"choices\"")),
    number: Word(Finder::new("\"sequence_number\"")),
    finish_of_gemini: Word(Finder::new("\"finishReason\"")),
    usage_of_gemini: Word(Finder::new("\"usageMetadata\"")),
    searches_of_gemini: Word(Finder::new("\"webSearchQueries\"")),
});

impl Word {
    fn is_in(&self, frame: &[u8]) -> bool {
        self.0.find(frame).is_some()
    }

    /// Is it there as a key whose value is not null?
    fn says(&self, frame: &[u8]) -> bool {
        self.0.find_iter(frame).any(|at| !is_null(&frame[at + self.0.needle().len()..]))
    }
}

/// Is this an event of the Responses format that tells only text, arguments, or what its last event repeats?
fn passes(frame: &[u8]) -> bool {
    let Some(name) = frame.strip_prefix(b"event: response.") else { return false };
    let telling: [&[u8]; 7] =
        [b"created", b"in_progress", b"output_item.added", b"completed", b"incomplete", b"failed", b"cancelled"];
    !telling.iter().any(|word| name.starts_with(word))
}

/// Can an OpenAI chunk after the first output hold usage, a finish, an error or the terminal?
fn matters(frame: &[u8]) -> bool {
    WORDS.done.is_in(frame) || WORDS.error.is_in(frame) || WORDS.usage.says(frame) || WORDS.finish.says(frame)
}

/// After a key: is its value null?
fn is_null(rest: &[u8]) -> bool {
    let rest = rest.trim_ascii_start();
    rest.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().starts_with(b"null"))
}

/// After a key: its value, if that is a whole number.
fn whole(rest: &[u8]) -> Option<u64> {
    let value = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

/// Is this the chunk with `choices: []` and usage, and nothing else that a client would miss?
fn usage_only(frame: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'{', frame) else { return false };
    let Ok(serde_json::Value::Object(chunk)) = serde_json::from_slice(frame[at..].trim_ascii_end()) else {
        return false;
    };
    chunk.get("choices").and_then(|c| c.as_array()).is_some_and(Vec::is_empty)
        && chunk.get("usage").is_some_and(serde_json::Value::is_object)
}
