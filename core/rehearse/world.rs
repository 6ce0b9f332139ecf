//! What stands around a rehearsed request: a gateway whose every part is real and new, and empty but for what the scene says.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{
    Scene,
    questions::Questions,
    upstream::Stage,
    witness::{Behind, Witness},
};
use crate::{
    account::{self, Inbox, estimate::Estimates},
    audit::Audit,
    auth::{self, Principal},
    config::{Config, Problem, Scope},
    exchange::Settled,
    gateway::Gateway,
    limit::{Budgets, Limits, alert::Mark},
    opaque::{claims::Claims, objects::Objects},
    pipeline::{Entry, Pipeline},
    plugin::Plugins,
    prompt::Prompts,
    provider::KeyRests,
    queue::Queues,
    realtime::Sessions,
    rollout,
    route::{Cast, Health, Table, Waits},
    runtime::{Runtime, State},
    script::Scripts,
    seal::Seals,
    secrets::Secrets,
    server::{BodyLimits, BodyMemory},
    store::{self, Store},
    stored::Stored,
    token::Tokens,
    transport::{Transport, Upstreams},
    upstream::{Client, ProxyConfig},
};

/// A configuration and a pipeline, ready for many scenes. Used by one thread at a time: stages keep nothing from one scene to
/// the next.
pub struct House {
    runtime: Arc<Runtime>,
    witness: Arc<Witness>,
    client: Client,
    store: Arc<dyn Store>,
    /// Empties what stages remember.
    forget: Box<dyn Fn() + Send + Sync>,
}

/// For one scene.
pub struct Set {
    pub gateway: Arc<Gateway>,
    pub upstreams: Arc<Stage>,
    pub witness: Arc<Witness>,
    pub questions: Arc<Questions>,
    pub settled: Inbox<Settled>,
}

impl House {
    /// `forget` empties what the pipeline's stages remember.
    pub fn new(
        config: &Arc<Config>,
        pipeline: &Pipeline,
        cast: &Cast<'_>,
        forget: impl Fn() + Send + Sync + 'static,
    ) -> Result<House, Vec<Problem>> {
        let routes = Table::rehearsed(cast, config)?;
        let witness = Arc::new(Witness::default());
        let behind = Behind { witness: witness.clone(), name: WITNESS.into() };
        let entries = pipeline.entries.iter().cloned().chain([Arc::new(Entry::new(Arc::new(behind)))]);
        let server = &config.server;
        let whole = config.models.values().filter_map(|m| m.timeouts.whole).max().unwrap_or(WHOLE).max(WHOLE);
        let runtime = Runtime {
            body_limits: BodyLimits::new(server.max_body, server.min_body_rate),
            whole,
            routes,
            pipeline: Pipeline { entries: entries.collect(), asks: pipeline.asks.clone() },
            stages: Vec::new(),
            outside: Vec::new(),
            warnings: Vec::new(),
            prompts: Prompts::build(&config.sources)?,
            reads_in_pieces: config.models.values().any(|m| m.long_input.is_some()),
            config: config.clone(),
        };
        let client = Client::new(&ProxyConfig::default());
        let store = store::memory();
        Ok(House { runtime: Arc::new(runtime), witness, client, store, forget: Box::new(forget) })
    }

    pub fn whole(&self) -> Duration {
        self.runtime.whole
    }

    pub fn config(&self) -> &Config {
        &self.runtime.config
    }

    /// Everything new, as the scene says. `start`: virtual time begins here.
    pub fn set(&self, scene: &Scene, start: Instant) -> Result<Set, String> {
        let upstreams = Arc::new(Stage::new(scene.operation, scene.answers.clone()));
        let (gateway, settled) = self.open(scene, start, upstreams.clone())?;
        let questions = Questions::of(&gateway, &self.runtime, &upstreams);
        self.runtime.pipeline.asks.answer_with(questions.clone());
        Ok(Set { gateway, upstreams, witness: self.witness.clone(), questions, settled })
    }

    /// A gateway whose upstreams are these, and where its settled requests come out.
    pub(super) fn open(
        &self,
        scene: &Scene,
        start: Instant,
        upstreams: Arc<dyn Upstreams>,
    ) -> Result<(Arc<Gateway>, Inbox<Settled>), String> {
        (self.forget)();
        let config = &self.runtime.config;
        let (queue, settled) = account::queue(1);
        let keys = KeyRests::default();
        for name in &scene.resting {
            let plan = self.runtime.routes.resolve(name).map_err(|e| format!("{name}: {}", e.message))?;
            for target in plan.targets() {
                for index in 0..target.provider.keys() {
                    keys.refused(&target.provider, index, &target.model, 429, Some(REST), start);
                }
            }
        }
        let state = State {
            auth: Arc::new(auth::Table::new(&[0; 32])),
            nobody: Arc::new(Principal::default()),
            seals: Seals::new(&[0; 32]).map_err(|e| e.message.clone())?,
            objects: Objects::new(self.store.clone()),
            limits: Limits::new(budgets(&self.store, config, scene)),
            queues: Queues::new(&config.overload),
            estimates: Arc::new(Estimates::default()),
            waits: Waits::default(),
            health: Health::told(scene.live.iter().map(|own| (&own.name, &own.fares)), (start, crate::clock::wall())),
            keys,
            tokens: Tokens::new(self.client.clone()),
            transport: Transport::rehearsed(self.client.clone(), upstreams),
            body_memory: BodyMemory::new(config.server.body_memory),
            stored: Stored::in_memory(&[0; 32], config.responses).map_err(|e| e.message.clone())?,
            claims: Arc::new(Claims::new(self.store.clone(), None).map_err(|e| e.to_string())?),
            sessions: Sessions::default(),
            rollout: rollout::Slot::default(),
            experiments: Arc::default(),
            standing: ArcSwap::default(),
            settle: queue,
            started: config.clone(),
            store: self.store.clone(),
            audit: Audit::nowhere(),
            secrets: Secrets::nowhere(self.client.clone()),
            certificates: None,
            refused: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            scripts: Scripts::dry(),
            plugins: Plugins::dry(),
        };
        Ok((Arc::new(Gateway { runtime: ArcSwap::new(self.runtime.clone()), state }), settled))
    }
}

/// Every budget's counter is read already: nobody waits for a store.
fn budgets(store: &Arc<dyn Store>, config: &Config, scene: &Scene) -> Arc<Budgets> {
    let budgets = Budgets::new(store.clone(), None, config.budget_lease);
    let rules = scene.principal.rules.iter().map(|rule| &**rule).chain(config.rules.all());
    for rule in rules {
        for budget in rule.budgets.iter() {
            // A team is called by its name alone, others with their kind in front.
            let plain = matches!(rule.scope, Scope::Team(_)).then(|| scene.spent.get(&**rule.scope.id())).flatten();
            let spent = plain.or_else(|| scene.spent.get(&rule.scope.to_string())).copied().unwrap_or(0);
            let purse = budgets.purse((&rule.scope, &rule.name), budget, scene.now);
            purse.load(spent, 0, Mark::default());
            purse.grant(budget.nano_usd);
        }
    }
    budgets
}

/// How the witness is called in a trace.
pub const WITNESS: &str = "the rehearsal";
/// The default of `timeouts.whole`.
const WHOLE: Duration = Duration::from_secs(600);
/// Of keys that rest when a scene begins.
const REST: Duration = Duration::from_secs(60);
