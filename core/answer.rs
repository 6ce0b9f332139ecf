//! An upstream's stream on its way to the client: bytes in the fast lane, or events through the stages. `gateway.rs`
//! drives it to the commit, the response body drives it to the end. Decides nothing about targets.

mod pace;
pub mod resume;

use std::{
    borrow::Cow,
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::{
    pace::{Pace, Verdict},
    resume::{Joint, Sofar},
};
use crate::{
    account::estimate::tokens_of,
    auth::cut::Watch,
    call::Call,
    clock,
    codec::{Dialect, StreamDecoder, StreamEncoder, codec, custom, lane::Lane, ran, said, standin},
    config::Server,
    error::{Error, Kind, Result},
    exchange::Exchange,
    gateway::resume::Later,
    generated::Sink,
    model::{Event, FinishReason, Format, fold::unfold},
    pipeline::{Candidate, EndFlow, EventFlow, StreamNeed},
    reply,
    route::{Flight, Target, cause::TOO_SLOW},
    stored::Keep,
    transport,
    upstream::Answer,
};

pub struct Streaming {
    answer: Option<Answer>,
    way: Way,
    /// Beside the fast lane: shows the stream to stages that only look on.
    observer: Option<Box<dyn StreamDecoder>>,
    /// Of the client's format: writes events, errors and keep-alives.
    encoder: Box<dyn StreamEncoder>,
    /// Ready for the client.
    out: Vec<Bytes>,
    /// Frames with model output have been handed over, or may be now.
    pub committed: bool,
    /// The same, but for what is held until the upstream has shown how fast it is.
    ready: bool,
    pace: Option<Box<Pace>>,
    pub ended: bool,
    /// A stage asked for the next target (only before commit).
    pub next: Option<String>,
    /// Bytes that came before the first output: held until it comes, so not without end.
    lead: usize,
    /// Twice the largest event.
    max_lead: usize,
    /// When the upstream's first output came.
    pub first_output: Option<Instant>,
    /// The format's terminal was seen: nothing that comes after it matters to the client.
    terminal: bool,
    /// Of model output, as the upstream sent it.
    text_bytes: u64,
    /// It ended for a content filter before there was any output.
    filtered: bool,
    /// What went wrong right behind the first output: the output goes first, however the bytes were cut.
    late: Option<Box<Error>>,
    /// The upstream said all that it had to say.
    whole: bool,
    idle: Duration,
    /// How long a held-back stream may be silent.
    keep_alive: Duration,
    /// Stages may hold back what came.
    holds_back: bool,
    /// Since when the upstream has been silent, and since when nothing was ready for the client.
    heard: Instant,
    told: Instant,
    patience: clock::Patience,
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
            text_bytes: 0,
            filtered: false,
            late: None,
            whole: false,
            idle: target.timeouts.idle,
            keep_alive: server.keep_alive,
            holds_back: need >= StreamNeed::Events,
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
            Way::Model(_) => self.text_bytes,
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
        if let Some(bodies) = &mut exchange.record.bodies {
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

    /// Events through the stages to the client's bytes. What passed before a stage refused goes on.
    async fn pass(&mut self, events: Vec<Event>, exchange: &mut Exchange) -> Result<()> {
        let mut bytes = Vec::new();
        let result = self.pass_to(events, exchange, &mut bytes).await;
        if !bytes.is_empty() {
            self.out.push(bytes.into());
        }
        result
    }

    async fn pass_to(&mut self, mut events: Vec<Event>, exchange: &mut Exchange, bytes: &mut Vec<u8>) -> Result<()> {
        if let Some(raw) = &mut self.raw {
            for event in &events {
                if event.commits() {
                    self.first_output.get_or_insert_with(clock::now);
                    self.ready = true;
                }
                self.terminal |= *event == Event::End;
                if let Event::Delta { delta, .. } = event {
                    self.text_bytes += delta.text_bytes();
                }
            }
            raw.append(&mut events);
            if self.ready {
                self.commit();
            }
            return Ok(());
        }
        let mut joined = Vec::new();
        if let Some(joint) = &mut self.joint {
            events.into_iter().for_each(|event| joint.join(event, &mut joined));
            events = joined;
        }
        let mut staged = Vec::new();
        for mut event in events {
            if self.ended {
                break;
            }
            match &event {
                Event::Start(start) => exchange.served(start.service_tier.as_deref()),
                Event::Usage(usage) => exchange.used(usage),
                Event::Finish { finish, .. } => {
                    self.filtered |= finish.reason == FinishReason::ContentFilter && self.first_output.is_none();
                    exchange.finished(finish.reason);
                }
                Event::Delta { delta, .. } => self.text_bytes += delta.text_bytes(),
                _ => {}
            }
            if event.commits() && self.first_output.is_none() {
                self.first_output = Some(clock::now());
            }
            if matches!(event, Event::End) {
                self.terminal = true;
                continue;
            }
            if let Some(sofar) = &mut self.sofar {
                sofar.see(&event);
            }
            if let (Event::Usage(usage), Some(joint)) = (&mut event, &self.joint) {
                *usage = joint.told(usage);
            }
            let inner = &mut **exchange;
            match inner.chain.event(&mut inner.cx, event, &mut staged).await? {
                EventFlow::Continue => self.write(&mut staged, bytes),
                // The stage left a clean end; nothing of the upstream is wanted any more.
                EventFlow::Stop(_) => {
                    self.write(&mut staged, bytes);
                    exchange.finished(FinishReason::ContentFilter);
                    self.encoder.finish(bytes);
                    self.committed = true;
                    self.ended = true;
                    // Dropping the answer cancels the upstream.
                    self.answer = None;
                }
            }
        }
        Ok(())
    }

    /// What stages held back until the end, and the terminal.
    async fn flush(&mut self, exchange: &mut Exchange) -> Result<()> {
        let mut staged = Vec::new();
        let inner = &mut **exchange;
        if let EndFlow::Next(reason) = inner.chain.end(&mut inner.cx, &mut staged).await? {
            if !self.committed {
                self.next = Some(reason);
                return Ok(());
            }
            // A keep-alive has gone out: there is no other target any more, so this answer is delivered and marked.
            if let Some(response) = inner.chain.unmet(&mut inner.cx, &self.target).await? {
                inner.record.tags.push(reply::quality_unmet());
                staged.extend(unfold(&response));
            }
        }
        let mut bytes = Vec::new();
        self.write(&mut staged, &mut bytes);
        self.encoder.finish(&mut bytes);
        self.out.push(bytes.into());
        self.committed = true;
        self.ended = true;
        Ok(())
    }

    fn write(&mut self, staged: &mut Vec<Event>, bytes: &mut Vec<u8>) {
        for event in staged.drain(..).filter(|e| *e != Event::End) {
            if event.commits() {
                self.commit();
            }
            self.encoder.push(&event, bytes);
        }
    }

    fn write_keep_alive(&mut self) {
        let mut bytes = Vec::new();
        self.encoder.keep_alive(&mut bytes);
        self.told = clock::now();
        // A framing may have none.
        if !bytes.is_empty() {
            self.out.push(bytes.into());
            self.committed = true;
        }
    }

    /// The rest of the stream, from the commit to the end: the response body runs this.
    pub async fn run(
        self: Box<Self>,
        exchange: Exchange,
        sink: Sink,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let request_id = exchange.cx.id.clone();
        let principal = exchange.cx.principal.clone();
        let (mut cut, mut watch) = (pin!(principal.is_cut()), Watch::of(&principal));
        // The upstream's own error event, for a client of its format.
        let mut own = None;
        let mut live = Live { streaming: self, exchange: Some(exchange) };
        let failed = loop {
            let Live { streaming, exchange: Some(exchange) } = &mut live else { return Ok(()) };
            if exchange.keep.is_some()
                && let Some(answer) = streaming.out.iter().rev().find_map(Keep::seen)
                && let Some(keep) = exchange.keep.take()
            {
                Box::pin(keep.answered(&answer)).await;
            }
            if streaming.ended {
                exchange.landed(None);
            }
            let handed = watch.over(cut.as_mut(), streaming.hand_over(&sink)).await;
            if handed.is_ok() && streaming.ended {
                break None;
            }
            let stepped = match handed {
                Ok(()) => watch.over_pinned(cut.as_mut(), pin!(streaming.step(exchange))).await.flatten(),
                Err(cut) => Err(cut),
            };
            if let Err(error) = stepped {
                let mut error = said::named(error);
                // Nothing more is to be paid for, however slowly the client reads.
                streaming.answer = None;
                if streaming.goes_on_after(exchange, &error) {
                    let resumed = Box::pin(streaming.resume(exchange, &error, &sink));
                    match watch.over(cut.as_mut(), resumed).await.flatten() {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(second) => error = second,
                    }
                }
                // Stages may reword it; an answer in its place would come too late.
                let said = error.message.clone();
                let inner = &mut **exchange;
                Box::pin(inner.chain.error(&mut inner.cx, &mut error)).await;
                if let Way::Lane(lane) = &mut streaming.way {
                    own = lane.last_words(&error).filter(|_| error.message == said);
                }
                break Some(error);
            }
        };
        if let Some(error) = &failed {
            let told = own.unwrap_or_else(|| {
                let mut bytes = Vec::new();
                live.streaming.encoder.error(error, &request_id, &mut bytes);
                bytes.into()
            });
            live.streaming.out.push(told);
            sink.send(std::mem::take(&mut live.streaming.out)).await;
        }
        live.settle(failed);
        Ok(())
    }

    /// May another target go on with it?
    fn goes_on_after(&self, exchange: &Exchange, error: &Error) -> bool {
        let plain = self.sofar.as_ref().is_some_and(|sofar| sofar.is_plain());
        plain && !self.terminal && self.later.as_ref().is_some_and(|later| later.may_help(exchange, error))
    }

    /// Another target goes on from the text so far. `false`: none did. An error is the second stream's own.
    async fn resume(&mut self, exchange: &mut Exchange, error: &Error, sink: &Sink) -> Result<bool> {
        let (Some(mut later), Some(sofar)) = (self.later.take(), self.sofar.take()) else { return Ok(false) };
        // What was used so far has its row, and the target hears how it fared.
        self.note_usage(exchange);
        let before = exchange.size.arrived;
        if let Some((gateway, _)) = &later.by {
            exchange.broke_off(&self.target.name, error.code(), self.began, &gateway.state.estimates);
        }
        if let Some(mut flight) = self.flight.take() {
            flight.failed(error, clock::now());
        }
        self.text_bytes = 0;
        let next = resume::kept_alive(&mut *self.encoder, self.keep_alive, sink, later.go_on(exchange, &sofar)).await;
        let Some((next, echoes)) = next else { return Ok(false) };
        let Streaming { answer, way, raw, ended, target, began, flight, pace, idle, late, .. } = *next;
        let before = self.joint.as_ref().map_or(0, |joint| joint.before()) + before;
        self.joint = Some(Box::new(sofar.joint(before, echoes)));
        (self.answer, self.way, self.target, self.began) = (answer, way, target, began);
        (self.flight, self.pace, self.idle, self.late) = (flight, pace, idle, late);
        (self.heard, self.patience) = (clock::now(), clock::Patience::default());
        (self.later, self.sofar) = (Some(later), Some(sofar));
        self.pass(raw.unwrap_or_default(), exchange).await?;
        if ended && !self.ended {
            self.flush(exchange).await?;
            self.whole = true;
        }
        Ok(true)
    }

    /// Gives the client what is ready. The time that it takes to read is not the upstream's silence.
    async fn hand_over(&mut self, sink: &Sink) {
        let frames = std::mem::take(&mut self.out);
        if frames.is_empty() {
            return;
        }
        // Where stages hold nothing back, what is handed over was heard just now.
        let began = if self.holds_back { clock::now() } else { self.heard };
        sink.send(frames).await;
        self.told = clock::now();
        self.heard += self.told - began;
    }

    /// What is known of its usage, for the ledger.
    pub fn note_usage(&mut self, exchange: &mut Exchange) {
        if let Way::Lane(lane) = &mut self.way {
            self.text_bytes = lane.text_bytes();
            if let Some(usage) = lane.usage() {
                exchange.used(usage);
            }
            exchange.served(lane.service_tier());
            if let Some(reason) = lane.finish_reason() {
                exchange.finished(reason);
            }
        }
        exchange.size.arrived = tokens_of(self.text_bytes);
        exchange.size.cut |= !self.whole;
    }
}

fn too_slow() -> Error {
    let message = "the upstream is slower than `min_speed`; try again, or choose another model";
    Error::new(Kind::UpstreamTimeout, message).with_code(TOO_SLOW)
}

/// Shows events to stages that only look on.
async fn observe(events: Vec<Event>, exchange: &mut Exchange) {
    let mut unused = Vec::new();
    for event in events.into_iter().filter(|e| *e != Event::End) {
        let inner = &mut **exchange;
        let _ = inner.chain.event(&mut inner.cx, event, &mut unused).await;
        unused.clear();
    }
}

/// A stream being delivered, with its owner: when the client leaves, what arrived is counted before the exchange goes.
struct Live {
    streaming: Box<Streaming>,
    exchange: Option<Exchange>,
}

impl Live {
    fn settle(&mut self, failed: Option<Error>) {
        let Some(mut exchange) = self.exchange.take() else { return };
        self.streaming.note_usage(&mut exchange);
        if let Some(error) = &failed {
            exchange.record.error_code = Some(error.code().to_owned());
            exchange.crashed(error);
        }
        if let Some(mut flight) = self.streaming.flight.take() {
            match &failed {
                Some(error) => flight.failed(error, clock::now()),
                None => {
                    let counted = exchange.record.usage.as_ref().and_then(|usage| usage.output_tokens);
                    let lasted = self.streaming.first_output.map_or(Duration::ZERO, clock::since);
                    flight.streamed(counted.unwrap_or(exchange.size.arrived), lasted);
                    flight.succeeded();
                }
            }
        }
        let outcome: Cow<'static, str> = failed.map_or("ok".into(), |e| e.code().to_owned().into());
        exchange.attempted(&self.streaming.target.name, outcome, self.streaming.began);
        exchange.settle(200);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            self.streaming.note_usage(&mut exchange);
            exchange.attempted(&self.streaming.target.name, "client_gone", self.streaming.began);
            // The exchange's own drop hands it to the settle queue.
        }
    }
}

/// How long an upstream may take to close after its terminal, so that its connection can be used again.
const LINGER: Duration = Duration::from_secs(1);
