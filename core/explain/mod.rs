//! The whole decision on a request, without sending it: who asks and what is left to them, what each stage says, and why each
//! target would be taken or passed over. The same steps as the gateway's, on the same state, with a rehearsed chain: nothing is
//! sent, reserved, counted or remembered.
//!
//! There is one shape of a decision, `context::Trace`. A request that runs fills it on its way (its record and its trace header
//! are that), `decide` fills it here, and `Decision::json` and `text` show it. So command, API, header and record cannot drift.

mod ahead;
mod dry;
mod show;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::HeaderMap;

pub use self::{
    ahead::ahead,
    dry::decide,
    show::{recorded, text},
};
use crate::{
    account::estimate::Estimates,
    auth::Principal,
    config::{self, Budget, Config, Rule},
    context::{Allowance, Context, Funds, Priority, Seats, Share, Step, Trace, Weighed},
    limit::{Bound, Bounds, Fund, Limits, Need, Standing},
    model::{Format, Operation},
    pipeline::Pipeline,
    prompt::Prompts,
    provider::KeyRests,
    queue::{Queues, Standing as Places},
    route::{Circuit, Health, Live, Table, Target, Waits},
    stored::Stored,
};

/// What a decision is made on: a running gateway's state, or what follows from the files alone.
pub struct World<'a> {
    pub config: &'a Config,
    pub routes: &'a Table,
    pub pipeline: &'a Pipeline,
    pub prompts: &'a Prompts,
    pub health: &'a Health,
    pub keys: &'a KeyRests,
    /// `None`: what is left of limits and budgets is not known here.
    pub limits: Option<&'a Limits>,
    /// `None`: nothing runs here that anybody would wait for.
    pub queues: Option<&'a Queues>,
    pub estimates: &'a Estimates,
    /// `None`: nothing was measured here.
    pub waits: Option<&'a Waits>,
    /// Answers that a request may go on from.
    pub stored: Option<&'a Arc<Stored>>,
}

impl World<'_> {
    fn live(&self) -> Live<'_> {
        Live::new(self.health, self.estimates)
    }
}

/// A request as a client would send it, and for whom.
#[derive(Debug, Clone)]
pub struct Asked {
    pub operation: Operation,
    pub format: Format,
    pub body: Bytes,
    /// For formats whose body does not name it.
    pub model: Option<String>,
    /// For formats whose path says it.
    pub stream: Option<bool>,
    pub legacy: bool,
    pub single: bool,
    /// The gateway's own headers (tags, priority) work as they do on a request.
    pub headers: HeaderMap,
    pub principal: Arc<Principal>,
    pub now: SystemTime,
    /// Draws of weights and `choose`; `None`: anew each time.
    pub seed: Option<u64>,
}

impl Asked {
    /// A chat in this format, as nobody in particular would send it now.
    pub fn chat(format: Format, body: Bytes) -> Asked {
        Asked {
            operation: Operation::Chat,
            format,
            body,
            model: None,
            stream: None,
            legacy: false,
            single: false,
            headers: HeaderMap::new(),
            principal: Arc::default(),
            now: SystemTime::now(),
            seed: None,
        }
    }
}

/// What would become of a request.
#[derive(Debug, Default)]
pub struct Decision {
    /// The hash of the configuration that decided.
    pub config: String,
    /// The name that was asked for, and the one that stages left in force.
    pub asked: String,
    pub model: String,
    /// `provider/model`, in the order of trial; what is passed over is not among them.
    pub targets: Vec<Arc<str>>,
    /// Of an answer made without a target: 200 for a stage's own, else a refusal.
    pub status: Option<u16>,
    pub code: Option<String>,
    pub message: Option<String>,
    /// The text that a stage answers with.
    pub text: Option<String>,
    pub caller: Arc<Principal>,
    pub defaults: serde_json::Map<String, serde_json::Value>,
    /// Of each of the targets.
    pub costs: Vec<Cost>,
    pub trace: Trace,
}

/// What a target would cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    pub target: Arc<str>,
    /// Estimated from the prompt's bytes.
    pub input_tokens: u64,
    /// What the request allows, or what is usual.
    pub output_tokens: u64,
    /// Nano-dollars; `None`: nobody knows its prices.
    pub nano_usd: Option<u64>,
    /// With the longest answer that it may give.
    pub at_most: Option<u64>,
}

/// What an explained request's trace holds beside the usual: the caller's limits, its team's budget, and the targets.
pub fn weigh(world: &World<'_>, bounds: &Bounds, cx: &mut Context, targets: &[Arc<Target>]) {
    let caller = cx.principal.clone();
    standing(bounds, world.limits.is_some(), &caller, cx);
    if let Some(queues) = world.queues {
        line(queues, cx);
    }
    let now = Instant::now();
    for target in targets {
        cx.trace.push(Step::Weighed(Box::new(weighed(world, target, now))));
        for (whose, name) in [("", &target.name), ("its provider: ", &target.provider.name)] {
            if let Some(told) = world.health.checks.told(name, now) {
                cx.trace.note("health", &format!("{}: {whose}{told}", target.name));
            }
        }
    }
}

