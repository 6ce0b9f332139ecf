//! How each strategy orders targets, what keeps to one, what warms up, and what is left out. Seeded; no clock but the one that is
//! told.

use super::*;
use crate::{account::estimate::Size, auth::bound::Bound, config::Terms};

fn secs(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// An alias `all` of targets `openai/a`, `openai/b`, … with this strategy.
fn of(strategy: Strategy, count: usize) -> Table {
    let names: Vec<String> = (0..count).map(|n| format!("openai/{}", letter(n))).collect();
    let targets: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    built(alias(strategy, &targets, &[]))
}

fn letter(n: usize) -> String {
    if n < 26 { char::from(b'a' + n as u8).to_string() } else { format!("m{n}") }
}

fn built(all: config::Alias) -> Table {
    Table::build(&config(vec![keyed("openai"), keyed("anthropic")], vec![("all", all)])).unwrap()
}

fn stuck(strategy: Strategy, targets: &[(&str, u32)], sticky: Sticky) -> Table {
    built(config::Alias { sticky: Some(sticky), ..alias(strategy, targets, &[]) })
}

fn plan(table: &Table) -> Plan {
    table.resolve("all").unwrap()
}

fn get(table: &Table, name: &str) -> Arc<Target> {
    plan(table).targets().find(|t| *t.name == format!("openai/{name}")).unwrap().clone()
}

/// Streams that began after so long and wrote 100 tokens in so many seconds.
fn streams(health: &Health, target: &Target, first: f64, lasted: f64, now: Instant) {
    let mut flight = health.enter(target, now).unwrap();
    flight.answered(secs(first));
    flight.streamed(100, secs(lasted));
    flight.succeeded();
}

fn stream() -> Profile {
    Profile { stream: true, ..Profile::default() }
}

fn firsts(plan: &Plan, profile: &Profile, health: &Health, now: Instant, seeds: u64) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for seed in 0..seeds {
        let order = ranked(plan, &Profile { seed, ..profile.clone() }, health, now);
        assert_eq!(order.iter().map(|r| &r.target.name).collect::<HashSet<_>>().len(), order.len(), "each once");
        *counts.entry(order[0].target.model.to_string()).or_default() += 1;
    }
    counts
}

#[test]
fn of_two_drawn_the_faster_goes_first() {
    let (table, health, now) = (of(Strategy::LeastLatency, 3), Health::default(), Instant::now());
    for (name, first) in [("a", 0.3), ("b", 0.1), ("c", 0.9)] {
        streams(&health, &get(&table, name), first, 2.0, now);
    }
    let counts = firsts(&plan(&table), &stream(), &health, now, 3000);
    // The best is in two of three draws and wins them; the worst wins none.
    assert!(counts["b"].abs_diff(2000) < 150 && counts["a"].abs_diff(1000) < 150, "{counts:?}");
    assert!(!counts.contains_key("c"), "{counts:?}");
    let behind: Vec<_> =
        ranked(&plan(&table), &stream(), &health, now)[1..].iter().map(|r| r.target.model.to_string()).collect();
    assert_eq!(behind.last().map(String::as_str), Some("c"), "those behind stand in the order of their scores");
}

#[test]
fn what_writes_faster_wins_long_answers_and_what_begins_sooner_wins_short_ones() {
    let (table, health, now) = (of(Strategy::LeastLatency, 2), Health::default(), Instant::now());
    streams(&health, &get(&table, "a"), 0.1, 10.0, now);
    streams(&health, &get(&table, "b"), 1.0, 1.0, now);
    let first = |output| {
        let profile = Profile { output, ..stream() };
        ranked(&plan(&table), &profile, &health, now)[0].target.model.to_string()
    };
    assert_eq!(first(Some(5)), "a", "0.1 + 0.5 s against 1.0 + 0.05 s");
    assert_eq!(first(Some(400)), "b", "40 s against 5 s");
    assert_eq!(first(None), "b");
}

#[test]
fn bad_news_is_believed_at_once_and_fades() {
    let (table, health, start) = (of(Strategy::LeastLatency, 2), Health::default(), Instant::now());
    let (a, b) = (get(&table, "a"), get(&table, "b"));
    for _ in 0..50 {
        streams(&health, &a, 0.1, 1.0, start);
        streams(&health, &b, 0.3, 1.0, start);
    }
    let first = |now| ranked(&plan(&table), &stream(), &health, now)[0].target.model.to_string();
    assert_eq!(first(start), "a");
    streams(&health, &a, 30.0, 1.0, start);
    let now = start + secs(30.0);
    assert_eq!(first(now), "b", "one slow answer after fifty quick ones");
    streams(&health, &a, 0.1, 1.0, now);
    assert_eq!(first(now), "b", "one quick answer does not make up for it");
    let later = now + secs(90.0);
    streams(&health, &a, 0.1, 1.0, later);
    streams(&health, &b, 0.3, 1.0, later);
    assert_eq!(first(later), "a", "after a while it does");
    // Who is never asked any more is asked again when what is known of it is old.
    streams(&health, &a, 5.0, 1.0, later);
    for n in 0..2000 {
        let now = later + secs(f64::from(n));
        if first(now) == "a" {
            assert!(n > 30, "too soon: {n}");
            return;
        }
        streams(&health, &b, 0.3, 1.0, now);
    }
    panic!("a target that was slow once is never asked again");
}

