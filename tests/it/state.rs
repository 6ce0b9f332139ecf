//! The data directory through the real binary: damaged at random, on a full disk, killed in the middle of an import. What
//! comes out is every key, or a sentence; never a crash, a hang or a key too few.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis::{
    auth::{Keys, NewKey, terms::TermsRow},
    config::{self, StoreKind},
    store::{self, Store},
};

use crate::keys::{ask, folder, portcullis, run, serve, text};

#[test]
fn files_damaged_at_random_cost_no_key_unnoticed() {
    let template = folder("");
    let expected = fill(&template.path().join("data"));
    let seeds = if long() { 400 } else { 12 };
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..seeds {
        let place = folder("");
        copy(&template.path().join("data"), &place.path().join("data"));
        let done = damage(&place.path().join("data"), seed);
        let started = Instant::now();
        let out = run_within(place.path(), &["keys", "list", "--json"], Duration::from_secs(200));
        let (code, said) = (out.status.code(), text(&out.stderr));
        let story = format!("seed {seed} ({done}) after {:?}: {:?}\n{said}", started.elapsed(), out.status);
        assert!(!said.contains("panicked at") && !said.contains("backtrace"), "a crash: {story}");
        let outcome = match code {
            Some(0) => {
                assert_eq!(names(&out.stdout), expected, "keys differ: {story}");
                if said.is_empty() { "as if nothing were" } else { "saved, and said so" }
            }
            Some(1) => {
                let sentence =
                    ["is damaged", "was damaged", "damaged or changed", "version"].iter().any(|w| said.contains(w));
                assert!(sentence, "no sentence: {story}");
                "refused with a sentence"
            }
            _ => panic!("ended badly: {story}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
        if said.contains("Start again") {
            let again = run_within(place.path(), &["keys", "list", "--json"], Duration::from_secs(200));
            assert_eq!(names(&again.stdout), expected, "after a hang: {story}{}", text(&again.stderr));
        }
    }
    println!("{seeds} damaged stores: {outcomes:?}");
}

#[test]
fn a_full_disk_leaves_serving_alone_refuses_changes_and_heals() {
    let place = folder("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let data = place.path().join("data");
    let _disk = match Disk::mount(&data, "24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let (mut gateway, address, admin) = serve(place.path());
    let admin = admin.trim_start_matches("http://").to_owned();
    let (status, made) = http(&admin, "POST", "/api/v1/keys", r#"{"name":"before"}"#);
    assert_eq!(status, 201, "{made}");
    let key = made["key"].as_str().expect("key").to_owned();
    let (_, victim) = http(&admin, "POST", "/api/v1/keys", r#"{"name":"victim"}"#);
    let revoke = format!("/api/v1/keys/{}", victim["id"].as_str().expect("id"));
    let victim = victim["key"].as_str().expect("key").to_owned();
    assert_eq!(ask(&address, &victim), 200);

    Disk::fill(&data);
    let body = serde_json::json!({ "name": "n", "models": vec!["x".repeat(150); 100] }).to_string();
    let refused = (0..2_000).find_map(|_| {
        let (status, answer) = http(&admin, "POST", "/api/v1/keys", &body);
        (status != 201).then_some((status, answer))
    });
    let (status, answer) = refused.expect("the disk never got full");
    assert_eq!(status, 507, "{answer}");
    assert_eq!(answer["error"]["code"], "store_full");
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("free some space")), "{answer}");
    for _ in 0..5 {
        assert_eq!(ask(&address, &key), 200, "serving goes on");
    }
    assert_eq!(http(&admin, "GET", "/api/v1/keys?limit=1", "").0, 200, "and so do reads");
    for _ in 0..2 {
        assert_eq!(http(&admin, "DELETE", &revoke, "").0, 507, "it is not on the disk, and nobody says it is");
        assert_eq!(ask(&address, &victim), 401, "but it holds here at once");
    }
    let (status, ready) = http(&admin, "GET", "/health/ready", "");
    assert_eq!(status, 200, "{ready}");
    assert!(ready["store"].as_str().is_some_and(|s| s.starts_with("the disk is full")), "{ready}");
    let clients = address.trim_start_matches("http://");
    assert_eq!(http(clients, "GET", "/health/ready", "").1["store"], ready["store"]);
    assert_eq!(failing(&admin), "1");

    fs::remove_file(data.join("ballast")).expect("room");
    let deadline = Instant::now() + Duration::from_secs(20);
    let after = loop {
        let (status, answer) = http(&admin, "POST", "/api/v1/keys", r#"{"name":"after"}"#);
        match status {
            201 => break answer["key"].as_str().expect("key").to_owned(),
            507 if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(100)),
            _ => panic!("it did not heal: {status} {answer}"),
        }
    };
    assert_eq!(ask(&address, &after), 200);
    assert_eq!(http(&admin, "DELETE", &revoke, "").0, 200);
    assert_eq!(
        (http(&admin, "GET", "/health/ready", "").1["store"].as_str(), failing(&admin)),
        (Some("ok"), "0".into())
    );
    // What was acknowledged after it healed is as good as any.
    gateway.0.kill().expect("kill");
    gateway.0.wait().expect("wait");
    let (_gateway, address, _) = serve(place.path());
    assert_eq!((ask(&address, &key), ask(&address, &after), ask(&address, &victim)), (200, 200, 401));
}

/// Revoked while nothing could be written: told as what it is, and written as soon as there is room, by nobody's hand.
#[test]
fn a_key_revoked_on_a_full_disk_is_shown_so_and_stays_revoked() {
    let place = folder("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let data = place.path().join("data");
    let _disk = match Disk::mount(&data, "24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let (mut gateway, address, admin) = serve(place.path());
    let admin = admin.trim_start_matches("http://").to_owned();
    let (_, made) = http(&admin, "POST", "/api/v1/keys", r#"{"name":"victim"}"#);
    let (id, victim) = (made["id"].as_str().expect("id"), made["key"].as_str().expect("key"));
    let path = format!("/api/v1/keys/{id}");

    Disk::fill(&data);
    let body = serde_json::json!({ "name": "n", "models": vec!["x".repeat(150); 100] }).to_string();
    let full = (0..2_000).any(|_| http(&admin, "POST", "/api/v1/keys", &body).0 == 507);
    assert!(full, "the disk never got full");
    let (status, answer) = http(&admin, "DELETE", &path, "");
    assert!(status == 507 && answer["error"]["code"] == "store_full", "{answer}");
    let message = answer["error"]["message"].as_str().expect("message");
    for words in [id, "is refused by this gateway from now on", "as soon as there is room", "until then a restart"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert!(!message.contains("nothing was changed"), "{message}");
    assert_eq!(ask(&address, victim), 401);
    let (_, shown) = http(&admin, "GET", &path, "");
    assert!(shown["status"] == "revoked" && shown["revoked"].is_string(), "{shown}");
    let (_, listed) = http(&admin, "GET", "/api/v1/keys?status=revoked", "");
    assert_eq!(listed["data"][0]["id"], *id, "{listed}");

    fs::remove_file(data.join("ballast")).expect("room");
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = "/api/v1/audit?action=keys.delete&actor=system&outcome=done";
    while http(&admin, "GET", told, "").1["data"][0]["object"] != *id {
        assert!(Instant::now() < deadline, "it was never written");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    gateway.0.kill().expect("kill");
    gateway.0.wait().expect("wait");
    let (_gateway, address, _) = serve(place.path());
    assert_eq!(ask(&address, victim), 401, "refused after a restart, too");
}

#[test]
fn a_running_gateway_exports_and_a_stopped_one_imports() {
    let place = folder("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let (mut gateway, _, admin) = serve(place.path());
    let made = run(place.path(), &["keys", "create", "--name", "k", "-q", "--admin", &admin]);
    let key = text(&made.stdout).trim().to_owned();
    let done = run(place.path(), &["state", "export", "--admin", &admin]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let file = text(&done.stdout).split(" rows to ").nth(1).and_then(|t| t.lines().next()).expect("a path").to_owned();
    assert!(place.path().join(&file).exists(), "{file}");

    let busy = run(place.path(), &["state", "export"]);
    assert!(text(&busy.stderr).contains("add --admin"), "{}", text(&busy.stderr));
    let busy = run(place.path(), &["state", "import", &file, "--replace"]);
    assert!(text(&busy.stderr).contains("stop the gateway first"), "{}", text(&busy.stderr));
    let id = text(&run(place.path(), &["keys", "list", "--json", "--admin", &admin]).stdout);
    let id: serde_json::Value = serde_json::from_str(&id).expect("JSON");
    let id = id["data"][1]["id"].as_str().expect("id").to_owned();
    assert!(run(place.path(), &["keys", "revoke", &id, "--admin", &admin]).status.success());

    gateway.0.kill().expect("kill");
    // At once: the killed process's locks may still be there.
    let done = run(place.path(), &["state", "import", &file, "--replace"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    gateway.0.wait().expect("wait");
    let (_gateway, address, _) = serve(place.path());
    assert_eq!(ask(&address, &key), 200, "as it was when it was exported");
}

/// Killed at any moment of an import: the old store or the new one, and the next command works.
#[test]
fn an_import_that_is_killed_leaves_the_old_or_the_new_store() {
    let place = folder("");
    let old = fill(&place.path().join("data"));
    let exported = run(place.path(), &["state", "export", "--to", "all.jsonl"]);
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    assert!(run(place.path(), &["keys", "create", "--name", "one more"]).status.success());
    let more: BTreeSet<String> = old.iter().cloned().chain(["one more".to_owned()]).collect();
    let import = ["state", "import", "all.jsonl", "--replace"];
    let template = folder("");
    copy(&place.path().join("data"), &template.path().join("data"));
    let started = Instant::now();
    assert!(run(place.path(), &import).status.success());
    let usual = started.elapsed();
    let rounds = if long() { 150 } else { 8 };
    let mut outcomes = (0, 0);
    for round in 0..rounds {
        let data = place.path().join("data");
        fs::remove_dir_all(&data).expect("clear");
        copy(&template.path().join("data"), &data);
        let mut child = portcullis(place.path(), &import).spawn().expect("spawn");
        std::thread::park_timeout(usual * round / rounds);
        child.kill().expect("kill");
        child.wait().expect("wait");
        let out = run_within(place.path(), &["keys", "list", "--json"], Duration::from_secs(60));
        let found = names(&out.stdout);
        match (found == more, found == old) {
            (true, _) => outcomes.0 += 1,
            (_, true) => outcomes.1 += 1,
            _ => panic!("round {round}: {} keys: {}", found.len(), text(&out.stderr)),
        }
    }
    println!("{rounds} kills: {} old stores, {} new ones", outcomes.0, outcomes.1);
}

/// A store with a few hundred keys over several pages and lives; their names.
fn fill(data: &Path) -> BTreeSet<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let mut names = BTreeSet::new();
        for life in 0..3 {
            let config = config::Store { kind: StoreKind::Sled, path: data.to_owned() };
            let store: Arc<dyn Store> = store::open(&config).await.expect("open");
            let auth = config::Auth { required: true };
            let keys = Keys::open(store.clone(), &auth, &BTreeMap::new()).await.expect("keys");
            for n in 0..100 {
                let name = format!("key {life}-{n}");
                let models = (n % 7 == 0).then(|| vec![format!("mock/{}", "m".repeat(n)); n + 1]);
                let terms = TermsRow { models, ..TermsRow::default() };
                let new = NewKey { name: name.clone(), terms, ..NewKey::default() };
                let (info, _) = keys.create(new).await.expect("create");
                if n % 9 == 0 {
                    keys.revoke(&info.id, false).await.expect("revoke");
                }
                names.insert(name);
            }
            store.close().await.expect("close");
        }
        names
    })
}

/// One to three kinds of damage, by the seed; what was done.
fn damage(data: &Path, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in [data.join("sled"), data.join("sled/blobs")] {
        files.extend(fs::read_dir(folder).expect("sled").flatten().map(|e| e.path()).filter(|p| p.is_file()));
    }
    files.sort();
    if random.u8(..) < 40 {
        files = vec![data.join("commits")];
    }
    let mut done = Vec::new();
    for _ in 0..random.usize(1..=3) {
        // Twice the log: it is what matters.
        let at = random.usize(..files.len() + 2);
        let file = files.get(at).cloned().unwrap_or_else(|| data.join("sled/db"));
        let Ok(mut bytes) = fs::read(&file) else { continue };
        if bytes.is_empty() {
            continue;
        }
        let used = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
        let from = random.usize(..used);
        let what = match random.u8(..6) {
            0 => {
                for _ in 0..random.usize(1..40) {
                    bytes[random.usize(..used)] ^= 1 << random.u8(..8);
                }
                "bits flipped"
            }
            1 => {
                bytes.truncate(from);
                "cut"
            }
            2 => {
                let to = (from + random.usize(1..200_000)).min(bytes.len());
                bytes[from..to].fill(0);
                "a hole"
            }
            3 => {
                let to = (from + random.usize(1..5_000)).min(bytes.len());
                bytes[from..to].fill_with(|| random.u8(..));
                "noise"
            }
            4 => {
                let to = (from + 4096).min(bytes.len());
                let page = bytes[from..to].to_vec();
                let there = random.usize(..=bytes.len() - page.len());
                bytes[there..there + page.len()].copy_from_slice(&page);
                "a page at the wrong place"
            }
            _ => {
                fs::remove_file(&file).expect("remove");
                done.push(format!("{} removed", file.display()));
                continue;
            }
        };
        fs::write(&file, bytes).expect("write");
        done.push(format!("{what} in {}", file.display()));
    }
    if random.u8(..) < 64 {
        let _ = fs::remove_dir_all(data.join("export"));
        done.push("exports removed".into());
    }
    done.join(", ")
}

fn names(json: &[u8]) -> BTreeSet<String> {
    let list: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let rows = list["data"].as_array().into_iter().flatten();
    rows.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect()
}

/// As `run`, but nothing may hang.
fn run_within(place: &Path, args: &[&str], limit: Duration) -> Output {
    let mut child = portcullis(place, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let (stdout, stderr) = (drained(child.stdout.take()), drained(child.stderr.take()));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("kill");
            panic!("{args:?} hung for {limit:?}: {}", text(&stderr.join().expect("stderr")));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") }
}

/// Reads a pipe to its end beside everything else.
fn drained(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = pipe.expect("a pipe").read_to_end(&mut all);
        all
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy");
        }
    }
}

/// One call of the admin plane.
pub fn http(address: &str, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = std::net::TcpStream::connect(address).expect("connect");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// The gauge of a store that takes no changes.
fn failing(admin: &str) -> String {
    let mut stream = std::net::TcpStream::connect(admin).expect("connect");
    let head = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let line = answer.lines().find_map(|line| line.strip_prefix("portcullis_store_failing "));
    line.unwrap_or_default().to_owned()
}

/// A small file system, gone with the test.
pub struct Disk(PathBuf);

impl Disk {
    /// `Err`: this user may not mount. Where nothing may be skipped that is a failure.
    pub fn mount(at: &Path, size: &str) -> Result<Disk, String> {
        fs::create_dir_all(at).expect("folder");
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        let why = match mounted {
            Ok(out) if out.status.success() => return Ok(Disk(at.to_owned())),
            Ok(out) => text(&out.stderr),
            Err(e) => e.to_string(),
        };
        let no_skip = std::env::var_os("PORTCULLIS_NO_SKIP").is_some_and(|v| v == "1");
        assert!(!no_skip, "a tmpfs must be mounted for this test, which needs root: {why}");
        Err(format!("no tmpfs could be mounted: {why}"))
    }

    /// Leaves no byte.
    pub fn fill(at: &Path) {
        let mut file = fs::File::create(at.join("ballast")).expect("ballast");
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn long() -> bool {
    std::env::var_os("PORTCULLIS_LONG").is_some_and(|v| v == "1")
}
