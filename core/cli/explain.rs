//! `portcullis explain`: the whole decision on a request, from the files alone or (`--admin`) on a running gateway's state.
//! Sends nothing to a model; every effect of a stage is a stub.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use http::Method;
use serde_json::{Map, Value, json};

use crate::{
    account::estimate::Estimates,
    admin::client::Admin,
    cli::{Exit, caller, refuse},
    config::{Place, Secret, env, read},
    explain::{Asked, World, decide, recorded, text},
    model::Format,
    pipeline::build,
    plugin::Plugins,
    prompt::Prompts,
    provider::{self, KeyRests},
    route::{Health, Table},
    script::Scripts,
};

/// Say where a request would go and who decided what, without sending it: from the files, as if the gateway had just
/// started, or with --admin as the running gateway would decide now.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The request's body; - or nothing reads standard input
    pub request: Option<PathBuf>,
    /// The wire format of the body: openai_chat (default), openai_responses, anthropic_messages, gemini, bedrock_converse, cohere
    /// or ollama
    #[arg(long, default_value = "openai_chat")]
    pub format: String,
    /// The model, for formats whose body does not name it
    #[arg(long)]
    pub model: Option<String>,
    /// Explain for a caller of this team
    #[arg(long)]
    pub team: Option<String>,
    /// Explain for the owner of this key: its id or, for a stopped gateway, the key itself
    #[arg(long, conflicts_with = "team")]
    pub key: Option<String>,
    /// The caller's user
    #[arg(long)]
    pub user: Option<String>,
    /// The same seed draws the same target by weight
    #[arg(long)]
    pub seed: Option<u64>,
    /// Ask a running gateway: live health, limits, budgets. Its admin token is read from PORTCULLIS_ADMIN_TOKEN
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// Show the decision of a request that a running gateway has answered, by its x-request-id
    #[arg(long, value_name = "ID", requires = "admin", conflicts_with_all = ["request", "key", "team", "user", "model", "seed"])]
    pub record: Option<String>,
    /// One JSON object, as when the output is no terminal: targets, candidates, limits, budget, stages, cost, trace
    #[arg(long)]
    pub json: bool,
    /// Text for people, also where the output is no terminal
    #[arg(long, conflicts_with = "json")]
    pub text: bool,
}

const EXAMPLE: &str = "\
Example:
  echo '{\"model\": \"auto\", \"messages\": [{\"role\": \"user\", \"content\": \"draft an essay\"}]}' |
    portcullis explain --text
  portcullis explain --json request.json | jq .targets
  portcullis explain --admin http://127.0.0.1:8081 --key key_019a0c5e2f41b7d24c10aa93 request.json
  portcullis explain --admin http://127.0.0.1:8081 --record req_019a0c5e2f4170008d1c0b4f0d5c1f7e";

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    let Some(format) = Format::parse(&args.format) else {
        let known = Format::ALL.map(Format::name).join(", ");
        writeln!(io::stderr(), "portcullis: unknown format {}; there are {known}", args.format)?;
        return Ok(Exit::Usage);
    };
    let told = match (&args.admin, &args.record) {
        (Some(url), Some(id)) => recorded(&ask(url, Method::GET, &format!("/api/v1/requests/{}", plain(id)), None)?),
        (Some(url), None) => remote(args, url)?,
        (None, _) => match local(args, place, format)? {
            Ok(told) => told,
            Err(exit) => return Ok(exit),
        },
    };
    let mut out = io::stdout().lock();
    let people = args.text || (!args.json && out.is_terminal());
    match people {
        true => write!(out, "{}", text(&told))?,
        false => writeln!(out, "{told}")?,
    }
    Ok(Exit::Done)
}

/// As the gateway that runs would decide.
fn remote(args: &Args, url: &str) -> anyhow::Result<Value> {
    if args.key.as_deref().is_some_and(caller::is_secret) {
        bail!("a running gateway finds keys by their id only: `portcullis keys list --admin {url}` shows it");
    }
    let request: Value = serde_json::from_slice(&body(args)?).context("the request is not valid: it is not JSON")?;
    let mut asked = Map::from_iter([("request".to_owned(), request), ("format".to_owned(), json!(args.format))]);
    for (key, value) in [("model", &args.model), ("team", &args.team), ("key", &args.key), ("user", &args.user)] {
        asked.extend(value.as_ref().map(|value| (key.to_owned(), json!(value))));
    }
    asked.extend(args.seed.map(|seed| ("seed".to_owned(), json!(seed))));
    ask(url, Method::POST, "/api/v1/explain", Some(&Value::Object(asked)))
}

fn ask(url: &str, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    let admin = Admin::new(url, token).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(admin.call(method, path, body)).map_err(anyhow::Error::msg)
}

/// An id as a path's segment.
fn plain(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// As a gateway that has just started with these files would decide.
fn local(args: &Args, place: &Place, format: Format) -> anyhow::Result<Result<Value, Exit>> {
    let loaded = read(place, &env::var, &provider::catalog_names());
    let mut problems = loaded.problems;
    let table = Table::build(&loaded.config);
    let built = build(&loaded.config, &Scripts::dry(), &Plugins::dry());
    let prompts = Prompts::build(&loaded.config.sources);
    let (table, built, prompts) = match (table, built, prompts) {
        (Ok(table), Ok(built), Ok(prompts)) if problems.is_empty() => (table, built, prompts),
        (table, built, prompts) => {
            problems.extend(table.err().into_iter().chain(built.err()).chain(prompts.err()).flatten());
            return Ok(Err(refuse(&problems)?));
        }
    };
    let mut principal = match &args.key {
        Some(key) => caller::of_key(key, &loaded.config)?,
        None => crate::auth::member(args.team.as_deref(), loaded.config.who()),
    };
    principal.user = args.user.as_deref().map(Into::into);
    let mut asked = Asked::chat(format, body(args)?.into());
    (asked.model, asked.seed, asked.principal) = (args.model.clone(), args.seed, Arc::new(principal));
    let (health, keys, estimates) = (Health::default(), KeyRests::default(), Estimates::default());
    let world = World {
        config: &loaded.config,
        routes: &table,
        pipeline: &built.pipeline,
        prompts: &prompts,
        health: &health,
        keys: &keys,
        limits: None,
        queues: None,
        estimates: &estimates,
        waits: None,
        stored: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(decide(&world, asked)) {
        Ok(decision) => Ok(Ok(decision.json())),
        Err(error) => Err(anyhow!("the request is not valid: {}", error.message)),
    }
}

fn body(args: &Args) -> anyhow::Result<Vec<u8>> {
    match args.request.as_deref().filter(|path| path.as_os_str() != "-") {
        Some(path) => std::fs::read(path).with_context(|| format!("{} cannot be read", path.display())),
        None => {
            let mut body = Vec::new();
            io::stdin().lock().take(MOST_BYTES).read_to_end(&mut body).context("standard input cannot be read")?;
            Ok(body)
        }
    }
}

const MOST_BYTES: u64 = 32 << 20;