#[test]
fn failures_make_a_target_look_slow_before_its_breaker_opens() {
    let (table, health, now) = (of(Strategy::LeastLatency, 2), Health::default(), Instant::now());
    let (a, b) = (get(&table, "a"), get(&table, "b"));
    streams(&health, &a, 0.1, 1.0, now);
    streams(&health, &b, 0.4, 1.0, now);
    for kind in [Kind::UpstreamRateLimited, Kind::Upstream] {
        health.enter(&a, now).unwrap().failed(&Error::new(kind, ""), now);
        assert_eq!(&*ranked(&plan(&table), &stream(), &health, now)[0].target.model, "b", "{kind:?}");
    }
    assert!(health.is_healthy(&a.name, now));
}

#[test]
fn who_is_not_measured_gets_one_request_to_be_measured_by() {
    let (table, health, now) = (of(Strategy::LeastLatency, 2), Health::default(), Instant::now());
    streams(&health, &get(&table, "a"), 0.1, 1.0, now);
    let first = || ranked(&plan(&table), &stream(), &health, now)[0].target.model.to_string();
    assert_eq!(first(), "b");
    let under_way = health.enter(&get(&table, "b"), now).unwrap();
    assert_eq!(first(), "a", "others wait for what it finds");
    drop(under_way);
    assert_eq!(first(), "b");
}

#[test]
fn requests_under_way_count_against_a_fast_target() {
    let (table, health, now) = (of(Strategy::LeastLatency, 2), Health::default(), Instant::now());
    for (name, first) in [("a", 0.1), ("b", 0.15)] {
        streams(&health, &get(&table, name), first, 1.0, now);
    }
    let mut flights = Vec::new();
    let mut counts = [0, 0];
    for seed in 0..100 {
        let order = ranked(&plan(&table), &Profile { seed, output: Some(1), ..stream() }, &health, now);
        counts[usize::from(&*order[0].target.model == "b")] += 1;
        flights.push(health.enter(&order[0].target, now).unwrap());
    }
    assert!(counts[0] > counts[1] && counts[1] > 30, "{counts:?}");
}

#[test]
fn the_least_busy_goes_first_and_equal_ones_take_turns() {
    let (table, health, now) = (of(Strategy::LeastBusy, 4), Health::default(), Instant::now());
    let counts = firsts(&plan(&table), &Profile::default(), &health, now, 4000);
    assert!(counts.len() == 4 && counts.values().all(|n| n.abs_diff(1000) < 150), "{counts:?}");
    let mut flights = Vec::new();
    for seed in 0..41 {
        let order = order(&plan(&table), seed, &health, now);
        flights.push(health.enter(&order[0], now).unwrap());
    }
    let busy: Vec<u64> = plan(&table).targets().map(|t| health.fare(&t.name, now).in_flight).collect();
    assert!(busy.iter().all(|n| (10..=11).contains(n)), "{busy:?}");
}

/// Targets a (cheap to ask), b (cheap to listen to) and c (nobody knows).
fn priced() -> Table {
    let price = |model: &str, input: i64, output: i64| config::Pricing {
        model: model.to_owned(),
        sheet: config::PriceSheet {
            prices: config::Prices { input: Some(input), output: Some(output), ..config::Prices::default() },
            ..config::PriceSheet::default()
        },
        script: None,
    };
    let all = alias(Strategy::LeastCost, &[("openai/c", 1), ("openai/a", 1), ("openai/b", 1)], &[]);
    let mut config = config(vec![keyed("openai")], vec![("all", all)]);
    config.pricing =
        vec![price("openai/a", 1_000_000_000, 20_000_000_000), price("openai/b", 5_000_000_000, 10_000_000_000)];
    Table::build(&config).unwrap()
}

