//! `portcullis plugin bench`: what a plugin costs on this machine, call by call, under the limits and with the settings that
//! gateway.toml has for it. Sends nothing and keeps nothing.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    cli::Exit,
    config::{Config, Isolation, Place, Stage, env, read, sources},
    model::Format,
    pipeline::{Phase, phase::TABLE},
    plugin::{self, Figures, Loaded, Plugins},
    provider,
    script::suite,
};

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Bench {
    /// The component
    pub file: PathBuf,
    /// A request's body as a JSON file; default: one user turn of --size
    #[arg(long, value_name = "FILE")]
    pub request: Option<PathBuf>,
    /// The format that the request is in
    #[arg(long, default_value = "openai_chat")]
    pub format: String,
    /// Bytes of text in the request, and in the answer: 500, 2k, 1m
    #[arg(long, default_value = "2k", value_parser = size)]
    pub size: usize,
    /// One phase alone: request, route, attempt, event, response, error, log
    #[arg(long)]
    pub phase: Option<String>,
    /// How many requests; after ten seconds it is enough in any case
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// The stage's `config`, as a JSON object, in the place of gateway.toml's
    #[arg(long, value_name = "JSON")]
    pub with: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

const EXAMPLE: &str = "\
Example:
  portcullis plugin bench plugins/redact/redact.wasm
  portcullis plugin bench --size 100k --json polite/polite.wasm | jq '.steps[] | {step, p50_us}'";

/// What was measured, on what.
struct Measured {
    loaded: Arc<Loaded>,
    stage: Stage,
    compiled: Duration,
    body: usize,
    figures: Figures,
}

pub fn bench(args: &Bench, place: &Place) -> anyhow::Result<Exit> {
    let measured = match measure(args, place) {
        Ok(measured) => measured,
        Err(message) => {
            writeln!(io::stderr(), "portcullis: {message}")?;
            return Ok(Exit::Failed);
        }
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", machine(args, &measured))?,
        false => write!(out, "{}", human(args, &measured))?,
    }
    Ok(if measured.figures.steps.iter().any(|step| step.failed > 0) { Exit::Failed } else { Exit::Done })
}

fn measure(args: &Bench, place: &Place) -> Result<Measured, String> {
    let config = read(place, &env::var, &provider::catalog_names()).config;
    let shown = args.file.display();
    let file = sources::Plugin::read(&args.file).map_err(|e| format!("{shown} {e}"))?;
    let mut stage = listed(&config, &args.file);
    if let Some(with) = &args.with {
        stage.config = serde_json::from_str(with).map_err(|e| format!("--with wants a JSON object: {e}"))?;
    }
    let begun = Instant::now();
    let loaded = Plugins::dry().load(&stage, &file).map_err(|e| format!("{shown} {e}"))?;
    let compiled = begun.elapsed();
    let format = Format::parse(&args.format).ok_or_else(|| format!("there is no format {:?}", args.format))?;
    let body = match &args.request {
        Some(path) => std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?,
        None if format == Format::OpenaiChat => {
            let turn = json!({"role": "user", "content": prose(args.size)});
            json!({"model": "mock", "messages": [turn]}).to_string().into_bytes()
        }
        None => return Err(format!("a request in the format {} comes with --request FILE", args.format)),
    };
    let only = args.phase.as_deref().map(|name| phase(&loaded, name)).transpose()?;
    let load = plugin::Load {
        body: body.into(),
        format,
        context: &|| suite::context(&serde_json::Map::new(), format),
        answer: prose(args.size),
        only,
        requests: args.rounds,
        time: ENOUGH,
    };
    let body = load.body.len();
    let figures = plugin::bench(&loaded, &load).map_err(|e| format!("the request is not valid: {}", e.message))?;
    Ok(Measured { loaded, stage, compiled, body, figures })
}

fn phase(loaded: &Loaded, name: &str) -> Result<Phase, String> {
    let found = TABLE.iter().find(|row| row.name == name).map(|row| row.phase);
    let wanted = found.filter(|phase| loaded.described.phases.has(*phase));
    wanted.ok_or_else(|| {
        let has = loaded.described.phase_names().join(", ");
        format!("{} has no phase {name:?}; it has {has}", loaded.described.name)
    })
}

/// As gateway.toml has it, or with every grant and no configuration.
fn listed(config: &Config, file: &Path) -> Stage {
    let full = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let uses = full.strip_prefix(&config.root).unwrap_or(file).to_string_lossy().into_owned();
    let listed = config.stages.iter().flatten().find(|stage| stage.uses == uses).cloned();
    listed.unwrap_or_else(|| Stage { grant: plugin::all_grants(), ..Stage::automatic(&uses) })
}

fn human(args: &Bench, measured: &Measured) -> String {
    let Measured { loaded, stage, compiled, body, figures } = measured;
    let described = &loaded.described;
    let isolation = isolation(stage);
    let mut lines = vec![
        format!("plugin    {} {} ({})", described.name, described.version, args.file.display()),
        format!(
            "loaded    {} of component, {} of code, in {:.1} ms",
            bytes(loaded.program.size),
            bytes(loaded.program.code),
            compiled.as_secs_f64() * 1e3
        ),
        format!("request   {}, {}; isolation = \"{isolation}\"", args.format, bytes(*body as u64)),
        format!("cost      {:.1} µs of processor time a request, over {} requests\n", figures.cpu_us, figures.requests),
        format!("{:<9} {:>8} {:>10} {:>10} {:>9} {:>9}  verdict", "step", "calls", "p50 µs", "p99 µs", "memory", "out"),
    ];
    for step in &figures.steps {
        let out = if step.out == 0 { "-".to_owned() } else { bytes(step.out) };
        lines.push(format!(
            "{:<9} {:>8} {:>10.2} {:>10.2} {:>9} {:>9}  {}",
            step.step,
            step.calls,
            step.p50_us,
            step.p99_us,
            bytes(step.memory),
            out,
            step.verdict
        ));
    }
    for step in figures.steps.iter().filter(|step| step.failed > 0) {
        let fault = step.fault.as_deref().unwrap_or_default();
        lines.push(format!("failed    {} of {}: {fault}", step.failed, step.calls));
    }
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end_matches(' ')).collect();
    lines.join("\n") + "\n"
}

