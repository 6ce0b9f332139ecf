//! The life of virtual keys: made, listed, rotated, revoked. Each change is durable and in the table before it is
//! acknowledged, so what was revoked is refused from the next request on.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Mutex;

use super::{
    KeyInfo, Table, credential, expiry,
    row::{Row, SecretRow},
    table::Hash,
};
use crate::{
    config::{self, Limits, Secret, Team},
    error::{Error, Kind, Result},
    store::{self, Changes, Op, Store, StoreError, Told, hex},
};

pub struct Keys {
    table: Arc<Table>,
    store: Arc<dyn Store>,
    /// Held from reading a row to writing it.
    changing: Mutex<()>,
    /// Heard of since before the table was loaded, so that nothing is missed; until somebody follows them.
    changes: std::sync::Mutex<Option<Changes>>,
}

/// What a new key may do.
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    pub name: String,
    pub team: Option<String>,
    /// Allowed models with wildcards; `None`: all that the team may use.
    pub models: Option<Vec<String>>,
    /// Of its own, beside its team's.
    pub limits: Option<Limits>,
    pub expires: Option<SystemTime>,
}

impl Keys {
    /// Reads every key into the table. Refuses to start when a row cannot be read or the master key is another one.
    pub async fn open(store: Arc<dyn Store>, auth: &config::Auth, teams: &BTreeMap<String, Team>) -> Result<Arc<Keys>> {
        let changes = std::sync::Mutex::new(store.changes());
        let used = store.read(store::Table::Meta, store::MASTER_CHECK).await.map_err(failed)?;
        let table = Table::new(&*pepper(&*store, used.is_none())?);
        let check = table.hash(MASTER_CHECK_TEXT);
        match used {
            Some(stored) if stored != check => return Err(wrong_master()),
            Some(_) => {}
            None => {
                // Of several gateways that begin at once the first one's master key counts.
                let absent = Op::remove(store::Table::Meta, store::MASTER_CHECK);
                let op = Op::put(store::Table::Meta, store::MASTER_CHECK, check);
                if !store.write_if(vec![absent], vec![op]).await.map_err(failed)?
                    && store.read(store::Table::Meta, store::MASTER_CHECK).await.map_err(failed)?.as_deref()
                        != Some(&check[..])
                {
                    return Err(wrong_master());
                }
            }
        }
        table.set_required(auth.required);
        table.set_teams(teams);
        load(&*store, &table).await?;
        Ok(Arc::new(Keys { table: Arc::new(table), store, changing: Mutex::new(()), changes }))
    }

    /// A secret for one purpose, made of the master key: it says nothing about that key, or about a secret for another purpose.
    pub fn secret_for(&self, purpose: &str) -> zeroize::Zeroizing<[u8; 32]> {
        // No virtual key looks like this, so none has this hash.
        zeroize::Zeroizing::new(self.table.hash(&format!("portcullis secret for {purpose}")))
    }

    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// One key, if this store has never held any.
    pub async fn first_run(&self) -> Result<Option<Secret>> {
        if self.store.read(store::Table::Meta, EVER).await.map_err(failed)?.is_some() {
            return Ok(None);
        }
        // Of several gateways that begin at once one makes it.
        let never = vec![Op::remove(store::Table::Meta, EVER)];
        let made = self.create_if(NewKey { name: "first".into(), ..NewKey::default() }, never).await?;
        Ok(made.map(|(_, secret)| secret))
    }

    /// The secret is shown this once: only its hash is kept.
    pub async fn create(&self, new: NewKey) -> Result<(KeyInfo, Secret)> {
        let made = self.create_if(new, Vec::new()).await?;
        made.ok_or_else(|| Error::new(Kind::Internal, "the key was not made"))
    }

