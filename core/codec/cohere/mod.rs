//! Cohere's chat format, both sides: `POST /v2/chat`, and `/v2/embed`. Only wires the pieces together; it must hold no
//! translation of its own.

mod embeddings;
mod error;
mod logprobs;
mod request;
mod response;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    ClientView, Codec, Dialect, Encoded, Field, Inbound, ModelCard, StreamDecoder, StreamEncoder,
    glance::{FinishAt, Landmarks},
    json,
};
use crate::{
    error::{Error, Result},
    model::{EmbeddingRequest, EmbeddingResponse, Format, Request, Response, Usage},
};

pub struct Cohere;

impl Codec for Cohere {
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
        Box::new(stream::Decoder::new(limit))
    }

    fn stream_encoder(&self, view: &ClientView) -> Box<dyn StreamEncoder> {
        Box::new(stream::Encoder::new(view.clone()))
    }

    fn decode_error(&self, status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
        error::decode(status, header, body)
    }

    fn encode_error(&self, error: &Error, request_id: &str) -> Vec<u8> {
        error::encode(error, request_id)
    }

    fn landmarks(&self) -> Option<Landmarks> {
        Some(Landmarks {
            content: "message",
            usage: "usage",
            finish: FinishAt::Top("finish_reason"),
            call: None,
            stop: b"\"COMPLETE\"",
            tools: Some(b"\"TOOL_CALL\""),
            searched: None,
            around: [br#"{"message":{},"finish_reason":"#, b"}"],
        })
    }

    fn read_usage(&self, object: &[u8]) -> Option<Usage> {
        wire::read_usage(object)
    }

    fn wire_fields(&self, field: Field) -> &'static [&'static str] {
        match field {
            Field::Messages => &["messages", "documents"],
            Field::Tools => &["tools", "strict_tools", "tool_choice"],
            Field::ToolChoice => &["tools", "tool_choice"],
            Field::Output => &["response_format"],
            Field::Sampling => {
                &["temperature", "p", "k", "frequency_penalty", "presence_penalty", "seed", "stop_sequences"]
            }
            Field::MaxTokens => &["max_tokens"],
            Field::Reasoning => &["thinking"],
            Field::Stream => &["stream"],
            Field::N | Field::Logprobs | Field::User | Field::Metadata | Field::ServiceTier | Field::Extra => &[],
        }
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

    /// The wire has no such request; a count is told as its tokenizer tells one.
    fn encode_count_response(&self, tokens: u64) -> Vec<u8> {
        json!({"meta": {"tokens": {"input_tokens": tokens}}}).to_string().into_bytes()
    }

    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8> {
        json!({"models": models.iter().map(card).collect::<Vec<_>>()}).to_string().into_bytes()
    }

    fn encode_model(&self, model: &ModelCard) -> Vec<u8> {
        card(model).to_string().into_bytes()
    }
}

fn card(model: &ModelCard) -> Value {
    let mut card = Map::new();
    card.insert("name".to_owned(), model.id.as_str().into());
    card.insert("endpoints".to_owned(), json!(["chat"]));
    if let Some(window) = model.context_window {
        card.insert("context_length".to_owned(), window.into());
    }
    Value::Object(card)
}
