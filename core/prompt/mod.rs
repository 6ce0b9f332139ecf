//! Prompt templates: turns written once, by name and version, in `prompts/*.toml`, that a request of any format asks for
//! with `"prompt": {"id": …, "version": …, "variables": {…}}`. Templates are read, checked and compiled with the
//! configuration; they see the caller's variables and nothing else, and their work and size are bounded.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, Value as Variable};
use serde_json::{Map, Value};

use crate::{
    codec::{Dialect, Field, codec, document::Document},
    error::{Error, Kind, Result},
    model::{Message, Request, Role},
};

/// All templates of a configuration, by id.
#[derive(Default)]
pub struct Prompts(BTreeMap<String, Prompt>);

struct Prompt {
    /// What a request without a version gets.
    current: usize,
    versions: Vec<Version>,
}

struct Version {
    name: String,
    roles: Vec<Role>,
    /// Its turns' templates are named by their numbers.
    templates: Environment<'static>,
    /// Variables that a caller need not give.
    defaults: Map<String, Value>,
}

impl Prompts {
    pub fn build(sources: &crate::config::Sources) -> std::result::Result<Prompts, Vec<crate::config::Problem>> {
        file::read(&sources.prompts).map(Prompts)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ids with their versions, the current one first.
    pub fn names(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.0.iter().map(|(id, prompt)| {
            let current = &prompt.versions[prompt.current];
            let others = prompt.versions.iter().filter(|v| v.name != current.name);
            (id.as_str(), std::iter::once(current).chain(others).map(|v| v.name.as_str()).collect())
        })
    }

    /// Puts the turns of the template that a request asks for in front of its own, in its own format.
    pub fn apply(&self, document: &mut Document) -> Result<()> {
        if self.is_empty() || document.legacy() {
            return Ok(());
        }
        let Some(Value::Object(asked)) = document.field("prompt") else { return Ok(()) };
        let Some(turns) = self.turns(asked)? else { return Ok(()) };
        let format = codec(document.format());
        // Completions have a field of that name for their text; here it names the template.
        let fields = || format.wire_fields(Field::Messages).iter().filter(|name| **name != "prompt");
        // A body without turns of its own is in order: the template has them.
        let own = fields().filter_map(|name| document.field(name)).any(|value| !is_empty(&value));
        let mut request = if own {
            document.request()?.clone()
        } else {
            Request { model: document.model().to_owned(), ..Request::default() }
        };
        request.messages.splice(..0, turns);
        let mut encoded = format.encode_request(&request, &Dialect::of(document.model()))?.body;
        let written = fields().map(|name| (*name, encoded.remove(*name).map(|v| v.to_string().into())));
        let patches: Vec<_> = written.chain([("prompt", None)]).collect();
        *document = document.rewritten(&patches)?;
        Ok(())
    }

    /// `None`: the provider keeps a prompt by this id, and is to fill it in.
    fn turns(&self, mut asked: Map<String, Value>) -> Result<Option<Vec<Message>>> {
        let wrong = |what: &str| {
            Error::invalid("prompt", format!("`prompt` is an object with id, version and variables: {what}"))
        };
        let Some(Value::String(id)) = asked.remove("id") else { return Err(wrong("its id must be a string")) };
        let Some(prompt) = self.0.get(&id) else {
            if id.starts_with(FOREIGN) {
                return Ok(None);
            }
            let message = format!("there is no prompt {id:?}; ask the gateway's operator for the names in prompts/");
            return Err(Error::invalid("prompt.id", message));
        };
        let version = match asked.remove("version") {
            None | Some(Value::Null) => &prompt.versions[prompt.current],
            Some(Value::String(name)) => prompt.version(&id, &name)?,
            Some(Value::Number(number)) => prompt.version(&id, &number.to_string())?,
            Some(_) => return Err(wrong("its version must be a string")),
        };
        let variables = match asked.remove("variables") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(wrong("its variables must be an object")),
        };
        match asked.keys().next() {
            Some(key) => Err(wrong(&format!("it has no `{key}`"))),
            None => version.render(&id, variables).map(Some),
        }
    }
}

impl Prompt {
    fn version(&self, id: &str, name: &str) -> Result<&Version> {
        self.versions.iter().find(|version| version.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.versions.iter().map(|version| version.name.as_str()).collect();
            let message = format!("the prompt {id:?} has no version {name:?}; it has {}", known.join(", "));
            Error::invalid("prompt.version", message)
        })
    }
}

