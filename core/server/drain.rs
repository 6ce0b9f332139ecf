//! The life of a listener: serve, and on the signal leave without refusing anybody by surprise.
//!
//! First "not ready" while everything is still served (a balancer needs time to see it), then no new connections and no
//! new requests while the running ones finish, then the cut.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App, Certificates, Listener,
    connection::{self, Signals},
    listener,
    protocol::Protocols,
};
use crate::config;

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections open when the listener closed.
    pub open: usize,
    /// Of these, the ones that were still busy when the grace was over.
    pub cut: usize,
    pub took: Duration,
}

/// Serves until `shutdown` and through the drain that follows. `shutdown.is_cancelled()` is what "draining" means: the
/// app's readiness answers by it.
pub async fn serve<A: App>(
    listener: Listener,
    config: config::Server,
    app: Arc<A>,
    shutdown: CancellationToken,
) -> DrainReport {
    let signals =
        Signals { draining: shutdown.clone(), stop: CancellationToken::new(), kill: CancellationToken::new() };
    if let Some(certificates) = &listener.tls {
        tokio::spawn(certificates.clone().watch(signals.stop.clone()));
    }
    let connections = TaskTracker::new();
    let desk = Desk {
        protocols: Arc::new(connection::protocols(&config, listener.tls.is_some())),
        seats: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
        config: Arc::new(config),
        app,
        signals: signals.clone(),
        connections: connections.clone(),
    };
    desk.accept_until(&listener, shutdown.cancelled()).await;
    desk.accept_until(&listener, sleep(desk.config.drain_delay)).await;
    desk.accept_waiting(&listener).await;
    drop(listener);
    let began = Instant::now();
    let open = connections.len();
    signals.stop.cancel();
    connections.close();
    let mut cut = 0;
    if timeout(desk.config.drain, connections.wait()).await.is_err() {
        cut = connections.len();
        tracing::warn!(cut, "drain is over, connections cut");
    }
    signals.kill.cancel();
    connections.wait().await;
    DrainReport { open, cut, took: began.elapsed() }
}

/// What a new connection gets.
struct Desk<A> {
    protocols: Arc<Protocols>,
    config: Arc<config::Server>,
    seats: Arc<Semaphore>,
    app: Arc<A>,
    signals: Signals,
    connections: TaskTracker,
}

impl<A: App> Desk<A> {
    async fn accept_until(&self, listener: &Listener, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                (socket, addr) = listener.accept() => self.admit(socket, addr, listener),
            }
        }
    }

    /// Who knocked before the door closes is still let in.
    async fn accept_waiting(&self, listener: &Listener) {
        for _ in 0..listener::BACKLOG {
            let waiting = tokio::task::unconstrained(listener.accept());
            tokio::select! {
                biased;
                (socket, addr) = waiting => self.admit(socket, addr, listener),
                () = std::future::ready(()) => return,
            }
        }
    }

    fn admit(&self, socket: TcpStream, addr: SocketAddr, listener: &Listener) {
        match self.seats.clone().try_acquire_owned() {
            Ok(seat) => self.seat(socket, addr, seat, listener.tls.clone()),
            // Closing says "go elsewhere" at once; waiting would look like a hang.
            Err(_) => {
                tracing::warn!(peer = %addr, limit = self.config.max_connections, "too many connections, one refused")
            }
        }
    }

    fn seat(&self, socket: TcpStream, addr: SocketAddr, seat: OwnedSemaphorePermit, tls: Option<Arc<Certificates>>) {
        let (app, protocols, config) = (self.app.clone(), self.protocols.clone(), self.config.clone());
        let Some(tls) = tls else {
            let (wire, peer) = listener::in_the_clear(socket, addr);
            self.connections.spawn(connection::run(wire, peer, app, protocols, config, &self.signals, seat));
            return;
        };
        let signals = self.signals.clone();
        self.connections.spawn(async move {
            let shaken = tokio::select! {
                shaken = listener::shake_hands(socket, addr, tls) => shaken,
                () = signals.kill.cancelled() => None,
            };
            if let Some((wire, peer)) = shaken {
                connection::run(wire, peer, app, protocols, config, &signals, seat).await;
            }
        });
    }
}
