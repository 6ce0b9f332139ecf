//! A script as a stage: moves the values of a call onto the desk and off it, and turns what a hook returned into its
//! phase's verdict.

mod calls;

use std::sync::Arc;

use rhai::{Array, Dynamic, ImmutableString};

use super::{
    answer_view::{ErrorView, EventView, RecordView, ResponseView, new_event},
    ask_view::Terms,
    beside::Beside,
    compile::Compiled,
    context_view::ContextView,
    convert,
    desk::{CONTEXTS, DOCUMENTS, Desk, Lent, Own, document_shell, empty_context, give_back, lend},
    lint::illegal,
    request_view::RequestView,
    run,
    target_view::TargetView,
    verdict::{self, Verdict},
};
use crate::{
    account::Record,
    codec::document::Document,
    config::{StageLimits, StreamMode},
    context::Context,
    error::{Error, Kind},
    model::{Event, Response},
    pipeline::{
        Candidate, Effects, Phase, Reads, Stage, StageFault, Visit,
        ask::AskGrant,
        parts::{Grown, Parts},
        phase::Phases,
        stage::{AttemptVerdict, ErrorVerdict, EventVerdict, Outcome, RequestVerdict, ResponseVerdict, RouteVerdict},
    },
};

#[derive(Clone)]
pub struct ScriptStage {
    own: Arc<Own>,
    program: Arc<Compiled>,
    limits: StageLimits,
    /// Set when it may ask models.
    terms: Option<Arc<Terms>>,
}

impl ScriptStage {
    pub fn new(
        program: Arc<Compiled>,
        uses: &str,
        limits: StageLimits,
        config: serde_json::Map<String, serde_json::Value>,
        effects: Effects,
    ) -> Self {
        let own = Own { stage: uses.into(), effects, config };
        ScriptStage { own: Arc::new(own), program, limits, terms: None }
    }

    /// What it may do beyond its own: ask models.
    pub fn granted(mut self, grants: &[String]) -> Self {
        let grant = AskGrant::of(grants);
        let StageLimits { asks: most, ask_wait: wait, .. } = self.limits;
        self.terms = (!grant.is_none()).then(|| Arc::new(Terms { grant, most, wait }));
        self
    }

    /// What one request holds of it.
    pub fn visit(&self) -> ScriptVisit {
        ScriptVisit {
            program: self.program.clone(),
            limits: self.limits,
            desk: Arc::new(Desk::new(self.own.clone())),
            operations: 0,
            line: 0,
            memory: 0,
            parts: Parts::default(),
            grown: Grown::default(),
            starts: true,
        }
    }
}

impl Stage for ScriptStage {
    fn name(&self) -> &Arc<str> {
        &self.own.stage
    }

    fn phases(&self) -> Phases {
        self.program.phases
    }

    fn reads(&self) -> Reads {
        self.program.reads
    }

    fn reads_text(&self) -> bool {
        self.program.reads_text
    }

    fn stream(&self) -> Option<StreamMode> {
        self.program.stream.or_else(|| self.program.event_line().map(|_| StreamMode::Event))
    }

    fn holds_its_thread(&self) -> bool {
        // One that may ask has a thread of its own.
        self.terms.is_none()
    }

    fn open(&self) -> Box<dyn Visit> {
        match &self.terms {
            None => Box::new(self.visit()),
            Some(terms) => Box::new(Beside::new(self.clone(), terms.clone())),
        }
    }

    fn rehearse(&self) -> Box<dyn Visit> {
        let Own { stage, effects, config } = &*self.own;
        let own = Own { stage: stage.clone(), effects: effects.rehearsal(), config: config.clone() };
        ScriptStage { own: Arc::new(own), ..self.clone() }.open()
    }
}

pub struct ScriptVisit {
    program: Arc<Compiled>,
    limits: StageLimits,
    pub desk: Arc<Desk>,
    operations: u64,
    line: u32,
    memory: u64,
    parts: Parts,
    grown: Grown,
    /// The next `start` event begins an attempt.
    starts: bool,
}

impl ScriptVisit {
    /// One call with the context on the desk; `put` lays the rest there, `back` takes it off again, whatever happened.
    fn call<T, const N: usize>(
        &mut self,
        phase: Phase,
        cx: &mut Context,
        put: impl FnOnce(&mut Lent),
        args: [Dynamic; N],
        back: impl FnOnce(&mut Lent) -> T,
    ) -> (Result<Dynamic, StageFault>, T) {
        let own = lend(cx, &CONTEXTS, empty_context);
        self.desk.with(|lent| {
            lent.phase = Some(phase);
            lent.cx = Some(own);
            put(lent);
        });
        let (mut result, used) = run::call(&self.program, self.limits, phase, args);
        (self.operations, self.memory) = (used.operations, used.memory);
        // What gave no verdict of its own stands for its hook.
        self.line = if used.line > 0 { used.line } else { self.program.line(phase).unwrap_or(0) };
        let value = self.desk.with(|lent| {
            if let Some(own) = lent.cx.take() {
                give_back(cx, own, &CONTEXTS);
            }
            if let (Err(fault), Some(error)) = (&mut result, lent.failed.take()) {
                fault.error = Some(error);
            }
            lent.failed = None;
            back(lent)
        });
        (result, value)
    }

