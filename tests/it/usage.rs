//! What requests cost: in the answer, the ledger, the sums and the metrics, each token once and all the same.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{End, Gateway, Say, Upstream, eventually};

const QUESTION: &str = r#"{"model":"up/m","messages":[{"role":"user","content":"hi"}]}"#;
const PRICES: &str = "[[pricing]]\nmodel = \"up/*\"\ninput = \"2\"\noutput = 3.5\ncache_read = 0.5\n";

fn answer(prompt: u64, cached: u64, completion: u64) -> Say {
    Say::json(
        json!({ "id": "x", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "a" }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
                "prompt_tokens_details": { "cached_tokens": cached } } })
        .to_string(),
    )
}

async fn priced(say: Say, more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&format!("{}{more}", upstream.provider("up", "openai_chat"))).await;
    (upstream, gateway)
}

async fn usage(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.admin("GET", &format!("/api/v1/usage{query}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].as_array().expect("rows").clone()
}

#[tokio::test]
async fn a_cost_stands_in_the_answer_the_record_the_sums_and_the_metrics() {
    let (_upstream, gateway) = priced(answer(1000, 400, 7), PRICES).await;
    // 600 × 2 + 400 × 0.5 + 7 × 3.5 microdollars.
    let asked = gateway.chat(QUESTION).await;
    assert_eq!(asked.header("x-portcullis-cost-usd"), Some("0.0014245"));
    let record = gateway.record(1).await;
    assert_eq!((record["cost_usd"].to_string(), &record["cost_unknown"]), ("0.0014245".into(), &json!(false)));
    let row = &record["ledger"][0];
    assert_eq!((row["target"].as_str(), row["outcome"].as_str()), (Some("up/m"), Some("ok")));
    assert_eq!(row["cost_usd"].to_string(), "0.0014245");
    gateway.chat(QUESTION).await;
    gateway.record(2).await;
    for (group, name) in [("team", None), ("model", Some("up/m")), ("target", Some("up/m")), ("provider", Some("up"))] {
        let rows = usage(&gateway, &format!("?group_by={group}")).await;
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row["cost_usd"].to_string(), row[group].as_str()), ("0.002849".into(), name), "{row}");
        assert_eq!((row["requests"].as_u64(), row["errors"].as_u64()), (Some(2), Some(0)));
        assert_eq!((row["input_tokens"].as_u64(), row["cache_read_tokens"].as_u64()), (Some(2000), Some(800)));
    }
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    let mine = |line: &&str| line.starts_with("portcullis_cost_usd_total{") && line.contains("provider=\"up\"");
    let sum: f64 = metrics.lines().filter(mine).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    // Other tests in this process count here too.
    assert!(sum >= 0.002849, "{metrics}");
}

#[tokio::test]
async fn a_model_without_a_price_costs_an_unknown_amount_not_nothing() {
    let (_upstream, gateway) = priced(answer(10, 0, 1), "").await;
    assert_eq!(gateway.chat(QUESTION).await.header("x-portcullis-cost-usd"), None);
    let record = gateway.record(1).await;
    assert_eq!((&record["cost_usd"], &record["cost_unknown"]), (&Value::Null, &json!(true)));
    let rows = usage(&gateway, "").await;
    assert_eq!((rows[0]["unknown_costs"].as_u64(), rows[0]["cost_usd"].to_string()), (Some(1), "0".into()));
    // The built-in provider is free, and says so.
    let mock = gateway.chat(&QUESTION.replace("up/m", "mock")).await;
    assert_eq!(mock.header("x-portcullis-cost-usd"), Some("0"));
}

