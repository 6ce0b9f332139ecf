//! Where a request goes: names, aliases, failover before commit, keys in turn, and which error is told when all fail.

use std::time::Duration;

use crate::{
    family::{FAMILIES, Family, Openai},
    support::{Answer, End, Gateway, Say, Upstream},
};

fn hi(text: &str) -> Say {
    Say::json(Openai.whole(text))
}

fn well(stream: bool, text: &str) -> Say {
    if stream { Say::sse(Openai.frames(&[text]).concat()) } else { hi(text) }
}

fn alias(names: &[&str]) -> String {
    let targets: Vec<String> = names.iter().map(|n| format!("{{ provider = \"{n}\", model = \"m\" }}")).collect();
    format!("[models.all]\ntargets = [{}]\n", targets.join(", "))
}

/// Upstreams named a, b, c, … saying these, behind the alias `all`.
async fn row(says: Vec<Say>) -> (Vec<Upstream>, Gateway) {
    let names: Vec<String> = ('a'..='z').take(says.len()).map(String::from).collect();
    let mut upstreams = Vec::new();
    let mut config = String::new();
    for (name, say) in names.iter().zip(says) {
        let upstream = Upstream::saying(say).await;
        config.push_str(&upstream.provider(name, "openai_chat"));
        config.push_str("timeouts = { whole = \"400ms\", first_event = \"400ms\" }\n");
        upstreams.push(upstream);
    }
    config.push_str(&alias(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    let gateway = Gateway::start(&config).await;
    (upstreams, gateway)
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|u| u.heard().len()).collect()
}

async fn ask(gateway: &Gateway, model: &str) -> Answer {
    Openai.ask(gateway, model, false).await
}

#[tokio::test]
async fn the_first_target_answers_while_it_is_well() {
    let (upstreams, gateway) = row(vec![hi("a"), hi("b")]).await;
    for _ in 0..5 {
        assert_eq!(Openai.text(&ask(&gateway, "all").await), "a");
    }
    assert_eq!(counts(&upstreams), [5, 0]);
}

#[tokio::test]
async fn weighted_targets_share_the_requests_and_zero_weight_only_stands_by() {
    let (a, b) = (Upstream::saying(hi("a")).await, Upstream::saying(hi("b")).await);
    let config = format!(
        "{}{}[models.all]\nstrategy = \"weighted\"\ntargets = [{{ provider = \"a\", model = \"m\", weight = 1 }}, {{ provider = \"b\", model = \"m\", weight = 3 }}]\n[models.by]\nstrategy = \"weighted\"\ntargets = [{{ provider = \"a\", model = \"m\", weight = 0 }}, {{ provider = \"b\", model = \"m\" }}]\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    for _ in 0..100 {
        ask(&gateway, "all").await;
    }
    // 1 in 4 of 100: outside these bounds by chance once in ten million runs.
    let (count_a, count_b) = (a.heard().len(), b.heard().len());
    assert!(count_a + count_b == 100 && (5..=50).contains(&count_a), "{count_a} and {count_b}");
    for _ in 0..20 {
        ask(&gateway, "by").await;
    }
    assert_eq!(a.heard().len(), count_a);
}

#[tokio::test]
async fn whatever_ails_a_target_before_output_the_next_one_answers() {
    let ills = || {
        vec![
            ("429", Say::error(429, "{}")),
            ("500", Say::error(500, "{}")),
            ("503", Say::error(503, "<html>")),
            ("401", Say::error(401, "{}")),
            ("404", Say::error(404, "{}")),
            ("a redirect", Say::error(302, "").header("location", "http://127.0.0.1:1/")),
            ("silence", hi("late").wait(Duration::from_secs(60))),
            ("no head", Say::json("").wait(Duration::ZERO).end(End::Cut)),
            ("half an answer", Say::json("{\"id\":").end(End::Cut)),
            ("no JSON", Say::of(200, "text/html", b"<html>oops</html>".to_vec())),
            ("an empty answer", Say::json("")),
        ]
    };
    for family in FAMILIES {
        for stream in [false, true] {
            for (name, ill) in ills() {
                let (upstreams, gateway) = row(vec![ill, well(stream, "b")]).await;
                let answer = family.ask(&gateway, "all", stream).await;
                assert_eq!(
                    (answer.status, family.text(&answer).as_str()),
                    (200, "b"),
                    "{name}, {family:?} {stream}: {}",
                    answer.text()
                );
                assert_eq!(counts(&upstreams), [1, 1], "{name}");
                assert_eq!(answer.header("x-portcullis-attempts"), Some("2"), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_target_that_refuses_connections_is_passed_over() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("addr");
    let b = Upstream::saying(hi("b")).await;
    let dead =
        format!("[providers.dead]\nbase_url = \"http://{gone}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n");
    let gateway = Gateway::start(&format!("{dead}{}{}", b.provider("b", "openai_chat"), alias(&["dead", "b"]))).await;
    assert_eq!(Openai.text(&ask(&gateway, "all").await), "b");
    assert_eq!(ask(&gateway, "dead/m").await.status, 502);
}

#[tokio::test]
async fn a_request_that_an_upstream_refuses_is_not_tried_elsewhere() {
    for status in [400, 413, 422] {
        let (upstreams, gateway) = row(vec![Say::error(status, &Openai.error_body(status, "no")), hi("b")]).await;
        for family in FAMILIES {
            assert_eq!(family.ask(&gateway, "all", false).await.status, status);
        }
        assert_eq!(counts(&upstreams), [3, 0]);
    }
}

#[tokio::test]
async fn four_attempts_are_all_and_each_target_is_visited_once() {
    let (upstreams, gateway) = row(vec![Say::error(500, "{}"); 6]).await;
    let answer = ask(&gateway, "all").await;
    assert_eq!((answer.status, answer.header("x-portcullis-attempts")), (502, Some("4")));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(counts(&upstreams), [1, 1, 1, 1, 0, 0]);
}

#[tokio::test]
async fn the_most_telling_error_of_all_targets_is_told() {
    let late = || hi("late").wait(Duration::from_secs(60));
    let wait = |secs: &str| Say::error(429, "{}").header("retry-after", secs);
    let rows = [
        (vec![Say::error(500, "{}"), late()], 504, None),
        (vec![late(), wait("9"), Say::error(500, "{}"), wait("5")], 429, Some("5")),
        (vec![wait("7"), Say::error(500, "{}"), Say::error(400, &Openai.error_body(400, "no"))], 400, None),
        (vec![Say::error(503, "{}"), Say::error(500, "{}")], 502, None),
    ];
    for (says, status, retry) in rows {
        for family in FAMILIES {
            let (_upstreams, gateway) = row(says.clone()).await;
            let answer = family.ask(&gateway, "all", false).await;
            assert_eq!((answer.status, answer.header("retry-after")), (status, retry), "{}", answer.text());
            if status != 400 || family != Openai {
                family.error(&answer);
            }
        }
    }
}

#[tokio::test]
async fn failover_names_are_tried_after_the_targets_and_expand_once() {
    let (a, b, c) = (
        Upstream::saying(Say::error(500, "{}")).await,
        Upstream::saying(Say::error(500, "{}")).await,
        Upstream::saying(hi("c")).await,
    );
    let config = format!(
        "{}{}{}[models.first]\ntargets = [{{ provider = \"a\", model = \"m\" }}]\nfailover = [\"second\", \"c/direct\"]\n[models.second]\ntargets = [{{ provider = \"b\", model = \"m\" }}]\nfailover = [\"c/never\"]\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat"),
        c.provider("c", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let answer = ask(&gateway, "first").await;
    assert_eq!((Openai.text(&answer).as_str(), answer.header("x-portcullis-target")), ("c", Some("c/direct")));
    assert_eq!(counts(&[a.clone(), b.clone()]), [1, 1]);
    assert_eq!(c.last().json()["model"], "direct", "an alias lends its targets, not its own failover");
}

#[tokio::test]
async fn a_target_that_is_named_twice_is_visited_once() {
    let a = Upstream::saying(Say::error(500, "{}")).await;
    let config = format!(
        "{}[models.all]\ntargets = [{{ provider = \"a\", model = \"m\" }}, {{ provider = \"a\", model = \"m\" }}]\nfailover = [\"a/m\"]\nretries = 0\n",
        a.provider("a", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    assert_eq!(ask(&gateway, "all").await.status, 502);
    assert_eq!(a.heard().len(), 1);
}

#[tokio::test]
async fn a_target_that_fails_again_and_again_rests() {
    let (upstreams, gateway) = row(vec![Say::error(500, "{}"), hi("b")]).await;
    for _ in 0..9 {
        assert_eq!(Openai.text(&ask(&gateway, "all").await), "b");
    }
    assert_eq!(counts(&upstreams), [5, 9], "five failures eject it");
}

#[tokio::test]
async fn who_has_nobody_else_to_ask_looks_now_and_then_whether_a_target_still_has_to_rest() {
    let a = Upstream::saying(Say::error(500, "{}")).await;
    let gateway = Gateway::start(&a.provider("a", "openai_chat")).await;
    let mut statuses = Vec::new();
    while statuses.last() != Some(&503) {
        statuses.push(ask(&gateway, "a/m").await.status);
    }
    assert_eq!(a.heard().len(), 5, "{statuses:?}");
    a.always(hi("a"));
    let began = std::time::Instant::now();
    let answer = loop {
        let answer = ask(&gateway, "a/m").await;
        if answer.status == 200 {
            break answer;
        }
        assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (503, "no_healthy_target"));
        assert!(answer.header("retry-after").is_some());
        assert!(began.elapsed() < Duration::from_secs(8), "long before the rest of ten seconds is over");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(Openai.text(&answer), "a");
    assert_eq!(Openai.text(&ask(&gateway, "a/m").await), "a", "that ended the rest");
}

// names

#[tokio::test]
async fn a_bare_name_goes_to_the_one_provider_that_claims_it() {
    let a = Upstream::saying(hi("a")).await;
    let gateway = Gateway::start(&format!("{}models = [\"llama-\"]\n", a.provider("a", "openai_chat"))).await;
    for family in FAMILIES {
        let answer = family.ask(&gateway, "llama-3", false).await;
        assert_eq!(answer.header("x-portcullis-target"), Some("a/llama-3"), "{}", answer.text());
        assert_eq!(a.last().json()["model"], "llama-3");
    }
}

#[tokio::test]
async fn a_name_that_nobody_claims_is_a_404_that_tells_how_to_write_it() {
    let a = Upstream::start().await;
    let gateway = Gateway::start(&a.provider("a", "openai_chat")).await;
    for family in FAMILIES {
        for stream in [false, true] {
            let answer = family.ask(&gateway, "zzz", stream).await;
            let error = family.error(&answer);
            assert_eq!((answer.status, error.code.as_str()), (404, "model_not_found"));
            assert!(error.message.contains("`zzz`") && error.message.contains("`a/<model>`"), "{}", error.message);
        }
    }
    assert!(a.heard().is_empty());
}

#[tokio::test]
async fn a_misspelt_alias_is_told_the_right_one() {
    let a = Upstream::start().await;
    let gateway = Gateway::start(&format!(
        "{}[models.research]\ntargets = [{{ provider = \"a\", model = \"m\" }}]\n",
        a.provider("a", "openai_chat")
    ))
    .await;
    for family in FAMILIES {
        let error = family.error(&family.ask(&gateway, "reserch", false).await);
        assert!(error.message.contains("`research`"), "{}", error.message);
    }
}

#[tokio::test]
async fn two_providers_that_claim_a_name_are_both_told() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let claim = "models = [\"llama-\"]\n";
    let gateway = Gateway::start(
        &[a.provider("a", "openai_chat"), claim.into(), b.provider("b", "openai_chat"), claim.into()].concat(),
    )
    .await;
    let answer = ask(&gateway, "llama-3").await;
    let message = Openai.error(&answer).message;
    assert!(answer.status == 404 && message.contains("a/llama-3") && message.contains("b/llama-3"), "{message}");
}

#[tokio::test]
async fn a_provider_without_its_key_says_what_to_set() {
    let gateway = Gateway::start("[providers.openai]\nkey = \"env:PORTCULLIS_TEST_NO_SUCH_KEY\"\n").await;
    for family in FAMILIES {
        for model in ["openai/gpt-4.1", "gpt-4.1"] {
            let answer = family.ask(&gateway, model, false).await;
            let error = family.error(&answer);
            assert_eq!((answer.status, error.code.as_str()), (404, "provider_not_configured"), "{}", answer.text());
            assert!(error.message.contains("PORTCULLIS_TEST_NO_SUCH_KEY"), "{}", error.message);
        }
    }
}

#[tokio::test]
async fn targets_that_are_not_configured_cost_nothing() {
    let b = Upstream::saying(hi("b")).await;
    let config = format!(
        "[providers.openai]\nkey = \"env:PORTCULLIS_TEST_NO_SUCH_KEY\"\n{}{}",
        b.provider("b", "openai_chat"),
        alias(&["openai", "b"])
    );
    let gateway = Gateway::start(&config).await;
    let answer = ask(&gateway, "all").await;
    assert_eq!((Openai.text(&answer).as_str(), answer.header("x-portcullis-attempts")), ("b", Some("1")));
}

// keys

const KEYED: &str = "auth = \"bearer\"\nkeys = [\"file:one.key\", \"file:two.key\"]\n";

async fn keyed(upstream: &Upstream) -> Gateway {
    let config = upstream.provider("up", "openai_chat").replace("auth = \"none\"\n", KEYED);
    Gateway::with(&config, &[("one.key", "sk-one\n"), ("two.key", "sk-two\n")]).await
}

fn used(upstream: &Upstream) -> Vec<String> {
    upstream.heard().iter().map(|h| h.header("authorization").unwrap_or("none").replace("Bearer ", "")).collect()
}

#[tokio::test]
async fn keys_of_a_provider_take_turns() {
    let upstream = Upstream::saying(hi("x")).await;
    let gateway = keyed(&upstream).await;
    for _ in 0..4 {
        ask(&gateway, "up/m").await;
    }
    let used = used(&upstream);
    assert!(used[0] != used[1] && used[0] == used[2] && used[1] == used[3], "{used:?}");
}

#[tokio::test]
async fn a_refused_key_rests_and_the_other_answers_the_same_request() {
    for stream in [false, true] {
        let upstream = Upstream::saying(well(stream, "x")).await;
        upstream.then(Say::error(401, "{}"));
        let gateway = keyed(&upstream).await;
        let answer = Openai.ask(&gateway, "up/m", stream).await;
        assert_eq!((Openai.text(&answer).as_str(), answer.header("x-portcullis-attempts")), ("x", Some("2")));
        for _ in 0..4 {
            ask(&gateway, "up/m").await;
        }
        let used = used(&upstream);
        assert!(used[1..].iter().all(|k| *k != used[0]), "{used:?}");
    }
}

#[tokio::test]
async fn when_every_key_was_refused_nothing_more_is_sent() {
    let upstream =
        Upstream::saying(Say::error(401, "{\"error\":{\"message\":\"Incorrect API key provided: sk-one\"}}")).await;
    let gateway = keyed(&upstream).await;
    for family in FAMILIES {
        let answer = family.ask(&gateway, "up/m", false).await;
        assert!(answer.status >= 429 && !answer.text().contains("sk-"), "{} {}", answer.status, answer.text());
        family.error(&answer);
    }
    assert_eq!(upstream.heard().len(), 2, "one try a key");
}

#[tokio::test]
async fn a_rate_limited_key_gives_way_to_the_other() {
    let upstream = Upstream::saying(hi("x")).await;
    upstream.then(Say::error(429, "{}").header("retry-after", "30"));
    let gateway = keyed(&upstream).await;
    assert_eq!(ask(&gateway, "up/m").await.status, 200);
    ask(&gateway, "up/m").await;
    let used = used(&upstream);
    assert!(used[0] != used[1] && used[1] == used[2], "{used:?}");
}

// allow-lists

async fn as_key(gateway: &Gateway, family: Family, key: &str, model: &str) -> Answer {
    let headers = [("x-api-key", key), ("content-type", "application/json")];
    gateway.post_with(&family.path(model, false), &headers, &family.body(model, false, "x")).await
}

#[tokio::test]
async fn a_key_reaches_only_the_models_on_its_list() {
    let a = Upstream::saying(hi("a")).await;
    let config =
        format!("[auth]\nrequired = true\n{}models = [\"llama-\"]\n{}", a.provider("a", "openai_chat"), alias(&["a"]));
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name":"k","models":["all","a/llama-*"]}"#).await;
    for family in FAMILIES {
        for (model, status) in
            [("all", 200), ("a/llama-3", 200), ("llama-3", 200), ("a/m", 403), ("mock", 403), ("no/such", 403)]
        {
            let answer = as_key(&gateway, family, &key, model).await;
            assert_eq!(answer.status, status, "{family:?} {model}: {}", answer.text());
            if status == 403 {
                let error = family.error(&answer);
                assert!(error.code == "model_not_allowed" && error.message.contains(model), "{}", error.message);
            }
        }
    }
}

#[tokio::test]
async fn a_team_and_its_key_must_both_allow_a_model() {
    let a = Upstream::saying(hi("a")).await;
    let team = "[teams.red]\nmodels = [\"a/one\", \"a/two\"]\ndefaults = { temperature = 0.25 }\n";
    let gateway = Gateway::start(&format!("[auth]\nrequired = true\n{}{team}", a.provider("a", "openai_chat"))).await;
    let (_, key) = gateway.key(r#"{"name":"k","team":"red","models":["a/two","a/three"]}"#).await;
    for family in FAMILIES {
        for (model, status) in [("a/one", 403), ("a/two", 200), ("a/three", 403)] {
            assert_eq!(as_key(&gateway, family, &key, model).await.status, status, "{family:?} {model}");
        }
        assert_eq!(a.last().json()["temperature"].as_f64(), Some(0.25), "the team's default is in force");
    }
}

#[tokio::test]
async fn the_model_list_shows_what_the_caller_may_use() {
    let a = Upstream::saying(hi("a")).await;
    let gateway =
        Gateway::start(&format!("[auth]\nrequired = true\n{}{}", a.provider("a", "openai_chat"), alias(&["a"]))).await;
    let (_, key) = gateway.key(r#"{"name":"k","models":["all"]}"#).await;
    let headers = [("x-api-key", key.as_str()), ("anthropic-version", "2023-06-01")];
    let list = crate::support::request(gateway.addr, "GET", "/v1/models", &headers, b"").await.json();
    let ids: Vec<&str> = list["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(ids, ["all"]);
}
