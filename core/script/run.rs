//! One call of one hook: under limits, with every way of failing turned into a fault that names file, line, column and
//! phase and holds no text of a request.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rhai::{CallFnOptions, Dynamic, EvalAltResult, Position, Scope};

use super::{
    compile::Compiled,
    desk::HostError,
    engine::{Used, place, within},
    prepared,
};
use crate::{
    config::StageLimits,
    pipeline::{Phase, StageFault},
};

/// The hook's value and what it took.
pub fn call<const N: usize>(
    program: &Compiled,
    limits: StageLimits,
    phase: Phase,
    args: [Dynamic; N],
) -> (Result<Dynamic, StageFault>, Used) {
    let run = || {
        let engine = program.engine();
        if let Some(hook) = program.prepared.hook(phase) {
            return hook.call((engine, &program.ast), args);
        }
        let mut scope = Scope::new();
        // Top-level statements ran when the script was compiled; only imports must be seen again.
        let options = CallFnOptions::new().eval_ast(program.imports).rewind_scope(false);
        let args = args.to_vec();
        let outcome = engine.call_fn_with_options(options, &mut scope, &program.ast, phase.name(), args);
        (outcome, prepared::held(&scope, N))
    };
    // A panic in the engine costs this request, not the thread: the values on the desk are only moved.
    let (outcome, mut used) = within(limits, || catch_unwind(AssertUnwindSafe(run)));
    let result = match outcome {
        Ok((outcome, held)) => {
            used.memory = held;
            outcome.map_err(|error| fault(program, phase, &error))
        }
        Err(_) => Err(StageFault::new(format!("{} (fn {}): the script host failed", program.file, phase.name()))),
    };
    (result, used)
}

/// `scripts/x.rhai:3:5 (fn request): …`
fn fault(program: &Compiled, phase: Phase, error: &EvalAltResult) -> StageFault {
    let mut file = program.file.as_str();
    let mut error = error;
    let mut position = error.position();
    loop {
        match error {
            EvalAltResult::ErrorInFunctionCall(_, source, inner, _) => {
                if !source.is_empty() {
                    file = source;
                }
                error = inner;
            }
            EvalAltResult::ErrorInModule(name, inner, _) => {
                file = name;
                error = inner;
            }
            _ => break,
        }
        if !error.position().is_none() {
            position = error.position();
        }
    }
    // An empty loop has no place of its own.
    if position.is_none() {
        position = program.position(phase).unwrap_or(position);
    }
    StageFault::new(format!("{file}:{} (fn {}): {}", place(position), phase.name(), told(program, error)))
}

/// The error in words that hold names and types only.
pub fn told(program: &Compiled, error: &EvalAltResult) -> String {
    use EvalAltResult as E;
    match error {
        E::ErrorRuntime(value, _) => match value.read_lock::<HostError>() {
            Some(host) => host.0.clone(),
            // A thrown text is shown when it stands in the script: it may be made of a prompt.
            None => match value.as_immutable_string_ref() {
                Ok(text) if program.literals.contains(text.as_str()) => format!("thrown: {}", &**text),
                _ => "the script threw an error".into(),
            },
        },
        E::ErrorTerminated(token, _) => match token.as_immutable_string_ref() {
            Ok(reason) => format!("stopped: it took {}", &**reason),
            Err(_) => "stopped".into(),
        },
        E::ErrorTooManyOperations(_) => "stopped: too many operations".into(),
        E::ErrorStackOverflow(_) => "functions call each other more than 32 deep".into(),
        E::ErrorIndexNotFound(..) => "there is no such index".into(),
        // What follows the colon may be the text at fault.
        E::ErrorArithmetic(text, _) => text.split([':', '\'', '"']).next().unwrap_or("arithmetic").trim().to_owned(),
        E::ErrorDataTooLarge(what, _) => format!("{what} is larger than its limit"),
        E::ErrorMismatchOutputType(want, got, _) => format!("expected {want}, got {got}"),
        E::ErrorFunctionNotFound(signature, _) => format!("there is no function {signature}"),
        E::ErrorVariableNotFound(name, _) => format!("there is no variable {name}"),
        E::ErrorPropertyNotFound(name, _) => format!("there is no property {name}"),
        E::ErrorDotExpr(text, _) => text.clone(),
        E::ErrorMismatchDataType(want, got, _) => format!("expected {want}, got {got}"),
        E::ErrorIndexingType(kind, _) => format!("{kind} cannot be indexed that way"),
        E::ErrorArrayBounds(len, at, _) => format!("there is no element {at} in an array of {len}"),
        E::ErrorStringBounds(len, at, _) => format!("there is no character {at} in a string of {len}"),
        E::ErrorAssignmentToConstant(name, _) => format!("{name} is a constant"),
        E::ErrorFor(_) => "for needs something to iterate over".into(),
        E::ErrorTooManyVariables(_) => "too many variables".into(),
        E::ErrorTooManyModules(_) => "too many modules".into(),
        E::ErrorModuleNotFound(path, _) => format!("there is no module {path}"),
        E::ErrorParsing(kind, _) => kind.to_string(),
        E::ErrorUnboundThis(_) => "`this` is not bound here".into(),
        E::ErrorNonPureMethodCallOnConstant(name, _) => format!("{name} would change a constant"),
        _ => "the script failed".into(),
    }
}

/// Where a hook stands, for faults of what it returned.
pub fn returned(program: &Compiled, phase: Phase, what: &str) -> StageFault {
    let position = program.position(phase).unwrap_or(Position::NONE);
    StageFault::new(format!("{}:{} (fn {}): {what}", program.file, place(position), phase.name()))
}
