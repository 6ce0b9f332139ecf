//! Keys from making to refusal, on the memory store and over a restart.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue};

mod memory;
mod people;
mod rights;
mod unwritten;

use super::*;
use crate::{
    config::{self, StoreKind, Team},
    error::Result,
    store::{self, Memory, Op, Store},
};

fn teams(list: &[(&str, &[&str])]) -> BTreeMap<String, Team> {
    list.iter()
        .map(|(name, models)| {
            let models = Some(models.iter().map(|m| (*m).to_owned()).collect());
            ((*name).to_owned(), Team { models, ..Team::default() })
        })
        .collect()
}

/// Stores have these hashes: what makes them may change, they may not.
#[test]
fn a_key_s_hash_is_the_hmac_of_all_of_it() {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    let (pepper, long) = ([7; 32], "k".repeat(300));
    let table = table::Table::new(&pepper);
    for key in ["", "pk-1", "pk-0123456789abcdef0123456789abcdef0123456789abcdef012345", &long] {
        assert_eq!(table.hash(key), sign(&Key::new(HMAC_SHA256, &pepper), key.as_bytes()).as_ref(), "{key}");
    }
}

async fn keys_on(store: Arc<dyn Store>) -> Arc<Keys> {
    Keys::open(store, &config::Auth { required: true }, &BTreeMap::new()).await.unwrap()
}

async fn keys() -> Arc<Keys> {
    keys_on(Arc::new(Memory::default())).await
}

fn only(models: &[&str]) -> terms::TermsRow {
    terms::TermsRow { models: Some(models.iter().map(|m| (*m).to_owned()).collect()), ..Default::default() }
}

fn named(name: &str) -> NewKey {
    NewKey { name: name.into(), ..NewKey::default() }
}

fn code(result: Result<Arc<Principal>>) -> String {
    let error = result.expect_err("must be refused");
    assert_eq!(error.status(), 401);
    error.code().to_owned()
}

fn who(keys: &Keys, key: &str) -> Result<Arc<Principal>> {
    keys.table().authenticate(Some(key), SystemTime::now())
}

#[tokio::test]
async fn a_new_key_is_its_principal_at_once() {
    let keys = keys().await;
    let new = NewKey { team: Some("hr".into()), terms: only(&["openai/*"]), ..named("laptop") };
    let (info, secret) = keys.create(new).await.unwrap();
    assert!(credential::well_formed(secret.expose()), "{}", secret.expose());
    let principal = who(&keys, secret.expose()).unwrap();
    assert_eq!(
        (&*principal.key_id, &*principal.key_name, principal.team.as_deref()),
        (&*info.id, "laptop", Some("hr"))
    );
    assert_eq!(principal.tenant(), "hr");
    assert!(principal.may_use("openai/gpt-4o") && !principal.may_use("mock"));
    assert!(info.hint.ends_with(&secret.expose()[45..]) && info.status == "active");
}

#[tokio::test]
async fn every_refusal_has_its_own_code() {
    let keys = keys().await;
    let (info, secret) = keys.create(named("a")).await.unwrap();
    let now = SystemTime::now();
    let table = keys.table();
    assert_eq!(code(table.authenticate(None, now)), "key_missing");
    let unknown = format!("sk-pc-{}", "A".repeat(43));
    let short = &secret.expose()[..48];
    let spaced = format!("{short} ");
    for bad in ["", "sk-proj-abc", short, &spaced, &unknown] {
        assert_eq!(code(table.authenticate(Some(bad), now)), "invalid_api_key", "{bad}");
    }
    keys.revoke(&info.id, false).await.unwrap();
    assert_eq!(code(who(&keys, secret.expose())), "key_revoked");

    let expires = Some(now + Duration::from_secs(60));
    let (_, secret) = keys.create(NewKey { expires, ..named("b") }).await.unwrap();
    assert!(who(&keys, secret.expose()).is_ok());
    let later = table.authenticate(Some(secret.expose()), now + Duration::from_secs(61));
    assert_eq!(code(later), "key_expired");
}

#[tokio::test]
async fn no_refusal_repeats_the_key() {
    let keys = keys().await;
    let unknown = format!("sk-pc-{}", "Q".repeat(43));
    for bad in [unknown.as_str(), "sk-pc-QQQQ", "QQQQ"] {
        let error = who(&keys, bad).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("QQQQ"));
    }
}

