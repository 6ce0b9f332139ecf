//! Embeddings in canonical form.

use serde_json::Value;

use super::{Extra, Format, Usage};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbeddingRequest {
    pub model: String,
    pub inputs: Vec<EmbeddingInput>,
    /// The caller sent one bare input, not a list (Gemini answers `embedding` instead of `embeddings`).
    pub single: bool,
    pub dimensions: Option<u64>,
    pub encoding: Encoding,
    /// Gemini `taskType`, Cohere `input_type`.
    pub task: Option<String>,
    pub title: Option<String>,
    pub user: Option<String>,
    pub extra: Extra,
}

#[derive(Debug, Clone, PartialEq)]
pub enum EmbeddingInput {
    Text(String),
    Tokens(Vec<u64>),
    /// A content that only `format` can read (text with media): other formats refuse it.
    Native {
        format: Format,
        value: Value,
    },
}

/// How the caller wants vectors written. The official Python SDK asks base64 (little-endian f32) by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbeddingResponse {
    pub model: String,
    /// In input order.
    pub vectors: Vec<Vec<f32>>,
    pub usage: Option<Usage>,
    pub extra: Extra,
}
