//! `portcullis explain`: the whole decision on a request, from the files alone. Sends nothing; kv and metrics are stubs.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::{
    auth::Principal,
    cli::{Exit, caller, refuse},
    codec::{Inbound, document::Document},
    config::{Config, Place, env, read},
    context::{Context, Step, Verdict},
    error::Error,
    model::Format,
    pipeline::{Built, Candidate, build},
    plugin::Plugins,
    provider,
    route::{Health, Table},
    runtime::team_defaults,
    script::{
        Scripts,
        suite::{self, Decision, Names},
    },
};

/// Say where a request would go and which stage decided what, without sending it. Health and latencies are those of a
/// gateway that has just started.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The request's body; - or nothing reads standard input
    pub request: Option<PathBuf>,
    /// The wire format of the body: openai_chat (default), anthropic_messages, gemini, bedrock_converse, cohere or ollama
    #[arg(long, default_value = "openai_chat")]
    pub format: String,
    /// The model, for formats whose body does not name it
    #[arg(long)]
    pub model: Option<String>,
    /// Explain for a caller of this team
    #[arg(long)]
    pub team: Option<String>,
    /// Explain for the owner of this key: its id, or the key itself
    #[arg(long, conflicts_with = "team")]
    pub key: Option<String>,
    /// Look the key's id up at a running gateway, whose admin token is read from PORTCULLIS_ADMIN_TOKEN
    #[arg(long, value_name = "URL", requires = "key")]
    pub admin: Option<String>,
    /// One JSON object: targets, stages, notes, status
    #[arg(long)]
    pub json: bool,
}

const EXAMPLE: &str = "\
Example:
  echo '{\"model\": \"auto\", \"messages\": [{\"role\": \"user\", \"content\": \"draft an essay\"}]}' |
    portcullis explain
  portcullis explain --json request.json | jq .targets
  portcullis explain --key key_019a0c5e2f41b7d24c10aa93 request.json";

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    let loaded = read(place, &env::var, &provider::catalog_names());
    let scripts = Scripts::dry();
    let mut problems = loaded.problems;
    let table = Table::build(&loaded.config);
    let built = build(&loaded.config, &scripts, &Plugins::dry());
    let (table, built) = match (table, built) {
        (Ok(table), Ok(built)) if problems.is_empty() => (table, built),
        (table, built) => {
            problems.extend(table.err().into_iter().chain(built.err()).flatten());
            return Ok(refuse(&problems)?);
        }
    };
    let Some(format) = Format::parse(&args.format) else {
        writeln!(
            io::stderr(),
            "portcullis: unknown format {}; openai_chat, anthropic_messages, gemini, bedrock_converse, cohere or ollama",
            args.format
        )?;
        return Ok(Exit::Usage);
    };
    let body = body(args)?;
    let inbound = Inbound { model: args.model.as_deref(), ..Inbound::default() };
    let mut doc = match Document::new(format, body.into(), inbound) {
        Ok(doc) => doc,
        Err(error) => {
            writeln!(io::stderr(), "portcullis: the request is not valid: {}", error.message)?;
            return Ok(Exit::Failed);
        }
    };
    let principal = match &args.key {
        Some(key) => caller::of_key(key, args.admin.as_deref(), &loaded.config)?,
        None => caller::member(args.team.as_deref(), &loaded.config),
    };
    team_defaults(&loaded.config, &principal, &mut doc).map_err(|e| anyhow::anyhow!("{}", e.message))?;
    let mut cx = suite::context(&Map::new(), format).map_err(anyhow::Error::msg)?;
    cx.principal = Arc::new(principal);
    cx.now = SystemTime::now();
    cx.started = Instant::now();
    let asked = doc.model().to_owned();
    let mut chain = built.pipeline.select(&cx.principal, &asked);
    let names = Planner { table: &table, health: Health::default() };
    let decision = suite::decide(&mut chain, &mut cx, &mut doc, &names);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", machine(&asked, &decision, &cx, &built, &loaded.config))?,
        false => write!(out, "{}", human(&asked, &decision, &cx, &loaded.config))?,
    }
    Ok(Exit::Done)
}

/// Names as the running gateway resolves them.
struct Planner<'a> {
    table: &'a Table,
    health: Health,
}

