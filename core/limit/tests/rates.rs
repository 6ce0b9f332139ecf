//! Requests, tokens and places under clocks that jump and callers that race.

use super::*;

fn take(bucket: &mut Bucket, now: u64, cost: u64, rate: Rate) -> bool {
    bucket.take(now, cost, rate).is_ok()
}

#[test]
fn a_minutes_worth_comes_at_once_and_then_as_time_passes() {
    let (mut bucket, rate) = (Bucket::default(), Rate::a_minute(60));
    assert_eq!((0..100).filter(|_| take(&mut bucket, 0, 1, rate)).count(), 60);
    assert_eq!(bucket.take(0, 1, rate), Err(Refused::Wait(Duration::from_secs(1))));
    assert!(!take(&mut bucket, SECOND - 1, 1, rate) && take(&mut bucket, SECOND, 1, rate));
    assert!(!take(&mut bucket, SECOND, 1, rate));
}

#[test]
fn the_wait_that_is_told_is_exact() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        let rate = Rate { per_minute: random.u64(1..1_000_000), burst: random.u64(1..1_000_000) };
        let mut bucket = Bucket::default();
        let mut now = random.u64(0..SECOND * 1_000);
        let cost = random.u64(1..=rate.burst);
        while take(&mut bucket, now, cost, rate) {}
        now += random.u64(0..50);
        let Err(Refused::Wait(wait)) = bucket.take(now, cost, rate) else { continue };
        let wait = u64::try_from(wait.as_millis()).unwrap();
        assert!(!take(&mut bucket.clone(), now + wait - 1, cost, rate), "{rate:?} earlier");
        assert!(take(&mut bucket, now + wait, cost, rate), "{rate:?} then");
    }
}

/// Over any interval, whatever comes and whenever: no more than a burst and what the time allowed.
#[test]
fn never_admits_more_than_a_burst_and_the_rate() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..300 {
        let rate = Rate { per_minute: random.u64(1..5_000), burst: random.u64(1..500) };
        let mut bucket = Bucket::default();
        let mut now = 0;
        let mut admitted: Vec<(u64, u64)> = Vec::new();
        for _ in 0..300 {
            now += random.u64(0..SECOND / 2);
            let cost = random.u64(0..20);
            if take(&mut bucket, now, cost, rate) {
                admitted.push((now, cost));
            }
        }
        for (at, (start, _)) in admitted.iter().enumerate() {
            let mut sum: u128 = 0;
            for (end, cost) in &admitted[at..] {
                sum += u128::from(*cost);
                let drained = u128::from(end - start) * u128::from(rate.per_minute);
                assert!(
                    sum * 60 * u128::from(SECOND) <= u128::from(rate.burst) * 60 * u128::from(SECOND) + drained,
                    "{rate:?}"
                );
            }
        }
    }
}

/// Promise 36: only time that passed fills it up, in whatever steps the clock goes.
#[test]
fn a_clock_that_jumps_back_neither_locks_out_nor_refills() {
    let rate = Rate::a_minute(60);
    let mut bucket = Bucket::default();
    while take(&mut bucket, 3_600 * SECOND, 1, rate) {}
    // An hour back: nothing was given for it,
    assert!(!take(&mut bucket, 0, 1, rate));
    // and after a second of the clock as it is now there is room again.
    assert!(take(&mut bucket, SECOND, 1, rate));
    assert!(!take(&mut bucket, SECOND, 1, rate));
    let mut random = fastrand::Rng::with_seed(3);
    let (mut bucket, mut now, mut forward, mut admitted) = (Bucket::default(), 1u64 << 60, 0u128, 0u128);
    for _ in 0..10_000 {
        if random.u8(0..10) == 0 {
            now -= random.u64(0..SECOND * 100);
        } else {
            let step = random.u64(0..SECOND);
            now += step;
            forward += u128::from(step);
        }
        admitted += u128::from(take(&mut bucket, now, 1, rate));
    }
    assert!(admitted <= 60 + forward * 60 / (60 * u128::from(SECOND)) + 1, "{admitted}");
    assert!(admitted > forward / u128::from(SECOND) * 9 / 10, "{admitted}: locked out");
}

#[test]
fn a_rate_that_changes_finds_what_was_taken() {
    let mut bucket = Bucket::default();
    assert!(take(&mut bucket, 0, 50, Rate::a_minute(60)));
    assert_eq!(bucket.standing(0, Rate::a_minute(100)).left, 50);
    assert_eq!(bucket.standing(0, Rate::a_minute(40)).left, 0);
    assert!(!take(&mut bucket, 0, 1, Rate::a_minute(40)));
}

#[test]
fn a_debt_is_paid_before_anything_is_admitted() {
    let (mut bucket, rate) = (Bucket::default(), Rate::a_minute(60));
    assert!(take(&mut bucket, 0, 10, rate));
    bucket.correct(10, 120);
    assert_eq!(bucket.take(0, 0, rate), Err(Refused::Wait(Duration::from_secs(60))));
    assert!(take(&mut bucket, 60 * SECOND, 0, rate));
    bucket.correct(0, 0);
    let mut other = Bucket::default();
    other.correct(50, 0);
    assert_eq!(other.standing(0, rate).left, 60, "nothing comes back that was not taken");
}

#[test]
fn what_is_more_than_the_whole_is_never_admitted() {
    assert_eq!(Bucket::default().take(0, 61, Rate::a_minute(60)), Err(Refused::TooMuch));
    assert_eq!(Bucket::default().take(u64::MAX, u64::MAX, Rate::a_minute(u64::MAX)), Ok(()));
}

