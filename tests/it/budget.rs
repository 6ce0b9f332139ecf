//! Promises 2, 6, 7, 8 and 12, from outside: a budget is a hard bound, every end of a request leaves it right, and a killed
//! gateway leaks nothing.

use std::time::Duration;

use portcullis::{endpoint::TABLE, model::Operation};
use serde_json::Value;

use crate::{
    auth::{CONVERSATIONS, refusal, walk},
    family::{FAMILIES, Family, Openai},
    state::Disk,
    support::{Answer, End, Gateway, Process, Say, Upstream, begin, eventually, read_until, request},
};

const CLOSED: &str = "[auth]\nrequired = true\n";
/// A dollar a request, tokens free.
const A_DOLLAR: &str = "[[pricing]]\nmodel = \"up/*\"\nrequest = 1\n";
/// A tenth of a cent a token, in and out.
const BY_TOKEN: &str = "[[pricing]]\nmodel = \"up/*\"\ninput = 1000\noutput = 1000\n";

fn research(budget: &str) -> String {
    format!("{CLOSED}[teams.research]\nbudget = {{ {budget} }}\n")
}

async fn house(config: &str) -> (Gateway, String) {
    let gateway = Gateway::start(config).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
    (gateway, key)
}

async fn send(gateway: &Gateway, key: &str, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    gateway.post_with(path, &[("authorization", bearer.as_str())], body).await
}

async fn ask(gateway: &Gateway, family: Family, key: &str, model: &str) -> Answer {
    send(gateway, key, &family.path(model, false), &family.body(model, false, "hello")).await
}

async fn budget(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/api/v1/teams", "").await.json()["data"][0]["budget"].clone()
}

fn usd(budget: &Value, field: &str) -> f64 {
    budget[field].as_f64().unwrap_or_else(|| panic!("no {field}: {budget}"))
}

/// Waits until nothing is held any more.
async fn settled(gateway: &Gateway) -> Value {
    let mut last = Value::Null;
    eventually("every reservation is settled", async || {
        last = budget(gateway).await;
        usd(&last, "reserved_usd") == 0.0
    })
    .await;
    last
}

#[tokio::test]
async fn every_route_that_may_cost_money_refuses_an_empty_budget() {
    // The mock is free, and what is free passes: here it has a price.
    let priced = "[[pricing]]\nmodel = \"mock/*\"\nrequest = 1\n";
    let (gateway, key) = house(&format!("{priced}{}", research("usd = 0, per = \"day\""))).await;
    for row in TABLE {
        let answer = walk(&gateway, row, "mock", Some(&key)).await;
        if !row.operation.spends() {
            // What is about a batch finds none: it could not be paid for.
            let none = matches!(row.operation, Operation::OneBatch | Operation::CancelBatch | Operation::Stored);
            if none && row.path != CONVERSATIONS {
                assert_eq!(answer.status, 404, "{} {}", row.method, row.path);
                continue;
            }
            assert_eq!(answer.status, 200, "{} {}", row.method, row.path);
            continue;
        }
        if row.operation == Operation::Stored {
            assert_eq!(answer.status, 404, "{} {}", row.method, row.path);
            continue;
        }
        let error = refusal(row, &answer);
        assert_eq!((answer.status, error.code.as_str()), (429, "budget_exceeded"), "{} {}", row.method, row.path);
        assert!(error.message.contains("team `research`"), "{error:?}");
        let wait: u64 = answer.header("retry-after").expect("when it starts anew").parse().unwrap();
        // A day that ends in a moment is worth waiting for.
        let again = answer.header("x-should-retry").is_none();
        assert!((1..=86_400).contains(&wait) && again == (wait <= 60), "{wait} s");
    }
}

