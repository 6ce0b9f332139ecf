//! `portcullis tokens`: scoped tokens of the admin API, in the stopped store of a configuration or, with `--admin`, on a
//! running gateway.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use anyhow::{Result, anyhow};
use http::Method;
use serde_json::{Map, Value, json};

use super::either::{self, Either, all, call, cell, encoded, plain};
use crate::{
    auth::{expiry, permission::Actor, tokens::NewToken},
    cli::Exit,
    config::Place,
};

/// Tokens of the admin API: create, list, revoke. On the stopped store of the configuration, or with --admin on a running
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
    /// Make a token and show it, this once
    #[command(
        after_help = "Example:\n  portcullis tokens create --name finance --role billing --team research --expires 30d"
    )]
    Create {
        /// Whose or what it is for
        #[arg(long, default_value = "token")]
        name: String,
        /// owner, admin, operator, developer, viewer, billing
        #[arg(long = "role", value_delimiter = ',', value_name = "A,B")]
        roles: Vec<String>,
        /// Over this team alone
        #[arg(long)]
        team: Option<String>,
        /// Over this organisation alone
        #[arg(long)]
        organisation: Option<String>,
        /// On behalf of this user or service account; without a role it may do what this user may
        #[arg(long)]
        user: Option<String>,
        /// When it ends: a distance (30d, 12h) or RFC 3339
        #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
        expires: Option<SystemTime>,
        /// Print JSON
        #[arg(long, conflicts_with = "quiet")]
        json: bool,
        /// Print the token and nothing else
        #[arg(long, short)]
        quiet: bool,
    },
    /// Show all tokens (never the secrets)
    #[command(after_help = "Example:\n  portcullis tokens list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a token from the next request on
    #[command(after_help = "Example:\n  portcullis tokens revoke tok_019a0c5e2f41b7d24c10aa93")]
    Revoke {
        /// As `tokens list` shows it
        id: String,
    },
}

const EXAMPLE: &str = "Example:\n  portcullis tokens create --name finance --role billing --team research --expires 30d\n  \
    portcullis tokens list --admin http://127.0.0.1:8081";

pub fn run(args: Args, place: &Place) -> Result<Exit> {
    let Args { admin, command } = args;
    either::block(|token| async move {
        let mut out = io::stdout();
        let told = match &command {
            Command::Create { name, .. } => Some(either::Told::new("tokens.create", name)),
            Command::Revoke { id } => Some(either::Told::new("tokens.delete", id)),
            Command::List { .. } => None,
        };
        either::with(admin.as_deref(), token, place, told, async |either| act(either, command, &mut out).await).await
    })
}

async fn act(either: &Either, command: Command, out: &mut (dyn Write + Send)) -> Result<()> {
    // Whoever may write to the store's files may do everything.
    let owner = Actor::owner("command line");
    match command {
        Command::Create { name, roles, team, organisation, user, expires, json, quiet } => {
            let answer = match either {
                Either::Running(admin) => {
                    let expires = expires.map(|at| expiry::show(expiry::to_seconds(at)));
                    let mut body = Map::from_iter([("name".to_owned(), Value::from(name))]);
                    body.insert("roles".to_owned(), roles.into());
                    let more = [("team", team), ("organisation", organisation), ("user", user), ("expires", expires)];
                    body.extend(more.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?.into()))));
                    call(admin, Method::POST, "/api/v1/tokens", Some(&body.into())).await?
                }
                Either::Stopped(keys) => {
                    let new = NewToken { name, user, team, organisation, roles, expires };
                    let (mut row, secret) = keys.create_token(new, &owner).await.map_err(plain)?;
                    row["token"] = secret.expose().into();
                    row
                }
            };
            show_secret(out, &answer, json, quiet)
        }
        Command::List { json } => {
            let rows = match either {
                Either::Running(admin) => all(admin, "/api/v1/tokens").await?,
                Either::Stopped(keys) => keys.token_rows().await.map_err(plain)?,
            };
            if json {
                return Ok(writeln!(out, "{:#}", json!({ "data": rows, "next_cursor": null }))?);
            }
            if rows.is_empty() {
                return Ok(writeln!(out, "no tokens yet; portcullis tokens create --role R makes one")?);
            }
            either::table(&COLUMNS, &rows).iter().try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(())
        }
        Command::Revoke { id } => {
            let answer = match either {
                Either::Running(admin) => {
                    call(admin, Method::DELETE, &format!("/api/v1/tokens/{}", encoded(&id)), None).await?
                }
                Either::Stopped(keys) => keys.revoke_token(&id).await.map_err(plain)?,
            };
            Ok(writeln!(out, "revoked {} ({})", cell(&answer["id"]), cell(&answer["name"]))?)
        }
    }
}

fn show_secret(out: &mut (dyn Write + Send), answer: &Value, json: bool, quiet: bool) -> Result<()> {
    let token = answer["token"].as_str().ok_or_else(|| anyhow!("the answer holds no token"))?;
    if json {
        writeln!(out, "{answer:#}")?;
    } else if quiet {
        writeln!(out, "{token}")?;
    } else {
        writeln!(out, "{token}\n")?;
        for field in ["id", "name", "roles", "user", "team", "organisation", "expires"] {
            if !answer[field].is_null() {
                writeln!(out, "  {field:<12} {}", cell(&answer[field]))?;
            }
        }
        writeln!(out, "\nThis is the only time the token is shown: only its hash is kept.")?;
    }
    Ok(())
}

fn parse_expiry(text: &str) -> Result<SystemTime, String> {
    expiry::parse(text, SystemTime::now())
}

const COLUMNS: [&str; 8] = ["id", "name", "status", "roles", "user", "team", "organisation", "expires"];
