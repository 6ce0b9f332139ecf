//! The order in which targets are tried. Pure: the same plan, profile and figures give the same order. Locks nothing, and
//! looks at each target once.
//!
//! In each group first come the targets that are well, open and take part, as the group's strategy ranks them; then those
//! that warm up and leave this request to others. Behind all groups stand those without quota, and the ejected.

use std::{
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;

use super::{
    Group, Health, Plan, Profile, Quotas, Ranked, Standing, Target, Why,
    health::{Answer, Glance, Now, Warming},
    sticky::{self, mix, unit},
    why::Lot,
};
use crate::{
    account::estimate::Estimates,
    codec::document::Document,
    config::Strategy,
    context::{Context, Step},
    quota,
};

/// Targets in the order of trial, each once. Ejected ones stand last: they are tried only if their rest is over by then.
pub type Order = Vec<Arc<Target>>;

/// What is known of targets at the moment of a choice.
#[derive(Clone, Copy)]
pub struct Live<'a> {
    pub health: &'a Health,
    pub estimates: &'a Estimates,
    /// `None`: no target has a quota.
    pub quotas: Option<&'a dyn Quotas>,
}

impl<'a> Live<'a> {
    pub fn new(health: &'a Health, estimates: &'a Estimates) -> Live<'a> {
        let quotas: &'a quota::Quotas = &health.quotas;
        let quotas: Option<&dyn Quotas> = if quotas.is_idle() { None } else { Some(quotas) };
        Live { health, estimates, quotas }
    }
}

impl Plan {
    /// For a request. Leaves targets out that cannot take it, and, for one that is explained, says why. The order takes the
    /// targets with it: the plan may be empty afterwards.
    pub fn order(
        &mut self,
        live: &Live<'_>,
        cx: &mut Context,
        document: &Document,
        client: &HeaderMap,
        now: Instant,
    ) -> Order {
        if let Some(only) = self.only() {
            return vec![only.clone()];
        }
        let profile = Profile::of(self, cx, document, client);
        if !cx.explain {
            return self.choose(live, &profile, now);
        }
        let ranked = self.rank(live, &profile, now);
        if ranked.iter().any(Ranked::says) {
            cx.trace.push(Step::Ranked(ranked.iter().map(Ranked::told).collect()));
        }
        ranked.into_iter().map(|ranked| ranked.target).collect()
    }

    /// The order for a request that nobody asks about.
    pub fn choose(&mut self, live: &Live<'_>, profile: &Profile, now: Instant) -> Order {
        self.leave_out_unfit(profile, live.estimates);
        let count = self.targets().count();
        let mut order = Vec::with_capacity(count);
        self.walk(live, profile, now, |_, stand, _, _| order.push(stand.at));
        let mut groups = std::mem::take(&mut self.groups).into_iter().map(|group| group.targets);
        // Most plans are one group, whose list is at hand.
        let mut all: Vec<Option<Arc<Target>>> = groups.next().unwrap_or_default().into_iter().map(Some).collect();
        all.extend(groups.flatten().map(Some));
        let mut ordered = Vec::with_capacity(count);
        ordered.extend(order.into_iter().filter_map(|at| all.get_mut(at as usize)?.take()));
        ordered
    }

    /// The same, with the reason for each place.
    pub fn rank(&mut self, live: &Live<'_>, profile: &Profile, now: Instant) -> Vec<Ranked> {
        self.leave_out_unfit(profile, live.estimates);
        let mut out = Vec::with_capacity(self.targets().count());
        self.walk(live, profile, now, |group, stand, place, standing| out.push(stand.ranked(group, place, standing)));
        out
    }

