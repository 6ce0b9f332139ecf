//! What binds one request: its scopes, with their meters and budgets at hand. Asked by the permit, by headers and by `explain`;
//! holds nothing itself.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use dashmap::DashMap;

use super::{
    Need,
    denial::{self, Denied},
    gcra::Standing,
    meter::{Meter, Rates, Taken, Today},
    moment,
    purse::Purse,
    window::{day_of, rest_of_day},
};
use crate::{
    clock,
    config::{Budget, Limits, Rule, Scope},
    error::{Error, Result},
    telemetry::metrics,
};

/// The limits of one request; empty for most. Scopes are only added at the end.
#[derive(Debug, Clone, Default)]
pub struct Bounds(pub(super) Option<Arc<Caller>>);

#[derive(Debug, Clone)]
pub struct Caller {
    pub scopes: Vec<Arc<Bound>>,
    /// When the request began, by the wall clock: its windows.
    pub now: SystemTime,
    pub today: Today,
}

/// One scope that has a limit or a budget.
#[derive(Debug, Clone)]
pub struct Bound {
    pub scope: Scope,
    /// As messages call it.
    pub name: Arc<str>,
    pub limits: Option<(Limits, Arc<Meter>)>,
    pub funds: Box<[Fund]>,
    pub fallback: Arc<[String]>,
}

/// What binds by each rule, and by all of a caller's, as the last request met it: nearly always the next one meets the same.
#[derive(Debug, Default)]
pub struct Known {
    rules: DashMap<Scope, Arc<Bound>, foldhash::quality::RandomState>,
    /// By where the caller's rules lie: nothing else lies there as long as they are held here.
    callers: DashMap<usize, Set, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Set {
    rules: Arc<[Arc<Rule>]>,
    scopes: Box<[Arc<Bound>]>,
    /// As long as all their windows are open.
    from: SystemTime,
    until: Option<SystemTime>,
}

#[derive(Debug, Clone)]
pub struct Fund {
    pub purse: Arc<Purse>,
    pub budget: Budget,
}

impl Today {
    pub fn of(now: SystemTime) -> Today {
        Today { day: day_of(now), ends_in: rest_of_day(now) }
    }
}

impl Known {
    /// What was made before for this rule, if it still says the same and its windows are open; else what is made now.
    pub(super) fn of(&self, rule: &Rule, now: SystemTime, make: impl FnOnce() -> Bound) -> Arc<Bound> {
        if let Some(known) = self.rules.get(&rule.scope).filter(|known| known.is_of(rule, now)) {
            return known.clone();
        }
        let made = Arc::new(make());
        self.rules.insert(rule.scope.clone(), made.clone());
        made
    }

    /// What binds by all of these, with room for some more.
    pub(super) fn of_all(
        &self,
        rules: &Arc<[Arc<Rule>]>,
        now: SystemTime,
        more: usize,
        of: impl Fn(&Rule) -> Arc<Bound>,
    ) -> Vec<Arc<Bound>> {
        let mut scopes = Vec::with_capacity(rules.len() + more);
        let place = Arc::as_ptr(rules).cast::<()>().addr();
        if let Some(set) = self.callers.get(&place).filter(|set| set.holds(rules, now)) {
            scopes.extend_from_slice(&set.scopes);
            return scopes;
        }
        for rule in rules.iter() {
            if !scopes.iter().any(|bound: &Arc<Bound>| bound.scope == rule.scope) {
                scopes.push(of(rule));
            }
        }
        self.callers.insert(place, Set::new(rules.clone(), &scopes));
        scopes
    }

    /// Meters and budgets that are only known here are in nobody's use.
    pub(super) fn forget(&self) {
        self.callers.clear();
        self.rules.clear();
    }
}

impl Set {
    fn new(rules: Arc<[Arc<Rule>]>, scopes: &[Arc<Bound>]) -> Set {
        let windows = || scopes.iter().flat_map(|bound| &bound.funds).map(|fund| &fund.purse.window);
        let from = windows().map(|window| window.start).max().unwrap_or(UNIX_EPOCH);
        let until = windows().filter_map(|window| window.end).min();
        Set { rules, scopes: scopes.into(), from, until }
    }

    fn holds(&self, rules: &Arc<[Arc<Rule>]>, now: SystemTime) -> bool {
        Arc::ptr_eq(&self.rules, rules) && self.from <= now && self.until.is_none_or(|until| now < until)
    }
}

impl Bounds {
    /// The tightest rates, for headers; `None` when there is no rate limit.
    pub fn rates(&self) -> Option<Rates> {
        let caller = self.0.as_ref()?;
        let (mut rates, now) = (Rates::default(), moment::millis(clock::now()));
        caller.scopes.iter().for_each(|bound| bound.tighten(&mut rates, now, caller.today));
        (rates != Rates::default()).then_some(rates)
    }

