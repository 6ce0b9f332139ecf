//! The vendor's search of the web, as a tool and as an item of an answer.

use serde_json::{Map, Value, json};

use super::wire::{is_ours, search_id};
use crate::codec::{hosted::Search, json::texts};

/// `web_search`, `web_search_preview` and both with a date.
pub fn read(kind: &str, tool: &Value) -> Option<Search> {
    let rest = kind.strip_prefix("web_search")?;
    if !(rest.is_empty() || rest.starts_with("_preview") || rest.starts_with("_20")) {
        return None;
    }
    let filters = tool.get("filters");
    let list = |key: &str| texts(filters.and_then(|f| f.get(key)));
    let location = tool.get("user_location").and_then(Value::as_object).map(|place| {
        let said = place.iter().filter(|(key, value)| *key != "type" && !value.is_null());
        said.map(|(key, value)| (key.clone(), value.clone())).collect()
    });
    Some(Search {
        allowed: list("allowed_domains"),
        blocked: list("blocked_domains"),
        location,
        context: tool.get("search_context_size").and_then(Value::as_str).map(str::to_owned),
        max_uses: None,
        cached: tool.get("external_web_access") == Some(&Value::Bool(false)),
    })
}

/// It can be held to domains, not kept from some.
pub fn write(search: &Search, kind: &str) -> Option<Value> {
    let Search { allowed, blocked, location, context, max_uses: _, cached: _ } = search;
    let domains = search.domains();
    if (allowed.is_empty() && !blocked.is_empty()) || (!allowed.is_empty() && domains.is_empty()) {
        return None;
    }
    let mut out = Map::from_iter([("type".to_owned(), json!(kind))]);
    if !domains.is_empty() {
        out.insert("filters".to_owned(), json!({ "allowed_domains": domains }));
    }
    if let Some(location) = location {
        let mut place = Map::from_iter([("type".to_owned(), json!("approximate"))]);
        place.extend(location.clone());
        out.insert("user_location".to_owned(), Value::Object(place));
    }
    if let Some(context) = context {
        out.insert("search_context_size".to_owned(), context.as_str().into());
    }
    Some(Value::Object(out))
}

/// The item that tells of a search which another family's model made.
pub fn item(query: &str, answer: &str, at: usize) -> Value {
    let action = json!({"type": "search", "query": query, "queries": [query]});
    json!({"id": search_id(answer, at), "type": CALL, "status": "completed", "action": action})
}

/// Is this item one that `item` made?
pub fn is_made(item: &Value) -> bool {
    item.get("type").and_then(Value::as_str) == Some(CALL)
        && item.get("id").and_then(Value::as_str).is_some_and(is_ours)
}

pub const CALL: &str = "web_search_call";
