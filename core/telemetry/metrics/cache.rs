//! What the cache did: asked, found, kept, made room, by where answers lie.

use std::sync::Arc;

use metrics::{Counter, Gauge, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{METADATA, Metrics, key, label, names};
use crate::context::CacheWord;

pub struct Handles {
    pub hit: Counter,
    pub miss: Counter,
    pub shared: Counter,
    memory: CacheTier,
}

/// Of one place where answers lie.
pub struct CacheTier {
    reads: Vec<(&'static str, Counter)>,
    dropped: Vec<(&'static str, Counter)>,
    stored: Counter,
    evicted: Counter,
    bytes: Gauge,
}

impl Handles {
    pub fn of(recorder: &PrometheusRecorder) -> Self {
        let asked = |outcome| {
            recorder.register_counter(&key(names::CACHE_REQUESTS, vec![label("outcome", outcome)]), &METADATA)
        };
        Handles {
            hit: asked("hit"),
            miss: asked("miss"),
            shared: asked("shared"),
            memory: CacheTier::of(recorder, "memory", &["hit", "miss"], &[]),
        }
    }
}

impl CacheTier {
    fn of(
        recorder: &PrometheusRecorder,
        tier: &'static str,
        reads: &[&'static str],
        reasons: &[&'static str],
    ) -> CacheTier {
        let counter = |name, more: Option<(&'static str, &'static str)>| {
            let labels = [("tier", tier)].into_iter().chain(more).map(|(name, value)| label(name, value));
            recorder.register_counter(&key(name, labels.collect()), &METADATA)
        };
        let by = |name, what: &'static str, values: &[&'static str]| {
            values.iter().map(|value| (*value, counter(name, Some((what, *value))))).collect()
        };
        CacheTier {
            reads: by(names::CACHE_READS, "outcome", reads),
            dropped: by(names::CACHE_DROPPED, "reason", reasons),
            stored: counter(names::CACHE_STORED, None),
            evicted: counter(names::CACHE_EVICTED, None),
            bytes: recorder.register_gauge(&key(names::CACHE_BYTES, vec![label("tier", tier)]), &METADATA),
        }
    }

    /// What a look there came to.
    pub fn read(&self, outcome: &'static str) {
        count(&self.reads, outcome);
    }

    pub fn stored(&self) {
        self.stored.increment(1);
    }

    /// An answer that was to be kept is not.
    pub fn dropped(&self, reason: &'static str) {
        count(&self.dropped, reason);
    }

    pub fn evicted(&self, count: u64) {
        self.evicted.increment(count);
    }

    pub fn holds(&self, bytes: u64) {
        self.bytes.set(bytes as f64);
    }
}

impl Metrics {
    pub fn cache_asked(&self, word: CacheWord) {
        let Handles { hit, miss, shared, .. } = &self.cache;
        match word {
            CacheWord::Hit => hit,
            CacheWord::Miss => miss,
            CacheWord::Shared => shared,
        }
        .increment(1);
    }

    pub fn cache_memory(&self) -> &CacheTier {
        &self.cache.memory
    }

    /// Of what lies behind memory.
    pub fn cache_tier(&self, tier: &'static str) -> Arc<CacheTier> {
        let reads = ["hit", "miss", "expired", "damaged", "failed"];
        Arc::new(CacheTier::of(&self.recorder, tier, &reads, &["queue", "room", "emptied", "failed"]))
    }
}

fn count(counters: &[(&'static str, Counter)], what: &'static str) {
    if let Some((_, counter)) = counters.iter().find(|(name, _)| *name == what) {
        counter.increment(1);
    }
}
