//! A body made anew, as the pieces that go on the wire: what is long and needs no escapes (a picture's base64) is a piece
//! of its own and is not copied. Pure.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::written;

/// The body's JSON, in order. One piece, unless it holds long texts.
pub fn pieces(body: Map<String, Value>) -> Vec<Bytes> {
    let body = Value::Object(body);
    let mut measured = Measured::default();
    measured.add(&body);
    if !measured.long {
        // Room for a body that has few escapes: it is written once, and not moved while it grows.
        let mut out = Vec::with_capacity(measured.bytes + measured.bytes / 16);
        written::value(&body, &mut out);
        return vec![Bytes::from(out)];
    }
    let mut out = Pieces::default();
    out.write(body);
    out.cut();
    out.done
}

/// The same, with these texts in the places of their marks, as they stand in JSON between quotes. `None`: not every mark stands
/// there once.
pub fn with_lent(body: Map<String, Value>, lent: Vec<Option<Bytes>>) -> Option<Vec<Bytes>> {
    let mut out = Pieces { lent, ..Pieces::default() };
    out.write(Value::Object(body));
    out.cut();
    (!out.amiss && out.lent.iter().all(Option::is_none)).then_some(out.done)
}

/// The number of the mark that is all of this text.
pub fn marked(text: &str) -> Option<usize> {
    text.strip_prefix(MARK)?.strip_suffix('\0')?.parse().ok()
}

#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    open: Vec<u8>,
    /// Texts whose marks were not found yet.
    lent: Vec<Option<Bytes>>,
    /// A mark stands there twice.
    amiss: bool,
}

impl Pieces {
    /// Each text is let go of when it is written.
    fn write(&mut self, value: Value) {
        match value {
            Value::String(text) => {
                self.open.push(b'"');
                if self.lent.is_empty() || !text.contains(MARK) {
                    self.text(text)
                } else {
                    self.marked(&text)
                }
                self.open.push(b'"');
            }
            Value::Array(list) => {
                self.open.push(b'[');
                for (n, value) in list.into_iter().enumerate() {
                    self.comma(n);
                    self.write(value);
                }
                self.open.push(b']');
            }
            Value::Object(map) => {
                self.open.push(b'{');
                for (n, (key, value)) in map.into_iter().enumerate() {
                    self.comma(n);
                    written::text(&key, &mut self.open);
                    self.open.push(b':');
                    self.write(value);
                }
                self.open.push(b'}');
            }
            plain => written::value(&plain, &mut self.open),
        }
    }

    fn text(&mut self, text: String) {
        if text.len() < LONG {
            written::escaped(&text, &mut self.open);
            if self.open.len() >= PART {
                self.cut();
            }
            return;
        }
        self.cut();
        if written::is_plain(&text) {
            self.done.push(Bytes::from(text));
            return;
        }
        // One with escapes is copied, a part at a time: the parts find room where the model's copy was.
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (part, more) = rest.split_at(rest.floor_char_boundary(PART.min(rest.len())));
            let mut piece = Vec::with_capacity(part.len() + part.len() / 16 + 16);
            written::escaped(part, &mut piece);
            self.done.push(Bytes::from(piece));
            rest = more;
        }
    }

    /// A text that may have marks in it.
    fn marked(&mut self, mut text: &str) {
        while let Some((before, number, after)) = find_mark(text) {
            written::escaped(before, &mut self.open);
            match self.lent.get_mut(number).and_then(Option::take) {
                Some(lent) if lent.len() >= APART => {
                    self.cut();
                    self.done.push(lent);
                }
                Some(lent) => {
                    self.open.extend_from_slice(&lent);
                    if self.open.len() >= PART {
                        self.cut();
                    }
                }
                None => self.amiss = true,
            }
            text = after;
        }
        written::escaped(text, &mut self.open);
    }

    fn comma(&mut self, n: usize) {
        if n > 0 {
            self.open.push(b',');
        }
    }

    fn cut(&mut self) {
        if !self.open.is_empty() {
            self.done.push(Bytes::from(std::mem::take(&mut self.open)));
        }
    }
}

