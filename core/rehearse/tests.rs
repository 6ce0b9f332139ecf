use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::{
    config::{Config, Sources},
    error::Kind,
    model::{FinishReason, Usage},
    pipeline::Pipeline,
    rehearse::answers::{reasoning_part, text_part, tool_part},
    route::Cast,
};

fn config(toml: &str) -> Arc<Config> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, toml).expect("written");
    let place = crate::config::Place::File(file);
    let loaded = crate::config::read(&place, &|_| None, &crate::provider::catalog_names());
    assert_eq!(loaded.problems, []);
    Arc::new(Config { sources: Sources::default(), ..loaded.config })
}

fn house(config: &Arc<Config>, own: &[Own]) -> House {
    House::new(config, &Pipeline::default(), &Cast { own, live: own, without: None }, || {}).expect("a house")
}

fn chat(model: &str, stream: bool) -> Scene {
    let body = json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hello" }] });
    Scene { body: body.to_string().into(), ..Scene::default() }
}

fn run(house: &House, scene: &Scene) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(play(house, scene)).expect("it ends")
}

fn text(outcome: &Outcome) -> String {
    let value: serde_json::Value = serde_json::from_slice(&outcome.body).unwrap_or_default();
    value["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

fn told(fault: Fault) -> Answer {
    Answer { fault: Some(fault), ..Answer::default() }
}

/// One provider a format.
const FORMATS: &str = r#"
[providers.f-openai_chat]
base_url = "http://x.invalid/v1"
format = "openai_chat"
[providers.f-openai_responses]
base_url = "http://x.invalid/v1"
format = "openai_responses"
[providers.f-anthropic_messages]
base_url = "http://x.invalid/v1"
format = "anthropic_messages"
[providers.f-gemini]
base_url = "http://x.invalid/v1"
format = "gemini"
[providers.f-bedrock_converse]
base_url = "http://x.invalid"
format = "bedrock_converse"
[providers.f-cohere]
base_url = "http://x.invalid"
format = "cohere"
[providers.f-ollama]
base_url = "http://x.invalid"
format = "ollama"
"#;

#[test]
fn an_upstream_of_every_format_says_what_it_is_told() {
    let house = house(&config(FORMATS), &[]);
    for format in Format::ALL.map(Format::name) {
        for stream in [false, true] {
            let mut events = reasoning_part(0, "hm");
            events.extend(text_part(1, "a tide"));
            events.extend(tool_part(2, "call_1", "look", "{\"at\":3}"));
            let usage = Usage { input_tokens: Some(7), output_tokens: Some(4), ..Usage::default() };
            let answer =
                Answer { events, usage: Some(usage), finish: Some(FinishReason::ToolCalls), ..Answer::default() };
            for pieces in [Pieces::AsTold, Pieces::Characters, Pieces::Bytes, Pieces::At { part: 1, after: 2 }] {
                let mut scene = chat(&format!("f-{format}/m"), stream);
                scene.answers = Answers { by_attempt: vec![answer.clone()], pieces, ..Answers::default() };
                let outcome = run(&house, &scene);
                let shown = String::from_utf8_lossy(&outcome.body);
                assert_eq!((outcome.status, outcome.broken), (200, false), "{format} {stream} {pieces:?}: {shown}");
                let used = outcome.record.usage.as_ref().expect("usage");
                assert_eq!((used.input_tokens, used.output_tokens), (Some(7), Some(4)), "{format} {stream}: {shown}");
                assert_eq!(outcome.record.finish_reason, Some("tool_calls"), "{format} {stream}: {shown}");
                assert!(shown.contains("look"), "{format} {stream}: {shown}");
                if pieces == Pieces::AsTold {
                    assert!(shown.contains("a tide"), "{format} {stream}: {shown}");
                }
                assert_eq!(outcome.heard.len(), 1);
                assert_eq!(outcome.heard[0].format.name(), format);
            }
        }
    }
}

#[test]
fn a_hedge_begins_when_its_time_has_come_and_the_first_with_output_is_heard() {
    let config = config(
        "[models.m]\ntargets = [{ provider = \"mock\", model = \"a\" }, { provider = \"mock\", model = \"b\" }]\n\
         hedge = { after = \"800ms\" }\n",
    );
    let house = house(&config, &[]);
    let answer = |millis, text: &str| Answer { latency: Duration::from_millis(millis), ..Answer::text(text) };
    // The first one's answer, the second one's, who is heard, after how long, and how many were asked.
    for (first, second, heard, took, asked) in [
        (told(Fault::Silent), answer(1000, "second"), "second", 1800, 2),
        (answer(2000, "first"), answer(5000, "second"), "first", 2000, 2),
        (answer(799, "first"), answer(0, "second"), "first", 799, 1),
    ] {
        let mut scene = chat("m", false);
        scene.answers.by_attempt = vec![first, second];
        let outcome = run(&house, &scene);
        assert_eq!((outcome.status, text(&outcome).as_str()), (200, heard), "{:?}", outcome.trace);
        assert_eq!((outcome.took.as_millis(), outcome.record.attempts), (took, asked), "{:?}", outcome.trace);
        let rows: Vec<_> = outcome.record.ledger.iter().map(|row| &*row.outcome).collect();
        assert_eq!(rows, if asked == 2 { vec!["hedged", "ok"] } else { vec!["ok"] });
        if asked == 2 {
            let loser = &outcome.record.ledger[0];
            let usage = loser.usage.as_ref().expect("its prompt counts as used");
            assert!(loser.estimated && usage.input_tokens > Some(0) && usage.output_tokens == Some(0), "{loser:?}");
        }
    }
}

#[test]
fn a_target_that_does_not_answer_costs_its_timeout_and_no_time() {
    let config = config(
        "[models.m]\ntargets = [{ provider = \"mock\", model = \"a\" }, { provider = \"mock\", model = \"b\" }]\n\
         timeouts = { whole = \"30s\" }\n",
    );
    let house = house(&config, &[]);
    let mut scene = chat("m", false);
    let late = Answer { latency: Duration::from_secs(4), ..Answer::text("late") };
    scene.answers.by_attempt = vec![told(Fault::Silent), late];
    let real = Instant::now();
    let outcome = run(&house, &scene);
    assert!(real.elapsed() < Duration::from_secs(5));
    assert_eq!((outcome.status, text(&outcome).as_str()), (200, "late"));
    assert_eq!(outcome.took.as_secs(), 34, "{:?}", outcome.trace);
    assert_eq!(outcome.record.attempts, 2);
    assert_eq!(&*outcome.record.ledger[0].outcome, Kind::UpstreamTimeout.facts().1);
    assert_eq!(outcome.record.duration.as_secs(), 34);
}

#[test]
fn equal_scenes_give_equal_outcomes() {
    let house = house(&config("[models.m]\ntargets = [{ provider = \"mock\", model = \"a\" }]\nretries = 3\n"), &[]);
    let mut scene = chat("m", true);
    let busy = || told(Fault::Status { status: 503, message: None, retry_after: None });
    scene.answers.by_attempt = vec![busy(), busy()];
    scene.seed = 11;
    let (one, two) = (run(&house, &scene), run(&house, &scene));
    assert_eq!((one.took, &one.body), (two.took, &two.body), "the waits between retries are drawn alike");
    assert_eq!(one.record.attempts, 3);
    scene.seed = 12;
    assert_ne!(run(&house, &scene).took, one.took);
}

#[test]
fn a_stream_that_dies_is_an_error_for_its_client_and_no_time_is_waited_for_one_that_stalls() {
    let house = house(&config(""), &[]);
    for fault in [Fault::Cut(1), Fault::Stall(1)] {
        let mut scene = chat("mock", true);
        let mut events = text_part(0, "one ");
        events.insert(
            2,
            crate::model::Event::Delta { choice: 0, index: 0, delta: crate::model::Delta::Text("two".into()) },
        );
        scene.answers.by_attempt = vec![Answer { events, fault: Some(fault.clone()), ..Answer::default() }];
        let outcome = run(&house, &scene);
        let shown = String::from_utf8_lossy(&outcome.body);
        assert!(shown.contains("one ") && !shown.contains("two") && !shown.contains("[DONE]"), "{fault:?}: {shown}");
        assert!(shown.contains("error"), "{fault:?}: {shown}");
        assert!(outcome.record.error_code.is_some(), "{fault:?}");
    }
}

#[test]
fn open_breakers_and_resting_keys_are_met_as_they_are_told() {
    let fares = |open| crate::route::Fares { open, ..crate::route::Fares::default() };
    let own = [
        Own { name: "a/x".into(), fares: fares(Some(Duration::from_secs(60))), ..Own::default() },
        Own { name: "b/y".into(), ..Own::default() },
    ];
    let house = house(
        &config(
            "[providers.keyed]\nbase_url = \"http://x.invalid/v1\"\nformat = \"openai_chat\"\nkey = \"env:NONE\"\n",
        ),
        &own,
    );
    let mut scene = chat("anything", false);
    scene.live = own.to_vec();
    let outcome = run(&house, &scene);
    assert_eq!((outcome.status, outcome.record.target.as_deref()), (200, Some("b/y")));
    let mut scene = chat("keyed/m", false);
    assert_eq!(run(&house, &scene).status, 200, "a provider without a key on this machine answers too");
    scene.resting = vec!["keyed/m".into()];
    let outcome = run(&house, &scene);
    assert_eq!((outcome.status, outcome.heard.len()), (429, 0), "{}", String::from_utf8_lossy(&outcome.body));
}
