//! What cases are run against: a script or a plugin alone, as its `[[stages]]` entry has it, or the whole pipeline. Compiled
//! once a thread, and empty again before each case.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use super::{Case, problem};
use crate::{
    config::{Config, Problem, Sources, Stage, sources},
    pipeline::{self, Entry, Pipeline},
    plugin::{self, Plugins},
    rehearse::{self, House},
    script::{ScriptStage, Scripts, cover},
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
pub struct Stand {
    config: Arc<Config>,
    whole: Arc<Config>,
    alone: Result<(Pipeline, Arc<Memory>), String>,
    marked: Option<(Pipeline, Arc<Memory>)>,
    all: Option<Result<(Pipeline, Arc<Memory>), String>>,
    /// For cases without targets of their own.
    houses: BTreeMap<(bool, bool), Arc<House>>,
}

/// What stages remember.
pub struct Memory {
    scripts: Scripts,
    plugins: Plugins,
}

impl Memory {
    fn new() -> Arc<Memory> {
        Arc::new(Memory { scripts: Scripts::dry(), plugins: Plugins::dry() })
    }

    /// A memory of its own, with what is compiled already.
    fn again(&self) -> Arc<Memory> {
        Arc::new(Memory { scripts: Scripts::dry(), plugins: self.plugins.again() })
    }

    fn forget(&self) {
        self.scripts.effects().kv.clear();
        self.plugins.effects().kv.clear();
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

    /// Does it compile? Its cases are not tried otherwise.
    pub fn sound(&self, config: &Config) -> Result<(), Vec<Problem>> {
        if self.plugin.is_none() && !self.scripts.contains_key(&self.uses) {
            return Err(vec![problem(&self.uses, 1, format!("there is no {}", self.uses))]);
        }
        self.pipeline(&self.alone(config), self.ready.get_or_init(Memory::new)).map(drop)
    }

    /// The lines of a script that hold statements.
    pub fn lines(&self) -> Option<std::collections::BTreeSet<u32>> {
        Some(self.marked_program()?.1)
    }

    pub fn stand(&self, config: &Config, covering: bool) -> Stand {
        let alone = self.alone(config);
        let mut whole = config.clone();
        rehearse::patient(&mut whole);
        let made = |memory: Arc<Memory>| self.pipeline(&alone, &memory).map(|pipeline| (pipeline, memory));
        let pipeline = made(self.ready.get_or_init(Memory::new).again()).map_err(|problems| told(&problems));
        let marked = covering.then(|| self.marked(&alone)).flatten();
        Stand {
            config: Arc::new(alone),
            whole: Arc::new(whole),
            alone: pipeline,
            marked,
            all: None,
            houses: BTreeMap::new(),
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

    fn pipeline(&self, alone: &Config, memory: &Memory) -> Result<Pipeline, Vec<Problem>> {
        Ok(pipeline::build(alone, &memory.scripts, &memory.plugins)?.pipeline)
    }

    /// The same with marks in its lines.
    fn marked(&self, alone: &Config) -> Option<(Pipeline, Arc<Memory>)> {
        let (program, _) = self.marked_program()?;
        let memory = Memory::new();
        let built = self.pipeline(alone, &memory).ok()?;
        let Stage { limits, config, .. } = alone.stages.as_ref()?.first()?;
        let entries = built.entries.iter().map(|entry| {
            let effects = memory.scripts.effects();
            let stage = ScriptStage::new(program.clone(), &self.uses, *limits, config.clone(), effects);
            let stage = stage.granted(&self.stage.grant);
            let Entry { on_error, stream, window, reads, .. } = **entry;
            Entry { on_error, stream, window, reads, ..Entry::new(Arc::new(stage)) }
        });
        Some((Pipeline::new(entries.collect()), memory))
    }

    fn marked_program(&self) -> Option<(Arc<crate::script::Compiled>, std::collections::BTreeSet<u32>)> {
        let source = self.scripts.get(&self.uses).filter(|_| self.plugin.is_none())?;
        let sources = Sources { scripts: (*self.scripts).clone(), ..Sources::default() };
        cover::marked(&Scripts::covering(&sources), &self.uses, source)
    }
}

impl Stand {
    /// For a case. `marked`: the pipeline that counts lines; nothing where there is none.
    pub fn house(&mut self, case: &Case, marked: bool) -> Result<Arc<House>, String> {
        let plain = case.own.is_empty() && case.scene.live.is_empty();
        let place = (marked, case.all_stages);
        if let Some(house) = self.houses.get(&place).filter(|_| plain) {
            return Ok(house.clone());
        }
        let (config, made) = match (marked, case.all_stages) {
            (true, _) => (&self.config, self.marked.as_ref().ok_or("there is nothing to mark")?),
            (false, false) => (&self.config, self.alone.as_ref().map_err(Clone::clone)?),
            (false, true) => {
                let whole = &self.whole;
                let all = self.all.get_or_insert_with(|| {
                    let memory = Memory::new();
                    let built = pipeline::build(whole, &memory.scripts, &memory.plugins);
                    built.map(|built| (built.pipeline, memory)).map_err(|problems| told(&problems))
                });
                (whole, all.as_ref().map_err(|why| why.clone())?)
            }
        };
        let (pipeline, memory) = made;
        let memory = memory.clone();
        let forget = move || memory.forget();
        let house = House::new(config, pipeline, &case.own, &case.scene.live, forget).map_err(|p| told(&p))?;
        let house = Arc::new(house);
        if plain {
            self.houses.insert(place, house.clone());
        }
        Ok(house)
    }
}

/// As the configuration lists it, or as it would run unlisted; a plugin that is not listed has every grant.
pub fn stage_of(config: &Config, uses: &str) -> Stage {
    let listed = config.stages.iter().flatten().find(|stage| stage.uses == uses).cloned();
    listed.unwrap_or_else(|| match uses.ends_with(".wasm") {
        true => Stage { grant: plugin::all_grants(), ..Stage::automatic(uses) },
        // No model is asked here.
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
