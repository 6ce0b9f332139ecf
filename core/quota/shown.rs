//! A quota as its last change left it, for whoever looks: in one cache line, read and written without a lock. Two that are read at
//! different moments may not belong together, so nothing is decided by it: `Meter::hold` decides.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    Brief,
    frame::{Frame, Millis, Phase},
};

#[derive(Debug)]
#[repr(align(64))]
pub struct Shown {
    bound: AtomicU64,
    left: AtomicU64,
    /// The window's three moments; zeros: none is open.
    start: AtomicU64,
    ends: AtomicU64,
    over: AtomicU64,
    /// Before this moment something is left, whatever the clock says.
    open_until: AtomicU64,
    /// When all of it is there again; zero: it is.
    returns: AtomicU64,
}

/// What is left of a quota, and when all of it is there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub bound: u64,
    pub left: u64,
    /// Around a window's end nothing is sent.
    pub between: bool,
    /// `None`: nothing was used yet.
    pub returns: Option<Millis>,
    pub start: Option<Millis>,
    /// How long a window lasts, about.
    pub lasts: Option<Duration>,
}

impl Shown {
    /// Of a quota that nobody has used.
    pub fn all(bound: u64) -> Shown {
        let zero = || AtomicU64::new(0);
        Shown {
            bound: AtomicU64::new(bound),
            left: AtomicU64::new(bound),
            start: zero(),
            ends: zero(),
            over: zero(),
            open_until: AtomicU64::new(if bound == 0 { 0 } else { Millis::MAX }),
            returns: zero(),
        }
    }

    pub fn bound(&self) -> u64 {
        self.bound.load(Ordering::Relaxed)
    }

    pub fn rebind(&self, bound: u64) {
        self.bound.store(bound, Ordering::Relaxed);
    }

    /// After each change of the window or of what is left, under the meter's lock.
    pub fn show(&self, frame: Option<Frame>, left: u64) {
        let bound = self.bound();
        let (open_until, returns) = match frame {
            None => (if bound == 0 { 0 } else { Millis::MAX }, 0),
            Some(frame) if left == 0 => (0, frame.returns()),
            Some(frame) => (frame.closes(), frame.returns()),
        };
        let Frame { start, ends, over } = frame.unwrap_or(Frame { start: 0, ends: 0, over: 0 });
        self.left.store(left, Ordering::Relaxed);
        self.ends.store(ends, Ordering::Relaxed);
        self.over.store(over, Ordering::Relaxed);
        self.start.store(start, Ordering::Release);
        self.returns.store(returns, Ordering::Relaxed);
        self.open_until.store(open_until, Ordering::Release);
    }

    /// After a change of what is left in the window that was shown last, under the same lock. `false`: that changes more than this.
    #[inline]
    pub fn show_left(&self, left: u64) -> bool {
        let same = left > 0 && self.open_until.load(Ordering::Relaxed) > 0;
        if same {
            self.left.store(left, Ordering::Release);
        }
        same
    }

    /// What is left; `None`: `read` knows.
    #[inline]
    pub fn left(&self, now: Millis) -> Option<u64> {
        let known = now < self.open_until.load(Ordering::Acquire);
        known.then(|| self.left.load(Ordering::Relaxed).min(self.bound()))
    }

    /// `lasts`: as long as a window does.
    pub fn read(&self, now: Millis, lasts: Option<Duration>) -> Reading {
        let bound = self.bound();
        let all = Reading { bound, left: bound, between: false, returns: None, start: None, lasts };
        let frame = Frame {
            start: self.start.load(Ordering::Acquire),
            ends: self.ends.load(Ordering::Relaxed),
            over: self.over.load(Ordering::Relaxed),
        };
        if frame.ends == 0 {
            return all;
        }
        let left = self.left.load(Ordering::Relaxed).min(bound);
        let running = Reading { left, returns: Some(frame.returns()), start: Some(frame.start), ..all };
        match frame.phase(now) {
            Phase::Running => running,
            Phase::Between(until) => Reading { left: 0, between: true, returns: Some(until), ..running },
            Phase::Past => all,
        }
    }

    /// What the last change left, as long as it holds.
    #[inline]
    pub fn brief(&self, now: Millis, closely: bool, lasts: Option<Duration>) -> Brief {
        if now >= self.open_until.load(Ordering::Acquire) {
            return Brief::Unsure;
        }
        if !closely {
            return Brief::Open;
        }
        let returns = self.returns.load(Ordering::Relaxed);
        if returns == 0 {
            // A window that is not open yet is as good as one that has just begun.
            return Brief::Left(1.0, lasts);
        }
        let (left, bound) = (self.left.load(Ordering::Relaxed), self.bound());
        let share = left.min(bound) as f64 / bound.max(1) as f64;
        Brief::Left(share as f32, Some(Duration::from_millis(returns.saturating_sub(now))))
    }
}
