//! The scripts that count in Redis against the pure arithmetic, on a real redis-server: the same claims at the same moments, the
//! same answers to the unit. And what only the store has: leases, batches that come twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    budget::{Counter, Short},
    gcra::{Bucket, Rate, Refused},
    window::Days,
};

use crate::store::tests::server::{Reply, Server};

const TAKE: &str = include_str!("../../store/redis/take.lua");
const SETTLE: &str = include_str!("../../store/redis/settle.lua");
const RENEW: &str = include_str!("../../store/redis/renew.lua");

#[derive(Debug, Clone)]
struct Want {
    counter: usize,
    has: u64,
    wants: u64,
    shadow: bool,
}

/// What is compared: a form and a bound each.
const COUNTERS: [(&str, u64); 8] = [
    ("bucket", 1),
    ("bucket", 6_000),
    ("bucket", 100_000_000_000),
    ("sum", 40),
    ("sum", 1_000_000_000_000_000),
    ("places", 3),
    ("money", 1_000),
    ("money", 9_000_000_000_000_000),
];

/// The same in plain Rust.
#[derive(Debug, Clone, Default)]
struct Model {
    buckets: BTreeMap<usize, Bucket>,
    sums: BTreeMap<usize, Days>,
    places: BTreeMap<usize, BTreeSet<u64>>,
    money: BTreeMap<usize, Counter>,
}

/// Why one is in the way, and the milliseconds; or what is left, and until all is.
type Judged = Result<(u64, u64), (i64, u64)>;

impl Model {
    fn take(&mut self, id: u64, want: &Want, now: u64) -> Judged {
        let (form, bound) = COUNTERS[want.counter];
        let more = want.wants.saturating_sub(want.has);
        let at = want.counter;
        match form {
            "bucket" => {
                let bucket = self.buckets.entry(at).or_default();
                let rate = Rate::a_minute(bound);
                bucket.take(now, more, rate).map_err(|refused| match refused {
                    Refused::Wait(wait) => (1, wait.as_millis() as u64),
                    Refused::TooMuch => (2, 0),
                })?;
                let standing = bucket.standing(now, rate);
                Ok((standing.left, standing.full_after.as_millis() as u64))
            }
            "sum" => {
                let days = self.sums.entry(at).or_default();
                if !days.take(1, more, bound) {
                    return Err((3, 0));
                }
                Ok((bound - days.of(1), 0))
            }
            "places" => {
                let held = self.places.entry(at).or_default();
                if more > 0 && !held.contains(&id) {
                    if held.len() as u64 >= bound {
                        return Err((3, 0));
                    }
                    held.insert(id);
                }
                Ok((bound - held.len() as u64, 0))
            }
            _ => {
                let counter = self.money.entry(at).or_insert_with(|| Counter::opened(0, None));
                counter.granted(u64::MAX / 2);
                counter.hold(id, want.wants, bound, 0, u64::MAX).map_err(|short| match short {
                    Short::Held => (4, 0),
                    Short::Spent | Short::Block => (5, 0),
                })?;
                Ok((counter.balance(bound, 0).left, 0))
            }
        }
    }

    fn settle(&mut self, id: u64, counter: usize, had: u64, used: u64) {
        match COUNTERS[counter].0 {
            "bucket" => self.buckets.entry(counter).or_default().correct(had, used),
            "sum" => self.sums.entry(counter).or_default().correct(1, had, used),
            "places" => drop(self.places.entry(counter).or_default().remove(&id)),
            _ => drop(self.money.entry(counter).or_insert_with(|| Counter::opened(0, None)).settle(id, used)),
        }
    }
}

fn names(counter: usize) -> [String; 3] {
    ["", "#open", "#done"].map(|end| format!("{{t}}:c:{counter}{end}"))
}

fn eval(server: &Server, text: &str, keys: &[String], args: &[String]) -> Vec<i64> {
    let count = keys.len().to_string();
    let mut words = vec!["EVAL", text, &count];
    words.extend(keys.iter().chain(args).map(String::as_str));
    let number = |reply: &Reply| match reply {
        Reply::Int(n) => *n,
        other => panic!("{other:?}"),
    };
    match server.ask(&words) {
        Reply::List(list) => list.iter().map(number).collect(),
        Reply::Int(n) => vec![n],
        other => panic!("{other:?}"),
    }
}

