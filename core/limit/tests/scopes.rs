//! Several scopes at once: limits and budgets of all of them or of none, whatever comes in between.

use futures_util::future::join_all;

use super::*;
use crate::config::Limits as Few;

const USD: u64 = 1_000_000_000;

pub(super) fn rule(scope: Scope, limits: Few, budgets: &[Budget]) -> Rule {
    let name = scope.id().clone();
    Rule::of(scope, &name, Some(limits), budgets.into()).unwrap()
}

fn of(usd: u64, per: Per) -> Budget {
    Budget { nano_usd: usd * USD, per, unpriced_nano_usd: USD / 10, soft: None }
}

pub(super) fn bound_by(rules: Vec<Rule>) -> Principal {
    Principal { rules: rules.into_iter().map(Arc::new).collect(), ..Principal::default() }
}

/// Its keeper at work.
async fn kept() -> Limits {
    let budgets = Budgets::new(Arc::new(Memory::default()), None, Duration::from_secs(60));
    budgets.prepare().await;
    tokio::spawn(budgets.clone().run(tokio_util::sync::CancellationToken::new()));
    Limits::new(budgets)
}

fn nano(nano_usd: u64) -> Need {
    Need { nano_usd, ..Need::default() }
}

fn balance(limits: &Limits, scope: &Scope, budget: &Budget) -> Balance {
    let account = limits.budgets().account((scope, scope.id()), budget, SystemTime::now());
    // Nobody asked for it yet.
    account.balance.unwrap_or(Balance { spent: 0, reserved: 0, left: budget.nano_usd })
}

/// Promise 6 over three scopes, of which each has the tightest bound once.
#[tokio::test]
async fn of_500_at_once_the_tightest_of_three_budgets_decides_and_the_others_keep_what_is_theirs() {
    let rounds = if crate::config::env::var("PORTCULLIS_LONG").is_some() { 100 } else { 10 };
    for round in 0..rounds {
        let limits = kept().await;
        let sizes = [[10, 30, 20], [20, 10, 30], [30, 20, 10]][round % 3];
        let scopes = [Scope::Key("k".into()), Scope::User("u".into()), Scope::Organisation("o".into())];
        let budgets: Vec<Budget> = sizes.iter().map(|usd| of(*usd, Per::Month)).collect();
        let rules = scopes.iter().zip(&budgets).map(|(scope, b)| rule(scope.clone(), Few::default(), &[*b]));
        let caller = bound_by(rules.collect());
        let asked = (0..500).map(|_| async {
            let mut permit = limits.enter(&bounds(&limits, &caller)).ok()?;
            permit.reserve(nano(USD), Need::default()).await.ok()?;
            tokio::task::yield_now().await;
            settle(permit, 0, USD);
            Some(())
        });
        assert_eq!(join_all(asked).await.into_iter().flatten().count(), 10, "round {round}");
        for (scope, budget) in scopes.iter().zip(&budgets) {
            let left = balance(&limits, scope, budget);
            assert_eq!((left.spent, left.reserved), (10 * USD, 0), "{scope} in round {round}");
        }
    }
}

