//! A race: others are asked beside an attempt that takes its time, until one of them has output ready. Everything here is seldom, and lies
//! in boxes.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use http::HeaderMap;

use super::{Beside, Race, begins};
use crate::{
    call::{Call, Waits},
    clock,
    codec::{document::Document, said},
    error::{Error, Kind, Result, Side},
    exchange::Exchange,
    gateway::{
        Attempted, Gateway,
        attempt::{key_of, key_status},
    },
    pipeline::{AttemptFlow, Phase},
    provider::KeyChoice,
    reserve::{Right, reserve},
    route::{self, Flight, Target},
    runtime::Runtime,
    transport::Incoming,
};

/// One that was asked.
pub(super) struct Runner<'a> {
    pub target: Arc<Target>,
    pub number: u32,
    pub waits: Waits,
    pub choice: KeyChoice,
    /// `None`: the first, whose future, call and request lie with the attempt that began it.
    pub own: Option<Own<'a>>,
}

pub(super) struct Own<'a> {
    coming: BoxFuture<'a, Result<Incoming>>,
    more: Box<More>,
}

struct More {
    call: Call,
    document: Document,
    flight: Flight,
    max_tokens: Option<u64>,
}

impl Gateway {
    /// Others are asked beside the first one, which took its time.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one call; a struct would be used once")]
    pub(super) async fn contest<F: Future<Output = Result<Incoming>>>(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        mut first: Pin<&mut Option<F>>,
        runner: Runner<'_>,
        (stream, after): (bool, Option<Duration>),
        flight: &mut Option<Flight>,
        beside: &Beside<'_>,
    ) -> Race {
        let mut runners = vec![runner];
        let (mut errors, mut asked, mut others) = (Vec::new(), 0, beside.rest.iter());
        let mut due = true;
        loop {
            if std::mem::take(&mut due) {
                asked += 1;
                match self.beside(runtime, exchange, flight, beside.document, beside.client, &mut others).await {
                    Some(runner) => runners.push(runner),
                    // Nobody can be asked: what runs is waited for.
                    None => asked = beside.hedge.max,
                }
            }
            let next = after.filter(|_| asked < beside.hedge.max).map(|after| {
                let last = runners.last().map_or_else(clock::now, |runner| runner.waits.began);
                last + after
            });
            let Some((at, came)) = first_of(first.as_mut(), &mut runners, next).await else {
                due = true;
                continue;
            };
            let runner = runners.swap_remove(at);
            match came {
                Ok(incoming) => {
                    self.note(beside, &runner.target, runner.waits, stream);
                    first.set(None);
                    self.cancel(exchange, &runner, runners, stream);
                    return match runner.own {
                        None => Race::Alone(Ok((incoming, runner.waits))),
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
            let fit = health.is_healthy(&target.name, now) && health.closed(target, now).is_none();
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
        let (choice, granted) = match self.key_at_once(exchange, &own, target, &[], clock::now()) {
            (KeyChoice::Resting(wait), _) => return Err(route::keys_rest(target, wait)),
            (KeyChoice::Refused(_), _) => return Err(route::keys_refused(target)),
            (choice, granted) => (choice, granted),
        };
        let granted = match granted {
            Some(granted) => granted,
            None => self.grant(exchange, &own, target, key_of(choice)).await,
        };
        let taken = match granted {
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
        let (number, waits, look) = begins;
        match self.signed(&mut call, target, (choice, reserved), waits.until).await {
            Ok(sealed) => {
                let (room, memory) = (Box::new_uninit(), &self.state.body_memory);
                let looking = look.at(&self.state.transport, memory, sealed, target.clone(), &TIMED);
                let coming = Box::into_pin(Box::write(room, looking));
                let more = Box::new(More { call, document: own, flight, max_tokens });
                let own = Some(Own { coming, more });
                Ok(Some(Runner { target: target.clone(), number, waits, choice, own }))
            }
            Err(error) => {
                exchange.ended(next, error.code().to_owned(), &self.state.estimates);
                exchange.step_back();
                Err(error)
            }
        }
    }

    /// One of several failed, and others still run.
    fn failed(&self, exchange: &mut Exchange, runner: Runner<'_>, error: &Error, first: &mut Option<Flight>) {
        let Runner { target, number, choice, own, .. } = runner;
        exchange.ended(number, error.code().to_owned(), &self.state.estimates);
        self.quota_heard(exchange, &target, key_of(choice), number, Some(error));
        let flight = match own {
            Some(own) => Some(own.more.flight),
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
            let Runner { target, number, waits, own, .. } = loser;
            drop(own);
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
        let More { call, document, flight, max_tokens } = *own.more;
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
                exchange.ended(number, error.code().to_owned(), &self.state.estimates);
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
        if let (KeyChoice::Key(index), Some(status)) = (choice, key_status(error)) {
            let (wait, now) = (error.retry_after, clock::now());
            self.state.keys.refused(&target.provider, index, &target.model, status, wait, now);
        }
    }
}

/// The first of several that is there, or `None` at `until`.
async fn first_of<F: Future<Output = Result<Incoming>>>(
    mut first: Pin<&mut Option<F>>,
    runners: &mut [Runner<'_>],
    until: Option<Instant>,
) -> Option<(usize, Result<Incoming>)> {
    let mut timer = pin!(until.map(clock::sleep_until));
    poll_fn(|cx| {
        for (at, runner) in runners.iter_mut().enumerate() {
            let polled = match &mut runner.own {
                Some(own) => Some(own.coming.as_mut().poll(cx)),
                None => first.as_mut().as_pin_mut().map(|first| first.poll(cx)),
            };
            if let Some(Poll::Ready(came)) = polled {
                return Poll::Ready(Some((at, came)));
            }
        }
        match timer.as_mut().as_pin_mut().map(|timer| timer.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    })
    .await
}

/// Nobody else sees to the deadlines of a runner beside the first.
static TIMED: AtomicBool = AtomicBool::new(false);
