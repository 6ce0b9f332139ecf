//! How many calls a target takes at a time, learnt from how it answers. Pure: a window of answers in, a limit out.
//!
//! A gradient limit. Answers that take no longer than they did when there was room let the limit grow by its square root;
//! answers that take longer shrink it in proportion; refusals for overload and timeouts shrink it at once. What an answer takes
//! when there is room is learnt when the limit is not the reason for it: while it is not used up, or stands at its least.

/// Answers since the last step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Window {
    /// First events of streams, then whole answers: how many, and how long they took in all, microseconds.
    pub answers: [(u32, u64); 2],
    /// Refusals for overload, and timeouts.
    pub troubles: u32,
    /// Places that were taken at its end.
    pub taken: u64,
}

#[derive(Debug, Clone)]
pub struct Adaptive {
    limit: f64,
    /// What an answer takes when there is room, of each kind, microseconds.
    idle: [Option<f64>; 2],
}

impl Default for Adaptive {
    fn default() -> Self {
        Adaptive { limit: FIRST as f64, idle: [None; 2] }
    }
}

impl Adaptive {
    pub fn limit(&self) -> u64 {
        (self.limit.floor() as u64).clamp(LEAST, MOST)
    }

    /// After so many answers the limit is looked at again.
    pub fn window(&self) -> u32 {
        self.limit().clamp(10, 100) as u32
    }

    pub fn step(&mut self, window: &Window) -> u64 {
        let answers: u32 = window.answers.iter().map(|(count, _)| count).sum();
        if window.troubles > 0 && window.troubles * 10 >= answers {
            self.limit = (self.limit * BACK_OFF).max(LEAST as f64);
            return self.limit();
        }
        if answers == 0 {
            return self.limit();
        }
        let full = window.taken.saturating_mul(4) >= self.limit().saturating_mul(3);
        // Where there is room, or no less to go to, what an answer takes is not the limit's doing.
        let learning = if !full || self.limit() <= LEAST { FAST } else { SLOW };
        let mut gradient = 0.0;
        for (idle, (count, sum)) in self.idle.iter_mut().zip(window.answers) {
            if count == 0 {
                continue;
            }
            let took = (sum as f64 / f64::from(count)).max(1.0);
            let known = *idle.get_or_insert(took);
            let part = (TOLERANCE * known / took).clamp(0.5, 1.0);
            gradient += part * f64::from(count) / f64::from(answers);
            // Faster than ever is believed soon, slower only where it is not the limit's doing.
            let pace = if took < known { FAST } else { learning };
            *idle = Some(known + pace * (took - known));
        }
        if gradient >= 1.0 && !full {
            // It was not tried whether more would do.
            return self.limit();
        }
        let aim = self.limit * gradient + self.limit.sqrt();
        self.limit = (self.limit + (aim - self.limit) * SMOOTH).clamp(LEAST as f64, MOST as f64);
        self.limit()
    }
}

/// Where it begins, and its bounds.
pub const FIRST: u64 = 20;
pub const LEAST: u64 = 1;
pub const MOST: u64 = 1_000;
/// Answers differ: half as long again is nothing to worry about.
const TOLERANCE: f64 = 1.5;
const BACK_OFF: f64 = 0.7;
const SMOOTH: f64 = 0.25;
const FAST: f64 = 0.2;
const SLOW: f64 = 0.002;
