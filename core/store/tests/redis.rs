//! What only a shared store can go wrong with, on a real redis-server: it goes away and comes back, is full, is another one than
//! before; several gateways write at once; a store moves there and back. The contract is in `contract.rs`.

use std::{path::Path, sync::Arc, time::Duration};

use super::{server::Server, *};
use crate::config::{OnOutage, Redis, RedisPlace, Secret};

pub fn config_of(server: &Server) -> Redis {
    Redis {
        place: RedisPlace::Hosts(vec![("127.0.0.1".to_owned(), server.port)]),
        cluster: false,
        tls: false,
        ca: None,
        database: 0,
        user: None,
        password: None,
        prefix: "t".to_owned(),
        timeout: Duration::from_secs(1),
        on_outage: OnOutage::Refuse,
        lease: Duration::from_secs(60),
    }
}

pub async fn store_of(redis: Redis, path: &Path) -> Result<Arc<dyn Store>> {
    open(&config::Store { kind: StoreKind::Redis(Arc::new(redis)), path: path.to_owned() }).await
}

async fn at(server: &Server, path: &Path) -> Arc<dyn Store> {
    store_of(config_of(server), path).await.unwrap()
}

/// Waits for an observable.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("did not happen in 20 s: {what}");
}

#[tokio::test]
async fn two_gateways_see_each_others_rows_but_not_their_histories() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (at(&server, &dir.path().join("a")).await, at(&server, &dir.path().join("b")).await);
    assert_ne!(a.node(), b.node());
    a.write(vec![Op::put(Table::Keys, "k", "1"), Op::put(Table::Versions, "v", "a")]).await.unwrap();
    assert_eq!(b.read(Table::Keys, b"k").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(b.read(Table::Versions, b"v").await.unwrap(), None);
    b.write(vec![Op::put(Table::Versions, "v", "b")]).await.unwrap();
    let own = |store: Arc<dyn Store>| async move { store.scan(Table::Versions, b"", None, 10).await.unwrap() };
    assert_eq!(own(a.clone()).await, [(b"v".to_vec(), b"a".to_vec())]);
    assert_eq!(own(b.clone()).await, [(b"v".to_vec(), b"b".to_vec())]);
    // The same folder is the same gateway.
    let again = at(&server, &dir.path().join("a")).await;
    assert_eq!((again.node(), own(again.clone()).await.len()), (a.node(), 1));
    // Another prefix is another store.
    let other = Redis { prefix: "other".to_owned(), ..config_of(&server) };
    let other = store_of(other, &dir.path().join("c")).await.unwrap();
    assert_eq!(other.read(Table::Keys, b"k").await.unwrap(), None);
}

#[tokio::test]
async fn changes_are_told_once_to_whoever_listens_also_without_messages() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (at(&server, &dir.path().join("a")).await, at(&server, &dir.path().join("b")).await);
    let mut heard = b.changes().unwrap();
    b.join().await.unwrap();
    for round in 0..2 {
        for n in 0..20 {
            a.write(vec![Op::put(Table::Keys, format!("{round}-{n}"), "1"), Op::put(Table::Usage, "u", "1")])
                .await
                .unwrap();
        }
        let mut keys = std::collections::BTreeSet::new();
        while keys.len() < 20 {
            let told = tokio::time::timeout(Duration::from_secs(20), heard.next()).await.expect("in time").unwrap();
            let Told::Rows(rows) = told else { panic!("{told:?}") };
            for (table, key) in rows.iter() {
                assert_eq!(*table, Table::Keys, "sums are told to nobody");
                keys.insert(key.clone());
            }
        }
        // From now on messages are dropped: what changed is found all the same.
        server.ask(&["ACL", "SETUSER", "default", "resetchannels"]);
    }
}

#[tokio::test]
async fn who_was_away_too_long_is_told_to_read_everything() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let a = at(&server, &dir.path().join("a")).await;
    let b = at(&server, &dir.path().join("b")).await;
    let mut heard = b.changes().unwrap();
    for n in 0..11 {
        let many = (0..1_000).map(|m| Op::put(Table::Keys, format!("{n}-{m}"), "1")).collect();
        a.write(many).await.unwrap();
    }
    b.join().await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), heard.next()).await.expect("in time");
    assert_eq!(told, Some(Told::Anything));
    // What was cut off is bounded.
    assert_eq!(server.ask(&["ZCARD", "{t}:log"]), super::server::Reply::Int(10_000));
}

