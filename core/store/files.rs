//! Files that only grow, lent out by the name of their folder: the one way to the data directory beside the store's
//! tables. A write is whole or nothing, a replaced file is the old or the new one, and what a crash left half is cut off.
//! Knows bytes and names; what stands in the files is their owner's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, IoSlice, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::Arc,
};

use super::{Directory, Result};

/// One folder of the data directory.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    directory: Directory,
}

/// The end of a file, where rows are added.
#[derive(Debug)]
pub struct Appender {
    file: Arc<File>,
    len: u64,
    /// As far into the file the disk has room for it already.
    room: u64,
    directory: Directory,
}

/// Brings to the disk what was appended, without being in the way of who appends.
pub struct Syncer(Arc<File>, Directory);

/// A file as it was when it was opened; it stays readable when it is removed.
#[derive(Debug)]
pub struct Reader {
    file: File,
    len: u64,
    directory: Directory,
}

impl Directory {
    /// The folder of that name, made when it is absent. What a crash left half written is removed.
    pub fn files(&self, name: &str) -> Result<Files> {
        let files = Files { folder: self.path().join(name), directory: self.clone() };
        let open = || -> io::Result<()> {
            if !files.folder.is_dir() {
                DirBuilder::new().mode(0o700).create(&files.folder)?;
            }
            for name in files.listed()?.iter().filter(|name| name.ends_with(HALF)) {
                fs::remove_file(files.folder.join(name))?;
            }
            Ok(())
        };
        open().map_err(|e| self.io(e))?;
        Ok(files)
    }
}

impl Files {
    /// In order.
    pub fn names(&self) -> Result<Vec<String>> {
        self.listed().map_err(|e| self.directory.io(e))
    }

    /// Opens a file for more rows. A row that a crash cut short, so that no `end` follows it, is cut off.
    pub fn append(&self, name: &str, end: u8) -> Result<Appender> {
        let open = || -> io::Result<Appender> {
            let path = self.folder.join(name);
            let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
            let found = file.metadata()?.len();
            let len = whole_rows(&file, found, end)?;
            if len < found {
                file.set_len(len)?;
            }
            Ok(Appender { file: Arc::new(file), len, room: 0, directory: self.directory.clone() })
        };
        open().map_err(|e| self.directory.io(e))
    }

    pub fn read(&self, name: &str) -> Result<Option<Reader>> {
        let open = || -> io::Result<Option<Reader>> {
            match File::open(self.folder.join(name)) {
                Ok(file) => {
                    let len = file.metadata()?.len();
                    Ok(Some(Reader { file, len, directory: self.directory.clone() }))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        };
        open().map_err(|e| self.directory.io(e))
    }

    /// Writes a whole file: write, fsync, rename.
    pub fn make(&self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let half = self.folder.join(format!("{name}{HALF}"));
        let result = (|| {
            let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half);
            let mut out = BufWriter::new(options.map_err(|e| self.directory.io(e))?);
            write(&mut out)?;
            let finish = || -> io::Result<()> {
                let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.sync_all()?;
                fs::rename(&half, self.folder.join(name))?;
                File::open(&self.folder)?.sync_all()
            };
            finish().map_err(|e| self.directory.io(e))
        })();
        if result.is_err() {
            // Half a file takes room that may be what is lacking.
            let _ = fs::remove_file(&half);
        }
        result
    }

    /// A file that is not there yet, to add any bytes to.
    pub fn begin(&self, name: &str) -> Result<Appender> {
        let open = || -> io::Result<Appender> {
            let path = self.folder.join(name);
            let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
            File::open(&self.folder)?.sync_all()?;
            Ok(Appender { file: Arc::new(file), len: 0, room: 0, directory: self.directory.clone() })
        };
        open().map_err(|e| self.directory.io(e))
    }

    /// Puts bytes in the place of others, one piece after the other; they are on the disk when it returns.
    pub fn overwrite(&self, name: &str, pieces: &[(u64, &[u8])]) -> Result<()> {
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).open(self.folder.join(name))?;
            for (at, bytes) in pieces {
                file.write_all_at(bytes, *at)?;
            }
            file.sync_data()
        };
        write().map_err(|e| self.directory.io(e))
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to)).map_err(|e| self.directory.io(e))
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.folder.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.directory.io(e)),
            _ => Ok(()),
        }
    }

    fn listed(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

impl Appender {
    /// All of it or nothing: what a full disk took of it is cut off again.
    pub fn append(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let mut left: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        match write_whole(&self.file, &mut left) {
            Ok(()) => {
                self.len += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
                Ok(())
            }
            Err(e) => {
                // That gives back the room as well.
                let _ = self.file.set_len(self.len);
                self.room = 0;
                Err(self.directory.io(e))
            }
        }
    }

    /// So many bytes more will have room even if the disk is full by then. Asks for it in pieces of half as much; a disk that has
    /// none, or that cannot promise any, is asked again with the next call.
    #[cfg(target_os = "linux")]
    pub fn keep_room(&mut self, ahead: u64) {
        use rustix::fs::{FallocateFlags, fallocate};
        if self.room < self.len + ahead / 2
            && fallocate(&*self.file, FallocateFlags::KEEP_SIZE, self.len, ahead).is_ok()
        {
            self.room = self.len + ahead;
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn keep_room(&mut self, _ahead: u64) {}

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn syncer(&self) -> Syncer {
        Syncer(self.file.clone(), self.directory.clone())
    }
}

impl Syncer {
    pub fn sync(&self) -> Result<()> {
        self.0.sync_data().map_err(|e| self.1.io(e))
    }
}

impl Reader {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes at `at`: fewer where the file ends.
    pub fn at(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let len = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX).min(len);
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).map_err(|e| self.directory.io(e))?;
        Ok(bytes)
    }
}

/// All pieces one after the other, in as few calls as the kernel takes them in.
fn write_whole(mut file: &File, mut left: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Empty ones in front are no end of a file.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => IoSlice::advance_slices(&mut left, taken),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Up to the last `end`, looked for from behind.
fn whole_rows(mut file: &File, len: u64, end: u8) -> io::Result<u64> {
    let mut to = len;
    let mut block = vec![0; BLOCK];
    while to > 0 {
        let from = to.saturating_sub(BLOCK as u64);
        let part = &mut block[..(to - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(part)?;
        if let Some(last) = part.iter().rposition(|byte| *byte == end) {
            return Ok(from + last as u64 + 1);
        }
        to = from;
    }
    Ok(0)
}

const BLOCK: usize = 64 << 10;
/// Ends the name of a file that is being written.
const HALF: &str = ".new";
