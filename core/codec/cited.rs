//! Where in the caller's own documents a citation points, in the words that several formats have. Each format reads and writes
//! its own; this page knows none.

use super::codec;
use crate::model::Citation;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Char,
    Page,
    /// A piece of a document that was given in pieces.
    Block,
}

/// `document` counts the request's documents from 0; `start` and `end` are the origin's own figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub unit: Unit,
    pub document: u64,
    pub start: u64,
    pub end: u64,
}

/// As the format that told of it says. A page of the web has none.
pub fn place(citation: &Citation) -> Option<Place> {
    let (format, native) = citation.native.as_ref().filter(|_| citation.url.is_none())?;
    codec(*format).cited_place(native)
}
