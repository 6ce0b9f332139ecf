//! A report as JSON and as CSV, a row at a time. Money has all its digits and is never a float; a name that a spreadsheet
//! would take for a formula is marked as text.

use serde_json::{Map, Number, Value};

use super::{Report, Row};
use crate::{
    account::{price::usd_text, sum::Sum},
    model::Units,
};

/// The columns that say which row it is.
pub fn keys(report: &Report) -> Vec<&'static str> {
    let window = report.bucket.map(super::Bucket::name);
    window.into_iter().chain(report.by.iter().map(|dimension| dimension.name())).collect()
}

/// Names of what is counted.
pub fn figures() -> impl Iterator<Item = &'static str> {
    FIGURES.iter().map(|(name, _)| *name)
}

/// All columns.
pub fn columns(report: &Report) -> Vec<&'static str> {
    let units = Units::default().named().map(|(name, _)| name);
    keys(report).into_iter().chain(figures()).chain(["cost_usd"]).chain(units).collect()
}

pub fn json(report: &Report, row: &Row) -> Value {
    let Row { window, names, sum } = row;
    let mut out = Map::new();
    let window = window.iter().map(String::as_str);
    for (key, name) in keys(report).into_iter().zip(window.chain(names.iter().map(String::as_str))) {
        out.insert(key.to_owned(), if name.is_empty() { Value::Null } else { name.into() });
    }
    for (name, figure) in FIGURES {
        out.insert((*name).to_owned(), figure(sum).into());
        if *name == "output_audio_tokens" {
            out.insert("cost_usd".to_owned(), cost(sum).parse::<Number>().map_or(Value::Null, Value::Number));
        }
    }
    out.extend(sum.named_units().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count.into())));
    out.into()
}

/// The first line.
pub fn csv_head(report: &Report) -> Vec<u8> {
    record(columns(report).into_iter())
}

pub fn csv(report: &Report, row: &Row) -> Vec<u8> {
    let Row { window, names, sum } = row;
    let keys = window.iter().chain(names).map(|name| text(name));
    let figures = FIGURES.iter().map(|(_, figure)| figure(sum).to_string());
    let units = sum.named_units().map(|(_, count)| count.to_string());
    debug_assert_eq!(window.is_some(), report.bucket.is_some(), "a column for each");
    record(keys.chain(figures).chain([cost(sum)]).chain(units))
}

/// One line of CSV.
pub fn record(cells: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    // It writes to memory: nothing can fail.
    let _ = writer.write_record(cells);
    writer.into_inner().unwrap_or_default()
}

/// A name in a cell. Spreadsheets run what begins like a formula: an apostrophe in front says that it is text.
pub fn text(name: &str) -> String {
    if name.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{name}") } else { name.to_owned() }
}

/// US dollars, all digits.
pub fn cost(sum: &Sum) -> String {
    usd_text(i64::try_from(sum.cost_nano_usd).unwrap_or(i64::MAX))
}

type Figure = fn(&Sum) -> u64;

const FIGURES: &[(&str, Figure)] = &[
    ("requests", |sum| sum.requests),
    ("errors", |sum| sum.errors),
    ("attempts", |sum| sum.attempts),
    ("input_tokens", |sum| sum.input_tokens),
    ("output_tokens", |sum| sum.output_tokens),
    ("cache_read_tokens", |sum| sum.cache_read_tokens),
    ("cache_write_tokens", |sum| sum.cache_write_tokens),
    ("reasoning_tokens", |sum| sum.reasoning_tokens),
    ("input_audio_tokens", |sum| sum.input_audio_tokens),
    ("output_audio_tokens", |sum| sum.output_audio_tokens),
    ("unknown_costs", |sum| sum.unknown_costs),
    ("estimated", |sum| sum.estimated),
];
