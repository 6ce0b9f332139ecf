//! An answer's body on its way to hyper: it tells its connection when it is over, hands HTTP/2 what it takes at once, and lets what was
//! written before an error go out first.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{Body, BoxError, connection::Live, executor::Turn};

/// An answer's body with the connection's bookkeeping around it.
pub struct Tracked {
    body: Body,
    /// HTTP/2 only: what of the last frame is still to be handed over.
    rest: Bytes,
    turn: Option<Arc<Turn>>,
    failing: Option<Failing>,
    _live: Live,
}

/// An error that waits a moment: hyper throws away what it has not yet written when a body fails, and the frame before
/// the error is the one that says why.
struct Failing {
    error: BoxError,
    after: Pin<Box<Sleep>>,
}

impl Tracked {
    /// `turn`: over HTTP/2, whose frame is next.
    pub fn new(body: Body, turn: Option<Arc<Turn>>, live: Live) -> Tracked {
        Tracked { body, rest: Bytes::new(), turn, failing: None, _live: live }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut failing = match self.failing.take() {
            Some(failing) => failing,
            None => match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Err(error))) => Failing { error, after: Box::pin(sleep(LAST_WORDS)) },
                other => return other,
            },
        };
        if failing.after.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(failing.error)));
        }
        self.failing = Some(failing);
        Poll::Pending
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = &mut *self;
        let Some(turn) = me.turn.clone() else { return me.poll_body(cx) };
        turn.asked();
        if me.rest.is_empty() {
            match me.poll_body(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => me.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        // h2 takes a frame whole into its own buffer: in slices, a slow reader costs it one slice.
        let slice = me.rest.split_to(me.rest.len().min(SLICE));
        turn.handed();
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.failing.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// One HTTP/2 data frame's default size.
const SLICE: usize = 16 << 10;
/// For the frames before a broken answer's end to be written.
const LAST_WORDS: Duration = Duration::from_millis(20);
