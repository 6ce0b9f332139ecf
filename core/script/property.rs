//! Checks on what a script reads and sets of the objects that its hooks are called with: a property that there is not, or
//! that cannot be set, is told when the script is read and not by the first request that meets it. Knows a parameter and
//! the closures that take it in; what a script makes itself or hands on may be anything and is left alone.

use rhai::{AST, ASTNode, Expr, FnCallExpr, FnPtr, ImmutableString, Position, Stmt};

use super::{
    compile::Book,
    reference::{Object, objects},
};
use crate::{
    config::{Problem, hint},
    pipeline::phase::TABLE,
};

/// Names that stand for one of the gateway's objects.
type Known = Vec<(ImmutableString, &'static Object)>;

pub fn check(ast: &AST, book: &Book<'_>, problems: &mut Vec<Problem>) {
    for function in ast.iter_fn_def() {
        let Some(row) = TABLE.iter().find(|row| row.name == function.name.as_str()) else { continue };
        if row.parameters.len() != function.params.len() {
            continue;
        }
        let known: Known = function.params.iter().zip(row.parameters).filter_map(known).collect();
        body(ast, &function.name, known, CLOSURES, &mut |position, message| {
            problems.push(book.problem(position, message));
        });
    }
}

/// `request` is a `Request`, whatever the script calls it; `targets` is an array.
fn known((name, parameter): (&ImmutableString, &&str)) -> Option<(ImmutableString, &'static Object)> {
    let object = objects().iter().find(|object| object.name.to_lowercase() == **parameter && object.is_kind())?;
    Some((name.clone(), object))
}

/// One function, and the closures in it that take in what is known, `depth` deep.
fn body(ast: &AST, name: &str, mut known: Known, depth: u32, tell: &mut dyn FnMut(Position, String)) {
    let mut one = ast.clone();
    one.clear_statements();
    one.retain_functions(|_, _, function, _| function == name);
    // A name that is given to something else may be anything.
    one.walk(&mut |path: &[ASTNode<'_>]| {
        if let Some(ASTNode::Stmt(stmt)) = path.last() {
            known.retain(|(name, _)| !renames(stmt, name));
        }
        true
    });
    if known.is_empty() {
        return;
    }
    let mut closures = Vec::new();
    one.walk(&mut |path: &[ASTNode<'_>]| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Dot(pair, ..))) => {
                if let Expr::Variable(variable, _, _) = &pair.lhs
                    && let Some((name, object)) = known.iter().find(|(name, _)| *name == variable.1)
                    && let Some((property, position)) = first(&pair.rhs)
                    && let Err(why) = allowed(object, property, set(path))
                {
                    tell(position, format!("{name}.{property}: {why}"));
                }
            }
            Some(ASTNode::Expr(Expr::FnCall(call, _))) => closures.extend(taken(call, &known)),
            _ => {}
        }
        true
    });
    if depth > 0 {
        for (closure, known) in closures {
            body(ast, &closure, known, depth - 1, tell);
        }
    }
}

fn renames(stmt: &Stmt, name: &str) -> bool {
    match stmt {
        Stmt::Var(var, ..) => var.0.name == name,
        Stmt::For(run, _) => run.0.name == name || run.1.as_ref().is_some_and(|counter| counter.name == name),
        Stmt::TryCatch(flow, _) => matches!(&flow.expr, Expr::Variable(variable, ..) if variable.1 == name),
        Stmt::Import(import, _) => import.1.name == name,
        Stmt::Assignment(pair) => matches!(&pair.1.lhs, Expr::Variable(variable, ..) if variable.1 == name),
        _ => false,
    }
}

/// The property right behind the variable's dot; `None` for a method.
fn first(rhs: &Expr) -> Option<(&str, Position)> {
    match rhs {
        Expr::Property(property, position) => Some((&property.2, *position)),
        // request.headers["x"], request.metadata.x
        Expr::Dot(pair, ..) | Expr::Index(pair, ..) => first(&pair.lhs),
        _ => None,
    }
}

/// Is the property itself given a value?
fn set(path: &[ASTNode<'_>]) -> bool {
    let [.., ASTNode::Stmt(Stmt::Assignment(pair)), ASTNode::Expr(dot @ Expr::Dot(access, ..))] = path else {
        return false;
    };
    std::ptr::eq(&pair.1.lhs, *dot) && matches!(access.rhs, Expr::Property(..))
}

fn allowed(object: &Object, property: &str, set: bool) -> Result<(), String> {
    match object.settable(property) {
        Some(true) => Ok(()),
        Some(false) if !set => Ok(()),
        Some(false) => Err("this can be read, not set".into()),
        None => Err(format!("there is no such property{}", hint(property, object.properties()))),
    }
}

/// A closure that takes in variables is a call that binds them to its first parameters.
fn taken(call: &FnCallExpr, known: &Known) -> Option<(String, Known)> {
    if call.name != "curry" {
        return None;
    }
    let Some(Expr::DynamicConstant(closure, _)) = call.args.first() else { return None };
    let closure = closure.read_lock::<FnPtr>()?.fn_name().to_owned();
    let takes = |name: &ImmutableString| {
        call.args[1..].iter().any(|arg| matches!(arg, Expr::Variable(variable, ..) if variable.1 == *name))
    };
    let inside: Known = known.iter().filter(|(name, _)| takes(name)).cloned().collect();
    (!inside.is_empty()).then_some((closure, inside))
}

/// Closures in closures, so deep.
const CLOSURES: u32 = 8;
