//! Killed at any moment: what was acknowledged is there, and the next process can open the store at once.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;

/// Promise 35: what was acknowledged survives `kill -9`. The child is this test binary itself, running `writes_until_killed`.
#[test]
fn acknowledged_writes_survive_kill_9() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(KILL_MARK), "").unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    let rounds = if long() { LONG_ROUNDS } else { ROUNDS };
    for round in 0..rounds {
        let known = acknowledged.len();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::kill::writes_until_killed", "--nocapture", "--test-threads=1"])
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
            // All of them now and then: a long run reads too much otherwise.
            let from = if round % 20 == 0 || round + 1 == rounds { 0 } else { known };
            for key in &acknowledged[from..] {
                let row = store.read(Table::Keys, key.as_bytes()).await.unwrap();
                assert!(row.is_some(), "{key} was acknowledged and is gone after round {round}, pause {pause:?}");
            }
            store.close().await.unwrap();
        });
    }
    assert!(acknowledged.len() >= rounds);
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

const ROUNDS: usize = 20;
const LONG_ROUNDS: usize = 400;
const KILL_MARK: &str = "kill-mark";
const ACKNOWLEDGED: &str = "acknowledged ";
