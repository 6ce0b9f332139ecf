//! `portcullis schema`: what editors need to complete and check gateway.toml.

use std::io::{self, Write};

use crate::{cli::Exit, config::read};

/// Print the JSON Schema of gateway.toml. Editors with a TOML language server use it through a first line
/// `#:schema ./gateway.schema.json` in the file.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {}

const EXAMPLE: &str = "\
Example:
  portcullis schema > gateway.schema.json";

pub fn run() -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &read::schema()).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(Exit::Done)
}
