//! An upstream's chunks as events. A whole answer is one chunk, so `decode_response` folds this machine's events: streams
//! and whole answers cannot drift apart. Borders between chunks mean nothing: plain text continues the plain text before
//! it, a signature signs the text before it and ends it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::args;
use crate::{
    codec::{
        StreamDecoder,
        alike::Alike,
        gemini::{
            error, grounding, logprobs,
            request::parts,
            usage,
            wire::{GEMINI, fields, finish_reason, items, make_id, only_call, only_text, seconds},
        },
        is_error_event,
        json::{Fields, Item, parse_event},
        sse,
        surrogate::Half,
    },
    error::{Error, Kind, Result},
    model::{
        Citation, Delta, Event, Extra, Finish, FinishReason, Part, PartStart, Signature, Start, ToolCall, ToolKind,
    },
};

/// The decoder of a stream of server-sent events.
#[derive(Debug)]
pub struct Decoder {
    frames: sse::Decoder,
    machine: Machine,
    alike: Alike,
}

impl Decoder {
    /// `limit`: the most bytes of an event.
    pub fn new(limit: usize) -> Self {
        Decoder { frames: sse::Decoder::new(limit), machine: Machine::default(), alike: Alike::default() }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let Decoder { frames, machine, alike } = self;
        frames.push(bytes, |frame| machine.frame(&frame.data, alike, out))
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let Decoder { frames, machine, alike } = self;
        let told = frames.finish(|frame| machine.frame(&frame.data, alike, out));
        if is_error_event(&told) {
            return told;
        }
        machine.finish(out)
    }
}

/// What is known of the answer so far.
#[derive(Debug, Default)]
pub struct Machine {
    started: bool,
    ended: bool,
    id: String,
    /// Top-level fields already told.
    told: Map<String, Value>,
    usage: usage::Told,
    /// What it searched the web for: its usage does not count that.
    searched: BTreeSet<String>,
    choices: BTreeMap<u32, State>,
    half: Half,
}

#[derive(Debug, Default)]
struct State {
    next: u32,
    open: Option<Open>,
    calls: usize,
    /// Code points of the text parts that are closed.
    before: u64,
    cited: Vec<Citation>,
    /// A function call whose arguments arrive in pieces.
    partial: Option<Value>,
    finished: bool,
}

#[derive(Debug)]
struct Open {
    index: u32,
    kind: OpenKind,
    /// Signed, or with fields of its own: nothing continues it.
    sealed: bool,
    text: String,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum OpenKind {
    Text,
    Reasoning,
    Call,
}

impl Machine {
    fn frame(&mut self, data: &str, alike: &mut Alike, out: &mut Vec<Event>) -> Result<()> {
        let data = data.trim();
        if data.is_empty() || data == "[DONE]" {
            return Ok(());
        }
        if let Some((choice, index, text)) = alike.read("", data.as_bytes()) {
            self.more(choice, &text);
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
            return Ok(());
        }
        let from = out.len();
        match parse_event(data, &mut self.half)? {
            // Proxies without `alt=sse` wrap chunks and errors in lists.
            Value::Array(chunks) => chunks.into_iter().try_for_each(|chunk| self.chunk(chunk, out))?,
            chunk => self.chunk(chunk, out)?,
        }
        alike.learn("", data.as_bytes(), &["text"], &[], &out[from..]);
        Ok(())
    }

