//! The whole decision on a request, without sending it: who asks and what is left to them, what each stage says, and why each
//! target would be taken or passed over. The same steps as the gateway's, on the same state, with a rehearsed chain: nothing is
//! sent, reserved, counted or remembered.
//!
//! There is one shape of a decision, `context::Trace`. A request that runs fills it on its way (its record and its trace header
//! are that), `decide` fills it here, and `Decision::json` and `text` show it. So command, API, header and record cannot drift.

mod dry;
mod show;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::HeaderMap;

pub use self::{
    dry::decide,
    show::{recorded, text},
};
use crate::{
    account::estimate::Estimates,
    auth::Principal,
    config::Config,
    context::{Allowance, Context, Funds, Share, Step, Trace, Weighed},
    limit::{Bounds, Limits},
    model::{Format, Operation},
    pipeline::Pipeline,
    prompt::Prompts,
    provider::KeyRests,
    route::{Circuit, Health, Table, Target},
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
    pub estimates: &'a Estimates,
    /// Answers that a request may go on from.
    pub stored: Option<&'a Arc<Stored>>,
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
    let now = Instant::now();
    for target in targets {
        cx.trace.push(Step::Weighed(Box::new(weighed(world, target, now))));
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
        weight: target.weight,
        circuit,
        retry_in,
        latency: fare.latency,
        in_flight: fare.in_flight,
        keys: target.provider.keys(),
        keys_resting: world.keys.resting(&target.provider, now),
        price_input: target.rates.as_ref().and_then(|rates| rates.input_usd()),
        price_output: target.rates.as_ref().and_then(|rates| rates.output_usd()),
        context_window: target.limits.context,
        capabilities: target.limits.features,
    }
}

/// The caller's limits and its team's budget. `live`: what is left of them is known.
fn standing(bounds: &Bounds, live: bool, caller: &Principal, cx: &mut Context) {
    let allowances: Vec<Allowance> =
        if live { bounds.scopes().iter().map(allowance).collect() } else { stated(caller) };
    if !allowances.is_empty() {
        cx.trace.push(Step::Limits(allowances.into()));
    }
    let team = || caller.team.clone().unwrap_or_default();
    let funds = match (bounds.purse(), caller.team_budget()) {
        (Some((purse, budget)), _) if live => {
            let balance = purse.balance(budget.nano_usd);
            Funds {
                team: team(),
                nano_usd: budget.nano_usd,
                per: budget.per.name(),
                spent: balance.map(|b| b.spent),
                reserved: balance.map(|b| b.reserved),
                left: balance.map(|b| b.left),
                resets: purse.window.end,
            }
        }
        (_, Some(budget)) => Funds {
            team: team(),
            nano_usd: budget.nano_usd,
            per: budget.per.name(),
            spent: None,
            reserved: None,
            left: None,
            resets: None,
        },
        _ => return,
    };
    cx.trace.push(Step::Budget(Box::new(funds)));
}

fn allowance(bound: &crate::limit::Bound) -> Allowance {
    let rates = bound.rates();
    let share = |standing: crate::limit::Standing| Share {
        limit: standing.limit,
        left: Some(standing.left),
        full_after: Some(standing.full_after),
    };
    Allowance {
        scope: bound.scope.kind(),
        name: bound.name().clone(),
        requests: rates.requests.map(share),
        tokens: rates.tokens.map(share),
        concurrent: bound.limits.concurrent.map(|most| (most, Some(bound.in_flight()))),
    }
}

/// As the configuration states them.
fn stated(caller: &Principal) -> Vec<Allowance> {
    let share = |limit: Option<u64>| limit.map(|limit| Share { limit, left: None, full_after: None });
    let of = |scope: &'static str, name: &Arc<str>, limits: &crate::config::Limits| Allowance {
        scope,
        name: name.clone(),
        requests: share(limits.requests_per_minute),
        tokens: share(limits.tokens_per_minute),
        concurrent: limits.concurrent.map(|most| (most, None)),
    };
    let limited = caller.rules.iter().filter_map(|rule| Some((rule, rule.limits.as_ref()?)));
    limited.map(|(rule, limits)| of(rule.scope.kind(), &rule.name, limits)).collect()
}

#[cfg(test)]
mod tests;
