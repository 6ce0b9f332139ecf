//! What providers grant, from outside: no quota is crossed, whatever comes at once; a target that is used up returns when its window
//! opens; nothing is forgotten by a restart, by kill -9, or among several gateways.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use crate::{
    family::{FAMILIES, Openai},
    server::Server,
    shared::{gateway as one_of_many, shared},
    support::{Answer, Gateway, Process, Say, Upstream, eventually, request},
};

fn hi(text: &str) -> Say {
    Say::json(Openai.whole(text))
}

fn wait(seconds: &str) -> Say {
    Say::error(429, "{}").header("retry-after", seconds)
}

/// Targets of the alias `all`, in this order, each with what stands in its table.
fn alias(targets: &[(&str, &str)]) -> String {
    let targets = targets.iter().map(|(name, more)| format!("{{ provider = \"{name}\", model = \"m\"{more} }}"));
    format!("[models.all]\ntargets = [{}]\n", targets.collect::<Vec<_>>().join(", "))
}

fn quota(text: &str) -> String {
    format!(", quota = {{ {text} }}")
}

async fn ask(gateway: &Gateway) -> Answer {
    Openai.ask(gateway, "all", false).await
}

fn seconds(answer: &Answer) -> u64 {
    answer.header("retry-after").unwrap_or_else(|| panic!("{:?}", answer.headers)).parse().expect("seconds")
}

async fn rows(gateway: &Gateway) -> Vec<Value> {
    gateway.admin("GET", "/api/v1/quotas", "").await.json()["data"].as_array().cloned().unwrap_or_default()
}

const HOUR: u64 = 3600;

/// The mission's own case: one provider pauses for a week after so many requests, the other for two hours.
#[tokio::test]
async fn two_providers_with_a_weeks_and_two_hours_pause_are_used_up_and_never_crossed() {
    for family in FAMILIES {
        let (week, hours) = (Upstream::saying(hi("week")).await, Upstream::saying(hi("hours")).await);
        let config = format!(
            "{}{}{}",
            week.provider("week", "openai_chat"),
            hours.provider("hours", "openai_chat"),
            alias(&[("week", &quota("requests = 5, per = \"7d\"")), ("hours", &quota("requests = 3, per = \"2h\""))])
        );
        let gateway = Gateway::start(&config).await;
        let mut from = Vec::new();
        for _ in 0..8 {
            from.push(family.text(&family.ask(&gateway, "all", false).await));
        }
        assert_eq!(from, ["week", "week", "week", "week", "week", "hours", "hours", "hours"]);
        let refused = family.ask(&gateway, "all", false).await;
        family.error(&refused);
        assert_eq!(refused.status, 429, "{}", refused.text());
        assert!((2 * HOUR - 60..=2 * HOUR + 10).contains(&seconds(&refused)), "{}", seconds(&refused));
        assert_eq!((week.heard().len(), hours.heard().len()), (5, 3), "nobody was asked in vain");
        // By its own name it is the same target.
        assert_eq!(family.ask(&gateway, "week/m", false).await.status, 429);
        assert_eq!(week.heard().len(), 5);
    }
}

/// The same without a word in the configuration: the providers say it themselves.
#[tokio::test]
async fn providers_that_say_to_wait_are_left_alone_for_so_long() {
    let (week, hours) = (Upstream::saying(wait("604800")).await, Upstream::saying(wait("7200")).await);
    for _ in 0..2 {
        week.then(hi("week"));
        hours.then(hi("hours"));
    }
    let config = format!(
        "{}{}{}",
        week.provider("week", "openai_chat"),
        hours.provider("hours", "openai_chat"),
        alias(&[("week", ""), ("hours", "")])
    );
    let gateway = Gateway::start(&config).await;
    for expected in ["week", "week", "hours", "hours"] {
        assert_eq!(Openai.text(&ask(&gateway).await), expected);
    }
    for _ in 0..5 {
        let answer = ask(&gateway).await;
        assert_eq!(answer.status, 429);
        assert!((2 * HOUR - 60..=2 * HOUR).contains(&seconds(&answer)), "the first one that returns");
    }
    assert_eq!((week.heard().len(), hours.heard().len()), (3, 3), "each said no once");
    let closed: Vec<Value> = rows(&gateway).await;
    assert_eq!(closed.len(), 2, "{closed:?}");
    assert!(closed.iter().all(|row| row["open"] == false && row["closed_until"].is_string()), "{closed:?}");
    assert_eq!(closed[1]["scope"], "target:week/m");
    assert!(closed[1]["opens_in"].as_u64().unwrap() > 600_000, "{closed:?}");
}

