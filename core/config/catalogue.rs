//! The normal form of a price catalogue: `[[price]]` rows in TOML, in the program and in a file of the user's. Text in,
//! rows out; every mistake is told with its entry's name. Computes no cost and reads no file.

use toml::{Table, Value};

use super::{PriceService, PriceSheet, PriceTier, Prices, text};
use crate::model::ServiceTier;

/// A catalogue as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    /// Where its figures come from: `litellm`, `genai-prices`, `models.dev`.
    pub source: String,
    pub source_version: String,
    /// Of the file that was imported, hex.
    pub sha256: String,
    /// From when its prices hold, `2026-11-26`.
    pub effective: String,
    pub rows: Vec<CatalogueRow>,
}

/// One price, of one or more models.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CatalogueRow {
    /// The provider catalogue's row.
    pub provider: String,
    /// As `provider::capability::normal` writes names.
    pub models: Vec<String>,
    pub sheet: PriceSheet,
    /// Tokens that the model reads, and that it may write.
    pub context: Option<u64>,
    pub output_limit: Option<u64>,
    /// What scripts read as `target.capabilities`.
    pub features: Vec<&'static str>,
    /// What it is known to lack: requests for that do not reach it, if the program's own table does not know it better.
    pub lacks: Vec<&'static str>,
    pub source: String,
    pub date: String,
}

/// What a model can do, by the words that scripts read.
pub const FEATURES: [&str; 9] =
    ["tools", "images", "documents", "audio", "video", "reasoning", "json_schema", "citations", "web_search"];

/// What a model can lack besides.
pub const LACKS: [&str; 2] = ["sampling", "prefill"];

/// A mistake and its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Mistake {
    pub line: u32,
    pub message: String,
}

impl Catalogue {
    pub fn parse(text: &str) -> Result<Catalogue, Vec<Mistake>> {
        let broken = |e: toml::de::Error| {
            let at = e.span().map_or(0, |span| span.start);
            vec![Mistake { line: line(text, at), message: e.message().trim().to_owned() }]
        };
        let mut table: Table = text.parse().map_err(broken)?;
        let mut mistakes = Vec::new();
        let mut head = |key: &str| match table.remove(key) {
            Some(Value::String(text)) => text,
            Some(_) => {
                mistakes.push(Mistake { line: 1, message: format!("`{key}` must be text") });
                String::new()
            }
            None => String::new(),
        };
        let mut out = Catalogue {
            source: head("source"),
            source_version: head("source_version"),
            sha256: head("sha256"),
            effective: head("effective"),
            rows: Vec::new(),
        };
        let rows = match table.remove("price") {
            Some(Value::Array(rows)) => rows,
            None => Vec::new(),
            Some(_) => return Err(vec![Mistake { line: 1, message: "`price` must be a list of tables".to_owned() }]),
        };
        if let Some(key) = table.keys().next() {
            mistakes.push(Mistake { line: 1, message: format!("`{key}` is no key of a catalogue") });
        }
        // Rows begin where their headers stand: the n-th `[[price]]` is the n-th row.
        let mut starts = text.lines().zip(1..).filter(|(l, _)| l.trim_start().starts_with("[[price]]")).map(|(_, n)| n);
        for row in rows {
            let line = starts.next().unwrap_or(1);
            match CatalogueRow::read(row) {
                Ok(row) => out.rows.push(row),
                Err(message) => mistakes.push(Mistake { line, message }),
            }
        }
        out.twice(&mut mistakes);
        if mistakes.is_empty() { Ok(out) } else { Err(mistakes) }
    }

    fn twice(&self, mistakes: &mut Vec<Mistake>) {
        let mut seen = std::collections::HashSet::new();
        for row in &self.rows {
            for model in &row.models {
                if !seen.insert((&row.provider, model)) {
                    mistakes.push(Mistake { line: 1, message: format!("{}/{model} stands there twice", row.provider) });
                }
            }
        }
    }

    /// As a file that `parse` reads back.
    pub fn write(&self) -> String {
        let mut out = String::from(
            "# Prices and limits, written by `portcullis catalogue import`. USD per million tokens, as the keys of [[pricing]].\n",
        );
        for (key, value) in [
            ("source", &self.source),
            ("source_version", &self.source_version),
            ("sha256", &self.sha256),
            ("effective", &self.effective),
        ] {
            out.push_str(&format!("{key} = {}\n", quoted(value)));
        }
        for row in &self.rows {
            row.write(&mut out);
        }
        out
    }
}

