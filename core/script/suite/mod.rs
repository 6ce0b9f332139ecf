//! `*.test.toml`: cases for one script, run through the pipeline's request and route phases with every side effect kept
//! inside. Used by `portcullis test`, and before a changed script goes live.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt;
use serde_json::{Map, Value};

use super::{
    Compiled, Effects, ScriptStage, Scripts,
    cover::{self, Coverage},
};
use crate::{
    auth::Principal,
    codec::{Inbound, document::Document},
    config::{Config, Problem, Sources, Stage, StageLimits},
    context::{Context, Priority, Step, Trace},
    error::Error,
    model::{Format, Operation},
    pipeline::{Candidate, Chain, Entry, Flow, Pipeline},
};

/// What names stand for. Without a configuration a name stands for itself.
pub trait Names {
    /// The targets of one name, in order. An error is the caller's answer (404, 503 …).
    fn resolve(&self, name: &str, cx: &Context) -> Result<Vec<Candidate>, Error>;
}

/// Every name is a healthy target of that name.
pub struct Themselves;

impl Names for Themselves {
    fn resolve(&self, name: &str, _: &Context) -> Result<Vec<Candidate>, Error> {
        Ok(vec![candidate(name)])
    }
}

/// The whole decision on one request.
#[derive(Debug, Default)]
pub struct Decision {
    /// The name that the request phase left in force.
    pub model: String,
    /// Names that a stage chose; `None`: the strategy's order stands.
    pub chosen: Option<Vec<String>>,
    /// `provider/model`, in the order of trial.
    pub targets: Vec<String>,
    /// Of an answer made without a target; 200 for `respond`.
    pub status: Option<u16>,
    pub message: Option<String>,
    /// Text of a `respond`.
    pub text: Option<String>,
}

/// Runs request and route phases as the gateway does, and sends nothing.
pub fn decide(chain: &mut Chain, cx: &mut Context, doc: &mut Document, names: &dyn Names) -> Decision {
    let mut decision = Decision::default();
    let outcome = steps(chain, cx, doc, names, &mut decision);
    decision.model = doc.model().to_owned();
    if let Err(error) = outcome {
        decision.status = Some(error.status());
        decision.message = Some(error.message.clone());
        decision.targets.clear();
    }
    decision
}

fn steps(
    chain: &mut Chain,
    cx: &mut Context,
    doc: &mut Document,
    names: &dyn Names,
    out: &mut Decision,
) -> Result<(), Error> {
    if let Flow::Respond(response) = now(chain.request(cx, doc))? {
        out.status = Some(200);
        out.text = Some(response.text());
        return Ok(());
    }
    let planned = names.resolve(doc.model(), cx)?;
    out.chosen = now(chain.route(cx, doc, &planned))?;
    let targets = match &out.chosen {
        None => planned,
        Some(list) => {
            let mut all = Vec::new();
            for name in list {
                all.extend(names.resolve(name, cx)?);
            }
            all
        }
    };
    for target in targets {
        let name = target.name.to_string();
        if !out.targets.contains(&name) {
            out.targets.push(name);
        }
    }
    if out.targets.is_empty() {
        return Err(Error::new(crate::error::Kind::NoTarget, "no target is left for this request"));
    }
    Ok(())
}

/// Stages of the two phases never wait; one that does is told so instead of being waited for.
fn now<T>(step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    step.now_or_never().unwrap_or_else(|| {
        Err(Error::new(crate::error::Kind::Internal, "a stage waited for something, which a dry run cannot do"))
    })
}

/// One case, read.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub line: u32,
    request: Map<String, Value>,
    format: Format,
    context: Map<String, Value>,
    /// Live figures given by the case; else the names' own.
    targets: Vec<Candidate>,
    expect: Map<String, Value>,
}

/// How a case ended.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Outcome {
    pub file: String,
    pub line: u32,
    pub name: String,
    /// One line for each expectation that was not met, with the actual value.
    pub failures: Vec<String>,
}

/// A file's cases against its script.
#[derive(Debug, Default)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
    /// `None`: no figure for this script.
    pub coverage: Option<Coverage>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|o| o.failures.is_empty())
    }
}

