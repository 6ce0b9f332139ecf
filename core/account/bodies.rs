//! What requests and answers said, kept beside their records where `records.bodies` is "sealed": what went upstream after its
//! stages, and what the upstream answered before its stages, so that what a stage took out is not in it. Compressed, sealed
//! under a key of its own with the request's id as bound data, a line each in a file of the hour, gone with that hour's records.
//!
//! Written by the settle task. Nothing here runs for a gateway that keeps no bodies.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{hour::Hour, sheet::Recorded};
use crate::{
    codec::{Dialect, document::Document},
    model::Format,
    store::{Files, Result, files::Appender},
};

/// Of one request, while it runs.
#[derive(Clone, Default)]
pub struct Recording {
    /// Nothing when it is too long to be kept.
    request: Bytes,
    request_len: usize,
    /// Stages changed it.
    staged: bool,
    answer: Option<Heard>,
}

/// What an upstream said.
#[derive(Clone)]
struct Heard {
    format: Format,
    stream: bool,
    pieces: Vec<Bytes>,
    len: usize,
    /// There was more.
    cut: bool,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording(…)")
    }
}

impl Recording {
    /// The request as it goes on to its targets.
    pub fn asked(&mut self, document: &Document) {
        self.staged = !document.dirty().is_empty();
        let changed = self.staged || document.is_kept_here();
        let request = if changed { written(document) } else { document.bytes().clone() };
        self.request_len = request.len();
        self.request = if request.len() > MOST_REQUEST { Bytes::new() } else { request };
    }

    /// An attempt's answer begins: an earlier one's was not delivered.
    pub fn begins(&mut self, format: Format, stream: bool) {
        self.answer = Some(Heard { format, stream, pieces: Vec::new(), len: 0, cut: false });
    }

    pub fn heard(&mut self, bytes: &Bytes) {
        let Some(answer) = &mut self.answer else { return };
        let room = MOST_ANSWER - answer.len;
        let piece = bytes.slice(..bytes.len().min(room));
        answer.cut |= piece.len() < bytes.len();
        answer.len += piece.len();
        if !piece.is_empty() {
            // A small piece of a large buffer would hold all of it.
            answer.pieces.push(Bytes::copy_from_slice(&piece));
        }
    }

    pub(super) fn plain(&self, format: Format) -> Vec<u8> {
        let mut out = Map::new();
        out.insert("format".into(), format.name().into());
        out.insert("staged".into(), self.staged.into());
        match self.request.is_empty() {
            true => drop(out.insert("request_bytes".into(), self.request_len.into())),
            false => drop(out.insert("request".into(), text(&self.request))),
        }
        if let Some(answer) = &self.answer {
            let mut told = Map::new();
            told.insert("format".into(), answer.format.name().into());
            told.insert("stream".into(), answer.stream.into());
            told.insert("cut".into(), answer.cut.into());
            told.insert("body".into(), text(&answer.pieces.concat()));
            out.insert("answer".into(), Value::Object(told));
        }
        Value::Object(out).to_string().into_bytes()
    }
}

/// Bytes that are no text are told as such.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": STANDARD_NO_PAD.encode(bytes) }),
    }
}

/// The same the other way.
pub fn bytes(value: &Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(text.clone().into()),
        value => STANDARD_NO_PAD.decode(value["base64"].as_str()?).ok().map(Bytes::from),
    }
}

fn written(document: &Document) -> Bytes {
    let mut copy = document.clone();
    let dialect = Dialect::of(document.model());
    copy.patch(&dialect, false).map_or_else(|_| Bytes::new(), |(pieces, _)| pieces.concat().into())
}

