//! A visit of a script that may ask models. Its calls wait, so they run on a thread that may; the serving thread goes on,
//! and a client that leaves breaks the question off. Scripts without the grant never come here.

use std::{mem, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{runtime::Handle, sync::Semaphore, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    ask_view::{Asking, Terms, asking},
    desk::{context_shell, document_shell},
    stage::{ScriptStage, ScriptVisit},
};
use crate::{
    account::Record,
    codec::document::Document,
    context::{Context, Trace},
    error::{Error, Kind},
    model::{Event, Response},
    pipeline::{
        Candidate, StageFault, Visit,
        stage::{AttemptVerdict, ErrorVerdict, EventVerdict, Outcome, RequestVerdict, ResponseVerdict, RouteVerdict},
    },
};

pub struct Beside {
    stage: ScriptStage,
    /// Away while a call runs, and lost with a call that was broken off: then a new one begins.
    visit: Option<Box<ScriptVisit>>,
    terms: Arc<Terms>,
}

impl Beside {
    pub fn new(stage: ScriptStage, terms: Arc<Terms>) -> Beside {
        Beside { stage, visit: None, terms }
    }

    /// One call with the context; whatever else it needs travels in `work`.
    async fn run<T: Send + 'static>(
        &mut self,
        cx: &mut Context,
        work: impl FnOnce(&mut ScriptVisit, &mut Context) -> T + Send + 'static,
    ) -> Result<T, StageFault> {
        let mut visit = self.visit.take().unwrap_or_else(|| Box::new(self.stage.visit()));
        let mut shell = context_shell(cx);
        // If the client leaves meanwhile, its record tells what was decided before.
        shell.trace = Trace { steps: cx.trace.steps.clone(), ..Trace::default() };
        let mut own = mem::replace(cx, shell);
        let gone = CancellationToken::new();
        let (desk, terms) = (visit.desk.clone(), self.terms.clone());
        let runtime = Handle::try_current().ok().filter(|_| desk.effects.asks.wait());
        let Some(handle) = runtime else {
            let value = asking(Asking { desk, terms, handle: None, gone }, || work(&mut visit, &mut own));
            self.visit = Some(visit);
            *cx = own;
            return Ok(value);
        };
        let Ok(Ok(place)) = timeout(self.terms.wait, PLACES.acquire()).await else {
            self.visit = Some(visit);
            *cx = own;
            let error = Error::new(Kind::Overloaded, "too many stages wait for models; try again");
            return Err(StageFault { error: Some(error), ..StageFault::new("no place was free to ask from") });
        };
        let _broken_off = gone.clone().drop_guard();
        let call = spawn_blocking(move || {
            // Kept until the thread is free, which may be after the client left.
            let _place = place;
            let value = asking(Asking { desk, terms, handle: Some(handle), gone }, || work(&mut visit, &mut own));
            (visit, own, value)
        });
        let Ok((visit, own, value)) = call.await else { return Err(StageFault::new("the script host failed")) };
        self.visit = Some(visit);
        *cx = own;
        Ok(value)
    }

    async fn with_document<T: Send + 'static>(
        &mut self,
        cx: &mut Context,
        doc: &mut Document,
        work: impl FnOnce(&mut ScriptVisit, &mut Context, &mut Document) -> T + Send + 'static,
    ) -> Result<T, StageFault> {
        let kept = doc.clone();
        let mut own = mem::replace(doc, document_shell());
        let outcome = self.run(cx, move |visit, cx| (work(visit, cx, &mut own), own)).await;
        match outcome {
            Ok((value, own)) => {
                *doc = own;
                Ok(value)
            }
            Err(fault) => {
                *doc = kept;
                Err(fault)
            }
        }
    }
}

impl Visit for Beside {
    fn request<'a>(&'a mut self, cx: &'a mut Context, doc: &'a mut Document) -> BoxFuture<'a, Outcome<RequestVerdict>> {
        Box::pin(async move { self.with_document(cx, doc, |visit, cx, doc| visit.on_request(cx, doc)).await? })
    }

    fn route<'a>(
        &'a mut self,
        cx: &'a mut Context,
        doc: &'a mut Document,
        candidates: &'a [Candidate],
    ) -> BoxFuture<'a, Outcome<RouteVerdict>> {
        let shown = candidates.to_vec();
        Box::pin(
            async move { self.with_document(cx, doc, move |visit, cx, doc| visit.on_route(cx, doc, &shown)).await? },
        )
    }

    fn attempt<'a>(
        &'a mut self,
        cx: &'a mut Context,
        target: &'a Candidate,
        doc: &'a mut Document,
        headers: &'a mut http::HeaderMap,
    ) -> BoxFuture<'a, Outcome<AttemptVerdict>> {
        let (target, mut own) = (target.clone(), headers.clone());
        Box::pin(async move {
            let call = move |visit: &mut ScriptVisit, cx: &mut Context, doc: &mut Document| {
                (visit.on_attempt(cx, &target, doc, &mut own), own)
            };
            let (outcome, own) = self.with_document(cx, doc, call).await?;
            *headers = own;
            outcome
        })
    }

    fn start(&mut self, attempt: u32) {
        if let Some(visit) = &mut self.visit {
            visit.start(attempt);
        }
    }

    fn event<'a>(
        &'a mut self,
        cx: &'a mut Context,
        event: Event,
        out: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Outcome<EventVerdict>> {
        Box::pin(async move {
            let call = |visit: &mut ScriptVisit, cx: &mut Context| {
                let mut made = Vec::new();
                (visit.on_event(cx, event, &mut made), made)
            };
            let (outcome, made) = self.run(cx, call).await?;
            out.extend(made);
            outcome
        })
    }

    fn response<'a>(
        &'a mut self,
        cx: &'a mut Context,
        target: &'a Candidate,
        response: &'a mut Response,
    ) -> BoxFuture<'a, Outcome<ResponseVerdict>> {
        let (target, mut own) = (target.clone(), response.clone());
        Box::pin(async move {
            let call = move |visit: &mut ScriptVisit, cx: &mut Context| (visit.on_response(cx, &target, &mut own), own);
            let (outcome, own) = self.run(cx, call).await?;
            *response = own;
            outcome
        })
    }

    fn error<'a>(&'a mut self, cx: &'a mut Context, error: &'a mut Error) -> BoxFuture<'a, Outcome<ErrorVerdict>> {
        let mut own = error.copy();
        Box::pin(async move {
            let call = move |visit: &mut ScriptVisit, cx: &mut Context| (visit.on_error(cx, &mut own), own);
            let (outcome, own) = self.run(cx, call).await?;
            *error = own;
            outcome
        })
    }

    fn log<'a>(&'a mut self, cx: &'a mut Context, record: &'a mut Record) -> BoxFuture<'a, Outcome<()>> {
        let mut own = record.clone();
        Box::pin(async move {
            let call = move |visit: &mut ScriptVisit, cx: &mut Context| (visit.on_log(cx, &mut own), own);
            let (outcome, own) = self.run(cx, call).await?;
            *record = own;
            outcome
        })
    }

    fn changed(&self) -> bool {
        self.visit.as_ref().is_some_and(|visit| visit.changed())
    }

    fn operations(&self) -> u64 {
        self.visit.as_ref().map_or(0, |visit| visit.operations())
    }

    fn memory(&self) -> u64 {
        self.visit.as_ref().map_or(0, |visit| visit.memory())
    }

    fn line(&self) -> u32 {
        self.visit.as_ref().map_or(0, |visit| visit.line())
    }
}

/// Threads that may wait for models at once: the pool that they come from has others to serve.
static PLACES: Semaphore = Semaphore::const_new(128);
