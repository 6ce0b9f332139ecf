//! Tokens of the gateway's own identities at clouds: fetched once for all requests, kept, and renewed ahead of their end
//! without anybody waiting. Calls go out through the upstream client, as the gateway's own (`Class::System` in kind: they
//! cost nobody tokens). What a token is and how one is asked for stands in `provider::sign`.

#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    config::sources,
    error::{Error, Kind, Result},
    provider::{
        Granted, Provider,
        sign::{Answer, Ask, Outside, Reach},
    },
    upstream::{Client, Egress, Outgoing, SendLimits},
};

/// Survives every reload: a source is known by what it holds.
pub struct Tokens {
    client: Client,
    slots: DashMap<[u8; 16], Arc<Slot>>,
}

/// One source's token, and who is at it.
#[derive(Default)]
struct Slot {
    current: ArcSwapOption<Kept>,
    state: Mutex<State>,
}

struct Kept {
    granted: Granted,
    since: Instant,
    /// From then on a new one is fetched, while this one is used.
    renew: Instant,
    until: Instant,
}

#[derive(Default)]
struct State {
    /// The fetch that runs, and where its end is heard.
    running: Option<watch::Receiver<Option<Outcome>>>,
    /// The last one failed: until then nobody tries again.
    rest: Option<(Instant, Arc<Error>)>,
    /// In a row.
    failures: u32,
}

type Outcome = Result<Arc<Kept>, Arc<Error>>;

impl Tokens {
    pub fn new(client: Client) -> Tokens {
        Tokens { client, slots: DashMap::new() }
    }

    /// The token for a request to this provider; `None` where its proof is a key. Waits only where there is no valid one,
    /// and then together with all others.
    pub async fn of(&self, provider: &Arc<Provider>) -> Result<Option<Granted>> {
        let Some(source) = &provider.source else { return Ok(None) };
        let slot = self.slots.entry(source.print()).or_default().clone();
        let now = Instant::now();
        if let Some(kept) = slot.current.load_full().filter(|kept| now < kept.until) {
            if now >= kept.renew {
                // Nobody waits for it, and a failure shows only when the old one has ended.
                let _ = self.begin(&slot, provider, now);
            }
            return Ok(Some(kept.granted.clone()));
        }
        let mut end = self.begin(&slot, provider, now).map_err(|error| error.copy())?;
        loop {
            if let Some(outcome) = &*end.borrow_and_update() {
                return match outcome {
                    Ok(kept) => Ok(Some(kept.granted.clone())),
                    Err(error) => Err(error.copy()),
                };
            }
            if end.changed().await.is_err() {
                return Err(Error::new(
                    Kind::UpstreamAuth,
                    "the gateway's login at this model's provider was broken off",
                ));
            }
        }
    }

    /// The provider refused a token. One that is not brand-new is forgotten: says whether a new one is worth a try.
    pub fn refused(&self, provider: &Provider) -> bool {
        let Some(slot) = provider.source.as_ref().and_then(|s| self.slots.get(&s.print()).map(|slot| slot.clone()))
        else {
            return false;
        };
        let now = Instant::now();
        let old = slot.current.load_full().filter(|kept| now.duration_since(kept.since) >= YOUNG);
        let Some(old) = old else { return false };
        // Only if nobody renewed it meanwhile.
        let seen = slot.current.compare_and_swap(&Some(old.clone()), None);
        seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &old))
    }

    /// Joins the fetch that runs, or starts one in a task of its own: a request that leaves takes nothing from the others.
    fn begin(
        &self,
        slot: &Arc<Slot>,
        provider: &Arc<Provider>,
        now: Instant,
    ) -> Result<watch::Receiver<Option<Outcome>>, Arc<Error>> {
        let mut state = lock(&slot.state);
        if let Some(running) = &state.running {
            return Ok(running.clone());
        }
        if let Some((until, error)) = &state.rest
            && now < *until
        {
            return Err(error.clone());
        }
        let (told, end) = watch::channel(None);
        state.running = Some(end.clone());
        drop(state);
        let (slot, provider, client) = (slot.clone(), provider.clone(), self.client.clone());
        tokio::spawn(async move {
            let outcome = fetch(&client, &provider).await;
            let mut state = lock(&slot.state);
            match &outcome {
                Ok(kept) => {
                    slot.current.store(Some(kept.clone()));
                    (state.failures, state.rest) = (0, None);
                }
                Err(error) => {
                    tracing::warn!(provider = %provider.name, %error, "no token");
                    let wait = FIRST_WAIT.saturating_mul(1 << state.failures.min(5)).min(MOST_WAIT);
                    state.failures = state.failures.saturating_add(1);
                    state.rest = Some((Instant::now() + wait, error.clone()));
                }
            }
            state.running = None;
            drop(state);
            // Who joined while it ran hears it; who comes later finds it kept.
            let _ = told.send(Some(outcome));
        });
        Ok(end)
    }
}

async fn fetch(client: &Client, provider: &Provider) -> Outcome {
    let source = provider.source.as_ref().ok_or_else(|| Arc::new(Error::new(Kind::Internal, "no source of tokens")))?;
    let outside = Network { client: client.clone() };
    let granted = tokio::time::timeout(PATIENCE, source.grant(&outside)).await.unwrap_or_else(|_| {
        let message = format!(
            "the gateway could not log in at {}: no answer within {} s; its operator has to look at it",
            provider.name,
            PATIENCE.as_secs()
        );
        Err(Error::new(Kind::UpstreamAuth, message))
    })?;
    let (since, life) = (Instant::now(), granted.lifetime);
    Ok(Arc::new(Kept {
        granted,
        since,
        renew: since + life.saturating_sub((life / 4).min(AHEAD)),
        until: since + life.saturating_sub((life / 10).min(MARGIN)),
    }))
}

/// The upstream client, as a login uses it.
struct Network {
    client: Client,
}

impl Outside for Network {
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, String>> {
        Box::pin(async move {
            let Ask { method, url, headers, body, reach } = ask;
            let egress = match reach {
                Reach::Host => Egress::of_provider(url.host().unwrap_or_default(), false),
                Reach::Machine => Egress::of_machine(url.host().unwrap_or_default()),
            };
            let body = vec![body].into();
            let out = Outgoing { method, url, headers, body, egress, trust: None, http2: None };
            let limits = SendLimits { connect: CONNECT };
            let incoming = self.client.send(out, &limits).await.map_err(|e| e.message.clone())?;
            let status = incoming.status.as_u16();
            let body = incoming.body.collect(MOST_ANSWER, &mut |_| Ok(())).await.map_err(|e| e.message.clone())?;
            Ok(Answer { status, body })
        })
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        match sources::text(path, MOST_FILE) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err("is not there".to_owned()),
            Err(why) => Err(why),
        }
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So long before its end a token is renewed; a short-lived one in the last quarter of its life.
const AHEAD: Duration = Duration::from_secs(300);
/// What is left then is not worth a try.
const MARGIN: Duration = Duration::from_secs(10);
/// A token that is refused right after it was made would be refused again.
const YOUNG: Duration = Duration::from_secs(60);
/// Of one login, all its calls together.
const PATIENCE: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);
/// After a failure; doubled with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(30);
const MOST_ANSWER: u64 = 256 << 10;
const MOST_FILE: u64 = 64 << 10;
