use std::time::Duration;

use super::judge::{Counts, Stretch, Tally, Verdict, breach, judge};
use crate::config::{Rollout, Sticky};

fn rules(error_rate: Option<f64>, p99: Option<u64>) -> Rollout {
    Rollout {
        shadow: Some(Duration::from_secs(60)),
        canary: Some(0.05),
        canary_time: Duration::from_secs(60),
        min_requests: 50,
        sticky: Sticky::Session,
        error_rate,
        p99: p99.map(Duration::from_millis),
    }
}

fn counts(requests: u64, errors: u64, slow: u64) -> Counts {
    Counts { requests, errors, slow }
}

const OVER: Stretch = Stretch { time: Duration::from_secs(1), elapsed: Duration::from_secs(2), last: true };

fn waits(verdict: &Verdict, for_what: &str) -> bool {
    matches!(verdict, Verdict::Wait(what) if what.contains(for_what))
}

#[test]
fn a_phase_lasts_its_time_and_the_last_one_until_enough_was_seen() {
    let rules = rules(Some(0.02), None);
    let early = Stretch { elapsed: Duration::from_millis(200), ..OVER };
    let good = counts(1000, 0, 0);
    assert!(waits(&judge(&rules, early, good, good, "requests"), "1 s more"));
    assert_eq!(judge(&rules, OVER, good, good, "requests"), Verdict::Next);
    assert!(waits(&judge(&rules, OVER, good, counts(49, 0, 0), "requests"), "1 more requests"));
    assert_eq!(judge(&rules, Stretch { last: false, ..OVER }, good, counts(0, 0, 0), "decisions"), Verdict::Next);
}

#[test]
fn a_version_that_fails_more_than_it_may_goes_at_once_and_says_how_often() {
    let rules = rules(Some(0.02), None);
    let good = counts(1000, 0, 0);
    // One of fifty is what is allowed: the second failure decides, however few requests there were.
    assert_eq!(breach(&rules, good, counts(1, 1, 0), "requests"), None);
    let reason = breach(&rules, good, counts(2, 2, 0), "requests").unwrap_or_default();
    assert!(reason.contains("2 of 2 requests failed (100.0 %; allowed 2.0 %"), "{reason}");
    assert_eq!(breach(&rules, good, counts(1000, 20, 0), "requests"), None);
    assert!(breach(&rules, good, counts(1000, 21, 0), "requests").is_some());
}

#[test]
fn what_ails_both_versions_neither_takes_one_back_nor_lets_it_on() {
    let rules = rules(Some(0.02), Some(500));
    let ill = counts(1000, 300, 0);
    assert_eq!(breach(&rules, ill, counts(50, 15, 0), "requests"), None);
    assert!(waits(&judge(&rules, OVER, ill, counts(50, 15, 0), "requests"), "fares no better"));
    assert!(breach(&rules, ill, counts(50, 16, 0), "requests").is_some());
    let slow = counts(1000, 0, 300);
    assert!(waits(&judge(&rules, OVER, slow, counts(50, 0, 15), "requests"), "fares no better"));
}

#[test]
fn a_slow_version_goes_when_it_is_slower_than_the_other_and_not_by_chance() {
    let rules = rules(None, Some(500));
    let good = counts(1000, 0, 5);
    assert_eq!(breach(&rules, good, counts(50, 0, 2), "requests"), None);
    let reason = breach(&rules, good, counts(50, 0, 3), "requests").unwrap_or_default();
    assert!(reason.contains("p99 is above 500 ms: 3 of 50"), "{reason}");
    assert_eq!(breach(&rules, good, counts(1000, 0, 10), "requests"), None);
    // Errors are nobody's concern when no rule names them.
    assert_eq!(breach(&rules, good, counts(50, 50, 0), "requests"), None);
}

#[test]
fn figures_tell_rates_and_a_bound_of_the_slowest_hundredth() {
    let tally = Tally::default();
    assert_eq!(tally.p99_ms(), None);
    for n in 0..200_u64 {
        let took = if n < 197 { 1 } else { 900 };
        tally.add(Duration::from_millis(took), n < 3, Some(Duration::from_millis(500)));
    }
    assert_eq!(tally.counts(), counts(200, 3, 3));
    let p99 = tally.p99_ms().unwrap_or_default();
    assert!((900.0..1400.0).contains(&p99), "{p99}");
    for _ in 0..200 {
        tally.add(Duration::from_millis(1), false, None);
    }
    let p99 = tally.p99_ms().unwrap_or_default();
    assert!((1.0..2.0).contains(&p99), "{p99}");
    tally.add(Duration::from_secs(1_000_000), false, None);
}
