//! One stage's seat in one request: opens the visit when it is first needed, times its calls, keeps what is held back
//! of a stream for it (text by `window`), and (`settle`) turns its faults into what `on_error` says. It knows nothing of
//! the other stages.

mod settle;
mod window;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Entry,
    adapt::{Adapter, Window},
    phase::{Phase, Phases},
    stage::{Candidate, EventVerdict, ResponseVerdict, Visit},
    stopped::{finished, stopped, stopped_by},
};
use crate::{
    config::{OnError, StreamMode},
    context::{Context, Step, Verdict},
    error::{Error, Kind, Result},
    model::{
        Event, Response,
        fold::{Fold, unfold},
    },
};

pub struct Seat {
    pub entry: Arc<Entry>,
    phases: Phases,
    visit: Option<Box<dyn Visit>>,
    /// Failed: out for the rest of the request.
    out: bool,
    /// Wants nothing more of the request.
    done: bool,
    pub changed: bool,
    adapter: Adapter,
    /// Event calls are told as one step.
    tally: Tally,
    /// Nothing of it lasts: neither its effects nor how it fares.
    dry: bool,
    /// What it finds out decides over a parked stage.
    probe: bool,
    fares: Fares,
}

#[derive(Default)]
struct Tally {
    calls: u32,
    took: Duration,
    operations: u64,
    slow: bool,
}

/// How the stage fared with this request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fares {
    NotCalled,
    Well,
    Failed,
}

/// What a seat says to a piece of an answer.
#[derive(Debug, PartialEq)]
pub enum Say {
    Continue,
    Stop(String),
    Next(String),
}

impl Seat {
    pub fn new(entry: Arc<Entry>) -> Self {
        let phases = entry.stage.phases();
        let mut seat = Seat {
            entry,
            phases,
            visit: None,
            out: false,
            done: false,
            changed: false,
            adapter: Adapter::Direct,
            tally: Tally::default(),
            dry: false,
            probe: false,
            fares: Fares::NotCalled,
        };
        seat.adapter = match seat.mode() {
            Some(StreamMode::Window) => Adapter::Window(Window::new(seat.entry.window)),
            Some(StreamMode::Whole) => Adapter::Whole(Box::default()),
            Some(StreamMode::Observe) => Adapter::Observe(Box::default()),
            Some(StreamMode::Event) | None => Adapter::Direct,
        };
        seat
    }

    /// For a decision that is only looked at.
    pub fn rehearsal(entry: Arc<Entry>) -> Self {
        let mut seat = Seat::new(entry);
        seat.dry = true;
        seat
    }

    pub fn wants(&self, phase: Phase) -> bool {
        !self.out && !self.done && self.phases.has(phase)
    }

    /// How it takes streamed answers; `None` when it looks at none.
    pub fn mode(&self) -> Option<StreamMode> {
        let looks = self.phases.has(Phase::Event) || self.phases.has(Phase::Response);
        self.entry.stream.filter(|_| looks && !self.done)
    }

    /// Begins a call: what holds its thread has then run to its end.
    pub fn call<'a, T>(&'a mut self, call: impl FnOnce(&'a mut dyn Visit) -> T) -> T {
        let Seat { entry, visit, dry, .. } = self;
        let dry = *dry;
        let visit = visit.get_or_insert_with(|| if dry { entry.stage.rehearse() } else { entry.stage.open() });
        entry.trust.run(move || call(&mut **visit))
    }

    pub fn start(&mut self, attempt: u32) {
        self.adapter.reset();
        if let Some(visit) = &mut self.visit {
            visit.start(attempt);
        }
    }

    /// See `Visit::made`.
    pub fn made(&mut self) {
        if let Some(visit) = &mut self.visit {
            visit.made();
            self.done |= visit.done();
        }
    }

    /// One event of a stream; what stands in its place is pushed to `out`.
    pub async fn event(
        &mut self,
        cx: &mut Context,
        target: &Candidate,
        event: Event,
        out: &mut Vec<Event>,
    ) -> Result<Say> {
        if self.mode().is_none() || (self.out && !self.holds()) {
            out.push(event);
            return Ok(Say::Continue);
        }
        match &mut self.adapter {
            Adapter::Direct => self.direct(cx, event, out).await,
            Adapter::Window(_) => self.window(cx, event, out).await,
            Adapter::Whole(held) => {
                let ends = event == Event::End;
                if !matches!(event, Event::Ping) && !held.push(event) {
                    return Err(self.too_large());
                }
                if ends { self.whole_end(cx, target, out).await } else { Ok(Say::Continue) }
            }
            Adapter::Observe(held) => {
                let ends = event == Event::End;
                if !held.push(event.clone()) {
                    return Err(self.too_large());
                }
                out.push(event);
                if ends {
                    self.observe_end(cx, target).await?;
                }
                Ok(Say::Continue)
            }
        }
    }

    /// An answer that is not streamed, in the way that the stage chose to see answers.
    pub async fn answer(&mut self, cx: &mut Context, target: &Candidate, response: &mut Response) -> Result<Say> {
        if self.wants(Phase::Response) {
            if self.mode() == Some(StreamMode::Observe) {
                return self.observe(cx, target, response.clone()).await.map(|()| Say::Continue);
            }
            return self.whole(cx, target, response).await;
        }
        if !self.wants(Phase::Event) {
            return Ok(Say::Continue);
        }
        let mut fold = Fold::default();
        let mut said = Say::Continue;
        let mut out = Vec::new();
        let mut after_stop = Vec::new();
        for event in unfold(response) {
            if said == Say::Continue {
                let finishing = finished(&event);
                said = self.event(cx, target, event, &mut out).await?;
                // What was held back was seen only now: the finish behind that has not gone on.
                after_stop.extend(finishing.filter(|_| said != Say::Continue).map(stopped));
            } else {
                after_stop.extend(stopped_by(event));
            }
        }
        out.into_iter().chain(after_stop).for_each(|event| fold.push(event));
        *response = fold.finish();
        Ok(said)
    }

