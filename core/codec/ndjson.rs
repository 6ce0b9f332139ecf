//! Newline-delimited JSON as a push machine: bytes in, lines out, at any split. Empty lines are skipped. Reads no JSON.

use crate::error::{Error, Kind, Result};

#[derive(Debug)]
pub struct Decoder {
    line: Vec<u8>,
    limit: usize,
}

impl Decoder {
    /// `limit`: the most bytes one line may have.
    pub fn new(limit: usize) -> Self {
        Decoder { line: Vec::new(), limit }
    }

    /// Calls `each` for every line that `bytes` completes.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.line.is_empty() {
                self.bounded(line.len())?;
                tell(line, &mut each)?;
            } else {
                self.bounded(self.line.len() + line.len())?;
                self.line.extend_from_slice(line);
                let whole = std::mem::take(&mut self.line);
                tell(&whole, &mut each)?;
            }
        }
        self.bounded(self.line.len() + bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// The upstream closed: the last line may lack its end.
    pub fn finish(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        tell(&std::mem::take(&mut self.line), &mut each)
    }

    fn bounded(&self, length: usize) -> Result<()> {
        if length <= self.limit {
            return Ok(());
        }
        Err(Error::new(Kind::Upstream, format!("the upstream sent a stream event over {} bytes", self.limit)))
    }
}

fn tell(line: &[u8], each: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let line = line.trim_ascii();
    if line.is_empty() { Ok(()) } else { each(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Result<Vec<String>> {
        let (mut decoder, mut out) = (Decoder::new(12), Vec::new());
        let mut note = |line: &[u8]| {
            out.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        };
        for piece in pieces {
            decoder.push(piece, &mut note)?;
        }
        decoder.finish(&mut note)?;
        Ok(out)
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let bytes = "{\"a\":1}\r\n\n {\"ü\":2}\n\n3".as_bytes();
        let whole = lines(&[bytes]).expect("lines");
        assert_eq!(whole, ["{\"a\":1}", "{\"ü\":2}", "3"]);
        for at in 0..=bytes.len() {
            assert_eq!(lines(&[&bytes[..at], &bytes[at..]]).expect("lines"), whole, "split at {at}");
        }
    }

    #[test]
    fn a_line_has_a_bound() {
        assert!(lines(&[b"123456789012\n"]).is_ok());
        for pieces in [&[b"1234567890123\n".as_slice()][..], &[b"1234567", b"890123"], &[b"1234567", b"890123\n"]] {
            assert_eq!(lines(pieces).expect_err("too long").kind, Kind::Upstream);
        }
    }
}
