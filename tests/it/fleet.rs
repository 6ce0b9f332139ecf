//! Limits and budgets of three gateways on one real redis-server: never more than there is, whoever asks, whatever dies; and the
//! stated policy while Redis does not answer. Promises 6, 7 and 11.

use std::time::Duration;

use serde_json::json;

use crate::{
    family::{FAMILIES, Family, Openai},
    keys::{run, text},
    server::{Reply, Server},
    shared::{MASTER, gateway, long, shared, three},
    support::{Answer, Gateway, Process, Say, Upstream, eventually, request},
};

/// A dollar a request, tokens free.
const A_DOLLAR: &str = "[[pricing]]\nmodel = \"up/*\"\nrequest = 1\n";

fn house(server: &Server, upstream: &Upstream, team: &str, store: &str) -> String {
    let store = format!("{store}\n{A_DOLLAR}[teams.research]\n{team}\n{}", upstream.provider("up", "openai_chat"));
    shared(server, &store)
}

async fn ask(gateway: &Gateway, key: &str) -> Answer {
    ask_in(gateway, Openai, key).await
}

async fn ask_in(gateway: &Gateway, family: Family, key: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let (path, body) = (family.path("up/m", false), family.body("up/m", false, "hello"));
    gateway.post_with(&path, &[("authorization", bearer.as_str())], &body).await
}

async fn known_everywhere(all: &[Gateway], key: &str) {
    let bearer = format!("Bearer {key}");
    for gateway in all {
        eventually("the key is known", async || {
            request(gateway.addr, "GET", "/v1/models", &[("authorization", bearer.as_str())], b"").await.status == 200
        })
        .await;
    }
}

/// Of the team's budget, as Redis has it: spent and reserved, nano-dollars.
fn counted(server: &Server) -> (u64, u64) {
    let name = "{portcullis}:c:budget:total:team:research";
    let field = |field: &str| match server.ask(&["HGET", name, field]) {
        Reply::Text(text) => text.parse().expect("a number"),
        _ => 0,
    };
    (field("spent"), field("reserved"))
}

const DOLLAR: u64 = 1_000_000_000;
/// Nobody else is served for 300 ms.
const SLOW: &str = "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end \
                    local till = now() + 300 while now() < till do end return 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_admit_exactly_what_a_budget_and_a_limit_hold() {
    let rounds = if long() { 50 } else { 5 };
    let calls = if long() { 1_500 } else { 300 };
    for round in 0..rounds {
        let Some(server) = Server::start(&[]) else { return };
        let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_millis(5))).await;
        // In turns: a budget, and a limit that does not come back.
        let (team, admitted) = match round % 2 {
            0 => ("budget = { usd = 37, per = \"total\" }", 37),
            _ => ("limits = { requests_per_day = 41 }", 41),
        };
        before_midnight().await;
        let all = three(&house(&server, &upstream, team, "")).await;
        let (_, key) = all[0].key(r#"{"name":"ana","team":"research"}"#).await;
        known_everywhere(&all, &key).await;
        let asked = (0..calls).map(|n| {
            let (gateway, key) = (&all[n % 3], &key);
            async move { ask(gateway, key).await.status }
        });
        let statuses = futures_util::future::join_all(asked).await;
        let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
        assert_eq!((count(200), count(429)), (admitted, calls - admitted), "round {round}");
        assert_eq!(upstream.heard().len(), admitted);
        if round % 2 == 0 {
            eventually("all of it is settled", async || counted(&server) == (37 * DOLLAR, 0)).await;
        }
        for gateway in all {
            gateway.stop().await;
        }
    }
    println!("{rounds} rounds of {calls} calls at three gateways: 37 or 41 admitted in each, and not one more");
}

/// What a request gave back is on its way to Redis when its client asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_one_after_another_is_not_refused_for_what_has_ended() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    for (name, team) in [
        ("place", "limits = { concurrent = 1 }"),
        // One request may use nearly all of it, and uses next to nothing.
        ("tokens", "limits = { output_tokens_per_minute = 1200 }"),
    ] {
        let config = house(&server, &upstream, team, "").replace("[store]", &format!("[store]\nprefix = \"{name}\""));
        let gateway = gateway(&config).await;
        let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
        for n in 0..40 {
            let answer = ask(&gateway, &key).await;
            assert_eq!(answer.status, 200, "{name}, request {n}: {}", answer.text());
        }
        gateway.stop().await;
    }
}

