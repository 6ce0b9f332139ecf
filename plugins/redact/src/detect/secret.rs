//! Keys and secrets: those with a vendor's well-known beginning, JSON web tokens, private keys in PEM, and random-looking
//! values after words such as "key=" or "password:".

use super::{Kind, Span, is_letter_lead};

/// How a vendor's key looks.
struct Prefix {
    text: &'static [u8],
    /// Characters that follow at least.
    least: usize,
    /// Exactly so many, of capitals and digits; 0: any number of letters, digits, `_` and `-`.
    exact: usize,
}

const fn open(text: &'static [u8], least: usize) -> Prefix {
    Prefix { text, least, exact: 0 }
}

const fn exact(text: &'static [u8], exact: usize) -> Prefix {
    Prefix { text, least: exact, exact }
}

static PREFIXES: [Prefix; 38] = [
    open(b"sk-", 20),
    open(b"sk_live_", 16),
    open(b"sk_test_", 16),
    open(b"rk_live_", 16),
    open(b"rk_test_", 16),
    open(b"whsec_", 20),
    exact(b"AKIA", 16),
    exact(b"ASIA", 16),
    open(b"AIza", 30),
    open(b"ghp_", 30),
    open(b"gho_", 30),
    open(b"ghu_", 30),
    open(b"ghs_", 30),
    open(b"ghr_", 30),
    open(b"github_pat_", 22),
    open(b"glpat-", 20),
    open(b"glsa_", 20),
    open(b"gsk_", 30),
    open(b"xoxb-", 10),
    open(b"xoxp-", 10),
    open(b"xoxa-", 10),
    open(b"xoxr-", 10),
    open(b"xoxs-", 10),
    open(b"xoxe-", 10),
    open(b"xapp-", 10),
    open(b"xai-", 40),
    open(b"hf_", 30),
    open(b"npm_", 30),
    open(b"pypi-", 50),
    open(b"shpat_", 30),
    open(b"dop_v1_", 40),
    open(b"dckr_pat_", 20),
    open(b"r8_", 30),
    open(b"lin_api_", 30),
    open(b"pplx-", 30),
    open(b"tvly-", 20),
    open(b"nvapi-", 40),
    open(b"sntrys_", 30),
];

/// What keys begin with.
pub const FIRST: &[u8] = b"srwAgxhnpdltSye";

/// A key that begins with the letter at `at`.
pub fn prefixed(bytes: &[u8], at: usize) -> Option<Span> {
    if at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') {
        return None;
    }
    let rest = &bytes[at..];
    // Nearly every word ends here: the second to eighth characters of a key are not all small letters of a word.
    let turn = rest.iter().take(8).skip(1).find(|b| !b.is_ascii_lowercase())?;
    if !(turn.is_ascii_alphanumeric() || b"_-.".contains(turn)) || rest.len() < 14 {
        return None;
    }
    match (rest[0], rest[1]) {
        (b'e', b'y') => return token(bytes, at),
        (b'y', b'a') => return if rest.starts_with(b"ya29.") { run_after(bytes, at, 5, 20) } else { None },
        (b'S', b'G') => return if rest[2] == b'.' { run_after(bytes, at, 3, 40) } else { None },
        _ => {}
    }
    let prefix = PREFIXES.iter().find(|p| p.text[1] == rest[1] && rest.starts_with(p.text))?;
    let start = at + prefix.text.len();
    let end = if prefix.exact > 0 {
        let capital = |b: &&u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        start + bytes[start..].iter().take(prefix.exact + 1).take_while(capital).count()
    } else {
        word_end(bytes, start)
    };
    let length = end - start;
    let fits =
        if prefix.exact > 0 { length == prefix.exact && !is_word(bytes.get(end)) } else { length >= prefix.least };
    // Words in kebab case begin like keys, but have no digits.
    (fits && bytes[start..end].iter().any(u8::is_ascii_digit)).then_some(Span { start: at, end, kind: Kind::Key })
}

fn run_after(bytes: &[u8], at: usize, skip: usize, least: usize) -> Option<Span> {
    let mut end = at + skip;
    while is_word(bytes.get(end)) || bytes.get(end) == Some(&b'.') && is_word(bytes.get(end + 1)) {
        end += 1;
    }
    (end - at - skip >= least).then_some(Span { start: at, end, kind: Kind::Key })
}

