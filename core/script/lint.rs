//! Checks on a script as it was written, before it runs: verdicts in phases that do not know them, verdicts that are
//! made and not returned, imports, `sleep`, hooks under a name that no phase has.

use std::{collections::HashSet, ptr};

use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Scope, Stmt, StmtBlock};

use super::{compile::Book, engine::Host, verdict};
use crate::{
    config::{Problem, hint},
    pipeline::{Phase, phase::TABLE},
};

/// Everything that is wrong in the function bodies.
pub fn check(ast: &AST, book: &Book<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let own: HashSet<&str> = ast.iter_fn_def().map(|f| f.name.as_str()).collect();
    let names: Vec<String> = ast.iter_fn_def().map(|f| f.name.to_string()).collect();
    for name in names.into_iter().collect::<HashSet<_>>() {
        let body = only(ast, &name);
        let phase = TABLE.iter().find(|row| row.name == name).map(|row| row.phase);
        one(&body, phase, &own, book, &mut problems);
    }
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        if let Some((call, position)) = call(path)
            && call.name == "sleep"
            && call.namespace.is_empty()
            && !own.contains("sleep")
        {
            problems.push(
                book.problem(
                    position,
                    "sleep is not available: a script that waits would hold up other requests".into(),
                ),
            );
        }
        true
    });
    problems
}

/// A function that was meant for a hook, and a file without one: nothing would ever run. `imported`: others take their functions
/// from it.
pub fn unheard(ast: &AST, imported: bool, book: &Book<'_>, problems: &mut Vec<Problem>) {
    // Who takes a script out of use removes it or comments it out; a full disk and a save that broke off leave nothing.
    if !imported && book.source.trim().is_empty() {
        let text = "is empty, as a save that broke off leaves it: remove the file, or leave a comment in it";
        problems.push(book.problem(Position::NONE, text.to_owned()));
    }
    let mut called: HashSet<String> = HashSet::new();
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        if let Some((call, _)) = call(path).or_else(|| method(path)) {
            called.insert(call.name.to_string());
        }
        match path.last() {
            // `Fn("name")`, and a function's own name handed on.
            Some(ASTNode::Expr(Expr::StringConstant(text, _))) => drop(called.insert(text.to_string())),
            Some(ASTNode::Expr(Expr::Variable(variable, ..))) => drop(called.insert(variable.1.to_string())),
            _ => {}
        }
        true
    });
    let named = || ast.iter_fn_def().filter(|f| !f.name.starts_with("anon$"));
    let is_hook = |name: &str| TABLE.iter().any(|row| row.name == name);
    let hooks = TABLE.iter().map(|row| row.name);
    for function in named().filter(|f| !is_hook(&f.name) && !called.contains(f.name.as_str())) {
        let name = function.name.as_str();
        let bare = name.strip_prefix("on_").unwrap_or(name);
        let meant = if is_hook(bare) { format!("; did you mean `{bare}`?") } else { hint(bare, hooks.clone()) };
        if !meant.is_empty() {
            let text = format!("fn {name} is no hook, and nobody calls it{meant}");
            problems.push(book.problem(function.body.start_position(), text));
        }
    }
    let first = named().next().filter(|_| !imported && problems.is_empty() && !named().any(|f| is_hook(&f.name)));
    if let Some(function) = first {
        let hooks: Vec<String> = hooks.map(|name| format!("`fn {name}`")).collect();
        let text = format!(
            "no function here is a hook, so nothing would ever run: the hooks are {}. Files whose functions others import belong into a folder below",
            hooks.join(", ")
        );
        problems.push(book.problem(function.body.start_position(), text));
    }
}

/// The functions of one name.
fn only(ast: &AST, name: &str) -> AST {
    let mut body = ast.clone();
    body.clear_statements();
    body.retain_functions(|_, _, function, _| function == name);
    body
}

fn one(body: &AST, phase: Option<Phase>, own: &HashSet<&str>, book: &Book<'_>, problems: &mut Vec<Problem>) {
    let mut top: Vec<*const Stmt> = Vec::new();
    body.walk(&mut |path: &[ASTNode<'_>]| {
        if let [ASTNode::Stmt(stmt)] = path {
            top.push(*stmt);
        }
        true
    });
    let last = top.last().copied();
    body.walk(&mut |path: &[ASTNode<'_>]| {
        let Some((call, position)) = call(path) else { return true };
        let name = call.name.as_str();
        if !verdict::NAMES.contains(&name) || !call.namespace.is_empty() || own.contains(name) {
            return true;
        }
        if let Some(phase) = phase
            && !verdict::legal(name, phase)
        {
            problems.push(book.problem(position, illegal(name, phase)));
        } else if discarded(path, last) {
            let text = format!("this {name}(…) has no effect: write `return {name}(…);`");
            problems.push(book.problem(position, text));
        }
        true
    });
}

pub fn illegal(name: &str, phase: Phase) -> String {
    let known = phase.row().verdicts;
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("{name}(…) is no verdict of fn {}; it knows: {known}", phase.name())
}

fn call<'a>(path: &[ASTNode<'a>]) -> Option<(&'a FnCallExpr, Position)> {
    match path.last()? {
        ASTNode::Stmt(Stmt::FnCall(call, position)) => Some((&**call, *position)),
        ASTNode::Expr(Expr::FnCall(call, position)) => Some((&**call, *position)),
        _ => None,
    }
}

