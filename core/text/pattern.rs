//! Regular expressions in linear time: no back references, no look-around, a bound on the compiled size and on the text
//! that is searched.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use regex::{Regex, RegexBuilder};

/// A compiled pattern; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pattern(Arc<Regex>);

impl Pattern {
    /// Errors say what is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<Pattern, String> {
        if pattern.len() > MOST_PATTERN {
            return Err(format!("a pattern may have {MOST_PATTERN} bytes"));
        }
        let built = RegexBuilder::new(pattern).size_limit(MOST_SIZE).dfa_size_limit(MOST_TABLE).nest_limit(64).build();
        built.map(|regex| Pattern(Arc::new(regex))).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "the pattern is too large: shorten its repetitions".to_owned(),
            // The last line says what; those before it draw the pattern.
            error => error.to_string().lines().last().unwrap_or("not a pattern").trim().to_owned(),
        })
    }

    /// The same, and an earlier one is used again.
    pub fn cached(pattern: &str) -> Result<Pattern, String> {
        static KNOWN: LazyLock<Mutex<HashMap<String, Pattern>>> = LazyLock::new(Mutex::default);
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(pattern) {
            return Ok(found.clone());
        }
        let new = Pattern::new(pattern)?;
        let mut known = known();
        if known.len() >= MOST_CACHED {
            // Patterns that stand in scripts are few; a full cache holds patterns made of texts.
            known.clear();
        }
        known.insert(pattern.to_owned(), new.clone());
        Ok(new)
    }

    pub fn matches(&self, text: &str) -> Result<bool, String> {
        Ok(self.0.is_match(fit(text)?))
    }

    pub fn first<'t>(&self, text: &'t str) -> Result<Option<&'t str>, String> {
        Ok(self.0.find(fit(text)?).map(|found| found.as_str()))
    }

    /// At most `most` of them.
    pub fn all<'t>(&self, text: &'t str, most: usize) -> Result<Vec<&'t str>, String> {
        Ok(self.0.find_iter(fit(text)?).take(most).map(|found| found.as_str()).collect())
    }

    /// The groups of the first match by number, the whole match first; `None` without one.
    pub fn groups<'t>(&self, text: &'t str) -> Result<Option<Vec<Option<&'t str>>>, String> {
        let found = self.0.captures(fit(text)?);
        Ok(found.map(|groups| groups.iter().map(|group| group.map(|g| g.as_str())).collect()))
    }

    /// Every match replaced; `$1` and `${name}` stand for groups. `go_on` is asked now and then: a text may match everywhere.
    pub fn replaced(&self, text: &str, with: &str, go_on: &dyn Fn() -> bool) -> Result<String, String> {
        let text = fit(text)?;
        let references = with.bytes().filter(|byte| *byte == b'$').count();
        let (mut out, mut from) = (String::with_capacity(text.len()), 0);
        for (count, groups) in self.0.captures_iter(text).enumerate() {
            if count % ASK_EVERY == ASK_EVERY - 1 && !go_on() {
                return Err("stopped: replacing took longer than the call's time limit".to_owned());
            }
            let Some(whole) = groups.get(0) else { continue };
            out.push_str(&text[from..whole.start()]);
            // Before it is made: one match may be long and stand there often. A group is never longer than its match.
            let most = with.len().saturating_add(references.saturating_mul(whole.len()));
            if out.len().saturating_add(most) > 2 * MOST_TEXT {
                return Err("the text would become too long".to_owned());
            }
            groups.expand(with, &mut out);
            from = whole.end();
        }
        out.push_str(&text[from..]);
        Ok(out)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

fn fit(text: &str) -> Result<&str, String> {
    match text.len() {
        0..=MOST_TEXT => Ok(text),
        bytes => Err(format!("a pattern is searched for in at most {} KiB, not in {bytes} bytes", MOST_TEXT >> 10)),
    }
}

const MOST_PATTERN: usize = 4096;
/// Of a compiled pattern: several thousand states.
const MOST_SIZE: usize = 256 << 10;
const MOST_TABLE: usize = 1 << 20;
const MOST_CACHED: usize = 256;
/// Replacements between two looks at the time.
const ASK_EVERY: usize = 64;
/// A text that a pattern is searched for in.
pub const MOST_TEXT: usize = 1 << 20;
