//! What a plugin costs on this machine, for `portcullis plugin bench` and the bench of the same name: its phases called
//! again and again as by a request, without sockets and with nothing outside in reach. A call's time is what passes, so a
//! busy machine shows in the p99; a request's is the processor's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    compile::Loaded,
    engine::thread_time,
    stage::{PluginStage, PluginVisit},
};
use crate::{
    account::Record,
    codec::{Dialect, Inbound, document::Document},
    context::Context,
    error::{Error, Kind},
    model::{Choice, Delta, Event, Extra, Finish, FinishReason, Format, Part, PartStart, Response, Start, Usage},
    pipeline::{
        Candidate, Phase, StageFault, Visit, drive,
        phase::{Phases, TABLE},
        stage::{AttemptVerdict, ErrorVerdict, EventVerdict, RequestVerdict, ResponseVerdict, RouteVerdict},
    },
};

/// What each request is.
pub struct Load<'a> {
    pub body: Bytes,
    pub format: Format,
    pub context: &'a dyn Fn() -> Result<Context, String>,
    /// The answer's text: whole, and as a stream of pieces of `PIECE` bytes.
    pub answer: String,
    /// One phase alone; else all that the plugin wants.
    pub only: Option<Phase>,
    /// So many requests, unless it takes longer than that.
    pub requests: u32,
    pub time: Duration,
}

#[derive(Debug, serde::Serialize)]
pub struct Figures {
    pub requests: u32,
    /// Processor time of a whole request: an instance, all its phases, and its end. Microseconds.
    pub cpu_us: f64,
    pub steps: Vec<Step>,
}

/// One step, over all requests.
#[derive(Debug, serde::Serialize)]
pub struct Step {
    /// `instance`, or a phase.
    pub step: &'static str,
    pub calls: usize,
    /// Microseconds.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Bytes of the instance's memories after the call, at most.
    pub memory: u64,
    /// Bytes that went on to the next in one request: the body, the answer's text, the text of all events.
    pub out: u64,
    /// The first verdict that was not `continue`.
    pub verdict: &'static str,
    pub failed: usize,
    /// The first failure, as the trace would tell it.
    pub fault: Option<String>,
}

/// The error is the body's.
pub fn bench(loaded: &Arc<Loaded>, load: &Load) -> Result<Figures, Error> {
    let stage = PluginStage::new(loaded.clone());
    let mut bench = Bench {
        load,
        phases: load.only.map_or(loaded.described.phases, |phase| Phases::default().with(phase)),
        answer: answer(&load.answer),
        events: events(&load.answer),
        target: Candidate { name: "mock/mock".into(), healthy: true, quota_left: u64::MAX, ..Candidate::default() },
        samples: Default::default(),
    };
    // What is warm for every request but the first is warm for all.
    bench.request(stage.visit())?;
    bench.samples = Default::default();
    let (begun, mut cpu, mut requests) = (Instant::now(), 0, 0);
    while requests < load.requests && (requests == 0 || begun.elapsed() < load.time) {
        cpu += bench.request(stage.visit())?;
        requests += 1;
    }
    let cpu_us = micros(cpu) / f64::from(requests.max(1));
    let steps = bench.samples.into_iter().enumerate().filter_map(|(at, sample)| sample.told(at)).collect();
    Ok(Figures { requests, cpu_us, steps })
}

struct Bench<'a> {
    load: &'a Load<'a>,
    phases: Phases,
    answer: Response,
    events: Vec<Event>,
    target: Candidate,
    /// The instance, then the phases in the order of their table.
    samples: [Sample; TABLE.len() + 1],
}

#[derive(Default)]
struct Sample {
    nanos: Vec<u64>,
    memory: u64,
    out: u64,
    verdict: &'static str,
    failed: usize,
    fault: Option<String>,
}

/// Ends the request: the plugin failed, or wants nothing more of it.
struct Over;