    /// The same for phases that see the request.
    fn with_document<const N: usize>(
        &mut self,
        phase: Phase,
        cx: &mut Context,
        doc: &mut Document,
        put: impl FnOnce(&mut Lent),
        args: [Dynamic; N],
    ) -> Result<Dynamic, StageFault> {
        let own = lend(doc, &DOCUMENTS, |_| document_shell());
        let put = |lent: &mut Lent| {
            lent.doc = Some(own);
            lent.text = None;
            lent.generation += 1;
            put(lent);
        };
        let (result, own) = self.call(phase, cx, put, args, |lent| {
            lent.text = None;
            lent.doc.take()
        });
        if let Some(own) = own {
            give_back(doc, own, &DOCUMENTS);
        }
        result
    }

    fn request_view(&self) -> Dynamic {
        Dynamic::from(RequestView(self.desk.clone()))
    }

    fn context_view(&self) -> Dynamic {
        Dynamic::from(ContextView(self.desk.clone()))
    }

    /// A verdict of this phase, nothing, or (`Err`) another value.
    fn verdict(&self, phase: Phase, value: Dynamic) -> Result<Result<Option<Verdict>, Dynamic>, StageFault> {
        if value.is_unit() {
            return Ok(Ok(None));
        }
        match value.try_cast_result::<Verdict>() {
            Ok(verdict) if verdict::legal(verdict.name(), phase) => Ok(Ok(Some(verdict))),
            Ok(verdict) => Err(run::returned(&self.program, phase, &illegal(verdict.name(), phase))),
            Err(value) => Ok(Err(value)),
        }
    }

    /// The same where nothing but a verdict may be returned.
    fn only_verdict(&self, phase: Phase, value: Dynamic) -> Result<Option<Verdict>, StageFault> {
        self.verdict(phase, value)?.map_err(|value| self.wrong(phase, &value))
    }

    fn wrong(&self, phase: Phase, value: &Dynamic) -> StageFault {
        let kind = value.type_name();
        let kind = kind.rsplit("::").next().unwrap_or(kind);
        let may = match phase {
            Phase::Route => "a name, an array of names and targets, or a verdict",
            Phase::Event => "a map, an array of maps, or a verdict",
            _ => "a verdict",
        };
        let text = format!(
            "it returned a value of type {kind}, not nothing or {may} (a last statement is returned; end with `return;`)"
        );
        run::returned(&self.program, phase, &text)
    }

    fn order(&self, value: Dynamic) -> Result<Vec<String>, StageFault> {
        let name = |item: &Dynamic| {
            convert::text(item).or_else(|| item.read_lock::<TargetView>().map(|t| t.0.name.to_string()))
        };
        if let Some(name) = name(&value) {
            return Ok(vec![name]);
        }
        let Ok(list) = value.as_array_ref() else { return Err(self.wrong(Phase::Route, &value)) };
        if list.len() > MAX_ORDER {
            let text = format!("it returned {} targets; {MAX_ORDER} are allowed", list.len());
            return Err(run::returned(&self.program, Phase::Route, &text));
        }
        list.iter().map(|item| name(item).ok_or_else(|| self.wrong(Phase::Route, item))).collect()
    }

    pub fn on_request(&mut self, cx: &mut Context, doc: &mut Document) -> Outcome<RequestVerdict> {
        let args = [self.request_view(), self.context_view()];
        let value = self.with_document(Phase::Request, cx, doc, |_| {}, args)?;
        Ok(match self.only_verdict(Phase::Request, value)? {
            Some(Verdict::Reject { status, message }) => RequestVerdict::Reject { status, message },
            Some(Verdict::Respond(response)) => RequestVerdict::Respond(response),
            _ => RequestVerdict::Continue,
        })
    }

    pub fn on_route(
        &mut self,
        cx: &mut Context,
        doc: &mut Document,
        candidates: &[Candidate],
    ) -> Outcome<RouteVerdict> {
        let target = |c: &Candidate| Dynamic::from(TargetView(Arc::new(c.clone())));
        let targets: Array =
            if self.program.reads.targets { candidates.iter().map(target).collect() } else { Array::new() };
        let args = [self.request_view(), targets.into(), self.context_view()];
        let value = self.with_document(Phase::Route, cx, doc, |_| {}, args)?;
        Ok(match self.verdict(Phase::Route, value)? {
            Ok(Some(Verdict::Reject { status, message })) => RouteVerdict::Reject { status, message },
            Ok(_) => RouteVerdict::Continue,
            Err(value) => RouteVerdict::Order(self.order(value)?),
        })
    }

