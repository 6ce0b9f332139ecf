//! Payment cards and phone numbers: groups of digits with separators between.
//!
//! A card has 13 to 19 digits, an issuer's beginning, and a right check digit (Luhn). A phone number is one that begins
//! with `+` or `00`, has the shape of North America, begins with a trunk `0`, or stands after a word such as "phone".

use super::{Hint, Kind, Kinds, Span, ends_word, is_letter_lead};

/// A run of digits.
#[derive(Clone, Copy, Default)]
struct Group {
    start: usize,
    end: usize,
    /// What stands before it: its only character, or `m` for several.
    separator: u8,
}

impl Group {
    fn len(self) -> usize {
        self.end - self.start
    }
}

/// The card or phone number that begins with the digits at `at`.
pub fn at(bytes: &[u8], at: usize, low: usize, kinds: Kinds, hint: Hint) -> Option<Span> {
    let mut room = [Group::default(); MAX_GROUPS];
    let groups = groups(bytes, at, &mut room);
    let total: usize = groups.iter().map(|g| g.len()).sum();
    if total < 7 {
        return None;
    }
    let before = |n: usize| if at >= low + n { bytes[at - n] } else { b' ' };
    // Digits after the point of a number.
    if before(1) == b'.' && before(2).is_ascii_digit() {
        return None;
    }
    if kinds.has(Kind::Card) {
        if let Some(end) = card(bytes, groups) {
            return Some(Span { start: at, end, kind: Kind::Card });
        }
    }
    if !kinds.has(Kind::Phone) {
        return None;
    }
    // A part of a path, a date, an identifier.
    let glued = b"-_/".contains(&before(1)) && (before(2).is_ascii_alphanumeric() || before(2) == b'_');
    if glued || b"#$".contains(&before(1)) {
        return None;
    }
    let plus = before(1) == b'+' && !before(2).is_ascii_alphanumeric();
    let end =
        phone(bytes, groups, plus, || hint == Hint::Phone || names_phone(&bytes[low.max(at.saturating_sub(24))..at]))?;
    let start = if plus || before(1) == b'(' && bytes[at..end].contains(&b')') { at - 1 } else { at };
    Some(Span { start, end, kind: Kind::Phone })
}

/// Does this text (a field's name, or what stands before a number) speak of phones?
pub fn names_phone(text: &[u8]) -> bool {
    PHONE_WORDS.iter().any(|word| text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word)))
}

const PHONE_WORDS: [&[u8]; 6] = [b"phone", b"tel", b"mobil", b"fax", b"whatsapp", b"handy"];

fn groups<'a>(bytes: &[u8], at: usize, room: &'a mut [Group; MAX_GROUPS]) -> &'a [Group] {
    let (mut start, mut separator, mut count) = (at, 0, 0);
    let limit = bytes.len().min(at + MAX_BYTES);
    while count < MAX_GROUPS {
        let end = start + bytes[start..].iter().take(20).take_while(|b| b.is_ascii_digit()).count();
        if end - start > 19 {
            break;
        }
        room[count] = Group { start, end, separator };
        count += 1;
        let mut next = end;
        separator = 0;
        while next < limit && next - end < 4 {
            let (kind, length) = match bytes[next] {
                kind @ (b' ' | b'-' | b'.' | b'/' | b'(' | b')') => (kind, 1),
                0xC2 if bytes.get(next + 1) == Some(&0xA0) => (b' ', 2),
                // Narrow and unbreakable: U+202F, U+2011, U+2013.
                0xE2 if bytes.get(next + 1) == Some(&0x80) => match bytes.get(next + 2) {
                    Some(0xAF) => (b' ', 3),
                    Some(0x91 | 0x93) => (b'-', 3),
                    _ => break,
                },
                _ => break,
            };
            separator = if separator == 0 { kind } else { b'm' };
            next += length;
        }
        if next == end || next >= limit || !bytes[next].is_ascii_digit() {
            break;
        }
        start = next;
    }
    &room[..count]
}

/// The end of a card number in the first groups.
fn card(bytes: &[u8], groups: &[Group]) -> Option<usize> {
    for count in (1..=groups.len()).rev() {
        let some = &groups[..count];
        let total: usize = some.iter().map(|g| g.len()).sum();
        if total > 19 {
            continue;
        }
        if total < 13 {
            return None;
        }
        let even = count == 1
            || some[0].len() >= 4
                && some[1..].iter().all(|g| g.len() >= 3 && g.separator == some[1].separator)
                && b" -".contains(&some[1].separator);
        let end = some[count - 1].end;
        if even && ends_word(bytes, end) && issued(bytes, some, total) && luhn(bytes, some) {
            return Some(end);
        }
    }
    None
}

