//! `portcullis replay` through the real binary, on records that a real gateway wrote.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    keys::{Gateway, folder, run, serve, text},
    state::http,
};

const SCRIPT: &str = "fn route(request, targets, context) {
    if request.text_has([\"essay\"]) { return \"mock/long\"; }
}
fn request(request, context) {
    if request.text_has([\"forbidden\"]) { return reject(400, \"no\"); }
}
";
const PRICES: &str = "[[pricing]]\nmodel = \"mock/*\"\ninput = \"1\"\noutput = \"2\"\n";

fn config(bodies: &str, prices: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[auth]\nrequired = false\n\
         [records]\nbodies = \"{bodies}\"\n[models.smart]\ntargets = [{{ provider = \"mock\", model = \"short\" }}]\n{prices}"
    )
}

/// A folder with the records of these prompts.
fn recorded(bodies: &str, prompts: &[&str]) -> tempfile::TempDir {
    let place = folder(&config(bodies, PRICES));
    fs::create_dir(place.path().join("scripts")).expect("a folder");
    fs::write(place.path().join("scripts/a.rhai"), SCRIPT).expect("written");
    let (gateway, address, admin) = serve(place.path());
    for prompt in prompts {
        let body = json!({ "model": "smart", "messages": [{ "role": "user", "content": prompt }] }).to_string();
        http(&address, "POST", "/v1/chat/completions", &body);
    }
    settled(&admin, prompts.len());
    drop(gateway);
    place
}

fn settled(admin: &str, count: usize) {
    let admin = admin.trim_start_matches("http://");
    let begun = std::time::Instant::now();
    loop {
        let (_, page) = http(admin, "GET", "/api/v1/requests?limit=100", "");
        if page["data"].as_array().is_some_and(|rows| rows.len() >= count) {
            return;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{count} requests are settled");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}

/// The gateway keeps such an answer itself and tells upstreams to keep nothing, which is no change of the configuration.
#[test]
fn a_request_whose_answer_is_kept_here_is_replayed_as_it_went() {
    let place = folder(&config("sealed", PRICES));
    let (gateway, address, admin) = serve(place.path());
    http(&address, "POST", "/v1/responses", &json!({ "model": "smart", "input": "a poem" }).to_string());
    settled(&admin, 1);
    drop(gateway);
    let told = text(&run(place.path(), &["replay", "--records", "data/records"]).stdout);
    assert!(told.contains("1 replayed: 1 with what they said") && told.contains("0 decisions would be"), "{told}");
}

/// A configuration beside the first, with a script of its own.
fn candidate(place: &Path, script: &str, prices: &str) {
    let folder = place.join("candidate");
    fs::create_dir_all(folder.join("scripts")).expect("a folder");
    fs::write(folder.join("gateway.toml"), config("off", prices)).expect("written");
    fs::write(folder.join("scripts/a.rhai"), script).expect("written");
}

fn replay(place: &Path, more: &[&str]) -> String {
    let arguments = ["replay", "--records", "data/records", "--config", "candidate/gateway.toml"];
    let output = run(place, &[&arguments, more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn told(place: &Path, more: &[&str]) -> Value {
    serde_json::from_str(&replay(place, &[more, &["--json"]].concat())).expect("JSON")
}

const PROMPTS: [&str; 5] = ["an essay on tides", "hello", "a forbidden thing", "another essay", "good night"];

#[test]
fn decisions_that_would_change_are_counted_with_examples_and_cost() {
    let place = recorded("sealed", &PROMPTS);
    candidate(place.path(), SCRIPT, PRICES);
    let same = told(place.path(), &[]);
    assert_eq!(
        (&same["records"], &same["replayed"], &same["with_bodies"]),
        (&5.into(), &5.into(), &5.into()),
        "{same}"
    );
    assert_eq!(same["changed"], 0, "the same policy decides the same: {same}");
    assert_eq!(same["cost"]["difference_usd"], "0", "{same}");
    // Essays go elsewhere, what was forbidden is allowed, and a price has doubled.
    let other = SCRIPT.replace("mock/long", "mock/other").replace("\"forbidden\"", "\"banned\"");
    candidate(place.path(), &other, &PRICES.replace("\"2\"", "\"4\""));
    let found = told(place.path(), &[]);
    assert_eq!(found["counts"]["target"], 3, "{found}");
    assert_eq!(found["counts"]["refused"], 1, "{found}");
    assert_eq!(found["counts"]["verdict"], 1, "{found}");
    assert_eq!(found["changed"], 3, "{found}");
    let way = found["changes"].as_array().and_then(|all| all.first()).expect("a change");
    assert_eq!(
        (&way["was"], &way["now"], &way["count"]),
        (&"mock/long".into(), &"mock/other".into(), &2.into()),
        "{found}"
    );
    assert!(way["examples"][0].as_str().is_some_and(|id| id.starts_with("req_")), "{found}");
    assert!(found["cost"]["difference_usd"].as_str().is_some_and(|usd| usd.starts_with("0.0")), "{found}");
    let text = replay(place.path(), &[]);
    assert!(text.contains("mock/long → mock/other") && text.contains("cost "), "{text}");
    assert_eq!(text, replay(place.path(), &[]), "the same records give the same bytes");
    assert_eq!(found, told(place.path(), &[]));
    // Two configurations: parameters too, of all that the baseline let pass.
    let warm = other
        .replace("fn request(request, context) {", "fn request(request, context) {\n    request.temperature = 0.5;");
    candidate(place.path(), &warm, PRICES);
    let found = told(place.path(), &["--baseline", "gateway.toml"]);
    assert_eq!((&found["baseline"], &found["counts"]["params"]), (&"configuration".into(), &4.into()), "{found}");
    assert!(found.to_string().contains("temperature = 0.5") && !found.to_string().contains("tides"), "{found}");
    assert_eq!(told(place.path(), &["--limit", "2"])["records"], 2);
    assert_eq!(told(place.path(), &["--since", "2999-01-01"])["records"], 0);
    assert_eq!(told(place.path(), &["--since", "1h"])["records"], 5);
    // Without the key nothing opens, and facts are all there is.
    fs::rename(place.path().join("data/master.key"), place.path().join("key")).expect("moved");
    assert_eq!(told(place.path(), &[])["with_bodies"], 0);
    assert_eq!(told(place.path(), &["--master-key", "key"])["with_bodies"], 5);
}

#[test]
fn what_the_mock_answered_for_want_of_keys_is_told_so_again() {
    let keyless = |bodies: &str| {
        let keyless = "[{ provider = \"groq\", model = \"llama\" }]\nfailover = [\"mock/short\"]";
        let models = config(bodies, PRICES).replace("[{ provider = \"mock\", model = \"short\" }]", keyless);
        format!("{models}[providers.groq]\nkey = \"env:PORTCULLIS_HAS_NO_SUCH_KEY\"\n")
    };
    let place = folder(&keyless("sealed"));
    let (gateway, address, admin) = serve(place.path());
    let body = json!({ "model": "smart", "messages": [{ "role": "user", "content": "hello" }] }).to_string();
    http(&address, "POST", "/v1/chat/completions", &body);
    settled(&admin, 1);
    drop(gateway);
    candidate(place.path(), "fn request(request, context) {}", PRICES);
    fs::write(place.path().join("candidate/gateway.toml"), keyless("off")).expect("written");
    let found = told(place.path(), &[]);
    assert_eq!((&found["replayed"], &found["changed"]), (&1.into(), &0.into()), "{found}");
}

#[test]
fn records_without_bodies_are_replayed_by_their_facts() {
    let place = recorded("off", &["hello", "good night", "hi"]);
    candidate(place.path(), SCRIPT, PRICES);
    let found = told(place.path(), &[]);
    assert_eq!((&found["with_bodies"], &found["not_fully"]), (&0.into(), &3.into()), "a stage reads text: {found}");
    assert_eq!(found["changed"], 0, "{found}");
    let by_facts = "fn route(request, targets, context) { if request.model == \"smart\" { return \"mock/new\"; } }";
    candidate(place.path(), by_facts, PRICES);
    let found = told(place.path(), &[]);
    assert_eq!((&found["not_fully"], &found["counts"]["target"]), (&0.into(), &3.into()), "{found}");
    assert!(replay(place.path(), &[]).contains("3 records, 3 replayed: 0 with what they said, 3 by their facts"));
}

#[test]
fn failures_of_upstreams_are_played_again() {
    let place = folder(&format!(
        "{}\n[models.pair]\ntargets = [{{ provider = \"mock\", model = \"a\" }}]\nfailover = [\"mock/b\"]\n",
        config("sealed", PRICES)
    ));
    let (gateway, address, admin) = serve(place.path());
    // The mock refuses at every target.
    let body = r#"{"model":"pair","messages":[{"role":"user","content":"[mock: status=503]"}]}"#;
    let (status, _) = http(&address, "POST", "/v1/chat/completions", body);
    assert_eq!(status, 503);
    settled(&admin, 1);
    drop(gateway);
    let candidate = place.path().join("candidate");
    fs::create_dir(&candidate).expect("a folder");
    let other = format!(
        "{}\n[models.pair]\ntargets = [{{ provider = \"mock\", model = \"a\" }}]\nfailover = [\"mock/c\"]\n",
        config("off", PRICES)
    );
    fs::write(candidate.join("gateway.toml"), other).expect("written");
    let found = told(place.path(), &[]);
    assert_eq!(found["counts"]["refused"], 1, "a target that was never asked answers: {found}");
    assert!(found.to_string().contains("503 upstream_overloaded"), "{found}");
}

#[test]
fn a_candidate_that_is_wrong_is_refused_with_its_lines() {
    let place = folder("");
    fs::create_dir(place.path().join("data")).expect("a folder");
    fs::write(place.path().join("bad.toml"), "[modles]\n").expect("written");
    fs::write(place.path().join("records.jsonl"), "").expect("written");
    let output = run(place.path(), &["replay", "--records", "records.jsonl", "--config", "bad.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("modles"));
    let output = run(place.path(), &["replay", "--records", "data"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds no records"));
}

const SECRET: &str = "the secret of the house";

/// An admin call with the token.
fn with_token(admin: &str, path: &str, token: Option<&str>) -> (u16, Value) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(admin).expect("connect");
    let proof = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\n{proof}connection: close\r\n\r\n").expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// A gateway whose admin plane wants a token.
fn guarded(place: &Path) -> (Gateway, String, String) {
    let toml = config("sealed", PRICES).replace("[admin]\n", "[admin]\ntoken = \"file:token\"\n");
    fs::write(place.join("gateway.toml"), toml).expect("written");
    fs::write(place.join("token"), "the-admin-token-of-this-test").expect("written");
    let (gateway, address, admin) = serve(place);
    (gateway, address, admin.trim_start_matches("http://").to_owned())
}

#[test]
fn bodies_are_sealed_on_disk_and_shown_to_who_has_the_token_and_asks_also_after_a_kill() {
    let token = Some("the-admin-token-of-this-test");
    let place = folder("");
    let (mut gateway, address, mut admin) = guarded(place.path());
    for stream in [false, true] {
        let body = json!({ "model": "smart", "stream": stream, "messages": [{ "role": "user", "content": SECRET }] });
        let (status, _) = http(&address, "POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200);
    }
    let rows =
        |admin: &str| with_token(admin, "/api/v1/requests", token).1["data"].as_array().cloned().unwrap_or_default();
    let begun = std::time::Instant::now();
    while rows(&admin).len() < 2 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "two requests are settled");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    for round in 0..2 {
        for row in rows(&admin) {
            let id = row["id"].as_str().expect("an id");
            let path = format!("/api/v1/requests/{id}");
            let (_, plain) = with_token(&admin, &path, token);
            assert!(plain["bodies"].is_null() && !plain.to_string().contains(SECRET), "nobody asked: {plain}");
            let (status, asked) = with_token(&admin, &format!("{path}?bodies=1"), token);
            assert_eq!(status, 200, "{asked}");
            assert!(asked["bodies"]["request"].as_str().is_some_and(|text| text.contains(SECRET)), "{round}: {asked}");
            let answer = asked["bodies"]["answer"]["body"].as_str().expect("an answer");
            assert!(answer.contains("heard"), "{answer}");
            assert_eq!(with_token(&admin, &format!("{path}?bodies=1"), None).0, 401);
        }
        // Killed, not stopped.
        drop(gateway);
        let (next, _, again) = guarded(place.path());
        (gateway, admin) = (next, again);
    }
    drop(gateway);
    let mut kept = 0;
    for entry in fs::read_dir(place.path().join("data/records")).expect("records").flatten() {
        let bytes = fs::read(entry.path()).expect("a file");
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{}", entry.path().display());
        kept += usize::from(entry.file_name().to_string_lossy().ends_with(".bodies"));
    }
    assert!(kept > 0, "they are kept beside the records");
}

#[test]
fn without_a_token_bodies_are_not_shown_and_without_the_word_none_are_kept() {
    let place = recorded("sealed", &[SECRET]);
    let (gateway, _, admin) = serve(place.path());
    let admin = admin.trim_start_matches("http://").to_owned();
    let id = http(&admin, "GET", "/api/v1/requests", "").1["data"][0]["id"].as_str().expect("an id").to_owned();
    let (status, told) = http(&admin, "GET", &format!("/api/v1/requests/{id}?bodies=1"), "");
    assert_eq!(status, 403, "{told}");
    assert!(told.to_string().contains("admin.token"), "{told}");
    drop(gateway);
    let place = recorded("off", &[SECRET]);
    let names = fs::read_dir(place.path().join("data/records")).expect("records").flatten();
    assert!(names.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().ends_with(".bodies")));
}

#[test]
fn a_full_disk_costs_bodies_not_requests_and_heals() {
    let token = Some("the-admin-token-of-this-test");
    let place = folder("");
    let data = place.path().join("data");
    let _disk = match crate::state::Disk::mount(&data, "24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let (_gateway, address, admin) = guarded(place.path());
    let ask = |text: &str| {
        let body = json!({ "model": "smart", "messages": [{ "role": "user", "content": text }] }).to_string();
        http(&address, "POST", "/v1/chat/completions", &body).0
    };
    let newest =
        || with_token(&admin, "/api/v1/requests?limit=1", token).1["data"][0]["id"].as_str().map(str::to_owned);
    let said =
        |id: &str| with_token(&admin, &format!("/api/v1/requests/{id}?bodies=1"), token).1["bodies"]["request"].clone();
    let after = |before: Option<String>| {
        let begun = std::time::Instant::now();
        loop {
            match newest() {
                Some(id) if Some(&id) != before.as_ref() => return id,
                _ => std::thread::park_timeout(std::time::Duration::from_millis(20)),
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(20), "the request is settled");
        }
    };
    assert_eq!(ask("before"), 200);
    let first = after(None);
    assert!(said(&first).as_str().is_some_and(|text| text.contains("before")));
    crate::state::Disk::fill(&data);
    // What does not compress into what is left of a page.
    let mut mark = 7u64;
    let noise = std::iter::repeat_with(|| {
        mark = mark.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (mark >> 59) as u8 % 26)
    });
    let long: String = noise.take(64 << 10).collect();
    assert_eq!(ask(&long), 200, "serving goes on");
    let second = after(Some(first.clone()));
    assert!(said(&second).is_null(), "there was no room for it");
    assert!(said(&first).is_string(), "what was kept stays");
    fs::remove_file(data.join("ballast")).expect("room");
    assert_eq!(ask("afterwards"), 200);
    let third = after(Some(second));
    assert!(said(&third).as_str().is_some_and(|text| text.contains("afterwards")), "bodies are kept again");
}

/// Two targets by what is left of their quotas: which is first, only what was left then would tell.
#[test]
fn another_first_target_for_want_of_figures_is_told_apart_and_no_change() {
    let pair = |bodies: &str, other: &str| {
        format!(
            "{}\n[models.pair]\nstrategy = \"quota\"\ntargets = [\n  {{ provider = \"mock\", model = \"a\", quota = {{ requests = 1, per = \"2h\" }} }},\n  {{ provider = \"mock\", model = \"{other}\", quota = {{ requests = 50, per = \"7d\" }} }},\n]\n",
            config(bodies, PRICES)
        )
    };
    let place = folder(&pair("sealed", "b"));
    let (gateway, address, admin) = serve(place.path());
    let body = r#"{"model":"pair","messages":[{"role":"user","content":"hello"}]}"#;
    for _ in 0..3 {
        assert_eq!(http(&address, "POST", "/v1/chat/completions", body).0, 200);
    }
    settled(&admin, 3);
    drop(gateway);
    let candidate = place.path().join("candidate");
    fs::create_dir(&candidate).expect("a folder");
    fs::write(candidate.join("gateway.toml"), pair("off", "b")).expect("written");
    let found = told(place.path(), &[]);
    assert_eq!(
        (&found["replayed"], &found["changed"], &found["by_figures"]),
        (&3.into(), &0.into(), &2.into()),
        "{found}"
    );
    let text = replay(place.path(), &[]);
    assert!(text.contains("2 of these went by latency, load or quotas"), "{text}");
    // Another target is a difference.
    fs::write(candidate.join("gateway.toml"), pair("off", "c")).expect("written");
    let found = told(place.path(), &[]);
    assert_eq!(&found["by_figures"], 0, "{found}");
    assert_eq!(found["counts"]["target"], 2, "{found}");
}

#[test]
fn a_damaged_file_of_records_is_told_by_its_name() {
    let place = folder(&config("off", PRICES));
    fs::create_dir(place.path().join("records")).expect("a folder");
    fs::write(place.path().join("records/2026-01-01T01.jsonl.zst"), "no zstd").expect("written");
    let told = text(&run(place.path(), &["replay", "--records", "records"]).stderr);
    assert!(told.contains("records/2026-01-01T01.jsonl.zst is damaged"), "{told}");
}
