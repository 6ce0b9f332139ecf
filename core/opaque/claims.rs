//! Who charges a batch: the first request that sees its end, and no other one, whatever runs at the same time or is killed. A
//! claim is a row of the store that names the request; the charge is that request's record in the ledger. Remembers which
//! batches nobody has seen the end of. Says nothing about what a batch costs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    account::Ledger,
    auth::Principal,
    seal::{Tenant, Thing},
    store::{Op, Result, Store, StoreError, Table, hex},
};

/// A batch whose end nobody has seen, and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    pub row: Vec<u8>,
    /// Its id as its owner knows it.
    pub batch: String,
    pub key: String,
    pub team: Option<String>,
    pub user: Option<String>,
    /// Seconds since 1970.
    pub since: u64,
}

impl Open {
    /// It is an answer that is made in the background, and no batch.
    pub fn is_answer(&self) -> bool {
        self.batch.starts_with(Thing::Response.prefix())
    }
}

pub struct Claims {
    store: Arc<dyn Store>,
    /// `None` in a rehearsal.
    ledger: Option<Arc<Ledger>>,
    /// This process. What it claimed it charges; of a claim by another one that may have been killed in between, the ledger
    /// knows.
    boot: String,
}

impl Claims {
    pub fn new(store: Arc<dyn Store>, ledger: Option<Arc<Ledger>>) -> Result<Claims> {
        let mut boot = [0; 8];
        aws_lc_rs::rand::fill(&mut boot).map_err(|_| StoreError::Io {
            path: "claims".into(),
            source: std::io::Error::other("no random numbers"),
        })?;
        Ok(Claims { store, ledger, boot: hex::encode(&boot) })
    }

