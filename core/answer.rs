//! An upstream's stream on its way to the client: bytes in the fast lane, or events through the stages. `gateway.rs`
//! drives it to the commit, the response body drives it to the end. Decides nothing about targets.

mod delivery;
mod pace;
pub mod resume;
mod staged;
mod weight;

use std::time::{Duration, Instant};

use bytes::Bytes;

use self::{
    pace::{Pace, Verdict},
    resume::{Joint, Sofar},
    staged::observe,
    weight::Weight,
};
use crate::{
    call::Call,
    clock,
    codec::{Dialect, StreamDecoder, StreamEncoder, codec, custom, lane::Lane, ran, standin},
    config::Server,
    error::{Error, Kind, Result},
    exchange::Exchange,
    gateway::resume::Later,
    model::{Event, FinishReason, Format},
    pipeline::{Candidate, StreamNeed},
    route::{Flight, Target, cause::TOO_SLOW},
    transport,
    upstream::Answer,
};

/// In this order in memory, because thousands of slow streams take turns: what each event looks at lies together, at the beginning.
#[repr(C)]
pub struct Streaming {
    /// What went wrong right behind the first output: the output goes first, however the bytes were cut.
    late: Option<Box<Error>>,
    pace: Option<Box<Pace>>,
    /// When the upstream's first output came.
    pub first_output: Option<Instant>,
    /// Since when the upstream has been silent, and since when nothing was ready for the client.
    heard: Instant,
    told: Instant,
    idle: Duration,
    patience: clock::Patience,
    /// Bytes that came before the first output: held until it comes, so not without end.
    lead: usize,
    /// Twice the largest event.
    max_lead: usize,
    /// Ready for the client.
    out: Vec<Bytes>,
    /// Frames with model output have been handed over, or may be now.
    pub committed: bool,
    /// The same, but for what is held until the upstream has shown how fast it is.
    ready: bool,
    pub ended: bool,
    /// The format's terminal was seen: nothing that comes after it matters to the client.
    terminal: bool,
    /// Stages may hold back what came.
    holds_back: bool,
    /// Stages look at it.
    staged: bool,
    /// Its bytes are kept with its record.
    recorded: bool,
    /// It ended for a content filter before there was any output.
    filtered: bool,
    /// The upstream said all that it had to say.
    whole: bool,
    answer: Option<Answer>,
    /// Beside the fast lane: shows the stream to stages that only look on.
    observer: Option<Box<dyn StreamDecoder>>,
    way: Way,
    /// Of the client's format: writes events, errors and keep-alives.
    encoder: Box<dyn StreamEncoder>,
    /// A stage asked for the next target (only before commit).
    pub next: Option<String>,
    /// Of model output, as the upstream sent it.
    weight: Weight,
    /// How long a held-back stream may be silent.
    keep_alive: Duration,
    target: Candidate,
    /// When the call was sent.
    pub began: Instant,
    /// Of an alias that wants a broken stream to go on elsewhere.
    sofar: Option<Box<Sofar>>,
    joint: Option<Box<Joint>>,
    /// This one goes on with another one, which takes its events as they are.
    raw: Option<Vec<Event>>,
    /// Who would go on; given by the gateway at the commit.
    pub later: Option<Box<Later>>,
    /// Counts this stream at its target until it ends; given by the gateway at the commit.
    pub flight: Option<Flight>,
}

/// How the upstream's bytes become the client's.
#[expect(clippy::large_enum_variant, reason = "one a stream, which lies in a box already")]
enum Way {
    Lane(Lane),
    Model(Box<dyn StreamDecoder>),
}

