//! Hedging: a second target beside one that takes its time. Who has output first is heard, the other is cancelled within a second
//! and accounted; budgets hold both, and nothing is asked twice that leaves something behind.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Family, Openai},
    support::{Answer, Gateway, Say, Upstream, begin, eventually},
};

const SOON: &str = "hedge = { after = \"100ms\" }\n";
/// Longer than any test takes: what says so is never heard.
const LATE: Duration = Duration::from_secs(40);

fn says(family: Family, stream: bool, text: &str) -> Say {
    if stream { Say::sse(family.frames(&[text]).concat()) } else { Say::json(family.whole(text)) }
}

/// Upstreams `a` and `b` behind the alias `both`.
async fn pair(family: Family, says: [Say; 2], more: &str) -> ([Upstream; 2], Gateway) {
    let [a, b] = says;
    let (a, b) = (Upstream::saying(a).await, Upstream::saying(b).await);
    let targets = "targets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]";
    let config = format!(
        "{}{}[models.both]\n{targets}\nretries = 0\n{more}",
        a.provider("a", family.format()),
        b.provider("b", family.format())
    );
    let gateway = Gateway::start(&config).await;
    ([a, b], gateway)
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|u| u.heard().len()).collect()
}

async fn explained(gateway: &Gateway, family: Family, stream: bool) -> (Answer, String) {
    let headers = [("content-type", "application/json"), ("x-portcullis-explain", "1")];
    let answer = gateway.post_with(&family.path("both", stream), &headers, &family.body("both", stream, "x")).await;
    let trace = answer.header("x-portcullis-explain").unwrap_or_default().to_owned();
    (answer, trace)
}

async fn ledger(gateway: &Gateway, count: usize) -> Vec<Value> {
    let record = gateway.record(count).await;
    let id = record["id"].as_str().expect("an id").to_owned();
    let whole = gateway.admin("GET", &format!("/api/v1/requests/{id}"), "").await.json();
    let rows = whole["ledger"].as_array().or(record["ledger"].as_array()).cloned();
    rows.unwrap_or_else(|| panic!("rows: {whole}"))
}

#[tokio::test]
async fn a_second_target_is_heard_when_the_first_keeps_silent_and_the_first_is_cancelled() {
    let round = async |family: Family, stream: bool| {
        let (upstreams, gateway) =
            pair(family, [says(family, stream, "late").wait(LATE), says(family, stream, "soon")], SOON).await;
        let began = Instant::now();
        let (answer, trace) = explained(&gateway, family, stream).await;
        assert_eq!((answer.status, family.text(&answer).as_str()), (200, "soon"), "{}", answer.text());
        assert!(began.elapsed() >= Duration::from_millis(100), "not before its time");
        assert_eq!(answer.header("x-portcullis-target"), Some("b/m"));
        assert_eq!(answer.header("x-portcullis-attempts"), Some("2"));
        assert_eq!(counts(&upstreams), [1, 1]);
        upstreams[0].is_cancelled(1).await;
        assert!(trace.contains("b/m is asked beside") && trace.contains("b/m was first"), "{trace}");
        let rows = ledger(&gateway, 1).await;
        let told: Vec<_> = rows.iter().map(|row| (row["target"].as_str(), row["outcome"].as_str())).collect();
        assert_eq!(told, [(Some("a/m"), Some("hedged")), (Some("b/m"), Some("ok"))], "{rows:?}");
        assert!(rows[0].to_string().contains("input_tokens"), "its prompt counts as used: {}", rows[0]);
    };
    for family in FAMILIES {
        tokio::join!(round(family, false), round(family, true));
    }
}

#[tokio::test]
async fn who_answers_in_time_is_asked_alone() {
    let slow = "hedge = { after = \"20s\" }\n";
    for family in FAMILIES {
        let (upstreams, gateway) = pair(family, [says(family, true, "one"), says(family, true, "two")], slow).await;
        assert_eq!(family.text(&family.ask(&gateway, "both", true).await), "one");
        assert_eq!(counts(&upstreams), [1, 0]);
    }
}

#[tokio::test]
async fn the_first_may_still_win_and_the_second_is_the_loser() {
    let first = says(Openai, true, "first").wait(Duration::from_millis(600));
    let (upstreams, gateway) = pair(Openai, [first, says(Openai, true, "second").wait(LATE)], SOON).await;
    let (answer, _) = explained(&gateway, Openai, true).await;
    assert_eq!((answer.status, Openai.text(&answer).as_str()), (200, "first"), "{}", answer.text());
    assert_eq!(answer.header("x-portcullis-target"), Some("a/m"));
    upstreams[1].is_cancelled(1).await;
    let rows = ledger(&gateway, 1).await;
    let told: Vec<_> = rows.iter().map(|row| (row["number"].as_u64(), row["outcome"].as_str())).collect();
    assert_eq!(told, [(Some(2), Some("hedged")), (Some(1), Some("ok"))], "{rows:?}");
}

