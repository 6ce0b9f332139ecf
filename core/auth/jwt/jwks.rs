//! An issuer's public keys (JWKS, RFC 7517): read, kept, and fetched again. All who miss a key wait for one fetch, and a
//! storm of unknown ids makes one; while the issuer is down its keys hold for a bounded time.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use jsonwebtoken::DecodingKey;
use serde_json::Value;
use tokio::sync::watch;

use super::{MISS_REST, Settings};
use crate::{
    auth::expiry,
    config::jwt::Proof,
    error::{Error, Kind, Result},
};

/// A public key that checks signatures.
pub(super) struct Jwk {
    pub kid: Option<String>,
    kind: Kty,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<String>,
    pub key: DecodingKey,
    /// To tell whether the set changed.
    print: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kty {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// The keys of one issuer.
#[derive(Default)]
pub(super) struct Keyring {
    set: ArcSwap<Vec<Jwk>>,
    /// Grows when the set changes.
    generation: AtomicU64,
    /// Seconds since the epoch: from then on they are fetched again. 0: they never are.
    due: AtomicU64,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    fetched: Option<Instant>,
    /// The last fetch because of an unknown id.
    missed: Option<Instant>,
    /// After failures in a row: nobody tries before then.
    rest: Option<Instant>,
    failures: u32,
    running: Option<watch::Receiver<Option<Outcome>>>,
}

type Outcome = Result<(), Arc<str>>;
type Fetched = BoxFuture<'static, Result<Vec<u8>, String>>;

impl Jwk {
    /// May it check this algorithm?
    pub fn fits(&self, algorithm: &str) -> bool {
        let kind = match algorithm {
            "ES256" => Kty::P256,
            "ES384" => Kty::P384,
            "EdDSA" => Kty::Ed25519,
            _ if algorithm.starts_with("RS") || algorithm.starts_with("PS") => Kty::Rsa,
            _ => return false,
        };
        self.kind == kind && self.algorithm.as_deref().is_none_or(|only| only == algorithm)
    }

    /// `None`: a key of another use, or of a kind that is not known; those are passed over.
    fn read(key: &Value) -> Option<Jwk> {
        let text = |name: &str| key[name].as_str();
        if text("use").is_some_and(|of| of != "sig") {
            return None;
        }
        if let Some(operations) = key["key_ops"].as_array()
            && !operations.iter().any(|of| of == "verify")
        {
            return None;
        }
        let (kind, made) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (Kty::Rsa, DecodingKey::from_rsa_components(text("n")?, text("e")?)),
            ("EC", Some("P-256")) => (Kty::P256, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("EC", Some("P-384")) => (Kty::P384, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("OKP", Some("Ed25519")) => (Kty::Ed25519, DecodingKey::from_ed_components(text("x")?)),
            // Secrets are never taken from a document that everybody can read.
            _ => return None,
        };
        let parts = ["kid", "kty", "crv", "alg", "n", "e", "x", "y"].map(|name| text(name).unwrap_or_default());
        Some(Jwk {
            kid: text("kid").map(str::to_owned),
            kind,
            algorithm: text("alg").map(str::to_owned),
            key: made.ok()?,
            print: parts.join("\0"),
        })
    }
}

impl Keyring {
    pub fn of(settings: &Settings) -> Keyring {
        let ring = Keyring::default();
        if let Proof::Known(text) = &settings.proof {
            match parse(text.as_bytes()) {
                Ok(set) => ring.set.store(Arc::new(set)),
                Err(why) => tracing::error!(issuer = settings.name, why, "its public keys cannot be read"),
            }
        }
        ring
    }

    pub fn set(&self) -> Arc<Vec<Jwk>> {
        self.set.load_full()
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn due(&self, now: SystemTime) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due != 0 && expiry::to_seconds(now) >= due
    }

    /// The keys and their generation, with the key of this id among them if the issuer has it.
    pub async fn with(
        self: &Arc<Self>,
        kid: Option<&str>,
        (refresh, stale): (Duration, Duration),
        now: SystemTime,
        fetch: impl Fn() -> Fetched,
    ) -> Result<(Arc<Vec<Jwk>>, u64)> {
        let set = self.set();
        let has = kid.is_none_or(|kid| set.iter().any(|key| key.kid.as_deref() == Some(kid)));
        let age = lock(&self.state).fetched.map(|at| at.elapsed());
        let usable = !set.is_empty() && age.is_some_and(|age| age < refresh.saturating_add(stale));
        let running = match (usable, has) {
            (true, true) => {
                if self.due(now) {
                    // Nobody waits for it, and a failure shows only when the keys at hand are too old.
                    let _ = self.begin(false, refresh, fetch);
                }
                return Ok((set, self.generation()));
            }
            (true, false) => match self.begin(true, refresh, fetch) {
                Some(running) => running,
                // It was asked for just now: what came then is what there is.
                None => return Ok((self.set(), self.generation())),
            },
            (false, _) => match self.begin(false, refresh, fetch) {
                Some(running) => running,
                None => return self.just_now(),
            },
        };
        if let Err(why) = ended(running).await {
            tracing::debug!(%why, "an issuer's keys could not be fetched");
            if !usable {
                return Err(unreachable());
            }
        }
        Ok((self.set(), self.generation()))
    }

    /// What somebody else fetched a moment ago, or nothing.
    fn just_now(&self) -> Result<(Arc<Vec<Jwk>>, u64)> {
        if lock(&self.state).fetched.is_some_and(|at| at.elapsed() < MOMENT) {
            return Ok((self.set(), self.generation()));
        }
        Err(unreachable())
    }

    /// Joins the fetch that runs, or starts one in a task of its own; `None`: it is not time to ask again.
    fn begin(
        self: &Arc<Self>,
        missed: bool,
        refresh: Duration,
        fetch: impl Fn() -> Fetched,
    ) -> Option<watch::Receiver<Option<Outcome>>> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if let Some(running) = &state.running {
            return Some(running.clone());
        }
        let rests = state.rest.is_some_and(|until| now < until);
        let fresh = !missed && state.fetched.is_some_and(|at| now < at + MOMENT);
        if rests || fresh || (missed && state.missed.is_some_and(|at| now < at + MISS_REST)) {
            return None;
        }
        if missed {
            state.missed = Some(now);
        }
        let (told, end) = watch::channel(None);
        state.running = Some(end.clone());
        drop(state);
        let (ring, fetching) = (self.clone(), fetch());
        tokio::spawn(async move {
            let fetched =
                tokio::time::timeout(PATIENCE, fetching).await.unwrap_or_else(|_| Err("no answer".to_owned()));
            let outcome = fetched.and_then(|body| parse(&body)).map_err(Arc::from);
            let _ = told.send(Some(ring.take(outcome, refresh)));
        });
        Some(end)
    }

    fn take(&self, outcome: Result<Vec<Jwk>, Arc<str>>, refresh: Duration) -> Outcome {
        let mut state = lock(&self.state);
        state.running = None;
        let wait = match &outcome {
            Ok(_) => {
                (state.fetched, state.rest, state.failures) = (Some(Instant::now()), None, 0);
                refresh
            }
            Err(why) => {
                tracing::warn!(%why, "an issuer's public keys could not be fetched; those at hand hold for a while");
                let wait = FIRST_WAIT.saturating_mul(1 << state.failures.min(5)).min(MOST_WAIT);
                state.failures = state.failures.saturating_add(1);
                state.rest = Some(Instant::now() + wait);
                wait
            }
        };
        self.due.store(expiry::to_seconds(SystemTime::now() + wait).max(1), Ordering::Relaxed);
        let set = outcome?;
        let prints = |set: &[Jwk]| set.iter().map(|key| key.print.clone()).collect::<std::collections::BTreeSet<_>>();
        if prints(&set) != prints(&self.set()) {
            self.set.store(Arc::new(set));
            self.generation.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

async fn ended(mut running: watch::Receiver<Option<Outcome>>) -> Outcome {
    loop {
        if let Some(outcome) = &*running.borrow_and_update() {
            return outcome.clone();
        }
        if running.changed().await.is_err() {
            return Err("it was broken off".into());
        }
    }
}

fn parse(body: &[u8]) -> Result<Vec<Jwk>, String> {
    let document: Value = serde_json::from_slice(body).map_err(|e| format!("what came is no JSON: {e}"))?;
    let keys = document["keys"].as_array().ok_or("what came is no key set: it has no list `keys`")?;
    let set: Vec<Jwk> = keys.iter().take(MOST_KEYS).filter_map(Jwk::read).collect();
    if set.is_empty() { Err("there is no public key for signatures in it".to_owned()) } else { Ok(set) }
}

fn unreachable() -> Error {
    let message = "the keys of this token's issuer cannot be fetched at the moment; try again soon";
    Error::new(Kind::Overloaded, message).with_code("issuer_unreachable").retry_after(Duration::from_secs(5))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who looked just before keys came is not the cause of another fetch.
const MOMENT: Duration = Duration::from_secs(1);
/// Of one fetch.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure; doubled with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(30);
const MOST_KEYS: usize = 256;
