//! An untranslated answer on its way to the client: its bytes as they come, looked over for what was used. `gateway.rs` drives
//! it until it may no longer fail over, the response body drives it to the end. A short answer is whole before its head goes
//! out; a long one streams and is never held.

use std::{
    borrow::Cow,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    Answers,
    batches::{self, Ended},
};
use crate::{
    account::{Attempt, estimate::tokens_of},
    auth::cut::Watch,
    codec::{codec, opaque, skim::Skim},
    error::{Error, Kind, Result},
    exchange::Exchange,
    generated::Sink,
    model::{Format, Operation},
    route::{Flight, Target},
    transport::Incoming,
    upstream::Answer,
};

pub struct Through {
    pub status: StatusCode,
    /// What the client is told of the body.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    answer: Option<Answer>,
    kind: Content,
    skim: Skim,
    /// Ready for the client, or held until it may be.
    out: Vec<Bytes>,
    held: usize,
    /// It must be whole before anything goes out, and no longer than this.
    whole: Option<usize>,
    /// The head may go out.
    pub committed: bool,
    pub ended: bool,
    idle: Duration,
    bytes: u64,
    format: Format,
    target: Arc<str>,
    pub began: Instant,
    first: Option<Instant>,
    pub flight: Option<Flight>,
    /// The answer is a batch that is over.
    pub batch: Option<Ended>,
}

/// What its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Json,
    Events,
    /// Sound, subtitles, files.
    Other,
}

impl Through {
    /// `began`: when the call was sent.
    pub fn open(incoming: Incoming, target: &Target, answers: Answers, began: Instant) -> Through {
        let Incoming { status, headers, body, .. } = incoming;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "text/event-stream" => Content::Events,
            kind if kind == "application/json" || kind.ends_with("+json") => Content::Json,
            _ => Content::Other,
        };
        let must = match answers {
            Answers::Ids(_) => true,
            Answers::Ranking => target.provider.lists(),
            Answers::Through => false,
        };
        Through {
            status,
            headers: told(&headers),
            answer: Some(body),
            kind,
            skim: Skim::new(kind == Content::Events, opaque::FIELDS),
            out: Vec::new(),
            held: 0,
            whole: must.then_some(LONGEST),
            committed: false,
            ended: false,
            idle: target.timeouts.idle,
            bytes: 0,
            format: target.provider.format,
            target: target.name.clone(),
            began,
            first: None,
            flight: None,
            batch: None,
        }
    }

    pub fn first_output_after(&self) -> Duration {
        self.first.map_or(self.began.elapsed(), |at| at.saturating_duration_since(self.began))
    }

    /// Takes the next piece. Before the commit the caller's deadline is the only clock; afterwards the idle timeout is.
    pub async fn step(&mut self, operation: Operation) -> Result<()> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let piece = if self.committed {
            match tokio::time::timeout(self.idle, answer.frame()).await {
                Ok(piece) => piece,
                Err(_) => {
                    let secs = self.idle.as_secs_f32();
                    let message =
                        format!("the upstream sent nothing for {secs} s; try again, or raise `timeouts.idle`");
                    return Err(Error::new(Kind::UpstreamTimeout, message));
                }
            }
        } else {
            answer.frame().await
        };
        let Some(piece) = piece.transpose()? else { return self.end(operation) };
        self.first.get_or_insert_with(Instant::now);
        self.bytes += piece.len() as u64;
        if self.kind != Content::Other {
            self.skim.push(&piece);
        }
        self.held += piece.len();
        self.out.push(piece);
        match self.whole {
            Some(limit) if self.held > limit => {
                Err(Error::new(Kind::Upstream, format!("the upstream's answer is longer than {limit} bytes")))
            }
            Some(_) => Ok(()),
            None => {
                self.committed |= self.kind != Content::Json || self.held > SHORT;
                Ok(())
            }
        }
    }

    /// The upstream closed: is that all?
    fn end(&mut self, operation: Operation) -> Result<()> {
        self.answer = None;
        let died = |what| Error::new(Kind::Upstream, what).with_code("upstream_disconnected");
        let known = operation != Operation::Passthrough;
        if self.kind == Content::Json && known && !self.skim.whole() {
            return Err(died("the upstream's answer is no JSON, or was cut off"));
        }
        // Such streams end with an event that says so, with the last of their parts, or with an error.
        let last = self.skim.text("type").unwrap_or_default();
        let over = last.ends_with(".completed")
            || last.ends_with(".done")
            || last == "error"
            || self.skim.field("error").is_some();
        if self.kind == Content::Events && known && !over {
            return Err(died("the upstream's stream ended before its last event"));
        }
        self.committed = true;
        self.ended = true;
        Ok(())
    }

    /// All of a short answer.
    pub fn body(&mut self) -> Bytes {
        let mut pieces = std::mem::take(&mut self.out);
        if pieces.len() <= 1 {
            return pieces.pop().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.held);
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }

    /// What is not handed on yet.
    pub fn ready(&self) -> impl Iterator<Item = &Bytes> {
        self.out.iter()
    }

    /// Other bytes in its place.
    pub fn replace(&mut self, body: Bytes) {
        self.held = body.len();
        self.out = vec![body];
    }

    /// What it used, as far as it came.
    pub fn note(&self, exchange: &mut Exchange) {
        let asked = exchange.opaque.as_ref().map(|o| o.asked).unwrap_or_default();
        let operation = exchange.cx.operation;
        if let Some(usage) = opaque::usage(self.format, operation, &self.skim, asked) {
            exchange.used(&usage);
        }
        let text = matches!(operation, Operation::Transcription | Operation::Translation | Operation::Passthrough);
        let arrived = if text && self.kind != Content::Other { tokens_of(self.bytes) } else { 0 };
        (exchange.size.arrived, exchange.size.since) = (arrived, arrived);
    }

    /// The rest, from the commit to the end: the response body runs this.
    pub async fn run(self, exchange: Exchange, sink: Sink) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (view, id) = (exchange.view(), exchange.cx.id.clone());
        let principal = exchange.cx.principal.clone();
        let (mut cut, mut watch) = (pin!(principal.is_cut()), Watch::of(&principal));
        let mut live = Live { through: self, exchange: Some(exchange), charges: Vec::new() };
        let failed = loop {
            let Live { through, exchange: Some(exchange), .. } = &mut live else { return Ok(()) };
            if let Some(owed) = exchange.opaque.as_mut().and_then(|opaque| opaque.owed.as_mut()) {
                through.out.iter().for_each(|piece| owed.push(piece));
            }
            watch.over(cut.as_mut(), sink.send(std::mem::take(&mut through.out))).await?;
            if through.ended {
                break None;
            }
            if let Err(error) = watch.over(cut.as_mut(), through.step(exchange.cx.operation)).await.flatten() {
                break Some(error);
            }
        };
        let Some(error) = failed else {
            if let Live { through, exchange: Some(exchange), charges } = &mut live {
                *charges = batches::owed(through, exchange).await;
            }
            live.settle(None);
            return Ok(());
        };
        if live.through.kind == Content::Events {
            let format = live.exchange.as_ref().map_or(Format::OpenaiChat, |e| e.cx.format);
            let mut bytes = Vec::new();
            codec(format).stream_encoder(&view).error(&error, &id, &mut bytes);
            sink.send([bytes.into()]).await;
            live.settle(Some(error));
            return Ok(());
        }
        // There is no saying it in the answer: the connection ends, so that nobody takes half for whole.
        let told = error.copy();
        live.settle(Some(error));
        Err(told.into())
    }
}

