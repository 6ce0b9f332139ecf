//! The ratio by which prompts are estimated: it follows what upstreams count, and no caller leads it away.

use super::*;
use crate::{
    account::{
        estimate::{Estimates, Seat, Size},
        learned,
    },
    store::{Memory, Op, Store, Table},
};

/// Tokens of 4,000 bytes, as they are estimated now.
fn of(estimates: &Estimates) -> u64 {
    estimates.tokens("p/m", 4_000)
}

#[test]
fn it_follows_what_a_model_counts() {
    let estimates = Estimates::default();
    assert_eq!(of(&estimates), 1_000, "four bytes a token, before anybody counted");
    for _ in 0..100 {
        estimates.learn("p/m", 1_000, 500);
    }
    assert!((1_990..=2_010).contains(&of(&estimates)), "{}", of(&estimates));
    assert_eq!(estimates.tokens("p/other", 4_000), 1_000);
    for _ in 0..1_000 {
        estimates.learn("p/m", 5_000, 1_000);
    }
    assert!((800..=810).contains(&of(&estimates)), "{}", of(&estimates));
}

#[test]
fn a_caller_whose_prompts_are_all_blanks_moves_it_little_and_others_bring_it_back() {
    let estimates = Estimates::default();
    for _ in 0..20 {
        estimates.learn("p/m", 100_000, 100);
    }
    assert!(of(&estimates) > 920, "twenty of them: {}", of(&estimates));
    for _ in 0..100_000 {
        estimates.learn("p/m", 100_000, 100);
    }
    assert!(of(&estimates) >= 666, "never more than six bytes a token: {}", of(&estimates));
    for _ in 0..30 {
        estimates.learn("p/m", 4_000, 1_000);
    }
    assert!(of(&estimates) > 970, "{}", of(&estimates));
    // Short prompts and nonsense teach nothing.
    let before = of(&estimates);
    estimates.learn("p/m", 10, 1_000);
    estimates.learn("p/m", 10_000, 0);
    assert_eq!(of(&estimates), before);
}

#[tokio::test]
async fn what_was_learned_is_known_to_the_next_process() {
    let (estimates, store) = (Estimates::default(), Memory::default());
    for n in 0..3_000 {
        estimates.learn(&format!("p/{n}-{}", "x".repeat(90)), 1_000, 400);
    }
    for _ in 0..100 {
        estimates.learn("p/m", 1_000, 500);
    }
    learned::keep(&estimates.learned(), &store).await.unwrap();
    let next = Estimates::default();
    learned::restore(&next, &store).await;
    assert_eq!(of(&next), of(&estimates));
    assert!(of(&next) > 1_900, "{}", of(&next));
    assert!((100..=1_024).contains(&next.learned().len()), "as many as a row holds: {}", next.learned().len());
    // Nonsense in the row is no ratio.
    for row in ["{", r#"{"p/m":1e9}"#, r#"{"p/m":0}"#] {
        store.write(vec![Op::put(Table::Meta, "estimates/ratios", row)]).await.unwrap();
        let next = Estimates::default();
        learned::restore(&next, &store).await;
        assert!((666..=8_000).contains(&of(&next)), "{row}: {}", of(&next));
    }
}

#[test]
fn a_target_that_remembers_its_place_reads_what_its_name_finds() {
    let all = [Estimates::default(), Estimates::default()];
    let targets: Vec<(String, Seat)> = (0..300).map(|n| (format!("p/m{n}"), Seat::default())).collect();
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..20_000 {
        // One of several lives at a time, in no order: a place in one is none in another.
        let (estimates, (name, seat)) = (&all[rng.usize(..2)], &targets[rng.usize(..targets.len())]);
        let size = Size { text_bytes: rng.u64(0..100_000), media_bytes: rng.u64(0..2), ..Size::default() };
        assert_eq!(size.tokens_at((name, seat), estimates), size.tokens(name, estimates));
        estimates.learn(name, 1_000, rng.u64(100..900));
    }
    let long = Size { text_bytes: u64::MAX, ..Size::default() };
    assert!(long.tokens(&targets[0].0, &all[0]) > 1 << 60);
}

#[test]
fn what_is_compared_at_hand_is_what_the_prices_say() {
    let prices = |input, output| Prices { input, output, ..Prices::default() };
    let tier = |above| PriceTier { above, prices: Prices { input: Some(9_000_000), ..Prices::default() } };
    let plain = prices(Some(2_000_000), Some(3_000_000));
    let knows = |rates: &Rates| {
        let told = [1, 999, 1_000, 1_001, 5_000_000].map(|input| {
            let [some, none] = [rates.flat().about(input, 120.5), rates.flat().about(input, 0.0)];
            assert!(some.is_none() || some == rates.about(input, 120.5), "{some:?} of {input}");
            assert!(none.is_none() || none == rates.about(input, 0.0), "{none:?} of {input}");
            some.is_some()
        });
        told.iter().filter(|told| **told).count()
    };
    assert_eq!(knows(&rates(plain, &[])), 5);
    assert_eq!(knows(&rates(Prices { request: Some(7_000), ..plain }, &[])), 5);
    assert_eq!(knows(&rates(plain, &[tier(1_000), tier(2_000)])), 3, "dearer from there on");
    assert_eq!(knows(&rates(prices(Some(1), None), &[])), 0, "nobody knows");
    assert_eq!(knows(&rates(prices(None, Some(1)), &[])), 0);
}
