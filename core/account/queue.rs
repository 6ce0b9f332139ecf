//! Queues behind a request: many to one. Nobody waits for what they do, so nobody is woken for a single thing: the other end
//! comes every few milliseconds, or when a batch is full, so that what it reads is still near the processor. It sleeps when
//! there is nothing. Knows nothing of what is done with the things.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    due: Notify,
    /// So many are taken without waiting longer.
    full: usize,
}

struct State<T> {
    waiting: Vec<T>,
    /// The other end sleeps without a clock: the next one wakes it.
    asleep: bool,
    closed: bool,
}

/// The end that takes.
pub struct Inbox<T>(Arc<Shared<T>>);

pub fn queue<T>(full: usize) -> (Queue<T>, Inbox<T>) {
    let state = Mutex::new(State { waiting: Vec::new(), asleep: false, closed: false });
    let shared = Arc::new(Shared { state, due: Notify::new(), full });
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
            std::mem::take(&mut state.asleep) || state.waiting.len() == shared.full
        };
        if due {
            shared.due.notify_one();
        }
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
        loop {
            {
                let mut state = self.0.lock();
                // Two buffers take turns.
                std::mem::swap(&mut state.waiting, batch);
                if !batch.is_empty() {
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
        (!state.waiting.is_empty()).then(|| state.waiting.remove(0))
    }

    /// After a batch: until the next one is worth it.
    pub async fn rest(&self) {
        if !self.0.lock().closed {
            let _ = timeout(REST, self.0.due.notified()).await;
        }
    }
}

/// Between two batches.
const REST: Duration = Duration::from_millis(5);
