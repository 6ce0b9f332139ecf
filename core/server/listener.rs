//! A bound port. Accepts connections, shakes hands, and refuses more than it may hold; what they say is not its business.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use super::{Certificates, Peer, edge::Wire};
use crate::gather::Gather;

/// Bound, not yet serving: connections wait in the kernel's queue until [`super::serve`] runs.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    pub(super) tls: Option<Arc<Certificates>>,
}

impl Listener {
    /// Port 0 takes a free one; see [`Listener::local_addr`].
    pub fn bind(addr: SocketAddr, tls: Option<Arc<Certificates>>) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the last run's connections to leave TIME_WAIT.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(Listener { inner: socket.listen(BACKLOG)?, tls })
    }

    /// Those that it shows; `None`: it speaks without TLS.
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.tls.as_ref()
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The next connection. Errors of a single connection are passed over; when the process is out of descriptors or
    /// memory it waits, longer each time, instead of spinning.
    pub(super) async fn accept(&self) -> (TcpStream, SocketAddr) {
        let mut wait = FIRST_WAIT;
        loop {
            match self.inner.accept().await {
                Ok((socket, addr)) => {
                    // Only a hint: a socket that refuses it still works.
                    let _ = socket.set_nodelay(true);
                    return (socket, addr);
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot accept connections");
                    sleep(wait).await;
                    wait = (wait * 2).min(LAST_WAIT);
                }
            }
        }
    }
}

fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

pub fn in_the_clear(socket: TcpStream, addr: SocketAddr) -> (Wire, Peer) {
    (Either::Left(Gather(socket)), Peer { addr, tls: false, client_cert: None })
}

/// The TLS handshake under its own timeout. `None`: the peer did not manage.
pub async fn shake_hands(socket: TcpStream, addr: SocketAddr, tls: Arc<Certificates>) -> Option<(Wire, Peer)> {
    match timeout(HANDSHAKE, TlsAcceptor::from(tls.current()).accept(socket)).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates();
            let client_cert = chain.and_then(|c| c.first()).map(|c| Bytes::copy_from_slice(c));
            Some((Either::Right(Box::new(stream)), Peer { addr, tls: true, client_cert }))
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %addr, %error, "tls handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(peer = %addr, "tls handshake took too long");
            None
        }
    }
}

pub(super) const BACKLOG: u32 = 4096;
const HANDSHAKE: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LAST_WAIT: Duration = Duration::from_secs(1);
