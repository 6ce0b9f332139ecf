//! The seam to counters that several gateways share: plain data in and out, one call before an attempt. Whoever implements
//! `Shared` counts; what a request wants, and what becomes of it when nobody answers, is decided here and in `claim`.
//!
//! In this mode a request takes nothing before it: `enter` only remembers what was refused a moment ago. The call takes
//! requests, places, tokens and money of all scopes together, or nothing. Every quantity is a whole number below 2^53.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use futures_util::future::BoxFuture;

use super::{bound::Bound, claim::Claimed, denial::Denied, gcra::Refused, window::Window};
use crate::{
    clock,
    config::{Per, Scope, Unit},
    error::{Error, Kind, Result},
};

#[cfg(test)]
pub mod plain;

/// Counters that several gateways share.
pub trait Shared: fmt::Debug + Send + Sync {
    /// Takes all that the claim wants, or nothing; the time is the store's. Also for later attempts of the same claim, whose
    /// wants say what it `has`; and with wants that want nothing more, to look.
    fn take<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Answer, Down>>;

    /// What was taken turned out to be another amount: places end, money is spent. Never waits; may come twice, or after
    /// the claim's lease has ended, and counts once.
    fn settle(&self, settled: Settled);

    /// Their owners live: places and money are kept for another lease.
    fn renew(&self, held: Vec<Settled>, lease: Duration);
}

/// The store does not answer. Nobody knows whether it took anything: what it did comes back when its lease ends.
#[derive(Debug, Clone)]
pub struct Down(pub String);

/// Unique among all gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u128);

/// What one request wants before an attempt.
#[derive(Debug, Clone)]
pub struct Claim {
    pub id: Id,
    /// Places and money that nobody settles or renews come back after it.
    pub lease: Duration,
    pub wants: Vec<Want>,
}

/// Of one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub counter: Counter,
    /// The limit: units a minute or in the window, places, nano-dollars with all raises.
    pub bound: u64,
    /// What the claim has of it, and is to have.
    pub has: u64,
    pub wants: u64,
    /// It only reports: what does not fit is not taken, and nobody is refused.
    pub shadow: bool,
}

/// One counter: with its window, the key that it lies under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Counter {
    pub scope: Scope,
    pub counted: Counted,
    /// Of the wall clock, where the request began; `None`: a bucket that drains, or places.
    pub window: Option<Window>,
}

/// What is counted, and so how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    /// A bucket (`gcra`) that takes a minute's worth at once. It knows no ids: the claim keeps what it took.
    Requests,
    InputTokens,
    OutputTokens,
    Tokens,
    /// By id and lease: as many as are held.
    Places,
    /// A number in a window. It knows no ids either.
    DayRequests,
    DayTokens,
    /// By id and lease: spent, and held (`budget`). Blocks are for stores that are slower than requests.
    Money(Per),
    /// Of what a provider grants: a number in a window.
    Quota(Unit),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// One for each want, in their order.
    Granted(Vec<Left>),
    /// Nothing was taken. `at`: the first want in the way.
    Refused { at: usize, why: Why },
}

/// What is left of a counter now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub left: u64,
    /// Until all of it is there again.
    pub full_after: Duration,
    /// A shadow had no room, and took nothing.
    pub denied: Option<Why>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It fits after this time, if nobody takes anything meanwhile.
    Wait(Duration),
    /// More than ever fits.
    TooMuch,
    /// Money: requests under way hold what is left.
    Held,
    /// Money: it is spent, or less is left than this needs.
    Spent,
}

/// What a claim had, and what was used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub id: Id,
    pub items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub counter: Counter,
    pub had: u64,
    /// Of a place nothing.
    pub used: u64,
}

