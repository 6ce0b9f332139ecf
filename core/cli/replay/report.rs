//! What a replay found, put together: counts by change, cost, examples. The same records give the same bytes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Played, Told,
    decision::{Change, Kind},
};
use crate::config::decimal;

#[derive(Debug, Default)]
pub struct Report {
    /// Against another configuration, not against the record.
    compared: bool,
    pub unreadable: usize,
    records: usize,
    whole: usize,
    blind: usize,
    figures: usize,
    left: BTreeMap<&'static str, usize>,
    changed: usize,
    counts: BTreeMap<Kind, usize>,
    /// `(kind, was, now)` and how often, with the first ids.
    ways: BTreeMap<(Kind, String, String), (usize, Vec<String>)>,
    costs: Costs,
}

/// Of requests whose cost both sides know.
#[derive(Debug, Default)]
struct Costs {
    requests: usize,
    was: i64,
    now: i64,
}

impl Report {
    pub fn new(compared: bool) -> Report {
        Report { compared, ..Report::default() }
    }

    pub fn add(&mut self, told: Told) {
        self.records += 1;
        let played = match told {
            Told::Left(why) => return *self.left.entry(why).or_default() += 1,
            Told::Played(played) => played,
        };
        let Played { id, was, now, changes, whole, blind, figures } = *played;
        self.whole += usize::from(whole);
        self.blind += usize::from(blind);
        self.figures += usize::from(figures);
        self.changed += usize::from(!changes.is_empty());
        for Change { kind, was, now } in changes {
            *self.counts.entry(kind).or_default() += 1;
            let (count, ids) = self.ways.entry((kind, was, now)).or_default();
            *count += 1;
            if ids.len() < EXAMPLES {
                ids.push(id.clone());
            }
        }
        if let (Some(was), Some(now)) = (was.cost, now.cost) {
            self.costs.requests += 1;
            self.costs.was = self.costs.was.saturating_add(was);
            self.costs.now = self.costs.now.saturating_add(now);
        }
    }

    fn replayed(&self) -> usize {
        self.records - self.left.values().sum::<usize>()
    }

    /// The most frequent first, then by name.
    fn sorted(&self) -> Vec<(Kind, &String, &String, usize, &Vec<String>)> {
        let ways = self.ways.iter().map(|((kind, was, now), (count, ids))| (*kind, was, now, *count, ids));
        let mut ways: Vec<_> = ways.collect();
        ways.sort_by_key(|(kind, _, _, count, _)| (*kind, std::cmp::Reverse(*count)));
        ways
    }

    pub fn human(&self) -> String {
        let s = |n: usize| if n == 1 { "" } else { "s" };
        let replayed = self.replayed();
        let mut lines = vec![format!(
            "{} record{}, {replayed} replayed: {} with what they said, {} by their facts",
            self.records,
            s(self.records),
            self.whole,
            replayed - self.whole
        )];
        if self.blind > 0 {
            lines.push(format!(
                "  {} of these could not be fully replayed: a stage reads text that was not kept (records.bodies = \"sealed\" keeps it)",
                self.blind
            ));
        }
        if self.figures > 0 {
            lines.push(format!(
                "  {} of these went by latency, load or quotas, and had the same targets in another order: only the figures of then would tell which is first",
                self.figures
            ));
        }
        lines.extend(self.left.iter().map(|(why, count)| format!("  {count} not replayed: {why}")));
        if self.unreadable > 0 {
            lines.push(format!("  {} line{} could not be read", self.unreadable, s(self.unreadable)));
        }
        let than = if self.compared { "the baseline's" } else { "recorded" };
        lines.push(format!("{} decision{} would be other than {than}", self.changed, s(self.changed)));
        for kind in Kind::ALL {
            let Some(count) = self.counts.get(&kind) else { continue };
            lines.push(format!("\n{:<12} {count}", kind.name()));
            let ways: Vec<_> = self.sorted().into_iter().filter(|(of, ..)| *of == kind).collect();
            for (_, was, now, count, ids) in ways.iter().take(MOST_WAYS) {
                lines.push(format!("  {count:>6}  {was} → {now}   {}", ids[..ids.len().min(2)].join(" ")));
            }
            if ways.len() > MOST_WAYS {
                lines.push(format!("          and {} more kinds of it (--json has all)", ways.len() - MOST_WAYS));
            }
        }
        let Costs { requests, was, now } = self.costs;
        if requests > 0 {
            lines.push(format!(
                "\ncost         {} → {} USD ({}{}) over {requests} request{} with known prices",
                decimal(was),
                decimal(now),
                if now >= was { "+" } else { "" },
                decimal(now.saturating_sub(was)),
                s(requests)
            ));
        }
        lines.join("\n") + "\n"
    }

    pub fn machine(&self) -> Value {
        let counts: serde_json::Map<String, Value> = Kind::ALL
            .iter()
            .map(|kind| (kind.name().to_owned(), self.counts.get(kind).copied().unwrap_or(0).into()))
            .collect();
        let change = |(kind, was, now, count, ids): (Kind, &String, &String, usize, &Vec<String>)| json!({ "kind": kind.name(), "was": was, "now": now, "count": count, "examples": ids });
        let left: Vec<Value> = self.left.iter().map(|(why, count)| json!({ "reason": why, "count": count })).collect();
        let Costs { requests, was, now } = self.costs;
        json!({
            "records": self.records,
            "replayed": self.replayed(),
            "with_bodies": self.whole,
            "not_fully": self.blind,
            "by_figures": self.figures,
            "not_replayed": left,
            "unreadable": self.unreadable,
            "baseline": if self.compared { "configuration" } else { "record" },
            "changed": self.changed,
            "counts": counts,
            "changes": self.sorted().into_iter().map(change).collect::<Vec<_>>(),
            "cost": {
                "requests": requests,
                "was_usd": decimal(was),
                "now_usd": decimal(now),
                "difference_usd": decimal(now.saturating_sub(was)),
            },
        })
    }
}

/// Request ids of one change.
const EXAMPLES: usize = 5;
/// On a terminal, of one kind.
const MOST_WAYS: usize = 10;
