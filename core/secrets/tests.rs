use std::{path::Path, sync::Mutex as Lock};

use futures_util::future::BoxFuture;

use super::*;
use crate::{
    config::{AwsLogin, SecretsManager, Vault, VaultAuth},
    provider::sign::{Answer, Ask, Outside},
    store::{self, Op, Table},
    upstream::ProxyConfig,
};

/// A world that answers as it is told, in order, and remembers what it was asked.
#[derive(Default)]
struct World {
    says: Lock<Vec<(u16, Value)>>,
    heard: Lock<Vec<Ask>>,
    unreachable: std::sync::atomic::AtomicBool,
}

impl World {
    fn saying(says: &[(u16, Value)]) -> World {
        World { says: Lock::new(says.to_vec()), ..World::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().map(|ask| format!("{} {}", ask.method, ask.url.path())).collect()
    }

    fn header(&self, at: usize, name: &str) -> Option<String> {
        let heard = self.heard.lock().unwrap();
        Some(heard.get(at)?.headers.get(name)?.to_str().unwrap().to_owned())
    }

    fn body(&self, at: usize) -> Value {
        serde_json::from_slice(&self.heard.lock().unwrap()[at].body).unwrap()
    }
}

impl Outside for World {
    fn send(&self, ask: Ask) -> BoxFuture<'_, std::result::Result<Answer, String>> {
        Box::pin(async move {
            if self.unreachable.load(Ordering::Relaxed) {
                return Err("connection refused".to_owned());
            }
            self.heard.lock().unwrap().push(ask);
            let (status, body) = self.says.lock().unwrap().remove(0);
            Ok(Answer { status, body: body.to_string().into() })
        })
    }

    fn read(&self, path: &Path) -> std::result::Result<String, String> {
        assert_eq!(path, Path::new("/sa/token"));
        Ok("jwt-of-the-pod\n".to_owned())
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160)
    }
}

fn vault(auth: VaultAuth) -> Vault {
    Vault {
        address: "https://vault.internal:8200".into(),
        auth,
        namespace: Some("team".into()),
        mount: None,
        ca: None,
        poll: Duration::from_secs(60),
    }
}

fn role() -> VaultAuth {
    VaultAuth::AppRole { role_id: Secret::new("r-1"), secret_id: Secret::new("s-1"), mount: "approle".into() }
}

fn kv(value: &str) -> (u16, Value) {
    (200, json!({ "data": { "data": { "key": value }, "metadata": { "version": 1 } }, "lease_duration": 0 }))
}

fn logged_in(token: &str, lease: u64) -> (u16, Value) {
    (200, json!({ "auth": { "client_token": token, "lease_duration": lease, "renewable": true } }))
}

async fn read(login: &vault::Login, vault: &Vault, world: &World) -> std::result::Result<String, String> {
    match login.read(vault, world, "secret/openai", "key").await {
        Ok(read) => Ok(read.value.expose().to_owned()),
        Err(Failure::Absent(why)) => Err(format!("absent: {why}")),
        Err(Failure::Unknown(why)) => Err(format!("unknown: {why}")),
    }
}

#[tokio::test]
async fn an_approle_logs_in_once_reads_and_renews() {
    let world = World::saying(&[logged_in("t-1", 3600), kv("one"), kv("two")]);
    let (login, vault) = (vault::Login::default(), vault(role()));
    assert_eq!(read(&login, &vault, &world).await.unwrap(), "one");
    assert_eq!(read(&login, &vault, &world).await.unwrap(), "two");
    assert_eq!(
        world.asked(),
        ["POST /v1/auth/approle/login", "GET /v1/secret/data/openai", "GET /v1/secret/data/openai"]
    );
    assert_eq!(world.body(0), json!({ "role_id": "r-1", "secret_id": "s-1" }));
    assert_eq!((world.header(1, "x-vault-token"), world.header(0, "x-vault-token")), (Some("t-1".into()), None));
    assert_eq!(world.header(0, "x-vault-namespace"), Some("team".into()));
    assert!(login.keep(&vault, &world).await.is_some(), "it is due one day");

    // A short one is renewed, and made anew when that is refused.
    let world = World::saying(&[logged_in("t-1", 1), kv("one")]);
    let login = vault::Login::default();
    read(&login, &vault, &world).await.unwrap();
    let wait = login.keep(&vault, &world).await.unwrap().saturating_duration_since(Instant::now());
    tokio::time::sleep(wait + Duration::from_millis(5)).await;
    let more = [logged_in("t-1", 3600), kv("two")];
    world.says.lock().unwrap().extend(more);
    assert_eq!(read(&login, &vault, &world).await.unwrap(), "two");
    let asked = world.asked();
    assert!(asked[2] == "POST /v1/auth/token/renew-self" || asked[2] == "POST /v1/auth/approle/login", "{asked:?}");
}

