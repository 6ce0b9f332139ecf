//! Usage priced again for good: records and sums go together, whatever ends the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::ledger::{BEGIN, record, sled, sums};
use crate::{
    account::{
        Ledger,
        archive::replace,
        history::Wanted,
        hour::Hour,
        price::Rates,
        rerate::rewritten,
        usage::{Sums, recost::Recost},
    },
    config::{PriceSheet, Prices},
    store::{Store, StoreError},
    telemetry::Ring,
};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN)
}

/// So many nano-dollars a token.
fn rates(nano: i64) -> Arc<Rates> {
    let prices = Prices { input: Some(nano * 1_000_000), output: Some(nano * 1_000_000), ..Prices::default() };
    Arc::new(Rates::new(&PriceSheet { prices, tiers: Vec::new(), services: Vec::new() }))
}

fn span() -> (SystemTime, SystemTime) {
    (SystemTime::UNIX_EPOCH, now() + Duration::from_secs(10))
}

async fn filled(folder: &tempfile::TempDir) -> (Arc<dyn Store>, Arc<Ledger>) {
    let store = sled(folder).await;
    let ledger = Ledger::open(store.clone(), Arc::new(Ring::default()), now).await.unwrap();
    // Three that were charged, one of which nobody knew the price.
    ledger.append(vec![
        record(now(), "hr", Some(7)),
        record(now(), "hr", Some(8)),
        record(now(), "it", Some(9)),
        record(now(), "it", None),
    ]);
    ledger.sums.checkpoint().await.unwrap();
    (store, ledger)
}

/// By team: the costs, and attempts whose cost nobody knows.
async fn costs(ledger: &Ledger) -> BTreeMap<String, (u64, u64)> {
    sums(ledger).await.into_iter().map(|(team, sum)| (team, (sum.cost_nano_usd, sum.unknown_costs))).collect()
}

fn expected(hr: (u64, u64), it: (u64, u64)) -> BTreeMap<String, (u64, u64)> {
    BTreeMap::from([("hr".to_owned(), hr), ("it".to_owned(), it)])
}

async fn lines(ledger: &Ledger) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    let add = |line: &[u8]| {
        all.push(serde_json::from_slice(line).unwrap());
        true
    };
    ledger.lines(span().0, span().1, add).unwrap();
    all
}

#[tokio::test]
async fn records_and_sums_have_the_new_prices_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ledger) = filled(&folder).await;
    assert_eq!(costs(&ledger).await, expected((15, 0), (9, 1)));
    let before = lines(&ledger).await;
    let done = ledger.rerate(span(), &mut |_| Some(rates(100))).await.unwrap();
    assert_eq!((done.hours, done.requests, done.left), (1, 4, 0));
    // Five tokens each.
    assert_eq!(costs(&ledger).await, expected((1_000, 0), (1_000, 0)));
    let after = lines(&ledger).await;
    for (was, is) in before.iter().zip(&after) {
        assert_eq!(
            (was["id"].clone(), was["tags"].clone(), was["trace"].clone()),
            (is["id"].clone(), is["tags"].clone(), is["trace"].clone())
        );
        assert_eq!((is["cost_usd"].to_string().as_str(), &is["cost_unknown"]), ("0.0000005", &false.into()));
        assert_eq!(is["ledger"][0]["cost_usd"], is["cost_usd"]);
        assert!(is["ledger"][0]["price"].is_string());
    }
    let again = ledger.rerate(span(), &mut |_| Some(rates(100))).await.unwrap();
    assert_eq!((again.hours, again.requests), (0, 0));
    // What has no price now stays as it was charged.
    ledger.rerate(span(), &mut |_| None).await.unwrap();
    assert_eq!(costs(&ledger).await, expected((1_000, 0), (1_000, 0)));
    // It goes on where it was, and a new start counts nothing twice.
    ledger.append(vec![record(now(), "hr", Some(1))]);
    ledger.sums.checkpoint().await.unwrap();
    assert_eq!(costs(&ledger).await, expected((1_001, 0), (1_000, 0)));
    store.close().await.unwrap();
    drop(ledger);
    let ledger = Ledger::open(sled(&folder).await, Arc::new(Ring::default()), now).await.unwrap();
    assert_eq!(costs(&ledger).await, expected((1_001, 0), (1_000, 0)));
    assert_eq!(lines(&ledger).await.len(), 5);
}

