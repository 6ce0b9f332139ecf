//! The canonical model: what an exchange means, whatever bytes carried it. Plain data, no I/O, no vendor names, and
//! richer than any single wire format. Depends on nothing else in the crate.

pub mod embedding;
pub mod event;
pub mod extra;
pub mod fold;
pub mod message;
pub mod part;
pub mod request;
pub mod response;
pub mod tool;
pub mod usage;

pub use embedding::{EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Encoding};
pub use event::{Delta, Event, PartStart, Start};
pub use extra::{Extra, Format, Operation};
pub use message::{Message, Role};
pub use part::{
    CacheHint, Citation, Media, MediaKind, MediaSource, Part, Reasoning, Signature, Text, ToolCall, ToolKind,
    ToolResult,
};
pub use request::{LogprobsAsk, Output, ReasoningAsk, Request, Sampling};
pub use response::{Choice, Finish, FinishReason, Response};
pub use tool::{Tool, ToolChoice};
pub use usage::{Billed, Native, ServiceTier, UNITS, Units, Usage};

#[cfg(test)]
mod tests;
