//! Real guests in a real engine: what they are told, what they may change, and what stops them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, json};

use super::super::{Load, PluginStage, Plugins, bench};
use crate::{
    codec::{Inbound, document::Document},
    config::{Stage as Listed, sources},
    context::{Context, Step},
    model::Format,
    pipeline::{Phase, Stage, StageFault, Visit, drive, stage::RequestVerdict},
};

pub const HELLO: &[u8] = include_bytes!("../../../plugins/hello/hello.wasm");
pub const HOSTILE: &[u8] = include_bytes!("../../../tests/guests/hostile/hostile.wasm");

pub fn file(bytes: &[u8]) -> sources::Plugin {
    sources::Plugin { bytes: bytes.into(), size: bytes.len() as u64, hash: sources::hash([("", bytes)]) }
}

pub fn listed(config: &[(&str, &str)]) -> Listed {
    Listed {
        config: config.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect(),
        line: 1,
        ..Listed::automatic("plugins/guest.wasm")
    }
}

fn load(plugins: &Plugins, bytes: &[u8], listed: &Listed) -> Result<PluginStage, String> {
    plugins.load(listed, &file(bytes)).map(PluginStage::new)
}

fn context() -> Context {
    crate::script::suite::context(&Map::new(), Format::OpenaiChat).unwrap()
}

fn document(text: &str) -> Document {
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": text}]}).to_string();
    Document::new(Format::OpenaiChat, body.into(), Inbound::default()).unwrap()
}

fn ask(visit: &mut dyn Visit, cx: &mut Context, text: &str) -> Result<RequestVerdict, StageFault> {
    drive(visit.request(cx, &mut document(text)))
}

/// What a fresh visit says to one request.
fn once(stage: &PluginStage, text: &str) -> Result<RequestVerdict, StageFault> {
    ask(&mut *stage.open(), &mut context(), text)
}

#[test]
fn a_guest_reads_its_configuration_and_answers() {
    let plugins = Plugins::dry();
    let stage = load(&plugins, HELLO, &listed(&[("greeting", "servus")])).unwrap();
    assert!(stage.phases().has(Phase::Request) && !stage.phases().has(Phase::Log));
    assert_eq!(&**stage.name(), "plugins/guest.wasm");
    let Ok(RequestVerdict::Respond(answer)) = once(&stage, "Servus") else { panic!("it answers its greeting") };
    assert!(answer.text().starts_with("Hello."));
    assert!(matches!(once(&stage, "hello"), Ok(RequestVerdict::Continue)));
}

#[test]
fn no_plugin_no_engine() {
    let plugins = Plugins::dry();
    assert!(plugins.engine.get().is_none());
    load(&plugins, HELLO, &listed(&[])).unwrap();
    assert!(plugins.engine.get().is_some_and(Result::is_ok));
}

#[test]
fn an_unchanged_file_is_compiled_once_and_forgotten_when_nobody_holds_it() {
    let plugins = Plugins::dry();
    let one = plugins.load(&listed(&[]), &file(HELLO)).unwrap();
    let two = plugins.load(&listed(&[("greeting", "x")]), &file(HELLO)).unwrap();
    assert!(Arc::ptr_eq(&one.program, &two.program));
    plugins.prune();
    assert_eq!(plugins.compiled.lock().unwrap().len(), 1);
    drop((one, two));
    plugins.prune();
    assert_eq!(plugins.compiled.lock().unwrap().len(), 0);
}

/// By phase and deed: a word of what the operator reads.
#[test]
fn a_fault_names_plugin_phase_and_cause_and_never_the_prompt() {
    let plugins = Plugins::dry();
    let mut slow = listed(&[]);
    slow.limits.cpu = std::time::Duration::from_millis(300);
    let stage = load(&plugins, HOSTILE, &slow).unwrap();
    let causes = BTreeMap::from([
        ("loop", "more than 300ms of processor time"),
        ("notes", "more than 300ms of processor time"),
        ("recurse", ""),
        ("memory", "more than 32768 KiB of memory"),
        ("panic", "it panicked"),
        ("trap", "it panicked"),
        ("huge", "handed over more than 16 MiB"),
        ("garbage", ""),
        ("wild-pointer", ""),
        ("wild-length", ""),
        ("wrong-status", "the status 200"),
        ("wrong-text", "the text 4294967295"),
        ("wrong-header", "phase attempt"),
        ("wrong-turns", ""),
        ("no-model", "without a usable name"),
        ("other", "does not know"),
        ("other-edit", "does not know"),
        ("many-edits", ""),
    ]);
    for (deed, cause) in causes {
        let fault = once(&stage, &format!("private words: hostile request {deed}")).expect_err(deed);
        let told = &fault.message;
        assert!(told.starts_with("plugins/guest.wasm (request): ") && told.contains(cause), "{deed}: {told}");
        assert!(!told.contains("private"), "{told}");
        assert!(fault.error.is_none());
        // The next request's guest knows nothing of it.
        assert!(matches!(once(&stage, "harmless"), Ok(RequestVerdict::Continue)), "after {deed}");
    }
}

