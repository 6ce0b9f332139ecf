//! (method, path) → { operation, format }: one const table.

use crate::model::{Format, Operation};

/// A row: what a path asks for. `{model}` in a pattern is all up to the last `:`.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    pub method: &'static str,
    pub path: &'static str,
    pub operation: Operation,
    pub format: Format,
    /// Streaming asked by the path.
    pub stream: Option<bool>,
}
