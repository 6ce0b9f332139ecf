//! `/v1/models` in this family's shape. Client side only.

use serde_json::{Value, json};

use crate::codec::ModelCard;

pub fn list(models: &[ModelCard]) -> Vec<u8> {
    let data: Vec<Value> = models.iter().map(card).collect();
    json!({"object": "list", "data": data}).to_string().into_bytes()
}

pub fn one(model: &ModelCard) -> Vec<u8> {
    card(model).to_string().into_bytes()
}

/// The two limits are no fields of OpenAI's: clients that know other gateways look for them under these names.
fn card(model: &ModelCard) -> Value {
    let ModelCard { id, owner, created, context_window, max_output } = model;
    let mut card = json!({"id": id, "object": "model", "created": created, "owned_by": owner});
    if let Some(tokens) = context_window {
        card["context_window"] = (*tokens).into();
    }
    if let Some(tokens) = max_output {
        card["max_output_tokens"] = (*tokens).into();
    }
    card
}
