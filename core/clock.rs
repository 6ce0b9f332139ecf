//! The clock of a request: intervals, deadlines and waits. Real everywhere but in a rehearsal (`test`, `replay`, the cases that
//! run before a reload), where time is virtual: it stands still while something works and jumps to the next wait's end when
//! all wait. Windows of limits and what scripts call `now` are no business of it: each `Context` carries its own moment.
//!
//! A rehearsal runs on one thread, so virtual time belongs to the thread that polls it; a real request pays one look at a
//! thread's flag.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::Either;

/// A wait. May be dropped at any time.
pub type Sleep = Either<tokio::time::Sleep, Alarm>;

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

thread_local! {
    static NOW: Cell<Option<Moment>> = const { Cell::new(None) };
    static ALARMS: RefCell<Alarms> = const { RefCell::new(Alarms { next: 0, set: BTreeMap::new() }) };
}

/// Of virtual time, on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    wall: SystemTime,
}

/// Who waits for what moment of virtual time.
struct Alarms {
    next: u64,
    set: BTreeMap<(Instant, u64), Waker>,
}

pub fn now() -> Instant {
    NOW.get().map_or_else(Instant::now, |moment| moment.at)
}

/// Now, or a few milliseconds before: for what is counted in seconds, at a quarter of the price of a clock.
pub fn lately() -> Instant {
    NOW.get().map_or_else(coarse, |moment| moment.at)
}

#[cfg(target_os = "linux")]
fn coarse() -> Instant {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    // An `Instant` cannot be made of a reading: this is one moment as both have it. The coarse clock stands at its last tick.
    static BEGAN: std::sync::LazyLock<(Instant, Timespec)> =
        std::sync::LazyLock::new(|| (Instant::now(), clock_gettime(ClockId::Monotonic)));
    let (began, reading) = &*BEGAN;
    *began + Duration::try_from(clock_gettime(ClockId::MonotonicCoarse) - *reading).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn coarse() -> Instant {
    Instant::now()
}

/// What a clock on the wall shows.
pub fn wall() -> SystemTime {
    NOW.get().map_or_else(SystemTime::now, |moment| moment.wall)
}

pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

pub fn sleep(time: Duration) -> Sleep {
    let now = now();
    // What is too far away for the clock never comes.
    sleep_until(now.checked_add(time).unwrap_or(now + FAR))
}

pub fn sleep_until(at: Instant) -> Sleep {
    match NOW.get() {
        None => Either::Left(tokio::time::sleep_until(at.into())),
        Some(_) => Either::Right(Alarm { at, id: None }),
    }
}

/// Waits for `future` until `at`, and asks it first: what is ready is never late.
pub async fn timeout_at<F: Future>(at: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut end = pin!(sleep_until(at));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => end.as_mut().poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}

/// A deadline that something moves on again and again, and that is seldom met: its timer stays set where it once was, and
/// is set anew only when it rings or has to ring earlier.
#[derive(Default)]
pub struct Patience(Option<Ring>);

struct Ring {
    timer: Pin<Box<Sleep>>,
    at: Instant,
    /// Whom the timer wakes.
    task: Waker,
}

impl Ring {
    fn at(at: Instant) -> Ring {
        Ring { timer: Box::pin(sleep_until(at)), at, task: Waker::noop().clone() }
    }
}

impl Patience {
    /// As `timeout_at`.
    pub async fn until<F: Future>(&mut self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            loop {
                let set = self.0.take().filter(|ring| ring.at <= at);
                let ring = self.0.insert(set.unwrap_or_else(|| Ring::at(at)));
                // It cannot have rung: not looked at, because it lies elsewhere.
                if ring.task.will_wake(cx.waker()) && now() < ring.at {
                    return Poll::Pending;
                }
                if ring.timer.as_mut().poll(cx).is_pending() {
                    ring.task.clone_from(cx.waker());
                    return Poll::Pending;
                }
                self.0 = None;
                if now() >= at {
                    return Poll::Ready(Err(Elapsed));
                }
            }
        })
        .await
    }
}

