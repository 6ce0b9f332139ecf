//! Model lists and token counts in the shape that the SDKs read.

use serde_json::{Value, json};

use crate::{
    codec::{Codec, ModelCard, anthropic_messages::AnthropicMessages},
    error::Kind,
};

#[test]
fn models_are_listed_in_the_familys_shape() {
    let card =
        |id: &str, created| ModelCard { id: id.to_owned(), created, max_output: Some(9), ..ModelCard::default() };
    let body: Value =
        serde_json::from_slice(&AnthropicMessages.encode_models(&[card("a", 0), card("b", 1_790_000_000)]))
            .expect("is JSON");
    assert_eq!((&body["has_more"], &body["first_id"], &body["last_id"]), (&json!(false), &json!("a"), &json!("b")));
    assert_eq!(
        body["data"][1],
        json!({"type": "model", "id": "b", "display_name": "b", "created_at": "2026-09-21T14:13:20Z", "max_tokens": 9})
    );
    assert_eq!(body["data"][0]["created_at"], json!("1970-01-01T00:00:00Z"));
    let empty: Value = serde_json::from_slice(&AnthropicMessages.encode_models(&[])).expect("is JSON");
    assert_eq!(empty, json!({"data": [], "has_more": false, "first_id": null, "last_id": null}));
}

#[test]
fn counts_are_read_and_written() {
    assert_eq!(AnthropicMessages.decode_count(br#"{"input_tokens": 14}"#).ok(), Some(14));
    assert_eq!(AnthropicMessages.decode_count(br#"{"tokens": 14}"#).err().map(|e| e.kind), Some(Kind::Upstream));
    assert_eq!(AnthropicMessages.encode_count_response(7), br#"{"input_tokens":7}"#);
}
