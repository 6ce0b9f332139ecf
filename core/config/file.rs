//! The shape of gateway.toml: plain structures without logic. `shape` checks a file against the schema made from them,
//! `resolve` turns them into finished objects. The comments here are what editors show, through `portcullis schema`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

mod cache;
mod experiment;
mod care;
mod data;
mod identity;
mod jwt;
mod login;
mod long;
mod media;
mod money;
mod overload;
mod quota;
mod rollout;
mod secrets;
mod stage;
mod store;
mod strategy;
mod team;
mod unit;

pub use cache::{Cache, Persist};
pub use care::{HealthCheck, Hedge, MinSpeed, Timeouts};
pub use data::{Data, DataTerms};
pub use experiment::{Arm, Charge, Mirror, Split, SplitBy};
pub use identity::{Caps, Defaults, Organisation, User};
pub use jwt::{Jwt, JwtClaims};
pub use login::{Aws, Entra, Google};
pub use long::{LongInput, LongMode};
pub use media::Media;
pub use money::{Bodies, Catalogue, PriceService, PriceServices, PriceTier, Pricing, Records, UnknownPrice, Usd};
pub use overload::{Concurrency, Overload};
pub use quota::{Quota, QuotaPer, Quotas};
pub use rollout::{RevertOn, Rollout, Sticky};
pub use secrets::{Audit, Secrets, SecretsManager, Vault, VaultAuth};
pub use stage::{Isolation, Limits, OnError, Only, Park, Stage, StreamMode};
pub use store::{OnOutage, Store, StoreKind};
pub use strategy::Strategy;
pub use team::{Alerts, Budget, Budgets, Per, Priority, Tag, Tags, TeamLimits};
pub use unit::{OneOrMany, Size, Span};

/// Configuration of Portcullis.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "gateway.toml")]
pub struct File {
    /// The port that clients call.
    pub server: Option<Server>,
    /// The operators' port: health, metrics, API and console.
    pub admin: Option<Admin>,
    /// Where keys and counters live.
    pub store: Option<Store>,
    /// Who may call.
    pub auth: Option<Auth>,
    /// Model providers, by the name that stands before the slash in `provider/model`.
    #[serde(default)]
    pub providers: BTreeMap<String, Provider>,
    /// Public model names: each leads to one or more targets.
    #[serde(default)]
    pub models: BTreeMap<String, Model>,
    /// What the members of a team may do, and from which parameters they start.
    #[serde(default)]
    pub teams: BTreeMap<String, Team>,
    /// Teams under one roof.
    #[serde(default)]
    pub organisations: BTreeMap<String, Organisation>,
    /// People and service accounts.
    #[serde(default)]
    pub users: BTreeMap<String, User>,
    /// What requests with a tag together may use and spend, by `"name=value"`.
    #[serde(default)]
    pub tags: Tags,
    /// Who is told of budgets.
    pub alerts: Option<Alerts>,
    /// What models cost, where the built-in prices are not yours.
    pub pricing: Option<Vec<Pricing>>,
    /// Prices and limits from a file.
    pub catalogue: Option<Catalogue>,
    /// Media that requests name by URL.
    pub media: Option<Media>,
    /// What is kept of each request.
    pub records: Option<Records>,
    /// Answers that callers want kept (`store` of the Responses format).
    pub responses: Option<Responses>,
    /// Answers that are given again to who asks the same (`builtin/cache` among the stages).
    pub cache: Option<Cache>,
    /// When more is asked than can be served.
    pub overload: Option<Overload>,
    /// What was done to the gateway, and what it refused.
    pub audit: Option<Audit>,
    /// Where secrets lie that this file only names, and what seals those that the gateway keeps.
    pub secrets: Option<Secrets>,
    /// How a saved change takes over from what runs. Without it: at once.
    pub rollout: Option<Rollout>,
    /// The pipeline, in this order. Without it every file directly in scripts/ runs, in file-name order.
    pub stages: Option<Vec<Stage>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port. Default: 127.0.0.1:8080. A change needs a restart.
    pub listen: Option<String>,
    /// Serve TLS with these files; a renewed certificate is taken up while running.
    pub tls: Option<Tls>,
    /// The most bytes a request body may have, decompressed. Default: 32MiB.
    pub max_body: Option<Size>,
    /// The most bytes of a body that streams through without being held: files, pictures, sound. Default: 512MiB.
    pub max_upload: Option<Size>,
    /// How often the gateway looks after batches itself, so that those are charged which nobody asks for. Default: 5m.
    pub batch_look: Option<Span>,
    /// How long running requests may go on after a stop signal. Default: 300s.
    pub drain: Option<Span>,
    /// How long "not ready" is shown before the listener closes. Default: 5s.
    pub drain_delay: Option<Span>,
    /// A client that reads nothing for so long is cut off. Default: 60s.
    pub write_stall: Option<Span>,
    /// The most bytes that all buffered bodies may have together. Default: 1GiB.
    pub body_memory: Option<Size>,
    /// Time for a request's headers to arrive. Default: 10s.
    pub header_timeout: Option<Span>,
    /// An idle keep-alive connection is closed after this. Default: 75s.
    pub idle: Option<Span>,
    /// The fewest bytes a second while a body arrives. Default: 1024.
    pub min_body_rate: Option<Size>,
    /// The most client connections at a time. Default: 20000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u64>,
    /// The most bytes one event of a stream may have. Default: 16MiB.
    pub max_event: Option<Size>,
    /// A client hears something so often while a stage holds its stream back. Default: 15s.
    pub keep_alive: Option<Span>,
}