#[test]
fn who_has_no_limit_has_no_meter() {
    let limits = limits();
    let bounds = super::bounds(&limits, &caller(None, None, None));
    let permit = limits.enter(&bounds).unwrap();
    assert!(!permit.counts() && bounds.rates().is_none());
    assert_eq!((limits.meters.count(), limits.in_flight()), (0, 1));
    drop(permit);
    assert_eq!(limits.in_flight(), 0);
}

fn enter(limits: &Limits, caller: &Principal) -> crate::error::Result<Permit> {
    limits.enter(&bounds(limits, caller))
}

#[test]
fn every_scope_must_agree_and_the_one_that_does_not_is_named() {
    let limits = limits();
    let both = caller(requests(3), requests(2), None);
    for _ in 0..2 {
        drop(enter(&limits, &both).unwrap());
    }
    let refused = enter(&limits, &both).err().unwrap();
    assert_eq!((refused.status(), refused.code()), (429, "rate_limited"));
    assert!(refused.message.contains("team `t`") && refused.message.contains("requests_per_minute"), "{refused}");
    assert!(refused.retry_after.unwrap() > Duration::from_secs(25));
    // What the key's own scope took for the refused ones came back: its third is still there.
    let alone = caller(requests(3), None, None);
    drop(enter(&limits, &alone).unwrap());
    let refused = enter(&limits, &alone).err().unwrap();
    assert!(refused.message.contains("key `k`"), "{refused}");
}

#[test]
fn a_place_is_given_back_when_the_permit_goes() {
    let limits = limits();
    let caller = caller(concurrent(1), concurrent(5), None);
    let held = enter(&limits, &caller).unwrap();
    let refused = enter(&limits, &caller).err().unwrap();
    assert!(refused.message.contains("`concurrent`") && refused.retry_after.is_some(), "{refused}");
    assert!(held.end().is_none());
    drop(enter(&limits, &caller).unwrap());
}

#[tokio::test]
async fn tokens_are_reserved_and_corrected_by_what_was_used() {
    let limits = limits();
    let bounds = super::bounds(&limits, &caller(tokens(1_000), None, None));
    let left = || bounds.rates().unwrap().tokens.unwrap().left;
    let mut permit = limits.enter(&bounds).unwrap();
    let need = Need { input_tokens: 300, output_tokens: 500, nano_usd: 0 };
    permit.reserve(need, Need::default()).await.unwrap();
    assert!((200..=202).contains(&left()));
    // Another attempt needs no more than what is held already.
    permit.reserve(need, Need::default()).await.unwrap();
    assert!((200..=202).contains(&left()));
    settle(permit, 350, 0);
    assert!((650..=655).contains(&left()), "{}", left());
}

#[tokio::test]
async fn the_scope_that_refuses_tokens_leaves_the_others_whole() {
    let limits = limits();
    let bounds = super::bounds(&limits, &caller(tokens(1_000), tokens(400), None));
    let mut permit = limits.enter(&bounds).unwrap();
    let refused =
        permit.reserve(Need { input_tokens: 500, output_tokens: 0, nano_usd: 0 }, Need::default()).await.unwrap_err();
    assert!(refused.retry_after.is_none() && refused.message.contains("about 500 tokens"), "{refused}");
    let alone = super::bounds(&limits, &caller(tokens(1_000), None, None));
    assert_eq!(alone.rates().unwrap().tokens.unwrap().left, 1_000);
    // A long answer waits for a whole bucket, and gets it.
    permit.reserve(Need { input_tokens: 100, output_tokens: 5_000, nano_usd: 0 }, Need::default()).await.unwrap();
    assert!(bounds.rates().unwrap().tokens.unwrap().left < 10);
}

#[test]
fn meters_that_hold_nothing_are_forgotten() {
    let limits = limits();
    let caller = caller(requests(60_000), concurrent(2), None);
    let held = super::bounds(&limits, &caller);
    let permit = limits.enter(&held).unwrap();
    limits.sweep();
    assert_eq!(limits.meters.count(), 2, "somebody holds them");
    drop(held);
    limits.sweep();
    assert_eq!(limits.meters.count(), 2, "a place is taken");
    drop(permit);
    while limits.meters.count() > 0 {
        limits.sweep();
    }
}

#[test]
fn what_was_taken_before_a_limit_changed_has_drained_as_that_limit_let_it() {
    let limits = limits();
    let before = caller(requests(6_000), None, None);
    for _ in 0..3 {
        drop(enter(&limits, &before).unwrap());
    }
    // Thirty milliseconds of the old limit, three minutes of the new one.
    std::thread::park_timeout(Duration::from_millis(50));
    let after = caller(requests(1), None, None);
    drop(enter(&limits, &after).unwrap());
    assert_eq!(enter(&limits, &after).err().unwrap().status(), 429);
}

#[test]
fn many_at_once_take_no_more_than_there_is() {
    let limits = Arc::new(limits());
    let caller = Arc::new(caller(requests(50), concurrent(20), None));
    let entered: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (limits, caller) = (limits.clone(), caller.clone());
                scope.spawn(move || (0..100).filter(|_| enter(&limits, &caller).is_ok()).count())
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!((50..=52).contains(&entered), "{entered}");
    let places: Vec<_> = std::iter::from_fn(|| enter(&limits, &caller_without_rate()).ok()).take(100).collect();
    assert_eq!(places.len(), 20, "every place of the refused came back");
}

fn caller_without_rate() -> Principal {
    caller(None, concurrent(20), None)
}
