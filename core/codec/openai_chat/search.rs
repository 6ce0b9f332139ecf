//! Searches of the web in this format: the vendor's own models take options beside the tools, and a router that speaks the
//! format has a tool for any model.

use serde_json::{Map, Value, json};

use crate::codec::{
    hosted::Search,
    json::{as_u64, texts},
};

pub fn read(kind: &str, value: &Value) -> Option<Search> {
    let context = |from: &Value| from.get("search_context_size").and_then(Value::as_str).map(str::to_owned);
    let location = |from: &Value| {
        let place = from.get("user_location")?;
        let place = place.get("approximate").unwrap_or(place).as_object()?;
        let said = place.iter().filter(|(key, value)| *key != "type" && !value.is_null());
        Some(said.map(|(key, value)| (key.clone(), value.clone())).collect())
    };
    if kind == "web_search_options" {
        return Some(Search { context: context(value), location: location(value), ..Search::default() });
    }
    if !kind.ends_with(ROUTED) {
        return None;
    }
    let asked = value.get("parameters").cloned().unwrap_or_default();
    Some(Search {
        allowed: texts(asked.get("allowed_domains")),
        blocked: texts(asked.get("excluded_domains")),
        location: location(&asked),
        context: context(&asked),
        max_uses: asked.get("max_uses").and_then(Value::as_number).and_then(as_u64),
        cached: false,
    })
}

/// Only the router's: the vendor's models that search do it unasked.
pub fn write(search: &Search, kind: &str) -> Option<Value> {
    let Search { allowed, blocked, location, context, max_uses: _, cached: _ } = search;
    let domains = search.domains();
    if !kind.ends_with(ROUTED) || (!allowed.is_empty() && domains.is_empty()) {
        return None;
    }
    let mut asked = Map::new();
    if !domains.is_empty() {
        asked.insert("allowed_domains".to_owned(), domains.into());
    } else if !blocked.is_empty() {
        asked.insert("excluded_domains".to_owned(), blocked.clone().into());
    }
    if let Some(location) = location {
        let mut place = Map::from_iter([("type".to_owned(), json!("approximate"))]);
        place.extend(location.clone());
        asked.insert("user_location".to_owned(), Value::Object(place));
    }
    if let Some(context) = context {
        asked.insert("search_context_size".to_owned(), context.as_str().into());
    }
    let mut out = Map::from_iter([("type".to_owned(), json!(kind))]);
    if !asked.is_empty() {
        out.insert("parameters".to_owned(), Value::Object(asked));
    }
    Some(Value::Object(out))
}

/// How the name of the router's tool ends.
const ROUTED: &str = ":web_search";