fn take(server: &Server, id: u64, lease: u64, wants: &[Want]) -> Vec<i64> {
    take_at(server, id, lease, 0, wants)
}

/// `expected`: what the clock should show, as the gateway knows it.
fn take_at(server: &Server, id: u64, lease: u64, expected: u64, wants: &[Want]) -> Vec<i64> {
    let mut keys = vec!["{t}:about".to_owned()];
    let mut args = vec![id.to_string(), lease.to_string(), expected.to_string()];
    for want in wants {
        let (form, bound) = COUNTERS[want.counter];
        keys.extend(names(want.counter));
        args.push(form.to_owned());
        args.extend([bound, want.has, want.wants, u64::from(want.shadow), 0].map(|n| n.to_string()));
    }
    eval(server, TAKE, &keys, &args)
}

fn settle(server: &Server, number: u64, items: &[(u64, usize, u64, u64)]) -> i64 {
    let mut keys = vec!["{t}:batch:x".to_owned()];
    let mut args = vec![number.to_string()];
    for (id, counter, had, used) in items {
        keys.extend(names(*counter));
        args.extend([
            id.to_string(),
            COUNTERS[*counter].0.to_owned(),
            had.to_string(),
            used.to_string(),
            "0".to_owned(),
        ]);
    }
    eval(server, SETTLE, &keys, &args)[0]
}

/// Numbers as they come: small ones, ones near the bound, and absurd ones.
fn amount(rng: &mut fastrand::Rng, bound: u64) -> u64 {
    match rng.u8(..10) {
        0 => 0,
        1..=4 => rng.u64(1..=3.min(bound)),
        5..=7 => rng.u64(0..=bound / 3 + 1),
        8 => rng.u64(0..=bound),
        _ => rng.u64(0..=9_000_000_000_000_000),
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "no runtime here: the test waits for a server's clock")]
fn scripts_and_pure_arithmetic_agree_to_the_unit() {
    let rounds = if crate::config::env::var("PORTCULLIS_LONG").is_some() { 60 } else { 4 };
    for seed in 0..rounds {
        let Some(server) = Server::start(&[]) else { return };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut model = Model::default();
        // By claim and counter: what it has.
        let mut open: BTreeMap<u64, BTreeMap<usize, u64>> = BTreeMap::new();
        let mut batch = 0;
        for step in 0..500u64 {
            if rng.u8(..3) == 0 && !open.is_empty() {
                let id = *open.keys().nth(rng.usize(..open.len())).unwrap();
                let items: Vec<(u64, usize, u64, u64)> = open
                    .remove(&id)
                    .unwrap()
                    .into_iter()
                    .map(|(counter, had)| {
                        (id, counter, had, amount(&mut rng, COUNTERS[counter].1).min(had.saturating_mul(2)))
                    })
                    .collect();
                batch += 1;
                assert_eq!(settle(&server, batch, &items), 1);
                if rng.bool() {
                    assert_eq!(settle(&server, batch, &items), 0, "a batch that comes twice counts once");
                }
                items.iter().for_each(|(id, counter, had, used)| model.settle(*id, *counter, *had, *used));
                continue;
            }
            // A new claim, or another attempt of one.
            let id = match rng.u8(..4) {
                0 if !open.is_empty() => *open.keys().nth(rng.usize(..open.len())).unwrap(),
                _ => step + 1_000,
            };
            let mut wants = Vec::new();
            for (counter, (form, bound)) in COUNTERS.iter().enumerate() {
                if rng.bool() {
                    continue;
                }
                let has = open.get(&id).and_then(|held| held.get(&counter)).copied().unwrap_or(0);
                let wants_now = if *form == "places" { 1 } else { amount(&mut rng, *bound) };
                let shadow = *form != "money" && rng.u8(..5) == 0;
                wants.push(Want { counter, has, wants: wants_now, shadow });
            }
            if rng.u8(..4) == 0 {
                std::thread::sleep(Duration::from_millis(rng.u64(..5)));
            }
            let answer = take(&server, id, 3_600_000, &wants);
            let now = *answer.last().unwrap() as u64;
            let mut next = model.clone();
            let mut expected = vec![1];
            let mut taken = Vec::new();
            for (n, want) in wants.iter().enumerate() {
                let before = next.clone();
                match next.take(id, want, now) {
                    Ok((left, full)) => {
                        expected.extend([left as i64, full as i64, 0, 0]);
                        taken.push((want.counter, want.wants.max(want.has)));
                    }
                    Err((why, wait)) if want.shadow => {
                        next = before;
                        let none = Want { wants: 0, has: 0, ..want.clone() };
                        // What is left is told all the same.
                        let (left, full) = shadowed(&mut next.clone(), id, &none, now);
                        expected.extend([left as i64, full as i64, why, wait as i64]);
                    }
                    Err((why, wait)) => {
                        expected = vec![0, n as i64 + 1, why, wait as i64];
                        break;
                    }
                }
            }
            expected.push(now as i64);
            assert_eq!(answer, expected, "seed {seed}, step {step}: {wants:?}\n{model:?}");
            if answer[0] == 1 {
                model = next;
                let held = open.entry(id).or_default();
                held.extend(taken);
            }
        }
    }
}

