//! One quota, as attempts meet it: what is used and reserved in its window, and the block that is leased from the store. The
//! arithmetic is that of budgets (`limit::budget`); what is left and when it returns is read without a lock.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    Brief,
    frame::{Frame, Millis, Phase},
    shown::{Reading, Shown},
};
use crate::{
    config::{Every, Quota, Scope, Unit},
    limit::budget::{Short, Sums},
};

#[derive(Debug)]
pub struct Meter {
    pub whose: Scope,
    pub unit: Unit,
    pub every: Every,
    /// Of a window; `None`: it has no end.
    lasts: Option<Duration>,
    /// What anybody may read.
    shown: Shown,
    /// The attempt that opened the window, until it is answered; 0: there is none. Others need not look closer.
    opening: AtomicU64,
    state: Mutex<State>,
    /// A block was leased, or the counter was read.
    pub granted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: nothing was used since the last one was over.
    frame: Option<Frame>,
    /// Windows by number, so that a hold finds its own.
    number: u64,
    /// Who opened it, until that attempt was answered.
    opener: Option<u64>,
    sums: Sums,
    /// Holds that are neither settled nor released: who took one knows what it is.
    holds: u64,
    /// It was read from the store, or there is none.
    read: bool,
    /// What all who wait for a block need together.
    waiting: u64,
    /// The row in the store says something else.
    stale: bool,
    /// The end of a window that several gateways share turned out to be later.
    reframed: bool,
    next: u64,
}

/// Units that an attempt holds in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    id: u64,
    /// Of its window.
    number: u64,
    pub amount: u64,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// A larger block must be leased first.
    Block,
    /// It is used up, or less is left than this needs: what is there again after this time.
    Closed(Duration),
    /// Attempts under way hold what is left: some of it may come back.
    Held,
}

/// As the store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub frame: Frame,
    pub ceiling: u64,
    /// A block may be in use. After a clean end `ceiling` is what was used.
    pub open: bool,
    /// The window's first attempt has not been answered.
    pub unanswered: bool,
}

impl State {
    /// Of another window, or as somebody else has counted: nobody holds anything of it.
    fn begin(&mut self, sums: Sums) {
        (self.sums, self.holds) = (sums, 0);
    }
}

impl Meter {
    /// `kept`: by a store, which is to be asked first.
    pub fn new(whose: Scope, quota: &Quota, kept: bool) -> Meter {
        let state = State { read: !kept, ..State::default() };
        Meter {
            whose,
            unit: quota.unit,
            every: quota.every.clone(),
            lasts: quota.every.lasts(),
            shown: Shown::all(quota.bound),
            opening: AtomicU64::new(0),
            state: Mutex::new(state),
            granted: Notify::new(),
        }
    }

    pub fn bound(&self) -> u64 {
        self.shown.bound()
    }

    /// After a reload: what was used stays used.
    pub fn rebind(&self, bound: u64) {
        let state = self.lock();
        self.shown.rebind(bound);
        self.show(&state);
    }

    /// Without a lock, so it may be a moment old; what is decided is decided by `hold`.
    pub fn read(&self, now: Millis) -> Reading {
        self.shown.read(now, self.lasts)
    }

    /// What is left, as `read` has it.
    #[inline]
    pub fn left(&self, now: Millis) -> u64 {
        self.shown.left(now).unwrap_or_else(|| self.read(now).left)
    }

    /// The same for who looks at many.
    #[inline]
    pub fn brief(&self, now: Millis, closely: bool) -> Brief {
        self.shown.brief(now, closely, self.lasts)
    }

