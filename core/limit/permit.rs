//! The right to call upstreams for one request, and what it has taken of its limits and budgets: from every scope or from none,
//! topped up by later attempts, corrected behind the settle queue, and given back whatever happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    Need,
    bound::{Bounds, Caller},
    claim::Claimed,
    meter::{Rates, Taken},
    moment,
    purse::{Held, Owner},
    shared::Desk,
};
use crate::{clock, config::Scope, error::Result};

/// Who spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A caller with a key.
    Client,
    /// Probes and the gateway's own calls.
    System,
}

/// Made only by `Limits`; dropping it gives the places back.
pub struct Permit {
    class: Class,
    in_flight: Arc<AtomicU64>,
    bounds: Bounds,
    /// It has one in each scope, to be given back.
    place: bool,
    /// Which of the scopes is that of the provider that the running attempt is at.
    at: Option<usize>,
    taken: Option<Box<Reservation>>,
    /// What shadow limits and soft thresholds say, for the trace.
    told: Vec<String>,
    shared: Option<Arc<Desk>>,
}

/// The right to one attempt. Only a permit gives it, and it is used up by signing.
#[derive(Debug)]
pub struct Reserved {
    class: Class,
}

/// What a request has taken, on its way to the settle queue.
#[derive(Debug, Default)]
pub struct Reservation {
    /// By scope, in their order.
    tokens: Vec<Tokens>,
    /// By scope and budget, in their order.
    money: Vec<Money>,
    /// What is left of the limits, as it was when they last gave something.
    rates: Option<Rates>,
    /// As long as it lives, what it holds is renewed.
    owner: Arc<Owner>,
    bounds: Bounds,
    /// Instead of both, where a store is shared.
    claimed: Option<Claimed>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tokens {
    taken: Taken,
    /// Of them what came with the running attempt: given back if another scope refuses it.
    fresh: Taken,
    /// A shadow limit had no room: what such a request uses is not counted.
    skipped: bool,
}

#[derive(Debug, Default)]
struct Money {
    held: Option<Held>,
    /// The running attempt raised it, from this.
    raised: Option<Option<u64>>,
}

impl Permit {
    pub(super) fn new(
        in_flight: Arc<AtomicU64>,
        bounds: Bounds,
        place: bool,
        told: Vec<String>,
        shared: Option<Arc<Desk>>,
    ) -> Permit {
        Permit { class: Class::Client, in_flight, bounds, place, at: None, taken: None, told, shared }
    }

    /// Is there anything that `reserve` would have to count?
    pub fn counts(&self) -> bool {
        !self.bounds.is_empty()
    }

    /// Requests and places are counted with the first attempt, not before the body is read.
    pub fn counts_late(&self) -> bool {
        self.counts() && self.shared.is_some()
    }

    /// For a caller without limits, or an attempt that uses nothing.
    pub fn free(&self) -> Reserved {
        Reserved { class: self.class }
    }

    /// What is to stand in the trace, once.
    pub fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    /// What was left of the limits when the attempt under way had taken its part; `None`: nothing was taken, or refused.
    pub fn rates(&self) -> Option<Rates> {
        let taken = self.taken.as_ref()?;
        match &taken.claimed {
            // As the store that several share has them.
            Some(claimed) => claimed.rates(),
            None => taken.rates.filter(|rates| *rates != Rates::default()),
        }
    }

    pub(super) fn scopes(&self) -> usize {
        self.bounds.scopes().len()
    }

    /// Lends its bounds to whoever has one scope more for them: what nobody else holds grows in its place.
    pub(super) fn lend(&mut self, grow: impl FnOnce()) {
        self.bounds = Bounds::default();
        grow();
    }

    /// `bounds` have one scope more than the `known` ones.
    pub(super) fn join(&mut self, bounds: &Bounds, known: usize) -> Result<()> {
        self.bounds = bounds.clone();
        let Some(caller) = bounds.0.as_ref().filter(|caller| caller.scopes.len() > known) else { return Ok(()) };
        let entered = match &self.shared {
            Some(desk) => desk.glance(&caller.scopes[known..]),
            None => caller.enter(known, self.place, &mut self.told),
        };
        if entered.is_err() {
            // Where it did not enter there is nothing to leave, and where it did the request counts no more: all agree, or none.
            self.bounds = bounds.first(known);
            if self.shared.is_none() {
                self.bounds.scopes().iter().for_each(|bound| bound.forgo(caller.today));
            }
        }
        entered
    }

