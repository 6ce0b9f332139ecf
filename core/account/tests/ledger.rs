//! The ledger over a real data directory, with a clock of its own.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::{
    account::{
        Attempt, Ledger, Record,
        archive::{self, Lines},
        history::Wanted,
        hour::Hour,
        minute::Minute,
        sum::Sum,
        usage::Kind,
    },
    config::{self, Scope, StoreKind},
    context::{Trace, mint_id},
    model::{Format, Operation, Usage},
    store::{self, Store},
    telemetry::Ring,
};

/// Seconds since 1970 at which a test begins: the start of an hour.
const BEGIN: u64 = 1_900_000_800 / 3600 * 3600;

/// A clock for one test.
macro_rules! clock {
    ($now:ident, $clock:ident) => {
        static $now: AtomicU64 = AtomicU64::new(BEGIN * 1000);
        fn $clock() -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_millis($now.load(Ordering::SeqCst))
        }
    };
}

async fn sled(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    let path = folder.path().join("data");
    store::open(&config::Store { kind: StoreKind::Sled, path }).await.unwrap()
}

fn record(at: SystemTime, team: &str, cost: Option<i64>) -> (Record, Trace) {
    let usage = Usage { input_tokens: Some(3), output_tokens: Some(2), ..Usage::default() };
    let mut record = Record {
        id: mint_id(at),
        key_id: "key_1".into(),
        team: (!team.is_empty()).then(|| team.into()),
        user: None,
        organisation: None,
        operation: Operation::Chat,
        format: Format::Gemini,
        model: "smart".into(),
        target: Some("house/m".into()),
        attempts: 1,
        status: 200,
        error_code: None,
        stream: false,
        finish_reason: None,
        usage: Some(usage.clone()),
        cost_nano_usd: None,
        cost_unknown: false,
        ledger: vec![],
        duration: Duration::from_micros(3_140),
        first_event: None,
        upstream_duration: Duration::ZERO,
        experiment: None,
        bodies: None,
        tags: vec![("a\"\n".into(), "ü\\".into())],
    };
    record.charge(Attempt {
        number: 1,
        target: "house/m".into(),
        outcome: Cow::Borrowed("ok"),
        usage: Some(usage),
        cost_nano_usd: cost,
        price: None,
        estimated: false,
        took: Duration::from_millis(2),
    });
    (record, Trace::default())
}

async fn all(ledger: &Arc<Ledger>, limit: usize) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), None);
    loop {
        let page = ledger.page(Wanted::default(), cursor, limit).await.unwrap();
        assert!(page.rows.len() <= limit);
        ids.extend(page.rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        cursor = page.next;
        if cursor.is_none() {
            return ids;
        }
    }
}

async fn sums(ledger: &Ledger) -> BTreeMap<String, Sum> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let all =
        ledger.sums.each(Minute(0), Minute::MAX, |_, by, sum| sums.entry(by.team.to_owned()).or_default().add(sum));
    all.await.unwrap();
    let older = ledger.sums.older(Kind::Team, |team, sum| sums.entry(team.to_owned()).or_default().add(sum));
    older.await.unwrap();
    sums
}

/// As configured when nothing is said.
fn usual() -> config::Records {
    config::Records::default()
}

#[tokio::test]
async fn requests_page_from_memory_into_files_of_closed_and_running_hours() {
    clock!(NOW, now);
    let folder = tempfile::tempdir().unwrap();
    // A ring of three: nearly everything must come from files.
    let ledger = Ledger::open(sled(&folder).await, Arc::new(Ring::new(3)), now).await.unwrap();
    let mut ids = Vec::new();
    for hour in 0..3u64 {
        NOW.store((BEGIN + hour * 3600) * 1000, Ordering::SeqCst);
        for batch in 0..3 {
            let rows: Vec<_> = (0..4).map(|n| record(now(), if n == 0 { "hr" } else { "" }, Some(batch))).collect();
            ids.extend(rows.iter().map(|(record, _)| record.id.to_string()));
            ledger.append(rows);
        }
        ledger.upkeep(usual()).await;
    }
    let files = ledger.files.clone().unwrap();
    assert_eq!(
        files.names().unwrap(),
        [
            "2030-03-17T18.index",
            "2030-03-17T18.jsonl.zst",
            "2030-03-17T19.index",
            "2030-03-17T19.jsonl.zst",
            "2030-03-17T20.jsonl"
        ]
    );
    ids.reverse();
    for limit in [1, 2, 5, 100] {
        assert_eq!(all(&ledger, limit).await, ids, "pages of {limit}");
    }
    let hr = Wanted { team: Some("hr".into()), ..Wanted::default() };
    assert_eq!(ledger.page(hr.clone(), None, 100).await.unwrap().rows.len(), 9);
    let second = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN + n * 3600);
    let middle = Wanted { from: Some(second(1)), to: Some(second(2)), ..hr };
    assert_eq!(ledger.page(middle, None, 100).await.unwrap().rows.len(), 3);
    for id in &ids {
        let row = ledger.request(id).await.unwrap().unwrap_or_else(|| panic!("{id}"));
        assert_eq!((row["id"].as_str(), row["trace"].is_array()), (Some(id.as_str()), true));
        assert_eq!(row["tags"]["a\"\n"], "ü\\");
    }
    assert_eq!(ledger.request("req_00000000000000000000000000000000").await.unwrap(), None);
    assert_eq!(ledger.request("req_x").await.unwrap(), None);

    NOW.store((BEGIN + 5 * 3600) * 1000, Ordering::SeqCst);
    ledger.upkeep(config::Records { keep: Duration::from_secs(4 * 3600), ..usual() }).await;
    let kept = files.names().unwrap();
    assert!(kept.iter().all(|name| !name.starts_with("2030-03-17T18")), "what is too old is forgotten: {kept:?}");
    assert_eq!(all(&ledger, 7).await.len(), 24);
    assert_eq!(sums(&ledger).await["hr"].requests, 9, "sums outlive records");
}

