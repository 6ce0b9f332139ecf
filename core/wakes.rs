//! Wakes of a connection that have nothing to tell it.
//!
//! hyper (1.12) wakes the task of an HTTP/1.1 connection whenever somebody takes a piece of a body from it, so that it reads on. It
//! does so with the last piece, too, when there is nothing left to read: the whole task is asked once more for nothing, twice a request
//! with one connection on each side. So such connections are polled with a waker of their own ([`Ear`]), which does not hear
//! what [`poll_frame`] does on its thread while it takes what ends a body of known length.
//!
//! HTTP/2 needs each of these wakes: they open windows.

use std::{
    cell::Cell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

thread_local! {
    /// A piece is being taken on this thread.
    static TAKING: Cell<bool> = const { Cell::new(false) };
    /// Who was to be woken for it.
    static UNHEARD: Cell<Option<Arc<Heard>>> = const { Cell::new(None) };
}

/// What a connection's task hears by.
pub struct Ear {
    task: Waker,
    waker: Waker,
}

impl Default for Ear {
    fn default() -> Self {
        Ear { task: Waker::noop().clone(), waker: Waker::noop().clone() }
    }
}

impl Ear {
    pub fn of(task: &Waker) -> Ear {
        Ear { task: task.clone(), waker: Waker::from(Arc::new(Heard(task.clone()))) }
    }

    /// A task's waker is the same all its life, as a rule.
    pub fn is_of(&self, task: &Waker) -> bool {
        self.task.will_wake(task)
    }

    /// To poll an HTTP/1.1 connection with.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

struct Heard(Waker);

impl Wake for Heard {
    fn wake(self: Arc<Self>) {
        if TAKING.get() { self.is_unheard() } else { self.0.wake_by_ref() }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if TAKING.get() { self.clone().is_unheard() } else { self.0.wake_by_ref() }
    }
}

impl Heard {
    fn is_unheard(self: Arc<Self>) {
        if let Some(other) = UNHEARD.replace(Some(self)) {
            other.0.wake_by_ref();
        }
    }
}

struct Taking;

impl Taking {
    fn begin() -> Self {
        TAKING.set(true);
        Taking
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        TAKING.set(false);
    }
}

/// The next piece of a body that came over HTTP/1.1.
pub fn poll_frame(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
    // The end of one that does not say its length is only known when it is there.
    if body.size_hint().exact().is_none() {
        return Pin::new(body).poll_frame(cx);
    }
    let taking = Taking::begin();
    let polled = Pin::new(&mut *body).poll_frame(cx);
    drop(taking);
    let over = matches!(polled, Poll::Ready(Some(Ok(_)))) && body.is_end_stream();
    if let Some(heard) = UNHEARD.take().filter(|_| !over) {
        heard.0.wake_by_ref();
    }
    polled
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http_body_util::Empty;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        task::yield_now,
    };

    use super::*;

    async fn settled() {
        for _ in 0..16 {
            yield_now().await;
        }
    }

    /// A connection hears that a piece was taken when there is more to read, and not when it was the last one.
    #[tokio::test]
    async fn the_last_piece_wakes_nobody() {
        let (ours, mut theirs) = duplex(1 << 10);
        let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.expect("a connection");
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        tokio::spawn(async move {
            let (mut connection, mut ear) = (pin!(connection), Ear::default());
            poll_fn(|cx| {
                counted.fetch_add(1, Ordering::Relaxed);
                if !ear.is_of(cx.waker()) {
                    ear = Ear::of(cx.waker());
                }
                connection.as_mut().poll(&mut Context::from_waker(ear.waker()))
            })
            .await
        });
        let asked = tokio::spawn(async move {
            let answer = sender.send_request(http::Request::new(Empty::<Bytes>::new())).await;
            (sender, answer.expect("an answer"))
        });
        let mut head = [0; 256];
        assert!(theirs.read(&mut head).await.expect("a request") > 0);
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\non").await.expect("written");
        let (_sender, mut answer) = asked.await.expect("ran");
        let mut takes = Vec::new();
        for (piece, next) in [("on", "ly"), ("ly", "")] {
            settled().await;
            let before = polls.load(Ordering::Relaxed);
            let taken = poll_fn(|cx| poll_frame(answer.body_mut(), cx)).await.expect("a piece").expect("whole");
            assert_eq!(taken.into_data().expect("data"), piece);
            settled().await;
            takes.push(polls.load(Ordering::Relaxed) - before);
            theirs.write_all(next.as_bytes()).await.expect("written");
        }
        assert!(takes[0] > 0, "it reads on");
        assert_eq!(takes[1], 0, "there is nothing to read");
        assert!(poll_fn(|cx| poll_frame(answer.body_mut(), cx)).await.is_none());
    }
}
