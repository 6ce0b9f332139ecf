//! The load: raw HTTP/1.1 over kept connections, closed loop, open loop or slow streams. Every answer's end is checked.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};

use crate::{
    Scenario, What,
    subject::{Kind, Subject},
    upstream::EVENTS,
};

pub struct Load {
    addr: SocketAddr,
    request: Rc<Vec<u8>>,
    connections: usize,
    what: What,
    sessions: bool,
}

/// A round's counts.
#[derive(Default)]
pub struct Outcome {
    pub latencies_us: Vec<f64>,
    /// Requests, or stream events.
    pub units: u64,
    pub errors: u64,
    /// Events that never came.
    pub lost: u64,
    pub took: Duration,
}

impl Load {
    pub fn new(scenario: &Scenario, subject: &Subject) -> Load {
        let gateway = !matches!(subject.kind, Kind::Upstream | Kind::Nginx | Kind::Forwarder);
        let text =
            "Lorem ipsum dolor sit amet, consectetur adipiscing elit. ".repeat(scenario.prompt.max(512) / 57 + 1);
        let text = &text[..scenario.prompt.max(512)];
        let stream = matches!(scenario.what, What::Streams(_));
        // The alias that the shipped script looks at.
        let model = if gateway { "auto" } else { "gpt-4o" };
        let flag = if stream { "\"stream\":true," } else { "" };
        let (path, body) = if scenario.translated && gateway {
            (
                "/v1/messages",
                format!(
                    r#"{{"model":"{model}",{flag}"max_tokens":512,"messages":[{{"role":"user","content":"{text}"}}]}}"#
                ),
            )
        } else {
            (
                "/v1/chat/completions",
                format!(r#"{{"model":"{model}",{flag}"messages":[{{"role":"user","content":"{text}"}}]}}"#),
            )
        };
        let key = if subject.key.is_empty() { "sk-bench-0000000000000000000000000000000000" } else { &subject.key };
        let session = if scenario.sessions { format!("x-session-id: {SESSION}\r\n") } else { String::new() };
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nauthorization: Bearer {key}\r\nanthropic-version: 2023-06-01\r\n{session}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        Load {
            addr: subject.addr,
            request: Rc::new(request.into_bytes()),
            connections: scenario.connections,
            what: scenario.what,
            sessions: scenario.sessions,
        }
    }

    /// The same request of another session.
    fn in_session(&self, at: usize) -> Rc<Vec<u8>> {
        let mut request = self.request.to_vec();
        if let Some(from) = memchr::memmem::find(&request, SESSION.as_bytes()) {
            request[from..from + SESSION.len()].copy_from_slice(format!("{at:08}").as_bytes());
        }
        Rc::new(request)
    }

    pub async fn run(&self, length: Duration) -> Outcome {
        let began = Instant::now();
        let outcome = Rc::new(RefCell::new(Outcome::default()));
        let tasks = LocalSet::new();
        for at in 0..self.connections {
            let (addr, outcome, what) = (self.addr, outcome.clone(), self.what);
            let request = if self.sessions { self.in_session(at) } else { self.request.clone() };
            let share = self.connections as u32;
            tasks.spawn_local(async move {
                let Ok(mut socket) = TcpStream::connect(addr).await else {
                    outcome.borrow_mut().errors += 1;
                    return;
                };
                let _ = socket.set_nodelay(true);
                match what {
                    What::Closed => closed(&mut socket, &request, &outcome, began + length).await,
                    What::Open(rate) => {
                        let every = Duration::from_secs_f64(f64::from(share) / f64::from(rate));
                        let first = began + every.mul_f64(at as f64 / f64::from(share));
                        open(&mut socket, &request, &outcome, first, every, began + length).await;
                    }
                    What::Streams(_) => stream(&mut socket, &request, &outcome).await,
                }
            });
        }
        tasks.await;
        let mut outcome = outcome.take();
        outcome.took = began.elapsed();
        outcome
    }
}

async fn closed(socket: &mut TcpStream, request: &[u8], outcome: &RefCell<Outcome>, until: Instant) {
    let mut buffer = vec![0; 32 << 10];
    while Instant::now() < until {
        let sent = Instant::now();
        if !exchange(socket, request, &mut buffer).await {
            outcome.borrow_mut().errors += 1;
            return;
        }
        note(outcome, sent);
    }
}

/// Eight digits of a connection's own stand in its place.
const SESSION: &str = "session.";

/// Latency counts from when the request was due, so a stall is not left out.
async fn open(
    socket: &mut TcpStream,
    request: &[u8],
    outcome: &RefCell<Outcome>,
    first: Instant,
    every: Duration,
    until: Instant,
) {
    let mut buffer = vec![0; 32 << 10];
    let mut due = first;
    while due < until {
        tokio::time::sleep_until(due.into()).await;
        // The timer's own grain (1 ms) is not the subject's.
        let sent =
            due.max(Instant::now() - Duration::from_millis(2)).max(Instant::now().min(due + Duration::from_millis(2)));
        if !exchange(socket, request, &mut buffer).await {
            outcome.borrow_mut().errors += 1;
            return;
        }
        note(outcome, sent);
        due += every;
    }
}

fn note(outcome: &RefCell<Outcome>, sent: Instant) {
    let mut outcome = outcome.borrow_mut();
    outcome.units += 1;
    outcome.latencies_us.push(sent.elapsed().as_secs_f64() * 1e6);
}

/// One request and its whole answer.
async fn exchange(socket: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> bool {
    if socket.write_all(request).await.is_err() {
        return false;
    }
    let mut have = 0;
    loop {
        match socket.read(&mut buffer[have..]).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => have += n,
        }
        let Some(end) = memchr::memmem::find(&buffer[..have], b"\r\n\r\n") else { continue };
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return false;
        }
        let head = &buffer[..end];
        if let Some(length) = content_length(head) {
            while have < end + 4 + length {
                match socket.read(&mut buffer[have..]).await {
                    Ok(0) | Err(_) => return false,
                    Ok(n) => have += n,
                }
            }
            return true;
        }
        while !buffer[..have].ends_with(b"0\r\n\r\n") {
            match socket.read(&mut buffer[have..]).await {
                Ok(0) | Err(_) => return false,
                Ok(n) => have += n,
            }
        }
        return true;
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let at =
        memchr::memmem::find(head, b"ontent-length: ").or_else(|| memchr::memmem::find(head, b"ontent-Length: "))?;
    let digits: Vec<u8> = head[at + 15..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// A slow stream: the time between events is the upstream's, so an event's lateness is what the subject added.
async fn stream(socket: &mut TcpStream, request: &[u8], outcome: &RefCell<Outcome>) {
    if socket.write_all(request).await.is_err() {
        outcome.borrow_mut().errors += 1;
        return;
    }
    let mut buffer = vec![0; 8 << 10];
    let (mut events, mut last) = (0usize, Instant::now());
    let mut tail: Vec<u8> = Vec::new();
    loop {
        let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(15), socket.read(&mut buffer)).await else { break };
        if n == 0 {
            break;
        }
        let seen = memchr::memmem::find_iter(&buffer[..n], b"data: {").count();
        if seen > 0 {
            let gap = last.elapsed().as_secs_f64() * 1e6;
            last = Instant::now();
            if events > 0 {
                outcome.borrow_mut().latencies_us.push((gap - 100_000.0).abs());
            }
        }
        events += seen;
        tail.extend_from_slice(&buffer[n.saturating_sub(16)..n]);
        if tail.ends_with(b"0\r\n\r\n") {
            break;
        }
        let keep = tail.len().saturating_sub(16);
        tail.drain(..keep);
    }
    let mut outcome = outcome.borrow_mut();
    outcome.units += events as u64;
    outcome.lost += EVENTS.saturating_sub(events) as u64;
}
