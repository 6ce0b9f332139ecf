//! May they now: the permit without which nothing reaches an upstream. `enter` counts requests and places before the body
//! is read, `Permit::reserve` tokens and money before each attempt; what was really used is settled behind the queue.
//! Whoever has no limit costs nothing here: no lookup, no clock, no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use crate::{
    auth::Principal,
    config::{Budget, Team},
    error::Result,
    telemetry::{InFlight, metrics},
};

pub mod budget;
pub mod gcra;
pub mod lease;
pub mod meter;
pub mod purse;
pub mod window;

#[cfg(test)]
mod tests;

pub use budget::Balance;
pub use gcra::Standing;
pub use lease::{Budgets, Ledger};
pub use meter::{Bound, Meters, Rates};
pub use purse::{Held, Purse, usd};

/// Who spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A caller with a key.
    Client,
    /// Probes and the gateway's own calls.
    System,
}

/// What lives across reloads.
pub struct Limits {
    in_flight: Arc<AtomicU64>,
    meters: Arc<Meters>,
    budgets: Arc<Budgets>,
}

/// The limits of one caller; empty for most.
#[derive(Debug, Clone, Default)]
pub struct Bounds(Option<Arc<Caller>>);

#[derive(Debug)]
struct Caller {
    scopes: Vec<Bound>,
    fund: Option<(Arc<Purse>, Budget)>,
    now: SystemTime,
}

/// The right to call upstreams for one request. Made only here; dropping it gives the place back.
pub struct Permit {
    class: Class,
    in_flight: Arc<AtomicU64>,
    _gauge: InFlight,
    bounds: Bounds,
    /// It has one, to be given back.
    place: bool,
    taken: Option<Box<Reservation>>,
}

/// The right to one attempt. Only a permit gives it, and it is used up by signing.
#[derive(Debug)]
pub struct Reserved {
    class: Class,
}

/// What one attempt may use at most, with what attempts before it used already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub nano_usd: u64,
}

/// What a request has taken, on its way to the settle queue.
#[derive(Debug)]
pub struct Reservation {
    /// Tokens by scope, in the order of the caller's.
    tokens: Vec<u64>,
    money: Option<Held>,
    bounds: Bounds,
}

impl Limits {
    pub fn new(budgets: Arc<Budgets>) -> Limits {
        Limits { in_flight: Arc::default(), meters: Arc::default(), budgets }
    }

    /// What binds this caller. `now`: the wall clock, for the budget's window.
    pub fn bounds(&self, caller: &Principal, now: SystemTime) -> Bounds {
        if caller.rules.is_empty() {
            return Bounds::default();
        }
        let fund = caller.team.as_ref().zip(caller.team_budget());
        let fund = fund.map(|(team, budget)| (self.budgets.purse(team, budget.per, now), budget));
        Bounds(Some(Arc::new(Caller { scopes: self.meters.of(caller), fund, now })))
    }

    /// Before the body is read: a request and a place from each scope. Money is not asked for yet: what is free may pass
    /// when nothing is left, and only the target tells.
    pub fn enter(&self, bounds: &Bounds) -> Result<Permit> {
        self.permit(bounds, true)
    }

    /// For a question within a request: it counts as a request, and needs no place beside the one that the request has.
    pub fn beside(&self, bounds: &Bounds) -> Result<Permit> {
        self.permit(bounds, false)
    }

    fn permit(&self, bounds: &Bounds, place: bool) -> Result<Permit> {
        if let Some(caller) = &bounds.0 {
            caller.enter(place)?;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            class: Class::Client,
            in_flight: self.in_flight.clone(),
            _gauge: metrics().enter(),
            bounds: bounds.clone(),
            place,
            taken: None,
        })
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn budgets(&self) -> &Arc<Budgets> {
        &self.budgets
    }

    /// After a reload: state stays, bounds are asked for with each request.
    pub fn set_teams(&self, teams: &std::collections::BTreeMap<String, Team>) {
        self.budgets.set_teams(teams);
        self.meters.sweep();
    }

    /// Forgets what nobody uses.
    pub fn sweep(&self) {
        self.meters.sweep();
    }
}

impl Caller {
    fn enter(&self, place: bool) -> Result<()> {
        for (at, scope) in self.scopes.iter().enumerate() {
            if let Err(refused) = if place { scope.enter() } else { scope.pass() } {
                self.scopes[..at].iter().for_each(|scope| scope.undo(place));
                return Err(refused);
            }
        }
        Ok(())
    }
}

impl Bounds {
    /// The tightest rates, for headers; `None` when there is no rate limit.
    pub fn rates(&self) -> Option<Rates> {
        let caller = self.0.as_ref()?;
        let rates = caller.scopes.iter().map(Bound::rates).reduce(Rates::and)?;
        (rates != Rates::default()).then_some(rates)
    }

    pub fn budget(&self) -> Option<&Budget> {
        self.0.as_ref()?.fund.as_ref().map(|(_, budget)| budget)
    }

