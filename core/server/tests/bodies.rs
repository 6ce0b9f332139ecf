//! Request bodies: limits, pace, memory, encodings.

use async_compression::tokio::bufread::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use http::HeaderMap;
use http_body_util::Full;
use tokio::io::AsyncRead;

use super::*;
use crate::error::Kind;

fn limits(max_body: u64) -> BodyLimits {
    BodyLimits::new(max_body, 0)
}

async fn packed(mut encoder: impl AsyncRead + Unpin) -> Bytes {
    let mut out = Vec::new();
    encoder.read_to_end(&mut out).await.unwrap();
    out.into()
}

async fn read(encoding: &[&'static str], body: impl Into<Bytes>, max: u64) -> crate::error::Result<BodyHeld> {
    let mut headers = HeaderMap::new();
    for value in encoding {
        headers.append("content-encoding", value.parse().unwrap());
    }
    read_body(Full::new(body.into()), &headers, &limits(max), &BodyMemory::new(1 << 30)).await
}

#[tokio::test]
async fn every_known_encoding_is_unpacked() {
    let text = "a prompt with some repetition, a prompt with some repetition. ".repeat(100);
    let bytes = text.as_bytes();
    let cases = [
        ("gzip", packed(GzipEncoder::new(bytes)).await),
        ("X-GZIP", packed(GzipEncoder::new(bytes)).await),
        ("deflate", packed(ZlibEncoder::new(bytes)).await),
        ("deflate", packed(DeflateEncoder::new(bytes)).await),
        ("br", packed(BrotliEncoder::new(bytes)).await),
        ("zstd", packed(ZstdEncoder::new(bytes)).await),
        ("identity", Bytes::copy_from_slice(bytes)),
        ("identity, gzip", packed(GzipEncoder::new(bytes)).await),
    ];
    for (name, body) in cases {
        let held = read(&[name], body, 1 << 20).await.unwrap();
        assert_eq!(held.bytes, text, "{name}");
    }
}

#[tokio::test]
async fn unknown_and_stacked_encodings_are_415() {
    for encoding in [&["compress"][..], &["gzip, br"], &["gzip", "gzip"], &["gzip;q=1"]] {
        let error = read(encoding, "x", 100).await.unwrap_err();
        assert_eq!(error.status(), 415, "{encoding:?}");
    }
}

#[tokio::test]
async fn damaged_cut_and_trailing_data_are_400() {
    let whole = packed(GzipEncoder::new(&[7u8; 5000][..])).await;
    let zlib = packed(ZlibEncoder::new(&[7u8; 5000][..])).await;
    let cut = whole.slice(..whole.len() - 4);
    let mut trailing = whole.to_vec();
    trailing.extend_from_slice(b"rubbish");
    let mut trailing_zlib = zlib.to_vec();
    trailing_zlib.extend_from_slice(b"rubbish");
    let cases: [(&'static str, Bytes); 6] = [
        ("gzip", "not gzip at all".into()),
        ("gzip", cut),
        ("gzip", trailing.into()),
        ("deflate", trailing_zlib.into()),
        ("zstd", "not zstd".into()),
        ("br", Bytes::from_static(&[0xff; 40])),
    ];
    for (name, body) in cases {
        let error = read(&[name], body.clone(), 1 << 20).await.unwrap_err();
        assert_eq!(error.status(), 400, "{name} {body:?}");
    }
}

#[tokio::test]
async fn a_zip_bomb_meets_the_limit_of_its_unpacked_size() {
    let zeros = vec![0u8; 64 << 20];
    let gzip = packed(GzipEncoder::new(&zeros[..])).await;
    assert!(gzip.len() < 100_000);
    assert_eq!(read(&["gzip"], gzip.clone(), 1 << 20).await.unwrap_err().status(), 413);
    // Exactly the limit passes, one byte less does not.
    let exact = packed(GzipEncoder::new(&b"0123456789"[..])).await;
    assert_eq!(read(&["gzip"], exact.clone(), 10).await.unwrap_err().status(), 413, "the packed form is larger");
    let text = vec![b'x'; 4000];
    let exact = packed(GzipEncoder::new(&text[..])).await;
    assert!(read(&["gzip"], exact.clone(), 4000).await.is_ok());
    assert_eq!(read(&["gzip"], exact, 3999).await.unwrap_err().status(), 413);
    // Under the size limit, beyond any honest ratio.
    let zstd = packed(ZstdEncoder::new(&zeros[..])).await;
    assert_eq!(read(&["zstd"], zstd, 1 << 30).await.unwrap_err().status(), 413);
}

#[tokio::test]
async fn a_zstd_frame_cannot_ask_for_a_large_window() {
    // Magic, a frame header with a window descriptor of 128 MB (RFC 8878 §3.1.1.1.2: exponent 17), one empty block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
    assert_eq!(read(&["zstd"], frame.to_vec(), 1 << 20).await.unwrap_err().status(), 400);
    let modest = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 10 << 3, 0x01, 0x00, 0x00];
    assert!(read(&["zstd"], modest.to_vec(), 1 << 20).await.unwrap().bytes.is_empty());
}

#[tokio::test]
async fn memory_is_shared_by_all_bodies_and_given_back() {
    let memory = BodyMemory::new(1000);
    let body = |size: usize| Full::new(Bytes::from(vec![b'x'; size]));
    let headers = HeaderMap::new();
    let first = read_body(body(700), &headers, &limits(10_000), &memory).await.unwrap();
    assert_eq!(memory.used(), 700);
    let error = read_body(body(400), &headers, &limits(10_000), &memory).await.unwrap_err();
    assert_eq!((error.kind, error.status()), (Kind::Overloaded, 503));
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(memory.used(), 700, "a refused body holds nothing");
    drop(first);
    assert_eq!(memory.used(), 0);
    assert!(read_body(body(400), &headers, &limits(10_000), &memory).await.is_ok());
    assert_eq!(memory.used(), 0);
}

#[tokio::test]
async fn bodies_that_announce_much_and_trickle_leave_the_memory_to_others() {
    let memory = BodyMemory::new(1000);
    let server = start(quick(), echo(limits(900), memory.clone()));
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\nbegun").await.unwrap();
        slow.push(socket);
    }
    while memory.used() < 15 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(memory.used(), 15, "what came, not what was announced");
    let body = Full::new(Bytes::from(vec![b'x'; 800]));
    let held = read_body(body, &HeaderMap::new(), &limits(900), &memory).await.unwrap();
    assert_eq!(held.bytes.len(), 800);
}

