//! A script's visit as the pipeline calls it: a call has run to its end when it returns. Decides nothing.

use futures_util::future::{BoxFuture, ready};

use super::ScriptVisit;
use crate::{
    account::Record,
    codec::document::Document,
    context::Context,
    error::Error,
    model::{Event, Response},
    pipeline::{
        Candidate, Visit,
        parts::{Grown, Parts},
        stage::{AttemptVerdict, ErrorVerdict, EventVerdict, Outcome, RequestVerdict, ResponseVerdict, RouteVerdict},
    },
};

impl Visit for ScriptVisit {
    fn request<'a>(&'a mut self, cx: &'a mut Context, doc: &'a mut Document) -> BoxFuture<'a, Outcome<RequestVerdict>> {
        Box::pin(ready(self.on_request(cx, doc)))
    }

    fn route<'a>(
        &'a mut self,
        cx: &'a mut Context,
        doc: &'a mut Document,
        candidates: &'a [Candidate],
    ) -> BoxFuture<'a, Outcome<RouteVerdict>> {
        Box::pin(ready(self.on_route(cx, doc, candidates)))
    }

    fn attempt<'a>(
        &'a mut self,
        cx: &'a mut Context,
        target: &'a Candidate,
        doc: &'a mut Document,
        headers: &'a mut http::HeaderMap,
    ) -> BoxFuture<'a, Outcome<AttemptVerdict>> {
        Box::pin(ready(self.on_attempt(cx, target, doc, headers)))
    }

    fn start(&mut self, _attempt: u32) {
        self.parts = Parts::default();
        self.grown = Grown::default();
        self.starts = true;
    }

    fn event<'a>(
        &'a mut self,
        cx: &'a mut Context,
        event: Event,
        out: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Outcome<EventVerdict>> {
        Box::pin(ready(self.on_event(cx, event, out)))
    }

    fn response<'a>(
        &'a mut self,
        cx: &'a mut Context,
        target: &'a Candidate,
        response: &'a mut Response,
    ) -> BoxFuture<'a, Outcome<ResponseVerdict>> {
        Box::pin(ready(self.on_response(cx, target, response)))
    }

    fn error<'a>(&'a mut self, cx: &'a mut Context, error: &'a mut Error) -> BoxFuture<'a, Outcome<ErrorVerdict>> {
        Box::pin(ready(self.on_error(cx, error)))
    }

    fn log<'a>(&'a mut self, cx: &'a mut Context, record: &'a mut Record) -> BoxFuture<'a, Outcome<()>> {
        Box::pin(ready(self.on_log(cx, record)))
    }

    fn changed(&self) -> bool {
        self.desk.with(|lent| lent.changed)
    }

    fn operations(&self) -> u64 {
        self.operations
    }

    fn memory(&self) -> u64 {
        self.memory
    }

    fn line(&self) -> u32 {
        self.line
    }
}
