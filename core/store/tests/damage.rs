//! Damaged files: what can be saved is, by itself, as long as no change of a key is lost; else a sentence says what to do.

use std::{fs, path::PathBuf};

use super::*;

const KEYS: usize = 50;

/// A closed store with some keys, and its exports as they are after a close.
async fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_at(dir.path()).await;
    for n in 0..KEYS {
        store.write(vec![Op::put(Table::Keys, format!("{n:02}"), "x".repeat(2000))]).await.unwrap();
    }
    store.close().await.unwrap();
    dir
}

/// Overwrites the second half of what the log uses, and the snapshot that would make up for it.
fn cut_log(data: &Path) {
    remove_snapshots(data);
    let log = data.join("sled/db");
    let mut bytes = fs::read(&log).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[used / 2..].fill(0);
    fs::write(&log, bytes).unwrap();
}

fn snapshots(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("sled")).unwrap().flatten().map(|e| e.path());
    entries.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("snap.")).collect()
}

fn remove_snapshots(data: &Path) {
    snapshots(data).into_iter().for_each(|path| fs::remove_file(path).unwrap());
}

fn names(data: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(data).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn try_open(data: &Path) -> Result<Arc<dyn Store>> {
    open(&config::Store { kind: StoreKind::Sled, path: data.to_owned() }).await
}

async fn keys(store: &dyn Store) -> usize {
    store.scan(Table::Keys, b"", None, 1000).await.unwrap().len()
}

#[tokio::test]
async fn a_damaged_snapshot_is_done_without() {
    let dir = filled().await;
    // A second life writes one.
    sled_at(dir.path()).await.close().await.unwrap();
    let snapshot = snapshots(dir.path()).pop().expect("a snapshot");
    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[0] ^= 0xff;
    fs::write(&snapshot, bytes).unwrap();
    fs::remove_dir_all(dir.path().join("export")).unwrap();

    let store = try_open(dir.path()).await.unwrap();
    assert_eq!(keys(&*store).await, KEYS);
    let notice = store.notices().join(" ");
    assert!(notice.contains("rebuilt from its log; nothing is missing"), "{notice}");
    assert!(names(dir.path()).iter().any(|name| name.starts_with("sled.damaged-")));
    store.close().await.unwrap();
    assert!(sled_at(dir.path()).await.notices().is_empty(), "once is enough");
}

#[tokio::test]
async fn a_cut_log_is_restored_from_an_export_that_has_every_key() {
    let dir = filled().await;
    cut_log(dir.path());
    let store = try_open(dir.path()).await.unwrap();
    assert_eq!(keys(&*store).await, KEYS);
    let notice = store.notices().join(" ");
    assert!(notice.contains("restored from the export of") && notice.contains("nothing is missing"), "{notice}");
    store.write(vec![Op::put(Table::Keys, "later", "1")]).await.unwrap();
    store.close().await.unwrap();
    let store = try_open(dir.path()).await.unwrap();
    assert_eq!(keys(&*store).await, KEYS + 1, "the count of commits fits the restored store");
}

#[tokio::test]
async fn a_lost_counter_is_told_and_a_lost_key_is_refused() {
    let dir = filled().await;
    let export = |from: &str, to: &str| fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
    // Changes that no export has: first of something else than keys.
    export("export", "kept");
    let store = sled_at(dir.path()).await;
    store.write(vec![Op::put(Table::Meta, "counter", "1")]).await.unwrap();
    store.close().await.unwrap();
    fs::remove_dir_all(dir.path().join("export")).unwrap();
    export("kept", "export");
    let healthy = tempfile::tempdir().unwrap();
    folders::copy(dir.path(), healthy.path(), &|_| true).unwrap();
    cut_log(dir.path());
    let store = try_open(dir.path()).await.unwrap();
    let notice = store.notices().join(" ");
    assert!(notice.contains("all virtual keys are there; 1 change of counters"), "{notice}");
    store.close().await.unwrap();

    // Then of a key.
    let (dir, export) = (healthy.path(), healthy.path().join("export"));
    fs::rename(&export, dir.join("kept")).unwrap();
    let store = sled_at(dir).await;
    store.write(vec![Op::remove(Table::Keys, "00")]).await.unwrap();
    store.close().await.unwrap();
    fs::remove_dir_all(&export).unwrap();
    fs::rename(dir.join("kept"), &export).unwrap();
    cut_log(dir);
    for _ in 0..2 {
        let message = try_open(dir).await.err().expect("refused, each time").to_string();
        assert!(message.contains("lacks 1 change of virtual keys"), "{message}");
        assert!(message.contains("portcullis state import --replace"), "{message}");
    }
    let newest = exports::newest(&Directory::open(dir).unwrap()).unwrap().0;
    let done = import(dir, &newest, false, &|_, _| Ok(())).unwrap_err().to_string();
    assert!(done.contains("--replace"), "{done}");
    import(dir, &newest, true, &|_, _| Ok(())).unwrap();
    let store = try_open(dir).await.unwrap();
    assert_eq!(keys(&*store).await, KEYS, "the removal is lost, by choice");
    store.close().await.unwrap();
}

#[tokio::test]
async fn without_an_export_a_cut_log_is_refused_each_time() {
    let dir = filled().await;
    fs::remove_dir_all(dir.path().join("export")).unwrap();
    cut_log(dir.path());
    for _ in 0..2 {
        let message = try_open(dir.path()).await.err().expect("a cut log must not open").to_string();
        assert!(message.contains("is damaged") && message.contains("there is no export"), "{message}");
    }
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let message = try_open(dir.path()).await.err().expect("nor a store that vanished").to_string();
    assert!(message.contains("missing or empty"), "{message}");
}

/// Whatever batches come: the rows add up to the tally that goes with them.
#[tokio::test]
async fn the_tally_fits_after_any_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..if long() { 100 } else { 5 } {
        let store = sled_at(dir.path()).await;
        for _ in 0..40 {
            let op = |random: &mut fastrand::Rng| {
                let (table, key) = (Table::ALL[random.usize(..2)], format!("{}", random.u8(..12)));
                let value = random.bool().then(|| vec![random.u8(..); random.usize(..300)]);
                Op { table, key: key.into_bytes(), value }
            };
            let batch: Vec<Op> = (0..random.usize(..6)).map(|_| op(&mut random)).collect();
            match random.u8(..3) {
                0 => store.write(batch).await.unwrap(),
                1 => store.write_soft(batch).await.unwrap(),
                _ => drop(store.write_if(vec![op(&mut random)], batch).await.unwrap()),
            }
        }
        store.close().await.unwrap();
    }
    let opened = open::attempt(&Directory::open(dir.path()).unwrap(), &dir.path().join("sled"), sled::LIMITS).unwrap();
    assert!(opened.tally.commits > 50 && opened.tally.rows > 3, "{:?}", opened.tally);
}

