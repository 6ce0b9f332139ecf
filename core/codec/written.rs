//! JSON as it goes on the wire: byte for byte what serde_json writes, without its look at each byte of a text, of which
//! nearly all are plain. Pure.

use serde_json::{Map, Value};

/// An object's bytes.
pub fn object(map: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::with_capacity(ROOM);
    fields(map, &mut out);
    out
}

pub fn value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        // As it was written.
        Value::Number(number) => out.extend_from_slice(number.as_str().as_bytes()),
        Value::String(string) => text(string, out),
        Value::Array(items) => list(items, out),
        Value::Object(map) => fields(map, out),
    }
}

pub fn list(items: &[Value], out: &mut Vec<u8>) {
    out.push(b'[');
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        value(item, out);
    }
    out.push(b']');
}

fn fields(map: &Map<String, Value>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (n, (key, item)) in map.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        text(key, out);
        out.push(b':');
        value(item, out);
    }
    out.push(b'}');
}

/// With its quotes.
pub fn text(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    escaped(text, out);
    out.push(b'"');
}

/// Without its quotes. Runs of plain bytes go over as they are.
pub fn escaped(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = odd(rest) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            byte => {
                let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// A whole number.
pub fn number(mut number: u64, out: &mut Vec<u8>) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Does it stand in JSON as it is?
pub fn is_plain(text: &str) -> bool {
    odd(text.as_bytes()).is_none()
}

/// Where the first byte stands that cannot stand so. A stretch is looked at as a whole, without a branch a byte.
pub fn odd(bytes: &[u8]) -> Option<usize> {
    let is_odd = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let (stretches, rest) = bytes.as_chunks::<STRETCH>();
    for (n, stretch) in stretches.iter().enumerate() {
        let any = stretch.iter().fold(false, |any, byte| any | (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\'));
        if any {
            return stretch.iter().position(is_odd).map(|at| n * STRETCH + at);
        }
    }
    rest.iter().position(is_odd).map(|at| stretches.len() * STRETCH + at)
}

const STRETCH: usize = 32;
/// Most answers need more, and none less by much.
const ROOM: usize = 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_what_serde_json_writes() {
        let every: String = (0..0x250u32).filter_map(char::from_u32).collect();
        let odds = ['"', '\\', '\n', '\u{1}', '\u{7f}'];
        for length in 0..150 {
            let mut plain = "x".repeat(length);
            // None, one or two of them, at places that change with the length.
            for n in 0..length % 3 {
                plain.insert((length * 7 + n * 31) % (plain.len() + 1), odds[(length + n) % odds.len()]);
            }
            let odd: Value = serde_json::from_str("1.10e3").expect("a number");
            let body = json!({
                "": plain, "k\"\n": [null, true, false, {}, [], odd, -1, 1.5, u64::MAX],
                "every": every, "deep": { "a": [{ "b": "ä€😀" }] },
            });
            let Value::Object(map) = &body else { panic!("an object") };
            assert_eq!(object(map), serde_json::to_vec(&body).expect("written"), "{length}");
            let mut digits = Vec::new();
            number(u64::MAX >> (length % 64), &mut digits);
            assert_eq!(digits, (u64::MAX >> (length % 64)).to_string().into_bytes());
            assert_eq!(is_plain(&plain), serde_json::to_string(&plain).expect("written").len() == plain.len() + 2);
        }
    }
}
