//! Configuration: the file's shape (`file`), read and checked into these finished objects (`resolve`), and kept fresh
//! (`watch`). The only reader of files and environment.
//!
//! Everything here is plain and resolved: secrets are read, durations and sizes are typed, names are checked against each
//! other. A `Config` is never changed; a reload builds a new one.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::model::Format;

mod cache;
mod care;
pub mod catalogue;
pub mod content;
mod data;
pub mod env;
pub mod experiment;
pub mod file;
pub mod identity;
pub mod jwt;
mod kept;
mod later;
mod login;
mod master;
mod overload;
mod media;
mod prices;
mod quota;
pub mod read;
mod resolve;
mod rollout;
mod secrets;
mod scope;
pub mod secret;
mod shape;
mod source;
pub mod sources;
mod stage;
mod store;
mod strategy;
mod team;
mod text;
mod toml_json;
pub mod watch;

#[cfg(test)]
mod tests;

pub use cache::{Cache, Persist};
pub use care::{After, Care, HealthCheck, Hedge, MinSpeed, Timeouts};
pub use catalogue::{Catalogue, CatalogueRow};
pub use content::Content;
pub use data::{DataPolicy, Handling, data};
pub use experiment::{Arm, Mirror, Split, SplitBy};
pub use identity::{Caps, Configured, Grant, Organisation, Over, Role, Terms, Urgency, User};
pub use identity::{budget, defaults};
pub use kept::{Records, Responses};
pub use login::{AwsLogin, AwsRole, EntraLogin, GoogleLogin, Login, Places};
pub use media::Media;
pub use overload::{Concurrency, Overload};
pub use prices::{ENOUGH, PRICES, PriceService, PriceSheet, PriceTier, Prices, Pricing, UnknownPrice};
pub use quota::{Every, Quota, Quotas, Unit};
pub use read::{Loaded, Place, load, read, read_kept, read_with};
pub use resolve::operation_named;
pub use rollout::{Rollout, Sticky};
pub use scope::{Rule, Rules, Scope};
pub use secret::Secret;
pub use secrets::{Audit, Elsewhere, Master, Reference, Secrets, SecretsManager, Told, Vault, VaultAuth, fine_name};
pub use source::masked;
pub use sources::Sources;
pub use stage::{Isolation, OnError, Only, Park, SLOW, Stage, StageLimits, StreamMode};
pub use store::{OnOutage, Redis, RedisPlace, Store, StoreKind};
pub use strategy::Strategy;
pub use team::{Alerts, Budget, Limits, MOST_NANO_USD, Per, UNPRICED, WHOLE};
pub use text::{decimal, duration, hint, usd};
pub use toml_json::toml;
pub use watch::{Watched, Watcher, watch};

/// The whole configuration, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where gateway.toml lies; stages and relative paths start here.
    pub root: PathBuf,
    /// The file itself, for messages.
    pub file: PathBuf,
    /// Of gateway.toml and of every file it led to: hex, 16 characters.
    pub hash: String,
    /// Of its `Content` alone: the same when a secret or a certificate changed. Hex, 16 characters.
    pub version: String,
    /// Of what decides over answers: stages, prompts, models, providers and the like, without what only says where and how the
    /// gateway runs. Hex, 16 characters.
    pub policy: String,
    pub server: Server,
    pub admin: Admin,
    pub store: Store,
    pub auth: Auth,
    /// Whose signed tokens are taken in place of keys.
    pub issuers: Vec<jwt::Issuer>,
    pub providers: Vec<Provider>,
    /// Aliases by public name.
    pub models: BTreeMap<String, Alias>,
    pub organisations: BTreeMap<String, Organisation>,
    pub teams: BTreeMap<String, Team>,
    pub users: BTreeMap<String, User>,
    /// What binds whoever calls, by model, provider and tag.
    pub rules: Rules,
    /// What providers grant, by target and by key.
    pub quotas: Quotas,
    /// Who is told of budgets.
    pub alerts: Option<Alerts>,
    /// Prices of the user's own, in the file's order.
    pub pricing: Vec<Pricing>,
    /// Prices and limits of the file that `[catalogue]` names.
    pub catalogue: Arc<Catalogue>,
    pub unknown_price: UnknownPrice,
    pub media: Media,
    pub records: Records,
    pub responses: Responses,
    pub cache: Cache,
    pub overload: Overload,
    /// Of targets that have a bound, by `provider/model`.
    pub concurrency: BTreeMap<String, Concurrency>,
    pub audit: Audit,
    pub secrets: Secrets,
    /// How the next version takes over; `None`: at once.
    pub rollout: Option<Rollout>,
    /// `store.budget_lease`: how long a block of a budget that was in use when the gateway was killed counts as spent.
    pub budget_lease: Duration,
    /// `None`: every file directly in scripts/ and plugins/, in file-name order.
    pub stages: Option<Vec<Stage>>,
    /// The scripts as they were read, and which other files had a say: what compiles is what was hashed.
    pub sources: Sources,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub listen: SocketAddr,
    pub tls: Option<Tls>,
    /// Bytes of one request body, decompressed.
    pub max_body: u64,
    /// Bytes of one body that streams through without being held.
    pub max_upload: u64,
    /// How often the gateway asks for the batches of its callers itself.
    pub batch_look: Duration,
    pub drain: Duration,
    /// "Not ready" before the listener closes: 5 s; tests shorten it.
    pub drain_delay: Duration,
    pub write_stall: Duration,
    /// Bytes of all buffered bodies together.
    pub body_memory: u64,
    /// 10 s.
    pub header_timeout: Duration,
    /// Idle keep-alive.
    pub idle: Duration,
    /// The least bytes a second while a body is read, after a grace of 5 s.
    pub min_body_rate: u64,
    pub max_connections: usize,
    /// The most bytes one stream event may have: 16 MiB.
    pub max_event: usize,
    /// The longest silence of a stream that a stage holds back: 15 s.
    pub keep_alive: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Admin {
    pub listen: SocketAddr,
    pub token: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    pub required: bool,
}

