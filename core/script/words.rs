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
    /// Which second bytes follow a first one.
    starts: Box<[[u64; 4]; 256]>,
    names: Vec<String>,
}

#[derive(Debug)]
struct Word {
    /// Lower case, as far as ASCII goes.
    text: Vec<u8>,
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
            words.push(Word { text, group });
        }
        words.sort_by_key(|w| w.text[0]);
        Ok(Words(Arc::new(Inner { automaton, words, starts, names })))
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
        let starts = (0..bytes.len()).filter(move |at| *at == 0 || !INSIDE[bytes[at - 1] as usize]);
        starts.filter(move |at| self.0.begins(&bytes[*at..])).flat_map(move |at| {
            let rest = &bytes[at..];
            let here = self.0.words_from(rest).iter();
            here.filter(move |word| word.stands_in(rest)).map(|word| word.group)
        })
    }
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
        let first = rest[0].to_ascii_lowercase();
        let from = self.words.partition_point(|w| w.text[0] < first);
        let to = self.words.partition_point(|w| w.text[0] <= first);
        &self.words[from..to]
    }
}

impl Word {
    /// At the beginning of `rest`, and not as a part of a longer word.
    fn stands_in(&self, rest: &[u8]) -> bool {
        let Some((here, after)) = rest.split_at_checked(self.text.len()) else { return false };
        here.eq_ignore_ascii_case(&self.text) && !after.first().is_some_and(|byte| INSIDE[*byte as usize])
    }
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
