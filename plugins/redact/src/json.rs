//! Just enough JSON: the configuration (an object of strings and lists of strings), and text on its way into and out of
//! JSON strings. Bounded by its input; never recurses.

/// A value of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    List(Vec<String>),
}

/// The members of a JSON object whose values are strings or lists of strings.
pub fn object(text: &str) -> Result<Vec<(String, Value)>, String> {
    let mut reader = Reader { rest: text.trim_start() };
    let mut members = Vec::new();
    reader.expect('{')?;
    while !reader.takes('}') {
        if !members.is_empty() {
            reader.expect(',')?;
        }
        let name = reader.string().ok_or("config: a name is expected")?;
        reader.expect(':')?;
        let value =
            reader.value().ok_or_else(|| ["config.", &name, ": a text or a list of texts is expected"].concat())?;
        members.push((name, value));
    }
    Ok(members)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn takes(&mut self, what: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(what);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, what: char) -> Result<(), String> {
        let missing = || ["config: '", what.encode_utf8(&mut [0; 4]), "' is expected"].concat();
        if self.takes(what) { Ok(()) } else { Err(missing()) }
    }

    fn value(&mut self) -> Option<Value> {
        if !self.takes('[') {
            return self.string().map(Value::Text);
        }
        let mut list = Vec::new();
        while !self.takes(']') {
            if !list.is_empty() && !self.takes(',') {
                return None;
            }
            list.push(self.string()?);
        }
        Some(Value::List(list))
    }

    /// Escapes other than the simple ones do not occur in a configuration's words.
    fn string(&mut self) -> Option<String> {
        if !self.takes('"') {
            return None;
        }
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        loop {
            match chars.next()? {
                (at, '"') => {
                    self.rest = &self.rest[at + 1..];
                    return Some(out);
                }
                (_, '\\') => match chars.next()?.1 {
                    c @ ('"' | '\\' | '/') => out.push(c),
                    _ => return None,
                },
                (_, c) => out.push(c),
            }
        }
    }
}

/// Writes `value` as the inside of a JSON string.
pub fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                out.push_str("\\u00");
                out.push(char::from(if c as u8 >= 16 { b'1' } else { b'0' }));
                out.push(char::from(b"0123456789abcdef"[c as usize & 15]));
            }
            c => out.push(c),
        }
    }
}

/// Where in a JSON text something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    string: bool,
    /// Characters of an escape that are still to come; `u8::MAX`: the one after the backslash.
    escape: u8,
}

impl Place {
    pub fn outside() -> Place {
        Place::default()
    }

    /// Goes on behind `text`.
    pub fn pass(&mut self, text: &str) {
        for byte in text.bytes() {
            match (self.escape, byte) {
                (u8::MAX, b'u') => self.escape = 4,
                (u8::MAX, _) => self.escape = 0,
                (1..=4, _) => self.escape -= 1,
                (_, b'"') => self.string = !self.string,
                (_, b'\\') if self.string => self.escape = u8::MAX,
                _ => {}
            }
        }
    }

    /// Does `text`, which begins at `from`, end inside a string?
    pub fn inside(text: &str, from: Place) -> bool {
        let mut place = from;
        place.pass(text);
        place.string
    }
}

/// A piece of JSON text with the escapes of its strings undone, and the way back to its bytes.
#[derive(Debug)]
pub struct Decoded<'a> {
    raw: &'a str,
    /// Empty when there is nothing to undo.
    text: String,
    /// For each byte of `text`, and its end: where it comes from.
    from: Vec<u32>,
}

impl Decoded<'_> {
    pub fn text(&self) -> &str {
        if self.from.is_empty() { self.raw } else { &self.text }
    }

    /// The byte of the JSON text that byte `at` of the decoded one begins at.
    pub fn raw(&self, at: usize) -> usize {
        self.from.get(at).map_or(at, |from| *from as usize)
    }
}

/// Undoes the escapes of `raw`, which begins at `place`; of a text that is no JSON nothing.
pub fn decode(raw: &str, mut place: Place, json: bool) -> Decoded<'_> {
    let mut decoded = Decoded { raw, text: String::new(), from: Vec::new() };
    if !json || place.escape == 0 && !raw.contains('\\') {
        return decoded;
    }
    let mut at = 0;
    while at < raw.len() {
        let start = at;
        let c = if place.escape > 0 {
            // The rest of an escape that began before.
            at += raw[at..].chars().next().map_or(1, char::len_utf8);
            ' '
        } else if place.string && raw.as_bytes()[at] == b'\\' {
            let (c, length) = unescape(&raw[at..]);
            at += length;
            c
        } else {
            let c = raw[at..].chars().next().unwrap_or(' ');
            at += c.len_utf8();
            c
        };
        place.pass(&raw[start..at]);
        decoded.text.push(c);
        decoded.from.resize(decoded.text.len(), start as u32);
    }
    decoded.from.push(raw.len() as u32);
    decoded
}

/// The character of the escape that `text` begins with, and the escape's length. What is cut off or of no use is a space.
fn unescape(text: &str) -> (char, usize) {
    match text.as_bytes().get(1) {
        None => (' ', 1),
        Some(b'u') => {
            let code = text.get(2..6).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            (code.and_then(char::from_u32).unwrap_or(' '), text.get(..6).map_or(text.len(), str::len))
        }
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(c @ (b'"' | b'\\' | b'/')) => (char::from(*c), 2),
        Some(_) => (' ', 1 + text[1..].chars().next().map_or(0, char::len_utf8)),
    }
}
