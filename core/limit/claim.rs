//! What a permit wants of counters that several gateways share, in their words, and what their answer means. The other way to
//! count beside `Reservation`'s own; the rules (who is topped up, what a provider sees of it) are the permit's.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Need,
    bound::{Bound, Caller},
    budget::Short,
    denial::{A_MOMENT, Denied},
    gcra::{Refused, Standing},
    meter::{Rates, Taken},
    shared::{Counted, Desk, Shared, counter},
    window::Window,
};
use crate::{
    config::{Per, Scope, Unit},
    error::Result,
    store::counters::{Claim, Counter, Form, Id, Left, Outcome, Settled, Want, Why},
};

/// What a request holds there.
#[derive(Debug)]
pub struct Claimed {
    id: Id,
    place: bool,
    /// Only money is counted: what was done already is not refused.
    pub owes: bool,
    engine: Arc<dyn Shared>,
    /// Attempts at the provider that the request is at: each is a request there.
    pub attempts: u64,
    held: Vec<Holding>,
    /// Those that have a lease: as long as somebody has them they are renewed.
    leased: Arc<Vec<Counter>>,
}

#[derive(Debug, Clone)]
struct Holding {
    /// The place of its scope among the caller's.
    at: usize,
    what: What,
    counter: Counter,
    bound: u64,
    amount: u64,
    left: Left,
    shadow: bool,
}

/// What a want is of, beyond its counter.
#[derive(Debug, Clone)]
struct What {
    counted: Counted,
    window: Option<Window>,
}

/// The place of its scope, what it is of, and the want.
type Asked = (usize, What, Want);

impl Claimed {
    pub fn new(id: Id, place: bool, engine: Arc<dyn Shared>) -> Claimed {
        Claimed { id, place, owes: false, engine, attempts: 1, held: Vec::new(), leased: Arc::default() }
    }

    fn holding(&self, at: usize, counted: Counted) -> Option<&Holding> {
        self.held.iter().find(|held| held.at == at && held.what.counted == counted)
    }

    /// The tightest of what the last answer said is left.
    pub fn rates(&self) -> Option<Rates> {
        let now = SystemTime::now();
        let standing = |held: &Holding| {
            let Left { left, full_after, .. } = held.left;
            // A day is whole again when it ends.
            let full_after = held.what.ends_in(now).unwrap_or(full_after);
            Some(Standing { limit: held.bound, left, full_after })
        };
        let hard = self.held.iter().filter(|held| !held.shadow);
        let rates = hard.map(|held| {
            let mut rates = Rates::default();
            match held.what.counted {
                Counted::Requests | Counted::DayRequests => rates.requests = standing(held),
                Counted::InputTokens => rates.input_tokens = standing(held),
                Counted::OutputTokens => rates.output_tokens = standing(held),
                Counted::Tokens | Counted::DayTokens => rates.tokens = standing(held),
                Counted::Places | Counted::Money(_) | Counted::Quota(_) => {}
            }
            rates
        });
        rates.reduce(Rates::and).filter(|rates| *rates != Rates::default())
    }

    /// What was used. `of`: in all, or at one provider.
    pub fn settle(self, caller: &Caller, of: impl Fn(&Scope) -> Need) {
        let id = self.id;
        let settled = self.held.into_iter().filter_map(|held| {
            let need = of(&caller.scopes.get(held.at)?.scope);
            let used = Some(used(held.what.counted, need, held.amount));
            Some(Settled { id, counter: held.counter, had: held.amount, used })
        });
        self.engine.settle(id, settled.collect());
    }
}

impl Desk {
    /// All that an attempt needs beyond what the claim has, in one call; or nothing, and who is in the way.
    pub(super) async fn claim(
        &self,
        claimed: &mut Claimed,
        caller: &Caller,
        provider: Option<usize>,
        need: &impl Fn(usize) -> Option<Need>,
        told: &mut Vec<String>,
    ) -> Result<()> {
        let mut wants: Vec<Asked> = Vec::new();
        for (at, bound) in caller.scopes.iter().enumerate() {
            if let Some(need) = need(at) {
                wanted(claimed, caller, (at, bound), need, &mut wants)?;
            }
        }
        let gone = departed(claimed, caller, provider);
        if !gone.is_empty() {
            self.engine().settle(claimed.id, gone);
        }
        if wants.iter().all(|(_, _, want)| want.wants <= want.has && claimed.holding_of(want)) {
            return Ok(());
        }
        let (places, wants): (Vec<(usize, What)>, Vec<Want>) =
            wants.into_iter().map(|(at, what, want)| ((at, what), want)).unzip();
        let claim = Claim { id: claimed.id, lease: self.lease(), wants };
        let answer = self.engine().take(&claim).await.map_err(|down| self.down(&down))?;
        let left = match answer {
            Outcome::Taken(left) => left,
            Outcome::Refused { at, why } => {
                let Some(((place, what), want)) = places.get(at).zip(claim.wants.get(at)) else { return Ok(()) };
                return self.refused(caller, &caller.scopes[*place], (what, want), why);
            }
        };
        for (((at, what), want), left) in places.into_iter().zip(claim.wants).zip(left) {
            if let Some(why) = left.denied {
                let denied = what.denied(&want, why);
                if let Ok(Some(denied)) = caller.scopes[at].denied(denied) {
                    told.push(caller.scopes[at].shadowed(denied));
                }
            }
            claimed.put(at, what, want, left);
        }
        let leased = claimed.held.iter().map(|held| &held.counter).filter(|counter| counter.form.has_lease());
        claimed.leased = Arc::new(leased.cloned().collect());
        self.keep(claimed.id, &claimed.leased);
        Ok(())
    }

