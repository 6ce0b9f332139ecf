//! Wire formats ⇄ the canonical model. Pure: bytes and values in, values and bytes out; no clock, no I/O, no async.
//!
//! One folder a format, each with the same six files. A codec implements each direction once and serves both when a
//! client speaks the format and when a provider does. Depends only on `model` and `error`.

mod alike;
pub mod anthropic_messages;
pub mod bedrock_converse;
pub mod calls;
mod cited;
pub mod cohere;
pub mod custom;
mod dialect;
pub mod document;
mod draft;
pub mod envelope;
pub mod eventstream;
mod fields;
mod figures;
mod foreign;
mod found;
pub mod framing;
pub mod form;
pub mod gemini;
pub mod glance;
pub mod hosted;
pub mod json;
pub mod lane;
mod long;
mod mime;
mod ndjson;
pub mod ollama;
pub mod opaque;
pub mod openai_chat;
pub mod openai_responses;
pub mod pieces;
mod plain;
pub mod ran;
pub mod rate;
pub mod said;
pub mod schema;
pub mod serial;
pub mod signature;
pub mod skim;
pub mod sse;
pub mod standin;
mod surrogate;
mod tape;
pub mod written;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

pub use dialect::Dialect;
pub use rate::{Family, RateFact, RateFacts};
pub use surrogate::mended;

use crate::{
    error::{Error, Kind, Result},
    model::{EmbeddingRequest, EmbeddingResponse, Event, Format, Media, Request, Response, Signature, Usage},
};

/// The codec of a format.
pub fn codec(format: Format) -> &'static dyn Codec {
    match format {
        Format::OpenaiChat => &openai_chat::OpenaiChat,
        Format::AnthropicMessages => &anthropic_messages::AnthropicMessages,
        Format::Gemini => &gemini::Gemini,
        Format::OpenaiResponses => &openai_responses::OpenaiResponses,
        Format::BedrockConverse => &bedrock_converse::BedrockConverse,
        Format::Cohere => &cohere::Cohere,
        Format::Ollama => &ollama::Ollama,
    }
}

/// What the path and the headers say about a request, for formats whose body does not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inbound<'a> {
    /// The model in the path (Gemini).
    pub model: Option<&'a str>,
    /// Streaming asked by the path (Gemini `:streamGenerateContent`).
    pub stream: Option<bool>,
    /// `anthropic-version`.
    pub version: Option<&'a str>,
    /// The body is a token-count request: fields an answer needs (`max_tokens`) may be absent.
    pub counting: bool,
    /// OpenAI's legacy completions: a prompt, not messages.
    pub legacy: bool,
}

/// What the client's wire needs to know to write an answer.
#[derive(Debug, Clone, Default)]
pub struct ClientView {
    /// The name the caller asked for: used where the upstream told no model.
    pub model: String,
    /// Our request id, for formats whose answers want an id and the upstream gave none.
    pub request_id: String,
    /// Unix seconds, for formats whose answers carry a time.
    pub now: i64,
    /// OpenAI: the caller asked for the usage chunk.
    pub include_usage: bool,
    /// Gemini: the stream is a JSON array, not SSE (no `alt=sse`).
    pub json_array: bool,
    /// OpenAI: the answer is to a legacy completion.
    pub legacy: bool,
    /// OpenAI Responses: fields of the request that every answer repeats.
    pub echo: Option<Arc<Map<String, Value>>>,
    /// OpenAI: the client's SDK reads a call of a stream only whole, and embeddings only with an id.
    pub strict_sdk: bool,
    /// OpenAI embeddings: how vectors are written; Gemini: whether one or many were asked.
    pub base64: bool,
    pub single: bool,
}

/// A request body for an upstream.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Top-level fields in wire order.
    pub body: Map<String, Value>,
    /// Knobs that were dropped, by the caller-facing canonical name: they go to `x-portcullis-dropped-params`.
    pub dropped: Vec<&'static str>,
}

/// One wire format, both sides.
pub trait Codec: Send + Sync {
    fn format(&self) -> Format;

