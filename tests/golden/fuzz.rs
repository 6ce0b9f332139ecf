//! Decoders under damage: goldens, and what the encoders make of every golden, are cut, flipped, doubled and spliced, and
//! fed to each decoder for five seconds (a minute with `PORTCULLIS_LONG=1`). Nothing may panic or hang, what decodes must
//! encode, and any split of a damaged stream must end as the unsplit one does. A fault names the round that repeats it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis::{
    codec::{ClientView, Dialect, Inbound, codec, document::Document, glance::glance, lane::Lane, sse},
    model::{Event, Format, Operation, fold::unfold},
};
use serde_json::Value;

use super::{answers, cases};

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Request,
    Answer,
    Stream,
    Refusal,
}

#[test]
fn damaged_bytes_never_panic_a_decoder() {
    let faults = Mutex::new(Vec::new());
    let seeds = seeds();
    // Two at a time: a debug build is slow enough without more of them than processors.
    let jobs: Vec<(Format, What)> = Format::ALL
        .into_iter()
        .flat_map(|f| [What::Request, What::Answer, What::Stream, What::Refusal].map(|w| (f, w)))
        .collect();
    let next = Mutex::new(jobs.into_iter());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((format, what)) = next.lock().unwrap().next() else { return };
                    let mine: Vec<&Vec<u8>> = seeds
                        .iter()
                        .filter(|(f, w, _)| (*f, *w) == (format, what))
                        .map(|(_, _, bytes)| bytes)
                        .collect();
                    assert!(!mine.is_empty(), "no seeds for {what:?} of {}", format.name());
                    if let Err(fault) = shake(format, what, &mine, patience()) {
                        faults.lock().unwrap().push(fault);
                    }
                }
            });
        }
    });
    cases::report(&faults.into_inner().unwrap());
}

#[allow(clippy::disallowed_methods, reason = "a test run is told by its environment how long it may take")]
fn patience() -> Duration {
    Duration::from_secs(if std::env::var("PORTCULLIS_LONG").is_ok() { 60 } else { 5 })
}

/// Goldens of a format, and goldens of others as its own encoder writes them.
fn seeds() -> Vec<(Format, What, Vec<u8>)> {
    let mut out = Vec::new();
    let dialect = Dialect::of("golden-model");
    for case in cases::all() {
        for (file, what) in [("request.json", What::Request), ("response.json", What::Answer)] {
            out.extend(case.bytes(file).map(|bytes| (case.format, what, bytes)));
        }
        if let Some(body) = case.json("error.json").map(|e| Bytes::from(e["body"].to_string())) {
            let error = codec(case.format).decode_error(400, &|_| None, &body);
            out.push((case.format, What::Refusal, body.to_vec()));
            for format in Format::ALL {
                out.push((format, What::Refusal, codec(format).encode_error(&error, "req_golden")));
            }
        }
        out.extend(case.stream().map(|bytes| (case.format, What::Stream, bytes)));
        let (model, stream) = case.path_facts();
        let inbound = Inbound { model: model.as_deref(), stream, ..Inbound::default() };
        if let Some(Ok(request)) = case.bytes("request.json").map(|b| codec(case.format).decode_request(&b, inbound)) {
            for format in Format::ALL {
                if let Ok(encoded) = codec(format).encode_request(&request, &dialect) {
                    out.push((format, What::Request, Value::Object(encoded.body).to_string().into_bytes()));
                }
            }
        }
        if let Some(Ok(answer)) = case.bytes("response.json").map(|b| codec(case.format).decode_response(&b)) {
            for format in Format::ALL {
                out.extend(codec(format).encode_response(&answer, &view()).ok().map(|b| (format, What::Answer, b)));
                out.push((format, What::Stream, streamed(format, &unfold(&answer))));
            }
        }
    }
    out
}

fn streamed(format: Format, events: &[Event]) -> Vec<u8> {
    let mut encoder = codec(format).stream_encoder(&view());
    let mut bytes = Vec::new();
    events.iter().filter(|e| **e != Event::End).for_each(|event| encoder.push(event, &mut bytes));
    encoder.finish(&mut bytes);
    bytes
}

fn shake(format: Format, what: What, seeds: &[&Vec<u8>], patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    let mut round = 0_u64;
    while Instant::now() < until {
        round += 1;
        let mut dice = Dice(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d);
        let bytes = damaged(seeds, &mut dice);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| feed(format, what, &bytes, &mut dice)));
        let name = || format!("{} {what:?} round {round}", format.name());
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => return Err(format!("{}: {fault}: {}", name(), String::from_utf8_lossy(&bytes))),
            Err(_) => return Err(format!("{}: panicked on {}", name(), String::from_utf8_lossy(&bytes))),
        }
        if began.elapsed() > SLOW {
            return Err(format!("{}: took {:?} for {} bytes", name(), began.elapsed(), bytes.len()));
        }
    }
    // Fewer would say that something else than decoding takes the time.
    if round < 20 { Err(format!("{} {what:?}: only {round} rounds", format.name())) } else { Ok(()) }
}

