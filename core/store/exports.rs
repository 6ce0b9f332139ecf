//! When the store is exported by itself, and which exports are kept: after an open whose state no export has, shortly after
//! changes of keys, and daily. Files are written beside their place, synced and renamed, so that none is ever half a file.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Directory, Exported, Result, StoreError, Table,
    directory::VERSION,
    export::{self, Header},
    tally::{self, Tally},
};

/// The writer's view of what is due.
pub(super) struct Exports {
    due: Instant,
    /// Key changes that no export has.
    keys: bool,
    /// The state of the last export.
    exported: Option<u64>,
    /// Not before: a large store is not exported after every change.
    rested: Instant,
}

impl Exports {
    pub fn new(directory: &Directory, tally: Tally) -> Exports {
        let newest = newest(directory).map(|(_, header)| header);
        let behind = tally.rows > 0 && newest.as_ref().is_none_or(|header| header.commits != tally.commits);
        let keys = tally.rows > 0 && newest.as_ref().is_none_or(|header| header.key_changes != tally.keys);
        let now = Instant::now();
        let due = now + if behind { SOON } else { DAILY };
        Exports { due, keys, exported: newest.map(|header| header.commits), rested: now }
    }

    pub fn keys_changed(&mut self) {
        if !self.keys {
            self.keys = true;
            self.due = (Instant::now() + SOON).max(self.rested);
        }
    }

    pub fn due_in(&self) -> Option<Duration> {
        Some(self.due.saturating_duration_since(Instant::now()))
    }

    pub fn due(&self) -> bool {
        self.due <= Instant::now()
    }

    /// Must the store be exported before it is closed?
    pub fn pending(&self) -> bool {
        self.keys
    }

    /// Exports to `to`, or by itself into the data directory. The caller keeps writers away meanwhile.
    pub fn write(
        &mut self,
        directory: &Directory,
        db: &::sled::Db,
        tally: Tally,
        to: Option<PathBuf>,
    ) -> Result<Exported> {
        let started = Instant::now();
        let own = to.is_none();
        let result = write(directory, db, tally, to);
        let took = started.elapsed();
        if own {
            self.rested = Instant::now() + took * REST;
            self.due = if result.is_ok() { Instant::now() + DAILY } else { Instant::now() + AGAIN };
        }
        if own && result.is_ok() {
            self.keys = false;
            self.exported = Some(tally.commits);
            thin_out(directory);
        }
        result
    }
}

fn write(directory: &Directory, db: &::sled::Db, tally: Tally, to: Option<PathBuf>) -> Result<Exported> {
    let unreadable = |e| super::commit::failure(directory, e);
    let master = db.get(Table::Meta.key(super::MASTER_CHECK)).map_err(unreadable)?;
    let header = export::header_now(tally, VERSION, master.as_deref());
    let mut fresh = Fresh::new(directory, to)?;
    let mut out = fresh.writer(&header)?;
    let own = tally::key();
    let mut found = Tally::default();
    for row in db.iter() {
        let (key, value) = row.map_err(unreadable)?;
        if key == own {
            continue;
        }
        found.add(&key, &value);
        let table = key.first().and_then(|tag| Table::tagged(*tag));
        let table = table.ok_or_else(|| directory.damaged("it holds a row of an unknown table"))?;
        fresh.row(&mut out, table, &key[1..], &value)?;
    }
    // A damaged store must not push good exports out.
    if (found.rows, found.sum) != (tally.rows, tally.sum) {
        return Err(
            directory.damaged(format!("it should hold {} rows and holds {}, or others", tally.rows, found.rows))
        );
    }
    fresh.finish(out, header.created)
}

/// An export that is being written beside its place: whole before it has its name, and gone if it never is.
pub(super) struct Fresh {
    directory: Directory,
    /// A name of ours in the data directory.
    own: bool,
    path: PathBuf,
    fresh: PathBuf,
    done: bool,
}

