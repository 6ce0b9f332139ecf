//! Windows of quotas: when one begins, when it ends, and the moment around its end in which nobody can know in which of two
//! windows the provider would count. And a wall clock that does not jump. Pure but for the two clocks that `Pace` is shown.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{config::Every, limit::window::Window};

/// A moment of the wall clock, in milliseconds since 1970.
pub type Millis = u64;

/// One window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub start: Millis,
    /// The earliest end: nothing is sent from a moment before it.
    pub ends: Millis,
    /// The latest: a moment after it the next one may begin. Of a window that opens at first use, the provider's own opened
    /// between the first attempt's sending and its answer.
    pub over: Millis,
}

/// Where a moment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// Around the end: closed until this moment.
    Between(Millis),
    Past,
}

impl Frame {
    /// The window that begins now, or that now lies in.
    pub fn of(every: &Every, now: Millis) -> Frame {
        match every {
            Every::Use(length) => {
                let ends = now.saturating_add(millis(*length));
                Frame { start: now, ends, over: ends }
            }
            Every::Grid(length, anchor) => {
                let (length, anchor) = (millis(*length).max(1), since_1970(*anchor));
                // Also windows before the anchor lie end to end.
                let into = now.wrapping_sub(anchor) as i64;
                let start = now.saturating_sub(into.rem_euclid(length as i64) as u64);
                let ends = start.saturating_add(length);
                Frame { start, ends, over: ends }
            }
            Every::Calendar(per, zone) => {
                let window = Window::in_zone(*per, UNIX_EPOCH + Duration::from_millis(now), zone);
                let ends = window.end.map_or(Millis::MAX, since_1970);
                Frame { start: since_1970(window.start), ends, over: ends }
            }
        }
    }

    pub fn phase(&self, now: Millis) -> Phase {
        let edge = self.edge();
        if now >= self.over.saturating_add(edge) {
            Phase::Past
        } else if now.saturating_add(edge) >= self.ends {
            Phase::Between(self.over.saturating_add(edge))
        } else {
            Phase::Running
        }
    }

    /// Before this moment it runs.
    pub fn closes(&self) -> Millis {
        self.ends.saturating_sub(self.edge())
    }

    /// When the next one may be used.
    pub fn returns(&self) -> Millis {
        self.over.saturating_add(self.edge())
    }

    /// The first attempt was answered now: the provider's window is open since then at the latest.
    pub fn answered(&mut self, every: &Every, now: Millis) {
        if let Every::Use(length) = every {
            self.over = self.over.max(now.saturating_add(millis(*length)));
        }
    }

    /// The clock was set by so much, and this window has as much left as before.
    pub fn shift(&mut self, by: i64) {
        for moment in [&mut self.start, &mut self.ends, &mut self.over] {
            *moment = moment.saturating_add_signed(by);
        }
    }

    /// A thousandth of the window: how long an attempt may be on its way.
    fn edge(&self) -> Millis {
        (self.ends.saturating_sub(self.start) / 1000).clamp(LEAST_EDGE, MOST_EDGE)
    }
}

/// The wall clock, without its jumps: it goes on with the monotonic one, and a clock that was set is believed when it has stayed
/// so for a while.
#[derive(Debug)]
pub struct Pace {
    epoch: Instant,
    /// What the wall clock showed at the epoch.
    base: AtomicU64,
    /// Since when the wall clock disagrees, and by how much it did then.
    odd: std::sync::Mutex<Option<(Instant, i64)>>,
}

impl Pace {
    pub fn new(epoch: Instant, wall: SystemTime) -> Pace {
        Pace { epoch, base: AtomicU64::new(since_1970(wall)), odd: std::sync::Mutex::default() }
    }

    pub fn now(&self, now: Instant) -> Millis {
        self.base.load(Ordering::Relaxed).saturating_add(millis(now.saturating_duration_since(self.epoch)))
    }

    /// Looks at the wall clock; by how many milliseconds it turned out to have been set, once that has lasted.
    pub fn compare(&self, now: Instant, wall: SystemTime) -> Option<i64> {
        let by = since_1970(wall) as i64 - self.now(now) as i64;
        let mut odd = self.odd.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if by.abs() <= NEAR {
            *odd = None;
            self.adopt(by);
            return None;
        }
        match *odd {
            Some((since, before)) if (by - before).abs() <= NEAR => {
                if now.saturating_duration_since(since) < BELIEVED {
                    return None;
                }
                *odd = None;
                self.adopt(by);
                Some(by)
            }
            _ => {
                *odd = Some((now, by));
                None
            }
        }
    }

    fn adopt(&self, by: i64) {
        let base = self.base.load(Ordering::Relaxed);
        self.base.store(base.saturating_add_signed(by), Ordering::Relaxed);
    }
}

pub fn since_1970(at: SystemTime) -> Millis {
    at.duration_since(UNIX_EPOCH).map_or(0, millis)
}

pub fn millis(time: Duration) -> Millis {
    // A century at most, so that sums of two fit.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(MOST_MILLIS)
}

const LEAST_EDGE: Millis = 50;
const MOST_EDGE: Millis = 5_000;
/// Clocks are that exact.
const NEAR: i64 = 2_000;
/// A clock that was set is believed after this.
const BELIEVED: Duration = Duration::from_secs(600);
const MOST_MILLIS: Millis = 1 << 53;