    pub fn on_attempt(
        &mut self,
        cx: &mut Context,
        target: &Candidate,
        doc: &mut Document,
        headers: &mut http::HeaderMap,
    ) -> Outcome<AttemptVerdict> {
        let view = Dynamic::from(TargetView(Arc::new(target.clone())));
        let args = [view, self.request_view(), self.context_view()];
        let own = std::mem::take(headers);
        let result = self.with_document(Phase::Attempt, cx, doc, |lent| lent.headers = Some(own), args);
        if let Some(own) = self.desk.with(|lent| lent.headers.take()) {
            *headers = own;
        }
        Ok(match self.only_verdict(Phase::Attempt, result?)? {
            Some(Verdict::Reject { status, message }) => AttemptVerdict::Reject { status, message },
            Some(Verdict::Skip) => AttemptVerdict::Skip,
            _ => AttemptVerdict::Continue,
        })
    }

    pub fn on_event(&mut self, cx: &mut Context, event: Event, out: &mut Vec<Event>) -> Outcome<EventVerdict> {
        let kind = self.parts.kind(&event);
        let so_far = if self.program.grows { self.grown.with(&event).map(ImmutableString::from) } else { None };
        let event = self.parts.renumber(event);
        let starts = matches!(event, Event::Start(_)) && std::mem::take(&mut self.starts);
        let put = |lent: &mut Lent| {
            lent.event = Some(event);
            lent.event_kind = kind;
            lent.so_far = so_far;
            lent.attempt_starts = starts;
        };
        let args = [Dynamic::from(EventView(self.desk.clone())), self.context_view()];
        let (result, event) = self.call(Phase::Event, cx, put, args, |lent| lent.event.take());
        let Some(event) = event else { return Err(run::returned(&self.program, Phase::Event, "the event was lost")) };
        match self.verdict(Phase::Event, result?)? {
            Ok(Some(Verdict::Stop(reason))) => Ok(EventVerdict::Stop { reason }),
            Ok(Some(Verdict::Reject { status, message })) => Ok(EventVerdict::Reject { status, message }),
            Ok(_) => {
                out.push(event);
                Ok(EventVerdict::Continue)
            }
            Err(value) => self.replace(event, kind, value, out),
        }
    }

    /// What a hook put in an event's place.
    fn replace(
        &mut self,
        event: Event,
        kind: &'static str,
        value: Dynamic,
        out: &mut Vec<Event>,
    ) -> Outcome<EventVerdict> {
        let list = match value.try_cast_result::<Array>() {
            Ok(list) => list,
            Err(one) => vec![one],
        };
        if list.len() > MAX_EVENTS {
            let text = format!("it returned {} events for one; {MAX_EVENTS} are allowed", list.len());
            return Err(run::returned(&self.program, Phase::Event, &text));
        }
        let mut kept = false;
        let mut made = Vec::new();
        for item in list {
            if item.is::<EventView>() {
                kept = true;
                made.push(event.clone());
                continue;
            }
            let new = new_event(&item, kind).ok_or_else(|| self.wrong(Phase::Event, &item))?;
            let events = new.and_then(|new| self.parts.make(&event, kind, new));
            made.extend(events.map_err(|message| run::returned(&self.program, Phase::Event, &message))?);
        }
        Parts::place(event, made, kept, out);
        Ok(EventVerdict::Continue)
    }

    pub fn on_response(
        &mut self,
        cx: &mut Context,
        target: &Candidate,
        response: &mut Response,
    ) -> Outcome<ResponseVerdict> {
        let own = std::mem::take(response);
        let target = Arc::new(target.clone());
        let put = |lent: &mut Lent| {
            lent.response = Some(own);
            lent.target = Some(target);
            lent.generation += 1;
        };
        let args = [Dynamic::from(ResponseView(self.desk.clone())), self.context_view()];
        let (result, own) = self.call(Phase::Response, cx, put, args, |lent| lent.response.take());
        *response = own.unwrap_or_default();
        Ok(match self.only_verdict(Phase::Response, result?)? {
            Some(Verdict::Next(reason)) => ResponseVerdict::Next { reason },
            Some(Verdict::Reject { status, message }) => ResponseVerdict::Reject { status, message },
            _ => ResponseVerdict::Continue,
        })
    }

    pub fn on_error(&mut self, cx: &mut Context, error: &mut Error) -> Outcome<ErrorVerdict> {
        let own = std::mem::replace(error, Error::new(Kind::Internal, ""));
        let args = [Dynamic::from(ErrorView(self.desk.clone())), self.context_view()];
        let (result, own) = self.call(Phase::Error, cx, |lent| lent.error = Some(own), args, |lent| lent.error.take());
        if let Some(own) = own {
            *error = own;
        }
        Ok(match self.only_verdict(Phase::Error, result?)? {
            Some(Verdict::Respond(response)) => ErrorVerdict::Respond(response),
            _ => ErrorVerdict::Continue,
        })
    }

    pub fn on_log(&mut self, cx: &mut Context, record: &mut Record) -> Outcome<()> {
        let own = Box::new(record.clone());
        let args = [Dynamic::from(RecordView(self.desk.clone())), self.context_view()];
        let (result, own) = self.call(Phase::Log, cx, |lent| lent.record = Some(own), args, |lent| lent.record.take());
        if let Some(own) = own {
            record.tags = own.tags;
        }
        self.only_verdict(Phase::Log, result?).map(|_| ())
    }
}

const MAX_ORDER: usize = 64;
const MAX_EVENTS: usize = 256;
