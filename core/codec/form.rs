//! A `multipart/form-data` body as it streams by (RFC 7578): which parts it has and where their content stands, at any split of
//! the bytes. Holds no content, only as much as a delimiter or a part's head may take; bytes go on as they came.
//!
//! Strict where parsers differ, because whoever reads the form after us must read the same fields: names are plain, a head has
//! one `content-disposition`, and the form must end with its closing delimiter.

use memchr::memmem::{self, Finder};

use crate::error::{Error, Kind, Result};

/// What was seen, in order; places count from the body's first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A part: its delimiter begins at `from`, its content at `at`.
    Part { name: String, file: bool, from: u64, at: u64 },
    /// The content of the part that was seen last ends here.
    End { at: u64 },
}

pub struct Scanner {
    delimiter: Vec<u8>,
    state: State,
    /// Not looked at yet, or cut in two by the end of a chunk.
    rest: Vec<u8>,
    /// The place of `rest`, two more than in the body: a form begins as if a line had ended before it.
    at: u64,
    /// The place of the last delimiter.
    from: u64,
    parts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter, or in a part's content.
    Content {
        part: bool,
    },
    /// Behind a delimiter: a part's head, or the end.
    Delimited,
    Head,
    Closed,
}

impl Scanner {
    pub fn new(boundary: &str) -> Scanner {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Scanner { delimiter, state: State::Content { part: false }, rest: b"\r\n".to_vec(), at: 0, from: 0, parts: 0 }
    }

    /// Errors (400): it is not a form that everybody would read alike, or has too many parts or too long a head.
    pub fn push(&mut self, bytes: &[u8], seen: &mut Vec<Seen>) -> Result<()> {
        if self.state == State::Closed {
            return Ok(());
        }
        self.rest.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(step) = self.step(used, seen)? {
            used += step;
        }
        if self.state == State::Closed {
            used = self.rest.len();
        }
        self.rest.drain(..used);
        self.at += used as u64;
        Ok(())
    }

    /// The body has ended. Errors: the form has not.
    pub fn finish(&self) -> Result<()> {
        if self.state == State::Closed {
            Ok(())
        } else {
            Err(bad("it ends before its closing delimiter: it was cut off"))
        }
    }

    /// Looks at what stands at `used`; how far it came, or `None` until more bytes are there.
    fn step(&mut self, used: usize, seen: &mut Vec<Seen>) -> Result<Option<usize>> {
        let rest = &self.rest[used..];
        let place = self.at + used as u64;
        match self.state {
            State::Content { part } => {
                let Some(found) = Finder::new(&self.delimiter).find(rest) else {
                    // The beginning of a delimiter may stand at the end.
                    let keep = self.delimiter.len() - 1;
                    return Ok(rest.len().checked_sub(keep).filter(|n| *n > 0));
                };
                self.from = place + found as u64;
                if part {
                    seen.push(Seen::End { at: outside(self.from) });
                }
                self.state = State::Delimited;
                Ok(Some(found + self.delimiter.len()))
            }
            State::Delimited => {
                // Spaces may follow it (RFC 2046, §5.1.1).
                let padding = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
                if padding > MOST_PADDING {
                    return Err(bad("a delimiter is followed by something else than a part"));
                }
                match &rest[padding..] {
                    [] | [_] => Ok(None),
                    [b'-', b'-', ..] => {
                        self.state = State::Closed;
                        Ok(None)
                    }
                    [b'\r', b'\n', ..] => {
                        self.state = State::Head;
                        self.parts += 1;
                        if self.parts > MOST_PARTS {
                            return Err(bad(&format!("it has more than {MOST_PARTS} parts")));
                        }
                        Ok(Some(padding))
                    }
                    _ => Err(bad("a delimiter is followed by something else than a part")),
                }
            }
            State::Head => {
                let end = memmem::find(rest, b"\r\n\r\n");
                if end.unwrap_or(rest.len()) > LONGEST_HEAD {
                    return Err(bad(&format!("a part's head is longer than {LONGEST_HEAD} bytes")));
                }
                let Some(end) = end else { return Ok(None) };
                let (name, file) = head(&rest[..end])?;
                let at = place + end as u64 + 4;
                seen.push(Seen::Part { name, file, from: outside(self.from), at: outside(at) });
                // The line end before the content's first line may be the delimiter's own.
                self.state = State::Content { part: true };
                Ok(Some(end + 4))
            }
            State::Closed => Ok(None),
        }
    }
}

