//! Stages that fail: what `on_error` makes of it in every phase, and what becomes of one that fails too often. Also what their
//! calls cost, in metrics and in `server-timing`.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Say, Upstream, eventually};

/// Fails on `bad` in the phase that the name says.
fn script(phase: &str) -> String {
    let head = match phase {
        "route" => "fn route(request, targets, context)",
        "attempt" => "fn attempt(target, request, context)",
        "event" => "fn event(event, context)",
        "response" => "const STREAM = \"whole\";\nfn response(response, context)",
        "error" => "fn error(error, context)",
        "log" => "fn log(record, context)",
        _ => "fn request(request, context)",
    };
    let note = "fn mark(context) { context.vars.bad }\n";
    match phase {
        "request" => format!("{head} {{ if request.last_user_text.contains(\"bad\") {{ throw \"bad\"; }} }}"),
        _ => format!(
            "fn request(request, context) {{ context.vars.bad = request.last_user_text.contains(\"bad\"); }}\n{note}{head} {{ if mark(context) {{ throw \"bad\"; }} }}"
        ),
    }
}

fn config(more: &str) -> String {
    format!("[[stages]]\nuse = \"scripts/flaky.rhai\"\n{more}\n")
}

async fn ask(gateway: &Gateway, text: &str, stream: bool) -> Answer {
    let body = json!({"model": "mock", "stream": stream, "messages": [{"role": "user", "content": text}]});
    gateway.chat(&body.to_string()).await
}

async fn stage(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/api/v1/config/status", "").await.json()["running"]["stages"][0].clone()
}

async fn record_of(gateway: &Gateway, answer: &Answer) -> Value {
    let path = format!("/api/v1/requests/{}", answer.header("x-request-id").expect("an id"));
    let mut record = Value::Null;
    eventually("the request is settled", async || {
        let found = gateway.admin("GET", &path, "").await;
        if found.status == 200 {
            record = found.json();
        }
        found.status == 200
    })
    .await;
    record
}

#[tokio::test]
async fn a_failure_in_any_phase_is_what_on_error_says() {
    for phase in ["request", "route", "attempt", "event", "response", "log"] {
        for (on_error, status) in [("reject", 500), ("skip", 200)] {
            let config = config(&format!("on_error = \"{on_error}\""));
            let gateway = Gateway::with(&config, &[("scripts/flaky.rhai", &script(phase))]).await;
            for stream in [false, true] {
                assert_eq!(ask(&gateway, "good", stream).await.status, 200, "{phase} {on_error}");
                let answer = ask(&gateway, "bad", stream).await;
                // After the answer there is nothing left to refuse.
                let status = if phase == "log" { 200 } else { status };
                assert_eq!(answer.status, status, "{phase} {on_error} {stream}: {}", answer.text());
                if status == 500 {
                    assert!(answer.text().contains("stage_failed"), "{}", answer.text());
                }
                let record = record_of(&gateway, &answer).await;
                let failed = record["trace"].as_array().expect("a trace").iter().find(|s| s["verdict"] == "failed");
                let failed = failed.unwrap_or_else(|| panic!("{phase} {on_error}: {record}"));
                assert_eq!(failed["phase"], *phase, "{record}");
                assert!(failed["reason"].as_str().is_some_and(|why| why.contains("scripts/flaky.rhai:")), "{record}");
            }
        }
    }
}

#[tokio::test]
async fn a_failure_in_the_error_phase_leaves_the_error_as_it_was() {
    let upstream =
        Upstream::saying(Say::error(400, r#"{"error":{"message":"no","type":"invalid_request_error"}}"#)).await;
    for on_error in ["reject", "skip"] {
        let config =
            format!("{}{}", upstream.provider("up", "openai_chat"), config(&format!("on_error = \"{on_error}\"")));
        let gateway = Gateway::with(&config, &[("scripts/flaky.rhai", &script("error"))]).await;
        let body = json!({"model": "up/m", "messages": [{"role": "user", "content": "bad"}]});
        let answer = gateway.chat(&body.to_string()).await;
        assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (400, Some("no")), "{}", answer.text());
    }
}

const SOON: &str = "park = { failures = 3, lasting = \"0s\", rest = \"1s\" }";
const LATE: &str = "park = { failures = 3, lasting = \"0s\", rest = \"5m\" }";

#[tokio::test]
async fn a_stage_that_fails_too_often_rests_and_one_good_request_brings_it_back() {
    let gateway = Gateway::with(&config(SOON), &[("scripts/flaky.rhai", &script("request"))]).await;
    for _ in 0..3 {
        let answer = ask(&gateway, "bad", false).await;
        assert_eq!(answer.json()["error"]["code"], "stage_failed", "{}", answer.text());
    }
    let refused = ask(&gateway, "good", false).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "stage_parked");
    assert!(refused.text().contains("scripts/flaky.rhai"), "{}", refused.text());
    eventually("a probe goes well", async || ask(&gateway, "good", false).await.status == 200).await;
    assert!(stage(&gateway).await["parked"].is_null());
    assert_eq!(ask(&gateway, "bad", false).await.json()["error"]["code"], "stage_failed", "it counts anew");
}

