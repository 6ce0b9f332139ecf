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
    config::{Budget, Config, Rule, Rules, Scope},
    error::Result,
};

pub mod alert;
mod bound;
pub mod budget;
mod claim;
pub mod days;
mod denial;
pub mod fleet;
pub mod gcra;
pub mod lease;
pub mod meter;
mod moment;
mod outage;
mod permit;
pub mod purse;
pub mod raise;
mod seen;
pub mod shared;
pub mod window;

#[cfg(test)]
mod tests;

pub use bound::{Bound, Bounds, Fund};
pub use budget::Balance;
pub use fleet::{Books, counting};
pub use gcra::Standing;
pub use lease::{Account, Budgets, Ledger};
pub use meter::{Meters, Rates};
pub use permit::{Class, Permit, Reservation, Reserved};
pub use purse::{Held, Purse, usd};

use bound::{Caller, Known};
use meter::Today;
use shared::Desk;

/// What lives across reloads.
pub struct Limits {
    in_flight: Arc<AtomicU64>,
    meters: Arc<Meters>,
    budgets: Arc<Budgets>,
    known: Arc<Known>,
    /// In the place of both, where several gateways count together.
    shared: Option<Arc<Desk>>,
}

/// Tokens and money: what an attempt needs at most, or what was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub nano_usd: u64,
}

impl Limits {
    pub fn new(budgets: Arc<Budgets>) -> Limits {
        moment::begin();
        let known = budgets.known().clone();
        Limits { in_flight: Arc::default(), meters: Arc::default(), budgets, known, shared: None }
    }

    /// Limits and budgets are counted by a store that several gateways share.
    pub fn shared(budgets: Arc<Budgets>, desk: Arc<Desk>) -> Limits {
        Limits { shared: Some(desk), ..Limits::new(budgets) }
    }

    /// What binds this caller, and its tags. `now`: the wall clock, for the windows.
    pub fn bounds(&self, caller: &Principal, rules: &Rules, tags: &[(String, String)], now: SystemTime) -> Bounds {
        if caller.rules.is_empty() && (rules.tags.is_empty() || tags.is_empty()) {
            return Bounds::default();
        }
        let mut scopes = self.known.of_all(&caller.rules, now, MORE, |rule| self.bound(rule, now));
        for rule in rules.tagged(tags) {
            // A tag that is said twice binds once.
            if !scopes.iter().any(|bound| bound.scope == rule.scope) {
                scopes.push(self.bound(rule, now));
            }
        }
        if scopes.is_empty() {
            return Bounds::default();
        }
        Bounds(Some(Arc::new(Caller { scopes, now, today: Today::of(now) })))
    }

    /// The same with one more scope. Takes nothing.
    pub fn also(&self, bounds: &Bounds, rule: &Rule, now: SystemTime) -> Bounds {
        let mut more = bounds.clone();
        self.add(&mut more, rule, now);
        more
    }

    /// Where nobody else holds them they grow in their place.
    fn add(&self, bounds: &mut Bounds, rule: &Rule, now: SystemTime) {
        if bounds.scopes().iter().any(|bound| bound.scope == rule.scope) {
            return;
        }
        let none = || Arc::new(Caller { scopes: Vec::with_capacity(2), now, today: Today::of(now) });
        let caller = Arc::make_mut(bounds.0.get_or_insert_with(none));
        caller.scopes.push(self.bound(rule, caller.now));
    }

    /// What binds by this rule at this moment; made once for all requests that it binds.
    fn bound(&self, rule: &Rule, now: SystemTime) -> Arc<Bound> {
        self.known.of(rule, now, || {
            let owner = (&rule.scope, &rule.name);
            let fund = |budget: &Budget| Fund { purse: self.budgets.purse(owner, budget, now), budget: *budget };
            let limits = rule.limits.map(|limits| {
                let meter = self.meters.of(&rule.scope);
                meter.bind(&limits);
                (limits, meter)
            });
            Bound {
                scope: rule.scope.clone(),
                name: rule.name.clone(),
                limits,
                funds: rule.budgets.iter().map(fund).collect(),
                fallback: rule.fallback.clone(),
            }
        })
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
        let mut told = Vec::new();
        if let Some(caller) = &bounds.0 {
            match &self.shared {
                // All of it is taken at once, before the first attempt.
                Some(desk) => desk.glance(&caller.scopes)?,
                None => caller.enter(0, place, &mut told)?,
            }
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Permit::new(self.in_flight.clone(), bounds.clone(), place, told, self.shared.clone()))
    }

    /// One more scope binds the request from here on: the model that it asks for. `bounds`: as the exchange shows them.
    pub fn join(&self, bounds: &mut Bounds, permit: &mut Permit, rule: &Rule, now: SystemTime) -> Result<()> {
        let known = permit.scopes();
        permit.lend(|| self.add(bounds, rule, now));
        permit.join(bounds, known)
    }

    /// The next attempt goes to a provider that has a rule, or to one that has none.
    pub fn visit(&self, bounds: &mut Bounds, permit: &mut Permit, rule: Option<&Rule>, now: SystemTime) -> Result<()> {
        permit.depart();
        let Some(rule) = rule else { return Ok(()) };
        permit.lend(|| self.add(bounds, rule, now));
        permit.arrive(bounds, &rule.scope)
    }

    /// Where several gateways count together.
    pub fn desk(&self) -> Option<&Arc<Desk>> {
        self.shared.as_ref()
    }

    /// For the gateway's own question whether a provider answers: nobody's account, and it uses nothing.
    pub fn own_call(&self) -> Reserved {
        Reserved::own()
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn budgets(&self) -> &Arc<Budgets> {
        &self.budgets
    }

    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// After a reload: state stays, bounds are asked for with each request.
    pub fn configure(&self, config: &Config) {
        self.budgets.configure(configured(config));
        self.sweep();
    }

    /// Forgets what nobody uses.
    pub fn sweep(&self) {
        self.known.forget();
        self.meters.sweep(window::day_of(SystemTime::now()));
    }
}

/// Every rule that the files state.
pub fn configured(config: &Config) -> impl Iterator<Item = Rule> + '_ {
    let teams = config.teams.iter().filter_map(|(name, team)| team.rule(&Arc::from(name.as_str())));
    let organisations =
        config.organisations.iter().map(|(name, all)| (Scope::Organisation as fn(_) -> _, name, &all.terms));
    let users = config.users.iter().map(|(name, user)| (Scope::User as fn(_) -> _, name, &user.terms));
    let people = organisations.chain(users).filter_map(|(scope, name, terms)| {
        let name: Arc<str> = name.as_str().into();
        Rule::falling_back(scope(name.clone()), &name, terms.limits, terms.budgets.clone(), terms.fallback.clone())
    });
    teams.chain(people).chain(config.rules.all().cloned())
}

/// Scopes of tags, of a model and of a provider may come to those of a caller.
const MORE: usize = 4;

impl Need {
    /// What is left of it without what was used elsewhere.
    pub fn without(self, other: Need) -> Need {
        Need {
            input_tokens: self.input_tokens.saturating_sub(other.input_tokens),
            output_tokens: self.output_tokens.saturating_sub(other.output_tokens),
            nano_usd: self.nano_usd.saturating_sub(other.nano_usd),
        }
    }
}
