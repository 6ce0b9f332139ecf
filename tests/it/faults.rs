//! `builtin/fault`: what a drill does to attempts, who may ask for one, and that nobody else feels it.

use std::time::{Duration, Instant};

use crate::{
    family::{Anthropic, Openai},
    support::{Answer, Gateway, Say, Upstream},
};

async fn house(a: &Upstream, b: &Upstream, stage: &str) -> Gateway {
    Gateway::start(&format!(
        "{}{}[models.m]\nretries = 0\ntargets = [{{ provider = \"a\", model = \"m\" }}, {{ provider = \"b\", model = \"m\" }}]\n{stage}",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat")
    ))
    .await
}

fn stage(config: &str) -> String {
    format!("[[stages]]\nuse = \"builtin/fault\"\nconfig = {{ {config} }}\n")
}

async fn asking(gateway: &Gateway, fault: &str, stream: bool) -> Answer {
    let body = Openai.body("m", stream, "hello");
    gateway.post_with("/v1/chat/completions", &[("x-portcullis-fault", fault)], &body).await
}

async fn upstreams() -> (Upstream, Upstream) {
    (Upstream::saying(Say::json(Openai.whole("x"))).await, Upstream::saying(Say::json(Openai.whole("y"))).await)
}

#[tokio::test]
async fn a_failed_attempt_goes_on_at_the_next_target_and_hurts_nobody_else() {
    let (a, b) = upstreams().await;
    let drill = stage("header = true, targets = [\"a/*\"], faults = [{ percent = 100, status = 503 }]");
    let gateway = house(&a, &b, &drill).await;
    for _ in 0..8 {
        let answer = gateway.chat(&Openai.body("m", false, "hello")).await;
        assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("b/m")), "{}", answer.text());
    }
    assert!(a.heard().is_empty(), "nothing was sent there");
    let models = gateway.admin("GET", "/api/v1/models", "").await.json();
    let health = models["data"][0]["health"].to_string();
    assert!(!health.contains("\"open\""), "no breaker was told: {health}");
    let record = gateway.record(8).await;
    assert!(record.to_string().contains("a/m is made to fail: status 503"), "{record}");
}

#[tokio::test]
async fn a_caller_asks_for_a_fault_where_that_is_allowed_and_nowhere_else() {
    let (a, b) = upstreams().await;
    let gateway = house(&a, &b, &stage("header = true")).await;
    let refused = asking(&gateway, "status=429, retry_after=7s", false).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("7")), "{}", refused.text());
    let first_only = asking(&gateway, "status=500, attempts=1", false).await;
    assert_eq!(first_only.status, 200, "{}", first_only.text());
    let wrong = asking(&gateway, "explode=1", false).await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    assert!(Openai.error(&wrong).message.contains("there are delay"), "{}", wrong.text());
    let began = Instant::now();
    assert_eq!(asking(&gateway, "delay=300ms", false).await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(gateway.chat(&Openai.body("m", false, "hello")).await.status, 200);

    let silent = house(&a, &b, &stage("faults = [{ percent = 0.000001, status = 503 }]")).await;
    assert_eq!(asking(&silent, "status=429", false).await.status, 200, "the header says nothing here");
}

#[tokio::test]
async fn a_stream_that_is_cut_ends_as_a_dead_upstreams_does() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    // Each in a piece of its own: until something was sent on another target would be tried.
    let frames = Openai.frames(&["one ", "two ", "three "]);
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    a.always(Say::frames(&frames, Duration::from_millis(100)));
    let gateway = house(&a, &b, &stage("header = true")).await;
    let cut = asking(&gateway, "cut=2", true).await;
    let text = cut.text();
    assert_eq!(cut.status, 200);
    assert!(text.contains("one ") && text.contains("two ") && !text.contains("three "), "{text}");
    assert!(!text.contains("[DONE]") && text.contains("upstream_disconnected"), "{text}");
    let whole = asking(&gateway, "drip=20ms", true).await;
    assert!(whole.text().contains("three ") && whole.text().contains("[DONE]"), "{}", whole.text());
    // Another format hears the same in its own words.
    let body = Anthropic.body("m", true, "hello");
    let cut = gateway.post_with("/v1/messages", &[("x-portcullis-fault", "cut=1")], &body).await;
    assert!(cut.text().contains("one ") && cut.text().contains("event: error"), "{}", cut.text());
    assert!(!cut.text().contains("message_stop"), "{}", cut.text());
}

#[tokio::test]
async fn a_drill_that_makes_no_sense_is_told_at_its_line() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!("{}{}", upstream.provider("a", "openai_chat"), stage("faults = [{ percent = 5 }]"));
    std::fs::write(dir.path().join("gateway.toml"), config).expect("written");
    let refused = portcullis::cli::serve::Running::start(&dir.path().join("gateway.toml")).await;
    let told = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("gateway.toml") && told.contains("one of delay, status, cut, drip"), "{told}");
}
