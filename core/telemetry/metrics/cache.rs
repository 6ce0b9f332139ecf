//! What the cache did: asked, kept, made room.

use metrics::{Counter, Gauge, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{METADATA, Metrics, key, label, names};
use crate::context::CacheWord;

pub struct Handles {
    pub hit: Counter,
    pub miss: Counter,
    pub shared: Counter,
    pub evicted: Counter,
    pub bytes: Gauge,
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
            evicted: recorder.register_counter(&key(names::CACHE_EVICTED, vec![]), &METADATA),
            bytes: recorder.register_gauge(&key(names::CACHE_BYTES, vec![]), &METADATA),
        }
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

    /// An answer was kept: how many made room for it, and the bytes of all.
    pub fn cache_kept(&self, evicted: u64, bytes: u64) {
        self.cache.evicted.increment(evicted);
        self.cache_holds(bytes);
    }

    pub fn cache_holds(&self, bytes: u64) {
        self.cache.bytes.set(bytes as f64);
    }
}
