//! Recorded usage at other prices, for good: lines of the ledger are written anew, hour by hour, and the sums with them. An hour
//! is changed whole or not at all, whatever ends the process; what was done already is not done again. A gateway may serve
//! meanwhile: its records wait only while the running hour's own turn lasts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::{Duration, Instant, SystemTime},
};

use tokio::runtime::Handle;

use super::{Prices, rewritten};
use crate::{
    account::{
        Ledger,
        archive::{self, Lines, replace},
        export::settled,
        hour::Hour,
        usage::recost::Recost,
    },
    store::{Files, Result, StoreError},
};

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub hours: u64,
    pub requests: u64,
    /// Requests that stay as they were charged, because the sums that hold them are not found.
    pub left: u64,
    /// Where to go on: the time was up.
    pub next: Option<SystemTime>,
}

impl Ledger {
    /// Prices what was settled in `from..to` by these prices. Nobody settles anything meanwhile.
    pub async fn rerate(&self, (from, to): (SystemTime, SystemTime), prices: &mut Prices<'_>) -> Result<Written> {
        let Some(files) = &self.files else { return Ok(Written::default()) };
        // A file that is replaced takes no lines any more.
        self.let_go();
        let mut done = Written::default();
        for hour in archive::hours(files)?.into_iter().filter(|hour| *hour >= Hour::of(from) && *hour <= Hour::of(to)) {
            let within = |line: &[u8]| settled(line).is_some_and(|at| at >= from && at < to);
            done.add(self.rerate_hour(files, hour, &within, prices).await?);
        }
        Ok(done)
    }

    /// The same while requests are settled. Blocks, and begins with no further hour after `until`. `None`: it is being done already.
    pub fn rerate_served(
        &self,
        runtime: &Handle,
        (from, to): (SystemTime, SystemTime),
        until: Instant,
        prices: &mut Prices<'_>,
    ) -> Result<Option<Written>> {
        let Ok(_alone) = self.rerating.try_lock() else { return Ok(None) };
        let mut done = Written::default();
        let Some(files) = &self.files else { return Ok(Some(done)) };
        for hour in archive::hours(files)?.into_iter().filter(|hour| *hour >= Hour::of(from) && *hour <= Hour::of(to)) {
            if Instant::now() > until {
                done.next = Some(hour.start().max(from));
                break;
            }
            let within = |line: &[u8]| settled(line).is_some_and(|at| at >= from && at < to);
            // What takes lines still, or did a moment ago, takes none until it is done.
            let running = hour >= Hour::of(self.now().checked_sub(SETTLING).unwrap_or(from));
            let _held = running.then(|| self.held());
            done.add(runtime.block_on(self.rerate_hour(files, hour, &within, prices))?);
        }
        Ok(Some(done))
    }

    /// One hour; again from the beginning when its sums went to another place meanwhile.
    async fn rerate_hour(
        &self,
        files: &Files,
        hour: Hour,
        within: &dyn Fn(&[u8]) -> bool,
        prices: &mut Prices<'_>,
    ) -> Result<Written> {
        // The sums have all lines that there are of it.
        self.sums.checkpoint().await?;
        for _ in 0..TRIES {
            if let Some(done) = self.try_rerate_hour(files, hour, within, prices).await? {
                return Ok(done);
            }
        }
        Err(StoreError::Closed)
    }

    /// `None`: somebody else changed the sums, and nothing was done.
    async fn try_rerate_hour(
        &self,
        files: &Files,
        hour: Hour,
        within: &dyn Fn(&[u8]) -> bool,
        prices: &mut Prices<'_>,
    ) -> Result<Option<Written>> {
        let mut lost: BTreeSet<Vec<u8>> = BTreeSet::new();
        let changes = loop {
            let mut changes: BTreeMap<Vec<u8>, Recost> = BTreeMap::new();
            self.each(files, hour, &mut |line| {
                let changed = within(line).then(|| rewritten(line, prices)).flatten();
                // All attempts of a request, or none.
                for (place, change) in changed.iter().filter(|of| !of.is_in(&lost)).flat_map(|of| &of.changes) {
                    changes.entry(place.clone()).or_default().add(change);
                }
                Ok(())
            })?;
            let recosted = self.sums.recost(&changes).await?;
            if recosted.lost.is_empty() {
                break changes;
            }
            lost.extend(recosted.lost);
        };
        let (mut done, mut end) = (Written::default(), 0);
        replace::make(files, hour, |out| {
            self.each(files, hour, &mut |line| {
                let changed = within(line).then(|| rewritten(line, prices)).flatten();
                let stays = changed.as_ref().is_some_and(|of| of.is_in(&lost));
                let line = match &changed {
                    Some(changed) if !stays => &changed.line,
                    _ => line,
                };
                done.left += u64::from(stays);
                done.requests += u64::from(changed.is_some() && !stays);
                end += line.len() as u64 + 1;
                out.write_all(line)
                    .and_then(|()| out.write_all(b"\n"))
                    .map_err(|source| StoreError::Io { path: "records".into(), source })
            })
        })?;
        if done.requests == 0 {
            replace::forget(files)?;
            return Ok(Some(done));
        }
        if !self.sums.recosted(&changes, hour, end).await? {
            replace::forget(files)?;
            return Ok(None);
        }
        {
            let _layout = self.layout.write().unwrap_or_else(PoisonError::into_inner);
            replace::finish(files, hour)?;
        }
        // Pages go by places in the lines, which are others now.
        self.ring.forget(hour.0);
        self.sums.rerated_done().await?;
        Ok(Some(done))
    }

    fn each(&self, files: &Files, hour: Hour, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let lines = {
            let _layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
            Lines::open(files, hour)?
        };
        let mut at = 0;
        while let Some((piece, next)) = lines.after(at)? {
            for line in piece.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                f(line)?;
            }
            at = next;
        }
        Ok(())
    }

    /// What a process that was killed had begun is brought to its end, or forgotten.
    pub(in crate::account) async fn finish_rerating(&self) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        if let Some(hour) = self.sums.rerated().await? {
            replace::finish(files, hour)?;
            self.sums.rerated_done().await?;
        }
        replace::forget(files)
    }
}

impl Written {
    fn add(&mut self, hour: Written) {
        self.hours += u64::from(hour.requests > 0);
        self.requests += hour.requests;
        self.left += hour.left;
    }
}

/// Sums go to another place once in a while, never again and again.
const TRIES: usize = 5;
/// A batch that was begun before an hour's end is in its file by then.
const SETTLING: Duration = Duration::from_secs(60);
