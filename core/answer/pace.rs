//! Is a stream as fast as its alias wants it (`min_speed`)? Counts the time that was spent waiting for the upstream, not the time
//! that a client took to read. Pure: decides nothing about targets.

use std::time::Duration;

use crate::config::MinSpeed;

/// One stream's speed, window by window, from its first output on.
#[derive(Debug)]
pub struct Pace {
    over: Duration,
    /// Bytes of output that one window must bring.
    need: u64,
    /// Of this window.
    waited: Duration,
    from: u64,
    /// A whole window was fast enough: what was held until then may go out.
    proven: bool,
    /// Bytes that came meanwhile.
    held: usize,
    most_held: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Open,
    Fast,
    Slow,
}

impl Pace {
    /// `most_held`: bytes after which nothing more is held, whatever they are.
    pub fn new(speed: MinSpeed, most_held: usize) -> Pace {
        let need = f64::from(speed.tokens) * speed.over.as_secs_f64() * BYTES;
        Pace {
            over: speed.over,
            need: (need.ceil() as u64).max(1),
            waited: Duration::ZERO,
            from: 0,
            proven: false,
            held: 0,
            most_held,
        }
    }

    /// What is left of the window.
    pub fn left(&self) -> Duration {
        self.over.saturating_sub(self.waited)
    }

    pub fn waited(&mut self, time: Duration, bytes: usize) {
        self.waited += time;
        if !self.proven {
            self.held = self.held.saturating_add(bytes);
            self.proven = self.held > self.most_held;
        }
    }

    /// `output`: bytes of it so far. A window ends as soon as it has brought enough, so that a fast stream is held for a moment only.
    pub fn judge(&mut self, output: u64) -> Verdict {
        let verdict = if output.saturating_sub(self.from) >= self.need {
            self.proven = true;
            Verdict::Fast
        } else if self.waited >= self.over {
            Verdict::Slow
        } else {
            return if self.proven { Verdict::Fast } else { Verdict::Open };
        };
        (self.waited, self.from) = (Duration::ZERO, output);
        verdict
    }

    pub fn proven(&self) -> bool {
        self.proven
    }
}

/// Of text, in a token.
const BYTES: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace::new(MinSpeed { tokens: 10, over: 2 * SECOND }, 1000)
    }

    #[test]
    fn a_fast_stream_is_proven_as_soon_as_a_window_is_full() {
        let mut pace = pace();
        pace.waited(SECOND / 10, 40);
        assert_eq!((pace.judge(79), pace.proven()), (Verdict::Open, false));
        pace.waited(SECOND / 10, 40);
        assert_eq!((pace.judge(80), pace.proven()), (Verdict::Fast, true));
        assert_eq!(pace.left(), 2 * SECOND, "the next window begins");
    }

    #[test]
    fn a_window_that_passes_with_too_little_is_slow_and_the_next_one_begins() {
        let mut pace = pace();
        pace.waited(2 * SECOND, 40);
        assert_eq!(pace.judge(79), Verdict::Slow);
        pace.waited(SECOND, 40);
        assert_eq!(pace.judge(158), Verdict::Open);
        assert_eq!(pace.judge(159), Verdict::Fast);
    }

    #[test]
    fn what_is_held_has_a_bound() {
        let mut pace = pace();
        pace.waited(Duration::ZERO, 1001);
        assert!(pace.proven());
        assert_eq!(pace.judge(1), Verdict::Fast);
    }
}
