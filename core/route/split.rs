//! Which arm of a split a request goes to. Pure: the same callers, names and weights give the same arm, on every gateway and
//! after every restart. An arm that is added, or a weight that changes, moves only as many callers as it must (weighted
//! rendezvous hashing: Thaler and Ravishankar 1998; with weights, Schindelhauer and Schomaker 2005).

use std::sync::Arc;

use http::HeaderMap;

use super::{
    Group, Passed, Plan, Table,
    sticky::{self, lot, mix, stick, unit},
    table::{Found, Terms},
};
use crate::{
    auth::Principal,
    codec::document::Document,
    config::{self, Arm, SplitBy, experiment::LIVE},
    context::{Context, Sticks},
    error::{Error, Kind, Result},
};

/// What an alias tries beside what it usually does.
#[derive(Debug)]
pub struct Experiment {
    /// The alias.
    pub model: Arc<str>,
    pub split: Option<config::Split>,
    pub mirror: Option<config::Mirror>,
    pub(super) terms: Terms,
    /// Nothing else stands behind an arm that fails: the other arms do.
    pub(super) bare: bool,
}

/// Which part of an experiment a request has.
#[derive(Debug)]
pub struct Drawn {
    pub experiment: Arc<Experiment>,
    pub arm: Arc<str>,
    /// The arm's own targets: an answer of another one is not the arm's. Empty where all are.
    pub own: Vec<Arc<str>>,
}

impl Experiment {
    /// `None`: the alias tries nothing.
    pub(super) fn of(name: &str, alias: &config::Alias, terms: Terms) -> Option<Arc<Experiment>> {
        let (split, mirror) = (alias.split.clone(), alias.mirror.clone());
        let bare = alias.targets.is_empty() && alias.failover.is_empty();
        (split.is_some() || mirror.is_some())
            .then(|| Arc::new(Experiment { model: name.into(), split, mirror, terms, bare }))
    }

    /// Does who asks decide over the arm?
    pub(super) fn sticks(&self) -> bool {
        self.split.as_ref().is_some_and(|split| matches!(split.by, SplitBy::Session | SplitBy::User))
    }

    /// The arms in the order in which this request prefers them.
    fn order(&self, cx: &Context) -> Vec<&Arm> {
        let Some(split) = &self.split else { return Vec::new() };
        let draw = draw_of(&self.model, split.by, cx);
        let score = |arm: &Arm| match arm.weight {
            0 => f64::INFINITY,
            weight => -unit(mix(draw ^ lot(&arm.name))).ln() / f64::from(weight),
        };
        let mut arms: Vec<(f64, &Arm)> = split.arms.iter().map(|arm| (score(arm), arm)).collect();
        arms.sort_by(|a, b| a.0.total_cmp(&b.0));
        arms.into_iter().map(|(_, arm)| arm).collect()
    }

    /// A share of requests, by a lot of their own.
    pub fn mirrors(&self, seed: u64) -> Option<&config::Mirror> {
        let mirror = self.mirror.as_ref()?;
        (unit(mix(seed ^ lot(&self.model) ^ lot("mirror"))) < mirror.share).then_some(mirror)
    }
}

impl Table {
    /// Must somebody look who asks, before an arm is drawn?
    pub fn sticks(&self) -> bool {
        self.sticks
    }

    /// Draws where the plan leaves it open. What is tried with this request: its first name decides.
    pub fn draw(&self, plan: &mut Plan, cx: &mut Context) -> Result<Option<Box<Drawn>>> {
        if plan.forks.is_empty() && plan.experiment.is_none() {
            return Ok(None);
        }
        let mut first = None;
        // From behind, so that places stay where they are.
        for (at, experiment) in std::mem::take(&mut plan.forks).into_iter().rev() {
            let arms = experiment.order(cx);
            let Some((drawn, others)) = arms.split_first() else { continue };
            let mut mine = Plan::default();
            self.arm(drawn, &experiment, Some(&cx.principal), &mut mine);
            let own = mine.targets().map(|target| target.name.clone()).collect();
            if experiment.bare {
                others.iter().filter(|arm| arm.weight > 0).for_each(|arm| {
                    self.arm(arm, &experiment, Some(&cx.principal), &mut mine);
                });
            }
            plan.groups.splice(at..at, mine.groups);
            plan.passed.append(&mut mine.passed);
            let by = experiment.split.as_ref().map_or("", |split| split.by.name());
            cx.trace.note("split", &format!("{}: arm {} (by {by})", experiment.model, drawn.name));
            first = (at == 0).then(|| (experiment.model.clone(), Arc::from(drawn.name.as_str()), own));
        }
        if plan.is_empty() {
            let why: Vec<&str> = plan.passed.iter().map(|passed| &*passed.reason).take(4).collect();
            let message = format!("no arm of this model can be used: {}", why.join("; "));
            return Err(Error::new(Kind::NoTarget, message).at("model"));
        }
        let Some(experiment) = plan.experiment.take() else { return Ok(None) };
        Ok(match first {
            Some((model, arm, own)) if model == experiment.model => Some(Box::new(Drawn { experiment, arm, own })),
            _ if experiment.split.is_some() => None,
            _ => Some(Box::new(Drawn { experiment, arm: LIVE.into(), own: Vec::new() })),
        })
    }

    /// All that an arm may lead to, for lists.
    pub(super) fn all_arms(&self, caller: Option<&Principal>, plan: &mut Plan) {
        for (_, experiment) in std::mem::take(&mut plan.forks) {
            let arms = experiment.split.iter().flat_map(|split| &split.arms);
            arms.for_each(|arm| self.arm(arm, &experiment, caller, plan));
        }
    }

    fn arm(&self, arm: &Arm, experiment: &Experiment, caller: Option<&Principal>, plan: &mut Plan) {
        match self.find(&arm.to, experiment.terms.clone()) {
            // Aliases expand once.
            Ok(Found::Alias(alias)) => self.ready(&alias.group, caller, plan),
            Ok(Found::Target(target)) => self.ready(&Group::listed(vec![target]), caller, plan),
            Err(e) => plan.passed.push(Passed::new(&arm.to, &e)),
        }
    }
}

/// Who asks, as far as requests say it: looked for only where something goes by it.
pub fn sticks(cx: &Context, document: &Document, headers: &HeaderMap) -> Box<Sticks> {
    let text = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let field = |name: &str| text(document.field(name));
    let user = field("safety_identifier").or_else(|| field("user"));
    let user =
        user.or_else(|| text(document.field("metadata").and_then(|mut of| of.get_mut("user_id").map(|v| v.take()))));
    let user = user.filter(|user| !user.is_empty()).map(|user| stick(cx.principal.tenant(), &user));
    Box::new(Sticks { session: sticky::session(cx, document, headers), user })
}

/// The number that decides for this request, and for all others that are to go where it goes. Two tenants' sessions have
/// nothing in common, whatever they are called.
fn draw_of(model: &str, by: SplitBy, cx: &Context) -> u64 {
    let who = &cx.principal;
    let sticks = cx.sticks.as_deref();
    let own = || who.user.as_deref().map(|user| stick(who.tenant(), user));
    let of = match by {
        SplitBy::Request => None,
        SplitBy::Session => sticks.and_then(|s| s.session),
        SplitBy::Key => sticky::key(cx),
        SplitBy::User => sticks.and_then(|s| s.user).or_else(own).or_else(|| sticky::key(cx)),
    };
    match of {
        Some(of) => mix(of ^ lot(model) ^ lot(by.name())),
        None => mix(cx.seed ^ lot(model)),
    }
}
