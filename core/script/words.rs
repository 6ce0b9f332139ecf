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
    /// The group of each pattern.
    group: Vec<usize>,
    names: Vec<String>,
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
        Ok(Words(Arc::new(Inner { automaton, group, names })))
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

    fn hits<'a>(&'a self, text: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = text.as_bytes();
        // Overlapping: "unit test" must not hide "test".
        self.0.automaton.find_overlapping_iter(text).filter_map(move |found| {
            let before = found.start().checked_sub(1).and_then(|at| bytes.get(at));
            let after = bytes.get(found.end());
            (!before.is_some_and(inside) && !after.is_some_and(inside))
                .then(|| self.0.group[found.pattern().as_usize()])
        })
    }
}

/// Part of a word: letters and digits of any script.
fn inside(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80
}

/// How much of a long text's beginning and end is looked at: an instruction stands before or after what it is about.
pub const END: usize = 4096;
const MAX_WORDS: usize = 5_000;
const DFA_WORDS: usize = 300;
