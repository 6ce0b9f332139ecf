//! Cases of scripts that ask models, and cases that configure their stages.

use super::*;

#[test]
fn what_a_script_asks_is_answered_by_the_same_upstreams() {
    let script = r#"
fn request(request, context) {
    let verdict = ask("judge", "Is this polite? " + request.last_user_text);
    if verdict.contains("no") { return reject(400, "be polite"); }
}
"#;
    let toml = "[models.judge]\ntargets = [{ provider = \"mock\", model = \"judge\" }]\n\
                [[stages]]\nuse = \"scripts/a.rhai\"\ngrant = [\"ask\"]\n";
    let cases = r#"
[[case]]
name = "polite, after a while"
request = { model = "mock/x" }
answers = { "mock/judge" = { text = "yes", latency = "3s" }, "*" = "hello" }
expect = { text = "hello", questions = ["judge"], attempts = ["mock/x"], took = "3s", notes = [] }

[[case]]
name = "rude"
request = { model = "mock/x" }
answers = { "mock/judge" = "no" }
expect = { status = 400, message = "be polite", questions = [{ model = "judge", target = "mock/judge", status = 200 }], attempts = [] }

[[case]]
name = "attempts are the request's own"
request = { model = "mock/x" }
answers = ["the first"]
expect = { text = "the first", questions = ["judge"] }

[[case]]
name = "in whatever format the caller speaks, and as a stream"
format = "anthropic_messages"
request = { model = "mock/x", stream = true }
answers = { "mock/judge" = "yes", "*" = "hello" }
splits = "characters"
expect = { text = "hello", questions = [{ prompt = "Is this polite? hello" }] }

[[case]]
name = "a judge that never answers is not waited for for ever"
request = { model = "mock/x" }
answers = { "mock/judge" = { timeout = true } }
expect = { status = 500, verdict = "failed", reason = { contains = "a question failed (upstream_timeout)" }, questions = [{ status = 504, code = "upstream_timeout" }], took = "10s" }
"#;
    passes(toml, script, cases);
}

#[test]
fn questions_within_a_stream_take_virtual_time_and_the_same_scene_has_the_same_end() {
    let script = r#"
fn event(event, context) {
    if event.kind == "text" {
        let near = embed_similarity(event.text, ["a tide", "a ship"]);
        context.note(`${near[0] > near[1]}`);
    }
}
"#;
    let toml = "[[stages]]\nuse = \"scripts/a.rhai\"\ngrant = [\"ask:e/m\"]\nconfig = { embeddings = \"e/m\" }\n";
    let cases = r#"
[[case]]
name = "each event asks"
request = { model = "mock/x", stream = true }
answers = { "mock/x" = { events = [{ text = "the tide" }, { text = " and the ship" }], pace = "1s" }, "e/m" = { latency = "2s", vectors = { tide = [1, 0], ship = [0, 1] } } }
expect = { notes = ["true", "false"], questions = ["e/m", "e/m"], text = "the tide and the ship", took = { at_least = "6s", at_most = "12s" } }
"#;
    for _ in 0..3 {
        passes(toml, script, cases);
    }
}

#[test]
fn a_case_configures_its_stage_and_others_where_all_run() {
    let script = "fn request(request, context) { context.note(context.config.word ?? \"none\"); }";
    let other = "fn request(request, context) { context.note(\"b: \" + (context.config.word ?? \"none\")); }";
    let toml =
        "[[stages]]\nuse = \"scripts/a.rhai\"\nconfig = { word = \"own\" }\n[[stages]]\nuse = \"scripts/b.rhai\"\n";
    let cases = r#"
[[case]]
name = "as gateway.toml has it"
expect = { notes = ["own"] }

[[case]]
name = "as the case has it"
config = { word = "mine" }
expect = { notes = ["mine"] }

[[case]]
name = "an empty one is one"
config = {}
expect = { notes = ["none"] }

[[case]]
name = "nothing of it stays"
expect = { notes = ["own"] }

[[case]]
name = "and others beside it"
stages = "all"
config = { word = "x" }
configs = { "scripts/b.rhai" = { word = "y" } }
expect = { notes = ["x", "b: y"] }
"#;
    let files = [("a.rhai", script), ("a.test.toml", cases), ("b.rhai", other)];
    let config = config(toml, &files);
    assert_eq!(gate(&config, &Plugins::dry()), []);
    let report = run(&config, &Subject::beside(&config), &Options { coverage: true, ..Options::default() }).remove(0);
    assert_eq!(report.expect("read").coverage.and_then(|c| c.percent()), Some(100));

    let unknown =
        "[[case]]\nname = \"a\"\nstages = \"all\"\nconfigs = { \"scripts/c.rhai\" = {} }\nexpect = { status = 200 }\n";
    let told = failures(toml.split("[[stages]]\nuse = \"scripts/b").next().expect("a part"), script, unknown);
    assert!(told[0].contains("the pipeline has no stage \"scripts/c.rhai\" to configure"), "{told:?}");
}
