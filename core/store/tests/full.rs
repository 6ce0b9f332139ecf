//! Promise 35: on a full disk changes are refused, reads go on, and once there is room everything works again without a
//! restart. On a small file system of the test's own.

use std::{fs, path::PathBuf, process::Command};

use super::*;

/// A file system of a few megabytes; gone with the test.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    /// `Err`: this user may not mount. Where nothing may be skipped that is a failure.
    fn mount(size: &str) -> std::result::Result<Small, String> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        let why = match mounted {
            Ok(out) if out.status.success() => return Ok(Small { folder }),
            Ok(out) => String::from_utf8_lossy(&out.stderr).into_owned(),
            Err(e) => e.to_string(),
        };
        assert!(!no_skip(), "a tmpfs must be mounted for this test, which needs root: {why}");
        Err(format!("no tmpfs could be mounted: {why}"))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Leaves no byte.
    fn fill(&self) {
        use std::io::Write;
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("ballast")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.folder.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).output();
    }
}

#[allow(clippy::disallowed_methods, reason = "the environment tells tests what they may skip")]
fn no_skip() -> bool {
    std::env::var_os("PORTCULLIS_NO_SKIP").is_some_and(|v| v == "1")
}

/// Writes until the disk takes no more; what was acknowledged.
async fn write_until_full(store: &dyn Store, from: usize) -> usize {
    for n in from..from + 20_000 {
        match store.write(vec![Op::put(Table::Keys, format!("{n:06}"), "x".repeat(3000))]).await {
            Ok(()) => {}
            Err(StoreError::Full(_)) => return n,
            Err(other) => panic!("a full disk is told as one: {other}"),
        }
    }
    panic!("the disk never got full");
}

async fn count(store: &dyn Store) -> usize {
    store.scan(Table::Keys, b"", None, 100_000).await.unwrap().len()
}

#[tokio::test]
async fn a_disk_that_gets_full_refuses_changes_and_heals_without_a_restart() {
    fills_and_heals(sled::LIMITS).await;
}

/// Somebody else took the last bytes between the look and the write.
#[tokio::test]
async fn a_disk_that_is_full_before_it_is_seen_heals_too() {
    fills_and_heals(open::Limits { spare: 0, ..sled::LIMITS }).await;
}

async fn fills_and_heals(limits: open::Limits) {
    let disk = match Small::mount("24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let rounds = if long() { 20 } else { 3 };
    let store: Arc<dyn Store> = Arc::new(sled::Sled::open_within(&disk.data(), limits).await.unwrap());
    let mut kept = 0;
    for round in 0..rounds {
        // Soon full, at another place of sled's segments each time.
        disk.fill();
        kept = write_until_full(&*store, kept).await;
        for _ in 0..3 {
            let refused =
                store.write(vec![Op::put(Table::Keys, "refused", "1"), Op::remove(Table::Keys, "000000")]).await;
            assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
        }
        match store.scan(Table::Keys, b"", None, 100_000).await {
            Ok(rows) => assert_eq!(rows.len(), kept, "reads show what was acknowledged, no more and no less"),
            // sled was splitting the page that is read.
            Err(StoreError::Full(_)) if limits.spare == 0 => {}
            Err(other) => panic!("reads go on: {other}"),
        }
        assert!(matches!(store.export(None).await, Err(StoreError::Full(_))));

        disk.make_room();
        let write = async || {
            for _ in 0..100 {
                match store.write(vec![Op::put(Table::Meta, "round", round.to_string())]).await {
                    Err(StoreError::Full(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                    other => return other,
                }
            }
            panic!("it never healed");
        };
        write().await.unwrap();
        assert_eq!(count(&*store).await, kept, "what was refused is not there after it healed");
        if round % 2 == 1 {
            // Back to little, so that the next rounds have room to write in.
            let rows = store.scan(Table::Keys, b"", None, 100_000).await.unwrap();
            for page in rows.chunks(200) {
                store.write(page.iter().map(|(k, _)| Op::remove(Table::Keys, k.clone())).collect()).await.unwrap();
            }
            kept = 0;
        }
    }
    store.close().await.unwrap();
    let store = sled_at(&disk.data()).await;
    assert_eq!(count(&*store).await, kept, "nor after a restart");
    assert!(store.notices().is_empty());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_on_a_full_disk_says_that_it_cannot_be_opened_and_stays_as_it_was() {
    let disk = match Small::mount("24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let store = sled_at(&disk.data()).await;
    store.write(vec![Op::put(Table::Keys, "a", "1")]).await.unwrap();
    store.close().await.unwrap();
    disk.fill();
    let refused = open(&config::Store { kind: StoreKind::Sled, path: disk.data() }).await.err().unwrap().to_string();
    assert!(refused.contains("is full") && refused.contains("2 MiB"), "{refused}");
    disk.make_room();
    let store = sled_at(&disk.data()).await;
    assert!(store.read(Table::Keys, b"a").await.unwrap().is_some());
    assert!(store.notices().is_empty());
    store.close().await.unwrap();
}
