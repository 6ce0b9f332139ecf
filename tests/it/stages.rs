//! Scripts in the running gateway: every phase and verdict, before all three client formats, streamed and whole.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{Anthropic, FAMILIES, Family, Openai},
    support::{Answer, End, Gateway, Say, Upstream},
};

/// Answers as it was asked: a stream to a streamed question.
fn answers(family: Family, stream: bool, pieces: &[&str]) -> Say {
    if stream { Say::sse(family.frames(pieces).concat()) } else { Say::json(family.whole(&pieces.concat())) }
}

/// Two upstreams, `a` and `b`, and the alias `both`, with one script.
struct House {
    a: Upstream,
    b: Upstream,
    gateway: Gateway,
}

async fn house(script: &str) -> House {
    house_of("", &[("scripts/a.rhai", script)], Openai).await
}

async fn house_of(config: &str, files: &[(&str, &str)], format: Family) -> House {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let both = "[models.both]\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
    let providers = [a.provider("a", format.format()), b.provider("b", format.format())].concat();
    let gateway = Gateway::with(&format!("{providers}{both}{config}"), files).await;
    House { a, b, gateway }
}

/// Every way a client can ask.
fn ways() -> impl Iterator<Item = (Family, bool)> {
    FAMILIES.into_iter().flat_map(|family| [(family, false), (family, true)])
}

fn step(record: &Value, phase: &str, verdict: &str) -> bool {
    let steps = record["trace"].as_array().expect("a trace");
    steps.iter().any(|s| s["step"] == "stage" && s["phase"] == phase && s["verdict"] == verdict)
}

// request

#[tokio::test]
async fn an_edit_in_the_same_format_leaves_every_other_byte_alone() {
    let house = house("fn request(request, context) { request.temperature = 0.5; }").await;
    house.a.always(answers(Openai, false, &["hi"]));
    let body = r#"{ "x_own" : [1.50, "\u00e9"], "temperature" :0.9 , "model":"a/m","messages":[{"role":"user","content":"h"}] }"#;
    let answer = house.gateway.chat(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = String::from_utf8(house.a.last().body).expect("text");
    assert_eq!(heard, body.replace("0.9", "0.5").replace("\"a/m\"", "\"m\""));
}

#[tokio::test]
async fn edits_of_the_request_reach_the_upstream_from_every_format() {
    let script = "fn request(request, context) {\n request.system = \"be brief\";\n request.max_tokens = 7;\n request.temperature = 0.25;\n}";
    for (family, stream) in ways() {
        let house = house(script).await;
        house.a.always(answers(Openai, stream, &["hi"]));
        let answer = family.ask(&house.gateway, "a/m", stream).await;
        assert_eq!(family.text(&answer), "hi", "{family:?}: {}", answer.text());
        let heard = house.a.last().json();
        assert_eq!(heard["messages"][0]["content"], "be brief", "{family:?}: {heard}");
        assert_eq!(heard["temperature"].as_f64(), Some(0.25), "{family:?}: {heard}");
        let bound = heard.get("max_tokens").or(heard.get("max_completion_tokens"));
        assert_eq!(bound, Some(&json!(7)), "{family:?}: {heard}");
    }
}

#[tokio::test]
async fn a_request_is_refused_with_the_scripts_status_and_words() {
    let script = "fn request(request, context) { return reject(413, \"split this document first\"); }";
    for (family, stream) in ways() {
        let house = house(script).await;
        let answer = family.ask(&house.gateway, "a/m", stream).await;
        assert_eq!(answer.status, 413);
        let error = family.error(&answer);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("content_refused", "split this document first"));
        assert!(house.a.heard().is_empty());
        let record = house.gateway.record(1).await;
        assert!(record["status"] == 413 && step(&record, "request", "reject"), "{record}");
    }
}

#[tokio::test]
async fn a_script_can_answer_itself_in_every_format() {
    let script = "fn request(request, context) { return respond(\"from the script\"); }";
    for (family, stream) in ways() {
        let house = house(script).await;
        let answer = family.ask(&house.gateway, "a/m", stream).await;
        assert_eq!((answer.status, family.text(&answer).as_str()), (200, "from the script"), "{}", answer.text());
        assert!(!family.finish(&answer).is_empty());
        assert!(!stream || family.terminals(&answer) == 1, "{}", answer.text());
        assert_eq!(answer.header("x-portcullis-target"), None);
        assert!(house.a.heard().is_empty());
    }
}

