//! A plugin as a stage: one request's visit makes its instance at the first phase that the guest wants and drops it after
//! the last one; each call copies in what was asked for and takes the verdict back.

mod calls;

use std::sync::Arc;

use super::{
    bind::{
        exports::portcullis::plugin::{attempt, error, event, request, response, route},
        types,
    },
    compile::Loaded,
    from_guest::{self, Wrong},
    instance::{self, Instance, metered},
    state::Shared,
    to_guest,
};
use crate::{
    account::Record,
    codec::document::Document,
    config::{Isolation, StreamMode},
    context::Context,
    error::Error,
    model::{Delta, Event, Response},
    pipeline::{
        Candidate, Phase, Reads, Stage, StageFault, Visit,
        parts::Parts,
        phase::Phases,
        stage::{AttemptVerdict, ErrorVerdict, EventVerdict, Outcome, RequestVerdict, ResponseVerdict, RouteVerdict},
    },
};

pub struct PluginStage {
    loaded: Arc<Loaded>,
}

impl PluginStage {
    pub fn new(loaded: Arc<Loaded>) -> Self {
        PluginStage { loaded }
    }

    pub fn visit(&self) -> PluginVisit {
        PluginVisit::new(self.loaded.clone(), None)
    }
}

impl Stage for PluginStage {
    fn name(&self) -> &Arc<str> {
        &self.loaded.shared.name
    }

    fn phases(&self) -> Phases {
        self.loaded.described.phases
    }

    fn reads(&self) -> Reads {
        Reads { headers: self.loaded.described.needs.headers, targets: true }
    }

    fn stream(&self) -> Option<StreamMode> {
        let described = &self.loaded.described;
        described.stream.or_else(|| described.phases.has(Phase::Event).then_some(StreamMode::Event))
    }

    fn open(&self) -> Box<dyn Visit> {
        Box::new(self.visit())
    }

    fn rehearse(&self) -> Box<dyn Visit> {
        let shared = Arc::new(self.loaded.shared.rehearsal());
        Box::new(PluginVisit::new(self.loaded.clone(), Some(shared)))
    }
}

pub struct PluginVisit {
    loaded: Arc<Loaded>,
    /// A rehearsal: its instance has this for its own, comes from nowhere and goes nowhere.
    dry: Option<Arc<Shared>>,
    live: Option<Box<Instance>>,
    /// There was an instance, and there will be no other: what it knew is gone.
    tried: bool,
    changed: bool,
    parts: Parts,
    /// The next `start` event begins an attempt.
    starts: bool,
    /// The guest wants nothing more of this request.
    done: bool,
    /// Bytes of its memories after the last call.
    pub memory: u64,
}

/// One call of a phase's function, with everything around it.
macro_rules! call {
    ($self:ident, $phase:expr, $cx:ident, $bytes:expr, $field:ident . $function:ident ( $($arg:expr),* )) => {{
        let loaded = $self.loaded.clone();
        $self.ready($phase).await?;
        let Some(live) = &mut $self.live else { return Err(instance::wrong(&loaded, $phase, GONE)) };
        let _busy = loaded.engine.busy();
        live.begin(&loaded, $phase, $cx, $bytes);
        let Instance { store, made, exports, meter, .. } = &mut **live;
        let found = match (exports.$field.take(), &loaded.indices.$field) {
            (None, Some(indices)) => indices.load(&mut *store, made).map(Some),
            (found, _) => Ok(found),
        };
        exports.$field = found.map_err(|error| instance::fault(&loaded, $phase, &error))?;
        let Some(guest) = &exports.$field else { return Err(instance::wrong(&loaded, $phase, "it has no such phase")) };
        match metered(meter, guest.$function(store, $($arg),*)).await {
            Ok(value) => {
                live.end($cx);
                $self.memory = live.memory();
                $self.rest($phase);
                value
            }
            Err(error) => {
                // Never called again: what it holds may be half done.
                $self.live = None;
                return Err(instance::fault(&loaded, $phase, &error));
            }
        }
    }};
}

