//! The keys that everything here is hashed and sealed with. They are random and lie in the store, wrapped by the master key;
//! the master key itself comes from a file, a variable or a program, seals nothing else, and can be another one tomorrow.
//!
//! Key 0 is the root: key hashes, sealed ids, bodies and kept answers are derived from it, so it stays for as long as the data
//! do. Every rotation adds a newer key for what can be sealed anew; the older ones stay, wrapped, to read what they sealed.

mod ring;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::{hmac, rand};
use serde_json::json;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use self::ring::Ring;
pub use self::ring::check;
use crate::{
    config::{self, Master},
    error::{Error, Kind, Result},
    store::{self, Op, Store, StoreError, Table},
};

/// 32 bytes that are wiped.
pub type Key = Zeroizing<[u8; 32]>;

pub struct Keyring {
    store: Arc<dyn Store>,
    /// By number; the last one seals.
    keys: RwLock<BTreeMap<u32, Key>>,
    /// The master key in use; held while the ring changes.
    master: Mutex<Key>,
    /// Old master keys open the ring still.
    others: std::sync::atomic::AtomicUsize,
}

/// Where the next master key comes from.
#[derive(Debug, Clone)]
pub enum Next {
    /// A new one, in the data directory's own file.
    Own,
    /// From there. The configuration has to name it before the next start.
    From(Master),
}

impl Keyring {
    /// Opens the ring with the configured master key, or makes one. A master key that opens nothing is refused, and nothing is
    /// changed then.
    pub async fn open(store: &Arc<dyn Store>, config: &config::Secrets) -> Result<Arc<Keyring>> {
        loop {
            let held = store.read(Table::Meta, RING).await.map_err(failed)?;
            let used = store.read(Table::Meta, store::MASTER_CHECK).await.map_err(failed)?;
            let fresh = held.is_none() && used.is_none();
            let master = master(&**store, config, fresh).await?;
            if let Some(held) = &held {
                let ring = Ring::parse(held).ok_or_else(damaged)?;
                let keys = ring.unwrap(&master).ok_or_else(wrong_master)?;
                keep_beside(&**store, held)?;
                let others = ring.masters() - 1;
                return Ok(Arc::new(Keyring::of(store.clone(), keys, master, others)));
            }
            let root = match &used {
                None => random()?,
                Some(used) => former(&**store, config, &master, used)?,
            };
            let keys = BTreeMap::from([(ROOT, root), (ROOT + 1, random()?)]);
            let row = Ring::wrap(&[&master], &keys).ok_or_else(no_randomness)?.row();
            let expected = vec![absent(RING), Op { table: Table::Meta, key: store::MASTER_CHECK.into(), value: used }];
            let batch = vec![
                Op::put(Table::Meta, RING, row.clone()),
                Op::put(Table::Meta, store::MASTER_CHECK, check(&master)),
            ];
            // Another gateway may make it at the same moment.
            if store.write_if(expected, batch).await.map_err(failed)? {
                keep_beside(&**store, &row)?;
                return Ok(Arc::new(Keyring::of(store.clone(), keys, master, 0)));
            }
        }
    }

    /// One without keys that were ever kept: for rehearsals, and for tests of other things.
    pub fn nothing(store: Arc<dyn Store>) -> Arc<Keyring> {
        let keys = BTreeMap::from([(ROOT, Key::default())]);
        Arc::new(Keyring::of(store, keys, Key::default(), 0))
    }

    fn of(store: Arc<dyn Store>, keys: BTreeMap<u32, Key>, master: Key, others: usize) -> Keyring {
        Keyring { store, keys: RwLock::new(keys), master: Mutex::new(master), others: others.into() }
    }

    /// What key hashes are made with. It never changes.
    pub fn root(&self) -> Key {
        self.key(ROOT).unwrap_or_default()
    }

    /// A secret for one purpose, made of the root: it says nothing about that, or about a secret for another purpose.
    pub fn secret_for(&self, purpose: &str) -> Key {
        derived(&self.root(), purpose)
    }

    /// The key that seals now, for one purpose, and its number.
    pub fn newest(&self, purpose: &str) -> (u32, Key) {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.last_key_value().map(|(number, key)| (*number, derived(key, purpose))).unwrap_or_default()
    }

