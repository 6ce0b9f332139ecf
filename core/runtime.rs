//! The snapshot that a request holds to its end, and what lives across snapshots. A reload builds a new `Runtime` whole
//! and swaps it; a live one is never changed.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::request::Parts;
use serde_json::{Value, json};

use crate::{
    account::{SettleQueue, estimate::Estimates},
    audit::{Audit, Refusals},
    auth::{self, Principal},
    codec::{Field, document::Document},
    config::{self, Caps, Config, Loaded, Place, Problem},
    error,
    experiment::Experiments,
    limit::Limits,
    opaque::{claims::Claims, objects::Objects},
    pipeline::{self, Pipeline, StageInfo},
    plugin::{Keep, Plugins},
    prompt::Prompts,
    provider::{self, KeyRests},
    queue::Queues,
    realtime::Sessions,
    rollout::{Slot, Standing},
    route::{self, Health, Waits},
    script::Scripts,
    seal::Seals,
    secrets::Secrets,
    server::{BodyLimits, BodyMemory, Certificates},
    store::{self, Store},
    stored::Stored,
    suite,
    token::Tokens,
    transport::Transport,
};

/// Derived from the configuration and the scripts; nothing in it changes.
pub struct Runtime {
    pub config: Arc<Config>,
    pub routes: route::Table,
    pub pipeline: Pipeline,
    pub prompts: Prompts,
    /// A model has `long_input`.
    pub reads_in_pieces: bool,
    /// What runs, in order.
    pub stages: Vec<StageInfo>,
    /// Files that lie ready but are not listed.
    pub outside: Vec<String>,
    pub body_limits: BodyLimits,
    /// The longest that any request may take up to its commit.
    pub whole: Duration,
    pub warnings: Vec<String>,
}

/// What lives: keyed by stable identity, it survives every reload.
pub struct State {
    pub auth: Arc<auth::Table>,
    /// The principal before anybody is known.
    pub nobody: Arc<Principal>,
    /// Seals ids that live at an upstream.
    pub seals: Seals,
    /// Files and batches by tenant.
    pub objects: Objects,
    /// Who charges a batch that is over.
    pub claims: Arc<Claims>,
    pub limits: Limits,
    /// Places, and who waits for one.
    pub queues: Queues,
    pub estimates: Arc<Estimates>,
    pub health: Health,
    /// How long targets that are hedged take.
    pub waits: Waits,
    pub keys: KeyRests,
    pub transport: Transport,
    /// Of the gateway's own identities at clouds.
    pub tokens: Tokens,
    pub body_memory: BodyMemory,
    /// Answers that later requests go on from.
    pub stored: Arc<Stored>,
    /// Realtime sessions under way.
    pub sessions: Sessions,
    pub settle: SettleQueue,
    /// What the process began with: a reload cannot change all of it.
    pub started: Arc<Config>,
    pub store: Arc<dyn Store>,
    /// Secrets that gateway.toml only names.
    pub secrets: Arc<Secrets>,
    /// Of the clients' port, where it speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// What was done to the gateway, and what it refused for reasons of security.
    pub audit: Arc<Audit>,
    /// The change that did not go live, until one does.
    pub refused: ArcSwapOption<Refused>,
    pub draining: AtomicBool,
    /// A new version that is being tried, if there is one.
    pub rollout: Slot,
    /// What is tried beside, and how it fares.
    pub experiments: Arc<Experiments>,
    /// Which version runs, and why it may be another than the files': for status pages.
    pub standing: ArcSwap<Standing>,
    /// Compiled scripts and their memory.
    pub scripts: Scripts,
    /// The same for plugins.
    pub plugins: Plugins,
}

/// A configuration that was not taken.
#[derive(Debug)]
pub struct Refused {
    pub hash: String,
    pub problems: Vec<Problem>,
}

impl Runtime {
    /// Reads, checks and compiles everything. Every problem at once.
    pub fn build(place: &Place, scripts: &Scripts, plugins: &Plugins) -> Result<Runtime, Refused> {
        Runtime::of(config::read(place, &config::env::var, &provider::catalog_names()), scripts, plugins)
    }

    /// The same of what was read already.
    pub fn of(loaded: Loaded, scripts: &Scripts, plugins: &Plugins) -> Result<Runtime, Refused> {
        let Loaded { config, warnings, mut problems } = loaded;
        let sound = problems.is_empty();
        // What follows from a mistake already told is not told again.
        let own = config.problem("", "").file;
        let mut add = |more: Vec<Problem>| problems.extend(more.into_iter().filter(|p| sound || p.file != own));
        let routes = route::Table::build(&config).map_err(&mut add);
        if sound && routes.is_ok() && !config.sources.plugins.is_empty() {
            plugins.keep_in(|| Some(Arc::new(store::compiled(&config.store)?)));
        }
        let built = pipeline::build(&config, scripts, plugins).map_err(&mut add);
        let prompts = Prompts::build(&config.sources).map_err(&mut add);
        if built.is_ok() && problems.is_empty() {
            problems.extend(suite::gate(&config, plugins));
        }
        let (Ok(routes), Ok(built), Ok(prompts), true) = (routes, built, prompts, problems.is_empty()) else {
            let problems = problems.into_iter().map(|p| config.place(p)).collect();
            return Err(Refused { hash: config.hash, problems });
        };
        let server = &config.server;
        let whole = config.models.values().filter_map(|m| m.timeouts.whole).max().unwrap_or(WHOLE).max(WHOLE);
        Ok(Runtime {
            body_limits: BodyLimits::new(server.max_body, server.min_body_rate),
            whole,
            routes,
            pipeline: built.pipeline,
            prompts,
            reads_in_pieces: config.models.values().any(|m| m.long_input.is_some()),
            stages: built.listed,
            outside: built.outside,
            warnings,
            config: config.shared(),
        })
    }
}

