//! The programmable middle: which stages a request meets, in which order, and what their verdicts do.

mod adapt;
pub mod ask;
pub mod build;
pub mod chain;
pub mod effects;
pub mod kv;
pub mod parts;
pub mod phase;
mod seat;
pub mod stage;

use std::{
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
};

pub use adapt::Hold;
pub use ask::Asks;
pub use build::{Built, StageInfo, build};
pub use chain::{AttemptFlow, Chain, EndFlow, EventFlow, Flow, ResponseFlow, StreamNeed};
pub use effects::Effects;
pub use phase::Phase;
pub use stage::{Candidate, Reads, Stage, StageFault, Visit};

use crate::{
    auth::{Principal, wildcard},
    config::{OnError, Only, StreamMode},
};

/// All stages of a runtime, in list order. Shared by all requests and never changed.
#[derive(Default)]
pub struct Pipeline {
    pub entries: Vec<Arc<Entry>>,
}

/// A stage at its place in the list.
pub struct Entry {
    pub stage: Arc<dyn Stage>,
    pub on_error: OnError,
    pub only: Option<Only>,
    /// How it gets streamed answers; `None` when it looks at no answers.
    pub stream: Option<StreamMode>,
    /// What is held back per part in `window` mode.
    pub window: Hold,
    pub reads: Reads,
}

/// Enough for card numbers, e-mail addresses, IBANs and most phrases.
pub const WINDOW: Hold = Hold::Characters(256);

impl Entry {
    /// With the stage's own wishes and the default failure policy.
    pub fn new(stage: Arc<dyn Stage>) -> Self {
        let (stream, reads) = (stage.stream(), stage.reads());
        Entry { stage, on_error: OnError::default(), only: None, stream, window: WINDOW, reads }
    }

    fn meets(&self, principal: &Principal, model: &str) -> bool {
        let Some(Only { teams, models }) = &self.only else { return true };
        let team = principal.team.as_deref();
        let in_team = |list: &Vec<String>| team.is_some_and(|t| list.iter().any(|p| wildcard(p, t)));
        teams.as_ref().is_none_or(in_team) && models.as_ref().is_none_or(|list| list.iter().any(|p| wildcard(p, model)))
    }
}

/// Runs a stage to its end on this thread, where there is no runtime to wait in (`check`, `test`, `explain`). Stages
/// there wait for nothing but their own turn.
pub fn drive<F: Future>(call: F) -> F::Output {
    let mut call = pin!(call);
    let mut cx = TaskContext::from_waker(Waker::noop());
    loop {
        match call.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

impl Pipeline {
    pub fn new(entries: Vec<Entry>) -> Self {
        Pipeline { entries: entries.into_iter().map(Arc::new).collect() }
    }

    /// The stages that this caller's request for this name meets, decided once: a stage runs in all its phases or in
    /// none. Allocates nothing when there are no stages.
    pub fn select(&self, principal: &Principal, model: &str) -> Chain {
        Chain::new(self.entries.iter().filter(|e| e.meets(principal, model)).cloned())
    }
}
