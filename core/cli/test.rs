//! `portcullis test`: runs the cases beside scripts and plugins and tells what differs. Starts nothing, sends nothing.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    cli::Exit,
    config::{Config, Place, Problem, Sources, Stage, env, read, sources},
    pipeline::{Entry, Pipeline},
    plugin::{self, PluginStage, Plugins},
    provider,
    script::suite::{self, AsWritten, Names, Report, Themselves},
};

/// Run the cases of *.test.toml files against their scripts and plugins and show which lines of scripts they reach. Names stand for what
/// gateway.toml says; without one a name stands for itself.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// A folder, a script, a plugin or a file of cases; default: scripts/ and plugins/ beside gateway.toml
    pub path: Option<PathBuf>,
    /// One JSON object: passed, cases, coverage, errors
    #[arg(long)]
    pub json: bool,
}

const EXAMPLE: &str = "\
Example:
  portcullis test
  portcullis test scripts/route.test.toml
  portcullis test plugins/redact         redact.test.toml against redact.wasm

A case in scripts/route.test.toml:
  [[case]]
  name = \"essays go to the essay model\"
  request = { model = \"auto\", messages = [{ role = \"user\", content = \"draft an essay on tides\" }] }
  context = { team = \"marketing\", now = \"2026-01-01T00:00:00Z\", seed = 7 }
  expect = { target = \"essay\" }    # also: targets, status, message, text, model, notes, request";

/// What a run found.
#[derive(Default)]
struct Found {
    reports: Vec<(String, Report)>,
    problems: Vec<Problem>,
}

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    let config = read(place, &env::var, &provider::catalog_names()).config;
    let guests = guests(args.path.as_deref(), &config);
    let mut found = match select(args.path.as_deref(), &config) {
        // A folder of plugins alone has no scripts to test.
        _ if args.path.is_some() && !guests.is_empty() => Found::default(),
        Ok(selection) => execute(&selection, &config),
        Err(problem) => Found { problems: vec![problem], ..Found::default() },
    };
    try_guests(&guests, &config, &mut found);
    let passed = found.problems.is_empty() && found.reports.iter().all(|(_, report)| report.passed());
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", machine(&found, passed))?,
        false => write!(out, "{}", human(&found))?,
    }
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

/// Files of cases, by name, with what lies beside them.
struct Selection {
    sources: Sources,
    tests: Vec<String>,
    problems: Vec<Problem>,
    /// They are the configuration's own scripts.
    own: bool,
}

fn select(path: Option<&Path>, config: &Config) -> Result<Selection, Problem> {
    let scripts = config.root.join("scripts");
    let mut problems = Vec::new();
    let Some(path) = path else {
        let sources = Sources::read(&config.root, &mut problems);
        let tests = tests(&sources, "scripts/", &mut problems);
        return Ok(Selection { sources, tests, problems, own: true });
    };
    let shown = path.display().to_string();
    let real = path.canonicalize().map_err(|e| problem(&shown, format!("cannot be read: {e}")))?;
    let folder = if real.is_dir() { real.clone() } else { real.parent().unwrap_or(Path::new("/")).to_owned() };
    // Within scripts/ all of it is read, so that imports are found.
    let base = scripts.canonicalize().ok().filter(|base| folder.starts_with(base));
    let own = base.is_some();
    let base = base.unwrap_or(folder);
    let sources = Sources::folder(&base, &mut problems);
    let inside = real.strip_prefix(&base).unwrap_or(Path::new("")).to_string_lossy().replace('\\', "/");
    let name = format!("scripts/{inside}");
    let tests = match real.is_dir() {
        true => tests(&sources, name.trim_end_matches('/'), &mut problems),
        false if name.ends_with(".rhai") => vec![suite::tests_of(&name)],
        false => vec![name],
    };
    Ok(Selection { sources, tests, problems, own })
}

fn tests(sources: &Sources, prefix: &str, problems: &mut Vec<Problem>) -> Vec<String> {
    let prefix = format!("{}/", prefix.trim_end_matches('/'));
    let found = sources.scripts.keys().filter(|name| name.starts_with(&prefix) && name.ends_with(".test.toml"));
    let found: Vec<String> = found.cloned().collect();
    if found.is_empty() {
        let text = "there is no *.test.toml here; `portcullis test --help` shows a case".to_owned();
        problems.push(problem(prefix.trim_end_matches('/'), text));
    }
    found
}

/// Plugins with a file of cases beside them.
fn guests(path: Option<&Path>, config: &Config) -> Vec<PathBuf> {
    let beside = |file: &Path| {
        let name = file.to_string_lossy();
        let stem = name.strip_suffix(".test.toml").or_else(|| name.strip_suffix(".wasm")).unwrap_or(&name);
        let wasm = PathBuf::from(format!("{stem}.wasm"));
        (wasm.is_file() && Path::new(&format!("{stem}.test.toml")).is_file()).then_some(wasm)
    };
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        let mut all: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "wasm")).collect();
        all.sort();
        all.iter().filter_map(|p| beside(p)).collect()
    };
    match path {
        None => inside(&config.root.join("plugins")),
        Some(path) if path.is_dir() => inside(path),
        Some(path) => beside(path).into_iter().collect(),
    }
}

