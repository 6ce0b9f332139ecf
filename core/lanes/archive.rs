//! Records on the disk: files that only grow, one sealed record after the other, and where each record stands. Knows no
//! requests and no clock; who writes when is `writer.rs`.
//!
//! ```text
//! responses/0000000042     the oldest have the lowest number; no file is added to after a restart
//!
//! record   "PCR1" | name 16 | expires 8 | sealed 4 | plain 4 | check 8 | the sealed bytes
//! sealed   head's length 4 | head | body; compressed, then AES-256-GCM-SIV, bound to name, expiry and length
//! ```
//!
//! There is no index beside the files: the heads are read once at the start, and what they say is then in memory. So there is
//! nothing that could disagree with the records, and a file that is damaged costs the records from there on in this file. A
//! record that is removed is overwritten with zeros where it stands, its name last: what a kill left half done is found by no
//! name or opens under none.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::Content;
use crate::{
    error,
    seal::{AtRest, Name, rest},
    store::{
        Files, Result, StoreError,
        files::{Appender, Reader},
    },
};

pub struct Archive {
    files: Files,
    rest: Arc<AtRest>,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub segment: u32,
    pub at: u32,
    sealed: u32,
    plain: u32,
    /// In seconds since 1970.
    pub expires: u64,
}

/// What a file was found to hold.
#[derive(Debug, Default)]
pub struct Found {
    pub bytes: u64,
    pub records: Vec<(Name, Place)>,
    /// What follows these records cannot be read.
    pub damaged: bool,
}

/// A record that is ready to be written.
pub struct Record {
    pub bytes: Vec<u8>,
    plain: u32,
}

impl Archive {
    pub fn new(files: Files, rest: Arc<AtRest>) -> Archive {
        Archive { files, rest }
    }

    /// Numbers of the files, the oldest first.
    pub fn segments(&self) -> Result<Vec<u32>> {
        let names = self.files.names()?;
        Ok(names.iter().filter(|name| name.len() == DIGITS).filter_map(|name| name.parse().ok()).collect())
    }

    pub fn begin(&self, segment: u32) -> Result<Appender> {
        self.files.begin(&file_name(segment))
    }

    pub fn remove(&self, segment: u32) -> Result<()> {
        self.files.remove(&file_name(segment))
    }

    /// Compresses and seals.
    pub fn record(&self, name: &Name, expires: u64, content: &Content) -> error::Result<Record> {
        let (packed, plain) = content.pack()?;
        let sealed = self.rest.seal(&bound(name, expires, plain), &packed)?;
        let length = u32::try_from(sealed.len()).map_err(|_| super::content::too_large())?;
        let mut bytes = head(name, expires, length, plain).to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(Record { bytes, plain })
    }

    /// `None`: what stands there does not open.
    pub fn read(&self, name: &Name, place: Place) -> Result<Option<Content>> {
        let Some(file) = self.files.read(&file_name(place.segment))? else { return Ok(None) };
        let sealed = file.at(u64::from(place.at) + HEAD as u64, place.sealed as usize)?;
        let opened = self.rest.open(&bound(name, place.expires, place.plain), sealed);
        Ok(opened.and_then(|packed| Content::unpack(&packed, place.plain)))
    }

    /// Records of one file: their bytes are gone, on the disk, when it returns.
    pub fn erase(&self, segment: u32, places: &[Place]) -> Result<()> {
        let nothing = vec![0; places.iter().map(|place| place.sealed as usize).max().unwrap_or(0)];
        let heads: Vec<_> = places.iter().map(|place| head(&NOBODY, 0, place.sealed, 0)).collect();
        let pieces: Vec<(u64, &[u8])> = places
            .iter()
            .zip(&heads)
            .flat_map(|(place, head)| {
                let at = u64::from(place.at);
                [(at + HEAD as u64, &nothing[..place.sealed as usize]), (at, &head[..])]
            })
            .collect();
        self.files.overwrite(&file_name(segment), &pieces)
    }

    /// Reads every head of a file.
    pub fn scan(&self, segment: u32) -> Result<Found> {
        let Some(file) = self.files.read(&file_name(segment))? else { return Ok(Found::default()) };
        let mut found = Found { bytes: file.len(), ..Found::default() };
        let mut at = 0;
        while at + HEAD as u64 <= file.len() {
            let Some((name, place)) = parse(&file, segment, at)? else {
                found.damaged = true;
                break;
            };
            let next = at + HEAD as u64 + u64::from(place.sealed);
            // A kill cut the last record short: nobody was told that it is kept.
            if next > file.len() {
                break;
            }
            if name != NOBODY {
                found.records.push((name, place));
            }
            at = next;
        }
        Ok(found)
    }
}

impl Place {
    /// Bytes on the disk.
    pub fn size(&self) -> u64 {
        HEAD as u64 + u64::from(self.sealed)
    }

    #[cfg(test)]
    pub fn of(segment: u32, expires: u64) -> Place {
        Place { segment, at: 0, sealed: 100, plain: 100, expires }
    }
}

impl Record {
    /// As it will stand at `at`.
    pub fn place(&self, segment: u32, at: u64, expires: u64) -> Result<Place, StoreError> {
        let sealed = self.bytes.len() - HEAD;
        let (at, sealed) = (u32::try_from(at), u32::try_from(sealed));
        let (Ok(at), Ok(sealed)) = (at, sealed) else {
            return Err(StoreError::TooLarge { size: self.bytes.len(), limit: u32::MAX as usize });
        };
        Ok(Place { segment, at, sealed, plain: self.plain, expires })
    }
}

fn head(name: &Name, expires: u64, sealed: u32, plain: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let (said, check) = head.split_at_mut(HEAD - CHECK);
    said[..4].copy_from_slice(MAGIC);
    said[4..20].copy_from_slice(name);
    said[20..28].copy_from_slice(&expires.to_le_bytes());
    said[28..32].copy_from_slice(&sealed.to_le_bytes());
    said[32..36].copy_from_slice(&plain.to_le_bytes());
    check.copy_from_slice(&digest(&SHA256, said).as_ref()[..CHECK]);
    head
}

/// `None`: this is no head of a record.
fn parse(file: &Reader, segment: u32, at: u64) -> Result<Option<(Name, Place)>> {
    let bytes = file.at(at, HEAD)?;
    let read = || {
        let name: Name = bytes[4..20].try_into().ok()?;
        let expires = u64::from_le_bytes(bytes[20..28].try_into().ok()?);
        let sealed = u32::from_le_bytes(bytes[28..32].try_into().ok()?);
        let plain = u32::from_le_bytes(bytes[32..36].try_into().ok()?);
        let whole = head(&name, expires, sealed, plain)[..] == bytes[..] && sealed as usize >= rest::OVERHEAD;
        whole.then_some((name, Place { segment, at: u32::try_from(at).ok()?, sealed, plain, expires }))
    };
    Ok(read())
}

/// What a sealed record is bound to.
fn bound(name: &Name, expires: u64, plain: u32) -> [u8; 28] {
    let mut bound = [0; 28];
    bound[..16].copy_from_slice(name);
    bound[16..24].copy_from_slice(&expires.to_le_bytes());
    bound[24..].copy_from_slice(&plain.to_le_bytes());
    bound
}

fn file_name(segment: u32) -> String {
    format!("{segment:0DIGITS$}")
}

/// Of a record that was removed.
const NOBODY: Name = [0; 16];
const MAGIC: &[u8; 4] = b"PCR1";
const CHECK: usize = 8;
pub const HEAD: usize = 36 + CHECK;
const DIGITS: usize = 10;
