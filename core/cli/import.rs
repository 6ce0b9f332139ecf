//! `portcullis import`: another gateway's configuration as a gateway.toml on standard output, and a finding a field on
//! standard error. Reads one file, writes none, and never prints a secret.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::ValueEnum;
use serde_json::Value;

use self::draft::Draft;
use crate::cli::Exit;

mod draft;
mod litellm;
mod portkey;
#[cfg(test)]
mod tests;
mod upstreams;

/// Turn another gateway's configuration into a gateway.toml, and say field by field what became of it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Whose configuration it is
    #[arg(value_enum)]
    from: From,
    /// LiteLLM's config.yaml, or a Portkey config in JSON
    file: PathBuf,
    /// The public name of what a Portkey config describes: it has none of its own
    #[arg(long, default_value = "main")]
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    #[value(name = "litellm")]
    LiteLlm,
    Portkey,
}

const EXAMPLE: &str = "\
Example:
  portcullis import litellm config.yaml > gateway.toml
  portcullis import portkey config.json --name smart > gateway.toml 2> findings.txt
  portcullis check";

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?;
    let draft = drafted(args.from, &text, &args.name).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?;
    write!(io::stderr(), "{}", draft.findings())?;
    write!(io::stdout(), "{}", draft.toml())?;
    Ok(Exit::Done)
}

/// Errors hold no line of the file: it may have a secret on it.
fn drafted(from: From, text: &str, name: &str) -> Result<Draft, String> {
    match from {
        From::LiteLlm => {
            let value: Value = serde_saphyr::from_str(text).map_err(|e| match e.location() {
                Some(at) => format!("not valid YAML (line {}, column {})", at.line(), at.column()),
                None => "not valid YAML".to_owned(),
            })?;
            litellm::read(&value)
        }
        From::Portkey => {
            let value: Value = serde_json::from_str(text)
                .map_err(|e| format!("not valid JSON (line {}, column {})", e.line(), e.column()))?;
            portkey::read(&value, name)
        }
    }
}
