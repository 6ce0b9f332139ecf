//! From a path to a `Config`: read the text, check its shape, resolve it, and report every mistake of one run at once.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Config, Content, Elsewhere, Problem, content, file,
    resolve::{self, Surroundings},
    shape,
    source::Source,
    sources::{self, Sources},
};

/// Which gateway.toml.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// A file that has to be there.
    File(PathBuf),
    /// Nobody named one and the folder has none: the configuration built into the program, with this folder's scripts.
    BuiltIn(PathBuf),
}

/// What one reading gave. With problems, `config` is only what could be made of the rest: good for checking more, never
/// for running.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
    pub problems: Vec<Problem>,
}

/// Reads a configuration that may run. `env` looks a variable up; `rows` are the catalogue's provider names.
pub fn load(
    place: &Place,
    env: &dyn Fn(&str) -> Option<String>,
    rows: &[&str],
) -> Result<(Config, Vec<String>), Vec<Problem>> {
    let loaded = read(place, env, rows);
    if loaded.problems.is_empty() { Ok((loaded.config, loaded.warnings)) } else { Err(loaded.problems) }
}

/// Reads a configuration, sound or not.
pub fn read(place: &Place, env: &dyn Fn(&str) -> Option<String>, rows: &[&str]) -> Loaded {
    read_from(place, None, (env, None), rows)
}

/// The same for a gateway that serves: with the secrets that lie elsewhere. `kept`: of a version, in place of the files.
pub fn read_with(
    place: &Place,
    kept: Option<&Content>,
    env: &dyn Fn(&str) -> Option<String>,
    elsewhere: &dyn Elsewhere,
    rows: &[&str],
) -> Loaded {
    read_from(place, kept, (env, Some(elsewhere)), rows)
}

/// The same of what a version kept, as if it lay at `place`: only secrets, certificates and the like are read from there.
pub fn read_kept(place: &Place, kept: &Content, env: &dyn Fn(&str) -> Option<String>, rows: &[&str]) -> Loaded {
    read_from(place, Some(kept), (env, None), rows)
}

/// Variables, and what lies elsewhere.
type Outside<'s> = (&'s dyn Fn(&str) -> Option<String>, Option<&'s dyn Elsewhere>);

fn read_from(place: &Place, kept: Option<&Content>, (env, elsewhere): Outside<'_>, rows: &[&str]) -> Loaded {
    let (root, file) = place.parts();
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or(DEFAULT_NAME).to_owned();
    let mut problems = Vec::new();
    let text = match (kept, place) {
        (Some(kept), _) => kept.text(content::CONFIG).unwrap_or_default(),
        (None, Place::BuiltIn(_)) => BUILT_IN.to_owned(),
        (None, Place::File(_)) => sources::text(&file, MOST_BYTES)
            .and_then(|text| {
                text.ok_or_else(|| "there is no such file; write one, or name it with --config".to_owned())
            })
            .unwrap_or_else(|message| {
                problems.push(Problem { file: name.clone(), line: 1, message, excerpt: None });
                String::new()
            }),
    };
    let (source, broken) = Source::parse(&name, text.strip_prefix('\u{feff}').unwrap_or(&text));
    let sound = shape::check(&source, &schema());
    let shaped = file::File::deserialize(toml::de::Deserializer::from(sound.tree.clone())).unwrap_or_else(|e| {
        problems.push(source.at(e.span().unwrap_or(0..0), e.message()));
        file::File::default()
    });
    problems.extend(sound.problems.iter().cloned());
    let mut beside = kept.map_or_else(|| Sources::read(&root, &mut problems), Content::sources);
    beside.own = text.as_str().into();
    beside.lines = source.tables();
    let surroundings =
        Surroundings { root: &root, file: &file, env, elsewhere, rows, kept, source: &source, sound: &sound };
    let mut resolved = resolve::resolve(shaped, &surroundings, &mut beside);
    if broken.is_empty() {
        problems.append(&mut resolved.problems);
    } else {
        // What does not parse makes references dangle that are in order: shapes are reported, meaning is not.
        problems.retain(|p| p.file != name || !broken.iter().any(|b| b.line == p.line));
        problems.extend(broken);
    }
    problems.sort_by(|a, b| (a.file != name, &a.file, a.line).cmp(&(b.file != name, &b.file, b.line)));
    problems.dedup();
    if let (Place::BuiltIn(_), None) = (place, kept) {
        resolved.warnings.insert(0, format!("there is no {DEFAULT_NAME} here: the built-in configuration is used"));
    }
    let hash = fingerprint(&name, &text, &beside, &resolved);
    let (version, policy) = (content::version(&beside), content::policy(&beside));
    let config = Config { hash, version, policy, sources: beside, ..resolved.config };
    Loaded { config, warnings: resolved.warnings, problems }
}

/// JSON Schema of gateway.toml.
pub fn schema() -> Value {
    schemars::schema_for!(file::File).to_value()
}

impl Place {
    /// The file that `--config` names, or gateway.toml in this folder, or the built-in one. Decided once: a file that is
    /// lost later is an error, not a change of configuration.
    pub fn find(named: Option<&Path>) -> Place {
        match named {
            Some(path) => Place::File(absolute(path)),
            None if Path::new(DEFAULT_NAME).exists() => Place::File(absolute(Path::new(DEFAULT_NAME))),
            None => Place::BuiltIn(absolute(Path::new("."))),
        }
    }

    /// Folder and file.
    fn parts(&self) -> (PathBuf, PathBuf) {
        match self {
            Place::File(path) => (path.parent().unwrap_or(Path::new("/")).to_owned(), path.clone()),
            Place::BuiltIn(root) => (root.clone(), root.join(DEFAULT_NAME)),
        }
    }
}

/// Links stay links: a mounted gateway.toml is one, and its own folder is the one to watch.
fn absolute(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    full.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}

fn fingerprint(name: &str, text: &str, beside: &Sources, resolved: &resolve::Resolved) -> String {
    let others: Vec<_> = resolved.files.iter().map(|(path, sum)| (path.to_string_lossy(), sum)).collect();
    let scripts = beside.scripts.iter().map(|(name, text)| (name.as_str(), text.as_bytes()));
    let prompts = beside.prompts.iter().map(|(name, text)| (name.as_str(), text.as_bytes()));
    let others = others.iter().map(|(name, sum)| (&**name, sum.as_bytes()));
    let plugins = beside.plugins.iter().map(|(name, plugin)| (name.as_str(), plugin.hash.as_bytes()));
    let secrets = resolved.values.iter().map(|(name, secret)| (name.as_str(), secret.expose().as_bytes()));
    let files = scripts.chain(prompts).chain(plugins).chain(others);
    sources::hash([(name, text.as_bytes())].into_iter().chain(files).chain(secrets))
}

/// The configuration as shipped.
pub const BUILT_IN: &str = include_str!("../../gateway.toml");

const DEFAULT_NAME: &str = "gateway.toml";
const MOST_BYTES: u64 = 4 << 20;
