//! The contract, on every backend; then what only files can go wrong with.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use super::*;
use crate::config::StoreKind;

async fn sled_at(path: &Path) -> Arc<dyn Store> {
    open(&config::Store { kind: StoreKind::Sled, path: path.to_owned() }).await.unwrap()
}

/// Runs a contract test on every backend.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod on_memory { $(#[tokio::test] async fn $name() { super::contract::$name(&super::Memory::default()).await; })* }
        mod on_sled { $(#[tokio::test] async fn $name() {
            let dir = tempfile::tempdir().unwrap();
            let store = super::sled_at(&dir.path().join("data")).await;
            super::contract::$name(&*store).await;
            store.close().await.unwrap();
        })* }
    };
}

contract!(
    reads_what_was_written,
    removes_rows,
    keeps_tables_apart,
    scans_in_key_order_by_pages,
    scans_a_prefix_only,
    refuses_large_rows_and_writes_nothing_of_the_batch,
    soft_writes_are_read_back,
    many_writers_at_once_lose_nothing,
    refuses_everything_after_close,
);

mod contract {
    use super::*;

    pub async fn reads_what_was_written(store: &dyn Store) {
        assert_eq!(store.read(Table::Keys, b"a").await.unwrap(), None);
        store.write(vec![Op::put(Table::Keys, "a", "1"), Op::put(Table::Keys, "b", "2")]).await.unwrap();
        store.write(vec![Op::put(Table::Keys, "a", "3")]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"a").await.unwrap().as_deref(), Some(&b"3"[..]));
        assert_eq!(store.read(Table::Keys, b"b").await.unwrap().as_deref(), Some(&b"2"[..]));
    }

    pub async fn removes_rows(store: &dyn Store) {
        store.write(vec![Op::put(Table::Keys, "a", "1")]).await.unwrap();
        store.write(vec![Op::remove(Table::Keys, "a"), Op::remove(Table::Keys, "never")]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"a").await.unwrap(), None);
    }

    pub async fn keeps_tables_apart(store: &dyn Store) {
        store.write(vec![Op::put(Table::Keys, "x", "1"), Op::put(Table::Meta, "x", "2")]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"x").await.unwrap().as_deref(), Some(&b"1"[..]));
        let rows = store.scan(Table::Keys, b"", None, 10).await.unwrap();
        assert_eq!(rows, [(b"x".to_vec(), b"1".to_vec())]);
    }

    pub async fn scans_in_key_order_by_pages(store: &dyn Store) {
        for n in (0..25).rev() {
            store.write_soft(vec![Op::put(Table::Keys, format!("k{n:02}"), n.to_string())]).await.unwrap();
        }
        let mut seen = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.scan(Table::Keys, b"k", after.as_deref(), 10).await.unwrap();
            assert!(page.len() <= 10);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            seen.extend(page.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()));
        }
        assert_eq!(seen, (0..25).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
    }

    pub async fn scans_a_prefix_only(store: &dyn Store) {
        let names = ["a", "b", "b1", "b2", "c"];
        store.write(names.iter().map(|n| Op::put(Table::Keys, *n, "")).collect()).await.unwrap();
        let keys = |rows: Vec<Row>| rows.into_iter().map(|(k, _)| String::from_utf8(k).unwrap()).collect::<Vec<_>>();
        assert_eq!(keys(store.scan(Table::Keys, b"b", None, 10).await.unwrap()), ["b", "b1", "b2"]);
        assert_eq!(keys(store.scan(Table::Keys, b"b", Some(b"b1"), 10).await.unwrap()), ["b2"]);
        // An `after` before the prefix must not widen the scan.
        assert_eq!(keys(store.scan(Table::Keys, b"b", Some(b"a"), 10).await.unwrap()), ["b", "b1", "b2"]);
        assert!(store.scan(Table::Keys, b"b", Some(b"c"), 10).await.unwrap().is_empty());
    }

    pub async fn refuses_large_rows_and_writes_nothing_of_the_batch(store: &dyn Store) {
        let batch = vec![Op::put(Table::Keys, "small", "1"), Op::put(Table::Keys, "large", vec![0; MAX_ROW])];
        let refused = store.write(batch).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
        assert_eq!(store.read(Table::Keys, b"small").await.unwrap(), None);
        store.write(vec![Op::put(Table::Keys, "ok", vec![7; MAX_ROW - 3])]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"ok").await.unwrap().map(|v| v.len()), Some(MAX_ROW - 3));
    }

    pub async fn soft_writes_are_read_back(store: &dyn Store) {
        store.write_soft(vec![Op::put(Table::Keys, "s", "1")]).await.unwrap();
        assert!(store.read(Table::Keys, b"s").await.unwrap().is_some());
    }

    pub async fn many_writers_at_once_lose_nothing(store: &dyn Store) {
        let writes = (0..200).map(|n| store.write(vec![Op::put(Table::Keys, format!("{n:03}"), "x")]));
        for result in futures_util::future::join_all(writes).await {
            result.unwrap();
        }
        assert_eq!(store.scan(Table::Keys, b"", None, 1000).await.unwrap().len(), 200);
    }

    pub async fn refuses_everything_after_close(store: &dyn Store) {
        store.close().await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.read(Table::Keys, b"a").await, Err(StoreError::Closed)));
        assert!(matches!(store.write(vec![Op::put(Table::Keys, "a", "1")]).await, Err(StoreError::Closed)));
        assert!(matches!(store.scan(Table::Keys, b"", None, 1).await, Err(StoreError::Closed)));
    }
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
    let second = sled::Sled::open_within(dir.path(), Duration::from_millis(100), Duration::from_secs(30)).await;
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

