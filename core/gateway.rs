//! The way of a request, as straight-line code: the only file that knows all steps. A step never calls the next.
//!
//! Read `respond`, then `run` to `attempts`; how targets are found stands in `gateway/planned.rs`, what is done for one of them in
//! `gateway/attempt.rs`, and where what no codec reads differs in `gateway/untranslated.rs`.

mod attempt;
pub mod checks;
mod flight;
mod heard;
mod hedge;
mod planned;
pub mod resume;
mod turns;
mod untranslated;

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::try_join;
use http::{HeaderMap, HeaderName, Request, Response, request::Parts};
use tokio::sync::Notify;

use self::turns::Turns;
pub use self::{
    hedge::alone,
    planned::{instead, plan},
    turns::owner,
};
use crate::{
    auth::{self, cut::Watch},
    clock,
    codec::{Inbound, document::Document},
    context::Context,
    endpoint::{self, Found},
    error::{Error, Kind, Result},
    exchange::{Exchange, Wire},
    explain,
    follow::Lead,
    generated::Generated,
    long_input::{self, Pieces},
    model::{Format, Operation},
    opaque,
    pipeline::{Candidate, Flow},
    queue::Shed,
    reply::{self, Reply},
    route::{self, Cause, Next, Order},
    runtime::{Runtime, State, parameters},
    seal::Tenant,
    server::{self, Body, Incoming, Peer},
    stored::Keep,
};

/// The data plane. Holds the current runtime and what lives across reloads.
pub struct Gateway {
    pub runtime: ArcSwap<Runtime>,
    pub state: State,
}

impl server::App for Gateway {
    fn cuts(&self) -> Arc<Notify> {
        self.state.auth.cuts()
    }

    fn call(
        self: Arc<Self>,
        peer: Peer,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        // Taken apart first: a future keeps to its end what it was given.
        let (parts, body) = request.into_parts();
        let from = peer.addr.ip();
        async move { self.respond(&parts, body, from).await }
    }
}

impl Gateway {
    /// One request, from its head to the head of its answer; a stream's body goes on from there.
    pub async fn respond(self: &Arc<Self>, parts: &Parts, body: Incoming, from: IpAddr) -> Response<Body> {
        if let Some(answer) = reply::health(parts, || self.ready()) {
            return answer;
        }
        // 1. The snapshot that this request keeps to its end, and its context.
        let (runtime, trial) = self.state.rollout.assign(self.runtime.load_full(), parts);
        // 2. What is asked, and in which format.
        let found = endpoint::find(&parts.method, parts.uri.path(), parts.uri.query(), &parts.headers);
        let (operation, format) = match &found {
            Ok(found) => (found.operation, found.format),
            Err((format, _)) => (Operation::Chat, *format),
        };
        let cx = Context::open(operation, format, parts, self.state.nobody.clone(), runtime.whole);
        let mut exchange = Exchange::new(cx, self.state.settle.clone(), trial);
        let outcome = match &found {
            Ok(found) => self.run(&runtime, &mut exchange, found, (parts, from), body).await,
            Err((_, error)) => Err(error.copy()),
        };
        if let Err(error) = &outcome {
            self.state.watch(error, &exchange.cx.principal, from, parts);
        }
        let json_array = found.is_ok_and(|f| f.json_array);
        let outcome = worded(&mut exchange, outcome, json_array).await;
        self.deliver(&runtime, exchange, outcome, json_array).await
    }

    /// A request whose body is there and whose caller is known already, from step 4 on: what a rehearsal runs.
    pub async fn rehearse(self: &Arc<Self>, cx: Context, found: &Found, parts: &Parts, body: Bytes) -> Response<Body> {
        let runtime = self.runtime.load_full();
        let principal = cx.principal.clone();
        let mut exchange = Exchange::new(cx, self.state.settle.clone(), None);
        exchange.identify(principal);
        let admitted =
            exchange.cx.principal.admits(found.operation, None).and_then(|()| self.admit(&runtime, &mut exchange));
        let admitted = match admitted {
            // A day of many requests has no room for some of them.
            Ok(()) if exchange.place.is_none() => Box::pin(self.in_turn(&runtime, &mut exchange)).await,
            admitted => admitted,
        };
        let outcome = match admitted {
            Ok(()) => self.read(&runtime, &mut exchange, found, parts, body).await,
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            // Nobody listens meanwhile.
            Ok(Reply::Pieces(pieces)) => Box::pin(pieces.at_once(self, &runtime, &mut exchange)).await,
            outcome => outcome,
        };
        let outcome = worded(&mut exchange, outcome, found.json_array).await;
        self.deliver(&runtime, exchange, outcome, found.json_array).await
    }

