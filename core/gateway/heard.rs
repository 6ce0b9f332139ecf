//! 9 and 10 for one call: its upstream's head is there. A refusal becomes an error, a whole answer passes the model and the stages, and a
//! stream is driven to its commit. What is sent, and with which key, stands in `attempt.rs`.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;

use super::{Attempted, Gateway};
use crate::{
    account::estimate::tokens_of,
    answer::Streaming,
    call::{Call, Waits},
    clock,
    codec::{codec, custom, document::Document, ran, said, standin},
    error::{Result, Side},
    exchange::Exchange,
    model::{Choice, Finish, FinishReason, Format, Operation, Part, Response},
    pipeline::{ResponseFlow, StreamNeed},
    reply::{self, Reply},
    route::{Flight, Target},
    runtime::Runtime,
    transport,
};

impl Gateway {
    /// An upstream's head is there: its refusal, its whole answer, or its stream up to the commit.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one call; a struct would be used once")]
    pub(super) async fn heard(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        incoming: transport::Incoming,
        call: &Call,
        document: &Document,
        target: &Arc<Target>,
        flight: &mut Option<Flight>,
        waits: Waits,
    ) -> Result<Attempted> {
        let Waits { began, until, whole } = waits;
        exchange.upstream_answered(&incoming.headers);
        if !incoming.status.is_success() {
            let error = Box::pin(transport::refusal(incoming, target, (call.format, exchange.cx.format), until)).await;
            return Err(match &exchange.opaque {
                Some(opaque) => opaque.reword(error),
                None => error,
            });
        }
        exchange.accepted();
        if exchange.opaque.is_some() {
            return Box::pin(self.through(exchange, incoming, target, flight, waits)).await;
        }
        if document.stream() && transport::stream_of(&incoming.headers, target, call.format).is_some() {
            if let Some(bodies) = &mut exchange.record.bodies {
                bodies.begins(call.format, true);
            }
            // Boxed, as what is rare or large: a request's future is moved, and one that does not stream need not be large.
            exchange.size.most = document.output_bound().most();
            return Box::pin(self.stream(runtime, exchange, incoming, call, target, flight, waits)).await;
        }
        let limit = runtime.config.server.max_event as u64;
        // Few answers are long enough to be counted.
        let mut share = None;
        let body = {
            let mut grow = |by| share.get_or_insert_with(|| self.state.body_memory.permit()).grow(by);
            let collecting = pin!(incoming.body.collect(limit, &mut grow));
            transport::before(whole, collecting).await??
        };
        let took = clock::since(began);
        if let Some(flight) = flight {
            flight.vacate(took);
        }
        let length = body.len() as u64;
        if let Some(bodies) = &mut exchange.record.bodies {
            bodies.begins(call.format, false);
            bodies.heard(&body);
        }
        let mut outcome = match exchange.cx.operation {
            Operation::Chat if exchange.background => self.begun(exchange, target, &body).await,
            // The upstream's bytes when nobody asked for more.
            Operation::Chat
                if call.same_format && !exchange.record.stream && exchange.chain.stream_need() == StreamNeed::None =>
            {
                let seen = reply::note_facts(exchange, call.format, &body);
                if seen.is_ok() {
                    exchange.counted_or(|| said_in(call.format, &body), || document.output_bound());
                }
                let filtered = exchange.record.finish_reason == Some(FinishReason::ContentFilter.name());
                match seen {
                    Ok(()) if filtered && elsewhere_for_content(target) && is_empty(call.format, &body) => {
                        Err(said::withheld(&target.name))
                    }
                    seen => seen.map(|()| Attempted::Answered(Reply::json(body))),
                }
            }
            Operation::Chat => {
                let said = body.clone();
                let outcome = Box::pin(self.whole(exchange, call, target, body)).await;
                if outcome.is_ok() {
                    exchange.counted_or(|| said_in(call.format, &said), || document.output_bound());
                }
                outcome
            }
            _ => reply::other(exchange, document, call, body).map(Attempted::Answered),
        };
        // Only an answer that could be read speaks for the target; what went wrong is told by the caller.
        if outcome.as_ref().err().is_none_or(|e| e.side() != Side::Upstream)
            && let Some(mut flight) = flight.take()
        {
            let counted = exchange.record.usage.as_ref().and_then(|usage| usage.output_tokens);
            // A count comes sooner than any answer.
            if exchange.cx.operation != Operation::CountTokens && !exchange.background {
                let output =
                    if exchange.cx.operation == Operation::Chat { exchange.size.arrived } else { tokens_of(length) };
                flight.answered_whole(took, counted.unwrap_or(output));
            }
            flight.succeeded();
        }
        if outcome.is_ok() {
            exchange.took(&target.name, "ok", took);
        }
        if let (Ok(Attempted::Answered(reply)), Some(share)) = (&mut outcome, share) {
            reply.hold(share);
        }
        outcome
    }

