//! Parsing a body that holds a long text with escapes. The JSON parser would build such a text twice, first where it resolves
//! the escapes, in a buffer that doubles as it grows, and then as it is kept. Here each is resolved straight into its place,
//! and the parser sees a mark where it stood. Whatever is not as it should be is left to the parser, which words the error.

use std::ops::Range;

use serde_json::Value;

/// The body's tree; `None`: there is no such text in it, or something is wrong.
pub fn parse(body: &[u8]) -> Option<Value> {
    if body.len() < LONG {
        return None;
    }
    let spans = long_texts(body)?;
    if spans.is_empty() {
        return None;
    }
    let taken: usize = spans.iter().map(Range::len).sum();
    let mut short = Vec::with_capacity(body.len() - taken + spans.len() * (MARK.len() + 12));
    let mut from = 0;
    let mut texts = Vec::with_capacity(spans.len());
    for (n, span) in spans.into_iter().enumerate() {
        // A mark is only one if the body has none of its own.
        if memchr::memmem::find(&body[from..span.start], MARK.as_bytes()).is_some() {
            return None;
        }
        short.extend_from_slice(&body[from..span.start]);
        short.extend_from_slice(format!("\"{MARK}{n}\"").as_bytes());
        from = span.end;
        texts.push(resolved(&body[span.start + 1..span.end - 1])?);
    }
    if memchr::memmem::find(&body[from..], MARK.as_bytes()).is_some() {
        return None;
    }
    short.extend_from_slice(&body[from..]);
    let mut tree = serde_json::from_slice(&short).ok()?;
    put_back(&mut tree, &mut texts);
    Some(tree)
}

/// Where long texts with escapes stand, with their quotes. Keys are none.
fn long_texts(body: &[u8]) -> Option<Vec<Range<usize>>> {
    let (mut at, mut found) = (0, Vec::new());
    while let Some(offset) = memchr::memchr(b'"', &body[at..]) {
        let start = at + offset;
        let mut end = start + 1;
        loop {
            end += memchr::memchr(b'"', &body[end..])?;
            let slashes = body[start + 1..end].iter().rev().take_while(|b| **b == b'\\').count();
            end += 1;
            if slashes.is_multiple_of(2) {
                break;
            }
        }
        at = end;
        if end - start >= LONG
            && memchr::memchr(b'\\', &body[start..end]).is_some()
            && body[end..].iter().find(|b| !b.is_ascii_whitespace()) != Some(&b':')
        {
            found.push(start..end);
        }
    }
    Some(found)
}

fn put_back(value: &mut Value, texts: &mut [String]) {
    match value {
        Value::String(text) => {
            let number = text.strip_prefix(RESOLVED).and_then(|n| n.parse::<usize>().ok());
            if let Some(long) = number.and_then(|n| texts.get_mut(n)) {
                *text = std::mem::take(long);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| put_back(value, texts)),
        Value::Object(map) => map.values_mut().for_each(|value| put_back(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text between its quotes, without its escapes. `None`: it is not valid.
pub fn resolved(raw: &[u8]) -> Option<String> {
    let mut rest = simdutf8::basic::from_utf8(raw).ok()?;
    if raw.iter().any(|b| *b < b' ') {
        return None;
    }
    let mut out = String::with_capacity(raw.len());
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = *rest.as_bytes().get(at + 1)?;
        rest = &rest[at + 1..];
        let plain = match escape {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = unit(rest)?;
                rest = rest.get(4..)?;
                match first {
                    // Half of a character: its other half follows.
                    0xd800..0xdc00 => {
                        rest = rest.get(1..)?.strip_prefix('\\')?;
                        let second = unit(rest).filter(|unit| (0xdc00..0xe000).contains(unit))?;
                        rest = rest.get(4..)?;
                        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?
                    }
                    unit => char::from_u32(unit)?,
                }
            }
            _ => return None,
        };
        out.push(plain);
        rest = rest.get(1..)?;
    }
    out.push_str(rest);
    Some(out)
}

/// How long the escape is at the beginning of this; both halves of a character are one. `None`: it is not valid.
pub fn escape(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => match digits(text.get(2..6)?)? {
            0xd800..0xdc00 => {
                let second = digits(text.get(6..12)?.strip_prefix(b"\\u")?)?;
                (0xdc00..0xe000).contains(&second).then_some(12)
            }
            0xdc00..0xe000 => None,
            _ => Some(6),
        },
        _ => None,
    }
}

fn digits(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

/// The four digits behind the `u` at the beginning.
fn unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('u')?.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok()
}

/// Stands for a long text in what the parser sees, and how the parser reads it.
const MARK: &str = "\\u0000long ";
const RESOLVED: &str = "\0long ";
/// Shorter ones cost less to build twice than to look for.
const LONG: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Long, with all escapes there are.
    fn text(n: usize) -> String {
        format!("{n}: \"q\" \\ / \u{8}\u{c}\n\r\t\u{1} ü 😀 ").repeat(4000)
    }

    #[test]
    fn a_body_reads_as_the_parser_reads_it() {
        let body = json!({"model": "m", "n": [1.50, true, null], "messages": [
            {"role": "user", "content": text(1)}, {"role": "user", "content": [{"type": "text", "text": text(2)}, "short\n"]}],
            "plain": "x".repeat(LONG)});
        let ascii: String = body
            .to_string()
            .chars()
            .map(|c| {
                if c.is_ascii() {
                    c.to_string()
                } else {
                    c.encode_utf16(&mut [0; 2]).iter().map(|u| format!("\\u{u:04X}")).collect()
                }
            })
            .collect();
        for written in [body.to_string(), format!("{body:#}"), ascii] {
            assert_eq!(parse(written.as_bytes()), Some(body.clone()));
        }
    }

    #[test]
    fn everything_else_is_the_parsers() {
        let long = json!(text(1)).to_string();
        for body in [
            r#"{"a":"short\n"}"#.to_owned(),
            format!(r#"{{"a":"{}"}}"#, "x".repeat(LONG)),
            format!(r#"{{"a":{long}"#),
            format!(r#"{{"a":{long},}}"#),
            format!(r#"{{{long}:1}}"#),
            format!(r#"{{"a":{long},"b":"\u0000long 0"}}"#),
            format!(r#"{{"a":"{}\x"}}"#, "x".repeat(LONG)),
            format!(r#"{{"a":"{}\ud800"}}"#, "x".repeat(LONG)),
            format!(r#"{{"a":"{}\ud800\n"}}"#, "x".repeat(LONG)),
            format!(r#"{{"a":"{}\udc00"}}"#, "x".repeat(LONG)),
            format!(r#"{{"a":"{}\u12"}}"#, "x".repeat(LONG)),
            format!(r#"{{"a":"{}\u+123"}}"#, "x".repeat(LONG)),
            format!("{{\"a\":\"{}\\n\u{1}\"}}", "x".repeat(LONG)),
            format!(r#"{{"a":"{}\n"#, "x".repeat(LONG)),
        ] {
            assert_eq!(parse(body.as_bytes()), None, "{}", &body[body.len() - 20..]);
        }
        let mut bad = format!(r#"{{"a":"{}\n"}}"#, "x".repeat(LONG)).into_bytes();
        bad[100] = 0xff;
        assert_eq!(parse(&bad), None);
    }
}