#[test]
fn the_cheapest_is_the_cheapest_for_this_request() {
    let (table, health, now) = (priced(), Health::default(), Instant::now());
    let names = |text_bytes: u64, output: Option<u64>| {
        let profile = Profile { size: Size { text_bytes, ..Size::default() }, output, ..Profile::default() };
        ranked(&plan(&table), &profile, &health, now)
            .into_iter()
            .map(|r| r.target.model.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(400_000, Some(100)), ["a", "b", "c"], "a long question");
    assert_eq!(names(400, Some(5000)), ["b", "a", "c"], "a long answer; what has no price comes last");
    // What a request allows counts only as far as answers get there.
    assert_eq!(names(40_000, Some(100_000)), ["a", "b", "c"], "512 tokens where nothing is known");
    for name in ["a", "b"] {
        let mut flight = health.enter(&get(&table, name), now).unwrap();
        flight.answered_whole(secs(1.0), 6000);
        flight.succeeded();
    }
    assert_eq!(names(40_000, Some(100_000)), ["b", "a", "c"], "answers turned out to be long");
}

#[test]
fn whose_answers_nobody_heard_yet_is_taken_to_be_as_brief_as_the_others() {
    let (table, health, now) = (priced(), Health::default(), Instant::now());
    let mut flight = health.enter(&get(&table, "a"), now).unwrap();
    flight.answered_whole(secs(1.0), 2);
    // Else the first one heard would stay the cheapest: 2 tokens at 20 against 512 at 10.
    let profile = Profile { size: Size { text_bytes: 8, ..Size::default() }, ..Profile::default() };
    assert_eq!(&*ranked(&plan(&table), &profile, &health, now)[0].target.model, "b");
}

struct Told(Vec<(&'static str, Standing)>);

impl Quotas for Told {
    fn standing(&self, target: &Target, _: Instant) -> Option<Standing> {
        self.0.iter().find(|(name, _)| **name == *target.model).map(|(_, standing)| *standing)
    }
}

fn with_quotas(table: &Table, told: &[(&'static str, bool, f32, Option<u64>)]) -> Vec<(String, Why)> {
    let standing = |(name, open, share_left, hours): &(&'static str, bool, f32, Option<u64>)| {
        let resets_in = hours.map(|hours| Duration::from_secs(hours * 3600));
        (*name, Standing { open: *open, share_left: *share_left, resets_in })
    };
    let (quotas, health, estimates) =
        (Told(told.iter().map(standing).collect()), Health::default(), Estimates::default());
    let live = Live { health: &health, estimates: &estimates, quotas: Some(&quotas) };
    let ranked = plan(table).rank(&live, &Profile::default(), Instant::now());
    ranked.into_iter().map(|r| (r.target.model.to_string(), r.why)).collect()
}

#[test]
fn the_quota_that_would_be_lost_soonest_is_used_first() {
    let table = of(Strategy::Quota, 4);
    let names = |told: &[_]| with_quotas(&table, told).into_iter().map(|(name, _)| name).collect::<Vec<_>>().concat();
    // a has no quota: it is what is left when the others are used up.
    assert_eq!(names(&[("b", true, 1.0, Some(168)), ("c", true, 1.0, Some(2)), ("d", true, 0.5, Some(2))]), "cdba");
    assert_eq!(names(&[]), "abcd", "no quotas: as they were written");
    assert_eq!(names(&[("b", true, 0.5, Some(1)), ("c", true, 0.001, Some(2)), ("d", true, 1.0, None)]), "bcda");
    let closed =
        with_quotas(&table, &[("b", false, 0.0, Some(168)), ("c", false, 0.0, None), ("d", true, 0.1, Some(2))]);
    assert_eq!(closed.iter().map(|(name, _)| name.as_str()).collect::<String>(), "dabc");
    assert_eq!(closed[2].1, Why::Closed(Some(Duration::from_secs(168 * 3600))));
}

#[test]
fn every_strategy_passes_over_what_has_no_quota_left() {
    for strategy in ALL {
        let ranked = with_quotas(&of(strategy, 3), &[("a", false, 0.0, Some(1)), ("b", true, 0.1, Some(1))]);
        assert_eq!(ranked[2], ("a".to_owned(), Why::Closed(Some(Duration::from_secs(3600)))), "{strategy:?}");
    }
}

const ALL: [Strategy; 6] = [
    Strategy::First,
    Strategy::Weighted,
    Strategy::LeastLatency,
    Strategy::LeastBusy,
    Strategy::LeastCost,
    Strategy::Quota,
];

#[test]
fn a_choice_is_the_order_that_an_explained_request_is_told() {
    let mut rng = fastrand::Rng::with_seed(31);
    for round in 0..600u64 {
        let strategy = ALL[round as usize % ALL.len()];
        let names: Vec<String> = (0..rng.usize(3..40)).map(|n| format!("openai/{}", letter(n))).collect();
        let targets: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), rng.u32(0..4))).collect();
        let alias =
            config::Alias { sticky: rng.bool().then_some(Sticky::Session), ..alias(strategy, &targets, &["two"]) };
        // Some stand in both.
        let two = of_alias(ALL[rng.usize(..ALL.len())], &[("openai/b", 1), ("anthropic/b", 2), ("openai/c", 1)]);
        let table =
            Table::build(&config(vec![keyed("openai"), keyed("anthropic")], vec![("all", alias), ("two", two)]));
        let (table, health, now) = (table.unwrap(), Health::default(), Instant::now());
        let mut met = HashSet::new();
        for target in plan(&table).targets().filter(|target| met.insert(target.name.clone())) {
            match rng.u32(0..5) {
                0 => eject(&health, target, now),
                1 | 2 => streams(&health, target, rng.f64() + 0.01, rng.f64() + 0.1, now),
                _ => {}
            }
        }
        let told: Vec<(&'static str, Standing)> = ["a", "b", "c", "d", "e"]
            .iter()
            .filter_map(|name| {
                let resets_in = rng.bool().then(|| secs(rng.f64() * 1e5));
                rng.bool().then_some((*name, Standing { open: rng.bool(), share_left: rng.f32(), resets_in }))
            })
            .collect();
        let (quotas, estimates) = (Told(told), Estimates::default());
        let live = Live { health: &health, estimates: &estimates, quotas: Some(&quotas) };
        let profile = Profile { seed: rng.u64(..), session: Some(rng.u64(..)), ..stream() };
        let ranked: Vec<_> =
            plan(&table).rank(&live, &profile, now).iter().map(|ranked| ranked.target.name.clone()).collect();
        let chosen: Vec<_> =
            plan(&table).choose(&live, &profile, now).iter().map(|target| target.name.clone()).collect();
        assert_eq!(chosen, ranked, "{strategy:?} with seed {}", profile.seed);
        assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), chosen.len(), "each once");
        assert_eq!(chosen.len(), names.len() + 1, "and none is lost");
    }
}

fn of_alias(strategy: Strategy, targets: &[(&str, u32)]) -> config::Alias {
    alias(strategy, targets, &[])
}

#[test]
fn what_a_choice_reads_of_a_target_lies_together() {
    use super::super::hand::AtHand;
    assert_eq!(align_of::<AtHand>(), 64);
    let last = std::mem::offset_of!(AtHand, weight);
    assert!(last < 64, "the weight lies {last} bytes behind the beginning");
    assert!(std::mem::offset_of!(AtHand, flat) >= 64 - size_of::<u64>(), "prices lie behind it");
}

// sticky

#[test]
fn a_session_keeps_to_the_target_whose_clock_rings_first() {
    let mut rng = fastrand::Rng::with_seed(5);
    let names: Vec<String> = (0..30).map(|n| format!("openai/{}", letter(n))).collect();
    let targets: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), rng.u32(0..9))).collect();
    let table = built(alias(Strategy::Weighted, &targets, &[]));
    let plan = plan(&table);
    for stick in (0..2000).map(sticky::mix) {
        for weighted in [false, true] {
            let time = |target: &Target| {
                let draw = sticky::unit(sticky::mix(stick ^ target.at_hand.lot));
                match weighted {
                    true => -draw.ln() / f64::from(target.at_hand.weight),
                    false => 1.0 - draw,
                }
            };
            let rings = plan.targets().map(|target| time(target)).enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            let lots = plan.targets().map(|t| t.at_hand.lot);
            let found = match weighted {
                true => sticky::weighted(stick, lots.zip(plan.targets().map(|t| t.at_hand.weight))),
                false => sticky::rendezvous(stick, lots, |_| true),
            };
            assert_eq!(found, rings.map(|(at, _)| at));
        }
    }
    let none: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 0)).collect();
    let table = built(alias(Strategy::Weighted, &none, &[]));
    assert_eq!(sticky::weighted(1, table.targets().map(|t| (t.at_hand.lot, t.at_hand.weight))), None);
}

