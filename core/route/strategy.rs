//! The order in which targets are tried. Pure: the same plan, profile and figures give the same order. Locks nothing, and
//! looks at each target once.
//!
//! In each group first come the targets that are well, open and take part, as the group's strategy ranks them (`scene`); then
//! those that warm up and leave this request to others. Behind all groups stand those without quota, and the ejected.

use std::{
    cell::RefCell,
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use http::HeaderMap;

use super::{
    Group, Health, Plan, Profile, Quotas, Ranked, Standing, Target, Why,
    scene::{Place, Scene, Stand},
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
        ROOM.with_borrow_mut(|(room, order)| {
            order.clear();
            self.walk(live, profile, now, room, |_, stand, _, _| order.push(stand.at));
            self.take(order)
        })
    }

    /// The same, with the reason for each place.
    pub fn rank(&mut self, live: &Live<'_>, profile: &Profile, now: Instant) -> Vec<Ranked> {
        self.leave_out_unfit(profile, live.estimates);
        let (all, mut out): (Vec<&Arc<Target>>, _) = (self.targets().collect(), Vec::new());
        self.walk(live, profile, now, &mut Room::new(), |group, stand, place, standing| {
            out.extend(all.get(stand.at as usize).map(|target| ranked(target, group, stand, place, standing)));
        });
        out
    }

    /// Every target once, the best first.
    #[expect(clippy::mutable_key_type, reason = "told by names, which do not change")]
    fn walk(
        &self,
        live: &Live<'_>,
        profile: &Profile,
        now: Instant,
        room: &mut Room,
        mut put: impl FnMut(&Group, &Stand, Place, Option<Standing>),
    ) {
        let Room { standings, field, late, closed, ejected, keys } = room;
        standings.clear();
        closed.clear();
        ejected.clear();
        let several = self.groups.len() > 1;
        let mut seen: HashSet<Named<'_>, foldhash::fast::RandomState> = HashSet::default();
        let (now, mut before) = (live.health.now(now), 0);
        for (turn, group) in self.groups.iter().enumerate() {
            // Each group draws for itself, so that two aliases of the same weights do not always agree.
            let seed = profile.seed.wrapping_add(turn as u64);
            let answer =
                (group.strategy == Strategy::LeastLatency).then(|| (profile.stream, profile.expected_output(None)));
            let scene = Scene { group, live, profile, now, seed, stick: profile.stick(group.sticky), answer };
            if let Some(quotas) = live.quotas {
                let closely = group.strategy == Strategy::Quota;
                quotas.standings(&group.targets, now.instant, closely, standings);
            }
            field.clear();
            late.clear();
            for (n, target) in group.targets.iter().enumerate() {
                if several && !seen.insert(Named(target)) {
                    continue;
                }
                let (glance, at) = (scene.look(target), before + n as u32);
                let standing: Option<Standing> = standings.get(at as usize).copied().flatten();
                let stand = scene.stand(target, at, &glance, standing);
                if !glance.healthy {
                    ejected.push((turn, stand));
                } else if standing.is_some_and(|standing| !standing.open) {
                    closed.push((turn, stand));
                } else if scene.leaves(&stand) {
                    late.push(stand);
                } else {
                    field.push(stand);
                }
            }
            // Better one that warms up than none.
            if field.is_empty() {
                std::mem::swap(field, late);
            }
            if group.strategy == Strategy::LeastCost {
                let usual = mean(field.iter().filter_map(|stand| stand.output));
                let cost = |stand: &mut Stand| {
                    stand.score = scene.cost(&group.targets[(stand.at - before) as usize], stand.output.or(usual));
                };
                field.iter_mut().chain(&mut *late).for_each(cost);
            }
            before += group.targets.len() as u32;
            let standing = |stand: &Stand| standings.get(stand.at as usize).copied().flatten();
            scene.arrange(field, keys, |stand, place| put(group, stand, place, standing(stand)));
            late.iter().for_each(|stand| put(group, stand, Place::HeldBack, standing(stand)));
        }
        for (behind, place) in [(closed, Place::Closed), (ejected, Place::Ejected)] {
            for (turn, stand) in behind {
                put(&self.groups[*turn], stand, place, standings.get(stand.at as usize).copied().flatten());
            }
        }
    }

    /// The plan's targets in this order, by their places; the plan is empty afterwards, and so is the order.
    fn take(&mut self, order: &mut [u32]) -> Order {
        let mut groups = std::mem::take(&mut self.groups).into_iter().map(|group| group.targets);
        // Most plans are one group, whose list is at hand.
        let mut all = groups.next().unwrap_or_default();
        all.extend(groups.flatten());
        if order.len() != all.len() {
            // Some stand in two groups.
            let mut all: Vec<Option<Arc<Target>>> = all.into_iter().map(Some).collect();
            return order.iter().filter_map(|at| all.get_mut(*at as usize)?.take()).collect();
        }
        // Where the order puts somebody, whoever stood there goes to where that one came from, until all of a circle are right.
        for first in 0..order.len() {
            let mut at = first;
            loop {
                let from = std::mem::replace(&mut order[at], at as u32) as usize;
                if from == first {
                    break;
                }
                all.swap(at, from);
                at = from;
            }
        }
        all
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

thread_local! {
    /// A choice takes no memory but for its order.
    static ROOM: RefCell<(Room, Vec<u32>)> = const { RefCell::new((Room::new(), Vec::new())) };
}

/// What a choice works with. Nothing in it outlives the choice but its memory.
struct Room {
    standings: Vec<Option<Standing>>,
    field: Vec<Stand>,
    late: Vec<Stand>,
    /// With the group's place.
    closed: Vec<(usize, Stand)>,
    ejected: Vec<(usize, Stand)>,
    keys: Vec<u64>,
}

impl Room {
    const fn new() -> Room {
        Room {
            standings: Vec::new(),
            field: Vec::new(),
            late: Vec::new(),
            closed: Vec::new(),
            ejected: Vec::new(),
            keys: Vec::new(),
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

fn ranked(target: &Arc<Target>, group: &Group, stand: &Stand, place: Place, standing: Option<Standing>) -> Ranked {
    let lot = if let Place::Field { lot, .. } = place { lot } else { Lot::NotDrawn };
    let why = match (place, group.strategy) {
        (Place::Ejected, _) => Why::Ejected,
        (Place::Closed, _) => Why::Closed(standing.and_then(|standing| standing.resets_in)),
        (_, Strategy::First) => Why::Listed,
        (_, Strategy::Weighted) => Why::Weight(matches!(place, Place::Field { drawn: true, .. })),
        (_, Strategy::LeastLatency) => Why::Latency(stand.expected, stand.in_flight, lot),
        (_, Strategy::LeastBusy) => Why::Busy(stand.in_flight),
        (_, Strategy::LeastCost) => Why::Cost(Some(stand.score).filter(|score| score.is_finite())),
        (_, Strategy::Quota) => Why::Quota(standing),
    };
    let stuck = group.sticky.filter(|_| matches!(place, Place::Field { stuck: true, .. }));
    let held_back = matches!(place, Place::HeldBack).then_some(stand.share);
    Ranked { target: target.clone(), strategy: group.strategy, why, stuck, held_back }
}

fn mean(all: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = all.fold((0.0, 0u16), |(sum, count), one| (sum + one, count.saturating_add(1)));
    (count > 0).then(|| sum / f32::from(count))
}
