//! The shape of what is done when more is asked than can be served: `[overload]`, and how much a target takes at a time.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{Size, Span};

/// When more is asked than can be served.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overload {
    /// Requests that run at a time; others wait for their turn. Default: 16384.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_in_flight: Option<u64>,
    /// How many may wait at the gateway, and at each target with `concurrency`; 0: nobody. Default: 1000.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub queue: Option<u64>,
    /// The longest that a request waits for its turn. Default: 10s.
    pub wait: Option<Span>,
    /// From here on the process is full: the lowest priority is refused at 80 % of it. Default: no bound but
    /// `server.body_memory`.
    pub memory: Option<Size>,
    /// The lowest priority is refused while the process notices what happens later than this. Default: 500ms.
    pub lag: Option<Span>,
}

/// A number, or `"adaptive"`.
#[derive(Debug, Clone)]
pub enum Concurrency {
    Fixed(u64),
    Word(String),
}

impl JsonSchema for Concurrency {
    fn schema_name() -> Cow<'static, str> {
        "Concurrency".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How many calls at a time; learnt from its latency where it says adaptive.",
            "examples": [20, "adaptive"],
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 1_000_000 },
                { "type": "string", "enum": ["adaptive"] }
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Concurrency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or \"adaptive\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Concurrency, E> {
                Ok(Concurrency::Word(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Concurrency, E> {
                u64::try_from(number).map(Concurrency::Fixed).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
