//! The command on stopped stores.

use std::{collections::BTreeMap, sync::Arc};

use clap::Parser;

use super::*;
use crate::auth::{Keys, NewKey};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    state: Args,
}

/// A folder with a gateway.toml and a store with one key.
struct Gateway {
    folder: tempfile::TempDir,
    place: Place,
}

impl Gateway {
    fn new() -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, "[store]\npath = \"data\"\n").unwrap();
        Gateway { folder, place: Place::File(file) }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn keys(&self) -> (Arc<dyn store::Store>, Arc<Keys>) {
        let (config, _) = config::load(&self.place, &env::var, &provider::catalog_names()).unwrap();
        let store = store::open(&config.store).await.unwrap();
        let keys = Keys::open(store.clone(), &config.auth, &BTreeMap::new()).await.unwrap();
        (store, keys)
    }

    /// Names of all keys.
    async fn names(&self) -> Vec<String> {
        let (store, keys) = self.keys().await;
        let names = keys.list(None, 100).await.unwrap().into_iter().map(|key| key.name).collect();
        store.close().await.unwrap();
        names
    }

    async fn make(&self, name: &str) -> String {
        let (store, keys) = self.keys().await;
        let (_, secret) = keys.create(NewKey { name: name.into(), ..NewKey::default() }).await.unwrap();
        store.close().await.unwrap();
        secret.expose().to_owned()
    }

    async fn run(&self, words: &[&str]) -> Result<String, String> {
        let args = Cli::try_parse_from([&["state"], words].concat()).unwrap().state;
        let mut out = Vec::new();
        match run_to(args, &self.place, None, &mut out).await {
            Ok(_) => Ok(String::from_utf8(out).unwrap()),
            Err(e) => Err(format!("{e:#}")),
        }
    }
}

#[tokio::test]
async fn an_export_moves_keys_to_another_place_with_the_master_key() {
    let (old, new) = (Gateway::new(), Gateway::new());
    let secret = old.make("moved").await;
    let file = old.folder.path().join("backup.jsonl");
    let file = file.to_str().unwrap();
    let said = old.run(&["export", "--to", file]).await.unwrap();
    assert!(said.contains("rows to") && said.contains("master.key"), "{said}");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(!text.contains(&secret[6..]), "the key itself is nowhere");
    let master = std::fs::read_to_string(old.data().join("master.key")).unwrap();
    assert!(!text.contains(master.trim()));

    let refused = new.run(&["import", file]).await.unwrap_err();
    assert!(refused.contains("copy master.key"), "{refused}");
    std::fs::copy(old.data().join("master.key"), new.data().join("master.key")).unwrap();
    let said = new.run(&["import", file]).await.unwrap();
    assert!(said.contains("imported"), "{said}");
    let (store, keys) = new.keys().await;
    let who = keys.table().authenticate(Some(&secret), std::time::SystemTime::now()).unwrap();
    assert_eq!(&*who.key_name, "moved");
    store.close().await.unwrap();
}

#[tokio::test]
async fn another_master_key_refuses_an_import() {
    let (one, other) = (Gateway::new(), Gateway::new());
    one.make("one").await;
    other.make("other").await;
    let file = one.folder.path().join("backup.jsonl");
    let file = file.to_str().unwrap();
    one.run(&["export", "--to", file]).await.unwrap();
    let refused = other.run(&["import", file, "--replace"]).await.unwrap_err();
    assert!(refused.contains("is not the one that the export's keys were made with"), "{refused}");
    assert_eq!(other.names().await, ["other"]);
}

#[tokio::test]
async fn an_import_takes_the_place_of_keys_only_when_told_to_and_keeps_them_aside() {
    let gateway = Gateway::new();
    gateway.make("first").await;
    let said = gateway.run(&["export"]).await.unwrap();
    let file = said.split("rows to ").nth(1).unwrap().lines().next().unwrap().to_owned();
    assert!(file.contains("data/export/state-"), "{file}");
    gateway.make("second").await;
    let refused = gateway.run(&["import", &file]).await.unwrap_err();
    assert!(refused.contains("--replace"), "{refused}");
    assert_eq!(gateway.names().await, ["first", "second"]);
    let said = gateway.run(&["import", &file, "--replace"]).await.unwrap();
    assert!(said.contains("the store before is in"), "{said}");
    assert_eq!(gateway.names().await, ["first"]);
    let aside = said.split("the store before is in ").nth(1).unwrap().trim();
    assert!(Path::new(aside).join("db").exists(), "{aside}");
}

#[tokio::test]
async fn a_store_in_use_and_one_that_is_not_there_are_told() {
    let gateway = Gateway::new();
    let refused = gateway.run(&["export"]).await.unwrap_err();
    assert!(refused.contains("there is no store"), "{refused}");
    let memory = Gateway::new();
    std::fs::write(memory.folder.path().join("gateway.toml"), "[store]\nkind = \"memory\"\n").unwrap();
    assert!(memory.run(&["export"]).await.unwrap_err().contains("keeps nothing"));
}