#[tokio::test]
async fn what_one_budget_refuses_no_limit_and_no_other_budget_keeps() {
    let limits = kept().await;
    let tokens = Few { tokens_per_minute: Some(1_000), ..Few::default() };
    let (key, team) = (Scope::Key("k".into()), Scope::Team("t".into()));
    let (rich, poor) = (of(100, Per::Day), of(1, Per::Total));
    let caller = bound_by(vec![rule(key.clone(), tokens, &[rich]), rule(team.clone(), Few::default(), &[rich, poor])]);
    let bounds = super::bounds(&limits, &caller);
    let mut permit = limits.enter(&bounds).unwrap();
    let need = Need { input_tokens: 100, output_tokens: 0, nano_usd: USD / 2 };
    permit.reserve(need, Need::default()).await.unwrap();
    let larger = Need { input_tokens: 600, output_tokens: 0, nano_usd: 2 * USD };
    let refused = permit.reserve(larger, Need::default()).await.unwrap_err();
    assert!(refused.message.contains("the budget of team `t` (1 USD)"), "{refused}");
    // What it had before it still has, and no more.
    assert!((900..=902).contains(&bounds.rates().unwrap().tokens.unwrap().left));
    for (scope, budget) in [(&key, &rich), (&team, &rich), (&team, &poor)] {
        assert_eq!(balance(&limits, scope, budget).reserved, USD / 2, "{scope}");
    }
    settle(permit, 50, USD / 4);
    assert!((950..=952).contains(&bounds.rates().unwrap().tokens.unwrap().left));
    for (scope, budget) in [(&key, &rich), (&team, &rich), (&team, &poor)] {
        let left = balance(&limits, scope, budget);
        assert_eq!((left.spent, left.reserved), (USD / 4, 0), "{scope}");
    }
}

#[tokio::test]
async fn tokens_in_and_out_have_limits_of_their_own() {
    let limits = limits();
    let few = Few {
        input_tokens_per_minute: Some(1_000),
        output_tokens_per_minute: Some(200),
        tokens_per_day: Some(5_000),
        ..Few::default()
    };
    let bounds = super::bounds(&limits, &bound_by(vec![rule(Scope::Team("t".into()), few, &[])]));
    let need = |input_tokens, output_tokens| Need { input_tokens, output_tokens, nano_usd: 0 };
    let mut one = limits.enter(&bounds).unwrap();
    one.reserve(need(300, 150), Need::default()).await.unwrap();
    let mut other = limits.enter(&bounds).unwrap();
    let refused = other.reserve(need(300, 100), Need::default()).await.unwrap_err();
    assert!(refused.message.contains("200 output tokens a minute"), "{refused}");
    let rates = bounds.rates().unwrap();
    assert!((700..=720).contains(&rates.input_tokens.unwrap().left), "the input came back: {rates:?}");
    assert_eq!(rates.tokens.unwrap().left, 4_550, "the day's tokens too");
    let never = other.reserve(need(1_001, 0), Need::default()).await.unwrap_err();
    assert!(never.message.contains("may use 1000 a minute (`input_tokens_per_minute`)"), "{never}");
    // A long answer counts as the whole limit, and waits for it.
    drop(other);
    let used = need(310, 20);
    one.end().unwrap().settle(used, |_| used);
    let rates = bounds.rates().unwrap();
    assert!((690..=710).contains(&rates.input_tokens.unwrap().left), "{rates:?}");
    assert!((180..=184).contains(&rates.output_tokens.unwrap().left), "{rates:?}");
    assert_eq!(rates.tokens.unwrap().left, 4_670);
}

#[test]
fn a_day_that_ends_takes_nothing_with_it_and_a_clock_that_goes_back_finds_its_day() {
    let limits = limits();
    let few = Few { requests_per_day: Some(2), ..Few::default() };
    let caller = bound_by(vec![rule(Scope::Team("t".into()), few, &[])]);
    let enter = |at: SystemTime| limits.enter(&limits.bounds(&caller, &Rules::default(), &[], at)).map(drop);
    let midnight = UNIX_EPOCH + Duration::from_secs(20_000 * 86_400);
    let (before, after) = (midnight - Duration::from_secs(2), midnight + Duration::from_secs(1));
    assert!(enter(before).is_ok() && enter(before).is_ok());
    let refused = enter(before).unwrap_err();
    assert!(refused.message.contains("2 requests a day (`requests_per_day`)"), "{refused}");
    assert_eq!(refused.retry_after, Some(Duration::from_secs(2)));
    assert!(enter(after).is_ok());
    // An hour back: that day is as full as it was, and the new one has one left.
    assert!(enter(before).is_err() && enter(after).is_ok() && enter(after).is_err());
}

