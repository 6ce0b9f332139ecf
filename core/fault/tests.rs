//! What a drill's table and header say, which attempts it strikes, and how often.

use serde_json::json;

use super::{settings::*, *};

fn settings(config: serde_json::Value) -> Result<Settings, String> {
    Settings::read(config.as_object().expect("a table"))
}

#[test]
fn a_table_says_what_is_wrong_with_it() {
    for (config, word) in [
        (json!({}), "name `faults`"),
        (json!({"faults": [{"status": 503}]}), "percent"),
        (json!({"faults": [{"percent": 0, "status": 503}]}), "above 0"),
        (json!({"faults": [{"percent": 5}]}), "one of delay, status, cut, drip"),
        (json!({"faults": [{"percent": 5, "status": 200}]}), "400 to 599"),
        (json!({"faults": [{"percent": 5, "delay": "fast"}]}), "a duration"),
        (json!({"faults": [{"percent": 5, "delay": "11m"}]}), "ten minutes"),
        (json!({"faults": [{"percent": 60, "cut": 1}, {"percent": 41, "status": 500}]}), "101"),
        (json!({"faults": [{"percent": 5, "status": 503, "stauts": 1}]}), "stauts"),
    ] {
        let told = settings(config.clone()).unwrap_err();
        assert!(told.contains(word), "{config}: {told}");
    }
    assert!(settings(json!({"header": true})).is_ok());
}

#[test]
fn a_header_says_the_same_in_one_line() {
    let fault = Fault::read("status=503, retry_after=2s,attempts=1").unwrap();
    assert_eq!((fault.status, fault.retry_after, fault.attempts), (Some(503), Some(Duration::from_secs(2)), Some(1)));
    for (text, word) in [
        ("", "one of delay"),
        ("status=ok", "number"),
        ("status=99999", "400 to 599"),
        ("explode=1", "there are delay"),
        ("delay=1y", "delay"),
    ] {
        let told = Fault::read(text).unwrap_err();
        assert!(told.starts_with("x-portcullis-fault") && told.contains(word), "{text}: {told}");
    }
}

#[test]
fn lots_fall_in_proportion_and_names_are_matched() {
    let config = json!({"targets": ["up/*"], "faults": [
        {"percent": 10, "status": 503}, {"percent": 30, "delay": "1s", "attempts": 1},
    ]});
    let drill = settings(config).unwrap();
    let status = |lot| drill.drawn(lot, 1).and_then(|fault| fault.status);
    assert_eq!((status(0.0), status(9.99), status(10.0)), (Some(503), Some(503), None));
    assert!(drill.drawn(39.9, 1).is_some_and(|fault| fault.delay.is_some()));
    assert_eq!((drill.drawn(39.9, 2), drill.drawn(40.0, 1)), (None, None));
    assert!(drill.concerns("up/m") && !drill.concerns("down/m"));
    assert!(!drill.touches_answers(), "nobody's answers are looked at for it");
}

#[test]
fn statuses_are_what_an_upstream_would_have_meant() {
    for (status, kind, ours) in [
        (429, Kind::UpstreamRateLimited, 429),
        (500, Kind::Upstream, 502),
        (503, Kind::UpstreamOverloaded, 503),
        (504, Kind::UpstreamTimeout, 504),
        (401, Kind::UpstreamAuth, 502),
        (422, Kind::UpstreamRefused, 422),
    ] {
        let error = refusal("up/m", status, Some(Duration::from_secs(2)));
        assert_eq!((error.kind, error.status()), (kind, ours));
        assert_eq!(error.upstream.as_ref().map(|fault| fault.status), Some(status));
        assert!(error.message.contains("drill"), "whoever reads it knows");
    }
}
