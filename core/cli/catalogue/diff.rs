//! What a new catalogue would change in what runs: new, gone, changed, and changed by so much that it is likely a slip of the
//! decimal point.

use std::collections::BTreeMap;

use crate::config::{Catalogue, CatalogueRow, Prices, decimal};

#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub new: usize,
    /// Only in the file that runs now.
    pub gone: Vec<String>,
    pub same: usize,
    pub changed: Vec<String>,
    /// More than ten times, or less than a tenth.
    pub jumps: Vec<String>,
}

/// `running` is the file in use, `built_in` what holds where it says nothing.
pub fn between(running: &Catalogue, built_in: &Catalogue, made: &Catalogue) -> Changes {
    let (running, built_in, made) = (by_name(running), by_name(built_in), by_name(made));
    let mut out =
        Changes { gone: running.keys().filter(|k| !made.contains_key(*k)).cloned().collect(), ..Changes::default() };
    for (name, row) in &made {
        let Some(old) = running.get(name).or_else(|| built_in.get(name)) else {
            out.new += 1;
            continue;
        };
        // What the file prices for the first time has nothing to be compared with.
        let pairs = Prices::KEYS.iter().zip(old.sheet.prices.figures().into_iter().zip(row.sheet.prices.figures()));
        let differ: Vec<(&str, i64, i64)> =
            pairs.filter_map(|(key, (a, b))| Some((*key, a?, b?))).filter(|(_, a, b)| a != b).collect();
        let text = |list: &[(&str, i64, i64)]| {
            let all = list.iter().map(|(key, a, b)| format!("{key} {} → {}", decimal(*a), decimal(*b)));
            format!("{name}: {}", all.collect::<Vec<_>>().join(", "))
        };
        let far: Vec<_> = differ.iter().copied().filter(|(_, a, b)| is_jump(*a, *b)).collect();
        if !far.is_empty() {
            out.jumps.push(text(&far));
        }
        if differ.is_empty() && old.sheet == row.sheet {
            out.same += 1;
        } else {
            out.changed.push(if differ.is_empty() { format!("{name}: tiers or services") } else { text(&differ) });
        }
    }
    out
}

/// A price that appears or goes away altogether is as strange as one that jumps.
fn is_jump(a: i64, b: i64) -> bool {
    let (low, high) = (i128::from(a.min(b)), i128::from(a.max(b)));
    high > low * 10
}

fn by_name(catalogue: &Catalogue) -> BTreeMap<String, &CatalogueRow> {
    let named = |row: &'_ CatalogueRow| row.models.iter().map(|m| format!("{}/{m}", row.provider)).collect::<Vec<_>>();
    catalogue.rows.iter().flat_map(|row| named(row).into_iter().map(move |name| (name, row))).collect()
}

impl Changes {
    /// For people.
    pub fn told(&self) -> String {
        let Changes { new, gone, same, changed, jumps } = self;
        let mut out = format!("{new} new, {} gone, {} changed, {same} the same\n", gone.len(), changed.len());
        for (what, list) in [("gone", gone), ("changed", changed), ("more than tenfold", jumps)] {
            list.iter().take(MOST).for_each(|line| out.push_str(&format!("  {what}  {line}\n")));
            if list.len() > MOST {
                out.push_str(&format!("  {what}  and {} more\n", list.len() - MOST));
            }
        }
        out
    }
}

/// Lines of one kind.
const MOST: usize = 40;
