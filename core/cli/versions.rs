//! `portcullis versions`: the history of the policy from the command line, in the stopped store of a configuration or, with
//! `--admin`, on a running gateway. What changes what runs needs a running one, but for the release of a pin.

use std::io::{self, Write};

use anyhow::{Result, anyhow, bail};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    admin::client::Admin,
    audit::PURPOSE,
    cli::{
        Exit,
        stopped::{self, Wants},
    },
    config::{self, Place, Secret, env},
    keyring::Keyring,
    provider,
    versions::{Versions, compare, id, show},
};

/// Versions of configuration, scripts and plugins: list, show, compare, return to one. On the stopped store of the
/// configuration, or with --admin on a running gateway, whose admin token is read from PORTCULLIS_ADMIN_TOKEN.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The admin address of a running gateway, such as http://127.0.0.1:8081
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All versions that are kept, newest first
    #[command(after_help = "Example:\n  portcullis versions list --admin http://127.0.0.1:8081")]
    List,
    /// One version and its files
    #[command(after_help = "Example:\n  portcullis versions show v12")]
    Show {
        /// Its number, or its hash
        version: String,
    },
    /// What differs between two: files, stages, targets, prices
    #[command(
        after_help = "Example:\n  portcullis versions diff v11 v12\n  portcullis versions diff running files --admin http://127.0.0.1:8081"
    )]
    Diff {
        /// The older one
        from: String,
        /// The newer one; on a running gateway also `running`, and `files` for what lies in the folder
        to: String,
    },
    /// Run an earlier version at once, until the files change
    #[command(
        after_help = "Example:\n  portcullis versions rollback v11 --note 'the new router is too eager' --admin http://127.0.0.1:8081"
    )]
    Rollback {
        /// Its number, or its hash
        version: String,
        #[command(flatten)]
        by: ByArgs,
    },
    /// Let the files run again
    #[command(after_help = "Example:\n  portcullis versions unpin --admin http://127.0.0.1:8081")]
    Unpin {
        #[command(flatten)]
        by: ByArgs,
    },
    /// Take the files up now, and say what came of it
    #[command(after_help = "Example:\n  portcullis versions reload --author ci --admin http://127.0.0.1:8081")]
    Reload {
        #[command(flatten)]
        by: ByArgs,
    },
    /// The version that is being tried, with its figures
    #[command(after_help = "Example:\n  portcullis versions rollout --admin http://127.0.0.1:8081")]
    Rollout,
    /// Let the version that is being tried serve all requests now
    #[command(after_help = "Example:\n  portcullis versions promote --admin http://127.0.0.1:8081")]
    Promote {
        #[command(flatten)]
        by: ByArgs,
    },
    /// Stop trying a version
    #[command(after_help = "Example:\n  portcullis versions abort --note 'wrong branch' --admin http://127.0.0.1:8081")]
    Abort {
        #[command(flatten)]
        by: ByArgs,
    },
}

/// What the history says of it.
#[derive(Debug, Clone, clap::Args)]
struct ByArgs {
    /// Who does this. Default: the user of this shell
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

const EXAMPLE: &str = "Example:\n  portcullis versions list\n  portcullis versions diff v11 v12\n  \
    portcullis versions rollback v11 --admin http://127.0.0.1:8081";

pub fn run(args: Args, place: &Place) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(run_to(args, place, token, &mut io::stdout()))
}

async fn run_to(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    let Args { admin, json, command } = args;
    if let Some(url) = admin {
        let admin = Admin::new(&url, token).map_err(anyhow::Error::msg)?;
        return remote(&admin, command, json, out).await.map(|()| Exit::Done);
    }
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::refuse(&problems)?),
    };
    stopped::with(&config, VERSIONS, async |store| {
        let versions = Versions::open(store.clone()).await?;
        if !matches!(command, Command::Unpin { .. }) {
            return local(&versions, command, json, out).await;
        }
        let ring = Keyring::open(store, &config.secrets).await.map_err(plain)?;
        let pinned = versions.pin().map(|pin| id(pin.version));
        let (key, action) = (ring.secret_for(PURPOSE), ("config.unpin", pinned.as_deref()));
        super::audit::told(store, &key, action, local(&versions, command, json, out)).await
    })
    .await?;
    Ok(Exit::Done)
}

const VERSIONS: Wants = Wants { kept: "versions", missing: Some("nothing ran here yet"), running: Some("") };

async fn local(versions: &Versions, command: Command, json: bool, out: &mut Out) -> Result<()> {
    match command {
        Command::List => {
            let rows = versions.page(None, usize::MAX);
            list(out, rows.iter().map(|row| row.json(versions.is_kept(row))).collect(), json)
        }
        Command::Show { version } => one(out, &show(versions, &versions.find(&version).map_err(plain)?), json),
        Command::Diff { from, to } => {
            let side = |text: &str| {
                let row = versions.find(text).map_err(plain)?;
                anyhow::Ok((id(row.number), versions.content(&row).map_err(plain)?))
            };
            let ((from, old), (to, new)) = (side(&from)?, side(&to)?);
            difference(out, &compare((&from, &old), (&to, &new)), json)
        }
        Command::Unpin { .. } => {
            let Some(pin) = versions.pin() else { bail!("no version is pinned: the files run at the next start") };
            versions.set_pin(None).await;
            if !versions.saved() {
                bail!("the store took no change: the log says why");
            }
            Ok(writeln!(out, "{} is not pinned any more: the files run at the next start", id(pin.version))?)
        }
        _ => bail!("this needs a running gateway: add --admin URL"),
    }
}

