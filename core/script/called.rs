//! Calls of functions that nobody has: told when a script is read, and not by each request that comes to the line. Knows names, and
//! how many arguments they take; of which type those are shows when it runs.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Engine, Expr, FnCallExpr, Position, Stmt};

use super::{compile::Book, engine::Host};
use crate::config::{Problem, hint};

/// By their names, the numbers of arguments that there are functions for.
pub type Functions = BTreeMap<String, BTreeSet<usize>>;

/// What an engine has.
pub fn of(engine: &Engine) -> Functions {
    let mut all = Functions::new();
    for (name, count) in
        engine.collect_fn_metadata(None, |f| Some((f.metadata.name.to_string(), f.metadata.num_params)), true)
    {
        all.entry(name).or_default().insert(count);
    }
    all
}

pub fn check(host: &Host, ast: &AST, book: &Book<'_>, problems: &mut Vec<Problem>) {
    let mut own = Functions::new();
    for function in ast.iter_fn_def() {
        own.entry(function.name.to_string()).or_default().insert(function.params.len());
    }
    let known = host.functions();
    // A map may hold functions of its own: what is written as a key or in quotes may be the name of one, and any name may be made.
    let (mut named, mut made, mut asks) = (BTreeSet::new(), false, false);
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        asks |= call(path).is_some_and(|(call, ..)| call.name == "is_def_fn");
        match path.last() {
            Some(ASTNode::Stmt(Stmt::Assignment(set))) => made |= is_made(&set.1.lhs),
            Some(ASTNode::Expr(Expr::Map(map, _))) => named.extend(map.0.iter().map(|(key, _)| key.name.to_string())),
            Some(ASTNode::Expr(Expr::Property(property, _))) => drop(named.insert(property.2.to_string())),
            Some(ASTNode::Expr(Expr::StringConstant(text, _))) => drop(named.insert(text.to_string())),
            _ => {}
        }
        true
    });
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        let Some((call, position, method)) = call(path) else { return true };
        let name = call.name.as_str();
        let plain = call.namespace.is_empty() && call.op_token.is_none() && name.starts_with(is_letter);
        if !plain || ENGINES.contains(&name) || name.starts_with("anon$") {
            return true;
        }
        let counts: BTreeSet<usize> =
            [&own, known].into_iter().filter_map(|all| all.get(name)).flatten().copied().collect();
        if counts.is_empty() {
            if !(method && (made || named.contains(name)) || asks && named.contains(name)) {
                let what = if method { "method" } else { "function" };
                let names =
                    own.keys().chain(known.keys()).map(String::as_str).filter(|known| known.starts_with(is_letter));
                problems.push(book.problem(position, format!("there is no {what} {name}{}", hint(name, names))));
            }
        } else if !method && !counts.contains(&call.args.len()) {
            let takes: Vec<String> = counts.iter().map(usize::to_string).collect();
            let given = call.args.len();
            let text = format!("{name}(…) is called with {given} arguments, and takes {}", takes.join(" or "));
            problems.push(book.problem(position, text));
        }
        true
    });
}

/// A call, where it stands, and whether it is one of a method.
fn call<'a>(path: &[ASTNode<'a>]) -> Option<(&'a FnCallExpr, Position, bool)> {
    match path.last()? {
        ASTNode::Stmt(Stmt::FnCall(call, position)) => Some((&**call, *position, false)),
        ASTNode::Expr(Expr::FnCall(call, position)) => Some((&**call, *position, false)),
        ASTNode::Expr(Expr::MethodCall(call, position)) => Some((&**call, *position, true)),
        _ => None,
    }
}

/// Is a field set whose name the script puts together?
fn is_made(place: &Expr) -> bool {
    match place {
        Expr::Index(pair, ..) => !pair.rhs.is_constant() || is_made(&pair.rhs),
        Expr::Dot(pair, ..) => is_made(&pair.rhs),
        _ => false,
    }
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

/// What the engine itself knows, and no module has. `eval` and `sleep` are told of elsewhere.
const ENGINES: [&str; 12] = [
    "Fn",
    "call",
    "curry",
    "debug",
    "eval",
    "is_def_fn",
    "is_def_var",
    "is_shared",
    "print",
    "sleep",
    "this",
    "type_of",
];
