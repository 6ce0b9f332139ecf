//! The seam to counters that several gateways share: one call an attempt, all or nothing, and what an outage means.

use std::sync::atomic::Ordering;

use super::{
    scopes::{bound_by, rule},
    *,
};
use crate::{
    config::Limits as Few,
    limit::shared::{self, Counted, Desk, plain::Plain},
    store::counters::Counter,
};

const USD: u64 = 1_000_000_000;

struct House {
    engine: Arc<Plain>,
    limits: Limits,
    desk: Arc<Desk>,
}

fn house() -> House {
    let engine = Arc::new(Plain::default());
    let desk = Desk::new(engine.clone(), Duration::from_secs(60)).unwrap();
    let budgets = Budgets::new(Arc::new(Memory::default()), None, Duration::from_secs(60));
    House { engine, limits: Limits::shared(budgets, desk.clone()), desk }
}

fn counter(scope: Scope, counted: Counted) -> Counter {
    let now = SystemTime::now();
    let window = matches!(counted, Counted::Money(_)).then(|| Window::of(Per::Total, now));
    shared::counter(&scope, counted, window.as_ref(), now)
}

fn both() -> Principal {
    let few =
        Few { requests_per_minute: Some(100), tokens_per_minute: Some(1_000), concurrent: Some(2), ..Few::default() };
    let budget = |usd: u64| Budget { nano_usd: usd * USD, per: Per::Total, unpriced_nano_usd: 0, soft: None };
    let rule = |scope: Scope, usd| {
        let name = scope.id().clone();
        Rule::of(scope, &name, Some(few), [budget(usd)].into()).unwrap()
    };
    Principal {
        rules: [rule(Scope::Key("k".into()), 10), rule(Scope::Team("t".into()), 5)].map(Arc::new).into(),
        ..Principal::default()
    }
}

const NEED: Need = Need { input_tokens: 100, output_tokens: 100, nano_usd: 2 * USD };

#[tokio::test]
async fn one_call_before_an_attempt_takes_all_that_it_needs_of_all_scopes() {
    let House { engine, limits, .. } = house();
    let bounds = super::bounds(&limits, &both());
    let mut permit = limits.enter(&bounds).unwrap();
    assert_eq!(engine.calls.load(Ordering::Relaxed), 0, "nothing is asked before the attempt");
    permit.reserve(NEED, Need::default()).await.unwrap();
    // A second attempt needs no more than the first.
    permit.reserve(NEED, Need::default()).await.unwrap();
    assert_eq!(engine.calls.load(Ordering::Relaxed), 1);
    let rates = permit.rates().unwrap();
    assert_eq!((rates.requests.unwrap().left, rates.tokens.unwrap().left), (99, 800));
    let money = counter(Scope::Team("t".into()), Counted::Money(Per::Total));
    assert_eq!(engine.look(&money, 5 * USD), (0, 2 * USD));
    let used = Need { input_tokens: 90, output_tokens: 10, nano_usd: USD };
    permit.end().unwrap().settle(used, |_| used);
    assert_eq!(engine.look(&money, 5 * USD), (USD, 0));
    assert_eq!(engine.look(&counter(Scope::Key("k".into()), Counted::Tokens), 1_000).0, 900);
    assert_eq!(engine.look(&counter(Scope::Key("k".into()), Counted::Places), 2).0, 0, "its place is free");
}

#[tokio::test]
async fn what_is_refused_took_nothing_and_is_not_asked_again_at_once() {
    let House { engine, limits, .. } = house();
    let bounds = super::bounds(&limits, &both());
    let mut rich = limits.enter(&bounds).unwrap();
    let refused = rich.reserve(Need { nano_usd: 6 * USD, ..NEED }, Need::default()).await.unwrap_err();
    assert!(refused.message.contains("team `t`") && refused.kind == Kind::BudgetExceeded, "{refused}");
    for (counted, bound, left) in
        [(Counted::Tokens, 1_000, 1_000), (Counted::Requests, 100, 100), (Counted::Places, 2, 0)]
    {
        assert_eq!(engine.look(&counter(Scope::Key("k".into()), counted), bound).0, left, "{counted:?}");
    }
    assert_eq!(engine.look(&counter(Scope::Key("k".into()), Counted::Money(Per::Total)), 10 * USD), (0, 0));
    let mut all = limits.enter(&bounds).unwrap();
    all.reserve(Need { input_tokens: 1_000, output_tokens: 0, nano_usd: 0 }, Need::default()).await.unwrap();
    let mut late = limits.enter(&bounds).unwrap();
    let refused = late.reserve(NEED, Need::default()).await.unwrap_err();
    assert!(refused.message.contains("1000 tokens a minute") && refused.retry_after.is_some(), "{refused}");
    let calls = engine.calls.load(Ordering::Relaxed);
    assert!(limits.enter(&bounds).is_err(), "it is known for a moment");
    assert_eq!(engine.calls.load(Ordering::Relaxed), calls);
}