#[tokio::test]
async fn a_spent_budget_refuses_what_costs_and_lets_through_what_is_known_to_be_free() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "{}{}[[pricing]]\nmodel = \"up/paid\"\nrequest = 1\n[[pricing]]\nmodel = \"up/free\"\ninput = 0\noutput = 0\n\
         [models.cheap]\ntargets = [{{ provider = \"up\", model = \"paid\" }}]\nfailover = [\"up/free\"]\n",
        research("usd = 1, per = \"total\""),
        upstream.provider("up", "openai_chat")
    );
    let (gateway, key) = house(&config).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/paid").await.status, 200);
    assert_eq!(usd(&settled(&gateway).await, "left_usd"), 0.0);
    for family in FAMILIES {
        let answer = ask(&gateway, family, &key, "up/paid").await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (429, "budget_exceeded"));
        // Nobody knows what this one costs.
        assert_eq!(ask(&gateway, family, &key, "up/unknown").await.status, 429);
        assert_eq!(ask(&gateway, family, &key, "up/free").await.status, 200);
        assert_eq!(ask(&gateway, family, &key, "mock").await.status, 200);
        let answer = ask(&gateway, family, &key, "cheap").await;
        assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("up/free")));
    }
    let budget = settled(&gateway).await;
    assert_eq!((usd(&budget, "spent_usd"), usd(&budget, "left_usd")), (1.0, 0.0));
}

#[tokio::test]
async fn of_500_at_once_on_a_budget_for_10_at_most_10_reach_the_upstream() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 100 } else { 6 };
    for round in 0..rounds {
        let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_millis(20))).await;
        let config =
            format!("{}{A_DOLLAR}{}", research("usd = 10, per = \"total\""), upstream.provider("up", "openai_chat"));
        let (gateway, key) = house(&config).await;
        let asked = (0..500).map(|_| async { ask(&gateway, Openai, &key, "up/m").await.status });
        let statuses = futures_util::future::join_all(asked).await;
        let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
        assert_eq!((count(200), count(429), upstream.heard().len()), (10, 490, 10), "round {round}");
        let budget = settled(&gateway).await;
        assert_eq!((usd(&budget, "spent_usd"), usd(&budget, "left_usd")), (10.0, 0.0));
        let answer = ask(&gateway, Openai, &key, "up/m").await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, None), "waiting would not help");
    }
    println!("{rounds} rounds of 500 calls on a budget for 10: 10 reached the upstream in each");
}

