//! Plugins in the running gateway: dropped in, swapped, refused and removed while requests pass; and hostile ones, which
//! cost their own requests and nothing else. Promises 16 to 18 and 31.

use std::{
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    family::Openai,
    support::{Answer, Gateway, Say, Upstream, eventually},
};

const HELLO: &[u8] = include_bytes!("../../plugins/hello/hello.wasm");
const HOSTILE: &[u8] = include_bytes!("../guests/hostile/hostile.wasm");
const PROBE: &[u8] = include_bytes!("../guests/probe/probe.wasm");

/// Like a copy that ends in a rename.
fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let fresh = path.with_extension("new~");
    std::fs::write(&fresh, bytes).expect("written");
    std::fs::rename(&fresh, &path).expect("renamed");
}

async fn gateway(config: &str, plugins: &[(&str, &[u8])]) -> Gateway {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in plugins {
        put(dir.path(), name, bytes);
    }
    Gateway::in_dir(dir, config).await
}

async fn say(gateway: &Gateway, text: &str) -> Answer {
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": text}]});
    gateway.chat(&body.to_string()).await
}

async fn says(gateway: &Gateway, text: &str) -> String {
    Openai.text(&say(gateway, text).await)
}

async fn status(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/api/v1/config/status", "").await.json()
}

async fn greets(gateway: &Gateway, does: bool) {
    let word = if does { "the plugin answers" } else { "the plugin is gone" };
    eventually(word, async || says(gateway, "hello").await.starts_with("Hello. What can I do") == does).await;
}

fn uses(status: &Value) -> Vec<&str> {
    let stages = status["running"]["stages"].as_array().expect("stages");
    stages.iter().filter_map(|s| s["use"].as_str()).collect()
}

#[tokio::test]
async fn a_file_dropped_in_runs_and_one_taken_out_does_not() {
    let gateway = gateway("", &[]).await;
    assert!(!says(&gateway, "hello").await.starts_with("Hello. What"));
    put(gateway.dir.path(), "plugins/hello.wasm", HELLO);
    greets(&gateway, true).await;
    let now = status(&gateway).await;
    assert_eq!(uses(&now), ["plugins/hello.wasm"]);
    assert_eq!(now["running"]["stages"][0]["phases"], json!(["request"]));
    std::fs::remove_file(gateway.dir.path().join("plugins/hello.wasm")).expect("removed");
    greets(&gateway, false).await;
}

#[tokio::test]
async fn a_bad_file_is_refused_and_the_old_one_stays() {
    let gateway = gateway("", &[("plugins/hello.wasm", HELLO)]).await;
    greets(&gateway, true).await;
    let running = status(&gateway).await["running"]["hash"].clone();
    let module: &[u8] = b"\0asm\x01\0\0\0";
    let cut = &HELLO[..HELLO.len() / 2];
    for (bad, word) in [(&b"no wasm"[..], "no WebAssembly"), (module, "component"), (cut, "does not compile")] {
        put(gateway.dir.path(), "plugins/hello.wasm", bad);
        eventually("the file is refused", async || {
            status(&gateway).await["refused"]["errors"][0]["message"].as_str().is_some_and(|m| m.contains(word))
        })
        .await;
        let now = status(&gateway).await;
        assert_eq!(now["refused"]["errors"][0]["file"], "plugins/hello.wasm", "{now}");
        assert_eq!(now["running"]["hash"], running);
        greets(&gateway, true).await;
        assert_eq!(gateway.get("/health/ready").await.status, 200);
    }
    put(gateway.dir.path(), "plugins/hello.wasm", HELLO);
    eventually("the good file is back", async || status(&gateway).await["refused"].is_null()).await;
}

