//! Which of several failures the caller hears of (CONTRACT: 400-class, then 429 with the smallest wait, then 504, then
//! 502).

use std::time::Duration;

use crate::error::{Error, Kind};

/// The most telling of what the targets answered. A target that only lacked a feature was passed over: that is told only
/// when there is nothing else to tell.
pub fn most_telling(errors: Vec<Error>) -> Error {
    errors
        .into_iter()
        .enumerate()
        .min_by_key(|(at, e)| (rank(e), if e.status() == 429 { wait(e) } else { Duration::ZERO }, *at))
        .map(|(_, e)| e)
        .unwrap_or_else(|| {
            Error::new(Kind::NoTarget, "no target of this model can be used right now; try again shortly")
        })
}

fn rank(error: &Error) -> u8 {
    match (error.kind, error.status()) {
        (Kind::Unsupported, _) => 5,
        (_, 429) => 1,
        (_, 400..=499) => 0,
        (_, 504) => 2,
        (_, 502) => 3,
        _ => 4,
    }
}

fn wait(error: &Error) -> Duration {
    error.retry_after.unwrap_or(Duration::MAX)
}
