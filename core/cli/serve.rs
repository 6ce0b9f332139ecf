//! `portcullis serve`: the gateway itself. Only the arguments live here; `runtime` builds what runs.

use crate::{cli::Exit, config::Place};

/// Run the gateway: clients on one port, operators on another. Saved changes of gateway.toml and scripts/ are taken up
/// within a second; a mistake changes nothing. SIGTERM ends it after running requests are answered.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {}

const EXAMPLE: &str = "\
Example:
  OPENAI_API_KEY=sk-… portcullis serve --config gateway.toml";

/// Joined with the runtime when that is there.
pub fn run(_: &Args, _: &Place) -> anyhow::Result<Exit> {
    anyhow::bail!("this build has no gateway yet")
}
