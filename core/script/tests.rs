use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;

use super::{
    Scripts,
    reference::{self, reference},
    suite,
};
use crate::{
    codec::{Field, document::Document},
    config::{Config, OnError, Problem, Sources, Stage, StageLimits, StreamMode},
    context::{Context, Step, Verdict},
    error::{Error, Kind},
    model::{
        Choice, Delta, Event, Finish, FinishReason, Format, Message, Part, PartStart, Reasoning, Request, Response,
        Role, Start, ToolCall, ToolKind, Usage,
        fold::{Fold, unfold},
    },
    pipeline::{self, AttemptFlow, Built, Candidate, Chain, EndFlow, EventFlow, Flow, Phase, ResponseFlow, StreamNeed},
    plugin::Plugins,
};

#[path = "../../tests/it/hostile/scripts.rs"]
mod generated;
mod hostile;
mod hooks;
mod load;
mod ready;
mod repl;
mod streams;
mod words;
mod world;

/// Without plugins.
fn build(config: &Config, scripts: &Scripts) -> Result<Built, Vec<Problem>> {
    pipeline::build(config, scripts, &Plugins::dry())
}

/// A configuration of scripts, in list order.
fn config(scripts: &[(&str, &str)]) -> Config {
    let mut sources = Sources::default();
    for (name, text) in scripts {
        sources.scripts.insert(format!("scripts/{name}"), (*text).into());
    }
    let mut problems = Vec::new();
    let empty = Sources::folder(std::path::Path::new("/nonexistent"), &mut problems);
    assert!(empty.scripts.is_empty());
    Config { sources, ..base() }
}

fn base() -> Config {
    let place = crate::config::Place::BuiltIn("/nonexistent".into());
    let mut config = crate::config::read(&place, &|_| None, &crate::provider::catalog_names()).config;
    config.stages = None;
    config.sources = Sources::default();
    config
}

fn stage(name: &str) -> Stage {
    Stage { line: 1, ..Stage::automatic(&format!("scripts/{name}")) }
}

fn problems(script: &str) -> Vec<Problem> {
    build(&config(&[("a.rhai", script)]), &Scripts::dry()).err().unwrap_or_default()
}

/// The first problem of a script as `line: message`.
fn problem(script: &str) -> String {
    problems(script).first().map(|p| format!("{}: {}", p.line, p.message)).unwrap_or_default()
}

fn chain_of(scripts: &[(&str, &str)], cx: &Context) -> Chain {
    let built = build(&config(scripts), &Scripts::dry()).unwrap_or_else(|p| panic!("{p:#?}"));
    built.pipeline.select(&cx.principal, "any")
}

fn chain(script: &str) -> (Chain, Context) {
    let cx = cx();
    (chain_of(&[("a.rhai", script)], &cx), cx)
}

fn cx() -> Context {
    let map = json!({ "team": "research", "key": "ada", "roles": ["writer"], "tags": { "p": "q" },
        "headers": { "x-team": "blue" }, "now": "2026-01-01T00:00:00Z", "seed": 7 });
    suite::context(map.as_object().unwrap(), Format::OpenaiChat).unwrap()
}

fn request() -> Request {
    Request {
        model: "smart".into(),
        messages: vec![
            Message::text(Role::System, "be brief"),
            Message::text(Role::User, "first question"),
            Message::text(Role::Assistant, "an answer"),
            Message::text(Role::User, "draft an Essay on tides"),
        ],
        ..Request::default()
    }
}

fn doc() -> Document {
    Document::from_request(Format::OpenaiChat, request())
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("scripts never wait")
}

/// Runs the request phase.
fn ask(script: &str) -> (Result<Flow, Error>, Document, Context) {
    let (mut chain, mut cx) = chain(script);
    let mut doc = doc();
    let result = now(chain.request(&mut cx, &mut doc));
    (result, doc, cx)
}

/// The fault that the trace tells.
fn fault(cx: &Context) -> String {
    let failed = |s: &Step| match s {
        Step::Stage { verdict: Verdict::Failed(why), .. } => Some(why.to_string()),
        _ => None,
    };
    cx.trace.steps.iter().find_map(failed).unwrap_or_default()
}

fn notes(cx: &Context) -> Vec<String> {
    cx.trace
        .steps
        .iter()
        .filter_map(|s| if let Step::Note { text, .. } = s { Some(text.clone()) } else { None })
        .collect()
}

fn targets() -> Vec<Candidate> {
    let one = |name: &str, ms: u64, price: f64, healthy: bool, left: u64| Candidate {
        latency: Some(std::time::Duration::from_millis(ms)),
        price_input: Some(price),
        healthy,
        quota_left: left,
        capabilities: &["tools"],
        ..suite::candidate(name)
    };
    vec![
        one("a/slow", 900, 1.0, true, u64::MAX),
        one("b/fast", 100, 9.0, true, 5),
        one("c/ill", 50, 0.1, false, 5),
        one("d/spent", 60, 0.2, true, 0),
    ]
}

fn route(body: &str) -> (Result<Option<Vec<String>>, Error>, Context) {
    let (mut chain, mut cx) = chain(&format!("fn route(request, targets, context) {{ {body} }}"));
    let result = now(chain.route(&mut cx, &mut doc(), &targets()));
    (result, cx)
}

fn answer(text: &str) -> Response {
    Response {
        id: "r1".into(),
        model: "m".into(),
        choices: vec![Choice {
            index: 0,
            parts: vec![Part::text(text)],
            finish: Some(Finish::new(FinishReason::Stop, "stop")),
            ..Choice::default()
        }],
        usage: Some(Usage { input_tokens: Some(3), output_tokens: Some(5), ..Usage::default() }),
        ..Response::default()
    }
}
