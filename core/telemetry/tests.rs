//! What is counted, what is kept, and that neither can be made to grow.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    account::Record,
    context::{CacheWord, Step, Trace, Verdict},
    model::{Format, Operation, ServiceTier, Units, Usage},
};

fn record(model: &str, target: Option<&str>, status: u16) -> Record {
    Record {
        id: "req_1".into(),
        key_id: "key_1".into(),
        team: Some("hr".into()),
        user: None,
        organisation: None,
        operation: Operation::Chat,
        format: Format::OpenaiChat,
        model: model.into(),
        target: target.map(Into::into),
        attempts: 1,
        status,
        error_code: None,
        stream: false,
        finish_reason: Some("stop"),
        usage: Some(Usage {
            input_tokens: Some(100),
            cache_read_tokens: Some(60),
            output_tokens: Some(30),
            reasoning_tokens: Some(10),
            ..Usage::default()
        }),
        cost_nano_usd: Some(1_234_500),
        cost_unknown: false,
        ledger: vec![],
        duration: Duration::from_millis(50),
        first_event: Some(Duration::from_millis(20)),
        upstream_duration: Duration::from_micros(49_900),
        cache: None,
        saved_nano_usd: None,
        experiment: None,
        bodies: None,
        tags: vec![("a".into(), "b".into())],
    }
}

fn known() -> Metrics {
    let metrics = Metrics::default();
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    metrics.set_known(own(&["smart"]), own(&["openai"]), own(&["openai/gpt-4o"]));
    metrics
}

fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
}

