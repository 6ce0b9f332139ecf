//! What black-box tests stand on: the real gateway on port 0, a scripted upstream that is the only fake, and a client
//! that reads raw HTTP/1.1 so that nothing between the wire and the assertion can smooth things over.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// One answer of the scripted upstream.
#[derive(Clone, Debug)]
pub struct Say {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub chunks: Vec<(Duration, Vec<u8>)>,
    pub end: End,
    /// Before the head.
    pub wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Clean,
    /// The connection dies.
    Cut,
    /// A whole answer, then the connection is closed without a word before.
    Close,
    /// The chunks are all that is written, head included; then the connection is closed.
    Raw,
    /// A whole answer, and bytes behind it that nobody asked for.
    Extra,
    /// Nothing more comes, the connection stays.
    Stall,
    /// The last chunk again and again, for ever.
    Flood,
}

impl Say {
    pub fn json(body: impl Into<String>) -> Say {
        Say::of(200, "application/json", body.into().into_bytes())
    }

    /// These bytes and nothing else, head included.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Say {
        Say::of(200, "", bytes.into()).end(End::Raw)
    }

    pub fn error(status: u16, body: &str) -> Say {
        Say::of(status, "application/json", body.as_bytes().to_vec())
    }

    pub fn sse(body: impl Into<String>) -> Say {
        Say::of(200, "text/event-stream", body.into().into_bytes())
    }

    pub fn of(status: u16, content_type: &str, body: Vec<u8>) -> Say {
        Say {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            chunks: vec![(Duration::ZERO, body)],
            end: End::Clean,
            wait: Duration::ZERO,
        }
    }

    /// Each frame in a chunk of its own.
    pub fn frames(frames: &[&str], pause: Duration) -> Say {
        let mut say = Say::sse("");
        say.chunks = frames.iter().map(|f| (pause, f.as_bytes().to_vec())).collect();
        say
    }

    pub fn end(mut self, end: End) -> Say {
        self.end = end;
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Say {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same bytes, each in a chunk of its own.
    pub fn bytewise(mut self) -> Say {
        let all = self.chunks.iter().flat_map(|(_, chunk)| chunk.clone());
        self.chunks = all.map(|byte| (Duration::ZERO, vec![byte])).collect();
        self
    }

    pub fn wait(mut self, wait: Duration) -> Say {
        self.wait = wait;
        self
    }
}

/// What the upstream heard.
#[derive(Clone, Debug)]
pub struct Heard {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Heard {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the upstream heard JSON")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

#[derive(Default)]
struct Script {
    says: VecDeque<Say>,
    /// When the queue is empty.
    always: Option<Say>,
    heard: Vec<Heard>,
    /// Connections that the gateway closed while an answer was under way.
    cancelled: usize,
    /// Bytes of bodies that were written.
    sent: usize,
}

/// A scripted provider.
#[derive(Clone)]
pub struct Upstream {
    pub addr: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Upstream {
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let upstream = Upstream { addr: listener.local_addr().expect("addr"), script: Arc::default() };
        let script = upstream.script.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, script.clone()));
            }
        });
        upstream
    }

    pub async fn saying(say: Say) -> Upstream {
        let upstream = Upstream::start().await;
        upstream.always(say);
        upstream
    }

    pub fn then(&self, say: Say) -> &Upstream {
        self.script.lock().expect("script").says.push_back(say);
        self
    }

    pub fn always(&self, say: Say) -> &Upstream {
        self.script.lock().expect("script").always = Some(say);
        self
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.script.lock().expect("script").heard.clone()
    }

    pub fn last(&self) -> Heard {
        self.heard().pop().expect("the upstream heard something")
    }

    pub fn cancelled(&self) -> usize {
        self.script.lock().expect("script").cancelled
    }

    /// Bytes of bodies that could be written so far.
    pub fn sent(&self) -> usize {
        self.script.lock().expect("script").sent
    }

    /// Waits until this many requests were heard.
    pub async fn hears(&self, count: usize) {
        eventually("the upstream hears the request", async || self.heard().len() >= count).await;
    }

    /// Waits until this many calls were cancelled.
    pub async fn is_cancelled(&self, count: usize) {
        eventually("the upstream call is cancelled", async || self.cancelled() >= count).await;
    }

    /// A provider table for gateway.toml.
    pub fn provider(&self, name: &str, format: &str) -> String {
        let version = if format == "gemini" { "v1beta" } else { "v1" };
        format!(
            "[providers.{name}]\nbase_url = \"http://{}/{version}\"\nformat = \"{format}\"\nauth = \"none\"\n",
            self.addr
        )
    }
}

