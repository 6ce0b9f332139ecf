//! One pass over a request body for what routing needs: spans of the top-level fields, no tree.

use std::ops::Range;

/// Spans of one JSON object's top-level fields, in order of appearance.
#[derive(Debug, Clone, Default)]
pub struct Envelope {
    pub fields: Vec<(Range<u32>, Range<u32>)>,
}
