//! The invariants of `core/README.md` that a test can check by reading sources: walls between modules, where libraries
//! and vendors' names may appear, who touches the machine, and how files look. Runs no code of the gateway.
//!
//! An exception is a row with its reason. One that nothing needs any more fails, so that the tables stay true.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, outside of #[test] functions, give up like tests"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use aws_lc_rs::digest::{SHA256, digest};

/// Who may use whom. A module without a row is one that puts others together.
const WALLS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("breaker", &[]),
    ("model", &[]),
    ("codec", &["error", "model"]),
    ("endpoint", &["error", "model"]),
    ("config", &["model"]),
    ("clock", &[]),
    ("wakes", &[]),
    ("vigil", &[]),
    ("gather", &[]),
    ("context", &["auth", "clock", "config", "model", "route"]),
    ("queue", &["clock", "config", "error", "telemetry"]),
    ("account", &["codec", "config", "context", "error", "exchange", "limit", "model", "quota", "store", "telemetry"]),
    ("auth", &["config", "error", "keyring", "model", "store", "vigil"]),
    ("seal", &["auth", "error"]),
    ("stored", &["auth", "codec", "config", "error", "lanes", "model", "seal", "store", "telemetry"]),
    ("lanes", &["error", "seal", "store"]),
    ("limit", &["auth", "clock", "config", "error", "store", "telemetry"]),
    ("keyring", &["config", "error", "store"]),
    // What a provider grants is counted as limits are, and belongs to its targets and keys.
    ("quota", &["clock", "config", "error", "limit", "provider", "store", "telemetry"]),
    ("secrets", &["config", "error", "keyring", "provider", "seal", "store", "upstream"]),
    ("alerts", &["auth", "config", "error", "limit", "store", "upstream"]),
    ("store", &["config", "error"]),
    ("versions", &["config", "error", "store"]),
    ("audit", &["store"]),
    ("server", &["clock", "config", "error", "gather", "vigil", "wakes"]),
    ("upstream", &["clock", "config", "error", "gather", "wakes"]),
    ("media", &["codec", "config", "error", "exchange", "model", "route", "server", "upstream"]),
    ("provider", &["codec", "config", "error", "model"]),
    ("token", &["config", "error", "provider", "upstream"]),
    (
        "route",
        // A price may be a script's: it is compiled where the list of prices is made.
        &[
            "account", "auth", "breaker", "codec", "config", "context", "error", "model", "pipeline", "provider",
            "queue", "quota", "script",
        ],
    ),
    ("prompt", &["codec", "config", "error", "model"]),
    ("text", &[]),
    (
        "long_input",
        &[
            "aside",
            "clock",
            "codec",
            "config",
            "error",
            "exchange",
            "gateway",
            "generated",
            "model",
            "pipeline",
            "reply",
            "runtime",
            "text",
        ],
    ),
    (
        "batch",
        &[
            "auth", "clock", "codec", "context", "endpoint", "error", "exchange", "gateway", "limit", "model",
            "opaque", "server", "store",
        ],
    ),
    (
        "aside",
        &["auth", "clock", "codec", "context", "error", "exchange", "gateway", "model", "pipeline", "reply", "runtime"],
    ),
    (
        // The table of built-in stages names where each lives.
        "pipeline",
        &[
            "account", "auth", "breaker", "cache", "codec", "config", "context", "error", "fault", "model", "plugin",
            "script",
        ],
    ),
    (
        "cache",
        &[
            "auth",
            "clock",
            "codec",
            "config",
            "context",
            "error",
            "lanes",
            "model",
            "pipeline",
            "provider",
            "seal",
            "store",
            "telemetry",
        ],
    ),
    ("fault", &["auth", "clock", "codec", "config", "context", "error", "model", "pipeline"]),
    ("script", &["account", "auth", "clock", "codec", "config", "context", "error", "model", "pipeline", "text"]),
    ("plugin", &["account", "auth", "clock", "codec", "config", "context", "error", "model", "pipeline"]),
    ("hints", &["pipeline", "store"]),
    ("telemetry", &["account", "context", "error", "model"]),
    (
        "admin",
        &[
            "account",
            "audit",
            "auth",
            "codec",
            "config",
            "context",
            "endpoint",
            "error",
            "experiment",
            "explain",
            "keyring",
            "model",
            "secrets",
            "server",
            "store",
            "telemetry",
            "versions",
        ],
    ),
    (
        "explain",
        &[
            "account",
            "auth",
            "call",
            "codec",
            "config",
            "context",
            "error",
            "gateway",
            "limit",
            "long_input",
            "media",
            "model",
            "pipeline",
            "prompt",
            "provider",
            "queue",
            "reserve",
            "route",
            "runtime",
            "stored",
            "telemetry",
        ],
    ),
    (
        "experiment",
        &[
            "account",
            "auth",
            "clock",
            "codec",
            "config",
            "context",
            "error",
            "exchange",
            "gateway",
            "limit",
            "model",
            "pipeline",
            "route",
            "server",
            "store",
            "telemetry",
        ],
    ),
    (
        "exchange",
        &[
            "account",
            "auth",
            "cache",
            "clock",
            "codec",
            "config",
            "context",
            "error",
            "experiment",
            "limit",
            "model",
            "opaque",
            "pipeline",
            "queue",
            "quota",
            "rollout",
            "route",
            "server",
            "stored",
            "upstream",
        ],
    ),
];