fn session(n: u64) -> Profile {
    // As a session's hash is: any number.
    Profile { seed: n.wrapping_mul(7), session: Some(sticky::mix(n)), ..stream() }
}

fn chosen(plan: &Plan, health: &Health, now: Instant, sessions: u64) -> Vec<String> {
    (0..sessions).map(|n| ranked(plan, &session(n), health, now)[0].target.model.to_string()).collect()
}

#[test]
fn sessions_keep_to_their_targets_and_a_lost_target_moves_only_its_own() {
    for strategy in &ALL[1..] {
        let names = [("openai/a", 1), ("openai/b", 1), ("openai/c", 1), ("openai/d", 1), ("openai/e", 1)];
        let table = stuck(*strategy, &names, Sticky::Session);
        let (health, now) = (Health::default(), Instant::now());
        let before = chosen(&plan(&table), &health, now, 2000);
        let count = |all: &[String], name: &str| all.iter().filter(|n| *n == name).count();
        for name in ["a", "b", "c", "d", "e"] {
            assert!(count(&before, name).abs_diff(400) < 100, "{strategy:?}: {name} has {}", count(&before, name));
        }
        assert_eq!(before, chosen(&plan(&table), &health, now, 2000), "the same each time");
        eject(&health, &get(&table, "c"), now);
        let without = chosen(&plan(&table), &health, now, 2000);
        for (was, is) in before.iter().zip(&without) {
            assert!(is != "c" && (was == "c" || was == is), "{strategy:?}: {was} became {is}");
        }
        let moved: Vec<String> =
            before.iter().zip(&without).filter(|(was, _)| *was == "c").map(|(_, is)| is.clone()).collect();
        for name in ["a", "b", "d", "e"] {
            assert!(count(&moved, name) > 50, "{strategy:?}: its sessions spread over the others");
        }
        // A new table with the targets in another order: the same names, the same choice.
        let mut others = names;
        others.reverse();
        assert_eq!(before, chosen(&plan(&stuck(*strategy, &others, Sticky::Session)), &Health::default(), now, 2000));
    }
}

