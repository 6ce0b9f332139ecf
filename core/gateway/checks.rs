//! Active health checks: a cheap call to each provider that wants them (the list of its models), with the provider's own key and never
//! on a caller's account, so that a target which is down is known before a request meets it. One call a provider at a time, so many
//! providers at once, each within its own time. What a check says of a target stands in `route/probe.rs`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::{
    call::Call,
    clock,
    codec::said,
    config::HealthCheck,
    error::{Error, Result},
    provider::KeyChoice,
    route::{Cause, Target, cause::Counts, probe::Checked},
    runtime::Runtime,
    telemetry::metrics,
    transport,
};

/// Until the gateway stops.
pub async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut next: HashMap<String, Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let runtime = gateway.runtime.load_full();
        let now = clock::now();
        let wanted: Vec<_> =
            runtime.config.providers.iter().filter_map(|p| Some((p.name.clone(), p.health?))).collect();
        gateway.state.health.checks.keep(|name| wanted.iter().any(|(wanted, _)| wanted == name));
        next.retain(|name, _| wanted.iter().any(|(wanted, _)| wanted == name));
        let due: Vec<_> = wanted
            .into_iter()
            .filter(|(name, check)| {
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
        let checks = due.into_iter().map(|(name, check)| async move { from.check(at, &name, &check).await });
        let all = futures_util::stream::iter(checks).buffer_unordered(AT_ONCE).collect::<()>();
        tokio::select! {
            () = stop.cancelled() => return,
            () = all => {}
        }
    }
}

impl Gateway {
    async fn check(&self, runtime: &Runtime, provider: &str, check: &HealthCheck) {
        let targets = runtime.routes.listed_at(provider);
        let Some(target) = targets.first().filter(|t| t.provider.ready()) else { return };
        let failed = match self.called(target, check.timeout).await {
            Ok(()) => None,
            Err(error) => Some(said::named(error)),
        };
        // Whoever refuses a key or knows no such path answers, and that is all that is asked.
        let ill = failed.filter(|error| Cause::of(error).rule().breaker == Counts::Ill);
        let now = clock::now();
        let checked = Checked { at: now, failed: ill.as_ref().map(|error| error.code().to_owned()) };
        metrics().health_check(provider, if ill.is_some() { "failed" } else { "ok" });
        let before = self.state.health.checks.note(&target.provider.name, checked);
        let was_ill = before.is_some_and(|before| before.failed.is_some());
        match &ill {
            Some(error) if !was_ill => tracing::warn!(provider, %error, "a health check failed"),
            None if was_ill => tracing::info!(provider, "health checks pass again"),
            _ => {}
        }
        if ill.is_some() {
            targets.iter().for_each(|target| self.state.health.check_failed(target, now));
        }
    }

    /// The list of the models that it has.
    async fn called(&self, target: &Arc<Target>, within: Duration) -> Result<()> {
        let until = clock::now() + within;
        let choice = self.state.keys.would_pick(&target.provider, &target.model, clock::now());
        if !matches!(choice, KeyChoice::Open | KeyChoice::Key(_)) {
            // Who rests for a quota is not ill.
            return Ok(());
        }
        let mut call = Call::check(target)?;
        let right = self.state.limits.own_call();
        let sealed = self.signed(&mut call, target, (choice, right), until).await?;
        let sending = Box::pin(self.state.transport.send(sealed, target));
        let incoming = transport::before(until, sending).await??;
        if !incoming.status.is_success() {
            let spoken = (target.provider.format, target.provider.format);
            return Err(transport::refusal(incoming, target, spoken, until).await);
        }
        // Read to its end, so that the connection can be used again; what it says is no matter.
        let mut any = |_| Ok(());
        let read = incoming.body.collect(MOST, &mut any);
        let _: std::result::Result<_, Error> = transport::before(until, Box::pin(read)).await.flatten();
        Ok(())
    }
}

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(250);
const AT_ONCE: usize = 8;
/// Bytes of an answer.
const MOST: u64 = 4 << 20;
