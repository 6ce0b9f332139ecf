//! The data directory: made private, marked with its version, and the few small files beside the store proper. Nothing
//! else in the gateway touches this directory.
//!
//! ```text
//! data/               0700
//!   version           the layout's version
//!   lock              held by the process that uses the store
//!   master.key        0600, 32 bytes in hex: wraps the keys that hash and seal
//!   keyring           those keys, wrapped: a copy of the store's row
//!   audit.head        how far the audit log had come: `audit`
//!   commits           how many batches were acknowledged: more than the store knows of means that it lost some
//!   node              this gateway's name among those that share a store
//!   shared            which shared store it was used with, and how far that was
//!   first-key         0600, the very first key, when there was no terminal to show it on
//!   sled/             the store
//!   sled.new/         a store that is being made; `sled.ready/` once it is whole and takes the other's place
//!   sled.damaged-T/   what could not be read, `sled.replaced-T/` what an import took the place of
//!   records/          files of the ledger: `files.rs` lends them out
//!   responses/        answers that callers want kept, sealed: `stored/archive.rs`
//!   versions/         what versions of the policy were made of, by content: `versions/shelf.rs`
//!   compiled/         0700, machine code of plugins; `compiled.sums`: what it was when it was written: `compiled.rs`
//!   export/           the store's rows in files of our own: `export.rs`
//!   backup-vN-T/      as it was before it was migrated: `migrate.rs`
//! ```

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{
    Result, StoreError, folders, hex,
    tally::{Note, Tally},
};

