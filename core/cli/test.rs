//! `portcullis test`: runs the cases beside scripts and plugins and tells what differs. Starts nothing, sends nothing.

mod junit;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;

use crate::{
    cli::Exit,
    config::{Config, Place, Problem, Sources, env, read, sources},
    provider,
    suite::{self, Options, Report, Subject},
};

/// Run the cases of *.test.toml files against their scripts and plugins and show which lines of scripts they reach. Names stand for what
/// gateway.toml says, and for themselves where it says nothing. Nothing is sent and no time is waited: upstreams answer as the
/// case says. All that a case can say: scripts/README.md.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// A folder, a script, a plugin or a file of cases; default: scripts/ and plugins/ beside gateway.toml
    pub path: Option<PathBuf>,
    /// Only cases whose name or file holds this
    #[arg(long, value_name = "WORD")]
    pub filter: Option<String>,
    /// Fail when the cases of a script reach less of its lines
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub coverage_min: Option<u32>,
    /// Write a JUnit report, for CI
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// One JSON object: passed, cases, coverage, errors
    #[arg(long)]
    pub json: bool,
}

const EXAMPLE: &str = "\
Example:
  portcullis test
  portcullis test scripts/route.test.toml --filter essays
  portcullis test plugins/redact             redact.test.toml against redact.wasm
  portcullis test --coverage-min 80 --junit report.xml

