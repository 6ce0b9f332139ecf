//! So many places, and a line of those who wait for one. Whoever finds a free place and nobody waiting takes it with one
//! atomic step; only who has to wait, or leaves while others wait, meets the lock. Where places are kept for those who have less than
//! their part (`held`), they are counted under the lock from a quarter on. The order of the line is `fair`'s.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    adaptive::{self, Adaptive, Window},
    drain::Drain,
    fair::{Fair, Owner, Spot, Turn},
    held::Held,
    shed::{Reason, Shed},
};
use crate::{
    clock,
    config::{Concurrency, Urgency},
};

#[derive(Debug)]
pub struct Gate {
    name: Arc<str>,
    /// Places that are taken, and in the highest bit whether somebody waits: then nobody passes but by the line.
    state: AtomicU64,
    limit: AtomicU64,
    /// Up to so many nobody is counted.
    open: AtomicU64,
    /// Whose all places are that nobody counted, told by where its name lies; of several: `MIXED`.
    whose: AtomicUsize,
    line: Mutex<Line>,
    /// `limit` is learnt.
    learns: std::sync::atomic::AtomicBool,
    learning: Learning,
}

#[derive(Debug, Default)]
struct Line {
    fair: Fair<Waiter>,
    drain: Drain,
    held: Held,
}

#[derive(Debug)]
struct Waiter(oneshot::Sender<Result<Place, Shed>>);

/// Answers since the last step, added up without a lock.
#[derive(Debug, Default)]
struct Learning {
    counts: [AtomicU32; 2],
    sums: [AtomicU64; 2],
    troubles: AtomicU32,
    adaptive: Mutex<Adaptive>,
}

/// One of the places; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    /// For who is counted.
    turn: Option<Box<Counted>>,
}

#[derive(Debug)]
struct Counted {
    owner: Owner,
    since: Instant,
    /// What its turn was counted with; `None`: it came when nobody had to wait for it.
    cost: Option<u64>,
}

/// A place in the line. Resolves to a place, or to why there will be none; dropped, it is out of the line at once.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    spot: Spot,
    told: oneshot::Receiver<Result<Place, Shed>>,
    over: bool,
}

/// How a gate stands, for metrics and explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: u64,
    pub taken: u64,
    pub waiting: usize,
    /// The limit is learnt.
    pub adaptive: bool,
}

/// What comes before somebody who would stand in line now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// About so many turns.
    pub turns: usize,
    /// Until its own, at the pace that was measured.
    pub time: Option<Duration>,
}

impl Standing {
    /// Of a target that nobody has called yet.
    pub fn idle(concurrency: Option<Concurrency>) -> Standing {
        let (limit, adaptive) = match concurrency {
            Some(Concurrency::Fixed(limit)) => (limit, false),
            _ => (adaptive::FIRST, true),
        };
        Standing { limit, taken: 0, waiting: 0, adaptive }
    }
}

impl Gate {
    pub fn new(name: Arc<str>, limit: Option<u64>) -> Arc<Gate> {
        let gate = Gate {
            name,
            state: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            open: AtomicU64::new(0),
            whose: AtomicUsize::new(MIXED),
            line: Mutex::default(),
            learns: false.into(),
            learning: Learning::default(),
        };
        let gate = Arc::new(gate);
        gate.set_limit(limit);
        gate
    }

    /// `None`: it is learnt, from where it stood.
    pub fn set_limit(self: &Arc<Self>, limit: Option<u64>) {
        let learnt = || lock(&self.learning.adaptive).limit();
        self.learns.store(limit.is_none(), Ordering::Relaxed);
        self.allow(limit.unwrap_or_else(learnt));
    }