async fn serve(mut socket: TcpStream, script: Arc<Mutex<Script>>) {
    let mut buffer = Vec::new();
    while let Some(heard) = read_request(&mut socket, &mut buffer).await {
        let say = {
            let mut script = script.lock().expect("script");
            script.heard.push(heard);
            script.says.pop_front().or_else(|| script.always.clone())
        };
        let Some(say) = say else { return };
        if !answer(&mut socket, &say, &script).await {
            return;
        }
    }
}

/// Writes one answer; false when the connection is over.
async fn answer(socket: &mut TcpStream, say: &Say, script: &Arc<Mutex<Script>>) -> bool {
    if !pause(socket, say.wait).await {
        script.lock().expect("script").cancelled += 1;
        return false;
    }
    if say.end == End::Raw {
        for (_, chunk) in &say.chunks {
            let _ = socket.write_all(chunk).await;
        }
        return false;
    }
    let mut head = format!("HTTP/1.1 {} X\r\ntransfer-encoding: chunked\r\n", say.status);
    for (name, value) in &say.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    if socket.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    for (wait, chunk) in &say.chunks {
        if !pause(socket, *wait).await {
            script.lock().expect("script").cancelled += 1;
            return false;
        }
        if chunk.is_empty() {
            continue;
        }
        let mut frame = format!("{:x}\r\n", chunk.len()).into_bytes();
        frame.extend_from_slice(chunk);
        frame.extend_from_slice(b"\r\n");
        if socket.write_all(&frame).await.is_err() {
            script.lock().expect("script").cancelled += 1;
            return false;
        }
        script.lock().expect("script").sent += chunk.len();
    }
    match say.end {
        End::Clean => socket.write_all(b"0\r\n\r\n").await.is_ok(),
        End::Cut | End::Raw => false,
        End::Close => {
            let _ = socket.write_all(b"0\r\n\r\n").await;
            false
        }
        End::Extra => {
            let more =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"smuggled\":true";
            socket.write_all(format!("0\r\n\r\n{more}").as_bytes()).await.is_ok()
        }
        End::Flood => {
            let chunk = say.chunks.last().map(|(_, chunk)| chunk.clone()).unwrap_or_default();
            let mut frame = format!("{:x}\r\n", chunk.len()).into_bytes();
            frame.extend_from_slice(&chunk);
            frame.extend_from_slice(b"\r\n");
            while socket.write_all(&frame).await.is_ok() {
                script.lock().expect("script").sent += chunk.len();
            }
            script.lock().expect("script").cancelled += 1;
            false
        }
        End::Stall => {
            pause(socket, Duration::from_secs(60)).await;
            script.lock().expect("script").cancelled += 1;
            false
        }
    }
}

/// Waits; false when the peer closes meanwhile.
async fn pause(socket: &mut TcpStream, wait: Duration) -> bool {
    if wait.is_zero() {
        return true;
    }
    let mut byte = [0];
    match tokio::time::timeout(wait, socket.peek(&mut byte)).await {
        Ok(Ok(0) | Err(_)) => false,
        Ok(Ok(_)) | Err(_) => true,
    }
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Heard> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at;
        }
        let mut piece = [0; 16384];
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&piece[..n]),
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or("").split(' ');
    let (method, path) = (first.next().unwrap_or("").to_owned(), first.next().unwrap_or("").to_owned());
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect();
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        let mut piece = [0; 65536];
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&piece[..n]),
        }
    }
    let body = buffer.drain(..length).collect();
    Some(Heard { method, path, headers, body })
}