/// Answers that callers want kept, for `previous_response_id` and for reading them again.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Responses {
    /// How long an answer is kept. Default: 30d.
    pub keep: Option<Span>,
    /// The most bytes that all of them may have on the disk; the oldest ones make room. Default: 1GiB.
    pub max_size: Option<Size>,
    /// The most bytes of the newest ones in memory. Default: 64MiB.
    pub memory: Option<Size>,
    /// Whether they outlive the process, sealed in the data directory. Default: true. A change needs a restart.
    pub persist: Option<bool>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub cert: String,
    /// PEM file with the private key.
    pub key: String,
    /// PEM file with the authorities of client certificates: makes them required.
    pub client_ca: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Address and port, never the clients' one. Default: 127.0.0.1:8081. A change needs a restart.
    pub listen: Option<String>,
    /// Bearer token: `env:NAME`, `file:PATH` or another place of a secret. Needed on any address but loopback.
    pub token: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// `false` opens the gateway to anybody who reaches it: on loopback only. Default: true.
    pub required: Option<bool>,
    /// Issuers whose signed tokens (JWT) callers may send in place of a virtual key.
    #[serde(default)]
    pub jwt: BTreeMap<String, Jwt>,
}

/// A provider of the catalogue needs only its key; a server of your own needs `base_url` and `format`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The catalogue's row that this one builds on. Default: the row of its own name.
    pub row: Option<String>,
    /// Where it answers, with the version segment (`https://host/v1`).
    pub base_url: Option<String>,
    /// The wire format that it speaks.
    pub format: Option<Format>,
    /// How the key is sent.
    pub auth: Option<AuthScheme>,
    /// `env:NAME`, `file:PATH`, `store:NAME`, `vault:PATH#FIELD` or `aws-sm:NAME`; several in a list rotate.
    pub key: Option<OneOrMany>,
    /// The same as `key` with a list.
    pub keys: Option<Vec<String>>,
    /// In place of a key: requests are signed for AWS.
    pub aws: Option<Aws>,
    /// In place of a key: tokens of Google.
    pub google: Option<Google>,
    /// In place of a key: tokens of Microsoft Entra.
    pub entra: Option<Entra>,
    /// AWS: where the models run (`us-east-1`).
    pub region: Option<String>,
    /// Google Cloud: the project's id.
    pub project: Option<String>,
    /// Google Cloud: `global`, a region (`europe-west4`), or `us` or `eu`.
    pub location: Option<String>,
    /// Azure: the resource's name, the first part of its address.
    pub resource: Option<String>,
    /// Azure: the API's version, where its paths need one.
    pub api_version: Option<String>,
    /// Model-name prefixes that reach this provider without `provider/`.
    pub models: Option<Vec<String>>,
    /// Headers sent with every request. Not for secrets.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Allow private and loopback addresses behind its name.
    pub private: Option<bool>,
    /// PEM file with an extra certificate authority.
    pub ca: Option<String>,
    /// `true`: HTTP/2 only, `false`: HTTP/1.1 only. Default: what the server offers.
    pub http2: Option<bool>,
    /// For every model of this provider.
    pub timeouts: Option<Timeouts>,
    /// It is asked now and then whether it answers. Default: only requests tell.
    pub health: Option<HealthCheck>,
    /// What it offers besides chat and embeddings, in place of what the catalogue says: `rerank`, `moderations`, `images`,
    /// `speech`, `transcription`, `translation`, `files`, `batches`, `realtime`, `compaction`, `background`, and `completions` (legacy
    /// completions go there as they came, not as a chat).
    pub offers: Option<Vec<String>>,
    /// Its streams of the format `openai_chat` may end without `[DONE]`, once a finish reason was seen. Default: such a stream
    /// has broken off, unless the catalogue says otherwise.
    pub open_end: Option<bool>,
    /// Paths behind `base_url` that `/providers/<name>/*` may reach, in place of the catalogue's (`/tokenize`, `/lora/*`,
    /// `DELETE /cache`).
    pub passthrough: Option<Vec<String>>,
    /// What all attempts at this provider together may use; what it has no room for goes to the next target. Default: no limit.
    pub limits: Option<TeamLimits>,
    /// What all attempts at this provider together may cost. Default: no bound.
    pub budget: Option<Budgets>,
    /// What becomes of data that is sent there, by its contract with you. Default: nothing is promised.
    pub data: Option<DataTerms>,
    /// What the provider grants to each key; a key whose quota is used up rests until its window ends. Default: no bound.
    pub quota: Option<Quotas>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    OpenaiChat,
    OpenaiResponses,
    AnthropicMessages,
    Gemini,
    BedrockConverse,
    Cohere,
    Ollama,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthScheme {
    Bearer,
    XApiKey,
    XGoogApiKey,
    ApiKey,
    None,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// How the first target is chosen. Default: first.
    pub strategy: Option<Strategy>,
    /// What keeps to its target as long as that is well and not clearly worse than others. Default: nothing.
    pub sticky: Option<Sticky>,
    /// A target that is new, or well again, gets its share of requests by and by within this time; `0s`: at once. Default: 30s.
    pub warm_up: Option<Span>,
    /// Where requests for this name may go.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Other public names, or `provider/model`, tried after the targets.
    #[serde(default)]
    pub failover: Vec<String>,
    /// The same for prompts that are too long for a target: tried instead of the others. Default: the request is refused.
    #[serde(default)]
    pub context_failover: Vec<String>,
    /// The same for content that a provider's policy does not allow. Default: the request is refused.
    #[serde(default)]
    pub content_failover: Vec<String>,
    /// A stream that is slower before anything reached the client goes to the next target. Default: no bound.
    pub min_speed: Option<MinSpeed>,
    /// A second target is asked beside one that takes its time, and the first to have output is heard. Default: never.
    pub hedge: Option<Hedge>,
    /// A stream that breaks off or stalls goes on at another target, from the text so far. Default: false.
    pub resume: Option<bool>,
    pub timeouts: Option<Timeouts>,
    /// How often a target is asked again before the next one is tried. Default: once where no other target is left, else
    /// not at all. Never more than a fifth of a target's calls, and four attempts in all.
    #[schemars(range(min = 0, max = 3))]
    pub retries: Option<u32>,
    /// A parameter that a target cannot take is an error (400) that names it, not dropped and reported. Default: false.
    pub strict: Option<bool>,
    /// Texts that are too long are read in pieces.
    pub long_input: Option<LongInput>,
    /// Requests are shared out among arms; behind an arm that fails stand the targets.
    pub split: Option<Split>,
    /// A share of requests is sent to another target, too.
    pub mirror: Option<Mirror>,
    /// What all requests for this name together may use. Default: no limit.
    pub limits: Option<TeamLimits>,
    /// What all requests for this name together may spend. Default: no bound.
    pub budget: Option<Budgets>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{ "provider": "openai", "model": "gpt-4.1" }]))]
