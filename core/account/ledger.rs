//! The ledger: each settled request becomes a line of its hour's file, a part of the sums, and a row of the ring, in this
//! order and once. Called with batches from the settle task, never from a request.
//!
//! A disk that takes nothing costs the lines, not the service: they are counted as lost, the ring and the sums go on, and
//! the next batch tries again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{
    Record, archive,
    bodies::{self, Sealer},
    hour::Hour,
    usage::Sums,
};
use crate::{
    config::{Records, Scope},
    context::Trace,
    store::{Files, Result, Store, files::Appender},
    telemetry::{Ring, metrics, row},
};

pub struct Ledger {
    pub ring: Arc<Ring>,
    pub sums: Sums,
    /// `None`: the store keeps nothing.
    pub(super) files: Option<Files>,
    open: Mutex<Open>,
    /// Where bodies are kept, once their key is known.
    pub(super) sealer: OnceLock<Sealer>,
    bodies: Mutex<bodies::Writer>,
    /// Held for writing while an hour's files change their names.
    pub(super) layout: RwLock<()>,
    /// Held by who prices records again.
    pub(super) rerating: Mutex<()>,
    /// Lines could not be written: said once.
    failing: AtomicBool,
    /// The same of bodies.
    losing: AtomicBool,
    clock: fn() -> SystemTime,
}

/// The running hour.
#[derive(Default)]
pub(super) struct Open {
    hour: Hour,
    file: Option<Appender>,
    /// Bytes of this hour's lines before the file.
    begins: u64,
    unsynced: bool,
    lines: Vec<u8>,
    /// Where each line of a batch begins.
    starts: Vec<usize>,
}

impl Ledger {
    /// Opens the files, and adds to the sums what they do not know of yet.
    pub async fn open(store: Arc<dyn Store>, ring: Arc<Ring>, clock: fn() -> SystemTime) -> Result<Arc<Ledger>> {
        Ledger::open_as("", store, ring, clock).await
    }

    /// The same as one of several gateways on a shared store: `node` is its name among them.
    pub async fn open_as(
        node: &str,
        store: Arc<dyn Store>,
        ring: Arc<Ring>,
        clock: fn() -> SystemTime,
    ) -> Result<Arc<Ledger>> {
        let ledger = Ledger::look(node, store, ring, clock).await?;
        ledger.finish_rerating().await?;
        let repaired = ledger.clone();
        blocking(move || repaired.repair()).await?;
        ledger.sums.checkpoint().await?;
        Ok(ledger)
    }

    /// Only to read, beside a gateway that may be running: what it has not noted yet is left to it.
    pub async fn look(
        node: &str,
        store: Arc<dyn Store>,
        ring: Arc<Ring>,
        clock: fn() -> SystemTime,
    ) -> Result<Arc<Ledger>> {
        let files = store.directory().map(|directory| directory.files(FOLDER)).transpose()?;
        let sums = Sums::open(store, node, clock()).await?;
        Ok(Arc::new(Ledger {
            ring,
            sums,
            files,
            open: Mutex::default(),
            sealer: OnceLock::new(),
            bodies: Mutex::default(),
            layout: RwLock::new(()),
            rerating: Mutex::new(()),
            failing: false.into(),
            losing: false.into(),
            clock,
        }))
    }

    /// From now on bodies that records bring along are kept. `secret`: derived from the master key for them alone.
    pub fn keep_bodies(&self, secret: &[u8; 32]) {
        if let Some(sealer) = Sealer::new(secret) {
            let _ = self.sealer.set(sealer);
        }
    }