impl Bench<'_> {
    /// One request; gives its processor time. What a gateway would have made in any case is made outside of the clock.
    fn request(&mut self, mut visit: PluginVisit) -> Result<u64, Error> {
        let doc = Document::new(self.load.format, self.load.body.clone(), Inbound::default())?;
        let cx = (self.load.context)().map_err(|why| Error::new(Kind::Internal, why))?;
        let (events, answer, record) = (self.events.clone(), self.answer.clone(), Record::of(&cx));
        let mut passing = Passing { doc, cx, out: Vec::with_capacity(events.len()), events, answer, record };
        let since = thread_time();
        let _ = self.steps(&mut visit, &mut passing);
        drop(visit);
        Ok(thread_time() - since)
    }

    fn steps(&mut self, visit: &mut PluginVisit, passing: &mut Passing) -> Result<(), Over> {
        let Passing { doc, cx, events, answer, record, out } = passing;
        let phases = self.phases;
        let earliest = TABLE.iter().map(|row| row.phase).find(|phase| phases.has(*phase)).ok_or(Over)?;
        self.samples[0].time(visit, |visit| drive(visit.ready(earliest)))?;
        // What went on is looked at once: that is no part of what a plugin costs.
        let first = self.samples[0].nanos.len() == 1;
        let target = self.target.clone();
        for (at, row) in (1..).zip(TABLE).filter(|(_, row)| phases.has(row.phase)) {
            let sample = &mut self.samples[at];
            let mut size = 0;
            let verdict = match row.phase {
                Phase::Request => {
                    let verdict = sample.time(visit, |visit| drive(visit.request(cx, doc)))?;
                    size = match &verdict {
                        RequestVerdict::Respond(own) => own.text().len(),
                        _ if first => sent(doc),
                        _ => 0,
                    };
                    request_word(&verdict)
                }
                Phase::Route => {
                    let targets = std::slice::from_ref(&target);
                    route_word(&sample.time(visit, |visit| drive(visit.route(cx, doc, targets)))?)
                }
                Phase::Attempt => {
                    let mut headers = HeaderMap::new();
                    let attempt = |visit: &mut PluginVisit| drive(visit.attempt(cx, &target, doc, &mut headers));
                    let verdict = sample.time(visit, attempt)?;
                    size = if first { sent(doc) } else { 0 };
                    attempt_word(&verdict)
                }
                Phase::Event => {
                    visit.start(1);
                    let mut word = "";
                    for event in events.drain(..) {
                        word = event_word(&sample.time(visit, |visit| drive(visit.event(cx, event, out)))?);
                    }
                    size = if first { out.iter().map(text_of).sum() } else { 0 };
                    word
                }
                Phase::Response => {
                    let verdict = sample.time(visit, |visit| drive(visit.response(cx, &target, answer)))?;
                    size = if first { answer.text().len() } else { 0 };
                    response_word(&verdict)
                }
                Phase::Error => {
                    let mut failure = Error::new(Kind::UpstreamTimeout, "the upstream did not answer in time");
                    error_word(&sample.time(visit, |visit| drive(visit.error(cx, &mut failure)))?)
                }
                Phase::Log => {
                    sample.time(visit, |visit| drive(visit.log(cx, record)))?;
                    CONTINUE
                }
            };
            sample.saw(verdict, size);
            if visit.done() {
                return Err(Over);
            }
        }
        Ok(())
    }
}

/// One request on its way through the phases.
struct Passing {
    doc: Document,
    cx: Context,
    events: Vec<Event>,
    answer: Response,
    record: Record,
    /// What went on of the events.
    out: Vec<Event>,
}

impl Sample {
    fn time<T>(
        &mut self,
        visit: &mut PluginVisit,
        call: impl FnOnce(&mut PluginVisit) -> Result<T, StageFault>,
    ) -> Result<T, Over> {
        let begun = Instant::now();
        let outcome = call(visit);
        self.nanos.push(begun.elapsed().as_nanos() as u64);
        self.memory = self.memory.max(visit.memory);
        outcome.map_err(|fault| {
            self.failed += 1;
            self.fault.get_or_insert(fault.message);
            Over
        })
    }

    fn saw(&mut self, verdict: &'static str, out: usize) {
        if self.verdict.is_empty() || self.verdict == CONTINUE {
            self.verdict = verdict;
        }
        self.out = self.out.max(out as u64);
    }

