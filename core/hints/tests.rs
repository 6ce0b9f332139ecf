use std::time::Instant;

use super::*;
use crate::store::{self, Row};

const STAGE: &str = "scripts/a.rhai";

fn hints(store: &Arc<dyn Store>) -> (Hints, Arc<Kv>) {
    let scripts = Arc::new(Kv::lasting());
    (Hints::new(store.clone(), scripts.clone(), Arc::new(Kv::lasting())), scripts)
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn set(kv: &Kv, key: &str, value: Value, ttl: Option<Duration>) {
    kv.space(STAGE, "t", |space| space.set(key, value, ttl, Instant::now())).expect("it fits");
}

fn get(kv: &Kv, key: &str) -> Option<Value> {
    kv.space(STAGE, "t", |space| space.get(key, Instant::now()).cloned())
}

async fn again(store: &Arc<dyn Store>) -> Arc<Kv> {
    let (hints, kv) = hints(store);
    hints.read(&BTreeSet::from([STAGE])).await;
    kv
}

#[test]
fn what_was_kept_is_there_for_the_next_process_and_what_was_removed_is_not() {
    run(async {
        let store = store::memory();
        let (hints, kv) = hints(&store);
        set(&kv, "a", json!({"deep": [1, 2.5]}), None);
        set(&kv, "b", json!(1), Some(Duration::from_secs(3600)));
        set(&kv, "gone", json!(1), None);
        hints.write(&kv).await.expect("written");
        kv.space(STAGE, "t", |space| {
            space.incr("b", 4, None, Instant::now()).expect("a number");
            space.remove("gone");
        });
        hints.write(&kv).await.expect("written");
        let kv = again(&store).await;
        assert_eq!(
            (get(&kv, "a"), get(&kv, "b"), get(&kv, "gone")),
            (Some(json!({"deep": [1, 2.5]})), Some(json!(5)), None)
        );
        assert_eq!(kv.changes(10), [], "what was read is not written again");
        // The sum keeps its time.
        let late = Instant::now() + Duration::from_secs(7200);
        assert_eq!(kv.space(STAGE, "t", |space| space.get("b", late).cloned()), None);
    });
}

#[test]
fn what_is_over_is_too_large_or_of_a_stage_that_went_is_not_read_again() {
    run(async {
        let store = store::memory();
        let (hints, kv) = hints(&store);
        set(&kv, "short", json!(1), Some(Duration::from_millis(1)));
        set(&kv, "large", json!("x".repeat(2000)), None);
        set(&kv, "small", json!("x"), None);
        kv.space("scripts/other.rhai", "t", |space| space.set("k", json!(1), None, Instant::now())).expect("it fits");
        hints.write(&kv).await.expect("written");
        let rows = store.scan(Table::Kv, &[], None, 10).await.expect("read");
        assert_eq!(rows.len(), 3, "what is large stays in memory");
        assert_eq!(get(&kv, "large"), Some(json!("x".repeat(2000))));
        while SystemTime::now() <= ends(&rows) {
            std::thread::yield_now();
        }
        let kv = again(&store).await;
        assert_eq!((get(&kv, "short"), get(&kv, "large"), get(&kv, "small")), (None, None, Some(json!("x"))));
        let left = store.scan(Table::Kv, &[], None, 10).await.expect("read");
        assert_eq!(left.len(), 1, "rows that nobody wants go: {left:?}");
    });
}

/// The last end among rows that have one.
fn ends(rows: &[Row]) -> SystemTime {
    let ends = rows.iter().filter_map(|(key, body)| change(key, body)?.now?.1);
    ends.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[test]
fn a_tenant_cannot_fill_the_store() {
    run(async {
        let store = store::memory();
        let (hints, kv) = hints(&store);
        for n in 0..3_000 {
            set(&kv, &n.to_string(), json!("x".repeat(1000)), None);
        }
        hints.write(&kv).await.expect("written");
        let rows = store.scan(Table::Kv, &[], None, 10_000).await.expect("read");
        let bytes: usize = rows.iter().map(|(key, body)| key.len() + body.len()).sum();
        assert!(bytes <= 512 << 10 && rows.len() > 300, "{} rows, {bytes} bytes", rows.len());
        assert!(get(&kv, "2999").is_some(), "the rest stays in memory");
    });
}

#[test]
fn rehearsals_leave_nothing_to_write() {
    let kv = Arc::new(Kv::lasting());
    set(&kv, "a", json!(1), None);
    assert_eq!(kv.changes(10).len(), 1);
    let over = Kv::over(&kv);
    set(&over, "a", json!(2), None);
    assert_eq!((kv.changes(10), over.changes(10), get(&kv, "a")), (vec![], vec![], Some(json!(1))));
}

#[test]
fn what_could_not_be_written_is_written_as_it_is_then() {
    let kv = Kv::lasting();
    set(&kv, "a", json!(1), None);
    let failed = kv.changes(10);
    set(&kv, "a", json!(2), None);
    kv.again(failed);
    let changes = kv.changes(10);
    assert_eq!(changes.iter().map(|change| &change.now).collect::<Vec<_>>(), [&Some((json!(2), None))]);
}
