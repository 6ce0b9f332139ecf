//! What a request holds of a budget until it is settled. The purse counts; this only remembers how much, and in whose name.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Counter, Mark, Purse};

/// A request that holds money of one budget or of several.
#[derive(Debug)]
pub struct Owner {
    pub(super) id: u64,
}

impl Default for Owner {
    fn default() -> Owner {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Owner { id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}

/// Money that a request holds until it is settled. Dropped without that, it comes back when its lease ends.
#[derive(Debug)]
pub struct Held {
    pub(super) purse: Arc<Purse>,
    pub(super) id: u64,
    pub(super) amount: u64,
    /// The threshold that the budget has passed, nano-dollars, for whom it may concern.
    pub(super) soft: Option<u64>,
}

impl Held {
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// The reservation ends; `used` was spent.
    pub fn settle(self, used: u64) {
        let mut state = self.purse.lock();
        if let Some(counter) = &mut state.counter {
            counter.settle(self.id, used);
        }
        state.owners.remove(&self.id);
        let (limit, passed) = (state.limit, state.counter.as_ref().map(Counter::spent) >= self.soft);
        drop(state);
        if passed && self.soft.is_some() {
            self.purse.tell(Mark::SOFT, limit);
        }
    }

    /// Another scope refused what it was raised for: back to what it was; `None`: it held nothing before.
    pub fn lower(held: &mut Option<Held>, amount: Option<u64>) {
        let Some(own) = held else { return };
        let mut state = own.purse.lock();
        if let Some(counter) = &mut state.counter {
            counter.lower(own.id, amount);
        }
        match amount {
            Some(amount) => own.amount = amount,
            None => {
                state.owners.remove(&own.id);
                drop(state);
                *held = None;
            }
        }
    }
}
