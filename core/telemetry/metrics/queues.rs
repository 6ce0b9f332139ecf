//! Places and who waits for one. All words are the gateway's own; names of targets come from the configuration.

use std::time::Duration;

use metrics::{Label, Recorder};

use super::super::unheard;
use super::{METADATA, Metrics, key, label, names};

impl Metrics {
    /// Somebody was refused for want of room. `at`: `gateway` or `target`.
    pub fn shed(&self, at: &'static str, priority: &'static str, reason: &'static str) {
        if unheard::here() {
            return;
        }
        let labels = vec![label("at", at), label("priority", priority), label("reason", reason)];
        self.recorder.register_counter(&key(names::SHED, labels), &METADATA).increment(1);
    }

    /// Somebody waited so long, whatever came of it. Who found a free place is not counted.
    pub fn queued(&self, at: &'static str, priority: &'static str, took: Duration) {
        if unheard::here() {
            return;
        }
        let labels = vec![label("at", at), label("priority", priority)];
        self.recorder.register_histogram(&key(names::QUEUE_WAIT, labels), &METADATA).record(took.as_secs_f64());
    }

    /// How the places at the gateway, or at a target, stand: how many there are, are taken, and are waited for.
    pub fn places(&self, at: &str, limit: u64, taken: u64, waiting: usize) {
        let gauges = [names::PLACES, names::PLACES_TAKEN, names::QUEUE_LENGTH];
        for (gauge, number) in gauges.into_iter().zip([limit, taken, waiting as u64]) {
            let labels = vec![Label::new("at", at.to_owned())];
            self.recorder.register_gauge(&key(gauge, labels), &METADATA).set(number as f64);
        }
    }

    /// How many classes of priority are refused because of the process's own state.
    pub fn shedding(&self, classes: u8) {
        self.recorder.register_gauge(&key(names::SHEDDING, vec![]), &METADATA).set(f64::from(classes));
    }
}
