//! What a version is made of, and `[rollout]`.

use super::*;
use crate::config::{Content, Sticky, content::CONFIG, masked, read_kept};

fn kept(case: &Case, content: &Content) -> Loaded {
    let place = Place::File(case.root.path().join("gateway.toml"));
    read_kept(&place, content, &|name| case.env.get(name).cloned(), &ROWS)
}

const KEYED: &str = "[providers.openai]\nkey = \"file:openai.key\"\n[catalogue]\nfile = \"prices.toml\"\n\
                     [[stages]]\nuse = \"scripts/a.rhai\"\n[[stages]]\nuse = \"plugins/deep/b.wasm\"\n";

fn full(script: &str, key: &str) -> Case {
    Case::new(KEYED)
        .with("openai.key", key)
        .with("prices.toml", "")
        .with("scripts/a.rhai", script)
        .with("scripts/a.test.toml", "# none\n")
        .with("plugins/deep/b.wasm", "\0asm")
}

#[test]
fn a_version_is_made_of_all_files_but_secrets() {
    let config = full("// 1", "sk-hush").config();
    let content = Content::of(&config);
    let names: Vec<&str> = content.files.keys().map(String::as_str).collect();
    assert_eq!(names, [CONFIG, "plugins/deep/b.wasm", "prices.toml", "scripts/a.rhai", "scripts/a.test.toml"]);
    assert!(content.files.values().all(|bytes| !String::from_utf8_lossy(bytes).contains("sk-hush")));
    assert_eq!(content.hash(), config.version);
    let other = full("// 1", "sk-other").config();
    assert_eq!(other.version, config.version, "a secret is no version");
    assert_ne!(other.hash, config.hash, "but it has to be taken up");
    assert_ne!(full("// 2", "sk-hush").config().version, config.version);
    // Nor does it matter where it lies, or what gateway.toml is called.
    let case = full("// 1", "sk-hush").with("other.toml", KEYED);
    let place = Place::File(case.root.path().join("other.toml"));
    assert_eq!(read(&place, &|_| None, &ROWS).config.version, config.version);
}

#[test]
fn a_version_that_was_kept_is_read_as_if_it_lay_there_and_from_nowhere_else() {
    let old = full("// old", "sk-old");
    let content = Content::of(&old.config());
    // Everything has changed since: only the secret is read anew.
    let now =
        Case::new("[server\n").with("openai.key", "sk-new").with("scripts/z.rhai", "fn (").with("plugins/z.wasm", "z");
    let loaded = kept(&now, &content);
    assert_eq!(loaded.problems, []);
    let config = loaded.config;
    assert_eq!(
        (config.version.as_str(), &*config.sources.scripts["scripts/a.rhai"]),
        (content.hash().as_str(), "// old")
    );
    assert_eq!(config.stages.as_ref().map(Vec::len), Some(2));
    assert!(!config.sources.scripts.contains_key("scripts/z.rhai") && config.sources.plugins.len() == 1);
    assert_eq!(config.providers.iter().find(|p| p.name == "openai").unwrap().keys[0].expose(), "sk-new");
    assert_eq!(Content::of(&config), content);
    // What it needs beside it may be gone.
    let bare = Case::new("");
    let problems = kept(&bare, &content).problems;
    assert!(problems.iter().any(|p| p.message.contains("openai.key")), "{problems:?}");
    let mut lacks = content;
    lacks.files.remove("plugins/deep/b.wasm");
    let there = full("// old", "sk-old");
    assert!(
        kept(&there, &lacks).problems.iter().any(|p| p.message.contains("plugins/deep/b.wasm")),
        "not from the folder"
    );
}

#[test]
fn what_is_shown_of_a_file_hides_what_may_be_a_credential() {
    let text = "[providers.a]\nkey = \"env:A_KEY\" # sesame stays out of comments\nheaders = { x-a = \"sesame\", x-b = \"sesame\" }\n\
                [models.m]\ntargets = [{ provider = \"a\", model = \"m\" }]\n[[stages]]\nuse = \"plugins/p.wasm\"\n\
                config = { api_token = \"sesame\", mode = \"strict\" }\n[[pricing]]\nmodel = \"a/m\"\ninput = \"0.5\"\n";
    let shown = masked(text);
    assert_eq!(shown.matches("sesame").count(), 1, "{shown}");
    assert!(shown.contains("key = \"env:A_KEY\"") && shown.contains("model = \"a/m\"\ninput = \"0.5\""), "{shown}");
    assert!(shown.contains("mode = \"strict\"") && shown.contains("api_token = \"***\""), "{shown}");
    assert_eq!(masked("[server\n"), "[server\n");
}

#[test]
fn a_rollout_has_its_phases_and_defaults() {
    assert_eq!(Case::new("").config().rollout, None);
    let rollout = |text: &str| Case::new(&format!("[rollout]\n{text}\n")).config().rollout.unwrap();
    let short = rollout("shadow = \"10m\"\ncanary = 0.05\nrevert_on = { error_rate = 0.02, p99_ms = 500 }");
    assert_eq!((short.shadow, short.canary), (Some(Duration::from_secs(600)), Some(0.05)));
    assert_eq!((short.error_rate, short.p99), (Some(0.02), Some(Duration::from_millis(500))));
    assert_eq!((short.canary_time, short.min_requests, short.sticky), (Duration::from_secs(600), 50, Sticky::Session));
    let full = rollout("canary = 1\ncanary_time = \"1m\"\nmin_requests = 7\nsticky = \"key\"");
    assert_eq!((full.canary, full.min_requests, full.sticky, full.error_rate), (Some(1.0), 7, Sticky::Key, None));
    for (text, message) in [
        ("", "gateway.toml:1: `rollout` needs"),
        ("min_requests = 5", "gateway.toml:1: `rollout` needs"),
        ("canary = 0", "gateway.toml:2: `rollout.canary` must be more than 0"),
        ("canary = 1.5", "gateway.toml:2: `rollout.canary` must be between 0 and 1"),
        ("shadow = \"soon\"", "gateway.toml:2: `rollout.shadow`: expected a duration"),
        ("shadow = \"1m\"\nsticky = \"user\"", "gateway.toml:3: `rollout.sticky` must be one of \"session\", \"key\""),
        ("shadow = \"1m\"\nrevert_on = { p99 = 5 }", "gateway.toml:3: unknown key `rollout.revert_on.p99`"),
    ] {
        assert!(
            problem(&format!("[rollout]\n{text}\n")).starts_with(message),
            "{text}: {}",
            problem(&format!("[rollout]\n{text}\n"))
        );
    }
}
