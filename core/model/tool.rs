//! What a model may call.

use serde_json::Value;

use super::{CacheHint, Extra, Format};

#[derive(Debug, Clone, PartialEq)]
pub enum Tool {
    Function(Function),
    /// A tool that the provider itself runs (`web_search_…`, `googleSearch`): only `format` knows it, others refuse.
    Hosted {
        format: Format,
        kind: String,
        value: Value,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema as the caller wrote it; `None` when absent.
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
    /// Free-text input instead of JSON arguments (OpenAI `custom`); the grammar stays in `extra`.
    pub custom: bool,
    pub cache: Option<CacheHint>,
    pub extra: Extra,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ToolChoice {
    Auto,
    None,
    /// At least one call (`required`, `any`, `ANY`).
    Required,
    /// Exactly this tool.
    Tool {
        name: String,
        custom: bool,
    },
    /// One of these; `required` says whether at least one call must be made.
    Allowed {
        names: Vec<String>,
        required: bool,
    },
}
