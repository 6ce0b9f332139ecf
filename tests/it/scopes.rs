//! Limits and budgets of models, providers and tags beside those of a team: all of them hold, the tightest decides, raises and
//! cheaper models help, and somebody is told.

use std::time::Duration;

use serde_json::Value;

use crate::{
    family::{Anthropic, Family, Openai},
    support::{Answer, Gateway, Process, Say, Upstream, eventually},
};

const CLOSED: &str = "[auth]\nrequired = true\n";
/// A dollar a request, tokens free.
const A_DOLLAR: &str = "[[pricing]]\nmodel = \"up/*\"\nrequest = 1\n";

async fn ask(gateway: &Gateway, family: Family, key: &str, model: &str, tags: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("x-portcullis-tags", tags)];
    gateway.post_with(&family.path(model, false), &headers, &family.body(model, false, "hello")).await
}

async fn key(gateway: &Gateway) -> String {
    gateway.key(r#"{"name":"ana","team":"research"}"#).await.1
}

/// Rows of `/api/v1/budgets` by their id.
async fn budgets(gateway: &Gateway) -> Vec<Value> {
    gateway.admin("GET", "/api/v1/budgets", "").await.json()["data"].as_array().cloned().unwrap_or_default()
}

async fn budget(gateway: &Gateway, id: &str) -> Value {
    let all = budgets(gateway).await;
    all.iter().find(|row| row["id"] == id).cloned().unwrap_or_else(|| panic!("no {id}: {all:?}"))
}

async fn settled(gateway: &Gateway) {
    eventually("every reservation is settled", async || {
        budgets(gateway).await.iter().all(|row| row["reserved_usd"].as_f64() == Some(0.0))
    })
    .await;
}

/// A team, a model, a provider and a tag, each with a budget; `usd` in that order.
fn house(upstream: &Upstream, usd: [u32; 4]) -> String {
    let [team, model, provider, tag] = usd;
    let served = upstream.provider("up", "openai_chat");
    format!(
        "{CLOSED}{A_DOLLAR}{served}budget = {{ usd = {provider}, per = \"month\" }}\n\
         [models.smart]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\nbudget = {{ usd = {model}, per = \"total\" }}\n\
         [tags.\"env=prod\"]\nbudget = {{ usd = {tag}, per = \"week\" }}\n\
         [teams.research]\nbudget = [{{ usd = {team}, per = \"day\" }}, {{ usd = 1000, per = \"total\" }}]\n"
    )
}

/// Promise 6, with every scope the tightest once.
#[tokio::test]
async fn of_500_at_once_the_tightest_of_all_scopes_admits_10() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 25 } else { 1 };
    let words = ["team `research`", "model `smart`", "provider `up`", "tag `env=prod`"];
    for round in 0..rounds * 4 {
        let tightest = round % 4;
        let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_millis(20))).await;
        let mut usd = [20, 30, 40, 50];
        usd[tightest] = 10;
        let gateway = Gateway::start(&house(&upstream, usd)).await;
        let key = key(&gateway).await;
        let asked = (0..500).map(|_| async { ask(&gateway, Openai, &key, "smart", "env=prod").await.status });
        let statuses = futures_util::future::join_all(asked).await;
        let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
        assert_eq!((count(200), count(429), upstream.heard().len()), (10, 490, 10), "{}", words[tightest]);
        settled(&gateway).await;
        for id in
            ["team:research/day", "team:research/total", "model:smart/total", "provider:up/month", "tag:env=prod/week"]
        {
            assert_eq!(budget(&gateway, id).await["spent_usd"].as_f64(), Some(10.0), "{id}");
        }
        let answer = ask(&gateway, Openai, &key, "smart", "env=prod").await;
        assert!(answer.text().contains(words[tightest]), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_scope_binds_only_who_is_in_it() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let gateway = Gateway::start(&house(&upstream, [100, 2, 100, 1])).await;
    let key = key(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "a=b, env=prod").await.status, 200);
    settled(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "env=prod").await.status, 429, "the tag's dollar is spent");
    for _ in 0..2 {
        assert_eq!(ask(&gateway, Openai, &key, "smart", "env=test").await.status, 200);
    }
    settled(&gateway).await;
    let answer = ask(&gateway, Openai, &key, "smart", "").await;
    assert!(answer.status == 429 && answer.text().contains("model `smart`"), "{}", answer.text());
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 200, "by another name it may");
    // The mock is another provider, and free.
    assert_eq!(ask(&gateway, Openai, &key, "mock", "env=prod").await.status, 200);
}

