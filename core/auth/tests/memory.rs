//! What keys take in memory, so that a gateway with a million of them is no surprise. `PORTCULLIS_LONG=1`: a million, and how
//! long they take to load; else 20,000. And what ten thousand of them take that are being used.

use std::{process::Command, time::Instant};

use super::*;
use crate::{
    config::Rules,
    limit::{Budgets, Limits, Need},
};

/// Who the keys belong to, and what binds each of them.
#[derive(Debug, Clone, Copy)]
enum House {
    /// In one of a thousand teams with a limit and a budget, in an organisation with both.
    Teams,
    /// The same, and each of a user of its own, who is bound by nothing more.
    Users,
    /// The same as the first, with an expiry and limits of its own.
    Limits,
    /// With limits and a budget of its own, and a request of each.
    Active,
}

const HOUSES: [House; 4] = [House::Teams, House::Users, House::Limits, House::Active];

fn row(house: House, n: usize) -> String {
    let hash = format!("{:064x}", (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    let limits = r#""limits":{"requests_per_minute":60,"tokens_per_day":100000},"#;
    let more = match house {
        House::Teams => String::new(),
        House::Users => format!(r#""user":"user-{n}","#),
        House::Limits => format!(r#""expires":4102444800,{limits}"#),
        House::Active => format!(r#"{limits}"terms":{{"budgets":[{{"usd":10,"per":"month"}}]}},"#),
    };
    format!(
        r#"{{"name":"laptop of {n}","team":"team-{}",{more}"created":1764000000,"secrets":[{{"hash":"{hash}","last4":"abcd","created":1764000000}}]}}"#,
        n % 1_000
    )
}

async fn filled(house: House, count: usize) -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let terms = r#""terms":{"limits":{"requests_per_minute":1000000},"budgets":[{"usd":100,"per":"month"}]}"#;
    let mut rows = vec![Op::put(store::Table::Identities, "o/acme", format!(r#"{{{terms},"created":1}}"#))];
    rows.extend((0..1_000).map(|n| {
        let row = format!(r#"{{"organisation":"acme",{terms},"created":1}}"#);
        Op::put(store::Table::Identities, format!("t/team-{n}"), row)
    }));
    for n in 0..count {
        if matches!(house, House::Users) {
            let row = format!(r#"{{"teams":["team-{}"],"created":1}}"#, n % 1_000);
            rows.push(Op::put(store::Table::Identities, format!("u/user-{n}"), row));
        }
        rows.push(Op::put(store::Table::Keys, id(n), row(house, n)));
        if rows.len() >= 1_000 {
            store.write(std::mem::take(&mut rows)).await.unwrap();
        }
    }
    store.write(rows).await.unwrap();
    store
}

fn id(n: usize) -> String {
    format!("key_{n:024x}")
}

/// Bytes of this process that lie in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Bytes a key, measured in a process of its own: this test binary, running `holds_keys`.
fn measured(house: House, count: usize) -> u64 {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "auth::tests::memory::holds_keys", "--nocapture", "--test-threads=1"])
        .env(HOUSE, format!("{} {count}", house as usize))
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(BYTES)).expect("the child says what it measured");
    println!("{house:?}, {count} keys: {line}{}", text.lines().find(|line| line.contains("a request")).unwrap_or(""));
    line.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_key_takes_few_bytes_and_one_in_use_not_many_more() {
    assert!(size_of::<Principal>() <= 168, "{}", size_of::<Principal>());
    let long = crate::config::env::var("PORTCULLIS_LONG").is_some();
    for (house, most) in HOUSES.into_iter().zip(MOST) {
        let count = match house {
            House::Active => 10_000,
            _ if long => 1_000_000,
            _ => 20_000,
        };
        let bytes = measured(house, count);
        assert!(bytes <= most, "{house:?}: {bytes} bytes a key, more than {most}");
    }
}

/// The child of the test above; without its variable it does nothing.
#[test]
fn holds_keys() {
    let Some(asked) = crate::config::env::var(HOUSE) else { return };
    let (house, count) = asked.split_once(' ').unwrap();
    let (house, count) = (HOUSES[house.parse::<usize>().unwrap()], count.parse::<usize>().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Names and code that every gateway has are no key's.
        drop(keys_on(filled(house, 100).await).await);
        let store = filled(house, count).await;
        let (mut before, began) = (resident(), Instant::now());
        let keys = keys_on(store.clone()).await;
        let took = began.elapsed();
        let limits = Limits::new(Budgets::new(store, None, Duration::from_secs(60)));
        if matches!(house, House::Active) {
            let running = tokio::spawn(limits.budgets().clone().run(tokio_util::sync::CancellationToken::new()));
            before = resident();
            let owners: Vec<Arc<Principal>> = keys.table().all().collect();
            let began = Instant::now();
            for owner in owners {
                let mut permit =
                    limits.enter(&limits.bounds(&owner, &Rules::default(), &[], SystemTime::now())).unwrap();
                let need = Need { input_tokens: 100, output_tokens: 100, nano_usd: 1_000_000 };
                permit.reserve(need, Need::default()).await.unwrap();
                permit.end().unwrap().settle(need, |_| need);
            }
            println!("\na request of each in {:?}", began.elapsed());
            running.abort();
        }
        println!("\n{BYTES}{} bytes a key, loaded in {took:?}", (resident() - before) / count as u64);
        drop(keys);
    });
}

const HOUSE: &str = "PORTCULLIS_TEST_HOUSE";
const BYTES: &str = "measured ";
/// What was measured with 20,000, and a good third more.
const MOST: [u64; 4] = [2000, 2000, 2000, 9000];
