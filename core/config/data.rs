//! Where data may be and what may become of it: what a target promises (`Handling`), and what a team or another scope demands
//! (`DataPolicy`). Plain data and one pure question; what nobody promised is not there.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{file, text};

/// What becomes of data that is sent to a target, as whoever runs the gateway states it; `None`: nothing is stated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handling {
    /// In lower case.
    pub region: Option<Arc<str>>,
    /// How long prompts and answers are kept there; zero: not at all.
    pub retention: Option<Duration>,
    /// Models are trained with it.
    pub train: Option<bool>,
}

/// What all targets of a scope's requests must promise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataPolicy {
    /// One of these, in lower case; empty: any.
    pub regions: Arc<[String]>,
    /// At most so long.
    pub retention: Option<Duration>,
    /// Nothing is trained with it.
    pub no_training: bool,
}

impl Handling {
    /// What this one leaves open, `other` says.
    pub fn or(&self, other: &Handling) -> Handling {
        Handling {
            region: self.region.clone().or_else(|| other.region.clone()),
            retention: self.retention.or(other.retention),
            train: self.train.or(other.train),
        }
    }
}

impl DataPolicy {
    /// What a target lacks to satisfy it: each point in words. `None`: it satisfies it.
    pub fn broken_by(&self, handling: &Handling) -> Option<String> {
        let mut why = Vec::new();
        if !self.regions.is_empty()
            && !handling.region.as_ref().is_some_and(|at| self.regions.iter().any(|r| **r == **at))
        {
            let wanted = self.regions.join("` or `");
            why.push(match &handling.region {
                Some(at) => format!("its region is `{at}`, not `{wanted}`"),
                None => format!("it states no region, and `{wanted}` is wanted"),
            });
        }
        if let Some(most) = self.retention.filter(|most| handling.retention.is_none_or(|kept| kept > *most)) {
            why.push(match handling.retention {
                Some(kept) => format!("it keeps data for {}, not {} at most", span(kept), span(most)),
                None => format!("it states no retention, and {} at most is wanted", span(most)),
            });
        }
        if self.no_training && handling.train != Some(false) {
            why.push(match handling.train {
                Some(_) => "models are trained with its data".to_owned(),
                None => "it does not state `train = false`".to_owned(),
            });
        }
        (!why.is_empty()).then(|| why.join("; "))
    }

    /// As messages say it: `region eu, retention 30d, train = false`.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        if !self.regions.is_empty() {
            words.push(format!("region {}", self.regions.join(" or ")));
        }
        words.extend(self.retention.map(|most| format!("retention of {} at most", span(most))));
        if self.no_training {
            words.push("train = false".to_owned());
        }
        words.join(", ")
    }

    /// In gateway.toml's words, for answers of the API.
    pub fn json(&self) -> Value {
        let mut out = serde_json::Map::new();
        if !self.regions.is_empty() {
            out.insert("region".to_owned(), self.regions.iter().cloned().collect());
        }
        if let Some(most) = self.retention {
            out.insert("retention".to_owned(), span(most).into());
        }
        if self.no_training {
            out.insert("train".to_owned(), false.into());
        }
        out.into()
    }

    fn demands(&self) -> bool {
        *self != DataPolicy::default()
    }
}

/// A policy as the API takes it, in gateway.toml's words. The error names the key.
pub fn data(raw: &Value) -> Result<DataPolicy, (&'static str, String)> {
    let raw: file::Data = serde_json::from_value(raw.clone()).map_err(|e| ("data", e.to_string()))?;
    policy(raw)
}

/// `data` of a scope, resolved. The error names the key.
pub fn policy(raw: file::Data) -> Result<DataPolicy, (&'static str, String)> {
    let (regions, retention, train) = match raw {
        file::Data::Region(region) => (vec![region], None, None),
        file::Data::Terms(file::DataTerms { region, retention, train }) => {
            let regions = match region {
                Some(file::OneOrMany::One(one)) => vec![one],
                Some(file::OneOrMany::Many(many)) if many.is_empty() => {
                    return Err((
                        "region",
                        "an empty list would allow no region: leave it out to allow all".to_owned(),
                    ));
                }
                Some(file::OneOrMany::Many(many)) => many,
                None => Vec::new(),
            };
            (regions, retention, train)
        }
    };
    let regions =
        regions.iter().map(|name| region(name).map_err(|why| ("region", why))).collect::<Result<Vec<_>, _>>()?;
    let retention = retention.map(|span| text::duration(&span.0)).transpose().map_err(|why| ("retention", why))?;
    let policy = DataPolicy { regions: regions.into(), retention, no_training: train == Some(false) };
    match policy.demands() {
        true => Ok(policy),
        false => Err(("data", "demands nothing: name a `region`, a `retention`, or `train = false`".to_owned())),
    }
}

/// The name of a region, as it is compared. The error is a sentence.
pub fn region(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(format!("{name:?} is no region: letters, digits, `-` and `_`, such as \"eu\" or \"eu-central-1\""));
    }
    Ok(name.to_ascii_lowercase())
}

/// In the largest unit that says all of it: `30d`, `90m`, `0s`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    match units.iter().find(|(size, _)| seconds > 0 && seconds.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", seconds / size),
        None => format!("{seconds}s"),
    }
}
