//! Uploads that stream while their request waits for its turn: who left is out of the line at once, although nobody reads what
//! they sent, and who stays is served. Promise 20 where no body is read whole.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::support::{Gateway, Say, Upstream, eventually, parse};

/// Both kinds of connection.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for tokio_rustls::client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

struct House {
    gateway: Gateway,
    upstream: Upstream,
    tls: Option<TlsConnector>,
}

impl House {
    /// One place: at the gateway, or at its only target.
    async fn new(at: &str, tls: bool) -> House {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let upstream = Upstream::saying(Say::json(r#"{"text":"x"}"#)).await;
        let provider = upstream.provider("up", "openai_chat");
        let (one, bound) = match at {
            "gateway" => (9, "max_in_flight = 1\n"),
            _ => (1, ""),
        };
        let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let pem = certificate.cert.pem();
        let server = if tls {
            "[server]\nlisten = \"127.0.0.1:0\"\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n"
        } else {
            ""
        };
        let config = format!(
            "{server}{provider}[models.m]\ntargets = [{{ provider = \"up\", model = \"m\", concurrency = {one} }}]\n[overload]\nwait = \"60s\"\n{bound}"
        );
        let files = [("cert.pem", pem.as_str()), ("key.pem", &certificate.signing_key.serialize_pem())];
        let gateway = Gateway::with(&config, &files).await;
        let tls = tls.then(|| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("a root");
            let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            TlsConnector::from(Arc::new(client))
        });
        House { gateway, upstream, tls }
    }

    async fn connect(&self) -> Box<dyn Wire> {
        let socket = TcpStream::connect(self.gateway.addr).await.expect("connect");
        match &self.tls {
            None => Box::new(socket),
            Some(tls) => {
                let name = ServerName::try_from("localhost").expect("a name");
                Box::new(tls.connect(name, socket).await.expect("TLS"))
            }
        }
    }

    /// The head of a form of this length, and its first bytes.
    async fn begin(&self, form: &[u8], first: usize) -> Box<dyn Wire> {
        let mut wire = self.connect().await;
        let head = format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: multipart/form-data; boundary=cut\r\ncontent-length: {}\r\n\r\n",
            form.len()
        );
        wire.write_all(head.as_bytes()).await.expect("sent");
        wire.write_all(&form[..first]).await.expect("sent");
        wire.flush().await.expect("sent");
        wire
    }

    async fn waits(&self, at: &str, count: u64) {
        let line = format!("portcullis_queue_length{{at=\"{at}\"}} {count}");
        eventually(&line, async || self.gateway.admin("GET", "/metrics", "").await.text().lines().any(|l| l == line))
            .await;
    }

    /// Has the only place until it is dropped.
    async fn occupant(&self) -> Box<dyn Wire> {
        self.upstream.then(Say::json(r#"{"text":"first"}"#).wait(Duration::from_secs(600)));
        let form = form(100);
        let wire = self.begin(&form, form.len()).await;
        self.upstream.hears(1).await;
        wire
    }
}

fn form(file: usize) -> Vec<u8> {
    let mut out = b"--cut\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n--cut\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n".to_vec();
    out.extend((0..file).map(|n| b"abcdefghijklmnopqrstuvwxyz"[n % 26]));
    out.extend_from_slice(b"\r\n--cut--\r\n");
    out
}

/// Writes until nothing more is taken.
async fn fill(wire: &mut Box<dyn Wire>, mut bytes: &[u8]) {
    while let Ok(Ok(taken)) = timeout(Duration::from_millis(500), wire.write(bytes)).await {
        bytes = &bytes[taken..];
        assert!(!bytes.is_empty(), "nobody may read all of this while it waits");
    }
}

async fn answer(mut wire: Box<dyn Wire>) -> (u16, String) {
    let mut raw = Vec::new();
    let read = timeout(Duration::from_secs(60), wire.read_to_end(&mut raw)).await;
    assert!(read.is_ok(), "no end of the answer: {}", String::from_utf8_lossy(&raw));
    let answer = parse(&raw);
    (answer.status, answer.text())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Upload {
    /// Some of it came.
    Begun,
    /// All of it did.
    Whole,
    /// All of it did, and its client closes its own side only: nobody can tell that from one that left, and it is so while an
    /// answer is made, too.
    HalfClosed,
    /// As much as anybody takes of what is too long to be read before its turn.
    Long,
}

/// Each leaves as it can: closes its connection, or where more is under way than the other side takes, resets it.
#[tokio::test]
async fn who_leaves_while_the_upload_waits_is_out_of_the_line_at_once() {
    for (at, tls) in [("gateway", false), ("gateway", true), ("up/m", false), ("up/m", true)] {
        let house = House::new(at, tls).await;
        let occupant = house.occupant().await;
        for upload in [Upload::Begun, Upload::Whole, Upload::HalfClosed, Upload::Long] {
            let form = form(if upload == Upload::Long { 40 << 20 } else { 20_000 });
            let whole = matches!(upload, Upload::Whole | Upload::HalfClosed);
            let first = if whole { form.len() } else { 10_000 };
            let mut wire = house.begin(&form, first).await;
            house.waits(at, 1).await;
            if upload == Upload::Long {
                fill(&mut wire, &form[first..]).await;
                wire.socket().set_zero_linger().expect("a reset");
                house.waits(at, 1).await;
            }
            if upload == Upload::HalfClosed {
                wire.shutdown().await.expect("closed");
                house.waits(at, 0).await;
            }
            drop(wire);
            house.waits(at, 0).await;
        }
        drop(occupant);
        house.upstream.is_cancelled(1).await;
        let form = form(100);
        let next = house.begin(&form, form.len()).await;
        assert_eq!(answer(next).await, (200, r#"{"text":"x"}"#.to_owned()), "{at}: the place is free again");
        assert_eq!(house.upstream.heard().len(), 2, "{at}: what was asked by those who left was never sent");
        eventually("nobody is in flight", async || {
            let text = house.gateway.admin("GET", "/metrics", "").await.text();
            text.lines().any(|l| l == "portcullis_inflight_requests 0")
        })
        .await;
    }
}

#[tokio::test]
async fn who_goes_on_with_the_upload_is_served_when_its_turn_comes() {
    for (at, tls) in [("gateway", false), ("gateway", true), ("up/m", false)] {
        let house = House::new(at, tls).await;
        let occupant = house.occupant().await;
        // The last is longer than what is read before its turn.
        let forms = [form(30_000), form(300_000), form(20 << 20)];
        let mut waiting = Vec::new();
        for (n, form) in forms.iter().enumerate() {
            waiting.push(house.begin(form, 10_000).await);
            house.waits(at, n as u64 + 1).await;
        }
        // More of it comes while it waits, and wakes nobody for nothing.
        for (wire, form) in waiting.iter_mut().zip(&forms) {
            wire.write_all(&form[10_000..20_000]).await.expect("sent");
            wire.flush().await.expect("sent");
        }
        house.waits(at, 3).await;
        drop(occupant);
        let rest = waiting.into_iter().zip(&forms).map(async |(mut wire, form)| {
            wire.write_all(&form[20_000..]).await.expect("sent");
            wire.flush().await.expect("sent");
            answer(wire).await
        });
        for told in futures_util::future::join_all(rest).await {
            assert_eq!(told, (200, r#"{"text":"x"}"#.to_owned()), "{at}");
        }
        let mut heard: Vec<Vec<u8>> = house.upstream.heard().split_off(1).into_iter().map(|h| h.body).collect();
        heard.sort_by_key(Vec::len);
        assert!(heard == forms, "{at}: every byte came as it was sent");
    }
}
