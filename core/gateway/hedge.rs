//! 8 for a target that takes its time: another one is asked beside it, and the first to have output ready is heard; the others are
//! cancelled and accounted. Here stands the race; what is heard goes the way of every answer (`attempt.rs`, `heard`).
//!
//! Until one has won nothing of an answer touches the exchange: a runner only sends, and reads as far as the first output.
//! Who does not hedge does not come here, and the future of who does lies in a box.

mod look;

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Instant};

use futures_util::future::BoxFuture;
use http::HeaderMap;

use self::look::Look;
use super::{Attempted, Gateway, turns::is_copy};
use crate::{
    call::{Call, Waits},
    clock,
    codec::{document::Document, said},
    config::{After, Hedge, Rules},
    error::{Error, Kind, Result, Side},
    exchange::Exchange,
    limit::Reserved,
    model::{Operation, Tool},
    pipeline::{AttemptFlow, Phase},
    provider::KeyChoice,
    reserve::{Right, reserve},
    route::{self, Flight, Target},
    runtime::Runtime,
    transport::Incoming,
};

/// What a race needs beside the attempt that begins it.
pub(super) struct Beside<'a> {
    pub hedge: Hedge,
    /// Who may be asked, in order.
    pub rest: &'a [Arc<Target>],
    pub client: &'a HeaderMap,
    /// The request before the first target's own changes.
    pub document: Document,
}

/// How it ended.
pub(super) enum Race {
    /// Nobody else is under way: this is the first target's own end, and the way goes on as if it had run alone.
    Alone(Result<Attempted>),
    /// All that ran is accounted.
    Over(Result<Attempted>),
}

/// One that was asked.
struct Runner<'a> {
    target: Arc<Target>,
    number: u32,
    waits: Waits,
    choice: KeyChoice,
    coming: BoxFuture<'a, Result<Incoming>>,
    /// `None`: the first, whose call and request lie with the attempt that began it.
    own: Option<Box<Own>>,
}

struct Own {
    call: Call,
    document: Document,
    flight: Flight,
    max_tokens: Option<u64>,
}