#[tokio::test]
async fn a_server_that_goes_away_fails_at_once_and_is_found_again() {
    let Some(mut server) = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = at(&server, &dir.path().join("a")).await;
    assert!(store.notices().is_empty(), "{:?}", store.notices());
    store.write(vec![Op::put(Table::Keys, "k", "1")]).await.unwrap();
    server.kill();
    eventually("it is noticed", async || store.write(vec![Op::put(Table::Keys, "k", "2")]).await.is_err()).await;
    let started = std::time::Instant::now();
    let error = store.read(Table::Keys, b"k").await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waits for a server that is known to be away");
    assert!(store.trouble().unwrap().contains("cannot be reached"));
    assert!(server.run().unwrap());
    eventually("it is found again", async || store.read(Table::Keys, b"k").await.is_ok()).await;
    // What was acknowledged is there: Redis was told to be durable.
    assert!(store.read(Table::Keys, b"k").await.unwrap().is_some());
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn an_emptied_server_is_another_store() {
    let Some(mut server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = at(&server, &dir.path().join("a")).await;
    assert!(store.notices()[0].contains("append-only"), "{:?}", store.notices());
    store.write(vec![Op::put(Table::Keys, "k", "1")]).await.unwrap();
    server.ask(&["FLUSHALL"]);
    let error = store.write(vec![Op::put(Table::Keys, "k", "2")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Replaced { .. }), "{error}");
    assert!(store.trouble().unwrap().contains("another store"));
    // Also when it was away meanwhile.
    server.kill();
    assert!(server.run().unwrap());
    eventually("it is found", async || store.trouble().is_some_and(|t| t.contains("another store"))).await;
    store.close().await.unwrap();
    // The folder knows: keys are never silently missing.
    let refused = store_of(config_of(&server), &dir.path().join("a")).await.err().unwrap().to_string();
    assert!(refused.contains("is not the store that this folder was used with"), "{refused}");
    std::fs::remove_file(dir.path().join("a/shared")).unwrap();
    at(&server, &dir.path().join("a")).await;
}

#[tokio::test]
async fn a_full_server_refuses_whole_batches_and_heals() {
    let Some(server) = Server::start(&["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = at(&server, &dir.path().join("a")).await;
    store.write(vec![Op::put(Table::Keys, "first", "1")]).await.unwrap();
    let mut kept = 0;
    let error = loop {
        let batch = vec![Op::put(Table::Usage, format!("{kept:04}"), vec![7; 60_000]), Op::put(Table::Keys, "k", "x")];
        match store.write(batch).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1_000, "it never filled");
    };
    assert!(matches!(error, StoreError::SharedFull { .. }), "{error}");
    assert!(store.trouble().unwrap().contains("full"));
    // The removal comes first in this batch: it is not done by half.
    let half = vec![Op::remove(Table::Keys, "first"), Op::put(Table::Usage, "more", vec![7; 60_000])];
    assert!(store.write(half).await.is_err());
    assert!(store.read(Table::Keys, b"first").await.unwrap().is_some(), "reads go on");
    assert_eq!(store.scan(Table::Usage, b"", None, 10_000).await.unwrap().len(), kept);
    server.ask(&["CONFIG", "SET", "maxmemory", "64mb"]);
    store.write(vec![Op::put(Table::Keys, "k", "y")]).await.unwrap();
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn a_server_that_may_forget_is_refused() {
    let Some(server) = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let error = store_of(config_of(&server), dir.path()).await.err().unwrap().to_string();
    assert!(error.contains("maxmemory-policy noeviction"), "{error}");
}

#[tokio::test]
async fn a_replica_is_no_store() {
    let Some(server) = Server::start(&[]) else { return };
    let port = server.port.to_string();
    let Some(replica) = Server::start(&["--replicaof", "127.0.0.1", &port]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let error = store_of(config_of(&replica), dir.path()).await.err().unwrap().to_string();
    assert!(error.contains("replica") || error.contains("loading"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_said_and_a_right_one_opens() {
    let Some(server) = Server::start(&["--requirepass", "open sesame"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    for password in [None, Some(Secret::new("wrong"))] {
        let redis = Redis { password, ..config_of(&server) };
        let error = store_of(redis, dir.path()).await.err().unwrap().to_string();
        assert!(error.contains("store.password") && !error.contains("sesame"), "{error}");
    }
    let redis = Redis { password: Some(Secret::new("open sesame")), ..config_of(&server) };
    store_of(redis, dir.path()).await.unwrap().write(vec![Op::put(Table::Keys, "k", "1")]).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let Some(mut server) = Server::start(&[]) else { return };
    server.kill();
    let dir = tempfile::tempdir().unwrap();
    let error = store_of(config_of(&server), dir.path()).await.err().unwrap().to_string();
    assert!(
        error.contains(&format!("redis at 127.0.0.1:{}", server.port)) && error.contains("cannot be reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_store_moves_to_redis_and_back_unchanged() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let fits = |_: &Directory, _: &Header| Ok(());
    let sled = sled_at(&dir.path().join("sled")).await;
    let mut rows: Vec<Op> =
        (0..2_500).map(|n| Op::put(Table::Keys, format!("key_{n:05}"), vec![n as u8; n % 300])).collect();
    rows.push(Op::put(Table::Versions, vec![0, 1, 0xff], "own"));
    rows.push(Op::put(Table::Meta, MASTER_CHECK, vec![9; 32]));
    rows.push(Op::put(Table::Objects, vec![0xff; 40], vec![0; 60_000]));
    sled.write(rows).await.unwrap();
    let first = sled.export(Some(dir.path().join("first.jsonl"))).await.unwrap();
    sled.close().await.unwrap();

    let there = config::Store { kind: StoreKind::Redis(Arc::new(config_of(&server))), path: dir.path().join("node") };
    let said = super::super::import(&there, &first.path, false, &fits).await.unwrap().join("\n");
    assert!(said.contains("imported 2503 rows") && said.contains("add up to"), "{said}");
    // Once it has keys, not again by accident.
    let refused = super::super::import(&there, &first.path, false, &fits).await.unwrap_err().to_string();
    assert!(refused.contains("--replace"), "{refused}");

    let redis = open(&there).await.unwrap();
    assert_eq!(redis.read(Table::Versions, &[0, 1, 0xff]).await.unwrap().as_deref(), Some(&b"own"[..]));
    // Not while a gateway serves.
    redis.join().await.unwrap();
    eventually("it lives", async || server.ask(&["ZCARD", "{t}:alive"]) == super::server::Reply::Int(1)).await;
    let refused = super::super::import(&there, &first.path, true, &fits).await.unwrap_err().to_string();
    assert!(refused.contains("stop all of them"), "{refused}");
    let second = redis.export(Some(dir.path().join("second.jsonl"))).await.unwrap();
    redis.close().await.unwrap();
    let said = super::super::import(&there, &first.path, true, &fits).await.unwrap().join("\n");
    assert!(said.contains("the rows before are in redis under"), "{said}");

    let back = config::Store { kind: StoreKind::Sled, path: dir.path().join("back") };
    super::super::import(&back, &second.path, false, &fits).await.unwrap();
    let sled = open(&back).await.unwrap();
    let third = sled.export(Some(dir.path().join("third.jsonl"))).await.unwrap();
    sled.close().await.unwrap();
    let lines = |path: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[1..lines.len() - 1].to_vec()
    };
    assert_eq!((first.rows, second.rows, third.rows), (2503, 2503, 2503));
    assert_eq!(lines(&first.path), lines(&second.path));
    assert_eq!(lines(&first.path), lines(&third.path));
    // Copies and imports leave nothing behind.
    let super::server::Reply::List(keys) = server.ask(&["KEYS", "*"]) else { panic!() };
    let keys = format!("{keys:?}");
    assert!(!keys.contains(":export:") && !keys.contains(":import:"), "{keys}");
}

#[tokio::test]
async fn a_damaged_export_changes_nothing() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = at(&server, &dir.path().join("a")).await;
    store.write(vec![Op::put(Table::Keys, "k", "1")]).await.unwrap();
    let export = store.export(Some(dir.path().join("e.jsonl"))).await.unwrap();
    store.close().await.unwrap();
    let text = std::fs::read_to_string(&export.path).unwrap();
    std::fs::write(&export.path, text.replace("\"v\":\"MQ==\"", "\"v\":\"Mg==\"")).unwrap();
    let there = config::Store { kind: StoreKind::Redis(Arc::new(config_of(&server))), path: dir.path().join("a") };
    let fits = |_: &Directory, _: &Header| Ok(());
    let error = super::super::import(&there, &export.path, true, &fits).await.unwrap_err().to_string();
    assert!(error.contains("hash does not fit"), "{error}");
    let store = open(&there).await.unwrap();
    assert_eq!(store.read(Table::Keys, b"k").await.unwrap().as_deref(), Some(&b"1"[..]));
}

/// Three nodes, slots cut in three: whatever a script touches lies on one of them.
#[tokio::test]
async fn a_cluster_keeps_what_belongs_together_together() {
    let nodes: Vec<Server> = (0..3).filter_map(|_| Server::start(&["--cluster-enabled", "yes"])).collect();
    if nodes.len() < 3 {
        return;
    }
    let ends = ["0", "5460", "5461", "10922", "10923", "16383"];
    for (node, slots) in nodes.iter().zip(ends.chunks(2)) {
        node.ask(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]);
        node.ask(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]);
    }
    for node in &nodes {
        eventually("the cluster is whole", async || {
            format!("{:?}", node.ask(&["CLUSTER", "INFO"])).contains("cluster_state:ok")
                && format!("{:?}", node.ask(&["CLUSTER", "NODES"])).matches("connected").count() >= 3
        })
        .await;
    }
    let dir = tempfile::tempdir().unwrap();
    // Whichever node is named, whichever holds the slot.
    for (n, node) in nodes.iter().enumerate() {
        let redis = Redis { cluster: true, prefix: format!("p{n}"), ..config_of(node) };
        let (one, other) = (redis.clone(), redis);
        let store = store_of(one, &dir.path().join(format!("{n}a"))).await.unwrap();
        let beside = store_of(other, &dir.path().join(format!("{n}b"))).await.unwrap();
        let mut heard = beside.changes().unwrap();
        beside.join().await.unwrap();
        assert!(
            store.write_if(vec![Op::remove(Table::Keys, "k")], vec![Op::put(Table::Keys, "k", "1")]).await.unwrap()
        );
        assert_eq!(beside.scan(Table::Keys, b"", None, 10).await.unwrap().len(), 1);
        let told = tokio::time::timeout(Duration::from_secs(20), heard.next()).await.expect("in time");
        assert!(matches!(told, Some(Told::Rows(_))), "{told:?}");
        assert_eq!(store.export(Some(dir.path().join(format!("{n}.jsonl")))).await.unwrap().rows, 1);
    }
}

/// TLS with an authority of our own; without it nobody is trusted.
#[tokio::test]
async fn tls_trusts_the_named_authority_only() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port();
    let (tls_port, cert_path, key_path) = (tls.to_string(), cert.display().to_string(), key.display().to_string());
    let args = [
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &cert_path,
        "--tls-key-file",
        &key_path,
        "--tls-auth-clients",
        "no",
    ];
    let Some(server) = Server::start(&args) else { return };
    let place = RedisPlace::Hosts(vec![("localhost".to_owned(), tls)]);
    let trusting = Redis { place, tls: true, ca: Some(cert), ..config_of(&server) };
    let blind = Redis { ca: None, ..trusting.clone() };
    let store = store_of(trusting, &dir.path().join("a")).await.unwrap();
    store.write(vec![Op::put(Table::Keys, "k", "1")]).await.unwrap();
    let error = store_of(blind, &dir.path().join("b")).await.err().unwrap().to_string();
    assert!(error.contains("redis at localhost"), "{error}");
}

#[tokio::test]
async fn a_socket_in_the_file_system_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let Some(server) = Server::start(&["--unixsocket", &socket.display().to_string()]) else { return };
    let redis = Redis { place: RedisPlace::Socket(socket), ..config_of(&server) };
    let store = store_of(redis, &dir.path().join("a")).await.unwrap();
    store.write(vec![Op::put(Table::Keys, "k", "1")]).await.unwrap();
}

#[tokio::test]
async fn what_is_no_redis_is_told_apart_from_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut socket = socket;
            let _ = std::io::Write::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis {
        place: RedisPlace::Hosts(vec![("127.0.0.1".to_owned(), port)]),
        cluster: false,
        tls: false,
        ca: None,
        database: 0,
        user: None,
        password: None,
        prefix: "t".to_owned(),
        timeout: Duration::from_millis(500),
        on_outage: OnOutage::Refuse,
        lease: Duration::from_secs(60),
    };
    let error = store_of(redis, dir.path()).await.err().unwrap().to_string();
    assert!(error.contains(&format!("redis at 127.0.0.1:{port}")), "{error}");
}
