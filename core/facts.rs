//! What the gateway tells about itself: its admin plane all of it, the data port whether it is ready. Reads; changes
//! nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::{
    account::price::Rates,
    admin::{Facts, Priced, Sees},
    auth::expiry,
    cache::Whose,
    config::{Alias, Budget, Per, Scope, Team},
    context,
    error::{Error, Kind, Result},
    experiment::Window,
    explain::{self, Asked, World},
    gateway::Gateway,
    provider::Provider,
    route::{self, Circuit, Fare, Live},
    runtime::{Runtime, State},
    store,
    telemetry::metrics,
};

mod budgets;
mod quotas;

impl State {
    /// What choices among targets are made on.
    pub fn live(&self) -> Live<'_> {
        Live::new(&self.health, &self.estimates)
    }

    /// What decisions are made on.
    pub fn world<'a>(&'a self, runtime: &'a Runtime) -> World<'a> {
        World {
            config: &runtime.config,
            routes: &runtime.routes,
            pipeline: &runtime.pipeline,
            prompts: &runtime.prompts,
            health: &self.health,
            keys: &self.keys,
            limits: Some(&self.limits),
            queues: Some(&self.queues),
            estimates: &self.estimates,
            waits: Some(&self.waits),
            stored: Some(&self.stored),
        }
    }
}

impl Runtime {
    /// Stages that fail too often and rest, and until the next try.
    fn parked(&self) -> Vec<(&str, Duration)> {
        let now = Instant::now();
        let rest = |entry: &Arc<crate::pipeline::Entry>| entry.standing.parked(now);
        self.pipeline.entries.iter().filter_map(|e| rest(e).map(|wait| (&**e.stage.name(), wait))).collect()
    }
}

impl Gateway {
    /// Readiness, as both planes tell it: what runs, and what was refused.
    pub fn ready(&self) -> (bool, Value) {
        let runtime = self.runtime.load();
        let draining = self.state.draining();
        let refused = self.state.refused.load();
        let (standing, rollout) = (self.state.standing.load(), self.state.rollout.under_way());
        let body = json!({
            "status": if draining { "draining" } else { "ready" },
            "config": runtime.config.hash,
            // Stages that rest: those that stand in the way have their requests refused, the others are skipped.
            "parked": runtime.parked().iter().map(|(stage, _)| *stage).collect::<Vec<_>>(),
            // Requests are answered from memory: a store that takes no changes makes nobody unready.
            "store": self.state.store.trouble().unwrap_or("ok"),
            // Values that could not be looked at again: what was read last is used.
            "secrets": self.state.secrets.trouble(),
            // New ones that cannot be used: those before go on.
            "certificates": self.bad_certificates(),
            "refused": refused.as_deref().map(|r| r.json()),
            "version": standing.named(),
            // All is well, but what runs is not what lies in the folder.
            "files": standing.why(rollout.as_deref(), refused.as_deref().map(|r| &*r.hash)),
            "pinned": standing.pin.as_ref().map(|pin| pin.json()),
            "rollout": rollout.as_ref().map(|rollout| rollout.brief()),
            "reverted": standing.held.as_ref().map(|held| held.json()),
        });
        (!draining, body)
    }

    fn bad_certificates(&self) -> Option<String> {
        let trouble = self.state.certificates.as_ref().and_then(|certificates| certificates.trouble());
        trouble.map(|trouble| trouble.to_string())
    }
}

impl Facts for Gateway {
    fn prices(&self) -> Priced {
        let runtime = self.runtime.load_full();
        let (prices, mut known) = (runtime.routes.prices(), HashMap::<String, Option<Arc<Rates>>>::new());
        Box::new(move |target| {
            if let Some(found) = known.get(target) {
                return found.clone();
            }
            let (provider, model) = target.split_once('/')?;
            let found = runtime.routes.provider(provider).and_then(|of| prices.find(target, of, model));
            known.insert(target.to_owned(), found.clone());
            found
        })
    }