/// `scripts/route.test.toml` for `scripts/route.rhai`.
pub fn tests_of(script: &str) -> String {
    format!("{}.test.toml", script.strip_suffix(".rhai").unwrap_or(script))
}

/// Names as the configuration file has them, whether their providers have keys on this machine or not: a test means the
/// same everywhere.
pub struct AsWritten<'a>(pub &'a Config);

impl Names for AsWritten<'_> {
    fn resolve(&self, name: &str, _: &Context) -> Result<Vec<Candidate>, Error> {
        let alias = |name: &str| self.0.models.get(name);
        let targets = |name: &str| -> Vec<Candidate> {
            let found =
                alias(name).map(|a| a.targets.iter().map(|t| candidate(&format!("{}/{}", t.provider, t.model))));
            found.map_or_else(|| vec![candidate(name)], Iterator::collect)
        };
        let mut all = targets(name);
        for next in alias(name).map(|a| a.failover.as_slice()).unwrap_or_default() {
            all.extend(targets(next));
        }
        Ok(all)
    }
}

/// Runs the cases of `tests` against `script` alone, with the limits and the `config` of its `[[stages]]` entry if there
/// is one. Problems: the script or the file of cases cannot be read.
pub fn run(
    sources: &Sources,
    script: &str,
    tests: &str,
    stage: Option<&Stage>,
    names: &dyn Names,
) -> Result<Report, Vec<Problem>> {
    let missing = |name: &str| vec![problem(name, 1, format!("there is no {name}"))];
    let source = sources.scripts.get(script).ok_or_else(|| missing(script))?;
    let cases = cases(tests, sources.scripts.get(tests).ok_or_else(|| missing(tests))?)?;
    let scripts = Scripts::dry();
    let host = scripts.host(sources);
    let program = scripts.compile(&host, script, source)?;
    let marked = cover::marked(&Scripts::covering(sources), script, source);
    let mut coverage = Coverage::default();
    let mut report = Report::default();
    for case in &cases {
        // A memory of its own for each case: their order does not matter.
        let failures = check(case, &alone(&program, script, stage), names);
        report.outcomes.push(Outcome { file: tests.to_owned(), line: case.line, name: case.name.clone(), failures });
        if let Some((program, _)) = &marked {
            cover::take();
            check(case, &alone(program, script, stage), names);
            coverage.ran.append(&mut cover::take());
        }
    }
    if let Some((_, lines)) = marked {
        coverage.lines = lines;
        report.coverage = Some(coverage);
    }
    Ok(report)
}

/// Every script's tests beside it, as they must hold before the scripts go live.
pub fn gate(config: &Config) -> Vec<Problem> {
    let (sources, names) = (&config.sources, &AsWritten(config));
    let mut problems = Vec::new();
    for script in sources.scripts.keys().filter(|name| name.ends_with(".rhai")) {
        let tests = tests_of(script);
        if !sources.scripts.contains_key(&tests) {
            continue;
        }
        match run(sources, script, &tests, stage_of(config, script), names) {
            Ok(report) => problems.extend(report.outcomes.into_iter().filter(|o| !o.failures.is_empty()).map(|o| {
                problem(&o.file, o.line, format!("the case \"{}\" fails: {}", o.name, o.failures.join("; ")))
            })),
            Err(mut more) => problems.append(&mut more),
        }
    }
    problems
}

pub fn stage_of<'a>(config: &'a Config, script: &str) -> Option<&'a Stage> {
    config.stages.iter().flatten().find(|stage| stage.uses == script)
}

/// A pipeline of one stage, with a memory of its own.
fn alone(program: &Arc<Compiled>, script: &str, stage: Option<&Stage>) -> Pipeline {
    let limits = stage.map_or_else(StageLimits::default, |s| s.limits);
    let config = stage.map(|s| s.config.clone()).unwrap_or_default();
    let stage = ScriptStage::new(program.clone(), script, limits, config, Effects::dry());
    Pipeline::new(vec![Entry::new(Arc::new(stage))])
}

