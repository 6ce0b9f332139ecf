//! One row of the audit log: who did what, from where, to what, with what outcome. Plain data and its bytes: a row never
//! holds a secret, only a keyed hash of one, and never grows beyond what the store takes. Pure: no clock, no store.

use std::net::IpAddr;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use serde_json::{Map, Value, json};

use crate::store::hex;

/// Who acts. Plain data: whoever lets somebody in fills it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    pub kind: ActorKind,
    /// Of a token or a key.
    pub id: Option<String>,
    pub name: Option<String>,
    pub role: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActorKind {
    /// The holder of `admin.token`.
    Owner,
    /// The user of this machine, on an admin plane without a token or at the command line.
    Local,
    /// An admin token of its own.
    Token,
    /// Somebody with a signed token of an issuer.
    User,
    /// The caller of a model, by the key's id.
    Key,
    /// The gateway itself.
    System,
    /// Nobody who could be told.
    Unknown,
}

/// From where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    pub peer: Option<IpAddr>,
    pub agent: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written before it was done. A row that says how it ended follows.
    Intended,
    /// The gateway ended in between: the next start says so.
    Unknown,
    Done,
    /// Not allowed, or not possible: nothing was changed.
    Refused,
    Failed,
}

/// What is to be written; place in the chain and time are the chain's.
#[derive(Debug, Clone)]
pub struct Entry {
    pub actor: Actor,
    pub from: Origin,
    /// `keys.create`
    pub action: String,
    /// What it was done to.
    pub object: Option<String>,
    pub before: Value,
    pub after: Value,
    pub outcome: Outcome,
    /// Why it was refused, or failed.
    pub code: Option<String>,
    /// The row that said `intended`.
    pub of: Option<u64>,
    /// How often, where several are one row.
    pub count: Option<u64>,
}

impl Actor {
    pub fn new(kind: ActorKind) -> Actor {
        Actor { kind, id: None, name: None, role: None }
    }

    fn json(&self) -> Value {
        json!({ "kind": self.kind.name(), "id": self.id, "name": self.name, "role": self.role })
    }
}

impl ActorKind {
    pub const fn name(self) -> &'static str {
        match self {
            ActorKind::Owner => "owner",
            ActorKind::Local => "local",
            ActorKind::Token => "token",
            ActorKind::User => "user",
            ActorKind::Key => "key",
            ActorKind::System => "system",
            ActorKind::Unknown => "unknown",
        }
    }
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Intended => "intended",
            Outcome::Unknown => "unknown",
            Outcome::Done => "done",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

impl Origin {
    /// A user agent is whatever the other side says: a line, and not a long one.
    pub fn new(peer: IpAddr, agent: Option<&[u8]>) -> Origin {
        let clean = |agent: &[u8]| -> String {
            let text = String::from_utf8_lossy(agent);
            text.chars().filter(|c| !c.is_control()).take(MOST_AGENT).collect()
        };
        Origin { peer: Some(peer.to_canonical()), agent: agent.map(clean).filter(|agent| !agent.is_empty()) }
    }
}

impl Entry {
    pub fn new(actor: Actor, from: Origin, action: impl Into<String>) -> Entry {
        Entry {
            actor,
            from,
            action: action.into(),
            object: None,
            before: Value::Null,
            after: Value::Null,
            outcome: Outcome::Done,
            code: None,
            of: None,
            count: None,
        }
    }

    /// What the gateway does by itself.
    pub fn system(action: impl Into<String>) -> Entry {
        Entry::new(Actor::new(ActorKind::System), Origin::default(), action)
    }

    pub fn object(mut self, object: impl Into<String>) -> Entry {
        self.object = Some(object.into());
        self
    }

    pub fn after(mut self, after: Value) -> Entry {
        self.after = after;
        self
    }

    pub fn before(mut self, before: Value) -> Entry {
        self.before = before;
        self
    }

    pub fn outcome(mut self, outcome: Outcome) -> Entry {
        self.outcome = outcome;
        self
    }

