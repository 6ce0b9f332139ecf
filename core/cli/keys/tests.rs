//! The command on a stopped store and on a running admin plane: same words, same answers.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use clap::Parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    admin::{self, AdminState, Facts},
    config,
    store::Memory,
    telemetry::Ring,
};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    keys: KeysArgs,
}

fn parse(words: &[&str]) -> Result<KeysArgs, clap::Error> {
    Cli::try_parse_from([&["keys"], words].concat()).map(|cli| cli.keys)
}

fn config_in(path: &Path, kind: StoreKind) -> Config {
    Config {
        root: path.to_owned(),
        file: path.join("gateway.toml"),
        hash: String::new(),
        server: config::Server::default(),
        admin: config::Admin { listen: ([127, 0, 0, 1], 8081).into(), token: None },
        store: config::Store { kind, path: path.join("data") },
        auth: config::Auth { required: true },
        providers: Vec::new(),
        models: BTreeMap::new(),
        teams: BTreeMap::new(),
        stages: None,
    }
}

struct Nothing;

impl Facts for Nothing {
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

/// Where keys live: a stopped store, or a running plane.
enum Place {
    Store(tempfile::TempDir),
    Plane(String),
}

impl Place {
    async fn plane() -> Place {
        let auth = config::Auth { required: true };
        let keys = Keys::open(Arc::new(Memory::default()), &auth, &BTreeMap::new()).await.unwrap();
        let state = AdminState { keys, ring: Arc::new(Ring::default()), facts: Arc::new(Nothing), token: None };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(admin::serve(listener, Arc::new(state), CancellationToken::new()));
        Place::Plane(url)
    }

    async fn run(&self, words: &[&str]) -> Result<String> {
        let mut out = Vec::new();
        match self {
            Place::Store(dir) => {
                run_to(parse(words)?, || Ok(config_in(dir.path(), StoreKind::Sled)), &mut out).await?;
            }
            Place::Plane(url) => {
                let words = [words, &["--admin", url]].concat();
                run_to(parse(&words)?, || panic!("the configuration is not needed"), &mut out).await?;
            }
        }
        Ok(String::from_utf8(out)?)
    }
}

#[tokio::test]
async fn keys_live_and_die_on_a_stopped_store_and_on_a_running_plane() {
    for place in [Place::Store(tempfile::tempdir().unwrap()), Place::plane().await] {
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
    let place = Place::Store(dir);
    let key = place.run(&["create", "--name", "a", "-q"]).await.unwrap();
    let Place::Store(dir) = place else { unreachable!() };
    let config = config_in(dir.path(), StoreKind::Sled);
    let store = store::open(&config.store).await.unwrap();
    let keys = Keys::open(store.clone(), &config.auth, &config.teams).await.unwrap();
    assert!(keys.table().authenticate(Some(key.trim()), SystemTime::now()).is_ok());
    assert!(keys.first_run().await.unwrap().is_none(), "it is not the first run any more");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_memory_store_sends_to_the_running_gateway() {
    let run =
        run_to(parse(&["list"]).unwrap(), || Ok(config_in(Path::new("/"), StoreKind::Memory)), &mut Vec::new()).await;
    assert!(run.unwrap_err().to_string().contains("--admin"));
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
