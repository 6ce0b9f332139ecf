//! What quotas remember: rows of windows with the block that is leased, and of closings, in the store's table. A block is durable
//! before anything of it is used, so that a gateway which is killed never forgets; closings are written behind.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    Quotas,
    frame::{Frame, Millis, Phase},
    gate::Gate,
    meter::{Meter, Written},
};
use crate::{
    clock,
    config::Scope,
    store::{Op, StoreError, Table},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    start: Millis,
    ends: Millis,
    over: Millis,
    ceiling: u64,
    open: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unanswered: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Closed {
    until: Millis,
}

impl Quotas {
    /// Reads what is known, so that no attempt has to wait.
    pub async fn prepare(&self) {
        self.read_closings().await;
        self.tend().await;
    }

    /// Until `stop`: leases what is wanted, writes what changed, looks at the clock, and shows how all stands.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turns: u64 = 0;
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                _ = tick.tick() => {
                    turns += 1;
                    self.compare_clocks();
                    if self.desk.is_some() {
                        self.watch(&self.meters()).await;
                        self.read_closings().await;
                    }
                    self.show();
                    if turns % TIDY == 0 {
                        self.tidy().await;
                    }
                }
                () = stop.cancelled() => return,
            }
            self.tend().await;
        }
    }

    /// At the end, when everything is settled.
    pub async fn close_store(&self) {
        let Some(store) = self.store.as_ref().filter(|_| self.desk.is_none()) else { return };
        let rows = self.meters().into_iter().filter_map(|meter| {
            let written = meter.at_rest()?;
            Some(Op::put(Table::Quotas, key(&meter.whose, &meter), row(&written)))
        });
        let mut rows: Vec<Op> = rows.collect();
        rows.extend(self.closings());
        if !rows.is_empty()
            && let Err(error) = store.write(rows).await
        {
            tracing::warn!(%error, "quotas could not be closed: their blocks count as used");
        }
    }

    /// A clock that was set, and stayed so, moves no window.
    fn compare_clocks(&self) {
        if let Some(by) = self.pace.compare(clock::now(), clock::wall()) {
            tracing::warn!(milliseconds = by, "the clock was set: windows of quotas go on as long as they had left");
            self.each_gate(|_, gate| gate.shift(by));
            if self.desk.is_none() {
                self.meters().iter().for_each(|meter| meter.shift(by));
            }
        }
    }

    /// Reads counters that are new, and leases a block for each that wants one: all of them in one write.
    pub(super) async fn tend(&self) {
        let Some(store) = &self.store else { return };
        let closings = self.closings();
        if !closings.is_empty()
            && let Err(error) = store.write_soft(closings).await
        {
            tracing::warn!(%error, "closings of targets are kept in memory only for now");
            self.each_gate(|_, gate| {
                if gate.until().is_some() {
                    gate.spoiled()
                }
            });
        }
        if self.desk.is_some() {
            self.write_frames().await;
            return;
        }
        let meters = self.meters();
        for meter in meters.iter().filter(|meter| !meter.is_read()) {
            match store.read(Table::Quotas, &key(&meter.whose, meter)).await {
                Ok(read) => {
                    if read.as_deref().is_some_and(|read| parse(read).is_none()) {
                        tracing::error!(quota = %meter.whose, "its row cannot be read: it counts as used until its window ends");
                        let frame = Frame::of(&meter.every, self.now());
                        meter.load(
                            Some(Written { frame, ceiling: meter.bound(), open: true, unanswered: false }),
                            self.now(),
                        );
                    }
                    meter.load(read.as_deref().and_then(parse), self.now());
                }
                // Not silently open: without its counter no attempt goes on.
                Err(error) => tracing::error!(%error, quota = %meter.whose, "a quota could not be read"),
            }
        }
        let now = self.now();
        let asked: Vec<_> =
            meters.iter().filter_map(|meter| meter.unwritten(now).map(|written| (meter, written))).collect();
        if asked.is_empty() {
            return;
        }
        let rows = asked.iter().map(|(meter, (written, _))| match written {
            Some(written) => Op::put(Table::Quotas, key(&meter.whose, meter), row(written)),
            None => Op::remove(Table::Quotas, key(&meter.whose, meter)),
        });
        match store.write(rows.collect()).await {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("quotas are leased from the store again");
                }
            }
            // The bound holds all the same for as long as this process lives.
            Err(error) => {
                asked.iter().for_each(|(meter, _)| meter.spoiled());
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "quotas are kept in memory only until the store takes writes again");
                }
            }
        }
        for (meter, (written, number)) in asked {
            if let Some(written) = written {
                meter.grant(number, written.ceiling);
            }
        }
    }

    /// Ends of windows that turned out to be later: of those that several gateways share.
    async fn write_frames(&self) {
        let Some(store) = &self.store else { return };
        let rows = self.meters().into_iter().filter_map(|meter| {
            let frame = meter.reframed()?;
            let written = Written { frame, ceiling: 0, open: true, unanswered: false };
            Some(Op::put(Table::Quotas, key(&meter.whose, &meter), row(&written)))
        });
        let rows: Vec<Op> = rows.collect();
        if !rows.is_empty() {
            // Else it ends a moment earlier than it might.
            let _ = store.write_soft(rows).await;
        }
    }

    /// Closings that changed.
    fn closings(&self) -> Vec<Op> {
        let mut rows = Vec::new();
        self.each_gate(|name, gate| {
            if gate.unwritten() {
                let key = closing_key(name);
                rows.push(match gate.until() {
                    // One number: there is nothing in it that JSON could not say.
                    Some(until) => {
                        Op::put(Table::Quotas, key, serde_json::to_vec(&Closed { until }).unwrap_or_default())
                    }
                    None => Op::remove(Table::Quotas, key),
                });
            }
        });
        rows
    }

    /// What was closed before this process began, or is by another gateway.
    pub(super) async fn read_closings(&self) {
        let Some(store) = &self.store else { return };
        let now = self.now();
        let mut heard = std::collections::BTreeSet::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = match store.scan(Table::Quotas, CLOSED.as_bytes(), after.as_deref(), PAGE).await {
                Ok(page) => page,
                Err(error) => return tracing::debug!(%error, "closings of targets could not be read"),
            };
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                let read = || {
                    let name = std::str::from_utf8(&key).ok()?.strip_prefix(CLOSED)?.to_owned();
                    Some((name, serde_json::from_slice::<Closed>(&value).ok()?.until))
                };
                let Some((name, until)) = read().filter(|(_, until)| *until > now) else { continue };
                self.hear(&name, until, now);
                heard.insert(name);
            }
        }
        if self.desk.is_some() {
            // Another gateway found out that it is open again.
            self.each_gate(|name, gate| {
                let closed = gate.is_kept() && gate.until().is_some_and(|until| until > now);
                if closed && !heard.contains(name) && !gate.is_stale() {
                    gate.heard(None, now);
                }
            });
        }
    }

    /// Rows of windows and closings that are over.
    async fn tidy(&self) {
        if let Err(error) = self.remove_past().await {
            tracing::debug!(%error, "rows of past quotas could not be removed");
        }
    }

    async fn remove_past(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let now = self.now();
        let past = |at: Millis| at.saturating_add(KEEP) < now;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.scan(Table::Quotas, b"", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let over = |value: &[u8]| match parse(value) {
                Some(row) => row.frame.phase(now) == Phase::Past && past(row.frame.over),
                None => serde_json::from_slice::<Closed>(value).is_ok_and(|closed| past(closed.until)),
            };
            let gone: Vec<Op> =
                page.into_iter().filter(|(_, v)| over(v)).map(|(key, _)| Op::remove(Table::Quotas, key)).collect();
            if !gone.is_empty() {
                store.write_soft(gone).await?;
            }
        }
    }

    pub(super) fn meters(&self) -> Vec<Arc<Meter>> {
        let mut meters = Vec::new();
        self.each_gate(|_, gate| meters.extend(gate.meters.iter().cloned()));
        meters
    }

    /// Every gate by the name of its closing.
    pub(super) fn each_gate(&self, mut see: impl FnMut(&str, &Gate)) {
        let registry = self.registry.load_full();
        for (name, gate) in &registry.targets {
            see(&format!("target\0{name}"), gate);
        }
        for (provider, keys) in &registry.keys {
            for key in keys {
                see(&key_closing(provider, &key.print, key.model.as_deref()), &key.gate);
            }
        }
    }
}

