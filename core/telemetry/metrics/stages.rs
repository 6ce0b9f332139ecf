//! What stages cost and how they fare, counted from a request's trace when it is settled: no request waits for it. Stages come
//! from the configuration; past the first hundred names they share one label.

use std::{hash::BuildHasher, sync::Arc};

use metrics::{Counter, Histogram, Label, Recorder};

use super::{METADATA, Metrics, OTHER, key, label, names};
use crate::context::{Step, Verdict};

/// Of one stage in one phase.
pub(super) struct Handles {
    duration: Histogram,
    operations: Histogram,
    memory: Histogram,
    failures: Counter,
}

impl Metrics {
    /// Counts a step of a trace; those that are no stage's are none of its business.
    pub fn stage(&self, step: &Step) {
        let Step::Stage { stage, phase, verdict, took, operations, memory, calls, .. } = step else { return };
        let handles = self.stage_handles(stage, phase);
        // Events that passed are told together: each counts as their mean.
        let calls = (*calls).max(1);
        let each = *took / calls;
        handles.duration.record_many(each.as_secs_f64(), calls as usize);
        if *operations > 0 {
            handles.operations.record_many((*operations / u64::from(calls)) as f64, calls as usize);
        }
        if *memory > 0 {
            handles.memory.record(*memory as f64);
        }
        if matches!(verdict, Verdict::Failed(_)) {
            handles.failures.increment(1);
        }
    }

    /// Is it left out, or in the way, because it fails too often?
    pub fn stage_parked(&self, stage: &str, parked: bool) {
        let labels = vec![Label::new("stage", self.stage_label(stage).to_owned())];
        self.recorder.register_gauge(&key(names::STAGE_PARKED, labels), &METADATA).set(f64::from(u8::from(parked)));
    }

    fn stage_label<'a>(&self, stage: &'a str) -> &'a str {
        let known = &self.stage_names;
        let fits = known.contains(stage) || (known.len() < MAX_STAGES && known.insert(stage.to_owned()));
        if fits { stage } else { OTHER }
    }

    fn stage_handles(&self, stage: &Arc<str>, phase: &'static str) -> Arc<Handles> {
        let hash = self.hasher.hash_one((stage, phase));
        if let Some(found) = self.stages.get(&hash) {
            return found.clone();
        }
        let stage = self.stage_label(stage);
        let labels = || vec![Label::new("stage", stage.to_owned()), label("phase", phase)];
        let histogram = |name| self.recorder.register_histogram(&key(name, labels()), &METADATA);
        let made = Arc::new(Handles {
            duration: histogram(names::STAGE_DURATION),
            operations: histogram(names::STAGE_OPERATIONS),
            memory: histogram(names::STAGE_MEMORY),
            failures: self.recorder.register_counter(&key(names::STAGE_FAILURES, labels()), &METADATA),
        });
        // Files come and go: what no longer runs makes room.
        if self.stages.len() >= MAX_STAGES * PHASES {
            self.stages.clear();
        }
        self.stages.insert(hash, made.clone());
        made
    }
}

const MAX_STAGES: usize = 100;
const PHASES: usize = 7;
