//! When a stage is parked and when it comes back, with time as an argument.

use std::time::{Duration, Instant};

use super::*;
use crate::config::{Park, Stage};

const SECOND: Duration = Duration::from_secs(1);

fn standing(failures: u32, lasting: u64) -> Standing {
    Standing::new(Some(Park { failures, lasting: Duration::from_secs(lasting), rest: 10 * SECOND }))
}

#[test]
fn failures_in_a_row_park_it_and_one_that_goes_well_starts_the_count_anew() {
    let (standing, now) = (standing(3, 0), Instant::now());
    assert!(!standing.failed(false, now) && !standing.failed(false, now));
    assert!(!standing.succeeded(false));
    assert!(!standing.failed(false, now) && !standing.failed(false, now));
    assert!(standing.failed(false, now), "the third in a row");
    assert!(!standing.failed(false, now), "what was under way says nothing new");
    assert_eq!(standing.enter(now), Admission::Parked(10 * SECOND));
    assert_eq!(standing.parked(now), Some(10 * SECOND));
}

#[test]
fn a_burst_parks_nothing() {
    let (standing, now) = (standing(3, 30), Instant::now());
    for _ in 0..500 {
        assert!(!standing.failed(false, now + SECOND));
    }
    assert_eq!(standing.enter(now + 2 * SECOND), Admission::Free);
    assert!(standing.failed(false, now + 31 * SECOND), "it goes on for half a minute");
}

#[test]
fn half_of_the_last_sixty_four_is_too_often_as_well() {
    let (standing, now) = (standing(10, 30), Instant::now());
    let parked = (0..200).find(|n| {
        standing.succeeded(false);
        standing.failed(false, now + *n * SECOND)
    });
    assert!(parked.is_some_and(|n| (30..70).contains(&n)), "{parked:?}");
}

#[test]
fn a_single_probe_decides() {
    let (standing, now) = (standing(1, 0), Instant::now());
    assert!(standing.failed(false, now));
    let later = now + 11 * SECOND;
    assert_eq!(standing.enter(later), Admission::Probe);
    assert!(matches!(standing.enter(later), Admission::Parked(_)), "the others wait for what it finds");
    assert!(standing.failed(true, later), "parked again, for longer");
    assert_eq!(standing.enter(later), Admission::Parked(20 * SECOND));
    let again = later + 21 * SECOND;
    assert_eq!(standing.enter(again), Admission::Probe);
    standing.unproven();
    assert_eq!(standing.enter(again), Admission::Probe, "a probe that was not called is no answer");
    assert!(standing.succeeded(true));
    assert_eq!((standing.enter(again), standing.parked(again)), (Admission::Free, None));
}

#[test]
fn a_new_version_of_the_file_or_of_its_limits_begins_anew_and_the_same_one_does_not() {
    let parking = Parking::default();
    let stage = Stage {
        park: Some(Park { failures: 1, lasting: Duration::ZERO, rest: SECOND }),
        ..Stage::automatic("scripts/a.rhai")
    };
    let now = Instant::now();
    let first = parking.of(&stage, "aa");
    assert!(first.failed(false, now));
    assert!(parking.of(&stage, "aa").parked(now).is_some(), "a reload changes nothing");
    assert!(parking.of(&stage, "bb").parked(now).is_none());
    let mut other = stage.clone();
    other.limits.operations += 1;
    assert!(parking.of(&other, "aa").parked(now).is_none());
    drop(first);
    assert!(parking.of(&stage, "aa").parked(now).is_none(), "nobody ran it any more");
}

#[test]
fn a_stage_without_terms_is_never_parked() {
    let (standing, now) = (Standing::new(None), Instant::now());
    assert!((0..1000).all(|n| !standing.failed(false, now + n * SECOND)));
    assert!(!standing.is_troubled() && standing.parked(now).is_none());
}
