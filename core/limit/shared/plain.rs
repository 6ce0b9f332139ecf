//! `Shared` in memory: what a store's scripts must do, said with this crate's own arithmetic, so that tests can compare the two
//! step by step. Only for tests; one process counts without this seam.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;

use super::{Answer, Claim, Counted, Counter, Down, Id, Left, Settled, Shared, Want, Why};
use crate::limit::{
    budget::{self, Short},
    gcra::{Bucket, Rate, Refused},
};

#[derive(Debug, Default)]
pub struct Plain {
    slots: Mutex<HashMap<Counter, Slot>>,
    /// The store's clock, milliseconds.
    pub now: AtomicU64,
    pub down: AtomicBool,
    pub calls: AtomicU64,
}

/// One counter.
#[derive(Debug, Clone, Default)]
struct Slot {
    bucket: Bucket,
    used: u64,
    /// Until when.
    places: HashMap<Id, u64>,
    money: Option<budget::Counter>,
}

impl Plain {
    /// What lies in a counter: of a bucket what is left, of money what was spent and is held.
    pub fn look(&self, counter: &Counter, bound: u64) -> (u64, u64) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now.load(Ordering::Relaxed);
        let slot = slots.entry(counter.clone()).or_default();
        match counter.counted {
            Counted::Places => (slot.places.values().filter(|until| **until > now).count() as u64, 0),
            Counted::DayRequests | Counted::DayTokens => (slot.used, 0),
            Counted::Money(_) => {
                let money = slot.money();
                money.expire(now);
                (money.spent(), money.balance(bound, now).reserved)
            }
            _ => (slot.bucket.standing(now, Rate::a_minute(bound)).left, 0),
        }
    }
}

impl Slot {
    /// No blocks: they are for stores that are slower than requests.
    fn money(&mut self) -> &mut budget::Counter {
        self.money.get_or_insert_with(|| {
            let mut counter = budget::Counter::opened(0, None);
            counter.granted(u64::MAX);
            counter
        })
    }

    fn take(&mut self, id: Id, want: &Want, now: u64, lease: Duration) -> Result<(), Why> {
        let (more, bound) = (want.wants.saturating_sub(want.has), want.bound);
        let until = now + lease.as_millis() as u64;
        match want.counter.counted {
            Counted::Requests | Counted::InputTokens | Counted::OutputTokens | Counted::Tokens => {
                self.bucket.take(now, more, Rate::a_minute(bound)).map_err(|refused| match refused {
                    Refused::Wait(wait) => Why::Wait(wait),
                    Refused::TooMuch => Why::TooMuch,
                })
            }
            Counted::DayRequests | Counted::DayTokens | Counted::Quota(_) => {
                if self.used + more > bound {
                    return Err(Why::Wait(Duration::from_secs(60)));
                }
                self.used += more;
                Ok(())
            }
            Counted::Places => {
                self.places.retain(|_, until| *until > now);
                if want.wants > 0 && !self.places.contains_key(&id) && self.places.len() as u64 >= bound {
                    return Err(Why::Wait(Duration::from_secs(1)));
                }
                if want.wants > 0 {
                    self.places.insert(id, until);
                }
                Ok(())
            }
            Counted::Money(_) => {
                let money = self.money();
                money.expire(now);
                money.hold(id.0 as u64, want.wants, bound, now, until).map_err(|short| match short {
                    Short::Held => Why::Held,
                    Short::Spent | Short::Block => Why::Spent,
                })
            }
        }
    }

    fn left(&mut self, want: &Want, now: u64) -> Left {
        let bound = want.bound;
        let (left, full_after) = match want.counter.counted {
            Counted::Places => (bound.saturating_sub(self.places.len() as u64), Duration::ZERO),
            Counted::DayRequests | Counted::DayTokens => (bound.saturating_sub(self.used), Duration::from_secs(60)),
            Counted::Money(_) => (self.money().balance(bound, now).left, Duration::ZERO),
            _ => {
                let standing = self.bucket.standing(now, Rate::a_minute(bound));
                (standing.left, standing.full_after)
            }
        };
        Left { left, full_after, denied: None }
    }
}

impl Shared for Plain {
    fn take<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Answer, Down>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(Err(Down("it is off".to_owned()))));
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now.load(Ordering::Relaxed);
        let mut fresh: Vec<(Slot, Left)> = Vec::new();
        for (at, want) in claim.wants.iter().enumerate() {
            let before = slots.get(&want.counter).cloned().unwrap_or_default();
            let mut slot = before.clone();
            let denied = match slot.take(claim.id, want, now, claim.lease) {
                Ok(()) => None,
                Err(why) if want.shadow => Some(why),
                Err(why) => return Box::pin(std::future::ready(Ok(Answer::Refused { at, why }))),
            };
            let mut slot = if denied.is_some() { before } else { slot };
            let left = Left { denied, ..slot.left(want, now) };
            fresh.push((slot, left));
        }
        let mut all = Vec::with_capacity(fresh.len());
        for (want, (slot, left)) in claim.wants.iter().zip(fresh) {
            slots.insert(want.counter.clone(), slot);
            all.push(left);
        }
        Box::pin(std::future::ready(Ok(Answer::Granted(all))))
    }

    fn settle(&self, settled: Settled) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for item in settled.items {
            let slot = slots.entry(item.counter.clone()).or_default();
            match item.counter.counted {
                Counted::Places => drop(slot.places.remove(&settled.id)),
                Counted::Money(_) => drop(slot.money().settle(settled.id.0 as u64, item.used)),
                Counted::DayRequests | Counted::DayTokens => {
                    slot.used = slot.used.saturating_sub(item.had) + item.used;
                }
                _ => slot.bucket.correct(item.had, item.used),
            }
        }
    }

    fn renew(&self, held: Vec<Settled>, lease: Duration) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let until = self.now.load(Ordering::Relaxed) + lease.as_millis() as u64;
        for Settled { id, items } in held {
            for item in items {
                let Some(slot) = slots.get_mut(&item.counter) else { continue };
                if let Some(own) = slot.places.get_mut(&id) {
                    *own = until;
                }
                slot.money().renew(id.0 as u64, until);
            }
        }
    }
}
