//! `portcullis audit`: the log of what was done to the gateway, listed, exported and verified; on a stopped store, or on a
//! running gateway with `--admin`. Reads only. What other commands do to a stopped store is written to the log here.

use std::{
    io::{self, Write},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Result, anyhow};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::stopped::{self, Wants};
use crate::{
    admin::client::Admin,
    audit::{Actor, ActorKind, Audit, Entry, LOCAL, Origin, Outcome, PURPOSE, Wanted, csv},
    cli::Exit,
    config::{self, Place, Secret, env},
    keyring::Keyring,
    provider,
    store::Store,
};

/// What was done to the gateway, by whom and from where, and what it refused: list it, export it, verify it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The admin address of a running gateway. Default: the stopped store of this configuration
    #[arg(long, global = true, value_name = "URL")]
    admin: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Follow every chain of rows to its end; exit 1 names the first row that is changed, missing, moved or cut off
    #[command(after_help = "Example:\n  portcullis audit verify --admin http://127.0.0.1:8081")]
    Verify,
    /// The newest rows
    #[command(after_help = "Example:\n  portcullis audit list --action keys --limit 20")]
    List {
        /// Only this action (keys.create), or all of a kind (keys)
        #[arg(long)]
        action: Option<String>,
        /// Only this actor: a kind (owner, local, token, user, key, system), an id or a name
        #[arg(long)]
        actor: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=500))]
        limit: u64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Rows as they are stored, oldest first, on standard output
    #[command(after_help = "Example:\n  portcullis audit export --from 2026-01-01 --format csv > audit.csv")]
    Export {
        /// Not before this time: 2026-01-31, or 2026-01-31T08:00:00Z
        #[arg(long, value_parser = time)]
        from: Option<SystemTime>,
        /// Before this time
        #[arg(long, value_parser = time)]
        to: Option<SystemTime>,
        /// One row a line, with its hash and proof; or a table
        #[arg(long, value_enum, default_value_t = Format::Ndjson)]
        format: Format,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Ndjson,
    Csv,
}

const EXAMPLE: &str = "Example:\n  portcullis audit verify\n  portcullis audit list --action keys\n  \
    portcullis audit export --format csv --admin http://127.0.0.1:8081";

pub fn run(args: Args, place: &Place) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(run_to(args, place, token, &mut io::stdout()))
}

async fn run_to(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    let Args { admin, command } = args;
    if let Some(url) = admin {
        let admin = Admin::new(&url, token).map_err(anyhow::Error::msg)?;
        return remote(&admin, command, out).await;
    }
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::refuse(&problems)?),
    };
    stopped::with(&config, LOG, async |store| {
        let ring = Keyring::open(store, &config.secrets).await.map_err(plain)?;
        local(&*of(store, &ring.secret_for(PURPOSE)).await?, command, out).await
    })
    .await
}

async fn of(store: &Arc<dyn Store>, key: &[u8; 32]) -> Result<Arc<Audit>> {
    Ok(Audit::open(store.clone(), key, store.node().unwrap_or(LOCAL)).await?)
}

/// Does something to a stopped store, written down before and after as the admin plane does it.
pub(super) async fn told<T>(
    store: &Arc<dyn Store>,
    key: &[u8; 32],
    (action, object): (&str, Option<&str>),
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let audit = of(store, key).await?;
    let mut actor = Actor::new(ActorKind::Local);
    actor.name = env::var("USER");
    let from = Origin { peer: None, agent: Some("command line".to_owned()) };
    let mut entry = Entry::new(actor, from, action).outcome(Outcome::Intended);
    entry.object = object.map(str::to_owned);
    entry.of = Some(audit.record(entry.clone()).await?);
    let done = work.await;
    entry.outcome = if done.is_ok() { Outcome::Done } else { Outcome::Refused };
    audit.record_done(entry).await;
    audit.keep_head().await?;
    done
}

async fn local(audit: &Audit, command: Command, out: &mut Out) -> Result<Exit> {
    match command {
        Command::Verify => match audit.verify().await? {
            Ok(chains) => {
                let chains: Vec<Value> = chains
                    .iter()
                    .map(|seen| json!({ "node": seen.node, "rows": seen.rows, "first": seen.first, "last": seen.last }))
                    .collect();
                whole(out, &json!(chains))
            }
            Err(found) => broken(out, &found.node, found.seq, found.fault.name(), &found.why),
        },
        Command::List { action, actor, limit, json } => {
            let wanted = Wanted { action, actor, ..Wanted::default() };
            let page = audit.page(&wanted, None, usize::try_from(limit)?).await?.unwrap_or_default();
            list(out, page.rows, json)
        }
        Command::Export { from, to, format } => {
            let wanted = Wanted { from, to, ..Wanted::default() };
            let mut cursor: Option<String> = None;
            loop {
                let (rows, next) = audit.export(&wanted, cursor.as_deref(), PAGE).await?.unwrap_or_default();
                if format == Format::Csv {
                    out.write_all(csv(&rows, cursor.is_none()).as_bytes())?;
                } else {
                    for row in rows {
                        out.write_all(&row)?;
                        out.write_all(b"\n")?;
                    }
                }
                match next {
                    Some(next) => cursor = Some(next),
                    None => return Ok(Exit::Done),
                }
            }
        }
    }
}

