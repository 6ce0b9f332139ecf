//! Finds personal data and secrets in a text: one pass over its bytes with a table of those that can begin, end or hold
//! a match, and a small parser for each kind. Pure: no configuration, no masking, no allocation but for what it finds.
//!
//! Every decision looks at most [`AHEAD`] bytes past the end of a match and [`BEHIND`] bytes before its start. Streams
//! rely on that: what lies further from the end of a text will not be decided otherwise when more text comes.

mod email;
mod iban;
mod ip;
mod number;
mod secret;
#[cfg(test)]
pub mod tests;

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Email,
    Phone,
    Card,
    Iban,
    Ip,
    Key,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Email, Kind::Phone, Kind::Card, Kind::Iban, Kind::Ip, Kind::Key];

    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        ["email", "phone", "card", "iban", "ip", "key"][self as usize]
    }

    /// As placeholders name it.
    pub fn label(self) -> &'static str {
        ["EMAIL", "PHONE", "CARD", "IBAN", "IP", "KEY"][self as usize]
    }

    /// As people are told.
    pub fn title(self) -> &'static str {
        ["an e-mail address", "a phone number", "a payment card number", "an IBAN", "an IP address", "a key or secret"]
            [self as usize]
    }

    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kinds(u8);

impl Kinds {
    pub const ALL: Kinds = Kinds(0b11_1111);

    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u8)
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    pub fn union(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

/// A match: bytes `start..end` of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
}

/// What the name of a field says about the value that follows it as a text of its own (`"phone": "5551234567"`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hint {
    #[default]
    None,
    Phone,
    Secret,
}

impl Hint {
    /// From the field's name.
    pub fn of(name: &str) -> Hint {
        if secret::names_secret(name.as_bytes()) {
            Hint::Secret
        } else if number::names_phone(name.as_bytes()) {
            Hint::Phone
        } else {
            Hint::None
        }
    }
}

/// All that one scan finds, in order and without overlaps.
#[derive(Debug, Default)]
pub struct Findings {
    pub spans: Vec<Span>,
    /// Placeholder-like texts that stand there already: their numbers must not be given to a value.
    pub reserved: Vec<(Kind, u32)>,
}

/// How far past its end a match depends on the text.
pub const AHEAD: usize = 64;
/// How far before its start.
pub const BEHIND: usize = 64;

/// Finds what `kinds` names in `text`.
pub fn scan(text: &str, kinds: Kinds, hint: Hint, found: &mut Findings) {
    let bytes = text.as_bytes();
    let mut at = 0;
    // Nothing before this byte may become part of a further match.
    let mut low = 0;
    if hint == Hint::Secret && kinds.has(Kind::Key) {
        if let Some(span) = secret::value(bytes, 0) {
            found.spans.push(span);
            (at, low) = (span.end, span.end);
        }
    }
    while let Some(&byte) = bytes.get(at) {
        let class = CLASS[byte as usize];
        if class == 0 {
            at += 1;
            continue;
        }
        let span = match class {
            AT if kinds.has(Kind::Email) => email::around(bytes, at, low),
            DIGIT => {
                let (span, next) = digits(bytes, at, low, kinds, hint);
                if span.is_none() {
                    at = next;
                    continue;
                }
                span
            }
            WORD if kinds.has(Kind::Key) => secret::prefixed(bytes, at),
            MARK => mark(bytes, at, low, kinds),
            OPEN => {
                if let Some((kind, number, end)) = placeholder(bytes, at) {
                    found.reserved.push((kind, number));
                    at = end;
                    low = end;
                    continue;
                }
                None
            }
            _ => None,
        };
        match span {
            Some(span) => {
                found.spans.push(span);
                (at, low) = (span.end, span.end);
            }
            None => at += 1,
        }
    }
}

