use super::*;
use crate::config::{Config, Place};

mod asks;

fn config(toml: &str, files: &[(&str, &str)]) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, toml).expect("written");
    std::fs::create_dir(folder.path().join("scripts")).expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join("scripts").join(name), text).expect("written");
    }
    let loaded = crate::config::read(&Place::File(file), &|_| None, &crate::provider::catalog_names());
    assert_eq!(loaded.problems, []);
    loaded.config
}

/// What is wrong with the cases beside a script: nothing when all pass.
fn failures(toml: &str, script: &str, cases: &str) -> Vec<String> {
    let config = config(toml, &[("a.rhai", script), ("a.test.toml", cases)]);
    let problems = gate(&config, &Plugins::dry());
    problems.into_iter().map(|p| format!("{}: {}", p.line, p.message)).collect()
}

#[track_caller]
fn passes(toml: &str, script: &str, cases: &str) {
    assert_eq!(failures(toml, script, cases), Vec::<String>::new());
}

fn mistake(cases: &str) -> String {
    let config = config("", &[]);
    let found = case::cases("t", cases, &config).err().unwrap_or_default();
    found.iter().map(|p| format!("{}: {}", p.line, p.message)).collect::<Vec<_>>().join("\n")
}

#[test]
fn unknown_keys_are_told_with_their_line_and_the_nearest_known_one() {
    let text = "[[case]]\nname = \"a\"\nexpect = { status = 200 }\n\n[[case]]\nname = \"b\"\nanswers = [\n  { texxt = \"x\" },\n]\nexpect = { status = 200 }\n";
    let told = mistake(text);
    assert!(told.starts_with("8: an answer has no `texxt`; did you mean `text`?; it has text, reasoning"), "{told}");
    for (line, key, near) in [
        ("contxt = { team = \"x\" }", "a case has no `contxt`", "`context`"),
        ("context = { taem = \"x\" }", "context has no `taem`", "`team`"),
        ("targets = [{ name = \"a/b\", latency = 3 }]", "a target has no `latency`", "latency_ms"),
        ("live = { \"a/b\" = { breker = \"open\" } }", "a target has no `breker`", "`breaker`"),
        ("answers = [{ usage = { inptu = 3 } }]", "usage has no `inptu`", "`input`"),
        ("answers = [{ events = [{ txt = \"a\" }] }]", "an event has no `txt`", "`text`"),
    ] {
        let told = mistake(&format!("[[case]]\nname = \"a\"\n{line}\nexpect = {{ status = 200 }}\n"));
        assert!(told.starts_with(&format!("3: {key}")) && told.contains(near), "{line}: {told}");
    }
    let told = mistake("[[case]]\nname = \"a\"\nexpect = { verdct = \"next\" }\n");
    assert!(told.contains("3: expect has no `verdct`; did you mean `verdict`?"), "{told}");
}

#[test]
fn values_of_the_wrong_kind_are_told_too() {
    for (line, words) in [
        ("format = \"soap\"", "one of openai_chat"),
        ("splits = \"all\"", "none, characters or every"),
        ("answers = 3", "an array (one an attempt) or a table (by target)"),
        ("answers = [{ status = 302 }]", "400 to 599"),
        ("answers = [{ timeout = true, cut = 3 }]", "fails in one way"),
        ("answers = [{ text = \"a\", events = [\"b\"] }]", "either events, or text"),
        ("answers = [{ events = [{ arguments = \"{}\" }] }]", "follow no tool"),
        ("answers = [{ latency = 3 }]", "a duration such as"),
        ("answers = [{ finish = \"tired\" }]", "stop, length"),
        ("context = { now = \"noon\" }", "2026-01-01T00:00:00Z"),
        ("live = { \"a/b\" = { breaker = \"broken\" } }", "open, half_open or closed"),
        ("stages = \"some\"", "alone"),
        ("config = 3", "a table"),
        ("configs = { \"scripts/b.rhai\" = {} }", "stages = \"all\""),
        ("answers = { \"e/m\" = { vectors = { a = [1, 2], b = [1] } } }", "all of one length"),
    ] {
        let told = mistake(&format!("[[case]]\nname = \"a\"\n{line}\nexpect = {{ status = 200 }}\n"));
        assert!(told.starts_with("3: ") && told.contains(words), "{line}: {told}");
    }
    for (expect, words) in [
        ("status = \"200\"", "a status such as 200"),
        ("verdict = \"maybe\"", "one of continue"),
        ("text = { contain = \"a\" }", "a table of contains"),
        ("text = { matches = \"(\" }", "cannot be read"),
        ("cost = \"much\"", "US dollars"),
        ("took = 3", "a duration"),
        ("events = \"a\"", "an array"),
        ("questions = \"a\"", "an array"),
    ] {
        let told = mistake(&format!("[[case]]\nname = \"a\"\nexpect = {{ {expect} }}\n"));
        assert!(told.starts_with("3: ") && told.contains(words), "{expect}: {told}");
    }
}

