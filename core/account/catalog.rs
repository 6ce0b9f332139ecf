//! Prices by provider and model: the built-in ones (`prices.toml`), read once, and those of a catalogue file. What no row
//! fits has no price: a wrong one would be worse than none.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use super::price::Rates;
use crate::config::{Catalogue, CatalogueRow};

/// What a catalogue knows of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub rates: Option<Arc<Rates>>,
    pub context: Option<u64>,
    pub output_limit: Option<u64>,
    pub features: &'static [&'static str],
    pub lacks: &'static [&'static str],
}

/// A catalogue, ready to be asked.
#[derive(Debug, Default)]
pub struct Prices(HashMap<String, Vec<(String, Arc<Known>)>>);

impl Prices {
    pub fn new(catalogue: &Catalogue) -> Prices {
        let mut rows: HashMap<String, Vec<(String, Arc<Known>)>> = HashMap::new();
        for row in &catalogue.rows {
            let CatalogueRow { provider, models, sheet, context, output_limit, features, lacks, .. } = row;
            let rates = sheet.has_price().then(|| Arc::new(Rates::new(sheet)));
            let (features, lacks) = (kept(features), kept(lacks));
            let known = Arc::new(Known { rates, context: *context, output_limit: *output_limit, features, lacks });
            let listed = rows.entry(provider.clone()).or_default();
            listed.extend(models.iter().map(|model| (model.clone(), known.clone())));
        }
        Prices(rows)
    }

    /// A model at the provider of that catalogue row. `name`: as the provider's tables write names.
    pub fn find(&self, row: &str, name: &str) -> Option<&Arc<Known>> {
        let fits =
            |(known, _): &&(String, _)| known == "*" || name.strip_prefix(known.as_str()).is_some_and(is_version);
        self.0.get(row)?.iter().filter(fits).max_by_key(|(known, _)| known.len()).map(|(_, known)| known)
    }
}

/// The built-in price of a model at the provider of that catalogue row.
pub fn rates(row: &str, name: &str) -> Option<Arc<Rates>> {
    BUILT_IN.find(row, name)?.rates.clone()
}

/// The built-in prices, as they stand in the program.
pub fn built_in() -> Catalogue {
    // The file is part of the program; a test reads it, so a broken one never ships.
    Catalogue::parse(TEXT).unwrap_or_default()
}

/// There are few words and fewer lists of them: each list is kept for good, once.
fn kept(features: &[&'static str]) -> &'static [&'static str] {
    static LISTS: Mutex<Vec<&'static [&'static str]>> = Mutex::new(Vec::new());
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lists.iter().find(|list| **list == features) {
        return known;
    }
    let list: &'static [&'static str] = Box::leak(features.into());
    lists.push(list);
    list
}

/// Nothing, or what says which build of the same model: `-2024-08-06`, `-0709`, `@20250929`, `-latest`. A shorter number
/// (`-5`) is another model.
pub(super) fn is_version(rest: &str) -> bool {
    let Some(version) = rest.strip_prefix(['-', '@']) else { return rest.is_empty() };
    let first = version.split('-').next().unwrap_or("");
    let numbers = first.len() >= 3 && version.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    numbers || version == "latest"
}

static BUILT_IN: LazyLock<Prices> = LazyLock::new(|| Prices::new(&built_in()));

const TEXT: &str = include_str!("prices.toml");
