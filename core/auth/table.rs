//! Keyed hashes to principals, in memory: one hash and one lookup a request. What a key may do is put together when it is
//! stored or when the configuration changes, never while a request waits.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use aws_lc_rs::hmac;
use dashmap::DashMap;

use super::{Principal, credential, expiry, row::Row};
use crate::{
    config::{Rule, Scope, Team},
    error::{Error, Kind, Result},
};

pub struct Table {
    pepper: hmac::Key,
    /// The key is a keyed hash already.
    entries: DashMap<Hash, Entry, foldhash::fast::RandomState>,
    required: AtomicBool,
    anonymous: Arc<Principal>,
    /// What binds each configured team; held by whoever changes `entries`, so that no change is lost.
    teams: Mutex<Teams>,
}

pub(super) type Hash = [u8; 32];
type Teams = BTreeMap<String, Rules>;

/// Of a team, as its keys' principals carry them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Rules {
    models: Option<Arc<[String]>>,
    /// `None`: it is bound by nothing.
    rule: Option<Rule>,
}

/// One secret of a key.
struct Entry {
    principal: Arc<Principal>,
    revoked: bool,
    expires: Option<SystemTime>,
    /// When this secret is rotated out.
    until: Option<SystemTime>,
}

impl Table {
    pub fn new(pepper: &[u8; 32]) -> Table {
        Table {
            pepper: hmac::Key::new(hmac::HMAC_SHA256, pepper),
            entries: DashMap::default(),
            required: AtomicBool::new(true),
            anonymous: Arc::new(Principal::default()),
            teams: Mutex::default(),
        }
    }

    /// Who calls with this key. Every refusal is a 401 that says what to do.
    pub fn authenticate(&self, credential: Option<&str>, now: SystemTime) -> Result<Arc<Principal>> {
        let Some(key) = credential else {
            return if self.required() { Err(missing()) } else { Ok(self.anonymous.clone()) };
        };
        if !credential::well_formed(key) {
            // SDKs send some key even to an open gateway.
            let foreign = !key.starts_with(credential::PREFIX);
            return if foreign && !self.required() { Ok(self.anonymous.clone()) } else { Err(malformed(key)) };
        }
        let Some(entry) = self.entries.get(&self.hash(key)) else { return Err(unknown()) };
        usable(&entry, now)?;
        Ok(entry.principal.clone())
    }

    /// `false`: an open gateway, where a caller without a key is the anonymous principal. A virtual key is still checked.
    pub fn set_required(&self, required: bool) {
        self.required.store(required, Ordering::Relaxed);
    }

    fn required(&self) -> bool {
        self.required.load(Ordering::Relaxed)
    }

    /// Takes over what the configured teams may use and spend. A key whose team has no entry is bound by its own list alone.
    pub fn set_teams(&self, teams: &BTreeMap<String, Team>) {
        let fresh: Teams = teams.iter().map(|(name, team)| (name.clone(), Rules::of(name, team))).collect();
        let mut held = self.teams.lock().unwrap_or_else(PoisonError::into_inner);
        for mut entry in self.entries.iter_mut() {
            let rules = entry.principal.team.as_deref().and_then(|team| fresh.get(team)).cloned().unwrap_or_default();
            let mut principal = Principal::clone(&entry.principal);
            rules.put_on(&mut principal);
            if principal.rules != entry.principal.rules || principal.team_models != entry.principal.team_models {
                entry.principal = Arc::new(principal);
            }
        }
        for gone in held.keys().filter(|name| !fresh.contains_key(*name)) {
            tracing::warn!(team = %gone, "the team is no longer configured: its keys are bound by their own lists alone");
        }
        *held = fresh;
    }

    /// The owner of a key by its id, for an operator who asks on its behalf. Refused like the key itself would be.
    pub fn owner(&self, id: &str, now: SystemTime) -> Result<Arc<Principal>> {
        let mut found = None;
        for entry in self.entries.iter().filter(|entry| &*entry.principal.key_id == id) {
            match usable(&entry, now) {
                Ok(()) => return Ok(entry.principal.clone()),
                Err(error) => found = Some(error),
            }
        }
        Err(found.unwrap_or_else(|| {
            let message = format!("there is no key {id:?}; `portcullis keys list` shows the ids of all");
            Error::new(Kind::NotFound, message).at("key")
        }))
    }

    /// Anybody of this team, or nobody in particular, bound as its keys are; `None`: there is no such team.
    pub fn member(&self, team: Option<&str>) -> Option<Principal> {
        let mut principal = Principal { team: team.map(Arc::from), ..Principal::default() };
        if let Some(team) = team {
            let teams = self.teams.lock().unwrap_or_else(PoisonError::into_inner);
            teams.get(team)?.clone().put_on(&mut principal);
        }
        Some(principal)
    }