const MODELS: &str = r#"
[models.smart]
targets = [{ provider = "mock", model = "one" }, { provider = "mock", model = "two" }]
failover = ["mock/three"]
timeouts = { whole = "20s", first_event = "5s" }
[[pricing]]
model = "mock/*"
input = "1"
output = "2"
[teams.lab]
models = ["smart"]
defaults = { temperature = 0.25 }
budget = { usd = 1, per = "month" }
limits = { requests_per_minute = 100 }
"#;

#[test]
fn next_error_and_response_stages_are_tested_end_to_end() {
    let script = r#"
const STREAM = "whole";
fn response(response, context) {
    if response.text.len() < 5 { return next("too short"); }
    response.text = response.text + "!";
}
fn error(error, context) {
    if error.status == 429 { return respond("come back later"); }
    error.message = "sorry: " + error.code;
}
"#;
    let cases = r#"
[[case]]
name = "short answers try the next target, in order, whole"
request = { model = "smart" }
answers = { "mock/one" = "no", "mock/two" = { text = "well said", usage = { input = 100, output = 10 } } }
expect = { attempts = ["mock/one", "mock/two"], answered = "mock/two", verdict = "next", reason = "too short", text = "well said!", cost = "0.00014", usage = { input = 110, output = 15 } }

[[case]]
name = "and as a stream"
request = { model = "smart", stream = true }
answers = { "mock/one" = "no", "*" = "well said" }
splits = "every"
expect = { attempts = ["mock/one", "mock/two"], text = "well said!", status = 200, finish = "stop" }

[[case]]
name = "with nothing better the last one is delivered, and marked"
request = { model = "smart" }
answers = ["a", "b", "c"]
expect = { text = "c", tags = { quality_unmet = "true" }, attempts = ["mock/one", "mock/two", "mock/three"] }

[[case]]
name = "an error is reworded"
request = { model = "smart" }
answers = { "*" = { status = 400, message = "bad words" } }
expect = { status = 400, message = "sorry: invalid_request", attempts = [{ target = "mock/one", outcome = "invalid_request" }] }

[[case]]
name = "or answered"
request = { model = "smart" }
answers = { "*" = { status = 429 } }
expect = { status = 200, text = "come back later", verdict = "respond" }
"#;
    passes(MODELS, script, cases);
}

#[test]
fn a_slip_that_several_cases_meet_is_told_once() {
    let script = "fn request(request, context) { if request.model == \"mock/c\" { return; } request.push(1); }";
    let case = |model: &str| {
        format!(
            "[[case]]\nname = \"{model}\"\nrequest = {{ model = \"mock/{model}\" }}\nexpect = {{ target = \"mock/d\", status = 200 }}\n"
        )
    };
    let cases = ["a", "b", "c", "e"].map(case).concat();
    let told = failures("", script, &cases);
    let [slip, own] = told.as_slice() else { panic!("{told:#?}") };
    assert!(slip.starts_with("1: the case \"a\" fails: ") && slip.ends_with("; 2 more cases fail by it"), "{slip}");
    assert_eq!(slip.matches("there is no function push").count(), 1, "{slip}");
    assert!(own.starts_with("9: the case \"c\" fails: expected target \"mock/d\""), "{own}");
}

