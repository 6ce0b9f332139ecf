//! What a version of the policy is made of: gateway.toml, scripts with their tests, plugins, and other files that are part of
//! the configuration, by name. Secrets and certificates are not: gateway.toml holds only where they are.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Config, Sources,
    sources::{self, Plugin},
};

/// Named files. gateway.toml has that name here whatever it is called on disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Content {
    pub files: BTreeMap<String, Arc<[u8]>>,
}

/// gateway.toml's name among the others.
pub const CONFIG: &str = "gateway.toml";

impl Content {
    /// Of a configuration that was just read: later its plugins are compiled and their bytes gone.
    pub fn of(config: &Config) -> Content {
        Content::of_sources(&config.sources)
    }

    fn of_sources(sources: &Sources) -> Content {
        let text = |text: &Arc<str>| Arc::<[u8]>::from(text.clone());
        let mut files: BTreeMap<String, Arc<[u8]>> =
            sources.texts.iter().map(|(name, other)| (name.clone(), text(other))).collect();
        files.extend(sources.scripts.iter().map(|(name, script)| (name.clone(), text(script))));
        files.extend(sources.prompts.iter().map(|(name, prompt)| (name.clone(), text(prompt))));
        files.extend(sources.plugins.iter().map(|(name, plugin)| (name.clone(), plugin.bytes.clone())));
        files.insert(CONFIG.to_owned(), text(&sources.own));
        Content { files }
    }

    /// A text file of it.
    pub fn text(&self, name: &str) -> Option<String> {
        String::from_utf8(self.files.get(name)?.to_vec()).ok()
    }

    pub fn hash(&self) -> String {
        let plugin = |name: &str, bytes: &[u8]| name.ends_with(".wasm").then(|| sources::hash([("", bytes)]));
        let plugins: BTreeMap<&str, String> =
            self.files.iter().filter_map(|(name, bytes)| Some((name.as_str(), plugin(name, bytes)?))).collect();
        hash(self.files.iter().map(|(name, bytes)| {
            let short = plugins.get(name.as_str()).map(|hash| hash.as_bytes());
            (name.as_str(), short.unwrap_or(bytes))
        }))
    }

    /// In the place of what lies beside gateway.toml.
    pub(super) fn sources(&self) -> Sources {
        let mut sources = Sources { kept: true, ..Sources::default() };
        for (name, bytes) in &self.files {
            if name.starts_with("plugins/") && name.ends_with(".wasm") {
                sources.plugins.insert(name.clone(), Plugin::of(bytes.clone()));
            } else if name.starts_with("scripts/") || (name.starts_with("plugins/") && name.ends_with(".test.toml")) {
                sources.scripts.insert(name.clone(), self.text(name).unwrap_or_default().into());
            } else if name.starts_with("prompts/") {
                sources.prompts.insert(name.clone(), self.text(name).unwrap_or_default().into());
            }
        }
        sources
    }
}

/// The same hash of what was read, without the bytes of plugins.
pub(super) fn version(sources: &Sources) -> String {
    let mut files: BTreeMap<&str, &[u8]> =
        sources.texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    files.extend(sources.scripts.iter().map(|(name, script)| (name.as_str(), script.as_bytes())));
    files.extend(sources.prompts.iter().map(|(name, prompt)| (name.as_str(), prompt.as_bytes())));
    files.extend(sources.plugins.iter().map(|(name, plugin)| (name.as_str(), plugin.hash.as_bytes())));
    files.insert(CONFIG, sources.own.as_bytes());
    hash(files)
}

/// Of what decides over answers: all of it but tests and the tables that say only where and how the gateway runs. What is not
/// known here counts, so that a new table makes old answers old rather than wrong.
pub(super) fn policy(sources: &Sources) -> String {
    let mut own: toml::Table = sources.own.trim_start_matches('\u{feff}').parse().unwrap_or_default();
    own.retain(|name, _| !ELSEWHERE.contains(&name));
    let own = format!("{own:?}");
    let decides = |name: &&String| !name.ends_with(".test.toml");
    let mut files: BTreeMap<&str, &[u8]> =
        sources.texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    files.extend(
        sources.scripts.iter().filter(|(name, _)| decides(name)).map(|(n, text)| (n.as_str(), text.as_bytes())),
    );
    files.extend(sources.prompts.iter().map(|(name, prompt)| (name.as_str(), prompt.as_bytes())));
    files.extend(sources.plugins.iter().map(|(name, plugin)| (name.as_str(), plugin.hash.as_bytes())));
    files.insert(CONFIG, own.as_bytes());
    hash(files)
}

/// Tables that change no answer.
const ELSEWHERE: [&str; 11] =
    ["server", "admin", "store", "alerts", "records", "responses", "audit", "secrets", "rollout", "cache", "overload"];

fn hash<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    sources::hash(files)
}