    /// What an attempt at a model without a price counts as, at the strictest of the budgets; `None` without one.
    pub fn unpriced(&self) -> Option<u64> {
        self.scopes().iter().flat_map(|bound| &bound.funds).map(|fund| fund.budget.unpriced_nano_usd).max()
    }

    /// Where the request goes when a budget refuses it, by the nearest scope that says so: key, user, team, organisation.
    pub fn fallback(&self) -> Option<&Arc<[String]>> {
        let near = |scope: &Scope| match scope {
            Scope::Key(_) => 0,
            Scope::User(_) => 1,
            Scope::Team(_) => 2,
            _ => 3,
        };
        let saying = self.scopes().iter().filter(|bound| !bound.fallback.is_empty());
        saying.min_by_key(|bound| near(&bound.scope)).map(|bound| &bound.fallback)
    }

    pub fn scopes(&self) -> &[Arc<Bound>] {
        self.0.as_ref().map_or(&[], |caller| &caller.scopes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// So many of them.
    pub(super) fn first(&self, count: usize) -> Bounds {
        let few = |caller: &Arc<Caller>| {
            let scopes = caller.scopes.iter().take(count).cloned().collect::<Vec<_>>();
            (!scopes.is_empty()).then(|| Arc::new(Caller { scopes, ..**caller }))
        };
        Bounds(self.0.as_ref().and_then(few))
    }

    // For decisions that are only looked at: nothing is taken, held or counted.

    /// What `Limits::enter` would say now.
    pub fn would_enter(&self) -> Result<()> {
        let Some(caller) = &self.0 else { return Ok(()) };
        caller.scopes.iter().try_for_each(|bound| bound.would_enter(caller.today))
    }

    /// What `Permit::reserve` would say now to a request that holds nothing.
    pub fn would_reserve(&self, need: Need) -> Result<()> {
        let Some(caller) = &self.0 else { return Ok(()) };
        caller.scopes.iter().try_for_each(|bound| bound.would_take(need, caller.today))?;
        let mut funds = caller.scopes.iter().flat_map(|bound| &bound.funds);
        funds.try_for_each(|fund| fund.purse.would_hold(need.nano_usd, &fund.budget, caller.now))
    }

    /// Of each scope, why it would refuse such a request.
    pub fn would_refuse(&self, bound: &Bound, need: Need) -> Option<Error> {
        let caller = self.0.as_ref()?;
        let mut funds = bound.funds.iter();
        let money = |fund: &Fund| fund.purse.would_hold(need.nano_usd, &fund.budget, caller.now);
        let limits = bound.would_enter(caller.today).and_then(|()| bound.would_take(need, caller.today));
        limits.and_then(|()| funds.try_for_each(money)).err()
    }

    /// Nano-dollars that are left now of the tightest budget; `None` without a budget.
    pub fn left(&self) -> Option<u64> {
        self.scopes().iter().flat_map(|bound| &bound.funds).map(Fund::left).min()
    }
}

impl Caller {
    /// A request and a place from each scope that stands behind `from`, or from none of them.
    pub(super) fn enter(&self, from: usize, place: bool, told: &mut Vec<String>) -> Result<()> {
        let (mut skipped, now): (Vec<usize>, _) = (Vec::new(), moment::millis(clock::lately()));
        for (at, bound) in self.scopes.iter().enumerate().skip(from) {
            match bound.enter(now, self.today, place) {
                Ok(None) => {}
                Ok(Some(denied)) => {
                    skipped.push(at);
                    told.push(bound.shadowed(denied));
                }
                Err(refused) => {
                    for (at, bound) in self.scopes.iter().enumerate().take(at).skip(from) {
                        bound.undo(self.today, place, !skipped.contains(&at));
                    }
                    return Err(refused);
                }
            }
        }
        Ok(())
    }
}

impl Bound {
    fn is_of(&self, rule: &Rule, now: SystemTime) -> bool {
        let budget = |(fund, budget): (&Fund, &Budget)| fund.budget == *budget && fund.purse.window.holds(now);
        (Arc::ptr_eq(&self.name, &rule.name) || self.name == rule.name)
            && self.limits.as_ref().map(|(limits, _)| limits) == rule.limits.as_ref()
            && self.funds.len() == rule.budgets.len()
            && self.funds.iter().zip(&*rule.budgets).all(budget)
            && (Arc::ptr_eq(&self.fallback, &rule.fallback) || self.fallback == rule.fallback)
    }

    pub fn is_provider(&self) -> bool {
        matches!(self.scope, Scope::Provider(_))
    }

    /// Takes a request and a place, or says which limit is in the way. `Some`: a shadow limit would have been.
    pub(super) fn enter(&self, now: u64, today: Today, place: bool) -> Result<Option<Denied>> {
        let Some((limits, meter)) = &self.limits else { return Ok(None) };
        meter.enter(limits, now, today, place).map_or_else(|denied| self.denied(denied), |()| Ok(None))
    }

    pub(super) fn undo(&self, today: Today, place: bool, request: bool) {
        if let Some((limits, meter)) = &self.limits {
            meter.undo(limits, today, place, request);
        }
    }

    /// A scope that came later refused: the request is given back, its place stays until the request ends. Whether a shadow limit
    /// had counted it nobody knows any more.
    pub(super) fn forgo(&self, today: Today) {
        if let Some((limits, meter)) = self.limits.as_ref().filter(|(limits, _)| !limits.shadow) {
            meter.undo(limits, today, false, true);
        }
    }

    pub(super) fn leave(&self) {
        if let Some((_, meter)) = &self.limits {
            meter.leave();
        }
    }

    /// Tokens that a request is to hold; a prompt that never fits is refused.
    pub(super) fn taking(&self, need: Need) -> Result<Taken> {
        let Some((limits, _)) = &self.limits else { return Ok(Taken::default()) };
        Taken::of(limits, need.input_tokens, need.output_tokens).or_else(|limit| match limits.shadow {
            true => Ok(Taken::default()),
            false => Err(denial::too_large(&self.scope, &self.name, limit, need.input_tokens)),
        })
    }

    /// Takes tokens, and notes what is left where it is the tightest. `Some`: a shadow limit has no room for them, and nothing
    /// was taken.
    pub(super) fn take(&self, more: Taken, now: u64, today: Today, tightest: &mut Rates) -> Result<Option<Denied>> {
        match &self.limits {
            Some((limits, meter)) if more != Taken::default() => {
                let taken = meter.take(limits, now, today, more, tightest);
                taken.map_or_else(|denied| self.denied(denied), |()| Ok(None))
            }
            _ => {
                self.tighten(tightest, now, today);
                Ok(None)
            }
        }
    }

    pub(super) fn correct(&self, day: u32, taken: Taken, used: Taken) {
        if let Some((limits, meter)) = &self.limits {
            meter.correct(limits, day, taken, used);
        }
    }

    /// A refusal, counted; or only told, when the limit is a shadow.
    pub(super) fn denied(&self, denied: Denied) -> Result<Option<Denied>> {
        if self.limits.as_ref().is_some_and(|(limits, _)| limits.shadow) {
            metrics().would_limit(self.scope.kind(), denied.limit);
            return Ok(Some(denied));
        }
        metrics().limited(self.scope.kind(), denied.limit);
        Err(denied.error(&self.scope, &self.name))
    }

    /// For the trace.
    pub(super) fn shadowed(&self, denied: Denied) -> String {
        format!("shadow: {}", denied.error(&self.scope, &self.name).message)
    }

    fn would_enter(&self, today: Today) -> Result<()> {
        let hard = self.limits.as_ref().filter(|(limits, _)| !limits.shadow);
        let Some((limits, meter)) = hard else { return Ok(()) };
        meter
            .would_enter(limits, moment::millis(clock::now()), today)
            .map_err(|denied| denied.error(&self.scope, &self.name))
    }

    fn would_take(&self, need: Need, today: Today) -> Result<()> {
        let hard = self.limits.as_ref().filter(|(limits, _)| !limits.shadow);
        let Some((limits, meter)) = hard else { return Ok(()) };
        let taken = self.taking(need)?;
        meter
            .would_take(limits, moment::millis(clock::now()), today, taken)
            .map_err(|denied| denied.error(&self.scope, &self.name))
    }

    fn tighten(&self, tightest: &mut Rates, now: u64, today: Today) {
        // What only reports tells nobody to slow down.
        if let Some((limits, meter)) = self.limits.as_ref().filter(|(limits, _)| !limits.shadow) {
            meter.tighten(tightest, limits, now, today);
        }
    }

    /// Each limit by its name, also of a shadow.
    pub fn standings(&self, now: SystemTime) -> Vec<(&'static str, Standing)> {
        self.limits.as_ref().map_or_else(Vec::new, |(limits, meter)| meter.standings(limits, Today::of(now)))
    }

    pub fn in_flight(&self) -> u64 {
        self.limits.as_ref().map_or(0, |(_, meter)| meter.in_flight())
    }
}

impl Fund {
    pub fn left(&self) -> u64 {
        self.purse.left(&self.budget)
    }
}
