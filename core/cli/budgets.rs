//! `portcullis budgets`: what every scope may spend and has spent, on a running gateway, and raises of it for a while.

use std::io::{self, Write};

use anyhow::Result;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    admin::client::Admin,
    cli::Exit,
    config::{self, Place, Secret, env},
    provider,
};

/// Budgets of teams, keys, models and other scopes: list, raise for a while. On a running gateway, whose admin token is read
/// from PORTCULLIS_ADMIN_TOKEN.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The admin address of a running gateway. Default: that of the configuration
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
    /// Every budget: spent, reserved, left
    #[command(after_help = "Example:\n  portcullis budgets list --admin http://127.0.0.1:8081")]
    List,
    /// Raises that are in force
    #[command(after_help = "Example:\n  portcullis budgets raises --json")]
    Raises,
    /// Raise the budgets of a scope until a time
    #[command(
        after_help = "Example:\n  portcullis budgets raise team:research --usd 20 --until 12h --reason 'a deadline'"
    )]
    Raise {
        /// Its kind and name: team:research, key:key_…, model:smart, tag:env=prod
        scope: String,
        /// US dollars more
        #[arg(long, value_name = "USD")]
        usd: String,
        /// When it ends: a distance (12h, 3d) or RFC 3339
        #[arg(long, value_name = "WHEN")]
        until: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Only the budget of this window: day, week, month or total
        #[arg(long, value_name = "WINDOW")]
        per: Option<String>,
    },
    /// End a raise before its time
    #[command(after_help = "Example:\n  portcullis budgets end raise_019a0c5e2f41b7d24c10")]
    End {
        /// As `budgets raises` shows it
        id: String,
    },
}

const EXAMPLE: &str = "Example:\n  portcullis budgets list\n  \
    portcullis budgets raise team:research --usd 20 --until 12h --reason 'a deadline'";

pub fn run(args: Args, place: &Place) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(run_to(args, place, token, &mut io::stdout()))
}

async fn run_to(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    let Args { admin, json, command } = args;
    let url = match admin {
        Some(url) => url,
        None => match config::load(place, &env::var, &provider::catalog_names()) {
            Ok((config, _)) => format!("http://{}", config.admin.listen),
            Err(problems) => return Ok(super::refuse(&problems)?),
        },
    };
    let admin = Admin::new(&url, token).map_err(anyhow::Error::msg)?;
    match command {
        Command::List => list(out, all(&admin, "/api/v1/budgets").await?, &BUDGETS, json)?,
        Command::Raises => list(out, all(&admin, "/api/v1/budgets/raises").await?, &RAISES, json)?,
        Command::Raise { scope, usd, until, reason, per } => {
            let body = json!({ "scope": scope, "usd": usd, "until": until, "reason": reason, "per": per });
            let answer = call(&admin, Method::POST, "/api/v1/budgets/raise", Some(&body)).await?;
            raised(out, &answer, json)?;
        }
        Command::End { id } => {
            let path = format!("/api/v1/budgets/raises/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
            let answer = call(&admin, Method::DELETE, &path, None).await?;
            match json {
                true => writeln!(out, "{answer:#}")?,
                false => writeln!(out, "{} has ended", cell(&answer["id"]))?,
            }
        }
    }
    Ok(Exit::Done)
}

async fn all(admin: &Admin, path: &str) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    let mut page = format!("{path}?limit=500");
    loop {
        let mut answer = call(admin, Method::GET, &page, None).await?;
        rows.extend(answer["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
        let Some(next) = answer["next_cursor"].as_str() else { return Ok(rows) };
        page = format!("{path}?limit=500&cursor={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
    }
}

async fn call(admin: &Admin, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    admin.call(method, path, body).await.map_err(anyhow::Error::msg)
}

fn raised(out: &mut Out, answer: &Value, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{answer:#}")?);
    }
    let of = |field: &str| cell(&answer[field]);
    Ok(writeln!(out, "{}: {} has {} USD more until {}", of("id"), of("scope"), of("usd"), of("until"))?)
}

fn list(out: &mut Out, rows: Vec<Value>, columns: &[&str], json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{:#}", json!({ "data": rows, "next_cursor": null }))?);
    }
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|column| (*column).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(&row[*column])).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
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
        other => other.to_string(),
    }
}

/// Where answers go.
type Out = dyn Write + Send;

const BUDGETS: [&str; 8] = ["scope", "name", "per", "usd", "spent_usd", "reserved_usd", "left_usd", "resets"];
const RAISES: [&str; 6] = ["id", "scope", "per", "usd", "until", "reason"];
