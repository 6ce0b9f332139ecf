//! `portcullis replay`: recorded requests through another configuration, at no upstream's cost, and which decisions would have
//! been others. Reads the gateway's own records; sends nothing, writes nothing. Equal records give equal output.

mod decision;
mod files;
mod report;
mod scene;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::Value;

use self::{
    decision::{Change, Decision},
    files::{Bodies, Rows},
    report::Report,
};
use crate::{
    cli::{Exit, refuse},
    config::{self, Config, Place, Problem, env},
    pipeline::{self, Pipeline},
    plugin::Plugins,
    provider,
    rehearse::{self, House, Outcome},
    route::Cast,
    script::Scripts,
    telemetry,
};

/// Run recorded requests through the configuration --config and say which decisions would change: targets, verdicts, refusals,
/// failures of stages, parameters, cost. Upstreams answer as they are recorded to have done; nothing is sent. What requests said is
/// used where `records.bodies = "sealed"` kept it; else a request of the same size stands in for it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The gateway's records: data/records, the data directory, or one file of it
    #[arg(long, value_name = "PATH")]
    pub records: PathBuf,
    /// Compare with what this configuration would do, not with what was recorded
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Only so many, the newest
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Only what began then or later: a time, a day, or a duration before the newest record (24h)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// The master key that opens bodies. Default: master.key beside the folder of records
    #[arg(long, value_name = "FILE")]
    pub master_key: Option<PathBuf>,
    /// One JSON object: counts, cost, changes, examples
    #[arg(long)]
    pub json: bool,
}

const EXAMPLE: &str = "\
Example:
  portcullis replay --records data/records --config candidate.toml
  portcullis replay --records data --since 24h --config candidate.toml --baseline gateway.toml
  portcullis replay --records 2026-11-25T22.jsonl.zst --config candidate.toml --json | jq .counts";

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    let candidate = match Policy::read(place) {
        Ok(policy) => policy,
        Err(problems) => return Ok(refuse(&problems)?),
    };
    let baseline = match args.baseline.as_ref().map(|file| Policy::read(&Place::File(file.clone()))).transpose() {
        Ok(policy) => policy,
        Err(problems) => return Ok(refuse(&problems)?),
    };
    let mut rows = Rows::open(&args.records)?;
    let bodies = Bodies::open(&rows, args.master_key.as_deref())?;
    let wanted = chosen(&mut rows, args)?;
    let mut report = Report::new(baseline.is_some());
    for batch in wanted.chunks(BATCH) {
        for told in work(batch, &bodies, &candidate, baseline.as_ref()) {
            report.add(told);
        }
    }
    report.unreadable = rows.unreadable;
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", report.machine())?,
        false => write!(out, "{}", report.human())?,
    }
    Ok(Exit::Done)
}

/// The records that are asked for, oldest first.
/// One recorded request: its row, and its body as it was said, or one of the same facts.
pub fn recorded(records: &Path, id: &str, master_key: Option<&Path>) -> anyhow::Result<(Value, Value)> {
    let mut rows = Rows::open(records)?;
    let bodies = Bodies::open(&rows, master_key)?;
    while let Some(row) = rows.next_row()? {
        if row["id"] == id {
            let said = scene::body(bodies.of(id).as_ref());
            let body = said.or_else(|| scene::like(&row));
            let body = body.ok_or_else(|| anyhow::anyhow!("the request {id} is none that scripts see as a chat"))?;
            return Ok((row, body));
        }
    }
    anyhow::bail!("there is no record {id} in {}", records.display())
}

fn chosen(rows: &mut Rows, args: &Args) -> anyhow::Result<Vec<Value>> {
    let since = args.since.as_deref().map(Since::parse).transpose()?;
    let most = args.limit.unwrap_or(usize::MAX);
    let mut kept: VecDeque<(SystemTime, Value)> = VecDeque::new();
    while let Some(row) = rows.next_row()? {
        let began = row["id"].as_str().and_then(scene::began).unwrap_or(SystemTime::UNIX_EPOCH);
        if matches!(since, Some(Since::At(at)) if began < at) {
            continue;
        }
        kept.push_back((began, row));
        if kept.len() > most {
            kept.pop_front();
        }
    }
    if let Some(Since::Before(time)) = since {
        let newest = kept.iter().map(|(began, _)| *began).max();
        let from = newest.and_then(|newest| newest.checked_sub(time)).unwrap_or(SystemTime::UNIX_EPOCH);
        kept.retain(|(began, _)| *began >= from);
    }
    Ok(kept.into_iter().map(|(_, row)| row).collect())
}

enum Since {
    At(SystemTime),
    /// The newest record.
    Before(Duration),
}

impl Since {
    fn parse(text: &str) -> anyhow::Result<Since> {
        if let Ok(time) = config::duration(text) {
            return Ok(Since::Before(time));
        }
        let time: Result<jiff::Timestamp, _> = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse());
        let told = |_| {
            anyhow::anyhow!(
                "--since {text:?}: give a time (2026-11-25T22:00:00Z), a day (2026-11-25) or a duration (24h)"
            )
        };
        time.map(|time| Since::At(time.into())).map_err(told)
    }
}

/// A configuration, compiled.
struct Policy {
    config: Arc<Config>,
    plugins: Plugins,
}

/// One thread's own.
struct Stand {
    config: Arc<Config>,
    pipeline: Pipeline,
    memory: Arc<(Scripts, Plugins)>,
    /// By the providers that had no key when a request was recorded: few sets, because keys seldom change.
    houses: RefCell<BTreeMap<BTreeSet<String>, Arc<House>>>,
}

