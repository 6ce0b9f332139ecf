//! Which lines of a script's functions ran: for `portcullis test`. A second copy of the program is compiled with a mark
//! before each statement; the copy that runs in production has none.

use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

use rhai::{AST, ASTNode, Engine, Position, Stmt};

use super::{Compiled, Host, compile};

/// The lines of one script that hold statements, and those that ran.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Coverage {
    pub lines: BTreeSet<u32>,
    pub ran: BTreeSet<u32>,
}

impl Coverage {
    /// `None`: there is nothing to run.
    pub fn percent(&self) -> Option<u32> {
        let ran = self.lines.intersection(&self.ran).count();
        (ran * 100).checked_div(self.lines.len()).map(|p| p as u32)
    }

    pub fn missed(&self) -> Vec<u32> {
        self.lines.difference(&self.ran).copied().collect()
    }
}

thread_local! {
    static RAN: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
}

/// Registers the mark with an engine that is used for coverage only.
pub fn register(engine: &mut Engine) {
    engine.register_fn(MARK, |line: i64| {
        RAN.with(|ran| ran.borrow_mut().insert(line as u32));
    });
}

/// The marked copy and its lines. `None` if the script cannot be marked: then there is no figure, not a wrong one.
pub fn marked(host: &Arc<Host>, file: &str, source: &str) -> Option<(Arc<Compiled>, BTreeSet<u32>)> {
    let ast = host.loose.compile(source).ok()?;
    let (text, lines) = mark(&ast, source);
    Some((Arc::new(compile::compile(host, file, &text).ok()?), lines))
}

/// What ran on this thread since the last call.
pub fn take() -> BTreeSet<u32> {
    RAN.with(|ran| std::mem::take(&mut *ran.borrow_mut()))
}

/// The source with a call before each statement that stands in a function.
fn mark(ast: &AST, source: &str) -> (String, BTreeSet<u32>) {
    let bare = blank(source);
    let starts: Vec<usize> = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut marks: BTreeSet<(usize, u32)> = BTreeSet::new();
    let functions = ast.clone_functions_only();
    functions.walk(&mut |path: &[ASTNode<'_>]| {
        if let Some(ASTNode::Stmt(stmt)) = path.last()
            && let position = start(stmt)
            && let (Some(line), Some(column)) = (position.line(), position.position())
            && let Some(from) = starts.get(line - 1)
            && let Some((at, _)) = source[*from..].char_indices().nth(column - 1)
            && begins(&bare, from + at)
        {
            marks.insert((from + at, line as u32));
        }
        true
    });
    let mut out = String::with_capacity(source.len() + marks.len() * 16);
    let mut from = 0;
    for (at, line) in &marks {
        out.push_str(&source[from..*at]);
        out.push_str(&format!("{MARK}({line});"));
        from = *at;
    }
    out.push_str(&source[from..]);
    (out, marks.into_iter().map(|(_, line)| line).collect())
}

fn start(stmt: &Stmt) -> Position {
    match stmt {
        Stmt::Assignment(assignment) => assignment.1.lhs.start_position(),
        Stmt::Expr(expr) => expr.start_position(),
        Stmt::Noop(_) | Stmt::Share(_) => Position::NONE,
        other => other.position(),
    }
}

/// May another statement stand before this place? Only after `{`, `;` or `}`.
fn begins(bare: &[u8], at: usize) -> bool {
    let before = bare[..at].iter().rev().find(|b| !b.is_ascii_whitespace());
    // A map's brace is no block's: `#{`.
    match before {
        Some(b'{') => {
            let brace = bare[..at].iter().rposition(|b| *b == b'{').unwrap_or(0);
            brace == 0 || bare[brace - 1] != b'#'
        }
        Some(b';' | b'}') => true,
        _ => false,
    }
}

/// The source with comments and strings blanked out, byte for byte.
fn blank(source: &str) -> Vec<u8> {
    let mut out = source.as_bytes().to_vec();
    let mut at = 0;
    while at < out.len() {
        let rest = &source.as_bytes()[at..];
        let len = match rest {
            [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => comment(rest),
            [quote @ (b'"' | b'`' | b'\''), ..] => string(rest, *quote),
            _ => {
                at += 1;
                continue;
            }
        };
        out[at..at + len].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        // A string is a value: no statement begins right after it.
        if rest[0] != b'/' {
            out[at] = b'"';
        }
        at += len.max(1);
    }
    out
}

/// Block comments nest.
fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

const MARK: &str = "ran_line_";
