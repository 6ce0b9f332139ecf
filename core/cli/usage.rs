//! `portcullis usage`: what was used and spent, as a table on the terminal, CSV or JSON; on the stopped store of a
//! configuration or, with `--admin`, on a running gateway. Both ways give the same rows.

use std::{
    io::{self, Write},
    sync::Arc,
    time::SystemTime,
};

use anyhow::Result;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::stopped::{self, Wants};
use crate::{
    account::{
        Ledger,
        report::{Asked, Dimension, Fault, Report, table},
    },
    admin::client::Admin,
    cli::Exit,
    config::{self, Config, Place, Secret, env},
    provider,
    telemetry::Ring,
};

mod columns;
mod reconcile;
mod rerate;

/// What was used and spent: by team, user, key, model, provider or tag, by day or month of any time zone. On the stopped
/// store of the configuration, or with --admin on a running gateway, whose admin token is read from PORTCULLIS_ADMIN_TOKEN.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Price recorded usage again, by the prices of this configuration
    Rerate(rerate::Args),
    /// Compare the ledger with a provider's exported usage or costs
    Reconcile(reconcile::Args),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The admin address of a running gateway, such as http://127.0.0.1:8081
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Some of organisation, team, user, key, model, target, provider, tag. Default: team
    #[arg(long, value_name = "A,B")]
    by: Option<String>,
    /// A row for each minute, hour, day or month
    #[arg(long, value_name = "WINDOW")]
    bucket: Option<String>,
    /// The zone of days and times. Default: UTC
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Not before: a day, or a time such as 2026-01-31T08:00:00Z. Default: 30 days ago
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this. Default: now
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only of this organisation
    #[arg(long, value_name = "NAME")]
    organisation: Option<String>,
    /// Only of this team
    #[arg(long, value_name = "NAME")]
    team: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only of the key with this id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only of requests that asked for this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only of this provider/model
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only of requests with this tag
    #[arg(long, value_name = "NAME=VALUE")]
    tag: Option<String>,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "Example:\n  portcullis usage --by team,model --bucket day --tz Europe/Berlin\n  \
    portcullis usage --by provider --from 2026-11-01 --csv --admin http://127.0.0.1:8081";

pub fn run(args: Args, place: &Place) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(run_to(args, place, token, &mut io::stdout()))
}

async fn run_to(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    match args.command {
        Some(Command::Rerate(args)) => rerate::run(args, place, token, out).await,
        Some(Command::Reconcile(args)) => reconcile::run(args, place, token, out).await,
        None => show(args.show, place, token, out).await,
    }
}

async fn show(show: ShowArgs, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    if let Some(url) = &show.admin {
        let admin = Admin::new(url, token).map_err(anyhow::Error::msg)?;
        return remote(&admin, &show, out).await;
    }
    // Before the store is opened: a mistake in the question needs none.
    let report = match show.report() {
        Ok(report) => report,
        Err(Fault { part, message }) => return refused(&format!("--{}: {message}", option(part))),
    };
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::refuse(&problems)?),
    };
    with_ledger(&config, async |ledger| local(&ledger, &report, &show, out).await).await
}

impl ShowArgs {
    fn only(&self) -> Vec<(Dimension, String)> {
        let ShowArgs { organisation, team, user, key, model, target, provider, tag, .. } = self;
        let given = [organisation, team, user, key, model, target, provider, tag];
        Dimension::ALL.into_iter().zip(given).filter_map(|(of, name)| Some((of, name.clone()?))).collect()
    }

    fn report(&self) -> Result<Report, Fault> {
        let asked = Asked {
            group_by: self.by.clone(),
            bucket: self.bucket.clone(),
            zone: self.tz.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            only: self.only(),
        };
        Report::read(asked, SystemTime::now())
    }

