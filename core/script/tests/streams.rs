//! Streams at stage borders: events, windows, whole answers, onlookers.

use super::*;

/// An answer as a stream with its text in pieces.
fn stream(pieces: &[&str]) -> Vec<Event> {
    let mut events = vec![
        Event::Start(Start::default()),
        Event::PartStart { choice: 0, index: 0, part: PartStart::Text { extra: crate::model::Extra::default() } },
    ];
    events.extend(pieces.iter().map(|p| Event::Delta { choice: 0, index: 0, delta: Delta::Text((*p).into()) }));
    events.push(Event::PartEnd { choice: 0, index: 0 });
    events.push(Event::Finish { choice: 0, finish: Finish::new(FinishReason::Stop, "stop") });
    events.push(Event::Usage(Usage { output_tokens: Some(7), ..Usage::default() }));
    events.push(Event::End);
    events
}

struct Ran {
    out: Vec<Event>,
    stopped: Option<String>,
    next: Option<String>,
    error: Option<Error>,
}

impl Ran {
    fn whole(&self) -> Response {
        let mut fold = Fold::default();
        self.out.iter().cloned().for_each(|e| fold.push(e));
        fold.finish()
    }

    fn text(&self) -> String {
        self.whole().text()
    }
}

fn play(chain: &mut Chain, cx: &mut Context, events: Vec<Event>) -> Ran {
    let mut ran = Ran { out: Vec::new(), stopped: None, next: None, error: None };
    chain.start(1);
    let mut headers = http::HeaderMap::new();
    now(chain.attempt(cx, &targets()[0], &mut doc(), &mut headers)).unwrap();
    for event in events {
        match now(chain.event(cx, event, &mut ran.out)) {
            Ok(EventFlow::Continue) => {}
            Ok(EventFlow::Stop(reason)) => {
                ran.stopped = Some(reason);
                return ran;
            }
            Err(error) => {
                ran.error = Some(error);
                return ran;
            }
        }
    }
    match now(chain.end(cx, &mut ran.out)) {
        Ok(EndFlow::Done) => {}
        Ok(EndFlow::Next(reason)) => ran.next = Some(reason),
        Err(error) => ran.error = Some(error),
    }
    ran
}

fn run(script: &str, events: Vec<Event>) -> (Ran, Context) {
    let (mut chain, mut cx) = chain(script);
    let ran = play(&mut chain, &mut cx, events);
    (ran, cx)
}

#[test]
fn a_stage_without_answer_hooks_leaves_streams_alone() {
    let (chain, _) = chain("fn request(request, context) {}");
    assert_eq!(chain.stream_need(), StreamNeed::None);
    let (ran, _) = run("fn request(request, context) {}", stream(&["a"]));
    assert_eq!(ran.out, stream(&["a"]));
}

#[test]
fn events_are_kept_changed_replaced_inserted_and_dropped() {
    let (ran, cx) = run("fn event(event, context) { }", stream(&["a", "b"]));
    assert_eq!(ran.out, stream(&["a", "b"]), "{}", fault(&cx));
    let (ran, cx) = run(
        "fn event(event, context) { if event.kind == \"text\" { event.text = event.text.to_upper(); } }",
        stream(&["a", "b"]),
    );
    assert_eq!(ran.text(), "AB", "{}", fault(&cx));
    let (ran, cx) =
        run("fn event(event, context) { if event.text == \"a\" { return #{ text: \"x\" }; } }", stream(&["a", "b"]));
    assert_eq!(ran.text(), "xb", "{}", fault(&cx));
    let (ran, cx) = run(
        "fn event(event, context) { if event.text == \"a\" { return [event, #{ kind: \"text\", text: \"+\" }]; } }",
        stream(&["a", "b"]),
    );
    assert_eq!(ran.text(), "a+b", "{}", fault(&cx));
    let (ran, cx) = run("fn event(event, context) { if event.text == \"a\" { return []; } }", stream(&["a", "b"]));
    assert_eq!(ran.text(), "b", "{}", fault(&cx));
}

#[test]
fn the_frame_of_an_answer_cannot_be_dropped() {
    let (ran, cx) = run("fn event(event, context) { if event.kind != \"text\" { return []; } }", stream(&["a"]));
    assert_eq!(ran.out, stream(&["a"]), "{}", fault(&cx));
}

