//! One connection from its first byte to its last: hyper between the edge and the app, with the timers it needs.
//!
//! hyper's own header timer also counts the idle time between requests, so the two are told apart here: `header_timeout`
//! runs from the first byte of a head, `idle` from the end of the last answer.

use std::{
    convert::Infallible,
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
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioTimer;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, futures::OwnedNotified},
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    App, Body, Peer,
    edge::{Edge, Wire},
    executor::{StreamExecutor, Turn},
    head,
    incoming::Incoming,
    protocol::{Conversation, Protocols, Serve},
    tracked::Tracked,
};
use crate::{clock, config, vigil::Vigil, wakes::Ear};

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
    /// A signal or a clock has something to say.
    rung: AtomicBool,
    draining: CancellationToken,
}

impl Shared {
    pub fn received(&self, bytes: usize) {
        if bytes > 0 && self.is_idle() {
            self.head_begun.store(true, Ordering::Relaxed);
        }
    }

    pub fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
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
pub fn protocols(config: &config::Server, tls: bool) -> Protocols {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        // Off: see the module's note. `Connection` keeps both clocks.
        .header_read_timeout(None)
        // hyper would look for a client that leaves by reading on, and takes a new buffer for it while the request has the last one:
        // memory that is cold when the next request comes. `Edge` looks itself, and a connection keeps its buffer.
        .half_close(!tls)
        .max_buf_size(AT_ONCE)
        .max_headers(MAX_HEADERS);
    let mut http2 = http2::Builder::new(StreamExecutor { write_stall: config.write_stall });
    http2
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
    Protocols { http1, http2 }
}

/// Serves one connection until either side is done with it, and holds its seat for as long.
pub fn run<A: App>(
    wire: Wire,
    peer: Peer,
    app: Arc<A>,
    protocols: Arc<Protocols>,
    config: Arc<config::Server>,
    signals: &Signals,
    seat: OwnedSemaphorePermit,
) -> impl Future<Output = ()> + Send + use<A> {
    let shared = Arc::new(Shared { rung: true.into(), draining: signals.draining.clone(), ..Shared::default() });
    let cuts = app.cuts();
    let edge = Edge::new(wire, shared.clone(), config.write_stall);
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
    Connection::new(Conversation::new(edge, service, protocols), shared, config, (signals, cuts), seat)
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
    shared: Arc<Shared>,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// A connection, its clocks, and those of the requests that it polls itself. One future, and no `async` blocks within one another: the states of those lie far apart, and each is
/// memory to wait for when thousands of connections take turns.
struct Connection<S: Serve> {
    conversation: Conversation<S>,
    ear: Ear,
    shared: Arc<Shared>,
    state: State,
    clock: Clock,
    vigil: Vigil,
    bell: Waker,
    alarms: Alarms,
    config: Arc<config::Server>,
    _seat: OwnedSemaphorePermit,
}

/// What rings the bell.
struct Alarms {
    timer: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    kill: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Callers were cut: whoever runs for one of them is to hear of it.
    cut: Pin<Box<OwnedNotified>>,
    cuts: Arc<Notify>,
}

impl<S: Serve> Connection<S> {
    fn new(
        conversation: Conversation<S>,
        shared: Arc<Shared>,
        config: Arc<config::Server>,
        (signals, cuts): (&Signals, Arc<Notify>),
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let opened = Instant::now();
        let alarms = Alarms {
            timer: Box::pin(sleep_until(opened + config.header_timeout)),
            stop: Box::pin(signals.stop.clone().cancelled_owned()),
            kill: Box::pin(signals.kill.clone().cancelled_owned()),
            cut: Box::pin(cuts.clone().notified_owned()),
            cuts,
        };
        Connection {
            conversation,
            ear: Ear::default(),
            shared,
            state: State::Open,
            clock: Clock { opened, idle: None, head: None },
            vigil: Vigil::default(),
            bell: Waker::noop().clone(),
            alarms,
            config,
            _seat: seat,
        }
    }
}

impl<S: Serve> Future for Connection<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = &mut *self;
        // A task's waker is the same all its life.
        if !me.ear.is_of(cx.waker()) {
            me.ear = Ear::of(cx.waker());
            me.bell = Waker::from(Arc::new(Bell { shared: me.shared.clone(), task: cx.waker().clone() }));
            me.shared.rung.store(true, Ordering::Relaxed);
        }
        let mut look = false;
        loop {
            if me.vigil.over(me.ear.waker(), |cx| me.conversation.poll(cx)).is_ready() {
                return Poll::Ready(());
            }
            if me.state == State::Late && me.shared.served.load(Ordering::Relaxed) {
                me.state = State::Ending;
                me.conversation.wind_down();
                continue;
            }
            let own = me.clock.due(&me.shared, &me.config, me.state);
            let due = own.or(me.vigil.until().map(Instant::from_std));
            if let Some(due) = due.filter(|due| *due < me.alarms.timer.deadline()) {
                me.alarms.timer.as_mut().reset(due);
                look = true;
            }
            look |= me.shared.rung.load(Ordering::Relaxed) && me.shared.rung.swap(false, Ordering::Acquire);
            if !look {
                return Poll::Pending;
            }
            let mut bell = Context::from_waker(&me.bell);
            if me.alarms.kill.as_mut().poll(&mut bell).is_ready() {
                return Poll::Ready(());
            }
            if me.state == State::Open && me.alarms.stop.as_mut().poll(&mut bell).is_ready() {
                me.state = State::Late;
                continue;
            }
            if me.alarms.cut.as_mut().poll(&mut bell).is_ready() {
                me.alarms.cut.set(me.alarms.cuts.clone().notified_owned());
                // A cut between a request's last look and this would not be heard. Streams of HTTP/2 hear for themselves.
                if me.shared.is_answering() {
                    continue;
                }
            }
            // A deadline holds also while there is always something to do.
            if pin!(unconstrained(me.alarms.timer.as_mut())).poll(&mut bell).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match due {
                Some(due) if due <= now && own.is_none() => {
                    me.alarms.timer.as_mut().reset(now + me.config.idle);
                    me.vigil.ring();
                }
                Some(due) if due <= now => {
                    // Half a head, or a connection that does not go although it was told to: nothing to wait for.
                    if me.state == State::Ending || me.clock.head.is_some() || !me.shared.served.load(Ordering::Relaxed)
                    {
                        return Poll::Ready(());
                    }
                    me.state = State::Ending;
                    me.clock.idle = Some(now);
                    me.conversation.wind_down();
                    me.alarms.timer.as_mut().reset(now + GOODBYE);
                }
                Some(due) => me.alarms.timer.as_mut().reset(due),
                None => me.alarms.timer.as_mut().reset(now + me.config.idle),
            }
        }
    }
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
        let idle = *self.idle.get_or_insert_with(|| clock::lately().into());
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
