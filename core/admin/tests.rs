//! The control plane over real sockets: keys, who may come in, and what wrong requests are told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, SystemTime},
};

use http::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{client::Admin, *};
use crate::{
    account::Record,
    config,
    context::Trace,
    model::{Format, Operation},
    store::Memory,
    telemetry::Ring,
};

struct Told(AtomicBool, Versions);

impl Facts for Told {
    fn config_status(&self) -> Value {
        json!({ "running": { "hash": "abc", "stages": [] }, "refused": null })
    }
    fn models(&self) -> Vec<Value> {
        ["a", "b", "c"].map(|id| json!({ "id": id })).to_vec()
    }
    fn teams(&self) -> Vec<Value> {
        vec![json!({ "name": "research" })]
    }
    fn providers(&self) -> Vec<Value> {
        vec![json!({ "name": "mock" })]
    }
    fn ready(&self) -> (bool, Value) {
        let ready = self.0.load(Ordering::Relaxed);
        (ready, json!({ "status": if ready { "ready" } else { "draining" } }))
    }
    fn explain(&self, asked: Asked) -> BoxFuture<'_, Result<Value>> {
        let told = json!({ "format": asked.format.name(), "model": asked.model, "user": asked.principal.user });
        Box::pin(std::future::ready(Ok(told)))
    }
}

impl Deployment for Told {
    fn versions(&self) -> &Versions {
        &self.1
    }
    fn rollout(&self) -> Value {
        json!({ "running": null, "rollout": null })
    }
    fn show(self: Arc<Self>, version: String) -> BoxFuture<'static, Result<Value>> {
        Box::pin(async move { Ok(json!({ "id": version })) })
    }
    fn diff(self: Arc<Self>, from: String, to: String) -> BoxFuture<'static, Result<Value>> {
        Box::pin(async move { Ok(json!({ "from": from, "to": to })) })
    }
    fn act(self: Arc<Self>, action: Action, by: By) -> BoxFuture<'static, Result<Value>> {
        Box::pin(async move {
            let outcome = if action == Action::Reload { "refused".to_owned() } else { format!("{action:?}") };
            Ok(json!({ "outcome": outcome, "author": by.author, "note": by.note }))
        })
    }
}

struct Plane {
    address: SocketAddr,
    state: Arc<AdminState>,
    facts: Arc<Told>,
    _stop: DropGuard,
}

fn nowhere() -> Arc<crate::secrets::Secrets> {
    crate::secrets::Secrets::nowhere(crate::upstream::Client::new(&crate::upstream::ProxyConfig::default()))
}

async fn plane(token: Option<&str>) -> Plane {
    let auth = config::Auth { required: true };
    let store = Arc::new(Memory::default());
    let keys = Keys::open(store.clone(), &auth, &BTreeMap::new()).await.unwrap();
    let facts = Arc::new(Told(AtomicBool::new(true), Versions::open(Arc::new(Memory::default())).await.unwrap()));
    let token = token.map(Secret::new);
    let ledger = Ledger::open(store, Arc::new(Ring::new(100)), SystemTime::now).await.unwrap();
    let state = Arc::new(AdminState {
        keys,
        ledger,
        audit: crate::audit::Audit::nowhere(),
        secrets: nowhere(),
        facts: facts.clone(),
        deployment: facts.clone(),
        token,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, state.clone(), stop.clone()));
    Plane { address, state, facts, _stop: stop.drop_guard() }
}

impl Plane {
    fn client(&self, token: Option<&str>) -> Admin {
        Admin::new(&format!("http://{}", self.address), token.map(Secret::new)).unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.client(None).call(Method::GET, path, None).await.unwrap()
    }

    /// Sends the head as it is (`connection: close` is added) and reads to the end.
    async fn raw(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let text = format!("{}\r\nconnection: close\r\n{length}\r\n{body}", head.replace('\n', "\r\n"));
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, answer)
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.raw(&format!("POST {path} HTTP/1.1\nhost: localhost"), body).await
    }
}

