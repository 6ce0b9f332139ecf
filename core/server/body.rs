//! The body of an answer: nothing, bytes, a few frames, or a stream.
//!
//! An `Err` out of a stream aborts the answer where it stands (HTTP/1.1: the connection closes without the last chunk,
//! HTTP/2: the stream is reset), so that no client takes half an answer for a whole one.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Polled for one frame at a time: the client's pace is the source's pace.
pub enum Body {
    Empty,
    /// `None` once it is sent.
    Full(Option<Bytes>),
    /// Pieces of known length: one write, no copy.
    Frames(VecDeque<Bytes>),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    pub fn stream(body: impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Body::Stream(Box::pin(body))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Body::Empty } else { Body::Full(Some(bytes)) }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<Vec<Bytes>> for Body {
    fn from(mut frames: Vec<Bytes>) -> Self {
        frames.retain(|f| !f.is_empty());
        Body::Frames(frames.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let bytes = match &mut *self {
            Body::Empty => None,
            Body::Full(bytes) => bytes.take(),
            Body::Frames(frames) => frames.pop_front(),
            Body::Stream(stream) => return stream.as_mut().poll_frame(cx),
        };
        Poll::Ready(bytes.map(|b| Ok(Frame::data(b))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_none(),
            Body::Frames(frames) => frames.is_empty(),
            Body::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Frames(frames) => SizeHint::with_exact(frames.iter().map(|b| b.len() as u64).sum()),
            Body::Stream(stream) => stream.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Body::Empty => "Empty",
            Body::Full(_) => "Full",
            Body::Frames(_) => "Frames",
            Body::Stream(_) => "Stream",
        })
    }
}
