//! Who sends an alert, with several gateways on one store and a clock that is moved by hand.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::claims::{Claim, Claims, Found, Seen};
use crate::store::{self, Store, Table};

const LEASE: Duration = Duration::from_secs(30);

/// A clock for one test.
macro_rules! clock {
    ($passes:ident, $clock:ident) => {
        static PASSED: AtomicU64 = AtomicU64::new(0);
        fn $clock() -> Instant {
            static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
            *EPOCH + Duration::from_secs(PASSED.load(Ordering::SeqCst))
        }
        let $passes = |time: Duration| {
            PASSED.fetch_add(time.as_secs(), Ordering::SeqCst);
        };
    };
}

async fn ours(claims: &Claims, id: &str) -> Option<Claim> {
    match claims.take(id, format!("body of {id}"), None).await {
        Found::Ours(claim) => Some(claim),
        _ => None,
    }
}

fn two(clock: fn() -> Instant) -> (Arc<dyn Store>, Claims, Claims) {
    let store = store::memory();
    let (one, other) = (Claims::by(store.clone(), LEASE, clock), Claims::by(store.clone(), LEASE, clock));
    (store, one, other)
}

#[tokio::test]
async fn one_of_several_has_an_alert_and_once_it_is_sent_nobody_has_it() {
    clock!(passes, clock);
    let (_, one, other) = two(clock);
    let claim = ours(&one, "team:a/day/soft").await.expect("the first");
    assert!(ours(&other, "team:a/day/soft").await.is_none() && ours(&one, "team:a/day/soft").await.is_none());
    assert!(ours(&one, "team:a/day/exhausted").await.is_some(), "another alert is another claim");
    one.hold(claim, async {}).await;
    assert!(ours(&other, "team:a/day/soft").await.is_none(), "it was sent");
    let mut seen = Seen::new();
    assert_eq!(other.left_behind(&mut seen).await.unwrap(), []);
    passes(2 * LEASE);
    let left = other.left_behind(&mut seen).await.unwrap();
    assert_eq!(left.iter().map(|claim| claim.id.as_str()).collect::<Vec<_>>(), ["team:a/day/exhausted"]);
}

#[tokio::test]
async fn a_sender_that_lives_is_left_alone_however_long_it_takes() {
    clock!(passes, clock);
    let (_, one, other) = two(clock);
    let mut claim = ours(&one, "a").await.expect("the first");
    let mut seen = Seen::new();
    for _ in 0..100 {
        assert_eq!(other.left_behind(&mut seen).await.unwrap(), []);
        assert!(one.renew(&mut claim).await);
        passes(LEASE / 2);
    }
}

#[tokio::test]
async fn what_a_dead_gateway_did_not_send_another_one_sends_and_the_dead_one_hears_so_when_it_wakes_up() {
    clock!(passes, clock);
    let (_, one, other) = two(clock);
    let mut claim = ours(&one, "a").await.expect("the first");
    passes(10 * LEASE);
    let mut seen = Seen::new();
    assert_eq!(other.left_behind(&mut seen).await.unwrap(), [], "it has to stand unchanged before one's own eyes");
    passes(LEASE - Duration::from_secs(1));
    assert_eq!(other.left_behind(&mut seen).await.unwrap(), [], "for a whole lease");
    passes(Duration::from_secs(1));
    let taken = other.left_behind(&mut seen).await.unwrap().pop().expect("left behind");
    assert_eq!((taken.id.as_str(), taken.body.as_str()), ("a", "body of a"));
    assert!(!one.renew(&mut claim).await, "it was only asleep");
    other.hold(taken, async {}).await;
    passes(10 * LEASE);
    for claims in [&one, &other] {
        assert_eq!(claims.left_behind(&mut Seen::new()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_gateway_alone_sends_after_a_restart_what_it_had_begun() {
    let store = store::memory();
    let before = Claims::new(store.clone(), Duration::ZERO);
    assert!(ours(&before, "a").await.is_some());
    let after = Claims::new(store, Duration::ZERO);
    let claim = after.left_behind(&mut Seen::new()).await.unwrap().pop().expect("at once");
    after.hold(claim, async {}).await;
    assert!(ours(&after, "a").await.is_none());
    assert_eq!(after.left_behind(&mut Seen::new()).await.unwrap(), []);
}

#[tokio::test]
async fn rows_of_windows_long_past_go_and_others_stay() {
    let (store, one, other) = two(Instant::now);
    let now = SystemTime::now();
    let days = |n: u64| Duration::from_secs(n * 86_400);
    for (id, end) in [("old", Some(now - days(3))), ("fresh", Some(now - days(1))), ("for ever", None)] {
        let Found::Ours(claim) = one.take(id, String::new(), end).await else { panic!("{id} is new") };
        one.hold(claim, async {}).await;
    }
    assert_eq!(other.left_behind(&mut Seen::new()).await.unwrap(), []);
    let rows = store.scan(Table::Alerts, b"", None, 10).await.unwrap();
    let ids: Vec<String> = rows.iter().map(|(id, _)| String::from_utf8_lossy(id).into_owned()).collect();
    assert_eq!(ids, ["for ever", "fresh"]);
}
