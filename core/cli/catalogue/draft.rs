//! What an importer has understood so far, and what it has not: rows by model, and findings by key and by entry. Numbers go
//! from the digits that stand in the file to whole nano-dollars, never through a float.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

use crate::{
    config::{CatalogueRow, PriceService, PriceSheet, PriceTier, Prices},
    model::ServiceTier,
};

/// One entry of a collection.
#[derive(Debug, Default)]
pub struct Entry {
    /// As the collection names it, for messages.
    pub name: String,
    /// Rows of the provider catalogue at which it holds.
    pub providers: Vec<&'static str>,
    pub models: Vec<String>,
    /// By service and by the input above which they hold.
    pub(super) prices: BTreeMap<(Option<&'static str>, u64), Prices>,
    pub context: Option<u64>,
    pub output_limit: Option<u64>,
    pub features: Vec<&'static str>,
    pub lacks: Vec<&'static str>,
}

/// What came of a collection.
#[derive(Debug, Default)]
pub struct Draft {
    /// By provider's row and model: the entry with the plainest name wins.
    rows: BTreeMap<(&'static str, String), (usize, CatalogueRow)>,
    pub entries: usize,
    /// Keys with a price that mean nothing here, how often, and an entry that has them.
    pub odd: BTreeMap<String, (usize, String)>,
    /// Entries that were refused, and why.
    pub refused: Vec<(String, String)>,
    /// Providers without a row here.
    pub elsewhere: BTreeMap<String, usize>,
    /// The same model once more, under a longer name.
    pub again: usize,
    pub unpriced: usize,
}

impl Entry {
    /// A price as the file writes it, times `10^shift`; nano-dollars. What cannot be one is told.
    pub fn price(
        &mut self,
        key: &str,
        service: Option<&'static str>,
        above: u64,
        number: &Number,
        shift: i32,
    ) -> Result<(), String> {
        let nano = nano(&number.to_string(), shift)?;
        let dear = if EACH.contains(&key) { MOST_EACH } else { MOST_MILLION };
        if nano > dear {
            return Err(format!("{number} is no price: {key} would be {} USD", nano / 1_000_000_000));
        }
        let at = Prices::KEYS.iter().position(|known| *known == key).ok_or("a key without a place")?;
        let prices = self.prices.entry((service, above)).or_default();
        *prices.figures_mut()[at] = Some(nano);
        Ok(())
    }

    /// Is it priced by the usual service and without a tier?
    pub fn has(&self, key: &str) -> bool {
        let at = Prices::KEYS.iter().position(|known| *known == key);
        self.prices.get(&(None, 0)).zip(at).is_some_and(|(prices, at)| prices.figures()[at].is_some())
    }

    pub fn feature(&mut self, feature: &'static str) {
        if !self.features.contains(&feature) {
            self.features.push(feature);
        }
    }

    /// It is said not to have this.
    pub fn lack(&mut self, feature: &'static str) {
        if !self.lacks.contains(&feature) {
            self.lacks.push(feature);
        }
    }

    pub fn sheet(&self) -> PriceSheet {
        let tiers_of = |of: Option<&'static str>| -> Vec<PriceTier> {
            let mine = self.prices.iter().filter(|((service, above), _)| *service == of && *above > 0);
            mine.map(|((_, above), prices)| PriceTier { above: *above, prices: *prices }).collect()
        };
        let base = |of: Option<&'static str>| self.prices.get(&(of, 0)).copied().unwrap_or_default();
        let mut services: Vec<&'static str> = self.prices.keys().filter_map(|(service, _)| *service).collect();
        services.dedup();
        let services = services.into_iter().map(|name| PriceService {
            service: ServiceTier::named(name),
            factor: None,
            prices: base(Some(name)),
            tiers: tiers_of(Some(name)),
        });
        PriceSheet { prices: base(None), tiers: tiers_of(None), services: services.collect() }
    }
}

impl Draft {
    pub fn odd(&mut self, key: &str, entry: &str) {
        self.odd.entry(key.to_owned()).or_insert_with(|| (0, entry.to_owned())).0 += 1;
    }

    pub fn refuse(&mut self, entry: &str, why: impl Into<String>) {
        self.refused.push((entry.to_owned(), why.into()));
    }

