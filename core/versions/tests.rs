use std::sync::Arc;

use serde_json::json;

use super::{keep::MOST, *};
use crate::store::Memory;

fn content(files: &[(&str, &str)]) -> Content {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), Arc::from(text.as_bytes())));
    Content { files: files.collect() }
}

fn toml(text: &str) -> Content {
    content(&[("gateway.toml", text)])
}

async fn versions() -> (Arc<Memory>, Versions) {
    let store = Arc::new(Memory::default());
    (store.clone(), Versions::open(store).await.unwrap())
}

async fn live(versions: &Versions, content: &Content) -> Row {
    let row = versions.add(content, By::default(), State::Live).await;
    versions.went_live(row.number).await;
    versions.row(row.number).unwrap()
}

#[tokio::test]
async fn each_version_knows_what_ran_before_it_and_until_when_it_ran() {
    let (_, versions) = versions().await;
    let first = live(&versions, &toml("a = 1")).await;
    let second = live(&versions, &toml("a = 2")).await;
    assert_eq!((first.number, second.number, second.was), (1, 2, Some(1)));
    let first = versions.row(1).unwrap();
    assert!(first.state == State::Former && first.ended.is_some(), "{first:?}");
    assert_eq!(versions.live().unwrap().number, 2);
    assert_eq!(versions.content(&first).unwrap(), toml("a = 1"));
    assert_eq!(first.hash, toml("a = 1").hash());
    assert!(first.hash != second.hash);
}

#[tokio::test]
async fn versions_are_found_by_number_and_by_hash() {
    let (_, versions) = versions().await;
    let one = live(&versions, &toml("a = 1")).await;
    live(&versions, &toml("a = 2")).await;
    let again = versions.again(&one, By { cause: Cause::Rollback, ..By::default() }, State::Live).await;
    for text in ["v1", "1"] {
        assert_eq!(versions.find(text).unwrap().number, 1);
    }
    // Two have the same files: the newer one is meant.
    assert_eq!(versions.find(&one.hash[..8]).unwrap().number, again.number);
    for text in ["v9", "", "v", one.hash.get(..3).unwrap(), "nothing", "v18446744073709551616"] {
        assert_eq!(versions.find(text).unwrap_err().status(), 404, "{text}");
    }
    assert_eq!(versions.content(&again).unwrap(), toml("a = 1"));
}

#[tokio::test]
async fn rows_and_the_pin_are_there_again_after_a_restart() {
    let (store, versions) = versions().await;
    live(&versions, &toml("a = 1")).await;
    let pin = Pin { version: 1, files: "x".into(), since: "now".into(), author: Some("me".into()), note: None };
    versions.set_pin(Some(pin.clone())).await;
    assert!(versions.saved());
    let reopened = Versions::open(store).await.unwrap();
    assert_eq!((reopened.pin(), reopened.row(1)), (Some(pin), versions.row(1)));
}

#[tokio::test]
async fn a_store_that_takes_nothing_holds_no_version_up_and_is_tried_again() {
    let (store, versions) = versions().await;
    store.close().await.unwrap();
    let row = live(&versions, &toml("a = 1")).await;
    assert_eq!((versions.live().unwrap().number, versions.saved()), (row.number, false));
}

#[tokio::test]
async fn the_oldest_go_when_there_are_too_many_but_never_one_that_is_needed() {
    let (_, versions) = versions().await;
    for n in 0..MOST + 20 {
        live(&versions, &toml(&format!("a = {n}"))).await;
        if n == 0 {
            let pin = Pin { version: 1, files: String::new(), since: String::new(), author: None, note: None };
            versions.set_pin(Some(pin)).await;
        }
    }
    let rows = versions.page(None, 1000);
    assert_eq!(rows.len(), MOST);
    assert!(versions.row(1).is_some() && versions.row(2).is_none() && versions.row(MOST as u64 + 20).is_some());
    assert_eq!(versions.content(&versions.row(1).unwrap()).unwrap(), toml("a = 0"));
}

#[tokio::test]
async fn large_files_are_kept_once_and_bound_what_is_kept() {
    let (_, versions) = versions().await;
    let large = "x".repeat(10 << 20);
    for n in 0..6 {
        live(&versions, &content(&[("gateway.toml", &format!("a = {n}")), ("plugins/a.wasm", &large)])).await;
    }
    assert!(versions.row(1).is_some(), "the same plugin six times is one file");
    for n in 0..6 {
        let other = format!("{n}{large}");
        live(&versions, &content(&[("gateway.toml", "a = 1"), ("plugins/a.wasm", &other)])).await;
    }
    assert!(versions.row(1).is_none() && versions.row(11).is_some());
    let kept = versions.page(None, 100).into_iter().filter(|row| versions.is_kept(row)).count();
    assert_eq!(kept, versions.page(None, 100).len(), "a row that is left has its files");
}

