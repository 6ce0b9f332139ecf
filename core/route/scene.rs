//! How one group's strategy ranks its targets: what is read of each, the score that follows, and the order of the scores. Pure, and
//! without a lock; who takes part at all is said by `strategy`.

use std::time::Duration;

use super::{
    Group, Live, Profile, Standing, Target,
    health::{Answer, Glance, Now, Warming},
    sticky::{self, mix, unit},
    why::Lot,
};
use crate::config::Strategy;

/// One group's choice.
pub(super) struct Scene<'a> {
    pub group: &'a Group,
    pub live: &'a Live<'a>,
    pub profile: &'a Profile,
    pub now: Now,
    pub seed: u64,
    pub stick: Option<u64>,
    /// What latency is asked for; `None`: it is not.
    pub answer: Answer,
}

/// What was read of a target, as far as its place goes by it.
#[derive(Clone, Copy)]
pub(super) struct Stand {
    /// Of its name, and its weight: see `AtHand`.
    lot: u64,
    weight: u32,
    /// Among all of the plan.
    pub at: u32,
    pub in_flight: u64,
    pub expected: Option<f32>,
    pub output: Option<f32>,
    /// Of its requests while it warms up; 1: all.
    pub share: f32,
    /// What the strategy goes by, the lower the better.
    pub score: f32,
}

/// Where a target was put, and what decided it beside its figures.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Field { drawn: bool, lot: Lot, stuck: bool },
    HeldBack,
    Closed,
    Ejected,
}

impl Scene<'_> {
    #[inline]
    pub fn look(&self, target: &Target) -> Glance {
        self.live.health.glance(target, self.answer, self.now)
    }

    #[inline]
    pub fn stand(&self, target: &Target, at: u32, glance: &Glance, standing: Option<Standing>) -> Stand {
        let Glance { in_flight, expected, output, warming, .. } = *glance;
        let share = share(self.group.strategy, self.group.warm_up, warming);
        let score = match self.group.strategy {
            // What it costs is told when all are known.
            Strategy::First | Strategy::Weighted | Strategy::LeastCost => 0.0,
            Strategy::LeastLatency => match expected {
                Some(time) => time * (in_flight as f32 + 1.0),
                // Nobody knows: one request finds out, and others wait for what it finds.
                None if in_flight == 0 => 0.0,
                None => UNKNOWN * in_flight as f32,
            },
            Strategy::LeastBusy => in_flight as f32,
            Strategy::Quota => match standing {
                None => NO_QUOTA,
                Some(Standing { share_left, resets_in, .. }) => {
                    let left = share_left.clamp(LEAST_LEFT, 1.0);
                    // What is lost soonest, and is most, is used first.
                    resets_in.map_or(NO_RESET / left, |time| time.as_secs_f32() / left)
                }
            },
        };
        Stand { lot: target.at_hand.lot, weight: target.at_hand.weight, at, in_flight, expected, output, share, score }
    }

    /// Nano-dollars; infinite: nobody knows. `usual`: tokens of its answers, on the average.
    #[inline]
    pub fn cost(&self, target: &Target, usual: Option<f32>) -> f32 {
        let at_hand = &target.at_hand;
        let output = f64::from(self.profile.expected_output(usual));
        let input = self.profile.size.tokens_at((&target.name, &at_hand.ratio), self.live.estimates);
        let long = || target.rates.as_ref().and_then(|rates| rates.about(input, output));
        at_hand.flat.about(input, output).or_else(long).map_or(f32::INFINITY, |nano| nano as f32)
    }

    /// Is this request none of those that a target gets which warms up? A session joins it once, and stays.
    pub fn leaves(&self, stand: &Stand) -> bool {
        stand.share < 1.0 && {
            let draw = mix(self.stick.unwrap_or(mix(self.seed)) ^ stand.lot ^ WARMING);
            unit(draw) > f64::from(stand.share)
        }
    }

    /// In the strategy's order, the best first. `order`: room to sort in.
    pub fn arrange(&self, field: &[Stand], order: &mut Vec<u64>, mut put: impl FnMut(&Stand, Place)) {
        order.clear();
        match self.group.strategy {
            Strategy::First => order.extend(0..field.len() as u64),
            Strategy::Weighted => self.by_weight(field, order),
            _ => self.by_score(field, order),
        }
        let stuck = self.stick.and_then(|stick| self.stuck(stick, field));
        // Who leads anyway is not sorted, unless two are drawn by their places.
        let drawn = self.group.strategy == Strategy::LeastLatency && order.len() > 1;
        let led = stuck.filter(|_| !drawn);
        if let Some(led) = led {
            order.swap(0, led);
        }
        if self.group.strategy != Strategy::First {
            order[usize::from(led.is_some())..].sort_unstable();
            order.iter_mut().for_each(|key| *key &= PLACES);
        }
        let mut two = None;
        if drawn {
            let mut rng = fastrand::Rng::with_seed(self.seed);
            let first = rng.usize(..order.len());
            let second = (first + 1 + rng.usize(..order.len() - 1)) % order.len();
            // They stand in order already.
            let (better, worse) = (first.min(second), first.max(second));
            two = Some((order[better], order[worse]));
            lead(order, better);
            let stuck = stuck.and_then(|stuck| order.iter().position(|at| *at == stuck as u64));
            stuck.into_iter().for_each(|stuck| lead(order, stuck));
        }
        for (turn, at) in order.iter().enumerate() {
            let stand = &field[*at as usize];
            let lot = match two {
                Some((better, _)) if better == *at => Lot::Better,
                Some((_, worse)) if worse == *at => Lot::Worse,
                _ => Lot::NotDrawn,
            };
            let drawn = turn == 0 && stuck.is_none() && stand.weight > 0;
            put(stand, Place::Field { drawn, lot, stuck: stuck == Some(*at as usize) });
        }
    }

    /// Keys of which one seed falls on the first; the rest stands by for failover, the heaviest first, equal ones as they were
    /// written.
    fn by_weight(&self, field: &[Stand], keys: &mut Vec<u64>) {
        let total: u64 = field.iter().map(|stand| u64::from(stand.weight)).sum();
        // A weight of 0 is never drawn.
        if total == 0 {
            return keys.extend(0..field.len() as u64);
        }
        let mut mark = fastrand::Rng::with_seed(self.seed).u64(..total);
        let drawn = field.iter().position(|stand| {
            let here = mark < u64::from(stand.weight);
            mark = mark.saturating_sub(u64::from(stand.weight));
            here
        });
        let lighter = |stand: &Stand| u64::from(u32::MAX - stand.weight) << PLACE_BITS;
        let key = |(at, stand): (usize, &Stand)| 1 << (u32::BITS + PLACE_BITS) | lighter(stand) | (at as u64 & PLACES);
        keys.extend(field.iter().enumerate().map(key));
        drawn.into_iter().for_each(|drawn| keys[drawn] &= PLACES);
    }

    /// The lowest score first; among equal ones the seed decides, of quotas the order written.
    fn by_score(&self, field: &[Stand], keys: &mut Vec<u64>) {
        let key = |(at, stand): (usize, &Stand)| {
            // Scores are not negative, so their bits are in their order. One number is quicker to sort than three.
            let score = u64::from(stand.score.max(0.0).to_bits());
            let noise = match self.group.strategy {
                Strategy::Quota => 0,
                _ => mix(self.seed ^ at as u64) >> (64 - NOISE_BITS),
            };
            score << 32 | noise << PLACE_BITS | (at as u64 & PLACES)
        };
        keys.extend(field.iter().enumerate().map(key));
    }

    /// Which one a session keeps to, of those that are not clearly worse than the others.
    fn stuck(&self, stick: u64, field: &[Stand]) -> Option<usize> {
        let lots = field.iter().map(|stand| stand.lot);
        match self.group.strategy {
            Strategy::First => None,
            Strategy::Weighted => sticky::weighted(stick, lots.zip(field.iter().map(|stand| stand.weight))),
            Strategy::Quota => sticky::rendezvous(stick, lots, |_| true),
            Strategy::LeastLatency => {
                let best = least(field, |stand| stand.expected.unwrap_or(f32::INFINITY));
                let near = |time: f32| time <= best * 2.0 + SLACK;
                sticky::rendezvous(stick, lots, |at| field[at].expected.is_none_or(near))
            }
            Strategy::LeastBusy => {
                let sum = field.iter().map(|stand| stand.in_flight).sum::<u64>() as f32;
                let others = field.len().saturating_sub(1).max(1) as f32;
                sticky::rendezvous(stick, lots, |at| {
                    let own = field[at].in_flight as f32;
                    own <= (sum - own) / others * 2.0 + BUSY_SLACK
                })
            }
            Strategy::LeastCost => {
                let best = least(field, |stand| stand.score);
                sticky::rendezvous(stick, lots, |at| field[at].score <= best * CHEAP)
            }
        }
    }
}

