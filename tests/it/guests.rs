//! What a guest may use and see, through the running gateway with a real one: calls out, memory, the request's variables,
//! answers whole and observed, errors, the record; and what the host makes of a guest that lies about its bytes, or of more
//! requests than there is room for.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Openai},
    support::{Answer, End, Gateway, Say, Upstream, eventually},
};

const PROBE: &[u8] = include_bytes!("../guests/probe/probe.wasm");
const LIAR: &[u8] = include_bytes!("../guests/liar/liar.wasm");
const HOSTILE: &[u8] = include_bytes!("../guests/hostile/hostile.wasm");

/// A gateway with this guest beside gateway.toml.
async fn gateway(config: &str, name: &str, bytes: &[u8]) -> Gateway {
    let dir = tempfile::tempdir().expect("a folder");
    put(dir.path(), name, bytes);
    Gateway::in_dir(dir, config).await
}

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, bytes).expect("written");
}

fn probe(more: &str) -> String {
    // Room for a busy machine: what is tested here is not the limit.
    format!("[[stages]]\nuse = \"plugins/probe.wasm\"\nlimits = {{ cpu = \"2s\" }}\n{more}\n")
}

fn ask(model: &str, text: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}).to_string()
}

async fn says(gateway: &Gateway, text: &str) -> String {
    Openai.text(&gateway.chat(&ask("mock", text, false)).await)
}

/// The answer's own record.
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

fn notes(record: &Value) -> Vec<&str> {
    let steps = record["trace"].as_array().expect("a trace");
    steps.iter().filter(|step| step["step"] == "note").filter_map(|step| step["text"].as_str()).collect()
}

#[tokio::test]
async fn a_guest_calls_the_hosts_it_was_granted_and_no_others() {
    let granted = Upstream::saying(Say::of(200, "text/plain", b"hello guest".to_vec())).await;
    let other = Upstream::saying(Say::of(200, "text/plain", b"secret".to_vec())).await;
    let all = r#"grant = ["log", "kv", "metrics", "clock", "http:GRANTED", "http:localhost:PORT", "http:NAME:PORT", "http:nowhere.invalid"]"#;
    let port = granted.addr.port().to_string();
    // The machine's own name, which leads to an address of its own nearly everywhere.
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("linux").trim().to_owned();
    let all = all.replace("GRANTED", &granted.addr.to_string()).replace("PORT", &port).replace("NAME", &own);
    let gateway = gateway(&probe(&all), "plugins/probe.wasm", PROBE).await;
    let get = async |url: &str| says(&gateway, &format!("probe get {url}")).await;
    assert_eq!(get(&format!("http://{}/a?b=c", granted.addr)).await, "200 hello guest");
    let heard = granted.last();
    assert_eq!((heard.method.as_str(), heard.path.as_str(), heard.header("x-probe")), ("GET", "/a?b=c", Some("1")));
    // Another port of the same machine is another host.
    let refused = get(&format!("http://{}/", other.addr)).await;
    assert!(refused.starts_with("refused: calls to 127.0.0.1 are not granted"), "{refused}");
    for url in ["http://example.com/", "ftp://nowhere.invalid/", "http://user:pw@nowhere.invalid/", "nonsense"] {
        let refused = get(url).await;
        assert!(refused.starts_with("refused: "), "{url}: {refused}");
    }
    assert!(other.heard().is_empty() && granted.heard().len() == 1);
    // A grant that is itself a local name or address says so; a name that only leads to one is not enough.
    assert_eq!(get(&format!("http://localhost:{port}/")).await, "200 hello guest");
    let leads = tokio::net::lookup_host((own.as_str(), granted.addr.port())).await;
    if leads.is_ok_and(|mut all| all.all(|at| at.ip().is_loopback())) {
        let private = get(&format!("http://{own}:{port}/")).await;
        assert!(private.starts_with("refused: "), "{private}");
    }
    assert_eq!(granted.heard().len(), 2);
    // Redirects are answers: nobody follows them.
    granted.always(Say::of(302, "text/plain", b"away".to_vec()).header("location", &format!("http://{}/", other.addr)));
    assert_eq!(get(&format!("http://{}/", granted.addr)).await, "302 away");
    granted.always(Say::of(200, "text/plain", vec![b'x'; (1 << 20) + 1]));
    assert_eq!(get(&format!("http://{}/", granted.addr)).await, "too large");
    granted.always(Say::of(200, "text/plain", Vec::new()).end(End::Cut).wait(Duration::from_secs(5)));
    assert_eq!(get(&format!("http://{}/", granted.addr)).await, "timeout");
    assert_eq!(get("http://nowhere.invalid/").await, "unreachable");
    assert!(other.heard().is_empty());
}