#[tokio::test]
async fn an_attempt_is_a_row_and_a_request_is_charged_their_sum() {
    let sick = Upstream::saying(Say::error(429, r#"{"error":{"message":"slow down"}}"#)).await;
    let poor = Upstream::saying(answer(100, 0, 10)).await;
    let good = Upstream::saying(answer(200, 0, 20)).await;
    let script = "const STREAM = \"whole\";\nfn response(response, context) { if response.target == \"poor/m\" { return next(\"poor\"); } }";
    let list = ["sick", "poor", "good"].map(|p| format!("{{ provider = \"{p}\", model = \"m\" }}")).join(", ");
    let config = format!(
        "{}{}{}[models.best]\nretries = 0\ntargets = [{list}]\n[[pricing]]\nmodel = \"*/m\"\ninput = 1\noutput = 10\n",
        sick.provider("sick", "openai_chat"),
        poor.provider("poor", "openai_chat"),
        good.provider("good", "openai_chat")
    );
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    let asked = gateway.chat(&QUESTION.replace("up/m", "best")).await;
    assert_eq!(asked.header("x-portcullis-cost-usd"), Some("0.0006"), "{}", asked.text());
    let record = gateway.record(1).await;
    let rows = record["ledger"].as_array().expect("rows");
    let told: Vec<_> = rows.iter().map(|r| (r["target"].as_str().unwrap(), r["cost_usd"].to_string())).collect();
    let expected = [("sick/m", "0"), ("poor/m", "0.0002"), ("good/m", "0.0004")].map(|(t, c)| (t, c.to_owned()));
    assert_eq!(told, expected, "{record}");
    assert_eq!(record["usage"]["input_tokens"], 300);
    let rows = usage(&gateway, "?group_by=provider").await;
    let told: Vec<_> =
        rows.iter().map(|r| (r["provider"].as_str().unwrap(), r["cost_usd"].to_string(), &r["requests"])).collect();
    assert_eq!(
        told,
        [("good", "0.0004".into(), &json!(1)), ("poor", "0.0002".into(), &json!(0)), ("sick", "0".into(), &json!(0))]
    );
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_is_charged_for_what_arrived() {
    let frame = |kind: &str, data: Value| format!("event: {kind}\ndata: {data}\n\n");
    let start = json!({ "type": "message_start", "message": { "id": "x", "type": "message", "role": "assistant", "model": "m",
        "content": [], "stop_reason": null, "usage": { "input_tokens": 1000, "output_tokens": 1 } } });
    let block = json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } });
    let delta = json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "word" } });
    let all = [frame("message_start", start), frame("content_block_start", block), frame("content_block_delta", delta)];
    let upstream = Upstream::saying(Say::sse(all.concat()).end(End::Stall)).await;
    let gateway = Gateway::start(&format!("{}{PRICES}", upstream.provider("up", "anthropic_messages"))).await;
    let body = r#"{"model":"up/m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let mut socket = crate::support::begin(gateway.addr, "POST", "/v1/messages", &[], body.as_bytes()).await;
    let mut seen = Vec::new();
    eventually("text arrives", async || {
        let mut piece = [0; 4096];
        let read =
            tokio::time::timeout(Duration::from_millis(200), tokio::io::AsyncReadExt::read(&mut socket, &mut piece));
        if let Ok(Ok(n)) = read.await {
            seen.extend_from_slice(&piece[..n]);
        }
        String::from_utf8_lossy(&seen).contains("word")
    })
    .await;
    drop(socket);
    upstream.is_cancelled(1).await;
    let record = gateway.record(1).await;
    let row = &record["ledger"][0];
    assert_eq!((&record["status"], row["outcome"].as_str()), (&json!(499), Some("client_gone")), "{record}");
    let cost: f64 = row["cost_usd"].to_string().parse().expect("a cost");
    assert!(cost >= 1000.0 * 2e-6, "{record}");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_leaves_a_row_with_its_prompt() {
    let (upstream, gateway) = priced(answer(1, 0, 1).wait(Duration::from_secs(60)), PRICES).await;
    let socket = crate::support::begin(gateway.addr, "POST", "/v1/chat/completions", &[], QUESTION.as_bytes()).await;
    upstream.hears(1).await;
    drop(socket);
    let record = gateway.record(1).await;
    let row = &record["ledger"][0];
    assert_eq!((row["outcome"].as_str(), &row["estimated"]), (Some("client_gone"), &Value::Bool(true)), "{record}");
    assert!(row["usage"]["input_tokens"].as_u64() > Some(0) && row["usage"]["output_tokens"] == 0, "{record}");
    assert_eq!(record["cost_unknown"], false);
}

