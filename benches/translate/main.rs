//! What translation costs, for every pair of formats: a request on its way in, an answer and a stream on their way back.
//!
//! No sockets: one thread, the codecs alone, on exchanges that every format can say (a system prompt, eight turns, four
//! tools, two calls with results; an answer with text and a call; the same word by word). The figure is
//! this thread's CPU time; with `--instructions` it is instructions, counted by valgrind, which a busy machine does not
//! disturb. Behind it stand the bytes that went in and came out, and the cost of one, and of each event of a stream: a wire that
//! says everything twice is dear for what it says, not for how it is read. Ends with 1 when a pair costs more than twice the
//! cheapest of its kind.
//!
//! `cargo bench --bench translate [-- --instructions] [WORD…]`: only pairs whose line holds every word.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, reason = "a bench prints its table")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what it feeds itself is right, or the bench is wrong")]

mod exchange;

use std::{
    fmt,
    hint::black_box,
    process::{Command, ExitCode},
    time::Duration,
};

use portcullis::{
    codec::{ClientView, Dialect, Inbound, codec, sse},
    model::Format,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// The gateway's own: with the system's, what a pair costs depends on what was let go of before it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Request,
    Answer,
    Stream,
}

const WAYS: [Way; 3] = [Way::Request, Way::Answer, Way::Stream];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Request => "request",
            Way::Answer => "answer",
            Way::Stream => "stream",
        }
    }
}

/// One direction of one pair, with the bytes that come in.
struct Case {
    way: Way,
    client: Format,
    upstream: Format,
    bytes: Vec<u8>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.way.name(), self.client.name(), self.upstream.name())
    }
}

impl Case {
    fn all() -> Vec<Case> {
        let pairs = || Format::ALL.into_iter().flat_map(|c| Format::ALL.map(|u| (c, u))).filter(|(c, u)| c != u);
        let case = |way, (client, upstream)| {
            let bytes = match way {
                Way::Request => exchange::request(client),
                Way::Answer => exchange::answer(upstream),
                Way::Stream => exchange::stream(upstream),
            };
            Case { way, client, upstream, bytes }
        };
        WAYS.into_iter().flat_map(|way| pairs().map(move |pair| case(way, pair))).collect()
    }

    /// Events of a stream.
    fn events(&self) -> Option<usize> {
        let mut decoder = codec(self.upstream).stream_decoder(&Dialect::of("bench-model"), sse::MAX_EVENT);
        let mut events = Vec::new();
        decoder.push(&self.bytes, &mut events).ok()?;
        (self.way == Way::Stream).then_some(events.len())
    }

    /// Once through; gives what came out, so that none of it is left out.
    fn run(&self) -> usize {
        let (client, upstream) = (codec(self.client), codec(self.upstream));
        let dialect = Dialect::of("bench-model");
        match self.way {
            Way::Request => {
                let inbound = Inbound { model: Some("bench-model"), stream: Some(true), ..Inbound::default() };
                let request = client.decode_request(&self.bytes, inbound).unwrap();
                Value::Object(upstream.encode_request(&request, &dialect).unwrap().body).to_string().len()
            }
            Way::Answer => {
                let answer = upstream.decode_response(&self.bytes).unwrap();
                client.encode_response(&answer, &view()).unwrap().len()
            }
            Way::Stream => {
                let mut decoder = upstream.stream_decoder(&dialect, sse::MAX_EVENT);
                let mut encoder = client.stream_encoder(&view());
                let (mut events, mut out) = (Vec::new(), Vec::new());
                // As a network hands them over.
                for piece in self.bytes.chunks(1400) {
                    decoder.push(piece, &mut events).unwrap();
                    events.drain(..).for_each(|event| encoder.push(&event, &mut out));
                }
                decoder.finish(&mut events).unwrap();
                events.drain(..).for_each(|event| encoder.push(&event, &mut out));
                encoder.finish(&mut out);
                out.len()
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, rounds, name] = arguments.as_slice()
        && flag == "--run"
    {
        return run_only(name, rounds.parse().unwrap_or(0));
    }
    let (flags, words): (Vec<_>, Vec<_>) = arguments.iter().partition(|a| a.starts_with("--"));
    let count = match flags.as_slice() {
        [] => false,
        [flag] if *flag == "--instructions" => true,
        _ => {
            eprintln!("translate: unknown option; known: --instructions");
            return ExitCode::from(64);
        }
    };
    let cases: Vec<Case> =
        Case::all().into_iter().filter(|c| words.iter().all(|w| c.to_string().contains(w.as_str()))).collect();
    let unit = if count { "instructions" } else { "CPU µs" };
    println!("way      client → upstream                          {unit:>12}    bytes in + out  per byte  per event");
    let mut dear = false;
    for way in WAYS {
        let mut figures: Vec<(f64, &Case)> = Vec::new();
        for case in cases.iter().filter(|c| c.way == way) {
            let figure = if count { instructions(case) } else { Ok(micros(case)) };
            match figure {
                Ok(figure) => figures.push((figure, case)),
                Err(why) => {
                    eprintln!("translate: {why}");
                    return ExitCode::FAILURE;
                }
            }
        }
        figures.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some(cheapest) = figures.first().map(|(figure, _)| *figure) else { continue };
        for (figure, case) in &figures {
            let pair = format!("{} → {}", case.client.name(), case.upstream.name());
            let ratio = figure / cheapest;
            dear |= ratio > 2.0;
            let shown = if count { format!("{figure:12.0}") } else { format!("{figure:12.2}") };
            let (came, went) = (case.bytes.len(), case.run());
            let each = figure / (came + went) as f64;
            let bytes = format!("{came} + {went}");
            let event = case.events().map_or(String::new(), |events| format!("{:.3}", figure / events as f64));
            println!(
                "{:8} {pair:42} {shown}  {bytes:>16}  {each:8.3}  {event:>9}  {ratio:5.2} × the cheapest{}",
                way.name(),
                mark(ratio)
            );
        }
    }
    if dear { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn mark(ratio: f64) -> &'static str {
    if ratio > 2.0 { "  ← more than twice" } else { "" }
}

/// The least of several rounds: what disturbs a round only adds.
fn micros(case: &Case) -> f64 {
    for _ in 0..50 {
        black_box(case.run());
    }
    let rounds = (0..7).map(|_| {
        let began = cpu();
        for _ in 0..200 {
            black_box(case.run());
        }
        (cpu() - began).as_secs_f64() * 1e6 / 200.0
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What ten more rounds add, a tenth of it: the start of the program counts in neither.
fn instructions(case: &Case) -> Result<f64, String> {
    Ok((counted(case, 12)? - counted(case, 2)?) / 10.0)
}

fn counted(case: &Case, rounds: u32) -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--run", &rounds.to_string(), &case.to_string()])
        .output()
        .map_err(|e| format!("valgrind cannot be started ({e}); Debian: apt-get install valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|l| l.split_once("Collected :")).ok_or("valgrind counted nothing")?;
    line.1.trim().parse().map_err(|e| format!("valgrind's count cannot be read: {e}"))
}

/// For valgrind: one case, so many times.
fn run_only(name: &str, rounds: u32) -> ExitCode {
    let Some(case) = Case::all().into_iter().find(|c| c.to_string() == name) else { return ExitCode::from(64) };
    for _ in 0..rounds {
        black_box(case.run());
    }
    ExitCode::SUCCESS
}

fn view() -> ClientView {
    ClientView {
        model: "bench-model".to_owned(),
        request_id: "req_bench".to_owned(),
        now: 1_790_000_000,
        include_usage: true,
        ..ClientView::default()
    }
}