    async fn direct(&mut self, cx: &mut Context, event: Event, out: &mut Vec<Event>) -> Result<Say> {
        let keep = (self.entry.on_error == OnError::Skip).then(|| event.clone());
        let mark = out.len();
        let started = Instant::now();
        let outcome = self.call(|visit| visit.event(cx, event, out)).await;
        let verdict = self.settle(cx, Phase::Event, started, outcome, |v| match v {
            EventVerdict::Continue => Verdict::Continue,
            EventVerdict::Stop { reason } => Verdict::Stop(reason.as_str().into()),
            EventVerdict::Reject { status, .. } => Verdict::Reject(*status),
            EventVerdict::Fail(error) => Verdict::Reject(error.status()),
        })?;
        match verdict {
            Some(EventVerdict::Continue) => Ok(Say::Continue),
            Some(EventVerdict::Stop { reason }) => Ok(Say::Stop(reason)),
            Some(EventVerdict::Reject { status, message }) => Err(refused(status, message)),
            Some(EventVerdict::Fail(error)) => Err(error),
            None => {
                out.truncate(mark);
                out.extend(keep);
                Ok(Say::Continue)
            }
        }
    }

    async fn whole_end(&mut self, cx: &mut Context, target: &Candidate, out: &mut Vec<Event>) -> Result<Say> {
        let Adapter::Whole(held) = &mut self.adapter else { return Ok(Say::Continue) };
        let mut response = held.take();
        let said = if self.out { Say::Continue } else { self.whole(cx, target, &mut response).await? };
        // For `next` too: the chain keeps the answer in case there is no other target.
        out.extend(unfold(&response));
        Ok(said)
    }

    async fn whole(&mut self, cx: &mut Context, target: &Candidate, response: &mut Response) -> Result<Say> {
        let keep = (self.entry.on_error == OnError::Skip).then(|| response.clone());
        let started = Instant::now();
        let outcome = self.call(|visit| visit.response(cx, target, response)).await;
        let verdict = self.settle(cx, Phase::Response, started, outcome, told)?;
        match verdict {
            Some(ResponseVerdict::Continue) => Ok(Say::Continue),
            Some(ResponseVerdict::Next { reason }) => Ok(Say::Next(reason)),
            Some(ResponseVerdict::Reject { status, message }) => Err(refused(status, message)),
            None => {
                if let Some(kept) = keep {
                    *response = kept;
                }
                Ok(Say::Continue)
            }
        }
    }

    async fn observe_end(&mut self, cx: &mut Context, target: &Candidate) -> Result<()> {
        let Adapter::Observe(held) = &mut self.adapter else { return Ok(()) };
        let response = held.take();
        if self.out { Ok(()) } else { self.observe(cx, target, response).await }
    }

    /// Verdicts are recorded, not enforced; faults too: the answer is out already.
    async fn observe(&mut self, cx: &mut Context, target: &Candidate, mut response: Response) -> Result<()> {
        let started = Instant::now();
        let outcome = self.call(|visit| visit.response(cx, target, &mut response)).await;
        let not_enforced = match &outcome {
            Ok(ResponseVerdict::Continue) | Err(_) => None,
            Ok(ResponseVerdict::Next { reason }) => Some(format!("not enforced (observe): next({reason})")),
            Ok(ResponseVerdict::Reject { status, .. }) => Some(format!("not enforced (observe): reject({status})")),
        };
        match &outcome {
            Err(fault) => {
                self.out = true;
                self.failed(cx, Phase::Response, fault);
            }
            Ok(_) if self.fares == Fares::NotCalled => self.fares = Fares::Well,
            Ok(_) => {}
        }
        let verdict = match &outcome {
            Ok(_) => Verdict::Continue,
            Err(fault) => Verdict::Failed(fault.message.as_str().into()),
        };
        self.step(cx, Phase::Response, verdict, started.elapsed());
        if let Some(text) = not_enforced {
            cx.trace.push(Step::Note { stage: self.entry.stage.name().clone(), line: 0, text });
        }
        Ok(())
    }

    fn holds(&self) -> bool {
        !matches!(self.adapter, Adapter::Direct)
    }

    fn too_large(&self) -> Error {
        let limit = super::adapt::MAX_HELD >> 20;
        let stage = self.entry.stage.name();
        Error::new(
            Kind::Upstream,
            format!("the answer is larger than the {limit} MiB that the stage {stage} may hold back"),
        )
    }
}

/// A stage's refusal as the caller sees it.
pub fn refused(status: u16, message: String) -> Error {
    Error::new(Kind::ContentRefused, message).with_status(status)
}

fn told(verdict: &ResponseVerdict) -> Verdict {
    match verdict {
        ResponseVerdict::Continue => Verdict::Continue,
        ResponseVerdict::Next { reason } => Verdict::Next(reason.as_str().into()),
        ResponseVerdict::Reject { status, .. } => Verdict::Reject(*status),
    }
}

#[cfg(test)]
mod tests;