#[test]
fn sessions_are_shared_by_weight_and_none_goes_to_a_weight_of_nothing() {
    let table = stuck(
        Strategy::Weighted,
        &[("openai/a", 6), ("openai/b", 3), ("openai/c", 1), ("openai/d", 0)],
        Sticky::Session,
    );
    let counts = chosen(&plan(&table), &Health::default(), Instant::now(), 5000).into_iter().fold(
        BTreeMap::new(),
        |mut all, name| {
            *all.entry(name).or_insert(0u64) += 1;
            all
        },
    );
    assert!(
        counts["a"].abs_diff(3000) < 200 && counts["b"].abs_diff(1500) < 200 && !counts.contains_key("d"),
        "{counts:?}"
    );
}

#[test]
fn a_session_leaves_a_target_that_is_clearly_worse_and_no_other() {
    let (table, health, now) = (
        stuck(Strategy::LeastLatency, &[("openai/a", 1), ("openai/b", 1)], Sticky::Session),
        Health::default(),
        Instant::now(),
    );
    let (a, b) = (get(&table, "a"), get(&table, "b"));
    streams(&health, &a, 1.0, 1.0, now);
    streams(&health, &b, 1.5, 1.0, now);
    let keeps = |sessions: Vec<String>| sessions.iter().filter(|name| *name == "b").count();
    assert!(
        keeps(chosen(&plan(&table), &health, now, 1000)).abs_diff(500) < 100,
        "half as slow again is not clearly worse"
    );
    streams(&health, &b, 30.0, 1.0, now);
    assert_eq!(keeps(chosen(&plan(&table), &health, now, 1000)), 0);
    let (table, health) =
        (stuck(Strategy::LeastBusy, &[("openai/a", 1), ("openai/b", 1)], Sticky::Session), Health::default());
    let flights: Vec<_> = (0..4).map(|_| health.enter(&get(&table, "b"), now).unwrap()).collect();
    assert!(keeps(chosen(&plan(&table), &health, now, 1000)) > 400, "four requests are not many");
    let more: Vec<_> = (0..100).map(|_| health.enter(&get(&table, "b"), now).unwrap()).collect();
    assert_eq!(keeps(chosen(&plan(&table), &health, now, 1000)), 0, "a hundred are");
    drop((flights, more));
}

#[test]
fn who_names_no_session_gets_the_strategys_own_choice_and_keys_stick_by_key() {
    let (health, now) = (Health::default(), Instant::now());
    let names = [("openai/a", 1), ("openai/b", 1), ("openai/c", 1)];
    let table = stuck(Strategy::LeastBusy, &names, Sticky::Session);
    assert_eq!(firsts(&plan(&table), &Profile::default(), &health, now, 200).len(), 3);
    let by_key = stuck(Strategy::LeastBusy, &names, Sticky::Key);
    let profile = Profile { key: Some(sticky::mix(9)), ..Profile::default() };
    assert_eq!(firsts(&plan(&by_key), &profile, &health, now, 200).len(), 1);
    let ranked = ranked(&plan(&by_key), &profile, &health, now);
    assert_eq!((ranked[0].stuck, ranked[1].stuck), (Some(Sticky::Key), None));
    assert!(ranked[0].told().why.starts_with("this key keeps to it; "), "{:?}", ranked[0].told());
}

