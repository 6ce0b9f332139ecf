//! Sockets of the control plane: bounded in number, in header time and in life, each with a timer.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{AdminState, refuse_to_listen, routes};

/// Serves until `shutdown`, then lets answers under way finish for a moment. Refuses an address that others can reach when
/// there is no token.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: CancellationToken) -> io::Result<()> {
    serve_within(listener, state, shutdown, HEADER_TIMEOUT).await
}

pub(super) async fn serve_within(
    listener: TcpListener,
    state: Arc<AdminState>,
    shutdown: CancellationToken,
    header_timeout: Duration,
) -> io::Result<()> {
    if let Some(reason) = refuse_to_listen(listener.local_addr()?, state.token.as_ref()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &seats) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, peer, seat)) = accepted else { break };
        let (state, shutdown) = (state.clone(), shutdown.clone());
        connections.spawn(async move {
            converse(stream, peer, state, shutdown, header_timeout).await;
            drop(seat);
        });
    }
    connections.close();
    let _ = tokio::time::timeout(GRACE, connections.wait()).await;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    seats: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let seat = seats.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Some((stream, peer, seat)),
            Err(error) => {
                // Out of file descriptors, most often: others must end first.
                tracing::warn!(%error, "the admin listener could not accept");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    state: Arc<AdminState>,
    shutdown: CancellationToken,
    header_timeout: Duration,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(routes::answer(state, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(LIFE) => {
            connection.as_mut().graceful_shutdown();
            return drop(tokio::time::timeout(GRACE, connection).await);
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            return drop(tokio::time::timeout(GRACE, connection).await);
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "an admin connection broke");
    }
}

const MAX_CONNECTIONS: usize = 256;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADER: usize = 64 * 1024;
/// A reader that stands still holds its seat no longer.
const LIFE: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(5);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
