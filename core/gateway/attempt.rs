//! 8 to 10 for one target: what it is asked, in its own words and with its own keys, and its answer up to where that may go out.
//! The order of targets, and what becomes of those that fail, stand in `gateway.rs`.

use std::{pin::pin, sync::Arc, time::Instant};

use http::HeaderMap;

use super::{
    Attempted, Gateway,
    hedge::{Beside, Race},
    turns::is_copy,
};
use crate::{
    call::{Call, Waits},
    clock,
    codec::{Field, document::Document, said},
    error::{Error, Result},
    exchange::Exchange,
    limit::Reserved,
    media,
    model::Operation,
    pipeline::{AttemptFlow, Phase, StreamNeed},
    provider::KeyChoice,
    quota::{self, Taken},
    reply,
    reserve::{self, Right, reserve},
    route::{self, Cause, Flight, Target, cause::Keys, retry},
    runtime::Runtime,
    transport::{self, Sealed},
};

impl Gateway {
    /// One target: an attempt, and more after a wait where that may help. `rest`: what could be tried instead.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one visit; a struct would be used once")]
    pub(super) async fn visit(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
        target: &Arc<Target>,
        flight: Flight,
        rest: &[Arc<Target>],
    ) -> Result<Attempted> {
        let (mut flight, mut failed, mut tries) = (Some(flight), None, 0);
        loop {
            let result = self.attempt(runtime, exchange, client, document, target, &mut flight, rest).await;
            let error = match (result, failed) {
                (Err(error), _) | (Ok(Attempted::Skipped), Some(error)) => error,
                (result, _) => return result,
            };
            let now = clock::now();
            let others = || rest.iter().any(|t| self.state.health.is_healthy(&t.name, now));
            let left = exchange.cx.left(target.timeouts.whole, now);
            let more = (exchange.cx.attempt as usize) < route::MAX_ATTEMPTS && !exchange.body_is_gone();
            let more = more && !is_copy(exchange);
            let Some(flight) = flight.as_ref().filter(|_| more) else {
                return Err(error);
            };
            let Some(wait) = retry::again(target, flight, &error, tries, others, left) else { return Err(error) };
            exchange.cx.trace.note("retry", &format!("{} again in {} ms", target.name, wait.as_millis()));
            // A client that leaves drops this future: the wait, the permit and the flight with it.
            clock::sleep(wait).await;
            if !flight.still_closed() {
                return Err(error);
            }
            (failed, tries) = (Some(error), tries + 1);
        }
    }

