//! Tests of this format alone; its goldens cross it with every other.

mod namespaces;
mod requests;
mod streams;

use serde_json::json;

use super::OpenaiResponses;
use crate::codec::Codec;

#[test]
fn an_echo_of_reasoning_has_both_of_its_fields() {
    let echo = OpenaiResponses.echo(&|name| (name == "reasoning").then(|| json!({"effort": "low"}))).expect("an echo");
    assert_eq!(echo["reasoning"], json!({"effort": "low", "summary": null}));
}