    /// One `GenerateContentResponse`.
    pub fn chunk<'t>(&mut self, chunk: impl Into<Item<'t>>, out: &mut Vec<Event>) -> Result<()> {
        let Ok(mut chunk) = Fields::new(chunk, "") else {
            return Err(Error::new(Kind::Upstream, "the upstream's answer is not an object"));
        };
        if chunk.peek("error").is_some() {
            return Err(error::decode_value(&Value::Object(chunk.rest_map()), None));
        }
        let candidates = items(chunk.item("candidates"));
        let usage = chunk.item("usageMetadata").filter(Item::is_object);
        let reason = chunk.peek("promptFeedback").and_then(|f| f.get("blockReason")).and_then(Value::as_str);
        let blocked = reason.filter(|_| candidates.is_empty()).map(str::to_owned);
        let feedback = if blocked.is_some() { chunk.take("promptFeedback") } else { None };
        self.head(chunk, out);
        let known = self.searched.len();
        for (position, candidate) in candidates.into_iter().enumerate() {
            if let Some(candidate) = fields(Some(candidate)) {
                self.candidate(candidate, position as u32, out);
            }
        }
        if let Some(reason) = blocked {
            let details = feedback.map(|f| serde_json::json!({ "promptFeedback": f }));
            let finish = Finish { reason: FinishReason::ContentFilter, raw: reason, stop_sequence: None, details };
            self.choices.entry(0).or_default().finished = true;
            out.push(Event::Finish { choice: 0, finish });
        }
        let more = self.searched.len() > known && !self.usage.is_empty();
        if usage.is_some() || more {
            let mut usage = self.usage.add(usage);
            if !self.searched.is_empty() {
                usage.units_mut().web_searches = Some(self.searched.len() as u64);
            }
            out.push(Event::Usage(usage));
        }
        Ok(())
    }

    /// Each query counts once, and empty ones do not: so the vendor bills them.
    fn search(&mut self, candidate: &Map<String, Value>) {
        let queries = candidate.get("groundingMetadata").and_then(|found| found.get("webSearchQueries"));
        let queries = queries.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for query in queries.filter(|query| !query.trim().is_empty()) {
            if self.searched.len() < MOST_SEARCHES && !self.searched.contains(query) {
                self.searched.insert(query.to_owned());
            }
        }
    }

    /// More of the text that is open.
    fn more(&mut self, choice: u32, text: &str) {
        let open = self.choices.get_mut(&choice).and_then(|state| state.open.as_mut());
        if let Some(open) = open.filter(|open| open.kind == OpenKind::Text) {
            open.text.push_str(text);
        }
    }

    fn head(&mut self, mut chunk: Fields, out: &mut Vec<Event>) {
        let mut text = |key: &str| chunk.item(key).and_then(|item| item.string().ok()).unwrap_or_default();
        let (id, model) = (text("responseId"), text("modelVersion"));
        let mut chunk = chunk.rest_map();
        chunk.retain(|key, value| self.told.get(key) != Some(value));
        let created = chunk.get("createTime").and_then(Value::as_str).and_then(seconds);
        for (key, value) in &chunk {
            self.told.insert(key.clone(), value.clone());
        }
        let extra = Extra::new(GEMINI, chunk);
        if !self.started {
            self.started = true;
            self.id = id.clone();
            out.push(Event::Start(Start { id, model, created, service_tier: None, extra }));
        } else if !extra.is_empty() {
            out.push(Event::Extra(extra));
        }
    }

    fn candidate(&mut self, mut candidate: Fields, position: u32, out: &mut Vec<Event>) {
        let named = candidate.item("index").and_then(|index| index.whole());
        let choice = named.map_or(position, |i| i as u32);
        let content = fields(candidate.item("content"));
        // The list may be left out around a single part, as in requests.
        let given = match content.and_then(|mut content| content.item("parts")) {
            Some(part) if part.is_object() => vec![part],
            parts => items(parts),
        };
        let reason = candidate.item("finishReason").and_then(|reason| reason.string().ok());
        let reason = reason.filter(|r| r != "FINISH_REASON_UNSPECIFIED");
        let message = candidate.take("finishMessage");
        let logprobs = candidate.take("logprobsResult").as_ref().and_then(logprobs::decode);
        let candidate = candidate.rest_map();
        self.search(&candidate);
        let state = self.choices.entry(choice).or_default();
        let mut sink = Sink { choice, out };
        for part in given {
            state.part(part, &self.id, &mut sink);
        }
        state.cite(&candidate, &mut sink);
        if reason.is_some() {
            state.close(&mut sink);
        }
        if logprobs.is_some() || !candidate.is_empty() {
            sink.out.push(Event::ChoiceExtra { choice, logprobs, extra: Extra::new(GEMINI, candidate) });
        }
        if let Some(raw) = reason {
            state.finished = true;
            let details = message.map(|m| serde_json::json!({ "finishMessage": m }));
            let finish = Finish { reason: finish_reason(&raw, state.calls > 0), raw, stop_sequence: None, details };
            sink.out.push(Event::Finish { choice, finish });
        }
    }