#[test]
fn failures_of_upstreams_take_the_way_they_take_in_production() {
    let script = "fn attempt(target, request, context) { if target.name == \"mock/two\" { return skip(); } request.headers[\"x-house\"] = \"lab\"; }";
    let cases = r#"
[[case]]
name = "overloaded, skipped, then the failover"
request = { model = "smart" }
answers = [{ status = 503 }, { text = "here", latency = "2s" }]
expect = { answered = "mock/three", verdict = "skip", attempts = ["mock/one", "mock/three"], passed_over = { "mock/two" = "skipped by a stage" }, took = "2s" }

[[case]]
name = "silence costs the timeout of the target"
request = { model = "smart" }
answers = [{ timeout = true }, "here"]
expect = { answered = "mock/three", took = "20s", attempts = [{ target = "mock/one", outcome = "upstream_timeout" }, { target = "mock/three", outcome = "ok" }] }

[[case]]
name = "a stream's first event has its own"
request = { model = "smart", stream = true }
answers = [{ timeout = true }, { text = "here", pace = "100ms" }]
expect = { text = "here", took = { at_least = "5s", at_most = "7s" } }

[[case]]
name = "a connection that is refused, everywhere"
request = { model = "smart" }
answers = { "*" = { refused = true } }
expect = { status = 502, code = "connection_refused" }

[[case]]
name = "garbage is an error of the upstream"
request = { model = "smart" }
answers = [{ body = "<html>" }, "here"]
expect = { answered = "mock/three", text = "here" }

[[case]]
name = "cut after its beginning: an error, and no second target"
request = { model = "smart", stream = true }
answers = [{ events = ["one ", "two"], cut = 1 }]
expect = { events = [{ text = "one " }, { error = { contains = "closed" } }], attempts = ["mock/one"] }

[[case]]
name = "an open breaker"
request = { model = "smart" }
live = { "mock/one" = { breaker = "open" } }
expect = { targets = ["mock/two", "mock/three", "mock/one"], answered = "mock/three", headers = { x-house = "lab" } }
"#;
    passes(MODELS, script, cases);
}

#[test]
fn what_was_spent_is_said_by_scope_and_a_cheaper_model_answers() {
    let toml = r#"
[models.dear]
targets = [{ provider = "mock", model = "dear" }]
budget = { usd = 5, per = "day" }
[models.small]
targets = [{ provider = "mock", model = "small" }]
[tags."env=prod"]
limits = { requests_per_minute = 1 }
budget = [{ usd = 2, per = "day" }, { usd = 9, per = "total" }]
[[pricing]]
model = "mock/dear"
request = 1
[teams.lab]
budget_fallback = ["small"]
"#;
    let cases = r#"
[[case]]
name = "there is money"
request = { model = "dear" }
spent = { "model:dear" = 4 }
expect = { answered = "mock/dear" }

[[case]]
name = "there is none"
request = { model = "dear" }
spent = { "model:dear" = 4.5 }
expect = { status = 429, code = "budget_exceeded" }

[[case]]
name = "a team that has a cheaper one goes there"
request = { model = "dear" }
context = { team = "lab" }
spent = { "model:dear" = 5 }
expect = { answered = "mock/small" }

[[case]]
name = "the tag's"
request = { model = "dear" }
context = { tags = { env = "prod" } }
spent = { "tag:env=prod" = 2 }
expect = { status = 429, code = "budget_exceeded" }
"#;
    passes(toml, "fn request(request, context) {}", cases);
}