impl Fresh {
    /// `to`, or a dated name in the data directory. Refuses what no file may take the place of.
    pub fn new(directory: &Directory, to: Option<PathBuf>) -> Result<Fresh> {
        let own = to.is_none();
        let path = match to {
            Some(path) => place(path)?,
            None => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(directory.beside(FOLDER));
                made.map_err(|e| directory.io(e))?;
                directory.dated(&format!("{FOLDER}/{PREFIX}"), ENDING)
            }
        };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        Ok(Fresh { directory: directory.clone(), own, path, fresh, done: false })
    }

    pub fn writer(&self, header: &Header) -> Result<Out> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&self.fresh).map_err(|e| self.failed(e))?;
        export::Writer::new(BufWriter::with_capacity(64 << 10, file), header).map_err(|e| self.failed(e))
    }

    pub fn row(&self, out: &mut Out, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        out.row(table, key, value).map_err(|e| self.failed(e))
    }

    /// On the disk, under its name.
    pub fn finish(&mut self, out: Out, created: String) -> Result<Exported> {
        let (out, rows, bytes) = out.finish().map_err(|e| self.failed(e))?;
        let file = out.into_inner().map_err(|e| self.failed(e.into_error()))?;
        file.sync_all().map_err(|e| self.failed(e))?;
        fs::rename(&self.fresh, &self.path).map_err(|e| self.failed(e))?;
        self.done = true;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(|e| self.failed(e))?;
        Ok(Exported { path: self.path.clone(), rows, bytes, created })
    }

    fn failed(&self, error: io::Error) -> StoreError {
        match self.directory.io(error) {
            StoreError::Io { source, .. } => unwritable(&self.path, source),
            // Another disk than the store's, for all that is known.
            StoreError::Full(source) if !self.own => unwritable(&self.path, source),
            other => other,
        }
    }
}

/// Where an export to `to` goes: through symlinks to what they name, so that they stay. Only a file, or nothing, may be there.
pub(super) fn place(to: PathBuf) -> Result<PathBuf> {
    match fs::metadata(&to) {
        Ok(found) if !found.is_file() => {
            let kind = found.file_type();
            let what = if kind.is_dir() {
                "a folder"
            } else if kind.is_fifo() {
                "a pipe"
            } else if kind.is_socket() {
                "a socket"
            } else {
                "a device"
            };
            let message =
                format!("this is {what}, and an export takes the place of what it is written to: name a file");
            Err(StoreError::File { path: to, message })
        }
        Ok(_) if to.is_symlink() => fs::canonicalize(&to).map_err(|e| unwritable(&to, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(absent(to)),
        Err(e) => Err(unwritable(&to, e)),
        Ok(_) => Ok(to),
    }
}

/// What a symlink names that is not there yet; anything else as it is.
fn absent(mut to: PathBuf) -> PathBuf {
    for _ in 0..MOST_LINKS {
        let Ok(named) = fs::read_link(&to) else { break };
        to = to.parent().unwrap_or(Path::new("")).join(named);
    }
    to
}

fn unwritable(path: &Path, why: io::Error) -> StoreError {
    let hint = match why.kind() {
        io::ErrorKind::NotFound => "make its folder first, or choose another place",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space, or choose another place",
        _ => "choose a place that can be written",
    };
    StoreError::Export { path: path.to_owned(), why, hint }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.fresh);
        }
    }
}

pub(super) type Out = export::Writer<BufWriter<File>>;

/// The readable export that knows of most batches.
pub(super) fn newest(directory: &Directory) -> Option<(PathBuf, Header)> {
    list(directory).into_iter().next_back()
}

/// Our own exports, the last one last: by what they know of, since clocks go back.
pub(super) fn list(directory: &Directory) -> Vec<(PathBuf, Header)> {
    let entries = fs::read_dir(directory.beside(FOLDER)).into_iter().flatten().flatten();
    let ours = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        name.starts_with(PREFIX) && name.ends_with(ENDING)
    });
    let mut found: Vec<(PathBuf, Header)> =
        ours.filter_map(|path| Some((path.clone(), export::header(File::open(&path).ok()?).ok()?))).collect();
    found.sort_by(|(a, one), (b, other)| (one.commits, &one.created, a).cmp(&(other.commits, &other.created, b)));
    found
}

/// Keeps the last few, and the last one of each of some days before.
fn thin_out(directory: &Directory) {
    let mut days = BTreeSet::new();
    for (at, (path, header)) in list(directory).into_iter().rev().enumerate() {
        let day = header.created.get(..10).unwrap_or("").to_owned();
        let first_of_day = days.insert(day);
        if at < KEPT || (first_of_day && days.len() <= KEPT_DAYS) {
            continue;
        }
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "an old export could not be removed");
        }
    }
}

const FOLDER: &str = "export";
const PREFIX: &str = "state";
const ENDING: &str = ".jsonl";
/// After a change of keys: others that come with it share the export.
const SOON: Duration = Duration::from_secs(1);
const DAILY: Duration = Duration::from_secs(24 * 3600);
/// After one that failed.
const AGAIN: Duration = Duration::from_secs(60);
/// So many times as long as an export took, changes of keys wait for the next one.
const REST: u32 = 50;
const KEPT: usize = 5;
const KEPT_DAYS: usize = 7;
/// As many symlinks as Linux follows.
const MOST_LINKS: usize = 40;