#[tokio::test]
async fn every_end_of_a_request_leaves_the_counter_right() {
    let upstream = Upstream::start().await;
    let config =
        format!("{}{BY_TOKEN}{}", research("usd = 1000, per = \"month\""), upstream.provider("up", "openai_chat"));
    let (gateway, key) = house(&config).await;
    let frames = Openai.frames(&["a", "b"]);
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    let mut costs = 0.0;
    // What an answer used is five tokens; what failed before it answered cost nothing.
    for (say, cost) in [
        (Say::json(Openai.whole("x")), Some(0.005)),
        (Say::error(400, "{}"), Some(0.0)),
        (Say::error(500, "{}"), Some(0.0)),
        // These were taken, and what came was no answer: the prompt counts.
        (Say::json("no answer at all"), None),
        (Say::json("").end(End::Cut), None),
        (Say::frames(&frames, Duration::ZERO), None),
        (Say::frames(&frames[..3], Duration::ZERO).end(End::Cut), None),
    ] {
        upstream.always(say.clone());
        // Targets that failed rest: each case has one of its own.
        let model = format!("up/m{}", upstream.heard().len());
        for stream in [false, true] {
            send(&gateway, &key, "/v1/chat/completions", &Openai.body(&model, stream, "hello")).await;
            let now = usd(&settled(&gateway).await, "spent_usd");
            match cost {
                Some(cost) => assert!((now - costs - cost).abs() < 1e-9, "{say:?}: {now} after {costs}"),
                None if stream => assert!(now > costs, "{say:?}: what came was paid"),
                None => {}
            }
            costs = now;
        }
    }
    for body in ["{", "{}", r#"{"model":"nobody"}"#, r#"{"model":"up/m","messages":7}"#] {
        assert!((400..=404).contains(&send(&gateway, &key, "/v1/chat/completions", body).await.status), "{body}");
    }
    // A client that left while it waited: the prompt was sent, and upstreams count it.
    upstream.always(Say::json(Openai.whole("x")).wait(Duration::from_secs(60)));
    let bearer = format!("Bearer {key}");
    let body = Openai.body("up/last", false, "hello");
    let heard = upstream.heard().len();
    let headers = [("authorization", bearer.as_str())];
    let waiting = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
    upstream.hears(heard + 1).await;
    assert!(usd(&budget(&gateway).await, "reserved_usd") > 8.0, "the most that it may cost is held");
    drop(waiting);
    let now = usd(&settled(&gateway).await, "spent_usd") - costs;
    assert!(now > 0.0 && now < 0.1, "{now}");
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_is_charged_for_what_came() {
    for family in FAMILIES {
        let mut pieces = vec!["four tokens of text "; 30];
        pieces[20] = "and this is the last";
        let frames = family.frames(&pieces);
        let frames: Vec<&str> = frames[..family.lead() + 21].iter().map(String::as_str).collect();
        let upstream = Upstream::saying(Say::frames(&frames, Duration::ZERO).end(End::Stall)).await;
        let format = family.format();
        let config = format!("{}{BY_TOKEN}{}", research("usd = 1000, per = \"week\""), upstream.provider("up", format));
        let (gateway, key) = house(&config).await;
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let body = family.body("up/m", true, "hello");
        let mut socket = begin(gateway.addr, "POST", &family.path("up/m", true), &headers, body.as_bytes()).await;
        read_until(&mut socket, "is the last").await;
        drop(socket);
        let spent = usd(&settled(&gateway).await, "spent_usd");
        assert!((0.1..0.15).contains(&spent), "{family:?}: {spent}");
        let record = gateway.record(1).await;
        assert_eq!(record["ledger"][0]["estimated"], Value::Bool(true), "{record}");
        assert!((record["cost_usd"].as_f64().unwrap() - spent).abs() < 1e-9, "{record}");
    }
}

/// Not what an attempt without a price costs, and not what the upstream said at its beginning.
#[tokio::test]
async fn an_attempt_that_another_one_follows_costs_its_prompt_and_what_came_by_its_own_price() {
    for family in FAMILIES {
        let frames = family.frames(&["four tokens of text "; 30]);
        let frames: Vec<&str> = frames[..family.lead() + 21].iter().map(String::as_str).collect();
        let cut = Say::frames(&frames, Duration::ZERO).end(End::Cut);
        let page = Say::of(200, "text/html", b"<html></html>".to_vec());
        let empty = Say::frames(&[], Duration::ZERO).end(End::Cut);
        let refused = Say::of(503, "application/json", b"{}".to_vec());
        let other = Upstream::saying(Say::json(family.whole("x"))).await;
        let upstream = Upstream::saying(page.clone()).await;
        let format = family.format();
        let config = format!(
            "{}{BY_TOKEN}{}{}[[pricing]]\nmodel = \"other/*\"\ninput = 0\noutput = 0\n\
             [models.both]\ntargets = [{{ provider = \"up\", model = \"m\" }}, {{ provider = \"other\", model = \"m\" }}]\n",
            research("usd = 1000, per = \"week\""),
            upstream.provider("up", format),
            other.provider("other", format)
        );
        // A stage that wants the whole answer: nothing of the first one reaches the client.
        let whole = "const STREAM = \"whole\"; fn response(response, context) { }";
        let gateway = Gateway::with(&config, &[("scripts/whole.rhai", whole)]).await;
        let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
        let mut spent = 0.0;
        for (n, (say, stream, costs)) in [
            (cut, true, 0.08..0.12),
            (page, false, 0.0005..0.02),
            (empty, true, 0.0005..0.02),
            (refused, false, -1.0..0.0005),
        ]
        .into_iter()
        .enumerate()
        {
            upstream.always(say);
            let answer =
                send(&gateway, &key, &family.path("both", stream), &family.body("both", stream, "hello")).await;
            assert_eq!(
                (answer.status, answer.header("x-portcullis-target")),
                (200, Some("other/m")),
                "{}",
                answer.text()
            );
            let record = gateway.record(n + 1).await;
            let (first, cost) = (&record["ledger"][0], record["ledger"][0]["cost_usd"].as_f64().expect("it is known"));
            assert!(costs.contains(&cost), "{family:?} {n}: {record}");
            assert_eq!(first["estimated"] == true, cost > 0.0, "{record}");
            assert!(record["cost_unknown"] != true && record["cost_usd"].as_f64() == Some(cost), "{record}");
            spent += cost;
        }
        let budget = usd(&settled(&gateway).await, "spent_usd");
        assert!((budget - spent).abs() < 1e-9, "{budget} and {spent}");
    }
}

#[tokio::test]
async fn what_is_too_dear_gives_way_to_what_is_left_enough_for() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let prices = "[[pricing]]\nmodel = \"up/dear\"\nrequest = 5\n[[pricing]]\nmodel = \"up/cheap\"\nrequest = 1\n";
    let targets = "[models.both]\ntargets = [{ provider = \"up\", model = \"dear\" }, { provider = \"up\", model = \"cheap\" }]\n";
    let config =
        format!("{}{prices}{targets}{}", research("usd = 7, per = \"total\""), upstream.provider("up", "openai_chat"));
    let (gateway, key) = house(&config).await;
    for target in ["up/dear", "up/cheap", "up/cheap"] {
        let answer = ask(&gateway, Openai, &key, "both").await;
        assert_eq!(answer.header("x-portcullis-target"), Some(target), "{}", answer.text());
        settled(&gateway).await;
    }
    assert_eq!(Openai.error(&ask(&gateway, Openai, &key, "both").await).code, "budget_exceeded");
    assert_eq!(upstream.heard().len(), 3);
}

