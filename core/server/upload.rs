//! A request's body that is too long to be held: frame by frame at the reader's pace, under a size and a pace of the client's
//! own. The time that the reader takes is not the client's.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    BodyLimits, BoxError,
    read::{broken, too_large, too_slow},
};
use crate::error::{Error, Kind, Result};

pub struct Upload<B> {
    body: B,
    limits: BodyLimits,
    /// Whose limit that is, for the message.
    total: u64,
    /// How long the client was waited for, and since when it is now.
    waited: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Errors: 413 by its announced length, 415 when it is compressed: what streams by is not unpacked.
    pub fn open(body: B, headers: &HeaderMap, limits: BodyLimits) -> Result<Upload<B>> {
        let plain = |v: &header::HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"identity");
        if headers.get_all(header::CONTENT_ENCODING).iter().any(|v| !plain(v)) {
            return Err(Error::new(Kind::UnsupportedMediaType, "a body that streams through must come uncompressed"));
        }
        if body.size_hint().lower() > limits.max_body {
            return Err(too_large(&limits));
        }
        Ok(Upload { body, limits, total: 0, waited: Duration::ZERO, since: None, timer: None })
    }

    /// Of all that is still to come, when the client said it.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    pub async fn piece(&mut self) -> Option<Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await
    }

    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
                ready!(self.poll_wait(cx));
                return Poll::Ready(Some(Err(too_slow())));
            };
            if let Some(since) = self.since.take() {
                self.waited += since.elapsed();
                self.timer = None;
            }
            let Some(frame) = polled else { return Poll::Ready(None) };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Some(Err(broken(error.into())))),
            };
            let Ok(data) = frame.into_data() else { continue };
            self.total += data.len() as u64;
            if self.total > self.limits.max_body {
                return Poll::Ready(Some(Err(too_large(&self.limits))));
            }
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    /// Ready when the client has been waited for too long.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(earned) = self.total.saturating_mul(1000).checked_div(self.limits.min_rate) else {
            return Poll::Pending;
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        let patience = (self.limits.grace + Duration::from_millis(earned)).saturating_sub(self.waited);
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(since + patience))).as_mut().poll(cx)
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        self.poll_piece(cx).map(|piece| piece.map(|p| p.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
