//! The ledger: each settled request becomes a line of its hour's file, a part of the sums, and a row of the ring, in this
//! order and once. Called from the settle task, never from a request.
//!
//! A disk that takes nothing costs the lines, not the service: they are counted as lost, the ring and the sums go on, and
//! the next batch tries again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{
    Record, archive,
    bodies::{self, Sealer},
    hour::Hour,
    sheet::{Recorded, Sheet},
    usage::Sums,
};
use crate::{
    config::{Records, Scope},
    context::Trace,
    store::{Files, Result, Store, files::Appender},
    telemetry::{Ring, metrics},
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
    /// Were begun.
    sheets: AtomicU64,
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
            sheets: 0.into(),
            clock,
        }))
    }

    /// From now on bodies that records bring along are kept. `secret`: derived from the master key for them alone.
    pub fn keep_bodies(&self, secret: &[u8; 32]) {
        if let Some(sealer) = Sealer::new(secret) {
            let _ = self.sealer.set(sealer);
        }
    }

    /// An empty sheet.
    pub fn sheet(&self, rows: usize) -> Sheet {
        Sheet::new(self.sheets.fetch_add(1, Ordering::Relaxed), (self.clock)(), rows)
    }

    /// A settled request becomes a line of the sheet, and a part of the sums when that is written. What it said goes with the sheet.
    pub fn note(&self, sheet: &mut Sheet, record: &mut Record, trace: &Trace) {
        sheet.add(record, trace);
        self.sums.count(sheet.number, record);
    }

    pub(super) fn has_files(&self) -> bool {
        self.files.is_some()
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

    /// Settles a batch at once. Blocks for one write.
    pub fn append(&self, mut batch: impl AsMut<[(Record, Trace)]>) {
        let batch = batch.as_mut();
        let mut sheet = self.sheet(batch.len());
        batch.iter_mut().for_each(|(record, trace)| self.note(&mut sheet, record, trace));
        self.write(vec![sheet]);
    }

    /// Lines go into their files, and then into the sums and the ring. Blocks.
    pub(super) fn write(&self, mut sheets: Vec<Sheet>) {
        if sheets.iter().any(|sheet| !sheet.recorded.is_empty()) {
            self.seal(&mut sheets);
        }
        let mut open = self.lock();
        let mut sheets = sheets.into_iter().peekable();
        while let Some(first) = sheets.next() {
            let hour = first.hour;
            let mut together = vec![first];
            together.extend(std::iter::from_fn(|| sheets.next_if(|sheet| sheet.hour == hour)));
            self.write_hour(&mut open, hour, together);
        }
    }

    fn write_hour(&self, open: &mut Open, hour: Hour, sheets: Vec<Sheet>) {
        let written = self.write_lines(open, hour, &sheets);
        let size: usize = sheets.iter().map(|sheet| sheet.lines.len()).sum();
        let mut at = match (written, &open.file) {
            (Some(end), _) => end - size as u64,
            (None, Some(file)) if open.hour == hour => open.begins + file.len(),
            _ => 0,
        };
        for Sheet { number, mut lines, starts, .. } in sheets {
            // What is not in the file takes no room in it.
            let begins = at;
            if written.is_some() {
                at += lines.len() as u64;
            }
            self.sums.land(number, written.map(|_| (hour, at)));
            // They stay as long as they are among the last ones.
            if lines.capacity() / 2 > lines.len() {
                lines.shrink_to_fit();
            }
            let place = |start: usize| if written.is_some() { begins + start as u64 } else { begins };
            self.ring.push(lines.into(), &starts, hour.0, place);
        }
    }

    /// What requests said leaves their sheets here, kept or lost.
    fn seal(&self, sheets: &mut [Sheet]) {
        let mut taken: Vec<(Hour, Recorded)> = Vec::new();
        for sheet in sheets {
            taken.extend(sheet.recorded.drain(..).map(|recorded| (sheet.hour, recorded)));
        }
        let (Some(files), Some(sealer)) = (&self.files, self.sealer.get()) else { return };
        let mut writer = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        for same in taken.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((hour, _)) = same.first() else { continue };
            match writer.write(files, sealer, *hour, same.iter().map(|(_, recorded)| recorded)) {
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
    }

    /// How far the hour's lines go now. `None`: these are not in a file.
    fn write_lines(&self, open: &mut Open, hour: Hour, sheets: &[Sheet]) -> Option<u64> {
        let files = self.files.as_ref()?;
        let mut append = || -> Result<u64> {
            if open.file.is_none() || open.hour != hour {
                open.file = None;
                open.begins = archive::closed(files, hour)?;
                open.file = Some(files.append(&archive::plain_name(hour), b'\n')?);
                open.hour = hour;
            }
            let file = open.file.as_mut().ok_or(crate::store::StoreError::Closed)?;
            let lines: Vec<&[u8]> = sheets.iter().map(|sheet| &sheet.lines[..]).collect();
            file.append(&lines)?;
            file.keep_room(ROOM);
            open.unsynced = true;
            Ok(open.begins + file.len())
        };
        match append() {
            Ok(end) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("records are written again");
                }
                Some(end)
            }
            Err(error) => {
                metrics().records_lost(sheets.iter().map(|sheet| sheet.starts.len() as u64).sum());
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
/// Bytes of lines, two thousand or so, that the disk keeps free for the running hour: what is spent while it is full is not forgotten by a
/// kill.
const ROOM: u64 = 2 << 20;
/// Seconds between two notes of the sums.
const NOTED: u32 = 5;
const FOLDER: &str = "records";
