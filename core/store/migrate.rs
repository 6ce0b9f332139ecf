//! From one version of the data directory to the next: a table of steps, each run after a backup of what it changes. A kill
//! in the middle of a step costs nothing: the next start begins it again from the backup.

use std::{fs, path::PathBuf};

use super::{Directory, Result, StoreError, folders};

/// One version up.
pub(super) struct Step {
    pub from: u32,
    /// For people: "virtual keys carry …".
    pub what: &'static str,
    /// Changes the directory in place; it may find what an earlier try of itself left only in files that the backup does not
    /// hold.
    pub run: fn(&Directory) -> Result<()>,
}

/// Every step there ever was, oldest first. A step is never changed after a release that has it.
pub(super) const STEPS: &[Step] = &[];

/// Brings the directory, which the caller has locked, to version `current`; says what was done.
pub(super) fn to_current(directory: &Directory, steps: &[Step], current: u32) -> Result<Vec<String>> {
    let mut done = Vec::new();
    loop {
        let found = directory.version()?;
        for past in steps.iter().map(|step| step.from).filter(|from| found.is_some_and(|v| v > *from)) {
            // A kill came after the step: a backup by this name would be taken for the truth one day.
            let backup = directory.beside(&unfinished(past));
            if backup.exists() {
                fs::rename(&backup, directory.dated(&unfinished(past), "")).map_err(|e| directory.io(e))?;
            }
        }
        let Some(version) = found.filter(|v| *v != current) else {
            return if found == Some(current) { Ok(done) } else { Err(directory.wrong_version(found)) };
        };
        let step = steps.iter().find(|step| step.from == version && version < current);
        let step = step.ok_or_else(|| directory.wrong_version(found))?;
        let backup = back_up(directory, version)?;
        (step.run)(directory).map_err(|e| StoreError::File {
            path: directory.path().to_owned(),
            message: format!(
                "the step from version {version} to {} ({}) failed: {e}; it begins anew at the next start, from the copy in \
                 {}",
                version + 1,
                step.what,
                backup.display()
            ),
        })?;
        directory.sync()?;
        directory.set_version(version + 1)?;
        let kept = directory.dated(&unfinished(version), "");
        fs::rename(&backup, &kept).map_err(|e| directory.io(e))?;
        directory.sync_entries()?;
        done.push(format!(
            "the data directory was migrated from version {version} to {} ({}); as it was before: {}",
            version + 1,
            step.what,
            kept.display()
        ));
    }
}

/// A copy of what steps may change, whole before it has its name. One that is there already is from a try that did not
/// end: it is the truth, and what lies in its place is not.
fn back_up(directory: &Directory, version: u32) -> Result<PathBuf> {
    let failed = |e| directory.io(e);
    let backup = directory.beside(&unfinished(version));
    if backup.exists() {
        for name in CHANGED {
            let (from, to) = (backup.join(name), directory.beside(name));
            folders::remove(&to).or_else(|_| fs::remove_file(&to)).map_err(failed)?;
            if from.is_dir() {
                folders::copy(&from, &to, &|_| true).map_err(failed)?;
            } else if from.exists() {
                fs::copy(&from, &to).map_err(failed)?;
            }
        }
        directory.sync()?;
        return Ok(backup);
    }
    let fresh = directory.beside(&format!("backup-v{version}.new"));
    folders::remove(&fresh).map_err(failed)?;
    folders::copy(directory.path(), &fresh, &|name| KEPT_OUT.iter().all(|out| !name.starts_with(out)))
        .map_err(failed)?;
    fs::rename(&fresh, &backup).map_err(failed)?;
    directory.sync_entries()?;
    Ok(backup)
}

/// The name of a step's backup until the step is done.
fn unfinished(version: u32) -> String {
    format!("backup-v{version}")
}

/// What a step may change. A step that has to change more adds it here.
const CHANGED: [&str; 2] = ["sled", "commits"];
/// Large, or of no use in a backup.
const KEPT_OUT: [&str; 10] = [
    "export",
    "records",
    "backup-v",
    "sled.damaged",
    "sled.replaced",
    "sled.new",
    "sled.retry",
    "sled.ready",
    "lock",
    "room.probe",
];
