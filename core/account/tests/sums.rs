//! Sums of the ledger over a store: what they are by, how they age, and that they are the ledger's whatever happens.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    account::{
        Attempt, Record,
        hour::Hour,
        minute::Minute,
        sum::Sum,
        usage::{By, DAY, Kind, OTHER, QUARTER, Sums},
    },
    config::Scope,
    context::{Context, Trace, mint_id},
    model::{Format, Operation, Usage},
    store::{self, Store, Table},
    telemetry::row,
};

impl Sums {
    /// Requests whose lines end at `to` in that hour's file, at once.
    pub(crate) fn add<'r>(&self, records: impl Iterator<Item = &'r Record>, written: Option<(Hour, u64)>) {
        records.for_each(|record| self.count(u64::MAX, record));
        self.land(u64::MAX, written);
    }
}

/// A day and a half into 2030.
const BEGIN: u64 = 1_893_456_000 + 36 * 3600;

fn at(minutes: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN + minutes * 60)
}

/// A request whose attempts cost so much; what is not said is empty.
fn request(when: SystemTime, costs: &[(&str, Option<i64>)], change: impl FnOnce(&mut Record)) -> Record {
    let cx = Context::aside(Operation::Chat, Format::Gemini, Arc::default(), vec![], std::time::Instant::now());
    let mut record = Record { id: mint_id(when), model: "smart".into(), status: 200, ..Record::of(&cx) };
    record.target = costs.last().map(|(target, _)| (*target).into());
    for (target, cost) in costs {
        let usage = Usage { input_tokens: Some(7), output_tokens: Some(3), ..Usage::default() };
        record.charge(Attempt {
            target: (*target).into(),
            usage: cost.map(|_| usage),
            cost_nano_usd: *cost,
            ..attempt()
        });
    }
    change(&mut record);
    record
}

fn attempt() -> Attempt {
    Attempt {
        number: 1,
        target: "up/m".into(),
        outcome: Cow::Borrowed("ok"),
        usage: None,
        cost_nano_usd: None,
        price: None,
        estimated: false,
        took: Duration::from_millis(2),
    }
}

async fn fresh() -> (Arc<dyn Store>, Sums) {
    let store = store::memory();
    let sums = Sums::open(store.clone(), "", at(0)).await.unwrap();
    (store, sums)
}

async fn rows(store: &Arc<dyn Store>, prefix: &[u8]) -> usize {
    store.scan(Table::Reports, prefix, None, 1_000_000).await.unwrap().len()
}

async fn by(sums: &Sums, name: impl Fn(&By<'_>) -> String) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let each = sums.each(Minute(0), Minute::MAX, |_, by, sum| {
        *found.entry(name(by)).or_default() += sum.cost_nano_usd;
    });
    each.await.unwrap();
    found
}

#[tokio::test]
async fn every_scope_knows_what_it_spent() {
    let (_store, sums) = fresh().await;
    let all = [
        request(at(0), &[("up/m", Some(1))], |r| {
            (r.team, r.user, r.organisation) = (Some("red".into()), Some("ann".into()), Some("acme".into()));
            r.key_id = "key_1".into();
            r.tags = vec![("env".into(), "prod".into()), ("app".into(), "web".into())];
        }),
        request(at(1), &[("sick/m", Some(10)), ("up/m", Some(100))], |r| {
            (r.team, r.organisation) = (Some("blue".into()), Some("acme".into()));
            r.tags = vec![("env".into(), "prod".into()), ("env".into(), "prod".into())];
        }),
        request(at(2), &[("up/n", Some(1_000))], |r| r.model = "other".into()),
    ];
    let expected = [
        (Scope::Organisation("acme".into()), 111),
        (Scope::Team("red".into()), 1),
        (Scope::Team("blue".into()), 110),
        (Scope::User("ann".into()), 1),
        (Scope::Key("key_1".into()), 1),
        (Scope::Model("smart".into()), 111),
        (Scope::Model("other".into()), 1_000),
        (Scope::Provider("up".into()), 1_101),
        (Scope::Provider("sick".into()), 10),
        (Scope::Tag("env=prod".into()), 111),
        (Scope::Tag("app=web".into()), 1),
        (Scope::Tag("env".into()), 0),
        (Scope::Team("nobody".into()), 0),
    ];
    for (n, record) in all.iter().enumerate() {
        sums.add([record].into_iter(), None);
        // From memory, from the store, and from both.
        if n == 1 {
            sums.checkpoint().await.unwrap();
        }
    }
    for _ in 0..2 {
        for (scope, spent) in &expected {
            assert_eq!(sums.spent(scope, at(0), None).await.unwrap(), *spent, "{scope:?}");
            assert_eq!(sums.spent(scope, at(0), Some(at(0))).await.unwrap(), 0, "{scope:?}");
        }
        sums.checkpoint().await.unwrap();
    }
    assert_eq!(sums.spent(&Scope::Provider("up".into()), at(0), Some(at(2))).await.unwrap(), 101);
    assert_eq!(sums.spent(&Scope::Provider("up".into()), at(15), None).await.unwrap(), 0);
}

