//! Compiled plugins between starts: only what was sealed is there at the next one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use crate::store::Directory;

struct Kept {
    _dir: tempfile::TempDir,
    directory: Directory,
    code: PathBuf,
}

/// A folder with one file as the engine would write it, sealed.
fn kept() -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(&dir.path().join("data")).unwrap();
    let compiled = directory.compiled().unwrap();
    let inner = compiled.folder().join("modules/engine-1");
    fs::create_dir_all(&inner).unwrap();
    let code = inner.join("abc");
    fs::write(&code, b"machine code").unwrap();
    compiled.seal().unwrap();
    Kept { _dir: dir, directory, code }
}

#[test]
fn what_was_sealed_is_there_at_the_next_start_and_private() {
    let kept = kept();
    let again = kept.directory.compiled().unwrap();
    assert_eq!(fs::read(&kept.code).unwrap(), b"machine code");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(again.folder()), 0o700);
    assert_eq!(mode(&kept.code), 0o600);
    assert_eq!(mode(&kept.directory.path().join("compiled.sums")), 0o600);
}

#[test]
fn a_file_that_changed_is_removed_before_anybody_reads_it() {
    for changed in [&b"machinE code"[..], b"machine cod", b""] {
        let kept = kept();
        fs::write(&kept.code, changed).unwrap();
        kept.directory.compiled().unwrap();
        assert!(!kept.code.exists());
    }
}

#[test]
fn what_takes_the_place_of_a_removed_file_is_sealed_with_its_own_sum() {
    let kept = kept();
    fs::write(&kept.code, b"changed code").unwrap();
    let compiled = kept.directory.compiled().unwrap();
    // The engine makes it anew, with other bytes.
    fs::write(&kept.code, b"other machine code").unwrap();
    compiled.seal().unwrap();
    kept.directory.compiled().unwrap();
    assert_eq!(fs::read(&kept.code).unwrap(), b"other machine code");
    assert_eq!(fs::metadata(&kept.code).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_the_engine_is_still_writing_is_not_sealed_and_goes_at_the_next_start() {
    let kept = kept();
    let compiled = kept.directory.compiled().unwrap();
    let (half, mark) = (kept.code.with_extension("wip-atomic-write-mod"), compiled.folder().join(".cleanup.wip-17"));
    fs::write(&half, b"half of it").unwrap();
    fs::write(&mark, b"").unwrap();
    fs::write(kept.code.with_file_name("def"), b"new code").unwrap();
    compiled.seal().unwrap();
    let sums = fs::read_to_string(kept.directory.path().join("compiled.sums")).unwrap();
    assert!(sums.lines().count() == 2 && !sums.contains("wip"), "{sums}");
    kept.directory.compiled().unwrap();
    assert!(!half.exists() && !mark.exists() && kept.code.exists());
}

#[test]
fn a_file_that_nobody_sealed_and_a_link_are_removed() {
    let kept = kept();
    let (stranger, link) = (kept.code.with_file_name("def"), kept.code.with_file_name("ghi"));
    fs::write(&stranger, b"other code").unwrap();
    let elsewhere = kept.directory.path().join("elsewhere");
    fs::write(&elsewhere, b"machine code").unwrap();
    symlink(&elsewhere, &link).unwrap();
    // A link in the place of a known file, too.
    fs::remove_file(&kept.code).unwrap();
    symlink(&elsewhere, &kept.code).unwrap();
    kept.directory.compiled().unwrap();
    assert!(!stranger.exists() && link.symlink_metadata().is_err() && kept.code.symlink_metadata().is_err());
    assert!(elsewhere.exists());
}

#[test]
fn sealing_again_believes_no_change_of_a_known_file() {
    let kept = kept();
    let compiled = kept.directory.compiled().unwrap();
    fs::write(&kept.code, b"changed code").unwrap();
    fs::write(kept.code.with_file_name("def"), b"new code").unwrap();
    compiled.seal().unwrap();
    kept.directory.compiled().unwrap();
    assert!(!kept.code.exists());
    assert!(kept.code.with_file_name("def").exists());
}

#[test]
fn a_folder_that_others_could_write_to_is_made_anew() {
    let kept = kept();
    let folder = kept.directory.path().join("compiled");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
    kept.directory.compiled().unwrap();
    assert!(!kept.code.exists());
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn broken_sums_know_nothing() {
    for sums in [&b"\xff\xfe"[..], b"abc", b""] {
        let kept = kept();
        fs::write(kept.directory.path().join("compiled.sums"), sums).unwrap();
        kept.directory.compiled().unwrap();
        assert!(!kept.code.exists());
    }
}
