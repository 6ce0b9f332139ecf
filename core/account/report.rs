//! Reports: sums of usage by anything that rows are by, and by windows of the wall clock in any zone. Says what is asked and
//! adds up, a window at a time, so that a long report need not be held; how it is written down is `table`'s.

pub mod table;
mod window;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::tz::TimeZone;

pub use window::{Bucket, Window};

use super::{
    minute::Minute,
    sum::Sum,
    usage::{By, FINE_MINUTES, Kind, QUARTER, Sums, coarse},
};
use crate::store::StoreError;

/// What can be grouped by and chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    Organisation,
    Team,
    User,
    Key,
    Model,
    Target,
    Provider,
    Tag,
}

/// What somebody asks, as text: of a URL's query, or of a command line.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Dimensions and buckets, separated by commas.
    pub group_by: Option<String>,
    pub bucket: Option<String>,
    pub zone: Option<String>,
    pub from: Option<String>,
    pub to: Option<String>,
    pub only: Vec<(Dimension, String)>,
}

/// What cannot be asked: the name of the part that is wrong, and what to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub part: &'static str,
    pub message: String,
}

/// A report that can be made.
#[derive(Debug, Clone)]
pub struct Report {
    pub by: Vec<Dimension>,
    pub bucket: Option<Bucket>,
    pub from: SystemTime,
    pub to: SystemTime,
    only: Vec<(Dimension, String)>,
    zone: TimeZone,
    /// Sums before this are kept by whole days, UTC.
    coarse: Minute,
    fine: Minute,
    /// Who asks may see these alone; `None`: all.
    seen: Option<Seen>,
}

/// Whether a sum of this team and this key may be seen.
#[derive(Clone)]
pub struct Seen(pub Sees);

/// Asked with a team and a key; empty: none.
pub type Sees = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

/// One line of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// When its window begins.
    pub window: Option<String>,
    /// In the order of `by`; empty: none.
    pub names: Vec<String>,
    pub sum: Sum,
}

/// Why there are no rows.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("there are more than {MOST_GROUPS} groups: ask for fewer dimensions, a shorter time, or one team")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Dimension {
    pub const ALL: [Dimension; 8] = [
        Dimension::Organisation,
        Dimension::Team,
        Dimension::User,
        Dimension::Key,
        Dimension::Model,
        Dimension::Target,
        Dimension::Provider,
        Dimension::Tag,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Dimension::Organisation => "organisation",
            Dimension::Team => "team",
            Dimension::User => "user",
            Dimension::Key => "key",
            Dimension::Model => "model",
            Dimension::Target => "target",
            Dimension::Provider => "provider",
            Dimension::Tag => "tag",
        }
    }

    /// Of a row; of a tag there may be several.
    fn of<'a>(self, by: &By<'a>) -> &'a str {
        match self {
            Dimension::Organisation => by.organisation,
            Dimension::Team => by.team,
            Dimension::User => by.user,
            Dimension::Key => by.key,
            Dimension::Model => by.model,
            Dimension::Target => by.target,
            Dimension::Provider => by.provider(),
            Dimension::Tag => "",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Dimension::Organisation => Kind::Organisation,
            Dimension::Team => Kind::Team,
            Dimension::User => Kind::User,
            Dimension::Key => Kind::Key,
            Dimension::Model => Kind::Model,
            Dimension::Target | Dimension::Provider => Kind::Target,
            Dimension::Tag => Kind::Tag,
        }
    }
}