    pub fn knows_team(&self, team: &str) -> bool {
        self.teams.lock().unwrap_or_else(PoisonError::into_inner).contains_key(team)
    }

    pub(super) fn hash(&self, key: &str) -> Hash {
        let mut hash = [0; 32];
        // A SHA-256 tag has 32 bytes.
        hash.copy_from_slice(hmac::sign(&self.pepper, key.as_bytes()).as_ref());
        hash
    }

    /// All that is held of a key: a look at every key.
    pub(super) fn hashes_of(&self, id: &str) -> Vec<Hash> {
        self.entries.iter().filter(|entry| &*entry.principal.key_id == id).map(|entry| *entry.key()).collect()
    }

    /// Puts all secrets of a key in place of what was held of it. `dropped`: hashes that it no longer has.
    pub(super) fn set(&self, id: &str, row: &Row, hashes: &[Hash], dropped: &[Hash]) {
        let teams = self.teams.lock().unwrap_or_else(PoisonError::into_inner);
        let mut principal = Principal {
            key_id: Arc::from(id),
            key_name: Arc::from(row.name.as_str()),
            team: row.team.as_deref().map(Arc::from),
            user: None,
            roles: Vec::new(),
            key_models: row.models.as_deref().map(Arc::from),
            rules: Arc::default(),
            ..Principal::default()
        };
        let own = Rule::of(Scope::Key(principal.key_id.clone()), &principal.key_name, row.limits, Arc::default());
        principal.rules = own.into_iter().collect();
        let rules = row.team.as_deref().and_then(|team| teams.get(team)).cloned().unwrap_or_default();
        rules.put_on(&mut principal);
        let principal = Arc::new(principal);
        for (hash, secret) in hashes.iter().zip(&row.secrets) {
            let entry = Entry {
                principal: principal.clone(),
                revoked: row.revoked.is_some(),
                expires: row.expires.map(expiry::from_seconds),
                until: secret.until.map(expiry::from_seconds),
            };
            self.entries.insert(*hash, entry);
        }
        for hash in dropped {
            self.entries.remove(hash);
        }
    }
}

impl Rules {
    fn of(name: &str, team: &Team) -> Rules {
        Rules { models: team.models.as_deref().map(Arc::from), rule: team.rule(&Arc::from(name)) }
    }

    /// In the place of what the principal had of its team.
    fn put_on(self, principal: &mut Principal) {
        principal.team_models = self.models;
        let own = principal.rules.iter().filter(|rule| !matches!(rule.scope, Scope::Team(_))).cloned();
        principal.rules = own.chain(self.rule).collect();
    }
}

/// Anybody of this team, or nobody in particular; bound as its keys are.
pub fn member(team: Option<&str>, teams: &BTreeMap<String, Team>) -> Principal {
    let mut principal = Principal { team: team.map(Arc::from), ..Principal::default() };
    if let Some(rules) = team.and_then(|team| Some(Rules::of(team, teams.get(team)?))) {
        rules.put_on(&mut principal);
    }
    principal
}

fn usable(entry: &Entry, now: SystemTime) -> Result<()> {
    if entry.revoked {
        return Err(refuse("key_revoked", "this key was revoked; ask the gateway's operator for a new one"));
    }
    if entry.expires.is_some_and(|at| at <= now) {
        return Err(refuse("key_expired", "this key has expired; ask the gateway's operator for a new one"));
    }
    if entry.until.is_some_and(|at| at <= now) {
        return Err(refuse("key_expired", "this key was replaced by a new secret (rotated); use the new one"));
    }
    Ok(())
}

fn refuse(code: &'static str, message: &str) -> Error {
    Error::new(Kind::Unauthenticated, message).with_code(code)
}

fn missing() -> Error {
    let message = "no API key: send a virtual key as `Authorization: Bearer sk-pc-…` (or x-api-key, x-goog-api-key, \
                   api-key, ?key=; AWS SDKs take it from AWS_BEARER_TOKEN_BEDROCK); `portcullis keys create` makes one";
    refuse("key_missing", message)
}

fn malformed(key: &str) -> Error {
    let message = if key.starts_with(credential::PREFIX) {
        "this key is damaged: a virtual key is `sk-pc-` and 43 characters; copy it again, whole"
    } else {
        "this is not a virtual key of this gateway: send one that begins with `sk-pc-`, not a provider's own key"
    };
    refuse("invalid_api_key", message)
}

fn unknown() -> Error {
    refuse("invalid_api_key", "this key is not known here; check which gateway it was made for")
}
