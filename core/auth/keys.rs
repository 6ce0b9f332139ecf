//! The life of virtual keys: made, listed, changed, rotated, disabled, revoked. Each change is durable and in the table
//! before it is acknowledged, so what was revoked is refused from the next request on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use super::{
    KeyInfo, Table, credential,
    directory::Sort,
    expiry,
    revision::{CONFLICT, Revisions},
    row::{Row, SecretRow},
    table::Hash,
    terms::{self, TermsRow},
    unwritten::Unwritten,
};
use crate::{
    config::{self, Configured, Limits, Secret, identity},
    error::{Error, Kind, Result},
    keyring::Keyring,
    store::{self, Changes, Op, Store, StoreError, hex},
};

pub struct Keys {
    pub(super) table: Arc<Table>,
    pub(super) store: Arc<dyn Store>,
    pub(super) revisions: Revisions,
    pub(super) unwritten: Unwritten,
    /// Heard of since before the table was loaded, so that nothing is missed; until somebody follows them.
    pub(super) changes: std::sync::Mutex<Option<Changes>>,
}

/// What a new key may do.
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    pub name: String,
    pub team: Option<String>,
    pub user: Option<String>,
    pub expires: Option<SystemTime>,
    /// All else; of its own, beside its team's and its user's.
    pub terms: TermsRow,
}

/// Which keys a list shows.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub team: Option<String>,
    pub user: Option<String>,
    /// `active`, `disabled`, `expired`, `revoked`.
    pub status: Option<String>,
    pub name: Option<String>,
    pub tag: Option<String>,
}

