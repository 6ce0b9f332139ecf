//! Budgets that are raised for a while: durable rows, and in memory what is in force. A raise ends by the wall clock, within a
//! second of its time, and what was spent beyond the budget by then stays spent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{MOST_NANO_USD, Per, Scope},
    error::{Error, Kind, Result},
    store::{Op, Store, StoreError, Table},
};

/// One raise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raise {
    pub id: String,
    pub scope: Scope,
    /// `None`: each budget of the scope.
    pub per: Option<Per>,
    pub nano_usd: u64,
    /// Unix seconds.
    pub made: u64,
    pub until: u64,
    pub reason: String,
}

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct NewRaise {
    pub scope: Scope,
    pub per: Option<Per>,
    pub nano_usd: u64,
    pub until: SystemTime,
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per: Option<String>,
    nano_usd: u64,
    made: u64,
    until: u64,
    reason: String,
}

/// Those in force, by id.
#[derive(Debug, Default)]
pub struct Raises(Mutex<BTreeMap<String, Arc<Raise>>>);

impl Raises {
    pub async fn load(&self, store: &dyn Store) -> anyhow::Result<()> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.scan(Table::Raises, b"", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, value) in page {
                let raise = read(&key, &value)?;
                self.lock().insert(raise.id.clone(), Arc::new(raise));
            }
        }
    }

    /// A row that another gateway on the same store wrote or removed.
    pub async fn refresh(&self, store: &dyn Store, key: &[u8]) -> anyhow::Result<()> {
        let found = store.read(Table::Raises, key).await?;
        let raise = found.map(|value| read(key, &value)).transpose()?;
        match raise {
            Some(raise) => drop(self.lock().insert(raise.id.clone(), Arc::new(raise))),
            None => drop(self.lock().remove(&*String::from_utf8_lossy(key))),
        }
        Ok(())
    }

    /// Durable before it counts.
    pub async fn add(&self, store: &dyn Store, new: NewRaise, now: SystemTime) -> Result<Arc<Raise>> {
        let NewRaise { scope, per, nano_usd, until, reason } = new;
        let reason = reason.trim().to_owned();
        if nano_usd == 0 || nano_usd > MOST_NANO_USD {
            let most = MOST_NANO_USD / 1_000_000_000;
            return Err(Error::invalid("usd", format!("a raise is more than 0 and at most {most} dollars")));
        }
        if until <= now {
            return Err(Error::invalid("until", "that time has passed: a raise ends in the future"));
        }
        if until > now + LONGEST {
            return Err(Error::invalid("until", "a raise lasts 366 days at most: change the budget itself for longer"));
        }
        if reason.is_empty() || reason.len() > MOST_REASON || reason.chars().any(char::is_control) {
            let message =
                format!("say why, in 1 to {MOST_REASON} printable bytes: whoever looks at the spend will ask");
            return Err(Error::invalid("reason", message));
        }
        if self.lock().len() >= MOST_RAISES {
            return Err(Error::invalid("scope", format!("{MOST_RAISES} raises are in force: end some first")));
        }
        let raise = Raise { id: new_id(now)?, scope, per, nano_usd, made: seconds(now), until: seconds(until), reason };
        store.write(vec![put(&raise)?]).await.map_err(failed)?;
        let raise = Arc::new(raise);
        self.lock().insert(raise.id.clone(), raise.clone());
        Ok(raise)
    }

    /// Before its time.
    pub async fn end(&self, store: &dyn Store, id: &str) -> Result<Arc<Raise>> {
        let known = self.lock().get(id).cloned();
        let Some(raise) = known else {
            let message = format!("there is no raise {id:?} in force; GET /api/v1/budgets/raises lists them");
            return Err(Error::new(Kind::NotFound, message).at("id"));
        };
        store.write(vec![Op::remove(Table::Raises, id.as_bytes())]).await.map_err(failed)?;
        self.lock().remove(id);
        Ok(raise)
    }

    pub fn list(&self, now: SystemTime) -> Vec<Arc<Raise>> {
        let now = seconds(now);
        self.lock().values().filter(|raise| now < raise.until).cloned().collect()
    }

    /// What a budget is raised by now.
    pub fn of(&self, scope: &Scope, per: Per, now: SystemTime) -> u64 {
        let now = seconds(now);
        let raises = self.lock();
        let mine = raises.values().filter(|raise| {
            // A clock that went back to before it was made finds it all the same.
            raise.scope == *scope && raise.per.is_none_or(|own| own == per) && now < raise.until
        });
        mine.fold(0u64, |sum, raise| sum.saturating_add(raise.nano_usd)).min(MOST_NANO_USD)
    }

    /// Out of the memory; says which rows nobody needs any more: those that ended long ago, whatever clock says so.
    pub fn forget_past(&self, now: SystemTime) -> Vec<String> {
        let ended = now.checked_sub(KEEP).map_or(0, seconds);
        let mut raises = self.lock();
        let gone: Vec<String> = raises.values().filter(|r| r.until < ended).map(|r| r.id.clone()).collect();
        gone.iter().for_each(|id| drop(raises.remove(id)));
        gone
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Raise>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(raise: &Raise) -> Result<Op> {
    let row = Row {
        scope: raise.scope.to_string(),
        per: raise.per.map(|per| per.name().to_owned()),
        nano_usd: raise.nano_usd,
        made: raise.made,
        until: raise.until,
        reason: raise.reason.clone(),
    };
    let value = serde_json::to_vec(&row).map_err(|e| Error::new(Kind::Internal, "a raise has no row").because(e))?;
    Ok(Op::put(Table::Raises, raise.id.as_bytes(), value))
}

fn read(key: &[u8], value: &[u8]) -> anyhow::Result<Raise> {
    let id = String::from_utf8(key.to_vec())?;
    let Row { scope, per, nano_usd, made, until, reason } = serde_json::from_slice(value)?;
    let known = |scope: &str| Scope::parse(scope).ok_or_else(|| anyhow::anyhow!("raise {id}: no scope {scope:?}"));
    let scope = known(&scope)?;
    let per = per.map(|per| Per::named(&per).ok_or_else(|| anyhow::anyhow!("raise {id}: no window {per:?}")));
    Ok(Raise { scope, per: per.transpose()?, nano_usd, made, until, reason, id })
}

/// `raise_`, the time in milliseconds and 32 random bits, hex: ids sort by age.
fn new_id(now: SystemTime) -> Result<String> {
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let mut random = [0; 4];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::new(Kind::Internal, "the system gives no randomness"))?;
    Ok(format!("raise_{:012x}{:08x}", millis & 0xffff_ffff_ffff, u32::from_be_bytes(random)))
}

/// A full disk is 507, as for keys.
fn failed(error: StoreError) -> Error {
    let status = error.status();
    let code = if status == 507 { "store_full" } else { "store_failed" };
    let message = format!("the raise could not be kept, and does not count: {error}");
    Error::new(Kind::Internal, message).with_status(status).with_code(code)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

const PAGE: usize = 500;
const MOST_RAISES: usize = 10_000;
const MOST_REASON: usize = 500;
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// A clock that went ahead and came back finds what it had ended.
const KEEP: Duration = Duration::from_secs(2 * 86_400);