#[tokio::test]
async fn swaps_under_load_fail_no_request() {
    let gateway = Arc::new(gateway("", &[("plugins/a.wasm", HELLO)]).await);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, stop, done) = (gateway.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = say(&gateway, "hello").await;
                    assert!(answer.status == 200 && answer.complete, "{}", answer.text());
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for swap in 0..6 {
        let (bytes, greets) = if swap % 2 == 0 { (HOSTILE, false) } else { (HELLO, true) };
        put(gateway.dir.path(), "plugins/a.wasm", bytes);
        super::plugins::greets(&gateway, greets).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    assert!(done.load(Ordering::Relaxed) > 20);
}

#[tokio::test]
async fn files_run_in_file_name_order_with_scripts_and_a_list_says_otherwise() {
    let script = "fn request(request, context) { context.note(\"here\"); }";
    let dir = tempfile::tempdir().expect("a folder");
    put(dir.path(), "scripts/20-note.rhai", script.as_bytes());
    put(dir.path(), "plugins/10-hello.wasm", HELLO);
    put(dir.path(), "plugins/30-hello.wasm", HELLO);
    put(dir.path(), "plugins/deep/own.wasm", HELLO);
    let gateway = Gateway::in_dir(dir, "").await;
    let all = ["plugins/10-hello.wasm", "scripts/20-note.rhai", "plugins/30-hello.wasm"];
    assert_eq!(uses(&status(&gateway).await), all);
    gateway.rewrite(
        "[[stages]]\nuse = \"scripts/20-note.rhai\"\n[[stages]]\nuse = \"plugins/deep/own.wasm\"\nconfig = { greeting = \"servus\" }\n",
    );
    eventually("the list is live", async || {
        uses(&status(&gateway).await) == ["scripts/20-note.rhai", "plugins/deep/own.wasm"]
    })
    .await;
    assert!(says(&gateway, "servus").await.starts_with("Hello. What"));
    assert!(!says(&gateway, "hello").await.starts_with("Hello. What"));
    let outside = status(&gateway).await["running"]["outside"].clone();
    assert_eq!(outside, json!(["plugins/10-hello.wasm", "plugins/30-hello.wasm"]));
    // A listed file of a sub-folder is watched like any other.
    put(gateway.dir.path(), "plugins/deep/own.wasm", b"broken");
    eventually("the broken one is refused", async || !status(&gateway).await["refused"].is_null()).await;
    assert!(says(&gateway, "servus").await.starts_with("Hello. What"));
}

#[tokio::test]
async fn only_those_it_is_for_meet_a_plugin() {
    let stage = "[[stages]]\nuse = \"plugins/hello.wasm\"\nonly = { models = [\"greeter\"] }\n";
    let alias = "[models.greeter]\ntargets = [{ provider = \"mock\", model = \"mock\" }]\n";
    let gateway = gateway(&format!("{alias}{stage}"), &[("plugins/hello.wasm", HELLO)]).await;
    assert!(!says(&gateway, "hello").await.starts_with("Hello. What"));
    let body = json!({"model": "greeter", "messages": [{"role": "user", "content": "hello"}]});
    assert!(Openai.text(&gateway.chat(&body.to_string()).await).starts_with("Hello. What"));
}

// Hostile guests.

/// Of every kind: what any guest could do, in every phase, and what only some could.
const DEEDS: [&str; 17] = [
    "request loop",
    "request recurse",
    "request memory",
    "request panic",
    "request trap",
    "request notes",
    "request huge",
    "request garbage",
    "request wild-pointer",
    "request wild-length",
    "request wrong-status",
    "request wrong-text",
    "request other",
    "request many-edits",
    "route loop",
    "attempt panic",
    "response garbage",
];

fn hostile(more: &str) -> String {
    format!("[[stages]]\nuse = \"plugins/hostile.wasm\"\n{more}\n")
}

/// The answer's own record: others may be settled before or after it.
async fn record_of(gateway: &Gateway, answer: &Answer) -> Value {
    let path = format!("/api/v1/requests/{}", answer.header("x-request-id").expect("an id"));
    let mut record = Value::Null;
    eventually("the request is settled", async || {
        let found = gateway.admin("GET", &path, "").await;
        if found.status == 200 {
            record = found.json();
        }
        found.status == 200
    })
    .await;
    record
}

fn failed(record: &Value) -> Option<&str> {
    let steps = record["trace"].as_array().expect("a trace");
    steps.iter().find(|s| s["verdict"] == "failed").and_then(|s| s["reason"].as_str())
}

#[tokio::test]
async fn a_hostile_guest_costs_its_own_request_and_the_trace_names_plugin_and_phase() {
    let gateway = gateway(&hostile(""), &[("plugins/hostile.wasm", HOSTILE)]).await;
    for deed in DEEDS {
        let answer = say(&gateway, &format!("hostile {deed}")).await;
        assert_eq!(answer.status, 500, "{deed}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "stage_failed", "{deed}");
        let record = record_of(&gateway, &answer).await;
        let phase = deed.split(' ').next().unwrap_or_default();
        let told = failed(&record).unwrap_or_default();
        assert!(told.contains(&format!("plugins/hostile.wasm ({phase})")), "{deed}: {record}");
        assert_eq!(say(&gateway, "and now a harmless one").await.status, 200, "after {deed}");
    }
}

#[tokio::test]
async fn a_guest_that_fails_in_a_stream_ends_it_with_an_error() {
    let gateway = gateway(&hostile(""), &[("plugins/hostile.wasm", HOSTILE)]).await;
    for deed in ["garbage", "huge", "loop", "panic", "many", "other"] {
        let text = format!("hostile event {deed}");
        let body = json!({"model": "mock", "stream": true, "messages": [{"role": "user", "content": text}]});
        let answer = gateway.chat(&body.to_string()).await;
        // Nothing was written before: the status is still free.
        assert_eq!((answer.status, answer.complete), (500, true), "{deed}: {}", answer.text());
    }
    let stopped =
        json!({"model": "mock", "stream": true, "messages": [{"role": "user", "content": "hostile event stop"}]});
    let answer = gateway.chat(&stopped.to_string()).await;
    assert!(answer.text().contains("content_filter") && answer.text().contains("[DONE]"), "{}", answer.text());
}

#[tokio::test]
async fn a_guard_that_may_be_skipped_says_that_it_did_not_run() {
    let gateway = gateway(&hostile("on_error = \"skip\""), &[("plugins/hostile.wasm", HOSTILE)]).await;
    for deed in DEEDS {
        let answer = say(&gateway, &format!("hostile {deed}")).await;
        assert_eq!(answer.status, 200, "{deed}: {}", answer.text());
        let record = record_of(&gateway, &answer).await;
        assert!(failed(&record).is_some(), "{deed}: {record}");
        // It is out for the rest of the request: nothing after the failure.
        let steps = record["trace"].as_array().expect("a trace");
        let mut after = steps.iter().skip_while(|s| s["verdict"] != "failed").skip(1);
        assert!(after.all(|s| s["stage"] != "plugins/hostile.wasm"), "{deed}: {record}");
    }
    // What had changed the request and then failed fails it, whatever on_error says.
    let answer = say(&gateway, "hostile request change-then-trap").await;
    assert_eq!(answer.status, 500, "{}", answer.text());
}

#[tokio::test]
async fn sixty_four_hostile_guests_at_once_leave_their_neighbours_alone() {
    let calm = "[models.calm]\ntargets = [{ provider = \"mock\", model = \"mock\" }]\n";
    let config = format!("{calm}{}", hostile("only = { models = [\"mock\"] }"));
    let gateway = Arc::new(gateway(&config, &[("plugins/hostile.wasm", HOSTILE)]).await);
    say(&gateway, "warm").await;
    // What leaks grows each time; what a pool or a neighbouring test took once does not.
    let mut grown = u64::MAX;
    for _ in 0..4 {
        let before = resident();
        sixty_four_each(&gateway).await;
        grown = grown.min(resident().saturating_sub(before));
        if grown < 64 << 20 {
            break;
        }
    }
    assert!(grown < 64 << 20, "{} MiB stayed each time", grown >> 20);
    assert_eq!(say(&gateway, "and on it goes").await.status, 200);
}

async fn sixty_four_each(gateway: &Arc<Gateway>) {
    for deed in ["loop", "memory", "recurse", "panic", "notes"] {
        let evil: Vec<_> = (0..64)
            .map(|_| {
                let gateway = gateway.clone();
                tokio::spawn(async move { say(&gateway, &format!("hostile request {deed}")).await.status })
            })
            .collect();
        let calm = json!({"model": "calm", "messages": [{"role": "user", "content": "hi"}]}).to_string();
        for _ in 0..20 {
            assert_eq!(gateway.chat(&calm).await.status, 200, "beside {deed}");
        }
        for one in evil {
            assert_eq!(one.await.expect("answered"), 500, "{deed}");
        }
    }
}

/// Bytes of this process's memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("linux");
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    pages * 4096
}

#[tokio::test]
async fn each_request_has_a_fresh_guest_and_a_pooled_one_only_when_both_sides_say_so() {
    let gateway = gateway(&hostile(""), &[("plugins/hostile.wasm", HOSTILE)]).await;
    for _ in 0..3 {
        assert_eq!(says(&gateway, "hostile request count").await, "1");
        assert_eq!(says(&gateway, "hostile request tell").await, "");
    }
    gateway.rewrite(&hostile("isolation = \"pooled\""));
    eventually("instances are pooled", async || says(&gateway, "hostile request count").await != "1").await;
    // One that trapped is not among those that wait: whoever comes next, anew or from the pool, is whole.
    for _ in 0..3 {
        assert_eq!(say(&gateway, "hostile request trap").await.status, 500);
        let count = says(&gateway, "hostile request count").await;
        assert!(count.parse::<u32>().is_ok(), "{count}");
    }
    // A plugin that does not call itself reusable cannot be pooled.
    put(gateway.dir.path(), "plugins/hello.wasm", HELLO);
    gateway.rewrite("[[stages]]\nuse = \"plugins/hello.wasm\"\nisolation = \"pooled\"\n");
    eventually("pooling is refused", async || {
        status(&gateway).await["refused"]["errors"][0]["message"].as_str().is_some_and(|m| m.contains("reusable"))
    })
    .await;
}

#[tokio::test]
async fn a_guest_that_fails_to_describe_itself_never_goes_live() {
    for describe in ["loop", "panic", "memory", "error", "no-name", "no-phases", "garbage", "other-need", "long-name"] {
        let gateway = gateway("", &[]).await;
        put(gateway.dir.path(), "plugins/hostile.wasm", HOSTILE);
        gateway.rewrite(&hostile(&format!("config = {{ describe = \"{describe}\" }}")));
        eventually(describe, async || status(&gateway).await["refused"]["errors"][0]["file"] == "plugins/hostile.wasm")
            .await;
        assert_eq!(say(&gateway, "hi").await.status, 200);
    }
}

#[tokio::test]
async fn the_client_leaving_in_the_middle_of_a_call_is_settled() {
    let upstream = Upstream::saying(Say::sse(Openai.frames(&["a", "b"]).concat())).await;
    let config = format!("{}{}", upstream.provider("up", "openai_chat"), hostile("limits = { cpu = \"2s\" }"));
    let gateway = gateway(&config, &[("plugins/hostile.wasm", HOSTILE)]).await;
    let body = json!({"model": "up/m", "messages": [{"role": "user", "content": "hostile request loop"}]}).to_string();
    let socket = crate::support::begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
    drop(socket);
    let record = gateway.record(1).await;
    assert_eq!(record["status"], 499, "{record}");
    assert!(upstream.heard().is_empty());
}

/// What a guest waits for is not its processor time; a server that never gets to its end is left all the same.
#[tokio::test]
async fn a_call_that_drips_ends_at_its_deadline_and_costs_no_processor_time() {
    let upstream = Upstream::start().await;
    let drip = || Say::frames(&["x"; 600], Duration::from_millis(100));
    let grant = format!("grant = [\"log\", \"kv\", \"metrics\", \"clock\", \"http:{}\"]", upstream.addr);
    let config = format!("[[stages]]\nuse = \"plugins/probe.wasm\"\nlimits = {{ cpu = \"500ms\" }}\n{grant}\n");
    let gateway = gateway(&config, &[("plugins/probe.wasm", PROBE)]).await;
    upstream.always(drip());
    let begun = std::time::Instant::now();
    let url = format!("probe get http://{}/", upstream.addr);
    // The guest gives it two seconds; the server would take a minute.
    assert_eq!(says(&gateway, &url).await, "timeout");
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(40));
    upstream.is_cancelled(1).await;
    // A head that does not come is the same.
    upstream.always(Say::of(200, "text/plain", b"late".to_vec()).wait(Duration::from_secs(60)));
    assert_eq!(says(&gateway, &url).await, "timeout");
}

