//! Secrets that gateway.toml only names: in the store, in a vault, at a cloud; and the master key behind them. The servers
//! are scripted, the gateway is real.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    keys::{ask, folder, portcullis, run, serve, text},
    support::{Gateway, Process, Say, Upstream, eventually, request},
};

fn chat() -> Say {
    Say::json(
        json!({
            "id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "hi" }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
        })
        .to_string(),
    )
}

const ASK: &str = r#"{"model":"up/m","messages":[{"role":"user","content":"x"}]}"#;

/// A provider whose key is a secret from elsewhere.
fn keyed(upstream: &Upstream, key: &str) -> String {
    let keyed = format!("auth = \"bearer\"\nkey = \"{key}\"");
    upstream.provider("up", "openai_chat").replace("auth = \"none\"", &keyed)
}

/// An answer that is a login and a value at once.
fn vault_says(value: &str, lease: u64) -> Say {
    let auth = json!({ "client_token": "vault-token-1", "lease_duration": lease, "renewable": true });
    Say::json(json!({ "auth": auth, "data": { "data": { "key": value } }, "lease_duration": 0 }).to_string())
}

fn vault_at(vault: &Upstream, auth: &str) -> String {
    format!("[secrets.vault]\naddress = \"http://{}\"\npoll = \"500ms\"\nauth = {auth}\n", vault.addr)
}

const APPROLE: &str = "{ approle = { role_id = \"file:role\", secret_id = \"file:secret\" } }";
const FILES: [(&str, &str); 3] = [("role", "role-1"), ("secret", "planted-secret-id"), ("jwt", "planted-jwt")];

fn bearer(upstream: &Upstream) -> Option<String> {
    upstream.heard().last()?.header("authorization").map(str::to_owned)
}