#[test]
fn an_instance_that_failed_is_never_called_again() {
    let plugins = Plugins::dry();
    let stage = load(&plugins, HOSTILE, &listed(&[])).unwrap();
    let (mut visit, mut cx) = (stage.open(), context());
    assert!(ask(&mut *visit, &mut cx, "hostile request panic").is_err());
    let again = ask(&mut *visit, &mut cx, "harmless").unwrap_err();
    assert!(again.message.contains("its instance is gone"), "{}", again.message);
}

#[test]
fn a_call_that_was_left_in_the_middle_poisons_its_instance() {
    let plugins = Plugins::dry();
    let stage = load(&plugins, HOSTILE, &listed(&[])).unwrap();
    let (mut visit, mut cx) = (stage.open(), context());
    let mut doc = document("hostile request loop");
    {
        let mut call = visit.request(&mut cx, &mut doc);
        let mut waker = std::task::Context::from_waker(std::task::Waker::noop());
        // Busy: it gives its thread back with each tick.
        assert!(call.as_mut().poll(&mut waker).is_pending());
    }
    let again = ask(&mut *visit, &mut cx, "harmless").unwrap_err();
    assert!(again.message.contains("its instance is gone"), "{}", again.message);
}

/// Promise 16, on this thread's own clock.
#[test]
fn an_endless_guest_is_stopped_within_twice_its_processor_time() {
    let plugins = Plugins::dry();
    let mut stage = listed(&[]);
    stage.limits.cpu = std::time::Duration::from_millis(60);
    let stage = load(&plugins, HOSTILE, &stage).unwrap();
    once(&stage, "warm").unwrap();
    for deed in ["loop", "notes", "vars"] {
        let before = super::super::engine::thread_time();
        assert!(once(&stage, &format!("hostile request {deed}")).is_err());
        let took = (super::super::engine::thread_time() - before) / 1_000_000;
        assert!((30..120).contains(&took), "{deed}: {took} ms");
    }
}

#[test]
fn notes_are_bounded_and_reach_the_trace() {
    let plugins = Plugins::dry();
    let stage = load(&plugins, HOSTILE, &listed(&[])).unwrap();
    let mut cx = context();
    ask(&mut *stage.open(), &mut cx, "hostile request huge-note").unwrap_err();
    let mut cx = context();
    let _ = ask(&mut *stage.open(), &mut cx, "hostile request garbage-var");
    let notes = cx.trace.steps.iter().filter(|s| matches!(s, Step::Note { .. })).count();
    assert_eq!(notes, 0);
}

#[test]
fn describe_runs_under_limits_and_what_it_says_is_checked() {
    let plugins = Plugins::dry();
    let causes = [
        ("loop", "processor time"),
        ("panic", "asked to describe itself"),
        ("memory", "memory"),
        ("error", "refuses its configuration: it does not want to"),
        ("no-phases", "wants the phase \"none\""),
        ("no-name", "without a usable name"),
        ("long-name", "without a usable name"),
        ("other-need", "needs \"everything\""),
        ("garbage", "asked to describe itself"),
    ];
    for (describe, cause) in causes {
        let Err(refused) = load(&plugins, HOSTILE, &listed(&[("describe", describe)])) else { panic!("{describe}") };
        assert!(refused.contains(cause), "{describe}: {refused}");
    }
    assert!(load(&plugins, HOSTILE, &listed(&[("stream", "other")])).is_err());
    assert!(load(&plugins, b"\0asm\x01\0\0\0", &listed(&[])).err().unwrap().contains("not a component"));
    assert!(load(&plugins, b"#!/bin/sh", &listed(&[])).err().unwrap().contains("no WebAssembly"));
}

#[test]
fn a_full_pool_is_the_gateways_own_overload_and_not_the_plugins_fault() {
    let plugins = Plugins::dry();
    plugins.make_room(70, 1);
    let stage = load(&plugins, HOSTILE, &listed(&[])).unwrap();
    let mut visits: Vec<_> = (0..70).map(|_| stage.open()).collect();
    for visit in &mut visits {
        assert!(matches!(ask(&mut **visit, &mut context(), "hi"), Ok(RequestVerdict::Continue)));
    }
    let fault = once(&stage, "hi").unwrap_err();
    assert!(fault.message.contains("no room"), "{}", fault.message);
    let error = fault.error.unwrap();
    assert_eq!((error.status(), error.retry_after.map(|wait| wait.as_secs())), (503, Some(1)));
    drop(visits);
    once(&stage, "hi").unwrap();
}

