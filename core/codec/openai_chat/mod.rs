//! OpenAI Chat Completions and Embeddings, as client format and as the format of the many servers that speak it. Where
//! they differ, `Dialect` says how; what the wire cannot say travels by the field's habits (`reasoning_content`,
//! `thinking_blocks`, `provider_specific_fields`). Only glue here: each direction has its own file.

mod assistant;
mod completions;
mod content;
mod details;
mod embeddings;
pub(super) mod error;
mod messages;
pub(super) mod models;
pub(super) mod request;
mod response;
mod search;
mod stream;
mod usage;
pub(super) mod wire;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::Value;

use super::{
    ClientView, Codec, Dialect, Encoded, Field, Inbound, ModelCard, OutputBound, StreamDecoder, StreamEncoder,
    glance::{FinishAt, Key, Landmarks},
    hosted::Search,
};
use crate::{
    error::{Error, Result},
    model::{EmbeddingRequest, EmbeddingResponse, Format, Media, Request, Response},
};

pub struct OpenaiChat;

impl Codec for OpenaiChat {
    fn format(&self) -> Format {
        wire::F
    }

    fn decode_request(&self, body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
        if inbound.legacy {
            return completions::prompt::decode(body, request::decode);
        }
        request::decode(body)
    }

    fn encode_request(&self, request: &Request, dialect: &Dialect) -> Result<Encoded> {
        if dialect.completions {
            return completions::prompt::encode(request, dialect, request::encode);
        }
        request::encode(request, dialect)
    }

    fn search(&self, kind: &str, tool: &Value) -> Option<Search> {
        search::read(kind, tool)
    }

    fn search_tool(&self, search: &Search, kind: &str) -> Option<Value> {
        search::write(search, kind)
    }

    fn as_chat(&self, completion: &Request) -> Result<Request> {
        completions::prompt::as_chat(completion)
    }

    /// Mistral's models of chunks and embeddings are the wire's, not OpenAI's.
    fn is_strict(&self, agent: &[u8]) -> bool {
        memchr::memmem::find(agent, b"mistral").is_some()
    }

    fn output_bound(&self, field: &dyn Fn(&str) -> Option<Value>) -> OutputBound {
        completions::prompt::output_bound(field)
    }

    fn decode_response(&self, body: &[u8]) -> Result<Response> {
        response::decode(body)
    }

    fn encode_response(&self, response: &Response, view: &ClientView) -> Result<Vec<u8>> {
        if view.legacy {
            return completions::encode(response, view);
        }
        response::encode(response, view)
    }

    fn stream_decoder(&self, dialect: &Dialect, limit: usize) -> Box<dyn StreamDecoder> {
        Box::new(stream::Decoder::new(dialect.terminal_optional, limit))
    }

    fn stream_encoder(&self, view: &ClientView) -> Box<dyn StreamEncoder> {
        if view.legacy {
            return Box::new(completions::Encoder::new(view));
        }
        Box::new(stream::Encoder::new(view))
    }

    fn decode_error(&self, status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
        error::decode(status, header, body)
    }

    fn encode_error(&self, error: &Error, _request_id: &str) -> Vec<u8> {
        error::encode(error)
    }

    fn landmarks(&self) -> Option<Landmarks> {
        Some(Landmarks {
            content: "choices",
            usage: "usage",
            finish: FinishAt::Choice(Key::Snake),
            call: None,
            stop: b"\"stop\"",
            tools: Some(b"\"tool_calls\""),
            searched: None,
            around: [br#"{"choices":[{"message":{},"finish_reason":"#, b"}]}"],
        })
    }

    fn read_usage(&self, object: &[u8]) -> Option<crate::model::Usage> {
        usage::read(object)
    }

    fn takes_url(&self, media: &Media, dialect: &Dialect) -> bool {
        messages::takes_url(media, dialect)
    }

    fn wire_fields(&self, field: Field) -> &'static [&'static str] {
        match field {
            // A completion has a prompt in their place.
            Field::Messages => &["messages", "prompt", "suffix"],
            Field::Tools => &["tools", "functions"],
            Field::ToolChoice => &["tool_choice", "parallel_tool_calls", "function_call"],
            Field::Output => &["response_format"],
            Field::Sampling => &[
                "temperature",
                "top_p",
                "top_k",
                "frequency_penalty",
                "presence_penalty",
                "seed",
                "random_seed",
                "stop",
                "logit_bias",
            ],
            Field::MaxTokens => &["max_completion_tokens", "max_tokens"],
            Field::N => &["n"],
            Field::Logprobs => &["logprobs", "top_logprobs"],
            Field::Reasoning => &["reasoning_effort", "reasoning", "thinking", "enable_thinking"],
            Field::User => &["user", "safety_identifier"],
            Field::Metadata => &["metadata"],
            Field::ServiceTier => &["service_tier"],
            Field::Stream => &["stream", "stream_options"],
            Field::Extra => &[],
        }
    }

    fn decode_embeddings(&self, body: &[u8], _inbound: Inbound<'_>) -> Result<EmbeddingRequest> {
        embeddings::decode(body)
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

    fn encode_count_response(&self, tokens: u64) -> Vec<u8> {
        serde_json::json!({"object": "chat.completion.input_tokens", "input_tokens": tokens}).to_string().into_bytes()
    }

    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8> {
        models::list(models)
    }

    fn encode_model(&self, model: &ModelCard) -> Vec<u8> {
        models::one(model)
    }
}
