use std::{sync::Arc, time::Duration};

use super::figures::{Figures, Times};
use crate::{
    account::Record,
    auth::Principal,
    context::{Context, Step, Trace, Verdict},
    model::{Format, Operation, Usage},
};

fn record(status: u16, code: Option<&str>, millis: u64) -> Record {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    let cx = Context::aside(Operation::Chat, Format::OpenaiChat, Arc::new(Principal::default()), Vec::new(), until);
    let mut record = Record::of(&cx);
    (record.status, record.error_code, record.attempts) = (status, code.map(str::to_owned), 1);
    record.duration = Duration::from_millis(millis);
    record.target = Some("a/m".into());
    record.cost_nano_usd = Some(1_000);
    record.usage = Some(Usage { input_tokens: Some(10), output_tokens: Some(2), ..Usage::default() });
    record
}

fn noted(stage: &str, texts: &[&str]) -> Trace {
    let mut trace = Trace::default();
    for text in texts {
        trace.push(Step::Note { stage: stage.into(), line: 1, text: (*text).to_owned() });
    }
    trace
}

fn key() -> (Arc<str>, Arc<str>) {
    ("smart".into(), "new".into())
}

#[test]
fn what_became_of_requests_is_told_apart() {
    let figures = Figures::default();
    let (model, arm) = key();
    let own: [Arc<str>; 1] = ["a/m".into()];
    let add = |record: Record| figures.add((&model, &arm), &record, &Trace::default(), &own);
    add(record(200, None, 100));
    add(record(502, Some("upstream_failed"), 5));
    // A stream that broke off, a provider out of quota, the caller's own fault, a client that left.
    add(record(200, Some("upstream_disconnected"), 5));
    add(record(429, Some("upstream_rate_limited"), 5));
    add(record(400, Some("invalid_request"), 5));
    add(record(499, Some("client_gone"), 5));
    let mut other = record(200, None, 100);
    other.target = Some("b/m".into());
    add(other);
    let sums = figures.sums(0..u32::MAX);
    let tally = &sums[&key()];
    assert_eq!((tally.requests, tally.errors, tally.refused, tally.left, tally.elsewhere), (7, 3, 1, 1, 1));
    assert_eq!(tally.took.count(), 2, "only complete answers say how long one takes");
    assert_eq!((tally.cost_nano_usd, tally.input_tokens, tally.output_tokens), (7_000, 70, 14));
    assert_eq!(tally.codes.len(), 5);
}

#[test]
fn a_quantile_is_right_to_a_thirtieth_over_all_magnitudes() {
    for scale in [1, 13, 900, 50_000, 7_000_000, 3_600_000_000] {
        let mut times = Times::default();
        (1..=1000u64).for_each(|n| times.add(Duration::from_micros(n * scale)));
        for per_mille in [1, 10, 500, 900, 990, 1000] {
            let (told, exact) = (times.quantile(per_mille).unwrap().as_micros() as f64, (per_mille * scale) as f64);
            // Below a millisecond buckets are as wide as a microsecond.
            assert!((told - exact).abs() <= (exact / 30.0).max(1.0), "{told} for {exact}");
        }
    }
    assert_eq!(Times::default().quantile(500), None);
}

#[test]
fn verdicts_and_notes_of_stages_are_summed_and_names_are_bounded() {
    let figures = Figures::default();
    let (model, arm) = key();
    let mut trace = noted("scripts/ready/judge.rhai", &["judge: 7", "judge: 4 of 10", "judge: no mark", "off topic"]);
    trace.push(Step::Note { stage: "limits".into(), line: 0, text: "judge: 1".to_owned() });
    trace.push(Step::Stage {
        stage: "scripts/q.rhai".into(),
        phase: "response",
        verdict: Verdict::Next("short".into()),
        took: Duration::ZERO,
        operations: 0,
        memory: 0,
        calls: 1,
        line: 0,
        slow: false,
    });
    let mut unmet = record(200, None, 1);
    unmet.tags.push(("quality_unmet".into(), "true".into()));
    figures.add((&model, &arm), &unmet, &trace, &[]);
    let sums = figures.sums(0..u32::MAX);
    let tally = &sums[&key()];
    assert_eq!((tally.next, tally.unmet), (1, 1));
    let judge = tally.notes["judge"];
    assert_eq!((judge.count, judge.numbers, judge.sum, judge.least, judge.most), (2, 2, 11.0, 4.0, 7.0));
    assert_eq!((tally.notes["judge: no mark"].count, tally.notes["off topic"].count), (1, 1));
    let many: Vec<String> = (0..200).map(|n| format!("name {n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for texts in many.chunks(50) {
        figures.add((&model, &arm), &record(200, None, 1), &noted("scripts/q.rhai", texts), &[]);
    }
    let sums = figures.sums(0..u32::MAX);
    let notes = &sums[&key()].notes;
    assert!(notes.len() <= 33 && notes["(other)"].count > 100, "{}", notes.len());
}

#[test]
fn what_is_written_down_reads_as_the_same_and_adds_up() {
    let (figures, again) = (Figures::default(), Figures::default());
    let (model, arm) = key();
    let trace = noted("scripts/q.rhai", &["score = 0.5"]);
    for n in 1..50 {
        let mut record = record(200, None, n * 10);
        record.first_event = Some(Duration::from_millis(n));
        figures.add((&model, &arm), &record, &trace, &[]);
    }
    figures.left_out(&model, "full");
    let changes = figures.changes();
    assert!(figures.changes().is_empty(), "nothing is written twice");
    figures.again(changes.iter().map(|(key, _)| key.clone()));
    assert_eq!(figures.changes().len(), changes.len(), "what could not be written is written later");
    for (key, tally) in changes {
        let read = serde_json::from_slice(&serde_json::to_vec(&tally).unwrap()).unwrap();
        assert_eq!(tally, read);
        again.restore(key, &read);
    }
    assert_eq!(figures.sums(0..u32::MAX), again.sums(0..u32::MAX));
    figures.forget(u32::MAX);
    assert!(figures.sums(0..u32::MAX).is_empty());
}
