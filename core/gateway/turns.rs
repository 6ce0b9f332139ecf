//! Whose turn it is, at the gateway and at targets that have a bound. Whoever finds room goes on at once; what is done for those
//! who wait lies in boxes, off the common way. Orders nobody: that is `queue`'s.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use super::Gateway;
use crate::{
    clock,
    context::Context,
    error::{Error, Result},
    exchange::Exchange,
    queue::{self, Gate, Owner, Patience, Place, Shed},
    route::{Flight, Target},
    runtime::Runtime,
    server::{Client, Incoming},
};

/// How far a request's targets have been gone through.
#[derive(Default)]
pub(super) struct Turns {
    pub next: usize,
    /// Those that had no room when it was their turn.
    full: Vec<usize>,
}

impl Turns {
    /// What was full is no longer asked for.
    pub fn forget(&mut self) {
        self.full.clear();
    }
}

/// Every place is taken, or somebody waits for one.
pub(super) struct Full;

impl Gateway {
    /// A place at this target, for who does not wait; `None`: it has no bound.
    pub(super) fn room(&self, cx: &Context, target: &Target) -> Result<Option<Place>, Full> {
        match target.places(&self.state.queues) {
            None => Ok(None),
            Some(places) => places.enter(cx.principal.flow(), || owner(cx)).map(Some).ok_or(Full),
        }
    }

    /// Its health lets this request in, which has others to ask or is `alone` with it; a copy of one is counted apart from those that
    /// somebody waits for.
    pub(super) fn enter(
        &self,
        exchange: &Exchange,
        target: &Target,
        alone: bool,
        now: Instant,
    ) -> Result<Flight, Duration> {
        let health = &self.state.health;
        match alone {
            _ if is_copy(exchange) => health.enter_copy(target, now),
            true => health.enter_alone(target, now),
            false => health.enter(target, now),
        }
    }

    /// 4. More requests are there than may run at a time: this one waits for its turn.
    pub(super) async fn in_turn(&self, runtime: &Runtime, exchange: &mut Exchange) -> Result<()> {
        let owner = owner(&exchange.cx);
        let patience = Patience::new(&runtime.config.overload, exchange.cx.deadline);
        let (_, place, took) = queue::first(&[&self.state.queues.front], &owner, patience).await.map_err(Shed::told)?;
        waited(exchange, took, "the gateway");
        exchange.place = Some(place);
        Ok(())
    }

    /// The same for a body that is not read whole before it goes on: who left is noticed all the same.
    pub(super) async fn in_turn_unread(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        body: &mut Incoming,
    ) -> Result<()> {
        let (turn, gone) = (pin!(self.in_turn(runtime, exchange)), pin!(body.wait(&self.state.body_memory)));
        match select(turn, gone).await {
            Either::Left((turn, _)) => turn,
            Either::Right((gone, _)) => Err(gone),
        }
    }

    /// Step 8: the next target that has room, in the plan's order; when none is left but those that are full, the first of
    /// them where a place becomes free. `None`: all were visited.
    pub(super) async fn turn(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        targets: &[Arc<Target>],
        turns: &mut Turns,
    ) -> Result<Option<(usize, Option<Place>)>> {
        while let Some(target) = targets.get(turns.next) {
            let at = turns.next;
            turns.next += 1;
            match self.room(&exchange.cx, target) {
                Ok(place) => return Ok(Some((at, place))),
                Err(Full) => turns.full.push(at),
            }
        }
        if turns.full.is_empty() {
            return Ok(None);
        }
        Box::pin(self.wait_at(runtime, exchange, targets, turns)).await.map(|(at, place)| Some((at, Some(place))))
    }

    async fn wait_at(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        targets: &[Arc<Target>],
        turns: &mut Turns,
    ) -> Result<(usize, Place)> {
        let now = clock::now();
        let well = |at: &usize| self.state.health.is_healthy(&targets[*at].name, now);
        // Where calls fail nobody waits for a place, unless it is all that there is.
        let mut among: Vec<usize> = turns.full.iter().copied().filter(well).collect();
        if among.is_empty() {
            among.clone_from(&turns.full);
        }
        let places = |at: &usize| targets[*at].places(&self.state.queues);
        let gates: Vec<&Arc<Gate>> = among.iter().filter_map(places).collect();
        let owner = owner(&exchange.cx);
        let patience = Patience::new(&runtime.config.overload, exchange.cx.deadline);
        // What of an upload was not read goes to the target; until then nobody reads.
        let _watched = exchange.opaque.as_ref().and_then(|opaque| opaque.client.as_ref()).map(Client::watch);
        match queue::first(&gates, &owner, patience).await {
            Ok((n, place, took)) => {
                let at = among[n];
                turns.full.retain(|full| *full != at);
                waited(exchange, took, &targets[at].name);
                Ok((at, place))
            }
            Err(shed) => {
                let error: Error = shed.told();
                for at in turns.full.drain(..) {
                    exchange.cx.trace.passed_for(&targets[at], "full", &error.message);
                }
                Err(error)
            }
        }
    }
}

/// A mirror's: nobody waits for it, so it is neither tried again nor hedged nor continued.
pub(super) fn is_copy(exchange: &Exchange) -> bool {
    exchange.record.experiment.as_ref().is_some_and(|mark| mark.copy_of.is_some())
}

/// For whom a place is.
pub fn owner(cx: &Context) -> Owner {
    let principal = &cx.principal;
    Owner { class: cx.priority, flow: principal.flow().clone(), share: principal.share() }
}

fn waited(exchange: &mut Exchange, took: Duration, at: &str) {
    let text = format!("waited {} ms for its turn at {at}", took.as_millis());
    exchange.cx.trace.note("queue", &text);
}
