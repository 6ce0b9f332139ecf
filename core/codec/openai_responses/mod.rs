//! OpenAI Responses, as client format and as the format of the servers that speak it. An answer is a list of items; what the
//! model has one name for (reasoning, calls, messages) is read into it, what the vendor's own tools write stays as it is.
//! Only glue here: each direction has its own file, and keeping answers for later turns is not a codec's business.

mod code;
mod content;
mod error;
mod frame;
mod item;
mod namespace;
mod plain;
mod request;
mod response;
mod search;
mod stream;
mod wire;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    ClientView, Codec, Dialect, Encoded, Field, Inbound, ModelCard, OutputBound, StreamDecoder, StreamEncoder,
    glance::{FinishAt, Landmarks},
    hosted::Search,
    json,
    openai_chat::models,
    ran::Ran,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Format, Request, Response, Usage},
};

pub struct OpenaiResponses;

impl Codec for OpenaiResponses {
    fn format(&self) -> Format {
        wire::F
    }

    fn decode_request(&self, body: &[u8], _inbound: Inbound<'_>) -> Result<Request> {
        request::decode(body)
    }

    fn encode_request(&self, request: &Request, dialect: &Dialect) -> Result<Encoded> {
        request::encode(request, dialect)
    }

    fn search(&self, kind: &str, tool: &Value) -> Option<Search> {
        search::read(kind, tool)
    }

    fn search_tool(&self, search: &Search, kind: &str) -> Option<Value> {
        search::write(search, kind)
    }

    fn is_search(&self, kind: &str, _part: &Value) -> bool {
        kind == search::CALL || matches!(kind, "tool_search_call" | "tool_search_output")
    }

    fn is_code_tool(&self, kind: &str, tool: &Value) -> bool {
        code::is_tool(kind, tool)
    }

    fn code_tool(&self, kind: &str) -> Option<Value> {
        Some(code::tool(kind))
    }

    fn ran(&self, kind: &str, part: &Value) -> Vec<Ran> {
        code::read(kind, part)
    }

    fn past_call(&self, kind: &str, part: &Value) -> Option<String> {
        code::past_call(kind, part)
    }

    fn run_parts(&self, ran: &[Ran]) -> Vec<(String, Value)> {
        code::write(ran)
    }

    fn is_made(&self, kind: &str, part: &Value) -> bool {
        code::is_made(kind, part)
    }

    fn finds_tools(&self, kind: &str) -> bool {
        kind == "tool_search"
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

    fn encode_error(&self, error: &Error, _request_id: &str) -> Vec<u8> {
        error::encode(error)
    }

    fn wire_fields(&self, field: Field) -> &'static [&'static str] {
        match field {
            Field::Messages => &["instructions", "prompt", "input"],
            Field::Tools => &["tools"],
            Field::ToolChoice => &["tool_choice", "parallel_tool_calls"],
            Field::Output => &["text"],
            Field::Sampling => &["temperature", "top_p"],
            Field::MaxTokens => &["max_output_tokens"],
            Field::N => &[],
            Field::Logprobs => &["include", "top_logprobs"],
            Field::Reasoning => &["reasoning"],
            Field::User => &["user", "safety_identifier"],
            Field::Metadata => &["metadata"],
            Field::ServiceTier => &["service_tier"],
            Field::Stream => &["stream"],
            Field::Extra => &[],
        }
    }

    fn output_bound(&self, field: &dyn Fn(&str) -> Option<Value>) -> OutputBound {
        OutputBound { tokens: field("max_output_tokens").as_ref().and_then(Value::as_u64), choices: 1 }
    }

    fn echo(&self, field: &dyn Fn(&str) -> Option<Value>) -> Option<Arc<Map<String, Value>>> {
        let mut echo: Map<String, Value> =
            ECHOED.iter().filter_map(|key| Some(((*key).to_owned(), field(key)?))).collect();
        // It is kept unless the caller says no.
        echo.entry("store").or_insert(Value::Bool(true));
        // In an answer both of its fields stand, said or not.
        if let Some(Value::Object(reasoning)) = echo.get_mut("reasoning") {
            for key in ["effort", "summary"] {
                reasoning.entry(key).or_insert(Value::Null);
            }
        }
        Some(Arc::new(echo))
    }

    fn unkept(&self, field: &dyn Fn(&str) -> Option<Value>, dialect: &Dialect) -> Vec<(&'static str, Value)> {
        let mut fields = vec![("store", Value::Bool(false))];
        // Models that do not think answer 400 to it.
        if dialect.reasons || field("reasoning").is_some_and(|v| v.is_object()) {
            let mut list = match field("include") {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            if !list.iter().any(|v| v == request::SEALED) {
                list.push(request::SEALED.into());
                fields.push(("include", Value::Array(list)));
            }
        }
        fields
    }

    fn landmarks(&self) -> Option<Landmarks> {
        Some(Landmarks {
            content: "output",
            usage: "usage",
            finish: FinishAt::Top("status"),
            // Whatever the client must answer has one.
            call: Some(b"\"call_id\""),
            stop: b"\"completed\"",
            tools: None,
            searched: Some(b"\"web_search_call\""),
            around: [br#"{"output":[],"status":"#, b"}"],
        })
    }

    fn read_usage(&self, object: &[u8]) -> Option<Usage> {
        wire::read_usage(object)
    }

    fn encode_count(&self, request: &Request, dialect: &Dialect) -> Option<Result<Encoded>> {
        Some(request::encode(request, dialect).map(|mut encoded| {
            encoded.body.retain(|key, _| COUNTED.contains(&key.as_str()));
            encoded
        }))
    }

    fn decode_count(&self, body: &[u8]) -> Result<u64> {
        let value = json::parse_upstream(body)?;
        value
            .get("input_tokens")
            .and_then(Value::as_u64)
            .ok_or_else(|| Error::new(Kind::Upstream, "the upstream's token count has no `input_tokens`"))
    }

    fn encode_compaction(&self, request: &Request, dialect: &Dialect) -> Option<Result<Encoded>> {
        Some(request::encode(request, dialect).map(|mut encoded| {
            encoded.body.retain(|key, _| COMPACTED.contains(&key.as_str()));
            encoded
        }))
    }

    fn encode_count_response(&self, tokens: u64) -> Vec<u8> {
        json!({"object": "response.input_tokens", "input_tokens": tokens}).to_string().into_bytes()
    }

    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8> {
        models::list(models)
    }

    fn encode_model(&self, model: &ModelCard) -> Vec<u8> {
        models::one(model)
    }
}

/// What answers repeat of their request.
const ECHOED: [&str; 19] = [
    "background",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];

/// What compacting takes.
const COMPACTED: [&str; 11] = [
    "model",
    "input",
    "instructions",
    "previous_response_id",
    "tools",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// What a token count takes.
const COUNTED: [&str; 11] = [
    "model",
    "input",
    "instructions",
    "previous_response_id",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "truncation",
    "personality",
];
