//! Opens a sled folder and reads every row of it, on a thread of its own under a watchdog: damaged files can make sled hang or
//! panic, at the opening and in any read. What comes back is whole: its rows add up to its tally.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use super::{
    Directory, Result, StoreError, commit,
    tally::{self, Stored, Tally},
};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For a lock that a killed process still holds.
    pub lock_wait: Duration,
    /// Without progress.
    pub watchdog: Duration,
    /// Bytes that the disk keeps free: writes that would need them are refused.
    pub spare: u64,
}

/// An open tree, every row of which was read.
pub(super) struct Opened {
    pub db: ::sled::Db,
    pub tally: Tally,
}

/// Makes sled's statistics, 20 MB of zeros that are never read or written: they take no memory as long as nothing else has
/// lain where they lie. So it is to be called before a process has used and given back anything large, and costs nothing again.
pub fn reserve_statistics() {
    // Nothing is printed without sled's metrics; asking for it makes what they would stand in.
    drop(::sled::Config::new().print_profile_on_drop(true));
}

/// Opens the sled folder `folder`. A panic is damage; no progress for as long as the watchdog waits is `Stuck`, and leaves
/// a thread behind.
pub(super) fn attempt(directory: &Directory, folder: &Path, limits: Limits) -> Result<Opened> {
    let (send, opened) = mpsc::channel();
    let progress = Arc::new(AtomicU64::new(0));
    let (owned, seen, at) = (directory.clone(), progress.clone(), folder.to_owned());
    let thread = std::thread::Builder::new().name(THREAD.into()).spawn(move || {
        let _ = send.send(open(&owned, at, limits.lock_wait, &seen));
    });
    thread.map_err(|e| directory.io(e))?;
    let mut last = (0, Instant::now());
    loop {
        match opened.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(directory.damaged("its files could not be read")),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let now = progress.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() > limits.watchdog + limits.lock_wait {
            return Err(StoreError::Stuck { path: directory.path().to_owned(), seconds: limits.watchdog.as_secs() });
        }
    }
}

fn open(directory: &Directory, folder: PathBuf, lock_wait: Duration, progress: &AtomicU64) -> Result<Opened> {
    let deadline = Instant::now() + lock_wait;
    let db = loop {
        let opened = ::sled::Config::new().path(&folder).cache_capacity(CACHE).open();
        match opened.map_err(|e| commit::failure(directory, e)) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => std::thread::park_timeout(LOCK_RETRY),
            result => break result?,
        }
    };
    let tally = verify(directory, &db, progress)?;
    Ok(Opened { db, tally })
}

/// Reads every row. sled takes a damaged end of its log for the end, and older pages for lost newer ones: rows that are
/// missing or not the last ones must not go unnoticed.
fn verify(directory: &Directory, db: &::sled::Db, progress: &AtomicU64) -> Result<Tally> {
    let own = tally::key();
    let mut found = Tally::default();
    let mut stored = None;
    let mut last: Option<::sled::IVec> = None;
    for row in db.iter() {
        let (key, value) = row.map_err(|e| commit::failure(directory, e))?;
        // A loop among damaged pages would go on for ever.
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(directory.damaged("its rows are out of order"));
        }
        if key == own {
            let parsed =
                Stored::parse(&value).ok_or_else(|| directory.damaged("its count of commits is unreadable"))?;
            stored = Some(parsed);
        } else {
            found.add(&key, &value);
        }
        last = Some(key);
        progress.fetch_add(1, Ordering::Relaxed);
    }
    match stored {
        Some(Stored::Commits(commits)) => Ok(Tally { commits, ..found }),
        Some(Stored::Whole(tally)) if (tally.rows, tally.sum) == (found.rows, found.sum) => Ok(tally),
        Some(Stored::Whole(tally)) => {
            Err(directory.damaged(format!("it should hold {} rows and holds {}, or others", tally.rows, found.rows)))
        }
        None if found.rows == 0 => Ok(found),
        None => Err(directory.damaged("its count of commits is missing")),
    }
}

/// From now on sled's panics over damaged files are told as what they are, a damaged store, and not as a crash: without this
/// the standard hook would print each with its place in the source.
pub fn quiet_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let ours = thread.name().is_some_and(|name| name.starts_with("store-") || name.starts_with("sled-io"));
        if ours {
            tracing::debug!(thread = thread.name(), %panic, "sled gave up");
        } else {
            usual(panic);
        }
    }));
}

const THREAD: &str = "store-open";
const LOOK: Duration = Duration::from_millis(50);
const LOCK_RETRY: Duration = Duration::from_millis(50);
const CACHE: u64 = 64 << 20;
