//! Why a limit refuses, and the words for it: the same whoever counted, this process or a store that several share.

use std::time::Duration;

use super::gcra::Refused;
use crate::{
    config::Scope,
    error::{Error, Kind},
};

/// A limit that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Its name in files and messages.
    pub limit: &'static str,
    pub bound: u64,
    pub refused: Refused,
}

impl Denied {
    pub fn new(limit: &'static str, bound: u64, refused: Refused) -> Denied {
        Denied { limit, bound, refused }
    }

    /// As the caller is told. `name`: of the scope.
    pub fn error(self, scope: &Scope, name: &str) -> Error {
        let Denied { limit, bound, refused } = self;
        // One request, or what was cut to fit: it always fits a whole bucket.
        let wait = if let Refused::Wait(wait) = refused { wait } else { A_MOMENT };
        let whose = whose(scope, name);
        let seconds = wait.as_secs_f64().ceil().max(1.0);
        let words = match limit {
            "concurrent" => format!("{bound} requests in flight, as many as it may have (`{limit}`)"),
            _ => format!("used its {bound} {} (`{limit}`)", unit(limit)),
        };
        let message = format!("{whose} has {words}; try again in {seconds} s");
        let error = match scope {
            // Another target may have room.
            Scope::Provider(_) => Error::new(Kind::UpstreamRateLimited, message).with_code("rate_limited"),
            _ => Error::new(Kind::RateLimited, message),
        };
        error.retry_after(wait)
    }
}

/// A prompt that is larger than the whole limit.
pub fn too_large(scope: &Scope, name: &str, (limit, bound): (&'static str, u64), input: u64) -> Error {
    let message = format!(
        "this request needs about {input} tokens, and {} may use {bound} {} (`{limit}`); send less at once, or ask the \
         gateway's operator for more",
        whose(scope, name),
        unit(limit).trim_start_matches("input tokens ").trim_start_matches("tokens "),
    );
    match scope {
        Scope::Provider(_) => Error::new(Kind::UpstreamRateLimited, message).with_code("rate_limited"),
        _ => Error::new(Kind::RateLimited, message),
    }
}

fn unit(limit: &str) -> &'static str {
    match limit {
        "requests_per_minute" => "requests a minute",
        "input_tokens_per_minute" => "input tokens a minute",
        "output_tokens_per_minute" => "output tokens a minute",
        "tokens_per_minute" => "tokens a minute",
        "requests_per_day" => "requests a day",
        _ => "tokens a day",
    }
}

pub fn whose(scope: &Scope, name: &str) -> String {
    format!("{} `{name}`", scope.kind())
}

/// Nobody knows when a running request ends.
pub const A_MOMENT: Duration = Duration::from_secs(1);
