//! A response body written by a future: `async` code sends frames, the server polls them out. One task, no channel: the
//! future runs only when the frame before was taken, so the client's pace is the upstream's.
//!
//! hyper (1.12) asks such a body three times for each frame: for the frame, for the next one, and once more after it has written.
//! The future runs only when something happened that it waits for: its waker is a bell that the two have in [`Common`].

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http_body::Frame;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// What makes the frames.
type Writer = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// The body. An `Err` of the future aborts the connection.
pub struct Generated {
    future: Option<Writer>,
    common: Arc<Common>,
    /// Rings in `common`, which knows the task.
    bell: Waker,
    task: Waker,
    /// The future waits for its bell, and not for its frames to be taken.
    waiting: bool,
}

/// Where the future puts its frames.
#[derive(Clone)]
pub struct Sink(Arc<Common>);

/// What a body and its future tell each other, in one place: among thousands of slow streams each piece of memory that an event looks
/// at is one to wait for. Both sides run in one task: the lock is never waited for, and taken only where there is something.
struct Common {
    /// The bell rang since the future ran.
    rang: AtomicBool,
    frames: AtomicUsize,
    held: Mutex<Held>,
}

struct Held {
    /// Nearly always the only one.
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    /// Who is woken by the bell.
    task: Waker,
}

impl Common {
    fn new() -> Self {
        let held = Held { first: None, more: VecDeque::new(), task: Waker::noop().clone() };
        Common { rang: AtomicBool::new(false), frames: AtomicUsize::new(0), held: Mutex::new(held) }
    }

    fn put(&self, frames: impl IntoIterator<Item = Bytes>) {
        let mut held = self.held();
        for frame in frames {
            if held.count() == 0 {
                held.first = Some(frame);
            } else {
                held.more.push_back(frame);
            }
        }
        self.frames.store(held.count(), Ordering::Relaxed);
    }

    fn take(&self) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let mut held = self.held();
        let frame = held.first.take().or_else(|| held.more.pop_front());
        self.frames.store(held.count(), Ordering::Relaxed);
        frame
    }

    fn is_empty(&self) -> bool {
        self.frames.load(Ordering::Relaxed) == 0
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }
}

impl Wake for Common {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.held().task.wake_by_ref();
    }
}

impl Generated {
    pub fn new<F>(make: impl FnOnce(Sink) -> F) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let common = Arc::new(Common::new());
        let (bell, task) = (Waker::from(common.clone()), Waker::noop().clone());
        Generated { future: Some(Box::pin(make(Sink(common.clone())))), common, bell, task, waiting: false }
    }

    /// What to poll the future with for `task`, until it rings.
    fn set_bell(&mut self, task: &Waker) {
        // A task's waker is the same all its life.
        if !self.task.will_wake(task) {
            self.task.clone_from(task);
            self.common.held().task.clone_from(task);
        }
        self.common.rang.store(false, Ordering::Relaxed);
    }

    /// The bell was set for this task and has not rung: when it rings the task wakes.
    fn is_silent(&self, task: &Waker) -> bool {
        self.task.will_wake(task) && !self.common.rang.load(Ordering::Acquire)
    }
}

impl Sink {
    /// Hands frames over and waits until all were taken.
    pub async fn send(&self, frames: impl IntoIterator<Item = Bytes>) {
        self.put(frames);
        self.taken().await;
    }

    /// Hands frames over.
    pub fn put(&self, frames: impl IntoIterator<Item = Bytes>) {
        self.0.put(frames);
    }

    /// All frames were taken.
    pub async fn taken(&self) {
        // Woken by the body's own next poll, which comes once the queue is empty.
        poll_fn(|_| if self.0.is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl http_body::Body for Generated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = &mut *self;
        loop {
            if let Some(frame) = me.common.take() {
                me.waiting = false;
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if me.waiting && me.is_silent(cx.waker()) {
                return Poll::Pending;
            }
            me.set_bell(cx.waker());
            let Some(future) = &mut me.future else { return Poll::Ready(None) };
            match future.as_mut().poll(&mut Context::from_waker(&me.bell)) {
                Poll::Ready(Ok(())) => (me.future, me.waiting) = (None, false),
                Poll::Ready(Err(error)) => {
                    (me.future, me.waiting) = (None, false);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    me.waiting = true;
                    // Also when it rang meanwhile: who gives way to others is not to be asked again before they had their turn.
                    if me.common.is_empty() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body;
    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn the_future_runs_when_its_frames_were_taken_and_when_it_is_woken_and_not_else() {
        let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, waits) = (runs.clone(), go.clone());
        let mut body = Generated::new(|sink| async move {
            let mut inner = Box::pin(async move {
                sink.send([Bytes::from_static(b"a"), Bytes::from_static(b"b")]).await;
                waits.notified().await;
                sink.send([Bytes::from_static(b"c")]).await;
                Ok(())
            });
            poll_fn(move |cx| {
                counted.fetch_add(1, Ordering::Relaxed);
                inner.as_mut().poll(cx)
            })
            .await
        });
        let woken = Arc::new(AtomicUsize::new(0));
        struct Count(Arc<AtomicUsize>);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let waker = Waker::from(Arc::new(Count(woken.clone())));
        let mut poll = |waker: &Waker| match Pin::new(&mut body).poll_frame(&mut Context::from_waker(waker)) {
            Poll::Ready(frame) => Some(frame.map(|frame| frame.expect("no error").into_data().expect("data"))),
            Poll::Pending => None,
        };
        let ran = || runs.load(Ordering::Relaxed);
        assert_eq!((poll(&waker), ran()), (Some(Some("a".into())), 1));
        assert_eq!((poll(&waker), ran()), (Some(Some("b".into())), 1));
        assert_eq!((poll(&waker), ran()), (None, 2));
        assert_eq!((poll(&waker), ran()), (None, 2), "nothing happened");
        // Another task has to be known to who wakes.
        let other = Waker::from(Arc::new(Count(woken.clone())));
        assert_eq!((poll(&other), ran()), (None, 3));
        assert_eq!((poll(&other), ran()), (None, 3));
        go.notify_one();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!((poll(&other), ran()), (Some(Some("c".into())), 4));
        assert_eq!((poll(&other), ran()), (Some(None), 5));
        assert_eq!((poll(&other), ran()), (Some(None), 5), "it is over");
    }

    #[test]
    fn a_future_that_gives_way_is_asked_again_when_its_task_is_and_not_before() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let mut body = Generated::new(|_| {
            poll_fn(move |cx| {
                // A bound for the test: one that is asked at once for ever would never end.
                if counted.fetch_add(1, Ordering::Relaxed) > 9 {
                    return Poll::Ready(Ok(()));
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        });
        for asked in 1..4 {
            assert!(Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(runs.load(Ordering::Relaxed), asked);
        }
    }
}
