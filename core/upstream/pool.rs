//! Connections that wait for their next call: a stack of idle HTTP/1.1 connections an origin, a few shared HTTP/2 ones.
//!
//! Each connection is driven by a task of its own, which also notices when the other side closes it; whoever holds the
//! connection holds the task's handle, and letting go of an unfinished call ends the task and with it the socket.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use http::{HeaderValue, uri::Authority};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{task::AbortHandle, time::timeout};

use super::{
    Frames,
    connect::{Connected, Connector, Place, Wire},
    fault,
    lease::{Held, Http1, Lease, Ride, Shard},
};
use crate::{clock, error::Result, wakes::Ear};

/// What two calls must have in common to share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    authority: Authority,
    https: bool,
    http2: Option<bool>,
    private: bool,
    metadata: bool,
    trust: u64,
}

#[derive(Debug, Default)]
pub struct Pool {
    origins: DashMap<Key, Arc<Origin>>,
    swept: AtomicBool,
}

impl Pool {
    pub fn origin(self: &Arc<Self>, place: &Place) -> Arc<Origin> {
        let key = Key {
            authority: place.authority.clone(),
            https: place.https,
            http2: place.http2,
            private: place.egress.private,
            metadata: place.egress.metadata,
            trust: place.trust.as_ref().map_or(0, |t| t.id),
        };
        if let Some(origin) = self.origins.get(&key) {
            return origin.clone();
        }
        if !self.swept.swap(true, Ordering::Relaxed) {
            self.start_sweeping();
        }
        self.origins.entry(key).or_insert_with(|| Arc::new(Origin::new(place))).clone()
    }

    /// Closes what nobody used for a while; ends with the pool.
    fn start_sweeping(self: &Arc<Self>) {
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(pool) = pool.upgrade() else { return };
                let now = Instant::now();
                pool.origins.retain(|_, origin| origin.sweep(now) || Arc::strong_count(origin) > 1);
            }
        });
    }
}

/// One place to connect to.
#[derive(Debug)]
pub struct Origin {
    host: HeaderValue,
    idle: Mutex<Vec<Idle>>,
    shards: Mutex<Vec<Arc<Shard>>>,
    /// Held while connecting where HTTP/2 may come of it: those who wait share the outcome.
    dialing: tokio::sync::Mutex<()>,
    /// 0 not known yet, else the HTTP version's first digit.
    spoken: AtomicU8,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    since: Instant,
}

impl Idle {
    /// Closed, or so long unused that its server may close it any moment.
    fn is_old(&self, now: Instant) -> bool {
        self.connection.sender.is_closed() || now.saturating_duration_since(self.since) >= self.connection.patience
    }
}

impl Origin {
    fn new(place: &Place) -> Self {
        let spoken = match (place.https, place.http2) {
            (_, Some(false)) | (false, None) => 1,
            (_, Some(true)) => 2,
            (true, None) => 0,
        };
        Origin {
            // An authority holds no byte that a header may not.
            host: HeaderValue::from_str(place.authority.as_str()).unwrap_or_else(|_| HeaderValue::from_static("")),
            idle: Mutex::default(),
            shards: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
            spoken: AtomicU8::new(spoken),
        }
    }

    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// A connection: pooled, unless `fresh`, or new.
    pub async fn acquire(
        self: &Arc<Self>,
        connector: &Connector,
        place: &Place,
        limit: Duration,
        fresh: bool,
    ) -> Result<Lease> {
        if let Some(lease) = self.pooled(fresh).await {
            return Ok(lease);
        }
        if self.spoken.load(Ordering::Relaxed) == 1 {
            return self.connect(connector, place, limit).await;
        }
        let turn = self.dialing.lock().await;
        if let Some(lease) = self.pooled(fresh).await {
            return Ok(lease);
        }
        if self.spoken.load(Ordering::Relaxed) == 1 {
            drop(turn);
        }
        self.connect(connector, place, limit).await
    }

    /// A pooled connection that can be used this instant.
    pub fn at_hand(self: &Arc<Self>) -> Option<Lease> {
        if self.spoken.load(Ordering::Relaxed) != 1 {
            return None;
        }
        loop {
            let idle = lock(&self.idle).pop()?;
            if idle.is_old(clock::lately()) {
                continue;
            }
            if !idle.connection.sender.is_ready() {
                lock(&self.idle).push(idle);
                return None;
            }
            let connection = Some(idle.connection);
            return Some(Lease::Http1(Held { connection, origin: self.clone(), reused: true }));
        }
    }

    async fn pooled(self: &Arc<Self>, fresh: bool) -> Option<Lease> {
        if let Some(shard) = self.shard() {
            return Some(Lease::Http2(Ride { shard, reused: true }));
        }
        if fresh {
            return None;
        }
        loop {
            let idle = lock(&self.idle).pop()?;
            if idle.is_old(clock::lately()) {
                continue;
            }
            let mut connection = idle.connection;
            // The last answer's end and the driver's next turn may be a moment apart.
            let ready =
                connection.sender.is_ready() || matches!(timeout(SETTLE, connection.sender.ready()).await, Ok(Ok(())));
            if ready {
                return Some(Lease::Http1(Held { connection: Some(connection), origin: self.clone(), reused: true }));
            }
        }
    }