// warm-up

#[test]
fn a_healed_target_gets_its_share_by_and_by() {
    let (table, health, start) = (of(Strategy::First, 2), Health::default(), Instant::now());
    let a = get(&table, "a");
    let share = |now| firsts(&plan(&table), &Profile::default(), &health, now, 1000).get("a").copied().unwrap_or(0);
    assert_eq!(share(start), 1000, "what is there from the beginning is warm");
    eject(&health, &a, start);
    assert_eq!(share(start), 0);
    let healed = start + Duration::from_secs(10);
    let mut probe = health.enter(&a, healed).unwrap();
    probe.answered(Duration::ZERO);
    probe.succeeded();
    for (after, expected) in [(0, 100), (3, 100), (15, 500), (27, 900), (30, 1000), (3000, 1000)] {
        let seen = share(healed + Duration::from_secs(after));
        assert!(seen.abs_diff(expected) <= 60, "{seen} of 1000 after {after} s");
    }
    assert!(health.fare(&a.name, healed).warming.is_some());
}

#[test]
fn what_a_reload_brings_warms_up_and_what_was_there_does_not() {
    let (health, now) = (Health::default(), Instant::now());
    let first = of(Strategy::Weighted, 2);
    health.welcome(first.targets(), now);
    let second = of(Strategy::Weighted, 3);
    health.welcome(second.targets(), now);
    let counts = firsts(&plan(&second), &Profile::default(), &health, now, 3000);
    assert!(counts["a"] > 1300 && counts["b"] > 1300 && counts["c"].abs_diff(100) < 60, "{counts:?}");
    health.welcome(of(Strategy::Weighted, 3).targets(), now);
    let later = firsts(&plan(&second), &Profile::default(), &health, now + Duration::from_secs(30), 3000);
    assert!(later.values().all(|n| n.abs_diff(1000) < 150), "{later:?}");
    // Who writes a new target in front wants the next request there.
    let first = built(alias(Strategy::First, &[("openai/z", 1), ("openai/a", 1)], &[]));
    health.welcome(first.targets(), now);
    assert_eq!(firsts(&plan(&first), &Profile::default(), &health, now, 100)["z"], 100);
    // Alone it gets everything: better one that warms up than none.
    for name in ["a", "b"] {
        eject(&health, &get(&second, name), now);
    }
    assert_eq!(firsts(&plan(&second), &Profile::default(), &health, now, 100)["c"], 100);
}

#[test]
fn a_warm_up_of_nothing_is_none_and_sessions_join_once() {
    let (health, now) = (Health::default(), Instant::now());
    let mut all = alias(Strategy::Weighted, &[("openai/a", 1), ("openai/b", 1)], &[]);
    all.sticky = Some(Sticky::Session);
    let table = built(all.clone());
    health.welcome(of(Strategy::Weighted, 1).targets(), now);
    health.welcome(table.targets(), now);
    let mut joined = HashSet::new();
    for after in 0..=30 {
        let here = chosen(&plan(&table), &health, now + Duration::from_secs(after), 500);
        let with: HashSet<usize> = here.iter().enumerate().filter(|(_, name)| *name == "b").map(|(n, _)| n).collect();
        assert!(joined.is_subset(&with), "a session that joined stays");
        joined = with;
    }
    assert!(joined.len().abs_diff(250) < 60, "{}", joined.len());
    all.warm_up = Duration::ZERO;
    let cold = built(all);
    assert_eq!(chosen(&plan(&cold), &health, now, 500).iter().filter(|name| *name == "b").count(), joined.len());
}

// what is left out