#[tokio::test]
async fn a_failover_that_the_budget_does_not_hold_is_not_made() {
    let upstream = Upstream::saying(Say::error(500, "{}")).await;
    let prices = "[[pricing]]\nmodel = \"up/cheap\"\nrequest = 1\n[[pricing]]\nmodel = \"up/dear\"\nrequest = 5\n";
    let targets = "[models.both]\ntargets = [{ provider = \"up\", model = \"cheap\" }, { provider = \"up\", model = \"dear\" }]\n";
    let config =
        format!("{}{prices}{targets}{}", research("usd = 4, per = \"total\""), upstream.provider("up", "openai_chat"));
    let (gateway, key) = house(&config).await;
    let answer = ask(&gateway, Openai, &key, "both").await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(upstream.heard().iter().all(|heard| heard.json()["model"] == "cheap"));
    assert_eq!(usd(&settled(&gateway).await, "spent_usd"), 0.0, "an error costs nothing");
}

#[tokio::test]
async fn who_names_no_length_gets_what_still_fits_and_is_told() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config =
        format!("{}{BY_TOKEN}{}", research("usd = 2, per = \"total\""), upstream.provider("up", "openai_chat"));
    let (gateway, key) = house(&config).await;
    let answer = ask(&gateway, Openai, &key, "up/m").await;
    let told: u64 = answer.header("x-portcullis-max-tokens").expect("told").parse().unwrap();
    assert!((1_900..2_000).contains(&told), "two dollars, a tenth of a cent a token: {told}");
    let heard = upstream.last().json();
    let sent = heard.get("max_completion_tokens").or(heard.get("max_tokens")).and_then(Value::as_u64);
    assert_eq!(sent, Some(told), "{heard}");
    let trace = gateway.record(1).await["trace"].to_string();
    assert!(trace.contains("max_tokens was set"), "{trace}");
    // Who names one gets it, or is refused.
    let named =
        |tokens: u64| Openai.body("up/m", false, "hello").replacen('{', &format!("{{\"max_tokens\":{tokens},"), 1);
    let path = "/v1/chat/completions";
    assert_eq!(send(&gateway, &key, path, &named(100_000)).await.status, 429);
    let answer = send(&gateway, &key, path, &named(1_000)).await;
    assert_eq!((answer.status, answer.header("x-portcullis-max-tokens")), (200, None));
    // Several answers cost several times as much, and a bound that is written twice bounds nothing.
    let many = named(1_000).replacen('{', "{\"n\":3,", 1);
    assert_eq!(send(&gateway, &key, path, &many).await.status, 429);
    let twice = named(100_000).replacen('{', "{\"max_tokens\":10,", 1);
    let answer = send(&gateway, &key, path, &twice).await;
    assert!(answer.status != 200 || answer.header("x-portcullis-max-tokens").is_some(), "{}", answer.text());
}

#[tokio::test]
async fn a_model_without_a_price_counts_as_the_stated_default() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "{}{}",
        research("usd = 0.5, per = \"total\", unpriced_usd = \"0.25\""),
        upstream.provider("up", "openai_chat")
    );
    let (gateway, key) = house(&config).await;
    for spent in [0.25, 0.5] {
        assert_eq!(ask(&gateway, Openai, &key, "up/nobody-knows").await.status, 200);
        assert_eq!(usd(&settled(&gateway).await, "spent_usd"), spent);
    }
    assert_eq!(ask(&gateway, Openai, &key, "up/nobody-knows").await.status, 429);
}

