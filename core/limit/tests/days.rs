//! What is counted by the day outlives the process.

use super::*;
use crate::limit::days;

fn taking(limits: &Limits, at: SystemTime) -> crate::error::Result<()> {
    let few = config::Limits { requests_per_day: Some(3), ..config::Limits::default() };
    let rule = Rule::of(Scope::Tag("env=prod".into()), &"env=prod".into(), Some(few), Arc::default()).unwrap();
    let caller = Principal { rules: [Arc::new(rule)].into(), ..Principal::default() };
    limits.enter(&limits.bounds(&caller, &Rules::default(), &[], at)).map(drop)
}

#[tokio::test]
async fn a_restart_finds_the_day_as_it_was_and_removes_what_is_long_past() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let noon = UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + 43_200);
    let first = limits_on(store.clone());
    let mut known = std::collections::HashMap::new();
    for _ in 0..2 {
        taking(&first, noon).unwrap();
        days::keep(first.meters(), &*store, &mut known).await.unwrap();
    }
    let again = limits_on(store.clone());
    days::restore_at(again.meters(), &*store, 20_000).await.unwrap();
    taking(&again, noon).unwrap();
    assert!(taking(&again, noon).is_err());
    taking(&again, noon + Duration::from_secs(86_400)).unwrap();
    let later = limits_on(store.clone());
    days::restore_at(later.meters(), &*store, 20_010).await.unwrap();
    assert_eq!(later.meters().count(), 0);
    assert!(store.scan(Table::Budgets, b"days\0", None, 10).await.unwrap().is_empty());
}

/// Promise 7: what requests under way held of a day's tokens, and did not use, dies with the process that is killed.
#[tokio::test]
async fn a_kill_leaves_of_a_days_tokens_those_that_were_used() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let noon = UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + 43_200);
    let few = config::Limits { tokens_per_day: Some(1_000), ..config::Limits::default() };
    let rule = Rule::of(Scope::Team("t".into()), &"t".into(), Some(few), Arc::default()).unwrap();
    let caller = Principal { rules: [Arc::new(rule)].into(), ..Principal::default() };
    let take = async |limits: &Limits, tokens: u64| {
        let mut permit = limits.enter(&limits.bounds(&caller, &Rules::default(), &[], noon)).unwrap();
        let need = Need { input_tokens: tokens, ..Need::default() };
        permit.reserve(need, Need::default()).await.map(|_| permit)
    };
    let first = limits_on(store.clone());
    settle(take(&first, 200).await.unwrap(), 150, 0);
    let under_way = take(&first, 800).await.unwrap();
    assert!(take(&first, 51).await.is_err(), "here they are held");
    days::keep(first.meters(), &*store, &mut std::collections::HashMap::new()).await.unwrap();
    let again = limits_on(store.clone());
    days::restore_at(again.meters(), &*store, 20_000).await.unwrap();
    settle(take(&again, 850).await.unwrap(), 850, 0);
    assert!(take(&again, 1).await.is_err());
    // One that ends after all is counted where it was.
    settle(under_way, 700, 0);
    assert!(take(&first, 151).await.is_err());
    settle(take(&first, 150).await.unwrap(), 0, 0);
    days::keep(first.meters(), &*store, &mut std::collections::HashMap::new()).await.unwrap();
    let last = limits_on(store.clone());
    days::restore_at(last.meters(), &*store, 20_000).await.unwrap();
    assert!(take(&last, 151).await.is_err());
    take(&last, 150).await.unwrap();
}