#[test]
fn a_target_that_cannot_take_the_request_is_left_out_where_another_can() {
    let models = [("openai/gpt-3.5-turbo-instruct", 1), ("openai/gpt-4o", 1), ("openai/gpt-4.1", 1), ("openai/own", 1)];
    let table = built(alias(Strategy::First, &models, &[]));
    let (health, now, estimates) = (Health::default(), Instant::now(), Estimates::default());
    let live = Live { health: &health, estimates: &estimates, quotas: None };
    let long = |tokens: u64| Size { text_bytes: tokens * 4, ..Size::default() };
    let left = |profile: Profile| {
        let mut plan = plan(&table);
        let names: Vec<String> = plan.rank(&live, &profile, now).iter().map(|r| r.target.model.to_string()).collect();
        (names, plan.passed.into_iter().map(|passed| (passed.name.to_string(), passed.code)).collect::<Vec<_>>())
    };
    let windows: Vec<_> = plan(&table).targets().map(|t| t.limits.context).collect();
    assert_eq!((windows[1], windows[2], windows[3]), (Some(128_000), Some(1_047_576), None), "as the test takes them");
    let (names, passed) = left(Profile { size: long(200_000), ..Profile::default() });
    assert!(
        names.ends_with(&["gpt-4.1".to_owned(), "own".to_owned()]) && !names.contains(&"gpt-4o".to_owned()),
        "{names:?}"
    );
    assert!(passed.contains(&("openai/gpt-4o".to_owned(), "context_window")), "{passed:?}");
    let (names, passed) = left(Profile { size: long(100), ..Profile::default() });
    assert_eq!((names.len(), passed.len()), (4, 0));
    // Where nobody can, all are tried: they know it best.
    let mut only = plan(&table);
    only.groups[0].targets.retain(|t| t.limits.context == Some(128_000));
    let copy = only.groups[0].clone();
    only.groups.push(copy);
    only.rank(&live, &Profile { size: long(200_000), ..Profile::default() }, now);
    assert_eq!((only.targets().count(), only.passed.len()), (2, 0));
}

fn bound_by(policies: &[config::DataPolicy]) -> Principal {
    let bound = |(n, data): (usize, &config::DataPolicy)| {
        let name: Arc<str> = format!("team{n}").into();
        let terms = Terms { data: Some(data.clone()), ..Terms::default() };
        Arc::new(Bound { scope: config::Scope::Team(name.clone()), name, terms: terms.into(), rule: None })
    };
    Principal { terms: policies.iter().enumerate().map(bound).collect(), ..Principal::default() }
}

fn policy(regions: &[&str], retention: Option<u64>, no_training: bool) -> config::DataPolicy {
    config::DataPolicy {
        regions: regions.iter().map(|r| (*r).to_owned()).collect(),
        retention: retention.map(Duration::from_secs),
        no_training,
    }
}

