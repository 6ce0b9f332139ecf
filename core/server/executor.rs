//! Runs HTTP/2 streams as tasks and resets the one whose client stopped reading.
//!
//! On HTTP/2 a client stalls by not opening the stream's window: the socket stays writable and the body is not polled, so
//! neither of them can notice. The stream's own task can.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Whose turn it is on one stream: odd while a frame was handed over and the body was not asked since.
#[derive(Debug, Default)]
pub struct Turn(AtomicU64);

tokio::task_local! {
    static TURN: Arc<Turn>;
}

impl Turn {
    /// Of the stream that this task serves; `None` on HTTP/1.1.
    pub fn current() -> Option<Arc<Turn>> {
        TURN.try_with(Arc::clone).ok()
    }

    /// The body was asked for a frame.
    pub fn asked(&self) {
        let step = self.0.load(Ordering::Relaxed);
        self.0.store((step | 1) + 1, Ordering::Relaxed);
    }

    /// The body gave one: now the client has to take it.
    pub fn handed(&self) {
        let step = self.0.load(Ordering::Relaxed);
        self.0.store(step | 1, Ordering::Relaxed);
    }

    fn client(&self) -> Option<u64> {
        let step = self.0.load(Ordering::Relaxed);
        (step & 1 == 1).then_some(step)
    }
}

#[derive(Debug, Clone)]
pub struct StreamExecutor {
    pub write_stall: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let turn = Arc::new(Turn::default());
        let guarded = cut_when_stalled(stream, turn.clone(), self.write_stall);
        tokio::spawn(TURN.scope(turn, guarded));
    }
}

/// Dropping the stream's future resets the stream.
async fn cut_when_stalled<F: Future>(stream: F, turn: Arc<Turn>, limit: Duration) {
    let mut stream = pin!(stream);
    let mut timer = pin!(None);
    let mut seen = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let step = turn.client();
        if step != seen {
            seen = step;
            timer.set(step.map(|_| sleep_until(Instant::now() + limit)));
        }
        let expired = timer.as_mut().as_pin_mut().is_some_and(|timer| timer.poll(cx).is_ready());
        if expired {
            tracing::debug!("client reads nothing, stream reset");
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}
