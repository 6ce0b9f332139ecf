//! Limits and budgets that several gateways count together: claims as the shared store's counters take them, what became of
//! them in batches behind the requests, and what is done while the store does not answer. Then either nothing goes on that
//! would have to be counted, or a bounded part of what was left when it answered last; never more.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Budgets, Limits,
    outage::{Outage, Part},
    shared::{Desk, Down, Shared},
};
use crate::{
    config::{self, OnOutage, StoreKind},
    error::Result,
    store::{
        Counters, Store, StoreError,
        counters::{Claim, Counter, Held, Id, Left, Outcome, Settled, Standing},
    },
};

#[derive(Debug)]
pub struct Fleet {
    counters: Arc<dyn Counters>,
    policy: OnOutage,
    /// What was left, and what is given out while nobody counts.
    outage: Mutex<Outage>,
    /// The last claim got no answer.
    away: AtomicBool,
    queue: mpsc::UnboundedSender<Ended>,
    renewals: mpsc::UnboundedSender<(Vec<Held>, Duration)>,
}

/// What is still to be written down.
#[derive(Debug)]
struct Ended {
    settled: Vec<Settled>,
    /// What of it was given out without the store: it knows of that from then on.
    parts: Vec<Part>,
}

/// The other end of the queues, to be run beside the requests.
pub struct Books {
    counters: Arc<dyn Counters>,
    desk: Arc<Desk>,
    fleet: std::sync::Weak<Fleet>,
    queue: mpsc::UnboundedReceiver<Ended>,
    renewals: mpsc::UnboundedReceiver<(Vec<Held>, Duration)>,
    sender: String,
}

/// Who counts: this process alone, or all that share the store; then with what has to run beside it.
pub fn counting(store: &dyn Store, config: &config::Store, budgets: &Arc<Budgets>) -> Result<(Limits, Option<Books>)> {
    let (StoreKind::Redis(redis), Some(counters)) = (&config.kind, store.counters()) else {
        return Ok((Limits::new(budgets.clone()), None));
    };
    let (desk, books) = Fleet::open(counters, redis.on_outage, redis.lease)?;
    Ok((Limits::shared(budgets.clone(), desk), Some(books)))
}

impl Fleet {
    pub fn open(counters: Arc<dyn Counters>, policy: OnOutage, lease: Duration) -> Result<(Arc<Desk>, Books)> {
        let (queue, ended) = mpsc::unbounded_channel();
        let (renewals, renewed) = mpsc::unbounded_channel();
        let fleet = Arc::new(Fleet {
            counters: counters.clone(),
            policy,
            outage: Mutex::default(),
            away: AtomicBool::new(false),
            queue,
            renewals,
        });
        // Of this process: batches are numbered within it.
        let sender = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let weak = Arc::downgrade(&fleet);
        let desk = Desk::new(fleet, lease)?;
        let books = Books { counters, desk: desk.clone(), fleet: weak, queue: ended, renewals: renewed, sender };
        Ok((desk, books))
    }

    async fn ask(&self, claim: &Claim) -> std::result::Result<Outcome, Down> {
        match self.counters.take(claim).await {
            Ok(outcome) => {
                self.answers();
                if let (OnOutage::Lease(_), Outcome::Taken(left)) = (self.policy, &outcome) {
                    self.outage().saw(&claim.wants, left);
                }
                Ok(outcome)
            }
            Err(error) => {
                let Some(left) = self.alone(claim, &error) else {
                    self.take_back(claim, &error);
                    return Err(Down(error.to_string()));
                };
                Ok(Outcome::Taken(left))
            }
        }
    }

    /// What this gateway may give out without the store.
    fn alone(&self, claim: &Claim, error: &StoreError) -> Option<Vec<Left>> {
        let first = self.is_away(error);
        let OnOutage::Lease(share) = self.policy else { return None };
        let mut outage = self.outage();
        if first {
            outage.begin();
        }
        outage.take(claim.id, &claim.wants, share / self.counters.gateways().max(1) as f64)
    }

    /// It was refused here, and the store may yet take it when it wakes up: what is held by id is let go. What knows no ids stays
    /// counted, because giving back what was never taken would be worse.
    fn take_back(&self, claim: &Claim, error: &StoreError) {
        let fresh = claim.wants.iter().all(|want| want.has == 0);
        if !fresh || !matches!(error, StoreError::Unanswered { .. }) {
            return;
        }
        let held = claim.wants.iter().filter(|want| want.counter.form.has_lease());
        let settled = held.map(|want| Settled { id: claim.id, counter: want.counter.clone(), had: 0, used: None });
        let _ = self.queue.send(Ended { settled: settled.collect(), parts: Vec::new() });
    }