/// Of an upstream's head what a client needs for the body.
fn told(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let plain = HeaderValue::from_static("application/octet-stream");
    let kind = headers.get(header::CONTENT_TYPE).cloned().unwrap_or(plain);
    let name = headers.get(header::CONTENT_DISPOSITION).cloned();
    [(header::CONTENT_TYPE, kind)].into_iter().chain(name.map(|n| (header::CONTENT_DISPOSITION, n))).collect()
}

/// An answer being delivered, with its owner: when the client leaves, what arrived is counted before the exchange goes.
struct Live {
    through: Through,
    exchange: Option<Exchange>,
    /// For a batch that turned out to be over.
    charges: Vec<Attempt>,
}

impl Live {
    fn settle(&mut self, failed: Option<Error>) {
        let Some(mut exchange) = self.exchange.take() else { return };
        self.through.note(&mut exchange);
        exchange.size.cut |= failed.is_some();
        if let Some(mut flight) = self.through.flight.take() {
            match &failed {
                Some(error) => flight.failed(error, Instant::now()),
                None => flight.succeeded(),
            }
        }
        if let Some(error) = &failed {
            exchange.record.error_code = Some(error.code().to_owned());
        }
        let outcome: Cow<'static, str> = failed.map_or("ok".into(), |e| e.code().to_owned().into());
        exchange.attempted(&self.through.target, outcome, self.through.began);
        exchange.charged(std::mem::take(&mut self.charges));
        let status = self.through.status.as_u16();
        exchange.settle(status);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            self.through.note(&mut exchange);
            exchange.size.cut = true;
            exchange.attempted(&self.through.target, "client_gone", self.through.began);
            // The exchange's own drop hands it to the settle queue.
        }
    }
}

/// Of an answer that must be whole: a description, or a ranking.
const LONGEST: usize = 4 << 20;

/// A JSON answer up to this is whole before its head goes out: it can still fail over, and its cost is told.
const SHORT: usize = 64 << 10;