/// The gateway under test.
pub struct Gateway {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    pub dir: tempfile::TempDir,
    running: Option<portcullis::cli::serve::Running>,
}

impl Gateway {
    /// `config` is gateway.toml without addresses; an open gateway with a memory store unless it says otherwise.
    pub async fn start(config: &str) -> Gateway {
        Gateway::with(config, &[]).await
    }

    /// With files beside gateway.toml (`scripts/a.rhai`).
    pub async fn with(config: &str, files: &[(&str, &str)]) -> Gateway {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            write(dir.path(), name, text);
        }
        Gateway::in_dir(dir, config).await
    }

    pub async fn in_dir(dir: tempfile::TempDir, config: &str) -> Gateway {
        write(dir.path(), "gateway.toml", complete(config));
        let running = portcullis::cli::serve::Running::start(&dir.path().join("gateway.toml"))
            .await
            .unwrap_or_else(|e| panic!("the gateway starts: {e}"));
        Gateway { addr: running.data_addr(), admin: running.admin_addr(), dir, running: Some(running) }
    }

    /// Saves gateway.toml anew.
    pub fn rewrite(&self, config: &str) {
        write(self.dir.path(), "gateway.toml", complete(config));
    }

    pub fn write(&self, name: &str, text: &str) {
        write(self.dir.path(), name, text);
    }

    pub async fn chat(&self, body: &str) -> Answer {
        self.post("/v1/chat/completions", body).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        request(self.addr, "POST", path, &[("content-type", "application/json")], body.as_bytes()).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        request(self.addr, "POST", path, headers, body.as_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        request(self.addr, "GET", path, &[], b"").await
    }

    pub async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let host = self.admin.to_string();
        request(self.admin, method, path, &[("host", &host), ("content-type", "application/json")], body.as_bytes())
            .await
    }

    /// The newest record, once there are `count`.
    pub async fn record(&self, count: usize) -> Value {
        let mut rows = Vec::new();
        eventually("the request is settled", async || {
            rows = self.admin("GET", "/api/v1/requests?limit=200", "").await.json()["data"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            rows.len() >= count
        })
        .await;
        rows.swap_remove(0)
    }

    /// A new key, through the admin API.
    pub async fn key(&self, body: &str) -> (String, String) {
        let answer = self.admin("POST", "/api/v1/keys", body).await;
        let json = answer.json();
        let field = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
        (field("id"), field("key"))
    }

    /// Stops as SIGTERM would.
    pub async fn stop(mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }
}

fn complete(config: &str) -> String {
    let mut all = String::new();
    for (section, text) in [
        ("[server]", "[server]\nlisten = \"127.0.0.1:0\"\ndrain_delay = \"0s\"\ndrain = \"2s\"\n"),
        ("[admin]", "[admin]\nlisten = \"127.0.0.1:0\"\n"),
        ("[store]", "[store]\nkind = \"memory\"\n"),
        ("[auth]", "[auth]\nrequired = false\n"),
    ] {
        if !config.contains(section) {
            all.push_str(text);
        }
    }
    all.push_str(config);
    all
}

fn write(root: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = root.join(name);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    // Like an editor: a new file, then a rename.
    let fresh = path.with_extension("new~");
    std::fs::write(&fresh, text).expect("written");
    std::fs::rename(&fresh, &path).expect("renamed");
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body's own end was seen (last chunk, or the stated length).
    pub complete: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

pub async fn request(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut socket = begin(addr, method, path, headers, body).await;
    let mut raw = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut raw)).await;
    assert!(read.is_ok(), "no end of the answer in 30 s: {}", String::from_utf8_lossy(&raw));
    parse(&raw)
}