impl Keys {
    /// Reads every key, identity and token into the table. Refuses to start when a row cannot be read or the data directory's
    /// master key is another one.
    pub async fn open<'a>(
        store: Arc<dyn Store>,
        auth: &config::Auth,
        who: impl Into<Configured<'a>>,
    ) -> Result<Arc<Keys>> {
        let ring = Keyring::open(&store, &config::Secrets::default()).await?;
        Keys::with(&ring, store, auth, who).await
    }

    /// The same with the keys of a ring that is open already.
    pub async fn with<'a>(
        ring: &Keyring,
        store: Arc<dyn Store>,
        auth: &config::Auth,
        who: impl Into<Configured<'a>>,
    ) -> Result<Arc<Keys>> {
        let changes = std::sync::Mutex::new(store.changes());
        let table = Table::new(&ring.root());
        table.set_required(auth.required);
        table.set_configured(who);
        let revisions = Revisions::open(store.clone()).await?;
        let keys = Keys { table: Arc::new(table), store, revisions, unwritten: Unwritten::default(), changes };
        keys.load().await?;
        Ok(Arc::new(keys))
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
        let mut row = Row {
            name: new.name.trim().to_owned(),
            team: new.team,
            user: new.user,
            models: None,
            limits: None,
            terms: None,
            created: expiry::to_seconds(now),
            expires: new.expires.map(whole_second),
            revoked: None,
            disabled: false,
            cut: false,
            secrets: vec![secret_row],
        };
        row.set_terms(TermsRow { limits: new.terms.limits.and_then(Limits::any), ..new.terms });
        let id = new_id(ID_PREFIX, now)?;
        let mut turn = self.revisions.turn().await;
        self.settle_scopes(&mut row)?;
        let rows = vec![put(&id, &row)?, Op::put(store::Table::Meta, EVER, "1")];
        match turn.write(&expected, rows).await {
            Err(error) if error.code() == CONFLICT && !expected.is_empty() => return Ok(None),
            written => written?,
        }
        self.table.set(&id, &row, &[hash], &[])?;
        Ok(Some((row.info(&id, now), secret)))
    }

    /// Keys in the order they were made, after the id `after`.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<KeyInfo>> {
        let now = SystemTime::now();
        let rows = self.store.scan(store::Table::Keys, b"", after.map(str::as_bytes), limit).await.map_err(failed)?;
        let shown = |(id, mut row): (&str, Row)| {
            self.unwritten.over(id, &mut row);
            row.info(id, now)
        };
        rows.iter().map(|(id, value)| parse(id, value).map(shown)).collect()
    }

    pub async fn one(&self, id: &str) -> Result<KeyInfo> {
        Ok(self.row(id).await?.0.info(id, SystemTime::now()))
    }

    /// A second revocation changes nothing. `cut`: what runs with it is ended too. It holds here even where the error says that
    /// the store did not take it.
    pub async fn revoke(&self, id: &str, cut: bool) -> Result<KeyInfo> {
        let mut turn = self.revisions.turn().await;
        let now = SystemTime::now();
        loop {
            let (mut row, before) = self.row(id).await?;
            let waits = self.unwritten.over(id, &mut row);
            if row.revoked.is_some() && (!cut || row.cut) && !waits {
                return Ok(row.info(id, now));
            }
            row.revoked.get_or_insert(expiry::to_seconds(now));
            row.cut |= cut;
            // First here, then on disk: refused at once, even when the disk fails.
            self.table.set(id, &row, &hashes(id, &row)?, &[])?;
            match turn.write(&[before], vec![put(id, &row)?]).await {
                // Another gateway changed the key meanwhile: it is revoked all the same.
                Err(error) if error.code() == CONFLICT => {}
                Err(error) => return Err(self.unwritten.keep(id, &row, self.store.node().is_some(), error)),
                Ok(()) => {
                    self.unwritten.written(id);
                    return Ok(row.info(id, now));
                }
            }
        }
    }

    /// Other limits for the same key, from the next request on; `None`: none of its own. What it used so far stays counted.
    pub async fn set_limits(&self, id: &str, limits: Option<Limits>) -> Result<KeyInfo> {
        let limits = serde_json::to_value(limits)
            .map_err(|e| Error::new(Kind::Internal, "limits could not be written").because(e))?;
        self.change(id, Map::from_iter([("limits".to_owned(), limits)])).await
    }

    /// Takes over what the body names, from the next request on.
    pub async fn change(&self, id: &str, mut body: Map<String, Value>) -> Result<KeyInfo> {
        if body.is_empty() {
            return Err(Error::new(Kind::InvalidRequest, "nothing to change was named; see /api/openapi.json"));
        }
        let mut turn = self.revisions.turn().await;
        let now = SystemTime::now();
        let (mut row, before) = self.row(id).await?;
        if row.revoked.is_some() {
            return Err(gone(id, "was revoked"));
        }
        let mut terms = row.terms();
        terms.take(&mut body)?;
        terms.resolve()?;
        row.set_terms(terms);
        let (mut name, mut expires) = (Some(row.name.clone()), None::<String>);
        terms::set(&mut body, "name", &mut name)?;
        check_name(name.as_deref().unwrap_or_default())?;
        row.name = name.unwrap_or_default().trim().to_owned();
        let expiry_named = body.contains_key("expires");
        terms::set(&mut body, "expires", &mut expires)?;
        if expiry_named {
            let at = expires.map(|text| expiry::parse(&text, now)).transpose();
            row.expires = at.map_err(|e| Error::invalid("expires", e))?.map(whole_second);
        }
        terms::set(&mut body, "team", &mut row.team)?;
        terms::set(&mut body, "user", &mut row.user)?;
        check_team(row.team.as_deref())?;
        (row.disabled, row.cut) = terms::disabled(&mut body, (row.disabled, row.cut))?;
        terms::nothing_left(&body, &["name", "team", "user", "expires", "disabled", "cut"])?;
        self.settle_scopes(&mut row)?;
        turn.write(&[before], vec![put(id, &row)?]).await?;
        self.table.set(id, &row, &hashes(id, &row)?, &[])?;
        Ok(row.info(id, now))
    }

    /// A new secret for the same key; the former ones work for `overlap` more, those of earlier rotations no longer than
    /// they would have.
    pub async fn rotate(&self, id: &str, overlap: Duration) -> Result<(KeyInfo, Secret)> {
        let mut turn = self.revisions.turn().await;
        let now = SystemTime::now();
        let (mut row, before) = self.row(id).await?;
        match row.info(id, now).status.as_str() {
            "revoked" => return Err(gone(id, "was revoked")),
            "expired" => return Err(gone(id, "has expired")),
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
        turn.write(&[before], vec![put(id, &row)?]).await?;
        self.table.set(id, &row, &hashes(id, &row)?, &dropped)?;
        Ok((row.info(id, now), secret))
    }

    /// Everything that the store holds, as a file in the data directory.
    pub async fn export_state(&self) -> Result<store::Exported> {
        self.store.export(None).await.map_err(failed)
    }

    /// A key's user is known and in its team; whose only team it is need not name it.
    fn settle_scopes(&self, row: &mut Row) -> Result<()> {
        let Some(name) = &row.user else { return Ok(()) };
        let directory = self.table.directory();
        let Some(user) = directory.get(Sort::User, name) else {
            let message = format!("no user or service account is called {name:?}: make it first, or leave `user` out");
            return Err(Error::invalid("user", message));
        };
        let teams = user.teams.iter().map(|team| &**team).collect::<Vec<_>>();
        match (&row.team, teams.as_slice()) {
            (Some(team), teams) if !teams.is_empty() && !teams.contains(&team.as_str()) => Err(Error::invalid(
                "team",
                format!("user {name} is not in the team {team}: it is in {}", teams.join(", ")),
            )),
            (None, [only]) => {
                row.team = Some((*only).to_owned());
                Ok(())
            }
            (None, [_, ..]) => Err(Error::invalid(
                "team",
                format!("user {name} is in several teams: name one of {}", teams.join(", ")),
            )),
            _ => Ok(()),
        }
    }

    /// A key's row as it holds here, and what it must still be in the store when it is written.
    async fn row(&self, id: &str) -> Result<(Row, Op)> {
        let unknown =
            || Error::new(Kind::NotFound, format!("no key has the id {id:?}; list the keys to see their ids"));
        if !id.starts_with(ID_PREFIX) || id.len() > identity::MOST_NAME {
            return Err(unknown());
        }
        let value = self.store.read(store::Table::Keys, id.as_bytes()).await.map_err(failed)?.ok_or_else(unknown)?;
        let (_, mut row) = parse(id.as_bytes(), &value)?;
        self.unwritten.over(id, &mut row);
        Ok((row, Op::put(store::Table::Keys, id, value)))
    }

    fn mint(&self, now: SystemTime) -> Result<(Secret, SecretRow, Hash)> {
        let secret = credential::mint().map_err(|_| no_randomness())?;
        let hash = self.table.hash(secret.expose());
        let row = SecretRow {
            hash: hex::encode(&hash),
            last4: last4(&secret),
            created: expiry::to_seconds(now),
            until: None,
        };
        Ok((secret, row, hash))
    }
}

