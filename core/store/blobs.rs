//! sled's files for values above 128 KiB, of which a page of many rows can be one. sled writes them without any sync, so
//! the durable barrier has to.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

pub(super) struct Blobs {
    folder: PathBuf,
    synced: BTreeSet<OsString>,
    /// The folder's time of change at the last look; `None` when another change could hide behind the same time.
    seen: Option<SystemTime>,
}

impl Blobs {
    pub fn new(folder: PathBuf) -> Blobs {
        Blobs { folder, synced: BTreeSet::new(), seen: None }
    }

    /// Brings new files to the disk. Costs one look at the folder when there are none.
    pub fn sync(&mut self) -> io::Result<()> {
        let changed = fs::metadata(&self.folder)?.modified()?;
        if self.seen == Some(changed) {
            return Ok(());
        }
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !self.synced.contains(&name) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    // Freed meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                }
            }
            present.insert(name);
        }
        File::open(&self.folder)?.sync_all()?;
        self.synced = present;
        let old = changed.elapsed().is_ok_and(|age| age > COARSE);
        self.seen = old.then_some(changed);
        Ok(())
    }
}

/// Times of change move in ticks of the kernel's clock (10 ms at most).
const COARSE: Duration = Duration::from_millis(100);