#[test]
fn who_asks_is_bound_by_the_configuration() {
    let script = "fn request(request, context) { context.note(`${context.team} ${context.key} ${context.tags[\"a\"]} ${request.headers[\"x-b\"]}`); }";
    let cases = r#"
[[case]]
name = "a team's defaults, tags and headers"
request = { model = "smart" }
context = { team = "lab", key = "ann", tags = { a = "1" }, headers = { x-b = "2" } }
expect = { notes = ["lab ann 1 2"], request = { temperature = 0.25, model = "smart" }, sent = { temperature = 0.25, model = "one" } }

[[case]]
name = "its list of models"
request = { model = "mock/two" }
context = { team = "lab" }
expect = { status = 403, code = "model_not_allowed", targets = [] }

[[case]]
name = "its budget"
request = { model = "smart" }
context = { team = "lab" }
spent = { lab = 1 }
expect = { status = 429, code = "budget_exceeded" }

[[case]]
name = "another team has none of it"
request = { model = "mock/two" }
context = { team = "other" }
spent = { lab = 1 }
expect = { status = 200, request = { temperature = false } }
"#;
    let failed = failures(MODELS, script, cases);
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert!(failed[0].contains("another team has none of it") && failed[0].contains("expected request"), "{failed:?}");
}

#[test]
fn figures_of_targets_reach_scripts_and_prices_reach_the_cost() {
    let script = "fn route(request, targets, context) { targets.filter(|t| t.healthy && t.quota_left > 0 && t.price_input < 5.0) }";
    let cases = r#"
[[case]]
name = "quota, health and price"
targets = [
    { name = "a/spent", quota_left = 0 },
    { name = "b/ill", healthy = false },
    { name = "c/dear", price_input = 9 },
    { name = "d/fine", price_input = "2", price_output = 4, quota_left = 3 },
]
answers = [{ text = "x", usage = { input = 1000, output = 500 } }]
expect = { targets = ["d/fine"], cost = "0.004" }
"#;
    passes("", script, cases);
}

#[test]
fn events_go_in_and_come_out_in_every_cut() {
    let script = r#"
const STREAM = "window";
fn event(event, context) {
    if event.kind == "text" { event.text = event.text.replaced("secret", "[hidden]"); }
    if event.kind == "text" && event.text.contains("stop now") { return stop("enough"); }
}
"#;
    let script = script.replace(
        "event.text = event.text.replaced(\"secret\", \"[hidden]\");",
        "let t = event.text; t.replace(\"secret\", \"[hidden]\"); event.text = t;",
    );
    let cases = r#"
[[case]]
name = "hidden wherever it is cut"
request = { stream = true }
answers = [{ events = [{ text = "my sec" }, { text = "ret is safe" }, { tool = "look", arguments = '{"a":' }, { arguments = "1}" }] }]
splits = "every"
expect = { text = "my [hidden] is safe", tool_calls = [{ name = "look", arguments = { a = 1 } }], finish = "tool_calls" }

[[case]]
name = "stopped"
request = { stream = true }
answers = ["please stop now and go"]
expect = { verdict = "stop", reason = "enough", finish = "content_filter" }
"#;
    passes("", &script, cases);
    // A stage that looks at single events misses what is cut in two, and the case says where.
    let naive = script.replace("\"window\"", "\"event\"");
    let failed = failures("", &naive, cases);
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert!(failed[0].contains("my secret is safe"), "{failed:?}");
}

#[test]
fn every_client_format_is_read_back() {
    let script = "fn request(request, context) { request.max_tokens = 77; }";
    let mut cases = String::new();
    for format in crate::model::Format::ALL.map(crate::model::Format::name) {
        for stream in [false, true] {
            cases.push_str(&format!(
                "[[case]]\nname = \"{format} {stream}\"\nformat = \"{format}\"\nrequest = {{ model = \"x/m\", stream = {stream} }}\n\
                 answers = [{{ text = \"a tide\" }}]\nexpect = {{ text = \"a tide\", finish = \"stop\", request = {{ max_tokens = 77 }} }}\n\n\
                 [[case]]\nname = \"{format} {stream} refused\"\nformat = \"{format}\"\nrequest = {{ model = \"x/m\", stream = {stream} }}\n\
                 answers = [{{ status = 400, message = \"not so\" }}]\nexpect = {{ status = 400, message = {{ contains = \"not so\" }} }}\n\n"
            ));
        }
    }
    passes("", script, &cases);
}

