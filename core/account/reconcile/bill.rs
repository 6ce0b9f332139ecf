//! A provider's export of usage or costs, read into days and models. Known by its shape: pages of buckets in JSON, with usage
//! or with costs, and tables with a head. Bounded by the file's size; a file that is something else is refused.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Figures, Place, amount};
use crate::account::hour::Hour;

/// What a provider says.
#[derive(Debug, Default)]
pub struct Bill {
    pub lines: BTreeMap<Place, Figures>,
    /// The last page says that there are more.
    pub cut: bool,
}

/// Names of the columns that say what is wanted, where a table has others than those that are known.
#[derive(Debug, Clone, Default)]
pub struct Columns(BTreeMap<&'static str, String>);

impl Columns {
    /// `day=Date,model=Model,input=Input tokens,output=…,cost=…,requests=…`
    pub fn parse(text: &str) -> Result<Columns, String> {
        let mut columns = BTreeMap::new();
        for pair in text.split(',') {
            let (key, column) =
                pair.split_once('=').ok_or_else(|| format!("{pair:?}: write column names as day=Date"))?;
            let key = KEYS.into_iter().find(|known| *known == key.trim());
            let key = key.ok_or_else(|| format!("{pair:?}: there are {}", KEYS.join(", ")))?;
            columns.insert(key, column.trim().to_owned());
        }
        if columns.contains_key("day") {
            Ok(Columns(columns))
        } else {
            Err("say which column has the day: day=Date".into())
        }
    }
}

impl Bill {
    /// Adds what a file says; the error is a sentence.
    pub fn read(&mut self, text: &[u8], columns: Option<&Columns>) -> Result<(), String> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        match text.trim_ascii_start().first() {
            None => Err("it is empty".into()),
            Some(b'{' | b'[') if columns.is_none() => self.pages(text),
            Some(_) => self.table(text, columns),
        }
    }

    /// One page, several behind each other, or a list of them.
    fn pages(&mut self, text: &[u8]) -> Result<(), String> {
        for page in serde_json::Deserializer::from_slice(text).into_iter::<Value>() {
            let page = page.map_err(|e| format!("it is no JSON ({e})"))?;
            match page {
                Value::Array(pages) => pages.iter().try_for_each(|page| self.page(page))?,
                page => self.page(&page)?,
            }
        }
        Ok(())
    }

    fn page(&mut self, page: &Value) -> Result<(), String> {
        let strange = || "it is no page of usage or costs: those have data, with results in each bucket".to_owned();
        self.cut = page["has_more"] == true;
        for bucket in page["data"].as_array().ok_or_else(strange)? {
            let start = match (&bucket["start_time"], &bucket["starting_at"]) {
                (Value::Number(seconds), _) => day_of(&seconds.to_string()),
                (_, Value::String(at)) => day_of(at),
                _ => None,
            };
            let day = start.ok_or("a bucket does not say when it starts")?;
            for result in bucket["results"].as_array().ok_or_else(strange)? {
                let (model, figures) = result_of(result)?;
                self.lines.entry((day.clone(), model)).or_default().add(&figures);
            }
        }
        Ok(())
    }

    fn table(&mut self, text: &[u8], columns: Option<&Columns>) -> Result<(), String> {
        let head = text.split(|b| *b == b'\n').next().unwrap_or_default();
        let count = |delimiter: u8| head.iter().filter(|b| **b == delimiter).count();
        let delimiter = [b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',');
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text);
        let names: Vec<String> =
            reader.headers().map_err(|e| e.to_string())?.iter().map(|n| n.trim().to_owned()).collect();
        let find = |key: &str| match columns {
            Some(Columns(columns)) => match columns.get(key) {
                Some(name) => names
                    .iter()
                    .position(|n| n == name)
                    .map(Some)
                    .ok_or_else(|| format!("there is no column {name:?}; it has {}", names.join(", "))),
                None => Ok(None),
            },
            None => Ok(known(key).iter().find_map(|name| names.iter().position(|n| n.eq_ignore_ascii_case(name)))),
        };
        let day = find("day")?.ok_or_else(|| {
            format!("no column says the day; name them with --columns day=…; it has {}", names.join(", "))
        })?;
        let (model, cost, requests) = (find("model")?, find("cost")?, find("requests")?);
        let item = names.iter().position(|name| name == "line_item");
        let sums = |key: &str, own: Option<usize>| -> Vec<usize> {
            match (own, columns) {
                (Some(own), _) => vec![own],
                (None, Some(_)) => Vec::new(),
                // Totals that stand there in parts.
                (None, None) => parts(key).iter().filter_map(|name| names.iter().position(|n| n == name)).collect(),
            }
        };
        let (input, output) = (sums("input", find("input")?), sums("output", find("output")?));
        if input.is_empty() && output.is_empty() && cost.is_none() {
            return Err(format!(
                "no column has tokens or costs; name them with --columns; it has {}",
                names.join(", ")
            ));
        }
        for (n, record) in reader.records().enumerate() {
            let at = |what: &str| format!("line {}: {what}", n + 2);
            let record = record.map_err(|e| at(&e.to_string()))?;
            let cell = |column: Option<usize>| column.and_then(|column| record.get(column)).map_or("", str::trim);
            if record.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            let day = day_of(cell(Some(day))).ok_or_else(|| at("the day is none, such as 2026-01-31"))?;
            let model = match cell(model) {
                "" => model_in(cell(item)).to_owned(),
                named => named.to_owned(),
            };
            let total = |columns: &[usize]| -> Result<Option<u64>, String> {
                let told: Vec<&str> = columns.iter().map(|c| cell(Some(*c))).filter(|cell| !cell.is_empty()).collect();
                let sum = told.iter().try_fold(0u64, |sum, cell| Some(sum.saturating_add(whole(cell)?)));
                if told.is_empty() {
                    Ok(None)
                } else {
                    sum.map(Some).ok_or_else(|| at("a count of tokens is no number"))
                }
            };
            let nano_usd = match cell(cost) {
                "" => None,
                text => Some(amount::nano(&plain(text), DOLLARS).ok_or_else(|| at("the cost is no number"))?),
            };
            let figures = Figures {
                input_tokens: total(&input)?,
                output_tokens: total(&output)?,
                requests: whole(cell(requests)),
                nano_usd,
                ..Figures::default()
            };
            // A day on which nothing happened.
            if figures != Figures::default() {
                self.lines.entry((day, model)).or_default().add(&figures);
            }
        }
        Ok(())
    }
}

