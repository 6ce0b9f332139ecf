//! `portcullis secrets`: provider keys and other secrets in the gateway's store, and the master key that seals them; on a
//! stopped store, or on a running gateway with `--admin`. A secret comes from standard input, never from an argument, which
//! others could see in the list of processes; none is ever shown.

use std::{
    io::{self, IsTerminal, Read, Write},
    sync::Arc,
};

use anyhow::{Result, anyhow, bail};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::stopped::{self, Wants};
use crate::{
    admin::client::Admin,
    audit::PURPOSE,
    cli::Exit,
    config::{self, Config, Master, Place, Secret, env},
    keyring::{Keyring, Next},
    provider,
    secrets::{Info, Secrets},
    upstream::{Client, ProxyConfig},
};

/// Keep provider keys and other secrets sealed in the gateway's store: gateway.toml names them as "store:NAME"
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
    /// Put a secret in, or another one in its place: read from standard input
    #[command(after_help = "Example:\n  portcullis secrets set openai < key.txt")]
    Set { name: String },
    /// Names, versions, and when each was changed; never the secrets
    #[command(after_help = "Example:\n  portcullis secrets list")]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a secret away
    #[command(after_help = "Example:\n  portcullis secrets delete openai --admin http://127.0.0.1:8081")]
    Delete { name: String },
    /// Take on another master key. Nothing is sealed or hashed anew but what lies in the store, and nothing stands still
    #[command(after_help = ROTATE_EXAMPLE)]
    RotateMaster {
        /// Where the new one is: `file:PATH`, `env:NAME`, `cmd:PROGRAM`. Default: a new one in the data directory
        #[arg(long, value_name = "PLACE", conflicts_with = "finish")]
        to: Option<String>,
        /// The former one opens nothing any more: once secrets.master_key names the new one
        #[arg(long)]
        finish: bool,
    },
}

const EXAMPLE: &str = "Example:\n  printf %s \"$KEY\" | portcullis secrets set openai\n  portcullis secrets list\n  \
    portcullis secrets rotate-master --admin http://127.0.0.1:8081";
const ROTATE_EXAMPLE: &str = "Example:\n  portcullis secrets rotate-master --to file:/run/secrets/master-2\n  \
    portcullis secrets rotate-master --finish";

pub fn run(args: Args, place: &Place) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(run_to(args, place, token, &mut io::stdin(), &mut io::stdout()))
}

async fn run_to(
    args: Args,
    place: &Place,
    token: Option<Secret>,
    input: &mut (dyn Read + Send),
    out: &mut Out,
) -> Result<Exit> {
    let Args { admin, command } = args;
    let value = match &command {
        Command::Set { .. } => Some(given(input)?),
        _ => None,
    };
    if let Some(url) = admin {
        let admin = Admin::new(&url, token).map_err(anyhow::Error::msg)?;
        remote(&admin, command, value, out).await?;
        return Ok(Exit::Done);
    }
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::refuse(&problems)?),
    };
    stopped::with(&config, SECRETS, async |store| {
        let ring = Keyring::open(store, &config.secrets).await.map_err(plain)?;
        let secrets = Secrets::new(store.clone(), ring.clone(), Client::new(&ProxyConfig::default()));
        secrets.settle(&config.secrets, &[]).await;
        let (action, object) = match &command {
            Command::Set { name } => ("secrets.set", Some(name.clone())),
            Command::Delete { name } => ("secrets.delete", Some(name.clone())),
            Command::RotateMaster { .. } => ("secrets.rotate-master", None),
            Command::List { .. } => return local(&secrets, &config, command, value, out).await,
        };
        let key = ring.secret_for(PURPOSE);
        let work = local(&secrets, &config, command, value, out);
        super::audit::told(store, &key, (action, object.as_deref()), work).await
    })
    .await?;
    Ok(Exit::Done)
}

const SECRETS: Wants = Wants { kept: "secrets", missing: None, running: Some("") };

