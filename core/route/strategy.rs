//! The order in which targets are tried. Pure: the same plan, profile and figures give the same order. Locks nothing, and
//! looks at each target once.
//!
//! In each group first come the targets that are well, open and take part, as the group's strategy ranks them; then those
//! that warm up and leave this request to others. Behind all groups stand those without quota, and the ejected.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;

use super::{
    Group, Health, Plan, Profile, Ranked, Target, Why,
    health::{Glance, Warming},
    sticky::{self, mix, unit},
    why::Lot,
};
use crate::{
    account::estimate::Estimates,
    codec::document::Document,
    config::Strategy,
    context::{Context, Step},
    quota::{self, Outlook},
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

/// Who knows what is left of targets' quotas. Asked for each target of each choice: reads memory, and waits for nothing.
pub trait Quotas: Sync {
    /// `None`: this target has no quota.
    fn standing(&self, target: &Target, now: Instant) -> Option<Standing>;

    /// For all targets of one choice.
    fn at<'q>(&'q self, now: Instant) -> Box<Standings<'q>> {
        Box::new(move |target| self.standing(target, now))
    }
}

/// How targets' quotas stand at one moment.
pub type Standings<'q> = dyn Fn(&Target) -> Option<Standing> + 'q;

impl Quotas for quota::Quotas {
    fn standing(&self, target: &Target, now: Instant) -> Option<Standing> {
        standing(self.view(now).look(target.at()))
    }

    fn at<'q>(&'q self, now: Instant) -> Box<Standings<'q>> {
        let view = self.view(now);
        Box::new(move |target| standing(view.look(target.at())))
    }
}

fn standing(Outlook { open, left, share, resets_in, lasts, .. }: Outlook) -> Option<Standing> {
    // A window that is not open yet would be over so long after it is: it is as good as one that has just begun.
    let resets_in = resets_in.or(lasts);
    (!open || left != u64::MAX).then_some(Standing { open, share_left: share as f32, resets_in })
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub open: bool,
    /// Of the quota that is nearest to its end: between 0 and 1.
    pub share_left: f32,
    /// Until there is more of it.
    pub resets_in: Option<Duration>,
}

impl Plan {
    /// For a request. Leaves targets out that cannot take it, and, for one that is explained, says why.
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
        let ranked = self.rank(live, &profile, now);
        if cx.explain && ranked.iter().any(Ranked::says) {
            cx.trace.push(Step::Ranked(ranked.iter().map(Ranked::told).collect()));
        }
        ranked.into_iter().map(|ranked| ranked.target).collect()
    }

    pub fn rank(&mut self, live: &Live<'_>, profile: &Profile, now: Instant) -> Vec<Ranked> {
        self.leave_out_unfit(profile, live.estimates);
        let mut seen: HashSet<&str, foldhash::fast::RandomState> = HashSet::default();
        let several = self.groups.len() > 1;
        let quotas = live.quotas.map(|quotas| quotas.at(now));
        let (mut out, mut closed, mut ejected) = (Vec::with_capacity(self.targets().count()), Vec::new(), Vec::new());
        for (turn, group) in self.groups.iter().enumerate() {
            // Each group draws for itself, so that two aliases of the same weights do not always agree.
            let seed = profile.seed.wrapping_add(turn as u64);
            let stick = profile.stick(group.sticky);
            let quotas = quotas.as_deref();
            let mut scene = Scene { group, live, quotas, profile, now, seed, stick, output: None };
            let (mut field, mut late) = (Vec::with_capacity(group.targets.len()), Vec::new());
            for target in group.targets.iter().filter(|t| !several || seen.insert(&*t.name)) {
                let stand = scene.look(target);
                match (stand.glance.healthy, stand.standing) {
                    (false, _) => ejected.push(scene.ranked(&stand, Why::Ejected)),
                    (_, Some(Standing { open: false, resets_in, .. })) => {
                        closed.push(scene.ranked(&stand, Why::Closed(resets_in)));
                    }
                    _ if scene.leaves(&stand) => late.push(stand),
                    _ => field.push(stand),
                }
            }
            // Better one that warms up than none.
            let held_back = !field.is_empty();
            if !held_back {
                field = std::mem::take(&mut late);
            }
            scene.output = mean(field.iter().filter_map(|stand| stand.glance.output));
            for stand in field.iter_mut().chain(&mut late) {
                (stand.score, stand.why) = scene.score(stand);
            }
            scene.arrange(&field, &mut out);
            for stand in &late {
                out.push(Ranked { held_back: Some(stand.share), ..scene.ranked(stand, stand.why) });
            }
        }
        out.append(&mut closed);
        out.append(&mut ejected);
        out
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

/// One group's choice.
struct Scene<'a> {
    group: &'a Group,
    live: &'a Live<'a>,
    /// `None`: no target has one.
    quotas: Option<&'a Standings<'a>>,
    profile: &'a Profile,
    now: Instant,
    seed: u64,
    stick: Option<u64>,
    /// Tokens of an answer, on the average of those that are known.
    output: Option<f32>,
}

