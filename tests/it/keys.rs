//! Virtual keys through the real binary: what it acknowledged is there whatever killed it, and a running gateway takes
//! changes at once.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

/// Promise 35, at the command's own border: a key that was printed is in the store, whenever SIGKILL came.
#[test]
fn every_key_that_was_printed_survives_kill_9() {
    let folder = folder("");
    let create = ["keys", "create", "--name", "k", "--quiet"];
    let last4 = |out: &str| out.ends_with('\n').then(|| out.trim()[45..].to_owned());
    let mut printed: Vec<String> = last4(&text(&run(folder.path(), &create).stdout)).into_iter().collect();
    let started = Instant::now();
    printed.extend(last4(&text(&run(folder.path(), &create).stdout)));
    let usual = started.elapsed();
    for round in 0..KILL_ROUNDS {
        let mut child = portcullis(folder.path(), &create).spawn().expect("spawn");
        // From before the store is open until after the key is out.
        std::thread::park_timeout(usual * 3 * round / (2 * KILL_ROUNDS));
        child.kill().expect("kill");
        let mut out = String::new();
        child.stdout.take().expect("stdout").read_to_string(&mut out).expect("read");
        child.wait().expect("wait");
        printed.extend(last4(&out));
    }
    assert!(printed.len() > 2, "no round got as far as printing");
    let list: serde_json::Value =
        serde_json::from_slice(&run(folder.path(), &["keys", "list", "--json"]).stdout).expect("JSON");
    let rows = list["data"].as_array().expect("rows");
    for last4 in &printed {
        let held = rows.iter().any(|row| row["hint"].as_str().is_some_and(|hint| hint.ends_with(last4)));
        assert!(held, "a printed key ending in {last4} is gone: {list}");
    }
}

#[test]
fn a_running_gateway_holds_the_store_and_takes_changes_over_its_admin_plane() {
    let folder = folder("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let (_gateway, data, admin) = serve(folder.path());

    let made = run(folder.path(), &["keys", "create", "--name", "k", "-q", "--admin", &admin]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let key = text(&made.stdout).trim().to_owned();
    assert_eq!(ask(&data, &key), 200);

    let list = run(folder.path(), &["keys", "list", "--json", "--admin", &admin]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let id = list["data"].as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "k")).expect("the key");
    let revoked = run(folder.path(), &["keys", "revoke", id["id"].as_str().expect("id"), "--admin", &admin]);
    assert!(revoked.status.success());
    assert_eq!(ask(&data, &key), 401, "refused from the next request on");

    let locked = run(folder.path(), &["keys", "list"]);
    assert_eq!(locked.status.code(), Some(1));
    assert!(text(&locked.stderr).contains("--admin"), "{}", text(&locked.stderr));
}

pub fn folder(toml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("gateway.toml"), toml).expect("gateway.toml");
    folder
}

pub fn portcullis(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("PORTCULLIS_ADMIN_TOKEN").env("PORTCULLIS_LOG", "warn");
    command
}

pub fn run(folder: &Path, args: &[&str]) -> Output {
    portcullis(folder, args).output().expect("run")
}

/// Killed when the test ends, however it ends.
pub struct Gateway(pub Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway and its two addresses, read from what it prints.
pub fn serve(folder: &Path) -> (Gateway, String, String) {
    let mut gateway = Gateway(portcullis(folder, &["serve"]).stderr(Stdio::inherit()).spawn().expect("spawn"));
    let mut lines = BufReader::new(gateway.0.stdout.take().expect("stdout")).lines();
    let mut seen = String::new();
    let mut addresses: Vec<String> = Vec::new();
    while addresses.len() < 2 {
        let line = lines.next().unwrap_or_else(|| panic!("no two addresses in:\n{seen}")).expect("line");
        let found = line.split_whitespace().filter_map(|word| word.split("http://").nth(1));
        addresses.extend(found.map(|at| at.split('/').next().unwrap_or(at).to_owned()));
        seen.push_str(&line);
        seen.push('\n');
    }
    // The rest of the greeting must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    let admin = format!("http://{}", addresses[1]);
    (gateway, addresses.swap_remove(0), admin)
}

/// The status of one small question with this key.
pub fn ask(data: &str, key: &str) -> u16 {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(data).expect("connect");
    let body = r#"{"model":"mock","messages":[{"role":"user","content":"hi"}]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("send");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const KILL_ROUNDS: u32 = 20;
