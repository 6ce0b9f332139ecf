//! The stages of one request, and the order in which they see it: the request in list order, the answer in reverse, one
//! stage's output feeding the next. Steps of the gateway call this; it calls no other step.

mod flow;

use std::{sync::Arc, time::Instant};

pub use flow::{AttemptFlow, EndFlow, EventFlow, Flow, ResponseFlow, StreamNeed};

use super::{
    Entry,
    phase::Phase,
    seat::{Say, Seat, refused},
    stage::{AttemptVerdict, Candidate, ErrorVerdict, RequestVerdict, RouteVerdict},
    stopped::{finished, stopped, stopped_by},
};
use crate::{
    account::Record,
    cache::Leading,
    codec::document::Document,
    config::StreamMode,
    context::{Context, Verdict},
    error::{Error, Result},
    model::{Event, Response, fold::Fold},
};

/// One request's stages.
pub struct Chain {
    seats: Vec<Seat>,
    /// The answer passes `seats[..answer]`, backwards.
    answer: usize,
    target: Option<Candidate>,
    /// Choices seen in the stream, and whether they are finished: what a `stop` has to close.
    choices: Vec<(u32, bool)>,
    ended: bool,
    next: Option<String>,
    /// The last complete answer that a stage found wanting, and the seat that did.
    unmet: Option<(usize, Response)>,
    scratch: Vec<Event>,
    /// It flies for others, too.
    leads: Option<Box<Leading>>,
}

impl Chain {
    pub fn new(entries: impl Iterator<Item = Arc<Entry>>) -> Self {
        Chain::of(entries.map(Seat::new).collect())
    }

    /// Of stages that only rehearse.
    pub fn rehearsal(entries: impl Iterator<Item = Arc<Entry>>) -> Self {
        Chain::of(entries.map(Seat::rehearsal).collect())
    }

    fn of(seats: Vec<Seat>) -> Self {
        Chain {
            answer: seats.len(),
            seats,
            target: None,
            choices: Vec::new(),
            ended: false,
            next: None,
            unmet: None,
            scratch: Vec::new(),
            leads: None,
        }
    }

    /// Of these stages those that look at attempts, for a request whose answer nobody is given.
    pub fn outward(mut self) -> Chain {
        self.seats.retain(|seat| seat.wants(Phase::Attempt));
        self.answer = 0;
        self
    }

    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// The same stages from their beginning: for a message of its own.
    pub fn again(&self) -> Chain {
        Chain::new(self.seats.iter().map(|seat| seat.entry.clone()))
    }

    /// A stage that may change or refuse answers and must not be left out.
    pub fn guards_answers(&self) -> Option<&str> {
        let must = |seat: &&Seat| seat.entry.guards_answers() && seat.mode().is_some();
        self.seats.iter().find(must).map(|seat| &**seat.entry.stage.name())
    }

    /// Does a stage look at the caller's headers?
    pub fn reads_headers(&self) -> bool {
        self.seats.iter().any(|seat| seat.entry.reads.headers)
    }

    /// Does a stage that routes look at what there is to choose from?
    pub fn reads_targets(&self) -> bool {
        self.seats.iter().any(|seat| seat.entry.reads.targets && seat.wants(Phase::Route))
    }

    /// `Attempt` is also wanted by stages that look at whole streamed answers: they are told the target there.
    pub fn wants(&self, phase: Phase) -> bool {
        let needs_target = || matches!(self.stream_need(), StreamNeed::Whole | StreamNeed::Observe);
        self.seats.iter().any(|s| s.wants(phase)) || (phase == Phase::Attempt && needs_target())
    }

    pub fn stream_need(&self) -> StreamNeed {
        let need = |seat: &Seat| match seat.mode() {
            None => StreamNeed::None,
            Some(StreamMode::Observe) => StreamNeed::Observe,
            Some(StreamMode::Event | StreamMode::Window) => StreamNeed::Events,
            Some(StreamMode::Whole) => StreamNeed::Whole,
        };
        self.seats[..self.answer].iter().map(need).max().unwrap_or(StreamNeed::None)
    }

