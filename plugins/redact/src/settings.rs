//! The stage's `config` in gateway.toml, read and checked.

use crate::{
    detect::{Kind, Kinds, LONGEST_PLACEHOLDER},
    json::{self, Value},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is masked.
    pub entities: Kinds,
    /// What is refused instead.
    pub deny: Kinds,
    pub mode: Mode,
    /// Media and sealed reasoning cannot be scanned: may they pass?
    pub unscanned: Unscanned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Mask requests, restore answers.
    Restore,
    /// Mask requests and answers, restore nothing.
    Mask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscanned {
    Allow,
    Deny,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { entities: Kinds::ALL, deny: Kinds::default(), mode: Mode::Restore, unscanned: Unscanned::Allow }
    }
}

impl Settings {
    /// From a JSON object; unknown names and words are errors that say what is known.
    pub fn parse(config: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        for (name, value) in json::object(config)? {
            match (name.as_str(), value) {
                ("entities", Value::List(names)) => settings.entities = kinds("entities", &names)?,
                ("deny", Value::List(names)) => settings.deny = kinds("deny", &names)?,
                ("mode", Value::Text(word)) => {
                    settings.mode = match word.as_str() {
                        "restore" => Mode::Restore,
                        "mask" => Mode::Mask,
                        _ => return Err(word_error("mode", &word, "restore, mask")),
                    }
                }
                ("unscanned", Value::Text(word)) => {
                    settings.unscanned = match word.as_str() {
                        "allow" => Unscanned::Allow,
                        "deny" => Unscanned::Deny,
                        _ => return Err(word_error("unscanned", &word, "allow, deny")),
                    }
                }
                ("entities" | "deny", _) => return Err(["config.", &name, " is a list, such as [\"email\"]"].concat()),
                ("mode" | "unscanned", _) => return Err(["config.", &name, " is one word"].concat()),
                _ => return Err(word_error("", &name, "entities, deny, mode, unscanned")),
            }
        }
        Ok(settings)
    }

    /// Characters that the host holds back of each part of a stream.
    pub fn window(&self) -> usize {
        match self.mode {
            Mode::Restore => LONGEST_PLACEHOLDER + 3,
            Mode::Mask if self.entities.union(self.deny).has(Kind::Key) => 4096,
            Mode::Mask => 512,
        }
    }
}

fn kinds(name: &str, words: &[String]) -> Result<Kinds, String> {
    let known = || Kind::ALL.map(Kind::name).join(", ");
    words.iter().try_fold(Kinds::default(), |kinds, word| {
        Kind::parse(word).map(|kind| kinds.with(kind)).ok_or_else(|| word_error(name, word, &known()))
    })
}

fn word_error(name: &str, word: &str, known: &str) -> String {
    let dot = if name.is_empty() { "" } else { "." };
    ["config", dot, name, ": unknown \"", word, "\"; known: ", known].concat()
}
