//! `portcullis plugin build`: makes a component of a plugin's folder with the tools of its language. The one place that
//! starts programs: they are the developer's own compilers, on the developer's own sources. It fetches nothing unless it is
//! told to; what is missing it names, with the commands that bring it.

mod javascript;
mod python;
mod rust;

use std::{
    ffi::OsStr,
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use super::language::Language;
use crate::cli::Exit;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Build {
    /// The plugin's folder
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Where the component goes. Default: NAME.wasm in the plugin's folder
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Fetch what is missing with rustup, npm or pip: into the toolchain, or into the plugin's folder
    #[arg(long)]
    pub install: bool,
}

const EXAMPLE: &str = "\
Example:
  portcullis plugin build polite
  portcullis plugin build polite --output plugins/10-polite.wasm";

/// Why there is no component.
#[derive(Debug)]
pub enum Failed {
    /// A tool is missing, and how to get it.
    Missing(Missing),
    /// A tool said why, above.
    Tool(String),
    Other(anyhow::Error),
}

#[derive(Debug, PartialEq)]
pub struct Missing {
    /// "the target … is missing".
    what: String,
    /// Programs with their arguments, to be run in the plugin's folder, in order. Empty: only a person can.
    get: Vec<Vec<String>>,
    /// What else there is to say.
    hint: String,
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Failed::Other(error)
    }
}

impl From<Missing> for Failed {
    fn from(missing: Missing) -> Self {
        Failed::Missing(missing)
    }
}

/// A plugin's folder, and where its component is to be. Both absolute.
pub struct Site {
    folder: PathBuf,
    output: PathBuf,
}

pub fn build(args: &Build) -> anyhow::Result<Exit> {
    let (language, name) = match Language::of(&args.dir) {
        Ok(found) => found,
        Err(message) => return refuse(&message),
    };
    let folder = std::path::absolute(&args.dir)?;
    let shown = args.output.clone().unwrap_or_else(|| args.dir.join(format!("{name}.wasm")));
    let site = Site { output: std::path::absolute(&shown)?, folder };
    let begun = Instant::now();
    let mut made = make(language, &site);
    if let (Err(Failed::Missing(missing)), true) = (&made, args.install) {
        made = match install(missing, &site.folder) {
            Ok(()) => make(language, &site),
            Err(failed) => Err(failed),
        };
    }
    match made {
        Ok(()) => {}
        Err(Failed::Missing(missing)) => return tell(&missing, &args.dir),
        Err(Failed::Tool(what)) => return refuse(&format!("{} is not built: {what}", args.dir.display())),
        Err(Failed::Other(error)) => return Err(error),
    }
    let size = std::fs::metadata(&site.output)?.len().div_ceil(1024);
    let (dir, file, took) = (args.dir.display(), shown.display(), begun.elapsed().as_secs_f64());
    writeln!(
        io::stdout(),
        "built     {file} ({size} KiB) in {took:.1} s\nnext      portcullis plugin inspect {file}\n          portcullis test {dir}"
    )?;
    Ok(Exit::Done)
}

fn make(language: Language, site: &Site) -> Result<(), Failed> {
    match language {
        Language::Rust => rust::make(site),
        Language::Js => javascript::make(site),
        Language::Python => python::make(site),
    }?;
    // A tool that ended well has made a component, or something else that no gateway takes.
    let mut head = [0; 8];
    let read = std::fs::File::open(&site.output).and_then(|mut file| io::Read::read_exact(&mut file, &mut head));
    match read {
        Ok(()) if head == COMPONENT => Ok(()),
        Ok(()) => Err(Failed::Tool(format!("{} is no component", site.output.display()))),
        Err(e) => Err(Failed::Tool(format!("{}: {e}", site.output.display()))),
    }
}

fn tell(missing: &Missing, dir: &Path) -> anyhow::Result<Exit> {
    let Missing { what, get, hint } = missing;
    let mut out = io::stderr().lock();
    writeln!(out, "portcullis: {} cannot be built yet: {what}", dir.display())?;
    if !get.is_empty() {
        let here = if dir == Path::new(".") { String::new() } else { format!("cd '{}' && ", dir.display()) };
        let commands: Vec<String> = get.iter().map(|words| words.join(" ")).collect();
        writeln!(out, "to get it:\n  ({here}{})", commands.join(" && "))?;
        writeln!(out, "or let `portcullis plugin build --install {}` do so", dir.display())?;
    }
    if !hint.is_empty() {
        writeln!(out, "{hint}")?;
    }
    Ok(Exit::Failed)
}

fn install(missing: &Missing, folder: &Path) -> Result<(), Failed> {
    for words in &missing.get {
        let [program, arguments @ ..] = words.as_slice() else { continue };
        let _ = writeln!(io::stderr(), "running: {}", words.join(" "));
        // A path is of the plugin's folder, a bare name of the machine.
        let program = if program.contains('/') { folder.join(program).into_os_string() } else { program.into() };
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(io::stderr());
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(Failed::Tool(format!("{} ended with {status}", words.join(" ")))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Failed::Tool(format!("there is no {}", program.display())));
            }
            Err(e) => return Err(Failed::Tool(format!("{}: {e}", words.join(" ")))),
        }
    }
    Ok(())
}

/// Runs a tool in the plugin's folder. What it says on standard error is for the developer to read; what it prints is
/// given back. `None`: there is no such program.
fn run(command: &mut Command, folder: &Path) -> Result<Option<Output>, Failed> {
    let started = command.current_dir(folder).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = match started {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failed::Tool(format!("{}: {e}", command.get_program().display()))),
    };
    if output.status.success() {
        return Ok(Some(output));
    }
    let name = command.get_program().display();
    Err(Failed::Tool(format!("{name} ended with {}", output.status)))
}

/// What a program prints when it is asked something, in one line; `None` when it cannot be asked.
fn ask(program: impl AsRef<OsStr>, arguments: &[&str], folder: &Path) -> Option<String> {
    let mut command = Command::new(program);
    let output =
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The tool in the plugin's own folder, else the machine's.
fn tool(folder: &Path, inside: &str, name: &str) -> Option<PathBuf> {
    let own = folder.join(inside).join(name);
    let found = if own.is_file() { own } else { PathBuf::from(name) };
    ask(&found, &["--help"], folder).map(|_| found)
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn refuse(message: &dyn fmt::Display) -> anyhow::Result<Exit> {
    writeln!(io::stderr(), "portcullis: {message}")?;
    Ok(Exit::Failed)
}

/// How a component's file begins.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

#[cfg(test)]
mod tests;
