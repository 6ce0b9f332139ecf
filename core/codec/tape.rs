//! A JSON text read in one pass into a flat list of where its values stand. No tree is built, nothing is copied and nothing hashed:
//! who wants a value reads it from its bytes. The pass checks all that a parser checks, so what is never read is sound, too. It
//! words no errors: what is not as it should be, or is unusual (keys with escapes, deep nesting), is left to the parser.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{envelope::past_number, long, written};

/// The text and its marks: a container's are followed by those of what it holds, a key's by that of its value.
pub struct Tape<'a> {
    text: &'a str,
    marks: Vec<Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    /// Where it begins and ends; a text or a key with its quotes.
    start: u32,
    end: u32,
    /// The mark behind this value and all below it.
    next: u32,
    /// A text with escapes.
    escaped: bool,
}

/// A value on a tape.
#[derive(Clone, Copy)]
pub struct Node<'t> {
    tape: &'t Tape<'t>,
    at: u32,
}

impl<'a> Tape<'a> {
    /// `None`: it is no JSON, or unusual.
    pub fn read(body: &'a [u8]) -> Option<Tape<'a>> {
        let text = simdutf8::basic::from_utf8(body).ok()?;
        u32::try_from(body.len()).ok()?;
        // Few texts have more marks than that.
        let mut reader = Reader { body, at: 0, marks: Vec::with_capacity((body.len() / 12).clamp(16, 512)) };
        reader.value()?;
        reader.space();
        (reader.at == body.len()).then_some(Tape { text, marks: reader.marks })
    }

    pub fn root(&self) -> Node<'_> {
        Node { tape: self, at: 0 }
    }
}

impl<'t> Node<'t> {
    /// As it is written.
    pub fn raw(self) -> &'t str {
        let mark = self.mark();
        &self.tape.text[mark.start as usize..mark.end as usize]
    }

    pub fn is_null(self) -> bool {
        self.raw() == "null"
    }

    pub fn is_object(self) -> bool {
        self.raw().starts_with('{')
    }

    /// What a text says.
    pub fn text(self) -> Option<Cow<'t, str>> {
        let inner = self.raw().strip_prefix('"')?.strip_suffix('"')?;
        if self.mark().escaped { long::resolved(inner.as_bytes()).map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
    }

    /// A whole number that is written in digits alone, unless it is very large.
    pub fn whole(self) -> Option<u64> {
        let raw = self.raw().as_bytes();
        let digits = raw.len() < 19 && raw.iter().all(u8::is_ascii_digit);
        digits.then(|| raw.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    /// Keys and values of an object; nothing of another value.
    pub fn members(self) -> impl Iterator<Item = (&'t str, Node<'t>)> {
        let Node { tape, at } = self;
        let mut key = at + 1;
        let end = if self.is_object() { self.mark().next } else { key };
        std::iter::from_fn(move || {
            (key < end).then(|| {
                let Mark { start, end, .. } = tape.marks[key as usize];
                let value = Node { tape, at: key + 1 };
                key = value.mark().next;
                (&tape.text[start as usize + 1..end as usize - 1], value)
            })
        })
    }

    /// Of a list.
    pub fn items(self) -> Option<impl Iterator<Item = Node<'t>>> {
        let Node { tape, at } = self;
        let (mut item, end) = (at + 1, self.mark().next);
        self.raw().starts_with('[').then(|| {
            std::iter::from_fn(move || {
                (item < end).then(|| {
                    let value = Node { tape, at: item };
                    item = value.mark().next;
                    value
                })
            })
        })
    }

    /// The member of this name: the last one, if there are several.
    pub fn member(self, key: &str) -> Option<Node<'t>> {
        self.members().filter(|(name, _)| *name == key).last().map(|(_, value)| value)
    }

    /// The tree that the parser would make of it.
    pub fn tree(self) -> Value {
        let raw = self.raw();
        match raw.as_bytes().first() {
            Some(b'"') => self.text().map_or(Value::Null, |text| Value::String(text.into_owned())),
            Some(b'{') => {
                let mut map = Map::with_capacity(self.most_members().min(16));
                for (key, value) in self.members() {
                    map.insert(key.to_owned(), value.tree());
                }
                Value::Object(map)
            }
            Some(b'[') => Value::Array(self.items().into_iter().flatten().map(Node::tree).collect()),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') | None => Value::Null,
            // As it is written: nearly all are a few digits, the others are the parser's to take apart.
            Some(_) => match self.whole() {
                Some(number) => number.into(),
                None => serde_json::from_str(raw).unwrap_or_default(),
            },
        }
    }

    /// More it cannot have.
    pub fn most_members(self) -> usize {
        (self.mark().next - self.at) as usize / 2
    }

    fn mark(self) -> Mark {
        self.tape.marks[self.at as usize]
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    marks: Vec<Mark>,
}