impl Streaming {
    /// `from`: the target as stages see it; `server`: the limits of one stream; `began`: when the call was sent.
    pub fn open(
        exchange: &Exchange,
        call: &Call,
        target: &Target,
        from: Candidate,
        answer: Answer,
        server: &Server,
        began: Instant,
    ) -> Self {
        let format = call.format;
        let need = exchange.chain.stream_need();
        let view = exchange.view();
        let decoder = || {
            let inner = codec(format).stream_decoder(&target.dialect, server.max_event);
            let inner = if call.stands_in { standin::restored(inner) } else { inner };
            let inner = if call.same_format { inner } else { ran::restored(exchange.cx.format, inner) };
            custom::restored(&call.customs, inner)
        };
        // What may have to go on elsewhere is read whole.
        let resumes = exchange.resuming || (target.care.as_ref().is_some_and(|care| care.resume) && !call.stands_in);
        let lane = call.same_format && need <= StreamNeed::Observe;
        let (way, observer) = if lane && !resumes && !view.json_array && !view.strict_sdk {
            let lane = Lane::new(format, &target.dialect, call.asks_usage && !view.include_usage, server.max_event);
            let lane = lane.counting_searches(target.rates.as_ref().is_some_and(|rates| rates.sells_searches()));
            (Way::Lane(lane), (need == StreamNeed::Observe).then(decoder))
        } else {
            (Way::Model(decoder()), None)
        };
        let encoder = codec(exchange.cx.format).stream_encoder(&view);
        Streaming {
            answer: Some(transport::unwrapped(answer, target, server.max_event)),
            way,
            observer,
            encoder,
            out: Vec::new(),
            committed: false,
            ready: false,
            pace: target
                .care
                .as_ref()
                .and_then(|care| care.min_speed)
                .map(|speed| Box::new(Pace::new(speed, server.max_event))),
            ended: false,
            next: None,
            lead: 0,
            max_lead: server.max_event.saturating_mul(2),
            first_output: None,
            terminal: false,
            weight: Weight::default(),
            filtered: false,
            late: None,
            whole: false,
            idle: target.timeouts.idle,
            keep_alive: server.keep_alive,
            holds_back: need >= StreamNeed::Events,
            staged: need > StreamNeed::None,
            recorded: exchange.record.bodies.is_some(),
            heard: clock::now(),
            told: clock::now(),
            patience: clock::Patience::default(),
            target: from,
            began,
            sofar: resumes.then(Box::default),
            joint: None,
            raw: exchange.resuming.then(Vec::new),
            later: None,
            flight: None,
        }
    }

    /// From the call to the upstream's first output.
    pub fn first_output_after(&self) -> Duration {
        self.first_output.map_or(clock::since(self.began), |at| at.saturating_duration_since(self.began))
    }

    /// A content filter left nothing of it. Only before the commit: what has gone out is not looked at again.
    pub fn is_withheld(&self, format: Format, dialect: &Dialect) -> bool {
        let Way::Lane(lane) = &self.way else { return self.filtered };
        if lane.finish_reason() != Some(FinishReason::ContentFilter) {
            return false;
        }
        let (mut decoder, mut events) = (codec(format).stream_decoder(dialect, self.max_lead), Vec::new());
        let read = self.out.iter().all(|frame| decoder.push(frame, &mut events).is_ok());
        let output = |event: &Event| event.commits() && !matches!(event, Event::Finish { .. });
        read && !events.iter().any(output)
    }

    /// Takes one frame of the upstream and turns it into what the client gets. Until the first output the caller's
    /// deadline is the only one; then it waits at most the idle timeout.
    pub async fn step(&mut self, exchange: &mut Exchange) -> Result<()> {
        if let Some(error) = self.late.take() {
            return Err(*error);
        }
        let quiet = self.quiet();
        if quiet.is_some_and(|at| at <= clock::now()) {
            self.write_keep_alive();
            return Ok(());
        }
        let asked = self.pace.is_some().then(clock::now);
        let slow = asked.and_then(|at| Some(at + self.paced()?.left()));
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let patient = match (self.terminal, self.first_output) {
            (true, _) => Some(self.heard + LINGER),
            (false, Some(_)) => Some(self.heard + self.idle),
            (false, None) => None,
        };
        let until = patient.into_iter().chain(quiet).chain(slow).min();
        let frame = match until {
            Some(until) => self.patience.until(until, answer.frame()).await.ok(),
            None => Some(answer.frame().await),
        };
        let came = if let Some(Some(Ok(bytes))) = &frame { bytes.len() } else { 0 };
        if let (Some(asked), Some(pace)) = (asked, self.paced()) {
            pace.waited(clock::since(asked), came);
        }
        match frame {
            // Time for a keep-alive: the next step writes it.
            None if quiet.is_some() && until == quiet => Ok(()),
            None if slow.is_some() && until == slow => self.judge(exchange),
            // After its terminal a stream is whole, however its connection ends.
            None | Some(Some(Err(_))) if self.terminal => Box::pin(self.end(exchange)).await,
            None => {
                let secs = self.idle.as_secs_f32();
                Err(Error::new(
                    Kind::UpstreamTimeout,
                    format!("the upstream sent nothing for {secs} s; try again, or raise `timeouts.idle`"),
                ))
            }
            Some(Some(bytes)) => {
                let bytes = bytes?;
                self.heard = clock::now();
                if self.first_output.is_none() {
                    self.lead += bytes.len();
                }
                if self.lead > self.max_lead {
                    return Err(Error::new(
                        Kind::Upstream,
                        format!("the upstream sent {} bytes without output", self.max_lead),
                    ));
                }
                let committed = self.committed;
                let taken = self.take(bytes, exchange).await.and_then(|()| self.judge(exchange));
                if self.committed
                    && !committed
                    && let Err(error) = taken
                {
                    self.late = Some(Box::new(error));
                    return Ok(());
                }
                taken
            }
            Some(None) => Box::pin(self.end(exchange)).await,
        }
    }

