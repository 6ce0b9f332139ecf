//! Windows, the counter, and budgets over a store that is killed, closed or damaged.

use super::*;

fn at(text: &str) -> SystemTime {
    let stamp: jiff::Timestamp = text.parse().unwrap();
    UNIX_EPOCH + Duration::from_secs(u64::try_from(stamp.as_second()).unwrap())
}

fn window(per: Per, text: &str) -> (String, String, String) {
    let window = Window::of(per, at(text));
    assert!(window.holds(at(text)));
    let show = |at: SystemTime| crate::auth::expiry::show(crate::auth::expiry::to_seconds(at));
    (window.id, show(window.start), window.end.map_or("never".to_owned(), show))
}

#[test]
fn windows_are_those_of_the_calendar_in_utc() {
    let row = |id: &str, start: &str, end: &str| (id.to_owned(), start.to_owned(), end.to_owned());
    assert_eq!(
        window(Per::Day, "2026-11-25T23:59:59Z"),
        row("2026-11-25", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z")
    );
    // A Monday is the first of its week, a Sunday the last; a week belongs to the year that has its Thursday.
    assert_eq!(
        window(Per::Week, "2027-01-03T12:00:00Z"),
        row("2026-W53", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z")
    );
    assert_eq!(
        window(Per::Week, "2026-11-23T00:00:00Z"),
        row("2026-W48", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z")
    );
    assert_eq!(
        window(Per::Month, "2028-02-29T12:00:00Z"),
        row("2028-02", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z")
    );
    assert_eq!(
        window(Per::Month, "2026-12-31T23:59:59Z"),
        row("2026-12", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")
    );
    assert_eq!(window(Per::Total, "2026-12-31T23:59:59Z").2, "never");
}

#[test]
fn windows_follow_each_other_without_a_gap() {
    for per in [Per::Day, Per::Week, Per::Month] {
        let mut window = Window::of(per, at("2023-12-01T00:00:00Z"));
        for _ in 0..200 {
            let next = Window::of(per, window.end.unwrap());
            assert_eq!(Some(next.start), window.end);
            assert_ne!(next.id, window.id);
            window = next;
        }
    }
}

fn open(limit: u64) -> Counter {
    let mut counter = Counter::opened(0, None);
    counter.granted(limit);
    counter
}

/// Whatever comes in whatever order: what is spent and reserved stays under the budget as long as nobody spends more than
/// it reserved, and under the block that is leased.
#[test]
fn never_reserves_more_than_there_is() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..200 {
        let limit = random.u64(0..10_000);
        let mut counter = Counter::opened(0, (round % 3 == 0).then_some((random.u64(0..limit + 1), 500)));
        let (mut live, mut spent): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
        for now in 0..1_000 {
            match random.u8(0..10) {
                0..4 => {
                    let (id, amount) = (now, random.u64(0..300));
                    match counter.hold(id, amount, limit, now, now + 100_000) {
                        Ok(()) => live.push((id, amount)),
                        Err(Short::Block) => {
                            let ceiling = counter.wants(limit, now, amount).expect("who waits for a block gets one");
                            counter.granted(ceiling);
                            assert_eq!(counter.hold(id, amount, limit, now, now + 100_000), Ok(()));
                            live.push((id, amount));
                        }
                        Err(Short::Held | Short::Spent) => {
                            let balance = counter.balance(limit, now);
                            assert!(amount > balance.left, "{amount} was refused with {balance:?}");
                        }
                    }
                }
                4..8 if !live.is_empty() => {
                    let (id, amount) = live.swap_remove(random.usize(..live.len()));
                    let used = random.u64(0..=amount);
                    assert!(counter.settle(id, used));
                    assert!(!counter.settle(id, used), "once is enough");
                    spent += used;
                }
                _ => drop(counter.expire(now)),
            }
            let balance = counter.balance(limit, now);
            let held: u64 = live.iter().map(|(_, amount)| amount).sum();
            assert_eq!((counter.spent(), balance.reserved), (spent, held));
            assert!(spent + held <= limit && spent + held <= counter.ceiling(), "{spent} + {held} of {limit}");
        }
    }
}

#[test]
fn a_later_attempt_tops_up_and_keeps_what_it_has_when_that_fails() {
    let mut counter = open(100);
    counter.hold(1, 40, 100, 0, 9).unwrap();
    counter.hold(1, 60, 100, 0, 9).unwrap();
    counter.hold(1, 10, 100, 0, 9).unwrap();
    assert_eq!(counter.balance(100, 0).reserved, 60);
    assert_eq!(counter.hold(1, 101, 100, 0, 9), Err(Short::Spent));
    assert_eq!(counter.hold(2, 41, 100, 0, 9), Err(Short::Held));
    assert_eq!(counter.balance(100, 0).reserved, 60);
}

#[test]
fn settle_and_expire_count_once_in_either_order() {
    let mut counter = open(100);
    counter.hold(1, 40, 100, 0, 10).unwrap();
    counter.hold(2, 40, 100, 0, 10).unwrap();
    assert!(counter.settle(1, 30) && !counter.settle(1, 30));
    counter.renew(2, 20);
    assert_eq!((counter.expire(10), counter.expire(20), counter.expire(20)), (0, 1, 0));
    assert_eq!(counter.balance(100, 20).left, 70);
    // It was late, but it was spent.
    assert!(counter.settle(2, 25) && !counter.settle(2, 25));
    assert_eq!((counter.spent(), counter.balance(100, 20).reserved), (55, 0));
    assert!(!counter.settle(3, 1), "what nobody reserved");
}

#[test]
fn what_a_killed_gateway_may_have_spent_counts_until_its_lease_ends() {
    let mut counter = Counter::opened(20, Some((30, 100)));
    assert_eq!(counter.balance(100, 99).left, 50);
    assert_eq!(counter.hold(1, 60, 100, 99, 200), Err(Short::Spent));
    assert_eq!(counter.balance(100, 100).left, 80);
    counter.granted(100);
    counter.hold(1, 60, 100, 100, 200).unwrap();
}

#[test]
fn blocks_shrink_to_single_requests() {
    let limit = 10_000;
    let mut counter = Counter::opened(0, None);
    let (mut blocks, mut id) = (Vec::new(), 0);
    loop {
        id += 1;
        match counter.hold(id, 10, limit, 0, 9) {
            Ok(()) => assert!(counter.settle(id, 10)),
            Err(Short::Block) => {
                let ceiling = counter.wants(limit, 0, 10).unwrap();
                blocks.push(ceiling - counter.spent());
                counter.granted(ceiling);
            }
            Err(_) => break,
        }
    }
    assert_eq!(counter.spent(), limit);
    assert_eq!((blocks[0], *blocks.last().unwrap()), (625, 10), "{blocks:?}");
    assert!(blocks.is_sorted_by(|a, b| a >= b) && blocks.len() < 120, "{blocks:?}");
}

#[test]
fn a_block_is_asked_for_ahead_of_need() {
    let mut counter = Counter::opened(0, None);
    counter.granted(counter.wants(16_000, 0, 0).unwrap());
    assert_eq!((counter.ceiling(), counter.wants(16_000, 0, 0)), (1_000, None));
    counter.hold(1, 600, 16_000, 0, 9).unwrap();
    assert!(counter.wants(16_000, 0, 0).is_some(), "less than half of it is left");
}

const USD: u64 = 1_000_000_000;

fn budget(usd: u64) -> Budget {
    Budget { nano_usd: usd * USD, per: Per::Total, unpriced_nano_usd: USD / 10, soft: None }
}

fn team(budget: Budget) -> impl Iterator<Item = Rule> {
    Rule::of(Scope::Team("t".into()), &"t".into(), None, [budget].into()).into_iter()
}

/// Limits over a store, their keeper at work.
async fn kept(store: Arc<dyn Store>, budget: Budget, ledger: Option<Arc<dyn Ledger>>, lease: Duration) -> Limits {
    let budgets = Budgets::new(store, ledger, lease);
    budgets.configure(team(budget));
    budgets.prepare().await;
    tokio::spawn(budgets.clone().run(tokio_util::sync::CancellationToken::new()));
    Limits::new(budgets)
}

async fn ask(limits: &Limits, budget: Budget, nano_usd: u64) -> crate::error::Result<Permit> {
    let bounds = super::bounds(limits, &caller(None, None, Some(budget)));
    let mut permit = limits.enter(&bounds)?;
    permit.reserve(Need { nano_usd, ..Need::default() }, Need::default()).await?;
    Ok(permit)
}

fn account(limits: &Limits, budget: Budget) -> Account {
    limits.budgets().account((&Scope::Team("t".into()), &"t".into()), &budget, SystemTime::now())
}

fn balance(limits: &Limits, budget: Budget) -> Balance {
    account(limits, budget).balance.unwrap()
}

#[tokio::test]
async fn of_500_at_once_on_a_budget_for_10_only_10_are_admitted() {
    let limits = Arc::new(kept(Arc::new(Memory::default()), budget(10), None, Duration::from_secs(60)).await);
    let asked = (0..500).map(|_| async {
        let permit = ask(&limits, budget(10), USD).await.ok()?;
        tokio::task::yield_now().await;
        settle(permit, 0, USD);
        Some(())
    });
    let admitted = futures_util::future::join_all(asked).await.into_iter().flatten().count();
    assert_eq!((admitted, balance(&limits, budget(10)).spent), (10, 10 * USD));
    let refused = ask(&limits, budget(10), USD).await.err().unwrap();
    assert_eq!((refused.kind, refused.retry_after), (Kind::BudgetExceeded, None), "waiting never helps: {refused}");
}

#[tokio::test]
async fn a_refusal_says_when_the_window_ends_or_that_others_hold_the_rest() {
    let daily = Budget { per: Per::Day, ..budget(1) };
    let limits = kept(Arc::new(Memory::default()), daily, None, Duration::from_secs(60)).await;
    let held = ask(&limits, daily, USD).await.unwrap();
    let refused = ask(&limits, daily, USD / 2).await.err().unwrap();
    assert!(refused.message.contains("under way") && refused.retry_after == Some(Duration::from_secs(1)), "{refused}");
    settle(held, 0, USD);
    let refused = ask(&limits, daily, 1).await.err().unwrap();
    assert!(refused.message.contains("today's budget of team `t` (1 USD)"), "{refused}");
    assert!(refused.retry_after.unwrap() <= Duration::from_secs(86_400));
}

struct Rows(u64);

impl Ledger for Rows {
    fn spent<'a>(
        &'a self,
        scope: &'a Scope,
        _: SystemTime,
        _: Option<SystemTime>,
    ) -> futures_util::future::BoxFuture<'a, anyhow::Result<Option<u64>>> {
        assert_eq!(*scope, Scope::Team("t".into()));
        Box::pin(std::future::ready(Ok(Some(self.0))))
    }
}

#[tokio::test]
async fn after_a_clean_end_the_next_start_finds_what_was_spent() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let first = kept(store.clone(), budget(10), None, Duration::from_secs(60)).await;
    settle(ask(&first, budget(10), 3 * USD).await.unwrap(), 0, 2 * USD);
    first.budgets().close().await;
    let second = kept(store, budget(10), None, Duration::from_secs(60)).await;
    assert_eq!((balance(&second, budget(10)).spent, balance(&second, budget(10)).left), (2 * USD, 8 * USD));
}

#[tokio::test]
async fn after_a_crash_a_block_counts_until_its_lease_ends_and_then_the_ledger_decides() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let lease = Duration::from_millis(50);
    let first = kept(store.clone(), budget(16), None, lease).await;
    settle(ask(&first, budget(16), USD / 2).await.unwrap(), 0, USD / 2);
    // Its keeper has a block of a sixteenth, or two; nothing was closed.
    let second = kept(store, budget(16), Some(Arc::new(Rows(USD / 2))), lease).await;
    let counted = balance(&second, budget(16)).spent;
    assert!((USD..=5 * USD / 2).contains(&counted), "never less than was spent, at most a block more: {counted}");
    tokio::time::sleep(lease).await;
    assert_eq!(balance(&second, budget(16)).spent, USD / 2);
}

