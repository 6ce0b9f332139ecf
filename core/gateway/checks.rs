//! Active health checks, with the provider's own key and never on a caller's account, so that what is down is known before a request
//! meets it. Of a provider: a cheap call (the list of its models). Of a target: its model is asked for one word, which is what tells
//! whether that one answers. One call a name at a time, so many names at once, each within its own time. What a check says of a
//! target stands in `route/probe.rs`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use http::HeaderMap;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::{
    auth::Principal,
    call::Call,
    clock,
    codec::{Inbound, document::Document, said},
    config::HealthCheck,
    context::Context,
    error::{Error, Result},
    limit::Need,
    model::{Format, Operation},
    provider::KeyChoice,
    queue::Owner,
    route::{Cause, Target, cause::Counts, probe::Checked},
    runtime::Runtime,
    telemetry::metrics,
    transport,
};

/// Who is asked.
#[derive(Clone)]
enum Whom {
    Provider,
    Target(Arc<Target>),
}

/// Until the gateway stops.
pub async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut next: HashMap<Arc<str>, Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let runtime = gateway.runtime.load_full();
        let now = clock::now();
        let wanted = wanted(&runtime);
        gateway.state.health.checks.keep(|name| wanted.contains_key(name));
        next.retain(|name, _| wanted.contains_key(name));
        let due: Vec<_> = wanted
            .into_iter()
            .filter(|(name, (_, check))| {
                // The first ones are scattered: several gateways, or providers, do not ask in step.
                let at = next.entry(name.clone()).or_insert_with(|| now + check.every.mul_f64(fastrand::f64()));
                let due = *at <= now;
                if due {
                    *at = now + check.every;
                }
                due
            })
            .collect();
        if due.is_empty() {
            continue;
        }
        let (from, at) = (&gateway, &runtime);
        let checks = due.into_iter().map(|(name, (whom, check))| async move {
            match whom {
                Whom::Provider => from.check(at, &name, &check).await,
                Whom::Target(target) => from.check_target(&target, &check).await,
            }
        });
        let all = futures_util::stream::iter(checks).buffer_unordered(AT_ONCE).collect::<()>();
        tokio::select! {
            () = stop.cancelled() => return,
            () = all => {}
        }
    }
}

/// By name: a target's has a slash in it, and a provider's has none. What several aliases list is asked once.
fn wanted(runtime: &Runtime) -> BTreeMap<Arc<str>, (Whom, HealthCheck)> {
    let providers = runtime.config.providers.iter();
    let providers = providers.filter_map(|p| Some((p.name.as_str().into(), (Whom::Provider, p.health?))));
    let targets = runtime.routes.targets();
    let targets = targets.filter_map(|t| Some((t.name.clone(), (Whom::Target(t.clone()), t.check?))));
    providers.chain(targets).collect()
}

impl Gateway {
    async fn check(&self, runtime: &Runtime, provider: &Arc<str>, check: &HealthCheck) {
        let targets = runtime.routes.listed_at(provider);
        let Some(target) = targets.first().filter(|t| t.provider.ready()) else { return };
        let failed = self.called(target, check.timeout).await.err().map(said::named);
        // Whoever refuses a key or knows no such path answers, and that is all that is asked.
        let ill = failed.filter(|error| Cause::of(error).rule().breaker == Counts::Ill);
        self.found(provider, ill.as_ref());
        if ill.is_some() {
            let now = clock::now();
            targets.iter().for_each(|target| self.state.health.check_failed(target, now));
        }
    }

    /// While its breaker is open nobody is asked; behind its rest a check is as good a probe as a request.
    async fn check_target(&self, target: &Arc<Target>, check: &HealthCheck) {
        if !target.provider.ready() {
            return;
        }
        let nobody = || Owner { class: Default::default(), flow: CHECKS.into(), share: 1 };
        let place = match target.places(&self.state.queues) {
            None => None,
            // All its places are taken: it has enough to do.
            Some(places) => match places.enter(&CHECKS.into(), nobody) {
                None => return,
                place => place,
            },
        };
        let Ok(flight) = self.state.health.enter(target, clock::now()) else { return };
        let flight = flight.at(place);
        let failed = match self.asked(target, check.timeout).await {
            Ok(true) => None,
            // It was not asked, so nothing was found out.
            Ok(false) => return,
            Err(error) => Some(said::named(error)),
        };
        let counts = failed.as_ref().map_or(Counts::Well, |error| Cause::of(error).rule().breaker);
        let ill = failed.filter(|_| counts == Counts::Ill);
        self.found(&target.name, ill.as_ref());
        if counts != Counts::Nothing {
            flight.checked(counts == Counts::Well, clock::now());
        }
    }

