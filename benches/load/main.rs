//! The end-to-end load bench: what a request costs in the gateway, beside nginx as a plain reverse proxy, a bare hyper
//! forwarder and the upstream alone.
//!
//! Two cores: the subject alone on core 1; this process (the generator and the scripted upstream) on core 0, for every
//! subject alike. It never sleeps: a peer that does must be woken by the subject's own writes, which on a virtual machine
//! costs more than all else and charges a slower subject for its peer's leisure. Subjects take turns, and the figure is CPU microseconds a request from the scheduler's own statistics,
//! as a ratio to the nginx rounds before and after it: both survive a noisy machine. Needs nginx and taskset.
//!
//! `cargo bench --bench load [-- --rounds N --seconds S SCENARIO…]`; `-- --list` names the scenarios, `--only WORD` keeps the
//! subjects whose name has that word (for a profiler). `PORTCULLIS_BIN` names another build of the gateway than cargo's own.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a bench prints its table, and waits for programs")]

mod forwarder;
mod generator;
mod subject;
mod upstream;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use generator::{Load, Outcome};
use subject::{Kind, Subject};

/// What is sent, and how.
struct Scenario {
    name: &'static str,
    /// Bytes of the prompt; 0: the slow streams.
    prompt: usize,
    /// Anthropic client, OpenAI upstream.
    translated: bool,
    connections: usize,
    what: What,
    /// Each connection is a session of its own, and says so.
    sessions: bool,
    /// Which gateways take part.
    subjects: &'static [Kind],
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    /// As fast as it goes.
    Closed,
    /// So many requests a second, whatever the answers' pace.
    Open(u32),
    /// So many streams of 50 events, 100 ms apart.
    Streams(usize),
}

const PASS: &[Kind] = &[
    Kind::Upstream,
    Kind::Nginx,
    Kind::Forwarder,
    Kind::GatewayFull,
    Kind::Gateway,
    Kind::GatewayNoScript,
    Kind::GatewayOpen,
];
const TRANSLATE: &[Kind] = &[Kind::Nginx, Kind::Forwarder, Kind::GatewayFull, Kind::GatewayNoScript];
const POLICY: &[Kind] = &[Kind::Nginx, Kind::GatewayOpen, Kind::GatewayNoScript, Kind::GatewayPolicy];
const ROUTED: &[Kind] = &[Kind::Nginx, Kind::GatewayPlain, Kind::GatewayRouted];
const REDACT: &[Kind] = &[Kind::Nginx, Kind::GatewayFull, Kind::GatewayRedact];

const SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "chat_1kb_passthrough",
        prompt: 1 << 10,
        translated: false,
        connections: 64,
        what: What::Closed,
        sessions: false,
        subjects: PASS,
    },
    Scenario {
        name: "chat_100kb_passthrough",
        prompt: 100 << 10,
        translated: false,
        connections: 64,
        what: What::Closed,
        sessions: false,
        subjects: PASS,
    },
    Scenario {
        name: "chat_1mb_passthrough",
        prompt: 1 << 20,
        translated: false,
        connections: 16,
        what: What::Closed,
        sessions: false,
        subjects: PASS,
    },
    Scenario {
        name: "chat_1kb_translated",
        prompt: 1 << 10,
        translated: true,
        connections: 64,
        what: What::Closed,
        sessions: false,
        subjects: TRANSLATE,
    },
    Scenario {
        name: "chat_100kb_translated",
        prompt: 100 << 10,
        translated: true,
        connections: 64,
        what: What::Closed,
        sessions: false,
        subjects: TRANSLATE,
    },
    Scenario {
        name: "chat_2kb_redact",
        prompt: 2 << 10,
        translated: false,
        connections: 64,
        what: What::Closed,
        sessions: false,
        subjects: REDACT,
    },
    // Identity, limits and budgets of seven scopes at once, and the gateway without any of it.
    Scenario {
        name: "chat_1kb_policy",
        prompt: 1 << 10,
        translated: false,
        connections: 64,
        what: What::Closed,
        sessions: false,
        subjects: POLICY,
    },
    // Choosing among four targets by latency and session, with quotas, places, a priority and a hedge that never fires; beside the same
    // gateway with one target and none of that.
    Scenario {
        name: "chat_1kb_routed",
        prompt: 1 << 10,
        translated: false,
        connections: 64,
        what: What::Closed,
        sessions: true,
        subjects: ROUTED,
    },
    Scenario {
        name: "latency_2000_rps",
        prompt: 1 << 10,
        translated: false,
        connections: 64,
        what: What::Open(2000),
        sessions: false,
        subjects: PASS,
    },
    Scenario {
        name: "slow_streams_2000",
        prompt: 0,
        translated: false,
        connections: 2000,
        what: What::Streams(2000),
        sessions: false,
        subjects: PASS,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("forwarder") => return forwarder::main(&args[1]),
        Some("--list") => {
            for scenario in &SCENARIOS {
                println!("{}", scenario.name);
            }
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let number = |flag: &str, usual: f64| {
        args.iter()
            .position(|a| a == flag)
            .and_then(|at| args.get(at + 1))
            .and_then(|v| v.parse().ok())
            .unwrap_or(usual)
    };
    let rounds = number("--rounds", 10.0) as usize;
    let seconds = number("--seconds", 1.0);
    let only = args.iter().position(|a| a == "--only").and_then(|at| args.get(at + 1));
    let wanted: Vec<&String> = args.iter().filter(|a| SCENARIOS.iter().any(|s| s.name == a.as_str())).collect();
    subject::pin(std::process::id(), "0");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let upstream = runtime.block_on(upstream::start());
    // Keeps this core awake.
    runtime.spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    println!(
        "{rounds} rounds of {seconds} s; CPU from /proc/PID/task/*/schedstat; ratios to the neighbouring nginx rounds\n"
    );
    for scenario in SCENARIOS.iter().filter(|s| wanted.is_empty() || wanted.iter().any(|w| *w == s.name)) {
        run(&runtime, scenario, rounds, Duration::from_secs_f64(seconds), upstream, only);
    }
    ExitCode::SUCCESS
}

/// One scenario: every subject in turn, nginx before each.
fn run(
    runtime: &tokio::runtime::Runtime,
    scenario: &Scenario,
    rounds: usize,
    length: Duration,
    upstream: SocketAddr,
    only: Option<&String>,
) {
    let chosen = |kind: &Kind| only.is_none_or(|only| kind.name().contains(only.as_str()));
    let subjects: Vec<Subject> =
        scenario.subjects.iter().filter(|k| chosen(k)).map(|k| Subject::start(*k, upstream)).collect();
    let loads: Vec<Load> = subjects.iter().map(|s| Load::new(scenario, s)).collect();
    // Warm: connections, allocators, and the first burst of streams.
    for load in &loads {
        let warm = if matches!(scenario.what, What::Streams(_)) { length } else { Duration::from_millis(300) };
        runtime.block_on(load.run(warm));
    }
    let rounds = if matches!(scenario.what, What::Streams(_)) { rounds.min(3) } else { rounds };
    let mut samples: Vec<Vec<Sample>> = subjects.iter().map(|_| Vec::new()).collect();
    let nginx = subjects.iter().position(|s| s.kind == Kind::Nginx);
    for _ in 0..rounds {
        for at in 0..subjects.len() {
            let before = nginx.filter(|n| *n != at).map(|n| measure(runtime, &subjects[n], &loads[n], length));
            let sample = measure(runtime, &subjects[at], &loads[at], length);
            let after = nginx.filter(|n| *n != at).map(|n| measure(runtime, &subjects[n], &loads[n], length));
            let base = match (&before, &after) {
                (Some(a), Some(b)) => Some((a.cpu_us + b.cpu_us) / 2.0),
                _ => None,
            };
            samples[at].push(Sample { ratio: base.map(|b| sample.cpu_us / b), ..sample });
            if let Some(n) = nginx {
                samples[n].extend(before.into_iter().chain(after));
            }
        }
    }
    report(scenario, &subjects, &mut samples);
}

/// What one round told.
struct Sample {
    /// CPU microseconds of the subject, a request or an event.
    cpu_us: f64,
    ratio: Option<f64>,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    errors: u64,
    lost: u64,
    /// Memory while it ran.
    held_kib: u64,
}

fn measure(runtime: &tokio::runtime::Runtime, subject: &Subject, load: &Load, length: Duration) -> Sample {
    let before = subject.cpu_ns();
    let mut held_kib = Vec::new();
    let Outcome { mut latencies_us, units, errors, lost, took } = runtime.block_on(async {
        let looks = async {
            loop {
                tokio::time::sleep(LOOK).await;
                held_kib.push(subject.rss_kib() as f64);
            }
        };
        tokio::select! {
            outcome = load.run(length) => outcome,
            () = looks => unreachable!("it looks until the load is over"),
        }
    });
    let cpu = subject.cpu_ns() - before;
    Sample {
        cpu_us: cpu as f64 / 1e3 / (units.max(1) as f64),
        ratio: None,
        rate: units as f64 / took.as_secs_f64(),
        p50_us: quantile(&mut latencies_us, 0.5),
        p99_us: quantile(&mut latencies_us, 0.99),
        errors,
        lost,
        held_kib: quantile(&mut held_kib, 0.5) as u64,
    }
}

/// How often a subject's memory is looked at while it works.
const LOOK: Duration = Duration::from_millis(200);

fn report(scenario: &Scenario, subjects: &[Subject], samples: &mut [Vec<Sample>]) {
    let unit = if matches!(scenario.what, What::Streams(_)) { "event" } else { "request" };
    println!("## {}  (CPU µs a {unit})", scenario.name);
    println!("| subject | CPU µs median [min] | × nginx | {unit}s/s | p50 µs | p99 µs | RSS MiB (idle) | errors |");
    println!("|---|---|---|---|---|---|---|---|");
    for (subject, rows) in subjects.iter().zip(&mut *samples) {
        let pick = |f: fn(&Sample) -> f64| -> Vec<f64> { rows.iter().map(f).collect() };
        let (mut cpu, mut rate, mut p50, mut p99) =
            (pick(|s| s.cpu_us), pick(|s| s.rate), pick(|s| s.p50_us), pick(|s| s.p99_us));
        let mut ratios: Vec<f64> = rows.iter().filter_map(|s| s.ratio).collect();
        let ratio = match ratios.is_empty() {
            true => "1".to_owned(),
            false => {
                let middle = quantile(&mut ratios, 0.5);
                format!("{middle:.2} [{:.2}-{:.2}]", ratios[0], ratios[ratios.len() - 1])
            }
        };
        let errors: u64 = rows.iter().map(|s| s.errors + s.lost).sum();
        let held = rows.iter().map(|s| s.held_kib).max().unwrap_or(0);
        let middle = quantile(&mut cpu, 0.5);
        println!(
            "| {} | {middle:.1} [{:.1}] | {ratio} | {:.0} | {:.0} | {:.0} | {:.1} ({:.1}) | {errors} |",
            subject.kind.name(),
            cpu.first().copied().unwrap_or(0.0),
            quantile(&mut rate, 0.5),
            quantile(&mut p50, 0.5),
            quantile(&mut p99, 0.5),
            held as f64 / 1024.0,
            subject.idle_kib as f64 / 1024.0,
        );
    }
    if let Some(added) = added(subjects, samples) {
        println!("routing adds {added:.1} µs a {unit} (by its ratio to the neighbouring nginx rounds)");
    }
    println!();
}

/// What choosing, quotas, places and the like add to a request.
fn added(subjects: &[Subject], samples: &[Vec<Sample>]) -> Option<f64> {
    let of = |kind| subjects.iter().position(|s| s.kind == kind).map(|at| &samples[at]);
    let ratio = |kind| Some(quantile(&mut of(kind)?.iter().filter_map(|s| s.ratio).collect::<Vec<f64>>(), 0.5));
    let nginx = quantile(&mut of(Kind::Nginx)?.iter().map(|s| s.cpu_us).collect::<Vec<f64>>(), 0.5);
    Some((ratio(Kind::GatewayRouted)? - ratio(Kind::GatewayPlain)?) * nginx)
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len().max(1) - 1) as f64 * q).round() as usize;
    values.get(at).copied().unwrap_or(0.0)
}
