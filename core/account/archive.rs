//! The files of the ledger, by hour: the running hour's plain lines, and for a closed hour frames of compressed lines with
//! an index beside them. A place in an hour is counted in bytes of plain lines, whatever form they lie in.
//!
//! ```text
//! 2026-11-25T22.jsonl        lines as they were appended
//! 2026-11-25T21.closing      the same, on their way into frames
//! 2026-11-25T21.jsonl.zst    zstd frames of whole lines
//! 2026-11-25T21.index        where each frame begins, and in which one an id stands
//! ```
//!
//! Closing moves in steps that can each be the last: the plain file gets its second name, frames and index are made and renamed
//! into place, then the second name goes; an index that does not fit is made anew.

use std::io::Write;

pub mod replace;
use super::hour::Hour;
use crate::store::{Files, StoreError, files::Reader};

type Result<T> = std::result::Result<T, StoreError>;

/// One hour's lines, from first to last.
pub struct Lines {
    parts: Vec<Part>,
}

enum Part {
    Plain { reader: Reader, begins: u64 },
    Frames { reader: Reader, index: Index },
}

/// What lies where in a file of frames.
#[derive(Debug, Default)]
struct Index {
    frames: Vec<Frame>,
    /// Ids and their frames, by id.
    ids: Vec<([u8; 16], u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    /// In the file.
    offset: u64,
    len: u32,
    /// In plain lines.
    begins: u64,
    plain: u32,
}

/// Hours of which there is anything, in order.
pub fn hours(files: &Files) -> Result<Vec<Hour>> {
    let names = files.names()?;
    let mut hours: Vec<Hour> = names.iter().filter_map(|name| Hour::parse(name.split_once('.')?.0)).collect();
    hours.dedup();
    Ok(hours)
}

/// Hours with lines that are in no frame yet.
pub fn unclosed(files: &Files) -> Result<Vec<Hour>> {
    let plain = |name: &String| {
        let (hour, kind) = name.split_once('.')?;
        (kind == "jsonl" || kind == "closing").then(|| Hour::parse(hour))?
    };
    let mut hours: Vec<Hour> = files.names()?.iter().filter_map(plain).collect();
    hours.dedup();
    Ok(hours)
}

pub fn plain_name(hour: Hour) -> String {
    format!("{hour}.jsonl")
}

fn closing_name(hour: Hour) -> String {
    format!("{hour}.closing")
}

fn frames_name(hour: Hour) -> String {
    format!("{hour}.jsonl.zst")
}

fn index_name(hour: Hour) -> String {
    format!("{hour}.index")
}

/// Where the running hour's plain file begins: behind what was closed of this hour already.
pub fn closed(files: &Files, hour: Hour) -> Result<u64> {
    let lines = Lines::open(files, hour)?;
    Ok(lines
        .parts
        .iter()
        .map(|part| if matches!(part, Part::Frames { .. }) { part.end() } else { 0 })
        .max()
        .unwrap_or(0))
}

/// Turns an hour's plain lines into frames. Safe to repeat at any point.
pub fn close(files: &Files, hour: Hour) -> Result<()> {
    let (plain, closing) = (plain_name(hour), closing_name(hour));
    if files.read(&closing)?.is_none() {
        match files.read(&plain)? {
            None => return Ok(()),
            Some(reader) if reader.is_empty() => return files.remove(&plain),
            // A row that a crash cut short is not worth a frame.
            Some(_) => drop(files.append(&plain, b'\n')?),
        }
        files.rename(&plain, &closing)?;
    }
    let Some(source) = files.read(&closing)? else { return Ok(()) };
    let old = files.read(&frames_name(hour))?;
    let mut index = match &old {
        Some(reader) => Index::load(files, hour, reader)?,
        None => Index::default(),
    };
    if !index.holds_last(&source)? {
        files.make(&frames_name(hour), |out| index.fill(old.as_ref(), &source, out))?;
    }
    index.sort();
    files.make(&index_name(hour), |out| write(out, &index.bytes()))?;
    files.remove(&closing)
}

/// Hours before `first` are forgotten.
pub fn forget(files: &Files, first: Hour) -> Result<usize> {
    let mut removed = 0;
    for name in files.names()? {
        if name.split_once('.').and_then(|(hour, _)| Hour::parse(hour)).is_some_and(|hour| hour < first) {
            files.remove(&name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

impl Lines {
    pub fn open(files: &Files, hour: Hour) -> Result<Lines> {
        let mut parts = Vec::new();
        let mut end = 0;
        if let Some(reader) = files.read(&frames_name(hour))? {
            let index = Index::load(files, hour, &reader)?;
            end = index.end();
            parts.push(Part::Frames { reader, index });
        }
        for name in [closing_name(hour), plain_name(hour)] {
            let Some(reader) = files.read(&name)? else { continue };
            // Its lines are in the frames already: only the last step of closing was missing.
            if let Some(Part::Frames { index, .. }) = parts.first()
                && name == closing_name(hour)
                && index.holds_last(&reader)?
            {
                continue;
            }
            let begins = end;
            end += reader.len();
            parts.push(Part::Plain { reader, begins });
        }
        Ok(Lines { parts })
    }

    /// Bytes of plain lines.
    pub fn end(&self) -> u64 {
        self.parts.last().map_or(0, Part::end)
    }

    /// Whole lines that end at or before `to`: where they begin, and they. `None`: there are none.
    pub fn before(&self, to: u64) -> Result<Option<(u64, Vec<u8>)>> {
        let Some(part) = self.parts.iter().rev().find(|part| part.begins() < to) else { return Ok(None) };
        let to = to.min(part.end());
        match part {
            Part::Frames { reader, index } => {
                let Some(frame) = index.frames.iter().rev().find(|frame| frame.begins < to) else { return Ok(None) };
                let mut lines = frame.read(reader)?;
                lines.truncate(usize::try_from(to - frame.begins).unwrap_or(usize::MAX));
                Ok(Some((frame.begins, lines)))
            }
            Part::Plain { reader, begins } => {
                let mut size = BLOCK;
                loop {
                    let from = to.saturating_sub(size).max(*begins);
                    let mut block = reader.at(from - begins, usize::try_from(to - from).unwrap_or(usize::MAX))?;
                    if from == *begins {
                        return Ok(Some((from, block)));
                    }
                    // Begin behind a line's end; the whole block may be one line, which then needs a larger one.
                    let inner = block.len().saturating_sub(1);
                    if let Some(at) = memchr::memchr(b'\n', &block[..inner]) {
                        let lines = block.split_off(at + 1);
                        return Ok(Some((from + at as u64 + 1, lines)));
                    }
                    size *= 4;
                }
            }
        }
    }

    /// Whole lines from `from` on: a piece of them, and where the next one begins. `None`: there are no more.
    pub fn after(&self, from: u64) -> Result<Option<(Vec<u8>, u64)>> {
        let Some(part) = self.parts.iter().find(|part| part.end() > from) else { return Ok(None) };
        match part {
            Part::Frames { reader, index } => {
                let Some(frame) = index.frames.iter().find(|frame| frame.end() > from) else { return Ok(None) };
                let mut lines = frame.read(reader)?;
                let skip = usize::try_from(from.saturating_sub(frame.begins)).unwrap_or(usize::MAX).min(lines.len());
                Ok(Some((lines.split_off(skip), frame.end())))
            }
            Part::Plain { reader, begins } => {
                let from = from.max(*begins);
                let mut size = BLOCK;
                loop {
                    let mut block = reader.at(from - begins, usize::try_from(size).unwrap_or(usize::MAX))?;
                    if let Some(end) = memchr::memrchr(b'\n', &block) {
                        block.truncate(end + 1);
                        let next = from + block.len() as u64;
                        return Ok(Some((block, next)));
                    }
                    if from - begins + size >= reader.len() {
                        // A line that is being written, or was cut: nobody has it yet.
                        return Ok(None);
                    }
                    size *= 4;
                }
            }
        }
    }

    /// The line of an id.
    pub fn find(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let Some(key) = key(id.as_bytes()) else { return Ok(None) };
        for part in self.parts.iter().rev() {
            match part {
                Part::Frames { reader, index } => {
                    let Ok(at) = index.ids.binary_search_by(|(known, _)| known.cmp(&key)) else { continue };
                    let Some(frame) = index.frames.get(index.ids[at].1 as usize) else { continue };
                    if let Some(line) = line_of(&frame.read(reader)?, id) {
                        return Ok(Some(line));
                    }
                }
                Part::Plain { begins, .. } => {
                    let mut from = *begins;
                    while let Some((lines, next)) = self.after(from)?.filter(|_| from < part.end()) {
                        if let Some(line) = line_of(&lines, id) {
                            return Ok(Some(line));
                        }
                        from = next;
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Part {
    fn begins(&self) -> u64 {
        match self {
            Part::Plain { begins, .. } => *begins,
            Part::Frames { .. } => 0,
        }
    }

    fn end(&self) -> u64 {
        match self {
            Part::Plain { reader, begins } => begins + reader.len(),
            Part::Frames { index, .. } => index.end(),
        }
    }
}

impl Frame {
    fn end(&self) -> u64 {
        self.begins + u64::from(self.plain)
    }

    fn read(&self, reader: &Reader) -> Result<Vec<u8>> {
        let packed = reader.at(self.offset, self.len as usize)?;
        zstd::bulk::decompress(&packed, self.plain as usize).map_err(failed)
    }
}

impl Index {
    fn end(&self) -> u64 {
        self.frames.last().map_or(0, Frame::end)
    }

    /// From its file, or, when that does not fit, from the frames themselves.
    fn load(files: &Files, hour: Hour, frames: &Reader) -> Result<Index> {
        if let Some(reader) = files.read(&index_name(hour))? {
            let bytes = reader.at(0, usize::try_from(reader.len()).unwrap_or(usize::MAX))?;
            if let Some(index) = Index::parse(&bytes, frames.len()) {
                return Ok(index);
            }
        }
        tracing::warn!(%hour, "the index of these records does not fit them: it is made anew");
        Index::rebuilt(frames)
    }

    fn rebuilt(reader: &Reader) -> Result<Index> {
        let mut index = Index::default();
        let mut offset = 0;
        while offset < reader.len() {
            let head = reader.at(offset, FRAME + zstd::zstd_safe::compress_bound(FRAME))?;
            let len = zstd::zstd_safe::find_frame_compressed_size(&head).ok().filter(|len| *len > 0);
            let Some(len) = len else { break };
            let Ok(lines) = zstd::bulk::decompress(&head[..len], MOST_FRAME) else { break };
            index.add(offset, len, &lines);
            offset += len as u64;
        }
        index.sort();
        Ok(index)
    }

    fn parse(bytes: &[u8], frames_len: u64) -> Option<Index> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let long = |b: &[u8]| b.try_into().ok().map(u64::from_le_bytes);
        let short = |b: &[u8]| b.try_into().ok().map(u32::from_le_bytes);
        if long(take(8)?)? != frames_len {
            return None;
        }
        let (frames, ids) = (short(take(4)?)?, short(take(4)?)?);
        let mut index = Index::default();
        let mut begins = 0;
        for _ in 0..frames {
            let (offset, len, plain) = (long(take(8)?)?, short(take(4)?)?, short(take(4)?)?);
            index.frames.push(Frame { offset, len, begins, plain });
            begins += u64::from(plain);
        }
        for _ in 0..ids {
            index.ids.push((take(16)?.try_into().ok()?, short(take(4)?)?));
        }
        let whole = index.frames.last().is_none_or(|last| last.offset + u64::from(last.len) == frames_len);
        (rest.is_empty() && whole).then_some(index)
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.frames.last().map_or(0, |last| last.offset + u64::from(last.len));
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.ids.len() as u32).to_le_bytes());
        for frame in &self.frames {
            out.extend_from_slice(&frame.offset.to_le_bytes());
            out.extend_from_slice(&frame.len.to_le_bytes());
            out.extend_from_slice(&frame.plain.to_le_bytes());
        }
        for (id, frame) in &self.ids {
            out.extend_from_slice(id);
            out.extend_from_slice(&frame.to_le_bytes());
        }
        out
    }

    /// Copies the old frames and adds those of `source`.
    fn fill(&mut self, old: Option<&Reader>, source: &Reader, out: &mut dyn Write) -> Result<()> {
        let mut offset = 0;
        if let Some(old) = old {
            let end = self.frames.last().map_or(0, |last| last.offset + u64::from(last.len));
            while offset < end {
                let block = old.at(offset, usize::try_from(end - offset).unwrap_or(usize::MAX).min(1 << 20))?;
                write(out, &block)?;
                offset += block.len() as u64;
            }
        }
        let mut from = 0;
        while from < source.len() {
            let mut lines = source.at(from, FRAME)?;
            match memchr::memrchr(b'\n', &lines) {
                Some(end) => lines.truncate(end + 1),
                // A line longer than a frame: a frame of its own, whatever its length.
                None => lines = long_line(source, from)?,
            }
            if lines.is_empty() {
                break;
            }
            let packed = zstd::bulk::compress(&lines, LEVEL).map_err(failed)?;
            write(out, &packed)?;
            self.add(offset, packed.len(), &lines);
            offset += packed.len() as u64;
            from += lines.len() as u64;
        }
        Ok(())
    }

    fn add(&mut self, offset: u64, len: usize, lines: &[u8]) {
        let frame = self.frames.len() as u32;
        let begins = self.end();
        self.frames.push(Frame { offset, len: len as u32, begins, plain: lines.len() as u32 });
        self.ids.extend(lines.split(|b| *b == b'\n').filter_map(id_of).map(|id| (id, frame)));
    }

    fn sort(&mut self) {
        self.ids.sort_unstable();
    }

    /// Does the last line of `plain` stand in these frames already?
    fn holds_last(&self, plain: &Reader) -> Result<bool> {
        let tail = plain.at(plain.len().saturating_sub(BLOCK), BLOCK as usize)?;
        let last = tail.split(|b| *b == b'\n').rfind(|line| !line.is_empty()).and_then(id_of);
        Ok(last.is_some_and(|last| self.ids.iter().any(|(id, _)| *id == last)))
    }
}

fn long_line(source: &Reader, from: u64) -> Result<Vec<u8>> {
    let mut lines = source.at(from, MOST_FRAME)?;
    let end = memchr::memchr(b'\n', &lines).map_or(0, |end| end + 1);
    lines.truncate(end);
    Ok(lines)
}

fn line_of(lines: &[u8], id: &str) -> Option<Vec<u8>> {
    let wanted = format!("{{\"id\":\"{id}\"");
    lines.split(|b| *b == b'\n').find(|line| line.starts_with(wanted.as_bytes())).map(<[u8]>::to_vec)
}

/// Of a row: its id stands first.
fn id_of(line: &[u8]) -> Option<[u8; 16]> {
    key(line.strip_prefix(b"{\"id\":\"")?.get(..36)?)
}

/// `req_` and 32 hex digits.
fn key(id: &[u8]) -> Option<[u8; 16]> {
    let digits = id.strip_prefix(b"req_").filter(|digits| digits.len() == 32)?;
    let mut key = [0; 16];
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(failed)
}

fn failed(error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full(error),
        _ => StoreError::Io { path: "records".into(), source: error },
    }
}

const MAGIC: &[u8; 8] = b"pcindex1";
/// Plain bytes of a frame, about: what one look-up unpacks.
const FRAME: usize = 256 << 10;
/// Of one that holds a single long row.
const MOST_FRAME: usize = 64 << 20;
const BLOCK: u64 = 256 << 10;
const LEVEL: i32 = 3;