impl PluginVisit {
    fn new(loaded: Arc<Loaded>, dry: Option<Arc<Shared>>) -> Self {
        PluginVisit {
            loaded,
            dry,
            live: None,
            memory: 0,
            tried: false,
            changed: false,
            parts: Parts::default(),
            starts: true,
            done: false,
        }
    }

    /// Makes the instance when there has been none.
    pub async fn ready(&mut self, phase: Phase) -> Result<(), StageFault> {
        if self.live.as_ref().is_some_and(|live| live.lost()) {
            self.live = None;
        }
        if self.live.is_none() {
            if self.tried {
                return Err(instance::wrong(&self.loaded, phase, GONE));
            }
            self.tried = true;
            let live = match &self.dry {
                None => Instance::take(&self.loaded, phase).await?,
                Some(shared) => Instance::fresh(&self.loaded, shared, phase).await?,
            };
            self.memory = live.memory();
            self.live = Some(live);
        }
        Ok(())
    }

    /// After the last phase that it wants the instance goes.
    fn rest(&mut self, phase: Phase) {
        let phases = self.loaded.described.phases;
        let later = |after: &[Phase]| after.iter().any(|p| phases.has(*p));
        let last = match phase {
            Phase::Request => !later(&AFTER_REQUEST),
            Phase::Route => !later(&AFTER_REQUEST[1..]),
            Phase::Log => true,
            Phase::Attempt | Phase::Event | Phase::Response | Phase::Error => false,
        };
        // Once an answer has begun something of it may be held back for the guest: then it stays to the end.
        let early = matches!(phase, Phase::Request | Phase::Route | Phase::Attempt);
        self.done |= early && self.live.as_ref().is_some_and(|live| live.store.data().call.done);
        let last = last || self.done;
        if last {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(live) = self.live.take()
            && self.loaded.terms.isolation == Isolation::Pooled
            && self.dry.is_none()
        {
            live.give_back(&self.loaded);
        }
    }

    /// The guest's fault in a value, or the caller's in a body.
    fn wrong(&self, phase: Phase, wrong: Wrong) -> StageFault {
        match wrong {
            Wrong::Guest(message) => instance::wrong(&self.loaded, phase, &message),
            Wrong::Caller(error) => unreadable(error),
        }
    }

    fn unknown(&self, phase: Phase) -> StageFault {
        instance::wrong(&self.loaded, phase, "it gave a verdict that this gateway does not know")
    }

    async fn on_request(&mut self, cx: &mut Context, doc: &mut Document) -> Outcome<RequestVerdict> {
        const PHASE: Phase = Phase::Request;
        let view = to_guest::request(self.loaded.described.needs, cx, doc, None).map_err(unreadable)?;
        let verdict = call!(self, PHASE, cx, doc.bytes().len() as u64, request.call_on_request(&view));
        match verdict {
            request::Verdict::Continue => Ok(RequestVerdict::Continue),
            request::Verdict::Change(edits) => {
                let any = !edits.is_empty();
                from_guest::edit_request(edits, cx.operation, doc, None).map_err(|w| self.wrong(PHASE, w))?;
                self.changed |= any;
                Ok(RequestVerdict::Continue)
            }
            request::Verdict::Respond(reply) => {
                from_guest::reply(reply).map(RequestVerdict::Respond).map_err(|w| self.wrong(PHASE, w))
            }
            request::Verdict::Reject(refusal) => {
                let (status, message) = self.refusal(PHASE, refusal)?;
                Ok(RequestVerdict::Reject { status, message })
            }
            request::Verdict::Other(_) => Err(self.unknown(PHASE)),
        }
    }

    async fn on_route(
        &mut self,
        cx: &mut Context,
        doc: &mut Document,
        candidates: &[Candidate],
    ) -> Outcome<RouteVerdict> {
        const PHASE: Phase = Phase::Route;
        let view = to_guest::request(self.loaded.described.needs, cx, doc, None).map_err(unreadable)?;
        let targets: Vec<types::Target> = candidates.iter().map(to_guest::target).collect();
        let verdict = call!(self, PHASE, cx, doc.bytes().len() as u64, route.call_on_route(&view, &targets));
        match verdict {
            route::Verdict::Continue => Ok(RouteVerdict::Continue),
            route::Verdict::Order(names) if names.len() > MAX_ORDER => {
                let why = format!("it returned {} targets; {MAX_ORDER} are allowed", names.len());
                Err(instance::wrong(&self.loaded, PHASE, &why))
            }
            route::Verdict::Order(names) => Ok(RouteVerdict::Order(names)),
            route::Verdict::Reject(refusal) => {
                let (status, message) = self.refusal(PHASE, refusal)?;
                Ok(RouteVerdict::Reject { status, message })
            }
            route::Verdict::Other(_) => Err(self.unknown(PHASE)),
        }
    }

    async fn on_attempt(
        &mut self,
        cx: &mut Context,
        target: &Candidate,
        doc: &mut Document,
        headers: &mut http::HeaderMap,
    ) -> Outcome<AttemptVerdict> {
        const PHASE: Phase = Phase::Attempt;
        let view = to_guest::request(self.loaded.described.needs, cx, doc, Some(headers)).map_err(unreadable)?;
        let target = to_guest::target(target);
        let verdict = call!(self, PHASE, cx, doc.bytes().len() as u64, attempt.call_on_attempt(&target, &view));
        match verdict {
            attempt::Verdict::Continue => Ok(AttemptVerdict::Continue),
            attempt::Verdict::Change(edits) => {
                let any = !edits.is_empty();
                from_guest::edit_request(edits, cx.operation, doc, Some(headers)).map_err(|w| self.wrong(PHASE, w))?;
                self.changed |= any;
                Ok(AttemptVerdict::Continue)
            }
            attempt::Verdict::Skip => Ok(AttemptVerdict::Skip),
            attempt::Verdict::Reject(refusal) => {
                let (status, message) = self.refusal(PHASE, refusal)?;
                Ok(AttemptVerdict::Reject { status, message })
            }
            attempt::Verdict::Other(_) => Err(self.unknown(PHASE)),
        }
    }

    async fn on_event(&mut self, cx: &mut Context, event: Event, out: &mut Vec<Event>) -> Outcome<EventVerdict> {
        const PHASE: Phase = Phase::Event;
        let kind = self.parts.kind(&event);
        let mut event = self.parts.renumber(event);
        let starts = matches!(event, Event::Start(_)) && std::mem::take(&mut self.starts);
        let view = to_guest::event(&event, kind, starts.then_some(cx.attempt));
        let verdict = call!(self, PHASE, cx, 0, event.call_on_event(&view));
        match verdict {
            event::Verdict::Continue => out.push(event),
            event::Verdict::Text(new) => match &mut event {
                Event::Delta { delta: Delta::Text(text), .. } => {
                    *text = new;
                    out.push(event);
                }
                _ => return Err(instance::wrong(&self.loaded, PHASE, "it set the text of an event that has none")),
            },
            event::Verdict::Replace(list) => self.replace(event, kind, list, out)?,
            event::Verdict::Drop => Parts::place(event, Vec::new(), false, out),
            event::Verdict::Stop(reason) => return Ok(EventVerdict::Stop { reason }),
            event::Verdict::Reject(refusal) => {
                let (status, message) = self.refusal(PHASE, refusal)?;
                return Ok(EventVerdict::Reject { status, message });
            }
            event::Verdict::Other(_) => return Err(self.unknown(PHASE)),
        }
        Ok(EventVerdict::Continue)
    }

    /// What the guest put in an event's place.
    fn replace(
        &mut self,
        event: Event,
        kind: &'static str,
        list: Vec<types::NewEvent>,
        out: &mut Vec<Event>,
    ) -> Result<(), StageFault> {
        if list.len() > MAX_EVENTS {
            let why = format!("it returned {} events for one; {MAX_EVENTS} are allowed", list.len());
            return Err(instance::wrong(&self.loaded, Phase::Event, &why));
        }
        let mut kept = false;
        let mut made = Vec::new();
        for new in list {
            match from_guest::new_event(new).map_err(|w| self.wrong(Phase::Event, w))? {
                None => {
                    kept = true;
                    made.push(event.clone());
                }
                Some(new) => {
                    let events = self.parts.make(&event, kind, new);
                    made.extend(events.map_err(|why| instance::wrong(&self.loaded, Phase::Event, &why))?);
                }
            }
        }
        Parts::place(event, made, kept, out);
        Ok(())
    }

    async fn on_response(
        &mut self,
        cx: &mut Context,
        target: &Candidate,
        answer: &mut Response,
    ) -> Outcome<ResponseVerdict> {
        const PHASE: Phase = Phase::Response;
        let view = to_guest::answer(self.loaded.described.needs, cx, target, answer);
        let verdict = call!(self, PHASE, cx, 0, response.call_on_response(&view));
        match verdict {
            response::Verdict::Continue => Ok(ResponseVerdict::Continue),
            response::Verdict::Change(edits) => {
                from_guest::edit_response(edits, answer).map_err(|w| self.wrong(PHASE, w))?;
                Ok(ResponseVerdict::Continue)
            }
            response::Verdict::Next(reason) => Ok(ResponseVerdict::Next { reason }),
            response::Verdict::Reject(refusal) => {
                let (status, message) = self.refusal(PHASE, refusal)?;
                Ok(ResponseVerdict::Reject { status, message })
            }
            response::Verdict::Other(_) => Err(self.unknown(PHASE)),
        }
    }

    async fn on_error(&mut self, cx: &mut Context, failure: &mut Error) -> Outcome<ErrorVerdict> {
        const PHASE: Phase = Phase::Error;
        let view = to_guest::failure(failure);
        let verdict = call!(self, PHASE, cx, 0, error.call_on_error(&view));
        match verdict {
            error::Verdict::Continue => Ok(ErrorVerdict::Continue),
            error::Verdict::Change(edit) => {
                from_guest::edit_error(edit, failure).map_err(|w| self.wrong(PHASE, w))?;
                Ok(ErrorVerdict::Continue)
            }
            error::Verdict::Respond(reply) => {
                from_guest::reply(reply).map(ErrorVerdict::Respond).map_err(|w| self.wrong(PHASE, w))
            }
            error::Verdict::Other(_) => Err(self.unknown(PHASE)),
        }
    }

    async fn on_log(&mut self, cx: &mut Context, record: &mut Record) -> Outcome<()> {
        const PHASE: Phase = Phase::Log;
        let view = to_guest::summary(record);
        let tags = call!(self, PHASE, cx, 0, log.call_on_log(&view));
        from_guest::tags(tags, &mut record.tags).map_err(|w| self.wrong(PHASE, w))
    }

    fn refusal(&self, phase: Phase, refusal: types::Refusal) -> Result<(u16, String), StageFault> {
        from_guest::refusal(refusal).map_err(|w| self.wrong(phase, w))
    }
}

impl Drop for PluginVisit {
    fn drop(&mut self) {
        self.release();
    }
}

/// The caller's body is at fault, not the plugin.
fn unreadable(error: Error) -> StageFault {
    StageFault { message: "the caller's request cannot be read".into(), error: Some(error) }
}

const AFTER_REQUEST: [Phase; 6] =
    [Phase::Route, Phase::Attempt, Phase::Event, Phase::Response, Phase::Error, Phase::Log];
const MAX_ORDER: usize = 64;
const MAX_EVENTS: usize = 256;
const GONE: &str = "its instance is gone: an earlier call did not come to its end";