    fn told(mut self, at: usize) -> Option<Step> {
        self.nanos.sort_unstable();
        let last = self.nanos.len().checked_sub(1)?;
        let nanos = |percent: usize| micros(self.nanos[last * percent / 100]);
        Some(Step {
            step: at.checked_sub(1).map_or("instance", |phase| TABLE[phase].name),
            calls: self.nanos.len(),
            p50_us: nanos(50),
            p99_us: nanos(99),
            memory: self.memory,
            out: self.out,
            verdict: self.verdict,
            failed: self.failed,
            fault: self.fault,
        })
    }
}

fn micros(nanos: u64) -> f64 {
    // To a hundredth: more is noise.
    (nanos as f64 / 10.0).round() / 100.0
}

fn sent(doc: &mut Document) -> usize {
    doc.patch(&Dialect::of("mock"), false).map_or(0, |(pieces, _)| pieces.iter().map(Bytes::len).sum())
}

fn text_of(event: &Event) -> usize {
    if let Event::Delta { delta, .. } = event { delta.text_bytes() as usize } else { 0 }
}

fn request_word(verdict: &RequestVerdict) -> &'static str {
    match verdict {
        RequestVerdict::Continue | RequestVerdict::Lead(_) => CONTINUE,
        RequestVerdict::Respond(_) | RequestVerdict::Repeat(_) | RequestVerdict::Follow(_) => "respond",
        RequestVerdict::Reject { .. } | RequestVerdict::Fail(_) => REJECT,
    }
}

fn route_word(verdict: &RouteVerdict) -> &'static str {
    match verdict {
        RouteVerdict::Continue => CONTINUE,
        RouteVerdict::Order(_) => "order",
        RouteVerdict::Reject { .. } => REJECT,
    }
}

fn attempt_word(verdict: &AttemptVerdict) -> &'static str {
    match verdict {
        AttemptVerdict::Continue => CONTINUE,
        AttemptVerdict::Skip => "skip",
        AttemptVerdict::Reject { .. } | AttemptVerdict::Fail(_) => REJECT,
    }
}

fn event_word(verdict: &EventVerdict) -> &'static str {
    match verdict {
        EventVerdict::Continue => CONTINUE,
        EventVerdict::Stop { .. } => "stop",
        EventVerdict::Reject { .. } | EventVerdict::Fail(_) => REJECT,
    }
}

fn response_word(verdict: &ResponseVerdict) -> &'static str {
    match verdict {
        ResponseVerdict::Continue => CONTINUE,
        ResponseVerdict::Next { .. } => "next",
        ResponseVerdict::Reject { .. } => REJECT,
    }
}

fn error_word(verdict: &ErrorVerdict) -> &'static str {
    match verdict {
        ErrorVerdict::Continue => CONTINUE,
        ErrorVerdict::Respond(_) => "respond",
    }
}

fn answer(text: &str) -> Response {
    let finish = Some(Finish::new(FinishReason::Stop, "stop"));
    let choice = Choice { parts: vec![Part::text(text)], finish, ..Choice::default() };
    Response { model: "mock".into(), choices: vec![choice], ..Response::default() }
}

/// The same as a provider streams it.
fn events(text: &str) -> Vec<Event> {
    let mut events = vec![
        Event::Start(Start { model: "mock".into(), ..Start::default() }),
        Event::PartStart { choice: 0, index: 0, part: PartStart::Text { extra: Extra::default() } },
    ];
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(PIECE.min(rest.len())));
        events.push(Event::Delta { choice: 0, index: 0, delta: Delta::Text(piece.to_owned()) });
        rest = after;
    }
    events.push(Event::PartEnd { choice: 0, index: 0 });
    events.push(Event::Finish { choice: 0, finish: Finish::new(FinishReason::Stop, "stop") });
    events.extend([Event::Usage(Usage::default()), Event::End]);
    events
}

/// A few tokens, as providers send them.
const PIECE: usize = 24;
const CONTINUE: &str = "continue";
const REJECT: &str = "reject";
