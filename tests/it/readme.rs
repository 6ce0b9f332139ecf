//! README.md is true: its commands run in a fresh folder with the built program and print what it says they print, its
//! links lead somewhere, and its tables name exactly what exists. Leaves `cargo` and `tests/run` out.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support;

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

#[tokio::test]
async fn its_commands_print_what_it_says_they_print() {
    if let Some(tool) = ["bash", "curl"].into_iter().find(|tool| Command::new(tool).arg("--version").output().is_err())
    {
        assert!(std::env::var_os("PORTCULLIS_NO_SKIP").is_none(), "no {tool}");
        eprintln!("skipped: no {tool}");
        return;
    }
    let newcomer = Newcomer::start();
    newcomer.run(newcomer.greeting.split("Try it:\n").nth(1).expect("the start shows a curl line"));
    let blocks = blocks(&readme());
    let mut ran = 0;
    for (at, block) in blocks.iter().enumerate() {
        match block.info.split_once(' ') {
            Some((_, file)) => newcomer.save(file, &block.text).await,
            None if block.info == "sh" && !block.text.contains("cargo ") => {
                let output = newcomer.run(&block.text);
                let next = blocks.get(at + 1).filter(|b| b.info == "text").unwrap_or_else(|| panic!("{}", block.text));
                expect(&next.text, &output);
                ran += 1;
            }
            None => {}
        }
    }
    assert!(ran > 6, "{ran} blocks");
}

#[test]
fn its_start_is_one_block_of_two_commands() {
    let starts: Vec<String> =
        blocks(&readme()).into_iter().map(|b| b.text).filter(|t| t.contains("tests/run")).collect();
    assert_eq!(starts, ["cargo run --release\ntests/run\n"]);
}

#[test]
fn links_lead_somewhere() {
    for document in ["README.md", "core/README.md", "plugins/README.md", "scripts/README.md"] {
        let text = read(document);
        let folder = root().join(document);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let target = folder.with_file_name("").join(link.split('#').next().unwrap_or(link));
            assert!(target.exists(), "{document}: {link}");
        }
    }
}

#[test]
fn the_code_map_lists_the_modules_in_their_order() {
    let lib = read("core/lib.rs");
    let modules: Vec<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let map = read("core/README.md");
    let rows =
        map.lines().skip_while(|line| !line.starts_with("| module |")).skip(2).take_while(|l| l.starts_with('|'));
    let told: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(told, modules);
    let way = column(&map, "| step |", 1);
    assert!(way.len() > 15);
    for file in way.iter().filter(|word| word.ends_with(".rs") && !word.contains('*')) {
        assert!(root().join("core").join(file).exists(), "core/README.md: {file}");
    }
}

#[test]
fn its_configuration_table_has_every_key_that_exists() {
    let schema: Value = serde_json::from_str(&portcullis(&["schema"])).expect("a schema");
    let mut known = BTreeSet::new();
    keys(&schema, &schema, "", &mut known);
    let told: BTreeSet<String> = column(&readme(), "| key |", 0).into_iter().collect();
    // Said as one row each: tables that share a row.
    let inside = |key: &str| {
        [
            "providers.NAME.timeouts.",
            "models.NAME.targets[].",
            "teams.NAME.defaults.",
            "models.NAME.limits.",
            "models.NAME.budget.",
            "providers.NAME.limits.",
            "providers.NAME.budget.",
            "tags.NAME.limits.",
            "tags.NAME.budget.",
            "stages[].config.",
            "pricing[].tiers[].",
            "pricing[].services.",
            // The same keys as a team's.
            "organisations.NAME.",
            "users.NAME.",
            "auth.jwt.NAME.claims.tags.",
        ]
        .iter()
        .any(|table| key.starts_with(table))
            || key == "providers.NAME.headers.NAME"
    };
    let absent: Vec<&String> = known.iter().filter(|key| !inside(key) && !told.contains(*key)).collect();
    assert!(absent.is_empty(), "README.md lacks {absent:?}");
    let exists = |key: &str| {
        let one_or_many = |k: &String| k.ends_with(".budget") && key.starts_with(&format!("{k}."));
        let under = |k: &String| k.starts_with(&format!("{key}.")) || k.starts_with(&format!("{key}["));
        known.iter().any(|k| k == key || under(k) || one_or_many(k))
    };
    let invented: Vec<&String> = told.iter().filter(|key| !exists(key)).collect();
    assert!(invented.is_empty(), "README.md invents {invented:?}");
}