#[tokio::test]
async fn output_decides_and_not_the_head() {
    // The first one's head is there at once, and then nothing.
    let frames = Openai.frames(&["late"]);
    let mut head = Say::frames(&[frames[0].as_str(), frames[1].as_str()], Duration::ZERO);
    head.chunks[1].0 = LATE;
    let (upstreams, gateway) = pair(Openai, [head, says(Openai, true, "soon")], SOON).await;
    let answer = Openai.ask(&gateway, "both", true).await;
    assert_eq!((Openai.text(&answer).as_str(), Openai.terminals(&answer)), ("soon", 1), "{}", answer.text());
    upstreams[0].is_cancelled(1).await;
}

#[tokio::test]
async fn a_second_target_that_fails_leaves_the_first_to_answer() {
    let first = says(Openai, false, "first").wait(Duration::from_millis(700));
    let (upstreams, gateway) = pair(Openai, [first, Say::error(500, "{}")], SOON).await;
    let answer = Openai.ask(&gateway, "both", false).await;
    assert_eq!((answer.status, Openai.text(&answer).as_str()), (200, "first"), "{}", answer.text());
    assert_eq!(counts(&upstreams), [1, 1]);
    let rows = ledger(&gateway, 1).await;
    let told: Vec<_> = rows.iter().map(|row| (row["target"].as_str(), row["outcome"].as_str())).collect();
    assert_eq!(told, [(Some("b/m"), Some("upstream_failed")), (Some("a/m"), Some("ok"))]);
}

#[tokio::test]
async fn a_first_target_that_fails_later_leaves_the_second_to_answer() {
    let first = Say::error(500, "{}").wait(Duration::from_millis(400));
    let second = says(Openai, true, "second").wait(Duration::from_millis(900));
    let (upstreams, gateway) = pair(Openai, [first, second], SOON).await;
    let answer = Openai.ask(&gateway, "both", true).await;
    assert_eq!((answer.status, Openai.text(&answer).as_str()), (200, "second"), "{}", answer.text());
    assert_eq!(counts(&upstreams), [1, 1]);
}