impl Version {
    fn render(&self, id: &str, given: Map<String, Value>) -> Result<Vec<Message>> {
        let mut variables: BTreeMap<String, Variable> = BTreeMap::new();
        for (name, value) in self.defaults.clone().into_iter().chain(given) {
            let value = variable(value).ok_or_else(|| unsupported(&name))?;
            variables.insert(name, value);
        }
        let context = Variable::from_object(variables.clone());
        let turn = |(at, role): (usize, &Role)| {
            let mut out = Bounded(Vec::new());
            let template = self.templates.get_template(&at.to_string());
            let done = template.and_then(|template| template.render_captured_to(context.clone(), &mut out).map(drop));
            done.map_err(|error| self.told(id, at, &variables, &error))?;
            Ok(Message::text(*role, String::from_utf8_lossy(&out.0)))
        };
        self.roles.iter().enumerate().map(turn).collect()
    }

    /// What is wrong in words that hold no text of caller or template.
    fn told(&self, id: &str, at: usize, given: &BTreeMap<String, Variable>, error: &minijinja::Error) -> Error {
        let name = &self.name;
        if error.kind() == ErrorKind::UndefinedError {
            // All of them at once, whichever turn came first.
            let all = (0..self.roles.len()).filter_map(|at| self.templates.get_template(&at.to_string()).ok());
            let mut missing: Vec<String> =
                all.flat_map(|t| needed(&t)).filter(|name| !given.contains_key(name)).collect();
            missing.sort();
            missing.dedup();
            if !missing.is_empty() {
                let s = if missing.len() == 1 { "" } else { "s" };
                let message = format!(
                    "the prompt {id:?} (version {name}) needs the variable{s} {}: give it in `prompt.variables`",
                    missing.join(", ")
                );
                return Error::invalid("prompt.variables", message);
            }
        }
        let why = match error.kind() {
            ErrorKind::OutOfFuel => "it takes too long",
            ErrorKind::WriteFailure => "it becomes too long",
            ErrorKind::UndefinedError => "a variable lacks what the template reads of it",
            _ => "a variable is not of the kind that the template wants",
        };
        let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
        let message = format!("the prompt {id:?} (version {name}, turn {}{line}) cannot be filled in: {why}", at + 1);
        Error::invalid("prompt.variables", message)
    }
}

/// Variables that a template reads without asking first whether they are there.
fn needed(template: &minijinja::Template<'_, '_>) -> Vec<String> {
    let source: String =
        template.source().split_whitespace().collect::<Vec<_>>().join(" ").replace(" |", "|").replace("| ", "|");
    let asks = [" is defined", " is not defined", " is undefined", "|default", "|d("];
    let optional = |name: &String| asks.iter().any(|ask| source.contains(&format!("{name}{ask}")));
    template.undeclared_variables(false).into_iter().filter(|name| !optional(name)).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// A caller's value as templates see it: also the wrapped form of texts. `None`: media, which no template can hold.
fn variable(value: Value) -> Option<Variable> {
    Some(match value {
        Value::Null => Variable::from(()),
        Value::Bool(flag) => flag.into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) => float.into(),
            (None, None) => number.to_string().into(),
        },
        Value::String(text) => text.into(),
        Value::Array(list) => list.into_iter().map(variable).collect::<Option<Vec<_>>>()?.into(),
        Value::Object(mut map) => match map.get("type").and_then(Value::as_str) {
            Some("input_text") => match map.remove("text") {
                Some(Value::String(text)) => text.into(),
                _ => return None,
            },
            Some("input_image" | "input_file") => return None,
            _ => {
                let pairs = map.into_iter().map(|(name, value)| Some((name, variable(value)?)));
                Variable::from_object(pairs.collect::<Option<BTreeMap<String, Variable>>>()?)
            }
        },
    })
}

fn unsupported(name: &str) -> Error {
    let message =
        format!("the variable {name:?} of `prompt` must be a text, a number or a list or object of them, not media");
    Error::new(Kind::Unsupported, message)
}

/// Takes so many bytes and then fails.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_OUT {
            return Err(std::io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Of ids that one provider mints for prompts that it keeps.
const FOREIGN: &str = "pmpt_";
/// Bytes of one turn.
const MOST_OUT: usize = 1 << 20;
/// Instructions of one turn.
const FUEL: u64 = 100_000;