/// Parameters that the caller's scopes start from, where the request has none, the key's before the team's; then held to their
/// caps. Says which were lowered or raised. Costs nothing for who has neither.
pub fn parameters(principal: &Principal, document: &mut Document) -> error::Result<Vec<&'static str>> {
    if principal.terms.is_empty() {
        return Ok(Vec::new());
    }
    for bound in &*principal.terms {
        for (name, value) in &bound.terms.defaults {
            set_default(document, name, value)?;
        }
    }
    let caps = principal.caps();
    if caps.any() { hold(document, caps) } else { Ok(Vec::new()) }
}

fn hold(document: &mut Document, caps: Caps) -> error::Result<Vec<&'static str>> {
    let mut held = Vec::new();
    let request = document.request()?;
    let (max_tokens, n) = (request.max_tokens, request.n);
    let (temperature, top_p) = (request.sampling.temperature, request.sampling.top_p);
    // Who names no number may not have more either.
    if let Some(most) = caps.max_tokens.filter(|most| max_tokens.is_none_or(|asked| asked > *most)) {
        document.edit(Field::MaxTokens)?.max_tokens = Some(most);
        held.extend(max_tokens.map(|_| "max_tokens"));
    }
    if let Some(most) = caps.n.filter(|most| n.is_some_and(|asked| asked > *most)) {
        document.edit(Field::N)?.n = Some(most);
        held.push("n");
    }
    let outside = |asked: Option<f64>, range: Option<(f64, f64)>| {
        let (low, high) = range?;
        asked.map(|asked| asked.clamp(low, high)).filter(|near| asked.is_some_and(|asked| asked != *near))
    };
    if let Some(near) = outside(temperature, caps.temperature) {
        document.edit(Field::Sampling)?.sampling.temperature = Some(near);
        held.push("temperature");
    }
    if let Some(near) = outside(top_p, caps.top_p) {
        document.edit(Field::Sampling)?.sampling.top_p = Some(near);
        held.push("top_p");
    }
    Ok(held)
}

/// One parameter by its canonical name; the configuration has checked names and types.
fn set_default(document: &mut Document, name: &str, value: &Value) -> error::Result<()> {
    let request = document.request()?;
    let sampling = &request.sampling;
    let absent = match name {
        "max_tokens" => request.max_tokens.is_none(),
        "temperature" => sampling.temperature.is_none(),
        "top_p" => sampling.top_p.is_none(),
        "top_k" => sampling.top_k.is_none(),
        "frequency_penalty" => sampling.frequency_penalty.is_none(),
        "presence_penalty" => sampling.presence_penalty.is_none(),
        "seed" => sampling.seed.is_none(),
        "stop" => sampling.stop.is_empty(),
        _ => false,
    };
    if !absent {
        return Ok(());
    }
    if name == "max_tokens" {
        document.edit(Field::MaxTokens)?.max_tokens = value.as_u64();
        return Ok(());
    }
    let sampling = &mut document.edit(Field::Sampling)?.sampling;
    match name {
        "temperature" => sampling.temperature = value.as_f64(),
        "top_p" => sampling.top_p = value.as_f64(),
        "top_k" => sampling.top_k = value.as_u64(),
        "frequency_penalty" => sampling.frequency_penalty = value.as_f64(),
        "presence_penalty" => sampling.presence_penalty = value.as_f64(),
        "seed" => sampling.seed = value.as_i64(),
        _ => {
            let texts = value.as_array().into_iter().flatten();
            sampling.stop = texts.filter_map(|v| v.as_str().map(str::to_owned)).collect();
        }
    }
    Ok(())
}

/// The data directory lends the plugin engine a folder.
impl Keep for store::Compiled {
    fn folder(&self) -> &Path {
        store::Compiled::folder(self)
    }

    fn seal(&self) {
        if let Err(error) = store::Compiled::seal(self) {
            tracing::warn!(%error, "compiled plugins cannot be kept");
        }
    }
}

impl State {
    /// A request that ended with an error: what was refused for reasons of security is counted for the audit log, by the key
    /// where it is known whose it was.
    #[cold]
    pub fn watch(&self, error: &error::Error, caller: &Principal, from: IpAddr, parts: &Parts) {
        let code = error.code();
        let refused = caller.key_id.is_empty() && Refusals::concerns_key(code);
        let holder = refused
            .then(|| auth::credential(&parts.headers, parts.uri.query()).and_then(|key| self.auth.holder(&key)))
            .flatten();
        self.audit.refusals().note(code, Some(holder.as_deref().unwrap_or(&caller.key_id)), Some(from));
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

impl Refused {
    pub fn json(&self) -> Value {
        json!({"hash": self.hash, "errors": self.problems})
    }
}

/// The default of `timeouts.whole`.
pub const WHOLE: Duration = Duration::from_secs(600);
