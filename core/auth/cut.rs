//! Ending what runs: when a key is revoked, or it or whom it belongs to is disabled, and its streams are to be cut, whatever
//! runs with it hears so. Requests wait in
//! one of a few places by key, as they wait for their upstream, unless their connection waits for all of them (`vigil.rs`); nothing is
//! kept by key, and a request that never has to wait costs a look at a number.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::sync::Notify;

use super::Principal;
use crate::{
    config::Scope,
    error::{Error, Kind},
    vigil,
};

/// All places. Lives as long as the table.
pub struct Cuts {
    shards: [Shard; SHARDS],
    scopes: Scopes,
    /// Rings after each cut, wherever it was made.
    any: Arc<Notify>,
}

/// Users, teams and organisations that were cut, as all places see them.
type Scopes = Arc<Mutex<Vec<Scope>>>;

/// Where the requests of some keys hear that they are cut.
#[derive(Clone)]
pub struct Shard(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Grows with each cut. 0: none was made here, so nobody needs to look further.
    epoch: AtomicU32,
    woken: Notify,
    /// Ids of keys that were cut.
    keys: Mutex<Vec<Arc<str>>>,
    scopes: Scopes,
}

impl Default for Cuts {
    fn default() -> Self {
        let scopes = Scopes::default();
        let shard = || Shard(Arc::new(Inner { scopes: scopes.clone(), ..Inner::default() }));
        Cuts { shards: std::array::from_fn(|_| shard()), scopes, any: Arc::default() }
    }
}

impl Default for Shard {
    /// One that hears nothing: of callers who cannot be cut.
    fn default() -> Self {
        static SILENT: LazyLock<Shard> = LazyLock::new(|| Shard(Arc::default()));
        SILENT.clone()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shard")
    }
}

impl Inner {
    fn wake(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        self.woken.notify_waiters();
    }
}

impl Cuts {
    /// For who polls requests of anybody: rings when some of them were cut.
    pub fn any(&self) -> Arc<Notify> {
        self.any.clone()
    }

    pub fn shard(&self, key: &str) -> &Shard {
        // The last characters of an id are random.
        let sum = key.bytes().rev().take(8).fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.shards[sum % SHARDS]
    }

    /// Ends all that runs with this key.
    pub fn cut(&self, key: &Arc<str>) {
        let Shard(shard) = self.shard(key);
        {
            let mut keys = shard.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if !keys.contains(key) {
                keys.push(key.clone());
            }
            if keys.len() > MOST {
                // Long ended: a cut is heard within milliseconds.
                keys.remove(0);
            }
        }
        shard.wake();
        self.any.notify_waiters();
    }

    /// Ends all that runs with keys of this user, team or organisation, and with tokens that name it.
    pub fn cut_scope(&self, scope: Scope) {
        {
            let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
            if scopes.len() > MOST {
                scopes.remove(0);
            }
        }
        self.shards.iter().for_each(|Shard(shard)| shard.wake());
        self.any.notify_waiters();
    }

    /// Its new requests are not cut.
    pub fn forgive_scope(&self, scope: &Scope) {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).retain(|held| held != scope);
    }

    /// It is good again: new requests of it are not cut.
    pub fn forgive(&self, key: &str) {
        let Shard(shard) = self.shard(key);
        if shard.epoch.load(Ordering::Acquire) != 0 {
            shard.keys.lock().unwrap_or_else(PoisonError::into_inner).retain(|held| &**held != key);
        }
    }
}

impl Principal {
    /// Were its running requests cut?
    pub fn was_cut(&self) -> bool {
        let Shard(shard) = &self.cut;
        shard.epoch.load(Ordering::Acquire) != 0
            && (shard.keys.lock().unwrap_or_else(PoisonError::into_inner).contains(&self.key_id)
                || shard.scopes.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|scope| self.is_in(scope)))
    }

    fn is_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Organisation(name) => self.organisation.as_ref() == Some(name),
            Scope::Team(name) => self.team.as_ref() == Some(name),
            Scope::User(name) => self.user.as_ref() == Some(name),
            _ => false,
        }
    }

    /// Waits until they are.
    pub async fn is_cut(&self) {
        let Shard(shard) = &self.cut;
        loop {
            let mut woken = pin!(shard.woken.notified());
            woken.as_mut().enable();
            if self.was_cut() {
                return;
            }
            woken.await;
        }
    }
}

/// Beside what a request waits for: looks whether it is cut. Waits in line once, not at each step of a stream.
pub struct Watch<'p> {
    principal: &'p Principal,
    seen: u32,
    waiting: Option<Waker>,
}

impl<'p> Watch<'p> {
    pub fn of(principal: &'p Principal) -> Watch<'p> {
        Watch { principal, seen: 0, waiting: None }
    }

    /// `work`, unless the caller is cut first. `cut`: `Principal::is_cut` of the same caller.
    pub async fn over<F, C>(&mut self, cut: Pin<&mut C>, work: F) -> Result<F::Output, Error>
    where
        F: Future,
        C: Future<Output = ()>,
    {
        let work = pin!(work);
        self.over_pinned(cut, work).await
    }

    /// The same for what is large and lies somewhere already.
    pub fn over_pinned<'w, F, C>(
        &'w mut self,
        cut: Pin<&'w mut C>,
        work: Pin<&'w mut F>,
    ) -> impl Future<Output = Result<F::Output, Error>> + use<'w, 'p, F, C>
    where
        F: Future,
        C: Future<Output = ()>,
    {
        Over { watch: self, cut, work }
    }
}

struct Over<'w, 'p, F, C> {
    watch: &'w mut Watch<'p>,
    cut: Pin<&'w mut C>,
    work: Pin<&'w mut F>,
}

impl<F: Future, C: Future<Output = ()>> Future for Over<'_, '_, F, C> {
    type Output = Result<F::Output, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Over { watch, cut, work } = &mut *self;
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let epoch = watch.principal.cut.0.epoch.load(Ordering::Acquire);
        if vigil::hears_cuts(cx) {
            if epoch == watch.seen {
                return Poll::Pending;
            }
            watch.seen = epoch;
            return if watch.principal.was_cut() { Poll::Ready(Err(ended())) } else { Poll::Pending };
        }
        if watch.waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) && epoch == watch.seen {
            return Poll::Pending;
        }
        watch.seen = epoch;
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ended()));
        }
        watch.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn ended() -> Error {
    let message =
        "this key, or whom it belongs to, was revoked or disabled while its request ran; ask the gateway's operator";
    Error::new(Kind::Unauthenticated, message).with_code("key_revoked")
}

const SHARDS: usize = 64;
/// Of one place.
const MOST: usize = 4_096;