/// Sends a request and leaves the connection open.
pub async fn begin(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.expect("connect");
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(n, _)| *n == "host") {
        head.push_str("host: gateway\r\n");
    }
    let chunked = headers.iter().any(|(n, _)| *n == "transfer-encoding" || *n == "content-length");
    if !chunked && method != "GET" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).await.expect("sent");
    // A gateway that refuses early may close before it has read all.
    let _ = socket.write_all(body).await;
    socket
}

pub fn parse(raw: &[u8]) -> Answer {
    let end = find(raw, b"\r\n\r\n").unwrap_or_else(|| panic!("a head: {:?}", String::from_utf8_lossy(raw)));
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status");
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect();
    let rest = &raw[end + 4..];
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
    let (body, complete) = if chunked {
        dechunk(rest)
    } else {
        let stated = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse::<usize>().ok());
        (rest.to_vec(), stated.is_none_or(|n| n == rest.len()))
    };
    Answer { status, headers, body, complete }
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = find(rest, b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..line]), 16).expect("a chunk size");
        if size == 0 {
            return (body, true);
        }
        let data = &rest[line + 2..];
        if data.len() < size + 2 {
            body.extend_from_slice(&data[..data.len().min(size)]);
            return (body, false);
        }
        body.extend_from_slice(&data[..size]);
        rest = &data[size + 2..];
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

/// The gateway as a process of its own: for what belongs to a process (signals, logs, metrics).
pub struct Process {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    dir: Option<tempfile::TempDir>,
    child: std::process::Child,
    log: Arc<Mutex<String>>,
    /// What it finds in its environment besides, each time that it is started.
    env: Vec<(String, String)>,
}

impl Process {
    pub async fn start(config: &str, files: &[(&str, &str)]) -> Process {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        Process::with(config, &files).await
    }

    /// The same with more in its environment.
    pub async fn in_env(config: &str, files: &[(&str, &str)], env: &[(String, String)]) -> Process {
        let dir = tempfile::tempdir().expect("a folder");
        files.iter().for_each(|(name, text)| write(dir.path(), name, text));
        write(dir.path(), "gateway.toml", complete(config));
        Process::run(dir, env.to_vec()).await
    }