    fn allow(self: &Arc<Self>, limit: u64) {
        let limit = limit.max(1);
        self.open.store(if Held::kept(limit) == 0 { limit } else { limit / 4 }, Ordering::Relaxed);
        let was = self.limit.swap(limit, Ordering::AcqRel);
        if was < limit && self.state.load(Ordering::Acquire) & WAITS != 0 {
            self.serve(None);
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A place, if there is a free one for this flow, and nobody waits for it. `owner`: who that is, where it is counted.
    #[inline]
    pub fn enter(self: &Arc<Self>, flow: &Arc<str>, owner: impl FnOnce() -> Owner) -> Option<Place> {
        let open = self.open.load(Ordering::Relaxed);
        let mut state = self.state.load(Ordering::Relaxed);
        // With somebody waiting the number is larger than any limit.
        while state < open {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(before) => {
                    let here = lies_at(flow);
                    if self.whose.load(Ordering::Relaxed) != here {
                        self.whose.store(if before == 0 { here } else { MIXED }, Ordering::Relaxed);
                    }
                    return Some(Place { gate: self.clone(), turn: None });
                }
                Err(now) => state = now,
            }
        }
        let limit = self.limit.load(Ordering::Relaxed);
        if open == limit || state & !WAITS >= limit { None } else { self.enter_counted(owner()) }
    }

    fn enter_counted(self: &Arc<Self>, owner: Owner) -> Option<Place> {
        let now = clock::now();
        let mut line = lock(&self.line);
        let (taken, limit) = (self.taken(), self.limit.load(Ordering::Relaxed));
        // Of those who wait nobody has less than its part: they were asked whenever a place became free.
        let last = limit.saturating_sub(taken) <= Held::kept(limit) || !line.fair.is_empty();
        let whose = (owner.class, &*owner.flow, u64::from(owner.share));
        let kept = || {
            line.fair.is_behind(owner.class) || line.held.is_full(whose, limit, self.strangers(&line.held, &owner.flow))
        };
        if taken >= limit || (last && kept()) {
            return None;
        }
        self.state.fetch_add(1, Ordering::AcqRel);
        line.held.take(&owner, now);
        let turn = Some(Box::new(Counted { owner, since: now, cost: None }));
        Some(Place { gate: self.clone(), turn })
    }

    /// Are there places that nobody counted, and others than this flow among those who have them?
    fn strangers(&self, held: &Held, flow: &Arc<str>) -> bool {
        self.taken() > held.places() && self.whose.load(Ordering::Relaxed) != lies_at(flow)
    }

    /// Stands in line with at most `queue` others, for a turn that has to come within `patience`.
    pub fn stand(self: &Arc<Self>, owner: Owner, queue: usize, patience: Duration) -> Result<Ticket, Shed> {
        let now = clock::now();
        let (told, heard) = oneshot::channel();
        let mut calls = Calls::default();
        let spot = {
            let mut line = lock(&self.line);
            let late = line.drain.is_sure() && line.fair.ahead(&owner) as u64 > self.limit.load(Ordering::Relaxed);
            let ahead = if late { line.drain.time_for(line.fair.ahead(&owner), now) } else { None };
            if ahead.is_some_and(|time| time > patience) {
                return Err(self.shed(&line, Reason::TooLong, &owner, now));
            }
            if line.fair.len() >= queue {
                // With no queue at all nobody stands in line, whoever it is.
                let Some(Waiter(victim)) = (queue > 0).then(|| line.fair.make_room(&owner)).flatten() else {
                    return Err(self.shed(&line, Reason::Full, &owner, now));
                };
                calls.refused = Some((victim, self.shed(&line, Reason::Displaced, &owner, now)));
            }
            let spot = line.fair.push(owner, Waiter(told));
            line.drain.begin(now);
            // From here on nobody passes by the line, and whoever left before is seen by `hand_out`.
            self.state.fetch_or(WAITS, Ordering::AcqRel);
            self.hand_out(&mut line, now, &mut calls);
            spot
        };
        calls.make();
        Ok(Ticket { gate: self.clone(), spot, told: heard, over: false })
    }

    pub fn standing(&self) -> Standing {
        Standing {
            limit: self.limit.load(Ordering::Relaxed),
            taken: self.taken(),
            waiting: if self.state.load(Ordering::Relaxed) & WAITS == 0 { 0 } else { lock(&self.line).fair.len() },
            adaptive: self.learns.load(Ordering::Relaxed),
        }
    }

    /// `None`: there is room, and nobody waits.
    pub fn ahead(&self, owner: &Owner) -> Option<Ahead> {
        if self.state.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed) {
            return None;
        }
        let line = lock(&self.line);
        let turns = line.fair.ahead(owner);
        Some(Ahead { turns, time: line.drain.time_for(turns + 1, clock::now()) })
    }

    /// Its turn did not come in time.
    pub fn late(&self, owner: &Owner) -> Shed {
        self.shed(&lock(&self.line), Reason::Late, owner, clock::now())
    }

    fn taken(&self) -> u64 {
        self.state.load(Ordering::Acquire) & !WAITS
    }

    fn shed(&self, line: &Line, reason: Reason, owner: &Owner, now: Instant) -> Shed {
        let time = line.drain.time_for(line.fair.len().max(1), now).unwrap_or(UNKNOWN);
        // Those who were refused together shall not come back together.
        let retry_after = time.clamp(SOONEST, LATEST).mul_f64(1.0 + SPREAD * fastrand::f64());
        Shed { reason, class: owner.class, place: self.name.clone(), retry_after }
    }

