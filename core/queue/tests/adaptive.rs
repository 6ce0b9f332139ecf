//! The learnt limit against targets that behave in known ways.

use super::*;

/// A target that serves `capacity` calls at a time in `idle` each, and lets the others wait. Always as many are sent as the
/// limit allows, or as `asked` there are. Gives the limits over the steps.
fn limits(adaptive: &mut Adaptive, steps: usize, asked: u64, capacity: u64, idle: u64) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(7);
    let step = |_| {
        let taken = adaptive.limit().min(asked);
        let took = idle * taken.max(capacity) / capacity;
        let count = adaptive.window();
        // Answers differ by a third.
        let sum = (0..count).map(|_| random.u64(took * 2 / 3..=took * 4 / 3)).sum();
        adaptive.step(&Window { answers: [(count, sum), (0, 0)], troubles: 0, taken })
    };
    (0..steps).map(step).collect()
}

#[test]
fn it_grows_to_what_the_target_bears_and_not_far_beyond() {
    let mut adaptive = Adaptive::default();
    let all = limits(&mut adaptive, 300, u64::MAX, 100, 200_000);
    let late = &all[200..];
    let (least, most) = (late.iter().min().unwrap(), late.iter().max().unwrap());
    assert!(*least >= 100 && *most <= 260, "between {least} and {most} for a target that bears 100");
}

#[test]
fn it_follows_a_target_that_loses_most_of_its_capacity_and_comes_back() {
    let mut adaptive = Adaptive::default();
    limits(&mut adaptive, 200, u64::MAX, 100, 200_000);
    let ill = limits(&mut adaptive, 100, u64::MAX, 10, 200_000);
    assert!(*ill.last().unwrap() < 60, "{ill:?}");
    let well = limits(&mut adaptive, 200, u64::MAX, 100, 200_000);
    assert!(*well.last().unwrap() >= 100, "{well:?}");
}

#[test]
fn without_need_it_does_not_grow() {
    let mut adaptive = Adaptive::default();
    assert_eq!(*limits(&mut adaptive, 100, 3, 100, 200_000).last().unwrap(), FIRST);
}

#[test]
fn refusals_shrink_it_at_once_and_never_to_nothing() {
    let mut adaptive = Adaptive::default();
    let trouble = Window { answers: [(0, 0), (8, 8_000)], troubles: 2, taken: 20 };
    assert!(adaptive.step(&trouble) < FIRST);
    for _ in 0..50 {
        adaptive.step(&trouble);
    }
    assert_eq!(adaptive.limit(), LEAST);
    let few = Window { answers: [(100, 100 * 200_000), (0, 0)], troubles: 1, taken: 1 };
    for _ in 0..5 {
        adaptive.step(&few);
    }
    assert!(adaptive.limit() > LEAST, "one refusal in a hundred is none of its business");
}

#[test]
fn a_target_that_became_slower_for_good_is_learnt_anew() {
    let mut adaptive = Adaptive::default();
    limits(&mut adaptive, 100, u64::MAX, 100, 100_000);
    let all = limits(&mut adaptive, 400, u64::MAX, 100, 400_000);
    assert!(*all.last().unwrap() >= 100, "{:?}", &all[350..]);
}

#[test]
fn streams_and_whole_answers_have_a_measure_of_their_own() {
    let mut adaptive = Adaptive::default();
    // First events after 200 ms, whole answers after 10 s: more of the one or of the other says nothing.
    let mut last = 0;
    for turn in 0..100u32 {
        let streams = if turn % 2 == 0 { 18 } else { 2 };
        let answers = [(streams, u64::from(streams) * 200_000), (20 - streams, u64::from(20 - streams) * 10_000_000)];
        last = adaptive.step(&Window { answers, troubles: 0, taken: adaptive.limit() });
    }
    assert!(last > 100, "{last}");
    assert!(last <= MOST);
}
