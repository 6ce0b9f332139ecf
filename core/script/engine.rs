//! The language as scripts have it: which packages, which limits, where `import` may look. A script has no files, no
//! network, no clock and no way to block a thread.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rhai::{
    Dynamic, Engine, EvalAltResult, Module, ModuleResolver, OptimizationLevel, Position, Scope, Shared,
    packages::{
        BasicArrayPackage, BasicMapPackage, BasicMathPackage, BitFieldPackage, CorePackage, LogicPackage,
        MoreStringPackage, Package,
    },
};

use super::{
    bounded,
    called::{self, Functions},
    cover, desk,
    reference::Registrar,
    verdict,
};
use crate::config::{Sources, StageLimits};

/// The engines of one runtime.
pub struct Host {
    pub engine: Engine,
    /// Parses without strict names and without optimising: for checks on the program as it was written.
    pub loose: Engine,
    modules: Arc<Modules>,
    /// Lines that run are counted.
    counts: bool,
    /// What scripts can call.
    functions: OnceLock<Functions>,
}

impl Host {
    pub fn new(sources: &Sources) -> Self {
        let modules = Arc::new(Modules { files: sources.scripts.clone(), known: Mutex::default() });
        let mut loose = build(modules.clone());
        loose.set_optimization_level(OptimizationLevel::None);
        Host { engine: strict(modules.clone()), loose, modules, counts: false, functions: OnceLock::new() }
    }

    /// Looked up once, by the first script that is read.
    pub fn functions(&self) -> &Functions {
        self.functions.get_or_init(|| called::of(&self.engine))
    }

    /// An engine for one script whose functions name constants that the optimiser left as names (`LIST.len()`): they are found
    /// where no variable of the function's own has that name.
    pub fn with_constants(&self, constants: BTreeMap<String, Dynamic>) -> Engine {
        let mut engine = strict(self.modules.clone());
        let mut named = Module::new();
        for (name, value) in constants {
            named.set_var(name, value);
        }
        engine.register_global_module(named.into());
        if self.counts {
            cover::register(&mut engine);
        }
        engine
    }

    /// Does another script take functions from this file?
    pub fn is_imported(&self, file: &str) -> bool {
        let module = file.strip_prefix("scripts/").and_then(|name| name.strip_suffix(".rhai")).unwrap_or(file);
        let import = format!("\"{module}\"");
        let mut others = self.modules.files.iter().filter(|(name, _)| *name != file);
        others.any(|(_, text)| text.contains("import") && text.contains(&import))
    }

    /// Engines that also count which lines ran.
    pub fn covering(sources: &Sources) -> Self {
        let mut host = Host::new(sources);
        cover::register(&mut host.engine);
        cover::register(&mut host.loose);
        host.counts = true;
        host
    }
}

fn strict(modules: Arc<Modules>) -> Engine {
    let mut engine = build(modules);
    engine.set_strict_variables(true);
    engine.set_optimization_level(OptimizationLevel::Simple);
    engine
}

fn build(modules: Arc<Modules>) -> Engine {
    let mut engine = Engine::new_raw();
    // No time package: `context.now` is the only clock.
    CorePackage::new().register_into_engine(&mut engine);
    BitFieldPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicMathPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    MoreStringPackage::new().register_into_engine(&mut engine);
    bounded::register(&mut engine);
    limit(&mut engine);
    engine.set_module_resolver(Resolver(modules));
    // Prompt text must not reach logs: a script talks through `context.note`.
    engine.on_print(|_| {});
    engine.on_debug(|_, _, _| {});
    engine.disable_symbol("eval");
    engine.register_fn("sleep", |_: i64| -> Result<(), Box<EvalAltResult>> { Err(asleep()) });
    engine.register_fn("sleep", |_: f64| -> Result<(), Box<EvalAltResult>> { Err(asleep()) });
    let mut registrar = Registrar::new(&mut engine);
    register(&mut registrar);
    engine
}

/// Everything that scripts see beside the language itself.
pub fn register(registrar: &mut Registrar<'_>) {
    super::request_view::register(registrar);
    super::part_view::register(registrar);
    super::target_view::register(registrar);
    super::answer_view::register(registrar);
    super::context_view::register(registrar);
    super::text_view::register(registrar);
    super::ask_view::register(registrar);
    verdict::register(registrar);
}

fn limit(engine: &mut Engine) {
    // A ceiling only: each stage's own limit is checked in `on_progress`.
    engine.set_max_operations(MAX_OPERATIONS);
    engine.set_max_call_levels(32);
    engine.set_max_expr_depths(64, 32);
    engine.set_max_string_size(bounded::MOST_BYTES);
    engine.set_max_array_size(bounded::MOST_ENTRIES);
    engine.set_max_map_size(bounded::MOST_ENTRIES);
    engine.set_max_variables(256);
    engine.set_max_functions(256);
    engine.set_max_modules(16);
    engine.on_progress(spent);
}

fn asleep() -> Box<EvalAltResult> {
    desk::fail("sleep is not available: a script that waits would hold up other requests")
}

