//! Secrets that gateway.toml only names (`store:`, `vault:`, `aws-sm:`): read before a configuration is built, kept in memory,
//! looked at again by and by. A source that cannot be reached keeps its last value, and says so on status pages; only what was
//! never read is an error. What changed is told once, and whoever builds runtimes builds a new one.
//!
//! Values go to whoever resolves the configuration, and nowhere else: not into a row, a message or a page.

mod aws;
mod call;
mod kept;
mod vault;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::call::Network;
pub use self::kept::Info;
use crate::{
    config::{self, Content, Elsewhere, Loaded, Place, Reference, Secret, Told, env},
    error::{Error, Kind, Result},
    keyring::{Keyring, Next},
    store::Store,
    upstream::{Client, Trust},
};

pub struct Secrets {
    store: Arc<dyn Store>,
    ring: Arc<Keyring>,
    client: Client,
    /// Of the configuration that runs.
    config: ArcSwap<config::Secrets>,
    known: Mutex<BTreeMap<String, Known>>,
    vault: vault::Login,
    aws: aws::Keys,
    trust: Mutex<Option<(Vec<u8>, Arc<Trust>)>>,
    /// Rounds of reads so far.
    rounds: AtomicU64,
    /// Changes of values so far, and who waits for one.
    changes: AtomicU64,
    changed: Notify,
    /// There is something new to look at again.
    woken: Notify,
}

/// One reference.
#[derive(Debug, Clone)]
struct Known {
    value: Option<Secret>,
    /// When the value was last read, and that it is as it was.
    read: Option<SystemTime>,
    /// Why the last try gave nothing; whether there is none by that name.
    failed: Option<(String, bool)>,
    failures: u32,
    next: Instant,
    /// Which round of reads said so.
    round: u64,
}

/// What a source gave.
pub(crate) struct Read {
    value: Secret,
    lease: Option<Duration>,
}

/// Why it gave nothing: half a sentence.
pub(crate) enum Failure {
    /// There is none by that name.
    Absent(String),
    /// Nobody could say.
    Unknown(String),
}

impl Secrets {
    pub fn new(store: Arc<dyn Store>, ring: Arc<Keyring>, client: Client) -> Arc<Secrets> {
        Arc::new(Secrets {
            store,
            ring,
            client,
            config: ArcSwap::default(),
            known: Mutex::default(),
            vault: vault::Login::default(),
            aws: aws::Keys::default(),
            trust: Mutex::default(),
            rounds: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            changed: Notify::new(),
            woken: Notify::new(),
        })
    }

    pub fn ring(&self) -> &Keyring {
        &self.ring
    }

    /// One that knows nothing, for rehearsals and tests of other things.
    pub fn nowhere(client: Client) -> Arc<Secrets> {
        let store = crate::store::memory();
        Secrets::new(store.clone(), Keyring::nothing(store), client)
    }

    /// Where gateway.toml lies.
    pub fn root(&self) -> std::path::PathBuf {
        self.config.load().root.clone()
    }

    /// Reads a configuration with every secret that it names. What cannot be read is a problem of it.
    pub async fn load(&self, place: &Place, kept: Option<&Content>, rows: &[&str]) -> Loaded {
        let mut rounds = 0;
        loop {
            let loaded = config::read_with(place, kept, &env::var, self, rows);
            let unknown = self.unread(&loaded.config.secrets.references);
            rounds += 1;
            if unknown.is_empty() || rounds > ROUNDS {
                return loaded;
            }
            // What opens a vault may lie in the store: that is read first.
            let (own, others): (Vec<_>, Vec<_>) = unknown.into_iter().partition(|name| name.starts_with("store:"));
            self.fetch(&loaded.config.secrets, if own.is_empty() { others } else { own }).await;
        }
    }

    /// From now on this is what runs: where to look, and what for.
    pub async fn settle(&self, config: &config::Secrets, more: &[String]) {
        let was = self.config.swap(Arc::new(config.clone()));
        let text = |config: &config::Secrets| format!("{:?} {:?}", config.vault, config.aws);
        // Their secrets do not show in it: whoever changed one of those is let in anew when the old one is refused.
        if text(&was) != text(config) {
            self.vault.forget().await;
            self.aws.forget().await;
            let now = Instant::now();
            self.lock().values_mut().for_each(|known| known.next = known.next.min(now));
        }
        self.lock().retain(|name, _| config.references.contains(name) || more.contains(name));
        self.woken.notify_one();
    }

    /// Waits until a value has changed since the caller asked last.
    pub async fn changed(&self, seen: &mut u64) {
        loop {
            let notified = self.changed.notified();
            let now = self.changes.load(Ordering::Acquire);
            if now != *seen {
                *seen = now;
                return;
            }
            notified.await;
        }
    }