#[tokio::test]
async fn places_and_money_that_nobody_settles_come_back_when_their_lease_ends() {
    let House { engine, limits, desk } = house();
    let bounds = super::bounds(&limits, &both());
    let mut living = limits.enter(&bounds).unwrap();
    living.reserve(NEED, Need::default()).await.unwrap();
    let mut lost = limits.enter(&bounds).unwrap();
    lost.reserve(NEED, Need::default()).await.unwrap();
    // As if its gateway had been killed: nobody renews, nobody settles.
    drop(lost.end());
    let (places, money) =
        (counter(Scope::Key("k".into()), Counted::Places), counter(Scope::Key("k".into()), Counted::Money(Per::Total)));
    engine.now.store(40_000, Ordering::Relaxed);
    desk.renew();
    assert_eq!((engine.look(&places, 2).0, engine.look(&money, 10 * USD)), (2, (0, 4 * USD)));
    engine.now.store(70_000, Ordering::Relaxed);
    assert_eq!((engine.look(&places, 2).0, engine.look(&money, 10 * USD)), (1, (0, 2 * USD)));
    settle(living, 200, USD);
    assert_eq!((engine.look(&places, 2).0, engine.look(&money, 10 * USD)), (0, (USD, 0)));
}

#[tokio::test]
async fn a_days_tokens_that_nobody_settles_come_back_and_what_was_used_stays() {
    let House { engine, limits, desk } = house();
    let few = Few { tokens_per_day: Some(1_000), ..Few::default() };
    let caller = bound_by(vec![rule(Scope::User("u".into()), few, &[])]);
    let bounds = super::bounds(&limits, &caller);
    let need = |tokens: u64| Need { input_tokens: tokens, ..Need::default() };
    let mut lost = limits.enter(&bounds).unwrap();
    lost.reserve(need(600), Need::default()).await.unwrap();
    drop(lost.end());
    let mut next = limits.enter(&bounds).unwrap();
    let refused = next.reserve(need(500), Need::default()).await.unwrap_err();
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)), "what others hold may come back: {refused}");
    engine.now.store(70_000, Ordering::Relaxed);
    desk.renew();
    next.reserve(need(500), Need::default()).await.unwrap();
    settle(next, 400, 0);
    let mut last = limits.enter(&bounds).unwrap();
    last.reserve(need(600), Need::default()).await.unwrap();
    settle(last, 600, 0);
    let refused = limits.enter(&bounds).unwrap().reserve(need(1), Need::default()).await.unwrap_err();
    assert!(refused.message.contains("1000 tokens a day"), "{refused}");
    let wait = refused.retry_after.unwrap();
    assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(86_400), "until the day ends: {wait:?}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_lets_nothing_through() {
    let House { engine, limits, .. } = house();
    let bounds = super::bounds(&limits, &both());
    engine.down.store(true, Ordering::Relaxed);
    let mut permit = limits.enter(&bounds).unwrap();
    let refused = permit.reserve(NEED, Need::default()).await.unwrap_err();
    assert_eq!((refused.status(), refused.retry_after), (503, Some(Duration::from_secs(1))), "{refused}");
    // Nobody without a limit is concerned.
    assert!(limits.enter(&Bounds::default()).unwrap().reserve(NEED, Need::default()).await.is_ok());
}

#[tokio::test]
async fn of_500_at_once_over_three_gateways_ten_are_admitted() {
    let engine = Arc::new(Plain::default());
    let nodes: Vec<Limits> = (0..3)
        .map(|_| {
            let desk = Desk::new(engine.clone(), Duration::from_secs(60)).unwrap();
            Limits::shared(Budgets::new(Arc::new(Memory::default()), None, Duration::from_secs(60)), desk)
        })
        .collect();
    let budget = Budget { nano_usd: 10 * USD, per: Per::Total, unpriced_nano_usd: 0, soft: None };
    let rule = Rule::of(Scope::Team("t".into()), &"t".into(), None, [budget].into());
    let caller = Principal { rules: rule.into_iter().map(Arc::new).collect(), ..Principal::default() };
    let asked = (0..500).map(|n| {
        let (limits, caller) = (&nodes[n % 3], &caller);
        async move {
            let mut permit = limits.enter(&bounds(limits, caller)).ok()?;
            permit.reserve(Need { nano_usd: USD, ..Need::default() }, Need::default()).await.ok()?;
            settle(permit, 0, USD);
            Some(())
        }
    });
    assert_eq!(futures_util::future::join_all(asked).await.into_iter().flatten().count(), 10);
}
