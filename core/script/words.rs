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
    /// How words begin.
    beginnings: Beginnings,
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
        let beginnings = Beginnings::of(&patterns);
        let mut words: Vec<Word> = Vec::with_capacity(patterns.len());
        for (text, group) in patterns.iter().zip(group) {
            let text = text.to_ascii_lowercase().into_bytes();
            let (head, mask) = (head_of(&text), mask_of(&text));
            words.push(Word { text, head, mask, group });
        }
        words.sort_by_key(|w| w.text[0]);
        let firsts = Box::new(std::array::from_fn(|first| words.partition_point(|w| (w.text[0] as usize) < first)));
        let odd = words.iter().any(|word| !INSIDE[word.text[0] as usize]);
        Ok(Words(Arc::new(Inner { automaton, words, firsts, beginnings, names, odd })))
    }

    /// Is any of the words in the text, anywhere?
    pub fn anywhere(&self, text: &str) -> bool {
        self.0.automaton.is_match(text)
    }

    /// Is any of them in the text as a word of its own?
    pub fn as_word(&self, text: &str) -> bool {
        let mut any = false;
        self.each(text, |_| {
            any = true;
            false
        });
        any
    }

    /// The most important group with a word of its own in the text.
    pub fn group(&self, text: &str) -> Option<&str> {
        let mut best = usize::MAX;
        self.each(text, |group| {
            best = best.min(group);
            best > 0
        });
        self.0.names.get(best).map(String::as_str)
    }

    /// The place of a group in the list.
    pub fn rank(&self, name: &str) -> usize {
        self.0.names.iter().position(|n| n == name).unwrap_or(usize::MAX)
    }

    /// The groups of the words in the text, in no order, until `more` says no. "unit test" does not hide "test".
    fn each(&self, text: &str, mut more: impl FnMut(usize) -> bool) {
        let bytes = text.as_bytes();
        // A word stands after a byte that is none of a word's: few places, and hardly any of those begins like one of ours.
        places(bytes, self.0.odd, |at| {
            let rest = &bytes[at..];
            if !self.0.beginnings.may_be(first_four(rest)) {
                return true;
            }
            let head = head_of(rest);
            let mut here = self.0.words_from(rest).iter().filter(|word| head & word.mask == word.head);
            here.all(|word| !word.stands_in(rest) || more(word.group))
        });
    }
}

/// Sets of the first bytes of words, that are wrong for one text in some dozens: they say yes where they are not sure, and one looks at
/// no memory but a kilobyte of their own.
#[derive(Debug)]
struct Beginnings {
    /// As many bytes as the shortest word has, and four at most: nearly all places are told by these.
    shortest: u32,
    short: Set,
    /// One for each length of a beginning that there is: of words of one, two, three, and more letters.
    masks: Vec<u32>,
    whole: Set,
}

impl Beginnings {
    fn of(words: &[String]) -> Beginnings {
        let mut masks: Vec<u32> = words.iter().map(|word| mask_of(word.as_bytes())).collect();
        masks.sort_unstable();
        masks.dedup();
        let shortest = masks.first().copied().unwrap_or_default();
        let (mut short, mut whole) = (Set::default(), Set::default());
        for word in words {
            let four = first_four(word.as_bytes());
            short.add(four & shortest);
            whole.add(four & mask_of(word.as_bytes()));
        }
        Beginnings { shortest, short, masks, whole }
    }

    /// May one of the words begin like this?
    fn may_be(&self, four: u32) -> bool {
        self.short.has(four & self.shortest) && self.masks.iter().any(|mask| self.whole.has(four & mask))
    }
}

/// One of 4,096 bits for each beginning.
#[derive(Debug)]
struct Set(Box<[u64; 64]>);

impl Default for Set {
    fn default() -> Self {
        Set(Box::new([0; 64]))
    }
}

impl Set {
    fn add(&mut self, beginning: u32) {
        let bit = Self::bit(beginning);
        self.0[bit >> 6] |= 1 << (bit & 63);
    }

    fn has(&self, beginning: u32) -> bool {
        let bit = Self::bit(beginning);
        self.0[bit >> 6] >> (bit & 63) & 1 == 1
    }

    fn bit(beginning: u32) -> usize {
        (beginning.wrapping_mul(0x9e37_79b1) >> 20) as usize
    }
}

