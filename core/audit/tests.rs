use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::UNIX_EPOCH,
};

use serde_json::{Value, json};

use super::*;
use crate::store::Memory;

const SECRET: [u8; 32] = [7; 32];

fn by(kind: ActorKind) -> Actor {
    Actor { id: Some("tok_1".into()), name: Some("ci".into()), role: Some("admin".into()), ..Actor::new(kind) }
}

fn entry(action: &str, object: &str) -> Entry {
    let from = Origin::new("10.1.2.3".parse().unwrap(), Some(b"curl/8 \x07(x)"));
    let mut entry = Entry::new(by(ActorKind::Token), from, action).object(object);
    entry.before = json!({ "limits": null });
    entry.after = json!({ "id": object, "limits": { "requests_per_minute": 5 } });
    entry.code = Some("none".into());
    entry.of = Some(1);
    entry.count = Some(2);
    entry
}

async fn audit(store: &Arc<Memory>) -> Arc<Audit> {
    Audit::open(store.clone(), &SECRET, LOCAL).await.unwrap()
}

/// A log of so many rows.
async fn filled(rows: u64) -> (Arc<Memory>, Arc<Audit>) {
    let store = Arc::new(Memory::default());
    let audit = audit(&store).await;
    for n in 1..=rows {
        assert_eq!(audit.record(entry("keys.change", &format!("key_{n}"))).await.unwrap(), n);
    }
    (store, audit)
}

async fn row(store: &Memory, seq: u64) -> Vec<u8> {
    store.read(Table::Audit, &row_key(LOCAL, seq)).await.unwrap().unwrap()
}

async fn put(store: &Memory, key: Vec<u8>, value: Option<Vec<u8>>) {
    store.write(vec![Op { table: Table::Audit, key, value }]).await.unwrap();
}

async fn broken(audit: &Audit) -> (u64, Fault) {
    let broken = audit.verify().await.unwrap().expect_err("it is broken");
    assert!(!broken.why.is_empty() && broken.node == LOCAL);
    (broken.seq, broken.fault)
}

#[tokio::test]
async fn a_row_says_who_did_what_from_where_and_is_bound_to_the_one_before() {
    let (store, audit) = filled(3).await;
    let seen = audit.verify().await.unwrap().unwrap();
    assert_eq!(seen, [Seen { node: LOCAL.into(), rows: 3, first: 1, last: 3 }]);
    let (one, two) = (row(&store, 1).await, row(&store, 2).await);
    let read: Value = serde_json::from_slice(&two).unwrap();
    assert_eq!(read["seq"], 2);
    assert_eq!(read["actor"], json!({ "kind": "token", "id": "tok_1", "name": "ci", "role": "admin" }));
    assert_eq!(read["from"], json!({ "peer": "10.1.2.3", "agent": "curl/8 (x)" }));
    assert_eq!((&read["action"], &read["object"]), (&json!("keys.change"), &json!("key_2")));
    assert_eq!(read["after"]["limits"]["requests_per_minute"], 5);
    assert!(read["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    // Anybody can follow the hashes: of the bytes as they are exported.
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &one);
    assert_eq!(read["prev"], store::hex::encode(sum.as_ref()));
}

#[tokio::test]
async fn any_change_of_any_field_is_found_and_named() {
    let (store, audit) = filled(5).await;
    let whole = row(&store, 3).await;
    let text = String::from_utf8(whole.clone()).unwrap();
    let value: Value = serde_json::from_slice(&whole).unwrap();
    for (name, field) in value.as_object().unwrap() {
        let mut other = value.clone();
        other[name] = match field {
            Value::String(text) => json!(format!("{text}0")),
            Value::Number(n) => json!(n.as_u64().unwrap() + 1),
            Value::Null => json!("x"),
            _ => json!({ "other": 1 }),
        };
        put(&store, row_key(LOCAL, 3), Some(other.to_string().into_bytes())).await;
        assert_eq!(broken(&audit).await, (3, Fault::Changed), "{name}");
        // Taken out, and put in twice.
        let mut less = value.clone();
        less.as_object_mut().unwrap().remove(name);
        put(&store, row_key(LOCAL, 3), Some(less.to_string().into_bytes())).await;
        assert_eq!(broken(&audit).await, (3, Fault::Changed), "without {name}");
    }
    for at in 0..text.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        put(&store, row_key(LOCAL, 3), Some(bytes)).await;
        let (seq, fault) = broken(&audit).await;
        assert_eq!((seq, fault), (3, Fault::Changed), "byte {at}");
    }
    for odd in [b"".to_vec(), b"{}".to_vec(), vec![0xff; 200]] {
        put(&store, row_key(LOCAL, 3), Some(odd)).await;
        assert_eq!(broken(&audit).await, (3, Fault::Changed));
    }
    put(&store, row_key(LOCAL, 3), Some(whole)).await;
    assert!(audit.verify().await.unwrap().is_ok());
}