/// A data directory of our version.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory when it is absent; refuses one of another version, or one that holds something else.
    pub fn open(path: &Path) -> Result<Directory> {
        let directory = Directory::make(path)?;
        match directory.version()? {
            Some(VERSION) => Ok(directory),
            found => Err(directory.wrong_version(found)),
        }
    }

    /// Makes the directory when it is absent, and marks a new one with our version.
    pub(super) fn make(path: &Path) -> Result<Directory> {
        let directory = Directory { path: path.to_owned() };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| directory.io(e))?;
        }
        if directory.read(VERSION_FILE)?.is_none() && !directory.sled().exists() {
            directory.set_version(VERSION)?;
        }
        Ok(directory)
    }

    /// `None`: nothing says which.
    pub(super) fn version(&self) -> Result<Option<u32>> {
        let Some(text) = self.read(VERSION_FILE)? else { return Ok(None) };
        // Zero was never one: an unreadable version is refused like one that nobody knows.
        Ok(Some(text.trim().parse().unwrap_or(0)))
    }

    pub(super) fn set_version(&self, version: u32) -> Result<()> {
        self.replace(VERSION_FILE, format!("{version}\n").as_bytes(), 0o644)
    }

    /// One process at a time, whatever is done to the folders inside. A killed process's lock can outlive it by a moment.
    pub(super) fn lock(&self, wait: Duration) -> Result<File> {
        let path = self.path.join(LOCK_FILE);
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = options.map_err(|e| self.io(e))?;
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::park_timeout(LOCK_RETRY);
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(StoreError::Locked { path: self.path.clone() });
                }
                Err(std::fs::TryLockError::Error(e)) => return Err(self.io(e)),
            }
        }
    }

    /// Would `bytes` leave `spare` on the disk? Costs one question to the file system. What it does not tell (quotas, some
    /// network disks) is found out by writing.
    pub(super) fn spares(&self, bytes: u64, spare: u64) -> Result<()> {
        let Ok(disk) = rustix::fs::statvfs(&self.path) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if spare == 0 || disk.f_blocks == 0 || free >= bytes.saturating_add(spare) {
            return Ok(());
        }
        Err(StoreError::Full(io::ErrorKind::StorageFull.into()))
    }

    /// Is there room for what the next writes need? sled does not survive to find none.
    pub(super) fn room(&self) -> Result<()> {
        let path = self.path.join(PROBE_FILE);
        let probe = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            let chunk = vec![0x5a; 64 << 10];
            // File systems that allocate late still reserve at the write.
            (0..ROOM / chunk.len()).try_for_each(|_| file.write_all(&chunk))
        };
        let found = probe();
        let _ = std::fs::remove_file(&path);
        found.map_err(|e| self.io(e))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pepper of key hashes. `fresh`: there are no keys yet, so that an absent file may be made.
    pub fn master_key(&self, fresh: bool) -> Result<Zeroizing<[u8; 32]>> {
        let path = self.path.join(MASTER_KEY_FILE);
        let Some(text) = self.read(MASTER_KEY_FILE)?.map(Zeroizing::new) else {
            if !fresh {
                let message = "the file is missing, and the stored keys cannot be checked without it: put it back from a \
                               backup, or move the whole data directory away to begin with an empty one";
                return Err(StoreError::File { path, message: message.into() });
            }
            return self.make_master_key();
        };
        self.warn_when_readable(&path);
        hex::decode(text.trim()).map(Zeroizing::new).ok_or_else(|| StoreError::File {
            path,
            message: "the file is not a master key (64 hex digits): put it back from a backup".into(),
        })
    }

    pub fn has_master_key(&self) -> bool {
        self.path.join(MASTER_KEY_FILE).is_file()
    }

    /// The old one or the new one lies there at any moment.
    pub fn replace_master_key(&self, key: &[u8; 32]) -> Result<()> {
        let mut text = Zeroizing::new(hex::encode(key));
        text.push('\n');
        self.replace(MASTER_KEY_FILE, text.as_bytes(), 0o600)
    }

    /// The wrapped keys, for who reads what was sealed without the store.
    pub fn keep_keyring(&self, row: &[u8]) -> Result<()> {
        if self.read(KEYRING_FILE)?.is_some_and(|held| held.as_bytes() == row) {
            return Ok(());
        }
        self.replace(KEYRING_FILE, row, 0o600)
    }

    /// Keeps the very first key where only the owner can read it, and says where.
    pub fn keep_first_key(&self, secret: &str) -> Result<PathBuf> {
        self.replace(FIRST_KEY_FILE, secret.as_bytes(), 0o600)?;
        Ok(self.path.join(FIRST_KEY_FILE))
    }

    /// This gateway's name among those that share a store: made once, so that a restart is the same one.
    pub(super) fn node(&self) -> Result<String> {
        let fine = |name: &str| name.len() == 12 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(name) = self.read(NODE_FILE)?.map(|text| text.trim().to_owned()) {
            if fine(&name) {
                return Ok(name);
            }
            let message = "this is no gateway's name (12 hex digits): remove the file, and a new one is made";
            return Err(StoreError::File { path: self.path.join(NODE_FILE), message: message.to_owned() });
        }
        let mut random = [0; 6];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| self.io(io::Error::other("no random numbers")))?;
        // Its beginning is the mark that ids carry (`nodes::mark`), which is never zero.
        random[0] |= 0x10;
        let name = hex::encode(&random);
        self.replace(NODE_FILE, format!("{name}\n").as_bytes(), 0o644)?;
        Ok(name)
    }

    /// Which shared store this folder was used with.
    pub(super) fn shared(&self) -> Result<Option<String>> {
        self.read(SHARED_FILE)
    }

    pub(super) fn set_shared(&self, note: &str) -> Result<()> {
        self.replace(SHARED_FILE, note.as_bytes(), 0o600)
    }

    pub(super) fn shared_path(&self) -> PathBuf {
        self.path.join(SHARED_FILE)
    }

    /// How far the audit log had come, where the store cannot lose it.
    pub fn keep_audit_head(&self, mark: &[u8]) -> Result<()> {
        self.replace(AUDIT_HEAD_FILE, mark, 0o600)
    }

    pub fn audit_head(&self) -> Result<Option<String>> {
        self.read(AUDIT_HEAD_FILE)
    }

    pub(super) fn sled(&self) -> PathBuf {
        self.path.join("sled")
    }

    /// A folder beside the store's.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A name that nothing has yet: `what-20260102T030405Z`, with a number when there are several within a second.
    pub(super) fn dated(&self, what: &str, ending: &str) -> PathBuf {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let name = |n: usize| match n {
            0 => format!("{what}-{stamp}{ending}"),
            n => format!("{what}-{stamp}.{n}{ending}"),
        };
        let free = (0..MAX_SAME_SECOND).map(|n| self.path.join(name(n))).find(|path| !path.exists());
        free.unwrap_or_else(|| self.path.join(name(MAX_SAME_SECOND)))
    }

    /// What was acknowledged, as last noted. `None`: there was no store yet.
    pub(super) fn note(&self) -> Result<Option<Note>> {
        let Some(text) = self.read(COMMITS_FILE)? else { return Ok(None) };
        let unreadable = || {
            self.damaged(
                "the file commits is unreadable, and without it nobody can tell whether every key is there. Removing it \
                 takes the store as it is; `portcullis state import --replace FILE` takes an export instead",
            )
        };
        Note::parse(&text).map(Some).ok_or_else(unreadable)
    }

    /// The file that holds the note, as it now is; from here on it is overwritten in place.
    pub(super) fn commits_file(&self, tally: &Tally) -> Result<File> {
        // Never empty, not even after a power cut: an unreadable note would be damage.
        self.replace(COMMITS_FILE, tally.note().as_bytes(), 0o600)?;
        OpenOptions::new().write(true).open(self.path.join(COMMITS_FILE)).map_err(|e| self.io(e))
    }

    pub(super) fn io(&self, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(source),
            _ => StoreError::Io { path: self.path.clone(), source },
        }
    }

    pub(super) fn stuck(&self, limit: Duration) -> StoreError {
        StoreError::Slow { path: self.path.clone(), seconds: limit.as_secs() }
    }

    pub(super) fn damaged(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), reason: reason.into() }
    }

    /// Entries and files made so far survive a power cut; sled syncs few of its own.
    pub(super) fn sync(&self) -> Result<()> {
        let sync = || -> io::Result<()> {
            if self.sled().exists() {
                folders::sync_tree(&self.sled())?;
            }
            File::open(&self.path)?.sync_all()?;
            match self.path.canonicalize()?.parent() {
                Some(parent) => File::open(parent)?.sync_all().or(Ok(())),
                None => Ok(()),
            }
        };
        sync().map_err(|e| self.io(e))
    }

    pub(super) fn sync_entries(&self) -> Result<()> {
        File::open(&self.path).and_then(|d| d.sync_all()).map_err(|e| self.io(e))
    }

    fn make_master_key(&self) -> Result<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *key).map_err(|_| self.io(io::Error::other("no random numbers")))?;
        self.replace_master_key(&key)?;
        Ok(key)
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        match std::fs::read_to_string(self.path.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
            Err(e) => Err(self.io(e)),
        }
    }

    /// Write, fsync, rename, fsync the directory: the old file or the new one, never half of one.
    pub(super) fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let fresh = self.path.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            match std::fs::remove_file(&fresh) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, self.path.join(name))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| self.io(e))
    }

    fn warn_when_readable(&self, path: &Path) {
        let open = std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0);
        if open {
            tracing::warn!(path = %path.display(), "the master key can be read by others: chmod 600 it");
        }
    }

    pub(super) fn wrong_version(&self, found: Option<u32>) -> StoreError {
        let found = match found {
            None => "none".to_owned(),
            Some(0) => "unreadable".to_owned(),
            Some(version) => version.to_string(),
        };
        StoreError::Version { path: self.path.clone(), found, expected: VERSION }
    }
}

/// Of the layout and of the rows in it.
pub(super) const VERSION: u32 = 1;
const VERSION_FILE: &str = "version";
const MASTER_KEY_FILE: &str = "master.key";
const KEYRING_FILE: &str = "keyring";
const COMMITS_FILE: &str = "commits";
const AUDIT_HEAD_FILE: &str = "audit.head";
const FIRST_KEY_FILE: &str = "first-key";
const NODE_FILE: &str = "node";
const SHARED_FILE: &str = "shared";
const LOCK_FILE: &str = "lock";
const PROBE_FILE: &str = "room.probe";
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// Two of sled's segments (512 KiB) and its snapshot.
const ROOM: usize = 2 << 20;
const MAX_SAME_SECOND: usize = 1000;