async fn remote(admin: &Admin, command: Command, out: &mut Out) -> Result<Exit> {
    let quoted = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    match command {
        Command::Verify => {
            let said = call(admin, "/api/v1/audit/verify").await?;
            if said["whole"] == true {
                return whole(out, &said["chains"]);
            }
            let found = &said["broken"];
            let text = |name: &str| found[name].as_str().unwrap_or("?");
            broken(out, text("node"), found["seq"].as_u64().unwrap_or(0), text("fault"), text("why"))
        }
        Command::List { action, actor, limit, json } => {
            let mut path = format!("/api/v1/audit?limit={limit}");
            for (name, value) in [("action", action), ("actor", actor)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", quoted(&value)));
                }
            }
            let mut said = call(admin, &path).await?;
            list(out, said["data"].as_array_mut().map(std::mem::take).unwrap_or_default(), json)
        }
        Command::Export { from, to, format } => {
            let word = if format == Format::Csv { "csv" } else { "ndjson" };
            let mut path = format!("/api/v1/audit/export?format={word}");
            for (name, time) in [("from", from), ("to", to)] {
                if let Some(time) = time {
                    path.push_str(&format!("&{name}={}", quoted(&jiff::Timestamp::try_from(time)?.to_string())));
                }
            }
            let mut page = path.clone();
            loop {
                let (text, next) = admin.text(&page, "x-next-cursor").await.map_err(anyhow::Error::msg)?;
                out.write_all(&text)?;
                match next {
                    Some(next) => page = format!("{path}&cursor={}", quoted(&next)),
                    None => return Ok(Exit::Done),
                }
            }
        }
    }
}

async fn call(admin: &Admin, path: &str) -> Result<Value> {
    admin.call(Method::GET, path, None).await.map_err(anyhow::Error::msg)
}

fn whole(out: &mut Out, chains: &Value) -> Result<Exit> {
    let chains = chains.as_array().map(Vec::as_slice).unwrap_or_default();
    if chains.is_empty() {
        writeln!(out, "the log is empty")?;
    }
    for chain in chains {
        writeln!(
            out,
            "{}: {} rows, {} to {}, each as it was written",
            cell(&chain["node"]),
            chain["rows"],
            chain["first"],
            chain["last"]
        )?;
    }
    Ok(Exit::Done)
}

fn broken(out: &mut Out, node: &str, seq: u64, fault: &str, why: &str) -> Result<Exit> {
    writeln!(out, "{node}: row {seq} is {fault}: {why}")?;
    Ok(Exit::Failed)
}

fn list(out: &mut Out, rows: Vec<Value>, json: bool) -> Result<Exit> {
    if json {
        writeln!(out, "{:#}", json!({ "data": rows }))?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        writeln!(out, "no such rows")?;
    }
    for row in rows {
        let actor = &row["actor"];
        let who = ["name", "id", "kind"].iter().find_map(|part| actor[*part].as_str()).unwrap_or("?");
        let mut line = format!(
            "{:>6}  {}  {who}  {}  {}  {}",
            row["seq"].to_string(),
            cell(&row["time"]),
            cell(&row["action"]),
            cell(&row["object"]),
            cell(&row["outcome"])
        );
        for (name, value) in [("", &row["code"]), ("times ", &row["count"]), ("from ", &row["from"]["peer"])] {
            if !value.is_null() {
                line.push_str(&format!("  {name}{}", cell(value)));
            }
        }
        writeln!(out, "{line}")?;
    }
    Ok(Exit::Done)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time, or a day's begin, UTC.
fn time(text: &str) -> Result<SystemTime, String> {
    let day = || format!("{text}T00:00:00Z").parse::<jiff::Timestamp>();
    let time = text.parse::<jiff::Timestamp>().or_else(|_| day());
    time.map(SystemTime::from).map_err(|_| "write 2026-01-31T08:00:00Z, or 2026-01-31".to_owned())
}

fn plain(error: crate::error::Error) -> anyhow::Error {
    anyhow!("{}", error.message)
}

type Out = dyn Write + Send;

const PAGE: usize = 2_000;
const LOG: Wants = Wants { kept: "log", missing: Some("nothing was done here yet"), running: Some("") };
