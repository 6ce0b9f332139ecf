//! Places, lines and leaving, in virtual time; and a storm of real threads at the atomics.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;

fn gate(limit: u64) -> Arc<Gate> {
    Gate::new("p/a".into(), Some(limit))
}

fn patience(wait: Duration) -> Patience {
    Patience { queue: 1_000, until: clock::now() + wait }
}

/// Stands in line for a team.
fn wait(gate: &Arc<Gate>, flow: &str, time: Duration) -> impl Future<Output = Result<Place, Shed>> + Send + 'static {
    let (gate, owner) = (gate.clone(), team(flow));
    async move { first(&[&gate], &owner, patience(time)).await.map(|(_, place, _)| place) }
}

/// The same beside two others at most.
fn narrow(gate: &Arc<Gate>, owner: Owner) -> impl Future<Output = Result<(), Shed>> + Send + 'static {
    let gate = gate.clone();
    async move {
        let patience = Patience { queue: 3, ..patience(millis(900)) };
        first(&[&gate], &owner, patience).await.map(drop)
    }
}

fn waiting(gate: &Gate) -> usize {
    gate.standing().waiting
}

#[test]
fn free_places_are_taken_without_a_line_and_given_back() {
    let gate = gate(2);
    let (a, b) = (enter(&gate), enter(&gate));
    assert!(a.is_some() && b.is_some() && enter(&gate).is_none());
    drop(a);
    assert!(enter(&gate).is_some());
    drop(b);
    assert_eq!(gate.standing(), Standing { limit: 2, taken: 0, waiting: 0, adaptive: false });
}

#[test]
fn a_place_that_becomes_free_goes_to_who_waits_and_not_to_who_comes() {
    virtually(async {
        let gate = gate(1);
        let held = enter(&gate).unwrap();
        let mut waits = pin!(wait(&gate, "a", millis(5_000)));
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        assert_eq!(waiting(&gate), 1);
        drop(held);
        assert!(enter(&gate).is_none(), "it is given away already");
        let place = waits.await.unwrap();
        assert_eq!((gate.standing().taken, waiting(&gate)), (1, 0));
        drop(place);
        assert!(enter(&gate).is_some());
    });
}

#[test]
fn whoever_leaves_is_out_of_the_line_at_once() {
    virtually(async {
        let gate = gate(1);
        let held = enter(&gate).unwrap();
        {
            let mut waits: Vec<_> = (0..100).map(|_| Box::pin(wait(&gate, "a", millis(5_000)))).collect();
            for wait in &mut waits {
                assert!(futures_util::poll!(wait.as_mut()).is_pending());
            }
            assert_eq!(waiting(&gate), 100);
            waits.truncate(40);
            assert_eq!(waiting(&gate), 40);
        }
        assert_eq!(waiting(&gate), 0);
        drop(held);
        assert!(enter(&gate).is_some(), "with nobody waiting the way is open again");
    });
}

#[test]
fn a_turn_that_nobody_takes_goes_to_the_next() {
    virtually(async {
        let gate = gate(1);
        let held = enter(&gate).unwrap();
        let mut first = Box::pin(wait(&gate, "a", millis(5_000)));
        let mut second = pin!(wait(&gate, "a", millis(5_000)));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(held);
        // Its turn has come, and it leaves before it hears of it.
        drop(first);
        assert!(second.await.is_ok());
        assert_eq!(gate.standing().taken, 0, "and that one is over too");
    });
}

#[test]
fn a_wait_ends_in_time_and_says_when_to_come_back() {
    virtually(async {
        let gate = gate(1);
        let _held = enter(&gate).unwrap();
        let began = clock::now();
        let shed = wait(&gate, "a", millis(300)).await.unwrap_err();
        assert_eq!(clock::since(began), millis(300));
        assert_eq!((shed.reason, waiting(&gate)), (Reason::Late, 0));
        assert!(shed.retry_after >= Duration::from_secs(1), "{shed:?}");
    });
}

#[test]
fn a_full_line_refuses_the_flood_and_makes_room_for_others() {
    virtually(async {
        let gate = gate(1);
        let _held = enter(&gate).unwrap();
        let mut flood: Vec<_> = (0..3).map(|_| Box::pin(narrow(&gate, team("flood")))).collect();
        for wait in &mut flood {
            assert!(futures_util::poll!(wait.as_mut()).is_pending());
        }
        let more = narrow(&gate, team("flood")).await.unwrap_err();
        assert_eq!(more.reason, Reason::Full);
        let mut calm = pin!(narrow(&gate, team("calm")));
        assert!(futures_util::poll!(calm.as_mut()).is_pending());
        let told: Vec<_> = join_all(flood).await.into_iter().map(|told| told.unwrap_err().reason).collect();
        assert_eq!(told, [Reason::Late, Reason::Late, Reason::Displaced], "the newest one gave way");
        let none = Patience { queue: 0, ..patience(millis(900)) };
        assert_eq!(first(&[&gate], &owner(High, "boss", 1), none).await.unwrap_err().reason, Reason::Full);
    });
}

#[test]
fn the_first_free_place_of_several_targets_is_taken_and_the_other_lines_are_left() {
    virtually(async {
        let (a, b) = (gate(1), gate(1));
        let (_at_a, at_b) = (enter(&a).unwrap(), enter(&b).unwrap());
        let gates = [&a, &b];
        let me = team("a");
        let mut waits = pin!(first(&gates, &me, patience(millis(5_000))));
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        assert_eq!((waiting(&a), waiting(&b)), (1, 1));
        let free = async {
            clock::sleep(millis(70)).await;
            drop(at_b);
        };
        let (got, ()) = tokio::join!(waits, free);
        let (at, _place, took) = got.unwrap();
        assert_eq!((at, took), (1, millis(70)));
        assert_eq!((waiting(&a), waiting(&b)), (0, 0));
    });
}

