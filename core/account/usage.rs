//! Sums of the ledger: by minute, organisation, team, user, key, model, target and tags, so that usage is answered without
//! reading records. What came since the last note is in memory; the rest lies in the store. A note adds the one to the
//! other in one batch, together with how far in the ledger it goes: after a crash the rest is added from there, and the
//! sums are the ledger's to the last digit. Each gateway on a shared store has rows of its own; readers add them up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use tokio::sync::RwLock;

use super::{Record, hour::Hour, minute::Minute, sum::Sum};
use crate::{
    model::Usage,
    store::{Op, Result, Store, Table},
};

mod by;
mod former;
pub mod line;
mod names;
pub mod recost;
mod spent;
mod sweep;

pub use by::{By, DAY, Kind, QUARTER, TAG_END};
use by::{Grain, Place};
use line::Line;
use names::Names;
pub use names::OTHER;
pub use sweep::coarse;

pub struct Sums {
    state: Mutex<State>,
    store: Arc<dyn Store>,
    /// Which gateway adds up; empty where there is one.
    node: Box<str>,
    /// Held for writing while sums go from one place to another.
    moving: RwLock<()>,
}

#[derive(Default)]
struct State {
    /// What the store does not have yet.
    pending: HashMap<Box<[u8]>, Sum>,
    /// What is not in the ledger's file yet, by sheet: in no note, because that says how far in the file it goes.
    flying: Vec<(u64, Fresh)>,
    /// What rows of the last minutes hold in the store, so that a note need not read them.
    known: HashMap<Box<[u8]>, Sum>,
    names: Names,
    /// How far the sums go, in bytes of each hour's lines.
    covered: BTreeMap<Hour, u64>,
    /// The covering changed.
    moved: bool,
    /// Minutes before this one are counted by the quarter of an hour.
    fine: Minute,
    /// When old rows were last put together.
    swept: Hour,
    /// The tags of the request that is being counted, and the key of its row.
    tags: String,
    key: Vec<u8>,
    /// What was asked for a moment ago.
    memos: Vec<spent::Memo>,
    /// How often, so that each memo has a number of its own.
    asked: u64,
}

/// Rows, and what is added to them.
type Fresh = Vec<(Box<[u8]>, Sum)>;

impl Sums {
    /// `node`: which gateway this is among those on one store; empty where there is one.
    pub async fn open(store: Arc<dyn Store>, node: &str, now: SystemTime) -> Result<Sums> {
        let mut state = State { fine: fine(now), ..State::default() };
        former::moved(&*store, node).await?;
        if let Some(bytes) = store.read(Table::Reports, &covered_key(node)).await? {
            state.covered = covered(&bytes);
        }
        let sums = Sums { state: Mutex::new(state), store, node: node.into(), moving: RwLock::default() };
        // What this hour has seen already takes room in it.
        let hour = Minute::of(now).hour();
        let found = sums.scan(Grain::Minute, hour.into(), hour.plus(1).into(), |place, _| {
            sums.lock().names.found(place.at, &place.by);
        });
        found.await?;
        Ok(sums)
    }

    /// How far the sums go in that hour's lines. `None`: such hours were counted whole, long ago.
    pub fn covered(&self, hour: Hour) -> Option<u64> {
        let state = self.lock();
        match state.covered.get(&hour) {
            Some(to) => Some(*to),
            None => state.covered.first_key_value().is_none_or(|(first, _)| hour >= *first).then_some(0),
        }
    }

    /// Counts a request whose line is not written yet, under the number of its sheet.
    pub fn count(&self, sheet: u64, record: &Record) {
        let mut state = self.lock();
        let at = state.flying.iter().rposition(|(number, _)| *number == sheet).unwrap_or_else(|| {
            state.flying.push((sheet, Fresh::default()));
            state.flying.len() - 1
        });
        let mut fresh = std::mem::take(&mut state.flying[at].1);
        state.record(record, &self.node, &mut fresh);
        state.flying[at].1 = fresh;
    }

    /// The lines of a sheet end at `to` in that hour's file; `None`: they could not be written.
    pub fn land(&self, sheet: u64, written: Option<(Hour, u64)>) {
        let mut state = self.lock();
        if let Some(at) = state.flying.iter().position(|(number, _)| *number == sheet) {
            let (_, fresh) = state.flying.remove(at);
            state.arrive(fresh);
        }
        if let Some((hour, to)) = written {
            state.cover(hour, to);
        }
    }

