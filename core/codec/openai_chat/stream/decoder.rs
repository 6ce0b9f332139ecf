//! An upstream's stream to events. Unnamed SSE frames with one chunk each, `[DONE]` at the end; the finish is held until
//! then, since servers go on after it with more text, a second finish or an error.

use serde_json::Value;

use super::{
    super::{
        error,
        response::{created, source_list},
        wire::{F, upstream_shape, usage},
    },
    state::Choice,
};
use crate::{
    codec::{
        StreamDecoder,
        alike::Alike,
        is_error_event,
        json::{Fields, as_u64, parse_event},
        sse,
        surrogate::Half,
    },
    error::{Error, Kind, Result},
    model::{Delta, Event, Extra, Start, Usage},
};

pub struct Decoder {
    sse: sse::Decoder,
    chunks: Chunks,
}

struct Chunks {
    /// Streams of this provider end without `[DONE]`.
    terminal_optional: bool,
    /// Bytes of the answer's reasoning, arguments and audio that may be kept while it runs.
    held: usize,
    started: bool,
    done: bool,
    dead: bool,
    /// Unknown fields of the whole answer, as last told.
    extra: Extra,
    start: Start,
    usage: Option<Usage>,
    choices: Vec<Choice>,
    /// Source URLs told so far.
    sources: usize,
    alike: Alike,
    half: Half,
}

impl Decoder {
    /// `limit`: the most bytes of an event; what is kept of an answer while it runs may be four times that.
    pub fn new(terminal_optional: bool, limit: usize) -> Self {
        Decoder {
            sse: sse::Decoder::new(limit),
            chunks: Chunks {
                terminal_optional,
                held: limit.saturating_mul(HELD_EVENTS),
                started: false,
                done: false,
                dead: false,
                extra: Extra::default(),
                start: Start::default(),
                usage: None,
                choices: Vec::new(),
                sources: 0,
                alike: Alike::default(),
                half: Half::default(),
            },
        }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, chunks } = self;
        let result = sse.push(bytes, |frame| chunks.frame(frame, out));
        chunks.dead |= result.is_err();
        result
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, chunks } = self;
        if !chunks.done && !chunks.dead {
            let told = sse.finish(|frame| chunks.frame(frame, out));
            chunks.dead = is_error_event(&told);
            if chunks.dead {
                return told;
            }
        }
        if chunks.done || chunks.dead {
            return Ok(());
        }
        let finished = !chunks.choices.is_empty() && chunks.choices.iter().all(|c| c.finish.is_some());
        if chunks.terminal_optional && finished {
            chunks.end(out);
            return Ok(());
        }
        Err(Error::new(
            Kind::Upstream,
            if finished {
                "the upstream's stream ended after its finish reason and without `[DONE]`, as one that broke off; if this server \
                 never sends it, set `open_end = true` for its provider"
            } else {
                "the upstream's stream broke off before its end; try again"
            },
        ))
    }
}

impl Chunks {
    fn frame(&mut self, frame: &sse::Frame, out: &mut Vec<Event>) -> Result<()> {
        let data = frame.data.trim();
        if self.done || self.dead || data.is_empty() {
            return Ok(());
        }
        if let Some((choice, index, text)) = self.alike.read(&frame.event, data.as_bytes()) {
            if let Some(choice) = self.choices.iter_mut().find(|c| c.index == choice) {
                choice.grew(index, &text);
            }
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
            return self.bounded();
        }
        let from = out.len();
        self.long(frame, data, out)?;
        self.alike.learn(&frame.event, data.as_bytes(), &["content", "arguments"], &["obfuscation", "p"], &out[from..]);
        Ok(())
    }

    fn long(&mut self, frame: &sse::Frame, data: &str, out: &mut Vec<Event>) -> Result<()> {
        if data == "[DONE]" {
            if !self.started {
                return Err(Error::new(Kind::Upstream, "the upstream's stream ended without an answer"));
            }
            self.end(out);
            return Ok(());
        }
        let value = parse_event(data, &mut self.half)?;
        let error = value.get("error").is_some_and(|e| !e.is_null());
        if error || frame.event == "error" {
            self.usage(value.get("usage").cloned(), out);
            return Err(error::in_answer(&value));
        }
        self.chunk(value, out).map_err(upstream_shape)
    }

