//! Secrets that lie in the gateway's own store: sealed, each bound to its name and version, with the number of the key that
//! sealed it. What is put in is never told again, only used.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Secrets;
use crate::{
    config::{Secret, fine_name},
    error::{Error, Kind, Result},
    keyring::Key,
    seal::AtRest,
    store::{Op, StoreError, Table, hex},
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    version: u64,
    changed: String,
    hint: String,
    /// Number of the key that sealed it.
    key: u32,
    sealed: String,
}

/// What may be told of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Info {
    pub name: String,
    pub version: u64,
    pub changed: String,
    /// A keyed hash: equal for equal secrets, and nothing else.
    pub hint: String,
}

impl Secrets {
    /// Puts a secret in the place of what had its name. Durable when it returns.
    pub async fn set(&self, name: &str, value: &Secret) -> Result<Info> {
        fine(name)?;
        let text = value.expose();
        if text.trim().is_empty() || text.len() > MOST_VALUE || text.contains('\0') {
            return Err(Error::invalid("value", format!("a secret has 1 to {MOST_VALUE} bytes of text")));
        }
        loop {
            let held = self.store.read(Table::Secrets, name.as_bytes()).await.map_err(failed)?;
            let version = held.as_deref().map(|held| parse(name, held)).transpose()?.map_or(0, |row| row.version) + 1;
            let row = self.sealed(name, version, text, self.ring.newest(PURPOSE))?;
            let expected = vec![Op { table: Table::Secrets, key: name.into(), value: held }];
            let batch = vec![Op::put(Table::Secrets, name, bytes(&row)?)];
            if self.store.write_if(expected, batch).await.map_err(failed)? {
                return Ok(row.info(name));
            }
        }
    }

    pub async fn delete(&self, name: &str) -> Result<Info> {
        let info = self.info(name).await?;
        self.store.write(vec![Op::remove(Table::Secrets, name)]).await.map_err(failed)?;
        Ok(info)
    }

    pub async fn info(&self, name: &str) -> Result<Info> {
        fine(name)?;
        let held = self.store.read(Table::Secrets, name.as_bytes()).await.map_err(failed)?;
        let unknown = || Error::new(Kind::NotFound, format!("there is no secret {name:?} in the store"));
        Ok(parse(name, &held.ok_or_else(unknown)?)?.info(name))
    }

    /// In the order of names, after `after`.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>> {
        let rows = self.store.scan(Table::Secrets, b"", after.map(str::as_bytes), limit).await.map_err(failed)?;
        rows.iter()
            .map(|(name, row)| {
                let name = String::from_utf8_lossy(name);
                parse(&name, row).map(|row| row.info(&name))
            })
            .collect()
    }

    /// `None`: there is none by that name.
    pub(super) async fn open(&self, name: &str) -> Result<Option<(u64, Secret)>> {
        let held = self.store.read(Table::Secrets, name.as_bytes()).await.map_err(failed)?;
        let Some(row) = held.map(|held| parse(name, &held)).transpose()? else { return Ok(None) };
        let key = self.ring.numbered(row.key, PURPOSE).await?.ok_or_else(|| damaged(name))?;
        Ok(Some((row.version, Secret::new(unsealed(name, &row, &key)?.as_str()))))
    }

    /// Every secret, sealed anew with this key: rows as they are, and as they shall be.
    pub(super) async fn again(&self, (number, key): (u32, Key)) -> Result<(Vec<Op>, Vec<Op>)> {
        let (mut expected, mut batch) = (Vec::new(), Vec::new());
        let rows = self.store.scan(Table::Secrets, b"", None, MOST_SECRETS).await.map_err(failed)?;
        let key = crate::keyring::derived(&key, PURPOSE);
        for (name, held) in rows {
            let text = String::from_utf8_lossy(&name).into_owned();
            let row = parse(&text, &held)?;
            let old = self.ring.numbered(row.key, PURPOSE).await?.ok_or_else(|| damaged(&text))?;
            let plain = unsealed(&text, &row, &old)?;
            let mut fresh = self.sealed(&text, row.version, &plain, (number, key.clone()))?;
            fresh.changed = row.changed;
            batch.push(Op::put(Table::Secrets, name.clone(), bytes(&fresh)?));
            expected.push(Op { table: Table::Secrets, key: name, value: Some(held) });
        }
        Ok((expected, batch))
    }

    fn sealed(&self, name: &str, version: u64, text: &str, (number, key): (u32, Key)) -> Result<Row> {
        let sealed = AtRest::new(&key)?.seal(&bound(name, version), text.as_bytes())?;
        let hints = hmac::Key::new(hmac::HMAC_SHA256, &*self.ring.secret_for(HINTS));
        let hint = hex::encode(&hmac::sign(&hints, text.as_bytes()).as_ref()[..4]);
        Ok(Row { version, changed: now(), hint, key: number, sealed: STANDARD.encode(sealed) })
    }
}

impl Row {
    fn info(&self, name: &str) -> Info {
        Info { name: name.to_owned(), version: self.version, changed: self.changed.clone(), hint: self.hint.clone() }
    }
}

fn unsealed(name: &str, row: &Row, key: &Key) -> Result<Zeroizing<String>> {
    let bytes = STANDARD.decode(&row.sealed).map_err(|_| damaged(name))?;
    let plain = AtRest::new(key)?.open(&bound(name, row.version), bytes).ok_or_else(|| damaged(name))?;
    String::from_utf8(plain).map(Zeroizing::new).map_err(|_| damaged(name))
}

/// No secret opens under another name, or as another version.
fn bound(name: &str, version: u64) -> Vec<u8> {
    format!("portcullis stored secret\n{name}\n{version}").into_bytes()
}

fn fine(name: &str) -> Result<()> {
    let message = "a secret's name has 1 to 100 letters, digits, `-`, `_` and `.`";
    if fine_name(name) { Ok(()) } else { Err(Error::invalid("name", message)) }
}

fn bytes(row: &Row) -> Result<Vec<u8>> {
    serde_json::to_vec(row).map_err(|e| Error::new(Kind::Internal, "the secret's row could not be written").because(e))
}

fn parse(name: &str, held: &[u8]) -> Result<Row> {
    serde_json::from_slice(held).map_err(|_| damaged(name))
}

fn damaged(name: &str) -> Error {
    let message = format!("the stored secret {name:?} is damaged, or another one's: set it again");
    Error::new(Kind::Internal, message).with_code("secret_damaged")
}

fn failed(error: StoreError) -> Error {
    let status = error.status();
    let code = if status == 507 { "store_full" } else { "store_failed" };
    Error::new(Kind::Internal, error.to_string()).with_status(status).with_code(code).because(error)
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

const PURPOSE: &str = "stored secrets";
const HINTS: &str = "hints of stored secrets";
const MOST_VALUE: usize = 32 << 10;
/// That a rotation seals anew in one batch.
const MOST_SECRETS: usize = 10_000;