/// A file that never answers, as a pipe without a writer does.
#[tokio::test]
async fn a_store_that_hangs_is_given_up_rebuilt_and_not_used_by_the_process_that_hangs() {
    let dir = filled().await;
    let conf = dir.path().join("sled/conf");
    fs::remove_file(&conf).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&conf).status().unwrap().success());
    let limits = open::Limits { lock_wait: Duration::from_millis(100), watchdog: Duration::from_secs(1), spare: 0 };
    let began = std::time::Instant::now();
    let message = sled::Sled::open_within(dir.path(), limits).await.err().expect("a thread hangs").to_string();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(message.contains("did not open within 1 s") && message.contains("nothing is missing"), "{message}");
    assert!(message.ends_with("Start again"), "{message}");
    let store = sled_at(dir.path()).await;
    assert_eq!(keys(&*store).await, KEYS);
    store.close().await.unwrap();
}

#[tokio::test]
async fn rows_that_change_behind_our_back_are_noticed() {
    let dir = filled().await;
    let db = ::sled::Config::new().path(dir.path().join("sled")).open().unwrap();
    let key = Table::Keys.key(b"07");
    let value = db.remove(&key).unwrap().unwrap();
    db.flush().unwrap();
    drop(db);
    let opened = || open::attempt(&Directory::open(dir.path()).unwrap(), &dir.path().join("sled"), sled::LIMITS);
    let message = opened().err().expect("a row is missing").to_string();
    assert!(message.contains("should hold 50 rows and holds 49"), "{message}");
    let db = ::sled::Config::new().path(dir.path().join("sled")).open().unwrap();
    db.insert(&key, value).unwrap();
    db.flush().unwrap();
    drop(db);
    assert_eq!(opened().unwrap().tally.rows, 50);
}

