//! `portcullis plugin new`: a plugin to begin with. Writes one new folder and nothing else.

use std::{
    io::{self, Write},
    path::Path,
};

use super::language::{Language, WANTED, is_name};
use crate::cli::Exit;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct New {
    /// Its name, and that of the folder: small letters, digits and dashes
    pub name: String,
    /// What it is written in
    #[arg(long, value_enum, default_value = "rust")]
    pub lang: Language,
}

const EXAMPLE: &str = "\
Example:
  portcullis plugin new polite
  portcullis plugin new --lang js polite";

pub fn new(args: &New) -> anyhow::Result<Exit> {
    let name = args.name.as_str();
    if !is_name(name) {
        writeln!(io::stderr(), "portcullis: {WANTED}, not \"{name}\"")?;
        return Ok(Exit::Usage);
    }
    let folder = Path::new(name);
    if folder.exists() {
        writeln!(io::stderr(), "portcullis: {name} is there already")?;
        return Ok(Exit::Failed);
    }
    args.lang.write(folder, name)?;
    let begins = args.lang.begins();
    writeln!(
        io::stdout(),
        "written: {name}/{begins}, with the contract beside it and cases in {name}/{name}.test.toml. Next:\n  \
         portcullis plugin build {name}\n  portcullis test {name}\n  cp {name}/{name}.wasm plugins/"
    )?;
    Ok(Exit::Done)
}
