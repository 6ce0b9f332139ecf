//! Deadlines and cuts of requests, as their connection keeps them.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, AtomicUsize},
    time::Instant,
};

use tokio::sync::Notify;

use super::*;
use crate::vigil;

/// Answers when the milliseconds of the path are over, or when callers were cut; `-` where nobody keeps the vigil. Sets no timer.
#[derive(Default)]
struct Waits {
    cuts: Arc<Notify>,
    cut: AtomicBool,
    polls: AtomicUsize,
}

impl App for Waits {
    async fn call(self: Arc<Self>, _: Peer, request: Request<Incoming>) -> Response<Body> {
        let wait = request.uri().path().trim_start_matches('/').parse().unwrap();
        let until = Instant::now() + Duration::from_millis(wait);
        poll_fn(|cx| {
            self.polls.fetch_add(1, Ordering::Relaxed);
            let said = match (vigil::keeps(until, cx), vigil::hears_cuts(cx)) {
                (Some(_), true) if self.cut.load(Ordering::Acquire) => "cut",
                (Some(true), true) if Instant::now() >= until => "late",
                (Some(_), true) => return Poll::Pending,
                _ => "-",
            };
            Poll::Ready(Response::new(said.into()))
        })
        .await
    }

    fn cuts(&self) -> Arc<Notify> {
        self.cuts.clone()
    }
}

fn waiting(config: config::Server) -> (Arc<Waits>, SocketAddr) {
    let (app, listener) = (Arc::<Waits>::default(), Listener::bind("127.0.0.1:0".parse().unwrap(), None).unwrap());
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, config, app.clone(), CancellationToken::new()));
    (app, addr)
}

async fn asks(socket: &mut TcpStream, wait: u64) {
    socket.write_all(format!("GET /{wait} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_request_is_polled_at_its_deadline_however_long_its_connection_may_be_idle() {
    for idle in [50, 30_000] {
        let (app, addr) = waiting(config::Server { idle: Duration::from_millis(idle), ..quick() });
        let mut socket = TcpStream::connect(addr).await.unwrap();
        // A longer one first: the timer stands late, and has to come earlier; then a shorter one again.
        for wait in [400, 150, 40] {
            let began = Instant::now();
            asks(&mut socket, wait).await;
            until(&mut socket, "late").await;
            let took = began.elapsed();
            assert!(
                took >= Duration::from_millis(wait) && took < Duration::from_millis(wait + 2_000),
                "{wait}: {took:?}"
            );
        }
        // It is not asked again and again meanwhile.
        assert!(app.polls.load(Ordering::Relaxed) < 60, "{idle}: {:?}", app.polls);
    }
}

#[tokio::test]
async fn whoever_runs_hears_of_each_cut() {
    let (app, addr) = waiting(quick());
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(TcpStream::connect(addr).await.unwrap());
    }
    for _ in 0..3 {
        let seen = app.polls.load(Ordering::Relaxed);
        for socket in &mut sockets {
            asks(socket, 60_000).await;
        }
        soon(async {
            while app.polls.load(Ordering::Relaxed) < seen + 8 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // One that is none of theirs.
        app.cuts.notify_waiters();
        tokio::time::sleep(Duration::from_millis(20)).await;
        app.cut.store(true, Ordering::Release);
        app.cuts.notify_waiters();
        for socket in &mut sockets {
            until(socket, "cut").await;
        }
        app.cut.store(false, Ordering::Release);
    }
}

#[tokio::test]
async fn nobody_keeps_a_vigil_over_a_stream_of_http2() {
    let (_, addr) = waiting(quick());
    let response = soon(http2(addr).await.send_request(get("/100"))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "-");
}
