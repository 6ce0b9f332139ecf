//! The whole numbers of a small object (a usage), read from its bytes in one pass: no tree, no table of fields. Knows no
//! names; what is unusual is said, and somebody slower reads it.

/// A member's value, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    Whole(u64),
    Null,
    /// A fraction, a text, a list.
    Other,
}

/// Shows every member of `object`, and those of the objects directly in it: the outer key (empty at the top), the key, the
/// value. `None` when the object cannot be read, or as soon as `see` says so.
pub fn figures<'a>(object: &'a [u8], mut see: impl FnMut(&'a [u8], &'a [u8], Figure) -> Option<()>) -> Option<()> {
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
        see: &mut impl FnMut(&'a [u8], &'a [u8], Figure) -> Option<()>,
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
                b'{' if top => self.members(key, see, false)?,
                _ => {
                    let figure = self.figure()?;
                    see(outer, key, figure)?;
                }
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

    fn figure(&mut self) -> Option<Figure> {
        let start = self.at;
        match self.bytes[start] {
            b'0'..=b'9' => {
                let mut number = 0u64;
                while let Some(digit @ b'0'..=b'9') = self.bytes.get(self.at) {
                    number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
                    self.at += 1;
                }
                if matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E')) {
                    self.scalar();
                    return Some(Figure::Other);
                }
                Some(Figure::Whole(number))
            }
            b'n' => {
                self.scalar();
                (&self.bytes[start..self.at] == b"null").then_some(Figure::Null)
            }
            b'{' | b'[' => self.skip().map(|()| Figure::Other),
            b'"' => self.text().map(|_| Figure::Other),
            _ => {
                self.scalar();
                (self.at > start).then_some(Figure::Other)
            }
        }
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
            match self.bytes.get(self.at)? {
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

    fn read(object: &str) -> Option<Vec<(String, Figure)>> {
        let mut seen = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        figures(object.as_bytes(), |outer, key, figure| {
            seen.push((format!("{}/{}", text(outer), text(key)), figure));
            Some(())
        })?;
        Some(seen)
    }

    #[test]
    fn members_of_two_levels_are_shown() {
        let object =
            r#"{ "a" : 12, "b": {"c":0 , "d": null}, "e":[{"x":"}]\""}], "f\"g":1.5, "h":{}, "i":"t", "j":-1 }"#;
        let seen = read(object).expect("readable");
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["/a", "b/c", "b/d", "/e", "/f\\\"g", "/i", "/j"]);
        let figures: Vec<Figure> = seen.iter().map(|(_, figure)| *figure).collect();
        let other = Figure::Other;
        assert_eq!(figures, [Figure::Whole(12), Figure::Whole(0), Figure::Null, other, other, other, other]);
    }

    #[test]
    fn what_is_no_object_is_not_read() {
        for broken in
            ["", "[]", "1", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":}", "{\"a\":1,}", "{\"a\":nul}", "{a:1}"]
        {
            assert_eq!(read(broken), None, "{broken}");
        }
        assert_eq!(read("{\"a\":99999999999999999999}"), None, "no number of ours");
    }
}
