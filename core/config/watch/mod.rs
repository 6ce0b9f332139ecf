//! Sees that configuration files changed, however an editor, a mount or an orchestrator changes them, and says so once
//! the change is complete. Knows nothing of what the files mean.
//!
//! Folders are watched, never files: a rename-save or a swapped link kills the watch of a file. A poll every two seconds
//! stands behind it for mounts that send no events. Content decides: a touched file is no change, and nothing is acted on
//! until two readings 50 ms apart agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::digest;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

#[cfg(test)]
mod tests;

/// What to watch: files by name, and folders with all that lies in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watched {
    pub files: Vec<PathBuf>,
    pub folders: Vec<PathBuf>,
    /// Folders of which only the files directly in them count.
    pub flat: Vec<PathBuf>,
}

/// Watches until dropped.
pub struct Watcher {
    tell: Sender<Message>,
}

impl Watcher {
    /// Act even if nothing seems to have changed (SIGHUP, an operator's word).
    pub fn poke(&self) {
        let _ = self.tell.send(Message::Poke);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.tell.send(Message::Stop);
    }
}

/// Calls `on_dirty`, on a thread of its own, after each complete change of what `list` names, and once at the start, so
/// that a change between the first reading and the watch is not lost. `list` is asked again each time; a call may be one
/// too many (a file new in the list), never one too few.
pub fn watch(
    list: impl Fn() -> Watched + Send + 'static,
    on_dirty: impl Fn() + Send + 'static,
) -> std::io::Result<Watcher> {
    let (tell, hear) = channel();
    let events = tell.clone();
    thread::Builder::new()
        .name("watch".to_owned())
        .stack_size(STACK)
        .spawn(move || Loop::new(list, on_dirty, events).run(&hear))?;
    Ok(Watcher { tell })
}

enum Message {
    Event,
    Poke,
    Stop,
}

struct Loop<L, D> {
    list: L,
    on_dirty: D,
    notify: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    facts: Facts,
    content: Content,
}

impl<L: Fn() -> Watched, D: Fn()> Loop<L, D> {
    fn new(list: L, on_dirty: D, events: Sender<Message>) -> Self {
        let handler = move |event: notify::Result<notify::Event>| {
            // Reading the files is itself an event; anything else, errors included, may be a change.
            if !event.is_ok_and(|e| matches!(e.kind, EventKind::Access(_))) {
                let _ = events.send(Message::Event);
            }
        };
        let notify = notify::recommended_watcher(handler)
            .inspect_err(|error| tracing::warn!(%error, "no file events here: changes are seen by polling"))
            .ok();
        let watched = list();
        let (facts, content) = (facts(&watched), content(&watched));
        Loop { list, on_dirty, notify, folders: BTreeSet::new(), facts, content }
    }

