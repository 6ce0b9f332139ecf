//! `portcullis usage rerate`: what recorded usage would have cost by the prices of a configuration, beside what was charged.
//! History stays as it is, unless `--write` says otherwise.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use anyhow::{Result, anyhow, bail};
use http::Method;
use serde_json::json;

use super::{Out, columns, lines, refused};
use crate::{
    account::{
        Ledger,
        price::{Rates, usd_text},
        report::{Asked, Dimension, Report},
        rerate::{Difference, Rerated, write::Written},
    },
    admin::client::Admin,
    audit::PURPOSE,
    cli::{Exit, either, stopped},
    config::{self, Config, Place, Secret, env},
    keyring::Keyring,
    provider, route,
    telemetry::Ring,
};

/// Prices recorded usage again, by the prices of this configuration (--config for another one), and says how that differs
/// from what was charged. Changes nothing without --write.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  portcullis usage rerate --from 2026-11-01 --to 2026-12-01 --by team,model --config new-prices.toml"
)]
pub struct Args {
    /// The admin address of a running gateway, whose records are priced
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Requests that were settled from here on: a day, or a time such as 2026-01-31T08:00:00Z. Default: 30 days ago
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// And before this. Default: now
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Some of organisation, team, user, key, model, target, provider, tag
    #[arg(long, value_name = "A,B", default_value = "team,model")]
    by: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Put prices in the place of what was charged: in the records and in the sums of usage. Of a stopped gateway these prices;
    /// with --admin those that run there. Budgets keep what they counted, where that was more
    #[arg(long)]
    write: bool,
}

pub async fn run(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    let asked =
        Asked { group_by: Some(args.by.clone()), from: args.from.clone(), to: args.to.clone(), ..Asked::default() };
    let report = match Report::read(asked, SystemTime::now()) {
        Ok(report) if report.bucket.is_some() => return refused("--by: windows have no place here"),
        Ok(report) => report,
        Err(fault) => return refused(&format!("--{}: {}", super::option(fault.part), fault.message)),
    };
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(crate::cli::refuse(&problems)?),
    };
    let mut prices = Prices::of(&config)?;
    let mut rerated = Rerated::default();
    let mut add = |line: &[u8]| rerated.add(line, &report.by, &mut |target| prices.find(target));
    let span = (report.from, report.to);
    if let (true, Some(url)) = (args.write, &args.admin) {
        let done = ask(&Admin::new(url, token).map_err(anyhow::Error::msg)?, span).await?;
        if args.json {
            let Written { hours, requests, left, .. } = done;
            writeln!(out, "{:#}", json!({ "hours": hours, "requests": requests, "left": left }))?;
        } else {
            told(out, done)?;
        }
        return Ok(Exit::Done);
    }
    lines(&config, args.admin.as_deref(), token, span, &mut add).await?;
    print(out, &rerated, &report.by, args.json)?;
    if args.write {
        let done = write(&config, span, &mut prices).await?;
        if !args.json {
            told(out, done)?;
        }
    }
    Ok(Exit::Done)
}

/// A running gateway, until it has no more to do.
async fn ask(admin: &Admin, (from, to): (SystemTime, SystemTime)) -> Result<Written> {
    let time = |at: SystemTime| jiff::Timestamp::try_from(at).map(|at| at.to_string());
    let (mut done, to) = (Written::default(), time(to)?);
    let mut next = Some(time(from)?);
    while let Some(from) = next {
        let body = json!({ "from": from, "to": to });
        let answer = admin.call(Method::POST, "/api/v1/usage/rerate", Some(&body)).await.map_err(anyhow::Error::msg)?;
        let count = |name: &str| answer[name].as_u64().unwrap_or(0);
        done.hours += count("hours");
        done.requests += count("requests");
        done.left += count("left");
        next = answer["next"].as_str().map(str::to_owned);
        if next.as_ref() == Some(&from) {
            bail!("the gateway does not get on from {from}; its log says why");
        }
    }
    Ok(done)
}

/// Written down in the audit log before and after.
async fn write(config: &Config, (from, to): (SystemTime, SystemTime), prices: &mut Prices) -> Result<Written> {
    stopped::with(config, super::USAGE, async |store| {
        if store.node().is_some() {
            bail!(
                "of gateways that share a store each has its own records: ask each while it runs (--write --admin URL)"
            );
        }
        let ring = Keyring::open(store, &config.secrets).await.map_err(either::plain)?;
        let ledger = Ledger::open(store.clone(), Arc::new(Ring::new(1)), SystemTime::now).await?;
        let time = |at: SystemTime| jiff::Timestamp::try_from(at).map(|at| at.strftime("%FT%TZ").to_string());
        let span = format!("{}/{}", time(from)?, time(to)?);
        let work = async { Ok(ledger.rerate((from, to), &mut |target| prices.find(target)).await?) };
        crate::cli::audit::told(store, &ring.secret_for(PURPOSE), ("usage.rerate", Some(&span)), work).await
    })
    .await
}

