//! Answers that `builtin/cache` keeps in a real redis-server for all gateways that share it: given by each of them to their tenant under
//! their policy alone, taken away from all at once, and never in the way when the server is.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    cache::{said, streamed, word},
    family::{FAMILIES, Family, Openai},
    server::{Reply, Server},
    shared::{MASTER, gateway, long, shared},
    support::{Answer, Gateway, Process, Upstream, eventually},
};

const STAGE: &str = "[[stages]]\nuse = \"builtin/cache\"\n";
/// A tenant of their own for callers without a key.
const OPEN: &str = "[auth]\nrequired = false\n[secrets]\nmaster_key = \"file:master.key\"\n";

/// Gateways that anybody may ask.
fn open(server: &Server, more: &str) -> String {
    format!("{OPEN}[store]\nkind = \"redis\"\nurl = \"{}\"\n{more}", server.url())
}

async fn ask(gateway: &Gateway, family: Family, stream: bool, text: &str) -> Answer {
    gateway.post(&family.path("up/m", stream), &family.body("up/m", stream, text)).await
}

async fn ask_as(gateway: &Gateway, key: &str, text: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    gateway.post_with("/v1/chat/completions", &headers, &Openai.body("up/m", false, text)).await
}

/// The values that lie there.
fn names(server: &Server) -> Vec<String> {
    let Reply::List(keys) = server.ask(&["KEYS", "*:v:=*"]) else { panic!("a list") };
    let mut names: Vec<String> = keys
        .into_iter()
        .map(|key| match key {
            Reply::Text(name) => name,
            other => panic!("{other:?}"),
        })
        .collect();
    names.sort();
    names
}

