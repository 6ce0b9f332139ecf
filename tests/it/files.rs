//! Files and batches: with the provider that owns them, under ids that only their tenant can use.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    auth::{FORM, form},
    family::Openai,
    support::{Answer, Gateway, Process, Say, Upstream, eventually, request},
};

const CLOSED: &str = "[auth]\nrequired = true\n[teams.red]\n[teams.blue]\n";
const FILE: &str =
    r#"{"id":"file-abc","object":"file","bytes":8,"created_at":1700000000,"filename":"a.jsonl","purpose":"batch"}"#;
const BATCH: &str = r#"{"id":"batch_abc","object":"batch","endpoint":"/v1/chat/completions","input_file_id":"file-abc","output_file_id":"file-out","error_file_id":null,"status":"completed","created_at":1700000001}"#;

fn keeper(upstream: &Upstream, name: &str) -> String {
    format!("{}offers = [\"files\", \"batches\"]\n", upstream.provider(name, "openai_chat"))
}

struct Caller<'a>(&'a Gateway, String);

impl<'a> Caller<'a> {
    async fn new(gateway: &'a Gateway, team: &str) -> Caller<'a> {
        let (_, key) = gateway.key(&json!({"name": team, "team": team}).to_string()).await;
        Caller(gateway, format!("Bearer {key}"))
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let kind = if body.starts_with("--") { FORM } else { ("content-type", "application/json") };
        request(self.0.addr, method, path, &[("authorization", &self.1), kind], body.as_bytes()).await
    }

    async fn upload(&self, path: &str) -> String {
        let answer = self.ask("POST", path, &form(&[("purpose", "batch")])).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["id"].as_str().expect("an id").to_owned()
    }
}

/// An id that was told by an upload stands in chats, too: it is the provider's own there.
#[tokio::test]
async fn a_file_may_be_named_in_a_chat_at_the_provider_that_has_it() {
    let (upstream, other) = (Upstream::saying(Say::json(FILE)).await, Upstream::start().await);
    let config = format!("{CLOSED}{}{}", keeper(&upstream, "up"), other.provider("other", "openai_chat"));
    let gateway = Gateway::start(&config).await;
    let (red, blue) = (Caller::new(&gateway, "red").await, Caller::new(&gateway, "blue").await);
    let id = red.upload("/v1/files?provider=up").await;
    upstream.always(Say::json(Openai.whole("read")));
    other.always(Say::json(Openai.whole("never")));
    let chat = |model: &str| {
        let parts = json!([{"type": "file", "file": {"file_id": id}}, {"type": "text", "text": id}]);
        ("/v1/chat/completions", json!({"model": model, "messages": [{"role": "user", "content": parts}]}))
    };
    let responses = |model: &str| {
        let parts = json!([{"type": "input_file", "file_id": id}, {"type": "input_text", "text": id}]);
        ("/v1/responses", json!({"model": model, "input": [{"role": "user", "content": parts}]}))
    };
    let (path, body) = chat("up/m");
    let answer = red.ask("POST", path, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = String::from_utf8_lossy(&upstream.last().body).into_owned();
    assert!(heard.contains("\"file-abc\""), "{heard}");
    assert_eq!(heard.matches(id.as_str()).count(), 1, "what was said stays: {heard}");
    for (path, body) in [chat("other/m"), responses("other/m")] {
        let answer = red.ask("POST", path, &body.to_string()).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains("unsupported_feature") && answer.text().contains("`up`"), "{}", answer.text());
    }
    assert!(other.heard().is_empty());
    // To others it is no file.
    let (path, body) = chat("up/m");
    blue.ask("POST", path, &body.to_string()).await;
    assert!(!String::from_utf8_lossy(&upstream.last().body).contains("file-abc"));
}

#[tokio::test]
async fn a_file_belongs_to_its_tenant_and_its_provider() {
    let upstream = Upstream::saying(Say::json(FILE)).await;
    let gateway = Gateway::start(&format!("{CLOSED}{}", keeper(&upstream, "up"))).await;
    let (red, blue) = (Caller::new(&gateway, "red").await, Caller::new(&gateway, "blue").await);
    let body = form(&[("purpose", "batch")]);
    let id = red.upload("/v1/files").await;
    assert!(id.starts_with("file-") && !id.contains("abc"), "{id}");
    let heard = upstream.last();
    assert_eq!((heard.method.as_str(), heard.path.as_str()), ("POST", "/v1/files"));
    assert_eq!(String::from_utf8_lossy(&heard.body), body);
    // The same file is the same id to its tenant.
    let answer = red.ask("GET", &format!("/v1/files/{id}"), "").await;
    assert_eq!((answer.status, answer.json()["id"].as_str()), (200, Some(id.as_str())), "{}", answer.text());
    assert_eq!((upstream.last().method.as_str(), upstream.last().path.as_str()), ("GET", "/v1/files/file-abc"));
    upstream.always(Say::of(200, "application/octet-stream", b"{\"line\":1}\n".to_vec()));
    let answer = red.ask("GET", &format!("/v1/files/{id}/content"), "").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"line\":1}\n"));
    assert_eq!(upstream.last().path, "/v1/files/file-abc/content");
    // To others it does not exist, whatever they ask.
    let asked = upstream.heard().len();
    for (method, path) in [
        ("GET", format!("/v1/files/{id}")),
        ("GET", format!("/v1/files/{id}/content")),
        ("DELETE", format!("/v1/files/{id}")),
        ("GET", "/v1/files/file-abc".to_owned()),
        ("GET", format!("/v1/batches/{}", id.replace("file-", "batch_"))),
    ] {
        let answer = blue.ask(method, &path, "").await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
        assert!(!answer.text().contains("red"), "{}", answer.text());
    }
    let foreign =
        json!({"input_file_id": id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}).to_string();
    assert_eq!(blue.ask("POST", "/v1/batches", &foreign).await.status, 404);
    assert_eq!(upstream.heard().len(), asked, "nothing of it reached the provider");
}

