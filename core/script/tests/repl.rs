//! Lines on a request, as `portcullis repl` takes them.

use super::*;
use crate::script::repl::{Repl, Told};

fn repl() -> Repl {
    let mut repl = Repl::new(&Sources::default(), serde_json::Map::new(), cx(), doc());
    repl.targets(targets());
    repl
}

fn value(repl: &mut Repl, line: &str) -> String {
    match repl.line(line) {
        Told::Value(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn lines_see_the_request_and_keep_what_they_made() {
    let mut repl = repl();
    assert_eq!(value(&mut repl, "request.model"), "\"smart\"");
    assert_eq!(repl.line("let n = request.messages.len();"), Told::Nothing);
    assert_eq!(value(&mut repl, "n * 2"), "8");
    assert_eq!(repl.line("fn twice(x) { x + x }"), Told::Nothing);
    assert_eq!(value(&mut repl, "twice(n)"), "8");
    assert_eq!(repl.line("request.temperature = 0.5"), Told::Nothing);
    assert_eq!(value(&mut repl, "request.temperature"), "0.5");
    assert_eq!(value(&mut repl, "targets.cheapest()"), "[c/ill, d/spent, a/slow, b/fast]");
    assert_eq!(value(&mut repl, "context.team"), "\"research\"");
    assert_eq!(value(&mut repl, "#{ a: [1, ()] }"), "{\"a\":[1,null]}");
    for verdict in ["reject(403, \"no\")", "respond(\"hi\")", "next(\"short\")", "skip()", "stop(\"x\")"] {
        assert_eq!(value(&mut repl, verdict), verdict);
    }
    assert_eq!(value(&mut repl, "context.kv.set(\"a\", 1); context.kv.incr(\"a\")"), "2");
    assert_eq!(value(&mut repl, "ask(\"a/m\", \"hello\")"), "\"\"");
    assert_eq!(repl.notes(), ["a/m was not asked: nobody answers here"]);
    assert_eq!(repl.notes(), [""; 0]);
}

#[test]
fn a_line_that_is_not_complete_goes_on_in_the_next() {
    let mut repl = repl();
    assert_eq!(repl.line("if request.stream {"), Told::More);
    assert_eq!(repl.line("  1"), Told::More);
    assert_eq!(value(&mut repl, "} else { 2 }"), "2");
    // An empty line gives up.
    assert_eq!(repl.line("if request.stream {"), Told::More);
    assert!(matches!(repl.line(""), Told::Error(_)));
    assert_eq!(value(&mut repl, "1 + 1"), "2");
    assert_eq!(repl.line(""), Told::Nothing);
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let mut repl = repl();
    for (line, why) in [
        ("requset.model", "requset"),
        ("request.seed = 1.5", "request.seed"),
        ("let x = ;", "Unexpected"),
        ("loop { }", "operations"),
        ("sleep(1)", "sleep is not available"),
    ] {
        match repl.line(line) {
            Told::Error(text) => assert!(text.contains(why), "{line}: {text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    assert_eq!(value(&mut repl, "request.model"), "\"smart\"");
}