/// Seals and opens.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// `secret`: derived from the master key for this purpose alone. `None`: never, for a key of the right length.
    pub fn new(secret: &[u8; 32]) -> Option<Sealer> {
        UnboundKey::new(&AES_256_GCM_SIV, secret).ok().map(|key| Sealer(LessSafeKey::new(key)))
    }

    /// A line: the id, and what it says.
    pub(super) fn line(&self, recorded: &Recorded, out: &mut Vec<u8>) -> Option<()> {
        let Recorded { id, format, bodies } = recorded;
        let mut sealed = zstd::bulk::compress(&bodies.plain(*format), LEVEL).ok()?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let bound = Aad::from(bound(id));
        self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut sealed).ok()?;
        out.extend_from_slice(id.as_bytes());
        out.push(b' ');
        out.extend_from_slice(STANDARD_NO_PAD.encode([&nonce[..], &sealed].concat()).as_bytes());
        out.push(b'\n');
        Some(())
    }

    /// What a line of this id says; `None`: it was sealed under another key, for another id, or is damaged.
    pub fn open(&self, id: &str, sealed: &[u8]) -> Option<Value> {
        let mut bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.0.open_in_place(nonce, Aad::from(bound(id)), rest).ok()?;
        let text = zstd::bulk::decompress(plain, MOST_PLAIN).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// What a line is bound to without saying it.
fn bound(id: &str) -> Vec<u8> {
    format!("recorded body\n{id}").into_bytes()
}

/// The running hour's file.
#[derive(Default)]
pub struct Writer {
    hour: Hour,
    file: Option<Appender>,
}

impl Writer {
    /// Seals what a batch brought along. An error: none of it was written.
    pub(super) fn write<'r>(
        &mut self,
        files: &Files,
        sealer: &Sealer,
        hour: Hour,
        batch: impl Iterator<Item = &'r Recorded>,
    ) -> Result<()> {
        let mut lines = Vec::new();
        for recorded in batch {
            if sealer.line(recorded, &mut lines).is_none() {
                tracing::warn!(id = %recorded.id, "what this request said could not be sealed: it is not kept");
            }
        }
        if self.file.is_none() || self.hour != hour {
            self.file = None;
            self.file = Some(files.append(&name(hour), b'\n')?);
            self.hour = hour;
        }
        match &mut self.file {
            Some(file) => file.append(&[&lines]),
            None => Ok(()),
        }
    }

    pub fn let_go(&mut self) {
        self.file = None;
    }
}

/// Lies beside the hour's records, so that it goes with them.
fn name(hour: Hour) -> String {
    format!("{hour}.bodies")
}

/// Sealed lines of an hour by id: what is found of `id`, or every one in order.
pub fn find(files: &Files, hour: Hour, id: &str) -> Result<Option<Vec<u8>>> {
    let mut found = None;
    each(files, hour, &mut |known, sealed| {
        if known == id {
            found = Some(sealed.to_vec());
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Calls `f` with each id and sealed text until it says no.
pub fn each(files: &Files, hour: Hour, f: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<()> {
    let Some(reader) = files.read(&name(hour))? else { return Ok(()) };
    let (mut at, mut rest) = (0, Vec::new());
    while at < reader.len() {
        let left = usize::try_from(reader.len() - at).unwrap_or(usize::MAX);
        let block = reader.at(at, left.min(BLOCK))?;
        if block.is_empty() {
            break;
        }
        at += block.len() as u64;
        rest.extend_from_slice(&block);
        let whole = memchr::memrchr(b'\n', &rest).map_or(0, |end| end + 1);
        for line in rest[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let Some(space) = memchr::memchr(b' ', line) else { continue };
            let Ok(id) = std::str::from_utf8(&line[..space]) else { continue };
            if !f(id, &line[space + 1..]) {
                return Ok(());
            }
        }
        rest.drain(..whole);
    }
    Ok(())
}

/// Of a request: what is longer is told by its length only.
pub(super) const MOST_REQUEST: usize = 1 << 20;
/// Of an answer: what is longer is cut.
pub(super) const MOST_ANSWER: usize = 256 << 10;
/// Both as JSON strings, which can need six bytes for one.
const MOST_PLAIN: usize = 8 * (MOST_REQUEST + MOST_ANSWER);
const BLOCK: usize = 1 << 20;
const LEVEL: i32 = 3;
