//! How quotas stand, for the API and for gauges.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Gate, Quotas, frame::Millis, gate::Pass, meter::Meter};
use crate::{
    config::{Scope, Unit},
    telemetry::metrics,
};

/// One quota of one owner; without a unit an owner that has none and was closed by its provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub whose: Scope,
    pub model: Option<Arc<str>>,
    pub unit: Option<Unit>,
    pub per: String,
    pub bound: u64,
    pub left: u64,
    /// When the window began; `None`: nothing was used yet.
    pub started: Option<SystemTime>,
    /// When all of it is there again.
    pub returns: Option<SystemTime>,
    /// Its provider closed it until then.
    pub closed: Option<SystemTime>,
    /// Until an attempt may be made; `None`: now.
    pub opens_in: Option<Duration>,
}

impl Quotas {
    /// All that there are, by owner.
    pub fn rows(&self) -> Vec<Row> {
        let now = self.now();
        let registry = self.registry.load_full();
        let mut rows = Vec::new();
        for (name, gate) in &registry.targets {
            of_gate((Scope::Target(name.clone()), None), gate, now, &mut rows);
        }
        for (provider, keys) in &registry.keys {
            for key in keys {
                let whose = Scope::ProviderKey(key_name(provider, &key.print));
                of_gate((whose, key.model.clone()), &key.gate, now, &mut rows);
            }
        }
        rows.sort_by(|a, b| (&a.whose, &a.model, a.unit, &a.per).cmp(&(&b.whose, &b.model, b.unit, &b.per)));
        rows
    }

    /// Gauges.
    pub(super) fn show(&self) {
        if self.is_idle() {
            return;
        }
        for row in self.rows() {
            let opens = row.opens_in.unwrap_or_default().as_secs_f64();
            let name: &str = row.whose.id();
            if let Some(unit) = row.unit {
                let scale = if unit == Unit::Usd { 1e9 } else { 1.0 };
                let figures = [row.bound as f64 / scale, row.left as f64 / scale, opens];
                metrics().quota(row.whose.kind(), name, (unit.name(), &row.per), figures);
            }
        }
    }
}

fn of_gate((whose, model): (Scope, Option<Arc<str>>), gate: &Gate, now: Millis, rows: &mut Vec<Row>) {
    let pass = gate.look(now);
    let closed = gate.until().filter(|until| *until > now);
    let wait = if let Pass::Closed(wait) = pass { Some(wait) } else { None };
    if gate.meters.is_empty() && closed.is_some() {
        rows.push(Row {
            whose,
            model,
            unit: None,
            per: String::new(),
            bound: 0,
            left: 0,
            started: None,
            returns: None,
            closed: closed.map(at),
            opens_in: wait,
        });
        return;
    }
    for meter in &*gate.meters {
        rows.push(of_meter((whose.clone(), model.clone()), meter, (closed, wait), now));
    }
}

fn of_meter(
    (whose, model): (Scope, Option<Arc<str>>),
    meter: &Meter,
    (closed, wait): (Option<Millis>, Option<Duration>),
    now: Millis,
) -> Row {
    let reading = meter.read(now);
    let returns = reading.returns.map(|at| Duration::from_millis(at.saturating_sub(now)));
    let spent = if reading.left == 0 { returns } else { None };
    Row {
        whose,
        model,
        unit: Some(meter.unit),
        per: meter.every.name(),
        bound: reading.bound,
        left: reading.left,
        started: reading.start.map(at),
        returns: reading.returns.map(at),
        closed: closed.map(at),
        opens_in: wait.max(spent),
    }
}

fn at(millis: Millis) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// As messages and rows call it: not the key, but enough to tell it from others.
pub fn key_name(provider: &str, print: &[u8; 16]) -> Arc<str> {
    let print: String = print.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{provider}#{print}").into()
}