/// About how many bytes a body has, and whether it holds a long text.
#[derive(Default)]
struct Measured {
    bytes: usize,
    long: bool,
}

impl Measured {
    fn add(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                self.bytes += text.len() + 3;
                self.long |= text.len() >= LONG;
            }
            Value::Array(list) => {
                self.bytes += 2;
                list.iter().for_each(|value| self.add(value));
            }
            Value::Object(map) => {
                self.bytes += 2;
                for (key, value) in map {
                    self.bytes += key.len() + 4;
                    self.add(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.bytes += 8,
        }
    }
}

/// What stands before the first mark, its number, and what is behind it.
fn find_mark(text: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = text.split_once(MARK)?;
    let (number, after) = rest.split_once('\0')?;
    Some((before, number.parse().ok()?, after))
}

/// No text that was read has it: its owner looks before.
const MARK: &str = "\0lent ";
/// Shorter ones cost less to copy than to keep apart.
const LONG: usize = 64 << 10;
/// Of what need not be written.
const APART: usize = 16 << 10;
/// How much of a long text is written at a time.
const PART: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pieces_are_the_body_and_long_texts_are_not_copied() {
        let long = "A".repeat(LONG);
        let at = |text: &str| text.as_ptr();
        for (body, count) in [
            (json!({ "a": [1, 2.50, null, true, {}], "b\"": { "c": "d\n" } }), 1),
            (json!({ "a": [long, { "x": long }], "b": "c" }), 5),
            (json!({ "a": format!("{long}\n"), "b": 1 }), 3),
        ] {
            let Value::Object(map) = body.clone() else { panic!("an object") };
            let made = pieces(map);
            assert_eq!((made.len(), made.concat()), (count, body.to_string().into_bytes()));
        }
        // One with escapes, in several parts, cut between characters.
        let body = json!({ "a": "ü\"\n".repeat(PART), "b": [1] });
        let Value::Object(map) = body.clone() else { panic!("an object") };
        let made = pieces(map);
        assert!(made.len() > 4 && made.iter().all(|piece| piece.len() < 2 * PART), "{}", made.len());
        assert_eq!(made.concat(), body.to_string().into_bytes());
        // Texts in the places of their marks, each once.
        let mark = |number: usize| format!("{MARK}{number}\0");
        let short = "a \\\"short\\\" one\\n";
        let body = |a: String, b: String| Map::from_iter([("a".to_owned(), json!([a, { "b": b }]))]);
        let lent = || vec![Some(Bytes::from(long.clone())), Some(Bytes::from(short)), None];
        let whole = format!(r#"{{"a":["data:{long};",{{"b":"{short}"}}]}}"#);
        let made = with_lent(body(format!("data:{};", mark(0)), mark(1)), lent());
        assert_eq!(made.map(|made| made.concat()), Some(whole.into_bytes()));
        for (a, b) in
            [(mark(0), mark(0)), (mark(0), "none".to_owned()), (mark(0), mark(2)), (mark(0), mark(1) + &*mark(1))]
        {
            assert_eq!(with_lent(body(a, b), lent()), None);
        }
        assert_eq!([marked(&mark(7)), marked("\0lent 7"), marked("x")], [Some(7), None, None]);
        let text = long.clone();
        let place = at(&text);
        let made = pieces(Map::from_iter([("data".to_owned(), Value::String(text))]));
        assert_eq!(made.iter().map(|piece| piece.as_ptr()).filter(|p| *p == place).count(), 1, "the same bytes");
        // Numbers are as they were written.
        let odd: Value = serde_json::from_str(&format!(r#"{{"n":1.10,"t":"{long}"}}"#)).expect("json");
        let Value::Object(map) = odd else { panic!("an object") };
        assert!(pieces(map).concat().starts_with(br#"{"n":1.10,"#));
    }
}
