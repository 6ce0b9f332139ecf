//! Leaving without refusing anybody by surprise.

use super::*;

/// Answers when the test says so.
fn gated() -> (impl Fn(Peer, Request<Incoming>) -> EchoFuture, Arc<tokio::sync::Semaphore>, mpsc::UnboundedReceiver<()>)
{
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (begun, began) = mpsc::unbounded_channel();
    let inner = gate.clone();
    let app = move |_: Peer, _: Request<Incoming>| {
        let (gate, begun) = (inner.clone(), begun.clone());
        Box::pin(async move {
            begun.send(()).unwrap();
            let _pass = gate.acquire().await.unwrap();
            Response::new("done".into())
        }) as EchoFuture
    };
    (app, gate, began)
}

#[tokio::test]
async fn running_requests_finish_and_new_connections_are_refused() {
    let (app, gate, mut began) = gated();
    let server = start(quick(), app);
    let mut one = TcpStream::connect(server.addr).await.unwrap();
    one.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(began.recv()).await.unwrap();
    let mut sender = http2(server.addr).await;
    let two = tokio::spawn(async move { sender.send_request(get("/")).await.unwrap().into_body().collect().await });
    soon(began.recv()).await.unwrap();
    server.shutdown.cancel();
    soon(async { while TcpStream::connect(server.addr).await.is_ok() {} }).await;
    assert!(!server.done.is_finished());
    gate.add_permits(10);
    let answer = to_end(one).await;
    assert!(answer.ends_with("done"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(soon(two).await.unwrap().unwrap().to_bytes(), "done");
    let report = soon(server.done).await.unwrap();
    assert!(report.open >= 2 && report.cut == 0, "{report:?}");
}

#[tokio::test]
async fn before_the_door_closes_everything_is_still_served() {
    let config = config::Server { drain_delay: Duration::from_millis(400), ..quick() };
    let server = start(config, |_, _| async { Response::new("served".into()) });
    server.shutdown.cancel();
    let answer = talk(server.addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.ends_with("served") && answer.contains("connection: close"), "{answer}");
    let response = http2(server.addr).await.send_request(get("/")).await.unwrap();
    assert!(!response.headers().contains_key("connection"));
    assert_eq!(soon(server.done).await.unwrap().cut, 0);
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_drain() {
    let server = start(quick(), |_, _| async { Response::new("hello".into()) });
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(&mut idle, "hello").await;
    let mut idle2 = http2(server.addr).await;
    idle2.send_request(get("/")).await.unwrap().into_body().collect().await.unwrap();
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    server.shutdown.cancel();
    let report = soon(server.done).await.unwrap();
    assert_eq!(report.cut, 0);
    assert!(report.took < Duration::from_secs(4), "{report:?}");
    assert_eq!(to_end(idle).await, "");
}

#[tokio::test]
async fn a_connection_taken_in_the_last_moment_still_gets_its_answer() {
    let server = start(quick(), |_, _| async { Response::new("late".into()) });
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    server.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = to_end(socket).await;
    assert!(answer.ends_with("late"), "{answer:?}");
}

#[tokio::test]
async fn what_outlives_the_grace_is_cut_and_counted() {
    let (app, _gate, mut began) = gated();
    let server = start(config::Server { drain: Duration::from_millis(200), ..quick() }, app);
    let mut one = TcpStream::connect(server.addr).await.unwrap();
    one.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut sender = http2(server.addr).await;
    let two = tokio::spawn(async move { sender.send_request(get("/")).await });
    soon(began.recv()).await.unwrap();
    soon(began.recv()).await.unwrap();
    server.shutdown.cancel();
    let report = soon(server.done).await.unwrap();
    assert_eq!(report.cut, 2);
    assert_eq!(to_end(one).await, "");
    assert!(soon(two).await.unwrap().is_err());
}