#[tokio::test]
async fn rotation_keeps_the_id_and_lets_the_old_secret_overlap() {
    let keys = keys().await;
    let (info, first) = keys.create(named("a")).await.unwrap();
    let (rotated, second) = keys.rotate(&info.id, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(rotated.id, info.id);
    assert!(rotated.former_secret_until.is_some());
    assert!(who(&keys, first.expose()).is_ok() && who(&keys, second.expose()).is_ok());
    let later = SystemTime::now() + Duration::from_secs(3601);
    assert_eq!(code(keys.table().authenticate(Some(first.expose()), later)), "key_expired");
    assert!(keys.table().authenticate(Some(second.expose()), later).is_ok());

    let (_, third) = keys.rotate(&info.id, Duration::ZERO).await.unwrap();
    assert_eq!(code(who(&keys, first.expose())), "key_expired");
    assert_eq!(code(who(&keys, second.expose())), "key_expired");
    assert!(who(&keys, third.expose()).is_ok());
    for _ in 0..5 {
        keys.rotate(&info.id, Duration::from_secs(9)).await.unwrap();
    }
    assert_eq!(code(who(&keys, first.expose())), "invalid_api_key");
    keys.revoke(&info.id, false).await.unwrap();
    assert!(keys.rotate(&info.id, Duration::ZERO).await.unwrap_err().to_string().contains("was revoked"));
}

#[tokio::test]
async fn keys_outlive_the_process_and_stay_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let config = config::Store { kind: StoreKind::Sled, path: dir.path().join("data") };
    let store = store::open(&config).await.unwrap();
    let keys = keys_on(store.clone()).await;
    let (_, kept) = keys.create(named("kept")).await.unwrap();
    let (gone, revoked) = keys.create(named("gone")).await.unwrap();
    keys.revoke(&gone.id, false).await.unwrap();
    store.close().await.unwrap();

    let store = store::open(&config).await.unwrap();
    let keys = keys_on(store.clone()).await;
    assert_eq!(&*who(&keys, kept.expose()).unwrap().key_name, "kept");
    assert_eq!(code(who(&keys, revoked.expose())), "key_revoked");
    let text = std::fs::read(dir.path().join("data/sled/db")).unwrap();
    assert!(memchr::memmem::find(&text, &kept.expose().as_bytes()[6..]).is_none(), "only the hash is stored");
    store.close().await.unwrap();
}

#[tokio::test]
async fn another_master_key_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config::Store { kind: StoreKind::Sled, path: dir.path().join("data") };
    let store = store::open(&config).await.unwrap();
    keys_on(store.clone()).await.create(named("a")).await.unwrap();
    store.close().await.unwrap();
    for (text, expected) in [(Some("ab".repeat(32)), "not the one"), (None, "missing")] {
        let file = dir.path().join("data/master.key");
        match text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let store = store::open(&config).await.unwrap();
        let refused = Keys::open(store.clone(), &config::Auth { required: true }, &BTreeMap::new()).await;
        let message = refused.err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_row_refuses_to_start() {
    let store = Arc::new(Memory::default());
    store.write(vec![Op::put(store::Table::Keys, "key_1", "{\"name\":")]).await.unwrap();
    let refused = Keys::open(store, &config::Auth { required: true }, &BTreeMap::new()).await;
    assert!(refused.err().unwrap().to_string().contains("key_1"));
}

#[tokio::test]
async fn the_first_run_makes_one_key_once() {
    let store = Arc::new(Memory::default());
    let keys = keys_on(store).await;
    let secret = keys.first_run().await.unwrap().unwrap();
    assert!(who(&keys, secret.expose()).is_ok());
    assert!(keys.first_run().await.unwrap().is_none());
    let info = keys.list(None, 10).await.unwrap().remove(0);
    keys.revoke(&info.id, false).await.unwrap();
    assert!(keys.first_run().await.unwrap().is_none());
}

#[tokio::test]
async fn team_lists_follow_the_configuration() {
    let keys = keys().await;
    let table = keys.table();
    let (_, secret) = keys.create(NewKey { team: Some("hr".into()), ..named("a") }).await.unwrap();
    assert!(who(&keys, secret.expose()).unwrap().may_use("mock"));
    table.set_configured(&teams(&[("hr", &["smart"])]));
    assert!(!who(&keys, secret.expose()).unwrap().may_use("mock"));
    assert!(who(&keys, secret.expose()).unwrap().may_use("smart"));
    let (_, second) = keys.create(NewKey { team: Some("hr".into()), ..named("b") }).await.unwrap();
    assert!(!who(&keys, second.expose()).unwrap().may_use("mock"));
    table.set_configured(&teams(&[("hr", &["mock"])]));
    assert!(who(&keys, second.expose()).unwrap().may_use("mock"));
}

#[tokio::test]
async fn an_open_gateway_knows_the_anonymous_caller_and_still_checks_its_own_keys() {
    let keys = keys().await;
    let table = keys.table();
    table.set_required(false);
    let now = SystemTime::now();
    assert_eq!(&*table.authenticate(None, now).unwrap().key_id, "");
    assert_eq!(&*table.authenticate(Some("dummy"), now).unwrap().key_id, "");
    let (info, secret) = keys.create(named("a")).await.unwrap();
    assert_eq!(*who(&keys, secret.expose()).unwrap().key_id, *info.id);
    keys.revoke(&info.id, false).await.unwrap();
    assert_eq!(code(who(&keys, secret.expose())), "key_revoked");
}

#[tokio::test]
async fn wrong_new_keys_name_the_field() {
    let keys = keys().await;
    let past = Some(SystemTime::now() - Duration::from_secs(1));
    let cases = [
        (named(" "), "name"),
        (named(&"n".repeat(201)), "name"),
        (named("a\nb"), "name"),
        (NewKey { team: Some(" ".into()), ..named("a") }, "team"),
        (NewKey { terms: only(&[]), ..named("a") }, "models"),
        (NewKey { terms: only(&["ok", " "]), ..named("a") }, "models[1]"),
        (NewKey { expires: past, ..named("a") }, "expires"),
    ];
    for (new, field) in cases {
        let error = keys.create(new).await.unwrap_err();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(field)));
    }
    for id in ["key_none", "", "meta", "../x"] {
        assert_eq!(keys.revoke(id, false).await.unwrap_err().status(), 404);
    }
}

