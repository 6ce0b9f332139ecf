//! Which version runs, and what is to be said when the files are another: pinned, being tried, or taken back. For status
//! pages; nothing is decided here.

use serde_json::{Value, json};

use super::{Phase, Rollout, judge::Verdict};
use crate::versions::{Pin, id};

#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The number of the version that runs; 0 before there is one.
    pub version: u64,
    pub hash: String,
    /// Of the files, as they were last read and found sound.
    pub files: String,
    pub pin: Option<Pin>,
    /// The files' version was tried, and is not tried again until they change.
    pub held: Option<Held>,
}

#[derive(Debug, Clone)]
pub struct Held {
    pub number: u64,
    pub hash: String,
    pub reason: String,
    pub at: String,
}

impl Standing {
    /// `{version, files, pinned, reverted}`, for `config/status`. `refused`: the hash of files that are not taken.
    pub fn json(&self, rollout: Option<&Rollout>, refused: Option<&str>) -> Value {
        let (hash, running) = match refused {
            Some(hash) => (hash, false),
            None => (&*self.files, self.files == self.hash),
        };
        json!({
            "version": self.named(),
            "files": { "hash": hash, "running": running, "why": self.why(rollout, refused) },
            "pinned": self.pin.as_ref().map(Pin::json),
            "reverted": self.held.as_ref().map(Held::json),
            "rollout": rollout.map(Rollout::json),
        })
    }

    pub fn named(&self) -> Option<Value> {
        (self.version > 0).then(|| json!({ "id": id(self.version), "hash": self.hash }))
    }

    /// Why the files do not run, in a sentence.
    pub fn why(&self, rollout: Option<&Rollout>, refused: Option<&str>) -> Option<String> {
        let running = id(self.version);
        if refused.is_some() {
            return Some(format!("the files are refused: `refused` says why; {running} runs"));
        }
        if let Some(rollout) = rollout {
            let how = match rollout.phase() {
                Phase::Shadow => "decides in the shadow",
                Phase::Canary | Phase::Over => "serves a share of requests",
            };
            return Some(format!("the files are {}, which {how}; {running} runs", id(rollout.number)));
        }
        if let Some(held) = &self.held {
            return Some(format!(
                "the files are {}, which was taken back: {}. {running} runs until they change",
                id(held.number),
                held.reason
            ));
        }
        self.pin.as_ref().map(|pin| {
            format!(
                "{} is pinned since {}: the files are another version, which runs when they change or the pin is released \
                 (POST /api/v1/config/unpin)",
                id(pin.version),
                pin.since
            )
        })
    }
}

impl Held {
    pub fn json(&self) -> Value {
        json!({ "version": id(self.number), "hash": self.hash, "reason": self.reason, "at": self.at })
    }
}

impl Rollout {
    /// All there is to know of it.
    pub fn json(&self) -> Value {
        let phase = self.phase();
        let waits = match self.verdict() {
            Verdict::Wait(what) => Some(what),
            Verdict::Next | Verdict::Revert(_) => None,
        };
        let seconds = |began: &std::time::Instant| began.elapsed().as_secs();
        json!({
            "version": id(self.number),
            "hash": self.hash,
            "phase": phase.name(),
            "seconds": seconds(self.canary_began.get().unwrap_or(&self.began)),
            "share": self.rules.canary.filter(|_| phase == Phase::Canary),
            "waits_for": waits,
            "shadow": self.rules.shadow.is_some().then(|| self.shadow.json()),
            "canary": self.canary_began.get().is_some().then(|| json!({ "old": self.old.json(), "new": self.new.json() })),
        })
    }

    pub fn brief(&self) -> Value {
        json!({ "version": id(self.number), "phase": self.phase().name() })
    }
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Shadow => "shadow",
            Phase::Canary => "canary",
            Phase::Over => "over",
        }
    }
}