    /// The upstream closed.
    pub fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        if self.choices.is_empty() || self.choices.values().any(|c| !c.finished) {
            return Err(Error::new(Kind::Upstream, "the upstream's stream ended before its answer did"));
        }
        self.ended = true;
        out.push(Event::End);
        Ok(())
    }

    /// A whole answer need not name a finish reason; what is open is closed.
    pub fn finish_whole(&mut self, out: &mut Vec<Event>) -> Result<()> {
        if self.choices.is_empty() {
            return Err(Error::new(Kind::Upstream, "the upstream's answer holds no candidates"));
        }
        for (choice, state) in &mut self.choices {
            state.close(&mut Sink { choice: *choice, out });
        }
        self.ended = true;
        out.push(Event::End);
        Ok(())
    }
}

/// Where a choice's events go.
struct Sink<'a> {
    choice: u32,
    out: &'a mut Vec<Event>,
}

impl Sink<'_> {
    fn start(&mut self, index: u32, part: PartStart) {
        self.out.push(Event::PartStart { choice: self.choice, index, part });
    }

    fn delta(&mut self, index: u32, delta: Delta) {
        self.out.push(Event::Delta { choice: self.choice, index, delta });
    }

    fn end(&mut self, index: u32) {
        self.out.push(Event::PartEnd { choice: self.choice, index });
    }
}

impl State {
    fn part(&mut self, part: Item, seed: &str, sink: &mut Sink<'_>) {
        if let Some(text) = only_text(&part) {
            return self.text(OpenKind::Text, &text, None, sink);
        }
        if let Some((id, name, arguments)) = only_call(&part).filter(|_| self.partial.is_none()) {
            let extra = Extra::default();
            let (kind, signature, cache) = (ToolKind::Function, None, None);
            return self.call(ToolCall { id, name, kind, arguments, signature, cache, extra }, seed, sink);
        }
        let value = part.tree();
        if let Some(call) = value.get("functionCall").filter(|c| {
            self.partial.is_some()
                || c.get("partialArgs").is_some()
                || c.get("willContinue") == Some(&Value::Bool(true))
        }) {
            let signature = value.get("thoughtSignature").and_then(Value::as_str);
            return self.piece(call, signature, seed, sink);
        }
        // Upstreams are not lectured: what cannot be read as a part is kept as it came.
        match parts::decode(value.clone(), String::new()) {
            Ok(Part::Text(t)) if t.extra.is_empty() => self.text(OpenKind::Text, &t.text, t.signature, sink),
            Ok(Part::Reasoning(r)) if r.extra.is_empty() && r.sealed.is_none() => {
                self.text(OpenKind::Reasoning, &r.text, r.signature, sink);
            }
            Ok(Part::Text(t)) => {
                self.open(OpenKind::Text, PartStart::Text { extra: t.extra }, sink);
                self.fill(&t.text, t.signature, sink);
                self.seal();
            }
            Ok(Part::Reasoning(r)) => {
                self.open(OpenKind::Reasoning, PartStart::Reasoning { extra: r.extra }, sink);
                self.fill(&r.text, r.signature, sink);
                if let (Some(sealed), Some(open)) = (r.sealed, &self.open) {
                    sink.delta(open.index, Delta::Sealed(sealed));
                }
                self.seal();
            }
            Ok(Part::ToolCall(call)) => self.call(call, seed, sink),
            Ok(whole) => self.whole(whole, sink),
            Err(_) => self.whole(Part::Native { format: GEMINI, kind: "part".to_owned(), value }, sink),
        }
    }

