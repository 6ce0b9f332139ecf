//! A plugin's visit as the pipeline calls it: each phase in a box. Decides nothing.

use futures_util::future::BoxFuture;

use super::PluginVisit;
use crate::{
    account::Record,
    codec::document::Document,
    context::Context,
    error::Error,
    model::{Event, Response},
    pipeline::{
        Candidate, Visit,
        parts::Parts,
        stage::{AttemptVerdict, ErrorVerdict, EventVerdict, Outcome, RequestVerdict, ResponseVerdict, RouteVerdict},
    },
};

impl Visit for PluginVisit {
    fn request<'a>(&'a mut self, cx: &'a mut Context, doc: &'a mut Document) -> BoxFuture<'a, Outcome<RequestVerdict>> {
        Box::pin(self.on_request(cx, doc))
    }

    fn route<'a>(
        &'a mut self,
        cx: &'a mut Context,
        doc: &'a mut Document,
        candidates: &'a [Candidate],
    ) -> BoxFuture<'a, Outcome<RouteVerdict>> {
        Box::pin(self.on_route(cx, doc, candidates))
    }

    fn attempt<'a>(
        &'a mut self,
        cx: &'a mut Context,
        target: &'a Candidate,
        doc: &'a mut Document,
        headers: &'a mut http::HeaderMap,
    ) -> BoxFuture<'a, Outcome<AttemptVerdict>> {
        Box::pin(self.on_attempt(cx, target, doc, headers))
    }

    fn start(&mut self, _attempt: u32) {
        self.parts = Parts::default();
        self.starts = true;
    }

    fn event<'a>(
        &'a mut self,
        cx: &'a mut Context,
        event: Event,
        out: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Outcome<EventVerdict>> {
        Box::pin(self.on_event(cx, event, out))
    }

    fn response<'a>(
        &'a mut self,
        cx: &'a mut Context,
        target: &'a Candidate,
        answer: &'a mut Response,
    ) -> BoxFuture<'a, Outcome<ResponseVerdict>> {
        Box::pin(self.on_response(cx, target, answer))
    }

    fn error<'a>(&'a mut self, cx: &'a mut Context, failure: &'a mut Error) -> BoxFuture<'a, Outcome<ErrorVerdict>> {
        Box::pin(self.on_error(cx, failure))
    }

    fn log<'a>(&'a mut self, cx: &'a mut Context, record: &'a mut Record) -> BoxFuture<'a, Outcome<()>> {
        Box::pin(self.on_log(cx, record))
    }

    fn changed(&self) -> bool {
        self.changed
    }

    fn done(&self) -> bool {
        self.done
    }

    fn memory(&self) -> u64 {
        self.memory
    }
}