/// What a counter says to a shadow that was denied.
fn shadowed(model: &mut Model, id: u64, none: &Want, now: u64) -> (u64, u64) {
    let (form, bound) = COUNTERS[none.counter];
    match form {
        "bucket" => {
            let standing = model.buckets.entry(none.counter).or_default().standing(now, Rate::a_minute(bound));
            (standing.left, standing.full_after.as_millis() as u64)
        }
        _ => model.take(id, none, now).unwrap_or((0, 0)),
    }
}

fn now(server: &Server) -> u64 {
    match server.ask(&["TIME"]) {
        Reply::List(parts) => match (&parts[0], &parts[1]) {
            (Reply::Text(s), Reply::Text(us)) => s.parse::<u64>().unwrap() * 1_000 + us.parse::<u64>().unwrap() / 1_000,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Waits until the server's clock has gone on so far.
#[allow(clippy::disallowed_methods, reason = "no runtime here: the test waits for a server's clock")]
fn wait(server: &Server, millis: u64) {
    let until = now(server) + millis;
    while now(server) <= until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn money(server: &Server, field: &str) -> String {
    match server.ask(&["HGET", &names(6)[0], field]) {
        Reply::Text(text) => text,
        _ => "0".to_owned(),
    }
}

const MONEY: usize = 6;
const PLACES: usize = 5;

fn wanting(counter: usize, wants: u64) -> Want {
    Want { counter, has: 0, wants, shadow: false }
}

#[test]
fn what_nobody_settles_or_renews_comes_back_and_counts_once_if_it_is_settled_late() {
    let Some(server) = Server::start(&[]) else { return };
    for id in 1..=3 {
        assert_eq!(take(&server, id, 300, &[wanting(MONEY, 300), wanting(PLACES, 1)])[0], 1);
    }
    assert_eq!(take(&server, 4, 300, &[wanting(PLACES, 1)])[..3], [0, 1, 3]);
    assert_eq!(take(&server, 4, 300, &[wanting(MONEY, 300)])[..3], [0, 1, 4], "it is held, and may come back");
    // One lives.
    let keys: Vec<String> = [PLACES, MONEY].iter().flat_map(|c| [names(*c)[0].clone(), names(*c)[1].clone()]).collect();
    eval(&server, RENEW, &keys, &["60000", "1", "places", "1", "money"].map(str::to_owned));
    wait(&server, 400);
    assert_eq!(take(&server, 5, 60_000, &[wanting(MONEY, 700), wanting(PLACES, 1)])[0], 1, "two came back");
    assert_eq!(money(&server, "reserved"), "1000");
    // One of them ended after all: it was spent, and once.
    settle(&server, 1, &[(2, MONEY, 300, 250)]);
    settle(&server, 2, &[(2, MONEY, 300, 250)]);
    settle(&server, 3, &[(5, MONEY, 700, 100), (1, MONEY, 300, 50)]);
    assert_eq!((money(&server, "spent"), money(&server, "reserved")), ("400".into(), "0".into()));
}

#[test]
fn leases_that_ended_while_the_server_was_away_are_given_time() {
    let Some(server) = Server::start(&[]) else { return };
    // Somebody gave a sign of life, and then nobody could.
    server.ask(&["HSET", "{t}:about", "tick", "1000"]);
    take(&server, 1, 100, &[wanting(MONEY, 900)]);
    wait(&server, 200);
    server.ask(&["HSET", "{t}:about", "tick", "1000"]);
    assert_eq!(take(&server, 2, 1_000, &[wanting(MONEY, 900)])[..3], [0, 1, 4], "its owner may live");
    wait(&server, 100);
    assert_eq!(take(&server, 2, 1_000, &[wanting(MONEY, 900)])[..3], [0, 1, 4]);
}

const HOUR: u64 = 3_600_000;
/// It holds one a minute.
const BUCKET: usize = 0;

/// As if the clock had been set since: what lies there is from an hour before or after, and so are the signs of life.
fn set_back_by(server: &Server, millis: i64) {
    let moved = |key: &str, field: &str| {
        let Reply::Text(was) = server.ask(&["HGET", key, field]) else { return };
        let was = was.parse::<i64>().unwrap();
        server.ask(&["HSET", key, field, &(was + millis).to_string()]);
    };
    moved(&names(BUCKET)[0], "at");
    moved("{t}:about", "tick");
    for set in [&names(MONEY)[1], &names(PLACES)[0]] {
        let Reply::List(held) = server.ask(&["ZRANGE", set, "0", "-1"]) else { continue };
        for id in held {
            let Reply::Text(id) = id else { continue };
            server.ask(&["ZINCRBY", set, &millis.to_string(), &id]);
        }
    }
}

/// Promise 36, of the server's clock: only time that passed fills a bucket, in whatever steps the clock goes.
#[test]
fn a_servers_clock_that_is_set_neither_fills_a_bucket_nor_locks_it() {
    let Some(server) = Server::start(&[]) else { return };
    // So many milliseconds until there is room.
    let refused = |expected: u64| {
        let answer = take_at(&server, 1, HOUR, expected, &[wanting(BUCKET, 1)]);
        assert!(answer[..3] == [0, 1, 1] && answer[3] <= 60_000, "{answer:?}");
        answer[3]
    };
    assert_eq!(take(&server, 1, HOUR, &[wanting(BUCKET, 1)])[0], 1);
    // An hour forward, as the gateway that asks can tell: nothing is given for it. Whoever asks next need not know it.
    set_back_by(&server, -(HOUR as i64));
    let first = refused(now(&server) - HOUR);
    wait(&server, 50);
    assert!(refused(0) <= first - 50, "what passed counts");
    // An hour back: nothing is given for it, and nobody waits for it.
    set_back_by(&server, HOUR as i64);
    let first = refused(0);
    wait(&server, 50);
    assert!(refused(0) <= first - 50, "what passed counts");
}

#[test]
fn leases_from_before_a_servers_clock_was_set_back_are_given_one_lease_and_no_hour() {
    let Some(server) = Server::start(&[]) else { return };
    server.ask(&["HSET", "{t}:about", "tick", &now(&server).to_string()]);
    for id in [1, 2] {
        assert_eq!(take(&server, id, 300, &[wanting(MONEY, 400), wanting(PLACES, 1)])[0], 1);
    }
    set_back_by(&server, HOUR as i64);
    assert_eq!(take(&server, 3, 300, &[wanting(MONEY, 400)])[..3], [0, 1, 4], "their owners may live");
    // One does.
    let keys: Vec<String> = [PLACES, MONEY].iter().flat_map(|c| [names(*c)[0].clone(), names(*c)[1].clone()]).collect();
    eval(&server, RENEW, &keys, &["60000", "1", "places", "1", "money"].map(str::to_owned));
    wait(&server, 350);
    let answer = take(&server, 3, 60_000, &[wanting(MONEY, 600), wanting(PLACES, 1)]);
    assert_eq!(answer[0], 1, "the other one's came back: {answer:?}");
    assert_eq!(money(&server, "reserved"), "1000");
}
