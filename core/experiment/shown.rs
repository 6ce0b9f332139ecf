//! Experiments as `GET /api/v1/experiments` shows them: what is configured, and how each arm fared in a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};

use super::{
    Experiments,
    figures::{Tally, Times},
    kept,
};
use crate::{
    account::{minute::Minute, price::usd_text},
    config::{
        Alias, Config,
        experiment::{LIVE, MIRROR},
    },
    store::{Result, Store},
};

/// Which hours, and of which alias.
#[derive(Debug, Clone, Default)]
pub struct Window {
    pub model: Option<String>,
    pub from: Option<SystemTime>,
    pub to: Option<SystemTime>,
}

type Sums = BTreeMap<(Arc<str>, Arc<str>), Tally>;

impl Experiments {
    /// One row an alias: those of the configuration, and others that figures are left of.
    pub async fn show(&self, config: &Config, store: &dyn Store, window: &Window) -> Result<Vec<Value>> {
        let hour = |at: SystemTime| Minute::of(at).hour().0;
        let from = window.from.map_or(0, hour);
        // The hour that a time lies in counts whole.
        let to = window.to.map_or(u32::MAX, |to| Minute::not_before(to).plus(59).hour().0);
        let mut sums = self.figures.sums(from..to);
        if let Some(own) = store.node() {
            // The others' rows are as old as their last write: some seconds.
            kept::each(store, |node, (hour, model, arm), tally| {
                if node != own && (from..to).contains(&hour) {
                    sums.entry((model, arm)).or_default().merge(&tally);
                }
            })
            .await?;
        }
        let configured = config.models.iter().filter(|(_, alias)| alias.split.is_some() || alias.mirror.is_some());
        let mut names: BTreeSet<Arc<str>> = configured.map(|(name, _)| name.as_str().into()).collect();
        names.extend(sums.keys().map(|(model, _)| model.clone()));
        names.retain(|name| window.model.as_deref().is_none_or(|wanted| wanted == &**name));
        Ok(names.iter().map(|name| experiment(name, config.models.get(&**name), &sums)).collect())
    }
}

fn experiment(name: &Arc<str>, alias: Option<&Alias>, sums: &Sums) -> Value {
    let nothing = Tally::default();
    let split = alias.and_then(|alias| alias.split.as_ref());
    let mirror = alias.and_then(|alias| alias.mirror.as_ref());
    let total: u64 = split.iter().flat_map(|split| &split.arms).map(|arm| u64::from(arm.weight)).sum();
    let of = |arm: &str| sums.get(&(name.clone(), Arc::from(arm))).unwrap_or(&nothing);
    let mut arms = Vec::new();
    let mut shown: BTreeSet<&str> = BTreeSet::from([MIRROR]);
    for arm in split.iter().flat_map(|split| &split.arms) {
        shown.insert(&arm.name);
        let mut row = figures(of(&arm.name));
        row.insert("arm".into(), arm.name.as_str().into());
        row.insert("to".into(), arm.to.as_str().into());
        row.insert("share".into(), (f64::from(arm.weight) / (total.max(1) as f64)).into());
        arms.push(Value::Object(row));
    }
    for ((_, arm), tally) in sums.iter().filter(|((model, arm), _)| model == name && !shown.contains(&**arm)) {
        let mut row = figures(tally);
        row.insert("arm".into(), (&**arm).into());
        // Figures are left of it, and nobody is given to it any more.
        row.insert("to".into(), Value::Null);
        row.insert("share".into(), f64::from(u8::from(&**arm == LIVE && split.is_none() && mirror.is_some())).into());
        arms.push(Value::Object(row));
    }
    let copies = of(MIRROR);
    let mirrored = (mirror.is_some() || copies != &nothing).then(|| {
        let mut row = figures(copies);
        row.insert("to".into(), mirror.map_or(Value::Null, |mirror| mirror.to.as_str().into()));
        row.insert("share".into(), mirror.map_or(0.0, |mirror| mirror.share).into());
        row.insert("left_out".into(), json!(copies.left_out));
        Value::Object(row)
    });
    json!({ "model": &**name, "by": split.map(|split| split.by.name()), "arms": arms, "mirror": mirrored })
}

fn figures(tally: &Tally) -> Map<String, Value> {
    let per = |sum: u64| (tally.requests > 0).then(|| sum as f64 / tally.requests as f64);
    let each = |nano: u64| tally.requests.checked_sub(tally.unknown_costs).filter(|n| *n > 0).map(|n| nano / n);
    // All its digits: never through a float.
    let money = |nano: u64| {
        let text = usd_text(i64::try_from(nano).unwrap_or(i64::MAX));
        text.parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
    };
    let notes: Map<String, Value> = tally
        .notes
        .iter()
        .map(|(name, note)| {
            let mean = (note.numbers > 0).then(|| note.sum / note.numbers as f64);
            let (least, most) = (mean.map(|_| note.least), mean.map(|_| note.most));
            (name.clone(), json!({ "count": note.count, "mean": mean, "least": least, "most": most }))
        })
        .collect();
    let row = json!({
        "requests": tally.requests,
        "errors": tally.errors,
        "error_rate": per(tally.errors),
        "refused": tally.refused,
        "left": tally.left,
        "elsewhere": tally.elsewhere,
        "attempts": tally.attempts,
        "codes": tally.codes,
        "latency_ms": times(&tally.took),
        "first_event_ms": times(&tally.first_event),
        "cost_usd": money(tally.cost_nano_usd),
        "cost_each_usd": each(tally.cost_nano_usd).map(money),
        "cost_unknown": tally.unknown_costs,
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "quality": { "next": tally.next, "unmet": tally.unmet, "notes": notes },
        "since": moment(tally.begin),
        "until": moment(tally.end),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn times(times: &Times) -> Value {
    let millis =
        |per_mille| times.quantile(per_mille).map(|time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0);
    json!({ "count": times.count(), "p50": millis(500), "p90": millis(900), "p95": millis(950), "p99": millis(990) })
}

fn moment(millis: u64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()?;
    (millis > 0).then(|| format!("{at:.3}"))
}
