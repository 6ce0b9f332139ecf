//! Memory that nobody holds goes back to the system, also when nothing happens.
//!
//! The allocator (mimalloc 3) keeps what was freed for a second, in case it is wanted again, and looks at the time only when a page of
//! memory comes free: after a burst that is followed by quiet it never does, and 2,000 requests that came at once
//! left 10 KiB each behind for as long as their streams went on slowly. So now and then a page is taken and let go of.

use std::{hint::black_box, time::Duration};

use tokio_util::sync::CancellationToken;

/// Until `stop`: memory that has been free for a second or two goes back.
pub async fn let_go(stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => drop(black_box(Vec::<u8>::with_capacity(PAGE))),
            () = stop.cancelled() => return,
        }
    }
}

/// As long as what was freed is kept.
const EVERY: Duration = Duration::from_secs(1);

/// A block so large (bytes) has a page of its own. It is never written to: no memory is behind it.
const PAGE: usize = 2 << 20;