/// Runs a future in virtual time that begins at `start`, when it is `wall`. What else runs on this thread meanwhile keeps the
/// real one.
pub async fn virtually<F: Future>(start: Instant, wall: SystemTime, future: F) -> F::Output {
    let mut future = pin!(future);
    let (mut now, mut patience) = (Moment { at: start, wall }, PATIENCE);
    // One poll at a time: between two of them the runtime sees to its other tasks, and renews this one's budget.
    poll_fn(|cx| {
        let _inside = Inside::enter(now);
        let heard = Arc::new(Heard { heard: AtomicBool::new(false), outer: cx.waker().clone() });
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&Waker::from(heard.clone()))) {
            return Poll::Ready(value);
        }
        // What it waited for within this turn has taken its time.
        now = NOW.get().unwrap_or(now);
        if heard.heard.load(Ordering::Acquire) {
            patience = PATIENCE;
        } else if patience > 0 {
            // Tasks beside it may have something for it: they run first.
            patience -= 1;
            cx.waker().wake_by_ref();
        } else if let Some((at, waker)) = ALARMS.with_borrow_mut(Alarms::take) {
            now = now.at_last(at);
            patience = PATIENCE;
            waker.wake();
        }
        Poll::Pending
    })
    .await
}

/// Runs a future to its end within one turn of this thread's virtual time, which moves on meanwhile: for what cannot give its
/// thread away. In real time it asks again and again. `None`: the future waits for what never comes.
pub fn pass<F: Future>(future: F) -> Option<F::Output> {
    // The turn's budget is for those who can give their thread away.
    let mut future = pin!(tokio::task::unconstrained(future));
    let began = Instant::now();
    while began.elapsed() < LONGEST {
        let heard = Arc::new(Heard { heard: AtomicBool::new(false), outer: Waker::noop().clone() });
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&Waker::from(heard.clone()))) {
            return Some(value);
        }
        if heard.heard.load(Ordering::Acquire) {
            continue;
        }
        let Some(now) = NOW.get() else {
            std::thread::yield_now();
            continue;
        };
        let (at, waker) = ALARMS.with_borrow_mut(Alarms::take)?;
        NOW.set(Some(now.at_last(at)));
        waker.wake();
    }
    None
}

impl Moment {
    /// Later, if that is later.
    fn at_last(self, at: Instant) -> Moment {
        let waited = at.saturating_duration_since(self.at);
        Moment { at: self.at + waited, wall: self.wall + waited }
    }
}

/// A wait in virtual time.
#[derive(Debug)]
pub struct Alarm {
    at: Instant,
    id: Option<u64>,
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now() >= self.at {
            return Poll::Ready(());
        }
        let at = self.at;
        let id = ALARMS.with_borrow_mut(|alarms| alarms.set(at, self.id, cx.waker().clone()));
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // At the end of a thread there is nothing left to take it from.
            let _ = ALARMS.try_with(|alarms| alarms.borrow_mut().set.remove(&(self.at, id)));
        }
    }
}

impl Alarms {
    fn set(&mut self, at: Instant, id: Option<u64>, waker: Waker) -> u64 {
        let id = id.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.set.insert((at, id), waker);
        id
    }

    /// The next moment and who waits for it: of several the one that began first.
    fn take(&mut self) -> Option<(Instant, Waker)> {
        self.set.pop_first().map(|((at, _), waker)| (at, waker))
    }
}

/// This thread is in virtual time until it is dropped.
struct Inside(Option<Moment>);

impl Inside {
    fn enter(now: Moment) -> Inside {
        Inside(NOW.replace(Some(now)))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        NOW.set(self.0);
    }
}

/// Was it woken while it was polled?
struct Heard {
    heard: AtomicBool,
    outer: Waker,
}

impl Wake for Heard {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.heard.store(true, Ordering::Release);
        self.outer.wake_by_ref();
    }
}

