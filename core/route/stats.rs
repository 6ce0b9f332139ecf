//! What is measured of a target: time to the first event, tokens a second, whole answers, length of answers. Written and read
//! without a lock; two writers at once lose a step, never a right number. Decides nothing.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Moments are nanoseconds of the health's own count.
pub type Moment = u64;

/// In the order in which they are read most.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Stats {
    /// To the first event of streams.
    first: Peak,
    /// To the end of answers that were not streamed.
    whole: Peak,
    speed: Mean,
    output: Mean,
    /// Smoothed over calls, nanoseconds: what status pages and scripts see. Zero: nothing was measured.
    latency: AtomicU64,
}

/// A moving average that believes bad news at once and good news by and by, so that a target that slows down loses its
/// requests before it has slowed down many. Old news fades: who was slow a while ago is tried again.
#[derive(Debug, Default)]
struct Peak {
    seconds: AtomicU32,
    at: AtomicU64,
}

/// A moving average; zero: nothing was measured.
#[derive(Debug, Default)]
struct Mean(AtomicU32);

impl Stats {
    /// What an answer took to begin, or, where it was not streamed, to be there.
    pub fn answered(&self, took: Duration, stream: bool, at: Moment) {
        let new = nanos(took).max(1);
        let old = self.latency.load(Relaxed);
        // A fifth of the new to four of the old.
        let mixed = if old == 0 { new } else { (old.saturating_mul(4).saturating_add(new)) / 5 };
        self.latency.store(mixed, Relaxed);
        let peak = if stream { &self.first } else { &self.whole };
        peak.add(took.as_secs_f32(), at);
    }

    /// An answer of so many tokens; `lasted`: from a stream's first event to its end.
    pub fn wrote(&self, tokens: u64, lasted: Option<Duration>) {
        if tokens == 0 {
            return;
        }
        self.output.add(tokens as f32);
        // A few tokens, or ones that came at once, tell no speed.
        if let Some(lasted) = lasted.filter(|lasted| tokens >= LEAST_TOKENS && *lasted >= LEAST_TIME) {
            self.speed.add(tokens as f32 / lasted.as_secs_f32());
        }
    }

    /// A call failed on the target's side: for a while others look better.
    pub fn failed(&self, at: Moment) {
        for peak in [&self.first, &self.whole] {
            let known = peak.read(at, true).unwrap_or(0.0);
            peak.add((known * 2.0).clamp(PENALTY, MOST_PENALTY), at);
        }
    }

    pub fn latency(&self) -> Option<Duration> {
        Some(self.latency.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    /// For rehearsals.
    pub fn set_latency(&self, latency: Option<Duration>, at: Moment) {
        if let Some(latency) = latency {
            self.latency.store(nanos(latency).max(1), Relaxed);
            self.first.add(latency.as_secs_f32(), at);
            self.whole.add(latency.as_secs_f32(), at);
        }
    }

    /// Tokens a second.
    pub fn speed(&self) -> Option<f32> {
        self.speed.read()
    }

    /// Tokens of an answer, on the average.
    pub fn output(&self) -> Option<f32> {
        self.output.read()
    }

    /// Seconds that an answer of so many tokens is expected to take; `None`: nothing is known. `busy`: calls are under way,
    /// so silence is no sign of recovery.
    pub fn expected(&self, stream: bool, tokens: f32, at: Moment, busy: bool) -> Option<f32> {
        if !stream && let Some(whole) = self.whole.read(at, busy) {
            return Some(whole);
        }
        let first = self.first.read(at, busy)?;
        Some(first + self.speed.read().map_or(0.0, |speed| tokens / speed))
    }
}

impl Peak {
    fn add(&self, new: f32, at: Moment) {
        let old = f32::from_bits(self.seconds.load(Relaxed));
        let gap = at.saturating_sub(self.at.load(Relaxed)) as f32 / SECOND;
        let mixed = if old == 0.0 || new >= old { new } else { new + (old - new) * (-gap / SETTLES).exp() };
        self.seconds.store(mixed.max(f32::MIN_POSITIVE).to_bits(), Relaxed);
        self.at.store(at, Relaxed);
    }

    #[inline]
    fn read(&self, at: Moment, busy: bool) -> Option<f32> {
        let seconds = f32::from_bits(self.seconds.load(Relaxed));
        if seconds == 0.0 {
            return None;
        }
        let gap = if busy { 0 } else { at.saturating_sub(self.at.load(Relaxed)) };
        Some(seconds / (1.0 + gap as f32 / SECOND / FADES))
    }
}

impl Mean {
    fn add(&self, new: f32) {
        let old = f32::from_bits(self.0.load(Relaxed));
        let mixed = if old == 0.0 { new } else { old + (new - old) / 8.0 };
        self.0.store(mixed.max(f32::MIN_POSITIVE).to_bits(), Relaxed);
    }

    #[inline]
    fn read(&self) -> Option<f32> {
        Some(f32::from_bits(self.0.load(Relaxed))).filter(|known| *known > 0.0)
    }
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const SECOND: f32 = 1e9;
/// Good news has two thirds of its weight after so many seconds.
const SETTLES: f32 = 10.0;
/// What nobody measured for so many seconds counts half.
const FADES: f32 = 60.0;
/// Seconds that a failure counts as.
const PENALTY: f32 = 1.0;
const MOST_PENALTY: f32 = 60.0;
const LEAST_TOKENS: u64 = 16;
const LEAST_TIME: Duration = Duration::from_millis(50);
