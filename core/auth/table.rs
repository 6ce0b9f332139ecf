//! Keyed hashes to principals, in memory: one hash and one lookup a request. What a caller may do is put together when a row
//! is stored or the configuration changes, never while a request waits. `set`, `set_identity` and `set_token` take a row up;
//! whoever wrote it, they are the only way into the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use dashmap::DashMap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::Notify;

mod funds;

pub use funds::{Funds, Page};

use super::{
    Principal, credential,
    cut::Cuts,
    directory::{Directory, Identity, Sort},
    expiry,
    jwt::{self, Issuers},
    permission::Actor,
    row::{Row, TokenRow},
};
use crate::{
    config::Configured,
    error::{Error, Kind, Result},
};

pub struct Table {
    pepper: Hmac<Sha256>,
    /// The key is a keyed hash already.
    entries: DashMap<Hash, Entry, foldhash::fast::RandomState>,
    required: AtomicBool,
    anonymous: Arc<Principal>,
    /// Who there is; held by whoever changes `entries`, so that no change is lost.
    directory: Mutex<Directory>,
    cuts: Cuts,
    tokens: DashMap<Hash, Arc<Token>, foldhash::fast::RandomState>,
    issuers: Issuers,
    /// gateway.toml was taken over once.
    configured: AtomicBool,
}

pub(super) type Hash = [u8; 32];

/// The team and the user of a key.
type Owner = (Option<Arc<str>>, Option<Arc<str>>);

/// One secret of a key.
struct Entry {
    principal: Arc<Principal>,
    /// Most are good for ever.
    end: Option<Box<End>>,
}

/// Why it is not good, or until when it is.
struct End {
    blocked: Blocked,
    expires: Option<SystemTime>,
    /// When this secret is rotated out.
    until: Option<SystemTime>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocked {
    No,
    Disabled,
    Revoked,
}

impl Entry {
    fn blocked(&self) -> Blocked {
        self.end.as_ref().map_or(Blocked::No, |end| end.blocked)
    }
}

impl End {
    fn any(self) -> Option<Box<End>> {
        let never = self.blocked == Blocked::No && self.expires.is_none() && self.until.is_none();
        (!never).then(|| Box::new(self))
    }
}

/// An admin token.
pub(super) struct Token {
    pub id: Arc<str>,
    pub row: TokenRow,
}

impl Table {
    pub fn new(pepper: &[u8; 32]) -> Table {
        Table {
            pepper: Hmac::new_from_slice(pepper).expect("a key of any length will do"),
            entries: DashMap::default(),
            required: AtomicBool::new(true),
            anonymous: Arc::new(Principal::default()),
            directory: Mutex::default(),
            cuts: Cuts::default(),
            tokens: DashMap::default(),
            issuers: Issuers::default(),
            configured: false.into(),
        }
    }

    /// Who calls with this key, or with a signed token that was verified before. Every refusal is a 401 that says what to do.
    pub fn authenticate(&self, credential: Option<&str>, now: SystemTime) -> Result<Arc<Principal>> {
        let Some(key) = credential else {
            return if self.required() { Err(missing()) } else { Ok(self.anonymous.clone()) };
        };
        if !credential::well_formed(key) {
            if self.issuers.reads(key) {
                return self.issuers.known(key, now).ok_or_else(jwt::unverified);
            }
            // SDKs send some key even to an open gateway.
            let foreign = !key.starts_with(credential::PREFIX);
            return if foreign && !self.required() { Ok(self.anonymous.clone()) } else { Err(malformed(key)) };
        }
        let Some(entry) = self.entries.get(&self.hash(key)) else { return Err(unknown()) };
        usable(&entry, now)?;
        Ok(entry.principal.clone())
    }

    /// Rings when requests that run were cut.
    pub fn cuts(&self) -> Arc<Notify> {
        self.cuts.any()
    }

    /// Signed tokens of other issuers.
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// A signed token that was not seen before. May wait for its issuer's keys.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Principal>> {
        let caller = self.issuers.verify(token, now).await?;
        // Held until it is kept, so that no change of the directory is missed.
        let directory = self.directory();
        let principal = Arc::new(caller.principal(&directory, &self.cuts));
        self.issuers.keep(token, &principal, &caller);
        Ok(principal)
    }

    /// Who acts at the control plane with a signed token; its user is looked up each time. May wait for its issuer's keys.
    pub async fn signed_actor(&self, token: &str, now: SystemTime) -> Result<Actor> {
        self.issuers.administers(token)?;
        self.issuers.verify(token, now).await?.actor(&self.directory())
    }

