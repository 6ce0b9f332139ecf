//! Batches, and answers that are made in the background, that nobody asks for: the gateway asks for them itself, now and then, in their
//! owners' names, so that each is charged soon after its end. An asking is a request like its owner's own, with a record, and the charge is made where theirs would
//! be, once, whoever was faster. It takes no place of its owner's limits and serves nobody.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Principal,
    clock,
    context::Context,
    endpoint::Found,
    error::Result,
    exchange::Exchange,
    gateway::Gateway,
    model::{Format, Operation},
    opaque::claims::Open,
    server::Body,
};

/// Until the gateway stops.
pub async fn look_after(gateway: Arc<Gateway>, stop: CancellationToken) {
    let every = || gateway.runtime.load().config.server.batch_look;
    let mut ticks = interval((every() / 4).clamp(SHORTEST, LONGEST));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = watch.round(&gateway, every()) => {}
        }
    }
}

/// When each batch is asked for next. What is not here was never asked for by this process.
#[derive(Default)]
struct Watch {
    next: HashMap<Vec<u8>, Next>,
}

#[derive(Clone, Copy)]
struct Next {
    at: Instant,
    failed: u32,
}

/// What an asking found.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing more is to be charged.
    Settled,
    UnderWay,
    /// It could not be asked for, or charged.
    Failed,
}

impl Watch {
    async fn round(&mut self, gateway: &Arc<Gateway>, every: Duration) {
        let due = match self.due(gateway, every).await {
            Ok(due) => due,
            Err(error) => {
                tracing::debug!(%error, "open batches cannot be listed now");
                return;
            }
        };
        let looks = due.into_iter().map(|open| async move { (look(gateway, &open).await, open) });
        let mut looks = futures_util::stream::iter(looks).buffer_unordered(AT_ONCE);
        while let Some((seen, open)) = looks.next().await {
            let failed = match seen {
                Seen::Settled => {
                    self.next.remove(&open.row);
                    if let Err(error) = gateway.state.claims.close(&open).await {
                        tracing::debug!(%error, "a batch that is settled stays on the list for now");
                    }
                    continue;
                }
                Seen::UnderWay => 0,
                Seen::Failed => self.next.get(&open.row).map_or(0, |next| next.failed) + 1,
            };
            self.next.insert(open.row, Next { at: Instant::now() + pause(every, failed), failed });
        }
    }

    /// Batches whose time has come; a new one's comes a pause after it was made.
    async fn due(&mut self, gateway: &Gateway, every: Duration) -> Result<Vec<Open>, crate::store::StoreError> {
        let now = Instant::now();
        let age = |open: &Open| {
            SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(open.since)).unwrap_or_default()
        };
        let (mut due, mut after, mut known) = (Vec::new(), None::<Vec<u8>>, HashMap::new());
        loop {
            let page = gateway.state.claims.open(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.row.clone());
            for open in page {
                let next = self.next.get(&open.row).copied();
                if let Some(next) = next {
                    known.insert(open.row.clone(), next);
                }
                let ready = next.map_or_else(|| age(&open) >= every, |next| next.at <= now);
                if ready && due.len() < A_ROUND {
                    due.push(open);
                }
            }
        }
        // What others settled is forgotten.
        self.next = known;
        Ok(due)
    }
}

/// Asks for one batch, and for its output where only that tells what was used.
async fn look(gateway: &Arc<Gateway>, open: &Open) -> Seen {
    let answer = open.is_answer();
    let operation = if answer { Operation::OneResponse } else { Operation::OneBatch };
    let (status, batch) = ask(gateway, open, operation, &open.batch).await;
    let old =
        SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(open.since)).is_ok_and(|age| age > GIVEN_UP);
    match status {
        200 => {}
        // It is gone there, or its provider here.
        404 => return Seen::Settled,
        _ if old => {
            tracing::warn!(
                batch = open.batch,
                status,
                "a batch was never charged: its provider did not tell of it for a month"
            );
            return Seen::Settled;
        }
        _ => return Seen::Failed,
    }
    let told: Value = serde_json::from_slice(&batch).unwrap_or_default();
    match told["status"].as_str() {
        Some("completed" | "expired" | "cancelled") => {}
        Some("incomplete") if answer => {}
        Some("failed") => return Seen::Settled,
        _ if old => return Seen::Settled,
        _ => return Seen::UnderWay,
    }
    let claims = &gateway.state.claims;
    if !claims.is_open(open).await.unwrap_or(true) {
        return Seen::Settled;
    }
    // It is over, and its charge could not be made.
    if answer {
        return Seen::Failed;
    }
    // It did not say what it used: its output does.
    let Some(output) = told["output_file_id"].as_str().filter(|id| !id.is_empty()) else { return Seen::Settled };
    match ask(gateway, open, Operation::FileContent, output).await.0 {
        200 if !claims.is_open(open).await.unwrap_or(true) => Seen::Settled,
        404 => Seen::Settled,
        _ => Seen::Failed,
    }
}

