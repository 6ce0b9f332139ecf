//! Amazon Bedrock's Converse format, both sides: `POST /model/{model}/converse` and `/converse-stream`. Model and streaming
//! stand in the path. Only wires the pieces together; it must hold no translation of its own.

mod block;
mod embeddings;
mod error;
mod hosted;
mod request;
mod response;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    ClientView, Codec, Dialect, Encoded, Field, Inbound, ModelCard, OutputBound, StreamDecoder, StreamEncoder,
    cited::Place,
    glance::{FinishAt, Landmarks},
    hosted::Search,
    json,
    ran::Ran,
};
use crate::{
    error::{Error, Kind, Result},
    model::{EmbeddingRequest, EmbeddingResponse, Format, Request, Response, Usage},
};

pub struct BedrockConverse;

impl Codec for BedrockConverse {
    fn format(&self) -> Format {
        wire::FORMAT
    }

    fn decode_request(&self, body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
        request::decode(body, inbound)
    }

    fn encode_request(&self, request: &Request, dialect: &Dialect) -> Result<Encoded> {
        request::encode(request, dialect)
    }

    fn search(&self, kind: &str, _tool: &Value) -> Option<Search> {
        hosted::search(kind)
    }

    fn is_search(&self, kind: &str, part: &Value) -> bool {
        hosted::is_search(kind, part)
    }

    fn searched<'a>(&self, kind: &str, part: &'a Value) -> Option<&'a str> {
        hosted::query(kind, part)
    }

    fn is_code_tool(&self, kind: &str, _tool: &Value) -> bool {
        hosted::is_code_tool(kind)
    }

    fn ran(&self, kind: &str, part: &Value) -> Vec<Ran> {
        hosted::ran(kind, part)
    }

    fn cited_place(&self, citation: &Value) -> Option<Place> {
        wire::cited_place(citation)
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

    fn error_header(&self, error: &Error) -> Option<(&'static str, &'static str)> {
        Some(("x-amzn-errortype", error::word(error)))
    }

    fn landmarks(&self) -> Option<Landmarks> {
        Some(Landmarks {
            content: "output",
            usage: "usage",
            finish: FinishAt::Top("stopReason"),
            call: None,
            stop: b"\"end_turn\"",
            tools: Some(b"\"tool_use\""),
            searched: None,
            around: [br#"{"output":{"message":{"content":[]}},"stopReason":"#, b"}"],
        })
    }

    fn read_usage(&self, object: &[u8]) -> Option<Usage> {
        wire::read_usage(object)
    }

    fn prefills(&self) -> bool {
        true
    }

    fn wire_fields(&self, field: Field) -> &'static [&'static str] {
        match field {
            Field::Messages => &["system", "messages"],
            Field::Tools | Field::ToolChoice => &["toolConfig"],
            Field::Output => &["outputConfig", "system"],
            Field::Sampling => &["inferenceConfig", "additionalModelRequestFields"],
            Field::MaxTokens => &["inferenceConfig"],
            Field::Reasoning => &["additionalModelRequestFields", "inferenceConfig", "outputConfig"],
            Field::Metadata => &["requestMetadata"],
            Field::ServiceTier => &["serviceTier"],
            Field::N | Field::Logprobs | Field::User | Field::Stream | Field::Extra => &[],
        }
    }

    fn output_bound(&self, field: &dyn Fn(&str) -> Option<Value>) -> OutputBound {
        let config = field("inferenceConfig").unwrap_or_default();
        OutputBound { tokens: config.get("maxTokens").and_then(Value::as_u64), choices: 1 }
    }

    fn encode_embeddings(&self, request: &EmbeddingRequest, dialect: &Dialect) -> Result<Encoded> {
        embeddings::encode(request, dialect)
    }

    fn decode_embeddings_response(&self, body: &[u8]) -> Result<EmbeddingResponse> {
        embeddings::decode_response(body)
    }

    fn encode_count(&self, request: &Request, dialect: &Dialect) -> Option<Result<Encoded>> {
        Some(request::encode(request, dialect).map(|mut encoded| {
            encoded.body.retain(|key, _| COUNTED.contains(&key.as_str()));
            let converse = Value::Object(std::mem::take(&mut encoded.body));
            encoded.body.insert("input".to_owned(), json!({ "converse": converse }));
            encoded
        }))
    }

    fn decode_count(&self, body: &[u8]) -> Result<u64> {
        let value = json::parse_upstream(body)?;
        let broken = || Error::new(Kind::Upstream, "the upstream's token count has no `inputTokens`");
        value.get("inputTokens").and_then(Value::as_u64).ok_or_else(broken)
    }

    fn encode_count_response(&self, tokens: u64) -> Vec<u8> {
        json!({"inputTokens": tokens}).to_string().into_bytes()
    }

    fn encode_models(&self, models: &[ModelCard]) -> Vec<u8> {
        let summaries: Vec<Value> = models.iter().map(card).collect();
        json!({"modelSummaries": summaries}).to_string().into_bytes()
    }

    fn encode_model(&self, model: &ModelCard) -> Vec<u8> {
        json!({"modelDetails": card(model)}).to_string().into_bytes()
    }
}

/// What a token count takes.
const COUNTED: [&str; 4] = ["messages", "system", "toolConfig", "additionalModelRequestFields"];

fn card(model: &ModelCard) -> Value {
    json!({
        "modelId": model.id,
        "modelName": model.id,
        "providerName": model.owner,
        "responseStreamingSupported": true,
    })
}
