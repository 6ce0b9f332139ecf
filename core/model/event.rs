//! A streamed answer as a sequence of meanings. `fold` turns the sequence into the whole answer; `unfold` goes back.
//!
//! Order per choice: `Start`, then for each part `PartStart` · `Delta`* · `PartEnd`, then `Finish`; `Usage` anywhere;
//! `End` last. Part indices count per choice from 0 in order of first appearance; several parts of one choice may be
//! open at once (parallel calls that interleave).

use serde_json::Value;

use super::{Citation, Extra, Finish, Part, Signature, ToolKind, Usage};

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Start(Start),
    PartStart {
        choice: u32,
        index: u32,
        part: PartStart,
    },
    Delta {
        choice: u32,
        index: u32,
        delta: Delta,
    },
    PartEnd {
        choice: u32,
        index: u32,
    },
    /// Facts of the choice that are no part: logprobs (to append), unknown fields.
    ChoiceExtra {
        choice: u32,
        logprobs: Option<Value>,
        extra: Extra,
    },
    Finish {
        choice: u32,
        finish: Finish,
    },
    /// Cumulative so far: merge, do not add.
    Usage(Usage),
    /// Unknown fields of the whole answer that arrive late.
    Extra(Extra),
    /// Keep-alive of the upstream.
    Ping,
    /// The format's terminal was seen.
    End,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Start {
    pub id: String,
    pub model: String,
    pub created: Option<i64>,
    pub service_tier: Option<String>,
    pub extra: Extra,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PartStart {
    Text {
        extra: Extra,
    },
    Refusal,
    Reasoning {
        extra: Extra,
    },
    ToolCall {
        id: String,
        name: String,
        kind: ToolKind,
        signature: Option<Signature>,
        extra: Extra,
    },
    /// A part that arrives whole (media, Native): no deltas follow.
    Whole(Part),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// Text of a Text, Refusal or Reasoning part, or a piece of a tool call's arguments.
    Text(String),
    Signature(Signature),
    /// Sealed reasoning (replaces).
    Sealed(Signature),
    Citation(Citation),
}

impl Delta {
    /// Of output that an upstream counts.
    pub fn text_bytes(&self) -> u64 {
        match self {
            Delta::Text(text) => text.len() as u64,
            Delta::Signature(_) | Delta::Sealed(_) | Delta::Citation(_) => 0,
        }
    }
}

impl Event {
    /// Is this model output in the sense of the commit rule (text, reasoning or tool delta, a whole part, the finish)?
    pub fn commits(&self) -> bool {
        match self {
            Event::Delta { .. } | Event::Finish { .. } => true,
            Event::PartStart { part, .. } => matches!(part, PartStart::ToolCall { .. } | PartStart::Whole(_)),
            Event::Start(_)
            | Event::PartEnd { .. }
            | Event::ChoiceExtra { .. }
            | Event::Usage(_)
            | Event::Extra(_)
            | Event::Ping
            | Event::End => false,
        }
    }
}