    /// Looks again at what lies in the store, at once: somebody changed it.
    pub async fn refresh(&self) {
        let own: Vec<String> = self.lock().keys().filter(|name| name.starts_with("store:")).cloned().collect();
        let config = self.config.load_full();
        self.fetch(&config, own).await;
    }

    /// Looks again at everything that is due, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let config = self.config.load_full();
            let now = Instant::now();
            let due: Vec<String> =
                self.lock().iter().filter(|(_, known)| known.next <= now).map(|(name, _)| name.clone()).collect();
            if !due.is_empty() {
                tokio::select! {
                    () = self.fetch(&config, due) => {}
                    () = stop.cancelled() => return,
                }
            }
            let mut next = self.lock().values().map(|known| known.next).min();
            if let Some(vault) = &config.vault
                && let Ok(outside) = self.network(true, vault.ca.as_deref())
            {
                let renew = self.vault.keep(vault, &outside).await;
                next = next.into_iter().chain(renew).min();
            }
            let wait = next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now())).clamp(LEAST, IDLE);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.woken.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Another master key; secrets in the store are sealed anew in the same batch.
    pub async fn rotate_master(&self, next: Next) -> Result<()> {
        if matches!(next, Next::Own) && self.config.load().master.is_some() {
            let message = "secrets.master_key says where the master key is: name the new one's place with --to";
            return Err(Error::new(Kind::InvalidRequest, message).with_status(409).with_code("rotation_refused"));
        }
        self.ring.rotate(next, |newest| self.again(newest)).await
    }

    /// From now on only the configured master key opens what lies here.
    pub async fn finish_rotation(&self) -> Result<()> {
        let config = self.config.load_full();
        self.ring.finish(&config).await
    }

    /// Each reference, and how fresh its value is: for status pages.
    pub fn status(&self) -> Value {
        let time = |at: SystemTime| jiff::Timestamp::try_from(at).map(|at| at.to_string()).ok();
        let row = |(name, known): (&String, &Known)| {
            let state = match (&known.value, &known.failed) {
                (Some(_), None) => "fresh",
                (Some(_), Some(_)) => "stale",
                (None, _) => "missing",
            };
            json!({
                "reference": name,
                "state": state,
                "read": known.read.and_then(time),
                "why": known.failed.as_ref().map(|(why, _)| why),
            })
        };
        Value::Array(self.lock().iter().map(row).collect())
    }

    /// References whose value is not the newest, in words that anybody may read; `None` when all is well.
    pub fn trouble(&self) -> Option<Vec<String>> {
        let known = self.lock();
        let stale: Vec<String> =
            known.iter().filter(|(_, known)| known.failed.is_some()).map(|(name, _)| name.clone()).collect();
        (!stale.is_empty()).then_some(stale)
    }

    /// References of which nothing is known, or nothing good for a while.
    fn unread(&self, references: &[String]) -> Vec<String> {
        let (known, now) = (self.lock(), Instant::now());
        let unread = |name: &&String| known.get(*name).is_none_or(|known| known.value.is_none() && known.next <= now);
        references.iter().filter(unread).cloned().collect()
    }

    async fn fetch(&self, config: &config::Secrets, references: Vec<String>) {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        let reads = references.iter().map(|name| self.read(config, name));
        let found = join_all(reads).await;
        self.heard(config, round, references.into_iter().zip(found));
    }

    /// What a round of reads gave.
    fn heard(
        &self,
        config: &config::Secrets,
        round: u64,
        found: impl Iterator<Item = (String, Result<Read, Failure>)>,
    ) {
        let mut changed = false;
        let mut all = self.lock();
        for (name, found) in found {
            let poll = poll(config, &name);
            let known = all.entry(name.clone()).or_insert_with(|| Known {
                value: None,
                read: None,
                failed: None,
                failures: 0,
                next: Instant::now(),
                round,
            });
            // One that began later was quicker: what it found is newer.
            if known.round > round {
                continue;
            }
            known.round = round;
            let before = known.value.clone();
            let wait = match found {
                Ok(read) => {
                    if known.failed.take().is_some() {
                        tracing::info!(reference = name, "the secret is read again");
                    }
                    known.failures = 0;
                    known.read = Some(SystemTime::now());
                    known.value = Some(read.value);
                    // Sooner than the lease says, never later.
                    read.lease.map_or(poll, |lease| (lease * 2 / 3).min(poll))
                }
                Err(failure) => {
                    let (why, absent) = match failure {
                        Failure::Absent(why) => (why, true),
                        Failure::Unknown(why) => (why, false),
                    };
                    if known.failed.as_ref().is_none_or(|(told, _)| *told != why) {
                        tracing::warn!(
                            reference = name,
                            why,
                            "the secret cannot be read; what was read last is used on"
                        );
                    }
                    if absent {
                        known.value = None;
                    }
                    known.failed = Some((why, absent));
                    known.failures = known.failures.saturating_add(1);
                    FIRST_WAIT.saturating_mul(1 << known.failures.min(9).saturating_sub(1)).min(MOST_WAIT.max(poll))
                }
            };
            known.next = Instant::now() + jittered(wait);
            changed |= match (&before, &known.value) {
                (None, None) => false,
                (Some(before), Some(after)) => before.expose() != after.expose(),
                _ => true,
            };
        }
        drop(all);
        if changed {
            self.changes.fetch_add(1, Ordering::Release);
            self.changed.notify_waiters();
        }
    }

    async fn read(&self, config: &config::Secrets, name: &str) -> Result<Read, Failure> {
        let unknown = |why: &str| Failure::Unknown(why.to_owned());
        match Reference::parse(name) {
            Some(Ok(Reference::Store(name))) => match self.open(&name).await {
                Ok(Some((_, value))) => Ok(Read { value, lease: None }),
                Ok(None) => {
                    let why =
                        format!("the store has no secret {name:?}; `portcullis secrets set {name}` puts one there");
                    Err(Failure::Absent(why))
                }
                Err(error) => Err(Failure::Unknown(error.message.clone())),
            },
            Some(Ok(Reference::Vault { path, field })) => {
                let vault = config.vault.as_ref().ok_or_else(|| unknown("there is no [secrets.vault]"))?;
                let outside = self.network(true, vault.ca.as_deref()).map_err(Failure::Unknown)?;
                self.vault.read(vault, &outside, &path, &field).await
            }
            Some(Ok(Reference::Aws { name, field })) => {
                let manager =
                    config.aws.as_ref().ok_or_else(|| unknown("there is no [secrets.aws] that can be used"))?;
                let outside = self.network(manager.url.is_some(), None).map_err(Failure::Unknown)?;
                self.aws.read(manager, &outside, &name, field.as_deref()).await
            }
            _ => Err(unknown("this is no reference")),
        }
    }

    fn network(&self, private: bool, ca: Option<&std::path::Path>) -> Result<Network, String> {
        let trust = ca.map(|path| self.trusted(path)).transpose()?;
        Ok(Network { client: self.client.clone(), private, trust })
    }

    fn trusted(&self, path: &std::path::Path) -> Result<Arc<Trust>, String> {
        let pem = config::sources::bytes(path, MOST_AUTHORITIES)
            .map_err(|e| format!("the authority file {} cannot be read: {e}", path.display()))?;
        let mut held = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, trust)) = held.as_ref().filter(|(known, _)| *known == pem) {
            return Ok(trust.clone());
        }
        let trust = Arc::new(Trust::with_authorities(&pem).map_err(|e| e.message.clone())?);
        *held = Some((pem, trust.clone()));
        Ok(trust)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Elsewhere for Secrets {
    fn look(&self, reference: &str) -> Told {
        match self.lock().get(reference) {
            None => Told::Unknown("nobody has looked yet".to_owned()),
            Some(Known { value: Some(value), .. }) => Told::Value(value.clone()),
            Some(Known { failed: Some((why, true)), .. }) => Told::Absent(why.clone()),
            Some(Known { failed, .. }) => {
                Told::Unknown(failed.as_ref().map(|(why, _)| why.clone()).unwrap_or_default())
            }
        }
    }
}

fn poll(config: &config::Secrets, name: &str) -> Duration {
    match Reference::parse(name) {
        Some(Ok(Reference::Vault { .. })) => config.vault.as_ref().map_or(STORE_POLL, |vault| vault.poll),
        Some(Ok(Reference::Aws { .. })) => config.aws.as_ref().map_or(STORE_POLL, |aws| aws.poll),
        // Changes made here are seen at once; those that another gateway made on the same store, so soon.
        _ => STORE_POLL,
    }
}

/// A tenth less at most, so that many gateways do not ask at once, and none later than it says.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - fastrand::f64() / 10.0)
}

const STORE_POLL: Duration = Duration::from_secs(5);
/// After a failure; doubled with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(300);
const LEAST: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_secs(60);
/// The store's own, then what they open, then what is left.
const ROUNDS: u32 = 3;
const MOST_AUTHORITIES: u64 = 1 << 20;

#[cfg(test)]
mod tests;