    /// The same with files that need not be text.
    pub async fn with(config: &str, files: &[(&str, &[u8])]) -> Process {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, bytes) in files {
            write(dir.path(), name, bytes);
        }
        write(dir.path(), "gateway.toml", complete(config));
        Process::run(dir, Vec::new()).await
    }

    /// Bytes that it has in memory.
    pub fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("a running process");
        text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
    }

    /// Bytes that are its own: without what it has of files, its program among them.
    pub fn own_memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let own = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux");
        own.trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
    }

    /// What it has used of the processor, in the kernel and outside: hundredths of a second.
    pub fn processor_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a running process");
        // The name stands in brackets and may hold anything.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    async fn run(dir: tempfile::TempDir, env: Vec<(String, String)>) -> Process {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(dir.path()).env("PORTCULLIS_LOG", "debug").env_remove("PORTCULLIS_ADMIN_TOKEN");
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let piped = std::process::Stdio::piped;
        let mut child =
            command.stdin(std::process::Stdio::null()).stdout(piped()).stderr(piped()).spawn().expect("spawn");
        let log = Arc::new(Mutex::new(String::new()));
        let (out, err) = (child.stdout.take().expect("stdout"), child.stderr.take().expect("stderr"));
        copy(out, log.clone());
        copy(err, log.clone());
        let addresses = || -> Vec<SocketAddr> {
            let log = log.lock().expect("log");
            log.split_whitespace().filter_map(|w| w.strip_prefix("http://")?.parse().ok()).collect()
        };
        // With a million keys, in a build without optimisation, it takes minutes.
        for _ in 0..if crate::shared::long() { 1_500 } else { 0 } {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if addresses().len() >= 2 || child.try_wait().expect("wait").is_some() {
                break;
            }
        }
        eventually("the gateway prints its addresses", async || addresses().len() >= 2).await;
        let found = addresses();
        Process { addr: found[0], admin: found[1], dir: Some(dir), child, log, env }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("a folder").path()
    }

    /// Saves gateway.toml, or a file beside it, as an editor does.
    pub fn save(&self, name: &str, text: &str) {
        let text = if name == "gateway.toml" { complete(text) } else { text.to_owned() };
        write(self.path(), name, &text);
    }

    /// The same of any bytes; `in_place`: in two halves over what the file holds.
    pub fn put(&self, name: &str, bytes: &[u8], in_place: bool) {
        let path = self.path().join(name);
        if in_place {
            let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("it is there");
            let (first, second) = bytes.split_at(bytes.len() / 2);
            std::io::Write::write_all(&mut file, first).expect("written");
            std::io::Write::write_all(&mut file, second).expect("written");
            file.set_len(bytes.len() as u64).expect("cut");
            return;
        }
        let fresh = path.with_extension("new~");
        std::fs::write(&fresh, bytes).expect("written");
        std::fs::rename(&fresh, &path).expect("renamed");
    }

    /// As SIGTERM does; `again` starts it anew on the same folder.
    pub fn halt(&mut self) {
        self.terminate();
        self.child.wait().expect("wait");
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    pub async fn again(&mut self) {
        let (dir, env) = (self.dir.take().expect("a folder"), std::mem::take(&mut self.env));
        *self = Process::run(dir, env).await;
    }

    /// The most bytes that it ever had in memory.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// `kill -9`, and a new process on the same folder.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.again().await;
    }

    /// As SIGTERM does, and a new process on the same folder.
    pub async fn restart(&mut self) {
        self.halt();
        self.again().await;
    }

    pub async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let host = self.admin.to_string();
        request(self.admin, method, path, &[("host", &host), ("content-type", "application/json")], body.as_bytes())
            .await
    }

    /// All that was printed and logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    pub async fn metrics(&self) -> String {
        let host = self.admin.to_string();
        request(self.admin, "GET", "/metrics", &[("host", &host)], b"").await.text()
    }

    /// SIGTERM.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        // The shell's own: small machines have no such program.
        let sent = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().expect("sh");
        assert!(sent.success());
    }

    /// The exit code, once it has left.
    pub fn left(&mut self) -> Option<i32> {
        self.child.try_wait().expect("wait").and_then(|status| status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(mut from: impl std::io::Read + Send + 'static, to: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            to.lock().expect("log").push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    });
}

/// Reads until the text came; what was read before it is given back too.
pub async fn read_until(socket: &mut TcpStream, text: &str) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut piece = [0; 16384];
    while find(&raw, text.as_bytes()).is_none() {
        let read = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut piece)).await;
        match read.unwrap_or_else(|_| panic!("no {text:?} in 10 s: {}", String::from_utf8_lossy(&raw))) {
            Ok(count @ 1..) => raw.extend_from_slice(&piece[..count]),
            _ => panic!("the connection ended without {text:?}: {}", String::from_utf8_lossy(&raw)),
        }
    }
    raw
}

/// Reads to the connection's end, after what was read already.
pub async fn read_rest(socket: &mut TcpStream, mut raw: Vec<u8>) -> Answer {
    let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut raw)).await;
    assert!(read.is_ok(), "no end of the answer in 30 s: {}", String::from_utf8_lossy(&raw));
    parse(&raw)
}

/// Waits for an observable, at most fifteen seconds: what takes a tenth of one alone may take several on a busy machine.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..750 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("did not happen in 15 s: {what}");
}
