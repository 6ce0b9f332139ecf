//! `*.test.toml`: cases for one script, run through the pipeline's request and route phases with every side effect kept
//! inside. Used by `portcullis test`, and before a changed script goes live.

mod cases;
mod compare;

use std::sync::Arc;

use serde_json::Value;

use super::{
    Compiled, ScriptStage, Scripts,
    cover::{self, Coverage},
};
pub use cases::{Case, candidate, cases, context};

use crate::{
    codec::{Inbound, document::Document},
    config::{Config, Problem, Sources, Stage, StageLimits},
    context::Context,
    error::Error,
    pipeline::{Candidate, Chain, Effects, Entry, Flow, Pipeline, drive},
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
    if let Flow::Respond(response) = drive(chain.request(cx, doc))? {
        out.status = Some(200);
        out.text = Some(response.text());
        return Ok(());
    }
    let planned = names.resolve(doc.model(), cx)?;
    out.chosen = drive(chain.route(cx, doc, &planned))?;
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

/// Runs the cases of a file against any stage: `alone` makes a pipeline of it with a memory of its own, one for each
/// case.
pub fn run_on(
    tests: &str,
    text: &str,
    alone: &dyn Fn() -> Result<Pipeline, Problem>,
    names: &dyn Names,
) -> Result<Report, Vec<Problem>> {
    let mut report = Report::default();
    for case in cases(tests, text)? {
        let failures = check(&case, &alone().map_err(|problem| vec![problem])?, names);
        report.outcomes.push(Outcome { file: tests.to_owned(), line: case.line, name: case.name.clone(), failures });
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
    // What is tried here may ask as it wants: nobody answers but a stand-in.
    let grant = stage.map_or_else(|| vec!["ask".to_owned()], |s| s.grant.clone());
    let stage = ScriptStage::new(program.clone(), script, limits, config, Effects::dry()).granted(&grant);
    Pipeline::new(vec![Entry::new(Arc::new(stage))])
}

fn check(case: &Case, pipeline: &Pipeline, names: &dyn Names) -> Vec<String> {
    let mut cx = match context(&case.context, case.format) {
        Ok(cx) => cx,
        Err(message) => return vec![message],
    };
    let body = Value::Object(case.request.clone()).to_string();
    let path_model = case.request.get("model").and_then(Value::as_str).filter(|_| case.format.model_in_path());
    let inbound = Inbound { model: path_model, ..Inbound::default() };
    let mut doc = match Document::new(case.format, body.into(), inbound) {
        Ok(doc) => doc,
        Err(error) => return vec![format!("the request is not valid: {}", error.message)],
    };
    let mut chain = pipeline.select(&cx.principal, doc.model());
    let live = Live { own: &case.targets, names };
    let decision = decide(&mut chain, &mut cx, &mut doc, &live);
    compare::compare(&case.expect, &decision, &cx, &mut doc)
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

pub fn problem(file: &str, line: u32, message: String) -> Problem {
    Problem { file: file.to_owned(), line, message, excerpt: None }
}
