//! Why a call failed, and what follows: one row a cause, one column a question. Retries, failover, the breaker, keys and what a
//! caller hears ask this table and nothing else; the README's chapter "Errors" shows it. Decides, and does nothing.

use crate::{
    codec::said,
    error::{Error, Kind},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    RateLimit,
    Quota,
    Auth,
    Context,
    Policy,
    Overload,
    Timeout,
    Slow,
    Network,
    BadAnswer,
    Missing,
    Lacking,
    Budget,
    Resting,
    Refused,
    Own,
}

/// What follows from a cause.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub cause: Cause,
    /// In traces and in the README.
    pub name: &'static str,
    pub means: &'static str,
    pub breaker: Counts,
    pub again: Again,
    pub key: Keys,
    pub next: Next,
    pub client: &'static str,
}

/// What it says of the target's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// The target itself is ill.
    Ill,
    /// It works: the fault lies elsewhere.
    Well,
    Nothing,
}

/// May the same target be asked once more?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    Never,
    /// When it said how long to wait.
    Told,
    /// When nothing can have been done: no connection came about, or the upstream said that it could not.
    Undone,
}

/// And with another key of its provider?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    Same,
    /// The key rests, and the next one that does not is tried at once.
    Another,
}

/// Where the request goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To the targets behind it.
    Targets,
    /// To those of them that are known to read more, then to the alias's `context_failover`.
    Longer,
    /// To the alias's `content_failover`, if it has one.
    Content,
    /// Nowhere.
    End,
}

impl Cause {
    pub fn of(error: &Error) -> Cause {
        match error.kind {
            Kind::UpstreamRateLimited if error.code() == said::QUOTA => Cause::Quota,
            Kind::UpstreamRateLimited => Cause::RateLimit,
            Kind::UpstreamAuth => Cause::Auth,
            Kind::UpstreamOverloaded => Cause::Overload,
            Kind::UpstreamTimeout if error.code() == TOO_SLOW => Cause::Slow,
            Kind::UpstreamTimeout => Cause::Timeout,
            // What an upstream said itself came over a network that works.
            Kind::Upstream if error.upstream.is_none() && NETWORK.contains(&error.code()) => Cause::Network,
            Kind::Upstream => Cause::BadAnswer,
            Kind::UpstreamRefused if error.code() == said::CONTEXT => Cause::Context,
            Kind::UpstreamRefused if said::is_policy(error.code()) => Cause::Policy,
            Kind::UpstreamRefused if error.status() == 404 => Cause::Missing,
            Kind::UpstreamRefused => Cause::Refused,
            Kind::Unsupported => Cause::Lacking,
            Kind::BudgetExceeded => Cause::Budget,
            Kind::NoTarget => Cause::Resting,
            _ => Cause::Own,
        }
    }

    pub fn rule(self) -> &'static Rule {
        // Rows stand in the order of the causes; a test says so.
        &RULES[self as usize]
    }
}

use {Again::*, Counts::*, Keys::*, Next::*};

