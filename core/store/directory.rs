//! The data directory: made private, marked with its version, and the few small files beside the store proper. Nothing
//! else in the gateway touches this directory.
//!
//! ```text
//! data/            0700
//!   version        the layout's version
//!   master.key     0600, 32 bytes in hex: the pepper of key hashes
//!   commits        how many batches were acknowledged: more than the store knows of means that it lost some
//!   first-key      0600, the very first key, when there was no terminal to show it on
//!   sled/          the store
//! ```

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{Result, StoreError, hex};

/// A data directory of our version.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory when it is absent; refuses one of another version, or one that holds something else.
    pub fn open(path: &Path) -> Result<Directory> {
        let directory = Directory { path: path.to_owned() };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| directory.io(e))?;
        }
        match directory.read(VERSION_FILE)? {
            Some(text) if text.trim() == VERSION.to_string() => Ok(directory),
            Some(text) => Err(directory.wrong_version(text.trim())),
            None if directory.sled().exists() => Err(directory.wrong_version("none")),
            None => {
                directory.replace(VERSION_FILE, format!("{VERSION}\n").as_bytes(), 0o644)?;
                Ok(directory)
            }
        }
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

    /// Keeps the very first key where only the owner can read it, and says where.
    pub fn keep_first_key(&self, secret: &str) -> Result<PathBuf> {
        self.replace(FIRST_KEY_FILE, secret.as_bytes(), 0o600)?;
        Ok(self.path.join(FIRST_KEY_FILE))
    }

    pub(super) fn sled(&self) -> PathBuf {
        self.path.join("sled")
    }

    /// The number of acknowledged batches, as last noted.
    pub(super) fn commits(&self) -> Result<Option<u64>> {
        let Some(text) = self.read(COMMITS_FILE)? else { return Ok(None) };
        // A file cut short by a power failure says nothing.
        Ok(text.trim().parse().ok())
    }

    pub(super) fn commits_file(&self) -> Result<File> {
        let path = self.path.join(COMMITS_FILE);
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(|e| self.io(e))
    }

    pub(super) fn io(&self, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(source),
            _ => StoreError::Io { path: self.path.clone(), source },
        }
    }

    pub(super) fn damaged(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), reason: reason.into() }
    }

    /// Directory entries made so far survive a power cut.
    pub(super) fn sync(&self) -> Result<()> {
        for path in [&self.sled(), &self.path] {
            if path.exists() {
                File::open(path).and_then(|d| d.sync_all()).map_err(|e| self.io(e))?;
            }
        }
        Ok(())
    }

    fn make_master_key(&self) -> Result<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *key).map_err(|_| self.io(io::Error::other("no random numbers")))?;
        let mut text = Zeroizing::new(hex::encode(&*key));
        text.push('\n');
        self.replace(MASTER_KEY_FILE, text.as_bytes(), 0o600)?;
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
    fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
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

    fn wrong_version(&self, found: &str) -> StoreError {
        let found = if found.is_empty() || found.len() > 20 { "unreadable" } else { found };
        StoreError::Version { path: self.path.clone(), found: found.to_owned(), expected: VERSION }
    }
}

/// Of the layout and of the rows in it.
const VERSION: u32 = 1;
const VERSION_FILE: &str = "version";
const MASTER_KEY_FILE: &str = "master.key";
const COMMITS_FILE: &str = "commits";
const FIRST_KEY_FILE: &str = "first-key";