/// Each with what its `[[stages]]` entry says, or with every grant and no configuration.
fn try_guests(guests: &[PathBuf], config: &Config, found: &mut Found) {
    let written = AsWritten(config);
    let names: &dyn Names = if config.models.is_empty() { &Themselves } else { &written };
    for wasm in guests {
        let full = std::path::absolute(wasm).unwrap_or_else(|_| wasm.clone());
        let uses = full.strip_prefix(&config.root).unwrap_or(wasm).to_string_lossy().into_owned();
        let tests = wasm.with_extension("test.toml");
        let listed = config.stages.iter().flatten().find(|stage| stage.uses == uses).cloned();
        let stage = listed.unwrap_or_else(|| Stage { grant: plugin::all_grants(), ..Stage::automatic(&uses) });
        let plugins = Plugins::dry();
        let file = sources::Plugin::read(wasm).map_err(|e| problem(&uses, e));
        // Compiled once; each case has a memory of its own.
        let compiled = file.and_then(|file| plugins.load(&stage, &file).map(|_| file).map_err(|e| problem(&uses, e)));
        let alone = || -> Result<Pipeline, Problem> {
            let file = compiled.clone()?;
            let loaded = plugins.afresh().load(&stage, &file).map_err(|e| problem(&uses, e))?;
            Ok(Pipeline::new(vec![Entry::new(std::sync::Arc::new(PluginStage::new(loaded)))]))
        };
        let shown = tests.display().to_string();
        let text = std::fs::read_to_string(&tests).map_err(|e| vec![problem(&shown, format!("cannot be read: {e}"))]);
        match text.and_then(|text| suite::run_on(&shown, &text, &alone, names)) {
            Ok(report) => found.reports.push((uses, report)),
            Err(mut problems) => found.problems.append(&mut problems),
        }
    }
}

fn execute(selection: &Selection, config: &Config) -> Found {
    let mut found = Found { problems: selection.problems.clone(), ..Found::default() };
    let written = AsWritten(config);
    let names: &dyn Names = if config.models.is_empty() { &Themselves } else { &written };
    for tests in &selection.tests {
        let script = format!("{}.rhai", tests.strip_suffix(".test.toml").unwrap_or(tests));
        let stage = if selection.own { suite::stage_of(config, &script) } else { None };
        match suite::run(&selection.sources, &script, tests, stage, names) {
            Ok(report) => found.reports.push((script, report)),
            Err(mut problems) => found.problems.append(&mut problems),
        }
    }
    found
}

fn human(found: &Found) -> String {
    let mut lines = Vec::new();
    let (mut ran, mut failed) = (0, 0);
    for (_, report) in &found.reports {
        for case in &report.outcomes {
            ran += 1;
            if !case.failures.is_empty() {
                failed += 1;
                lines.push(format!("FAILED {}:{} \"{}\"", case.file, case.line, case.name));
                lines.extend(case.failures.iter().map(|failure| format!("       {failure}")));
            }
        }
    }
    lines.extend(found.problems.iter().map(|problem| format!("{problem}")));
    for (script, report) in &found.reports {
        let name = script.rsplit('/').next().unwrap_or(script);
        let Some(coverage) = &report.coverage else { continue };
        let Some(percent) = coverage.percent() else { continue };
        let missed: Vec<String> = coverage.missed().iter().take(12).map(u32::to_string).collect();
        let rest =
            if missed.is_empty() { String::new() } else { format!("   not reached: line {}", missed.join(", ")) };
        lines.push(format!("{name} … {percent}%{rest}"));
    }
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let errors = found.problems.len();
    let broken = if errors == 0 { String::new() } else { format!(", {errors} error{}", s(errors)) };
    lines.push(format!("{ran} case{}: {} passed, {failed} failed{broken}", s(ran), ran - failed));
    lines.join("\n") + "\n"
}

fn machine(found: &Found, passed: bool) -> serde_json::Value {
    let cases: Vec<_> = found.reports.iter().flat_map(|(_, report)| &report.outcomes).collect();
    let coverage = |(script, report): &(String, Report)| {
        let coverage = report.coverage.as_ref()?;
        Some(json!({ "file": script, "percent": coverage.percent()?, "missed": coverage.missed() }))
    };
    json!({
        "passed": passed,
        "cases": cases,
        "coverage": found.reports.iter().filter_map(coverage).collect::<Vec<_>>(),
        "errors": found.problems,
    })
}

fn problem(file: &str, message: String) -> Problem {
    Problem { file: file.to_owned(), line: 1, message, excerpt: None }
}
