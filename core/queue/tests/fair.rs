//! Turns by themselves: order, shares, debts, and who gives way; much of it on random traffic.

use std::collections::{BTreeMap, HashMap};

use super::*;

/// Serves one place after the other; what each turn costs is told by `cost`. Gives how much each flow had.
fn served(fair: &mut Fair<&'static str>, turns: usize, cost: impl Fn(&str) -> u64) -> BTreeMap<Arc<str>, u64> {
    let mut had = BTreeMap::new();
    for _ in 0..turns {
        let Some(turn) = fair.pop(|_, _, _| true) else { break };
        let real = cost(turn.item);
        *had.entry(turn.owner.flow.clone()).or_default() += real;
        fair.settle(&turn.owner, turn.cost, real);
    }
    had
}

#[test]
fn a_flow_is_served_in_the_order_of_its_coming() {
    let mut fair = Fair::default();
    for n in 0..5 {
        fair.push(team("a"), n);
    }
    let order: Vec<i32> = std::iter::from_fn(|| fair.pop(|_, _, _| true)).map(|turn| turn.item).collect();
    assert_eq!((order, fair.len()), (vec![0, 1, 2, 3, 4], 0));
}

#[test]
fn a_higher_class_goes_first_whoever_came_first() {
    let mut fair = Fair::default();
    for class in [Low, Normal, High, Low, High] {
        fair.push(owner(class, "a", 1), class);
    }
    let order: Vec<Urgency> = std::iter::from_fn(|| fair.pop(|_, _, _| true)).map(|turn| turn.item).collect();
    assert_eq!(order, [High, High, Normal, Low, Low]);
}

#[test]
fn a_newcomer_does_not_stand_behind_anothers_flood() {
    let mut fair = Fair::default();
    for _ in 0..10_000 {
        fair.push(team("flood"), "flood");
    }
    served(&mut fair, 500, |_| 1_000_000);
    fair.push(team("calm"), "calm");
    let turns: Vec<&str> = (0..2).filter_map(|_| fair.pop(|_, _, _| true)).map(|turn| turn.item).collect();
    assert!(turns.contains(&"calm"), "{turns:?}");
}

#[test]
fn places_are_shared_by_time_and_in_proportion() {
    let mut fair = Fair::default();
    // Long answers, short ones, and one team that has three times the share.
    for _ in 0..40_000 {
        fair.push(team("long"), "long");
        fair.push(team("short"), "short");
        fair.push(owner(Normal, "triple", 3), "triple");
    }
    let cost = |item: &str| match item {
        "long" => 5_000_000,
        "short" => 250_000,
        _ => 1_000_000,
    };
    let had = served(&mut fair, 20_000, cost);
    let all: u64 = had.values().sum();
    for (flow, part) in [("long", 0.2), ("short", 0.2), ("triple", 0.6)] {
        let share = had[flow] as f64 / all as f64;
        assert!((share - part).abs() < 0.02, "{flow} has {share:.3} of the time, not {part}");
    }
}

#[test]
fn nobody_starves_and_nobody_saves_up() {
    let mut fair = Fair::default();
    // It had the longest answers there are, alone.
    for _ in 0..50 {
        fair.push(team("a"), "a");
    }
    served(&mut fair, 20, |_| 1 << 50);
    // Another comes with short ones, again and again.
    let mut waits = 0;
    for _ in 0..10_000 {
        fair.push(team("b"), "b");
        let turn = fair.pop(|_, _, _| true).unwrap();
        fair.settle(&turn.owner, turn.cost, 1_000_000);
        if turn.item == "a" {
            break;
        }
        waits += 1;
    }
    assert!(waits <= 122, "a debt is a minute of a place at most, and so is what is ahead: this was {waits} s");
    // Who did not come for long has its share now, and the turns of one burst before it; and so it is however often it comes.
    for _ in 0..100 {
        fair.push(team("idle"), "idle");
    }
    let had = served(&mut fair, 40, |_| 1_000_000);
    assert!((20_000_000..=30_000_000).contains(&had["idle"]), "{had:?}");
}