    /// 12. Whatever it was is settled once: here, or when the stream ends.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        mut exchange: Exchange,
        outcome: Result<Reply>,
        json_array: bool,
    ) -> Response<Body> {
        match outcome {
            Ok(Reply::Stream(mut streaming)) => {
                if let Some(later) = &mut streaming.later {
                    later.by = Some((self.clone(), runtime.clone()));
                }
                // The prompt has been sent: its share of the memory is free for others, unless it is to be kept.
                exchange.fetched = Vec::new();
                if exchange.keep.is_none() && exchange.record.bodies.is_none() && streaming.later.is_none() {
                    exchange.held = None;
                }
                let head = reply::stream_head(&exchange, json_array, clock::since(streaming.began));
                let body = Generated::new(|sink| streaming.run(exchange, sink));
                head.map(|()| Body::stream(body))
            }
            Ok(Reply::Pieces(pieces)) => {
                let head = reply::stream_head(&exchange, false, Duration::ZERO);
                let (gateway, runtime) = (self.clone(), runtime.clone());
                let body = Generated::new(|sink| async move {
                    let principal = exchange.cx.principal.clone();
                    let (cut, rest) = (pin!(principal.is_cut()), pin!(pieces.run(gateway, runtime, exchange, sink)));
                    Watch::of(&principal).over_pinned(cut, rest).await?
                });
                head.map(|()| Body::stream(body))
            }
            Ok(Reply::Session(session)) => {
                let response = reply::session(&exchange, &session);
                // It outlives this answer; the exchange goes with it.
                self.state.sessions.begin(session, exchange);
                response
            }
            Ok(Reply::Through(mut through)) => {
                let response = reply::through(&exchange, &mut through);
                if through.ended {
                    exchange.settle(response.status().as_u16());
                    return response;
                }
                response.map(|_| Body::stream(Generated::new(|sink| through.run(exchange, sink))))
            }
            Ok(Reply::Lead(lead)) => self.fly(runtime, exchange, lead, json_array).await,
            Ok(Reply::Follow(following)) => {
                let head = reply::stream_head(&exchange, json_array, clock::since(following.began));
                exchange.held = None;
                let body = Generated::new(|sink| following.run(exchange, sink));
                head.map(|()| Body::stream(body))
            }
            Ok(Reply::Whole { content_type, body, headers }) => {
                if let Some(keep) = exchange.keep.take() {
                    // An answer that was there whole may have been asked for as a stream.
                    let answer = if exchange.record.stream { Keep::seen(&body) } else { None };
                    Box::pin(keep.answered(answer.as_ref().unwrap_or(&body))).await;
                }
                exchange.landed(Some(&body));
                exchange.complete();
                let response = reply::whole(&exchange, content_type, body, headers);
                exchange.settle(200);
                response
            }
            Err(error) => {
                exchange.crashed(&error);
                let response = reply::error(&exchange, &error);
                exchange.record.error_code = Some(error.code().to_owned());
                exchange.settle(response.status().as_u16());
                response
            }
        }
    }

    /// Steps 3 to 10.
    async fn run(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        found: &Found,
        (parts, from): (&Parts, IpAddr),
        body: Incoming,
    ) -> Result<Reply> {
        // 3. Who calls, and may they do this at all?
        let credential = auth::credential(&parts.headers, parts.uri.query());
        let credential = credential.or_else(|| auth::in_protocol(&parts.headers));
        let (keys, now) = (&self.state.auth, exchange.cx.now);
        let principal = match (keys.authenticate(credential.as_deref(), now), keys.unverified(credential.as_deref())) {
            // A signed token that is new here; boxed, because it is rare.
            (Err(_), Some(token)) => Box::pin(keys.verify(token, now)).await?,
            (known, _) => known?,
        };
        exchange.identify(principal.clone());
        if principal.is_anybody() {
            auth::local::refuse_pages(&parts.headers)?;
        }
        principal.admits(found.operation, Some(from))?;
        // What still runs when its key is revoked may be cut.
        let (cut, rest) = (pin!(principal.is_cut()), pin!(self.admitted(runtime, exchange, found, parts, body)));
        Watch::of(&principal).over_pinned(cut, rest).await?
    }

    /// Steps 4 to 10.
    async fn admitted(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        found: &Found,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Reply> {
        // 4. May they now: before the body is read.
        self.admit(runtime, exchange)?;
        match found.operation {
            Operation::ListModels => return Ok(reply::models(exchange, &runtime.routes)),
            Operation::Stored => {
                if let Some(reply) = Box::pin(self.in_background(runtime, exchange, found, parts)).await? {
                    return Ok(reply);
                }
                let reading = server::read_body(body, &parts.headers, &runtime.body_limits, &self.state.body_memory);
                let (place, held) = ((found.id.as_deref(), found.rest.as_deref()), Box::pin(reading).await?);
                let serving = self.state.stored.serve(&exchange.cx.principal, place, parts, &held.bytes);
                return Box::pin(serving).await.map(Reply::json);
            }
            Operation::OneModel => return reply::one_model(exchange, &runtime.routes, found.model.as_deref()),
            Operation::Chat | Operation::Embeddings | Operation::CountTokens | Operation::Compact => {}
            // What no codec reads goes the same way; boxed, because it is rare.
            _ => {
                let mut body = body;
                if exchange.place.is_none() {
                    Box::pin(self.in_turn_unread(runtime, exchange, &mut body)).await?;
                }
                return Box::pin(self.opaque(runtime, exchange, found, parts, body)).await;
            }
        }
        // 5. The body, up to its limits. While a request waits for its turn it is read too: who left is noticed by it.
        let reading = server::read_body(body, &parts.headers, &runtime.body_limits, &self.state.body_memory);
        let held = match exchange.place {
            Some(_) => reading.await?,
            None => Box::pin(try_join(reading, self.in_turn(runtime, exchange))).await?.0,
        };
        exchange.held = Some(held.permit);
        self.read(runtime, exchange, found, parts, held.bytes).await
    }

    /// 4. A place and a request from each limit that binds the caller, and a place among the requests that run, if one is free.
    fn admit(&self, runtime: &Runtime, exchange: &mut Exchange) -> Result<()> {
        let (inner, limits, queues) = (&mut **exchange, &self.state.limits, &self.state.queues);
        queues.pressure.admits(inner.cx.priority).map_err(Shed::told)?;
        inner.bounds = limits.bounds(&inner.cx.principal, &runtime.config.rules, &inner.cx.tags, inner.cx.now);
        inner.permit = Some(limits.enter(&inner.bounds)?);
        inner.place = queues.front.enter(inner.cx.principal.flow(), || turns::owner(&inner.cx));
        inner.limits_told();
        Ok(())
    }

    /// 7. The name that was asked for may have limits of its own.
    fn bind_model(&self, runtime: &Runtime, exchange: &mut Exchange, model: &str) -> Result<()> {
        let Some(rule) = runtime.config.rules.models.get(model) else { return Ok(()) };
        let inner = &mut **exchange;
        let Some(permit) = &mut inner.permit else { return Ok(()) };
        self.state.limits.join(&mut inner.bounds, permit, rule, inner.cx.now)
    }

    /// 5. One pass over the body.
    async fn read(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        found: &Found,
        parts: &Parts,
        body: Bytes,
    ) -> Result<Reply> {
        let inbound = Inbound {
            model: found.model.as_deref(),
            stream: found.stream.or((found.operation != Operation::Chat).then_some(false)),
            version: parts.headers.get(&VERSION).and_then(|v| v.to_str().ok()),
            counting: found.operation == Operation::CountTokens,
            legacy: found.legacy,
        };
        let mut document = Document::open(found.format, found.operation, body, inbound)?;
        if found.operation == Operation::Chat {
            runtime.prompts.apply(&mut document)?;
        }
        // Only this format keeps anything.
        if found.format == Format::OpenaiResponses {
            let inner = &mut **exchange;
            let beginning = self.state.stored.begin(&inner.cx.principal, &mut document, &mut inner.echo);
            let keep = Box::pin(beginning).await?;
            exchange.keep = keep;
        }
        if document.envelope().has_files {
            opaque::bring_home(&mut document, &self.state.seals, Tenant::of(&exchange.cx.principal))?;
        }
        exchange.asked(&document);
        let wire = Wire::of(found.operation, found.json_array, found.single, &mut document)?;
        exchange.wire = wire.for_reader(found.format, found.operation, document.stream(), &parts.headers);
        if let Some(trial) = &exchange.trial {
            trial.seen(&exchange.cx, &document, &parts.headers);
        }
        // They are about answers: a count of tokens or a vector has none.
        if found.operation == Operation::Chat {
            let inner = &mut **exchange;
            inner.capped = parameters(&inner.cx.principal, &mut document)?;
            if !inner.capped.is_empty() {
                inner.cx.trace.note("caps", &format!("held to the caller's caps: {}", inner.capped.join(", ")));
            }
        }
        self.staged(runtime, exchange, &parts.headers, &mut document).await
    }

    /// 6 to 10.
    async fn staged(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
    ) -> Result<Reply> {
        exchange.chain = runtime.pipeline.select(&exchange.cx.principal, document.model());
        if runtime.pipeline.asks.anybody() {
            exchange.alive = Some(runtime.clone());
        }
        if exchange.chain.reads_headers() {
            exchange.cx.keep_headers(client);
        }
        // 6. Request-side stages.
        let inner = &mut **exchange;
        let flow = inner.chain.request(&mut inner.cx, document).await;
        if runtime.config.records.bodies && inner.opaque.is_none() {
            inner.record.bodies.get_or_insert_default().asked(document);
        }
        exchange.flight = exchange.chain.leads();
        match flow? {
            Flow::Continue if exchange.flight.as_ref().is_some_and(|leading| leading.is_shared()) => {
                let (document, client) = (document.clone(), client.clone());
                return Ok(Reply::Lead(Box::new(Lead { document, client })));
            }
            Flow::Continue => {}
            Flow::Respond(response) => {
                exchange.waited(document);
                return Box::pin(reply::made(exchange, *response, document.stream())).await;
            }
            Flow::Repeat(body) => {
                exchange.waited(document);
                return Ok(Reply::json(body));
            }
            Flow::Follow(follower) => {
                exchange.waited(document);
                return Box::pin(self.follow(runtime, exchange, *follower)).await;
            }
        }
        self.onward(runtime, exchange, client, document).await
    }

    /// The rest of 6 to 10: where no stage had the answer.
    async fn onward(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
    ) -> Result<Reply> {
        // A text that is too long for its model is read in pieces.
        let pieces = runtime.reads_in_pieces && !document.runs_in_background();
        let settings = pieces.then(|| runtime.config.models.get(document.model())).flatten();
        if let Some(settings) = settings.and_then(|m| m.long_input.as_ref())
            && let Some(cut) = Box::pin(long_input::cut(settings, exchange.cx.operation, document)).await?
        {
            let told = settings.progress && document.stream() && !exchange.wire.json_array;
            let (settings, document) = (settings.clone(), document.clone());
            let pieces = Box::new(Pieces { settings, document, cut, client: client.clone() });
            return match told {
                true => Ok(Reply::Pieces(pieces)),
                false => Box::pin(pieces.at_once(self, runtime, exchange)).await,
            };
        }
        self.routed(runtime, exchange, client, document).await
    }

    /// 7 to 10.
    pub(crate) async fn routed(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
    ) -> Result<Reply> {
        // 7. Where it may go: the strategy's order, or what a stage chose.
        if !runtime.config.rules.models.is_empty() {
            let asked = exchange.record.model.clone();
            self.bind_model(runtime, exchange, &asked)?;
        }
        let inner = &mut **exchange;
        let live = self.state.live();
        let targets = plan(&runtime.routes, &live, &mut inner.chain, &mut inner.cx, document, client).await?;
        if inner.cx.explain {
            let world = self.state.world(runtime);
            explain::weigh(&world, &inner.bounds, &mut inner.cx, &targets);
            explain::ahead(&world, &mut inner.cx, document, &targets, inner.opaque.is_none());
        }
        if let Some(drawn) = inner.cx.drawn.take() {
            self.state.experiments.begin(*drawn, exchange, client, document, &self.state.body_memory);
        }
        // 8 to 10.
        match self.attempts(runtime, exchange, client, document, targets).await {
            Err(error) if error.kind == Kind::BudgetExceeded && exchange.bounds.fallback().is_some() => {
                Box::pin(self.cheaper(runtime, exchange, client, document, error)).await
            }
            outcome => outcome,
        }
    }

    /// 7 to 10 for a copy of a request: where it goes is said already, and no stage chooses.
    pub(crate) async fn copied(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
    ) -> Result<Reply> {
        let name = document.model().to_owned();
        self.bind_model(runtime, exchange, &name)?;
        let inner = &mut **exchange;
        inner.chain.admit(&mut inner.cx)?;
        let mut plan = runtime.routes.resolve_for(&name, Some(&inner.cx.principal))?;
        runtime.routes.draw(&mut plan, &mut inner.cx)?;
        let targets = plan.order(&self.state.live(), &mut inner.cx, document, client, clock::now());
        inner.cx.trace.planned(&targets, &plan.passed);
        self.attempts(runtime, exchange, client, document, targets).await
    }

    /// 7 again: a budget refused every target, and what it binds has cheaper models to go to.
    async fn cheaper(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
        refused: Error,
    ) -> Result<Reply> {
        if exchange.body_is_gone() {
            return Err(refused);
        }
        let inner = &mut **exchange;
        let instead = instead(&runtime.routes, &inner.bounds, &mut inner.cx);
        let Some((names, mut plan)) = instead else { return Err(refused) };
        let targets = plan.order(&self.state.live(), &mut inner.cx, document, client, clock::now());
        inner.cx.trace.note("budget", &format!("{}; it goes to {} instead", refused.message, names.join(", ")));
        inner.cx.trace.planned(&targets, &plan.passed);
        inner.fell_back = true;
        for name in &names {
            self.bind_model(runtime, exchange, name)?;
        }
        self.attempts(runtime, exchange, client, document, targets).await
    }

    /// 8. Targets in order until one answers; each is visited once.
    async fn attempts(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &mut Document,
        targets: Order,
    ) -> Result<Reply> {
        let (mut errors, mut unmet, mut turns, mut targets) = (Vec::new(), None, Turns::default(), targets);
        loop {
            let (here, place) = match self.turn(runtime, exchange, &targets, &mut turns).await {
                Ok(Some(turn)) => turn,
                Ok(None) => break,
                Err(full) => {
                    errors.push(full);
                    break;
                }
            };
            let (target, at) = (&targets[here], turns.next);
            if exchange.was_beside(&target.name) {
                continue;
            }
            let now = clock::now();
            // What would fail for want of time says nothing about the target.
            if exchange.cx.deadline.is_some_and(|at| at <= now) {
                exchange.cx.trace.passed_over(target, "no time is left");
                break;
            }
            if exchange.cx.attempt as usize >= route::MAX_ATTEMPTS {
                exchange.cx.trace.passed_over(target, "four attempts were made");
                break;
            }
            // Whose provider would refuse is not asked.
            if let Some(outlook) = self.state.health.closed(target, now) {
                exchange.cx.trace.passed_over(target, "its quota is used up, or its provider said to wait");
                errors.push(route::spent(target, outlook.resets_in, outlook.unpaid));
                continue;
            }
            // Health is read when the attempt starts, not when it was planned.
            let flight = match self.enter(exchange, target, targets.len() == 1, now) {
                Ok(flight) => flight.at(place),
                Err(wait) => {
                    exchange.cx.trace.passed_over(target, "ejected after repeated failures");
                    errors.push(route::ejected(target, wait));
                    continue;
                }
            };
            let error = match self.visit(runtime, exchange, client, document, target, flight, &targets[at..]).await {
                Ok(Attempted::Answered(mut reply)) => {
                    if let Reply::Stream(streaming) = &mut reply {
                        streaming.later = resume::Later::of(exchange, document, client, target, &targets[at..]);
                    }
                    return Ok(reply);
                }
                Ok(Attempted::Skipped) => {
                    exchange.cx.trace.passed_over(target, "skipped by a stage");
                    continue;
                }
                Ok(Attempted::Next(candidate)) => {
                    unmet = Some(candidate);
                    continue;
                }
                Err(error) => error,
            };
            if exchange.body_is_gone() {
                return Err(opaque::final_word(error));
            }
            let next = Cause::of(&error).rule().next;
            if next == Next::Targets {
                exchange.cx.trace.passed_over(target, error.code());
                errors.push(error);
            } else if let Some(instead) =
                self.elsewhere(runtime, &mut exchange.cx, (client, document), next, targets.split_at(at), &error)
            {
                targets.truncate(at);
                targets.extend(instead);
                turns.forget();
                errors.push(error);
            } else if unmet.is_some() && error.kind == Kind::UpstreamRefused {
                // Better the answer that is there than none; what a stage refuses stays refused.
                break;
            } else {
                return Err(error);
            }
        }
        match unmet {
            Some(candidate) => Box::pin(reply::unmet(exchange, &candidate, document.stream())).await,
            None => Err(route::most_telling(errors)),
        }
    }
}

/// 11. Errors pass their stages, and become bytes in the client's format.
async fn worded(exchange: &mut Exchange, outcome: Result<Reply>, json_array: bool) -> Result<Reply> {
    match outcome {
        Ok(reply) => Ok(reply),
        Err(error) => {
            exchange.wire.json_array = json_array;
            Box::pin(reply::refused(exchange, error)).await
        }
    }
}

static VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// How a target's attempt ended when it did not fail.
enum Attempted {
    Answered(Reply),
    /// A stage passed this target over.
    Skipped,
    /// A stage wants a better answer; the chain keeps this target's in case none comes.
    Next(Candidate),
}
