//! What plugins cost in the host: an instance, a call, an event, without sockets. One thread; times are the processor's for
//! a whole request, and what passed for one call.
//!
//! A guest that does nothing shows what the host takes; `hello` and `redact` show plugins as they are. Whoever has built
//! other components names them: each gets the same lines.
//!
//! `cargo bench --bench plugin [-- --requests N] [FILE.wasm …]`

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a bench prints its table")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what it feeds itself is right, or the bench is wrong")]

use std::{path::Path, time::Duration};

use portcullis::{
    config::{Isolation, Stage, sources},
    model::Format,
    pipeline::Phase,
    plugin::{Load, Plugins, all_grants, bench},
    script::suite,
};

/// A line of the table.
struct Case {
    what: &'static str,
    file: &'static str,
    /// Bytes of the request's text, and of the answer's.
    size: usize,
    only: Option<Phase>,
    isolation: Isolation,
    /// Microseconds: of a request with all that belongs to it, and of one event.
    aim: Option<f64>,
}

const fn case(what: &'static str, file: &'static str, size: usize, only: Option<Phase>) -> Case {
    Case { what, file, size, only, isolation: Isolation::Request, aim: None }
}

const FORWARD: &str = "tests/guests/forward/forward.wasm";
const REDACT: &str = "plugins/redact/redact.wasm";
const REQUEST: Option<Phase> = Some(Phase::Request);
const EVENT: Option<Phase> = Some(Phase::Event);

const CASES: [Case; 9] = [
    Case { aim: Some(30.0), ..case("nothing, 2 KB", FORWARD, 2 << 10, REQUEST) },
    case("nothing, 100 KB", FORWARD, 100 << 10, REQUEST),
    Case { isolation: Isolation::Pooled, ..case("nothing, 2 KB, pooled", FORWARD, 2 << 10, REQUEST) },
    Case { aim: Some(30.0), ..case("hello, 2 KB", "plugins/hello/hello.wasm", 2 << 10, REQUEST) },
    case("redact, 2 KB", REDACT, 2 << 10, REQUEST),
    case("redact, 100 KB", REDACT, 100 << 10, REQUEST),
    case("nothing, a stream of 85 events", FORWARD, 2 << 10, EVENT),
    case("redact, request and stream, 2 KB", REDACT, 2 << 10, None),
    case("redact, request and stream, 100 KB", REDACT, 100 << 10, None),
];

fn main() {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    let mut requests = 2_000;
    if arguments.next_if(|argument| argument == "--requests").is_some() {
        requests = arguments.next().and_then(|n| n.parse().ok()).expect("--requests N");
    }
    println!("{:<36} {:>9} {:>10} {:>10} {:>10} {:>10}", "", "requests", "cpu µs", "instance", "request", "event");
    for case in CASES {
        line(&case, case.file, requests);
    }
    for file in arguments {
        let name = Path::new(&file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (more, isolation) in [("", Isolation::Request), (", pooled", Isolation::Pooled)] {
            let what: &'static str = format!("{name}, 2 KB{more}").leak();
            line(&Case { isolation, ..case(what, "", 2 << 10, REQUEST) }, &file, requests);
        }
    }
}

fn line(case: &Case, file: &str, requests: u32) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let component = sources::Plugin::read(&path).unwrap_or_else(|why| panic!("{file} {why}"));
    let stage = Stage { grant: all_grants(), isolation: case.isolation, ..Stage::automatic(file) };
    let loaded = match Plugins::dry().load(&stage, &component) {
        Ok(loaded) => loaded,
        Err(why) if case.isolation == Isolation::Pooled => return println!("{:<36} {why}", case.what),
        Err(why) => panic!("{file} {why}"),
    };
    let words = "Nothing in here is anybody's business, and nobody minds that it goes by. ";
    let text: String = words.chars().cycle().take(case.size).collect();
    let body = serde_json::json!({"model": "mock", "messages": [{"role": "user", "content": text}]}).to_string();
    let load = Load {
        body: body.into(),
        format: Format::OpenaiChat,
        context: &|| suite::context(&serde_json::Map::new(), Format::OpenaiChat),
        answer: text,
        only: case.only,
        requests,
        time: Duration::from_secs(20),
    };
    let figures = bench(&loaded, &load).unwrap();
    let step = |name: &str| {
        let step = figures.steps.iter().find(|step| step.step == name);
        step.map_or_else(String::new, |step| {
            assert_eq!(step.failed, 0, "{:?}", step.fault);
            format!("{:.2}", step.p50_us)
        })
    };
    let aim = case.aim.map(|aim| format!("   aim {aim}")).unwrap_or_default();
    println!(
        "{:<36} {:>9} {:>10.1} {:>10} {:>10} {:>10}{aim}",
        case.what,
        figures.requests,
        figures.cpu_us,
        step("instance"),
        step("request"),
        step("event")
    );
}