#[tokio::test]
async fn a_login_that_was_taken_back_is_made_anew_and_a_closed_path_is_told() {
    let denied = (403, json!({ "errors": ["permission denied"] }));
    let world = World::saying(&[logged_in("t-1", 0), denied.clone(), logged_in("t-2", 0), kv("one")]);
    let (login, vault) = (vault::Login::default(), vault(role()));
    assert_eq!(read(&login, &vault, &world).await.unwrap(), "one");
    assert_eq!(world.header(3, "x-vault-token"), Some("t-2".into()));

    let world = World::saying(&[denied.clone(), logged_in("t-3", 0), denied.clone()]);
    let told = read(&login, &vault, &world).await.unwrap_err();
    assert!(told.starts_with("unknown") && told.contains("403") && told.contains("policy"), "{told}");
    let world = World::saying(&[(400, json!({ "errors": ["invalid secret id s-1"] }))]);
    let told = read(&vault::Login::default(), &vault, &world).await.unwrap_err();
    assert!(told.contains("log in by auth/approle (400)") && !told.contains("s-1"), "{told}");
}

#[tokio::test]
async fn a_cluster_logs_in_with_its_service_account_and_a_token_looks_at_itself() {
    let k8s = VaultAuth::Kubernetes { role: "gw".into(), token_file: "/sa/token".into(), mount: "k8s/a".into() };
    let world = World::saying(&[logged_in("t", 60), kv("one")]);
    assert_eq!(read(&vault::Login::default(), &vault(k8s), &world).await.unwrap(), "one");
    assert_eq!(world.asked()[0], "POST /v1/auth/k8s/a/login");
    assert_eq!(world.body(0), json!({ "role": "gw", "jwt": "jwt-of-the-pod" }));

    let token = vault(VaultAuth::Token(Secret::new("root-token")));
    let world = World::saying(&[(200, json!({ "data": { "ttl": 0, "renewable": false } })), kv("one"), kv("two")]);
    let login = vault::Login::default();
    assert_eq!(read(&login, &token, &world).await.unwrap(), "one");
    assert_eq!(read(&login, &token, &world).await.unwrap(), "two");
    assert_eq!(world.asked()[0], "GET /v1/auth/token/lookup-self");
    let world = World::saying(&[(403, json!({ "errors": [] }))]);
    let told = read(&vault::Login::default(), &token, &world).await.unwrap_err();
    assert!(told.contains("does not take the token") && !told.contains("root-token"), "{told}");
}

#[tokio::test]
async fn what_is_not_there_is_told_apart_from_what_cannot_be_asked() {
    let login = vault::Login::default();
    let vault = vault(VaultAuth::Token(Secret::new("t")));
    let says = [
        (404, json!({})),
        (404, json!({ "data": { "data": null, "metadata": { "deletion_time": "2026-01-01T00:00:00Z" } } })),
        (200, json!({ "data": { "data": { "other": "x" } } })),
        (200, json!({ "data": { "data": null } })),
        (200, json!({ "data": { "data": { "key": { "deep": 1 } } } })),
        (503, json!({ "errors": ["Vault is sealed"] })),
        (200, Value::Null),
    ];
    let world = World::saying(&[&[(404, json!({}))], says.as_slice()].concat());
    for n in 0..says.len() {
        let told = read(&login, &vault, &world).await.unwrap_err();
        assert_eq!(told.starts_with("absent"), n < 5, "{n}: {told}");
    }
    world.unreachable.store(true, Ordering::Relaxed);
    assert!(read(&login, &vault, &world).await.unwrap_err().contains("cannot be reached"));
}

#[tokio::test]
async fn a_path_is_asked_for_where_its_mount_is() {
    for (mount, path, asked) in [
        (None, "secret/openai", "/v1/secret/data/openai"),
        (None, "secret/data/openai", "/v1/secret/data/openai"),
        (None, "kv/a/b.c", "/v1/kv/data/a/b.c"),
        (Some("team/kv"), "team/kv/openai", "/v1/team/kv/data/openai"),
        (Some("team/kv"), "openai/prod", "/v1/team/kv/data/openai/prod"),
    ] {
        let mut vault = vault(VaultAuth::Token(Secret::new("t")));
        vault.mount = mount.map(str::to_owned);
        let world = World::saying(&[(404, json!({})), kv("x")]);
        vault::Login::default().read(&vault, &world, path, "key").await.ok().unwrap();
        assert_eq!(world.asked()[1], format!("GET {asked}"));
    }
}

