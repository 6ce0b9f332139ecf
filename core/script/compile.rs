//! From a file to a checked program: parsed, its constants computed, its hooks counted, its imports read, its mistakes
//! told with line and column.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use rhai::{AST, ASTNode, Dynamic, Engine, EvalAltResult, Expr, ParseError, Position, Scope, Stmt};

use super::{
    called,
    desk::HostError,
    engine::{Host, place, within},
    lint,
    prepared::Prepared,
    property,
};
use crate::{
    config::{Problem, StageLimits, StreamMode},
    pipeline::{
        Hold, Phase, Reads,
        phase::{Phases, TABLE},
    },
    text::tokens,
};

/// A program that may run.
pub struct Compiled {
    pub host: Arc<Host>,
    /// Set when the script needs an engine of its own.
    own: Option<Engine>,
    pub ast: AST,
    /// As listed: `scripts/route.rhai`.
    pub file: String,
    /// Of the source: hex, 16 characters.
    pub hash: String,
    pub phases: Phases,
    /// `const STREAM`.
    pub stream: Option<StreamMode>,
    /// `const WINDOW`.
    pub window: Option<Hold>,
    /// There are imports at the top: they are made again for each call.
    pub imports: bool,
    /// String constants of the script itself.
    pub literals: HashSet<String>,
    pub reads: Reads,
    /// Where it asks models, if it does.
    pub asks: Option<u32>,
    /// Looks at `event.so_far`: then it is kept.
    pub grows: bool,
    /// It may look at what requests or answers say.
    pub reads_text: bool,
    /// What its calls leave for the next.
    pub prepared: Prepared,
    hooks: Vec<(Phase, Position)>,
}

impl Compiled {
    pub fn engine(&self) -> &Engine {
        self.own.as_ref().unwrap_or(&self.host.engine)
    }

    pub fn hooks(&self) -> impl Iterator<Item = Phase> + '_ {
        self.hooks.iter().map(|(phase, _)| *phase)
    }

    pub fn position(&self, phase: Phase) -> Option<Position> {
        self.hooks.iter().find(|(p, _)| *p == phase).map(|(_, position)| *position)
    }

    pub fn event_line(&self) -> Option<u32> {
        self.line(Phase::Event)
    }

    pub fn response_line(&self) -> Option<u32> {
        self.line(Phase::Response)
    }

    /// Where a hook begins.
    pub fn line(&self, phase: Phase) -> Option<u32> {
        self.position(phase).map(|p| p.line().unwrap_or(1) as u32)
    }
}

