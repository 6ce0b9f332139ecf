//! The shape of `[[pricing]]` and `[records]`: what models cost, and what is kept of each request.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::Span;

/// What a model costs, in USD per million tokens. These prices win over the catalogue's.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pricing {
    /// `provider/model`, or a model's name at any provider; `*` stands for anything.
    pub model: String,
    /// Tokens of the request that no other key counts.
    pub input: Option<Usd>,
    /// Tokens of the answer that no other key counts. Without it answers cost nothing (embeddings).
    pub output: Option<Usd>,
    /// Input that came out of the provider's prompt cache. Default: input.
    pub cache_read: Option<Usd>,
    /// Input that was put into the provider's prompt cache. Default: input.
    pub cache_write: Option<Usd>,
    /// The same, to be kept for an hour. Default: cache_write.
    pub cache_write_1h: Option<Usd>,
    /// Output that was thought and not said. Default: output.
    pub reasoning: Option<Usd>,
    /// Sound in the request. Default: input.
    pub input_audio: Option<Usd>,
    /// Sound in the answer. Default: output.
    pub output_audio: Option<Usd>,
    /// USD for each request, beside its tokens.
    pub request: Option<Usd>,
    /// Other prices for long requests: those of the highest tier that is passed hold for the whole request.
    pub tiers: Option<Vec<PriceTier>>,
}

/// Prices of a request with more input than `above`; what is not written here stays as without the tier.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceTier {
    /// Input tokens, cached ones included.
    #[schemars(range(min = 1))]
    pub above: u64,
    /// Tokens of the request.
    pub input: Option<Usd>,
    /// Tokens of the answer.
    pub output: Option<Usd>,
    /// Out of the prompt cache.
    pub cache_read: Option<Usd>,
    /// Into the prompt cache.
    pub cache_write: Option<Usd>,
    /// Into it, for an hour.
    pub cache_write_1h: Option<Usd>,
    /// Thought and not said.
    pub reasoning: Option<Usd>,
    /// Sound in the request.
    pub input_audio: Option<Usd>,
    /// Sound in the answer.
    pub output_audio: Option<Usd>,
    /// Each request.
    pub request: Option<Usd>,
}

/// What is kept of each request.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// How long records are kept, in files of an hour each. Default: 30d.
    pub keep: Option<Span>,
    /// Prompts and answers.
    pub bodies: Option<Bodies>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bodies {
    /// They are not kept.
    Off,
}

/// US dollars as written: decimal text, or a number, which is taken as the digits that stand in the file.
#[derive(Debug, Clone)]
pub struct Usd(pub String);

impl JsonSchema for Usd {
    fn schema_name() -> Cow<'static, str> {
        "Usd".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "US dollars: decimal text or a number.",
            "examples": ["0.075", 2.5, 15],
            "anyOf": [
                { "type": "string", "pattern": "^[0-9]*\\.?[0-9]+$" },
                { "type": "number", "minimum": 0 }
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Usd;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("US dollars")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Usd, E> {
                Ok(Usd(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, usd: i64) -> Result<Usd, E> {
                Ok(Usd(usd.to_string()))
            }

            // The shortest digits that read back as this number are those that were written, up to fifteen of them.
            fn visit_f64<E: de::Error>(self, usd: f64) -> Result<Usd, E> {
                Ok(Usd(usd.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
