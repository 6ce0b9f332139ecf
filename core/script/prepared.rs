//! A program made ready to be called again and again. The engine finds the native function behind each call site by name and
//! types, and forgets it when a call ends; here it is kept for the hook's next call, with the room for its variables, and its body
//! runs as it is, without being looked up. Scripts with imports go the engine's own way, because imports are made anew for each call.

use std::sync::{Mutex, PoisonError};

use rhai::{AST, ASTNode, Caches, Dynamic, Engine, EvalAltResult, GlobalRuntimeState, ImmutableString, Scope, Stmt};

use crate::pipeline::{Phase, phase::TABLE};

#[derive(Default)]
pub struct Prepared {
    hooks: Vec<Hook>,
}

/// A function named after a phase.
pub struct Hook {
    phase: Phase,
    parameters: Vec<ImmutableString>,
    body: Vec<Stmt>,
    /// The file's name, for messages.
    source: Option<ImmutableString>,
    /// One for each call that was under way at a time.
    ready: Mutex<Vec<Ready>>,
}

/// What a call needs and the next one can use again.
struct Ready {
    global: GlobalRuntimeState,
    found: Caches,
    /// The hook's parameters, without values between calls.
    scope: Scope<'static>,
}

impl Prepared {
    pub fn of(ast: &AST, phases: impl Iterator<Item = Phase>) -> Prepared {
        Prepared { hooks: phases.filter_map(|phase| hook(ast, phase)).collect() }
    }

    pub fn hook(&self, phase: Phase) -> Option<&Hook> {
        self.hooks.iter().find(|hook| hook.phase == phase)
    }
}

impl Hook {
    /// As the engine would call it; tells what its variables hold at its end as well.
    pub fn call<const N: usize>(
        &self,
        (engine, ast): (&Engine, &AST),
        args: [Dynamic; N],
    ) -> (Result<Dynamic, Box<EvalAltResult>>, u64) {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut ready = ready.unwrap_or_else(|| self.begin(engine, ast, Caches::default()));
        for (name, arg) in self.parameters.iter().zip(args) {
            if let Some(value) = ready.scope.get_mut(name) {
                *value = arg;
            }
        }
        let Ready { global, found, scope } = &mut ready;
        #[expect(deprecated, reason = "the only way to hand the engine what it found before")]
        let outcome = engine.eval_statements_raw(global, found, scope, &self.body);
        let held = held(scope, N);
        // Where a call failed, its state is as it was left.
        self.keep(if outcome.is_ok() { ready } else { self.begin(engine, ast, ready.found) });
        (outcome, held)
    }

    fn begin(&self, engine: &Engine, ast: &AST, found: Caches) -> Ready {
        let mut global = engine.new_global_runtime_state();
        global.source.clone_from(&self.source);
        global.lib.push(ast.shared_lib().clone());
        let mut scope = Scope::new();
        scope.extend(self.parameters.iter().cloned().map(|name| (name, Dynamic::UNIT)));
        // Within a function.
        global.level = 1;
        Ready { global, found, scope }
    }

    fn keep(&self, mut ready: Ready) {
        ready.rewind(&self.parameters);
        // What a script calls by made-up names is remembered too.
        let found = &mut ready.found;
        if found.fn_resolution_caches_len() > 0 && found.fn_resolution_cache_mut().dict.len() > MOST_SITES {
            return;
        }
        let mut idle = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_KEPT {
            idle.push(ready);
        }
    }
}

impl Ready {
    /// As it is before a call: nothing of one goes on to the next.
    fn rewind(&mut self, parameters: &[ImmutableString]) {
        let Ready { global, found, scope } = self;
        found.rewind_fn_resolution_caches(1);
        scope.rewind(parameters.len());
        for name in parameters {
            if let Some(value) = scope.get_mut(name) {
                *value = Dynamic::UNIT;
            }
        }
        global.level = 1;
        global.scope_level = 0;
        global.num_operations = 0;
        global.num_modules_loaded = 0;
        global.always_search_scope = false;
        global.constants = None;
    }
}

fn hook(ast: &AST, phase: Phase) -> Option<Hook> {
    let row = TABLE.iter().find(|row| row.phase == phase)?;
    let wanted = row.parameters.len();
    let mut own = ast.clone();
    own.clear_statements();
    own.retain_functions(|_, _, name, count| name == row.name && count == wanted);
    let parameters = own.iter_fn_def().next()?.params.iter().cloned().collect();
    let mut body = Vec::new();
    own.walk(&mut |path: &[ASTNode<'_>]| {
        if let [ASTNode::Stmt(statement)] = path {
            body.push((*statement).clone());
        }
        true
    });
    let source = ast.source().map(Into::into);
    Some(Hook { phase, parameters, body, source, ready: Mutex::default() })
}

/// Bytes that the variables of a call hold behind its parameters, which are views. What it let go of before, and what functions
/// held that it called, is not in it.
pub fn held(scope: &Scope<'_>, parameters: usize) -> u64 {
    let mut left = MOST_LOOKED_AT;
    // The last ones come first.
    let own = scope.iter_raw().take(scope.len().saturating_sub(parameters));
    own.map(|(_, _, value)| size(value, &mut left, DEEPEST)).sum()
}

/// What lies deeper, or behind too many others, is not looked at: this must cost less than what it measures.
fn size(value: &Dynamic, left: &mut u32, deep: u32) -> u64 {
    let own = size_of::<Dynamic>() as u64;
    if *left == 0 || deep == 0 {
        return own;
    }
    *left -= 1;
    if let Ok(text) = value.as_immutable_string_ref() {
        return own + text.len() as u64;
    }
    if let Ok(list) = value.as_array_ref() {
        return own + list.iter().map(|item| size(item, left, deep - 1)).sum::<u64>();
    }
    if let Ok(map) = value.as_map_ref() {
        return own + map.iter().map(|(name, item)| name.len() as u64 + size(item, left, deep - 1)).sum::<u64>();
    }
    own + value.as_blob_ref().map_or(0, |bytes| bytes.len() as u64)
}

/// Values, and how deep in one another.
const MOST_LOOKED_AT: u32 = 1_000;
const DEEPEST: u32 = 16;
/// Different functions by name and types: more than any script has that was written by hand.
const MOST_SITES: usize = 512;
/// More threads than run scripts at once.
const MOST_KEPT: usize = 64;