impl Wanted {
    pub fn takes(&self, key: &KeyInfo) -> bool {
        let is = |wanted: &Option<String>, of: Option<&str>| wanted.as_deref().is_none_or(|w| of == Some(w));
        let tag = |wanted: &str| {
            let (name, value) = wanted.split_once('=').map_or((wanted, None), |(name, value)| (name, Some(value)));
            let tags = key.terms.tags.iter().flatten();
            tags.into_iter().any(|(n, v)| n == name && value.is_none_or(|value| v == value))
        };
        is(&self.team, key.team.as_deref())
            && is(&self.user, key.user.as_deref())
            && is(&self.status, Some(&key.status))
            && self.name.as_deref().is_none_or(|part| key.name.contains(part))
            && self.tag.as_deref().is_none_or(tag)
    }
}

fn validate(new: &NewKey, now: SystemTime) -> Result<()> {
    check_name(&new.name)?;
    check_team(new.team.as_deref())?;
    if new.expires.is_some_and(|at| at <= now || at.duration_since(UNIX_EPOCH).is_err()) {
        return Err(Error::invalid("expires", "the expiry lies in the past"));
    }
    new.terms.resolve().map(|_| ())
}

fn bad(text: &str) -> bool {
    text.len() > identity::MOST_NAME || text.chars().any(char::is_control)
}

pub(super) fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() || bad(name.trim()) {
        let most = identity::MOST_NAME;
        return Err(Error::invalid("name", format!("a key needs a name of 1 to {most} printable bytes")));
    }
    Ok(())
}

fn check_team(team: Option<&str>) -> Result<()> {
    if team.is_some_and(|t| t.trim().is_empty() || bad(t)) {
        let most = identity::MOST_NAME;
        return Err(Error::invalid("team", format!("a team's name has 1 to {most} printable bytes")));
    }
    Ok(())
}

/// Rounded up: nothing ends before the moment that was asked for.
pub(super) fn whole_second(at: SystemTime) -> u64 {
    expiry::to_seconds(at + Duration::from_millis(999))
}

pub(super) fn last4(secret: &Secret) -> String {
    secret.expose()[secret.expose().len() - 4..].to_owned()
}

/// A prefix, the time in milliseconds and 48 random bits, hex: ids sort by age.
pub(super) fn new_id(prefix: &str, now: SystemTime) -> Result<String> {
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let mut random = [0; 6];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| no_randomness())?;
    Ok(format!("{prefix}{:012x}{}", millis & 0xffff_ffff_ffff, hex::encode(&random)))
}

fn put(id: &str, row: &Row) -> Result<Op> {
    let value = serde_json::to_vec(row)
        .map_err(|e| Error::new(Kind::Internal, "the key's row could not be written").because(e))?;
    Ok(Op::put(store::Table::Keys, id, value))
}

pub(super) fn parse<'a>(id: &'a [u8], value: &[u8]) -> Result<(&'a str, Row)> {
    let text = std::str::from_utf8(id).map_err(|e| damaged("key", id, &e.to_string()))?;
    let row = serde_json::from_slice(value).map_err(|e| damaged("key", id, &e.to_string()))?;
    Ok((text, row))
}

pub(super) fn hashes(id: &str, row: &Row) -> Result<Vec<Hash>> {
    let hashes: Option<Vec<Hash>> = row.secrets.iter().map(|s| hex::decode(&s.hash)).collect();
    hashes.ok_or_else(|| damaged("key", id.as_bytes(), "hash"))
}

pub(super) fn damaged(what: &str, id: &[u8], why: &str) -> Error {
    let id = String::from_utf8_lossy(id);
    let message = format!("the stored {what} {id} is damaged ({why}): restore the data directory from a backup");
    Error::new(Kind::Internal, message)
}

fn gone(id: &str, what: &str) -> Error {
    Error::invalid("id", format!("the key {id} {what}; make a new one instead"))
}

pub(super) fn failed(error: StoreError) -> Error {
    let status = error.status();
    let code = if status == 507 { "store_full" } else { "store_failed" };
    Error::new(Kind::Internal, error.to_string()).with_status(status).with_code(code).because(error)
}

pub(super) fn no_randomness() -> Error {
    Error::new(Kind::Internal, "the system gave no random numbers")
}

const ID_PREFIX: &str = "key_";
/// The store has held a key once.
const EVER: &[u8] = b"keys/ever";
/// Of one key: the current one and those rotated out, which are kept to say so.
pub(super) const MAX_SECRETS: usize = 4;
