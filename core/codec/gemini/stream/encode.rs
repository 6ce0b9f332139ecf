//! Events as a Gemini client's stream: unnamed server-sent events, or the pieces of a JSON list. Text goes out as it
//! comes; calls go out whole when they are complete; finish reasons wait for the end, because this wire says usage and
//! finish in one chunk and other families send usage last.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    codec::{
        ClientView, StreamEncoder,
        alike::Mould,
        draft::{Draft, Said},
        gemini::{
            error as errors,
            grounding::{self, Cited},
            logprobs,
            response::{Head, NATIVE, content, feedback_of, foreign_native, has_sources, put_finish, tell_part},
            usage,
            wire::{GEMINI, write_sealed, write_signature},
        },
        sse, written,
    },
    error::Error,
    model::{Citation, Delta, Event, Extra, Finish, FinishReason, Part, PartStart, Signature, Start, ToolCall, Usage},
};

#[derive(Debug, Default)]
pub struct Encoder {
    view: ClientView,
    head: Head,
    choices: BTreeMap<u32, Choice>,
    usage: Option<Usage>,
    began: bool,
    done: bool,
    mould: Mould,
}

#[derive(Debug, Default)]
struct Choice {
    open: BTreeMap<u32, Open>,
    /// All visible text so far: sources name places in it.
    text: String,
    points: u64,
    cited: Vec<(Citation, u32)>,
    /// Where each text part stands, in code points.
    places: BTreeMap<u32, (u64, u64)>,
    /// Fields for the choice's next chunk.
    pending: Map<String, Value>,
    sources_told: bool,
    refused: bool,
    finish: Option<Finish>,
}

#[derive(Debug)]
enum Open {
    Text {
        extra: Map<String, Value>,
        wrote: bool,
        signature: Option<Signature>,
    },
    Refusal,
    Reasoning {
        extra: Map<String, Value>,
        wrote: bool,
        signature: Option<Signature>,
        sealed: Option<Signature>,
    },
    Call(ToolCall),
    /// A complete call that waits for one before it: calls go out in their own order.
    Done(ToolCall),
    Whole,
}

impl Encoder {
    pub fn new(view: &ClientView) -> Self {
        let head = Head::new("", "", None, &Extra::default(), view);
        Encoder { view: view.clone(), head, ..Encoder::default() }
    }

    fn start(&mut self, choice: u32, index: u32, part: &PartStart, out: &mut Vec<u8>) {
        let own = |extra: &Extra| extra.of(GEMINI).cloned().unwrap_or_default();
        let state = self.choices.entry(choice).or_default();
        let open = match part {
            PartStart::Text { extra } => {
                state.places.insert(index, (state.points, state.points));
                Open::Text { extra: own(extra), wrote: false, signature: None }
            }
            PartStart::Refusal => {
                state.refused = true;
                Open::Refusal
            }
            PartStart::Reasoning { extra } => {
                Open::Reasoning { extra: own(extra), wrote: false, signature: None, sealed: None }
            }
            PartStart::ToolCall { id, name, kind, signature, extra } => Open::Call(ToolCall {
                id: id.clone(),
                name: name.clone(),
                kind: *kind,
                arguments: String::new(),
                signature: signature.clone(),
                cache: None,
                extra: extra.clone(),
            }),
            PartStart::Whole(part) => {
                self.whole(choice, index, part, out);
                Open::Whole
            }
        };
        self.choices.entry(choice).or_default().open.insert(index, open);
    }

    fn whole(&mut self, choice: u32, index: u32, part: &Part, out: &mut Vec<u8>) {
        let state = self.choices.entry(choice).or_default();
        if let Some(native) = foreign_native(part) {
            match state.pending.get_mut(NATIVE) {
                Some(Value::Array(list)) => list.push(native),
                _ => {
                    state.pending.insert(NATIVE.to_owned(), json!([native]));
                }
            }
            return;
        }
        if let Part::Text(t) = part {
            let start = state.points;
            state.say(&t.text);
            state.places.insert(index, (start, state.points));
            state.cited.extend(t.citations.iter().cloned().map(|c| (c, index)));
        }
        let mut parts = Vec::new();
        tell_part(part, &mut parts);
        if !parts.is_empty() {
            self.parts(choice, parts, out);
        }
    }

    /// A piece of text: the same chunk as the last one, if it was one of this part.
    fn said(&mut self, choice: u32, index: u32, text: &str, out: &mut Vec<u8>) {
        if self.mould.pour(choice, index, text, out) {
            let state = self.choices.entry(choice).or_default();
            if let Some(place) = state.places.get_mut(&index) {
                state.text.push_str(text);
                state.points += text.chars().count() as u64;
                place.1 = state.points;
            }
            return;
        }
        let from = out.len();
        let state = self.choices.entry(choice).or_default();
        // The first chunk of a part, and one that carries more besides, is like no other.
        let plain = match state.open.get(&index) {
            Some(Open::Text { wrote, extra, .. } | Open::Reasoning { wrote, extra, .. }) => *wrote || extra.is_empty(),
            _ => false,
        };
        let plain = plain && state.pending.is_empty() && !self.view.json_array;
        self.delta(choice, index, &Delta::Text(text.to_owned()), out);
        if plain {
            self.mould.learn(choice, index, "text", text, &out[from..]);
        }
    }