#[test]
fn counts_a_request_by_its_labels() {
    let metrics = known();
    metrics.tally().request(&record("smart", Some("openai/gpt-4o"), 200));
    metrics.tally().request(&record("smart", Some("openai/gpt-4o"), 200));
    metrics.tally().request(&record("", None, 401));
    let text = metrics.render();
    let set = r#"route="smart",model="gpt-4o",provider="openai""#;
    assert_line(&text, &format!(r#"portcullis_requests_total{{{set},status_class="2xx"}} 2"#));
    assert_line(&text, r#"portcullis_requests_total{route="none",model="none",provider="none",status_class="4xx"} 1"#);
    assert_line(&text, &format!("portcullis_request_duration_seconds_count{{{set}}} 2"));
    assert_line(&text, &format!(r#"portcullis_request_duration_seconds_bucket{{{set},le="0.08"}} 2"#));
    assert_line(&text, &format!("portcullis_time_to_first_token_seconds_count{{{set}}} 2"));
    assert_line(&text, r#"portcullis_overhead_seconds_bucket{le="0.0001"} 3"#);
    // Disjoint kinds: 60 cached of 100, 10 thought of 30, three times.
    for (direction, kind, count) in [("input", "text", 120), ("input", "cache_read", 180), ("output", "reasoning", 30)]
    {
        let line = format!(r#"portcullis_tokens_total{{direction="{direction}",kind="{kind}"}} {count}"#);
        assert_line(&text, &line);
    }
}

#[test]
fn every_metric_of_the_table_is_rendered_with_its_help() {
    let metrics = known();
    metrics.tally().request(&record("smart", Some("openai/gpt-4o"), 200));
    metrics.tally().attempt("ok");
    metrics.circuit("openai", "gpt-4o", 2);
    metrics.target("openai", "gpt-4o", Some(Duration::from_millis(300)), Some(40.0), 2);
    metrics.health_check("openai", "ok");
    for word in [CacheWord::Miss, CacheWord::Hit, CacheWord::Shared] {
        metrics.cache_asked(word);
    }
    metrics.cache_memory().evicted(1);
    metrics.cache_memory().holds(4_000);
    let behind = metrics.cache_tier("files");
    behind.read("damaged");
    behind.stored();
    behind.dropped("queue");
    metrics.limited("team", "requests_per_minute");
    metrics.would_limit("team", "requests_per_minute");
    metrics.budget_alert("team", "soft");
    metrics.budget("team", "research", "day", [2_000_000_000, 1, 1]);
    metrics.quota("target", "openai/gpt-4o", ("requests", "7d"), [50.0, 49.0, 0.0]);
    metrics.lease_failed();
    metrics.reloaded(SystemTime::now());
    metrics.reload_refused();
    // What is counted where it happens.
    ::metrics::with_local_recorder(&*metrics.recorder, || {
        crate::pipeline::effects::left_out("a", "kv", 1, "full");
        ::metrics::gauge!(names::ROLLOUT_PHASE).set(1.0);
        ::metrics::gauge!(names::PINNED).set(1.0);
        for name in [names::ROLLOUTS_ENDED, names::SHADOW_DECISIONS, names::MIRRORED] {
            ::metrics::counter!(name, "outcome" => "same").increment(1);
        }
    });
    metrics.stage_parked("scripts/a.rhai", true);
    metrics.shed("gateway", "low", "queue_full");
    metrics.queued("target", "high", Duration::from_millis(20));
    metrics.places("openai/gpt-4o", 20, 3, 0);
    metrics.shedding(1);
    metrics.tally().stage(&Step::Stage {
        stage: "scripts/a.rhai".into(),
        phase: "event",
        verdict: Verdict::Failed("why".into()),
        took: Duration::from_micros(10),
        operations: 7,
        memory: 65_536,
        calls: 1,
        line: 1,
        slow: false,
    });
    let text = metrics.render();
    for row in names::TABLE {
        let kind = match row.kind {
            names::Kind::Counter => "counter",
            names::Kind::Gauge => "gauge",
            names::Kind::Histogram(_) => "histogram",
        };
        assert_line(&text, &format!("# TYPE {} {kind}", row.name));
        assert_line(&text, &format!("# HELP {} {}", row.name, row.help));
        let sample = text.lines().find(|l| l.starts_with(row.name) && l.contains(row.labels.first().unwrap_or(&"")));
        let sample = sample.unwrap_or_else(|| panic!("no sample of {}", row.name));
        for label in row.labels {
            assert!(sample.contains(&format!("{label}=\"")), "{sample}");
        }
    }
}

#[test]
fn names_that_callers_invent_are_no_labels() {
    let metrics = known();
    for n in 0..50 {
        metrics.tally().request(&record(&format!("invented-{n}"), Some(&format!("openai/invented-{n}")), 200));
        metrics.tally().request(&record(&format!("openai/x{n}"), Some(&format!("invented{n}/x")), 200));
    }
    let text = metrics.render();
    assert!(!text.contains("invented"), "{text}");
    assert_line(
        &text,
        r#"portcullis_requests_total{route="direct",model="other",provider="openai",status_class="2xx"} 50"#,
    );
}

#[test]
fn label_sets_are_bounded() {
    let metrics = Metrics::default();
    let targets: Vec<String> = (0..3_000).map(|n| format!("p/m{n}")).collect();
    metrics.set_known([], ["p".to_owned()], targets.clone());
    for target in &targets {
        metrics.tally().request(&record("x", Some(target), 200));
    }
    let text = metrics.render();
    let sets = text.lines().filter(|l| l.starts_with("portcullis_requests_total{")).count();
    assert_eq!(sets, 1_001);
    assert_line(
        &text,
        r#"portcullis_requests_total{route="other",model="other",provider="other",status_class="2xx"} 2000"#,
    );
}

#[test]
fn a_sample_on_a_bound_lies_below_it_and_one_above_all_in_the_last_bucket() {
    let metrics = known();
    for duration in [Duration::from_millis(10), Duration::from_micros(10_001), Duration::from_secs(3_600)] {
        metrics.tally().request(&Record { duration, upstream_duration: Duration::ZERO, ..record("smart", None, 200) });
    }
    let text = metrics.render();
    let set = r#"route="smart",model="none",provider="none""#;
    for (bound, count) in [("0.01", 1), ("0.02", 2), ("327.68", 2), ("+Inf", 3)] {
        assert_line(&text, &format!(r#"portcullis_request_duration_seconds_bucket{{{set},le="{bound}"}} {count}"#));
    }
    assert_line(&text, &format!("portcullis_request_duration_seconds_sum{{{set}}} 3600.020001"));
}

#[test]
fn in_flight_goes_up_and_down() {
    let metrics = Metrics::default();
    for running in [2, 0] {
        metrics.in_flight(running);
        assert_line(&metrics.render(), &format!("portcullis_inflight_requests {running}"));
    }
}

#[test]
fn what_is_no_token_of_text_is_told_where_it_is_known() {
    let mut row = record("smart", Some("openai/gpt-4o"), 200);
    let plain = record_json(&row, None, SystemTime::UNIX_EPOCH);
    assert_eq!(plain["usage"].as_object().map(|u| u.contains_key("web_searches")), Some(false));
    let usage = row.usage.as_mut().unwrap();
    usage.service_tier = Some(ServiceTier::Flex);
    *usage.units_mut() =
        Units { input_image_tokens: Some(15), output_images: Some(2), web_searches: Some(3), ..Units::default() };
    let told = record_json(&row, None, SystemTime::UNIX_EPOCH);
    assert_eq!((&told["usage"]["output_images"], &told["usage"]["web_searches"]), (&2.into(), &3.into()));
    assert_eq!(
        (&told["usage"]["service_tier"], &told["usage"]["characters"]),
        (&"flex".into(), &serde_json::Value::Null)
    );
    let metrics = known();
    metrics.tally().request(&row);
    let text = metrics.render();
    assert_line(&text, r#"portcullis_units_total{unit="output_images"} 2"#);
    assert_line(&text, r#"portcullis_units_total{unit="web_searches"} 3"#);
    assert_line(&text, r#"portcullis_tokens_total{direction="input",kind="image"} 15"#);
    assert_line(&text, r#"portcullis_tokens_total{direction="input",kind="text"} 25"#);
    assert!(!text.contains(r#"unit="input_image_tokens""#), "counted as tokens already");
}

#[test]
fn an_odd_byte_of_a_row_is_escaped_wherever_it_stands() {
    for (length, odd) in
        (1..20).flat_map(|length| ['"', '\\', '\n', '\u{1}', '\u{1f}', ' ', 'é'].map(|odd| (length, odd)))
    {
        for at in 0..length {
            let said: String = (0..length).map(|n| if n == at { odd } else { 'a' }).collect();
            let mut row = Vec::new();
            row::text(&said, &mut row);
            assert_eq!(serde_json::from_slice::<String>(&row).unwrap(), said);
        }
    }
}

#[test]
fn the_ring_forgets_the_oldest_and_pages_backwards() {
    let ring = Ring::new(10);
    let stamp = row::Stamp::of(SystemTime::UNIX_EPOCH);
    for batch in [1..=3u16, 4..=4, 5..=25] {
        let (mut lines, mut starts) = (Vec::new(), Vec::new());
        for n in batch {
            starts.push(lines.len());
            let mut settled = record("smart", None, n);
            settled.id = format!("req_{n}").into();
            row::write(&settled, None, &stamp, &mut lines);
            lines.push(b'\n');
        }
        ring.push(lines.into(), &starts, 7, |_| 0);
    }
    let read = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).ok()?["status"].as_u64();
    let statuses = |rows: Vec<(ring::Place, u64)>| rows.into_iter().map(|(_, status)| status).collect::<Vec<_>>();
    let (first, oldest) = ring.page(None, 4, read);
    let before = first.last().unwrap().0;
    assert_eq!(oldest.map(|place| (place.hour, place.number)), Some((7, 16)));
    assert_eq!(statuses(first), [25, 24, 23, 22]);
    assert_eq!(statuses(ring.page(Some(before), 4, read).0), [21, 20, 19, 18]);
    assert_eq!(statuses(ring.page(None, 100, |line| read(line).filter(|n| n % 2 == 0)).0), [24, 22, 20, 18, 16]);
    assert!(ring.find("req_15").is_none() && ring.find("req_1").is_none() && ring.find("req_16").is_some());
    assert!(ring.find("").is_none());
}

#[test]
fn records_and_traces_read_as_json() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let row = record_json(&record("smart", Some("openai/gpt-4o"), 200), None, at);
    assert_eq!(row["time"], "2023-11-14T22:13:20.123Z");
    assert_eq!(row["cost_usd"].to_string(), "0.0012345");
    assert_eq!((&row["team"], &row["usage"]["cache_write_tokens"]), (&"hr".into(), &serde_json::Value::Null));
    assert_eq!(row["tags"]["a"], "b");

    let mut trace = Trace::default();
    trace.push(Step::Stage {
        stage: "scripts/route.rhai".into(),
        phase: "route",
        verdict: Verdict::Reject(413),
        took: Duration::from_micros(12),
        operations: 7,
        memory: 0,
        calls: 1,
        line: 3,
        slow: false,
    });
    trace.push(Step::Planned { targets: vec!["a/b".into()] });
    trace.push(Step::Attempt { number: 1, target: "a/b".into(), outcome: "ok".into(), took: Duration::from_millis(1) });
    let text = trace_json(&trace).to_string();
    let expected = concat!(
        r#"[{"step":"stage","stage":"scripts/route.rhai","phase":"route","took_us":12,"verdict":"reject","status":413,"#,
        r#""operations":7,"line":3},{"step":"planned","targets":["a/b"]},"#,
        r#"{"step":"attempt","number":1,"target":"a/b","outcome":"ok","took_us":1000}]"#,
    );
    assert_eq!(text, expected);
}

/// A pipe that nobody reads, until it is let go.
struct Stuck(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_nobody_reads_drops_lines_and_says_how_many() {
    let (go, wait) = mpsc::channel();
    let written = Arc::new(Mutex::new(Vec::new()));
    let lines = lines::Lines::to(Stuck(wait, written.clone())).unwrap();
    for _ in 0..40_000 {
        (&lines).write_all(b"line\n").unwrap();
    }
    drop(go);
    for _ in 0..100 {
        lines.flush();
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        if text.contains("log lines were dropped") && text.matches("line\n").count() < 40_000 {
            return;
        }
        (&lines).write_all(b"line\n").unwrap();
    }
    panic!("the loss was never told");
}

#[test]
fn a_request_line_has_the_facts_as_fields() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let (go, wait) = mpsc::channel();
    drop(go);
    let lines = lines::Lines::to(Stuck(wait, written.clone())).unwrap();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(lines.clone()).finish();
    tracing::subscriber::with_default(subscriber, || request_line(&record("smart", Some("openai/gpt-4o"), 200)));
    lines.flush();
    let line: serde_json::Value = serde_json::from_slice(&written.lock().unwrap()).unwrap();
    for (field, value) in [("id", "req_1"), ("upstream", "openai/gpt-4o"), ("key", "key_1"), ("team", "hr")] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!((line["status"].to_string(), line["duration_ms"].to_string()), ("200".into(), "50.0".into()));
    assert!(line.get("code").is_none());
}

#[test]
fn a_request_line_is_written_as_the_formatter_would() {
    let mut failed = record("a \"model\" of\ntwo lines — ü", None, 502);
    failed.error_code = Some("upstream_failed".to_owned());
    failed.first_event = Some(Duration::from_micros(1_200));
    failed.team = None;
    for record in [record("smart", Some("openai/gpt-4o"), 200), failed] {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (go, wait) = mpsc::channel();
        drop(go);
        let lines = lines::Lines::to(Stuck(wait, written.clone())).unwrap();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(lines.clone()).finish();
        tracing::subscriber::with_default(subscriber, || request_line(&record));
        lines.flush();
        let formatted = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let mut own = Vec::new();
        line::write(&record, SystemTime::now(), logs::TARGET, &mut own);
        let own = String::from_utf8(own).unwrap();
        let parts = |line: &str| {
            let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line.trim_end()).unwrap();
            let form = |(key, value): (String, serde_json::Value)| {
                let value = value.as_f64().map_or(value.to_string(), |number| number.to_string());
                (key.clone(), if key == "timestamp" { value.len().to_string() } else { value })
            };
            line.into_iter().map(form).collect::<Vec<_>>()
        };
        assert_eq!(parts(&own), parts(&formatted), "{own}{formatted}");
    }
}

#[test]
fn a_bad_filter_is_a_sentence() {
    let refused = logs::init(Some("portcullis=loud")).err().unwrap();
    assert!(refused.contains("PORTCULLIS_LOG") && refused.contains("write info"), "{refused}");
}
