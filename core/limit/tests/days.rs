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
