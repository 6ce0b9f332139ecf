//! Limits and budgets that several gateways count together: claims as the shared store's counters take them, what became of
//! them in batches behind the requests, and what is done while the store does not answer. Then either nothing goes on that
//! would have to be counted, or a bounded part of what was left when it answered last; never more.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};
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
        counters::{Claim, Counter, Form, Held, Id, Left, Outcome, Settled, Standing},
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
    unwritten: Mutex<Unwritten>,
    wrote: Notify,
}

/// What was handed in and the store does not know yet: a client that asks again at once must not be refused for its own last
/// request.
#[derive(Debug, Default)]
struct Unwritten {
    handed: u64,
    written: u64,
    /// By a hash of the counter's name.
    behind: HashMap<u64, Behind>,
}

#[derive(Debug, Default)]
struct Behind {
    /// Which of those handed in was its last.
    last: u64,
    ended: u32,
    /// Requests that ask once more when that is written: no more than ended.
    waiting: u32,
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
            unwritten: Mutex::default(),
            wrote: Notify::new(),
        });
        // Of this process: batches are numbered within it.
        let sender = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let weak = Arc::downgrade(&fleet);
        let desk = Desk::new(fleet, lease)?;
        let books = Books { counters, desk: desk.clone(), fleet: weak, queue: ended, renewals: renewed, sender };
        Ok((desk, books))
    }

    async fn ask(&self, claim: &Claim) -> std::result::Result<Outcome, Down> {
        let known = self.unwritten().written;
        let mut answer = self.counters.take(claim).await;
        if let Ok(Outcome::Refused { at, .. }) = &answer
            && let Some(want) = claim.wants.get(*at)
            && self.was_behind(&want.counter, known).await
        {
            answer = self.counters.take(claim).await;
        }
        match answer {
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
        self.hand_in(Ended { settled: settled.collect(), parts: Vec::new() });
    }

    fn hand_in(&self, ended: Ended) {
        let mut unwritten = self.unwritten();
        unwritten.handed += 1;
        let last = unwritten.handed;
        for item in &ended.settled {
            let behind = unwritten.behind.entry(hash(&item.counter)).or_default();
            behind.last = last;
            behind.ended = behind.ended.saturating_add(1);
        }
        // Under the lock: they are written in this order.
        let _ = self.queue.send(ended);
    }

    fn wrote(&self, count: u64) {
        let mut unwritten = self.unwritten();
        unwritten.written += count;
        let written = unwritten.written;
        unwritten.behind.retain(|_, behind| behind.last + LOOKED_BACK > written);
        drop(unwritten);
        self.wrote.notify_waiters();
    }

    /// The store refused, and did not know all of this gateway's own requests when it was asked: `true` when it does. `known`: so
    /// many were written down then.
    async fn was_behind(&self, counter: &Counter, known: u64) -> bool {
        let last = match self.unwritten().behind.get_mut(&hash(counter)) {
            Some(behind) if behind.last > known && behind.waiting < behind.ended => {
                behind.waiting += 1;
                behind.last
            }
            _ => return false,
        };
        let written = async {
            loop {
                let mut wrote = pin!(self.wrote.notified());
                wrote.as_mut().enable();
                if self.unwritten().written >= last {
                    return;
                }
                wrote.await;
            }
        };
        tokio::time::timeout(SOON, written).await.is_ok()
    }

    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn outage(&self) -> MutexGuard<'_, Outage> {
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
        self.hand_in(Ended { settled, parts });
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
                    // A moment, so that those who end together are written down together; but others wait for places.
                    if !first.settled.iter().any(|item| item.counter.form == Form::Places) {
                        tokio::time::sleep(TOGETHER).await;
                    }
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
        let count = batch.len() as u64;
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
        let Some(fleet) = self.fleet.upgrade() else { return };
        if !parts.is_empty() {
            fleet.outage().known(&parts);
        }
        fleet.wrote(count);
    }
}

fn hash(counter: &Counter) -> u64 {
    let mut hasher = DefaultHasher::new();
    counter.name.hash(&mut hasher);
    hasher.finish()
}

const TOGETHER: Duration = Duration::from_millis(5);
const MOST_TOGETHER: usize = 256;
/// So many are remembered behind the last that was written: one may be written while its store's refusal is on its way.
const LOOKED_BACK: u64 = 1024;
/// Who was refused waits so long for what is on its way to the store.
const SOON: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// At the end of the process, for a store that does not answer.
const LAST_WORDS: Duration = Duration::from_secs(3);
