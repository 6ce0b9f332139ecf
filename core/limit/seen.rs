//! Limits and budgets as a store that several gateways share has them, for decisions that are only looked at: bounds like those of
//! a request, with meters of their own that hold what was seen. Nothing is taken, and nobody's meter is touched.

use std::{sync::Arc, time::SystemTime};

use super::{
    Bound, Bounds, Limits,
    bound::Caller,
    meter::{Meter, Today},
    shared::{self, Counted, Desk, Down},
    window::Window,
};
use crate::{
    config::{self, Per},
    store::counters::{Claim, Outcome, Want},
};

impl Limits {
    /// These bounds with what all gateways together have used. As they are where this process counts alone.
    pub async fn seen(&self, bounds: &Bounds) -> Result<Bounds, Down> {
        let (Some(desk), Some(caller)) = (&self.shared, &bounds.0) else { return Ok(bounds.clone()) };
        let mut scopes = Vec::with_capacity(caller.scopes.len());
        for bound in &caller.scopes {
            scopes.push(Arc::new(seen(desk, bound, caller.now).await?));
        }
        Ok(Bounds(Some(Arc::new(Caller { scopes, now: caller.now, today: caller.today }))))
    }
}

async fn seen(desk: &Desk, bound: &Bound, now: SystemTime) -> Result<Bound, Down> {
    for fund in &bound.funds {
        let standing = desk.engine().look(&shared::money(&fund.purse, now)).await?;
        fund.purse.observe(standing.used, standing.reserved);
    }
    let Some((limits, _)) = &bound.limits else { return Ok(bound.clone()) };
    let counts = counted(limits);
    let want = |(counted, most): &(Counted, u64)| {
        let day = matches!(counted, Counted::DayRequests | Counted::DayTokens).then(|| Window::of(Per::Day, now));
        let counter = shared::counter(&bound.scope, *counted, day.as_ref(), now);
        // It wants nothing, and is told what is left whatever that is.
        Want { counter, bound: *most, has: 0, wants: 0, shadow: true }
    };
    let claim = Claim { id: desk.id(), lease: desk.lease(), wants: counts.iter().map(want).collect() };
    let left = match desk.engine().take(&claim).await? {
        Outcome::Taken(left) => left,
        Outcome::Refused { .. } => return Err(Down("it refused what nobody asked for".to_owned())),
    };
    let used = counts.iter().zip(left).map(|((counted, most), left)| (*counted, most.saturating_sub(left.left)));
    let meter = Meter::holding(limits, Today::of(now), used);
    Ok(Bound { limits: Some((*limits, Arc::new(meter))), ..bound.clone() })
}

/// What these limits count, and up to what.
fn counted(limits: &config::Limits) -> Vec<(Counted, u64)> {
    let all = [
        (Counted::Requests, limits.requests_per_minute),
        (Counted::InputTokens, limits.input_tokens_per_minute),
        (Counted::OutputTokens, limits.output_tokens_per_minute),
        (Counted::Tokens, limits.tokens_per_minute),
        (Counted::DayRequests, limits.requests_per_day),
        (Counted::DayTokens, limits.tokens_per_day),
        (Counted::Places, limits.concurrent),
    ];
    all.into_iter().filter_map(|(counted, most)| Some((counted, most?))).collect()
}