#[tokio::test]
async fn lists_hold_only_what_the_tenant_has() {
    let upstream = Upstream::saying(Say::json(FILE)).await;
    let gateway = Gateway::start(&format!("{CLOSED}{}", keeper(&upstream, "up"))).await;
    let (red, blue) = (Caller::new(&gateway, "red").await, Caller::new(&gateway, "blue").await);
    let id = red.upload("/v1/files").await;
    let list = red.ask("GET", "/v1/files?limit=5&purpose=batch", "").await.json();
    assert_eq!((list["object"].as_str(), list["data"][0]["id"].as_str()), (Some("list"), Some(id.as_str())), "{list}");
    assert_eq!(blue.ask("GET", "/v1/files", "").await.json()["data"], json!([]));
    assert_eq!(red.ask("GET", "/v1/files?limit=x", "").await.status, 400);
    upstream.always(Say::json(r#"{"id":"file-abc","object":"file","deleted":true}"#));
    let gone = red.ask("DELETE", &format!("/v1/files/{id}"), "").await;
    assert_eq!((gone.json()["deleted"].as_bool(), gone.json()["id"].as_str()), (Some(true), Some(id.as_str())));
    assert_eq!(upstream.last().method, "DELETE");
    assert_eq!(red.ask("GET", "/v1/files", "").await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_batch_goes_where_its_file_is_and_every_id_in_it_is_sealed() {
    let (one, two) = (Upstream::saying(Say::json(FILE)).await, Upstream::saying(Say::json(FILE)).await);
    let gateway = Gateway::start(&format!("{CLOSED}{}{}", keeper(&one, "one"), keeper(&two, "two"))).await;
    let red = Caller::new(&gateway, "red").await;
    let refused = red.ask("POST", "/v1/files", &form(&[("purpose", "batch")])).await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("`one`, `two`"), "{}", refused.text());
    let file = red.upload("/v1/files?provider=two").await;
    two.always(Say::json(BATCH));
    let body =
        json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}).to_string();
    let batch = red.ask("POST", "/v1/batches", &body).await.json();
    assert_eq!(two.last().json()["input_file_id"], "file-abc");
    assert!(batch["id"].as_str().is_some_and(|id| id.starts_with("batch_") && !id.contains("abc")), "{batch}");
    assert_eq!(batch["input_file_id"].as_str(), Some(file.as_str()));
    let out = batch["output_file_id"].as_str().expect("an id").to_owned();
    two.always(Say::of(200, "application/octet-stream", b"out".to_vec()));
    assert_eq!(red.ask("GET", &format!("/v1/files/{out}/content"), "").await.text(), "out");
    assert_eq!(two.last().path, "/v1/files/file-out/content");
    two.always(Say::json(BATCH));
    let id = batch["id"].as_str().expect("an id");
    assert_eq!(red.ask("POST", &format!("/v1/batches/{id}/cancel"), "").await.status, 200);
    assert_eq!(two.last().path, "/v1/batches/batch_abc/cancel");
    assert_eq!(red.ask("GET", "/v1/batches", "").await.json()["data"][0]["id"].as_str(), Some(id));
    assert!(one.heard().is_empty());
    let other = red.ask("POST", "/v1/batches?provider=one", &body).await;
    assert_eq!(other.status, 400, "{}", other.text());
}

#[tokio::test]
async fn an_upstreams_own_id_is_in_no_error() {
    let upstream = Upstream::saying(Say::json(FILE)).await;
    let gateway = Gateway::start(&format!("{CLOSED}{}", keeper(&upstream, "up"))).await;
    let red = Caller::new(&gateway, "red").await;
    let id = red.upload("/v1/files").await;
    for status in [404, 400] {
        upstream.always(Say::error(status, r#"{"error":{"message":"No such File object: file-abc","type":"invalid_request_error","param":"id","code":null}}"#));
        let answer = red.ask("GET", &format!("/v1/files/{id}"), "").await;
        assert_eq!(answer.status, status);
        assert!(!answer.text().contains("file-abc"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_key_bound_to_models_cannot_reach_past_them() {
    let upstream = Upstream::saying(Say::json(FILE)).await;
    let gateway = Gateway::start(&format!("[auth]\nrequired = true\n{}", keeper(&upstream, "up"))).await;
    for (models, status) in [("[\"up/gpt\"]", 403), ("[\"up/g*\"]", 403), ("[\"up/*\"]", 200), ("[\"*\"]", 200)] {
        let (_, key) = gateway.key(&format!("{{\"name\":\"k\",\"models\":{models}}}")).await;
        let caller = Caller(&gateway, format!("Bearer {key}"));
        assert_eq!(caller.ask("POST", "/v1/files", &form(&[("purpose", "batch")])).await.status, status, "{models}");
    }
}

#[tokio::test]
async fn sealed_ids_outlive_a_restart() {
    let upstream = Upstream::saying(Say::json(FILE)).await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("data");
    let config = format!("[store]\nkind = \"sled\"\npath = {:?}\n{CLOSED}{}", path, keeper(&upstream, "up"));
    let gateway = Gateway::start(&config).await;
    let red = Caller::new(&gateway, "red").await;
    let (id, bearer) = (red.upload("/v1/files").await, red.1.clone());
    gateway.stop().await;
    let gateway = Gateway::start(&config).await;
    let red = Caller(&gateway, bearer);
    assert_eq!(red.ask("GET", &format!("/v1/files/{id}"), "").await.status, 200);
    assert_eq!(red.ask("GET", "/v1/files", "").await.json()["data"][0]["id"].as_str(), Some(id.as_str()));
    gateway.stop().await;
}

/// An upstream that takes what comes and keeps none of it.
async fn sink() -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (addr, taken) =
        (listener.local_addr().expect("addr"), std::sync::Arc::<std::sync::atomic::AtomicUsize>::default());
    let count = taken.clone();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut piece = vec![0; 65536];
        let mut tail = Vec::new();
        while !tail.ends_with(b"--b1--\r\n") {
            let n = socket.read(&mut piece).await.expect("bytes");
            count.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
            tail.extend_from_slice(&piece[..n]);
            tail.drain(..tail.len().saturating_sub(16));
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{FILE}",
            FILE.len()
        );
        socket.write_all(head.as_bytes()).await.expect("sent");
    });
    (addr, taken)
}

#[tokio::test]
async fn a_large_upload_streams_through_in_little_memory() {
    const SIZE: usize = 64 << 20;
    let (addr, taken) = sink().await;
    let config = format!(
        "[providers.up]\nbase_url = \"http://{addr}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\noffers = [\"files\"]\n"
    );
    let gateway = Process::start(&config, &[]).await;
    let before = peak(gateway.pid());
    let (head, tail) = {
        let whole = form(&[("purpose", "batch")]);
        let (head, tail) = whole.split_once("{\"a\": 1}").expect("a file");
        (head.to_owned(), tail.to_owned())
    };
    let length = (head.len() + SIZE + tail.len()).to_string();
    let headers = [FORM, ("content-length", length.as_str())];
    let mut socket = crate::support::begin(gateway.addr, "POST", "/v1/files", &headers, head.as_bytes()).await;
    let piece = vec![b'y'; 1 << 20];
    for _ in 0..SIZE / piece.len() {
        socket.write_all(&piece).await.expect("sent");
    }
    socket.write_all(tail.as_bytes()).await.expect("sent");
    let mut raw = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut raw))
        .await
        .expect("an end")
        .expect("an answer");
    let answer = crate::support::parse(&raw);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["id"].as_str().is_some_and(|id| id.starts_with("file-")));
    assert!(taken.load(std::sync::atomic::Ordering::Relaxed) > SIZE);
    let grown = peak(gateway.pid()).saturating_sub(before);
    assert!(grown < 24 << 10, "the process grew by {grown} KiB for {} KiB", SIZE >> 10);
}

/// The most memory that a process ever had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process's status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_by_its_length_and_by_its_bytes() {
    let upstream = Upstream::saying(Say::json(FILE)).await;
    let config = format!("[server]\nlisten = \"127.0.0.1:0\"\nmax_upload = \"64KiB\"\n{}", keeper(&upstream, "up"));
    let gateway = Gateway::start(&config).await;
    let body = form(&[("purpose", "batch")]).replace("{\"a\": 1}", &"y".repeat(100_000));
    let told: Value = gateway.post_with("/v1/files", &[FORM], &body).await.json();
    assert_eq!(told["error"]["code"].as_str(), Some("request_too_large"), "{told}");
    assert!(upstream.heard().is_empty());
}