impl CatalogueRow {
    fn read(row: Value) -> Result<CatalogueRow, String> {
        let Value::Table(mut row) = row else { return Err("a price must be a table".to_owned()) };
        let provider = words(&mut row, "provider")?.into_iter().next().unwrap_or_default();
        let models = words(&mut row, "models")?;
        let name = format!("{provider}/{}", models.first().map_or("?", String::as_str));
        let told = |message: String| format!("{name}: {message}");
        if provider.is_empty() || models.is_empty() {
            return Err(told("a price needs `provider` and `models`".to_owned()));
        }
        let sheet = sheet(&mut row).map_err(told)?;
        let out = CatalogueRow {
            context: count(&mut row, "context").map_err(told)?,
            output_limit: count(&mut row, "output_limit").map_err(told)?,
            features: words(&mut row, "features").and_then(|words| features(words, &[])).map_err(told)?,
            lacks: words(&mut row, "lacks").and_then(|words| features(words, &LACKS)).map_err(told)?,
            source: words(&mut row, "source").map_err(told)?.into_iter().next().unwrap_or_default(),
            date: words(&mut row, "date").map_err(told)?.into_iter().next().unwrap_or_default(),
            provider,
            models,
            sheet,
        };
        if let Some(key) = row.keys().next() {
            return Err(told(format!("`{key}` is no key of a price{}", text::hint(key, Prices::KEYS))));
        }
        if !out.sheet.has_price() && out.context.is_none() && out.output_limit.is_none() {
            return Err(told("it says neither a price nor a limit".to_owned()));
        }
        Ok(out)
    }

    fn write(&self, out: &mut String) {
        let list = |words: &[&str]| words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", ");
        let models: Vec<&str> = self.models.iter().map(String::as_str).collect();
        out.push_str(&format!("\n[[price]]\nprovider = {}\nmodels = [{}]\n", quoted(&self.provider), list(&models)));
        out.push_str(&self.prices_toml());
        for (key, count) in [("context", self.context), ("output_limit", self.output_limit)] {
            if let Some(count) = count {
                out.push_str(&format!("{key} = {count}\n"));
            }
        }
        if !self.features.is_empty() {
            out.push_str(&format!("features = [{}]\n", list(&self.features)));
        }
        if !self.lacks.is_empty() {
            out.push_str(&format!("lacks = [{}]\n", list(&self.lacks)));
        }
        for (key, value) in [("source", &self.source), ("date", &self.date)] {
            if !value.is_empty() {
                out.push_str(&format!("{key} = {}\n", quoted(value)));
            }
        }
    }

    /// What it costs, as this file and `[[pricing]]` write it.
    pub fn prices_toml(&self) -> String {
        let mut out = String::new();
        for pair in pairs(&self.sheet.prices) {
            out.push_str(&format!("{pair}\n"));
        }
        if !self.sheet.tiers.is_empty() {
            out.push_str(&format!("tiers = {}\n", tiers(&self.sheet.tiers)));
        }
        if !self.sheet.services.is_empty() {
            let services = self.sheet.services.iter().map(|service| {
                let mut all: Vec<String> = Vec::new();
                all.extend(service.factor.map(|factor| format!("factor = \"{}\"", text::decimal(factor))));
                all.extend(pairs(&service.prices));
                if !service.tiers.is_empty() {
                    all.push(format!("tiers = {}", tiers(&service.tiers)));
                }
                format!("{} = {{ {} }}", service.service.name(), all.join(", "))
            });
            out.push_str(&format!("services = {{ {} }}\n", services.collect::<Vec<_>>().join(", ")));
        }
        out
    }
}

/// Those that may have prices of their own.
const SERVICES: [ServiceTier; 5] =
    [ServiceTier::Flex, ServiceTier::Priority, ServiceTier::Fast, ServiceTier::Batch, ServiceTier::Us];

