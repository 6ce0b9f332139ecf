//! Retries on the same target (promise 33): for what, how long after, how many, and never an avalanche; and the breaker
//! that ends them.

use std::{collections::HashSet, time::Duration};

use futures_util::StreamExt;

use crate::{
    family::{FAMILIES, Gemini, Openai},
    support::{Answer, End, Gateway, Process, Say, Upstream, begin, request},
};

fn well(stream: bool) -> Say {
    if stream { Say::sse(Openai.frames(&["fine"]).concat()) } else { Say::json(Openai.whole("fine")) }
}

fn failing() -> Say {
    Say::error(500, "{}")
}

fn limited(wait: &str) -> Say {
    Say::error(429, "{}").header("retry-after", wait)
}

/// One upstream, `a`, that always says this.
async fn lone(say: Say) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&upstream.provider("a", "openai_chat")).await;
    (upstream, gateway)
}

/// Two upstreams behind the alias `both`.
async fn pair(says: [Say; 2], more: &str) -> ([Upstream; 2], Gateway) {
    let [a, b] = says;
    let (a, b) = (Upstream::saying(a).await, Upstream::saying(b).await);
    let config = format!(
        "{}{}[models.both]\ntargets = [{{ provider = \"a\", model = \"m\" }}, {{ provider = \"b\", model = \"m\" }}]\n{more}",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    ([a, b], gateway)
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|u| u.heard().len()).collect()
}

async fn ask(gateway: &Gateway, model: &str) -> Answer {
    Openai.ask(gateway, model, false).await
}

#[tokio::test]
async fn the_only_target_is_asked_once_more_after_a_failure_that_may_pass() {
    for status in [500, 502, 503, 504, 529] {
        let round = async |stream: bool| {
            for family in FAMILIES {
                let (upstream, gateway) = lone(well(stream)).await;
                upstream.then(Say::error(status, "{}"));
                let answer = family.ask(&gateway, "a/m", stream).await;
                assert_eq!((answer.status, family.text(&answer).as_str()), (200, "fine"), "{status} {family:?}");
                assert_eq!(answer.header("x-portcullis-attempts"), Some("2"));
                assert_eq!(upstream.heard().len(), 2);
            }
        };
        tokio::join!(round(false), round(true));
    }
}

#[tokio::test]
async fn an_error_as_the_first_event_of_a_stream_is_tried_again() {
    let (upstream, gateway) = lone(well(true)).await;
    upstream.then(Say::sse("data: {\"error\":{\"message\":\"x\",\"type\":\"server_error\",\"code\":503}}\n\n"));
    for family in FAMILIES {
        let answer = family.ask(&gateway, "a/m", true).await;
        assert_eq!((answer.status, family.text(&answer).as_str()), (200, "fine"), "{}", answer.text());
    }
    assert_eq!(upstream.heard().len(), 4);
}

#[tokio::test]
async fn a_connection_that_is_refused_is_tried_again() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("addr");
    let dead = format!("[providers.a]\nbase_url = \"http://{gone}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n");
    let gateway = Gateway::start(&dead).await;
    let answer = ask(&gateway, "a/m").await;
    assert_eq!((answer.status, answer.header("x-portcullis-attempts")), (502, Some("2")));
    assert_eq!(Openai.error(&answer).code, "connection_refused");
}

#[tokio::test]
async fn what_a_second_try_cannot_help_is_tried_once() {
    let once = [
        Say::error(400, &Openai.error_body(400, "no")),
        Say::error(404, "{}"),
        Say::error(413, "{}"),
        Say::error(401, "{}"),
        Say::error(403, "{}"),
        // Nobody knows how long it lasts, or longer than a caller is kept waiting.
        Say::error(429, "{}"),
        limited("11"),
        Say::error(503, "{}").header("retry-after", "60"),
        Say::error(429, "{\"error\":{\"message\":\"pay\",\"code\":\"insufficient_quota\"}}").header("retry-after", "1"),
        // It may have done its work, and be paid for it.
        Say::json("{\"id\":").end(End::Cut),
        Say::of(200, "text/html", b"<html>".to_vec()),
        Say::error(302, "").header("location", "http://127.0.0.1:1/"),
    ];
    for (at, say) in once.into_iter().enumerate() {
        let (upstream, gateway) = lone(say).await;
        let answer = ask(&gateway, "a/m").await;
        assert!(answer.status >= 400 && upstream.heard().len() == 1, "{at}: {}", answer.text());
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{at}");
    }
}