#[tokio::test]
async fn an_answer_made_at_a_stage_passes_the_answer_side_of_the_stages_before_it_only() {
    let shout = |word: &str| {
        format!(
            "const STREAM = \"whole\";\nfn response(response, context) {{ response.text = response.text + \"{word}\"; }}"
        )
    };
    let made = "fn request(request, context) { return respond(\"made\"); }";
    for (family, stream) in ways() {
        let files = [
            ("scripts/a.rhai", shout(" before")),
            ("scripts/b.rhai", made.to_owned()),
            ("scripts/c.rhai", shout(" after")),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
        let house = house_of("", &files, Openai).await;
        let answer = family.ask(&house.gateway, "a/m", stream).await;
        assert_eq!(family.text(&answer), "made before", "{}", answer.text());
    }
}

// route

#[tokio::test]
async fn a_script_chooses_targets_and_their_order() {
    let script = "fn route(request, targets, context) { return [\"b/other\", \"a/m\"]; }";
    for (family, stream) in ways() {
        let house = house(script).await;
        house.b.always(answers(Openai, stream, &["from b"]));
        let answer = family.ask(&house.gateway, "both", stream).await;
        assert_eq!(family.text(&answer), "from b", "{}", answer.text());
        assert_eq!(answer.header("x-portcullis-target"), Some("b/other"));
        assert_eq!(house.b.last().json()["model"], "other");
    }
}

#[tokio::test]
async fn a_script_can_reorder_what_the_strategy_planned() {
    let house = house("fn route(request, targets, context) { return targets.filter(|t| t.name == \"b/m\"); }").await;
    house.b.always(answers(Openai, false, &["from b"]));
    let answer = Openai.ask(&house.gateway, "both", false).await;
    assert_eq!(Openai.text(&answer), "from b", "{}", answer.text());
}

#[tokio::test]
async fn an_empty_route_is_a_503_in_every_format() {
    for (family, stream) in ways() {
        let house = house("fn route(request, targets, context) { return []; }").await;
        let answer = family.ask(&house.gateway, "both", stream).await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (503, "no_healthy_target"));
    }
}

#[tokio::test]
async fn a_route_to_an_unknown_target_is_an_error_that_names_it() {
    let house = house("fn route(request, targets, context) { return [\"nowhere/m\"]; }").await;
    let answer = Openai.ask(&house.gateway, "both", false).await;
    assert!(answer.status >= 400 && Openai.error(&answer).message.contains("nowhere/m"), "{}", answer.text());
    assert!(house.a.heard().is_empty() && house.b.heard().is_empty());
}

#[tokio::test]
async fn a_route_may_stand_in_for_a_name_that_means_nothing() {
    let house =
        house("fn route(request, targets, context) { if request.model == \"dream\" { return \"b/m\"; } }").await;
    house.b.always(answers(Openai, false, &["from b"]));
    assert_eq!(Openai.text(&Openai.ask(&house.gateway, "dream", false).await), "from b");
    assert_eq!(Openai.ask(&house.gateway, "nightmare", false).await.status, 404);
}

#[tokio::test]
async fn a_route_cannot_lead_a_caller_to_a_model_that_is_not_theirs() {
    let script = "fn route(request, targets, context) { return [\"b/m\"]; }";
    let house = house_of("[auth]\nrequired = true\n", &[("scripts/a.rhai", script)], Openai).await;
    let (_, key) = house.gateway.key(r#"{"name":"k","models":["a/*"]}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let answer = house.gateway.post_with("/v1/chat/completions", &headers, &Openai.body("a/m", false, "x")).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(house.b.heard().is_empty());
}

#[tokio::test]
async fn a_route_can_refuse() {
    let house = house("fn route(request, targets, context) { return reject(451, \"not in this country\"); }").await;
    let answer = Anthropic.ask(&house.gateway, "both", true).await;
    assert_eq!((answer.status, Anthropic.error(&answer).message.as_str()), (451, "not in this country"));
}

// attempt

#[tokio::test]
async fn a_skipped_target_is_passed_over() {
    let script = "fn attempt(target, request, context) { if target.provider == \"a\" { return skip(); } }";
    for (family, stream) in ways() {
        let house = house(script).await;
        house.b.always(answers(Openai, stream, &["from b"]));
        let answer = family.ask(&house.gateway, "both", stream).await;
        assert_eq!(family.text(&answer), "from b", "{}", answer.text());
        assert_eq!(answer.header("x-portcullis-attempts"), Some("1"));
        assert!(house.a.heard().is_empty());
    }
}

#[tokio::test]
async fn when_every_target_is_skipped_it_is_a_503() {
    let house = house("fn attempt(target, request, context) { return skip(); }").await;
    for (family, stream) in ways() {
        let answer = family.ask(&house.gateway, "both", stream).await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (503, "no_healthy_target"));
    }
}

