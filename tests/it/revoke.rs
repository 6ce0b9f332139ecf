//! Promise 12: revoked means revoked, from the next request on; and with `cut` what runs with the key ends at once.
//! `PORTCULLIS_LONG=1`: 1,000 revocations under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{
    family::{FAMILIES, Openai},
    server::Server,
    shared,
    support::{End, Gateway, Say, Upstream, begin, eventually, read_rest, read_until, request},
};

const CLOSED: &str = "[auth]\nrequired = true\n";

/// A stream that has begun and then stays.
fn stalled() -> Say {
    let first = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"first words"}}]}"#;
    Say::sse(format!("{first}\n\n")).end(End::Stall)
}

/// Nothing has ended it: at most the rest of what was read before still comes.
async fn is_open(socket: &mut TcpStream) -> bool {
    loop {
        let mut piece = [0; 4096];
        match tokio::time::timeout(Duration::from_millis(200), socket.read(&mut piece)).await {
            Err(_nothing) => return true,
            Ok(Ok(1..)) => {}
            Ok(_) => return false,
        }
    }
}

async fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(&format!("{CLOSED}{}", upstream.provider("up", "openai_chat"))).await
}

#[tokio::test]
async fn a_cut_ends_streams_with_an_error_and_their_upstream_calls() {
    for family in FAMILIES {
        let upstream = Upstream::saying(stalled()).await;
        let gateway = gateway(&upstream).await;
        let (id, key) = gateway.key(r#"{"name":"k"}"#).await;
        let (_, other) = gateway.key(r#"{"name":"other"}"#).await;
        let mut streams = Vec::new();
        for key in [&key, &key, &other] {
            let (path, body) = (family.path("up/m", true), family.body("up/m", true, "x"));
            let headers = [("x-api-key", key.as_str()), ("content-type", "application/json")];
            let mut socket = begin(gateway.addr, "POST", &path, &headers, body.as_bytes()).await;
            let raw = read_until(&mut socket, "first words").await;
            streams.push((socket, raw));
        }
        let mut untouched = streams.pop().expect("three");
        let began = Instant::now();
        let cut = gateway.admin("DELETE", &format!("/api/v1/keys/{id}?cut=true"), "").await;
        assert_eq!(cut.json()["status"], "revoked");
        for (mut socket, raw) in streams {
            let answer = read_rest(&mut socket, raw).await;
            let text = answer.text();
            assert!(text.contains("revoked or disabled while"), "{family:?}: {text}");
            assert!(!text.contains("[DONE]") && !text.contains("message_stop"), "no terminal: {text}");
        }
        upstream.is_cancelled(2).await;
        assert!(began.elapsed() < Duration::from_secs(20), "at once, and not when the upstream gives up");
        // Another key's stream goes on.
        assert!(is_open(&mut untouched.0).await, "{family:?}");
        assert_eq!(upstream.cancelled(), 2);
    }
}

#[tokio::test]
async fn a_cut_ends_what_still_waits_for_its_first_output() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_secs(300))).await;
    let gateway = gateway(&upstream).await;
    let (id, key) = gateway.key(r#"{"name":"k"}"#).await;
    let bearer = format!("Bearer {key}");
    let (addr, body) = (gateway.addr, Openai.body("up/m", false, "x"));
    let waiting = tokio::spawn(async move {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        request(addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await
    });
    upstream.hears(1).await;
    // Disabled for a time: the same.
    let body = r#"{"disabled":true,"cut":true}"#;
    assert_eq!(gateway.admin("PATCH", &format!("/api/v1/keys/{id}"), body).await.json()["status"], "disabled");
    let answer = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time").expect("answered");
    let error = Openai.error(&answer);
    assert_eq!((answer.status, error.code.as_str()), (401, "key_revoked"));
    upstream.is_cancelled(1).await;
    // It can be used again, and its requests are not cut.
    gateway.admin("PATCH", &format!("/api/v1/keys/{id}"), r#"{"disabled":false}"#).await;
    upstream.always(Say::json(Openai.whole("x")));
    let again =
        gateway.post_with("/v1/chat/completions", &[("x-api-key", &key)], &Openai.body("up/m", false, "x")).await;
    assert_eq!(again.status, 200, "{}", again.text());
    let record = gateway.record(2).await;
    assert!(record["status"] == 200 || record["status"] == 401, "{record}");
}

#[tokio::test]
async fn without_a_cut_what_runs_may_end_by_itself() {
    let upstream = Upstream::saying(stalled()).await;
    let gateway = gateway(&upstream).await;
    let (id, key) = gateway.key(r#"{"name":"k"}"#).await;
    let headers = [("x-api-key", key.as_str()), ("content-type", "application/json")];
    let body = Openai.body("up/m", true, "x");
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
    read_until(&mut socket, "first words").await;
    gateway.admin("DELETE", &format!("/api/v1/keys/{id}"), "").await;
    let refused = gateway.post_with("/v1/chat/completions", &[("x-api-key", &key)], &body).await;
    assert_eq!(Openai.error(&refused).code, "key_revoked");
    assert!(is_open(&mut socket).await, "it stays");
    // A second thought.
    gateway.admin("DELETE", &format!("/api/v1/keys/{id}?cut=true"), "").await;
    upstream.is_cancelled(1).await;
}

/// A world of its own for each: an organisation, its team, its user, and the user's key.
async fn member(gateway: &Gateway, side: &str) -> String {
    let post = async |path: &str, body: String| {
        let made = gateway.admin("POST", &format!("/api/v1/{path}"), &body).await;
        assert_eq!(made.status, 201, "{}", made.text());
    };
    post("organisations", format!(r#"{{"name":"org-{side}"}}"#)).await;
    post("teams", format!(r#"{{"name":"team-{side}","organisation":"org-{side}"}}"#)).await;
    post("users", format!(r#"{{"name":"user-{side}","teams":["team-{side}"]}}"#)).await;
    gateway.key(&format!(r#"{{"name":"{side}","user":"user-{side}"}}"#)).await.1
}

/// All that is asked of a disabled user, team or organisation: what runs ends, new requests are refused, others go on; and it
/// can be enabled again. `here` is told, the streams run at `there`.
async fn disabled_with_a_cut(upstream: &Upstream, here: &Gateway, there: &Gateway) {
    let (key, other) = (member(here, "in").await, member(here, "out").await);
    let body = Openai.body("up/m", true, "x");
    let ask = async |key: &str| {
        there.post_with("/v1/chat/completions", &[("x-api-key", key)], &Openai.body("up/m", false, "x")).await
    };
    for (kind, code) in [
        ("users/user", "user_disabled"),
        ("teams/team", "team_disabled"),
        ("organisations/org", "organisation_disabled"),
    ] {
        upstream.always(stalled());
        let mut streams = Vec::new();
        for key in [&key, &other] {
            let headers = [("x-api-key", key.as_str()), ("content-type", "application/json")];
            eventually("the key is known", async || {
                request(there.addr, "GET", "/v1/models", &headers, b"").await.status == 200
            })
            .await;
            let mut socket = begin(there.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
            let raw = read_until(&mut socket, "first words").await;
            streams.push((socket, raw));
        }
        let path = format!("/api/v1/{kind}-in");
        let refused = here.admin("PATCH", &path, r#"{"cut":true}"#).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
        let told = here.admin("PATCH", &path, r#"{"disabled":true,"cut":true}"#).await.json();
        assert_eq!(told["disabled"], true, "{told}");
        let (socket, raw) = &mut streams[0];
        let answer = read_rest(socket, std::mem::take(raw)).await;
        assert!(answer.text().contains("revoked or disabled while"), "{kind}: {}", answer.text());
        let error = ask(&key).await;
        assert_eq!((error.status, Openai.error(&error).code.as_str()), (403, code));
        assert!(is_open(&mut streams[1].0).await, "{kind}: another's stream goes on");
        drop(streams);
        upstream.always(Say::json(Openai.whole("x")));
        assert_eq!(ask(&other).await.status, 200, "{kind}");
        here.admin("PATCH", &path, r#"{"disabled":false}"#).await;
        eventually("it is served again", async || ask(&key).await.status == 200).await;
    }
}

#[tokio::test]
async fn disabling_a_user_a_team_or_an_organisation_ends_what_runs_there() {
    let upstream = Upstream::saying(stalled()).await;
    let gateway = gateway(&upstream).await;
    disabled_with_a_cut(&upstream, &gateway, &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabling_them_ends_what_runs_at_other_gateways_too() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(stalled()).await;
    let config = shared::shared(&server, &upstream.provider("up", "openai_chat"));
    let (here, there) = (shared::gateway(&config).await, shared::gateway(&config).await);
    disabled_with_a_cut(&upstream, &here, &there).await;
}

/// What the file says of whom it names itself, without a cut and with one.
#[tokio::test]
async fn whom_the_file_disables_with_a_cut_is_ended_and_without_one_runs_to_the_end() {
    let upstream = Upstream::saying(stalled()).await;
    let serving = upstream.provider("up", "openai_chat");
    let config = |of: &str, more: &str| {
        let said =
            "[organisations.acme]\n[teams.lab]\norganisation = \"acme\"\n[users.ada]\nteams = [\"lab\"]\n".to_owned();
        format!("{CLOSED}{serving}{}", said.replace(&format!("{of}]\n"), &format!("{of}]\n{more}")))
    };
    let gateway = Gateway::start(&config("none", "")).await;
    let (_, key) = gateway.key(r#"{"name":"k","user":"ada"}"#).await;
    let (_, other) = gateway.key(r#"{"name":"other"}"#).await;
    let body = Openai.body("up/m", true, "x");
    for (of, code) in [
        ("users.ada", "user_disabled"),
        ("teams.lab", "team_disabled"),
        ("organisations.acme", "organisation_disabled"),
    ] {
        upstream.always(stalled());
        let mut streams = Vec::new();
        for key in [&key, &other] {
            let headers = [("x-api-key", key.as_str()), ("content-type", "application/json")];
            let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
            let raw = read_until(&mut socket, "first words").await;
            streams.push((socket, raw));
        }
        let ask = async || {
            let whole = Openai.body("up/m", false, "x");
            gateway.post_with("/v1/chat/completions", &[("x-api-key", &key)], &whole).await
        };
        gateway.rewrite(&config(of, "disabled = true\n"));
        upstream.always(Say::json(Openai.whole("x")));
        eventually("it is refused", async || {
            let answer = ask().await;
            answer.status == 403 && Openai.error(&answer).code == code
        })
        .await;
        assert!(is_open(&mut streams[0].0).await, "{of}: what runs may end by itself");
        gateway.rewrite(&config(of, "disabled = true\ncut = true\n"));
        let (socket, raw) = &mut streams[0];
        let answer = read_rest(socket, std::mem::take(raw)).await;
        assert!(answer.text().contains("revoked or disabled while"), "{of}: {}", answer.text());
        assert!(is_open(&mut streams[1].0).await, "{of}: another's stream goes on");
        gateway.rewrite(&config(of, ""));
        eventually("it is served again", async || ask().await.status == 200).await;
    }
    gateway.rewrite(&config("users.ada", "cut = true\n"));
    eventually("a cut alone is refused", async || {
        let status = gateway.admin("GET", "/api/v1/config/status", "").await.text();
        status.contains("write `disabled = true` too")
    })
    .await;
}

#[tokio::test]
async fn a_team_that_the_file_disables_is_refused_until_it_is_enabled_there() {
    let config = |more: &str| format!("{CLOSED}[organisations.acme]\n[teams.lab]\norganisation = \"acme\"\n{more}");
    let gateway = Gateway::start(&config("")).await;
    let (_, key) = gateway.key(r#"{"name":"k","team":"lab"}"#).await;
    let ask = async || {
        let body = Openai.body("mock", false, "x");
        gateway.post_with("/v1/chat/completions", &[("x-api-key", &key)], &body).await
    };
    assert_eq!(ask().await.status, 200);
    gateway.rewrite(&config("disabled = true\n"));
    eventually("it is refused", async || {
        let answer = ask().await;
        answer.status == 403 && Openai.error(&answer).code == "team_disabled"
    })
    .await;
    gateway.rewrite(&config("").replace("acme]\n", "acme]\ndisabled = true\n"));
    eventually("its organisation is", async || {
        let answer = ask().await;
        answer.status == 403 && Openai.error(&answer).code == "organisation_disabled"
    })
    .await;
    gateway.rewrite(&config(""));
    eventually("it is served again", async || ask().await.status == 200).await;
}

#[tokio::test]
async fn a_revoked_key_is_refused_from_the_next_request_on_under_load() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some_and(|v| v == "1") { 1_000 } else { 100 };
    let gateway = Arc::new(Gateway::start(CLOSED).await);
    let (_, busy) = gateway.key(r#"{"name":"busy"}"#).await;
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let ask = async |gateway: &Gateway, key: &str| {
        gateway.post_with("/v1/chat/completions", &[("x-api-key", key)], &Openai.body("mock", false, "x")).await.status
    };
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, busy, over, served) = (gateway.clone(), busy.clone(), over.clone(), served.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let body = Openai.body("mock", false, "x");
                    let answer = gateway.post_with("/v1/chat/completions", &[("x-api-key", &busy)], &body).await;
                    assert_eq!(answer.status, 200, "others are not touched");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..rounds {
        let (id, key) = gateway.key(r#"{"name":"k"}"#).await;
        assert_eq!(ask(&gateway, &key).await, 200, "round {round}");
        gateway.admin("DELETE", &format!("/api/v1/keys/{id}"), "").await;
        assert_eq!(ask(&gateway, &key).await, 401, "round {round}");
    }
    over.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.expect("served to the end");
    }
    assert!(served.load(Ordering::Relaxed) > 0);
}