#[tokio::test]
async fn when_both_fail_each_was_asked_once() {
    let fails = Say::error(500, "{}").wait(Duration::from_millis(400));
    let (upstreams, gateway) = pair(Openai, [fails.clone(), fails], SOON).await;
    let answer = Openai.ask(&gateway, "both", false).await;
    assert_eq!((answer.status, answer.header("x-portcullis-attempts")), (502, Some("2")), "{}", answer.text());
    assert_eq!(counts(&upstreams), [1, 1]);
    assert_eq!(ledger(&gateway, 1).await.len(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_during_the_race_cancels_both() {
    let (upstreams, gateway) =
        pair(Openai, [says(Openai, true, "a").wait(LATE), says(Openai, true, "b").wait(LATE)], SOON).await;
    let body = Openai.body("both", true, "x");
    let socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    upstreams[1].hears(1).await;
    drop(socket);
    upstreams[0].is_cancelled(1).await;
    upstreams[1].is_cancelled(1).await;
    let rows = ledger(&gateway, 1).await;
    assert!(rows.len() == 2 && rows.iter().all(|row| row["outcome"] == "client_gone"), "{rows:?}");
    eventually("nothing is in flight", async || {
        !gateway.admin("GET", "/api/v1/models", "").await.text().contains("\"in_flight\":1")
    })
    .await;
}

#[tokio::test]
async fn stages_see_each_attempt_and_may_pass_the_second_over() {
    let script = r#"fn attempt(target, request, context) { context.note("sees " + target.name + " " + context.attempt); if target.name == "b/m" && request.temperature == 1.5 { return skip(); } }"#;
    let (a, b) = (
        Upstream::saying(says(Openai, false, "a").wait(Duration::from_millis(600))).await,
        Upstream::saying(says(Openai, false, "b")).await,
    );
    let targets = "targets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]";
    let config =
        format!("{}{}[models.both]\n{targets}\n{SOON}", a.provider("a", "openai_chat"), b.provider("b", "openai_chat"));
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    let ask = async |temperature: f64| {
        let body = json!({"model": "both", "temperature": temperature, "messages": [{"role": "user", "content": "x"}]});
        let headers = [("content-type", "application/json"), ("x-portcullis-explain", "1")];
        let answer = gateway.post_with("/v1/chat/completions", &headers, &body.to_string()).await;
        (Openai.text(&answer), answer.header("x-portcullis-explain").unwrap_or_default().to_owned())
    };
    let (text, trace) = ask(0.5).await;
    assert!(text == "b" && trace.contains("sees a/m 1") && trace.contains("sees b/m 2"), "{text}: {trace}");
    assert_eq!(ask(1.5).await.0, "a", "a stage skipped the second one");
}

#[tokio::test]
async fn the_retry_budget_bounds_hedges() {
    // Of a new target five retries are lent; every call here would be hedged.
    let first = says(Openai, false, "first").wait(Duration::from_millis(250));
    let (upstreams, gateway) = pair(Openai, [first, says(Openai, false, "second")], SOON).await;
    let asking = (0..40).map(|_| Openai.ask(&gateway, "both", false));
    let answers = futures_util::future::join_all(asking).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let hedges = upstreams[1].heard().len();
    assert!((1..=10).contains(&hedges), "{hedges} hedges of 40 calls");
}

#[tokio::test]
async fn a_percentile_hedges_nothing_before_it_is_known() {
    let (upstreams, gateway) =
        pair(Openai, [says(Openai, false, "a"), says(Openai, false, "b")], "hedge = { after = \"p95\" }\n").await;
    upstreams[0].then(says(Openai, false, "slow").wait(Duration::from_millis(500)));
    assert_eq!(Openai.text(&Openai.ask(&gateway, "both", false).await), "slow");
    for _ in 0..30 {
        Openai.ask(&gateway, "both", false).await;
    }
    let before = upstreams[1].heard().len();
    upstreams[0].always(says(Openai, false, "never").wait(LATE));
    assert_eq!(Openai.text(&Openai.ask(&gateway, "both", false).await), "b");
    assert!(upstreams[1].heard().len() > before);
}

#[tokio::test]
async fn a_budget_holds_both_or_the_second_is_not_asked() {
    let price = "[[pricing]]\nmodel = \"*/m\"\ninput = 0\noutput = 10\n";
    // One answer of 1000 tokens may cost a cent; there is room for one and a half.
    let team = "[teams.small]\nbudget = { usd = 0.015, per = \"total\" }\n";
    let first = says(Openai, false, "first").wait(Duration::from_millis(700));
    let auth = "[auth]\nrequired = true\n";
    let (upstreams, gateway) =
        pair(Openai, [first, says(Openai, false, "second")], &format!("{SOON}{price}{team}{auth}")).await;
    let (_, key) = gateway.key(r#"{"name": "k", "team": "small"}"#).await;
    let body = json!({"model": "both", "max_tokens": 1000, "messages": [{"role": "user", "content": "x"}]}).to_string();
    let bearer = format!("Bearer {key}");
    let headers =
        [("content-type", "application/json"), ("authorization", bearer.as_str()), ("x-portcullis-explain", "1")];
    let answer = gateway.post_with("/v1/chat/completions", &headers, &body).await;
    assert_eq!((answer.status, Openai.text(&answer).as_str()), (200, "first"), "{}", answer.text());
    assert_eq!(counts(&upstreams), [1, 0], "money for both is not there");
    assert!(answer.header("x-portcullis-explain").unwrap_or_default().contains("budget_exceeded"));
}

#[tokio::test]
async fn what_leaves_something_behind_is_not_hedged() {
    let slow = says(Openai, false, "first").wait(Duration::from_millis(600));
    let (upstreams, gateway) = pair(Openai, [slow, says(Openai, false, "second")], SOON).await;
    // A tool that the provider runs may act.
    let body = r#"{"model":"both","messages":[{"role":"user","content":"x"}],"tools":[{"type":"mcp","server_label":"s","server_url":"https://x.example"}]}"#;
    let answer = gateway.chat(body).await;
    assert_eq!(upstreams[1].heard().len(), 0, "{} {}", answer.status, answer.text());
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nboth\r\n--b\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\ncontent-type: image/png\r\n\r\nx\r\n--b--\r\n";
    let headers = [("content-type", "multipart/form-data; boundary=b")];
    gateway.post_with("/v1/images/edits", &headers, form).await;
    assert_eq!(upstreams[1].heard().len(), 0, "pictures are not hedged");
}

/// What `explain` says of a race that has not begun, and what an explained request says of its own.
#[tokio::test]
async fn an_explained_request_says_whether_and_when_another_target_would_be_asked() {
    let told = async |says: [Say; 2], more: &str, body: &str| {
        let (_upstreams, gateway) = pair(Openai, says, more).await;
        let asked = format!("{{\"request\":{body}}}");
        let dry = gateway.admin("POST", "/api/v1/explain", &asked).await.json()["notes"].to_string();
        let (_, ran) = explained(&gateway, Openai, false).await;
        (dry, ran)
    };
    let both = || [says(Openai, false, "a"), says(Openai, false, "b")];
    let plain = Openai.body("both", false, "x");
    let (dry, ran) = told(both(), "hedge = { after = \"20s\" }\n", &plain).await;
    for text in [&dry, &ran] {
        assert!(text.contains("b/m would be asked too if a/m gives no output within 20000 ms"), "{text}");
    }
    let (dry, ran) = told(both(), "hedge = { after = \"p95\" }\n", &plain).await;
    for text in [&dry, &ran] {
        assert!(text.contains("nobody would be asked beside a/m: how long it usually takes is not known"), "{text}");
    }
    let bound = "hedge = { after = \"20s\" }\n[providers.a.limits]\nrequests_per_minute = 100\n";
    let (dry, _) = told(both(), bound, &plain).await;
    assert!(dry.contains("nobody would be asked beside a/m: its provider has limits"), "{dry}");
    let (dry, _) = told(both(), "", &plain).await;
    assert!(!dry.contains("hedge"), "{dry}");
}
