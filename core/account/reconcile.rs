//! The ledger beside what a provider says was used: by day and model, in tokens and dollars, with what may explain a
//! difference. Pure: both sides in, differences and sentences out. How a provider's file is read is `bill`'s.

pub mod amount;
pub mod bill;

use std::collections::BTreeMap;

use super::{catalog::is_version, price::usd_text};

/// A day, UTC, and a model; empty: all of them together.
pub type Place = (String, String);

/// What one side says of a day and a model. `None`: it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub nano_usd: Option<i128>,
    pub requests: Option<u64>,
    /// Of the ledger: attempts of an unknown cost, and those whose usage was estimated.
    pub unknown: u64,
    pub estimated: u64,
}

/// One day and model on both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub day: String,
    pub model: String,
    pub ours: Figures,
    pub theirs: Figures,
    /// Something differs by more than is tolerated.
    pub beyond: bool,
    /// What may explain it.
    pub why: Vec<String>,
}

/// In millionths of what the provider says.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance(pub u32);

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        let sum = |mine: &mut Option<u64>, theirs: Option<u64>| {
            if let Some(n) = theirs {
                *mine = Some(mine.unwrap_or(0).saturating_add(n));
            }
        };
        sum(&mut self.input_tokens, other.input_tokens);
        sum(&mut self.output_tokens, other.output_tokens);
        sum(&mut self.requests, other.requests);
        if let Some(nano) = other.nano_usd {
            self.nano_usd = Some(self.nano_usd.unwrap_or(0) + nano);
        }
        self.unknown += other.unknown;
        self.estimated += other.estimated;
    }
}

/// Both sides, day by day. Days that the provider does not speak of are not compared.
pub fn compare(ours: &BTreeMap<Place, Figures>, theirs: &BTreeMap<Place, Figures>, tolerance: Tolerance) -> Vec<Line> {
    // Costs that belong to no model cannot be told from those that do.
    let apart = theirs.keys().all(|(_, model)| !model.is_empty());
    let known: Vec<&str> = ours.keys().map(|(_, model)| model.as_str()).collect();
    let mut both: BTreeMap<Place, (Figures, Figures)> = BTreeMap::new();
    let days: Vec<&str> = theirs.keys().map(|(day, _)| day.as_str()).collect();
    for ((day, model), figures) in theirs {
        let model = if apart { same(model, &known) } else { "" };
        both.entry((day.clone(), model.to_owned())).or_default().1.add(figures);
    }
    for ((day, model), figures) in ours.iter().filter(|((day, _), _)| days.contains(&day.as_str())) {
        let model = if apart { model.clone() } else { String::new() };
        both.entry((day.clone(), model)).or_default().0.add(figures);
    }
    // An export that tells tokens and leaves a model out says that it had none; the same of costs.
    let told = [
        theirs.values().any(|figures| figures.input_tokens.is_some()),
        theirs.values().any(|figures| figures.output_tokens.is_some()),
        theirs.values().any(|figures| figures.nano_usd.is_some()),
    ];
    let whole = |mut figures: Figures| {
        figures.input_tokens = figures.input_tokens.or(told[0].then_some(0));
        figures.output_tokens = figures.output_tokens.or(told[1].then_some(0));
        figures.nano_usd = figures.nano_usd.or(told[2].then_some(0));
        figures
    };
    both.into_iter().map(|((day, model), (ours, theirs))| line(day, model, ours, whole(theirs), tolerance)).collect()
}

/// The ledger's name of a provider's model: a build of the same model is the same.
fn same<'a>(model: &'a str, known: &[&'a str]) -> &'a str {
    if known.contains(&model) {
        return model;
    }
    let base = known.iter().filter(|name| model.strip_prefix(**name).is_some_and(is_version));
    base.max_by_key(|name| name.len())
        .or_else(|| known.iter().find(|name| name.strip_prefix(model).is_some_and(is_version)))
        .copied()
        .unwrap_or(model)
}

fn line(day: String, model: String, ours: Figures, theirs: Figures, tolerance: Tolerance) -> Line {
    let beyond = |ours: i128, theirs: i128| {
        let difference = (ours - theirs).unsigned_abs();
        difference * 1_000_000 > theirs.unsigned_abs() * u128::from(tolerance.0)
    };
    let count = |ours: Option<u64>, theirs: Option<u64>| Some((i128::from(ours.unwrap_or(0)), i128::from(theirs?)));
    let input = count(ours.input_tokens, theirs.input_tokens);
    let output = count(ours.output_tokens, theirs.output_tokens);
    let money = theirs.nano_usd.map(|theirs| (ours.nano_usd.unwrap_or(0), theirs));
    let differs = |pair: Option<(i128, i128)>| pair.is_some_and(|(ours, theirs)| beyond(ours, theirs));
    let tokens = differs(input) || differs(output);
    let dollars = differs(money);
    let mut why = Vec::new();
    if tokens || dollars {
        explain(&ours, &theirs, (input, output, money), (tokens, dollars), &mut why);
    }
    Line { day, model, ours, theirs, beyond: tokens || dollars, why }
}

type Pair = Option<(i128, i128)>;

fn explain(
    ours: &Figures,
    theirs: &Figures,
    (input, output, money): (Pair, Pair, Pair),
    (tokens, dollars): (bool, bool),
    why: &mut Vec<String>,
) {
    let nothing_here = *ours == Figures::default();
    let nothing_there = theirs.input_tokens.unwrap_or(0) == 0
        && theirs.output_tokens.unwrap_or(0) == 0
        && theirs.nano_usd.unwrap_or(0) == 0;
    if nothing_here {
        why.push(
            "nothing of it went through this gateway: requests from elsewhere, or records of another gateway".into(),
        );
        return;
    }
    if nothing_there {
        why.push("the provider knows nothing of it: attempts that it does not bill, another account's key, or a file that ends earlier".into());
    }
    if ours.unknown > 0 && dollars {
        why.push(format!(
            "{} attempts have no known price and are left out of the gateway's dollars: state one in [[pricing]], then `usage rerate`",
            ours.unknown
        ));
    }
    if ours.estimated > 0 {
        why.push(format!(
            "{} attempts were estimated: their client left, or the provider told nothing of their usage",
            ours.estimated
        ));
    }
    let sum = |of: fn((i128, i128)) -> i128| [input, output].into_iter().flatten().map(of).sum::<i128>();
    let (mine, all) = (sum(|pair| pair.0), sum(|pair| pair.1));
    if tokens && !nothing_there && all > mine {
        why.push(format!(
            "the provider counted {} tokens more: requests outside the gateway, or with the same key elsewhere",
            all - mine
        ));
    }
    if tokens && !nothing_there && mine > all {
        why.push(format!(
            "the gateway counted {} tokens more: attempts that were cut off and not billed, or a day that ends at another hour",
            mine - all
        ));
    }
    let told = input.is_some() || output.is_some();
    if dollars && told && !tokens && ours.unknown == 0 {
        let (ours, theirs) = money.unwrap_or_default();
        let text = |nano: i128| usd_text(i64::try_from(nano).unwrap_or(i64::MAX));
        why.push(format!(
            "the same tokens cost {} USD there and {} here: the price differs (a discount, another service, a new price); [[pricing]] states yours",
            text(theirs),
            text(ours)
        ));
    }
    if dollars && why.is_empty() {
        why.push(
            "requests outside the gateway, or another price: compare the provider's usage as well to tell which".into(),
        );
    }
}

#[cfg(test)]
mod tests;