/// A run of digits begins or goes on at `at`: what it is, or where to go on.
fn digits(bytes: &[u8], at: usize, low: usize, kinds: Kinds, hint: Hint) -> (Option<Span>, usize) {
    let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let before = if at > low { bytes[at - 1] } else { b' ' };
    if before.is_ascii_alphabetic() {
        let span = if kinds.has(Kind::Iban) { iban::at(bytes, at, low) } else { None };
        return (span, end);
    }
    if before == b'_' || before >= 0x80 && is_letter_end(bytes, at, low) {
        return (None, end);
    }
    if kinds.has(Kind::Ip) {
        if let Some(span) = ip::v4(bytes, at, low) {
            return (Some(span), end);
        }
    }
    if kinds.has(Kind::Card) || kinds.has(Kind::Phone) {
        return (number::at(bytes, at, low, kinds, hint), end);
    }
    (None, end)
}

/// `:`, `=` and `-`: what may stand around them.
fn mark(bytes: &[u8], at: usize, low: usize, kinds: Kinds) -> Option<Span> {
    match bytes[at] {
        b'-' => {
            let begins = kinds.has(Kind::Key) && bytes[at..].starts_with(secret::PEM);
            if begins { secret::pem(bytes, at) } else { None }
        }
        byte => {
            let ip = if byte == b':' && kinds.has(Kind::Ip) { ip::v6(bytes, at, low) } else { None };
            ip.or_else(|| if kinds.has(Kind::Key) { secret::named(bytes, at, low) } else { None })
        }
    }
}

/// `[EMAIL_12]` at `at`: its kind, its number and where it ends.
pub fn placeholder(bytes: &[u8], at: usize) -> Option<(Kind, u32, usize)> {
    let rest = bytes.get(at + 1..)?;
    let kind = Kind::ALL.into_iter().find(|k| rest.starts_with(k.label().as_bytes()))?;
    let label = kind.label().len();
    let number = rest.get(label..)?.strip_prefix(b"_")?;
    let length = number.iter().take(MAX_DIGITS + 1).take_while(|b| b.is_ascii_digit()).count();
    if length == 0 || length > MAX_DIGITS || number[0] == b'0' || number.get(length) != Some(&b']') {
        return None;
    }
    let value = number[..length].iter().fold(0, |n, b| n * 10 + u32::from(b - b'0'));
    Some((kind, value, at + 1 + label + 1 + length + 1))
}

/// A placeholder's number has so many digits at most.
pub const MAX_DIGITS: usize = 5;
/// The longest placeholder: `[EMAIL_99999]`.
pub const LONGEST_PLACEHOLDER: usize = 5 + 3 + MAX_DIGITS;

/// Letters of Latin, Greek and Cyrillic outside ASCII: two bytes, of which this is the first.
fn is_letter_lead(byte: u8) -> bool {
    (0xC3..=0xD4).contains(&byte)
}

/// The character that ends before `at` is such a letter.
fn is_letter_end(bytes: &[u8], at: usize, low: usize) -> bool {
    at >= low + 2 && is_letter_lead(bytes[at - 2])
}

/// Not a part of a longer word.
fn ends_word(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_' && !is_letter_lead(*b))
}

const AT: u8 = 1;
const DIGIT: u8 = 2;
const WORD: u8 = 3;
const MARK: u8 = 4;
const OPEN: u8 = 5;

/// What each byte may mean; 0: nothing, go on.
static CLASS: [u8; 256] = {
    let mut table = [0; 256];
    table[b'@' as usize] = AT;
    let mut digit = b'0';
    while digit <= b'9' {
        table[digit as usize] = DIGIT;
        digit += 1;
    }
    let mut n = 0;
    while n < secret::FIRST.len() {
        table[secret::FIRST[n] as usize] = WORD;
        n += 1;
    }
    table[b':' as usize] = MARK;
    table[b'=' as usize] = MARK;
    table[b'-' as usize] = MARK;
    table[b'[' as usize] = OPEN;
    table
};