/// Libraries (as they stand before `::`), the only places for them, and why.
const LIBRARIES: &[(&[&str], &[&str], &str)] = &[
    (
        &["hyper", "hyper_util"],
        &["core/server/", "core/upstream/", "core/wakes.rs", "core/admin/", "core/cli/keys.rs", "core/cli/mock.rs"],
        "HTTP enters by server and admin, and leaves by upstream, which both mend its wakes; the two commands speak it to a running gateway or stand in for one",
    ),
    (&["aws_sigv4", "aws_credential_types"], &["core/provider/sign/"], "a signature is made in one place, last"),
    (&["rhai"], &["core/script/"], "scripts are one kind of stage among others"),
    (&["wasmtime"], &["core/plugin/"], "plugins are another kind"),
    (
        &["rustix"],
        &["core/plugin/engine.rs", "core/store/directory.rs", "core/store/files.rs", "core/clock.rs"],
        "the processor time of a thread, the room on a disk, as it is and as it is kept for a file, and the coarse clock, which std does not tell",
    ),
    (&["sha2"], &["core/auth/table.rs"], "what hashes each request's key; all other digests are aws-lc's"),
    (
        &["tokio_tungstenite"],
        &["core/server/websocket.rs", "core/upstream/socket.rs", "core/realtime/", "core/provider/mock/realtime.rs"],
        "WebSockets: a handshake on each side, and the session between them",
    ),
    (
        &["jsonwebtoken"],
        &["core/auth/jwt/", "core/provider/sign/google.rs"],
        "whose signature is good is decided in one place; a login at a cloud is signed in another",
    ),
    (&["sled"], &["core/store/"], "another store must be able to take its place"),
    (
        &["redis"],
        &["core/store/redis/", "core/store/mod.rs"],
        "all that speaks to it, scripts included, lies in one folder",
    ),
    (
        &["aws_smithy_eventstream", "crc32fast"],
        &["core/codec/eventstream.rs"],
        "frames are read and written in one place",
    ),
    (&["notify"], &["core/config/"], "the only reader of configuration is the only watcher of it"),
    (&["serde_saphyr"], &["core/cli/import.rs"], "another gateway's configuration is YAML; nothing of ours is"),
    (&["clap"], &["core/cli/"], "a library user has no command line"),
    (
        &["rustls", "tokio_rustls"],
        &["core/server/", "core/upstream/", "core/main.rs", "core/store/redis/link.rs"],
        "sockets only",
    ),
    (
        &["bpe_openai", "jsonschema", "regex", "text_splitter"],
        &["core/text/", "core/suite/"],
        "what callers write is measured and matched under bounds, and those stand there; the patterns of cases are their authors'",
    ),
    (&["minijinja"], &["core/prompt/"], "what callers fill in is rendered under bounds, and those stand there"),
    (
        &["csv"],
        &["core/account/", "core/audit/read.rs"],
        "tables for other programs are written and read where their rows are",
    ),
    (&["similar"], &["core/versions/"], "what differs is told in one way"),
    (&["toml"], &["core/config/", "core/provider/", "core/cli/"], "files are for people; nothing inside speaks TOML"),
];

