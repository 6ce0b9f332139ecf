//! Every folder of examples/ is whole: it passes `check` and `test`, it starts, and it does what it says without a key or a
//! model server.

use std::{fs, path::Path, process::Command};

use crate::support::Gateway;

const FOLDERS: [&str; 6] = ["cached", "clouds", "failover", "local-models", "quality-gate", "team-keys"];

#[test]
fn all_are_in_the_table_and_in_the_list() {
    let root = root();
    let table = fs::read_to_string(root.join("README.md")).expect("README.md");
    let mut found: Vec<_> = fs::read_dir(&root)
        .expect("examples/")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| root.join(name).join("gateway.toml").is_file())
        .collect();
    found.sort();
    assert_eq!(found, FOLDERS);
    for name in found {
        assert!(table.contains(&format!("[{name}]({name})")), "examples/README.md lacks {name}");
    }
}

#[test]
fn all_pass_check_and_their_own_tests() {
    for name in FOLDERS {
        let (folder, file) = copy(name);
        let cases = fs::read_dir(folder.path().join("scripts")).into_iter().flatten().filter_map(Result::ok);
        let tested = cases.map(|e| e.path()).any(|p| p.to_string_lossy().ends_with(".test.toml"));
        let commands: &[&str] = if tested { &["check", "test"] } else { &["check"] };
        for command in commands {
            let ran = Command::new(env!("CARGO_BIN_EXE_portcullis"))
                .args([*command, "--config", &file])
                .env_clear()
                .output()
                .expect("the binary runs");
            let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
            assert!(ran.status.success(), "{command} {name}: {said}");
        }
    }
}

#[tokio::test]
async fn local_models_answer_as_mock_when_none_runs() {
    let gateway = start("local-models").await;
    let answer = gateway.chat(&ask("chat", "hello")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let embedded = gateway.post("/v1/embeddings", r#"{"model": "embed", "input": "hello"}"#).await;
    assert_eq!(embedded.status, 200, "{}", embedded.text());
}

#[tokio::test]
async fn clouds_without_credentials_are_passed_over() {
    let gateway = start("clouds").await;
    for model in ["claude", "claude-strict"] {
        let answer = gateway.chat(&ask(model, "hello")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-portcullis-target"), Some("mock/claude"));
    }
}

#[tokio::test]
async fn cached_answers_and_vectors_are_given_again() {
    let gateway = start("cached").await;
    for expected in ["miss", "hit"] {
        let answer = gateway.chat(&ask("faq", "hello")).await;
        assert_eq!((answer.status, answer.header("x-portcullis-cache")), (200, Some(expected)), "{}", answer.text());
        let embedded = gateway.post("/v1/embeddings", r#"{"model": "embed", "input": "hello"}"#).await;
        assert_eq!(
            (embedded.status, embedded.header("x-portcullis-cache")),
            (200, Some(expected)),
            "{}",
            embedded.text()
        );
    }
    assert!(gateway.dir.path().join("data/cache").is_dir(), "they lie in files");
}

#[tokio::test]
async fn failover_ends_at_the_last_resort() {
    let gateway = start("failover").await;
    for model in ["smart", "fast"] {
        let answer = gateway.chat(&ask(model, "hello")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-portcullis-target"), Some("mock/last-resort"));
    }
}

#[tokio::test]
async fn the_quality_gate_asks_the_next_model() {
    let gateway = start("quality-gate").await;
    let good = gateway.chat(&ask("careful", "say hello")).await;
    assert_eq!((good.status, good.header("x-portcullis-attempts")), (200, Some("1")), "{}", good.text());
    assert_eq!(good.header("x-portcullis-target"), Some("mock/cheap"));
    let poor = gateway.chat(&ask("careful", "[mock: text=I am not sure.]")).await;
    assert_eq!((poor.status, poor.header("x-portcullis-attempts")), (200, Some("2")), "{}", poor.text());
    assert!(poor.text().contains("I am not sure."));
}

#[tokio::test]
async fn teams_use_their_own_models() {
    let gateway = start("team-keys").await;
    let (_, ana) = gateway.key(r#"{"name": "ana", "team": "research"}"#).await;
    let (_, ben) = gateway.key(r#"{"name": "ben", "team": "support"}"#).await;
    for (key, model, status) in [(&ana, "house", 200), (&ana, "deep", 200), (&ben, "house", 200), (&ben, "deep", 403)] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = gateway.post_with("/v1/chat/completions", &headers, &ask(model, "hello")).await;
        assert_eq!(answer.status, status, "{model}: {}", answer.text());
    }
    assert_eq!(gateway.chat(&ask("house", "hello")).await.status, 401);
}

/// Whatever keys and servers this machine has, no example reaches them from here.
async fn start(name: &str) -> Gateway {
    let (folder, file) = copy(name);
    let mut config = fs::read_to_string(file).expect("gateway.toml").replace("\"env:", "\"env:NOT_SET_HERE_");
    config = config.replace("= {} ", "= { base_url = \"http://127.0.0.1:9/v1\" } ");
    for port in ["8000", "8082"] {
        config = config.replace(&format!("127.0.0.1:{port}/"), "127.0.0.1:9/");
    }
    Gateway::in_dir(folder, &config).await
}

/// A copy, so that nothing is written into the repository.
fn copy(name: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    copy_all(&root().join(name), folder.path());
    let file = folder.path().join("gateway.toml").to_string_lossy().into_owned();
    (folder, file)
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn ask(model: &str, text: &str) -> String {
    serde_json::json!({"model": model, "messages": [{"role": "user", "content": text}]}).to_string()
}
