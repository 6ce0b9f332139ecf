//! `portcullis repl`: a script's words on one request, line by line, from a terminal or a pipe. Starts nothing, sends
//! nothing.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::{
    cli::{Exit, replay},
    codec::{Inbound, document::Document},
    config::{Place, env, read},
    model::Format,
    provider,
    script::{
        repl::{Repl, Told},
        suite::{self, candidate},
    },
};

/// Try what scripts can do, on a request: `request`, `context` and `targets` are as in a script's hooks, and so are all
/// functions. One expression a line; a line that is not complete goes on in the next.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// A file with a request's body, or with `{"request": …, "context": …, "format": …}` as in a *.test.toml; default: a small
    /// question
    pub request: Option<PathBuf>,
    /// A request that the gateway has answered, by its id, from its records: as it was said where `records.bodies` kept it, else
    /// one of the same facts
    #[arg(long, value_name = "ID", requires = "records", conflicts_with = "request")]
    pub record: Option<String>,
    /// The gateway's records: data/records, the data directory, or one file of it
    #[arg(long, value_name = "PATH", requires = "record")]
    pub records: Option<PathBuf>,
    /// The master key that opens bodies. Default: master.key beside the folder of records
    #[arg(long, value_name = "FILE", requires = "record")]
    pub master_key: Option<PathBuf>,
    /// The wire format of the body: openai_chat (default), openai_responses, anthropic_messages, gemini, bedrock_converse,
    /// cohere or ollama
    #[arg(long)]
    pub format: Option<String>,
    /// The model, for formats whose body does not name it
    #[arg(long)]
    pub model: Option<String>,
    /// The caller's team
    #[arg(long)]
    pub team: Option<String>,
    /// Take `context.config` from the [[stages]] entry of this script
    #[arg(long, value_name = "SCRIPT")]
    pub stage: Option<String>,
}

const EXAMPLE: &str = "\
Example:
  portcullis repl request.json
  portcullis repl --records data/records --record req_0198a1b2c3d4…
  echo 'tokens(request.last_user_text)' | portcullis repl request.json --team research

Commands: :request (the request as it is now), :help, :quit. Models are not asked: ask(…) gives \"\".";

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    let config = read(place, &env::var, &provider::catalog_names()).config;
    let settings = match &args.stage {
        None => Map::new(),
        Some(name) => match config.stages.iter().flatten().find(|stage| stage.uses == *name) {
            Some(stage) => stage.config.clone(),
            None => anyhow::bail!("there is no [[stages]] entry that uses {name}"),
        },
    };
    let Given { body, context, format } = given(args)?;
    let mut cx = suite::context(&context, format).map_err(anyhow::Error::msg)?;
    // Times are shown as they pass.
    cx.started = std::time::Instant::now();
    let path_model = args.model.as_deref().or_else(|| body["model"].as_str()).filter(|_| format.model_in_path());
    let inbound = Inbound { model: path_model, ..Inbound::default() };
    let doc = Document::new(format, body.to_string().into(), inbound);
    let doc = doc.map_err(|error| anyhow::anyhow!("the request is not valid: {}", error.message))?;
    // As the file has them, whether their providers have keys here or not.
    let named = |target: &crate::config::Target| candidate(&format!("{}/{}", target.provider, target.model));
    let alias = config.models.get(doc.model());
    let targets = alias.map_or_else(|| vec![candidate(doc.model())], |a| a.targets.iter().map(named).collect());
    let mut repl = Repl::new(&config.sources, settings, cx, doc);
    repl.targets(targets);
    talk(&mut repl)
}

/// A request, its format, and what is known of its caller.
struct Given {
    body: Value,
    context: Map<String, Value>,
    format: Format,
}

fn given(args: &Args) -> anyhow::Result<Given> {
    if let (Some(records), Some(id)) = (&args.records, &args.record) {
        return record(records, id, args);
    }
    let small = json!({"model": "auto", "messages": [{"role": "user", "content": "When is high water?"}]});
    let mut file = match &args.request {
        None => small,
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?
        }
    };
    let mut context = Map::new();
    let mut format = args.format.clone();
    if let Some(body) = file.get_mut("request").map(Value::take).filter(Value::is_object) {
        context = file["context"].as_object().cloned().unwrap_or_default();
        format = format.or_else(|| file["format"].as_str().map(str::to_owned));
        file = body;
    }
    if let Some(team) = &args.team {
        context.insert("team".to_owned(), team.as_str().into());
    }
    let name = format.as_deref().unwrap_or(Format::OpenaiChat.name());
    let format = Format::parse(name).with_context(|| format!("there is no format {name:?}"))?;
    Ok(Given { body: file, context, format })
}

fn record(records: &Path, id: &str, args: &Args) -> anyhow::Result<Given> {
    let (row, body) = replay::recorded(records, id, args.master_key.as_deref())?;
    let format = row["format"].as_str().and_then(Format::parse).context("the record's format is unknown")?;
    let mut context = Map::new();
    for (from, to) in [("team", "team"), ("key_id", "key")] {
        if let Some(text) = row[from].as_str() {
            context.insert(to.to_owned(), text.strip_prefix("key_").unwrap_or(text).into());
        }
    }
    context.insert("tags".to_owned(), row["tags"].clone());
    if let Some(team) = &args.team {
        context.insert("team".to_owned(), team.as_str().into());
    }
    // Where the path names the model, the body need not.
    let mut body = body;
    if let Some(map) = body.as_object_mut().filter(|map| !map.contains_key("model")) {
        map.insert("model".to_owned(), row["model"].clone());
    }
    Ok(Given { body, context, format })
}

fn talk(repl: &mut Repl) -> anyhow::Result<Exit> {
    let (mut out, terminal) = (io::stdout(), io::stdin().is_terminal());
    let mut failed = false;
    let mut prompt = "> ";
    loop {
        if terminal {
            write!(out, "{prompt}")?;
            out.flush()?;
        }
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            break;
        }
        prompt = "> ";
        let told = match line.trim() {
            ":quit" | ":q" => break,
            ":help" => Told::Value(HELP.to_owned()),
            ":request" => repl.line(SHOWN),
            line => repl.line(line),
        };
        for note in repl.notes() {
            writeln!(out, "note: {note}")?;
        }
        match told {
            Told::Value(text) => writeln!(out, "{text}")?,
            Told::Nothing => {}
            Told::More => prompt = ". ",
            Told::Error(text) => {
                failed = true;
                writeln!(io::stderr(), "error: {text}")?;
            }
        }
    }
    // A pipe is a script that must not fail unseen; at a terminal a slip is nothing.
    Ok(if failed && !terminal { Exit::Failed } else { Exit::Done })
}

const HELP: &str = "\
request, context, targets: as in a script's hooks (scripts/README.md)
:request    the request's fields as they are now
:quit       leave (also: end of input)";

/// The fields as a map.
const SHOWN: &str = "#{ model: request.model, system: request.system, messages: request.messages.map(|m| #{ role: m.role, text: m.text }), \
                     temperature: request.temperature, max_tokens: request.max_tokens, tools: request.tools.len(), \
                     stream: request.stream, input_tokens: request.input_tokens }";
