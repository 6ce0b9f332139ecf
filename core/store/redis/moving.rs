//! Rows out of Redis into an export and back: the same file that sled writes, so that a store can move either way. What came in
//! is read back and added up before it takes its place; what was there goes aside, under a dated name. Rows of other gateways'
//! own are not moved.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Names, ROWS, Redis, feed,
    link::Link,
    scan,
    scripts::{self, BEGIN, COPY, PROMOTE, number, text},
    whole,
};
use crate::{
    config,
    store::{
        Directory, Exported, Header, MASTER_CHECK, Result, Row, StoreError, Table, directory::VERSION, export, exports,
        hex, tally::Tally,
    },
};

/// All rows as they are at one moment, as a file.
pub(super) async fn export(redis: &Redis, to: Option<PathBuf>) -> Result<Exported> {
    let Redis { link, names, directory, node, .. } = redis;
    let copy = Aside::new(&redis.link.config.prefix, "export");
    let keys = [&names.about, &names.rows, &names.order, &copy.rows, &copy.order].map(|name| name.as_bytes());
    let seconds = COPY_LIVES.as_secs().to_string();
    let about = link.run(&COPY, &keys, &[link.id().as_bytes(), seconds.as_bytes()], ROWS).await?;
    let (commits, key_changes) = (number(&about, 0).unwrap_or(0), number(&about, 1).unwrap_or(0));
    let mut command = ::redis::cmd("HGET");
    command.arg(&copy.rows).arg(whole(Table::Meta, node, MASTER_CHECK));
    let master = link.call(command, ROWS).await?;
    let tally = Tally { commits, keys: key_changes, ..Tally::default() };
    let header = export::header_now(tally, VERSION, scripts::bytes(&master));
    let mut out = exports::Fresh::new(directory, to)?;
    let done = async {
        let mut writer = out.writer(&header)?;
        let mut from = b"-".to_vec();
        loop {
            let page = scan(link, (&copy.rows, &copy.order), &from, b"+", PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = [b"(", last.as_slice()].concat();
            for (key, value) in &page {
                let (table, key) = plain(key, node).ok_or_else(|| StoreError::Shared {
                    at: link.at.clone(),
                    why: "it holds a row of an unknown table".to_owned(),
                })?;
                if let Some(key) = key {
                    out.row(&mut writer, table, key, value)?;
                }
            }
        }
        out.finish(writer, header.created.clone())
    };
    let done = done.await;
    let mut command = ::redis::cmd("UNLINK");
    command.arg(&copy.rows).arg(&copy.order);
    let _ = link.call(command, ROWS).await;
    done
}

/// The table and the key in it; `None` for the key: another gateway's own.
fn plain<'a>(key: &'a [u8], node: &str) -> Option<(Table, Option<&'a [u8]>)> {
    let (tag, key) = key.split_first()?;
    let table = Table::tagged(*tag)?;
    if !table.is_own() {
        return Some((table, Some(key)));
    }
    let own = key.strip_prefix(node.as_bytes()).and_then(|rest| rest.strip_prefix(&[0]));
    Some((table, own))
}

/// Names beside the store's.
struct Aside {
    rows: String,
    order: String,
}

impl Aside {
    fn new(prefix: &str, what: &str) -> Aside {
        let random = fastrand::u64(..);
        Aside {
            rows: format!("{{{prefix}}}:{what}:{random:016x}:rows"),
            order: format!("{{{prefix}}}:{what}:{random:016x}:order"),
        }
    }

    fn dated(prefix: &str, what: &str) -> Aside {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let random = fastrand::u16(..);
        let name = |end: &str| format!("{{{prefix}}}:{what}:{stamp}:{random:04x}:{end}");
        Aside { rows: name("rows"), order: name("order") }
    }
}