struct Ran {
    code: i32,
    stdout: String,
}

/// The program itself, with this on its standard input.
fn run(args: &[&str], input: Option<&str>) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let piped = std::process::Stdio::piped;
    let mut child = command.args(args).stdin(piped()).stdout(piped()).spawn().expect("spawn");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input.unwrap_or_default().as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Ran { code: output.status.code().unwrap_or(-1), stdout: String::from_utf8_lossy(&output.stdout).into_owned() }
}

#[tokio::test]
async fn inspect_check_and_explain_know_plugins() {
    let dir = tempfile::tempdir().expect("a folder");
    put(dir.path(), "plugins/hello.wasm", HELLO);
    put(dir.path(), "gateway.toml", b"[auth]\nrequired = false\n");
    let config = dir.path().join("gateway.toml").display().to_string();
    let file = dir.path().join("plugins/hello.wasm").display().to_string();
    let facts = run(&["plugin", "inspect", "--json", &file], None);
    let facts: Value = serde_json::from_str(&facts.stdout).expect("JSON");
    assert_eq!((facts["name"].as_str(), &facts["phases"]), (Some("hello"), &json!(["request"])));
    assert_eq!((&facts["problems"], &facts["needs"]), (&json!([]), &json!(["last-user-text"])));
    assert!(facts["code"].as_u64() > Some(10_000) && facts["memory"].as_u64() >= Some(65_536), "{facts}");
    let check = run(&["check", "--json", "--config", &config], None);
    let check: Value = serde_json::from_str(&check.stdout).expect("JSON");
    assert_eq!((&check["errors"], &check["stages"]), (&json!([]), &json!(["plugins/hello.wasm"])));
    let request = json!({"model": "mock", "messages": [{"role": "user", "content": "hello"}]}).to_string();
    let explain = run(&["explain", "--json", "--config", &config], Some(&request));
    let explain: Value = serde_json::from_str(&explain.stdout).expect("JSON");
    assert!(explain["text"].as_str().is_some_and(|t| t.starts_with("Hello. What")), "{explain}");
    put(dir.path(), "plugins/bad.wasm", b"x");
    let check = run(&["check", "--json", "--config", &config], None);
    assert_eq!(check.code, 78);
    assert!(check.stdout.contains("plugins/bad.wasm"), "{}", check.stdout);
    let cases = "[[case]]\nname = \"greets\"\nrequest = { model = \"mock\", messages = [{ role = \"user\", content = \"hello\" }] }\nexpect = { status = 200 }\n";
    put(dir.path(), "plugins/hello.test.toml", cases.as_bytes());
    let folder = dir.path().join("plugins").display().to_string();
    let test = run(&["test", "--config", &config, &folder], None);
    assert!(test.code == 0 && test.stdout.contains("1 case: 1 passed"), "{}", test.stdout);
    put(dir.path(), "plugins/hello.test.toml", cases.replace("200", "403").as_bytes());
    let test = run(&["test", "--config", &config, &folder], None);
    assert!(test.code == 1 && test.stdout.contains("FAILED"), "{}", test.stdout);
    let bench = run(&["plugin", "bench", "--json", "--rounds", "3", "--config", &config, &file], None);
    let figures: Value = serde_json::from_str(&bench.stdout).expect("JSON");
    assert_eq!((bench.code, &figures["name"], &figures["requests"]), (0, &json!("hello"), &json!(3)), "{figures}");
    let steps: Vec<_> = figures["steps"].as_array().expect("steps").iter().map(|s| s["step"].as_str()).collect();
    assert_eq!(steps, [Some("instance"), Some("request")]);
    for wrong in [["--size", "lots"], ["--phase", "event"], ["--with", "no JSON"], ["--request", "/nowhere.json"]] {
        let ran = run(&["plugin", "bench", wrong[0], wrong[1], "--config", &config, &file], None);
        assert!(ran.code != 0 && ran.stdout.is_empty(), "{wrong:?}: {}", ran.stdout);
    }
    let bad = dir.path().join("plugins/bad.wasm").display().to_string();
    let inspect = run(&["plugin", "inspect", &bad], None);
    assert!(inspect.code == 1 && inspect.stdout.contains("no WebAssembly file"), "{}", inspect.stdout);
}