/// A place in the body itself.
fn outside(place: u64) -> u64 {
    place.saturating_sub(2)
}

/// The boundary in a content type. 415: it is no form; 400: the boundary cannot be one.
pub fn boundary(content_type: &str) -> Result<String> {
    let mut words = content_type.split(';').map(str::trim);
    if !words.next().is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/form-data")) {
        return Err(Error::new(
            Kind::UnsupportedMediaType,
            "send this as multipart/form-data, with the file as a part",
        ));
    }
    let value = words.find_map(|w| {
        let (name, value) = w.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim())
    });
    let value = value.ok_or_else(|| bad("its content type names no boundary"))?;
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    // RFC 2046, §5.1.1.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    if value.is_empty() || value.len() > 70 || !value.bytes().all(plain) || value.ends_with(' ') {
        return Err(bad("its boundary must be 1 to 70 plain characters"));
    }
    Ok(value.to_owned())
}

/// A part's name, and whether it is a file.
fn head(lines: &[u8]) -> Result<(String, bool)> {
    let text = std::str::from_utf8(lines).map_err(|_| bad("a part's head is not UTF-8"))?;
    let mut found = None;
    for line in text.split("\r\n").filter(|l| !l.is_empty()) {
        let folded = line.starts_with([' ', '\t']) || line.contains(['\r', '\n', '\0']);
        let Some((name, value)) = line.split_once(':').filter(|_| !folded) else {
            return Err(bad("a part's head has a line that is no header"));
        };
        if name.trim().eq_ignore_ascii_case("content-disposition") && found.replace(value.trim()).is_some() {
            return Err(bad("a part has two content-dispositions"));
        }
    }
    disposition(found.ok_or_else(|| bad("a part has no content-disposition"))?)
}

fn disposition(value: &str) -> Result<(String, bool)> {
    let (kind, mut rest) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(bad("a part is not form-data"));
    }
    let (mut name, mut file) = (None, false);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let Some((key, after)) = rest.split_once('=') else { break };
        let (value, after) = parameter(after.trim_start())?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" if name.is_some() => return Err(bad("a part has two names")),
            "name" => name = Some(plain(value)?),
            "name*" => return Err(bad("a part's name is written in an encoding")),
            "filename" | "filename*" => file = true,
            _ => {}
        }
        rest = after;
    }
    Ok((name.ok_or_else(|| bad("a part has no name"))?, file))
}

/// A value, quoted or not, and what follows it.
fn parameter(text: &str) -> Result<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Ok(text.split_at(text.find(';').unwrap_or(text.len())));
    };
    let mut escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok((&quoted[..at], &quoted[at + 1..])),
            _ => {}
        }
    }
    Err(bad("a part's head has a quote that does not end"))
}

/// Escapes are read differently from one parser to the next.
fn plain(name: &str) -> Result<String> {
    let name = name.trim();
    let odd = |b: u8| b == b'\\' || b == b'"' || b == b'%' || b < b' ';
    if name.is_empty() || name.len() > LONGEST_NAME || name.bytes().any(odd) {
        return Err(bad(&format!("a part's name must be 1 to {LONGEST_NAME} plain characters")));
    }
    Ok(name.to_owned())
}

fn bad(what: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("the form cannot be read: {what}")).with_code("invalid_form")
}

