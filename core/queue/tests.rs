//! Turns, places and limits, without sockets and without waiting: the arithmetic by itself, gates in virtual time, and a
//! simulation of teams at one gate.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};

use super::{
    adaptive::{Adaptive, FIRST, LEAST, MOST, Window},
    drain::Drain,
    fair::Fair,
    pressure::{Late, judge},
    *,
};
use crate::config::Urgency::{self, High, Low, Normal};

mod adaptive;
mod fair;
mod gate;
mod held;
mod simulation;

fn owner(class: Urgency, flow: &str, share: u32) -> Owner {
    Owner { class, flow: flow.into(), share }
}

/// Of class normal, with the usual share.
fn team(flow: &str) -> Owner {
    owner(Normal, flow, 1)
}

/// A place for team `a`.
fn enter(gate: &Arc<Gate>) -> Option<Place> {
    static A: std::sync::LazyLock<Owner> = std::sync::LazyLock::new(|| team("a"));
    gate.enter(&A.flow, || A.clone())
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// In virtual time: waits cost nothing.
fn virtually<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(clock::virtually(Instant::now(), SystemTime::UNIX_EPOCH, future))
}

#[test]
fn a_drain_tells_its_pace_and_forgets_one_that_is_over() {
    let began = Instant::now();
    let mut drain = Drain::default();
    assert_eq!(drain.time_for(10, began), None, "nothing was measured");
    drain.left(began);
    assert_eq!(drain.rate(began), None, "nobody waits, so nothing is told by it");
    drain.begin(began);
    for n in 1..=40 {
        drain.left(began + millis(50 * n));
    }
    let now = began + millis(2000);
    assert!((drain.rate(now).unwrap() - 20.0).abs() < 0.5, "{drain:?}");
    assert!(drain.is_sure());
    assert_eq!(drain.time_for(100, now).unwrap().as_secs(), 5);
    assert!(drain.rate(now + Duration::from_secs(20)).unwrap() < 0.1, "nothing has come for twenty seconds");
    drain.end();
    drain.begin(now + Duration::from_secs(30));
    assert!(!drain.is_sure(), "it is measured anew before anybody is refused by it");
    assert!(drain.rate(now + Duration::from_secs(30)).unwrap() > 19.0, "until then it is what it was");
}

#[test]
fn only_lag_that_lasts_is_overload_and_the_lowest_priority_goes_first() {
    let (mut late, most) = (Late::default(), millis(100));
    let mut judged = |lag| judge(late.least(lag), most, (0, 100), None).0;
    assert_eq!((judged(millis(900)), judged(millis(900)), judged(millis(900)), judged(millis(900))), (0, 0, 0, 0));
    assert_eq!(judged(millis(150)), 1);
    assert_eq!(judged(millis(1)), 0, "one timer rang in time");
    assert_eq!(judge(millis(200), most, (0, 100), None), (2, Reason::Lag));
    assert_eq!(judge(millis(400), most, (0, 100), None), (3, Reason::Lag));
    assert_eq!(judge(Duration::ZERO, most, (79, 100), None).0, 0);
    assert_eq!(judge(Duration::ZERO, most, (80, 100), None), (1, Reason::Memory));
    assert_eq!(judge(Duration::ZERO, most, (10, 100), Some((91, 100))), (2, Reason::Memory));
    assert_eq!(judge(Duration::ZERO, most, (10, 100), Some((100, 100))), (3, Reason::Memory));
}

#[test]
fn what_the_process_cannot_bear_is_refused_by_class() {
    let pressure = Pressure::told(2, Reason::Memory);
    assert!(pressure.admits(High).is_ok());
    for class in [Normal, Low] {
        let shed = pressure.admits(class).unwrap_err();
        assert_eq!((shed.reason, shed.class), (Reason::Memory, class));
        let error = shed.told();
        assert_eq!((error.status(), error.code()), (503, "overloaded"));
        assert!(error.retry_after.is_some() && error.message.contains("try again in"), "{}", error.message);
    }
    assert!(Pressure::default().admits(Low).is_ok());
    assert_eq!(Pressure::told(3, Reason::Lag).admits(High).unwrap_err().reason, Reason::Lag);
}

#[test]
fn gates_outlive_a_reload_and_take_up_its_bounds() {
    let overload = |max_in_flight| Overload { max_in_flight, ..Overload::default() };
    let bounds = |n| BTreeMap::from([("p/a".to_owned(), Concurrency::Fixed(n))]);
    let queues = Queues::new(&overload(2));
    let name: Arc<str> = "p/a".into();
    let gate = queues.of(&name, Concurrency::Fixed(1));
    let held = enter(&gate).unwrap();
    assert!(enter(&gate).is_none());
    queues.configure(&overload(3), &bounds(2));
    assert!(Arc::ptr_eq(&gate, &queues.of(&name, Concurrency::Fixed(9))), "it is known by its name");
    assert_eq!(queues.standing("p/a").map(|s| (s.limit, s.taken)), Some((2, 1)));
    assert_eq!(queues.front.standing().limit, 3);
    let second = enter(&gate).unwrap();
    queues.configure(&overload(3), &bounds(1));
    drop(second);
    assert!(enter(&gate).is_none(), "there are fewer places than calls: nobody comes in until they are");
    drop((held, gate));
    queues.configure(&overload(3), &BTreeMap::new());
    assert_eq!(queues.standing("p/a"), None);
}