    /// The attempt before is over: the place at its provider is free.
    pub(super) fn depart(&mut self) {
        let left = self.at.take().and_then(|at| self.bounds.scopes().get(at));
        if let Some(bound) = left.filter(|_| self.place && self.shared.is_none()) {
            bound.leave();
        }
    }

    /// An attempt at a provider begins: it counts as a request there, and has a place.
    pub(super) fn arrive(&mut self, bounds: &Bounds, provider: &Scope) -> Result<()> {
        self.bounds = bounds.clone();
        let Some(caller) = &bounds.0 else { return Ok(()) };
        // The newest ones stand last.
        let Some(at) = caller.scopes.iter().rposition(|bound| bound.scope == *provider) else { return Ok(()) };
        let bound = &caller.scopes[at];
        match &self.shared {
            Some(desk) => desk.glance(std::slice::from_ref(bound))?,
            None => {
                if let Some(denied) = bound.enter(moment::millis(clock::now()), caller.today, self.place)? {
                    self.told.push(bound.shadowed(denied));
                }
            }
        }
        self.at = Some(at);
        if let Some(Claimed { attempts, .. }) = self.taken.as_mut().and_then(|taken| taken.claimed.as_mut()) {
            *attempts += 1;
        }
        Ok(())
    }

    /// Nano-dollars that an attempt may reserve now, what this request holds included; `None` without a budget.
    /// `elsewhere`: what of it was used at other providers.
    pub fn left(&self, elsewhere: Need) -> Option<u64> {
        let caller = self.bounds.0.as_ref()?;
        let mut number = 0;
        let mut left: Option<u64> = None;
        for (at, bound) in caller.scopes.iter().enumerate() {
            for fund in &bound.funds {
                let held = self.taken.as_ref().and_then(|taken| taken.money.get(number)?.held.as_ref());
                let held = held.map_or(0, Held::amount);
                number += 1;
                let other = match bound.is_provider() {
                    true if self.at == Some(at) => elsewhere.nano_usd,
                    true => continue,
                    false => 0,
                };
                let own = match &self.shared {
                    Some(_) => u64::MAX,
                    None => fund.left().saturating_add(held).saturating_add(other),
                };
                left = Some(left.map_or(own, |left| left.min(own)));
            }
        }
        left
    }

    /// Before each attempt: tokens and money for it, of all scopes or of none. A later attempt only tops up what is held
    /// already; when that fails the attempt must not be made. `elsewhere`: what of the need was used at other providers.
    pub async fn reserve(&mut self, need: Need, elsewhere: Need) -> Result<Reserved> {
        let Some(caller) = &self.bounds.0 else { return Ok(self.free()) };
        let taken = self.taken.get_or_insert_default();
        taken.bounds = self.bounds.clone();
        let need = |at: usize| match caller.scopes[at].is_provider() {
            true if self.at == Some(at) => Some(need.without(elsewhere)),
            // It was left: what was used there stays counted as it is.
            true => None,
            false => Some(need),
        };
        match &self.shared {
            Some(desk) => {
                let claimed = taken.claimed.get_or_insert_with(|| desk.open(self.place));
                desk.claim(claimed, caller, self.at, &need, &mut self.told).await?;
            }
            None => {
                taken.take(caller, &need, &mut self.told)?;
                if let Err(refused) = taken.hold(caller, &need, &mut self.told).await {
                    taken.give_back(caller);
                    return Err(refused);
                }
            }
        }
        Ok(Reserved { class: self.class })
    }

    /// For what a provider did already on the caller's account: nothing is asked, so nothing is refused, and the budgets pay
    /// when it is settled.
    pub async fn owe(&mut self) -> Result<()> {
        if let Some(desk) = &self.shared {
            let taken = self.taken.get_or_insert_default();
            taken.claimed.get_or_insert_with(|| desk.open(self.place)).owes = true;
        }
        self.reserve(Need::default(), Need::default()).await.map(drop)
    }

    /// The request has ended: what it took goes to the settle queue, its places are given back.
    pub fn end(mut self) -> Option<Box<Reservation>> {
        self.taken.take()
    }
}

impl Reservation {
    /// Tokens from every scope, or from none.
    fn take(&mut self, caller: &Caller, need: &impl Fn(usize) -> Option<Need>, told: &mut Vec<String>) -> Result<()> {
        self.rates = None;
        if self.tokens.len() < caller.scopes.len() {
            self.tokens.reserve_exact(caller.scopes.len() - self.tokens.len());
            self.tokens.resize(caller.scopes.len(), Tokens::default());
        }
        let (mut rates, now) = (Rates::default(), moment::millis(clock::lately()));
        for (at, bound) in caller.scopes.iter().enumerate() {
            let own = &mut self.tokens[at];
            own.fresh = Taken::default();
            let Some(need) = need(at) else { continue };
            let outcome = bound.taking(need).and_then(|all| {
                let more = all.beyond(own.taken);
                let denied = bound.take(more, now, caller.today, &mut rates)?;
                own.skipped = denied.is_some();
                told.extend(denied.map(|denied| bound.shadowed(denied)));
                Ok(if denied.is_some() { Taken::default() } else { more })
            });
            match outcome {
                Ok(more) => (own.taken, own.fresh) = (own.taken.and(more), more),
                Err(refused) => {
                    self.tokens[at + 1..].iter_mut().for_each(|later| later.fresh = Taken::default());
                    self.give_back(caller);
                    return Err(refused);
                }
            }
        }
        self.rates = Some(rates);
        Ok(())
    }

