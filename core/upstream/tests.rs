//! The way to an upstream, against scripted peers over real sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing")]

mod egress;
mod faults;
mod pools;
mod proxies;
mod secure;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::error::{Error, Kind};

const LIMITS: SendLimits = SendLimits { connect: Duration::from_secs(5) };

/// Ten seconds are for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("this should have happened by now")
}

fn call(url: impl AsRef<str>) -> Outgoing {
    Outgoing {
        method: Method::POST,
        url: url.as_ref().parse().unwrap(),
        headers: HeaderMap::new(),
        body: Frames::from(Bytes::from_static(b"{}")),
        egress: Egress { private: true, ..Egress::default() },
        trust: None,
        http2: None,
    }
}

async fn whole(client: &Client, out: Outgoing) -> Result<String, Error> {
    let incoming = soon(client.send(out, &LIMITS)).await?;
    let bytes = soon(incoming.body.collect(1 << 20, &mut |_| Ok(()))).await?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// A peer that hands each connection to a script of the test's own.
struct Peer {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Peer {
    fn url(&self) -> String {
        format!("http://{}/v1/chat", self.addr)
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn peer<F, Fut>(script: F) -> Peer
where
    F: Fn(Talk, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let number = counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(script(Talk(socket), number));
        }
    });
    Peer { addr, connections }
}

/// One connection, seen by a scripted peer.
struct Talk(TcpStream);

impl Talk {
    /// The next request: its head and body as text. `None`: the client closed.
    async fn request(&mut self) -> Option<String> {
        let mut seen = Vec::new();
        let head = loop {
            if let Some(at) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            seen.push(self.0.read_u8().await.ok()?);
        };
        let text = String::from_utf8_lossy(&seen).to_lowercase();
        let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).await.ok()?;
        assert_eq!(seen.len(), head);
        seen.extend(body);
        Some(String::from_utf8(seen).unwrap())
    }

    async fn say(&mut self, text: impl AsRef<[u8]>) {
        let _ = self.0.write_all(text.as_ref()).await;
    }

    async fn answer(&mut self, body: &str) {
        self.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    }

    /// Waits until the client closed.
    async fn gone(&mut self) {
        let mut scratch = [0; 1024];
        while !matches!(self.0.read(&mut scratch).await, Ok(0) | Err(_)) {}
    }
}

#[tokio::test]
async fn a_call_arrives_as_it_was_meant() {
    let peer = peer(|mut talk, _| async move {
        let request = talk.request().await.unwrap();
        talk.answer(&request).await;
    })
    .await;
    let mut out = call(format!("http://{}/v1/chat?api-version=1", peer.addr));
    out.body = vec![Bytes::from("{\"model\":"), Bytes::from("\"m\""), Bytes::from("}")].into();
    out.headers.insert("x-ours", "1".parse().unwrap());
    out.headers.insert("host", "evil.example".parse().unwrap());
    out.headers.insert("connection", "close".parse().unwrap());
    out.headers.insert("transfer-encoding", "chunked".parse().unwrap());
    out.headers.insert("content-length", "999".parse().unwrap());
    out.headers.insert("accept-encoding", "gzip".parse().unwrap());
    out.headers.insert("proxy-authorization", "Basic x".parse().unwrap());
    let seen = whole(&Client::default(), out).await.unwrap();
    assert!(seen.starts_with("POST /v1/chat?api-version=1 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\n{\"model\":\"m\"}"), "{seen}");
    for wanted in [
        &format!("host: {}\r\n", peer.addr)[..],
        "x-ours: 1\r\n",
        "accept-encoding: identity\r\n",
        "content-length: 13\r\n",
    ] {
        assert!(seen.contains(wanted), "{wanted} in {seen}");
    }
    for unwanted in ["evil", "connection:", "transfer-encoding", "999", "gzip", "proxy-"] {
        assert!(!seen.contains(unwanted), "{unwanted} in {seen}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = peer(|mut talk, _| async move { talk.answer("never").await }).await;
    let url = elsewhere.url();
    let here = peer(move |mut talk, _| {
        let url = url.clone();
        async move {
            talk.request().await;
            talk.say(format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n")).await;
        }
    })
    .await;
    let incoming = soon(Client::default().send(call(here.url()), &LIMITS)).await.unwrap();
    assert_eq!(incoming.status, 307);
    assert!(incoming.body.is_end());
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn frames_come_as_they_are_sent() {
    let (go, gate) = tokio::sync::mpsc::channel::<()>(1);
    let gate = Arc::new(tokio::sync::Mutex::new(gate));
    let peer = peer(move |mut talk, _| {
        let gate = gate.clone();
        async move {
            talk.request().await;
            talk.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            for n in 0..3 {
                talk.say(format!("3\r\n{n}\n\n\r\n")).await;
                gate.lock().await.recv().await;
            }
            talk.say("0\r\n\r\n").await;
        }
    })
    .await;
    let mut incoming = soon(Client::default().send(call(peer.url()), &LIMITS)).await.unwrap();
    for n in 0..3 {
        assert_eq!(soon(incoming.body.frame()).await.unwrap().unwrap(), format!("{n}\n\n"));
        go.send(()).await.unwrap();
    }
    assert!(soon(incoming.body.frame()).await.is_none());
    assert!(incoming.body.is_end());
}

#[tokio::test]
async fn an_answer_over_the_limit_is_an_error_and_one_at_the_limit_is_not() {
    let peer = peer(|mut talk, _| async move {
        while talk.request().await.is_some() {
            talk.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n0123\r\n4\r\n4567\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let client = Client::default();
    let incoming = soon(client.send(call(peer.url()), &LIMITS)).await.unwrap();
    assert_eq!(incoming.body.collect(8, &mut |_| Ok(())).await.unwrap(), "01234567");
    let incoming = soon(client.send(call(peer.url()), &LIMITS)).await.unwrap();
    let error = incoming.body.collect(7, &mut |_| Ok(())).await.unwrap_err();
    assert_eq!((error.kind, error.status()), (Kind::Upstream, 502));
}
