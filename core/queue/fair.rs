//! Whose turn it is: classes one after the other, and within a class each flow (a team, or a key without one) by the places'
//! time that it has had, in proportion to its share. Pure: costs in, turns out; no clock, no lock, no I/O.
//!
//! A lower class is slow beside a higher one that never ends, and does not starve: when higher ones had nineteen twentieths of the
//! time since its last turn, the next turn is its own, and a twentieth of a full queue is kept for it.
//!
//! Start-time fair queueing. A flow's turn has a start tag, the one with the smallest goes next, and what a turn costs moves
//! its flow's next tag on. What a turn really cost is known when its place is free again (`settle`), so a flow of long answers
//! has as much of the places as one of short answers, not as many requests. Requests come by chance, also those of a flow that asks
//! for less than its part: so a tag may lie a few turns behind the time (`AHEAD`), and such a flow's burst goes before a flood.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::config::Urgency;

/// Those who wait, in all classes.
#[derive(Debug)]
pub struct Fair<T> {
    /// From the highest to the lowest.
    classes: [Class<T>; 3],
    waiting: usize,
    /// Numbers of those who came, in their order.
    next: u64,
    /// What a turn of each class costs where nothing is known of its flow, microseconds.
    usual: [u64; 3],
    /// What higher classes had since the last turn of each class, while somebody of it waited, microseconds.
    passed: [u64; 3],
}

#[derive(Debug)]
struct Class<T> {
    /// Virtual time: the start tag of the last turn.
    now: u64,
    /// How far a tag may lie behind it.
    credit: u64,
    flows: HashMap<Arc<str>, Flow<T>>,
    /// Flows with somebody waiting, by their start tags.
    turns: BTreeSet<(u64, Arc<str>)>,
    /// The same by how much of them waits.
    loads: BTreeSet<(u64, Arc<str>)>,
    /// Flows with nobody waiting, by their tags: they are remembered until they would have the least one anyway.
    debts: BTreeSet<(u64, Arc<str>)>,
    waiting: usize,
    /// Of the flows with somebody waiting.
    shares: u64,
}

#[derive(Debug)]
struct Flow<T> {
    share: u64,
    /// The start tag of its next turn.
    start: u64,
    /// What its turns cost of late.
    usual: u64,
    /// By number: the first one came first.
    waiting: BTreeMap<u64, T>,
}

/// Whose place it is, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub class: Urgency,
    pub flow: Arc<str>,
    /// Its part of its class against other flows' parts.
    pub share: u32,
}

/// Where somebody stands.
#[derive(Debug, Clone)]
pub struct Spot {
    owner: Owner,
    number: u64,
}

/// Somebody's turn.
#[derive(Debug)]
pub struct Turn<T> {
    pub item: T,
    pub owner: Owner,
    /// What it was counted with, to be settled.
    pub cost: u64,
}

impl Spot {
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        let classes = [Class::new(), Class::new(), Class::new()];
        Fair { classes, waiting: 0, next: 0, usual: [USUAL; 3], passed: [0; 3] }
    }
}

impl<T> Fair<T> {
    pub fn len(&self) -> usize {
        self.waiting
    }

    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub fn push(&mut self, owner: Owner, item: T) -> Spot {
        let (number, usual) = (self.next, self.usual[place_of(owner.class)]);
        self.next += 1;
        self.waiting += 1;
        self.class(owner.class).push(&owner, number, item, usual);
        Spot { owner, number }
    }

    /// The next turn; of equal flows the one whose name comes first. It is a flow's that `may` have it; behind a class of which
    /// nobody may no lower one comes either.
    pub fn pop(&mut self, may: impl Fn(Urgency, &Arc<str>, u64) -> bool) -> Option<Turn<T>> {
        let (due, highest) = (self.due(), (0..CLASSES.len()).find(|at| self.classes[*at].waiting > 0)?);
        let mut of = |at: usize| Some((at, self.classes[at].pop(|flow, share| may(CLASSES[at], flow, share))?));
        let (at, (flow, share, cost, item)) = due.and_then(&mut of).or_else(|| of(highest))?;
        self.left();
        self.passed[at] = 0;
        let lower = self.passed.iter_mut().zip(&self.classes).skip(at + 1);
        for (passed, _) in lower.filter(|(_, class)| class.waiting > 0) {
            *passed = passed.saturating_add(self.usual[at]);
        }
        let share = u32::try_from(share).unwrap_or(1);
        Some(Turn { item, owner: Owner { class: CLASSES[at], flow, share }, cost })
    }

    /// A class that was passed by for long enough.
    fn due(&self) -> Option<usize> {
        let waits = |at: &usize| self.classes[*at].waiting > 0;
        let is_due = |at: &usize| self.passed[*at] / (PARTS - 1) >= self.usual[*at];
        (1..CLASSES.len()).filter(waits).find(is_due)
    }

