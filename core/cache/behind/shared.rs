//! Kept answers in Redis, for all gateways that share it: sealed values under names that say nothing, which Redis itself lets go of
//! at their end. While it does not answer every look is a miss, at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;

use super::{Found, Look, PATIENCE, Put, Tag, Tier};
use crate::{
    config,
    lanes::Content,
    seal::{AtRest, Name},
    store::{
        StoreError, Volatile, hex,
        volatile::{self, Emptied, Placed, Read},
    },
    telemetry::metrics::CacheTier,
};

pub struct Shared {
    values: Arc<dyn Volatile>,
    rest: Arc<AtRest>,
    max_size: AtomicU64,
    /// The mark that this gateway's memory goes by; one more than it, so that 0 is none yet.
    seen: AtomicU64,
    counts: Arc<CacheTier>,
}

impl Shared {
    pub fn new(values: Arc<dyn Volatile>, rest: Arc<AtRest>, config: &config::Cache, counts: Arc<CacheTier>) -> Shared {
        Shared { values, rest, max_size: config.max_size.into(), seen: AtomicU64::new(0), counts }
    }

    async fn read(&self, name: &Name) -> Look {
        let Ok(Read { value, mark }) = self.values.read(&hex::encode(name), PATIENCE).await else {
            return Look { mark: None, found: Found::Failed };
        };
        let found = match value {
            None => Found::Nothing,
            Some(value) => match self.opened(name, &value) {
                Some(content) => Found::Content(content),
                None => {
                    self.dismiss(*name);
                    Found::Damaged
                }
            },
        };
        Look { mark: Some(mark), found }
    }

    /// `length of the plain bytes 4 | sealed`, bound to name and length.
    fn opened(&self, name: &Name, value: &[u8]) -> Option<Content> {
        let (plain, sealed) = value.split_first_chunk::<4>()?;
        let packed = self.rest.open(&bound(name, *plain), sealed.to_vec())?;
        Content::unpack(&packed, u32::from_le_bytes(*plain))
    }

    async fn write(&self, name: Name, content: Content, keep: Duration, mark: u64) -> Put {
        let sealed = content.pack().and_then(|(packed, plain)| {
            let plain = plain.to_le_bytes();
            let mut value = plain.to_vec();
            value.append(&mut self.rest.seal(&bound(&name, plain), &packed)?);
            Ok(value)
        });
        let Ok(value) = sealed else { return Put::Failed };
        let bound = self.max_size.load(Ordering::Relaxed);
        // What would push out most others is not kept.
        if value.len() as u64 > bound / 4 || keep.is_zero() {
            return Put::NoRoom;
        }
        let put = volatile::Put { name: &hex::encode(&name), value: &value, keep, mark, bound };
        match self.values.put(put).await {
            Ok(Placed::Kept { evicted, bytes }) => {
                self.counts.stored();
                self.counts.evicted(evicted);
                self.counts.holds(bytes);
                Put::Kept
            }
            Ok(Placed::Emptied) => Put::Emptied,
            Ok(Placed::NoRoom) => Put::NoRoom,
            Err(_) => Put::Failed,
        }
    }

    fn dismiss(&self, name: Name) {
        let values = self.values.clone();
        tokio::spawn(async move { drop(values.remove(&hex::encode(&name)).await) });
    }
}

impl Tier for Shared {
    fn look<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Look> {
        Box::pin(self.read(name))
    }

    fn keep(&self, name: Name, content: Content, keep: Duration, mark: u64) -> BoxFuture<'_, Put> {
        Box::pin(self.write(name, content, keep, mark))
    }

    fn forget(&self, name: Name) -> BoxFuture<'_, ()> {
        Box::pin(async move { drop(self.values.remove(&hex::encode(&name)).await) })
    }

    fn flush(&self, whose: Option<Tag>) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let names = whose.map(|tag| hex::encode(&tag)).unwrap_or_default();
            let Emptied { removed, mark: _, bytes } = self.values.empty(&names).await?;
            self.counts.holds(bytes);
            Ok(removed)
        })
    }

    fn flushed_elsewhere(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            // While nobody answers, nobody knows: the next answer tells.
            let Ok(mark) = self.values.mark().await else { return false };
            let seen = self.seen.swap(mark.saturating_add(1), Ordering::Relaxed);
            seen != 0 && seen != mark.saturating_add(1)
        })
    }

    fn sync(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn configure(&self, config: &config::Cache) {
        self.max_size.store(config.max_size, Ordering::Relaxed);
    }

    fn is_shared(&self) -> bool {
        true
    }
}

fn bound(name: &Name, plain: [u8; 4]) -> [u8; 20] {
    let mut bound = [0; 20];
    bound[..16].copy_from_slice(name);
    bound[16..].copy_from_slice(&plain);
    bound
}
