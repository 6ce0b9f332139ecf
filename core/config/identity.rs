//! Who there is, resolved: organisations, users, the roles that they hold, and the terms that bind whoever belongs to them.
//! Plain data, the same whether it stands in gateway.toml or in the store; what a role permits stands in `auth::permission`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{Budget, DataPolicy, Limits, Team, file, text};

/// What binds everybody in one scope, each by itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// Allowed models with wildcards; `None`: all.
    pub models: Option<Arc<[String]>>,
    /// Allowed operations by name (`chat`); `None`: all.
    pub operations: Option<Arc<[String]>>,
    /// Where calls may come from; empty: from everywhere.
    pub networks: Arc<[IpNet]>,
    /// Parameters a request starts from, by canonical name.
    pub defaults: Map<String, Value>,
    pub caps: Caps,
    /// On every request.
    pub tags: Arc<[(String, String)]>,
    /// What its requests have, and the highest that they may ask for.
    pub priority: Option<Urgency>,
    /// Of the places, when teams wait.
    pub share: Option<u32>,
    pub limits: Option<Limits>,
    pub budgets: Arc<[Budget]>,
    /// Where its requests go when a budget refuses them.
    pub fallback: Arc<[String]>,
    /// What targets must promise.
    pub data: Option<DataPolicy>,
}

/// What a request's parameters are held to, whatever the caller says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Caps {
    pub max_tokens: Option<u64>,
    /// Answers to one request.
    pub n: Option<u64>,
    pub temperature: Option<(f64, f64)>,
    pub top_p: Option<(f64, f64)>,
}

/// Who goes first when not all can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    Low,
    #[default]
    Normal,
    High,
}

/// `[organisations.<name>]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Organisation {
    pub disabled: bool,
    /// And what runs is ended.
    pub cut: bool,
    pub terms: Terms,
}

/// `[users.<name>]`: a person, or a service account.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct User {
    pub email: Option<String>,
    /// Of who is in no team.
    pub organisation: Option<String>,
    pub teams: Vec<String>,
    pub roles: Vec<Grant>,
    /// No person.
    pub service: bool,
    pub disabled: bool,
    /// And what runs is ended.
    pub cut: bool,
    pub terms: Terms,
}

/// All that gateway.toml says of who there is.
#[derive(Debug, Clone, Copy)]
pub struct Configured<'a> {
    pub organisations: &'a BTreeMap<String, Organisation>,
    pub teams: &'a BTreeMap<String, Team>,
    pub users: &'a BTreeMap<String, User>,
}

impl<'a> From<&'a BTreeMap<String, Team>> for Configured<'a> {
    /// Teams alone.
    fn from(teams: &'a BTreeMap<String, Team>) -> Self {
        static ORGANISATIONS: BTreeMap<String, Organisation> = BTreeMap::new();
        static USERS: BTreeMap<String, User> = BTreeMap::new();
        Configured { organisations: &ORGANISATIONS, teams, users: &USERS }
    }
}

/// What somebody may do, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Owner,
    Admin,
    Operator,
    Developer,
    Viewer,
    Billing,
}

/// A role, and over what it is held: `admin@team:research`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    pub role: Role,
    pub over: Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Over {
    /// Not said: the holder's teams, else its organisation, else itself.
    Belonging,
    Everything,
    Organisation(Arc<str>),
    Team(Arc<str>),
    Oneself,
}

impl Role {
    pub const ALL: [Role; 6] = [Role::Owner, Role::Admin, Role::Operator, Role::Developer, Role::Viewer, Role::Billing];

    pub const fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::Developer => "developer",
            Role::Viewer => "viewer",
            Role::Billing => "billing",
        }
    }

    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl Grant {
    /// The error is a sentence.
    pub fn parse(text: &str) -> Result<Grant, String> {
        let (name, over) = text.split_once('@').map_or((text, None), |(name, over)| (name, Some(over)));
        let Some(role) = Role::parse(name) else {
            let names = Role::ALL.map(Role::name);
            return Err(format!(
                "there is no role {name:?}: use one of {}{}",
                names.join(", "),
                text::hint(name, names)
            ));
        };
        let named = |name: &str| !name.is_empty() && name.trim() == name;
        let over = match over.map(|over| over.split_once(':').map_or((over, None), |(kind, of)| (kind, Some(of)))) {
            None => Over::Belonging,
            Some(("everything", None)) => Over::Everything,
            Some(("self", None)) => Over::Oneself,
            Some(("organisation", Some(of))) if named(of) => Over::Organisation(of.into()),
            Some(("team", Some(of))) if named(of) => Over::Team(of.into()),
            Some(_) => {
                return Err(format!(
                    "{text:?}: a role is held over `@everything`, `@organisation:NAME`, `@team:NAME` or `@self`; without \
                     `@` over the holder's own teams"
                ));
            }
        };
        Ok(Grant { role, over })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.name())?;
        match &self.over {
            Over::Belonging => Ok(()),
            Over::Everything => f.write_str("@everything"),
            Over::Organisation(name) => write!(f, "@organisation:{name}"),
            Over::Team(name) => write!(f, "@team:{name}"),
            Over::Oneself => f.write_str("@self"),
        }
    }
}

impl Urgency {
    pub const fn name(self) -> &'static str {
        match self {
            Urgency::Low => "low",
            Urgency::Normal => "normal",
            Urgency::High => "high",
        }
    }

    pub fn parse(name: &str) -> Option<Urgency> {
        [Urgency::Low, Urgency::Normal, Urgency::High].into_iter().find(|urgency| urgency.name() == name)
    }
}

