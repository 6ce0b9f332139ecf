//! What one request carries from its first byte to its record.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value};

use crate::{
    auth::Principal,
    model::{Format, Operation},
};

/// Facts and scratch space of one request. Owned by the gateway, lent to stages.
#[derive(Debug)]
pub struct Context {
    /// Minted here, unique for ever: `req_` and 32 hex digits, time-ordered.
    pub id: Arc<str>,
    pub operation: Operation,
    pub format: Format,
    pub principal: Arc<Principal>,
    /// Wall clock at the start: windows and scripts' `context.now`.
    pub now: SystemTime,
    /// Monotonic clock at the start: intervals.
    pub started: Instant,
    /// Ends at commit.
    pub deadline: Option<Instant>,
    /// `x-portcullis-tags`.
    pub tags: Vec<(String, String)>,
    pub priority: Priority,
    /// Request headers that stages may read: never credentials or cookies.
    pub headers: Vec<(String, String)>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// For `choose` and weighted targets: the same seed makes the same choice.
    pub seed: u64,
    /// Shared by the stages of this request.
    pub vars: Map<String, Value>,
    pub trace: Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// The decision trace: compact while the request runs, formatted only when somebody reads it.
#[derive(Debug, Default)]
pub struct Trace {
    pub steps: Vec<Step>,
}

/// One decision.
#[derive(Debug, Clone)]
pub enum Step {
    /// A stage ran.
    Stage { stage: Arc<str>, phase: &'static str, verdict: Verdict, took: Duration, operations: u64 },
    /// `context.note(text)`.
    Note { stage: Arc<str>, text: String },
    /// The strategy's order.
    Planned { targets: Vec<Arc<str>> },
    /// A target was passed over before it was tried.
    PassedOver { target: Arc<str>, reason: Arc<str> },
    /// An attempt ended.
    Attempt { number: u32, target: Arc<str>, outcome: Arc<str>, took: Duration },
    /// Something of the request or answer that a format could not say.
    Dropped { what: &'static str },
}

/// What a stage decided, as the trace keeps it.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Continue,
    Respond,
    Reject(u16),
    Next(Arc<str>),
    Skip,
    Stop(Arc<str>),
    /// The stage failed; its `on_error` decided.
    Failed(Arc<str>),
}

impl Trace {
    pub fn push(&mut self, step: Step) {
        // A stage that notes in a loop must not eat the memory.
        if self.steps.len() < MAX_STEPS {
            self.steps.push(step);
        }
    }
}

const MAX_STEPS: usize = 256;
