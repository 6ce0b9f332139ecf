//! Threads whose refusals are nobody's: rehearsals meet limits that no caller met. Says only whether this is one.

use std::cell::Cell;

thread_local! {
    static UNHEARD: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without counting what is refused meanwhile. For a thread that does nothing else.
pub fn unheard<T>(f: impl FnOnce() -> T) -> T {
    let before = UNHEARD.replace(true);
    let value = f();
    UNHEARD.set(before);
    value
}

pub fn here() -> bool {
    UNHEARD.get()
}