    /// All of a row but its place, its time and its proof.
    pub(super) fn fields(&self, mask: &hmac::Key) -> Map<String, Value> {
        let short = |text: &str| text.chars().take(MOST_NAME).collect::<String>();
        let mut actor = self.actor.json();
        for name in ["id", "name", "role"] {
            if let Some(text) = self.actor_text(name) {
                actor[name] = json!(short(text));
            }
        }
        let mut row = Map::new();
        row.insert("actor".into(), actor);
        row.insert("from".into(), json!({ "peer": self.from.peer, "agent": self.from.agent }));
        row.insert("action".into(), json!(short(&self.action)));
        row.insert("object".into(), json!(self.object.as_deref().map(short)));
        row.insert("outcome".into(), json!(self.outcome.name()));
        row.insert("code".into(), json!(self.code.as_deref().map(short)));
        row.insert("of".into(), json!(self.of));
        row.insert("count".into(), json!(self.count));
        row.insert("before".into(), bounded(masked(self.before.clone(), mask)));
        row.insert("after".into(), bounded(masked(self.after.clone(), mask)));
        row
    }

    fn actor_text(&self, name: &str) -> Option<&str> {
        match name {
            "id" => self.actor.id.as_deref(),
            "name" => self.actor.name.as_deref(),
            _ => self.actor.role.as_deref(),
        }
    }
}

/// Every text that is a secret, or stands where one would, as a keyed hash: equal secrets look equal, and nothing else shows.
pub(super) fn masked(value: Value, key: &hmac::Key) -> Value {
    match value {
        Value::Object(map) => {
            let hidden = |(name, value): (String, Value)| {
                let counts = matches!(value, Value::Number(_)) && !NEVER_COUNTS.contains(&name.as_str());
                let value = if secretive(&name) && !counts { hide(value, key) } else { masked(value, key) };
                (name, value)
            };
            Value::Object(map.into_iter().map(hidden).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(|value| masked(value, key)).collect()),
        Value::String(text) if text.contains(VIRTUAL_KEY) => Value::String(hash(&text, key)),
        other => other,
    }
}

fn hide(value: Value, key: &hmac::Key) -> Value {
    match value {
        // Ids are no secrets, and say whose key it was.
        Value::String(text) if text.starts_with("key_") || text.starts_with("tok_") => Value::String(text),
        Value::String(text) => Value::String(hash(&text, key)),
        Value::Null | Value::Bool(_) => value,
        Value::Object(_) | Value::Array(_) => {
            let list = |value: Value| hide(value, key);
            match value {
                Value::Array(values) => Value::Array(values.into_iter().map(list).collect()),
                Value::Object(map) => Value::Object(map.into_iter().map(|(name, v)| (name, list(v))).collect()),
                other => other,
            }
        }
        Value::Number(number) => Value::String(hash(&number.to_string(), key)),
    }
}

/// `hmac:` and 16 hex digits.
pub(super) fn hash(text: &str, key: &hmac::Key) -> String {
    format!("hmac:{}", hex::encode(&hmac::sign(key, text.as_bytes()).as_ref()[..8]))
}

fn secretive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETIVE.contains(&name.as_str()) || PARTS.iter().any(|part| name.contains(part))
}

/// Large ones are cut; the hash of the whole says what it was.
fn bounded(value: Value) -> Value {
    let text = value.to_string();
    if text.len() <= MOST_VALUE {
        return value;
    }
    let mut end = BEGIN;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let sum = hex::encode(digest(&SHA256, text.as_bytes()).as_ref());
    json!({ "cut": true, "bytes": text.len(), "sha256": sum, "begin": &text[..end] })
}

/// Names of fields that hold secrets.
const SECRETIVE: [&str; 7] = ["key", "keys", "value", "token", "secret", "authorization", "headers"];
/// Under other names a number is a number of keys or tokens.
const NEVER_COUNTS: [&str; 3] = ["value", "password", "secret"];
/// What else such a name may have in it.
const PARTS: [&str; 4] = ["password", "private_key", "_secret", "secret_"];
const VIRTUAL_KEY: &str = "sk-pc-";
const MOST_AGENT: usize = 200;
const MOST_NAME: usize = 300;
/// Of `before` and of `after`, as JSON: both, with escapes, fit a row of the store.
const MOST_VALUE: usize = 14 << 10;
const BEGIN: usize = 2 << 10;
