//! The one thread that writes into a folder: adds records, erases what was removed, lets go of what is too old or too much, and
//! brings all of it to the disk once a second. A thread and not a runtime's blocking task, because a disk may hang. Decides
//! nothing about requests, and none waits for it longer than it says.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Bounds, Clock, Content, Index,
    archive::{Archive, Place},
    seconds,
};
use crate::{
    seal::Name,
    store::{Result, StoreError, files::Appender},
};

pub struct Writer<I> {
    archive: Arc<Archive>,
    index: Arc<Mutex<I>>,
    clock: Clock,
    /// Bytes that wait to be written.
    waiting: Arc<AtomicUsize>,
    segments: BTreeMap<u32, Segment>,
    /// By lane: each tenant's records lie in the files of one, so that who keeps much pushes out its own.
    open: BTreeMap<u32, Open>,
    /// Files so far, of all lanes: no number comes twice.
    next: u32,
    bytes: u64,
    /// Something was written that need not be on the disk yet, since then.
    dirty: Option<Instant>,
    swept: Instant,
    /// Removed from the index, and still on the disk.
    owed: Vec<Place>,
    /// The disk takes nothing: said once.
    failing: bool,
}

/// What there is to do.
pub enum Job {
    Put {
        put: Put,
        done: oneshot::Sender<()>,
    },
    /// Done when they and everything that was removed before are off the disk.
    Erase {
        places: Vec<Place>,
        done: oneshot::Sender<Result<()>>,
    },
    /// Done when every file is gone that was there.
    Clear {
        done: oneshot::Sender<Result<()>>,
    },
    /// All that was put is brought to the disk.
    Sync {
        done: oneshot::Sender<()>,
    },
}

/// A record that is to be written.
pub struct Put {
    /// Whose files it lies in; any number.
    pub lane: u32,
    pub name: Name,
    /// As its index knows it, among all that had the name.
    pub serial: u64,
    /// In seconds since 1970.
    pub expires: u64,
    pub content: Content,
    /// What it takes the place of.
    pub replaces: Option<Place>,
}

/// A file of records.
#[derive(Default)]
struct Segment {
    bytes: u64,
    /// Records that somebody may still ask for.
    live: usize,
    /// When the last of them is too old.
    expires: u64,
    names: Vec<Name>,
}

/// The file that is written to.
struct Open {
    segment: u32,
    file: Appender,
    began: u64,
    dirty: bool,
}

