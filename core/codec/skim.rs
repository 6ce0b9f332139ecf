//! What the gateway must know of an answer that it does not read: the values of a few top-level fields, picked out while the
//! bytes go by, at any split. Works for one JSON value and for a stream of events, whose `data:` lines are such values. Keeps
//! little however long the answer is, and never changes it.

/// A field's value as it stands in the answer; of a stream the last one that was seen.
#[derive(Debug, Default)]
pub struct Skim {
    wanted: &'static [&'static str],
    found: Vec<(&'static str, Vec<u8>)>,
    events: bool,
    line: Line,
    value: Value,
}

/// Where in a stream of events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data:` have matched.
    #[default]
    Start,
    Name(usize),
    Data,
    Other,
}

/// Where in a JSON value.
#[derive(Debug, Default)]
struct Value {
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// A text at the top level is a key until its colon.
    key: Vec<u8>,
    keying: bool,
    /// The field whose value is being kept.
    field: Option<&'static str>,
    kept: Vec<u8>,
    begun: bool,
    whole: bool,
}

impl Skim {
    pub fn new(events: bool, wanted: &'static [&'static str]) -> Skim {
        Skim { wanted, events, ..Skim::default() }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if !self.events {
            self.value.push(bytes, self.wanted, &mut self.found);
            return;
        }
        for line in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            self.piece(line);
        }
    }

    /// The last value of a field.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.found.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_slice())
    }

    /// A text field without its quotes.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.field(name)?.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()
    }

    /// Not a stream: was it one JSON object or list, from its first bracket to its last?
    pub fn whole(&self) -> bool {
        self.value.whole
    }

    /// A line of a stream, or a piece of one.
    fn piece(&mut self, mut bytes: &[u8]) {
        let ends = bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r'));
        while let Line::Start | Line::Name(_) = self.line
            && let Some((first, rest)) = bytes.split_first()
        {
            let at = if let Line::Name(at) = self.line { at } else { 0 };
            self.line = match DATA.get(at) {
                Some(byte) if byte == first && at + 1 == DATA.len() => {
                    self.value = Value::default();
                    Line::Data
                }
                Some(byte) if byte == first => Line::Name(at + 1),
                _ => Line::Other,
            };
            bytes = rest;
        }
        if self.line == Line::Data {
            self.value.push(bytes, self.wanted, &mut self.found);
        }
        if ends {
            self.line = Line::Start;
        }
    }
}

impl Value {
    fn push(&mut self, bytes: &[u8], wanted: &[&'static str], found: &mut Vec<(&'static str, Vec<u8>)>) {
        let mut at = 0;
        while at < bytes.len() {
            // Long texts are skipped quote to quote.
            if self.in_text && !self.escaped && self.field.is_none() && !self.keying {
                match memchr::memchr2(b'"', b'\\', &bytes[at..]) {
                    Some(next) => at += next,
                    None => return,
                }
            }
            self.byte(bytes[at], wanted, found);
            at += 1;
        }
    }

    fn byte(&mut self, byte: u8, wanted: &[&'static str], found: &mut Vec<(&'static str, Vec<u8>)>) {
        if self.in_text {
            if self.escaped {
                self.escaped = false;
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'"' {
                self.in_text = false;
            }
            if self.keying && self.in_text && self.key.len() <= LONGEST_KEY {
                self.key.push(byte);
            }
            return self.keep(byte);
        }
        match byte {
            b'"' => {
                self.in_text = true;
                if self.depth == 1 && self.field.is_none() && !self.begun {
                    self.keying = true;
                    self.key.clear();
                }
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                if self.depth == 1 {
                    self.end(found);
                    self.whole = true;
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 && self.keying => {
                self.keying = false;
                self.begun = true;
                self.field = wanted.iter().find(|w| w.as_bytes() == self.key).copied();
                self.kept.clear();
                return;
            }
            b',' if self.depth == 1 => return self.end(found),
            b' ' | b'\t' | b'\n' | b'\r' => return,
            _ => {}
        }
        self.keep(byte);
    }

    fn keep(&mut self, byte: u8) {
        if self.field.is_some() {
            self.kept.push(byte);
            if self.kept.len() > LONGEST_VALUE {
                self.field = None;
                self.kept = Vec::new();
            }
        }
    }

    /// A field's value is over.
    fn end(&mut self, found: &mut Vec<(&'static str, Vec<u8>)>) {
        self.begun = false;
        self.keying = false;
        let Some(field) = self.field.take() else { return };
        let value = std::mem::take(&mut self.kept);
        match found.iter_mut().find(|(n, _)| *n == field) {
            Some((_, old)) if value != b"null" => *old = value,
            Some(_) => {}
            None => found.push((field, value)),
        }
    }
}

const DATA: &[u8] = b"data:";
/// Of the fields that are looked for.
const LONGEST_KEY: usize = 64;
const LONGEST_VALUE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn skim(body: &str, events: bool, size: usize) -> Skim {
        let mut skim = Skim::new(events, &["usage", "type", "created"]);
        body.as_bytes().chunks(size).for_each(|chunk| skim.push(chunk));
        skim
    }

    #[test]
    fn top_level_fields_are_found_at_any_split() {
        let body = r#" { "created": 17, "data":[{"usage":1,"b64":"a\"}]\\"}], "type" : "x\"y", "usage":{"n":[1,{"m":"}"}]} } "#;
        for size in 1..body.len() {
            let skim = skim(body, false, size);
            assert_eq!(skim.field("usage"), Some(br#"{"n":[1,{"m":"}"}]}"#.as_slice()), "pieces of {size}");
            assert_eq!((skim.field("created"), skim.text("type")), (Some(b"17".as_slice()), Some("x\\\"y")));
            assert!(skim.whole());
        }
        assert!(!skim(&body[..40], false, 9).whole());
        assert!(!skim("<html>", false, 9).whole());
    }

    #[test]
    fn the_last_value_in_a_stream_counts() {
        let body = "event: a\r\ndata: {\"type\":\"a.part\",\"usage\":null}\r\n\r\n: data: {\"type\":\"no\"}\n\n\
                    data:{\"type\":\"a.done\",\"usage\":{\"n\":2}}\n\ndata: [DONE]\n\n";
        for size in 1..body.len() {
            let skim = skim(body, true, size);
            assert_eq!((skim.text("type"), skim.field("usage")), (Some("a.done"), Some(b"{\"n\":2}".as_slice())));
        }
    }

    #[test]
    fn what_is_long_is_not_kept() {
        let body = format!(r#"{{"usage":"{}","type":"t","{}":1}}"#, "x".repeat(1 << 20), "k".repeat(1 << 20));
        let skim = skim(&body, false, 4096);
        assert_eq!((skim.field("usage"), skim.text("type"), skim.whole()), (None, Some("t"), true));
        assert!(skim.value.key.capacity() < 4096 && skim.value.kept.capacity() < 1 << 18);
    }
}
