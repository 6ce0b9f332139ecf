//! `builtin/cache`: the same request of the same tenant gets the answer that is there, equal requests fly once, and nobody gets
//! what is another's, half, or refused (promises 13 and 34).

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    family::{Anthropic, FAMILIES, Family, Gemini, Openai},
    support::{Answer, End, Gateway, Say, Upstream, begin, eventually, read_rest, read_until},
};

const STAGE: &str = "[[stages]]\nuse = \"builtin/cache\"\n";
const KEYS: &str = "[auth]\nrequired = true\n";

async fn cached(upstream: &Upstream, format: &str) -> Gateway {
    Gateway::start(&format!("{}{STAGE}", upstream.provider("up", format))).await
}

pub fn said(family: Family, text: &str) -> Say {
    Say::json(family.whole(text))
}

pub fn streamed(family: Family, pieces: &[&str]) -> Say {
    Say::sse(family.frames(pieces).concat())
}

pub fn word(answer: &Answer) -> &str {
    answer.header("x-portcullis-cache").unwrap_or("none")
}

/// With a header or two.
async fn ask_with(gateway: &Gateway, headers: &[(&str, &str)], text: &str) -> Answer {
    gateway.post_with("/v1/chat/completions", headers, &Openai.body("up/m", false, text)).await
}