fn check(case: &Case, pipeline: &Pipeline, names: &dyn Names) -> Vec<String> {
    let mut cx = match context(&case.context, case.format) {
        Ok(cx) => cx,
        Err(message) => return vec![message],
    };
    let body = Value::Object(case.request.clone()).to_string();
    let path_model = case.request.get("model").and_then(Value::as_str).filter(|_| case.format == Format::Gemini);
    let inbound = Inbound { model: path_model, ..Inbound::default() };
    let mut doc = match Document::new(case.format, body.into(), inbound) {
        Ok(doc) => doc,
        Err(error) => return vec![format!("the request is not valid: {}", error.message)],
    };
    let mut chain = pipeline.select(&cx.principal, doc.model());
    let live = Live { own: &case.targets, names };
    let decision = decide(&mut chain, &mut cx, &mut doc, &live);
    compare(&case.expect, &decision, &cx, &mut doc)
}

/// The case's own figures for the targets that it names, over those of the configuration.
struct Live<'a> {
    own: &'a [Candidate],
    names: &'a dyn Names,
}

impl Names for Live<'_> {
    fn resolve(&self, name: &str, cx: &Context) -> Result<Vec<Candidate>, Error> {
        if let Some(own) = self.own.iter().find(|c| &*c.name == name) {
            return Ok(vec![own.clone()]);
        }
        // The targets of the case stand for whatever the caller asked for.
        if !self.own.is_empty() && !name.contains('/') {
            return Ok(self.own.to_vec());
        }
        self.names.resolve(name, cx)
    }
}

fn compare(expect: &Map<String, Value>, decision: &Decision, cx: &Context, doc: &mut Document) -> Vec<String> {
    let mut failures = Vec::new();
    let mut differ = |key: &str, want: &Value, got: Value| {
        if *want != got {
            failures.push(format!("expected {key} {want}, got {got}{}", why(decision, cx)));
        }
    };
    for (key, want) in expect {
        match key.as_str() {
            "target" => {
                // A script names aliases; a configuration turns them into targets. Either is a good expectation.
                let first = decision.targets.first().cloned();
                let chosen = match &decision.chosen {
                    Some(list) => list.first().cloned(),
                    None => Some(decision.model.clone()),
                };
                let named = chosen.filter(|_| !decision.targets.is_empty()).is_some_and(|c| want.as_str() == Some(&c));
                if !named {
                    differ("target", want, first.map_or(Value::Null, Value::from));
                }
            }
            "targets" => {
                let got = decision.chosen.clone().filter(|c| Value::from(c.clone()) == *want);
                differ("targets", want, Value::from(got.unwrap_or_else(|| decision.targets.clone())));
            }
            "status" => differ("status", want, decision.status.map_or(Value::from(200), Value::from)),
            "message" => differ("message", want, decision.message.clone().map_or(Value::Null, Value::from)),
            "text" => differ("text", want, decision.text.clone().map_or(Value::Null, Value::from)),
            "model" => differ("model", want, Value::from(decision.model.clone())),
            "notes" => differ("notes", want, Value::from(notes(cx))),
            "request" => fields(want, doc, &mut differ),
            _ => {}
        }
    }
    failures
}

/// `expect.request = { temperature = 0.2 }`: fields as the request phase left them.
fn fields(want: &Value, doc: &mut Document, differ: &mut impl FnMut(&str, &Value, Value)) {
    let Value::Object(want) = want else { return };
    let request = match doc.request() {
        Ok(request) => request.clone(),
        Err(error) => return differ("request", &Value::Object(want.clone()), Value::from(error.message.clone())),
    };
    let number = |n: Option<f64>| n.map_or(Value::Null, Value::from);
    for (key, value) in want {
        let got = match key.as_str() {
            "temperature" => number(request.sampling.temperature),
            "top_p" => number(request.sampling.top_p),
            "max_tokens" => request.max_tokens.map_or(Value::Null, Value::from),
            "messages" => {
                Value::from(request.messages.iter().map(crate::model::Message::joined_text).collect::<Vec<_>>())
            }
            "metadata" => Value::Object(request.metadata.clone()),
            _ => continue,
        };
        let same = value.as_f64().is_some() && value.as_f64() == got.as_f64();
        if !same {
            differ(&format!("request.{key}"), value, got);
        }
    }
}