    /// One attempt: stages, the request in the target's own words, then its keys in turn for as long as they are refused.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one attempt; a struct would be used once")]
    pub(super) async fn attempt(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
        target: &Arc<Target>,
        flight: &mut Option<Flight>,
        rest: &[Arc<Target>],
    ) -> Result<Attempted> {
        if exchange.cx.operation == Operation::CountTokens
            && !target.provider.counts(target.provider.speaks(exchange.cx.format), &target.model)
        {
            return Ok(Attempted::Answered(reply::estimate(exchange, document)));
        }
        if exchange.cx.operation == Operation::Compact {
            target.provider.must_compact(exchange.cx.format)?;
        }
        if document.runs_in_background() {
            begins_in_background(exchange, target)?;
        }
        if media::may_lack(document, target) {
            let (fetcher, memory) = (self.state.transport.fetcher(), &self.state.body_memory);
            let settings = &runtime.config.media;
            Box::pin(media::bring(exchange, document, target, fetcher, memory, settings)).await?;
        }
        // Few aliases hedge.
        let hedge = match target.care {
            Some(_) => self.hedges(runtime, exchange, document, target, rest),
            None => None,
        };
        let next = exchange.cx.attempt + 1;
        // A stream that goes on is one answer: stages keep what they hold of it.
        if !exchange.resuming {
            exchange.chain.start(next);
        }
        // A stage that changes the request for this target works on its own copy.
        let mut own = exchange.chain.wants(Phase::Attempt).then(|| document.clone());
        let mut extra = HeaderMap::new();
        if let Some(own) = &mut own {
            let candidate = self.state.health.candidate(target, clock::now());
            let inner = &mut **exchange;
            inner.cx.attempt = next;
            let flow = inner.chain.attempt(&mut inner.cx, &candidate, own, &mut extra).await;
            inner.cx.attempt = next - 1;
            if flow? == AttemptFlow::Skip {
                return Ok(Attempted::Skipped);
            }
        }
        let seen = own.as_ref().unwrap_or(document);
        let Right { reserved, max_tokens } = {
            let limits = (&self.state.limits, &runtime.config.rules);
            reserve(exchange, seen, target, &self.state.estimates, limits).await?
        };
        let quotas = &self.state.health.quotas;
        let mut now = clock::now();
        let room = quotas.view_of_any(now).and_then(|view| view.room(target.at()));
        let shorter = room.and_then(|room| reserve::shortened(exchange, seen, target, &self.state.estimates, room));
        let max_tokens = match (max_tokens, shorter) {
            (Some(own), Some(shorter)) => Some(own.min(shorter)),
            (own, shorter) => own.or(shorter),
        };
        if let Some(tokens) = max_tokens {
            own.get_or_insert_with(|| document.clone()).edit(Field::MaxTokens)?.max_tokens = Some(tokens);
        }
        exchange.max_tokens = max_tokens;
        let mut right = Some(reserved);
        // What others are asked beside is what it was before a stage changed it for this target.
        let (document, unchanged) = match &mut own {
            Some(own) => (own, Some(&*document)),
            None => (document, None),
        };
        let mut call = match &exchange.opaque {
            Some(opaque) => Call::opaque(&exchange.cx, opaque, document, target, client, extra)?,
            None => Call::prepare(&exchange.cx, document, exchange.wire.single, target, client, extra)?,
        };
        if exchange.resuming
            && let Some(elsewhere) = target.provider.prefill()
        {
            call.url = elsewhere?;
        }
        exchange.record.target = Some(target.name.clone());
        call.refuse_dropping(target)?;
        if !call.same_format && exchange.echo.is_none() {
            exchange.echo = document.echo();
        }
        exchange.dropped = call.dropped.clone();
        let mut tried = Vec::new();
        let (mut last, mut renewed): (Option<Error>, bool) = (None, false);
        loop {
            let (choice, granted) = match self.key_at_once(exchange, document, target, &tried, now) {
                (KeyChoice::Resting(wait), _) => return Err(last.unwrap_or_else(|| route::keys_rest(target, wait))),
                (KeyChoice::Refused(_), _) => return Err(route::keys_refused(target)),
                (choice, granted) => (choice, granted),
            };
            let key = key_of(choice);
            let granted = match granted {
                Some(granted) => granted,
                None => {
                    let granted = Box::pin(self.grant(exchange, document, target, key)).await;
                    now = clock::now();
                    granted
                }
            };
            let taken = match granted {
                Ok(taken) => taken,
                // Another key may have something left.
                Err(refused) if refused.key && key.is_some() => {
                    tried.extend(key);
                    last.get_or_insert_with(|| route::denied(target, &refused));
                    now = clock::now();
                    continue;
                }
                Err(refused) => {
                    return Err(last.unwrap_or_else(|| route::denied(target, &refused)));
                }
            };
            let right = match right.take() {
                Some(right) => right,
                None => {
                    let limits = (&self.state.limits, &runtime.config.rules);
                    let reserved = reserve(exchange, document, target, &self.state.estimates, limits).await?.reserved;
                    now = clock::now();
                    reserved
                }
            };
            exchange.cx.attempt += 1;
            let taken = taken.map(|taken| taken.sent(exchange.cx.attempt));
            if let Some(taken) = taken {
                // Nearly every request makes one attempt.
                exchange.taken.reserve_exact(1);
                exchange.taken.push(taken);
            }
            let (began, number) = (now, exchange.cx.attempt);
            exchange.begins(target, document, began);
            let proof = (choice, right);
            let sent = match hedge {
                None if exchange.cx.operation == Operation::Realtime => {
                    let opened = self.session(runtime, exchange, &mut call, proof, document, target, flight);
                    Sent::Session(Box::pin(opened).await)
                }
                None => {
                    let waits = waits(exchange, target, document.stream(), began);
                    Sent::Call(self.send(exchange, &mut call, proof, target, waits).await)
                }
                Some(hedge) => {
                    let beside = Beside { hedge, rest, client, document: unchanged.unwrap_or(document) };
                    // In a box, written there: everybody's future would be a sixth larger.
                    let room = Box::new_uninit();
                    let race = self.race(runtime, exchange, &mut call, proof, document, target, flight, &beside);
                    match Box::into_pin(Box::write(room, race)).await {
                        Race::Alone(sent) => Sent::Call(sent),
                        Race::Over(result) => return result,
                    }
                }
            };
            let result = match sent {
                Sent::Call(Ok((incoming, waits))) => {
                    self.heard(runtime, exchange, incoming, &call, document, target, flight, waits).await
                }
                Sent::Call(Err(error)) => Err(error),
                Sent::Session(result) => result,
            };
            let result = result.map_err(said::named);
            self.quota_heard(exchange, target, key, number, result.as_ref().err());
            let Err(error) = result else {
                if let KeyChoice::Key(index) = choice {
                    self.state.keys.accepted(&target.provider, index, &target.model);
                }
                return result;
            };
            exchange.failed(&target.name, error.code().to_owned(), began, &self.state.estimates);
            if exchange.cx.operation == Operation::CountTokens && target.provider.counts_not(&error) {
                return Ok(Attempted::Answered(reply::estimate(exchange, document)));
            }
            if let Some(flight) = flight {
                flight.failed(&error, clock::now());
            }
            // Another key of the same provider may be welcome.
            let another = match (choice, key_status(&error), &error.upstream) {
                (KeyChoice::Key(index), Some(status), Some(fault)) => {
                    tried.push(index);
                    let (now, wait) = (clock::now(), error.retry_after);
                    self.state.keys.refused(&target.provider, index, &target.model, status, wait, now)
                        && tried.len() < target.provider.keys()
                        // What is forbidden may be the caller's doing, again and again: that counts as a retry.
                        && (fault.status != 403 || flight.as_ref().is_some_and(Flight::may_retry))
                }
                // A token may have been revoked before its end.
                (KeyChoice::Open, _, Some(fault)) if !renewed && matches!(fault.status, 401 | 403) => {
                    renewed = self.state.tokens.refused(&target.provider);
                    renewed
                }
                _ => false,
            };
            if !another || exchange.cx.attempt as usize >= route::MAX_ATTEMPTS || exchange.body_is_gone() {
                return Err(error);
            }
            (last, now) = (Some(error), clock::now());
        }
    }

