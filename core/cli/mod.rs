//! The command line: one file a subcommand, each with its own arguments, help and example. Nothing here decides policy;
//! it parses, calls, and turns outcomes into exit codes.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{
    auth::identities::Thing,
    config::{Config, Place, Problem},
    model::Operation,
    provider::Transport,
    server::Certificates,
};

pub mod audit;
pub mod budgets;
mod caller;
mod either;
pub mod catalogue;
pub mod check;
pub mod identities;
pub mod keys;
pub mod mock;
pub mod explain;
pub mod import;
mod outbound;
pub mod plugin;
pub mod repl;
pub mod replay;
pub mod schema;
pub mod secrets;
pub mod serve;
pub mod state;
mod stopped;
mod terms;
pub mod test;
pub mod tokens;
pub mod usage;
pub mod versions;
#[cfg(test)]
mod tests;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// The command line makes no sense (BSD's EX_USAGE).
    Usage = 64,
    /// The configuration is wrong (BSD's EX_CONFIG).
    Config = 78,
}

/// An LLM gateway that you program: every model provider behind one endpoint, scripted policy in between.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, after_help = EXAMPLE, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration file. Default: gateway.toml in this folder; if there is none, the built-in one
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway (the same as no command)
    Serve(serve::Args),
    /// Tell every mistake in the configuration, the scripts and the plugins, or what would run
    Check(check::Args),
    /// Make, list, change, rotate, disable and revoke virtual keys
    Keys(keys::Args),
    /// Make, list, change and delete organisations
    Organisations(identities::Args),
    /// Make, list, change and delete teams
    Teams(identities::Args),
    /// Make, list, change and delete users
    Users(identities::Args),
    /// Make, list, change and delete service accounts
    ServiceAccounts(identities::Args),
    /// Make, list and revoke tokens of the admin API
    Tokens(tokens::Args),
    /// Look at budgets, raise one for a while
    Budgets(budgets::Args),
    /// Look at versions of the configuration and scripts, compare them, return to one
    Versions(versions::Args),
    /// Put secrets into the store, list and delete them, take on another master key
    Secrets(secrets::Args),
    /// What was done to the gateway and refused by it: list, export, verify
    Audit(audit::Args),
    /// Export the store to a file, or import one
    State(state::Args),
    /// Tell what was used and spent, price it again, compare it with a provider's bill
    Usage(Box<usage::Args>),
    /// Answer like a model provider, without one
    Mock(mock::Args),
    /// Say where a request would go and why, without sending it
    Explain(explain::Args),
    /// Run the cases that lie beside the scripts
    Test(test::Args),
    /// Try what scripts can do on a request, line by line
    Repl(repl::Args),
    /// Run recorded requests through another configuration and say which decisions change
    Replay(replay::Args),
    /// Bring in prices and limits of models from collections that others keep
    Catalogue(catalogue::Args),
    /// Turn another gateway's configuration into a gateway.toml
    Import(import::Args),
    /// Begin a plugin, build it, look into it, measure it
    Plugin(plugin::Args),
    /// Print the JSON Schema of gateway.toml, for editors
    Schema(schema::Args),
}

const EXAMPLE: &str = "\
Example:
  portcullis                            run with ./gateway.toml
  portcullis check --config other.toml  see what would run
  portcullis import litellm config.yaml bring another gateway's configuration
  portcullis COMMAND --help             more, with an example each";

/// Parses and runs; all errors are told here, once.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Exit {
    crate::store::quiet_panics();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return match e.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
                _ => Exit::Usage,
            };
        }
    };
    match run(cli) {
        Ok(exit) => exit,
        // `portcullis schema | head` is no failure.
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => Exit::Done,
        Err(e) => {
            let _ = writeln!(io::stderr(), "portcullis: {e:#}");
            Exit::Failed
        }
    }
}

pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    let place = Place::find(cli.config.as_deref());
    match cli.command {
        None => serve::run(&serve::Args::default(), &place),
        Some(Command::Serve(args)) => serve::run(&args, &place),
        Some(Command::Check(args)) => check::run(&args, &place, &compile),
        Some(Command::Keys(args)) => keys::run(args, &place),
        Some(Command::Organisations(args)) => identities::run(Thing::Organisation, args, &place),
        Some(Command::Teams(args)) => identities::run(Thing::Team, args, &place),
        Some(Command::Users(args)) => identities::run(Thing::User, args, &place),
        Some(Command::ServiceAccounts(args)) => identities::run(Thing::ServiceAccount, args, &place),
        Some(Command::Tokens(args)) => tokens::run(args, &place),
        Some(Command::Budgets(args)) => budgets::run(args, &place),
        Some(Command::Versions(args)) => versions::run(args, &place),
        Some(Command::Secrets(args)) => secrets::run(args, &place),
        Some(Command::Audit(args)) => audit::run(args, &place),
        Some(Command::State(args)) => state::run(args, &place),
        Some(Command::Usage(args)) => usage::run(*args, &place),
        Some(Command::Mock(args)) => mock::run(&args),
        Some(Command::Explain(args)) => explain::run(&args, &place),
        Some(Command::Test(args)) => test::run(&args, &place),
        Some(Command::Repl(args)) => repl::run(&args, &place),
        Some(Command::Replay(args)) => replay::run(&args, &place),
        Some(Command::Catalogue(args)) => catalogue::run(&args, &place),
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Plugin(args)) => plugin::run(&args, &place),
        Some(Command::Schema(_)) => schema::run(),
    }
}

/// Every problem on standard error, as `check` and `serve` tell them, and the exit code that goes with them.
pub fn refuse(problems: &[Problem]) -> io::Result<Exit> {
    let mut out = io::stderr().lock();
    for problem in problems {
        writeln!(out, "{problem}\n")?;
    }
    let (count, s) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
    writeln!(out, "{count} problem{s}; nothing was started")?;
    Ok(Exit::Config)
}

/// What had to be done to open the store: on standard error, where it is not taken for an answer.
fn tell(notices: &[String]) -> io::Result<()> {
    let mut out = io::stderr().lock();
    notices.iter().try_for_each(|notice| writeln!(out, "note: {notice}"))
}

/// What a configuration's own rules cannot see: whether targets can be reached by name and scripts compile.
fn compile(config: &Config) -> (Vec<Problem>, Vec<String>) {
    let routes = crate::route::Table::build(config);
    let plugins = crate::plugin::Plugins::dry();
    let built = crate::pipeline::build(config, &crate::script::Scripts::dry(), &plugins);
    let mut notes = Vec::new();
    if let (Ok(routes), Ok(built)) = (&routes, &built)
        && routes.providers().any(|p| p.ready() && p.transport == Transport::Http && p.offers(Operation::Realtime))
    {
        // No guard is left out unseen: whoever needs sessions is told here, and not by their first caller.
        let guards = built.pipeline.entries.iter().filter(|entry| entry.guards_answers());
        notes.extend(guards.map(|entry| {
            format!(
                "{} looks at answers: in realtime sessions that it meets, answers of sound are refused",
                entry.stage.name()
            )
        }));
    }
    let mut problems = routes.err().unwrap_or_default();
    problems.extend(certificates(config));
    problems.extend(crate::prompt::Prompts::build(&config.sources).err().unwrap_or_default());
    match built {
        Ok(_) => problems.extend(crate::suite::gate(config, &plugins)),
        Err(found) => problems.extend(found),
    }
    (problems, notes)
}

/// What is wrong with the files of `server.tls`: a start needs them.
fn certificates(config: &Config) -> Option<Problem> {
    let error = Certificates::load(config.server.tls.as_ref()?).err()?;
    Some(config.problem("server.tls", format!("`server.tls`: {}", error.message)))
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}