    /// Does somebody of a higher class wait?
    pub fn is_behind(&self, class: Urgency) -> bool {
        self.classes[..place_of(class)].iter().any(|class| class.waiting > 0)
    }

    /// Takes somebody out who does not wait any more; `None`: it had its turn.
    pub fn take(&mut self, spot: &Spot) -> Option<T> {
        let item = self.class(spot.owner.class).take(&spot.owner.flow, spot.number)?;
        self.left();
        Some(item)
    }

    /// A turn that was counted with `charged` cost `real` microseconds.
    pub fn settle(&mut self, owner: &Owner, charged: u64, real: u64) {
        let real = real.clamp(1, MOST_COST);
        let usual = &mut self.usual[place_of(owner.class)];
        *usual = smoothed(*usual, real);
        self.class(owner.class).settle(&owner.flow, charged, real);
    }

    /// There is no room for a newcomer beside all others: takes out who has to give way to it. `None`: it has to go itself.
    ///
    /// The lowest class gives way first, and of a class the newest of the flow that waits most for its share. Of a class that has
    /// no more than its part of the queue nobody gives way to another class.
    pub fn make_room(&mut self, newcomer: &Owner) -> Option<T> {
        let kept = self.waiting / PARTS as usize;
        let spares = |class: &Urgency| self.waiting(*class) > kept;
        let mut lower = CLASSES.into_iter().rev().take_while(|class| *class < newcomer.class);
        let own = self.waiting(newcomer.class);
        let class = match lower.find(spares) {
            Some(lower) => lower,
            None if own < kept => CLASSES.into_iter().max_by_key(|class| self.waiting(*class))?,
            None => newcomer.class,
        };
        let victims = self.class(class);
        let (load, flow) = victims.loads.last()?.clone();
        if class == newcomer.class {
            let mine = victims.flows.get(&newcomer.flow).map_or(0, |flow| flow.waiting.len());
            if load <= load_of(mine + 1, share_of(newcomer)) {
                return None;
            }
        }
        let number = *victims.flows.get(&flow)?.waiting.last_key_value()?.0;
        let item = victims.take(&flow, number)?;
        self.left();
        Some(item)
    }

    /// About how many turns come before a newcomer's.
    pub fn ahead(&self, newcomer: &Owner) -> usize {
        let higher: usize = CLASSES
            .iter()
            .zip(&self.classes)
            .filter(|(class, _)| **class > newcomer.class)
            .map(|(_, c)| c.waiting)
            .sum();
        let class = &self.classes[place_of(newcomer.class)];
        let (mine, share) = (class.flows.get(&newcomer.flow).map_or(0, |f| f.waiting.len() as u64), share_of(newcomer));
        let others = class.shares.saturating_sub(if mine > 0 { share } else { 0 });
        let theirs = (mine + 1).saturating_mul(others) / share;
        let before = class.waiting.min(usize::try_from(mine.saturating_add(theirs)).unwrap_or(usize::MAX));
        (higher + before).min((before + 1).saturating_mul(PARTS as usize))
    }

    /// Of one class.
    pub fn waiting(&self, class: Urgency) -> usize {
        self.classes[place_of(class)].waiting
    }

    fn class(&mut self, class: Urgency) -> &mut Class<T> {
        &mut self.classes[place_of(class)]
    }

    /// One of those who waited is gone.
    fn left(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            // Nobody was passed by.
            self.passed = [0; 3];
        }
    }
}

impl<T> Class<T> {
    fn new() -> Self {
        Class {
            now: BEGINNING,
            credit: 0,
            flows: HashMap::new(),
            turns: BTreeSet::new(),
            loads: BTreeSet::new(),
            debts: BTreeSet::new(),
            waiting: 0,
            shares: 0,
        }
    }

    fn push(&mut self, owner: &Owner, number: u64, item: T, usual: u64) {
        let share = share_of(owner);
        self.credit = tags(usual.saturating_mul(AHEAD), 1).min(MOST_DEBT);
        self.change(&owner.flow, Some((share, usual)), |flow| drop(flow.waiting.insert(number, item)));
        self.waiting += 1;
    }

    fn pop(&mut self, may: impl Fn(&Arc<str>, u64) -> bool) -> Option<(Arc<str>, u64, u64, T)> {
        let first = self.turns.first()?.0;
        let allowed = |(_, name): &&(u64, Arc<str>)| self.flows.get(name).is_some_and(|flow| may(name, flow.share));
        // Who has had least comes first: whoever may stands among the first, if anybody does.
        let (start, name) = self.turns.iter().take(LOOKED_AT).find(allowed)?.clone();
        self.now = self.now.max(first);
        let taken = self.change(&name, None, |flow| {
            let (_, item) = flow.waiting.pop_first()?;
            let cost = flow.usual.min((MOST_DEBT / FINE).saturating_mul(flow.share));
            flow.start = start.saturating_add(tags(cost, flow.share));
            Some((flow.share, cost, item))
        });
        let (share, cost, item) = taken.flatten()?;
        self.left();
        Some((name, share, cost, item))
    }

