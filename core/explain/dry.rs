//! The steps of a request as the gateway takes them, up to where it would send: each asks what would be said, and takes
//! nothing.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, Request};

use super::{Asked, Cost, Decision, World, ahead::at_gateway, weigh};
use crate::{
    account::estimate::Size,
    call::Call,
    codec::{Inbound, document::Document},
    context::{Context, Step},
    error::{Error, Kind, Result},
    gateway,
    limit::{Bounds, Limits, Need},
    long_input, media,
    model::{Operation, Usage},
    pipeline::{AttemptFlow, Candidate, Chain, Flow, Phase},
    provider::KeyChoice,
    reserve::{Funds, dearest, told, wanted},
    route::{self, Circuit, Target},
    runtime::{WHOLE, parameters},
};

/// What would become of this request now. An error is the request's own: a body that is none.
pub async fn decide(world: &World<'_>, asked: Asked) -> Result<Decision> {
    if !matches!(asked.operation, Operation::Chat | Operation::Embeddings | Operation::CountTokens) {
        let message = format!("explain knows chats, embeddings and token counts, not {}", asked.operation.name());
        return Err(Error::invalid("path", message));
    }
    let inbound = Inbound {
        model: asked.model.as_deref(),
        stream: asked.stream.or((asked.operation != Operation::Chat).then_some(false)),
        version: asked.headers.get("anthropic-version").and_then(|v| v.to_str().ok()),
        counting: asked.operation == Operation::CountTokens,
        legacy: asked.legacy,
    };
    let mut document = Document::open(asked.format, asked.operation, asked.body.clone(), inbound)?;
    if asked.operation == Operation::Chat {
        world.prompts.apply(&mut document)?;
    }
    if let Some(stored) = world.stored {
        // What it gives is the right to keep an answer: nothing is kept before there is one.
        drop(stored.begin(&asked.principal, &mut document, &mut None).await?);
    }
    let mut cx = context(&asked)?;
    let mut decision = Decision {
        config: world.config.hash.clone(),
        asked: document.model().to_owned(),
        caller: asked.principal.clone(),
        ..Decision::default()
    };
    if asked.operation == Operation::Chat {
        for bound in &*asked.principal.terms {
            for (name, value) in &bound.terms.defaults {
                decision.defaults.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        let capped = parameters(&asked.principal, &mut document)?;
        if !capped.is_empty() {
            cx.trace.note("caps", &format!("held to the caller's caps: {}", capped.join(", ")));
        }
    }
    let mut chain = world.pipeline.rehearse(&asked.principal, document.model());
    if chain.reads_headers() {
        cx.keep_headers(&asked.headers);
    }
    let mut way = Way { world, asked: &asked, size: Size::of(&document), bounds: Bounds::default() };
    if let Err(error) = way.go(&mut chain, &mut cx, &mut document, &mut decision).await {
        refused(&mut chain, &mut cx, error, &mut decision).await;
    }
    chain.close(&mut cx);
    decision.model = document.model().to_owned();
    decision.trace = cx.trace;
    Ok(decision)
}

/// As a request would have it, but for its id: there is none.
fn context(asked: &Asked) -> Result<Context> {
    let unreadable = |e| Error::new(Kind::Internal, "a request without a path").because(e);
    let (mut parts, ()) = Request::builder().body(()).map_err(unreadable)?.into_parts();
    parts.headers = asked.headers.clone();
    let mut cx = Context::open(asked.operation, asked.format, &parts, asked.principal.clone(), WHOLE);
    cx.held_to(&asked.principal);
    cx.id = NO_ID.into();
    cx.now = asked.now;
    cx.explain = true;
    cx.seed = asked.seed.unwrap_or(cx.seed);
    Ok(cx)
}

/// Error stages may reword it, or answer in its place.
async fn refused(chain: &mut Chain, cx: &mut Context, mut error: Error, decision: &mut Decision) {
    decision.targets.clear();
    decision.costs.clear();
    if let Some(response) = chain.error(cx, &mut error).await.filter(|_| cx.operation == Operation::Chat) {
        decision.status = Some(200);
        decision.text = Some(response.text());
        return;
    }
    decision.status = Some(error.status());
    decision.code = Some(error.code().to_owned());
    decision.message = Some(error.message.clone());
}

struct Way<'a> {
    world: &'a World<'a>,
    asked: &'a Asked,
    size: Size,
    bounds: Bounds,
}

impl Way<'_> {
    async fn go(
        &mut self,
        chain: &mut Chain,
        cx: &mut Context,
        document: &mut Document,
        decision: &mut Decision,
    ) -> Result<()> {
        if let Some(limits) = self.world.limits {
            let mut bounds = limits.bounds(&cx.principal, &self.world.config.rules, &cx.tags, cx.now);
            if let Some(rule) = self.world.config.rules.models.get(&*decision.asked) {
                bounds = limits.also(&bounds, rule, cx.now);
            }
            self.bounds = seen(limits, bounds, cx).await;
        }
        // Told first and whatever happens: what is left is a part of every decision.
        weigh(self.world, &self.bounds, cx, &[]);
        at_gateway(self.world, cx);
        cx.principal.clone().admits(cx.operation, None)?;
        self.bounds.would_enter()?;
        match chain.request(cx, document).await? {
            Flow::Respond(mut response) => {
                chain.response(cx, &Candidate::default(), &mut response).await?;
                decision.status = Some(200);
                decision.text = Some(response.text());
                return Ok(());
            }
            Flow::Repeat(_) => {
                decision.status = Some(200);
                return Ok(());
            }
            Flow::Continue | Flow::Follow(_) => {}
        }
        let long = self.world.config.models.get(document.model()).and_then(|model| model.long_input.as_ref());
        if let Some(settings) = long
            && let Some(cut) = long_input::cut(settings, cx.operation, document).await?
        {
            let text =
                format!("its longest text would be read in {} pieces first, each a call of its own", cut.count());
            cx.trace.note("long_input", &text);
        }
        let live = self.world.live();
        let targets = gateway::plan(self.world.routes, &live, chain, cx, document, &self.asked.headers).await?;
        if let Some(mirror) = cx.drawn.take().and_then(|drawn| drawn.experiment.mirrors(cx.seed).map(|m| m.to.clone()))
        {
            cx.trace.note("mirror", &format!("a copy would go to {mirror}"));
        }
        let now = Instant::now();
        for target in &targets {
            cx.trace.push(Step::Weighed(Box::new(super::weighed(self.world, target, now))));
        }
        super::ahead(self.world, cx, document, &targets, true);
        match self.walk(chain, cx, document, &targets, decision).await {
            Err(refused) if refused.kind == Kind::BudgetExceeded => {
                let Some((names, mut plan)) = gateway::instead(self.world.routes, &self.bounds, cx) else {
                    return Err(refused);
                };
                cx.trace.note("budget", &format!("{}; it would go to {} instead", refused.message, names.join(", ")));
                let targets = plan.order(&self.world.live(), cx, document, &self.asked.headers, now);
                cx.trace.planned(&targets, &plan.passed);
                self.walk(chain, cx, document, &targets, decision).await
            }
            outcome => outcome,
        }
    }

    /// Targets in order, as far as attempts would be made.
    async fn walk(
        &self,
        chain: &mut Chain,
        cx: &mut Context,
        document: &Document,
        targets: &[Arc<Target>],
        decision: &mut Decision,
    ) -> Result<()> {
        let mut errors = Vec::new();
        for target in targets {
            if decision.targets.len() >= route::MAX_ATTEMPTS {
                cx.trace.passed_for(target, "attempts", "four attempts are made, and no more");
                continue;
            }
            let outlook = self.world.health.outlook(target);
            if !outlook.open {
                let spent = route::spent(target, outlook.resets_in, outlook.unpaid);
                cx.trace.passed_for(target, "quota", &spent.message);
                errors.push(spent);
                continue;
            }
            match self.visit(chain, cx, document, target, decision).await {
                Ok(true) => decision.targets.push(target.name.clone()),
                Ok(false) => cx.trace.passed_for(target, "skipped", "skipped by a stage"),
                Err(error) if route::goes_on(&error) || error.kind == Kind::NoTarget => {
                    cx.trace.passed_for(target, reason(&error), &error.message);
                    errors.push(error);
                }
                Err(error) if decision.targets.is_empty() => return Err(error),
                // It would end the request, if it came to that.
                Err(error) => cx.trace.passed_for(target, reason(&error), &error.message),
            }
        }
        match decision.targets.is_empty() {
            true => Err(route::most_telling(errors)),
            false => Ok(()),
        }
    }

    /// Would an attempt at this target be made? `false`: a stage skips it.
    async fn visit(
        &self,
        chain: &mut Chain,
        cx: &mut Context,
        document: &Document,
        target: &Arc<Target>,
        decision: &mut Decision,
    ) -> Result<bool> {
        let now = Instant::now();
        match self.world.health.fare(&target.name, now).circuit {
            Circuit::Open(wait) => return Err(route::ejected(target, wait)),
            Circuit::HalfOpen(true) => return Err(route::ejected(target, route::PROBE_WAIT)),
            Circuit::HalfOpen(false) | Circuit::Closed => {}
        }
        if cx.operation == Operation::CountTokens
            && !target.provider.counts(target.provider.speaks(cx.format), &target.model)
        {
            if decision.targets.is_empty() {
                cx.trace.note("count", &format!("{} cannot count: the gateway estimates", target.name));
            }
            return Ok(true);
        }
        let mut own = document.clone();
        let mut extra = HeaderMap::new();
        // Later targets are asked when it comes to that; the first one is asked now.
        if decision.targets.is_empty() {
            chain.start(1);
            cx.attempt = 1;
            if chain.wants(Phase::Attempt) {
                let candidate = self.world.health.candidate(target, now);
                let flow = chain.attempt(cx, &candidate, &mut own, &mut extra).await;
                cx.attempt = 0;
                if flow? == AttemptFlow::Skip {
                    return Ok(false);
                }
            }
            cx.attempt = 0;
        }
        let cost = self.reserve(cx, &own, target).await?;
        let lacks = media::may_lack(document, target) && self.world.config.media.fetch;
        match Call::prepare(cx, &mut own, self.asked.single, target, &self.asked.headers, extra) {
            Ok(call) => {
                call.refuse_dropping(target)?;
                if decision.targets.is_empty() {
                    call.dropped.iter().for_each(|what| cx.trace.push(Step::Dropped { what: what.clone() }));
                }
            }
            // Nothing is fetched here, so what it would make of it is not known.
            Err(error) if lacks && error.kind == Kind::Unsupported => {
                cx.trace.note("media", &format!("what the request names by URL would be fetched for {}", target.name));
            }
            Err(error) => return Err(error),
        }
        match self.world.keys.would_pick(&target.provider, &target.model, now) {
            KeyChoice::Resting(wait) => return Err(route::keys_rest(target, wait)),
            KeyChoice::Refused(_) => return Err(route::keys_refused(target)),
            KeyChoice::Open | KeyChoice::Key(_) => {}
        }
        decision.costs.push(cost);
        Ok(true)
    }

    /// What would be reserved for it, and what it would cost.
    async fn reserve(&self, cx: &mut Context, document: &Document, target: &Target) -> Result<Cost> {
        let input = self.size.tokens(&target.name, self.world.estimates);
        let rule = self.world.config.rules.providers.get(&*target.provider.name);
        let bounds = match self.world.limits.zip(rule) {
            Some((limits, rule)) => seen(limits, limits.also(&self.bounds, rule, cx.now), cx).await,
            None => self.bounds.clone(),
        };
        let of = |unpriced: u64, left: u64| Funds { unpriced, left };
        let counted = bounds.unpriced().map(|unpriced| of(unpriced, bounds.left().unwrap_or(u64::MAX)));
        // The files alone know the budgets, and not what is left of them.
        let budgets = cx.principal.rules.iter().flat_map(|rule| rule.budgets.iter());
        let stated = budgets.map(|budget| budget.unpriced_nano_usd).max().map(|unpriced| of(unpriced, u64::MAX));
        let funds = counted.or(stated);
        let wanted = wanted(document, target, cx.operation, None, input, Need::default(), funds);
        if (funds.is_some() || !bounds.is_empty()) && cx.operation.spends() {
            cx.trace.push(told(target, wanted.need, funds.is_some(), wanted.max_tokens));
            bounds.would_enter()?;
            bounds.would_reserve(wanted.need)?;
        }
        let output = wanted.max_tokens.map_or(wanted.need.output_tokens, |most| most.min(wanted.need.output_tokens));
        let usage = Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() };
        let rates = target.rates.as_ref();
        Ok(Cost {
            target: target.name.clone(),
            input_tokens: input,
            output_tokens: output,
            nano_usd: rates.and_then(|rates| rates.cost(&usage)).and_then(|nano| u64::try_from(nano).ok()),
            at_most: dearest(document, target, input, wanted.fits.unwrap_or(wanted.longest), None),
        })
    }
}

/// As they are now, whoever counts them.
async fn seen(limits: &Limits, bounds: Bounds, cx: &mut Context) -> Bounds {
    match limits.seen(&bounds).await {
        Ok(seen) => seen,
        Err(_away) => {
            cx.trace
                .note("limits", "the store that counts for all gateways does not answer: what is left is not known");
            bounds
        }
    }
}

/// Why a target is passed over, in a word.
fn reason(error: &Error) -> &'static str {
    match error.kind {
        Kind::NoTarget => "ejected",
        Kind::Unsupported => "unsupported",
        Kind::BudgetExceeded => "budget",
        Kind::RateLimited => "limit",
        Kind::UpstreamRateLimited if error.code() == "rate_limited" => "limit",
        Kind::UpstreamRateLimited => "keys_resting",
        Kind::UpstreamAuth => "keys_refused",
        Kind::Forbidden => "not_allowed",
        _ => "refused",
    }
}

const NO_ID: &str = "req_00000000000000000000000000000000";
