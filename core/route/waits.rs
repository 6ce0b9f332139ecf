//! How long targets take to their first output, as far back as a few dozen answers: what `hedge = { after = "p95" }` asks. Kept only for
//! targets that are hedged, by name, so that a reload forgets nothing; nobody else pays for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dashmap::DashMap;

/// `State`: times to the first output, of streams and of whole answers apart.
#[derive(Debug, Default)]
pub struct Waits {
    entries: DashMap<(Arc<str>, bool), Arc<Mutex<Ring>>, foldhash::quality::RandomState>,
}

/// The last ones, in milliseconds.
#[derive(Debug, Default)]
struct Ring {
    times: Vec<u32>,
    next: usize,
    /// What was told last, of which percentage, and how many answers came since.
    told: Option<(u8, u32)>,
    news: u32,
}

impl Waits {
    /// An answer, or for how long there was none when it was no longer waited for.
    pub fn note(&self, target: &Arc<str>, stream: bool, time: Duration) {
        let key = (target.clone(), stream);
        let known = self.entries.get(&key).map(|entry| entry.clone());
        let entry = known.unwrap_or_else(|| {
            if self.entries.len() >= MOST {
                self.entries.clear();
            }
            self.entries.entry(key).or_default().clone()
        });
        let mut ring = entry.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let at = ring.next;
        match ring.times.get_mut(at) {
            Some(slot) => *slot = millis,
            None => ring.times.push(millis),
        }
        ring.next = (at + 1) % KEPT;
        ring.news = ring.news.saturating_add(1);
    }

    /// So many of a hundred answers were there after this time; `None`: too few are known.
    pub fn percentile(&self, target: &Arc<str>, stream: bool, percent: u8) -> Option<Duration> {
        let entry = self.entries.get(&(target.clone(), stream))?.clone();
        let mut ring = entry.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.times.len() < ENOUGH {
            return None;
        }
        if let Some((_, millis)) = ring.told.filter(|(of, _)| *of == percent && ring.news < NEWS) {
            return Some(Duration::from_millis(u64::from(millis)));
        }
        let mut times = ring.times.clone();
        let at = (times.len() * usize::from(percent.min(100))).div_ceil(100).max(1) - 1;
        let (_, time, _) = times.select_nth_unstable(at);
        let time = *time;
        (ring.told, ring.news) = (Some((percent, time)), 0);
        Some(Duration::from_millis(u64::from(time)))
    }
}

/// Answers that are remembered of each target.
const KEPT: usize = 64;
/// It is told anew when so many more are known.
const NEWS: u32 = 4;
/// Fewer say nothing of the slowest twentieth.
const ENOUGH: usize = 20;
/// Targets; names can be made up by callers.
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_known_once_there_are_enough_answers() {
        let (waits, name) = (Waits::default(), Arc::from("a/m"));
        for n in 1..=19 {
            waits.note(&name, true, Duration::from_millis(n));
        }
        assert_eq!(waits.percentile(&name, true, 95), None);
        waits.note(&name, true, Duration::from_millis(20));
        assert_eq!(waits.percentile(&name, true, 95), Some(Duration::from_millis(19)));
        assert_eq!(waits.percentile(&name, true, 50), Some(Duration::from_millis(10)));
        assert_eq!(waits.percentile(&name, false, 95), None, "whole answers are counted apart");
    }

    #[test]
    fn old_answers_are_forgotten() {
        let (waits, name) = (Waits::default(), Arc::from("a/m"));
        for n in 0..200 {
            waits.note(&name, true, Duration::from_millis(if n < 130 { 9_000 } else { 100 }));
        }
        assert_eq!(waits.percentile(&name, true, 99), Some(Duration::from_millis(100)));
    }
}