    /// The batch is this request's to charge. With it goes the note about `output`.
    pub async fn claim(
        &self,
        tenant: Tenant<'_>,
        batch: &str,
        request: &str,
        output: Option<&str>,
        now: SystemTime,
    ) -> Result<bool> {
        let key = key(CHARGED, tenant, batch);
        for _ in 0..TRIES {
            let row = self.store.read(Table::Objects, &key).await?;
            if let Some(row) = &row
                && self.holds(row, now).await
            {
                return Ok(false);
            }
            let node = self.store.node();
            let mine = json!({"request": request, "boot": self.boot, "node": node, "at": seconds(now)}).to_string();
            let expected = vec![Op { table: Table::Objects, key: key.clone(), value: row }];
            let mut ops = vec![Op::put(Table::Objects, key.clone(), mine)];
            ops.push(Op::remove(Table::Objects, self::key(OPEN, tenant, batch)));
            ops.extend(output.map(|file| Op::remove(Table::Objects, self::key(OUTPUT, tenant, file))));
            if self.store.write_if(expected, ops).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A batch is over and tells nothing of what it used: its output will, when it is fetched.
    pub async fn await_output(&self, tenant: Tenant<'_>, batch: &str, file: &str, now: SystemTime) -> Result<()> {
        let charged = self.store.read(Table::Objects, &key(CHARGED, tenant, batch)).await?;
        if let Some(row) = charged
            && self.holds(&row, now).await
        {
            return Ok(());
        }
        let key = key(OUTPUT, tenant, file);
        if self.store.read(Table::Objects, &key).await?.is_some() {
            return Ok(());
        }
        self.store.write(vec![Op::put(Table::Objects, key, batch)]).await
    }

    /// The batch that will be charged when this file is fetched.
    pub async fn of_output(&self, tenant: Tenant<'_>, file: &str) -> Result<Option<String>> {
        let row = self.store.read(Table::Objects, &key(OUTPUT, tenant, file)).await?;
        Ok(row.and_then(|batch| String::from_utf8(batch).ok()))
    }

    /// A batch is under way, which its owner may never ask for again.
    pub async fn opened(&self, principal: &Principal, batch: &str, now: SystemTime) -> Result<()> {
        let Principal { key_id, team, user, .. } = principal;
        let row = json!({"batch": batch, "key": key_id, "team": team, "user": user, "at": seconds(now)}).to_string();
        self.store.write(vec![Op::put(Table::Objects, key(OPEN, Tenant::of(principal), batch), row)]).await
    }

    /// Batches under way, behind the row `after`.
    pub async fn open(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Open>> {
        let prefix = format!("{OPEN}\0").into_bytes();
        let rows = self.store.scan(Table::Objects, &prefix, after, limit).await?;
        let read = |(row, value): (Vec<u8>, Vec<u8>)| {
            let told: Value = serde_json::from_slice(&value).unwrap_or_default();
            let text = |name: &str| told[name].as_str().map(str::to_owned);
            let (batch, key) = (text("batch").unwrap_or_default(), text("key").unwrap_or_default());
            Open { row, batch, key, team: text("team"), user: text("user"), since: told["at"].as_u64().unwrap_or(0) }
        };
        Ok(rows.into_iter().map(read).collect())
    }

    pub async fn is_open(&self, open: &Open) -> Result<bool> {
        Ok(self.store.read(Table::Objects, &open.row).await?.is_some())
    }

    /// Is it noted as under way? Nobody has seen its end.
    pub async fn is_under_way(&self, tenant: Tenant<'_>, batch: &str) -> Result<bool> {
        Ok(self.store.read(Table::Objects, &key(OPEN, tenant, batch)).await?.is_some())
    }

    /// It is over and cost nothing.
    pub async fn nothing_owed(&self, tenant: Tenant<'_>, batch: &str) -> Result<()> {
        self.store.write(vec![Op::remove(Table::Objects, key(OPEN, tenant, batch))]).await
    }

    /// There is nothing to charge any more.
    pub async fn close(&self, open: &Open) -> Result<()> {
        self.store.write(vec![Op::remove(Table::Objects, open.row.clone())]).await
    }

    /// Does the claim stand? One that another process made stands if its charge is in the ledger. Where that cannot be known
    /// any more it stands, too: better a charge too few than one too many.
    async fn holds(&self, row: &[u8], now: SystemTime) -> bool {
        let claim: Value = serde_json::from_slice(row).unwrap_or_default();
        let (Some(request), Some(at)) = (claim["request"].as_str(), claim["at"].as_u64()) else { return true };
        if claim["boot"].as_str() == Some(&self.boot) || seconds(now).saturating_sub(at) > REMEMBERED.as_secs() {
            return true;
        }
        // Another gateway's records are its own: its claim stands.
        if claim["node"].as_str() != self.store.node() {
            return true;
        }
        match &self.ledger {
            Some(ledger) => !matches!(ledger.request(request).await, Ok(None)),
            None => false,
        }
    }
}

/// A name holds no zero byte, so that none is another one's beginning.
fn key(what: &str, tenant: Tenant<'_>, id: &str) -> Vec<u8> {
    let (kind, name) = match tenant {
        Tenant::Team(name) => ("team", name),
        Tenant::Key(name) => ("key", name),
    };
    format!("{what}\0{kind}\0{name}\0{id}").into_bytes()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

const CHARGED: &str = "charged";
const OUTPUT: &str = "output";
const OPEN: &str = "open";
/// Records are kept for an hour at least.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Somebody else was faster, so often.
const TRIES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::Memory, telemetry::Ring};

    const LAB: Tenant<'static> = Tenant::Team("lab");

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    async fn claims(store: &Arc<dyn Store>) -> Claims {
        let ledger = Ledger::open(store.clone(), Arc::new(Ring::default()), noon).await.expect("a ledger");
        Claims::new(store.clone(), Some(ledger)).expect("claims")
    }

    fn store() -> Arc<dyn Store> {
        Arc::new(Memory::default())
    }

    #[tokio::test]
    async fn of_many_at_once_one_charges() {
        let store = store();
        let claims = claims(&store).await;
        let tries = (0..20).map(|n| {
            let claims = &claims;
            async move { claims.claim(LAB, "batch_1", &format!("req_{n}"), None, noon()).await.expect("a claim") }
        });
        let won = futures_util::future::join_all(tries).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        assert!(
            claims.claim(Tenant::Key("lab"), "batch_1", "req_x", None, noon()).await.expect("a claim"),
            "another's"
        );
        assert!(claims.claim(LAB, "batch_2", "req_x", None, noon()).await.expect("a claim"), "another batch");
    }

    #[tokio::test]
    async fn a_claim_whose_charge_a_kill_lost_is_made_again_once() {
        let store = store();
        assert!(claims(&store).await.claim(LAB, "batch_1", "req_1", None, noon()).await.expect("a claim"));
        // The next process finds no such record.
        let next = claims(&store).await;
        assert!(next.claim(LAB, "batch_1", "req_2", None, noon()).await.expect("a claim"));
        assert!(!next.claim(LAB, "batch_1", "req_3", None, noon()).await.expect("a claim"));
        // What is too old to be looked up stays.
        let later = noon() + REMEMBERED + Duration::from_secs(1);
        assert!(!claims(&store).await.claim(LAB, "batch_1", "req_4", None, later).await.expect("a claim"));
    }

    #[tokio::test]
    async fn a_batch_is_open_until_it_is_charged_or_has_nothing_to_charge() {
        let store = store();
        let claims = claims(&store).await;
        let mine = Principal { key_id: "key_1".into(), team: Some("lab".into()), ..Principal::default() };
        claims.opened(&mine, "batch_1", noon()).await.expect("noted");
        claims.opened(&mine, "batch_2", noon()).await.expect("noted");
        let open = claims.open(None, 10).await.expect("a list");
        let names: Vec<_> = open.iter().map(|o| (o.batch.as_str(), o.key.as_str(), o.team.as_deref())).collect();
        assert_eq!(names, [("batch_1", "key_1", Some("lab")), ("batch_2", "key_1", Some("lab"))]);
        assert_eq!(claims.open(Some(&open[0].row), 10).await.expect("a list"), open[1..]);
        assert!(claims.claim(LAB, "batch_1", "req_1", None, noon()).await.expect("a claim"));
        assert!(!claims.is_open(&open[0]).await.expect("a look"));
        claims.close(&open[1]).await.expect("closed");
        assert!(claims.open(None, 10).await.expect("a list").is_empty());
    }

    #[tokio::test]
    async fn an_output_waits_for_its_batch_until_that_is_charged() {
        let store = store();
        let claims = claims(&store).await;
        let waits = async |tenant| claims.of_output(tenant, "file-1").await.expect("a look");
        assert_eq!(waits(LAB).await, None);
        claims.await_output(LAB, "batch_1", "file-1", noon()).await.expect("noted");
        assert_eq!((waits(LAB).await.as_deref(), waits(Tenant::Key("lab")).await), (Some("batch_1"), None));
        assert!(claims.claim(LAB, "batch_1", "req_1", Some("file-1"), noon()).await.expect("a claim"));
        claims.await_output(LAB, "batch_1", "file-1", noon()).await.expect("not noted again");
        assert_eq!(waits(LAB).await, None);
    }
}