/// One team waits all the time; another sends sixteen, waits for all of them, and sends again.
#[test]
fn who_comes_in_bursts_has_no_more_than_its_share() {
    let mut fair = Fair::default();
    let (mut had, mut waiting) = (BTreeMap::from([("flood", 0), ("bursts", 0)]), 0);
    for _ in 0..20 {
        fair.push(team("flood"), "flood");
    }
    for _ in 0..4_000 {
        if waiting == 0 {
            (0..16).for_each(|_| drop(fair.push(team("bursts"), "bursts")));
            waiting = 16;
        }
        let turn = fair.pop(|_, _, _| true).unwrap();
        *had.get_mut(turn.item).unwrap() += 1;
        match turn.item {
            "flood" => drop(fair.push(team("flood"), "flood")),
            _ => waiting -= 1,
        }
        fair.settle(&turn.owner, turn.cost, 1_000_000);
    }
    assert!(had["bursts"] <= 2_020, "{had:?}");
}

#[test]
fn the_flow_that_waits_most_gives_way_and_the_lowest_class_before() {
    let mut fair = Fair::default();
    for n in 0..6 {
        fair.push(team("flood"), n);
    }
    for n in 10..12 {
        fair.push(team("calm"), n);
    }
    assert_eq!(fair.make_room(&team("new")), Some(5), "the newest of the flood");
    assert_eq!(fair.make_room(&team("flood")), None, "a flood does not make room for itself");
    assert_eq!(fair.make_room(&owner(Low, "new", 1)), None, "nobody gives way to a lower class");
    fair.push(owner(Low, "low", 1), 20);
    assert_eq!(fair.make_room(&team("flood")), Some(20), "the lowest class before all others");
    assert_eq!(fair.make_room(&owner(High, "boss", 1)), Some(4));
    assert_eq!((fair.len(), fair.waiting(Normal), fair.waiting(Low)), (6, 6, 0));
    // A flow with twice the share may have twice as many waiting.
    assert_eq!(fair.make_room(&owner(Normal, "double", 2)), Some(3));
}

#[test]
fn how_many_are_ahead_is_told_by_class_and_share() {
    let mut fair = Fair::default();
    assert_eq!(fair.ahead(&team("a")), 0);
    for _ in 0..100 {
        fair.push(team("flood"), ());
    }
    assert_eq!(fair.ahead(&team("flood")), 100);
    assert_eq!(fair.ahead(&team("calm")), 1);
    assert_eq!(fair.ahead(&owner(Low, "calm", 1)), 20, "one turn of twenty is its own");
    assert_eq!(fair.ahead(&owner(High, "calm", 1)), 0);
}

/// A model without sets: who came, who left, and in which class.
#[test]
fn on_random_traffic_nobody_is_lost_told_twice_or_passed_by_more_than_is_due() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut fair, mut there, mut next) = (Fair::default(), HashMap::new(), 0u32);
        let (mut turns, mut passed) = (0, 0);
        for _ in 0..2_000 {
            match random.u8(..10) {
                0..5 => {
                    let class = [Low, Normal, High][random.usize(..3)];
                    let who = owner(class, ["a", "b", "c", "d", "e"][random.usize(..5)], random.u32(1..4));
                    let spot = fair.push(who, next);
                    there.insert(next, (class, spot));
                    next += 1;
                }
                5..8 => match fair.pop(|_, _, _| true) {
                    Some(turn) => {
                        let (class, _) = there.remove(&turn.item).expect("it stood in line");
                        assert_eq!(class, turn.owner.class);
                        turns += 1;
                        passed += u32::from(there.values().any(|(other, _)| *other > class));
                        fair.settle(&turn.owner, turn.cost, random.u64(1..5_000_000));
                    }
                    None => assert!(there.is_empty()),
                },
                8 => {
                    let Some(item) = there.keys().next().copied() else { continue };
                    let (_, spot) = there.remove(&item).unwrap();
                    assert_eq!(fair.take(&spot), Some(item));
                    assert_eq!(fair.take(&spot), None, "it is gone already");
                }
                _ => {
                    let class = [Low, Normal, High][random.usize(..3)];
                    let (own, kept) = (fair.waiting(class), fair.len() / 20);
                    if let Some(item) = fair.make_room(&owner(class, "f", 1)) {
                        let (gone, _) = there.remove(&item).expect("it stood in line");
                        assert!(gone <= class || own < kept, "seed {seed}: a higher class gave way");
                        assert!(gone == class || fair.waiting(gone) >= kept, "seed {seed}: what is kept was taken");
                    }
                }
            }
            assert_eq!(fair.len(), there.len(), "seed {seed}");
            assert_eq!([High, Normal, Low].map(|class| fair.waiting(class)).iter().sum::<usize>(), there.len());
        }
        assert!(passed * 5 <= turns, "seed {seed}: {passed} of {turns} turns were before a higher class");
        let rest =
            std::iter::from_fn(|| fair.pop(|_, _, _| true)).filter(|turn| there.remove(&turn.item).is_some()).count();
        assert!(there.is_empty(), "seed {seed}: {rest} came out");
    }
}