    pub fn take(&mut self, entry: Entry) {
        let mut sheet = entry.sheet();
        if !sheet.has_price() {
            self.unpriced += 1;
            sheet = PriceSheet::default();
            if entry.context.is_none() && entry.output_limit.is_none() {
                return;
            }
        }
        // A plain name before one with a place in it.
        let length = entry.name.matches(['/', '.', ':']).count() * 1000 + entry.name.len();
        for provider in &entry.providers {
            for model in &entry.models {
                let row = CatalogueRow {
                    provider: (*provider).to_owned(),
                    models: vec![model.clone()],
                    sheet: sheet.clone(),
                    context: entry.context,
                    output_limit: entry.output_limit,
                    features: entry.features.clone(),
                    lacks: entry.lacks.clone(),
                    ..CatalogueRow::default()
                };
                let known = self.rows.get(&(*provider, model.clone())).map(|(length, _)| *length);
                self.again += usize::from(known.is_some());
                if known.is_none_or(|known| length < known) {
                    self.rows.insert((provider, model.clone()), (length, row));
                }
            }
        }
    }

    pub fn rows(&self) -> Vec<CatalogueRow> {
        self.rows.values().map(|(_, row)| row.clone()).collect()
    }

    /// For people: what was read and what was not.
    pub fn told(&self) -> String {
        let mut out = format!("{} entries, {} models of {} providers\n", self.entries, self.rows.len(), {
            let mut names: Vec<_> = self.rows.keys().map(|(provider, _)| provider).collect();
            names.dedup();
            names.len()
        });
        if self.again > 0 {
            out.push_str(&format!("{} stand there again under a longer name: left out\n", self.again));
        }
        if self.unpriced > 0 {
            out.push_str(&format!("{} have no price that can be used: limits only, or left out\n", self.unpriced));
        }
        let elsewhere: usize = self.elsewhere.values().sum();
        if elsewhere > 0 {
            let names: Vec<String> = self.elsewhere.iter().map(|(name, n)| format!("{name} {n}")).collect();
            out.push_str(&format!("{elsewhere} of providers without a row here: {}\n", names.join(", ")));
        }
        if !self.odd.is_empty() {
            out.push_str(&format!("{} keys not understood:\n", self.odd.len()));
            for (key, (count, entry)) in &self.odd {
                out.push_str(&format!("  {key}  {count}, as in {entry}\n"));
            }
        }
        if !self.refused.is_empty() {
            out.push_str(&format!("{} entries refused:\n", self.refused.len()));
            for (entry, why) in &self.refused {
                out.push_str(&format!("  {entry}: {why}\n"));
            }
        }
        out
    }
}

/// A count of tokens; what is none is told.
pub fn count(value: &Value) -> Result<Option<u64>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Number(n) => match n.to_string().trim_end_matches(".0").parse::<u64>() {
            Ok(0) => Ok(None),
            Ok(n) if n <= MOST_TOKENS => Ok(Some(n)),
            _ => Err(format!("{n} is no number of tokens")),
        },
        Value::String(text) if text.parse::<u64>().is_ok() => {
            count(&Value::Number(text.parse::<u64>().unwrap_or(0).into()))
        }
        other => Err(format!("{other} is no number of tokens")),
    }
}

/// `1.5e-07` times `10^shift`, in billionths, half of one rounded up. Nothing is lost to a float on the way.
pub fn nano(text: &str, shift: i32) -> Result<i64, String> {
    let wrong = || format!("{text} is no price");
    if text.starts_with('-') {
        return Err(format!("{text} is no price: it is negative"));
    }
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.trim_start_matches('+').parse().map_err(|_| wrong())?;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    // Floats have up to 17 digits; more of them say nothing.
    let part = &part[..part.len().min(24)];
    let figures = format!("{whole}{part}");
    if figures.is_empty() || !figures.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let figures: i128 = figures.parse().map_err(|_| wrong())?;
    let shift = exponent.checked_add(9 + shift).and_then(|n| n.checked_sub(part.len() as i32)).ok_or_else(wrong)?;
    let scaled = if shift >= 0 {
        10i128.checked_pow(shift.unsigned_abs()).and_then(|scale| figures.checked_mul(scale))
    } else {
        // Beyond so many digits nothing is left.
        match 10i128.checked_pow(shift.unsigned_abs()) {
            Some(scale) => figures.checked_add(scale / 2).map(|n| n / scale),
            None => Some(0),
        }
    };
    scaled.and_then(|n| i64::try_from(n).ok()).ok_or_else(wrong)
}

/// Nano-dollars a million tokens, and each: more than any model has ever cost.
const MOST_MILLION: i64 = 100_000 * 1_000_000_000;
const MOST_EACH: i64 = 1_000 * 1_000_000_000;
const EACH: [&str; 8] = [
    "request",
    "per_image",
    "per_input_image",
    "per_input_second",
    "per_output_second",
    "per_search",
    "per_search_unit",
    "per_search_request",
];
const MOST_TOKENS: u64 = 1_000_000_000;
