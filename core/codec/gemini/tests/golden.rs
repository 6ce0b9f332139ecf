//! The goldens of this format: every file reads, requests and answers come back the same, a stream means what its whole
//! answer means.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    corpus::{events_of, fold},
    *,
};

#[test]
fn goldens_survive_this_codec() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gemini");
    let mut seen = 0;
    for case in fs::read_dir(root).unwrap() {
        let case = case.unwrap().path();
        let read = |name: &str| fs::read(case.join(name)).ok();
        if let Some(body) = read("request.json") {
            let path: Value = serde_json::from_slice(&read("path.json").unwrap()).unwrap();
            let inbound =
                Inbound { model: path["model"].as_str(), stream: path["stream"].as_bool(), ..Inbound::default() };
            let request = Gemini.decode_request(&body, inbound).unwrap();
            let (again, dropped) = encode(&request, &request.model);
            assert!(dropped.is_empty(), "{case:?} dropped {dropped:?}");
            assert_eq!(Gemini.decode_request(again.to_string().as_bytes(), inbound).unwrap(), request, "{case:?}");
        }
        let response = read("response.json").map(|body| Gemini.decode_response(&body).unwrap());
        if let Some(response) = &response {
            let again = Gemini.encode_response(response, &view()).unwrap();
            assert_eq!(&Gemini.decode_response(&again).unwrap(), response, "{case:?}");
        }
        if let Some(bytes) = read("stream.sse") {
            let events = events_of(&[&bytes]).unwrap();
            for at in 0..bytes.len() {
                assert_eq!(events_of(&[&bytes[..at], &bytes[at..]]).unwrap(), events, "{case:?} split at {at}");
            }
            let folded = fold(events);
            if let Some(response) = &response {
                assert_eq!(&folded, response, "{case:?}");
            }
        }
        seen += 1;
    }
    assert!(seen >= 12);
}
