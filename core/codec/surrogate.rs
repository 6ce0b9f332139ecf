//! Characters beyond the first 65,536 as JSON escapes them: two halves. Servers that count in halves cut a text between them, and
//! parsers refuse a half that stands alone. Here the halves that two events of a stream share are put together again, and one
//! that has no other becomes the sign for no character. Asked only of what a parser refused; knows no format.

use std::borrow::Cow;

/// The first half with which a text of an earlier event ended, as its four digits.
#[derive(Debug, Default)]
pub struct Half(Option<[u8; 4]>);

/// JSON without lone halves; borrowed where there was none. `shared`: events follow one another, and a text may go on in the next.
pub fn mended<'a>(json: &'a [u8], mut shared: Option<&mut Half>) -> Cow<'a, [u8]> {
    let mut out: Vec<u8> = Vec::new();
    // What of `json` stands in `out` already.
    let (mut at, mut from) = (0, 0);
    while let Some(offset) = memchr::memchr(b'\\', &json[at..]) {
        let start = at + offset;
        let Some(digits) = escaped(&json[start..]) else {
            // Another escape: what it escapes is not looked at.
            at = (start + 2).min(json.len());
            continue;
        };
        let end = start + ESCAPE;
        at = end;
        match Kind::of(digits) {
            Kind::Whole => {}
            Kind::First => {
                if escaped(&json[end..]).is_some_and(|next| Kind::of(next) == Kind::Second) {
                    at = end + ESCAPE;
                    continue;
                }
                out.extend_from_slice(&json[from..start]);
                match shared.as_deref_mut().filter(|_| json.get(end) == Some(&b'"')) {
                    Some(half) => half.0 = Some(digits),
                    None => out.extend_from_slice(NO_CHARACTER),
                }
                from = end;
            }
            Kind::Second => {
                out.extend_from_slice(&json[from..start]);
                let begins = start > 0 && json[start - 1] == b'"';
                match shared.as_deref_mut().filter(|_| begins).and_then(|half| half.0.take()) {
                    Some(first) => {
                        out.extend_from_slice(b"\\u");
                        out.extend_from_slice(&first);
                        out.extend_from_slice(&json[start..end]);
                    }
                    None => out.extend_from_slice(NO_CHARACTER),
                }
                from = end;
            }
        }
    }
    if from == 0 {
        return Cow::Borrowed(json);
    }
    out.extend_from_slice(&json[from..]);
    Cow::Owned(out)
}

#[derive(PartialEq)]
enum Kind {
    Whole,
    First,
    Second,
}

impl Kind {
    fn of([a, b, ..]: [u8; 4]) -> Kind {
        match (a | 0x20, b | 0x20) {
            (b'd', b'8' | b'9' | b'a' | b'b') => Kind::First,
            (b'd', b'c'..=b'f') => Kind::Second,
            _ => Kind::Whole,
        }
    }
}

/// The digits of an escape at the beginning of `json`.
fn escaped(json: &[u8]) -> Option<[u8; 4]> {
    let digits: [u8; 4] = json.strip_prefix(b"\\u")?.get(..4)?.try_into().ok()?;
    digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)
}

/// `\u` and four digits.
const ESCAPE: usize = 6;
const NO_CHARACTER: &[u8] = b"\\ufffd";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &[u8]) -> String {
        serde_json::from_slice(json).expect("a text")
    }

    #[test]
    fn a_half_without_its_other_is_no_character_and_pairs_stay() {
        for (json, said) in [
            (r#""x\ud83dy""#, "x\u{fffd}y"),
            (r#""\uDE00""#, "\u{fffd}"),
            (r#""\ud83d\ud83d\ude00\ud83d""#, "\u{fffd}😀\u{fffd}"),
            (r#""\\ud83d \ud83d\u0041""#, "\\ud83d \u{fffd}A"),
        ] {
            assert_eq!(text(&mended(json.as_bytes(), None)), said, "{json}");
        }
        for whole in [r#""\ud83d\ude00 \u00e9 \n""#, r#""\\""#, r#""\"#, r#""\u12"#, ""] {
            assert!(matches!(mended(whole.as_bytes(), None), Cow::Borrowed(same) if same == whole.as_bytes()));
        }
    }

    #[test]
    fn halves_that_two_events_share_come_together() {
        let mut half = Half::default();
        assert_eq!(text(&mended(br#""a\ud83d""#, Some(&mut half))), "a");
        assert_eq!(text(&mended(br#""\ude00b""#, Some(&mut half))), "😀b");
        // It is used once.
        assert_eq!(text(&mended(br#""\ude00""#, Some(&mut half))), "\u{fffd}");
    }
}