impl Counted {
    /// As files and messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Counted::Requests => "requests_per_minute",
            Counted::InputTokens => "input_tokens_per_minute",
            Counted::OutputTokens => "output_tokens_per_minute",
            Counted::Tokens => "tokens_per_minute",
            Counted::Places => "concurrent",
            Counted::DayRequests => "requests_per_day",
            Counted::DayTokens => "tokens_per_day",
            Counted::Money(_) => "budget",
            Counted::Quota(Unit::Requests) => "quota_requests",
            Counted::Quota(Unit::InputTokens) => "quota_input_tokens",
            Counted::Quota(Unit::OutputTokens) => "quota_output_tokens",
            Counted::Quota(Unit::Tokens) => "quota_tokens",
            Counted::Quota(Unit::Usd) => "quota_usd",
        }
    }

    /// Held by id, until it is settled or its lease ends.
    pub fn has_lease(self) -> bool {
        matches!(self, Counted::Places | Counted::Money(_))
    }
}

/// Where permits of this process hand in their claims.
#[derive(Debug)]
pub struct Desk {
    engine: Arc<dyn Shared>,
    lease: Duration,
    node: u64,
    next: AtomicU64,
    /// What is under way, to be renewed.
    open: DashMap<Id, Weak<Vec<Item>>>,
    /// Refused a moment ago, and until when: it is not asked again before.
    recent: DashMap<(Scope, &'static str), (Instant, Denied)>,
}

impl Desk {
    pub fn new(engine: Arc<dyn Shared>, lease: Duration) -> Result<Arc<Desk>> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::new(Kind::Internal, "the system gives no randomness"))?;
        let (node, next) = (u64::from_be_bytes(random), AtomicU64::new(0));
        Ok(Arc::new(Desk { engine, lease, node, next, open: DashMap::new(), recent: DashMap::new() }))
    }

    pub fn engine(&self) -> &Arc<dyn Shared> {
        &self.engine
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }

    pub(super) fn open(&self, place: bool) -> Claimed {
        Claimed::new(self.id(), place, self.engine.clone())
    }

    /// For a claim that is handed to the engine itself.
    pub fn id(&self) -> Id {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        Id(u128::from(self.node) << 64 | u128::from(next))
    }

    /// What is known without asking: who was told to wait is told so again until then.
    pub(super) fn glance(&self, scopes: &[Bound]) -> Result<()> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let now = clock::now();
        for bound in scopes {
            let Some((limits, _)) = &bound.limits else { continue };
            for (limit, count, _) in limits.named() {
                let known = self.recent.get(&(bound.scope.clone(), limit)).map(|known| *known);
                let Some((until, denied)) = known.filter(|(until, denied)| *until > now && Some(denied.bound) == count)
                else {
                    continue;
                };
                bound.denied(Denied { refused: Refused::Wait(until - now), ..denied })?;
            }
        }
        Ok(())
    }

    pub(super) fn remember(&self, scope: &Scope, denied: Denied) {
        // A place comes back at any time, and a long wait may be cut short by a change of the limit.
        if let Refused::Wait(wait) = denied.refused
            && denied.limit != Counted::Places.name()
        {
            let until = clock::now() + wait.min(RECENT);
            self.recent.insert((scope.clone(), denied.limit), (until, denied));
        }
    }

    pub(super) fn keep(&self, id: Id, items: &Arc<Vec<Item>>) {
        self.open.insert(id, Arc::downgrade(items));
    }

    /// Every third of a lease: what is under way is renewed, what is over is forgotten.
    pub fn renew(&self) {
        let now = clock::now();
        self.recent.retain(|_, (until, _)| *until > now);
        let mut held = Vec::new();
        self.open.retain(|id, items| {
            let Some(items) = items.upgrade() else { return false };
            held.push(Settled { id: *id, items: items.to_vec() });
            true
        });
        if !held.is_empty() {
            self.engine.renew(held, self.lease);
        }
    }

    /// The store did not answer.
    pub(super) fn down(&self, down: &Down) -> Error {
        let message = "limits and budgets cannot be counted right now, and nothing is sent without; try again shortly";
        tracing::debug!(why = down.0, "a shared store did not answer");
        Error::new(Kind::Overloaded, message).retry_after(Duration::from_secs(1))
    }
}

/// The longest that a refusal is remembered.
const RECENT: Duration = Duration::from_secs(1);
