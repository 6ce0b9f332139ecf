//! The arithmetic under clocks that jump and callers that race, and budgets over a store that is killed or refuses.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    budget::{Counter, Short},
    gcra::{Bucket, Rate, Refused},
    window::Window,
    *,
};
use crate::{
    auth::Principal,
    config::{self, Budget, Per, Rule, Scope},
    error::Kind,
    store::{Memory, Op, Store, Table},
};

mod budgets;
mod outage;
mod rates;
mod days;
mod scopes;
mod scripts;
mod shared;

/// Of the buckets' clock.
const SECOND: u64 = 1_000;

/// A caller of team `t` whose key `k` has these limits.
fn caller(key: Option<config::Limits>, team: Option<config::Limits>, budget: Option<Budget>) -> Principal {
    let (id, name): (Arc<str>, Arc<str>) = ("t".into(), "k".into());
    let key = Rule::of(Scope::Key("key_1".into()), &name, key, Arc::default());
    let team = Rule::of(Scope::Team(id.clone()), &id, team, budget.into_iter().collect());
    Principal {
        key_id: "key_1".into(),
        key_name: name,
        team: Some(id),
        rules: key.into_iter().chain(team).map(Arc::new).collect(),
        ..Principal::default()
    }
}

fn requests(count: u64) -> Option<config::Limits> {
    Some(config::Limits { requests_per_minute: Some(count), ..config::Limits::default() })
}

fn tokens(count: u64) -> Option<config::Limits> {
    Some(config::Limits { tokens_per_minute: Some(count), ..config::Limits::default() })
}

fn concurrent(count: u64) -> Option<config::Limits> {
    Some(config::Limits { concurrent: Some(count), ..config::Limits::default() })
}

fn limits_on(store: Arc<dyn Store>) -> Limits {
    Limits::new(Budgets::new(store, None, Duration::from_secs(60)))
}

fn limits() -> Limits {
    limits_on(Arc::new(Memory::default()))
}

fn bounds(limits: &Limits, caller: &Principal) -> Bounds {
    limits.bounds(caller, &Rules::default(), &[], SystemTime::now())
}

/// What was used, wherever.
fn settle(permit: Permit, tokens: u64, nano_usd: u64) {
    let used = Need { input_tokens: tokens, output_tokens: 0, nano_usd };
    permit.end().unwrap().settle(used, |_| used);
}
