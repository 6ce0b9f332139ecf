//! Promises 31 and 32: edits go live within a second, mistakes do not, and nothing in flight notices.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Openai},
    keys,
    support::{Gateway, Process, Say, Upstream, begin, eventually, read_rest, read_until, request},
};

fn alias(target: &str) -> String {
    format!("[models.here]\ntargets = [{{ provider = \"mock\", model = \"{target}\" }}]\n")
}

async fn status(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/api/v1/config/status", "").await.json()
}

async fn leads_to(gateway: &Gateway, target: &str) {
    eventually("the edit is live", async || {
        Openai.ask(gateway, "here", false).await.header("x-portcullis-target") == Some(target)
    })
    .await;
}

#[tokio::test]
async fn an_edit_of_gateway_toml_is_live_shortly_after() {
    let gateway = Gateway::start(&alias("one")).await;
    let before = status(&gateway).await["running"]["hash"].clone();
    gateway.rewrite(&alias("two"));
    leads_to(&gateway, "mock/two").await;
    let after = status(&gateway).await;
    assert!(after["running"]["hash"] != before && after["refused"].is_null(), "{after}");
}

#[tokio::test]
async fn an_edited_a_new_and_a_removed_script_are_taken_up() {
    let says = |word: &str| format!("fn request(request, context) {{ return respond(\"{word}\"); }}");
    let gateway = Gateway::with("", &[("scripts/b.rhai", &says("old"))]).await;
    let speaks = async |word: &str| {
        eventually("the script is live", async || Openai.text(&Openai.ask(&gateway, "mock", false).await) == word)
            .await;
    };
    speaks("old").await;
    gateway.write("scripts/b.rhai", &says("new"));
    speaks("new").await;
    gateway.write("scripts/a.rhai", &says("first"));
    speaks("first").await;
    std::fs::remove_file(gateway.dir.path().join("scripts/a.rhai")).expect("removed");
    speaks("new").await;
}

#[tokio::test]
async fn a_script_written_in_place_is_taken_up_whole() {
    let gateway =
        Gateway::with("", &[("scripts/a.rhai", "fn request(request, context) { return respond(\"old\"); }")]).await;
    std::fs::write(
        gateway.dir.path().join("scripts/a.rhai"),
        "fn request(request, context) { return respond(\"new\"); }",
    )
    .expect("written");
    eventually("the script is live", async || Openai.text(&Openai.ask(&gateway, "mock", false).await) == "new").await;
}

#[tokio::test]
async fn a_broken_file_never_goes_live_and_the_status_names_file_and_line() {
    let script = "fn request(request, context) { return respond(\"good\"); }";
    let breaks: [(&str, &str, u64, &str); 8] = [
        ("scripts/a.rhai", "fn request(request, context) {\n  let x = ;\n}", 2, ""),
        ("scripts/a.rhai", "fn request(request) { }", 1, "request"),
        ("scripts/a.rhai", "fn event(event, context) {\n  return skip();\n}", 2, "skip"),
        ("scripts/a.rhai", "fn response(response, context) { }", 1, "STREAM"),
        ("gateway.toml", "[server]\nlisten = \"127.0.0.1:0\"\nmax_boddy = \"1MiB\"\n", 3, "max_body"),
        ("gateway.toml", "[server\n", 1, ""),
        // What a full disk leaves of a file that is saved in place.
        ("gateway.toml", "", 1, "empty"),
        ("scripts/a.rhai", "", 1, "empty"),
    ];
    for (file, text, line, word) in breaks {
        let gateway = Gateway::with("", &[("scripts/a.rhai", script)]).await;
        let hash = status(&gateway).await["running"]["hash"].clone();
        gateway.write(file, text);
        eventually("the change is refused", async || !status(&gateway).await["refused"].is_null()).await;
        let now = status(&gateway).await;
        // Nothing says that the files run.
        assert_eq!(
            (&now["files"]["running"], &now["files"]["hash"]),
            (&json!(false), &now["refused"]["hash"]),
            "{now}"
        );
        let errors = now["refused"]["errors"].as_array().cloned().unwrap_or_default();
        let named = errors
            .iter()
            .any(|e| e["file"] == file && e["line"] == line && e["message"].as_str().is_some_and(|m| m.contains(word)));
        assert!(named && now["running"]["hash"] == hash, "{now}");
        assert_eq!(Openai.text(&Openai.ask(&gateway, "mock", false).await), "good");
        let ready = gateway.get("/health/ready").await;
        assert!(ready.status == 200 && !ready.json()["refused"].is_null(), "{}", ready.text());
    }
}