impl Caps {
    pub fn any(&self) -> bool {
        *self != Caps::default()
    }

    /// The stricter of both in everything. Ranges that do not meet leave the first one's end that is nearer.
    pub fn and(self, other: Caps) -> Caps {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        let range = |a: Option<(f64, f64)>, b: Option<(f64, f64)>| match (a, b) {
            (Some((low, high)), Some(b)) => Some((b.0.clamp(low, high), b.1.clamp(low, high))),
            (a, b) => a.or(b),
        };
        Caps {
            max_tokens: least(self.max_tokens, other.max_tokens),
            n: least(self.n, other.n),
            temperature: range(self.temperature, other.temperature),
            top_p: range(self.top_p, other.top_p),
        }
    }
}

impl Team {
    pub fn terms(&self) -> Terms {
        Terms {
            models: self.models.as_deref().map(Arc::from),
            operations: self.operations.clone(),
            networks: self.networks.clone(),
            defaults: self.defaults.clone(),
            caps: self.caps,
            tags: self.tags.clone(),
            priority: self.priority,
            share: self.share,
            limits: self.limits,
            budgets: self.budgets.clone(),
            fallback: self.fallback.clone(),
            data: self.data.clone(),
        }
    }
}

/// An address or a range of addresses. The error is a sentence.
pub fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    let net =
        parsed.map_err(|_| format!("{text:?} is no range of addresses such as \"10.0.0.0/8\" or \"2001:db8::1\""))?;
    if net.trunc() != net {
        return Err(format!("{text:?} has bits behind its prefix: write \"{}\"", net.trunc()));
    }
    Ok(net)
}

/// `caps`, resolved. The error names the key.
pub fn caps(raw: file::Caps) -> Result<Caps, (&'static str, String)> {
    let range = |key, raw: Option<Vec<f64>>, most: f64| match raw.as_deref() {
        None => Ok(None),
        Some([low, high]) if *low >= 0.0 && low <= high && *high <= most => Ok(Some((*low, *high))),
        Some(_) => Err((key, format!("wants the lowest and the highest value, between 0 and {most}: [0.0, 1.0]"))),
    };
    let count = |key, n: Option<u64>, most: u64| match n {
        Some(n) if n == 0 || n > most => Err((key, format!("must be between 1 and {most}"))),
        n => Ok(n),
    };
    Ok(Caps {
        max_tokens: count("max_tokens", raw.max_tokens, MOST_TOKENS)?,
        n: count("n", raw.n, 128)?,
        temperature: range("temperature", raw.temperature, 2.0)?,
        top_p: range("top_p", raw.top_p, 1.0)?,
    })
}

/// A budget as the API takes it, in gateway.toml's words. The error names the key.
pub fn budget(raw: &Value) -> Result<Budget, (String, String)> {
    let mut raw = raw.clone();
    for key in ["usd", "unpriced_usd"] {
        // All digits of an amount: never through a float.
        if let Some(Value::Number(number)) = raw.get(key) {
            raw[key] = number.to_string().into();
        }
    }
    let window = raw.get("per").map(|per| serde_json::from_value::<file::Per>(per.clone()));
    let key = if window.is_some_and(|window| window.is_err()) { "per" } else { "usd" };
    let raw: file::Budget = serde_json::from_value(raw).map_err(|e| (key.to_owned(), e.to_string()))?;
    super::resolve::budget(raw)
}

/// Default parameters as the API takes them: within the ranges that gateway.toml has. The error names the key.
pub fn defaults(raw: file::Defaults) -> Result<Map<String, Value>, (&'static str, String)> {
    let ranges = [
        ("temperature", raw.temperature, 0.0, 2.0),
        ("top_p", raw.top_p, 0.0, 1.0),
        ("frequency_penalty", raw.frequency_penalty, -2.0, 2.0),
        ("presence_penalty", raw.presence_penalty, -2.0, 2.0),
    ];
    for (key, value, low, high) in ranges {
        if value.is_some_and(|value| !(low..=high).contains(&value)) {
            return Err((key, format!("must be between {low} and {high}")));
        }
    }
    for (key, value) in [("top_k", raw.top_k), ("max_tokens", raw.max_tokens)] {
        if value.is_some_and(|n| n == 0 || n > MOST_TOKENS) {
            return Err((key, format!("must be between 1 and {MOST_TOKENS}")));
        }
    }
    Ok(super::resolve::defaults(raw))
}

/// Tags as pairs. The error is a sentence.
pub fn tags(raw: &BTreeMap<String, String>) -> Result<Arc<[(String, String)]>, String> {
    let plain = |text: &str| !text.contains([',', '=']) && !text.chars().any(char::is_control);
    if raw.len() > 16 {
        return Err("at most 16 tags".to_owned());
    }
    for (name, value) in raw {
        if name.is_empty() || name.len() > 64 || value.len() > 256 || !plain(name) || !plain(value) {
            return Err(format!(
                "{name:?}: a tag is a name of 1 to 64 bytes and a value of up to 256, without commas and equal signs"
            ));
        }
    }
    Ok(raw.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A name of an organisation, a team, a user. The error is a sentence.
pub fn name(name: &str) -> Result<(), String> {
    if name.trim() != name || name.is_empty() || name.len() > MOST_NAME || name.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {MOST_NAME} printable bytes, and no white space at its ends"));
    }
    Ok(())
}

pub const MOST_NAME: usize = 200;
const MOST_TOKENS: u64 = 1_000_000_000;