    // For decisions that are only looked at: nothing is taken, held or counted.

    pub fn scopes(&self) -> &[Bound] {
        self.0.as_ref().map_or(&[], |caller| &caller.scopes)
    }

    pub fn purse(&self) -> Option<(&Arc<Purse>, &Budget)> {
        self.0.as_ref()?.fund.as_ref().map(|(purse, budget)| (purse, budget))
    }

    /// What `Limits::enter` would say now.
    pub fn would_enter(&self) -> Result<()> {
        self.scopes().iter().try_for_each(Bound::would_enter)
    }

    /// What `Permit::reserve` would say now to a request that holds nothing.
    pub fn would_reserve(&self, need: Need) -> Result<()> {
        self.scopes().iter().try_for_each(|scope| scope.would_take(need.input_tokens, need.output_tokens))?;
        match self.0.as_deref() {
            Some(Caller { fund: Some((purse, budget)), now, .. }) => purse.would_hold(need.nano_usd, budget, *now),
            _ => Ok(()),
        }
    }
}

impl Permit {
    /// Is there anything that `reserve` would have to count?
    pub fn counts(&self) -> bool {
        self.bounds.0.is_some()
    }

    /// For a caller without limits, or an attempt that uses nothing.
    pub fn free(&self) -> Reserved {
        Reserved { class: self.class }
    }

    /// Nano-dollars that an attempt may reserve now, what this request holds included; `None` without a budget.
    pub fn left(&self) -> Option<u64> {
        let (purse, budget) = self.bounds.0.as_ref()?.fund.as_ref()?;
        let held = self.taken.as_ref().and_then(|taken| taken.money.as_ref()).map_or(0, Held::amount);
        // Not read yet: `reserve` waits for it, and then knows.
        Some(purse.balance(budget.nano_usd).map_or(budget.nano_usd, |balance| balance.left.saturating_add(held)))
    }

    /// Before each attempt: tokens and money for it. A later attempt only tops up what is held already; when that fails
    /// the attempt must not be made.
    pub async fn reserve(&mut self, need: Need) -> Result<Reserved> {
        let Some(caller) = &self.bounds.0 else { return Ok(self.free()) };
        let taken = self.taken.get_or_insert_with(|| Reservation::of(caller));
        taken.top_up(caller, need)?;
        if let Some((purse, budget)) = &caller.fund {
            purse.hold(&mut taken.money, need.nano_usd, budget, caller.now).await?;
        }
        Ok(Reserved { class: self.class })
    }

    /// For what a provider did already on the caller's account: nothing is asked, so nothing is refused, and the budget pays
    /// when it is settled.
    pub async fn owe(&mut self) -> Result<()> {
        let Some(caller) = &self.bounds.0 else { return Ok(()) };
        let taken = self.taken.get_or_insert_with(|| Reservation::of(caller));
        match &caller.fund {
            Some((purse, budget)) => purse.hold(&mut taken.money, 0, budget, caller.now).await,
            None => Ok(()),
        }
    }

    /// The request has ended: what it took goes to the settle queue, its place is given back.
    pub fn end(mut self) -> Option<Box<Reservation>> {
        self.taken.take()
    }
}

impl Reservation {
    fn of(caller: &Arc<Caller>) -> Box<Reservation> {
        let bounds = Bounds(Some(caller.clone()));
        Box::new(Reservation { tokens: vec![0; caller.scopes.len()], money: None, bounds })
    }

    /// Tokens from every scope, or from none.
    fn top_up(&mut self, caller: &Caller, need: Need) -> Result<()> {
        let mut fresh = Vec::with_capacity(self.tokens.len());
        for (scope, has) in caller.scopes.iter().zip(&self.tokens) {
            match scope.take_tokens(need.input_tokens, need.output_tokens, *has) {
                Ok(more) => fresh.push(more),
                Err(refused) => {
                    caller.scopes.iter().zip(&fresh).for_each(|(scope, more)| scope.correct_tokens(*more, 0));
                    return Err(refused);
                }
            }
        }
        self.tokens.iter_mut().zip(fresh).for_each(|(has, more)| *has += more);
        Ok(())
    }

    /// What an attempt at a model without a price counts as; `None` without a budget.
    pub fn unpriced(&self) -> Option<u64> {
        self.bounds.budget().map(|budget| budget.unpriced_nano_usd)
    }

    /// What was really used. Takes itself, so that nothing is settled twice.
    pub fn settle(self, tokens: u64, nano_usd: u64) {
        if let Some(caller) = &self.bounds.0 {
            caller.scopes.iter().zip(&self.tokens).for_each(|(scope, taken)| scope.correct_tokens(*taken, tokens));
        }
        if let Some(money) = self.money {
            money.settle(nano_usd);
        }
    }
}

impl Reserved {
    pub fn class(&self) -> Class {
        self.class
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(caller) = self.bounds.0.as_ref().filter(|_| self.place) {
            caller.scopes.iter().for_each(Bound::leave);
        }
    }
}
