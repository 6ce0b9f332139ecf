//! A script holds the thread that it runs on. One that is known to be quick runs where its request is; one that is new, or was
//! slow of late, runs beside: its thread gives the other requests away first, and no more of them run at once than there are
//! cores. So an endless loop costs its own request its time, and its neighbours a share of the processor.

use std::{
    sync::{
        Condvar, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Quick calls that are still to be seen before a stage runs in place.
pub struct Trust {
    left: AtomicU32,
    /// Does a call hold its thread at all?
    holds: bool,
}

impl Trust {
    pub fn new(holds: bool) -> Trust {
        Trust { left: AtomicU32::new(if holds { PROOF } else { TRUSTED }), holds }
    }

    /// Runs a call, in place or beside.
    pub fn run<T>(&self, call: impl FnOnce() -> T) -> T {
        if self.left.load(Ordering::Relaxed) == TRUSTED {
            return call();
        }
        beside(|| {
            let began = Instant::now();
            let value = call();
            self.saw(began.elapsed());
            value
        })
    }

    /// A call in place took so long. Of one beside it is known already, without its wait.
    pub fn saw_in_place(&self, took: Duration) {
        if took >= SLOW && self.holds && self.left.load(Ordering::Relaxed) == TRUSTED {
            self.saw(took);
        }
    }

    fn saw(&self, took: Duration) {
        if took >= SLOW {
            self.left.fetch_max(PROOF, Ordering::Relaxed);
        } else if self.left.load(Ordering::Relaxed) != TRUSTED {
            let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
    }
}

/// Where there are other threads to give requests to; elsewhere, and when too many wait already, in place.
fn beside<T>(call: impl FnOnce() -> T) -> T {
    let threads = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    let Some(mut place) = threads.then(Place::take).flatten() else { return call() };
    block_in_place(|| {
        place.wait();
        call()
    })
}

/// One of those that wait or run beside; given back when it is dropped.
struct Place {
    runs: bool,
}

#[derive(Default)]
struct Lane {
    running: usize,
    waiting: usize,
}

static LANE: LazyLock<(Mutex<Lane>, Condvar)> = LazyLock::new(Default::default);
static CORES: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

impl Place {
    fn take() -> Option<Place> {
        let mut lane = lane();
        (lane.running + lane.waiting < MOST).then(|| {
            lane.waiting += 1;
            Place { runs: false }
        })
    }

    fn wait(&mut self) {
        let mut lane = lane();
        while lane.running >= *CORES {
            lane = LANE.1.wait(lane).unwrap_or_else(PoisonError::into_inner);
        }
        (lane.waiting, lane.running, self.runs) = (lane.waiting - 1, lane.running + 1, true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lane = lane();
        match self.runs {
            true => lane.running -= 1,
            false => lane.waiting -= 1,
        }
        LANE.1.notify_one();
    }
}

fn lane() -> MutexGuard<'static, Lane> {
    LANE.0.lock().unwrap_or_else(PoisonError::into_inner)
}

const TRUSTED: u32 = 0;
/// So many quick calls in a row are proof.
const PROOF: u32 = 32;
/// Longer than any script needs that looks at a request and decides, and longer than the system lets others have the core
/// meanwhile: time on the wall is all that is known, and a quick script beside costs more than it takes.
const SLOW: Duration = Duration::from_millis(20);
/// That wait or run: each holds a thread, of which the runtime has some hundreds.
const MOST: usize = 128;

#[cfg(test)]
mod tests {
    //! When a stage runs in place. Whether others go on beside it is shown by `tests/it/hostile.rs`.

    use super::*;

    #[test]
    fn trust_is_earned_by_quick_calls_and_lost_by_a_slow_one() {
        let trust = Trust::new(true);
        let full = || trust.left.load(Ordering::Relaxed) == TRUSTED;
        for _ in 0..PROOF {
            assert!(!full());
            trust.run(|| ());
        }
        assert!(full());
        trust.saw(Duration::from_micros(10));
        assert!(full());
        trust.saw(SLOW);
        assert!(!full());
    }

    #[test]
    fn what_holds_no_thread_needs_no_trust() {
        let trust = Trust::new(false);
        trust.saw_in_place(Duration::from_secs(1));
        assert_eq!(trust.left.load(Ordering::Relaxed), TRUSTED);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_beside_a_call_that_holds_its_thread() {
        let trust = Trust::new(true);
        let (send, heard) = std::sync::mpsc::channel();
        // On the runtime's only thread, which is then held until the other task has run.
        let holding = tokio::spawn(async move {
            let other = tokio::spawn(async move { send.send(7) });
            let got = trust.run(|| heard.recv_timeout(Duration::from_secs(30)));
            assert!(other.await.is_ok_and(|sent| sent.is_ok()));
            got
        });
        assert_eq!(holding.await.unwrap(), Ok(7));
    }
}
