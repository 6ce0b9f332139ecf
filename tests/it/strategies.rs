//! Choices among targets by what is measured, by load and by price; what keeps to a target; what warms up; and that no request
//! reaches a target that its data may not go to.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Family, Openai},
    support::{Answer, Gateway, Process, Say, Upstream, begin, eventually, request},
};

fn well(stream: bool, text: &str) -> Say {
    if stream { Say::sse(Openai.frames(&[text]).concat()) } else { Say::json(Openai.whole(text)) }
}

/// Upstreams a, b, c, … behind the alias `all`; `lines`: of the alias and of each target.
async fn row(says: Vec<Say>, alias: &str, targets: &[&str]) -> (Vec<Upstream>, String) {
    let (mut upstreams, mut config, mut list) = (Vec::new(), String::new(), Vec::new());
    for (n, (name, say)) in ('a'..='z').zip(says).enumerate() {
        let upstream = Upstream::saying(say).await;
        config.push_str(&upstream.provider(&name.to_string(), "openai_chat"));
        list.push(format!("{{ provider = \"{name}\", model = \"m\"{} }}", targets.get(n).unwrap_or(&"")));
        upstreams.push(upstream);
    }
    config.push_str(&format!("[models.all]\n{alias}\ntargets = [{}]\n", list.join(", ")));
    (upstreams, config)
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|u| u.heard().len()).collect()
}

