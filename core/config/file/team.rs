//! The shape of what binds a scope: `limits` and `budget`, the same for teams, organisations, models, providers and tags; and
//! who is told of it.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::Usd;

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamLimits {
    /// A minute's worth may come at once; then as many as the time that passed allows.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests_per_minute: Option<u64>,
    /// Reserved by an estimate before a request is sent, corrected by what it used.
    #[schemars(range(min = 1, max = 100_000_000_000_u64))]
    pub input_tokens_per_minute: Option<u64>,
    /// The same for what comes back.
    #[schemars(range(min = 1, max = 100_000_000_000_u64))]
    pub output_tokens_per_minute: Option<u64>,
    /// Input and output together.
    #[schemars(range(min = 1, max = 100_000_000_000_u64))]
    pub tokens_per_minute: Option<u64>,
    /// In a day of the calendar, UTC.
    #[schemars(range(min = 1, max = 100_000_000_000_u64))]
    pub requests_per_day: Option<u64>,
    /// Input and output together, in a day of the calendar, UTC.
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    pub tokens_per_day: Option<u64>,
    /// Requests in flight at a time.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub concurrent: Option<u64>,
    /// `true`: they are only reported (in a metric and in the trace), and nobody is refused.
    pub shadow: Option<bool>,
}

/// A hard bound: before each attempt the most that it may cost is reserved.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// US dollars, as a number or as text ("0.05").
    pub usd: Usd,
    /// The window, in UTC: weeks begin on Monday, `total` never ends.
    pub per: Per,
    /// What an attempt at a model without a known price counts as. Default: 0.1.
    pub unpriced_usd: Option<Usd>,
    /// When this part of it is spent it is told, once a window: in a log line, a metric and to `alerts.webhook`, and then in the
    /// trace of each request.
    #[schemars(range(min = 0.01, max = 1))]
    pub soft: Option<f64>,
}

/// One budget, or several that all bind.
#[derive(Debug, Clone)]
pub enum Budgets {
    One(Budget),
    Many(Vec<Budget>),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    Day,
    Week,
    Month,
    Total,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    Low,
    Normal,
    High,
}

/// What requests with a tag together may use and spend.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// What they may use. Default: no limit.
    pub limits: Option<TeamLimits>,
    /// What they may spend. Default: no bound.
    pub budget: Option<Budgets>,
}

/// Who is told when a budget's soft threshold is passed, and when it refuses for the first time in a window.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alerts {
    /// Gets each of them as a JSON object (POST): `https://…`, or `env:NAME` or `file:PATH` where its address is a secret.
    pub webhook: Option<String>,
    /// Sent along, to show who calls: `env:NAME` or `file:PATH`, as `Authorization: Bearer`.
    pub token: Option<String>,
    /// `true`: the webhook may live on a private address. Default: false.
    pub private: Option<bool>,
}

pub type Tags = BTreeMap<String, Tag>;

impl JsonSchema for Budgets {
    fn schema_name() -> Cow<'static, str> {
        "Budgets".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Budget>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<'de> Deserialize<'de> for Budgets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Budgets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a budget or a list of budgets")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Budgets, A::Error> {
                Budget::deserialize(de::value::MapAccessDeserializer::new(map)).map(Budgets::One)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Budgets, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Budgets::Many(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