#[tokio::test]
async fn a_plugin_that_is_not_listed_is_checked_but_needs_no_configuration_yet() {
    let listed = "[[stages]]\nuse = \"plugins/hello.wasm\"\n";
    let gateway = gateway(listed, &[("plugins/hello.wasm", HELLO), ("plugins/spare.wasm", HOSTILE)]).await;
    assert_eq!(status(&gateway).await["running"]["outside"], json!(["plugins/spare.wasm"]));
    put(gateway.dir.path(), "plugins/spare.wasm", b"broken");
    eventually("the spare one is refused", async || {
        status(&gateway).await["refused"]["errors"][0]["file"] == "plugins/spare.wasm"
    })
    .await;
}

/// `portcullis`, in a folder and with the path of our choice.
fn run_in(folder: &Path, path: Option<&str>, args: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(args).current_dir(folder).stdin(std::process::Stdio::null());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_plugin_is_begun_in_three_languages_and_what_is_missing_to_build_it_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    // A machine without any tool.
    let bare = dir.path().join("bare");
    std::fs::create_dir(&bare).expect("made");
    let bare = bare.display().to_string();
    for (language, begins, missing) in [
        ("rust", "src/lib.rs", "get it from https://rustup.rs"),
        ("js", "plugin.js", "https://nodejs.org"),
        ("python", "plugin.py", "apt-get install python3-venv"),
    ] {
        let name = format!("polite-{language}");
        let (code, out, err) = run_in(dir.path(), None, &["plugin", "new", "--lang", language, &name]);
        assert!(code == 0 && out.contains(&format!("{name}/{begins}")), "{out}{err}");
        assert!(dir.path().join(&name).join(begins).is_file());
        let (code, _, err) = run_in(dir.path(), Some(&bare), &["plugin", "build", &name]);
        assert!(code == 1 && err.contains(missing), "{language}: {err}");
        let (code, _, err) = run_in(dir.path(), None, &["plugin", "new", "--lang", language, &name]);
        assert!(code == 1 && err.contains("is there already"), "{err}");
    }
    let (code, _, err) = run_in(dir.path(), None, &["plugin", "new", "--lang", "cobol", "x"]);
    assert_eq!(code, 64, "{err}");
    let (code, _, err) = run_in(dir.path(), None, &["plugin", "new", "Not A Name"]);
    assert_eq!(code, 64, "{err}");
    let (code, _, err) = run_in(dir.path(), None, &["plugin", "build", "bare"]);
    assert!(code == 1 && err.contains("is no plugin's folder"), "{err}");
}