    /// The same question to a running gateway.
    fn query(&self) -> String {
        let asked = [
            ("group_by", &self.by),
            ("bucket", &self.bucket),
            ("tz", &self.tz),
            ("from", &self.from),
            ("to", &self.to),
        ];
        let only = self.only();
        let only = only.iter().map(|(of, name)| (of.name(), name));
        let pairs = asked.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).chain(only);
        let pairs = pairs.map(|(name, value)| format!("{name}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        format!("/api/v1/usage?{}", pairs.collect::<String>())
    }
}

async fn local(ledger: &Ledger, report: &Report, show: &ShowArgs, out: &mut Out) -> Result<Exit> {
    let mut rows = Vec::new();
    if show.csv {
        out.write_all(&table::csv_head(report))?;
    }
    for window in report.windows() {
        for row in report.rows(&ledger.sums, &window).await? {
            match show.csv {
                true => out.write_all(&table::csv(report, &row))?,
                false => rows.push(table::json(report, &row)),
            }
        }
    }
    if !show.csv {
        print(out, rows, show.json)?;
    }
    Ok(Exit::Done)
}

async fn remote(admin: &Admin, show: &ShowArgs, out: &mut Out) -> Result<Exit> {
    let query = show.query();
    if show.csv {
        admin.copy(&format!("{query}format=csv"), out).await.map_err(anyhow::Error::msg)?;
        return Ok(Exit::Done);
    }
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.call(Method::GET, &format!("{query}limit=500{cursor}"), None).await;
        let mut page = page.map_err(anyhow::Error::msg)?;
        rows.extend(page["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    print(out, rows, show.json)?;
    Ok(Exit::Done)
}

fn print(out: &mut Out, rows: Vec<Value>, json: bool) -> Result<()> {
    if json {
        return Ok(writeln!(out, "{:#}", json!({ "data": rows, "next_cursor": null }))?);
    }
    if rows.is_empty() {
        return Ok(writeln!(out, "nothing was used in that time")?);
    }
    let keys: Vec<&str> = rows[0].as_object().into_iter().flat_map(|row| row.keys().map(String::as_str)).collect();
    let keys = keys.iter().take_while(|key| **key != "requests").copied();
    let figures = FIGURES.into_iter().filter(|f| SHOWN.contains(f) || rows.iter().any(|row| row[*f] != 0));
    let names: Vec<&str> = keys.chain(figures).collect();
    let mut lines = vec![names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| names.iter().map(|name| columns::cell(&row[*name])).collect()));
    let left = names.iter().take_while(|name| **name != "requests").count();
    Ok(columns::write(out, &lines, left)?)
}

/// What stands in the store of a stopped gateway.
async fn with_ledger<T>(config: &Config, work: impl AsyncFnOnce(Arc<Ledger>) -> Result<T>) -> Result<T> {
    stopped::with(config, USAGE, async |store| {
        let ring = Arc::new(Ring::new(1));
        let ledger = match store.node() {
            // Nobody else has the store: what a killed gateway did not note is counted now.
            None => Ledger::open(store.clone(), ring, SystemTime::now).await?,
            Some(node) => Ledger::look(node, store.clone(), ring, SystemTime::now).await?,
        };
        work(ledger).await
    })
    .await
}

const USAGE: Wants = Wants { kept: "usage", missing: Some("nothing ran here yet"), running: Some("") };

/// Lines of the ledger that were settled in a time, of the stopped store or of a running gateway.
async fn lines(
    config: &Config,
    admin: Option<&str>,
    token: Option<Secret>,
    (from, to): (SystemTime, SystemTime),
    f: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<()> {
    let Some(url) = admin else {
        return with_ledger(config, async |ledger| {
            Ok(ledger.lines(from, to, |line| {
                f(line);
                true
            })?)
        })
        .await;
    };
    let admin = Admin::new(url, token).map_err(anyhow::Error::msg)?;
    let time = |at: SystemTime| jiff::Timestamp::try_from(at).map(|at| at.to_string());
    let path = format!("/api/v1/requests/export?format=ndjson&from={}&to={}", time(from)?, time(to)?);
    let mut whole = Whole { rest: Vec::new(), f };
    admin.copy(&path, &mut whole).await.map_err(anyhow::Error::msg)
}

/// What comes in pieces, line by line.
struct Whole<'a> {
    rest: Vec<u8>,
    f: &'a mut (dyn FnMut(&[u8]) + Send),
}

impl Write for Whole<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(piece);
        if let Some(end) = memchr::memrchr(b'\n', &self.rest) {
            let lines: Vec<u8> = self.rest.drain(..=end).collect();
            lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()).for_each(|line| (self.f)(line));
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A question that makes no sense.
fn refused(message: &str) -> Result<Exit> {
    writeln!(io::stderr(), "portcullis: {message}")?;
    Ok(Exit::Usage)
}

/// As this command calls what the API calls so.
fn option(part: &str) -> &str {
    if part == "group_by" { "by" } else { part }
}

/// Where answers go.
type Out = dyn Write + Send;

const FIGURES: [&str; 8] = [
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cost_usd",
    "unknown_costs",
    "estimated",
];
/// Also where they are zero.
const SHOWN: [&str; 5] = ["requests", "errors", "input_tokens", "output_tokens", "cost_usd"];
