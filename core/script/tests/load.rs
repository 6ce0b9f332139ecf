//! What is refused when a script is read.

use super::*;
use crate::suite;

#[test]
fn a_hook_with_another_number_of_parameters_is_told_with_its_line() {
    let text = problem("// one\nfn request(request) { }");
    assert_eq!(text, "2: fn request takes 2 parameters: fn request(request, context)");
    assert!(problem("fn log(a, b, c) {}").contains("fn log takes 2 parameters"));
}

#[test]
fn functions_of_other_names_are_free_beside_a_hook() {
    assert_eq!(problem("fn log(record, context) { helper() }  fn helper() { 1 }  fn unused() { 2 }"), "");
    // Called by somebody, whatever it is called; as a value, too.
    assert_eq!(
        problem(
            "fn log(record, context) { requests(1); [1].map(Fn(\"roulte\")) }  fn requests(a) { a }  fn roulte(a) { a }"
        ),
        ""
    );
}

#[test]
fn a_hook_under_a_name_that_no_phase_has_is_told() {
    assert_eq!(
        problem("fn on_request(request) { }"),
        "1: fn on_request is no hook, and nobody calls it; did you mean `request`?"
    );
    let text = problem("fn request(request, context) { }\nfn respones(response, context) { }");
    assert_eq!(text, "2: fn respones is no hook, and nobody calls it; did you mean `response`?");
}

#[test]
fn a_file_whose_functions_nobody_would_ever_call_is_refused() {
    let text = problem("fn choose(a) { a }");
    assert!(text.starts_with("1: no function here is a hook, so nothing would ever run"), "{text}");
    // Nothing at all is nothing wrong: a script that is out of use for a while.
    assert_eq!(problem("// fn request(request, context) { }"), "");
}

#[test]
fn a_script_that_lost_its_text_is_no_script() {
    for text in ["", " \n"] {
        assert!(problem(text).starts_with("1: is empty, as a save that broke off"), "{}", problem(text));
    }
}

#[test]
fn a_syntax_error_has_line_column_and_a_caret() {
    let found = problems("fn request(request, context) {\n    let x = ;\n}");
    assert_eq!((found[0].file.as_str(), found[0].line), ("scripts/a.rhai", 2));
    assert!(found[0].message.starts_with("column 13:"), "{}", found[0].message);
    assert_eq!(found[0].excerpt.as_deref(), Some("    let x = ;\n            ^"));
}

#[test]
fn an_unknown_variable_is_found_at_load() {
    assert!(problem("fn request(request, context) { requset.model }").contains("requset"));
}

#[test]
fn verdicts_illegal_in_their_phase_are_found_at_load() {
    assert_eq!(
        problem("fn request(request, context) {\n  if request.stream { return next(\"x\"); }\n}"),
        "2: next(…) is no verdict of fn request; it knows: respond, reject"
    );
    assert!(problem("fn log(record, context) { return reject(403, \"x\"); }").contains("it knows: none"));
    assert!(
        problem("fn route(request, targets, context) { return skip(); }").contains("skip(…) is no verdict of fn route")
    );
    assert_eq!(problem("fn attempt(target, request, context) { return skip(); }"), "");
}

#[test]
fn a_script_may_have_a_function_of_a_verdicts_name() {
    assert_eq!(problem("fn next(x) { x + 1 }  fn request(request, context) { let a = next(1); }"), "");
}

#[test]
fn a_verdict_that_is_not_returned_is_found_at_load() {
    let lost = |body: &str| problem(&format!("fn request(request, context) {{ {body} }}"));
    let told = "1: this reject(…) has no effect: write `return reject(…);`";
    assert_eq!(lost("reject(403, \"a\"); request.stream;"), told);
    assert_eq!(lost("if request.stream { reject(403, \"a\"); } let x = 1;"), told);
    assert_eq!(lost("for i in 0..3 { reject(403, \"a\"); }"), told);
    assert_eq!(lost("if request.stream { if true { reject(403, \"a\") } } else { } let x = 1;"), told);
    assert_eq!(lost("switch request.model { \"a\" => reject(403, \"a\"), _ => () } let x = 1;"), told);
    // These are returned, or used.
    assert_eq!(lost("reject(403, \"a\")"), "");
    assert_eq!(lost("if request.stream { reject(403, \"a\") } else { }"), "");
    assert_eq!(lost("let v = reject(403, \"a\"); return v;"), "");
    assert_eq!(lost("let v = if request.stream { reject(403, \"a\") } else { () }; v"), "");
    assert_eq!(lost("return if request.stream { reject(403, \"a\") };"), "");
    assert_eq!(lost("switch request.model { \"a\" => reject(403, \"a\"), _ => () }"), "");
}

