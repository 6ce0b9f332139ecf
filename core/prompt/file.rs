//! `prompts/NAME.toml`: reads the files and compiles their templates; every mistake with its line. Fills nothing in.

use std::{collections::BTreeMap, sync::Arc};

use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};

use super::{FUEL, Prompt, Version};
use crate::{
    config::{self, Problem},
    model::Role,
};

pub fn read(files: &BTreeMap<String, Arc<str>>) -> Result<BTreeMap<String, Prompt>, Vec<Problem>> {
    let (mut prompts, mut problems) = (BTreeMap::new(), Vec::new());
    for (file, text) in files {
        let id = file.strip_prefix("prompts/").and_then(|name| name.strip_suffix(".toml")).unwrap_or(file);
        match prompt(file, text) {
            Ok(prompt) => drop(prompts.insert(id.to_owned(), prompt)),
            Err(mut found) => problems.append(&mut found),
        }
    }
    if problems.is_empty() { Ok(prompts) } else { Err(problems) }
}

fn prompt(file: &str, text: &str) -> Result<Prompt, Vec<Problem>> {
    let problem = |line: u32, message: String| Problem { file: file.to_owned(), line, message, excerpt: None };
    let mut table = config::toml(text).map_err(|(line, message)| vec![problem(line, message)])?;
    // The n-th [[version]] header stands where the n-th version does.
    let lines: Vec<u32> =
        (1..).zip(text.lines()).filter(|(_, l)| l.trim_start().starts_with("[[version]]")).map(|(n, _)| n).collect();
    let Some(Value::Array(list)) = table.remove("version").filter(|v| v.as_array().is_some_and(|l| !l.is_empty()))
    else {
        return Err(vec![problem(1, "there is no [[version]] in this file: one holds a name and turns".into())]);
    };
    let (mut versions, mut problems): (Vec<Version>, Vec<Problem>) = (Vec::new(), Vec::new());
    for (at, value) in list.into_iter().enumerate() {
        let line = lines.get(at).copied().unwrap_or(1);
        match version(value) {
            Ok(new) if versions.iter().any(|old| old.name == new.name) => {
                problems.push(problem(line, format!("there are two versions {:?}", new.name)));
            }
            Ok(new) => versions.push(new),
            Err(message) => problems.push(problem(line, message)),
        }
    }
    let current = match table.remove("current") {
        None => versions.len().saturating_sub(1),
        Some(value) => match versions.iter().position(|version| Some(version.name.as_str()) == value.as_str()) {
            Some(at) => at,
            None => {
                problems.push(problem(1, format!("current = {value} names no version of this file")));
                0
            }
        },
    };
    for key in table.keys() {
        problems.push(problem(1, format!("unknown key `{key}`: a prompt has `current` and [[version]] tables")));
    }
    if problems.is_empty() { Ok(Prompt { current, versions }) } else { Err(problems) }
}

fn version(value: Value) -> Result<Version, String> {
    let Value::Object(mut map) = value else { return Err("a version is a table".into()) };
    const KEYS: [&str; 5] = ["name", "system", "user", "messages", "variables"];
    if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("a version has no `{key}`; it has {}", KEYS.join(", ")));
    }
    let Some(Value::String(name)) = map.remove("name") else {
        return Err("a version needs a name, such as \"1\"".into());
    };
    let defaults = match map.remove("variables") {
        None => Map::new(),
        Some(Value::Object(variables)) => variables,
        Some(_) => return Err("variables must be a table: what a caller need not give".into()),
    };
    let mut turns = Vec::new();
    for (key, role) in [("system", Role::System), ("user", Role::User)] {
        match map.remove(key) {
            None => {}
            Some(Value::String(text)) => turns.push((role, text)),
            Some(_) => return Err(format!("{key} must be a text")),
        }
    }
    match map.remove("messages") {
        None => {}
        Some(Value::Array(list)) => {
            // `user` stands last: what comes before it is in `messages`.
            let at = turns.iter().position(|(role, _)| *role == Role::User).unwrap_or(turns.len());
            let more = list.iter().map(turn).collect::<Result<Vec<_>, _>>()?;
            turns.splice(at..at, more);
        }
        Some(_) => return Err("messages must be an array of tables with role and content".into()),
    }
    if turns.is_empty() {
        return Err("a version needs system, user or messages".into());
    }
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.set_fuel(Some(FUEL));
    let mut roles = Vec::new();
    for (at, (role, text)) in turns.into_iter().enumerate() {
        templates.add_template_owned(at.to_string(), text).map_err(|error| {
            let line = error.line().map_or(String::new(), |line| format!(" in its line {line}"));
            format!("turn {} is no template{line}: {}", at + 1, error.detail().unwrap_or("it cannot be read"))
        })?;
        roles.push(role);
    }
    Ok(Version { name, roles, templates, defaults })
}

fn turn(value: &Value) -> Result<(Role, String), String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let (Some(role), Some(content)) = (text("role"), text("content")) else {
        return Err("a message has a role and a content".into());
    };
    let role = match role {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return Err("a message's role is system, developer, user or assistant".into()),
    };
    Ok((role, content.to_owned()))
}