    /// Client side: body to model. Errors carry the path of the field at fault.
    fn decode_request(&self, body: &[u8], inbound: Inbound<'_>) -> Result<Request>;
    /// Upstream side: model to body; `Kind::Unsupported` names the feature that this target lacks.
    fn encode_request(&self, request: &Request, dialect: &Dialect) -> Result<Encoded>;
    /// Client side: a legacy completion as the chat that asks the same. An error names what no chat can do.
    fn as_chat(&self, completion: &Request) -> Result<Request> {
        Ok(completion.clone())
    }
    /// Client side: one of this format's own tools, as a search of the web, if it is one.
    fn search(&self, _kind: &str, _tool: &Value) -> Option<hosted::Search> {
        None
    }
    /// Upstream side: the tool `kind` that searches the web within these bounds. `None`: it cannot keep them.
    fn search_tool(&self, _search: &hosted::Search, _kind: &str) -> Option<Value> {
        None
    }
    /// Is this part, which only this format understands, the record of a search?
    fn is_search(&self, _kind: &str, _part: &Value) -> bool {
        false
    }
    /// What such a part says was searched for.
    fn searched<'a>(&self, _kind: &str, _part: &'a Value) -> Option<&'a str> {
        None
    }
    /// Client side: is this one of the format's own tools that run code, and need nothing of the caller's?
    fn is_code_tool(&self, _kind: &str, _tool: &Value) -> bool {
        false
    }
    /// Upstream side: the tool `kind` that runs code.
    fn code_tool(&self, _kind: &str) -> Option<Value> {
        None
    }
    /// What a part that only this format understands says was run, and what came of it.
    fn ran(&self, _kind: &str, _part: &Value) -> Vec<ran::Ran> {
        Vec::new()
    }
    /// Where in the caller's documents a citation of this format points.
    fn cited_place(&self, _citation: &Value) -> Option<cited::Place> {
        None
    }
    /// The signature of such a part: its upstream wants it back, also from a client that is told of the part in its own words.
    fn ran_signature(&self, _part: &Value) -> Option<Signature> {
        None
    }
    /// What a part of a past turn says of something else that its provider called by itself, and what came of it: in plain text, for
    /// the models of others.
    fn past_call(&self, _kind: &str, _part: &Value) -> Option<String> {
        None
    }
    /// Client side: its own parts (their kinds, and what they hold) that tell of that. None: it has no such parts.
    fn run_parts(&self, _ran: &[ran::Ran]) -> Vec<(String, Value)> {
        Vec::new()
    }
    /// Did `run_parts` make this part? Then its upstream does not know it.
    fn is_made(&self, _kind: &str, _part: &Value) -> bool {
        false
    }
    /// Client side: one of the format's own tools, as a reader of pages that the conversation names, if it is one.
    fn fetch(&self, _kind: &str, _tool: &Value) -> Option<hosted::Search> {
        None
    }
    /// Upstream side: the tool `kind` that reads pages within these bounds. `None`: it cannot keep them.
    fn fetch_tool(&self, _bounds: &hosted::Search, _kind: &str) -> Option<Value> {
        None
    }
    /// Client side: does this tool only find others of the request's tools?
    fn finds_tools(&self, _kind: &str) -> bool {
        false
    }
    /// Upstream side.
    fn decode_response(&self, body: &[u8]) -> Result<Response>;
    /// Client side.
    fn encode_response(&self, response: &Response, view: &ClientView) -> Result<Vec<u8>>;
    /// Upstream side: a stream's bytes to events.
    /// `limit`: the most bytes of one event, and of what must be held until it is whole (`server.max_event`).
    fn stream_decoder(&self, dialect: &Dialect, limit: usize) -> Box<dyn StreamDecoder>;
    /// Client side: events to a stream's bytes.
    fn stream_encoder(&self, view: &ClientView) -> Box<dyn StreamEncoder>;
    /// Upstream side: a refusal's status, headers and body to an `Error` (with `upstream` filled). `header` looks a
    /// header up by lower-case name.
    fn decode_error(&self, status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error;
    /// Client side: the body of an error in the family's own shape.
    fn encode_error(&self, error: &Error, request_id: &str) -> Vec<u8>;

    /// Client side: a header that tells SDKs of the family which error it is.
    fn error_header(&self, _error: &Error) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Upstream side: does a request that ends with the beginning of an answer get the rest of it?
    fn prefills(&self) -> bool {
        false
    }

    /// Upstream side: may this stand in a request by its URL? What may not is fetched before, or refused.
    fn takes_url(&self, _media: &Media, dialect: &Dialect) -> bool {
        dialect.media_urls
    }

    /// The wire's top-level keys that hold a canonical field: same-format edits replace just these.
    fn wire_fields(&self, field: Field) -> &'static [&'static str];

    /// Client side: how long the answer may become, from the body's top-level fields as they stand there.
    fn output_bound(&self, field: &dyn Fn(&str) -> Option<Value>) -> OutputBound {
        let number = |name: &str| field(name).as_ref().and_then(Value::as_u64);
        // Who sends both is bound by one of them: servers differ in which.
        let both = number("max_completion_tokens").into_iter().chain(number("max_tokens"));
        OutputBound { tokens: both.max(), choices: number("n").unwrap_or(1) }
    }

    /// Client side: does the program that sends this `user-agent` read the family's answers more strictly than others?
    fn is_strict(&self, _agent: &[u8]) -> bool {
        false
    }

    /// Client side: fields of the request that its answers repeat, as they stand there.
    fn echo(&self, _field: &dyn Fn(&str) -> Option<Value>) -> Option<Arc<Map<String, Value>>> {
        None
    }

    /// Upstream side: fields that make an upstream keep nothing, and tell all that a later request needs.
    fn unkept(&self, _field: &dyn Fn(&str) -> Option<Value>, _dialect: &Dialect) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// Client side: how a caller is told of its rate limits.
    fn rates(&self) -> Family {
        Family::Plain
    }

    /// Where a whole answer that goes through as it came shows what the gateway must know. `None`: it is decoded.
    fn landmarks(&self) -> Option<glance::Landmarks> {
        None
    }

    /// Upstream side: the figures of an answer's usage object, without building a tree. `None`: read the slow way.
    fn read_usage(&self, _object: &[u8]) -> Option<Usage> {
        None
    }

    fn decode_embeddings(&self, _body: &[u8], _inbound: Inbound<'_>) -> Result<EmbeddingRequest> {
        Err(no_such_operation(self.format()))
    }
    fn encode_embeddings(&self, _request: &EmbeddingRequest, _dialect: &Dialect) -> Result<Encoded> {
        Err(no_such_operation(self.format()))
    }
    fn decode_embeddings_response(&self, _body: &[u8]) -> Result<EmbeddingResponse> {
        Err(no_such_operation(self.format()))
    }
    fn encode_embeddings_response(&self, _response: &EmbeddingResponse, _view: &ClientView) -> Result<Vec<u8>> {
        Err(no_such_operation(self.format()))
    }

    /// Upstream side: the body that asks for a token count, and the count in its answer. `None`: no such endpoint.
    fn encode_count(&self, _request: &Request, _dialect: &Dialect) -> Option<Result<Encoded>> {
        None
    }
    fn decode_count(&self, _body: &[u8]) -> Result<u64> {
        Err(no_such_operation(self.format()))
    }
    /// A conversation to be compacted, where stages changed it. `None`: there is no such endpoint.
    fn encode_compaction(&self, _request: &Request, _dialect: &Dialect) -> Option<Result<Encoded>> {
        None
    }
    /// Client side: the answer to a token-count request.
    fn encode_count_response(&self, tokens: u64) -> Vec<u8>;

    /// Client side: the model list, and one model, in the family's shape.
    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8>;
    fn encode_model(&self, model: &ModelCard) -> Vec<u8>;
}