    /// `None`: the store is not as expected.
    async fn create_if(&self, new: NewKey, expected: Vec<Op>) -> Result<Option<(KeyInfo, Secret)>> {
        let now = SystemTime::now();
        validate(&new, now)?;
        let (secret, secret_row, hash) = self.mint(now)?;
        let row = Row {
            name: new.name.trim().to_owned(),
            team: new.team,
            models: new.models,
            limits: new.limits.and_then(Limits::any),
            created: expiry::to_seconds(now),
            // Rounded up: a key never ends before the moment that was asked for.
            expires: new.expires.map(|at| expiry::to_seconds(at + Duration::from_millis(999))),
            revoked: None,
            secrets: vec![secret_row],
        };
        let id = new_id(now)?;
        let _turn = self.changing.lock().await;
        let ever = Op::put(store::Table::Meta, EVER, "1");
        if !self.store.write_if(expected, vec![put(&id, &row)?, ever]).await.map_err(failed)? {
            return Ok(None);
        }
        self.table.set(&id, &row, &[hash], &[]);
        Ok(Some((row.info(&id, now), secret)))
    }

    /// What others change in a shared store goes into the table, until the store is closed. `None`: nobody else writes there.
    pub fn follow(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let keys = self.clone();
        Some(async move {
            while let Some(told) = changes.next().await {
                let done = match &told {
                    Told::Rows(rows) => keys.refresh(rows).await,
                    Told::Anything => load(&*keys.store, &keys.table).await,
                };
                // What could not be read now is read with the next change, or after the next start.
                if let Err(error) = done {
                    tracing::error!(%error, "changes of keys by other gateways could not be read");
                }
            }
        })
    }

    /// Rows as they are now: one that was changed here meanwhile is not taken back.
    async fn refresh(&self, rows: &[(store::Table, Vec<u8>)]) -> Result<()> {
        for (_, id) in rows.iter().filter(|(table, _)| *table == store::Table::Keys) {
            let _turn = self.changing.lock().await;
            let Some(value) = self.store.read(store::Table::Keys, id).await.map_err(failed)? else { continue };
            let (id, row) = parse(id, &value)?;
            // Of the oldest ones it may have dropped another than this gateway knows of.
            let dropped = if row.secrets.len() < MAX_SECRETS { Vec::new() } else { self.table.hashes_of(id) };
            let hashes = hashes(id, &row)?;
            let dropped: Vec<Hash> = dropped.into_iter().filter(|hash| !hashes.contains(hash)).collect();
            self.table.set(id, &row, &hashes, &dropped);
        }
        Ok(())
    }