/// The status, and of what is short the body. What is long is read to its end, and not kept.
async fn ask(gateway: &Arc<Gateway>, open: &Open, operation: Operation, id: &str) -> (u16, Vec<u8>) {
    let found = Found::kept(operation, Format::OpenaiChat, id);
    let tags = vec![("asked_by".to_owned(), "the gateway".to_owned())];
    let until = clock::now() + PATIENCE;
    let cx = Context::aside(operation, Format::OpenaiChat, owner(gateway, open), tags, until);
    let mut exchange = Exchange::new(cx, gateway.state.settle.clone(), None);
    let runtime = gateway.runtime.load_full();
    let (inner, limits) = (&mut *exchange, &gateway.state.limits);
    inner.bounds = limits.bounds(&inner.cx.principal, &runtime.config.rules, &inner.cx.tags, inner.cx.now);
    let outcome = match limits.beside(&exchange.bounds) {
        Ok(permit) => {
            exchange.permit = Some(permit);
            gateway.ask_for(&mut exchange, &found).await
        }
        Err(error) => Err(error),
    };
    let response = gateway.deliver(&runtime, exchange, outcome, false).await;
    let status = response.status().as_u16();
    let whole = tokio::time::timeout(PATIENCE, read(response.into_body())).await;
    whole.ok().flatten().map_or((0, Vec::new()), |body| (status, body))
}

/// `None`: it broke off.
async fn read(mut body: Body) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data()
            && kept.len() + data.len() <= MOST
        {
            kept.extend_from_slice(&data);
        }
    }
    Some(kept)
}

/// Whose it is, as they stand today; a key that is gone leaves its team, or its name.
fn owner(gateway: &Gateway, open: &Open) -> Arc<Principal> {
    let auth = &gateway.state.auth;
    let known = auth.owner(&open.key, SystemTime::now()).map(|owner| (*owner).clone()).ok();
    let known = known.or_else(|| auth.member(open.team.as_deref())).unwrap_or_default();
    // Lists of models bind what a caller begins, not what is owed for what they began.
    Arc::new(Principal {
        key_id: open.key.as_str().into(),
        team: open.team.as_deref().map(Arc::from),
        user: open.user.as_deref().map(Arc::from),
        models: Arc::default(),
        ..known
    })
}

/// Each failure in a row doubles it.
fn pause(every: Duration, failed: u32) -> Duration {
    every.saturating_mul(1 << failed.min(6)).min(HOUR.max(every))
}

/// Between two looks at what is due.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Batches are over after a day, and kept for a month.
const GIVEN_UP: Duration = Duration::from_secs(30 * 86_400);
/// For one answer, outputs included.
const PATIENCE: Duration = Duration::from_secs(600);
const PAGE: usize = 500;
const A_ROUND: usize = 64;
const AT_ONCE: usize = 4;
/// Of a body that is kept.
const MOST: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_cannot_be_asked_for_is_asked_for_less_and_less() {
        let every = Duration::from_secs(300);
        let pauses = [0, 1, 2, 3, 4, 60].map(|failed| pause(every, failed).as_secs());
        assert_eq!(pauses, [300, 600, 1200, 2400, 3600, 3600]);
        // An hour is no bound for who looks less often.
        assert_eq!(pause(HOUR * 2, 3), HOUR * 2);
    }
}