#[tokio::test]
async fn a_store_from_before_rows_were_summed_up_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    sled_at(dir.path()).await.close().await.unwrap();
    let db = ::sled::Config::new().path(dir.path().join("sled")).open().unwrap();
    db.insert(Table::Keys.key(b"old"), b"1").unwrap();
    db.insert(tally::key(), b"5").unwrap();
    db.flush().unwrap();
    drop(db);
    fs::write(dir.path().join("commits"), format!("{:020}\n", 5)).unwrap();
    let store = sled_at(dir.path()).await;
    store.write(vec![Op::put(Table::Keys, "new", "1")]).await.unwrap();
    store.close().await.unwrap();
    let opened = open::attempt(&Directory::open(dir.path()).unwrap(), &dir.path().join("sled"), sled::LIMITS).unwrap();
    assert_eq!((opened.tally.commits, opened.tally.keys, opened.tally.rows), (6, 1, 2));
    drop(opened);
    fs::write(dir.path().join("commits"), format!("{:020}\n", 7)).unwrap();
    fs::remove_dir_all(dir.path().join("export")).unwrap();
    assert!(try_open(dir.path()).await.is_err(), "a note of that time is still believed");
}

#[tokio::test]
async fn a_note_that_was_damaged_or_removed_hides_no_loss() {
    let dir = filled().await;
    let note = fs::read_to_string(dir.path().join("commits")).unwrap();
    // Fewer by one flipped bit, cut, empty, noise.
    for text in [note.replacen('5', "4", 1), note[..30].to_owned(), String::new(), "\u{1}\u{2}".to_owned()] {
        fs::write(dir.path().join("commits"), text).unwrap();
        let message = try_open(dir.path()).await.err().expect("nobody can tell what is missing").to_string();
        assert!(message.contains("the file commits is unreadable"), "{message}");
        let file = exports::newest(&Directory::open(dir.path()).unwrap()).unwrap().0;
        assert!(import(dir.path(), &file, false, &|_, _| Ok(())).unwrap_err().to_string().contains("--replace"));
    }
    fs::remove_file(dir.path().join("commits")).unwrap();
    let store = try_open(dir.path()).await.expect("the newest export knows of no more than the store has");
    assert_eq!(keys(&*store).await, KEYS);
    store.close().await.unwrap();

    fs::remove_file(dir.path().join("commits")).unwrap();
    cut_log(dir.path());
    let message = try_open(dir.path()).await.err().expect("the newest export knows of more").to_string();
    assert!(message.contains("lacks an unknown number of changes of virtual keys"), "{message}");
    fs::write(dir.path().join("commits"), "").unwrap();
    let file = exports::newest(&Directory::open(dir.path()).unwrap()).unwrap().0;
    import(dir.path(), &file, true, &|_, _| Ok(())).unwrap();
    let store = try_open(dir.path()).await.unwrap();
    assert_eq!(keys(&*store).await, KEYS);
    store.close().await.unwrap();
}