#[tokio::test]
async fn a_stream_that_broke_after_output_is_not_begun_again() {
    let [lead, piece, ..] = &Openai.frames(&["half"])[..] else { panic!("frames") };
    let (upstream, gateway) = lone(Say::frames(&[lead, piece], Duration::ZERO).end(End::Cut)).await;
    let answer = Openai.ask(&gateway, "a/m", true).await;
    assert_eq!((answer.status, Openai.stream_errors(&answer).len()), (200, 1), "{}", answer.text());
    assert_eq!(upstream.heard().len(), 1);
}

#[tokio::test]
async fn retry_after_is_obeyed_and_kept_when_it_is_all_there_is_to_say() {
    for family in FAMILIES {
        let (upstream, gateway) = lone(well(false)).await;
        upstream.then(limited("1"));
        let began = std::time::Instant::now();
        let answer = family.ask(&gateway, "a/m", false).await;
        assert_eq!((answer.status, upstream.heard().len()), (200, 2), "{}", answer.text());
        assert!(began.elapsed() >= Duration::from_secs(1), "asked again before its time");
        upstream.always(limited("30"));
        let answer = family.ask(&gateway, "a/m", false).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("30")));
        assert_eq!(answer.header("x-should-retry"), Some("false"), "the gateway has tried");
    }
}

#[tokio::test]
async fn a_wait_that_does_not_fit_into_the_deadline_is_not_waited() {
    let upstream = Upstream::saying(limited("9")).await;
    let timeouts = "timeouts = { whole = \"5s\" }\n";
    let gateway = Gateway::start(&format!("{}{timeouts}", upstream.provider("a", "openai_chat"))).await;
    let answer = ask(&gateway, "a/m").await;
    assert_eq!((answer.status, answer.header("retry-after"), upstream.heard().len()), (429, Some("9"), 1));
}

#[tokio::test]
async fn another_target_goes_before_the_same_one_again() {
    let (upstreams, gateway) = pair([failing(), well(false)], "").await;
    assert_eq!(Openai.text(&ask(&gateway, "both").await), "fine");
    assert_eq!(counts(&upstreams), [1, 1]);
    let (upstreams, gateway) = pair([failing(), failing()], "").await;
    let answer = ask(&gateway, "both").await;
    assert_eq!((answer.status, answer.header("x-portcullis-attempts")), (502, Some("3")));
    assert_eq!(counts(&upstreams), [1, 2], "only the last one is asked again");
}

#[tokio::test]
async fn where_the_others_rest_the_first_is_the_last() {
    let (upstreams, gateway) = pair([well(false), failing()], "").await;
    for _ in 0..3 {
        ask(&gateway, "b/m").await;
    }
    let heard = upstreams[1].heard().len();
    upstreams[0].then(failing());
    assert_eq!(Openai.text(&ask(&gateway, "both").await), "fine");
    assert_eq!(counts(&upstreams), [2, heard]);
}

#[tokio::test]
async fn a_model_says_how_often_its_targets_are_asked_again() {
    let (upstreams, gateway) = pair([failing(), well(false)], "retries = 2\n").await;
    let answer = ask(&gateway, "both").await;
    assert_eq!((Openai.text(&answer).as_str(), answer.header("x-portcullis-attempts")), ("fine", Some("4")));
    assert_eq!(counts(&upstreams), [3, 1]);
    let (upstreams, gateway) = pair([failing(), failing()], "retries = 3\n").await;
    assert_eq!(ask(&gateway, "both").await.header("x-portcullis-attempts"), Some("4"), "four attempts in all");
    assert_eq!(counts(&upstreams), [4, 0]);
    let (upstreams, gateway) = pair([failing(), failing()], "retries = 0\n").await;
    assert_eq!(ask(&gateway, "both").await.header("x-portcullis-attempts"), Some("2"));
    assert_eq!(counts(&upstreams), [1, 1]);
}

