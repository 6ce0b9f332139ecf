//! Scripts that loop, allocate, recurse or lie: each is stopped, costs its own request, and is told with its place.

use std::time::{Duration, Instant};

use super::*;

/// The fault of a script's request phase. It must end soon.
fn stopped(body: &str) -> String {
    let began = Instant::now();
    let (result, _, cx) = ask(&format!("fn request(request, context) {{\n{body}\n}} fn f(x) {{ f(x + 1) + 1 }}"));
    let error = result.err().unwrap_or_else(|| panic!("{body} was not stopped"));
    assert_eq!((error.status(), error.code()), (500, "stage_failed"), "{body}");
    assert!(error.message.contains("scripts/a.rhai") && !error.message.contains("operations"), "{}", error.message);
    // Far above the limit of 50 ms: this machine is shared, an endless loop would not end at all.
    assert!(began.elapsed() < Duration::from_secs(20), "{body} took {:?}", began.elapsed());
    let fault = fault(&cx);
    let placed = ["1:", "2:", "3:"].iter().any(|line| fault.starts_with(&format!("scripts/a.rhai:{line}")));
    assert!(placed, "{body}: {fault}");
    assert!(fault.contains("(fn request): "), "{fault}");
    fault
}

#[test]
fn endless_loops_are_stopped() {
    for body in [
        "loop { }",
        "while true { }",
        "let n = 0; for i in 0..1000000000 { n += i; }",
        "let i = 0; do { i += 1; } while true;",
    ] {
        let fault = stopped(body);
        assert!(fault.contains("stopped: it took"), "{body}: {fault}");
    }
}

#[test]
fn a_loop_cannot_be_caught() {
    let fault = stopped("loop { try { loop { } } catch { } }");
    assert!(fault.contains("stopped: it took"), "{fault}");
}

#[test]
fn recursion_is_stopped() {
    let (result, _, cx) = ask("fn request(request, context) { f(1) } fn f(x) { f(x + 1) + 1 }");
    assert!(result.is_err());
    assert!(fault(&cx).contains("more than 32 deep"), "{}", fault(&cx));
}

#[test]
fn bombs_of_strings_arrays_and_maps_are_stopped() {
    for body in [
        "let s = \"x\"; loop { s += s; }",
        "let s = \"x\"; s.pad(1000000000, 'y');",
        "let a = [1]; a.pad(1000000000, 0);",
        "let a = []; loop { a.push([1, 2, 3]); }",
        "let a = [1]; loop { a = [a, a]; }",
        "let m = #{}; let i = 0; loop { m[`k${i}`] = i; i += 1; }",
        "let a = []; loop { a.push(\"x\"); context.vars.a = a; }",
    ] {
        stopped(body);
    }
}

/// A caller's words decide how much these make: they stop while they make it, not once it is there.
#[test]
fn what_rhai_makes_of_a_long_text_is_bounded_before_it_is_made() {
    const LONG: &str = "let s = \"\"; s.pad(20000000, \"a \");";
    for (body, why) in [
        ("s.split(\" \");", "more than 10000 pieces"),
        ("s.split(' ');", "more than 10000 pieces"),
        ("s.split();", "more than 10000 pieces"),
        ("s.split(\"\");", "more than 10000 pieces"),
        ("s.split(\" \", 20000);", "more than 10000 pieces"),
        ("s.split(' ', 20000);", "more than 10000 pieces"),
        ("s.split_rev(\" \");", "more than 10000 pieces"),
        ("s.split_rev(' ');", "more than 10000 pieces"),
        ("s.split_rev(\" \", 20000);", "more than 10000 pieces"),
        ("s.split_rev(' ', 20000);", "more than 10000 pieces"),
        ("s.to_chars();", "more than 10000 pieces"),
        ("s.replace(\"a\", s);", "would become too long"),
        ("s.replace('a', s);", "would become too long"),
        ("let l = \"[\"; l.pad(20000001, \"1,\"); from_json(l + \"1]\");", "more values"),
    ] {
        let (result, _, cx) = ask(&format!("fn request(request, context) {{ {LONG} {body} }}"));
        assert!(result.is_err() && fault(&cx).contains(why), "{body}: {}", fault(&cx));
    }
}

