//! 7: which targets a request goes to, and who else may be asked when a budget or a failure says so. Sends nothing; `explain` and
//! the shadow of a version ask the same.

use std::sync::Arc;

use http::HeaderMap;

use super::Gateway;
use crate::{
    clock,
    codec::document::Document,
    context::{Context, Step},
    error::{Error, Kind, Result},
    limit::Bounds,
    pipeline::{Candidate, Chain, Phase},
    route::{self, Next, Order, Target},
    runtime::Runtime,
};

/// 7. Names, the caller's or a stage's, pass the caller's allow-list. Sends nothing: `explain` asks the same.
pub async fn plan(
    routes: &route::Table,
    live: &route::Live<'_>,
    chain: &mut Chain,
    cx: &mut Context,
    document: &mut Document,
    client: &HeaderMap,
) -> Result<Order> {
    let now = clock::now();
    let choosing = chain.wants(Phase::Route);
    let mut plan = match routes.plan(document.model(), &cx.principal) {
        Ok(plan) => plan,
        // A stage may still choose for a name that stands for nothing, or for nothing that this caller's data may go to.
        Err(error) if choosing && (error.kind != Kind::Forbidden || error.code() == route::DATA_POLICY) => {
            cx.trace.note("route", &error.message);
            route::Plan::default()
        }
        Err(error) => return Err(error),
    };
    if routes.sticks() {
        cx.sticks = Some(route::sticks(cx, document, client));
    }
    let mut drawn = match routes.draw(&mut plan, cx) {
        Err(_) if choosing => None,
        drawn => drawn?,
    };
    let empty = plan.is_empty();
    // In order only for who looks at it: a script that names another list needs none of this one.
    let mut targets = None;
    if choosing {
        let reads = chain.reads_targets();
        if reads || cx.explain {
            targets = Some(plan.order(live, cx, document, client, now));
        }
        let shown = targets.as_deref().filter(|_| reads).unwrap_or_default();
        let candidates: Vec<Candidate> = shown.iter().map(|t| live.health.candidate(t, now)).collect();
        if let Some(names) = chain.route(cx, document, &candidates).await? {
            if cx.explain {
                cx.trace.push(Step::Chosen { names: names.iter().map(|name| name.as_str().into()).collect() });
            }
            plan = routes.resolve_list(&names, &cx.principal)?;
            drawn = routes.draw(&mut plan, cx)?;
            targets = None;
        } else if empty {
            let mut plan = routes.plan(document.model(), &cx.principal)?;
            routes.draw(&mut plan, cx)?;
        }
    }
    let targets = targets.unwrap_or_else(|| plan.order(live, cx, document, client, now));
    cx.trace.planned(&targets, &plan.passed);
    cx.drawn = drawn.filter(|_| !cx.beside);
    Ok(targets)
}

/// Where a request goes that a budget refused, as far as the caller may go there; `None`: nowhere. `explain` asks the same.
pub fn instead(routes: &route::Table, bounds: &Bounds, cx: &mut Context) -> Option<(Vec<String>, route::Plan)> {
    let names = bounds.fallback()?.clone();
    let (may, not): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| routes.plan(name, &cx.principal).is_ok());
    if !not.is_empty() {
        let text = format!("{} of `budget_fallback` cannot be used by this caller now", not.join(", "));
        cx.trace.note("budget", &text);
    }
    let mut plan = routes.resolve_list(&may, &cx.principal).ok()?;
    // What was to be tried is tried no more.
    routes.draw(&mut plan, cx).ok()?;
    Some((may, plan))
}

impl Gateway {
    /// Who may do better where the last of `tried` failed for a cause that most others would fail for, too: those behind it that
    /// are known to read more, and those that its alias names for this cause. `None`: nobody.
    pub(super) fn elsewhere(
        &self,
        runtime: &Runtime,
        cx: &mut Context,
        (client, document): (&HeaderMap, &Document),
        next: Next,
        (tried, rest): (&[Arc<Target>], &[Arc<Target>]),
        error: &Error,
    ) -> Option<Order> {
        let target = tried.last()?;
        let care = target.care.as_deref();
        let reads = |t: &Target| t.limits.context.unwrap_or(0);
        let (key, names, mut instead) = match next {
            Next::Longer => {
                let window = target.limits.context.unwrap_or(u64::MAX);
                let longer: Order = rest.iter().filter(|t| reads(t) > window).cloned().collect();
                ("context_failover", care.map(|care| &care.context_failover), longer)
            }
            Next::Content => ("content_failover", care.map(|care| &care.content_failover), Order::new()),
            Next::Targets | Next::End => return None,
        };
        if let Some(names) = names.filter(|names| !names.is_empty()) {
            let mut plan = runtime.routes.lent(names, &cx.principal);
            let own = plan.order(&self.state.live(), cx, document, client, clock::now());
            let known = |t: &Arc<Target>| tried.iter().chain(&instead).any(|known| known.name == t.name);
            let own: Order = own.into_iter().filter(|t| !known(t)).collect();
            instead.extend(own);
        }
        if instead.is_empty() {
            return None;
        }
        let names: Vec<&str> = instead.iter().map(|t| &*t.name).collect();
        cx.trace.note(key, &format!("{} says {}; it goes to {}", target.name, error.code(), names.join(", ")));
        Some(instead)
    }
}