    /// A signed token that `verify` has to look at.
    pub fn unverified<'c>(&self, credential: Option<&'c str>) -> Option<&'c str> {
        credential.filter(|credential| self.issuers.reads(credential))
    }

    /// Is this credential good now, whatever it is?
    pub async fn is_good(&self, credential: Option<&str>, now: SystemTime) -> bool {
        match (self.authenticate(credential, now), credential) {
            (Ok(principal), _) => !principal.was_cut(),
            (Err(_), Some(token)) if self.issuers.reads(token) => self.verify(token, now).await.is_ok(),
            (Err(_), _) => false,
        }
    }

    /// `false`: an open gateway, where a caller without a key is the anonymous principal. A virtual key is still checked.
    pub fn set_required(&self, required: bool) {
        self.required.store(required, Ordering::Relaxed);
    }

    fn required(&self) -> bool {
        self.required.load(Ordering::Relaxed)
    }

    /// Takes over who gateway.toml names. A key whose team has no entry is bound by its own list alone.
    pub fn set_configured<'a>(&self, who: impl Into<Configured<'a>>) {
        let mut directory = self.directory();
        let before = Sort::ALL.map(|sort| directory.all(sort));
        directory.configure(who.into());
        let gone = before[Sort::Team as usize].iter().filter(|(name, _)| directory.get(Sort::Team, name).is_none());
        for (team, _) in gone {
            tracing::warn!(%team, "the team is no longer configured: its keys are bound by their own lists alone");
        }
        self.rebind(&directory, |_| true);
        let began = self.configured.swap(true, Ordering::Relaxed);
        for sort in Sort::ALL {
            let mut was: BTreeMap<Arc<str>, Arc<Identity>> = before[sort as usize].iter().cloned().collect();
            for (name, now) in directory.all(sort) {
                let was = was.remove(&name);
                // Who was not named before may call all the same, with a token of an issuer.
                if began || was.is_some() {
                    self.end(was.as_deref().is_some_and(Identity::was_cut), Some(&*now));
                }
            }
            for identity in was.values().filter(|identity| identity.was_cut()) {
                self.cuts.forgive_scope(&identity.bound.scope);
            }
        }
    }

    /// What runs ends when somebody is cut, and does not any more when he is served again. `was`: it was cut before.
    fn end(&self, was: bool, now: Option<&Identity>) {
        match now {
            Some(now) if !was && now.was_cut() => self.cuts.cut_scope(now.bound.scope.clone()),
            Some(now) if !now.disabled => self.cuts.forgive_scope(&now.bound.scope),
            _ => {}
        }
    }

    /// A row of an organisation, a team, a user; `None`: it is gone.
    pub(super) fn set_identity(&self, sort: Sort, name: &str, identity: Option<Identity>) {
        let mut directory = self.directory();
        let before = directory.get(sort, name).map(|identity| identity.was_cut());
        directory.put(sort, name, identity);
        let within = |of: &Option<Arc<str>>| of.as_deref() == Some(name);
        self.rebind(&directory, |principal| match sort {
            Sort::Organisation => within(&principal.organisation),
            Sort::Team => within(&principal.team),
            Sort::User => within(&principal.user),
        });
        // New requests are refused already. What was so when the gateway began ends nothing: nothing ran.
        self.end(before.unwrap_or(true), directory.get(sort, name).map(|identity| &**identity));
    }

    /// Binds callers anew whose scopes changed.
    fn rebind(&self, directory: &Directory, touched: impl Fn(&Principal) -> bool) {
        self.issuers.forget();
        for mut entry in self.entries.iter_mut().filter(|entry| touched(&entry.principal)) {
            let was = &entry.principal;
            let is = Principal { organisation: None, ..Principal::clone(was) }.bound_by(directory);
            let denied = |of: &Principal| of.denied.as_ref().map(|error| error.message.clone());
            let same = |a: &Principal, b: &Principal| {
                (&a.organisation, &a.roles, denied(a)) == (&b.organisation, &b.roles, denied(b))
                    && (&a.models, &a.rules, &a.terms) == (&b.models, &b.rules, &b.terms)
            };
            if !same(was, &is) {
                entry.principal = Arc::new(is);
            }
        }
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
        let directory = self.directory();
        if let Some(team) = team {
            directory.get(Sort::Team, team)?;
        }
        Some(Principal { team: team.map(Arc::from), ..Principal::default() }.bound_by(&directory))
    }

    /// The same as this user, bound as its keys are where it is known.
    pub fn as_user(&self, principal: Principal, user: &str) -> Principal {
        let named = Principal { user: Some(user.into()), ..principal };
        let directory = self.directory();
        if directory.get(Sort::User, user).is_some() { named.bound_by(&directory) } else { named }
    }

    /// Whose key this is, whether it may be used or not: for telling of a refusal.
    pub fn holder(&self, key: &str) -> Option<Arc<str>> {
        let entry = credential::well_formed(key).then(|| self.entries.get(&self.hash(key))).flatten()?;
        Some(entry.principal.key_id.clone())
    }

    pub fn knows_team(&self, team: &str) -> bool {
        self.directory().get(Sort::Team, team).is_some()
    }

    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hash(&self, key: &str) -> Hash {
        self.pepper.clone().chain_update(key).finalize().into_bytes().into()
    }

    /// All that is held of a key: a look at every key.
    pub(super) fn hashes_of(&self, id: &str) -> Vec<Hash> {
        self.entries.iter().filter(|entry| &*entry.principal.key_id == id).map(|entry| *entry.key()).collect()
    }

    /// Puts all secrets of a key in place of what was held of it. `dropped`: hashes that it no longer has. What runs with it
    /// is ended if the row says so and it was good before.
    pub(super) fn set(&self, id: &str, row: &Row, hashes: &[Hash], dropped: &[Hash]) -> Result<()> {
        let directory = self.directory();
        let key_id: Arc<str> = Arc::from(id);
        let key_name: Arc<str> = Arc::from(row.name.as_str());
        let own = row.bound(&key_id, &key_name)?;
        let cut = self.cuts.shard(id).clone();
        let (team, user) = (row.team.as_deref().map(Arc::from), row.user.as_deref().map(Arc::from));
        let principal = Principal { key_id, key_name, team, user, own, cut, ..Principal::default() };
        let principal = Arc::new(principal.bound_by(&directory));
        let blocked = match (row.revoked, row.disabled) {
            (Some(_), _) => Blocked::Revoked,
            (None, true) => Blocked::Disabled,
            (None, false) => Blocked::No,
        };
        let mut was_good = false;
        for (hash, secret) in hashes.iter().zip(&row.secrets) {
            let end = End {
                blocked,
                expires: row.expires.map(expiry::from_seconds),
                until: secret.until.map(expiry::from_seconds),
            };
            let before = self.entries.insert(*hash, Entry { principal: principal.clone(), end: end.any() });
            was_good |= before.is_some_and(|before| before.blocked() == Blocked::No || !before.principal.was_cut());
        }
        for hash in dropped {
            self.entries.remove(hash);
        }
        match blocked {
            Blocked::No => self.cuts.forgive(id),
            _ if row.cut && was_good => self.cuts.cut(&principal.key_id),
            _ => {}
        }
        Ok(())
    }

    /// A row of an admin token. Revoked ones stay, to say so.
    pub(super) fn set_token(&self, id: &str, row: TokenRow, hash: Hash) {
        self.tokens.insert(hash, Arc::new(Token { id: id.into(), row }));
    }

    pub(super) fn drop_token(&self, id: &str) {
        self.tokens.retain(|_, token| &*token.id != id);
    }

    pub(super) fn token(&self, presented: &str) -> Option<Arc<Token>> {
        self.tokens.get(&self.hash(presented)).map(|token| token.clone())
    }

    /// An empty one with the same secret, as another gateway on the same store has it.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Principal>> + '_ {
        self.entries.iter().map(|entry| entry.principal.clone())
    }

    #[cfg(test)]
    pub(super) fn twin(&self) -> Table {
        Table { pepper: self.pepper.clone(), ..Table::new(&[0; 32]) }
    }

    /// Team and user of each of these keys: one look at all.
    pub fn owners(&self, ids: &BTreeSet<Arc<str>>) -> BTreeMap<Arc<str>, Owner> {
        if ids.is_empty() {
            return BTreeMap::new();
        }
        let own = self.entries.iter().filter(|entry| ids.contains(&entry.principal.key_id));
        let owner = |of: &Principal| (of.key_id.clone(), (of.team.clone(), of.user.clone()));
        own.map(|entry| owner(&entry.principal)).collect()
    }

    /// Ids of a user's keys, however they stand.
    pub fn keys_of_user(&self, user: &str) -> BTreeSet<Arc<str>> {
        let own = self.entries.iter().filter(|entry| entry.principal.user.as_deref() == Some(user));
        own.map(|entry| entry.principal.key_id.clone()).collect()
    }
}