/// Of figures that are not negative: their bits are in their order, and compared in a quarter of the time.
fn least(field: &[Stand], of: impl Fn(&Stand) -> f32) -> f32 {
    f32::from_bits(field.iter().map(|stand| of(stand).to_bits()).min().unwrap_or(f32::INFINITY.to_bits()))
}

/// The part of its requests that a target gets; 1: all.
pub fn share(strategy: Strategy, warm_up: Duration, warming: Option<Warming>) -> f32 {
    match warming {
        // Who writes a new target in front wants the next request there.
        Some(Warming { healed: false, .. }) if strategy == Strategy::First => 1.0,
        Some(Warming { since, .. }) if since < warm_up => {
            (since.as_secs_f32() / warm_up.as_secs_f32()).max(LEAST_SHARE)
        }
        _ => 1.0,
    }
}

/// Brings one to the front; the others keep their order.
fn lead(order: &mut [u64], at: usize) {
    let one = order[at];
    order.copy_within(..at, 1);
    order[0] = one;
}

/// A target that warms up begins with this share.
const LEAST_SHARE: f32 = 0.1;
const WARMING: u64 = 0x9e37_79b9_7f4a_7c15;
/// Seconds.
const UNKNOWN: f32 = 1e6;
/// A session leaves its target for one that is twice as fast and this much.
const SLACK: f32 = 0.25;
/// And when it has twice as many requests as others have on the average, and these.
const BUSY_SLACK: f32 = 4.0;
/// And for one that costs a tenth less.
const CHEAP: f32 = 1.1;
const LEAST_LEFT: f32 = 1e-6;
/// Quotas that never come back are used behind those that do, and targets without one behind all quotas.
const NO_RESET: f32 = 1e15;
const NO_QUOTA: f32 = 1e30;
/// Of a key that is sorted: the score's 32 bits, these, and a target's place.
const NOISE_BITS: u32 = 12;
const PLACE_BITS: u32 = 20;
const PLACES: u64 = (1 << PLACE_BITS) - 1;
