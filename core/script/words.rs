//! Word lists that are found in one pass over a text, whatever their number: the loop of a routing script, done by the
//! host.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};

/// A compiled list: `const ESSAY = words(["essay", "report"]);`.
#[derive(Debug, Clone)]
pub struct Words(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    automaton: AhoCorasick,
    /// By their first byte.
    words: Vec<Word>,
    /// Where those of each first byte begin.
    firsts: Box<[usize; 257]>,
    /// Which second bytes follow a first one.
    starts: Box<[[u64; 4]; 256]>,
    names: Vec<String>,
    /// One of the words begins with a byte that is part of none, as in ".net".
    odd: bool,
}

#[derive(Debug)]
struct Word {
    /// Lower case, as far as ASCII goes.
    text: Vec<u8>,
    /// Its first four bytes, and which of them it has: most words are told apart by these.
    head: u32,
    mask: u32,
    group: usize,
}

impl Words {
    /// One unnamed group.
    pub fn list(words: Vec<String>) -> Result<Self, String> {
        Words::groups(vec![(String::new(), words)])
    }

    /// Named groups, most important first.
    pub fn groups(groups: Vec<(String, Vec<String>)>) -> Result<Self, String> {
        let mut patterns = Vec::new();
        let mut group = Vec::new();
        let mut names = Vec::new();
        for (at, (name, words)) in groups.into_iter().enumerate() {
            names.push(name);
            for word in words {
                if word.is_empty() {
                    return Err("an empty word matches everything".into());
                }
                patterns.push(word);
                group.push(at);
            }
        }
        if patterns.len() > MAX_WORDS {
            return Err(format!("{} words are too many; {MAX_WORDS} are allowed", patterns.len()));
        }
        let automaton = AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            // One load a byte; a few hundred words make a table of some hundred KB, larger lists a smaller machine.
            .kind(if patterns.len() <= DFA_WORDS { Some(AhoCorasickKind::DFA) } else { None })
            .build(&patterns)
            .map_err(|e| format!("the words cannot be compiled: {e}"))?;
        let mut starts = Box::new([[0; 4]; 256]);
        let mut words: Vec<Word> = Vec::with_capacity(patterns.len());
        for (text, group) in patterns.iter().zip(group) {
            let text = text.to_ascii_lowercase().into_bytes();
            let row: &mut [u64; 4] = &mut starts[text[0] as usize];
            match text.get(1) {
                Some(second) => row[*second as usize >> 6] |= 1 << (second & 63),
                None => *row = [u64::MAX; 4],
            }
            let (head, mask) = (head_of(&text), u32::MAX >> (8 * (4 - text.len().min(4))));
            words.push(Word { text, head, mask, group });
        }
        words.sort_by_key(|w| w.text[0]);
        let firsts = Box::new(std::array::from_fn(|first| words.partition_point(|w| (w.text[0] as usize) < first)));
        let odd = words.iter().any(|word| !INSIDE[word.text[0] as usize]);
        Ok(Words(Arc::new(Inner { automaton, words, firsts, starts, names, odd })))
    }

    /// Is any of the words in the text, anywhere?
    pub fn anywhere(&self, text: &str) -> bool {
        self.0.automaton.is_match(text)
    }

    /// Is any of them in the text as a word of its own?
    pub fn as_word(&self, text: &str) -> bool {
        self.hits(text).next().is_some()
    }

    /// The most important group with a word of its own in the text.
    pub fn group(&self, text: &str) -> Option<&str> {
        let mut best = usize::MAX;
        for group in self.hits(text) {
            best = best.min(group);
            if best == 0 {
                break;
            }
        }
        self.0.names.get(best).map(String::as_str)
    }

    /// The place of a group in the list.
    pub fn rank(&self, name: &str) -> usize {
        self.0.names.iter().position(|n| n == name).unwrap_or(usize::MAX)
    }

    /// The groups of the words in the text, from left to right. "unit test" does not hide "test".
    fn hits<'a>(&'a self, text: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = text.as_bytes();
        // A word stands after a byte that is none of a word's: few places, and of those few begin like one of ours.
        let places = Places { bytes, next: 0, base: 0, found: 0, before: 0, odd: self.0.odd };
        places.filter(move |at| self.0.begins(&bytes[*at..])).flat_map(move |at| {
            let rest = &bytes[at..];
            let head = head_of(rest);
            let here = self.0.words_from(rest).iter().filter(move |word| head & word.mask == word.head);
            here.filter(move |word| word.stands_in(rest)).map(|word| word.group)
        })
    }
}

