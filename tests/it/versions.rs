//! Policy is deployed like code: each saved change is a version, two can be compared, one call returns to an earlier one, and
//! no restart and no reload hides which one runs. Five hundred broken ones under load change nothing and fail nobody.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Openai},
    support::{Answer, Gateway, Process, Say, Upstream, eventually, request},
};

pub fn alias(target: &str) -> String {
    format!("[models.here]\ntargets = [{{ provider = \"mock\", model = \"{target}\" }}]\n")
}

pub async fn status(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/api/v1/config/status", "").await.json()
}

pub async fn leads_to(gateway: &Gateway, target: &str) {
    eventually("requests go there", async || {
        Openai.ask(gateway, "here", false).await.header("x-portcullis-target") == Some(target)
    })
    .await;
}

pub async fn versions(gateway: &Gateway) -> Vec<Value> {
    gateway.admin("GET", "/api/v1/versions", "").await.json()["data"].as_array().cloned().unwrap_or_default()
}

/// Of all versions, newest first.
async fn states(gateway: &Gateway) -> Vec<(String, String)> {
    let word = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    versions(gateway).await.iter().map(|row| (word(row, "id"), word(row, "state"))).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn each_change_that_went_live_is_a_version_with_its_files() {
    let script = "fn log(record, context) { }\n";
    let gateway = Gateway::with(&alias("one"), &[("scripts/a.rhai", script)]).await;
    gateway.rewrite(&alias("two"));
    leads_to(&gateway, "mock/two").await;
    let rows = versions(&gateway).await;
    let facts = |row: &Value| (row["id"].clone(), row["state"].clone(), row["cause"].clone(), row["was"].clone());
    assert_eq!(facts(&rows[0]), (json!("v2"), json!("live"), json!("files"), json!("v1")));
    assert_eq!(facts(&rows[1]), (json!("v1"), json!("former"), json!("start"), Value::Null));
    assert!(rows.iter().all(|row| row["kept"] == true && row["hash"].as_str().is_some_and(|h| h.len() == 16)));
    assert_eq!(status(&gateway).await["version"]["id"], "v2");
    let one = gateway.admin("GET", "/api/v1/versions/v1", "").await.json();
    let files: Vec<&str> =
        one["contents"].as_array().expect("files").iter().filter_map(|f| f["file"].as_str()).collect();
    assert_eq!(files, ["gateway.toml", "scripts/a.rhai"]);
    // Pages, newest first.
    let page = gateway.admin("GET", "/api/v1/versions?limit=1", "").await.json();
    assert_eq!((page["data"][0]["id"].clone(), page["next_cursor"].clone()), (json!("v2"), json!("2")));
    let rest = gateway.admin("GET", "/api/v1/versions?limit=1&cursor=2", "").await.json();
    assert_eq!((rest["data"][0]["id"].clone(), rest["next_cursor"].clone()), (json!("v1"), Value::Null));
    // A touched file is no version.
    gateway.rewrite(&alias("two"));
    let reload = gateway.admin("POST", "/api/v1/config/reload", "").await.json();
    assert_eq!((reload["outcome"].clone(), versions(&gateway).await.len()), (json!("unchanged"), 2));
    for path in ["/api/v1/versions/v9", "/api/v1/versions/v1/diff/v9"] {
        assert_eq!(gateway.admin("GET", path, "").await.status, 404);
    }
}

#[tokio::test]
async fn two_versions_are_compared_by_file_stage_and_target() {
    let gateway = Gateway::with(&alias("one"), &[("scripts/a.rhai", "fn log(record, context) { }\n")]).await;
    gateway.rewrite(&alias("two"));
    leads_to(&gateway, "mock/two").await;
    gateway.write("scripts/b.rhai", "fn request(request, context) { request.temperature = 0.5; }\n");
    eventually("the script is live", async || status(&gateway).await["version"]["id"] == "v3").await;
    let diff = gateway.admin("GET", "/api/v1/versions/v1/diff/v3", "").await.json();
    let files = diff["files"].as_array().expect("files");
    let text = files[0]["diff"].as_str().expect("a text");
    assert!(text.contains("--- v1/gateway.toml\n+++ v3/gateway.toml\n"), "{text}");
    assert!(text.contains("-targets = [{ provider = \"mock\", model = \"one\" }]\n+targets = "), "{text}");
    assert_eq!((files[1]["file"].clone(), files[1]["change"].clone()), (json!("scripts/b.rhai"), json!("added")));
    assert_eq!(diff["summary"]["stages"]["added"], json!(["scripts/b.rhai"]));
    assert_eq!(diff["summary"]["targets"][0]["now"]["targets"], json!(["mock/two"]));
    let none = gateway.admin("GET", "/api/v1/versions/running/diff/files", "").await.json();
    assert_eq!(none["files"], json!([]));
}

#[tokio::test]
async fn one_call_returns_to_an_earlier_version_and_says_so_until_the_files_change() {
    let gateway = Gateway::start(&alias("one")).await;
    gateway.rewrite(&alias("two"));
    leads_to(&gateway, "mock/two").await;
    let body = r#"{"author":"ann","note":"two is slow"}"#;
    let answer = gateway.admin("POST", "/api/v1/versions/v1/rollback", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // At once: the very next request.
    let target = Openai.ask(&gateway, "here", false).await;
    assert_eq!(target.header("x-portcullis-target"), Some("mock/one"));
    let row = &versions(&gateway).await[0];
    assert_eq!((row["id"].clone(), row["cause"].clone()), (json!("v3"), json!("rollback")));
    assert_eq!((row["rollback_of"].clone(), row["was"].clone()), (json!("v1"), json!("v2")));
    assert_eq!((row["author"].clone(), row["note"].clone()), (json!("ann"), json!("two is slow")));
    // Nothing hides that the files are another version.
    let told = status(&gateway).await;
    assert_eq!((told["pinned"]["version"].clone(), told["files"]["running"].clone()), (json!("v3"), json!(false)));
    assert!(told["files"]["why"].as_str().is_some_and(|why| why.contains("v3 is pinned")), "{told}");
    for ready in [gateway.get("/health/ready").await, gateway.admin("GET", "/health/ready", "").await] {
        assert!(ready.status == 200 && ready.json()["pinned"]["author"] == "ann", "{}", ready.text());
    }
    let reload = gateway.admin("POST", "/api/v1/config/reload", "").await.json();
    assert_eq!(reload["outcome"], "pinned");
    let diff = gateway.admin("GET", "/api/v1/versions/running/diff/files", "").await.json();
    assert_eq!(diff["summary"]["targets"][0]["now"]["targets"], json!(["mock/two"]));
    // A broken change releases nothing; a sound one does.
    gateway.write("scripts/a.rhai", "fn request(");
    eventually("it is refused", async || !status(&gateway).await["refused"].is_null()).await;
    assert_eq!(status(&gateway).await["pinned"]["version"], "v3");
    gateway.write("scripts/a.rhai", "fn log(record, context) { }\n");
    leads_to(&gateway, "mock/two").await;
    // The new version serves a moment before the refusal is taken back, never the other way round.
    eventually("the refusal is taken back", async || status(&gateway).await["refused"].is_null()).await;
    let told = status(&gateway).await;
    assert!(told["pinned"].is_null() && told["files"]["running"] == true, "{told}");
}

#[tokio::test]
async fn a_pin_is_released_by_a_call_or_by_files_that_are_the_same() {
    let gateway = Gateway::start(&alias("one")).await;
    gateway.rewrite(&alias("two"));
    leads_to(&gateway, "mock/two").await;
    let hash = status(&gateway).await["version"]["hash"].as_str().expect("a hash").to_owned();
    assert_eq!(gateway.admin("POST", "/api/v1/config/unpin", "").await.status, 409);
    gateway.admin("POST", "/api/v1/versions/1/rollback", "").await;
    let answer = gateway.admin("POST", "/api/v1/config/unpin", "").await.json();
    assert_eq!((answer["outcome"].clone(), answer["version"]["hash"].clone()), (json!("live"), json!(hash)));
    leads_to(&gateway, "mock/two").await;
    gateway.admin("POST", "/api/v1/versions/v1/rollback", "").await;
    assert!(!status(&gateway).await["pinned"].is_null());
    gateway.rewrite(&alias("one"));
    eventually("nothing is left to pin", async || status(&gateway).await["pinned"].is_null()).await;
    leads_to(&gateway, "mock/one").await;
    // Back to what lies in the folder: nothing to pin either. By hash, the newest of those with it.
    gateway.rewrite(&alias("three"));
    leads_to(&gateway, "mock/three").await;
    let hash = status(&gateway).await["version"]["hash"].as_str().expect("a hash").to_owned();
    gateway.admin("POST", "/api/v1/versions/v1/rollback", "").await;
    gateway.admin("POST", &format!("/api/v1/versions/{}/rollback", &hash[..8]), "").await;
    let told = status(&gateway).await;
    assert!(told["pinned"].is_null() && told["version"]["hash"] == *hash, "{told}");
}

#[tokio::test]
async fn a_version_that_cannot_run_any_more_is_not_returned_to() {
    let keyed = |target: &str| {
        format!(
            "[providers.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nformat = \"openai_chat\"\nkey = \"file:up.key\"\n{}",
            alias(target)
        )
    };
    let gateway = Gateway::with(&keyed("one"), &[("up.key", "sk-secret-one")]).await;
    gateway.rewrite(&alias("two"));
    leads_to(&gateway, "mock/two").await;
    std::fs::remove_file(gateway.dir.path().join("up.key")).expect("removed");
    let answer = gateway.admin("POST", "/api/v1/versions/v1/rollback", "").await;
    assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (409, json!("version_cannot_run")));
    assert!(answer.text().contains("up.key"), "{}", answer.text());
    let told = status(&gateway).await;
    assert!(told["version"]["id"] == "v2" && told["pinned"].is_null(), "{told}");
    leads_to(&gateway, "mock/two").await;
}

#[tokio::test]
async fn a_reload_by_call_waits_names_its_author_and_tells_every_mistake() {
    let gateway = Gateway::start(&alias("one")).await;
    gateway.rewrite(&alias("two"));
    let answer = gateway.admin("POST", "/api/v1/config/reload", r##"{"author":"ci","note":"#12"}"##).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let target = Openai.ask(&gateway, "here", false).await;
    assert_eq!(target.header("x-portcullis-target"), Some("mock/two"), "what the call says is so");
    // Whoever was first, the watcher or the call: the version has its author.
    let row = &versions(&gateway).await[0];
    assert_eq!((row["author"].clone(), row["note"].clone()), (json!("ci"), json!("#12")));
    gateway.write("scripts/a.rhai", "fn request(");
    gateway.write("scripts/b.rhai", "fn route(");
    let answer = gateway.admin("POST", "/api/v1/config/reload", "").await;
    let told = answer.json();
    let files: Vec<&str> =
        told["errors"].as_array().expect("errors").iter().filter_map(|e| e["file"].as_str()).collect();
    assert_eq!((answer.status, files), (422, vec!["scripts/a.rhai", "scripts/b.rhai"]));
    assert_eq!((told["outcome"].clone(), told["error"]["code"].clone()), (json!("refused"), json!("config_refused")));
    assert_eq!(versions(&gateway).await.len(), 2);
}

#[tokio::test]
async fn secrets_are_in_no_version_and_a_new_one_is_used_whatever_is_pinned() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = |target: &str| {
        let provider = upstream.provider("up", "openai_chat");
        let keyed = provider.replace(
            "auth = \"none\"",
            "auth = \"bearer\"\nkey = \"file:up.key\"\nheaders = { x-tag = \"hush-hush\" }",
        );
        format!("[store]\nkind = \"sled\"\n{keyed}{}", alias(target))
    };
    let gateway = Gateway::with(&config("one"), &[("up.key", "sk-secret-one")]).await;
    gateway.rewrite(&config("two"));
    leads_to(&gateway, "mock/two").await;
    gateway.admin("POST", "/api/v1/versions/v1/rollback", "").await;
    gateway.write("up.key", "sk-secret-two");
    eventually("the new key is used by the pinned version", async || {
        Openai.ask(&gateway, "up/m", false).await;
        upstream.last().header("authorization") == Some("Bearer sk-secret-two")
    })
    .await;
    assert_eq!(versions(&gateway).await.len(), 3, "a key is no version");
    assert_eq!(status(&gateway).await["pinned"]["version"], "v3");
    let mut kept = 0;
    for entry in std::fs::read_dir(gateway.dir.path().join("data/versions")).expect("kept files") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
        assert!(!String::from_utf8_lossy(&bytes).contains("sk-secret"));
        kept += 1;
    }
    assert!(kept >= 2);
    for path in ["/api/v1/versions/v1/diff/v2", "/api/v1/versions/v1", "/api/v1/versions"] {
        let shown = gateway.admin("GET", path, "").await.text();
        assert!(!shown.contains("sk-secret") && !shown.contains("hush-hush"), "{shown}");
    }
}

