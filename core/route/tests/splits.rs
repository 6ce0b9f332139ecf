//! Who is given to which arm: by shares, for good, and moved only as far as a change must.

use std::collections::BTreeMap;

use super::*;
use crate::{
    config::{Arm, Mirror, Split, SplitBy},
    context::{Context, Sticks},
    model::{Format, Operation},
};

fn split(by: SplitBy, arms: &[(&str, &str, u32)]) -> Split {
    let arm = |(name, to, weight): &(&str, &str, u32)| Arm { name: (*name).into(), to: (*to).into(), weight: *weight };
    Split { by, arms: arms.iter().map(arm).collect() }
}

fn tried(by: SplitBy, arms: &[(&str, &str, u32)], targets: &[(&str, u32)], failover: &[&str]) -> Table {
    let mut tried = alias(Strategy::First, targets, failover);
    tried.split = Some(split(by, arms));
    let own = alias(Strategy::First, &[("openai/gpt-4o", 1), ("anthropic/claude-haiku-4-5", 1)], &["smart"]);
    let providers = vec![keyed("openai"), keyed("anthropic"), keyless("groq")];
    Table::build(&config(providers, vec![("smart", tried), ("two", own)])).unwrap()
}

fn asked(seed: u64, key: &str, session: Option<&str>) -> Context {
    let principal = Principal { key_id: key.into(), ..Principal::default() };
    let until = Instant::now() + Duration::from_secs(60);
    let mut cx = Context::aside(Operation::Chat, Format::OpenaiChat, principal.into(), Vec::new(), until);
    cx.seed = seed;
    let session = session.map(|session| crate::route::sticky::stick(cx.principal.tenant(), session));
    cx.sticks = Some(Box::new(Sticks { session, user: None }));
    cx
}

/// The arm, and the order of trial.
fn drawn(table: &Table, cx: &mut Context) -> (String, Vec<String>) {
    let mut plan = table.resolve("smart").unwrap();
    let drawn = table.draw(&mut plan, cx).unwrap().unwrap();
    (drawn.arm.to_string(), names(&plan))
}

const ARMS: [(&str, &str, u32); 2] = [("old", "openai/gpt-4.1", 9), ("new", "anthropic/claude-opus-4-8", 1)];

#[test]
fn arms_have_their_shares_of_requests() {
    let table = tried(SplitBy::Request, &ARMS, &[], &[]);
    let new = (0..10_000).filter(|seed| drawn(&table, &mut asked(*seed, "key_a", None)).0 == "new").count();
    assert!((850..1150).contains(&new), "{new} of 10000, and a tenth was asked for");
    let again = drawn(&table, &mut asked(7, "key_a", None));
    assert_eq!(again, drawn(&table, &mut asked(7, "key_b", None)), "the seed alone decides");
}

#[test]
fn a_session_keeps_to_its_arm_and_sessions_of_two_tenants_have_nothing_in_common() {
    let table = tried(SplitBy::Session, &ARMS, &[], &[]);
    let arm = |seed, key: &str, session: &str| drawn(&table, &mut asked(seed, key, Some(session))).0;
    let mut differ = 0;
    for n in 0..500 {
        let session = format!("session {n}");
        let first = arm(n, "key_a", &session);
        assert!((0..20).all(|seed| arm(seed * 977, "key_a", &session) == first), "{session}");
        differ += usize::from(arm(n, "key_b", &session) != first);
    }
    assert!((30..170).contains(&differ), "{differ}: drawn anew for another tenant, at 18 in a hundred");
    let without: Vec<String> = (0..200).map(|seed| drawn(&table, &mut asked(seed, "key_a", None)).0).collect();
    assert!(without.contains(&"old".to_owned()) && without.contains(&"new".to_owned()), "each for itself");
}

#[test]
fn another_weight_moves_only_those_whom_it_must() {
    let arms = |new: u32| [("old", "openai/gpt-4.1", 100 - new), ("new", "anthropic/claude-opus-4-8", new)];
    let (ten, twenty) = (tried(SplitBy::Key, &arms(10), &[], &[]), tried(SplitBy::Key, &arms(20), &[], &[]));
    let mut moves: BTreeMap<(String, String), usize> = BTreeMap::new();
    for n in 0..5_000 {
        let mut cx = asked(n, &format!("key_{n}"), None);
        *moves.entry((drawn(&ten, &mut cx).0, drawn(&twenty, &mut cx).0)).or_default() += 1;
    }
    assert_eq!(moves.get(&("new".into(), "old".into())), None, "{moves:?}");
    let gone = moves[&("old".into(), "new".into())];
    assert!((380..620).contains(&gone), "{gone} of 5000, and a tenth was asked for");
}