/// `[providers.<name>]`: a catalogue row's settings, or a server of the user's own.
#[derive(Debug, Clone, Default)]
pub struct Provider {
    pub name: String,
    /// The catalogue row it builds on; by default the row of its own name.
    pub row: Option<String>,
    pub base_url: Option<String>,
    pub format: Option<Format>,
    /// `bearer`, `x-api-key`, `x-goog-api-key`, `api-key`, `none`.
    pub auth: Option<String>,
    /// Resolved keys, in order; empty when the environment variable is not set: then "not configured".
    pub keys: Vec<Secret>,
    /// Why there is no key (`environment variable OPENAI_API_KEY is not set`).
    pub missing: Option<String>,
    /// In place of keys: an identity at a cloud.
    pub login: Option<Login>,
    /// What stands for `{region}`, `{project}`, … in the row's address.
    pub places: Places,
    /// Model-name prefixes claimed by this provider, besides its row's.
    pub models: Vec<String>,
    pub headers: BTreeMap<String, String>,
    /// Private and loopback addresses allowed. A provider whose configured host is itself a literal private address or
    /// `localhost` is allowed that host.
    pub private: bool,
    /// An extra certificate authority for this provider's TLS (PEM file).
    pub ca: Option<PathBuf>,
    /// `http1` | `http2` | auto.
    pub http2: Option<bool>,
    pub timeouts: Timeouts,
    /// In place of its row's: `provider::Offers`.
    pub offers: Option<Vec<String>>,
    /// In place of its row's: streams may end without their terminal.
    pub open_end: Option<bool>,
    pub passthrough: Option<Vec<String>>,
    pub health: Option<HealthCheck>,
    /// Of all its models.
    pub handling: Handling,
}

/// `[models.<name>]`.
#[derive(Debug, Clone, Default)]
pub struct Alias {
    pub strategy: Strategy,
    pub sticky: Option<Sticky>,
    /// Until a target that is new or healed has its full share; zero: at once.
    pub warm_up: Duration,
    pub targets: Vec<Target>,
    /// Names (aliases or provider/model) tried after the targets.
    pub failover: Vec<String>,
    pub timeouts: Timeouts,
    /// On each target before the next; `None`: one where no other target is left.
    pub retries: Option<u32>,
    /// What a target cannot take is an error, not dropped.
    pub strict: bool,
    pub long_input: Option<LongInput>,
    /// Who answers is drawn.
    pub split: Option<Split>,
    pub mirror: Option<Mirror>,
    pub care: Care,
}

/// `models.NAME.long_input`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct LongInput {
    /// Tokens of a piece.
    pub chunk_tokens: usize,
    /// Reads the pieces; `None`: the name itself.
    pub model: Option<String>,
    pub parallel: usize,
    pub most_chunks: usize,
    pub instruction: Option<String>,
    /// Merges without a model.
    pub template: Option<String>,
    /// For one piece.
    pub wait: Duration,
    /// Streams begin at once and tell of each piece.
    pub progress: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub provider: String,
    pub model: String,
    pub weight: u32,
    /// `None`: no bound of its own.
    pub concurrency: Option<Concurrency>,
    /// Its own word over its provider's.
    pub handling: Handling,
    /// The model itself is asked now and then.
    pub health: Option<HealthCheck>,
}

