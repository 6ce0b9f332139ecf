//! What is left of a caller's limits, as headers of an answer. Decides nothing.

use std::time::SystemTime;

use http::HeaderValue;

use super::{Head, Slot};
use crate::{
    codec::{RateFact, RateFacts, codec},
    limit::{Rates, Standing},
    model::Format,
};

/// What is left of the caller's limits, in its family's names.
pub fn put(head: &mut Head, format: Format, rates: Rates, now: SystemTime) {
    let fact = |s: Standing| RateFact { limit: s.limit, left: s.left, full_after: s.full_after };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let facts = RateFacts {
        requests: rates.requests.map(fact),
        tokens: rates.tokens.map(fact),
        input_tokens: rates.input_tokens.map(fact),
        output_tokens: rates.output_tokens.map(fact),
        now,
    };
    let family = codec(format).rates();
    family.each(&facts, |kind, part, text| {
        if let Ok(value) = HeaderValue::from_bytes(text) {
            head.put(Slot::of_rate(family, kind, part), value);
        }
    });
}
