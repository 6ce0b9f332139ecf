//! The processes under measurement: started, pinned to core 1, asked for their CPU time and memory.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Upstream,
    Nginx,
    Forwarder,
    /// Key and the shipped route script on.
    Gateway,
    /// The same, and limits and a budget of the key's team, prices, records.
    GatewayFull,
    /// The same, and the plugin that masks personal data.
    GatewayRedact,
    /// Key on, no script.
    GatewayNoScript,
    /// No key, no script.
    GatewayOpen,
    /// No script; the key's user, team and organisation, the model, the provider and a tag, each with limits and a budget.
    GatewayPolicy,
    /// No script; a key of a team, one target, a provider with two keys.
    GatewayPlain,
    /// The same with four targets, and all that routing offers beside.
    GatewayRouted,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Upstream => "upstream alone",
            Kind::Nginx => "nginx",
            Kind::Forwarder => "bare hyper forwarder",
            Kind::Gateway => "portcullis, key + route.rhai",
            Kind::GatewayFull => "portcullis, everything on",
            Kind::GatewayRedact => "portcullis, everything + redact",
            Kind::GatewayNoScript => "portcullis, key, no script",
            Kind::GatewayOpen => "portcullis, no key, no script",
            Kind::GatewayPolicy => "portcullis, limits and budgets of every scope",
            Kind::GatewayPlain => "portcullis, key, one target",
            Kind::GatewayRouted => "portcullis, four targets, all of routing",
        }
    }
}

pub struct Subject {
    pub kind: Kind,
    pub addr: SocketAddr,
    pub key: String,
    pub idle_kib: u64,
    child: Option<Child>,
    _dir: Option<tempfile::TempDir>,
}

impl Subject {
    pub fn start(kind: Kind, upstream: SocketAddr) -> Subject {
        let mut subject = match kind {
            Kind::Upstream => {
                Subject { kind, addr: upstream, key: String::new(), idle_kib: 0, child: None, _dir: None }
            }
            Kind::Nginx => nginx(upstream),
            Kind::Forwarder => forwarder(upstream),
            _ => gateway(kind, upstream),
        };
        std::thread::sleep(Duration::from_millis(300));
        subject.idle_kib = subject.rss_kib();
        subject
    }

