//! Splits and mirrors over real sockets: who goes where, what a copy may and may not touch, and how arms are compared.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    family::Openai,
    support::{End, Gateway, Say, Upstream, begin, eventually},
};

const PRICES: &str = "[[pricing]]\nmodel = \"*/m\"\ninput = 1000\noutput = 1000\n";

fn said(text: &str) -> Say {
    Say::json(Openai.whole(text))
}

fn question(stream: bool) -> String {
    Openai.body("smart", stream, "hello")
}

/// An alias `smart` that `a` answers, with a mirror at `b`.
fn mirrored(a: &Upstream, b: &Upstream, mirror: &str) -> String {
    format!(
        "{}{}{PRICES}[models.smart]\ntargets = [{{ provider = \"a\", model = \"m\" }}]\nmirror = {{ to = \"b/m\", share = 1.0{mirror} }}\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat")
    )
}

async fn experiment(gateway: &Gateway, name: &str) -> Value {
    let answer = gateway.admin("GET", &format!("/api/v1/experiments?model={name}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"][0].clone()
}

/// The experiment `smart`, once its mirror has seen so many copies to their end.
async fn copied(gateway: &Gateway, count: u64) -> Value {
    let mut row = Value::Null;
    eventually("copies are over", async || {
        row = experiment(gateway, "smart").await;
        row["mirror"]["requests"].as_u64() >= Some(count)
    })
    .await;
    row
}

/// Records that are copies, and records that are not.
async fn records(gateway: &Gateway, copies: usize) -> (Vec<Value>, Vec<Value>) {
    let mut sorted = (Vec::new(), Vec::new());
    eventually("records are written", async || {
        let rows = gateway.admin("GET", "/api/v1/requests?limit=200", "").await.json()["data"].clone();
        let rows = rows.as_array().cloned().unwrap_or_default();
        sorted = rows.into_iter().partition(|row| row["experiment"]["mirror_of"].is_string());
        sorted.0.len() >= copies
    })
    .await;
    sorted
}

#[tokio::test]
async fn arms_have_their_shares_sessions_keep_to_theirs_and_the_comparison_says_how_each_fared() {
    let (old, new) = (Upstream::saying(said("old")).await, Upstream::saying(said("new")).await);
    let script =
        "const STREAM = \"whole\";\nfn response(response, context) { context.note(`mark: ${response.text.len()}`); }";
    let config = format!(
        "{}{}{PRICES}[models.smart]\nsplit = {{ arms = [{{ name = \"old\", to = \"old/m\", weight = 3 }}, {{ name = \"new\", to = \"new/m\" }}] }}\n",
        old.provider("old", "openai_chat"),
        new.provider("new", "openai_chat")
    );
    let gateway = Gateway::with(&config, &[("scripts/mark.rhai", script)]).await;
    let mut counts = [0, 0];
    for n in 0..60 {
        let session = format!("session-{}", n / 3);
        let mut arms = Vec::new();
        for stream in [false, true] {
            let headers = [("content-type", "application/json"), ("x-session-id", &*session)];
            let answer = gateway.post_with("/v1/chat/completions", &headers, &question(stream)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let arm = answer.header("x-portcullis-arm").expect("an arm").to_owned();
            assert_eq!(answer.header("x-portcullis-target"), Some(&*format!("{arm}/m")));
            counts[usize::from(arm == "new")] += 1;
            arms.push(arm);
        }
        arms.dedup();
        assert_eq!(arms.len(), 1, "{session}");
    }
    assert!(counts[0] > counts[1] && counts[1] > 0, "{counts:?}: three to one of twenty sessions");
    let mut row = Value::Null;
    eventually("all are counted", async || {
        row = experiment(&gateway, "smart").await;
        row["arms"].as_array().expect("arms").iter().filter_map(|arm| arm["requests"].as_u64()).sum::<u64>() == 120
    })
    .await;
    for (n, (name, share)) in [("old", 0.75), ("new", 0.25)].into_iter().enumerate() {
        let arm = &row["arms"][n];
        let seen = (arm["arm"].as_str(), arm["share"].as_f64(), arm["requests"].as_u64());
        assert_eq!(seen, (Some(name), Some(share), Some(counts[n])), "{row}");
        assert_eq!((arm["errors"].as_u64(), arm["elsewhere"].as_u64()), (Some(0), Some(0)), "{row}");
        assert_eq!(arm["latency_ms"]["count"].as_u64(), Some(counts[n]));
        // 3 + 2 tokens at a thousandth of a dollar.
        assert_eq!(arm["cost_each_usd"].to_string(), "0.005", "{row}");
        let mark = &arm["quality"]["notes"]["mark"];
        assert_eq!((mark["count"].as_u64(), mark["mean"].as_f64()), (Some(counts[n]), Some(3.0)), "{row}");
    }
    assert_eq!((row["by"].as_str(), &row["mirror"]), (Some("session"), &Value::Null));
    let record = gateway.record(120).await;
    assert_eq!(record["experiment"]["model"], "smart", "{record}");
}

#[tokio::test]
async fn an_arm_that_fails_is_followed_by_the_aliass_targets_and_that_is_told() {
    let (sick, well) = (Upstream::saying(Say::error(500, "{}")).await, Upstream::saying(said("well")).await);
    let config = format!(
        "{}{}[models.smart]\nretries = 0\ntargets = [{{ provider = \"well\", model = \"m\" }}]\nsplit = {{ by = \"request\", arms = [{{ name = \"new\", to = \"sick/m\" }}, {{ name = \"none\", to = \"well/other\", weight = 0 }}] }}\n",
        sick.provider("sick", "openai_chat"),
        well.provider("well", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    for _ in 0..3 {
        let answer = gateway.chat(&question(false)).await;
        let (arm, target) = (answer.header("x-portcullis-arm"), answer.header("x-portcullis-target"));
        assert_eq!((answer.status, arm, target), (200, Some("new"), Some("well/m")), "{}", answer.text());
    }
    let explained = gateway.admin("POST", "/api/v1/explain", &question(false)).await.text();
    assert!(explained.contains("smart: arm new (by request)"), "{explained}");
    eventually("all are counted", async || {
        let row = experiment(&gateway, "smart").await;
        (row["arms"][0]["requests"].as_u64(), row["arms"][0]["elsewhere"].as_u64()) == (Some(3), Some(3))
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_what_request_stages_left_and_neither_its_answer_nor_its_failure_reaches_anybody() {
    let script = "const STREAM = \"whole\";\nfn request(request, context) { request.temperature = 0.25; }\n\
        fn attempt(target, request, context) { if request.last_user_text == \"kept\" && target.provider == \"b\" { return skip(); } }\n\
        fn response(response, context) { context.note(\"seen: \" + response.text); }";
    for stream in [false, true] {
        let a = Upstream::saying(if stream { Say::sse(Openai.frames(&["live"]).concat()) } else { said("live") }).await;
        let b = Upstream::saying(said("copy")).await;
        b.then(Say::error(500, "{\"error\":{\"message\":\"boom\"}}"));
        b.then(Say::json("{\"id\":").end(End::Cut));
        let gateway = Gateway::with(&mirrored(&a, &b, ""), &[("scripts/s.rhai", script)]).await;
        for _ in 0..4 {
            let answer = gateway.chat(&question(stream)).await;
            assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
            assert!(answer.text().contains("live") && !answer.text().contains("copy"), "{}", answer.text());
            assert_eq!(answer.header("x-portcullis-attempts"), Some("1"));
            assert_eq!(answer.header("x-portcullis-target"), Some("a/m"));
        }
        // A stage keeps a copy from a target as it would the request itself.
        gateway.chat(&Openai.body("smart", stream, "kept")).await;
        let row = copied(&gateway, 5).await;
        assert_eq!(row["arms"][0]["arm"], "live");
        assert_eq!(
            (row["arms"][0]["errors"].as_u64(), row["arms"][0]["quality"]["notes"]["seen: live"]["count"].as_u64()),
            (Some(0), Some(5)),
            "{row}"
        );
        assert_eq!(row["mirror"]["quality"]["notes"], json!({}), "no stage sees a copy's answer: {row}");
        let heard = b.heard();
        assert!(heard.iter().all(|call| !String::from_utf8_lossy(&call.body).contains("kept")));
        assert!(heard.iter().all(|call| call.json()["temperature"] == 0.25), "behind the request stages");
        assert!(heard.iter().all(|call| call.json()["model"] == "m" && call.json()["stream"] == stream));
        let (copies, live) = records(&gateway, 5).await;
        assert_eq!(live.len(), 5);
        for copy in &copies {
            assert!(live.iter().any(|row| row["id"] == copy["experiment"]["mirror_of"]), "{copy}");
            assert_eq!(
                (&copy["tags"], &copy["team"], &copy["key_id"]),
                (&json!({"mirror": "smart"}), &Value::Null, &Value::Null)
            );
        }
    }
}

#[tokio::test]
async fn nobody_waits_for_a_copy_and_what_finds_no_room_is_left_out_and_counted() {
    let (a, b) =
        (Upstream::saying(said("live")).await, Upstream::saying(said("never").wait(Duration::from_secs(600))).await);
    let gateway = Gateway::start(&mirrored(&a, &b, ", concurrent = 2")).await;
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(gateway.chat(&question(false)).await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    b.hears(2).await;
    let row = experiment(&gateway, "smart").await;
    assert_eq!(row["mirror"]["left_out"], json!({"full": 8}), "{row}");
    assert_eq!(b.heard().len(), 2);
    // A gateway that stops does not wait for them either.
    let began = Instant::now();
    gateway.stop().await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_copy_that_fails_is_sent_once_and_ejects_its_target_for_copies_alone() {
    let (a, b) = (Upstream::saying(said("live")).await, Upstream::start().await);
    b.always(Say::error(503, "{\"error\":{\"message\":\"boom\"}}"));
    let gateway = Gateway::start(&mirrored(&a, &b, "")).await;
    for n in 1..=5 {
        assert_eq!(gateway.chat(&question(false)).await.status, 200);
        copied(&gateway, n).await;
    }
    assert_eq!(b.heard().len(), 5, "nobody waits for a copy, so it is not tried again");
    let ejected = gateway.admin("GET", "/api/v1/providers", "").await.text();
    assert!(ejected.contains("b/m (copies)"), "{ejected}");
    assert_eq!(gateway.chat(&question(false)).await.status, 200);
    let row = copied(&gateway, 6).await;
    assert_eq!(b.heard().len(), 5, "copies leave it alone for a while: {row}");
    // Who asks for it is not kept from it.
    b.always(said("well"));
    let direct = gateway.chat(&Openai.body("b/m", false, "hello")).await;
    assert_eq!((direct.status, b.heard().len()), (200, 6), "{}", direct.text());
}

#[tokio::test]
async fn a_copy_outlives_its_client() {
    let (a, b) = (
        Upstream::saying(said("late").wait(Duration::from_secs(600))).await,
        Upstream::saying(said("copy").wait(Duration::from_secs(1))).await,
    );
    let gateway = Gateway::start(&mirrored(&a, &b, "")).await;
    let body = question(false);
    let socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    a.hears(1).await;
    b.hears(1).await;
    drop(socket);
    a.is_cancelled(1).await;
    let row = copied(&gateway, 1).await;
    assert_eq!((row["mirror"]["latency_ms"]["count"].as_u64(), b.cancelled()), (Some(1), 0), "{row}");
    assert_eq!(row["arms"][0]["left"].as_u64(), Some(1), "{row}");
}

#[tokio::test]
async fn a_copy_is_charged_to_nobody_unless_it_is_said_and_a_tag_can_hold_it_to_a_budget() {
    let (a, b) = (Upstream::saying(said("live")).await, Upstream::saying(said("copy")).await);
    // An answer costs half a cent; a team's budget that has room for two would not do for copies as well.
    let team = "[teams.labs]\nbudget = { usd = 0.05, per = \"total\" }\nlimits = { requests_per_day = 3 }\n\
        [tags.\"mirror=smart\"]\nlimits = { requests_per_day = 2 }\n";
    let config = format!("[auth]\nrequired = true\n{}{team}", mirrored(&a, &b, ""));
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name":"k","team":"labs"}"#).await;
    let bearer = format!("Bearer {key}");
    let ask = async || {
        let headers = [("content-type", "application/json"), ("authorization", &*bearer)];
        let body =
            Openai.body("smart", false, "hello").replace("\"stream\":false", "\"stream\":false,\"max_tokens\":2");
        gateway.post_with("/v1/chat/completions", &headers, &body).await
    };
    for n in 1..=3 {
        assert_eq!(ask().await.status, 200);
        copied(&gateway, n).await;
    }
    assert_eq!(ask().await.status, 429, "three a day, and copies did not count in them");
    let row = experiment(&gateway, "smart").await;
    assert_eq!(
        (row["mirror"]["refused"].as_u64(), &row["mirror"]["codes"]),
        (Some(1), &json!({"rate_limited": 1})),
        "{row}"
    );
    assert_eq!(b.heard().len(), 2, "the tag's limit held the third");
    let usage = async |query: &str| {
        let rows = gateway.admin("GET", &format!("/api/v1/usage?{query}"), "").await.json()["data"].clone();
        rows.as_array().cloned().unwrap_or_default()
    };
    let (mut team, mut tag) = (Vec::new(), Vec::new());
    eventually("usage is summed", async || {
        (team, tag) = (usage("group_by=team&team=labs").await, usage("group_by=tag&tag=mirror%3Dsmart").await);
        team.first().is_some_and(|row| row["requests"] == 4) && tag.first().is_some_and(|row| row["requests"] == 3)
    })
    .await;
    assert_eq!((team[0]["cost_usd"].to_string(), tag[0]["cost_usd"].to_string()), ("0.015".into(), "0.01".into()));
}

#[tokio::test]
async fn a_copy_at_its_callers_expense_is_the_callers_in_records_and_limits() {
    let (a, b) = (Upstream::saying(said("live")).await, Upstream::saying(said("copy")).await);
    let config = format!(
        "[auth]\nrequired = true\n{}[teams.labs]\nlimits = {{ requests_per_day = 3 }}\n",
        mirrored(&a, &b, ", charge = \"caller\"")
    );
    let gateway = Gateway::start(&config).await;
    let (id, key) = gateway.key(r#"{"name":"k","team":"labs"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", &*bearer),
        ("x-portcullis-tags", "env=prod,mirror=forged"),
    ];
    for n in 1..=2 {
        assert_eq!(gateway.post_with("/v1/chat/completions", &headers, &question(false)).await.status, 200);
        copied(&gateway, n).await;
    }
    // The second copy was the fourth request of three.
    let (copies, _) = records(&gateway, 2).await;
    let mut told: Vec<_> =
        copies.iter().map(|row| (row["status"].as_u64(), row["team"].as_str(), row["key_id"].as_str())).collect();
    told.sort();
    let who = (Some("labs"), Some(&*id));
    assert_eq!(told, [(Some(200), who.0, who.1), (Some(429), who.0, who.1)]);
    assert!(copies.iter().all(|row| row["tags"] == json!({"env": "prod", "mirror": "smart"})), "{copies:?}");
}

#[tokio::test]
async fn what_may_do_more_than_answer_is_not_copied() {
    let (a, b) = (Upstream::saying(said("live")).await, Upstream::saying(said("copy")).await);
    let gateway = Gateway::start(&mirrored(&a, &b, "")).await;
    let mut body: Value = serde_json::from_str(&question(false)).expect("JSON");
    body["tools"] = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    assert_eq!(gateway.chat(&body.to_string()).await.status, 200);
    copied(&gateway, 1).await;
    body["web_search_options"] = json!({});
    gateway.chat(&body.to_string()).await;
    let path = "/v1/images/generations";
    gateway.post(path, r#"{"model":"smart","prompt":"a tide"}"#).await;
    eventually("it is counted", async || {
        experiment(&gateway, "smart").await["mirror"]["left_out"] == json!({"side_effects": 1})
    })
    .await;
    assert_eq!(b.heard().len(), 1, "tools that the caller runs do nothing by being named");
}

#[tokio::test]
async fn figures_outlive_a_restart_and_what_is_configured_no_more_is_still_shown() {
    let (a, b) = (Upstream::saying(said("live")).await, Upstream::saying(said("copy")).await);
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!("[store]\nkind = \"sled\"\npath = {:?}\n{}", dir.path().join("data"), mirrored(&a, &b, ""));
    let gateway = Gateway::start(&config).await;
    for _ in 0..3 {
        gateway.chat(&question(false)).await;
    }
    let before = copied(&gateway, 3).await;
    assert_eq!(before["arms"][0]["requests"].as_u64(), Some(3), "{before}");
    gateway.stop().await;
    let gateway = Gateway::start(&config).await;
    let after = experiment(&gateway, "smart").await;
    for part in ["requests", "errors", "latency_ms", "cost_usd", "since"] {
        let (was, is) = (&before, &after);
        assert_eq!(
            (&is["mirror"][part], &is["arms"][0][part]),
            (&was["mirror"][part], &was["arms"][0][part]),
            "{part}"
        );
    }
    gateway.chat(&question(false)).await;
    copied(&gateway, 4).await;
    gateway.rewrite(&config.replace("mirror = {", "# mirror = {"));
    eventually("the change is live", async || {
        let row = experiment(&gateway, "smart").await;
        (row["mirror"]["share"].as_f64(), row["mirror"]["requests"].as_u64()) == (Some(0.0), Some(4))
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn mistakes_of_splits_and_mirrors_are_told_at_their_lines() {
    let config = "[models.a]\nsplit = { arms = [\n  { name = \"x\", to = \"nowhere\" },\n  { name = \"x\", to = \"mock/m\", weight = 0 },\n] }\n\
        [models.b]\ntargets = [{ provider = \"mock\", model = \"m\" }]\nsplit = { arms = [{ to = \"a\" }, { name = \"live\", to = \"mock/m\" }] }\n\
        mirror = { to = \"nobody/m\", share = 0.0 }\n";
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("gateway.toml"), config).expect("written");
    let refused = portcullis::cli::serve::Running::start(&dir.path().join("gateway.toml")).await;
    let told = refused.err().expect("refused").to_string();
    for (line, word) in [
        ("gateway.toml:3", "nowhere"),
        ("gateway.toml:4", "already"),
        ("gateway.toml:8", "split itself"),
        ("gateway.toml:8", "comparison's own"),
        ("gateway.toml:9", "nobody"),
        ("gateway.toml:9", "more than 0"),
    ] {
        assert!(told.lines().any(|l| l.starts_with(line) && l.contains(word)), "{line} {word}: {told}");
    }
}
