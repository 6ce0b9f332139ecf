//! Whole folders: copied, and brought to the disk. Knows no store and decides nothing.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Copies all files that `wanted` says yes to, and syncs the copy.
pub(super) fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
    copy_below(from, to, wanted, 0)?;
    sync_tree(to)
}

/// Removes a folder that may be absent.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Every file, then every folder's entries.
pub(super) fn sync_tree(folder: &Path) -> io::Result<()> {
    sync_below(folder, 0)
}

fn copy_below(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool, depth: usize) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(wanted) {
            continue;
        }
        if kind.is_dir() && depth < DEEPEST {
            copy_below(&entry.path(), &to.join(&name), wanted, depth + 1)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

fn sync_below(folder: &Path, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < DEEPEST {
            sync_below(&entry.path(), depth + 1)?;
        } else if kind.is_file() {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    File::open(folder)?.sync_all()
}

/// sled makes one level; ours are no deeper.
const DEEPEST: usize = 4;