#[tokio::test]
async fn a_window_that_opens_again_is_used_again() {
    let (own, other) = (Upstream::saying(hi("own")).await, Upstream::saying(hi("other")).await);
    let config = format!(
        "{}{}{}",
        own.provider("own", "openai_chat"),
        other.provider("other", "openai_chat"),
        alias(&[("own", &quota("requests = 2, per = \"4s\"")), ("other", "")])
    );
    let gateway = Gateway::start(&config).await;
    for round in 1..=3 {
        eventually("its window opens", async || Openai.text(&ask(&gateway).await) == "own").await;
        let began = std::time::Instant::now();
        assert_eq!(Openai.text(&ask(&gateway).await), "own");
        // What comes before the window is over goes elsewhere.
        if began.elapsed() < Duration::from_secs(2) {
            assert_eq!(Openai.text(&ask(&gateway).await), "other");
        }
        assert!(own.heard().len() <= 2 * round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_cross_no_quota() {
    let (own, other) = (Upstream::saying(hi("own")).await, Upstream::saying(hi("other")).await);
    own.always(hi("own").wait(Duration::from_millis(100)));
    let config = format!(
        "{}{}{}",
        own.provider("own", "openai_chat"),
        other.provider("other", "openai_chat"),
        alias(&[("own", &quota("requests = 10, per = \"7d\"")), ("other", "")])
    );
    let gateway = Gateway::start(&config).await;
    let answers = join_all((0..60).map(|_| ask(&gateway))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((own.heard().len(), other.heard().len()), (10, 50));
}

#[tokio::test]
async fn each_key_of_a_provider_has_a_quota_of_its_own() {
    let upstream = Upstream::saying(hi("own")).await;
    let config = format!(
        "[providers.own]\nbase_url = \"http://{}/v1\"\nformat = \"openai_chat\"\nkeys = [\"file:one\", \"file:two\"]\n\
         quota = {{ requests = 2, per = \"7d\" }}\n{}",
        upstream.addr,
        alias(&[("own", "")])
    );
    let gateway = Gateway::with(&config, &[("one", "first-key"), ("two", "second-key")]).await;
    for _ in 0..4 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!(ask(&gateway).await.status, 429);
    let keys: Vec<String> =
        upstream.heard().iter().filter_map(|heard| heard.header("authorization").map(str::to_owned)).collect();
    let of = |key: &str| keys.iter().filter(|sent| sent.ends_with(key)).count();
    assert_eq!((of("first-key"), of("second-key"), keys.len()), (2, 2, 4));
    let shown = rows(&gateway).await;
    assert!(shown.len() == 2 && shown.iter().all(|row| row["left"] == 0), "{shown:?}");
    assert!(!serde_json::to_string(&shown).unwrap().contains("first-key"), "no key is shown");
}

#[tokio::test]
async fn tokens_are_counted_by_what_the_provider_says() {
    let upstream = Upstream::saying(hi("own")).await;
    let config = format!(
        "{}{}",
        upstream.provider("own", "openai_chat"),
        alias(&[("own", &quota("tokens = 20000, usd = 5, per = \"day\", zone = \"America/Los_Angeles\""))])
    );
    let gateway = Gateway::start(&config).await;
    assert_eq!(ask(&gateway).await.status, 200);
    let record = gateway.record(1).await;
    let usage = |name: &str| record["usage"][name].as_u64().unwrap_or_else(|| panic!("{record}"));
    let used = usage("input_tokens") + usage("output_tokens");
    eventually("the tokens are settled", async || {
        let shown = rows(&gateway).await;
        shown.iter().any(|row| row["unit"] == "tokens" && row["used"] == used)
    })
    .await;
    let shown = rows(&gateway).await;
    assert!(shown.iter().all(|row| row["per"] == "day America/Los_Angeles" && row["resets"].is_string()), "{shown:?}");
}

#[tokio::test]
async fn what_is_left_is_shown_to_scripts_metrics_and_the_api() {
    let (own, other) = (Upstream::saying(hi("own")).await, Upstream::saying(hi("other")).await);
    let script = "fn route(request, targets, context) {\n\
                  \x20   if targets[0].quota_left == 0 && targets[0].quota_resets_in < 7000 { return reject(500, \"too soon\"); }\n\
                  \x20   targets.filter(|t| t.quota_left > 0)\n}\n";
    let config = format!(
        "{}{}{}[[stages]]\nuse = \"scripts/left.rhai\"\n",
        own.provider("own", "openai_chat"),
        other.provider("other", "openai_chat"),
        alias(&[("own", &quota("requests = 1, per = \"2h\"")), ("other", "")])
    );
    let gateway = Gateway::with(&config, &[("scripts/left.rhai", script)]).await;
    assert_eq!(Openai.text(&ask(&gateway).await), "own");
    assert_eq!(Openai.text(&ask(&gateway).await), "other");
    let shown = rows(&gateway).await;
    assert_eq!(shown.len(), 1);
    let row = &shown[0];
    assert_eq!(
        (row["id"].as_str(), row["bound"].as_u64(), row["left"].as_u64(), row["open"].as_bool()),
        (Some("target:own/m/requests/2h"), Some(1), Some(0), Some(false)),
        "{row}"
    );
    let opens = row["opens_in"].as_u64().unwrap();
    assert!((2 * HOUR - 60..=2 * HOUR + 10).contains(&opens), "{row}");
    let host = gateway.admin.to_string();
    eventually("the gauges say so", async || {
        let text = request(gateway.admin, "GET", "/metrics", &[("host", &host)], b"").await.text();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line("portcullis_quota_left{").is_some_and(|line| line.contains("own/m") && line.ends_with(" 0"))
            && line("portcullis_quota{").is_some_and(|line| line.ends_with(" 1"))
    })
    .await;
}

fn kept(upstream: &Upstream, more: &str) -> String {
    format!(
        "[store]\nkind = \"sled\"\n{}{}",
        upstream.provider("own", "openai_chat"),
        alias(&[("own", &quota(&format!("requests = 20, per = \"7d\"{more}")))])
    )
}

async fn status(process: &Process) -> u16 {
    let body = Openai.body("all", false, "hi");
    let headers = [("content-type", "application/json")];
    request(process.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await.status
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let upstream = Upstream::saying(hi("own")).await;
    let mut process = Process::start(&kept(&upstream, ""), &[]).await;
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(status(&process).await, 200);
        }
        process.restart().await;
    }
    for _ in 0..8 {
        assert_eq!(status(&process).await, 200);
    }
    assert_eq!((status(&process).await, upstream.heard().len()), (429, 20), "all of it was used, and no more");
}

#[tokio::test]
async fn kill_9_never_gives_back_what_was_used() {
    let upstream = Upstream::saying(hi("own")).await;
    let mut process = Process::start(&kept(&upstream, ""), &[]).await;
    for _ in 0..3 {
        for _ in 0..3 {
            assert_eq!(status(&process).await, 200);
        }
        // One is under way.
        upstream.then(hi("late").wait(Duration::from_secs(60)));
        let before = upstream.heard().len();
        let late = tokio::spawn(request_late(process.addr));
        upstream.hears(before + 1).await;
        process.kill_and_restart().await;
        late.abort();
    }
    let mut went = 0;
    while status(&process).await == 200 {
        went += 1;
        assert!(went <= 20, "it has no end");
    }
    let heard = upstream.heard().len();
    assert!(heard <= 20, "{heard} of 20");
    // Each kill costs the block that was leased: a few requests.
    assert!(heard >= 12, "{heard} of 20: too much was given up");
}

async fn request_late(addr: std::net::SocketAddr) {
    let body = Openai.body("all", false, "late");
    // Its connection breaks off.
    let asking = tokio::net::TcpStream::connect(addr).await;
    let Ok(mut socket) = asking else { return };
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, head.as_bytes()).await;
    let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0; 1024]).await;
}

