//! What a request waits for beside its work, kept by the connection that polls it: its deadline, and word that callers were cut. A
//! connection has a timer and a place in line all its life; so a request need not set a timer and stand in line, and undo both.
//!
//! A connection says so while it polls ([`Vigil::over`]), by the waker that it polls with. Who is polled with that very waker is polled
//! again whenever the connection is, and may rely on it. Under any other waker (a task of its own, a stream's body, a set of futures)
//! nobody answers, and one has to wait for oneself.

use std::{
    cell::Cell,
    task::{Context, Waker},
    time::Instant,
};

thread_local! {
    /// The connection that is polled on this thread.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Turn {
    by: Name,
    rang: bool,
    until: Option<Instant>,
}

/// Which waker: what it points to, and what it does with that.
type Name = (usize, usize);

fn name_of(waker: &Waker) -> Name {
    (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
}

/// A connection's: when to poll again because of a deadline.
#[derive(Debug, Default)]
pub struct Vigil {
    until: Option<Instant>,
    rang: bool,
}

impl Vigil {
    /// Polls with `waker`. What is polled so leaves its deadline here; of several, the earliest counts.
    pub fn over<T>(&mut self, waker: &Waker, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        struct Back<'v>(&'v mut Vigil, Option<Turn>);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.until = TURN.replace(self.1).and_then(|turn| turn.until);
                self.0.rang = false;
            }
        }
        let turn = Turn { by: name_of(waker), rang: self.rang, until: None };
        let outer = TURN.replace(Some(turn));
        let _back = Back(self, outer);
        poll(&mut Context::from_waker(waker))
    }

    /// The next deadline. Whoever keeps the vigil calls `ring` then, and polls.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    pub fn ring(&mut self) {
        self.rang = true;
    }
}

/// Is this polled again whenever callers are cut?
pub fn hears_cuts(cx: &Context<'_>) -> bool {
    TURN.get().is_some_and(|turn| turn.by == name_of(cx.waker()))
}

/// Leaves a deadline, and is to be asked at each poll: then this is polled at that moment, at the latest. `Some(true)`: a moment
/// came, perhaps this one's; `None`: nobody keeps it.
pub fn keeps(until: Instant, cx: &Context<'_>) -> Option<bool> {
    let turn = TURN.get().filter(|turn| turn.by == name_of(cx.waker()))?;
    let earliest = turn.until.map_or(until, |other| other.min(until));
    TURN.set(Some(Turn { until: Some(earliest), ..turn }));
    Some(turn.rang)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Wake, time::Duration};

    use super::*;

    /// Of some size, so that each lies elsewhere.
    struct Deaf(#[expect(dead_code, reason = "looked at by nobody")] u8);

    impl Wake for Deaf {
        fn wake(self: Arc<Self>) {}
    }

    fn waker() -> Waker {
        Waker::from(Arc::new(Deaf(0)))
    }

    #[test]
    fn a_deadline_is_kept_for_who_is_polled_with_the_connection_s_waker_and_for_nobody_else() {
        let (mut vigil, own, other) = (Vigil::default(), waker(), waker());
        let now = Instant::now();
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        assert_eq!(keeps(soon, &Context::from_waker(&own)), None, "nothing polls");
        vigil.over(&own, |cx| {
            assert!(hears_cuts(cx));
            assert_eq!((keeps(late, cx), keeps(soon, cx), keeps(late, cx)), (Some(false), Some(false), Some(false)));
            let others = Context::from_waker(&other);
            assert_eq!((keeps(now, &others), hears_cuts(&others)), (None, false));
        });
        assert_eq!(vigil.until(), Some(soon));
        vigil.ring();
        vigil.over(&own, |cx| assert_eq!(keeps(soon, cx), Some(true)));
        // Who does not ask again waits no more.
        vigil.over(&own, |_| ());
        assert_eq!(vigil.until(), None);
        assert!(!hears_cuts(&Context::from_waker(&own)));
    }

    #[test]
    fn a_panic_ends_a_turn() {
        let own = waker();
        let fell = std::panic::catch_unwind(|| Vigil::default().over(&own, |_| panic!("as a test")));
        assert!(fell.is_err() && !hears_cuts(&Context::from_waker(&own)));
    }
}