fn told(out: &mut Out, Written { hours, requests, left, .. }: Written) -> Result<()> {
    writeln!(out, "{requests} requests of {hours} hours have these prices now, in the records and in the sums.")?;
    if left > 0 {
        writeln!(out, "{left} requests stay as they were charged: the sums that hold them could not be told apart.")?;
    }
    Ok(())
}

/// The prices of a configuration, asked for by target.
pub struct Prices {
    table: route::Table,
    known: HashMap<String, Option<Arc<Rates>>>,
}

impl Prices {
    pub fn of(config: &Config) -> Result<Prices> {
        let table = route::Table::build(config).map_err(|problems| {
            anyhow!("{}", problems.first().map_or_else(String::new, std::string::ToString::to_string))
        })?;
        Ok(Prices { table, known: HashMap::new() })
    }

    pub fn find(&mut self, target: &str) -> Option<Arc<Rates>> {
        if let Some(known) = self.known.get(target) {
            return known.clone();
        }
        let (provider, model) = target.split_once('/')?;
        let found = self.table.provider(provider).and_then(|of| self.table.prices().find(target, of, model));
        self.known.insert(target.to_owned(), found.clone());
        found
    }
}

fn print(out: &mut Out, rerated: &Rerated, by: &[Dimension], json: bool) -> Result<()> {
    let total = rerated.total();
    if json {
        let row = |names: &[String], of: &Difference| {
            let mut row = serde_json::Map::new();
            for (dimension, name) in by.iter().zip(names) {
                row.insert(dimension.name().to_owned(), if name.is_empty() { json!(null) } else { json!(name) });
            }
            for (column, cell) in COLUMNS.iter().zip(cells(of)) {
                row.insert((*column).to_owned(), cell.parse().map_or(json!(null), serde_json::Value::Number));
            }
            serde_json::Value::Object(row)
        };
        let rows: Vec<_> = rerated.groups.iter().map(|(names, of)| row(names, of)).collect();
        let body =
            json!({ "data": rows, "total": row(&[], &total), "batches": rerated.batches, "unread": rerated.unread });
        return Ok(writeln!(out, "{body:#}")?);
    }
    let head = by.iter().map(|dimension| dimension.name()).chain(COLUMNS).map(str::to_owned).collect();
    let mut table = vec![head];
    for (names, of) in &rerated.groups {
        let names = names.iter().map(|name| if name.is_empty() { "-".to_owned() } else { name.clone() });
        table.push(names.chain(cells(of)).collect());
    }
    let blank = by.iter().enumerate().map(|(at, _)| if at == 0 { "total".to_owned() } else { String::new() });
    table.push(blank.chain(cells(&total)).collect());
    columns::write(out, &table, by.len())?;
    for sentence in sentences(rerated, &total) {
        writeln!(out, "{sentence}")?;
    }
    Ok(())
}

fn sentences(rerated: &Rerated, total: &Difference) -> Vec<String> {
    let mut said = Vec::new();
    if total.unknown_now > 0 {
        said.push(format!("{} attempts have no price now: they are left out of now_usd.", total.unknown_now));
    }
    if total.unknown_was > 0 {
        said.push(format!("{} attempts had no price then: they are left out of was_usd.", total.unknown_was));
    }
    if rerated.batches > 0 {
        said.push(format!(
            "{} rows of batches are left out: a batch is priced when it ends, request by request.",
            rerated.batches
        ));
    }
    if rerated.unread > 0 {
        said.push(format!("{} lines of the records could not be read.", rerated.unread));
    }
    said
}

fn cells(of: &Difference) -> [String; 7] {
    let Difference { attempts, unchanged, was, now, unknown_was, unknown_now } = of;
    [
        attempts.to_string(),
        unchanged.to_string(),
        usd(*was),
        usd(*now),
        usd(of.difference()),
        unknown_was.to_string(),
        unknown_now.to_string(),
    ]
}

fn usd(nano: i128) -> String {
    usd_text(i64::try_from(nano).unwrap_or(if nano < 0 { i64::MIN } else { i64::MAX }))
}

const COLUMNS: [&str; 7] =
    ["attempts", "unchanged", "was_usd", "now_usd", "difference_usd", "unknown_was", "unknown_now"];
