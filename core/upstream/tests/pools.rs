//! Connections that are used again, die while idle, or are shared by streams.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

#[tokio::test]
async fn one_connection_carries_calls_one_after_another() {
    let peer = peer(|mut talk, _| async move {
        while talk.request().await.is_some() {
            talk.answer("again").await;
        }
    })
    .await;
    let client = Client::default();
    for n in 0..20 {
        let incoming = soon(client.send(call(peer.url()), &LIMITS)).await.unwrap();
        assert_eq!(incoming.reused, n > 0);
        assert_eq!(incoming.body.collect(100, &mut |_| Ok(())).await.unwrap(), "again");
    }
    assert_eq!(peer.count(), 1);
}

#[tokio::test]
async fn calls_at_once_take_a_connection_each_and_the_last_used_comes_first() {
    let peer = peer(|mut talk, number| async move {
        while talk.request().await.is_some() {
            talk.answer(&number.to_string()).await;
        }
    })
    .await;
    let client = Client::default();
    let first = soon(client.send(call(peer.url()), &LIMITS)).await.unwrap();
    let second = soon(client.send(call(peer.url()), &LIMITS)).await.unwrap();
    assert_eq!(second.body.collect(9, &mut |_| Ok(())).await.unwrap(), "1");
    assert_eq!(first.body.collect(9, &mut |_| Ok(())).await.unwrap(), "0");
    assert_eq!(peer.count(), 2);
    for _ in 0..5 {
        assert_eq!(whole(&client, call(peer.url())).await.unwrap(), "0");
    }
}

#[tokio::test]
async fn a_connection_that_died_while_idle_is_replaced_unnoticed() {
    let peer = peer(|mut talk, number| async move {
        talk.request().await;
        talk.answer(&number.to_string()).await;
        // Closes although it promised nothing.
    })
    .await;
    let client = Client::default();
    for n in 0..10 {
        assert_eq!(whole(&client, call(peer.url())).await.unwrap(), n.to_string());
        // The close has to arrive: a call that meets it on the way is the next test's.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(peer.count(), 10);
}

#[tokio::test]
async fn a_call_that_was_written_is_not_sent_twice() {
    // Answers once, reads the second request, and closes without a word.
    let peer = peer(|mut talk, number| async move {
        talk.request().await;
        talk.answer(&number.to_string()).await;
        talk.request().await;
    })
    .await;
    let client = Client::default();
    whole(&client, call(peer.url())).await.unwrap();
    let error = whole(&client, call(peer.url())).await.unwrap_err();
    assert_eq!(error.kind, Kind::Upstream);
    assert_eq!(peer.count(), 1);
}

#[tokio::test]
async fn connections_told_to_close_are_not_used_again() {
    for head in ["connection: close", "keep-alive: timeout=1"] {
        let peer = peer(move |mut talk, _| async move {
            while talk.request().await.is_some() {
                talk.say(format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: 2\r\n\r\nok")).await;
            }
        })
        .await;
        let client = Client::default();
        for _ in 0..3 {
            assert_eq!(whole(&client, call(peer.url())).await.unwrap(), "ok");
        }
        assert_eq!(peer.count(), 3, "{head}");
    }
}

#[tokio::test]
async fn an_early_refusal_of_a_large_body_is_read_and_its_connection_left() {
    let peer = peer(|mut talk, _| async move {
        let mut scratch = [0; 4096];
        talk.0.read_exact(&mut scratch).await.unwrap();
        talk.say("HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge").await;
        // Reads no further: the request is never whole.
        std::future::pending::<()>().await;
    })
    .await;
    let client = Client::default();
    for n in 1..3 {
        let mut out = call(peer.url());
        out.body = Bytes::from(vec![b'x'; 20 << 20]).into();
        let incoming = soon(client.send(out, &LIMITS)).await.unwrap();
        assert_eq!(incoming.status, 413);
        assert_eq!(soon(incoming.body.collect(100, &mut |_| Ok(()))).await.unwrap(), "large");
        assert_eq!(peer.count(), n);
    }
}

/// An HTTP/2 server: `/slow` waits, `/endless` streams, all else answers with its connection's number.
async fn http2_peer() -> (Peer, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (sender, dropped) = tokio::sync::mpsc::unbounded_channel();
    let peer = peer(move |talk, number| {
        let sender = sender.clone();
        async move {
            let service = service_fn(move |request: Request<body::Incoming>| {
                let guard = Guard(sender.clone());
                async move {
                    let body = match request.uri().path() {
                        "/slow" => {
                            let _guard = guard;
                            std::future::pending().await
                        }
                        "/endless" => Streaming { given: false, _guard: guard }.boxed(),
                        _ => {
                            std::mem::forget(guard);
                            assert!(request.headers().get("host").is_none());
                            let size = request.into_body().collect().await.unwrap().to_bytes().len();
                            Full::new(Bytes::from(format!("{number} {size}"))).boxed()
                        }
                    };
                    Ok::<_, Infallible>(Response::new(body))
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(talk.0), service)
                .await;
        }
    })
    .await;
    (peer, dropped)
}

struct Guard(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

struct Streaming {
    given: bool,
    _guard: Guard,
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::result::Result<http_body::Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.given, true) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data("event".into()))))
    }
}