impl<I: Index> Writer<I> {
    /// Reads what is there into the index. What cannot be read is told and left out.
    pub fn open(
        archive: Arc<Archive>,
        index: Arc<Mutex<I>>,
        clock: Clock,
        waiting: Arc<AtomicUsize>,
    ) -> Result<Writer<I>> {
        let mut writer = Writer {
            archive,
            index,
            clock,
            waiting,
            segments: BTreeMap::new(),
            open: BTreeMap::new(),
            next: 0,
            bytes: 0,
            dirty: None,
            swept: Instant::now(),
            owed: Vec::new(),
            failing: false,
        };
        for number in writer.archive.segments()? {
            writer.next = writer.next.max(number / LANES + 1);
            let found = match writer.archive.scan(number) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(file = number, %error, "a file of kept answers cannot be read: they are gone");
                    writer.with_index(|index| index.damaged());
                    continue;
                }
            };
            if found.damaged {
                let kept = found.records.len();
                tracing::warn!(
                    file = number,
                    kept,
                    "a file of kept answers is damaged: those behind the damage are gone"
                );
                writer.with_index(|index| index.damaged());
            }
            let mut segment = Segment { bytes: found.bytes, ..Segment::default() };
            writer.bytes += found.bytes;
            for (name, place) in found.records {
                segment.live += 1;
                segment.expires = segment.expires.max(place.expires);
                segment.names.push(name);
                let older = writer.with_index(|index| index.found(name, place));
                writer.owed.extend(older);
            }
            writer.segments.insert(number, segment);
        }
        let _ = writer.settle_debts();
        writer.sweep();
        Ok(writer)
    }

    /// Until every sender is gone.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let wait = if self.dirty.is_some() { SYNC } else { self.sweeps_every() };
            match jobs.recv_timeout(wait) {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            if self.dirty.is_some_and(|since| since.elapsed() >= SYNC) {
                self.sync();
            }
            if self.swept.elapsed() >= self.sweeps_every() {
                let _ = self.settle_debts();
                self.sweep();
            }
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Put { put: Put { lane, name, serial, expires, content, replaces }, done } => {
                self.owed.extend(replaces);
                let place = self.write(lane % LANES, &name, expires, &content);
                self.waiting.fetch_sub(content.size(), Ordering::Relaxed);
                match place {
                    Some(place) if self.with_index(|index| index.written(name, serial, place)) => {}
                    // Removed while it was written.
                    Some(place) => self.owed.push(place),
                    None => self.with_index(|index| index.unwritten(&name, serial)),
                }
                if !self.owed.is_empty() {
                    let _ = self.settle_debts();
                }
                let _ = done.send(());
                self.make_room();
            }
            Job::Erase { places, done } => {
                self.owed.extend(places);
                let _ = done.send(self.settle_debts());
            }
            Job::Clear { done } => {
                self.segments.keys().copied().collect::<Vec<_>>().into_iter().for_each(|number| self.remove(number));
                let left = self.segments.len();
                let gone = if left == 0 { Ok(()) } else { Err(still_there(left)) };
                let _ = done.send(gone.and_then(|()| self.settle_debts()));
            }
            Job::Sync { done } => {
                self.sync();
                let _ = done.send(());
            }
        }
    }

    /// `None`: the disk did not take it.
    fn write(&mut self, lane: u32, name: &Name, expires: u64, content: &Content) -> Option<Place> {
        let record = match self.archive.record(name, expires, content) {
            Ok(record) => record,
            Err(error) => {
                self.failed(&error);
                return None;
            }
        };
        let (now, bounds) = ((self.clock)(), self.bounds());
        let mut append = || -> Result<Place> {
            let size = (bounds.max_size / FILES).clamp(SMALLEST, LARGEST);
            let span = (seconds(bounds.keep) / PARTS).clamp(1, LONGEST);
            if self.open.get(&lane).is_some_and(|o| o.file.len() >= size || now >= o.began.saturating_add(span)) {
                self.close_file(lane);
            }
            let open = match self.open.entry(lane) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(place) => {
                    let segment = self.next.saturating_mul(LANES).saturating_add(lane);
                    self.next = self.next.saturating_add(1);
                    let file = self.archive.begin(segment)?;
                    self.segments.insert(segment, Segment::default());
                    place.insert(Open { segment, file, began: now, dirty: false })
                }
            };
            let place = record.place(open.segment, open.file.len(), expires)?;
            open.dirty = true;
            open.file.append(&[&record.bytes])?;
            Ok(place)
        };
        match append() {
            Ok(place) => {
                let size = record.bytes.len() as u64;
                self.bytes += size;
                if let Some(segment) = self.segments.get_mut(&place.segment) {
                    segment.bytes += size;
                    segment.live += 1;
                    segment.expires = segment.expires.max(expires);
                    segment.names.push(*name);
                }
                self.dirty.get_or_insert_with(Instant::now);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("answers that are to be kept are written again");
                }
                Some(place)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.with_index(|index| index.unwritable());
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "answers that are to be kept cannot be written: the last ones are kept in memory alone");
        }
    }

    /// Erases what was removed.
    fn settle_debts(&mut self) -> Result<()> {
        // Those of one file together: each erasure waits for the disk.
        while let Some(number) = self.owed.last().map(|place| place.segment) {
            let mine: Vec<Place> = self.owed.iter().copied().filter(|place| place.segment == number).collect();
            if self.segments.contains_key(&number) {
                self.archive.erase(number, &mine)?;
            }
            self.owed.retain(|place| place.segment != number);
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.live = segment.live.saturating_sub(mine.len());
            }
        }
        Ok(())
    }

    /// Files in which everything is too old, or erased.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        let now = (self.clock)();
        let over: Vec<u32> =
            self.segments.iter().filter(|(_, s)| s.live == 0 || s.expires <= now).map(|(n, _)| *n).collect();
        over.into_iter().for_each(|number| self.remove(number));
        self.with_index(|index| index.sweep(now));
        self.make_room();
    }

    /// While there is too much, the oldest file goes of the lane that has most.
    fn make_room(&mut self) {
        let most = self.bounds().max_size;
        while self.bytes > most {
            let Some(lane) = self.fullest() else { return };
            let Some(number) = self.segments.keys().copied().find(|number| number % LANES == lane) else { return };
            let before = self.bytes;
            self.remove(number);
            if self.bytes == before {
                return;
            }
        }
    }

    fn fullest(&self) -> Option<u32> {
        let mut sums = BTreeMap::<u32, u64>::new();
        for (number, segment) in &self.segments {
            *sums.entry(number % LANES).or_default() += segment.bytes;
        }
        sums.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(lane, _)| lane)
    }

    fn remove(&mut self, number: u32) {
        let lane = number % LANES;
        if self.open.get(&lane).is_some_and(|open| open.segment == number) {
            self.close_file(lane);
        }
        if let Err(error) = self.archive.remove(number) {
            tracing::warn!(file = number, %error, "a file of kept answers cannot be removed: tried again");
            return;
        }
        let Some(segment) = self.segments.remove(&number) else { return };
        self.bytes = self.bytes.saturating_sub(segment.bytes);
        // In pieces: others wait for this lock.
        for names in segment.names.chunks(PIECE) {
            self.with_index(|index| index.segment_gone(number, names));
        }
    }

    /// No more is added to the file.
    fn close_file(&mut self, lane: u32) {
        self.sync();
        self.open.remove(&lane);
    }

    fn sync(&mut self) {
        if self.dirty.take().is_none() {
            return;
        }
        for open in self.open.values_mut() {
            if std::mem::take(&mut open.dirty)
                && let Err(error) = open.file.syncer().sync()
            {
                tracing::warn!(%error, "kept answers could not be brought to the disk");
            }
        }
    }

    fn sweeps_every(&self) -> Duration {
        (self.bounds().keep / 8).clamp(SYNC, SWEEP)
    }

    fn with_index<T>(&self, f: impl FnOnce(&mut I) -> T) -> T {
        f(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn bounds(&self) -> Bounds {
        self.with_index(|index| index.bounds())
    }
}

fn still_there(files: usize) -> StoreError {
    let source = std::io::Error::other(format!("{files} files of kept answers could not be removed"));
    StoreError::Io { path: "the data directory".into(), source }
}

/// Tenants share a lane by chance only. A file's number tells its lane.
const LANES: u32 = 32;
/// A file has at most this part of the bytes, and this one of the time: so much more than was asked for goes, or stays, at once.
const FILES: u64 = 128;
const PARTS: u64 = 16;
const SMALLEST: u64 = 64 << 10;
const LARGEST: u64 = 64 << 20;
/// Seconds.
const LONGEST: u64 = 24 * 3600;
/// A power cut loses so much; a kill of the process loses nothing that was written.
const SYNC: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(30);
const PIECE: usize = 1000;