/// Promises 10 and 36: windows come and go under traffic, with a clock that also jumps back.
#[tokio::test]
async fn each_window_has_its_own_budget_whatever_the_clock_does() {
    let limits = kept().await;
    let (team, budget) = (Scope::Team("t".into()), of(10, Per::Day));
    let caller = bound_by(vec![rule(team.clone(), Few::default(), &[budget])]);
    let midnight = UNIX_EPOCH + Duration::from_secs(20_000 * 86_400);
    let days = [midnight - Duration::from_secs(1), midnight, midnight + Duration::from_secs(86_400)];
    let asked = (0..300).map(|n| {
        // To and fro.
        let now = days[[0, 1, 0, 2, 1, 2][n % 6]];
        let (limits, caller) = (&limits, &caller);
        async move {
            let mut permit = limits.enter(&limits.bounds(caller, &Rules::default(), &[], now)).ok()?;
            permit.reserve(nano(USD), Need::default()).await.ok()?;
            // It may end in the next window: it is paid by the one that it began in.
            tokio::task::yield_now().await;
            settle(permit, 0, USD);
            Some(())
        }
    });
    assert_eq!(join_all(asked).await.into_iter().flatten().count(), 30);
    for now in days {
        let left = limits.budgets().account((&team, team.id()), &budget, now).balance.unwrap();
        assert_eq!((left.spent, left.reserved), (10 * USD, 0));
    }
}

#[tokio::test]
async fn a_shadow_limit_refuses_nobody_and_tells() {
    let limits = limits();
    let few = Few { requests_per_minute: Some(1), concurrent: Some(1), shadow: true, ..Few::default() };
    let hard = Few { requests_per_minute: Some(5), ..Few::default() };
    let rules = vec![rule(Scope::Key("k".into()), few, &[]), rule(Scope::Team("t".into()), hard, &[])];
    let bounds = super::bounds(&limits, &bound_by(rules));
    let mut held = Vec::new();
    for n in 0..5 {
        let mut permit = limits.enter(&bounds).unwrap();
        let told = permit.told();
        assert_eq!(told.len(), usize::from(n > 0), "{told:?}");
        assert!(told.iter().all(|text| text.starts_with("shadow: key `k` has")), "{told:?}");
        held.push(permit);
    }
    assert!(limits.enter(&bounds).is_err(), "the other one is hard");
    assert_eq!(bounds.rates().unwrap().requests.unwrap().limit, 5, "headers tell what binds");
    assert_eq!(bounds.scopes()[0].in_flight(), 5);
    drop(held);
    assert_eq!(bounds.scopes()[0].in_flight(), 0);
}

#[tokio::test]
async fn a_provider_counts_its_own_attempts_and_has_a_place_only_while_one_is_there() {
    let limits = kept().await;
    let place = Few { concurrent: Some(1), ..Few::default() };
    let budget = of(10, Per::Day);
    let (a, b) = (Scope::Provider("a".into()), Scope::Provider("b".into()));
    let (rule_a, rule_b) = (rule(a.clone(), place, &[budget]), rule(b.clone(), place, &[budget]));
    let now = SystemTime::now();
    let mut bounds = Bounds::default();
    let mut permit = limits.enter(&bounds).unwrap();
    limits.visit(&mut bounds, &mut permit, Some(&rule_a), now).unwrap();
    permit.reserve(nano(3 * USD), Need::default()).await.unwrap();
    let mut other_bounds = Bounds::default();
    let mut other = limits.enter(&other_bounds).unwrap();
    let refused = limits.visit(&mut other_bounds, &mut other, Some(&rule_a), now).unwrap_err();
    assert!(refused.retryable() && refused.code() == "rate_limited" && refused.status() == 429, "{refused}");
    // The first one goes on: its place at `a` is free, and `b` pays for its own part alone.
    limits.visit(&mut bounds, &mut permit, Some(&rule_b), now).unwrap();
    permit.reserve(nano(4 * USD), nano(3 * USD)).await.unwrap();
    assert_eq!((balance(&limits, &a, &budget).reserved, balance(&limits, &b, &budget).reserved), (3 * USD, USD));
    limits.visit(&mut other_bounds, &mut other, Some(&rule_a), now).unwrap();
    assert_eq!(permit.left(nano(3 * USD)), Some(13 * USD), "what is left at b, and what counts elsewhere");
    permit.end().unwrap().settle(nano(4 * USD), |name| nano(if name == "a" { 3 * USD } else { USD / 2 }));
    assert_eq!((balance(&limits, &a, &budget).spent, balance(&limits, &b, &budget).spent), (3 * USD, USD / 2));
    drop(other);
    let mut last = limits.enter(&Bounds::default()).unwrap();
    limits.visit(&mut Bounds::default(), &mut last, Some(&rule_b), now).unwrap();
}

