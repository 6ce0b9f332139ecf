//! `*.test.toml`: cases for scripts and plugins, run as rehearsals: the real gateway, the real pipeline, upstreams that answer as
//! the case says, virtual time. Used by `portcullis test`, and before a changed configuration goes live.

mod case;
pub mod expect;
mod fields;
mod judge;
pub mod reference;
mod seen;
mod subject;
mod told;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub use case::{Case, Splits, cases, principal};
pub use subject::{Subject, stage_of, tests_of};

use crate::{
    config::{Config, Problem},
    plugin::Plugins,
    rehearse::{self, House, Pieces},
    script::cover::{self, Coverage},
    telemetry,
};

/// How a case ended.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Outcome {
    pub file: String,
    pub line: u32,
    pub name: String,
    /// One line for each expectation that was not met, with the actual value.
    pub failures: Vec<String>,
    /// The slip of a stage that it fails by, told in its failures too.
    #[serde(skip)]
    pub fault: Option<String>,
    /// Of real time.
    #[serde(skip)]
    pub took: Duration,
}

/// A file's cases against its stage.
#[derive(Debug, Default)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
    /// `None`: no figure for this stage.
    pub coverage: Option<Coverage>,
    /// Cases that the filter left out.
    pub left_out: usize,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|o| o.failures.is_empty())
    }
}

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Count the lines of scripts that ran.
    pub coverage: bool,
    /// Only cases whose name (or file) holds this.
    pub filter: Option<String>,
    /// What has not begun by then is not run, and fails.
    pub until: Option<Instant>,
}

/// A case on its way.
struct Job<'a> {
    subject: usize,
    tests: &'a str,
    case: &'a Case,
}

/// What is wrong with a case.
#[derive(Default)]
struct Found {
    failures: Vec<String>,
    fault: Option<String>,
}

impl From<String> for Found {
    fn from(why: String) -> Self {
        Found { failures: vec![why], fault: None }
    }
}

/// What a worker found out about a job.
struct Done {
    job: usize,
    found: Found,
    ran: std::collections::BTreeSet<u32>,
    took: Duration,
}

/// Runs the cases of every subject, several at a time. In the order of the subjects; problems: the stage or the file of
/// cases cannot be read.
pub fn run(config: &Config, subjects: &[Subject], options: &Options) -> Vec<Result<Report, Vec<Problem>>> {
    let read: Vec<Result<Vec<Case>, Vec<Problem>>> =
        subjects.iter().map(|subject| cases(&subject.tests, &subject.text, config)).collect();
    let mut reports: Vec<Result<Report, Vec<Problem>>> = Vec::new();
    let mut jobs = Vec::new();
    for (at, (subject, cases)) in subjects.iter().zip(&read).enumerate() {
        let found = cases.as_ref().map_err(Clone::clone).and_then(|cases| subject.sound(config).map(|()| cases));
        reports.push(found.map(|cases| {
            let wanted = |case: &&Case| {
                options.filter.as_deref().is_none_or(|f| case.name.contains(f) || subject.tests.contains(f))
            };
            let before = jobs.len();
            jobs.extend(cases.iter().filter(wanted).map(|case| Job { subject: at, tests: &subject.tests, case }));
            Report { left_out: cases.len() + before - jobs.len(), ..Report::default() }
        }));
    }
    for done in work(config, subjects, &jobs, options) {
        let Job { subject, tests, case } = &jobs[done.job];
        let Ok(report) = &mut reports[*subject] else { continue };
        let Done { found: Found { failures, fault }, ran, took, .. } = done;
        report.outcomes.push(Outcome {
            file: (*tests).to_owned(),
            line: case.line,
            name: case.name.clone(),
            failures,
            fault,
            took,
        });
        if options.coverage
            && let Some(lines) = subjects[*subject].lines()
        {
            let coverage = report.coverage.get_or_insert_with(|| Coverage { lines, ..Coverage::default() });
            coverage.ran.extend(ran);
        }
    }
    reports
}

/// In the order of the jobs, whoever did them.
fn work(config: &Config, subjects: &[Subject], jobs: &[Job<'_>], options: &Options) -> Vec<Done> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(jobs.len()).min(MOST_THREADS) {
            scope.spawn(|| {
                // What stages log of cases that mean to fail is no news.
                let quiet = tracing::subscriber::NoSubscriber::default();
                let work = || worker(config, subjects, jobs, options, &next, &done);
                tracing::subscriber::with_default(quiet, || telemetry::unheard(work));
            });
        }
    });
    let mut done: Vec<Done> = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|done| done.job);
    done
}

fn worker(
    config: &Config,
    subjects: &[Subject],
    jobs: &[Job<'_>],
    options: &Options,
    next: &AtomicUsize,
    done: &Mutex<Vec<Done>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Stages are compiled once a thread: nothing of one case reaches another's.
    let mut stands: Vec<Option<subject::Stand<'_>>> = subjects.iter().map(|_| None).collect();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(job) = jobs.get(at) else { return };
        let began = Instant::now();
        let mut ran = std::collections::BTreeSet::new();
        let found = if late(options.until) {
            "it was not run: the cases before it took too long".to_owned().into()
        } else {
            match &runtime {
                Err(error) => format!("no thread could be made ready: {error}").into(),
                Ok(runtime) => {
                    let stand = stands[job.subject].get_or_insert_with(|| subjects[job.subject].stand(config));
                    let found = play(runtime, stand, job.case, false, options.until);
                    if options.coverage {
                        cover::take();
                        play(runtime, stand, job.case, true, options.until);
                        ran = cover::take();
                    }
                    found
                }
            }
        };
        let finished = Done { job: at, found, ran, took: began.elapsed() };
        done.lock().unwrap_or_else(PoisonError::into_inner).push(finished);
    }
}

