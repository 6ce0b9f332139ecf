//! The files beside gateway.toml: scripts, and whatever else it led to. Read once, hashed as read, so that what compiles
//! is what the hash names.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;

use super::Problem;

/// What was read beside gateway.toml itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// Scripts and the tests beside them by name relative to the root, with `/` (`scripts/route.rhai`): all of the
    /// folder scripts/, sub-folders too; and the tests beside plugins (`plugins/redact.test.toml`).
    pub scripts: BTreeMap<String, Arc<str>>,
    /// Prompt templates by name relative to the root (`prompts/support.toml`): those directly in prompts/.
    pub prompts: BTreeMap<String, Arc<str>>,
    /// Plugins by name relative to the root (`plugins/redact.wasm`): those directly in plugins/, and listed ones from
    /// the folders below it.
    pub plugins: BTreeMap<String, Plugin>,
    /// Other files with a say in the configuration: secrets, certificates.
    pub files: Vec<PathBuf>,
    /// gateway.toml itself.
    pub own: Arc<str>,
    /// Other files that are part of the configuration (`catalogue.file`), as they were read, by the name written there.
    pub texts: Vec<(String, Arc<str>)>,
    /// From a version that was kept: what is not here does not exist, whatever lies in the folders.
    pub kept: bool,
    /// Where the tables of gateway.toml stand, by dotted key (`models.smart`): for messages of those who find mistakes
    /// later.
    pub lines: BTreeMap<String, u32>,
}

/// A plugin's file as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// Empty once it is compiled.
    pub bytes: Arc<[u8]>,
    pub size: u64,
    /// Of the bytes: hex, 16 characters.
    pub hash: String,
}

impl Sources {
    /// Scripts directly in scripts/ and plugins directly in plugins/, in file-name order: the pipeline of a
    /// configuration without `[[stages]]`.
    pub fn live(&self) -> Vec<&str> {
        let direct = |name: &&str| name.matches('/').count() == 1;
        let scripts = self.scripts.keys().map(String::as_str).filter(|name| name.ends_with(".rhai"));
        let mut live: Vec<&str> = scripts.chain(self.plugins.keys().map(String::as_str)).filter(direct).collect();
        live.sort_by_key(|name| (name.rsplit('/').next(), *name));
        live
    }

    /// A plugin of the folders below plugins/ that the configuration lists. `Ok(false)`: there is no such file.
    pub fn take_plugin(&mut self, root: &Path, name: &str) -> Result<bool, String> {
        if self.kept {
            return Ok(self.plugins.contains_key(name));
        }
        if !self.plugins.contains_key(name) {
            let path = root.join(name);
            if !path.is_file() {
                return Ok(false);
            }
            self.plugins.insert(name.to_owned(), Plugin::read(&path)?);
            let tests = format!("{}.test.toml", name.trim_end_matches(".wasm"));
            if let Some(cases) =
                text(&root.join(&tests), MOST_BYTES).map_err(|why| format!("has cases: {tests} {why}"))?
            {
                self.scripts.insert(tests, cases.into());
            }
        }
        Ok(true)
    }

    /// Reads scripts/, prompts/ and plugins/ under `root`. A folder that is not there is empty.
    pub fn read(root: &Path, problems: &mut Vec<Problem>) -> Sources {
        let mut sources = Sources::folder(&root.join("scripts"), problems);
        let mut found = Vec::new();
        list(&root.join("prompts"), "prompts", DEEPEST, &mut found, &mut Vec::new());
        for (name, path) in found.drain(..).filter(|(name, _)| name.ends_with(".toml")) {
            match listed(&path) {
                Ok(Some(text)) => drop(sources.prompts.insert(name, text.into())),
                Ok(None) => {}
                Err(message) => problems.push(problem(&name, message)),
            }
        }
        list(&root.join("plugins"), "plugins", DEEPEST, &mut found, &mut Vec::new());
        let tested: Vec<String> =
            found.iter().filter_map(|(name, _)| Some(name.strip_suffix(".wasm")?.to_owned())).collect();
        for (name, path) in &found {
            if name.strip_suffix(".test.toml").is_some_and(|stem| tested.iter().any(|own| own == stem)) {
                match listed(path) {
                    Ok(Some(text)) => drop(sources.scripts.insert(name.clone(), text.into())),
                    Ok(None) => {}
                    Err(message) => problems.push(problem(name, message)),
                }
            }
        }
        for (name, path) in found.into_iter().filter(|(name, _)| name.ends_with(".wasm")) {
            match regular(&path).and_then(|()| Plugin::read(&path)) {
                Ok(plugin) => drop(sources.plugins.insert(name, plugin)),
                // Gone between the listing and the reading.
                Err(_) if fs::symlink_metadata(&path).is_err() => {}
                Err(message) => problems.push(problem(&name, message)),
            }
        }
        sources
    }