#[tokio::test]
async fn what_is_changed_for_one_target_does_not_reach_the_next() {
    let script =
        "fn attempt(target, request, context) { if target.provider == \"a\" { request.temperature = 0.125; } }";
    for (family, stream) in ways() {
        let house = house(script).await;
        house.a.always(Say::error(500, "{}"));
        house.b.always(answers(Openai, stream, &["from b"]));
        let answer = family.ask(&house.gateway, "both", stream).await;
        assert_eq!(family.text(&answer), "from b", "{}", answer.text());
        assert_eq!(house.a.last().json()["temperature"].as_f64(), Some(0.125));
        assert_eq!(house.b.last().json().get("temperature"), None);
    }
}

#[tokio::test]
async fn an_attempt_can_refuse_the_request() {
    let house = house("fn attempt(target, request, context) { return reject(403, \"not there\"); }").await;
    let answer = Openai.ask(&house.gateway, "both", false).await;
    assert_eq!((answer.status, Openai.error(&answer).message.as_str()), (403, "not there"));
    assert!(house.a.heard().is_empty() && house.b.heard().is_empty());
}

// event

#[tokio::test]
async fn events_are_mapped_dropped_and_inserted_in_every_format() {
    let script = r#"fn event(event, context) {
        if event.kind != "text" { return; }
        if event.text == "drop" { return []; }
        if event.text == "two" { return [#{ kind: "text", text: "2" }, #{ kind: "text", text: "+" }]; }
        event.text = event.text.to_upper();
    }"#;
    for format in FAMILIES {
        for client in FAMILIES {
            let house = house_of("", &[("scripts/a.rhai", script)], format).await;
            house.a.always(answers(format, true, &["one", "drop", "two", "three"]));
            let answer = client.ask(&house.gateway, "a/m", true).await;
            assert_eq!(client.text(&answer), "ONE2+THREE", "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.terminals(&answer), 1, "{client:?} of {format:?}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_script_for_events_sees_whole_answers_the_same_way() {
    let script = "fn event(event, context) { if event.kind == \"text\" { event.text = event.text.to_upper(); } }";
    for client in FAMILIES {
        let house = house(script).await;
        house.a.always(answers(Openai, false, &["quiet"]));
        let answer = client.ask(&house.gateway, "a/m", false).await;
        assert_eq!(client.text(&answer), "QUIET", "{}", answer.text());
    }
}

#[tokio::test]
async fn a_match_across_two_events_is_found_in_a_window() {
    let script = "const STREAM = \"window\";\nconst WINDOW = 16;\nfn event(event, context) { if event.kind == \"text\" { event.text.replace(\"secret\", \"******\"); event.text = event.text; } }";
    let script = script.replace(
        "event.text.replace(\"secret\", \"******\"); event.text = event.text;",
        "let text = event.text; text.replace(\"secret\", \"******\"); event.text = text;",
    );
    for client in FAMILIES {
        let house = house(&script).await;
        house.a.always(answers(Openai, true, &["the se", "c", "ret is out, and more text follows it"]));
        let answer = client.ask(&house.gateway, "a/m", true).await;
        assert_eq!(client.text(&answer), "the ****** is out, and more text follows it", "{}", answer.text());
    }
}

#[tokio::test]
async fn a_stop_ends_the_stream_cleanly_and_cancels_the_upstream() {
    let script =
        "fn event(event, context) { if event.kind == \"text\" && event.text == \"bad\" { return stop(\"a word\"); } }";
    for format in FAMILIES {
        for client in FAMILIES {
            let house = house_of("", &[("scripts/a.rhai", script)], format).await;
            let frames = format.frames(&["good", "bad", "never"]);
            let frames: Vec<&str> = frames.iter().take(format.lead() + 2).map(String::as_str).collect();
            house.a.always(Say::frames(&frames, Duration::ZERO).end(End::Stall));
            let answer = client.ask(&house.gateway, "a/m", true).await;
            assert_eq!(client.text(&answer), "good", "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.finish(&answer), client.filtered(), "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.terminals(&answer), 1, "{client:?} of {format:?}: {}", answer.text());
            assert!(client.stream_errors(&answer).is_empty() && answer.complete, "{}", answer.text());
            house.a.is_cancelled(1).await;
            let record = house.gateway.record(1).await;
            assert!(record["finish_reason"] == "content_filter" && step(&record, "event", "stop"), "{record}");
        }
    }
}

#[tokio::test]
async fn a_stop_at_the_first_event_is_a_clean_empty_answer() {
    let script = "fn event(event, context) { if event.kind == \"text\" { return stop(\"all\"); } }";
    for (client, stream) in ways() {
        let house = house(script).await;
        house.a.always(answers(Openai, stream, &["bad"]));
        let answer = client.ask(&house.gateway, "a/m", stream).await;
        assert_eq!((answer.status, client.text(&answer).as_str()), (200, ""), "{client:?} {stream}: {}", answer.text());
        assert_eq!(client.finish(&answer), client.filtered(), "{client:?} {stream}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_rejected_event_before_output_is_a_real_refusal() {
    let script = "fn event(event, context) { if event.kind == \"text\" { return reject(451, \"not this\"); } }";
    for (client, stream) in ways() {
        let house = house(script).await;
        house.a.always(answers(Openai, stream, &["bad"]));
        let answer = client.ask(&house.gateway, "both", stream).await;
        assert_eq!(answer.status, 451, "{client:?} {stream}: {}", answer.text());
        assert_eq!(client.error(&answer).message, "not this");
        assert!(house.b.heard().is_empty(), "a stage's refusal is not a target's failure");
    }
}

#[tokio::test]
async fn a_rejected_event_after_output_is_an_error_event() {
    let script = "fn event(event, context) { if event.kind == \"text\" && event.text == \"bad\" { return reject(451, \"not this\"); } }";
    for client in FAMILIES {
        let house = house(script).await;
        let frames = Openai.frames(&["good", "bad", "never"]);
        let frames: Vec<&str> = frames.iter().take(3).map(String::as_str).collect();
        house.a.always(Say::frames(&frames, Duration::ZERO).end(End::Stall));
        let answer = client.ask(&house.gateway, "a/m", true).await;
        let errors = client.stream_errors(&answer);
        assert_eq!((client.text(&answer).as_str(), errors.len()), ("good", 1), "{}", answer.text());
        assert_eq!((errors[0].message.as_str(), client.terminals(&answer)), ("not this", 0));
        house.a.is_cancelled(1).await;
    }
}

// response

#[tokio::test]
async fn a_script_edits_the_whole_answer_of_a_stream_too() {
    let script = "const STREAM = \"whole\";\nfn response(response, context) { response.text = response.text.to_upper() + \" by \" + response.target; }";
    for format in FAMILIES {
        for (client, stream) in ways() {
            let house = house_of("", &[("scripts/a.rhai", script)], format).await;
            house.a.always(answers(format, stream, &["so ", "it is"]));
            let answer = client.ask(&house.gateway, "a/m", stream).await;
            assert_eq!(client.text(&answer), "SO IT IS by a/m", "{client:?} of {format:?} {stream}: {}", answer.text());
            assert!(!stream || client.terminals(&answer) == 1, "{}", answer.text());
        }
    }
}

const PICKY: &str = "const STREAM = \"whole\";\nfn response(response, context) { if response.text.len() < 10 { return next(\"too short\"); } }";

#[tokio::test]
async fn a_poor_answer_moves_on_to_the_next_target() {
    for (client, stream) in ways() {
        let house = house(PICKY).await;
        house.a.always(answers(Openai, stream, &["short"]));
        house.b.always(answers(Openai, stream, &["long enough to please"]));
        let answer = client.ask(&house.gateway, "both", stream).await;
        assert_eq!(client.text(&answer), "long enough to please", "{client:?} {stream}: {}", answer.text());
        assert_eq!(answer.header("x-portcullis-target"), Some("b/m"));
        assert_eq!(answer.header("x-portcullis-attempts"), Some("2"));
    }
}

#[tokio::test]
async fn with_no_target_left_the_last_poor_answer_is_delivered_and_marked() {
    for (client, stream) in ways() {
        let house = house(PICKY).await;
        house.a.always(answers(Openai, stream, &["first"]));
        house.b.always(answers(Openai, stream, &["second"]));
        let answer = client.ask(&house.gateway, "both", stream).await;
        assert_eq!(
            (answer.status, client.text(&answer).as_str()),
            (200, "second"),
            "{client:?} {stream}: {}",
            answer.text()
        );
        assert_eq!(house.gateway.record(1).await["tags"]["quality_unmet"], "true");
    }
}

#[tokio::test]
async fn a_poor_answer_is_better_than_a_failing_target() {
    for (client, stream) in ways() {
        let house = house(PICKY).await;
        house.a.always(answers(Openai, stream, &["first"]));
        house.b.always(Say::error(500, "{}"));
        let answer = client.ask(&house.gateway, "both", stream).await;
        assert_eq!(
            (answer.status, client.text(&answer).as_str()),
            (200, "first"),
            "{client:?} {stream}: {}",
            answer.text()
        );
        assert_eq!(answer.header("x-portcullis-target"), Some("a/m"));
    }
}

#[tokio::test]
async fn a_whole_answer_is_refused_with_a_status_even_when_streamed() {
    let script =
        "const STREAM = \"whole\";\nfn response(response, context) { return reject(422, \"not fit to print\"); }";
    for (client, stream) in ways() {
        let house = house(script).await;
        house.a.always(answers(Openai, stream, &["text"]));
        let answer = client.ask(&house.gateway, "both", stream).await;
        assert_eq!(
            (answer.status, client.error(&answer).message.as_str()),
            (422, "not fit to print"),
            "{}",
            answer.text()
        );
        assert!(house.b.heard().is_empty());
    }
}

#[tokio::test]
async fn an_observer_looks_on_after_the_end_and_changes_nothing() {
    let script = "const STREAM = \"observe\";\nfn response(response, context) { context.note(\"saw \" + response.text); response.text = \"other\"; return reject(400, \"no\"); }";
    for (client, stream) in ways() {
        let house = house(script).await;
        house.a.always(answers(Openai, stream, &["as ", "it was"]));
        let answer = client.ask(&house.gateway, "a/m", stream).await;
        assert_eq!(
            (answer.status, client.text(&answer).as_str()),
            (200, "as it was"),
            "{client:?} {stream}: {}",
            answer.text()
        );
        let record = house.gateway.record(1).await;
        let note = record["trace"].as_array().expect("a trace").iter().any(|s| s["text"] == "saw as it was");
        assert!(note && record["status"] == 200, "{record}");
    }
}

// error, log

#[tokio::test]
async fn a_script_rewords_errors() {
    let script =
        "fn error(error, context) { error.message = \"ask the help desk about \" + error.code; error.status = 418; }";
    for (client, stream) in ways() {
        let house = house(script).await;
        house.a.always(Say::error(400, &Openai.error_body(400, "raw words")));
        let answer = client.ask(&house.gateway, "a/m", stream).await;
        assert_eq!(answer.status, 418, "{}", answer.text());
        assert!(client.error(&answer).message.starts_with("ask the help desk about "), "{}", answer.text());
        assert!(!answer.text().contains("raw words"));
        assert_eq!(house.gateway.record(1).await["status"], 418);
    }
}

#[tokio::test]
async fn a_script_answers_in_an_errors_place() {
    let script = "fn error(error, context) { if error.side == \"upstream\" { return respond(\"back soon\"); } }";
    for (client, stream) in ways() {
        let house = house(script).await;
        house.a.always(Say::error(500, "{}"));
        let answer = client.ask(&house.gateway, "a/m", stream).await;
        assert_eq!(
            (answer.status, client.text(&answer).as_str()),
            (200, "back soon"),
            "{client:?} {stream}: {}",
            answer.text()
        );
        assert!(!stream || client.terminals(&answer) == 1, "{}", answer.text());
    }
}

#[tokio::test]
async fn tags_of_the_log_phase_stand_in_the_record() {
    let script =
        "fn log(record, context) { record.tags.status = record.status.to_string(); record.tags.model = record.model; }";
    for (client, stream) in ways() {
        let house = house(script).await;
        house.a.always(answers(Openai, stream, &["hi"]));
        client.ask(&house.gateway, "a/m", stream).await;
        let tags = house.gateway.record(1).await["tags"].clone();
        assert_eq!(tags, json!({"status": "200", "model": "a/m"}));
    }
}

#[tokio::test]
async fn vars_are_shared_by_the_stages_of_one_request_alone() {
    let first = "fn request(request, context) { context.vars.seen = (context.vars.seen ?? 0) + 1; context.vars.word = request.last_user_text; }";
    let second = "fn log(record, context) { record.tags.word = context.vars.word; record.tags.seen = context.vars.seen.to_string(); }";
    let house = house_of("", &[("scripts/a.rhai", first), ("scripts/b.rhai", second)], Openai).await;
    house.a.always(answers(Openai, false, &["hi"]));
    for count in 1..=3 {
        house.gateway.chat(&Openai.body("a/m", false, &format!("word{count}"))).await;
        let tags = house.gateway.record(count).await["tags"].clone();
        assert_eq!(tags, json!({"word": format!("word{count}"), "seen": "1"}));
    }
}

// faults

const THROWS: [(&str, &str); 6] = [
    ("request", "fn request(request, context) { throw \"oh\"; }"),
    ("route", "fn route(request, targets, context) { let x = 1 / 0; }"),
    ("attempt", "fn attempt(target, request, context) { parse_int(\"x\"); }"),
    ("event", "fn event(event, context) { throw \"oh\"; }"),
    ("response", "const STREAM = \"whole\";\nfn response(response, context) { throw \"oh\"; }"),
    ("endless", "fn request(request, context) { loop { } }"),
];

#[tokio::test]
async fn a_failing_script_refuses_its_request_and_names_no_cause_to_the_caller() {
    for (phase, script) in THROWS {
        for (client, stream) in ways() {
            let house = house(script).await;
            house.a.always(answers(Openai, stream, &["hi"]));
            let answer = client.ask(&house.gateway, "both", stream).await;
            let error = client.error(&answer);
            assert_eq!((answer.status, error.code.as_str()), (500, "stage_failed"), "{phase}: {}", answer.text());
            assert!(house.b.heard().is_empty(), "{phase}: a stage's failure is not a target's");
        }
    }
}

#[tokio::test]
async fn a_failing_script_is_skipped_when_the_file_says_so() {
    for (phase, script) in THROWS {
        for (client, stream) in ways() {
            let skip = "[[stages]]\nuse = \"scripts/a.rhai\"\non_error = \"skip\"\n";
            let house = house_of(skip, &[("scripts/a.rhai", script)], Openai).await;
            house.a.always(answers(Openai, stream, &["hi"]));
            let answer = client.ask(&house.gateway, "a/m", stream).await;
            assert_eq!(
                (answer.status, client.text(&answer).as_str()),
                (200, "hi"),
                "{phase} {client:?}: {}",
                answer.text()
            );
            let failed = house.gateway.record(1).await["trace"]
                .as_array()
                .expect("a trace")
                .iter()
                .any(|s| s["verdict"] == "failed");
            assert!(failed, "{phase}: the record tells that the stage did not run");
        }
    }
}

#[tokio::test]
async fn a_script_that_failed_after_changing_the_request_fails_it_whatever_the_file_says() {
    let script = "fn request(request, context) { request.temperature = 0.1; throw \"oh\"; }";
    let skip = "[[stages]]\nuse = \"scripts/a.rhai\"\non_error = \"skip\"\n";
    let house = house_of(skip, &[("scripts/a.rhai", script)], Openai).await;
    let answer = Openai.ask(&house.gateway, "a/m", false).await;
    assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (500, "stage_failed"));
}

#[tokio::test]
async fn a_failing_event_after_output_is_an_error_event() {
    let script = "fn event(event, context) { if event.text == \"bad\" { throw \"oh\"; } }";
    for client in FAMILIES {
        let house = house(script).await;
        let frames = Openai.frames(&["good", " and well", "bad", "never"]);
        // What came in one piece with the event that failed, but before it, is delivered.
        let (first, rest) = (frames[..2].concat(), frames[2..].concat());
        house.a.always(Say::frames(&[&first, &rest], Duration::ZERO));
        let answer = client.ask(&house.gateway, "a/m", true).await;
        let errors = client.stream_errors(&answer);
        let seen = (client.text(&answer), errors.len(), client.terminals(&answer));
        assert_eq!(seen, ("good and well".to_owned(), 1, 0), "{}", answer.text());
        assert_eq!(errors[0].code, "stage_failed");
    }
}

#[tokio::test]
async fn endless_scripts_leave_their_neighbours_unharmed() {
    let script = "fn request(request, context) { if request.model == \"a/bad\" { loop { } } }";
    let house = house(script).await;
    house.a.always(answers(Openai, false, &["hi"]));
    let ask = |model: &'static str| Openai.ask(&house.gateway, model, false);
    let bad = futures_util::future::join_all((0..8).map(|_| ask("a/bad")));
    let good = futures_util::future::join_all((0..32).map(|_| ask("a/m")));
    let (bad, good): (Vec<Answer>, Vec<Answer>) = futures_util::future::join(bad, good).await;
    assert!(bad.iter().all(|a| a.status == 500) && good.iter().all(|a| a.status == 200));
}

#[tokio::test]
async fn scripts_see_no_credentials() {
    let script = "fn request(request, context) { for name in [\"authorization\", \"cookie\", \"x-api-key\", \"x-shown\"] { context.note(name + \"=\" + request.headers[name]); } return respond(\"ok\"); }";
    let house = house(script).await;
    let headers =
        [("authorization", "Bearer sk-hidden"), ("cookie", "c=hidden"), ("x-api-key", "hidden"), ("x-shown", "shown")];
    let answer = house.gateway.post_with("/v1/chat/completions", &headers, &Openai.body("a/m", false, "x")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let trace = house.gateway.record(1).await["trace"].to_string();
    assert!(trace.contains("x-shown=shown") && !trace.contains("hidden"), "{trace}");
}

#[tokio::test]
async fn the_caller_may_read_the_decision_trace() {
    let house = house("fn request(request, context) { context.note(\"been here\"); }").await;
    house.a.always(answers(Openai, false, &["hi"]));
    let answer = house
        .gateway
        .post_with("/v1/chat/completions", &[("x-portcullis-explain", "1")], &Openai.body("a/m", false, "x"))
        .await;
    let trace: Value = serde_json::from_str(answer.header("x-portcullis-explain").expect("a trace")).expect("JSON");
    assert!(trace.to_string().contains("been here") && trace.to_string().contains("a/m"), "{trace}");
}

// names, choices, tools

#[tokio::test]
async fn a_script_renames_the_model_and_the_caller_still_reads_what_it_asked_for() {
    for (family, stream) in ways() {
        let house = house("fn request(request, context) { request.model = \"b/other\"; }").await;
        house.b.always(answers(Openai, stream, &["from b"]));
        let answer = family.ask(&house.gateway, "a/m", stream).await;
        assert_eq!(family.text(&answer), "from b", "{}", answer.text());
        assert_eq!(
            (answer.header("x-portcullis-model"), answer.header("x-portcullis-target")),
            (Some("a/m"), Some("b/other"))
        );
        assert_eq!(house.b.last().json()["model"], "other");
    }
}

#[tokio::test]
async fn a_new_name_passes_the_callers_own_list() {
    let script = "fn request(request, context) { request.model = \"b/m\"; }";
    let house = house_of("[auth]\nrequired = true\n", &[("scripts/a.rhai", script)], Openai).await;
    let (_, key) = house.gateway.key(r#"{"name":"k","models":["a/*"]}"#).await;
    let answer =
        house.gateway.post_with("/v1/chat/completions", &[("x-api-key", &key)], &Openai.body("a/m", false, "x")).await;
    assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (403, "model_not_allowed"));
    assert!(house.b.heard().is_empty());
}

#[tokio::test]
async fn a_script_may_not_be_asked_about_a_model_to_get_around_the_list() {
    let script = "fn route(request, targets, context) { return [\"both\"]; }";
    let house = house_of("[auth]\nrequired = true\n", &[("scripts/a.rhai", script)], Openai).await;
    let (_, key) = house.gateway.key(r#"{"name":"k","models":["both"]}"#).await;
    house.a.always(answers(Openai, false, &["from a"]));
    let ask = async |model: &str| {
        house
            .gateway
            .post_with("/v1/chat/completions", &[("x-api-key", &key)], &Openai.body(model, false, "x"))
            .await
            .status
    };
    assert_eq!((ask("both").await, ask("a/m").await), (200, 403));
}

#[tokio::test]
async fn a_route_may_name_an_alias() {
    let house = house("fn route(request, targets, context) { return \"both\"; }").await;
    house.a.always(Say::error(500, "{}"));
    house.b.always(answers(Openai, false, &["from b"]));
    assert_eq!(Openai.text(&Openai.ask(&house.gateway, "mock", false).await), "from b");
}

#[tokio::test]
async fn a_stage_meets_only_the_requests_that_the_file_gives_it() {
    let stages = "[[stages]]\nuse = \"scripts/a.rhai\"\nonly = { models = [\"a/*\"] }\n[[stages]]\nuse = \"scripts/b.rhai\"\nonly = { teams = [\"red\"] }\n[teams.red]\n";
    let files = [
        (
            "scripts/a.rhai",
            "fn request(request, context) { request.model = \"b/m\"; }\nfn log(record, context) { record.tags.a = \"yes\"; }",
        ),
        ("scripts/b.rhai", "fn log(record, context) { record.tags.red = \"yes\"; }"),
    ];
    let house = house_of(stages, &files, Openai).await;
    house.b.always(answers(Openai, false, &["from b"]));
    let (_, key) = house.gateway.key(r#"{"name":"k","team":"red"}"#).await;
    for (count, model, key, tags) in [
        (1, "a/m", "", json!({"a": "yes"})),
        (2, "b/m", "", json!({})),
        (3, "b/m", key.as_str(), json!({"red": "yes"})),
    ] {
        let headers: &[(&str, &str)] = if key.is_empty() { &[] } else { &[("x-api-key", key)] };
        let answer = house.gateway.post_with("/v1/chat/completions", headers, &Openai.body(model, false, "x")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(house.gateway.record(count).await["tags"], tags, "{model}");
    }
}

#[tokio::test]
async fn a_stop_closes_every_choice_of_a_stream() {
    let script = "fn event(event, context) { if event.text == \"bad\" { return stop(\"a word\"); } }";
    let house = house(script).await;
    let chunk = |index: u8, text: &str| {
        format!(
            "data: {}\n\n",
            json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": index, "delta": {"content": text}, "finish_reason": null}]})
        )
    };
    let frames = [chunk(0, "good"), chunk(1, "fine"), chunk(0, "bad")];
    house.a.always(Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO).end(End::Stall));
    let answer = Openai.ask(&house.gateway, "a/m", true).await;
    assert_eq!(answer.text().matches("\"content_filter\"").count(), 2, "{}", answer.text());
    assert_eq!(Openai.terminals(&answer), 1);
}

const TOOL_STREAM: [&str; 4] = [
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"send","arguments":""}}]},"finish_reason":null}]}"#,
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"to\":\"se"}}]},"finish_reason":null}]}"#,
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"cret\"}"}}]},"finish_reason":null}]}"#,
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
];