    /// The same from lines of the ledger, after a crash.
    pub fn replay(&self, lines: &[u8], hour: Hour, to: u64) {
        let mut state = self.lock();
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let mut fresh = Fresh::default();
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => state.again(&line, &self.node, &mut fresh),
                Err(error) => tracing::warn!(%hour, %error, "a record cannot be read: usage goes without it"),
            }
            state.arrive(fresh);
        }
        state.cover(hour, to);
    }

    /// Notes what came. An error leaves it to the next time.
    pub async fn checkpoint(&self) -> Result<()> {
        let _alone = self.moving.write().await;
        let (pending, mark) = {
            let mut state = self.lock();
            if state.pending.is_empty() && !state.moved {
                return Ok(());
            }
            state.moved = false;
            // Nobody asks any more: what comes need not be added there.
            let now = Instant::now();
            state.memos.retain(|memo| memo.is_kept(now));
            let oldest = state.covered.last_key_value().map_or(Hour(0), |(last, _)| last.minus(COVERED_HOURS));
            state.covered = state.covered.split_off(&oldest);
            // What has a place and nothing in it flies yet.
            let pending: HashMap<Box<[u8]>, Sum> = state.pending.extract_if(|_, sum| *sum != Sum::default()).collect();
            (pending, covered_bytes(&state.covered))
        };
        let noted = self.note(&pending, mark).await;
        let mut state = self.lock();
        match noted {
            Ok(rows) => {
                let newest = rows.iter().filter_map(|(key, _)| by::time(key)).max().unwrap_or_default();
                let recent = |key: &[u8]| by::time(key).is_some_and(|at| at >= newest.minus(KNOWN_MINUTES));
                state.known.extend(rows.into_iter().map(|(key, sum)| (key.into_boxed_slice(), sum)));
                state.known.retain(|key, _| recent(key));
                if state.known.len() > MOST_KNOWN {
                    state.known.clear();
                }
                Ok(())
            }
            Err(error) => {
                state.moved = true;
                for (key, sum) in pending {
                    state.pending.entry(key).or_default().add(&sum);
                }
                Err(error)
            }
        }
    }

    /// One batch: sums and how far they go are never apart. The rows as they are now.
    async fn note(&self, pending: &HashMap<Box<[u8]>, Sum>, mark: Vec<u8>) -> Result<Vec<(Vec<u8>, Sum)>> {
        let mut rows = Vec::with_capacity(pending.len());
        let mut batch = Vec::with_capacity(pending.len() + 1);
        for (key, more) in pending {
            let known = self.lock().known.get(key).copied();
            let mut sum = match known {
                Some(sum) => sum,
                None => self.row(key).await?,
            };
            sum.add(more);
            batch.push(Op::put(Table::Reports, &**key, sum.bytes()));
            rows.push((key.to_vec(), sum));
        }
        batch.push(Op::put(Table::Reports, covered_key(&self.node), mark));
        self.store.write_soft(batch).await?;
        Ok(rows)
    }

    async fn row(&self, key: &[u8]) -> Result<Sum> {
        let row = self.store.read(Table::Reports, key).await?;
        Ok(row.and_then(|value| Sum::parse(&value)).unwrap_or_default())
    }

    /// Every sum from `from` up to and without `to`, with the minute that it counts for: of what is in the ledger's files, so
    /// that no crash takes back what was told, and of lines that a full disk did not take. What is older than sums are kept stands in `older`.
    pub async fn each(&self, from: Minute, to: Minute, f: impl FnMut(Minute, &By<'_>, &Sum)) -> Result<()> {
        let _still = self.moving.read().await;
        self.each_still(from, to, f).await
    }

    /// What is older than sums are kept, by one thing: its name and its sum, more than once on a shared store.
    pub async fn older(&self, kind: Kind, f: impl FnMut(&str, &Sum)) -> Result<()> {
        let _still = self.moving.read().await;
        self.older_still(kind, f).await
    }

    async fn each_still(&self, from: Minute, to: Minute, mut f: impl FnMut(Minute, &By<'_>, &Sum)) -> Result<()> {
        let mine: Vec<(Box<[u8]>, Sum)> = {
            let state = self.lock();
            let within = |key: &[u8]| by::time(key).is_some_and(|at| at >= from && at < to);
            state.landed().filter(|(key, _)| within(key)).map(|(key, sum)| (key.into(), *sum)).collect()
        };
        for (key, sum) in &mine {
            if let Some(Place { at, by, .. }) = by::split(key) {
                f(at, &by, sum);
            }
        }
        self.stored(from, to, f).await
    }

    /// Of them what lies in the store.
    async fn stored(&self, from: Minute, to: Minute, mut f: impl FnMut(Minute, &By<'_>, &Sum)) -> Result<()> {
        for grain in Grain::ALL {
            // A day counts where most of it lies, for whoever asks in another zone.
            let middle = if grain == Grain::Day { DAY / 2 } else { 0 };
            self.scan(grain, from.minus(middle), to.minus(middle), |place, sum| {
                f(place.at.plus(middle), &place.by, sum)
            })
            .await?;
        }
        Ok(())
    }

    async fn older_still(&self, kind: Kind, mut f: impl FnMut(&str, &Sum)) -> Result<()> {
        let prefix = by::older_prefix(kind);
        let mut after = Some(prefix.to_vec());
        while let Some(start) = after {
            let rows = self.store.scan(Table::Reports, &prefix, Some(&start), PAGE).await?;
            after = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
            for (key, value) in &rows {
                if let Some(((id, _), sum)) = by::split_older(key).zip(Sum::parse(value)) {
                    f(id, &sum);
                }
            }
        }
        Ok(())
    }

    /// Rows of the store. Key order is time order.
    async fn scan(&self, grain: Grain, from: Minute, to: Minute, mut f: impl FnMut(&Place<'_>, &Sum)) -> Result<()> {
        let mut after = (from < to).then(|| by::begin(grain, from));
        while let Some(start) = after {
            let rows = self.store.scan(Table::Reports, &[grain.byte()], Some(&start), PAGE).await?;
            after = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
            for (key, value) in &rows {
                let Some((place, sum)) = by::split(key).zip(Sum::parse(value)) else { continue };
                if place.at >= to {
                    return Ok(());
                }
                f(&place, &sum);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one attempt took.
struct Used<'a> {
    target: &'a str,
    usage: Option<&'a Usage>,
    cost: Option<i64>,
    estimated: bool,
}

impl State {
    /// What the store does not have.
    fn unnoted(&self) -> impl Iterator<Item = (&[u8], &Sum)> {
        let flying = self.flying.iter().flat_map(|(_, fresh)| fresh);
        self.landed().chain(flying.map(|(key, sum)| (&**key, sum)))
    }

    /// Of it what no crash takes away.
    fn landed(&self) -> impl Iterator<Item = (&[u8], &Sum)> {
        self.pending.iter().filter(|(_, sum)| **sum != Sum::default()).map(|(key, sum)| (&**key, sum))
    }

    fn arrive(&mut self, fresh: Fresh) {
        for (key, sum) in fresh {
            self.pending.entry(key).or_default().add(&sum);
        }
    }

    fn record(&mut self, record: &Record, node: &str, fresh: &mut Fresh) {
        let by = By {
            organisation: record.organisation.as_deref().unwrap_or(""),
            team: record.team.as_deref().unwrap_or(""),
            user: record.user.as_deref().unwrap_or(""),
            key: &record.key_id,
            model: &record.model,
            target: record.target.as_deref().unwrap_or(""),
            tags: "",
        };
        let attempts = record.ledger.iter().map(|row| Used {
            target: &row.target,
            usage: row.usage.as_ref(),
            cost: row.cost_nano_usd,
            estimated: row.estimated,
        });
        let tags = record.tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.count(&record.id, by, tags, record.status >= 400, attempts, node, fresh);
    }

    /// One request. `by` has no tags yet.
    #[expect(clippy::too_many_arguments, reason = "a request by its parts, from a record or from a line")]
    fn count<'a>(
        &mut self,
        id: &str,
        by: By<'_>,
        tags: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
        error: bool,
        attempts: impl Iterator<Item = Used<'a>> + Clone,
        node: &str,
        fresh: &mut Fresh,
    ) {
        let at = Minute::of_id(id).unwrap_or(self.fine);
        let mut tag_set = std::mem::take(&mut self.tags);
        tag_set.clear();
        if tags.len() > 0 {
            self.names.tags(at.hour(), tags, &mut tag_set);
        }
        // A name that reached nothing may be anything.
        let model = if by.target.is_empty() { "" } else { by.model };
        let by = By { model, tags: &tag_set, ..by };
        for memo in &mut self.memos {
            attempts.clone().for_each(|used| memo.add(at, &By { target: used.target, ..by }, used.cost));
        }
        let sum = self.sum(at, by, node, fresh);
        sum.requests += 1;
        sum.errors += u64::from(error);
        let mut attempts = attempts.peekable();
        // Nearly every request is one attempt at its own target: one look is enough.
        while let Some(used) = attempts.next_if(|used| used.target == by.target) {
            sum.use_up(used.usage, used.cost, used.estimated);
        }
        for Used { target, usage, cost, estimated } in attempts {
            self.sum(at, By { target, ..by }, node, fresh).use_up(usage, cost, estimated);
        }
        self.tags = tag_set;
    }

    fn again(&mut self, line: &Line, node: &str, fresh: &mut Fresh) {
        let by = By {
            organisation: line.organisation.as_deref().unwrap_or(""),
            team: line.team.as_deref().unwrap_or(""),
            user: line.user.as_deref().unwrap_or(""),
            key: line.key_id.as_deref().unwrap_or(""),
            model: &line.model,
            target: line.target.as_deref().unwrap_or(""),
            tags: "",
        };
        let usages: Vec<Option<Usage>> = line.ledger.iter().map(line::LineAttempt::usage).collect();
        let attempts = line.ledger.iter().zip(&usages).map(|(row, usage)| Used {
            target: &row.target,
            usage: usage.as_ref(),
            cost: row.cost_nano_usd(),
            estimated: row.estimated,
        });
        let tags: Vec<(&str, &str)> = line.tags().collect();
        self.count(&line.id, by, tags.into_iter(), line.status >= 400, attempts, node, fresh);
    }

    fn sum<'f>(&mut self, at: Minute, by: By<'_>, node: &str, fresh: &'f mut Fresh) -> &'f mut Sum {
        let grain = if at < self.fine { Grain::Quarter } else { Grain::Minute };
        let mut key = std::mem::take(&mut self.key);
        by::write(Place { grain, at: at.within(grain.span()), by, node }, &mut key);
        let at = fresh.iter().position(|(known, _)| **known == *key).unwrap_or_else(|| {
            if !self.pending.contains_key(&*key) && !self.known.contains_key(&*key) {
                key = self.names.key(grain, at, by, node);
                // Its place is taken before there is something in it: it is new only once.
                self.pending.entry((&*key).into()).or_default();
            }
            fresh.push(((&*key).into(), Sum::default()));
            fresh.len() - 1
        });
        self.key = key;
        &mut fresh[at].1
    }

    fn cover(&mut self, hour: Hour, to: u64) {
        self.covered.insert(hour, to);
        self.moved = true;
    }
}

/// From here on sums are kept by the minute.
fn fine(now: SystemTime) -> Minute {
    Minute::of(now).minus(MINUTES_KEPT).within(QUARTER)
}

fn covered_key(node: &str) -> Vec<u8> {
    [COVERED, node.as_bytes()].concat()
}

fn covered_bytes(covered: &BTreeMap<Hour, u64>) -> Vec<u8> {
    covered.iter().flat_map(|(hour, to)| hour.0.to_be_bytes().into_iter().chain(to.to_be_bytes())).collect()
}

fn covered(bytes: &[u8]) -> BTreeMap<Hour, u64> {
    let pair = |b: &[u8]| {
        let (hour, to) = b.split_first_chunk::<4>()?;
        Some((Hour(u32::from_be_bytes(*hour)), u64::from_be_bytes(to.try_into().ok()?)))
    };
    bytes.chunks_exact(12).filter_map(pair).collect()
}

/// Before every row.
const COVERED: &[u8] = b"\0covered\0";
/// Hours of lines whose covering is kept: what is older was counted whole.
const COVERED_HOURS: u32 = 48;
/// Reports show minutes of a day; what they have begun to read stays a while longer.
const MINUTES_KEPT: u32 = FINE_MINUTES + 120;
/// Minutes that can be asked for.
pub const FINE_MINUTES: u32 = 24 * 60;
/// Rows of so many minutes are not read again to be added to.
const KNOWN_MINUTES: u32 = 10;
const MOST_KNOWN: usize = 50_000;
const PAGE: usize = 1_000;
