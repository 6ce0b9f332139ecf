//! A version's row, as the store keeps it and as the API shows it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub number: u64,
    /// `config::Content::hash`.
    pub hash: String,
    /// The shelf's name for the list of its files; `None`: they could not be kept.
    pub manifest: Option<String>,
    /// Those of its files that the shelf keeps one by one.
    #[serde(default)]
    pub blobs: Vec<String>,
    pub state: State,
    pub cause: Cause,
    pub author: Option<String>,
    pub note: Option<String>,
    /// The version whose files it has once more.
    pub of: Option<u64>,
    /// The one that ran before it.
    pub was: Option<u64>,
    pub created: String,
    /// When it answered all requests, from and to.
    pub live: Option<String>,
    pub ended: Option<String>,
    /// Why it went back, or how it ended otherwise.
    pub reason: Option<String>,
    pub files: u64,
    pub bytes: u64,
    /// Version of the program that read it.
    pub gateway: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It decides about copies of requests.
    Shadow,
    /// It serves a share.
    Canary,
    /// It serves all.
    Live,
    /// It did.
    Former,
    /// It fared worse than the one before it.
    Reverted,
    /// Somebody stopped its rollout.
    Aborted,
    /// A newer one took its place before it was live.
    Superseded,
}

/// What made it a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The gateway started with these files.
    Start,
    /// The files changed.
    #[default]
    Files,
    /// Somebody called the API after a change.
    Reload,
    Rollback,
}

/// Who, and why, as far as it is said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct By {
    pub author: Option<String>,
    pub note: Option<String>,
    pub cause: Cause,
}

/// A version runs although the files are another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pin {
    pub version: u64,
    /// The files' own version when it was pinned: when they become another, the pin is over.
    pub files: String,
    pub since: String,
    pub author: Option<String>,
    pub note: Option<String>,
}

impl Row {
    pub fn new(number: u64, by: By, state: State, was: Option<u64>) -> Row {
        let created = now(SystemTime::now());
        Row {
            number,
            hash: String::new(),
            manifest: None,
            blobs: Vec::new(),
            state,
            cause: by.cause,
            author: by.author,
            note: by.note,
            of: None,
            was,
            live: (state == State::Live).then(|| created.clone()),
            created,
            ended: None,
            reason: None,
            files: 0,
            bytes: 0,
            gateway: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// As the API shows it; `kept`: it can be returned to.
    pub fn json(&self, kept: bool) -> Value {
        json!({
            "id": id(self.number),
            "hash": self.hash,
            "state": self.state,
            "cause": self.cause,
            "author": self.author,
            "note": self.note,
            "created": self.created,
            "live": self.live,
            "ended": self.ended,
            "reason": self.reason,
            "was": self.was.map(id),
            "rollback_of": self.of.map(id),
            "files": self.files,
            "bytes": self.bytes,
            "kept": kept,
            "gateway": self.gateway,
        })
    }
}

impl Pin {
    pub fn json(&self) -> Value {
        json!({
            "version": id(self.version), "since": self.since, "author": self.author, "note": self.note,
            "files": self.files,
        })
    }
}

/// `v12`.
pub fn id(number: u64) -> String {
    format!("v{number}")
}

pub fn now(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| format!("{at:.3}")).unwrap_or_default()
}
