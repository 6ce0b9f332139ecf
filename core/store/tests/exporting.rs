//! Where an export goes that is told where to: a file, and nothing else, is replaced.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, symlink},
        net::UnixListener,
    },
    path::PathBuf,
};

use super::*;

/// A folder with a store in it.
async fn with_store() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_at(&dir.path().join("data")).await;
    store.write(vec![Op::put(Table::Keys, "a", "1")]).await.unwrap();
    (dir, store)
}

fn is_export(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.starts_with("{\"portcullis_state\":1"))
}

#[tokio::test]
async fn a_symlink_stays_and_what_it_names_is_replaced() {
    let (dir, store) = with_store().await;
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("old.jsonl"), "old").unwrap();
    let link = dir.path().join("link");
    // Of a link, of what is not there yet, and of a link to that.
    for (named, target) in
        [("other/old.jsonl", "old.jsonl"), ("other/new.jsonl", "new.jsonl"), ("second", "third.jsonl")]
    {
        let _ = fs::remove_file(&link);
        symlink(named, &link).unwrap();
        if named == "second" {
            symlink("other/third.jsonl", dir.path().join("second")).unwrap();
        }
        let done = store.export(Some(link.clone())).await.unwrap();
        assert!(link.is_symlink() && is_export(&link), "{named}");
        assert!(!other.join(target).is_symlink() && is_export(&other.join(target)), "{named}");
        assert!(done.path.ends_with(target), "{}", done.path.display());
    }
    store.export(Some(other.join("old.jsonl"))).await.expect("a file is replaced as before");
    let left: Vec<_> = fs::read_dir(&other).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "nothing half-written is left: {left:?}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_left_as_it_is() {
    let (dir, store) = with_store().await;
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink("pipe", at("link")).unwrap();
    for (name, what) in [("folder", "a folder"), ("socket", "a socket"), ("pipe", "a pipe"), ("link", "a pipe")] {
        let refused = store.export(Some(at(name))).await.unwrap_err().to_string();
        let path = at(name).display().to_string();
        assert!(refused.starts_with(&path) && refused.contains(what) && refused.contains("name a file"), "{refused}");
        assert!(!at(&format!("{name}.new")).exists(), "{name}: refused before anything is written");
    }
    let kind = |name: &str| fs::symlink_metadata(at(name)).unwrap().file_type();
    assert!(
        kind("folder").is_dir() && kind("socket").is_socket() && kind("pipe").is_fifo() && kind("link").is_symlink()
    );
    // Only looked at: root could take a device's place.
    let refused = exports::place(PathBuf::from("/dev/full")).unwrap_err().to_string();
    assert!(refused.contains("/dev/full: this is a device"), "{refused}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_named_with_its_cause_once() {
    let (dir, store) = with_store().await;
    let path = dir.path().join("nowhere/x.jsonl");
    let error = store.export(Some(path.clone())).await.unwrap_err();
    // As the command line tells it: with all causes.
    let said = format!("{:#}", anyhow::Error::from(error));
    assert!(
        said.starts_with(&format!("the export could not be written to {}: No such file", path.display())),
        "{said}"
    );
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
    assert!(said.ends_with("make its folder first, or choose another place"), "{said}");
    assert!(store.write(vec![Op::put(Table::Keys, "b", "1")]).await.is_ok(), "the store is as well as before");
    store.close().await.unwrap();
}
