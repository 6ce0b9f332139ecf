//! `[store]` with Redis: addresses as people write them, and what may not stand in a file.

use super::*;
use crate::config::{OnOutage, Redis, RedisPlace};

fn redis(toml: &str) -> Redis {
    let case = Case::new(&format!("[store]\nkind = \"redis\"\n{toml}{MASTER}")).env("WORD", "sesame");
    match case.config().store.kind {
        StoreKind::Redis(redis) => Redis::clone(&redis),
        other => panic!("{other:?}"),
    }
}

const MASTER: &str = "[secrets]\nmaster_key = \"env:MASTER\"\n";

fn hosts(list: &[(&str, u16)]) -> RedisPlace {
    RedisPlace::Hosts(list.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect())
}

#[test]
fn addresses_of_redis_arrive() {
    for (url, place, tls, cluster, database) in [
        ("redis://localhost", hosts(&[("localhost", 6379)]), false, false, 0),
        ("rediss://r.internal:6380/3", hosts(&[("r.internal", 6380)]), true, false, 3),
        ("redis://[::1]:7000", hosts(&[("::1", 7000)]), false, false, 0),
        ("redis+cluster://a,b:7001", hosts(&[("a", 6379), ("b", 7001)]), false, true, 0),
        ("rediss+cluster://a:1", hosts(&[("a", 1)]), true, true, 0),
        ("redis+unix:///run/r.sock", RedisPlace::Socket("/run/r.sock".into()), false, false, 0),
    ] {
        let found = redis(&format!("url = \"{url}\"\n"));
        assert_eq!((found.place, found.tls, found.cluster, found.database), (place, tls, cluster, database), "{url}");
    }
}

#[test]
fn what_is_not_said_has_a_default_and_what_is_said_arrives() {
    let plain = redis("url = \"redis://localhost\"\n");
    assert_eq!((plain.prefix.as_str(), plain.timeout), ("portcullis", Duration::from_secs(1)));
    assert_eq!((plain.on_outage, plain.lease), (OnOutage::Refuse, Duration::from_secs(60)));
    assert!(plain.password.is_none() && plain.user.is_none());
    let all = redis(
        "url = \"redis://ana@localhost\"\npassword = \"env:WORD\"\nprefix = \"eu.one\"\ntimeout = \"200ms\"\n\
         on_outage = \"lease\"\nlease_share = 0.25\nbudget_lease = \"5s\"\n",
    );
    assert_eq!((all.user.as_deref(), all.password.as_ref().map(|p| p.expose())), (Some("ana"), Some("sesame")));
    assert_eq!((all.prefix.as_str(), all.timeout), ("eu.one", Duration::from_millis(200)));
    assert_eq!((all.on_outage, all.lease), (OnOutage::Lease(0.25), Duration::from_secs(5)));
    assert!(!format!("{all:?}").contains("sesame"));
    assert_ne!(plain, all);
    assert_eq!(plain, plain.clone());
}

#[test]
fn what_no_redis_can_be_is_told_at_its_line() {
    let told = |toml: &str| problem(&format!("[store]\nkind = \"redis\"\n{toml}{MASTER}"));
    assert!(told("").starts_with("gateway.toml:2: `store.kind = \"redis\"` needs `store.url`"));
    for (url, word) in [
        ("redis://u:word@host", "does not belong into the file"),
        ("redis://:word@host", "does not belong into the file"),
        ("http://host", "is no address of Redis"),
        ("localhost:6379", "is no address of Redis"),
        ("redis://host:0", "is no address of Redis"),
        ("redis://host/x", "is no address of Redis"),
        ("redis://", "is no address of Redis"),
        ("redis+unix://run/r.sock", "is no address of Redis"),
        ("redis://a,b", "several hosts are for a cluster"),
        ("redis+cluster://a/1", "a cluster has one database"),
    ] {
        let said = told(&format!("url = \"{url}\"\n"));
        assert!(said.starts_with("gateway.toml:3: `store.url`") && said.contains(word), "{said}");
        assert!(!said.contains("word@"), "{said}");
    }
    let fine = "url = \"redis://localhost\"\n";
    assert!(told(&format!("{fine}prefix = \"a b\"\n")).contains("`store.prefix` has 1 to 100"));
    assert!(told(&format!("{fine}lease_share = 0.0\n")).contains("a share above 0"));
    assert!(told(&format!("{fine}password = \"sesame\"\n")).contains("must say where the secret is"));
    assert!(told(&format!("{fine}password = \"env:NONE\"\n")).contains("NONE is not set"));
    assert!(told(&format!("{fine}password = \"store:redis\"\n")).contains("is what opens the store"));
    let bare = problem(&format!("[store]\nkind = \"redis\"\n{fine}"));
    assert!(bare.starts_with("gateway.toml:2:") && bare.contains("needs `secrets.master_key`"), "{bare}");
    assert!(told("url = \"rediss://localhost\"\nca = \"x.pem\"\n").contains("there is no file"));
    assert!(told("url = \"redis://ana@localhost\"\n").contains("`store.password"));
    assert!(problem("[store]\nurl = \"redis://localhost\"\n").contains("for `store.kind = \"redis\"` only"));
}
