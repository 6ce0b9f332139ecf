//! Values that may be lost, on a real redis-server: their end, their bound, what is emptied, and what happens while it does not answer.

use std::time::{Duration, Instant};

use super::{
    redis::{config_of, eventually, store_of},
    server::{Reply, Server},
    *,
};
use crate::store::volatile::{Placed, Put, Volatile};

const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(250);

/// Two gateways on one server.
async fn two(server: &Server, path: &Path) -> (Arc<dyn Volatile>, Arc<dyn Volatile>) {
    let a = store_of(config_of(server), &path.join("a")).await.unwrap();
    let b = store_of(config_of(server), &path.join("b")).await.unwrap();
    let values = async |store: Arc<dyn Store>| store.volatile().await.unwrap().unwrap();
    (values(a).await, values(b).await)
}

fn put<'a>(name: &'a str, value: &'a [u8]) -> Put<'a> {
    Put { name, value, keep: HOUR, mark: 0, bound: 1 << 20 }
}

async fn there(values: &Arc<dyn Volatile>, name: &str) -> Option<Vec<u8>> {
    let mut value = None;
    // A machine that is busy gets another try.
    eventually("it answers", async || match values.read(name, SHORT).await {
        Ok(read) => {
            value = read.value;
            true
        }
        Err(_) => false,
    })
    .await;
    value
}

fn count(server: &Server, pattern: &str) -> usize {
    let Reply::List(keys) = server.ask(&["KEYS", pattern]) else { panic!("a list") };
    keys.len()
}

#[tokio::test]
async fn what_one_puts_the_other_reads_until_its_end() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&server, dir.path()).await;
    assert_eq!(there(&b, "aa01").await, None);
    let large = vec![0xf0; 1 << 18];
    assert!(matches!(a.put(put("aa01", &large)).await.unwrap(), Placed::Kept { evicted: 0, bytes } if bytes > 1 << 18));
    assert_eq!(there(&b, "aa01").await, Some(large));
    // In its place, and counted once.
    let Placed::Kept { bytes, .. } = b.put(put("aa01", b"new")).await.unwrap() else { panic!("kept") };
    assert_eq!((there(&a, "aa01").await.as_deref(), bytes < 1_000), (Some(&b"new"[..]), true));
    a.put(Put { keep: Duration::from_millis(50), ..put("aa02", b"brief") }).await.unwrap();
    eventually("it has ended", async || there(&b, "aa02").await.is_none()).await;
    let Placed::Kept { bytes: after, .. } = a.put(put("aa01", b"new")).await.unwrap() else { panic!("kept") };
    assert_eq!(after, bytes, "what has ended is not counted");
    b.remove("aa01").await.unwrap();
    assert_eq!((there(&a, "aa01").await, count(&server, "*:v:=*")), (None, 0));
}

#[tokio::test]
async fn the_oldest_make_room() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&server, dir.path()).await;
    let value = vec![1; 1_000];
    let mut gone = 0;
    for n in 0..100 {
        let name = format!("{n:04}");
        let gateway = if n % 2 == 0 { &a } else { &b };
        let put = Put { keep: HOUR + Duration::from_secs(n), bound: 20_000, ..put(&name, &value) };
        let Placed::Kept { evicted, bytes } = gateway.put(put).await.unwrap() else { panic!("kept") };
        assert!(bytes <= 20_000, "{bytes}");
        gone += evicted;
    }
    let left = count(&server, "*:v:=*");
    assert_eq!((left, gone), (15, 85), "each takes 1,256 bytes");
    assert_eq!((there(&a, "0000").await, there(&a, "0099").await), (None, Some(value.clone())));
    let more = vec![1; 30_000];
    assert_eq!(a.put(Put { bound: 20_000, ..put("big", &more) }).await.unwrap(), Placed::NoRoom);
    assert_eq!(there(&a, "big").await, None);
}

#[tokio::test]
async fn what_was_emptied_stays_empty() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&server, dir.path()).await;
    for n in 0..1_200 {
        a.put(put(&format!("aaaa{n:04}"), b"x")).await.unwrap();
    }
    for n in 0..3 {
        a.put(put(&format!("bbbb{n:04}"), b"y")).await.unwrap();
    }
    let emptied = b.empty("aaaa").await.unwrap();
    assert_eq!((emptied.removed, emptied.mark, count(&server, "*:v:=*")), (1_200, 1, 3));
    assert_eq!((a.mark().await.unwrap(), b.mark().await.unwrap()), (1, 1));
    // Asked for before.
    assert_eq!(a.put(put("aaaa0001", b"late")).await.unwrap(), Placed::Emptied);
    assert_eq!(there(&b, "aaaa0001").await, None);
    assert!(matches!(a.put(Put { mark: 1, ..put("aaaa0001", b"new") }).await.unwrap(), Placed::Kept { .. }));
    let emptied = a.empty("").await.unwrap();
    assert_eq!((emptied.removed, emptied.mark, emptied.bytes, count(&server, "*:v:=*")), (4, 2, 0, 0));
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_one_wait_and_then_none() {
    let Some(mut server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, _b) = two(&server, dir.path()).await;
    a.put(put("aa01", b"x")).await.unwrap();
    server.pause();
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert!(a.read("aa01", SHORT).await.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "a thousand waits would be four minutes");
    server.resume();
    assert_eq!(there(&a, "aa01").await.as_deref(), Some(&b"x"[..]));
    server.kill();
    eventually("it is gone", async || a.read("aa01", SHORT).await.is_err()).await;
    assert!(a.put(put("aa02", b"x")).await.is_err() && a.empty("").await.is_err());
}

#[tokio::test]
async fn rows_keep_a_fifth_of_the_servers_memory_to_themselves() {
    let Some(server) = Server::start(&["--maxmemory", "20mb", "--maxmemory-policy", "noeviction"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, _b) = two(&server, dir.path()).await;
    let value = vec![1; 1 << 20];
    for n in 0..40 {
        let name = format!("{n:04}");
        let put = Put { bound: 1 << 30, ..put(&name, &value) };
        assert!(!matches!(a.put(put).await.unwrap(), Placed::Emptied), "{n}");
    }
    let left = count(&server, "*:v:=*");
    assert!((2..=16).contains(&left), "{left}");
    // Others still write.
    assert_eq!(server.ask(&["SET", "other", &"x".repeat(1 << 20)]), Reply::Text("OK".into()));
}