/// A gateway on this folder, until it runs; gives the lines that tell what it compiled.
fn starts(folder: &Path) -> Vec<String> {
    let log = folder.join("log");
    let out = std::fs::File::create(&log).expect("made");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("serve").current_dir(folder).env("PORTCULLIS_LOG", "debug").stdin(std::process::Stdio::null());
    let both = (out.try_clone().expect("a handle"), out);
    let mut child = command.stdout(both.0).stderr(both.1).spawn().expect("it starts");
    let begun = std::time::Instant::now();
    let text = loop {
        let text = std::fs::read_to_string(&log).expect("read");
        let ended = child.try_wait().expect("asked").is_some();
        if text.contains("http://") && text.contains("plugin compiled") {
            break text;
        }
        assert!(!ended && begun.elapsed() < Duration::from_secs(60), "{text}");
        std::thread::sleep(Duration::from_millis(20));
    };
    child.kill().expect("killed");
    child.wait().expect("gone");
    text.lines().filter(|line| line.contains("plugin compiled")).map(str::to_owned).collect()
}

#[test]
fn a_plugin_is_compiled_at_the_first_start_and_found_at_the_next_unless_somebody_touched_it() {
    let dir = tempfile::tempdir().expect("a folder");
    put(dir.path(), "plugins/hello.wasm", HELLO);
    let config = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[auth]\nrequired = false\n";
    put(dir.path(), "gateway.toml", config.as_bytes());
    let found = |lines: &[String], kept: bool| {
        assert!(lines.len() == 1 && lines[0].contains(&format!("\"kept\":{kept}")), "{lines:?}");
    };
    found(&starts(dir.path()), false);
    found(&starts(dir.path()), true);
    let mut folder = dir.path().join("data/compiled/modules");
    folder.push(std::fs::read_dir(&folder).expect("a folder").flatten().next().expect("an engine").file_name());
    let files = std::fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.path());
    let code: Vec<_> = files.filter(|path| path.extension().is_none()).collect();
    assert_eq!(code.len(), 1, "{code:?}");
    let mut bytes = std::fs::read(&code[0]).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&code[0], bytes).expect("written");
    found(&starts(dir.path()), false);
    found(&starts(dir.path()), true);
}