    /// What an attempt found out about its provider's quotas.
    pub(super) fn quota_heard(
        &self,
        exchange: &Exchange,
        target: &Target,
        key: Option<usize>,
        number: u32,
        error: Option<&Error>,
    ) {
        let mine = exchange.taken.iter().rev().find(|taken| taken.attempt() == number);
        self.state.health.quotas.heard(target.at(), key, mine, error);
    }

    /// The next key for an attempt at `now`, and what the provider grants with it; `None`: somebody has to be waited for.
    pub(super) fn key_at_once(
        &self,
        exchange: &mut Exchange,
        document: &Document,
        target: &Arc<Target>,
        tried: &[usize],
        now: Instant,
    ) -> (KeyChoice, Option<Granted>) {
        let quotas = &self.state.health.quotas;
        let view = quotas.view_of_any(now);
        let closed = |index| view.as_ref()?.key_rests(target.at(), index);
        let choice = self.state.keys.pick_open(&target.provider, &target.model, tried, now, &closed);
        let granted = match (&view, choice) {
            (Some(view), KeyChoice::Open | KeyChoice::Key(_)) if exchange.cx.operation.spends() => {
                let mut need = || reserve::at_most(exchange, document, target, &self.state.estimates);
                quotas.take_at_once(view, target.at(), key_of(choice), &mut need)
            }
            _ => Some(Ok(None)),
        };
        (choice, granted)
    }

