//! Answers: an upstream's answer, whole and streamed, written for clients of every format, whole and streamed, and read
//! again as that client would.

use portcullis::{
    codec::{ClientView, Dialect, codec, sse},
    model::{
        Event, Format, Response,
        fold::{Fold, unfold},
    },
};

use super::{cases, known, meaning};

#[test]
fn answers_reach_every_client_whole_and_streamed() {
    let mut faults = Vec::new();
    for case in cases::all() {
        let mut sources = Vec::new();
        if let Some(body) = case.bytes("response.json") {
            match codec(case.format).decode_response(&body) {
                Ok(response) => sources.push(("whole", unfold(&response), response)),
                Err(e) => faults.push(format!("{case}: response.json does not decode: {e}")),
            }
        }
        if let Some(bytes) = case.stream() {
            match decode_stream(case.format, &bytes) {
                Ok(events) => sources.push(("streamed", events.clone(), fold(events))),
                Err(e) => faults.push(format!("{case}: the stream does not decode: {e}")),
            }
        }
        for (how, events, response) in &sources {
            for client in Format::ALL {
                for (wire, lost) in [("whole", whole(response, client)), ("stream", streamed(events, response, client))]
                {
                    if !lost.is_empty() {
                        faults.push(format!("{case} {how} → {} {wire}: {}", client.name(), lost.join("; ")));
                    }
                }
            }
        }
    }
    cases::report(&faults);
}

#[test]
fn a_stream_folds_to_its_whole_answer() {
    let (mut faults, mut compared) = (Vec::new(), 0);
    for case in cases::all() {
        let (Some(whole), Some(stream)) = (case.bytes("response.json"), case.stream()) else { continue };
        compared += 1;
        let whole = codec(case.format).decode_response(&whole);
        let stream = decode_stream(case.format, &stream).map(fold);
        match (whole, stream) {
            (Ok(whole), Ok(stream)) if whole == stream => {}
            (whole, stream) => faults.push(format!("{case}:\n  whole  {whole:?}\n  stream {stream:?}")),
        }
    }
    assert!(compared >= 10, "only {compared} cases have both");
    cases::report(&faults);
}

pub fn decode_stream(format: Format, bytes: &[u8]) -> portcullis::error::Result<Vec<Event>> {
    decode_stream_of(format, bytes, &Dialect::of("golden-model"))
}

pub fn decode_stream_of(format: Format, bytes: &[u8], dialect: &Dialect) -> portcullis::error::Result<Vec<Event>> {
    let mut out = Vec::new();
    let mut decoder = codec(format).stream_decoder(dialect, sse::MAX_EVENT);
    decoder.push(bytes, &mut out)?;
    decoder.finish(&mut out)?;
    Ok(out)
}

pub fn fold(events: Vec<Event>) -> Response {
    let mut fold = Fold::default();
    events.into_iter().for_each(|event| fold.push(event));
    fold.finish()
}

/// What a client of `client` loses of a whole answer.
pub fn whole(response: &Response, client: Format) -> Vec<String> {
    let again = codec(client).encode_response(response, &view()).and_then(|body| codec(client).decode_response(&body));
    match again {
        Ok(again) => compare(response, &again, client),
        Err(e) => vec![format!("does not come back: {e}")],
    }
}

/// What a client of `client` loses of a streamed answer.
pub fn streamed(events: &[Event], response: &Response, client: Format) -> Vec<String> {
    let mut encoder = codec(client).stream_encoder(&view());
    let mut bytes = Vec::new();
    for event in events {
        encoder.push(event, &mut bytes);
    }
    encoder.finish(&mut bytes);
    match decode_stream(client, &bytes) {
        Ok(events) => compare(response, &fold(events), client),
        Err(e) => vec![format!("does not come back: {e}: {}", String::from_utf8_lossy(&bytes))],
    }
}

fn compare(before: &Response, after: &Response, client: Format) -> Vec<String> {
    let mut known = meaning::of_response(before);
    let mut found = meaning::of_response(after);
    if before.usage.is_none() {
        // A wire that requires figures was given zeros.
        for facts in [&mut known, &mut found] {
            facts.iter_mut().filter(|(name, _)| *name == "usage").for_each(|(_, v)| v.clear());
        }
    }
    meaning::lost(&known, &found, &|fact| {
        known::answer_exception(client, fact)
            || (fact == "finish" && known::finish_is_free(before, client))
            || (fact == "usage" && known::usage_is_absurd(before))
    })
}

pub fn view() -> ClientView {
    ClientView {
        model: "golden-model".to_owned(),
        request_id: "req_golden".to_owned(),
        now: 1_790_000_000,
        include_usage: true,
        ..ClientView::default()
    }
}