/// A day's limit begins anew there.
async fn before_midnight() {
    let left = || 86_400 - std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() % 86_400;
    while left() < 90 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// `explain` tells what all gateways together have used, and uses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_explains_by_what_all_of_them_have_used() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    before_midnight().await;
    let team = "limits = { requests_per_day = 3, tokens_per_day = 1000000, concurrent = 7 }\n\
                budget = { usd = 50, per = \"total\" }";
    let config = house(&server, &upstream, team, "");
    let (one, other) = (gateway(&config).await, gateway(&config).await);
    let (_, key) = one.key(r#"{"name":"ana","team":"research"}"#).await;
    let body = json!({
        "team": "research",
        "request": { "model": "up/m", "messages": [{ "role": "user", "content": "hi" }] },
    });
    let explain = async || other.admin("POST", "/api/v1/explain", &body.to_string()).await.json();
    let left = |told: &serde_json::Value| told["limits"][0]["requests_per_day"]["left"].clone();
    for used in 0..3 {
        eventually("all of it is settled", async || counted(&server) == (used * DOLLAR, 0)).await;
        let told = explain().await;
        assert_eq!((&told["targets"], left(&told)), (&json!(["up/m"]), json!(3 - used)), "{told:#}");
        assert_eq!(told["budget"]["left_usd"].as_f64(), Some((50 - used) as f64), "{told:#}");
        assert_eq!(ask(&one, &key).await.status, 200);
    }
    let told = explain().await;
    assert_eq!(
        (&told["status"], &told["code"], left(&told)),
        (&json!(429), &json!("rate_limited"), json!(0)),
        "{told:#}"
    );
    assert_eq!(ask(&one, &key).await.status, 429);
    assert_eq!(upstream.heard().len(), 3);
}

/// What a request asks of Redis: one script, and what became of many together in one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_asks_redis_once_and_one_without_limits_not_at_all() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let team = "limits = { requests_per_minute = 100000, tokens_per_minute = 100000000, concurrent = 1000 }\n\
                budget = { usd = 100000, per = \"month\" }";
    let gateway = gateway(&house(&server, &upstream, team, "")).await;
    let (_, bound) = gateway.key(r#"{"name":"bound","team":"research"}"#).await;
    let (_, free) = gateway.key(r#"{"name":"free"}"#).await;
    let asked = async |key: &str, count: usize| {
        let started = std::time::Instant::now();
        let before = server.calls("evalsha") + server.calls("eval");
        let asked = (0..count).map(|_| async { ask(&gateway, key).await.status });
        let statuses = futures_util::future::join_all(asked).await;
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        // The looks for changes, one a second, are the gateway's own.
        (server.calls("evalsha") + server.calls("eval") - before, started.elapsed().as_secs() + 2)
    };
    asked(&bound, 1).await;
    let (scripts, looks) = asked(&free, 200).await;
    // What became of the request before may be written down meanwhile.
    assert!(scripts <= looks + 10, "{scripts} scripts for 200 requests without limits");
    let (scripts, looks) = asked(&bound, 200).await;
    println!("200 requests with four limits and a budget, many at once: {scripts} scripts");
    assert!(scripts >= 200 && scripts < 400 + looks, "{scripts}");
    // No other command is on a request's way.
    let plain = server.calls("hget") + server.calls("hmget");
    asked(&bound, 50).await;
    let of_scripts = server.calls("hget") + server.calls("hmget") - plain;
    println!("commands inside of the scripts: {of_scripts}");
}

/// Promise 7: a killed gateway leaves nothing behind once its leases have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_counters_hold_what_settled() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let slow = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_secs(60))).await;
    let config = format!(
        "{}\n[[pricing]]\nmodel = \"slow/*\"\nrequest = 1\n{}",
        house(
            &server,
            &upstream,
            "budget = { usd = 50, per = \"total\" }\nlimits = { concurrent = 10 }",
            "budget_lease = \"2s\""
        ),
        slow.provider("slow", "openai_chat")
    );
    let survivor = gateway(&config).await;
    let victim = Process::start(&config, &[("master.key", MASTER)]).await;
    let (_, key) = survivor.key(r#"{"name":"ana","team":"research"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let at_victim = async |model: &str| {
        request(victim.addr, "POST", "/v1/chat/completions", &headers, body(model).as_bytes()).await.status
    };
    eventually("the key is known there", async || at_victim("up/m").await == 200).await;
    for _ in 0..4 {
        assert_eq!(at_victim("up/m").await, 200);
        assert_eq!(ask(&survivor, &key).await.status, 200);
    }
    eventually("nine are settled", async || counted(&server) == (9 * DOLLAR, 0)).await;
    // Ten under way, all places taken.
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(
            crate::support::begin(victim.addr, "POST", "/v1/chat/completions", &headers, body("slow/m").as_bytes())
                .await,
        );
    }
    slow.hears(10).await;
    assert_eq!(counted(&server), (9 * DOLLAR, 10 * DOLLAR));
    let crowded = ask(&survivor, &key).await;
    assert_eq!(crowded.status, 429, "{}", crowded.text());
    // Longer than a lease: they live, so what they hold is theirs.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ask(&survivor, &key).await.status, 429);
    drop(victim);
    eventually("places and money come back", async || ask(&survivor, &key).await.status == 200).await;
    eventually("what settled is what is counted", async || {
        let (spent, reserved) = counted(&server);
        // One more for each that was let through meanwhile.
        reserved == 0 && spent == 10 * DOLLAR
    })
    .await;
}

/// The same of a day's tokens: what it had reserved comes back, what was used stays used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_a_days_tokens_are_those_that_were_used() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let slow = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_secs(300))).await;
    before_midnight().await;
    let team = "limits = { tokens_per_day = 100000 }";
    let config =
        format!("{}{}", house(&server, &upstream, team, "budget_lease = \"2s\""), slow.provider("slow", "openai_chat"));
    let survivor = gateway(&config).await;
    let victim = Process::start(&config, &[("master.key", MASTER)]).await;
    let (_, key) = survivor.key(r#"{"name":"ana","team":"research"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = |model: &str| {
        let messages = json!([{ "role": "user", "content": "hi" }]);
        json!({ "model": model, "max_tokens": 80_000, "messages": messages }).to_string()
    };
    eventually("the key is known there", async || {
        request(victim.addr, "GET", "/v1/models", &headers, b"").await.status == 200
    })
    .await;
    let at = "/v1/chat/completions";
    let _open = crate::support::begin(victim.addr, "POST", at, &headers, body("slow/m").as_bytes()).await;
    slow.hears(1).await;
    let ask = async || survivor.post_with(at, &headers, &body("up/m")).await;
    let crowded = ask().await;
    assert_eq!(crowded.status, 429, "{}", crowded.text());
    drop(victim);
    eventually("they come back", async || ask().await.status == 200).await;
    // What that one used is counted, and no more.
    eventually("there is room for another", async || ask().await.status == 200).await;
}