#[tokio::test]
async fn what_was_spent_is_remembered_and_stays_true_while_more_comes() {
    let (store, sums) = fresh().await;
    let key = |n: u64| Scope::Key(format!("key_{n}").as_str().into());
    let mut random = fastrand::Rng::with_seed(3);
    let mut expected = vec![0u64; 50];
    for round in 0..40u64 {
        for _ in 0..10 {
            let (n, cost) = (random.u64(0..50), random.i64(0..1_000_000));
            let id = format!("key_{n}");
            sums.add([request(at(round), &[("up/m", Some(cost))], |r| r.key_id = id.as_str().into())].iter(), None);
            expected[n as usize] += cost as u64;
        }
        // Asked at any moment, for windows that hold all of it, a part and nothing.
        for n in [0, 7, random.u64(0..50)] {
            assert_eq!(sums.spent(&key(n), at(0), None).await.unwrap(), expected[n as usize], "round {round}");
            assert_eq!(sums.spent(&key(n), SystemTime::UNIX_EPOCH, None).await.unwrap(), expected[n as usize]);
            assert_eq!(sums.spent(&key(n), at(0), Some(at(0))).await.unwrap(), 0);
            assert_eq!(sums.spent(&key(n), at(600), None).await.unwrap(), 0);
        }
        if round % 7 == 0 {
            sums.checkpoint().await.unwrap();
        }
    }
    let all = expected.iter().sum::<u64>();
    assert_eq!(sums.spent(&Scope::Provider("up".into()), at(0), None).await.unwrap(), all);
    sums.checkpoint().await.unwrap();
    let again = Sums::open(store, "", at(0)).await.unwrap();
    assert_eq!(again.spent(&Scope::Provider("up".into()), at(0), None).await.unwrap(), all);
}

