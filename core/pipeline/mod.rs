//! The programmable middle: which stages a request meets, in which order, and what their verdicts do.

mod adapt;
pub mod ask;
pub mod build;
pub mod builtin;
pub mod chain;
pub mod effects;
pub mod kv;
mod parking;
pub mod parts;
pub mod phase;
mod seat;
pub mod stage;
mod stopped;
mod turn;

use std::{
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

pub use adapt::{Hold, MAX_HELD};
pub use ask::Asks;
pub use build::{Built, StageInfo, build};
pub use builtin::Builtins;
pub use chain::{AttemptFlow, Chain, EndFlow, EventFlow, Flow, ResponseFlow, StreamNeed};
pub use effects::Effects;
pub use parking::{Admission, Parking, Standing};
pub use phase::Phase;
pub use stage::{Candidate, Reads, Stage, StageFault, Visit};
pub use turn::Trust;

use crate::{
    auth::{Principal, wildcard},
    config::{self, OnError, Only, StreamMode},
};

/// All stages of a runtime, in list order. Shared by all requests and never changed.
#[derive(Default)]
pub struct Pipeline {
    pub entries: Vec<Arc<Entry>>,
    /// Who answers what they ask; nobody where none of them may ask.
    pub asks: Asks,
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
    /// From here on a call is told as slow.
    pub slow: Duration,
    /// Is it parked?
    pub standing: Arc<Standing>,
    /// May it run where its requests are?
    pub trust: Trust,
}

/// Enough for card numbers, e-mail addresses, IBANs and most phrases.
pub const WINDOW: Hold = Hold::Characters(256);

impl Entry {
    /// With the stage's own wishes and the default failure policy.
    pub fn new(stage: Arc<dyn Stage>) -> Self {
        let (stream, reads) = (stage.stream(), stage.reads());
        let (on_error, slow, standing) = (OnError::default(), config::SLOW, Arc::new(Standing::new(None)));
        let trust = Trust::new(stage.holds_its_thread());
        Entry { stage, on_error, only: None, stream, window: WINDOW, reads, slow, standing, trust }
    }

    /// It may change or refuse an answer, and a request in which it cannot is refused.
    pub fn guards_answers(&self) -> bool {
        let phases = self.stage.phases();
        let looks = phases.has(Phase::Event) || phases.has(Phase::Response);
        looks && self.stream.is_some_and(|mode| mode != StreamMode::Observe) && self.on_error == OnError::Reject
    }

    pub fn meets(&self, principal: &Principal, model: &str) -> bool {
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
        Pipeline { entries: entries.into_iter().map(Arc::new).collect(), asks: Asks::default() }
    }

    /// The stages that this caller's request for this name meets, decided once: a stage runs in all its phases or in
    /// none. Allocates nothing when there are no stages.
    pub fn select(&self, principal: &Principal, model: &str) -> Chain {
        Chain::new(self.entries.iter().filter(|e| e.meets(principal, model)).cloned())
    }

    /// The same for a decision that is only looked at: no effect of these stages lasts, and none is told of.
    pub fn rehearse(&self, principal: &Principal, model: &str) -> Chain {
        Chain::rehearsal(self.entries.iter().filter(|e| e.meets(principal, model)).cloned())
    }
}
