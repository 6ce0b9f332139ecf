//! What a gateway holds of a burst when it is over, and what one with many keys takes in memory, all in all, and how long it takes to start. `PORTCULLIS_LONG=1`: a million of
//! them; else 20,000. Of the table of keys alone `core/auth/tests/memory.rs` knows more.

use std::time::{Duration, Instant};

use portcullis::{
    config,
    store::{self, Op, Table},
};

use crate::{
    shared::long,
    support::{Process, Say, Upstream, eventually, request},
};

const CLOSED: &str = "[auth]\nrequired = true\n[store]\nkind = \"sled\"\n";

async fn fill(gateway: &Process, count: usize) {
    let place = config::Store { kind: config::StoreKind::Sled, path: gateway.path().join("data") };
    let store = store::open(&place).await.unwrap();
    let mut rows = Vec::new();
    for n in 0..count {
        let hash = format!("{:064x}", (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let row = format!(
            r#"{{"name":"laptop of {n}","created":1764000000,"secrets":[{{"hash":"{hash}","last4":"abcd","created":1764000000}}]}}"#
        );
        rows.push(Op::put(Table::Keys, format!("key_{n:024x}"), row));
        if rows.len() == 1_000 || n + 1 == count {
            store.write(std::mem::take(&mut rows)).await.unwrap();
        }
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_a_burst_goes_back_while_nothing_happens() {
    let answer = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",
        "message":{"role":"assistant","content":"yes"}}]}"#;
    let upstream = Upstream::saying(Say::json(answer).wait(Duration::from_secs(2))).await;
    let gateway = Process::start(&upstream.provider("up", "openai_chat"), &[]).await;
    let text = "word ".repeat(50_000);
    let body = format!(r#"{{"model":"up/m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let ask = |addr, body: String| async move {
        request(addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await.status
    };
    assert_eq!(ask(gateway.addr, body.clone()).await, 200);
    let before = gateway.own_memory();
    let all: Vec<_> = (0..100).map(|_| tokio::spawn(ask(gateway.addr, body.clone()))).collect();
    upstream.hears(101).await;
    let (with, bodies) = (gateway.own_memory(), 100 * body.len() as u64);
    assert!(with > before + bodies / 2, "{before} bytes before it, {with} with it: it is in memory");
    for one in all {
        assert_eq!(one.await.expect("ran"), 200);
    }
    // Not all of it: each thread keeps some for itself.
    let back = (with - before) / 3;
    eventually("a third of it goes back", async || gateway.own_memory() < with - back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_take_little_memory_and_a_gateway_starts_with_them() {
    let count = if long() { 1_000_000 } else { 20_000 };
    let mut gateway = Process::start(CLOSED, &[]).await;
    gateway.restart().await;
    let without = gateway.memory();
    gateway.halt();
    let began = Instant::now();
    fill(&gateway, count).await;
    let (filled, began) = (began.elapsed(), Instant::now());
    gateway.again().await;
    let started = began.elapsed();
    // One of them, and a new one.
    assert_eq!(gateway.admin("GET", &format!("/api/v1/keys/key_{:024x}", count - 1), "").await.status, 200);
    let made = gateway.admin("POST", "/api/v1/keys", r#"{"name":"ana"}"#).await.json();
    let bearer = format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")));
    let models = request(gateway.addr, "GET", "/v1/models", &[("authorization", bearer.as_str())], b"").await;
    assert_eq!(models.status, 200);
    let with = gateway.memory();
    let each = with.saturating_sub(without) / count as u64;
    println!(
        "{count} keys: written in {filled:?}, started in {started:?}; {} MiB, without them {} MiB; {each} bytes a key",
        with >> 20,
        without >> 20
    );
    // The store keeps at most 64 MiB of what was read, so that few keys take more each.
    let most = if long() { 1_200 } else { 4_000 };
    assert!(each < most, "{each} bytes a key");
}

/// The allocator of the release stands in for the C library's: nobody asks it for an alignment that it gives anyway.
#[test]
fn memory_comes_from_one_allocator() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--version")
        .env("MIMALLOC_SHOW_STATS", "1")
        .output()
        .expect("the program");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let pages = said.lines().find_map(|line| line.trim().strip_prefix("pages")?.trim().strip_prefix(':'));
    let most: u64 = pages.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    assert!(most > 0, "{said}");
}
