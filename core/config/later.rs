//! Keys and words that users were promised and that this version does not have yet: refused by name, never ignored.

/// A key, `*` standing for any name or index.
const KEYS: [&[&str]; 4] =
    [&["cache"], &["overload"], &["teams", "*", "priority"], &["models", "*", "targets", "*", "quota"]];

/// Words of a key.
const WORDS: [(&[&str], &[&str]); 0] = [];

pub fn key(path: &[String]) -> bool {
    KEYS.iter().any(|pattern| matches(pattern, path))
}

pub fn word(path: &[String], word: &str) -> bool {
    WORDS.iter().any(|(pattern, words)| matches(pattern, path) && words.contains(&word))
}

fn matches(pattern: &[&str], path: &[String]) -> bool {
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(p, s)| *p == "*" || p == s)
}