impl Gateway {
    /// May a second target be asked for this request at all? Only what leaves nothing behind: an answer that nobody hears must
    /// not have done anything.
    pub(super) fn hedges<'a>(
        &self,
        runtime: &Runtime,
        exchange: &Exchange,
        document: &mut Document,
        target: &Target,
        rest: &'a [Arc<Target>],
        client: &'a HeaderMap,
    ) -> Option<Box<Beside<'a>>> {
        let hedge = target.care.as_ref()?.hedge?;
        if exchange.opaque.is_some() || document.runs_in_background() || exchange.hedged_already() || is_copy(exchange)
        {
            return None;
        }
        let why = alone(&runtime.config.rules, exchange.cx.operation, document, target, rest);
        if why.is_some() {
            return None;
        }
        Some(Box::new(Beside { hedge, rest, client, document: document.clone() }))
    }

    /// The attempt at `target` that `call` makes, and others beside it when it takes its time.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one call; a struct would be used once")]
    pub(super) async fn race(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        call: &mut Call,
        (choice, right): (KeyChoice, Reserved),
        document: &Document,
        target: &Arc<Target>,
        flight: &mut Option<Flight>,
        beside: &mut Beside<'_>,
    ) -> Race {
        let stream = document.stream();
        let begins = begins(runtime, exchange, call, target, stream);
        let first = match self.runner(call, (choice, right), target, begins).await {
            Ok(first) => first,
            Err(error) => return Race::Alone(Err(error)),
        };
        let after = match beside.hedge.after {
            // One race a request: another key of the first target is no second chance for the others.
            _ if exchange.hedged_already() => None,
            After::Time(time) => Some(time),
            After::Percentile(percent) => self.state.waits.percentile(&target.name, stream, percent),
        };
        let mut runners = vec![first];
        let (mut errors, mut asked, mut others) = (Vec::new(), 0, beside.rest.iter());
        loop {
            let next = after.filter(|_| asked < beside.hedge.max).map(|after| {
                let last = runners.last().map_or_else(clock::now, |runner| runner.waits.began);
                last + after
            });
            let Some((at, came)) = first_of(&mut runners, next).await else {
                asked += 1;
                match self.beside(runtime, exchange, flight, &beside.document, beside.client, &mut others).await {
                    Some(runner) => runners.push(runner),
                    // Nobody can be asked: what runs is waited for.
                    None => asked = beside.hedge.max,
                }
                continue;
            };
            let runner = runners.swap_remove(at);
            match came {
                Ok(incoming) => {
                    if let After::Percentile(_) = beside.hedge.after {
                        self.state.waits.note(&runner.target.name, stream, clock::since(runner.waits.began));
                    }
                    self.cancel(exchange, &runner, runners, stream);
                    return match runner.own {
                        None => {
                            let waits = runner.waits;
                            let room = Box::new_uninit();
                            let heard = self.heard(runtime, exchange, incoming, call, document, target, flight, waits);
                            Race::Alone(Box::into_pin(Box::write(room, heard)).await)
                        }
                        Some(_) => {
                            // The first one's flight ends: it was neither well nor ill.
                            *flight = None;
                            Race::Over(self.won(runtime, exchange, runner, incoming).await)
                        }
                    };
                }
                Err(error) => {
                    let error = said::named(error);
                    if runners.is_empty() && errors.is_empty() && runner.own.is_none() {
                        return Race::Alone(Err(error));
                    }
                    self.failed(exchange, runner, &error, flight);
                    errors.push(error);
                    if runners.is_empty() {
                        *flight = None;
                        return Race::Over(Err(route::most_telling(errors)));
                    }
                }
            }
        }
    }

    /// A call that is sent at once, and read up to its first output.
    async fn runner<'a>(
        &'a self,
        call: &mut Call,
        (choice, right): (KeyChoice, Reserved),
        target: &Arc<Target>,
        (number, waits, look): (u32, Waits, Look),
    ) -> Result<Runner<'a>> {
        let sealed = self.signed(call, target, (choice, right), waits.until).await?;
        let (room, memory) = (Box::new_uninit(), &self.state.body_memory);
        let coming = Box::into_pin(Box::write(room, look.at(&self.state.transport, memory, sealed, target.clone())));
        Ok(Runner { target: target.clone(), number, waits, choice, coming, own: None })
    }

    /// The next target beside those that run, if one may be asked: one of the request's four attempts, paid by the first one's
    /// budget of retries, with its own stages, limits and money.
    async fn beside<'a>(
        &'a self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        first: &Option<Flight>,
        document: &Document,
        client: &HeaderMap,
        others: &mut std::slice::Iter<'_, Arc<Target>>,
    ) -> Option<Runner<'a>> {
        let rules = &runtime.config.rules;
        for target in others {
            let now = clock::now();
            let late = exchange.cx.deadline.is_some_and(|at| at <= now);
            if exchange.cx.attempt as usize >= route::MAX_ATTEMPTS || late {
                return None;
            }
            let health = &self.state.health;
            let fit = health.is_healthy(&target.name, now) && health.closed(target).is_none();
            if !fit || rules.providers.contains_key(&*target.provider.name) {
                continue;
            }
            // Beside a call that runs nobody waits for a place.
            let Ok(place) = self.room(&exchange.cx, target) else { continue };
            let Ok(flight) = self.state.health.enter(target, now) else { continue };
            let flight = flight.at(place);
            if !first.as_ref().is_some_and(Flight::may_retry) {
                exchange.cx.trace.note("hedge", "the retry budget is spent: no second target is asked");
                return None;
            }
            match Box::pin(self.prepared(runtime, exchange, document, client, target, flight)).await {
                Ok(Some(runner)) => {
                    exchange.cx.trace.note("hedge", &format!("{} is asked beside", target.name));
                    return Some(runner);
                }
                Ok(None) => exchange.cx.trace.passed_over(target, "skipped by a stage"),
                Err(error) => exchange.cx.trace.passed_over(target, error.code()),
            }
        }
        None
    }

    /// Everything that an attempt has before it is sent. `None`: a stage skips this target.
    async fn prepared<'a>(
        &'a self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        document: &Document,
        client: &HeaderMap,
        target: &Arc<Target>,
        flight: Flight,
    ) -> Result<Option<Runner<'a>>> {
        let next = exchange.cx.attempt + 1;
        let mut own = document.clone();
        let mut extra = HeaderMap::new();
        if exchange.chain.wants(Phase::Attempt) {
            let candidate = self.state.health.candidate(target, clock::now());
            let inner = &mut **exchange;
            inner.chain.start(next);
            inner.cx.attempt = next;
            let flow = inner.chain.attempt(&mut inner.cx, &candidate, &mut own, &mut extra).await;
            inner.cx.attempt = next - 1;
            if flow? == AttemptFlow::Skip {
                return Ok(None);
            }
        }
        let quotas = &self.state.health.quotas;
        let now = clock::now();
        let closed = |index| quotas.key_rests(target.at(), index, now);
        let choice = match self.state.keys.pick_open(&target.provider, &target.model, &[], now, &closed) {
            KeyChoice::Resting(wait) => return Err(route::keys_rest(target, wait)),
            KeyChoice::Refused(_) => return Err(route::keys_refused(target)),
            choice => choice,
        };
        let taken = match self.grant(exchange, &own, target, key_of(choice), now).await {
            Ok(taken) => taken,
            Err(refused) => return Err(route::spent(target, Some(refused.wait), refused.unpaid)),
        };
        exchange.stand_by();
        let limits = (&self.state.limits, &runtime.config.rules);
        let right = match reserve(exchange, &own, target, &self.state.estimates, limits).await {
            Ok(right) => right,
            Err(error) => {
                exchange.step_back();
                return Err(error);
            }
        };
        let Right { reserved, max_tokens } = right;
        let prepared = (|| {
            if let Some(tokens) = max_tokens {
                own.edit(crate::codec::Field::MaxTokens)?.max_tokens = Some(tokens);
            }
            let call = Call::prepare(&exchange.cx, &mut own, exchange.wire.single, target, client, extra)?;
            call.refuse_dropping(target).map(|()| call)
        })();
        let mut call = match prepared {
            Ok(call) => call,
            Err(error) => {
                exchange.step_back();
                return Err(error);
            }
        };
        let stream = own.stream();
        exchange.cx.attempt = next;
        exchange.taken.extend(taken.map(|taken| taken.sent(next)));
        exchange.begins_beside(target, &own);
        let begins = begins(runtime, exchange, &call, target, stream);
        match self.runner(&mut call, (choice, reserved), target, begins).await {
            Ok(mut runner) => {
                runner.own = Some(Box::new(Own { call, document: own, flight, max_tokens }));
                Ok(Some(runner))
            }
            Err(error) => {
                exchange.ended(next, error.code().to_owned());
                exchange.step_back();
                Err(error)
            }
        }
    }

    /// One of several failed, and others still run.
    fn failed(&self, exchange: &mut Exchange, runner: Runner<'_>, error: &Error, first: &mut Option<Flight>) {
        let Runner { target, number, choice, own, .. } = runner;
        exchange.ended(number, error.code().to_owned());
        self.quota_heard(exchange, &target, key_of(choice), number, Some(error));
        let flight = match own {
            Some(own) => Some(own.flight),
            None => first.take(),
        };
        if let Some(mut flight) = flight {
            flight.failed(error, clock::now());
        }
        self.key_refused(choice, &target, error);
    }

    /// The losers: their calls are dropped, and each has its row.
    fn cancel(&self, exchange: &mut Exchange, winner: &Runner<'_>, losers: Vec<Runner<'_>>, stream: bool) {
        for loser in losers {
            let Runner { target, number, waits, coming, .. } = loser;
            drop(coming);
            // It would have taken at least as long.
            self.state.waits.note(&target.name, stream, clock::since(waits.began));
            exchange.outrun(number, &self.state.estimates);
        }
        exchange.take_up(winner.number);
    }

    /// A target that was asked beside the first one is heard.
    async fn won(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        runner: Runner<'_>,
        incoming: Incoming,
    ) -> Result<Attempted> {
        let Runner { target, number, waits, choice, own, .. } = runner;
        let Some(own) = own else { return Err(Error::new(Kind::Internal, "a race was won by nobody")) };
        let Own { call, document, flight, max_tokens } = *own;
        let candidate = self.state.health.candidate(&target, clock::now());
        exchange.chain.start(number);
        exchange.chain.answered_by(&candidate);
        exchange.record.target = Some(target.name.clone());
        exchange.dropped = call.dropped.clone();
        exchange.max_tokens = max_tokens;
        exchange.cx.trace.note("hedge", &format!("{} was first", target.name));
        if !call.same_format && exchange.echo.is_none() {
            exchange.echo = document.echo();
        }
        let mut flight = Some(flight);
        let heard = self.heard(runtime, exchange, incoming, &call, &document, &target, &mut flight, waits);
        let result = Box::pin(heard).await.map_err(said::named);
        self.quota_heard(exchange, &target, key_of(choice), number, result.as_ref().err());
        match &result {
            Ok(_) => {
                if let KeyChoice::Key(index) = choice {
                    self.state.keys.accepted(&target.provider, index, &target.model);
                }
            }
            Err(error) => {
                exchange.ended(number, error.code().to_owned());
                if let Some(flight) = &mut flight {
                    flight.failed(error, clock::now());
                }
                if error.side() == Side::Upstream {
                    self.key_refused(choice, &target, error);
                }
            }
        }
        result
    }

    fn key_refused(&self, choice: KeyChoice, target: &Target, error: &Error) {
        if let (KeyChoice::Key(index), Some(status)) = (choice, super::attempt::key_status(error)) {
            let (wait, now) = (error.retry_after, clock::now());
            self.state.keys.refused(&target.provider, index, &target.model, status, wait, now);
        }
    }
}

