//! What a choice among 100 targets costs, by strategy, and what a place and a turn cost while 10,000 stand in line; without
//! sockets. One thread; times are what passes for one call, at the median, after a second of warmth.
//!
//! `cargo bench --bench route [-- --calls N --only WORD]`; `--only` keeps the strategies whose name has that word (for a profiler).

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a bench prints its table")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what it feeds itself is right, or the bench is wrong")]

use std::{
    hint::black_box,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use portcullis::{
    account::estimate::{Estimates, Size},
    config::{self, Config, Place, Urgency},
    provider::catalog_names,
    queue::{self, Gate, Owner, Ticket},
    route::{Health, Live, Plan, Profile, Table},
};

/// Microseconds that a choice may take.
const AIM: f64 = 3.0;
const TARGETS: usize = 100;
const STRATEGIES: [&str; 6] = ["first", "weighted", "least_latency", "least_busy", "least_cost", "quota"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let said = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{flag} wants a word")))
    };
    let calls = said("--calls").map_or(100_000, |n| n.parse().expect("--calls N"));
    let only = said("--only");
    let header = || println!("{:<28} {:>9} {:>9} {:>9}", "", "calls", "p50 µs", "p99 µs");
    header();
    for strategy in STRATEGIES {
        for sticky in [false, true] {
            if sticky && strategy == "first" {
                continue;
            }
            let name = if sticky { format!("{strategy}, sticky") } else { strategy.to_owned() };
            if only.is_some_and(|only| !name.contains(only.as_str())) {
                continue;
            }
            let (table, config) = table(strategy, sticky);
            let times = choose(&table, &config, calls);
            println!("{name:<28} {:>9} {:>9.2} {:>9.2}   aim {AIM}", times.len(), at(&times, 50), at(&times, 99));
        }
    }
    if only.is_some() {
        return;
    }
    println!();
    header();
    for line in [1, 10_000] {
        let (free, turns) = places(line, TURNS);
        for (what, times) in [("a free place", free), ("a turn", turns)] {
            let name = format!("{what}, {line} wait");
            println!("{name:<28} {:>9} {:>9.2} {:>9.2}", times.len(), at(&times, 50), at(&times, 99));
        }
    }
}

/// Of calls whose line is searched for whose turn it was.
const TURNS: usize = 2_000;

/// A place at a gate where nobody waits, with a long line elsewhere and without one; and one turn of a line: somebody comes to its
/// end, and the first goes on.
fn places(line: usize, calls: usize) -> (Vec<u64>, Vec<u64>) {
    let open = Gate::new("open".into(), Some(1000));
    let full = Gate::new("full".into(), Some(1));
    let teams: Vec<Owner> =
        (0..100).map(|n| Owner { class: Urgency::Normal, flow: format!("team-{n}").into(), share: 1 }).collect();
    let me = teams[0].clone();
    let enter = |gate: &Arc<Gate>| gate.enter(&me.flow, || me.clone());
    let mut held = enter(&full);
    let stand = |n: usize| full.stand(teams[n % teams.len()].clone(), usize::MAX, Duration::MAX).ok();
    let mut waiting: Vec<Ticket> = (0..line).map(|n| stand(n).expect("a place in the line")).collect();
    let (mut free, mut turns) = (Vec::with_capacity(calls), Vec::with_capacity(calls));
    for n in 0..calls {
        let now = Instant::now();
        drop(black_box(enter(&open)));
        free.push(now.elapsed().as_nanos() as u64);
        let now = Instant::now();
        waiting.push(stand(n).expect("a place in the line"));
        // Whose turn it is gets the place; its ticket is asked below, outside the measured time.
        drop(held.take());
        turns.push(now.elapsed().as_nanos() as u64);
        let at = waiting.iter_mut().position(|ticket| ready(ticket, &mut held)).expect("somebody's turn came");
        waiting.swap_remove(at);
    }
    free.sort_unstable();
    turns.sort_unstable();
    (free, turns)
}

fn ready(ticket: &mut Ticket, held: &mut Option<queue::Place>) -> bool {
    match Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => *held = place.ok(),
        Poll::Pending => return false,
    }
    true
}

/// Every second target has a quota.
fn table(strategy: &str, sticky: bool) -> (Table, Config) {
    let dir = std::env::temp_dir().join(format!("portcullis-bench-route-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let quota = |n: usize| match n % 2 {
        0 => format!(", quota = {{ requests = {}, per = \"{}h\" }}", 1000 + n, 1 + n % 5),
        _ => String::new(),
    };
    let target = |n| format!("{{ provider = \"up\", model = \"m{n}\", weight = {}{} }}", 1 + n % 7, quota(n));
    let targets: Vec<String> = (0..TARGETS).map(target).collect();
    let prices: Vec<String> = (0..TARGETS)
        .map(|n| format!("[[pricing]]\nmodel = \"up/m{n}\"\ninput = {}\noutput = {}\n", 1 + n % 13, 2 + n % 29))
        .collect();
    let sticky = if sticky { "sticky = \"session\"\n" } else { "" };
    let text = format!(
        "[providers.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n\
         [models.all]\nstrategy = \"{strategy}\"\n{sticky}targets = [{}]\n{}",
        targets.join(", "),
        prices.concat()
    );
    let file = dir.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let loaded = config::read(&Place::File(file.clone()), &|_| None, &catalog_names());
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    (Table::build(&loaded.config).unwrap(), loaded.config)
}

fn choose(table: &Table, config: &Config, calls: usize) -> Vec<u64> {
    let (health, estimates) = (Health::default(), Estimates::default());
    health.welcome(table.targets(), Instant::now());
    for (n, target) in table.targets().enumerate() {
        let mut flight = health.enter(target, Instant::now()).unwrap();
        flight.answered(Duration::from_millis(100 + n as u64 * 7));
        flight.streamed(200, Duration::from_millis(2000 + n as u64 * 31));
        flight.succeeded();
    }
    health.quotas.configure(&config.quotas, table.providers());
    let live = Live::new(&health, &estimates);
    assert!(live.quotas.is_some());
    let plan: Plan = table.resolve("all").unwrap();
    let began = Instant::now();
    let mut times = Vec::with_capacity(calls);
    let mut seed = 0u64;
    while times.len() < calls {
        // A request makes its plan; what is timed is the choice.
        let mut plan = plan.clone();
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let size = Size { text_bytes: 2_000, ..Size::default() };
        let profile = Profile { seed, session: Some(seed), size, stream: true, tools: true, ..Profile::default() };
        let now = Instant::now();
        let order = black_box(plan.choose(&live, &profile, now));
        let took = now.elapsed();
        assert_eq!(order.len(), TARGETS);
        if began.elapsed() > WARM {
            times.push(took.as_nanos() as u64);
        }
    }
    times.sort_unstable();
    times
}

/// Microseconds.
fn at(times: &[u64], percent: usize) -> f64 {
    times.get(times.len() * percent / 100).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
}

const WARM: Duration = Duration::from_secs(1);