pub const RULES: [Rule; 16] = [
    Rule {
        cause: Cause::RateLimit,
        name: "rate limit",
        means: "429",
        breaker: Nothing,
        again: Told,
        key: Another,
        next: Targets,
        client: "429 `upstream_rate_limited`, the smallest wait",
    },
    Rule {
        cause: Cause::Quota,
        name: "quota",
        means: "402, `insufficient_quota`, a credit or usage limit that is reached",
        breaker: Nothing,
        again: Never,
        key: Another,
        next: Targets,
        client: "429 `insufficient_quota`",
    },
    Rule {
        cause: Cause::Auth,
        name: "auth",
        means: "401, 403, a key that is not valid",
        breaker: Nothing,
        again: Never,
        key: Another,
        next: Targets,
        client: "502 `upstream_auth_error`",
    },
    Rule {
        cause: Cause::Context,
        name: "context length",
        means: "the prompt is longer than the model reads",
        breaker: Well,
        again: Never,
        key: Same,
        next: Longer,
        client: "400 `context_length_exceeded`",
    },
    Rule {
        cause: Cause::Policy,
        name: "content policy",
        means: "the provider does not allow the content; with `content_failover` also an empty answer of its filter",
        breaker: Well,
        again: Never,
        key: Same,
        next: Content,
        client: "400, the provider's code or `content_policy_violation`",
    },
    Rule {
        cause: Cause::Overload,
        name: "overload",
        means: "503, 529",
        breaker: Ill,
        again: Undone,
        key: Same,
        next: Targets,
        client: "503 `upstream_overloaded`",
    },
    Rule {
        cause: Cause::Timeout,
        name: "timeout",
        means: "408, 504, one of `timeouts`",
        breaker: Ill,
        again: Undone,
        key: Same,
        next: Targets,
        client: "504 `upstream_timeout`, `connect_timeout`",
    },
    Rule {
        cause: Cause::Slow,
        name: "too slow",
        means: "fewer tokens a second than `min_speed`",
        breaker: Ill,
        again: Never,
        key: Same,
        next: Targets,
        client: "504 `too_slow`",
    },
    Rule {
        cause: Cause::Network,
        name: "network",
        means: "no connection, or one that breaks off",
        breaker: Ill,
        again: Undone,
        key: Same,
        next: Targets,
        client: "502 `connection_refused`, `upstream_disconnected`",
    },
    Rule {
        cause: Cause::BadAnswer,
        name: "bad answer",
        means: "500, 502, what is no answer, a stream without its end",
        breaker: Ill,
        again: Undone,
        key: Same,
        next: Targets,
        client: "502 `upstream_failed`",
    },
    Rule {
        cause: Cause::Missing,
        name: "no such model",
        means: "404",
        breaker: Well,
        again: Never,
        key: Same,
        next: Targets,
        client: "404, the provider's words",
    },
    Rule {
        cause: Cause::Lacking,
        name: "lacks a feature",
        means: "known before the call: tools, media, a schema",
        breaker: Nothing,
        again: Never,
        key: Same,
        next: Targets,
        client: "400 `unsupported_feature`",
    },
    Rule {
        cause: Cause::Budget,
        name: "budget",
        means: "known before the call: it may cost more than is left",
        breaker: Nothing,
        again: Never,
        key: Same,
        next: Targets,
        client: "429 `budget_exceeded`",
    },
    Rule {
        cause: Cause::Resting,
        name: "resting",
        means: "known before the call: its breaker is open",
        breaker: Nothing,
        again: Never,
        key: Same,
        next: Targets,
        client: "503 `no_healthy_target`",
    },
    Rule {
        cause: Cause::Refused,
        name: "refused",
        means: "any other 4xx: the request's own fault",
        breaker: Well,
        again: Never,
        key: Same,
        next: End,
        client: "the provider's status and words",
    },
    Rule {
        cause: Cause::Own,
        name: "the gateway's own",
        means: "a stage, a limit, the client itself",
        breaker: Nothing,
        again: Never,
        key: Same,
        next: End,
        client: "its own status",
    },
];

/// The table as the README shows it.
pub fn table() -> String {
    let mut out = String::from(
        "| cause | what it is | breaker | same target again | another key | then | what is heard when all is tried |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for Rule { cause: _, name, means, breaker, again, key, next, client } in &RULES {
        let breaker = match breaker {
            Ill => "a failure",
            Well => "well",
            Nothing => "",
        };
        let again = match again {
            Never => "",
            Told => "after its `retry-after`",
            Undone => "if nothing was done",
        };
        let key = match key {
            Same => "",
            Another => "yes, this one rests",
        };
        let next = match next {
            Targets => "the next target",
            Longer => "targets that read more, `context_failover`",
            Content => "`content_failover`",
            End => "the end",
        };
        out.push_str(&format!("| {name} | {means} | {breaker} | {again} | {key} | {next} | {client} |\n"));
    }
    out
}

/// The code of a stream that stayed below `min_speed`.
pub const TOO_SLOW: &str = "too_slow";
const NETWORK: [&str; 2] = ["connection_refused", "upstream_disconnected"];