    /// What the running attempt took.
    fn give_back(&mut self, caller: &Caller) {
        self.rates = None;
        for (bound, own) in caller.scopes.iter().zip(&mut self.tokens) {
            let fresh = std::mem::take(&mut own.fresh);
            if fresh != Taken::default() {
                bound.correct(caller.today.day, fresh, Taken::default());
                own.taken = own.taken.beyond(fresh);
            }
        }
    }

    /// Money from every budget, or from none.
    async fn hold(
        &mut self,
        caller: &Caller,
        need: &impl Fn(usize) -> Option<Need>,
        told: &mut Vec<String>,
    ) -> Result<()> {
        let funds = caller.scopes.iter().map(|bound| bound.funds.len()).sum();
        if self.money.len() < funds {
            self.money.reserve_exact(funds - self.money.len());
            self.money.resize_with(funds, Money::default);
        }
        self.money.iter_mut().for_each(|money| money.raised = None);
        // Budgets keep the real time, in a rehearsal too.
        let (mut number, moment) = (0, moment::nanos(Instant::now()));
        for (at, bound) in caller.scopes.iter().enumerate() {
            for fund in &bound.funds {
                let money = &mut self.money[number];
                number += 1;
                let Some(need) = need(at) else { continue };
                let had = money.held.as_ref().map(Held::amount);
                let owner = (&mut money.held, &self.owner);
                let holding = fund.purse.hold(owner, need.nano_usd, &fund.budget, (caller.now, moment));
                if let Err(refused) = holding.await {
                    self.lower(caller);
                    return Err(refused);
                }
                if had.is_none() && fund.budget.soft.is_some() && fund.purse.past_soft(&fund.budget) {
                    told.push(fund.purse.soft_note(&fund.budget));
                }
                money.raised = Some(had);
            }
        }
        Ok(())
    }

    /// What the running attempt raised goes back to what it was.
    fn lower(&mut self, caller: &Caller) {
        let funds = caller.scopes.iter().flat_map(|bound| &bound.funds);
        for (fund, money) in funds.zip(&mut self.money) {
            if let Some(had) = money.raised.take() {
                fund.purse.lower(&mut money.held, &self.owner, had);
            }
        }
    }

    /// What an attempt at a model without a price counts as; `None` without a budget.
    pub fn unpriced(&self) -> Option<u64> {
        self.bounds.unpriced()
    }

    /// What was really used, in all and `at` one provider. Takes itself, so that nothing is settled twice.
    pub fn settle(self, used: Need, at: impl Fn(&str) -> Need) {
        let Some(caller) = &self.bounds.0 else { return };
        let of = |scope: &Scope| if let Scope::Provider(name) = scope { at(name) } else { used };
        if let Some(claimed) = self.claimed {
            return claimed.settle(caller, of);
        }
        let (mut tokens, mut money) = (self.tokens.iter(), self.money.iter());
        for bound in &caller.scopes {
            let used = of(&bound.scope);
            if let Some(own) = tokens.next() {
                let used = if own.skipped { Need::default() } else { used };
                bound.correct(caller.today.day, own.taken, Taken::used(used.input_tokens, used.output_tokens));
            }
            for (fund, money) in bound.funds.iter().zip(&mut money) {
                if let Some(held) = &money.held {
                    fund.purse.settle(held, &self.owner, used.nano_usd);
                }
            }
        }
    }
}

impl Reserved {
    pub(super) fn own() -> Reserved {
        Reserved { class: Class::System }
    }

    pub fn class(&self) -> Class {
        self.class
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.place || self.shared.is_some() {
            return;
        }
        let mine = |at: usize, provider: bool| !provider || self.at == Some(at);
        for (at, bound) in self.bounds.scopes().iter().enumerate() {
            if mine(at, bound.is_provider()) {
                bound.leave();
            }
        }
    }
}
