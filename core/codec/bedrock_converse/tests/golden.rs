//! The goldens of this format: every file reads, requests and answers come back the same, and a stream gives the same events
//! however it is cut.

use std::{fs, path::Path};

use super::*;

#[test]
fn goldens_survive_this_codec() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bedrock_converse");
    let mut seen = 0;
    for case in fs::read_dir(root).expect("goldens") {
        let case = case.expect("a folder").path();
        let read = |name: &str| fs::read(case.join(name)).ok();
        if let Some(body) = read("request.json") {
            let was: Value = serde_json::from_slice(&body).expect("JSON");
            let (is, dropped) = encode(&decode(&was), "m");
            assert!(dropped.is_empty(), "{case:?} dropped {dropped:?}");
            assert_eq!(is, was, "{case:?}");
        }
        if let Some(body) = read("response.json") {
            let response = BedrockConverse.decode_response(&body).expect("an answer");
            let again = BedrockConverse.encode_response(&response, &view()).expect("a body");
            assert_eq!(BedrockConverse.decode_response(&again).expect("an answer"), response, "{case:?}");
            seen += 1;
        }
    }
    assert!(seen >= 12, "only {seen} cases");
}