#[tokio::test]
async fn sums_age_from_minutes_to_quarters_to_days_to_one_and_nothing_is_lost() {
    let (store, sums) = fresh().await;
    let keep = Duration::from_secs(400 * 86_400);
    let mut spent = 0;
    for minute in 0..180u64 {
        let record = request(at(minute), &[("up/m", Some(minute as i64))], |r| {
            r.team = Some(["red", "blue"][minute as usize % 2].into());
            r.tags = vec![("n".into(), (minute % 3).to_string())];
        });
        sums.add([record].iter(), None);
        spent += minute;
    }
    sums.checkpoint().await.unwrap();
    let total = async || by(&sums, |_| String::new()).await.into_values().sum::<u64>();
    assert_eq!((rows(&store, b"m").await, total().await), (180, spent));
    // The next day but one: quarters, of 2 teams × 3 tags.
    sums.sweep(at(2 * 1440), keep).await.unwrap();
    assert_eq!((rows(&store, b"m").await, rows(&store, b"q").await, total().await), (0, 12 * 6, spent));
    // What comes late goes to its quarter, and is added to what is there.
    let late = |minute| {
        request(at(minute), &[("up/m", Some(5_000))], |r| {
            r.team = Some("red".into());
            r.tags = vec![("n".into(), "0".into())];
        })
    };
    sums.add([late(2), late(4)].iter(), None);
    sums.checkpoint().await.unwrap();
    assert_eq!((rows(&store, b"m").await, rows(&store, b"q").await, total().await), (0, 12 * 6, spent + 10_000));
    let mut windows = BTreeMap::new();
    sums.each(Minute(0), Minute::MAX, |at, _, sum| *windows.entry(at).or_insert(0) += sum.cost_nano_usd).await.unwrap();
    assert!(windows.len() == 12 && windows.keys().all(|at| at.0.is_multiple_of(QUARTER)), "{windows:?}");
    // A hundred days later: days.
    sums.sweep(at(100 * 1440), keep).await.unwrap();
    assert_eq!((rows(&store, b"q").await, rows(&store, b"d").await, total().await), (0, 6, spent + 10_000));
    let day = Minute::of(at(0)).within(DAY);
    let mut seen = 0;
    sums.each(day, day.plus(DAY), |_, _, sum| seen += sum.cost_nano_usd).await.unwrap();
    assert_eq!(seen, spent + 10_000, "it is of its day");
    // After what is kept: one sum a team, a tag and so on, and budgets of all time still know.
    sums.sweep(at(500 * 1440), keep).await.unwrap();
    assert_eq!((rows(&store, b"d").await, total().await), (0, 0));
    for (scope, expected) in
        [(Scope::Team("red".into()), 10_000 + 8_010), (Scope::Provider("up".into()), spent + 10_000)]
    {
        assert_eq!(sums.spent(&scope, SystemTime::UNIX_EPOCH, None).await.unwrap(), expected, "{scope:?}");
        assert_eq!(sums.spent(&scope, at(0), None).await.unwrap(), 0, "it is older");
    }
    let mut tags = BTreeMap::new();
    sums.older(Kind::Tag, |tag, sum| *tags.entry(tag.to_owned()).or_insert(0) += sum.requests).await.unwrap();
    assert_eq!(tags, [("n=0", 62), ("n=1", 60), ("n=2", 60)].map(|(t, n)| (t.to_owned(), n)).into());
    // And again on top.
    sums.add([late(500 * 1440)].iter(), None);
    sums.checkpoint().await.unwrap();
    sums.sweep(at(1000 * 1440), keep).await.unwrap();
    let red = sums.spent(&Scope::Team("red".into()), SystemTime::UNIX_EPOCH, None).await.unwrap();
    assert_eq!(red, 10_000 + 8_010 + 5_000);
}

#[tokio::test]
async fn names_that_callers_make_up_are_bounded_and_nothing_of_them_is_lost() {
    let (store, sums) = fresh().await;
    let mut spent = 0;
    for n in 0..35_000u64 {
        let record = request(at(n % 60), &[("up/m", Some(1))], |r| {
            r.team = Some("red".into());
            r.key_id = format!("key_{}", n % 20_000).as_str().into();
            r.model = format!("up/{n}");
            r.tags = vec![("session".into(), n.to_string()), ("env".into(), "prod".into())];
        });
        sums.add([record].iter(), None);
        spent += 1;
    }
    sums.checkpoint().await.unwrap();
    let tags = by(&sums, |by| by.tags().next_back_or_other()).await;
    assert!(tags.len() <= 203, "{}", tags.len());
    assert!(tags.contains_key(&format!("session={OTHER}")), "{:?}", tags.keys().take(3).collect::<Vec<_>>());
    assert_eq!(by(&sums, |by| by.team.to_owned()).await, [("red".to_owned(), spent)].into());
    assert_eq!(by(&sums, |by| by.provider().to_owned()).await, [("up".to_owned(), spent)].into());
    let sets = by(&sums, |by| format!("{by:?}")).await;
    assert!(sets.len() <= 30_001, "{}", sets.len());
    assert!(rows(&store, b"m").await <= 60_000);
    // A name that was there before still has its own row.
    let first = request(at(59), &[("up/m", Some(1))], |r| {
        r.team = Some("red".into());
        r.key_id = "key_0".into();
        r.model = "up/0".into();
        r.tags = vec![("session".into(), "0".into()), ("env".into(), "prod".into())];
    });
    sums.add([first].iter(), None);
    assert_eq!(sums.spent(&Scope::Model("up/0".into()), at(0), None).await.unwrap(), 2);
    // Nor do many names of tags.
    let (_store, sums) = fresh().await;
    for n in 0..500 {
        sums.add([request(at(0), &[("up/m", Some(1))], |r| r.tags = vec![(format!("t{n}"), "x".into())])].iter(), None);
    }
    let names = by(&sums, |by| by.tags().collect()).await;
    assert_eq!((names.len(), names[OTHER]), (65, 500 - 64));
}