#[tokio::test]
async fn a_parked_stage_is_told_everywhere_and_a_new_file_begins_anew() {
    let gateway = Gateway::with(&config(LATE), &[("scripts/flaky.rhai", &script("request"))]).await;
    for _ in 0..3 {
        ask(&gateway, "bad", false).await;
    }
    let parked = stage(&gateway).await["parked"].clone();
    assert!(parked["retry_in_ms"].as_u64().is_some_and(|ms| ms > 60_000), "{parked}");
    let ready = gateway.get("/health/ready").await;
    assert_eq!((ready.status, &ready.json()["parked"]), (200, &json!(["scripts/flaky.rhai"])));
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    assert!(metrics.contains("portcullis_stage_parked{stage=\"scripts/flaky.rhai\"} 1"), "{metrics}");
    let body = json!({"request": {"model": "mock", "messages": [{"role": "user", "content": "good"}]}});
    let told = gateway.admin("POST", "/api/v1/explain", &body.to_string()).await.json();
    assert_eq!(
        (&told["code"], &told["parked"][0]["stage"]),
        (&json!("stage_parked"), &json!("scripts/flaky.rhai")),
        "{told}"
    );
    // A reload that leaves it as it is changes nothing.
    gateway.rewrite(&format!("{}[models.other]\ntargets = [{{ provider = \"mock\", model = \"m\" }}]\n", config(LATE)));
    eventually("the change is live", async || {
        gateway.admin("GET", "/api/v1/models", "").await.text().contains("\"other\"")
    })
    .await;
    assert_eq!(ask(&gateway, "good", false).await.status, 503);
    gateway.write("scripts/flaky.rhai", &format!("// mended\n{}", script("request")));
    eventually("the new version runs", async || ask(&gateway, "good", false).await.status == 200).await;
    assert!(gateway.get("/health/ready").await.json()["parked"].as_array().is_some_and(Vec::is_empty));
}

#[tokio::test]
async fn one_that_may_be_skipped_is_and_the_record_says_so() {
    let config = config(&format!("on_error = \"skip\"\n{LATE}"));
    let gateway = Gateway::with(&config, &[("scripts/flaky.rhai", &script("request"))]).await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "bad", false).await.status, 200);
    }
    let answer = ask(&gateway, "bad", false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = record_of(&gateway, &answer).await;
    let steps = record["trace"].as_array().expect("a trace");
    assert!(steps.iter().any(|s| s["step"] == "parked" && s["stage"] == "scripts/flaky.rhai"), "{record}");
    assert!(!steps.iter().any(|s| s["step"] == "stage"), "it was not called: {record}");
}

#[tokio::test]
async fn a_burst_of_failures_parks_nothing_and_neither_does_a_callers_own_fault() {
    let gateway = Gateway::with("", &[("scripts/flaky.rhai", &script("request"))]).await;
    for _ in 0..60 {
        assert_eq!(ask(&gateway, "bad", false).await.status, 500);
    }
    assert_eq!(ask(&gateway, "good", false).await.status, 200);
    let gateway = Gateway::with(&config(LATE), &[("scripts/flaky.rhai", &script("request"))]).await;
    for _ in 0..5 {
        // Its messages cannot be read when the script looks at them.
        assert_eq!(gateway.chat(r#"{"model": "mock", "messages": 3}"#).await.status, 400);
    }
    assert_eq!(ask(&gateway, "good", false).await.status, 200);
}

#[tokio::test]
async fn calls_are_measured_and_slow_stages_named() {
    let busy = "fn request(request, context) { let n = 0; for i in 0..20000 { n += i; } }";
    let upstream = Upstream::saying(Say::json(crate::family::Openai.whole("x"))).await;
    let stage = |slow: &str| {
        format!(
            "{}[[stages]]\nuse = \"scripts/measured.rhai\"\nslow = \"{slow}\"\n",
            upstream.provider("up", "openai_chat")
        )
    };
    let gateway = Gateway::with(&stage("0s"), &[("scripts/measured.rhai", busy)]).await;
    let body = json!({"model": "up/m", "messages": [{"role": "user", "content": "x"}]}).to_string();
    let answer = gateway.chat(&body).await;
    let timing = answer.header("server-timing").expect("a timing").to_owned();
    assert!(timing.starts_with("gateway;dur=") && timing.contains(", upstream;dur="), "{timing}");
    let (_, slow) = timing.split_once(", stage;dur=").unwrap_or_else(|| panic!("{timing}"));
    assert!(
        slow.ends_with(";desc=\"scripts/measured.rhai\"")
            && slow.split(';').next().is_some_and(|ms| ms.parse::<f64>().is_ok()),
        "{timing}"
    );
    let record = record_of(&gateway, &answer).await;
    let step =
        record["trace"].as_array().expect("a trace").iter().find(|s| s["step"] == "stage").cloned().unwrap_or_default();
    assert_eq!((&step["slow"], &step["line"]), (&json!(true), &json!(1)), "{record}");
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    for name in ["portcullis_stage_duration_seconds_count", "portcullis_stage_operations_count"] {
        let line = format!("{name}{{stage=\"scripts/measured.rhai\",phase=\"request\"}}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    let gateway = Gateway::with(&stage("1h"), &[("scripts/measured.rhai", busy)]).await;
    let answer = gateway.chat(&body).await;
    assert!(!answer.header("server-timing").expect("a timing").contains("stage"), "nothing is that slow");
}

#[tokio::test]
async fn what_the_configuration_says_of_parking_is_checked() {
    let wrong = config("park = { failures = 3, rest = \"0s\" }");
    let gateway = Gateway::with("", &[("scripts/flaky.rhai", &script("request"))]).await;
    gateway.rewrite(&wrong);
    eventually("it is refused", async || {
        let status = gateway.admin("GET", "/api/v1/config/status", "").await.json();
        status["refused"]["errors"][0]["message"].as_str().is_some_and(|m| m.contains("park.rest"))
    })
    .await;
}