fn why(decision: &Decision, cx: &Context) -> String {
    let fault = cx.trace.steps.iter().find_map(|step| match step {
        Step::Stage { verdict: crate::context::Verdict::Failed(why), .. } => Some(why.to_string()),
        _ => None,
    });
    match (fault, &decision.message) {
        (Some(fault), _) => format!(" ({fault})"),
        (None, Some(message)) => format!(" ({message})"),
        (None, None) => String::new(),
    }
}

fn notes(cx: &Context) -> Vec<String> {
    let note = |step: &Step| if let Step::Note { text, .. } = step { Some(text.clone()) } else { None };
    cx.trace.steps.iter().filter_map(note).collect()
}

/// Reads a file of cases; every mistake with its line.
pub fn cases(file: &str, text: &str) -> Result<Vec<Case>, Vec<Problem>> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| line_of(text, span.start));
        vec![problem(file, line, e.message().to_owned())]
    })?;
    // The n-th [[case]] header stands where the n-th case does.
    let lines: Vec<u32> =
        (1..).zip(text.lines()).filter(|(_, l)| l.trim_start().starts_with("[[case]]")).map(|(n, _)| n).collect();
    let mut problems = Vec::new();
    for key in table.keys().filter(|key| *key != "case") {
        problems.push(problem(file, 1, format!("unknown key `{key}`: a file of cases holds [[case]] tables")));
    }
    let mut cases = Vec::new();
    let list = table.get("case").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    if list.is_empty() {
        problems.push(problem(file, 1, "there is no [[case]] in this file".into()));
    }
    for (at, value) in list.into_iter().enumerate() {
        let line = lines.get(at).copied().unwrap_or(1);
        match case(value, line) {
            Ok(case) => cases.push(case),
            Err(message) => problems.push(problem(file, line, message)),
        }
    }
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

fn case(value: toml::Value, line: u32) -> Result<Case, String> {
    let Value::Object(mut map) = json(value)? else { return Err("a case is a table".into()) };
    known(&map, "a case", &["name", "request", "context", "targets", "expect", "format"])?;
    let mut table = |key: &str| match map.remove(key) {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(format!("{key} must be a table")),
    };
    let (mut request, context, expect) = (table("request")?, table("context")?, table("expect")?);
    known(&expect, "expect", &["target", "targets", "status", "message", "text", "model", "notes", "request"])?;
    if let Some(Value::Object(fields)) = expect.get("request") {
        known(fields, "expect.request", &["temperature", "top_p", "max_tokens", "messages", "metadata"])?;
    }
    known(&context, "context", &["team", "key", "user", "roles", "tags", "headers", "now", "seed"])?;
    if expect.is_empty() {
        return Err("a case without `expect` proves nothing".into());
    }
    let name = map.remove("name").and_then(|n| n.as_str().map(str::to_owned)).ok_or("a case needs a name")?;
    let format = match map.remove("format") {
        None => Format::OpenaiChat,
        Some(name) => {
            name.as_str().and_then(Format::parse).ok_or("format must be openai_chat, anthropic_messages or gemini")?
        }
    };
    request.entry("model").or_insert_with(|| "auto".into());
    if format != Format::Gemini {
        request.entry("messages").or_insert_with(|| serde_json::json!([{ "role": "user", "content": "hello" }]));
    }
    let targets = match map.remove("targets") {
        None => Vec::new(),
        Some(Value::Array(list)) => list.iter().map(target).collect::<Result<_, _>>()?,
        Some(_) => return Err("targets must be an array of tables".into()),
    };
    Ok(Case { name, line, request, format, context, targets, expect })
}

