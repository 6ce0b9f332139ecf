//! Who may go on when more ask than can be served: places, at the gateway as a whole and at each target that has a bound, and
//! lines of those who wait for one. Pure arithmetic lies in `fair`, `drain` and `adaptive`; `gate` joins it to places and
//! wakes who waits; `pressure` watches over the process itself. Knows no models and no formats, and sends nothing.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use dashmap::DashMap;

mod adaptive;
mod drain;
pub mod fair;
pub mod gate;
mod held;
mod pressure;
pub mod shed;

#[cfg(test)]
mod tests;

pub use self::{
    fair::Owner,
    gate::{Ahead, Gate, Place, Standing, Ticket},
    pressure::Pressure,
    shed::{GATEWAY, Reason, Shed},
};
use crate::{
    clock,
    config::{Concurrency, Overload},
    telemetry::metrics,
};

/// What lives across reloads: by the target's name.
#[derive(Debug)]
pub struct Queues {
    /// The gateway's own places.
    pub front: Arc<Gate>,
    targets: DashMap<Arc<str>, Arc<Gate>>,
    pub pressure: Arc<Pressure>,
}

impl Queues {
    pub fn new(overload: &Overload) -> Queues {
        let front = Gate::new(GATEWAY.into(), Some(overload.max_in_flight));
        Queues { front, targets: DashMap::new(), pressure: Arc::default() }
    }

    /// The places of a target that has a bound. Looked up once for each target of a configuration, which keeps it.
    pub fn of(&self, target: &Arc<str>, concurrency: Concurrency) -> Arc<Gate> {
        let make = || Gate::new(target.clone(), limit(concurrency));
        self.targets.entry(target.clone()).or_insert_with(make).clone()
    }

    /// After a reload: who waits goes on waiting, under the new bounds.
    pub fn configure(&self, overload: &Overload, targets: &BTreeMap<String, Concurrency>) {
        self.front.set_limit(Some(overload.max_in_flight));
        for gate in &self.targets {
            if let Some(concurrency) = targets.get(&**gate.key()) {
                gate.set_limit(limit(*concurrency));
            }
        }
        // A bound that is gone binds only those who came under it.
        self.targets.retain(|name, gate| targets.contains_key(&**name) || Arc::strong_count(gate) > 1);
    }

    /// Every gate and how it stands: for metrics.
    pub fn standings(&self) -> Vec<(Arc<str>, Standing)> {
        let targets = self.targets.iter().map(|gate| (gate.key().clone(), gate.standing()));
        [(self.front.name().clone(), self.front.standing())].into_iter().chain(targets).collect()
    }

    /// Of one target, if it has a bound.
    pub fn standing(&self, target: &str) -> Option<Standing> {
        self.targets.get(target).map(|gate| gate.standing())
    }

    /// Where a target has no room: how it stands, and what comes before a newcomer.
    pub fn ahead(&self, target: &str, owner: &Owner) -> Option<(Standing, Ahead)> {
        let gate = self.targets.get(target)?;
        Some((gate.standing(), gate.ahead(owner)?))
    }
}

fn limit(concurrency: Concurrency) -> Option<u64> {
    match concurrency {
        Concurrency::Fixed(limit) => Some(limit),
        Concurrency::Adaptive => None,
    }
}

/// How long somebody may wait, and beside how many.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub queue: usize,
    pub until: Instant,
}

impl Patience {
    /// What the settings allow, and the request's own deadline.
    pub fn new(overload: &Overload, deadline: Option<Instant>) -> Patience {
        let until = clock::now() + overload.wait;
        Patience { queue: overload.queue, until: deadline.map_or(until, |deadline| deadline.min(until)) }
    }
}

/// Waits at several gates at once for the first free place; at the others it is out of the line then. Says at which one it
/// is, and how long it took. A caller who leaves drops this, and is out of all lines at once.
pub async fn first(gates: &[&Arc<Gate>], owner: &Owner, patience: Patience) -> Result<(usize, Place, Duration), Shed> {
    let began = clock::now();
    let time = patience.until.saturating_duration_since(began);
    let mut last = None;
    let mut tickets: Vec<(usize, Ticket)> = Vec::with_capacity(gates.len());
    for (at, gate) in gates.iter().enumerate() {
        match gate.stand(owner.clone(), patience.queue, time) {
            Ok(ticket) => tickets.push((at, ticket)),
            // What was said first is told: the target that would have been first.
            Err(shed) => drop(last.get_or_insert(shed)),
        }
    }
    let turn = poll_fn(|cx| {
        let mut n = 0;
        while let Some((at, ticket)) = tickets.get_mut(n) {
            match Pin::new(ticket).poll(cx) {
                Poll::Ready(Ok(place)) => return Poll::Ready(Ok((*at, place))),
                Poll::Ready(Err(shed)) => {
                    last.get_or_insert(shed);
                    tickets.remove(n);
                }
                Poll::Pending => n += 1,
            }
        }
        match tickets.is_empty() {
            true => Poll::Ready(Err(last.take())),
            false => Poll::Pending,
        }
    });
    let turn = clock::timeout_at(patience.until, turn).await;
    let took = clock::since(began);
    let kind = if gates.first().is_some_and(|gate| **gate.name() == *GATEWAY) { GATEWAY } else { "target" };
    metrics().queued(kind, owner.class.name(), took);
    match turn {
        Ok(Ok((at, place))) => Ok((at, place, took)),
        Ok(Err(Some(shed))) => Err(shed),
        Ok(Err(None)) | Err(clock::Elapsed) => {
            let gate = tickets.first().map(|(_, ticket)| ticket.gate()).or(gates.first().copied());
            Err(gate.map_or_else(|| nowhere(owner), |gate| gate.late(owner)))
        }
    }
}

/// There was nothing to wait at.
fn nowhere(owner: &Owner) -> Shed {
    let (reason, place) = (Reason::Late, GATEWAY.into());
    Shed { reason, class: owner.class, place, retry_after: Duration::from_secs(1) }
}
