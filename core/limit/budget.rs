//! A budget's counter: what was spent in one window, what is reserved by requests under way, and the block that both must
//! stay under. Pure: state and time in, decision and state out, so that a store shared by several gateways can run the
//! same. Amounts are nano-dollars, times nanoseconds of a clock that never goes back.
//!
//! A reservation has an id and a lease. `settle` and `expire` may come twice or in either order: each amount counts once.

use std::collections::{HashMap, HashSet, hash_map::Entry};

/// What counts in one window, for who knows by himself what each reservation holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// Settled.
    spent: u64,
    /// Of all reservations that are open.
    reserved: u64,
    /// The end of the block that is leased: `spent + reserved` stays under it, so a restart knows the most that was spent.
    ceiling: u64,
    /// What a gateway that was killed may have spent beyond its records, and until when that counts.
    lost: Option<(u64, u64)>,
    /// The largest reservation of late.
    usual: u64,
}

/// The counter of one scope in one window. `O`: what is kept beside each reservation for whoever keeps the counter.
#[derive(Debug, Clone, Default)]
pub struct Counter<O = ()> {
    sums: Sums,
    open: HashMap<u64, Hold<O>, foldhash::fast::RandomState>,
    /// Reservations whose lease ended before they were settled.
    expired: HashSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Hold<O> {
    amount: u64,
    until: u64,
    owner: O,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// The budget has room, but the block that is leased has not: a larger one must be taken first.
    Block,
    /// Requests under way hold what is left: some of it may come back.
    Held,
    /// It is spent, or less is left than this needs.
    Spent,
}

/// As the API shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    pub spent: u64,
    pub reserved: u64,
    pub left: u64,
}

impl Sums {
    /// So much was spent already, and all of it is leased.
    pub fn of(spent: u64, reserved: u64) -> Sums {
        Sums { spent, reserved, ceiling: spent.saturating_add(reserved), lost: None, usual: 0 }
    }

    /// Reserves `more` for what wants `amount` in all.
    pub fn take(&mut self, more: u64, amount: u64, limit: u64, now: u64) -> Result<(), Short> {
        self.usual = amount.max(self.usual - self.usual / 8);
        if more > self.left(limit, now) {
            let could = limit.saturating_sub(self.spent).saturating_sub(self.lost(now));
            return Err(if amount <= could { Short::Held } else { Short::Spent });
        }
        if self.spent.saturating_add(self.reserved).saturating_add(more) > self.ceiling {
            return Err(Short::Block);
        }
        self.reserved = self.reserved.saturating_add(more);
        Ok(())
    }

    /// Of a reservation, and nothing was spent.
    pub fn give_back(&mut self, amount: u64) {
        self.reserved = self.reserved.saturating_sub(amount);
    }

    /// A reservation of `held` ends; `used` was spent.
    pub fn settle(&mut self, held: u64, used: u64) {
        self.give_back(held);
        self.spent = self.spent.saturating_add(used);
        // What was spent beyond its reservation is spent all the same.
        self.ceiling = self.ceiling.max(self.spent.saturating_add(self.reserved));
    }

    /// Settled, reserved, or maybe spent by a gateway that was killed.
    pub fn taken(&self, now: u64) -> u64 {
        self.spent.saturating_add(self.reserved).saturating_add(self.lost(now))
    }

    /// Where the next block should end: a share of what is left, at least `need` and a request as they are of late. `None`
    /// while more than half of such a block is free.
    pub fn wants(&self, limit: u64, now: u64, need: u64) -> Option<u64> {
        let taken = self.spent.saturating_add(self.reserved);
        let left = self.left(limit, now);
        let block = (left / SHARE).max(need).max(self.usual).min(left);
        let free = self.ceiling.saturating_sub(taken);
        (free < block.div_ceil(2) || free < need.min(left)).then(|| taken.saturating_add(block))
    }

    /// The block was leased.
    pub fn granted(&mut self, ceiling: u64) {
        self.ceiling = self.ceiling.max(ceiling);
    }

    pub fn ceiling(&self) -> u64 {
        self.ceiling
    }

    /// Gives the block back. The next reservation needs another one.
    pub fn close(&mut self) {
        self.ceiling = self.spent;
    }

    pub fn spent(&self) -> u64 {
        self.spent
    }

    pub fn left(&self, limit: u64, now: u64) -> u64 {
        limit.saturating_sub(self.spent).saturating_sub(self.reserved).saturating_sub(self.lost(now))
    }

    fn lost(&self, now: u64) -> u64 {
        self.lost.map_or(0, |(amount, until)| if now < until { amount } else { 0 })
    }
}

impl Counter {
    /// From what the ledger holds. `lost`: what a killed gateway may have spent beyond it, and until when that counts.
    pub fn opened(spent: u64, lost: Option<(u64, u64)>) -> Counter {
        Counter::begun(spent, lost)
    }

    /// As a store that several gateways share has it: nothing is held here.
    pub fn seen(spent: u64, reserved: u64) -> Counter {
        Counter::observed(spent, reserved)
    }

