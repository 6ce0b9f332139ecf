//! The scripted upstream, as cheap as can be: raw sockets, two canned answers. `"stream":true` in the body's tail or head
//! asks for the slow stream.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub const EVENTS: usize = 50;
const PACE: Duration = Duration::from_millis(100);

/// Starts it on the runtime that this is called in; it makes progress while that runtime runs something.
pub async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    addr
}

async fn serve(mut socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let whole = whole();
    let mut buffer = vec![0; 256 << 10];
    let mut have = 0;
    loop {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&buffer[..have], b"\r\n\r\n") {
                break at + 4;
            }
            match socket.read(&mut buffer[have..]).await {
                Ok(0) | Err(_) => return,
                Ok(n) => have += n,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length: usize = head
            .split("\r\n")
            .find_map(|l| l.strip_prefix("content-length: "))
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        // The body is read and forgotten; only its first and last bytes are looked at.
        let first = &buffer[end..have];
        let mut stream = is_stream(first);
        let mut left = length.saturating_sub(have - end);
        while left > 0 {
            let want = left.min(buffer.len());
            match socket.read(&mut buffer[..want]).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    left -= n;
                    stream |= is_stream(&buffer[..n.min(512)]) || is_stream(&buffer[n.saturating_sub(512)..n]);
                }
            }
        }
        have = 0;
        let done = if stream { slow(&mut socket).await } else { socket.write_all(&whole).await };
        if done.is_err() {
            return;
        }
    }
}

fn is_stream(bytes: &[u8]) -> bool {
    memchr::memmem::find(&bytes[..bytes.len().min(4096)], b"\"stream\":true").is_some()
}

/// About 1 KB, the shape of a chat completion.
fn whole() -> Vec<u8> {
    let text = "The tide follows the moon. ".repeat(24);
    let body = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350,"prompt_tokens_details":{{"cached_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0}}}}}}"#
    );
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: up-1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn slow(socket: &mut TcpStream) -> std::io::Result<()> {
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    for at in 0..EVENTS {
        let (delta, finish) = match at {
            0 => (r#"{"role":"assistant","content":""}"#, "null"),
            n if n == EVENTS - 1 => ("{}", r#""stop""#),
            _ => (r#"{"content":" tide"}"#, "null"),
        };
        let mut frame = format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-4o\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
        );
        if at == EVENTS - 1 {
            frame.push_str("data: [DONE]\n\n");
        }
        socket.write_all(format!("{:x}\r\n{frame}\r\n", frame.len()).as_bytes()).await?;
        if at + 1 < EVENTS {
            tokio::time::sleep(PACE).await;
        }
    }
    socket.write_all(b"0\r\n\r\n").await
}
