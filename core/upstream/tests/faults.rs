//! Upstreams that refuse, hang, die or talk nonsense; and callers that leave.

use super::*;

#[tokio::test]
async fn refused_unknown_and_malformed_destinations_say_what_is_wrong() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    let client = Client::default();
    let error = whole(&client, call(format!("http://{addr}/path?key=hunter2"))).await.unwrap_err();
    assert_eq!(error.kind, Kind::Upstream);
    assert_eq!(error.message, format!("no connection to {addr}: connection refused"));
    let error = whole(&client, call("http://no-such-host.invalid/x")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Upstream);
    assert!(error.message.contains("no-such-host.invalid cannot be resolved"), "{error}");
    let error = whole(&client, call("http://user:hunter2@127.0.0.1/x")).await.unwrap_err();
    assert!(!error.message.contains("hunter2"), "{error}");
    assert_eq!(error.kind, Kind::Internal);
    assert!(whole(&client, call("ftp://127.0.0.1/x")).await.is_err());
}

#[tokio::test]
async fn a_connect_that_hangs_ends_with_its_timeout() {
    // A full accept queue: further handshakes get no answer.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        match timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
            Ok(Ok(socket)) => held.push(socket),
            _ => break,
        }
    }
    let limits = SendLimits { connect: Duration::from_millis(300) };
    let error = soon(Client::default().send(call(format!("http://{addr}/")), &limits)).await.unwrap_err();
    assert_eq!((error.kind, error.status()), (Kind::UpstreamTimeout, 504));
    assert_eq!(error.code(), "connect_timeout");
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_counts_as_connecting() {
    let peer = peer(|mut talk, _| async move { talk.gone().await }).await;
    let limits = SendLimits { connect: Duration::from_millis(300) };
    let url = format!("https://localhost:{}/", peer.addr.port());
    let mut out = call(url);
    out.trust = Some(Arc::new(super::secure::authority_trust()));
    let error = soon(Client::default().send(out, &limits)).await.unwrap_err();
    assert_eq!(error.kind, Kind::UpstreamTimeout, "{error}");
}

#[tokio::test]
async fn no_head_or_no_http_is_an_upstream_error() {
    for (said, expected) in [
        ("", "closed the connection before it answered"),
        ("<html>nginx</html>\r\n\r\n", "not HTTP"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "closed the connection before it answered"),
    ] {
        let peer = peer(move |mut talk, _| async move {
            talk.request().await;
            talk.say(said).await;
        })
        .await;
        let error = whole(&Client::default(), call(peer.url())).await.unwrap_err();
        assert_eq!(error.kind, Kind::Upstream);
        assert!(error.message.contains(expected), "{said}: {error}");
        assert_eq!(peer.count(), 1, "what may have been sent is not sent again");
    }
}

#[tokio::test]
async fn heads_without_end_are_cut_off() {
    let peer = peer(|mut talk, _| async move {
        talk.request().await;
        talk.say("HTTP/1.1 200 OK\r\n").await;
        talk.say(format!("x: {}\r\n", "y".repeat(10 << 20))).await;
    })
    .await;
    let error = whole(&Client::default(), call(peer.url())).await.unwrap_err();
    assert!(error.message.contains("response headers over the limit"), "{error}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_not_an_end() {
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let peer = peer(move |mut talk, _| async move {
            talk.request().await;
            talk.say(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n")).await;
        })
        .await;
        let mut incoming = soon(Client::default().send(call(peer.url()), &LIMITS)).await.unwrap();
        assert!(soon(incoming.body.frame()).await.unwrap().is_ok());
        let error = soon(incoming.body.frame()).await.unwrap().unwrap_err();
        assert_eq!((error.kind, error.code()), (Kind::Upstream, "upstream_disconnected"));
        assert!(soon(incoming.body.frame()).await.is_none(), "nothing after an error");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_head_closes_the_connection() {
    let (gone, mut left) = tokio::sync::mpsc::unbounded_channel();
    let (begun, mut began) = tokio::sync::mpsc::unbounded_channel();
    let peer = peer(move |mut talk, _| {
        let (gone, begun) = (gone.clone(), begun.clone());
        async move {
            talk.request().await.unwrap();
            begun.send(()).unwrap();
            talk.gone().await;
            gone.send(()).unwrap();
        }
    })
    .await;
    let client = Client::default();
    let out = call(peer.url());
    let waiting = tokio::spawn(async move { client.send(out, &LIMITS).await.is_ok() });
    soon(began.recv()).await.unwrap();
    assert!(left.try_recv().is_err());
    waiting.abort();
    timeout(Duration::from_secs(1), left.recv()).await.expect("within a second").unwrap();
}

#[tokio::test]
async fn a_dropped_answer_closes_the_connection() {
    let (gone, mut left) = tokio::sync::mpsc::unbounded_channel();
    let peer = peer(move |mut talk, _| {
        let gone = gone.clone();
        async move {
            talk.request().await.unwrap();
            talk.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
            talk.gone().await;
            gone.send(()).unwrap();
        }
    })
    .await;
    let client = Client::default();
    let mut incoming = soon(client.send(call(peer.url()), &LIMITS)).await.unwrap();
    assert_eq!(soon(incoming.body.frame()).await.unwrap().unwrap(), "hello");
    assert!(left.try_recv().is_err());
    drop(incoming);
    timeout(Duration::from_secs(1), left.recv()).await.expect("within a second").unwrap();
}