async fn in_session(gateway: &Gateway, session: &str) -> String {
    let headers = [("x-portcullis-session-id", session)];
    let answer = gateway.post_with(&Openai.path("all", false), &headers, &Openai.body("all", false, "hi")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-portcullis-target").expect("a target").to_owned()
}

#[tokio::test]
async fn requests_go_where_they_are_answered_soonest_and_figures_outlive_a_reload() {
    for stream in [false, true] {
        let slow = well(stream, "a").wait(Duration::from_secs(1));
        let (upstreams, config) = row(vec![slow, well(stream, "b")], "strategy = \"least_latency\"", &[]).await;
        let gateway = Gateway::start(&config).await;
        for _ in 0..12 {
            assert_eq!(Openai.ask(&gateway, "all", stream).await.status, 200);
        }
        // One to be measured by. Ten more would be ten seconds of a quick upstream.
        assert!(upstreams[0].heard().len() <= 4, "{:?}", counts(&upstreams));
        gateway.rewrite(&format!("{config}[models.other]\ntargets = [{{ provider = \"mock\", model = \"x\" }}]\n"));
        eventually("the edit is live", async || Openai.ask(&gateway, "other", false).await.status == 200).await;
        let listed = gateway.admin("GET", "/api/v1/models", "").await.json();
        let all = listed["data"].as_array().expect("a list").iter().find(|m| m["id"] == "all").expect("all").clone();
        assert_eq!(all["strategy"], "least_latency", "{all}");
        let measured = |n: usize| all["health"][n]["latency_ms"].as_u64().unwrap_or_else(|| panic!("{all}"));
        assert!(measured(0) >= 1000 && measured(1) < measured(0), "{all}");
        let before = upstreams[0].heard().len();
        assert_eq!(Openai.ask(&gateway, "all", stream).await.status, 200);
        assert!(upstreams[0].heard().len() <= before + 1);
    }
}

#[tokio::test]
async fn requests_under_way_count_and_the_least_busy_is_next() {
    let waits = |text: &str| well(false, text).wait(Duration::from_secs(60));
    let (upstreams, config) = row(vec![waits("a"), waits("b"), waits("c")], "strategy = \"least_busy\"", &[]).await;
    let gateway = Gateway::start(&config).await;
    let mut clients = Vec::new();
    for count in 1..=9 {
        let body = Openai.body("all", false, "hi");
        let headers = [("content-type", "application/json")];
        clients.push(begin(gateway.addr, "POST", &Openai.path("all", false), &headers, body.as_bytes()).await);
        eventually("it is under way", async || counts(&upstreams).iter().sum::<usize>() == count).await;
    }
    assert_eq!(counts(&upstreams), [3, 3, 3]);
}

#[tokio::test]
async fn the_cheapest_target_is_the_cheapest_for_this_request() {
    let (upstreams, config) = row(vec![well(false, "a"), well(false, "b")], "strategy = \"least_cost\"", &[]).await;
    let prices =
        "[[pricing]]\nmodel = \"a/m\"\ninput = 1\noutput = 50\n[[pricing]]\nmodel = \"b/m\"\ninput = 5\noutput = 10\n";
    let gateway = Gateway::start(&format!("{config}{prices}")).await;
    let ask = async |text: &str, most: u64| {
        let body = json!({"model": "all", "max_tokens": most, "messages": [{"role": "user", "content": text}]});
        let answer = gateway.chat(&body.to_string()).await;
        answer.header("x-portcullis-target").unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
    };
    assert_eq!(ask(&"long ".repeat(20_000), 10).await, "a/m");
    assert_eq!(ask("short", 4000).await, "b/m");
    assert_eq!(counts(&upstreams), [1, 1]);
    let told = gateway.admin("POST", "/api/v1/explain", &Openai.body("all", false, "short")).await.json();
    assert_eq!(told["targets"], json!(["b/m", "a/m"]), "{told}");
    let why = told["candidates"][0]["why"].as_str().unwrap_or_else(|| panic!("{told}"));
    assert!(why.starts_with("about 0.00") && why.ends_with("USD for this request"), "{told}");
}

#[tokio::test]
async fn a_session_keeps_to_its_target_until_that_is_lost_and_others_never_move() {
    let says = || vec![well(false, "a"), well(false, "b"), well(false, "c")];
    let (upstreams, config) = row(says(), "strategy = \"weighted\"\nsticky = \"session\"", &[]).await;
    let gateway = Gateway::start(&config).await;
    let sessions: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let ask_all = async || {
        let mut at = BTreeMap::new();
        for session in &sessions {
            at.insert(session.clone(), in_session(&gateway, session).await);
        }
        at
    };
    let before = ask_all().await;
    assert!(counts(&upstreams).iter().all(|n| *n > 0), "{:?}", counts(&upstreams));
    assert_eq!(before, ask_all().await);
    // Another gateway, asked the same, says the same.
    let other = Gateway::start(&config).await;
    for session in &sessions[..5] {
        assert_eq!(in_session(&other, session).await, before[session]);
    }
    upstreams[1].always(Say::error(500, "{}"));
    let after = ask_all().await;
    for (session, was) in &before {
        let is = &after[session];
        assert!(is != "b/m" && (was == "b/m" || was == is), "{session}: {was} became {is}");
    }
    let body = json!({ "request": serde_json::from_str::<Value>(&Openai.body("all", false, "x")).unwrap(),
        "headers": { "x-portcullis-session-id": "s0" } });
    let told = gateway.admin("POST", "/api/v1/explain", &body.to_string()).await.json();
    assert_eq!(told["targets"][0], *after["s0"], "{told}");
    let first = told["candidates"].as_array().unwrap().iter().find(|c| c["verdict"] == "taken").unwrap();
    assert!(first["why"].as_str().unwrap_or_default().starts_with("this session keeps to it; "), "{told}");
}

#[tokio::test]
async fn a_key_keeps_to_its_target() {
    let says = || vec![well(false, "a"), well(false, "b"), well(false, "c")];
    let (_upstreams, config) = row(says(), "strategy = \"least_busy\"\nsticky = \"key\"", &[]).await;
    let gateway = Gateway::start(&format!("[auth]\nrequired = true\n{config}")).await;
    let mut seen = BTreeMap::new();
    for n in 0..12 {
        let (_, key) = gateway.key(&json!({ "name": format!("k{n}") }).to_string()).await;
        for _ in 0..3 {
            let headers = [("x-api-key", key.as_str())];
            let answer = gateway.post_with(&Openai.path("all", false), &headers, &Openai.body("all", false, "x")).await;
            let target = answer.header("x-portcullis-target").unwrap_or_else(|| panic!("{}", answer.text())).to_owned();
            assert_eq!(*seen.entry(n).or_insert_with(|| target.clone()), target);
        }
    }
    assert!(seen.values().collect::<std::collections::BTreeSet<_>>().len() > 1, "{seen:?}");
}

#[tokio::test]
async fn a_target_that_a_reload_brings_gets_a_part_of_its_share() {
    let says = vec![well(false, "a"), well(false, "b")];
    // So long that it stays at a tenth.
    let (upstreams, config) = row(says, "strategy = \"weighted\"\nwarm_up = \"10h\"", &[]).await;
    let alone = config.replace(", { provider = \"b\", model = \"m\" }", "");
    assert_ne!(alone, config);
    let gateway = Gateway::start(&alone).await;
    assert_eq!(Openai.ask(&gateway, "all", false).await.status, 200);
    gateway.rewrite(&config);
    eventually("the new target is listed", async || {
        let listed = gateway.admin("GET", "/api/v1/models", "").await.json();
        listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["id"] == "all" && m["targets"].as_array().unwrap().len() == 2)
    })
    .await;
    for _ in 0..200 {
        assert_eq!(Openai.ask(&gateway, "all", false).await.status, 200);
    }
    // A tenth of a half of 200: 30 or more by chance once in a million runs.
    assert!(upstreams[1].heard().len() < 30, "{:?}", counts(&upstreams));
    let told = gateway.admin("GET", "/api/v1/models", "").await.text();
    assert!(told.contains("\"share\":0.1"), "{told}");
}

