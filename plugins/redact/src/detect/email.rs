//! E-mail addresses: the common form of them, with letters of Latin, Greek and Cyrillic on both sides. No quoted local
//! parts, no addresses of hosts without a dot.

use super::{Kind, Span, is_letter_lead};

/// The address around the `@` at `at`, nothing of it before `low`.
pub fn around(bytes: &[u8], at: usize, low: usize) -> Option<Span> {
    let start = local(bytes, at, low)?;
    let end = domain(bytes, at + 1)?;
    Some(Span { start, end, kind: Kind::Email })
}

fn local(bytes: &[u8], at: usize, low: usize) -> Option<usize> {
    let floor = low.max(at.saturating_sub(MAX_LOCAL));
    let mut start = at;
    while start > floor {
        let byte = bytes[start - 1];
        if byte.is_ascii_alphanumeric() || b"._%+-'".contains(&byte) {
            start -= 1;
        } else if byte & 0xC0 == 0x80 && start >= floor + 2 && is_letter_lead(bytes[start - 2]) {
            start -= 2;
        } else {
            break;
        }
    }
    // It begins with a letter, a digit or `_`; quotes and dashes before it are the sentence's.
    while start < at && b".%+-'".contains(&bytes[start]) {
        start += 1;
    }
    (start < at && bytes[at - 1] != b'.').then_some(start)
}

/// The end of a domain of two labels and more whose last one is of letters.
fn domain(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut label, mut dots, mut letters, mut good) = (start, start, 0, true, None);
    let limit = bytes.len().min(start + MAX_DOMAIN);
    loop {
        let byte = if at < limit { bytes[at] } else { 0 };
        if is_letter_lead(byte) && at + 1 < limit && bytes[at + 1] & 0xC0 == 0x80 {
            at += 2;
            continue;
        }
        if byte.is_ascii_alphabetic() {
            at += 1;
            continue;
        }
        if byte.is_ascii_digit() || byte == b'-' && at > label {
            letters = false;
            at += 1;
            continue;
        }
        // A label ends here.
        let length = at - label;
        if length == 0 || length > MAX_LABEL || bytes[at - 1] == b'-' {
            break;
        }
        let coded = bytes[label..at].len() > 4 && bytes[label..at].starts_with(b"xn--");
        if dots > 0 && length >= 2 && (letters || coded) {
            good = Some(at);
        }
        if byte != b'.' {
            break;
        }
        dots += 1;
        at += 1;
        (label, letters) = (at, true);
    }
    good
}

const MAX_LOCAL: usize = 64;
const MAX_LABEL: usize = 63;
const MAX_DOMAIN: usize = 190;
