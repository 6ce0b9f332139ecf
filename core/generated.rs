//! A response body written by a future: `async` code sends frames, the server polls them out. One task, no channel: the
//! future runs only when the frame before was taken, so the client's pace is the upstream's.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// What makes the frames.
type Writer = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// The body. An `Err` of the future aborts the connection.
pub struct Generated {
    future: Option<Writer>,
    queue: Arc<Mutex<VecDeque<Bytes>>>,
}

/// Where the future puts its frames.
#[derive(Clone)]
pub struct Sink(Arc<Mutex<VecDeque<Bytes>>>);

impl Generated {
    pub fn new<F>(make: impl FnOnce(Sink) -> F) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        Generated { future: Some(Box::pin(make(Sink(queue.clone())))), queue }
    }
}

impl Sink {
    /// Hands frames over and waits until all were taken.
    pub async fn send(&self, frames: impl IntoIterator<Item = Bytes>) {
        lock(&self.0).extend(frames);
        // Woken by the body's own next poll, which comes once the queue is empty.
        poll_fn(|_| if lock(&self.0).is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl http_body::Body for Generated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(frame) = lock(&self.queue).pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            let Some(future) = &mut self.future else { return Poll::Ready(None) };
            match future.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => self.future = None,
                Poll::Ready(Err(error)) => {
                    self.future = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending if lock(&self.queue).is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }
}

fn lock(queue: &Mutex<VecDeque<Bytes>>) -> std::sync::MutexGuard<'_, VecDeque<Bytes>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