A case in scripts/route.test.toml:
  [[case]]
  name = \"essays go to the essay model, and to the next one when it is down\"
  request = { model = \"auto\", messages = [{ role = \"user\", content = \"draft an essay on tides\" }] }
  context = { team = \"marketing\", now = \"2026-01-01T00:00:00Z\", seed = 7 }
  answers = [{ status = 503 }, { text = \"The tide rises\", usage = { input = 9, output = 4 } }]
  expect = { target = \"essay\", status = 200, text = \"The tide rises\" }";

/// What a run found.
#[derive(Default)]
struct Found {
    reports: Vec<(String, Report)>,
    problems: Vec<Problem>,
}

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    let config = read(place, &env::var, &provider::catalog_names()).config;
    let mut found = Found::default();
    let subjects = subjects(args.path.as_deref(), &config, &mut found.problems);
    let options = Options { coverage: true, filter: args.filter.clone(), until: None };
    for (subject, report) in subjects.iter().zip(suite::run(&config, &subjects, &options)) {
        match report {
            Ok(report) => found.reports.push((subject.uses.clone(), report)),
            Err(mut problems) => found.problems.append(&mut problems),
        }
    }
    found.judge(args);
    if let Some(file) = &args.junit {
        let told = |e| anyhow::anyhow!("{} cannot be written: {e}", file.display());
        std::fs::write(file, junit::report(&found.reports, &found.problems)).map_err(told)?;
    }
    let passed = found.passed();
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", machine(&found, passed))?,
        false => write!(out, "{}", human(&found))?,
    }
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

impl Found {
    fn passed(&self) -> bool {
        self.problems.is_empty() && self.reports.iter().all(|(_, report)| report.passed())
    }

    /// What the command line asks of the whole.
    fn judge(&mut self, args: &Args) {
        let ran: usize = self.reports.iter().map(|(_, report)| report.outcomes.len()).sum();
        if let Some(word) = args.filter.as_ref().filter(|_| ran == 0 && self.problems.is_empty()) {
            self.problems.push(problem("--filter", format!("no case's name and no file's holds {word:?}")));
        }
        let Some(least) = args.coverage_min.filter(|_| args.filter.is_none()) else { return };
        for (uses, report) in &self.reports {
            let percent = report.coverage.as_ref().and_then(|coverage| coverage.percent());
            if let Some(percent) = percent.filter(|percent| *percent < least) {
                let text = format!("its cases reach {percent}% of its lines; --coverage-min asks for {least}%");
                self.problems.push(problem(uses, text));
            }
        }
    }
}

/// Everything with cases beside it under a path; without one, the configuration's own scripts and plugins.
fn subjects(path: Option<&Path>, config: &Config, problems: &mut Vec<Problem>) -> Vec<Subject> {
    let guests = guests(path, config, problems);
    // A folder of plugins alone has no scripts to test.
    let mut subjects = match path {
        Some(_) if !guests.is_empty() => Vec::new(),
        path => scripts(path, config, problems),
    };
    subjects.extend(guests);
    subjects
}

fn scripts(path: Option<&Path>, config: &Config, problems: &mut Vec<Problem>) -> Vec<Subject> {
    let Some(path) = path else {
        let mut found = Vec::new();
        let sources = Sources::read(&config.root, &mut found);
        problems.append(&mut found);
        let tests = tests(&sources, "scripts/", problems);
        return made(sources, tests, Some(config), problems);
    };
    let shown = path.display().to_string();
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(e) => {
            problems.push(problem(&shown, format!("cannot be read: {e}")));
            return Vec::new();
        }
    };
    let folder = if real.is_dir() { real.clone() } else { real.parent().unwrap_or(Path::new("/")).to_owned() };
    // Within scripts/ all of it is read, so that imports are found.
    let base = config.root.join("scripts").canonicalize().ok().filter(|base| folder.starts_with(base));
    let own = base.is_some();
    let base = base.unwrap_or(folder);
    let sources = Sources::folder(&base, problems);
    let inside = real.strip_prefix(&base).unwrap_or(Path::new("")).to_string_lossy().replace('\\', "/");
    let name = format!("scripts/{inside}");
    let tests = match real.is_dir() {
        true => tests(&sources, name.trim_end_matches('/'), problems),
        false if name.ends_with(".rhai") => vec![suite::tests_of(&name)],
        false => vec![name],
    };
    made(sources, tests, own.then_some(config), problems)
}

/// `listed`: whose `[[stages]]` say how they run.
fn made(sources: Sources, tests: Vec<String>, listed: Option<&Config>, problems: &mut Vec<Problem>) -> Vec<Subject> {
    let scripts = Arc::new(sources.scripts);
    let mut subjects = Vec::new();
    for tests in tests {
        let uses = format!("{}.rhai", tests.strip_suffix(".test.toml").unwrap_or(&tests));
        let Some(text) = scripts.get(&tests) else {
            problems.push(problem(&tests, format!("there is no {tests}")));
            continue;
        };
        let stage = match listed {
            Some(config) => suite::stage_of(config, &uses),
            None => crate::config::Stage::automatic(&uses),
        };
        subjects.push(Subject::new(&uses, tests, text.to_string(), stage, scripts.clone(), None));
    }
    subjects
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

/// Plugins with a file of cases beside them, each as its `[[stages]]` entry says, or with every grant and no configuration.
fn guests(path: Option<&Path>, config: &Config, problems: &mut Vec<Problem>) -> Vec<Subject> {
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
    let files = match path {
        None => inside(&config.root.join("plugins")),
        Some(path) if path.is_dir() => inside(path),
        Some(path) => beside(path).into_iter().collect(),
    };
    let mut subjects = Vec::new();
    for wasm in files {
        let full = std::path::absolute(&wasm).unwrap_or_else(|_| wasm.clone());
        let uses = full.strip_prefix(&config.root).unwrap_or(&wasm).to_string_lossy().into_owned();
        let tests = wasm.with_extension("test.toml");
        let shown = tests.display().to_string();
        let text = std::fs::read_to_string(&tests).map_err(|e| problem(&shown, format!("cannot be read: {e}")));
        let plugin = sources::Plugin::read(&wasm).map_err(|e| problem(&uses, e));
        match text.and_then(|text| Ok((text, plugin?))) {
            Ok((text, plugin)) => {
                let stage = suite::stage_of(config, &uses);
                subjects.push(Subject::new(&uses, shown, text, stage, Arc::new(BTreeMap::new()), Some(plugin)));
            }
            Err(found) => problems.push(found),
        }
    }
    subjects
}

fn human(found: &Found) -> String {
    let mut lines = Vec::new();
    let (mut ran, mut failed, mut left_out) = (0, 0, 0);
    for (_, report) in &found.reports {
        left_out += report.left_out;
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
    let filtered = if left_out == 0 { String::new() } else { format!(", {left_out} left out") };
    lines.push(format!("{ran} case{}: {} passed, {failed} failed{broken}{filtered}", s(ran), ran - failed));
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
        "left_out": found.reports.iter().map(|(_, report)| report.left_out).sum::<usize>(),
        "coverage": found.reports.iter().filter_map(coverage).collect::<Vec<_>>(),
        "errors": found.problems,
    })
}

fn problem(file: &str, message: String) -> Problem {
    Problem { file: file.to_owned(), line: 1, message, excerpt: None }
}
