//! The answer of another request on its way to a client that asked the same: its events through this request's own stages and
//! encoder. The gateway drives it to its commit, the response body to its end. Nothing upstream is its own, so it costs nothing,
//! and a client that leaves ends only its own part.

use std::{pin::pin, time::Instant};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    auth::cut::Watch,
    cache::{self, Follower, Heard},
    clock,
    codec::{StreamEncoder, codec, document::Document},
    error::{Error, Kind, Result},
    exchange::Exchange,
    generated::Sink,
    model::{Event, FinishReason, fold::unfold},
    pipeline::{Candidate, EndFlow, EventFlow, StreamNeed},
    reply,
    stored::Keep,
};

/// A request that goes on in a task of its own: what it takes along.
pub struct Lead {
    pub document: Document,
    pub client: HeaderMap,
}

pub struct Following {
    follower: Follower,
    encoder: Box<dyn StreamEncoder>,
    /// Ready for the client.
    out: Vec<Bytes>,
    pub committed: bool,
    pub ended: bool,
    /// Stages may hold back what came: then the client hears that the connection lives.
    keep_alive: Option<std::time::Duration>,
    told: Instant,
    pub began: Instant,
}

impl Following {
    pub fn open(exchange: &Exchange, follower: Follower, keep_alive: std::time::Duration) -> Self {
        let holds_back = exchange.chain.stream_need() >= StreamNeed::Events;
        Following {
            follower,
            encoder: codec(exchange.cx.format).stream_encoder(&exchange.view()),
            out: Vec::new(),
            committed: false,
            ended: false,
            keep_alive: holds_back.then_some(keep_alive),
            told: clock::now(),
            began: clock::now(),
        }
    }

    /// Takes what comes next and turns it into what the client gets.
    pub async fn step(&mut self, exchange: &mut Exchange) -> Result<()> {
        let heard = match self.keep_alive {
            Some(wait) => clock::timeout_at(self.told + wait, self.follower.next()).await,
            None => Ok(self.follower.next().await),
        };
        match heard {
            Err(clock::Elapsed) => {
                let mut bytes = Vec::new();
                self.encoder.keep_alive(&mut bytes);
                self.told = clock::now();
                if !bytes.is_empty() {
                    self.out.push(bytes.into());
                    self.committed = true;
                }
                Ok(())
            }
            Ok(Heard::Event(Event::End) | Heard::Complete) => self.flush(exchange).await,
            Ok(Heard::Event(event)) => self.pass(cache::own(event), exchange).await,
            Ok(Heard::Again) if self.committed => {
                Err(Error::new(Kind::Upstream, "the answer broke off, and another one was begun; ask again"))
            }
            Ok(Heard::Again) => {
                exchange.chain.start(2);
                self.encoder = codec(exchange.cx.format).stream_encoder(&exchange.view());
                self.out.clear();
                Ok(())
            }
            Ok(Heard::Failed(error)) => Err(error.map_or_else(
                || {
                    Error::new(
                        Kind::Upstream,
                        "the request that made this answer ended before it was complete; ask again",
                    )
                },
                |error| error.copy(),
            )),
        }
    }

    async fn pass(&mut self, event: Event, exchange: &mut Exchange) -> Result<()> {
        if let Event::Finish { finish, .. } = &event {
            exchange.finished(finish.reason);
        }
        let mut staged = Vec::new();
        let inner = &mut **exchange;
        let flow = inner.chain.event(&mut inner.cx, event, &mut staged).await?;
        let mut bytes = Vec::new();
        self.write(&mut staged, &mut bytes);
        if let EventFlow::Stop(_) = flow {
            exchange.finished(FinishReason::ContentFilter);
            self.encoder.finish(&mut bytes);
            (self.committed, self.ended) = (true, true);
        }
        if !bytes.is_empty() {
            self.out.push(bytes.into());
        }
        Ok(())
    }

    /// What stages held back until the end, and the terminal.
    async fn flush(&mut self, exchange: &mut Exchange) -> Result<()> {
        let mut staged = Vec::new();
        let inner = &mut **exchange;
        if let EndFlow::Next(_) = inner.chain.end(&mut inner.cx, &mut staged).await? {
            // There is no other target for an answer that is not its own.
            if let Some(response) = inner.chain.unmet(&mut inner.cx, &Candidate::default()).await? {
                inner.record.tags.push(reply::quality_unmet());
                staged.extend(unfold(&response));
            }
        }
        let mut bytes = Vec::new();
        self.write(&mut staged, &mut bytes);
        self.encoder.finish(&mut bytes);
        self.out.push(bytes.into());
        (self.committed, self.ended) = (true, true);
        Ok(())
    }

    fn write(&mut self, staged: &mut Vec<Event>, bytes: &mut Vec<u8>) {
        for event in staged.drain(..).filter(|e| *e != Event::End) {
            self.committed |= event.commits();
            self.encoder.push(&event, bytes);
        }
    }

    /// From the commit to the end: the response body runs this.
    pub async fn run(
        mut self,
        mut exchange: Exchange,
        sink: Sink,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let principal = exchange.cx.principal.clone();
        let (mut cut, mut watch) = (pin!(principal.is_cut()), Watch::of(&principal));
        let failed = loop {
            if exchange.keep.is_some()
                && let Some(answer) = self.out.iter().rev().find_map(Keep::seen)
                && let Some(keep) = exchange.keep.take()
            {
                Box::pin(keep.answered(&answer)).await;
            }
            let frames = std::mem::take(&mut self.out);
            if !frames.is_empty() {
                let handed = watch.over(cut.as_mut(), sink.send(frames)).await;
                self.told = clock::now();
                if let Err(error) = handed {
                    break Some(error);
                }
            }
            if self.ended {
                break None;
            }
            let stepped = watch.over(cut.as_mut(), self.step(&mut exchange)).await.flatten();
            if let Err(mut error) = stepped {
                let inner = &mut *exchange;
                inner.chain.error(&mut inner.cx, &mut error).await;
                break Some(error);
            }
        };
        if let Some(error) = &failed {
            let mut bytes = Vec::new();
            self.encoder.error(error, &exchange.cx.id, &mut bytes);
            self.out.push(bytes.into());
            sink.send(std::mem::take(&mut self.out)).await;
            exchange.record.error_code = Some(error.code().to_owned());
        }
        // The time of the one that flew is not the gateway's own.
        let waited = clock::since(self.began);
        exchange.record.upstream_duration += waited;
        exchange.settle(200);
        Ok(())
    }
}
