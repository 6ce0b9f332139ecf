//! The start of a store: locked, of our version, whole, and with everything that was ever acknowledged; else what can be
//! saved without losing a change of keys, or a refusal that says what to do. Nothing of the old files is removed: they go
//! aside. A store that is being made becomes the store by one rename, so that a kill leaves the old one or the new one.

use std::{
    fs::{self, File},
    path::Path,
};

use super::{
    Directory, Result, StoreError, Table,
    directory::VERSION,
    export::{self, Header},
    exports, folders, migrate,
    open::{self, Limits, Opened},
    tally::{self, Note, Tally},
};

/// A store that may be used.
pub(super) struct Started {
    pub directory: Directory,
    pub opened: Opened,
    /// Held for as long as the store is used.
    pub lock: File,
    /// What had to be done, for people.
    pub notices: Vec<String>,
}

pub(super) fn start(path: &Path, limits: Limits) -> Result<Started> {
    let (directory, lock, mut notices) = prepare(path, limits)?;
    let noted = known(&directory)?;
    let fault = match first(&directory, noted, limits) {
        Ok(opened) => return Ok(Started { directory, opened, lock, notices }),
        Err(fault) if fault.is_damage() => fault,
        Err(other) => return Err(other),
    };
    let mut hung = matches!(fault, StoreError::Stuck { .. });
    notices.push(recover(&directory, noted, fault, limits, &mut hung)?);
    if hung {
        // The thread that hangs knows the old folder by a name that is the new one's now, and may never rest.
        return Err(StoreError::Recovered { what: notices.join("; ") });
    }
    let opened = complete(&directory, open::attempt(&directory, &directory.sled(), limits)?, noted)?;
    Ok(Started { directory, opened, lock, notices })
}

/// Locked, of our version, with some room, and with the last change of place finished.
fn prepare(path: &Path, limits: Limits) -> Result<(Directory, File, Vec<String>)> {
    let directory = Directory::make(path)?;
    let lock = directory.lock(limits.lock_wait)?;
    let room = |e| match e {
        StoreError::Full(source) => StoreError::NoRoom { path: path.to_owned(), source },
        other => other,
    };
    directory.room().map_err(room)?;
    let notices = migrate::to_current(&directory, migrate::STEPS, VERSION)?;
    finish(&directory, REPLACED)?;
    for unfinished in [NEW, RETRY] {
        folders::remove(&directory.beside(unfinished)).map_err(|e| directory.io(e))?;
    }
    Ok((directory, lock, notices))
}

/// What must be there at least: by the note, and by the newest export.
fn known(directory: &Directory) -> Result<Option<Note>> {
    let noted = directory.note()?;
    let exported = exports::newest(directory).map(|(_, h)| Note { commits: h.commits, keys: Some(h.key_changes) });
    Ok(noted.into_iter().chain(exported).max_by_key(|note| (note.commits, note.keys)))
}

fn first(directory: &Directory, noted: Option<Note>, limits: Limits) -> Result<Opened> {
    if noted.is_some() && !directory.sled().join("db").exists() {
        return Err(directory.damaged("the folder sled is missing or empty"));
    }
    complete(directory, open::attempt(directory, &directory.sled(), limits)?, noted)
}

/// sled takes a damaged end of its log for the end: what was acknowledged must be there.
fn complete(directory: &Directory, opened: Opened, noted: Option<Note>) -> Result<Opened> {
    match noted {
        Some(note) if note.commits > opened.tally.commits => {
            let missing = note.commits - opened.tally.commits;
            Err(directory.damaged(format!("{missing} acknowledged writes are missing")))
        }
        _ => Ok(opened),
    }
}

