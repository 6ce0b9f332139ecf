//! `portcullis catalogue import`: a collection of prices that somebody else keeps, brought into the normal form, after a look
//! at what it would change. Fetches nothing: the user downloads, this reads.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use clap::{Subcommand, ValueEnum};

use self::draft::Draft;
pub use self::draft::Entry;
use crate::{
    account::catalog,
    cli::Exit,
    config::{Catalogue, Place, env, read},
    provider,
};

mod diff;
mod draft;
mod genai_prices;
mod litellm;
mod models_dev;
mod names;
#[cfg(test)]
mod tests;

/// Prices and limits of models, from collections that others keep.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a downloaded collection into the form that `catalogue.file` takes, and say what would change
    Import(Import),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
struct Import {
    /// Who wrote the file
    #[arg(long, value_enum)]
    from: From,
    /// The downloaded file
    file: PathBuf,
    /// Where to write. Default: what `catalogue.file` names, else catalogue.toml beside gateway.toml
    #[arg(long)]
    out: Option<PathBuf>,
    /// The collection's version, as its keeper names it
    #[arg(long, default_value = "")]
    source_version: String,
    /// From when its prices hold. Default: today
    #[arg(long, value_name = "YYYY-MM-DD")]
    effective: Option<String>,
    /// Also write prices that are more than ten times, or less than a tenth of, what they were
    #[arg(long)]
    force: bool,
    /// Say what would change and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// model_prices_and_context_window.json
    #[value(name = "litellm")]
    LiteLlm,
    /// data.json
    GenaiPrices,
    /// api.json
    #[value(name = "models.dev")]
    ModelsDev,
}

impl From {
    fn name(self) -> &'static str {
        match self {
            From::LiteLlm => "litellm",
            From::GenaiPrices => "genai-prices",
            From::ModelsDev => "models.dev",
        }
    }
}

const EXAMPLE: &str = "\
Example:
  portcullis catalogue import --from litellm model_prices_and_context_window.json --dry-run
  portcullis catalogue import --from genai-prices data.json --source-version 0.2.3
  echo '[catalogue]\nfile = \"catalogue.toml\"' >> gateway.toml";

pub fn run(args: &Args, place: &Place) -> anyhow::Result<Exit> {
    let Command::Import(import) = &args.command;
    let today: String = jiff::Timestamp::now().to_string().chars().take(10).collect();
    let effective = import.effective.clone().unwrap_or(today);
    if effective.parse::<jiff::civil::Date>().is_err() {
        writeln!(io::stderr(), "portcullis: --effective wants a date such as 2026-11-26")?;
        return Ok(Exit::Usage);
    }
    let bytes = std::fs::read(&import.file).map_err(|e| anyhow::anyhow!("{}: {e}", import.file.display()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| anyhow::anyhow!("{}: not a text", import.file.display()))?;
    let draft =
        drafted(import.from, text, &effective).map_err(|e| anyhow::anyhow!("{}: {e}", import.file.display()))?;
    let sha256 = digest(&SHA256, &bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let (source, source_version) = (import.from.name().to_owned(), import.source_version.clone());
    let made = Catalogue { source, source_version, sha256, effective, rows: draft.rows() };
    let loaded = read(place, &env::var, &provider::catalog_names());
    let changes = diff::between(&loaded.config.catalogue, &catalog::built_in(), &made);
    let mut out = io::stdout().lock();
    write!(out, "{}{}", draft.told(), changes.told())?;
    if made.rows.is_empty() {
        writeln!(io::stderr(), "portcullis: nothing in it could be used; is it a file of {}?", import.from.name())?;
        return Ok(Exit::Failed);
    }
    if !changes.jumps.is_empty() && !import.force {
        writeln!(io::stderr(), "portcullis: nothing was written: --force takes prices that jump so far")?;
        return Ok(Exit::Failed);
    }
    let path = target(import.out.as_deref(), place);
    if import.dry_run {
        writeln!(out, "nothing was written; {} would be", path.display())?;
        return Ok(Exit::Done);
    }
    replace(&path, &made.write())?;
    writeln!(out, "{} written", path.display())?;
    Ok(Exit::Done)
}

/// A price under LiteLLM's word for it, into an entry. `None`: the word means no price that is counted here.
pub fn litellm_price(entry: &mut Entry, key: &str, value: &serde_json::Value) -> Option<Result<(), String>> {
    let said = litellm::grammar(key, "")?;
    Some(match value {
        serde_json::Value::Number(price) => entry.price(said.key, said.service, said.above, price, said.shift),
        _ => Err(format!("{key} is no price")),
    })
}

fn drafted(from: From, text: &str, effective: &str) -> Result<Draft, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
    match from {
        From::LiteLlm => litellm::read(value),
        From::GenaiPrices => genai_prices::read(value, effective),
        From::ModelsDev => models_dev::read(value),
    }
}

/// Beside gateway.toml, so that it is found from there.
fn target(out: Option<&Path>, place: &Place) -> PathBuf {
    if let Some(out) = out {
        return out.to_owned();
    }
    let (root, file) = match place {
        Place::File(file) => (file.parent().unwrap_or(Path::new("")).to_owned(), std::fs::read_to_string(file).ok()),
        Place::BuiltIn(root) => (root.clone(), None),
    };
    let named = file.and_then(|text| text.parse::<toml::Table>().ok());
    let named = named.and_then(|table| Some(table.get("catalogue")?.get("file")?.as_str()?.to_owned()));
    root.join(named.unwrap_or_else(|| "catalogue.toml".to_owned()))
}

/// Whole or not at all: a gateway may be reading it.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("toml.new");
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}