#[tokio::test]
async fn a_request_that_its_model_refuses_counts_nowhere() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "{CLOSED}{}[models.smart]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n\
         limits = {{ requests_per_minute = 1 }}\n\
         [teams.research]\nlimits = {{ requests_per_minute = 3, requests_per_day = 3 }}\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let key = key(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "smart", "").await.status, 200);
    for _ in 0..4 {
        let answer = ask(&gateway, Openai, &key, "smart", "").await;
        assert!(answer.status == 429 && answer.text().contains("model `smart`"), "{}", answer.text());
    }
    for _ in 0..2 {
        assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 200);
    }
    let answer = ask(&gateway, Openai, &key, "up/m", "").await;
    assert!(answer.status == 429 && answer.text().contains("team `research`"), "{}", answer.text());
}

#[tokio::test]
async fn what_a_provider_has_no_room_for_goes_to_the_next_target() {
    let slow = Upstream::saying(Say::json(Openai.whole("slow")).wait(Duration::from_secs(60))).await;
    let other = Upstream::saying(Say::json(Openai.whole("other"))).await;
    let config = format!(
        "{CLOSED}{}limits = {{ concurrent = 1 }}\n{}limits = {{ requests_per_minute = 2 }}\n\
         [models.both]\ntargets = [{{ provider = \"slow\", model = \"m\" }}, {{ provider = \"other\", model = \"m\" }}]\n",
        slow.provider("slow", "openai_chat"),
        other.provider("other", "openai_chat"),
    );
    let gateway = Gateway::start(&config).await;
    let key = key(&gateway).await;
    let held = ask(&gateway, Openai, &key, "both", "");
    let rest = async {
        slow.hears(1).await;
        for _ in 0..2 {
            let answer = ask(&gateway, Openai, &key, "both", "").await;
            assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("other/m")));
        }
        let answer = ask(&gateway, Openai, &key, "both", "").await;
        let error = Openai.error(&answer);
        assert_eq!((answer.status, error.code.as_str()), (429, "rate_limited"), "{}", answer.text());
        assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    };
    tokio::select! {
        _ = held => panic!("it waits for its upstream"),
        () = rest => {}
    }
    assert_eq!((slow.heard().len(), other.heard().len()), (1, 2));
}