    /// Every target once, the best first.
    #[expect(clippy::mutable_key_type, reason = "told by names, which do not change")]
    fn walk<'p>(
        &'p self,
        live: &Live<'_>,
        profile: &Profile,
        now: Instant,
        mut put: impl FnMut(&'p Group, &Stand<'p>, Place, Option<Standing>),
    ) {
        let several = self.groups.len() > 1;
        let mut seen: HashSet<Named<'_>, foldhash::fast::RandomState> = HashSet::default();
        let (mut closed, mut ejected) = (Vec::new(), Vec::new());
        let mut standings: Vec<Option<Standing>> = Vec::new();
        let (now, mut before) = (live.health.now(now), 0);
        for (turn, group) in self.groups.iter().enumerate() {
            // Each group draws for itself, so that two aliases of the same weights do not always agree.
            let seed = profile.seed.wrapping_add(turn as u64);
            let answer =
                (group.strategy == Strategy::LeastLatency).then(|| (profile.stream, profile.expected_output(None)));
            let scene = Scene { group, live, profile, now, seed, stick: profile.stick(group.sticky), answer };
            if let Some(quotas) = live.quotas {
                let closely = group.strategy == Strategy::Quota;
                quotas.standings(&group.targets, now.instant, closely, &mut standings);
            }
            let (mut field, mut late) = (Vec::with_capacity(group.targets.len()), Vec::new());
            for (n, target) in group.targets.iter().enumerate() {
                if several && !seen.insert(Named(target)) {
                    continue;
                }
                let (glance, at) = (scene.look(target), before + n as u32);
                let standing: Option<Standing> = standings.get(at as usize).copied().flatten();
                let stand = scene.stand(target, at, &glance, standing);
                if !glance.healthy {
                    ejected.push((group, stand));
                } else if standing.is_some_and(|standing| !standing.open) {
                    closed.push((group, stand));
                } else if scene.leaves(&stand) {
                    late.push(stand);
                } else {
                    field.push(stand);
                }
            }
            before += group.targets.len() as u32;
            // Better one that warms up than none.
            if field.is_empty() {
                field = std::mem::take(&mut late);
            }
            if group.strategy == Strategy::LeastCost {
                let usual = mean(field.iter().filter_map(|stand| stand.output));
                field.iter_mut().chain(&mut late).for_each(|stand| stand.score = scene.cost(stand, usual));
            }
            let standing = |stand: &Stand<'_>| standings.get(stand.at as usize).copied().flatten();
            scene.arrange(&field, |stand, place| put(group, stand, place, standing(stand)));
            late.iter().for_each(|stand| put(group, stand, Place::HeldBack, standing(stand)));
        }
        let standing = |stand: &Stand<'_>| standings.get(stand.at as usize).copied().flatten();
        closed.iter().for_each(|(group, stand)| put(group, stand, Place::Closed, standing(stand)));
        ejected.iter().for_each(|(group, stand)| put(group, stand, Place::Ejected, standing(stand)));
    }

    /// Every target of the plan, in the order of writing.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.groups.iter().flat_map(|g| &g.targets)
    }

    pub fn is_empty(&self) -> bool {
        self.forks.is_empty() && self.groups.iter().all(|g| g.targets.is_empty())
    }

    fn only(&self) -> Option<&Arc<Target>> {
        match self.groups.as_slice() {
            [group] => match group.targets.as_slice() {
                [only] => Some(only),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A target among those that were met already: told by the hash of its name, and then by the name.
struct Named<'t>(&'t Target);

impl Hash for Named<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.at_hand.lot);
    }
}

impl PartialEq for Named<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Named<'_> {}

/// One group's choice.
struct Scene<'a> {
    group: &'a Group,
    live: &'a Live<'a>,
    profile: &'a Profile,
    now: Now,
    seed: u64,
    stick: Option<u64>,
    /// What latency is asked for; `None`: it is not.
    answer: Answer,
}

/// A target with what was read of it, as far as its place goes by it.
#[derive(Clone, Copy)]
struct Stand<'t> {
    target: &'t Arc<Target>,
    in_flight: u64,
    expected: Option<f32>,
    output: Option<f32>,
    /// Of its requests while it warms up; 1: all.
    share: f32,
    /// What the strategy goes by, the lower the better.
    score: f32,
    /// Among all of the plan.
    at: u32,
}

/// Where a target was put, and what decided it beside its figures.
#[derive(Clone, Copy)]
enum Place {
    Field { drawn: bool, lot: Lot, stuck: bool },
    HeldBack,
    Closed,
    Ejected,
}