/// The machine, who may touch it, and why.
const MACHINE: [(&[&str], &[&str], &str); 5] = [
    (
        &["std::env"],
        &["core/config/env.rs", "core/main.rs"],
        "one reader of the environment; main hands the arguments over",
    ),
    (
        &["std::fs", "tokio::fs", "File::open", "OpenOptions"],
        &[
            "core/config/",
            "core/store/",
            "core/cli/",
            // Certificates and keys in PEM are renewed on disk while the gateway runs.
            "core/server/tls.rs",
            "core/upstream/trust.rs",
            // Compiles what config names, below scripts/ only.
            "core/script/",
            // The first key's file and its mode.
            "core/runtime.rs",
            // How large the process is, as the kernel tells.
            "core/queue/pressure.rs",
        ],
        "configuration is read by config, data by store",
    ),
    (&["process::exit", "process::abort"], &["core/main.rs"], "only main ends the process"),
    (
        &["process::Command"],
        &[
            "core/cli/plugin/build.rs",
            "core/cli/plugin/build/",
            // A key service's own program decrypts the master key: named in gateway.toml only, at the start.
            "core/config/master.rs",
        ],
        "the gateway starts no programs; a developer's command may call the developer's compilers",
    ),
    (
        &["lookup_host", "to_socket_addrs"],
        &["core/upstream/"],
        "every address that is dialled passes the egress policy",
    ),
];

/// Words that `model` and `codec` must not know: they are pure.
const IMPURE: [&str; 9] =
    ["tokio", "hyper", "async fn", "Instant", "SystemTime", "std::env", "std::fs", "std::net", "fastrand"];

/// Vendors, in any writing.
const VENDORS: &[&str] = &[
    "openai",
    "anthropic",
    "google",
    "claude",
    "gpt-",
    "azure",
    "mistral",
    "groq",
    "deepseek",
    "xai",
    "perplexity",
    "openrouter",
    "fireworks",
    "cerebras",
    "sambanova",
    "nvidia",
    "nebius",
    "huggingface",
    "moonshot",
    "dashscope",
    "alibaba",
    "cohere",
    "ollama",
    "litellm",
];

/// What looks like a vendor but is a wire format, a header or a scheme of one: those are the field's words.
const FIELD_WORDS: &[&str] = &[
    "openai_chat",
    "openaichat",
    "openai_responses",
    "openairesponses",
    "format::cohere",
    "format::ollama",
    "family::cohere",
    "anthropic_messages",
    "anthropicmessages",
    "anthropic-version",
    "anthropic_version",
    "anthropic-beta",
    "x-goog-api-key",
    "xgoogapikey",
    "x-api-key",
    "xapikey",
    "format::openai",
    "format::anthropic",
    "family::openai",
    "family::anthropic",
    "cohere or ollama",
    "openai format",
    "anthropic format",
    "openai sdk",
    "openai-insecure-api-key",
    "openai-organization",
    "openai-project",
    "openai shape",
    "/openai",
    // A key of gateway.toml: whose identity is meant.
    "google: option<google>",
    "login::{aws, entra, google}",
];

const VENDOR_HOMES: &[&str] =
    // Formats are named after whose they are.
    &[
        "core/config/login.rs",
        "core/config/file/login.rs",
        "core/codec/",
        "core/provider/",
        "core/endpoint.rs",
        "core/model/extra.rs",
        "core/config/file.rs",
        "core/config/read.rs",
        // An encoding is known by the names of the models that read it.
        "core/text/tokens.rs",
    ];

/// Examples inside messages and help, where a real name says more than a made-up one.
const VENDOR_EXAMPLES: &[&str] = &["core/config/resolve/", "core/cli/"];