/// Does it begin as the cards of some network do, with their length?
fn issued(bytes: &[u8], groups: &[Group], total: usize) -> bool {
    let mut head = digits(bytes, groups);
    let mut digit = || head.next().map_or(0, u32::from);
    let four = digit() * 1000 + digit() * 100 + digit() * 10 + digit();
    match four {
        2221..=2720 => total == 16,
        3000..=3059 | 3095 | 3600..=3699 | 3800..=3999 => total == 14 || total >= 16,
        3400..=3499 | 3700..=3799 => total == 15,
        3528..=3589 => total >= 16,
        4000..=4999 => matches!(total, 13 | 16 | 18 | 19),
        5100..=5599 => total == 16,
        5000..=5099 | 5600..=6999 => true,
        _ => false,
    }
}

fn luhn(bytes: &[u8], groups: &[Group]) -> bool {
    let total: usize = groups.iter().map(|g| g.len()).sum();
    let sum: u32 = digits(bytes, groups)
        .enumerate()
        .map(|(n, digit)| {
            let digit = u32::from(digit);
            let doubled = digit * 2 - if digit > 4 { 9 } else { 0 };
            if (total - n) % 2 == 0 { doubled } else { digit }
        })
        .sum();
    sum % 10 == 0 && sum > 0
}

fn digits<'a>(bytes: &'a [u8], groups: &'a [Group]) -> impl Iterator<Item = u8> + 'a {
    groups.iter().flat_map(|g| bytes[g.start..g.end].iter().map(|b| b - b'0'))
}

/// The end of a phone number in the first groups.
fn phone(bytes: &[u8], groups: &[Group], plus: bool, named: impl FnOnce() -> bool) -> Option<usize> {
    let first = bytes[groups[0].start];
    let lens = |n: usize| groups.get(n).map_or(0, |g| g.len());
    if plus {
        let most = if first == b'1' { 11 } else { 15 };
        return if first == b'0' { None } else { longest(bytes, groups, 8, most) };
    }
    if bytes[groups[0].start..].starts_with(b"00") && lens(0) != 3 {
        return longest(bytes, groups, 10, 17);
    }
    for skip in [0, 1] {
        let trunk = skip == 0 || lens(0) == 1 && first == b'1';
        let shape = lens(skip) == 3 && lens(skip + 1) == 3 && lens(skip + 2) == 4;
        if trunk && shape {
            let area = bytes[groups[skip].start] >= b'2' && bytes[groups[skip + 1].start] >= b'2';
            let end = groups[skip + 2].end;
            return (area && closes(bytes, end)).then_some(end);
        }
    }
    if first == b'0' && lens(0) >= 2 {
        let pairs = groups.len() >= 5 && (0..5).all(|n| lens(n) == 2);
        let date = lens(0) == 2 && lens(1) == 2 && !pairs && b"./-".contains(&groups[1].separator);
        let point = groups.len() > 1 && groups[1].separator == b'.' && !pairs;
        return if date || point { None } else { longest(bytes, groups, if groups.len() == 1 { 10 } else { 9 }, 12) };
    }
    if named() { longest(bytes, groups, 7, 15) } else { None }
}

/// The end of as many groups as `most` digits allow.
fn longest(bytes: &[u8], groups: &[Group], least: usize, most: usize) -> Option<usize> {
    for count in (1..=groups.len()).rev() {
        let total: usize = groups[..count].iter().map(|g| g.len()).sum();
        let end = groups[count - 1].end;
        if total < least {
            return None;
        }
        if total <= most && closes(bytes, end) {
            return Some(end);
        }
    }
    None
}

/// A phone number may end here: no letter, no further digits of a decimal, a time or an address.
fn closes(bytes: &[u8], end: usize) -> bool {
    let after = |n: usize| bytes.get(end + n).copied().unwrap_or(b' ');
    let joined = b".,:".contains(&after(0)) && after(1).is_ascii_digit();
    !joined && !after(0).is_ascii_alphanumeric() && !is_letter_lead(after(0)) && !b"_@%".contains(&after(0))
}

const MAX_GROUPS: usize = 10;
const MAX_BYTES: usize = 48;
