//! `portcullis plugin …`: begin a plugin, build it, look into its file, measure it. What runs of a plugin here runs under
//! limits and with nothing outside in reach.

mod bench;
mod build;
mod language;
mod new;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use crate::{
    cli::Exit,
    config::{Place, sources},
    plugin::{self, Facts},
};

/// Begin a plugin, build it, look into it, measure it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write a small plugin that builds, with the contract and a test beside it, into a new folder
    New(new::New),
    /// Make a component of a plugin's folder, or say what is missing for it
    Build(build::Build),
    /// Tell what a .wasm file holds and whether it can run. Exit code 1 when it cannot
    Inspect(Inspect),
    /// Measure what a .wasm file costs here: an instance, and each of its phases
    Bench(bench::Bench),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Inspect {
    /// The component
    pub file: PathBuf,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// The stage's `config`, as a JSON object, for plugins that check it
    #[arg(long, value_name = "JSON")]
    pub with: Option<String>,
}

const EXAMPLE: &str = "\
Example:
  portcullis plugin new --lang js polite
  portcullis plugin build polite
  portcullis plugin inspect polite/polite.wasm
  portcullis plugin bench polite/polite.wasm
  portcullis plugin inspect --json my.wasm | jq .grants";

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    match &args.command {
        Command::New(args) => new::new(args),
        Command::Build(args) => build::build(args),
        Command::Inspect(args) => inspect(args),
        Command::Bench(args) => bench::bench(args, place),
    }
}

fn inspect(args: &Inspect) -> anyhow::Result<Exit> {
    let config = match args.with.as_deref().map(serde_json::from_str) {
        None => serde_json::Map::new(),
        Some(Ok(config)) => config,
        Some(Err(e)) => {
            writeln!(io::stderr(), "portcullis: --with wants a JSON object: {e}")?;
            return Ok(Exit::Usage);
        }
    };
    let name = args.file.display().to_string();
    let file = match sources::Plugin::read(&args.file) {
        Ok(file) => file,
        Err(message) => {
            writeln!(io::stderr(), "portcullis: {name} {message}")?;
            return Ok(Exit::Failed);
        }
    };
    let facts = plugin::inspect(&name, &file, config);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&facts)?)?,
        false => write!(out, "{}", told(&facts))?,
    }
    Ok(if facts.problems.is_empty() { Exit::Done } else { Exit::Failed })
}

fn told(facts: &Facts) -> String {
    let list = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let mut lines = Vec::new();
    let mut line = |head: &str, text: String| lines.push(format!("{head:<9} {text}"));
    line("file", format!("{} ({} KiB, hash {})", facts.file, facts.size.div_ceil(1024), facts.hash));
    if let (Some(name), Some(version)) = (&facts.name, &facts.version) {
        line("plugin", format!("{name} {version}"));
        line("phases", facts.phases.join(", "));
    }
    if let Some(stream) = facts.stream {
        let window = facts.window.map(|window| format!(", {window} characters held back")).unwrap_or_default();
        line("streams", format!("{stream}{window}"));
    }
    if facts.code > 0 {
        let (code, memory) = (facts.code.div_ceil(1024), facts.memory.div_ceil(1024));
        line("sizes", format!("{code} KiB of machine code; an instance begins with {memory} KiB of memory"));
    }
    if !facts.needs.is_empty() {
        line("reads", facts.needs.join(", "));
    }
    if facts.reusable {
        line("pooled", "isolation = \"pooled\" is possible".to_owned());
    }
    line("imports", list(&facts.imports));
    let quoted: Vec<String> = facts.grants.iter().map(|grant| format!("\"{grant}\"")).collect();
    line(
        "grants",
        if quoted.is_empty() { "none needed".to_owned() } else { format!("grant = [{}]", quoted.join(", ")) },
    );
    if !facts.foreign.is_empty() {
        line("foreign", format!("{} (a call of these is a trap)", list(&facts.foreign)));
    }
    for problem in &facts.problems {
        line("wrong", problem.clone());
    }
    lines.join("\n") + "\n"
}