#[test]
fn behind_an_arm_stand_the_aliass_own_targets_and_the_other_arms_only_where_nothing_else_does() {
    let arms = [("a", "openai/gpt-4.1", 1), ("b", "two", 0), ("c", "groq/llama", 0)];
    let bare = tried(SplitBy::Request, &arms, &[], &[]);
    assert_eq!(drawn(&bare, &mut asked(1, "k", None)).1, ["openai/gpt-4.1"], "a weight of 0 is never drawn");
    let arms = [("a", "openai/gpt-4.1", 1), ("b", "two", 1)];
    for (targets, failover, behind) in [
        (vec![("anthropic/claude-sonnet-4-5", 1)], vec![], vec!["anthropic/claude-sonnet-4-5"]),
        (vec![], vec!["openai/gpt-4o-mini"], vec!["openai/gpt-4o-mini"]),
    ] {
        let table = tried(SplitBy::Request, &arms, &targets, &failover);
        for seed in 0..50 {
            let (arm, order) = drawn(&table, &mut asked(seed, "k", None));
            let first =
                if arm == "a" { vec!["openai/gpt-4.1"] } else { vec!["openai/gpt-4o", "anthropic/claude-haiku-4-5"] };
            assert_eq!(order, [first, behind.clone()].concat(), "an alias lends its targets, not its failover");
        }
    }
    let bare = tried(SplitBy::Request, &arms, &[], &[]);
    for seed in 0..50 {
        let (arm, order) = drawn(&bare, &mut asked(seed, "k", None));
        assert_eq!(order.len(), 3, "{arm}: {order:?}");
    }
}

#[test]
fn an_arm_that_cannot_be_used_gives_way_and_a_split_behind_another_name_is_no_part_of_the_experiment() {
    let arms = [("dark", "groq/llama", 1), ("well", "openai/gpt-4.1", 1)];
    let table = tried(SplitBy::Request, &arms, &[], &[]);
    for seed in 0..50 {
        assert_eq!(drawn(&table, &mut asked(seed, "k", None)).1, ["openai/gpt-4.1"]);
    }
    let dark = tried(SplitBy::Request, &[("dark", "groq/llama", 1), ("too", "groq/other", 1)], &[], &[]);
    let mut plan = dark.resolve("smart").unwrap();
    let error = dark.draw(&mut plan, &mut asked(1, "k", None)).unwrap_err();
    assert_eq!((error.status(), error.message.contains("GROQ_KEY")), (503, true), "{error}");
    let mut plan = table.resolve("two").unwrap();
    assert!(table.draw(&mut plan, &mut asked(1, "k", None)).unwrap().is_none());
    assert_eq!(names(&plan), ["openai/gpt-4o", "anthropic/claude-haiku-4-5", "openai/gpt-4.1"]);
}

#[test]
fn a_stages_list_draws_for_each_split_in_its_place() {
    let table = tried(SplitBy::Request, &ARMS, &[], &[]);
    let mut plan = table.resolve_list(&["mock/one", "smart", "mock/two"], &Principal::default()).unwrap();
    let mut cx = asked(3, "k", None);
    assert!(table.draw(&mut plan, &mut cx).unwrap().is_none(), "its first name tries nothing");
    let order = names(&plan);
    assert_eq!((order[0].as_str(), order[3].as_str(), order.len()), ("mock/one", "mock/two", 4), "{order:?}");
}

#[test]
fn lists_of_models_know_what_stands_behind_arms() {
    let table = tried(SplitBy::Request, &ARMS, &[], &[]);
    assert_eq!(table.model("smart", &Principal::default()).unwrap().id, "smart");
    let listed: Vec<String> = table.models(&Principal::default()).into_iter().map(|card| card.id).collect();
    for name in ["smart", "openai/gpt-4.1", "anthropic/claude-opus-4-8"] {
        assert!(listed.iter().any(|id| id == name), "{name}: {listed:?}");
    }
}

#[test]
fn a_mirror_takes_its_share_whatever_arm_is_drawn() {
    let mut both = alias(Strategy::First, &[("openai/gpt-4.1", 1)], &[]);
    both.split = Some(split(SplitBy::Request, &[("a", "mock/a", 1), ("b", "mock/b", 1)]));
    let timeout = Duration::from_secs(600);
    both.mirror = Some(Mirror { to: "mock/copy".into(), share: 0.2, concurrent: 8, timeout, charge: false });
    let table = Table::build(&config(vec![keyed("openai")], vec![("smart", both)])).unwrap();
    let mut counts: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for seed in 0..4_000 {
        let mut plan = table.resolve("smart").unwrap();
        let drawn = table.draw(&mut plan, &mut asked(seed, "k", None)).unwrap().unwrap();
        *counts.entry((drawn.arm.to_string(), drawn.experiment.mirrors(seed).is_some())).or_default() += 1;
    }
    for arm in ["a", "b"] {
        let copied = counts[&(arm.to_owned(), true)];
        assert!((300..500).contains(&copied), "{counts:?}");
    }
}
