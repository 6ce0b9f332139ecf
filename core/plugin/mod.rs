//! The WebAssembly host: plugins as stages. What a guest can see and do is written in `plugins/wit/portcullis.wit`;
//! nothing outside this folder knows wasmtime.
//!
//! `engine` compiles and interrupts, `compile` turns a file into a program that was tried once, `grant` says what it may
//! import and `imports` is what that does, `instance` is one of its lives, `to_guest`, `from_guest` and `texts` carry the
//! model across, `stage` makes a stage of it all, `bench` times it.

mod bench;
mod bind;
mod compile;
mod engine;
mod from_guest;
mod grant;
mod http;
mod imports;
mod inspect;
mod instance;
mod kept;
mod stage;
mod state;
mod texts;
mod to_guest;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

pub use bench::{Figures, Load, Step, bench};
pub use compile::{Description, Loaded, REFUSES, Terms};
pub use grant::all_grants;
pub use http::{Outbound, OutboundError};
pub use inspect::{Facts, inspect};
pub use kept::Keep;
pub use stage::PluginStage;

use self::{compile::Program, engine::Engine, grant::Grants, state::Shared};
use crate::{
    config::{Stage, sources},
    pipeline::Effects,
};

/// What plugins keep beyond a runtime: the engine, compiled files for reuse, their memory. One a process.
pub struct Plugins {
    engine: OnceLock<Result<Arc<Engine>, String>>,
    compiled: Mutex<HashMap<String, Arc<Program>>>,
    effects: Effects,
    outbound: Option<Arc<dyn Outbound>>,
    /// For a gateway that runs, not for a dry run.
    lives: bool,
    kept: OnceLock<Arc<dyn Keep>>,
    /// Instances at once, of all plugins: settled when the engine starts.
    places: AtomicU32,
}

impl Plugins {
    /// With a memory that lasts, metrics that are counted, and calls that go out.
    pub fn live(outbound: Option<Arc<dyn Outbound>>) -> Self {
        Plugins { effects: Effects::live(), outbound, lives: true, ..Plugins::dry() }
    }

    /// So many requests may be in flight, each with an instance of so many plugins. Heard before the first plugin is loaded:
    /// later the engine has its size, and what does not fit is refused with 503.
    pub fn make_room(&self, requests: usize, plugins: usize) {
        let wanted = u32::try_from(requests.saturating_mul(plugins)).unwrap_or(u32::MAX);
        self.places.store(wanted.clamp(FEWEST_PLACES, MOST_PLACES), Ordering::Relaxed);
    }

    /// With the same engine and the files that are compiled already; nothing goes out, nothing stays.
    pub fn beside(&self) -> Self {
        let known = self.compiled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Plugins {
            engine: self.engine.get().cloned().map_or_else(OnceLock::new, OnceLock::from),
            compiled: Mutex::new(known),
            ..Plugins::dry()
        }
    }

    /// Where compiled files are kept from here on. Heard before the first plugin is loaded, and not in a dry run.
    pub fn keep_in(&self, open: impl FnOnce() -> Option<Arc<dyn Keep>>) {
        if self.lives && self.kept.get().is_none() && self.engine.get().is_none() {
            open().map(|keep| self.kept.set(keep));
        }
    }

    /// For `check`, `test` and `explain`: nothing goes out, nothing stays.
    pub fn dry() -> Self {
        Plugins {
            engine: OnceLock::new(),
            compiled: Mutex::default(),
            effects: Effects::dry(),
            outbound: None,
            lives: false,
            kept: OnceLock::new(),
            places: FEWEST_PLACES.into(),
        }
    }

    /// For another thread's rehearsal: what is compiled already, and a memory of its own.
    pub fn again(&self) -> Self {
        let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let places = self.places.load(Ordering::Relaxed).into();
        Plugins { engine: self.engine.clone(), compiled: Mutex::new(compiled), places, ..Plugins::dry() }
    }

    pub fn effects(&self) -> Effects {
        self.effects.clone()
    }

    /// A stage of a plugin's file, compiled, linked against its grants and tried once. Takes as long as the compiler
    /// takes: not for a thread that serves. The error is a sentence about the file.
    pub fn load(&self, stage: &Stage, file: &sources::Plugin) -> Result<Arc<Loaded>, String> {
        let engine = self.engine()?;
        let program = self.compile(&engine, file)?;
        let config_text = serde_json::Value::Object(stage.config.clone()).to_string();
        let shared = Shared {
            name: stage.uses.as_str().into(),
            config: stage.config.clone(),
            config_text,
            grants: Grants::new(&stage.grant),
            effects: self.effects.clone(),
            outbound: self.outbound.clone(),
            reads_context: program.imports.iter().any(|name| name.contains("/context@")),
        };
        let limits = stage.limits;
        let terms = Terms { memory: limits.memory, cpu: limits.cpu, isolation: stage.isolation };
        compile::load(&engine, &program, shared, terms).map(Arc::new)
    }

    /// Drops compiled files that no stage and no request holds any more.
    pub fn prune(&self) {
        let mut known = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, program| Arc::strong_count(program) > 1);
    }

    fn compile(&self, engine: &Engine, file: &sources::Plugin) -> Result<Arc<Program>, String> {
        let known = |hash: &str| self.compiled.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        if let Some(program) = known(&file.hash) {
            return Ok(program);
        }
        // Without the lock: a reload is the only one who compiles.
        let (begun, found) = (Instant::now(), engine.found());
        let program = Arc::new(compile::compile(engine, &file.bytes, &file.hash)?);
        let kept = engine.found() > found;
        if let (false, Some(keep)) = (kept, self.kept.get()) {
            keep.seal();
        }
        tracing::debug!(hash = %file.hash, size = file.size, took_ms = begun.elapsed().as_millis() as u64, kept, "plugin compiled");
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).insert(file.hash.clone(), program.clone());
        Ok(program)
    }

    fn engine(&self) -> Result<Arc<Engine>, String> {
        self.engine
            .get_or_init(|| {
                Engine::start(self.places.load(Ordering::Relaxed), self.kept.get().map(|keep| &**keep)).map(Arc::new)
            })
            .clone()
    }
}

/// Places are address space, not memory; of that a process has 128 TiB, and each takes 4 GiB so that guests need no checks
/// of bounds.
const MOST_PLACES: u32 = 16_384;
const FEWEST_PLACES: u32 = 64;

#[cfg(test)]
mod tests;
