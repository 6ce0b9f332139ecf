//! What a key, a user, a team or an organisation may do, as rows keep it and as the API takes and shows it; and from there
//! to the terms that bind. Every mistake names its field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    config::{self, Budget, Limits, Terms, Urgency, file, identity},
    error::{Error, Result},
};

/// As written; what is absent binds nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermsRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_ranges: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Each as `budget` of gateway.toml.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Vec<Value>>,
    /// Models that a request goes to when a budget refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_fallback: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Map<String, Value>>,
    /// As `caps` of gateway.toml.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caps: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// As `data` of gateway.toml.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl TermsRow {
    /// Takes over what a body names, out of the body; `null` takes away.
    pub fn take(&mut self, body: &mut Map<String, Value>) -> Result<()> {
        set(body, "models", &mut self.models)?;
        set(body, "operations", &mut self.operations)?;
        set(body, "ip_ranges", &mut self.ip_ranges)?;
        set(body, "limits", &mut self.limits)?;
        if body.get("budgets").is_some_and(|all| !all.is_array() && !all.is_null()) {
            return Err(Error::invalid("budgets", format!("a list of budgets such as [{A_BUDGET}]")));
        }
        set(body, "budgets", &mut self.budgets)?;
        if let Some(budget) = body.remove("budget") {
            let one = !budget.is_array();
            self.budgets = match budget {
                Value::Null => None,
                Value::Array(all) => Some(all),
                one => Some(vec![one]),
            };
            // Here, where it is known by which name it was called.
            let place = |n: usize| if one { "budget".to_owned() } else { format!("budget[{n}]") };
            budgets_of(self.budgets.as_deref().unwrap_or_default(), place)?;
        }
        set(body, "budget_fallback", &mut self.budget_fallback)?;
        set(body, "defaults", &mut self.defaults)?;
        set(body, "caps", &mut self.caps)?;
        set(body, "tags", &mut self.tags)?;
        set(body, "priority", &mut self.priority)?;
        set(body, "data", &mut self.data)?;
        self.limits = self.limits.take().and_then(Limits::any);
        Ok(())
    }

    /// All fields, for an answer.
    pub fn show(&self, into: &mut Map<String, Value>) {
        let row = serde_json::to_value(self).unwrap_or_default();
        for name in FIELDS {
            into.insert(name.to_owned(), row.get(name).cloned().unwrap_or_default());
        }
    }

    /// The terms that somebody asks for, or the first mistake in them.
    pub fn resolve(&self) -> Result<Terms> {
        check_models(self.models.as_deref())?;
        check_limits(self.limits)?;
        self.stored()
    }

    /// Those of a row: what was right when it was written holds, also where bounds are narrower now.
    pub fn stored(&self) -> Result<Terms> {
        let TermsRow {
            models,
            operations,
            ip_ranges,
            limits,
            budgets,
            budget_fallback,
            defaults,
            caps,
            tags,
            priority,
            data,
        } = self;
        if let Some(operations) = operations {
            filled("operations", operations)?;
            for (n, name) in operations.iter().enumerate() {
                config::operation_named(name).map_err(|e| Error::invalid(format!("operations[{n}]"), e))?;
            }
        }
        let mut networks = Vec::new();
        if let Some(ranges) = ip_ranges {
            filled("ip_ranges", ranges)?;
            for (n, range) in ranges.iter().enumerate() {
                networks.push(identity::network(range).map_err(|e| Error::invalid(format!("ip_ranges[{n}]"), e))?);
            }
        }
        let bounds = budgets_of(budgets.as_deref().unwrap_or_default(), |n| format!("budgets[{n}]"))?;
        check_names("budget_fallback", budget_fallback.as_deref())?;
        let defaults = match defaults {
            None => Map::new(),
            Some(raw) => {
                let raw: file::Defaults = read("defaults", Value::Object(raw.clone()))?;
                config::defaults(raw).map_err(|(key, e)| Error::invalid(format!("defaults.{key}"), e))?
            }
        };
        let caps = match caps {
            None => identity::Caps::default(),
            Some(raw) => {
                let raw: file::Caps = read("caps", Value::Object(raw.clone()))?;
                identity::caps(raw).map_err(|(key, e)| Error::invalid(format!("caps.{key}"), e))?
            }
        };
        let tags = identity::tags(tags.as_ref().unwrap_or(&BTreeMap::new())).map_err(|e| Error::invalid("tags", e))?;
        let wrong = || Error::invalid("priority", "one of low, normal, high: the highest that a request may ask for");
        let priority = priority.as_deref().map(|name| Urgency::parse(name).ok_or_else(wrong)).transpose()?;
        let place = |key: &str| if key == "data" { key.to_owned() } else { format!("data.{key}") };
        let data = data.as_ref().map(config::data).transpose().map_err(|(key, e)| Error::invalid(place(key), e))?;
        Ok(Terms {
            models: models.as_deref().map(Into::into),
            operations: operations.as_deref().map(Into::into),
            networks: networks.into(),
            defaults,
            caps,
            tags,
            priority,
            share: None,
            limits: limits.and_then(Limits::any),
            budgets: bounds.into(),
            fallback: budget_fallback.as_deref().unwrap_or_default().into(),
            data,
        })
    }
}