/// Turns of the thread's other tasks before time moves.
const PATIENCE: u32 = 2;
/// Of real time: what cannot give its thread away must not keep it.
const LONGEST: Duration = Duration::from_secs(10);
/// A month: longer than anything here waits.
const FAR: Duration = Duration::from_secs(30 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(virtually(Instant::now(), SystemTime::UNIX_EPOCH, future))
    }

    #[test]
    fn lately_is_never_to_come_and_never_long_ago() {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(30) {
            let before = Instant::now();
            let lately = lately();
            assert!(lately <= Instant::now());
            assert!(before.saturating_duration_since(lately) < Duration::from_millis(50), "a tick is 1 to 10 ms");
        }
        let (shown, kept) = run(async { (lately(), now()) });
        assert_eq!(shown, kept, "virtual time has no ticks");
    }

    #[test]
    fn an_hour_of_waiting_takes_no_time() {
        let real = Instant::now();
        let (waited, shown) = run(async {
            let began = now();
            sleep(Duration::from_secs(3600)).await;
            (since(began), wall())
        });
        assert_eq!(waited, Duration::from_secs(3600));
        assert_eq!(shown, SystemTime::UNIX_EPOCH + waited, "the clock on the wall goes along");
        assert!(real.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_shorter_of_two_waits_ends_first_and_the_other_leaves_nothing() {
        let (outcome, took) = run(async {
            let began = now();
            let late = timeout_at(began + Duration::from_secs(2), sleep(Duration::from_secs(5))).await;
            let early = timeout_at(began + Duration::from_secs(60), sleep(Duration::from_secs(1))).await;
            ((late, early), since(began))
        });
        assert_eq!(outcome, (Err(Elapsed), Ok(())));
        assert_eq!(took, Duration::from_secs(3), "a deadline that was met is not waited for");
        assert!(ALARMS.with_borrow(|alarms| alarms.set.is_empty()));
    }

    #[test]
    fn a_deadline_that_moves_is_met_where_it_last_was() {
        let (outcomes, took) = run(async {
            let (began, mut patience) = (now(), Patience::default());
            let second = Duration::from_secs(1);
            let mut outcomes = Vec::new();
            for (until, work) in [(10, 3), (13, 9), (15, 60), (20, 1), (17, 60)] {
                outcomes.push(patience.until(began + until * second, sleep(work * second)).await.is_ok());
            }
            (outcomes, since(began))
        });
        assert_eq!(outcomes, [true, true, false, true, false]);
        assert_eq!(took, Duration::from_secs(17));
        assert!(ALARMS.with_borrow(|alarms| alarms.set.is_empty()));
    }

    #[test]
    fn what_another_task_has_to_say_comes_before_time_moves() {
        let told = run(async {
            let (say, hear) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let real = NOW.get().is_none();
                let _ = say.send(real);
            });
            timeout_at(now() + Duration::from_secs(1), hear).await
        });
        assert_eq!(told.map(|heard| heard.expect("told")), Ok(true), "tasks beside it are in real time");
    }

    #[test]
    fn what_waits_within_a_turn_takes_its_time_too() {
        let (inside, after, shown) = run(async {
            let began = now();
            let inside = pass(async {
                sleep(Duration::from_secs(30)).await;
                since(began)
            });
            sleep(Duration::from_secs(5)).await;
            (inside, since(began), wall())
        });
        assert_eq!(inside, Some(Duration::from_secs(30)));
        assert_eq!(after, Duration::from_secs(35), "it is no earlier afterwards");
        assert_eq!(shown, SystemTime::UNIX_EPOCH + after);
        let never = run(async { pass(std::future::pending::<()>()) });
        assert_eq!(never, None, "what nothing wakes is given up at once");
    }

    #[test]
    fn who_waits_outside_of_a_turn_is_woken_when_its_moment_passes_within() {
        let took = run(async {
            let began = now();
            let outside = sleep(Duration::from_secs(1));
            let inside = async { pass(sleep(Duration::from_secs(3))) };
            let ((), passed) = tokio::join!(outside, inside);
            assert_eq!(passed, Some(()));
            since(began)
        });
        assert_eq!(took, Duration::from_secs(3));
    }

    #[test]
    fn real_time_is_real_again_afterwards() {
        run(async { sleep(Duration::from_secs(3600)).await });
        assert!(now() < Instant::now() + Duration::from_secs(60));
        assert!(NOW.get().is_none());
    }
}