    fn refused(&self, caller: &Caller, bound: &Bound, (what, want): (&What, &Want), why: Why) -> Result<()> {
        if let Counted::Money(per) = what.counted {
            let short = if why == Why::Held { Short::Held } else { Short::Spent };
            let fund = bound.funds.iter().find(|fund| fund.budget.per == per);
            return Err(fund.map_or_else(
                || self.down(&super::shared::Down("it refused what nobody asked for".to_owned())),
                |fund| fund.purse.refused(&fund.budget, caller.now, short),
            ));
        }
        let denied = what.denied(want, why);
        // What others hold comes back at any time.
        if why != Why::Held {
            self.remember(&bound.scope, denied);
        }
        bound.denied(denied).map(drop)
    }
}

impl Claimed {
    fn holding_of(&self, want: &Want) -> bool {
        self.held.iter().any(|held| held.counter == want.counter)
    }

    fn put(&mut self, at: usize, what: What, want: Want, left: Left) {
        let amount = if left.denied.is_some() { want.has } else { want.wants.max(want.has) };
        let Want { counter, bound, shadow, .. } = want;
        let fresh = Holding { at, what, counter, bound, amount, left, shadow };
        match self.held.iter_mut().find(|held| held.counter == fresh.counter) {
            Some(held) => *held = fresh,
            None => self.held.push(fresh),
        }
    }
}

/// What one scope is asked for.
fn wanted(
    claimed: &Claimed,
    caller: &Caller,
    (at, bound): (usize, &Bound),
    need: Need,
    wants: &mut Vec<Asked>,
) -> Result<()> {
    let now = SystemTime::now();
    let mut add = |counted: Counted, bound_of: Option<u64>, amount: u64, window: Option<Window>, shadow: bool| {
        let Some(limit) = bound_of else { return };
        let has = claimed.holding(at, counted).map_or(0, |held| held.amount);
        let counter = counter(&bound.scope, counted, window.as_ref(), now);
        wants.push((at, What { counted, window }, Want { counter, bound: limit, has, wants: amount, shadow }));
    };
    if let Some((limits, _)) = bound.limits.as_ref().filter(|_| !claimed.owes) {
        let Taken { input, output, tokens, day_tokens } = bound.taking(need)?;
        let requests = if bound.is_provider() { claimed.attempts } else { 1 };
        let day = || Some(Window::of(Per::Day, caller.now));
        let counts_days = limits.requests_per_day.or(limits.tokens_per_day).is_some();
        let day = if counts_days { day() } else { None };
        let shadow = limits.shadow;
        add(Counted::Requests, limits.requests_per_minute, requests, None, shadow);
        add(Counted::InputTokens, limits.input_tokens_per_minute, input, None, shadow);
        add(Counted::OutputTokens, limits.output_tokens_per_minute, output, None, shadow);
        add(Counted::Tokens, limits.tokens_per_minute, tokens, None, shadow);
        add(Counted::DayRequests, limits.requests_per_day, requests, day.clone(), shadow);
        add(Counted::DayTokens, limits.tokens_per_day, day_tokens, day, shadow);
        add(Counted::Places, limits.concurrent.filter(|_| claimed.place), 1, None, shadow);
    }
    for fund in &bound.funds {
        let (per, window) = (fund.budget.per, fund.purse.window.clone());
        add(Counted::Money(per), Some(fund.purse.most(&fund.budget)), need.nano_usd, Some(window), false);
    }
    Ok(())
}

/// In the end. Requests stay counted as they were taken.
fn used(counted: Counted, need: Need, had: u64) -> u64 {
    match counted {
        Counted::Requests | Counted::DayRequests => had,
        Counted::InputTokens => need.input_tokens,
        Counted::OutputTokens => need.output_tokens,
        Counted::Tokens | Counted::DayTokens => need.input_tokens.saturating_add(need.output_tokens),
        Counted::Places => 0,
        Counted::Money(_) | Counted::Quota(Unit::Usd) => need.nano_usd,
        // Quotas of providers claim for themselves.
        Counted::Quota(_) => had,
    }
}

/// Places at providers that the request has left.
fn departed(claimed: &mut Claimed, caller: &Caller, provider: Option<usize>) -> Vec<Settled> {
    let left = |held: &Holding| {
        held.counter.form == Form::Places
            && caller.scopes.get(held.at).is_some_and(|bound| bound.is_provider())
            && provider != Some(held.at)
    };
    let id = claimed.id;
    let settled = |held: &Holding| Settled { id, counter: held.counter.clone(), had: held.amount, used: Some(0) };
    let gone = claimed.held.iter().filter(|held| left(held)).map(settled).collect();
    claimed.held.retain(|held| !left(held));
    gone
}

impl What {
    fn ends_in(&self, now: SystemTime) -> Option<Duration> {
        self.window.as_ref()?.ends_in(now)
    }

    fn denied(&self, want: &Want, why: Why) -> Denied {
        let refused = match why {
            Why::Wait(wait) => Refused::Wait(wait),
            Why::Reached | Why::Spent => Refused::Wait(self.ends_in(SystemTime::now()).unwrap_or(A_MOMENT)),
            Why::Held => Refused::Wait(Duration::from_secs(1)),
            Why::TooMuch => Refused::TooMuch,
        };
        Denied::new(self.counted.name(), want.bound, refused)
    }
}
