//! Who has how many of the places, as far as they are counted, and so who has more than its part of them. Pure: who takes and
//! leaves places, and when, comes in; it gives none away.
//!
//! The last places of a gate are kept for flows that have less than their part: a place becomes free only when an answer is over, so
//! one that floods would else have each of them at once, and whoever asks for little would wait for the end of a long answer.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::fair::{Owner, place_of};
use crate::config::Urgency;

#[derive(Debug, Default)]
pub struct Held {
    /// From the highest class to the lowest.
    classes: [HashMap<Arc<str>, Has>; 3],
    /// Of flows that had a place of late.
    shares: [u64; 3],
    places: u64,
    /// Flows in the order in which they had their last place; some are out of date.
    gone: VecDeque<(Instant, Urgency, Arc<str>)>,
}

#[derive(Debug)]
struct Has {
    places: u64,
    share: u64,
    /// When it had none any more.
    since: Instant,
}

impl Held {
    /// The places that are kept for others, of so many: none where there are few, and so little that a flood has nine tenths.
    pub fn kept(limit: u64) -> u64 {
        limit.isqrt().min(limit / 10)
    }

    /// All that are counted.
    pub fn places(&self) -> u64 {
        self.places
    }

    pub fn take(&mut self, owner: &Owner, now: Instant) {
        self.forget(now);
        let (class, share) = (place_of(owner.class), u64::from(owner.share.max(1)));
        let has = self.classes[class].entry(owner.flow.clone());
        let has = has.or_insert_with(|| {
            self.shares[class] += share;
            Has { places: 0, share, since: now }
        });
        // A team's share may have changed with a reload.
        self.shares[class] = self.shares[class] - has.share + share;
        has.share = share;
        has.places += 1;
        self.places += 1;
    }

    pub fn leave(&mut self, owner: &Owner, now: Instant) {
        let Some(has) = self.classes[place_of(owner.class)].get_mut(&owner.flow) else { return };
        has.places = has.places.saturating_sub(1);
        self.places = self.places.saturating_sub(1);
        if has.places == 0 {
            has.since = now;
            self.gone.push_back((now, owner.class, owner.flow.clone()));
        }
        self.forget(now);
    }

    /// Has this flow clearly more than its part of `limit` places, beside others of its class and of higher ones? Half as much again
    /// is what chance brings to who asks for less on the average. `strangers`: there are places that nobody counted, and not all of
    /// them are its own.
    pub fn is_full(&self, (class, flow, share): (Urgency, &str, u64), limit: u64, strangers: bool) -> bool {
        let class = place_of(class);
        let mine = self.classes[class].get(flow);
        let all: u64 = self.shares[..=class].iter().sum();
        let others = all - mine.map_or(0, |has| has.share) + u64::from(strangers);
        let places = mine.map_or(0, |has| has.places);
        others > 0 && places > 0 && places.saturating_mul(2 * (share + others)) >= limit.saturating_mul(3 * share)
    }

    /// Flows that have had no place for a while are nobody to keep one for.
    fn forget(&mut self, now: Instant) {
        while let Some((since, class, flow)) = self.gone.front() {
            if now.saturating_duration_since(*since) < LATELY && self.gone.len() < MOST {
                return;
            }
            let flows = &mut self.classes[place_of(*class)];
            if let Some(has) = flows.get(flow).filter(|has| has.places == 0 && has.since == *since) {
                self.shares[place_of(*class)] -= has.share;
                flows.remove(flow);
            }
            self.gone.pop_front();
        }
    }
}

/// Who had a place within this time may come again.
const LATELY: Duration = Duration::from_secs(10);
/// Entries of those who have none.
const MOST: usize = 10_000;
