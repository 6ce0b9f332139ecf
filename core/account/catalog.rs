//! The built-in prices: `prices.toml`, read once. What no row fits has no price: a wrong one would be worse than none.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use serde::Deserialize;

use super::price::Rates;
use crate::config::{self, PriceTier, Prices};

/// The prices of a model at the provider of that catalogue row. `name`: as the provider's tables write names.
pub fn rates(row: &str, name: &str) -> Option<Arc<Rates>> {
    let rows = CATALOGUE.get(row)?;
    let fits =
        |(known, _): &&(String, Arc<Rates>)| known == "*" || name.strip_prefix(known.as_str()).is_some_and(is_version);
    rows.iter().filter(fits).max_by_key(|(known, _)| known.len()).map(|(_, rates)| rates.clone())
}

/// Nothing, or what says which build of the same model: `-2024-08-06`, `-0709`, `@20250929`, `-latest`. A shorter number
/// (`-5`) is another model.
fn is_version(rest: &str) -> bool {
    let Some(version) = rest.strip_prefix(['-', '@']) else { return rest.is_empty() };
    let first = version.split('-').next().unwrap_or("");
    let numbers = first.len() >= 3 && version.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    numbers || version == "latest"
}

type Rows = HashMap<String, Vec<(String, Arc<Rates>)>>;

static CATALOGUE: LazyLock<Rows> = LazyLock::new(|| {
    // The file is part of the program; a test reads it, so a broken one never ships.
    parse(include_str!("prices.toml")).unwrap_or_default()
});

pub(super) fn parse(text: &str) -> Result<Rows, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut rows = Rows::new();
    for row in file.price {
        let tiers = row.tiers.iter().map(|t| Ok(PriceTier { above: t.above, prices: t.prices()? }));
        let tiers: Vec<PriceTier> = tiers.collect::<Result<_, String>>()?;
        let rates = Arc::new(Rates::new(&row.prices()?, &tiers));
        let listed = rows.entry(row.provider.clone()).or_default();
        for model in &row.models {
            if listed.iter().any(|(known, _)| known == model) {
                return Err(format!("{}/{model} stands there twice", row.provider));
            }
            listed.push((model.clone(), rates.clone()));
        }
        if row.source.is_empty() || row.date.is_empty() {
            return Err(format!("{} {:?}: where was it read, and when?", row.provider, row.models));
        }
    }
    Ok(rows)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    price: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    provider: String,
    models: Vec<String>,
    input: Option<String>,
    cache_read: Option<String>,
    cache_write: Option<String>,
    cache_write_1h: Option<String>,
    input_audio: Option<String>,
    output: Option<String>,
    reasoning: Option<String>,
    output_audio: Option<String>,
    request: Option<String>,
    #[serde(default)]
    tiers: Vec<Tier>,
    source: String,
    date: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tier {
    above: u64,
    input: Option<String>,
    cache_read: Option<String>,
    cache_write: Option<String>,
    cache_write_1h: Option<String>,
    output: Option<String>,
}

impl Row {
    fn prices(&self) -> Result<Prices, String> {
        Ok(Prices {
            input: usd(&self.input)?,
            output: usd(&self.output)?,
            cache_read: usd(&self.cache_read)?,
            cache_write: usd(&self.cache_write)?,
            cache_write_1h: usd(&self.cache_write_1h)?,
            reasoning: usd(&self.reasoning)?,
            input_audio: usd(&self.input_audio)?,
            output_audio: usd(&self.output_audio)?,
            request: usd(&self.request)?,
        })
    }
}

impl Tier {
    fn prices(&self) -> Result<Prices, String> {
        Ok(Prices {
            input: usd(&self.input)?,
            output: usd(&self.output)?,
            cache_read: usd(&self.cache_read)?,
            cache_write: usd(&self.cache_write)?,
            cache_write_1h: usd(&self.cache_write_1h)?,
            ..Prices::default()
        })
    }
}

fn usd(text: &Option<String>) -> Result<Option<i64>, String> {
    text.as_deref().map(config::usd).transpose()
}