    /// Keys in the order they were made, after the id `after`.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<KeyInfo>> {
        let now = SystemTime::now();
        let rows = self.store.scan(store::Table::Keys, b"", after.map(str::as_bytes), limit).await.map_err(failed)?;
        rows.iter().map(|(id, value)| parse(id, value).map(|(id, row)| row.info(id, now))).collect()
    }

    /// A second revocation changes nothing.
    pub async fn revoke(&self, id: &str) -> Result<KeyInfo> {
        let _turn = self.changing.lock().await;
        let now = SystemTime::now();
        let mut row = self.row(id).await?;
        if row.revoked.is_none() {
            row.revoked = Some(expiry::to_seconds(now));
            // First here, then on disk: refused at once, even when the disk fails.
            self.table.set(id, &row, &hashes(id, &row)?, &[]);
            self.store.write(vec![put(id, &row)?]).await.map_err(failed)?;
        }
        Ok(row.info(id, now))
    }

    /// Other limits for the same key, from the next request on; `None`: none of its own. What it used so far stays counted.
    pub async fn set_limits(&self, id: &str, limits: Option<Limits>) -> Result<KeyInfo> {
        check_limits(limits)?;
        let _turn = self.changing.lock().await;
        let mut row = self.row(id).await?;
        row.limits = limits.and_then(Limits::any);
        self.store.write(vec![put(id, &row)?]).await.map_err(failed)?;
        self.table.set(id, &row, &hashes(id, &row)?, &[]);
        Ok(row.info(id, SystemTime::now()))
    }

    /// A new secret for the same key; the former ones work for `overlap` more, those of earlier rotations no longer than
    /// they would have.
    pub async fn rotate(&self, id: &str, overlap: Duration) -> Result<(KeyInfo, Secret)> {
        let _turn = self.changing.lock().await;
        let now = SystemTime::now();
        let mut row = self.row(id).await?;
        let gone = |what: &str| Error::invalid("id", format!("the key {id} {what}; make a new one instead"));
        match row.info(id, now).status.as_str() {
            "revoked" => return Err(gone("was revoked")),
            "expired" => return Err(gone("has expired")),
            _ => {}
        }
        let until = expiry::to_seconds(now).saturating_add(overlap.as_secs());
        for secret in &mut row.secrets {
            secret.until = Some(secret.until.map_or(until, |earlier| earlier.min(until)));
        }
        let (secret, secret_row, _) = self.mint(now)?;
        row.secrets.push(secret_row);
        let old = row.secrets.len().saturating_sub(MAX_SECRETS);
        let dropped: Vec<SecretRow> = row.secrets.drain(..old).collect();
        let dropped = dropped.iter().filter_map(|s| hex::decode(&s.hash)).collect::<Vec<_>>();
        self.store.write(vec![put(id, &row)?]).await.map_err(failed)?;
        self.table.set(id, &row, &hashes(id, &row)?, &dropped);
        Ok((row.info(id, now), secret))
    }

    /// Everything that the store holds, as a file in the data directory.
    pub async fn export_state(&self) -> Result<store::Exported> {
        self.store.export(None).await.map_err(failed)
    }

    async fn row(&self, id: &str) -> Result<Row> {
        let unknown =
            || Error::new(Kind::NotFound, format!("no key has the id {id:?}; list the keys to see their ids"));
        if !id.starts_with(ID_PREFIX) || id.len() > MAX_NAME {
            return Err(unknown());
        }
        let value = self.store.read(store::Table::Keys, id.as_bytes()).await.map_err(failed)?.ok_or_else(unknown)?;
        parse(id.as_bytes(), &value).map(|(_, row)| row)
    }

    fn mint(&self, now: SystemTime) -> Result<(Secret, SecretRow, Hash)> {
        let secret = credential::mint().map_err(|_| no_randomness())?;
        let hash = self.table.hash(secret.expose());
        let last4 = secret.expose()[secret.expose().len() - 4..].to_owned();
        let row = SecretRow { hash: hex::encode(&hash), last4, created: expiry::to_seconds(now), until: None };
        Ok((secret, row, hash))
    }
}

/// What the store holds at `store::MASTER_CHECK` when its keys were made with this master key.
pub fn master_check(master: &[u8; 32]) -> [u8; 32] {
    Table::new(master).hash(MASTER_CHECK_TEXT)
}

async fn load(store: &dyn Store, table: &Table) -> Result<()> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(store::Table::Keys, b"", after.as_deref(), PAGE).await.map_err(failed)?;
        for (id, value) in &page {
            let (id, row) = parse(id, value)?;
            table.set(id, &row, &hashes(id, &row)?, &[]);
        }
        match page.into_iter().last() {
            Some((last, _)) => after = Some(last),
            None => return Ok(()),
        }
    }
}

/// What `Keys::secret_for` gives, from the text of a master key alone: for who reads what a gateway sealed. `None`: it is none.
pub fn secret_of(master: &str, purpose: &str) -> Option<zeroize::Zeroizing<[u8; 32]>> {
    let key = zeroize::Zeroizing::new(store::hex::decode(master)?);
    Some(zeroize::Zeroizing::new(Table::new(&key).hash(&format!("portcullis secret for {purpose}"))))
}

fn pepper(store: &dyn Store, fresh: bool) -> Result<zeroize::Zeroizing<[u8; 32]>> {
    if let Some(directory) = store.directory() {
        return directory.master_key(fresh).map_err(failed);
    }
    let mut pepper = zeroize::Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *pepper).map_err(|_| no_randomness())?;
    Ok(pepper)
}

