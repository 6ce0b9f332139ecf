//! The ratio by which prompts are estimated: it follows what upstreams count, and no caller leads it away.

use crate::account::estimate::Estimates;

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
