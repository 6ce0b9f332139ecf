//! From a file's bytes to something that can run: the component compiled, its imports checked against the stage's grants,
//! and a trial instance asked to describe itself, under the same limits as any call. What is refused here never runs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wasmtime::component::{Component, InstancePre, Linker, types::ComponentItem};

use super::{
    bind::{
        PACKAGE, VERSION,
        exports::portcullis::plugin::{attempt, describe, error, event, log, request, response, route},
        types,
    },
    engine::Engine,
    imports,
    instance::{self, Instance},
    state::{Guest, Shared},
    to_guest::Needs,
};
use crate::{
    config::{Isolation, StreamMode},
    pipeline::{Phase, drive, phase::Phases},
};

/// A compiled file; what a stage may do with it is decided elsewhere.
pub struct Program {
    pub component: Component,
    pub hash: String,
    pub size: u64,
    /// Bytes of machine code and tables that it became.
    pub code: u64,
    /// Full names of what it imports, empty type-only interfaces left out.
    pub imports: Vec<String>,
    /// Full names of what it exports.
    pub exports: Vec<String>,
}

/// What a guest says of itself, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub phases: Phases,
    pub needs: Needs,
    pub stream: Option<StreamMode>,
    pub window: Option<u64>,
    pub reusable: bool,
}

/// A stage's limits and ways, as the configuration has them.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub memory: u64,
    pub cpu: Duration,
    pub isolation: Isolation,
}

/// Ready to serve requests.
pub struct Loaded {
    pub engine: Arc<Engine>,
    pub program: Arc<Program>,
    pub pre: InstancePre<Guest>,
    pub shared: Arc<Shared>,
    pub described: Description,
    pub terms: Terms,
    pub indices: Indices,
    /// Instances that wait for a further request (`isolation = "pooled"`).
    pub idle: Mutex<Vec<Box<Instance>>>,
}

/// Where the phases' functions are.
#[derive(Default)]
pub struct Indices {
    pub request: Option<request::GuestIndices>,
    pub route: Option<route::GuestIndices>,
    pub attempt: Option<attempt::GuestIndices>,
    pub event: Option<event::GuestIndices>,
    pub response: Option<response::GuestIndices>,
    pub error: Option<error::GuestIndices>,
    pub log: Option<log::GuestIndices>,
}

/// Compiles on the calling thread. The error is a sentence about the file.
pub fn compile(engine: &Engine, bytes: &[u8], hash: &str) -> Result<Program, String> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {
            return Err(
                "is a WebAssembly module, not a component: make one of it with `wasm-tools component new`".into()
            );
        }
        Some([0, b'a', b's', b'm', ..]) => {}
        _ => return Err("is no WebAssembly file".into()),
    }
    let component = Component::new(&engine.wasm, bytes).map_err(|e| format!("does not compile: {}", told(&e)))?;
    let kind = component.component_type();
    let used = |item: &ComponentItem| match item {
        // Interfaces of types alone stand in every guest.
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(&engine.wasm).any(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
        }
        _ => true,
    };
    let imports = kind.imports(&engine.wasm).filter(|(_, item)| used(&item.ty)).map(|(name, _)| name.to_owned());
    let imports = imports.collect();
    let exports = kind.exports(&engine.wasm).map(|(name, _)| name.to_owned()).collect();
    let image = component.image_range();
    let code = image.end.addr().saturating_sub(image.start.addr()) as u64;
    Ok(Program { component, code, hash: hash.to_owned(), size: bytes.len() as u64, imports, exports })
}

/// Links a compiled file for a stage and tries it once.
pub fn load(engine: &Arc<Engine>, program: &Arc<Program>, shared: Shared, terms: Terms) -> Result<Loaded, String> {
    if let Some(refusal) = shared.grants.refusal(&shared.name, program.imports.iter().map(String::as_str)) {
        return Err(refusal);
    }
    let mut linker = Linker::new(&engine.wasm);
    let linked = imports::link(&mut linker, &shared.grants)
        .and_then(|()| linker.define_unknown_imports_as_traps(&program.component))
        .and_then(|()| linker.instantiate_pre(&program.component));
    let pre = linked.map_err(|e| format!("does not fit {PACKAGE}@{VERSION}: {}", told(&e)))?;
    let asks = describe::GuestIndices::new(&pre)
        .map_err(|_| format!("exports no {PACKAGE}/describe@{VERSION}: it is no plugin of this gateway"))?;
    let shared = Arc::new(shared);
    let said = drive(ask(engine, &pre, &shared, terms, &asks))?;
    let described = check(said)?;
    let indices = indices(&pre, described.phases)?;
    if terms.isolation == Isolation::Pooled && !described.reusable {
        return Err("cannot be pooled: it does not say `reusable` of itself, so an instance serves one request".into());
    }
    let (engine, program) = (engine.clone(), program.clone());
    let loaded = Loaded { engine, program, pre, shared, described, terms, indices, idle: Mutex::default() };
    // The types of its functions are looked at when they are loaded.
    let typed = drive(Instance::open(&loaded, &loaded.shared)).and_then(|mut instance| instance.check(&loaded));
    typed.map_err(|e| format!("does not fit {PACKAGE}@{VERSION}: {}", told(&e)))?;
    Ok(loaded)
}

