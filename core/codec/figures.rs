//! What a small object (a usage) says, read from its bytes in one pass: no tree, no table of fields. Knows no names.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::{json::as_u64, written};
use crate::model::{Format, Native, Usage};

/// A usage as `read` understands it, with the object as `format` wrote it.
pub fn usage(format: Format, object: Cow<'_, str>, read: impl Fn(&[u8]) -> Option<Usage>) -> Usage {
    let usage = read(object.as_bytes()).unwrap_or_default();
    Usage { native: Some(Native::new(format, object)), ..usage }
}

/// The same of an object that is a tree.
pub fn usage_of(format: Format, object: &Map<String, Value>, read: impl Fn(&[u8]) -> Option<Usage>) -> Usage {
    usage(format, String::from_utf8(written::object(object)).unwrap_or_default().into(), read)
}

/// Has the object any member?
pub fn tells(object: &str) -> bool {
    object.strip_prefix('{').is_some_and(|members| !members.trim_start().starts_with('}'))
}

/// A member's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure<'a> {
    Whole(u64),
    Null,
    /// Between its quotes, as it is written.
    Text(&'a [u8]),
    /// Its members come next.
    Object,
    /// As it is written: a fraction, a list, `true`.
    Other(&'a [u8]),
}

impl Figure<'_> {
    /// A text without escapes.
    pub fn word(&self) -> Option<&str> {
        match self {
            Figure::Text(text) if !text.contains(&b'\\') => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// A whole number of 0 or more, also one that is written `5.0`.
    pub fn whole(self) -> Option<u64> {
        match self {
            Figure::Whole(number) => Some(number),
            Figure::Other(written) => serde_json::from_slice::<Number>(written).ok().as_ref().and_then(as_u64),
            Figure::Null | Figure::Text(_) | Figure::Object => None,
        }
    }
}

/// Shows every member of `object`, and those of the objects directly in it: the outer key (empty at the top), the key, the
/// value. `None` when the object cannot be read.
pub fn figures<'a>(object: &'a [u8], mut see: impl FnMut(&'a [u8], &'a [u8], Figure<'a>)) -> Option<()> {
    let mut cursor = Cursor { bytes: object, at: 0 };
    cursor.members(b"", &mut see, true)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn members(
        &mut self,
        outer: &'a [u8],
        see: &mut impl FnMut(&'a [u8], &'a [u8], Figure<'a>),
        top: bool,
    ) -> Option<()> {
        self.expect(b'{')?;
        if self.next()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.next()?;
            let key = self.text()?;
            self.next()?;
            self.expect(b':')?;
            match self.next()? {
                b'{' if top => {
                    see(b"", key, Figure::Object);
                    self.members(key, see, false)?;
                }
                _ => see(outer, key, self.figure()?),
            }
            match self.next()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    fn figure(&mut self) -> Option<Figure<'a>> {
        let start = self.at;
        match self.bytes[start] {
            b'"' => return self.text().map(Figure::Text),
            b'{' | b'[' => self.skip()?,
            _ => self.scalar(),
        }
        let written = &self.bytes[start..self.at];
        if written.is_empty() {
            return None;
        }
        // Longer ones might be too large.
        let digits = written.len() < 19 && written.iter().all(u8::is_ascii_digit);
        Some(match written {
            b"null" => Figure::Null,
            _ if digits => Figure::Whole(written.iter().fold(0, |all, digit| all * 10 + u64::from(digit - b'0'))),
            _ if written.starts_with(b"nu") => return None,
            _ => Figure::Other(written),
        })
    }

    /// To the end of a number or a word.
    fn scalar(&mut self) {
        while let Some(b'0'..=b'9' | b'a'..=b'z' | b'E' | b'.' | b'+' | b'-') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// Over a list or an object, by its brackets.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => {
                    self.text()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Between its quotes.
    fn text(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            self.at += written::odd(self.bytes.get(self.at..)?)?;
            match self.bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Some(&self.bytes[start..self.at - 1]);
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    /// The next byte that is no white space.
    fn next(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.bytes.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(object: &str) -> Option<Vec<(String, Figure<'_>)>> {
        let mut seen = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        figures(object.as_bytes(), |outer, key, figure| seen.push((format!("{}/{}", text(outer), text(key)), figure)))?;
        Some(seen)
    }

    #[test]
    fn members_of_two_levels_are_shown() {
        let object =
            r#"{ "a" : 12, "b": {"c":0 , "d": null}, "e":[{"x":"}]\""}], "f\"g":1.5, "h":{}, "i":"t", "j":-1 }"#;
        let seen = read(object).expect("readable");
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["/a", "/b", "b/c", "b/d", "/e", "/f\\\"g", "/h", "/i", "/j"]);
        let figures: Vec<Figure<'_>> = seen.iter().map(|(_, figure)| *figure).collect();
        let other = |written: &'static str| Figure::Other(written.as_bytes());
        assert_eq!(
            figures,
            [
                Figure::Whole(12),
                Figure::Object,
                Figure::Whole(0),
                Figure::Null,
                other("[{\"x\":\"}]\\\"\"}]"),
                other("1.5"),
                Figure::Object,
                Figure::Text(b"t"),
                other("-1"),
            ]
        );
    }

    #[test]
    fn whole_numbers_are_told_from_others() {
        for (written, whole) in [
            ("0", Some(0)),
            ("5.0", Some(5)),
            ("1e3", Some(1000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("99999999999999999999", None),
            ("1.5", None),
            ("-1", None),
            ("null", None),
            ("true", None),
            ("\"7\"", None),
            ("[7]", None),
        ] {
            let object = format!("{{\"a\":{written}}}");
            assert_eq!(read(&object).map(|seen| seen[0].1.whole()), Some(whole), "{written}");
        }
    }

    #[test]
    fn what_is_no_object_is_not_read() {
        for broken in
            ["", "[]", "1", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":}", "{\"a\":1,}", "{\"a\":nul}", "{a:1}"]
        {
            assert_eq!(read(broken), None, "{broken}");
        }
    }
}
