//! Organisations, teams and users as the API shows them: from their rows, and from gateway.toml.

use serde_json::{Map, Value, json};

use super::{
    directory::{Identity, Sort},
    expiry,
    identities::Thing,
    row::IdentityRow,
};
use crate::config::Grant;

pub(super) fn show(thing: Thing, name: &str, row: &IdentityRow) -> Value {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), name.into());
    if thing != Thing::Organisation {
        shown.insert("organisation".to_owned(), json!(row.organisation));
    }
    if thing.sort() == Sort::User {
        shown.insert("teams".to_owned(), json!(row.teams));
        shown.insert("roles".to_owned(), json!(row.roles));
        shown.insert("email".to_owned(), json!(row.email));
        shown.insert("disabled".to_owned(), row.disabled.into());
    }
    row.terms.show(&mut shown);
    shown.insert("source".to_owned(), "store".into());
    shown.insert("created".to_owned(), expiry::show(row.created).into());
    shown.into()
}

/// `shadowed`: the store has one of that name too, which counts for nothing.
pub(super) fn show_configured(thing: Thing, name: &str, identity: &Identity, shadowed: bool) -> Value {
    let terms = &identity.bound.terms;
    let mut shown = Map::new();
    shown.insert("name".to_owned(), name.into());
    if thing != Thing::Organisation {
        shown.insert("organisation".to_owned(), json!(identity.organisation));
    }
    if thing.sort() == Sort::User {
        shown.insert("teams".to_owned(), json!(identity.teams));
        shown.insert("roles".to_owned(), json!(identity.roles.iter().map(Grant::to_string).collect::<Vec<_>>()));
        shown.insert("email".to_owned(), json!(identity.email));
        shown.insert("disabled".to_owned(), identity.disabled.into());
    }
    let budgets: Vec<Value> = terms
        .budgets
        .iter()
        .map(|budget| {
            let usd = crate::config::decimal(i64::try_from(budget.nano_usd).unwrap_or(i64::MAX));
            json!({ "usd": usd.parse::<serde_json::Number>().map_or(Value::Null, Value::Number), "per": budget.per.name() })
        })
        .collect();
    let some = |list: bool, value: Value| if list { value } else { Value::Null };
    let caps = &terms.caps;
    let rest = json!({
        "models": terms.models,
        "operations": terms.operations,
        "ip_ranges": some(!terms.networks.is_empty(), json!(terms.networks.iter().map(ToString::to_string).collect::<Vec<_>>())),
        "limits": terms.limits,
        "budgets": some(!budgets.is_empty(), budgets.into()),
        "defaults": some(!terms.defaults.is_empty(), json!(terms.defaults)),
        "caps": some(caps.any(), json!({
            "max_tokens": caps.max_tokens, "n": caps.n, "temperature": caps.temperature, "top_p": caps.top_p,
        })),
        "tags": some(!terms.tags.is_empty(), terms.tags.iter().cloned().collect::<std::collections::BTreeMap<_, _>>().into_iter().map(|(n, v)| (n, Value::from(v))).collect::<Map<_, _>>().into()),
        "priority": terms.priority.map(|priority| priority.name()),
        "data": terms.data.as_ref().map(|data| data.json()),
        "source": "file",
        "shadowed": shadowed,
    });
    if let Value::Object(rest) = rest {
        shown.extend(rest);
    }
    shown.into()
}
