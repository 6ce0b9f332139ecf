//! Rate limits as answer headers, in each family's own names. Gemini's API has none: its clients get those that most
//! clients of any gateway look for. On nearly every answer of a limited caller, so nothing is put together by the formatter.

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

/// Whose names they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `x-ratelimit-…`, times as `6m0s` or `120ms`.
    Plain,
    /// `anthropic-ratelimit-…`, times as points in time.
    Dated,
}

/// Of requests, tokens, input tokens and output tokens: the limit, what is left, and when all of it is there again.
pub type Names = [[&'static str; 3]; 4];

impl Family {
    pub const ALL: [Family; 2] = [Family::Plain, Family::Dated];

    pub fn names(self) -> &'static Names {
        match self {
            Family::Plain => &PLAIN,
            Family::Dated => &DATED,
        }
    }

    /// Each header: its place among the names, and its value, which is ASCII.
    pub fn each(self, facts: &RateFacts, mut put: impl FnMut(usize, usize, &[u8])) {
        let mut text = Vec::with_capacity(24);
        for (kind, fact) in [facts.requests, facts.tokens, facts.input_tokens, facts.output_tokens].iter().enumerate() {
            let Some(RateFact { limit, left, full_after }) = fact else { continue };
            number(*limit, &mut text);
            put(kind, 0, &text);
            text.clear();
            number(*left, &mut text);
            put(kind, 1, &text);
            text.clear();
            match self {
                Family::Plain => span(*full_after, &mut text),
                Family::Dated => text.extend_from_slice(point(facts.now, *full_after).as_bytes()),
            }
            put(kind, 2, &text);
            text.clear();
        }
    }
}

static PLAIN: Names = [
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    ["x-ratelimit-limit-input-tokens", "x-ratelimit-remaining-input-tokens", "x-ratelimit-reset-input-tokens"],
    ["x-ratelimit-limit-output-tokens", "x-ratelimit-remaining-output-tokens", "x-ratelimit-reset-output-tokens"],
];

static DATED: Names = [
    [
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ],
    ["anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"],
    [
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
    ],
    [
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
    ],
];

fn point(now: i64, wait: Duration) -> String {
    // Whole seconds, rounded up: at that time it has come true.
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(now.saturating_add(seconds)).unwrap_or(jiff::Timestamp::MAX).to_string()
}

fn span(wait: Duration, out: &mut Vec<u8>) {
    let rest = wait.subsec_nanos().div_ceil(1_000_000);
    let (seconds, rest) = (wait.as_secs().saturating_add(u64::from(rest / 1_000)), rest % 1_000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    if minutes > 0 {
        number(minutes, out);
        out.push(b'm');
    } else if seconds == 0 {
        number(rest.into(), out);
        out.extend_from_slice(b"ms");
        return;
    }
    number(seconds, out);
    if minutes == 0 && rest > 0 {
        let digit = |of: u32| b'0' + (rest / of % 10) as u8;
        out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }
    out.push(b's');
}

fn number(value: u64, out: &mut Vec<u8>) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, value);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(family: Family, limit: u64, left: u64, wait: Duration) -> Vec<(&'static str, String)> {
        let fact = RateFact { limit, left, full_after: wait };
        let facts = RateFacts { tokens: Some(fact), now: 1_700_000_000, ..RateFacts::default() };
        let mut all = Vec::new();
        family.each(&facts, |kind, part, text| {
            all.push((family.names()[kind][part], String::from_utf8(text.to_vec()).expect("ASCII")));
        });
        all
    }

    #[test]
    fn numbers_and_waits_are_written_as_clients_read_them() {
        let wait = |nanos: u64| told(Family::Plain, 9, 8, Duration::from_nanos(nanos)).pop().expect("a wait").1;
        let shown = [0, 1, 999_000_001, 1_000_000_000, 1_500_000_000, 59_999_999_999, 60_000_000_000, 366_000_000_001];
        let expected = ["0ms", "1ms", "1s", "1s", "1.500s", "1m0s", "1m0s", "6m6s"];
        assert_eq!(shown.map(wait), expected);
        assert_eq!(
            told(Family::Plain, 1_000, 0, Duration::ZERO)[..2],
            [("x-ratelimit-limit-tokens", "1000".to_owned()), ("x-ratelimit-remaining-tokens", "0".to_owned())]
        );
        assert_eq!(told(Family::Plain, u64::MAX, 0, Duration::ZERO)[0].1, u64::MAX.to_string());
        let dated = told(Family::Dated, 5, 4, Duration::from_millis(1_001));
        assert_eq!(dated[2], ("anthropic-ratelimit-tokens-reset", "2023-11-14T22:13:22Z".to_owned()));
    }
}