    /// The key of that number, for one purpose. Another gateway may have added it.
    pub async fn numbered(&self, number: u32, purpose: &str) -> Result<Option<Key>> {
        if let Some(key) = self.key(number) {
            return Ok(Some(derived(&key, purpose)));
        }
        let master = self.master.lock().await;
        if let Some(ring) = self.read().await? {
            self.take(ring.unwrap(&master).unwrap_or_default());
        }
        Ok(self.key(number).map(|key| derived(&key, purpose)))
    }

    /// Former master keys that still open the ring.
    pub fn former_masters(&self) -> usize {
        self.others.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Another master key, and a new key for what is sealed from now on. `again` seals anew, in the same batch, what lies in
    /// the store. From here on both master keys open the ring; with the data directory's own file the former one is let go at
    /// the end. A kill between any two steps leaves a key that works where the gateway will look for it.
    pub async fn rotate<F>(&self, next: Next, again: impl FnOnce((u32, Key)) -> F) -> Result<()>
    where
        F: Future<Output = Result<(Vec<Op>, Vec<Op>)>>,
    {
        let mut master = self.master.lock().await;
        let fresh = match &next {
            Next::Own => {
                self.own_directory()?;
                random()?
            }
            Next::From(source) => read(source).await?,
        };
        if *fresh == **master {
            return Err(refused("this is the master key in use already"));
        }
        let held = self.store.read(Table::Meta, RING).await.map_err(failed)?;
        let ring = held.as_deref().and_then(Ring::parse).ok_or_else(damaged)?;
        let mut keys = ring.unwrap(&master).ok_or_else(wrong_master)?;
        self.take(keys.clone());
        let number = keys.last_key_value().map_or(ROOT, |(number, _)| *number) + 1;
        let newest = random()?;
        let (mut expected, mut batch) = again((number, newest.clone())).await?;
        keys.insert(number, newest);
        let row = Ring::wrap(&[&master, &fresh], &keys).ok_or_else(no_randomness)?.row();
        expected.push(Op { table: Table::Meta, key: RING.into(), value: held });
        batch.push(Op::put(Table::Meta, RING, row.clone()));
        batch.push(Op::put(Table::Meta, store::MASTER_CHECK, check(&fresh)));
        if !self.store.write_if(expected, batch).await.map_err(failed)? {
            return Err(refused("secrets or keys changed meanwhile: nothing was done, so try again"));
        }
        keep_beside(&*self.store, &row)?;
        self.take(keys);
        self.others.store(1, std::sync::atomic::Ordering::Relaxed);
        if let Next::Own = next {
            self.own_directory()?.replace_master_key(&fresh).map_err(failed)?;
            *master = fresh;
            self.finish_with(&master).await?;
        }
        Ok(())
    }

    /// From here on only the configured master key opens the ring. The error says when that one would not.
    pub async fn finish(&self, config: &config::Secrets) -> Result<()> {
        let mut master = self.master.lock().await;
        let named = self::master(&*self.store, config, false).await?;
        let ring = self.read().await?.ok_or_else(damaged)?;
        ring.unwrap(&named).ok_or_else(wrong_master)?;
        if !ring.newest_is(&named) {
            return Err(refused(
                "the configuration still names the former master key: set secrets.master_key to the new one's place first",
            ));
        }
        *master = named;
        self.finish_with(&master).await
    }

    /// Would a start with this configuration find its keys?
    pub async fn accepts(&self, config: &config::Secrets) -> Result<()> {
        let master = self::master(&*self.store, config, false).await?;
        let ring = self.read().await?.ok_or_else(damaged)?;
        ring.unwrap(&master).map(drop).ok_or_else(wrong_master)
    }

    async fn finish_with(&self, master: &Key) -> Result<()> {
        let held = self.store.read(Table::Meta, RING).await.map_err(failed)?;
        let ring = held.as_deref().and_then(Ring::parse).ok_or_else(damaged)?;
        let keys = ring.unwrap(master).ok_or_else(wrong_master)?;
        let row = Ring::wrap(&[master], &keys).ok_or_else(no_randomness)?.row();
        let batch =
            vec![Op::put(Table::Meta, RING, row.clone()), Op::put(Table::Meta, store::MASTER_CHECK, check(master))];
        let expected = vec![Op { table: Table::Meta, key: RING.into(), value: held }];
        if !self.store.write_if(expected, batch).await.map_err(failed)? {
            return Err(refused("keys changed meanwhile: try again"));
        }
        self.others.store(0, std::sync::atomic::Ordering::Relaxed);
        keep_beside(&*self.store, &row)
    }

    async fn read(&self) -> Result<Option<Ring>> {
        let held = self.store.read(Table::Meta, RING).await.map_err(failed)?;
        Ok(held.as_deref().and_then(Ring::parse))
    }

    fn key(&self, number: u32) -> Option<Key> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn take(&self, keys: BTreeMap<u32, Key>) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    fn own_directory(&self) -> Result<&store::Directory> {
        let none = || refused("there is no master.key of the gateway's own here: name the new one's place with --to");
        let directory = self.store.directory().ok_or_else(none)?;
        directory.has_master_key().then_some(directory).ok_or_else(none)
    }
}

/// The root, from the text of a master key and the copy of the ring beside it: for who reads what a gateway sealed without its
/// store. `None`: they do not fit.
pub fn root_of(master: &str, ring: Option<&str>) -> Option<Key> {
    let master = Zeroizing::new(store::hex::decode(master.trim())?);
    match ring {
        // From before there was a ring, the master key was the root.
        None => Some(master),
        Some(ring) => Ring::parse(ring.trim().as_bytes())?.unwrap(&master)?.remove(&ROOT),
    }
}

/// A key for one purpose.
pub fn derived(root: &Key, purpose: &str) -> Key {
    let mut key = Key::default();
    let text = format!("portcullis secret for {purpose}");
    key.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &**root), text.as_bytes()).as_ref());
    key
}

