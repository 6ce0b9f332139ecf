//! `portcullis usage reconcile`: the ledger beside a provider's export of usage or costs, by day and model. Ends with 1 when
//! they differ by more than is tolerated, so that a job can watch it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Out, columns, refused, with_ledger};
use crate::{
    account::{
        price::usd_text,
        reconcile::{
            Figures, Line, Place as At, Tolerance, amount,
            bill::{Bill, Columns},
            compare,
        },
        report::{Asked, Dimension, Report, table},
    },
    admin::client::Admin,
    cli::Exit,
    config::{self, Place, Secret, env},
    provider,
};

/// Compares the ledger with what a provider says was used: the JSON of OpenAI's usage and costs APIs and of Anthropic's usage
/// and cost reports, their CSV exports, or any table whose columns are named. Ends with 1 when they differ.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Whose usage it is: the name of a provider in gateway.toml
    #[arg(long, value_name = "NAME")]
    provider: String,
    /// What was exported; usage and costs may lie in several files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Columns of a table: day=Date,model=Model,input=…,output=…,cost=…,requests=…
    #[arg(long, value_name = "KEY=COLUMN,…", value_parser = Columns::parse)]
    columns: Option<Columns>,
    /// A difference that is none, in percent of what the provider says
    #[arg(long, value_name = "PERCENT", default_value = "0.5", value_parser = tolerance)]
    tolerance: Tolerance,
    /// Days from this one on, UTC
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// And before this one
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// The admin address of a running gateway, whose ledger is compared
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "Example:\n  portcullis usage reconcile --provider openai usage.json costs.json\n  \
    portcullis usage reconcile --provider house --columns day=Date,model=Model,cost=USD bill.csv --tolerance 1";

pub async fn run(args: Args, place: &Place, token: Option<Secret>, out: &mut Out) -> Result<Exit> {
    let mut bill = Bill::default();
    for file in &args.files {
        if let Err(message) = read(file).map(|text| bill.read(&text, args.columns.as_ref()))? {
            bail!("{}: {message}", file.display());
        }
    }
    let within =
        |day: &String| args.from.as_ref().is_none_or(|from| day >= from) && args.to.as_ref().is_none_or(|to| day < to);
    bill.lines.retain(|(day, _), _| within(day));
    let (Some(((first, _), _)), Some(((last, _), _))) = (bill.lines.first_key_value(), bill.lines.last_key_value())
    else {
        bail!("the export says nothing of that time");
    };
    let end = last.parse::<jiff::civil::Date>()?.tomorrow()?.to_string();
    let asked = Asked {
        group_by: Some("target".into()),
        bucket: Some("day".into()),
        from: Some(first.clone()),
        to: Some(end),
        only: vec![(Dimension::Provider, args.provider.clone())],
        ..Asked::default()
    };
    let report = match Report::read(asked.clone(), SystemTime::now()) {
        Ok(report) => report,
        Err(fault) => return refused(&fault.message),
    };
    let rows = match &args.admin {
        Some(url) => remote(url, token, &asked).await?,
        None => {
            let config = match config::load(place, &env::var, &provider::catalog_names()) {
                Ok((config, _)) => config,
                Err(problems) => return Ok(crate::cli::refuse(&problems)?),
            };
            with_ledger(&config, async |ledger| {
                let mut rows = Vec::new();
                for window in report.windows() {
                    let found = report.rows(&ledger.sums, &window).await?;
                    rows.extend(found.iter().map(|row| table::json(&report, row)));
                }
                Ok(rows)
            })
            .await?
        }
    };
    let lines = compare(&ours(&rows), &bill.lines, args.tolerance);
    print(out, &lines, args.json)?;
    if bill.cut && !args.json {
        writeln!(out, "note: the export's last page says that there are more: fetch them all")?;
    }
    Ok(if lines.iter().any(|line| line.beyond) { Exit::Failed } else { Exit::Done })
}

/// What the ledger says, by day and model.
fn ours(rows: &[Value]) -> BTreeMap<At, Figures> {
    let mut ours: BTreeMap<At, Figures> = BTreeMap::new();
    for row in rows {
        let target = row["target"].as_str().unwrap_or("");
        let model = target.split_once('/').map_or(target, |(_, model)| model);
        let count = |name: &str| row[name].as_u64();
        let figures = Figures {
            input_tokens: count("input_tokens"),
            output_tokens: count("output_tokens"),
            nano_usd: amount::nano(&row["cost_usd"].to_string(), 9),
            requests: count("attempts"),
            unknown: count("unknown_costs").unwrap_or(0),
            estimated: count("estimated").unwrap_or(0),
        };
        let day = row["day"].as_str().unwrap_or("").to_owned();
        ours.entry((day, model.to_owned())).or_default().add(&figures);
    }
    ours
}