async fn local(
    secrets: &Arc<Secrets>,
    config: &Config,
    command: Command,
    value: Option<Secret>,
    out: &mut Out,
) -> Result<()> {
    match command {
        Command::Set { name } => {
            let value = value.ok_or_else(|| anyhow!("there is nothing to set"))?;
            told(out, &json!(secrets.set(&name, &value).await.map_err(plain)?), "is set")
        }
        Command::Delete { name } => told(out, &json!(secrets.delete(&name).await.map_err(plain)?), "is deleted"),
        Command::List { json } => {
            let mut rows: Vec<Info> = Vec::new();
            loop {
                let page = secrets.list(rows.last().map(|row| row.name.as_str()), PAGE).await.map_err(plain)?;
                if page.is_empty() {
                    break;
                }
                rows.extend(page);
            }
            list(out, rows.iter().map(|row| json!(row)).collect(), json)
        }
        Command::RotateMaster { to: None, finish: true } => {
            secrets.finish_rotation().await.map_err(plain)?;
            rotated(out, &secrets.ring().json(), None)
        }
        Command::RotateMaster { to: None, finish: false } => {
            secrets.rotate_master(Next::Own).await.map_err(plain)?;
            rotated(out, &secrets.ring().json(), None)
        }
        Command::RotateMaster { to: Some(to), .. } => {
            let next = Master::parse(std::slice::from_ref(&to), &config.root).map_err(|why| anyhow!("--to {why}"))?;
            secrets.rotate_master(Next::From(next)).await.map_err(plain)?;
            rotated(out, &secrets.ring().json(), Some(&to))
        }
    }
}

async fn remote(admin: &Admin, command: Command, value: Option<Secret>, out: &mut Out) -> Result<()> {
    let path = |name: &str| format!("/api/v1/secrets/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    match command {
        Command::Set { name } => {
            let value = value.ok_or_else(|| anyhow!("there is nothing to set"))?;
            let body = json!({ "value": value.expose() });
            told(out, &call(admin, Method::PUT, &path(&name), Some(&body)).await?, "is set")
        }
        Command::Delete { name } => told(out, &call(admin, Method::DELETE, &path(&name), None).await?, "is deleted"),
        Command::List { json } => {
            let mut rows = Vec::new();
            let mut page = "/api/v1/secrets?limit=500".to_owned();
            loop {
                let mut answer = call(admin, Method::GET, &page, None).await?;
                rows.extend(answer["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
                let Some(next) = answer["next_cursor"].as_str() else { break };
                page = format!("/api/v1/secrets?limit=500&cursor={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
            }
            list(out, rows, json)
        }
        Command::RotateMaster { to, finish } => {
            let body = json!({ "to": to, "finish": finish });
            let answer = call(admin, Method::POST, "/api/v1/secrets/rotate-master", Some(&body)).await?;
            rotated(out, &answer, to.as_deref())
        }
    }
}

async fn call(admin: &Admin, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    admin.call(method, path, body).await.map_err(anyhow::Error::msg)
}

/// All of standard input, without the line's end that an editor or `echo` puts behind it.
fn given(input: &mut (dyn Read + Send)) -> Result<Secret> {
    if io::stdin().is_terminal() {
        writeln!(io::stderr(), "The secret, then the end of the input (Ctrl-D):")?;
    }
    let mut text = Zeroizing::new(String::new());
    input.take(MOST_INPUT).read_to_string(&mut text).map_err(|e| anyhow!("standard input cannot be read: {e}"))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.trim().is_empty() {
        bail!("standard input is empty: printf %s \"$KEY\" | portcullis secrets set NAME");
    }
    Ok(Secret::new(text))
}

fn told(out: &mut Out, info: &Value, what: &str) -> Result<()> {
    let name = info["name"].as_str().unwrap_or("?");
    Ok(writeln!(out, "{name} {what} (version {}); gateway.toml names it as \"store:{name}\"", info["version"])?)
}

fn rotated(out: &mut Out, ring: &Value, to: Option<&str>) -> Result<()> {
    match (ring["former_masters"].as_u64(), to) {
        (Some(0), _) => writeln!(out, "the new master key opens everything, and it alone: keep a copy of it")?,
        (_, to) => {
            writeln!(out, "the new master key opens everything, and so does the former one. Now:")?;
            writeln!(out, "  1. set secrets.master_key = \"{}\" in gateway.toml", to.unwrap_or("…"))?;
            writeln!(out, "  2. portcullis secrets rotate-master --finish, after which the former one opens nothing")?;
        }
    }
    Ok(())
}

fn list(out: &mut Out, rows: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{:#}", json!({ "data": rows, "next_cursor": null }))?);
    }
    if rows.is_empty() {
        return Ok(writeln!(out, "no secrets yet; portcullis secrets set NAME puts one in")?);
    }
    let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
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

fn plain(error: crate::error::Error) -> anyhow::Error {
    match &error.param {
        Some(param) => anyhow!("{param}: {}", error.message),
        None => anyhow!("{}", error.message),
    }
}

type Out = dyn Write + Send;

const COLUMNS: [&str; 4] = ["name", "version", "changed", "hint"];
const PAGE: usize = 500;
const MOST_INPUT: u64 = 64 << 10;

#[cfg(test)]
mod tests;
