//! `portcullis keys`: virtual keys from the command line, in the stopped store of a configuration or, with `--admin`, on a
//! running gateway. Both ways give the same answers.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use anyhow::{Result, anyhow};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    either::{self, Either, all, call, cell, encoded, plain},
    terms::{LimitArgs, TermArgs, changes},
};
use crate::{
    auth::{KeyInfo, Keys, NewKey, expiry, keys::Wanted, terms::TermsRow},
    cli::Exit,
    config::{Place, Secret},
};

/// Virtual keys: create, list, change, rotate, disable, revoke. On the stopped store of the configuration, or with --admin on a
/// running gateway, whose admin token is read from PORTCULLIS_ADMIN_TOKEN.
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
        /// Its team: of gateway.toml, or of `portcullis teams`
        #[arg(long)]
        team: Option<String>,
        /// Its user or service account
        #[arg(long)]
        user: Option<String>,
        /// When it ends: a distance (30d, 12h) or RFC 3339
        #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
        expires: Option<SystemTime>,
        #[command(flatten)]
        terms: TermArgs,
        /// Print JSON
        #[arg(long, conflicts_with = "quiet")]
        json: bool,
        /// Print the key and nothing else
        #[arg(long, short)]
        quiet: bool,
    },
    /// Show keys (never the secrets)
    #[command(after_help = "Example:\n  portcullis keys list --team research --status active --json")]
    List {
        /// Only keys of this team
        #[arg(long)]
        team: Option<String>,
        /// Only keys of this user
        #[arg(long)]
        user: Option<String>,
        /// Only active, disabled, expired or revoked keys
        #[arg(long)]
        status: Option<String>,
        /// Only keys with this tag: NAME, or NAME=VALUE
        #[arg(long)]
        tag: Option<String>,
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
    /// Show one key with all that binds it
    #[command(after_help = "Example:\n  portcullis keys show key_019a0c5e2f41b7d24c10aa93")]
    Show {
        /// As `keys list` shows it
        id: String,
    },
    /// Change what is named, from the next request on; all else stays
    #[command(
        after_help = "Example:\n  portcullis keys change key_019a0c5e2f41b7d24c10aa93 --models 'smart,mock/*' --max-tokens 4096"
    )]
    Change {
        /// As `keys list` shows it
        id: String,
        /// Another name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        terms: TermArgs,
        /// Take these away: models, operations, ip_ranges, limits, budgets, caps, tags, priority, expires, user, team
        #[arg(long, value_delimiter = ',', value_name = "A,B")]
        clear: Vec<String>,
    },
    /// Refuse a key until it is enabled again
    #[command(after_help = "Example:\n  portcullis keys disable key_019a0c5e2f41b7d24c10aa93 --cut")]
    Disable {
        /// As `keys list` shows it
        id: String,
        /// End what runs with it, too
        #[arg(long)]
        cut: bool,
    },
    /// Take a disabled key back into use
    #[command(after_help = "Example:\n  portcullis keys enable key_019a0c5e2f41b7d24c10aa93")]
    Enable {
        /// As `keys list` shows it
        id: String,
    },
    /// Refuse a key from the next request on, for ever
    #[command(after_help = "Example:\n  portcullis keys revoke key_019a0c5e2f41b7d24c10aa93 --cut")]
    Revoke {
        /// As `keys list` shows it
        id: String,
        /// End what runs with it, too: streams and sessions
        #[arg(long)]
        cut: bool,
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

const EXAMPLE: &str = "Example:\n  portcullis keys create --name laptop --expires 30d\n  \
    portcullis keys list --admin http://127.0.0.1:8081";
const CREATE_EXAMPLE: &str = "Example:\n  portcullis keys create --name laptop --team research --models 'smart,mock/*' --expires 30d --rpm 60\n  \
    KEY=$(portcullis keys create --name ci --quiet --admin http://127.0.0.1:8081)";

pub fn run(args: Args, place: &Place) -> anyhow::Result<Exit> {
    either::block(|token| async move { run_to(args, place, token, &mut io::stdout()).await })
}

async fn run_to(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    let Args { admin, command } = args;
    let told = told(&command);
    either::with(admin.as_deref(), token, place, told, async |either| match either {
        Either::Running(admin) => remote(admin, command, out).await,
        Either::Stopped(keys) => local(keys, command, out).await,
    })
    .await
}

/// What the audit log calls it; nothing where nothing is changed.
fn told(command: &Command) -> Option<either::Told> {
    Some(match command {
        Command::Create { name, .. } => either::Told::new("keys.create", name),
        Command::Rotate { id, .. } => either::Told::new("keys.rotate", id),
        Command::Limit { id, .. } | Command::Change { id, .. } => either::Told::new("keys.change", id),
        Command::Disable { id, .. } => either::Told::new("keys.disable", id),
        Command::Enable { id, .. } => either::Told::new("keys.enable", id),
        Command::Revoke { id, .. } => either::Told::new("keys.delete", id),
        Command::List { .. } | Command::Show { .. } => return None,
    })
}

async fn local(keys: &Keys, command: Command, out: &mut Out) -> Result<()> {
    let change = async |id: &str, body: Map<String, Value>| keys.change(id, body).await.map_err(plain);
    match command {
        Command::Create { name, team, user, expires, terms, json, quiet } => {
            if let Some(team) = team.as_deref().filter(|team| !keys.table().knows_team(team)) {
                writeln!(io::stderr(), "note: {}", crate::admin::no_such_team(team))?;
            }
            let mut row = TermsRow::default();
            row.take(&mut terms.body()?).map_err(plain)?;
            let new = NewKey { name, team, user, expires, terms: row };
            let (info, secret) = keys.create(new).await.map_err(plain)?;
            show_secret(out, &with_secret(&info, &secret), json, quiet)
        }
        Command::Rotate { id, overlap, json, quiet } => {
            let (info, secret) = keys.rotate(&id, overlap).await.map_err(plain)?;
            show_secret(out, &with_secret(&info, &secret), json, quiet)
        }
        Command::Limit { id, limits } => {
            show_limits(out, &json!(keys.set_limits(&id, limits.limits()).await.map_err(plain)?))
        }
        Command::Change { id, name, terms, clear } => {
            show_key(out, &change(&id, changes(name, &terms, &clear)?).await?.json())
        }
        Command::Disable { id, cut } => show_key(out, &change(&id, disabled(true, cut)).await?.json()),
        Command::Enable { id } => show_key(out, &change(&id, disabled(false, false)).await?.json()),
        Command::Show { id } => show_key(out, &keys.one(&id).await.map_err(plain)?.json()),
        Command::Revoke { id, cut } => show_revoked(out, &json!(keys.revoke(&id, cut).await.map_err(plain)?)),
        Command::List { team, user, status, tag, json } => {
            let wanted = Wanted { team, user, status, tag, name: None };
            let mut rows: Vec<Value> = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let page = keys.list(after.as_deref(), PAGE).await.map_err(plain)?;
                let Some(last) = page.last() else { break };
                after = Some(last.id.clone());
                rows.extend(page.iter().filter(|info| wanted.takes(info)).map(KeyInfo::json));
            }
            show_list(out, rows, json)
        }
    }
}