/// Whatever is held, raised, settled, dropped or let go, in whatever order: every scope's counter is the sum of what was spent
/// and of what is held, and stays under its bound.
#[tokio::test]
async fn no_interleaving_leaks_or_counts_twice_over_several_scopes() {
    let rounds = if crate::config::env::var("PORTCULLIS_LONG").is_some() { 200 } else { 20 };
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let limits = kept().await;
        let scopes = [Scope::Key("k".into()), Scope::Team("t".into()), Scope::Organisation("o".into())];
        let budgets: Vec<Budget> = scopes.iter().map(|_| of(random.u64(20..60), Per::Month)).collect();
        let rules = scopes.iter().zip(&budgets).map(|(scope, b)| rule(scope.clone(), Few::default(), &[*b]));
        let rules: Vec<Rule> = rules.collect();
        // Each caller lies in some of them.
        let callers: Vec<(usize, Principal)> = (1..8)
            .map(|mask| {
                (
                    mask,
                    bound_by(
                        rules
                            .iter()
                            .enumerate()
                            .filter(|(at, _)| mask >> at & 1 == 1)
                            .map(|(_, r)| r.clone())
                            .collect(),
                    ),
                )
            })
            .collect();
        let mut live: Vec<(usize, u64, Permit)> = Vec::new();
        let mut spent = [0u64; 3];
        for _ in 0..300 {
            match random.u8(0..10) {
                0..4 => {
                    let (mask, caller) = &callers[random.usize(..callers.len())];
                    let amount = random.u64(0..4 * USD);
                    let mut permit = limits.enter(&bounds(&limits, caller)).unwrap();
                    if permit.reserve(nano(amount), Need::default()).await.is_ok() {
                        live.push((*mask, amount, permit));
                    }
                }
                4..6 if !live.is_empty() => {
                    let at = random.usize(..live.len());
                    let (_, amount, permit) = &mut live[at];
                    let larger = *amount + random.u64(0..3 * USD);
                    if permit.reserve(nano(larger), Need::default()).await.is_ok() {
                        *amount = larger;
                    }
                }
                6..9 if !live.is_empty() => {
                    let (mask, amount, permit) = live.swap_remove(random.usize(..live.len()));
                    let used = random.u64(0..=amount);
                    settle(permit, 0, used);
                    (0..3).filter(|at| mask >> at & 1 == 1).for_each(|at| spent[at] += used);
                }
                _ => tokio::task::yield_now().await,
            }
            for (at, (scope, budget)) in scopes.iter().zip(&budgets).enumerate() {
                let held: u64 = live.iter().filter(|(mask, ..)| mask >> at & 1 == 1).map(|(_, amount, _)| amount).sum();
                let now = balance(&limits, scope, budget);
                assert_eq!((now.spent, now.reserved), (spent[at], held), "{scope}, seed {seed}");
                assert!(now.spent + now.reserved <= budget.nano_usd, "{scope}, seed {seed}");
            }
        }
    }
}

