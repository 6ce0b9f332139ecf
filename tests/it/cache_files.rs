//! Answers that `builtin/cache` keeps in files: there after a restart and after a kill, whole or not at all, for their tenant and
//! under their policy alone (promise 13).

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    cache::{said, streamed, word},
    family::{FAMILIES, Family, Openai},
    shared::long,
    support::{Answer, End, Process, Say, Upstream, eventually, request},
};

const STAGE: &str = "[[stages]]\nuse = \"builtin/cache\"\n";
const SLED: &str = "[store]\nkind = \"sled\"\n";
const JSON: (&str, &str) = ("content-type", "application/json");

async fn post(gateway: &Process, key: &str, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [JSON, ("authorization", bearer.as_str())];
    request(gateway.addr, "POST", path, if key.is_empty() { &headers[..1] } else { &headers }, body.as_bytes()).await
}

async fn ask(gateway: &Process, family: Family, stream: bool, text: &str) -> Answer {
    post(gateway, "", &family.path("up/m", stream), &family.body("up/m", stream, text)).await
}

/// How often that was counted.
async fn counted(gateway: &Process, series: &str) -> u64 {
    let metrics = gateway.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// So many answers lie in files.
async fn stored(gateway: &Process, count: u64) {
    let series = r#"portcullis_cache_stored_total{tier="files"}"#;
    eventually("they are written", async || counted(gateway, series).await >= count).await;
}

async fn key(gateway: &Process, body: &str) -> (String, String) {
    let made = gateway.admin("POST", "/api/v1/keys", body).await.json();
    let field = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    (field("id"), field("key"))
}

fn folder(gateway: &Process) -> PathBuf {
    gateway.path().join("data/cache")
}

fn files(gateway: &Process) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder(gateway)).expect("cache/").map(|e| e.expect("a file").path()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn kept_answers_survive_a_restart_whole_and_as_streams_in_every_format() {
    let upstream = Upstream::start().await;
    let prices = "[[pricing]]\nmodel = \"up/*\"\ninput = 1000\noutput = 1000\n";
    let config = format!("{SLED}{}{prices}{STAGE}", upstream.provider("up", "openai_chat"));
    let mut gateway = Process::start(&config, &[]).await;
    let mut cases = Vec::new();
    for family in FAMILIES {
        for first_streams in [false, true] {
            let text = format!("{family:?} {first_streams}");
            upstream.always(match first_streams {
                true => streamed(Openai, &[&text, " two ", "three"]),
                false => said(Openai, &format!("{text} two three")),
            });
            let first = ask(&gateway, family, first_streams, &text).await;
            assert_eq!((first.status, word(&first)), (200, "miss"), "{text}: {}", first.text());
            cases.push((family, text, first_streams, family.finish(&first)));
        }
    }
    stored(&gateway, cases.len() as u64).await;
    let last = async |gateway: &Process, figure: &str| {
        let rows = gateway.admin("GET", "/api/v1/requests?limit=1", "").await.json();
        rows["data"][0][figure].clone()
    };
    let recorded = async || {
        let rows = gateway.admin("GET", "/api/v1/requests?limit=100", "").await.json();
        rows["data"].as_array().is_some_and(|rows| rows.len() == cases.len())
    };
    eventually("the last one is recorded", recorded).await;
    let cost = last(&gateway, "cost_usd").await;
    assert!(cost.as_f64().is_some_and(|cost| cost > 0.0), "{cost}");
    let calls = upstream.heard().len();
    upstream.always(said(Openai, "another"));
    gateway.restart().await;
    for (family, text, first_streams, finish) in &cases {
        for stream in [*first_streams, !*first_streams] {
            let again = ask(&gateway, *family, stream, text).await;
            assert_eq!((again.status, word(&again)), (200, "hit"), "{text} {stream}: {}", again.text());
            assert_eq!(family.text(&again), format!("{text} two three"));
            assert!(again.complete && again.header("age").is_some(), "{text}");
            assert_eq!(again.header("x-portcullis-target"), Some("up/m"));
            assert_eq!(family.finish(&again), *finish, "{text}");
            if stream {
                assert_eq!(family.terminals(&again), 1, "{text}: {}", again.text());
            } else {
                assert_eq!(again.header("x-portcullis-cost-usd"), Some("0"));
            }
        }
    }
    assert_eq!(upstream.heard().len(), calls, "nothing was asked again");
    let hits = counted(&gateway, r#"portcullis_cache_reads_total{tier="files",outcome="hit"}"#).await;
    assert_eq!(hits, cases.len() as u64, "the second of each came from memory");
    // What it cost the first time is what it saves.
    eventually("the record says so", async || last(&gateway, "saved_usd").await == cost).await;
    // `off`, `refresh` and `max-age` hold behind memory, too.
    gateway.restart().await;
    let with = async |value: &str| {
        let body = Openai.body("up/m", false, &cases[0].1);
        let headers = [JSON, ("x-portcullis-cache", value)];
        let answer = request(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
        (word(&answer).to_owned(), Openai.text(&answer))
    };
    let old = format!("{} two three", cases[0].1);
    assert_eq!(with("off").await, ("none".into(), "another".into()));
    assert_eq!(with("max-age=0").await, ("miss".into(), "another".into()));
    upstream.always(said(Openai, "newest"));
    assert_eq!(with("max-age=3600").await, ("hit".into(), "another".into()));
    assert_eq!(with("refresh").await, ("miss".into(), "newest".into()));
    assert_ne!(with("max-age=3600").await.1, old);
}

#[tokio::test]
async fn after_a_kill_an_answer_is_whole_or_not_there() {
    let rounds: usize = if long() { 40 } else { 4 };
    let config = format!("{SLED}[cache]\nmemory = \"64KiB\"\n{STAGE}");
    let mut gateway = Process::start(&config, &[]).await;
    fn answer(n: usize) -> String {
        format!("answer {n} {}", "0123456789abcdef".repeat(1 + n * 37 % 300))
    }
    fn body(n: usize, stream: bool) -> String {
        let text = format!("[mock: text={}]", answer(n));
        json!({"model": "mock/m", "stream": stream, "messages": [{"role": "user", "content": text}]}).to_string()
    }
    let (mut asked, mut hits) = (0, 0);
    for round in 0..rounds {
        let fresh = asked..asked + 60;
        asked = fresh.end;
        let addr = gateway.addr;
        // Killed while some of them are under way, and some are being written.
        let load = tokio::spawn(async move {
            for n in fresh {
                let body = body(n, n % 2 == 0);
                let sent = tokio::spawn(async move {
                    let headers = [JSON];
                    request(addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await
                });
                if sent.await.is_err() {
                    return;
                }
            }
        });
        let some = (round % 3 * 25) as u64;
        let series = r#"portcullis_cache_stored_total{tier="files"}"#;
        eventually("some are written", async || counted(&gateway, series).await > some).await;
        gateway.kill_and_restart().await;
        load.abort();
        for n in 0..asked {
            let streams = n % 3 == 0;
            let again = post(&gateway, "", "/v1/chat/completions", &body(n, streams)).await;
            assert_eq!(again.status, 200, "{n}: {}", again.text());
            assert_eq!(Openai.text(&again), answer(n), "{n}, from the cache: {}", word(&again));
            hits += usize::from(word(&again) == "hit");
        }
    }
    assert!(hits > rounds, "some were there: {hits}");
}

#[tokio::test]
async fn what_is_damaged_is_asked_for_again_and_counted() {
    let upstream = Upstream::start().await;
    // Small enough a memory that files are read.
    let config = format!("{SLED}{}[cache]\nmemory = \"2KiB\"\n{STAGE}", upstream.provider("up", "openai_chat"));
    let mut gateway = Process::start(&config, &[]).await;
    let questions: Vec<String> = (0..12).map(|n| format!("question {n}")).collect();
    let all = async |gateway: &Process| {
        let mut hits = 0;
        for question in &questions {
            upstream.always(said(Openai, &format!("answer to {question}")));
            let answer = ask(gateway, Openai, false, question).await;
            assert_eq!(Openai.text(&answer), format!("answer to {question}"), "{}", word(&answer));
            hits += usize::from(word(&answer) == "hit");
        }
        hits
    };
    assert_eq!(all(&gateway).await, 0);
    stored(&gateway, 12).await;
    gateway.halt();
    let whole = fs::read(&files(&gateway)[0]).expect("one tenant's file");
    let other = Process::start(&config, &[]).await;
    ask(&other, Openai, false, &questions[0]).await;
    stored(&other, 1).await;
    let foreign = fs::read(&files(&other)[0]).expect("another gateway's");
    // Each of them costs what it hit, and nothing else: bytes of a body, of a head, an end that is missing, another gateway's file
    // under a name of ours, no sense at all, and files that are none.
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        bytes
    };
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("a body", flipped(60), true),
        ("a head in the middle", flipped(whole.len() / 2 / 44 * 44), true),
        ("an end", whole[..whole.len() - 5].to_vec(), true),
        ("another's", foreign, false),
        ("noise", b"\x17nonsense".repeat(500), false),
        ("nothing", Vec::new(), false),
    ];
    for (what, bytes, some) in cases {
        fs::remove_dir_all(folder(&gateway)).expect("gone");
        fs::create_dir(folder(&gateway)).expect("made");
        fs::write(folder(&gateway).join("0000000000"), bytes).expect("written");
        fs::write(folder(&gateway).join("notes.txt"), "not ours").expect("written");
        gateway.again().await;
        let hits = all(&gateway).await;
        assert_eq!((hits > 0, hits < 12), (some, true), "{what}: {hits}");
        assert_eq!(counted(&gateway, r#"portcullis_cache_reads_total{tier="files",outcome="failed"}"#).await, 0);
        stored(&gateway, 12 - hits as u64).await;
        assert_eq!(all(&gateway).await, 12, "{what}: all are there again");
        gateway.halt();
    }
    gateway.again().await;
    assert_eq!(all(&gateway).await, 12);
    // One that rots while the gateway runs is found when it is read, and only then.
    let before = counted(&gateway, r#"portcullis_cache_reads_total{tier="files",outcome="damaged"}"#).await;
    for path in files(&gateway) {
        let bytes = fs::read(&path).expect("read");
        let rotten: Vec<u8> = bytes.iter().map(|byte| byte ^ 0x55).collect();
        gateway.put(&format!("data/cache/{}", path.file_name().expect("a name").to_string_lossy()), &rotten, true);
    }
    all(&gateway).await;
    let after = counted(&gateway, r#"portcullis_cache_reads_total{tier="files",outcome="damaged"}"#).await;
    assert!(after > before, "{before} {after}");
    stored(&gateway, after - before).await;
    assert_eq!(all(&gateway).await, 12);
}

#[tokio::test]
async fn no_answer_crosses_tenants_or_policies_over_restarts() {
    let tries = if long() { 20_000 } else { 2_000 };
    let upstream = Upstream::start().await;
    let config = |note: &str| {
        format!(
            "[auth]\nrequired = true\n{SLED}{}[cache]\nmemory = \"4KiB\"\n{STAGE}# {note}\n[models.{note}]\ntargets = \
             [{{ provider = \"up\", model = \"m\" }}]\n",
            upstream.provider("up", "openai_chat")
        )
    };
    let mut gateway = Process::start(&config("one"), &[]).await;
    let mut keys = Vec::new();
    for (tenant, body) in [
        ("lab", r#"{"name":"a","team":"lab"}"#),
        ("lab", r#"{"name":"b","team":"lab"}"#),
        ("shop", r#"{"name":"c","team":"shop"}"#),
        ("own d", r#"{"name":"d"}"#),
        ("own e", r#"{"name":"e"}"#),
    ] {
        keys.push((tenant, key(&gateway, body).await.1));
    }
    let (mut policy, mut hits) = ("one", 0);
    for n in 0..tries {
        if n > 0 && n % (tries / 4) == 0 {
            // Now a change, now none; in turn with a kill.
            policy = if n == tries / 2 { "two" } else { policy };
            gateway.save("gateway.toml", &config(policy));
            if n == tries / 2 {
                gateway.restart().await;
            } else {
                gateway.kill_and_restart().await;
            }
        }
        let (tenant, key) = &keys[(n * 7 + n / 5) % keys.len()];
        let question = n % 12;
        upstream.always(said(Openai, &format!("{tenant}, {question}, {policy}: {n}")));
        let body = Openai.body("up/m", false, &format!("question {question}"));
        let given = post(&gateway, key, "/v1/chat/completions", &body).await;
        let text = Openai.text(&given);
        assert!(text.starts_with(&format!("{tenant}, {question}, {policy}: ")), "try {n}: {}", given.text());
        hits += usize::from(word(&given) == "hit");
    }
    assert!(hits > tries * 3 / 4, "{hits} of {tries}");
    let read = counted(&gateway, r#"portcullis_cache_reads_total{tier="files",outcome="hit"}"#).await;
    assert!(read > tries as u64 / 16, "{read} of them came from files since the last start");
}

#[tokio::test]
async fn guards_before_the_cache_see_what_comes_from_files() {
    let upstream = Upstream::saying(said(Openai, "x")).await;
    let adds = |mark: &str| {
        format!(
            "const STREAM = \"whole\";\nfn response(response, context) {{ response.text = response.text + \"{mark}\"; }}"
        )
    };
    let config = format!(
        "{SLED}{}[[stages]]\nuse = \"scripts/outer.rhai\"\n{STAGE}[[stages]]\nuse = \"scripts/inner.rhai\"\n",
        upstream.provider("up", "openai_chat")
    );
    let files = [("scripts/outer.rhai", adds("o")), ("scripts/inner.rhai", adds("i"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut gateway = Process::start(&config, &files).await;
    assert_eq!(Openai.text(&ask(&gateway, Openai, false, "hi").await), "xio");
    stored(&gateway, 1).await;
    for stream in [false, true] {
        gateway.restart().await;
        let again = ask(&gateway, Openai, stream, "hi").await;
        assert_eq!((word(&again), Openai.text(&again)), ("hit", "xio".into()), "once by each");
    }
    assert_eq!(upstream.heard().len(), 1);
    // The guard of now knows nothing of answers under the one before.
    gateway.save("scripts/outer.rhai", &adds("O"));
    gateway.restart().await;
    assert_eq!(Openai.text(&ask(&gateway, Openai, false, "hi").await), "xiO");
    gateway.save(
        "scripts/outer.rhai",
        "const STREAM = \"whole\";\nfn response(response, context) { return reject(400, \"no\"); }",
    );
    gateway.restart().await;
    for count in 3..=4 {
        let refused = ask(&gateway, Openai, false, "hi").await;
        assert_eq!((refused.status, upstream.heard().len()), (400, count), "what is refused is not kept");
        gateway.restart().await;
    }
}

#[tokio::test]
async fn what_is_half_refused_or_cut_is_in_no_file() {
    let finish = |reason: &str| Openai.whole("x").replace("\"stop\"", &format!("\"{reason}\""));
    let half: String = Openai.frames(&["one", "two"])[..2].concat();
    let failed = format!("{}{}", Openai.frames(&["a"])[..2].concat(), Openai.error_frame());
    let cases: Vec<(&str, bool, Say)> = vec![
        ("cut by a bound", false, Say::json(finish("length"))),
        ("filtered", false, Say::json(finish("content_filter"))),
        ("refused", false, Say::error(400, &Openai.error_body(400, "no"))),
        ("half a stream", true, Say::sse(half).end(End::Cut)),
        ("an error in the stream", true, Say::sse(failed)),
    ];
    let upstream = Upstream::start().await;
    let config = format!("{SLED}{}{STAGE}", upstream.provider("up", "openai_chat"));
    let mut gateway = Process::start(&config, &[]).await;
    for (what, stream, say) in &cases {
        upstream.always(say.clone());
        ask(&gateway, Openai, *stream, what).await;
    }
    // Behind them, so that they would have been written by now.
    upstream.always(said(Openai, "well"));
    ask(&gateway, Openai, false, "good").await;
    stored(&gateway, 1).await;
    gateway.restart().await;
    assert_eq!(counted(&gateway, r#"portcullis_cache_stored_total{tier="files"}"#).await, 0);
    for (what, _, _) in &cases {
        let again = ask(&gateway, Openai, false, what).await;
        assert_eq!((word(&again), Openai.text(&again)), ("miss", "well".into()), "{what}");
    }
    assert_eq!(word(&ask(&gateway, Openai, false, "good").await), "hit");
}

#[tokio::test]
async fn what_was_flushed_is_off_the_disk_and_written_in_the_audit_log() {
    let upstream = Upstream::saying(said(Openai, "x")).await;
    let config = format!("[auth]\nrequired = true\n{SLED}{}{STAGE}", upstream.provider("up", "openai_chat"));
    let mut gateway = Process::start(&config, &[]).await;
    let (_, lab) = key(&gateway, r#"{"name":"a","team":"lab"}"#).await;
    let (id, own) = key(&gateway, r#"{"name":"b"}"#).await;
    let words = async |gateway: &Process| {
        let body = Openai.body("up/m", false, "hi");
        let lab = post(gateway, &lab, "/v1/chat/completions", &body).await;
        let own = post(gateway, &own, "/v1/chat/completions", &body).await;
        [word(&lab).to_owned(), word(&own).to_owned()]
    };
    assert_eq!(words(&gateway).await, ["miss", "miss"]);
    stored(&gateway, 2).await;
    gateway.restart().await;
    // Neither lies in memory.
    let flush = async |gateway: &Process, query: &str| {
        gateway.admin("DELETE", &format!("/api/v1/cache{query}"), "").await.json()
    };
    assert_eq!(flush(&gateway, "?team=lab").await, json!({"removed": 1}));
    gateway.kill_and_restart().await;
    assert_eq!(words(&gateway).await, ["miss", "hit"]);
    stored(&gateway, 1).await;
    assert_eq!(flush(&gateway, &format!("?key={id}")).await, json!({"removed": 1}));
    gateway.restart().await;
    assert_eq!(words(&gateway).await, ["hit", "miss"]);
    stored(&gateway, 1).await;
    assert_eq!(flush(&gateway, "").await, json!({"removed": 2}));
    assert_eq!(files(&gateway), Vec::<PathBuf>::new(), "the files are gone");
    gateway.restart().await;
    assert_eq!(words(&gateway).await, ["miss", "miss"]);
    let rows = gateway.admin("GET", "/api/v1/audit?action=cache.delete&limit=10", "").await.json();
    let done = rows["data"].as_array().expect("rows").iter().filter(|row| row["outcome"] == "done").count();
    assert_eq!(done, 3, "{rows}");
    // Who may only look takes nothing away.
    let made = gateway.admin("POST", "/api/v1/tokens", r#"{"name":"watcher","role":"viewer"}"#).await.json();
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap_or_else(|| panic!("{made}")));
    let host = gateway.admin.to_string();
    let headers = [("host", host.as_str()), ("authorization", bearer.as_str())];
    assert_eq!(request(gateway.admin, "DELETE", "/api/v1/cache", &headers, b"").await.status, 403);
}

#[tokio::test]
async fn files_are_bounded_in_bytes() {
    let config = format!("{SLED}[cache]\nmemory = \"64KiB\"\nmax_answer = \"64KiB\"\nmax_size = \"1MiB\"\n{STAGE}");
    let gateway = Process::start(&config, &[]).await;
    let mut seed = 7u64;
    for n in 0..300 {
        // What does not get shorter.
        let noise: String = (0..8_000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'a' + (seed >> 40) as u8 % 26)
            })
            .collect();
        let body =
            json!({"model": "mock/m", "messages": [{"role": "user", "content": format!("[mock: text={n} {noise}]")}]});
        let answer = post(&gateway, "", "/v1/chat/completions", &body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    stored(&gateway, 250).await;
    let size = || files(&gateway).iter().map(|path| fs::metadata(path).map_or(0, |m| m.len())).sum::<u64>();
    eventually("room is made", async || size() <= 1 << 20).await;
    assert!(counted(&gateway, r#"portcullis_cache_evicted_total{tier="files"}"#).await > 0);
    eventually("the gauge follows", async || {
        let told = counted(&gateway, r#"portcullis_cache_bytes{tier="files"}"#).await;
        told > 0 && told <= 1 << 20
    })
    .await;
    // Who wants them in memory alone has none on the disk any more.
    let mut gateway = gateway;
    gateway.save("gateway.toml", &format!("{SLED}[cache]\npersist = \"memory\"\n{STAGE}"));
    gateway.restart().await;
    assert_eq!(files(&gateway), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn vectors_are_kept_where_the_configuration_says_so() {
    let vectors = |n: f64| {
        json!({
            "object": "list", "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3},
            "data": [{"object": "embedding", "index": 0, "embedding": [n, 0.25]}],
        })
        .to_string()
    };
    let upstream = Upstream::saying(Say::json(vectors(0.5))).await;
    let config = |more: &str| format!("{SLED}{}[cache]\n{more}{STAGE}", upstream.provider("up", "openai_chat"));
    let mut gateway = Process::start(&config(""), &[]).await;
    let body = |input: Value| json!({"model": "up/e", "input": input, "encoding_format": "float"}).to_string();
    let embed = async |gateway: &Process, path: &str, body: &str| post(gateway, "", path, body).await;
    for count in 1..=2 {
        let answer = embed(&gateway, "/v1/embeddings", &body(json!("hi"))).await;
        assert_eq!((answer.status, word(&answer), upstream.heard().len()), (200, "none", count), "{}", answer.text());
    }
    gateway.save("gateway.toml", &config("embeddings = true\n"));
    gateway.restart().await;
    let first = embed(&gateway, "/v1/embeddings", &body(json!("hi"))).await;
    assert_eq!((first.status, word(&first)), (200, "miss"), "{}", first.text());
    upstream.always(Say::json(vectors(0.75)));
    let again = embed(&gateway, "/v1/embeddings", &body(json!("hi"))).await;
    assert_eq!((again.status, word(&again), again.text()), (200, "hit", first.text()));
    assert_eq!(again.header("x-portcullis-cost-usd"), Some("0"));
    stored(&gateway, 1).await;
    gateway.restart().await;
    let after = embed(&gateway, "/v1/embeddings", &body(json!("hi"))).await;
    assert_eq!((word(&after), after.text()), ("hit", first.text()));
    // Another text, more of them, and another shape are other requests.
    let packed = json!({"model": "up/e", "input": "hi", "encoding_format": "base64"}).to_string();
    for other in [body(json!("ho")), body(json!(["hi"])), packed] {
        let answer = embed(&gateway, "/v1/embeddings", &other).await;
        assert_eq!((answer.status, word(&answer)), (200, "miss"), "{other}: {}", answer.text());
    }
    // What fails is not kept.
    upstream.always(Say::error(400, &Openai.error_body(400, "no")));
    assert_eq!(embed(&gateway, "/v1/embeddings", &body(json!("bad"))).await.status, 400);
    upstream.always(Say::json(vectors(1.5)));
    assert_eq!(word(&embed(&gateway, "/v1/embeddings", &body(json!("bad"))).await), "miss");
    let asks = json!({"content": {"parts": [{"text": "hi"}]}}).to_string();
    for expected in ["miss", "hit"] {
        let answer = embed(&gateway, "/v1beta/models/up%2Fe:embedContent", &asks).await;
        assert_eq!((answer.status, word(&answer)), (200, expected), "{}", answer.text());
        assert_eq!(answer.json()["embedding"]["values"][0], json!(1.5), "{}", answer.text());
    }
    eventually("the record says so", async || {
        let rows = gateway.admin("GET", "/api/v1/requests?limit=1", "").await.json();
        (&rows["data"][0]["cache"], &rows["data"][0]["attempts"]) == (&json!("hit"), &json!(0))
    })
    .await;
}