/// Anybody of this team, or nobody in particular; bound as its keys are.
pub fn member<'a>(team: Option<&str>, who: impl Into<Configured<'a>>) -> Principal {
    let directory = Directory::configured(who.into());
    Principal { team: team.map(Arc::from), ..Principal::default() }.bound_by(&directory)
}

fn usable(entry: &Entry, now: SystemTime) -> Result<()> {
    let Some(end) = &entry.end else { return Ok(()) };
    match end.blocked {
        Blocked::No => {}
        Blocked::Revoked => {
            return Err(refuse("key_revoked", "this key was revoked; ask the gateway's operator for a new one"));
        }
        Blocked::Disabled => {
            return Err(refuse(
                "key_disabled",
                "this key is disabled for now; ask the gateway's operator to enable it",
            ));
        }
    }
    if end.expires.is_some_and(|at| at <= now) {
        return Err(refuse("key_expired", "this key has expired; ask the gateway's operator for a new one"));
    }
    if end.until.is_some_and(|at| at <= now) {
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
    let message = if key.starts_with(credential::TOKEN_PREFIX) {
        "this is a token of the admin API, not a virtual key: models are called with a key that begins with `sk-pc-`"
    } else if key.starts_with(credential::PREFIX) {
        "this key is damaged: a virtual key is `sk-pc-` and 43 characters; copy it again, whole"
    } else {
        "this is not a virtual key of this gateway: send one that begins with `sk-pc-`, not a provider's own key"
    };
    refuse("invalid_api_key", message)
}

fn unknown() -> Error {
    refuse("invalid_api_key", "this key is not known here; check which gateway it was made for")
}