    /// 9. A stream, up to its commit: until then another target may be tried.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one call; a struct would be used once")]
    async fn stream(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        incoming: transport::Incoming,
        call: &Call,
        target: &Arc<Target>,
        flight: &mut Option<Flight>,
        Waits { began, until, whole }: Waits,
    ) -> Result<Attempted> {
        let server = &runtime.config.server;
        let candidate = self.state.health.candidate(target, clock::now());
        let mut streaming = Box::new(Streaming::open(exchange, call, target, candidate, incoming.body, server, began));
        while !streaming.committed && !streaming.ended {
            // Once output arrives, a stage that holds it back has the time of a whole answer.
            let until = if streaming.first_output.is_some() { whole } else { until };
            let stepped = transport::before(until, pin!(streaming.step(exchange))).await.flatten();
            if let Err(error) = stepped {
                // Output that nobody will read is paid for, too.
                if streaming.first_output.is_some() {
                    streaming.note_usage(exchange);
                }
                return Err(error);
            }
            if let Some(reason) = &streaming.next {
                exchange.attempted(&target.name, format!("next: {reason}"), began);
                if let Some(mut flight) = flight.take() {
                    flight.answered(streaming.first_output_after());
                    flight.succeeded();
                }
                return Ok(Attempted::Next(self.state.health.candidate(target, clock::now())));
            }
        }
        if elsewhere_for_content(target) && streaming.is_withheld(call.format, &target.dialect) {
            streaming.note_usage(exchange);
            return Err(said::withheld(&target.name));
        }
        if let Some(mut flight) = flight.take() {
            flight.answered(streaming.first_output_after());
            streaming.flight = Some(flight);
        }
        let first = clock::since(exchange.cx.started);
        exchange.record.first_event.get_or_insert(first);
        Ok(Attempted::Answered(Reply::Stream(streaming)))
    }

    /// 10. A whole answer through the model and the stages.
    async fn whole(
        &self,
        exchange: &mut Exchange,
        call: &Call,
        target: &Arc<Target>,
        body: Bytes,
    ) -> Result<Attempted> {
        let format = call.format;
        // An upstream that does not stream may still answer a client that asked for a stream.
        let stream = exchange.record.stream;
        let mut response = codec(format).decode_response(&body)?;
        if !call.same_format {
            ran::translate(&mut response, exchange.cx.format);
        }
        custom::restore(&call.customs, &mut response);
        if call.stands_in {
            standin::restore(&mut response);
        }
        let came = (call.same_format && !stream).then(|| response.clone());
        if let Some(usage) = &response.usage {
            exchange.used(usage);
        }
        exchange.served(response.service_tier.as_deref());
        if elsewhere_for_content(target) && says_nothing(&response) {
            exchange.finished(FinishReason::ContentFilter);
            return Err(said::withheld(&target.name));
        }
        let candidate = self.state.health.candidate(target, clock::now());
        let inner = &mut **exchange;
        let flow = inner.chain.response(&mut inner.cx, &candidate, &mut response).await?;
        if let Some(finish) = response.choices.first().and_then(|c| c.finish.as_ref()) {
            exchange.finished(finish.reason);
        }
        if let ResponseFlow::Next(reason) = flow {
            exchange.cx.trace.passed_over(target, &format!("next: {reason}"));
            return Ok(Attempted::Next(candidate));
        }
        // What no stage changed goes on as it came.
        if came.is_some_and(|came| came == response) {
            return Ok(Attempted::Answered(Reply::json(body)));
        }
        reply::in_shape(exchange.cx.format, &response, &exchange.view(), stream).map(Attempted::Answered)
    }
}

/// Does its alias name others for content that this provider does not allow? Otherwise an answer that is empty for its filter goes
/// to the client as it is.
fn elsewhere_for_content(target: &Target) -> bool {
    target.care.as_ref().is_some_and(|care| !care.content_failover.is_empty())
}

/// Bytes of text in a whole answer that nobody counted; one that cannot be read is nothing but text.
fn said_in(format: Format, body: &Bytes) -> u64 {
    codec(format).decode_response(body).map_or(body.len() as u64, |response| response.text_bytes())
}

/// The same of an answer that nobody had to read so far.
fn is_empty(format: Format, body: &Bytes) -> bool {
    codec(format).decode_response(body).is_ok_and(|response| says_nothing(&response))
}

/// A content filter ended it, and there is nothing in it.
fn says_nothing(response: &Response) -> bool {
    let empty = |part: &Part| matches!(part, Part::Text(text) if text.text.trim().is_empty());
    let nothing = |choice: &Choice| choice.finish.as_ref().is_some_and(is_filter) && choice.parts.iter().all(empty);
    !response.choices.is_empty() && response.choices.iter().all(nothing)
}

fn is_filter(finish: &Finish) -> bool {
    finish.reason == FinishReason::ContentFilter
}