#[test]
fn on_disk_a_damaged_or_missing_file_is_told_and_never_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let directory = store::Directory::open(dir.path()).unwrap();
    let shelf = Shelf::open(Some(&directory)).unwrap();
    let whole = content(&[("gateway.toml", "a = 1"), ("plugins/a.wasm", &"y".repeat(100_000))]);
    let kept = shelf.put(&whole).unwrap();
    let shelf = Shelf::open(Some(&directory)).unwrap();
    assert_eq!(shelf.get(&kept.manifest).unwrap(), whole);
    let blob = dir.path().join("versions").join(&kept.blobs[0]);
    std::fs::write(&blob, "z".repeat(100_000)).unwrap();
    assert_eq!(shelf.get(&kept.manifest).unwrap_err(), "a file is damaged");
    std::fs::remove_file(&blob).unwrap();
    assert_eq!(shelf.get(&kept.manifest).unwrap_err(), "a file is missing");
    shelf.retain(&BTreeSet::new());
    assert_eq!(std::fs::read_dir(dir.path().join("versions")).unwrap().count(), 0);
}

#[test]
fn a_difference_names_files_lines_stages_targets_and_prices() {
    let old = content(&[
        (
            "gateway.toml",
            "[models.smart]\ntargets = [{ provider = \"mock\", model = \"a\" }]\n[teams.red]\nmodels = [\"a\"]\n\
             [[pricing]]\nmodel = \"mock/a\"\ninput = \"0.5\"\n",
        ),
        ("scripts/a.rhai", "fn log(record, context) { }\n"),
        ("scripts/b.rhai", "// same\n"),
        ("plugins/p.wasm", "one"),
    ]);
    let new = content(&[
        (
            "gateway.toml",
            "[models.smart]\ntargets = [{ provider = \"mock\", model = \"b\" }]\n[teams.red]\nmodels = [\"b\"]\n\
             [[pricing]]\nmodel = \"mock/a\"\ninput = \"0.7\"\n",
        ),
        ("scripts/a.rhai", "fn log(record, context) { 1; }\n"),
        ("scripts/b.rhai", "// same\n"),
        ("scripts/c.rhai", "// new\n"),
    ]);
    let told = compare(("v1", &old), ("v2", &new));
    let change = |file: &str| {
        let files = told["files"].as_array().unwrap();
        files.iter().find(|f| f["file"] == file).cloned().unwrap_or_default()
    };
    let script = change("scripts/a.rhai")["diff"].as_str().unwrap_or_default().to_owned();
    assert!(script.contains("--- v1/scripts/a.rhai\n+++ v2/scripts/a.rhai\n"), "{script}");
    assert!(script.contains("-fn log(record, context) { }\n+fn log(record, context) { 1; }\n"), "{script}");
    assert_eq!(change("scripts/b.rhai"), json!(null));
    assert_eq!(
        (change("scripts/c.rhai")["change"].clone(), change("plugins/p.wasm")["change"].clone()),
        (json!("added"), json!("removed"))
    );
    assert!(change("plugins/p.wasm")["diff"].is_null());
    let summary = &told["summary"];
    assert_eq!(summary["stages"]["changed"], json!(["scripts/a.rhai"]));
    assert_eq!(summary["stages"]["added"], json!(["scripts/c.rhai"]));
    assert_eq!(summary["stages"]["removed"], json!(["plugins/p.wasm"]));
    assert_eq!(summary["targets"][0]["now"]["targets"], json!(["mock/b"]));
    assert_eq!(summary["prices"][0]["now"]["input"], json!("0.7"));
    assert_eq!(summary["other"], json!(["models.smart", "teams.red"]));
    assert_eq!(compare(("v1", &old), ("v1", &old))["files"], json!([]));
}

#[test]
fn a_difference_shows_no_credential() {
    let with = |value: &str| {
        toml(&format!(
            "[providers.house]\nbase_url = \"http://127.0.0.1:1/v1\"\nkey = \"env:HOUSE_KEY\"\n\
             headers = {{ x-house = \"{value}\" }}\n"
        ))
    };
    let told = compare(("v1", &with("sesame-1")), ("v2", &with("sesame-2")));
    assert!(!told.to_string().contains("sesame"), "{told}");
    // That something changed is no secret.
    assert_eq!(told["summary"]["other"], json!(["providers.house"]));
    assert!(told["files"][0]["diff"].as_str().is_some_and(|diff| diff.contains("not shown")), "{told}");
    let other = toml("[providers.house]\nbase_url = \"http://127.0.0.1:1/v1\"\nheaders = { x-house = \"sesame\" }\n");
    let told = compare(("v1", &with("sesame")), ("v2", &other)).to_string();
    assert!(!told.contains("sesame") && told.contains("env:HOUSE_KEY"), "{told}");
}