#[tokio::test]
async fn keys_live_and_die_over_http() {
    let plane = plane(None).await;
    let client = plane.client(None);
    let body = json!({ "name": "laptop", "models": ["openai/*"], "expires": "30d" });
    let made = client.call(Method::POST, "/api/v1/keys", Some(&body)).await.unwrap();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let who = |key: &str| plane.state.keys.table().authenticate(Some(key), SystemTime::now());
    assert!(who(key).unwrap().may_use("openai/x"));

    let list = plane.get("/api/v1/keys").await;
    assert_eq!((&list["data"][0]["id"], &list["next_cursor"]), (&json!(id), &Value::Null));
    assert!(!list.to_string().contains(&key[..45]), "a list never shows a key");

    let rotate = format!("/api/v1/keys/{id}/rotate");
    let rotated = client.call(Method::POST, &rotate, Some(&json!({ "overlap": "1h" }))).await.unwrap();
    let second = rotated["key"].as_str().unwrap();
    assert!(who(key).is_ok() && who(second).is_ok());
    let third = client.call(Method::POST, &rotate, None).await.unwrap();
    assert!(who(second).is_err() && who(third["key"].as_str().unwrap()).is_ok());

    let gone = client.call(Method::DELETE, &format!("/api/v1/keys/{id}"), None).await.unwrap();
    assert_eq!(gone["status"], "revoked");
    assert_eq!(who(third["key"].as_str().unwrap()).unwrap_err().code(), "key_revoked");
    let unknown = client.call(Method::DELETE, "/api/v1/keys/key_x", None).await.unwrap_err();
    assert!(unknown.contains("no key has the id"), "{unknown}");
}

#[tokio::test]
async fn a_key_for_an_unknown_team_comes_with_a_warning() {
    let plane = plane(None).await;
    let client = plane.client(None);
    let made = client.call(Method::POST, "/api/v1/keys", Some(&json!({ "name": "a", "team": "hr" }))).await.unwrap();
    assert!(made["warnings"][0].as_str().unwrap().contains("[teams.hr]"));
    plane.state.keys.table().set_configured(&BTreeMap::from([("hr".to_owned(), config::Team::default())]));
    let made = client.call(Method::POST, "/api/v1/keys", Some(&json!({ "name": "a", "team": "hr" }))).await.unwrap();
    assert!(made.get("warnings").is_none());
}

#[tokio::test]
async fn lists_page_to_the_end() {
    let plane = plane(None).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let new = crate::auth::NewKey { name: n.to_string(), ..Default::default() };
        ids.push(plane.state.keys.create(new).await.unwrap().0.id);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for n in 0..5 {
        plane.state.ledger.append(vec![(record(n), Trace::default())]);
    }
    for (path, field, expected) in [
        ("keys", "id", ids),
        ("models", "id", ["a", "b", "c"].map(str::to_owned).to_vec()),
        ("requests", "id", (0..5).rev().map(|n| format!("req_{n}")).collect()),
    ] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = plane.get(&format!("/api/v1/{path}?limit=2{cursor}")).await;
            let rows = page["data"].as_array().unwrap();
            assert!(rows.len() <= 2);
            seen.extend(rows.iter().map(|r| r[field].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, expected, "{path}");
    }
}

fn record(n: u16) -> Record {
    Record {
        id: format!("req_{n}").into(),
        key_id: "key_1".into(),
        team: n.is_multiple_of(2).then(|| "hr".into()),
        user: None,
        organisation: None,
        operation: Operation::Chat,
        format: Format::Gemini,
        model: "smart".into(),
        target: None,
        attempts: 0,
        status: 200 + n,
        error_code: None,
        stream: true,
        finish_reason: None,
        usage: None,
        cost_nano_usd: Some(5),
        cost_unknown: false,
        ledger: vec![],
        duration: Duration::from_millis(3),
        first_event: None,
        upstream_duration: Duration::ZERO,
        experiment: None,
        bodies: None,
        tags: vec![],
    }
}

