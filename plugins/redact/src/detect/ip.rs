//! IP addresses. Version 4 in its dotted form; version 6 in full or with `::`, also with a version 4 tail.

use super::{Kind, Span, ends_word};

/// An IPv4 address that begins with the digits at `at`.
pub fn v4(bytes: &[u8], at: usize, low: usize) -> Option<Span> {
    // The middle of a longer dotted number is no address.
    if at > low && bytes[at - 1] == b'.' && at > low + 1 && bytes[at - 2].is_ascii_digit() {
        return None;
    }
    let end = quad(bytes, at)?;
    let goes_on = bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
    (!goes_on && ends_word(bytes, end)).then_some(Span { start: at, end, kind: Kind::Ip })
}

/// Four numbers up to 255 with dots between: where they end.
fn quad(bytes: &[u8], mut at: usize) -> Option<usize> {
    for n in 0..4 {
        if n > 0 {
            if bytes.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let length = bytes[at..].iter().take(4).take_while(|b| b.is_ascii_digit()).count();
        let value = bytes[at..at + length].iter().fold(0, |v, b| v * 10 + u32::from(b - b'0'));
        if length == 0 || length > 3 || value > 255 {
            return None;
        }
        at += length;
    }
    Some(at)
}

/// An IPv6 address around the `:` at `at`.
pub fn v6(bytes: &[u8], at: usize, low: usize) -> Option<Span> {
    let neighbour = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_hexdigit() || *b == b':');
    if !neighbour(bytes.get(at + 1)) {
        return None;
    }
    let floor = low.max(at.saturating_sub(4));
    let start = at - bytes[floor..at].iter().rev().take_while(|b| b.is_ascii_hexdigit()).count();
    if start > low && (!ends_word(bytes, start - 1) || b":.".contains(&bytes[start - 1])) {
        return None;
    }
    let (mut at, mut groups, mut gap, mut digit) = (start, 0, false, false);
    if bytes[at] == b':' {
        // Only `::` may begin an address.
        if bytes.get(at + 1) != Some(&b':') {
            return None;
        }
        gap = true;
        at += 2;
    }
    let end = loop {
        let length = bytes[at..].iter().take(5).take_while(|b| b.is_ascii_hexdigit()).count();
        if length > 4 {
            return None;
        }
        if length == 0 {
            break at;
        }
        if bytes.get(at + length) == Some(&b'.') && groups > 0 {
            if let Some(end) = quad(bytes, at) {
                (groups, digit) = (groups + 2, true);
                break end;
            }
        }
        digit |= bytes[at..at + length].iter().any(u8::is_ascii_digit);
        groups += 1;
        at += length;
        if bytes.get(at) != Some(&b':') || groups == 8 {
            break at;
        }
        if bytes.get(at + 1) == Some(&b':') {
            if gap {
                return None;
            }
            gap = true;
            at += 2;
        } else if bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit) {
            at += 1;
        } else {
            // A colon of the sentence.
            break at;
        }
    };
    let whole = if gap { (2..8).contains(&groups) && digit } else { groups == 8 };
    let goes_on = bytes.get(end) == Some(&b':') && neighbour(bytes.get(end + 1));
    (whole && !goes_on && ends_word(bytes, end)).then_some(Span { start, end, kind: Kind::Ip })
}