#[test]
fn fn_response_needs_a_word_on_streams() {
    assert!(problem("fn response(response, context) {}").starts_with("1: fn response needs a word on streams"));
    assert_eq!(problem("const STREAM = \"whole\"; fn response(response, context) {}"), "");
    assert!(problem("const STREAM = \"event\"; fn response(response, context) {}").contains("there is no fn event"));
    assert!(problem("const STREAM = \"whole\"; fn event(event, context) {}").contains("there is no fn response"));
    assert!(
        problem("\nconst STREAM = \"sometimes\"; fn event(event, context) {}").starts_with("2: const STREAM must be")
    );
}

#[test]
fn the_configuration_may_choose_the_stream_mode() {
    let mut config = config(&[("a.rhai", "fn response(response, context) {}")]);
    config.stages = Some(vec![Stage { stream: Some(StreamMode::Observe), ..stage("a.rhai") }]);
    let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
    assert_eq!(built.pipeline.select(&cx().principal, "m").stream_need(), StreamNeed::Observe);
}

#[test]
fn sleep_eval_and_clocks_are_closed() {
    assert!(problem("fn request(request, context) { sleep(1); }").contains("sleep is not available"));
    assert!(problem("fn request(request, context) { eval(\"1\"); }").contains("eval"));
    assert!(
        problem("fn request(request, context) { let t = timestamp(); }").contains("there is no function timestamp")
    );
}

#[test]
fn a_function_that_nobody_has_is_told_when_the_script_is_read() {
    let body = |body: &str| format!("fn two(a, b) {{ a + b }}\nfn request(request, context) {{ {body} }}");
    for (slip, told) in [
        ("nofn(1);", "2: there is no function nofn"),
        ("rejekt(400, \"no\");", "did you mean `reject`?"),
        ("if request.stream { [1].map(|x| nofn(x)); }", "there is no function nofn"),
        ("request.topik(TOPICS);", "there is no method topik; did you mean `topic`?"),
        ("request.model.to_lowr();", "there is no method to_lowr"),
        ("let x = two(1);", "two(…) is called with 1 arguments, and takes 2"),
        ("return reject();", "reject(…) is called with 0 arguments"),
        ("two(1, two(2));", "two(…) is called with 1"),
    ] {
        let found = problem(&body(slip));
        assert!(found.contains(told), "{slip}: {found}");
    }
    for fine in [
        "let add = |a, b| a + b; let x = add.call(1, 2); let y = call(add, 1, 2);",
        "let f = Fn(\"two\"); f.call(1, 2); let g = f.curry(1); g.call(2);",
        "let tools = #{ inc: |x| x + 1 }; tools.inc(1); tools.inc.call(1);",
        "let x = [3, 1].filter(|n| n > 1).map(|n| two(n, n)).reduce(|sum, n| sum + n, 0); x.abs();",
        "let m = #{}; let k = \"wa\" + \"lk\"; m[k] = |x| x * 2; m.walk(4);",
        "if is_def_fn(\"zzz\", 1) { zzz(1); }",
        "print(type_of(1)); debug(is_def_var(\"x\")); let l = \"a\".len() + max(1, 2); 7.two(1);",
        "for i in range(0, 3) { } let t = \"${request.model}\".to_upper(); if \"a\" in t || !(-l(1) < 0) { }",
        "let m = parse_json(\"{}\"); m.keys(); m.contains(\"a\"); global::two(1, 2);",
    ] {
        let found = problem(&(body(fine) + "\nfn l(x) { x }"));
        assert!(found.is_empty(), "{fine}: {found}");
    }
}

#[test]
fn imports_stay_inside_scripts() {
    let import = |path: &str| problem(&format!("import \"{path}\" as m; fn request(request, context) {{ }}"));
    for path in ["../secret", "/etc/passwd", "lib/../../x", "a\\\\b", "", "lib//x", "x.rhai", "http://x/y"] {
        assert!(import(path).contains("a module path is made of"), "{path}: {}", import(path));
    }
    assert!(import("lib/none").contains("there is no scripts/lib/none.rhai"));
    assert!(problem("fn request(request, context) { import request.model as m; }").contains("plain string"));
}