    /// Settles a batch, off the runtime's threads when there is a file to write.
    /// Gives it back.
    pub async fn settle(self: &Arc<Self>, mut batch: Vec<(Record, Trace)>) -> Vec<(Record, Trace)> {
        if self.files.is_none() {
            self.append(&mut batch);
            return batch;
        }
        let ledger = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            ledger.append(&mut batch);
            batch
        });
        // It ends early only with the process.
        written.await.unwrap_or_default()
    }

    /// Until `stop`: keeps files and sums in order.
    pub async fn run(self: Arc<Self>, keep: impl Fn() -> Records, stop: CancellationToken) {
        let mut tick = tokio::time::interval(SYNC);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0u32;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            self.synced().await;
            if ticks.is_multiple_of(NOTED) {
                self.upkeep(keep()).await;
            }
            ticks = ticks.wrapping_add(1);
        }
    }

    /// Settles a batch: lines, sums, ring. Blocks for one write.
    pub fn append(&self, mut batch: impl AsMut<[(Record, Trace)]>) {
        let batch = batch.as_mut();
        let now = (self.clock)();
        let hour = Hour::of(now);
        if batch.iter().any(|(record, _)| record.bodies.is_some()) {
            self.seal(batch, hour);
        }
        let stamp = row::Stamp::of(now);
        let mut open = self.lock();
        let Open { lines, starts, .. } = &mut *open;
        lines.clear();
        starts.clear();
        for (record, trace) in batch.iter() {
            starts.push(lines.len());
            row::write(record, Some(trace), &stamp, lines);
            lines.push(b'\n');
        }
        let written = self.write(&mut open, hour);
        let begins = match (&written, &open.file) {
            (Some((_, end)), _) => end - open.lines.len() as u64,
            (None, Some(file)) if open.hour == hour => open.begins + file.len(),
            _ => 0,
        };
        self.sums.add(batch.iter().map(|(record, _)| record), written);
        // What is not in the file takes no room in it.
        let place = |start: usize| if written.is_some() { begins + start as u64 } else { begins };
        self.ring.push(&open.lines, &open.starts, hour.0, place);
        // A batch of long traces leaves no large buffer behind.
        open.lines.shrink_to(MOST_BUFFER);
    }

    /// Bodies leave their records here, kept or lost.
    fn seal(&self, batch: &mut [(Record, Trace)], hour: Hour) {
        let taken: Vec<_> = batch.iter_mut().map(|(record, _)| record.bodies.take()).collect();
        let (Some(files), Some(sealer)) = (&self.files, self.sealer.get()) else { return };
        let kept = batch.iter().zip(taken).filter_map(|((record, _), bodies)| Some((record, bodies?)));
        let mut writer = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.write(files, sealer, hour, kept) {
            Ok(()) => {
                if self.losing.swap(false, Ordering::Relaxed) {
                    tracing::info!("bodies of requests are kept again");
                }
            }
            Err(error) => {
                writer.let_go();
                if !self.losing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "bodies of requests cannot be kept: these are lost");
                }
            }
        }
    }

    /// Where the lines ended up: the hour, and how far its lines go now. `None`: they are not in a file.
    fn write(&self, open: &mut Open, hour: Hour) -> Option<(Hour, u64)> {
        let files = self.files.as_ref()?;
        let count = open.starts.len() as u64;
        let mut append = || -> Result<u64> {
            if open.file.is_none() || open.hour != hour {
                open.file = None;
                open.begins = archive::closed(files, hour)?;
                open.file = Some(files.append(&archive::plain_name(hour), b'\n')?);
                open.hour = hour;
            }
            let file = open.file.as_mut().ok_or(crate::store::StoreError::Closed)?;
            file.append(&open.lines)?;
            open.unsynced = true;
            Ok(open.begins + file.len())
        };
        match append() {
            Ok(end) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("records are written again");
                }
                Some((hour, end))
            }
            Err(error) => {
                metrics().records_lost(count);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "records cannot be written: the last ones are kept in memory alone");
                }
                None
            }
        }
    }

    /// What was written is brought to the disk.
    async fn synced(self: &Arc<Self>) {
        let ledger = self.clone();
        if let Err(error) = blocking(move || ledger.sync()).await {
            tracing::warn!(%error, "records could not be brought to the disk");
        }
    }

    /// The sums are noted; an hour that ended is closed, and what is older than it is kept is forgotten.
    pub async fn upkeep(self: &Arc<Self>, keep: Records) {
        let now = (self.clock)();
        if let Err(error) = self.sums.checkpoint().await {
            tracing::debug!(%error, "sums of usage could not be noted: tried again");
            // An hour is closed only when its lines are counted for good.
            return;
        }
        if let Err(error) = self.sums.sweep(now, keep.usage).await {
            tracing::warn!(%error, "old sums of usage could not be put together: tried again");
        }
        let ledger = self.clone();
        if let Err(error) = blocking(move || ledger.close_hours(now, keep.keep)).await {
            tracing::warn!(%error, "an hour of records could not be closed: tried again");
        }
    }

    /// At the end: nothing of the sums is left to count again.
    pub async fn close(self: &Arc<Self>) {
        self.synced().await;
        if let Err(error) = self.sums.checkpoint().await {
            tracing::warn!(%error, "sums of usage could not be noted: the next start counts the last records again");
        }
    }

    fn sync(&self) -> Result<()> {
        let syncer = {
            let mut open = self.lock();
            let due = std::mem::take(&mut open.unsynced);
            open.file.as_ref().filter(|_| due).map(Appender::syncer)
        };
        // Outside the lock: a slow disk must not hold up the next batch.
        syncer.map_or(Ok(()), |syncer| syncer.sync())
    }

    fn close_hours(&self, now: SystemTime, keep: Duration) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let running = Hour::of(now);
        {
            let mut open = self.lock();
            if open.hour != running {
                open.file = None;
                self.bodies.lock().unwrap_or_else(PoisonError::into_inner).let_go();
            }
        }
        for hour in archive::unclosed(files)?.into_iter().filter(|hour| *hour != running) {
            let _layout = self.layout.write().unwrap_or_else(PoisonError::into_inner);
            archive::close(files, hour)?;
        }
        let kept = u32::try_from(keep.as_secs().div_ceil(3600)).unwrap_or(u32::MAX);
        archive::forget(files, running.minus(kept)).map(drop)
    }

    /// Lines that the sums do not know of: a process was killed between the two.
    fn repair(&self) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let mut count = 0;
        for hour in archive::hours(files)? {
            let Some(mut from) = self.sums.covered(hour) else { continue };
            let lines = archive::Lines::open(files, hour)?;
            if from > lines.end() {
                tracing::warn!(%hour, "records of this hour are gone that were counted: its sums stay as they were");
            }
            while let Some((piece, next)) = lines.after(from)? {
                self.sums.replay(&piece, hour, next);
                (from, count) = (next, count + memchr::memchr_iter(b'\n', &piece).count());
            }
        }
        if count > 0 {
            tracing::info!(records = count, "sums of usage were completed from the records");
        }
        Ok(())
    }

    /// The next line opens its file anew.
    pub(super) fn let_go(&self) {
        self.lock().file = None;
    }

    /// The same, and there is no next line as long as this is held.
    pub(super) fn held(&self) -> MutexGuard<'_, Open> {
        let mut open = self.lock();
        open.file = None;
        open
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl crate::limit::Ledger for Ledger {
    fn spent<'a>(
        &'a self,
        scope: &'a Scope,
        from: SystemTime,
        to: Option<SystemTime>,
    ) -> BoxFuture<'a, anyhow::Result<Option<u64>>> {
        Box::pin(async move { Ok(Some(self.sums.spent(scope, from, to).await?)) })
    }
}

/// Files block; the threads of the runtime must not.
pub(super) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(crate::store::StoreError::Closed))
}

/// At most a second of records is lost by a power cut, and none by a crash of the process.
const SYNC: Duration = Duration::from_secs(1);
/// Seconds between two notes of the sums.
const NOTED: u32 = 5;
const FOLDER: &str = "records";
const MOST_BUFFER: usize = 1 << 20;
