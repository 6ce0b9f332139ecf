//! A line of the ledger, read back as far as sums and prices need it.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    account::Attempt,
    model::{Billed, ServiceTier, Units, Usage},
};

/// One request. Numbers are taken as the digits that stand there: no float on the way.
#[derive(Debug, Deserialize)]
pub struct Line {
    pub id: String,
    #[serde(default)]
    pub organisation: Option<String>,
    pub team: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    pub key_id: Option<String>,
    pub model: String,
    pub target: Option<String>,
    pub status: u16,
    #[serde(default)]
    pub tags: Map<String, Value>,
    pub ledger: Vec<LineAttempt>,
}

/// One attempt of it.
#[derive(Debug, Deserialize)]
pub struct LineAttempt {
    pub target: String,
    pub outcome: String,
    usage: Option<Map<String, Value>>,
    cost_usd: Option<serde_json::Number>,
    /// Of the prices that it was charged by.
    #[serde(default)]
    pub price: Option<String>,
    #[serde(default)]
    pub estimated: bool,
}

impl Line {
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tags.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    }
}

impl LineAttempt {
    pub fn cost_nano_usd(&self) -> Option<i64> {
        crate::config::usd(&self.cost_usd.as_ref()?.to_string()).ok()
    }

    pub fn is_batch(&self) -> bool {
        self.outcome == Attempt::BATCH
    }

    /// As `telemetry::row` wrote it.
    pub fn usage(&self) -> Option<Usage> {
        let row = self.usage.as_ref()?;
        let count = |name: &str| row.get(name).and_then(Value::as_u64);
        let billed =
            Billed { input_tokens: count("billed_input_tokens"), output_tokens: count("billed_output_tokens") };
        let mut units = Units::default();
        for (figure, (name, _)) in units.figures_mut().into_iter().zip(Units::default().named()) {
            *figure = count(name);
        }
        Some(Usage {
            input_tokens: count("input_tokens"),
            output_tokens: count("output_tokens"),
            cache_read_tokens: count("cache_read_tokens"),
            cache_write_tokens: count("cache_write_tokens"),
            cache_write_1h_tokens: count("cache_write_1h_tokens"),
            reasoning_tokens: count("reasoning_tokens"),
            input_audio_tokens: count("input_audio_tokens"),
            output_audio_tokens: count("output_audio_tokens"),
            billed: (billed != Billed::default()).then_some(billed),
            service_tier: row.get("service_tier").and_then(Value::as_str).map(ServiceTier::named),
            units: units.boxed(),
            native: None,
        })
    }
}
