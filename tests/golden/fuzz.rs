//! Decoders under damage: goldens, and what the encoders make of every golden, are cut, flipped, doubled and spliced, and
//! fed to each decoder for five seconds (a minute with `PORTCULLIS_LONG=1`). Nothing may panic or hang, what decodes must
//! encode, and any split of a damaged stream must end as the unsplit one does. A fault names the round that repeats it. What
//! reads along without a codec (forms, answers that are only skimmed, bodies that no codec reads, frames) is fed likewise.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis::{
    codec::{
        ClientView, Dialect, Inbound, codec, document::Document, eventstream, form, glance::glance, lane::Lane, opaque,
        skim::Skim, sse,
    },
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
    let all = Format::ALL.into_iter();
    let jobs = all.flat_map(|f| [What::Request, What::Answer, What::Stream, What::Refusal].map(|w| (f, w)));
    let jobs = jobs.map(|(format, what)| {
        let mine = seeds.iter().filter(|(f, w, _)| (*f, *w) == (format, what)).map(|(_, _, bytes)| bytes.clone());
        let feed = move |bytes: &[u8], dice: &mut Dice| feed(format, what, bytes, dice);
        Job { name: format!("{} {what:?}", format.name()), seeds: mine.collect(), feed: Box::new(feed) }
    });
    work(jobs.collect(), &faults);
    cases::report(&faults.into_inner().unwrap());
}

#[test]
fn damaged_bytes_never_panic_what_reads_along() {
    let faults = Mutex::new(Vec::new());
    let seeds = seeds();
    let of = |what: What| -> Vec<Vec<u8>> {
        seeds.iter().filter(|(_, w, _)| *w == what).map(|(_, _, bytes)| bytes.clone()).collect()
    };
    let framed = seeds.iter().filter(|(f, w, _)| (*f, *w) == (Format::BedrockConverse, What::Stream));
    let framed = framed.map(|(_, _, bytes)| bytes.clone()).collect();
    let job = |name: &str, seeds, feed: fn(&[u8], &mut Dice) -> Result<(), String>| Job {
        name: name.to_owned(),
        seeds,
        feed: Box::new(feed),
    };
    let jobs = vec![
        job("forms", FORMS.iter().map(|form| form.replace('\n', "\r\n").into_bytes()).collect(), scan_form),
        job("answers that are skimmed", [of(What::Answer), of(What::Stream)].concat(), skim),
        job("bodies that no codec reads", BODIES.iter().map(|body| body.as_bytes().to_vec()).collect(), unread),
        job("frames", framed, frames),
    ];
    work(jobs, &faults);
    cases::report(&faults.into_inner().unwrap());
}

/// Bytes to damage, and what is fed with them.
struct Job<'a> {
    name: String,
    seeds: Vec<Vec<u8>>,
    feed: Box<Feed<'a>>,
}

type Feed<'a> = dyn Fn(&[u8], &mut Dice) -> Result<(), String> + Send + 'a;

/// Two at a time: a debug build is slow enough without more of them than processors.
fn work(jobs: Vec<Job<'_>>, faults: &Mutex<Vec<String>>) {
    let next = Mutex::new(jobs.into_iter());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(job) = next.lock().unwrap().next() else { return };
                    assert!(!job.seeds.is_empty(), "no seeds for {}", job.name);
                    if let Err(fault) = shake(&job, patience()) {
                        faults.lock().unwrap().push(fault);
                    }
                }
            });
        }
    });
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

fn shake(job: &Job<'_>, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    let mut round = 0_u64;
    while Instant::now() < until {
        round += 1;
        let mut dice = Dice(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d);
        let bytes = damaged(&job.seeds, &mut dice);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (job.feed)(&bytes, &mut dice)));
        let name = || format!("{} round {round}", job.name);
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
    if round < 20 { Err(format!("{}: only {round} rounds", job.name)) } else { Ok(()) }
}

/// At once and in pieces: the same.
fn alike<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    dice: &mut Dice,
    read: impl Fn(usize) -> T,
) -> Result<(), String> {
    let (whole, pieces) = (read(bytes.len().max(1)), read(1 + dice.below(40)));
    if whole == pieces { Ok(()) } else { Err(format!("split, it is read otherwise:\n  {whole:?}\n  {pieces:?}\n")) }
}

