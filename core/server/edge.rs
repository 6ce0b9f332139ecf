//! The socket as hyper sees it: cuts a client that reads nothing, lets one that still sends read our answer, and notices one that
//! hangs up while nobody reads what it sends: behind a request that was read by a peek, before one that waits unread by a second handle,
//! because a peek would only find what is unread.
//!
//! Holds no HTTP. The clock runs only while a write is pending, and the socket is looked at only while a request runs.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::connection::Shared;
use crate::gather::Gather;

/// Cleartext or TLS.
pub type Wire = Either<Gather, Box<TlsStream<TcpStream>>>;

pub struct Edge {
    wire: Wire,
    shared: Arc<Shared>,
    stall: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer runs.
    waiting: bool,
    closing: Closing,
    first: FirstBytes,
    /// Ends when the client hangs up.
    lookout: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

enum Closing {
    Open,
    /// Our side is closed; what the client still sends is thrown away.
    Lingering {
        left: usize,
    },
    Closed,
}

/// A connection's first bytes, as long as hyper has not read them.
#[derive(Default)]
struct FirstBytes {
    bytes: [u8; PREFACE.len()],
    len: u8,
    read: u8,
}

impl FirstBytes {
    fn is_unread(&self) -> bool {
        self.read < self.len
    }

    fn read_into(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.bytes[self.read.into()..self.len.into()];
        let taken = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..taken]);
        self.read += taken as u8;
    }
}

impl Edge {
    pub fn new(wire: Wire, shared: Arc<Shared>, stall: Duration) -> Self {
        Edge {
            wire,
            shared,
            stall,
            timer: None,
            waiting: false,
            closing: Closing::Open,
            first: FirstBytes::default(),
            lookout: None,
        }
    }

    /// Whether it begins with HTTP/2's preface; known as soon as a byte differs. What was read for that is read again.
    pub fn poll_is_http2(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let FirstBytes { bytes, len, .. } = &mut self.first;
            let before = usize::from(*len);
            let mut buffer = ReadBuf::new(bytes);
            buffer.set_filled(before);
            ready!(Pin::new(&mut self.wire).poll_read(cx, &mut buffer))?;
            let filled = buffer.filled().len();
            *len = filled as u8;
            self.shared.received(filled - before);
            if filled == before || bytes[..filled] != PREFACE[..filled] {
                return Poll::Ready(Ok(false));
            }
            if filled == PREFACE.len() {
                self.shared.speaks_http2();
                return Poll::Ready(Ok(true));
            }
        }
    }

    fn expired(&mut self, cx: &mut Context<'_>, after: Duration) -> bool {
        if !self.waiting {
            self.waiting = true;
            let end = Instant::now() + after;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(end),
                None => self.timer = Some(Box::pin(sleep_until(end))),
            }
        }
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    /// A write that moves nothing for `write_stall` is an error.
    fn paced<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if self.expired(cx, self.stall) {
            tracing::debug!("client reads nothing, connection cut");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")));
        }
        Poll::Pending
    }

    /// The client hung up, with what it sent still unread.
    #[cold]
    fn is_left(&mut self, cx: &mut Context<'_>) -> bool {
        let socket = match &self.wire {
            Either::Left(socket) => &socket.0,
            Either::Right(stream) => stream.get_ref().0,
        };
        self.lookout.get_or_insert_with(|| lookout(socket)).as_mut().poll(cx).is_ready()
    }

    /// The client hung up behind a request that was read. What it sends beyond that waits until its turn comes.
    fn hangs_up(&mut self, cx: &mut Context<'_>) -> bool {
        // Over TLS hyper reads on by itself: only who reads knows what an alert says.
        let Either::Left(socket) = &self.wire else { return false };
        let mut one = [std::mem::MaybeUninit::uninit()];
        match socket.0.poll_peek(cx, &mut ReadBuf::uninit(&mut one)) {
            Poll::Ready(Ok(count)) => count == 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Closing::Lingering { left } = &mut self.closing else { return Poll::Ready(()) };
        let mut scratch = [0u8; 8192];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.wire).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && *left > buffer.filled().len() => {
                    *left -= buffer.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.expired(cx, LINGER) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncRead for Edge {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let is_first = self.first.is_unread();
        if is_first {
            self.first.read_into(buffer);
        }
        match Pin::new(&mut self.wire).poll_read(cx, buffer)? {
            Poll::Pending if !is_first => return Poll::Pending,
            _ => self.shared.received(buffer.filled().len() - before),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Edge {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.wire).poll_write(cx, bytes);
        self.paced(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.wire).poll_write_vectored(cx, slices);
        self.paced(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    /// hyper comes by here whenever its connection is polled, also while it reads nothing.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.is_watched() {
            if self.is_left(cx) {
                return left();
            }
        } else {
            if self.lookout.is_some() {
                self.lookout = None;
            }
            if self.shared.is_answering() && self.hangs_up(cx) {
                return left();
            }
        }
        let polled = Pin::new(&mut self.wire).poll_flush(cx);
        self.paced(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.closing, Closing::Open) {
            let polled = Pin::new(&mut self.wire).poll_shutdown(cx);
            ready!(self.paced(cx, polled))?;
            // Closing a socket with unread bytes resets it, and the client would lose the answer that says why.
            self.closing =
                if self.shared.lingers() { Closing::Lingering { left: LINGER_BYTES } } else { Closing::Closed };
        }
        ready!(self.poll_linger(cx));
        self.closing = Closing::Closed;
        Poll::Ready(Ok(()))
    }
}

#[cold]
fn left() -> Poll<io::Result<()>> {
    tracing::debug!("the client left before its answer was whole");
    Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client left")))
}

/// Ends when the other side is closed, whether what came before was read or not. The socket's own readiness only tells that
/// something is unread; so this is a second handle to it, with a readiness of its own that may be put back.
#[cfg(unix)]
fn lookout(socket: &TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    use std::{future::pending, os::fd::AsFd};

    use tokio::io::Interest;

    let again = socket.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).and_then(TcpStream::from_std);
    Box::pin(async move {
        // Where there are no more handles it is noticed when the turn comes.
        let Ok(socket) = again else { return pending().await };
        loop {
            match socket.ready(Interest::READABLE).await {
                Ok(ready) if ready.is_read_closed() => return,
                Ok(_) => {
                    let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                }
                Err(_) => return pending().await,
            }
        }
    })
}

#[cfg(not(unix))]
fn lookout(_: &TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(std::future::pending())
}

/// How a connection begins that speaks HTTP/2 without having been asked (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may go on sending after a refusal.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 << 20;
