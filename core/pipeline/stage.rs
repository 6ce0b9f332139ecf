//! What a stage is: something that looks at an exchange in some phases and gives verdicts. Scripts, plugins and Rust
//! stages are all this.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::phase::Phases;
use crate::{
    account::Record,
    cache::{Follower, Leading},
    codec::document::Document,
    config::StreamMode,
    context::Context,
    error::Error,
    model::{Event, Response},
};

/// A stage as loaded: shared by all requests. `open` makes what one request holds of it.
pub trait Stage: Send + Sync {
    /// As listed: `scripts/route.rhai`.
    fn name(&self) -> &Arc<str>;
    fn phases(&self) -> Phases;
    /// How it wants streamed answers; `None` when it looks at no answers.
    fn stream(&self) -> Option<StreamMode>;
    /// What must be prepared for it before it runs.
    fn reads(&self) -> Reads {
        Reads { headers: true, targets: true }
    }
    /// Does a call run to its end without giving its thread away (scripts)?
    fn holds_its_thread(&self) -> bool {
        false
    }
    /// Does it look at what requests or answers say? Then a request that only its facts are known of is not decided fully.
    fn reads_text(&self) -> bool {
        true
    }
    /// The request's own instance, made at the first phase that this stage wants.
    fn open(&self) -> Box<dyn Visit>;
    /// The same for a decision that is only looked at: it reads what lives, and nothing that it does lasts or goes out.
    fn rehearse(&self) -> Box<dyn Visit> {
        self.open()
    }
}

/// What costs something to show, and is shown only to those that look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// The caller's headers.
    pub headers: bool,
    /// In `route`: the candidates.
    pub targets: bool,
}

/// One request's visit to a stage. Only the phases that `Stage::phases` names are called.
pub trait Visit: Send {
    fn request<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        _request: &'a mut Document,
    ) -> BoxFuture<'a, Outcome<RequestVerdict>> {
        ready(RequestVerdict::Continue)
    }

    fn route<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        _request: &'a mut Document,
        _candidates: &'a [Candidate],
    ) -> BoxFuture<'a, Outcome<RouteVerdict>> {
        ready(RouteVerdict::Continue)
    }

    fn attempt<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        _target: &'a Candidate,
        _request: &'a mut Document,
        _headers: &'a mut http::HeaderMap,
    ) -> BoxFuture<'a, Outcome<AttemptVerdict>> {
        ready(AttemptVerdict::Continue)
    }

    /// A new attempt begins: drop what was held of the one before.
    fn start(&mut self, _attempt: u32) {}

    /// One event; what stands in its place is pushed to `out`.
    fn event<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        event: Event,
        out: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Outcome<EventVerdict>> {
        out.push(event);
        ready(EventVerdict::Continue)
    }

    fn response<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        _target: &'a Candidate,
        _response: &'a mut Response,
    ) -> BoxFuture<'a, Outcome<ResponseVerdict>> {
        ready(ResponseVerdict::Continue)
    }

    /// The answer that comes is no upstream's own: a stage made it, or the stages found it wanting and it is all there is.
    fn made(&mut self) {}

    /// May change message and status in place.
    fn error<'a>(&'a mut self, _cx: &'a mut Context, _error: &'a mut Error) -> BoxFuture<'a, Outcome<ErrorVerdict>> {
        ready(ErrorVerdict::Continue)
    }

    /// May add tags.
    fn log<'a>(&'a mut self, _cx: &'a mut Context, _record: &'a mut Record) -> BoxFuture<'a, Outcome<()>> {
        ready(())
    }

    /// Has this visit changed the request (or its attempt's copy)? Then a later fault fails the request.
    fn changed(&self) -> bool {
        false
    }

    /// It wants nothing more of this request: no later phase is called. Asked after each call.
    fn done(&self) -> bool {
        false
    }

    /// Operations used by the last call, where the host counts them (scripts).
    fn operations(&self) -> u64 {
        0
    }

    /// Bytes of its memory after the last call: of a plugin's instance all of it, of a script what its variables hold.
    fn memory(&self) -> u64 {
        0
    }

    /// The line of its file where the last call's verdict was given; 0: there is none.
    fn line(&self) -> u32 {
        0
    }
}

/// A verdict, or the stage itself failed (then its `on_error` decides).
pub type Outcome<T> = Result<T, StageFault>;

/// A stage that trapped, threw, or ran over a limit. `message` names file, line, column and phase; never prompt text.
#[derive(Debug)]
pub struct StageFault {
    pub message: String,
    /// The caller gets this error, not the stage's: its request could not be read (then whatever `on_error` says), or the
    /// gateway has no room for the stage.
    pub error: Option<Error>,
}

impl StageFault {
    pub fn new(message: impl Into<String>) -> Self {
        StageFault { message: message.into(), error: None }
    }
}

#[derive(Debug)]
pub enum RequestVerdict {
    Continue,
    /// Answer now, without an upstream.
    Respond(Box<Response>),
    /// The same for an operation whose answers no stage looks into: an earlier one's bytes.
    Repeat(Bytes),
    /// Goes on, for itself and for those that ask the same meanwhile.
    Lead(Box<Leading>),
    /// Somebody else's answer, as it comes.
    Follow(Box<Follower>),
    /// Somebody else asked the same, and this came of it.
    Fail(Error),
    Reject {
        status: u16,
        message: String,
    },
}

#[derive(Debug)]
pub enum RouteVerdict {
    Continue,
    /// These instead, in this order: `provider/model` or alias names. Empty: nobody (503).
    Order(Vec<String>),
    Reject {
        status: u16,
        message: String,
    },
}

#[derive(Debug)]
pub enum AttemptVerdict {
    Continue,
    Skip,
    Reject {
        status: u16,
        message: String,
    },
    /// The attempt failed as if its upstream had said so (the gateway's own stages).
    Fail(Error),
}

#[derive(Debug)]
pub enum EventVerdict {
    Continue,
    /// A clean end with finish reason `content_filter`.
    Stop {
        reason: String,
    },
    Reject {
        status: u16,
        message: String,
    },
    /// The stream ends as if its upstream had failed (the gateway's own stages).
    Fail(Error),
}

#[derive(Debug)]
pub enum ResponseVerdict {
    Continue,
    /// Try the next target.
    Next {
        reason: String,
    },
    Reject {
        status: u16,
        message: String,
    },
}

#[derive(Debug)]
pub enum ErrorVerdict {
    Continue,
    Respond(Box<Response>),
}

/// A target as stages see it: a snapshot of live facts at planning time.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// `provider/model`.
    pub name: Arc<str>,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub healthy: bool,
    /// Smoothed time to first event; `None` until measured.
    pub latency: Option<Duration>,
    /// Tokens a second of its streams; `None` until measured.
    pub speed: Option<f32>,
    pub in_flight: u64,
    /// USD per million tokens; `None` when unknown.
    pub price_input: Option<f64>,
    pub price_output: Option<f64>,
    /// `u64::MAX` without a quota.
    pub quota_left: u64,
    pub quota_resets_in: Option<Duration>,
    pub context_window: Option<u64>,
    pub capabilities: &'static [&'static str],
    /// Where its data is, as far as that is stated.
    pub region: Option<Arc<str>>,
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Outcome<T>> {
    Box::pin(std::future::ready(Ok(value)))
}