#[tokio::test]
async fn what_cannot_take_a_prompt_is_left_out_where_another_can() {
    let (small, large) = (Upstream::saying(well(false, "small")).await, Upstream::saying(well(false, "large")).await);
    let config = format!(
        "{}{}[models.all]\ntargets = [{{ provider = \"a\", model = \"gpt-4o\" }}, {{ provider = \"b\", model = \"gpt-4.1\" }}]\n",
        small.provider("a", "openai_chat"),
        large.provider("b", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    assert_eq!(Openai.text(&Openai.ask(&gateway, "all", false).await), "small");
    let long = Openai.body("all", false, &"word ".repeat(200_000));
    assert_eq!(Openai.text(&gateway.chat(&long).await), "large");
    let record = gateway.record(2).await;
    let passed = record["trace"].as_array().unwrap().iter().find(|step| step["step"] == "passed_over").unwrap().clone();
    assert_eq!((&passed["target"], &passed["code"]), (&json!("a/gpt-4o"), &json!("context_window")), "{record}");
}

#[tokio::test]
async fn what_is_measured_is_seen_by_scripts_and_metrics() {
    let pieces = ["many ", "words "].repeat(20);
    let frames = Openai.frames(&pieces);
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    let upstream = Upstream::saying(Say::frames(&frames, Duration::from_millis(10))).await;
    let route = "fn route(request, targets, context) { context.note(`seen ${targets[0].tokens_per_second} ${targets[0].region}`); }";
    let config = format!(
        "{}[models.all]\ntargets = [{{ provider = \"up\", model = \"m\", region = \"eu\" }}]\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Process::start(&config, &[("scripts/a.rhai", route)]).await;
    let body = Openai.body("all", true, "x");
    let ask = async || request(gateway.addr, "POST", &Openai.path("all", true), &[], body.as_bytes()).await;
    assert_eq!(ask().await.status, 200);
    eventually("its speed is measured", async || {
        gateway
            .metrics()
            .await
            .lines()
            .any(|l| l.starts_with("portcullis_target_tokens_per_second{model=\"m\",provider=\"up\"} "))
    })
    .await;
    let metrics = gateway.metrics().await;
    for name in ["portcullis_target_latency_seconds", "portcullis_target_inflight"] {
        assert!(metrics.contains(&format!("{name}{{model=\"m\",provider=\"up\"}} ")), "{name}: {metrics}");
    }
    assert_eq!(ask().await.status, 200);
    eventually("a script saw it", async || {
        let rows = gateway.admin("GET", "/api/v1/requests?limit=5", "").await.text();
        rows.contains(" eu\"") && rows.split("\"seen ").any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
    .await;
}

// where data may be

const DATA: &str = "[auth]\nrequired = true\n[teams.home]\ndata = \"eu\"\n[teams.strict]\ndata = { region = [\"eu\", \"us\"], retention = \"0s\", train = false }\n";

/// a: us, keeps for a month; b: eu, keeps and trains nothing; c: says nothing.
async fn houses(stage: &str) -> (Vec<Upstream>, Gateway) {
    let says = vec![well(false, "a"), well(false, "b"), well(false, "c")];
    let targets =
        [", region = \"us\", retention = \"30d\"", ", region = \"EU\", retention = \"0s\", train = false", ""];
    let (upstreams, config) = row(says, "strategy = \"weighted\"\nfailover = [\"a/other\", \"spare\"]", &targets).await;
    let spare =
        "[models.spare]\ntargets = [{ provider = \"c\", model = \"x\" }, { provider = \"a\", model = \"y\" }]\n";
    let config = config.replace("[providers.b]", "passthrough = [\"/tokenize\"]\n[providers.b]");
    let files = [("scripts/a.rhai", stage)];
    let files = if stage.is_empty() { &files[..0] } else { &files[..] };
    (upstreams, Gateway::with(&format!("{DATA}{config}{spare}"), files).await)
}

async fn of_team(gateway: &Gateway, team: &str) -> String {
    gateway.key(&json!({ "name": "k", "team": team }).to_string()).await.1
}

async fn asked(gateway: &Gateway, family: Family, key: &str, model: &str, stream: bool) -> Answer {
    let headers = [("x-api-key", key), ("content-type", "application/json")];
    gateway.post_with(&family.path(model, stream), &headers, &family.body(model, stream, "x")).await
}

#[tokio::test]
async fn a_request_reaches_no_target_that_its_data_may_not_go_to() {
    let (upstreams, gateway) = houses("").await;
    for team in ["home", "strict"] {
        let key = of_team(&gateway, team).await;
        for family in FAMILIES {
            for _ in 0..5 {
                assert_eq!(asked(&gateway, family, &key, "all", false).await.status, 200);
            }
            for model in ["spare", "a/m", "c/anything", "a/direct"] {
                for stream in [false, true] {
                    let answer = asked(&gateway, family, &key, model, stream).await;
                    let error = family.error(&answer);
                    assert_eq!(
                        (answer.status, error.code.as_str()),
                        (403, "data_policy"),
                        "{model}: {}",
                        answer.text()
                    );
                    assert!(error.message.contains(&format!("data policy of team `{team}`")), "{}", error.message);
                    assert!(
                        error.message.contains("`region`, `retention`, `train`"),
                        "it says what to do: {}",
                        error.message
                    );
                }
            }
            // What an alias states of a target holds under its own name, too.
            assert_eq!(asked(&gateway, family, &key, "b/m", false).await.status, 200);
        }
        let listed = request(gateway.addr, "GET", "/v1/models", &[("x-api-key", key.as_str())], b"").await.json();
        let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
        assert_eq!(ids, ["all", "b/m", "mock"], "{listed}");
        let embeddings = json!({"model": "a/m", "input": "x"}).to_string();
        let answer = gateway.post_with("/v1/embeddings", &[("x-api-key", key.as_str())], &embeddings).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
        let passed = request(gateway.addr, "GET", "/providers/a/tokenize", &[("x-api-key", key.as_str())], b"").await;
        assert_eq!(passed.status, 403, "{}", passed.text());
    }
    // When the only lawful target fails, nobody else is asked.
    upstreams[1].always(Say::error(500, "{}"));
    let key = of_team(&gateway, "home").await;
    for _ in 0..8 {
        assert!(asked(&gateway, Openai, &key, "all", false).await.status >= 502);
    }
    assert_eq!((upstreams[0].heard().len(), upstreams[2].heard().len()), (0, 0));
    // Others are not bound by it.
    let (_, free) = gateway.key(r#"{"name":"free"}"#).await;
    for _ in 0..30 {
        asked(&gateway, Openai, &free, "all", false).await;
    }
    assert!(upstreams[0].heard().len() + upstreams[2].heard().len() > 0);
}

#[tokio::test]
async fn a_script_cannot_lead_data_away() {
    let (upstreams, gateway) =
        houses("fn route(request, targets, context) { return [\"a/m\", \"c/x\", \"all\"]; }").await;
    let key = of_team(&gateway, "home").await;
    for _ in 0..5 {
        assert_eq!(asked(&gateway, Openai, &key, "all", false).await.status, 200);
    }
    gateway.write("scripts/a.rhai", "fn route(request, targets, context) { return [\"a/m\", \"spare\"]; }");
    eventually("the script is live", async || asked(&gateway, Openai, &key, "all", false).await.status == 403).await;
    gateway.write("scripts/a.rhai", "fn request(request, context) { request.model = \"a/m\"; }");
    eventually("a model that a stage names is refused", async || {
        asked(&gateway, Openai, &key, "all", false).await.text().contains("its region is `us`, not `eu`")
    })
    .await;
    // But it may lead it where it may go.
    gateway.write("scripts/a.rhai", "fn route(request, targets, context) { return [\"b/m\"]; }");
    eventually("the script is live", async || asked(&gateway, Openai, &key, "spare", false).await.status == 200).await;
    assert_eq!((upstreams[0].heard().len(), upstreams[2].heard().len()), (0, 0));
}

#[tokio::test]
async fn a_key_of_its_own_has_a_policy_and_a_change_of_it_holds_at_once() {
    let (upstreams, gateway) = houses("").await;
    let (id, key) = gateway.key(r#"{"name":"k","data":{"region":"eu","train":false}}"#).await;
    let shown = gateway.admin("GET", "/api/v1/keys", "").await.json();
    let row = shown["data"].as_array().unwrap().iter().find(|row| row["id"] == *id).unwrap().clone();
    assert_eq!(row["data"], json!({"region": "eu", "train": false}), "{row}");
    for _ in 0..6 {
        assert_eq!(asked(&gateway, Openai, &key, "all", false).await.header("x-portcullis-target"), Some("b/m"));
    }
    let path = format!("/api/v1/keys/{id}");
    let bad = gateway.admin("PATCH", &path, r#"{"data":{"region":""}}"#).await;
    assert!(bad.status == 400 && bad.text().contains("is no region"), "{}", bad.text());
    assert_eq!(gateway.admin("PATCH", &path, r#"{"data":"mars"}"#).await.status, 200);
    let answer = asked(&gateway, Openai, &key, "all", false).await;
    assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (403, "data_policy"));
    assert_eq!(gateway.admin("PATCH", &path, r#"{"data":null}"#).await.status, 200);
    for _ in 0..30 {
        assert_eq!(asked(&gateway, Openai, &key, "all", false).await.status, 200);
    }
    assert!(upstreams[0].heard().len() + upstreams[2].heard().len() > 0);
}