    /// Reads any folder as if it were scripts/: to try scripts before they lie there.
    pub fn folder(folder: &Path, problems: &mut Vec<Problem>) -> Sources {
        let mut sources = Sources::default();
        let mut found = Vec::new();
        list(folder, "scripts", 0, &mut found, problems);
        for (name, path) in found {
            if !(name.ends_with(".rhai") || name.ends_with(".test.toml")) {
                continue;
            }
            match listed(&path) {
                Ok(Some(text)) => drop(sources.scripts.insert(name, text.into())),
                // Gone between the listing and the reading: as if it had never been there.
                Ok(None) => {}
                Err(message) => problems.push(problem(&name, message)),
            }
        }
        sources
    }
}

impl Plugin {
    pub fn read(path: &Path) -> Result<Plugin, String> {
        let bytes = bytes(path, MOST_PLUGIN).map_err(|e| match e.kind() {
            io::ErrorKind::FileTooLarge => {
                format!("is larger than the {} MiB that a plugin may have", MOST_PLUGIN >> 20)
            }
            _ => format!("cannot be read: {e}"),
        })?;
        Ok(Plugin::of(bytes.into()))
    }

    pub fn of(bytes: Arc<[u8]>) -> Plugin {
        Plugin { size: bytes.len() as u64, hash: hash([("", &*bytes)]), bytes }
    }
}

/// The text of a file that a folder lists; `None` if it is gone meanwhile.
fn listed(path: &Path) -> Result<Option<String>, String> {
    regular(path)?;
    text(path, MOST_BYTES)
}

/// What a folder lists is meant to be read: a link whose end is away is no stage that was taken out, and a pipe would keep its
/// reader for ever.
fn regular(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(facts) if !facts.is_file() => Err("is neither a file nor a folder".to_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            Err("is a link to a file that is not there: mend it or remove it".to_owned())
        }
        _ => Ok(()),
    }
}

/// A text file of at most `most` bytes; `None` if there is none.
pub fn text(path: &Path, most: u64) -> Result<Option<String>, String> {
    let size = match fs::metadata(path) {
        Ok(facts) if facts.is_dir() => return Err("this is a folder, not a file".to_owned()),
        Ok(facts) => facts.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    if size > most {
        return Err(format!("has {size} bytes; at most {most} are read"));
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    let wrong = |e: std::string::FromUtf8Error| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        format!("is not UTF-8 text (first wrong byte in line {line})")
    };
    String::from_utf8(bytes).map(Some).map_err(wrong)
}

/// A file of any bytes, at most `most` of them.
pub fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large"));
    }
    fs::read(path)
}

/// Of names and contents: hex, 16 characters.
pub fn hash<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut state = digest::Context::new(&digest::SHA256);
    for (name, bytes) in parts {
        for part in [name.as_bytes(), bytes] {
            state.update(&(part.len() as u64).to_be_bytes());
            state.update(part);
        }
    }
    state.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Every file under `folder` by name, dot files left out, links followed.
fn list(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>, problems: &mut Vec<Problem>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return problems.push(problem(prefix, format!("cannot be listed: {e}"))),
    };
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok().map(|e| e.file_name())).collect();
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let Some(name) = name.to_str() else {
            problems.push(problem(prefix, format!("the file name {name:?} is not UTF-8: rename it")));
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}/{name}");
        if found.len() >= MOST_FILES {
            return problems.push(problem(prefix, format!("more than {MOST_FILES} files: move some elsewhere")));
        }
        match path.is_dir() {
            true if depth < DEEPEST => list(&path, &name, depth + 1, found, problems),
            true => problems.push(problem(&name, format!("folders deeper than {DEEPEST} are not read"))),
            false => found.push((name, path)),
        }
    }
}

fn problem(file: &str, message: String) -> Problem {
    Problem { file: file.to_owned(), line: 1, message, excerpt: None }
}

/// Of one script.
const MOST_BYTES: u64 = 1 << 20;
/// Of one plugin: an interpreter with its library has 20 MB.
const MOST_PLUGIN: u64 = 64 << 20;
const MOST_FILES: usize = 2_000;
const DEEPEST: usize = 8;