#[tokio::test]
async fn lists_page_in_the_order_of_making() {
    let keys = keys().await;
    for n in 0..5 {
        keys.create(named(&n.to_string())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let first = keys.list(None, 3).await.unwrap();
    let rest = keys.list(Some(&first[2].id), 3).await.unwrap();
    let names: Vec<_> = first.iter().chain(&rest).map(|k| k.name.as_str()).collect();
    assert_eq!(names, ["0", "1", "2", "3", "4"]);
}

#[test]
fn finds_the_credential_wherever_an_sdk_puts_it() {
    let ours = format!("sk-pc-{}", "k".repeat(43));
    let with = |pairs: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    };
    let bearer = format!("bEaReR {ours}");
    for name in ["x-api-key", "x-goog-api-key", "api-key"] {
        assert_eq!(credential(&with(&[(name, &ours)]), None).as_deref(), Some(&*ours));
    }
    assert_eq!(credential(&with(&[("authorization", &bearer)]), None).as_deref(), Some(&*ours));
    let query = format!("alt=sse&key={}", ours.replace('k', "%6b"));
    assert_eq!(credential(&HeaderMap::new(), Some(&query)).as_deref(), Some(&*ours));
    // Ours wins over a placeholder that stands earlier.
    let both = with(&[("authorization", "Bearer placeholder"), ("x-api-key", &ours)]);
    assert_eq!(credential(&both, None).as_deref(), Some(&*ours));
    assert_eq!(credential(&with(&[("authorization", "Basic abc")]), Some("monkey=1")), None);
    let mut odd = HeaderMap::new();
    odd.insert("x-api-key", HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(credential(&odd, None).as_deref(), Some(""));
    assert_eq!(credential(&with(&[("authorization", "Bearer\u{9}x")]), None), None);
}

#[test]
fn reads_points_in_time() {
    let now = expiry::from_seconds(1_700_000_000);
    let at = |text| expiry::parse(text, now).map(expiry::to_seconds);
    assert_eq!(at("30d"), Ok(1_700_000_000 + 30 * 86_400));
    assert_eq!(at("2030-01-01T00:00:00Z"), Ok(1_893_456_000));
    assert_eq!(at("2030-01-01T01:00:00+01:00"), Ok(1_893_456_000));
    assert_eq!(at("2030-01-01"), Ok(1_893_456_000));
    assert_eq!(expiry::show(1_893_456_000), "2030-01-01T00:00:00Z");
    for bad in [
        "",
        "soon",
        "30",
        "30y",
        "-1d",
        "1.5d",
        "2020-01-01T00:00:00Z",
        "2030-13-01",
        "99999999999999999999d",
        "ä",
        "9999999w",
    ] {
        assert!(at(bad).is_err(), "{bad}");
    }
    assert_eq!(expiry::distance("0"), Ok(Duration::ZERO));
}