/// Is the value of the last node thrown away? Climbs from statement to statement while it is the last of its block.
fn discarded(path: &[ASTNode<'_>], last: Option<*const Stmt>) -> bool {
    let mut at = path.len() - 1;
    loop {
        let parent = at.checked_sub(1).map(|p| &path[p]);
        match (&path[at], parent) {
            (ASTNode::Stmt(stmt), None) => return last.is_none_or(|l| !ptr::eq(l, *stmt)),
            (ASTNode::Stmt(stmt), Some(ASTNode::Stmt(Stmt::If(flow, _) | Stmt::TryCatch(flow, _)))) => {
                if !ends(&flow.body, stmt) && !ends(&flow.branch, stmt) {
                    return true;
                }
            }
            (ASTNode::Stmt(stmt), Some(ASTNode::Stmt(Stmt::Block(block)))) => {
                if !ends(block, stmt) {
                    return true;
                }
            }
            (ASTNode::Stmt(stmt), Some(ASTNode::Expr(Expr::Stmt(block)))) => {
                if !ends(block, stmt) {
                    return true;
                }
            }
            // A loop's body gives no value.
            (ASTNode::Stmt(_), Some(ASTNode::Stmt(_))) => return true,
            (ASTNode::Stmt(_), Some(ASTNode::Expr(_))) => return false,
            // An expression that is a statement of its own, or a case of a switch.
            (ASTNode::Expr(_), Some(ASTNode::Stmt(Stmt::Expr(_)))) => {}
            (ASTNode::Expr(expr), Some(ASTNode::Stmt(Stmt::Switch(switch, _)))) => {
                if !switch.1.expressions.iter().any(|case| ptr::eq(&case.rhs, *expr)) {
                    return false;
                }
            }
            _ => return false,
        }
        let Some(up) = at.checked_sub(1) else { return true };
        at = up;
    }
}

fn ends(block: &StmtBlock, stmt: &Stmt) -> bool {
    block.statements().last().is_some_and(|last| ptr::eq(last, stmt))
}

/// Reads every module now, so that nothing is read while requests run. True: there are imports at the top.
pub fn imports(host: &Host, ast: &AST, book: &Book<'_>, problems: &mut Vec<Problem>) -> bool {
    let mut top = false;
    let mut found = Vec::new();
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, position))) = path.last() {
            found.push((import.0.clone(), *position));
        }
        true
    });
    top |= ast.statements().iter().any(|s| matches!(s, Stmt::Import(..)));
    for (path, position) in found {
        let Expr::StringConstant(path, _) = path else {
            problems.push(book.problem(position, "import needs its path as a plain string".into()));
            continue;
        };
        let probe = format!("import {:?} as probe;", path.as_str());
        for engine in [&host.engine, &host.loose] {
            if let Err(error) = engine.run_with_scope(&mut Scope::new(), &probe) {
                let mut problem = book.runtime(&error);
                problem.line = position.line().unwrap_or(1) as u32;
                problem.excerpt = book.problem(position, String::new()).excerpt;
                problems.push(problem);
                break;
            }
        }
    }
    top
}

/// Does a hook mention one of its parameters? When not, the host need not make it.
pub fn reads_parameter(ast: &AST, phase: Phase, index: usize) -> bool {
    let Some(function) = ast.iter_fn_def().find(|f| f.name == phase.name() && f.params.len() > index) else {
        return false;
    };
    let name = function.params[index].clone();
    let body = only(ast, phase.name());
    let mut reads = false;
    body.walk(&mut |path: &[ASTNode<'_>]| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Variable(variable, _, _))) if variable.1 == name => reads = true,
            // A closure may have taken it in.
            Some(ASTNode::Stmt(Stmt::Share(_))) => reads = true,
            _ => {}
        }
        !reads
    });
    reads
}

/// May any of it look at a property of this name? A module that it imports may.
pub fn may_read(ast: &AST, property: &str) -> bool {
    !ast.walk(&mut |path: &[ASTNode<'_>]| match path.last() {
        Some(ASTNode::Expr(Expr::Property(name, _))) => name.2 != property,
        Some(ASTNode::Stmt(Stmt::Import(..))) => false,
        _ => true,
    })
}

/// The line of the first call of one of these functions of the host.
pub fn calls(ast: &AST, names: &[&str]) -> Option<u32> {
    let own: HashSet<&str> = ast.iter_fn_def().map(|f| f.name.as_str()).collect();
    let mut found = None;
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        if let Some((call, position)) = call(path).or_else(|| method(path))
            && names.contains(&call.name.as_str())
            && call.namespace.is_empty()
            && !own.contains(call.name.as_str())
        {
            found.get_or_insert(position.line().unwrap_or(1) as u32);
        }
        found.is_none()
    });
    found
}

fn method<'a>(path: &[ASTNode<'a>]) -> Option<(&'a FnCallExpr, Position)> {
    match path.last()? {
        ASTNode::Expr(Expr::MethodCall(call, position)) => Some((&**call, *position)),
        _ => None,
    }
}

/// Does a function still mention this name?
pub fn names(ast: &AST, name: &str) -> bool {
    let mut functions = ast.clone();
    functions.clear_statements();
    !functions.walk(&mut |path: &[ASTNode<'_>]| {
        !matches!(path.last(), Some(ASTNode::Expr(Expr::Variable(variable, _, _))) if variable.1 == name)
    })
}

/// Where a top-level constant stands.
pub fn constant(ast: &AST, name: &str) -> Position {
    let found = ast.statements().iter().find_map(|s| match s {
        Stmt::Var(var, _, position) if var.0.name.as_str() == name => Some(*position),
        _ => None,
    });
    found.unwrap_or(Position::NONE)
}
