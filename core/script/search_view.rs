//! Searches in the last user text, as methods of `request`, and the word lists for them: loops that a script need not
//! make itself.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use rhai::{Array, Dynamic, ImmutableString};

use super::{
    convert,
    desk::{Fail, fail},
    reference::Registrar,
    request_view::RequestView,
    words::{END, Words},
};

pub fn register(r: &mut Registrar<'_>) {
    r.tell(
        "text_has(words)",
        "is any of the words anywhere in the last user text? Upper and lower case count the same",
    );
    r.engine.register_fn("text_has", |v: &mut RequestView, words: Words| search(v, |text| words.anywhere(text)));
    r.engine.register_fn("text_has", |v: &mut RequestView, list: Array| {
        let words = known_list(&list)?;
        search(v, |text| words.anywhere(text))
    });
    r.tell("text_has_word(words)", "the same for whole words: \"prove\" is not in \"improve\"");
    r.engine.register_fn("text_has_word", |v: &mut RequestView, words: Words| search(v, |text| words.as_word(text)));
    r.engine.register_fn("text_has_word", |v: &mut RequestView, list: Array| {
        let words = known_list(&list)?;
        search(v, |text| words.as_word(text))
    });
    r.tell(
        "topic(topics)",
        "the first of `topics` with a whole word in the first or last 1,024 bytes of the last user text, or ()",
    );
    r.engine.register_fn("topic", |v: &mut RequestView, words: Words| -> Result<Dynamic, Fail> {
        v.0.doc(|doc| {
            let ends = doc.last_user_ends(END)?;
            let best = ends.iter().filter_map(|t| words.group(t)).min_by_key(|g| words.rank(g));
            Ok(best.map_or(Dynamic::UNIT, convert::str))
        })
    });
    r.object("Word lists", "Made once, at the top of a script: `const LONG = words([\"essay\", \"report\"]);`. They are found in one pass over the text.");
    r.tell(
        "words(array)",
        "a list for text_has, text_has_word and has_word; one that is made in a function (`words(context.config.block)`) is kept for the next call",
    );
    r.engine.register_fn("words", |list: Array| known_list(&list));
    r.tell("has_word(text, words)", "is any of the words in the text, as a word of its own?");
    r.engine.register_fn("has_word", |text: ImmutableString, words: Words| words.as_word(&text));
    r.engine.register_fn("has_word", |text: ImmutableString, list: Array| -> Result<bool, Fail> {
        Ok(known_list(&list)?.as_word(&text))
    });
    r.tell(
        "topics(array)",
        "named lists, most important first: `topics([[\"essay\", [\"essay\", \"report\"]], [\"code\", [\"bug\"]]])`",
    );
    r.engine.register_fn("topics", |list: Array| -> Result<Words, Fail> {
        let wrong = || fail("topics([[\"name\", [\"word\", …]], …]) takes pairs of a name and its words");
        let mut groups = Vec::new();
        for pair in &list {
            let pair = pair.as_array_ref().map_err(|_| wrong())?;
            let [name, words] = pair.as_slice() else { return Err(wrong()) };
            let name = convert::text(name).ok_or_else(wrong)?;
            let words = words.as_array_ref().map_err(|_| wrong())?;
            groups.push((name, words.iter().map(|w| convert::text(w).ok_or_else(wrong)).collect::<Result<_, _>>()?));
        }
        Words::groups(groups).map_err(fail)
    });
    r.engine.register_type_with_name::<Words>("Words");
}

fn search(view: &RequestView, found: impl FnOnce(&str) -> bool) -> Result<bool, Fail> {
    view.0.doc(|doc| Ok(found(&doc.last_user_text()?)))
}

/// A list that was made before is used again: making one costs more than a search.
fn known_list(list: &Array) -> Result<Words, Fail> {
    static KNOWN: LazyLock<Mutex<HashMap<Vec<String>, Words>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key: Option<Vec<String>> = list.iter().map(convert::text).collect();
    let key = key.ok_or_else(|| fail("a word list holds strings"))?;
    if let Some(found) = known().get(&key) {
        return Ok(found.clone());
    }
    let made = list_of(list)?;
    let mut known = known();
    if known.len() >= MOST_LISTS {
        known.clear();
    }
    known.insert(key, made.clone());
    Ok(made)
}

const MOST_LISTS: usize = 64;

fn list_of(list: &Array) -> Result<Words, Fail> {
    let words = list.iter().map(|w| convert::text(w).ok_or_else(|| fail("a word list holds strings")));
    Words::list(words.collect::<Result<_, _>>()?).map_err(fail)
}
