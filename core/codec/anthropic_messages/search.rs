//! The vendor's search of the web and its reader of pages, as tools and in an answer. Reads and writes the tools only; results
//! stay native.

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

/// It reads pages that the conversation names.
pub fn read_fetch(kind: &str, tool: &Value) -> Option<Search> {
    kind.strip_prefix("web_fetch_")?;
    // How much of a page is read is a bound that no other reader keeps.
    if tool.get("max_content_tokens").is_some_and(|most| !most.is_null()) {
        return None;
    }
    Some(Search {
        allowed: texts(tool.get("allowed_domains")),
        blocked: texts(tool.get("blocked_domains")),
        max_uses: tool.get("max_uses").and_then(Value::as_number).and_then(as_u64),
        ..Search::default()
    })
}

pub fn write_fetch(bounds: &Search, kind: &str) -> Option<Value> {
    let mut tool = write(bounds, kind)?;
    tool["name"] = FETCH.into();
    Some(tool)
}

/// Records of what was searched for, found, read: the answer says what came of it.
pub fn is_record(kind: &str, part: &Value) -> bool {
    let name = part.get("name").and_then(Value::as_str).unwrap_or_default();
    let called = name == NAME || name == FETCH || name.starts_with("tool_search_tool_");
    (kind == "server_tool_use" && called)
        || matches!(kind, "web_search_tool_result" | "web_fetch_tool_result" | "tool_search_tool_result")
}

/// What a part of an answer says was searched for.
pub fn query<'a>(kind: &str, part: &'a Value) -> Option<&'a str> {
    let searches = kind == "server_tool_use" && part.get("name").and_then(Value::as_str) == Some(NAME);
    part.get("input").filter(|_| searches).map(|input| input.get("query").and_then(Value::as_str).unwrap_or_default())
}

const NAME: &str = "web_search";
const FETCH: &str = "web_fetch";
