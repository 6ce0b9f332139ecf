//! `portcullis state`: the store's rows to a file and back, for backups and moves. Works on a stopped store; an export also on
//! a running gateway, with `--admin`. It never reads or writes the master key.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use http::Method;

use crate::{
    admin::client::Admin,
    audit::PURPOSE,
    cli::{
        Exit,
        stopped::{self, Wants},
    },
    config::{self, Config, Place, Secret, StoreKind, env},
    keyring, provider,
    store::{self, Directory, Header, StoreError, hex},
};

/// Export and import what the gateway keeps in its store: virtual keys (their hashes, never the keys), counters and sums.
/// Not in it: master.key, without which an export is of no use; records of requests; gateway.toml, scripts and plugins.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write everything to a file
    #[command(after_help = "Example:\n  portcullis state export --to backup.jsonl")]
    Export {
        /// The file; replaced as a whole when it exists. Default: a new one in the data directory's folder export
        #[arg(long, value_name = "FILE", conflicts_with = "admin")]
        to: Option<PathBuf>,
        /// The admin address of a running gateway, which writes into its own data directory
        #[arg(long, value_name = "URL")]
        admin: Option<String>,
    },
    /// Put an export in the place of the stopped store
    #[command(after_help = "Example:\n  portcullis state import data/export/state-20260102T030405Z.jsonl --replace")]
    Import {
        /// What `state export` wrote
        file: PathBuf,
        /// Also when the store has keys; it is moved aside, not removed
        #[arg(long)]
        replace: bool,
    },
}

const EXAMPLE: &str = "Example:\n  portcullis state export --to backup.jsonl\n  \
    portcullis state import backup.jsonl --replace";

pub fn run(args: Args, place: &Place) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(run_to(args, place, token, &mut io::stdout()))
}

async fn run_to(args: Args, place: &Place, token: Option<Secret>, out: &mut (dyn Write + Send)) -> Result<Exit> {
    if let Command::Export { admin: Some(url), .. } = &args.command {
        let admin = Admin::new(url, token).map_err(anyhow::Error::msg)?;
        let done = admin.call(Method::POST, "/api/v1/state/export", None).await.map_err(anyhow::Error::msg)?;
        show(out, done["rows"].as_u64().unwrap_or(0), done["path"].as_str().unwrap_or("?"))?;
        return Ok(Exit::Done);
    }
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::refuse(&problems)?),
    };
    if config.store.kind == StoreKind::Memory {
        bail!("store.kind = \"memory\" keeps nothing between runs");
    }
    match args.command {
        Command::Export { to, .. } => export(&config, to, out).await?,
        Command::Import { file, replace } => {
            import(&config, &file, replace, out).await?;
            if let Err(error) = tell(&config, &file).await {
                writeln!(io::stderr(), "note: the import is not in the audit log: {error:#}")?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn export(config: &Config, to: Option<PathBuf>, out: &mut (dyn Write + Send)) -> Result<()> {
    let done = stopped::with(config, ROWS, async |store| Ok(store.export(to).await?)).await?;
    show(out, done.rows, &done.path.display().to_string())
}

fn show(out: &mut (dyn Write + Send), rows: u64, path: &str) -> Result<()> {
    writeln!(out, "exported {rows} rows to {path}")?;
    Ok(writeln!(out, "The file is of use only together with master.key of the data directory: keep a copy of both.")?)
}

async fn import(config: &Config, file: &Path, replace: bool, out: &mut (dyn Write + Send)) -> Result<()> {
    let done = store::import(&config.store, file, replace, &|directory, header| fits(config, directory, header))
        .await
        .map_err(|e| stopped::in_use(e, config, None))?;
    for line in done {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The log that came with the import says that it did.
async fn tell(config: &Config, file: &Path) -> Result<()> {
    stopped::with(config, ROWS, async |store| {
        let ring = keyring::Keyring::open(store, &config.secrets).await?;
        let name = file.display().to_string();
        let (key, action) = (ring.secret_for(PURPOSE), ("state.import", Some(name.as_str())));
        super::audit::told(store, &key, action, async { Ok(()) }).await
    })
    .await
}

/// Keys are hashes under the master key: with another one they would all be unknown.
fn fits(config: &Config, directory: &Directory, header: &Header) -> store::Result<()> {
    let Some(made_with) = &header.master else { return Ok(()) };
    let own = match &config.secrets.master {
        Some(named) => {
            let path = directory.path().to_owned();
            let unread = |why| StoreError::File { path, message: format!("the master key cannot be had: {why}") };
            named.read().map_err(unread)?
        }
        None => directory.master_key(false).map_err(|e| match e {
            StoreError::File { path, .. } => StoreError::File { path, message: COPY_IT.into() },
            other => other,
        })?,
    };
    if hex::encode(&keyring::check(&own)) == *made_with {
        return Ok(());
    }
    let message = "this master.key is not the one that the export's keys were made with: put the right one there first, or \
                   they would all be unknown";
    Err(StoreError::File { path: directory.path().join("master.key"), message: message.into() })
}

const ROWS: Wants = Wants { kept: "rows", missing: Some(""), running: Some("") };
const COPY_IT: &str = "the file is missing or unreadable, and the export's keys cannot be checked without it: copy master.key of the \
     gateway that was exported to this place first";

#[cfg(test)]
mod tests;