/// What one call may use, on the thread that runs it.
struct Budget {
    limit: Cell<u64>,
    used: Cell<u64>,
    /// The call's time until its clock runs: what is over before anybody asks reads no clock.
    wall: Cell<Option<Duration>>,
    deadline: Cell<Option<Instant>>,
    /// Where the last verdict was made.
    line: Cell<u32>,
}

/// What one call took, and where in the file its verdict was made (0: it made none).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub operations: u64,
    pub line: u32,
    /// Bytes that its variables hold at its end.
    pub memory: u64,
}

thread_local! {
    static BUDGET: Budget =
        const {
        Budget {
            limit: Cell::new(u64::MAX),
            used: Cell::new(0),
            wall: Cell::new(None),
            deadline: Cell::new(None),
            line: Cell::new(0),
        }
    };
}

impl Budget {
    fn check(&self, operations: u64) -> Option<Dynamic> {
        self.used.set(operations);
        if operations > self.limit.get() {
            return Some(Dynamic::from(format!("more than {} operations", self.limit.get())));
        }
        if operations & 15 == 0 && self.late() {
            return Some(Dynamic::from("longer than its time limit".to_owned()));
        }
        None
    }

    /// The first who asks starts the clock.
    fn late(&self) -> bool {
        if let Some(wall) = self.wall.take() {
            self.deadline.set(Instant::now().checked_add(wall));
            return false;
        }
        self.deadline.get().is_some_and(|t| Instant::now() > t)
    }
}

/// Runs `f` while the time of the call under way stands still.
pub fn paused<T>(f: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let value = f();
    BUDGET.with(|b| b.deadline.set(b.deadline.get().and_then(|t| t.checked_add(began.elapsed()))));
    value
}

/// Is the time of the call under way over? For host functions that work long.
pub fn late() -> bool {
    BUDGET.with(Budget::late)
}

/// Why the call under way must end; for engines of this module.
pub fn spent(operations: u64) -> Option<Dynamic> {
    BUDGET.with(|b| b.check(operations))
}

/// A verdict was made here.
pub fn mark(position: Position) {
    BUDGET.with(|b| b.line.set(line_of(position)));
}

pub fn line_of(position: Position) -> u32 {
    position.line().map_or(0, |line| u32::try_from(line).unwrap_or(u32::MAX))
}

/// Runs `f` under limits; tells what it took as well.
pub fn within<T>(limits: StageLimits, f: impl FnOnce() -> T) -> (T, Used) {
    BUDGET.with(|b| {
        b.line.set(0);
        b.limit.set(limits.operations);
        b.used.set(0);
        b.wall.set(Some(limits.wall));
        b.deadline.set(None);
    });
    let value = f();
    let used = BUDGET.with(|b| {
        b.limit.set(u64::MAX);
        b.wall.set(None);
        b.deadline.set(None);
        Used { operations: b.used.get(), line: b.line.get(), memory: 0 }
    });
    (value, used)
}

/// Modules of one runtime: read when a script that imports them is compiled, then only from memory.
struct Modules {
    /// All of scripts/, by name: what is not here cannot be imported.
    files: BTreeMap<String, Arc<str>>,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
enum Known {
    Loading,
    Ready(Shared<Module>),
}

struct Resolver(Arc<Modules>);

impl ModuleResolver for Resolver {
    fn resolve(
        &self,
        engine: &Engine,
        _source: Option<&str>,
        path: &str,
        pos: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let known = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known().get(path).cloned() {
            Some(Known::Ready(module)) => return Ok(module),
            Some(Known::Loading) => return Err(at(pos, format!("import \"{path}\": it imports itself"))),
            None => {}
        }
        known().insert(path.to_owned(), Known::Loading);
        let loaded = self.load(engine, path, pos);
        match &loaded {
            Ok(module) => known().insert(path.to_owned(), Known::Ready(module.clone())),
            Err(_) => known().remove(path),
        };
        loaded
    }
}

impl Resolver {
    fn load(&self, engine: &Engine, path: &str, pos: Position) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if !path.split('/').all(plain) {
            let text = "a module path is made of letters, digits, _ and -, joined by /; modules lie in scripts/";
            return Err(at(pos, format!("import \"{path}\": {text}")));
        }
        let name = format!("scripts/{path}.rhai");
        let missing = || at(pos, format!("import \"{path}\": there is no {name}"));
        let source = self.0.files.get(&name).ok_or_else(missing)?;
        let mut ast = engine.compile(source).map_err(|e| at(pos, format!("{name}:{}: {}", place(e.1), e.0)))?;
        ast.set_source(&name);
        Ok(Module::eval_ast_as_new(Scope::new(), &ast, engine)?.into())
    }
}

fn at(pos: Position, message: String) -> Box<EvalAltResult> {
    let mut error = desk::fail(message);
    error.set_position(pos);
    error
}

/// `12:5`.
pub fn place(pos: Position) -> String {
    match (pos.line(), pos.position()) {
        (Some(line), Some(column)) => format!("{line}:{column}"),
        (Some(line), None) => line.to_string(),
        _ => "1".into(),
    }
}

const MAX_OPERATIONS: u64 = 100_000_000;
