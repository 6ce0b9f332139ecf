//! What only files can go wrong with; the contract that every backend keeps is in `contract.rs`, kills in `kill.rs`, damage in
//! `damage.rs`, full disks in `full.rs`, where exports go in `exporting.rs`, what is shared in `redis.rs`
//! and `volatile.rs`.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use super::*;
use crate::config::StoreKind;

mod compiled;
mod contract;
mod damage;
mod exporting;
mod full;
mod kill;
mod migrating;
mod redis;
#[allow(dead_code, reason = "the black-box tests use all of it")]
pub(crate) mod server;
mod volatile;

fn import(
    path: &Path,
    file: &Path,
    replace: bool,
    fits: &dyn Fn(&Directory, &Header) -> Result<()>,
) -> Result<Vec<String>> {
    recover::import(path, file, replace, fits, sled::LIMITS)
}

async fn sled_at(path: &Path) -> Arc<dyn Store> {
    open(&config::Store { kind: StoreKind::Sled, path: path.to_owned() }).await.unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let store = sled_at(&path).await;
    store.write(vec![Op::put(Table::Keys, "a", "1")]).await.unwrap();
    store.close().await.unwrap();
    let store = sled_at(&path).await;
    assert!(store.read(Table::Keys, b"a").await.unwrap().is_some());
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_directory_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let store = sled_at(&path).await;
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    store.directory().unwrap().master_key(true).unwrap();
    assert_eq!(mode(&path.join("master.key")), 0o600);
    let kept = store.directory().unwrap().keep_first_key("sk-pc-x").unwrap();
    assert_eq!(mode(&kept), 0o600);
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_master_key_is_made_once_and_missed_when_keys_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = Directory::open(dir.path()).unwrap();
    let missing = data.master_key(false).unwrap_err().to_string();
    assert!(missing.contains("backup"), "{missing}");
    let made = data.master_key(true).unwrap();
    assert_eq!(*data.master_key(false).unwrap(), *made);
    std::fs::write(dir.path().join("master.key"), "short").unwrap();
    assert!(data.master_key(true).unwrap_err().to_string().contains("64 hex digits"));
}

#[tokio::test]
async fn a_locked_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_at(dir.path()).await;
    let limits = open::Limits { lock_wait: Duration::from_millis(100), watchdog: Duration::from_secs(30), spare: 0 };
    let second = sled::Sled::open_within(dir.path(), limits).await;
    let message = second.err().unwrap().to_string();
    assert!(message.contains("--admin"), "{message}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn another_version_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    sled_at(dir.path()).await.close().await.unwrap();
    std::fs::write(dir.path().join("version"), "7\n").unwrap();
    let refused = open(&config::Store { kind: StoreKind::Sled, path: dir.path().to_owned() }).await;
    assert!(refused.err().unwrap().to_string().contains("has version 7, this gateway reads version 1"));
    std::fs::remove_file(dir.path().join("version")).unwrap();
    let refused = open(&config::Store { kind: StoreKind::Sled, path: dir.path().to_owned() }).await;
    assert!(matches!(refused.err().unwrap(), StoreError::Version { .. }));
}

/// With the long variants?
#[allow(clippy::disallowed_methods, reason = "the environment tells tests how long they may take")]
fn long() -> bool {
    std::env::var_os("PORTCULLIS_LONG").is_some_and(|v| v == "1")
}
