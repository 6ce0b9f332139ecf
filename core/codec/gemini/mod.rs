//! Google's `generateContent` wire, as client and as upstream: `request`, `response`, `stream`, `error` each hold both
//! directions; `tools`, `config`, `usage`, `grounding`, `logprobs` hold one object each. Model and streaming are told by
//! the path, which is the endpoint's work, not this module's.

pub mod code;
mod embeddings;
pub mod error;
pub mod grounding;
pub mod logprobs;
pub mod models;
pub mod request;
pub mod response;
mod search;
pub mod stream;
pub mod usage;
pub mod wire;

use bytes::Bytes;
use serde_json::Value;

use super::{
    ClientView, Codec, Dialect, Encoded, Field, Inbound, ModelCard, OutputBound, StreamDecoder, StreamEncoder,
    glance::{FinishAt, Key, Landmarks},
    hosted::Search,
    ran::Ran,
};
use crate::{
    error::{Error, Result},
    model::{EmbeddingRequest, EmbeddingResponse, Format, Request, Response, Signature},
};

pub struct Gemini;

impl Codec for Gemini {
    fn format(&self) -> Format {
        Format::Gemini
    }

    fn decode_request(&self, body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
        request::decode::request(body, inbound)
    }

    fn encode_request(&self, request: &Request, dialect: &Dialect) -> Result<Encoded> {
        request::encode::request(request, dialect)
    }

    fn search(&self, kind: &str, tool: &Value) -> Option<Search> {
        search::read(kind, tool)
    }

    fn search_tool(&self, search: &Search, kind: &str) -> Option<Value> {
        search::write(search, kind)
    }

    fn is_search(&self, _kind: &str, part: &Value) -> bool {
        search::is_told(part)
    }

    fn is_code_tool(&self, kind: &str, _tool: &Value) -> bool {
        code::is_tool(kind)
    }

    fn code_tool(&self, kind: &str) -> Option<Value> {
        Some(code::tool(kind))
    }

    fn ran(&self, _kind: &str, part: &Value) -> Vec<Ran> {
        code::read(part)
    }

    fn ran_signature(&self, part: &Value) -> Option<Signature> {
        code::signature(part)
    }

    fn past_call(&self, _kind: &str, part: &Value) -> Option<String> {
        code::past_call(part)
    }

    fn run_parts(&self, ran: &[Ran]) -> Vec<(String, Value)> {
        code::write(ran)
    }

    fn fetch(&self, kind: &str, _tool: &Value) -> Option<Search> {
        (kind == "urlContext").then(Search::default)
    }

    fn fetch_tool(&self, bounds: &Search, kind: &str) -> Option<Value> {
        // It reads all of the web.
        search::write(bounds, kind)
    }

    fn decode_response(&self, body: &[u8]) -> Result<Response> {
        response::decode(body)
    }

    fn encode_response(&self, response: &Response, view: &ClientView) -> Result<Vec<u8>> {
        response::encode(response, view)
    }

    fn stream_decoder(&self, _dialect: &Dialect, limit: usize) -> Box<dyn StreamDecoder> {
        Box::new(stream::decode::Decoder::new(limit))
    }

    fn stream_encoder(&self, view: &ClientView) -> Box<dyn StreamEncoder> {
        Box::new(stream::encode::Encoder::new(view))
    }

    fn decode_error(&self, status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
        error::decode(status, header, body)
    }

    fn encode_error(&self, error: &Error, request_id: &str) -> Vec<u8> {
        error::encode(error, request_id)
    }

    /// Both spellings: an edit must not leave the other one standing beside it.
    fn prefills(&self) -> bool {
        true
    }

    fn wire_fields(&self, field: Field) -> &'static [&'static str] {
        const CONFIG: &[&str] = &["generationConfig", "generation_config"];
        match field {
            Field::Messages => {
                &["systemInstruction", "system_instruction", "contents", "cachedContent", "cached_content"]
            }
            Field::Tools => &["tools"],
            Field::ToolChoice => &["toolConfig", "tool_config"],
            Field::Output | Field::Sampling | Field::MaxTokens | Field::N | Field::Logprobs | Field::Reasoning => {
                CONFIG
            }
            Field::ServiceTier => &["serviceTier", "service_tier"],
            Field::User | Field::Metadata | Field::Stream | Field::Extra => &[],
        }
    }

    fn output_bound(&self, field: &dyn Fn(&str) -> Option<Value>) -> OutputBound {
        let config = field("generationConfig").or_else(|| field("generation_config")).unwrap_or_default();
        let number = |names: [&str; 2]| names.iter().find_map(|name| config.get(name).and_then(Value::as_u64));
        OutputBound {
            tokens: number(["maxOutputTokens", "max_output_tokens"]),
            choices: number(["candidateCount", "candidate_count"]).unwrap_or(1),
        }
    }

    fn landmarks(&self) -> Option<Landmarks> {
        Some(Landmarks {
            content: "candidates",
            usage: "usageMetadata",
            finish: FinishAt::Choice(Key::Camel),
            call: Some(b"\"functionCall\""),
            stop: b"\"STOP\"",
            tools: None,
            searched: Some(b"\"webSearchQueries\""),
            around: [br#"{"candidates":[{"finishReason":"#, b"}]}"],
        })
    }

    fn decode_embeddings(&self, body: &[u8], inbound: Inbound<'_>) -> Result<EmbeddingRequest> {
        embeddings::decode(body, inbound)
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

    fn encode_count(&self, request: &Request, dialect: &Dialect) -> Option<Result<Encoded>> {
        Some(models::encode_count(request, dialect))
    }

    fn decode_count(&self, body: &[u8]) -> Result<u64> {
        models::decode_count(body)
    }

    fn encode_count_response(&self, tokens: u64) -> Vec<u8> {
        models::encode_count_response(tokens)
    }

    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8> {
        models::encode_list(models)
    }

    fn encode_model(&self, model: &ModelCard) -> Vec<u8> {
        models::encode_one(model)
    }
}

#[cfg(test)]
mod tests;