/// Random shares and costs, all flows backlogged: each has its share of the time within a few percent.
#[test]
fn on_random_shares_and_costs_each_has_its_part() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let flows: Vec<(Owner, u64)> = (0..random.usize(2..8))
            .map(|n| (owner(Normal, &format!("t{n}"), random.u32(1..6)), random.u64(50_000..3_000_000)))
            .collect();
        let mut fair = Fair::default();
        let mut had: HashMap<Arc<str>, u64> = HashMap::new();
        for (owner, _) in &flows {
            fair.push(owner.clone(), ());
        }
        for _ in 0..60_000 {
            let turn = fair.pop(|_, _, _| true).unwrap();
            // Each has somebody waiting at any time.
            fair.push(turn.owner.clone(), ());
            let (_, usual) = flows.iter().find(|(owner, _)| owner.flow == turn.owner.flow).unwrap();
            let real = random.u64(usual / 2..usual * 3 / 2);
            *had.entry(turn.owner.flow.clone()).or_default() += real;
            fair.settle(&turn.owner, turn.cost, real);
        }
        let (all, shares) = (had.values().sum::<u64>() as f64, flows.iter().map(|(o, _)| o.share).sum::<u32>());
        for (owner, _) in &flows {
            let (share, due) = (had[&owner.flow] as f64 / all, f64::from(owner.share) / f64::from(shares));
            assert!((share / due - 1.0).abs() < 0.05, "seed {seed}: {} has {share:.3}, due {due:.3}", owner.flow);
        }
    }
}

/// Somebody of each class waits at any time, and answers of the lowest take ten times as long.
#[test]
fn a_lower_class_has_a_twentieth_of_the_time_whatever_higher_ones_ask_for() {
    let mut fair = Fair::default();
    let cost = |class| if class == Low { 10_000_000 } else { 1_000_000 };
    let mut had = BTreeMap::from([(High, 0u64), (Normal, 0), (Low, 0)]);
    for class in [High, Normal, Low] {
        // As many as run at a time, and one behind them.
        (0..9).for_each(|_| drop(fair.push(owner(class, "a", 1), class)));
    }
    for _ in 0..20_000 {
        let turn = fair.pop(|_, _, _| true).unwrap();
        fair.push(turn.owner.clone(), turn.item);
        *had.get_mut(&turn.item).unwrap() += cost(turn.item);
        fair.settle(&turn.owner, turn.cost, cost(turn.item));
    }
    let all = had.values().sum::<u64>() as f64;
    for class in [Normal, Low] {
        let part = had[&class] as f64 / all;
        assert!((0.04..0.06).contains(&part), "{class:?} has {part:.3} of the time");
    }
}

#[test]
fn who_is_served_in_its_turn_saves_nothing_up_against_a_higher_class() {
    let mut fair = Fair::default();
    for n in 0..100 {
        fair.push(owner(Low, "a", 1), Low);
        // Now and then a higher one comes, and is the next each time.
        if n % 2 == 0 {
            fair.push(owner(High, "b", 1), High);
            assert_eq!(fair.pop(|_, _, _| true).map(|turn| turn.item), Some(High));
        }
        assert_eq!(fair.pop(|_, _, _| true).map(|turn| turn.item), Some(Low));
        fair.push(owner(Low, "a", 1), Low);
    }
}

#[test]
fn a_part_of_a_full_queue_is_kept_for_a_lower_class() {
    let mut fair = Fair::default();
    for n in 0..40 {
        fair.push(owner(High, "flood", 1), n);
    }
    for n in [39, 38] {
        assert_eq!(fair.make_room(&owner(Low, "calm", 1)), Some(n), "the newest of the flood");
        fair.push(owner(Low, "calm", 1), 100 + n);
    }
    assert_eq!(fair.make_room(&owner(Low, "calm", 1)), None, "two of forty are a twentieth");
    assert_eq!(fair.make_room(&owner(High, "flood", 1)), None, "and stay so");
    assert_eq!(fair.make_room(&owner(High, "boss", 1)), Some(37), "of its own class the flood gives way");
    fair.push(owner(High, "boss", 1), 200);
    fair.push(owner(Low, "calm", 1), 300);
    assert_eq!(fair.make_room(&owner(High, "flood", 1)), Some(300), "what is more than that gives way first");
}