/// A JSON web token: three pieces, of which the first is a JSON object.
fn token(bytes: &[u8], at: usize) -> Option<Span> {
    if bytes.get(at + 2) != Some(&b'J') {
        return None;
    }
    let first = word_end(bytes, at);
    if first - at < 10 || bytes.get(first) != Some(&b'.') {
        return None;
    }
    let second = word_end(bytes, first + 1);
    if second - first < 8 || bytes.get(second) != Some(&b'.') {
        return None;
    }
    Some(Span { start: at, end: word_end(bytes, second + 1), kind: Kind::Key })
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|b| is_word(Some(b))).count()
}

fn is_word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-')
}

pub const PEM: &[u8] = b"-----BEGIN ";

/// A private key in PEM, to its end; one that is cut off, to the end of the text.
pub fn pem(bytes: &[u8], at: usize) -> Option<Span> {
    let head = bytes[at + PEM.len()..].iter().take(48).take_while(|b| b.is_ascii_uppercase() || **b == b' ').count();
    let name = &bytes[at + PEM.len()..at + PEM.len() + head];
    let private = find(name, b"PRIVATE KEY").is_some();
    let body = at + PEM.len() + head;
    if !private || !bytes[body..].starts_with(b"-----") {
        return None;
    }
    let end = match find(&bytes[body..], b"-----END ") {
        Some(found) => {
            let tail = body + found + 9;
            tail + find(&bytes[tail..], b"-----").map_or(bytes.len() - tail, |n| n + 5)
        }
        None => bytes.len(),
    };
    Some(Span { start: at, end, kind: Kind::Key })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// A random-looking value after the `=` or `:` at `at`, if the word before it speaks of secrets.
pub fn named(bytes: &[u8], at: usize, low: usize) -> Option<Span> {
    let mut end = at;
    while end > low && at - end < 3 && b" \"'`".contains(&bytes[end - 1]) {
        end -= 1;
    }
    if end == low || !bytes[end - 1].is_ascii_alphabetic() {
        return None;
    }
    if !names_secret(&bytes[low.max(end.saturating_sub(16))..end]) {
        return None;
    }
    value(bytes, at + 1)
}

/// Does this text end with a word for secrets?
pub fn names_secret(text: &[u8]) -> bool {
    let ends = |word: &[u8]| text.len() >= word.len() && text[text.len() - word.len()..].eq_ignore_ascii_case(word);
    SECRET_WORDS.iter().any(|word| ends(word))
}

const SECRET_WORDS: [&[u8]; 10] = [
    b"key",
    b"secret",
    b"token",
    b"password",
    b"passwd",
    b"pwd",
    b"passphrase",
    b"credential",
    b"credentials",
    b"authorization",
];

/// A random-looking value that begins at `at` or a few spaces and quotes later.
pub fn value(bytes: &[u8], at: usize) -> Option<Span> {
    let mut start = at;
    while start - at < 4 && bytes.get(start).is_some_and(|b| b" \"'`>=".contains(b)) {
        start += 1;
    }
    for scheme in [&b"Bearer "[..], b"Basic ", b"Token "] {
        if bytes[start.min(bytes.len())..].starts_with(scheme) {
            start += scheme.len();
        }
    }
    let part = |b: &&u8| b.is_ascii_alphanumeric() || b"_-+/=.~".contains(b);
    let mut end = start + bytes.get(start..)?.iter().take_while(part).count();
    // A token of text goes on with letters that no key has.
    if bytes.get(end).is_some_and(|b| is_letter_lead(*b)) {
        return None;
    }
    while end > start && b".-/".contains(&bytes[end - 1]) {
        end -= 1;
    }
    let text = &bytes[start..end];
    (text.len() >= LEAST_RANDOM && looks_random(text)).then_some(Span { start, end, kind: Kind::Key })
}

/// Letters and digits, and many different ones: no word, no path, no sentence.
fn looks_random(text: &[u8]) -> bool {
    let seen = text.iter().fold(0u128, |seen, b| seen | 1 << (b & 127));
    let letters = text.iter().any(u8::is_ascii_alphabetic);
    let digits = text.iter().filter(|b| b.is_ascii_digit()).count();
    letters && digits >= 2 && seen.count_ones() >= 10 && !b"/.".contains(&text[0])
}

const LEAST_RANDOM: usize = 16;
