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

/// Is this part the record of such a search, or of what it found?
pub fn is_told(part: &Value) -> bool {
    let inner = ["toolCall", "toolResponse", "tool_call", "tool_response"].iter().find_map(|key| part.get(*key));
    let named = inner.and_then(|inner| inner.get("toolType").or_else(|| inner.get("tool_type")));
    named.and_then(Value::as_str).is_some_and(|name| name.starts_with("GOOGLE_SEARCH"))
}
