//! The vendor's search of the web, as a tool and in an answer. Reads and writes the tool only; results stay native.

use serde_json::{Map, Value, json};

use crate::codec::{
    hosted::Search,
    json::{as_u64, texts},
};

/// The tool has a dated type: `web_search_20250305`.
pub fn read(kind: &str, tool: &Value) -> Option<Search> {
    kind.strip_prefix("web_search_")?;
    Some(Search {
        allowed: texts(tool.get("allowed_domains")),
        blocked: texts(tool.get("blocked_domains")),
        location: tool.get("user_location").and_then(Value::as_object).map(place),
        max_uses: tool.get("max_uses").and_then(Value::as_number).and_then(as_u64),
        ..Search::default()
    })
}

fn place(location: &Map<String, Value>) -> Map<String, Value> {
    location
        .iter()
        .filter(|(key, value)| *key != "type" && !value.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// One list of domains at a time: the allowed ones say all.
pub fn write(search: &Search, kind: &str) -> Option<Value> {
    let Search { allowed, blocked, location, context: _, max_uses, cached: _ } = search;
    let mut out = Map::new();
    out.insert("type".to_owned(), kind.into());
    out.insert("name".to_owned(), NAME.into());
    let domains = search.domains();
    if !allowed.is_empty() {
        // Nothing is left of what may be searched.
        if domains.is_empty() {
            return None;
        }
        out.insert("allowed_domains".to_owned(), domains.into());
    } else if !blocked.is_empty() {
        out.insert("blocked_domains".to_owned(), blocked.clone().into());
    }
    if let Some(location) = location {
        let mut place = Map::from_iter([("type".to_owned(), json!("approximate"))]);
        place.extend(location.clone());
        out.insert("user_location".to_owned(), Value::Object(place));
    }
    if let Some(most) = max_uses {
        out.insert("max_uses".to_owned(), (*most).into());
    }
    Some(Value::Object(out))
}

/// What a part of an answer says was searched for.
pub fn query<'a>(kind: &str, part: &'a Value) -> Option<&'a str> {
    let searches = kind == "server_tool_use" && part.get("name").and_then(Value::as_str) == Some(NAME);
    part.get("input").filter(|_| searches).map(|input| input.get("query").and_then(Value::as_str).unwrap_or_default())
}

const NAME: &str = "web_search";
