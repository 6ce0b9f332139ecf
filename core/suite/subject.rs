//! What cases are run against: a script or a plugin alone, as its `[[stages]]` entry has it, or the whole pipeline. Compiled
//! once a thread, and empty again before each case.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use serde_json::json;

use super::{Case, case::Configs, problem};
use crate::{
    config::{Config, Problem, Sources, Stage, sources},
    pipeline::{self, Asks, Effects, Entry, Pipeline},
    plugin::{self, Plugins},
    rehearse::{self, House},
    route::Cast,
    script::{Compiled, ScriptStage, Scripts, cover},
};

/// A stage and the file of cases beside it.
pub struct Subject {
    /// As `[[stages]]` would list it.
    pub uses: String,
    /// The name of the file of cases, for messages.
    pub tests: String,
    pub text: String,
    pub stage: Stage,
    /// Scripts that it may import, and its own source.
    pub scripts: Arc<BTreeMap<String, Arc<str>>>,
    pub plugin: Option<sources::Plugin>,
    /// Compiled once, for every thread.
    ready: OnceLock<Arc<Memory>>,
}

/// A subject made ready on one thread.
pub struct Stand<'a> {
    subject: &'a Subject,
    /// The configuration with this stage alone, and as it is.
    alone: Config,
    whole: Config,
    made: BTreeMap<Way, Result<Made, String>>,
    /// For cases without targets of their own.
    houses: BTreeMap<Way, Arc<House>>,
    /// With marks in its lines.
    program: OnceCell<Option<Arc<Compiled>>>,
}

/// In which pipeline a case is played.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    marked: bool,
    all: bool,
    /// The configurations that the case gives, as JSON.
    configs: String,
}

#[derive(Clone)]
struct Made {
    config: Arc<Config>,
    entries: Vec<Arc<Entry>>,
    asks: Asks,
    memory: Arc<Memory>,
}

/// What stages remember.
pub struct Memory {
    scripts: Scripts,
    plugins: Plugins,
}

impl Memory {
    fn new() -> Arc<Memory> {
        Memory::with(Plugins::dry())
    }

    fn with(plugins: Plugins) -> Arc<Memory> {
        Arc::new(Memory { scripts: Scripts::rehearsed(), plugins })
    }

    /// A memory of its own, with what is compiled already.
    fn again(&self) -> Arc<Memory> {
        Memory::with(self.plugins.again())
    }

    fn forget(&self) {
        self.scripts.effects().forget();
        self.plugins.effects().forget();
    }
}

impl Subject {
    pub fn new(
        uses: &str,
        tests: String,
        text: String,
        stage: Stage,
        scripts: Arc<BTreeMap<String, Arc<str>>>,
        plugin: Option<sources::Plugin>,
    ) -> Subject {
        Subject { uses: uses.to_owned(), tests, text, stage, scripts, plugin, ready: OnceLock::new() }
    }

    /// Scripts and plugins of a configuration that have cases beside them, in file order.
    pub fn beside(config: &Config) -> Vec<Subject> {
        let Sources { scripts, plugins, .. } = &config.sources;
        let scripts = Arc::new(scripts.clone());
        let of = |uses: &String, plugin: Option<&sources::Plugin>| {
            let tests = tests_of(uses);
            let text = scripts.get(&tests)?;
            let stage = stage_of(config, uses);
            Some(Subject::new(uses, tests, text.to_string(), stage, scripts.clone(), plugin.cloned()))
        };
        let rhai = scripts.keys().filter(|name| name.ends_with(".rhai")).filter_map(|name| of(name, None));
        rhai.chain(plugins.iter().filter_map(|(name, plugin)| of(name, Some(plugin)))).collect()
    }

    /// With plugins that were compiled elsewhere. Heard before the first look at it.
    pub fn compiled(self, plugins: Plugins) -> Subject {
        let _ = self.ready.set(Memory::with(plugins));
        self
    }

    /// Does it compile? Its cases are not tried otherwise.
    pub fn sound(&self, config: &Config) -> Result<(), Vec<Problem>> {
        if self.plugin.is_none() && !self.scripts.contains_key(&self.uses) {
            return Err(vec![problem(&self.uses, 1, format!("there is no {}", self.uses))]);
        }
        let ready = self.ready.get_or_init(Memory::new);
        match pipeline::build(&self.alone(config), &ready.scripts, &ready.plugins) {
            Ok(_) => Ok(()),
            // One that wants a configuration may have it from its cases.
            Err(problems) if problems.iter().all(|problem| problem.message.starts_with(plugin::REFUSES)) => Ok(()),
            Err(problems) => Err(problems),
        }
    }

    /// The lines of a script that hold statements.
    pub fn lines(&self) -> Option<BTreeSet<u32>> {
        Some(self.marked_program()?.1)
    }

