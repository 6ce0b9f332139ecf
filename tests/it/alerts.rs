//! Budgets that run out, told to a webhook by several gateways on one real redis-server: once for all of them, and still told where
//! the one that tells it is killed.

use std::time::Duration;

use crate::{
    family::Openai,
    server::Server,
    shared::{MASTER, shared},
    support::{Process, Say, Upstream, eventually, request},
};

/// A dollar a request; half of four dollars is told.
fn house(server: &Server, upstream: &Upstream, hook: &Upstream) -> String {
    let more = format!(
        "budget_lease = \"2s\"\n[[pricing]]\nmodel = \"up/*\"\nrequest = 1\n[alerts]\nwebhook = \"http://{}/hook\"\n\
         [teams.research]\nbudget = {{ usd = 4, per = \"total\", soft = 0.5 }}\n{}",
        hook.addr,
        upstream.provider("up", "openai_chat")
    );
    shared(server, &more)
}

async fn start(config: &str) -> Process {
    Process::start(config, &[("master.key", MASTER)]).await
}

/// A key of the team, as a header.
async fn key(gateway: &Process) -> String {
    let made = gateway.admin("POST", "/api/v1/keys", r#"{"name":"ana","team":"research"}"#).await.json();
    format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")))
}

async fn ask(gateway: &Process, bearer: &str) -> u16 {
    let headers = [("authorization", bearer), ("content-type", "application/json")];
    let (path, body) = (Openai.path("up/m", false), Openai.body("up/m", false, "hello"));
    request(gateway.addr, "POST", &path, &headers, body.as_bytes()).await.status
}

/// This gateway has noticed it, while these ask it.
async fn notices(gateway: &Process, threshold: &str, asking: &[&str]) {
    let shows = format!("portcullis_budget_alerts_total{{scope=\"team\",threshold=\"{threshold}\"}} ");
    eventually("it is noticed", async || {
        for bearer in asking {
            ask(gateway, bearer).await;
        }
        gateway.metrics().await.contains(&shows)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_tell_each_threshold_once_also_after_a_restart_of_one() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let hook = Upstream::saying(Say::json("{}")).await;
    let config = house(&server, &upstream, &hook);
    let mut all = [start(&config).await, start(&config).await, start(&config).await];
    let bearer = key(&all[0]).await;
    for threshold in ["soft", "exhausted"] {
        for gateway in &all[..2] {
            eventually("the key is known", async || ask(gateway, &bearer).await == 200).await;
        }
        for gateway in &all {
            match threshold {
                "soft" => notices(gateway, threshold, &[]).await,
                _ => notices(gateway, threshold, &[&bearer]).await,
            }
        }
    }
    hook.hears(2).await;
    // Who begins anew notices both again.
    all[2].restart().await;
    notices(&all[2], "soft", &[]).await;
    notices(&all[2], "exhausted", &[&bearer]).await;
    // Whoever would tell it twice does so at once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heard = hook.heard();
    let mut told: Vec<_> = heard.iter().map(|heard| heard.json()["id"].clone()).collect();
    told.sort_by_key(|id| id.to_string());
    assert_eq!(told, ["team:research/total/exhausted", "team:research/total/soft"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_of_a_killed_gateway_is_told_by_another() {
    let Some(server) = Server::start(&[]) else { return };
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let hook = Upstream::saying(Say::json("{}").wait(Duration::from_secs(300))).await;
    let config = house(&server, &upstream, &hook);
    let victim = start(&config).await;
    let bearer = key(&victim).await;
    for _ in 0..2 {
        assert_eq!(ask(&victim, &bearer).await, 200);
    }
    hook.hears(1).await;
    let survivor = start(&config).await;
    notices(&survivor, "soft", &[]).await;
    assert_eq!(hook.heard().len(), 1, "the first one is at it");
    hook.always(Say::json("{}"));
    drop(victim);
    hook.hears(2).await;
    let told: Vec<_> = hook.heard().iter().map(|heard| heard.json()).collect();
    assert_eq!((&told[0], &told[0]["threshold"]), (&told[1], &"soft".into()));
}
