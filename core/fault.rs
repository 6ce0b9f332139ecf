//! `builtin/fault`: failures for one's own drills. At a percentage of attempts, or where a caller asks for it by header and may, an
//! attempt is late, fails with a status, breaks off, or drips. To everything behind it a fault looks like the upstream's
//! own: it fails over, and the client hears what it would hear. Nothing is sent upstream by an attempt that fails so, and no
//! target's health is told of it: a drill of one team is no outage for the others.

mod settings;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value};

use self::settings::{Fault, Settings};
use crate::{
    clock,
    codec::document::Document,
    config::StreamMode,
    context::Context,
    error::{Error, Kind, UpstreamFault},
    model::{Event, Response},
    pipeline::{
        Candidate, Phase, Reads, Stage, Visit,
        phase::Phases,
        stage::{AttemptVerdict, EventVerdict, Outcome, RequestVerdict, ResponseVerdict},
    },
};

/// As listed.
pub struct FaultStage {
    name: Arc<str>,
    settings: Arc<Settings>,
}

impl FaultStage {
    /// `config`: its table in `[[stages]]`. An error is for its line.
    pub fn new(name: &str, config: &Map<String, Value>) -> Result<FaultStage, String> {
        Ok(FaultStage { name: name.into(), settings: Arc::new(Settings::read(config)?) })
    }

    fn visit(&self, dry: bool) -> Box<dyn Visit> {
        Box::new(Faulty { name: self.name.clone(), settings: self.settings.clone(), dry, ..Faulty::default() })
    }
}

impl Stage for FaultStage {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn phases(&self) -> Phases {
        let phases = Phases::default().with(Phase::Request).with(Phase::Attempt);
        match self.settings.touches_answers() {
            true => phases.with(Phase::Event).with(Phase::Response),
            false => phases,
        }
    }

    fn stream(&self) -> Option<StreamMode> {
        self.settings.touches_answers().then_some(StreamMode::Event)
    }

    fn reads(&self) -> Reads {
        Reads { headers: self.settings.header, targets: false }
    }

    fn reads_text(&self) -> bool {
        false
    }

    fn open(&self) -> Box<dyn Visit> {
        self.visit(false)
    }

    fn rehearse(&self) -> Box<dyn Visit> {
        self.visit(true)
    }
}

/// One request that may have faults.
#[derive(Default)]
struct Faulty {
    name: Arc<str>,
    settings: Arc<Settings>,
    /// It only says what it would do.
    dry: bool,
    /// By attempt: what was drawn, or asked for.
    drawn: Vec<Option<Fault>>,
    /// Attempts that were begun: one that fails here is none for the gateway.
    begun: usize,
    /// Of the attempt under way.
    now: Fault,
    /// Pieces of the answer that went by.
    pieces: u32,
    over: bool,
}

impl Faulty {
    /// What becomes of each attempt is known before the first: the same request has the same faults in a replay.
    fn draw(&mut self, cx: &Context) -> Result<(), String> {
        let asked = match self.settings.header {
            true => {
                cx.headers.iter().find(|(name, _)| name == HEADER).map(|(_, value)| Fault::read(value)).transpose()?
            }
            false => None,
        };
        let mut random = fastrand::Rng::with_seed(cx.seed ^ SALT);
        let mut each = |attempt: u32| match &asked {
            Some(fault) => Some(fault.clone()).filter(|fault| fault.attempts.is_none_or(|most| attempt <= most)),
            None => self.settings.drawn(random.f64() * 100.0, attempt),
        };
        self.drawn = (1..=ATTEMPTS).map(&mut each).collect();
        self.over = self.drawn.iter().all(Option::is_none);
        Ok(())
    }

