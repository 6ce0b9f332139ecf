//! What versions were made of, by content: one list a version (its small files stand in it), and a file for each larger one,
//! so that a plugin that did not change is kept once. In the data directory, readable by the gateway's user alone; in memory
//! where nothing is kept. Names are SHA-256, and what is read is held against them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::{
    config::Content,
    store::{self, Directory, Files, StoreError, hex},
};

/// In memory, unless it is opened in a directory.
#[derive(Default)]
pub struct Shelf {
    /// `None`: memory.
    folder: Option<(Files, Directory)>,
    known: Mutex<Known>,
}

/// By name: how large, and in memory the bytes.
type Known = BTreeMap<String, (u64, Option<Arc<[u8]>>)>;

/// Where a version's files are now.
pub struct Kept {
    pub manifest: String,
    pub blobs: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// Of this form: 1.
    format: u32,
    files: BTreeMap<String, Entry>,
}

/// One of both.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Shelf {
    pub fn open(directory: Option<&Directory>) -> store::Result<Shelf> {
        let mut known = BTreeMap::new();
        let folder = match directory {
            None => None,
            Some(directory) => {
                let files = directory.files(FOLDER)?;
                for name in files.names()? {
                    let size = files.read(&name)?.map_or(0, |reader| reader.len());
                    known.insert(name, (size, None));
                }
                Some((files, directory.clone()))
            }
        };
        Ok(Shelf { folder, known: Mutex::new(known) })
    }

    /// On the disk when it returns.
    pub fn put(&self, content: &Content) -> store::Result<Kept> {
        let (mut files, mut blobs) = (BTreeMap::new(), Vec::new());
        for (name, bytes) in &content.files {
            let text = String::from_utf8(bytes.to_vec()).ok().filter(|text| text.len() < INLINE);
            let entry = match text {
                Some(text) => Entry { text: Some(text), sha256: None },
                None => {
                    let sum = self.keep(bytes.clone())?;
                    blobs.push(sum.clone());
                    Entry { text: None, sha256: Some(sum) }
                }
            };
            files.insert(name.clone(), entry);
        }
        if blobs.len() > MOST_BLOBS {
            let message = format!("more than {MOST_BLOBS} files of a version are larger than {} KiB", INLINE >> 10);
            return Err(StoreError::File { path: FOLDER.into(), message });
        }
        let list = serde_json::to_vec(&Manifest { format: FORMAT, files }).unwrap_or_default();
        Ok(Kept { manifest: self.keep(list.into())?, blobs })
    }

    /// The error is half a sentence.
    pub fn get(&self, manifest: &str) -> Result<Content, String> {
        let list: Manifest =
            serde_json::from_slice(&self.read(manifest)?).map_err(|_| "their list is unreadable".to_owned())?;
        if list.format != FORMAT {
            return Err(format!("their list is of format {}, which this gateway does not read", list.format));
        }
        let mut content = Content::default();
        for (name, entry) in list.files {
            let bytes = match entry {
                Entry { text: Some(text), .. } => Arc::from(text.into_bytes()),
                Entry { sha256: Some(sum), .. } => self.read(&sum)?,
                Entry { .. } => return Err("their list is unreadable".to_owned()),
            };
            content.files.insert(name, bytes);
        }
        Ok(content)
    }

    pub fn has(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    pub fn size(&self, name: &str) -> u64 {
        self.lock().get(name).map_or(0, |(size, _)| *size)
    }

    /// Bytes of everything together.
    pub fn most(&self) -> u64 {
        if self.folder.is_some() { MOST_BYTES } else { MOST_MEMORY }
    }

    /// Lets go of all others.
    pub fn retain(&self, used: &BTreeSet<String>) {
        let mut known = self.lock();
        let gone: Vec<String> = known.keys().filter(|name| !used.contains(*name)).cloned().collect();
        for name in gone {
            known.remove(&name);
            if let Some(Err(error)) = self.folder.as_ref().map(|(files, _)| files.remove(&name)) {
                tracing::warn!(%error, "a file of a version that is not kept any more could not be removed");
            }
        }
    }

    fn keep(&self, bytes: Arc<[u8]>) -> store::Result<String> {
        let name = sum(&bytes);
        if self.has(&name) {
            return Ok(name);
        }
        let size = bytes.len() as u64;
        let Some((files, directory)) = &self.folder else {
            self.lock().insert(name.clone(), (size, Some(bytes)));
            return Ok(name);
        };
        let failed = |e: std::io::Error| StoreError::Io { path: directory.path().to_owned(), source: e };
        files.make(&name, |out| out.write_all(&bytes).map_err(failed))?;
        self.lock().insert(name.clone(), (size, None));
        Ok(name)
    }

    fn read(&self, name: &str) -> Result<Arc<[u8]>, String> {
        if let Some((_, Some(bytes))) = self.lock().get(name) {
            return Ok(bytes.clone());
        }
        let Some((files, _)) = &self.folder else { return Err("they were let go".to_owned()) };
        let reader = files.read(name).map_err(|e| e.to_string())?.ok_or("a file is missing")?;
        let bytes = reader.at(0, usize::try_from(reader.len()).unwrap_or(usize::MAX)).map_err(|e| e.to_string())?;
        if sum(&bytes) != name {
            return Err("a file is damaged".to_owned());
        }
        Ok(bytes.into())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

const FOLDER: &str = "versions";
const FORMAT: u32 = 1;
const MOST_BYTES: u64 = 256 << 20;
const MOST_MEMORY: u64 = 32 << 20;
/// Smaller texts stand in the list itself: a file and its sync for each of a hundred scripts would take seconds.
const INLINE: usize = 64 << 10;
/// So that a row, which names them, stays small.
const MOST_BLOBS: usize = 400;