#[tokio::test]
async fn a_stored_secret_is_used_by_the_next_request_and_never_told() {
    let upstream = Upstream::saying(chat()).await;
    let config = format!("[store]\nkind = \"sled\"\n{}", keyed(&upstream, "store:up"));
    let gateway = Gateway::start(&config).await;
    let answer = gateway.chat(ASK).await;
    assert!(answer.status >= 400, "{}", answer.text());
    let told = gateway.admin("GET", "/api/v1/providers", "").await.text();
    assert!(told.contains("portcullis secrets set up"), "{told}");
    for (n, secret) in ["sk-planted-one", "sk-planted-two"].into_iter().enumerate() {
        let body = json!({ "value": secret }).to_string();
        let set = gateway.admin("PUT", "/api/v1/secrets/up", &body).await;
        assert_eq!((set.status, &set.json()["version"]), (200, &json!(n + 1)), "{}", set.text());
        assert_eq!(gateway.chat(ASK).await.status, 200);
        assert_eq!(bearer(&upstream), Some(format!("Bearer {secret}")), "what the call says is so");
    }
    for (body, status) in [("{}", 400), (r#"{"value":""}"#, 400), (r#"{"value":"sk-planted-odd","x":1}"#, 400)] {
        let refused = gateway.admin("PUT", "/api/v1/secrets/up", body).await;
        assert_eq!(refused.status, status);
        assert!(!refused.text().contains("planted"), "{}", refused.text());
    }
    assert_eq!(gateway.admin("PUT", "/api/v1/secrets/a%20b", r#"{"value":"x"}"#).await.status, 400);
    for path in ["/api/v1/secrets", "/api/v1/secrets/up", "/api/v1/audit?limit=500", "/api/v1/config/status"] {
        let shown = gateway.admin("GET", path, "").await;
        assert!(shown.status == 200 && !shown.text().contains("planted"), "{path}: {}", shown.text());
    }
    assert_eq!(gateway.admin("DELETE", "/api/v1/secrets/up", "").await.status, 200);
    assert!(gateway.chat(ASK).await.status >= 400, "a secret that is gone is not used");
    assert_eq!(gateway.admin("GET", "/api/v1/secrets/up", "").await.status, 404);
    gateway.stop().await;
}

#[tokio::test]
async fn a_stored_secret_survives_a_restart_and_a_broken_file_does_not_keep_an_old_one() {
    let upstream = Upstream::saying(chat()).await;
    let config = format!("[store]\nkind = \"sled\"\n{}", keyed(&upstream, "store:up"));
    let mut gateway = Process::start(&config, &[]).await;
    let set = gateway.admin("PUT", "/api/v1/secrets/up", r#"{"value":"sk-planted-one"}"#).await;
    assert_eq!(set.status, 200, "{}", set.text());
    gateway.kill_and_restart().await;
    let ask =
        async |gateway: &Process| request(gateway.addr, "POST", "/v1/chat/completions", &[], ASK.as_bytes()).await;
    assert_eq!(ask(&gateway).await.status, 200);
    assert_eq!(bearer(&upstream), Some("Bearer sk-planted-one".into()));
    gateway.save("gateway.toml", &format!("{config}[models.x]\ntargets = 5\n"));
    eventually("the file is refused", async || {
        !gateway.admin("GET", "/api/v1/config/status", "").await.json()["refused"].is_null()
    })
    .await;
    gateway.admin("PUT", "/api/v1/secrets/up", r#"{"value":"sk-planted-two"}"#).await;
    assert_eq!(ask(&gateway).await.status, 200);
    assert_eq!(bearer(&upstream), Some("Bearer sk-planted-two".into()), "what runs has it, whatever lies there");
}

#[tokio::test]
async fn a_value_that_was_rotated_in_a_vault_is_live_within_its_poll_and_no_request_is_dropped() {
    let (upstream, vault) =
        (Upstream::saying(chat()).await, Upstream::saying(vault_says("sk-planted-one", 3600)).await);
    let config = format!("{}{}", keyed(&upstream, "vault:secret/openai#key"), vault_at(&vault, APPROLE));
    let gateway = Arc::new(Gateway::with(&config, &FILES).await);
    assert_eq!(gateway.chat(ASK).await.status, 200);
    assert_eq!(bearer(&upstream), Some("Bearer sk-planted-one".into()));
    let heard = vault.heard();
    assert_eq!((heard[0].path.as_str(), heard[1].path.as_str()), ("/v1/auth/approle/login", "/v1/secret/data/openai"));
    assert_eq!(heard[0].json(), json!({ "role_id": "role-1", "secret_id": "planted-secret-id" }));
    assert_eq!(heard[1].header("x-vault-token"), Some("vault-token-1"));

    let dropped = Arc::new(AtomicUsize::new(0));
    let (asking, counted, over) = (gateway.clone(), dropped.clone(), Arc::new(AtomicUsize::new(0)));
    let stop = over.clone();
    let load = tokio::spawn(async move {
        let mut asked = 0;
        while stop.load(Ordering::Relaxed) == 0 {
            asked += 1;
            counted.fetch_add(usize::from(asking.chat(ASK).await.status != 200), Ordering::Relaxed);
        }
        asked
    });
    for value in ["sk-planted-two", "sk-planted-three"] {
        vault.always(vault_says(value, 3600));
        let wanted = format!("Bearer {value}");
        eventually("the new value is used", async || bearer(&upstream).as_deref() == Some(&wanted)).await;
    }
    // The vault refuses, then is gone: the last value is used on, and status says so.
    vault.always(Say::error(403, r#"{"errors":["permission denied planted-secret-id"]}"#));
    let state = async || -> Value {
        let status = gateway.admin("GET", "/api/v1/config/status", "").await.json();
        status["secrets"][0].clone()
    };
    eventually("it says that the value is old", async || state().await["state"] == "stale").await;
    let told = state().await;
    assert!(told["why"].as_str().is_some_and(|why| why.contains("403")), "{told}");
    let ready = gateway.get("/health/ready").await;
    assert_eq!((ready.status, &ready.json()["secrets"]), (200, &json!(["vault:secret/openai#key"])));
    assert_eq!(gateway.chat(ASK).await.status, 200);
    assert_eq!(bearer(&upstream), Some("Bearer sk-planted-three".into()));
    vault.always(vault_says("sk-planted-four", 3600));
    eventually("it is read again", async || state().await["state"] == "fresh").await;
    eventually("and used", async || bearer(&upstream).as_deref() == Some("Bearer sk-planted-four")).await;
    over.store(1, Ordering::Relaxed);
    let asked: usize = load.await.expect("the load");
    assert!(asked > 10 && dropped.load(Ordering::Relaxed) == 0, "{} of {asked}", dropped.load(Ordering::Relaxed));
    // A key goes to the host that it is bound to, and the vault's login to the vault.
    assert!(vault.heard().iter().all(|heard| heard.header("authorization").is_none()));
    assert!(upstream.heard().iter().all(|heard| heard.header("x-vault-token").is_none()));
}

#[tokio::test]
async fn a_cluster_logs_in_and_a_short_login_is_renewed_ahead_of_its_end() {
    let (upstream, vault) = (Upstream::saying(chat()).await, Upstream::saying(vault_says("sk-planted", 2)).await);
    let auth = "{ kubernetes = { role = \"gw\", token_file = \"jwt\" } }";
    let config = format!("{}{}", keyed(&upstream, "vault:kv/openai#key"), vault_at(&vault, auth));
    let gateway = Gateway::with(&config, &FILES).await;
    assert_eq!(gateway.chat(ASK).await.status, 200);
    let first = &vault.heard()[0];
    assert_eq!(
        (first.path.as_str(), first.json()),
        ("/v1/auth/kubernetes/login", json!({ "role": "gw", "jwt": "planted-jwt" }))
    );
    eventually("the login is renewed", async || {
        vault.heard().iter().any(|heard| heard.path == "/v1/auth/token/renew-self")
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_first_start_without_a_source_is_refused_by_a_sentence_that_names_the_secret() {
    let upstream = Upstream::saying(chat()).await;
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("addr")
    };
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\nkind = \"memory\"\n{}\
         [secrets.vault]\naddress = \"http://{gone}\"\nauth = {{ token = \"file:token\" }}\n",
        keyed(&upstream, "vault:secret/openai#key")
    );
    let place = folder(&config);
    std::fs::write(place.path().join("token"), "planted-token").expect("written");
    let refused = run(place.path(), &["serve"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("vault:secret/openai#key") && said.contains("cannot be reached"), "{said}");
    assert!(said.contains("providers.up.key") && said.contains("nothing was started"), "{said}");
    assert!(!said.contains("planted"), "{said}");
    // Checking the file asks nobody.
    let checked = run(place.path(), &["check"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    for (wrong, told) in [
        ("vault:openai#key", "a path and a field"),
        ("vault:secret/../x#key", "a path and a field"),
        ("vault:secret/openai", "a path and a field"),
        ("store:a b", "a name of letters"),
        ("aws-sm:x", "needs `[secrets.aws]`"),
        ("aws-sm:", "a secret's name"),
    ] {
        let config = config.replace("vault:secret/openai#key", wrong);
        std::fs::write(place.path().join("gateway.toml"), config).expect("written");
        let out = run(place.path(), &["check"]);
        let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert_eq!(out.status.code(), Some(78), "{wrong}: {said}");
        assert!(said.contains(told) && said.contains("gateway.toml:"), "{wrong}: {said}");
    }
}

#[tokio::test]
async fn a_new_reference_that_cannot_be_read_is_refused_and_what_runs_goes_on() {
    let (upstream, vault) =
        (Upstream::saying(chat()).await, Upstream::saying(vault_says("sk-planted-one", 3600)).await);
    let config = |key: &str| format!("{}{}", keyed(&upstream, key), vault_at(&vault, APPROLE));
    let gateway = Gateway::with(&config("vault:secret/openai#key"), &FILES).await;
    vault.always(Say::error(500, "{}"));
    gateway.rewrite(&config("vault:secret/other#key"));
    eventually("the change is refused", async || {
        let status = gateway.admin("GET", "/api/v1/config/status", "").await.json();
        status["refused"]["errors"][0]["message"].as_str().is_some_and(|m| m.contains("vault:secret/other#key"))
    })
    .await;
    assert_eq!(gateway.chat(ASK).await.status, 200);
    vault.always(vault_says("sk-planted-two", 3600));
    eventually("once it can be read it is live by itself", async || {
        gateway.chat(ASK).await;
        bearer(&upstream).as_deref() == Some("Bearer sk-planted-two")
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_cloud_is_asked_with_a_signature_and_its_new_value_is_taken_up() {
    let says = |value: &str| Say::json(json!({ "SecretString": json!({ "key": value }).to_string() }).to_string());
    let (upstream, cloud) = (Upstream::saying(chat()).await, Upstream::saying(says("sk-planted-one")).await);
    let config = format!(
        "{}[secrets.aws]\nregion = \"eu-central-1\"\nurl = \"http://{}/\"\npoll = \"500ms\"\naws = {{ access_key_id = \
         \"file:role\", secret_access_key = \"file:secret\" }}\n",
        keyed(&upstream, "aws-sm:prod/openai#key"),
        cloud.addr
    );
    let gateway = Gateway::with(&config, &FILES).await;
    assert_eq!(gateway.chat(ASK).await.status, 200);
    assert_eq!(bearer(&upstream), Some("Bearer sk-planted-one".into()));
    let asked = cloud.last();
    assert_eq!(asked.header("x-amz-target"), Some("secretsmanager.GetSecretValue"));
    assert!(asked.header("authorization").is_some_and(|sum| sum.contains("/eu-central-1/secretsmanager/aws4_request")));
    assert_eq!(asked.json(), json!({ "SecretId": "prod/openai" }));
    cloud.always(says("sk-planted-two"));
    eventually("the new value is used", async || {
        gateway.chat(ASK).await;
        bearer(&upstream).as_deref() == Some("Bearer sk-planted-two")
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn no_secret_is_in_anything_that_is_written() {
    let (upstream, vault) =
        (Upstream::saying(chat()).await, Upstream::saying(vault_says("sk-planted-vault", 3600)).await);
    let other = Upstream::saying(chat()).await;
    let stored =
        other.provider("own", "openai_chat").replace("auth = \"none\"", "auth = \"bearer\"\nkey = \"store:own\"");
    let config = format!(
        "[store]\nkind = \"sled\"\n[records]\nbodies = \"sealed\"\n{}{stored}{}",
        keyed(&upstream, "vault:secret/openai#key"),
        vault_at(&vault, APPROLE)
    );
    let mut gateway = Process::start(&config, &FILES).await;
    let put = gateway.admin("PUT", "/api/v1/secrets/own", r#"{"value":"sk-planted-store"}"#).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let odd = gateway.admin("PUT", "/api/v1/secrets/own", r#"{"value":5,"planted-body":1}"#).await;
    assert_eq!(odd.status, 400, "{}", odd.text());
    for model in ["up/m", "own/m"] {
        let body = ASK.replace("up/m", model);
        let answer = request(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), gateway.log());
    }
    // All of them fail, with the secrets in what they say.
    for upstream in [&upstream, &other] {
        upstream.always(Say::error(401, r#"{"error":{"message":"bad key sk-planted-vault sk-planted-store"}}"#));
    }
    vault.always(Say::error(403, r#"{"errors":["planted-secret-id is wrong"]}"#));
    for model in ["up/m", "own/m"] {
        request(gateway.addr, "POST", "/v1/chat/completions", &[], ASK.replace("up/m", model).as_bytes()).await;
    }
    eventually("the vault's refusal is told", async || {
        gateway.admin("GET", "/api/v1/config/status", "").await.text().contains("403")
    })
    .await;
    assert_eq!(gateway.admin("POST", "/api/v1/secrets/rotate-master", "").await.status, 200);
    let mut seen = vec![("the log".to_owned(), gateway.log().into_bytes())];
    for path in [
        "/api/v1/secrets",
        "/api/v1/audit?limit=500",
        "/api/v1/audit/export",
        "/api/v1/audit/export?format=csv",
        "/api/v1/config/status",
        "/api/v1/providers",
        "/api/v1/requests",
        "/api/v1/versions/v1",
        "/health/ready",
        "/metrics",
    ] {
        seen.push((path.to_owned(), gateway.admin("GET", path, "").await.body));
    }
    gateway.halt();
    seen.push(("the log at the end".to_owned(), gateway.log().into_bytes()));
    let exported = run(gateway.path(), &["state", "export", "--to", "state.jsonl"]);
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    let mut files = files(&gateway.path().join("data"));
    files.push(gateway.path().join("state.jsonl"));
    for file in files {
        seen.push((file.display().to_string(), std::fs::read(&file).expect("a file")));
    }
    for (place, bytes) in seen {
        for planted in ["sk-planted", "planted-secret-id", "planted-body", "vault-token-1"] {
            let found = bytes.windows(planted.len()).any(|window| window == planted.as_bytes());
            assert!(!found, "{planted} is in {place}");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(files(&path)),
            path => all.push(path),
        }
    }
    all
}

#[test]
fn a_wrong_or_missing_master_key_starts_nothing_and_changes_nothing() {
    let place = folder("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let key = text(&run(place.path(), &["keys", "create", "--name", "k", "-q"]).stdout).trim().to_owned();
    let mut set = portcullis(place.path(), &["secrets", "set", "a"]);
    let mut child = set.stdin(std::process::Stdio::piped()).spawn().expect("spawn");
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), b"sk-planted").expect("sent");
    assert!(child.wait().expect("wait").success());
    let file = place.path().join("data/master.key");
    let right = std::fs::read(&file).expect("a master key");
    let exported = |name: &str| {
        let out = run(place.path(), &["state", "export", "--to", name]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let text = std::fs::read_to_string(place.path().join(name)).expect("an export");
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = exported("before.jsonl");
    for (wrong, told) in [(Some("ab".repeat(32)), "not the one"), (Some("short".into()), "64 hex"), (None, "missing")] {
        match wrong {
            Some(wrong) => std::fs::write(&file, wrong).expect("written"),
            None => std::fs::remove_file(&file).expect("removed"),
        }
        for words in [&["serve"][..], &["keys", "list"], &["secrets", "list"], &["audit", "verify"]] {
            let refused = run(place.path(), words);
            let said = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(1), "{words:?}: {said}");
            assert!(said.contains(told) && !said.contains("panicked"), "{words:?}: {said}");
        }
    }
    std::fs::write(&file, right).expect("written");
    // Its end names the moment of the export.
    let differ = |lines: &[String]| lines.iter().filter(|line| !line.contains("sha256")).cloned().collect::<Vec<_>>();
    assert_eq!(differ(&exported("after.jsonl")), differ(&before), "nothing was changed");
    let (_gateway, address, _) = serve(place.path());
    assert_eq!(ask(&address, &key), 200);
}

/// A rotation on a running gateway, killed at any moment: the next start finds its keys, and so does every caller.
#[test]
fn a_rotation_that_is_killed_leaves_a_master_key_that_works() {
    let rounds: u64 = if std::env::var("PORTCULLIS_LONG").is_ok_and(|v| v == "1") { 20 } else { 2 };
    let place = folder("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let key = text(&run(place.path(), &["keys", "create", "--name", "k", "-q"]).stdout).trim().to_owned();
    let (mut gateway, mut address, mut admin) = serve(place.path());
    let put = run_with(place.path(), &["secrets", "set", "a", "--admin", &admin], "sk-planted");
    assert!(put.status.success(), "{}", text(&put.stderr));
    let started = std::time::Instant::now();
    let rotated = run(place.path(), &["secrets", "rotate-master", "--admin", &admin]);
    assert!(rotated.status.success(), "{}", text(&rotated.stderr));
    let usual = started.elapsed();
    assert_eq!(ask(&address, &key), 200, "nothing stands still");
    let mut cut = 0;
    for round in 0..rounds {
        let mut child =
            portcullis(place.path(), &["secrets", "rotate-master", "--admin", &admin]).spawn().expect("spawn");
        std::thread::park_timeout(usual * u32::try_from(round).expect("few") / u32::try_from(rounds).expect("few"));
        gateway.0.kill().expect("kill");
        gateway.0.wait().expect("wait");
        cut += usize::from(!child.wait().expect("wait").success());
        (gateway, address, admin) = serve(place.path());
        assert_eq!(ask(&address, &key), 200, "round {round}");
        let list = run(place.path(), &["secrets", "list", "--json", "--admin", &admin]);
        let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
        assert_eq!(list["data"][0]["name"], "a", "{list}");
        let verified = run(place.path(), &["audit", "verify", "--admin", &admin]);
        assert!(verified.status.success(), "{}", text(&verified.stdout));
    }
    println!("{rounds} kills, {cut} rotations cut off");
    assert!(run(place.path(), &["secrets", "rotate-master", "--admin", &admin]).status.success());
    gateway.0.kill().expect("kill");
    gateway.0.wait().expect("wait");
    let (_gateway, address, _) = serve(place.path());
    assert_eq!(ask(&address, &key), 200);
}

#[test]
fn a_master_key_moves_to_another_place_without_downtime() {
    let at = |master: &str| format!("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{master}");
    let place = folder(&at(""));
    let key = text(&run(place.path(), &["keys", "create", "--name", "k", "-q"]).stdout).trim().to_owned();
    let (mut gateway, address, admin) = serve(place.path());
    std::fs::write(place.path().join("next.key"), format!("{}\n", "c4".repeat(32))).expect("written");
    let moved = run(place.path(), &["secrets", "rotate-master", "--to", "file:next.key", "--admin", &admin]);
    assert!(moved.status.success() && text(&moved.stdout).contains("secrets.master_key"), "{}", text(&moved.stderr));
    let program = run(place.path(), &["secrets", "rotate-master", "--to", "cmd:id", "--admin", &admin]);
    assert!(text(&program.stderr).contains("who owns the machine"), "{}", text(&program.stderr));
    // Too early: the configuration names the former one still, which stays good.
    let named = at("[secrets]\nmaster_key = [\"cmd:cat\", \"next.key\"]\n");
    std::fs::write(place.path().join("gateway.toml"), &named).expect("written");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let finished = run(place.path(), &["secrets", "rotate-master", "--finish", "--admin", &admin]);
        let status = run(place.path(), &["secrets", "list", "--admin", &admin]);
        assert!(status.status.success());
        if finished.status.success() {
            assert!(text(&finished.stdout).contains("it alone"));
            break;
        }
        // Until the reload, nothing is ended with the key that is to go.
        let said = text(&finished.stderr);
        assert!(said.contains("still names the former") && std::time::Instant::now() < deadline, "{said}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(ask(&address, &key), 200);
    gateway.0.kill().expect("kill");
    gateway.0.wait().expect("wait");
    std::fs::remove_file(place.path().join("data/master.key")).expect("nobody needs it");
    let (_gateway, address, _) = serve(place.path());
    assert_eq!(ask(&address, &key), 200);
}

fn run_with(folder: &Path, args: &[&str], input: &str) -> std::process::Output {
    let mut command = portcullis(folder, args);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("spawn");
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), input.as_bytes()).expect("sent");
    child.wait_with_output().expect("wait")
}
