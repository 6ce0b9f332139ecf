//! What one request hides: values and their placeholders, both ways. The same value has the same placeholder; numbers
//! count up by kind in the order of the request, so that the next turn of a conversation makes the same ones.

use crate::detect::{Kind, MAX_DIGITS, placeholder};

#[derive(Debug, Default)]
pub struct Vault {
    entries: Vec<Entry>,
    /// By kind: the entry of each number, from 1.
    numbers: [Vec<Option<u32>>; 6],
    /// Hashes of values → entry + 1, open addressing, a power of two; empty while there are few.
    index: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    number: u32,
    value: String,
}

/// More different values than placeholders can name.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Vault {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many values of a kind are hidden.
    pub fn count(&self, kind: Kind) -> usize {
        self.entries.iter().filter(|e| e.kind == kind).count()
    }

    /// This number stands in the request already, as the caller's own text: it will never be restored.
    pub fn reserve(&mut self, kind: Kind, number: u32) {
        let numbers = &mut self.numbers[kind as usize];
        let at = number as usize;
        if at == 0 || at > MOST {
            return;
        }
        // At most 400 KB a kind, however far ahead the number is.
        if at > numbers.len() {
            numbers.resize(at, None);
        }
        numbers[at - 1] = numbers[at - 1].or(Some(RESERVED));
    }

    /// Writes the placeholder of `value`, a new one when it has none.
    pub fn hide(&mut self, kind: Kind, value: &str, out: &mut String) -> Result<(), Full> {
        let entry = match self.find(value) {
            Some(entry) => entry,
            None => self.insert(kind, value)?,
        };
        let Entry { kind, number, .. } = self.entries[entry];
        write(kind, number, out);
        Ok(())
    }

    /// The value behind a placeholder of this request.
    pub fn value(&self, kind: Kind, number: u32) -> Option<&str> {
        let entry = (*self.numbers[kind as usize].get(number as usize - 1)?)?;
        self.entries.get(entry as usize).map(|e| e.value.as_str())
    }

    /// `text` with each known value replaced by its placeholder, the longest that stands in a place; `None`: it holds none.
    pub fn hide_known(&self, text: &str) -> Option<String> {
        let mut begins = [false; 256];
        self.entries.iter().for_each(|e| begins[usize::from(e.value.as_bytes()[0])] = true);
        let (mut out, mut from, mut at) = (String::new(), 0, 0);
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            let known = || self.entries.iter().filter(|e| rest.starts_with(e.value.as_bytes()));
            match if begins[usize::from(rest[0])] { known().max_by_key(|e| e.value.len()) } else { None } {
                Some(entry) => {
                    out.push_str(&text[from..at]);
                    write(entry.kind, entry.number, &mut out);
                    at += entry.value.len();
                    from = at;
                }
                None => at += 1,
            }
        }
        if from == 0 {
            return None;
        }
        out.push_str(&text[from..]);
        Some(out)
    }

    fn insert(&mut self, kind: Kind, value: &str) -> Result<usize, Full> {
        let entry = self.entries.len();
        let numbers = &mut self.numbers[kind as usize];
        let given = self.entries.iter().rev().find(|e| e.kind == kind).map_or(0, |e| e.number as usize);
        let free = (given..numbers.len()).find(|n| numbers[*n].is_none()).unwrap_or(numbers.len());
        if free >= MOST {
            return Err(Full);
        }
        if free == numbers.len() {
            numbers.push(None);
        }
        numbers[free] = Some(entry as u32);
        self.entries.push(Entry { kind, number: free as u32 + 1, value: value.to_owned() });
        self.note(entry);
        Ok(entry)
    }

    fn find(&self, value: &str) -> Option<usize> {
        if self.index.is_empty() {
            return self.entries.iter().position(|e| e.value == value);
        }
        let mut at = hash(value) as usize & (self.index.len() - 1);
        while self.index[at] != 0 {
            let entry = self.index[at] as usize - 1;
            if self.entries[entry].value == value {
                return Some(entry);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
        None
    }

    /// Puts a new entry into the index, which grows to stay half empty.
    fn note(&mut self, entry: usize) {
        if self.entries.len() <= FEW {
            return;
        }
        if self.index.len() < self.entries.len() * 2 {
            self.index = vec![0; (self.entries.len() * 4).next_power_of_two()];
            (0..entry).for_each(|e| self.place(e));
        }
        self.place(entry);
    }

    fn place(&mut self, entry: usize) {
        let mut at = hash(&self.entries[entry].value) as usize & (self.index.len() - 1);
        while self.index[at] != 0 {
            at = (at + 1) & (self.index.len() - 1);
        }
        self.index[at] = entry as u32 + 1;
    }
}

/// `text` with the placeholders of this request as their values; `None` when it holds none. `escape` writes a value.
pub fn restore(vault: &Vault, text: &str, mut escape: impl FnMut(&str, &mut String)) -> Option<String> {
    if vault.is_empty() {
        return None;
    }
    let bytes = text.as_bytes();
    let (mut out, mut from, mut at) = (String::new(), 0, 0);
    while let Some(found) = bytes[at..].iter().position(|b| *b == b'[') {
        at += found;
        let known = placeholder(bytes, at).and_then(|(kind, n, end)| Some((vault.value(kind, n)?, end)));
        match known {
            Some((value, end)) => {
                out.push_str(&text[from..at]);
                escape(value, &mut out);
                (from, at) = (end, end);
            }
            None => at += 1,
        }
    }
    if from == 0 {
        return None;
    }
    out.push_str(&text[from..]);
    Some(out)
}

fn write(kind: Kind, number: u32, out: &mut String) {
    out.push('[');
    out.push_str(kind.label());
    out.push('_');
    write_number(number, out);
    out.push(']');
}

/// Without the machinery of `format!`, which is large.
pub fn write_number(number: u32, out: &mut String) {
    let (mut digits, mut at, mut rest) = ([0u8; 10], 10, number);
    while rest > 0 || at == 10 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits[at..].iter().for_each(|d| out.push(char::from(*d)));
}

/// FNV-1a.
fn hash(value: &str) -> u32 {
    value.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

const RESERVED: u32 = u32::MAX;
const FEW: usize = 12;
/// The largest number of a placeholder.
const MOST: usize = 10usize.pow(MAX_DIGITS as u32) - 1;