#[test]
fn two_places_that_become_free_at_once_are_not_both_kept() {
    virtually(async {
        let (a, b) = (gate(1), gate(1));
        let held = (enter(&a).unwrap(), enter(&b).unwrap());
        let (gates, me) = ([&a, &b], team("a"));
        let mut waits = pin!(first(&gates, &me, patience(millis(5_000))));
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        drop(held);
        let (_, place, _) = waits.await.unwrap();
        assert_eq!(a.standing().taken + b.standing().taken, 1);
        drop(place);
        assert!(enter(&a).is_some() && enter(&b).is_some());
    });
}

#[test]
fn who_would_be_too_late_at_the_pace_of_the_line_is_refused_at_once() {
    virtually(async {
        let gate = gate(1);
        let mut held = Some(enter(&gate).unwrap());
        let mut line: FuturesUnordered<_> = (0..100).map(|_| wait(&gate, "a", Duration::from_secs(60))).collect();
        // One turn each tenth of a second.
        for _ in 0..30 {
            let freed = async {
                clock::sleep(millis(100)).await;
                drop(held.take());
            };
            let (place, ()) = tokio::join!(line.next(), freed);
            held = Some(place.unwrap().unwrap());
        }
        let began = clock::now();
        let shed = wait(&gate, "a", millis(2_000)).await.unwrap_err();
        assert_eq!((shed.reason, clock::since(began)), (Reason::TooLong, Duration::ZERO));
        let honest = Duration::from_secs_f64(7.0)..Duration::from_secs_f64(7.0 * 1.3);
        assert!(honest.contains(&shed.retry_after), "seventy turns at ten a second: {shed:?}");
        // Another team's turn comes in time.
        let mut other = pin!(wait(&gate, "b", millis(2_000)));
        assert!(futures_util::poll!(other.as_mut()).is_pending());
    });
}

#[test]
fn more_places_are_given_to_those_who_wait() {
    virtually(async {
        let gate = gate(1);
        let _held = enter(&gate).unwrap();
        let mut line: FuturesUnordered<_> = (0..4).map(|_| wait(&gate, "a", millis(5_000))).collect();
        assert!(futures_util::poll!(line.next()).is_pending());
        gate.set_limit(Some(3));
        let kept = (line.next().await.unwrap().unwrap(), line.next().await.unwrap().unwrap());
        assert_eq!((gate.standing().taken, waiting(&gate)), (3, 2));
        drop(kept);
    });
}

#[test]
fn an_adaptive_gate_learns_from_what_it_is_told() {
    let gate = Gate::new("p/a".into(), None);
    assert_eq!(gate.standing().limit, 20);
    let places: Vec<Place> = (0..20).filter_map(|_| enter(&gate)).collect();
    for _ in 0..40 {
        places.iter().for_each(|place| place.answered(0, millis(100)));
    }
    let grown = gate.standing();
    assert!(grown.limit > 25 && grown.adaptive, "{grown:?}");
    for _ in 0..10 {
        places.iter().for_each(Place::troubled);
    }
    assert!(gate.standing().limit < grown.limit);
    gate.set_limit(Some(7));
    places.iter().for_each(Place::troubled);
    assert_eq!(gate.standing().limit, 7, "a fixed one is not learnt");
}

/// Real threads: never more inside than may be, nobody forgotten, and all places free at the end.
#[test]
fn threads_that_come_wait_and_leave_never_pass_the_limit() {
    // Where nobody is counted, and where places are kept for those who have less.
    storm(5);
    storm(12);
}

fn storm(limit: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let gate = gate(limit);
    let inside = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let run = |n: u64| {
        let (gate, inside, most) = (gate.clone(), inside.clone(), most.clone());
        runtime.spawn(async move {
            let mut random = fastrand::Rng::with_seed(n);
            let mut served = 0;
            for _ in 0..300 {
                let me = ["a", "b", "c"][random.usize(..3)];
                let place = match gate.enter(&team(me).flow, || team(me)) {
                    Some(place) => Some(place),
                    // Some lose patience before they are told.
                    None if random.bool() => wait(&gate, me, Duration::from_micros(random.u64(..200))).await.ok(),
                    None => Some(wait(&gate, me, Duration::from_secs(60)).await.unwrap()),
                };
                let Some(_place) = place else { continue };
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                served += 1;
            }
            served
        })
    };
    let all: Vec<_> = (0..40).map(run).collect();
    let served: u64 = runtime.block_on(async { join_all(all).await.into_iter().map(Result::unwrap).sum() });
    assert!(served > 40 * 100, "{served}");
    assert!(most.load(Ordering::SeqCst) <= limit);
    assert_eq!(gate.standing(), Standing { limit, taken: 0, waiting: 0, adaptive: false });
    assert!(enter(&gate).is_some());
}

#[test]
fn what_comes_before_a_newcomer_is_told_where_there_is_no_room() {
    virtually(async {
        let gate = Gate::new("p/a".into(), Some(1));
        assert_eq!(gate.ahead(&team("a")), None, "there is room");
        let taken = enter(&gate).unwrap();
        assert_eq!(gate.ahead(&team("a")), Some(Ahead { turns: 0, time: None }), "no pace is known yet");
        let waits: Vec<Ticket> = (0..3).map(|_| gate.stand(team("a"), 10, millis(60_000)).unwrap()).collect();
        assert_eq!(gate.ahead(&team("a")).unwrap().turns, 3);
        assert_eq!(gate.ahead(&owner(High, "b", 1)).unwrap().turns, 0);
        drop((taken, waits));
        assert_eq!(gate.ahead(&team("a")), None);
    });
}
