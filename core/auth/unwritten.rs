//! Revocations that the store did not take: they hold in this process, are shown as what they are, and are written as soon as
//! the store takes changes again. Nothing else that was refused is kept: a revocation alone holds without being written.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{KeyInfo, Keys, row::Row};
use crate::{error::Error, store::StoreError};

/// Who is told of a revocation that was written late.
pub trait Tell: Fn(KeyInfo) -> BoxFuture<'static, ()> + Send + Sync + 'static {}

impl<T: Fn(KeyInfo) -> BoxFuture<'static, ()> + Send + Sync + 'static> Tell for T {}

#[derive(Default)]
pub(super) struct Unwritten {
    /// Somebody writes them later. At a command that ends, nobody does.
    awaited: AtomicBool,
    /// By the key's id.
    keys: Mutex<BTreeMap<String, Revoked>>,
}

#[derive(Debug, Clone, Copy)]
struct Revoked {
    /// Seconds since the epoch.
    at: u64,
    cut: bool,
}

impl Unwritten {
    /// Makes of a stored row what holds here. `false`: it is as it is stored.
    pub fn over(&self, id: &str, row: &mut Row) -> bool {
        let Some(Revoked { at, cut }) = self.lock().get(id).copied() else { return false };
        row.revoked.get_or_insert(at);
        row.cut |= cut;
        true
    }

    /// The store has it.
    pub fn written(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The revocation that `row` tells of was not written: it waits, and `error` says so. `shared`: other gateways use the store.
    pub fn keep(&self, id: &str, row: &Row, shared: bool, mut error: Error) -> Error {
        if !self.awaited.load(Ordering::Relaxed) {
            return error;
        }
        let (known, held) = {
            let mut keys = self.lock();
            let known = keys.contains_key(id);
            let held = known || keys.len() < MOST;
            if held {
                keys.insert(id.to_owned(), Revoked { at: row.revoked.unwrap_or_default(), cut: row.cut });
            }
            (known, held)
        };
        if !known {
            tracing::warn!(id, %error, "a key is revoked here, and the store did not take it: tried again");
        }
        let Refused { cause, room, when } = Refused::of(&error);
        let then = match held {
            true => format!("It is written by itself as soon as {when}"),
            false => format!("Too many such keys wait already: revoke it again when {when}"),
        };
        let others = if shared { ", and other gateways on this store still do" } else { "" };
        error.message = format!(
            "the key {id} is refused by this gateway from now on, but that could not be written down, because {cause}{room}. \
             {then}; until then a restart would let the key in again{others}"
        );
        error
    }

    fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Revoked>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a store took nothing, in parts of a sentence.
struct Refused {
    cause: String,
    room: &'static str,
    when: &'static str,
}

impl Refused {
    fn of(error: &Error) -> Refused {
        let cause = error.source.as_deref().and_then(|source| source.downcast_ref::<StoreError>());
        let cause = cause.map_or_else(|| error.message.clone(), StoreError::why);
        match error.status() {
            507 => Refused { cause, room: ": free some space", when: "there is room" },
            _ => Refused { cause, room: "", when: "the store takes changes again" },
        }
    }
}

/// The same of a token of the admin plane, which nobody writes later.
pub(super) fn token(id: &str, mut error: Error) -> Error {
    let Refused { cause, room, when } = Refused::of(&error);
    error.message = format!(
        "the token {id} is refused by this gateway from now on, but that could not be written down, because {cause}{room}. \
         Revoke it again when {when}: until then it is listed as it was, and a restart would let it in again"
    );
    error
}

impl Keys {
    /// From this call on revocations that the store does not take wait for it; they are written once it does, until `stop`.
    /// `tell` hears of each that was written then.
    pub fn catch_up(
        self: Arc<Self>,
        tell: impl Tell,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.unwritten.awaited.store(true, Ordering::Relaxed);
        async move {
            loop {
                let ended = tokio::select! {
                    () = tokio::time::sleep(TICK) => false,
                    () = stop.cancelled() => true,
                };
                self.write_late(&tell).await;
                if ended {
                    break;
                }
            }
            let left = self.unwritten.ids();
            if !left.is_empty() {
                tracing::error!(
                    keys = left.join(", "),
                    "revoked, and not written: the next start lets these keys in again"
                );
            }
        }
    }

    /// Writes what waits, as far as the store takes it.
    pub(super) async fn write_late(&self, tell: &impl Tell) {
        for id in self.unwritten.ids() {
            match self.revoke(&id, false).await {
                Ok(info) => {
                    tracing::info!(id, name = info.name, "a revocation that the store had not taken is written");
                    tell(info).await;
                }
                // Nothing is left that could be let in again.
                Err(error) if error.status() == 404 => self.unwritten.written(&id),
                Err(error) if matches!(error.status(), 503 | 507) => return,
                Err(error) => tracing::debug!(id, %error, "a revocation could not be written: tried again"),
            }
        }
    }
}

const TICK: Duration = Duration::from_secs(1);
/// Keys that wait. More are refused too, as long as this process runs.
const MOST: usize = 10_000;
