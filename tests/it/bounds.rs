//! Promise 24 for what comes from upstreams: an event's limit is the configured one on every way, and answers that are read
//! whole share the memory of all bodies.

use std::net::SocketAddr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use crate::{
    family::{FAMILIES, Openai},
    support::{Gateway, Say, Upstream, eventually},
};

#[tokio::test]
async fn every_way_from_format_to_format_follows_max_event() {
    for upstream_family in FAMILIES {
        // A quarter of a megabyte: far below what codecs take by themselves.
        let event = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(300_000));
        let upstream = Upstream::saying(Say::sse(event)).await;
        let limit = "[server]\nlisten = \"127.0.0.1:0\"\nmax_event = \"256KiB\"\n";
        let gateway = Gateway::start(&format!("{limit}{}", upstream.provider("up", upstream_family.format()))).await;
        for client in FAMILIES {
            let answer = gateway.post(&client.path("up/m", true), &client.body("up/m", true, "x")).await;
            assert_eq!(answer.status, 502, "{client:?} to {upstream_family:?}: {}", answer.text());
            assert!(answer.text().contains("over 262144 bytes"), "{client:?}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn answers_read_whole_count_as_bodies_until_the_client_has_them() {
    let upstream = Upstream::start().await;
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nmax_body = \"64KiB\"\nbody_memory = \"12MiB\"\n";
    let gateway = Gateway::start(&format!("{server}{}", upstream.provider("up", "openai_chat"))).await;
    let ask = |family: crate::family::Family| (family.path("up/m", false), family.body("up/m", false, "x"));

    // Larger than everything together.
    upstream.then(Say::json(Openai.whole(&"x".repeat(13 << 20))));
    let (path, body) = ask(Openai);
    let refused = gateway.post(&path, &body).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("as its memory allows"), "{}", refused.text());

    upstream.always(Say::json(Openai.whole(&"x".repeat(8 << 20))));
    for family in FAMILIES {
        let (path, body) = ask(family);
        // It reads nothing and its kernel takes little: the answer stays in the gateway.
        let slow = reads_nothing(gateway.addr, &path, &body).await;
        eventually("the answer is held", async || gateway.post(&path, &body).await.status == 503).await;
        drop(slow);
        eventually("the memory is free again", async || gateway.post(&path, &body).await.status == 200).await;
    }
}

async fn reads_nothing(gateway: SocketAddr, path: &str, body: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(gateway).await.expect("connect");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}
