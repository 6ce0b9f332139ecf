//! What an answer's head says of the cache that was in its way. Decides nothing.

use http::HeaderValue;

use super::{Head, Slot};
use crate::{context::CacheWord, exchange::Exchange};

/// Was it there, how old is it, and who gave it?
pub(super) fn told(head: &mut Head, exchange: &Exchange) {
    let Some(cached) = &exchange.cx.cached else { return };
    head.put(Slot::CACHE, HeaderValue::from_static(cached.word.shown()));
    if cached.word != CacheWord::Miss {
        head.put(Slot::AGE, HeaderValue::from(cached.age.as_secs()));
    }
    if let (None, Some(target)) = (&exchange.record.target, &cached.target) {
        head.text(Slot::TARGET, target);
    }
}

/// What is given again costs nothing.
pub(super) fn free(exchange: &Exchange) -> Option<HeaderValue> {
    let cached = exchange.cx.cached.as_ref()?;
    (cached.word != CacheWord::Miss).then(|| HeaderValue::from_static("0"))
}
