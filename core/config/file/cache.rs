//! `[cache]` as it stands in gateway.toml.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Size, Span};

/// Answers that are given again. Nothing is kept unless `builtin/cache` stands among the stages.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// How long an answer is given again. Default: 1h.
    pub ttl: Option<Span>,
    /// The most bytes of answers in memory; those that nobody asks for make room. Default: 64MiB.
    pub memory: Option<Size>,
    /// The most bytes of one answer that is kept. Default: 1MiB.
    pub max_answer: Option<Size>,
    /// Whether answers are kept that leave room for chance: all but those of `temperature = 0`. Default: true.
    pub sampled: Option<bool>,
    /// Whether equal requests that come at the same time are sent once. Default: true.
    pub single_flight: Option<bool>,
    /// Whether vectors (embeddings) are kept too, as they were given. Default: false.
    pub embeddings: Option<bool>,
    /// Where answers lie behind memory: in files of the data directory, in the Redis of the store, for all gateways that share it,
    /// or nowhere. Default: files with the store `sled`, redis with `redis`, else memory. A change needs a restart.
    pub persist: Option<Persist>,
    /// The most bytes of answers there; the oldest make room. Default: 1GiB in files, 256MiB in Redis.
    pub max_size: Option<Size>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Persist {
    /// They end with the process.
    Memory,
    /// Sealed in the data directory, for this gateway.
    Files,
    /// Sealed in the Redis of `store.url`.
    Redis,
}
