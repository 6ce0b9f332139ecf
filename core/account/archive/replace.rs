//! Another file in the place of an hour's lines. It is made beside them and takes their place only when somebody says that it
//! counts; whatever ends the process in between, one of both is there, whole.
//!
//! ```text
//! 2026-11-25T21.rerated      the lines as they are to be
//! ```

use std::io::Write;

use super::{Files, Hour, Result, close, closing_name, frames_name, index_name, plain_name};

/// Writes the new lines. Nothing else is touched.
pub fn make(files: &Files, hour: Hour, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    files.make(&name(hour), write)
}

/// The new lines count: the others go. Safe to repeat at any point.
pub fn finish(files: &Files, hour: Hour) -> Result<()> {
    if files.read(&name(hour))?.is_some() {
        for old in [plain_name(hour), closing_name(hour), frames_name(hour), index_name(hour)] {
            files.remove(&old)?;
        }
        files.rename(&name(hour), &closing_name(hour))?;
    }
    close(files, hour)
}

/// Files that never came to count.
pub fn forget(files: &Files) -> Result<()> {
    for name in files.names()?.iter().filter(|name| name.ends_with(KIND)) {
        files.remove(name)?;
    }
    Ok(())
}

fn name(hour: Hour) -> String {
    format!("{hour}{KIND}")
}

const KIND: &str = ".rerated";