#[tokio::test]
async fn a_key_that_is_revoked_in_mid_flight_is_settled_all_the_same() {
    let frames = Openai.frames(&["a", "b", "c"]);
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    let upstream = Upstream::saying(Say::frames(&frames, Duration::from_millis(100))).await;
    let config =
        format!("{}{A_DOLLAR}{}", research("usd = 10, per = \"month\""), upstream.provider("up", "openai_chat"));
    let gateway = Gateway::start(&config).await;
    let (id, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = Openai.body("up/m", true, "hello");
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
    let begun = read_until(&mut socket, "data:").await;
    assert!(gateway.admin("DELETE", &format!("/api/v1/keys/{id}"), "").await.status < 300);
    assert_eq!(ask(&gateway, Openai, &key, "up/m").await.status, 401);
    let answer = crate::support::read_rest(&mut socket, begun).await;
    assert!(answer.text().contains("[DONE]"), "it was admitted, and ends in good order");
    assert_eq!(usd(&settled(&gateway).await, "spent_usd"), 1.0);
}

#[tokio::test]
async fn a_budget_is_shown_with_what_is_left_and_when_it_starts_anew() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config =
        format!("{}{A_DOLLAR}{}", research("usd = 10, per = \"month\""), upstream.provider("up", "openai_chat"));
    let (gateway, key) = house(&config).await;
    ask(&gateway, Openai, &key, "up/m").await;
    let budget = settled(&gateway).await;
    assert_eq!((usd(&budget, "usd"), usd(&budget, "spent_usd"), usd(&budget, "left_usd")), (10.0, 1.0, 9.0));
    assert_eq!(budget["per"], "month");
    let resets = budget["resets"].as_str().unwrap();
    assert!(resets.ends_with("-01T00:00:00Z") && budget["window"].as_str().unwrap().len() == 7, "{budget}");
    let shows = "portcullis_budget_spent_usd{scope=\"team\",name=\"research\",per=\"month\"} 1";
    eventually("the gauge follows", async || gateway.admin("GET", "/metrics", "").await.text().contains(shows)).await;
}