#[test]
fn what_rhai_makes_of_a_text_is_what_it_was() {
    let facts = [
        "\"a b  c\".split(\" \") == [\"a\", \"b\", \"\", \"c\"]",
        "\"a b  c\".split() == [\"a\", \"b\", \"c\"]",
        "\"\".split() == [\"\"] && \"\".split(\" \") == [\"\"] && \"\".split(' ') == [\"\"] && \"\".to_chars() == []",
        "\"a-b-c\".split(\"-\", 2) == [\"a\", \"b-c\"] && \"a-b\".split('-', 0) == [\"a-b\"]",
        "\"a-b-c\".split('-') == [\"a\", \"b\", \"c\"] && \"a-b\".split('x') == [\"a-b\"]",
        "\"a-b-c\".split_rev(\"-\") == [\"c\", \"b\", \"a\"] && \"a-b-c\".split_rev('-', 2) == [\"c\", \"a-b\"]",
        "\"abc\".split(1) == [\"a\", \"bc\"] && \"äb\".to_chars() == ['ä', 'b']",
        "{ let s = \"aXa\"; s.replace(\"a\", \"bb\"); s == \"bbXbb\" }",
        "{ let s = \"aXa\"; s.replace('X', \"\"); s.replace(\"a\", 'é'); s.replace('é', 'o'); s == \"oo\" }",
        "from_json(\"[1, {\\\"a\\\": \\\"x,y\\\"}]\") == [1, #{ a: \"x,y\" }] && from_json(\"[1\") == ()",
    ];
    let body: String =
        facts.iter().map(|fact| format!("if !({fact}) {{ throw `{}`; }}\n", fact.replace('`', ""))).collect();
    let (result, _, cx) = ask(&format!("fn request(request, context) {{ {body} }}"));
    assert!(result.is_ok(), "{}", fault(&cx));
}

#[test]
fn its_own_operation_limit_is_obeyed() {
    let mut config = config(&[("a.rhai", "fn request(request, context) { let n = 0; for i in 0..300 { n += i; } }")]);
    let mut run = |operations: u64| {
        let limits = StageLimits { operations, ..StageLimits::default() };
        config.stages = Some(vec![Stage { limits, ..stage("a.rhai") }]);
        let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
        let mut cx = cx();
        let result = now(built.pipeline.select(&cx.principal, "m").request(&mut cx, &mut doc()));
        (result.is_ok(), fault(&cx))
    };
    assert!(run(100_000).0);
    let (fine, why) = run(100);
    assert!(!fine && why.contains("more than 100 operations"), "{why}");
}

#[test]
fn wrong_verdicts_and_values_are_faults() {
    // Made in a helper, so that it cannot be known at load.
    let (result, _, cx) = ask("fn request(request, context) { judge() } fn judge() { next(\"x\") }");
    assert!(result.is_err());
    assert!(fault(&cx).contains("next(…) is no verdict of fn request"), "{}", fault(&cx));
    let (result, _, cx) = ask("fn request(request, context) { return [1, 2]; }");
    assert!(result.is_err());
    assert!(fault(&cx).contains("(fn request): it returned a value of type"), "{}", fault(&cx));
}

#[test]
fn faults_hold_no_text_of_the_request() {
    for body in [
        "throw request.last_user_text;",
        "let n = parse_int(request.last_user_text);",
        "let m = #{}; let x = m[request.last_user_text].y.z;",
        "request.messages.push(#{ role: request.last_user_text, content: \"\" });",
        "let x = request.last_user_text[request.last_user_text];",
        "context.vars[request.last_user_text] = request;",
    ] {
        let (result, _, cx) = ask(&format!("fn request(request, context) {{ {body} }}"));
        let told = format!("{} {:?}", fault(&cx), result.as_ref().err());
        assert!(result.is_err() && !told.contains("Essay"), "{body}: {told}");
    }
    let (_, _, cx) = ask("fn request(request, context) { throw \"a plain reason\"; }");
    assert!(fault(&cx).ends_with("thrown: a plain reason"), "{}", fault(&cx));
}

#[test]
fn a_stage_that_changed_the_request_and_failed_fails_it_even_when_skipped() {
    let run = |body: &str| {
        let mut config = config(&[("a.rhai", body)]);
        config.stages = Some(vec![Stage { on_error: OnError::Skip, ..stage("a.rhai") }]);
        let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
        let mut cx = cx();
        let mut chain = built.pipeline.select(&cx.principal, "m");
        let mut doc = doc();
        let first = now(chain.request(&mut cx, &mut doc)).is_ok();
        let second = first && now(chain.route(&mut cx, &mut doc, &targets())).is_ok();
        (first, second, chain.wants(Phase::Route))
    };
    assert_eq!(
        run("fn request(request, context) { throw 1; } fn route(request, targets, context) { throw 2; }"),
        (true, true, false)
    );
    assert!(!run("fn request(request, context) { request.temperature = 1; throw 1; }").0);
    assert_eq!(
        run(
            "fn request(request, context) { request.temperature = 1; } fn route(request, targets, context) { throw 2; }"
        ),
        (true, false, false)
    );
}