/// A guard that lies behind a link (a mounted map, a checkout) must not go because the link's end is away for a while, and a pipe
/// must not keep its reader for ever.
#[cfg(unix)]
#[tokio::test]
async fn what_the_folder_lists_and_nobody_can_read_is_refused_and_no_stage_that_was_taken_out() {
    let guard = "fn request(request, context) { return respond(\"guarded\"); }";
    let gateway = Gateway::with("", &[("elsewhere/a.rhai", guard), ("scripts/b.rhai", "fn route(r, t, c) { }")]).await;
    let at = |name: &str| gateway.dir.path().join(name);
    std::os::unix::fs::symlink("../elsewhere/a.rhai", at("scripts/a.rhai")).expect("linked");
    let guarded = async || Openai.text(&Openai.ask(&gateway, "mock", false).await) == "guarded";
    eventually("the link is live", guarded).await;
    std::fs::rename(at("elsewhere"), at("away")).expect("away");
    gateway.write("scripts/b.rhai", "fn route(r, t, c) { () }");
    eventually("it is refused", async || status(&gateway).await["refused"].is_object()).await;
    let refused = status(&gateway).await["refused"]["errors"].clone();
    assert!(refused[0]["file"] == "scripts/a.rhai", "{refused}");
    assert!(guarded().await, "the guard stays");
    std::fs::remove_file(at("scripts/a.rhai")).expect("taken out");
    eventually("taken out on purpose", async || status(&gateway).await["refused"].is_null()).await;
    assert!(!guarded().await);
    assert!(std::process::Command::new("mkfifo").arg(at("scripts/p.rhai")).status().expect("mkfifo").success());
    eventually("a pipe is refused", async || status(&gateway).await["refused"].is_object()).await;
    std::fs::remove_file(at("scripts/p.rhai")).expect("removed");
    gateway.write("scripts/c.rhai", guard);
    eventually("edits are seen", guarded).await;
}