impl Reader<'_> {
    /// One value with all below it.
    fn value(&mut self) -> Option<()> {
        // The containers that are open, and whether the last one is an object.
        let (mut open, mut depth, mut object) = ([0u32; MOST_DEPTH], 0, false);
        loop {
            // A value starts here.
            self.space();
            match self.peek()? {
                b'"' => {
                    self.text()?;
                }
                first @ (b'{' | b'[') => {
                    *open.get_mut(depth)? = self.marks.len() as u32;
                    (depth, object) = (depth + 1, first == b'{');
                    self.mark(self.at, false);
                    self.at += 1;
                    self.space();
                    let close = if object { b'}' } else { b']' };
                    if self.peek()? != close {
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // A value ended here: what closes is closed, until the next one.
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.space();
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if object {
                            self.space();
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if object => {}
                    b']' if !object => {}
                    _ => return None,
                }
                self.at += 1;
                depth -= 1;
                self.close(open[depth]);
                object = depth > 0 && self.body[self.marks[open[depth - 1] as usize].start as usize] == b'{';
            }
        }
    }

    /// A mark that begins at `start` and ends here.
    fn mark(&mut self, start: usize, escaped: bool) {
        let next = self.marks.len() as u32 + 1;
        self.marks.push(Mark { start: start as u32, end: self.at as u32, next, escaped });
    }

    fn close(&mut self, container: u32) {
        let next = self.marks.len() as u32;
        let mark = &mut self.marks[container as usize];
        (mark.end, mark.next) = (self.at as u32, next);
    }

    /// A key and its colon. One with escapes is not read here.
    fn key(&mut self) -> Option<()> {
        if self.text()? {
            return None;
        }
        self.space();
        self.byte(b':')
    }

    /// Are there escapes in it?
    #[inline(always)]
    fn text(&mut self) -> Option<bool> {
        let start = self.at;
        self.byte(b'"')?;
        let mut escaped = false;
        loop {
            self.at += written::odd(self.body.get(self.at..)?)?;
            match self.body[self.at] {
                b'"' => {
                    self.at += 1;
                    self.mark(start, escaped);
                    return Some(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.at += long::escape(&self.body[self.at..])?;
                }
                // A control character.
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        self.at = past_number(self.body, start).ok()?;
        self.mark(start, false);
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let start = self.at;
        self.body[start..].starts_with(word).then_some(())?;
        self.at += word.len();
        self.mark(start, false);
        Some(())
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    #[inline(always)]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }
}

/// serde_json stops at 128.
const MOST_DEPTH: usize = 120;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_is_what_the_parser_reads() {
        let long = "The tide ü comes 😀 twice ".repeat(20);
        for text in [
            r#"{"a":1,"b":[true,false,null,"x",{"c":[]},{}],"d":-0.50e+3,"":"\u00e9\ud83d\ude00\n\"\\"}"#.to_owned(),
            " [ 1 , { \"a\" :\t2 } ]\r\n".to_owned(),
            json!({"a": long, "b": format!("{long}\"{long}\n"), "12345678": "1234567", "c": "x".repeat(31)})
                .to_string(),
            r#"{"a":1,"b":2,"a":3}"#.to_owned(),
            r#""alone""#.to_owned(),
            "12".to_owned(),
            "null".to_owned(),
            "[[[[]]]]".to_owned(),
        ] {
            let tape = Tape::read(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            let tree: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(tape.root().tree().to_string(), tree.to_string());
            assert_eq!(tape.root().raw(), text.trim());
            for (key, value) in tree.as_object().into_iter().flatten() {
                assert_eq!(tape.root().member(key).map(Node::tree).as_ref(), Some(value), "{key}");
            }
        }
    }

    /// Every text that is spoilt somewhere is refused, or it is JSON still and reads the same.
    #[test]
    fn what_the_parser_refuses_is_refused() {
        let whole = r#"{"a":[1,-2.5e3,{"b":"c\u00e9\ud83d\ude00\n"}],"d":null,"e":true,"f":false,"g":"long enough to be looked at by stretches, or so"}"#;
        let mut refused = 0;
        for at in 0..whole.len() {
            for spoilt in *b"\"\\{}[],:0-.eu x\x01\xff" {
                let mut text = whole.as_bytes().to_vec();
                text[at] = spoilt;
                for text in [&text[..], &text[..at], &whole.as_bytes()[..at]] {
                    let tree: Option<Value> = serde_json::from_slice(text).ok();
                    let read = Tape::read(text).map(|tape| tape.root().tree());
                    // It may leave things to the parser, never the other way round.
                    assert!(read.is_none() || read == tree, "{}", String::from_utf8_lossy(text));
                    refused += usize::from(tree.is_none());
                    let only_key = tree.is_some() && read.is_none();
                    assert!(!only_key || text.contains(&b'\\'), "{}", String::from_utf8_lossy(text));
                }
            }
        }
        assert!(refused > 1000);
        for deep in [100, 126, 127, 128, 200] {
            let text = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
            let parsed = serde_json::from_str::<Value>(&text).is_ok();
            assert!(parsed || Tape::read(text.as_bytes()).is_none(), "{deep}");
            assert_eq!(Tape::read(text.as_bytes()).is_some(), deep <= MOST_DEPTH);
        }
        for text in [
            "",
            " ",
            "nul",
            "01",
            "1.",
            "-",
            "+1",
            "1e",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "\"a",
            "\"\\x\"",
            "[1]x",
            "\u{feff}1",
        ] {
            assert!(Tape::read(text.as_bytes()).is_none(), "{text}");
        }
    }
}
