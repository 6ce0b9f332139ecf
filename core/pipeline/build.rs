//! From the configuration to the pipeline: which files are stages, in which order, and everything that is wrong with
//! them, each with file and line (a plugin's line is 1: it has none). Nothing here runs a request.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::{
    Asks, Effects, Entry, Hold, Parking, Phase, Pipeline, Stage, Standing, WINDOW,
    ask::AskGrant,
    builtin::{self, Making},
};
use crate::{
    config::{self, Config, Problem, StreamMode},
    plugin::{Loaded, PluginStage, Plugins, REFUSES},
    script::{self, Compiled, Scripts},
};

/// A pipeline and what status pages tell of it.
pub struct Built {
    pub pipeline: Pipeline,
    /// In pipeline order.
    pub listed: Vec<StageInfo>,
    /// Files in scripts/ and plugins/ that the `[[stages]]` list leaves out.
    pub outside: Vec<String>,
}

/// One running stage.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StageInfo {
    #[serde(rename = "use")]
    pub uses: String,
    /// Of the file's bytes: hex, 16 characters.
    pub hash: String,
    pub phases: Vec<&'static str>,
}

/// Reads, compiles and checks every stage; all problems at once.
pub fn build(config: &Config, scripts: &Scripts, plugins: &Plugins) -> Result<Built, Vec<Problem>> {
    let host = scripts.host(&config.sources);
    let found = config.sources.live();
    let mut problems = Vec::new();
    let wanted = match &config.stages {
        Some(stages) => stages.clone(),
        None => found.iter().copied().map(config::Stage::automatic).collect(),
    };
    plugins.make_room(config.server.max_connections, wanted.iter().filter(|s| s.uses.ends_with(".wasm")).count());
    let asking = wanted.iter().any(|stage| !AskGrant::of(&stage.grant).is_none());
    let asks = if asking { scripts.effects().asks.anew() } else { Asks::default() };
    let effects = Effects { asks: asks.clone(), ..scripts.effects() };
    let mut entries = Vec::new();
    let mut listed = Vec::new();
    let mut seen = BTreeSet::new();
    for stage in &wanted {
        if !seen.insert(stage.uses.as_str()) {
            problems.push(in_config(config, stage, format!("the stage {} is listed twice", stage.uses)));
            continue;
        }
        let built = if builtin::named(&stage.uses) {
            own(config, scripts.parking(), &effects, stage)
        } else if stage.uses.ends_with(".wasm") {
            plugin(config, plugins, scripts.parking(), stage)
        } else {
            script(config, &host, scripts, &effects, stage)
        };
        match built {
            Ok((entry, info)) => {
                entries.push(entry);
                listed.push(info);
            }
            Err(mut found) => problems.append(&mut found),
        }
    }
    for name in found.iter().filter(|name| !seen.contains(**name) && name.ends_with(".wasm")) {
        // Checked like a stage, so that listing it later holds no surprise; what it would be granted is not known.
        let found = plugin(config, plugins, scripts.parking(), &trial(name)).err().into_iter().flatten();
        // One that wants a configuration is in order: it has none yet.
        problems.extend(found.filter(|problem| !problem.message.starts_with(REFUSES)));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let outside = found.into_iter().filter(|name| !seen.contains(name)).map(str::to_owned).collect();
    Ok(Built { pipeline: Pipeline { asks, ..Pipeline::new(entries) }, listed, outside })
}

/// One that comes with the gateway.
fn own(
    config: &Config,
    parking: &Parking,
    effects: &Effects,
    stage: &config::Stage,
) -> Result<(Entry, StageInfo), Vec<Problem>> {
    let making = Making { config, listed: stage, kept: &effects.builtins };
    let made = builtin::make(&making).map_err(|message| vec![in_config(config, stage, message)])?;
    // Its program is the gateway's own.
    let hash = config::sources::hash([(stage.uses.as_str(), env!("CARGO_PKG_VERSION").as_bytes())]);
    let phases = Phase::ALL.into_iter().filter(|phase| made.phases().has(*phase)).map(Phase::name).collect();
    let info = StageInfo { uses: stage.uses.clone(), hash, phases };
    let (stream, window) = (made.stream(), window(config, stage, None)?);
    let standing = parking.of(stage, &info.hash);
    Ok((entry(made, stage, stream, window, standing), info))
}

fn script(
    config: &Config,
    host: &Arc<script::Host>,
    scripts: &Scripts,
    effects: &Effects,
    stage: &config::Stage,
) -> Result<(Entry, StageInfo), Vec<Problem>> {
    let uses = stage.uses.as_str();
    let Some(source) = config.sources.scripts.get(uses).filter(|_| uses.ends_with(".rhai")) else {
        let message =
            format!("there is no script {uses}: name one of the folder scripts/, such as \"scripts/route.rhai\"");
        return Err(vec![in_config(config, stage, message)]);
    };
    let compiled = scripts.compile(host, uses, source)?;
    if let Some(line) = compiled.asks.filter(|_| AskGrant::of(&stage.grant).is_none()) {
        let message = format!(
            "it asks models, which it is not granted: list it as [[stages]] use = \"{uses}\" with grant = [\"ask\"], if it may"
        );
        return Err(vec![problem(uses, line, message)]);
    }
    let stream = mode(&compiled, stage.stream, uses)?;
    let info = StageInfo {
        uses: uses.to_owned(),
        hash: compiled.hash.clone(),
        phases: compiled.hooks().map(|phase| phase.name()).collect(),
    };
    let window = window(config, stage, compiled.window)?;
    let stage_object: Arc<dyn Stage> = Arc::new(
        script::ScriptStage::new(compiled, uses, stage.limits, stage.config.clone(), effects.clone())
            .granted(&stage.grant),
    );
    Ok((entry(stage_object, stage, stream, window, scripts.parking().of(stage, &info.hash)), info))
}

/// At its place, as the configuration has it.
fn entry(
    stage: Arc<dyn Stage>,
    listed: &config::Stage,
    stream: Option<StreamMode>,
    window: Hold,
    standing: Arc<Standing>,
) -> Entry {
    let (on_error, only, slow) = (listed.on_error, listed.only.clone(), listed.slow);
    Entry { on_error, only, stream, window, slow, standing, ..Entry::new(stage) }
}

fn plugin(
    config: &Config,
    plugins: &Plugins,
    parking: &Parking,
    stage: &config::Stage,
) -> Result<(Entry, StageInfo), Vec<Problem>> {
    let uses = stage.uses.as_str();
    let Some(file) = config.sources.plugins.get(uses) else {
        return Err(vec![in_config(config, stage, format!("there is no plugin {uses}"))]);
    };
    let loaded = plugins.load(stage, file).map_err(|message| vec![problem(uses, 1, message)])?;
    let stream = plugin_mode(&loaded, stage.stream).map_err(|message| vec![problem(uses, 1, message)])?;
    let described = &loaded.described;
    let info = StageInfo { uses: uses.to_owned(), hash: file.hash.clone(), phases: described.phase_names() };
    let window = window(config, stage, described.window.map(|n| Hold::Characters(n as usize)))?;
    let stage_object: Arc<dyn Stage> = Arc::new(PluginStage::new(loaded));
    Ok((entry(stage_object, stage, stream, window, parking.of(stage, &info.hash)), info))
}

/// What to hold back: the configuration's word, else the stage's own.
fn window(config: &Config, stage: &config::Stage, own: Option<Hold>) -> Result<Hold, Vec<Problem>> {
    let configured = match stage.config.get("window") {
        Some(word) if word == "sentence" => Some(Hold::Sentence),
        Some(word) => word.as_u64().map(|n| Hold::Characters(usize::try_from(n).unwrap_or(usize::MAX))),
        None => None,
    };
    match configured.or(own) {
        None => Ok(WINDOW),
        Some(hold @ (Hold::Sentence | Hold::Characters(1..=65_536))) => Ok(hold),
        Some(Hold::Characters(n)) => {
            let message = format!("a window of {n} characters is out of range; choose 1 to 65536, or \"sentence\"");
            Err(vec![in_config(config, stage, message)])
        }
    }
}

/// How streams reach this plugin: the configuration's word, else its own, else `event` for one without `response`.
fn plugin_mode(loaded: &Loaded, configured: Option<StreamMode>) -> Result<Option<StreamMode>, String> {
    let described = &loaded.described;
    let (event, response) = (described.phases.has(Phase::Event), described.phases.has(Phase::Response));
    if !event && !response {
        return Ok(None);
    }
    let Some(mode) = configured.or(described.stream) else {
        return match response {
            false => Ok(Some(StreamMode::Event)),
            true => Err("wants the phase response but does not say how it wants streams (`stream-mode`); \
                         stream = \"whole\" or \"observe\" in [[stages]] says it too"
                .into()),
        };
    };
    let by_events = matches!(mode, StreamMode::Event | StreamMode::Window);
    match (by_events, event, response) {
        (true, false, _) => Err(format!("cannot have streams as {:?}: it has no phase event", mode.name())),
        (false, _, false) => Err(format!("cannot have streams as {:?}: it has no phase response", mode.name())),
        _ => Ok(Some(mode)),
    }
}

/// How streams reach this script: the configuration's word, else its own `const STREAM`, else `event` for scripts that
/// have only `fn event`.
fn mode(compiled: &Compiled, configured: Option<StreamMode>, uses: &str) -> Result<Option<StreamMode>, Vec<Problem>> {
    let (event, response) = (compiled.event_line(), compiled.response_line());
    let wrong = |line: u32, message: String| Err(vec![problem(uses, line, message)]);
    if event.is_none() && response.is_none() {
        return Ok(None);
    }
    let Some(mode) = configured.or(compiled.stream) else {
        return match response {
            None => Ok(Some(StreamMode::Event)),
            Some(line) => wrong(
                line,
                "fn response needs a word on streams: write `const STREAM = \"whole\";` (the answer is held until it is \
                 complete) or `const STREAM = \"observe\";` (looked at after the end) at the top"
                    .into(),
            ),
        };
    };
    let by_events = matches!(mode, StreamMode::Event | StreamMode::Window);
    match (by_events, event, response) {
        (true, None, Some(line)) => {
            wrong(line, "streams are to come as events, but there is no fn event: use \"whole\" or \"observe\" for fn response".into())
        }
        (false, Some(line), None) => {
            wrong(line, "streams are to come as whole answers, but there is no fn response: use \"event\" or \"window\" for fn event".into())
        }
        _ => Ok(Some(mode)),
    }
}

/// The same with every grant: to be looked at, not run.
fn trial(name: &str) -> config::Stage {
    config::Stage { grant: crate::plugin::all_grants(), ..config::Stage::automatic(name) }
}

fn in_config(config: &Config, stage: &config::Stage, message: String) -> Problem {
    if stage.line == 0 {
        return problem(&stage.uses, 0, message);
    }
    let file = config.file.strip_prefix(&config.root).unwrap_or(Path::new("gateway.toml"));
    problem(&file.to_string_lossy(), stage.line, message)
}

fn problem(file: &str, line: u32, message: String) -> Problem {
    Problem { file: file.to_owned(), line, message, excerpt: None }
}