    fn elsewhere(&self, request: String) -> BoxFuture<'_, Option<String>> {
        Box::pin(async move {
            let found = store::nodes::of_request(&*self.state.store, context::mark_of(&request)?).await.ok()?;
            let list: Vec<String> = found.iter().map(|n| format!("{} (http://{})", n.name, n.admin)).collect();
            (!list.is_empty()).then(|| {
                format!(
                    "this request was answered by another gateway, which keeps its record if it still has it: ask {}",
                    list.join(" or ")
                )
            })
        })
    }

    fn experiments(&self, window: Window) -> BoxFuture<'_, Result<Vec<Value>>> {
        Box::pin(async move {
            let (runtime, state) = (self.runtime.load_full(), &self.state);
            let rows = state.experiments.show(&runtime.config, &*state.store, &window).await;
            rows.map_err(|e| Error::new(Kind::Internal, "the figures of other gateways cannot be read").because(e))
        })
    }

    fn config_status(&self) -> Value {
        let runtime = self.runtime.load();
        let refused = self.state.refused.load();
        let parked = runtime.parked();
        let rest =
            |stage: &str| parked.iter().find(|(name, _)| *name == stage).map(|(_, wait)| wait.as_millis() as u64);
        let (rollout, refused_hash) = (self.state.rollout.under_way(), refused.as_deref().map(|r| &*r.hash));
        let standing = self.state.standing.load().json(rollout.as_deref(), refused_hash);
        let mut status = json!({
            "running": {
                "hash": runtime.config.hash,
                "file": runtime.config.file,
                "stages": runtime.stages.iter().map(|s| json!({
                    "use": s.uses,
                    "hash": s.hash,
                    // It fails too often; the next try is due in so long.
                    "parked": rest(&s.uses).map(|wait| json!({"retry_in_ms": wait})),
                    "phases": s.phases,
                })).collect::<Vec<_>>(),
                "outside": runtime.outside,
                "warnings": runtime.warnings,
            },
            // Changed in the file and not in the process.
            "needs_restart": runtime.config.needs_restart(&self.state.started),
            "refused": refused.as_deref().map(|r| r.json()),
            // Each secret that lies elsewhere, and how fresh it is.
            "secrets": self.state.secrets.status(),
            "certificates": self.bad_certificates(),
            "keyring": self.state.secrets.ring().json(),
        });
        for (name, value) in standing.as_object().into_iter().flatten() {
            status[name] = value.clone();
        }
        status
    }

    fn models(&self) -> Vec<Value> {
        let runtime = self.runtime.load();
        let now = Instant::now();
        let health = |targets: &[String], alias: Option<&Alias>| {
            let shown = |target: &String| {
                let fares = self.state.health.fare(target, now);
                let mut shown = fare(target, fares);
                let share = alias.map(|alias| route::share(alias.strategy, alias.warm_up, fares.warming));
                // Of its requests, while it warms up.
                if let Some(share) = share.filter(|share| *share < 1.0) {
                    shown["share"] = ((f64::from(share) * 100.0).round() / 100.0).into();
                }
                shown
            };
            targets.iter().map(shown).collect::<Vec<_>>()
        };
        let aliases = runtime.config.models.iter().map(|(name, alias)| {
            let targets: Vec<String> = alias.targets.iter().map(|t| format!("{}/{}", t.provider, t.model)).collect();
            json!({
                "id": name, "kind": "alias", "strategy": alias.strategy.name(), "targets": targets,
                "failover": alias.failover, "health": health(&targets, Some(alias)),
            })
        });
        let mock = ["mock/mock".to_owned()];
        let builtin = json!({
            "id": "mock", "kind": "builtin", "targets": mock, "failover": [], "health": health(&mock, None),
        });
        aliases.chain([builtin]).collect()
    }

    fn teams(&self) -> Vec<Value> {
        let now = SystemTime::now();
        let number = budgets::number;
        let money = |name: &str, budget: &Budget| {
            let name: Arc<str> = Arc::from(name);
            let account = self.state.limits.budgets().account((&Scope::Team(name.clone()), &name), budget, now);
            let balance = account.balance;
            json!({
                "usd": number(account.most),
                "per": budget.per.name(),
                "window": account.window.id,
                "resets": account.window.end.map(|end| expiry::show(expiry::to_seconds(end))),
                "spent_usd": balance.map(|b| number(b.spent)),
                "reserved_usd": balance.map(|b| number(b.reserved)),
                "left_usd": balance.map(|b| number(b.left)),
            })
        };
        let teams = &self.runtime.load().config.teams;
        let row = |(name, team): (&String, &Team)| {
            json!({
                "name": name,
                "models": team.models,
                "limits": team.limits,
                "budget": team.budgets.first().map(|budget| money(name, budget)),
                "budgets": team.budgets.iter().map(|budget| money(name, budget)).collect::<Vec<_>>(),
                "budget_fallback": team.fallback,
                "data": team.data.as_ref().map(|data| data.json()),
                "source": "file",
            })
        };
        teams.iter().map(row).collect()
    }

    fn budgets(&self, sees: Option<Sees>, after: Option<(Scope, Per)>, limit: usize) -> BoxFuture<'_, Vec<Value>> {
        Box::pin(budgets::list(self.state.limits.budgets(), &self.state.auth, sees, (after, limit)))
    }

    fn quotas(&self) -> Vec<Value> {
        quotas::list(&self.state.health.quotas)
    }

    fn raises(&self) -> Vec<Value> {
        budgets::raises(self.state.limits.budgets())
    }

    fn raise(&self, body: Bytes) -> BoxFuture<'_, Result<Value>> {
        Box::pin(async move { budgets::raise(self.state.limits.budgets().clone(), &body).await })
    }

    fn flush_cache(&self, team: Option<&str>, key: Option<&str>) -> BoxFuture<'static, Result<u64>> {
        let team = team.map(|team| Whose::Team(team.into()));
        let whose = team.or_else(|| key.map(|key| Whose::Key(key.into())));
        let cache = self.state.scripts.effects().builtins.cache;
        Box::pin(async move { cache.flush(whose.as_ref()).await })
    }

    fn end_raise(&self, id: String) -> BoxFuture<'_, Result<Value>> {
        Box::pin(async move { budgets::end(self.state.limits.budgets().clone(), &id).await })
    }

    fn providers(&self) -> Vec<Value> {
        let now = Instant::now();
        let open = self.state.health.not_closed(now);
        let describe = |p: &Arc<Provider>| {
            let own = open.iter().filter(|(name, _)| name.split_once('/').is_some_and(|(head, _)| head == &*p.name));
            json!({
                "name": p.name,
                "format": p.format,
                "ready": p.ready(),
                "missing": p.missing,
                "keys": p.keys(),
                "keys_resting": self.state.keys.resting(p, now),
                "check": self.state.health.checks.told(&p.name, now),
                "ejected": own.map(|(name, at)| fare(name, *at)).collect::<Vec<_>>(),
            })
        };
        self.runtime.load().routes.providers().map(describe).collect()
    }

    fn ready(&self) -> (bool, Value) {
        Gateway::ready(self)
    }

    fn explain(&self, asked: Asked) -> BoxFuture<'_, Result<Value>> {
        let runtime = self.runtime.load_full();
        Box::pin(async move { Ok(explain::decide(&self.state.world(&runtime), asked).await?.json()) })
    }

    fn measure(&self) {
        metrics().store_failing(self.state.store.trouble().is_some());
        metrics().in_flight(self.state.limits.in_flight());
        let queues = &self.state.queues;
        for (name, standing) in queues.standings() {
            metrics().places(&name, standing.limit, standing.taken, standing.waiting);
        }
        metrics().shedding(queues.pressure.level());
        let now = Instant::now();
        let runtime = self.runtime.load();
        for entry in &runtime.pipeline.entries {
            metrics().stage_parked(entry.stage.name(), entry.standing.parked(now).is_some());
        }
        for target in runtime.config.models.values().flat_map(|m| &m.targets) {
            let name = format!("{}/{}", target.provider, target.model);
            let fare = self.state.health.fare(&name, now);
            let state = match fare.circuit {
                Circuit::Closed => 0,
                Circuit::HalfOpen(_) => 1,
                Circuit::Open(_) => 2,
            };
            metrics().circuit(&target.provider, &target.model, state);
            metrics().target(&target.provider, &target.model, fare.latency, fare.speed, fare.in_flight);
        }
    }
}

/// One target's health, as status pages show it.
fn fare(target: &str, Fare { circuit, latency, speed, in_flight, warming: _ }: Fare) -> Value {
    let (word, wait) = match circuit {
        Circuit::Closed => ("closed", None),
        Circuit::HalfOpen(_) => ("half_open", None),
        Circuit::Open(wait) => ("open", Some(wait)),
    };
    let millis = |d: Duration| d.as_millis() as u64;
    json!({
        "target": target,
        "circuit": word,
        "retry_in_ms": wait.map(millis),
        "latency_ms": latency.map(millis),
        "tokens_per_second": speed.map(|speed| (f64::from(speed) * 10.0).round() / 10.0),
        "in_flight": in_flight,
    })
}
