//! Reads files of cases: every mistake with its line. What a case says of the request and the world becomes a scene, what it
//! expects stays as it was written.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{
    expect::Expect,
    fields::{Bad, Book, Fields, Read},
    told,
};
use crate::{
    auth::{self, Principal},
    config::{self, Config, Problem},
    context::Priority,
    model::{Format, Operation},
    rehearse::Scene,
    route::Own,
};

/// One case, read.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub line: u32,
    pub scene: Scene,
    /// Targets in place of whatever is asked for.
    pub own: Vec<Own>,
    pub splits: Splits,
    /// Through the whole configured pipeline, not the script alone.
    pub all_stages: bool,
    /// What stages have as their `config`, by the name of their file; empty: the one that the cases are about.
    pub config: Configs,
    pub expect: Expect,
}

/// Configurations of stages by name.
pub type Configs = BTreeMap<String, Map<String, Value>>;

/// In how many ways a case's answers are cut into events: what is expected must hold for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Splits {
    #[default]
    None,
    /// As told, a character an event, whole, and a byte a piece.
    Characters,
    /// The same, and each text in two at every place.
    Every,
}

/// Keys of a case, as they stand in the reference.
pub const CASE: &[&str] = &[
    "name",
    "request",
    "format",
    "operation",
    "context",
    "targets",
    "live",
    "spent",
    "answers",
    "splits",
    "stages",
    "config",
    "configs",
    "expect",
];
pub const CONTEXT: &[&str] = &["team", "key", "user", "roles", "models", "tags", "headers", "priority", "now", "seed"];

