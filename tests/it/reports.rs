//! Reports of usage: grouped by anything, by days of any zone, as pages, tables and files; the ledger exported, priced again and
//! compared with a provider's bill. Every way tells the same sums.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    keys::{Gateway as Process, folder, run, serve, text},
    state::http,
    support::{Gateway, Say, Upstream},
};

const QUESTION: &str = r#"{"model":"up/m","messages":[{"role":"user","content":"hi"}]}"#;
const PRICES: &str = "[[pricing]]\nmodel = \"up/*\"\ninput = \"2\"\noutput = \"10\"\n";

fn answer(prompt: u64, completion: u64) -> Say {
    Say::json(
        json!({ "id": "x", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "a" }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion } })
        .to_string(),
    )
}

async fn rows(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.admin("GET", &format!("/api/v1/usage?{query}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].as_array().expect("rows").clone()
}

async fn ask(gateway: &Gateway, tags: &str) {
    let headers = [("content-type", "application/json"), ("x-portcullis-tags", tags)];
    assert_eq!(gateway.post_with("/v1/chat/completions", &headers, QUESTION).await.status, 200);
}

#[tokio::test]
async fn usage_is_grouped_by_several_things_by_tags_and_by_windows() {
    let upstream = Upstream::saying(answer(1000, 100)).await;
    let gateway = Gateway::start(&format!("{}{PRICES}", upstream.provider("up", "openai_chat"))).await;
    ask(&gateway, "env=prod,app=web").await;
    ask(&gateway, "env=prod").await;
    ask(&gateway, "").await;
    gateway.record(3).await;
    let told = |rows: &[Value], name: &str| -> Vec<(String, String, u64)> {
        let row = |r: &Value| (r[name].to_string(), r["cost_usd"].to_string(), r["requests"].as_u64().expect("count"));
        rows.iter().map(row).collect()
    };
    let of = |name: &str, cost: &str, count| (name.to_owned(), cost.to_owned(), count);
    assert_eq!(
        told(&rows(&gateway, "group_by=tag").await, "tag"),
        [of("null", "0.003", 1), of("\"app=web\"", "0.003", 1), of("\"env=prod\"", "0.006", 2)]
    );
    let both = rows(&gateway, "group_by=provider,model&bucket=month&tz=Asia/Kathmandu&tag=env%3Dprod").await;
    let [row] = both.as_slice() else { panic!("{both:?}") };
    assert_eq!((row["provider"].as_str(), row["model"].as_str()), (Some("up"), Some("up/m")));
    assert_eq!((row["month"].as_str().map(str::len), row["attempts"].as_u64()), (Some(7), Some(2)), "{row}");
    // However the clock stands, the minutes, hours and days of it add up.
    for bucket in ["minute", "hour", "day", "month"] {
        let all = rows(&gateway, &format!("bucket={bucket}&tz=Europe/Berlin")).await;
        let sum: u64 = all.iter().map(|row| row["requests"].as_u64().expect("count")).sum();
        assert_eq!(sum, 3, "{bucket}: {all:?}");
        assert!(all.iter().all(|row| row[bucket].is_string() && row.get("team").is_none()), "{all:?}");
    }
    // Page by page the same rows.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gateway.admin("GET", &format!("/api/v1/usage?group_by=tag&limit=1{cursor}"), "").await.json();
        paged.extend(page["data"].as_array().expect("rows").clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, rows(&gateway, "group_by=tag").await);
}

#[tokio::test]
async fn usage_is_a_file_that_no_spreadsheet_runs() {
    let upstream = Upstream::saying(answer(1000, 100)).await;
    let gateway = Gateway::start(&format!("{}{PRICES}", upstream.provider("up", "openai_chat"))).await;
    ask(&gateway, "=HYPERLINK(1)=x").await;
    gateway.record(1).await;
    let host = gateway.admin.to_string();
    let headers = [("host", host.as_str()), ("accept", "text/csv")];
    let csv = crate::support::request(gateway.admin, "GET", "/api/v1/usage?group_by=tag", &headers, b"").await;
    assert_eq!((csv.status, csv.header("content-type")), (200, Some("text/csv; charset=utf-8")));
    assert!(csv.complete, "the file has its end");
    let text = csv.text();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert!(lines[0].starts_with("tag,requests,errors,attempts,input_tokens"), "{text}");
    assert!(!lines[1].starts_with('='), "{text}");
    let lines = gateway.admin("GET", "/api/v1/usage?group_by=provider&format=ndjson", "").await;
    let row: Value = serde_json::from_str(lines.text().trim_end()).expect("one line");
    assert_eq!((row["provider"].as_str(), row["cost_usd"].to_string()), (Some("up"), "0.003".to_owned()));
    let wrong = gateway.admin("GET", "/api/v1/usage?format=xml", "").await;
    assert!(wrong.status == 400 && wrong.text().contains("json, csv, ndjson"), "{}", wrong.text());
}

#[tokio::test]
async fn the_ledger_is_exported_an_attempt_a_line() {
    let sick = Upstream::saying(Say::error(429, r#"{"error":{"message":"slow down"}}"#)).await;
    let good = Upstream::saying(answer(1000, 100)).await;
    let config = format!(
        "{}{}[models.best]\nretries = 0\ntargets = [{{ provider = \"sick\", model = \"m\" }}, {{ provider = \"up\", model = \"m\" }}]\n{PRICES}",
        sick.provider("sick", "openai_chat"),
        good.provider("up", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    gateway.chat(&QUESTION.replace("up/m", "best")).await;
    // Refused before anything was tried: a request, and nothing to pay.
    assert_eq!(gateway.chat(&QUESTION.replace("up/m", "nobody/m")).await.status, 404);
    gateway.record(2).await;
    let lines = gateway.admin("GET", "/api/v1/requests/export", "").await;
    assert_eq!((lines.status, lines.complete), (200, true));
    let parsed: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!(parsed.len(), 2);
    assert_eq!(parsed[0]["ledger"].as_array().map(Vec::len), Some(2), "{}", parsed[0]);
    let price = parsed[0]["ledger"][1]["price"].as_str().expect("which prices it was charged by");
    assert_eq!(price.len(), 12);
    let csv = gateway.admin("GET", "/api/v1/requests/export?format=csv", "").await.text();
    let mut lines = csv.split("\r\n");
    let head: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let at = |name: &str| head.iter().position(|column| *column == name).expect("a column");
    let cells: Vec<Vec<&str>> = lines.filter(|line| !line.is_empty()).map(|line| line.split(',').collect()).collect();
    let told: Vec<_> = cells
        .iter()
        .map(|row| [row[at("attempt")], row[at("target")], row[at("cost_usd")], row[at("status")]])
        .collect();
    assert_eq!(told, [["1", "sick/m", "0", "200"], ["2", "up/m", "0.003", "200"], ["", "", "", "404"]], "{csv}");
    let none = gateway.admin("GET", "/api/v1/requests/export?from=2020-01-01&to=2020-01-02", "").await;
    assert_eq!((none.status, none.body.len()), (200, 0));
    for (query, words) in
        [("format=json", "ndjson, csv"), ("from=soon", "2026-01-31"), ("from=2030-01-01&to=2029-01-01", "later")]
    {
        let wrong = gateway.admin("GET", &format!("/api/v1/requests/export?{query}"), "").await;
        assert!(wrong.status == 400 && wrong.text().contains(words), "{query}: {}", wrong.text());
    }
}

const HOUSE: &str = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[auth]\nrequired = false\n\
                     [[pricing]]\nmodel = \"mock/*\"\ninput = \"1000\"\noutput = \"2000\"\n";

/// A gateway that answered so many requests, all of them settled.
fn used(config: &str, count: u64) -> (tempfile::TempDir, Process, String) {
    let place = folder(config);
    let (gateway, address, admin) = serve(place.path());
    for n in 0..count {
        let model = if n % 2 == 0 { "mock" } else { "mock/other" };
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
        assert_eq!(http(&address, "POST", "/v1/chat/completions", &body.to_string()).0, 200);
    }
    let begun = Instant::now();
    loop {
        let (_, page) = http(admin.trim_start_matches("http://"), "GET", "/api/v1/usage?group_by=provider", "");
        if page["data"][0]["requests"].as_u64() == Some(count) {
            return (place, gateway, admin);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{page}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Stopped as SIGTERM does, so that nothing is left to count again.
fn stop(gateway: Process) {
    let pid = gateway.0.id().to_string();
    let mut gateway = gateway;
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    gateway.0.wait().expect("it ends");
}

#[test]
fn the_terminal_shows_the_same_of_a_running_and_of_a_stopped_gateway() {
    let (place, gateway, admin) = used(HOUSE, 4);
    let ask = |args: &[&str]| {
        let out = run(place.path(), &[&["usage"], args].concat());
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    let questions: [&[&str]; 4] = [
        &["--by", "team,model"],
        &["--by", "model", "--csv"],
        &["--by", "target", "--bucket", "month", "--tz", "Europe/Berlin", "--json"],
        &["--provider", "nobody"],
    ];
    let running: Vec<String> =
        questions.iter().map(|args| ask(&[args, &["--admin", admin.as_str()][..]].concat())).collect();
    let locked = run(place.path(), &["usage"]);
    assert!(
        locked.status.code() == Some(1) && text(&locked.stderr).contains("--admin http"),
        "{}",
        text(&locked.stderr)
    );
    stop(gateway);
    let stopped: Vec<String> = questions.iter().map(|args| ask(args)).collect();
    assert_eq!(running, stopped);
    let lines: Vec<&str> = stopped[0].lines().collect();
    assert!(lines[0].starts_with("team  model") && lines[0].ends_with("cost_usd"), "{}", stopped[0]);
    assert_eq!(lines.len(), 3, "{}", stopped[0]);
    let ends: Vec<usize> = lines.iter().map(|line| line.len()).collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "figures stand in line:\n{}", stopped[0]);
    assert!(stopped[1].starts_with("model,requests,"), "{}", stopped[1]);
    assert_eq!(stopped[3].trim(), "nothing was used in that time");
    for (args, words) in [(["--by", "colour"], "--by: some of"), (["--tz", "Atlantis"], "--tz: a time zone")] {
        let wrong = run(place.path(), &[&["usage"], &args[..]].concat());
        assert!(wrong.status.code() == Some(64) && text(&wrong.stderr).contains(words), "{}", text(&wrong.stderr));
    }
}

#[test]
fn usage_is_priced_again_and_history_stays() {
    let (place, gateway, admin) = used(HOUSE, 6);
    let config = HOUSE.replace("input = \"1000\"", "input = \"3000\"").replace("\"mock/*\"", "\"mock/other\"");
    fs::write(place.path().join("new.toml"), config).expect("new prices");
    let before = text(&run(place.path(), &["usage", "--by", "model", "--csv", "--admin", &admin]).stdout);
    let rerate = |more: &[&str]| {
        let out = run(place.path(), &[&["usage", "rerate", "--by", "model", "--json"], more].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).expect("JSON")
    };
    let running = rerate(&["--config", "new.toml", "--admin", &admin]);
    stop(gateway);
    let told = rerate(&["--config", "new.toml"]);
    assert_eq!(running, told, "a running gateway's records are priced alike");
    // The built-in provider is free where nobody says otherwise.
    let row = |model: &str| {
        told["data"].as_array().expect("rows").iter().find(|r| r["model"] == model).expect("a row").clone()
    };
    let (kept, freed) = (row("mock/other"), row("mock"));
    let nano = |value: &Value| portcullis::config::usd(value.to_string().trim_start_matches('-')).expect("dollars");
    assert_eq!((kept["attempts"].as_u64(), freed["attempts"].as_u64()), (Some(3), Some(3)), "{told}");
    assert_eq!(freed["now_usd"].to_string(), "0");
    assert_eq!(nano(&freed["difference_usd"]), nano(&freed["was_usd"]), "{freed}");
    assert!(freed["difference_usd"].to_string().starts_with('-'), "{freed}");
    let more = nano(&kept["now_usd"]) - nano(&kept["was_usd"]);
    assert!(more > 0 && nano(&kept["difference_usd"]) == more, "{kept}");
    let same = rerate(&[]);
    assert_eq!(
        (same["total"]["difference_usd"].to_string(), &same["total"]["unchanged"]),
        ("0".to_owned(), &json!(6)),
        "{same}"
    );
    let after = text(&run(place.path(), &["usage", "--by", "model", "--csv"]).stdout);
    assert_eq!(before, after, "nothing was changed");

    // For good: records and sums have the new prices, once.
    let write = || {
        let out = run(place.path(), &["usage", "rerate", "--config", "new.toml", "--write"]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    let said = write();
    assert!(said.contains("6 requests of ") && said.contains("have these prices now"), "{said}");
    let settled = rerate(&["--config", "new.toml"]);
    assert_eq!(
        (settled["total"]["difference_usd"].to_string(), &settled["total"]["unchanged"]),
        ("0".to_owned(), &json!(6)),
        "{settled}"
    );
    assert_eq!(settled["total"]["now_usd"], told["total"]["now_usd"]);
    let sums = run(place.path(), &["usage", "--by", "model", "--json"]);
    let sums: Value = serde_json::from_slice(&sums.stdout).expect("JSON");
    let cost = |model: &str| {
        let rows = sums["data"].as_array().expect("rows");
        nano(&rows.iter().find(|row| row["model"] == model).expect("a row")["cost_usd"])
    };
    assert_eq!((cost("mock"), cost("mock/other")), (0, nano(&kept["now_usd"])), "{sums}");
    assert!(write().contains("0 requests of 0 hours"));
    let audit = text(&run(place.path(), &["audit", "list", "--action", "usage.rerate"]).stdout);
    assert!(audit.contains("done") && audit.contains("intended"), "{audit}");
    let refused = run(place.path(), &["usage", "rerate", "--write", "--admin", &admin]);
    assert!(!refused.status.success());
}

/// While it serves, by the prices that run there; and what its store says afterwards.
#[test]
fn a_gateway_that_serves_gives_its_records_other_prices() {
    let (place, gateway, admin) = used(HOUSE, 6);
    let dear = |text: &str| text.replace("input = \"1000\"", "input = \"3000\"");
    fs::write(place.path().join("new.toml"), dear(HOUSE)).expect("new prices");
    let json = |args: &[&str]| {
        let out = run(place.path(), args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).expect("JSON")
    };
    let dry = || json(&["usage", "rerate", "--json", "--config", "new.toml", "--admin", &admin]);
    let expected = dry();
    assert_ne!(expected["total"]["difference_usd"].to_string(), "0", "{expected}");
    let write = || json(&["usage", "rerate", "--json", "--write", "--admin", &admin]);
    assert_eq!(write()["requests"], 0, "they have the prices that run there");
    let path = place.path().join("gateway.toml");
    let running = fs::read_to_string(&path).expect("a file");
    fs::write(&path, dear(&running)).expect("saved");
    let began = Instant::now();
    let done = loop {
        let done = write();
        if done["requests"] != 0 {
            break done;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the new prices are taken up");
        std::thread::park_timeout(Duration::from_millis(50));
    };
    assert_eq!((done["requests"].as_u64(), done["left"].as_u64()), (Some(6), Some(0)), "{done}");
    let after = dry();
    let total = |told: &Value, name: &str| told["total"][name].clone();
    assert_eq!(
        (total(&after, "was_usd"), total(&after, "unchanged")),
        (total(&expected, "now_usd"), json!(6)),
        "{after}"
    );
    let usage = json(&["usage", "--by", "model", "--json", "--admin", &admin]);
    let audit = text(&run(place.path(), &["audit", "list", "--action", "usage.rerate", "--admin", &admin]).stdout);
    assert!(audit.contains("done") && audit.contains("intended"), "{audit}");
    stop(gateway);
    assert_eq!(json(&["usage", "--by", "model", "--json"]), usage, "the store says the same");
}

#[test]
fn a_bill_is_compared_with_the_ledger_and_a_difference_fails() {
    let (place, gateway, admin) = used(HOUSE, 4);
    let usage = run(place.path(), &["usage", "--by", "target", "--bucket", "day", "--json", "--admin", &admin]);
    let rows: Value = serde_json::from_slice(&usage.stdout).expect("JSON");
    let rows = rows["data"].as_array().expect("rows");
    let results = |row: &Value, more: u64| {
        json!({ "object": "organization.usage.completions.result", "model": row["target"].as_str().expect("target").trim_start_matches("mock/"),
            "input_tokens": row["input_tokens"].as_u64().expect("count") + more, "output_tokens": row["output_tokens"] })
    };
    let page = |more: u64| {
        let buckets = rows.iter().map(|row| {
            let day = format!("{}T00:00:00Z", row["day"].as_str().expect("day"));
            json!({ "object": "bucket", "start_time": day.parse::<jiff::Timestamp>().expect("a day").as_second(), "results": [results(row, more)] })
        });
        json!({ "object": "page", "data": buckets.collect::<Vec<_>>(), "has_more": false }).to_string()
    };
    let compare = |bill: &str, more: &[&str]| {
        fs::write(place.path().join("bill.json"), bill).expect("bill");
        let out = run(place.path(), &[&["usage", "reconcile", "--provider", "mock", "bill.json"], more].concat());
        (out.status.code(), format!("{}{}", text(&out.stdout), text(&out.stderr)))
    };
    let (code, said) = compare(&page(0), &["--admin", &admin]);
    assert!(code == Some(0) && said.contains("ledger and provider agree"), "{said}");
    stop(gateway);
    let (code, said) = compare(&page(0), &[]);
    assert!(code == Some(0) && said.contains("ledger and provider agree"), "{said}");
    let (code, said) = compare(&page(500), &[]);
    assert!(code == Some(1) && said.contains("500 tokens more: requests outside the gateway"), "{said}");
    let (code, said) = compare(&page(500), &["--json"]);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    assert!(code == Some(1) && told["differs"] == true, "{said}");
    let (code, said) = compare("{\"x\":1}", &[]);
    assert!(code == Some(1) && said.contains("bill.json: it is no page of usage"), "{said}");
    let (code, said) = compare("Date,Cost\n2020-01-01,1\n", &["--columns", "day=Date,cost=Cost"]);
    assert!(code == Some(1) && said.contains("nothing of it went through this gateway"), "{said}");
    let (code, _) = compare("", &["--tolerance", "-1"]);
    assert_eq!(code, Some(64));
}