    /// Its speed counts from the first output to the terminal.
    fn paced(&mut self) -> Option<&mut Pace> {
        let counts = self.first_output.is_some() && !self.terminal && !self.ended;
        self.pace.as_deref_mut().filter(|_| counts)
    }

    /// Is it fast enough? Before the commit another target may be faster; afterwards it is told, and goes on.
    fn judge(&mut self, exchange: &mut Exchange) -> Result<()> {
        let output = match &self.way {
            Way::Lane(lane) => lane.text_bytes(),
            Way::Model(_) => self.weight.text_bytes,
        };
        let verdict = self.paced().map(|pace| pace.judge(output));
        match verdict {
            None | Some(Verdict::Open) => {}
            Some(Verdict::Fast) => self.committed |= self.ready,
            Some(Verdict::Slow) if !self.committed => return Err(too_slow()),
            Some(Verdict::Slow) if self.goes_on_after(exchange, &too_slow()) => return Err(too_slow()),
            Some(Verdict::Slow) => {
                exchange.cx.trace.note("min_speed", &format!("{} is slower than it should be", self.target.name));
                self.pace = None;
            }
        }
        Ok(())
    }

    /// Output is ready for the client.
    fn commit(&mut self) {
        self.ready = true;
        self.committed |= self.pace.as_ref().is_none_or(|pace| pace.proven());
    }

    /// When a client that waits for what a stage holds back must hear that the connection lives.
    fn quiet(&self) -> Option<Instant> {
        let since = self.first_output?.max(self.told);
        self.holds_back.then(|| since + self.keep_alive)
    }

    async fn take(&mut self, bytes: Bytes, exchange: &mut Exchange) -> Result<()> {
        if self.recorded
            && let Some(bodies) = &mut exchange.record.bodies
        {
            bodies.heard(&bytes);
        }
        match &mut self.way {
            Way::Lane(lane) => {
                let result = lane.push(bytes.clone(), &mut self.out);
                self.terminal |= lane.ended();
                if lane.committed() && !self.ready {
                    self.first_output.get_or_insert_with(clock::now);
                    self.commit();
                }
                self.committed |= self.terminal && self.ready;
                if let Some(observer) = &mut self.observer {
                    let mut events = Vec::new();
                    // The lane tells the client what is wrong with the stream.
                    let _ = observer.push(&bytes, &mut events);
                    Box::pin(observe(events, exchange)).await;
                }
                result
            }
            Way::Model(decoder) => {
                let mut events = Vec::new();
                let result = decoder.push(&bytes, &mut events);
                self.pass(events, exchange).await?;
                result
            }
        }
    }

    /// The upstream closed.
    async fn end(&mut self, exchange: &mut Exchange) -> Result<()> {
        self.answer = None;
        match &mut self.way {
            Way::Lane(lane) => {
                lane.finish(&mut self.out)?;
                if let Some(observer) = &mut self.observer {
                    let mut events = Vec::new();
                    let _ = observer.finish(&mut events);
                    Box::pin(observe(events, exchange)).await;
                    let inner = &mut **exchange;
                    // Observers change nothing: what they say is in the trace.
                    let _ = inner.chain.end(&mut inner.cx, &mut Vec::new()).await;
                }
                self.committed = true;
                self.ended = true;
            }
            Way::Model(decoder) => {
                let mut events = Vec::new();
                let result = decoder.finish(&mut events);
                self.pass(events, exchange).await?;
                result?;
                if self.raw.is_some() {
                    (self.committed, self.ended) = (true, true);
                } else if !self.ended {
                    self.flush(exchange).await?;
                }
            }
        }
        self.whole = true;
        Ok(())
    }
}

fn too_slow() -> Error {
    let message = "the upstream is slower than `min_speed`; try again, or choose another model";
    Error::new(Kind::UpstreamTimeout, message).with_code(TOO_SLOW)
}

/// How long an upstream may take to close after its terminal, so that its connection can be used again.
const LINGER: Duration = Duration::from_secs(1);