pub fn hash(source: &str) -> String {
    let digest = digest::digest(&digest::SHA256, source.as_bytes());
    digest.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

pub fn compile(host: &Arc<Host>, file: &str, source: &str) -> Result<Compiled, Vec<Problem>> {
    let book = Book { file, source };
    // As written: for constants and for checks on what the author meant.
    let loose = host.loose.compile(source).map_err(|e| vec![book.syntax(&e)])?;
    let mut problems = lint::check(&loose, &book);
    property::check(&loose, &book, &mut problems);
    called::check(host, &loose, &book, &mut problems);
    let hooks = hooks(&loose, &book, &mut problems);
    lint::unheard(&loose, host.is_imported(file), &book, &mut problems);
    let imports = lint::imports(host, &loose, &book, &mut problems);
    if !problems.is_empty() {
        return Err(sorted(problems));
    }
    let constants = constants(host, &loose, &book)?;
    let stream = stream(&constants, &loose, &book, &mut problems);
    let window = window(&constants, &loose, &book, &mut problems);
    let mut ast = host.engine.compile_with_scope(&constants, source).map_err(|e| vec![book.syntax(&e)])?;
    if !problems.is_empty() {
        return Err(sorted(problems));
    }
    ast.set_source(file);
    if lint::calls(&loose, &["tokens"]).is_some() {
        tokens::warm();
    }
    let named: BTreeMap<String, Dynamic> = constants
        .iter()
        .map(|(name, _, value)| (name.to_owned(), value))
        .filter(|(name, _)| lint::names(&ast, name))
        .collect();
    let own = (!named.is_empty()).then(|| host.with_constants(named));
    let phases = hooks.iter().fold(Phases::default(), |all, (phase, _)| all.with(*phase));
    let prepared = Prepared::of(&ast, hooks.iter().map(|(phase, _)| *phase).filter(|_| !imports));
    Ok(Compiled {
        host: host.clone(),
        own,
        ast,
        file: file.to_owned(),
        hash: hash(source),
        phases,
        stream,
        window,
        imports,
        literals: literals(&loose),
        reads: Reads {
            headers: lint::may_read(&loose, "headers"),
            targets: lint::reads_parameter(&loose, Phase::Route, 1),
        },
        asks: lint::calls(&loose, &["ask", "embed_similarity"]),
        grows: lint::may_read(&loose, "so_far"),
        // By its words: rather once too often than a request that is said to be decided and is not.
        reads_text: imports || TEXTS.iter().any(|word| source.contains(word)),
        prepared,
        hooks,
    })
}

/// Functions named after phases, with their parameters counted.
fn hooks(ast: &AST, book: &Book<'_>, problems: &mut Vec<Problem>) -> Vec<(Phase, Position)> {
    let mut hooks = Vec::new();
    for function in ast.iter_fn_def() {
        let Some(row) = TABLE.iter().find(|row| row.name == function.name.as_str()) else { continue };
        let position = function.body.start_position();
        if function.params.len() != row.parameters.len() {
            let (name, wanted) = (row.name, row.parameters.join(", "));
            let text = format!("fn {name} takes {} parameters: fn {name}({wanted})", row.parameters.len());
            problems.push(book.problem(position, text));
        } else {
            hooks.push((row.phase, position));
        }
    }
    hooks.sort_by_key(|(phase, _)| *phase as u8);
    hooks
}

/// Runs the top level once, under limits, and keeps its constants: functions see them as if they were written there.
fn constants(host: &Host, ast: &AST, book: &Book<'_>) -> Result<Scope<'static>, Vec<Problem>> {
    let mut scope = Scope::new();
    // No request waits: patterns and word lists may take their time to compile.
    let limits = StageLimits { wall: Duration::from_secs(2), ..StageLimits::default() };
    let (outcome, _) = within(limits, || host.loose.run_ast_with_scope(&mut scope, ast));
    outcome.map_err(|error| vec![book.runtime(&error)])?;
    let mut constants = Scope::new();
    let mut problems = Vec::new();
    for (name, constant, value) in scope.iter() {
        if !constant {
            continue;
        }
        let clash = ast.iter_fn_def().find(|f| {
            let position = f.body.start_position();
            f.params.iter().any(|p| p.as_str() == name) && (!f.name.starts_with("anon$") || book.takes(position, name))
        });
        if let Some(function) = clash {
            let text = format!("the constant {name} and a parameter of this function have the same name: rename one");
            problems.push(book.problem(function.body.start_position(), text));
        }
        constants.push_constant_dynamic(name.to_owned(), value.clone());
    }
    if problems.is_empty() { Ok(constants) } else { Err(problems) }
}

fn stream(constants: &Scope<'_>, ast: &AST, book: &Book<'_>, problems: &mut Vec<Problem>) -> Option<StreamMode> {
    let value = constants.get_value::<Dynamic>("STREAM")?;
    let mode = match value.as_immutable_string_ref().ok().as_deref().map(|s| s.as_str()) {
        Some("event") => StreamMode::Event,
        Some("window") => StreamMode::Window,
        Some("whole") => StreamMode::Whole,
        Some("observe") => StreamMode::Observe,
        _ => {
            let text = "const STREAM must be \"event\", \"window\", \"whole\" or \"observe\"".to_owned();
            problems.push(book.problem(lint::constant(ast, "STREAM"), text));
            return None;
        }
    };
    Some(mode)
}

fn window(constants: &Scope<'_>, ast: &AST, book: &Book<'_>, problems: &mut Vec<Problem>) -> Option<Hold> {
    let value = constants.get_value::<Dynamic>("WINDOW")?;
    if value.as_immutable_string_ref().is_ok_and(|word| word.as_str() == "sentence") {
        return Some(Hold::Sentence);
    }
    match value.as_int().ok().and_then(|n| usize::try_from(n).ok()) {
        Some(n @ 1..=65_536) => Some(Hold::Characters(n)),
        _ => {
            let text = "const WINDOW must be a number of characters from 1 to 65536, or \"sentence\"".to_owned();
            problems.push(book.problem(lint::constant(ast, "WINDOW"), text));
            None
        }
    }
}

fn literals(ast: &AST) -> HashSet<String> {
    let mut out = HashSet::new();
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        let text = match path.last() {
            Some(ASTNode::Expr(Expr::StringConstant(text, _))) => Some(text),
            Some(ASTNode::Stmt(Stmt::Expr(expr))) => match &**expr {
                Expr::StringConstant(text, _) => Some(text),
                _ => None,
            },
            _ => None,
        };
        out.extend(text.map(|t| t.to_string()));
        true
    });
    out
}

fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|p| p.line);
    problems
}

/// A file's name and text: makes problems that show where.
pub struct Book<'a> {
    pub file: &'a str,
    pub source: &'a str,
}

impl Book<'_> {
    pub fn problem(&self, position: Position, message: String) -> Problem {
        let line = position.line().unwrap_or(1);
        let excerpt = self.source.lines().nth(line - 1).map(|text| {
            let column = position.position().unwrap_or(1).max(1);
            format!("{text}\n{}^", " ".repeat(column - 1))
        });
        Problem { file: self.file.to_owned(), line: line as u32, message, excerpt }
    }

    /// Does the closure whose body stands here list this parameter (`|t, u| …`)? What it captures is a parameter too.
    fn takes(&self, body: Position, name: &str) -> bool {
        let (Some(line), Some(column)) = (body.line(), body.position()) else { return false };
        let mut head: String = self.source.split_inclusive('\n').take(line - 1).collect();
        let rest = self.source.lines().nth(line - 1).unwrap_or("");
        head.extend(rest.chars().take(column - 1));
        let Some(list) = head.trim_end().strip_suffix('|') else { return false };
        let list = list.rsplit('|').next().unwrap_or("");
        list.split(',').any(|parameter| parameter.trim() == name)
    }

    fn syntax(&self, error: &ParseError) -> Problem {
        let ParseError(kind, position) = error;
        let text = kind.to_string();
        let help = match &**kind {
            rhai::ParseErrorType::VariableUndefined(_) => " (functions see their parameters and top-level constants)",
            _ => "",
        };
        self.problem(*position, format!("column {}: {text}{help}", position.position().unwrap_or(1)))
    }

    pub fn runtime(&self, error: &EvalAltResult) -> Problem {
        let mut inner = error;
        while let EvalAltResult::ErrorInFunctionCall(_, _, deeper, _) | EvalAltResult::ErrorInModule(_, deeper, _) =
            inner
        {
            inner = deeper;
        }
        let text = match inner {
            EvalAltResult::ErrorRuntime(value, _) => value.read_lock::<HostError>().map(|e| e.0.clone()),
            _ => None,
        };
        let position = error.position();
        let text = text.unwrap_or_else(|| inner.to_string());
        self.problem(position, format!("at load, {}: {text}", place(position)))
    }
}

/// Words of scripts that look at what a request or an answer says.
const TEXTS: [&str; 16] = [
    "messages",
    "last_user_text",
    "system",
    "topic",
    "text_has",
    "has_images",
    ".text",
    "tool_calls",
    "tools",
    "metadata",
    "matches",
    "headers",
    "ask(",
    "embed",
    "fn event",
    "fn response",
];