fn scan_form(bytes: &[u8], dice: &mut Dice) -> Result<(), String> {
    let _ = form::boundary(&String::from_utf8_lossy(bytes));
    alike(bytes, dice, |step| {
        let (mut scanner, mut seen) = (form::Scanner::new("edge"), Vec::new());
        let good = bytes.chunks(step).all(|piece| scanner.push(piece, &mut seen).is_ok());
        (seen, good && scanner.finish().is_ok())
    })
}

fn skim(bytes: &[u8], dice: &mut Dice) -> Result<(), String> {
    const WANTED: &[&str] = opaque::FIELDS;
    for events in [false, true] {
        alike(bytes, dice, |step| {
            let mut skim = Skim::new(events, WANTED);
            bytes.chunks(step).for_each(|piece| skim.push(piece));
            let fields: Vec<Option<Vec<u8>>> = WANTED.iter().map(|name| skim.field(name).map(<[u8]>::to_vec)).collect();
            let asked = opaque::Asked::of(Operation::GenerateImage, &serde_json::Map::new());
            let usage = opaque::usage(Format::OpenaiChat, Operation::GenerateImage, &skim, asked);
            (fields, skim.whole(), format!("{usage:?}"))
        })?;
    }
    Ok(())
}

fn unread(bytes: &[u8], _dice: &mut Dice) -> Result<(), String> {
    for operation in UNREAD {
        let inbound = Inbound { stream: Some(false), ..Inbound::default() };
        if let Ok(mut document) = Document::open(Format::OpenaiChat, operation, Bytes::copy_from_slice(bytes), inbound)
        {
            let _ = document.request().is_ok();
            let _ = document.opaque_body(Some("golden-model"));
        }
        if let Ok(request) = opaque::as_turns(operation, bytes, "golden-model", false) {
            let _ = opaque::rewritten(operation, bytes, &request);
        }
        if let Ok(fields) = opaque::object(bytes) {
            let _ = opaque::Asked::of(operation, &fields).units();
            let _ = opaque::to_list(fields);
        }
        let _ = opaque::from_list(bytes);
    }
    Ok(())
}

/// Frames whose headers are those of the one before are read another way: to the same.
fn frames(bytes: &[u8], dice: &mut Dice) -> Result<(), String> {
    alike(bytes, dice, |step| {
        let (mut decoder, mut out) = (eventstream::Decoder::new(sse::MAX_EVENT), Vec::new());
        let mut each = |frame| {
            out.push(frame);
            Ok(())
        };
        let good = bytes.chunks(step).all(|piece| decoder.push(piece, &mut each).is_ok());
        (out, good && decoder.finish().is_ok())
    })?;
    let (mut decoder, mut out) = (eventstream::Decoder::new(sse::MAX_EVENT), Vec::new());
    let result = decoder.push(bytes, |frame| {
        out.push(frame);
        Ok(())
    });
    let (mut rest, mut expected) = (bytes, Vec::new());
    while let Ok(Some(length)) = eventstream::length(rest, sse::MAX_EVENT) {
        let Some((frame, more)) = rest.split_at_checked(length) else { break };
        let Ok(frame) = eventstream::read(frame) else { break };
        expected.push(frame);
        rest = more;
    }
    if out == expected { Ok(()) } else { Err(format!("read otherwise: {out:?} {expected:?} {result:?}")) }
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
            let _ = glance(format, Operation::Chat, bytes, true);
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
fn damaged(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
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
                let other = &seeds[dice.below(seeds.len())];
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
/// `\n` stands for a line's end.
const FORMS: [&str; 2] = [
    "--edge\ncontent-disposition: form-data; name=\"model\"\n\ngpt-image-1\n--edge\ncontent-disposition: form-data; name=\"image\"; \
        filename=\"a.png\"\ncontent-type: image/png\n\n\u{89}PNG\n--not an edge\n--edg\n\n--edge--\n",
    "before it\n--edge  \nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''%c3%bc.wav\n\nRIFF\n--edge--",
];
const BODIES: [&str; 4] = [
    r#"{"model":"m","query":"when?","documents":["a",{"text":"b","title":"c"}],"top_n":2,"return_documents":true}"#,
    r#"{"model":"m","input":["kind",{"type":"text","text":"words"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]}"#,
    r#"{"model":"m","prompt":"a gate","n":2,"size":"1024x1024","quality":"high","stream":true,"partial_images":1}"#,
    r#"{"model":"m","voice":"alloy","input":"open","instructions":"softly","stream_format":"sse"}"#,
];
const UNREAD: [Operation; 5] =
    [Operation::Rerank, Operation::Moderations, Operation::GenerateImage, Operation::EditImage, Operation::Speech];