#[tokio::test]
async fn unpacked_bytes_count_as_memory() {
    let memory = BodyMemory::new(1 << 20);
    let packed = packed(GzipEncoder::new(&vec![b'x'; 900_000][..])).await;
    let mut headers = HeaderMap::new();
    headers.insert("content-encoding", "gzip".parse().unwrap());
    let held = read_body(Full::new(packed.clone()), &headers, &limits(1 << 30), &memory).await.unwrap();
    assert_eq!(memory.used(), 900_000);
    let error = read_body(Full::new(packed), &headers, &limits(1 << 30), &memory).await.unwrap_err();
    assert_eq!(error.status(), 503);
    drop(held);
    assert_eq!(memory.used(), 0);
}

#[tokio::test]
async fn an_announced_length_over_the_limit_is_refused_before_a_byte_is_read() {
    let server = start(quick(), echo(limits(100), BodyMemory::new(1 << 20)));
    let answer = talk(server.addr, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 101\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.ends_with("request_too_large"), "{answer}");
}

#[tokio::test]
async fn a_client_that_is_still_sending_reads_why_it_was_refused() {
    let server = start(quick(), echo(limits(1000), BodyMemory::new(1 << 20)));
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    // 3 MB: far more than the gateway reads before it answers.
    for _ in 0..100 {
        let mut chunk = b"7530\r\n".to_vec();
        chunk.resize(chunk.len() + 0x7530, b'x');
        chunk.extend_from_slice(b"\r\n");
        soon(socket.write_all(&chunk)).await.expect("a reset would lose the answer");
    }
    let answer = to_end(socket).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_slower_than_the_least_rate_is_408() {
    let slow = BodyLimits { max_body: 1 << 20, min_rate: 1 << 20, grace: Duration::from_millis(200) };
    let server = start(quick(), echo(slow, BodyMemory::new(1 << 20)));
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nonly this").await.unwrap();
    let answer = to_end(socket).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn a_body_that_keeps_the_pace_may_take_longer_than_the_grace() {
    let limits = BodyLimits { max_body: 1 << 20, min_rate: 10, grace: Duration::from_millis(100) };
    let server = start(quick(), echo(limits, BodyMemory::new(1 << 20)));
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 60\r\n\r\n").await.unwrap();
    for _ in 0..6 {
        socket.write_all(b"0123456789").await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let answer = to_end(socket).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_malformed_chunk_is_400_and_a_vanished_client_is_not() {
    let (kinds, mut seen) = mpsc::unbounded_channel();
    let server = start(quick(), move |_, request: Request<Incoming>| {
        let kinds = kinds.clone();
        async move {
            let (head, body) = request.into_parts();
            let read = read_body(body, &head.headers, &limits(1000), &BodyMemory::new(1 << 20)).await;
            let error = read.unwrap_err();
            kinds.send(error.kind).unwrap();
            status(error.status(), "")
        }
    });
    let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    talk(server.addr, format!("{head}zz\r\nhello\r\n")).await;
    assert_eq!(soon(seen.recv()).await, Some(Kind::InvalidRequest));
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(format!("{head}5\r\nhel").as_bytes()).await.unwrap();
    drop(socket);
    assert_eq!(soon(seen.recv()).await, Some(Kind::ClientGone));
}
