//! What a request holds of a budget until it is settled. The purse counts; this only remembers how much, and in whose name.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// Money of one purse that a request holds until it is settled. Forgotten without that, it comes back when its lease ends.
#[derive(Debug)]
pub struct Held {
    pub(super) amount: u64,
    /// The threshold that the budget has passed, nano-dollars, for whom it may concern.
    pub(super) soft: Option<u64>,
}

impl Held {
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Purse {
    /// The reservation ends; `used` was spent.
    pub fn settle(&self, held: &Held, owner: &Owner, used: u64) {
        let mut state = self.lock();
        let limit = state.limit;
        let Some(counter) = &mut state.counter else { return };
        counter.settle(owner.id, used);
        self.note(counter);
        let passed = held.soft.is_some_and(|soft| counter.spent() >= soft);
        drop(state);
        if passed {
            self.tell(Mark::SOFT, limit);
        }
    }

    /// Another scope refused what it was raised for: back to what it was; `None`: it held nothing before.
    pub fn lower(&self, held: &mut Option<Held>, owner: &Owner, amount: Option<u64>) {
        let Some(own) = held else { return };
        let mut state = self.lock();
        if let Some(counter) = &mut state.counter {
            counter.lower(owner.id, amount);
            self.note(counter);
        }
        drop(state);
        match amount {
            Some(amount) => own.amount = amount,
            None => *held = None,
        }
    }

    /// What may have been lost in a kill counts a moment longer here than it does: nobody asked the clock.
    fn note<O>(&self, counter: &Counter<O>) {
        self.taken.store(counter.taken(0), Ordering::Relaxed);
    }
}