/// What Redis may do to a gateway.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outage {
    Killed,
    Paused,
    ReadOnly,
    Full,
}

impl Outage {
    fn begin(self, server: &mut Server) {
        match self {
            Outage::Killed => server.kill(),
            Outage::Paused => server.pause(),
            Outage::ReadOnly => drop(server.ask(&["REPLICAOF", "127.0.0.1", "1"])),
            Outage::Full => drop(server.ask(&["CONFIG", "SET", "maxmemory", "1"])),
        }
    }

    fn end(self, server: &mut Server) {
        match self {
            Outage::Killed => assert!(server.run().unwrap()),
            Outage::Paused => server.resume(),
            Outage::ReadOnly => drop(server.ask(&["REPLICAOF", "NO", "ONE"])),
            Outage::Full => drop(server.ask(&["CONFIG", "SET", "maxmemory", "0"])),
        }
    }
}

const OUTAGES: [Outage; 4] = [Outage::Killed, Outage::Paused, Outage::ReadOnly, Outage::Full];
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_redis_does_the_policy_refuse_refuses_what_is_counted_and_nothing_else() {
    for outage in OUTAGES {
        let Some(mut server) = Server::start(&DURABLE) else { return };
        let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
        let config = house(&server, &upstream, "budget = { usd = 1000, per = \"total\" }", "timeout = \"300ms\"");
        let gateway = gateway(&config).await;
        let (_, bound) = gateway.key(r#"{"name":"bound","team":"research"}"#).await;
        let (_, free) = gateway.key(r#"{"name":"free"}"#).await;
        assert_eq!(ask(&gateway, &bound).await.status, 200);
        eventually("it is settled", async || counted(&server) == (DOLLAR, 0)).await;
        outage.begin(&mut server);
        let before = upstream.heard().len();
        for family in FAMILIES {
            let answer = ask_in(&gateway, family, &bound).await;
            assert_eq!(answer.status, 503, "{outage:?}: {}", answer.text());
            assert!(answer.header("retry-after").is_some(), "{outage:?}");
            assert!(family.error(&answer).message.contains("try again"), "{outage:?}: {}", answer.text());
        }
        assert_eq!(upstream.heard().len(), before, "{outage:?}: never silently open");
        assert_eq!(ask(&gateway, &free).await.status, 200, "{outage:?}: what has no limit goes on");
        outage.end(&mut server);
        eventually("it counts again", async || ask(&gateway, &bound).await.status == 200).await;
        eventually("what was let through is counted, and nothing else", async || {
            let through = upstream.heard().len() as u64 - 1;
            counted(&server) == (through * DOLLAR, 0)
        })
        .await;
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_redis_does_the_policy_lease_gives_out_its_share_and_no_more() {
    for outage in OUTAGES {
        let Some(mut server) = Server::start(&DURABLE) else { return };
        let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
        let store = "timeout = \"300ms\"\non_outage = \"lease\"\nlease_share = 0.1";
        let config = house(&server, &upstream, "budget = { usd = 101, per = \"total\" }", store);
        let gateway = gateway(&config).await;
        let (_, bound) = gateway.key(r#"{"name":"bound","team":"research"}"#).await;
        assert_eq!(ask(&gateway, &bound).await.status, 200);
        eventually("it is settled", async || counted(&server) == (DOLLAR, 0)).await;
        outage.begin(&mut server);
        // A hundred were left when it was seen last: ten of them.
        let asked = (0..30).map(|_| async { ask(&gateway, &bound).await.status });
        let statuses = futures_util::future::join_all(asked).await;
        let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
        assert_eq!((count(200), count(503)), (10, 20), "{outage:?}: {statuses:?}");
        outage.end(&mut server);
        eventually("what was given out is counted", async || counted(&server) == (11 * DOLLAR, 0)).await;
        eventually("it counts again", async || ask(&gateway, &bound).await.status == 200).await;
        gateway.stop().await;
    }
}

/// A server that answers late is waited for, within its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_redis_makes_requests_slow_and_not_wrong() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let config = house(&server, &upstream, "budget = { usd = 5, per = \"total\" }", "timeout = \"20s\"");
    let gateway = gateway(&config).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
    let slowing = async {
        for _ in 0..4 {
            let pausing = tokio::task::spawn_blocking({
                let port = server.port;
                move || crate::server::ask(port, &["EVAL", SLOW, "0"])
            });
            let _ = pausing.await;
        }
    };
    let asked = (0..20).map(|_| async { ask(&gateway, &key).await.status });
    let (statuses, ()) = futures_util::future::join(futures_util::future::join_all(asked), slowing).await;
    let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
    assert_eq!((count(200), count(429)), (5, 15), "{statuses:?}");
}

/// A store that moves takes along what its budgets had spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_budget_spent_on_the_disk_counts_on_in_redis() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let house_of = |store: &str| {
        format!(
            "[auth]\nrequired = true\n{store}{A_DOLLAR}[teams.research]\nbudget = {{ usd = 5, per = \"total\" }}\n{}",
            upstream.provider("up", "openai_chat")
        )
    };
    let mut gateway = Process::start(&house_of("[store]\nkind = \"sled\"\n"), &[]).await;
    let made = gateway.admin("POST", "/api/v1/keys", r#"{"name":"ana","team":"research"}"#).await.json();
    let bearer = format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let (path, body) = (Openai.path("up/m", false), Openai.body("up/m", false, "hello"));
    for _ in 0..3 {
        assert_eq!(request(gateway.addr, "POST", &path, &headers, body.as_bytes()).await.status, 200);
    }
    gateway.halt();
    let export = run(gateway.path(), &["state", "export", "--to", "moving.jsonl"]);
    assert!(export.status.success(), "{}", text(&export.stderr));
    gateway.save(
        "gateway.toml",
        &house_of(&format!(
            "[secrets]\nmaster_key = \"file:data/master.key\"\n[store]\nkind = \"redis\"\nurl = \"{}\"\n",
            server.url()
        )),
    );
    let import = run(gateway.path(), &["state", "import", "moving.jsonl"]);
    assert!(import.status.success(), "{}", text(&import.stderr));
    gateway.again().await;
    eventually("what was spent is known", async || counted(&server) == (3 * DOLLAR, 0)).await;
    for expected in [200, 200, 429] {
        assert_eq!(request(gateway.addr, "POST", &path, &headers, body.as_bytes()).await.status, expected);
    }
}