fn feed(format: Format, what: What, bytes: &[u8], dice: &mut Dice) -> Result<(), String> {
    let codec = codec(format);
    match what {
        What::Request => {
            let inbound =
                Inbound { model: Some("golden-model"), stream: Some(dice.below(2) == 0), ..Inbound::default() };
            if let Ok(request) = codec.decode_request(bytes, inbound) {
                for target in Format::ALL {
                    let _ = portcullis::codec::codec(target).encode_request(&request, &Dialect::of("golden-model"));
                }
            }
            let _ = codec.decode_embeddings(bytes, inbound);
            if let Ok(mut document) = Document::open(format, Operation::Chat, Bytes::copy_from_slice(bytes), inbound) {
                let _ = document.last_user_ends(64);
                let _ = document.patch(&Dialect::of("golden-model"), true);
            }
        }
        What::Answer => {
            if let Ok(answer) = codec.decode_response(bytes) {
                for client in Format::ALL {
                    let _ = portcullis::codec::codec(client).encode_response(&answer, &view());
                }
            }
            let _ = glance(format, Operation::Chat, bytes);
            let _ = codec.decode_embeddings_response(bytes);
            let _ = codec.decode_count(bytes);
        }
        What::Stream => {
            let (whole, pieces) = (read(format, bytes, bytes.len().max(1)), read(format, bytes, 1 + dice.below(40)));
            if whole != pieces {
                return Err(format!("split, it ends otherwise:\n  {whole:?}\n  {pieces:?}\n"));
            }
            for client in Format::ALL {
                let _ = streamed(client, &whole.0);
            }
            let mut lane = Lane::new(format, &Dialect::of("golden-model"), true, sse::MAX_EVENT);
            let mut out = Vec::new();
            for piece in bytes.chunks(1 + dice.below(200)) {
                if lane.push(Bytes::copy_from_slice(piece), &mut out).is_err() {
                    return Ok(());
                }
            }
            let _ = lane.finish(&mut out);
        }
        What::Refusal => {
            let status = [400, 401, 404, 413, 429, 500, 503, 200][dice.below(8)];
            let error = codec.decode_error(status, &|_| None, &Bytes::copy_from_slice(bytes));
            for client in Format::ALL {
                let _ = portcullis::codec::codec(client).encode_error(&error, "req_golden");
            }
        }
    }
    Ok(())
}

/// The events up to the end or the first error, and whether it ended well.
fn read(format: Format, bytes: &[u8], step: usize) -> (Vec<Event>, bool) {
    let mut decoder = codec(format).stream_decoder(&Dialect::of("golden-model"), sse::MAX_EVENT);
    let mut out = Vec::new();
    for piece in bytes.chunks(step) {
        if decoder.push(piece, &mut out).is_err() {
            return (out, false);
        }
    }
    let ended = decoder.finish(&mut out).is_ok();
    (out, ended)
}

/// A seed with a few wounds.
fn damaged(seeds: &[&Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    bytes.truncate(LONGEST);
    for _ in 0..1 + dice.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = dice.below(bytes.len());
        match dice.below(7) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = INTERESTING[dice.below(INTERESTING.len())],
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 1 + dice.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + dice.below(200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let other = seeds[dice.below(seeds.len())];
                let from = dice.below(other.len().max(1));
                let end = (from + 1 + dice.below(400)).min(other.len());
                bytes.splice(at..at, other[from.min(end)..end].iter().copied());
            }
            _ => {
                let token = TOKENS[dice.below(TOKENS.len())];
                bytes.splice(at..at, token.bytes());
            }
        }
    }
    bytes
}

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % end.max(1)
    }
}

fn view() -> ClientView {
    ClientView { include_usage: true, ..answers::view() }
}

/// One input of a few kilobytes that takes this long is a hang in the making, in a debug build as well.
const SLOW: Duration = Duration::from_secs(2);
const LONGEST: usize = 16 << 10;
const INTERESTING: &[u8] = b"\0\n\r\t \"\\{}[]:,0-9eE.\x7f\x80\xc3\xff\xf0";
const TOKENS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\n\n",
    "\r\n\r\n",
    "data: ",
    "event: error\n",
    "data: [DONE]\n\n",
    ":\n",
    "\"index\":4294967295,",
    "\"type\":\"error\",",
    "\u{feff}",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":",
    "\"error\":{\"message\":1},",
    "\"arguments\":\"{\",",
];