#[tokio::test]
async fn a_provider_that_said_to_wait_is_left_alone_after_a_restart_too() {
    let upstream = Upstream::saying(wait("7200")).await;
    let config =
        format!("[store]\nkind = \"sled\"\n{}{}", upstream.provider("own", "openai_chat"), alias(&[("own", "")]));
    let mut process = Process::start(&config, &[]).await;
    assert_eq!(status(&process).await, 429);
    process.restart().await;
    assert_eq!((status(&process).await, upstream.heard().len()), (429, 1));
}

#[tokio::test]
async fn a_time_that_nobody_should_believe_is_told_and_looked_at_again_within_the_hour() {
    let upstream = Upstream::saying(wait("99999999999")).await;
    let config = format!("{}{}", upstream.provider("own", "openai_chat"), alias(&[("own", "")]));
    let process = Process::start(&config, &[]).await;
    assert_eq!(status(&process).await, 429);
    let shown = process.admin("GET", "/api/v1/quotas", "").await.json();
    let opens = shown["data"][0]["opens_in"].as_u64().unwrap_or_else(|| panic!("{shown}"));
    assert!(opens > 3500 && opens <= 3600, "{shown}");
    eventually("it is told", async || process.log().contains("nobody should believe")).await;
}

#[tokio::test]
async fn an_edited_quota_keeps_what_was_used() {
    let upstream = Upstream::saying(hi("own")).await;
    let config = |requests: u64| {
        let quota = quota(&format!("requests = {requests}, per = \"7d\""));
        format!("{}{}", upstream.provider("own", "openai_chat"), alias(&[("own", &quota)]))
    };
    let gateway = Gateway::start(&config(5)).await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    gateway.rewrite(&config(4));
    eventually("the new bound is live", async || rows(&gateway).await[0]["bound"] == 4).await;
    assert_eq!((ask(&gateway).await.status, ask(&gateway).await.status), (200, 429));
    assert_eq!(upstream.heard().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_on_one_redis_cross_no_quota_together() {
    let Some(server) = Server::start(&[]) else { return };
    let (own, other) = (Upstream::saying(hi("own")).await, Upstream::saying(hi("other")).await);
    let config = format!(
        "{}{}{}",
        own.provider("own", "openai_chat"),
        other.provider("other", "openai_chat"),
        alias(&[("own", &quota("requests = 20, per = \"7d\"")), ("other", "")])
    );
    let open =
        format!("[auth]\nrequired = false\n{}", shared(&server, &config).replace("[auth]\nrequired = true\n", ""));
    let (a, b) = (one_of_many(&open).await, one_of_many(&open).await);
    let answers = join_all((0..60).map(|n| ask(if n % 2 == 0 { &a } else { &b }))).await;
    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "{:?}",
        answers.iter().map(|a| a.status).collect::<Vec<_>>()
    );
    assert_eq!((own.heard().len(), other.heard().len()), (20, 40));
    for gateway in [&a, &b] {
        eventually("both know it", async || rows(gateway).await.iter().any(|row| row["left"] == 0)).await;
    }
    // A third that comes later, and one that starts anew, know it as well.
    drop(a);
    let late = one_of_many(&open).await;
    assert_eq!(Openai.text(&ask(&late).await), "other");
    // What one is told all know.
    other.always(wait("7200"));
    assert_eq!(ask(&b).await.status, 429);
    let heard = other.heard().len();
    eventually("the other gateway knows", async || {
        rows(&late).await.iter().any(|row| row["scope"] == "target:other/m" && row["open"] == false)
    })
    .await;
    assert_eq!((ask(&late).await.status, other.heard().len()), (429, heard));
}

#[tokio::test]
async fn quotas_that_make_no_sense_are_told_at_their_line() {
    let upstream = Upstream::start().await;
    for (text, told) in [
        ("per = \"7d\"", "bounds nothing"),
        ("requests = 5", "per"),
        ("requests = 0, per = \"7d\"", "requests"),
        ("requests = 5, per = \"fortnight\"", "per"),
        ("requests = 5, per = \"500ms\"", "1s to 366d"),
        ("requests = 5, per = \"7d\", zone = \"Europe/Berlin\"", "a zone is for windows of the calendar"),
        ("requests = 5, per = \"day\", zone = \"Europe/Berlinn\"", "there is no zone"),
        ("requests = 5, per = \"day\", anchor = \"2026-01-05T09:00:00Z\"", "an anchor is for windows of a duration"),
        ("requests = 5, per = \"7d\", anchor = \"monday\"", "a moment such as"),
        ("usd = 0, per = \"day\"", "usd"),
    ] {
        let gateway = Gateway::start(&upstream.provider("own", "openai_chat")).await;
        let wrong = format!("{}{}", upstream.provider("own", "openai_chat"), alias(&[("own", &quota(text))]));
        gateway.rewrite(&wrong);
        let shown = gateway.admin("POST", "/api/v1/config/reload", "").await.text();
        assert!(shown.contains(told), "{text}: {shown}");
    }
}