fn target(value: &Value) -> Result<Candidate, String> {
    let Value::Object(map) = value else { return Err("a target is a table with a name".into()) };
    const KEYS: [&str; 9] = [
        "name",
        "healthy",
        "latency_ms",
        "in_flight",
        "price_input",
        "price_output",
        "quota_left",
        "quota_resets_in",
        "context_window",
    ];
    known(map, "a target", &KEYS)?;
    let name = map.get("name").and_then(Value::as_str).ok_or("a target needs a name")?;
    let count = |key: &str| map.get(key).and_then(Value::as_u64);
    let price = |key: &str| map.get(key).and_then(Value::as_f64);
    Ok(Candidate {
        healthy: map.get("healthy").and_then(Value::as_bool).unwrap_or(true),
        latency: count("latency_ms").map(Duration::from_millis),
        in_flight: count("in_flight").unwrap_or(0),
        price_input: price("price_input"),
        price_output: price("price_output"),
        quota_left: count("quota_left").unwrap_or(u64::MAX),
        quota_resets_in: count("quota_resets_in").map(Duration::from_secs),
        context_window: count("context_window"),
        ..candidate(name)
    })
}

/// A healthy target without figures.
pub fn candidate(name: &str) -> Candidate {
    let (provider, model) = name.split_once('/').unwrap_or((name, name));
    Candidate {
        name: name.into(),
        provider: provider.into(),
        model: model.into(),
        healthy: true,
        quota_left: u64::MAX,
        ..Candidate::default()
    }
}

/// The context that a case describes.
pub fn context(map: &Map<String, Value>, format: Format) -> Result<Context, String> {
    let text = |key: &str| match map.get(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(format!("context.{key} must be a string")),
    };
    let pairs = |key: &str| match map.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Object(pairs)) => {
            let pair = |(k, v): (&String, &Value)| v.as_str().map(|v| (k.clone(), v.to_owned()));
            pairs.iter().map(pair).collect::<Option<Vec<_>>>().ok_or(format!("context.{key} holds strings"))
        }
        Some(_) => Err(format!("context.{key} must be a table")),
    };
    let now = match text("now")? {
        None => SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        Some(now) => {
            let time: jiff::Timestamp =
                now.parse().map_err(|_| "context.now must be a time such as 2026-01-01T00:00:00Z")?;
            time.into()
        }
    };
    let roles = map.get("roles").and_then(Value::as_array).cloned().unwrap_or_default();
    let roles = roles.iter().filter_map(|r| r.as_str().map(str::to_owned)).collect();
    let key = text("key")?.unwrap_or_else(|| "test".into());
    let principal = Principal {
        key_id: format!("key_{key}").into(),
        key_name: key.into(),
        team: text("team")?.map(Into::into),
        user: text("user")?.map(Into::into),
        roles,
        ..Principal::default()
    };
    Ok(Context {
        id: "req_00000000000000000000000000000000".into(),
        operation: Operation::Chat,
        format,
        principal: Arc::new(principal),
        now,
        started: Instant::now(),
        deadline: None,
        tags: pairs("tags")?,
        priority: Priority::default(),
        headers: pairs("headers")?,
        explain: false,
        attempt: 1,
        seed: map.get("seed").and_then(Value::as_u64).unwrap_or(0),
        vars: Map::new(),
        trace: Trace::default(),
    })
}

fn known(map: &Map<String, Value>, what: &str, keys: &[&str]) -> Result<(), String> {
    match map.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!("{what} has no `{key}`; it has {}", keys.join(", "))),
        None => Ok(()),
    }
}

fn json(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(s) => Value::String(s),
        toml::Value::Integer(i) => Value::from(i),
        toml::Value::Float(f) => serde_json::Number::from_f64(f).map(Value::Number).ok_or("a number is not finite")?,
        toml::Value::Boolean(b) => Value::Bool(b),
        toml::Value::Datetime(d) => Value::String(d.to_string()),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(json).collect::<Result<_, _>>()?),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(k, v)| Ok((k, json(v)?))).collect::<Result<_, String>>()?)
        }
    })
}

fn line_of(text: &str, at: usize) -> u32 {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() as u32 + 1
}

fn problem(file: &str, line: u32, message: String) -> Problem {
    Problem { file: file.to_owned(), line, message, excerpt: None }
}
