//! How fast a queue drains, measured while somebody waits: what a refused caller is told to wait is read from it. Pure: the
//! time is given.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Drain {
    /// Of the window under way; `None`: nobody waits.
    since: Option<Instant>,
    left: u32,
    /// Turns a second, smoothed over windows.
    rate: Option<f64>,
    /// Since somebody waits.
    seen: u32,
}

impl Drain {
    /// The first one waits.
    pub fn begin(&mut self, now: Instant) {
        if self.since.is_none() {
            (self.since, self.left, self.seen) = (Some(now), 0, 0);
        }
    }

    /// Nobody waits any more. What was measured is kept for the next time.
    pub fn end(&mut self) {
        self.since = None;
    }

    /// A place became free.
    pub fn left(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        self.left += 1;
        self.seen = self.seen.saturating_add(1);
        let time = now.saturating_duration_since(since);
        if time >= WINDOW {
            let new = f64::from(self.left) / time.as_secs_f64();
            self.rate = Some(self.rate.map_or(new, |old| (old + new) / 2.0));
            (self.since, self.left) = (Some(now), 0);
        }
    }

    /// Turns a second; `None`: not measured yet.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let time = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let running = f64::from(self.left) / time.as_secs_f64().max(1e-3);
        match self.rate {
            // Nothing comes any more: what was measured before is no longer true.
            Some(rate) if time >= WINDOW * 3 => Some(rate.min(running)),
            Some(rate) => Some(rate),
            None => (time >= WINDOW / 4 && self.left > 0).then_some(running),
        }
    }

    /// Until so many have had their turns; `None`: nobody can tell.
    pub fn time_for(&self, turns: usize, now: Instant) -> Option<Duration> {
        let rate = self.rate(now).filter(|rate| *rate > 0.0)?;
        Some(Duration::from_secs_f64((turns as f64 / rate).min(LONGEST)))
    }

    /// Enough turns were seen to refuse somebody by them.
    pub fn is_sure(&self) -> bool {
        self.seen >= ENOUGH && self.rate.is_some()
    }
}

const WINDOW: Duration = Duration::from_secs(1);
const ENOUGH: u32 = 10;
/// Seconds.
const LONGEST: f64 = 86_400.0;
