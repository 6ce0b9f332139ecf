//! `portcullis keys`: virtual keys from the command line, in the stopped store of a configuration or, with `--admin`, on a
//! running gateway. Both ways give the same answers.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    admin::client::Admin,
    auth::{KeyInfo, Keys, NewKey, expiry},
    cli::Exit,
    config::{self, Limits, Place, Secret, StoreKind, env},
    provider,
    store::{self, StoreError},
};

/// Virtual keys: create, list, revoke, rotate. On the stopped store of the configuration, or with --admin on a running
/// gateway, whose admin token is read from PORTCULLIS_ADMIN_TOKEN.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The admin address of a running gateway, such as http://127.0.0.1:8081
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key and show it, this once
    #[command(after_help = CREATE_EXAMPLE)]
    Create {
        /// Whose key it is
        #[arg(long)]
        name: String,
        /// Its team: a [teams.T] of gateway.toml
        #[arg(long)]
        team: Option<String>,
        /// Allowed models, with wildcards; all when absent
        #[arg(long, value_delimiter = ',', value_name = "A,B")]
        models: Option<Vec<String>>,
        /// When it ends: a distance (30d, 12h) or RFC 3339
        #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
        expires: Option<SystemTime>,
        #[command(flatten)]
        limits: LimitArgs,
        /// Print JSON
        #[arg(long, conflicts_with = "quiet")]
        json: bool,
        /// Print the key and nothing else
        #[arg(long, short)]
        quiet: bool,
    },
    /// Show all keys (never the secrets)
    #[command(after_help = "Example:\n  portcullis keys list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change what a key may use, from the next request on; what is left out has no limit any more
    #[command(
        after_help = "Example:\n  portcullis keys limit key_019a0c5e2f41b7d24c10aa93 --rpm 60 --admin http://127.0.0.1:8081"
    )]
    Limit {
        /// As `keys list` shows it
        id: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Refuse a key from the next request on
    #[command(after_help = "Example:\n  portcullis keys revoke key_019a0c5e2f41b7d24c10aa93")]
    Revoke {
        /// As `keys list` shows it
        id: String,
    },
    /// Give a key a new secret
    #[command(after_help = "Example:\n  portcullis keys rotate key_019a0c5e2f41b7d24c10aa93 --overlap 1h")]
    Rotate {
        /// As `keys list` shows it
        id: String,
        /// How long the former secret still works
        #[arg(long, default_value = "0", value_parser = expiry::distance)]
        overlap: Duration,
        /// Print JSON
        #[arg(long, conflicts_with = "quiet")]
        json: bool,
        /// Print the key and nothing else
        #[arg(long, short)]
        quiet: bool,
    },
}

/// A key's own limits; those of its team bind it too.
#[derive(Debug, Clone, Copy, clap::Args)]
struct LimitArgs {
    /// Requests a minute
    #[arg(long, value_name = "N")]
    rpm: Option<u64>,
    /// Tokens a minute, input and output together
    #[arg(long, value_name = "N")]
    tpm: Option<u64>,
    /// Requests in flight at a time
    #[arg(long, value_name = "N")]
    concurrent: Option<u64>,
    /// Input tokens a minute
    #[arg(long, value_name = "N")]
    input_tpm: Option<u64>,
    /// Output tokens a minute
    #[arg(long, value_name = "N")]
    output_tpm: Option<u64>,
    /// Requests a day of the calendar, UTC
    #[arg(long, value_name = "N")]
    rpd: Option<u64>,
    /// Tokens a day of the calendar, UTC
    #[arg(long, value_name = "N")]
    tpd: Option<u64>,
    /// They are only reported: nobody is refused
    #[arg(long)]
    shadow: bool,
}