    /// What the provider grants for one more attempt with this key.
    pub(super) async fn grant(
        &self,
        exchange: &mut Exchange,
        document: &Document,
        target: &Arc<Target>,
        key: Option<usize>,
    ) -> Granted {
        let need = || reserve::at_most(exchange, document, target, &self.state.estimates);
        self.state.health.quotas.take(target.at(), key, need).await
    }

    /// One call: sign, send, and wait for the head of its answer.
    async fn send(
        &self,
        exchange: &mut Exchange,
        call: &mut Call,
        proof: (KeyChoice, Reserved),
        target: &Arc<Target>,
        waits: Waits,
    ) -> Result<(transport::Incoming, Waits)> {
        let outgoing = self.signed(call, target, proof, waits.until).await?;
        let sending = pin!(self.state.transport.send(outgoing, target));
        let sent = transport::before(waits.until, sending).await?;
        // A body that broke off while it streamed is its client's doing.
        let incoming = sent.map_err(|e| exchange.body_fault().unwrap_or(e))?;
        Ok((incoming, waits))
    }

    /// The call with its proof on it: a key, or a token that may have to be fetched.
    pub(super) async fn signed(
        &self,
        call: &mut Call,
        target: &Target,
        (choice, right): (KeyChoice, Reserved),
        until: Instant,
    ) -> Result<Sealed> {
        let granted = match target.provider.source {
            None => None,
            Some(_) => transport::before(until, Box::pin(self.state.tokens.of(&target.provider))).await??,
        };
        call.sign(target, choice, granted.as_ref(), right)
    }
}

/// What quotas say to one more attempt.
pub(super) type Granted = std::result::Result<Option<Taken>, quota::Refused>;

/// What came of a call.
enum Sent {
    Call(Result<(transport::Incoming, Waits)>),
    Session(Result<Attempted>),
}

/// Who makes an answer in the background, and that no stage is passed by which looks at answers. Before anything is spent.
fn begins_in_background(exchange: &mut Exchange, target: &Target) -> Result<()> {
    target.provider.must_run_in_background(exchange.cx.format)?;
    if exchange.chain.stream_need() != StreamNeed::None {
        let text = "a stage looks at answers here, and would not see one that is made in the background: leave `background` out";
        return Err(Error::unsupported("background", text));
    }
    exchange.background = true;
    Ok(())
}

pub(super) fn key_of(choice: KeyChoice) -> Option<usize> {
    if let KeyChoice::Key(index) = choice { Some(index) } else { None }
}

/// The clocks of a call to this target that began then.
pub(super) fn waits(exchange: &Exchange, target: &Target, stream: bool, began: Instant) -> Waits {
    let by = |wait| exchange.cx.by(began + wait);
    let whole = by(target.timeouts.whole);
    let until = if stream { whole.min(by(target.timeouts.first_event)) } else { whole };
    Waits { began, until, whole }
}

/// What a failure says of the key that was shown, in the status that says so; `None`: nothing. Not every vendor says 402 where no
/// quota is left, or 401 of a key that is none.
pub(super) fn key_status(error: &Error) -> Option<u16> {
    let cause = Cause::of(error);
    let fault = error.upstream.as_ref().filter(|_| cause.rule().key == Keys::Another)?;
    Some(match (cause, fault.status) {
        (Cause::Quota, _) => 402,
        (Cause::Auth, 403) => 403,
        (Cause::Auth, _) => 401,
        (_, status) => status,
    })
}
