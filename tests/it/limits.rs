//! Requests, tokens and places of keys and teams: refused before the body is read, told in each family's words, given back
//! whatever happens.

use std::time::Duration;

use serde_json::Value;

use crate::{
    family::{Anthropic, FAMILIES, Family, Gemini, Openai},
    support::{Answer, End, Gateway, Process, Say, Upstream, begin, eventually, read_rest, request},
};

const CLOSED: &str = "[auth]\nrequired = true\n";

fn team(limits: &str) -> String {
    format!("{CLOSED}[teams.research]\nlimits = {{ {limits} }}\n")
}

async fn house(config: &str) -> (Gateway, String) {
    let gateway = Gateway::start(config).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
    (gateway, key)
}

async fn ask(gateway: &Gateway, family: Family, key: &str, text: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    gateway.post_with(&family.path("mock", false), &headers, &family.body("mock", false, text)).await
}

fn names(family: Family, kind: &str) -> [String; 3] {
    ["limit", "remaining", "reset"].map(|word| match family {
        Anthropic => format!("anthropic-ratelimit-{kind}-{word}"),
        Openai | Gemini => format!("x-ratelimit-{word}-{kind}"),
    })
}

fn number(answer: &Answer, name: &str) -> u64 {
    answer.header(name).unwrap_or_else(|| panic!("no {name}: {:?}", answer.headers)).parse().expect("a number")
}

fn no_rate_headers(answer: &Answer) -> bool {
    !answer.headers.iter().any(|(name, _)| name.contains("ratelimit"))
}