/// Reads a file of cases; every mistake with its line.
pub fn cases(file: &str, text: &str, config: &Config) -> Result<Vec<Case>, Vec<Problem>> {
    let told = |bad: Bad| super::problem(file, bad.line, bad.message);
    let mut table = match config::toml(text) {
        Ok(table) => table,
        Err((line, message)) => return Err(vec![super::problem(file, line, message)]),
    };
    let lines: Vec<&str> = text.lines().collect();
    // The n-th [[case]] header stands where the n-th case does.
    let heads: Vec<usize> = (0..lines.len()).filter(|n| lines[*n].trim_start().starts_with("[[case]]")).collect();
    let whole = Book { lines: &lines, first: 1 };
    let mut problems = Vec::new();
    for key in table.keys().filter(|key| *key != "case") {
        let text = format!("unknown key `{key}`: a file of cases holds [[case]] tables");
        problems.push(told(whole.bad(key, text)));
    }
    let mut cases = Vec::new();
    let list = match table.remove("case") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if list.is_empty() {
        problems.push(super::problem(file, 1, "there is no [[case]] in this file".into()));
    }
    for (at, value) in list.into_iter().enumerate() {
        let from = heads.get(at).copied().unwrap_or(0);
        let to = heads.get(at + 1).copied().unwrap_or(lines.len());
        let book = Book { lines: &lines[from..to], first: from as u32 + 1 };
        match case(value, book, config) {
            Ok(case) => cases.push(case),
            Err(bad) => problems.push(told(bad)),
        }
    }
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

fn case(value: Value, book: Book<'_>, config: &Config) -> Read<Case> {
    let mut fields = Fields::new(value, "a case", CASE, book)?;
    let name = fields.text("name")?.ok_or_else(|| book.bad("name", "a case needs a name"))?;
    let format = match fields.text("format")? {
        None => Format::OpenaiChat,
        Some(name) => {
            Format::parse(&name).ok_or_else(|| fields.wrong("format", &one_of(Format::ALL.map(Format::name))))?
        }
    };
    let operation = match fields.text("operation")?.as_deref() {
        None | Some("chat") => Operation::Chat,
        Some("embeddings") => Operation::Embeddings,
        Some("count_tokens") => Operation::CountTokens,
        Some(_) => return Err(fields.wrong("operation", "chat, embeddings or count_tokens")),
    };
    let mut scene = Scene { format, operation, ..Scene::default() };
    request(fields.table("request")?.unwrap_or_default(), &mut scene);
    if let Some(value) = fields.take("context") {
        context(Fields::new(value, "context", CONTEXT, book)?, &mut scene, config)?;
    } else {
        scene.principal = Arc::new(principal("test", None, config));
    }
    let targets = fields.list("targets")?.unwrap_or_default();
    let mut targets = targets.into_iter().map(|t| told::target(t, None, book)).collect::<Read<Vec<_>>>()?;
    let own = targets.iter().map(|(own, _)| own.clone()).collect();
    targets.extend(told::live(fields.table("live")?.unwrap_or_default(), book)?);
    for (figures, resting) in targets {
        scene.resting.extend(resting.then(|| figures.name.clone()));
        scene.live.push(figures);
    }
    for (team, value) in fields.table("spent")?.unwrap_or_default() {
        let spent = super::fields::nano(&value).map_err(|why| book.bad(&team, format!("spent.{team}: {why}")))?;
        scene.spent.insert(team, u64::try_from(spent).unwrap_or(0));
    }
    if let Some(value) = fields.take("answers") {
        scene.answers = told::answers(value, book)?;
    }
    let splits = match fields.text("splits")?.as_deref() {
        None | Some("none") => Splits::None,
        Some("characters") => Splits::Characters,
        Some("every") => Splits::Every,
        Some(_) => return Err(fields.wrong("splits", "none, characters or every")),
    };
    let all_stages = match fields.text("stages")?.as_deref() {
        None | Some("alone") => false,
        Some("all") => true,
        Some(_) => return Err(fields.wrong("stages", "alone (this file's) or all (as configured)")),
    };
    let config = configs(&mut fields, all_stages)?;
    let nothing = || book.bad("name", "a case without `expect` proves nothing");
    let expect = Expect::read(fields.take("expect").ok_or_else(nothing)?, book)?;
    if expect.is_empty() {
        return Err(nothing());
    }
    Ok(Case { name, line: book.first, scene, own, splits, all_stages, config, expect })
}

/// `config` is the own stage's; `configs` are those of others, which run with `stages = "all"` only.
fn configs(fields: &mut Fields<'_>, all_stages: bool) -> Read<Configs> {
    let mut configs: Configs = fields.table("config")?.map(|own| (String::new(), own)).into_iter().collect();
    for (name, value) in fields.table("configs")?.unwrap_or_default() {
        match value {
            Value::Object(table) if all_stages => drop(configs.insert(name, table)),
            Value::Object(_) => return Err(fields.wrong("configs", "left out without stages = \"all\"")),
            _ => return Err(fields.wrong("configs", "a table of tables, by the names of stages")),
        }
    }
    Ok(configs)
}

/// What the format needs and the case does not say is added; what its path would say is taken out of the body.
fn request(mut body: Map<String, Value>, scene: &mut Scene) {
    let model = body.get("model").and_then(Value::as_str).unwrap_or("auto").to_owned();
    if scene.operation == Operation::Embeddings {
        body.entry("model").or_insert_with(|| model.clone().into());
        if scene.format != Format::Gemini {
            body.entry("input").or_insert_with(|| "hello".into());
        }
    } else if scene.format == Format::Gemini {
        body.entry("contents").or_insert_with(|| json!([{ "role": "user", "parts": [{ "text": "hello" }] }]));
    } else if scene.format == Format::OpenaiResponses {
        body.entry("input").or_insert_with(|| "hello".into());
    } else {
        let content = match scene.format {
            Format::BedrockConverse => json!([{ "text": "hello" }]),
            _ => "hello".into(),
        };
        body.entry("messages").or_insert_with(|| json!([{ "role": "user", "content": content }]));
    }
    if scene.format == Format::AnthropicMessages && scene.operation == Operation::Chat {
        body.entry("max_tokens").or_insert_with(|| 1024.into());
    }
    if scene.format.model_in_path() {
        body.shift_remove("model");
        scene.stream = body.shift_remove("stream").and_then(|v| v.as_bool()).or(Some(false));
        scene.model = Some(model);
    } else {
        body.entry("model").or_insert_with(|| model.into());
    }
    scene.body = Value::Object(body).to_string().into();
}

fn context(mut fields: Fields<'_>, scene: &mut Scene, config: &Config) -> Read<()> {
    if let Some(now) = fields.text("now")? {
        let time: Result<jiff::Timestamp, _> = now.parse();
        scene.now =
            time.map(SystemTime::from).map_err(|_| fields.wrong("now", "a time such as 2026-01-01T00:00:00Z"))?;
    }
    scene.seed = fields.count("seed")?.unwrap_or(0);
    scene.tags = fields.pairs("tags")?;
    scene.priority = match fields.text("priority")?.as_deref() {
        None => None,
        Some(word) => Some(Priority::parse(word).ok_or_else(|| fields.wrong("priority", "low, normal or high"))?),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields.pairs("headers")? {
        let name = HeaderName::try_from(&name).map_err(|_| fields.wrong("headers", "a table of valid headers"))?;
        let value = HeaderValue::try_from(&value).map_err(|_| fields.wrong("headers", "a table of valid headers"))?;
        headers.append(name, value);
    }
    scene.headers = headers;
    let key = fields.text("key")?.unwrap_or_else(|| "test".into());
    let mut caller = principal(&key, fields.text("team")?.as_deref(), config);
    caller.user = fields.text("user")?.map(Into::into);
    caller.roles = fields.texts("roles")?.unwrap_or_default().into();
    if let Some(models) = fields.texts("models")? {
        caller = caller.with_models(models);
    }
    scene.principal = Arc::new(caller);
    Ok(())
}

/// The owner of a key of this name, bound by what the configuration says of its team.
pub fn principal(key: &str, team: Option<&str>, config: &Config) -> Principal {
    let caller = auth::member(team, config.who());
    Principal { key_id: format!("key_{key}").into(), key_name: key.into(), ..caller }
}

fn one_of<const N: usize>(names: [&str; N]) -> String {
    format!("one of {}", names.join(", "))
}