fn validate(new: &NewKey, now: SystemTime) -> Result<()> {
    let name = new.name.trim();
    let bad = |text: &str| text.len() > MAX_NAME || text.chars().any(char::is_control);
    if name.is_empty() || bad(name) {
        return Err(Error::invalid("name", format!("a key needs a name of 1 to {MAX_NAME} printable bytes")));
    }
    if new.team.as_deref().is_some_and(|t| t.trim().is_empty() || bad(t)) {
        return Err(Error::invalid("team", format!("a team's name has 1 to {MAX_NAME} printable bytes")));
    }
    if new.expires.is_some_and(|at| at <= now || at.duration_since(UNIX_EPOCH).is_err()) {
        return Err(Error::invalid("expires", "the expiry lies in the past"));
    }
    check_limits(new.limits)?;
    let Some(models) = &new.models else { return Ok(()) };
    if models.is_empty() {
        return Err(Error::invalid("models", "an empty list would allow no model; leave it out to allow all"));
    }
    if models.len() > MAX_MODELS {
        return Err(Error::invalid("models", format!("at most {MAX_MODELS} models; use wildcards (provider/*)")));
    }
    for (at, model) in models.iter().enumerate() {
        if model.trim() != model || model.is_empty() || bad(model) {
            return Err(Error::invalid(format!("models[{at}]"), "a model's name, or a pattern like provider/*"));
        }
    }
    Ok(())
}

fn check_limits(limits: Option<Limits>) -> Result<()> {
    match limits.unwrap_or_default().absurd() {
        Some((name, message)) => Err(Error::invalid(format!("limits.{name}"), message)),
        None => Ok(()),
    }
}

/// `key_`, the time in milliseconds and 48 random bits, hex: ids sort by age.
fn new_id(now: SystemTime) -> Result<String> {
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let mut random = [0; 6];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| no_randomness())?;
    Ok(format!("{ID_PREFIX}{:012x}{}", millis & 0xffff_ffff_ffff, hex::encode(&random)))
}

fn put(id: &str, row: &Row) -> Result<Op> {
    let value = serde_json::to_vec(row)
        .map_err(|e| Error::new(Kind::Internal, "the key's row could not be written").because(e))?;
    Ok(Op::put(store::Table::Keys, id, value))
}

fn parse<'a>(id: &'a [u8], value: &[u8]) -> Result<(&'a str, Row)> {
    let damaged = |why: String| {
        let id = String::from_utf8_lossy(id);
        Error::new(
            Kind::Internal,
            format!("the stored key {id} is damaged ({why}): restore the data directory from a backup"),
        )
    };
    let text = std::str::from_utf8(id).map_err(|e| damaged(e.to_string()))?;
    let row = serde_json::from_slice(value).map_err(|e| damaged(e.to_string()))?;
    Ok((text, row))
}

fn hashes(id: &str, row: &Row) -> Result<Vec<Hash>> {
    let hashes: Option<Vec<Hash>> = row.secrets.iter().map(|s| hex::decode(&s.hash)).collect();
    let damaged = || format!("the stored key {id} is damaged (hash): restore the data directory from a backup");
    hashes.ok_or_else(|| Error::new(Kind::Internal, damaged()))
}

fn failed(error: StoreError) -> Error {
    let status = match &error {
        StoreError::Full(_) | StoreError::NoRoom { .. } | StoreError::SharedFull { .. } => 507,
        StoreError::TooLarge { .. } => 400,
        StoreError::Closed
        | StoreError::Unreachable { .. }
        | StoreError::Unanswered { .. }
        | StoreError::Replaced { .. } => 503,
        _ => 500,
    };
    let code = if status == 507 { "store_full" } else { "store_failed" };
    Error::new(Kind::Internal, error.to_string()).with_status(status).with_code(code).because(error)
}

fn wrong_master() -> Error {
    let message = "master.key in the data directory is not the one that the stored keys were made with: put the right file \
                   back from a backup, or move the whole directory away to begin with an empty one";
    Error::new(Kind::Internal, message).with_code("wrong_master_key")
}

fn no_randomness() -> Error {
    Error::new(Kind::Internal, "the system gave no random numbers")
}

const ID_PREFIX: &str = "key_";
/// The store has held a key once.
const EVER: &[u8] = b"keys/ever";
const MASTER_CHECK_TEXT: &str = "portcullis master key check";
const MAX_NAME: usize = 200;
const MAX_MODELS: usize = 200;
/// Of one key: the current one and those rotated out, which are kept to say so.
const MAX_SECRETS: usize = 4;
const PAGE: usize = 1_000;
