use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{is_usage_limit, of};

/// 2026-11-26T12:00:00Z, as the tables below know it.
fn now() -> SystemTime {
    "2026-11-26T12:00:00Z".parse::<jiff::Timestamp>().unwrap().into()
}

fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn seconds(all: &[(&'static str, &'static str)], body: &str) -> Option<f64> {
    of(&headers(all), body.as_bytes(), now()).map(|wait| wait.as_secs_f64())
}

#[test]
fn headers_of_each_family_say_when() {
    for (all, wait) in [
        (&[("retry-after", "17")][..], Some(17.0)),
        (&[("retry-after", "0.5")], Some(0.5)),
        (&[("retry-after-ms", "1500"), ("retry-after", "2")], Some(1.5)),
        (&[("retry-after", "Thu, 26 Nov 2026 14:00:00 GMT")], Some(7200.0)),
        (&[("retry-after", "Wed, 25 Nov 2026 14:00:00 GMT")], None),
        (&[("retry-after", "-5")], None),
        (&[("retry-after", "soon")], None),
        (&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")], Some(360.0)),
        // What is not used up does not bind, and what is used up binds together.
        (
            &[
                ("x-ratelimit-remaining-requests", "12"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "7.66s"),
            ],
            Some(7.66),
        ),
        (&[("x-ratelimit-remaining-requests", "-1"), ("x-ratelimit-reset-requests", "0")], None),
        (&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "45")], Some(45.0)),
        (
            &[
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-11-26T12:05:00Z"),
                ("anthropic-ratelimit-requests-remaining", "49"),
                ("anthropic-ratelimit-requests-reset", "2026-11-26T18:00:00Z"),
            ],
            Some(300.0),
        ),
        (&[("anthropic-ratelimit-unified-reset", "1795698000")], Some(3600.0)),
        (&[("x-ratelimit-reset", "1795698000000")], Some(3600.0)),
        (&[("ratelimit-reset", "30")], Some(30.0)),
        // An explicit word is worth more than a time of refilling.
        (
            &[("retry-after", "2"), ("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")],
            Some(2.0),
        ),
        (&[("ratelimit", "\"burst\";r=5;t=1, \"daily\";r=0;t=90")], Some(90.0)),
        (&[("ratelimit", "\"default\";r=3;t=90")], None),
        (&[("ratelimit", "limit=100, remaining=0")], None),
        (&[("x-ratelimit-reset", "nan")], None),
        (&[], None),
    ] {
        let said = seconds(all, "");
        assert!(said.zip(wait).map_or(said == wait, |(a, b)| (a - b).abs() < 0.01), "{all:?}: {said:?}");
    }
}

#[test]
fn bodies_say_when_what_was_granted_returns() {
    let google = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
        {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"17s"}]}}"#;
    for (body, wait) in [
        (r#"{"error":{"type":"usage_limit_reached","resets_at":1795701600}}"#, Some(7200.0)),
        (r#"{"error":{"type":"usage_limit_reached","resets_in_seconds":86400}}"#, Some(86_400.0)),
        (r#"{"error":{"metadata":{"headers":{"X-RateLimit-Reset":"1795698000000"}}}}"#, Some(3600.0)),
        (r#"{"detail":[{"retry_after":12.5}]}"#, Some(12.5)),
        (r#"{"error":{"resets_at":"2026-12-03T12:00:00Z"}}"#, Some(604_800.0)),
        // Midnight in California is eight in the morning here.
        (google, Some(20.0 * 3600.0)),
        (r#"{"error":{"message":"AI usage limit reached|1795701600"}}"#, Some(7200.0)),
        (
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."}}"#,
            Some(388_800.0),
        ),
        (
            r#"[{"error":{"code":429,"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"14.2s"}]}}]"#,
            Some(14.2),
        ),
        (r#"{"error":{"code":429,"details":[{"retryDelay":"soon"},{"retryDelay":"37s"}]}}"#, Some(37.0)),
        ("usage limit reached until 2026-11-26T13:00:00Z", Some(3600.0)),
        ("You have reached your limit until 2026-11-26T13:00:00Z. Wait until then.", Some(3600.0)),
        ("Requests to the API have exceeded the rate limit. Please retry after 26 seconds.", Some(26.0)),
        ("You exceeded your current quota. Please retry in 36.9s.", Some(36.9)),
        ("please retry after a minute", None),
        (r#"{"error":{"message":"Rate limit reached for m. Please try again in 6m0s. Visit …"}}"#, Some(360.0)),
        (r#"{"error":{"message":"Please try again in 7.66s."}}"#, Some(7.66)),
        (r#"{"error":{"message":"please try again in a while"}}"#, None),
        // A moment that has passed, numbers that are none, trees without end.
        (r#"{"error":{"resets_at":1}}"#, Some(1.0)),
        (r#"{"error":{"resets_at":1700000000}}"#, None),
        (r#"{"error":{"resets_at":-1}}"#, None),
        (r#"{"error":{"resets_at":1e300}}"#, None),
        (r#"{"error":{"resets_in_seconds":"NaN"}}"#, None),
        (r#"{"a":{"b":{"c":{"d":{"e":{"resets_in_seconds":5}}}}}}"#, None),
        ("", None),
        ("<html>", None),
    ] {
        let said = seconds(&[], body);
        assert!(said.zip(wait).map_or(said == wait, |(a, b)| (a - b).abs() < 0.01), "{body}: {said:?}");
    }
    // What a body states is nearer to the matter than a header.
    let stated = r#"{"error":{"type":"usage_limit_reached","resets_in_seconds":86400}}"#;
    assert_eq!(seconds(&[("retry-after", "1")], stated), Some(86_400.0));
}

#[test]
fn absurd_times_are_told_as_they_are() {
    assert_eq!(of(&headers(&[("retry-after", "99999999999")]), b"", now()), Some(Duration::from_secs(99_999_999_999)));
}

#[test]
fn usage_limits_are_known_by_their_words() {
    assert!(is_usage_limit(b"You have reached your specified API usage limits."));
    assert!(is_usage_limit(br#"{"error":{"type":"usage_limit_reached"}}"#));
    assert!(!is_usage_limit(b"max_tokens is too large"));
}