/// Whether it would wait at the gateway, and as what.
fn line(queues: &Queues, cx: &mut Context) {
    let Places { limit, taken, waiting, .. } = queues.front.standing();
    if waiting > 0 || cx.priority != Priority::default() {
        let text = format!("priority {}: {taken} of {limit} requests run, {waiting} wait", cx.priority.name());
        cx.trace.note("queue", &text);
    }
    if let Err(shed) = queues.pressure.admits(cx.priority) {
        cx.trace.note("queue", &format!("would be refused now: {}", shed.reason.name()));
    }
}

fn weighed(world: &World<'_>, target: &Target, now: Instant) -> Weighed {
    let fare = world.health.fare(&target.name, now);
    let (circuit, retry_in) = match fare.circuit {
        Circuit::Closed => ("closed", None),
        Circuit::HalfOpen(_) => ("half_open", None),
        Circuit::Open(wait) => ("open", Some(wait)),
    };
    Weighed {
        target: target.name.clone(),
        weight: target.at_hand.weight,
        circuit,
        retry_in,
        latency: fare.latency,
        speed: fare.speed,
        in_flight: fare.in_flight,
        places: places(world, target),
        keys: target.provider.keys(),
        keys_resting: world.keys.resting(&target.provider, now),
        price_input: target.rates.as_ref().and_then(|rates| rates.input_usd()),
        price_output: target.rates.as_ref().and_then(|rates| rates.output_usd()),
        context_window: target.limits.context,
        capabilities: target.limits.features,
        region: target.handling.region.clone(),
    }
}

/// At a target with a bound: how many calls it takes, has and is waited for with.
fn places(world: &World<'_>, target: &Target) -> Option<Seats> {
    target.concurrency?;
    let standing = world.queues?.standing(&target.name);
    let Places { limit, taken, waiting, adaptive } = standing.unwrap_or_else(|| Places::idle(target.concurrency));
    Some(Seats { limit, taken, waiting, adaptive })
}

/// The caller's limits and budgets. `live`: what is left of them is known.
fn standing(bounds: &Bounds, live: bool, caller: &Principal, cx: &mut Context) {
    let allowances: Vec<Allowance> = if live {
        bounds
            .scopes()
            .iter()
            .filter(|bound| bound.limits.is_some())
            .map(|bound| allowance(bounds, bound, cx))
            .collect()
    } else {
        stated(caller)
    };
    if !allowances.is_empty() {
        cx.trace.push(Step::Limits(allowances.into()));
    }
    let mut funds: Vec<Funds> = match live {
        true => bounds.scopes().iter().flat_map(|bound| bound.funds.iter().map(|fund| counted(bound, fund))).collect(),
        false => {
            let each = caller.rules.iter().flat_map(|rule| rule.budgets.iter().map(move |budget| (rule, budget)));
            each.map(|(rule, budget)| promised(rule, budget)).collect()
        }
    };
    // The tightest one last: it has the last word.
    funds.sort_by_key(|funds| std::cmp::Reverse(funds.left));
    funds.into_iter().for_each(|funds| cx.trace.push(Step::Budget(Box::new(funds))));
}

fn counted(bound: &Bound, fund: &Fund) -> Funds {
    let balance = fund.purse.balance(&fund.budget);
    Funds {
        scope: bound.scope.kind(),
        name: bound.name.clone(),
        nano_usd: fund.purse.most(&fund.budget),
        per: fund.budget.per.name(),
        spent: balance.map(|b| b.spent),
        reserved: balance.map(|b| b.reserved),
        left: balance.map(|b| b.left),
        resets: fund.purse.window.end,
    }
}

/// As the configuration states it.
fn promised(rule: &Rule, budget: &Budget) -> Funds {
    Funds {
        scope: rule.scope.kind(),
        name: rule.name.clone(),
        nano_usd: budget.nano_usd,
        per: budget.per.name(),
        spent: None,
        reserved: None,
        left: None,
        resets: None,
    }
}

fn allowance(bounds: &Bounds, bound: &Bound, cx: &Context) -> Allowance {
    let share = |(name, standing): (&'static str, Standing)| {
        let Standing { limit, left, full_after } = standing;
        (name, Share { limit, left: Some(left), full_after: Some(full_after) })
    };
    let limits = bound.limits.as_ref().map(|(limits, _)| *limits).unwrap_or_default();
    Allowance {
        scope: bound.scope.kind(),
        name: bound.name.clone(),
        shares: bound.standings(cx.now).into_iter().map(share).collect(),
        concurrent: limits.concurrent.map(|most| (most, Some(bound.in_flight()))),
        shadow: limits.shadow,
        refuses: bounds.would_refuse(bound, Need::default()).map(|error| error.message.clone()),
    }
}

/// As the configuration states them.
fn stated(caller: &Principal) -> Vec<Allowance> {
    let of = |rule: &Rule, limits: &config::Limits| {
        let shares = limits.named().into_iter().filter(|(name, ..)| *name != "concurrent");
        let share = |(name, limit, _): (&'static str, Option<u64>, u64)| {
            Some((name, Share { limit: limit?, left: None, full_after: None }))
        };
        Allowance {
            scope: rule.scope.kind(),
            name: rule.name.clone(),
            shares: shares.filter_map(share).collect(),
            concurrent: limits.concurrent.map(|most| (most, None)),
            shadow: limits.shadow,
            refuses: None,
        }
    };
    caller.rules.iter().filter_map(|rule| Some(of(rule, rule.limits.as_ref()?))).collect()
}

#[cfg(test)]
mod tests;