/// Every way to cut the answers of a case; the first that comes out otherwise is told. `marked`: for coverage, once.
fn play(
    runtime: &tokio::runtime::Runtime,
    stand: &mut subject::Stand<'_>,
    case: &Case,
    marked: bool,
    until: Option<Instant>,
) -> Found {
    let house: Arc<House> = match stand.house(case, marked) {
        Ok(house) => house,
        Err(why) => return why.into(),
    };
    let ways = if marked { vec![Pieces::AsTold] } else { ways(case) };
    for pieces in ways {
        if late(until) {
            return "it was not run to its end: the cases before a change goes live take too long".to_owned().into();
        }
        let mut scene = case.scene.clone();
        scene.answers.pieces = pieces;
        let Found { failures, fault } = match runtime.block_on(rehearse::play(&house, &scene)) {
            Err(why) => why.into(),
            Ok(outcome) => {
                Found { failures: judge::judge(&case.expect, &scene, &outcome), fault: judge::fault(&outcome) }
            }
        };
        if !failures.is_empty() {
            let way = told_way(pieces);
            return Found { failures: failures.into_iter().map(|failure| format!("{failure}{way}")).collect(), fault };
        }
    }
    Found::default()
}

fn late(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

fn ways(case: &Case) -> Vec<Pieces> {
    let mut ways = vec![Pieces::AsTold];
    if case.splits != Splits::None {
        ways.extend([Pieces::Characters, Pieces::Whole, Pieces::Bytes]);
    }
    if case.splits == Splits::Every {
        let mut most: Vec<usize> = Vec::new();
        for lengths in case.scene.answers.all().map(rehearse::Answer::lengths) {
            most.resize(most.len().max(lengths.len()), 0);
            lengths.iter().zip(&mut most).for_each(|(length, most)| *most = (*most).max(*length));
        }
        let places =
            most.iter().enumerate().flat_map(|(part, most)| (1..*most).map(move |after| Pieces::At { part, after }));
        ways.extend(places.take(MOST_WAYS));
    }
    ways
}

fn told_way(pieces: Pieces) -> String {
    match pieces {
        Pieces::AsTold => String::new(),
        Pieces::Characters => " [when each character is an event]".to_owned(),
        Pieces::Whole => " [when each part is one event]".to_owned(),
        Pieces::Bytes => " [when each byte comes alone]".to_owned(),
        Pieces::At { part, after } => format!(" [when part {part} is cut after {after} characters]"),
    }
}

/// The cases beside the stages of a configuration, as they must pass before it goes live. `plugins`: where they are compiled
/// already.
pub fn gate(config: &Config, plugins: &Plugins) -> Vec<Problem> {
    let compiled = |subject: Subject| match subject.plugin {
        Some(_) => subject.compiled(plugins.beside()),
        None => subject,
    };
    let subjects: Vec<Subject> = Subject::beside(config).into_iter().map(compiled).collect();
    let options = Options { until: Some(Instant::now() + GATE), ..Options::default() };
    let mut problems = Vec::new();
    for report in run(config, &subjects, &options) {
        match report {
            Ok(report) => problems.extend(told_once(report.outcomes)),
            Err(mut more) => problems.append(&mut more),
        }
    }
    problems
}

/// Of cases that fail by one slip of their stage the first is told, and how many others do.
fn told_once(outcomes: Vec<Outcome>) -> Vec<Problem> {
    let failed: Vec<Outcome> = outcomes.into_iter().filter(|outcome| !outcome.failures.is_empty()).collect();
    let alike = |outcome: &Outcome, other: &Outcome| outcome.fault.is_some() && outcome.fault == other.fault;
    let first = |at: usize| !failed[..at].iter().any(|before| alike(&failed[at], before));
    let told = |at: usize| {
        let outcome = &failed[at];
        let others = failed[at + 1..].iter().filter(|other| alike(outcome, other)).count();
        let others = match others {
            0 => String::new(),
            1 => "; one more case fails by it".to_owned(),
            n => format!("; {n} more cases fail by it"),
        };
        let why = outcome.failures.join("; ");
        problem(&outcome.file, outcome.line, format!("the case \"{}\" fails: {why}{others}", outcome.name))
    };
    (0..failed.len()).filter(|at| first(*at)).map(told).collect()
}

pub fn problem(file: &str, line: u32, message: String) -> Problem {
    Problem { file: file.to_owned(), line, message, excerpt: None }
}

/// Of one case.
const MOST_WAYS: usize = 4000;
const MOST_THREADS: usize = 16;
/// For all cases before a reload: a change should be live within a second, and a slow suite must not hold it up for ever.
const GATE: Duration = Duration::from_secs(20);
