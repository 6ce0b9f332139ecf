//! Tables of a file of cases, taken apart: every key is known or told with its line and the nearest one, every value has its
//! type. Knows no key itself.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::{duration, hint, usd};

/// A mistake and its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Bad {
    pub line: u32,
    pub message: String,
}

pub type Read<T> = Result<T, Bad>;

/// The lines of one case.
#[derive(Debug, Clone, Copy)]
pub struct Book<'a> {
    pub lines: &'a [&'a str],
    /// Of the first of them.
    pub first: u32,
}

/// One table.
pub struct Fields<'a> {
    map: Map<String, Value>,
    what: String,
    book: Book<'a>,
}

impl Book<'_> {
    /// Where a key of this case stands, as far as text shows it; else where the case does.
    pub fn line(&self, key: &str) -> u32 {
        let stands = |line: &str| {
            line.match_indices(key).any(|(at, _)| {
                let before = line[..at].trim_end_matches(['"', '\'']);
                let after = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start();
                let begins = before.chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == '-'));
                begins && (after.starts_with('=') || after.starts_with('.') || after.starts_with(']'))
            })
        };
        let at = self.lines.iter().position(|line| stands(line.split('#').next().unwrap_or(line)));
        self.first + at.unwrap_or(0) as u32
    }

    pub fn bad(&self, key: &str, message: impl Into<String>) -> Bad {
        Bad { line: self.line(key), message: message.into() }
    }
}

impl<'a> Fields<'a> {
    /// `what`: how messages call it (`a case`, `expect`).
    pub fn new(value: Value, what: &str, keys: &[&str], book: Book<'a>) -> Read<Fields<'a>> {
        let Value::Object(map) = value else {
            return Err(
                book.bad(what, format!("{what} must be a table, such as {{ {} = … }}", keys.first().unwrap_or(&"key")))
            );
        };
        if let Some(key) = map.keys().find(|key| !keys.contains(&key.as_str())) {
            let text = format!("{what} has no `{key}`{}; it has {}", hint(key, keys.iter().copied()), keys.join(", "));
            return Err(book.bad(key, text));
        }
        Ok(Fields { map, what: what.to_owned(), book })
    }

    pub fn book(&self) -> Book<'a> {
        self.book
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key)
    }

    pub fn wrong(&self, key: &str, wanted: &str) -> Bad {
        self.book.bad(key, format!("{}.{key} must be {wanted}", self.what))
    }

    pub fn text(&mut self, key: &str) -> Read<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    pub fn flag(&mut self, key: &str) -> Read<bool> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub fn count(&mut self, key: &str) -> Read<Option<u64>> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }

    /// `"200ms"`, `"2s"`.
    pub fn time(&mut self, key: &str) -> Read<Option<Duration>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => {
                duration(&text).map(Some).map_err(|why| self.book.bad(key, format!("{}.{key}: {why}", self.what)))
            }
            Some(_) => Err(self.wrong(key, "a duration such as \"200ms\" or \"2s\"")),
        }
    }

    /// US dollars, as nano-dollars: a number or a decimal string.
    pub fn money(&mut self, key: &str) -> Read<Option<i64>> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => {
                nano(&value).map(Some).map_err(|why| self.book.bad(key, format!("{}.{key}: {why}", self.what)))
            }
        }
    }

    pub fn table(&mut self, key: &str) -> Read<Option<Map<String, Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.wrong(key, "a table")),
        }
    }

    pub fn list(&mut self, key: &str) -> Read<Option<Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.wrong(key, "an array")),
        }
    }

    pub fn texts(&mut self, key: &str) -> Read<Option<Vec<String>>> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        let texts: Option<Vec<_>> = list.into_iter().map(|v| v.as_str().map(str::to_owned)).collect();
        texts.map(Some).ok_or_else(|| self.wrong(key, "an array of strings"))
    }

    /// A table of strings, in its order.
    pub fn pairs(&mut self, key: &str) -> Read<Vec<(String, String)>> {
        let Some(map) = self.table(key)? else { return Ok(Vec::new()) };
        let pair = |(k, v): (String, Value)| v.as_str().map(|v| (k.clone(), v.to_owned()));
        map.into_iter().map(pair).collect::<Option<_>>().ok_or_else(|| self.wrong(key, "a table of strings"))
    }
}

/// Dollars as people write them.
pub fn nano(value: &Value) -> Result<i64, String> {
    match value {
        Value::String(text) => usd(text),
        // Written as it stands in the file, up to what a nano-dollar is.
        Value::Number(number) => {
            let text = number.as_f64().filter(|n| *n >= 0.0).map(|n| format!("{n:.9}"));
            usd(&text.ok_or("expected US dollars such as \"2.50\"")?)
        }
        _ => Err("expected US dollars such as \"2.50\"".to_owned()),
    }
}