    fn release(self: &Arc<Self>, turn: Option<Box<Counted>>) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before & WAITS != 0 || turn.is_some() {
            self.serve(turn);
        }
    }

    /// Somebody left, or there is room for more.
    fn serve(self: &Arc<Self>, turn: Option<Box<Counted>>) {
        let now = clock::now();
        let mut calls = Calls::default();
        {
            let mut line = lock(&self.line);
            if let Some(Counted { owner, since, cost }) = turn.as_deref() {
                line.held.leave(owner, now);
                if let Some(cost) = cost {
                    let real = u64::try_from(now.saturating_duration_since(*since).as_micros()).unwrap_or(u64::MAX);
                    line.fair.settle(owner, *cost, real);
                }
            }
            line.drain.left(now);
            self.hand_out(&mut line, now, &mut calls);
        }
        calls.make();
    }

    /// Free places go to those whose turn it is. Under the line's lock: nobody else gives or takes places while somebody waits.
    fn hand_out(self: &Arc<Self>, line: &mut Line, now: Instant, calls: &mut Calls) {
        let limit = self.limit.load(Ordering::Relaxed);
        while let Some(free) = limit.checked_sub(self.taken()).filter(|free| *free > 0) {
            let (last, held) = (free <= Held::kept(limit), &line.held);
            let may = |class: Urgency, flow: &Arc<str>, share: u64| {
                !last || !held.is_full((class, flow, share), limit, self.strangers(held, flow))
            };
            let Some(Turn { item: Waiter(waiter), owner, cost }) = line.fair.pop(may) else { break };
            self.state.fetch_add(1, Ordering::AcqRel);
            line.held.take(&owner, now);
            let turn = Some(Box::new(Counted { owner, since: now, cost: Some(cost) }));
            calls.granted.push((waiter, Place { gate: self.clone(), turn }));
        }
        self.settle_down(line);
    }

    fn settle_down(&self, line: &mut Line) {
        if line.fair.is_empty() {
            line.drain.end();
            self.state.fetch_and(!WAITS, Ordering::AcqRel);
        }
    }

    /// Of an adaptive limit: an answer came after `took`. `kind`: 0 for a stream's first event, 1 for a whole answer.
    fn answered(self: &Arc<Self>, kind: usize, took: Duration) {
        if !self.learns.load(Ordering::Relaxed) {
            return;
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(LONGEST_SAMPLE);
        let kind = kind.min(1);
        self.learning.sums[kind].fetch_add(micros, Ordering::Relaxed);
        self.learning.counts[kind].fetch_add(1, Ordering::Relaxed);
        self.learn();
    }

    /// It was refused for overload, or timed out.
    fn troubled(self: &Arc<Self>) {
        if self.learns.load(Ordering::Relaxed) {
            self.learning.troubles.fetch_add(1, Ordering::Relaxed);
            self.learn();
        }
    }

    /// The limit takes a step when enough was seen; one of those who saw it does that.
    fn learn(self: &Arc<Self>) {
        let Learning { counts, sums, troubles, adaptive } = &self.learning;
        let seen = || counts.iter().chain([troubles]).map(|n| n.load(Ordering::Relaxed)).sum::<u32>();
        if seen() < 10 {
            return;
        }
        let limit = {
            let Ok(mut adaptive) = adaptive.try_lock() else { return };
            if seen() < adaptive.window() {
                return;
            }
            let answers = [0, 1].map(|at| (counts[at].swap(0, Ordering::Relaxed), sums[at].swap(0, Ordering::Relaxed)));
            adaptive.step(&Window { answers, troubles: troubles.swap(0, Ordering::Relaxed), taken: self.taken() })
        };
        // Meanwhile a reload may have stated a fixed one.
        if self.learns.load(Ordering::Relaxed) {
            self.allow(limit);
        }
    }
}

/// Who is to be told, once the lock is open: what cannot be told gives its place back, which takes the lock again.
#[derive(Default)]
struct Calls {
    granted: Vec<(oneshot::Sender<Result<Place, Shed>>, Place)>,
    refused: Option<(oneshot::Sender<Result<Place, Shed>>, Shed)>,
}

impl Calls {
    fn make(self) {
        if let Some((waiter, shed)) = self.refused {
            let _ = waiter.send(Err(shed));
        }
        for (waiter, place) in self.granted {
            let _ = waiter.send(Ok(place));
        }
    }
}

impl Place {
    pub fn answered(&self, kind: usize, took: Duration) {
        self.gate.answered(kind, took);
    }

    pub fn troubled(&self) {
        self.gate.troubled();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.release(self.turn.take());
    }
}

impl Ticket {
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl Future for Ticket {
    type Output = Result<Place, Shed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = std::task::ready!(Pin::new(&mut self.told).poll(cx));
        self.over = true;
        // A line never forgets a waiter; should it ever, the waiter is refused and not stuck.
        Poll::Ready(told.unwrap_or_else(|_| Err(self.gate.late(self.spot.owner()))))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut line = lock(&self.gate.line);
        line.fair.take(&self.spot);
        self.gate.settle_down(&mut line);
        // A turn that was given meanwhile lies in the channel: it is dropped with it, and its place goes to the next.
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names are told apart by where they lie: two that are equal may pass for two flows, which only keeps a few places for longer.
fn lies_at(flow: &Arc<str>) -> usize {
    Arc::as_ptr(flow).cast::<u8>() as usize
}

const WAITS: u64 = 1 << 63;
/// No name lies there.
const MIXED: usize = 0;
/// What is told as long as no pace is known.
const UNKNOWN: Duration = Duration::from_secs(2);
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(60);
const SPREAD: f64 = 0.25;
/// An hour.
const LONGEST_SAMPLE: u64 = 3_600_000_000;
