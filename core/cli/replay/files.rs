//! The gateway's records as they lie on disk, read beside a gateway that may be running: hour by hour, plain or compressed,
//! each request once. And what requests said, where it was kept and the key is there.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{account::bodies::Sealer, cli::serve::BODIES, keyring};

/// Rows, oldest hour first.
pub struct Rows {
    /// Where the files lie.
    pub folder: PathBuf,
    files: std::vec::IntoIter<PathBuf>,
    open: Option<(PathBuf, Box<dyn BufRead>)>,
    /// Closing an hour can leave its last rows in two files.
    known: HashSet<String>,
    /// Lines that are no records.
    pub unreadable: usize,
}

impl Rows {
    pub fn open(path: &Path) -> anyhow::Result<Rows> {
        let meta = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let (folder, files) = if meta.is_dir() {
            let inner = path.join("records");
            let folder = if inner.is_dir() { inner } else { path.to_owned() };
            let mut files: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
            files.retain(|file| rank(file).is_some());
            files.sort_by_key(|file| (hour(file), rank(file)));
            (folder, files)
        } else {
            (path.parent().unwrap_or(Path::new(".")).to_owned(), vec![path.to_owned()])
        };
        if files.is_empty() {
            bail!("{} holds no records: name the folder with files such as 2026-11-25T22.jsonl", path.display());
        }
        Ok(Rows { folder, files: files.into_iter(), open: None, known: HashSet::new(), unreadable: 0 })
    }

    pub fn next_row(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            let Some((file, open)) = &mut self.open else {
                let Some(file) = self.files.next() else { return Ok(None) };
                let open = reader(&file)?;
                self.open = Some((file, open));
                continue;
            };
            let mut line = Vec::new();
            let damaged = || format!("{} is damaged: move it away to go on without it", file.display());
            let read = open.by_ref().take(MOST_LINE).read_until(b'\n', &mut line).with_context(damaged)?;
            if read == 0 {
                self.open = None;
                continue;
            }
            // A row that is being written, or that a crash cut short.
            if line.last() != Some(&b'\n') {
                continue;
            }
            let Ok(row) = serde_json::from_slice::<Value>(&line) else {
                self.unreadable += usize::from(line.len() > 1);
                continue;
            };
            match row["id"].as_str() {
                Some(id) if self.known.insert(id.to_owned()) => return Ok(Some(row)),
                Some(_) => {}
                None => self.unreadable += 1,
            }
        }
    }
}

fn reader(file: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    let told = || format!("{} cannot be read", file.display());
    let open = File::open(file).with_context(told)?;
    if file.extension().is_some_and(|end| end == "zst") {
        return Ok(Box::new(BufReader::new(zstd::stream::read::Decoder::new(open).with_context(told)?)));
    }
    Ok(Box::new(BufReader::new(open)))
}

/// The order of an hour's files; `None`: it holds no records.
fn rank(file: &Path) -> Option<u8> {
    let name = file.file_name()?.to_str()?;
    [".jsonl.zst", ".closing", ".jsonl"].iter().position(|end| name.ends_with(end)).map(|at| at as u8)
}

fn hour(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// What requests said, by id.
pub struct Bodies {
    places: HashMap<String, Place>,
    files: Vec<Mutex<File>>,
    sealer: Option<Sealer>,
}

#[derive(Clone, Copy)]
struct Place {
    file: usize,
    at: u64,
    len: usize,
}

impl Bodies {
    /// Every file of bodies beside the records, and the key that opens them.
    pub fn open(rows: &Rows, key: Option<&Path>) -> anyhow::Result<Bodies> {
        let mut bodies = Bodies { places: HashMap::new(), files: Vec::new(), sealer: None };
        let mut found: Vec<PathBuf> = fs::read_dir(&rows.folder)?.flatten().map(|entry| entry.path()).collect();
        found.retain(|file| file.extension().is_some_and(|end| end == "bodies"));
        found.sort();
        for file in found {
            bodies.add(&file)?;
        }
        if bodies.places.is_empty() {
            return Ok(bodies);
        }
        let beside = super::key_beside(&rows.folder);
        let file = key.unwrap_or(&beside);
        match fs::read_to_string(file).map(Zeroizing::new) {
            Ok(text) => {
                let ring = fs::read_to_string(beside.with_file_name("keyring")).ok();
                let root = keyring::root_of(&text, ring.as_deref());
                let secret = root.map(|root| keyring::derived(&root, BODIES));
                let secret = secret.with_context(|| {
                    format!(
                        "{} is not the master key that these bodies were sealed under (64 hex digits)",
                        file.display()
                    )
                })?;
                bodies.sealer = Sealer::new(&secret);
            }
            Err(e) if key.is_some() => bail!("{} cannot be read: {e}", file.display()),
            // Its records can still be replayed by their facts.
            Err(_) => {}
        }
        Ok(bodies)
    }

    fn add(&mut self, file: &Path) -> anyhow::Result<()> {
        let told = || format!("{} cannot be read", file.display());
        let mut reader = BufReader::new(File::open(file).with_context(told)?);
        let (mut at, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).with_context(told)?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            if let Some(space) = memchr::memchr(b' ', &line)
                && let Ok(id) = std::str::from_utf8(&line[..space])
            {
                let place = Place { file: self.files.len(), at: at + space as u64 + 1, len: read - space - 2 };
                self.places.insert(id.to_owned(), place);
            }
            at += read as u64;
        }
        self.files.push(Mutex::new(reader.into_inner()));
        Ok(())
    }

    pub fn of(&self, id: &str) -> Option<Value> {
        let (place, sealer) = (self.places.get(id)?, self.sealer.as_ref()?);
        let mut sealed = vec![0; place.len];
        let mut file = self.files.get(place.file)?.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(place.at)).ok()?;
        file.read_exact(&mut sealed).ok()?;
        drop(file);
        sealer.open(id, &sealed)
    }
}

/// A record with the longest trace is shorter.
const MOST_LINE: u64 = 64 << 20;
