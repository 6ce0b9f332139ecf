//! Promise 37: a data directory of another version is migrated after a backup, or refused.

use std::fs;

use super::{
    migrate::{Step, to_current},
    *,
};

const STEPS: [Step; 2] = [
    Step { from: 1, what: "keys are written in capitals", run: capitals },
    Step { from: 2, what: "nothing more", run: |_| Ok(()) },
];

fn capitals(directory: &Directory) -> Result<()> {
    let path = directory.path().join("sled/rows");
    let text = fs::read_to_string(&path).map_err(|e| directory.io(e))?;
    assert_eq!(text, "rows", "a step begins with what the version before left, however often it is tried");
    fs::write(&path, text.to_uppercase()).map_err(|e| directory.io(e))
}

fn version_1() -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    fs::create_dir(dir.path().join("sled")).unwrap();
    fs::write(dir.path().join("sled/rows"), "rows").unwrap();
    fs::write(dir.path().join("commits"), "7").unwrap();
    fs::create_dir(dir.path().join("export")).unwrap();
    (dir, directory)
}

fn backups(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|n| n.starts_with("backup")).collect();
    names.sort();
    names
}

#[test]
fn every_step_runs_after_a_backup() {
    let (dir, directory) = version_1();
    let done = to_current(&directory, &STEPS, 3).unwrap();
    assert_eq!(done.len(), 2);
    assert!(done[0].contains("from version 1 to 2 (keys are written in capitals)"), "{}", done[0]);
    assert_eq!(directory.version().unwrap(), Some(3));
    assert_eq!(fs::read_to_string(dir.path().join("sled/rows")).unwrap(), "ROWS");
    let backups = backups(dir.path());
    assert_eq!(backups.len(), 2);
    assert!(backups[0].starts_with("backup-v1-") && backups[1].starts_with("backup-v2-"), "{backups:?}");
    let old = dir.path().join(&backups[0]);
    assert_eq!(fs::read_to_string(old.join("sled/rows")).unwrap(), "rows");
    assert_eq!(fs::read_to_string(old.join("version")).unwrap(), "1\n");
    assert!(!old.join("export").exists());
    assert!(to_current(&directory, &STEPS, 3).unwrap().is_empty(), "nothing is left to do");
}

#[test]
fn a_step_that_was_killed_begins_again_from_the_backup() {
    let (dir, directory) = version_1();
    let half: [Step; 1] = [Step {
        from: 1,
        what: "half",
        run: |directory| {
            fs::write(directory.path().join("sled/rows"), "half").unwrap();
            fs::remove_file(directory.path().join("commits")).unwrap();
            Err(directory.damaged("killed"))
        },
    }];
    let message = to_current(&directory, &half, 2).unwrap_err().to_string();
    assert!(message.contains("half") && message.contains("backup-v1"), "{message}");
    assert_eq!(directory.version().unwrap(), Some(1));
    to_current(&directory, &STEPS, 2).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("sled/rows")).unwrap(), "ROWS");
    assert_eq!(fs::read_to_string(dir.path().join("commits")).unwrap(), "7");
}

#[test]
fn a_backup_that_was_left_behind_is_never_taken_for_the_truth_later() {
    let (dir, directory) = version_1();
    to_current(&directory, &STEPS, 2).unwrap();
    let kept = backups(dir.path()).pop().unwrap();
    // As a kill between the new version and the backup's last name leaves it.
    fs::rename(dir.path().join(&kept), dir.path().join("backup-v1")).unwrap();
    to_current(&directory, &STEPS, 2).unwrap();
    assert!(!dir.path().join("backup-v1").exists());
    assert_eq!(backups(dir.path()).len(), 1);
}

#[test]
fn what_no_step_leads_from_is_refused() {
    let (_dir, directory) = version_1();
    for version in [0, 4, 7] {
        directory.set_version(version).unwrap();
        let refused = to_current(&directory, &STEPS, 3).unwrap_err();
        assert!(matches!(refused, StoreError::Version { .. }), "{refused}");
        assert_eq!(directory.version().unwrap(), Some(version));
    }
}
