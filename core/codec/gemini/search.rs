//! The vendor's search of the web, as a tool. What it found comes back as grounding (`grounding.rs`).

use serde_json::{Map, Value, json};

use crate::codec::{hosted::Search, json::texts};

pub fn read(kind: &str, tool: &Value) -> Option<Search> {
    if !matches!(kind, "googleSearch" | "googleSearchRetrieval") {
        return None;
    }
    let inner = tool.as_object().and_then(|tool| tool.values().next());
    Some(Search { blocked: texts(inner.and_then(|i| i.get("excludeDomains"))), ..Search::default() })
}

/// It searches all of the web, or all but some domains.
pub fn write(search: &Search, kind: &str) -> Option<Value> {
    let Search { allowed, blocked, location: _, context: _, max_uses: _, cached: _ } = search;
    if !allowed.is_empty() || !blocked.is_empty() {
        return None;
    }
    Some(Value::Object(Map::from_iter([(kind.to_owned(), json!({}))])))
}