    fn run(mut self, hear: &Receiver<Message>) {
        self.follow();
        let seen = content(&(self.list)());
        self.act(seen);
        loop {
            let forced = match hear.recv_timeout(POLL) {
                Ok(Message::Event) => match settle(hear) {
                    Settled::Quiet => false,
                    Settled::Poked => true,
                    Settled::Stopped => return,
                },
                Ok(Message::Poke) => true,
                Err(RecvTimeoutError::Timeout) if facts(&(self.list)()) == self.facts => {
                    self.follow();
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => false,
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            };
            // Both before the reading: what changes after it must show as a change.
            self.follow();
            self.facts = facts(&(self.list)());
            let seen = self.complete();
            if seen != self.content || forced {
                self.act(seen);
            }
        }
    }

    /// What is built may be of a moment that no reading here saw: if there is other content right after, it is built again,
    /// so that what goes away again is not missed.
    fn act(&mut self, seen: Content) {
        self.content = seen;
        (self.on_dirty)();
        self.follow();
        if content(&(self.list)()) != self.content {
            self.content = self.complete();
            (self.on_dirty)();
            self.follow();
        }
    }

    /// The content once two readings agree, and once a file that was there is back, or has had a second to come back.
    fn complete(&self) -> Content {
        let started = Instant::now();
        let mut last = content(&(self.list)());
        loop {
            thread::park_timeout(AGREE);
            let now = content(&(self.list)());
            let lost =
                self.content.iter().any(|(path, sum)| sum.is_some() && now.get(path).is_some_and(Option::is_none));
            let patience = if lost { LOST } else { UNSTABLE };
            if (now == last && !lost) || started.elapsed() > patience {
                return now;
            }
            last = now;
        }
    }

    /// Watches the folders that matter now: they come and go.
    fn follow(&mut self) {
        let Some(notify) = &mut self.notify else { return };
        let wanted = folders(&(self.list)());
        for gone in self.folders.difference(&wanted) {
            let _ = notify.unwatch(gone);
        }
        // Watching one again is harmless, and needed where a folder was deleted and made anew under the same name.
        let _ = wanted.iter().filter(|folder| notify.watch(folder, RecursiveMode::NonRecursive).is_ok()).count();
        self.folders = wanted;
    }
}

enum Settled {
    Quiet,
    Poked,
    Stopped,
}

/// Waits until events have stopped for a moment, but not for ever.
fn settle(hear: &Receiver<Message>) -> Settled {
    let started = Instant::now();
    let mut poked = false;
    while started.elapsed() < BUSY {
        match hear.recv_timeout(QUIET) {
            Ok(Message::Event) => {}
            Ok(Message::Poke) => poked = true,
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return Settled::Stopped,
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    if poked { Settled::Poked } else { Settled::Quiet }
}

/// Digests by path; `None` for a named file that is not there, and for what a folder lists and nobody can read: a link whose end is
/// away, a pipe.
type Content = BTreeMap<PathBuf, Option<[u8; 32]>>;

fn content(watched: &Watched) -> Content {
    let mut all = Content::new();
    each(watched, &mut |path, named| {
        let regular = fs::metadata(path).is_ok_and(|facts| facts.is_file());
        let sum = regular.then(|| fs::read(path).ok()).flatten().map(|bytes| {
            let mut sum = [0; 32];
            sum.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
            sum
        });
        if named || sum.is_some() || fs::symlink_metadata(path).is_ok() {
            all.insert(path.to_owned(), sum);
        }
    });
    all
}

/// What is cheap to ask of a file, and where its links end.
type Facts = BTreeMap<PathBuf, Option<(PathBuf, Option<SystemTime>, u64, u64)>>;

fn facts(watched: &Watched) -> Facts {
    let mut all = Facts::new();
    each(watched, &mut |path, _| {
        let fact = fs::metadata(path).ok().map(|m| {
            let target = fs::canonicalize(path).unwrap_or_default();
            (target, m.modified().ok(), m.len(), inode(&m))
        });
        all.insert(path.to_owned(), fact);
    });
    all
}

/// Visits named files (`true`), and the files in named folders (`false`), dot files left out.
fn each(watched: &Watched, visit: &mut dyn FnMut(&Path, bool)) {
    watched.files.iter().for_each(|file| visit(file, true));
    let mut file = |path: &Path, is_dir: bool| {
        if !is_dir {
            visit(path, false);
        }
    };
    watched.folders.iter().for_each(|folder| below(folder, 0, &mut file));
    watched.flat.iter().for_each(|folder| below(folder, DEEPEST, &mut file));
}

fn below(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path, bool)) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(MOST_ENTRIES);
    for entry in entries.filter(|e| !e.file_name().as_encoded_bytes().starts_with(b".")) {
        let path = entry.path();
        let is_dir = path.is_dir();
        visit(&path, is_dir);
        if is_dir && depth < DEEPEST {
            below(&path, depth + 1, visit);
        }
    }
}

/// Parents of files and of folders (they may be replaced whole), the folders themselves, and where links lead.
fn folders(watched: &Watched) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for file in &watched.files {
        all.extend(file.parent().map(Path::to_owned));
        all.extend(fs::canonicalize(file).ok().and_then(|target| target.parent().map(Path::to_owned)));
    }
    for folder in watched.folders.iter().chain(&watched.flat) {
        all.extend(folder.parent().map(Path::to_owned));
        all.insert(folder.clone());
    }
    for folder in &watched.folders {
        below(folder, 0, &mut |path, is_dir| {
            if is_dir {
                all.insert(path.to_owned());
            }
        });
    }
    all.retain(|folder| folder.is_dir());
    all
}

#[cfg(unix)]
fn inode(facts: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(facts)
}

#[cfg(not(unix))]
fn inode(_: &fs::Metadata) -> u64 {
    0
}

/// No event for so long: the change is over.
const QUIET: Duration = Duration::from_millis(200);
/// Events without end are looked at all the same.
const BUSY: Duration = Duration::from_millis(600);
/// Between two readings that must agree.
const AGREE: Duration = Duration::from_millis(50);
/// How long a file may be away in the middle of a save.
const LOST: Duration = Duration::from_secs(1);
/// How long content may keep changing before it is acted on as it is.
const UNSTABLE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_secs(2);
/// What is called may run scripts, which nest deep.
const STACK: usize = 16 << 20;
const DEEPEST: usize = 8;
const MOST_ENTRIES: usize = 10_000;
