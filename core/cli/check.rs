//! `portcullis check`: all mistakes at once, or what would run. Starts nothing, changes nothing.

use std::io::{self, Write};

use serde_json::json;

use crate::{
    cli::Exit,
    config::{Config, Loaded, Place, Problem, Strategy, env, read},
    provider::{self, Provider},
};

/// Read the configuration and every script, and tell each mistake with file, line and the text at fault; without
/// mistakes, print what would run. Exit code 78 when something is wrong.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// One JSON object: errors, warnings, notes, hash, stages
    #[arg(long)]
    pub json: bool,
}

const EXAMPLE: &str = "\
Example:
  portcullis check --config gateway.toml
  portcullis check --json | jq '.errors[] | \"\\(.file):\\(.line) \\(.message)\"'";

/// What reading alone cannot see: scripts that do not compile, targets that lead nowhere; and what is worth a note.
type Deeper<'a> = &'a dyn Fn(&Config) -> (Vec<Problem>, Vec<String>);

pub fn run(args: &Args, place: &Place, deeper: Deeper) -> anyhow::Result<Exit> {
    let mut loaded = read(place, &env::var, &provider::catalog_names());
    let own = loaded.problems.len();
    let (problems, notes) = deeper(&loaded.config);
    for problem in problems {
        let problem = loaded.config.place(problem);
        // A mistake already told at the same place would be told twice.
        let told = loaded.problems[..own].iter().any(|p| p.file == problem.file && p.line == problem.line);
        let gateway = loaded.config.problem("", "").file == problem.file;
        if !told && (own == 0 || !gateway) {
            loaded.problems.push(problem);
        }
    }
    let exit = if loaded.problems.is_empty() { Exit::Done } else { Exit::Config };
    let mut out = io::stdout().lock();
    match (args.json, exit) {
        (true, _) => writeln!(out, "{}", machine(&loaded, &notes))?,
        (false, Exit::Done) => write!(out, "{}", summary(&loaded, &notes))?,
        (false, _) => {
            for problem in &loaded.problems {
                writeln!(out, "{problem}\n")?;
            }
            for warning in &loaded.warnings {
                writeln!(out, "warning: {warning}")?;
            }
            let (count, s) = (loaded.problems.len(), if loaded.problems.len() == 1 { "" } else { "s" });
            writeln!(out, "{count} problem{s}")?;
        }
    }
    Ok(exit)
}

fn machine(loaded: &Loaded, notes: &[String]) -> serde_json::Value {
    json!({
        "errors": loaded.problems,
        "warnings": loaded.warnings,
        "notes": notes,
        "hash": loaded.config.hash,
        "stages": stages(&loaded.config),
    })
}

/// In pipeline order.
fn stages(config: &Config) -> Vec<&str> {
    match &config.stages {
        Some(stages) => stages.iter().map(|stage| stage.uses.as_str()).collect(),
        None => config.sources.live(),
    }
}

fn summary(loaded: &Loaded, notes: &[String]) -> String {
    let config = &loaded.config;
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let keys = if config.auth.required { "callers need a key" } else { "open: callers need no key" };
    let token = if config.admin.token.is_some() { "with a token" } else { "open to the local user" };
    let store = config.store.name();
    let (ready, waiting) = providers(config);
    let mut lines = vec![
        format!("{} is in order (hash {})", config.file.display(), config.hash),
        format!("  gateway    {scheme}://{} ({keys})", config.server.listen),
        format!("  admin      http://{} ({token})", config.admin.listen),
        format!("  store      {store}"),
        format!("  providers  ready: {}", ready.join(", ")),
    ];
    let waiting = waiting.iter().map(|(name, why)| format!("{name} ({why})")).collect::<Vec<_>>();
    lines.extend(wrapped("not configured: ", &waiting).iter().map(|line| format!("             {line}")));
    lines.extend(heads("models", models(config)));
    lines.extend(heads("organisations", config.organisations.keys().cloned().collect()));
    lines.extend(heads("teams", config.teams.keys().cloned().collect()));
    lines.extend(heads("users", config.users.keys().cloned().collect()));
    lines.extend(heads("stages", stages(config).iter().map(|s| (*s).to_owned()).collect()));
    lines.extend(heads("outside", outside(config)));
    lines.extend(notes.iter().map(|note| format!("note: {note}")));
    lines.extend(loaded.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n") + "\n"
}

/// One line an entry, the first with the section's name.
fn heads(section: &str, entries: Vec<String>) -> Vec<String> {
    let head = |n: usize| if n == 0 { section } else { "" };
    entries.iter().enumerate().map(|(n, entry)| format!("  {:<10} {entry}", head(n))).collect()
}

/// Names of those ready, and the others each with its reason (`OPENAI_API_KEY is not set`).
pub fn providers(config: &Config) -> (Vec<String>, Vec<(String, String)>) {
    let (mut ready, mut waiting) = (Vec::new(), Vec::new());
    for provider in &config.providers {
        match Provider::resolve(provider.clone()) {
            Ok(p) if p.ready() => ready.push(p.name.to_string()),
            Ok(p) => {
                let why = p.missing.as_deref().unwrap_or("no key").replace("environment variable ", "");
                waiting.push((p.name.to_string(), why));
            }
            Err(why) => waiting.push((provider.name.clone(), why)),
        }
    }
    (ready, waiting)
}

/// Comma-separated, in lines that fit a terminal; only the first has the head.
pub fn wrapped(head: &str, words: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < WIDTH => line.push_str(&format!(", {word}")),
            Some(line) => {
                line.push(',');
                lines.push(word.clone());
            }
            None => lines.push(format!("{head}{word}")),
        }
    }
    lines
}

const WIDTH: usize = 100;

fn models(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, alias) in &config.models {
        let weighted = alias.strategy == Strategy::Weighted;
        let target = |t: &crate::config::Target| match weighted {
            true => format!("{}/{} ({})", t.provider, t.model, t.weight),
            false => format!("{}/{}", t.provider, t.model),
        };
        let targets = alias.targets.iter().map(target).collect::<Vec<_>>().join(if weighted { " | " } else { " → " });
        let failover: String = alias.failover.iter().map(|next| format!(" → {next}")).collect();
        lines.push(format!("{name} = {targets}{failover}"));
    }
    lines
}

/// Scripts and plugins that lie ready but are not listed.
fn outside(config: &Config) -> Vec<String> {
    let listed = stages(config);
    let left = config.sources.live().into_iter().filter(|name| !listed.contains(name));
    left.map(|name| format!("{name} is not in the pipeline")).collect()
}
