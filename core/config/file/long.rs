//! The shape of `models.NAME.long_input`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Span;

/// Texts that are larger than this are read in pieces.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LongInput {
    /// How. Default: map_reduce.
    pub mode: Option<LongMode>,
    /// Tokens of a piece; a text that has no more is left alone.
    #[schemars(range(min = 100, max = 2_000_000))]
    pub chunk_tokens: u64,
    /// The model that reads the pieces: another public name, or `provider/model`, whoever calls. Default: this name itself.
    pub model: Option<String>,
    /// Pieces that are read at a time. Default: 4.
    #[schemars(range(min = 1, max = 64))]
    pub parallel: Option<u32>,
    /// The most pieces that a request may have. Default: 64.
    #[schemars(range(min = 2, max = 10_000))]
    pub most_chunks: Option<u32>,
    /// What the reader of each piece is told beside.
    pub instruction: Option<String>,
    /// The answer is made of the pieces' answers, without a model: this text for each of them, `{part}` and `{n}` standing for
    /// it and its number. Default: a model merges them.
    pub template: Option<String>,
    /// The longest that one piece may take. Default: 2m.
    pub wait: Option<Span>,
    /// Streams begin at once, with a comment for each piece that was read; what fails then is an error within the stream.
    /// Default: false.
    pub progress: Option<bool>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongMode {
    /// Each piece is put to a model, and what was found takes the text's place.
    MapReduce,
}