    /// Reserves `amount`; and says whether it is time to lease the next block.
    pub fn hold(&self, amount: u64, now: Millis) -> Result<(Hold, bool), Lack> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.read {
            return Err(Lack::Block);
        }
        let bound = self.bound();
        let mut frame = self.roll(state, now);
        let fresh = frame.is_none();
        // A window that nobody has used yet begins with who does.
        if matches!(self.every, Every::Use(_)) && state.sums.spent() == 0 && state.holds == 0 {
            frame = None;
        }
        let opens = frame.is_none();
        let frame = frame.unwrap_or_else(|| Frame::of(&self.every, now));
        if let Phase::Between(until) = frame.phase(now) {
            return Err(Lack::Closed(Duration::from_millis(until.saturating_sub(now))));
        }
        let closed = Lack::Closed(Duration::from_millis(frame.returns().saturating_sub(now)));
        if amount > bound {
            // It never fits: it is told as what is used up.
            return Err(closed);
        }
        if opens {
            state.number += u64::from(fresh);
            (state.frame, state.opener, state.stale) = (Some(frame), None, true);
        }
        state.next += 1;
        let id = state.next;
        let result = match state.sums.take(amount, amount, bound, 0) {
            Ok(()) => {
                state.holds += 1;
                if opens {
                    state.opener = Some(id);
                }
                let low = state.stale || state.sums.wants(bound, 0, 0).is_some();
                Ok((Hold { id, number: state.number, amount }, low))
            }
            Err(Short::Block) => {
                state.waiting = state.waiting.saturating_add(amount);
                Err(Lack::Block)
            }
            Err(Short::Held) => Err(Lack::Held),
            Err(Short::Spent) => Err(closed),
        };
        if opens {
            self.show(state)
        } else {
            self.show_left(state)
        }
        result
    }

    /// The attempt never reached the provider, or another quota refused it.
    pub fn release(&self, hold: Hold) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !self.is_current(state, hold) {
            return;
        }
        state.sums.give_back(hold.amount);
        state.holds = state.holds.saturating_sub(1);
        if state.opener == Some(hold.id) {
            state.opener = None;
        }
        self.show_left(state);
    }

    /// The provider has answered: if this attempt opened the window, the provider's own is open by now.
    pub fn answered(&self, hold: Hold, now: impl FnOnce() -> Millis) {
        if self.opening.load(Ordering::Acquire) == hold.id {
            self.opened(&mut self.lock(), hold, now);
        }
    }

    fn opened(&self, state: &mut State, hold: Hold, now: impl FnOnce() -> Millis) {
        if state.opener != Some(hold.id) || !self.is_current(state, hold) {
            return;
        }
        state.opener = None;
        if let Some(frame) = &mut state.frame {
            frame.answered(&self.every, now());
            state.stale = true;
        }
        self.show(state);
    }

    /// The reservation ends; `used` was used. In a window that is over by now it changes nothing any more.
    pub fn settle(&self, hold: Hold, used: u64, now: impl FnOnce() -> Millis) {
        let mut guard = self.lock();
        let state = &mut *guard;
        self.opened(state, hold, now);
        if self.is_current(state, hold) {
            state.sums.settle(hold.amount, used);
            state.holds = state.holds.saturating_sub(1);
            self.show_left(state);
        }
    }

    fn is_current(&self, state: &State, hold: Hold) -> bool {
        state.frame.is_some() && state.number == hold.number
    }

    /// Whether a window that is over has been put away.
    fn roll(&self, state: &mut State, now: Millis) -> Option<Frame> {
        if let Some(frame) = state.frame
            && frame.phase(now) == Phase::Past
        {
            // Who still holds something of it is answered by `is_current`.
            (state.frame, state.opener, state.stale) = (None, None, true);
            state.begin(Sums::default());
        }
        state.frame
    }

    /// The clock was set.
    pub fn shift(&self, by: i64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let (Every::Use(_), Some(frame)) = (&self.every, &mut state.frame) {
            frame.shift(by);
            state.stale = true;
            self.show(state);
        }
    }

    /// What the store has, at the start. Of a block that was in use everything counts as used.
    pub fn load(&self, row: Option<Written>, now: Millis) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if std::mem::replace(&mut state.read, true) {
            return;
        }
        if let Some(Written { mut frame, ceiling, unanswered, .. }) = row {
            if unanswered {
                frame.answered(&self.every, frame.start.saturating_add(UNANSWERED));
            }
            if frame.start > now {
                // The clock went back meanwhile: the window is as long as it always was, and not longer.
                frame.shift((now as i64).saturating_sub(frame.start as i64));
            }
            if frame.phase(now) != Phase::Past {
                state.frame = Some(frame);
                state.begin(Sums::of(ceiling, 0));
            }
        }
        self.show(state);
        drop(guard);
        self.granted.notify_waiters();
    }

    pub fn is_read(&self) -> bool {
        self.lock().read
    }

    /// What is to be written down: a larger block, or another window. `None`: the row is right.
    /// With the window's number, for `grant`.
    pub fn unwritten(&self, now: Millis) -> Option<(Option<Written>, u64)> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.read {
            return None;
        }
        let Some(frame) = self.roll(state, now) else {
            return std::mem::take(&mut state.stale).then_some((None, 0));
        };
        let wants = state.sums.wants(self.bound(), 0, state.waiting);
        if wants.is_none() && !state.stale {
            return None;
        }
        state.stale = false;
        let ceiling = state.sums.ceiling().max(wants.unwrap_or(0));
        let unanswered = state.opener.is_some() || (state.sums.spent() == 0 && state.holds == 0);
        Some((Some(Written { frame, ceiling, open: true, unanswered }), state.number))
    }

    /// The block was leased: whoever waits tries again.
    pub fn grant(&self, number: u64, ceiling: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.waiting = 0;
        if state.frame.is_some() && state.number == number {
            state.sums.granted(ceiling);
        }
        self.show(state);
        drop(guard);
        self.granted.notify_waiters();
    }

    /// It could not be written: again at the next turn.
    pub fn spoiled(&self) {
        self.lock().stale = true;
    }

    /// How the row reads when nothing is in use any more.
    pub fn at_rest(&self) -> Option<Written> {
        let state = self.lock();
        let frame = state.frame?;
        let sums = &state.sums;
        let used = if state.holds == 0 { sums.spent() } else { sums.ceiling() };
        Some(Written { frame, ceiling: used, open: false, unanswered: false })
    }

    /// As a store that counts for several gateways has it.
    pub fn observe(&self, frame: Option<Frame>, used: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        (state.read, state.frame) = (true, frame);
        state.begin(Sums::of(used, 0));
        self.show(state);
    }

    /// The window that is open here, of a store that counts for several.
    pub fn frame(&self, now: Millis) -> Option<Frame> {
        self.roll(&mut self.lock(), now)
    }

    /// Its end turned out to be later, which the others should know.
    pub fn reframe(&self, frame: Frame) {
        let mut state = self.lock();
        (state.frame, state.reframed) = (Some(frame), true);
        self.show(&state);
    }

    /// What of it is to be written down; asked once for each change.
    pub fn reframed(&self) -> Option<Frame> {
        let mut state = self.lock();
        std::mem::take(&mut state.reframed).then_some(state.frame).flatten()
    }

    /// Without a store there is nothing to lease.
    pub fn grant_all(&self) {
        let mut state = self.lock();
        state.waiting = 0;
        state.sums.granted(u64::MAX);
    }

    /// In a rehearsal: so much is left of it.
    pub fn suppose(&self, left: u64, runs: bool, now: Millis) {
        let mut state = self.lock();
        let used = self.bound().saturating_sub(left);
        if runs || used > 0 {
            state.frame = Some(Frame::of(&self.every, now));
            state.begin(Sums::of(used, 0));
        }
        self.show(&state);
    }

    fn show(&self, state: &State) {
        self.opening.store(state.opener.unwrap_or(0), Ordering::Release);
        self.shown.show(state.frame, state.sums.left(self.bound(), 0));
    }

    /// The same where the window is the one that was shown last.
    fn show_left(&self, state: &State) {
        if self.shown.show_left(state.sums.left(self.bound(), 0)) {
            self.opening.store(state.opener.unwrap_or(0), Ordering::Release);
        } else {
            self.show(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All meters of one owner.
pub type Meters = Arc<[Arc<Meter>]>;

/// Of a window whose gateway was killed before its first attempt was answered: so long that attempt may have been under way.
const UNANSWERED: Millis = 60_000;
