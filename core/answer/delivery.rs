//! A stream from the commit to its end: what is ready goes to the client, a target that breaks off is followed by another
//! one where that may be, and whatever happens is counted. The response body runs it.

use std::{borrow::Cow, pin::pin, time::Duration};

use super::{Streaming, Way, resume, weight::Weight};
use crate::{
    account::estimate::tokens_of,
    auth::cut::Watch,
    clock,
    codec::said,
    error::{Error, Result},
    exchange::Exchange,
    generated::Sink,
    stored::Keep,
};

impl Streaming {
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
        let mut keeps = exchange.keep.is_some();
        let mut live = Live { streaming: self, exchange: Some(exchange) };
        let failed = loop {
            let Live { streaming, exchange: Some(exchange) } = &mut live else { return Ok(()) };
            if keeps
                && let Some(answer) = streaming.out.iter().rev().find_map(Keep::seen)
                && let Some(keep) = exchange.keep.take()
            {
                keeps = false;
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
                    streaming.encoder.went_by(lane.next_number());
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
    pub(super) fn goes_on_after(&self, exchange: &Exchange, error: &Error) -> bool {
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
        self.weight = Weight::default();
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
        if self.out.is_empty() {
            return;
        }
        // Where stages hold nothing back, what is handed over was heard just now.
        let began = if self.holds_back { clock::now() } else { self.heard };
        if self.out.capacity() > FEW {
            sink.put(std::mem::take(&mut self.out));
        } else {
            sink.put(self.out.drain(..));
        }
        sink.taken().await;
        self.told = clock::now();
        self.heard += self.told - began;
    }

    /// What is known of its usage, for the ledger.
    pub fn note_usage(&mut self, exchange: &mut Exchange) {
        if let Way::Lane(lane) = &mut self.way {
            if let Some(usage) = lane.usage() {
                exchange.used(usage);
            }
            exchange.served(lane.service_tier());
            if let Some(reason) = lane.finish_reason() {
                exchange.finished(reason);
            }
            self.weight = Weight { text_bytes: lane.text_bytes(), counted: lane.counted(), tokens: None };
        }
        let Weight { text_bytes, counted, .. } = self.weight;
        exchange.size.arrived = tokens_of(text_bytes);
        exchange.size.since = tokens_of(text_bytes.saturating_sub(counted));
        exchange.size.cut |= !self.whole;
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

/// Pieces that a stream keeps room for: events come one or two at a time.
const FEW: usize = 8;
