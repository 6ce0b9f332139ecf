use super::*;

fn put(kv: &Kv, stage: &str, tenant: &str, count: usize) {
    let now = Instant::now();
    kv.space(stage, tenant, |space| {
        for n in 0..count {
            space.set(&format!("{n}"), Value::from("x".repeat(4000)), None, now).unwrap();
        }
    });
}

/// What the counter says is what the spaces hold.
fn adds_up(kv: &Kv, stage: &str, tenants: &[String]) -> usize {
    let sum = tenants.iter().map(|tenant| kv.space(stage, tenant, |space| space.bytes)).sum();
    assert_eq!(kv.bytes(stage), sum);
    sum
}

#[test]
fn a_tenants_bytes_are_bounded_and_its_oldest_entries_go_first() {
    let kv = Kv::default();
    put(&kv, "a", "one", 3_000);
    kv.space("a", "one", |space| {
        assert!(space.bytes <= MAX_BYTES && space.bytes > MAX_BYTES / 2, "{}", space.bytes);
        assert!(space.get("0", Instant::now()).is_none() && space.get("2999", Instant::now()).is_some());
    });
    adds_up(&kv, "a", &["one".to_owned()]);
}

#[test]
fn all_tenants_of_a_stage_together_are_bounded_and_the_largest_pays() {
    let kv = Kv::default();
    put(&kv, "b", "other stage", 10);
    put(&kv, "a", "small", 10);
    let mut tenants: Vec<String> = (0..12).map(|n| format!("large {n}")).collect();
    for tenant in &tenants {
        put(&kv, "a", tenant, 1_900);
    }
    tenants.push("small".to_owned());
    assert!(adds_up(&kv, "a", &tenants) <= MAX_OF_STAGE);
    assert_eq!(kv.space("a", "small", |space| space.len()), 10);
    assert_eq!(kv.space("b", "other stage", |space| space.len()), 10);
}

#[test]
fn what_is_overwritten_removed_or_over_gives_its_bytes_back() {
    let (kv, now) = (Kv::default(), Instant::now());
    kv.space("a", "t", |space| {
        for _ in 0..100_000 {
            space.set(&"k".repeat(256), Value::from(1), Some(Duration::from_secs(1)), now).unwrap();
        }
        assert!(space.order.len() <= 2 + SLACK, "{}", space.order.len());
        assert_eq!(space.len(), 1);
        assert_eq!(space.get(&"k".repeat(256), now + Duration::from_secs(2)), None);
        space.set("gone", Value::from(1), None, now).unwrap();
        space.remove("gone");
    });
    assert_eq!(kv.bytes("a"), 0);
}

#[test]
fn a_space_that_was_taken_out_counts_no_more() {
    let kv = Kv::default();
    let tenants: Vec<String> = (0..MAX_SPACES + 50).map(|n| n.to_string()).collect();
    for tenant in &tenants {
        put(&kv, "a", tenant, 1);
    }
    assert_eq!(kv.spaces.len(), MAX_SPACES);
    let sum: usize = kv.spaces.iter().map(|space| locked(space.value()).bytes).sum();
    assert_eq!(kv.bytes("a"), sum);
}
