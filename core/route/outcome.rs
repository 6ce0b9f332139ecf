//! Which of several failures the caller hears of (CONTRACT: 400-class, then 429 with the smallest wait, then 504, then
//! 502).

use std::time::Duration;

use super::{Cause, Next, Target};
use crate::{
    codec::said,
    error::{Error, Kind},
    quota::Refused,
};

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

/// May another target do better after this failure? The request's own faults end it, but for what only this target lacks.
pub fn goes_on(error: &Error) -> bool {
    Cause::of(error).rule().next == Next::Targets
}

/// A target whose breaker is open.
pub fn ejected(target: &Target, wait: Duration) -> Error {
    Error::new(Kind::NoTarget, format!("{} rests after repeated failures; try again shortly", target.name))
        .retry_after(wait)
}

/// Every key of a target's provider rests.
pub fn keys_rest(target: &Target, wait: Duration) -> Error {
    let message =
        format!("every key of {} rests after refusals of the provider; try again later", target.provider.name);
    Error::new(Kind::UpstreamRateLimited, message).retry_after(wait)
}

/// What its provider grants is used up, or its provider said to wait. `unpaid`: it said that the account has nothing left.
pub fn spent(target: &Target, wait: Option<Duration>, unpaid: bool) -> Error {
    let provider = &target.provider.name;
    let message = match unpaid {
        true => format!("the gateway's account at {provider} has no quota left; add credit or choose another model"),
        false => format!("what {provider} grants of {} is used up for now; try again later", target.model),
    };
    let error = Error::new(Kind::UpstreamRateLimited, message);
    let error = if unpaid { error.with_code(said::QUOTA) } else { error };
    match wait {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

/// A quota gave nothing for an attempt.
pub fn denied(target: &Target, refused: &Refused) -> Error {
    if refused.away {
        let message = format!("the quota of {} cannot be counted right now; try again shortly", target.name);
        return Error::new(Kind::NoTarget, message).retry_after(refused.wait);
    }
    spent(target, Some(refused.wait), refused.unpaid)
}

/// The provider refuses every key it was shown: that is the operator's to mend, and never the caller's 401.
pub fn keys_refused(target: &Target) -> Error {
    let message = format!("{} refuses this gateway's keys; its operator has to look at them", target.provider.name);
    Error::new(Kind::UpstreamAuth, message)
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