async fn ask_as(gateway: &Gateway, key: &str, text: &str) -> Answer {
    ask_with(gateway, &[("authorization", &format!("Bearer {key}"))], text).await
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_whole_and_as_a_stream_in_every_format() {
    for family in FAMILIES {
        for upstream_format in FAMILIES {
            for first_streams in [false, true] {
                let say = match first_streams {
                    true => streamed(upstream_format, &["one ", "two ", "three"]),
                    false => said(upstream_format, "one two three"),
                };
                let upstream = Upstream::saying(say).await;
                let gateway = cached(&upstream, upstream_format.format()).await;
                let case = format!("{family:?} from {upstream_format:?}, first streams: {first_streams}");
                let first = family.ask(&gateway, "up/m", first_streams).await;
                assert_eq!((first.status, word(&first)), (200, "miss"), "{case}: {}", first.text());
                for streams in [first_streams, !first_streams, first_streams] {
                    let again = family.ask(&gateway, "up/m", streams).await;
                    assert_eq!((again.status, word(&again)), (200, "hit"), "{case}: {}", again.text());
                    assert_eq!(family.text(&again), "one two three", "{case}");
                    assert!(again.complete && again.header("age").is_some(), "{case}");
                    assert_eq!(again.header("x-portcullis-target"), Some("up/m"), "{case}");
                    if streams {
                        assert_eq!(family.terminals(&again), 1, "{case}: {}", again.text());
                    } else {
                        assert_eq!(again.header("x-portcullis-cost-usd"), Some("0"), "{case}");
                    }
                    assert_eq!(family.finish(&again), family.finish(&first), "{case}: {}", again.text());
                }
                assert_eq!(upstream.heard().len(), 1, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn responses_and_converse_are_cached_like_the_others() {
    let upstream = Upstream::saying(said(Openai, "kept words")).await;
    let gateway = cached(&upstream, "openai_chat").await;
    let responses = |stream: bool| json!({"model": "up/m", "input": "hello", "stream": stream}).to_string();
    let converse = json!({"messages": [{"role": "user", "content": [{"text": "hello"}]}]}).to_string();
    for (path, body, word_of) in [
        ("/v1/responses", responses(false), "miss"),
        ("/v1/responses", responses(false), "hit"),
        ("/v1/responses", responses(true), "hit"),
        ("/model/up%2Fm/converse", converse.clone(), "miss"),
        ("/model/up%2Fm/converse", converse.clone(), "hit"),
        ("/model/up%2Fm/converse-stream", converse, "hit"),
    ] {
        let answer = gateway.post(path, &body).await;
        assert_eq!((answer.status, word(&answer)), (200, word_of), "{path}: {}", answer.text());
        assert!(answer.text().contains("kept words"), "{path}: {}", answer.text());
    }
    assert_eq!(upstream.heard().len(), 2, "one a format");
    // Each answer has a name of its own, under which it is stored, and can be gone on from.
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = gateway.post("/v1/responses", &responses(false)).await.json();
        ids.push(answer["id"].as_str().expect("an id").to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    let streamed = gateway.post("/v1/responses", &responses(true)).await;
    let last = crate::family::events(&streamed).pop().expect("events");
    let id = last["response"]["id"].as_str().expect("an id").to_owned();
    for id in ids.iter().chain([&id]) {
        assert_eq!(gateway.get(&format!("/v1/responses/{id}")).await.status, 200, "{id}");
    }
}

#[tokio::test]
async fn tool_calls_thoughts_and_usage_come_back() {
    let answer = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "up-1",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "text", "text": "I look"},
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1.50}},
        ],
        "stop_reason": "tool_use", "stop_sequence": null, "usage": {"input_tokens": 30, "output_tokens": 20},
    });
    let upstream = Upstream::saying(Say::json(answer.to_string())).await;
    let gateway = cached(&upstream, "anthropic_messages").await;
    let body = json!({
        "model": "up/m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    });
    let first = gateway.post("/v1/messages", &body.to_string()).await.json();
    let again = gateway.post("/v1/messages", &body.to_string()).await;
    assert_eq!(word(&again), "hit");
    let again = again.json();
    for field in ["content", "stop_reason", "usage", "model", "role"] {
        assert_eq!(first[field], again[field], "{field}");
    }
    assert_eq!(upstream.heard().len(), 1);
}

#[tokio::test]
async fn what_is_half_refused_or_cut_is_never_kept() {
    let finish = |reason: &str| Openai.whole("x").replace("\"stop\"", &format!("\"{reason}\""));
    let half: String = Openai.frames(&["one", "two"])[..2].concat();
    let cases: Vec<(&str, bool, Say)> = vec![
        ("cut by a bound", false, Say::json(finish("length"))),
        ("filtered", false, Say::json(finish("content_filter"))),
        ("refused", false, Say::error(400, &Openai.error_body(400, "no"))),
        ("failed", false, Say::error(500, "{}")),
        ("no answer", false, Say::json("{\"id\":").end(End::Cut)),
        ("half a stream", true, Say::sse(half).end(End::Cut)),
        (
            "an error in the stream",
            true,
            Say::sse(format!("{}{}", Openai.frames(&["a"])[..2].concat(), Openai.error_frame())),
        ),
    ];
    for (what, stream, say) in cases {
        let upstream = Upstream::saying(said(Openai, "well")).await;
        if stream {
            upstream.always(streamed(Openai, &["well"]));
        }
        upstream.then(say);
        let gateway = cached(&upstream, "openai_chat").await;
        Openai.ask(&gateway, "up/m", stream).await;
        let calls = upstream.heard().len();
        let again = Openai.ask(&gateway, "up/m", stream).await;
        // One that failed may have been asked for twice already, and then it went well.
        if calls == 1 {
            assert_eq!((word(&again), upstream.heard().len()), ("miss", 2), "{what}");
        }
        assert_eq!(Openai.text(&again), "well", "{what}");
    }
}

#[tokio::test]
async fn what_is_of_the_moment_is_not_cached() {
    let upstream = Upstream::saying(said(Anthropic, "fresh")).await;
    let gateway = cached(&upstream, "anthropic_messages").await;
    let body = json!({
        "model": "up/m", "max_tokens": 100, "messages": [{"role": "user", "content": "news?"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    });
    for count in 1..=2 {
        let answer = gateway.post("/v1/messages", &body.to_string()).await;
        assert_eq!((answer.status, word(&answer), upstream.heard().len()), (200, "none", count), "{}", answer.text());
    }
    assert!(gateway.record(2).await.to_string().contains("not cached"), "the trace says why");
}

#[tokio::test]
async fn chance_is_cached_unless_the_configuration_says_otherwise() {
    for (config, temperature, hits) in [
        ("", json!(1), true),
        ("", Value::Null, true),
        ("[cache]\nsampled = false\n", json!(1), false),
        ("[cache]\nsampled = false\n", Value::Null, false),
        ("[cache]\nsampled = false\n", json!(0), true),
    ] {
        let upstream = Upstream::saying(said(Openai, "x")).await;
        let gateway = Gateway::start(&format!("{}{config}{STAGE}", upstream.provider("up", "openai_chat"))).await;
        let mut body: Value = serde_json::from_str(&Openai.body("up/m", false, "hi")).expect("JSON");
        if !temperature.is_null() {
            body["temperature"] = temperature.clone();
        }
        gateway.chat(&body.to_string()).await;
        let again = gateway.chat(&body.to_string()).await;
        assert_eq!(word(&again) == "hit", hits, "{config} {temperature}");
    }
}

#[tokio::test]
async fn a_caller_may_go_around_the_cache_or_have_it_renewed() {
    let upstream = Upstream::saying(said(Openai, "old")).await;
    let gateway = cached(&upstream, "openai_chat").await;
    ask_with(&gateway, &[], "hi").await;
    upstream.always(said(Openai, "new"));
    let with = async |value: &str| {
        let answer = ask_with(&gateway, &[("x-portcullis-cache", value)], "hi").await;
        (word(&answer).to_owned(), Openai.text(&answer))
    };
    assert_eq!(with("max-age=3600").await, ("hit".into(), "old".into()));
    assert_eq!(with("off").await, ("none".into(), "new".into()));
    assert_eq!(Openai.text(&ask_with(&gateway, &[], "hi").await), "old", "what went around it left nothing");
    assert_eq!(with("refresh").await, ("miss".into(), "new".into()));
    assert_eq!(Openai.text(&ask_with(&gateway, &[], "hi").await), "new");
    upstream.always(said(Openai, "newer"));
    assert_eq!(with("max-age=0").await, ("miss".into(), "newer".into()));
    let wrong = ask_with(&gateway, &[("x-portcullis-cache", "maybe")], "hi").await;
    assert_eq!(wrong.status, 400);
    assert!(Openai.error(&wrong).message.contains("refresh"), "{}", wrong.text());
}

#[tokio::test]
async fn an_answer_is_given_again_only_for_its_time() {
    let upstream = Upstream::saying(said(Openai, "x")).await;
    let gateway =
        Gateway::start(&format!("{}[cache]\nttl = \"1s\"\n{STAGE}", upstream.provider("up", "openai_chat"))).await;
    ask_with(&gateway, &[], "hi").await;
    eventually("it is too old", async || word(&ask_with(&gateway, &[], "hi").await) == "miss").await;
    assert_eq!(upstream.heard().len(), 2);
}

#[tokio::test]
async fn a_hit_costs_nothing_and_its_record_says_so() {
    let upstream = Upstream::saying(said(Openai, "x")).await;
    let prices = "[[pricing]]\nmodel = \"up/*\"\ninput = 1000\noutput = 1000\n";
    let gateway = Gateway::start(&format!("{}{prices}{STAGE}", upstream.provider("up", "openai_chat"))).await;
    ask_with(&gateway, &[], "hi").await;
    let first = gateway.record(1).await;
    assert_eq!((&first["cache"], &first["cost_usd"]), (&json!("miss"), &json!(0.005)), "{first}");
    ask_with(&gateway, &[], "hi").await;
    let hit = gateway.record(2).await;
    assert_eq!((&hit["cache"], &hit["saved_usd"]), (&json!("hit"), &json!(0.005)), "{hit}");
    assert_eq!((&hit["cost_usd"], &hit["ledger"], &hit["attempts"]), (&json!(0), &json!([]), &json!(0)), "{hit}");
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    assert!(metrics.contains("portcullis_cache_requests_total{outcome=\"hit\"}"), "{metrics}");
}

#[tokio::test]
async fn guards_before_the_cache_see_every_answer_and_those_behind_it_only_new_ones() {
    let upstream = Upstream::saying(said(Openai, "x")).await;
    let adds = |mark: &str| {
        format!(
            "const STREAM = \"whole\";\nfn response(response, context) {{ response.text = response.text + \"{mark}\"; }}"
        )
    };
    let config = format!(
        "{}[[stages]]\nuse = \"scripts/outer.rhai\"\n{STAGE}[[stages]]\nuse = \"scripts/inner.rhai\"\n",
        upstream.provider("up", "openai_chat")
    );
    let files = [("scripts/outer.rhai", adds("o")), ("scripts/inner.rhai", adds("i"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::with(&config, &files).await;
    for _ in 0..3 {
        for stream in [false, true] {
            let answer = Openai.ask(&gateway, "up/m", stream).await;
            assert_eq!(Openai.text(&answer), "xio", "{}", answer.text());
        }
    }
    assert_eq!(upstream.heard().len(), 1);
    // The guard of now: a changed policy knows nothing of answers of the one before.
    gateway.write("scripts/outer.rhai", &adds("O"));
    eventually("the change is live", async || Openai.text(&Openai.ask(&gateway, "up/m", false).await) == "xiO").await;
    assert_eq!(upstream.heard().len(), 2);
}

#[tokio::test]
async fn what_a_guard_refuses_is_not_kept() {
    let upstream = Upstream::saying(said(Openai, "secret")).await;
    let guard = "const STREAM = \"whole\";\nfn response(response, context) { return reject(400, \"no\"); }";
    let config = format!("{}[[stages]]\nuse = \"scripts/guard.rhai\"\n{STAGE}", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::with(&config, &[("scripts/guard.rhai", guard)]).await;
    for count in 1..=2 {
        let answer = Openai.ask(&gateway, "up/m", false).await;
        assert_eq!((answer.status, upstream.heard().len()), (400, count), "{}", answer.text());
    }
}

#[tokio::test]
async fn no_answer_crosses_tenants_also_after_the_policy_changed() {
    let tries = if std::env::var("PORTCULLIS_LONG").is_ok() { 20_000 } else { 300 };
    let upstream = Upstream::start().await;
    let config = |note: &str| {
        format!(
            "{KEYS}{}{STAGE}# {note}\n[models.{note}]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n",
            upstream.provider("up", "openai_chat")
        )
    };
    let gateway = Gateway::start(&config("one")).await;
    let mut keys = Vec::new();
    for (tenant, body) in [
        ("lab", r#"{"name":"a","team":"lab"}"#),
        ("lab", r#"{"name":"b","team":"lab"}"#),
        ("shop", r#"{"name":"c","team":"shop"}"#),
        ("own d", r#"{"name":"d"}"#),
        ("own e", r#"{"name":"e"}"#),
    ] {
        keys.push((tenant, gateway.key(body).await.1));
    }
    let mut known: HashMap<(&str, usize), String> = HashMap::new();
    let mut hits = 0;
    for n in 0..tries {
        if n == tries / 2 {
            gateway.rewrite(&config("two"));
            eventually("the change is live", async || {
                gateway.admin("GET", "/api/v1/models", "").await.text().contains("\"two\"")
            })
            .await;
            known.clear();
        }
        let (tenant, key) = &keys[(n * 7 + n / 5) % keys.len()];
        let question = n % 4;
        let answer = format!("{tenant} {question} {n}");
        let expected = known.entry((*tenant, question)).or_insert_with(|| {
            upstream.then(said(Openai, &answer));
            answer.clone()
        });
        let given = ask_as(&gateway, key, &format!("question {question}")).await;
        assert_eq!(Openai.text(&given), *expected, "try {n}: {}", given.text());
        hits += usize::from(word(&given) == "hit");
    }
    assert_eq!(hits, tries - 2 * 4 * 4, "four tenants, four questions, two policies");
}

#[tokio::test]
async fn the_cache_can_be_emptied_of_one_tenant_and_of_all() {
    let upstream = Upstream::saying(said(Openai, "x")).await;
    let gateway = Gateway::start(&format!("{KEYS}{}{STAGE}", upstream.provider("up", "openai_chat"))).await;
    let (_, lab) = gateway.key(r#"{"name":"a","team":"lab"}"#).await;
    let (id, own) = gateway.key(r#"{"name":"b"}"#).await;
    let words = async || {
        let (lab, own) = (ask_as(&gateway, &lab, "hi").await, ask_as(&gateway, &own, "hi").await);
        (word(&lab).to_owned(), word(&own).to_owned())
    };
    let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let flush = async |query: &str| gateway.admin("DELETE", &format!("/api/v1/cache{query}"), "").await.json();
    assert_eq!(words().await, both("miss", "miss"));
    assert_eq!(words().await, both("hit", "hit"));
    assert_eq!(flush("?team=lab").await, json!({"removed": 1}));
    assert_eq!(words().await, both("miss", "hit"));
    assert_eq!(flush(&format!("?key={id}")).await, json!({"removed": 1}));
    assert_eq!(words().await, both("hit", "miss"));
    assert_eq!(flush("").await, json!({"removed": 2}));
    assert_eq!(words().await, both("miss", "miss"));
    assert_eq!(gateway.admin("DELETE", "/api/v1/cache?team=a&key=b", "").await.status, 400);
}

#[tokio::test]
async fn without_the_stage_nothing_is_cached() {
    let upstream = Upstream::saying(said(Openai, "x")).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    for count in 1..=2 {
        let answer = Openai.ask(&gateway, "up/m", false).await;
        assert_eq!((word(&answer), upstream.heard().len()), ("none", count));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_equal_misses_are_one_call_whole_and_streamed() {
    for stream in [false, true] {
        let say = match stream {
            true => {
                let frames = Openai.frames(&["one ", "two ", "three"]);
                let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
                Say::frames(&frames, Duration::from_millis(300))
            }
            false => said(Openai, "one two three").wait(Duration::from_secs(2)),
        };
        let upstream = Upstream::saying(say).await;
        let gateway = cached(&upstream, "openai_chat").await;
        let answers = join_all((0..1_000).map(|_| Openai.ask(&gateway, "up/m", stream))).await;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(Openai.text(answer), "one two three");
            assert!(answer.complete && (!stream || Openai.terminals(answer) == 1));
        }
        assert_eq!(upstream.heard().len(), 1, "streamed: {stream}");
        assert_eq!(answers.iter().filter(|answer| word(answer) == "miss").count(), 1, "one of them was sent");
        gateway.record(200).await;
        let rows = gateway.admin("GET", "/api/v1/requests?limit=500", "").await.json();
        let paid = rows["data"].as_array().expect("rows").iter().filter(|row| row["attempts"] != 0).count();
        assert!(paid <= 1, "who followed has no attempt of its own");
        gateway.stop().await;
    }
}

/// A stream that has begun, and its client.
async fn begun(gateway: &Gateway, key: Option<&str>, until: &str) -> (tokio::net::TcpStream, Vec<u8>) {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    let body = Openai.body("up/m", true, "hello");
    let mut socket = begin(gateway.addr, "POST", &Openai.path("up/m", true), &headers, body.as_bytes()).await;
    let read = read_until(&mut socket, until).await;
    (socket, read)
}

fn slow(pieces: &[&str], pause: Duration) -> Say {
    let frames = Openai.frames(pieces);
    let mut say = Say::sse("");
    let pauses = (0..frames.len()).map(|n| if n == 2 { pause } else { Duration::ZERO });
    say.chunks = pauses.zip(frames.iter().map(|frame| frame.clone().into_bytes())).collect();
    say
}

#[tokio::test]
async fn a_leader_that_leaves_does_not_end_what_others_hear() {
    let upstream = Upstream::saying(slow(&["one ", "two"], Duration::from_secs(3))).await;
    let gateway = cached(&upstream, "openai_chat").await;
    let leader = begun(&gateway, None, "one ").await;
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(begun(&gateway, None, "one ").await);
    }
    drop(leader);
    for (mut socket, read) in followers {
        let answer = read_rest(&mut socket, read).await;
        assert_eq!((word(&answer), Openai.text(&answer).as_str()), ("hit", "one two"));
        assert_eq!(Openai.terminals(&answer), 1);
    }
    assert_eq!((upstream.heard().len(), upstream.cancelled()), (1, 0));
    assert_eq!(word(&Openai.ask(&gateway, "up/m", false).await), "hit", "what nobody stayed for but others is kept");
}

#[tokio::test]
async fn a_flight_ends_when_nobody_waits_for_it_any_more() {
    let upstream = Upstream::saying(slow(&["one ", "two"], Duration::from_secs(60))).await;
    let gateway = cached(&upstream, "openai_chat").await;
    let leader = begun(&gateway, None, "one ").await;
    let follower = begun(&gateway, None, "one ").await;
    drop(leader);
    drop(follower);
    upstream.is_cancelled(1).await;
    upstream.always(streamed(Openai, &["well"]));
    let again = Openai.ask(&gateway, "up/m", true).await;
    assert_eq!((word(&again), Openai.text(&again).as_str()), ("miss", "well"));
    // The same before anything was said.
    upstream.always(said(Openai, "late").wait(Duration::from_secs(60)));
    let body = Openai.body("up/m", false, "another");
    let socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    upstream.hears(3).await;
    drop(socket);
    upstream.is_cancelled(2).await;
}

#[tokio::test]
async fn one_that_reads_slowly_holds_up_nobody() {
    let piece = "x".repeat(4_000);
    let pieces: Vec<&str> = std::iter::repeat_n(piece.as_str(), 150).collect();
    let upstream = Upstream::saying(streamed(Openai, &pieces)).await;
    let gateway = cached(&upstream, "openai_chat").await;
    // It reads its head, and nothing of what follows but what fits into the sockets.
    let _leader = begun(&gateway, None, "\r\n\r\n").await;
    let answer = Openai.ask(&gateway, "up/m", true).await;
    assert_eq!(Openai.text(&answer).len(), 600_000);
    assert_eq!(upstream.heard().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_is_followed_by_one_other_call() {
    let upstream = Upstream::saying(said(Openai, "well")).await;
    upstream.then(said(Openai, "never").wait(Duration::from_secs(60)));
    let gateway = Gateway::start(&format!("{KEYS}{}{STAGE}", upstream.provider("up", "openai_chat"))).await;
    let (id, leader) = gateway.key(r#"{"name":"a","team":"lab"}"#).await;
    let (_, follower) = gateway.key(r#"{"name":"b","team":"lab"}"#).await;
    let led = ask_as(&gateway, &leader, "hi");
    let killed = async {
        upstream.hears(1).await;
        let followers = join_all((0..1_000).map(|_| ask_as(&gateway, &follower, "hi")));
        let revoked = async {
            eventually("all are there", async || {
                let metrics = gateway.admin("GET", "/metrics", "").await.text();
                let line = metrics.lines().find(|line| line.starts_with("portcullis_inflight_requests "));
                line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok()).is_some_and(|n| n >= 1_000.0)
            })
            .await;
            gateway.admin("DELETE", &format!("/api/v1/keys/{id}?cut=true"), "").await
        };
        tokio::join!(followers, revoked).0
    };
    let (led, answers) = tokio::join!(led, killed);
    assert_eq!(led.status, 401, "{}", led.text());
    for answer in answers {
        assert_eq!((answer.status, Openai.text(&answer).as_str()), (200, "well"), "{}", answer.text());
    }
    assert_eq!(upstream.heard().len(), 2);
}

#[tokio::test]
async fn what_an_upstream_refuses_is_told_to_all_who_wait_and_asked_once() {
    let refusal = Say::error(400, &Openai.error_body(400, "too long")).wait(Duration::from_secs(2));
    let upstream = Upstream::saying(refusal).await;
    let gateway = cached(&upstream, "openai_chat").await;
    let first = Openai.ask(&gateway, "up/m", false);
    let rest = async {
        upstream.hears(1).await;
        join_all((0..20).map(|_| Openai.ask(&gateway, "up/m", false))).await
    };
    let (first, rest) = tokio::join!(first, rest);
    for answer in rest.iter().chain([&first]) {
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains("too long"), "{}", answer.text());
    }
    assert_eq!(upstream.heard().len(), 1);
}

#[tokio::test]
async fn other_tenants_fly_for_themselves() {
    let upstream = Upstream::saying(said(Openai, "x").wait(Duration::from_secs(1))).await;
    let gateway = Gateway::start(&format!("{KEYS}{}{STAGE}", upstream.provider("up", "openai_chat"))).await;
    let mut keys = Vec::new();
    for team in ["lab", "lab", "shop"] {
        keys.push(gateway.key(&json!({"name": "k", "team": team}).to_string()).await.1);
    }
    let answers = join_all(keys.iter().cycle().take(30).map(|key| ask_as(&gateway, key, "hi"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(upstream.heard().len(), 2);
}

#[tokio::test]
async fn single_flight_can_be_switched_off() {
    let upstream = Upstream::saying(said(Openai, "x").wait(Duration::from_secs(2))).await;
    let config = format!("{}[cache]\nsingle_flight = false\n{STAGE}", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::start(&config).await;
    join_all((0..3).map(|_| Openai.ask(&gateway, "up/m", false))).await;
    assert_eq!(upstream.heard().len(), 3);
    assert_eq!(word(&Openai.ask(&gateway, "up/m", false).await), "hit");
}

#[tokio::test]
async fn a_stream_that_dies_under_way_is_an_error_for_all() {
    for family in [Openai, Anthropic, Gemini] {
        let frames = family.frames(&["one ", "two", "three"]);
        let cut = family.lead() + 1;
        let mut say = Say::sse("");
        say.chunks = frames[..cut].iter().map(|frame| (Duration::ZERO, frame.clone().into_bytes())).collect();
        // It breaks off when all have heard the beginning.
        say.chunks.push((Duration::from_secs(2), b": so far\n\n".to_vec()));
        let upstream = Upstream::saying(say.end(End::Cut)).await;
        let gateway = cached(&upstream, family.format()).await;
        let answers = join_all((0..5).map(|_| family.ask(&gateway, "up/m", true))).await;
        for answer in &answers {
            assert_eq!(family.stream_errors(answer).len(), 1, "{family:?}: {}", answer.text());
            assert_eq!(family.terminals(answer), 0, "{family:?}: {}", answer.text());
        }
    }
}