#[test]
fn no_target_outside_the_policy_is_ever_planned() {
    let mut rng = fastrand::Rng::with_seed(7);
    let places = [None, Some("eu"), Some("us"), Some("eu-central-1")];
    let (mut reached, mut refused) = (0, 0);
    for round in 0..400 {
        let handling = |rng: &mut fastrand::Rng| config::Handling {
            region: rng.choice(places).flatten().map(Into::into),
            retention: rng.choice([None, Some(0), Some(60), Some(86_400)]).flatten().map(Duration::from_secs),
            train: rng.choice([None, Some(false), Some(true)]).flatten(),
        };
        let mut providers = vec![keyed("openai"), keyed("anthropic")];
        providers.iter_mut().for_each(|p| p.handling = handling(&mut rng));
        let model = |name: &str, failover: &[&str], rng: &mut fastrand::Rng| {
            let targets = [("openai/a", 1), ("anthropic/b", 1), ("openai/c", 1), ("anthropic/d", 1)];
            let mut made = alias(rng.choice(ALL).unwrap(), &targets, failover);
            made.targets.iter_mut().for_each(|t| {
                t.model = format!("{name}-{}", t.model);
                t.handling = handling(rng);
            });
            made
        };
        let (one, two) = (model("one", &["two", "openai/direct"], &mut rng), model("two", &[], &mut rng));
        let table = Table::build(&config(providers, vec![("one", one), ("two", two)])).unwrap();
        let rules = [
            policy(
                rng.choice([&["eu"][..], &["eu", "eu-central-1"], &[]]).unwrap(),
                rng.choice([None, Some(60)]).flatten(),
                rng.bool(),
            ),
            policy(&[], None, rng.bool()),
        ];
        let caller = bound_by(&rules[..1 + round % 2]);
        let names = ["one", "two", "openai/direct", "anthropic/other", "openai/*"];
        let plans = names
            .iter()
            .map(|name| table.plan(name, &caller))
            .chain([table.resolve_list(&names, &caller), table.resolve_list(&["two", "openai/x"], &caller)]);
        for plan in plans {
            match plan {
                Ok(mut plan) => {
                    let (health, estimates) = (Health::default(), Estimates::default());
                    let live = Live { health: &health, estimates: &estimates, quotas: None };
                    for ranked in plan.rank(&live, &Profile { seed: round as u64, ..stream() }, Instant::now()) {
                        reached += 1;
                        for (_, policy) in caller.data() {
                            assert_eq!(policy.broken_by(&ranked.target.handling), None, "{}", ranked.target.name);
                        }
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!((error.status(), error.code()), (403, "data_policy"), "{error}");
                    assert!(error.message.contains("data policy of team `team"), "{error}");
                }
            }
        }
        for ranked in table.lent(&names.map(str::to_owned), &caller).targets() {
            let broken = caller.data().find_map(|(_, policy)| policy.broken_by(&ranked.handling));
            assert_eq!(broken, None, "{} is lent", ranked.name);
        }
        for card in table.models(&caller) {
            assert!(
                card.id == "mock" || table.plan(&card.id, &caller).is_ok(),
                "{} is listed and cannot be used",
                card.id
            );
        }
    }
    assert!(reached > 500 && refused > 500, "{reached} and {refused}");
}

#[test]
fn a_policy_says_what_a_target_lacks() {
    let lacks = |policy: config::DataPolicy, region: Option<&str>, retention: Option<u64>, train| {
        let retention = retention.map(Duration::from_secs);
        policy.broken_by(&config::Handling { region: region.map(Into::into), retention, train })
    };
    assert_eq!(lacks(policy(&["eu"], None, false), Some("eu"), None, Some(true)), None);
    assert_eq!(lacks(policy(&["eu"], None, false), Some("us"), None, None).unwrap(), "its region is `us`, not `eu`");
    assert!(
        lacks(policy(&["eu", "uk"], None, false), None, None, None)
            .unwrap()
            .contains("no region, and `eu` or `uk` is wanted")
    );
    assert_eq!(lacks(policy(&[], Some(60), false), None, Some(60), None), None);
    assert!(lacks(policy(&[], Some(0), false), None, Some(86_400), None).unwrap().contains("for 1d, not 0s at most"));
    assert!(lacks(policy(&[], Some(0), true), None, None, None).unwrap().matches("state").count() == 2);
    assert_eq!(lacks(policy(&[], None, true), None, None, Some(false)), None);
    assert!(lacks(policy(&[], None, true), None, None, Some(true)).unwrap().contains("trained"));
}

#[test]
fn a_lone_target_is_asked_nothing() {
    struct Nobody;
    impl Quotas for Nobody {
        fn standing(&self, target: &Target, _: Instant) -> Option<Standing> {
            panic!("{} is looked at", target.name)
        }
    }
    let table = of(Strategy::LeastLatency, 1);
    let (health, estimates) = (Health::default(), Estimates::default());
    let live = Live { health: &health, estimates: &estimates, quotas: Some(&Nobody) };
    let (parts, ()) = http::Request::new(()).into_parts();
    let principal = Arc::new(Principal::default());
    let mut cx = crate::context::Context::open(Operation::Chat, Format::OpenaiChat, &parts, principal, secs(1.0));
    let body = r#"{"model":"all","messages":[]}"#;
    let document = crate::codec::document::Document::new(Format::OpenaiChat, body.into(), Default::default()).unwrap();
    let order = plan(&table).order(&live, &mut cx, &document, &http::HeaderMap::new(), Instant::now());
    assert_eq!(order.len(), 1);
}

#[test]
fn a_session_is_found_where_callers_name_it_and_belongs_to_its_tenant() {
    let of = |headers: &[(&'static str, &str)], body: &str, tags: &[(&str, &str)], key: &str| {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        for (name, value) in headers {
            parts.headers.insert(*name, value.parse().unwrap());
        }
        let principal = Arc::new(Principal { key_id: key.into(), ..Principal::default() });
        let mut cx = crate::context::Context::open(Operation::Chat, Format::OpenaiChat, &parts, principal, secs(1.0));
        cx.tags = tags.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let body = format!(r#"{{"model":"all","messages":[]{body}}}"#);
        let document =
            crate::codec::document::Document::new(Format::OpenaiChat, body.into(), Default::default()).unwrap();
        sticky::session(&cx, &document, &parts.headers)
    };
    let s = of(&[("x-portcullis-session-id", "s")], "", &[], "k");
    assert!(s.is_some());
    for same in [
        of(&[("x-session-id", "s")], r#","user":"u""#, &[("session", "t")], "k"),
        of(&[("conversation_id", "t"), ("session_id", "s"), ("x-session-affinity", "u")], "", &[], "k"),
        of(&[], r#","user":"u""#, &[("session", "s")], "k"),
        of(&[], r#","prompt_cache_key":"s","user":"u""#, &[], "k"),
        of(&[], r#","metadata":{"session_id":"s"},"user":"u""#, &[], "k"),
        of(&[], r#","metadata":{"user_id":"s"}"#, &[], "k"),
        of(&[], r#","user":"s""#, &[], "k"),
    ] {
        assert_eq!(same, s);
    }
    assert_ne!(of(&[("x-session-id", "s")], "", &[], "other"), s, "another tenant's session is another");
    for none in [of(&[], "", &[], "k"), of(&[("x-session-id", "")], r#","user":"","metadata":5"#, &[], "k")] {
        assert_eq!(none, None);
    }
}
