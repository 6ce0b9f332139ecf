//! IBANs: a known country, its length, and the remainder of 97. In one piece or in groups.

use super::{Kind, Span, ends_word};

/// The IBAN whose two check digits begin at `at`; its country stands before them.
pub fn at(bytes: &[u8], at: usize, low: usize) -> Option<Span> {
    let start = at.checked_sub(2).filter(|s| *s >= low)?;
    if start > low && !ends_word(bytes, start - 1) || !bytes.get(at + 1)?.is_ascii_digit() {
        return None;
    }
    let country = [bytes[start].to_ascii_uppercase(), bytes[start + 1].to_ascii_uppercase()];
    let length = usize::from(COUNTRIES.iter().find(|(code, _)| **code == country)?.1);
    let mut body = [0u8; MAX_LENGTH];
    let (mut count, mut end) = (0, start);
    while count < length {
        let byte = *bytes.get(end)?;
        if byte.is_ascii_alphanumeric() {
            body[count] = byte.to_ascii_uppercase();
            count += 1;
            end += 1;
            continue;
        }
        // One separator, between groups.
        let gap = match byte {
            b' ' | b'-' | b'.' => 1,
            0xC2 if bytes.get(end + 1) == Some(&0xA0) => 2,
            _ => return None,
        };
        if count < 4 || !bytes.get(end + gap)?.is_ascii_alphanumeric() {
            return None;
        }
        end += gap;
    }
    (ends_word(bytes, end) && remainder(&body[..length]) == 1).then_some(Span { start, end, kind: Kind::Iban })
}

/// Of the number that an IBAN is with its first four characters at the end and its letters as 10 to 35 (ISO 7064).
fn remainder(iban: &[u8]) -> u32 {
    let moved = iban[4..].iter().chain(&iban[..4]);
    moved.fold(0, |rest, byte| {
        if byte.is_ascii_digit() {
            (rest * 10 + u32::from(byte - b'0')) % 97
        } else {
            (rest * 100 + u32::from(byte - b'A') + 10) % 97
        }
    })
}

const MAX_LENGTH: usize = 34;

/// Lengths by country: the SWIFT IBAN registry.
static COUNTRIES: [(&[u8; 2], u8); 89] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];