/// Guards see tool arguments as they see text: a value split over two events is still found.
#[tokio::test]
async fn a_value_split_over_two_pieces_of_tool_arguments_is_found() {
    let script = "const STREAM = \"window\";\nconst WINDOW = 16;\nfn event(event, context) { if event.kind == \"tool_arguments\" { let text = event.text; text.replace(\"secret\", \"nobody\"); event.text = text; } }";
    for client in FAMILIES {
        let house = house(script).await;
        let frames: Vec<String> =
            TOOL_STREAM.iter().map(|f| format!("data: {f}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect();
        house.a.always(Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO));
        let answer = client.ask(&house.gateway, "a/m", true).await;
        let text = answer.text();
        assert!(answer.status == 200 && text.contains("nobody") && !text.contains("cret"), "{client:?}: {text}");
        assert!(text.contains("send"), "{client:?}: {text}");
    }
}

#[tokio::test]
async fn errors_in_a_running_stream_are_reworded_too() {
    let script = "fn error(error, context) { error.message = \"ask the help desk about \" + error.code; }";
    for client in FAMILIES {
        let house = house(script).await;
        let frames = Openai.frames(&["good", "never"]);
        house.a.always(
            Say::frames(&frames.iter().take(2).map(String::as_str).collect::<Vec<_>>(), Duration::ZERO).end(End::Cut),
        );
        let answer = client.ask(&house.gateway, "a/m", true).await;
        let errors = client.stream_errors(&answer);
        assert!(errors.len() == 1 && errors[0].message.starts_with("ask the help desk about "), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_script_remembers_a_little_for_its_tenant_alone() {
    let script = "fn request(request, context) { let n = (context.kv.get(\"n\") ?? 0) + 1; context.kv.set(\"n\", n); return respond(n.to_string()); }";
    let house = house_of("[teams.red]\n", &[("scripts/a.rhai", script)], Openai).await;
    let (_, red) = house.gateway.key(r#"{"name":"k","team":"red"}"#).await;
    let (_, own) = house.gateway.key(r#"{"name":"own"}"#).await;
    let ask = async |key: &str| {
        let answer = house
            .gateway
            .post_with("/v1/chat/completions", &[("x-api-key", key)], &Openai.body("a/m", false, "x"))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Openai.text(&answer)
    };
    assert_eq!(
        (ask(&red).await, ask(&red).await, ask(&own).await, ask(&red).await),
        ("1".into(), "2".into(), "1".into(), "3".into())
    );
}

// what holds a stream back

#[tokio::test]
async fn a_stream_that_dies_while_it_is_held_back_is_tried_elsewhere() {
    for client in FAMILIES {
        let house = house(PICKY).await;
        let frames = Openai.frames(&["held back for long", "never"]);
        house.a.always(
            Say::frames(&frames.iter().take(2).map(String::as_str).collect::<Vec<_>>(), Duration::ZERO).end(End::Cut),
        );
        house.b.always(answers(Openai, true, &["long enough to please"]));
        let answer = client.ask(&house.gateway, "both", true).await;
        assert_eq!(client.text(&answer), "long enough to please", "{}", answer.text());
        assert_eq!(client.terminals(&answer), 1);
        let answer = client.ask(&house.gateway, "a/m", true).await;
        assert_eq!((answer.status, client.error(&answer).code.as_str()), (502, "upstream_disconnected"));
    }
}

#[tokio::test]
async fn what_a_stage_held_of_one_attempt_is_not_in_the_next() {
    let upper =
        "const STREAM = \"whole\";\nfn response(response, context) { response.text = response.text.to_upper(); }";
    let house = house(upper).await;
    let frames = Openai.frames(&["from a", "never"]);
    house.a.always(
        Say::frames(&frames.iter().take(2).map(String::as_str).collect::<Vec<_>>(), Duration::ZERO).end(End::Cut),
    );
    house.b.always(answers(Openai, true, &["from b"]));
    let answer = Openai.ask(&house.gateway, "both", true).await;
    assert_eq!(Openai.text(&answer), "FROM B", "{}", answer.text());
}

// other operations

#[tokio::test]
async fn a_script_cannot_answer_in_place_of_a_vector_or_a_count() {
    let script = "fn request(request, context) { return respond(\"words\"); }\nfn error(error, context) { return respond(\"words\"); }";
    let gateway = Gateway::with("", &[("scripts/a.rhai", script)]).await;
    let bodies = [
        (Openai, "/v1/embeddings", "{\"model\":\"mock\",\"input\":\"x\"}".to_owned()),
        (Anthropic, "/v1/messages/count_tokens", Anthropic.body("mock", false, "x")),
        (Family::Gemini, "/v1beta/models/mock:countTokens", Family::Gemini.body("", false, "x")),
    ];
    for (family, path, body) in bodies {
        let answer = gateway.post(path, &body).await;
        assert_eq!(
            (answer.status, family.error(&answer).code.as_str()),
            (500, "stage_failed"),
            "{path}: {}",
            answer.text()
        );
    }
}