/// `cargo test --release --lib plugin::tests::guests::cost_of_a_call -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cost_of_a_call() {
    let plugins = Plugins::dry();
    for (name, isolation) in [("fresh", Default::default()), ("pooled", crate::config::Isolation::Pooled)] {
        let stage = load(&plugins, HOSTILE, &Listed { isolation, ..listed(&[]) }).unwrap();
        let (mut cx, mut doc) = (context(), document("nothing of note"));
        let mut times: Vec<_> = (0..5_000)
            .map(|_| {
                let started = std::time::Instant::now();
                let mut visit = stage.open();
                drive(visit.request(&mut cx, &mut doc)).unwrap();
                drop(visit);
                started.elapsed()
            })
            .collect();
        times.sort();
        eprintln!("{name}: open, one request phase, drop: p50 {:?}, p99 {:?}", times[2_500], times[4_950]);
    }
}

#[test]
fn an_instance_serves_another_request_only_when_both_sides_agree() {
    let plugins = Plugins::dry();
    let count = |stage: &PluginStage| match once(stage, "hostile request count") {
        Ok(RequestVerdict::Respond(answer)) => answer.text(),
        other => panic!("{other:?}"),
    };
    let own = load(&plugins, HOSTILE, &listed(&[])).unwrap();
    assert_eq!((count(&own), count(&own)), ("1".into(), "1".into()));
    let mut pooled = listed(&[]);
    pooled.isolation = crate::config::Isolation::Pooled;
    let stage = load(&plugins, HOSTILE, &pooled).unwrap();
    assert_eq!((count(&stage), count(&stage)), ("1".into(), "2".into()));
    once(&stage, "hostile request panic").unwrap_err();
    assert_eq!(count(&stage), "1");
    assert!(load(&plugins, HELLO, &pooled).err().unwrap().contains("reusable"));
}

#[test]
fn a_fresh_copy_shares_what_is_compiled_and_no_memory() {
    let plugins = Plugins::dry();
    let one = plugins.load(&listed(&[]), &file(HELLO)).unwrap();
    let copy = plugins.again();
    let two = copy.load(&listed(&[]), &file(HELLO)).unwrap();
    assert!(Arc::ptr_eq(&one.program, &two.program) && Arc::ptr_eq(&one.engine, &two.engine));
    assert!(!Arc::ptr_eq(&plugins.effects.kv, &copy.effects.kv));
}

#[test]
fn a_bench_calls_each_phase_of_a_request_and_tells_what_came_of_it() {
    let text = "hostile event drop".to_owned();
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": text}]}).to_string();
    let load = Load {
        body: body.into(),
        format: Format::OpenaiChat,
        context: &|| Ok(context()),
        answer: "word ".repeat(20),
        only: None,
        requests: 3,
        time: std::time::Duration::from_secs(60),
    };
    let plugins = Plugins::dry();
    let mut listed = listed(&[]);
    listed.limits.cpu = std::time::Duration::from_secs(5);
    let loaded = plugins.load(&listed, &file(HOSTILE)).unwrap();
    let figures = bench(&loaded, &load).unwrap();
    let steps: Vec<_> = figures.steps.iter().map(|step| (step.step, step.calls, step.verdict, step.failed)).collect();
    // Start, a part's start, five pieces of 24 bytes, its end, finish, usage, end.
    assert_eq!(
        steps,
        [
            ("instance", 3, "", 0),
            ("request", 3, "continue", 0),
            ("route", 3, "continue", 0),
            ("attempt", 3, "continue", 0),
            ("event", 33, "continue", 0),
            ("response", 3, "continue", 0),
            ("error", 3, "continue", 0),
            ("log", 3, "continue", 0),
        ]
    );
    let step = |name: &str| figures.steps.iter().find(|step| step.step == name).unwrap();
    assert_eq!((step("event").out, step("response").out), (0, 100), "its events are dropped, its answer stays");
    assert!(step("instance").memory >= 1 << 16 && step("request").out > 40);
    // A failure is told and is no panic.
    let text = "hostile attempt panic".to_owned();
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": text}]}).to_string();
    let figures = bench(&loaded, &Load { body: body.into(), ..load }).unwrap();
    let failed = figures.steps.last().unwrap();
    assert_eq!((failed.step, failed.failed), ("attempt", 3));
    assert!(failed.fault.as_deref().is_some_and(|why| why.contains("it panicked")), "{failed:?}");
}

/// The contract is documentation, line by line.
#[test]
fn every_item_of_the_contract_has_its_line() {
    let text = include_str!("../../../plugins/wit/portcullis.wit");
    let (mut missing, mut documented, mut items) = (Vec::new(), false, 0);
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.starts_with("///") {
            documented = line.len() > 6;
            continue;
        }
        let frame = ["}", "//", "use ", "import ", "export ", "include ", "package "];
        if !line.is_empty() && !frame.iter().any(|word| line.starts_with(word)) {
            items += 1;
            if !documented {
                missing.push(format!("{number}: {line}"));
            }
        }
        documented = false;
    }
    assert!(missing.is_empty(), "without a line of `///` before it:\n{}", missing.join("\n"));
    assert!(items > 250, "{items} items were found");
}