#[tokio::test]
async fn missing_moved_and_replayed_rows_are_found() {
    let (store, audit) = filled(6).await;
    let rows: Vec<Vec<u8>> = {
        let mut rows = vec![Vec::new()];
        for seq in 1..=6 {
            rows.push(row(&store, seq).await);
        }
        rows
    };
    let set = async |seq: u64, value: Option<Vec<u8>>| put(&store, row_key(LOCAL, seq), value).await;
    set(4, None).await;
    assert_eq!(broken(&audit).await, (4, Fault::Missing));
    set(1, None).await;
    assert_eq!(broken(&audit).await, (1, Fault::Missing));
    set(1, Some(rows[1].clone())).await;
    // Two change places.
    set(3, Some(rows[4].clone())).await;
    set(4, Some(rows[3].clone())).await;
    assert_eq!(broken(&audit).await, (3, Fault::Reordered));
    set(3, Some(rows[3].clone())).await;
    set(4, Some(rows[4].clone())).await;
    // A row of another time with the right number and a right proof.
    let (other_store, _other) = filled(2).await;
    let strange = row(&other_store, 2).await;
    if strange != rows[2] {
        set(2, Some(strange)).await;
        let (seq, fault) = broken(&audit).await;
        // What it was written after is another row, what was written after it names another one.
        assert!((1..=3).contains(&seq) && fault == Fault::Changed, "{seq} {fault:?}");
        set(2, Some(rows[2].clone())).await;
    }
    // The end is cut off: with the rows alone, and with the row that names the end.
    set(6, None).await;
    assert_eq!(broken(&audit).await, (6, Fault::Truncated));
    put(&store, mark_key(HEAD, LOCAL), None).await;
    assert_eq!(broken(&audit).await, (6, Fault::Truncated));
    set(6, Some(rows[6].clone())).await;
    assert_eq!(broken(&audit).await, (7, Fault::Truncated));
    // One that is written after a head was lost writes over nothing.
    let again = Audit::open(store.clone(), &SECRET, LOCAL).await.unwrap();
    assert_eq!(again.record(Entry::system("x")).await.unwrap(), 7);
    assert!(again.verify().await.unwrap().is_ok());
}

#[tokio::test]
async fn another_key_can_neither_read_nor_forge() {
    let (store, _audit) = filled(2).await;
    let other = Audit::open(store.clone(), &[8; 32], LOCAL).await.unwrap();
    assert_eq!(other.verify().await.unwrap().unwrap_err().fault, Fault::Changed);
    // What it writes does not pass for ours, and what is there stays.
    assert_eq!(other.record(Entry::system("forged")).await.unwrap(), 3);
    let ours = Audit::open(store.clone(), &SECRET, LOCAL).await.unwrap();
    assert_eq!(broken(&ours).await, (3, Fault::Changed));
}