    /// The least busy HTTP/2 connection, when it can carry another stream.
    fn shard(&self) -> Option<Arc<Shard>> {
        if self.spoken.load(Ordering::Relaxed) == 1 {
            return None;
        }
        let mut shards = lock(&self.shards);
        shards.retain(|s| s.usable());
        let full = shards.len() >= MAX_SHARDS;
        let best = shards.iter().min_by_key(|s| s.streams.load(Ordering::Relaxed))?;
        let room = best.allowed.load(Ordering::Relaxed).clamp(1, SHARD_STREAMS);
        if best.streams.load(Ordering::Relaxed) >= room && !full {
            return None;
        }
        best.streams.fetch_add(1, Ordering::Relaxed);
        Some(best.clone())
    }

    async fn connect(self: &Arc<Self>, connector: &Connector, place: &Place, limit: Duration) -> Result<Lease> {
        let Connected { wire, http2, forward } = connector.connect(place, limit).await?;
        self.spoken.store(if http2 { 2 } else { 1 }, Ordering::Relaxed);
        let io = TokioIo::new(wire);
        if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_HEAD as u32)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_WAIT)
                .handshake(io)
                .await
                .map_err(|cause| fault::not_http2(&place.name, cause))?;
            let allowed = Arc::new(AtomicUsize::new(SHARD_STREAMS));
            let driver = drive(Box::pin(with_settings(connection, allowed.clone())));
            let shard = Arc::new(Shard {
                sender,
                allowed,
                streams: AtomicUsize::new(1),
                retired: AtomicBool::new(false),
                used: Mutex::new(Instant::now()),
                driver,
            });
            lock(&self.shards).push(shard.clone());
            return Ok(Lease::Http2(Ride { shard, reused: false }));
        }
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(io)
            .await
            .map_err(|cause| fault::before_head(&place.name, cause))?;
        let connection = Http1 { sender, driver: drive(connection), forward, patience: IDLE };
        Ok(Lease::Http1(Held { connection: Some(connection), origin: self.clone(), reused: false }))
    }

    pub(super) fn give_back(&self, connection: Http1) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: clock::lately() });
        }
    }

    /// Is anything left?
    fn sweep(&self, now: Instant) -> bool {
        let mut idle = lock(&self.idle);
        idle.retain(|idle| !idle.is_old(now));
        let mut shards = lock(&self.shards);
        shards.retain(|s| s.usable() && (s.streams.load(Ordering::Relaxed) > 0 || !s.rested(now)));
        !idle.is_empty() || !shards.is_empty()
    }
}

/// Drives an HTTP/2 connection and keeps its peer's stream limit at hand, which only the connection knows.
async fn with_settings(
    connection: http2::Connection<TokioIo<Wire>, Frames, TokioExecutor>,
    allowed: Arc<AtomicUsize>,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        allowed.store(connection.current_max_send_streams(), Ordering::Relaxed);
        polled
    })
    .await
}

fn drive<C, E>(connection: C) -> AbortHandle
where
    C: Future<Output = std::result::Result<(), E>> + Send + Unpin + 'static,
    E: fmt::Display,
{
    tokio::spawn(Driven { connection, ear: Ear::default() }).abort_handle()
}

/// A connection, which over HTTP/1.1 need not know who takes the last of an answer. No `async fn`: that would have room for
/// the connection twice, once as what it was given and once as what it polls.
struct Driven<C> {
    connection: C,
    ear: Ear,
}

impl<C, E> Future for Driven<C>
where
    C: Future<Output = std::result::Result<(), E>> + Unpin,
    E: fmt::Display,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Driven { connection, ear } = &mut *self;
        if !ear.is_of(cx.waker()) {
            *ear = Ear::of(cx.waker());
        }
        Pin::new(connection).poll(&mut Context::from_waker(ear.waker())).map(|ended| {
            if let Err(error) = ended {
                // Who waits for an answer gets the error itself.
                tracing::debug!(%error, "upstream connection ended");
            }
        })
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) const IDLE: Duration = Duration::from_secs(60);
const SWEEP: Duration = Duration::from_secs(10);
/// Idle connections an origin.
const MAX_IDLE: usize = 1024;
/// How long an answered connection may take to be ready for the next call.
const SETTLE: Duration = Duration::from_millis(100);
/// Providers allow about a hundred streams a connection.
const SHARD_STREAMS: usize = 100;
const MAX_SHARDS: usize = 32;
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
const SEND_BUFFER: usize = 1 << 20;
/// A stream that nobody reads holds this much, and no more.
const STREAM_WINDOW: u32 = 64 << 10;
/// All of a connection's streams may be slow at once without starving another.
const CONNECTION_WINDOW: u32 = 16 << 20;
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WAIT: Duration = Duration::from_secs(10);
