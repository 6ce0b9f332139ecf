use std::{
    fs,
    path::Path,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use super::*;

/// Longer than the poll: for machines that are busy.
const SOON: Duration = Duration::from_secs(20);
/// Longer than quiet, agreement and a poll together.
const STILL: Duration = Duration::from_millis(3_000);

/// Longer than the look behind a call takes.
const LOOKED: Duration = Duration::from_millis(500);

fn start(root: &Path) -> (Watcher, Receiver<String>) {
    let (tell, hear) = channel();
    let watched =
        Watched { files: vec![root.join("gateway.toml")], folders: vec![root.join("scripts")], flat: Vec::new() };
    let file = root.join("gateway.toml");
    let watcher = watch(
        move || watched.clone(),
        move || {
            let _ = tell.send(fs::read_to_string(&file).unwrap_or_else(|_| "missing".to_owned()));
        },
    )
    .unwrap();
    hear.recv_timeout(SOON).expect("a call at the start");
    // The watcher looks once more behind each call: what a test then writes is to be a change of its own.
    assert!(hear.recv_timeout(LOOKED).is_err());
    (watcher, hear)
}

fn folder() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("gateway.toml"), "one").unwrap();
    fs::create_dir(root.path().join("scripts")).unwrap();
    root
}

#[test]
fn sees_every_rename_save_not_only_the_first() {
    let root = folder();
    let (_watcher, hear) = start(root.path());
    for text in ["two", "three", "four"] {
        fs::write(root.path().join(".gateway.toml.swp"), text).unwrap();
        fs::rename(root.path().join(".gateway.toml.swp"), root.path().join("gateway.toml")).unwrap();
        assert_eq!(hear.recv_timeout(SOON).unwrap(), text);
    }
}

#[test]
fn a_write_in_two_halves_is_one_change() {
    let root = folder();
    let (_watcher, hear) = start(root.path());
    fs::write(root.path().join("gateway.toml"), "").unwrap();
    fs::write(root.path().join("gateway.toml"), "whole").unwrap();
    assert_eq!(hear.recv_timeout(SOON).unwrap(), "whole");
    assert!(hear.recv_timeout(STILL).is_err());
}

#[test]
fn touching_a_file_is_no_change() {
    let root = folder();
    let (_watcher, hear) = start(root.path());
    fs::write(root.path().join("gateway.toml"), "one").unwrap();
    fs::write(root.path().join("unrelated"), "noise").unwrap();
    assert!(hear.recv_timeout(STILL).is_err());
}

#[test]
fn sees_a_script_in_a_folder_that_was_deleted_and_made_anew() {
    let root = folder();
    let scripts = root.path().join("scripts");
    fs::write(scripts.join("a.rhai"), "1").unwrap();
    let (_watcher, hear) = start(root.path());
    fs::remove_dir_all(&scripts).unwrap();
    hear.recv_timeout(SOON).unwrap();
    fs::create_dir_all(scripts.join("ready")).unwrap();
    fs::write(scripts.join("a.rhai"), "2").unwrap();
    hear.recv_timeout(SOON).unwrap();
    fs::write(scripts.join("a.rhai"), "3").unwrap();
    hear.recv_timeout(SOON).unwrap();
    fs::write(scripts.join("ready/b.rhai"), "1").unwrap();
    hear.recv_timeout(SOON).unwrap();
}

#[cfg(unix)]
#[test]
fn sees_a_mounted_map_being_swapped() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for (version, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("gateway.toml"), text).unwrap();
    }
    fs::create_dir(at("scripts")).unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/gateway.toml", at("gateway.toml")).unwrap();
    let (_watcher, hear) = start(root.path());
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    assert_eq!(hear.recv_timeout(SOON).unwrap(), "two");
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_comes_and_goes_as_a_change() {
    let root = folder();
    let (_watcher, hear) = start(root.path());
    let link = root.path().join("scripts/a.rhai");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    hear.recv_timeout(SOON).expect("its coming");
    fs::remove_file(&link).unwrap();
    hear.recv_timeout(SOON).expect("its going");
}

#[test]
fn a_file_that_is_away_for_a_moment_is_never_seen_missing() {
    let root = folder();
    let (_watcher, hear) = start(root.path());
    let file = root.path().join("gateway.toml");
    fs::rename(&file, root.path().join("gateway.toml.bak")).unwrap();
    thread::park_timeout(Duration::from_millis(400));
    fs::write(&file, "back").unwrap();
    assert_eq!(hear.recv_timeout(SOON).unwrap(), "back");
}

#[test]
fn a_file_that_stays_away_is_told() {
    let root = folder();
    let (_watcher, hear) = start(root.path());
    fs::remove_file(root.path().join("gateway.toml")).unwrap();
    assert_eq!(hear.recv_timeout(SOON).unwrap(), "missing");
}

#[test]
fn a_poke_acts_without_a_change() {
    let root = folder();
    let (watcher, hear) = start(root.path());
    watcher.poke();
    assert_eq!(hear.recv_timeout(SOON).unwrap(), "one");
}

#[test]
fn without_events_the_poll_sees_changes() {
    let root = folder();
    let watched = Watched {
        files: vec![root.path().join("gateway.toml")],
        folders: vec![root.path().join("scripts")],
        flat: Vec::new(),
    };
    let (tell, hear) = channel();
    let (_events, messages) = channel();
    let mut deaf = Loop::new(
        move || watched.clone(),
        move || {
            let _ = tell.send(());
        },
        channel().0,
    );
    deaf.notify = None;
    thread::spawn(move || deaf.run(&messages));
    hear.recv_timeout(SOON).unwrap();
    fs::write(root.path().join("scripts/new.rhai"), "1").unwrap();
    hear.recv_timeout(SOON).unwrap();
}