#[test]
fn new_parts_get_numbers_of_their_own() {
    let script = "fn event(event, context) {
        if event.kind == \"finish\" { return [#{ kind: \"tool_call\", name: \"f\", arguments: #{ a: 1 } }, event]; }
        if event.kind == \"start\" { return [event, #{ kind: \"reasoning\", text: \"hm\" }]; }
    }";
    let (ran, cx) = run(script, stream(&["a"]));
    let parts = ran.whole().choices[0].parts.clone();
    assert!(matches!(&parts[0], Part::Reasoning(r) if r.text == "hm"), "{parts:?} {}", fault(&cx));
    assert!(matches!(&parts[1], Part::Text(t) if t.text == "a"));
    assert!(matches!(&parts[2], Part::ToolCall(c) if c.name == "f" && c.arguments == "{\"a\":1}"));
}

#[test]
fn stopping_ends_cleanly_and_rejecting_does_not() {
    let (ran, _) =
        run("fn event(event, context) { if event.text == \"b\" { return stop(\"bad\"); } }", stream(&["a", "b", "c"]));
    assert_eq!(ran.stopped.as_deref(), Some("bad"));
    let whole = ran.whole();
    assert_eq!(
        (whole.text().as_str(), whole.choices[0].finish.as_ref().map(|f| f.reason)),
        ("a", Some(FinishReason::ContentFilter))
    );
    assert_eq!(ran.out.last(), Some(&Event::End));
    let (ran, _) = run(
        "fn event(event, context) { if event.text == \"b\" { return reject(451, \"no\"); } }",
        stream(&["a", "b", "c"]),
    );
    assert_eq!(ran.error.map(|e| e.status()), Some(451));
}

#[test]
fn a_stop_still_passes_the_stages_outside_it() {
    let mut cx = cx();
    let outer = "const STREAM = \"whole\"; fn response(response, context) { response.text += \" (\" + response.finish_reason + \")\"; }";
    let inner = "fn event(event, context) { if event.text == \"b\" { return stop(\"bad\"); } }";
    let mut chain = chain_of(&[("a.rhai", outer), ("b.rhai", inner)], &cx);
    assert_eq!(chain.stream_need(), StreamNeed::Whole);
    let ran = play(&mut chain, &mut cx, stream(&["a", "b"]));
    assert_eq!(ran.text(), "a (content_filter)", "{}", fault(&cx));
}