/// Files longer than `LONGEST` lines, and why they are not two.
const LONG: &[(&str, &str)] = &[
    ("core/route/table.rs", "every way in which a name leads to targets, in the order in which they are tried"),
    ("core/route/health.rs", "how a target fares, and what one visit to it says of that"),
    ("core/cli/serve.rs", "all that runs, put together in the order in which it begins and ends"),
    ("core/codec/envelope.rs", "one pass over a body, one state"),
    ("core/gateway.rs", "the way of a request, read from top to bottom in one file"),
    ("core/codec/openai_chat/assistant.rs", "one direction of one format, read beside its wire documentation"),
    ("core/codec/openai_chat/messages.rs", "one direction of one format, read beside its wire documentation"),
    ("core/codec/openai_chat/request.rs", "one direction of one format, read beside its wire documentation"),
    ("core/codec/openai_chat/stream/encoder.rs", "one state machine"),
    ("core/codec/openai_chat/stream/state.rs", "one state machine"),
    ("tests/tidy.rs", "tables, one row an invariant"),
];
const LONGEST: usize = 450;

/// The way of a request: modules stand in `lib.rs` in this order.
const WAY: [&str; 12] = [
    "server", "gateway", "endpoint", "auth", "limit", "codec", "pipeline", "route", "provider", "upstream", "account",
    "store",
];

#[test]
fn modules_use_only_what_their_row_allows() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|f| !f.is_test()) {
        let Some((_, allowed)) = WALLS.iter().find(|(module, _)| *module == file.module()) else { continue };
        for used in uses(&file.code, "crate::") {
            if used != file.module() && !allowed.contains(&used.as_str()) {
                faults.push(format!("{}: uses crate::{used}", file.name));
            }
        }
    }
    none(&faults, "a module may use another only if its row in WALLS says so");
}

#[test]
fn libraries_stay_in_their_modules() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|f| !f.is_test()) {
        for (names, homes, why) in LIBRARIES {
            let at_home = homes.iter().any(|home| file.name.starts_with(home));
            for name in names.iter().filter(|_| !at_home) {
                if file.mentions(&format!("{name}::")) || file.mentions(&format!("use {name};")) {
                    faults.push(format!("{}: {name} ({why})", file.name));
                }
            }
        }
    }
    none(&faults, "a library has one home");
}

#[test]
fn model_and_codec_are_pure() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|f| !f.is_test() && ["model", "codec"].contains(&f.module())) {
        faults.extend(IMPURE.iter().filter(|w| file.mentions(w)).map(|w| format!("{}: {w}", file.name)));
    }
    none(&faults, "bytes and values in, values and bytes out: no clock, no I/O, no async");
}

#[test]
fn only_few_touch_the_machine() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|f| !f.is_test()) {
        for (words, homes, why) in MACHINE {
            let at_home = homes.iter().any(|home| file.name.starts_with(home));
            let std = uses(&file.code, "std::");
            let used = |w: &str| file.mentions(w) || w.strip_prefix("std::").is_some_and(|m| std.contains(m));
            let found = words.iter().filter(|w| !at_home && used(w));
            faults.extend(found.map(|w| format!("{}: {w} ({why})", file.name)));
        }
    }
    none(&faults, "files, environment and the process belong to few");
}

#[test]
fn vendors_are_named_only_where_they_live() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|f| !f.is_test()) {
        let homes = VENDOR_HOMES.iter().chain(VENDOR_EXAMPLES);
        if homes.into_iter().any(|home| file.name.starts_with(home)) {
            continue;
        }
        for (n, line) in file.code.lines().enumerate() {
            let mut line = line.to_lowercase();
            FIELD_WORDS.iter().for_each(|word| line = line.replace(word, ""));
            if let Some(vendor) = VENDORS.iter().find(|vendor| is_word(&line, vendor)) {
                faults.push(format!("{}:{}: {vendor}", file.name, n + 1));
            }
        }
    }
    none(&faults, "who a provider is stands in provider/, how bytes look in codec/<format>/");
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut faults = Vec::new();
    for file in sources() {
        if file.name.ends_with("tests.rs") || file.code.trim().is_empty() {
            continue;
        }
        let words: usize =
            file.text.lines().take_while(|l| l.starts_with("//!")).map(|l| l.split_whitespace().count()).sum();
        if words < 4 {
            faults.push(file.name);
        }
    }
    none(&faults, "a file opens with a `//!` paragraph: what it is for and what it must not do");
}