    /// It did not answer; `true`: for the first time.
    fn is_away(&self, error: &StoreError) -> bool {
        let first = !self.away.swap(true, Ordering::Relaxed);
        if first {
            let policy = match self.policy {
                OnOutage::Refuse => "requests with a limit or a budget are refused".to_owned(),
                OnOutage::Lease(share) => format!("{share} of what was left is given out"),
            };
            tracing::error!(%error, policy, "limits and budgets cannot be counted together");
        }
        first
    }

    fn answers(&self) {
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("limits and budgets are counted together again");
        }
    }

    fn outage(&self) -> std::sync::MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared for Fleet {
    fn take<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, std::result::Result<Outcome, Down>> {
        Box::pin(self.ask(claim))
    }

    fn settle(&self, id: Id, mut settled: Vec<Settled>) {
        let parts = match self.policy {
            OnOutage::Refuse => Vec::new(),
            OnOutage::Lease(_) => self.outage().ended(id),
        };
        let own = |name: &str| parts.iter().filter(|part| part.counter == name).map(|part| part.amount).sum::<u64>();
        for item in &mut settled {
            // What the store never knew of it cannot take back.
            item.had = item.had.saturating_sub(own(&item.counter.name));
        }
        // What was used as it was taken is counted already.
        settled.retain(|item| item.counter.form.has_lease() || item.used != Some(item.had));
        let _ = self.queue.send(Ended { settled, parts });
    }

    fn renew(&self, held: Vec<Held>, lease: Duration) {
        let _ = self.renewals.send((held, lease));
    }

    fn look<'a>(&'a self, counter: &'a Counter) -> BoxFuture<'a, std::result::Result<Standing, Down>> {
        Box::pin(async move { self.counters.look(counter).await.map_err(|error| Down(error.to_string())) })
    }
}

impl Books {
    /// Until `stop`, and then until all is written down or the store is given up.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut number = 0;
        let mut renewal = tokio::time::interval(self.desk.lease() / 3);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = renewal.tick() => self.desk.renew(),
                renewal = self.renewals.recv() => match renewal {
                    Some((held, lease)) => {
                        // The next one comes before the lease is over.
                        let _ = self.counters.renew(&held, lease).await;
                    }
                    None => return,
                },
                first = self.queue.recv() => {
                    let Some(first) = first else { return };
                    // A moment, so that those who end together are written down together.
                    tokio::time::sleep(TOGETHER).await;
                    let mut batch = vec![first];
                    while batch.len() < MOST_TOGETHER && let Ok(more) = self.queue.try_recv() {
                        batch.push(more);
                    }
                    number += 1;
                    self.write(number, batch, &stop).await;
                }
                () = stop.cancelled(), if self.queue.is_empty() => return,
            }
        }
    }

    /// The same batch again and again, until it is taken: then it counts, once.
    async fn write(&mut self, number: u64, batch: Vec<Ended>, stop: &CancellationToken) {
        let mut settled = Vec::new();
        let mut parts = Vec::new();
        for ended in batch {
            settled.extend(ended.settled);
            parts.extend(ended.parts);
        }
        let mut rest = RETRY;
        let mut stopped = None;
        loop {
            match self.counters.settle(&self.sender, number, &settled).await {
                Ok(()) => break,
                Err(error) => {
                    let now = tokio::time::Instant::now();
                    let until = *stopped.get_or_insert(now + LAST_WORDS);
                    if !stop.is_cancelled() {
                        stopped = None;
                    } else if now >= until {
                        let requests = settled.len();
                        tracing::error!(%error, requests, "what the last requests used could not be counted before the end");
                        return;
                    }
                }
            }
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(RETRY_MOST);
        }
        if let Some(fleet) = self.fleet.upgrade().filter(|_| !parts.is_empty()) {
            fleet.outage().known(&parts);
        }
    }
}

const TOGETHER: Duration = Duration::from_millis(5);
const MOST_TOGETHER: usize = 256;
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// At the end of the process, for a store that does not answer.
const LAST_WORDS: Duration = Duration::from_secs(3);