async fn remote(url: &str, token: Option<Secret>, asked: &Asked) -> Result<Vec<Value>> {
    let admin = Admin::new(url, token).map_err(anyhow::Error::msg)?;
    let text = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let provider = asked.only.first().map_or("", |(_, name)| name.as_str());
    let (from, to) = (asked.from.as_deref().unwrap_or(""), asked.to.as_deref().unwrap_or(""));
    let query = format!("group_by=target&bucket=day&from={from}&to={to}&provider={}&limit=500", text(provider));
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.call(Method::GET, &format!("/api/v1/usage?{query}{cursor}"), None).await;
        let mut page = page.map_err(anyhow::Error::msg)?;
        rows.extend(page["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
        let Some(next) = page["next_cursor"].as_str() else { return Ok(rows) };
        cursor = format!("&cursor={next}");
    }
}

fn print(out: &mut Out, lines: &[Line], json: bool) -> Result<()> {
    if json {
        let side = |of: &Figures| {
            json!({ "input_tokens": of.input_tokens, "output_tokens": of.output_tokens,
                "cost_usd": of.nano_usd.and_then(|nano| usd(nano).parse::<serde_json::Number>().ok()), "requests": of.requests })
        };
        let row = |line: &Line| {
            json!({ "day": line.day, "model": (!line.model.is_empty()).then_some(&line.model), "gateway": side(&line.ours),
                "provider": side(&line.theirs), "beyond": line.beyond, "why": line.why })
        };
        let differs = lines.iter().any(|line| line.beyond);
        let body = json!({ "data": lines.iter().map(row).collect::<Vec<_>>(), "differs": differs });
        return Ok(writeln!(out, "{body:#}")?);
    }
    let mut table = vec![HEAD.map(str::to_owned).to_vec()];
    for Line { day, model, ours, theirs, beyond, .. } in lines {
        let count = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let money = |nano: Option<i128>| nano.map_or_else(|| "-".to_owned(), usd);
        let model = if model.is_empty() { "(all)" } else { model };
        table.push(vec![
            day.clone(),
            columns::cell(&model.into()),
            count(ours.input_tokens),
            count(theirs.input_tokens),
            count(ours.output_tokens),
            count(theirs.output_tokens),
            money(ours.nano_usd),
            money(theirs.nano_usd),
            if *beyond { "differs" } else { "" }.to_owned(),
        ]);
    }
    columns::write(out, &table, 2)?;
    for line in lines.iter().filter(|line| line.beyond) {
        let model = if line.model.is_empty() { "all models" } else { &line.model };
        writeln!(out, "{} {}: {}", line.day, columns::cell(&model.into()), line.why.join("; "))?;
    }
    let beyond = lines.iter().filter(|line| line.beyond).count();
    match beyond {
        0 => writeln!(out, "ledger and provider agree")?,
        n => writeln!(out, "{n} of {} differ by more than is tolerated", lines.len())?,
    }
    Ok(())
}

/// In percent, as decimal text.
fn tolerance(text: &str) -> Result<Tolerance, String> {
    let millionths = amount::nano(text.trim_end_matches('%'), 4).and_then(|n| u32::try_from(n).ok());
    millionths
        .filter(|n| *n <= 1_000_000)
        .map(Tolerance)
        .ok_or_else(|| "a percentage from 0 to 100, such as 0.5".to_owned())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let open = || -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        File::open(file)?.take(MOST + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = open().with_context(|| format!("{} cannot be read", file.display()))?;
    if text.len() as u64 > MOST {
        bail!("{} is larger than {} MiB", file.display(), MOST >> 20);
    }
    Ok(text)
}

fn usd(nano: i128) -> String {
    usd_text(i64::try_from(nano).unwrap_or(if nano < 0 { i64::MIN } else { i64::MAX }))
}

const HEAD: [&str; 9] = ["day", "model", "input", "provider's", "output", "provider's", "cost_usd", "provider's", ""];
const MOST: u64 = 256 << 20;