#[tokio::test]
async fn never_starts_with_silently_missing_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_at(dir.path()).await;
    for n in 0..50 {
        store.write(vec![Op::put(Table::Keys, format!("{n}"), "x".repeat(2000))]).await.unwrap();
    }
    store.close().await.unwrap();
    // A log that lost its end, and a folder that vanished.
    let log = dir.path().join("sled/db");
    for entry in std::fs::read_dir(dir.path().join("sled")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let mut bytes = std::fs::read(&log).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[used / 2..].fill(0);
    std::fs::write(&log, bytes).unwrap();
    let config = config::Store { kind: StoreKind::Sled, path: dir.path().to_owned() };
    let message = open(&config).await.err().expect("a cut log must not open").to_string();
    assert!(message.contains("is damaged") && message.contains("restore"), "{message}");
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    assert!(matches!(open(&config).await.err().unwrap(), StoreError::Damaged { .. }));
}

/// Promise 35: what was acknowledged survives `kill -9`. The child is this test binary itself, running `writes_until_killed`.
#[test]
fn acknowledged_writes_survive_kill_9() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(KILL_MARK), "").unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..KILL_ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::writes_until_killed", "--nocapture", "--test-threads=1"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(|l| l.ok());
        // Dies at a random moment after its first acknowledgement: between two writes, inside one, inside a barrier.
        let first = lines.by_ref().find_map(|l| l.strip_prefix(ACKNOWLEDGED).map(str::to_owned));
        acknowledged.push(first.expect("the writer acknowledged nothing"));
        let pause = Duration::from_micros(fastrand::u64(0..40_000));
        std::thread::park_timeout(pause);
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(lines.filter_map(|l| l.strip_prefix(ACKNOWLEDGED).map(str::to_owned)));

        runtime.block_on(async {
            let store = sled_at(&dir.path().join("data")).await;
            for key in &acknowledged {
                let row = store.read(Table::Keys, key.as_bytes()).await.unwrap();
                assert!(row.is_some(), "{key} was acknowledged and is gone after round {round}, pause {pause:?}");
            }
            store.close().await.unwrap();
        });
    }
    assert!(acknowledged.len() >= KILL_ROUNDS);
}

/// The child of the test above; without its mark in the working directory it does nothing.
#[test]
fn writes_until_killed() {
    if !Path::new(KILL_MARK).exists() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = sled_at(Path::new("data")).await;
        let writers = (0..4).map(|_| async {
            for _ in 0..100_000 {
                let key = format!("{:016x}", fastrand::u64(..));
                store
                    .write(vec![Op::put(Table::Keys, key.as_str(), "x".repeat(fastrand::usize(1..900)))])
                    .await
                    .unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "\n{ACKNOWLEDGED}{key}").unwrap();
                out.flush().unwrap();
            }
        });
        futures_util::future::join_all(writers).await;
    });
}

const KILL_ROUNDS: usize = 20;
const KILL_MARK: &str = "kill-mark";
const ACKNOWLEDGED: &str = "acknowledged ";