#[tokio::test]
async fn a_store_that_takes_no_writes_does_not_stop_requests_nor_open_the_budget() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let limits = kept(store.clone(), budget(2), None, Duration::from_secs(60)).await;
    store.close().await.unwrap();
    for _ in 0..2 {
        settle(ask(&limits, budget(2), USD).await.unwrap(), 0, USD);
    }
    assert_eq!(ask(&limits, budget(2), USD).await.err().unwrap().kind, Kind::BudgetExceeded);
}

#[tokio::test]
async fn a_budget_that_cannot_be_read_is_not_open() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    store.write(vec![Op::put(Table::Budgets, "team\0t\0total", "not a row")]).await.unwrap();
    let limits = kept(store, budget(2), None, Duration::from_secs(60)).await;
    assert_eq!(account(&limits, budget(2)).balance, None);
    let asked = tokio::time::timeout(Duration::from_millis(100), ask(&limits, budget(2), 1)).await;
    assert!(asked.is_err(), "it waits for its counter");
}

#[tokio::test]
async fn a_budget_that_a_reload_brings_is_kept_from_then_on() {
    let limits = kept(Arc::new(Memory::default()), budget(1), None, Duration::from_secs(60)).await;
    settle(ask(&limits, budget(1), USD).await.unwrap(), 0, USD);
    // More of it, and what was spent stays spent.
    limits.budgets().configure(team(budget(3)));
    ask(&limits, budget(3), 2 * USD).await.unwrap();
    assert_eq!(balance(&limits, budget(3)).spent, USD);
    // Another window is another counter.
    let daily = Budget { per: Per::Day, ..budget(3) };
    limits.budgets().configure(team(daily));
    ask(&limits, daily, 3 * USD).await.unwrap();
}

#[tokio::test]
async fn a_reservation_that_nobody_settles_comes_back_when_its_lease_ends() {
    let limits = kept(Arc::new(Memory::default()), budget(1), None, Duration::from_millis(20)).await;
    let permit = ask(&limits, budget(1), USD).await.unwrap();
    let purse = limits.budgets().purse((&Scope::Team("t".into()), &"t".into()), &budget(1), SystemTime::now());
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(purse.expire(), 0, "its owner lives: a long stream keeps what it holds");
    drop(permit.end());
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!((purse.expire(), balance(&limits, budget(1)).left), (1, USD));
}

#[tokio::test]
async fn rows_of_past_windows_are_removed() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let old = r#"{"ceiling":5,"open":true,"end":1000}"#;
    store.write(vec![Op::put(Table::Budgets, ["team", "t", "1970-01-01"].join("\0"), old)]).await.unwrap();
    let _limits = kept(store.clone(), budget(2), None, Duration::from_secs(60)).await;
    let rows = store.scan(Table::Budgets, b"", None, 10).await.unwrap();
    assert_eq!(rows.len(), 1, "only that of now: {rows:?}");
}