/// A note never holds what the file does not: after a crash that would be counted and gone. No report tells it either, because a
/// crash would take it back; budgets have to know it all the same.
#[tokio::test]
async fn what_is_not_in_the_file_yet_counts_for_budgets_and_is_neither_told_nor_noted() {
    let (store, sums) = fresh().await;
    let red = request(at(0), &[("up/m", Some(5))], |r| r.team = Some("red".into()));
    let teams = async |sums: &Sums| by(sums, |by| by.team.to_owned()).await;
    sums.count(1, &red);
    sums.count(2, &red);
    sums.checkpoint().await.unwrap();
    assert_eq!(rows(&store, b"m").await, 0);
    assert_eq!(teams(&sums).await, [].into());
    // Budgets ask before and after it is written.
    let scope = Scope::Team("red".into());
    assert_eq!(sums.spent(&scope, at(0), None).await.unwrap(), 10);
    sums.land(1, Some((Hour(1), 10)));
    assert_eq!(teams(&sums).await, [("red".to_owned(), 5)].into());
    sums.checkpoint().await.unwrap();
    assert_eq!(teams(&Sums::open(store.clone(), "", at(0)).await.unwrap()).await, [("red".to_owned(), 5)].into());
    sums.land(2, None);
    sums.checkpoint().await.unwrap();
    assert_eq!(teams(&sums).await, [("red".to_owned(), 10)].into());
    assert_eq!(sums.spent(&scope, at(0), None).await.unwrap(), 10);
}

trait Last {
    fn next_back_or_other(self) -> String;
}

impl<'a, I: Iterator<Item = &'a str>> Last for I {
    fn next_back_or_other(self) -> String {
        self.last().unwrap_or("").to_owned()
    }
}

#[tokio::test]
async fn gateways_on_one_store_add_up_beside_each_other() {
    let store = store::memory();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Sums::open(store.clone(), name, at(0)).await.unwrap());
    }
    for round in 0..20u64 {
        for (n, sums) in nodes.iter().enumerate() {
            sums.add([request(at(round), &[("up/m", Some(n as i64 + 1))], |_| {})].iter(), Some((Hour(1), round)));
            sums.checkpoint().await.unwrap();
        }
    }
    for sums in &nodes {
        assert_eq!(sums.spent(&Scope::Provider("up".into()), at(0), None).await.unwrap(), 20 * 6);
    }
    // Each puts its own old rows together.
    for (n, sums) in nodes.iter().enumerate() {
        sums.sweep(at(3 * 1440), Duration::from_secs(400 * 86_400)).await.unwrap();
        assert_eq!(rows(&store, b"m").await, 20 * (2 - n));
        assert_eq!(sums.spent(&Scope::Provider("up".into()), at(0), None).await.unwrap(), 20 * 6);
    }
    // What a gateway leaves behind that is gone is put together by the others, once.
    for sums in &nodes {
        sums.add([request(at(6 * 1440), &[("up/m", Some(100))], |_| {})].iter(), None);
        sums.checkpoint().await.unwrap();
    }
    let [a, b, _gone] = nodes.as_slice() else { panic!("three") };
    for (sums, day) in [(a, 8), (b, 8), (a, 12), (b, 12), (a, 13), (b, 13)] {
        sums.sweep(at(day * 1440), Duration::from_secs(400 * 86_400)).await.unwrap();
        let left = if day == 8 { 1 } else { 0 };
        assert!(rows(&store, b"m").await <= left + 1, "day {day}");
        assert_eq!(b.spent(&Scope::Provider("up".into()), at(0), None).await.unwrap(), 20 * 6 + 300, "day {day}");
    }
    assert_eq!(rows(&store, b"m").await, 0);
    let again = Sums::open(store.clone(), "b", at(0)).await.unwrap();
    assert_eq!((again.covered(Hour(1)), nodes[0].covered(Hour(1))), (Some(19), Some(19)));
    let fresh = Sums::open(store, "d", at(0)).await.unwrap();
    assert_eq!(fresh.covered(Hour(1)), Some(0));
}

