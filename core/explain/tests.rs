//! How a decision reads, as JSON and as text.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::context::{Rank, Reserve, Verdict};

fn decision() -> Decision {
    let mut trace = Trace::default();
    trace.push(Step::Limits(Box::new([Allowance {
        scope: "team",
        name: "red".into(),
        shares: vec![(
            "requests_per_minute",
            Share { limit: 60, left: Some(58), full_after: Some(Duration::from_secs(2)) },
        )],
        concurrent: Some((5, Some(1))),
        shadow: false,
        refuses: None,
    }])));
    trace.push(Step::Budget(Box::new(Funds {
        scope: "team",
        name: "red".into(),
        nano_usd: 50_000_000_000,
        per: "month",
        spent: Some(12_500_000_000),
        reserved: Some(0),
        left: Some(37_500_000_000),
        resets: None,
    })));
    trace.push(Step::Note { stage: "scripts/a.rhai".into(), line: 4, text: "been here\u{1b}[2J".to_owned() });
    trace.push(Step::Stage {
        stage: "scripts/a.rhai".into(),
        phase: "request",
        verdict: Verdict::Continue,
        took: Duration::from_micros(12),
        operations: 70,
        memory: 0,
        calls: 1,
        line: 2,
        slow: false,
    });
    for (target, circuit, retry_in) in
        [("p/open", "open", Some(Duration::from_secs(9))), ("p/a", "closed", None), ("p/b", "closed", None)]
    {
        trace.push(Step::Weighed(Box::new(Weighed {
            target: target.into(),
            weight: 3,
            circuit,
            retry_in,
            latency: Some(Duration::from_millis(230)),
            places: None,
            speed: Some(41.5),
            in_flight: 2,
            keys: 2,
            keys_resting: 1,
            price_input: Some(0.5),
            price_output: Some(1.5),
            context_window: None,
            capabilities: &["tools"],
            region: None,
        })));
    }
    let rank = |target: &str, why: &str| Rank { target: target.into(), strategy: "least_busy", why: why.to_owned() };
    // A stage chose others afterwards: the second order counts.
    trace.push(Step::Ranked(Box::new([rank("p/open", "9 in flight")])));
    trace.push(Step::Ranked(Box::new([rank("p/a", "2 in flight"), rank("p/b", "3 in flight")])));
    trace.push(Step::PassedOver { target: "q/none".into(), code: "not_configured", reason: "q has no key".into() });
    trace.push(Step::PassedOver { target: "p/open".into(), code: "ejected", reason: "p/open rests".into() });
    trace.push(Step::Reserve(Box::new(Reserve {
        target: "p/a".into(),
        input_tokens: 10,
        output_tokens: 100,
        nano_usd: Some(200_000),
        max_tokens: None,
    })));
    Decision {
        asked: "smart".to_owned(),
        model: "smart".to_owned(),
        targets: vec!["p/a".into(), "p/b".into()],
        costs: vec![Cost {
            target: "p/a".into(),
            input_tokens: 10,
            output_tokens: 100,
            nano_usd: Some(155_000),
            at_most: Some(200_000),
        }],
        trace,
        ..Decision::default()
    }
}

#[test]
fn every_target_has_a_verdict_and_its_reason_beside_its_facts() {
    let told = decision().json();
    assert_eq!(told["targets"], json!(["p/a", "p/b"]));
    let verdict = |name: &str| {
        let all = told["candidates"].as_array().unwrap();
        let one = all.iter().find(|c| c["target"] == name).unwrap();
        (one["verdict"].as_str().unwrap().to_owned(), one["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(verdict("p/a"), ("taken".into(), String::new()));
    assert_eq!(verdict("p/b"), ("next".into(), String::new()));
    assert_eq!(verdict("p/open"), ("passed_over".into(), "ejected".into()));
    assert_eq!(verdict("q/none"), ("passed_over".into(), "not_configured".into()));
    assert_eq!(told["candidates"].as_array().unwrap().len(), 4, "each once");
    assert_eq!(told["budget"]["left_usd"].to_string(), "37.5");
    assert_eq!(told["limits"][0]["requests_per_minute"]["left"], 58);
    assert_eq!(told["cost"]["usd"].to_string(), "0.000155");
}

#[test]
fn people_read_one_fact_a_line_and_no_terminal_is_written_to() {
    let text = text(&decision().json());
    for line in [
        "model     smart",
        "limit     team red: 60 requests a minute, 58 left; 5 at once, 1 under way",
        "budget    team red: 50 USD a month, 12.5 spent, 0 reserved, 37.5 left",
        "note      scripts/a.rhai:4: been here [2J",
        "stage     scripts/a.rhai:2 (request): continue [12 µs, 70 operations]",
        "targets   1. p/a  [weight 3, 230.0 ms, 41.5 tokens/s, 2 in flight, 1 of 2 keys rest, about 0.000155 USD, 0.5 / 1.5 USD a million tokens]",
        "          2. p/b  [",
        "why       p/a (least_busy): 2 in flight\nwhy       p/b (least_busy): 3 in flight\n",
        "passed    p/open (ejected): p/open rests",
        "passed    q/none (not_configured): q has no key",
        "reserve   10 + 100 tokens, 0.0002 USD",
        "cost      about 0.000155 USD, at most 0.0002 (10 + 100 tokens)",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains("9 in flight"));
}

#[test]
fn a_refusal_is_told_with_its_status() {
    let refused = Decision { status: Some(429), message: Some("later".to_owned()), ..Decision::default() };
    assert!(text(&refused.json()).ends_with("refused   429: later\n"));
    let answered = Decision { status: Some(200), text: Some("hello".to_owned()), ..Decision::default() };
    assert!(text(&answered.json()).ends_with("answered  hello\n"));
}