    /// CPU time of all threads of the process and its children, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.pids().into_iter().map(cpu_of).sum()
    }

    pub fn rss_kib(&self) -> u64 {
        self.pids().into_iter().map(rss_of).sum()
    }

    fn pids(&self) -> Vec<u32> {
        let Some(child) = &self.child else { return Vec::new() };
        let id = child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        std::iter::once(id).chain(children.split_whitespace().filter_map(|p| p.parse().ok())).collect()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // nginx's master must take its worker along.
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            // One that is instrumented writes its profile as it ends.
            let patience = Instant::now() + Duration::from_secs(5);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn pin(pid: u32, core: &str) {
    let done = Command::new("taskset").args(["-acp", core, &pid.to_string()]).stdout(Stdio::null()).status();
    assert!(done.is_ok_and(|s| s.success()), "taskset is needed (util-linux)");
}

fn forwarder(upstream: SocketAddr) -> Subject {
    let me = std::env::current_exe().expect("this program");
    let (child, addr) =
        spawn(Command::new("taskset").args(["-c", "1"]).arg(me).args(["forwarder", &upstream.to_string()]));
    Subject { kind: Kind::Forwarder, addr, key: String::new(), idle_kib: 0, child: Some(child), _dir: None }
}

fn nginx(upstream: SocketAddr) -> Subject {
    let dir = tempfile::tempdir().expect("a folder");
    let addr = free();
    let root = dir.path().display();
    let config = format!(
        "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; client_max_body_size 64m; client_body_buffer_size 2m; keepalive_requests 100000000;\n\
         client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
         upstream up {{ server {upstream}; keepalive 4096; keepalive_requests 100000000; }}\n\
         server {{ listen {addr} backlog=4096; location / {{ proxy_pass http://up; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_buffering off; proxy_request_buffering on; }} }} }}\n"
    );
    std::fs::write(dir.path().join("nginx.conf"), config).expect("written");
    let child = Command::new("taskset")
        .args(["-c", "1", "nginx", "-c"])
        .arg(dir.path().join("nginx.conf"))
        .args(["-p", &root.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx is needed (Debian: nginx-light)");
    wait_for(addr);
    Subject { kind: Kind::Nginx, addr, key: String::new(), idle_kib: 0, child: Some(child), _dir: Some(dir) }
}

/// The gateway's program: the one that cargo built beside this bench, or another build of it.
fn binary() -> String {
    std::env::var("PORTCULLIS_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_portcullis").to_owned())
}

fn gateway(kind: Kind, upstream: SocketAddr) -> Subject {
    let dir = tempfile::tempdir().expect("a folder");
    let (addr, admin) = (free(), free());
    let full = matches!(kind, Kind::GatewayFull | Kind::GatewayRedact);
    let policy = kind == Kind::GatewayPolicy;
    let (plain, routed) = (kind == Kind::GatewayPlain, kind == Kind::GatewayRouted);
    let config = format!(
        "[server]\nlisten = \"{addr}\"\n[admin]\nlisten = \"{admin}\"\n[store]\nkind = \"sled\"\npath = \"data\"\n[auth]\nrequired = {}\n\
         [providers.up]\nbase_url = \"http://{upstream}/v1\"\nformat = \"openai_chat\"\n\
         {}[models.auto]\n{}\n{}",
        kind != Kind::GatewayOpen,
        match kind {
            _ if policy => format!("auth = \"none\"\n{BOUND}"),
            _ if plain => KEYS.to_owned(),
            _ if routed => format!("{KEYS}quota = {QUOTA}\n"),
            _ => "auth = \"none\"\n".to_owned(),
        },
        if routed { routes() } else { "targets = [{ provider = \"up\", model = \"gpt-4o\" }]".to_owned() },
        match kind {
            _ if plain => "[teams.bench]\n".to_owned(),
            _ if routed => "[teams.bench]\npriority = \"high\"\nshare = 2\n".to_owned(),
            _ if policy => format!("{BOUND}{}", POLICY.replace("BOUND", BOUND)),
            _ if full => FULL.to_owned(),
            _ => String::new(),
        },
    );
    std::fs::write(dir.path().join("gateway.toml"), config).expect("written");
    for name in ["one.key", "two.key"] {
        std::fs::write(dir.path().join(name), format!("sk-{name}")).expect("written");
    }
    if kind == Kind::Gateway || full {
        std::fs::create_dir(dir.path().join("scripts")).expect("a folder");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/route.rhai");
        std::fs::copy(script, dir.path().join("scripts/route.rhai")).expect("the shipped script");
    }
    if kind == Kind::GatewayRedact {
        std::fs::create_dir(dir.path().join("plugins")).expect("a folder");
        let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/redact/redact.wasm");
        std::fs::copy(plugin, dir.path().join("plugins/redact.wasm")).expect("the plugin");
    }
    let log = std::fs::File::create(dir.path().join("log")).expect("a log");
    let child = Command::new("taskset")
        .args(["-c", "1", &binary(), "serve", "--config"])
        .arg(dir.path().join("gateway.toml"))
        .current_dir(dir.path())
        // nginx keeps no access log here either.
        .env("PORTCULLIS_LOG", "warn")
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the gateway");
    wait_for(addr);
    let kept = dir.path().join("data/first-key");
    let key = match kind {
        Kind::GatewayOpen => String::new(),
        _ if full || plain || routed => {
            first_key(&kept);
            made_key(admin, r#"{"name":"bench","team":"bench"}"#)
        }
        _ if policy => {
            first_key(&kept);
            made_key(admin, KEY)
        }
        _ => first_key(&kept),
    };
    Subject { kind, addr, key, idle_kib: 0, child: Some(child), _dir: Some(dir) }
}

const KEYS: &str = "auth = \"bearer\"\nkeys = [\"file:one.key\", \"file:two.key\"]\n";
/// Never used up.
const QUOTA: &str = "{ requests = 100000000000, tokens = 100000000000000, per = \"month\" }";

/// Four targets of the same upstream under everything that an alias offers.
fn routes() -> String {
    let target = |model| format!("{{ provider = \"up\", model = \"{model}\", quota = {QUOTA}, concurrency = 1000 }}");
    let targets = ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini"].map(target).join(",\n  ");
    format!(
        "strategy = \"least_latency\"\nsticky = \"session\"\nhedge = {{ after = \"30s\", max = 1 }}\ntargets = [\n  {targets}\n]"
    )
}

/// Limits and a budget that are kept but never reached.
const FULL: &str = r#"
[[pricing]]
model = "up/gpt-4o"
input = "2.50"
output = "10.00"
[teams.bench]
limits = { requests_per_minute = 1000000000, tokens_per_minute = 100000000000, concurrent = 100000 }
budget = { usd = 9000000, per = "month" }
"#;

/// The same for a provider, a model and each scope of a caller.
const BOUND: &str = "limits = { requests_per_minute = 1000000000, tokens_per_minute = 100000000000, requests_per_day = 100000000000, concurrent = 100000 }
budget = { usd = 9000000, per = \"month\" }
";
const POLICY: &str = r#"
[[pricing]]
model = "up/gpt-4o"
input = "2.50"
output = "10.00"
[organisations.bench]
BOUND
[teams.bench]
organisation = "bench"
BOUND
[users.ada]
teams = ["bench"]
roles = ["developer"]
BOUND
[tags."env=bench"]
BOUND
"#;
const KEY: &str = r#"{"name":"bench","user":"ada","tags":{"env":"bench"},"models":["*"],"operations":["chat"],
"limits":{"requests_per_minute":1000000000,"tokens_per_minute":100000000000,"requests_per_day":100000000000,"concurrent":100000},
"budget":{"usd":9000000,"per":"month"}}"#;

/// Made as an operator would.
fn made_key(admin: SocketAddr, body: &str) -> String {
    let mut socket = TcpStream::connect(admin).expect("the admin port");
    let request = format!(
        "POST /api/v1/keys HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    // Not the hint, which begins alike.
    let (_, key) = answer.split_once("\"key\":\"").expect("a key in the answer of the admin port");
    key.split('"').next().unwrap_or_default().to_owned()
}

/// Written at the very first start, a moment after the port is open.
fn first_key(path: &std::path::Path) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match std::fs::read_to_string(path) {
            Ok(key) if !key.trim().is_empty() => return key.trim().to_owned(),
            _ => assert!(Instant::now() < until, "no key in {}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spawn(command: &mut Command) -> (Child, SocketAddr) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("taskset is needed (util-linux)");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
    (child, line.trim().parse().expect("an address"))
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port")
}

fn wait_for(addr: SocketAddr) {
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(addr).is_err() {
        assert!(Instant::now() < until, "nothing listens on {addr}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cpu_of(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok())
        .filter_map(|s| s.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn rss_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|v| v.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0)
}