/// Requests of every shape are counted, noted, lost with a process and counted again from their lines, while time passes
/// and old rows are put together: the sums are always those of the rows.
#[tokio::test]
async fn sums_are_those_of_the_ledger_for_any_requests_kills_and_replays() {
    let rounds: u64 = if crate::config::env::var("PORTCULLIS_LONG").is_some() { 200 } else { 20 };
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let store = store::memory();
        let mut sums = Sums::open(store.clone(), "", at(0)).await.unwrap();
        // The lines of each hour, as the files would hold them; and what they say.
        let mut lines: BTreeMap<Hour, Vec<u8>> = BTreeMap::new();
        let mut expected: BTreeMap<String, Sum> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..60 {
            now += random.u64(0..200);
            let hour = Hour::of(at(now));
            let batch: Vec<Record> = (0..random.usize(0..6)).map(|_| any(&mut random, now)).collect();
            for record in &batch {
                count(record, &mut expected);
                let file = lines.entry(hour).or_default();
                row::write(record, Some(&Trace::default()), &row::Stamp::of(at(now)), file);
                file.push(b'\n');
            }
            let end = lines.get(&hour).map_or(0, |file| file.len() as u64);
            sums.add(batch.iter(), Some((hour, end)));
            match random.u8(0..6) {
                0 | 1 => sums.checkpoint().await.unwrap(),
                2 => {
                    sums.checkpoint().await.unwrap();
                    sums.sweep(at(now), Duration::from_secs(40 * 86_400)).await.unwrap();
                }
                3 => {
                    // Killed: what was not noted is in the lines alone.
                    sums = Sums::open(store.clone(), "", at(now)).await.unwrap();
                    for (hour, file) in &lines {
                        let Some(from) = sums.covered(*hour) else { continue };
                        sums.replay(&file[usize::try_from(from).unwrap()..], *hour, file.len() as u64);
                    }
                }
                _ => {}
            }
            if random.u8(0..8) == 0 {
                now += random.u64(0..20 * 1440);
            }
        }
        let mut found: BTreeMap<String, Sum> = BTreeMap::new();
        let each = sums.each(Minute(0), Minute::MAX, |_, by, sum| spread(by.each(), sum, &mut found));
        each.await.unwrap();
        for kind in
            [Kind::All, Kind::Organisation, Kind::Team, Kind::User, Kind::Key, Kind::Model, Kind::Target, Kind::Tag]
        {
            let older = sums.older(kind, |id, sum| spread([(kind, id)].into_iter(), sum, &mut found));
            older.await.unwrap();
        }
        assert_eq!(found, expected, "seed {seed}");
    }
}

fn spread<'a>(by: impl Iterator<Item = (Kind, &'a str)>, sum: &Sum, into: &mut BTreeMap<String, Sum>) {
    for (kind, id) in by {
        into.entry(format!("{kind:?} {id}")).or_default().add(sum);
    }
}

/// The same by hand: what each row of a record says, under all that it is by.
fn count(record: &Record, expected: &mut BTreeMap<String, Sum>) {
    let mut tags: Vec<String> = record.tags.iter().map(|(n, v)| format!("{n}={v}")).collect();
    tags.sort();
    tags.dedup();
    let mut put = |target: &str, sum: Sum| {
        let model = if record.target.is_none() { "" } else { &record.model };
        let mut by: Vec<(Kind, &str)> = vec![
            (Kind::All, ""),
            (Kind::Organisation, record.organisation.as_deref().unwrap_or("")),
            (Kind::Team, record.team.as_deref().unwrap_or("")),
            (Kind::User, record.user.as_deref().unwrap_or("")),
            (Kind::Key, &record.key_id),
            (Kind::Model, model),
            (Kind::Target, target),
        ];
        by.extend(tags.iter().map(|tag| (Kind::Tag, tag.as_str())));
        if tags.is_empty() {
            by.push((Kind::Tag, ""));
        }
        spread(by.into_iter(), &sum, expected);
    };
    put(
        record.target.as_deref().unwrap_or(""),
        Sum { requests: 1, errors: u64::from(record.status >= 400), ..Sum::default() },
    );
    for row in &record.ledger {
        let mut sum = Sum::default();
        sum.use_up(row.usage.as_ref(), row.cost_nano_usd, row.estimated);
        put(&row.target, sum);
    }
}

