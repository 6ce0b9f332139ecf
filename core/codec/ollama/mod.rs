//! Ollama's native format: `POST /api/chat`, a JSON value a line where it streams, and `/api/embed`. The gateway speaks it to
//! servers, whose context size and kept models the compatible layer cannot set; no path of the gateway takes it. Only wires
//! the pieces together; it must hold no translation of its own.

mod embeddings;
mod error;
mod forced;
mod logprobs;
mod request;
mod response;
mod turns;
mod wire;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    ClientView, Codec, Dialect, Encoded, Field, Inbound, ModelCard, OutputBound, StreamDecoder, StreamEncoder, json,
};
use crate::{
    error::{Error, Result},
    model::{EmbeddingRequest, EmbeddingResponse, Format, Request, Response},
};

pub struct Ollama;

impl Codec for Ollama {
    fn format(&self) -> Format {
        wire::FORMAT
    }

    fn decode_request(&self, body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
        request::decode(body, inbound)
    }

    fn encode_request(&self, request: &Request, dialect: &Dialect) -> Result<Encoded> {
        request::encode(request, dialect)
    }

    fn decode_response(&self, body: &[u8]) -> Result<Response> {
        response::decode(body)
    }

    fn encode_response(&self, response: &Response, view: &ClientView) -> Result<Vec<u8>> {
        response::encode(response, view)
    }

    fn stream_decoder(&self, _dialect: &Dialect, limit: usize) -> Box<dyn StreamDecoder> {
        Box::new(response::Decoder::new(limit))
    }

    fn stream_encoder(&self, view: &ClientView) -> Box<dyn StreamEncoder> {
        Box::new(response::Encoder::new(view.clone()))
    }

    fn decode_error(&self, status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
        error::decode(status, header, body)
    }

    fn encode_error(&self, error: &Error, _request_id: &str) -> Vec<u8> {
        error::encode(error)
    }

    fn prefills(&self) -> bool {
        true
    }

    fn wire_fields(&self, field: Field) -> &'static [&'static str] {
        match field {
            Field::Messages => &["messages"],
            Field::Tools | Field::ToolChoice => &["tools"],
            Field::Output => &["format"],
            Field::Sampling | Field::MaxTokens => &["options"],
            Field::Reasoning => &["think"],
            Field::Stream => &["stream"],
            Field::N | Field::Logprobs | Field::User | Field::Metadata | Field::ServiceTier | Field::Extra => &[],
        }
    }

    fn output_bound(&self, field: &dyn Fn(&str) -> Option<Value>) -> OutputBound {
        let options = field("options").unwrap_or_default();
        OutputBound { tokens: options.get("num_predict").and_then(Value::as_u64), choices: 1 }
    }

    fn decode_embeddings(&self, body: &[u8], inbound: Inbound<'_>) -> Result<EmbeddingRequest> {
        embeddings::decode(body, inbound.model)
    }

    fn encode_embeddings(&self, request: &EmbeddingRequest, dialect: &Dialect) -> Result<Encoded> {
        embeddings::encode(request, dialect)
    }

    fn decode_embeddings_response(&self, body: &[u8]) -> Result<EmbeddingResponse> {
        embeddings::decode_response(body)
    }

    fn encode_embeddings_response(&self, response: &EmbeddingResponse, view: &ClientView) -> Result<Vec<u8>> {
        embeddings::encode_response(response, view)
    }

    /// As an answer tells how long its prompt was.
    fn encode_count_response(&self, tokens: u64) -> Vec<u8> {
        json!({"prompt_eval_count": tokens}).to_string().into_bytes()
    }

    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8> {
        json!({"models": models.iter().map(card).collect::<Vec<_>>()}).to_string().into_bytes()
    }

    fn encode_model(&self, model: &ModelCard) -> Vec<u8> {
        card(model).to_string().into_bytes()
    }
}

fn card(model: &ModelCard) -> Value {
    json!({"name": model.id, "model": model.id, "modified_at": wire::time(model.created)})
}
