//! One connection from its first byte to its last: hyper between the edge and the app, with the timers it needs.
//!
//! hyper's own header timer also counts the idle time between requests, so the two are told apart here: `header_timeout`
//! runs from the first byte of a head, `idle` from the end of the last answer.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use http::{HeaderValue, Version, header};
use http_body::Body as _;
use hyper::service::{Service, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::{self, Builder},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    App, Body, BoxError, Peer,
    edge::{Edge, Wire},
    executor::{StreamExecutor, Turn},
    head,
    incoming::Incoming,
    tracked::Tracked,
};
use crate::{config, wakes::Ear};

/// What a connection's parts tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    /// Requests whose answer is not yet handed over whole.
    live: AtomicUsize,
    /// A request has been served.
    served: AtomicBool,
    /// Bytes came in while no request was running.
    head_begun: AtomicBool,
    http2: AtomicBool,
    /// The answer went out before the request was read: see `Edge::poll_shutdown`.
    linger: AtomicBool,
    /// Requests that wait with their bodies unread: see `Edge::poll_flush`.
    pub(super) watched: AtomicUsize,
    draining: CancellationToken,
}

impl Shared {
    pub fn received(&self, bytes: &[u8]) {
        if bytes.is_empty() || self.live.load(Ordering::Relaxed) > 0 {
            return;
        }
        if !self.served.load(Ordering::Relaxed) && bytes.starts_with(b"PRI * HTTP/2") {
            self.http2.store(true, Ordering::Relaxed);
        }
        self.head_begun.store(true, Ordering::Relaxed);
    }

    pub fn lingers(&self) -> bool {
        self.linger.load(Ordering::Relaxed)
    }

    /// HTTP/2 reads its connection whatever requests do.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed) > 0 && !self.http2.load(Ordering::Relaxed)
    }

    /// A request of HTTP/1.1 runs.
    pub fn is_answering(&self) -> bool {
        !self.is_idle() && !self.http2.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>) -> Live {
        self.live.fetch_add(1, Ordering::Relaxed);
        self.served.store(true, Ordering::Relaxed);
        self.head_begun.store(false, Ordering::Relaxed);
        self.linger.store(false, Ordering::Relaxed);
        Live(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.live.load(Ordering::Relaxed) == 0
    }
}

/// One running request.
pub(super) struct Live(Arc<Shared>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The signals that every connection of a listener listens to.
#[derive(Debug, Clone)]
pub struct Signals {
    /// "Not ready": answers close their connection.
    pub draining: CancellationToken,
    /// No further requests.
    pub stop: CancellationToken,
    /// Cut what still runs.
    pub kill: CancellationToken,
}

/// hyper's settings for every connection of a listener.
pub fn builder(config: &config::Server, tls: bool) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(StreamExecutor { write_stall: config.write_stall });
    builder
        .http1()
        .timer(TokioTimer::new())
        // Off: see the module's note. `watch` keeps both clocks.
        .header_read_timeout(None)
        // hyper would look for a client that leaves by reading on, and takes a new buffer for it while the request has the last one:
        // memory that is cold when the next request comes. `Edge` looks itself, and a connection keeps its buffer.
        .half_close(!tls)
        .max_buf_size(AT_ONCE)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(head::MOST as u32)
        .max_send_buf_size(BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT);
    builder
}

/// Serves one connection until either side is done with it.
pub async fn run<A: App>(
    wire: Wire,
    peer: Peer,
    app: Arc<A>,
    builder: Arc<Builder<StreamExecutor>>,
    config: Arc<config::Server>,
    signals: Signals,
) {
    let shared = Arc::new(Shared { draining: signals.draining.clone(), ..Shared::default() });
    let io = TokioIo::new(Edge::new(wire, shared.clone(), config.write_stall));
    let here = shared.clone();
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let asked = Asked {
            http2: request.version() == Version::HTTP_2,
            has_body: !request.body().is_end_stream(),
            live: here.enter(),
        };
        let request = request.map(|body| Incoming::new(body, asked.http2, here.clone()));
        let answer = if head::size(&request) > head::MOST {
            None
        } else {
            // It is large: made in its box, where neither hyper moves it nor an idle connection keeps its room.
            let room = Box::new_uninit();
            Some(Box::into_pin(Box::write(room, begin(app.clone(), peer.clone(), request))))
        };
        async move {
            let response = match answer {
                Some(answer) => answer.await,
                None => head::too_large(),
            };
            Ok::<_, Infallible>(answered(asked, response))
        }
    });
    let connection = pin!(builder.serve_connection_with_upgrades(io, service));
    watch(connection, &shared, &config, &signals).await;
}

/// Never inlined, and of C's convention, under which nothing unwinds: so it is written where it will lie. The compiler makes it
/// beside that, and copies all of it (6 KB), as soon as it does not know that.
#[inline(never)]
#[expect(improper_ctypes_definitions, reason = "nobody but `run` calls it")]
extern "C" fn begin<A: App>(
    app: Arc<A>,
    peer: Peer,
    request: http::Request<Incoming>,
) -> impl Future<Output = http::Response<Body>> + Send + use<A> {
    app.call(peer, request)
}

/// What of a request its answer's head depends on.
struct Asked {
    http2: bool,
    has_body: bool,
    live: Live,
}