#[test]
fn its_endpoints_are_those_of_the_table() {
    let told: BTreeSet<String> = column(&readme(), "| path |", 0).into_iter().collect();
    // Gemini's other spellings of the version are one sentence.
    let plain = |path: &str| match path.contains(':') {
        true => path.replace("/v1/", "/v1beta/"),
        false => path.replace("/v1beta1/", "/v1beta/"),
    };
    let rows = &portcullis::endpoint::TABLE;
    let there: BTreeSet<String> = rows.iter().map(|row| format!("{} {}", row.method, plain(row.path))).collect();
    assert_eq!(told, there);
}

#[test]
fn its_commands_are_those_of_the_program() {
    let told = column(&readme(), "| command |", 0);
    let told: BTreeSet<&str> = told.iter().filter_map(|c| c.strip_prefix("portcullis ")).collect();
    let help = portcullis(&["--help"]);
    let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of commands");
    // A long description goes on in the next line, further in.
    let names = list.lines().filter(|line| !line.starts_with("   "));
    let there: BTreeSet<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(told, there);
    for command in there {
        assert!(portcullis(&[command, "--help"]).contains("\nExample:\n"), "{command} has no example");
    }
}

#[test]
fn its_error_codes_exist() {
    let mut sources = String::new();
    collect(&root().join("core"), &mut sources);
    for code in column(&readme(), "| status |", 1) {
        assert!(sources.contains(&format!("\"{code}\"")), "{code}");
    }
}

#[test]
fn its_mock_takes_what_the_mock_takes() {
    let name = |item: &String| item.split('=').next().unwrap_or(item).to_owned();
    let told: Vec<String> = column(&readme(), "| item |", 0).iter().map(name).collect();
    let own = read("core/provider/mock/mod.rs").replace("//! ", "");
    let there: Vec<String> = column(&own, "| item |", 0).iter().map(name).collect();
    assert!(told.len() > 10);
    assert_eq!(told, there);
}

/// A folder with what a clone has, and the gateway running in it.
struct Newcomer {
    dir: tempfile::TempDir,
    gateway: Child,
    greeting: String,
    /// What the README calls it, and what it is here.
    addresses: [(&'static str, String); 3],
    path: std::ffi::OsString,
}

impl Newcomer {
    fn start() -> Newcomer {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("scripts")).expect("scripts/");
        for file in ["scripts/route.rhai", "scripts/route.test.toml"] {
            fs::copy(root().join(file), dir.path().join(file)).expect(file);
        }
        fs::create_dir_all(dir.path().join("plugins/hello")).expect("plugins/hello/");
        fs::copy(root().join("plugins/hello/hello.wasm"), dir.path().join("plugins/hello/hello.wasm")).expect("hello");
        let config =
            read("gateway.toml").replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:8081", "127.0.0.1:0");
        fs::write(dir.path().join("gateway.toml"), config).expect("gateway.toml");
        let screen = fs::File::create(dir.path().join("screen")).expect("screen");
        let mut command = Command::new(PROGRAM);
        command.current_dir(dir.path()).env_clear().stdout(screen).stderr(Stdio::null());
        let gateway = command.spawn().expect("the gateway starts");
        let mut newcomer =
            Newcomer { dir, gateway, greeting: String::new(), addresses: Default::default(), path: with_program() };
        let shown = wait_for("the start's screen", || {
            let text = fs::read_to_string(newcomer.dir.path().join("screen")).ok()?;
            text.trim_end().ends_with('\'').then_some(text)
        });
        let address = |head: &str| {
            let line = shown.lines().find_map(|line| line.trim().strip_prefix(head)).expect(head);
            line.trim().trim_start_matches("http://").to_owned()
        };
        // The mock's port is free now, and nobody else asks for it by number.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        newcomer.addresses = [
            ("127.0.0.1:8080", address("gateway")),
            ("127.0.0.1:8081", address("admin")),
            ("127.0.0.1:8090", free.to_string()),
        ];
        assert!(shown.lines().count() <= 40, "the start fits a screen");
        newcomer.greeting = shown;
        newcomer
    }