    fn delta(&mut self, choice: u32, index: u32, delta: &Delta, out: &mut Vec<u8>) {
        let state = self.choices.entry(choice).or_default();
        let Some(open) = state.open.get_mut(&index) else { return };
        let mut part = Draft::new();
        match (open, delta) {
            (Open::Call(call), Delta::Text(text)) => {
                call.arguments.push_str(text);
                return;
            }
            (Open::Call(call), Delta::Signature(s)) => {
                call.signature = Some(s.clone());
                return;
            }
            (Open::Text { extra, wrote, .. }, Delta::Text(text)) => {
                part.put("text", text.as_str());
                if !std::mem::replace(wrote, true) {
                    part.fill(extra.clone());
                }
                state.say(text);
                if let Some(place) = state.places.get_mut(&index) {
                    place.1 = state.points;
                }
            }
            (Open::Text { signature, .. }, Delta::Signature(s)) => {
                *signature = Some(s.clone());
                return;
            }
            (Open::Text { .. }, Delta::Citation(citation)) => {
                state.cited.push((citation.clone(), index));
                return;
            }
            (Open::Refusal, Delta::Text(text)) => part.put("text", text.as_str()),
            (Open::Reasoning { extra, wrote, .. }, Delta::Text(text)) => {
                part.put("text", text.as_str());
                part.put("thought", Value::Bool(true));
                if !std::mem::replace(wrote, true) {
                    part.fill(extra.clone());
                }
            }
            (Open::Reasoning { signature, .. }, Delta::Signature(s)) => {
                // Signatures may come in pieces.
                match signature {
                    Some(mine) if mine.origin == s.origin => mine.data.push_str(&s.data),
                    mine => *mine = Some(s.clone()),
                }
                return;
            }
            (Open::Reasoning { sealed, .. }, Delta::Sealed(s)) => {
                *sealed = Some(s.clone());
                return;
            }
            _ => return,
        }
        self.parts(choice, vec![part.into()], out);
    }

    fn end(&mut self, choice: u32, index: u32, out: &mut Vec<u8>) {
        let state = self.choices.entry(choice).or_default();
        let (mut parts, mut calls) = (Vec::new(), Vec::new());
        match state.open.remove(&index) {
            Some(Open::Text { extra, wrote, signature }) => {
                if signature.is_some() || (!wrote && !extra.is_empty()) {
                    let mut part = Draft::new();
                    part.put("text", "");
                    if let Some(signature) = &signature {
                        part.put("thoughtSignature", write_signature(signature));
                    }
                    if !wrote {
                        part.fill(extra);
                    }
                    parts.push(part.into());
                }
            }
            Some(Open::Reasoning { extra: _, wrote: _, signature, sealed }) => {
                let words = [signature.as_ref().map(write_signature), sealed.as_ref().map(write_sealed)];
                for word in words.into_iter().flatten() {
                    parts.push(json!({ "text": "", "thought": true, "thoughtSignature": word }).into());
                }
            }
            Some(Open::Call(call)) => {
                state.open.insert(index, Open::Done(call));
                calls = state.calls_in_order();
            }
            Some(done @ Open::Done(_)) => drop(state.open.insert(index, done)),
            Some(Open::Refusal | Open::Whole) | None => {}
        }
        calls.iter().for_each(|call| tell_part(call, &mut parts));
        if !parts.is_empty() {
            self.parts(choice, parts, out);
        }
    }

    /// One chunk with parts of one choice.
    fn parts(&mut self, choice: u32, parts: Vec<Said<'_>>, out: &mut Vec<u8>) {
        let mut candidate = Draft::new();
        candidate.put("content", content(parts));
        candidate.put("index", u64::from(choice));
        if let Some(state) = self.choices.get_mut(&choice) {
            candidate.fill(std::mem::take(&mut state.pending));
        }
        let mut chunk = Draft::new();
        chunk.put("candidates", vec![candidate.into()]);
        self.head.put(&mut chunk);
        let chunk = chunk.bytes();
        self.write(&chunk, out);
    }

    fn write(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if self.view.json_array {
            out.extend_from_slice(if self.began { b",\n" } else { b"[" });
            out.extend_from_slice(chunk);
            out.push(b'\n');
        } else {
            sse::write(None, chunk, out);
        }
        self.began = true;
    }