#[tokio::test]
async fn certificates_that_cannot_be_used_start_nothing_and_stand_in_the_status_of_what_runs() {
    let toml = "[server]\nlisten = \"127.0.0.1:0\"\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n\
                [admin]\nlisten = \"127.0.0.1:0\"\n[store]\nkind = \"memory\"\n[auth]\nrequired = false\n";
    let place = keys::folder(toml);
    std::fs::write(place.path().join("cert.pem"), "no certificate").expect("written");
    std::fs::write(place.path().join("key.pem"), "no key").expect("written");
    for command in ["check", "serve"] {
        let out = keys::run(place.path(), &[command]);
        let said = keys::text(&[out.stdout, out.stderr].concat());
        assert_eq!(out.status.code(), Some(78), "{said}");
        assert!(said.contains("gateway.toml:3") && said.contains("cert.pem holds no certificate"), "{said}");
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters").self_signed(&key);
    let (cert, key) = (cert.expect("signed").pem(), key.serialize_pem());
    let gateway = Gateway::with(toml, &[("cert.pem", &cert), ("key.pem", &key)]).await;
    assert!(status(&gateway).await["certificates"].is_null());
    gateway.write("cert.pem", "no certificate");
    let told = async || status(&gateway).await["certificates"].as_str().is_some_and(|why| why.contains("cert.pem"));
    eventually("the bad one is told", told).await;
    let ready = gateway.admin("GET", "/health/ready", "").await;
    assert!(ready.status == 200 && ready.json()["certificates"].is_string(), "{}", ready.text());
    gateway.write("cert.pem", &cert);
    eventually("all is well", async || status(&gateway).await["certificates"].is_null()).await;
}

#[tokio::test]
async fn mending_the_file_clears_the_refusal() {
    let script = |word: &str| format!("fn request(request, context) {{ return respond(\"{word}\"); }}");
    let gateway = Gateway::with("", &[("scripts/a.rhai", &script("old"))]).await;
    gateway.write("scripts/a.rhai", "fn request(");
    eventually("the change is refused", async || !status(&gateway).await["refused"].is_null()).await;
    gateway.write("scripts/a.rhai", &script("mended"));
    eventually("the change is live", async || status(&gateway).await["refused"].is_null()).await;
    assert_eq!(Openai.text(&Openai.ask(&gateway, "mock", false).await), "mended");
}

#[tokio::test]
async fn one_bad_file_holds_back_the_good_ones_that_came_with_it() {
    let gateway = Gateway::with(&alias("one"), &[("scripts/a.rhai", "fn log(record, context) { }")]).await;
    gateway.write("scripts/a.rhai", "fn log(");
    gateway.rewrite(&alias("two"));
    eventually("the change is refused", async || !status(&gateway).await["refused"].is_null()).await;
    leads_to(&gateway, "mock/one").await;
    gateway.write("scripts/a.rhai", "fn log(record, context) { }\n");
    leads_to(&gateway, "mock/two").await;
}

#[tokio::test]
async fn a_request_in_flight_keeps_the_script_it_began_with() {
    let tag = |word: &str| format!("fn log(record, context) {{ record.tags.script = \"{word}\"; }}");
    let upstream = Upstream::start().await;
    let frames = Openai.frames(&["early", "late"]);
    let mut say = Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO);
    say.chunks[2].0 = Duration::from_millis(1500);
    upstream.always(say);
    let gateway = Gateway::with(&upstream.provider("up", "openai_chat"), &[("scripts/a.rhai", &tag("old"))]).await;
    let before = status(&gateway).await["running"]["hash"].clone();
    let body = Openai.body("up/m", true, "x");
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    let raw = read_until(&mut socket, "early").await;
    gateway.write("scripts/a.rhai", &tag("new"));
    eventually("the edit is live", async || status(&gateway).await["running"]["hash"] != before).await;
    let answer = read_rest(&mut socket, raw).await;
    assert!(answer.text().contains("late") && answer.text().contains("[DONE]"), "{}", answer.text());
    assert_eq!(gateway.record(1).await["tags"]["script"], "old");
}

