//! The store's rows as a file of our own, for backups and moves: JSON lines between a header and a trailer with a hash, so
//! that half a file is never taken for one. It holds no key and no secret in plain: virtual keys are hashes under the
//! master key, which is not in it.
//!
//! ```text
//! {"portcullis_state":1,"layout":1,"created":"2026-01-02T03:04:05Z","gateway":"0.1.0","commits":12,"key_changes":3,"master":"<hex>"}
//! {"t":"keys","k":"<base64>","v":"<base64>"}
//! {"rows":1,"sha256":"<hex of all bytes before this line>"}
//! ```

use std::io::{self, BufRead, Read, Write};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use super::{MAX_ROW, Table, hex, tally::Tally};

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Of this format.
    pub portcullis_state: u32,
    /// Of the rows: the data directory's version.
    pub layout: u32,
    pub created: String,
    pub gateway: String,
    /// What the store had taken until then.
    pub commits: u64,
    pub key_changes: u64,
    /// A hash under the master key: an import compares. Absent while no key was ever made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    t: &'a str,
    k: std::borrow::Cow<'a, str>,
    v: std::borrow::Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    rows: u64,
    sha256: String,
}

/// Writes one file: the header, `row` for each row, `finish`.
pub(super) struct Writer<W: Write> {
    out: W,
    hash: digest::Context,
    rows: u64,
    pub bytes: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W, header: &Header) -> io::Result<Writer<W>> {
        let mut writer = Writer { out, hash: digest::Context::new(&digest::SHA256), rows: 0, bytes: 0 };
        writer.line(header)?;
        Ok(writer)
    }

    pub fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.rows += 1;
        self.line(&Line { t: table.name(), k: BASE64.encode(key).into(), v: BASE64.encode(value).into() })
    }

    /// The file, with its trailer.
    pub fn finish(mut self) -> io::Result<(W, u64, u64)> {
        let sha256 = hex::encode(self.hash.clone().finish().as_ref());
        let rows = self.rows;
        self.line(&Trailer { rows, sha256 })?;
        self.out.flush()?;
        Ok((self.out, rows, self.bytes))
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.bytes += line.len() as u64;
        self.out.write_all(&line)
    }
}

/// The header of a file, without a look at the rest.
pub(super) fn header(input: impl Read) -> Result<Header, String> {
    let mut first = Vec::new();
    io::BufReader::new(input.take(MAX_LINE)).read_until(b'\n', &mut first).map_err(|e| e.to_string())?;
    let header: Header =
        serde_json::from_slice(&first).map_err(|_| "this is no export of a gateway's state".to_owned())?;
    if header.portcullis_state != FORMAT {
        return Err(format!(
            "the file is of format {}, this gateway reads format {FORMAT}: use the gateway version that wrote it",
            header.portcullis_state
        ));
    }
    Ok(header)
}

/// Reads a whole file, each row into `row`; the error is a sentence. Nothing of it may be kept unless this ends well.
pub(super) fn read(
    input: impl Read,
    mut row: impl FnMut(Table, Vec<u8>, Vec<u8>) -> Result<(), String>,
) -> Result<Header, String> {
    let mut input = io::BufReader::new(input);
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| -> Result<bool, String> {
        line.clear();
        (&mut input).take(MAX_LINE).read_until(b'\n', line).map_err(|e| format!("it cannot be read: {e}"))?;
        Ok(line.ends_with(b"\n"))
    };
    if !next(&mut line)? {
        return Err("this is no export of a gateway's state".into());
    }
    let found = header(line.as_slice())?;
    hash.update(&line);
    let mut rows = 0;
    loop {
        if !next(&mut line)? {
            return Err("the file is cut short: its last line is missing".into());
        }
        if let Ok(trailer) = serde_json::from_slice::<Trailer>(&line) {
            if trailer.rows != rows || trailer.sha256 != hex::encode(hash.finish().as_ref()) {
                return Err("the file was changed or damaged: its hash does not fit".into());
            }
            return if next(&mut line)? || !line.is_empty() {
                Err("the file goes on after its end".into())
            } else {
                Ok(found)
            };
        }
        hash.update(&line);
        rows += 1;
        let damaged = || format!("line {} is damaged", rows + 1);
        let parsed: Line = serde_json::from_slice(&line).map_err(|_| damaged())?;
        let table = Table::named(parsed.t)
            .ok_or_else(|| format!("line {} is of a table that this gateway does not know: {}", rows + 1, parsed.t))?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| damaged());
        let (key, value) = (decode(&parsed.k)?, decode(&parsed.v)?);
        if key.len() + value.len() >= MAX_ROW {
            return Err(damaged());
        }
        row(table, key, value)?;
    }
}

pub(super) fn header_now(tally: Tally, layout: u32, master: Option<&[u8]>) -> Header {
    Header {
        portcullis_state: FORMAT,
        layout,
        created: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        gateway: env!("CARGO_PKG_VERSION").to_owned(),
        commits: tally.commits,
        key_changes: tally.keys,
        master: master.map(hex::encode),
    }
}

const FORMAT: u32 = 1;
/// A row at its largest, in base64 and with its names.
const MAX_LINE: u64 = 2 * MAX_ROW as u64;