#[tokio::test]
async fn counts_and_vectors_are_tried_again_too() {
    let upstream = Upstream::saying(Say::json("{\"totalTokens\":7}")).await;
    upstream.then(failing());
    let gateway = Gateway::start(&upstream.provider("a", "gemini")).await;
    let answer = gateway.post("/v1beta/models/a/m:countTokens", &Gemini.body("", false, "x")).await;
    assert_eq!((answer.status, upstream.heard().len()), (200, 2), "{}", answer.text());
    let vector = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}"#;
    let (upstream, gateway) = lone(Say::json(vector)).await;
    upstream.then(failing());
    let answer = gateway.post("/v1/embeddings", r#"{"model":"a/m","input":"x"}"#).await;
    assert_eq!((answer.status, upstream.heard().len()), (200, 2), "{}", answer.text());
}

#[tokio::test]
async fn a_stage_sees_every_attempt() {
    let upstream = Upstream::saying(well(false)).await;
    upstream.then(failing());
    let script = "fn attempt(target, request, context) { context.note(\"attempt \" + context.attempt); request.temperature = 0.5; }";
    let gateway = Gateway::with(&upstream.provider("a", "openai_chat"), &[("scripts/a.rhai", script)]).await;
    assert_eq!(ask(&gateway, "a/m").await.status, 200);
    let record = gateway.record(1).await.to_string();
    assert!(record.contains("attempt 1") && record.contains("attempt 2"), "{record}");
    assert!(upstream.heard().iter().all(|h| h.json()["temperature"] == 0.5));
}

