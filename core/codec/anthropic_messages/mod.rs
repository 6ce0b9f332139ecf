//! Anthropic's Messages format, both sides: `POST /v1/messages`, `/v1/messages/count_tokens` and the model list. Only
//! wires the pieces together; it must hold no translation of its own.

mod block;
mod code;
mod error;
mod request;
mod response;
mod search;
mod stream;
mod unwrap;
mod wire;

#[cfg(test)]
mod tests;

/// How these models are told to think, wherever they are asked.
pub use request::knobs;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    ClientView, Codec, Dialect, Encoded, Family, Field, Inbound, ModelCard, StreamDecoder, StreamEncoder,
    cited::Place,
    glance::{FinishAt, Landmarks},
    hosted::Search,
    json,
    ran::Ran,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Format, Media, MediaKind, MediaSource, Request, Response},
};

pub use unwrap::Unwrap;

pub struct AnthropicMessages;

impl Codec for AnthropicMessages {
    fn format(&self) -> Format {
        wire::FORMAT
    }

    fn decode_request(&self, body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
        request::decode(body, inbound)
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

    fn is_search(&self, kind: &str, part: &Value) -> bool {
        search::is_record(kind, part)
    }

    fn searched<'a>(&self, kind: &str, part: &'a Value) -> Option<&'a str> {
        search::query(kind, part)
    }

    fn is_code_tool(&self, kind: &str, _tool: &Value) -> bool {
        code::is_tool(kind)
    }

    fn code_tool(&self, kind: &str) -> Option<Value> {
        Some(code::tool(kind))
    }

    fn ran(&self, kind: &str, part: &Value) -> Vec<Ran> {
        code::read(kind, part)
    }

    fn cited_place(&self, citation: &Value) -> Option<Place> {
        wire::cited_place(citation)
    }

    fn past_call(&self, kind: &str, part: &Value) -> Option<String> {
        code::past_call(kind, part)
    }

    fn run_parts(&self, ran: &[Ran]) -> Vec<(String, Value)> {
        code::write(ran)
    }

    fn fetch(&self, kind: &str, tool: &Value) -> Option<Search> {
        search::read_fetch(kind, tool)
    }

    fn fetch_tool(&self, bounds: &Search, kind: &str) -> Option<Value> {
        search::write_fetch(bounds, kind)
    }

    fn finds_tools(&self, kind: &str) -> bool {
        kind.starts_with("tool_search_tool_")
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

    fn rates(&self) -> Family {
        Family::Dated
    }

    fn landmarks(&self) -> Option<Landmarks> {
        Some(Landmarks {
            content: "content",
            usage: "usage",
            finish: FinishAt::Top("stop_reason"),
            call: None,
            stop: b"\"end_turn\"",
            tools: Some(b"\"tool_use\""),
            searched: None,
            around: [br#"{"type":"message","content":[],"stop_reason":"#, b"}"],
        })
    }

    /// Documents by URL are PDFs; others are told by their type, or by their name.
    fn takes_url(&self, media: &Media, dialect: &Dialect) -> bool {
        let MediaSource::Url(url) = &media.source else { return true };
        let path = url.split(['?', '#']).next().unwrap_or(url).to_ascii_lowercase();
        let text = media.mime.as_deref().is_some_and(|mime| mime.starts_with("text/"))
            || [".txt", ".md", ".csv", ".json"].iter().any(|end| path.ends_with(end));
        dialect.media_urls && !(media.kind == MediaKind::Document && text)
    }

    fn prefills(&self) -> bool {
        true
    }

    fn wire_fields(&self, field: Field) -> &'static [&'static str] {
        match field {
            Field::Messages => &["system", "messages"],
            Field::Tools => &["tools"],
            Field::ToolChoice => &["tool_choice"],
            Field::Output => &["output_config", "output_format", "system"],
            Field::Sampling => &["temperature", "top_p", "top_k", "stop_sequences"],
            Field::MaxTokens => &["max_tokens"],
            Field::N | Field::Logprobs => &[],
            Field::Reasoning => &["thinking", "output_config", "max_tokens"],
            Field::User | Field::Metadata => &["metadata"],
            Field::ServiceTier => &["service_tier"],
            Field::Stream => &["stream"],
            Field::Extra => &[],
        }
    }

    fn encode_count(&self, request: &Request, dialect: &Dialect) -> Option<Result<Encoded>> {
        Some(request::encode(request, dialect).map(|mut encoded| {
            encoded.body.retain(|key, _| !NOT_COUNTED.contains(&key.as_str()));
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

    fn encode_count_response(&self, tokens: u64) -> Vec<u8> {
        json!({"input_tokens": tokens}).to_string().into_bytes()
    }

    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8> {
        let data: Vec<Value> = models.iter().map(card).collect();
        let id = |m: Option<&ModelCard>| m.map_or(Value::Null, |m| Value::from(m.id.as_str()));
        let (first, last) = (id(models.first()), id(models.last()));
        json!({"data": data, "has_more": false, "first_id": first, "last_id": last}).to_string().into_bytes()
    }

    fn encode_model(&self, model: &ModelCard) -> Vec<u8> {
        card(model).to_string().into_bytes()
    }
}

/// `created_at` is RFC 3339; the epoch stands for "unknown", as the vendor does it.
fn card(model: &ModelCard) -> Value {
    let ModelCard { id, owner: _, created, context_window, max_output } = model;
    let created = jiff::Timestamp::from_second(*created).unwrap_or_default();
    let mut card = Map::new();
    card.insert("type".to_owned(), "model".into());
    card.insert("id".to_owned(), id.as_str().into());
    card.insert("display_name".to_owned(), id.as_str().into());
    card.insert("created_at".to_owned(), created.to_string().into());
    if let Some(window) = context_window {
        card.insert("max_input_tokens".to_owned(), (*window).into());
    }
    if let Some(max) = max_output {
        card.insert("max_tokens".to_owned(), (*max).into());
    }
    Value::Object(card)
}

/// What `count_tokens` refuses: knobs that do not change the prompt.
const NOT_COUNTED: [&str; 9] = [
    "max_tokens",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "metadata",
    "service_tier",
    "inference_geo",
];