/// 32
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_drop_no_request() {
    let gateway = Gateway::start(&alias("0")).await;
    let over = AtomicBool::new(false);
    let reloads = async {
        for round in 1..=20 {
            gateway.rewrite(&alias(&round.to_string()));
            let target = format!("mock/{round}");
            leads_to(&gateway, &target).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let requests = async {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) || count < 200 {
            for family in FAMILIES {
                let answer = family.ask(&gateway, "here", count % 2 == 0).await;
                assert!(answer.status == 200 && answer.complete, "{} {}", answer.status, answer.text());
                count += 1;
            }
        }
    };
    futures_util::future::join(reloads, requests).await;
}

#[tokio::test]
async fn a_revocation_and_a_teams_new_list_reach_keys_that_exist() {
    let team = |models: &str| format!("[auth]\nrequired = true\n[teams.red]\nmodels = [\"{models}\"]\n");
    let gateway = Gateway::start(&team("mock/one")).await;
    let (_, key) = gateway.key(r#"{"name":"k","team":"red"}"#).await;
    let ask = async |model: &str| {
        gateway.post_with("/v1/chat/completions", &[("x-api-key", &key)], &Openai.body(model, false, "x")).await.status
    };
    assert_eq!((ask("mock/one").await, ask("mock/two").await), (200, 403));
    gateway.rewrite(&team("mock/two"));
    eventually("the list is in force", async || ask("mock/two").await == 200).await;
    assert_eq!(ask("mock/one").await, 403);
}

#[tokio::test]
async fn a_new_provider_key_is_used_without_a_restart() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config =
        upstream.provider("up", "openai_chat").replace("auth = \"none\"", "auth = \"bearer\"\nkey = \"file:up.key\"");
    let gateway = Gateway::with(&config, &[("up.key", "sk-old")]).await;
    Openai.ask(&gateway, "up/m", false).await;
    assert_eq!(upstream.last().header("authorization"), Some("Bearer sk-old"));
    gateway.write("up.key", "sk-new");
    eventually("the new key is used", async || {
        let answer = Openai.ask(&gateway, "up/m", false).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        upstream.last().header("authorization") == Some("Bearer sk-new")
    })
    .await;
}

#[tokio::test]
async fn sigterm_lets_streams_finish_and_leaves_in_good_order() {
    let upstream = Upstream::start().await;
    let frames = Openai.frames(&["early", "late"]);
    let mut say = Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO);
    say.chunks[2].0 = Duration::from_millis(1000);
    upstream.always(say);
    let server = "[server]\nlisten = \"127.0.0.1:0\"\ndrain = \"20s\"\ndrain_delay = \"300ms\"\n";
    let mut gateway = Process::start(&format!("{server}{}", upstream.provider("up", "openai_chat")), &[]).await;
    let body = Openai.body("up/m", true, "x");
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    let raw = read_until(&mut socket, "early").await;
    gateway.terminate();
    // While "not ready" is shown, nobody is turned away.
    eventually("it says that it drains", async || gateway.log().contains("draining")).await;
    assert_eq!(request(gateway.addr, "GET", "/health/live", &[], b"").await.status, 200);
    let answer = read_rest(&mut socket, raw).await;
    assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    eventually("it leaves", async || gateway.left().is_some()).await;
    assert_eq!(gateway.left(), Some(0));
}

#[tokio::test]
async fn a_stream_that_outlasts_the_grace_is_cut_and_the_gateway_leaves() {
    let upstream = Upstream::start().await;
    let frames = Openai.frames(&["early", "late"]);
    let say = Say::frames(&frames.iter().take(2).map(String::as_str).collect::<Vec<_>>(), Duration::ZERO);
    upstream.always(say.end(crate::support::End::Stall));
    let server = "[server]\nlisten = \"127.0.0.1:0\"\ndrain = \"500ms\"\ndrain_delay = \"0s\"\n";
    let mut gateway = Process::start(&format!("{server}{}", upstream.provider("up", "openai_chat")), &[]).await;
    let body = Openai.body("up/m", true, "x");
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    read_until(&mut socket, "early").await;
    gateway.terminate();
    eventually("it leaves", async || gateway.left().is_some()).await;
    upstream.is_cancelled(1).await;
}

#[tokio::test]
async fn a_stop_as_a_library_waits_for_what_runs_and_writes_the_records() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_millis(500))).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let body = Openai.body("up/m", false, "x");
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    upstream.hears(1).await;
    assert_eq!(upstream.last().method, "POST");
    let addr = gateway.addr;
    let (answer, ()) = futures_util::future::join(read_rest(&mut socket, Vec::new()), gateway.stop()).await;
    assert_eq!((answer.status, Openai.text(&answer).as_str()), (200, "x"));
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn what_only_a_restart_changes_is_told_until_it_is_taken_back() {
    let lease = |time: &str| format!("[store]\nkind = \"memory\"\nbudget_lease = \"{time}\"\n");
    let gateway = Gateway::start(&lease("60s")).await;
    assert_eq!(status(&gateway).await["needs_restart"], serde_json::json!([]));
    gateway.rewrite(&lease("90s"));
    eventually("it is told", async || {
        status(&gateway).await["needs_restart"] == serde_json::json!(["store.budget_lease"])
    })
    .await;
    // Another change does not make it forgotten.
    gateway.rewrite(&format!("{}{}", lease("90s"), alias("1")));
    leads_to(&gateway, "mock/1").await;
    assert_eq!(status(&gateway).await["needs_restart"], serde_json::json!(["store.budget_lease"]));
    gateway.rewrite(&lease("60s"));
    eventually("it is taken back", async || status(&gateway).await["needs_restart"] == serde_json::json!([])).await;
}
