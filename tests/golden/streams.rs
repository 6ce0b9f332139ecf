//! Any split of a stream's bytes gives the same events: every split up to 8 KB; above that byte by byte once and 256
//! seeded splits. And a stream that is cut is dead, wherever it is cut.

use portcullis::{
    codec::{Dialect, codec, framing::Framing, sse},
    error::Kind,
    model::{Event, Format},
};

use super::{answers, cases};

#[test]
fn every_split_of_a_stream_gives_the_same_events() {
    let (mut faults, mut streams) = (Vec::new(), 0);
    for case in cases::all() {
        let Some(bytes) = case.stream() else { continue };
        streams += 1;
        if let Err(e) = survives_splits(case.format, &bytes, &Dialect::of("golden-model")) {
            faults.push(format!("{case}: {e}"));
        }
    }
    assert!(streams >= 10, "only {streams} streams");
    cases::report(&faults);
}

#[test]
fn a_stream_cut_before_its_terminal_is_an_upstream_fault() {
    let mut faults = Vec::new();
    for case in cases::all() {
        let Some(bytes) = case.stream() else { continue };
        let Some(at) = before_its_end(case.format, &bytes) else { continue };
        match answers::decode_stream(case.format, &bytes[..at]) {
            Err(e) if e.kind == Kind::Upstream => {}
            other => faults.push(format!("{case}: a stream cut at {at} gave {other:?}")),
        }
    }
    cases::report(&faults);
}

/// Where the frame begins that says that all was said: everything before it is a whole stream but for its end.
fn before_its_end(format: Format, bytes: &[u8]) -> Option<usize> {
    let framing = Framing::of(format);
    let (mut starts, mut at) = (Vec::new(), 0);
    while let Some(end) = framing.end(&bytes[at..], 0, sse::MAX_EVENT).unwrap() {
        starts.push(at);
        at += end;
    }
    if format == Format::Cohere {
        // Behind it a mark comes that says nothing more.
        return starts.into_iter().find(|at| bytes[*at..].starts_with(b"event: message-end"));
    }
    if format == Format::BedrockConverse {
        // Behind it only the figures come.
        return starts.into_iter().find(|at| memchr::memmem::find(&bytes[*at..], b"messageStop") == Some(MESSAGE_STOP));
    }
    starts.pop()
}

/// Behind the prelude, the length of the header's name, the name, a type and a length of two bytes.
const MESSAGE_STOP: usize = 12 + 1 + ":event-type".len() + 1 + 2;

pub fn survives_splits(format: Format, bytes: &[u8], dialect: &Dialect) -> Result<(), String> {
    let whole = pieces(format, &[bytes], dialect)?;
    if bytes.len() <= 8 << 10 {
        for at in 1..bytes.len() {
            same(&whole, pieces(format, &[&bytes[..at], &bytes[at..]], dialect)?, at)?;
        }
        return Ok(());
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    same(&whole, pieces(format, &single, dialect)?, 1)?;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..256 {
        let (mut rest, mut parts) = (bytes, Vec::new());
        while !rest.is_empty() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = ((seed >> 33) as usize % (bytes.len() / 4)).clamp(1, rest.len());
            let (piece, more) = rest.split_at(at);
            parts.push(piece);
            rest = more;
        }
        same(&whole, pieces(format, &parts, dialect)?, round)?;
    }
    Ok(())
}

fn pieces(format: Format, parts: &[&[u8]], dialect: &Dialect) -> Result<Vec<Event>, String> {
    let mut out = Vec::new();
    let mut decoder = codec(format).stream_decoder(dialect, sse::MAX_EVENT);
    for part in parts {
        decoder.push(part, &mut out).map_err(|e| e.to_string())?;
    }
    decoder.finish(&mut out).map_err(|e| e.to_string())?;
    Ok(out)
}

fn same(whole: &[Event], split: Vec<Event>, at: usize) -> Result<(), String> {
    if whole == split { Ok(()) } else { Err(format!("split {at} gives other events")) }
}