#[test]
fn a_failing_case_says_what_came_and_why() {
    let script = "fn request(request, context) { let x = [1]; x[3]; }";
    let failed = failures("", script, "[[case]]\nname = \"a\"\nexpect = { status = 200, text = \"x\" }\n");
    assert_eq!(failed.len(), 1);
    for words in ["1: the case \"a\" fails", "expected status 200, got 500", "a.rhai", "expected text \"x\", got null"]
    {
        assert!(failed[0].contains(words), "{words}: {failed:?}");
    }
}

#[test]
fn cases_run_through_all_stages_when_they_ask_for_it() {
    let cases = |stages: &str| {
        format!("[[case]]\nname = \"a\"\nstages = \"{stages}\"\nexpect = {{ notes = [\"a\", \"b\"] }}\n")
    };
    let note = |text: &str| format!("fn request(request, context) {{ context.note(\"{text}\"); }}");
    let made = |stages: &str| {
        let files = [("a.rhai", note("a")), ("b.rhai", note("b")), ("a.test.toml", cases(stages))];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        gate(&config("", &files), &Plugins::dry())
    };
    assert_eq!(made("all"), []);
    assert!(made("alone")[0].message.contains("got [\"a\"]"));
}

#[test]
fn a_case_leaves_nothing_for_the_next_one() {
    let script = "fn request(request, context) { context.note(`${context.kv.get(\"n\")}`); context.kv.set(\"n\", 1); }";
    let case = "[[case]]\nname = \"a\"\nexpect = { notes = [\"\"] }\n";
    passes("", script, &case.repeat(40));
}

#[test]
fn what_takes_too_long_before_a_reload_is_not_waited_for() {
    let config = config(
        "",
        &[
            ("a.rhai", "fn request(request, context) {}"),
            ("a.test.toml", "[[case]]\nname = \"a\"\nexpect = { status = 200 }\n"),
        ],
    );
    let options = Options { until: Some(Instant::now()), ..Options::default() };
    let report = run(&config, &Subject::beside(&config), &options).remove(0).expect("read");
    assert!(report.outcomes[0].failures[0].contains("took too long"));
}

#[test]
fn lines_are_counted_in_scripts_whose_closures_name_constants() {
    let script = "const WORDS = [\"a\", \"b\"];\nfn request(request, context) {\n    let text = request.last_user_text;\n    if WORDS.some(|w| text == w) {\n        return reject(400, \"no\");\n    }\n}\n";
    let config =
        config("", &[("a.rhai", script), ("a.test.toml", "[[case]]\nname = \"a\"\nexpect = { status = 200 }\n")]);
    let options = Options { coverage: true, ..Options::default() };
    let report = run(&config, &Subject::beside(&config), &options).remove(0).expect("read");
    assert!(report.passed(), "{:?}", report.outcomes);
    assert_eq!(report.coverage.map(|c| c.missed()), Some(vec![5]));
}

#[test]
fn the_filter_leaves_others_out_and_says_how_many() {
    let cases =
        "[[case]]\nname = \"one\"\nexpect = { status = 200 }\n[[case]]\nname = \"two\"\nexpect = { status = 500 }\n";
    let config = config("", &[("a.rhai", "fn request(request, context) {}"), ("a.test.toml", cases)]);
    let options = Options { filter: Some("one".into()), ..Options::default() };
    let report = run(&config, &Subject::beside(&config), &options).remove(0).expect("read");
    assert_eq!((report.outcomes.len(), report.left_out, report.passed()), (1, 1, true));
}

#[test]
fn every_key_has_words_and_the_examples_of_the_reference_hold() {
    let text = reference::reference();
    assert!(!text.contains(reference::UNTOLD), "{text}");
    let cases = text.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("the example");
    // A script that does what the examples expect.
    let script = r#"
const STREAM = "whole";
fn route(request, targets, context) { if request.last_user_text.contains("essay") { return "house/large"; } }
fn response(response, context) {
    if response.text == "ok" { return next("too short"); }
    let t = response.text;
    t.replace("+49 30 123456", "[phone]");
    response.text = t;
}
"#;
    passes("", script, cases);
}