    /// Runs README text in the folder; its output, errors included.
    fn run(&self, text: &str) -> String {
        let mut script = format!("exec 2>&1\n{text}");
        for (theirs, ours) in &self.addresses {
            script = script.replace(theirs, ours);
        }
        let key = fs::read_to_string(self.dir.path().join("data/first-key")).expect("the first key");
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", &self.path)
            .env("KEY", key.trim())
            .output()
            .expect("bash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}\n{text}");
        text
    }

    /// Saves a file of the README, and waits until the running gateway has taken it up.
    async fn save(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join(file), text).expect(file);
        let admin = self.addresses[1].1.parse().expect("an address");
        let end = Instant::now() + PATIENCE;
        while file.ends_with(".rhai") {
            let host = [("host", self.addresses[1].1.as_str())];
            let status = support::request(admin, "GET", "/api/v1/config/status", &host, b"").await.json();
            if status["running"]["stages"].as_array().is_some_and(|all| all.iter().any(|s| s["use"] == file)) {
                return;
            }
            assert!(Instant::now() < end, "{file} did not go live: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "no {what} in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Each line of `wanted` is a line of `output`, in that order; `…` stands for anything.
fn expect(wanted: &str, output: &str) {
    let mut lines = output.lines();
    for wanted in wanted.lines().filter(|line| !line.trim().is_empty()) {
        assert!(lines.any(|line| alike(wanted.trim(), line.trim())), "README.md promises\n{wanted}\nin\n{output}");
    }
}

fn alike(wanted: &str, line: &str) -> bool {
    let mut pieces = wanted.split('…');
    let Some(mut rest) = line.strip_prefix(pieces.next().unwrap_or("").trim_end()) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        let piece = piece.trim();
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[test]
fn a_promise_of_other_output_is_noticed() {
    assert!(alike("{\"id\":\"c…\",\"model\":\"m\",…", "{\"id\":\"c1\",\"model\":\"m\",\"x\":1}"));
    assert!(alike("route.rhai … 100%", "route.rhai … 100%"));
    assert!(!alike("route.rhai … 100%", "route.rhai … 87%"));
    assert!(!alike("{\"model\":\"m\"}", "{\"model\":\"m\"} "));
    assert!(!alike("{\"model\":\"m\",…", "{\"model\":\"n\",\"x\":1}"));
}

/// A fenced block.
struct Block {
    info: String,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut all = Vec::new();
    let mut open: Option<Block> = None;
    for line in document.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Block { info: info.to_owned(), text: String::new() }),
            (Some(_), Some(_)) => all.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "every block ends");
    all
}

/// What stands in backticks in a column of the table that begins so.
fn column(document: &str, head: &str, at: usize) -> Vec<String> {
    let start = document.lines().skip_while(|line| !line.starts_with(head));
    let rows = start.skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(at + 1));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    let words: Vec<String> = words.collect();
    assert!(!words.is_empty(), "there is a table {head}");
    words
}

/// The leaves of a schema, as the README writes them.
fn keys(root: &Value, schema: &Value, path: &str, out: &mut BTreeSet<String>) {
    let schema = plain(root, schema);
    if let Some(properties) = schema["properties"].as_object() {
        let dot = if path.is_empty() { "" } else { "." };
        for (name, inner) in properties {
            keys(root, inner, &format!("{path}{dot}{name}"), out);
        }
    } else if schema["additionalProperties"].is_object() {
        keys(root, &schema["additionalProperties"], &format!("{path}.NAME"), out);
    } else if plain(root, &schema["items"])["properties"].is_object() {
        keys(root, &schema["items"], &format!("{path}[]"), out);
    } else {
        out.insert(path.to_owned());
    }
}

/// Behind references and "or nothing".
fn plain<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
        return plain(root, &root["$defs"][name]);
    }
    match schema["anyOf"].as_array().and_then(|all| all.iter().find(|s| s["type"] != "null")) {
        Some(first) if schema["anyOf"].as_array().is_some_and(|all| all.iter().any(|s| s["type"] == "null")) => {
            plain(root, first)
        }
        _ => schema,
    }
}

fn portcullis(arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn collect(folder: &Path, out: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            out.push_str(&fs::read_to_string(&path).expect("source"));
        }
    }
}

/// The folder of the program stands first on the path.
fn with_program() -> std::ffi::OsString {
    let mut folders = vec![Path::new(PROGRAM).with_file_name("")];
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    std::env::join_paths(folders).expect("a path")
}

fn readme() -> String {
    read("README.md")
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