/// Ended before it counted: as if nothing had been. Ended after: as if it had gone on.
#[tokio::test]
async fn whatever_ends_it_records_and_sums_say_the_same() {
    for counted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (store, ledger) = filled(&folder).await;
        let files = ledger.files.clone().unwrap();
        let hour = Hour::of(now());
        let (mut changes, mut whole) = (BTreeMap::<Vec<u8>, Recost>::new(), Vec::new());
        let mut text = Vec::new();
        ledger
            .lines(span().0, span().1, |line| {
                text.push(line.to_vec());
                true
            })
            .unwrap();
        for line in &text {
            let changed = rewritten(line, &mut |_| Some(rates(100))).unwrap();
            changed.changes.iter().for_each(|(place, change)| changes.entry(place.clone()).or_default().add(change));
            whole.extend(changed.line);
            whole.push(b'\n');
        }
        replace::make(&files, hour, |out| {
            out.write_all(&whole).map_err(|source| StoreError::Io { path: "x".into(), source })
        })
        .unwrap();
        if counted {
            let recosted = ledger.sums.recost(&changes).await.unwrap();
            assert!(recosted.lost.is_empty());
            assert!(ledger.sums.commit_rerated(recosted, hour, whole.len() as u64).await.unwrap());
        }
        store.close().await.unwrap();
        drop(ledger);
        let ledger = Ledger::open(sled(&folder).await, Arc::new(Ring::default()), now).await.unwrap();
        let (cost, line) = match counted {
            true => (expected((1_000, 0), (1_000, 0)), true),
            false => (expected((15, 0), (9, 1)), false),
        };
        assert_eq!(costs(&ledger).await, cost, "counted: {counted}");
        assert_eq!(lines(&ledger).await[0]["ledger"][0]["price"].is_string(), line, "counted: {counted}");
        assert_eq!(lines(&ledger).await.len(), 4);
        assert!(files.names().unwrap().iter().all(|name| !name.ends_with(".rerated")));
    }
}

/// What settles while records are priced again is charged as it was; sums and records say the same then, and after a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_serves_goes_on_while_its_records_are_priced_again() {
    static NOW: AtomicU64 = AtomicU64::new(BEGIN);
    fn clock() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.load(Ordering::SeqCst))
    }
    let folder = tempfile::tempdir().unwrap();
    let store = sled(&folder).await;
    let ledger = Ledger::open_as("one", store.clone(), Arc::new(Ring::default()), clock).await.unwrap();
    // Another gateway's sums lie beside, and are not this one's to change.
    let other = Sums::open(store.clone(), "two", clock()).await.unwrap();
    let (theirs, _) = record(clock(), "hr", Some(1_000_000));
    other.add([&theirs].into_iter(), None);
    other.checkpoint().await.unwrap();
    for hour in 0..3 {
        NOW.store(BEGIN + hour * 3_600, Ordering::SeqCst);
        ledger.append((0..50).map(|_| record(clock(), "hr", Some(7))).collect::<Vec<_>>());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (settling, halt) = (ledger.clone(), stop.clone());
    let settles = tokio::task::spawn_blocking(move || {
        let mut count = 0u64;
        while !halt.load(Ordering::SeqCst) || count < 100 {
            settling.append(vec![record(clock(), "hr", Some(7))]);
            count += 1;
        }
        count
    });
    let (noting, halt) = (ledger.clone(), stop.clone());
    let notes = tokio::spawn(async move {
        while !halt.load(Ordering::SeqCst) {
            noting.upkeep(crate::config::Records::default()).await;
            tokio::task::yield_now().await;
        }
    });
    let whole = (SystemTime::UNIX_EPOCH, clock() + Duration::from_secs(600));
    let again = |ledger: &Arc<Ledger>, until: Instant, nano: i64| {
        let (ledger, handle) = (ledger.clone(), tokio::runtime::Handle::current());
        let work = move || ledger.rerate_served(&handle, whole, until, &mut |_| Some(rates(nano)));
        async move { tokio::task::spawn_blocking(work).await.unwrap().unwrap().expect("nobody else is at it") }
    };
    let done = again(&ledger, Instant::now() + Duration::from_secs(600), 100).await;
    stop.store(true, Ordering::SeqCst);
    let settled = settles.await.unwrap();
    notes.await.unwrap();
    assert_eq!((done.hours, done.left, done.next), (3, 0, None));
    assert!(done.requests >= 150 && done.requests <= 150 + settled, "{done:?}");
    // How many lines there are, and what they and the other gateway's cost together, as the sums have it.
    let counted = async |ledger: &Ledger| {
        let (mut all, mut count) = (1_000_000, 0u64);
        let add = |line: &[u8]| {
            let row: serde_json::Value = serde_json::from_slice(line).unwrap();
            let cost = crate::config::usd(&row["cost_usd"].to_string()).unwrap();
            assert!(cost == 7 || cost == 500, "{row}");
            all += u64::try_from(cost).unwrap();
            count += 1;
            true
        };
        ledger.lines(whole.0, whole.1, add).unwrap();
        assert_eq!(costs(ledger).await["hr"], (all, 0));
        count
    };
    assert_eq!(counted(&ledger).await, 150 + settled);
    // Pages go on from memory into files, and show each request once.
    let (mut seen, mut before) = (BTreeSet::new(), None);
    loop {
        let page = ledger.page(Wanted::default(), before, 97).await.unwrap();
        for row in &page.rows {
            assert!(seen.insert(row["id"].as_str().unwrap().to_owned()), "twice: {row}");
        }
        let Some(next) = page.next else { break };
        before = Some(next);
    }
    assert_eq!(seen.len() as u64, 150 + settled);
    // Killed: what was not noted is counted from the lines.
    ledger.append(vec![record(clock(), "hr", Some(7))]);
    drop((ledger, other));
    store.close().await.unwrap();
    let ledger = Ledger::open_as("one", sled(&folder).await, Arc::new(Ring::default()), clock).await.unwrap();
    assert_eq!(counted(&ledger).await, 151 + settled);
    // No hour is begun when the time is up, and it says where to go on.
    let late = again(&ledger, Instant::now().checked_sub(Duration::from_secs(1)).unwrap(), 9).await;
    assert_eq!((late.requests, late.next), (0, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN))));
}
