//! A new version takes over step by step: in shadow, for a share, for all; and goes back by itself.

use std::time::Duration;

use super::*;

fn rules(rest: &str) -> String {
    format!("[rollout]\n{rest}\n")
}

async fn rollout(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/api/v1/rollout", "").await.json()["rollout"].clone()
}

async fn phase(gateway: &Gateway, phase: &str) {
    eventually("the rollout is in this phase", async || rollout(gateway).await["phase"] == phase).await;
}

async fn ask(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    gateway.post_with("/v1/chat/completions", headers, &Openai.body("here", false, "hello")).await
}

#[tokio::test]
async fn in_shadow_the_new_version_decides_about_copies_and_nothing_comes_of_it() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = |model: &str| {
        format!(
            "{}{}[models.here]\ntargets = [{{ provider = \"up\", model = \"{model}\" }}]\n",
            rules("shadow = \"10m\""),
            upstream.provider("up", "openai_chat")
        )
    };
    let gateway = Gateway::start(&config("one")).await;
    gateway.rewrite(&config("two"));
    // Metrics and memory of the new version's stages stay inside, too.
    gateway.write(
        "scripts/a.rhai",
        "fn request(request, context) {\n  if request.last_user_text == \"no\" { return reject(403, \"no\"); }\n  \
         context.kv.set(\"seen\", 1);\n  context.metric(\"shadowed\", 1.0);\n}\n",
    );
    phase(&gateway, "shadow").await;
    eventually("both changes are in it", async || {
        // Of the version that is tried, not of the files: those may be ahead of it, and the next version counts from nought.
        let hash = rollout(&gateway).await["hash"].as_str().unwrap_or("none").to_owned();
        let diff = gateway.admin("GET", &format!("/api/v1/versions/running/diff/{hash}"), "").await.json();
        diff["files"].as_array().is_some_and(|files| files.len() == 2)
    })
    .await;
    let asked = upstream.heard().len();
    for _ in 0..5 {
        let answer = gateway.chat(&Openai.body("here", false, "hello")).await;
        assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("up/one")));
    }
    let refused = gateway.chat(&Openai.body("here", false, "no")).await;
    assert_eq!(refused.status, 200);
    let mut shadow = Value::Null;
    eventually("all six were compared", async || {
        shadow = rollout(&gateway).await["shadow"].clone();
        shadow["compared"] == 6
    })
    .await;
    assert_eq!((shadow["different"].clone(), shadow["kinds"]["target"].clone()), (json!(6), json!(5)), "{shadow}");
    assert_eq!((shadow["kinds"]["verdict"].clone(), shadow["kinds"]["failed"].clone()), (json!(1), json!(0)));
    let example = shadow["examples"].as_array().and_then(|e| e.last()).expect("an example");
    assert_eq!(example["request"].as_str(), refused.header("x-request-id"), "{example}");
    assert_eq!((example["was"]["targets"].clone(), example["now"]["status"].clone()), (json!(["up/one"]), json!(403)));
    // Only the running version's calls reached the upstream, and nothing was counted.
    assert_eq!(upstream.heard().len(), asked + 6);
    assert!(upstream.heard().iter().all(|heard| heard.json()["model"] == "one"));
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    assert!(!metrics.contains("shadowed"), "a rehearsal counts nothing");
    assert!(metrics.contains("portcullis_shadow_decisions_total{outcome=\"target\"}"), "{metrics}");
    // And the status hides nothing.
    let ready = gateway.get("/health/ready").await.json();
    assert_eq!(ready["rollout"]["phase"], "shadow");
    assert!(status(&gateway).await["files"]["why"].as_str().is_some_and(|why| why.contains("in the shadow")));
}

