//! What one gateway gives out alone: its part of what was left, once, whatever comes and goes.

use crate::{
    limit::outage::Outage,
    store::counters::{Counter, Form, Id, Left, Want},
};

fn want(name: &str, form: Form, has: u64, wants: u64) -> Want {
    let counter = Counter { name: name.to_owned(), form, keep: None };
    Want { counter, bound: 1_000, has, wants, shadow: false }
}

fn left(left: u64) -> Left {
    Left { left, full_after: Default::default(), denied: None }
}

fn money(has: u64, wants: u64) -> Want {
    want("m", Form::Money, has, wants)
}

#[test]
fn a_part_of_what_was_left_and_no_more() {
    let mut outage = Outage::default();
    outage.saw(&[money(0, 1)], &[left(100)]);
    outage.begin();
    let given = (0..50u128).filter(|id| outage.take(Id(*id), &[money(0, 3)], 0.1).is_some()).count();
    assert_eq!(given, 3, "ten are a tenth of a hundred");
    assert!(outage.take(Id(99), &[want("never seen", Form::Sum, 0, 1)], 1.0).is_none());
}

#[test]
fn all_of_it_or_nothing() {
    let mut outage = Outage::default();
    let (a, b) = (want("a", Form::Bucket, 0, 5), want("b", Form::Sum, 0, 5));
    outage.saw(&[a.clone(), b.clone()], &[left(100), left(40)]);
    outage.begin();
    assert!(outage.take(Id(1), &[a.clone(), b], 0.1).is_none(), "four are left of the second");
    assert_eq!(outage.take(Id(2), &[want("a", Form::Bucket, 0, 10)], 0.1).map(|left| left[0].left), Some(0));
}

#[test]
fn what_was_given_counts_until_the_store_knows_of_it() {
    let mut outage = Outage::default();
    outage.saw(&[money(0, 1)], &[left(100)]);
    outage.begin();
    assert!(outage.take(Id(1), &[money(0, 10)], 0.1).is_some());
    let parts = outage.ended(Id(1));
    assert_eq!(parts.len(), 1);
    assert!(outage.ended(Id(1)).is_empty(), "a claim ends once");
    // It came back for a moment, and does not know yet.
    outage.saw(&[money(0, 1)], &[left(100)]);
    outage.begin();
    assert!(outage.take(Id(2), &[money(0, 1)], 0.1).is_none());
    outage.known(&parts);
    outage.saw(&[money(0, 1)], &[left(90)]);
    outage.begin();
    assert!(outage.take(Id(3), &[money(0, 9)], 0.1).is_some(), "a tenth of ninety");
    // It writes down, and answers nobody: that is the same outage.
    let parts = outage.ended(Id(3));
    outage.known(&parts);
    assert!(outage.take(Id(4), &[money(0, 1)], 0.1).is_none(), "within one outage nothing fills up");
}

#[test]
fn a_later_attempt_only_tops_up_and_places_are_free_again() {
    let mut outage = Outage::default();
    let place = want("p", Form::Places, 0, 1);
    outage.saw(&[money(0, 1), place.clone()], &[left(100), left(20)]);
    outage.begin();
    assert!(outage.take(Id(1), &[money(0, 6), place.clone()], 0.1).is_some());
    assert!(outage.take(Id(1), &[money(6, 10), want("p", Form::Places, 1, 1)], 0.1).is_some());
    assert!(outage.take(Id(2), std::slice::from_ref(&place), 0.1).is_some(), "two places are a tenth of twenty");
    assert!(outage.take(Id(3), std::slice::from_ref(&place), 0.1).is_none());
    outage.ended(Id(2));
    assert!(outage.take(Id(3), &[place], 0.1).is_some());
    let parts = outage.ended(Id(1));
    assert_eq!(parts.iter().map(|part| (part.counter.as_str(), part.amount)).collect::<Vec<_>>(), [("m", 10)]);
}