#[tokio::test]
async fn waits_are_scattered() {
    let (_upstream, gateway) = lone(failing()).await;
    let headers = [("content-type", "application/json"), ("x-portcullis-explain", "1")];
    let body = Openai.body("a/m", false, "x");
    let asking = (0..4).map(|_| gateway.post_with("/v1/chat/completions", &headers, &body));
    let answers = futures_util::future::join_all(asking).await;
    let waits: Vec<u64> = answers
        .iter()
        .filter_map(|a| a.header("x-portcullis-explain")?.split(" again in ").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    assert!(waits.len() == 4 && waits.iter().all(|w| *w < 500), "{waits:?}");
    // Of four draws among 500, three alike come once in a quarter of a million runs.
    assert!(waits.iter().collect::<HashSet<_>>().len() >= 3, "{waits:?}");
}

/// Asks this often, so many at a time.
async fn storm(gateway: &Gateway, model: &str, requests: usize) -> Vec<Answer> {
    futures_util::stream::iter(0..requests).map(|_| ask(gateway, model)).buffer_unordered(32).collect().await
}

#[tokio::test]
async fn retries_add_at_most_a_fifth_to_the_calls_of_a_target_that_always_fails() {
    // A quota says nothing of the target's health: here no breaker helps, the budget alone does.
    let (upstream, gateway) = lone(limited("0")).await;
    let answers = storm(&gateway, "a/m", 1000).await;
    assert!(answers.iter().all(|a| a.status == 429 && a.header("x-should-retry") == Some("false")));
    let calls = upstream.heard().len();
    assert!((1150..=1200).contains(&calls), "1,000 first attempts, {calls} calls");
}

#[tokio::test]
async fn a_target_that_is_down_is_left_in_peace() {
    let (upstream, gateway) = lone(failing()).await;
    let began = std::time::Instant::now();
    let answers = storm(&gateway, "a/m", 1000).await;
    let (told, shed) = answers.iter().partition::<Vec<_>, _>(|a| a.status == 502);
    assert_eq!(told.len() + shed.len(), 1000);
    assert!(shed.iter().all(|a| a.status == 503 && a.header("retry-after").is_some()));
    let calls = upstream.heard().len();
    // Five failures open the breaker; 31 others were on their way, and one a second looks whether it is well again.
    let looks = began.elapsed().as_secs() as usize;
    assert!(calls <= 5 + 31 + looks, "{calls} calls, {looks} s");
}

#[tokio::test]
async fn a_client_that_leaves_during_the_wait_ends_it() {
    for stream in [false, true] {
        let (upstream, gateway) = lone(limited("9")).await;
        let body = Openai.body("a/m", stream, "x");
        let socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        upstream.hears(1).await;
        drop(socket);
        // Long before the nine seconds are over.
        let record = gateway.record(1).await;
        assert_eq!((&record["status"], &record["attempts"]), (&499.into(), &1.into()), "{record}");
        let models = gateway.admin("GET", "/api/v1/models", "").await.text();
        assert!(!models.contains("\"in_flight\":1"), "{models}");
        assert_eq!(upstream.heard().len(), 1);
    }
}

// the breaker

#[tokio::test]
async fn who_rests_is_shown() {
    let upstream = Upstream::saying(failing()).await;
    let alias = "[models.all]\ntargets = [{ provider = \"a\", model = \"m\" }]\n";
    let gateway = Process::start(&format!("{}{alias}", upstream.provider("a", "openai_chat")), &[]).await;
    let host = gateway.admin.to_string();
    let shown = async |path: &str| request(gateway.admin, "GET", path, &[("host", &host)], b"").await;
    let circuit = async || shown("/api/v1/models").await.json()["data"][0]["health"][0].clone();
    let well = circuit().await;
    assert_eq!((&well["target"], &well["circuit"]), (&"a/m".into(), &"closed".into()));
    for _ in 0..3 {
        let body = Openai.body("all", false, "x");
        request(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    }
    let ill = circuit().await;
    assert!(ill["circuit"] == "open" && ill["retry_in_ms"].as_u64().is_some_and(|ms| ms <= 10_000), "{ill}");
    let providers = shown("/api/v1/providers").await.json();
    let row = providers["data"].as_array().expect("rows").iter().find(|p| p["name"] == "a").expect("a").clone();
    assert_eq!(row["ejected"][0]["target"], "a/m", "{row}");
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("portcullis_circuit_state{model=\"m\",provider=\"a\"} 2"), "{metrics}");
}

#[tokio::test]
async fn a_target_that_fails_every_other_time_rests_too() {
    let upstream = Upstream::saying(well(false)).await;
    let alias = "[models.all]\ntargets = [{ provider = \"a\", model = \"m\" }]\nretries = 0\n";
    let gateway = Gateway::start(&format!("{}{alias}", upstream.provider("a", "openai_chat"))).await;
    for _ in 0..20 {
        upstream.then(failing()).then(well(false));
    }
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(ask(&gateway, "all").await.status);
    }
    assert!((19..=22).contains(&upstream.heard().len()), "{answers:?}");
    assert_eq!(answers.last(), Some(&503));
}

#[tokio::test]
async fn after_its_rest_one_request_goes_ahead_of_a_crowd() {
    if std::env::var("PORTCULLIS_LONG").as_deref() != Ok("1") {
        return;
    }
    let (upstream, gateway) = lone(failing()).await;
    for _ in 0..3 {
        ask(&gateway, "a/m").await;
    }
    assert_eq!(ask(&gateway, "a/m").await.status, 503);
    let before = upstream.heard().len();
    upstream.always(failing().wait(Duration::from_millis(500)));
    let open = async || gateway.admin("GET", "/api/v1/providers", "").await.text().contains("\"open\"");
    assert!(open().await);
    let over = async {
        while open().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over).await.expect("its rest is over");
    let answers = storm(&gateway, "a/m", 32).await;
    assert_eq!(answers.iter().filter(|a| a.status == 502).count(), 1);
    assert_eq!(upstream.heard().len(), before + 1, "one probe");
}