#[test]
fn files_stay_short() {
    let mut faults = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        if lines > LONGEST && !file.is_test() && !LONG.iter().any(|(name, _)| *name == file.name) {
            faults.push(format!("{}: {lines} lines", file.name));
        }
    }
    none(&faults, "a file this long wants to become two; or give it a row in LONG with the reason");
}

#[test]
fn lib_lists_every_module_in_the_order_of_a_request() {
    let lib = read("core/lib.rs");
    let listed: Vec<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(root().join("core")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap_or(&name).to_owned();
        let is_module = entry.path().join("mod.rs").exists() || name.ends_with(".rs");
        if is_module && !["lib", "main"].contains(&module.as_str()) {
            there.insert(module);
        }
    }
    assert_eq!(listed.iter().map(|m| (*m).to_owned()).collect::<BTreeSet<_>>(), there);
    let way: Vec<usize> =
        WAY.iter().map(|m| listed.iter().position(|l| l == m).unwrap_or_else(|| panic!("no {m}"))).collect();
    assert!(way.is_sorted(), "lib.rs lists modules in the way of a request: {}", WAY.join(", "));
}

#[test]
fn the_code_map_has_a_row_for_every_module_in_that_order() {
    let (lib, readme) = (read("core/lib.rs"), read("core/README.md"));
    let listed: Vec<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let map = readme.split("## Code map").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or("");
    let rows: Vec<&str> = map.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(rows, listed, "core/README.md, code map");
}

#[test]
fn loose_ends_have_reasons() {
    // Written in two halves, so that this file does not find itself.
    let (todo, others) = (concat!("TO", "DO"), [concat!("FIX", "ME"), concat!("XX", "X "), concat!("HA", "CK")]);
    let mut faults = Vec::new();
    for file in sources() {
        for (n, line) in file.text.lines().enumerate() {
            let bare = line.contains(todo) && !line.contains("because");
            if bare || others.iter().any(|word| line.contains(word)) {
                faults.push(format!("{}:{}: {}", file.name, n + 1, line.trim()));
            }
        }
    }
    none(&faults, "an open end says why it is open (`… because …`)");
}

#[test]
fn numbers_survive_serde() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|f| f.name.starts_with("core/")) {
        let mut derived = "";
        for line in file.code.lines().map(str::trim) {
            derived = if line.starts_with("#[derive(") { line } else { derived };
            let buffered = ["serde(flatten", "serde(untagged", "serde(tag"].iter().any(|a| line.contains(a));
            if buffered && derived.contains("Deserialize") {
                faults.push(format!("{}: {line}", file.name));
            }
        }
    }
    none(
        &faults,
        "these buffer values and spoil numbers of arbitrary precision: take objects apart with codec::json::Fields",
    );
}

#[test]
fn tracked_files_name_no_machine() {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut faults = Vec::new();
    for name in tracked() {
        let Ok(text) = fs::read_to_string(root().join(&name)) else { continue };
        for (n, line) in text.lines().enumerate() {
            let begins = |at: usize| {
                at == 0 || !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '/' || c == '.' || c == '-')
            };
            if places.iter().any(|p| line.match_indices(p).any(|(at, _)| begins(at))) {
                faults.push(format!("{name}:{}", n + 1));
            }
        }
    }
    none(&faults, "paths of one machine mean nothing on another");
}