fn sheet(row: &mut Table) -> Result<PriceSheet, String> {
    let prices = prices(row)?;
    let tiers = rising(row)?;
    let mut services = Vec::new();
    if let Some(value) = row.remove("services") {
        let Value::Table(table) = value else { return Err("`services` must be a table".to_owned()) };
        for (word, value) in table {
            let Value::Table(mut own) = value else { return Err(format!("`services.{word}` must be a table")) };
            let service = SERVICES
                .into_iter()
                .find(|service| service.name() == word)
                .ok_or_else(|| format!("there is no service {word:?}"))?;
            let factor = usd(&mut own, "factor")?;
            let (prices, tiers) = (self::prices(&mut own)?, rising(&mut own)?);
            if let Some(key) = own.keys().next() {
                return Err(format!("`services.{word}.{key}` is no key of a service"));
            }
            services.push(PriceService { service, factor, prices, tiers });
        }
    }
    Ok(PriceSheet { prices, tiers, services })
}

fn prices(row: &mut Table) -> Result<Prices, String> {
    let mut prices = Prices::default();
    for (key, price) in Prices::KEYS.into_iter().zip(prices.figures_mut()) {
        *price = usd(row, key)?;
    }
    Ok(prices)
}

fn rising(row: &mut Table) -> Result<Vec<PriceTier>, String> {
    let Some(value) = row.remove("tiers") else { return Ok(Vec::new()) };
    let Value::Array(list) = value else { return Err("`tiers` must be a list".to_owned()) };
    let mut out: Vec<PriceTier> = Vec::new();
    for tier in list {
        let Value::Table(mut tier) = tier else { return Err("a tier must be a table".to_owned()) };
        let above = count(&mut tier, "above")?.ok_or("a tier needs `above`")?;
        if out.last().is_some_and(|last| last.above >= above) {
            return Err("tiers stand in rising order of `above`".to_owned());
        }
        out.push(PriceTier { above, prices: prices(&mut tier)? });
        if let Some(key) = tier.keys().next() {
            return Err(format!("`{key}` is no key of a tier"));
        }
    }
    Ok(out)
}

fn usd(row: &mut Table, key: &str) -> Result<Option<i64>, String> {
    match row.remove(key) {
        None => Ok(None),
        Some(Value::String(written)) => text::usd(&written).map(Some).map_err(|e| format!("`{key}`: {e}")),
        Some(_) => Err(format!("`{key}` must be decimal text, such as \"0.15\"")),
    }
}

fn count(row: &mut Table, key: &str) -> Result<Option<u64>, String> {
    match row.remove(key) {
        None => Ok(None),
        Some(Value::Integer(n)) if n > 0 => Ok(Some(n.unsigned_abs())),
        Some(_) => Err(format!("`{key}` must be a whole number above 0")),
    }
}

/// Words of `FEATURES`, and of what may stand there `besides`.
fn features(words: Vec<String>, besides: &[&'static str]) -> Result<Vec<&'static str>, String> {
    let known = |word: &String| {
        let all = || FEATURES.iter().chain(besides).copied();
        let found = all().find(|f| f == word);
        found.ok_or_else(|| format!("there is no feature {word:?}{}", text::hint(word, all())))
    };
    words.iter().map(known).collect()
}

/// One word or a list of them.
fn words(row: &mut Table, key: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{key}` must be text, or a list of texts");
    match row.remove(key) {
        None => Ok(Vec::new()),
        Some(Value::String(word)) => Ok(vec![word]),
        Some(Value::Array(list)) => list.into_iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).collect(),
        Some(_) => Err(wrong()),
    }
}

fn pairs(prices: &Prices) -> impl Iterator<Item = String> {
    let all = Prices::KEYS.into_iter().zip(prices.figures());
    all.filter_map(|(key, price)| Some(format!("{key} = \"{}\"", text::decimal(price?))))
}

fn tiers(tiers: &[PriceTier]) -> String {
    let each = tiers.iter().map(|tier| {
        let all: Vec<String> = std::iter::once(format!("above = {}", tier.above)).chain(pairs(&tier.prices)).collect();
        format!("{{ {} }}", all.join(", "))
    });
    format!("[{}]", each.collect::<Vec<_>>().join(", "))
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn line(text: &str, at: usize) -> u32 {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    u32::try_from(memchr::memchr_iter(b'\n', before).count()).unwrap_or(u32::MAX).saturating_add(1)
}
