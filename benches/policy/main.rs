//! What policy costs in the host, in one run: scripts and plugins called as a request calls them, without sockets. One thread;
//! times are what passes for one call, at the median, after a second of warmth.
//!
//! `cargo bench --bench policy [-- --calls N]`

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a bench prints its table")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what it feeds itself is right, or the bench is wrong")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis::{
    codec::document::Document,
    config::{Sources, Stage, StageLimits, sources},
    model::Format,
    pipeline::{Candidate, Effects, Phase},
    plugin::{Load, Plugins, all_grants, bench},
    script::{Compiled, ScriptStage, Scripts, suite},
};

const EMPTY: &str = "fn route(request, targets, context) {}\n";
const FORTY: &str = include_str!("forty.rhai");
const ROUTER: &str = include_str!("../../scripts/route.rhai");

/// What is called, the source, and microseconds that it may take.
const SCRIPTS: [(&str, &str, Option<f64>); 3] =
    [("an empty script", EMPTY, None), ("the shipped router", ROUTER, Some(3.0)), ("forty lines", FORTY, Some(15.0))];

const FORWARD: &str = "tests/guests/forward/forward.wasm";
const REDACT: &str = "plugins/redact/redact.wasm";

/// The file, bytes of the text, the phase, and microseconds that one call may take.
const PLUGINS: [(&str, &str, usize, Phase, Option<f64>); 4] = [
    ("an empty plugin, 2 KB", FORWARD, 2 << 10, Phase::Request, Some(30.0)),
    ("redact, 2 KB", REDACT, 2 << 10, Phase::Request, Some(30.0)),
    ("redact, 100 KB", REDACT, 100 << 10, Phase::Request, None),
    ("an event that a plugin forwards", FORWARD, 2 << 10, Phase::Event, Some(1.0)),
];

fn main() {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    let mut calls = 20_000;
    if arguments.next_if(|argument| argument == "--calls").is_some() {
        calls = arguments.next().and_then(|n| n.parse().ok()).expect("--calls N");
    }
    println!("{:<36} {:>9} {:>10} {:>10}", "", "calls", "p50 µs", "p99 µs");
    for (what, source, aim) in SCRIPTS {
        let times = script(source, calls);
        line(what, times.len(), at(&times, 50), at(&times, 99), aim);
    }
    for (what, file, size, phase, aim) in PLUGINS {
        plugin(what, file, size, phase, aim, calls.min(2_000));
    }
}

fn line(what: &str, calls: usize, p50: f64, p99: f64, aim: Option<f64>) {
    let aim = aim.map(|aim| format!("   aim {aim}")).unwrap_or_default();
    println!("{what:<36} {calls:>9} {p50:>10.2} {p99:>10.2}{aim}");
}

/// A visit is a request's own, so it is made and dropped with each call; the request itself is made outside of the clock.
fn script(source: &str, calls: u32) -> Vec<u64> {
    let scripts = Scripts::dry();
    let host = scripts.host(&Sources::default());
    let program: Arc<Compiled> = scripts.compile(&host, "scripts/bench.rhai", source).unwrap();
    let limits = StageLimits { wall: Duration::from_secs(5), ..StageLimits::default() };
    let stage = ScriptStage::new(program, "scripts/bench.rhai", limits, serde_json::Map::new(), Effects::dry());
    let text = "please draft an essay on tides and the moon";
    let body = serde_json::json!({"model": "auto", "messages": [{"role": "user", "content": text}]}).to_string();
    let targets: Vec<Candidate> = ["a/slow", "b/fast", "c/other"].map(suite::candidate).into();
    let mut times = Vec::with_capacity(calls as usize);
    let began = Instant::now();
    while times.len() < calls as usize {
        let mut doc = Document::new(Format::OpenaiChat, body.clone().into(), Default::default()).unwrap();
        let mut cx = suite::context(&serde_json::Map::new(), Format::OpenaiChat).unwrap();
        let start = Instant::now();
        let mut visit = stage.visit();
        visit.on_route(&mut cx, &mut doc, &targets).unwrap();
        drop(visit);
        let took = start.elapsed();
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

fn plugin(what: &str, file: &str, size: usize, phase: Phase, aim: Option<f64>, requests: u32) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let component = sources::Plugin::read(&path).unwrap_or_else(|why| panic!("{file} {why}"));
    let stage = Stage { grant: all_grants(), ..Stage::automatic(file) };
    let loaded = Plugins::dry().load(&stage, &component).unwrap_or_else(|why| panic!("{file} {why}"));
    let words = "Nothing in here is anybody's business, and nobody minds that it goes by. ";
    let text: String = words.chars().cycle().take(size).collect();
    let body = serde_json::json!({"model": "mock", "messages": [{"role": "user", "content": text}]}).to_string();
    let load = Load {
        body: body.into(),
        format: Format::OpenaiChat,
        context: &|| suite::context(&serde_json::Map::new(), Format::OpenaiChat),
        answer: text,
        only: Some(phase),
        requests,
        time: Duration::from_secs(20),
    };
    let figures = bench(&loaded, &load).unwrap();
    // A call pays for its instance; the events of one answer share theirs.
    let step = |name: &str| figures.steps.iter().find(|step| step.step == name);
    let instance = step("instance").filter(|_| phase != Phase::Event);
    let call = step(phase.name()).unwrap_or_else(|| panic!("{file} was not called"));
    assert_eq!(call.failed, 0, "{:?}", call.fault);
    let of = |figure: fn(&portcullis::plugin::Step) -> f64| figure(call) + instance.map_or(0.0, figure);
    line(what, call.calls, of(|step| step.p50_us), of(|step| step.p99_us), aim);
}

const WARM: Duration = Duration::from_secs(1);