    /// The last chunk: finish reasons, what is still pending, usage.
    fn last(&mut self, out: &mut Vec<u8>) {
        let open: Vec<(u32, u32)> = self.choices.iter().flat_map(|(c, s)| s.open.keys().map(|i| (*c, *i))).collect();
        for (choice, index) in open {
            self.end(choice, index, out);
        }
        for choice in self.choices.values_mut() {
            // A stage may have swallowed the reason; without one, clients hold the stream for cut.
            choice.finish.get_or_insert_with(|| Finish::new(FinishReason::Other, ""));
        }
        let mut chunk = Draft::new();
        let silent = self.choices.values().all(|c| c.points == 0 && c.places.is_empty());
        let blocked = self.choices.values().filter_map(|c| c.finish.as_ref()).find_map(feedback_of);
        if let Some(feedback) = blocked.filter(|_| silent && !self.began) {
            chunk.put("promptFeedback", Said::Lent(feedback));
        } else {
            let candidates: Vec<Said<'_>> = self.choices.iter().map(|(index, c)| c.last(*index).into()).collect();
            chunk.put("candidates", candidates);
        }
        if let Some(usage) = &self.usage {
            chunk.put("usageMetadata", usage::told(usage));
        }
        self.head.put(&mut chunk);
        let chunk = chunk.bytes();
        self.write(&chunk, out);
        if self.view.json_array {
            out.extend_from_slice(b"]");
        }
    }
}

impl Choice {
    /// Takes every complete call that no open one stands before.
    fn calls_in_order(&mut self) -> Vec<Part> {
        let mut calls = Vec::new();
        while let Some((index, Open::Done(_))) =
            self.open.iter().find(|(_, open)| matches!(open, Open::Call(_) | Open::Done(_)))
        {
            let index = *index;
            if let Some(Open::Done(call)) = self.open.remove(&index) {
                calls.push(Part::ToolCall(call));
            }
        }
        calls
    }

    fn say(&mut self, text: &str) {
        self.text.push_str(text);
        self.points += text.chars().count() as u64;
    }

    fn last(&self, index: u32) -> Draft<'_> {
        let mut candidate = Draft::new();
        candidate.put("content", Said::Raw(r#"{"parts":[{"text":""}],"role":"model"}"#));
        if let Some(finish) = &self.finish {
            put_finish(finish, self.refused, &mut candidate);
        }
        candidate.put("index", u64::from(index));
        if !self.sources_told {
            let place = |i: &u32| self.places.get(i).copied().unwrap_or((0, self.points));
            let cited: Vec<Cited<'_>> =
                self.cited.iter().map(|(citation, i)| Cited { citation, part: place(i) }).collect();
            if let Some(metadata) = grounding::encode(&self.text, &cited) {
                candidate.put("groundingMetadata", metadata);
            }
        }
        candidate.add(Some(&self.pending));
        candidate
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.done {
            return;
        }
        if !matches!(event, Event::Delta { delta: Delta::Text(_), .. }) {
            self.mould.forget();
        }
        match event {
            Event::Start(Start { id, model, created, service_tier: _, extra }) => {
                self.head = Head::new(id, model, *created, extra, &self.view);
            }
            Event::PartStart { choice, index, part } => self.start(*choice, *index, part, out),
            Event::Delta { choice, index, delta: Delta::Text(text) } => self.said(*choice, *index, text, out),
            Event::Delta { choice, index, delta } => self.delta(*choice, *index, delta, out),
            Event::PartEnd { choice, index } => self.end(*choice, *index, out),
            Event::ChoiceExtra { choice, logprobs, extra } => {
                let state = self.choices.entry(*choice).or_default();
                if let Some(result) = logprobs.as_ref().and_then(logprobs::encode) {
                    add_logprobs(&mut state.pending, result);
                }
                let own = extra.of(GEMINI);
                state.sources_told |= has_sources(own);
                for (key, value) in own.into_iter().flatten() {
                    state.pending.insert(key.clone(), value.clone());
                }
            }
            Event::Finish { choice, finish } => self.choices.entry(*choice).or_default().finish = Some(finish.clone()),
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, GEMINI),
            Event::Extra(extra) => self.head.add(extra),
            Event::Ping => {}
            Event::End => self.finish(out),
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.done, true) {
            self.last(out);
        }
    }

    fn error(&mut self, error: &Error, request_id: &str, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let mut chunk = Vec::new();
        written::value(&errors::value(error, request_id), &mut chunk);
        self.write(&chunk, out);
        if self.view.json_array {
            // The list is closed so that it parses; its last element is the error.
            out.extend_from_slice(b"]");
        }
    }

    /// White space: official SDKs of this family read a comment line as JSON and fail, an empty line is nothing to all.
    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        if !self.done {
            out.push(b'\n');
        }
    }
}

/// Steps that no chunk has carried yet.
fn add_logprobs(pending: &mut Map<String, Value>, more: Value) {
    let Some(Value::Object(mine)) = pending.get_mut("logprobsResult") else {
        pending.insert("logprobsResult".to_owned(), more);
        return;
    };
    let Value::Object(more) = more else { return };
    for (key, value) in more {
        match (mine.get_mut(&key), value) {
            (Some(Value::Array(list)), Value::Array(items)) => list.extend(items),
            (Some(_), _) => {}
            (None, value) => {
                mine.insert(key, value);
            }
        }
    }
}