fn http2_call(peer: &Peer, path: &str) -> Outgoing {
    Outgoing { http2: Some(true), ..call(format!("http://{}{path}", peer.addr)) }
}

#[tokio::test]
async fn http2_calls_share_a_connection_from_the_first_burst_on() {
    let (peer, _) = http2_peer().await;
    let client = Client::default();
    let calls: Vec<_> = (0..60usize)
        .map(|n| {
            let (client, mut out) = (client.clone(), http2_call(&peer, "/"));
            out.body = Bytes::from(vec![b'x'; n * 1000]).into();
            tokio::spawn(async move { whole(&client, out).await.unwrap() })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(soon(call).await.unwrap(), format!("0 {}", n * 1000));
    }
    assert_eq!(peer.count(), 1);
}

#[tokio::test]
async fn more_streams_than_a_connection_carries_open_another() {
    let (peer, _) = http2_peer().await;
    let client = Client::default();
    let mut open = Vec::new();
    for _ in 0..150 {
        open.push(soon(client.send(http2_call(&peer, "/endless"), &LIMITS)).await.unwrap());
    }
    assert_eq!(peer.count(), 2);
    drop(open);
    assert!(whole(&client, http2_call(&peer, "/")).await.is_ok());
    assert_eq!(peer.count(), 2);
}

#[tokio::test]
async fn dropping_an_http2_call_resets_its_stream_alone() {
    let (peer, mut dropped) = http2_peer().await;
    let client = Client::default();
    let mut incoming = soon(client.send(http2_call(&peer, "/endless"), &LIMITS)).await.unwrap();
    assert_eq!(soon(incoming.body.frame()).await.unwrap().unwrap(), "event");
    let (waiter, out) = (client.clone(), http2_call(&peer, "/slow"));
    let waiting = tokio::spawn(async move { waiter.send(out, &LIMITS).await.is_ok() });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(dropped.try_recv().is_err());
    waiting.abort();
    timeout(Duration::from_secs(1), dropped.recv()).await.expect("within a second").unwrap();
    drop(incoming);
    timeout(Duration::from_secs(1), dropped.recv()).await.expect("within a second").unwrap();
    assert_eq!(whole(&client, http2_call(&peer, "/")).await.unwrap(), "0 2");
    assert_eq!(peer.count(), 1);
}

#[tokio::test]
async fn asking_for_http2_where_there_is_none_says_so() {
    let peer = peer(|mut talk, _| async move { talk.say("HTTP/1.1 400 Bad Request\r\n\r\n").await }).await;
    let error = whole(&Client::default(), Outgoing { http2: Some(true), ..call(peer.url()) }).await.unwrap_err();
    assert_eq!(error.kind, Kind::Upstream);
}