#[tokio::test]
async fn a_script_sees_price_and_cost() {
    let upstream = Upstream::saying(answer(1000, 0, 0)).await;
    let script = "fn route(request, targets, context) { context.note(`${targets[0].price_input} ${targets[0].price_output}`); }\n\
                  fn log(record, context) { record.tags.cost = `${record.cost_usd}`; }";
    let config = format!("{}{PRICES}", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    gateway.chat(QUESTION).await;
    let record = gateway.record(1).await;
    assert_eq!(record["tags"]["cost"], "0.002");
    assert!(record["trace"].to_string().contains("2.0 3.5"), "{}", record["trace"]);
}

#[tokio::test]
async fn usage_wants_a_group_and_times_that_exist() {
    let gateway = Gateway::start("").await;
    for (query, words) in [
        ("?group_by=colour", "team, user, key, model, target, provider, tag, minute"),
        ("?from=yesterday", "2026-01-31"),
        ("?from=2026-01-02&to=2026-01-01", "later than"),
    ] {
        let answer = gateway.admin("GET", &format!("/api/v1/usage{query}"), "").await;
        assert!(answer.status == 400 && answer.text().contains(words), "{query}: {}", answer.text());
    }
    gateway.chat(&QUESTION.replace("up/m", "mock")).await;
    gateway.record(1).await;
    let rows = usage(&gateway, "?group_by=day").await;
    assert_eq!((rows.len(), rows[0]["day"].as_str().map(str::len)), (1, Some(10)), "{rows:?}");
    assert!(usage(&gateway, "?to=2026-01-02").await.is_empty());
}

#[tokio::test]
async fn lists_of_requests_say_which_parameter_is_wrong_and_what_it_takes() {
    let gateway = Gateway::start("").await;
    let backwards = "from=2026-11-29&to=2026-11-01";
    for (path, param, words) in [
        ("requests?status=abc".to_owned(), "status", "a number such as 429"),
        ("requests?status=70000".to_owned(), "status", "a number such as 429"),
        ("requests?cursor=abc".to_owned(), "cursor", "pass a cursor on as it came"),
        ("models?cursor=abc".to_owned(), "cursor", "pass a cursor on as it came"),
        (format!("requests?{backwards}"), "from", "it is later than `to`"),
        (format!("requests/export?{backwards}"), "from", "it is later than `to`"),
        (format!("experiments?{backwards}"), "from", "it is later than `to`"),
        (format!("audit?{backwards}"), "from", "it is later than `to`"),
    ] {
        let answer = gateway.admin("GET", &format!("/api/v1/{path}"), "").await;
        let error = &answer.json()["error"];
        assert!(answer.status == 400 && error["param"] == param, "{path}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{path}: {error}");
    }
    // A time that has not come yet is nothing wrong.
    assert_eq!(gateway.admin("GET", "/api/v1/requests?from=2999-01-01", "").await.status, 200);
}

/// By the name that the caller gave it, with a budget to copy.
#[tokio::test]
async fn a_budget_that_is_not_right_is_told_by_the_name_that_the_caller_gave_it() {
    let gateway = Gateway::start("").await;
    let example = r#"{"usd": 5, "per": "month"}"#;
    for (budget, param, words) in [
        (r#""budget":{"usd":5}"#, "budget.per", example),
        (r#""budget":{"per":"day"}"#, "budget.usd", example),
        (r#""budget":"50/month""#, "budget", example),
        (r#""budget":50"#, "budget", example),
        (r#""budget":[{"usd":5}]"#, "budget[0].per", example),
        (r#""budgets":[{"usd":5}]"#, "budgets[0].per", example),
        (r#""budgets":"50/month""#, "budgets", example),
        (r#""budget":{"usd":5,"per":"year"}"#, "budget.per", "month"),
    ] {
        let answer = gateway.admin("POST", "/api/v1/keys", &format!(r#"{{"name":"k",{budget}}}"#)).await;
        let error = &answer.json()["error"];
        assert!(answer.status == 400 && error["param"] == param, "{budget}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{budget}: {error}");
    }
}

#[tokio::test]
async fn what_a_guard_refuses_costs_what_was_used_until_then() {
    let upstream = Upstream::saying(answer(100, 0, 10)).await;
    let script = "const STREAM = \"whole\";\n\
                  fn request(request, context) { if request.model == \"up/asked\" { return reject(400, \"not that\"); } }\n\
                  fn response(response, context) { if response.target == \"up/answered\" { return reject(400, \"nor that\"); } }";
    let config = format!("{}{PRICES}", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    // Before it was sent: a request and an error, and nothing to pay.
    assert_eq!(gateway.chat(&QUESTION.replace("up/m", "up/asked")).await.status, 400);
    let record = gateway.record(1).await;
    assert_eq!(
        (record["cost_usd"].to_string(), record["ledger"].as_array().map(Vec::len)),
        ("0".into(), Some(0)),
        "{record}"
    );
    assert!(upstream.heard().is_empty());
    // After it was answered: the provider was paid, whoever got nothing.
    assert_eq!(gateway.chat(&QUESTION.replace("up/m", "up/answered")).await.status, 400);
    let record = gateway.record(2).await;
    let rows = record["ledger"].as_array().expect("rows");
    assert_eq!((rows.len(), rows[0]["cost_usd"].to_string()), (1, "0.000235".into()), "{record}");
    let sums = usage(&gateway, "?group_by=provider").await;
    let told: Vec<_> = sums
        .iter()
        .map(|r| (r["provider"].as_str(), &r["requests"], &r["errors"], r["cost_usd"].to_string()))
        .collect();
    assert_eq!(told, [(None, &json!(1), &json!(1), "0".into()), (Some("up"), &json!(1), &json!(1), "0.000235".into())]);
}

#[tokio::test]
async fn a_retry_is_a_row_of_its_own_and_the_request_is_charged_once() {
    let upstream = Upstream::saying(answer(100, 0, 10)).await;
    upstream.then(Say::error(503, r#"{"error":{"message":"later"}}"#));
    let config = format!(
        "{}{PRICES}[models.one]\nretries = 1\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let asked = gateway.chat(&QUESTION.replace("up/m", "one")).await;
    assert_eq!((asked.status, asked.header("x-portcullis-cost-usd")), (200, Some("0.000235")));
    let record = gateway.record(1).await;
    let told: Vec<_> = record["ledger"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|r| (r["number"].to_string(), r["cost_usd"].to_string()))
        .collect();
    assert_eq!(told, [("1".into(), "0".into()), ("2".into(), "0.000235".into())], "{record}");
    let sums = usage(&gateway, "").await;
    assert_eq!(
        (&sums[0]["requests"], &sums[0]["attempts"], sums[0]["cost_usd"].to_string()),
        (&json!(1), &json!(2), "0.000235".into())
    );
}
