//! Who sends an alert: one row of the store for each, claimed before the webhook is asked. Whoever sends it shows that he lives by
//! writing the row anew; where that stops another one takes it over. So an alert is sent once, and more than once only where a
//! gateway ends, or loses the store, between the webhook's answer and its row. Clocks of several gateways are not compared: a row
//! is old when it has stood unchanged for a lease before one's own eyes.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use crate::store::{Op, Result, Store, Table};

pub(super) struct Claims {
    store: Arc<dyn Store>,
    /// This process.
    own: String,
    lease: Duration,
    clock: fn() -> Instant,
}

/// The right to send one alert.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claim {
    pub id: String,
    /// As it is sent.
    pub body: String,
    end: Option<u64>,
    beat: u64,
}

pub(super) enum Found {
    Ours(Claim),
    /// Another gateway, or this one before, has sent it or does so now.
    Another,
    /// The store did not answer.
    Nothing,
}

/// What was seen of rows that others have not finished: how they read, and since when.
pub(super) type Seen = HashMap<Vec<u8>, (Vec<u8>, Instant)>;

/// As it lies in the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    by: String,
    /// Grows as long as it is being sent.
    beat: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    done: bool,
    /// Of the budget's window, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    /// Until it is done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    body: String,
}

impl Claims {
    /// `lease`: nothing, where this process alone uses the store.
    pub fn new(store: Arc<dyn Store>, lease: Duration) -> Claims {
        Claims::by(store, lease, Instant::now)
    }

    pub fn by(store: Arc<dyn Store>, lease: Duration, clock: fn() -> Instant) -> Claims {
        Claims { store, own: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)), lease, clock }
    }

    pub async fn take(&self, id: &str, body: String, end: Option<SystemTime>) -> Found {
        let end = end.and_then(|end| end.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
        let claim = Claim { id: id.to_owned(), body, end, beat: 0 };
        let absent = Op::remove(Table::Alerts, id);
        match self.store.write_if(vec![absent], vec![self.put(&claim)]).await {
            Ok(true) => Found::Ours(claim),
            Ok(false) => Found::Another,
            Err(error) => {
                tracing::warn!(%error, id, "an alert is sent without a claim: another gateway may send it too");
                Found::Nothing
            }
        }
    }

    /// Sends under this claim, and says to the others that it is so; stops when another one has taken it over.
    pub async fn hold(&self, mut claim: Claim, sending: impl Future<Output = ()>) {
        let mut beats = interval(self.beat());
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.tick().await;
        tokio::pin!(sending);
        loop {
            tokio::select! {
                () = &mut sending => break,
                _ = beats.tick(), if !self.lease.is_zero() => {
                    if !self.renew(&mut claim).await {
                        return tracing::warn!(id = claim.id, "another gateway has taken over an alert");
                    }
                }
            }
        }
        self.done(&claim).await;
    }

    /// A sign of life; `false`: another one has it.
    pub async fn renew(&self, claim: &mut Claim) -> bool {
        let next = Claim { beat: claim.beat + 1, ..claim.clone() };
        match self.store.write_if(vec![self.put(claim)], vec![self.put(&next)]).await {
            Ok(true) => *claim = next,
            Ok(false) => return false,
            Err(error) => tracing::debug!(%error, "an alert's claim could not be renewed"),
        }
        true
    }

    async fn done(&self, claim: &Claim) {
        let row = Row { by: self.own.clone(), beat: claim.beat, done: true, end: claim.end, body: String::new() };
        if let Err(error) = self.store.write_if(vec![self.put(claim)], vec![put(&claim.id, &row)]).await {
            tracing::warn!(%error, id = claim.id, "that an alert was sent could not be written down: it may be sent again");
        }
    }

    /// Rows that nobody works on any more, claimed; and what is long past goes.
    pub async fn left_behind(&self, seen: &mut Seen) -> Result<Vec<Claim>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (mut taken, mut gone, mut open) = (Vec::new(), Vec::new(), Seen::new());
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(Table::Alerts, b"", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                // One that cannot be read is nobody's to send.
                let Ok(row) = serde_json::from_slice::<Row>(&value) else { continue };
                if row.end.is_some_and(|end| end.saturating_add(KEEP.as_secs()) < now) {
                    gone.push(Op::remove(Table::Alerts, key));
                } else if !row.done && row.by != self.own {
                    let now = (self.clock)();
                    let since = seen.get(&key).filter(|(was, _)| *was == value).map_or(now, |(_, at)| *at);
                    if now.saturating_duration_since(since) < self.lease {
                        open.insert(key, (value, since));
                    } else if let Some(claim) = self.take_over(key, value, row).await? {
                        taken.push(claim);
                    }
                }
            }
        }
        if !gone.is_empty() {
            self.store.write_soft(gone).await?;
        }
        *seen = open;
        Ok(taken)
    }

    async fn take_over(&self, key: Vec<u8>, value: Vec<u8>, row: Row) -> Result<Option<Claim>> {
        let Ok(id) = String::from_utf8(key) else { return Ok(None) };
        let claim = Claim { id, body: row.body, end: row.end, beat: row.beat };
        let was = Op::put(Table::Alerts, claim.id.as_str(), value);
        let ours = self.store.write_if(vec![was], vec![self.put(&claim)]).await?;
        Ok(ours.then_some(claim))
    }

    fn put(&self, claim: &Claim) -> Op {
        let Claim { id, body, end, beat } = claim;
        put(id, &Row { by: self.own.clone(), beat: *beat, done: false, end: *end, body: body.clone() })
    }

    fn beat(&self) -> Duration {
        (self.lease / 3).max(SHORTEST)
    }
}

/// What others, or this gateway before it ended, left behind: looked for now and again, while there is somebody to send it to.
pub(super) fn left(claims: Arc<Claims>, wanted: impl Fn() -> bool + Send) -> impl Stream<Item = Claim> + Send {
    let mut looks = interval(if claims.lease.is_zero() { SELDOM } else { claims.beat() });
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking =
        stream::unfold((claims, wanted, looks, Seen::new()), |(claims, wanted, mut looks, mut seen)| async move {
            looks.tick().await;
            let mut found = Vec::new();
            if wanted() {
                match claims.left_behind(&mut seen).await {
                    Ok(taken) => found = taken,
                    // Others could not show that they live either.
                    Err(error) => {
                        tracing::debug!(%error, "alerts that were left behind could not be looked for");
                        seen.clear();
                    }
                }
            }
            Some((stream::iter(found), (claims, wanted, looks, seen)))
        });
    looking.flatten()
}

fn put(id: &str, row: &Row) -> Op {
    // Plain fields: there is nothing in it that JSON could not say.
    Op::put(Table::Alerts, id, serde_json::to_vec(row).unwrap_or_default())
}

const PAGE: usize = 500;
const SHORTEST: Duration = Duration::from_millis(500);
/// Between looks for what was left behind, where that can only be one's own of before the start.
const SELDOM: Duration = Duration::from_secs(60);
/// After the window's end: a gateway whose clock goes back does not tell it again.
const KEEP: Duration = Duration::from_secs(2 * 86_400);