/// Puts an export in the place of what Redis holds under the prefix. No gateway may use it meanwhile.
pub(in crate::store) async fn import(
    config: &Arc<config::Redis>,
    path: &Path,
    file: &Path,
    replace: bool,
    fits: &(dyn Fn(&Directory, &Header) -> Result<()> + Sync),
) -> Result<Vec<String>> {
    let directory = Directory::open(path)?;
    let unreadable = |message: String| StoreError::File { path: file.to_owned(), message };
    let open = || File::open(file).map_err(|e| unreadable(format!("it cannot be read: {e}")));
    let header = export::header(open()?).map_err(unreadable)?;
    if header.layout != VERSION {
        return Err(unreadable(format!(
            "its rows are of version {}, this gateway reads version {VERSION}: use the gateway version that wrote it",
            header.layout
        )));
    }
    fits(&directory, &header)?;
    // The whole file, before anything is changed.
    let node = directory.node()?;
    let mut rows: Vec<Row> = Vec::new();
    let input = BufReader::new(open()?);
    export::read(input, |table, key, value| {
        rows.push((whole(table, &node, &key), value));
        Ok(())
    })
    .map_err(unreadable)?;

    let names = Names::new(&config.prefix);
    let link = Arc::new(Link::new(config.clone(), names.about.clone())?);
    link.open().await?;
    let (old, new) = (begin(&link, &names).await?, fresh_id()?);
    link.known(old.clone());
    if !replace && holds_keys(&link, &names).await? {
        let message = "the store there has virtual keys: --replace puts the import in its place and keeps the old rows under \
                       another name";
        return Err(StoreError::Shared { at: link.at.clone(), why: message.to_owned() });
    }
    let staged = Aside::new(&config.prefix, "import");
    let staging = async {
        stage(&link, &staged, &rows).await?;
        let mut wanted = Tally::default();
        rows.iter().for_each(|(key, value)| wanted.add(key, value));
        let mut found = Tally::default();
        let mut from = b"-".to_vec();
        loop {
            let page = scan(&link, (&staged.rows, &staged.order), &from, b"+", PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = [b"(", last.as_slice()].concat();
            page.iter().for_each(|(key, value)| found.add(key, value));
        }
        if (found.rows, found.sum) != (wanted.rows, wanted.sum) {
            let why = format!("it holds {} rows of {} that were put in, or others", found.rows, wanted.rows);
            return Err(StoreError::Shared { at: link.at.clone(), why });
        }
        Ok(wanted)
    };
    let staged_well = staging.await;
    let aside = Aside::dated(&config.prefix, "replaced");
    let promoted = match &staged_well {
        Ok(_) => promote(&link, &names, (&old, &new), &header, &staged, &aside).await,
        Err(_) => Ok(false),
    };
    if !matches!(promoted, Ok(true)) {
        let mut command = ::redis::cmd("UNLINK");
        command.arg(&staged.rows).arg(&staged.order);
        let _ = link.call(command, ROWS).await;
    }
    let tally = staged_well?;
    if !promoted? {
        let why = "gateways use it: stop all of them first (one that was killed counts for 15 s)";
        return Err(StoreError::Shared { at: link.at.clone(), why: why.to_owned() });
    }
    directory.set_shared(&format!("{new} 0\n"))?;
    let mut exists = ::redis::cmd("EXISTS");
    exists.arg(&aside.rows);
    let moved = matches!(link.call(exists, ROWS).await, Ok(::redis::Value::Int(1)));
    link.close();
    let mut notices = vec![format!(
        "imported {} rows of {} (made by {}); read back, they add up to {:016x}",
        tally.rows, header.created, header.gateway, tally.sum
    )];
    if moved {
        notices.push(format!(
            "the rows before are in redis under {} and {}: remove them there when they are of no use",
            aside.rows, aside.order
        ));
    }
    Ok(notices)
}

async fn begin(link: &Link, names: &Names) -> Result<String> {
    let fresh = fresh_id()?;
    let keys = [names.about.as_bytes(), names.rows.as_bytes()];
    let answer = link.run(&BEGIN, &keys, &[scripts::LAYOUT.as_bytes(), fresh.as_bytes()], ROWS).await?;
    Ok(text(&answer, 1).unwrap_or_default())
}

fn fresh_id() -> Result<String> {
    let mut fresh = [0; 16];
    aws_lc_rs::rand::fill(&mut fresh).map_err(|_| StoreError::File {
        path: "random".into(),
        message: "the system gave no random numbers".to_owned(),
    })?;
    Ok(hex::encode(&fresh))
}

async fn holds_keys(link: &Link, names: &Names) -> Result<bool> {
    let prefix = Table::Keys.key(b"");
    let from = [b"[", prefix.as_slice()].concat();
    let found = scan(link, (&names.rows, &names.order), &from, &super::behind(&prefix), 1).await?;
    Ok(!found.is_empty())
}

/// Rows under names of their own, which vanish by themselves if nothing comes of it.
async fn stage(link: &Link, staged: &Aside, rows: &[Row]) -> Result<()> {
    for piece in rows.chunks(PIECE) {
        let mut values = ::redis::cmd("HSET");
        let mut order = ::redis::cmd("ZADD");
        values.arg(&staged.rows);
        order.arg(&staged.order);
        for (key, value) in piece {
            values.arg(key).arg(value);
            order.arg(0).arg(key);
        }
        link.call(values, ROWS).await?;
        link.call(order, ROWS).await?;
        for name in [&staged.rows, &staged.order] {
            let mut expire = ::redis::cmd("EXPIRE");
            expire.arg(name).arg(COPY_LIVES.as_secs());
            link.call(expire, ROWS).await?;
        }
    }
    Ok(())
}

async fn promote(
    link: &Link,
    names: &Names,
    (old, new): (&str, &str),
    header: &Header,
    staged: &Aside,
    aside: &Aside,
) -> Result<bool> {
    let keys = [
        &names.about,
        &names.rows,
        &names.order,
        &names.log,
        &names.alive,
        &staged.rows,
        &staged.order,
        &aside.rows,
        &aside.order,
    ]
    .map(|name| name.as_bytes());
    let (commits, changes) = (header.commits.to_string(), header.key_changes.to_string());
    let gone = feed::GONE.as_millis().to_string();
    let args = [old, new, &commits, &changes, &gone, scripts::LAYOUT].map(str::as_bytes);
    let answer = link.run(&PROMOTE, &keys, &args, ROWS).await?;
    Ok(matches!(answer, ::redis::Value::Int(1)))
}

/// Rows in memory at a time, of an export.
const PAGE: usize = 1_000;
/// Rows in one command: at their largest 6 MB.
const PIECE: usize = 100;
/// A copy that its maker left behind.
const COPY_LIVES: Duration = Duration::from_secs(3600);