#[tokio::test]
async fn requests_are_found_by_id_and_by_team() {
    let plane = plane(None).await;
    for n in 0..4 {
        plane.state.ledger.append(vec![(record(n), Trace::default())]);
    }
    let hr = plane.get("/api/v1/requests?team=hr").await;
    let ids: Vec<_> = hr["data"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["req_2", "req_0"]);
    assert_eq!(hr["data"][0]["cost_usd"].to_string(), "0.000000005");
    assert_eq!(plane.get("/api/v1/requests?status=203").await["data"][0]["id"], "req_3");
    let one = plane.get("/api/v1/requests/req_1").await;
    assert_eq!((&one["id"], &one["trace"]), (&json!("req_1"), &json!([])));
    assert!(
        plane
            .client(None)
            .call(Method::GET, "/api/v1/requests/req_9", None)
            .await
            .unwrap_err()
            .contains("x-request-id")
    );
}

#[tokio::test]
async fn health_metrics_and_facts_answer() {
    let plane = plane(None).await;
    assert_eq!(plane.get("/health/live").await["status"], "live");
    assert_eq!(plane.get("/health/ready").await["status"], "ready");
    assert_eq!(plane.get("/api/v1/config/status").await["running"]["hash"], "abc");
    assert_eq!(plane.get("/api/v1/providers").await["data"][0]["name"], "mock");
    let (status, text) = plane.raw("GET /metrics HTTP/1.1\nhost: localhost", "").await;
    assert!(status == 200 && text.contains("portcullis_build_info{version="), "{text}");
    plane.facts.0.store(false, Ordering::Relaxed);
    let (status, text) = plane.raw("GET /health/ready HTTP/1.1\nhost: localhost", "").await;
    assert!(status == 503 && text.contains("draining"), "{text}");
}

#[tokio::test]
async fn with_a_token_every_path_but_health_wants_it() {
    let plane = plane(Some("s3cret")).await;
    for route in routes::TABLE {
        let path = route.path.replace("{id}", "key_x");
        for credential in
            ["", "\nauthorization: Bearer s3cre", "\nauthorization: Basic s3cret", "\nauthorization: s3cret"]
        {
            let head = format!("{} {path} HTTP/1.1\nhost: gateway.example{credential}", route.method);
            let (status, text) = plane.raw(&head, "").await;
            assert_eq!(status == 401, route.may != access::May::Anybody, "{head}: {text}");
        }
        let head = format!("{} {path} HTTP/1.1\nhost: gateway.example\nauthorization: bearer s3cret", route.method);
        let (status, text) = plane.raw(&head, "").await;
        assert!(status != 401 && status != 403 && status != 0, "{head}: {text}");
    }
    let (status, _) = plane.raw("GET /nothing HTTP/1.1\nhost: x", "").await;
    assert_eq!(status, 401, "who may not come in is not told what there is");
    assert!(plane.client(Some("s3cret")).call(Method::GET, "/api/v1/keys", None).await.is_ok());
    let refused = plane.client(Some("wrong")).call(Method::GET, "/api/v1/keys", None).await.unwrap_err();
    assert!(refused.contains("PORTCULLIS_ADMIN_TOKEN") && !refused.contains("s3cret"), "{refused}");
}

