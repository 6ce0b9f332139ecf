//! The text of gateway.toml and where everything stands in it: spans of keys and values, lines, and excerpts for
//! messages. An excerpt never shows what may be a secret.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Problem;

pub struct Source<'t> {
    /// As messages name it.
    pub name: String,
    pub text: &'t str,
    pub tree: Spanned<DeTable<'t>>,
    /// Spans of values that no message may show.
    sealed: Vec<Range<usize>>,
}

impl<'t> Source<'t> {
    /// The file's tree as far as it can be read, and every syntax error in it.
    pub fn parse(name: &str, text: &'t str) -> (Self, Vec<Problem>) {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let mut sealed = Vec::new();
        seal(tree.get_ref(), &mut sealed);
        let source = Source { name: name.to_owned(), text, tree, sealed };
        let problem = |e: &toml::de::Error| source.syntax(e.span().unwrap_or(0..0), e.message());
        let mut problems: Vec<Problem> = errors.iter().map(problem).collect();
        // One slip confuses the parser more than once: the first word on a line is the true one.
        problems.dedup_by_key(|p| p.line);
        (source, problems)
    }

    pub fn at_value(&self, path: &[String], message: impl Into<String>) -> Problem {
        let (key, value) = self.spans(path);
        self.problem(value.unwrap_or(key), message.into())
    }

    pub fn at_key(&self, path: &[String], message: impl Into<String>) -> Problem {
        self.problem(self.spans(path).0, message.into())
    }

    pub fn at(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        self.problem(span, message.into())
    }

    /// Does anything stand there?
    pub fn has(&self, path: &[String]) -> bool {
        self.find(path).is_some()
    }

    /// Entries of a list, good and bad ones.
    pub fn len(&self, path: &[String]) -> usize {
        self.find(path).and_then(|(_, v)| v.get_ref().as_array().map(|a| a.len())).unwrap_or(0)
    }

    /// Where a key stands, for putting things in the order written.
    pub fn offset(&self, path: &[String]) -> usize {
        self.spans(path).0.start
    }

    pub fn line(&self, path: &[String]) -> u32 {
        self.line_of(self.offset(path))
    }

    /// Lines of the top tables and of the tables in them, by dotted key.
    pub fn tables(&self) -> std::collections::BTreeMap<String, u32> {
        let mut lines = std::collections::BTreeMap::new();
        for (section, value) in self.tree.get_ref().iter() {
            let path = vec![section.get_ref().to_string()];
            lines.insert(dotted(&path), self.line(&path));
            for (name, _) in value.get_ref().as_table().into_iter().flat_map(|table| table.iter()) {
                let path = vec![path[0].clone(), name.get_ref().to_string()];
                lines.insert(dotted(&path), self.line(&path));
            }
        }
        lines
    }

    /// Key and value of the path, or of the nearest thing above it that exists.
    fn spans(&self, path: &[String]) -> (Range<usize>, Option<Range<usize>>) {
        for end in (1..=path.len()).rev() {
            if let Some((key, value)) = self.find(&path[..end]) {
                let plain = value.get_ref().as_table().is_none();
                return (key, plain.then(|| value.span()));
            }
        }
        (0..0, None)
    }

    fn find(&self, path: &[String]) -> Option<(Range<usize>, &Spanned<DeValue<'t>>)> {
        let (first, rest) = path.split_first()?;
        let (key, value) = self.tree.get_ref().get_key_value(first.as_str())?;
        let mut found = (key.span(), value);
        for step in rest {
            found = match found.1.get_ref() {
                DeValue::Table(table) => {
                    let (key, value) = table.get_key_value(step.as_str())?;
                    (key.span(), value)
                }
                DeValue::Array(items) => {
                    let item = items.get(index(step)?)?;
                    (item.span(), item)
                }
                _ => return None,
            };
        }
        Some(found)
    }

    fn problem(&self, span: Range<usize>, message: String) -> Problem {
        self.build(span, message, false)
    }

    fn syntax(&self, span: Range<usize>, message: &str) -> Problem {
        self.build(span, message.lines().collect::<Vec<_>>().join(", "), true)
    }

    fn build(&self, span: Range<usize>, message: String, broken: bool) -> Problem {
        let line = self.line_of(span.start);
        Problem { file: self.name.clone(), line, message, excerpt: Some(self.excerpt(span, line, broken)) }
    }

    fn line_of(&self, offset: usize) -> u32 {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        before.iter().filter(|b| **b == b'\n').count() as u32 + 1
    }