impl Report {
    pub fn read(asked: Asked, now: SystemTime) -> Result<Report, Fault> {
        let zone = match asked.zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => window::zone(name).ok_or_else(|| fault("tz", "a time zone such as Europe/Berlin, or UTC"))?,
        };
        let mut bucket = asked.bucket.as_deref().map(bucket).transpose()?;
        let mut by = Vec::new();
        for name in asked.group_by.as_deref().unwrap_or("").split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match (Dimension::ALL.into_iter().find(|d| d.name() == name), Bucket::named(name)) {
                (Some(dimension), _) if by.contains(&dimension) => {
                    return Err(fault("group_by", format!("{name} stands there twice")));
                }
                (Some(dimension), _) => by.push(dimension),
                (None, Some(named)) if bucket.is_none_or(|bucket| bucket == named) => bucket = Some(named),
                (None, Some(_)) => return Err(fault("group_by", "one window at a time: minute, hour, day or month")),
                (None, None) => {
                    return Err(fault("group_by", format!("some of {}, {}", names(), Bucket::NAMES.join(", "))));
                }
            }
        }
        if by.is_empty() && bucket.is_none() && asked.group_by.is_none() {
            by.push(Dimension::Team);
        }
        let time = |part: &'static str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => window::time(text, &zone)
                .map(Some)
                .ok_or_else(|| fault(part, "a time such as 2026-01-31T08:00:00Z, or a day such as 2026-01-31")),
        };
        let to = time("to", &asked.to)?.unwrap_or(now);
        let usual = bucket.map_or(USUAL, Bucket::usual);
        // A time before 1970 has nothing before it.
        let from = time("from", &asked.from)?.unwrap_or_else(|| to.checked_sub(usual).unwrap_or(UNIX_EPOCH));
        if from > to {
            return Err(fault("from", "it is later than `to`"));
        }
        let (fine, coarse) = (Minute::of(now).minus(FINE_MINUTES), coarse(now));
        let report = Report { by, bucket, from, to, only: asked.only, zone, coarse, fine, seen: None };
        match bucket {
            Some(Bucket::Minute) if Minute::of(from) < fine => {
                Err(fault("from", "minutes are kept for 24 hours: ask for hours, or for a later time"))
            }
            Some(Bucket::Hour) if Minute::of(from) < coarse => {
                Err(fault("from", "hours are kept for 94 days: ask for days, or for a later time"))
            }
            _ if report.windows().len() > MOST_WINDOWS => Err(fault(
                "bucket",
                format!("there are more than {MOST_WINDOWS} of these: ask for longer ones, or a shorter time"),
            )),
            _ => Ok(report),
        }
    }

    /// For who may not see everything.
    pub fn seen_by(self, seen: Seen) -> Report {
        Report { seen: Some(seen), ..self }
    }

    /// In order. A report without buckets is one.
    pub fn windows(&self) -> Vec<Window> {
        let from = Minute::of(self.from);
        // What is older than a day is kept by quarters of an hour: one that has begun counts whole, like a minute.
        let from = if from < self.fine { from.within(QUARTER) } else { from };
        let to = Minute::not_before(self.to);
        match self.bucket {
            None => vec![Window { label: None, from, to }],
            Some(bucket) => window::all(bucket, &self.zone, (self.from, self.to), (from, to), MOST_WINDOWS + 1),
        }
    }

    /// A part of the time is known by whole days, UTC, only.
    pub fn is_coarse(&self) -> bool {
        Minute::of(self.from) < self.coarse
    }

    /// The rows of one window, by name.
    pub async fn rows(&self, sums: &Sums, window: &Window) -> Result<Vec<Row>, Failed> {
        let mut groups: BTreeMap<Vec<Box<str>>, Sum> = BTreeMap::new();
        let mut full = false;
        let mut add = |names: Vec<Box<str>>, sum: &Sum| {
            full |= groups.len() >= MOST_GROUPS;
            if !full || groups.contains_key(&names) {
                groups.entry(names).or_default().add(sum);
            }
        };
        sums.each(window.from, window.to, |_, by, sum| {
            if self.takes(by) {
                self.names(by, |names| add(names, sum));
            }
        })
        .await?;
        // Of what is older one thing at a time is known, which does not tell whose it was.
        if window.from == Minute(0) && self.seen.is_none() {
            self.older(sums, &mut add).await?;
        }
        if full {
            return Err(Failed::TooMany);
        }
        let row = |(names, sum): (Vec<Box<str>>, Sum)| Row {
            window: window.label.clone(),
            names: names.into_iter().map(String::from).collect(),
            sum,
        };
        Ok(groups.into_iter().map(row).collect())
    }

    fn takes(&self, by: &By<'_>) -> bool {
        if self.seen.as_ref().is_some_and(|Seen(sees)| !sees(by.team, by.key)) {
            return false;
        }
        self.only.iter().all(|(dimension, wanted)| match dimension {
            Dimension::Tag if wanted.is_empty() => by.tags.is_empty(),
            Dimension::Tag => by.tags().any(|tag| tag == wanted),
            other => other.of(by) == wanted,
        })
    }

    /// The groups that a row belongs to: one for each of its tags, where tags are asked for.
    fn names(&self, by: &By<'_>, mut f: impl FnMut(Vec<Box<str>>)) {
        let names = |tag: &str| -> Vec<Box<str>> {
            self.by.iter().map(|d| if *d == Dimension::Tag { tag } else { d.of(by) }.into()).collect()
        };
        if by.tags.is_empty() || !self.by.contains(&Dimension::Tag) {
            return f(names(""));
        }
        by.tags().for_each(|tag| f(names(tag)));
    }

    /// Of what is older than sums are kept one thing at a time is known.
    async fn older(&self, sums: &Sums, add: &mut impl FnMut(Vec<Box<str>>, &Sum)) -> Result<(), Failed> {
        let asked = match (self.by.as_slice(), self.only.as_slice()) {
            ([], []) => None,
            ([], [(only, _)]) => Some(*only),
            ([by], []) => Some(*by),
            ([by], [(only, _)]) if by == only => Some(*by),
            (_, []) => {
                let names = || self.by.iter().map(|_| OLDER.into()).collect();
                return Ok(sums.older(Kind::All, |_, sum| add(names(), sum)).await?);
            }
            // Nobody knows.
            _ => return Ok(()),
        };
        let named = !self.by.is_empty();
        let kind = asked.map_or(Kind::All, Dimension::kind);
        sums.older(kind, |id, sum| {
            let id = if asked == Some(Dimension::Provider) { id.split('/').next().unwrap_or("") } else { id };
            if self.only.iter().all(|(_, wanted)| wanted == id) {
                add(if named { vec![id.into()] } else { Vec::new() }, sum);
            }
        })
        .await?;
        Ok(())
    }
}

fn bucket(name: &str) -> Result<Bucket, Fault> {
    Bucket::named(name).ok_or_else(|| fault("bucket", format!("one of {}", Bucket::NAMES.join(", "))))
}

fn names() -> String {
    Dimension::ALL.map(Dimension::name).join(", ")
}

fn fault(part: &'static str, message: impl Into<String>) -> Fault {
    Fault { part, message: message.into() }
}

const USUAL: Duration = Duration::from_secs(30 * 86_400);
const MOST_WINDOWS: usize = 10_000;
const MOST_GROUPS: usize = 100_000;
/// The name of what was older than sums are kept, where nobody knows whose it was.
const OLDER: &str = "(older)";

#[cfg(test)]
mod tests;
