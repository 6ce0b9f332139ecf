//! `portcullis organisations`, `teams`, `users` and `service-accounts`: one command for all four, in the stopped store of a
//! configuration or, with `--admin`, on a running gateway.

use std::io::{self, Write};

use anyhow::Result;
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    either::{self, Either, all, call, cell, encoded, plain},
    terms::{TermArgs, changes},
};
use crate::{
    auth::{identities::Thing, permission::Actor},
    cli::Exit,
    config::Place,
};

/// On the stopped store of the configuration, or with --admin on a running gateway, whose admin token is read from
/// PORTCULLIS_ADMIN_TOKEN. What stands in gateway.toml is shown, and changed there.
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
    /// Make one
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        place: Belongs,
        #[command(flatten)]
        terms: TermArgs,
    },
    /// Show all
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with all that binds it
    Show {
        /// Its name
        name: String,
    },
    /// Change what is named, from the next request on; all else stays
    Change {
        /// Its name
        name: String,
        #[command(flatten)]
        place: Belongs,
        #[command(flatten)]
        terms: TermArgs,
        /// Take these away: models, operations, ip_ranges, limits, budgets, caps, tags, organisation, …
        #[arg(long, value_delimiter = ',', value_name = "A,B")]
        clear: Vec<String>,
    },
    /// Delete one; refused while others belong to it
    Delete {
        /// Its name
        name: String,
        /// Revoke its keys and tokens with it, and end what runs with them
        #[arg(long)]
        revoke_keys: bool,
    },
}

/// Where it belongs.
#[derive(Debug, clap::Args)]
struct Belongs {
    /// Of a team, or of a user without one: its organisation
    #[arg(long, value_name = "NAME")]
    organisation: Option<String>,
    /// Of a user: its teams
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    teams: Option<Vec<String>>,
    /// Of a user: owner, admin, operator, developer, viewer, billing; over its teams, or admin@team:NAME and the like
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    roles: Option<Vec<String>>,
    /// Of a user
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Keys of all that belongs to it are refused, and a user's tokens
    #[arg(long, value_name = "true|false")]
    disabled: Option<bool>,
    /// With `--disabled true`: what runs with them ends at once
    #[arg(long)]
    cut: bool,
}

const EXAMPLE: &str = "Example:\n  portcullis organisations create acme --budget 500/month\n  \
    portcullis teams create research --organisation acme --models 'smart,mock/*' --rpm 600\n  \
    portcullis users create ada --teams research --roles developer --admin http://127.0.0.1:8081";

impl Belongs {
    fn on(self, body: &mut Map<String, Value>) {
        let Belongs { organisation, teams, roles, email, disabled, cut } = self;
        let fields = [
            ("organisation", organisation.map(Value::from)),
            ("teams", teams.map(Value::from)),
            ("roles", roles.map(Value::from)),
            ("email", email.map(Value::from)),
            ("disabled", disabled.map(Value::from)),
            ("cut", cut.then_some(Value::Bool(true))),
        ];
        body.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
}

pub fn run(thing: Thing, args: Args, place: &Place) -> Result<Exit> {
    let Args { admin, command } = args;
    either::block(|token| async move {
        let mut out = io::stdout();
        let told = |verb: &str, name: &str| Some(either::Told::new(format!("{}.{verb}", path(thing)), name));
        let told = match &command {
            Command::Create { name, .. } => told("create", name),
            Command::Change { name, .. } => told("change", name),
            Command::Delete { name, .. } => told("delete", name),
            Command::List { .. } | Command::Show { .. } => None,
        };
        either::with(admin.as_deref(), token, place, told, async |either| act(thing, either, command, &mut out).await)
            .await
    })
}

async fn act(thing: Thing, either: &Either, command: Command, out: &mut (dyn Write + Send)) -> Result<()> {
    let list = format!("/api/v1/{}", path(thing));
    let one = |name: &str| format!("{list}/{}", encoded(name));
    // Whoever may write to the store's files may do everything.
    let owner = Actor::owner("command line");
    match command {
        Command::Create { name, place, terms } => {
            let mut body = terms.body()?;
            body.insert("name".to_owned(), name.into());
            place.on(&mut body);
            show(
                out,
                &match either {
                    Either::Running(admin) => call(admin, Method::POST, &list, Some(&body.into())).await?,
                    Either::Stopped(keys) => keys.create_identity(thing, body.into(), &owner).await.map_err(plain)?,
                },
            )
        }
        Command::Change { name, place, terms, clear } => {
            let mut body = changes(None, &terms, &clear)?;
            place.on(&mut body);
            show(
                out,
                &match either {
                    Either::Running(admin) => call(admin, Method::PATCH, &one(&name), Some(&body.into())).await?,
                    Either::Stopped(keys) => {
                        keys.change_identity(thing, &name, body.into(), &owner).await.map_err(plain)?
                    }
                },
            )
        }
        Command::Show { name } => show(
            out,
            &match either {
                Either::Running(admin) => call(admin, Method::GET, &one(&name), None).await?,
                Either::Stopped(keys) => keys.identity(thing, &name, &owner).await.map_err(plain)?,
            },
        ),
        Command::Delete { name, revoke_keys } => {
            let answer = match either {
                Either::Running(admin) => {
                    let keys = if revoke_keys { "?keys=revoke" } else { "" };
                    call(admin, Method::DELETE, &format!("{}{keys}", one(&name)), None).await?
                }
                Either::Stopped(keys) => {
                    keys.delete_identity(thing, &name, revoke_keys, &owner).await.map_err(plain)?
                }
            };
            let keys = answer["revoked_keys"].as_u64().unwrap_or(0);
            Ok(writeln!(out, "deleted {} {name}; {keys} keys revoked", thing.name())?)
        }
        Command::List { json } => {
            let rows = match either {
                Either::Running(admin) => all(admin, &list).await?,
                Either::Stopped(keys) => keys.identities(thing, &owner).await.map_err(plain)?,
            };
            if json {
                return Ok(writeln!(out, "{:#}", json!({ "data": rows, "next_cursor": null }))?);
            }
            if rows.is_empty() {
                return Ok(writeln!(out, "no {} yet; portcullis {} create NAME makes one", path(thing), path(thing))?);
            }
            either::table(columns(thing), &rows).iter().try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(())
        }
    }
}

fn show(out: &mut (dyn Write + Send), answer: &Value) -> Result<()> {
    for (field, value) in answer.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        writeln!(out, "{field:<12} {}", cell(value))?;
    }
    Ok(())
}

fn path(thing: Thing) -> &'static str {
    match thing {
        Thing::Organisation => "organisations",
        Thing::Team => "teams",
        Thing::User => "users",
        Thing::ServiceAccount => "service-accounts",
    }
}

fn columns(thing: Thing) -> &'static [&'static str] {
    match thing {
        Thing::Organisation => &["name", "source", "models", "limits", "budgets"],
        Thing::Team => &["name", "organisation", "source", "models", "limits", "budgets"],
        Thing::User | Thing::ServiceAccount => {
            &["name", "teams", "organisation", "roles", "email", "disabled", "source", "models"]
        }
    }
}