#[tokio::test]
async fn a_cloud_is_asked_with_a_signature_and_its_fields_are_read() {
    let manager = SecretsManager {
        region: "eu-central-1".into(),
        url: None,
        login: Some(AwsLogin::Keys { id: Secret::new("AKID"), secret: Secret::new("sk"), session: None }),
        poll: Duration::from_secs(300),
    };
    let keys = aws::Keys::default();
    let json_text = json!({ "SecretString": "{\"key\":\"v\",\"port\":5}" });
    let world = World::saying(&[
        (200, json!({ "SecretString": "plain" })),
        (200, json_text.clone()),
        (200, json_text.clone()),
        (200, json_text),
        (200, json!({ "SecretBinary": "AAAA" })),
        (400, json!({ "__type": "com.amazonaws#ResourceNotFoundException", "message": "x" })),
        (400, json!({ "__type": "AccessDeniedException", "Message": "User: arn:… is not authorized" })),
    ]);
    let mut all = Vec::new();
    for field in [None, Some("key"), Some("port"), Some("none"), None, None, None] {
        all.push(match keys.read(&manager, &world, "prod/openai", field).await {
            Ok(read) => read.value.expose().to_owned(),
            Err(Failure::Absent(why)) => format!("absent: {why}"),
            Err(Failure::Unknown(why)) => format!("unknown: {why}"),
        });
    }
    assert_eq!(&all[..3], ["plain", "v", "5"]);
    assert!(all[3].starts_with("absent") && all[4].starts_with("absent") && all[5].starts_with("absent"), "{all:?}");
    assert!(all[6].contains("400, AccessDeniedException") && !all[6].contains("arn"), "{all:?}");
    assert_eq!(world.heard.lock().unwrap()[0].url.to_string(), "https://secretsmanager.eu-central-1.amazonaws.com/");
    assert_eq!(world.header(0, "x-amz-target").unwrap(), "secretsmanager.GetSecretValue");
    let signed = world.header(0, "authorization").unwrap();
    assert!(signed.contains("/eu-central-1/secretsmanager/aws4_request"), "{signed}");
    assert!(signed.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-target"), "{signed}");
    assert_eq!(world.body(0), json!({ "SecretId": "prod/openai" }));
}

async fn on_memory() -> (Arc<dyn Store>, Arc<Secrets>) {
    let store = store::memory();
    let ring = Keyring::open(&store, &config::Secrets::default()).await.unwrap();
    let secrets = Secrets::new(store.clone(), ring, Client::new(&ProxyConfig::default()));
    (store, secrets)
}

#[tokio::test]
async fn a_stored_secret_is_sealed_and_opens_under_its_own_name_and_version_only() {
    let (store, secrets) = on_memory().await;
    let one = secrets.set("openai", &Secret::new("sk-planted-1")).await.unwrap();
    let two = secrets.set("openai", &Secret::new("sk-planted-2")).await.unwrap();
    let twin = secrets.set("other", &Secret::new("sk-planted-2")).await.unwrap();
    assert_eq!((one.version, two.version, twin.version), (1, 2, 1));
    assert!(one.hint != two.hint && two.hint == twin.hint && two.hint.len() == 8);
    assert_eq!(secrets.open("openai").await.unwrap().unwrap().1.expose(), "sk-planted-2");
    let row = store.read(Table::Secrets, b"openai").await.unwrap().unwrap();
    assert!(!String::from_utf8(row.clone()).unwrap().contains("planted"));
    let listed = secrets.list(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["openai", "other"]);
    // Moved to another name, or with another version.
    store.write(vec![Op::put(Table::Secrets, "moved", row.clone())]).await.unwrap();
    assert_eq!(secrets.open("moved").await.unwrap_err().code(), "secret_damaged");
    let mut other: Value = serde_json::from_slice(&row).unwrap();
    other["version"] = json!(1);
    store.write(vec![Op::put(Table::Secrets, "openai", other.to_string())]).await.unwrap();
    assert_eq!(secrets.open("openai").await.unwrap_err().code(), "secret_damaged");
    store.write(vec![Op::put(Table::Secrets, "openai", "{}")]).await.unwrap();
    assert!(secrets.set("openai", &Secret::new("x")).await.is_err());
    assert_eq!(secrets.delete("none").await.unwrap_err().status(), 404);
    for (name, value) in [("a b", "x"), ("", "x"), ("a", " "), ("a", "x\0y"), ("a/b", "x")] {
        assert_eq!(secrets.set(name, &Secret::new(value)).await.unwrap_err().status(), 400, "{name:?}");
    }
    let long = "x".repeat((32 << 10) + 1);
    assert!(secrets.set("long", &Secret::new(long)).await.is_err());
    secrets.set("long", &Secret::new("x".repeat(32 << 10))).await.unwrap();
}

#[tokio::test]
async fn another_master_key_seals_the_stored_secrets_anew() {
    let dir = tempfile::tempdir().unwrap();
    let config = config::Store { kind: config::StoreKind::Sled, path: dir.path().join("data") };
    let store = store::open(&config).await.unwrap();
    let ring = Keyring::open(&store, &config::Secrets::default()).await.unwrap();
    let secrets = Secrets::new(store.clone(), ring, Client::new(&ProxyConfig::default()));
    for n in 0..20 {
        secrets.set(&format!("s{n}"), &Secret::new(format!("value-{n}"))).await.unwrap();
    }
    let before = store.scan(Table::Secrets, b"", None, 100).await.unwrap();
    secrets.rotate_master(Next::Own).await.unwrap();
    let after = store.scan(Table::Secrets, b"", None, 100).await.unwrap();
    assert!(before.iter().zip(&after).all(|(old, new)| old.0 == new.0 && old.1 != new.1));
    // A new process, with the new file.
    let ring = Keyring::open(&store, &config::Secrets::default()).await.unwrap();
    let fresh = Secrets::new(store.clone(), ring, Client::new(&ProxyConfig::default()));
    for n in 0..20 {
        let (version, value) = fresh.open(&format!("s{n}")).await.unwrap().unwrap();
        assert_eq!((version, value.expose()), (1, format!("value-{n}").as_str()));
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_an_older_read_found_does_not_take_the_place_of_what_is_newer() {
    let (_store, secrets) = on_memory().await;
    let config = config::Secrets::default();
    let hears = |round, found| secrets.heard(&config, round, std::iter::once(("store:a".to_owned(), found)));
    let read = |value: &str| Ok(Read { value: Secret::new(value), lease: None });
    hears(2, read("new"));
    // It began before the secret was put in, and ends after that.
    hears(1, Err(Failure::Absent("there is none".into())));
    assert!(matches!(secrets.look("store:a"), Told::Value(value) if value.expose() == "new"));
    hears(1, read("old"));
    assert!(matches!(secrets.look("store:a"), Told::Value(value) if value.expose() == "new"));
    hears(3, read("newest"));
    assert!(matches!(secrets.look("store:a"), Told::Value(value) if value.expose() == "newest"));
}

#[tokio::test]
async fn a_reference_is_known_kept_over_an_outage_and_told_of_when_it_changes() {
    let (_store, secrets) = on_memory().await;
    let config = config::Secrets { references: vec!["store:a".into()], ..config::Secrets::default() };
    let look = |secrets: &Secrets| match secrets.look("store:a") {
        Told::Value(secret) => secret.expose().to_owned(),
        Told::Absent(why) => format!("absent: {why}"),
        Told::Unknown(why) => format!("unknown: {why}"),
    };
    assert!(look(&secrets).starts_with("unknown"));
    secrets.fetch(&config, vec!["store:a".into()]).await;
    assert!(look(&secrets).contains("portcullis secrets set a"), "{}", look(&secrets));
    secrets.settle(&config, &[]).await;
    let mut seen = 0;
    secrets.set("a", &Secret::new("one")).await.unwrap();
    secrets.refresh().await;
    secrets.changed(&mut seen).await;
    assert_eq!((look(&secrets).as_str(), secrets.trouble()), ("one", None));
    let at = seen;
    secrets.refresh().await;
    assert_eq!(secrets.changes.load(Ordering::Relaxed), at, "the same value is no change");
    // What cannot be asked any more keeps its value; what is gone does not.
    let gone = config::Secrets { references: vec!["vault:a/b#c".into()], ..config::Secrets::default() };
    secrets.lock().insert(
        "vault:a/b#c".into(),
        Known {
            value: Some(Secret::new("last")),
            read: Some(SystemTime::now()),
            failed: None,
            failures: 0,
            next: Instant::now(),
            round: 0,
        },
    );
    secrets.fetch(&gone, vec!["vault:a/b#c".into()]).await;
    assert!(matches!(secrets.look("vault:a/b#c"), Told::Value(value) if value.expose() == "last"));
    let status = secrets.status();
    assert_eq!(status[1]["state"], "stale");
    assert!(!status.to_string().contains("last\"") && status[1]["why"].is_string(), "{status}");
    assert_eq!(secrets.trouble(), Some(vec!["vault:a/b#c".to_owned()]));
    secrets.delete("a").await.unwrap();
    secrets.refresh().await;
    assert!(look(&secrets).starts_with("absent"));
    assert_eq!(status[0]["reference"], "store:a");
    // Nobody names it any more.
    secrets.settle(&config::Secrets::default(), &[]).await;
    assert!(look(&secrets).starts_with("unknown"));
    assert!(!format!("{:?}", secrets.lock()).contains("last"), "Debug shows no secret");
}