impl LimitArgs {
    fn limits(self) -> Option<Limits> {
        let LimitArgs { rpm, tpm, concurrent, input_tpm, output_tpm, rpd, tpd, shadow } = self;
        let limits = Limits {
            requests_per_minute: rpm,
            input_tokens_per_minute: input_tpm,
            output_tokens_per_minute: output_tpm,
            tokens_per_minute: tpm,
            requests_per_day: rpd,
            tokens_per_day: tpd,
            concurrent,
            shadow,
        };
        limits.any()
    }
}

const EXAMPLE: &str = "Example:\n  portcullis keys create --name laptop --expires 30d\n  \
    portcullis keys list --admin http://127.0.0.1:8081";
const CREATE_EXAMPLE: &str = "Example:\n  portcullis keys create --name laptop --team research --models 'smart,mock/*' --expires 30d --rpm 60\n  \
    KEY=$(portcullis keys create --name ci --quiet --admin http://127.0.0.1:8081)";

pub fn run(args: Args, place: &Place) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // The token comes from the environment only: an argument would show in process lists.
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(run_to(args, place, token, &mut io::stdout()))
}

async fn run_to(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    let Args { admin, command } = args;
    if let Some(url) = admin {
        let admin = Admin::new(&url, token).map_err(anyhow::Error::msg)?;
        remote(&admin, command, out).await?;
        return Ok(Exit::Done);
    }
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::refuse(&problems)?),
    };
    if config.store.kind == StoreKind::Memory {
        bail!("store.kind = \"memory\" keeps no keys between runs: use --admin URL on the running gateway");
    }
    let store = store::open(&config.store).await.map_err(|e| match e {
        StoreError::Locked { path } => anyhow!(
            "the store in {} is in use: if that is the running gateway, add --admin http://{}",
            path.display(),
            config.admin.listen
        ),
        other => other.into(),
    })?;
    super::tell(store.notices())?;
    let done = async {
        let keys = Keys::open(store.clone(), &config.auth, &config.teams).await.map_err(plain)?;
        local(&keys, command, out).await
    };
    let done = done.await;
    store.close().await.context("the store could not be closed")?;
    done?;
    Ok(Exit::Done)
}

async fn local(keys: &Keys, command: Command, out: &mut Out) -> Result<()> {
    match command {
        Command::Create { name, team, models, expires, limits, json, quiet } => {
            if let Some(team) = team.as_deref().filter(|team| !keys.table().knows_team(team)) {
                writeln!(io::stderr(), "note: {}", crate::admin::no_such_team(team))?;
            }
            let (info, secret) =
                keys.create(NewKey { name, team, models, expires, limits: limits.limits() }).await.map_err(plain)?;
            show_secret(out, &with_secret(&info, &secret), json, quiet)
        }
        Command::Rotate { id, overlap, json, quiet } => {
            let (info, secret) = keys.rotate(&id, overlap).await.map_err(plain)?;
            show_secret(out, &with_secret(&info, &secret), json, quiet)
        }
        Command::Limit { id, limits } => {
            show_limits(out, &json!(keys.set_limits(&id, limits.limits()).await.map_err(plain)?))
        }
        Command::Revoke { id } => show_revoked(out, &json!(keys.revoke(&id).await.map_err(plain)?)),
        Command::List { json } => {
            let mut rows: Vec<Value> = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let page = keys.list(after.as_deref(), PAGE).await.map_err(plain)?;
                let Some(last) = page.last() else { break };
                after = Some(last.id.clone());
                rows.extend(page.iter().map(|info| json!(info)));
            }
            show_list(out, rows, json)
        }
    }
}