async fn kept(server: &Server, count: usize) {
    eventually("they lie in Redis", async || names(server).len() >= count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_give_each_others_answers_whole_and_as_streams_in_every_format() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::start().await;
    let config = open(&server, &format!("{}[cache]\nttl = \"30m\"\n{STAGE}", upstream.provider("up", "openai_chat")));
    let (a, b) = (gateway(&config).await, gateway(&config).await);
    let (mut asked, mut shared) = (0, 0);
    for family in FAMILIES {
        for first_streams in [false, true] {
            let text = format!("{family:?} {first_streams}");
            upstream.always(match first_streams {
                true => streamed(Openai, &[&text, " two ", "three"]),
                false => said(Openai, &format!("{text} two three")),
            });
            let first = ask(&a, family, first_streams, &text).await;
            assert_eq!((first.status, word(&first)), (200, "miss"), "{text}: {}", first.text());
            asked += 1;
            kept(&server, asked).await;
            let calls = upstream.heard().len();
            for (n, stream) in [!first_streams, first_streams].into_iter().enumerate() {
                let again = ask(&b, family, stream, &text).await;
                assert_eq!((again.status, family.text(&again)), (200, format!("{text} two three")), "{}", again.text());
                assert!(again.complete && (!stream || family.terminals(&again) == 1), "{}", again.text());
                assert_eq!(family.finish(&again), family.finish(&first), "{text}");
                assert!(n == 0 || word(&again) == "hit", "the second time it has its own");
            }
            shared += usize::from(upstream.heard().len() == calls);
        }
    }
    // On a machine that is busy a look may miss its deadline, and is a miss.
    assert!(shared > asked / 2, "{shared} of {asked} came from the other one");
    // Nobody can read there what was said, or whose it is; and it ends by itself.
    for name in names(&server) {
        let Reply::Int(left) = server.ask(&["PTTL", &name]) else { panic!("it ends") };
        assert!((1..=1_800_000).contains(&left), "{left}");
        let Reply::Text(value) = server.ask(&["GET", &name]) else { panic!("a value") };
        for word in ["three", "Openai", "up/m", "choices"] {
            assert!(!value.contains(word) && !name.contains(word), "{word} in {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_requests_at_a_cold_gateway_look_once() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(said(Openai, "one two three")).await;
    let config = open(&server, &format!("{}{STAGE}", upstream.provider("up", "openai_chat")));
    let (a, b) = (gateway(&config).await, gateway(&config).await);
    let mut round = 0;
    // A look that misses its deadline is a miss: a machine that is busy gets another try.
    eventually("all have it of one look", async || {
        round += 1;
        let (question, calls) = (format!("question {round}"), upstream.heard().len() + 1);
        ask(&a, Openai, false, &question).await;
        kept(&server, round).await;
        let before = server.calls("mget");
        let answers = join_all((0..60).map(|n| ask(&b, Openai, n % 2 == 0, &question))).await;
        for answer in &answers {
            assert_eq!((answer.status, Openai.text(answer)), (200, "one two three".into()), "{}", answer.text());
        }
        let looked = server.calls("mget") - before;
        assert!(looked <= 3, "{looked} looks");
        upstream.heard().len() == calls && answers.iter().all(|answer| word(answer) == "hit")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_crosses_tenants_or_policies_between_gateways() {
    let Some(server) = Server::start(&[]) else { return };
    let tries = if long() { 20_000 } else { 2_000 };
    let upstream = Upstream::saying(said(Openai, "before")).await;
    // Memory holds next to nothing: Redis is asked each time.
    let config = |note: &str| {
        let more = format!(
            "{}[cache]\nmemory = \"4KiB\"\n{STAGE}[models.{note}]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n",
            upstream.provider("up", "openai_chat")
        );
        shared(&server, &more)
    };
    let both = [gateway(&config("one")).await, gateway(&config("one")).await];
    let mut keys = Vec::new();
    for (tenant, body) in [
        ("lab", r#"{"name":"a","team":"lab"}"#),
        ("lab", r#"{"name":"b","team":"lab"}"#),
        ("shop", r#"{"name":"c","team":"shop"}"#),
        ("own d", r#"{"name":"d"}"#),
        ("own e", r#"{"name":"e"}"#),
    ] {
        let (_, key) = both[0].key(body).await;
        eventually("both know the key", async || ask_as(&both[1], &key, "hi").await.status != 401).await;
        keys.push((tenant, key));
    }
    let (mut policies, mut hits) = (["one", "one"], 0);
    for n in 0..tries {
        // First one of them goes on to another policy, then the other one.
        if n == tries / 3 || n == tries * 2 / 3 {
            let at = usize::from(n == tries * 2 / 3);
            policies[at] = "two";
            both[at].rewrite(&config("two"));
            eventually("the change is live", async || {
                both[at].admin("GET", "/api/v1/models", "").await.text().contains("\"two\"")
            })
            .await;
        }
        let (tenant, key) = &keys[(n * 7 + n / 5) % keys.len()];
        let (question, at) = (n % 12, n % 7 % 2);
        upstream.always(said(Openai, &format!("{tenant}, {question}, {}: {n}", policies[at])));
        let given = ask_as(&both[at], key, &format!("question {question}")).await;
        let text = Openai.text(&given);
        let mine = format!("{tenant}, {question}, {}: ", policies[at]);
        assert!(text.starts_with(&mine), "try {n} at {at}: {}", given.text());
        hits += usize::from(word(&given) == "hit");
    }
    assert!(hits > tries / 2, "{hits} of {tries}");
    // Both have the same policy again.
    upstream.always(said(Openai, "together"));
    let mut round = 0;
    eventually("they share again", async || {
        round += 1;
        let (question, before) = (format!("last {round}"), names(&server).len());
        ask_as(&both[0], &keys[0].1, &question).await;
        kept(&server, before + 1).await;
        word(&ask_as(&both[1], &keys[1].1, &question).await) == "hit"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_away_at_one_gateway_no_other_gives_a_moment_later() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(said(Openai, "old")).await;
    let config = shared(&server, &format!("{}{STAGE}", upstream.provider("up", "openai_chat")));
    let (a, b) = (gateway(&config).await, gateway(&config).await);
    let (_, lab) = a.key(r#"{"name":"a","team":"lab"}"#).await;
    let (_, own) = a.key(r#"{"name":"b"}"#).await;
    eventually("both know the keys", async || {
        ask_as(&b, &lab, "x").await.status == 200 && ask_as(&b, &own, "x").await.status == 200
    })
    .await;
    for key in [&lab, &own] {
        ask_as(&a, key, "hi").await;
    }
    kept(&server, 4).await;
    for key in [&lab, &own] {
        eventually("it is in the other's memory", async || word(&ask_as(&b, key, "hi").await) == "hit").await;
    }
    upstream.always(said(Openai, "new"));
    let removed = a.admin("DELETE", "/api/v1/cache?team=lab", "").await;
    assert_eq!((removed.status, removed.json()), (200, json!({"removed": 2})), "{}", removed.text());
    assert_eq!(Openai.text(&ask_as(&a, &lab, "hi").await), "new", "here at once");
    eventually("and there a moment later", async || Openai.text(&ask_as(&b, &lab, "hi").await) == "new").await;
    for gateway in [&a, &b] {
        assert_eq!(Openai.text(&ask_as(gateway, &own, "hi").await), "old", "others keep theirs");
    }
    let all = b.admin("DELETE", "/api/v1/cache", "").await.json();
    assert!(all["removed"].as_u64().is_some_and(|n| n >= 2), "{all}");
    eventually("all of it is gone", async || Openai.text(&ask_as(&a, &own, "hi").await) == "new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_a_miss_and_delays_nobody() {
    let Some(mut server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(said(Openai, "well")).await;
    let config = open(&server, &format!("{}{STAGE}", upstream.provider("up", "openai_chat")));
    let one = Process::start(&config, &[("master.key", MASTER)]).await;
    let ask = async |text: &str| {
        let body = Openai.body("up/m", false, text);
        let json = [("content-type", "application/json")];
        crate::support::request(one.addr, "POST", "/v1/chat/completions", &json, body.as_bytes()).await
    };
    let well = async |what: &str, from: usize| {
        for n in from..from + 60 {
            let answer = ask(&format!("{what} {n}")).await;
            assert_eq!((answer.status, word(&answer)), (200, "miss"), "{what} {n}: {}", answer.text());
            let again = ask(&format!("{what} {n}")).await;
            assert_eq!((again.status, word(&again)), (200, "hit"), "memory goes on: {}", again.text());
        }
    };
    ask("before").await;
    kept(&server, 1).await;
    server.pause();
    let begun = Instant::now();
    well("silent", 0).await;
    let took = begun.elapsed();
    // Sixty waits of a quarter of a second would be fifteen.
    assert!(took < Duration::from_secs(12), "{took:?}");
    server.resume();
    eventually("it is used again", async || {
        ask(&format!("resumed {}", begun.elapsed().as_nanos())).await;
        names(&server).len() > 1
    })
    .await;
    server.kill();
    well("dead", 60).await;
    let metrics = one.metrics().await;
    let failed = metrics.lines().find_map(|line| {
        line.strip_prefix("portcullis_cache_reads_total{tier=\"redis\",outcome=\"failed\"} ")?.parse::<u64>().ok()
    });
    assert!(failed.is_some_and(|n| n >= 60), "{failed:?}");
    assert!(server.run().expect("it starts"), "it is there again");
    // It forgot all it had, the store's rows among it: the gateway goes on with what it knows.
    well("emptied", 120).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_there_is_not_an_answer() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(said(Openai, "lab's")).await;
    let config =
        shared(&server, &format!("{}[cache]\nmemory = \"1KiB\"\n{STAGE}", upstream.provider("up", "openai_chat")));
    let one = gateway(&config).await;
    let (_, lab) = one.key(r#"{"name":"a","team":"lab"}"#).await;
    let (_, shop) = one.key(r#"{"name":"b","team":"shop"}"#).await;
    ask_as(&one, &lab, "hi").await;
    kept(&server, 1).await;
    let mine = names(&server);
    upstream.always(said(Openai, "shop's"));
    ask_as(&one, &shop, "hi").await;
    kept(&server, 2).await;
    let theirs = names(&server).into_iter().find(|name| !mine.contains(name)).expect("another");
    // One tenant's value under the other's name.
    assert_eq!(server.ask(&["COPY", &mine[0], &theirs, "REPLACE"]), Reply::Int(1));
    let other = gateway(&config).await;
    upstream.always(said(Openai, "shop's anew"));
    let given = ask_as(&other, &shop, "hi").await;
    assert_eq!((word(&given), Openai.text(&given)), ("miss", "shop's anew".into()));
    assert_eq!(Openai.text(&ask_as(&other, &lab, "hi").await), "lab's");
    // Bytes in the middle, an end that is missing, and nothing that anybody wrote.
    for (n, damage) in [
        vec!["SETRANGE", &mine[0], "40", "????"],
        vec!["SETRANGE", &mine[0], "0", "\x01"],
        vec!["SET", &mine[0], "nonsense"],
        vec!["SET", &mine[0], ""],
    ]
    .into_iter()
    .enumerate()
    {
        server.ask(&damage);
        let fresh = gateway(&config).await;
        upstream.always(said(Openai, &format!("anew {n}")));
        let given = ask_as(&fresh, &lab, "hi").await;
        assert_eq!((word(&given), Openai.text(&given)), ("miss", format!("anew {n}")), "{damage:?}");
        let put_anew = async || {
            // Memory has room for one.
            ask_as(&fresh, &lab, "other").await;
            ask_as(&fresh, &lab, "hi").await;
            matches!(server.ask(&["STRLEN", &mine[0]]), Reply::Int(size) if size > 100)
        };
        eventually("it is kept again", put_anew).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_of_different_policies_share_nothing_and_the_bound_holds() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::start().await;
    let script = |mark: &str| format!("fn request(request, context) {{ let mark = \"{mark}\"; }}");
    let config = open(
        &server,
        &format!(
            "{}[cache]\nmemory = \"16KiB\"\nmax_answer = \"4KiB\"\nmax_size = \"20KiB\"\n[[stages]]\nuse = \
             \"scripts/a.rhai\"\n{STAGE}",
            upstream.provider("up", "openai_chat")
        ),
    );
    let with =
        async |mark: &str| Gateway::with(&config, &[("master.key", MASTER), ("scripts/a.rhai", &script(mark))]).await;
    let (a, b, c) = (with("one").await, with("two").await, with("one").await);
    upstream.always(said(Openai, "a's"));
    ask(&a, Openai, false, "hi").await;
    kept(&server, 1).await;
    upstream.always(said(Openai, "b's"));
    let given = ask(&b, Openai, false, "hi").await;
    assert_eq!((word(&given), Openai.text(&given)), ("miss", "b's".into()));
    upstream.always(said(Openai, "a's"));
    let mut round = 0;
    eventually("those of one policy share", async || {
        round += 1;
        let question = format!("hi {round}");
        ask(&a, Openai, false, &question).await;
        kept(&server, 2 + round).await;
        let given = ask(&c, Openai, false, &question).await;
        assert_eq!(Openai.text(&given), "a's");
        word(&given) == "hit"
    })
    .await;
    for n in 0..120 {
        ask(&a, Openai, false, &format!("more {n}")).await;
    }
    eventually("all were written", async || {
        let Reply::Text(bytes) = server.ask(&["GET", "{portcullis}:v:bytes"]) else { return false };
        bytes.parse::<u64>().is_ok_and(|n| n > 10 << 10)
    })
    .await;
    let Reply::Text(bytes) = server.ask(&["GET", "{portcullis}:v:bytes"]) else { panic!("a number") };
    assert!(bytes.parse::<u64>().expect("a number") <= 20 << 10, "{bytes}");
    assert!(names(&server).len() < 60, "{}", names(&server).len());
}
