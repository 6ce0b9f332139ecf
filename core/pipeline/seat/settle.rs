//! What becomes of a seat's calls: each is told in the trace, a fault becomes what `on_error` says, and how the stage fared
//! decides whether it is parked. Calls no stage.

use std::time::{Duration, Instant};

use super::{Fares, Seat, Tally};
use crate::{
    config::OnError,
    context::{Context, Step, Verdict},
    error::{Error, Kind, Result, Side},
    pipeline::{Admission, Phase, StageFault, phase::Phases},
};

impl Seat {
    /// At the request's beginning: a parked stage is out, or in the way.
    pub fn admit(&mut self, cx: &mut Context) -> Result<()> {
        if !self.entry.standing.is_troubled() {
            return Ok(());
        }
        let (standing, now) = (&self.entry.standing, Instant::now());
        let found = match self.dry {
            true => standing.parked(now).filter(|wait| !wait.is_zero()).map_or(Admission::Free, Admission::Parked),
            false => standing.enter(now),
        };
        let wait = match found {
            Admission::Free => return Ok(()),
            Admission::Probe => {
                self.probe = true;
                return Ok(());
            }
            Admission::Parked(wait) => wait,
        };
        self.out = true;
        let stage = self.entry.stage.name().clone();
        cx.trace.push(Step::Parked { stage: stage.clone(), wait });
        // What looks on after the answer stands in nobody's way.
        let late = self.phases == Phases::default().with(Phase::Log)
            || self.phases == Phases::default().with(Phase::Error)
            || self.phases == Phases::default().with(Phase::Error).with(Phase::Log);
        if late || self.entry.on_error == OnError::Skip {
            return Ok(());
        }
        let message = format!("the stage {stage} fails too often and rests, and no request may pass without it");
        Err(Error::new(Kind::Overloaded, message).with_code("stage_parked").retry_after(wait))
    }

    /// Records one call and settles its fault: `Ok(None)` means that the stage is skipped from here on.
    pub fn settle<T>(
        &mut self,
        cx: &mut Context,
        phase: Phase,
        started: Instant,
        outcome: Result<T, StageFault>,
        verdict: impl FnOnce(&T) -> Verdict,
    ) -> Result<Option<T>> {
        let took = started.elapsed();
        self.entry.trust.saw_in_place(took);
        self.done |= self.visit.as_ref().is_some_and(|v| v.done());
        match outcome {
            Ok(value) => {
                if self.fares == Fares::NotCalled {
                    self.fares = Fares::Well;
                }
                let verdict = verdict(&value);
                if phase == Phase::Event && verdict == Verdict::Continue {
                    self.tally.calls += 1;
                    self.tally.took += took;
                    self.tally.operations += self.visit.as_ref().map_or(0, |v| v.operations());
                    self.tally.slow |= took >= self.entry.slow;
                } else {
                    self.step(cx, phase, verdict, took);
                }
                Ok(Some(value))
            }
            Err(fault) => {
                self.step(cx, phase, Verdict::Failed(fault.message.as_str().into()), took);
                self.fault(cx, phase, fault).map(|()| None)
            }
        }
    }

    pub(super) fn step(&self, cx: &mut Context, phase: Phase, verdict: Verdict, took: Duration) {
        let visit = self.visit.as_ref();
        let (operations, memory) = visit.map_or((0, 0), |v| (v.operations(), v.memory()));
        let line = visit.map_or(0, |v| v.line());
        let slow = took >= self.entry.slow;
        let (stage, phase) = (self.entry.stage.name().clone(), phase.name());
        cx.trace.slow |= slow;
        cx.trace.push(Step::Stage { stage, phase, verdict, took, operations, memory, calls: 1, line, slow });
    }

    fn fault(&mut self, cx: &Context, phase: Phase, mut fault: StageFault) -> Result<()> {
        self.out = true;
        if let Some(error) = fault.error.take_if(|error| error.side() == Side::Client) {
            // The caller's request is at fault, not the stage.
            return Err(error);
        }
        self.failed(cx, phase, &fault);
        let stage = self.entry.stage.name();
        let changed = self.changed || self.visit.as_ref().is_some_and(|v| v.changed());
        // In the last two phases the answer is made: there is nothing left to protect.
        if matches!(phase, Phase::Error | Phase::Log) || (self.entry.on_error == OnError::Skip && !changed) {
            return Ok(());
        }
        if let Some(error) = fault.error {
            return Err(error);
        }
        let message =
            format!("the stage {stage} failed; tell the gateway's operator this request's id: its log says why");
        Err(Error::new(Kind::Internal, message).with_code("stage_failed"))
    }

    /// The log tells it, and it counts against the stage; not when the gateway has no room for it.
    pub(super) fn failed(&mut self, cx: &Context, phase: Phase, fault: &StageFault) {
        if self.dry {
            return;
        }
        let (stage, error) = (self.entry.stage.name(), &fault.message);
        tracing::warn!(id = %cx.id, stage = %stage, phase = phase.name(), error, "stage failed");
        if fault.error.is_some() {
            return;
        }
        self.fares = Fares::Failed;
        if self.entry.standing.failed(std::mem::take(&mut self.probe), Instant::now()) {
            let rest = self.entry.standing.parked(Instant::now()).unwrap_or_default();
            let then = if self.entry.on_error == OnError::Skip { "skipped" } else { "refused" };
            tracing::warn!(stage = %stage, ?rest, requests = then, "stage parked: it fails too often");
        }
    }

    /// Tells the event calls so far as one step.
    pub fn close(&mut self, cx: &mut Context) {
        let Tally { calls, took, operations, slow } = std::mem::take(&mut self.tally);
        if calls > 0 {
            let stage = self.entry.stage.name().clone();
            let memory = self.visit.as_ref().map_or(0, |v| v.memory());
            let (phase, verdict) = (Phase::Event.name(), Verdict::Continue);
            cx.trace.push(Step::Stage { stage, phase, verdict, took, operations, memory, calls, line: 0, slow });
        }
    }
}

impl Drop for Seat {
    /// How the stage fared is known when its request is over.
    fn drop(&mut self) {
        if self.dry {
            return;
        }
        let standing = &self.entry.standing;
        match self.fares {
            Fares::Well => {
                if standing.succeeded(self.probe) {
                    tracing::info!(stage = %self.entry.stage.name(), "stage is back");
                }
            }
            Fares::NotCalled | Fares::Failed if self.probe => standing.unproven(),
            Fares::NotCalled | Fares::Failed => {}
        }
    }
}