#[tokio::test]
async fn a_raise_holds_until_its_time_and_a_second_one_adds_up() {
    let limits = kept().await;
    let (team, budget) = (Scope::Team("t".into()), of(1, Per::Day));
    let caller = bound_by(vec![rule(team.clone(), Few::default(), &[budget])]);
    let budgets = limits.budgets();
    let ask = async |usd: u64| {
        let mut permit = limits.enter(&bounds(&limits, &caller)).unwrap();
        permit.reserve(nano(usd * USD), Need::default()).await.map(|_| settle(permit, 0, usd * USD))
    };
    ask(1).await.unwrap();
    assert!(ask(1).await.is_err());
    let now = SystemTime::now();
    let new = |usd: u64, until: SystemTime| raise::NewRaise {
        scope: team.clone(),
        per: None,
        nano_usd: usd * USD,
        until,
        reason: "a deadline".to_owned(),
    };
    let first = budgets.raises().add(&**budgets.store(), new(2, now + Duration::from_secs(60)), now).await.unwrap();
    budgets.raise();
    ask(2).await.unwrap();
    assert!(ask(1).await.err().unwrap().message.contains("(3 USD)"));
    budgets.raises().add(&**budgets.store(), new(1, now + Duration::from_secs(60)), now).await.unwrap();
    budgets.raise();
    ask(1).await.unwrap();
    // Another process finds both.
    let raises = raise::Raises::default();
    raises.load(&**budgets.store()).await.unwrap();
    assert_eq!((raises.list(now).len(), raises.of(&team, Per::Day, now)), (2, 3 * USD));
    assert_eq!(raises.of(&team, Per::Day, now + Duration::from_secs(61)), 0, "their time is over");
    budgets.raises().end(&**budgets.store(), &first.id).await.unwrap();
    budgets.raise();
    assert_eq!(limits.budgets().account((&team, team.id()), &budget, now).most, 2 * USD);
    assert!(budgets.raises().end(&**budgets.store(), &first.id).await.is_err());
    for (bad, field) in [
        (new(0, now + Duration::from_secs(9)), "usd"),
        (new(10_000_000, now + Duration::from_secs(9)), "usd"),
        (new(1, now), "until"),
        (new(1, now + Duration::from_secs(999 * 86_400)), "until"),
        (raise::NewRaise { reason: " ".to_owned(), ..new(1, now + Duration::from_secs(9)) }, "reason"),
    ] {
        let refused = budgets.raises().add(&**budgets.store(), bad, now).await.unwrap_err();
        assert_eq!(refused.param.as_deref(), Some(field), "{refused}");
    }
}

#[tokio::test]
async fn a_threshold_is_told_once_a_window_also_after_a_restart() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let budget = Budget { soft: Some(800_000), ..of(10, Per::Total) };
    let caller = bound_by(vec![rule(Scope::Team("t".into()), Few::default(), &[budget])]);
    let start = async || {
        let budgets = Budgets::new(store.clone(), None, Duration::from_secs(60));
        budgets.prepare().await;
        let stop = tokio_util::sync::CancellationToken::new();
        let running = tokio::spawn(budgets.clone().run(stop.clone()));
        (budgets.alarm().hear().unwrap(), Limits::new(budgets), stop, running)
    };
    let ask = async |limits: &Limits, usd: u64| {
        let mut permit = limits.enter(&bounds(limits, &caller)).unwrap();
        let reserved = permit.reserve(nano(usd * USD), Need::default()).await;
        let told = permit.told();
        reserved.map(|_| settle(permit, 0, usd * USD)).map(|()| told)
    };
    let (mut heard, limits, stop, running) = start().await;
    ask(&limits, 7).await.unwrap();
    assert!(heard.try_recv().is_err());
    assert_eq!(ask(&limits, 1).await.unwrap(), [] as [String; 0]);
    let alert = heard.try_recv().unwrap();
    assert_eq!((alert.mark, alert.spent, alert.bound), (alert::Mark::SOFT, 8 * USD, 10 * USD));
    alert.noted();
    let told = ask(&limits, 1).await.unwrap();
    assert_eq!(told, ["team `t` has spent more than 80 % of the budget (10 USD)"]);
    assert!(ask(&limits, 5).await.is_err() && ask(&limits, 5).await.is_err());
    assert_eq!(heard.try_recv().unwrap().mark, alert::Mark::EXHAUSTED);
    assert!(heard.try_recv().is_err(), "once");
    // Of this one nobody has said that he has it.
    stop.cancel();
    running.await.unwrap();
    limits.budgets().close().await;
    let (mut heard, limits, ..) = start().await;
    ask(&limits, 1).await.unwrap();
    assert!(ask(&limits, 1).await.is_err());
    assert_eq!(heard.try_recv().unwrap().mark, alert::Mark::EXHAUSTED, "nobody had it before the restart");
    assert!(heard.try_recv().is_err(), "the other one was told before the restart");
}