#[tokio::test]
async fn secrets_are_keyed_hashes_and_long_values_are_cut() {
    let store = Arc::new(Memory::default());
    let audit = audit(&store).await;
    let mut entry = entry("keys.create", "key_1");
    let secret = "sk-pc-AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGhIjKlMnOpQ";
    entry.after = json!({
        "id": "key_1", "key": secret, "name": "n", "nested": [{ "client_secret": "planted" }, "see sk-pc-planted"],
        "value": "planted", "password": "planted", "tokens": 5, "key_id": "key_2", "headers": { "x": "planted" },
    });
    entry.before = json!({ "text": "é\"\\".repeat(20_000) });
    audit.record(entry).await.unwrap();
    let bytes = row(&store, 1).await;
    assert!(bytes.len() < store::MAX_ROW / 2, "{}", bytes.len());
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains("planted") && !text.contains("AbCdEf"), "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["after"]["key"], audit.hash(secret));
    assert_eq!(value["after"]["nested"][0]["client_secret"], audit.hash("planted"));
    assert_eq!((&value["after"]["tokens"], &value["after"]["key_id"]), (&json!(5), &json!("key_2")));
    assert_eq!(value["before"]["cut"], true);
    assert!(value["before"]["sha256"].as_str().unwrap().len() == 64);
    // The largest values there can be still fit.
    let mut large = Entry::new(by(ActorKind::Token), Origin::default(), "\u{1f}".repeat(5_000));
    large.object = Some("\u{1}".repeat(5_000));
    large.before = json!({ "a": "\u{1}".repeat(2_300) });
    large.after = json!({ "a": "\u{1}".repeat(9_000) });
    audit.record(large).await.unwrap();
    assert!(audit.verify().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_row_and_the_change_it_tells_of_are_one_batch() {
    let (store, audit) = filled(1).await;
    let change = || vec![Op::put(Table::Meta, "thing", "2")];
    let expected = |value: &str| vec![Op::put(Table::Meta, "thing", value)];
    let nothing = vec![Op { table: Table::Meta, key: b"thing".to_vec(), value: None }];
    assert_eq!(audit.record_with(Entry::system("a"), nothing.clone(), change()).await.unwrap(), Some(2));
    assert_eq!(audit.record_with(Entry::system("a"), nothing, change()).await.unwrap(), None);
    assert_eq!(audit.record_with(Entry::system("a"), expected("2"), change()).await.unwrap(), Some(3));
    // Too large a change: neither of them.
    let large = vec![Op::put(Table::Meta, "large", vec![0; store::MAX_ROW])];
    assert!(audit.record_with(Entry::system("a"), Vec::new(), large).await.is_err());
    assert_eq!(audit.verify().await.unwrap().unwrap()[0].last, 3);
    assert_eq!(store.read(Table::Meta, b"thing").await.unwrap().as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn several_gateways_have_a_chain_each_and_two_with_one_name_share_theirs() {
    let store = Arc::new(Memory::default());
    let open = async |node: &str| Audit::open(store.clone(), &SECRET, node).await.unwrap();
    let (a, b, twin) = (open("a").await, open("b").await, open("a").await);
    let mut tasks = Vec::new();
    for n in 0..30 {
        let audit = [&a, &b, &twin][n % 3].clone();
        tasks.push(tokio::spawn(async move { audit.record(Entry::system(format!("n{n}"))).await.unwrap() }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let seen = a.verify().await.unwrap().unwrap();
    assert_eq!(seen.iter().map(|s| (s.node.as_str(), s.rows)).collect::<Vec<_>>(), [("a", 20), ("b", 10)]);
    let page = a.page(&Wanted::default(), None, 100).await.unwrap().unwrap();
    assert_eq!((page.rows.len(), page.next), (30, None));
    let only = Wanted { node: Some("b".into()), ..Wanted::default() };
    assert_eq!(a.page(&only, None, 100).await.unwrap().unwrap().rows.len(), 10);
}

#[tokio::test]
async fn a_write_that_nobody_waited_for_is_gone_on_from() {
    let (store, audit) = filled(2).await;
    // Another one writes the third row, as a write would that was kept after its caller left.
    let other = Audit::open(store.clone(), &SECRET, LOCAL).await.unwrap();
    other.record(Entry::system("x")).await.unwrap();
    assert_eq!(audit.record(Entry::system("y")).await.unwrap(), 4);
    assert!(audit.verify().await.unwrap().is_ok());
}

static NOW: AtomicU64 = AtomicU64::new(1_000_000);

fn told() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.load(Ordering::Relaxed))
}

#[tokio::test]
async fn old_rows_go_and_what_is_left_can_still_be_followed() {
    let store = Arc::new(Memory::default());
    let audit = Audit::open_at(store.clone(), &SECRET, LOCAL, told).await.unwrap();
    audit.set_keep(Duration::from_secs(1_000));
    for n in 0..1_300 {
        NOW.fetch_add(1, Ordering::Relaxed);
        audit.record(Entry::system(format!("n{n}"))).await.unwrap();
    }
    assert_eq!(audit.prune().await.unwrap(), 299, "those that are older than a thousand seconds");
    let seen = audit.verify().await.unwrap().unwrap();
    assert_eq!((seen[0].first, seen[0].last), (300, 1_301), "with the row that says so");
    assert_eq!(audit.prune().await.unwrap(), 0);
    // A row that goes without its checkpoint is missed, and so is the checkpoint.
    let first = row(&store, 300).await;
    put(&store, row_key(LOCAL, 300), None).await;
    assert_eq!(broken(&audit).await, (300, Fault::Missing));
    put(&store, row_key(LOCAL, 300), Some(first)).await;
    let mark = store.read(Table::Audit, &mark_key(CHECKPOINT, LOCAL)).await.unwrap().unwrap();
    let mut forged = mark.clone();
    let at = forged.len() / 2;
    forged[at] ^= 1;
    for wrong in [None, Some(forged)] {
        put(&store, mark_key(CHECKPOINT, LOCAL), wrong).await;
        assert_eq!(broken(&audit).await, (1, Fault::Missing));
    }
    put(&store, mark_key(CHECKPOINT, LOCAL), Some(mark)).await;
    // All but the newest.
    NOW.fetch_add(10_000, Ordering::Relaxed);
    assert_eq!(audit.prune().await.unwrap(), 1_001);
    let seen = audit.verify().await.unwrap().unwrap();
    assert_eq!((seen[0].first, seen[0].rows), (1_301, 2));
    let again = Audit::open_at(store.clone(), &SECRET, LOCAL, told).await.unwrap();
    assert_eq!(again.record(Entry::system("z")).await.unwrap(), 1_303);
    assert!(again.verify().await.unwrap().is_ok());
}

#[tokio::test]
async fn pages_go_back_in_time_and_filters_hold() {
    let store = Arc::new(Memory::default());
    let audit = audit(&store).await;
    for n in 0..450 {
        let action = ["keys.create", "keys.revoke", "keysmith", "config.live"][n % 4];
        audit.record(entry(action, &format!("key_{n}"))).await.unwrap();
    }
    let mut cursor: Option<String> = None;
    let mut all = Vec::new();
    loop {
        let page = audit.page(&Wanted::default(), cursor.as_deref(), 70).await.unwrap().unwrap();
        all.extend(page.rows.iter().map(|row| row["seq"].as_u64().unwrap()));
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(all, (1..=450).rev().collect::<Vec<_>>());
    let some = |wanted: Wanted| {
        let audit = audit.clone();
        async move { audit.page(&wanted, None, 500).await.unwrap().unwrap().rows.len() }
    };
    assert_eq!(some(Wanted { action: Some("keys".into()), ..Wanted::default() }).await, 226);
    assert_eq!(some(Wanted { action: Some("keys.revoke".into()), ..Wanted::default() }).await, 113);
    assert_eq!(some(Wanted { object: Some("key_7".into()), ..Wanted::default() }).await, 1);
    assert_eq!(some(Wanted { actor: Some("ci".into()), ..Wanted::default() }).await, 450);
    assert_eq!(some(Wanted { actor: Some("owner".into()), ..Wanted::default() }).await, 0);
    assert_eq!(some(Wanted { outcome: Some("refused".into()), ..Wanted::default() }).await, 0);
    let far = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(some(Wanted { from: Some(far), ..Wanted::default() }).await, 0);
    assert_eq!(some(Wanted { to: Some(far), ..Wanted::default() }).await, 450);
    for odd in ["x", "local:", "local:x", ","] {
        assert!(audit.page(&Wanted::default(), Some(odd), 10).await.unwrap().is_none(), "{odd}");
    }
}

#[tokio::test]
async fn an_export_is_the_rows_as_they_are_stored() {
    let (store, audit) = filled(5).await;
    let (rows, next) = audit.export(&Wanted::default(), None, 1_000).await.unwrap().unwrap();
    assert_eq!((rows.len(), next), (5, None));
    assert_eq!(rows[2], row(&store, 3).await);
    let mut odd = entry("=HYPERLINK()", "a,\"b\"\nc");
    odd.actor.name = Some("@x".into());
    audit.record(odd).await.unwrap();
    let (rows, _) = audit.export(&Wanted::default(), Some("local:5"), 1_000).await.unwrap().unwrap();
    let text = csv(&rows, true);
    assert!(text.starts_with("seq,node,time,actor_kind,") && text.contains("'=HYPERLINK()") && text.contains("'@x"));
    let mut read = ::csv::Reader::from_reader(text.as_bytes());
    assert_eq!(read.records().count(), 1);
}

#[tokio::test]
async fn what_the_store_did_not_take_is_written_when_it_does() {
    let (store, audit) = filled(1).await;
    let large = Entry::system("config.live").after(json!({ "n": 1 }));
    audit.owed.lock().unwrap().push_back((SystemTime::now(), large));
    audit.refusals().note("key_revoked", Some("key_9"), None);
    audit.flush(Instant::now(), false).await;
    let rows: Value = serde_json::from_slice(&row(&store, 2).await).unwrap();
    assert_eq!((&rows["action"], &rows["after"]["after"]["n"]), (&json!("config.live"), &json!(1)));
    assert!(rows["after"]["late"].is_string());
    let refused: Value = serde_json::from_slice(&row(&store, 3).await).unwrap();
    assert_eq!((&refused["action"], &refused["object"]), (&json!("key.refused"), &json!("key_9")));
    assert_eq!((&refused["code"], &refused["count"]), (&json!("key_revoked"), &json!(1)));
}

#[tokio::test]
async fn a_log_that_lost_its_end_with_the_store_shows_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        |name: &str| crate::config::Store { kind: crate::config::StoreKind::Sled, path: dir.path().join(name) };
    let open = async |config: &crate::config::Store| {
        let store = store::open(config).await.unwrap();
        let audit = Audit::open(store.clone(), &SECRET, LOCAL).await.unwrap();
        (store, audit)
    };
    let (store, audit) = open(&config("data")).await;
    audit.record(Entry::system("a")).await.unwrap();
    let kept = store.export(Some(dir.path().join("old.jsonl"))).await.unwrap().path;
    for n in 0..4 {
        audit.record(Entry::system(format!("b{n}"))).await.unwrap();
    }
    audit.keep_head().await.unwrap();
    assert!(audit.verify().await.unwrap().is_ok());
    store.close().await.unwrap();
    // An older state takes its place: four rows are gone, and the file beside the store knows.
    store::import(&config("data"), &kept, true, &|_, _| Ok(())).await.unwrap();
    let (store, audit) = open(&config("data")).await;
    assert_eq!(broken(&audit).await, (2, Fault::Truncated));
    assert_eq!(audit.record(Entry::system("c")).await.unwrap(), 6, "numbers are not given twice");
    assert_eq!(broken(&audit).await, (2, Fault::Missing));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_written_and_pruned_meanwhile_is_whole() {
    let store = Arc::new(Memory::default());
    let audit = audit(&store).await;
    audit.set_keep(Duration::ZERO);
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let (audit, stop) = (audit.clone(), stop.clone());
        async move {
            let mut rows = 0;
            while !stop.is_cancelled() {
                rows = audit.record(Entry::system("x")).await.unwrap();
                if rows % 700 == 0 {
                    audit.prune().await.unwrap();
                }
                tokio::task::yield_now().await;
            }
            rows
        }
    });
    let mut whole = 0;
    while whole < 40 || audit.end.lock().await.head.seq < 2_000 {
        audit.verify().await.unwrap().unwrap();
        whole += 1;
        tokio::task::yield_now().await;
    }
    stop.cancel();
    assert!(writer.await.unwrap() > 700);
    // An older end that is put back is no end.
    let old = chain::mark(&audit.key, HEAD, LOCAL, Head { seq: 1, hash: [0; 32] }, "");
    put(&store, mark_key(HEAD, LOCAL), Some(old)).await;
    assert_eq!(audit.verify().await.unwrap().unwrap_err().fault, Fault::Changed);
}

#[tokio::test]
async fn what_was_begun_and_has_no_end_is_closed_as_unknown_once_by_the_next_start() {
    let (store, _) = filled(0).await;
    let act = async |audit: &Audit, object: &str, ends: bool| {
        let begun = entry("keys.revoke", object).outcome(Outcome::Intended);
        let seq = audit.record(Entry { of: None, ..begun.clone() }).await.unwrap();
        if ends {
            audit.record(Entry { of: Some(seq), ..begun.outcome(Outcome::Done) }).await.unwrap();
        }
        seq
    };
    let start = async || {
        let audit = audit(&store).await;
        let closed = audit.close_unended().await.unwrap();
        audit.record(Entry::system(STARTED)).await.unwrap();
        (audit, closed)
    };
    let (first, closed) = start().await;
    assert_eq!(closed, 0);
    act(&first, "key_done", true).await;
    let lost = [act(&first, "key_a", false).await, act(&first, "key_b", false).await];
    act(&first, "key_also", true).await;
    // More rows than are read at a time, as after a flood of guesses.
    for n in 0..500 {
        let refused = Entry { of: None, ..entry("admin.refused", &n.to_string()) };
        first.record(refused.outcome(Outcome::Refused)).await.unwrap();
    }
    let (second, closed) = start().await;
    assert_eq!(closed, 2);
    let unknown = Wanted { outcome: Some("unknown".into()), ..Wanted::default() };
    let told = second.page(&unknown, None, 10).await.unwrap().unwrap().rows;
    let said: Vec<_> = told.iter().map(|row| (row["of"].as_u64().unwrap(), row["object"].as_str().unwrap())).collect();
    assert_eq!(said, [(lost[1], "key_b"), (lost[0], "key_a")]);
    for row in &told {
        assert_eq!((&row["action"], &row["code"]), (&json!("keys.revoke"), &json!("gateway_ended")));
        assert_eq!(row["actor"]["kind"], "system");
    }
    // Not again, and whatever was open before a start stays closed.
    act(&second, "key_c", false).await;
    assert_eq!(start().await.1, 1);
    let (last, closed) = start().await;
    assert_eq!(closed, 0);
    assert!(last.verify().await.unwrap().is_ok(), "the chain holds");
}