#[test]
fn components_are_those_that_were_recorded_and_name_no_machine() {
    let paths: [&[u8]; 7] = [
        concat!("/wo", "rk").as_bytes(),
        concat!("/ro", "ot").as_bytes(),
        concat!("/ho", "me").as_bytes(),
        concat!("/Us", "ers").as_bytes(),
        b"/tmp",
        b"/usr/lib/rustlib",
        b"crates.io",
    ];
    let (mut faults, mut listed) = (Vec::new(), BTreeSet::new());
    for folder in ["plugins", "tests/guests"] {
        for line in read(&format!("{folder}/SHA256SUMS")).lines() {
            let (sum, file) = line.split_once("  ").unwrap_or_else(|| panic!("{folder}/SHA256SUMS: {line}"));
            let name = format!("{folder}/{file}");
            let bytes = fs::read(root().join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let is: String = digest(&SHA256, &bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect();
            if is != sum {
                faults.push(format!("{name}: not the recorded one; run plugins/build"));
            }
            for path in paths.iter().filter(|path| bytes.windows(path.len()).any(|w| w == **path)) {
                faults.push(format!("{name}: holds {:?}", String::from_utf8_lossy(path)));
            }
            listed.insert(name);
        }
    }
    let there: BTreeSet<String> = tracked().into_iter().filter(|name| name.ends_with(".wasm")).collect();
    faults
        .extend(there.symmetric_difference(&listed).map(|name| format!("{name}: only in git, or only in SHA256SUMS")));
    assert!(!listed.is_empty(), "there are components");
    none(&faults, "committed components are built by plugins/build from the sources beside them");
}

#[test]
fn dependencies_come_from_the_public_registry_and_none_is_banned() {
    let lock = read("Cargo.lock");
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let mut faults: Vec<String> =
        lock.lines().filter(|l| l.starts_with("source = ") && *l != public).map(str::to_owned).collect();
    // `.deny.toml` says why; this catches them where cargo-deny is not installed.
    for banned in ["openssl", "openssl-sys", "native-tls", "reqwest", "chrono"] {
        if lock.contains(&format!("name = \"{banned}\"\n")) {
            faults.push(banned.to_owned());
        }
    }
    none(&faults, "Cargo.lock");
}

#[test]
fn exceptions_are_still_needed() {
    let mut faults = Vec::new();
    for (name, _) in LONG {
        if read(name).lines().count() <= LONGEST {
            faults.push(format!("LONG: {name}"));
        }
    }
    for home in VENDOR_EXAMPLES.iter().filter(|home| root().join(home).exists()) {
        let named =
            |f: &&Source| f.name.starts_with(home) && VENDORS.iter().any(|v| is_word(&f.code.to_lowercase(), v));
        if !sources().iter().any(|f| named(&f)) {
            faults.push(format!("VENDOR_EXAMPLES: {home}"));
        }
    }
    none(&faults, "remove these rows");
}

/// One Rust file.
struct Source {
    /// From the repository's root, with `/`.
    name: String,
    text: String,
    /// Without comments.
    code: String,
}

impl Source {
    /// The first step below core/: `codec` of `core/codec/sse.rs`.
    fn module(&self) -> &str {
        let path = self.name.strip_prefix("core/").unwrap_or("");
        path.split('/').next().unwrap_or("").trim_end_matches(".rs")
    }

    fn is_test(&self) -> bool {
        !self.name.starts_with("core/") || self.name.ends_with("tests.rs") || self.name.contains("/tests/")
    }

    fn mentions(&self, word: &str) -> bool {
        self.code.lines().any(|line| is_word(line, word))
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["core", "tests", "benches", "examples"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 20, "the sources were found");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") && !path.ends_with(".venv") {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
            let code = text.lines().map(|line| format!("{}\n", uncommented(line))).collect();
            found.push(Source { name, text, code });
        }
    }
}

/// The line up to its comment; `https://` is none.
fn uncommented(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| line[..*at].is_empty() || line[..*at].ends_with(' '));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// `word` in `line`, not as a part of a longer word.
fn is_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part);
        let after = word.ends_with(part) && line[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

/// Modules that a file names, in `crate::x` and in `use crate::{x, …}`; the same for `std::`.
fn uses(code: &str, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(from) {
        let rest = &code[at + from.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => drop(found.insert(identifier(rest))),
        }
    }
    found.remove("");
    found
}

/// First words of a braced group's entries.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut fresh, mut heads) = (1, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if fresh && c.is_alphabetic() => {
                heads.push(identifier(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Files that git knows; where there is no git, what lies in the known folders.
fn tracked() -> Vec<String> {
    let listing = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output();
    match listing.ok().filter(|out| out.status.success()) {
        Some(out) => String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect(),
        None => sources().into_iter().map(|s| s.name).collect(),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}