    fn take(&mut self, flow: &Arc<str>, number: u64) -> Option<T> {
        let item = self.change(flow, None, |flow| flow.waiting.remove(&number)).flatten()?;
        self.left();
        Some(item)
    }

    fn settle(&mut self, flow: &Arc<str>, charged: u64, real: u64) {
        let (now, least) = (self.now, self.least());
        self.change(flow, None, |flow| {
            flow.usual = smoothed(flow.usual, real);
            let (more, less) =
                (tags(real.saturating_sub(charged), flow.share), tags(charged.saturating_sub(real), flow.share));
            // Nobody is made to wait without end for what it had before, and nobody saves up more than a few turns for later.
            flow.start =
                flow.start.saturating_add(more).saturating_sub(less).clamp(least, now.saturating_add(MOST_DEBT));
        });
    }

    /// The least tag that a flow has.
    fn least(&self) -> u64 {
        self.now.saturating_sub(self.credit)
    }

    /// One of those who waited is gone.
    fn left(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            // A time without anybody waiting: all begin anew.
            *self = Class::new();
            return;
        }
        let least = self.least();
        while let Some((start, name)) = self.debts.first().filter(|(start, _)| *start <= least).cloned() {
            self.debts.remove(&(start, name.clone()));
            self.flows.remove(&name);
        }
    }

    /// The only way to change a flow: it stands in the right sets before and after. `fresh`: the share of a flow that may be
    /// new, and what its turns cost.
    fn change<R>(
        &mut self,
        name: &Arc<str>,
        fresh: Option<(u64, u64)>,
        act: impl FnOnce(&mut Flow<T>) -> R,
    ) -> Option<R> {
        let least = self.least();
        let (share, usual) = match fresh {
            Some(fresh) => fresh,
            None => self.flows.get(name).map(|flow| (flow.share, flow.usual))?,
        };
        let flow = self.flows.entry(name.clone()).or_insert_with(|| Flow {
            share,
            start: least,
            usual,
            waiting: BTreeMap::new(),
        });
        if flow.waiting.is_empty() {
            self.debts.remove(&(flow.start, name.clone()));
        } else {
            self.turns.remove(&(flow.start, name.clone()));
            self.loads.remove(&(load_of(flow.waiting.len(), flow.share), name.clone()));
            self.shares -= flow.share;
        }
        // A team's share may have changed with a reload.
        flow.share = share;
        let result = act(flow);
        if flow.waiting.is_empty() {
            self.debts.insert((flow.start, name.clone()));
        } else {
            flow.start = flow.start.max(least);
            self.turns.insert((flow.start, name.clone()));
            self.loads.insert((load_of(flow.waiting.len(), flow.share), name.clone()));
            self.shares += flow.share;
        }
        Some(result)
    }
}

pub fn place_of(class: Urgency) -> usize {
    match class {
        Urgency::High => 0,
        Urgency::Normal => 1,
        Urgency::Low => 2,
    }
}

fn share_of(owner: &Owner) -> u64 {
    u64::from(owner.share.max(1))
}

/// A cost as a distance of tags.
fn tags(cost: u64, share: u64) -> u64 {
    cost.saturating_mul(FINE) / share.max(1)
}

fn load_of(waiting: usize, share: u64) -> u64 {
    (waiting as u64).saturating_mul(FINE) / share.max(1)
}

/// A quarter of the new to three of the old.
fn smoothed(old: u64, new: u64) -> u64 {
    (old.saturating_mul(3).saturating_add(new) / 4).max(1)
}

const CLASSES: [Urgency; 3] = [Urgency::High, Urgency::Normal, Urgency::Low];
/// Turns that a flow may have at once after a time in which it asked for less than its part; a minute of one place at most.
const AHEAD: u64 = 16;
/// Of virtual time: what lies behind it is less, and what lies before it is centuries.
const BEGINNING: u64 = 1 << 60;
/// Flows of which one may have the next turn.
const LOOKED_AT: usize = 8;
/// A class has one of so many parts of time and queue, whatever higher ones ask for.
const PARTS: u64 = 20;
/// So that shares up to a thousand divide finely.
const FINE: u64 = 1_000;
/// A second: what a turn costs as long as nothing is known.
const USUAL: u64 = 1_000_000;
/// Ten minutes: a session that was open for a day is not held against its team for a day.
const MOST_COST: u64 = 600_000_000;
/// The farthest that a flow's turn lies ahead: a minute of one place at the smallest share.
const MOST_DEBT: u64 = 60_000_000 * FINE;