/// A request as it may turn out: refused before anything was tried, failed over, estimated, of an unknown price, cached.
fn any(random: &mut fastrand::Rng, now: u64) -> Record {
    // A stream may have begun long before it is settled.
    let began = now.saturating_sub(if random.u8(0..10) == 0 { random.u64(0..2_000) } else { 0 });
    let mut record = request(at(began), &[], |r| {
        r.team = random.bool().then(|| format!("team {}", random.u8(0..3)).as_str().into());
        r.user = random.bool().then(|| "ann".into());
        r.organisation = random.bool().then(|| "acme".into());
        r.key_id = ["", "key_1", "key_2"][random.usize(0..3)].into();
        r.model = format!("m\"{}", random.u8(0..3));
        r.status = [200, 200, 400, 499, 502][random.usize(0..5)];
        // The order in which they stand says nothing.
        r.tags = (0..random.u8(0..3)).map(|n| (format!("t{}", 2 - n), random.u8(0..3).to_string())).collect();
    });
    for number in 1..=random.u32(0..4) {
        let usage = Usage {
            input_tokens: random.bool().then(|| random.u64(0..1 << 40)),
            output_tokens: random.bool().then(|| random.u64(0..1 << 40)),
            cache_read_tokens: random.bool().then(|| random.u64(0..1 << 40)),
            cache_write_tokens: random.bool().then(|| random.u64(0..1 << 40)),
            reasoning_tokens: random.bool().then(|| random.u64(0..1 << 40)),
            ..Usage::default()
        };
        let target: Arc<str> = ["up/m", "up/n", "sick/m"][random.usize(0..3)].into();
        record.target = Some(target.clone());
        record.charge(Attempt {
            number,
            target,
            usage: random.bool().then_some(usage),
            cost_nano_usd: (random.u8(0..5) > 0).then(|| random.i64(0..9_000_000_000_000)),
            estimated: random.bool(),
            ..attempt()
        });
    }
    record
}

#[tokio::test]
async fn sums_of_a_former_version_move_and_are_added_to() {
    let store = store::memory();
    let old = |hour: u32, names: &str| [&hour.to_be_bytes()[..], names.as_bytes()].concat();
    let mut sum = Sum::default();
    sum.use_up(None, Some(500), false);
    let first = Hour::of(at(0)).0;
    let mark = [first.to_be_bytes().to_vec(), 77u64.to_be_bytes().to_vec()].concat();
    let mut batch = vec![
        store::Op::put(Table::Usage, old(0, ""), mark),
        store::Op::put(Table::Usage, old(1, "red\0\0\0"), sum.bytes()),
    ];
    batch.extend((0..1_200).map(|n| {
        store::Op::put(Table::Usage, old(first - n % 24, &format!("red\0key_{n}\0smart\0up/m")), sum.bytes())
    }));
    store.write(batch).await.unwrap();
    let sums = Sums::open(store.clone(), "", at(0)).await.unwrap();
    assert_eq!(sums.covered(Hour(first)), Some(77));
    assert!(store.scan(Table::Usage, &[], None, 1).await.unwrap().is_empty());
    let red = Scope::Team("red".into());
    assert_eq!(sums.spent(&red, SystemTime::UNIX_EPOCH, None).await.unwrap(), 1_201 * 500);
    assert_eq!(sums.spent(&Scope::Key("key_7".into()), SystemTime::UNIX_EPOCH, None).await.unwrap(), 500);
    sums.add([request(at(0), &[("up/m", Some(1))], |r| r.team = Some("red".into()))].iter(), None);
    sums.checkpoint().await.unwrap();
    let sums = Sums::open(store, "", at(0)).await.unwrap();
    assert_eq!(sums.spent(&red, SystemTime::UNIX_EPOCH, None).await.unwrap(), 1_201 * 500 + 1);
}