/// Bounds as they were written, or the first mistake in them. `place`: what the caller called each of them.
fn budgets_of(raw: &[Value], place: impl Fn(usize) -> String) -> Result<Vec<Budget>> {
    let mut bounds: Vec<Budget> = Vec::with_capacity(raw.len());
    for (n, budget) in raw.iter().enumerate() {
        let place = place(n);
        let bound = budget_of(budget, &place)?;
        if bounds.iter().any(|other| other.per == bound.per) {
            return Err(Error::invalid(format!("{place}.per"), "there are two budgets with this window: keep one"));
        }
        bounds.push(bound);
    }
    if bounds.len() > MOST_BUDGETS {
        return Err(Error::invalid("budgets", format!("at most {MOST_BUDGETS}, one for each window")));
    }
    Ok(bounds)
}

fn budget_of(raw: &Value, place: &str) -> Result<Budget> {
    let Value::Object(fields) = raw else {
        return Err(Error::invalid(place, format!("a budget is an object such as {A_BUDGET}")));
    };
    for needed in ["usd", "per"] {
        if !fields.contains_key(needed) {
            let message = format!("a budget needs `{needed}`: it is an object such as {A_BUDGET}");
            return Err(Error::invalid(format!("{place}.{needed}"), message));
        }
    }
    config::budget(raw).map_err(|(key, e)| Error::invalid(format!("{place}.{key}"), e))
}

/// A field of a body, if it is there.
pub fn set<T: DeserializeOwned>(body: &mut Map<String, Value>, name: &str, field: &mut Option<T>) -> Result<()> {
    match body.remove(name) {
        None => {}
        Some(Value::Null) => *field = None,
        Some(value) => *field = Some(read(name, value)?),
    }
    Ok(())
}

/// `disabled`, and `cut`: what runs is ended as well.
pub fn disabled(body: &mut Map<String, Value>, (was, was_cut): (bool, bool)) -> Result<(bool, bool)> {
    let (mut disabled, mut cut) = (Some(was), None::<bool>);
    set(body, "disabled", &mut disabled)?;
    set(body, "cut", &mut cut)?;
    let disabled = disabled.unwrap_or(false);
    if cut == Some(true) && !disabled {
        return Err(Error::invalid("cut", "`cut` ends what runs with what is disabled: say `disabled: true` too"));
    }
    Ok((disabled, disabled && cut.unwrap_or(was_cut)))
}

/// Nothing is left of a body once all fields were taken.
pub fn nothing_left(body: &Map<String, Value>, known: &[&str]) -> Result<()> {
    let Some(name) = body.keys().next() else { return Ok(()) };
    let known = known.iter().chain(&FIELDS).copied();
    let hint = config::hint(name, known.clone());
    let all = known.collect::<Vec<_>>().join(", ");
    Err(Error::invalid(name, format!("unknown field `{name}`{hint}; there are {all}")))
}

fn read<T: DeserializeOwned>(name: &str, value: Value) -> Result<T> {
    // From its text: of a number in a tree only that it is wrong would be told, and not which one.
    serde_json::from_str(&value.to_string()).map_err(|e| {
        let why = e.to_string();
        let why = why.split(" at line ").next().unwrap_or_default();
        Error::invalid(name, format!("{name} is not right: {why}"))
    })
}

fn filled(name: &str, list: &[String]) -> Result<()> {
    if list.is_empty() {
        return Err(Error::invalid(name, "an empty list would allow nothing; leave it out to allow all"));
    }
    if list.len() > MOST_ENTRIES {
        return Err(Error::invalid(name, format!("at most {MOST_ENTRIES} entries")));
    }
    Ok(())
}

pub fn check_models(models: Option<&[String]>) -> Result<()> {
    if models.is_some_and(<[String]>::is_empty) {
        return Err(Error::invalid("models", "an empty list would allow no model; leave it out to allow all"));
    }
    check_names("models", models)
}

/// Names of models, as far as they can be judged without knowing which there are.
fn check_names(field: &str, models: Option<&[String]>) -> Result<()> {
    let models = models.unwrap_or_default();
    if models.len() > MOST_ENTRIES {
        return Err(Error::invalid(field, format!("at most {MOST_ENTRIES} models")));
    }
    for (at, model) in models.iter().enumerate() {
        let bad = model.len() > identity::MOST_NAME || model.chars().any(char::is_control);
        if model.trim() != model || model.is_empty() || bad {
            return Err(Error::invalid(format!("{field}[{at}]"), "a model's name, or a pattern like provider/*"));
        }
    }
    Ok(())
}

pub fn check_limits(limits: Option<Limits>) -> Result<()> {
    match limits.unwrap_or_default().absurd() {
        Some((name, message)) => Err(Error::invalid(format!("limits.{name}"), message)),
        None => Ok(()),
    }
}

/// In the order in which answers show them.
pub const FIELDS: [&str; 11] = [
    "models",
    "operations",
    "ip_ranges",
    "limits",
    "budgets",
    "budget_fallback",
    "defaults",
    "caps",
    "tags",
    "priority",
    "data",
];
const MOST_ENTRIES: usize = 200;
const MOST_BUDGETS: usize = 8;
const A_BUDGET: &str = r#"{"usd": 5, "per": "month"}"#;
