//! The body of an upstream's answer, frame by frame at the reader's pace.
//!
//! Dropped before its end it cancels the call; read to its end it gives its connection back.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use hyper::body::Incoming;

use super::{fault, lease::Lease};
use crate::{
    error::{Error, Result},
    wakes,
};

pub struct Answer {
    source: Source,
    /// For messages.
    host: Arc<str>,
}

enum Source {
    Done,
    Bytes(Bytes),
    Network(Incoming, Lease),
    Body(Pin<Box<dyn Body<Data = Bytes, Error = Error> + Send>>),
}

impl Answer {
    pub(super) fn network(body: Incoming, lease: Lease, host: Arc<str>) -> Self {
        let mut answer = Answer { source: Source::Network(body, lease), host };
        answer.release_at_end();
        answer
    }

    /// An answer that is here already.
    pub fn bytes(bytes: Bytes) -> Self {
        let source = if bytes.is_empty() { Source::Done } else { Source::Bytes(bytes) };
        Answer { source, host: "the gateway".into() }
    }

    /// An answer made in the process.
    pub fn body(body: impl Body<Data = Bytes, Error = Error> + Send + 'static) -> Self {
        Answer { source: Source::Body(Box::pin(body)), host: "the gateway".into() }
    }

    pub fn is_end(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// The next frame; `None` at a whole answer's end. After an error there is nothing more.
    pub async fn frame(&mut self) -> Option<Result<Bytes>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            let polled = match &mut self.source {
                Source::Done => return Poll::Ready(None),
                Source::Bytes(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.source = Source::Done;
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Source::Network(body, lease) => ready!(match lease {
                    Lease::Http1(_) => wakes::poll_frame(body, cx),
                    Lease::Http2(_) => Pin::new(body).poll_frame(cx),
                })
                .map(|frame| frame.map_err(|cause| fault::in_body(&self.host, cause))),
                Source::Body(body) => ready!(body.as_mut().poll_frame(cx)),
            };
            match polled {
                // Trailers say nothing that a format knows.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => {
                        self.release_at_end();
                        return Poll::Ready(Some(Ok(data)));
                    }
                    _ => {}
                },
                Some(Err(error)) => {
                    self.source = Source::Done;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.release();
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// The whole answer, or an error when it is larger than `limit` bytes. `grow` is asked before more is kept, for answers
    /// that are not small.
    pub async fn collect(mut self, limit: u64, grow: &mut (dyn FnMut(u64) -> Result<()> + Send)) -> Result<Bytes> {
        let Some(first) = self.frame().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() as u64 > limit {
            return Err(fault::too_large(&self.host, limit));
        }
        let mut counted = 0;
        let mut count = |total: u64| {
            let more = if total > SMALL { total - counted } else { 0 };
            counted += more;
            if more > 0 { grow(more) } else { Ok(()) }
        };
        count(first.len() as u64)?;
        let mut whole: Option<BytesMut> = None;
        while let Some(frame) = self.frame().await.transpose()? {
            let whole = whole.get_or_insert_with(|| BytesMut::from(first.as_ref()));
            if (whole.len() + frame.len()) as u64 > limit {
                return Err(fault::too_large(&self.host, limit));
            }
            count((whole.len() + frame.len()) as u64)?;
            whole.extend_from_slice(&frame);
        }
        Ok(whole.map_or(first, BytesMut::freeze))
    }

    /// A body of known length is over with its last byte: its connection need not wait until somebody asks again.
    fn release_at_end(&mut self) {
        if let Source::Network(body, _) = &self.source
            && body.is_end_stream()
        {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Source::Network(_, lease) = std::mem::replace(&mut self.source, Source::Done) {
            lease.release();
        }
    }
}

/// What an answer may hold uncounted, as much as a stream.
const SMALL: u64 = 64 << 10;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("host", &self.host).field("end", &self.is_end()).finish()
    }
}