    pub fn stand(&self, config: &Config) -> Stand<'_> {
        let mut whole = config.clone();
        rehearse::patient(&mut whole);
        Stand {
            subject: self,
            alone: self.alone(config),
            whole,
            made: BTreeMap::new(),
            houses: BTreeMap::new(),
            program: OnceCell::new(),
        }
    }

    /// The configuration with this stage alone.
    fn alone(&self, config: &Config) -> Config {
        let mut alone = config.clone();
        let plugins = self.plugin.iter().map(|plugin| (self.uses.clone(), plugin.clone())).collect();
        alone.sources.scripts = (*self.scripts).clone();
        alone.sources.plugins = plugins;
        alone.stages = Some(vec![Stage { only: None, ..self.stage.clone() }]);
        rehearse::patient(&mut alone);
        alone
    }

    fn marked_program(&self) -> Option<(Arc<Compiled>, BTreeSet<u32>)> {
        let source = self.scripts.get(&self.uses).filter(|_| self.plugin.is_none())?;
        let sources = Sources { scripts: (*self.scripts).clone(), ..Sources::default() };
        cover::marked(&Scripts::covering(&sources), &self.uses, source)
    }
}

impl Stand<'_> {
    /// For a case. `marked`: the pipeline that counts lines; nothing where there is none.
    pub fn house(&mut self, case: &Case, marked: bool) -> Result<Arc<House>, String> {
        let configs = if case.config.is_empty() { String::new() } else { json!(case.config).to_string() };
        // Lines are counted of the one stage.
        let way = Way { marked, all: case.all_stages && !marked, configs };
        let plain = case.own.is_empty() && case.scene.live.is_empty();
        if let Some(house) = self.houses.get(&way).filter(|_| plain) {
            return Ok(house.clone());
        }
        let made = match self.made.get(&way) {
            Some(made) => made.clone()?,
            None => {
                let made = self.make(&way, &case.config);
                self.made.insert(way.clone(), made.clone());
                made?
            }
        };
        let Made { config, entries, asks, memory } = made;
        let forget = move || memory.forget();
        let pipeline = Pipeline { entries, asks };
        let cast = Cast { own: &case.own, live: &case.scene.live, without: None };
        let house = House::new(&config, &pipeline, &cast, forget).map_err(|p| told(&p))?;
        let house = Arc::new(house);
        if plain {
            self.houses.insert(way, house.clone());
        }
        Ok(house)
    }

    fn make(&self, way: &Way, configs: &Configs) -> Result<Made, String> {
        let subject = self.subject;
        let mut config = if way.all { self.whole.clone() } else { self.alone.clone() };
        for (name, own) in configs.iter().filter(|(name, _)| way.all || name.is_empty()) {
            let uses = if name.is_empty() { &subject.uses } else { name };
            let stage = config.stages.iter_mut().flatten().find(|stage| stage.uses == *uses);
            let stage = stage.ok_or_else(|| format!("the pipeline has no stage {uses:?} to configure"))?;
            stage.config.clone_from(own);
        }
        let memory = match way.all {
            true => Memory::new(),
            false => subject.ready.get_or_init(Memory::new).again(),
        };
        let built = pipeline::build(&config, &memory.scripts, &memory.plugins).map_err(|problems| told(&problems))?;
        let Pipeline { mut entries, asks } = built.pipeline;
        if way.marked {
            let program = self.program.get_or_init(|| Some(subject.marked_program()?.0));
            let program = program.as_ref().ok_or("there is nothing to mark")?;
            let stage = config.stages.iter().flatten().next().ok_or("there is no stage to mark")?;
            let effects = Effects { asks: asks.clone(), ..memory.scripts.effects() };
            let marked = |entry: Arc<Entry>| {
                let own = stage.config.clone();
                let stage = ScriptStage::new(program.clone(), &subject.uses, stage.limits, own, effects.clone());
                let stage = stage.granted(&subject.stage.grant);
                let Entry { on_error, stream, window, reads, .. } = *entry;
                Arc::new(Entry { on_error, stream, window, reads, ..Entry::new(Arc::new(stage)) })
            };
            entries = entries.into_iter().map(marked).collect();
        }
        Ok(Made { config: Arc::new(config), entries, asks, memory })
    }
}

/// As the configuration lists it, or as it would run unlisted; a plugin that is not listed has every grant.
pub fn stage_of(config: &Config, uses: &str) -> Stage {
    let listed = config.stages.iter().flatten().find(|stage| stage.uses == uses).cloned();
    listed.unwrap_or_else(|| match uses.ends_with(".wasm") {
        true => Stage { grant: plugin::all_grants(), ..Stage::automatic(uses) },
        // Whom it asks, its cases tell.
        false => Stage { grant: vec!["ask".to_owned()], ..Stage::automatic(uses) },
    })
}

/// `scripts/route.test.toml` for `scripts/route.rhai`.
pub fn tests_of(uses: &str) -> String {
    let stem = uses.strip_suffix(".rhai").or_else(|| uses.strip_suffix(".wasm")).unwrap_or(uses);
    format!("{stem}.test.toml")
}

fn told(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect();
    texts.join("; ")
}
