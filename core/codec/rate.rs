//! Rate limits as answer headers, in each family's own names. Gemini's API has none: its clients get those that most
//! clients of any gateway look for.

use std::time::Duration;

/// The tightest limits that bind a caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateFacts {
    pub requests: Option<RateFact>,
    pub tokens: Option<RateFact>,
    pub input_tokens: Option<RateFact>,
    pub output_tokens: Option<RateFact>,
    /// Unix seconds.
    pub now: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct RateFact {
    pub limit: u64,
    pub left: u64,
    /// Until all of it is there again.
    pub full_after: Duration,
}

pub type Headers = Vec<(&'static str, String)>;

/// `x-ratelimit-…`, times as `6m0s` or `120ms`.
pub fn plain(facts: &RateFacts) -> Headers {
    let named = [
        (
            facts.requests,
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ),
        (facts.tokens, ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]),
        (
            facts.input_tokens,
            ["x-ratelimit-limit-input-tokens", "x-ratelimit-remaining-input-tokens", "x-ratelimit-reset-input-tokens"],
        ),
        (
            facts.output_tokens,
            [
                "x-ratelimit-limit-output-tokens",
                "x-ratelimit-remaining-output-tokens",
                "x-ratelimit-reset-output-tokens",
            ],
        ),
    ];
    write(named, span)
}

/// `anthropic-ratelimit-…`, times as points in time.
pub fn dated(facts: &RateFacts) -> Headers {
    let named = [
        (
            facts.requests,
            [
                "anthropic-ratelimit-requests-limit",
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ],
        ),
        (
            facts.tokens,
            [
                "anthropic-ratelimit-tokens-limit",
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ],
        ),
        (
            facts.input_tokens,
            [
                "anthropic-ratelimit-input-tokens-limit",
                "anthropic-ratelimit-input-tokens-remaining",
                "anthropic-ratelimit-input-tokens-reset",
            ],
        ),
        (
            facts.output_tokens,
            [
                "anthropic-ratelimit-output-tokens-limit",
                "anthropic-ratelimit-output-tokens-remaining",
                "anthropic-ratelimit-output-tokens-reset",
            ],
        ),
    ];
    let now = facts.now;
    write(named, move |wait| {
        // Whole seconds, rounded up: at that time it has come true.
        let seconds = i64::try_from(wait.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(now.saturating_add(seconds)).unwrap_or(jiff::Timestamp::MAX).to_string()
    })
}

fn write(named: [(Option<RateFact>, [&'static str; 3]); 4], time: impl Fn(Duration) -> String) -> Headers {
    let mut headers = Headers::with_capacity(12);
    for (fact, [limit, left, reset]) in named {
        let Some(fact) = fact else { continue };
        headers.push((limit, fact.limit.to_string()));
        headers.push((left, fact.left.to_string()));
        headers.push((reset, time(fact.full_after)));
    }
    headers
}

fn span(wait: Duration) -> String {
    let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    let (seconds, rest) = (millis / 1000, millis % 1000);
    match (seconds / 60, seconds % 60) {
        (0, 0) => format!("{rest}ms"),
        (0, s) if rest == 0 => format!("{s}s"),
        (0, s) => format!("{s}.{rest:03}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}