async fn remote(admin: &Admin, command: Command, json: bool, out: &mut Out) -> Result<()> {
    let named = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let act = async |path: &str, by: ByArgs| {
        let author = by.author.or_else(|| env::var("USER"));
        call(admin, Method::POST, path, Some(&json!({ "author": author, "note": by.note }))).await
    };
    match command {
        Command::List => {
            let mut rows = Vec::new();
            let mut page = "/api/v1/versions?limit=500".to_owned();
            loop {
                let mut answer = call(admin, Method::GET, &page, None).await?;
                rows.extend(answer["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
                let Some(next) = answer["next_cursor"].as_str() else { break };
                page = format!("/api/v1/versions?limit=500&cursor={}", named(next));
            }
            list(out, rows, json)
        }
        Command::Show { version } => {
            one(out, &call(admin, Method::GET, &format!("/api/v1/versions/{}", named(&version)), None).await?, json)
        }
        Command::Diff { from, to } => {
            let path = format!("/api/v1/versions/{}/diff/{}", named(&from), named(&to));
            difference(out, &call(admin, Method::GET, &path, None).await?, json)
        }
        Command::Rollback { version, by } => {
            let answer = act(&format!("/api/v1/versions/{}/rollback", named(&version)), by).await?;
            if json {
                return Ok(writeln!(out, "{answer:#}")?);
            }
            writeln!(out, "{} runs, with the files of {version}", cell(&answer["id"]))?;
            if !answer["pinned"].is_null() {
                writeln!(
                    out,
                    "It is pinned: the files in the folder are another version and run when they change, or after"
                )?;
                writeln!(out, "  portcullis versions unpin --admin URL")?;
            }
            if answer["durable"] == false {
                writeln!(out, "The store takes no changes now: after a restart the files would run.")?;
            }
            Ok(())
        }
        Command::Unpin { by } => outcome(out, &act("/api/v1/config/unpin", by).await?, json),
        Command::Reload { by } => outcome(out, &act("/api/v1/config/reload", by).await?, json),
        Command::Promote { by } => outcome(out, &act("/api/v1/rollout/promote", by).await?, json),
        Command::Abort { by } => outcome(out, &act("/api/v1/rollout/abort", by).await?, json),
        Command::Rollout => Ok(writeln!(out, "{:#}", call(admin, Method::GET, "/api/v1/rollout", None).await?)?),
    }
}

async fn call(admin: &Admin, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    admin.call(method, path, body).await.map_err(anyhow::Error::msg)
}

fn outcome(out: &mut Out, answer: &Value, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{answer:#}")?);
    }
    writeln!(
        out,
        "{}: {} ({})",
        cell(&answer["outcome"]),
        cell(&answer["version"]["id"]),
        cell(&answer["version"]["hash"])
    )?;
    match answer["message"].as_str() {
        Some(message) => Ok(writeln!(out, "{message}")?),
        None => Ok(()),
    }
}

fn list(out: &mut Out, rows: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{:#}", json!({ "data": rows, "next_cursor": null }))?);
    }
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| COLUMNS.map(|column| cell(&row[column]))));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn one(out: &mut Out, row: &Value, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{row:#}")?);
    }
    for (name, value) in row.as_object().into_iter().flatten().filter(|(name, v)| *name != "contents" && !v.is_null()) {
        writeln!(out, "{:<12} {}", name, cell(value))?;
    }
    for file in row["contents"].as_array().into_iter().flatten() {
        writeln!(out, "  {:>9}  {}", cell(&file["bytes"]), cell(&file["file"]))?;
    }
    Ok(())
}

fn difference(out: &mut Out, answer: &Value, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{answer:#}")?);
    }
    let summary = &answer["summary"];
    let names = |list: &Value| list.as_array().into_iter().flatten().map(cell).collect::<Vec<_>>().join(", ");
    for (word, list) in ["added", "removed", "changed"].map(|word| (word, &summary["stages"][word])) {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            writeln!(out, "stages {word}: {}", names(list))?;
        }
    }
    for (what, list) in [("model", &summary["targets"]), ("price", &summary["prices"])] {
        for entry in list.as_array().into_iter().flatten() {
            writeln!(out, "{what} {}: {} -> {}", cell(&entry["name"]), entry["was"], entry["now"])?;
        }
    }
    if summary["other"].as_array().is_some_and(|list| !list.is_empty()) {
        writeln!(out, "gateway.toml: {}", names(&summary["other"]))?;
    }
    let files: Vec<&Value> = answer["files"].as_array().into_iter().flatten().collect();
    if files.is_empty() {
        return Ok(writeln!(out, "no difference")?);
    }
    for file in files {
        match file["diff"].as_str() {
            Some(diff) => write!(out, "\n{diff}")?,
            None => writeln!(out, "\n{} {} (no text)", cell(&file["change"]), cell(&file["file"]))?,
        }
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The message without its code: people read it.
fn plain(error: crate::error::Error) -> anyhow::Error {
    anyhow!("{}", error.message)
}

/// Where answers go.
type Out = dyn Write + Send;

const COLUMNS: [&str; 7] = ["id", "hash", "state", "live", "author", "rollback_of", "reason"];