#[tokio::test]
async fn a_plugin_is_part_of_its_version_and_comes_back_with_it() {
    let gateway = Gateway::start(&alias("one")).await;
    let hello = std::fs::read(format!("{}/plugins/hello/hello.wasm", env!("CARGO_MANIFEST_DIR"))).expect("a plugin");
    std::fs::create_dir_all(gateway.dir.path().join("plugins")).expect("a folder");
    std::fs::write(gateway.dir.path().join("plugins/hello.wasm"), &hello).expect("written");
    let greeted = async || Openai.text(&gateway.chat(&Openai.body("here", false, "hello")).await);
    eventually("the plugin is live", async || greeted().await.contains("What can I do for you")).await;
    std::fs::remove_file(gateway.dir.path().join("plugins/hello.wasm")).expect("removed");
    eventually("it is gone", async || !greeted().await.contains("What can I do for you")).await;
    let answer = gateway.admin("POST", "/api/v1/versions/v2/rollback", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(greeted().await.contains("What can I do for you"));
    let diff = gateway.admin("GET", "/api/v1/versions/v2/diff/v3", "").await.json();
    assert_eq!(diff["summary"]["stages"]["removed"], json!(["plugins/hello.wasm"]));
}

const SLED: &str = "[store]\nkind = \"sled\"\n";

async fn told(gateway: &Process) -> Value {
    gateway.admin("GET", "/api/v1/config/status", "").await.json()
}

async fn target(gateway: &Process) -> Option<String> {
    let body = Openai.body("here", false, "hello");
    let answer = request(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    answer.header("x-portcullis-target").map(str::to_owned)
}

fn command(gateway: &Process, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command.args(words).current_dir(gateway.path()).env_remove("PORTCULLIS_ADMIN_TOKEN").output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

#[tokio::test]
async fn a_pin_outlives_restarts_and_is_over_when_the_files_changed_meanwhile() {
    let config = |target: &str| format!("{SLED}{}", alias(target));
    let mut gateway = Process::start(&config("one"), &[]).await;
    gateway.save("gateway.toml", &config("two"));
    eventually("two is live", async || target(&gateway).await.as_deref() == Some("mock/two")).await;
    let admin = format!("http://{}", gateway.admin);
    let (done, text) = command(&gateway, &["versions", "rollback", "v1", "--author", "ann", "--admin", &admin]);
    assert!(done && text.contains("v3 runs") && text.contains("pinned"), "{text}");
    for round in 0..2 {
        if round == 0 {
            gateway.restart().await
        } else {
            gateway.kill_and_restart().await
        }
        assert_eq!(target(&gateway).await.as_deref(), Some("mock/one"), "round {round}");
        assert_eq!(told(&gateway).await["pinned"]["version"], "v3");
        eventually("the start says so", async || gateway.log().contains("v3 is pinned since")).await;
    }
    gateway.halt();
    let (done, text) = command(&gateway, &["versions", "list"]);
    assert!(done && text.contains("v3 ") && text.contains("ann"), "{text}");
    let (done, text) = command(&gateway, &["versions", "diff", "v1", "v2"]);
    assert!(done && text.contains("+++ v2/gateway.toml") && text.contains("model here:"), "{text}");
    let (done, text) = command(&gateway, &["versions", "show", "v1"]);
    assert!(done && text.contains("gateway.toml"), "{text}");
    gateway.save("gateway.toml", &config("three"));
    gateway.again().await;
    assert_eq!(target(&gateway).await.as_deref(), Some("mock/three"));
    assert!(told(&gateway).await["pinned"].is_null());
    eventually("the start says so", async || gateway.log().contains("v3 was pinned")).await;
}

#[tokio::test]
async fn a_pinned_version_that_cannot_run_keeps_the_gateway_from_starting_and_says_what_to_do() {
    let keyed = format!(
        "{SLED}[providers.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nformat = \"openai_chat\"\nkey = \"file:up.key\"\n{}",
        alias("one")
    );
    let mut gateway = Process::start(&keyed, &[("up.key", "sk-x")]).await;
    gateway.save("gateway.toml", &format!("{SLED}{}", alias("two")));
    eventually("two is live", async || target(&gateway).await.as_deref() == Some("mock/two")).await;
    let answer = gateway.admin("POST", "/api/v1/versions/v1/rollback", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.halt();
    std::fs::remove_file(gateway.path().join("up.key")).expect("removed");
    let (done, text) = command(&gateway, &["serve"]);
    assert!(!done && text.contains("v3 is pinned and cannot run") && text.contains("versions unpin"), "{text}");
    let (done, text) = command(&gateway, &["versions", "unpin"]);
    assert!(done && text.contains("v3 is not pinned any more"), "{text}");
    gateway.again().await;
    assert_eq!(target(&gateway).await.as_deref(), Some("mock/two"));
}

/// A mistake to save: the file, what it holds, and the file that the status has to name.
struct Break {
    file: &'static str,
    bytes: Vec<u8>,
    named: &'static str,
    /// Written over the old one in two halves, not renamed into its place.
    in_place: bool,
}

fn broken(round: usize, config: &str, script: &str, plugin: &[u8]) -> Break {
    // A file that is new, or emptied first, would be another sound version for a moment.
    let in_place = |file: &str| file == "scripts/a.rhai" && round % 2 == 1;
    let text = |file, text: String, named| Break { file, bytes: text.into_bytes(), named, in_place: in_place(file) };
    let toml = |more: String| text("gateway.toml", format!("{config}{more}"), "gateway.toml");
    let wasm = |bytes| Break { file: "plugins/zz.wasm", bytes, named: "plugins/zz.wasm", in_place: false };
    match round % 16 {
        0 => text(
            "scripts/a.rhai",
            format!("fn request(request, context) {{\n  let x{round} = ;\n}}\n"),
            "scripts/a.rhai",
        ),
        1 => text("scripts/a.rhai", format!("// {round}\nfn request(request) {{ }}\n"), "scripts/a.rhai"),
        2 => text(
            "scripts/a.test.toml",
            format!(
                "# {round}\n[[case]]\nname = \"wrong\"\nrequest = {{ model = \"here\", messages = [] }}\nexpect = {{ target = \"mock/other\" }}\n"
            ),
            "scripts/a.test.toml",
        ),
        3 => toml(format!("[server2]\nx{round} = 1\n")),
        4 => toml(format!("[media]\nmax_size = \"{round} parsecs\"\n")),
        5 => text("gateway.toml", format!("# {round}\n{}", &config[..config.len() - 7]), "gateway.toml"),
        6 => text("scripts/a.rhai", format!("// {round}\n{}", &script[..script.len() - 4]), "scripts/a.rhai"),
        7 => wasm(format!("no plugin {round}").into_bytes()),
        8 => wasm([&plugin[..plugin.len() / 2], &[round as u8, (round >> 8) as u8]].concat()),
        9 => text("scripts/a.test.toml", format!("[[case]\nname = \"{round}\"\n"), "scripts/a.test.toml"),
        10 => toml(format!("[models.x]\ntargets = [{{ provider = \"none{round}\", model = \"m\" }}]\n")),
        11 => toml(format!("[[stages]]\nuse = \"scripts/none{round}.rhai\"\n")),
        12 => toml(format!(
            "[providers.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nformat = \"openai_chat\"\nkey = \"file:none{round}.key\"\n"
        )),
        13 => text(
            "scripts/b.rhai",
            format!("const STREAM = \"sideways{round}\";\nfn log(record, context) {{ }}\n"),
            "scripts/b.rhai",
        ),
        14 => Break {
            file: "scripts/a.rhai",
            bytes: [format!("// {round} ").as_bytes(), &[0xff, 0xfe, b'\n']].concat(),
            named: "scripts/a.rhai",
            in_place: round % 32 < 16,
        },
        _ => text("scripts/a.rhai", format!("fn response(response, context) {{ {round}; }}\n"), "scripts/a.rhai"),
    }
}

/// 500 with `PORTCULLIS_LONG=1`, else 20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_versions_under_load_never_go_live_and_fail_no_request() {
    let count = if std::env::var_os("PORTCULLIS_LONG").is_some_and(|v| v == "1") { 500 } else { 20 };
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\nkind = \"memory\"\n[auth]\nrequired = false\n{}",
        alias("bad")
    );
    let script = "fn route(request, targets, context) {\n    return [\"mock/good\"];\n}\n";
    let hello = std::fs::read(format!("{}/plugins/hello/hello.wasm", env!("CARGO_MANIFEST_DIR"))).expect("a plugin");
    let gateway = Process::start(&config, &[("scripts/a.rhai", script)]).await;
    std::fs::create_dir_all(gateway.path().join("plugins")).expect("a folder");
    let good = told(&gateway).await["running"]["hash"].clone();
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let load = async |seat: usize| {
        let mut n = seat;
        while !over.load(Ordering::Relaxed) {
            let (family, stream) = (FAMILIES[n % 3], n.is_multiple_of(2));
            let (path, body) = (family.path("here", stream), family.body("here", stream, "hi"));
            let headers = [("content-type", "application/json")];
            let answer: Answer = request(gateway.addr, "POST", &path, &headers, body.as_bytes()).await;
            assert!(answer.status == 200 && answer.complete, "{} {}", answer.status, answer.text());
            assert_eq!(answer.header("x-portcullis-target"), Some("mock/good"), "no other version decides");
            served.fetch_add(1, Ordering::Relaxed);
            n += 1;
        }
    };
    let breaking = async {
        let mut last = Value::Null;
        for round in 0..count {
            let wrong = broken(round, &config, script, &hello);
            gateway.put(wrong.file, &wrong.bytes, wrong.in_place);
            let mut now = Value::Null;
            eventually("this one is refused by name", async || {
                now = told(&gateway).await;
                let errors = now["refused"]["errors"].as_array().cloned().unwrap_or_default();
                now["refused"]["hash"] != last && errors.iter().any(|e| e["file"] == wrong.named && e["line"].is_u64())
            })
            .await;
            assert_eq!(now["running"]["hash"], good, "round {round}");
            last = now["refused"]["hash"].clone();
            match wrong.file {
                "gateway.toml" => gateway.save("gateway.toml", &config),
                "scripts/a.rhai" => gateway.save("scripts/a.rhai", script),
                file => std::fs::remove_file(gateway.path().join(file)).expect("removed"),
            }
        }
        eventually("all is mended", async || told(&gateway).await["refused"].is_null()).await;
        over.store(true, Ordering::Relaxed);
    };
    futures_util::join!(breaking, load(0), load(1), load(2), load(3));
    let after = told(&gateway).await;
    assert_eq!((after["running"]["hash"].clone(), after["version"]["id"].clone()), (good, json!("v1")));
    let rows = gateway.admin("GET", "/api/v1/versions", "").await.json();
    assert_eq!(rows["data"].as_array().map(Vec::len), Some(1), "what was never live is no version");
    let refused = gateway.metrics().await;
    let refused =
        refused.lines().find_map(|l| l.strip_prefix("portcullis_config_reload_failure_total ")).expect("a count");
    assert!(refused.parse::<usize>().expect("a number") >= count, "{refused} refusals");
    assert!(served.load(Ordering::Relaxed) > count as u64, "{} requests beside", served.load(Ordering::Relaxed));
}

mod rollouts;