pub(super) fn row(written: &Written) -> Vec<u8> {
    let Written { frame: Frame { start, ends, over }, ceiling, open, unanswered } = *written;
    // Plain fields: there is nothing in it that JSON could not say.
    serde_json::to_vec(&Row { start, ends, over, ceiling, open, unanswered }).unwrap_or_default()
}

pub(super) fn parse(value: &[u8]) -> Option<Written> {
    let Row { start, ends, over, ceiling, open, unanswered } = serde_json::from_slice(value).ok()?;
    Some(Written { frame: Frame { start, ends, over }, ceiling, open, unanswered })
}

/// The owner's kind and name, the unit, the window's kind: a NUL stands in none of them.
pub(super) fn key(whose: &Scope, meter: &Meter) -> Vec<u8> {
    [whose.kind(), &**whose.id(), meter.unit.name(), &meter.every.name()].join("\0").into_bytes()
}

fn closing_key(name: &str) -> Vec<u8> {
    format!("{CLOSED}{name}").into_bytes()
}

pub(super) fn key_closing(provider: &str, print: &[u8; 16], model: Option<&str>) -> String {
    let print: String = print.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("key\0{provider}\0{print}\0{}", model.unwrap_or(""))
}

/// No scope's kind: rows of windows begin with that.
const CLOSED: &str = "closed\0";
const TICK: Duration = Duration::from_secs(1);
/// In ticks.
const TIDY: u64 = 3600;
const PAGE: usize = 500;
/// Rows of what is over, in milliseconds.
const KEEP: Millis = 86_400_000;