/// A nano-dollar a token in, two out; half of it in batches.
const PRICED: &str = "[[pricing]]\nmodel = \"up/*\"\ninput = \"0.001\"\noutput = \"0.002\"\nservices = { batch = { factor = \"0.5\" } }\n";
const RICH: &str = "[auth]\nrequired = true\n[teams.red]\nbudget = { usd = 1.0, per = \"day\" }\n[teams.blue]\n";

/// A batch as a newer API tells it.
fn told(status: &str) -> String {
    let mut batch: Value = serde_json::from_str(BATCH).expect("a batch");
    batch["status"] = status.into();
    batch["model"] = "m-2026".into();
    batch["request_counts"] = json!({"total": 3, "completed": 3, "failed": 0});
    batch["usage"] = json!({"input_tokens": 1000, "output_tokens": 400, "total_tokens": 1400,
        "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 100}});
    batch.to_string()
}

/// Rows of the ledger that charge a batch.
fn charges(records: &Value) -> Vec<Value> {
    let rows = records["data"].as_array().cloned().unwrap_or_default();
    let all = rows.iter().flat_map(|record| record["ledger"].as_array().cloned().unwrap_or_default());
    all.filter(|row| row["outcome"] == "batch").collect()
}

/// All records, once there are so many.
async fn records(gateway: &Gateway, count: usize) -> Value {
    gateway.record(count).await;
    gateway.admin("GET", "/api/v1/requests?limit=500", "").await.json()
}

async fn made(red: &Caller<'_>, upstream: &Upstream) -> String {
    upstream.always(Say::json(FILE));
    let file = red.upload("/v1/files").await;
    upstream.always(Say::json(BATCH.replace("completed", "validating")));
    let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let batch = red.ask("POST", "/v1/batches", &body.to_string()).await;
    assert_eq!(batch.status, 200, "{}", batch.text());
    batch.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_batch_is_charged_once_to_its_team_when_it_is_seen_to_be_over() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&format!("{RICH}{PRICED}{}", keeper(&upstream, "up"))).await;
    let (red, blue) = (Caller::new(&gateway, "red").await, Caller::new(&gateway, "blue").await);
    let id = made(&red, &upstream).await;
    let path = format!("/v1/batches/{id}");
    // Not over yet: nothing is known, and nothing charged.
    upstream.always(Say::json(told("in_progress")));
    assert_eq!(red.ask("GET", &path, "").await.status, 200);
    upstream.always(Say::json(told("completed")));
    assert_eq!(blue.ask("GET", &path, "").await.status, 404);
    let looks = (0..12).map(|_| red.ask("GET", &path, ""));
    for answer in futures_util::future::join_all(looks).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let all = records(&gateway, 16).await;
    let rows = charges(&all);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    // (1000 × 1 + 400 × 2) × 0.5 nano-dollars.
    assert_eq!((row["target"].as_str(), row["cost_usd"].to_string()), (Some("up/m-2026"), "0.0000009".to_owned()));
    assert_eq!(
        (row["usage"]["input_tokens"].as_u64(), row["usage"]["service_tier"].as_str()),
        (Some(1000), Some("batch"))
    );
    let costly = all["data"].as_array().expect("rows").iter().filter(|record| record["cost_usd"] != 0).count();
    assert_eq!(costly, 1, "making it and the other looks cost nothing: {all}");
    let budget = gateway.admin("GET", "/api/v1/teams", "").await.json();
    let of_red = budget["data"].as_array().expect("teams").iter().find(|t| t["name"] == "red").expect("red").clone();
    assert_eq!(of_red["budget"]["spent_usd"].to_string(), "0.0000009", "{of_red}");
}

#[tokio::test]
async fn an_output_is_counted_as_it_goes_by_where_the_batch_says_nothing() {
    let row = |model: &str, input: u64, output: u64| {
        json!({"custom_id": "x", "error": null, "response": {"status_code": 200, "body": {"model": model,
            "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}}}})
        .to_string()
    };
    let lines = [
        row("a", 100, 10),
        row("b", 7, 0),
        row("a", 200, 20),
        r#"{"custom_id":"y","response":null,"error":{}}"#.into(),
    ];
    let output = lines.join("\n");
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&format!("{RICH}{PRICED}{}", keeper(&upstream, "up"))).await;
    let red = Caller::new(&gateway, "red").await;
    let id = made(&red, &upstream).await;
    upstream.always(Say::json(BATCH));
    let over = red.ask("GET", &format!("/v1/batches/{id}"), "").await.json();
    let content = format!("/v1/files/{}/content", over["output_file_id"].as_str().expect("an id"));
    // One that breaks off counts nothing; the next whole one counts all, and others after it nothing.
    let half = output.as_bytes()[..output.len() / 2].to_vec();
    upstream.always(Say::of(200, "application/octet-stream", half).end(crate::support::End::Cut));
    red.ask("GET", &content, "").await;
    upstream.always(Say::of(200, "application/octet-stream", output.clone().into_bytes()).bytewise());
    for _ in 0..3 {
        assert_eq!(red.ask("GET", &content, "").await.text(), output);
    }
    let all = records(&gateway, 7).await;
    let mut rows: Vec<_> = charges(&all)
        .iter()
        .map(|row| (row["target"].as_str().unwrap_or_default().to_owned(), row["cost_usd"].to_string()))
        .collect();
    rows.sort();
    // a: (300 + 30 × 2) / 2 nano-dollars, each row rounded; b: 7 / 2, rounded up.
    assert_eq!(rows, [("up/a".to_owned(), "0.00000018".to_owned()), ("up/b".to_owned(), "0.000000004".to_owned())]);
}

#[tokio::test]
async fn a_batch_stays_charged_over_restarts() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("data");
    let config = format!("[store]\nkind = \"sled\"\npath = {path:?}\n{RICH}{PRICED}{}", keeper(&upstream, "up"));
    let gateway = Gateway::start(&config).await;
    let red = Caller::new(&gateway, "red").await;
    let bearer = red.1.clone();
    let batch = format!("/v1/batches/{}", made(&red, &upstream).await);
    upstream.always(Say::json(told("expired")));
    assert_eq!(red.ask("GET", &batch, "").await.status, 200);
    let mut count = charges(&records(&gateway, 3).await).len();
    assert_eq!(count, 1);
    gateway.stop().await;
    for before in 3..5 {
        let gateway = Gateway::start(&config).await;
        assert_eq!(Caller(&gateway, bearer.clone()).ask("GET", &batch, "").await.status, 200);
        count = charges(&records(&gateway, before + 1).await).len();
        assert_eq!(count, 1, "charged before, and not again");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_batch_that_nobody_asks_for_is_charged_all_the_same() {
    let upstream = Upstream::start().await;
    let looking = "[server]\nlisten = \"127.0.0.1:0\"\nbatch_look = \"100ms\"\n";
    let gateway = Gateway::start(&format!("{looking}{RICH}{PRICED}{}", keeper(&upstream, "up"))).await;
    let red = Caller::new(&gateway, "red").await;
    made(&red, &upstream).await;
    // Its owner may be gone by then: its team pays.
    let keys = gateway.admin("GET", "/api/v1/keys", "").await.json();
    let mine =
        keys["data"].as_array().expect("keys").iter().find(|key| key["team"] == "red").expect("a key")["id"].clone();
    let path = format!("/api/v1/keys/{}", mine.as_str().expect("an id"));
    assert!(gateway.admin("DELETE", &path, "").await.status < 300);
    upstream.always(Say::json(told("in_progress")));
    let asked = upstream.heard().len();
    eventually("it is asked for while it runs", async || upstream.heard().len() > asked + 1).await;
    assert_eq!(upstream.last().path, "/v1/batches/batch_abc");
    let rows = async || charges(&gateway.admin("GET", "/api/v1/requests?limit=500", "").await.json());
    assert!(rows().await.is_empty());
    upstream.always(Say::json(told("completed")));
    eventually("it is charged", async || !rows().await.is_empty()).await;
    let spent = async || {
        let teams = gateway.admin("GET", "/api/v1/teams", "").await.json();
        let team = teams["data"].as_array().expect("teams").iter().find(|t| t["name"] == "red").expect("red").clone();
        team["budget"]["spent_usd"].to_string()
    };
    eventually("its team's budget has it", async || spent().await == "0.0000009").await;

    // One that says nothing of what it used: its output is read, once it can be.
    upstream.always(Say::json(FILE));
    let blue = Caller::new(&gateway, "blue").await;
    made(&blue, &upstream).await;
    let body = json!({"model": "a", "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}});
    let row = json!({"custom_id": "x", "error": null, "response": {"status_code": 200, "body": body}}).to_string();
    upstream.always(Say::of(200, "application/octet-stream", row.into_bytes()));
    upstream.then(Say::json(BATCH));
    eventually("it is charged, too", async || rows().await.len() == 2).await;
    let targets: Vec<_> =
        rows().await.iter().map(|row| row["target"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(targets.contains(&"up/a".to_owned()) && targets.contains(&"up/m-2026".to_owned()), "{targets:?}");
}