/// What a request took at most is corrected by what it used before its client can ask again.
#[tokio::test]
async fn who_asks_one_after_another_is_not_refused_for_what_was_not_used() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let up = upstream.provider("up", "openai_chat");
    let price = "[[pricing]]\nmodel = \"up/m\"\ninput = 0\noutput = 1000\n";
    for bound in ["limits = { output_tokens_per_minute = 1200 }", "budget = { usd = 1.1, per = \"day\" }"] {
        let (gateway, key) = house(&format!("{CLOSED}{up}{price}[teams.research]\n{bound}\n")).await;
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let body =
            serde_json::json!({"model": "up/m", "max_tokens": 1000, "messages": [{"role": "user", "content": "x"}]});
        for n in 0..40 {
            let answer = gateway.post_with("/v1/chat/completions", &headers, &body.to_string()).await;
            assert_eq!(answer.status, 200, "{bound}, request {n}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_used_up_minute_is_a_429_in_every_family_with_its_headers() {
    for family in FAMILIES {
        let (gateway, key) = house(&team("requests_per_minute = 2")).await;
        let [limit, left, reset] = names(family, "requests");
        for expected in [1, 0] {
            let answer = ask(&gateway, family, &key, "x").await;
            assert_eq!((answer.status, number(&answer, &limit), number(&answer, &left)), (200, 2, expected));
            assert!(answer.header(&reset).is_some() && answer.header(&names(family, "tokens")[0]).is_none());
        }
        let answer = ask(&gateway, family, &key, "x").await;
        let error = family.error(&answer);
        assert_eq!((answer.status, error.code.as_str()), (429, "rate_limited"), "{}", answer.text());
        assert!(
            error.message.contains("team `research`") && error.message.contains("requests_per_minute"),
            "{error:?}"
        );
        let wait = number(&answer, "retry-after");
        assert!((25..=30).contains(&wait), "{wait}");
        assert_eq!((number(&answer, &left), answer.header("x-should-retry")), (0, None), "the SDK may wait and retry");
    }
}

#[tokio::test]
async fn who_has_no_limit_gets_no_headers() {
    let (gateway, _) = house(&team("requests_per_minute = 2")).await;
    let (_, free) = gateway.key(r#"{"name":"ben"}"#).await;
    for family in FAMILIES {
        let answer = ask(&gateway, family, &free, "x").await;
        assert!(answer.status == 200 && no_rate_headers(&answer), "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    let (gateway, key) = house(&team("requests_per_minute = 1")).await;
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 200);
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-length", "100000")];
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, b"").await;
    assert_eq!(read_rest(&mut socket, Vec::new()).await.status, 429);
}

#[tokio::test]
async fn a_key_has_limits_of_its_own_beside_its_teams() {
    let (gateway, _) = house(&team("requests_per_minute = 3")).await;
    let (id, key) =
        gateway.key(r#"{"name":"ci","team":"research","limits":{"requests_per_minute":1,"concurrent":9}}"#).await;
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 200);
    let error = Openai.error(&ask(&gateway, Openai, &key, "x").await);
    assert!(error.message.contains("key `ci`"), "{error:?}");
    let listed = gateway.admin("GET", "/api/v1/keys", "").await.json();
    let row = listed["data"].as_array().unwrap().iter().find(|row| row["id"] == *id).cloned().unwrap();
    assert_eq!(row["limits"].to_string(), r#"{"requests_per_minute":1,"concurrent":9}"#);
    // Another limit holds at once, and what was used stays used.
    let path = format!("/api/v1/keys/{id}");
    let changed = gateway.admin("PATCH", &path, r#"{"limits":{"requests_per_minute":2}}"#).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 200);
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 429);
    // Without its own the team's still binds: it has counted those that were admitted.
    assert_eq!(gateway.admin("PATCH", &path, r#"{"limits":null}"#).await.status, 200);
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 200);
    let error = Openai.error(&ask(&gateway, Openai, &key, "x").await);
    assert!(error.message.contains("team `research`"), "{error:?}");
    for body in ["", "{}", r#"{"limits":{"requests_per_minute":0}}"#, r#"{"limits":{"rpm":1}}"#] {
        assert_eq!(gateway.admin("PATCH", &path, body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn limits_survive_a_reload_and_follow_it() {
    let (gateway, key) = house(&team("requests_per_minute = 3")).await;
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 200);
    gateway.rewrite(&team("requests_per_minute = 2"));
    let limit = "x-ratelimit-limit-requests";
    let shows = async |count: u64| {
        let teams = gateway.admin("GET", "/api/v1/teams", "").await.json();
        teams["data"][0]["limits"]["requests_per_minute"] == count
    };
    eventually("the new limit is live", async || shows(2).await).await;
    let answer = ask(&gateway, Openai, &key, "x").await;
    assert_eq!((answer.status, number(&answer, limit)), (200, 2));
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 429, "the first one was not forgotten");
    gateway.rewrite(CLOSED);
    eventually("the limit is gone", async || no_rate_headers(&ask(&gateway, Openai, &key, "x").await)).await;
}

/// Whoever asks while the gateway still starts is held to what was counted before.
#[tokio::test]
async fn a_used_up_day_binds_the_very_first_request_after_a_restart() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").port();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:{port}\"\ndrain_delay = \"0s\"\n[store]\nkind = \"sled\"\n{}",
        team("requests_per_day = 2")
    );
    let mut gateway = Process::start(&config, &[]).await;
    let made = gateway.admin("POST", "/api/v1/keys", r#"{"name":"ana","team":"research"}"#).await.json();
    let bearer = format!("Bearer {}", made["key"].as_str().expect("a key"));
    let addr = gateway.addr;
    let ask = async || {
        let headers = [("host", "x"), ("authorization", bearer.as_str())];
        request(addr, "POST", Openai.path("mock", false).as_str(), &headers, Openai.body("mock", false, "x").as_bytes())
            .await
    };
    for status in [200, 200, 429] {
        assert_eq!(ask().await.status, status);
    }
    gateway.halt();
    let early = async {
        eventually("its port is open", async || tokio::net::TcpStream::connect(addr).await.is_ok()).await;
        ask().await.status
    };
    let ((), status) = tokio::join!(gateway.again(), early);
    assert_eq!(status, 429);
}

#[tokio::test]
async fn a_place_comes_back_when_the_client_leaves_while_it_waits() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_secs(60))).await;
    let config = format!("{}{}", team("concurrent = 1"), upstream.provider("up", "openai_chat"));
    let (gateway, key) = house(&config).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = Openai.body("up/m", false, "x");
    let waiting = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
    upstream.hears(1).await;
    let answer = ask(&gateway, Openai, &key, "x").await;
    let error = Openai.error(&answer);
    assert_eq!((answer.status, error.code.as_str()), (429, "rate_limited"));
    assert!(error.message.contains("`concurrent`") && answer.header("retry-after") == Some("1"), "{error:?}");
    drop(waiting);
    upstream.is_cancelled(1).await;
    eventually("the place is free", async || ask(&gateway, Openai, &key, "x").await.status == 200).await;
}

#[tokio::test]
async fn a_place_comes_back_from_every_way_to_end() {
    let upstream = Upstream::start().await;
    let config = format!("{}{}", team("concurrent = 1"), upstream.provider("up", "openai_chat"));
    let (gateway, key) = house(&config).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let frames = Openai.frames(&["a", "b"]);
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    let post = async |body: &str| gateway.post_with("/v1/chat/completions", &headers, body).await;
    for say in [
        Say::json(Openai.whole("x")),
        Say::error(500, "{}"),
        Say::error(400, "{}"),
        Say::json("no answer at all"),
        Say::json("").end(End::Cut),
        Say::frames(&frames, Duration::ZERO),
        Say::frames(&frames[..2], Duration::ZERO).end(End::Cut),
    ] {
        upstream.always(say.clone());
        for stream in [false, true] {
            let answer = post(&Openai.body("up/m", stream, "x")).await;
            assert_ne!(answer.status, 429, "{say:?}: {}", answer.text());
        }
    }
    for body in ["{", "{}", r#"{"model":"nobody"}"#, r#"{"model":"mock","messages":[{"role":"user","content":7}]}"#] {
        assert!((400..=404).contains(&post(body).await.status), "{body}");
    }
    for path in ["/v1/models", "/v1/models/mock", "/v1/nothing"] {
        assert_ne!(request(gateway.addr, "GET", path, &headers, b"").await.status, 429);
    }
    assert_eq!(ask(&gateway, Openai, &key, "x").await.status, 200);
}

#[tokio::test]
async fn tokens_are_reserved_before_and_corrected_after() {
    let (gateway, key) = house(&team("tokens_per_minute = 3000")).await;
    for family in FAMILIES {
        let [limit, ..] = names(family, "tokens");
        let answer = ask(&gateway, family, &key, "[mock: usage=10/20]").await;
        assert_eq!((answer.status, number(&answer, &limit)), (200, 3000), "{}", answer.text());
    }
    gateway.record(3).await;
    // Three answers of thirty tokens each; a minute gives fifty a second.
    let answer = ask(&gateway, Openai, &key, "[mock: usage=10/2900]").await;
    let left = number(&answer, "x-ratelimit-remaining-tokens");
    assert!((1_800..=1_990).contains(&left), "a thousand are held for this answer: {left}");
    gateway.record(4).await;
    let answer = ask(&gateway, Openai, &key, "x").await;
    let error = Openai.error(&answer);
    assert_eq!((answer.status, error.code.as_str()), (429, "rate_limited"), "{}", answer.text());
    assert!(error.message.contains("tokens_per_minute") && number(&answer, "retry-after") > 0, "{error:?}");
}

#[tokio::test]
async fn a_prompt_that_can_never_fit_is_told_so() {
    let (gateway, key) = house(&team("tokens_per_minute = 100")).await;
    let answer = ask(&gateway, Openai, &key, &"word ".repeat(1_000)).await;
    let error = Openai.error(&answer);
    assert_eq!((answer.status, answer.header("retry-after")), (429, None), "{}", answer.text());
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert!(error.message.contains("may use 100 a minute"), "{error:?}");
}

#[tokio::test]
async fn an_answer_of_a_stage_takes_no_tokens() {
    let script = r#"fn request(request, context) { return respond("made here"); }"#;
    let gateway = Gateway::with(&team("tokens_per_minute = 500"), &[("scripts/a.rhai", script)]).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
    for _ in 0..5 {
        let answer = ask(&gateway, Openai, &key, &"word ".repeat(200)).await;
        assert_eq!((answer.status, number(&answer, "x-ratelimit-remaining-tokens")), (200, 500));
    }
}

#[tokio::test]
async fn tokens_of_a_client_that_left_are_counted_as_they_came() {
    let mut pieces = vec!["twelve bytes"; 40];
    pieces[39] = "the last one";
    let frames = Openai.frames(&pieces);
    let frames: Vec<&str> = frames[..41].iter().map(String::as_str).collect();
    for format in ["openai_chat", "anthropic_messages"] {
        let family = if format == "openai_chat" { Openai } else { Anthropic };
        let upstream = Upstream::saying(Say::frames(&frames, Duration::ZERO).end(End::Stall)).await;
        let config = format!("{}{}", team("tokens_per_minute = 100000"), upstream.provider("up", "openai_chat"));
        let (gateway, key) = house(&config).await;
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let body = family.body("up/m", true, &"word ".repeat(100));
        let mut socket = begin(gateway.addr, "POST", &family.path("up/m", true), &headers, body.as_bytes()).await;
        crate::support::read_until(&mut socket, "the last one").await;
        drop(socket);
        let record = gateway.record(1).await;
        assert_eq!(
            (record["status"].as_u64(), &record["ledger"][0]["estimated"]),
            (Some(499), &Value::Bool(true)),
            "{record}"
        );
        let (input, output) = (&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]);
        assert!((100..200).contains(&input.as_u64().unwrap()), "{record}");
        // No more than the client asked for.
        let expected = if family == Openai { 110..130 } else { 100..101 };
        assert!(expected.contains(&output.as_u64().unwrap()), "{format}: {record}");
    }
}
