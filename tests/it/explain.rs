//! `portcullis explain`: the decision from files, for the owner of a key in the stopped store, and on a running gateway's state.

use std::{path::Path, process::Output};

use serde_json::{Value, json};

use crate::support::{Gateway, Say, Upstream, eventually};

const CONFIG: &str = "[models.smart]\ntargets = [{ provider = \"mock\", model = \"m\" }]\n\
    [teams.red]\nmodels = [\"smart\", \"mock/*\"]\ndefaults = { temperature = 0.25 }\n";
const REQUEST: &str = r#"{"model":"smart","messages":[{"role":"user","content":"x"}]}"#;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.current_dir(folder).env_remove("PORTCULLIS_ADMIN_TOKEN").args(arguments).output().expect("it runs")
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn fails(output: &Output, words: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(words) && told.lines().count() == 1, "{told}");
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!("[store]\nkind = \"sled\"\npath = \"data\"\n{CONFIG}");
    std::fs::write(folder.path().join("gateway.toml"), config).expect("written");
    std::fs::write(folder.path().join("request.json"), REQUEST).expect("written");
    std::fs::create_dir(folder.path().join("scripts")).expect("a folder");
    let note =
        "fn request(request, context) { context.note(`${context.team} ${context.key} at ${request.temperature}`); }";
    std::fs::write(folder.path().join("scripts/a.rhai"), note).expect("written");
    folder
}

#[test]
fn a_key_or_its_id_stands_for_its_owner() {
    let folder = folder();
    let here = |arguments: &[&str]| run(folder.path(), arguments);
    let made = out(&here(&["keys", "create", "--name", "laptop", "--team", "red", "--models", "smart", "--json"]));
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let (id, secret) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));
    for key in [id, secret] {
        let told: Value =
            serde_json::from_str(&out(&here(&["explain", "--json", "--key", key, "request.json"]))).expect("JSON");
        assert_eq!(told["targets"], serde_json::json!(["mock/m"]), "{told}");
        assert_eq!((&told["caller"]["key"], &told["caller"]["team"]), (&id.into(), &"red".into()), "{told}");
        assert_eq!(told["caller"]["defaults"]["temperature"].as_f64(), Some(0.25), "{told}");
        assert_eq!(told["notes"][0]["text"], "red laptop at 0.25", "stages see the caller: {told}");
    }
    let told = out(&here(&["explain", "--text", "--key", id, "request.json"]));
    for line in [
        "(laptop), team red",
        "may use   smart (its key)",
        "may use   smart, mock/* (its team)",
        "default   temperature = 0.25",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    // What the key may not use is refused as it would be.
    std::fs::write(folder.path().join("other.json"), REQUEST.replace("smart", "mock/x")).expect("written");
    let told: Value =
        serde_json::from_str(&out(&here(&["explain", "--json", "--key", id, "other.json"]))).expect("JSON");
    assert_eq!((&told["status"], &told["targets"]), (&403.into(), &serde_json::json!([])), "{told}");
    out(&here(&["keys", "revoke", id]));
    fails(&here(&["explain", "--key", id, "request.json"]), "revoked");
    fails(&here(&["explain", "--key", secret, "request.json"]), "revoked");
}

#[test]
fn a_key_that_does_not_exist_is_a_sentence() {
    let folder = folder();
    let here = |arguments: &[&str]| run(folder.path(), arguments);
    fails(&here(&["explain", "--key", "key_none", "request.json"]), "no store in");
    assert!(!folder.path().join("data").exists(), "looking makes no store");
    out(&here(&["keys", "create", "--name", "k", "--quiet"]));
    fails(&here(&["explain", "--key", "key_none", "request.json"]), "no key \"key_none\"");
    fails(&here(&["explain", "--key", &format!("sk-pc-{}", "A".repeat(43)), "request.json"]), "key");
    fails(&here(&["explain", "--key", "sk-pc-short", "request.json"]), "key");
    assert_eq!(here(&["explain", "--key", "a", "--team", "b", "request.json"]).status.code(), Some(64));
}

#[tokio::test]
async fn a_running_gateway_is_asked_for_the_key() {
    let gateway = Gateway::start(CONFIG).await;
    let (id, secret) = gateway.key(r#"{"name":"k","team":"red"}"#).await;
    let folder = folder();
    let admin = format!("http://{}", gateway.admin);
    let ask = async |key: &str| {
        let (folder, admin, key) = (folder.path().to_owned(), admin.clone(), key.to_owned());
        let asking = move || run(&folder, &["explain", "--json", "--key", &key, "--admin", &admin, "request.json"]);
        tokio::task::spawn_blocking(asking).await.expect("it runs")
    };
    let told: Value = serde_json::from_str(&out(&ask(&id).await)).expect("JSON");
    assert_eq!((&told["caller"]["key"], &told["caller"]["team"]), (&id.as_str().into(), &"red".into()), "{told}");
    fails(&ask("key_none").await, "no key \"key_none\"");
    fails(&ask(&secret).await, "by their id only");
}

#[test]
fn text_is_for_people_and_json_for_everything_else() {
    let folder = folder();
    let here = |arguments: &[&str]| out(&run(folder.path(), arguments));
    // A pipe is no terminal.
    let told: Value = serde_json::from_str(&here(&["explain", "--team", "red", "request.json"])).expect("JSON");
    assert_eq!(told["candidates"][0]["verdict"], "taken", "{told}");
    assert_eq!((&told["notes"][0]["line"], &told["stages"][0]["line"]), (&1.into(), &1.into()), "{told}");
    let told = here(&["explain", "--text", "--team", "red", "request.json"]);
    assert!(told.lines().any(|line| line.starts_with("targets   1. mock/m")), "{told}");
    assert!(told.contains("scripts/a.rhai:1 (request): continue ["), "{told}");
}

#[tokio::test]
async fn the_command_asks_a_running_gateway_for_its_live_state() {
    let ill = Upstream::saying(Say::error(500, "{}")).await;
    let config = format!(
        "{}[models.smart]\ntargets = [{{ provider = \"ill\", model = \"m\" }}, {{ provider = \"mock\", model = \"m\" }}]\n",
        ill.provider("ill", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    for _ in 0..5 {
        assert_eq!(gateway.chat(REQUEST).await.status, 200);
    }
    let ran = gateway.chat(REQUEST).await.header("x-request-id").expect("an id").to_owned();
    let (folder, admin) = (folder(), format!("http://{}", gateway.admin));
    let path = format!("/api/v1/requests/{ran}");
    eventually("it is settled", async || gateway.admin("GET", &path, "").await.status == 200).await;
    let asking = move || {
        let record = out(&run(folder.path(), &["explain", "--text", "--admin", &admin, "--record", &ran]));
        assert!(record.contains("targets   1. mock/m") && record.contains("attempt   1. mock/m: ok ["), "{record}");
        assert!(record.lines().any(|line| line.starts_with("ended     200")), "{record}");
        let text = out(&run(folder.path(), &["explain", "--text", "--admin", &admin, "request.json"]));
        (text, out(&run(folder.path(), &["explain", "--admin", &admin, "request.json"])))
    };
    let (text, told) = tokio::task::spawn_blocking(asking).await.expect("it runs");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["targets"], json!(["mock/m"]), "{told}");
    assert!(text.contains("targets   1. mock/m") && text.contains("passed    ill/m (ejected): "), "{text}");
}