    /// Parked stages are left out, or refuse.
    pub fn admit(&mut self, cx: &mut Context) -> Result<()> {
        self.seats.iter_mut().try_for_each(|seat| seat.admit(cx))
    }

    /// Who answers, for stages that look at whole answers, where no attempt phase tells it.
    pub fn meet(&mut self, target: Candidate) {
        self.target = Some(target);
    }

    pub async fn request(&mut self, cx: &mut Context, doc: &mut Document) -> Result<Flow> {
        self.admit(cx)?;
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            if !seat.wants(Phase::Request) {
                continue;
            }
            let mark = Mark::of(doc);
            let started = Instant::now();
            let outcome = seat.call(|visit| visit.request(cx, doc)).await;
            seat.changed |= mark != Mark::of(doc);
            let verdict = seat.settle(cx, Phase::Request, started, outcome, |v| match v {
                RequestVerdict::Continue | RequestVerdict::Lead(_) => Verdict::Continue,
                RequestVerdict::Respond(_) | RequestVerdict::Repeat(_) | RequestVerdict::Follow(_) => Verdict::Respond,
                RequestVerdict::Fail(error) => Verdict::Reject(error.status()),
                RequestVerdict::Reject { status, .. } => Verdict::Reject(*status),
            })?;
            match verdict {
                Some(RequestVerdict::Continue) | None => {}
                Some(RequestVerdict::Reject { status, message }) => return Err(refused(status, message)),
                Some(RequestVerdict::Fail(error)) => return Err(error),
                Some(RequestVerdict::Lead(leading)) => self.leads = Some(leading),
                Some(RequestVerdict::Respond(response)) => {
                    self.made_at(at);
                    return Ok(Flow::Respond(response));
                }
                Some(RequestVerdict::Repeat(bytes)) => {
                    self.made_at(at);
                    return Ok(Flow::Repeat(bytes));
                }
                Some(RequestVerdict::Follow(follower)) => {
                    self.made_at(at);
                    return Ok(Flow::Follow(follower));
                }
            }
        }
        Ok(Flow::Continue)
    }

    /// The right to end the flight that it leads, if it does.
    pub fn leads(&mut self) -> Option<Box<Leading>> {
        self.leads.take()
    }

    /// An answer made at a stage: those before it see it, this one and those after it do not.
    fn made_at(&mut self, at: usize) {
        self.answer = at;
        self.seats[..at].iter_mut().for_each(Seat::made);
    }

    /// The names that a stage chose instead of the strategy's order; with several such stages the last one's.
    pub async fn route(
        &mut self,
        cx: &mut Context,
        doc: &mut Document,
        candidates: &[Candidate],
    ) -> Result<Option<Vec<String>>> {
        let mut chosen = None;
        for seat in self.seats.iter_mut().filter(|s| s.wants(Phase::Route)) {
            let mark = Mark::of(doc);
            let started = Instant::now();
            let outcome = seat.call(|visit| visit.route(cx, doc, candidates)).await;
            seat.changed |= mark != Mark::of(doc);
            let verdict = seat.settle(cx, Phase::Route, started, outcome, |v| match v {
                RouteVerdict::Continue | RouteVerdict::Order(_) => Verdict::Continue,
                RouteVerdict::Reject { status, .. } => Verdict::Reject(*status),
            })?;
            match verdict {
                Some(RouteVerdict::Continue) | None => {}
                Some(RouteVerdict::Order(names)) => chosen = Some(names),
                Some(RouteVerdict::Reject { status, message }) => return Err(refused(status, message)),
            }
        }
        Ok(chosen)
    }

    /// An attempt begins: what was held of the one before is dropped.
    pub fn start(&mut self, attempt: u32) {
        self.choices.clear();
        self.ended = false;
        self.next = None;
        self.seats.iter_mut().for_each(|seat| seat.start(attempt));
    }

    /// Also remembers the target for stages that look at whole answers: call it for each attempt, after `start`.
    pub async fn attempt(
        &mut self,
        cx: &mut Context,
        target: &Candidate,
        doc: &mut Document,
        headers: &mut http::HeaderMap,
    ) -> Result<AttemptFlow> {
        if self.stream_need() != StreamNeed::None {
            self.target = Some(target.clone());
        }
        for seat in self.seats.iter_mut().filter(|s| s.wants(Phase::Attempt)) {
            let mark = Mark::of(doc);
            let started = Instant::now();
            let outcome = seat.call(|visit| visit.attempt(cx, target, doc, headers)).await;
            seat.changed |= mark != Mark::of(doc);
            let verdict = seat.settle(cx, Phase::Attempt, started, outcome, |v| match v {
                AttemptVerdict::Continue => Verdict::Continue,
                AttemptVerdict::Skip => Verdict::Skip,
                AttemptVerdict::Reject { status, .. } => Verdict::Reject(*status),
                AttemptVerdict::Fail(error) => Verdict::Reject(error.status()),
            })?;
            match verdict {
                Some(AttemptVerdict::Continue) | None => {}
                Some(AttemptVerdict::Skip) => return Ok(AttemptFlow::Skip),
                Some(AttemptVerdict::Reject { status, message }) => return Err(refused(status, message)),
                Some(AttemptVerdict::Fail(error)) => return Err(error),
            }
        }
        Ok(AttemptFlow::Go)
    }

    /// Of several that were asked this one is heard.
    pub fn answered_by(&mut self, target: &Candidate) {
        if self.target.is_some() {
            self.target = Some(target.clone());
        }
    }

    /// One event of the upstream's stream; what the client should get of it is pushed to `out`.
    pub async fn event(&mut self, cx: &mut Context, event: Event, out: &mut Vec<Event>) -> Result<EventFlow> {
        self.note(&event);
        let mut events = std::mem::take(&mut self.scratch);
        events.push(event);
        let flow = self.pass(cx, self.answer, &mut events, out).await;
        events.clear();
        self.scratch = events;
        flow
    }

    /// The stream is over: gives back what is still held. Call it after the last event, whether `End` was seen or not.
    pub async fn end(&mut self, cx: &mut Context, out: &mut Vec<Event>) -> Result<EndFlow> {
        if !self.ended {
            // Seats give back what they hold when they see the end.
            self.event(cx, Event::End, out).await?;
        }
        self.seats.iter_mut().for_each(|seat| seat.close(cx));
        Ok(self.next.take().map_or(EndFlow::Done, EndFlow::Next))
    }

    /// An answer that is not streamed.
    pub async fn response(
        &mut self,
        cx: &mut Context,
        target: &Candidate,
        response: &mut Response,
    ) -> Result<ResponseFlow> {
        for at in (0..self.answer).rev() {
            let said = self.seats[at].answer(cx, target, response).await?;
            self.seats[at].close(cx);
            if let Say::Next(reason) = said {
                self.unmet = Some((at, response.clone()));
                return Ok(ResponseFlow::Next(reason));
            }
        }
        Ok(ResponseFlow::Deliver)
    }

    /// No target is left after a `next`: the last complete answer, through the stages that have not seen it. For a
    /// stream, unfold it.
    pub async fn unmet(&mut self, cx: &mut Context, target: &Candidate) -> Result<Option<Response>> {
        let Some((from, mut response)) = self.unmet.take() else { return Ok(None) };
        self.start(cx.attempt);
        self.seats[..from].iter_mut().for_each(Seat::made);
        for at in (0..from).rev() {
            // A further `next` has nowhere to go.
            self.seats[at].answer(cx, target, &mut response).await?;
            self.seats[at].close(cx);
        }
        Ok(Some(response))
    }

    /// Stages may change the error in place, or answer instead.
    pub async fn error(&mut self, cx: &mut Context, error: &mut Error) -> Option<Box<Response>> {
        for at in (0..self.seats.len()).rev() {
            let seat = &mut self.seats[at];
            if !seat.wants(Phase::Error) {
                continue;
            }
            let started = Instant::now();
            let outcome = seat.call(|visit| visit.error(cx, error)).await;
            let verdict = seat.settle(cx, Phase::Error, started, outcome, |v| match v {
                ErrorVerdict::Continue => Verdict::Continue,
                ErrorVerdict::Respond(_) => Verdict::Respond,
            });
            if let Ok(Some(ErrorVerdict::Respond(response))) = verdict {
                // As with any answer made at a stage: those before it see it.
                self.made_at(at);
                return Some(response);
            }
        }
        None
    }

    pub fn wants_log(&self) -> bool {
        self.wants(Phase::Log)
    }

    /// The request is over: what the stages did together is told in the trace.
    pub fn close(&mut self, cx: &mut Context) {
        self.seats.iter_mut().for_each(|seat| seat.close(cx));
    }

    pub async fn log(&mut self, cx: &mut Context, record: &mut Record) {
        for seat in &mut self.seats {
            seat.close(cx);
            if !seat.wants(Phase::Log) {
                continue;
            }
            let started = Instant::now();
            let outcome = seat.call(|visit| visit.log(cx, record)).await;
            // A fault here is told in the trace and the log; the answer is long gone.
            let _ = seat.settle(cx, Phase::Log, started, outcome, |()| Verdict::Continue);
        }
    }

    /// Events through the seats before `from`, outwards.
    async fn pass(
        &mut self,
        cx: &mut Context,
        from: usize,
        events: &mut Vec<Event>,
        out: &mut Vec<Event>,
    ) -> Result<EventFlow> {
        let nobody = Candidate::default();
        let mut stop = None;
        for at in (0..from).rev() {
            if self.seats[at].mode().is_none() {
                continue;
            }
            let mut made = Vec::with_capacity(events.len());
            let mut rest = events.drain(..);
            while let Some(event) = rest.next() {
                let target = self.target.as_ref().unwrap_or(&nobody);
                let finishing = finished(&event);
                let said = self.seats[at].event(cx, target, event, &mut made).await?;
                if let Say::Stop(reason) = &said {
                    // What was held back is seen only now: the finish behind that has not gone on.
                    made.extend(finishing.map(stopped));
                    made.extend(rest.by_ref().filter_map(stopped_by));
                    made.extend(self.closing());
                    stop = Some(reason.clone());
                    break;
                }
                if self.heard(at, said, &mut made) {
                    return Ok(EventFlow::Continue);
                }
            }
            drop(rest);
            *events = made;
        }
        out.append(events);
        match stop {
            Some(reason) => {
                self.ended = true;
                Ok(EventFlow::Stop(reason))
            }
            None => Ok(EventFlow::Continue),
        }
    }

    /// Keeps the answer of a `next`. True: nothing of it goes on now.
    fn heard(&mut self, at: usize, said: Say, made: &mut Vec<Event>) -> bool {
        let Say::Next(reason) = said else { return false };
        let mut fold = Fold::default();
        made.drain(..).for_each(|event| fold.push(event));
        self.unmet = Some((at, fold.finish()));
        self.next = Some(reason);
        true
    }

    fn note(&mut self, event: &Event) {
        let choice = match event {
            Event::PartStart { choice, .. } | Event::Delta { choice, .. } => (*choice, false),
            Event::Finish { choice, .. } => (*choice, true),
            Event::End => {
                self.ended = true;
                return;
            }
            _ => return,
        };
        match self.choices.iter_mut().find(|(c, _)| *c == choice.0) {
            Some(known) => known.1 |= choice.1,
            None => self.choices.push(choice),
        }
    }

    /// A clean end for what is open.
    fn closing(&self) -> Vec<Event> {
        let mut out: Vec<Event> = self.choices.iter().filter(|(_, done)| !done).map(|(c, _)| stopped(*c)).collect();
        if self.choices.is_empty() {
            out.push(stopped(0));
        }
        out.push(Event::End);
        out
    }
}

/// Was the request changed by a call? A new name is a new allocation, made while the old one still lives.
#[derive(PartialEq)]
struct Mark {
    model: usize,
    dirty: usize,
}

impl Mark {
    fn of(doc: &Document) -> Self {
        Mark { model: doc.model().as_ptr().addr(), dirty: doc.dirty().len() }
    }
}
