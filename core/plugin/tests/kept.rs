//! Machine code from one engine to the next.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    super::{Keep, Plugins},
    guests::{HELLO, HOSTILE, file, listed},
};

/// A folder, and how often something new came into it.
struct Folder(tempfile::TempDir, AtomicUsize);

impl Keep for Folder {
    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn seal(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

fn folder() -> Arc<Folder> {
    Arc::new(Folder(tempfile::tempdir().unwrap(), AtomicUsize::new(0)))
}

/// How many of these files were found compiled.
fn start(kept: &Arc<Folder>, files: &[&[u8]]) -> usize {
    let plugins = Plugins::live(None);
    plugins.keep_in(|| Some(kept.clone()));
    for bytes in files {
        plugins.load(&listed(&[]), &file(bytes)).unwrap();
    }
    plugins.engine().unwrap().found()
}

#[test]
fn a_file_is_compiled_at_the_first_start_and_found_at_the_next() {
    let kept = folder();
    assert_eq!(start(&kept, &[HELLO]), 0);
    assert_eq!(kept.1.load(Ordering::Relaxed), 1);
    assert_eq!(start(&kept, &[HELLO]), 1);
    assert_eq!(kept.1.load(Ordering::Relaxed), 1, "nothing new, nothing to seal");
    // Another file is another entry.
    assert_eq!(start(&kept, &[HELLO, HOSTILE]), 1);
    assert_eq!(start(&kept, &[HELLO, HOSTILE]), 2);
}

#[test]
fn a_file_that_the_cache_cannot_read_is_compiled_anew() {
    let kept = folder();
    start(&kept, &[HELLO]);
    let mut pending = vec![kept.folder().to_owned()];
    let mut spoilt = 0;
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path().is_dir() {
                true => pending.push(entry.path()),
                false => {
                    std::fs::write(entry.path(), b"no machine code").unwrap();
                    spoilt += 1;
                }
            }
        }
    }
    assert!(spoilt > 0);
    assert_eq!(start(&kept, &[HELLO]), 0);
    assert_eq!(start(&kept, &[HELLO]), 1);
}

#[test]
fn a_folder_that_cannot_be_written_to_changes_nothing_but_the_time() {
    let nowhere = Arc::new(Folder(tempfile::tempdir().unwrap(), AtomicUsize::new(0)));
    let path = nowhere.folder().to_owned();
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"a file in its place").unwrap();
    assert_eq!(start(&nowhere, &[HELLO]), 0);
    assert_eq!(start(&nowhere, &[HELLO]), 0);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_dry_run_keeps_nothing() {
    let kept = folder();
    let plugins = Plugins::dry();
    plugins.keep_in(|| Some(kept.clone()));
    plugins.load(&listed(&[]), &file(HELLO)).unwrap();
    assert_eq!(std::fs::read_dir(kept.folder()).unwrap().count(), 0);
}
