//! The seam to counters that several gateways share: plain data in and out, in the words of `store::counters`, one call before an
//! attempt. Whoever implements `Shared` counts; what a request wants, and what becomes of it when nobody answers, is decided
//! here and in `claim`.
//!
//! In this mode a request takes nothing before it: `enter` only remembers what was refused a moment ago. The call takes
//! requests, places, tokens and money of all scopes together, or nothing. Every quantity is a whole number below 2^53.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use dashmap::DashMap;
use futures_util::future::BoxFuture;

use super::{Purse, bound::Bound, claim::Claimed, denial::Denied, gcra::Refused, window::Window};
use crate::{
    clock,
    config::{Per, Scope, Unit},
    error::{Error, Kind, Result},
    store::counters::{Claim, Counter, Form, Held, Id, Outcome, Settled, Standing},
};

#[cfg(test)]
pub mod plain;

/// Counters that several gateways share, as permits use them. What a claim is, and what its answer, the store's counters say.
pub trait Shared: fmt::Debug + Send + Sync {
    /// Takes all that the claim wants, or nothing; the time is the store's. Also for later attempts of the same claim, whose
    /// wants say what it `has`; and with wants that want nothing more, to look.
    fn take<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Outcome, Down>>;

    /// What was taken turned out to be another amount: places end, money is spent. Never waits; may come twice, or after
    /// the claim's lease has ended, and counts once. All of it is of this claim.
    fn settle(&self, id: Id, settled: Vec<Settled>);

    /// Their owners live: places and money are kept for another lease.
    fn renew(&self, held: Vec<Held>, lease: Duration);

    /// How a counter stands.
    fn look<'a>(&'a self, counter: &'a Counter) -> BoxFuture<'a, Result<Standing, Down>>;
}

/// The store does not answer. Nobody knows whether it took anything: what it did comes back when its lease ends.
#[derive(Debug, Clone)]
pub struct Down(pub String);

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
    /// By id and lease, as money: what was used, and what requests under way may use at most.
    DayTokens,
    /// By id and lease: spent, and held (`budget`). Blocks are for stores that are slower than requests.
    Money(Per),
    /// Of what a provider grants: a number in a window.
    Quota(Unit),
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

    fn form(self) -> Form {
        match self {
            Counted::Requests | Counted::InputTokens | Counted::OutputTokens | Counted::Tokens => Form::Bucket,
            Counted::DayRequests | Counted::Quota(_) => Form::Sum,
            Counted::Places => Form::Places,
            Counted::DayTokens | Counted::Money(_) => Form::Money,
        }
    }
}

/// Its name is its own: the scope's id, which may hold anything, stands last. `window`: of the wall clock, where the request
/// began; `None`: a bucket that drains, or places.
pub fn counter(scope: &Scope, counted: Counted, window: Option<&Window>, now: SystemTime) -> Counter {
    let id = window.map_or("-", |window| window.id.as_str());
    let keep = window.and_then(|window| window.ends_in(now)).map(|ends| (ends + KEEP).as_secs());
    // Under the other name they were once a plain number.
    let what = if counted == Counted::DayTokens { "day_tokens" } else { counted.name() };
    let name = format!("{what}:{id}:{}:{}", scope.kind(), scope.id());
    Counter { name, form: counted.form(), keep }
}

/// The counter of a budget.
pub fn money(purse: &Purse, now: SystemTime) -> Counter {
    counter(&purse.scope, Counted::Money(purse.per), Some(&purse.window), now)
}

/// Where permits of this process hand in their claims.
#[derive(Debug)]
pub struct Desk {
    engine: Arc<dyn Shared>,
    lease: Duration,
    node: u64,
    next: AtomicU64,
    /// What is under way, to be renewed.
    open: DashMap<Id, Weak<Vec<Counter>>>,
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
        Id(u128::from(self.node) << 64 | u128::from(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// What is known without asking: who was told to wait is told so again until then.
    pub(super) fn glance(&self, scopes: &[Arc<Bound>]) -> Result<()> {
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

    pub(super) fn keep(&self, id: Id, leased: &Arc<Vec<Counter>>) {
        self.open.insert(id, Arc::downgrade(leased));
    }

    /// Every third of a lease: what is under way is renewed, what is over is forgotten.
    pub fn renew(&self) {
        let now = clock::now();
        self.recent.retain(|_, (until, _)| *until > now);
        let mut held = Vec::new();
        self.open.retain(|id, leased| {
            let Some(leased) = leased.upgrade() else { return false };
            held.extend(leased.iter().map(|counter| Held { id: *id, counter: counter.clone() }));
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

/// Counters of a window past: requests that began in it may still end.
const KEEP: Duration = Duration::from_secs(2 * 86_400);
/// The longest that a refusal is remembered.
const RECENT: Duration = Duration::from_secs(1);