fn machine(args: &Bench, measured: &Measured) -> serde_json::Value {
    let Measured { loaded, stage, compiled, body, figures } = measured;
    json!({
        "file": args.file.display().to_string(),
        "name": loaded.described.name,
        "version": loaded.described.version,
        "size": loaded.program.size,
        "code": loaded.program.code,
        "load_ms": (compiled.as_secs_f64() * 1e4).round() / 10.0,
        "isolation": isolation(stage),
        "body": body,
        "requests": figures.requests,
        "cpu_us": figures.cpu_us,
        "steps": figures.steps,
    })
}

fn isolation(stage: &Stage) -> &'static str {
    match stage.isolation {
        Isolation::Request => "request",
        Isolation::Pooled => "pooled",
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count.div_ceil(1024)),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// Words with something in them that guards look at.
fn prose(size: usize) -> String {
    const WORDS: &str = "Write to anna@example.com or ask whoever is at the desk when the tide turns, please. ";
    WORDS.chars().cycle().take(size).collect()
}

/// `2k`.
fn size(text: &str) -> Result<usize, String> {
    let text = text.to_ascii_lowercase();
    let (digits, unit) = match text.trim_end_matches(['i', 'b']) {
        t if t.ends_with('k') => (&t[..t.len() - 1], 1 << 10),
        t if t.ends_with('m') => (&t[..t.len() - 1], 1 << 20),
        t => (t, 1),
    };
    let wrong = || format!("a size such as 500, 2k or 1m, up to {} MiB", MOST >> 20);
    let count: usize = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(unit).filter(|size| *size <= MOST).ok_or_else(wrong)
}

/// As many bytes as a gateway takes by default.
const MOST: usize = 32 << 20;
const ENOUGH: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