#[tokio::test]
async fn in_shadow_stages_read_what_lives_and_leave_it_as_it_is() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "{}{}[models.here]\ntargets = [{{ provider = \"up\", model = \"one\" }}]\n",
        rules("shadow = \"10m\""),
        upstream.provider("up", "openai_chat")
    );
    let script = |verdict: &str| {
        format!(
            "fn request(request, context) {{\n  if request.last_user_text == \"close\" {{ context.kv.set(\"closed\", true); return; }}\n  \
             if context.kv.get(\"closed\") == true {{ {verdict} }}\n}}\n"
        )
    };
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", &script("return reject(403, \"closed\");"))]).await;
    let say = async |text: &str| gateway.chat(&Openai.body("here", false, text)).await.status;
    assert_eq!((say("hello").await, say("close").await), (200, 200));
    gateway.write("scripts/a.rhai", &script("context.kv.remove(\"closed\");"));
    phase(&gateway, "shadow").await;
    let mut shadow = Value::Null;
    for round in 1..=3 {
        assert_eq!(say("hello").await, 403, "what the shadow's stages write goes nowhere");
        eventually("it was compared", async || {
            shadow = rollout(&gateway).await["shadow"].clone();
            shadow["compared"] == round
        })
        .await;
    }
    // What the running version's stage knows decides in the shadow too.
    assert_eq!((shadow["different"].clone(), shadow["kinds"]["verdict"].clone()), (json!(3), json!(3)), "{shadow}");
    let example = shadow["examples"].as_array().and_then(|e| e.last()).expect("an example");
    assert_eq!((example["was"]["status"].clone(), example["now"]["targets"].clone()), (json!(403), json!(["up/one"])));
    gateway.stop().await;
}

#[tokio::test]
async fn a_good_version_passes_shadow_and_share_and_then_serves_all() {
    let rules = rules("shadow = \"300ms\"\ncanary = 0.5\ncanary_time = \"300ms\"\nmin_requests = 10");
    let gateway = Gateway::start(&format!("{rules}{}", alias("one"))).await;
    gateway.rewrite(&format!("{rules}{}", alias("two")));
    phase(&gateway, "canary").await;
    // Not before enough was seen of it.
    let waits = rollout(&gateway).await["waits_for"].as_str().unwrap_or_default().to_owned();
    assert!(waits.contains("s more of this phase") || waits.contains("more requests"), "{waits}");
    let mut both = [0; 2];
    eventually("it serves all", async || {
        let answer = ask(&gateway, &[]).await;
        assert_eq!(answer.status, 200);
        both[usize::from(answer.header("x-portcullis-target") == Some("mock/two"))] += 1;
        status(&gateway).await["version"]["id"] == "v2"
    })
    .await;
    assert!(both[0] > 0 && both[1] >= 10, "{both:?}");
    leads_to(&gateway, "mock/two").await;
    assert_eq!(states(&gateway).await, pairs(&[("v2", "live"), ("v1", "former")]));
    let told = status(&gateway).await;
    assert!(told["rollout"].is_null() && told["files"]["running"] == true, "{told}");
    assert!(versions(&gateway).await[0]["reason"].as_str().is_some_and(|r| r.contains("promoted by its figures")));
}

#[tokio::test]
async fn a_version_that_fails_in_shadow_goes_before_anybody_meets_it_and_stays_away() {
    let config = |target: &str| {
        format!(
            "{SLED}{}{}",
            rules("shadow = \"10m\"\nmin_requests = 10\nrevert_on = { error_rate = 0.02 }"),
            alias(target)
        )
    };
    let good = "fn log(record, context) { }\n";
    let bad = "fn request(request, context) {\n  if request.last_user_text == \"hello\" { throw \"oh\"; }\n}\n";
    let mut gateway = Process::start(&config("one"), &[("scripts/a.rhai", good)]).await;
    gateway.save("scripts/a.rhai", bad);
    eventually("it is taken back", async || {
        assert_eq!(target(&gateway).await.as_deref(), Some("mock/one"), "no request meets it");
        !told(&gateway).await["reverted"].is_null()
    })
    .await;
    let says = told(&gateway).await;
    assert_eq!((says["reverted"]["version"].clone(), says["version"]["id"].clone()), (json!("v2"), json!("v1")));
    assert!(says["reverted"]["reason"].as_str().is_some_and(|r| r.contains("decisions failed")), "{says}");
    let words = "reverted: the version before it goes on";
    eventually("the log says so", async || gateway.log().contains(words)).await;
    assert!(gateway.metrics().await.contains("portcullis_rollouts_ended_total{outcome=\"reverted\"} 1"));
    // Not again, neither by a reload nor by a restart.
    let reload = gateway.admin("POST", "/api/v1/config/reload", "").await.json();
    assert_eq!(reload["outcome"], "reverted");
    gateway.restart().await;
    assert_eq!(target(&gateway).await.as_deref(), Some("mock/one"));
    let says = told(&gateway).await;
    assert_eq!((says["reverted"]["version"].clone(), says["version"]["id"].clone()), (json!("v2"), json!("v1")));
    eventually("the start says so", async || gateway.log().contains("was taken back")).await;
    // Until the files change.
    gateway.save("scripts/a.rhai", &format!("{good}\n"));
    eventually("another one is tried", async || told(&gateway).await["rollout"]["version"] == "v3").await;
    assert!(told(&gateway).await["reverted"].is_null());
    // A restart does not cut a rollout short.
    gateway.kill_and_restart().await;
    let says = told(&gateway).await;
    assert_eq!((says["rollout"]["version"].clone(), says["rollout"]["phase"].clone()), (json!("v3"), json!("shadow")));
    assert_eq!(says["version"]["id"], "v1");
}

