//! `portcullis plugin new` and `plugin build`: a crate to begin with, and the commands that make a component of it. Writes
//! one new folder and nothing else; starts no programs, so building is cargo's.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::cli::Exit;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE_NEW)]
pub struct New {
    /// Its name, and that of the folder: small letters, digits and dashes
    pub name: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE_BUILD)]
pub struct Build {
    /// The crate
    pub dir: PathBuf,
}

const EXAMPLE_NEW: &str = "\
Example:
  portcullis plugin new polite";

const EXAMPLE_BUILD: &str = "\
Example:
  portcullis plugin build polite | sh";

/// What every plugin begins with, by its place in the new folder.
const FILES: [(&str, &str); 13] = [
    ("Cargo.toml", include_str!("template/Cargo.toml")),
    ("Cargo.lock", include_str!("../../../plugins/hello/Cargo.lock")),
    (".cargo/config.toml", include_str!("template/config.toml")),
    (".gitignore", "/target\n"),
    ("src/lib.rs", include_str!("template/lib.rs")),
    ("wit/portcullis.wit", include_str!("../../../plugins/wit/portcullis.wit")),
    ("sdk/Cargo.toml", include_str!("../../../plugins/sdk/Cargo.toml")),
    ("sdk/src/lib.rs", include_str!("../../../plugins/sdk/src/lib.rs")),
    ("sdk/src/export.rs", include_str!("../../../plugins/sdk/src/export.rs")),
    ("sdk/src/phase.rs", include_str!("../../../plugins/sdk/src/phase.rs")),
    ("sdk/src/verdict.rs", include_str!("../../../plugins/sdk/src/verdict.rs")),
    ("sdk/src/wit.rs", include_str!("../../../plugins/sdk/src/wit.rs")),
    ("LICENSE-sdk", include_str!("../../../LICENSE")),
];

pub fn new(args: &New) -> anyhow::Result<Exit> {
    let name = args.name.as_str();
    if !is_name(name) {
        let wanted = "a plugin's name is of small letters, digits and dashes, and begins with a letter";
        writeln!(io::stderr(), "portcullis: {wanted}, not \"{name}\"")?;
        return Ok(Exit::Usage);
    }
    let folder = Path::new(name);
    if folder.exists() {
        writeln!(io::stderr(), "portcullis: {name} is there already")?;
        return Ok(Exit::Failed);
    }
    write(folder, name)?;
    writeln!(io::stdout(), "written: {name}/src/lib.rs, with the SDK beside it. Next:\n{}", commands(folder, name))?;
    Ok(Exit::Done)
}

pub fn build(args: &Build) -> anyhow::Result<Exit> {
    let manifest = args.dir.join("Cargo.toml");
    let text = match fs::read_to_string(&manifest) {
        Ok(text) => text,
        Err(e) => {
            writeln!(io::stderr(), "portcullis: {}: {e}", manifest.display())?;
            return Ok(Exit::Failed);
        }
    };
    let table: toml::Table = text.parse().with_context(|| format!("reading {}", manifest.display()))?;
    let name = table.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    let Some(name) = name.filter(|name| is_name(name)) else {
        writeln!(io::stderr(), "portcullis: {} names no package", manifest.display())?;
        return Ok(Exit::Failed);
    };
    writeln!(io::stdout(), "{}", commands(&args.dir, name))?;
    Ok(Exit::Done)
}

/// Writes the crate `name` into `folder`, which is not there yet.
fn write(folder: &Path, name: &str) -> anyhow::Result<()> {
    for (file, text) in FILES {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        // The lock is hello's: the same crates under another name.
        let text = match file {
            "Cargo.lock" => text
                .replace("name = \"hello\"\nversion = \"1.0.0\"", &format!("name = \"{name}\"\nversion = \"0.1.0\"")),
            "Cargo.toml" | "src/lib.rs" => text.replace("example-name", name).replace("ExampleName", &type_name(name)),
            _ => text.to_owned(),
        };
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What makes a component of it and shows what it holds.
fn commands(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    let component = format!("target/wasm32-unknown-unknown/release/{}.wasm", name.replace('-', "_"));
    format!(
        "  cd '{folder}'\n  rustup target add wasm32-unknown-unknown\n  cargo build --release\n  \
         portcullis plugin inspect {component}"
    )
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(fits) && name.len() <= 60
}

/// `say-please` → `SayPlease`.
fn type_name(name: &str) -> String {
    let upper = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    name.split(['-', '_']).map(upper).collect()
}

#[cfg(test)]
mod tests;