/// Where words may stand: after a byte that is none of a word's. Bytes are told apart eight at a time, and looked at 64 at a
/// time.
struct Places<'a> {
    bytes: &'a [u8],
    /// The first byte that was not looked at.
    next: usize,
    /// Where the bits of `found` begin.
    base: usize,
    found: u64,
    /// 1: the last byte looked at is part of a word.
    before: u64,
    /// Places that are no word's byte themselves count too.
    odd: bool,
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            let rest = self.bytes.get(self.next..).filter(|rest| !rest.is_empty())?;
            let mut inside = 0;
            let length = rest.len().min(64);
            let (words, tail) = rest[..length].as_chunks();
            for (at, word) in words.iter().enumerate() {
                inside |= insides(u64::from_le_bytes(*word)) << (at * 8);
            }
            if !tail.is_empty() {
                let mut word = [0; 8];
                word[..tail.len()].copy_from_slice(tail);
                inside |= insides(u64::from_le_bytes(word)) << (words.len() * 8);
            }
            let after = !(inside << 1 | self.before);
            let all = u64::MAX >> (64 - length);
            self.found = after & all & if self.odd { u64::MAX } else { inside };
            self.before = inside >> (length - 1) & 1;
            (self.base, self.next) = (self.next, self.next + length);
        }
        let at = self.base + self.found.trailing_zeros() as usize;
        self.found &= self.found - 1;
        Some(at)
    }
}

/// A bit for each of eight bytes that is part of a word, the first byte's lowest. The same as `INSIDE`.
fn insides(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = EACH << 7;
    let low = word & !HIGH;
    // The high bit of each byte says whether it is at least so much; no carry leaves a byte.
    let least = |bytes: u64, least: u8| bytes + EACH * (0x80 - u64::from(least));
    let letters = low | (EACH * 0x20);
    let letter = least(letters, b'a') & !least(letters, b'z' + 1);
    let digit = least(low, b'0') & !least(low, b'9' + 1);
    let line = !((low ^ (EACH * u64::from(b'_'))) + EACH * 0x7f);
    let inside = (letter | digit | line | word) & HIGH;
    (inside >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

impl Inner {
    /// May one of the words begin so?
    fn begins(&self, rest: &[u8]) -> bool {
        let first = rest[0].to_ascii_lowercase();
        // A word of one byte begins with anything behind it.
        let second = rest.get(1).map_or(0, u8::to_ascii_lowercase);
        self.starts[first as usize][second as usize >> 6] >> (second & 63) & 1 == 1
    }

    fn words_from(&self, rest: &[u8]) -> &[Word] {
        let first = rest[0].to_ascii_lowercase() as usize;
        &self.words[self.firsts[first]..self.firsts[first + 1]]
    }
}

impl Word {
    /// At the beginning of `rest`, and not as a part of a longer word.
    fn stands_in(&self, rest: &[u8]) -> bool {
        let Some((here, after)) = rest.split_at_checked(self.text.len()) else { return false };
        here.eq_ignore_ascii_case(&self.text) && !after.first().is_some_and(|byte| INSIDE[*byte as usize])
    }
}

/// The first four bytes in lower case, nothing where there are fewer.
fn head_of(bytes: &[u8]) -> u32 {
    let mut head = [0; 4];
    for (mine, byte) in head.iter_mut().zip(bytes) {
        *mine = byte.to_ascii_lowercase();
    }
    u32::from_le_bytes(head)
}

/// Bytes that are part of a word: letters and digits of any script.
const INSIDE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        byte += 1;
    }
    table
};

/// How much of a long text's beginning and end is looked at: an instruction stands before or after what it is about.
pub const END: usize = 1024;
const MAX_WORDS: usize = 5_000;
const DFA_WORDS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_words_are_the_same_byte_by_byte() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..2_000 {
            let bytes: Vec<u8> = (0..random.usize(0..200))
                .map(|_| {
                    if round % 2 == 0 { random.u8(..) } else { *b"ab_Z9 .-\n@[`{/:".get(random.usize(0..15)).unwrap() }
                })
                .collect();
            for odd in [false, true] {
                let plain = (0..bytes.len())
                    .filter(|at| *at == 0 || !INSIDE[bytes[at - 1] as usize])
                    .filter(|at| odd || INSIDE[bytes[*at] as usize]);
                let places = Places { bytes: &bytes, next: 0, base: 0, found: 0, before: 0, odd };
                assert_eq!(places.collect::<Vec<_>>(), plain.collect::<Vec<_>>());
            }
        }
    }
}