/// The first four bytes, nothing where there are fewer, with what tells capitals from small letters set in all of them.
fn first_four(bytes: &[u8]) -> u32 {
    let four = match bytes.first_chunk::<4>() {
        Some(four) => u32::from_le_bytes(*four),
        None => bytes.iter().rev().fold(0, |four, byte| four << 8 | u32::from(*byte)),
    };
    four | 0x2020_2020
}

/// Of the first four bytes those that a word has.
fn mask_of(word: &[u8]) -> u32 {
    u32::MAX >> (8 * (4 - word.len().clamp(1, 4)))
}

/// Where words may stand, in no order, until `more` says no: after a byte that is none of a word's. `odd`: places that are no word's
/// byte themselves count too.
#[inline]
fn places(bytes: &[u8], odd: bool, mut more: impl FnMut(usize) -> bool) {
    // 1: the last byte is part of a word.
    let mut last = 0;
    for (block, rest) in bytes.chunks(BLOCK).enumerate() {
        let inside = match rest.as_array() {
            Some(whole) => insides(whole),
            None => {
                // A zero is part of no word.
                let mut whole = [0; BLOCK];
                whole[..rest.len()].copy_from_slice(rest);
                insides(&whole)
            }
        };
        // For each byte, whether the one before it is: the next lower byte of the bits, and before the first of eight the last of
        // the eight before.
        let before = inside << 8 | (inside >> 56 << 1 & 0xfe) | last;
        last = inside >> 63;
        let mut found = !before & if odd { u64::MAX } else { inside };
        while found != 0 {
            let bit = found.trailing_zeros() as usize;
            found &= found - 1;
            let at = (bit & 7) << 3 | bit >> 3;
            if at < rest.len() && !more(block * BLOCK + at) {
                return;
            }
        }
    }
}

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// A bit for each byte that is part of a word: what `INSIDE` says, in steps that the compiler makes vectors of. Byte `8 * k + j` has
/// bit `8 * j + k`, because so eight bytes of marks need no gathering.
fn insides(bytes: &[u8; BLOCK]) -> u64 {
    let is_inside = |byte: u8| {
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        u8::from(letter | digit | (byte == b'_') | (byte >= 0x80))
    };
    let mut marks = [0; BLOCK];
    for (mark, byte) in marks.iter_mut().zip(bytes) {
        *mark = is_inside(*byte);
    }
    let eights = marks.as_chunks().0.iter().enumerate();
    eights.fold(0, |all, (k, eight)| all | u64::from_le_bytes(*eight) << k)
}

impl Inner {
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
                let mut found = Vec::new();
                places(&bytes, odd, |at| {
                    found.push(at);
                    true
                });
                found.sort_unstable();
                assert_eq!(found, plain.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn words_of_any_length_are_found_wherever_a_plain_search_finds_them() {
        let mut random = fastrand::Rng::with_seed(11);
        let letters = ["a", "B", "c", "É", "é", "_", "9", " ", " ", "-", ".", "[", "{", "\n", "水"];
        let text = |random: &mut fastrand::Rng, most: usize| -> String {
            (0..random.usize(1..most)).map(|_| letters[random.usize(0..letters.len())]).collect()
        };
        for _ in 0..3_000 {
            let list: Vec<String> = (0..random.usize(1..6)).map(|_| text(&mut random, 7)).collect();
            let text = text(&mut random, 120);
            let words = Words::groups(list.iter().map(|word| (word.clone(), vec![word.clone()])).collect()).unwrap();
            let (low, bytes) = (text.to_ascii_lowercase(), text.as_bytes());
            let inside = |at: usize| bytes.get(at).is_some_and(|byte| INSIDE[*byte as usize]);
            let stands = |word: &str| {
                let word = word.to_ascii_lowercase();
                let odd = list.iter().any(|word| !INSIDE[word.as_bytes()[0] as usize]);
                let at = (0..low.len()).filter(|at| low.as_bytes()[*at..].starts_with(word.as_bytes()));
                at.filter(|at| (*at == 0 || !inside(at - 1)) && (odd || inside(*at))).any(|at| !inside(at + word.len()))
            };
            let first = list.iter().find(|word| stands(word)).map(String::as_str);
            assert_eq!(words.group(&text), first, "{list:?} in {text:?}");
        }
    }
}
