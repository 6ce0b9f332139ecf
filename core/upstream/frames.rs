//! A request's body: a few pieces of known length, so that a splice is written without being put together.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

#[derive(Debug, Clone, Default)]
pub struct Frames {
    list: Vec<Bytes>,
    next: usize,
    left: u64,
}

impl Frames {
    /// Bytes still to be sent.
    pub fn len(&self) -> u64 {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl From<Vec<Bytes>> for Frames {
    fn from(mut list: Vec<Bytes>) -> Self {
        list.retain(|piece| !piece.is_empty());
        let left = list.iter().map(|piece| piece.len() as u64).sum();
        Frames { list, next: 0, left }
    }
}

impl From<Bytes> for Frames {
    fn from(bytes: Bytes) -> Self {
        vec![bytes].into()
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.next;
        let Some(piece) = self.list.get_mut(next).map(std::mem::take) else { return Poll::Ready(None) };
        self.next += 1;
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