fn answered(asked: Asked, response: http::Response<Body>) -> http::Response<Tracked> {
    let Asked { http2, has_body, live } = asked;
    let (mut head, body) = response.into_parts();
    if !http2 {
        if has_body && head.status.as_u16() >= 400 {
            live.0.linger.store(true, Ordering::Relaxed);
        }
        if live.0.draining.is_cancelled() {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let turn = if http2 { Turn::current() } else { None };
    http::Response::from_parts(head, Tracked::new(body, turn, live))
}

/// A connection that can be told to end after what it is doing.
trait Graceful: Future {
    fn wind_down(self: Pin<&mut Self>);
}

impl<I, S, B> Graceful for auto::UpgradeableConnection<'_, I, S, StreamExecutor>
where
    S: Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>>,
    S::Future: 'static,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
    StreamExecutor: auto::HttpServerConnExec<S::Future, B>,
{
    fn wind_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Open,
    /// Told to stop before its first request came: it may still bring one.
    Late,
    /// Ends with the requests that run.
    Ending,
}

/// Rung by a signal or a clock, and not by the connection: a request that comes and goes looks at neither.
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Bell {
    /// Rung from the start, so that everything is looked at once.
    fn of(task: &Waker) -> Arc<Bell> {
        Arc::new(Bell { rung: true.into(), task: task.clone() })
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// Drives a connection and keeps its clocks.
async fn watch<C: Graceful>(mut connection: Pin<&mut C>, shared: &Shared, config: &config::Server, signals: &Signals) {
    let mut stop = pin!(signals.stop.cancelled());
    let mut kill = pin!(signals.kill.cancelled());
    let opened = Instant::now();
    let mut timer = pin!(sleep_until(opened + config.header_timeout));
    let mut state = State::Open;
    let mut clock = Clock { opened, idle: None, head: None };
    let mut bell = Bell::of(Waker::noop());
    let mut waker = Waker::from(bell.clone());
    let mut ear = Ear::default();
    poll_fn(|cx: &mut Context<'_>| {
        // A task's waker is the same all its life.
        if !bell.task.will_wake(cx.waker()) {
            bell = Bell::of(cx.waker());
            waker = Waker::from(bell.clone());
        }
        let mut own = Context::from_waker(&waker);
        let mut look = false;
        loop {
            if connection.as_mut().poll(&mut Context::from_waker(ear.of(cx.waker()))).is_ready() {
                return Poll::Ready(());
            }
            if state == State::Late && shared.served.load(Ordering::Relaxed) {
                state = State::Ending;
                connection.as_mut().wind_down();
                continue;
            }
            let due = clock.due(shared, config, state);
            if let Some(due) = due.filter(|due| *due < timer.deadline()) {
                timer.as_mut().reset(due);
                look = true;
            }
            look |= bell.rung.swap(false, Ordering::Acquire);
            if !look {
                return Poll::Pending;
            }
            if kill.as_mut().poll(&mut own).is_ready() {
                return Poll::Ready(());
            }
            if state == State::Open && stop.as_mut().poll(&mut own).is_ready() {
                state = State::Late;
                continue;
            }
            if timer.as_mut().poll(&mut own).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match due {
                Some(due) if due <= now => {
                    // Half a head, or a connection that does not go although it was told to: nothing to wait for.
                    if state == State::Ending || clock.head.is_some() || !shared.served.load(Ordering::Relaxed) {
                        return Poll::Ready(());
                    }
                    state = State::Ending;
                    clock.idle = Some(now);
                    connection.as_mut().wind_down();
                    timer.as_mut().reset(now + GOODBYE);
                }
                Some(due) => timer.as_mut().reset(due),
                None => timer.as_mut().reset(now + config.idle),
            }
        }
    })
    .await;
}

/// When a connection began to wait, and for what.
struct Clock {
    opened: Instant,
    /// Since the last answer.
    idle: Option<Instant>,
    /// Since the first byte of a head.
    head: Option<Instant>,
}

impl Clock {
    /// When an idle connection's patience ends; `None` while a request runs.
    fn due(&mut self, shared: &Shared, config: &config::Server, state: State) -> Option<Instant> {
        if !shared.is_idle() {
            (self.idle, self.head) = (None, None);
            return None;
        }
        let idle = *self.idle.get_or_insert_with(Instant::now);
        match state {
            State::Ending => return Some(idle + GOODBYE),
            State::Late => return Some(self.opened.max(idle) + LATE),
            State::Open => {}
        }
        if shared.http2.load(Ordering::Relaxed) {
            return Some(idle + config.idle);
        }
        if shared.head_begun.load(Ordering::Relaxed) {
            return Some(*self.head.get_or_insert_with(Instant::now) + config.header_timeout);
        }
        self.head = None;
        let served = shared.served.load(Ordering::Relaxed);
        Some(if served { idle + config.idle } else { self.opened + config.header_timeout })
    }
}

/// What hyper reads at once where much is there, so that the usual long prompt comes in one piece and need not be put together; and what
/// it buffers of an answer for a slow reader.
pub(super) const AT_ONCE: usize = 128 << 10;
/// What it buffers of an answer over HTTP/2.
const BUFFER: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
const MAX_STREAMS: u32 = 256;
/// Streams reset before they were accepted (CVE-2023-44487), and resets that we had to send (CVE-2025-8671).
const MAX_RESETS: usize = 64;
const MAX_LOCAL_RESETS: usize = 256;
/// A prompt of a megabyte should not wait for four round trips.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(20);
/// From GOAWAY to the cut of an idle connection.
const GOODBYE: Duration = Duration::from_secs(5);
/// A connection accepted in the last moment may still bring its request.
const LATE: Duration = Duration::from_secs(1);