#[test]
fn a_window_finds_a_value_over_any_split() {
    let script = "const STREAM = \"window\"; const WINDOW = 12;
        fn event(event, context) { if event.kind == \"text\" { let t = event.text; t.replace(\"SECRET-1234\", \"[gone]\"); event.text = t; } }";
    let text = "before it all SECRET-1234 and after SECRET-1234é, then much more text so that the window moves";
    let wanted = text.replace("SECRET-1234", "[gone]");
    let cuts: Vec<usize> = (1..text.len()).filter(|at| text.is_char_boundary(*at)).collect();
    for at in &cuts {
        let (ran, cx) = run(script, stream(&[&text[..*at], &text[*at..]]));
        assert_eq!(ran.text(), wanted, "cut at {at}: {}", fault(&cx));
    }
    let letters: Vec<String> = text.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    let (ran, _) = run(script, stream(&letters));
    assert_eq!(ran.text(), wanted);
    // Something goes out before the end: it is a window, not a buffer.
    let before_end = ran.out.iter().position(|e| matches!(e, Event::PartEnd { .. })).unwrap_or(0);
    assert!(before_end > 20, "{before_end}");
}

#[test]
fn a_window_guards_tool_arguments_and_reasoning_too() {
    let script = "const STREAM = \"window\"; const WINDOW = 8;
        fn event(event, context) { if event.text != () { let t = event.text; t.replace(\"SECRET\", \"[x]\"); event.text = t; } }";
    let mut response = answer("a SECRET");
    response.choices[0]
        .parts
        .push(Part::Reasoning(Reasoning { text: "the SECRET is out".into(), ..Reasoning::default() }));
    response.choices[0].parts.push(Part::ToolCall(ToolCall {
        id: "c".into(),
        name: "f".into(),
        kind: ToolKind::Function,
        arguments: "{\"q\":\"SECRET\"}".into(),
        signature: None,
        cache: None,
        extra: crate::model::Extra::default(),
    }));
    // Every delta letter by letter.
    let events = unfold(&response).into_iter().flat_map(|event| match event {
        Event::Delta { choice, index, delta: Delta::Text(text) } => {
            text.chars().map(|c| Event::Delta { choice, index, delta: Delta::Text(c.into()) }).collect()
        }
        other => vec![other],
    });
    let (ran, cx) = run(script, events.collect());
    let told = format!("{:?}", ran.whole());
    assert!(!told.contains("SECRET") && told.matches("[x]").count() == 3, "{told} {}", fault(&cx));
}

#[test]
fn a_whole_stage_holds_the_stream_to_its_end() {
    let script =
        "const STREAM = \"whole\"; fn response(response, context) { response.text = response.text.to_upper(); }";
    let (mut chain, mut cx) = chain(script);
    chain.start(1);
    let mut out = Vec::new();
    let mut events = stream(&["a", "b"]);
    let end = events.pop().unwrap();
    for event in events {
        now(chain.event(&mut cx, event, &mut out)).unwrap();
    }
    assert_eq!(out, []);
    now(chain.event(&mut cx, end, &mut out)).unwrap();
    assert_eq!(now(chain.end(&mut cx, &mut out)).unwrap(), EndFlow::Done);
    let mut fold = Fold::default();
    out.into_iter().for_each(|e| fold.push(e));
    assert!(fold.ended());
    let whole = fold.finish();
    assert_eq!((whole.text().as_str(), whole.usage.and_then(|u| u.output_tokens)), ("AB", Some(7)));
}

#[test]
fn next_on_a_stream_keeps_the_answer_for_when_no_target_is_left() {
    let mut cx = cx();
    let outer = "fn event(event, context) { if event.kind == \"text\" { event.text += \"!\"; } }";
    let inner = "const STREAM = \"whole\"; fn response(response, context) { if response.text.len() < 9 { return next(\"short\"); } }";
    let mut chain = chain_of(&[("a.rhai", outer), ("b.rhai", inner)], &cx);
    let ran = play(&mut chain, &mut cx, stream(&["a"]));
    assert_eq!((ran.next.as_deref(), ran.out.len()), (Some("short"), 0), "{}", fault(&cx));
    // The next target's answer is fine …
    let ran = play(&mut chain, &mut cx, stream(&["long enough"]));
    assert_eq!((ran.next.as_deref(), ran.text().as_str()), (None, "long enough!"));
    // … or there is none.
    play(&mut chain, &mut cx, stream(&["b"]));
    let last = now(chain.unmet(&mut cx, &targets()[0])).unwrap().map(|r| r.text());
    assert_eq!(last.as_deref(), Some("b!"));
}

#[test]
fn an_onlooker_changes_nothing_and_its_verdicts_are_only_told() {
    let script = "const STREAM = \"observe\"; fn response(response, context) { response.text = \"x\"; return reject(451, \"no\"); }";
    let (ran, cx) = run(script, stream(&["a", "b"]));
    assert_eq!(ran.out, stream(&["a", "b"]));
    assert_eq!(notes(&cx), ["not enforced (observe): reject(451)"]);
    let (mut chain, mut cx) = chain(script);
    let mut response = answer("kept");
    assert_eq!(now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap(), ResponseFlow::Deliver);
    assert_eq!(response.text(), "kept");
}

#[test]
fn an_event_stage_sees_unstreamed_answers_as_events() {
    let script = "fn event(event, context) { if event.kind == \"text\" { event.text = event.text.to_upper(); } }";
    let (mut chain, mut cx) = chain(script);
    let mut response = answer("abc");
    let before = response.clone();
    now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap();
    assert_eq!(response.text(), "ABC", "{}", fault(&cx));
    assert_eq!(
        (response.id, response.usage, response.choices[0].finish.clone()),
        (before.id, before.usage, before.choices[0].finish.clone())
    );
    let (mut chain, mut cx) =
        self::chain("fn event(event, context) { if event.kind == \"text\" { return stop(\"no\"); } }");
    let mut response = answer("abc");
    now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap();
    assert_eq!(
        (response.text().as_str(), response.choices[0].finish.as_ref().map(|f| f.reason)),
        ("", Some(FinishReason::ContentFilter))
    );
    assert!(response.usage.is_some());
}

#[test]
fn a_new_attempt_begins_with_nothing_of_the_last() {
    let script = "const STREAM = \"window\"; fn event(event, context) { if event.kind == \"start\" { context.note(`attempt ${event.attempt}`); } }";
    let (mut chain, mut cx) = chain(script);
    chain.start(1);
    let mut out = Vec::new();
    for event in stream(&["half an"]).into_iter().take(3) {
        now(chain.event(&mut cx, event, &mut out)).unwrap();
    }
    cx.attempt = 2;
    let ran = play(&mut chain, &mut cx, stream(&["other"]));
    assert_eq!(ran.text(), "other");
    assert_eq!(notes(&cx), ["attempt 1", "attempt 2"]);
}

#[test]
fn a_stage_that_fails_on_an_event_is_skipped_or_refuses() {
    let script = "fn event(event, context) { if event.text == \"b\" { throw \"oh\"; } }";
    let (ran, cx) = run(script, stream(&["a", "b", "c"]));
    assert_eq!(ran.error.as_ref().map(|e| (e.status(), e.code().to_owned())), Some((500, "stage_failed".into())));
    assert!(
        fault(&cx).contains("scripts/a.rhai:1:") && fault(&cx).contains("(fn event): thrown: oh"),
        "{}",
        fault(&cx)
    );
    let mut config = config(&[("a.rhai", script)]);
    config.stages = Some(vec![Stage { on_error: OnError::Skip, ..stage("a.rhai") }]);
    let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
    let mut cx = self::cx();
    let mut chain = built.pipeline.select(&cx.principal, "m");
    let ran = play(&mut chain, &mut cx, stream(&["a", "b", "c"]));
    assert_eq!(ran.out, stream(&["a", "b", "c"]));
    assert!(!fault(&cx).is_empty());
    // Windows let go of what they held.
    config.stages = Some(vec![Stage { on_error: OnError::Skip, stream: Some(StreamMode::Window), ..stage("a.rhai") }]);
    config.sources.scripts.insert(
        "scripts/a.rhai".into(),
        "fn event(event, context) { if event.kind == \"part_end\" { throw \"x\"; } }".into(),
    );
    let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
    let ran = play(&mut built.pipeline.select(&cx.principal, "m"), &mut cx, stream(&["a", "b", "c"]));
    assert_eq!(ran.text(), "abc");
}

#[test]
fn event_calls_are_told_as_one_step() {
    let (_, cx) = run("fn event(event, context) { }", stream(&["x"; 500]));
    let steps = cx.trace.steps.iter().filter(|s| matches!(s, Step::Stage { phase: "event", .. })).count();
    assert_eq!(steps, 1);
}

#[test]
fn a_stage_sees_whole_sentences_each_once() {
    let script = "const STREAM = \"window\"; const WINDOW = \"sentence\";
        fn event(event, context) {
            if event.kind == \"text\" { context.note(event.text); event.text = event.text.to_upper(); }
        }";
    let (ran, cx) = run(script, stream(&["Hello the", "re. How a", "re you? Fi", "ne"]));
    assert_eq!(notes(&cx), ["Hello there. ", "How are you? ", "Fine"]);
    assert_eq!(ran.text(), "HELLO THERE. HOW ARE YOU? FINE");
    // The same for an answer that is not streamed: one event, so all its whole sentences at once.
    let (mut chain, mut cx) = chain(script);
    let mut response = answer("One. Two");
    now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap();
    assert_eq!(notes(&cx), ["One. ", "Two"]);
    assert!(
        problem("const STREAM = \"window\"; const WINDOW = \"word\"; fn event(event, context) { }")
            .contains("\"sentence\"")
    );
}

#[test]
fn tool_arguments_and_reasoning_are_seen_as_they_grow() {
    let extra = crate::model::Extra::default;
    let call = PartStart::ToolCall {
        id: "c1".into(),
        name: "rm".into(),
        kind: ToolKind::Function,
        signature: None,
        extra: extra(),
    };
    let piece = |index, text: &str| Event::Delta { choice: 0, index, delta: Delta::Text(text.into()) };
    let events = vec![
        Event::Start(Start::default()),
        Event::PartStart { choice: 0, index: 0, part: PartStart::Reasoning { extra: extra() } },
        piece(0, "I sh"),
        piece(0, "all"),
        Event::PartEnd { choice: 0, index: 0 },
        Event::PartStart { choice: 0, index: 1, part: call },
        piece(1, "{\"path\":"),
        piece(1, " \"/etc"),
        piece(1, "/passwd\"}"),
        Event::PartEnd { choice: 0, index: 1 },
        Event::End,
    ];
    let script = "fn event(event, context) {
        if event.so_far != () { context.note(event.kind + \" \" + event.so_far); }
        if event.kind == \"tool_arguments\" && event.so_far.contains(\"/etc\") { return stop(\"a path\"); }
    }";
    let (ran, cx) = run(script, events);
    let seen = ["reasoning I sh", "reasoning I shall", "tool_arguments {\"path\":", "tool_arguments {\"path\": \"/etc"];
    assert_eq!((notes(&cx), ran.stopped.as_deref()), (seen.map(str::to_owned).to_vec(), Some("a path")));
}
