//! One copy of a request: a request of its own, with an id, a permit and a record, on the gateway's own steps. It begins behind
//! the request stages, so what they took out is not in it. Stages that look at attempts may keep it from a target, as they may
//! its original, but what they write or send goes nowhere; no stage sees its answer, which is read to its end and thrown away.

use std::sync::{Arc, Weak};

use http::HeaderMap;
use http_body_util::BodyExt;

use super::{EFFECTS, Part, figures::Figures};
use crate::{
    account::Mark,
    auth::Principal,
    clock,
    codec::document::Document,
    config::{Mirror, experiment::MIRROR},
    context::{Context, Priority, Sticks},
    error::Result,
    exchange::{Exchange, Wire},
    gateway::Gateway,
    model::{Operation, Tool},
    pipeline::Chain,
    route::Experiment,
    telemetry::names,
};

pub(super) struct Sample {
    pub experiment: Arc<Experiment>,
    /// As the request stages left it.
    pub document: Document,
    pub client: HeaderMap,
    pub wire: Wire,
    pub principal: Arc<Principal>,
    pub tags: Vec<(String, String)>,
    pub sticks: Option<Box<Sticks>>,
    /// The name that decided which stages its original met.
    pub asked: String,
    pub copy_of: Arc<str>,
}

impl Sample {
    pub async fn send(mut self, gateway: &Weak<Gateway>, figures: Arc<Figures>) {
        let experiment = self.experiment.clone();
        let (Some(gateway), Some(mirror)) = (gateway.upgrade(), &experiment.mirror) else { return };
        if self.has_effects() {
            figures.left_out(&experiment.model, EFFECTS);
            metrics::counter!(names::MIRRORED, "outcome" => EFFECTS).increment(1);
            return;
        }
        let _ = clock::timeout_at(clock::now() + mirror.timeout, self.run(&gateway, mirror, figures)).await;
    }

    /// Could it do more than answer? Tools that the caller runs are only named by an answer; those of a provider run.
    fn has_effects(&mut self) -> bool {
        if self.document.operation() != Operation::Chat {
            return false;
        }
        if RUNS.iter().any(|name| self.document.field(name).is_some_and(|value| !value.is_null())) {
            return true;
        }
        let hosted = |tool: &Tool| matches!(tool, Tool::Hosted { .. });
        self.document.has_tools() && self.document.request().is_ok_and(|request| request.tools.iter().any(hosted))
    }

    async fn run(self, gateway: &Arc<Gateway>, mirror: &Mirror, figures: Arc<Figures>) {
        let Sample { experiment, mut document, client, wire, principal: caller, tags, sticks, asked, copy_of } = self;
        let runtime = gateway.runtime.load_full();
        document.set_model(&mirror.to);
        let own = (MIRROR.to_owned(), experiment.model.to_string());
        let mut marked = if mirror.charge { tags } else { Vec::new() };
        marked.retain(|(name, _)| *name != own.0);
        marked.push(own);
        let principal = bound(&caller, mirror.charge);
        let until = clock::now() + mirror.timeout;
        let mut cx = Context::aside(document.operation(), document.format(), principal, marked, until);
        (cx.sticks, cx.priority) = (sticks, Priority::Low);
        cx.trace.note(MIRROR, &format!("a copy of {copy_of}"));
        let mut exchange = Exchange::new(cx, gateway.state.settle.clone(), None);
        let inner = &mut *exchange;
        if !mirror.charge {
            (inner.record.key_id, inner.record.team) = (Arc::default(), None);
            (inner.record.user, inner.record.organisation) = (None, None);
        }
        let (model, arm): (Arc<str>, Arc<str>) = (experiment.model.clone(), MIRROR.into());
        let mark = Mark { model: model.clone(), arm: arm.clone(), copy_of: Some(copy_of) };
        inner.record.experiment = Some(Box::new(mark));
        inner.part = Some(Box::new(Part { figures, model, arm, own: Vec::new() }));
        inner.chain = runtime.pipeline.rehearse(&caller, &asked).outward();
        inner.wire = wire;
        exchange.asked(&document);
        let outcome = match permit(gateway, &runtime.config.rules, &mut exchange) {
            Ok(()) => gateway.copied(&runtime, &mut exchange, &client, &mut document).await,
            Err(error) => Err(error),
        };
        drop((document, client));
        exchange.chain = Chain::new(std::iter::empty());
        let mut answer = Box::pin(gateway.deliver(&runtime, exchange, outcome, false)).await.into_body();
        while let Some(Ok(_)) = answer.frame().await {}
    }
}

/// It takes no place beside the one that its original has.
fn permit(gateway: &Gateway, rules: &crate::config::Rules, exchange: &mut Exchange) -> Result<()> {
    let (inner, limits) = (&mut **exchange, &gateway.state.limits);
    inner.bounds = limits.bounds(&inner.cx.principal, rules, &inner.cx.tags, inner.cx.now);
    inner.permit = Some(limits.beside(&inner.bounds)?);
    Ok(())
}

/// The caller, to a model that the operator named; bound by its limits and budgets only where it pays.
fn bound(caller: &Principal, pays: bool) -> Arc<Principal> {
    let mut principal = Principal { models: Arc::default(), ..caller.clone() };
    if !pays {
        principal.rules = Arc::default();
    }
    Arc::new(principal)
}

/// Fields by which a provider is asked to run or keep something.
const RUNS: [&str; 6] = ["mcp_servers", "container", "background", "conversation", "web_search_options", "plugins"];
