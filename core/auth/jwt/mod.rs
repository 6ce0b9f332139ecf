//! Callers with a signed token (JWT) in place of a virtual key: whose tokens are taken, whether one is genuine and in force,
//! and what its claims mean. A token that was verified is known by the hash of all of it until it ends. Asks nobody by itself:
//! public keys come through `Outside`.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use url::Url;

mod claims;
mod jwks;
mod token;

use self::{jwks::Keyring, token::Token};
use super::{
    Principal,
    bound::Bound,
    cut::Cuts,
    directory::{Claimed, Directory},
    permission::Actor,
};
use crate::{
    config::{
        Scope, Terms,
        jwt::{Issuer as Settings, Proof},
    },
    error::{Error, Kind, Result},
};

/// How public keys are fetched.
pub trait Outside: Send + Sync {
    /// The document behind this URL; the error is a sentence.
    fn keys(&self, url: Url, private: bool) -> BoxFuture<'static, Result<Vec<u8>, String>>;
}

/// Whose tokens are taken.
#[derive(Default)]
pub struct Issuers {
    list: ArcSwap<Vec<Arc<Issuer>>>,
    known: DashMap<[u8; 32], Known, foldhash::fast::RandomState>,
    outside: OnceLock<Arc<dyn Outside>>,
}

struct Issuer {
    settings: Settings,
    keys: Arc<Keyring>,
}

/// A token that was verified.
struct Known {
    principal: Arc<Principal>,
    until: SystemTime,
    issuer: Arc<Issuer>,
    /// Of the issuer's keys when it was verified.
    generation: u64,
}

/// What a genuine token says of its caller.
pub struct Caller {
    issuer: Arc<Issuer>,
    claims: Map<String, Value>,
    user: Arc<str>,
    generation: u64,
    pub until: SystemTime,
}

impl Issuers {
    /// Takes over what gateway.toml says; keys that were fetched stay.
    pub fn configure(&self, issuers: &[Settings]) {
        let old = self.list.load_full();
        let keys = |settings: &Settings| {
            let same = |issuer: &&Arc<Issuer>| match (&issuer.settings.proof, &settings.proof) {
                (Proof::Fetched { url: a, .. }, Proof::Fetched { url: b, .. }) => a == b,
                _ => false,
            };
            old.iter().find(same).map_or_else(|| Arc::new(Keyring::of(settings)), |issuer| issuer.keys.clone())
        };
        let list = issuers.iter().map(|settings| Arc::new(Issuer { keys: keys(settings), settings: settings.clone() }));
        self.list.store(Arc::new(list.collect()));
        self.forget();
    }

    pub fn ask_through(&self, outside: Arc<dyn Outside>) {
        let _ = self.outside.set(outside);
    }

    /// Is this a signed token, and are such taken at all?
    pub fn reads(&self, credential: &str) -> bool {
        // A header is a JSON object, so its first letters are always the same.
        credential.starts_with("eyJ") && !self.list.load().is_empty()
    }

    /// Who calls with a token that was verified before, if it is still in force.
    pub fn known(&self, token: &str, now: SystemTime) -> Option<Arc<Principal>> {
        if !self.reads(token) {
            return None;
        }
        let known = self.known.get(&hash(token))?;
        let fresh = known.generation == known.issuer.keys.generation() && !known.issuer.keys.due(now);
        (fresh && now < known.until).then(|| known.principal.clone())
    }

    pub(super) fn keep(&self, token: &str, principal: &Arc<Principal>, caller: &Caller) {
        if self.known.len() >= MOST_KNOWN {
            let now = SystemTime::now();
            self.known.retain(|_, known| now < known.until);
            if self.known.len() >= MOST_KNOWN {
                self.known.clear();
            }
        }
        let Caller { issuer, generation, until, .. } = caller;
        let known =
            Known { principal: principal.clone(), until: *until, issuer: issuer.clone(), generation: *generation };
        self.known.insert(hash(token), known);
    }

    /// Who is who has changed: tokens are read anew.
    pub fn forget(&self) {
        self.known.clear();
    }

