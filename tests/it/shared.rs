//! Several gateways on one real redis-server, from outside: what one changes the others know, and what happens while it does not
//! answer. Promises 11 and 12.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    keys::{folder, run, text},
    server::{Reply, Server},
    support::{Gateway, Process, eventually, request},
};

pub const MASTER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const SECRETS: &str = "[secrets]\nmaster_key = \"file:master.key\"\n";
/// Of one whose store was made on the disk.
const OWN: &str = "[secrets]\nmaster_key = \"file:data/master.key\"\n";

/// Of gateways that share everything.
pub fn shared(server: &Server, more: &str) -> String {
    let secrets = if more.contains("[secrets]") { "" } else { SECRETS };
    format!("[auth]\nrequired = true\n{secrets}[store]\nkind = \"redis\"\nurl = \"{}\"\n{more}", server.url())
}

pub async fn gateway(config: &str) -> Gateway {
    Gateway::with(config, &[("master.key", MASTER)]).await
}

pub async fn three(config: &str) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(gateway(config).await);
    }
    gateways
}

pub fn long() -> bool {
    std::env::var_os("PORTCULLIS_LONG").is_some_and(|v| v == "1")
}

async fn status(gateway: &Gateway, key: &str) -> u16 {
    let bearer = format!("Bearer {key}");
    let body = r#"{"model":"mock","messages":[{"role":"user","content":"hi"}]}"#;
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    request(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await.status
}

/// Just whether the key is known, which costs the gateway least.
async fn known(gateway: &Gateway, key: &str) -> bool {
    let bearer = format!("Bearer {key}");
    request(gateway.addr, "GET", "/v1/models", &[("authorization", bearer.as_str())], b"").await.status == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_made_at_one_gateway_opens_all_and_a_change_of_it_reaches_all() {
    let Some(server) = Server::start(&[]) else { return };
    let all = three(&shared(&server, "")).await;
    let (id, key) = all[0].key(r#"{"name":"ana"}"#).await;
    assert_eq!(status(&all[0], &key).await, 200);
    for other in &all[1..] {
        eventually("the key is known", async || status(other, &key).await == 200).await;
    }
    // Rotated at the second, revoked at the third.
    let rotated = all[1].admin("POST", &format!("/api/v1/keys/{id}/rotate"), "{}").await.json();
    let fresh = rotated["key"].as_str().unwrap_or_else(|| panic!("{rotated}")).to_owned();
    for gateway in &all {
        eventually("only the new secret opens", async || known(gateway, &fresh).await && !known(gateway, &key).await)
            .await;
    }
    all[2].admin("DELETE", &format!("/api/v1/keys/{id}"), "").await;
    assert!(!known(&all[2], &fresh).await, "from the next request on");
    for gateway in &all {
        eventually("nobody is let in", async || !known(gateway, &fresh).await).await;
    }
}

/// Promise 12: the next request here, within a second elsewhere, within five if messages are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_reach_every_gateway_under_load() {
    let Some(server) = Server::start(&[]) else { return };
    let all = three(&shared(&server, "")).await;
    let count = if long() { 1_000 } else { 100 };
    let (_, busy) = all[0].key(r#"{"name":"busy"}"#).await;
    for gateway in &all {
        eventually("the busy one is known", async || known(gateway, &busy).await).await;
    }
    let mut keys = Vec::new();
    for n in 0..count {
        keys.push(all[n % 3].key(&format!(r#"{{"name":"k{n}"}}"#)).await);
    }
    for gateway in &all {
        for (_, key) in &keys {
            eventually("every key is known", async || known(gateway, key).await).await;
        }
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let load = async {
        let calls = all.iter().cycle();
        for gateway in calls {
            if stop.is_cancelled() {
                return;
            }
            assert_eq!(status(gateway, &busy).await, 200);
        }
    };
    let revoking = async {
        let (mut told, mut looked) = (Vec::new(), Vec::new());
        for (n, (id, key)) in keys.iter().enumerate() {
            // Every tenth without messages: others find out by looking.
            let deaf = n % 10 == 9;
            if deaf {
                server.ask(&["ACL", "SETUSER", "default", "resetchannels"]);
            }
            let here = &all[n % 3];
            let answer = here.admin("DELETE", &format!("/api/v1/keys/{id}"), "").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let since = Instant::now();
            assert!(!known(here, key).await, "from the next request on");
            for other in all.iter().filter(|other| other.addr != here.addr) {
                while known(other, key).await {
                    assert!(since.elapsed() < Duration::from_secs(30), "never revoked there");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            if deaf {
                looked.push(since.elapsed());
                server.ask(&["ACL", "SETUSER", "default", "allchannels"]);
                // Who was thrown out comes back.
                let back = async || {
                    format!("{:?}", server.ask(&["PUBSUB", "NUMSUB", "{portcullis}:changes"])).contains("Int(3)")
                };
                eventually("all listen again", back).await;
            } else {
                told.push(since.elapsed());
            }
        }
        stop.cancel();
        (told, looked)
    };
    let ((), (mut told, mut looked)) = futures_util::future::join(load, revoking).await;
    told.sort();
    looked.sort();
    let (middle, last, unheard) = (told[told.len() / 2], told[told.len() - 1], looked[looked.len() - 1]);
    println!(
        "{count} revocations: told to the others in {middle:?}, {last:?} at most; without messages {unheard:?} at most"
    );
    // In the short suite other tests share the machine: what they take is not Redis's.
    let [middling, most, without] = if long() { [1, 1, 5] } else { [3, 10, 15] }.map(Duration::from_secs);
    assert!(middle < middling && last < most, "{told:?}");
    assert!(unheard < without, "{looked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_another_master_key_does_not_start() {
    let Some(server) = Server::start(&[]) else { return };
    let _first = gateway(&shared(&server, "")).await;
    let dir = tempfile::tempdir().unwrap();
    let config = shared(&server, "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    std::fs::write(dir.path().join("gateway.toml"), config).unwrap();
    std::fs::write(dir.path().join("master.key"), MASTER.replace("0123", "3210")).unwrap();
    let out = run(dir.path(), &["serve"]);
    assert_ne!(out.status.code(), Some(0));
    let said = text(&out.stderr);
    assert!(said.contains("master") && !said.contains("panicked"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_keys_work_on_and_changes_wait() {
    let Some(mut server) = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let gateway = gateway(&shared(&server, "")).await;
    let (_, key) = gateway.key(r#"{"name":"ana"}"#).await;
    server.kill();
    let create = async || gateway.admin("POST", "/api/v1/keys", r#"{"name":"bea"}"#).await;
    eventually("it is noticed", async || create().await.status == 503).await;
    assert_eq!(status(&gateway, &key).await, 200, "what has no limit needs no redis");
    let ready = gateway.admin("GET", "/health/ready", "").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("redis cannot be reached"), "{}", ready.text());
    assert!(server.run().unwrap());
    eventually("it is found again", async || create().await.status == 201).await;
    eventually("all is well", async || gateway.admin("GET", "/health/ready", "").await.json()["store"] == "ok").await;
}

/// `portcullis keys` and `state` on a store that gateways use, and a move from the disk to Redis and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_work_beside_running_gateways_and_a_store_moves_both_ways() {
    let Some(server) = Server::start(&[]) else { return };
    let place = folder("");
    let made = run(place.path(), &["keys", "create", "--name", "old", "--quiet"]);
    let old = text(&made.stdout).trim().to_owned();
    let out = run(place.path(), &["state", "export", "--to", "first.jsonl"]);
    assert!(out.status.success(), "{}", text(&out.stderr));

    let net = "[server]\nlisten = \"127.0.0.1:0\"\ndrain_delay = \"0s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(place.path().join("gateway.toml"), shared(&server, &format!("{net}{OWN}"))).unwrap();
    let out = run(place.path(), &["state", "import", "first.jsonl"]);
    let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
    assert!(out.status.success() && said.contains("add up to"), "{said}");

    let (gateway, data, _admin) = crate::keys::serve(place.path());
    assert_eq!(crate::keys::ask(&data, &old), 200, "the key of before");
    // Beside the gateway, in the same folder: no lock is in the way.
    let fresh = text(&run(place.path(), &["keys", "create", "--name", "new", "--quiet"]).stdout).trim().to_owned();
    eventually("the new key is known", async || crate::keys::ask(&data, &fresh) == 200).await;
    let list: Value = serde_json::from_slice(&run(place.path(), &["keys", "list", "--json"]).stdout).unwrap();
    let id = list["data"].as_array().unwrap().iter().find(|row| row["name"] == "old").unwrap()["id"].clone();
    assert!(run(place.path(), &["keys", "revoke", id.as_str().unwrap()]).status.success());
    eventually("the old key is refused", async || crate::keys::ask(&data, &old) == 401).await;
    // Not in the place of what is in use.
    let out = run(place.path(), &["state", "import", "first.jsonl", "--replace"]);
    assert!(text(&out.stderr).contains("stop all of them"), "{}", text(&out.stderr));
    let out = run(place.path(), &["state", "export", "--to", "second.jsonl"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    drop(gateway);

    std::fs::write(place.path().join("gateway.toml"), "").unwrap();
    let out = run(place.path(), &["state", "import", "second.jsonl", "--replace"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let list: Value = serde_json::from_slice(&run(place.path(), &["keys", "list", "--json"]).stdout).unwrap();
    let of =
        |name: &str| list["data"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()["status"].clone();
    assert_eq!((of("old"), of("new")), ("revoked".into(), "active".into()));
}

/// Records stay where they were made; any gateway says where that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_another_gateway_is_pointed_at() {
    let Some(server) = Server::start(&[]) else { return };
    let (config, files) = (shared(&server, ""), [("master.key", MASTER)]);
    let (one, other) = (Process::start(&config, &files).await, Process::start(&config, &files).await);
    let made = one.admin("POST", "/api/v1/keys", r#"{"name":"ana"}"#).await.json();
    let bearer = format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")));
    let body = br#"{"model":"mock","messages":[{"role":"user","content":"hi"}]}"#;
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let answer = request(one.addr, "POST", "/v1/chat/completions", &headers, body).await;
    let path = format!("/api/v1/requests/{}", answer.header("x-request-id").expect("an id"));
    eventually("it is recorded", async || one.admin("GET", &path, "").await.status == 200).await;
    let elsewhere = other.admin("GET", &path, "").await;
    assert_eq!(elsewhere.status, 404);
    assert!(elsewhere.text().contains(&format!("http://{}", one.admin)), "{}", elsewhere.text());
    let nobody = other.admin("GET", "/api/v1/requests/req_00000000000070000000000000000000", "").await;
    assert!(!nobody.text().contains("http://"), "{}", nobody.text());
}

/// Two gateways in one folder would write the same records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_one_gateways_own() {
    let Some(server) = Server::start(&[]) else { return };
    let place = folder(&shared(&server, "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"));
    std::fs::write(place.path().join("master.key"), MASTER).unwrap();
    let (_gateway, _, _) = crate::keys::serve(place.path());
    let mut second = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    second.arg("serve").current_dir(place.path()).stdin(Stdio::null()).env("PORTCULLIS_LOG", "warn");
    let out = second.output().unwrap();
    assert!(text(&out.stderr).contains("in use by another process"), "{}", text(&out.stderr));
    assert_eq!(server.ask(&["ZCARD", "{portcullis}:alive"]), Reply::Int(1));
}

#[test]
fn a_password_in_the_file_is_refused_with_a_sentence() {
    for (url, word) in [
        ("redis://:secret@localhost", "does not belong into the file"),
        ("redis://ana:secret@localhost", "does not belong into the file"),
        ("http://localhost:6379", "is no address of Redis"),
        ("redis://a,b", "several hosts are for a cluster"),
        ("redis+cluster://a,b/1", "one database"),
        ("redis://ana@localhost", "store.password"),
    ] {
        let place = folder(&format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\n{SECRETS}"));
        let out = run(place.path(), &["check"]);
        let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert_ne!(out.status.code(), Some(0), "{url}");
        assert!(said.contains(word), "{url}: {said}");
        assert!(said.contains("gateway.toml:3"), "{url}: {said}");
    }
    let place = folder("[store]\nurl = \"redis://localhost\"\n");
    let out = run(place.path(), &["check"]);
    assert!(text(&out.stderr).contains("only") || text(&out.stdout).contains("only"), "{}", text(&out.stderr));
}