#[test]
fn a_failed_stage_is_out_for_the_rest_of_the_request() {
    let script = "const STREAM = \"whole\"; fn request(request, context) { throw 1; } fn response(response, context) { response.text = \"x\"; }";
    let mut config = config(&[("a.rhai", script)]);
    config.stages = Some(vec![Stage { on_error: OnError::Skip, ..stage("a.rhai") }]);
    let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
    let mut cx = cx();
    let mut chain = built.pipeline.select(&cx.principal, "m");
    now(chain.request(&mut cx, &mut doc())).unwrap();
    let mut response = answer("kept");
    now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap();
    assert_eq!(response.text(), "kept");
}

#[test]
fn nothing_of_one_request_is_left_for_the_next() {
    let built = build(
        &config(&[("a.rhai", "fn request(request, context) { if context.vars.contains(\"x\") { throw \"seen\"; } context.vars.x = request.last_user_text; }")]),
        &Scripts::dry(),
    )
    .unwrap_or_else(|p| panic!("{p:?}"));
    for _ in 0..2 {
        let mut cx = cx();
        assert!(now(built.pipeline.select(&cx.principal, "m").request(&mut cx, &mut doc())).is_ok());
    }
}

/// Not a test of anything: prints what a call costs. `cargo test --lib --release -- --ignored cost`
#[test]
#[ignore = "a measurement"]
fn cost_of_a_call() {
    let mut problems = Vec::new();
    let sources = Sources::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), &mut problems);
    let config = Config { sources, ..base() };
    let built = Arc::new(build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}")));
    let body =
        json!({ "model": "smart", "messages": [{ "role": "user", "content": "lorem ipsum dolor ".repeat(50) }] });
    for model in ["smart", "auto"] {
        let text = body.to_string().replace("smart", model);
        let mut doc = Document::new(Format::OpenaiChat, text.into(), crate::codec::Inbound::default()).unwrap();
        let mut cx = cx();
        let rounds = 20_000;
        let began = Instant::now();
        for _ in 0..rounds {
            cx.trace.steps.clear();
            let mut chain = built.pipeline.select(&cx.principal, model);
            now(chain.route(&mut cx, &mut doc, &targets())).unwrap();
        }
        let each = began.elapsed() / rounds;
        assert!(each > Duration::ZERO);
        let told = format!("route.rhai, model {model}: {each:?} a call\n");
        std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).unwrap();
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the long suite is asked for by the environment")]
fn generated_ones_are_stopped_within_twice_their_limit_of_their_own_processor_time() {
    let count = if std::env::var("PORTCULLIS_LONG").is_ok_and(|v| v == "1") { 2_000 } else { 60 };
    let mut rng = fastrand::Rng::with_seed(11);
    let scripts: Vec<String> = (0..count).map(|_| super::generated::hostile(&mut rng)).collect();
    // What this machine's build of the engine takes for a limit: the wall, or the bound on what one native call may fill.
    let limit = StageLimits::default().wall;
    let mut slow = Vec::new();
    for at_once in scripts.chunks(64) {
        slow.extend(timed(at_once.iter()).into_iter().filter(|(took, _)| *took > 2 * limit));
    }
    // Memory that sixty threads want at once costs each of them: who is slow only then is not slow.
    slow.retain(|(_, script)| (0..3).all(|_| timed([*script]).iter().all(|(took, _)| *took > 2 * limit)));
    assert!(slow.is_empty(), "{} of {count}, such as {:?}", slow.len(), slow.first());
}

/// Each on a thread of its own, all at once: what they took of a processor.
fn timed<'s>(scripts: impl IntoIterator<Item = &'s String>) -> Vec<(Duration, &'s String)> {
    std::thread::scope(|scope| {
        let begin = |script: &'s String| {
            // As the serving threads have it.
            let thread = std::thread::Builder::new().stack_size(16 << 20);
            let call = move || {
                let (mut chain, mut cx) = chain(script);
                let mut doc = doc();
                let began = thread_time();
                let _ = now(chain.request(&mut cx, &mut doc));
                (thread_time() - began, script)
            };
            thread.spawn_scoped(scope, call).unwrap()
        };
        let running: Vec<_> = scripts.into_iter().map(begin).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
