//! What becomes of a request or an answer after its stages: the words in which a chain tells the gateway. Decides nothing.

use bytes::Bytes;

use crate::{cache::Follower, model::Response};

/// What streamed answers need on their way, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamNeed {
    /// No stage looks at streamed answers.
    None,
    /// Stages look on, changing nothing.
    Observe,
    Events,
    /// A stage holds the answer to its end.
    Whole,
}

#[derive(Debug)]
pub enum Flow {
    Continue,
    Respond(Box<Response>),
    /// An answer that no stage looks into, as it was given before.
    Repeat(Bytes),
    /// The answer is somebody else's, and passes the stages before the one that found it.
    Follow(Box<Follower>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptFlow {
    Go,
    Skip,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventFlow {
    Continue,
    /// `out` holds the clean end already (finish `content_filter`, `End`): send it, cancel the upstream.
    Stop(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndFlow {
    Done,
    /// Try the next target; with none left, `Chain::unmet` has the answer.
    Next(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseFlow {
    Deliver,
    /// Try the next target; with none left, `Chain::unmet` has the answer.
    Next(String),
}