    /// Reserves, or raises what `id` has reserved to `amount`. What is held already stays held when this fails.
    pub fn hold(&mut self, id: u64, amount: u64, limit: u64, now: u64, until: u64) -> Result<(), Short> {
        let fresh = !self.open.contains_key(&id);
        self.hold_of((id, fresh, || ()), amount, limit, now, until)
    }

    /// Lets go what nobody renewed or settled in time; says how many.
    pub fn expire(&mut self, now: u64) -> usize {
        self.expire_but(now, now, |_| false)
    }
}

impl<O> Counter<O> {
    /// See `opened`.
    pub fn begun(spent: u64, lost: Option<(u64, u64)>) -> Counter<O> {
        let lost = lost.filter(|(amount, _)| *amount > 0);
        Counter::with(Sums { lost, ..Sums::of(spent, 0) })
    }

    /// See `seen`.
    pub fn observed(spent: u64, reserved: u64) -> Counter<O> {
        Counter::with(Sums::of(spent, reserved))
    }

    fn with(sums: Sums) -> Counter<O> {
        Counter { sums, open: HashMap::default(), expired: HashSet::new() }
    }

    /// See `hold`. `fresh`: this id has nothing yet, and so much is known without a look; then it belongs to `owner`.
    pub fn hold_of(
        &mut self,
        (id, fresh, owner): (u64, bool, impl FnOnce() -> O),
        amount: u64,
        limit: u64,
        now: u64,
        until: u64,
    ) -> Result<(), Short> {
        let has = if fresh { 0 } else { self.open.get(&id).map_or(0, |hold| hold.amount) };
        self.sums.take(amount.saturating_sub(has), amount, limit, now)?;
        match self.open.entry(id) {
            Entry::Occupied(hold) => {
                let hold = hold.into_mut();
                (hold.amount, hold.until) = (has.max(amount), until);
            }
            Entry::Vacant(place) => drop(place.insert(Hold { amount: has.max(amount), until, owner: owner() })),
        }
        Ok(())
    }

    /// A reservation that was raised goes back to `amount`; without an amount it ends, and nothing was spent.
    pub fn lower(&mut self, id: u64, amount: Option<u64>) {
        let Some(hold) = self.open.get_mut(&id) else { return };
        let less = hold.amount.saturating_sub(amount.unwrap_or(0));
        self.sums.give_back(less);
        match amount {
            Some(_) => hold.amount -= less,
            None => drop(self.open.remove(&id)),
        }
    }

    /// The reservation ends; `used` was spent. `false`: it was settled before, or never made.
    pub fn settle(&mut self, id: u64, used: u64) -> bool {
        let open = self.open.remove(&id);
        if open.is_none() && !self.expired.remove(&id) {
            return false;
        }
        self.sums.settle(open.map_or(0, |hold| hold.amount), used);
        true
    }

    /// Its owner lives.
    pub fn renew(&mut self, id: u64, until: u64) {
        if let Some(hold) = self.open.get_mut(&id) {
            hold.until = hold.until.max(until);
        }
    }

    /// Lets go what nobody settled in time and no owner has who `lives`, and says how many. Who lives is renewed.
    pub fn expire_but(&mut self, now: u64, until: u64, lives: impl Fn(&O) -> bool) -> usize {
        let mut ended = Vec::new();
        for (id, hold) in &mut self.open {
            match lives(&hold.owner) {
                true => hold.until = hold.until.max(until),
                false if hold.until <= now => ended.push(*id),
                false => {}
            }
        }
        for id in &ended {
            let amount = self.open.remove(id).map_or(0, |hold| hold.amount);
            self.sums.give_back(amount);
            if self.expired.len() < MOST_EXPIRED {
                self.expired.insert(*id);
            }
        }
        if self.sums.lost.is_some_and(|(_, until)| until <= now) {
            self.sums.lost = None;
        }
        ended.len()
    }

    /// Nothing reserved, nothing expected.
    pub fn at_rest(&self) -> bool {
        self.open.is_empty()
    }

    /// See `Sums::taken`.
    pub fn taken(&self, now: u64) -> u64 {
        self.sums.taken(now)
    }

    /// See `Sums::wants`.
    pub fn wants(&self, limit: u64, now: u64, need: u64) -> Option<u64> {
        self.sums.wants(limit, now, need)
    }

    /// The block was leased.
    pub fn granted(&mut self, ceiling: u64) {
        self.sums.granted(ceiling);
    }

    pub fn ceiling(&self) -> u64 {
        self.sums.ceiling()
    }

    /// See `Sums::close`.
    pub fn close(&mut self) {
        self.sums.close();
    }

    pub fn spent(&self) -> u64 {
        self.sums.spent()
    }

    pub fn balance(&self, limit: u64, now: u64) -> Balance {
        Balance {
            spent: self.sums.spent.saturating_add(self.sums.lost(now)),
            reserved: self.sums.reserved,
            left: self.sums.left(limit, now),
        }
    }
}

/// A block is this part of what is left: small enough that a crash costs little, large enough that a busy team needs few.
const SHARE: u64 = 16;
const MOST_EXPIRED: usize = 10_000;