    /// Told once for each change.
    fn found(&self, name: &Arc<str>, ill: Option<&Error>) {
        metrics().health_check(name, if ill.is_some() { "failed" } else { "ok" });
        let checked = Checked { at: clock::now(), failed: ill.map(|error| error.code().to_owned()) };
        let before = self.state.health.checks.note(name, checked);
        let was_ill = before.is_some_and(|before| before.failed.is_some());
        match ill {
            Some(error) if !was_ill => tracing::warn!(%name, %error, "a health check failed"),
            None if was_ill => tracing::info!(%name, "health checks pass again"),
            _ => {}
        }
    }

    /// The list of the models that it has.
    async fn called(&self, target: &Arc<Target>, within: Duration) -> Result<()> {
        let choice = self.state.keys.would_pick(&target.provider, &target.model, clock::now());
        if !matches!(choice, KeyChoice::Open | KeyChoice::Key(_)) {
            // Who rests for a quota is not ill.
            return Ok(());
        }
        self.answers(target, Call::check(target)?, choice, clock::now() + within).await
    }

    /// One word of its model, as a caller would ask for it. `false`: it could not be asked, which is no illness.
    async fn asked(&self, target: &Arc<Target>, within: Duration) -> Result<bool> {
        let until = clock::now() + within;
        let choice = self.state.keys.would_pick(&target.provider, &target.model, clock::now());
        let key = match choice {
            KeyChoice::Open => None,
            KeyChoice::Key(index) => Some(index),
            _ => return Ok(false),
        };
        let Ok(call) = question(target, until) else { return Ok(false) };
        // What its provider grants it grants for this, too.
        let cost = || target.rates.as_ref().and_then(|rates| rates.about(READS, WRITES as f64));
        let need = || Need {
            input_tokens: READS,
            output_tokens: WRITES,
            nano_usd: cost().map_or(0, |nano| nano.ceil() as u64),
        };
        let quotas = &self.state.health.quotas;
        let Ok(taken) = quotas.take(target.at(), key, need).await else { return Ok(false) };
        // From here on it may reach its provider: what is dropped counts as used.
        let taken = taken.map(|taken| taken.sent(1));
        let answered = self.answers(target, call, choice, until).await.map_err(said::named);
        quotas.heard(target.at(), key, taken.as_ref(), answered.as_ref().err());
        if let Some(taken) = taken {
            taken.settle(None);
        }
        answered.map(|()| true)
    }

    /// Sends it, and reads the answer to its end, so that the connection can be used again; what it says is no matter.
    async fn answers(&self, target: &Arc<Target>, mut call: Call, choice: KeyChoice, until: Instant) -> Result<()> {
        let right = self.state.limits.own_call();
        let sealed = self.signed(&mut call, target, (choice, right), until).await?;
        let sending = Box::pin(self.state.transport.send(sealed, target));
        let incoming = transport::before(until, sending).await??;
        if !incoming.status.is_success() {
            let spoken = (target.provider.format, call.format);
            return Err(transport::refusal(incoming, target, spoken, until).await);
        }
        let mut any = |_| Ok(());
        let read = incoming.body.collect(MOST, &mut any);
        transport::before(until, Box::pin(read)).await.flatten().map(drop)
    }
}

/// In the target's own words.
fn question(target: &Target, until: Instant) -> Result<Call> {
    let (format, nobody) = (Format::OpenaiChat, Arc::new(Principal::default()));
    let body = json!({
        "model": target.model,
        "max_tokens": WRITES,
        "messages": [{ "role": "user", "content": "Say yes." }],
    });
    let mut document = Document::new(format, body.to_string().into(), Inbound::default())?;
    let cx = Context::aside(Operation::Chat, format, nobody, Vec::new(), until);
    Call::prepare(&cx, &mut document, false, target, &HeaderMap::new(), HeaderMap::new())
}

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(250);
const AT_ONCE: usize = 8;
/// Bytes of an answer.
const MOST: u64 = 4 << 20;
/// Tokens of a question, about, and the most of an answer: less than these some providers refuse.
const READS: u64 = 16;
const WRITES: u64 = 16;
/// Whose places checks have.
const CHECKS: &str = "health checks";
