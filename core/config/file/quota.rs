//! The shape of `quota`: what a provider grants, the same for targets and for a provider's keys.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::Usd;

/// So much in each window. Several bounds in one entry all bind.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Attempts that reach the provider.
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    pub requests: Option<u64>,
    /// Tokens of prompts. The most that an attempt may use is reserved before it is sent, and corrected by what it used.
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    pub input_tokens: Option<u64>,
    /// The same for what comes back.
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    pub output_tokens: Option<u64>,
    /// Input and output together.
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    pub tokens: Option<u64>,
    /// US dollars, as a number or as text ("0.05").
    pub usd: Option<Usd>,
    /// The window: a duration (`2h`, `7d`), which begins with the first attempt and then lasts so long; or `day`, `week` (from
    /// Monday) or `month` of the calendar.
    pub per: QuotaPer,
    /// Of calendar windows: whose days they are (`America/Los_Angeles`). Default: UTC.
    pub zone: Option<String>,
    /// Of a duration: a moment at which a window begins (`2026-01-05T09:00:00Z`); then all of them lie end to end from there,
    /// whether anything is used or not.
    pub anchor: Option<String>,
}

/// One quota, or several that all bind.
#[derive(Debug, Clone)]
pub enum Quotas {
    One(Box<Quota>),
    Many(Vec<Quota>),
}

/// A window as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct QuotaPer(pub String);

impl JsonSchema for QuotaPer {
    fn schema_name() -> Cow<'static, str> {
        "QuotaPer".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration, or a window of the calendar.",
            "pattern": "^(day|week|month|([0-9]+(ms|s|m|h|d))+)$",
            "examples": ["2h", "7d", "day", "week", "month"]
        })
    }
}

impl JsonSchema for Quotas {
    fn schema_name() -> Cow<'static, str> {
        "Quotas".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Quota>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<'de> Deserialize<'de> for Quotas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Quotas;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quota or a list of quotas")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Quotas, A::Error> {
                let one = Quota::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Quotas::One(Box::new(one)))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Quotas, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Quotas::Many(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
