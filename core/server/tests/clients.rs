//! Clients that are slow, silent, gone, or ask in HTTP/2.

use super::*;

#[tokio::test]
async fn half_a_head_is_cut_after_the_header_timeout_while_an_idle_connection_stays() {
    let config =
        config::Server { header_timeout: Duration::from_millis(200), idle: Duration::from_secs(30), ..quick() };
    let server = start(config, |_, _| async { Response::new("hello".into()) });
    let began = std::time::Instant::now();
    let silent = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(to_end(silent).await, "", "a connection that says nothing");
    assert_eq!(talk(server.addr, "GET / HTTP/1.1\r\nhost: ").await, "", "half a head");
    assert!(began.elapsed() >= Duration::from_millis(400), "cut too early");

    let mut kept = TcpStream::connect(server.addr).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(&mut kept, "hello").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(&mut kept, "hello").await;
    // The second head of a connection has the same time as the first.
    kept.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
    assert_eq!(to_end(kept).await, "");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let config = config::Server { idle: Duration::from_millis(200), ..quick() };
    let server = start(config, |_, _| async { Response::new("hello".into()) });
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(&mut socket, "hello").await;
    assert_eq!(to_end(socket).await, "");
    let mut sender = http2(server.addr).await;
    sender.send_request(get("/")).await.unwrap().into_body().collect().await.unwrap();
    soon(async {
        while !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_takes_longer_than_the_idle_time_is_not_cut() {
    let config =
        config::Server { idle: Duration::from_millis(100), header_timeout: Duration::from_millis(100), ..quick() };
    let server = start(config, |_, _| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Response::new("at last".into())
    });
    let answer = talk(server.addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.ends_with("at last"), "{answer}");
    let response = soon(http2(server.addr).await.send_request(get("/"))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "at last");
}

#[tokio::test]
async fn a_head_over_the_limit_is_431() {
    let server = start(quick(), |_, _| async { Response::new("hello".into()) });
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(80 << 10));
    assert!(talk(server.addr, long).await.starts_with("HTTP/1.1 431"));
    let longer = format!("GET / HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(200 << 10));
    assert!(talk(server.addr, longer).await.starts_with("HTTP/1.1 431"));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert!(talk(server.addr, many).await.starts_with("HTTP/1.1 431"));
    let mut sender = http2(server.addr).await;
    let mut request = get("/");
    for n in 0..80 {
        request
            .headers_mut()
            .insert(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "y".repeat(1000).parse().unwrap());
    }
    let answer = soon(sender.send_request(request)).await;
    assert!(answer.is_err() || answer.unwrap().status() == 431);
}

/// Cut after each of its first bytes, both in one piece, too.
#[tokio::test]
async fn which_http_a_connection_speaks_is_told_however_its_first_bytes_come() {
    let server = start(quick(), |_, request| async move {
        Response::new(format!("{} over {:?}", request.method(), request.version()).into())
    });
    let in_two = async |bytes: &[u8], cut| {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (first, rest) = bytes.split_at(cut);
        for piece in [first, rest] {
            socket.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        socket
    };
    // As far as its eleventh byte it is HTTP/2's preface.
    let http1 = b"PRI * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for cut in 0..=26 {
        let answer = to_end(in_two(http1, cut).await).await;
        assert!(answer.ends_with("PRI over HTTP/1.1"), "cut at {cut}: {answer}");
        let mut frame = [0; 9];
        soon(in_two(http2, cut).await.read_exact(&mut frame)).await.unwrap();
        assert_eq!(frame[3], 4, "cut at {cut}: not settings: {frame:?}");
    }
    // Nothing, or half a preface, and the end.
    for opening in ["", "PRI * HT"] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(opening.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(to_end(socket).await, "");
    }
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_the_seat_comes_back() {
    let server = start(config::Server { max_connections: 1, ..quick() }, |_, _| async { Response::new("hi".into()) });
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(&mut first, "hi").await;
    assert_eq!(to_end(TcpStream::connect(server.addr).await.unwrap()).await, "");
    drop(first);
    soon(async {
        loop {
            let mut again = TcpStream::connect(server.addr).await.unwrap();
            let _ = again.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            if to_end(again).await.ends_with("hi") {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_drops_the_request_before_its_head() {
    let (guard, mut dropped) = dropped();
    let (begun, mut began) = mpsc::unbounded_channel();
    let server = start(quick(), move |_, _| {
        let (guard, begun) = (guard(), begun.clone());
        async move {
            let _guard = guard;
            begun.send(()).unwrap();
            std::future::pending().await
        }
    });
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(began.recv()).await.unwrap();
    assert!(dropped.try_recv().is_err());
    drop(socket);
    timeout(Duration::from_secs(1), dropped.recv()).await.expect("within a second").unwrap();

    let mut sender = http2(server.addr).await;
    let request = tokio::spawn(async move { sender.send_request(get("/")).await });
    soon(began.recv()).await.unwrap();
    request.abort();
    timeout(Duration::from_secs(1), dropped.recv()).await.expect("within a second").unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_drops_the_answer_in_its_middle() {
    let (guard, mut dropped) = dropped();
    let server = start(quick(), move |_, _| {
        let body = Endless { frame: "event\n\n".into(), left: Some(1), given: Arc::default(), _dropped: guard() };
        async { Response::new(Body::stream(body)) }
    });
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(&mut socket, "event").await;
    assert!(dropped.try_recv().is_err());
    drop(socket);
    timeout(Duration::from_secs(1), dropped.recv()).await.expect("within a second").unwrap();

    // On HTTP/2 the connection lives on and only the stream goes.
    let mut sender = http2(server.addr).await;
    let mut body = soon(sender.send_request(get("/"))).await.unwrap().into_body();
    soon(body.frame()).await.unwrap().unwrap();
    drop(body);
    timeout(Duration::from_secs(1), dropped.recv()).await.expect("within a second").unwrap();
    let mut body = soon(sender.send_request(get("/"))).await.unwrap().into_body();
    soon(body.frame()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_and_costs_bounded_memory() {
    let (guard, mut dropped) = dropped();
    let given = Arc::new(AtomicU64::new(0));
    let config = config::Server { write_stall: Duration::from_millis(300), ..quick() };
    let counter = given.clone();
    let server = start(config, move |_, _| {
        let body = Endless { frame: vec![b'x'; 10_000].into(), left: None, given: counter.clone(), _dropped: guard() };
        async { Response::new(Body::stream(body)) }
    });
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(dropped.recv()).await.unwrap();
    // The kernel's buffers on loopback hold some megabytes; the gateway must not hold more.
    assert!(given.load(Ordering::Relaxed) < 32 << 20, "{given:?}");
}

#[tokio::test]
async fn an_http2_stream_that_nobody_reads_is_reset_and_its_neighbours_go_on() {
    let (guard, mut dropped) = dropped();
    let given = Arc::new(AtomicU64::new(0));
    let config = config::Server { write_stall: Duration::from_millis(300), ..quick() };
    let counter = given.clone();
    let server = start(config, move |_, request: Request<Incoming>| {
        let (guard, counter) = (guard.clone(), counter.clone());
        async move {
            match request.uri().path() {
                "/endless" => Response::new(Body::stream(Endless {
                    frame: vec![b'x'; 300_000].into(),
                    left: None,
                    given: counter,
                    _dropped: guard(),
                })),
                // Known length, one piece: h2 would take it whole.
                "/large" => Response::new(vec![b'y'; 5 << 20].into()),
                _ => Response::new("alive".into()),
            }
        }
    });
    let mut sender = http2(server.addr).await;
    let stalled = soon(sender.send_request(get("/endless"))).await.unwrap();
    soon(dropped.recv()).await.unwrap();
    // hyper's client opens a window of 2 MB a stream; beyond it there is one slice and the frame in flight.
    assert!(given.load(Ordering::Relaxed) < 4 << 20, "{given:?}");
    let alive = soon(sender.send_request(get("/"))).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(alive.to_bytes(), "alive");
    let mut body = stalled.into_body();
    let ended = soon(async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break true,
                None => break false,
            }
        }
    })
    .await;
    assert!(ended, "a reset, not a clean end");
    let mut large = soon(sender.send_request(get("/large"))).await.unwrap().into_body();
    let mut size = 0;
    while let Some(frame) = soon(large.frame()).await {
        size += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(size, 5 << 20);
}

#[tokio::test]
async fn http2_in_cleartext_carries_many_streams_and_keeps_lengths() {
    let server = start(quick(), echo(BodyLimits::new(10 << 20, 0), BodyMemory::new(1 << 30)));
    let sender = http2(server.addr).await;
    let calls = (0..50u8).map(|n| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let body = vec![n; 100_000 + n as usize];
            let request = Request::post("http://gateway/").body(Bytes::from(body.clone()).into()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.headers()["content-length"], body.len().to_string());
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        soon(call).await.unwrap();
    }
}

#[tokio::test]
async fn frames_of_known_length_arrive_as_one_body() {
    let server = start(quick(), |_, _| async {
        Response::new(Body::from(vec![Bytes::from("{\"a\":"), Bytes::new(), Bytes::from("1"), Bytes::from("}")]))
    });
    let answer = talk(server.addr, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("content-length: 7\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"a\":1}"), "{answer}");
    let response = http2(server.addr).await.send_request(get("/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{\"a\":1}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    struct Breaks(bool);
    impl http_body::Body for Breaks {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(Some(if std::mem::replace(&mut self.0, true) {
                Err("the upstream died".into())
            } else {
                Ok(Frame::data("half".into()))
            }))
        }
    }
    let server = start(quick(), |_, _| async { Response::new(Body::stream(Breaks(false))) });
    let answer = talk(server.addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.contains("4\r\nhalf\r\n"), "{answer}");
    assert!(!answer.contains("\r\n0\r\n"), "{answer}");
    let response = http2(server.addr).await.send_request(get("/")).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
    assert!(soon(body.frame()).await.unwrap().is_err());
}