#[tokio::test]
async fn a_version_that_fails_its_share_is_taken_back_at_once() {
    let rules = rules(
        "canary = 0.5\ncanary_time = \"10m\"\nmin_requests = 10\nrevert_on = { error_rate = 0.02, p99_ms = 5000 }",
    );
    let upstream = Upstream::saying(Say::error(500, "{}")).await;
    let sick = format!(
        "{rules}{}[models.here]\nretries = 0\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::start(&format!("{rules}{}", alias("one"))).await;
    gateway.rewrite(&sick);
    phase(&gateway, "canary").await;
    let mut failed = 0;
    eventually("it is taken back", async || {
        failed += usize::from(ask(&gateway, &[]).await.status >= 500);
        !status(&gateway).await["reverted"].is_null()
    })
    .await;
    assert!(failed <= 2, "{failed} requests met it: two failures decide");
    for _ in 0..20 {
        assert_eq!(ask(&gateway, &[]).await.header("x-portcullis-target"), Some("mock/one"));
    }
    let row = &versions(&gateway).await[0];
    assert_eq!((row["id"].clone(), row["state"].clone()), (json!("v2"), json!("reverted")));
    assert!(row["reason"].as_str().is_some_and(|r| r.contains("requests failed")), "{row}");
    let ready = gateway.get("/health/ready").await;
    assert!(ready.status == 200 && ready.json()["reverted"]["version"] == "v2", "{}", ready.text());
}

#[tokio::test]
async fn a_version_that_answers_too_slowly_is_taken_back() {
    let rules = rules("canary = 0.5\ncanary_time = \"10m\"\nmin_requests = 10\nrevert_on = { p99_ms = 1000 }");
    let slow = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_millis(1500))).await;
    let gateway = Gateway::start(&format!("{rules}{}", alias("one"))).await;
    gateway.rewrite(&format!(
        "{rules}{}[models.here]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n",
        slow.provider("up", "openai_chat")
    ));
    phase(&gateway, "canary").await;
    let mut told = Value::Null;
    eventually("it is taken back", async || {
        let all = futures_util::future::join_all((0..8).map(|_| ask(&gateway, &[]))).await;
        assert!(all.iter().all(|answer| answer.status == 200), "slow is no error");
        told = status(&gateway).await["reverted"].clone();
        !told.is_null()
    })
    .await;
    assert!(told["reason"].as_str().is_some_and(|r| r.contains("p99 is above 1000 ms")), "{told}");
    leads_to(&gateway, "mock/one").await;
}

#[tokio::test]
async fn what_belongs_together_stays_with_one_version() {
    let rules = rules("canary = 0.5\ncanary_time = \"10m\"");
    let gateway = Gateway::start(&format!("{rules}{}", alias("one"))).await;
    gateway.rewrite(&format!("{rules}{}", alias("two")));
    phase(&gateway, "canary").await;
    let mut met = [0; 2];
    for session in 0..40 {
        let name = format!("session-{session}");
        let headers = [("x-session-id", name.as_str())];
        let first = ask(&gateway, &headers).await.header("x-portcullis-target").map(str::to_owned);
        for _ in 0..3 {
            assert_eq!(ask(&gateway, &headers).await.header("x-portcullis-target"), first.as_deref(), "{name}");
        }
        met[usize::from(first.as_deref() == Some("mock/two"))] += 1;
    }
    assert!(met[0] > 0 && met[1] > 0, "{met:?}");
    // The record says who was served by the new version.
    let rows = gateway.admin("GET", "/api/v1/requests?limit=200", "").await.json();
    let rows = rows["data"].as_array().cloned().unwrap_or_default();
    let by_new = |row: &Value| row["trace"].to_string().contains("served by the new version v2");
    assert!(rows.iter().all(|row| by_new(row) == (row["target"] == "mock/two")), "{rows:?}");
}

