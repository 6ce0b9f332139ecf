//! The Rhai host: scripts as stages. What a script can see and do is registered here and nowhere else; nothing outside
//! this folder knows Rhai.
//!
//! `engine` holds the language and its limits, `compile` turns a file into a checked program (`lint` and `property` find
//! mistakes in it before it runs), `desk` is what one call sees, the `*_view` files are the objects on it, `stage` and `run` make a stage of it.

mod answer_view;
mod ask_view;
mod beside;
mod bounded;
mod called;
mod compile;
mod context_view;
mod convert;
pub mod cover;
mod desk;
mod engine;
mod knob_view;
mod lint;
mod part_view;
pub mod price;
mod prepared;
mod property;
pub mod reference;
pub mod repl;
mod request_view;
mod run;
mod search_view;
mod stage;
pub mod suite;
mod target_view;
mod text_view;
mod verdict;
mod words;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

pub use compile::Compiled;
pub use engine::Host;
pub use reference::reference;
pub use stage::ScriptStage;

use crate::{
    config::{Problem, Sources},
    pipeline::{Asks, Effects, Parking},
};

/// What scripts keep beyond a runtime: their memory, and compiled files for reuse. One a process.
pub struct Scripts {
    effects: Effects,
    /// Of all stages, plugins too: whoever builds a pipeline has it from here.
    parking: Parking,
    compiled: Mutex<HashMap<String, Arc<Compiled>>>,
}

impl Scripts {
    /// With a memory that lasts and metrics that are counted.
    pub fn live() -> Self {
        Scripts { effects: Effects::live(), parking: Parking::default(), compiled: Mutex::default() }
    }

    /// For `test` and `explain`: a fresh memory, no metrics.
    pub fn dry() -> Self {
        Scripts { effects: Effects::dry(), parking: Parking::default(), compiled: Mutex::default() }
    }

    /// For cases: the same, but for who answers questions: whom the rehearsal names.
    pub fn rehearsed() -> Self {
        Scripts { effects: Effects { asks: Asks::rehearsed(), ..Effects::dry() }, ..Scripts::dry() }
    }

    pub fn effects(&self) -> Effects {
        self.effects.clone()
    }

    pub fn parking(&self) -> &Parking {
        &self.parking
    }

    /// The engine for one build of a runtime: modules imported by its scripts are read once, now.
    pub fn host(&self, sources: &Sources) -> Arc<Host> {
        Arc::new(Host::new(sources))
    }

    /// The same with marks for coverage.
    pub fn covering(sources: &Sources) -> Arc<Host> {
        Arc::new(Host::covering(sources))
    }

    /// A checked program; an unchanged file without imports is reused.
    pub fn compile(&self, host: &Arc<Host>, uses: &str, source: &str) -> Result<Arc<Compiled>, Vec<Problem>> {
        let mut known = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = compile::hash(source);
        if let Some(old) = known.get(uses).filter(|old| old.hash == hash && !old.imports) {
            return Ok(old.clone());
        }
        let new = Arc::new(compile::compile(host, uses, source)?);
        known.insert(uses.to_owned(), new.clone());
        Ok(new)
    }
}

#[cfg(test)]
mod tests;