/// The configured master key, or the data directory's own. `fresh`: there is nothing yet that needs it.
pub async fn master(store: &dyn Store, config: &config::Secrets, fresh: bool) -> Result<Key> {
    match (&config.master, store.directory()) {
        (Some(source), _) => read(source).await,
        (None, Some(directory)) => directory.master_key(fresh).map_err(failed),
        // Nothing outlives the process.
        (None, None) => random(),
    }
}

async fn read(source: &Master) -> Result<Key> {
    let source = source.clone();
    let read = tokio::task::spawn_blocking(move || source.read()).await;
    let read = read.unwrap_or_else(|_| Err("reading it failed".to_owned()));
    read.map_err(|why| {
        Error::new(Kind::Internal, format!("the master key cannot be had: {why}")).with_code("no_master_key")
    })
}

/// What a directory from before the ring was made with: its master key is the root from now on.
fn former(store: &dyn Store, config: &config::Secrets, master: &Key, used: &[u8]) -> Result<Key> {
    if check(master) == *used {
        return Ok(master.clone());
    }
    // The configuration names another one for the first time: the file's own is wrapped by it.
    let own = store.directory().filter(|directory| config.master.is_some() && directory.has_master_key());
    match own.map(|directory| directory.master_key(false)).transpose().map_err(failed)? {
        Some(own) if check(&own) == *used => Ok(own),
        _ => Err(wrong_master()),
    }
}

/// A copy for those who read what was sealed without the store. It is wrapped, so it tells nothing.
fn keep_beside(store: &dyn Store, row: &[u8]) -> Result<()> {
    match store.directory() {
        Some(directory) => directory.keep_keyring(row).map_err(failed),
        None => Ok(()),
    }
}

fn absent(key: &[u8]) -> Op {
    Op { table: Table::Meta, key: key.into(), value: None }
}

fn random() -> Result<Key> {
    let mut key = Key::default();
    rand::fill(&mut *key).map_err(|_| no_randomness())?;
    Ok(key)
}

fn no_randomness() -> Error {
    Error::new(Kind::Internal, "the system gave no random numbers")
}

fn refused(why: &str) -> Error {
    Error::new(Kind::InvalidRequest, why).with_status(409).with_code("rotation_refused")
}

fn damaged() -> Error {
    Error::new(Kind::Internal, "the wrapped keys in the store are damaged: restore the data directory from a backup")
}

fn failed(error: StoreError) -> Error {
    let status = error.status();
    let code = if status == 507 { "store_full" } else { "store_failed" };
    Error::new(Kind::Internal, error.to_string()).with_status(status).with_code(code).because(error)
}

fn wrong_master() -> Error {
    let message = "this master key (master.key in the data directory, or what secrets.master_key names) is not the one that \
                   the stored keys were made with: put the right one back from a backup, or move the whole directory away to \
                   begin with an empty one";
    Error::new(Kind::Internal, message).with_code("wrong_master_key")
}

/// What a status page says.
impl Keyring {
    pub fn json(&self) -> serde_json::Value {
        json!({ "keys": self.newest("").0 + 1, "former_masters": self.former_masters() })
    }
}

const ROOT: u32 = 0;
const RING: &[u8] = store::KEYRING;

#[cfg(test)]
mod tests;
