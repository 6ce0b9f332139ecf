//! Hostile scripts and guests, made by chance (loops, recursion, allocation, patterns, deep data, huge outputs, wrong types,
//! panics), 64 at a time: each is stopped within its limits, what runs beside them fares as beside as many harmless ones, and
//! the memory is given back. `PORTCULLIS_LONG=1`: 2,000 of them.

mod scripts;

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Process, eventually, request};

const HOSTILE: &[u8] = include_bytes!("../guests/hostile/hostile.wasm");
const AT_ONCE: usize = 64;
/// Of processor time, for each call. A script's is a limit of wall time, which is never less.
const LIMIT: Duration = Duration::from_millis(50);

fn long() -> bool {
    std::env::var("PORTCULLIS_LONG").is_ok_and(|v| v == "1")
}

/// What the guest does, by the prompt. Events need a stream.
const DEEDS: [&str; 16] = [
    "request loop",
    "request recurse",
    "request memory",
    "request panic",
    "request trap",
    "request garbage",
    "request huge",
    "request many-edits",
    "request wild-pointer",
    "request wrong-turns",
    "request notes",
    "route huge",
    "route garbage",
    "attempt split-header",
    "event many",
    "response garbage",
];

/// One request to the gateway, and what must come of it.
struct Case {
    model: String,
    text: String,
    stream: bool,
}

struct House {
    process: Arc<Process>,
    cases: Vec<Case>,
}

/// So many hostile ones, a third of them guests.
async fn house(count: usize, seed: u64) -> House {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut config = String::from("[models.calm]\ntargets = [{ provider = \"mock\", model = \"calm\" }]\n");
    let mut files = Vec::new();
    let mut cases = Vec::new();
    let scripts = count - count / 3;
    for n in 0..scripts {
        files.push((format!("scripts/h{n}.rhai"), scripts::hostile(&mut rng)));
        let _ = writeln!(config, "[[stages]]\nuse = \"scripts/h{n}.rhai\"\nonly = {{ models = [\"mock/h{n}\"] }}");
        cases.push(Case { model: format!("mock/h{n}"), text: "hi".to_owned(), stream: false });
    }
    for _ in scripts..count {
        let deed = DEEDS[rng.usize(..DEEDS.len())];
        cases.push(Case {
            model: "mock/guest".to_owned(),
            text: format!("hostile {deed}"),
            stream: deed.starts_with("event"),
        });
    }
    rng.shuffle(&mut cases);
    files.push(("scripts/tame.rhai".to_owned(), "fn request(request, context) { context.note(\"tame\"); }".to_owned()));
    config.push_str("[[stages]]\nuse = \"scripts/tame.rhai\"\nonly = { models = [\"mock/tame\"] }\n");
    // The guest is one stage for all: it is not to be parked here.
    config.push_str(
        "[[stages]]\nuse = \"plugins/hostile.wasm\"\nonly = { models = [\"mock/guest\"] }\npark = { failures = 0 }\n",
    );
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_bytes()))
        .chain([("plugins/hostile.wasm", HOSTILE)])
        .collect();
    House { process: Arc::new(Process::with(&config, &files).await), cases }
}

async fn send(process: &Process, model: &str, text: &str, stream: bool) -> u16 {
    let body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}).to_string();
    let headers = [("content-type", "application/json")];
    request(process.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await.status
}

/// Sends all of them, 64 at a time, and beside them one calm request after the other; how long those took.
async fn run(house: &House, hostile: bool) -> (Vec<u16>, Vec<Duration>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let sent: Vec<_> = house
        .cases
        .iter()
        .map(|case| {
            let (process, turns) = (house.process.clone(), turns.clone());
            let (model, text, stream) = match hostile {
                true => (case.model.clone(), case.text.clone(), case.stream),
                false => ("mock/tame".to_owned(), "hi".to_owned(), false),
            };
            tokio::spawn(async move {
                let _turn = turns.acquire().await;
                send(&process, &model, &text, stream).await
            })
        })
        .collect();
    let mut calm = Vec::new();
    while calm.len() < 20 || sent.iter().any(|task| !task.is_finished()) {
        let began = Instant::now();
        assert_eq!(send(&house.process, "calm", "hi", false).await, 200);
        calm.push(began.elapsed());
    }
    let mut statuses = Vec::new();
    for task in sent {
        statuses.push(task.await.expect("answered"));
    }
    calm.sort();
    (statuses, calm)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hostile_scripts_and_guests_are_stopped_and_leave_their_neighbours_alone() {
    let count = if long() { 2_000 } else { 60 };
    let house = house(count, 7).await;
    let process = house.process.clone();
    // What is new runs beside until it is known to be quick; then everything is warm.
    for _ in 0..40 {
        assert_eq!(send(&process, "mock/tame", "hi", false).await, 200);
        assert_eq!(send(&process, "mock/guest", "hi", false).await, 200);
    }
    let (_, beside_tame) = run(&house, false).await;
    // Once for what pools and allocators take and keep.
    run(&house, true).await;
    let (memory, time, began) = (process.memory(), process.processor_time(), Instant::now());
    let (statuses, beside_hostile) = run(&house, true).await;
    let (spent, took) = (process.processor_time() - time, began.elapsed());
    // Each had an answer: most a refusal, a few did nothing that is forbidden.
    let stopped = statuses.iter().filter(|status| **status == 500).count();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 400 | 500)), "{statuses:?}");
    assert!(stopped * 2 > count, "{stopped} of {count} were stopped");
    // Together within twice the limit of each; what the calm requests cost is on top.
    let most = 2 * LIMIT * u32::try_from(count).expect("few")
        + Duration::from_millis(5) * u32::try_from(beside_hostile.len()).expect("few");
    assert!(spent <= most, "{spent:?} of processor time, {most:?} are allowed");
    let middle = |all: &[Duration]| all[all.len() / 2];
    let (tame, hostile) = (middle(&beside_tame), middle(&beside_hostile));
    println!(
        "{count} hostile: {stopped} stopped, {spent:?} of processor time in {took:?}; calm requests: {tame:?} beside tame, {hostile:?} beside hostile ones"
    );
    // A share of two cores, not a turn behind all the others: those would take seconds.
    assert!(hostile <= tame * 10 + 2 * LIMIT, "{hostile:?} beside hostile ones, {tame:?} beside tame ones");
    eventually("the memory is given back", async || process.memory() <= memory + (64 << 20)).await;
}
