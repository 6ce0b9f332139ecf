//! The ledger through the real binary: killed at random, on a full disk, and what never stands in it.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    keys::{folder, serve},
    state::{Disk, http},
};

const CONFIG: &str = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[auth]\nrequired = false\n\
                      [[pricing]]\nmodel = \"mock/*\"\ninput = \"0.37\"\noutput = \"1.9\"\n";
const QUESTION: &str = r#"{"model":"mock","messages":[{"role":"user","content":"the secret of the house"}]}"#;

/// Every record, page by page, once there are at least `count`.
fn records(admin: &str, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) = http(admin, "GET", &format!("/api/v1/requests?limit=50{cursor}"), "");
            assert_eq!(status, 200, "{page}");
            rows.extend(page["data"].as_array().expect("rows").iter().cloned());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        if rows.len() >= count {
            return rows;
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{} of {count} requests are settled after 3 s", rows.len());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn ids(rows: &[Value]) -> BTreeSet<String> {
    let ids: BTreeSet<String> = rows.iter().map(|row| row["id"].as_str().expect("id").to_owned()).collect();
    assert_eq!(ids.len(), rows.len(), "no row stands there twice");
    ids
}

/// Exact: in nano-dollars.
fn nano(usd: &Value) -> u64 {
    let text = usd.to_string();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    format!("{whole}{part:0<9}").parse().expect("dollars")
}

fn spent(admin: &str) -> (u64, u64) {
    let (_, page) = http(admin, "GET", "/api/v1/usage?group_by=provider", "");
    let rows = page["data"].as_array().expect("rows");
    let requests = rows.iter().map(|row| row["requests"].as_u64().expect("count")).sum();
    (requests, rows.iter().map(|row| nano(&row["cost_usd"])).sum())
}

#[test]
fn what_was_settled_survives_a_kill_and_usage_is_the_sum_of_the_records() {
    let place = folder(CONFIG);
    let rounds: u64 = if std::env::var_os("PORTCULLIS_LONG").is_some_and(|v| v == "1") { 40 } else { 5 };
    let mut known: BTreeSet<String> = BTreeSet::new();
    for round in 0..rounds {
        let (gateway, address, admin) = serve(place.path());
        let admin = admin.trim_start_matches("http://").to_owned();
        let before = records(&admin, known.len());
        let now = ids(&before);
        assert!(known.is_subset(&now), "round {round}: {} settled records are gone", known.difference(&now).count());
        let sum: u64 = before.iter().map(|row| nano(&row["cost_usd"])).sum();
        assert_eq!(spent(&admin), (before.len() as u64, sum), "round {round}: usage is what the ledger says");
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || {
                    (0..8).for_each(|_| drop(http(&address, "POST", "/v1/chat/completions", QUESTION)))
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().expect("sender"));
        known = ids(&records(&admin, before.len() + 32));
        // At any moment between two notes of the sums.
        std::thread::park_timeout(Duration::from_millis(round * 137 % 700));
        drop(gateway);
    }
    let mut text = String::new();
    for entry in fs::read_dir(place.path().join("data/records")).expect("records").flatten() {
        text.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).expect("file")));
    }
    assert!(text.contains("\"id\":\"req_"), "the records are in files");
    assert!(!text.contains("secret of the house"), "a record holds no prompt");
}

#[test]
fn a_full_disk_costs_records_not_requests_and_heals() {
    let place = folder(CONFIG);
    let data = place.path().join("data");
    let _disk = match Disk::mount(&data, "24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let (_gateway, address, admin) = serve(place.path());
    let admin = admin.trim_start_matches("http://").to_owned();
    let ask = || http(&address, "POST", "/v1/chat/completions", QUESTION).0;
    let in_files = || {
        let files = fs::read_dir(data.join("records")).expect("records").flatten();
        files
            .map(|f| fs::read(f.path()).expect("file"))
            .map(|b| b.iter().filter(|b| **b == b'\n').count())
            .sum::<usize>()
    };
    assert_eq!(ask(), 200);
    records(&admin, 1);
    assert_eq!(in_files(), 1);
    Disk::fill(&data);
    for _ in 0..30 {
        assert_eq!(ask(), 200, "serving goes on");
    }
    assert_eq!(records(&admin, 31).len(), 31, "the last requests are shown");
    let lost = || {
        let mut stream = std::net::TcpStream::connect(&admin).expect("connect");
        let head = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, head.as_bytes()).expect("send");
        let text = std::io::read_to_string(stream).expect("metrics");
        let line = text.lines().find_map(|l| l.strip_prefix("portcullis_records_lost_total "));
        line.and_then(|n| n.trim().parse::<usize>().ok()).unwrap_or(0)
    };
    assert_eq!((in_files(), lost()), (31, 0), "the running hour has room of its own");
    let mut asked = 31;
    while lost() == 0 {
        assert!(asked < 20_000, "room without end");
        (0..500).for_each(|_| assert_eq!(ask(), 200, "serving goes on"));
        asked += 500;
    }
    let all = || in_files() + lost();
    (0..200)
        .take_while(|_| all() < asked)
        .for_each(|_| std::thread::park_timeout(std::time::Duration::from_millis(20)));
    assert_eq!(all(), asked, "what is not in a file is counted");
    fs::remove_file(data.join("ballast")).expect("room");
    let before = in_files();
    assert_eq!(ask(), 200);
    (0..200)
        .take_while(|_| in_files() == before)
        .for_each(|_| std::thread::park_timeout(std::time::Duration::from_millis(20)));
    assert_eq!(in_files(), before + 1, "records are written again");
}