#[tokio::test]
async fn a_guest_that_was_not_granted_what_it_imports_never_goes_live() {
    let gateway = gateway("[[stages]]\nuse = \"plugins/spare.wasm\"\n", "plugins/spare.wasm", HOSTILE).await;
    put(gateway.dir.path(), "plugins/probe.wasm", PROBE);
    gateway.rewrite(&probe(r#"grant = ["kv", "clock"]"#));
    let mut told = String::new();
    eventually("it is refused", async || {
        let status = gateway.admin("GET", "/api/v1/config/status", "").await.json();
        told = status["refused"]["errors"][0]["message"].as_str().unwrap_or_default().to_owned();
        told.contains("not granted")
    })
    .await;
    assert!(told.contains("log and metrics and http") || told.contains("http"), "{told}");
    assert!(!says(&gateway, "probe count").await.contains('1'));
}

const GRANTED: &str = r#"grant = ["log", "kv", "metrics", "clock", "http:nowhere.invalid"]"#;

#[tokio::test]
async fn what_a_guest_remembers_is_its_own_and_its_tenants() {
    let config = format!("[auth]\nrequired = true\n[teams.red]\n[teams.blue]\n{}", probe(GRANTED));
    let gateway = gateway(&config, "plugins/probe.wasm", PROBE).await;
    let (_, red) = gateway.key(r#"{"name":"r","team":"red"}"#).await;
    let (_, also_red) = gateway.key(r#"{"name":"r2","team":"red"}"#).await;
    let (_, blue) = gateway.key(r#"{"name":"b","team":"blue"}"#).await;
    let count = async |key: &str, word: &str| {
        let answer = gateway.post_with("/v1/chat/completions", &[("x-api-key", key)], &ask("mock", word, false)).await;
        Openai.text(&answer)
    };
    assert_eq!(count(&red, "probe count").await, "1");
    assert_eq!(count(&red, "probe count").await, "2");
    assert_eq!(count(&also_red, "probe count").await, "3", "a team is one tenant");
    assert_eq!(count(&blue, "probe count").await, "1", "another team is another");
    assert_eq!(count(&red, "probe keep a").await, "None Ok(\"kept\") None");
    assert_eq!(count(&red, "probe measure").await, "true");
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    assert!(metrics.contains("portcullis_plugin_metric") && metrics.contains("probe_things"), "{metrics}");
}

#[tokio::test]
async fn variables_and_notes_pass_between_scripts_and_guests() {
    let script = "fn request(request, context) { context.vars.from_script = #{ n: 7 }; }\n\
                  fn log(record, context) { record.tags.heard = context.vars.from_plugin.a[1]; }";
    let dir = tempfile::tempdir().expect("a folder");
    put(dir.path(), "plugins/probe.wasm", PROBE);
    put(dir.path(), "scripts/vars.rhai", script.as_bytes());
    let config = format!("[[stages]]\nuse = \"scripts/vars.rhai\"\n{}", probe(GRANTED));
    let gateway = Gateway::in_dir(dir, &config).await;
    let answer = gateway.chat(&ask("mock", "probe vars", false)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = record_of(&gateway, &answer).await;
    assert!(notes(&record).contains(&"vars: {\"n\":7} Ok(())"), "{record}");
    assert_eq!(record["tags"]["heard"], "two", "{record}");
}

#[tokio::test]
async fn a_guest_sees_whole_answers_streamed_or_not_in_every_family() {
    let config = probe(&format!("{GRANTED}\nconfig = {{ deny = \"forbidden\" }}"));
    let gateway = gateway(&config, "plugins/probe.wasm", PROBE).await;
    for family in FAMILIES {
        for stream in [false, true] {
            let say = async |text: &str| {
                let body = family.body("mock", stream, &format!("[mock: text={text}]"));
                gateway.post(&family.path("mock", stream), &body).await
            };
            let answer = say("a good word").await;
            assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
            let text = if stream { answer.text() } else { family.text(&answer) };
            assert!(text.contains("(seen)"), "{text}");
            let record = record_of(&gateway, &answer).await;
            assert_eq!(notes(&record), ["answer: a good word"], "once, and all of it");
            assert_eq!(record["tags"]["probe.status"], "200", "{record}");
            // Nothing was written before the end: the status is still free.
            let answer = say("a forbidden word").await;
            assert_eq!(answer.status, 418, "{}", answer.text());
            assert!(!answer.text().contains("forbidden"), "{}", answer.text());
            // Its own refusal passed its own error phase.
            assert!(answer.text().contains("content_refused by client: not this answer"), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_guest_that_observes_changes_nothing_and_its_verdict_is_recorded() {
    let config = probe(&format!("{GRANTED}\nstream = \"observe\"\nconfig = {{ deny = \"forbidden\" }}"));
    let gateway = gateway(&config, "plugins/probe.wasm", PROBE).await;
    for stream in [false, true] {
        let answer = gateway.chat(&ask("mock", "[mock: text=a forbidden word]", stream)).await;
        assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
        assert!(answer.text().contains("forbidden") && !answer.text().contains("(seen)"), "{}", answer.text());
        let record = record_of(&gateway, &answer).await;
        let told = notes(&record);
        assert!(told.contains(&"answer: a forbidden word"), "{record}");
        assert!(told.contains(&"not enforced (observe): reject(451)"), "{record}");
        assert_eq!(record["tags"]["probe.asked"], "", "{record}");
    }
}

#[tokio::test]
async fn a_guest_rewrites_errors_or_answers_in_their_place_and_tags_the_record() {
    let upstream =
        Upstream::saying(Say::error(400, r#"{"error":{"message":"no","type":"invalid_request_error"}}"#)).await;
    let config =
        |more: &str| format!("{}{}", upstream.provider("up", "openai_chat"), probe(&format!("{GRANTED}\n{more}")));
    let gateway = gateway(&config(""), "plugins/probe.wasm", PROBE).await;
    let answer = gateway.chat(&ask("up/m", "probe nothing", false)).await;
    assert_eq!(answer.status, 418, "{}", answer.text());
    let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("upstream_refused by client: "), "{message}");
    let record = record_of(&gateway, &answer).await;
    let tag = |name: &str| record["tags"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!((tag("probe.status").as_str(), tag("probe.tokens").as_str()), ("418", "unknown"), "{record}");
    // One instance saw the request, its error and its record.
    assert_eq!(tag("probe.asked"), "nothing");
    gateway.rewrite(&config("config = { excuse = true }"));
    eventually("it excuses", async || {
        let answer = gateway.chat(&ask("up/m", "hi", false)).await;
        answer.status == 200 && Openai.text(&answer) == "sorry: upstream_refused"
    })
    .await;
}

#[tokio::test]
async fn a_guest_that_wants_nothing_more_is_let_go_and_the_answer_passes_as_it_came() {
    let upstream = Upstream::start().await;
    let config = format!("{}{}", upstream.provider("up", "openai_chat"), probe(GRANTED));
    let gateway = gateway(&config, "plugins/probe.wasm", PROBE).await;
    let plain = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    // Bytes that no encoder would write so.
    let odd = Openai.whole("left alone").replace(':', " :  ");
    let frames = Openai.frames(&["left ", "alone"]).concat().replace("\"choices\"", "\"odd\" : 1, \"choices\"");
    for (say, stream) in [(Say::json(odd), false), (Say::sse(frames), true)] {
        upstream.always(say);
        let as_it_came = plain.chat(&ask("up/m", "hi", stream)).await.text();
        assert!(as_it_came.contains(if stream { "\"odd\" : 1" } else { " :  " }), "{as_it_came}");
        let answer = gateway.chat(&ask("up/m", "probe done", stream)).await;
        assert_eq!((answer.status, answer.text()), (200, as_it_came));
        let record = record_of(&gateway, &answer).await;
        assert!(notes(&record).is_empty() && record["tags"]["probe.status"].is_null(), "{record}");
        // The next request has an instance of its own, which stays.
        let answer = gateway.chat(&ask("up/m", "probe on", stream)).await;
        assert!(answer.text().contains("(seen)"), "{}", answer.text());
    }
}

/// Below what its types let a guest say.
const LIES: [&str; 11] = [
    "case",
    "case-high",
    "edit-case",
    "option-case",
    "list-long",
    "list-longest",
    "list-outside",
    "list-askew",
    "outside",
    "askew",
    "behind",
];

#[tokio::test]
async fn a_guest_that_lies_about_its_bytes_costs_its_own_request() {
    let gateway = gateway("", "plugins/liar.wasm", LIAR).await;
    for lie in LIES {
        let answer = gateway.chat(&ask("mock", &format!("lie {lie}"), false)).await;
        assert_eq!(answer.status, 500, "{lie}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "stage_failed", "{lie}");
        let record = record_of(&gateway, &answer).await;
        let steps = record["trace"].as_array().expect("a trace");
        let told = steps.iter().find(|step| step["verdict"] == "failed").and_then(|step| step["reason"].as_str());
        assert!(told.is_some_and(|why| why.contains("plugins/liar.wasm (request)")), "{lie}: {record}");
        assert_eq!(gateway.chat(&ask("mock", "and now the truth", false)).await.status, 200, "after {lie}");
    }
    // Without a lie the same bytes are a verdict.
    let answer = gateway.chat(&ask("mock", "lie none", false)).await;
    assert_eq!(answer.status, 451, "{}", answer.text());
    let answer = gateway.chat(&ask("mock", "lie edits", false)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn more_requests_than_the_plugins_have_room_for_are_told_to_come_back() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_millis(1500))).await;
    let base = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nmax_connections = 64\ndrain = \"2s\"\ndrain_delay = \"0s\"\n{}",
        upstream.provider("up", "openai_chat")
    );
    let names = ["a", "b", "c"].map(|name| format!("plugins/{name}.wasm"));
    let stages = |names: &[String]| names.iter().map(|n| format!("[[stages]]\nuse = \"{n}\"\n")).collect::<String>();
    let dir = tempfile::tempdir().expect("a folder");
    names.iter().for_each(|name| put(dir.path(), name, HOSTILE));
    // Room for 64 instances is settled with the first plugin; then there are three.
    let gateway = Gateway::in_dir(dir, &format!("{base}{}", stages(&names[..1]))).await;
    gateway.rewrite(&format!("{base}{}", stages(&names)));
    let status = async || gateway.admin("GET", "/api/v1/config/status", "").await.json();
    let listed = async || status().await["running"]["stages"].as_array().map_or(0, Vec::len);
    eventually("three are listed", async || listed().await == 3).await;
    let body = ask("up/m", "hi", false);
    let asked = futures_util::future::join_all((0..40).map(|_| gateway.chat(&body))).await;
    let fine = asked.iter().filter(|answer| answer.status == 200).count();
    assert!((15..40).contains(&fine), "{fine} of 40 had room");
    for refused in asked.iter().filter(|answer| answer.status != 200) {
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "overloaded");
    }
    let skipping = stages(&names).replace("wasm\"\n", "wasm\"\non_error = \"skip\"\n");
    gateway.rewrite(&format!("{base}{skipping}"));
    let before = status().await["running"]["hash"].clone();
    eventually("they may be skipped", async || status().await["running"]["hash"] != before).await;
    let asked = futures_util::future::join_all((0..40).map(|_| gateway.chat(&body))).await;
    assert!(asked.iter().all(|answer| answer.status == 200), "what may be skipped refuses nobody");
}

#[tokio::test]
async fn a_guest_that_is_only_looked_at_reaches_nobody_and_leaves_nothing_behind() {
    let there = Upstream::saying(Say::of(200, "text/plain", b"hello guest".to_vec())).await;
    let grants = format!(r#"grant = ["log", "kv", "metrics", "clock", "http:{}"]"#, there.addr);
    let gateway = gateway(&probe(&grants), "plugins/probe.wasm", PROBE).await;
    let explain = async |text: &str| {
        let body = json!({"request": {"model": "mock", "messages": [{"role": "user", "content": text}]}});
        let told = gateway.admin("POST", "/api/v1/explain", &body.to_string()).await.json();
        assert_eq!(told["stages"][0]["stage"], "plugins/probe.wasm", "{told}");
        assert!(told["stages"][0]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{told}");
        told["text"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(explain(&format!("probe get http://{}/", there.addr)).await, "refused: nothing is sent in a dry run");
    assert!(there.heard().is_empty());
    assert_eq!((explain("probe count").await, explain("probe count").await), ("1".to_owned(), "1".to_owned()));
    assert_eq!(says(&gateway, "probe count").await, "1");
    assert_eq!(explain("probe count").await, "2", "it reads what lives");
    assert_eq!(says(&gateway, "probe count").await, "2");
    assert_eq!(explain("probe measure").await, "true");
}

#[tokio::test]
async fn a_pool_lends_nothing_to_those_that_are_only_looked_at_and_takes_nothing_from_them() {
    let config = "[[stages]]\nuse = \"plugins/hostile.wasm\"\nisolation = \"pooled\"\nlimits = { cpu = \"2s\" }\n";
    let gateway = gateway(config, "plugins/hostile.wasm", HOSTILE).await;
    let count = async || says(&gateway, "hostile request count").await.parse::<u32>().unwrap_or_default();
    let body =
        json!({"request": {"model": "mock", "messages": [{"role": "user", "content": "hostile request count"}]}});
    let mut last = 0;
    eventually("an instance serves again", async || {
        last = count().await;
        last > 1
    })
    .await;
    for _ in 0..3 {
        let told = gateway.admin("POST", "/api/v1/explain", &body.to_string()).await.json();
        assert_eq!(told["text"], "1", "a fresh one: {told}");
    }
    // An instance is back in the pool when its request is settled, a moment after the answer.
    eventually("the pool goes on as it was", async || count().await > last).await;
}