/// A kill between any two steps of a change of place leaves the old store or the new one.
#[tokio::test]
async fn a_kill_in_the_middle_of_an_import_leaves_the_old_or_the_new_store() {
    let dir = filled().await;
    let file = exports::newest(&Directory::open(dir.path()).unwrap()).unwrap().0;
    let store = sled_at(dir.path()).await;
    store.write(vec![Op::put(Table::Keys, "new", "1")]).await.unwrap();
    store.close().await.unwrap();
    let copy = |name: &str| {
        let data = dir.path().with_file_name(name);
        folders::copy(dir.path(), &data, &|_| true).unwrap();
        data
    };
    let after = |data: &Path| {
        let (data, replaced) = (data.to_owned(), names(data).iter().any(|n| n.starts_with("sled.replaced-")));
        async move {
            let store = try_open(&data).await.unwrap();
            let found = (keys(&*store).await, replaced);
            store.close().await.unwrap();
            fs::remove_dir_all(&data).unwrap();
            found
        }
    };
    let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();

    let killed_while_building = copy(&format!("{name}-1"));
    folders::copy(&dir.path().join("sled"), &killed_while_building.join("sled.new"), &|n| n != "db").unwrap();
    assert_eq!(after(&killed_while_building).await, (KEYS + 1, false));

    let whole = copy(&format!("{name}-2"));
    import(&whole, &file, true, &|_, _| Ok(())).unwrap();
    let built = whole.join("sled");
    let killed_before_the_old_went = copy(&format!("{name}-3"));
    folders::copy(&built, &killed_before_the_old_went.join("sled.ready"), &|_| true).unwrap();
    assert_eq!(after(&killed_before_the_old_went).await, (KEYS, false));

    let killed_after_the_old_went = copy(&format!("{name}-4"));
    fs::rename(killed_after_the_old_went.join("sled"), killed_after_the_old_went.join("sled.replaced-x")).unwrap();
    folders::copy(&built, &killed_after_the_old_went.join("sled.ready"), &|_| true).unwrap();
    assert_eq!(after(&killed_after_the_old_went).await, (KEYS, true));
    assert_eq!(after(&whole).await, (KEYS, true));
}

#[tokio::test]
async fn an_export_that_was_cut_or_changed_is_not_taken() {
    let dir = filled().await;
    let file = exports::newest(&Directory::open(dir.path()).unwrap()).unwrap().0;
    let good = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let other = dir.path().join("other.jsonl");
    let wrong = [
        ("", "no export"),
        ("{\"a\":1}\n", "no export"),
        (&good[..good.len() - 10], "cut short"),
        (&lines[..lines.len() - 1].join("\n"), "cut short"),
        (&good.replacen("\"commits\":50", "\"commits\":51", 1), "its hash does not fit"),
        (&[&lines[..5], &lines[6..], &[""]].concat().join("\n"), "its hash does not fit"),
        (&good.replacen("\"t\":\"keys\"", "\"t\":\"later\"", 1), "a table that this gateway does not know"),
        (&good.replacen("\"portcullis_state\":1", "\"portcullis_state\":2", 1), "format 2"),
        (&good.replacen("\"layout\":1", "\"layout\":9", 1), "version 9"),
        (&format!("{good}more\n"), "goes on after its end"),
    ];
    for (text, reason) in wrong {
        fs::write(&other, text).unwrap();
        let message = import(dir.path(), &other, true, &|_, _| Ok(())).unwrap_err().to_string();
        assert!(message.contains(reason), "{reason}: {message}");
    }
    let store = sled_at(dir.path()).await;
    assert_eq!(keys(&*store).await, KEYS, "the store is as it was");
    store.close().await.unwrap();
    assert!(!names(dir.path()).iter().any(|n| n.starts_with("sled.replaced")), "{:?}", names(dir.path()));
}

#[tokio::test]
async fn exports_follow_changes_of_keys_and_only_some_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_at(dir.path()).await;
    let directory = store.directory().unwrap().clone();
    store.write(vec![Op::put(Table::Keys, "a", "1")]).await.unwrap();
    let found = async || {
        for _ in 0..500 {
            if let Some((_, header)) = exports::newest(&directory) {
                return header;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no export came by itself");
    };
    let header = found().await;
    assert_eq!((header.commits, header.key_changes, header.layout), (1, 1, 1));
    for n in 0..12 {
        store.write(vec![Op::put(Table::Meta, "counter", n.to_string())]).await.unwrap();
        store.export(None).await.unwrap();
    }
    let kept = exports::list(&directory);
    assert_eq!(kept.len(), 5, "all of one day");
    assert_eq!(kept.last().unwrap().1.commits, 13);
    assert!(names(&dir.path().join("export")).iter().all(|n| n.ends_with(".jsonl")), "nothing unfinished");
    let text = fs::read_to_string(&kept.last().unwrap().0).unwrap();
    assert_eq!(text.lines().count(), 4, "header, two rows, trailer: {text}");
    store.close().await.unwrap();
}
