//! What upstreams of a rehearsal say: an answer as the events that make it, or what goes wrong. Plain data; `upstream` puts
//! it on the wire.

use std::{collections::BTreeMap, time::Duration};

use crate::model::{Delta, Event, Finish, FinishReason, PartStart, ToolKind, Usage};

/// Who says what. An attempt is answered by its place in `by_attempt`, then by its target's name, then by `others`; who is told
/// nothing says something short.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    pub by_attempt: Vec<Answer>,
    /// One after another; the last one again and again.
    pub by_target: BTreeMap<String, Vec<Answer>>,
    pub others: Option<Answer>,
    pub pieces: Pieces,
}

/// How the texts of answers are cut into events, and the bytes of them into pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pieces {
    #[default]
    AsTold,
    /// A character an event.
    Characters,
    /// All of a part in one event.
    Whole,
    /// One part's text in two, after so many characters.
    At { part: usize, after: usize },
    /// The events as told, a byte a piece.
    Bytes,
}

/// One attempt's answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Wait before the head.
    pub latency: Duration,
    /// Wait before each event.
    pub pace: Duration,
    pub headers: Vec<(String, String)>,
    pub fault: Option<Fault>,
    /// Text, reasoning, tool calls, in order. Their ends and the answer's are added.
    pub events: Vec<Event>,
    pub usage: Option<Usage>,
    pub finish: Option<FinishReason>,
    /// As the upstream names it; by default the target's.
    pub model: Option<String>,
    /// Of an embeddings model: what a text that holds the word becomes; the first that fits.
    pub vectors: Vec<(String, Vec<f32>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Refused by the upstream itself.
    Status { status: u16, message: Option<String>, retry_after: Option<Duration> },
    /// No connection.
    Refused,
    /// A connection that never answers.
    Silent,
    /// The connection dies after so many events.
    Cut(usize),
    /// Silence after so many events.
    Stall(usize),
    /// These bytes, whatever they are.
    Bytes(String),
}

impl Answer {
    pub fn text(text: &str) -> Answer {
        Answer { events: text_part(0, text), ..Answer::default() }
    }

    /// The whole stream, cut into pieces: start, parts, finish, usage, end.
    pub fn stream(&self, model: &str, pieces: Pieces) -> Vec<Event> {
        let start = crate::model::Start {
            id: "rehearsed".to_owned(),
            model: self.model.clone().unwrap_or_else(|| model.to_owned()),
            created: Some(0),
            ..crate::model::Start::default()
        };
        let mut out = vec![Event::Start(start)];
        out.extend(cut(&self.events, pieces));
        let calls = self.events.iter().any(|e| matches!(e, Event::PartStart { part: PartStart::ToolCall { .. }, .. }));
        let reason = self.finish.unwrap_or(if calls { FinishReason::ToolCalls } else { FinishReason::Stop });
        out.push(Event::Finish { choice: 0, finish: Finish::new(reason, word(reason)) });
        let usual = || Usage { input_tokens: Some(10), output_tokens: Some(5), ..Usage::default() };
        out.push(Event::Usage(self.usage.clone().unwrap_or_else(usual)));
        out.push(Event::End);
        out
    }

    /// Characters of each part's text, in order.
    pub fn lengths(&self) -> Vec<usize> {
        runs(&self.events).iter().map(|(_, text)| text.chars().count()).collect()
    }
}

impl Answers {
    pub fn all(&self) -> impl Iterator<Item = &Answer> {
        self.by_attempt.iter().chain(self.by_target.values().flatten()).chain(&self.others)
    }
}

/// A part of visible text.
pub fn text_part(index: u32, text: &str) -> Vec<Event> {
    vec![
        Event::PartStart { choice: 0, index, part: PartStart::Text { extra: Default::default() } },
        Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) },
        Event::PartEnd { choice: 0, index },
    ]
}

pub fn reasoning_part(index: u32, text: &str) -> Vec<Event> {
    let mut part = text_part(index, text);
    part[0] = Event::PartStart { choice: 0, index, part: PartStart::Reasoning { extra: Default::default() } };
    part
}

pub fn tool_part(index: u32, id: &str, name: &str, arguments: &str) -> Vec<Event> {
    let mut part = text_part(index, arguments);
    let start = PartStart::ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        kind: ToolKind::Function,
        signature: None,
        extra: Default::default(),
    };
    part[0] = Event::PartStart { choice: 0, index, part: start };
    part
}

/// Texts of parts, each with the place of its first delta.
fn runs(events: &[Event]) -> Vec<(u32, String)> {
    let mut runs: Vec<(u32, String)> = Vec::new();
    for event in events {
        if let Event::Delta { index, delta: Delta::Text(text), .. } = event {
            match runs.iter_mut().find(|(known, _)| known == index) {
                Some((_, run)) => run.push_str(text),
                None => runs.push((*index, text.clone())),
            }
        }
    }
    runs
}

/// The same events with their texts cut otherwise. A part whose events lie between another's keeps its place.
fn cut(events: &[Event], pieces: Pieces) -> Vec<Event> {
    if matches!(pieces, Pieces::AsTold | Pieces::Bytes) {
        return events.to_vec();
    }
    let runs = runs(events);
    let mut out = Vec::new();
    let mut done = Vec::new();
    for event in events {
        let Event::Delta { choice, index, delta: Delta::Text(_) } = event else {
            out.push(event.clone());
            continue;
        };
        if done.contains(index) {
            continue;
        }
        done.push(*index);
        let Some((at, (_, text))) = runs.iter().enumerate().find(|(_, (known, _))| known == index) else { continue };
        let texts: Vec<String> = match pieces {
            Pieces::Characters => text.chars().map(String::from).collect(),
            Pieces::At { part, after } if part == at => {
                let place = text.char_indices().nth(after).map_or(text.len(), |(place, _)| place);
                [&text[..place], &text[place..]].iter().filter(|t| !t.is_empty()).map(|t| (*t).to_owned()).collect()
            }
            _ => vec![text.clone()],
        };
        let delta = |text| Event::Delta { choice: *choice, index: *index, delta: Delta::Text(text) };
        out.extend(texts.into_iter().map(delta));
    }
    out
}

/// The word of the format that says it most plainly; each codec writes its own.
const fn word(reason: FinishReason) -> &'static str {
    reason.name()
}
