//! Recorded usage at other prices, for good: lines of the ledger are written anew, hour by hour, and the sums with them. An hour
//! is changed whole or not at all, whatever ends the process; what was done already is not done again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

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
}

impl Ledger {
    /// Prices what was settled in `from..to` by these prices. The ledger is this process's alone.
    pub async fn rerate(&self, (from, to): (SystemTime, SystemTime), prices: &mut Prices<'_>) -> Result<Written> {
        let Some(files) = &self.files else { return Ok(Written::default()) };
        // A file that is replaced takes no lines any more.
        self.let_go();
        let mut done = Written::default();
        for hour in archive::hours(files)?.into_iter().filter(|hour| *hour >= Hour::of(from) && *hour <= Hour::of(to)) {
            let within = |line: &[u8]| settled(line).is_some_and(|at| at >= from && at < to);
            let of_hour = self.rerate_hour(files, hour, &within, prices).await?;
            done.hours += u64::from(of_hour.requests > 0);
            done.requests += of_hour.requests;
            done.left += of_hour.left;
        }
        Ok(done)
    }

    async fn rerate_hour(
        &self,
        files: &Files,
        hour: Hour,
        within: &dyn Fn(&[u8]) -> bool,
        prices: &mut Prices<'_>,
    ) -> Result<Written> {
        let mut lost: BTreeSet<Vec<u8>> = BTreeSet::new();
        let recosted = loop {
            let mut changes: BTreeMap<Vec<u8>, Recost> = BTreeMap::new();
            each(files, hour, &mut |line| {
                let changed = within(line).then(|| rewritten(line, prices)).flatten();
                // All attempts of a request, or none.
                for (place, change) in changed.iter().filter(|of| !of.is_in(&lost)).flat_map(|of| &of.changes) {
                    changes.entry(place.clone()).or_default().add(change);
                }
                Ok(())
            })?;
            let recosted = self.sums.recost(&changes).await?;
            if recosted.lost.is_empty() {
                break recosted;
            }
            lost.extend(recosted.lost);
        };
        let (mut done, mut end) = (Written::default(), 0);
        replace::make(files, hour, |out| {
            each(files, hour, &mut |line| {
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
            return Ok(done);
        }
        if !self.sums.commit_rerated(recosted, hour, end).await? {
            replace::forget(files)?;
            return Err(StoreError::Closed);
        }
        replace::finish(files, hour)?;
        self.sums.rerated_done().await?;
        Ok(done)
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

fn each(files: &Files, hour: Hour, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let lines = Lines::open(files, hour)?;
    let mut at = 0;
    while let Some((piece, next)) = lines.after(at)? {
        for line in piece.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            f(line)?;
        }
        at = next;
    }
    Ok(())
}
