//! Who has its part of the places: counted by themselves, and at gates where the last places are kept.

use super::{super::held::Held, *};

fn full(held: &Held, who: &Owner, limit: u64, strangers: bool) -> bool {
    held.is_full((who.class, &who.flow, u64::from(who.share)), limit, strangers)
}

#[test]
fn who_is_alone_may_have_all_and_beside_others_its_part() {
    let (mut held, now) = (Held::default(), Instant::now());
    let (a, b, triple) = (team("a"), team("b"), owner(Normal, "c", 3));
    for _ in 0..100 {
        held.take(&a, now);
    }
    assert!(!full(&held, &a, 100, false), "nobody else is there");
    assert!(full(&held, &a, 100, true), "somebody is whom nobody counted");
    held.take(&b, now);
    assert!(full(&held, &a, 100, false) && !full(&held, &b, 100, false));
    for _ in 0..89 {
        held.take(&triple, now);
    }
    assert!(!full(&held, &triple, 100, false), "three of five parts are sixty, and half as much again is chance");
    held.take(&triple, now);
    assert!(full(&held, &triple, 100, false));
    assert!(!full(&held, &team("new"), 2, false), "who has none is not full, however small its part is");
    let boss = owner(High, "boss", 1);
    for _ in 0..200 {
        held.take(&boss, now);
    }
    assert!(!full(&held, &boss, 100, false), "lower classes are nobody to a higher one");
    held.take(&owner(Low, "low", 1), now);
    assert!(!full(&held, &owner(Low, "low", 1), 100, false) && full(&held, &owner(Low, "low", 1), 4, false));
}

#[test]
fn who_has_had_no_place_for_a_while_is_nobody_to_keep_one_for() {
    let (mut held, mut now) = (Held::default(), Instant::now());
    let (a, b) = (team("a"), team("b"));
    (0..15).for_each(|_| held.take(&a, now));
    held.take(&b, now);
    held.leave(&b, now);
    held.take(&b, now + millis(500));
    held.leave(&b, now + millis(900));
    assert!(full(&held, &a, 20, false), "it had one just now");
    now += millis(10_500);
    held.leave(&a, now);
    held.take(&a, now);
    assert!(full(&held, &a, 20, false), "and again a little later");
    now += millis(500);
    held.leave(&a, now);
    held.take(&a, now);
    assert!(!full(&held, &a, 20, false));
    (0..15).for_each(|_| held.leave(&a, now));
    assert_eq!(held.places(), 0);
}

#[test]
fn the_last_places_are_kept_for_those_who_have_less_than_their_part() {
    virtually(async {
        // Of forty four.
        let gate = Gate::new("p/a".into(), Some(40));
        let (calm, flood) = (team("calm"), team("flood"));
        let of = |who: &Owner| gate.enter(&who.flow, || who.clone());
        let mine = of(&calm).unwrap();
        let mut theirs: Vec<Place> = (0..9).filter_map(|_| of(&flood)).collect();
        let others = ["x", "y", "z"].map(|name| of(&team(name)).unwrap());
        theirs.extend(std::iter::from_fn(|| of(&flood)));
        assert_eq!(theirs.len(), 40 - 4 - 1 - others.len(), "four are kept");
        let patience = || Patience { queue: 1_000, until: clock::now() + millis(60_000) };
        let wait = |who: &Owner| {
            let (gate, who) = (gate.clone(), who.clone());
            Box::pin(async move { first(&[&gate], &who, patience()).await.map(|(_, place, _)| place) })
        };
        let mut more: FuturesUnordered<_> = (0..10).map(|_| wait(&flood)).collect();
        assert!(futures_util::poll!(more.next()).is_pending());
        let kept: Vec<Place> = (0..4).filter_map(|_| of(&calm)).collect();
        assert_eq!(kept.len(), 4, "whoever has less goes in past them");
        assert!(of(&calm).is_none() && of(&flood).is_none(), "none is left");
        // Its turn is the first one that comes, whoever came before it.
        let mut late = wait(&calm);
        assert!(futures_util::poll!(&mut late).is_pending());
        theirs.pop();
        let late = late.await.unwrap();
        assert!(futures_util::poll!(more.next()).is_pending());
        drop((kept, late));
        assert!(futures_util::poll!(more.next()).is_ready(), "with more than four free ones it goes on");
        drop((theirs, mine, others));
        let had: Vec<_> = more.collect().await;
        assert_eq!(had.len(), 9);
        drop(had);
        assert_eq!(gate.standing(), Standing { limit: 40, taken: 0, waiting: 0, adaptive: false });
    });
}

#[test]
fn who_is_alone_has_all_places() {
    let gate = Gate::new("p/a".into(), Some(100));
    let places: Vec<Place> = std::iter::from_fn(|| enter(&gate)).collect();
    assert_eq!(places.len(), 100);
    drop(places);
    assert_eq!(gate.standing().taken, 0);
    assert_eq!(std::iter::from_fn(|| enter(&gate)).collect::<Vec<_>>().len(), 100, "and again");
}