async fn ask(
    engine: &Arc<Engine>,
    pre: &InstancePre<Guest>,
    shared: &Arc<Shared>,
    terms: Terms,
    asks: &describe::GuestIndices,
) -> Result<types::Description, String> {
    let wrong = |e: wasmtime::Error| format!("fails when it is asked to describe itself: {}", told(&e));
    let terms = Terms { cpu: terms.cpu.max(FIRST), ..terms };
    let _busy = engine.busy();
    let mut store = instance::store(engine, shared, terms);
    let meter = store.data().meter.clone();
    instance::metered(&meter, async {
        let made = pre.instantiate_async(&mut store).await.map_err(wrong)?;
        let guest = asks.load(&mut store, &made).map_err(wrong)?;
        guest.call_describe(&mut store).await.map_err(wrong)?.map_err(|said| {
            let said: String = said.chars().filter(|c| !c.is_control()).take(MAX_SENTENCE).collect();
            format!("{REFUSES}: {said}")
        })
    })
    .await
}

fn check(said: types::Description) -> Result<Description, String> {
    let types::Description { name, version, phases, needs, stream_mode, window, reusable } = said;
    let plain = |text: &str| !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
    if !plain(&name) || !plain(&version) {
        return Err("describes itself without a usable name and version".into());
    }
    let mut wanted = Phases::default();
    for phase in phases {
        wanted = wanted.with(match phase {
            types::Phase::Request => Phase::Request,
            types::Phase::Route => Phase::Route,
            types::Phase::Attempt => Phase::Attempt,
            types::Phase::Event => Phase::Event,
            types::Phase::Response => Phase::Response,
            types::Phase::Error => Phase::Error,
            types::Phase::Log => Phase::Log,
            types::Phase::Other(name) => return Err(format!("wants the phase {name:?}, which there is not")),
        });
    }
    if wanted == Phases::default() {
        return Err("wants no phase: it would never run".into());
    }
    let mut reads = Needs::default();
    for need in needs {
        match need {
            types::Need::Headers => reads.headers = true,
            types::Need::LastUserText => reads.last_user_text = true,
            types::Need::Parameters => reads.parameters = true,
            types::Need::Metadata => reads.metadata = true,
            types::Need::Messages => reads.messages = true,
            types::Need::Tools => reads.tools = true,
            types::Need::Texts => reads.texts = true,
            types::Need::Answer => reads.answer = true,
            types::Need::AnswerTexts => reads.answer_texts = true,
            types::Need::Other(name) => return Err(format!("needs {name:?}, which this gateway does not have")),
        }
    }
    let stream = match stream_mode {
        None => None,
        Some(types::StreamMode::Event) => Some(StreamMode::Event),
        Some(types::StreamMode::Window) => Some(StreamMode::Window),
        Some(types::StreamMode::Whole) => Some(StreamMode::Whole),
        Some(types::StreamMode::Observe) => Some(StreamMode::Observe),
        Some(types::StreamMode::Other(name)) => return Err(format!("wants streams {name:?}, which there is not")),
    };
    let window = window.map(u64::from);
    Ok(Description { name, version, phases: wanted, needs: reads, stream, window, reusable })
}

fn indices(pre: &InstancePre<Guest>, phases: Phases) -> Result<Indices, String> {
    let missing = |phase: Phase| {
        move |_: wasmtime::Error| {
            let name = phase.name();
            format!("wants the phase {name} but does not export {PACKAGE}/{name}@{VERSION}")
        }
    };
    macro_rules! find {
        ($phase:expr, $module:ident) => {
            match phases.has($phase) {
                true => Some($module::GuestIndices::new(pre).map_err(missing($phase))?),
                false => None,
            }
        };
    }
    Ok(Indices {
        request: find!(Phase::Request, request),
        route: find!(Phase::Route, route),
        attempt: find!(Phase::Attempt, attempt),
        event: find!(Phase::Event, event),
        response: find!(Phase::Response, response),
        error: find!(Phase::Error, error),
        log: find!(Phase::Log, log),
    })
}

impl Description {
    pub fn phase_names(&self) -> Vec<&'static str> {
        crate::pipeline::phase::TABLE.iter().filter(|row| self.phases.has(row.phase)).map(|row| row.name).collect()
    }
}

/// The engine's error as one line.
pub fn told(error: &wasmtime::Error) -> String {
    let mut all = Vec::new();
    for cause in error.chain() {
        let line = cause.to_string();
        let line = line.lines().next().unwrap_or_default().trim().to_owned();
        if !line.is_empty() && !all.contains(&line) {
            all.push(line);
        }
    }
    let text = all.join(": ");
    text[..text.floor_char_boundary(MAX_SENTENCE)].to_owned()
}

/// How the sentence begins when a guest does not like its `config`.
pub const REFUSES: &str = "refuses its configuration";
/// For `describe`, which may read a configuration: at least so long.
const FIRST: Duration = Duration::from_millis(100);
const MAX_NAME: usize = 100;
const MAX_SENTENCE: usize = 400;