    fn chunk(&mut self, value: Value, out: &mut Vec<Event>) -> Result<()> {
        let mut f = Fields::new(value, "")?;
        // Padding against traffic analysis says nothing.
        ["object", "obfuscation", "p"].iter().for_each(|k| drop(f.take(k)));
        let id = f.string("id")?.unwrap_or_default();
        let model = f.string("model")?.unwrap_or_default();
        let time = created(f.take("created"));
        let tier = f.string("service_tier")?.filter(|t| !t.is_empty());
        let told = f.take("usage");
        let told = told.or_else(|| f.peek("x_groq")?.get("usage").cloned());
        let choices = f.array("choices")?.unwrap_or_default();
        let sources = source_list(f.peek("citations"), f.peek("search_results"));
        let news = self.news(f.rest(F));
        if !self.started {
            self.begin(id, model, time, tier, &news, !choices.is_empty() || told.is_some(), out);
        } else if !news.is_empty() {
            out.push(Event::Extra(news));
        }
        for (at, value) in choices.into_iter().enumerate() {
            self.choice(value, at, out)?;
        }
        if let Some(first) = self.choices.first_mut() {
            let new = sources.into_iter().skip(self.sources);
            self.sources += first.writing(out, |first| new.map(|source| first.source(source)).count());
        }
        self.usage(told, out);
        self.bounded()
    }

    fn bounded(&self) -> Result<()> {
        let held: usize = self.choices.iter().map(|c| c.held).sum();
        if held > self.held {
            return Err(Error::new(Kind::Upstream, format!("the upstream's answer is over {} bytes", self.held)));
        }
        Ok(())
    }

    /// Azure's first chunk has no id and no choice, only filter results: the answer begins with the one after.
    #[expect(clippy::too_many_arguments, reason = "the head's fields, once")]
    fn begin(
        &mut self,
        id: String,
        model: String,
        time: Option<i64>,
        tier: Option<String>,
        news: &Extra,
        answers: bool,
        out: &mut Vec<Event>,
    ) {
        for (key, value) in news.of(F).into_iter().flatten() {
            self.start.extra.insert(F, key, value.clone());
        }
        if !answers && id.is_empty() {
            return;
        }
        let extra = std::mem::take(&mut self.start.extra);
        out.push(Event::Start(Start { id, model, created: time, service_tier: tier, extra }));
        self.started = true;
    }

    /// Unknown fields that were not told before: most servers repeat them in every chunk.
    fn news(&mut self, extra: Extra) -> Extra {
        let mut news = Extra::default();
        for (key, value) in extra.of(F).into_iter().flatten() {
            if self.extra.of(F).and_then(|m| m.get(key)) != Some(value) {
                self.extra.insert(F, key, value.clone());
                news.insert(F, key, value.clone());
            }
        }
        news
    }

    fn choice(&mut self, value: Value, at: usize, out: &mut Vec<Event>) -> Result<()> {
        let f = Fields::new(value, "choices[]")?;
        if let Some(error) = f.peek("error") {
            return Err(error::in_answer(error));
        }
        let index = f.peek("index").and_then(Value::as_number).and_then(as_u64).and_then(|n| u32::try_from(n).ok());
        let index = index.unwrap_or(at as u32);
        let at = match self.choices.iter().position(|c| c.index == index) {
            Some(at) => at,
            None if self.choices.len() >= MAX_CHOICES => {
                return Err(Error::new(
                    Kind::Upstream,
                    format!("the upstream's answer has more than {MAX_CHOICES} choices"),
                ));
            }
            None => {
                // Nearly every answer has one.
                self.choices.reserve_exact(1);
                self.choices.push(Choice::new(index));
                self.choices.len() - 1
            }
        };
        self.choices[at].writing(out, |choice| choice.chunk(f))
    }

    fn usage(&mut self, told: Option<Value>, out: &mut Vec<Event>) {
        let Some(usage) = told.and_then(|told| usage(told.into())) else { return };
        if self.usage.as_ref() != Some(&usage) {
            out.push(Event::Usage(usage.clone()));
            self.usage = Some(usage);
        }
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        self.done = true;
        for choice in &mut self.choices {
            choice.writing(out, Choice::close);
        }
        out.push(Event::End);
    }
}

const MAX_CHOICES: usize = 128;
/// What is kept of a running answer, in events of the largest size.
const HELD_EVENTS: usize = 4;
