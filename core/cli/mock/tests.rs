use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

async fn started() -> (SocketAddr, CancellationToken) {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(serve(listener, shutdown.clone()));
    (address, shutdown)
}

/// One request on a connection of its own: all bytes until the end.
async fn exchange(address: SocketAddr, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut out = Vec::new();
    let _ = socket.read_to_end(&mut out).await;
    String::from_utf8(out).unwrap()
}

fn asking(text: &str, stream: bool) -> String {
    serde_json::json!({
        "model": "any", "max_tokens": 100, "stream": stream, "messages": [{"role": "user", "content": text}],
    })
    .to_string()
}

#[tokio::test]
async fn answers_over_a_socket_and_leaves_when_told() {
    let (address, shutdown) = started().await;
    let whole = exchange(address, "/v1/messages", &asking("hello", false)).await;
    assert!(whole.starts_with("HTTP/1.1 200") && whole.contains("mock/any heard: hello"), "{whole}");
    let stream = exchange(address, "/v1/messages", &asking("hello", true)).await;
    assert!(stream.contains("event: message_stop") && stream.ends_with("0\r\n\r\n"), "{stream}");
    shutdown.cancel();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_cut_answer_has_no_clean_end() {
    let (address, _shutdown) = started().await;
    let stream = exchange(address, "/v1/messages", &asking("hello [mock: cut=3]", true)).await;
    assert!(stream.starts_with("HTTP/1.1 200") && !stream.contains("message_stop"), "{stream}");
    assert!(!stream.ends_with("0\r\n\r\n"), "{stream}");
    let refused = exchange(address, "/v1/messages", &asking("[mock: status=429, retry_after=2]", false)).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.to_lowercase().contains("retry-after: 2"), "{refused}");
    assert!(refused.contains("rate_limit_error"), "{refused}");
}