    async fn strike(&mut self, cx: &mut Context, target: &str, stream: bool) -> AttemptVerdict {
        let drawn = self.drawn.get(self.begun).cloned().flatten();
        self.begun += 1;
        let Some(fault) = drawn.filter(|_| self.settings.concerns(target)) else { return AttemptVerdict::Continue };
        let would = if self.dry { "would be" } else { "is" };
        cx.trace.note(&self.name, &format!("{target} {would} made to fail: {fault}"));
        if self.dry {
            return AttemptVerdict::Continue;
        }
        if let Some(delay) = fault.delay {
            let due = clock::now() + delay;
            let until = cx.deadline.map_or(due, |deadline| deadline.min(due));
            clock::sleep_until(until).await;
            if until < due {
                return AttemptVerdict::Fail(Error::new(
                    Kind::UpstreamTimeout,
                    format!("{target} did not answer in time"),
                ));
            }
        }
        if let Some(status) = fault.status {
            return AttemptVerdict::Fail(refusal(target, status, fault.retry_after));
        }
        // Nobody has seen anything of a whole answer that broke off.
        if fault.cut.is_some() && !stream {
            return AttemptVerdict::Fail(broken(target));
        }
        self.now = fault;
        AttemptVerdict::Continue
    }
}

impl Visit for Faulty {
    fn request<'a>(
        &'a mut self,
        cx: &'a mut Context,
        _request: &'a mut Document,
    ) -> BoxFuture<'a, Outcome<RequestVerdict>> {
        let verdict = match self.draw(cx) {
            Ok(()) => RequestVerdict::Continue,
            Err(message) => RequestVerdict::Reject { status: 400, message },
        };
        std::future::ready(Ok(verdict)).boxed()
    }

    fn attempt<'a>(
        &'a mut self,
        cx: &'a mut Context,
        target: &'a Candidate,
        request: &'a mut Document,
        _headers: &'a mut http::HeaderMap,
    ) -> BoxFuture<'a, Outcome<AttemptVerdict>> {
        let stream = request.stream();
        async move { Ok(self.strike(cx, &target.name, stream).await) }.boxed()
    }

    fn start(&mut self, _attempt: u32) {
        (self.now, self.pieces) = (Fault::default(), 0);
    }

    fn event<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        event: Event,
        out: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Outcome<EventVerdict>> {
        async move {
            if matches!(event, Event::Delta { .. }) {
                if self.now.cut.is_some_and(|most| self.pieces >= most) {
                    return Ok(EventVerdict::Fail(broken("the upstream")));
                }
                self.pieces += 1;
                if let Some(pause) = self.now.drip {
                    clock::sleep(pause).await;
                }
            }
            out.push(event);
            Ok(EventVerdict::Continue)
        }
        .boxed()
    }

    fn response<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        _target: &'a Candidate,
        _response: &'a mut Response,
    ) -> BoxFuture<'a, Outcome<ResponseVerdict>> {
        async move {
            if let Some(pause) = self.now.drip {
                clock::sleep(pause).await;
            }
            Ok(ResponseVerdict::Continue)
        }
        .boxed()
    }

    fn done(&self) -> bool {
        self.over
    }
}

/// What an upstream with this status would have said.
fn refusal(target: &str, status: u16, retry_after: Option<Duration>) -> Error {
    let kind = match status {
        429 => Kind::UpstreamRateLimited,
        503 | 529 => Kind::UpstreamOverloaded,
        408 | 504 => Kind::UpstreamTimeout,
        401 | 403 => Kind::UpstreamAuth,
        400..=499 => Kind::UpstreamRefused,
        _ => Kind::Upstream,
    };
    let message = format!("{target} answered {status}, as a drill (builtin/fault) has it");
    let mut error = Error::new(kind, message).from_upstream(UpstreamFault { status, ..UpstreamFault::default() });
    if kind == Kind::UpstreamRefused {
        error = error.with_status(status);
    }
    match retry_after {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

fn broken(target: &str) -> Error {
    Error::new(Kind::Upstream, format!("{target} broke off, as a drill (builtin/fault) has it"))
        .with_code("upstream_disconnected")
}

/// Where a caller that may asks for a fault.
const HEADER: &str = "x-portcullis-fault";
/// As many as there can be.
const ATTEMPTS: u32 = 4;
/// So that other lots drawn by the same seed do not agree with these.
const SALT: u64 = 0x00fa_017d_0000_0001;
