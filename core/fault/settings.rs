//! What a drill is made of: its table in `[[stages]]`, and what a caller writes into a header. Every mistake is a sentence.

use std::{fmt, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{auth::wildcard, config::duration};

#[derive(Debug, Default)]
pub struct Settings {
    /// Callers may ask for a fault.
    pub header: bool,
    /// Names with `*`; empty: all.
    targets: Vec<String>,
    faults: Vec<(f64, Fault)>,
}

/// What becomes of an attempt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fault {
    /// Before its call.
    pub delay: Option<Duration>,
    /// In place of its call.
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
    /// It breaks off after so many pieces; a whole answer before it began.
    pub cut: Option<u32>,
    /// Before each piece.
    pub drip: Option<Duration>,
    /// Only that many first attempts.
    pub attempts: Option<u32>,
}

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    header: bool,
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    faults: Vec<RawFault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    percent: f64,
    delay: Option<String>,
    status: Option<u16>,
    retry_after: Option<String>,
    cut: Option<u32>,
    drip: Option<String>,
    attempts: Option<u32>,
}

impl Settings {
    pub fn read(config: &Map<String, Value>) -> Result<Settings, String> {
        // From its text: of a number in a tree only that it is wrong would be told, and not which one.
        let raw: Raw = serde_json::from_str(&Value::Object(config.clone()).to_string()).map_err(|e| {
            let why = e.to_string();
            format!("config: {}", why.split(" at line ").next().unwrap_or_default())
        })?;
        let mut faults = Vec::new();
        for raw in raw.faults {
            let RawFault { percent, delay, status, retry_after, cut, drip, attempts } = raw;
            if !(percent > 0.0 && percent <= 100.0) {
                return Err(format!("config.faults: percent is {percent}, and has to be above 0 and at most 100"));
            }
            let span = |text: Option<String>| text.map(|text| duration(&text)).transpose();
            let read = || -> Result<Fault, String> {
                let (delay, retry_after, drip) = (span(delay)?, span(retry_after)?, span(drip)?);
                Fault { delay, status, retry_after, cut, drip, attempts }.checked()
            };
            faults.push((percent, read().map_err(|e| format!("config.faults: {e}"))?));
        }
        let all: f64 = faults.iter().map(|(percent, _)| percent).sum();
        if all > 100.0 {
            return Err(format!("config.faults: their percentages are {all} together, more than all attempts"));
        }
        if faults.is_empty() && !raw.header {
            return Err("config: name `faults`, or allow callers to ask for them with `header = true`".to_owned());
        }
        Ok(Settings { header: raw.header, targets: raw.targets, faults })
    }

    /// What falls on a lot of 0..100.
    pub fn drawn(&self, lot: f64, attempt: u32) -> Option<Fault> {
        let mut end = 0.0;
        let hit = self.faults.iter().find(|(percent, _)| {
            end += percent;
            lot < end
        });
        hit.map(|(_, fault)| fault).filter(|fault| fault.attempts.is_none_or(|most| attempt <= most)).cloned()
    }

    pub fn concerns(&self, target: &str) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|pattern| wildcard(pattern, target))
    }

    /// Somebody's answers may be cut or drip.
    pub fn touches_answers(&self) -> bool {
        self.header || self.faults.iter().any(|(_, fault)| fault.cut.is_some() || fault.drip.is_some())
    }
}

impl Fault {
    /// `status=503, retry_after=2s, attempts=1`.
    pub fn read(text: &str) -> Result<Fault, String> {
        let mut fault = Fault::default();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').map(|(n, v)| (n.trim(), v.trim())).unwrap_or((pair, ""));
            let number = || value.parse::<u32>().map_err(|_| format!("x-portcullis-fault: {name} wants a number"));
            let span = || duration(value).map_err(|e| format!("x-portcullis-fault: {name}: {e}"));
            match name {
                "delay" => fault.delay = Some(span()?),
                "retry_after" => fault.retry_after = Some(span()?),
                "drip" => fault.drip = Some(span()?),
                "cut" => fault.cut = Some(number()?),
                "attempts" => fault.attempts = Some(number()?),
                "status" => fault.status = Some(u16::try_from(number()?).unwrap_or(0)),
                _ => {
                    return Err(
                        "x-portcullis-fault: there are delay, status, retry_after, cut, drip, attempts".to_owned()
                    );
                }
            }
        }
        fault.checked().map_err(|e| format!("x-portcullis-fault: {e}"))
    }

    fn checked(self) -> Result<Fault, String> {
        let Fault { delay, status, retry_after, cut, drip, attempts: _ } = &self;
        if status.is_some_and(|status| !(400..=599).contains(&status)) {
            return Err("status has to be one of an error, 400 to 599".to_owned());
        }
        if [delay, retry_after, drip].into_iter().flatten().any(|span| *span > LONGEST) {
            return Err("ten minutes are the longest".to_owned());
        }
        if delay.is_none() && status.is_none() && cut.is_none() && drip.is_none() {
            return Err("name one of delay, status, cut, drip".to_owned());
        }
        Ok(self)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.delay.map(|delay| format!("delay {} ms", delay.as_millis())));
        parts.extend(self.status.map(|status| format!("status {status}")));
        parts.extend(self.cut.map(|cut| format!("cut after {cut} pieces")));
        parts.extend(self.drip.map(|drip| format!("drip {} ms", drip.as_millis())));
        f.write_str(&parts.join(", "))
    }
}

const LONGEST: Duration = Duration::from_secs(600);