#[tokio::test]
async fn headers_tell_the_tightest_of_every_kind_in_the_familys_names() {
    let config = format!(
        "{CLOSED}[models.smart]\ntargets = [{{ provider = \"mock\", model = \"mock\" }}]\n\
         limits = {{ requests_per_day = 7, input_tokens_per_minute = 5000 }}\n\
         [teams.research]\nlimits = {{ requests_per_minute = 60, output_tokens_per_minute = 9000, tokens_per_minute = 20000 }}\n"
    );
    let gateway = Gateway::start(&config).await;
    let key = key(&gateway).await;
    let limit = |answer: &Answer, name: &str| answer.header(name).and_then(|text| text.parse::<u64>().ok());
    let answer = ask(&gateway, Openai, &key, "smart", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for (name, count) in [("requests", 7), ("input-tokens", 5_000), ("output-tokens", 9_000), ("tokens", 20_000)] {
        assert_eq!(limit(&answer, &format!("x-ratelimit-limit-{name}")), Some(count), "{name}");
    }
    assert_eq!(limit(&answer, "x-ratelimit-remaining-requests"), Some(6));
    let answer = ask(&gateway, Anthropic, &key, "smart", "").await;
    for (name, count) in [("requests", 7), ("input-tokens", 5_000), ("output-tokens", 9_000), ("tokens", 20_000)] {
        assert_eq!(limit(&answer, &format!("anthropic-ratelimit-{name}-limit")), Some(count), "{name}");
    }
    assert_eq!(limit(&answer, "anthropic-ratelimit-requests-remaining"), Some(5));
    let left = limit(&answer, "anthropic-ratelimit-input-tokens-remaining").unwrap();
    assert!((4_900..5_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_shadow_limit_refuses_nobody_and_stands_in_trace_and_metrics() {
    let config = format!("{CLOSED}[teams.research]\nlimits = {{ requests_per_minute = 1, shadow = true }}\n");
    let gateway = Gateway::start(&config).await;
    let key = key(&gateway).await;
    for _ in 0..3 {
        let answer = ask(&gateway, Openai, &key, "mock", "").await;
        assert!(answer.status == 200 && answer.header("x-ratelimit-limit-requests").is_none(), "{:?}", answer.headers);
    }
    let shows = "portcullis_shadow_limited_total{scope=\"team\",limit=\"requests_per_minute\"}";
    assert!(gateway.admin("GET", "/metrics", "").await.text().contains(shows));
    eventually("the trace says so", async || {
        let rows = gateway.admin("GET", "/api/v1/requests", "").await.json();
        rows["data"][0]["trace"].to_string().contains("shadow: team `research` has used its 1 requests a minute")
    })
    .await;
}

#[tokio::test]
async fn a_spent_budget_is_raised_for_a_while() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let gateway = Gateway::start(&house(&upstream, [1, 100, 100, 100])).await;
    let key = key(&gateway).await;
    let post = async |body: &str| gateway.admin("POST", "/api/v1/budgets/raise", body).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 200);
    settled(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 429);
    let made = post(r#"{"scope":"team:research","usd":1.5,"until":"12h","reason":"a deadline","per":"day"}"#).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let row = budget(&gateway, "team:research/day").await;
    assert_eq!(
        (row["usd"].as_f64(), row["raised_usd"].as_f64(), row["left_usd"].as_f64()),
        (Some(2.5), Some(1.5), Some(1.5))
    );
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 200);
    settled(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 429, "half a dollar is less than one");
    let listed = gateway.admin("GET", "/api/v1/budgets/raises", "").await.json();
    assert_eq!(
        (&listed["data"][0]["reason"], &listed["data"][0]["scope"]),
        (&"a deadline".into(), &"team:research".into())
    );
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let ended = gateway.admin("DELETE", &format!("/api/v1/budgets/raises/{id}"), "").await;
    assert_eq!(ended.status, 200, "{}", ended.text());
    assert_eq!(budget(&gateway, "team:research/day").await["usd"].as_f64(), Some(1.0));
    for (body, field) in [
        (r#"{"scope":"team:research","usd":-1,"until":"12h","reason":"x"}"#, "usd"),
        (r#"{"scope":"team:research","usd":"99999999","until":"12h","reason":"x"}"#, "usd"),
        (r#"{"scope":"team:research","usd":1,"until":"2020-01-01T00:00:00Z","reason":"x"}"#, "until"),
        (r#"{"scope":"team:research","usd":1,"until":"12h","reason":""}"#, "reason"),
        (r#"{"scope":"team:nobody","usd":1,"until":"12h","reason":"x"}"#, "scope"),
        (r#"{"scope":"research","usd":1,"until":"12h","reason":"x"}"#, "scope"),
        (r#"{"scope":"team:research","usd":1,"until":"12h","reason":"x","per":"year"}"#, "per"),
    ] {
        let refused = post(body).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["param"]),
            (400, &field.into()),
            "{body}: {}",
            refused.text()
        );
    }
    assert_eq!(gateway.admin("DELETE", "/api/v1/budgets/raises/raise_0", "").await.status, 404);
}

#[tokio::test]
async fn a_request_that_a_budget_refuses_goes_to_a_cheaper_model() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "{CLOSED}{A_DOLLAR}[[pricing]]\nmodel = \"cheap/*\"\nrequest = 0.1\n{}{}\
         [models.smart]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n\
         [models.small]\ntargets = [{{ provider = \"cheap\", model = \"m\" }}]\n\
         [teams.research]\nmodels = [\"smart\", \"small\"]\nbudget = {{ usd = 1.2, per = \"day\" }}\n\
         budget_fallback = [\"up/other\", \"small\"]\n",
        upstream.provider("up", "openai_chat"),
        upstream.provider("cheap", "openai_chat"),
    );
    let gateway = Gateway::start(&config).await;
    let key = key(&gateway).await;
    let answer = ask(&gateway, Openai, &key, "smart", "").await;
    assert_eq!(
        (answer.header("x-portcullis-target"), answer.header("x-portcullis-budget-fallback")),
        (Some("up/m"), None)
    );
    settled(&gateway).await;
    for _ in 0..2 {
        let answer = ask(&gateway, Openai, &key, "smart", "").await;
        let target = answer.header("x-portcullis-target");
        assert_eq!((answer.status, target), (200, Some("cheap/m")), "{}", answer.text());
        assert_eq!(answer.header("x-portcullis-budget-fallback"), Some("true"));
        assert_eq!(answer.header("x-portcullis-model"), Some("smart"));
        settled(&gateway).await;
    }
    let refused = ask(&gateway, Openai, &key, "smart", "").await;
    assert_eq!((refused.status, Openai.error(&refused).code.as_str()), (429, "budget_exceeded"));
    eventually("the trace says why", async || {
        let rows = gateway.admin("GET", "/api/v1/requests", "").await.json();
        rows["data"][1]["trace"].to_string().contains("it goes to small instead")
    })
    .await;
    let told = gateway
        .admin(
            "POST",
            "/api/v1/explain",
            r#"{"request":{"model":"smart","messages":[{"role":"user","content":"hello"}]},"team":"research"}"#,
        )
        .await
        .json();
    assert!(told["notes"].to_string().contains("it would go to small instead"), "{told}");
}

#[tokio::test]
async fn a_webhook_hears_of_a_threshold_once() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let hook = Upstream::saying(Say::error(500, "{}")).await;
    let config = format!(
        "{CLOSED}{A_DOLLAR}{}[alerts]\nwebhook = \"{}/hook\"\n\
         [teams.research]\nbudget = {{ usd = 4, per = \"month\", soft = 0.5 }}\n",
        upstream.provider("up", "openai_chat"),
        format_args!("http://{}", hook.addr),
    );
    let gateway = Gateway::start(&config).await;
    let key = key(&gateway).await;
    for _ in 0..2 {
        assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 200);
        settled(&gateway).await;
    }
    // It fails the first time, and is told again.
    hook.hears(1).await;
    hook.always(Say::json("{}"));
    hook.hears(2).await;
    let told: Vec<Value> = hook.heard().iter().map(|heard| heard.json()).collect();
    assert_eq!(told[0], told[1]);
    assert_eq!((&told[0]["threshold"], &told[0]["scope"]), (&"soft".into(), &"team:research".into()), "{}", told[0]);
    assert_eq!((told[0]["spent_usd"].as_f64(), told[0]["budget_usd"].as_f64()), (Some(2.0), Some(4.0)));
    for _ in 0..3 {
        ask(&gateway, Openai, &key, "up/m", "").await;
        settled(&gateway).await;
    }
    hook.hears(3).await;
    assert_eq!(hook.heard()[2].json()["threshold"], "exhausted");
    assert_eq!(ask(&gateway, Openai, &key, "up/m", "").await.status, 429);
    assert_eq!(hook.heard().len(), 3, "each once");
    let shows = "portcullis_budget_alerts_total{scope=\"team\",threshold=\"soft\"}";
    assert!(gateway.admin("GET", "/metrics", "").await.text().contains(shows));
}

#[tokio::test]
async fn explain_shows_every_scope_and_which_would_refuse() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let gateway =
        Gateway::start(&format!("{}limits = {{ requests_per_day = 9 }}\n", house(&upstream, [5, 1, 100, 100]))).await;
    let key = key(&gateway).await;
    assert_eq!(ask(&gateway, Openai, &key, "smart", "").await.status, 200);
    settled(&gateway).await;
    let told = gateway
        .admin(
            "POST",
            "/api/v1/explain",
            r#"{"request":{"model":"smart","messages":[{"role":"user","content":"hello"}]},"team":"research"}"#,
        )
        .await
        .json();
    let scopes: Vec<&str> =
        told["budgets"].as_array().unwrap().iter().filter_map(|budget| budget["scope"].as_str()).collect();
    assert_eq!(scopes.len(), 3, "{told}");
    assert!(scopes.contains(&"team") && scopes.contains(&"model"), "{told}");
    assert_eq!(told["budget"]["scope"], "model", "the tightest: {told}");
    assert_eq!(told["limits"][0]["requests_per_day"]["left"], 8, "{told}");
    assert!(told["message"].as_str().is_some_and(|text| text.contains("model `smart`")), "{told}");
}

/// As somebody types it.
fn command(gateway: &Process, words: &[&str]) -> (bool, String) {
    let admin = format!("http://{}", gateway.admin);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("budgets").args(words).args(["--admin", &admin]);
    let output = command.current_dir(gateway.path()).env_remove("PORTCULLIS_ADMIN_TOKEN").output().expect("it runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

#[tokio::test]
async fn a_raise_that_was_acknowledged_outlives_kill_9() {
    let config = format!("[store]\nkind = \"sled\"\n{CLOSED}[teams.research]\nbudget = {{ usd = 1, per = \"day\" }}\n");
    let mut gateway = Process::start(&config, &[]).await;
    let words = ["raise", "team:research", "--usd", "2", "--until", "12h", "--reason", "a deadline"];
    let (done, text) = command(&gateway, &words);
    assert!(done && text.contains("team:research has 2 USD more until"), "{text}");
    let id = text.split(':').next().expect("its id").to_owned();
    let (done, text) = command(&gateway, &["raise", "team:nobody", "--usd", "2", "--until", "1h", "--reason", "x"]);
    assert!(!done && text.contains("there is no budget of team:nobody"), "{text}");
    gateway.kill_and_restart().await;
    let (done, text) = command(&gateway, &["list", "--json"]);
    let rows: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((done, rows["data"][0]["usd"].as_f64()), (true, Some(3.0)), "{text}");
    let (done, text) = command(&gateway, &["raises"]);
    assert!(done && text.contains(&id) && text.contains("a deadline"), "{text}");
    let (done, text) = command(&gateway, &["end", &id]);
    assert!(done && text.contains("has ended"), "{text}");
    let (_, text) = command(&gateway, &["list", "--json"]);
    assert!(text.contains("\"usd\": 1"), "{text}");
}

/// All that there are, whether anybody asks for them or not; page by page, and as they stand after a restart.
#[tokio::test]
async fn budgets_that_nobody_uses_are_listed_too_and_paged() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = format!(
        "{CLOSED}{A_DOLLAR}[store]\nkind = \"sled\"\nbudget_lease = \"2s\"\n{}[teams.research]\nbudget = {{ usd = 4, per = \"month\" }}\n",
        upstream.provider("up", "openai_chat")
    );
    let mut gateway = Process::start(&config, &[]).await;
    let make = async |gateway: &Process, path: &str, body: &str| {
        let made = gateway.admin("POST", path, body).await;
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()
    };
    let budgets = r#""budgets":[{"usd":5,"per":"day"},{"usd":20,"per":"total"}]"#;
    make(&gateway, "/api/v1/users", &format!(r#"{{"name":"ana",{budgets}}}"#)).await;
    let mut keys = Vec::new();
    for n in 0..7 {
        keys.push(make(&gateway, "/api/v1/keys", &format!(r#"{{"name":"k{n}",{budgets}}}"#)).await);
    }
    let gone = format!("/api/v1/keys/{}", keys[6]["id"].as_str().unwrap());
    assert_eq!(gateway.admin("DELETE", &gone, "").await.status, 200);
    let used = format!("Bearer {}", keys[0]["key"].as_str().unwrap());
    let headers = [("authorization", used.as_str()), ("content-type", "application/json")];
    let (path, body) = (Openai.path("up/m", false), Openai.body("up/m", false, "hello"));
    assert_eq!(crate::support::request(gateway.addr, "POST", &path, &headers, body.as_bytes()).await.status, 200);
    let all = async |gateway: &Process| {
        let (mut rows, mut next) = (Vec::new(), String::new());
        loop {
            let page = gateway.admin("GET", &format!("/api/v1/budgets?limit=3{next}"), "").await.json();
            let data = page["data"].as_array().cloned().unwrap_or_default();
            assert!(data.len() <= 3);
            rows.extend(data);
            let Some(cursor) = page["next_cursor"].as_str() else { return rows };
            next = format!("&cursor={}", cursor.replace(':', "%3A").replace('/', "%2F"));
        }
    };
    let spent = |rows: &[Value]| -> Vec<f64> { rows.iter().filter_map(|row| row["spent_usd"].as_f64()).collect() };
    for round in ["running", "stopped and started", "killed and started"] {
        match round {
            "running" => {}
            "stopped and started" => gateway.restart().await,
            _ => gateway.kill_and_restart().await,
        }
        eventually(round, async || spent(&all(&gateway).await).iter().sum::<f64>() == 2.0).await;
        let rows = all(&gateway).await;
        let ids: Vec<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
        // The team, the user's two, and two of each key that was not revoked.
        assert_eq!(ids.len(), 1 + 2 + 2 * 6, "{round}: {ids:?}");
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "{round}: once each");
        let mine: Vec<&Value> = rows.iter().filter(|row| row["spent_usd"].as_f64() != Some(0.0)).collect();
        let key = format!("key:{}", keys[0]["id"].as_str().unwrap());
        assert!(mine.len() == 2 && mine.iter().all(|row| row["scope"] == key), "{round}: {mine:?}");
        assert_eq!((mine[0]["left_usd"].as_f64(), mine[1]["left_usd"].as_f64()), (Some(4.0), Some(19.0)), "{round}");
    }
    assert_eq!(gateway.admin("GET", "/api/v1/budgets?cursor=nonsense", "").await.status, 400);
}