#[tokio::test]
async fn after_a_crash_the_sums_are_those_of_the_ledger() {
    clock!(NOW, now);
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut spent, mut count) = (0u64, 0);
    let mut id = String::new();
    for round in 0..6u64 {
        // Dropped without a close: what was not noted is only in the files.
        let store = sled(&folder).await;
        let ledger = Ledger::open(store.clone(), Arc::new(Ring::default()), now).await.unwrap();
        if count > 0 {
            let found = sums(&ledger).await;
            assert_eq!((found["hr"].cost_nano_usd, found["hr"].requests), (spent, count), "round {round}");
            assert_eq!(found["hr"].unknown_costs, round, "round {round}");
            assert!(ledger.request(&id).await.unwrap().is_some());
        }
        NOW.fetch_add(1_700_000, Ordering::SeqCst);
        for batch in 0..8 {
            let costs: Vec<i64> = (0..5).map(|_| random.i64(0..9_000_000_000_000)).collect();
            spent += costs.iter().sum::<i64>() as u64;
            let mut rows: Vec<_> = costs.iter().map(|cost| record(now(), "hr", Some(*cost))).collect();
            if batch == 0 {
                rows.push(record(now(), "hr", None));
            }
            count += rows.len() as u64;
            id = rows[0].0.id.to_string();
            ledger.append(rows);
            if random.bool() {
                ledger.upkeep(usual()).await;
            }
        }
        let _ = store.close().await;
    }
}

#[tokio::test]
async fn a_line_that_was_cut_is_cut_off_and_those_before_it_stay() {
    clock!(NOW, now);
    let folder = tempfile::tempdir().unwrap();
    let store = sled(&folder).await;
    let ledger = Ledger::open(store.clone(), Arc::new(Ring::default()), now).await.unwrap();
    ledger.append(vec![record(now(), "hr", Some(1)), record(now(), "hr", Some(2))]);
    let path = folder.path().join("data/records").join(archive::plain_name(Hour::of(now())));
    let whole = std::fs::read(&path).unwrap();
    drop(ledger);
    let _ = store.close().await;
    for cut in [whole.len() + 40, whole.len() - 1, whole.len() / 2 + 10] {
        let mut bytes = [whole.clone(), whole.clone()].concat();
        bytes.truncate(cut);
        std::fs::write(&path, &bytes).unwrap();
        let expected = bytes.iter().filter(|b| **b == b'\n').count();
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(place.path().join("data/records")).unwrap();
        let fresh = sled(&place).await;
        std::fs::copy(&path, place.path().join("data/records").join(path.file_name().unwrap())).unwrap();
        let ledger = Ledger::open(fresh.clone(), Arc::new(Ring::default()), now).await.unwrap();
        assert_eq!(sums(&ledger).await.get("hr").map_or(0, |s| s.requests), expected as u64, "cut at {cut}");
        ledger.append(vec![record(now(), "hr", Some(4))]);
        let page = ledger.page(Wanted::default(), None, 100).await.unwrap();
        assert_eq!(page.rows.len(), expected + 1, "cut at {cut}");
        let _ = fresh.close().await;
    }
}