const MOST_PARTS: usize = 256;
const LONGEST_HEAD: usize = 8 << 10;
const LONGEST_NAME: usize = 200;
const MOST_PADDING: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--b1\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nhouse/ears\r\n--b1\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"a;b\\\".wav\"\r\ncontent-type: audio/wav\r\n\r\n\
        \r\n--b\r\n--\r\n--b1 \r\ncontent-disposition: form-data; name=empty\r\n\r\n\r\n--b1--\r\nepilogue";

    fn scan(form: &str, size: usize) -> Result<Vec<(String, bool, String)>> {
        let mut scanner = Scanner::new("b1");
        let mut seen = Vec::new();
        for chunk in form.as_bytes().chunks(size) {
            scanner.push(chunk, &mut seen)?;
            assert!(scanner.rest.len() < LONGEST_HEAD + size + 8);
        }
        scanner.finish()?;
        let mut out = Vec::new();
        for pair in seen.chunks(2) {
            let [Seen::Part { name, file, at, .. }, Seen::End { at: end }] = pair else { unreachable!("{pair:?}") };
            out.push((name.clone(), *file, form[*at as usize..*end as usize].to_owned()));
        }
        Ok(out)
    }

    fn refused(form: &str) -> String {
        let error = scan(form, 7).expect_err("refused");
        assert_eq!((error.status(), error.code()), (400, "invalid_form"));
        error.message.clone()
    }

    #[test]
    fn parts_are_found_at_any_split() {
        for size in 1..FORM.len() + 1 {
            let parts = scan(FORM, size).expect("a form");
            let parts: Vec<_> = parts.iter().map(|(n, f, c)| (n.as_str(), *f, c.as_str())).collect();
            let wanted = [("model", false, "house/ears"), ("file", true, "\r\n--b\r\n--"), ("empty", false, "")];
            assert_eq!(parts, wanted, "pieces of {size}");
        }
    }

    #[test]
    fn a_form_that_was_cut_off_is_no_form() {
        let end = FORM.find("--\r\nepilogue").expect("an end") + 1;
        for at in 0..end {
            assert!(scan(&FORM[..at], 11).is_err(), "{at}");
        }
        assert!(refused(&FORM[..20]).contains("cut off"));
    }

    #[test]
    fn what_parsers_would_read_differently_is_refused() {
        let part = |head: &str| format!("--b1\r\n{head}\r\n\r\nx\r\n--b1--\r\n");
        for (head, why) in [
            ("content-type: text/plain", "no content-disposition"),
            ("content-disposition: form-data; name=a\r\ncontent-disposition: form-data; name=model", "two"),
            ("content-disposition: form-data; name=a; name=model", "two names"),
            ("content-disposition: form-data; name=\"mod\\el\"", "plain"),
            ("content-disposition: form-data; name=\"mo%64el\"", "plain"),
            ("content-disposition: form-data; name*=utf-8''model", "encoding"),
            ("content-disposition: form-data;\r\n name=model", "no header"),
            ("content-disposition: form-data; name=\"model", "quote"),
            ("content-disposition: attachment; name=model", "form-data"),
            ("content-disposition: form-data", "no name"),
        ] {
            assert!(refused(&part(head)).contains(why), "{head}: {}", refused(&part(head)));
        }
        assert!(refused("--b1x\r\n").contains("followed by"));
    }

    #[test]
    fn bombs_are_refused_early() {
        let part = "--b1\r\ncontent-disposition: form-data; name=a\r\n\r\nx\r\n";
        assert!(refused(&part.repeat(5000)).contains("256 parts"));
        let head = format!("--b1\r\nx: {}", "y".repeat(1 << 20));
        assert!(refused(&head).contains("head is longer"));
        let padding = format!("--b1{}", " ".repeat(1 << 16));
        assert!(refused(&padding).contains("followed by"));
        // No delimiter at all: nothing is kept.
        assert!(refused(&"z".repeat(1 << 20)).contains("cut off"));
    }

    #[test]
    fn a_boundary_is_short_and_plain() {
        for good in ["multipart/form-data; boundary=b1", "Multipart/Form-Data; charset=x; Boundary=\"b 1\""] {
            assert!(boundary(good).is_ok(), "{good}");
        }
        assert_eq!(boundary("application/json").expect_err("no form").status(), 415);
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        for bad in
            ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=a\"b", &long]
        {
            assert_eq!(boundary(bad).expect_err("refused").status(), 400, "{bad}");
        }
    }
}