impl Names for Planner<'_> {
    fn resolve(&self, name: &str, cx: &Context) -> Result<Vec<Candidate>, Error> {
        let now = Instant::now();
        let plan = self.table.plan(name, &cx.principal)?;
        Ok(plan.order(cx.seed, &self.health, now).iter().map(|t| self.health.candidate(t, now)).collect())
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

fn human(asked: &str, decision: &Decision, cx: &Context, config: &Config) -> String {
    let mut lines = vec![format!("model     {asked}")];
    lines.extend(known(&cx.principal, config));
    for step in &cx.trace.steps {
        match step {
            Step::Stage { stage, phase, verdict, took, operations } => {
                let took = took.as_micros();
                lines.push(format!(
                    "stage     {stage} ({phase}): {} [{took} µs, {operations} operations]",
                    told(verdict)
                ));
            }
            Step::Note { stage, text } => lines.push(format!("note      {stage}: {text}")),
            _ => {}
        }
    }
    if decision.model != asked {
        lines.push(format!("renamed   {}", decision.model));
    }
    if let Some(chosen) = &decision.chosen {
        lines.push(format!("chosen    {}", chosen.join(", ")));
    }
    for (at, target) in decision.targets.iter().enumerate() {
        lines.push(format!("{:<9} {}. {target}", if at == 0 { "targets" } else { "" }, at + 1));
    }
    match (decision.status, &decision.message, &decision.text) {
        (Some(status), Some(message), _) => lines.push(format!("refused   {status}: {message}")),
        (Some(_), None, Some(text)) => lines.push(format!("answered  {text}")),
        _ => {}
    }
    lines.join("\n") + "\n"
}

/// Who asks, and what follows from that.
fn known(principal: &Principal, config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let mut who = Vec::new();
    if !principal.key_id.is_empty() {
        who.push(format!("{} ({})", principal.key_id, principal.key_name));
    }
    who.extend(principal.team.as_ref().map(|team| format!("team {team}")));
    if !who.is_empty() {
        lines.push(format!("caller    {}", who.join(", ")));
    }
    for (whose, list) in [("key", &principal.key_models), ("team", &principal.team_models)] {
        lines.extend(list.as_ref().map(|list| format!("may use   {} (its {whose})", list.join(", "))));
    }
    let team = principal.team.as_deref().and_then(|team| config.teams.get(team));
    for (name, value) in team.into_iter().flat_map(|team| &team.defaults) {
        lines.push(format!("default   {name} = {value}"));
    }
    lines
}

fn told(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => "continue".into(),
        Verdict::Respond => "respond".into(),
        Verdict::Reject(status) => format!("reject {status}"),
        Verdict::Next(reason) => format!("next ({reason})"),
        Verdict::Skip => "skip".into(),
        Verdict::Stop(reason) => format!("stop ({reason})"),
        Verdict::Failed(why) => format!("failed: {why}"),
    }
}

fn machine(asked: &str, decision: &Decision, cx: &Context, built: &Built, config: &Config) -> Value {
    let who = &cx.principal;
    let team = who.team.as_deref().and_then(|team| config.teams.get(team));
    let mut steps = Vec::new();
    let mut notes = Vec::new();
    for step in &cx.trace.steps {
        match step {
            Step::Stage { stage, phase, verdict, took, operations } => steps.push(json!({
                "stage": &**stage,
                "phase": phase,
                "verdict": told(verdict),
                "micros": took.as_micros() as u64,
                "operations": operations,
            })),
            Step::Note { stage, text } => notes.push(json!({ "stage": &**stage, "text": text })),
            _ => {}
        }
    }
    json!({
        "targets": decision.targets,
        "asked": asked,
        "model": decision.model,
        "chosen": decision.chosen,
        "status": decision.status,
        "message": decision.message,
        "text": decision.text,
        "steps": steps,
        "notes": notes,
        "stages": built.listed,
        "caller": {
            "key": Some(&*who.key_id).filter(|id| !id.is_empty()),
            "name": Some(&*who.key_name).filter(|name| !name.is_empty()),
            "team": who.team.as_deref(),
            "models": who.key_models.as_deref(),
            "team_models": who.team_models.as_deref(),
            "defaults": team.map(|team| &team.defaults),
        },
    })
}

const MOST_BYTES: u64 = 32 << 20;