    /// The line with a caret under the span; sealed values appear as `***`.
    fn excerpt(&self, span: Range<usize>, line: u32, broken: bool) -> String {
        let start = self.text[..floor(self.text, span.start)].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let hidden = if broken { suspicious(&self.text[start..end], start) } else { self.sealed.clone() };
        let mut shown = String::new();
        let (mut from, mut to) = (None, None);
        let mut skipping = false;
        for (at, c) in self.text[start..end].char_indices().map(|(at, c)| (start + at, c)) {
            if at >= span.start && from.is_none() {
                from = Some(shown.chars().count());
            }
            if at >= span.end && to.is_none() {
                to = Some(shown.chars().count());
            }
            let inside = hidden.iter().any(|h| h.contains(&at));
            match (inside, skipping) {
                (true, false) => shown.push_str("***"),
                (true, true) => {}
                (false, _) => shown.push(if c.is_control() { ' ' } else { c }),
            }
            skipping = inside;
        }
        let shown = shown.trim_end();
        let width = shown.chars().count();
        let from = from.unwrap_or(width);
        let carets = to.unwrap_or(width).saturating_sub(from).clamp(1, WIDEST);
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let clipped: String = shown.chars().take(WIDEST).collect();
        let caret = if from < WIDEST { format!("{}{}", " ".repeat(from), "^".repeat(carets)) } else { String::new() };
        format!("{gutter} |\n{number} | {clipped}\n{gutter} | {caret}")
    }
}

/// `models.smart.targets[0].weight`, with quotes where a name needs them.
pub fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if index(step).is_some() && !text.is_empty() {
            text.push_str(step);
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        let bare = !step.is_empty() && step.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if bare { text.push_str(step) } else { text.push_str(&format!("{step:?}")) }
    }
    text
}

/// A step into a list, as paths write it.
pub fn step(index: usize) -> String {
    format!("[{index}]")
}

fn index(step: &str) -> Option<usize> {
    step.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Every text that may be a credential: under a name that sounds like one, and, where credentials belong or nobody knows
/// what belongs, under any name not known to be harmless (a slip of the key's name must not show its value).
fn seal(tree: &DeTable<'_>, out: &mut Vec<Range<usize>>) {
    for (section, value) in tree.iter() {
        let guarded = !OPEN.contains(&section.get_ref().as_ref());
        seal_value(value, secretive(section.get_ref()), guarded, out);
    }
}

/// A whole gateway.toml, to be shown: what stands under a name that sounds like a credential's, and is no reference to one,
/// appears as `***`. References do not: they say where a secret is.
pub fn masked(text: &str) -> String {
    let (tree, _) = DeTable::parse_recoverable(text);
    let mut hidden = Vec::new();
    for (section, value) in tree.get_ref().iter() {
        seal_value(value, secretive(section.get_ref()), false, &mut hidden);
    }
    hidden.sort_by_key(|span: &Range<usize>| span.start);
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    for span in hidden.into_iter().filter(|span| span.start < span.end) {
        shown.push_str(text.get(from..span.start).unwrap_or_default());
        shown.push_str("\"***\"");
        from = span.end;
    }
    shown.push_str(text.get(from..).unwrap_or_default());
    shown
}

fn seal_value(value: &Spanned<DeValue<'_>>, secret: bool, guarded: bool, out: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::String(text) if (secret && !reference(text)) || (text.contains("://") && text.contains('@')) => {
            out.push(value.span());
        }
        DeValue::Table(table) => {
            for (key, value) in table.iter() {
                let plain = value.get_ref().as_str().is_none() || HARMLESS.contains(&key.get_ref().as_ref());
                let secret = secret || secretive(key.get_ref()) || (guarded && !plain);
                seal_value(value, secret && key.get_ref() != "auth", guarded, out);
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| seal_value(item, secret, guarded, out)),
        _ => {}
    }
}

fn secretive(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRETIVE.iter().any(|word| key.contains(word))
}

/// Does this say where a secret is?
pub fn reference(text: &str) -> bool {
    ["env:", "file:", "store:", "vault:", "aws-sm:", "cmd:"].iter().any(|form| text.starts_with(form))
}

/// Of a line that is no TOML: quoted text that is no reference, and all that follows a secretive name.
fn suspicious(line: &str, start: usize) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let assigned = line.find('=').filter(|at| secretive(&line[..*at]));
    if let Some(at) = assigned.filter(|at| !reference(line[at + 1..].trim_start_matches([' ', '[', '"', '\'']))) {
        hidden.push(start + at + 1..start + line.len());
    }
    let mut open: Option<(usize, char)> = None;
    for (at, c) in line.char_indices() {
        match open {
            None if c == '"' || c == '\'' => open = Some((at + 1, c)),
            Some((from, quote)) if c == quote => {
                if !reference(&line[from..at]) {
                    hidden.push(start + from..start + at);
                }
                open = None;
            }
            _ => {}
        }
    }
    if let Some((from, _)) = open.filter(|(from, _)| !reference(&line[*from..])) {
        hidden.push(start + from..start + line.len());
    }
    hidden
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

const SECRETIVE: [&str; 7] = ["key", "token", "secret", "password", "authorization", "credential", "headers"];

/// Sections in which no credential belongs.
const OPEN: [&str; 7] = ["server", "store", "auth", "models", "teams", "stages", "rollout"];

/// Keys of the other sections whose texts are none.
const HARMLESS: [&str; 16] = [
    "row",
    "base_url",
    "format",
    "auth",
    "ca",
    "listen",
    "connect",
    "first_event",
    "idle",
    "whole",
    "kind",
    "region",
    "project",
    "location",
    "resource",
    "api_version",
];

/// Characters of a line that an excerpt shows.
const WIDEST: usize = 160;