impl Stand<'_> {
    fn ranked(&self, group: &Group, place: Place, standing: Option<Standing>) -> Ranked {
        let lot = if let Place::Field { lot, .. } = place { lot } else { Lot::NotDrawn };
        let why = match (place, group.strategy) {
            (Place::Ejected, _) => Why::Ejected,
            (Place::Closed, _) => Why::Closed(standing.and_then(|standing| standing.resets_in)),
            (_, Strategy::First) => Why::Listed,
            (_, Strategy::Weighted) => Why::Weight(matches!(place, Place::Field { drawn: true, .. })),
            (_, Strategy::LeastLatency) => Why::Latency(self.expected, self.in_flight, lot),
            (_, Strategy::LeastBusy) => Why::Busy(self.in_flight),
            (_, Strategy::LeastCost) => Why::Cost(Some(self.score).filter(|score| score.is_finite())),
            (_, Strategy::Quota) => Why::Quota(standing),
        };
        let stuck = group.sticky.filter(|_| matches!(place, Place::Field { stuck: true, .. }));
        let held_back = matches!(place, Place::HeldBack).then_some(self.share);
        Ranked { target: self.target.clone(), strategy: group.strategy, why, stuck, held_back }
    }
}

impl<'a> Scene<'a> {
    #[inline]
    fn look(&self, target: &Target) -> Glance {
        self.live.health.glance(target, self.answer, self.now)
    }

