//! What is tried beside what an alias usually does: arms of a split, and copies of requests that a mirror sends elsewhere; how
//! each fares is counted here. Who is given to which arm says `route::split`. A request that has no part in an experiment
//! never meets this module; one that has is neither delayed nor failed by it.

pub mod figures;
mod kept;
mod mirror;
mod shown;

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::DashMap;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

pub use self::shown::Window;
use self::{figures::Figures, mirror::Sample};
use crate::{
    account::{Mark, Record},
    codec::document::Document,
    config::experiment::MIRROR,
    context::Trace,
    exchange::Exchange,
    gateway::Gateway,
    model::Operation,
    route::Drawn,
    server::BodyMemory,
    telemetry::names,
};

/// What lives of experiments: kept by names, so a reload forgets nothing.
#[derive(Default)]
pub struct Experiments {
    figures: Arc<Figures>,
    /// Nobody: nothing is copied.
    gateway: OnceLock<Weak<Gateway>>,
    /// Copies under way, by alias.
    under_way: DashMap<Arc<str>, Arc<AtomicUsize>>,
    stop: CancellationToken,
}

/// A request's part in an experiment, from its plan to its record.
pub struct Part {
    figures: Arc<Figures>,
    model: Arc<str>,
    arm: Arc<str>,
    own: Vec<Arc<str>>,
}

/// One copy's room among those that are under way.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Part {
    /// The request is over and its charge is known.
    pub fn ended(&self, record: &Record, trace: &Trace) {
        self.figures.add((&self.model, &self.arm), record, trace, &self.own);
    }
}

impl Experiments {
    /// From here on copies are sent, by this gateway.
    pub fn serve(&self, gateway: &Arc<Gateway>) {
        let _ = self.gateway.set(Arc::downgrade(gateway));
    }

    /// No copy is begun any more, and those under way are given up.
    pub fn end(&self) {
        self.stop.cancel();
    }

    /// The request has a part in an experiment: its record says so, and a share is copied.
    #[cold]
    pub fn begin(
        &self,
        drawn: Drawn,
        exchange: &mut Exchange,
        client: &HeaderMap,
        document: &Document,
        memory: &BodyMemory,
    ) {
        let inner = &mut **exchange;
        // A count of tokens is no answer that anybody compares.
        if inner.cx.operation == Operation::CountTokens {
            return;
        }
        let model = drawn.experiment.model.clone();
        inner.record.experiment = Some(Box::new(Mark { model: model.clone(), arm: drawn.arm.clone(), copy_of: None }));
        inner.part =
            Some(Box::new(Part { figures: self.figures.clone(), model, arm: drawn.arm.clone(), own: drawn.own }));
        let Some(mirror) = drawn.experiment.mirrors(inner.cx.seed) else { return };
        let Some(gateway) = self.gateway.get() else {
            return inner.cx.trace.note(MIRROR, &format!("a copy would go to {}", mirror.to));
        };
        // What no codec reads may do something: files, pictures, sessions. Only what answers in words or vectors is copied.
        if inner.opaque.is_some() || !matches!(inner.cx.operation, Operation::Chat | Operation::Embeddings) {
            return;
        }
        let model = &drawn.experiment.model;
        let Some(place) = self.place(model, mirror.concurrent) else { return self.left_out(model, FULL) };
        let mut held = memory.permit();
        if held.grow(document.bytes().len() as u64).is_err() {
            return self.left_out(model, MEMORY);
        }
        let sample = Sample {
            experiment: drawn.experiment.clone(),
            document: document.clone(),
            client: client.clone(),
            wire: inner.wire,
            principal: inner.cx.principal.clone(),
            tags: inner.cx.tags.clone(),
            sticks: inner.cx.sticks.clone(),
            asked: inner.record.model.clone(),
            copy_of: inner.cx.id.clone(),
        };
        inner.cx.trace.note(MIRROR, &format!("a copy goes to {}", mirror.to));
        metrics::counter!(names::MIRRORED, "outcome" => "begun").increment(1);
        let (figures, gateway, stop) = (self.figures.clone(), gateway.clone(), self.stop.clone());
        tokio::spawn(async move {
            // Given back when the copy is over, whatever became of it.
            let _held = (place, held);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sample.send(&gateway, figures) => {}
            }
        });
    }

    fn place(&self, model: &Arc<str>, most: usize) -> Option<Place> {
        if self.stop.is_cancelled() {
            return None;
        }
        let known = self.under_way.get(model).map(|count| count.clone());
        let count = known.unwrap_or_else(|| self.under_way.entry(model.clone()).or_default().clone());
        if count.fetch_add(1, Ordering::Relaxed) >= most {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(count))
    }

    fn left_out(&self, model: &Arc<str>, why: &'static str) {
        self.figures.left_out(model, why);
        metrics::counter!(names::MIRRORED, "outcome" => why).increment(1);
    }
}

/// Why a copy was not sent: too many are under way, bodies have no memory left, or the request may do more than answer.
const FULL: &str = "full";
const MEMORY: &str = "memory";
const EFFECTS: &str = "side_effects";

#[cfg(test)]
mod tests;
