//! The command on a stopped store and on a running admin plane: same words, same answers.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use clap::Parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    account::Ledger,
    admin::{self, Action, AdminState, Deployment, Facts},
    config::{self, StoreKind},
    store::{self, Memory},
    telemetry::Ring,
    versions::{By, Versions},
};

type Later = futures_util::future::BoxFuture<'static, crate::error::Result<Value>>;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    keys: Args,
}

fn parse(words: &[&str]) -> Result<Args, clap::Error> {
    Cli::try_parse_from([&["keys"], words].concat()).map(|cli| cli.keys)
}

/// A gateway.toml with this store.
fn place_in(folder: &Path, kind: &str) -> config::Place {
    let file = folder.join("gateway.toml");
    std::fs::write(&file, format!("[store]\nkind = \"{kind}\"\npath = \"data\"\n")).unwrap();
    config::Place::File(file)
}

struct Nothing;

impl Facts for Nothing {
    fn teams(&self) -> Vec<Value> {
        Vec::new()
    }
    fn config_status(&self) -> Value {
        Value::Null
    }
    fn models(&self) -> Vec<Value> {
        Vec::new()
    }
    fn providers(&self) -> Vec<Value> {
        Vec::new()
    }
    fn ready(&self) -> (bool, Value) {
        (true, Value::Null)
    }
}

/// Keys have nothing to do with versions.
struct NoVersions(Versions);

impl Deployment for NoVersions {
    fn versions(&self) -> &Versions {
        &self.0
    }
    fn rollout(&self) -> Value {
        Value::Null
    }
    fn show(self: Arc<Self>, _: String) -> Later {
        Box::pin(std::future::ready(Ok(Value::Null)))
    }
    fn diff(self: Arc<Self>, _: String, _: String) -> Later {
        Box::pin(std::future::ready(Ok(Value::Null)))
    }
    fn act(self: Arc<Self>, _: Action, _: By) -> Later {
        Box::pin(std::future::ready(Ok(Value::Null)))
    }
}

/// Where keys live: a stopped store, or a running plane.
enum Where {
    Store(tempfile::TempDir),
    Plane(String),
}

impl Where {
    async fn plane() -> Where {
        let auth = config::Auth { required: true };
        let store = Arc::new(Memory::default());
        let keys = Keys::open(store.clone(), &auth, &BTreeMap::new()).await.unwrap();
        let deployment = Arc::new(NoVersions(Versions::open(store.clone()).await.unwrap()));
        let ledger = Ledger::open(store, Arc::new(Ring::default()), std::time::SystemTime::now).await.unwrap();
        let state = AdminState {
            keys,
            ledger,
            audit: crate::audit::Audit::nowhere(),
            secrets: crate::secrets::Secrets::nowhere(crate::upstream::Client::new(&Default::default())),
            facts: Arc::new(Nothing),
            deployment,
            token: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(admin::serve(listener, Arc::new(state), CancellationToken::new()));
        Where::Plane(url)
    }

    async fn run(&self, words: &[&str]) -> Result<String> {
        let mut out = Vec::new();
        match self {
            Where::Store(dir) => run_to(parse(words)?, &place_in(dir.path(), "sled"), None, &mut out).await?,
            Where::Plane(url) => {
                // The configuration is not read: there is none at this place.
                let nowhere = config::Place::File("/nowhere/gateway.toml".into());
                run_to(parse(&[words, &["--admin", url]].concat())?, &nowhere, None, &mut out).await?
            }
        };
        Ok(String::from_utf8(out)?)
    }
}

#[tokio::test]
async fn keys_live_and_die_on_a_stopped_store_and_on_a_running_plane() {
    for place in [Where::Store(tempfile::tempdir().unwrap()), Where::plane().await] {
        assert!(place.run(&["list"]).await.unwrap().contains("no keys yet"));
        let words = ["create", "--name", "laptop", "--models", "smart,openai/*", "--expires", "30d"];
        let made = place.run(&words).await.unwrap();
        let key = made.lines().next().unwrap();
        assert!(key.starts_with("sk-pc-") && key.len() == 49 && made.contains("smart,openai/*"), "{made}");
        assert!(made.contains("only time the key is shown"));

        let list: Value = serde_json::from_str(&place.run(&["list", "--json"]).await.unwrap()).unwrap();
        let id = list["data"][0]["id"].as_str().unwrap();
        assert!(made.contains(id));
        assert_eq!(list["data"][0]["models"], json!(["smart", "openai/*"]));

        let rotated = place.run(&["rotate", id, "--overlap", "1h", "--quiet"]).await.unwrap();
        assert!(rotated.trim().len() == 49 && rotated.trim() != key);
        assert!(place.run(&["revoke", id]).await.unwrap().contains("(laptop)"));
        let table = place.run(&["list"]).await.unwrap();
        assert!(table.starts_with("id ") && table.contains("revoked") && !table.contains(key), "{table}");
        assert!(place.run(&["revoke", "key_none"]).await.unwrap_err().to_string().contains("no key has the id"));
        assert!(place.run(&["create", "--name", " "]).await.unwrap_err().to_string().contains("needs a name"));
    }
}

#[tokio::test]
async fn a_key_made_on_a_stopped_store_is_known_when_the_gateway_starts() {
    let dir = tempfile::tempdir().unwrap();
    let place = Where::Store(dir);
    let key = place.run(&["create", "--name", "a", "-q"]).await.unwrap();
    let Where::Store(dir) = place else { unreachable!() };
    let config = config::Store { kind: StoreKind::Sled, path: dir.path().join("data") };
    let store = store::open(&config).await.unwrap();
    let keys = Keys::open(store.clone(), &config::Auth { required: true }, &BTreeMap::new()).await.unwrap();
    assert!(keys.table().authenticate(Some(key.trim()), SystemTime::now()).is_ok());
    assert!(keys.first_run().await.unwrap().is_none(), "it is not the first run any more");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_memory_store_sends_to_the_running_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let place = place_in(dir.path(), "memory");
    let refused = run_to(parse(&["list"]).unwrap(), &place, None, &mut Vec::new()).await;
    assert!(refused.unwrap_err().to_string().contains("--admin"));
}

#[tokio::test]
async fn a_broken_configuration_is_told_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, "[stroe]\n").unwrap();
    let args = parse(&["create", "--name", "a"]).unwrap();
    let exit = run_to(args, &config::Place::File(file), None, &mut Vec::new()).await.unwrap();
    assert_eq!(exit, Exit::Config);
    assert!(!dir.path().join("data").exists());
}

#[test]
fn wrong_words_are_usage_errors_that_say_what_is_right() {
    for (words, hint) in [
        (&["create"][..], "--name"),
        (&["create", "--name", "a", "--expires", "soon"], "30d"),
        (&["create", "--name", "a", "--json", "--quiet"], "--quiet"),
        (&["rotate", "key_1", "--overlap", "1y"], "30d, 12h"),
        (&["revoke"], "<ID>"),
        (&["lst"], "list"),
    ] {
        let message = parse(words).err().unwrap().to_string();
        assert!(message.contains(hint), "{words:?}: {message}");
    }
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn every_help_has_an_example() {
    let mut command = <Cli as clap::CommandFactory>::command();
    assert!(command.render_help().to_string().contains("Example:"));
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        assert!(sub.render_help().to_string().contains("Example:"), "{}", sub.get_name());
    }
}