async fn remote(admin: &crate::admin::client::Admin, command: Command, out: &mut Out) -> Result<()> {
    let path = |id: &str| format!("/api/v1/keys/{}", encoded(id));
    let change =
        async |id: &str, body: Map<String, Value>| call(admin, Method::PATCH, &path(id), Some(&body.into())).await;
    match command {
        Command::Create { name, team, user, expires, terms, json, quiet } => {
            let expires = expires.map(|at| expiry::show(expiry::to_seconds(at)));
            let mut body = terms.body()?;
            for (field, value) in [("name", Some(name)), ("team", team), ("user", user), ("expires", expires)] {
                body.extend(value.map(|value| (field.to_owned(), Value::from(value))));
            }
            let answer = call(admin, Method::POST, "/api/v1/keys", Some(&body.into())).await?;
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
            let body = Map::from_iter([("limits".to_owned(), json!(limits.limits()))]);
            show_limits(out, &change(&id, body).await?)
        }
        Command::Change { id, name, terms, clear } => {
            show_key(out, &change(&id, changes(name, &terms, &clear)?).await?)
        }
        Command::Disable { id, cut } => show_key(out, &change(&id, disabled(true, cut)).await?),
        Command::Enable { id } => show_key(out, &change(&id, disabled(false, false)).await?),
        Command::Show { id } => show_key(out, &call(admin, Method::GET, &path(&id), None).await?),
        Command::Revoke { id, cut } => {
            let cut = if cut { "?cut=true" } else { "" };
            show_revoked(out, &call(admin, Method::DELETE, &format!("{}{cut}", path(&id)), None).await?)
        }
        Command::List { team, user, status, tag, json } => {
            let asked = [("team", team), ("user", user), ("status", status), ("tag", tag)];
            let asked = asked.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))));
            let query = asked.collect::<Vec<_>>().join("&");
            let path = if query.is_empty() { String::new() } else { format!("?{query}") };
            show_list(out, all(admin, &format!("/api/v1/keys{path}")).await?, json)
        }
    }
}

fn disabled(disabled: bool, cut: bool) -> Map<String, Value> {
    let mut body = Map::from_iter([("disabled".to_owned(), disabled.into())]);
    body.extend(cut.then(|| ("cut".to_owned(), true.into())));
    body
}

fn show_secret(out: &mut Out, answer: &Value, json: bool, quiet: bool) -> Result<()> {
    let key = answer["key"].as_str().ok_or_else(|| anyhow!("the answer holds no key"))?;
    if json {
        writeln!(out, "{answer:#}")?;
    } else if quiet {
        writeln!(out, "{key}")?;
    } else {
        writeln!(out, "{key}\n")?;
        for field in ["id", "name", "team", "user", "models", "limits", "budgets", "expires", "former_secret_until"] {
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
    either::table(&COLUMNS, &rows).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(())
}

/// All that is known of it.
fn show_key(out: &mut Out, answer: &Value) -> Result<()> {
    for (field, value) in answer.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        writeln!(out, "{field:<10} {}", cell(value))?;
    }
    Ok(())
}

fn with_secret(info: &KeyInfo, secret: &Secret) -> Value {
    let mut answer = info.json();
    answer["key"] = secret.expose().into();
    answer
}

fn parse_expiry(text: &str) -> Result<SystemTime, String> {
    expiry::parse(text, SystemTime::now())
}

/// Where answers go.
type Out = dyn Write + Send;

const COLUMNS: [&str; 9] = ["id", "name", "status", "team", "user", "expires", "hint", "models", "limits"];
const PAGE: usize = 500;

#[cfg(test)]
mod tests;
