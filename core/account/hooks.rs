//! The `log` phase, beside the settle queue: a hook that is slow delays its own record by a second at most, and nobody
//! else's. Hooks run off the threads that serve, a few at a time; one whose turn does not come is left out, counted and
//! told in the record's trace. Money never waits for them: it is settled before.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

use crate::{
    exchange::{Inner, Settled},
    telemetry::metrics,
};

pub struct Hooks {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Default for Hooks {
    fn default() -> Self {
        Hooks { turns: Arc::new(Semaphore::new(AT_ONCE)), places: Arc::new(Semaphore::new(WAITING as usize)) }
    }
}

impl Hooks {
    /// Calls the hooks of a settled request and then `finish`, without making the caller wait.
    pub fn run(&self, settled: Settled, finish: impl FnOnce(Settled) + Send + 'static) {
        let Ok(place) = self.places.clone().try_acquire_owned() else { return finish(left_out(settled)) };
        let turns = self.turns.clone();
        tokio::spawn(async move {
            let Ok(Ok(turn)) = timeout(PATIENCE, turns.acquire_owned()).await else {
                finish(left_out(settled));
                drop(place);
                return;
            };
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || {
                finish(call(settled, &runtime));
                drop((turn, place));
            });
        });
    }

    /// Waits until every record that came so far is finished.
    pub async fn idle(&self) {
        // Never closed, so there is no error to meet.
        let _ = self.places.acquire_many(WAITING).await;
    }
}

fn call(mut settled: Settled, runtime: &Handle) -> Settled {
    let Inner { cx, chain, record, .. } = &mut *settled.0;
    // Hooks borrow the record: a fault in one leaves it as it stands.
    if catch_unwind(AssertUnwindSafe(|| runtime.block_on(chain.log(cx, record)))).is_err() {
        tracing::error!(request = %record.id, "a log hook broke off");
    }
    settled
}

fn left_out(mut settled: Settled) -> Settled {
    metrics().log_hook_left_out();
    let Inner { cx, chain, .. } = &mut *settled.0;
    chain.close(cx);
    cx.trace.note("log", "the log hooks of this request were left out: others were too slow");
    settled
}

/// As many as leave the serving threads a core.
const AT_ONCE: usize = 2;
/// Records that may wait for their turn, with their contexts.
const WAITING: u32 = 512;
/// For a turn. Usage and records are to be settled within three seconds.
const PATIENCE: Duration = Duration::from_secs(1);
