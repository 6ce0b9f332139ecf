//! Answers on the disk: sealed records in files that only grow, each tenant's in one of a few lanes of files, so that who keeps
//! much pushes out its own. What a record says, what it is called and where each one stands is its owner's to know (`Index`):
//! `stored` and `cache` have a folder each. Knows no requests, and nobody waits here for a disk that hangs longer than he says.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Semaphore, oneshot};

use self::{
    archive::Archive,
    writer::{Job, Writer},
};
pub use self::{
    archive::{HEAD, Place},
    content::Content,
    writer::Put,
};
use crate::{
    seal::{AtRest, Name},
    store::{Files, Result, StoreError},
};

mod archive;
mod content;
mod writer;

/// Who knows what there is, and where it stands. Asked under one lock, which nobody holds while he waits.
pub trait Index: Send + 'static {
    fn bounds(&self) -> Bounds;

    /// Found at the start. The place of an older one of the same name, which must go.
    fn found(&mut self, name: Name, place: Place) -> Option<Place>;

    /// It was written. `false`: it was removed or replaced meanwhile, and must not stay.
    fn written(&mut self, name: Name, serial: u64, place: Place) -> bool;

    /// It could not be written.
    fn unwritten(&mut self, name: &Name, serial: u64);

    /// A file is gone, and with it what stood in it under these names.
    fn segment_gone(&mut self, segment: u32, names: &[Name]);

    /// Lets go of what is too old. In seconds since 1970.
    fn sweep(&mut self, now: u64);

    /// The disk took nothing: for who counts.
    fn unwritable(&self);

    /// A file was found that cannot be read, or not to its end: for who counts.
    fn damaged(&self) {}
}

/// How much, and how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub keep: Duration,
    /// Bytes on the disk.
    pub max_size: u64,
}

/// Seconds since 1970.
pub type Clock = fn() -> u64;

/// One folder of records.
pub struct Lanes {
    archive: Arc<Archive>,
    jobs: mpsc::Sender<Job>,
    /// Bytes that wait to be written.
    waiting: Arc<AtomicUsize>,
    /// A few reads at a time: they have threads that others need, too.
    reads: Arc<Semaphore>,
}

impl Lanes {
    /// Reads the heads of all records into the index, and starts the thread that writes. Takes as long as the disk does.
    pub fn open<I: Index>(
        files: Files,
        name: &str,
        rest: Arc<AtRest>,
        index: Arc<Mutex<I>>,
        clock: Clock,
    ) -> Result<Lanes> {
        let archive = Arc::new(Archive::new(files, rest));
        let waiting = Arc::<AtomicUsize>::default();
        let writer = Writer::open(archive.clone(), index, clock, waiting.clone())?;
        let (jobs, todo) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || writer.run(&todo)).map_err(|source| StoreError::Io { path: name.into(), source })?;
        Ok(Lanes { archive, jobs, waiting, reads: Arc::new(Semaphore::new(MOST_READS)) })
    }

    /// Is there room for so much more that waits? What a slow disk leaves over is not piled up.
    pub fn takes(&self, size: usize) -> bool {
        self.waiting.load(Ordering::Relaxed).saturating_add(size) <= MOST_WAITING
    }

    /// Writes it, behind what waits already. The answer comes when it is written, or cannot be.
    pub fn put(&self, put: Put) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        self.waiting.fetch_add(put.content.size(), Ordering::Relaxed);
        // Without a writer there is nothing to wait for: the process is about to end.
        let _ = self.jobs.send(Job::Put { put, done });
        written
    }

    /// What was removed from the index goes from the disk; the answer says when it is.
    pub fn erase(&self, places: Vec<Place>) -> oneshot::Receiver<Result<()>> {
        let (done, erased) = oneshot::channel();
        let _ = self.jobs.send(Job::Erase { places, done });
        erased
    }

    /// Every file goes.
    pub fn clear(&self) -> oneshot::Receiver<Result<()>> {
        let (done, cleared) = oneshot::channel();
        let _ = self.jobs.send(Job::Clear { done });
        cleared
    }

    /// The answer comes when all that was put is on the disk.
    pub fn sync(&self) -> oneshot::Receiver<()> {
        let (done, synced) = oneshot::channel();
        let _ = self.jobs.send(Job::Sync { done });
        synced
    }

    /// `None`: it does not open.
    pub async fn read(&self, name: Name, place: Place) -> Result<Option<Content>> {
        let Ok(turn) = self.reads.clone().acquire_owned().await else { return Err(StoreError::Closed) };
        let archive = self.archive.clone();
        let read = tokio::task::spawn_blocking(move || {
            // A read that hangs keeps its turn, whoever still waits for it.
            let _turn = turn;
            archive.read(&name, place)
        });
        read.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The clock of the wall.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

pub fn seconds(span: Duration) -> u64 {
    // Never early.
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// Bytes that may wait for a slow disk.
const MOST_WAITING: usize = 64 << 20;
const MOST_READS: usize = 8;
