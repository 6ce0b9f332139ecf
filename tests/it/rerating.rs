//! Recorded usage priced again while two gateways serve on one real redis-server: each gives its own records other prices, the sums
//! of both follow, and nothing is lost or counted twice, whatever is under way beside it or ends it.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::{
    family::Openai,
    keys::{run, text},
    server::Server,
    shared::{MASTER, shared},
    support::{Answer, Process, Say, Upstream, eventually, request},
};

struct House {
    server: Server,
    upstream: Upstream,
    both: Vec<Process>,
    key: String,
}

/// So many dollars a request, tokens free.
fn config(server: &Server, upstream: &Upstream, price: u64) -> String {
    let more = format!(
        "timeout = \"500ms\"\n[[pricing]]\nmodel = \"up/*\"\nrequest = {price}\n[teams.research]\n\
         budget = {{ usd = 1000000, per = \"total\" }}\n{}",
        upstream.provider("up", "openai_chat")
    );
    shared(server, &more)
}

impl House {
    async fn open() -> Option<House> {
        let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"])?;
        let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
        let text = config(&server, &upstream, 1);
        let mut both = Vec::new();
        for _ in 0..2 {
            both.push(Process::start(&text, &[("master.key", MASTER)]).await);
        }
        let made = both[0].admin("POST", "/api/v1/keys", r#"{"name":"ana","team":"research"}"#).await.json();
        let key = made["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        let house = House { server, upstream, both, key };
        eventually("the key is known there", async || house.ask(1).await == 200).await;
        Some(house)
    }

    async fn ask(&self, at: usize) -> u16 {
        let bearer = format!("Bearer {}", self.key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let (path, body) = (Openai.path("up/m", false), Openai.body("up/m", false, "hello"));
        request(self.both[at].addr, "POST", &path, &headers, body.as_bytes()).await.status
    }

    /// What the sums say at that gateway: requests that were charged, and dollars.
    async fn sums(&self, at: usize) -> (u64, u64) {
        let answer = self.both[at].admin("GET", "/api/v1/usage?group_by=team,target", "").await;
        // While the store is away there is no answer, and it is asked again.
        let Some(rows) = answer.json()["data"].as_array().cloned() else { return (0, 0) };
        let whole = |row: &Value, field: &str| row[field].as_u64().unwrap_or_else(|| panic!("no {field}: {row}"));
        let mine = rows.iter().filter(|row| row["target"] == "up/m");
        let served = |row: &Value| whole(row, "requests") - whole(row, "errors");
        mine.fold((0, 0), |(requests, usd), row| (requests + served(row), usd + whole(row, "cost_usd")))
    }

    /// What its own records say: dollars of each request, by the rows themselves.
    async fn records(&self, at: usize) -> Vec<u64> {
        let text = self.both[at].admin("GET", "/api/v1/requests/export?format=ndjson", "").await.text();
        let rows =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        let charged = rows.filter(|row| row["target"] == "up/m" && row["status"] == 200);
        charged.map(|row| row["cost_usd"].as_u64().unwrap_or_else(|| panic!("whole dollars: {row}"))).collect()
    }

    async fn rerate(&self, at: usize) -> Answer {
        self.both[at].admin("POST", "/api/v1/usage/rerate", r#"{"from":"2020-01-01"}"#).await
    }

    /// Until the new prices were taken up and its records have them; says how many got them.
    async fn rerated(&self, at: usize) -> u64 {
        let began = Instant::now();
        loop {
            let answer = self.rerate(at).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let done = answer.json();
            assert_eq!((done["left"].as_u64(), done["next"].is_null()), (Some(0), true), "{done}");
            if let Some(count @ 1..) = done["requests"].as_u64() {
                return count;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the new prices are taken up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn reprice(&self, at: usize, price: u64) {
        self.both[at].save("gateway.toml", &config(&self.server, &self.upstream, price));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gateway_on_one_redis_gives_its_own_records_other_prices_once() {
    let Some(mut house) = House::open().await else { return };
    // One was asked there already.
    for turn in 0..9 {
        assert_eq!(house.ask(turn % 2).await, 200);
    }
    let own = async |house: &House, at: usize| house.records(at).await.len() as u64;
    for at in [0, 1] {
        eventually("all of it is counted", async || house.sums(at).await == (10, 10)).await;
    }
    assert_eq!((own(&house, 0).await, own(&house, 1).await), (5, 5));
    // Beside gateways that serve nobody writes into their sums.
    let alone = run(house.both[0].path(), &["usage", "rerate", "--write"]);
    assert!(!alone.status.success(), "{}", text(&alone.stdout));

    house.reprice(0, 3);
    assert_eq!(house.rerated(0).await, 5);
    for at in [0, 1] {
        eventually("one gateway's cost more", async || house.sums(at).await == (10, 5 * 3 + 5)).await;
    }
    assert_eq!((house.records(0).await, house.records(1).await), (vec![3; 5], vec![1; 5]));
    assert_eq!(house.rerate(0).await.json()["requests"], 0, "they have these prices");

    // The other one by the command.
    house.reprice(1, 3);
    let began = Instant::now();
    let url = format!("http://{}", house.both[1].admin);
    loop {
        let out = run(house.both[1].path(), &["usage", "rerate", "--write", "--json", "--admin", &url]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let done: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        if done["requests"] != 0 {
            assert_eq!((&done["requests"], &done["left"]), (&json!(5), &json!(0)), "{done}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the new prices are taken up");
    }
    for at in [0, 1] {
        eventually("all of it costs more", async || house.sums(at).await == (10, 30)).await;
    }
    // Both killed: what their starts find is the same, and it goes on.
    for gateway in &mut house.both {
        gateway.kill_and_restart().await;
    }
    for at in [0, 1] {
        assert_eq!((house.sums(at).await, house.records(at).await), ((10, 30), vec![3; 5]));
    }
    assert_eq!((house.ask(0).await, house.ask(1).await), (200, 200));
    for at in [0, 1] {
        eventually("what came since is counted", async || house.sums(at).await == (12, 36)).await;
    }
}

/// Both at once, requests coming in all the while, and a Redis that does not answer for a moment: in the end sums and records say
/// the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_traffic_and_over_an_outage_sums_and_records_say_the_same() {
    let Some(house) = House::open().await else { return };
    let ask = async |count: usize| {
        let mut served = 0;
        for turn in 0..count {
            // 503 while Redis does not answer.
            served += u64::from(house.ask(turn % 2).await == 200);
        }
        served
    };
    let mut served = 1 + ask(40).await;
    for at in [0, 1] {
        house.reprice(at, 4);
    }
    let both = async {
        join_all([0, 1].map(|at| house.rerated(at))).await;
    };
    served += join(ask(60), both).await.0;
    // Away in the middle of it.
    house.server.pause();
    let refused = join(house.rerate(0), house.rerate(1)).await;
    assert!(refused.0.status >= 500 && refused.1.status >= 500, "{} {}", refused.0.text(), refused.1.text());
    house.server.resume();
    eventually("it goes on", async || house.rerate(0).await.status == 200 && house.rerate(1).await.status == 200).await;
    served += ask(10).await;
    eventually("every request is charged", async || {
        house.records(0).await.len() as u64 + house.records(1).await.len() as u64 == served
    })
    .await;
    // Those that were settled at the old prices meanwhile.
    for at in [0, 1] {
        assert_eq!(house.rerate(at).await.json()["left"], 0);
        let records = house.records(at).await;
        assert!(records.iter().all(|usd| *usd == 4), "{records:?}");
    }
    for at in [0, 1] {
        eventually("the sums have them all", async || house.sums(at).await == (served, 4 * served)).await;
    }
}