#[tokio::test]
async fn closing_an_hour_can_end_at_any_step() {
    clock!(NOW, now);
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(sled(&folder).await, Arc::new(Ring::new(1)), now).await.unwrap();
    let rows: Vec<_> = (0..400).map(|n| record(now(), "hr", Some(n))).collect();
    let ids: Vec<String> = rows.iter().map(|(r, _)| r.id.to_string()).collect();
    ledger.append(rows);
    let hour = Hour::of(now());
    let records = folder.path().join("data/records");
    let file = |ending: &str| records.join(format!("{hour}.{ending}"));
    let plain = std::fs::read(file("jsonl")).unwrap();
    let files = ledger.files.clone().unwrap();
    let check = |step: &str| {
        let lines = Lines::open(&files, hour).unwrap();
        assert_eq!(lines.end(), plain.len() as u64, "{step}");
        let (mut from, mut seen) = (0, Vec::new());
        while let Some((piece, next)) = lines.after(from).unwrap() {
            seen.extend(piece);
            from = next;
        }
        assert!(seen == plain, "{step}: the same lines, once each");
        assert!(ids.iter().step_by(37).all(|id| lines.find(id).unwrap().is_some()), "{step}");
    };
    // 1: it has its second name.
    std::fs::rename(file("jsonl"), file("closing")).unwrap();
    check("closing");
    archive::close(&files, hour).unwrap();
    check("closed");
    assert!(!file("closing").exists() && file("index").exists());
    // 2: frames are in place, the index is not, and the second name is still there.
    let index = std::fs::read(file("index")).unwrap();
    std::fs::write(file("closing"), &plain).unwrap();
    for broken in [None, Some(&index[..20]), Some(&b"nonsense"[..]), Some(&[&index[..], b"x"].concat()[..])] {
        let _ = std::fs::remove_file(file("index"));
        if let Some(bytes) = broken {
            std::fs::write(file("index"), bytes).unwrap();
        }
        check("without an index");
        std::fs::write(file("closing"), &plain).unwrap();
        archive::close(&files, hour).unwrap();
        check("closed again");
        assert_eq!(std::fs::read(file("index")).unwrap(), index);
    }
    // 3: a clock that goes back writes into the closed hour again: it is closed once more, behind what was there.
    NOW.fetch_add(3_600_000, Ordering::SeqCst);
    ledger.append(vec![record(now(), "hr", Some(1))]);
    NOW.fetch_sub(3_600_000, Ordering::SeqCst);
    let more: Vec<_> = (0..3).map(|n| record(now(), "hr", Some(n))).collect();
    let late = more[2].0.id.to_string();
    ledger.append(more);
    NOW.fetch_add(3_600_000, Ordering::SeqCst);
    ledger.upkeep(usual()).await;
    let lines = Lines::open(&files, hour).unwrap();
    assert!(lines.find(&late).unwrap().is_some() && lines.find(&ids[0]).unwrap().is_some());
    assert_eq!(sums(&ledger).await["hr"].requests, 404);
}

#[tokio::test]
async fn sums_of_a_hundred_thousand_random_costs_are_exact() {
    clock!(NOW, now);
    let store = Arc::new(store::Memory::default());
    let ledger = Ledger::open(store, Arc::new(Ring::new(10)), now).await.unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..100 {
        let rows = (0..1_000).map(|_| {
            let (team, cost) = (format!("team-{}", random.u8(0..7)), random.i64(0..1_000_000_000));
            *expected.entry(team.clone()).or_default() += cost as u64;
            record(now(), &team, Some(cost))
        });
        ledger.append(rows.collect::<Vec<_>>());
        NOW.fetch_add(300_000, Ordering::SeqCst);
    }
    let found: BTreeMap<String, u64> = sums(&ledger).await.into_iter().map(|(t, s)| (t, s.cost_nano_usd)).collect();
    assert_eq!(found, expected);
    let from = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN);
    assert_eq!(ledger.sums.spent(&Scope::Team("team-3".into()), from, None).await.unwrap(), expected["team-3"]);
    assert_eq!(ledger.sums.spent(&Scope::Team("team-3".into()), from, Some(from)).await.unwrap(), 0);
}

#[test]
fn a_row_is_read_back_as_it_was() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_900_000_000_123);
    let (record, trace) = record(at, "hr\u{1}", Some(1_234_500_001));
    let mut line = Vec::new();
    crate::telemetry::row::write(&record, Some(&trace), &crate::telemetry::row::Stamp::of(at), &mut line);
    assert!(!line.contains(&b'\n') && line.starts_with(b"{\"id\":\"req_"));
    let row: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((row["team"].as_str(), row["time"].as_str()), (Some("hr\u{1}"), Some("2030-03-17T17:46:40.123Z")));
    assert_eq!(row["ledger"][0]["cost_usd"].to_string(), "1.234500001");
    assert_eq!((row["duration_ms"].to_string(), row["usage"]["input_tokens"].as_u64()), ("3.14".into(), Some(3)));
}