/// An attempt that begins now: its number, its clocks, and how far it is read.
fn begins(runtime: &Runtime, exchange: &Exchange, call: &Call, target: &Target, stream: bool) -> (u32, Waits, Look) {
    let waits = super::attempt::waits(exchange, target, stream);
    let look = Look {
        stream,
        spoken: (call.format, exchange.cx.format),
        until: waits.until,
        whole: waits.whole,
        limit: runtime.config.server.max_event,
    };
    (exchange.cx.attempt, waits, look)
}

/// Why nobody would be asked beside this target, however long it takes; `None`: another one may be.
pub fn alone(
    rules: &Rules,
    operation: Operation,
    document: &mut Document,
    target: &Target,
    rest: &[Arc<Target>],
) -> Option<&'static str> {
    if !matches!(operation, Operation::Chat | Operation::Embeddings) {
        return Some("only chats and embeddings are");
    }
    if rest.is_empty() {
        return Some("no other target is left");
    }
    // A provider's own limits count one place at a time.
    if rules.providers.contains_key(&*target.provider.name) {
        return Some("its provider has limits of its own");
    }
    runs_tools(document).then_some("its provider would run tools twice")
}

fn key_of(choice: KeyChoice) -> Option<usize> {
    if let KeyChoice::Key(index) = choice { Some(index) } else { None }
}

/// Does the provider run something for it that nobody can take back?
fn runs_tools(document: &mut Document) -> bool {
    if !document.has_tools() {
        return false;
    }
    match document.request() {
        Ok(request) => request.tools.iter().any(|tool| matches!(tool, Tool::Hosted { .. })),
        Err(_) => true,
    }
}

/// The first that is there, or `None` at `until`.
async fn first_of(runners: &mut [Runner<'_>], until: Option<Instant>) -> Option<(usize, Result<Incoming>)> {
    let mut timer = until.map(|at| Box::pin(clock::sleep_until(at)));
    poll_fn(|cx| {
        for (at, runner) in runners.iter_mut().enumerate() {
            if let Poll::Ready(came) = Pin::new(&mut runner.coming).poll(cx) {
                return Poll::Ready(Some((at, came)));
            }
        }
        match timer.as_mut().map(|timer| timer.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    })
    .await
}