#[test]
fn imported_functions_are_seen_by_hooks() {
    let scripts = [
        (
            "a.rhai",
            "import \"lib/limits\" as limits;\nfn request(request, context) { request.temperature = limits::cool(); }",
        ),
        ("lib/limits.rhai", "fn cool() { 0.25 }"),
    ];
    let mut cx = cx();
    let mut doc = doc();
    let flow = now(chain_of(&scripts, &cx).request(&mut cx, &mut doc));
    assert!(flow.is_ok(), "{flow:?} {}", fault(&cx));
    assert_eq!(doc.request().unwrap().sampling.temperature, Some(0.25));
    // One inside a function is read at load as well.
    let inner = "fn request(request, context) { import \"lib/limits\" as l; request.temperature = l::cool(); }";
    let mut config = config(&[("a.rhai", inner), ("lib/limits.rhai", "fn cool( { }")]);
    let found = build(&config, &Scripts::dry()).err().unwrap_or_default();
    assert!(found[0].message.contains("scripts/lib/limits.rhai:1:"), "{}", found[0].message);
    config.sources.scripts.insert("scripts/lib/limits.rhai".into(), "import \"lib/limits\" as me; fn cool() {}".into());
    let found = build(&config, &Scripts::dry()).err().unwrap_or_default();
    assert!(found[0].message.contains("imports itself"), "{}", found[0].message);
}

#[test]
fn constants_are_seen_inside_functions() {
    let script = "const MAX = 3 + 4; const LIST = [\"a\", \"b\"]; const MAP = #{ k: 5 };
        fn request(request, context) { context.note(`${MAX} ${LIST.len()} ${MAP.k} ${helper()}`); }
        fn helper() { LIST[1] }";
    let (result, _, cx) = ask(script);
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(notes(&cx), ["7 2 5 b"]);
}

#[test]
fn constants_are_seen_inside_closures() {
    let script =
        "const GOOD = [\"b/fast\"]; fn route(request, targets, context) { targets.filter(|t| GOOD.contains(t.name)) }";
    let (mut chain, mut cx) = chain(script);
    let chosen = now(chain.route(&mut cx, &mut doc(), &targets()));
    assert_eq!(chosen.unwrap_or_else(|e| panic!("{e} {}", fault(&cx))), Some(vec!["b/fast".to_owned()]));
}

#[test]
fn a_constant_named_like_a_parameter_is_refused() {
    let found = problem("const x = 1;\nfn f(x) { x } fn log(record, context) { f(1) }");
    assert!(found.starts_with("2: the constant x and a parameter"), "{found}");
    let found = problem("const t = 1; fn route(request, targets, context) {\n targets.filter(|t| t.healthy) }");
    assert!(found.starts_with("2: the constant t and a parameter"), "{found}");
}

#[test]
fn a_constant_that_cannot_be_computed_is_told_with_its_line() {
    assert!(problem("\nconst X = 1 / 0;").starts_with("2: "));
    assert!(problem("const X = words([1]);").contains("a word list holds strings"));
    assert!(problem("const X = loop { };").contains("at load"));
}

#[test]
fn a_listed_stage_that_is_missing_or_not_built_is_told_with_its_line() {
    let told = |uses: &str| {
        let mut config = config(&[("a.rhai", "")]);
        config.stages = Some(vec![Stage { uses: uses.into(), line: 7, ..stage("a.rhai") }]);
        let found = build(&config, &Scripts::dry()).err().unwrap_or_default();
        format!("{}: {}", found[0].line, found[0].message)
    };
    assert!(told("scripts/b.rhai").starts_with("7: there is no script scripts/b.rhai"));
    assert!(told("plugins/x.wasm").contains("there is no plugin plugins/x.wasm"));
    let unknown = told("builtin/pii");
    assert!(
        unknown.starts_with("7: there is no built-in stage builtin/pii") && unknown.contains("there are: "),
        "{unknown}"
    );
}

#[test]
fn a_list_names_what_it_leaves_outside() {
    let mut config = config(&[("a.rhai", "fn log(record, context) {}"), ("b.rhai", ""), ("lib/c.rhai", "")]);
    config.stages = Some(vec![stage("a.rhai")]);
    let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
    assert_eq!(built.outside, ["scripts/b.rhai"]);
    assert_eq!(built.listed[0].uses, "scripts/a.rhai");
    assert_eq!(built.listed[0].phases, ["log"]);
    assert_eq!(built.listed[0].hash.len(), 16);
}

#[test]
fn all_scripts_are_checked_in_one_run() {
    let found = build(&config(&[("a.rhai", "fn request(r) {}"), ("b.rhai", "fn log( {}")]), &Scripts::dry()).err();
    let files: Vec<String> = found.unwrap_or_default().into_iter().map(|p| p.file).collect();
    assert_eq!(files, ["scripts/a.rhai", "scripts/b.rhai"]);
}

