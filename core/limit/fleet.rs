//! Limits and budgets that several gateways count together: claims in the words of the shared store's counters, what became of
//! them in batches behind the requests, and what is done while the store does not answer. Then either nothing goes on that
//! would have to be counted, or a bounded part of what was left when it answered last; never more.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Budgets, Limits, Purse,
    outage::{Outage, Part},
    shared::{Answer, Claim, Counted, Counter, Desk, Down, Id, Left, Settled, Shared, Why},
};
use crate::{
    config::{self, OnOutage, StoreKind},
    error::Result,
    store::{
        Counters, Store, StoreError,
        counters::{self, Form},
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
    renewals: mpsc::UnboundedSender<(Vec<counters::Held>, Duration)>,
}

/// What is still to be written down.
#[derive(Debug)]
struct Ended {
    settled: Vec<counters::Settled>,
    /// What of it was given out without the store: it knows of that from then on.
    parts: Vec<Part>,
}

/// The other end of the queues, to be run beside the requests.
pub struct Books {
    counters: Arc<dyn Counters>,
    desk: Arc<Desk>,
    fleet: std::sync::Weak<Fleet>,
    queue: mpsc::UnboundedReceiver<Ended>,
    renewals: mpsc::UnboundedReceiver<(Vec<counters::Held>, Duration)>,
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

    async fn ask(&self, claim: &Claim) -> std::result::Result<Answer, Down> {
        let now = SystemTime::now();
        let asked = counters::Claim {
            id: id(claim.id),
            lease: claim.lease,
            wants: claim
                .wants
                .iter()
                .map(|want| counters::Want {
                    counter: counter(&want.counter, now),
                    bound: want.bound,
                    has: want.has,
                    wants: want.wants,
                    shadow: want.shadow,
                })
                .collect(),
        };
        match self.counters.take(&asked).await {
            Ok(outcome) => {
                self.answers();
                Ok(self.answer(claim, &asked, outcome, now))
            }
            Err(error) => {
                let granted = self.alone(claim.id, &asked.wants, &error);
                let Some(left) = granted else {
                    self.take_back(asked, &error);
                    return Err(Down(error.to_string()));
                };
                let left = claim.wants.iter().zip(left);
                Ok(Answer::Granted(left.map(|(want, left)| self.left(&want.counter, left, now)).collect()))
            }
        }
    }

    /// What this gateway may give out without the store.
    fn alone(&self, id: Id, wants: &[counters::Want], error: &StoreError) -> Option<Vec<counters::Left>> {
        let first = self.is_away(error);
        let OnOutage::Lease(share) = self.policy else { return None };
        let mut outage = self.outage();
        if first {
            outage.begin();
        }
        outage.take(id, wants, share / self.counters.gateways().max(1) as f64)
    }

    /// It was refused here, and the store may yet take it when it wakes up: what is held by id is let go. What knows no ids stays
    /// counted, because giving back what was never taken would be worse.
    fn take_back(&self, asked: counters::Claim, error: &StoreError) {
        let fresh = asked.wants.iter().all(|want| want.has == 0);
        if !fresh || !matches!(error, StoreError::Unanswered { .. }) {
            return;
        }
        let held = asked.wants.into_iter().filter(|want| matches!(want.counter.form, Form::Places | Form::Money));
        let settled =
            held.map(|want| counters::Settled { id: asked.id.clone(), counter: want.counter, had: 0, used: None });
        let _ = self.queue.send(Ended { settled: settled.collect(), parts: Vec::new() });
    }

    fn answer(&self, claim: &Claim, asked: &counters::Claim, outcome: counters::Outcome, now: SystemTime) -> Answer {
        match outcome {
            counters::Outcome::Refused { at, why } => {
                let counter = claim.wants.get(at).map(|want| &want.counter);
                Answer::Refused { at, why: counter.map_or(Why::TooMuch, |counter| reason(counter, why, now)) }
            }
            counters::Outcome::Taken(left) => {
                if matches!(self.policy, OnOutage::Lease(_)) {
                    self.outage().saw(&asked.wants, &left);
                }
                let left = claim.wants.iter().zip(left);
                Answer::Granted(left.map(|(want, left)| self.left(&want.counter, left, now)).collect())
            }
        }
    }

    fn left(&self, counter: &Counter, left: counters::Left, now: SystemTime) -> Left {
        let full_after = match &counter.window {
            Some(window) => window.ends_in(now).unwrap_or_default(),
            None => left.full_after,
        };
        Left { left: left.left, full_after, denied: left.denied.map(|why| reason(counter, why, now)) }
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
    fn take<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, std::result::Result<Answer, Down>> {
        Box::pin(self.ask(claim))
    }

    fn settle(&self, settled: Settled) {
        let now = SystemTime::now();
        let parts = match self.policy {
            OnOutage::Refuse => Vec::new(),
            OnOutage::Lease(_) => self.outage().ended(settled.id),
        };
        let own = |name: &str| parts.iter().filter(|part| part.counter == name).map(|part| part.amount).sum::<u64>();
        let items = settled.items.iter().map(|item| {
            let counter = counter(&item.counter, now);
            // What the store never knew of it cannot take back.
            let had = item.had.saturating_sub(own(&counter.name));
            counters::Settled { id: id(settled.id), counter, had, used: Some(item.used) }
        });
        // What was used as it was taken is counted already.
        let held = |item: &counters::Settled| matches!(item.counter.form, Form::Places | Form::Money);
        let items = items.filter(|item| held(item) || item.used != Some(item.had)).collect();
        let _ = self.queue.send(Ended { settled: items, parts });
    }

    fn renew(&self, held: Vec<Settled>, lease: Duration) {
        let now = SystemTime::now();
        let held = held.iter().flat_map(|held| {
            let id = id(held.id);
            let leased = held.items.iter().filter(|item| item.counter.counted.has_lease());
            leased.map(move |item| counters::Held { id: id.clone(), counter: counter(&item.counter, now) })
        });
        let _ = self.renewals.send((held.collect(), lease));
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

fn id(id: Id) -> String {
    format!("{:032x}", id.0)
}

/// Its name is its own: the scope's id, which may hold anything, stands last.
pub fn counter(counter: &Counter, now: SystemTime) -> counters::Counter {
    let Counter { scope, counted, window } = counter;
    let form = match counted {
        Counted::Requests | Counted::InputTokens | Counted::OutputTokens | Counted::Tokens => Form::Bucket,
        Counted::DayRequests | Counted::DayTokens | Counted::Quota(_) => Form::Sum,
        Counted::Places => Form::Places,
        Counted::Money(_) => Form::Money,
    };
    let id = window.as_ref().map_or("-", |window| window.id.as_str());
    let keep = window.as_ref().and_then(|window| window.ends_in(now)).map(|ends| (ends + KEEP).as_secs());
    counters::Counter { name: format!("{}:{id}:{}:{}", counted.name(), scope.kind(), scope.id()), form, keep }
}

/// The counter of a budget.
pub(super) fn money(purse: &Purse, now: SystemTime) -> counters::Counter {
    let (scope, window) = (purse.scope.clone(), Some(purse.window.clone()));
    counter(&Counter { scope, counted: Counted::Money(purse.per), window }, now)
}

fn reason(counter: &Counter, why: counters::Why, now: SystemTime) -> Why {
    match why {
        counters::Why::Wait(wait) => Why::Wait(wait),
        counters::Why::TooMuch => Why::TooMuch,
        counters::Why::Held => Why::Held,
        counters::Why::Spent => Why::Spent,
        counters::Why::Reached => {
            let ends = counter.window.as_ref().and_then(|window| window.ends_in(now));
            Why::Wait(ends.unwrap_or(super::denial::A_MOMENT))
        }
    }
}

/// Counters of a window past: requests that began in it may still end.
const KEEP: Duration = Duration::from_secs(2 * 86_400);
const TOGETHER: Duration = Duration::from_millis(5);
const MOST_TOGETHER: usize = 256;
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// At the end of the process, for a store that does not answer.
const LAST_WORDS: Duration = Duration::from_secs(3);