#[tokio::test]
async fn a_budget_that_a_reload_brings_or_raises_holds_at_once() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = |budget: &str| format!("{budget}{A_DOLLAR}{}", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::start(&config(&research("usd = 1, per = \"total\""))).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m").await.status, 200);
    settled(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m").await.status, 429);
    gateway.rewrite(&config(&research("usd = 2, per = \"total\"")));
    eventually("one more fits", async || ask(&gateway, Openai, &key, "up/m").await.status == 200).await;
    settled(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m").await.status, 429);
    gateway.rewrite(&config(CLOSED));
    eventually("it is gone", async || ask(&gateway, Openai, &key, "up/m").await.status == 200).await;
}

/// The same of a gateway in a process of its own.
async fn budget_of(gateway: &Process) -> Value {
    gateway.admin("GET", "/api/v1/teams", "").await.json()["data"][0]["budget"].clone()
}

/// What the records say the team spent.
async fn ledger_of(gateway: &Process) -> f64 {
    let rows = gateway.admin("GET", "/api/v1/usage?group_by=team", "").await.json();
    rows["data"].as_array().and_then(|rows| rows.first()).and_then(|row| row["cost_usd"].as_f64()).unwrap_or(0.0)
}

/// Of the other scopes: the counters of their budgets, each beside what the records say was spent there.
async fn others_of(gateway: &Process) -> Vec<(String, f64, f64)> {
    let budgets = gateway.admin("GET", "/api/v1/budgets", "").await.json();
    let mut all = Vec::new();
    for budget in budgets["data"].as_array().into_iter().flatten() {
        let scope = budget["scope"].as_str().unwrap_or_default();
        let (kind, name) = scope.split_once(':').unwrap_or_default();
        let rows = gateway.admin("GET", &format!("/api/v1/usage?group_by={kind}"), "").await.json();
        let row = rows["data"].as_array().into_iter().flatten().find(|row| row[kind] == name);
        let recorded = row.and_then(|row| row["cost_usd"].as_f64()).unwrap_or(0.0);
        all.push((scope.to_owned(), budget["spent_usd"].as_f64().unwrap_or(f64::NAN), recorded));
    }
    all
}

async fn new_key(gateway: &Process) -> String {
    let made = gateway.admin("POST", "/api/v1/keys", r#"{"name":"ana","team":"research"}"#).await.json();
    made["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// The points of a request's life at which a gateway is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    /// Its body has not come yet.
    BeforeReserve,
    /// Sent, to an upstream that does not read.
    AfterReserve,
    Waiting,
    MidStream,
    Settled,
}

async fn killed_at(point: Point, upstream: &Upstream, config: &str) {
    let mut gateway = Process::start(config, &[]).await;
    let new = r#"{"name":"ana","team":"research","user":"ada","budget":{"usd":64,"per":"total"}}"#;
    let made = gateway.admin("POST", "/api/v1/keys", new).await.json();
    let key = made["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let post = async |model: &str, stream: bool| {
        let body = Openai.body(model, stream, "hello");
        begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await
    };
    let frames = Openai.frames(&["a", "b", "c"]);
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    // Two that are over, so that there is something to lose.
    upstream.always(Say::json(Openai.whole("x")));
    for count in 1..=2 {
        crate::support::read_rest(&mut post("smart", false).await, Vec::new()).await;
        eventually("it is on the ledger", async || ledger_of(&gateway).await == f64::from(count)).await;
    }
    let heard = upstream.heard().len();
    let _open = match point {
        Point::BeforeReserve => {
            let headers = [("authorization", bearer.as_str()), ("content-length", "1000")];
            begin(gateway.addr, "POST", "/v1/chat/completions", &headers, b"{\"model\":").await
        }
        Point::AfterReserve => {
            let socket = post("deaf/m", false).await;
            eventually("it is reserved", async || usd(&budget_of(&gateway).await, "reserved_usd") > 0.0).await;
            socket
        }
        Point::Waiting => {
            upstream.always(Say::json(Openai.whole("x")).wait(Duration::from_secs(60)));
            let socket = post("smart", false).await;
            upstream.hears(heard + 1).await;
            socket
        }
        Point::MidStream => {
            upstream.always(Say::frames(&frames[..2], Duration::ZERO).end(End::Stall));
            let mut socket = post("smart", true).await;
            read_until(&mut socket, "data:").await;
            socket
        }
        Point::Settled => {
            let mut socket = post("smart", false).await;
            crate::support::read_rest(&mut socket, Vec::new()).await;
            socket
        }
    };
    gateway.kill_and_restart().await;
    let budget = budget_of(&gateway).await;
    let (ledger, spent) = (ledger_of(&gateway).await, usd(&budget, "spent_usd"));
    assert!(ledger >= 2.0, "{point:?}: what was on the ledger stays there: {ledger}");
    // A block is a sixteenth of 32 dollars; it may have been followed by the next.
    assert!((ledger..=ledger + 4.0).contains(&spent), "{point:?}: {spent} for a ledger of {ledger}");
    eventually("the lease ends, and the counter equals the ledger", async || {
        usd(&budget_of(&gateway).await, "spent_usd") == ledger_of(&gateway).await
            && others_of(&gateway).await.iter().all(|(_, spent, recorded)| spent == recorded)
    })
    .await;
    // And it counts on from there.
    upstream.always(Say::json(Openai.whole("x")));
    let mut socket = {
        let body = Openai.body("smart", false, "hello");
        begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await
    };
    assert_eq!(crate::support::read_rest(&mut socket, Vec::new()).await.status, 200);
    eventually("counter and ledger go on together", async || {
        let (ledger, budget) = (ledger_of(&gateway).await, budget_of(&gateway).await);
        let others = others_of(&gateway).await;
        // Team, user, key, model and provider.
        ledger >= 3.0
            && usd(&budget, "spent_usd") == ledger
            && usd(&budget, "reserved_usd") == 0.0
            && others.len() == 5
            && others.iter().all(|(_, spent, recorded)| spent == recorded && *spent >= 3.0)
    })
    .await;
}

/// Promises 6 and 7: after the lease, counters equal the ledger.
#[tokio::test]
async fn kill_9_at_any_point_of_a_request_leaves_counters_that_equal_the_ledger() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 200 } else { 1 };
    // Each point has an upstream of its own, so that all of them are tried at once.
    let points = [Point::BeforeReserve, Point::AfterReserve, Point::Waiting, Point::MidStream, Point::Settled];
    let kills = futures_util::future::join_all(points.map(|point| killed_often_at(point, rounds))).await;
    println!("killed at {points:?}: {kills:?} times; counters equal the ledger after each");
}

async fn killed_often_at(point: Point, rounds: usize) -> usize {
    let upstream = Upstream::start().await;
    // It takes connections and reads nothing.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let config = format!(
        "[store]\nkind = \"sled\"\nbudget_lease = \"1s\"\n{}[[pricing]]\nmodel = \"*\"\nrequest = 1\n{}\
         [providers.deaf]\nbase_url = \"http://{}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n\
         [models.smart]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\nbudget = {{ usd = 48, per = \"total\" }}\n\
         [users.ada]\nteams = [\"research\"]\nbudget = {{ usd = 80, per = \"total\" }}\n",
        research("usd = 32, per = \"total\""),
        format_args!("{}budget = {{ usd = 96, per = \"total\" }}\n", upstream.provider("up", "openai_chat")),
        deaf.local_addr().expect("an address"),
    );
    for _ in 0..rounds {
        killed_at(point, &upstream, &config).await;
    }
    rounds
}

/// What is spent while the store takes nothing is in the records, which have room of their own: no kill makes a budget new.
#[tokio::test]
async fn what_is_spent_on_a_full_disk_stays_spent_after_a_kill() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "[store]\nkind = \"sled\"\nbudget_lease = \"1s\"\n{}{A_DOLLAR}{}",
        research("usd = 100, per = \"total\""),
        upstream.provider("up", "openai_chat")
    );
    let mut gateway = Process::start(&config, &[]).await;
    let data = gateway.path().join("data");
    gateway.halt();
    std::fs::remove_dir_all(&data).expect("a data directory");
    let _disk = match Disk::mount(&data, "24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    gateway.again().await;
    let key = new_key(&gateway).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = Openai.body("up/m", false, "hello");
    let ask = async |addr| request(addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await.status;
    assert_eq!(ask(gateway.addr).await, 200);
    eventually("it is on the ledger", async || ledger_of(&gateway).await == 1.0).await;
    for gently in [false, true] {
        let before = ledger_of(&gateway).await;
        Disk::fill(&data);
        for _ in 0..40 {
            assert_eq!(ask(gateway.addr).await, 200);
        }
        eventually("they are on the ledger", async || ledger_of(&gateway).await == before + 40.0).await;
        match gently {
            true => gateway.halt(),
            false => gateway.kill(),
        }
        std::fs::remove_file(data.join("ballast")).expect("room");
        gateway.again().await;
        assert!(usd(&budget_of(&gateway).await, "spent_usd") >= before + 40.0, "gently: {gently}");
        eventually("the counter equals the ledger", async || {
            let spent = usd(&budget_of(&gateway).await, "spent_usd");
            spent == before + 40.0 && ledger_of(&gateway).await == spent
        })
        .await;
    }
    gateway.halt();
}

#[tokio::test]
async fn a_budget_survives_a_restart_to_the_cent() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "[store]\nkind = \"sled\"\n{}{A_DOLLAR}{}",
        research("usd = 2, per = \"total\""),
        upstream.provider("up", "openai_chat")
    );
    let mut gateway = Process::start(&config, &[]).await;
    let key = new_key(&gateway).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = Openai.body("up/m", false, "hello");
    let path = "/v1/chat/completions";
    assert_eq!(request(gateway.addr, "POST", path, &headers, body.as_bytes()).await.status, 200);
    gateway.restart().await;
    let budget = budget_of(&gateway).await;
    assert_eq!((usd(&budget, "spent_usd"), usd(&budget, "left_usd")), (1.0, 1.0), "{budget}");
    assert_eq!(request(gateway.addr, "POST", path, &headers, body.as_bytes()).await.status, 200);
    assert_eq!(request(gateway.addr, "POST", path, &headers, body.as_bytes()).await.status, 429);
}