#[derive(Debug, Clone, Default)]
pub struct Team {
    /// The keys of all its members are refused.
    pub disabled: bool,
    /// And what runs is ended.
    pub cut: bool,
    /// Allowed models with wildcards; `None`: all.
    pub models: Option<Vec<String>>,
    /// Parameters a team starts from (`temperature = 0.2`), by canonical name, as JSON.
    pub defaults: serde_json::Map<String, serde_json::Value>,
    /// What its requests have, and the most that they may ask for.
    pub priority: Option<Urgency>,
    /// Of the places, when teams wait.
    pub share: Option<u32>,
    pub limits: Option<Limits>,
    pub organisation: Option<String>,
    pub operations: Option<Arc<[String]>>,
    pub networks: Arc<[ipnet::IpNet]>,
    pub caps: Caps,
    pub tags: Arc<[(String, String)]>,
    /// All of them bind.
    pub budgets: Arc<[Budget]>,
    /// Where its requests go when a budget refuses them.
    pub fallback: Arc<[String]>,
    pub data: Option<DataPolicy>,
}

/// One problem, where it stands. `check --json` prints these.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Problem {
    /// Relative to gateway.toml's folder.
    pub file: String,
    pub line: u32,
    pub message: String,
    /// The line and a caret under the fault, for terminals.
    #[serde(skip)]
    pub excerpt: Option<String>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            max_body: 32 << 20,
            max_upload: 512 << 20,
            batch_look: Duration::from_secs(300),
            drain: Duration::from_secs(300),
            drain_delay: Duration::from_secs(5),
            write_stall: Duration::from_secs(60),
            body_memory: 1 << 30,
            header_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            min_body_rate: 1024,
            max_connections: 20_000,
            max_event: 16 << 20,
            keep_alive: Duration::from_secs(15),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)?;
        match &self.excerpt {
            Some(excerpt) => write!(f, "\n{excerpt}"),
            None => Ok(()),
        }
    }
}

impl Config {
    /// Gives a problem that names a key but no line (`models.smart.targets: …`) the line of that key.
    pub fn place(&self, problem: Problem) -> Problem {
        match problem.message.split_once(": ") {
            Some((key, _)) if problem.line == 0 && !key.contains(' ') => self.problem(key, problem.message.clone()),
            _ => problem,
        }
    }

    /// Sections that a reload cannot change, and that differ from those of `old`.
    pub fn needs_restart(&self, old: &Config) -> Vec<&'static str> {
        let mut keys = Vec::new();
        if self.server.listen != old.server.listen || self.server.tls != old.server.tls {
            keys.push("server.listen, server.tls");
        }
        // The listener took these when it started; what concerns bodies and events is read anew.
        let timers = |s: &Server| (s.drain, s.drain_delay, s.write_stall, s.header_timeout, s.idle, s.max_connections);
        if timers(&self.server) != timers(&old.server) {
            keys.push("server.drain, server.write_stall and other limits of connections");
        }
        if self.store != old.store {
            keys.push("store");
        }
        if self.responses.persist != old.responses.persist {
            keys.push("responses.persist");
        }
        if self.cache.persist != old.cache.persist {
            keys.push("cache.persist");
        }
        if self.budget_lease != old.budget_lease {
            keys.push("store.budget_lease");
        }
        if self.admin.listen != old.admin.listen {
            keys.push("admin.listen");
        }
        let token = |admin: &Admin| admin.token.as_ref().map(|t| t.expose().to_owned());
        if token(&self.admin) != token(&old.admin) {
            keys.push("admin.token");
        }
        if self.auth != old.auth {
            keys.push("auth.required");
        }
        keys
    }

    /// Who there is.
    pub fn who(&self) -> Configured<'_> {
        Configured { organisations: &self.organisations, teams: &self.teams, users: &self.users }
    }

    /// What has to be watched for this configuration to stay fresh.
    pub fn watched(&self) -> Watched {
        let mut files = vec![self.file.clone()];
        files.extend(self.sources.files.iter().cloned());
        // Listed plugins may lie in folders that are not looked through: sources and builds lie there too.
        let deep = self.sources.plugins.keys().filter(|name| name.matches('/').count() > 1);
        for name in deep {
            files.push(self.root.join(name));
            files.push(self.root.join(name).with_extension("test.toml"));
        }
        Watched {
            files,
            folders: vec![self.root.join("scripts")],
            flat: vec![self.root.join("plugins"), self.root.join("prompts")],
        }
    }

    /// A problem with what stands under a dotted key of gateway.toml (`models.smart.targets`): at its line, or at that of
    /// the nearest table above it.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let mut at = key;
        let line = loop {
            match (self.sources.lines.get(at), at.rsplit_once('.')) {
                (Some(line), _) => break *line,
                (None, Some((above, _))) => at = above,
                (None, None) => break 1,
            }
        };
        let file = self.file.strip_prefix(&self.root).unwrap_or(&self.file).display().to_string();
        Problem { file, line, message: message.into(), excerpt: None }
    }

    /// The shared form in which a runtime holds it.
    pub fn shared(mut self) -> Arc<Config> {
        // Compiled by now, and megabytes each.
        self.sources.plugins.values_mut().for_each(|plugin| plugin.bytes = Arc::default());
        Arc::new(self)
    }
}
