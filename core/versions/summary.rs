//! The difference between two versions in short: which stages run, where models lead, what they cost, and which other parts
//! of gateway.toml changed. Reads the files' text, with what may be secret masked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::config::{self, Content, content::CONFIG};

type Table = Map<String, Value>;

pub fn of(from: &Content, to: &Content) -> Value {
    let (old, new) = (table(from, config::masked), table(to, config::masked));
    // Of stages and of the rest only names are told: also of what changed behind a mask.
    let (was, now) = (table(from, str::to_owned), table(to, str::to_owned));
    json!({
        "stages": stages((from, &was), (to, &now)),
        "targets": named(old.get("models"), new.get("models"), leads_to),
        "prices": named(Some(&prices(&old)), Some(&prices(&new)), Clone::clone),
        "other": others(&was, &now),
    })
}

/// gateway.toml as JSON; one that is not sound was never live.
fn table(content: &Content, shown: fn(&str) -> String) -> Table {
    let text = content.text(CONFIG).unwrap_or_default();
    config::toml(&shown(text.trim_start_matches('\u{feff}'))).unwrap_or_default()
}

fn stages(from: (&Content, &Table), to: (&Content, &Table)) -> Value {
    let (was, now) = (listed(from.0, from.1), listed(to.0, to.1));
    let names = |list: &[(String, Value)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(&was), names(&now));
    let entry = |list: &[(String, Value)], name: &str| list.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let changed: Vec<&String> = after
        .iter()
        .filter(|name| before.contains(name))
        .filter(|name| {
            let files = from.0.files.get(*name) != to.0.files.get(*name);
            files || entry(&was, name) != entry(&now, name)
        })
        .collect();
    let only =
        |list: &[String], other: &[String]| list.iter().filter(|n| !other.contains(n)).cloned().collect::<Vec<_>>();
    json!({
        "was": before, "now": after, "added": only(&after, &before), "removed": only(&before, &after),
        "changed": changed,
    })
}

/// In pipeline order, with what gateway.toml says of each.
fn listed(content: &Content, table: &Table) -> Vec<(String, Value)> {
    if let Some(stages) = table.get("stages").and_then(Value::as_array) {
        let name = |stage: &Value| stage["use"].as_str().unwrap_or_default().to_owned();
        return stages.iter().map(|stage| (name(stage), stage.clone())).collect();
    }
    let direct = |name: &&String| {
        name.matches('/').count() == 1
            && ((name.starts_with("scripts/") && name.ends_with(".rhai"))
                || (name.starts_with("plugins/") && name.ends_with(".wasm")))
    };
    let mut live: Vec<&String> = content.files.keys().filter(direct).collect();
    live.sort_by_key(|name| (name.rsplit('/').next(), name.as_str()));
    live.into_iter().map(|name| (name.clone(), Value::Null)).collect()
}

/// `{name, was, now}` for each name whose value, as `shown` has it, is not the same.
fn named(old: Option<&Value>, new: Option<&Value>, shown: impl Fn(&Value) -> Value) -> Vec<Value> {
    let map = |side: Option<&Value>| -> BTreeMap<String, Value> {
        let entries = side.and_then(Value::as_object).into_iter().flatten();
        entries.map(|(name, value)| (name.clone(), shown(value))).collect()
    };
    let (old, new) = (map(old), map(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    differs.map(|name| json!({ "name": name, "was": old.get(name), "now": new.get(name) })).collect()
}

/// Where requests for an alias go.
fn leads_to(model: &Value) -> Value {
    let part = |target: &Value, key: &str| target[key].as_str().unwrap_or_default().to_owned();
    let target = |t: &Value| {
        let name = format!("{}/{}", part(t, "provider"), part(t, "model"));
        t.get("weight").map_or_else(|| json!(name), |weight| json!(format!("{name} ×{weight}")))
    };
    let targets: Vec<Value> = model["targets"].as_array().into_iter().flatten().map(target).collect();
    json!({ "targets": targets, "failover": model["failover"], "strategy": model["strategy"] })
}

/// `[[pricing]]` by model.
fn prices(table: &Table) -> Value {
    let rows = table.get("pricing").and_then(Value::as_array).into_iter().flatten();
    let row = |row: &Value| {
        let mut row = row.as_object()?.clone();
        Some((row.remove("model")?.as_str()?.to_owned(), Value::Object(row)))
    };
    Value::Object(rows.filter_map(row).collect())
}

/// Tables and keys besides, as `server` or `teams.red`.
fn others(old: &Table, new: &Table) -> Vec<String> {
    let mut all = Vec::new();
    let sections: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for section in sections.into_iter().filter(|s| !["stages", "pricing"].contains(&s.as_str())) {
        let (was, now) = (old.get(section), new.get(section));
        if was == now {
            continue;
        }
        let entries = |side: Option<&Value>| side.and_then(Value::as_object).cloned().unwrap_or_default();
        let (was, now) = (entries(was), entries(now));
        let names: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
        let before = all.len();
        for name in names.into_iter().filter(|name| was.get(*name) != now.get(*name)) {
            all.push(format!("{section}.{name}"));
        }
        if all.len() == before {
            all.push(section.clone());
        }
    }
    all
}