/// A target with what was read of it.
struct Stand<'t> {
    target: &'t Arc<Target>,
    glance: Glance,
    standing: Option<Standing>,
    /// Of its requests while it warms up; 1: all.
    share: f32,
    /// What the strategy goes by, the lower the better, and the same for people.
    score: f32,
    why: Why,
}

impl<'a> Scene<'a> {
    fn look(&self, target: &'a Arc<Target>) -> Stand<'a> {
        let latency = self.group.strategy == Strategy::LeastLatency;
        let answer = latency.then(|| (self.profile.stream, self.profile.expected_output(None)));
        let glance = self.live.health.glance(target, answer, self.now);
        let standing = self.quotas.and_then(|standing| standing(target));
        let share = share(self.group.strategy, self.group.warm_up, glance.warming);
        Stand { target, glance, standing, share, score: 0.0, why: Why::Listed }
    }

    /// Is this request none of those that a target gets which warms up? A session joins it once, and stays.
    fn leaves(&self, stand: &Stand<'_>) -> bool {
        stand.share < 1.0 && {
            let draw = mix(self.stick.unwrap_or(mix(self.seed)) ^ stand.target.lot ^ WARMING);
            unit(draw) > f64::from(stand.share)
        }
    }

    /// In the strategy's order, the best first.
    fn arrange(&self, field: &[Stand<'_>], out: &mut Vec<Ranked>) {
        let began = out.len();
        let mut order: Vec<u64> = match self.group.strategy {
            Strategy::First => (0..field.len() as u64).collect(),
            Strategy::Weighted => self.by_weight(field),
            _ => self.by_score(field),
        };
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut drawn = None;
        if self.group.strategy == Strategy::LeastLatency && order.len() > 1 {
            let first = rng.usize(..order.len());
            let second = (first + 1 + rng.usize(..order.len() - 1)) % order.len();
            // They stand in order already.
            let (better, worse) = (order[first.min(second)], order[first.max(second)]);
            lead(&mut order, better);
            drawn = Some((better, worse));
        }
        let stuck = self.stick.and_then(|stick| {
            let near = self.near(field);
            let weighted = self.group.strategy == Strategy::Weighted;
            let all = field.iter().enumerate().filter(|(_, stand)| near(stand));
            sticky::rendezvous(stick, weighted, all.map(|(at, stand)| (at, &**stand.target)))
        });
        if let Some(stuck) = stuck {
            lead(&mut order, stuck as u64);
        }
        for at in order {
            let stand = &field[at as usize];
            let why = match (stand.why, drawn) {
                (Why::Latency(expected, in_flight, _), Some((better, _))) if better == at => {
                    Why::Latency(expected, in_flight, Lot::Better)
                }
                (Why::Latency(expected, in_flight, _), Some((_, worse))) if worse == at => {
                    Why::Latency(expected, in_flight, Lot::Worse)
                }
                (Why::Weight(_), _) => Why::Weight(out.len() == began && stand.target.weight > 0 && stuck.is_none()),
                (why, _) => why,
            };
            let ranked = self.ranked(stand, why);
            out.push(match stuck == Some(at as usize) {
                true => Ranked { stuck: self.group.sticky, ..ranked },
                false => ranked,
            });
        }
    }

    /// Which one the seed falls on; the rest stands by for failover, the heaviest first, equal ones as they were written.
    fn by_weight(&self, field: &[Stand<'_>]) -> Vec<u64> {
        let mut order: Vec<u64> = (0..field.len() as u64).collect();
        let weight = |at: u64| u64::from(field[at as usize].target.weight);
        let total: u64 = order.iter().map(|at| weight(*at)).sum();
        // A weight of 0 is never drawn.
        if total > 0 {
            let mut mark = fastrand::Rng::with_seed(self.seed).u64(..total);
            let drawn = order.iter().copied().find(|at| {
                let here = mark < weight(*at);
                mark = mark.saturating_sub(weight(*at));
                here
            });
            order.sort_by_key(|at| (Some(*at) != drawn, std::cmp::Reverse(weight(*at))));
        }
        order
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
        let mut keys: Vec<u64> = field.iter().enumerate().map(key).collect();
        keys.sort_unstable();
        keys.iter_mut().for_each(|key| *key &= PLACES);
        keys
    }

    fn score(&self, stand: &Stand<'_>) -> (f32, Why) {
        let Glance { in_flight, expected, output, .. } = stand.glance;
        match self.group.strategy {
            Strategy::First => (0.0, Why::Listed),
            Strategy::Weighted => (0.0, Why::Weight(false)),
            Strategy::LeastLatency => {
                let score = match expected {
                    Some(time) => time * (in_flight as f32 + 1.0),
                    // Nobody knows: one request finds out, and others wait for what it finds.
                    None if in_flight == 0 => 0.0,
                    None => UNKNOWN * in_flight as f32,
                };
                (score, Why::Latency(expected, in_flight, Lot::NotDrawn))
            }
            Strategy::LeastBusy => (in_flight as f32, Why::Busy(in_flight)),
            Strategy::LeastCost => {
                let tokens = self.profile.expected_output(output.or(self.output));
                let input = self.profile.size.tokens(&stand.target.name, self.live.estimates);
                let cost = stand.target.rates.as_ref().and_then(|rates| rates.about(input, f64::from(tokens)));
                let cost = cost.map(|nano| nano as f32);
                (cost.unwrap_or(f32::INFINITY), Why::Cost(cost))
            }
            Strategy::Quota => {
                let score = match stand.standing {
                    None => NO_QUOTA,
                    Some(Standing { share_left, resets_in, .. }) => {
                        let left = share_left.clamp(LEAST_LEFT, 1.0);
                        // What is lost soonest, and is most, is used first.
                        resets_in.map_or(NO_RESET / left, |time| time.as_secs_f32() / left)
                    }
                };
                (score, Why::Quota(stand.standing))
            }
        }
    }

    /// What a session may keep to: whatever is not clearly worse than the others.
    fn near<'s>(&self, field: &[Stand<'s>]) -> impl Fn(&Stand<'s>) -> bool + use<'s, 'a, '_> {
        let least = |of: &dyn Fn(&Stand<'s>) -> f32| field.iter().map(of).fold(f32::INFINITY, f32::min);
        let (best, others) = match self.group.strategy {
            Strategy::First | Strategy::Weighted | Strategy::Quota => (0.0, 1),
            Strategy::LeastLatency => (least(&|stand| stand.glance.expected.unwrap_or(f32::INFINITY)), 1),
            Strategy::LeastBusy => {
                (field.iter().map(|stand| stand.glance.in_flight as f32).sum(), field.len().saturating_sub(1))
            }
            Strategy::LeastCost => (least(&|stand| stand.score), 1),
        };
        move |stand| match self.group.strategy {
            Strategy::First => false,
            Strategy::Weighted | Strategy::Quota => true,
            Strategy::LeastLatency => stand.glance.expected.is_none_or(|time| time <= best * 2.0 + SLACK),
            Strategy::LeastBusy => {
                let own = stand.glance.in_flight as f32;
                own <= (best - own) / others.max(1) as f32 * 2.0 + BUSY_SLACK
            }
            Strategy::LeastCost => stand.score <= best * CHEAP,
        }
    }

    fn ranked(&self, stand: &Stand<'_>, why: Why) -> Ranked {
        let target = stand.target.clone();
        Ranked { target, strategy: self.group.strategy, why, stuck: None, held_back: None }
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
