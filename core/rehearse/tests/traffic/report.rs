//! What came of a simulated day, in the figures that its promises are about.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::{
    Asked,
    provider::{Call, Outcome},
};

pub struct Day {
    pub name: &'static str,
    pub length: Duration,
    pub asked: Vec<Asked>,
    /// As the records have them.
    pub attempts: u64,
    pub heard: BTreeMap<&'static str, Vec<Call>>,
    /// Of real time.
    pub real: Duration,
}

impl Day {
    pub fn new(
        name: &'static str,
        length: Duration,
        asked: Vec<Asked>,
        attempts: u64,
        heard: BTreeMap<&'static str, Vec<Call>>,
    ) -> Day {
        Day { name, length, asked, attempts, heard, real: Duration::ZERO }
    }

    /// The day as those teams saw it: their requests, and what was called for them.
    pub fn of_teams(&self, teams: &[&str]) -> Day {
        let asked: Vec<Asked> = self.asked.iter().filter(|asked| teams.contains(&asked.team)).copied().collect();
        let numbers: HashSet<u64> = asked.iter().map(|asked| asked.number).collect();
        let of = |calls: &Vec<Call>| calls.iter().filter(|call| numbers.contains(&call.request)).copied().collect();
        let heard: BTreeMap<_, Vec<Call>> = self.heard.iter().map(|(name, calls)| (*name, of(calls))).collect();
        let attempts = heard.values().map(|calls| calls.len() as u64).sum();
        Day { name: self.name, length: self.length, asked, attempts, heard, real: self.real }
    }

    /// Answers that came to their end, of a hundred requests.
    pub fn success(&self) -> f64 {
        self.share(|asked| asked.complete)
    }

    pub fn share(&self, of: impl Fn(&Asked) -> bool) -> f64 {
        100.0 * self.asked.iter().filter(|asked| of(asked)).count() as f64 / self.asked.len().max(1) as f64
    }

    /// Calls a request.
    pub fn amplification(&self) -> f64 {
        self.calls() as f64 / self.asked.len().max(1) as f64
    }

    pub fn calls(&self) -> usize {
        self.heard.values().map(Vec::len).sum()
    }

    /// What was sent although it was over what is granted.
    pub fn over(&self) -> usize {
        self.heard.values().flatten().filter(|call| call.outcome == Outcome::Over).count()
    }

    pub fn of(&self, provider: &str) -> &[Call] {
        &self.heard[provider]
    }

    /// Answered by this provider.
    pub fn answered(&self, provider: &str) -> usize {
        self.of(provider).iter().filter(|call| call.outcome == Outcome::Answered).count()
    }

    /// The most calls that a provider heard within a second, in a time.
    pub fn peak(&self, provider: &str, when: std::ops::Range<Duration>) -> usize {
        let times: Vec<Duration> =
            self.of(provider).iter().map(|call| call.at).filter(|at| when.contains(at)).collect();
        let within = |first: &Duration| times.iter().filter(|at| (*first..*first + SECOND).contains(*at)).count();
        times.iter().map(within).max().unwrap_or(0)
    }

    /// What a request lost before the call that was its last began, of complete answers.
    pub fn added(&self, per_mille: usize) -> Duration {
        let mut last: BTreeMap<u64, Duration> = BTreeMap::new();
        for call in self.heard.values().flatten() {
            let known = last.entry(call.request).or_default();
            *known = call.at.max(*known);
        }
        let numbers = self.asked.iter().filter(|asked| asked.complete);
        let lost = numbers.filter_map(|asked| Some(last.get(&asked.number)?.saturating_sub(asked.at)));
        quantile(lost.collect(), per_mille)
    }

    /// To the first word, of complete answers of those.
    pub fn first(&self, per_mille: usize, of: impl Fn(&Asked) -> bool) -> Duration {
        quantile(self.asked.iter().filter(|a| a.complete && of(a)).map(|asked| asked.first).collect(), per_mille)
    }

    /// `name | simulated | requests | answered | p99 lost | calls | over`.
    pub fn row(&self) -> String {
        let hours = self.length.as_secs_f64() / 3600.0;
        let length = match hours {
            48.0.. => format!("{:.0} days", hours / 24.0),
            1.0..48.0 => format!("{hours:.0} h"),
            _ => format!("{:.0} min", hours * 60.0),
        };
        format!(
            "| {} | {length} | {} | {:.2} % | {:.1} s | {:.2} | {} |",
            self.name,
            self.asked.len(),
            self.success(),
            self.added(990).as_secs_f64(),
            self.amplification(),
            self.over()
        )
    }
}

pub fn quantile(mut times: Vec<Duration>, per_mille: usize) -> Duration {
    times.sort();
    let at = (times.len() * per_mille).div_ceil(1000).max(1) - 1;
    times.get(at).copied().unwrap_or_default()
}

const SECOND: Duration = Duration::from_secs(1);
