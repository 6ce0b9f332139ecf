//! What an exchange has to do with requests that ask the same: it hears their answer, or they hear its own, and it may be kept.

use bytes::Bytes;

use super::{Exchange, Inner};
use crate::{
    codec::document::Document,
    error::{Error, Kind, Side},
    model::Operation,
};

impl Inner {
    /// At the end: who still waits for it flies anew, and the record says what the cache did.
    pub(super) fn cache_told(&mut self) {
        self.flight = None;
        if let Some(cached) = &self.cx.cached {
            self.record.cache = Some(cached.word.name());
            self.record.saved_nano_usd = cached.saved_nano_usd;
        }
    }
}

impl Exchange {
    /// An answer that no target was asked for: what it repeats of its request, and the time that it took others.
    pub fn waited(&mut self, document: &Document) {
        if self.echo.is_none() {
            self.echo = document.echo();
        }
        if let Some(cached) = &self.cx.cached {
            let waited = cached.waited;
            self.record.upstream_duration += waited;
        }
    }

    /// The answer is there, whole, and about to be delivered: it is kept for others where it may be. What a budget had a say in
    /// is this request's own. `body`: its bytes, where it came whole.
    pub fn landed(&mut self, body: Option<&Bytes>) {
        let Some(leading) = self.flight.take() else { return };
        let unmet = self.record.tags.iter().any(|(name, _)| name == "quality_unmet");
        let fine = !unmet && !self.fell_back && self.max_tokens.is_none();
        if let Some(target) = self.record.target.clone().filter(|_| fine) {
            let vectors = body.filter(|_| self.cx.operation == Operation::Embeddings);
            self.kept = leading.landed(&target, vectors).map(Box::new);
        }
    }

    /// It ended with an error. Those that wait for it hear of what its upstream did; what is its own business is not theirs.
    pub fn crashed(&mut self, error: &Error) {
        if let Some(leading) = self.flight.take() {
            let theirs = error.side() == Side::Upstream || error.kind == Kind::UpstreamRefused;
            leading.failed(theirs.then(|| error.copy()));
        }
    }
}