impl Stand {
    fn house(&self, without: BTreeSet<String>) -> Result<Arc<House>, &'static str> {
        if let Some(house) = self.houses.borrow().get(&without) {
            return Ok(house.clone());
        }
        let memory = self.memory.clone();
        let forget = move || {
            memory.0.effects().forget();
            memory.1.effects().forget();
        };
        let cast = Cast { without: Some(&without), ..Cast::default() };
        let house = House::new(&self.config, &self.pipeline, &cast, forget).map_err(|_| "its names cannot be read")?;
        let house = Arc::new(house);
        self.houses.borrow_mut().insert(without, house.clone());
        Ok(house)
    }
}

impl Policy {
    fn read(place: &Place) -> Result<Policy, Vec<Problem>> {
        let loaded = config::read(place, &env::var, &provider::catalog_names());
        let (scripts, plugins) = (Scripts::dry(), Plugins::dry());
        let mut config = loaded.config;
        let mut problems = loaded.problems;
        rehearse::patient(&mut config);
        match pipeline::build(&config, &scripts, &plugins) {
            Ok(_) if problems.is_empty() => Ok(Policy { config: Arc::new(config), plugins }),
            Ok(_) => Err(problems),
            Err(more) => {
                problems.extend(more);
                Err(problems)
            }
        }
    }

    fn stand(&self) -> Result<Stand, Vec<Problem>> {
        let (scripts, plugins) = (Scripts::dry(), self.plugins.again());
        let pipeline = pipeline::build(&self.config, &scripts, &plugins)?.pipeline;
        let (config, memory) = (self.config.clone(), Arc::new((scripts, plugins)));
        let stand = Stand { config, pipeline, memory, houses: RefCell::default() };
        // Names that cannot be read are told before the first record.
        House::new(&stand.config, &stand.pipeline, &Cast::default(), || {})?;
        Ok(stand)
    }
}

/// What became of one record.
pub enum Told {
    /// It cannot be replayed, and why.
    Left(&'static str),
    Played(Box<Played>),
}

pub struct Played {
    pub id: String,
    pub was: Decision,
    pub now: Decision,
    pub changes: Vec<Change>,
    /// With what it said, not by its facts alone.
    pub whole: bool,
    /// A stage reads text that was not kept.
    pub blind: bool,
    /// Which of the same targets is first, only figures of then would tell.
    pub figures: bool,
}

/// In the order of the rows, whoever did them.
fn work(rows: &[Value], bodies: &Bodies, candidate: &Policy, baseline: Option<&Policy>) -> Vec<Told> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(rows.len()));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(rows.len()).min(MOST_THREADS) {
            scope.spawn(|| {
                let quiet = tracing::subscriber::NoSubscriber::default();
                let work = || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    let stands = (candidate.stand(), baseline.map(Policy::stand).transpose());
                    let (Ok(runtime), (Ok(candidate), Ok(baseline))) = (runtime, stands) else { return };
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(row) = rows.get(at) else { return };
                        let told = one(&runtime, row, bodies, &candidate, baseline.as_ref());
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((at, told));
                    }
                };
                tracing::subscriber::with_default(quiet, || telemetry::unheard(work));
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, told)| told).collect()
}

fn one(runtime: &tokio::runtime::Runtime, row: &Value, bodies: &Bodies, now: &Stand, was: Option<&Stand>) -> Told {
    let id = row["id"].as_str().unwrap_or_default();
    let said = bodies.of(id);
    let without = scene::without(row);
    let set = |stand: &Stand| {
        let house = stand.house(without.clone())?;
        Ok((scene::of(row, said.as_ref(), &house)?, house))
    };
    let (scene, house) = match set(now) {
        Ok(set) => set,
        Err(why) => return Told::Left(why),
    };
    let whole = said.as_ref().is_some_and(|said| !said["request"].is_null());
    let play = |house: &House, scene: &rehearse::Scene| runtime.block_on(rehearse::play(house, scene)).ok();
    let Some(outcome) = play(&house, &scene) else { return Told::Left("it did not end") };
    let new = seen(&outcome);
    let old = match was {
        None => Decision::of(row, whole.then(|| scene::body(said.as_ref())).flatten()),
        Some(stand) => {
            let (scene, house) = match set(stand) {
                Ok(set) => set,
                Err(why) => return Told::Left(why),
            };
            let Some(outcome) = play(&house, &scene) else { return Told::Left("it did not end") };
            seen(&outcome)
        }
    };
    // Who was turned away by a list of the key alone is not known to be let in now.
    if was.is_none() && old.status == 403 && new.status != 403 {
        return Told::Left("the key's own list of models is not in the record");
    }
    // Against another configuration both are without figures.
    let figures = was.is_none() && decision::by_figures(&old, &new);
    let changes = decision::changes(&old, &new, figures);
    let model = row["model"].as_str().unwrap_or_default();
    let reads = |entry: &Arc<pipeline::Entry>| entry.meets(&scene.principal, model) && entry.stage.reads_text();
    let blind = !whole && now.pipeline.entries.iter().any(reads);
    Told::Played(Box::new(Played { id: id.to_owned(), was: old, now: new, changes, whole, blind, figures }))
}

/// In the shape of a record: both sides are read alike.
fn seen(outcome: &Outcome) -> Decision {
    let row = telemetry::record_json(&outcome.record, Some(&outcome.trace), SystemTime::UNIX_EPOCH);
    Decision::of(&row, outcome.asked.as_ref().map(|asked| asked.body.clone()))
}

/// Records that are held at a time, with what became of them.
const BATCH: usize = 512;
const MOST_THREADS: usize = 16;

/// The master key beside records.
fn key_beside(folder: &Path) -> PathBuf {
    folder.parent().unwrap_or(Path::new(".")).join("master.key")
}