#[test]
fn the_scripts_readme_and_the_editors_definitions_are_what_the_code_registers() {
    for (name, wanted) in [
        ("README.md", format!("{}{}", reference(), crate::suite::reference::reference())),
        ("definitions/portcullis.d.rhai", reference::definitions()),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
        if crate::config::env::var("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "scripts/{name} is out of date: run UPDATE_DOCS=1 cargo test --lib script::");
    }
}

/// The cases beside one script, with coverage.
fn report(config: &Config, uses: &str) -> suite::Report {
    let subjects: Vec<_> = suite::Subject::beside(config).into_iter().filter(|s| s.uses == uses).collect();
    let options = suite::Options { coverage: true, ..suite::Options::default() };
    suite::run(config, &subjects, &options).remove(0).unwrap()
}

#[test]
fn the_shipped_router_passes_its_own_tests_on_every_line() {
    let mut problems = Vec::new();
    let mut config = config(&[]);
    config.sources = Sources::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), &mut problems);
    let report = report(&config, "scripts/route.rhai");
    let failed: Vec<_> = report.outcomes.iter().filter(|o| !o.failures.is_empty()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(report.coverage.as_ref().and_then(|c| c.percent()), Some(100), "{:?}", report.coverage);
}

#[test]
fn a_failing_case_names_what_came_instead_and_coverage_tells_missed_lines() {
    let script = "fn route(request, targets, context) {
    if request.text_has([\"essay\"]) { // yes {
        return [\"x/essay\"];
    } else if request.stream {
        return \"x/stream\";
    }
    \"x/other\"
}";
    let cases = "[[case]]\nname = \"one\"\nrequest = { messages = [{ role = \"user\", content = \"an essay\" }] }\nexpect = { target = \"y/z\" }\n";
    let mut config = config(&[("a.rhai", script)]);
    config.sources.scripts.insert("scripts/a.test.toml".into(), cases.into());
    let report = report(&config, "scripts/a.rhai");
    assert_eq!(report.outcomes[0].failures, ["expected target \"y/z\", got \"x/essay\""]);
    let coverage = report.coverage.unwrap();
    assert_eq!(coverage.missed(), [5, 7], "{coverage:?}");
    assert_eq!(coverage.percent(), Some(50));
    let gate = suite::gate(&config, &Plugins::dry());
    assert_eq!((gate[0].file.as_str(), gate[0].line), ("scripts/a.test.toml", 1));
    assert!(gate[0].message.contains("the case \"one\" fails"));
}

#[test]
fn mistakes_in_a_file_of_cases_are_told_with_their_lines() {
    let told = |text: &str| {
        let found = suite::cases("t", text, &config(&[])).err().unwrap_or_default();
        found.first().map(|p| format!("{}: {}", p.line, p.message)).unwrap_or_default()
    };
    assert!(told("").contains("there is no [[case]]"));
    assert!(told("\n\n[[case]]\nname = 3 4").starts_with("4: "));
    assert!(told("[[case]]\nname = \"x\"\nexpect = { taget = \"a\" }").contains("expect has no `taget`"));
    assert!(told("[[case]]\nname = \"x\"").contains("proves nothing"));
    assert!(told("[[case]]\nexpect = { status = 200 }").contains("needs a name"));
}

#[test]
fn a_case_may_bring_live_figures_and_expect_what_the_request_became() {
    let script = "fn request(request, context) { if context.team == \"kids\" { request.temperature = 0.1; } else { return reject(451, \"no\"); } }
        fn route(request, targets, context) { targets.healthy().fastest() }";
    let cases = r#"
[[case]]
name = "fast"
context = { team = "kids" }
targets = [{ name = "a/x", latency_ms = 90 }, { name = "b/y", latency_ms = 20 }, { name = "c/z", healthy = false }]
expect = { target = "b/y", targets = ["b/y", "a/x"], request = { temperature = 0.1 }, status = 200 }

[[case]]
name = "refused"
expect = { status = 451, message = "no" }
"#;
    let mut config = config(&[("a.rhai", script)]);
    config.sources.scripts.insert("scripts/a.test.toml".into(), cases.into());
    assert_eq!(suite::gate(&config, &Plugins::dry()), []);
}

#[test]
fn a_property_that_there_is_not_is_found_at_load_with_the_nearest_name() {
    let request = |body: &str| problem(&format!("fn request(request, context) {{\n  {body}\n}}"));
    assert_eq!(request("request.nope = 1;"), "2: request.nope: there is no such property");
    assert_eq!(
        request("request.temprature = 1;"),
        "2: request.temprature: there is no such property; did you mean `temperature`?"
    );
    assert_eq!(
        request("if context.taem == \"a\" { return; }"),
        "2: context.taem: there is no such property; did you mean `team`?"
    );
    assert_eq!(request("request.stream = true;"), "2: request.stream: this can be read, not set");
    assert!(request("request.max_token += 1;").contains("`max_tokens`"));
    assert!(request("let x = request.mesages[0].text;").contains("`messages`"));
    assert!(request("let x = request.header[\"a\"];").contains("`headers`"));
    assert!(request("let x = `${request.modle}`;").contains("`model`"));
    // Several are told at once, each with its place.
    let both = problems("fn request(request, context) {\n request.a = 1;\n context.b = 2;\n}");
    assert_eq!(both.iter().map(|p| (p.line, p.message.as_str())).collect::<Vec<_>>().len(), 2);
    assert_eq!((both[0].line, both[1].line), (2, 3));
    assert_eq!(both[0].excerpt.as_deref(), Some(" request.a = 1;\n         ^"));
}

#[test]
fn properties_are_checked_in_every_hook_by_place_and_not_by_name() {
    for (hook, told) in [
        ("fn request(r, c) { r.modell }", "r.modell"),
        ("fn route(request, targets, context) { request.modell }", "request.modell"),
        ("fn attempt(target, request, context) { target.helthy }", "target.helthy"),
        ("fn event(event, context) { event.txt }", "event.txt"),
        ("const STREAM = \"whole\"; fn response(response, context) { response.finish }", "response.finish"),
        ("fn error(error, context) { error.statsu = 500 }", "error.statsu"),
        ("fn log(record, context) { record.costs }", "record.costs"),
    ] {
        assert!(problem(hook).contains(told), "{hook}: {}", problem(hook));
    }
}

#[test]
fn properties_are_checked_in_closures_that_take_the_object_in() {
    let route = |body: &str| problem(&format!("fn route(request, targets, context) {{ {body} }}"));
    assert!(route("targets.filter(|t| t.healthy && request.modell == t.model)").contains("request.modell"));
    assert!(route("targets.filter(|t| [1].some(|x| context.taem == x))").contains("context.taem"));
    assert_eq!(route("targets.filter(|t| t.healthy && request.model == t.model)"), "");
    // A closure's own parameter of that name is its own.
    assert_eq!(route("[#{ modell: 1 }].map(|request| request.modell); ()"), "");
}

#[test]
fn what_may_be_anything_is_not_checked() {
    let request = |body: &str| problem(&format!("fn request(request, context) {{ {body} }}"));
    assert_eq!(request("let request = #{ nope: 1 }; let x = request.nope;"), "");
    assert_eq!(request("for context in [#{ nope: 1 }] { let x = context.nope; }"), "");
    assert_eq!(request("request = #{ nope: 1 }; let x = request.nope;"), "");
    assert_eq!(request("try { throw #{ nope: 1 } } catch (context) { let x = context.nope; }"), "");
    assert_eq!(
        request("context.vars.any = 1; request.metadata.any = context.vars[\"any\"]; context.kv.get(\"a\");"),
        ""
    );
    assert_eq!(request("let a = request.headers[\"x\"]; let b = request.headers.x; let c = context.tags.p;"), "");
    assert_eq!(problem("fn mine(request) { request.nope } fn request(request, context) { mine(#{ nope: 1 }); }"), "");
}

#[test]
fn every_property_of_the_reference_passes_the_check() {
    for (kind, hook) in [
        ("Request", "fn request(o, context) { let x = o.NAME; }"),
        ("Target", "fn attempt(o, request, context) { let x = o.NAME; }"),
        ("Event", "fn event(o, context) { let x = o.NAME; }"),
        ("Response", "const STREAM = \"whole\"; fn response(o, context) { let x = o.NAME; }"),
        ("Error", "fn error(o, context) { let x = o.NAME; }"),
        ("Record", "fn log(o, context) { let x = o.NAME; }"),
        ("Context", "fn request(request, o) { let x = o.NAME; }"),
    ] {
        let object = reference::objects().iter().find(|object| object.name == kind).expect("an object");
        assert!(object.properties().count() > 3, "{kind}");
        for name in object.properties() {
            assert_eq!(problem(&hook.replace("NAME", name)), "", "{kind}.{name}");
            let set = hook.replace("let x = o.NAME", &format!("o.{name} = 1"));
            assert_eq!(problem(&set).is_empty(), object.settable(name) == Some(true), "{kind}.{name}");
        }
    }
}