/// One result of a bucket: usage, or a cost.
fn result_of(result: &Value) -> Result<(String, Figures), String> {
    let count = |value: &Value| value.as_u64();
    let model = result["model"].as_str().unwrap_or("").to_owned();
    // {"amount": {"value": 0.06, "currency": "usd"}, "line_item": "model, input"}
    if let Some(value) = result["amount"].as_object() {
        let nano = digits(value.get("value").unwrap_or(&Value::Null)).and_then(|text| amount::nano(&text, DOLLARS));
        let item = model_in(result["line_item"].as_str().unwrap_or("")).to_owned();
        let model = if model.is_empty() { item } else { model };
        return Ok((model, Figures { nano_usd: Some(nano.ok_or("an amount is no number")?), ..Figures::default() }));
    }
    // {"amount": "123.45", "currency": "USD"}: in cents.
    if let Some(text) = digits(&result["amount"]) {
        let nano = amount::nano(&text, CENTS).ok_or("an amount is no number")?;
        return Ok((model, Figures { nano_usd: Some(nano), ..Figures::default() }));
    }
    let fresh = count(&result["uncached_input_tokens"]);
    let input = match fresh {
        // Here what was cached stands beside.
        Some(fresh) => {
            let writes = &result["cache_creation"];
            let more = [
                &result["cache_read_input_tokens"],
                &writes["ephemeral_1h_input_tokens"],
                &writes["ephemeral_5m_input_tokens"],
            ];
            Some(more.into_iter().filter_map(count).fold(fresh, u64::saturating_add))
        }
        None => count(&result["input_tokens"]),
    };
    let output = count(&result["output_tokens"]);
    if input.is_none() && output.is_none() {
        return Err("a result has neither tokens nor an amount".into());
    }
    let requests = count(&result["num_model_requests"]);
    Ok((model, Figures { input_tokens: input, output_tokens: output, requests, ..Figures::default() }))
}

/// `2026-01-31`, a time of that day, or seconds since 1970.
fn day_of(text: &str) -> Option<String> {
    if let Ok(seconds) = text.parse::<i64>() {
        let at = jiff::Timestamp::from_second(seconds).ok().filter(|_| text.len() > 8)?;
        return Some(at.strftime("%Y-%m-%d").to_string());
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.strftime("%Y-%m-%d").to_string());
    }
    let day = text.get(..10)?;
    Hour::parse(&format!("{day}T00")).map(|_| day.to_owned())
}

/// The model of an invoice's item: `some-model-2026-01-01, input`.
fn model_in(item: &str) -> &str {
    item.split_once(", ").map_or("", |(model, _)| model)
}

fn digits(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn whole(text: &str) -> Option<u64> {
    let text = plain(text);
    text.parse().ok().or_else(|| text.strip_suffix(".0")?.parse().ok())
}

/// Without what people put between thousands.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ',' | '_' | ' ' | '\u{a0}' | '\'')).collect()
}

/// What columns are called where nobody says.
fn known(key: &str) -> &'static [&'static str] {
    match key {
        "day" => &["usage_date_utc", "start_time_iso", "start_time", "date", "day"],
        "model" => &["model", "model_version"],
        "input" => &["input_tokens", "prompt_tokens"],
        "output" => &["output_tokens", "completion_tokens", "usage_output_tokens"],
        "cost" => &["amount_value", "cost_usd", "cost", "amount"],
        _ => &["num_model_requests", "requests"],
    }
}

fn parts(key: &str) -> &'static [&'static str] {
    match key {
        "input" => &[
            "usage_input_tokens_no_cache",
            "usage_input_tokens_cache_write_5m",
            "usage_input_tokens_cache_write_1h",
            "usage_input_tokens_cache_read",
        ],
        _ => &[],
    }
}

const KEYS: [&str; 6] = ["day", "model", "input", "output", "cost", "requests"];
const DOLLARS: u32 = 9;
const CENTS: u32 = 7;