/// Puts a whole store in the place of the damaged one and says how, or refuses.
fn recover(
    directory: &Directory,
    noted: Option<Note>,
    fault: StoreError,
    limits: Limits,
    hung: &mut bool,
) -> Result<String> {
    let reason = fault.reason();
    let failed = |e| directory.io(e);
    if directory.sled().join("db").exists() {
        let retry = directory.beside(RETRY);
        folders::copy(&directory.sled(), &retry, &|name| !name.starts_with("snap.")).map_err(failed)?;
        match open::attempt(directory, &retry, limits).and_then(|opened| complete(directory, opened, noted)) {
            Ok(opened) => {
                drop(opened);
                let aside = promote(directory, RETRY, DAMAGED)?;
                return Ok(format!(
                    "the store was damaged ({reason}) and was rebuilt from its log; nothing is missing. The damaged files \
                     are in {aside}"
                ));
            }
            Err(e) if e.is_damage() => *hung |= matches!(e, StoreError::Stuck { .. }),
            Err(other) => return Err(other),
        }
    }
    let Some((path, header)) = exports::newest(directory) else {
        return Err(directory.damaged(format!("{reason}; there is no export to restore")));
    };
    let what = format!("the export of {} ({})", header.created, path.display());
    // An export alone does not tell what came after it.
    let missing = missing(directory.note()?, &header);
    if missing.keys != Some(0) {
        let keys = missing.keys.map_or("an unknown number of changes".into(), |n| plural(n, "change"));
        return Err(directory.damaged(format!(
            "{reason}; {what} lacks {keys} of virtual keys, so it is not taken by itself: `portcullis state import --replace \
             {}` takes it, and keys that were revoked since then must be revoked again",
            path.display()
        )));
    }
    let base = Tally { commits: noted.map_or(header.commits, |n| n.commits.max(header.commits)), ..Tally::default() };
    build(directory, &path, base, limits)
        .map_err(|e| if e.is_damage() { directory.damaged(format!("{reason}; {what}: {}", e.reason())) } else { e })?;
    let aside = promote(directory, NEW, DAMAGED)?;
    let lost = match missing.commits {
        0 => "nothing is missing".to_owned(),
        n => format!(
            "all virtual keys are there; {} of counters and sums after it are missing, so that spend may show too low",
            plural(n, "change")
        ),
    };
    Ok(format!(
        "the store was damaged ({reason}) and was restored from {what}: {lost}. The damaged files are in {aside}"
    ))
}

/// What the store had acknowledged and an export does not have.
struct Missing {
    commits: u64,
    /// `None`: unknown.
    keys: Option<u64>,
}

fn missing(noted: Option<Note>, header: &Header) -> Missing {
    let Some(note) = noted else { return Missing { commits: 0, keys: None } };
    let commits = note.commits.saturating_sub(header.commits);
    let keys = if commits == 0 { Some(0) } else { note.keys.map(|keys| keys.saturating_sub(header.key_changes)) };
    Missing { commits, keys }
}

/// Imports `file` into the stopped data directory `path`. `fits` judges the export's master key check. Says what it did.
pub(super) fn import(
    path: &Path,
    file: &Path,
    replace: bool,
    fits: &dyn Fn(&Directory, &Header) -> Result<()>,
    limits: Limits,
) -> Result<Vec<String>> {
    let (directory, _lock, mut notices) = prepare(path, limits)?;
    let unreadable = |message: String| StoreError::File { path: file.to_owned(), message };
    let input = File::open(file).map_err(|e| unreadable(format!("it cannot be read: {e}")))?;
    let header = export::header(input).map_err(unreadable)?;
    if header.layout != VERSION {
        return Err(unreadable(format!(
            "its rows are of version {}, this gateway reads version {VERSION}: use the gateway version that wrote it",
            header.layout
        )));
    }
    fits(&directory, &header)?;
    let noted = known(&directory);
    if !replace {
        let held = match &noted {
            Ok(None) if !directory.sled().join("db").exists() => Ok(false),
            Ok(noted) => first(&directory, *noted, limits).and_then(|opened| holds_keys(&directory, &opened)),
            Err(_) => Ok(true),
        };
        if !matches!(held, Ok(false)) {
            let message = "the store there has virtual keys, or cannot be read: --replace puts the import in its place and \
                           moves the old store aside";
            return Err(StoreError::File { path: directory.path().to_owned(), message: message.into() });
        }
    }
    // Above everything that was ever noted here, so that the note stays true at every moment of the change.
    let unreadable_note = noted.is_err();
    let noted = noted.ok().flatten();
    let base = Tally {
        commits: noted.map_or(0, |n| n.commits).max(header.commits) + 1,
        keys: noted.and_then(|n| n.keys).unwrap_or(0).max(header.key_changes) + 1,
        ..Tally::default()
    };
    let rows = build(&directory, file, base, limits)?;
    let aside = promote(&directory, NEW, REPLACED)?;
    if unreadable_note {
        // It would refuse the new store, of which it says nothing.
        directory.commits_file(&base)?;
    }
    notices.push(format!("imported {rows} rows of {} (made by {})", header.created, header.gateway));
    if !aside.is_empty() {
        notices.push(format!("the store before is in {aside}"));
    }
    Ok(notices)
}