    /// Is it genuine, and in force? Waits for its issuer's keys, where they are not there.
    pub async fn verify(&self, text: &str, now: SystemTime) -> Result<Caller> {
        let token = Token::parse(text)?;
        let issuer = self.issuer(&token)?;
        let settings = &issuer.settings;
        if !settings.algorithms.contains(&token.algorithm) {
            return Err(refuse("this token is signed by an algorithm that its issuer is not known to use"));
        }
        let generation = match &settings.proof {
            Proof::Secret(secret) => {
                token.signed_with_secret(secret)?;
                0
            }
            Proof::Known(_) => {
                token.signed_by(&issuer.keys.set())?;
                issuer.keys.generation()
            }
            Proof::Fetched { url, private } => {
                let outside = self.outside.get().ok_or_else(|| refuse("signed tokens cannot be checked here"))?;
                let fetch = || outside.keys(url.clone(), *private);
                let keys =
                    issuer.keys.with(token.kid.as_deref(), (settings.refresh, settings.stale), now, fetch).await?;
                token.signed_by(&keys.0)?;
                keys.1
            }
        };
        claims::check(settings, &token.claims, now)?;
        let user = claims::text(&token.claims, &settings.claims.user);
        let user = user.ok_or_else(|| refuse(format!("this token lacks the claim {}", settings.claims.user)))?;
        if user.len() > MOST_USER || user.chars().any(char::is_control) {
            return Err(refuse(format!("the claim {} of this token is too long", settings.claims.user)));
        }
        let until = claims::end(&token.claims, settings.leeway)?;
        Ok(Caller { user: user.into(), claims: token.claims, generation, until, issuer })
    }

    /// Are tokens of its issuer taken at the control plane? Looked at before anything is fetched for its sake.
    pub(super) fn administers(&self, text: &str) -> Result<()> {
        let issuer = self.issuer(&Token::parse(text)?)?;
        if issuer.settings.admin {
            return Ok(());
        }
        let name = &issuer.settings.name;
        Err(refuse(format!("tokens of this issuer are for calls of models only (auth.jwt.{name}.admin)")))
    }

    /// By what the token says itself: its signature will tell.
    fn issuer(&self, token: &Token) -> Result<Arc<Issuer>> {
        let list = self.list.load_full();
        let named = token.claims.get("iss").and_then(Value::as_str);
        let mut same = list.iter().filter(|issuer| named == Some(&issuer.settings.issuer)).peekable();
        if same.peek().is_none() {
            return Err(refuse("this token's issuer is not one of those that are taken here"));
        }
        let fits = same.find(|issuer| claims::audience(&issuer.settings, &token.claims));
        fits.cloned().ok_or_else(|| refuse("this token was made for another audience"))
    }
}

impl Caller {
    /// Bound by what is known of its team, its user and its organisation.
    pub(super) fn principal(&self, directory: &Directory, cuts: &Cuts) -> Principal {
        let settings = &self.issuer.settings;
        let sum = digest::digest(&digest::SHA256, [settings.issuer.as_str(), &self.user].join("\0").as_bytes());
        let key_id: Arc<str> = format!("jwt_{}", crate::store::hex::encode(&sum.as_ref()[..12])).into();
        let tags: Vec<(String, String)> = settings
            .claims
            .tags
            .iter()
            .filter_map(|(tag, path)| Some((tag.clone(), claims::tag(claims::text(&self.claims, path)?))))
            .collect();
        let own = (!tags.is_empty()).then(|| {
            let terms = Terms { tags: tags.into(), ..Terms::default() };
            Bound::new(Scope::Key(key_id.clone()), &self.user, terms)
        });
        let claimed = self.claimed();
        let mut principal = Principal {
            cut: cuts.shard(&key_id).clone(),
            key_id,
            key_name: self.user.clone(),
            organisation: claimed.organisation.as_deref().map(Arc::from),
            user: Some(self.user.clone()),
            own,
            ..Principal::default()
        };
        directory.bind_claimed(&mut principal, &claimed);
        principal
    }

    /// Who acts at the control plane.
    pub(super) fn actor(&self, directory: &Directory) -> Result<Actor> {
        let name: Arc<str> = self.issuer.settings.name.as_str().into();
        let actor = directory.actor_claimed(&self.user, &self.claimed())?;
        Ok(Actor { name: format!("{} ({name})", actor.name).into(), issuer: Some(name), ..actor })
    }

    fn claimed(&self) -> Claimed {
        let settings = &self.issuer.settings;
        let list = |path: &Option<String>| path.as_deref().map(|path| claims::texts(&self.claims, path));
        let roles = list(&settings.claims.roles);
        Claimed {
            teams: list(&settings.claims.team).unwrap_or_default(),
            usual_team: settings.team.clone(),
            organisation: list(&settings.claims.organisation).unwrap_or_default().into_iter().next(),
            grants: roles.as_deref().map(|values| settings.grants(values)).unwrap_or_default(),
            roles,
        }
    }
}

pub(super) fn unverified() -> Error {
    refuse("this token was not checked yet")
}

fn refuse(message: impl Into<String>) -> Error {
    Error::new(Kind::Unauthenticated, message).with_code("invalid_token")
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

const MOST_KNOWN: usize = 16_384;
/// Bytes of a user's name.
const MOST_USER: usize = 200;
/// A token whose signing time is wrong by more than this is not waited for.
pub(super) const MISS_REST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