async fn remote(admin: &Admin, command: Command, out: &mut Out) -> Result<()> {
    let path = |id: &str| format!("/api/v1/keys/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    match command {
        Command::Create { name, team, models, expires, limits, json, quiet } => {
            let limits = limits.limits();
            let expires = expires.map(|at| expiry::show(expiry::to_seconds(at)));
            let body = json!({ "name": name, "team": team, "models": models, "expires": expires, "limits": limits });
            let answer = call(admin, Method::POST, "/api/v1/keys", Some(&body)).await?;
            for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                writeln!(io::stderr(), "note: {warning}")?;
            }
            show_secret(out, &answer, json, quiet)
        }
        Command::Rotate { id, overlap, json, quiet } => {
            let body = json!({ "overlap": format!("{}s", overlap.as_secs()) });
            let answer = call(admin, Method::POST, &format!("{}/rotate", path(&id)), Some(&body)).await?;
            show_secret(out, &answer, json, quiet)
        }
        Command::Limit { id, limits } => {
            let body = json!({ "limits": limits.limits() });
            show_limits(out, &call(admin, Method::PATCH, &path(&id), Some(&body)).await?)
        }
        Command::Revoke { id } => show_revoked(out, &call(admin, Method::DELETE, &path(&id), None).await?),
        Command::List { json } => {
            let mut rows = Vec::new();
            let mut page = "/api/v1/keys?limit=500".to_owned();
            loop {
                let mut answer = call(admin, Method::GET, &page, None).await?;
                rows.extend(answer["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
                let Some(next) = answer["next_cursor"].as_str() else { break };
                page = format!("/api/v1/keys?limit=500&cursor={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
            }
            show_list(out, rows, json)
        }
    }
}

async fn call(admin: &Admin, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    admin.call(method, path, body).await.map_err(anyhow::Error::msg)
}

fn show_secret(out: &mut Out, answer: &Value, json: bool, quiet: bool) -> Result<()> {
    let key = answer["key"].as_str().ok_or_else(|| anyhow!("the answer holds no key"))?;
    if json {
        writeln!(out, "{answer:#}")?;
    } else if quiet {
        writeln!(out, "{key}")?;
    } else {
        writeln!(out, "{key}\n")?;
        for field in ["id", "name", "team", "models", "limits", "expires", "former_secret_until"] {
            if !answer[field].is_null() {
                writeln!(out, "  {:<8} {}", field.replace("former_secret_until", "old till"), cell(&answer[field]))?;
            }
        }
        writeln!(out, "\nThis is the only time the key is shown: only its hash is kept.")?;
    }
    Ok(())
}

fn show_limits(out: &mut Out, answer: &Value) -> Result<()> {
    let limits = if answer["limits"].is_null() { "no limits of its own".to_owned() } else { cell(&answer["limits"]) };
    Ok(writeln!(out, "{} ({}): {limits}", cell(&answer["id"]), cell(&answer["name"]))?)
}

fn show_revoked(out: &mut Out, answer: &Value) -> Result<()> {
    Ok(writeln!(out, "revoked {} ({})", cell(&answer["id"]), cell(&answer["name"]))?)
}

fn show_list(out: &mut Out, rows: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{:#}", json!({ "data": rows, "next_cursor": null }))?);
    }
    if rows.is_empty() {
        return Ok(writeln!(out, "no keys yet; portcullis keys create --name N makes one")?);
    }
    let head: Vec<String> = COLUMNS.iter().map(|c| (*c).to_owned()).collect();
    let mut lines = vec![head];
    lines.extend(rows.iter().map(|row| COLUMNS.iter().map(|column| cell(&row[*column])).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(map) => {
            map.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

fn with_secret(info: &KeyInfo, secret: &Secret) -> Value {
    let mut answer = json!(info);
    answer["key"] = secret.expose().into();
    answer
}

fn parse_expiry(text: &str) -> Result<SystemTime, String> {
    expiry::parse(text, SystemTime::now())
}

/// Where answers go.
type Out = dyn Write + Send;

/// The message without its code: people read it.
fn plain(error: crate::error::Error) -> anyhow::Error {
    match &error.param {
        Some(param) => anyhow!("{param}: {}", error.message),
        None => anyhow!("{}", error.message),
    }
}

const COLUMNS: [&str; 8] = ["id", "name", "status", "team", "expires", "hint", "models", "limits"];
const PAGE: usize = 500;

#[cfg(test)]
mod tests;