fn holds_keys(directory: &Directory, opened: &Opened) -> Result<bool> {
    let mut rows = opened.db.scan_prefix(Table::Keys.key(b""));
    rows.next().transpose().map(|row| row.is_some()).map_err(|e| super::commit::failure(directory, e))
}

/// Makes `sled.new` of an export, whole and on the disk. `base`: the counts it begins with. Returns its rows.
fn build(directory: &Directory, file: &Path, base: Tally, limits: Limits) -> Result<u64> {
    let folder = directory.beside(NEW);
    let unreadable = |message: String| StoreError::File { path: file.to_owned(), message };
    let opened = open::attempt(directory, &folder, limits)?;
    let mut tally = base;
    let mut failed = None;
    let mut batch = Vec::new();
    let mut flush = |batch: &mut Vec<(Vec<u8>, Vec<u8>)>| {
        let mut changes = ::sled::Batch::default();
        batch.drain(..).for_each(|(key, value)| changes.insert(key, value));
        opened.db.apply_batch(changes).map_err(|e| failed = Some(e))
    };
    let input = File::open(file).map_err(|e| unreadable(format!("it cannot be read: {e}")))?;
    let header = export::read(input, |table, key, value| {
        let key = table.key(&key);
        if key != tally::key() {
            tally.add(&key, &value);
            batch.push((key, value));
        }
        if batch.len() < BATCH { Ok(()) } else { flush(&mut batch).map_err(|()| "the store took no more".to_owned()) }
    });
    let written = header.map_err(unreadable).and_then(|header| {
        batch.push((tally::key(), Tally { keys: tally.keys.max(header.key_changes), ..tally }.row()));
        flush(&mut batch).map_err(|()| StoreError::Closed)
    });
    if let Some(e) = failed {
        return Err(super::commit::failure(directory, e));
    }
    written?;
    opened.db.flush().map_err(|e| super::commit::failure(directory, e))?;
    drop(opened);
    // Opened once more: what comes next relies on it.
    let again = open::attempt(directory, &folder, limits)?;
    if again.tally.rows != tally.rows {
        return Err(directory.damaged("the new store does not hold what was put in"));
    }
    Ok(again.tally.rows)
}

/// Makes the folder `from` the store; the old one goes aside, and where is returned (empty when there was none).
fn promote(directory: &Directory, from: &str, aside: &str) -> Result<String> {
    let failed = |e| directory.io(e);
    folders::sync_tree(&directory.beside(from)).map_err(failed)?;
    fs::rename(directory.beside(from), directory.beside(READY)).map_err(failed)?;
    directory.sync_entries()?;
    finish(directory, aside)
}

/// The second half of a change of place, also after a kill.
fn finish(directory: &Directory, aside: &str) -> Result<String> {
    let ready = directory.beside(READY);
    if !ready.exists() {
        return Ok(String::new());
    }
    let failed = |e| directory.io(e);
    let mut moved = String::new();
    if directory.sled().exists() {
        let path = directory.dated(aside, "");
        fs::rename(directory.sled(), &path).map_err(failed)?;
        moved = path.display().to_string();
    }
    fs::rename(&ready, directory.sled()).map_err(failed)?;
    directory.sync_entries()?;
    Ok(moved)
}

fn plural(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Being made from an export.
const NEW: &str = "sled.new";
/// A copy without sled's snapshot. Another name: a thread that hangs in one must not meet the other.
const RETRY: &str = "sled.retry";
/// Whole, about to take its place.
const READY: &str = "sled.ready";
const DAMAGED: &str = "sled.damaged";
const REPLACED: &str = "sled.replaced";
const BATCH: usize = 1_000;