#[tokio::test]
async fn without_a_token_pages_in_a_browser_cannot_use_it() {
    let plane = plane(None).await;
    let port = plane.address.port();
    let allowed = [
        format!("host: 127.0.0.1:{port}"),
        "host: localhost".to_owned(),
        format!("host: [::1]:{port}"),
        format!("host: localhost:{port}\norigin: http://localhost:{port}\nsec-fetch-site: same-origin"),
    ];
    let refused = [
        "host: evil.example".to_owned(),
        format!("host: localhost.evil.example:{port}"),
        format!("host: 127.0.0.1.evil.example:{port}"),
        format!("host: localhost:{port}\norigin: http://evil.example"),
        format!("host: localhost:{port}\norigin: http://localhost:3000"),
        format!("host: localhost:{port}\norigin: null"),
        format!("host: localhost:{port}\nsec-fetch-site: cross-site"),
        format!("host: localhost:{port}\nsec-fetch-site: same-site"),
        "host: localhost\nhost: evil.example".to_owned(),
    ];
    for headers in &allowed {
        let (status, text) = plane.raw(&format!("GET /api/v1/keys HTTP/1.1\n{headers}"), "").await;
        assert_eq!(status, 200, "{headers}: {text}");
    }
    for headers in &refused {
        for head in [format!("GET /metrics HTTP/1.1\n{headers}"), format!("POST /api/v1/keys HTTP/1.1\n{headers}")] {
            let (status, text) = plane.raw(&head, r#"{"name":"x"}"#).await;
            assert_eq!(status, 403, "{head}: {text}");
        }
    }
    assert_eq!(plane.raw("GET http://evil.example/metrics HTTP/1.1\nhost: localhost", "").await.0, 403);
    assert!(plane.state.keys.list(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn wrong_bodies_are_told_what_is_wrong() {
    let plane = plane(None).await;
    let deep = format!("{{\"name\":{}", "[".repeat(200));
    for (body, status, words) in [
        ("", 400, "a JSON body is needed"),
        ("{", 400, "line 1"),
        ("[]", 400, "not right"),
        ("{}", 400, "name"),
        (r#"{"name":1}"#, 400, "string"),
        (r#"{"name":" "}"#, 400, "needs a name"),
        (r#"{"name":"a","nmae":1}"#, 400, "unknown field `nmae`"),
        (r#"{"name":"a","name":"b"}"#, 400, "duplicate field"),
        (r#"{"name":"a","models":[]}"#, 400, "leave it out"),
        (r#"{"name":"a","expires":"soon"}"#, 400, "30d"),
        (r#"{"name":"a","expires":"2001-01-01T00:00:00Z"}"#, 400, "in the past"),
        (r#"{"name":"a","limits":{"requests_per_minute":0}}"#, 400, "leave it out for no limit"),
        (r#"{"name":"a","limits":{"requests":1}}"#, 400, "unknown field"),
        (r#"{"name":"a","limits":{"concurrent":-1}}"#, 400, "invalid value"),
        (deep.as_str(), 400, "not right"),
    ] {
        let (got, text) = plane.post("/api/v1/keys", body).await;
        assert!(got == status && text.contains(words), "{body}: {got} {text}");
        assert!(text.contains(r#"{"error":{"code":""#), "{text}");
    }
    let (status, text) = plane.post("/api/v1/keys", &format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20))).await;
    assert!(status == 413 && text.contains("1 MiB"), "{text}");
    assert!(plane.state.keys.list(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn wrong_paths_methods_and_queries_say_what_is_there() {
    let plane = plane(None).await;
    for (line, status, words) in [
        ("GET /nothing", 404, "openapi.json"),
        ("GET /", 404, "no console in this version"),
        ("POST /v1/chat/completions", 404, "the other port"),
        ("PUT /api/v1/keys", 405, "GET and POST"),
        ("PUT /api/v1/keys/key_1", 405, "DELETE"),
        ("GET /api/v1/keys?limt=3", 400, "limit, cursor"),
        ("GET /api/v1/keys?limit=0", 400, "1 to 500"),
        ("GET /api/v1/keys?limit=1&limit=2", 400, "twice"),
        ("GET /api/v1/models?cursor=x", 400, "pass a cursor on"),
        ("GET /api/v1/keys?limit=%ff", 400, "UTF-8"),
        ("GET /metrics?x=1", 400, "takes no query"),
    ] {
        let (got, text) = plane.raw(&format!("{line} HTTP/1.1\nhost: localhost"), "").await;
        assert!(got == status && text.contains(words), "{line}: {got} {text}");
    }
    let (status, text) = plane.raw("HEAD /health/live HTTP/1.1\nhost: localhost", "").await;
    assert!(status == 200 && text.ends_with("\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn the_document_names_every_route_and_no_unknown_schema() {
    let document = plane(None).await.get("/api/openapi.json").await;
    for route in routes::TABLE {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["summary"], route.summary);
    }
    let text = document.to_string();
    for (at, found) in text.match_indices("#/components/schemas/") {
        let name = text[at + found.len()..].split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

#[tokio::test]
async fn refuses_to_listen_to_others_without_a_token() {
    let open: SocketAddr = "0.0.0.0:8081".parse().unwrap();
    let local: SocketAddr = "[::1]:8081".parse().unwrap();
    let token = Secret::new("x");
    assert!(refuse_to_listen(open, None).unwrap().contains("admin.token"));
    assert!(refuse_to_listen(open, Some(&Secret::new(" "))).unwrap().contains("empty"));
    assert!(refuse_to_listen(open, Some(&token)).is_none() && refuse_to_listen(local, None).is_none());

    let state = plane(None).await.state;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve(listener, state, CancellationToken::new()).await;
    assert!(refused.unwrap_err().to_string().contains("can be reached by others"));
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let state = plane(None).await.state;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listen::serve_within(listener, state, CancellationToken::new(), Duration::from_millis(50)));
    for sent in ["", "GET /health"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "the header timeout did not act after {sent:?}");
    }
}

#[tokio::test]
async fn shutdown_closes_idle_connections() {
    let plane = plane(None).await;
    let mut stream = TcpStream::connect(plane.address).await.unwrap();
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4096];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    drop(plane);
    let closed = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut buffer)).await;
    assert_eq!(closed.unwrap().unwrap_or(0), 0);
}

#[tokio::test]
async fn the_client_explains_a_wrong_address() {
    for bad in ["nonsense", "https://localhost:1", "ftp://x"] {
        assert!(Admin::new(bad, None).err().unwrap().contains("--admin"));
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let admin = Admin::new(&format!("http://{closed}"), None).unwrap();
    let message = admin.call(Method::GET, "/api/v1/keys", None).await.unwrap_err();
    assert!(message.contains("is the gateway running?"), "{message}");
}

#[tokio::test]
async fn versions_are_reached_by_both_names_in_a_path() {
    let plane = plane(None).await;
    let admin = Admin::new(&format!("http://{}", plane.address), None).unwrap();
    let diff = admin.call(Method::GET, "/api/v1/versions/v1/diff/running", None).await.unwrap();
    assert_eq!(diff, json!({ "from": "v1", "to": "running" }));
    assert_eq!(admin.call(Method::GET, "/api/v1/versions/v7", None).await.unwrap(), json!({ "id": "v7" }));
    let body = json!({ "author": " ann ", "note": "" });
    let done = admin.call(Method::POST, "/api/v1/versions/v1/rollback", Some(&body)).await.unwrap();
    assert_eq!(done, json!({ "outcome": "Rollback(\"v1\")", "author": "ann", "note": null }));
}

#[tokio::test]
async fn a_refused_reload_is_an_error_and_a_word_that_is_no_line_is_refused() {
    let plane = plane(None).await;
    let admin = Admin::new(&format!("http://{}", plane.address), None).unwrap();
    assert!(admin.call(Method::POST, "/api/v1/config/reload", None).await.is_err());
    for wrong in [json!({ "author": "a\nb" }), json!({ "note": "x".repeat(201) }), json!({ "who": "me" }), json!(1)] {
        let error = admin.call(Method::POST, "/api/v1/rollout/abort", Some(&wrong)).await.unwrap_err();
        assert!(error.contains("characters") || error.contains("the body is not right"), "{error}");
    }
}
