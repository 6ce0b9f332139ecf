//! The steps of what no codec reads, where they differ from a chat's: forms, files, raw paths and realtime sessions. They meet
//! the same permit, stages, targets and records; the rest of their way is `gateway.rs`.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, request::Parts};

use super::{Attempted, Gateway, attempt::waits};
use crate::{
    auth::{self, Principal},
    call::{Call, Waits},
    clock,
    codec::document::Document,
    endpoint::Found,
    error::{Error, Kind, Result},
    exchange::Exchange,
    limit::Reserved,
    model::Operation,
    opaque::{self, Answers, Books, answer::Through},
    provider::KeyChoice,
    realtime::{Guard, Session},
    reply::Reply,
    route::{Flight, Target},
    runtime::Runtime,
    server::Incoming,
    transport,
    upstream::Opened,
};

impl Gateway {
    /// 5 for bodies that nobody translates: of them stages see what their document holds.
    pub(super) async fn opaque(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        found: &Found,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Reply> {
        let state = &self.state;
        let principal = exchange.cx.principal.clone();
        if let Operation::ListFiles | Operation::ListBatches = found.operation {
            return opaque::listed(&state.objects, found.operation, &principal, parts.uri.query())
                .await
                .map(Reply::json);
        }
        let client = body.client().clone();
        let mut opened = opaque::open(found, parts, body, &principal, &self.house(runtime)).await?;
        opened.opaque.client = Some(client);
        let mut reply = self.opened(runtime, exchange, &parts.headers, opened).await?;
        if let Reply::Session(session) = &mut reply {
            let credential = auth::credential(&parts.headers, parts.uri.query());
            session.credential = credential.or_else(|| auth::in_protocol(&parts.headers)).map(Cow::into_owned);
        }
        Ok(reply)
    }

    /// A file or a batch that is there, asked for by the gateway itself in its owner's name.
    pub(crate) async fn ask_for(&self, exchange: &mut Exchange, found: &Found) -> Result<Reply> {
        let runtime = self.runtime.load_full();
        let principal = exchange.cx.principal.clone();
        let opened = opaque::kept(found, &principal, &self.house(&runtime)).await?;
        self.opened(&runtime, exchange, &HeaderMap::new(), opened).await
    }

    /// An answer that is made in the background at its upstream, asked for, cancelled or deleted by its owner. `None`: this id is of
    /// no such answer.
    pub(super) async fn in_background(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        found: &Found,
        parts: &Parts,
    ) -> Result<Option<Reply>> {
        let Some(found) = opaque::in_background(found, parts, &exchange.cx.principal, &self.state.seals)? else {
            return Ok(None);
        };
        let inner = &mut **exchange;
        (inner.cx.operation, inner.record.operation) = (found.operation, found.operation);
        // Lists of models bind what a caller begins, not what they began.
        let principal = Principal { models: Arc::default(), ..(*inner.cx.principal).clone() };
        inner.cx.principal = Arc::new(principal);
        if exchange.place.is_none() {
            self.in_turn(runtime, exchange).await?;
        }
        self.ask_for(exchange, &found).await.map(Some)
    }

    /// An answer has begun in the background: what its upstream says of it, with an id for its owner alone.
    pub(super) async fn begun(&self, exchange: &mut Exchange, target: &Target, body: &Bytes) -> Result<Attempted> {
        let books = self.books();
        let told = opaque::begun(body, &exchange.cx.principal, &target.name, books, exchange.cx.now).await?;
        Ok(Attempted::Answered(Reply::json(told)))
    }

    fn books(&self) -> Books<'_> {
        let state = &self.state;
        Books { seals: &state.seals, objects: &state.objects, claims: &state.claims, home: None }
    }

    fn house<'a>(&'a self, runtime: &'a Runtime) -> opaque::House<'a> {
        opaque::House {
            routes: &runtime.routes,
            seals: &self.state.seals,
            claims: &self.state.claims,
            memory: &self.state.body_memory,
            limits: &runtime.body_limits,
            max_upload: runtime.config.server.max_upload,
        }
    }

    async fn opened(
        &self,
        runtime: &Arc<Runtime>,
        exchange: &mut Exchange,
        client: &HeaderMap,
        mut opened: opaque::Opened,
    ) -> Result<Reply> {
        exchange.cx.format = opened.format;
        exchange.record.format = opened.format;
        exchange.held = opened.held;
        exchange.opaque = Some(Box::new(opened.opaque));
        exchange.asked(&opened.document);
        self.staged(runtime, exchange, client, &mut opened.document).await
    }

    /// The upstream's side of a realtime session; the client's is answered when it is open.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one call; a struct would be used once")]
    pub(super) async fn session(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        call: &mut Call,
        proof: (KeyChoice, Reserved),
        document: &Document,
        target: &Arc<Target>,
        flight: &mut Option<Flight>,
    ) -> Result<Attempted> {
        let Waits { began, until, .. } = waits(exchange, target, document.stream(), clock::now());
        let outgoing = self.signed(call, target, proof, until).await?;
        let server = &runtime.config.server;
        let opening = self.state.transport.open(outgoing, target, server.max_event);
        let upstream = match transport::before(until, opening).await?? {
            Opened::Socket(socket) => socket,
            Opened::Answer(answer) => {
                return Err(transport::refusal(*answer, target, (exchange.cx.format, exchange.cx.format), until).await);
            }
        };
        let gone = || Error::new(Kind::Internal, "a handshake was answered twice");
        let upgrade = exchange.opaque.as_mut().and_then(|o| o.upgrade.take()).ok_or_else(gone)?;
        exchange.accepted();
        exchange.record.stream = true;
        if !exchange.chain.is_empty() {
            exchange.cx.trace.note("realtime", "stages see texts, transcripts and calls; sound has none");
        }
        let guard = Guard::of(&exchange.chain, self.state.health.candidate(target, clock::now()));
        Ok(Attempted::Answered(Reply::Session(Box::new(Session {
            upgrade,
            upstream,
            target: target.clone(),
            flight: flight.take(),
            guard,
            keys: self.state.auth.clone(),
            credential: None,
            began,
            limit: server.max_event,
            write_stall: server.write_stall,
        }))))
    }

    /// 9 and 10 for an answer that nobody translates: up to where it may go out.
    pub(super) async fn through(
        &self,
        exchange: &mut Exchange,
        incoming: transport::Incoming,
        target: &Arc<Target>,
        flight: &mut Option<Flight>,
        Waits { began, whole, .. }: Waits,
    ) -> Result<Attempted> {
        let answers = exchange.opaque.as_ref().map_or(Answers::Through, |o| o.answers);
        let mut through = Box::new(Through::open(incoming, target, answers, began));
        while !through.committed {
            transport::before(whole, through.step(exchange.cx.operation)).await??;
        }
        if through.ended {
            let (operation, principal) = (exchange.cx.operation, exchange.cx.principal.clone());
            let home = exchange.opaque.as_ref().and_then(|opaque| opaque.home.clone());
            let books = Books { home: home.as_deref(), ..self.books() };
            opaque::finish(&mut through, answers, operation, &principal, target, books).await?;
            through.note(exchange);
            exchange.took(&target.name, "ok", clock::since(began));
            let charges = opaque::batches::owed(&mut through, exchange).await;
            exchange.charged(charges);
        } else {
            exchange.record.first_event = Some(clock::since(exchange.cx.started));
        }
        if let Some(mut flight) = flight.take() {
            flight.answered(through.first_output_after());
            if through.ended {
                flight.succeeded();
            } else {
                through.flight = Some(flight);
            }
        }
        Ok(Attempted::Answered(Reply::Through(through)))
    }
}
