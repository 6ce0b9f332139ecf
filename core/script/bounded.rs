//! Rhai's own functions on texts that make something larger than they were given, held to what a script may have while they make
//! it: the engine looks at sizes only afterwards, and a caller's prompt of 32 MB is 16 million words.

use rhai::{Array, Dynamic, Engine, ImmutableString};

use super::desk::{Fail, fail};

/// In place of the packages' functions of the same names, which must be there already.
pub fn register(engine: &mut Engine) {
    engine.register_fn("split", |text: &mut ImmutableString| match text.is_empty() {
        true => whole(text),
        false => pieces(text.split_whitespace()),
    });
    engine.register_fn("to_chars", |text: &str| pieces(text.chars()));
    engine.register_fn("split", |text: &mut ImmutableString, by: &str| match is_one(text, by) {
        true => whole(text),
        false => pieces(text.split(by)),
    });
    engine.register_fn("split", |text: &mut ImmutableString, by: &str, most: i64| {
        match most <= 1 || is_one(text, by) {
            true => whole(text),
            false => pieces(text.splitn(count(most), by)),
        }
    });
    engine.register_fn("split", |text: &mut ImmutableString, by: char| pieces(text.split(by)));
    engine.register_fn("split", |text: &mut ImmutableString, by: char, most: i64| pieces(text.splitn(count(most), by)));
    engine.register_fn("split_rev", |text: &mut ImmutableString, by: &str| match is_one(text, by) {
        true => whole(text),
        false => pieces(text.rsplit(by)),
    });
    engine.register_fn("split_rev", |text: &mut ImmutableString, by: &str, most: i64| {
        match most <= 1 || is_one(text, by) {
            true => whole(text),
            false => pieces(text.rsplitn(count(most), by)),
        }
    });
    engine.register_fn("split_rev", |text: &mut ImmutableString, by: char| pieces(text.rsplit(by)));
    engine.register_fn("split_rev", |text: &mut ImmutableString, by: char, most: i64| {
        pieces(text.rsplitn(count(most), by))
    });
    engine.register_fn("replace", |text: &mut ImmutableString, find: &str, with: &str| replace(text, find, with));
    engine.register_fn("replace", |text: &mut ImmutableString, find: &str, with: char| {
        replace(text, find, with.encode_utf8(&mut [0; 4]))
    });
    engine.register_fn("replace", |text: &mut ImmutableString, find: char, with: &str| {
        replace(text, find.encode_utf8(&mut [0; 4]), with)
    });
    engine.register_fn("replace", |text: &mut ImmutableString, find: char, with: char| {
        replace(text, find.encode_utf8(&mut [0; 4]), with.encode_utf8(&mut [0; 4]))
    });
}

/// Has this JSON text more values than arrays and maps may hold together? Whatever it has, a parser makes all of it first.
pub fn has_too_much(json: &str) -> bool {
    // Each value but the first has a mark before it.
    if json.len() <= 2 * MOST_ENTRIES {
        return false;
    }
    let (mut within, mut escaped, mut marks) = (false, false, 0);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if within => escaped = true,
            b'"' => within = !within,
            b',' | b'[' | b'{' if !within => marks += 1,
            _ => {}
        }
    }
    marks > 2 * MOST_ENTRIES
}

/// As Rhai has it: a text without the separator is itself.
fn is_one(text: &str, by: &str) -> bool {
    text.is_empty() || (!by.is_empty() && !text.contains(by))
}

fn whole(text: &ImmutableString) -> Result<Array, Fail> {
    Ok(vec![text.clone().into()])
}

fn count(most: i64) -> usize {
    usize::try_from(most).unwrap_or(0).max(1)
}

fn pieces<T: Into<Dynamic>>(all: impl Iterator<Item = T>) -> Result<Array, Fail> {
    let pieces: Array = all.take(MOST_ENTRIES + 1).map(Into::into).collect();
    match pieces.len() > MOST_ENTRIES {
        true => Err(fail(format!("the text has more than {MOST_ENTRIES} pieces, which is all that an array may have"))),
        false => Ok(pieces),
    }
}

fn replace(text: &mut ImmutableString, find: &str, with: &str) -> Result<(), Fail> {
    if text.is_empty() {
        return Ok(());
    }
    let more = match with.len().saturating_sub(find.len()) {
        0 => 0,
        more => text.matches(find).count().saturating_mul(more),
    };
    if text.len().saturating_add(more) > MOST_BYTES {
        return Err(fail("the text would become too long"));
    }
    *text = text.replace(find, with).into();
    Ok(())
}

/// Of an array, and of a map.
pub const MOST_ENTRIES: usize = 10_000;
/// Of a text: a prompt may be as large as a body, and the wall-time backstop bounds what copies of it cost.
pub const MOST_BYTES: usize = 32 << 20;