    fn call(&mut self, call: ToolCall, seed: &str, sink: &mut Sink<'_>) {
        // Without an answer's id, the arguments keep equal calls of different turns apart.
        let seed = if seed.is_empty() { &call.arguments } else { seed };
        let id = if call.id.is_empty() { make_id(seed, self.calls, &call.name) } else { call.id };
        self.calls += 1;
        let start =
            PartStart::ToolCall { id, name: call.name, kind: call.kind, signature: call.signature, extra: call.extra };
        self.open(OpenKind::Call, start, sink);
        self.fill(&call.arguments, None, sink);
        self.close(sink);
    }

    fn text(&mut self, kind: OpenKind, text: &str, signature: Option<Signature>, sink: &mut Sink<'_>) {
        if text.is_empty() && signature.is_none() {
            return;
        }
        let continues = self.open.as_ref().is_some_and(|o| o.kind == kind && !o.sealed);
        if !continues {
            let start = match kind {
                OpenKind::Reasoning => PartStart::Reasoning { extra: Extra::default() },
                _ => PartStart::Text { extra: Extra::default() },
            };
            self.open(kind, start, sink);
        }
        self.fill(text, signature, sink);
    }

    fn open(&mut self, kind: OpenKind, start: PartStart, sink: &mut Sink<'_>) {
        self.close(sink);
        let index = self.next;
        self.next += 1;
        self.open = Some(Open { index, kind, sealed: false, text: String::new() });
        sink.start(index, start);
    }

    fn fill(&mut self, text: &str, signature: Option<Signature>, sink: &mut Sink<'_>) {
        let Some(open) = &mut self.open else { return };
        if !text.is_empty() {
            if open.kind == OpenKind::Text {
                open.text.push_str(text);
            }
            sink.delta(open.index, Delta::Text(text.to_owned()));
        }
        if let Some(signature) = signature {
            open.sealed = true;
            sink.delta(open.index, Delta::Signature(signature));
        }
    }

    fn seal(&mut self) {
        if let Some(open) = &mut self.open {
            open.sealed = true;
        }
    }

    fn whole(&mut self, part: Part, sink: &mut Sink<'_>) {
        self.close(sink);
        sink.start(self.next, PartStart::Whole(part));
        sink.end(self.next);
        self.next += 1;
    }

    fn close(&mut self, sink: &mut Sink<'_>) {
        if let Some(args) = self.partial.take() {
            self.fill(&args.to_string(), None, sink);
        }
        if let Some(open) = self.open.take() {
            if open.kind == OpenKind::Text {
                self.before += open.text.chars().count() as u64;
            }
            sink.end(open.index);
        }
    }

    /// A piece of a call whose arguments stream.
    fn piece(&mut self, call: &Value, signature: Option<&str>, seed: &str, sink: &mut Sink<'_>) {
        if let Some(name) = call.get("name").and_then(Value::as_str) {
            let id = call
                .get("id")
                .and_then(Value::as_str)
                .map(str::to_owned)
                .unwrap_or_else(|| make_id(seed, self.calls, name));
            self.calls += 1;
            let signature = signature.map(|data| Signature { origin: GEMINI, data: data.to_owned() });
            let kind = Default::default();
            let start = PartStart::ToolCall { id, name: name.to_owned(), kind, signature, extra: Extra::default() };
            self.open(OpenKind::Call, start, sink);
            self.partial = Some(call.get("args").cloned().unwrap_or_else(|| Value::Object(Map::new())));
        }
        if let Some(args) = &mut self.partial {
            for piece in call.get("partialArgs").and_then(Value::as_array).into_iter().flatten() {
                args::apply(args, piece);
            }
        }
        if call.get("willContinue") != Some(&Value::Bool(true)) {
            self.close(sink);
        }
    }

    /// Sources stand on the text part that is open: the metadata come with the last chunk.
    fn cite(&mut self, candidate: &Map<String, Value>, sink: &mut Sink<'_>) {
        let Some(open) = self.open.as_ref().filter(|o| o.kind == OpenKind::Text) else { return };
        for citation in grounding::decode(candidate, &open.text, self.before) {
            if !self.cited.contains(&citation) {
                sink.delta(open.index, Delta::Citation(citation.clone()));
                self.cited.push(citation);
            }
        }
    }
}

/// That are told apart in one answer.
const MOST_SEARCHES: usize = 1_000;
