//! Queues behind a request: many to one. Nobody waits for what they do, so nobody is woken for a single thing: the other end
//! comes every few milliseconds, or when a batch is full, so that what it reads is still near the processor. It sleeps when
//! there is nothing. Knows nothing of what is done with the things.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// Unbounded on purpose: a full queue would lose money, or make answers wait for their records; its length is bounded by
/// the requests in flight. Cheap to clone.
pub struct Queue<T>(Arc<Ends<T>>);

/// Closes the queue with the last of its senders.
struct Ends<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Those that were dealt with, in all. Set under the lock.
    done: AtomicU64,
    due: Notify,
    /// Some more were dealt with.
    dealt: Notify,
    /// So many are taken without waiting longer.
    full: usize,
}

struct State<T> {
    waiting: Vec<T>,
    /// The other end sleeps without a clock: the next one wakes it.
    asleep: bool,
    closed: bool,
    /// In all: those that were sent, and taken.
    sent: u64,
    taken: u64,
}

/// The end that takes.
pub struct Inbox<T>(Arc<Shared<T>>);

pub fn queue<T>(full: usize) -> (Queue<T>, Inbox<T>) {
    let state = Mutex::new(State { waiting: Vec::new(), asleep: false, closed: false, sent: 0, taken: 0 });
    let shared = Arc::new(Shared { state, done: AtomicU64::new(0), due: Notify::new(), dealt: Notify::new(), full });
    (Queue(Arc::new(Ends(shared.clone()))), Inbox(shared))
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

impl<T> Queue<T> {
    pub fn send(&self, thing: T) {
        let shared = &self.0.0;
        let due = {
            let mut state = shared.lock();
            state.waiting.push(thing);
            state.sent += 1;
            std::mem::take(&mut state.asleep) || state.waiting.len() == shared.full
        };
        if due {
            shared.due.notify_one();
        }
    }

    /// How many were dealt with.
    pub fn done(&self) -> u64 {
        self.0.0.done.load(Ordering::Relaxed)
    }

    /// For who cannot go on before: waits until all that was sent so far is dealt with, which then is soon. `false`: nothing was
    /// since so many were done, or it takes too long.
    pub async fn caught_up(&self, since: u64) -> bool {
        let shared = &self.0.0;
        let sent = {
            let state = shared.lock();
            let done = shared.done.load(Ordering::Relaxed);
            if done >= state.sent {
                return done > since;
            }
            state.sent
        };
        shared.due.notify_one();
        let done = async {
            loop {
                let mut dealt = pin!(shared.dealt.notified());
                dealt.as_mut().enable();
                if shared.done.load(Ordering::Acquire) >= sent {
                    return;
                }
                dealt.await;
            }
        };
        timeout(PATIENCE, done).await.is_ok()
    }
}

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.due.notify_one();
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Inbox<T> {
    /// What came, in order, put into `batch`, which is empty. False: every sender is gone, and all of theirs was taken.
    pub async fn take(&mut self, batch: &mut Vec<T>) -> bool {
        self.dealt();
        loop {
            {
                let mut state = self.0.lock();
                // Two buffers take turns.
                std::mem::swap(&mut state.waiting, batch);
                if !batch.is_empty() {
                    state.taken += batch.len() as u64;
                    return true;
                }
                if state.closed {
                    return false;
                }
                state.asleep = true;
            }
            self.0.due.notified().await;
        }
    }

    /// The first, if it is there already.
    pub fn first(&mut self) -> Option<T> {
        let mut state = self.0.lock();
        if state.waiting.is_empty() {
            return None;
        }
        state.taken += 1;
        Some(state.waiting.remove(0))
    }

    /// What was taken so far is dealt with.
    fn dealt(&self) {
        let state = self.0.lock();
        if self.0.done.load(Ordering::Relaxed) != state.taken {
            self.0.done.store(state.taken, Ordering::Release);
            drop(state);
            self.0.dealt.notify_waiters();
        }
    }

    /// After a batch: until the next one is worth it.
    pub async fn rest(&self) {
        self.dealt();
        if !self.0.lock().closed {
            let _ = timeout(REST, self.0.due.notified()).await;
        }
    }
}

/// Between two batches.
const REST: Duration = Duration::from_millis(5);
/// The longest that somebody waits for a batch.
const PATIENCE: Duration = Duration::from_millis(50);