/// What nobody asks for leaves the memory and is counted on from where it was; what is held, at hand or named in the files stays.
#[tokio::test]
async fn idle_budgets_leave_the_memory_and_nothing_of_what_they_spent() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let budgets = Budgets::new(store.clone(), None, Duration::from_secs(60));
    let of_file = rule(Scope::Team("t".into()), Few::default(), &[of(500, Per::Month)]);
    budgets.configure([of_file.clone()].into_iter());
    budgets.prepare().await;
    let keeper = tokio::spawn(budgets.clone().run(tokio_util::sync::CancellationToken::new()));
    let limits = Limits::new(budgets.clone());
    let callers: Vec<Principal> = (0..20)
        .map(|n| {
            let key =
                rule(Scope::Key(format!("key_{n}").into()), Few::default(), &[of(10, Per::Month), of(20, Per::Total)]);
            bound_by(vec![key, of_file.clone()])
        })
        .collect();
    let spend = async |caller: &Principal, usd: u64| {
        let mut permit = limits.enter(&bounds(&limits, caller)).unwrap();
        permit.reserve(nano(usd * USD), Need::default()).await.map(|_| settle(permit, 0, usd * USD))
    };
    for caller in &callers {
        spend(caller, 2).await.unwrap();
    }
    let all = budgets.in_memory();
    budgets.let_go(Duration::from_secs(60)).await;
    assert_eq!(budgets.in_memory(), all, "they were asked for a moment ago");
    // One is under way, and one is at hand of a request that has reserved nothing yet.
    let mut held = limits.enter(&bounds(&limits, &callers[0])).unwrap();
    held.reserve(nano(USD), Need::default()).await.unwrap();
    let at_hand = bounds(&limits, &callers[1]);
    budgets.let_go(Duration::ZERO).await;
    assert_eq!(budgets.in_memory(), all - 2 * 18, "two of each key but two; the team's stays");
    let mut late = limits.enter(&at_hand).unwrap();
    late.reserve(nano(USD), Need::default()).await.unwrap();
    settle(held, 0, USD);
    settle(late, 0, USD);
    for (n, caller) in callers.iter().enumerate() {
        // Of ten dollars two are spent, and three by two of them.
        let left = if n < 2 { 7 } else { 8 };
        assert!(spend(caller, left + 1).await.is_err(), "{n}: more than is left");
        if n < 3 {
            spend(caller, left).await.unwrap();
        }
    }
    keeper.abort();
    // So it is for the next process.
    budgets.let_go(Duration::ZERO).await;
    budgets.close().await;
    let next = Budgets::new(store, None, Duration::from_secs(60));
    tokio::spawn(next.clone().run(tokio_util::sync::CancellationToken::new()));
    let limits = Limits::new(next);
    let mut permit = limits.enter(&bounds(&limits, &callers[2])).unwrap();
    assert!(permit.reserve(nano(1), Need::default()).await.is_err(), "all ten are spent");
    let mut permit = limits.enter(&bounds(&limits, &callers[3])).unwrap();
    permit.reserve(nano(8 * USD), Need::default()).await.unwrap();
}