pub struct Target {
    /// A name of `[providers.…]`, or `mock`.
    pub provider: String,
    /// The provider's own name of the model.
    pub model: String,
    /// For `strategy = "weighted"`. Default: 1.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<u32>,
    /// How many calls it takes at a time: a number, or `"adaptive"`. Others wait for their turn, or go to another target that
    /// has room. Holds for the target wherever it is named. Default: no bound.
    pub concurrency: Option<Concurrency>,
    /// Where this model's data is; default: what its provider's `data` says.
    pub region: Option<String>,
    /// How long data is kept there; default: what its provider's `data` says.
    pub retention: Option<Span>,
    /// `false`: no model is trained with it; default: what its provider's `data` says.
    pub train: Option<bool>,
    /// What the provider grants of this model; it is never crossed, whatever name leads there. Default: no bound.
    pub quota: Option<Quotas>,
    /// Asks this model itself so often for one word, with the provider's key; it costs a few tokens. Default: no checks.
    pub health: Option<HealthCheck>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Team {
    /// `true`: the keys of all its members are refused. Default: false.
    pub disabled: Option<bool>,
    /// With `disabled = true`: what runs with them ends too. Default: false, it runs to its end.
    pub cut: Option<bool>,
    /// Models that the team may use, `*` standing for anything (`openai/*`). Default: all.
    pub models: Option<Vec<String>>,
    /// What all keys of the team together may use. Default: no limit.
    pub limits: Option<TeamLimits>,
    /// What all keys of the team together may spend. Default: no bound.
    pub budget: Option<Budgets>,
    /// Where a request goes when a budget refuses it, in this order: public names, or `provider/model`. Default: nowhere.
    pub budget_fallback: Option<Vec<String>>,
    /// Parameters a request starts from where the caller says nothing.
    pub defaults: Option<Defaults>,
    /// The organisation that it belongs to: what is said there binds it too.
    pub organisation: Option<String>,
    /// Operations that the team may use: `chat`, `embeddings`, `rerank`, … Default: all.
    pub operations: Option<Vec<String>>,
    /// Addresses that it may call from (`10.0.0.0/8`). Default: all.
    pub ip_ranges: Option<Vec<String>>,
    /// What parameters are held to.
    pub caps: Option<Caps>,
    /// On every request.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Who goes first when the gateway is busy: what its requests have, and the most that they may ask for. Default: normal.
    pub priority: Option<Priority>,
    /// Its part of the places when teams of the same priority wait: twice the share, twice as much. Default: 1.
    #[schemars(range(min = 1, max = 1000))]
    pub share: Option<u32>,
    /// What targets must promise about data (`"eu"`): others are never sent anything. Default: nothing.
    pub data: Option<Data>,
}