    #[inline]
    fn stand<'t>(&self, target: &'t Arc<Target>, at: u32, glance: &Glance, standing: Option<Standing>) -> Stand<'t> {
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
        Stand { target, in_flight, expected, output, share, score, at }
    }

    /// Nano-dollars; infinite: nobody knows. `usual`: tokens of an answer, on the average of those that are known.
    #[inline]
    fn cost(&self, stand: &Stand<'_>, usual: Option<f32>) -> f32 {
        let at_hand = &stand.target.at_hand;
        let output = f64::from(self.profile.expected_output(stand.output.or(usual)));
        let input = self.profile.size.tokens_at((&stand.target.name, &at_hand.ratio), self.live.estimates);
        let long = || stand.target.rates.as_ref().and_then(|rates| rates.about(input, output));
        at_hand.flat.about(input, output).or_else(long).map_or(f32::INFINITY, |nano| nano as f32)
    }

    /// Is this request none of those that a target gets which warms up? A session joins it once, and stays.
    fn leaves(&self, stand: &Stand<'_>) -> bool {
        stand.share < 1.0 && {
            let draw = mix(self.stick.unwrap_or(mix(self.seed)) ^ stand.target.at_hand.lot ^ WARMING);
            unit(draw) > f64::from(stand.share)
        }
    }

    /// In the strategy's order, the best first.
    fn arrange<'t>(&self, field: &[Stand<'t>], mut put: impl FnMut(&Stand<'t>, Place)) {
        let mut order: Vec<u64> = match self.group.strategy {
            Strategy::First => (0..field.len() as u64).collect(),
            Strategy::Weighted => self.by_weight(field),
            _ => self.by_score(field),
        };
        let mut two = None;
        if self.group.strategy == Strategy::LeastLatency && order.len() > 1 {
            let mut rng = fastrand::Rng::with_seed(self.seed);
            let first = rng.usize(..order.len());
            let second = (first + 1 + rng.usize(..order.len() - 1)) % order.len();
            // They stand in order already.
            let (better, worse) = (order[first.min(second)], order[first.max(second)]);
            lead(&mut order, better);
            two = Some((better, worse));
        }
        let stuck = self.stick.and_then(|stick| {
            if self.group.strategy == Strategy::First {
                return None;
            }
            let near = self.near(field);
            let weighted = self.group.strategy == Strategy::Weighted;
            let all = field.iter().map(|stand| &stand.target.at_hand);
            sticky::rendezvous(stick, weighted, all, |at| near(&field[at]))
        });
        if let Some(stuck) = stuck {
            lead(&mut order, stuck as u64);
        }
        for (turn, at) in order.into_iter().enumerate() {
            let stand = &field[at as usize];
            let lot = match two {
                Some((better, _)) if better == at => Lot::Better,
                Some((_, worse)) if worse == at => Lot::Worse,
                _ => Lot::NotDrawn,
            };
            let drawn = turn == 0 && stuck.is_none() && stand.target.at_hand.weight > 0;
            put(stand, Place::Field { drawn, lot, stuck: stuck == Some(at as usize) });
        }
    }

    /// Which one the seed falls on; the rest stands by for failover, the heaviest first, equal ones as they were written.
    fn by_weight(&self, field: &[Stand<'_>]) -> Vec<u64> {
        let weight = |stand: &Stand<'_>| u64::from(stand.target.at_hand.weight);
        let total: u64 = field.iter().map(weight).sum();
        // A weight of 0 is never drawn.
        if total == 0 {
            return (0..field.len() as u64).collect();
        }
        let mut mark = fastrand::Rng::with_seed(self.seed).u64(..total);
        let drawn = field.iter().position(|stand| {
            let here = mark < weight(stand);
            mark = mark.saturating_sub(weight(stand));
            here
        });
        let behind = |at: usize| if drawn == Some(at) { 0 } else { 1 << (u32::BITS + PLACE_BITS) };
        let lighter = |stand: &Stand<'_>| u64::from(u32::MAX - stand.target.at_hand.weight) << PLACE_BITS;
        sorted(field.iter().enumerate().map(|(at, stand)| behind(at) | lighter(stand) | (at as u64 & PLACES)))
    }

    /// The lowest score first; among equal ones the seed decides, of quotas the order written.
    fn by_score(&self, field: &[Stand<'_>]) -> Vec<u64> {
        let key = |(at, stand): (usize, &Stand<'_>)| {
            // Scores are not negative, so their bits are in their order. One number is quicker to sort than three.
            let score = u64::from(stand.score.max(0.0).to_bits());
            let noise = match self.group.strategy {
                Strategy::Quota => 0,
                _ => mix(self.seed ^ at as u64) >> (64 - NOISE_BITS),
            };
            score << 32 | noise << PLACE_BITS | (at as u64 & PLACES)
        };
        sorted(field.iter().enumerate().map(key))
    }

    /// What a session may keep to: whatever is not clearly worse than the others.
    fn near<'s>(&self, field: &[Stand<'s>]) -> impl Fn(&Stand<'s>) -> bool + use<'s, 'a, '_> {
        fn least<'s>(field: &[Stand<'s>], of: impl Fn(&Stand<'s>) -> f32) -> f32 {
            field.iter().map(of).fold(f32::INFINITY, f32::min)
        }
        let (best, others) = match self.group.strategy {
            Strategy::First | Strategy::Weighted | Strategy::Quota => (0.0, 1),
            Strategy::LeastLatency => (least(field, |stand| stand.expected.unwrap_or(f32::INFINITY)), 1),
            Strategy::LeastBusy => {
                (field.iter().map(|stand| stand.in_flight as f32).sum(), field.len().saturating_sub(1))
            }
            Strategy::LeastCost => (least(field, |stand| stand.score), 1),
        };
        move |stand| match self.group.strategy {
            Strategy::First => false,
            Strategy::Weighted | Strategy::Quota => true,
            Strategy::LeastLatency => stand.expected.is_none_or(|time| time <= best * 2.0 + SLACK),
            Strategy::LeastBusy => {
                let own = stand.in_flight as f32;
                own <= (best - own) / others.max(1) as f32 * 2.0 + BUSY_SLACK
            }
            Strategy::LeastCost => stand.score <= best * CHEAP,
        }
    }
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

fn mean(all: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = all.fold((0.0, 0u16), |(sum, count), one| (sum + one, count.saturating_add(1)));
    (count > 0).then(|| sum / f32::from(count))
}

/// Places by their keys, of which each holds its own.
fn sorted(keys: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut keys: Vec<u64> = keys.collect();
    keys.sort_unstable();
    keys.iter_mut().for_each(|key| *key &= PLACES);
    keys
}

/// Brings one to the front; the others keep their order.
fn lead(order: &mut [u64], one: u64) {
    if let Some(at) = order.iter().position(|other| *other == one) {
        order[..=at].rotate_right(1);
    }
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
