//! Machine code of plugins between starts: a folder of the data directory that the plugin engine writes to and reads from.
//! What lies in it is run as it is, so it is private like the master key, and before anybody reads it every file must be,
//! byte by byte, one that was there when this gateway last said so. What is not is removed: it is compiled anew.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};

use super::{Directory, Result, folders, hex};
use crate::config;

#[derive(Debug, Clone)]
pub struct Compiled {
    folder: PathBuf,
    directory: Directory,
}

/// File names below the folder, with the sums of their bytes.
type Sums = BTreeMap<String, String>;

/// Of a store that keeps something; what is wrong with the folder is told, and nothing is kept then.
pub fn compiled(config: &config::Store) -> Option<Compiled> {
    if config.kind != config::StoreKind::Sled {
        return None;
    }
    let opened = Directory::open(&config.path).and_then(|directory| directory.compiled());
    opened.inspect_err(|error| tracing::warn!(%error, "compiled plugins cannot be kept")).ok()
}

impl Directory {
    /// The folder, made when it is absent, with nothing in it that is not known.
    pub fn compiled(&self) -> Result<Compiled> {
        let compiled = Compiled { folder: self.path().join(FOLDER), directory: self.clone() };
        if let Some(left) = compiled.tidy().map_err(|e| self.io(e))? {
            compiled.write(&left)?;
        }
        Ok(compiled)
    }
}

impl Compiled {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What lies there now is whole and known: the engine has just written it.
    pub fn seal(&self) -> Result<()> {
        let seal = || -> io::Result<Option<Sums>> {
            let known = self.sums();
            let mut found = self.files()?;
            // What the engine is still writing, beside us, is nothing yet.
            found.retain(|name, _| !name.contains(UNFINISHED));
            if found.keys().eq(known.keys()) {
                return Ok(None);
            }
            let mut sums = Sums::new();
            for (name, path) in found {
                let sum = match known.get(&name) {
                    // As it was known: whoever changed it since is not to be believed.
                    Some(sum) => Ok(sum.clone()),
                    None => fs::set_permissions(&path, Permissions::from_mode(0o600)).and_then(|()| sum_of(&path)),
                };
                match sum {
                    Ok(sum) => drop(sums.insert(name, sum)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(Some(sums))
        };
        match seal().map_err(|e| self.directory.io(e))? {
            Some(sums) => self.write(&sums),
            None => Ok(()),
        }
    }

    fn write(&self, sums: &Sums) -> Result<()> {
        let lines: String = sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
        self.directory.replace(SUMS, lines.as_bytes(), 0o600)
    }

    /// Removes what is not known; gives the sums that are left, if some are not.
    fn tidy(&self) -> io::Result<Option<Sums>> {
        if !self.private()? {
            tracing::warn!(folder = %self.folder.display(), "others could write to the compiled plugins: they are made anew");
            folders::remove(&self.folder)?;
        }
        if !self.folder.is_dir() {
            DirBuilder::new().mode(0o700).create(&self.folder)?;
        }
        let known = self.sums();
        let mut left = Sums::new();
        for (name, path) in self.files()? {
            match known.get(&name).filter(|sum| sum_of(&path).ok().as_ref() == Some(*sum)) {
                Some(sum) => drop(left.insert(name, sum.clone())),
                None => gone(fs::remove_file(&path))?,
            }
        }
        Ok((left != known).then_some(left))
    }

    /// Is it ours alone? An absent one is.
    fn private(&self) -> io::Result<bool> {
        let facts = match fs::symlink_metadata(&self.folder) {
            Ok(facts) => facts,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(e),
        };
        let owner = fs::metadata(self.directory.path())?.uid();
        Ok(facts.is_dir() && facts.uid() == owner && facts.permissions().mode() & 0o077 == 0)
    }

    /// Unreadable sums know nothing.
    fn sums(&self) -> Sums {
        let text = fs::read_to_string(self.directory.path().join(SUMS)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once("  "));
        lines.map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
    }

    /// All that may be run.
    fn files(&self) -> io::Result<BTreeMap<String, PathBuf>> {
        let mut files = BTreeMap::new();
        self.list(&self.folder, 0, &mut files)?;
        Ok(files)
    }

    fn list(&self, folder: &Path, depth: usize, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = path.strip_prefix(&self.folder).unwrap_or(&path).to_string_lossy().into_owned();
            // What the engine notes on how often a file was of use is read as text, and is no code.
            if name.ends_with(NOTES) {
                continue;
            }
            match kind.is_dir() {
                true if depth < DEEPEST => self.list(&path, depth + 1, files)?,
                true => {}
                false => drop(files.insert(name, path)),
            }
        }
        Ok(())
    }
}

/// Somebody else was faster.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Of a file; of a link there is none.
fn sum_of(path: &Path) -> io::Result<String> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("no file"));
    }
    Ok(hex::encode(digest(&SHA256, &fs::read(path)?).as_ref()))
}

const FOLDER: &str = "compiled";
/// Beside the folder: in it the engine removes what it does not know.
const SUMS: &str = "compiled.sums";
const NOTES: &str = ".stats";
/// In the names of files that the engine works with: `.cleanup.wip-…`, `….wip-atomic-write-…`.
const UNFINISHED: &str = ".wip-";
/// The engine makes two levels.
const DEEPEST: usize = 3;