#[tokio::test]
async fn newer_files_take_the_place_of_the_version_that_is_being_tried() {
    let rules = rules("canary = 0.5\ncanary_time = \"10m\"");
    let gateway = Gateway::start(&format!("{rules}{}", alias("one"))).await;
    for (n, name) in ["two", "three"].iter().enumerate() {
        gateway.rewrite(&format!("{rules}{}", alias(name)));
        let tried = format!("v{}", n + 2);
        eventually("it is tried", async || rollout(&gateway).await["version"] == *tried).await;
    }
    assert_eq!(states(&gateway).await, pairs(&[("v3", "canary"), ("v2", "superseded"), ("v1", "live")]));
    // A broken change leaves the rollout alone.
    gateway.write("scripts/a.rhai", "fn request(");
    eventually("it is refused", async || !status(&gateway).await["refused"].is_null()).await;
    assert_eq!(rollout(&gateway).await["version"], "v3");
    std::fs::remove_file(gateway.dir.path().join("scripts/a.rhai")).expect("removed");
    eventually("it is mended", async || status(&gateway).await["refused"].is_null()).await;
    assert_eq!(rollout(&gateway).await["version"], "v3");
    // Back to the files of what runs: there is nothing to try.
    gateway.rewrite(&format!("{rules}{}", alias("one")));
    eventually("it is over", async || rollout(&gateway).await.is_null()).await;
    assert_eq!(states(&gateway).await, pairs(&[("v3", "superseded"), ("v2", "superseded"), ("v1", "live")]));
    leads_to(&gateway, "mock/one").await;
}

#[tokio::test]
async fn a_rollout_is_promoted_or_stopped_by_a_call() {
    let rules = rules("shadow = \"10m\"\ncanary = 0.05");
    let gateway = Gateway::start(&format!("{rules}{}", alias("one"))).await;
    for path in ["promote", "abort"] {
        assert_eq!(gateway.admin("POST", &format!("/api/v1/rollout/{path}"), "").await.status, 409);
    }
    gateway.rewrite(&format!("{rules}{}", alias("two")));
    phase(&gateway, "shadow").await;
    let answer = gateway.admin("POST", "/api/v1/rollout/abort", r#"{"author":"ann","note":"not yet"}"#).await.json();
    assert_eq!((answer["outcome"].clone(), answer["version"]["state"].clone()), (json!("aborted"), json!("aborted")));
    assert_eq!(answer["version"]["reason"], "stopped by ann: not yet");
    assert_eq!(status(&gateway).await["reverted"]["version"], "v2");
    assert_eq!(gateway.admin("POST", "/api/v1/config/reload", "").await.json()["outcome"], "reverted");
    gateway.rewrite(&format!("{rules}{}", alias("three")));
    phase(&gateway, "shadow").await;
    let answer = gateway.admin("POST", "/api/v1/rollout/promote", r#"{"author":"ann"}"#).await.json();
    assert_eq!((answer["outcome"].clone(), answer["version"]["id"].clone()), (json!("live"), json!("v3")));
    assert_eq!(ask(&gateway, &[]).await.header("x-portcullis-target"), Some("mock/three"));
    // A return to an earlier version ends what is being tried.
    gateway.rewrite(&format!("{rules}{}", alias("four")));
    phase(&gateway, "shadow").await;
    assert_eq!(gateway.admin("POST", "/api/v1/versions/v1/rollback", "").await.status, 200);
    assert_eq!(ask(&gateway, &[]).await.header("x-portcullis-target"), Some("mock/one"));
    assert!(rollout(&gateway).await.is_null());
    assert_eq!(states(&gateway).await[1], ("v4".to_owned(), "aborted".to_owned()));
}

#[tokio::test]
async fn the_rules_of_the_running_version_hold() {
    let rules = rules("shadow = \"10m\"");
    // Without rules a change is live at once, even one that brings some.
    let gateway = Gateway::start(&alias("one")).await;
    gateway.rewrite(&format!("{rules}{}", alias("two")));
    leads_to(&gateway, "mock/two").await;
    // Taking them away is a change like others.
    gateway.rewrite(&alias("three"));
    phase(&gateway, "shadow").await;
    assert_eq!(ask(&gateway, &[]).await.header("x-portcullis-target"), Some("mock/two"));
}