/// How long an answer may become, as the request says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputBound {
    /// Of each choice.
    pub tokens: Option<u64>,
    pub choices: u64,
}

impl OutputBound {
    /// All choices together.
    pub fn most(self) -> Option<u64> {
        self.tokens.map(|tokens| tokens.saturating_mul(self.choices.max(1)))
    }
}

/// One line of the model list.
#[derive(Debug, Clone, Default)]
pub struct ModelCard {
    /// `provider/model` or an alias.
    pub id: String,
    pub owner: String,
    /// Unix seconds; 0 when unknown.
    pub created: i64,
    pub context_window: Option<u64>,
    pub max_output: Option<u64>,
}

/// Bytes to events. Any split of the bytes gives the same events.
pub trait StreamDecoder: Send {
    /// Appends what `bytes` completes. An error event of the upstream comes back as `Err` (with `upstream` filled);
    /// events before it in the same bytes stand in `out`.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()>;
    /// The upstream closed. `Err(Kind::Upstream)` if the format's terminal was not seen.
    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()>;
}

/// Of a last frame without its end: did the upstream say that it failed? Otherwise, if it cannot be read, it was cut off, and what
/// is told is that the stream broke off.
pub(crate) fn is_error_event(told: &Result<()>) -> bool {
    told.as_ref().is_err_and(|error| error.upstream.is_some())
}

/// Events to bytes. Never writes a terminal after an error, nor a second one.
pub trait StreamEncoder: Send {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>);
    /// A clean end: what is still open is closed, the terminal written.
    fn finish(&mut self, out: &mut Vec<u8>);
    /// Events went to the client as they came from the upstream: where a format numbers them, what follows has this number.
    fn went_by(&mut self, _next: u64) {}
    /// The stream dies here: an error event in the family's shape, no terminal.
    fn error(&mut self, error: &Error, request_id: &str, out: &mut Vec<u8>);
    /// A comment or ping that keeps the connection alive.
    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b": keep-alive\n\n");
    }
}

/// The canonical fields that a stage may change, as units of same-format patching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    Messages,
    Tools,
    ToolChoice,
    Output,
    Sampling,
    MaxTokens,
    N,
    Logprobs,
    Reasoning,
    User,
    Metadata,
    ServiceTier,
    Stream,
    /// Top-level fields that the canonical model has no name for: whatever the client wrote.
    Extra,
}

impl Field {
    /// Those with names of their own in the wire formats.
    pub const ALL: [Field; 13] = [
        Field::Messages,
        Field::Tools,
        Field::ToolChoice,
        Field::Output,
        Field::Sampling,
        Field::MaxTokens,
        Field::N,
        Field::Logprobs,
        Field::Reasoning,
        Field::User,
        Field::Metadata,
        Field::ServiceTier,
        Field::Stream,
    ];
}

/// The content type of a whole answer and of a stream.
pub const JSON: &str = "application/json";
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

fn no_such_operation(format: Format) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("{} has no such operation; choose a model whose provider offers it", format.name()),
    )
}
